"""An index in a Milvus server, for corpora beyond one machine, behind the same interface.

The server partitions, replicates and stores; its SCANN index type is of the same kind as ScaNN. A
folder saved here holds no vectors, only where they are. A `uri` that is a path opens the embedded
milvus-lite, which searches exactly and is meant for tests and small sets.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .index import Index, check_count, check_ids, check_vectors, some
from .store import RetrievalError

ID, VECTOR = "id", "vector"
TOKEN = "MILVUS_TOKEN"  # environment variable: `user:password` or a key, where none is given
_MESSAGE = 1 << 22  # bytes of vectors in one message; servers take 64 MB
_IDS = 1000  # in one message


class MilvusIndex(Index):
    """A collection of a Milvus server; `MilvusIndex.build` makes one.

    Args:
        uri: of the server, such as `http://localhost:19530`, or path of a milvus-lite file.
        collection: name of an existing collection.
        connection: further arguments of `pymilvus.MilvusClient`, such as `token`. They are not
            saved.

    Raises:
        RetrievalError: pymilvus is not installed, or no such collection, or not one of ours.
    """

    def __init__(self, uri: str | os.PathLike[str], collection: str, **connection: Any):
        self.uri = os.fspath(uri)
        self.collection = collection
        self._lock = threading.Lock()  # of changes, each of which looks first
        self._client = _client(self.uri, connection)
        try:
            with _named_errors(collection):
                if not self._client.has_collection(collection):
                    raise RetrievalError(f"{self.uri} has no collection {collection!r}")
                about = self._client.describe_collection(collection)
            fields = {field["name"]: field for field in about["fields"]}
            if not {ID, VECTOR} <= set(fields) or "dim" not in fields[VECTOR]["params"]:
                raise RetrievalError(
                    f"{self.uri}: collection {collection!r} has fields {sorted(fields)}, "
                    f"expected {ID!r} and {VECTOR!r}"
                )
            self.dimension = int(fields[VECTOR]["params"]["dim"])
            self.fingerprint = _fingerprint(about.get("description", ""))
            with _named_errors(collection):
                self._client.load_collection(collection)
        except BaseException:
            self.close()
            raise

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Any = None,
        *,
        uri: str | os.PathLike[str],
        collection: str | None = None,
        index_type: str = "SCANN",
        params: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        **connection: Any,
    ) -> MilvusIndex:
        """Makes a collection and fills it.

        Args:
            vectors: `(rows, dimension)`, may be memory-mapped.
            ids: `(rows,)`; by default 0, 1, 2 ...
            uri: of the server, or path of a milvus-lite file.
            collection: a new name; by default one that does not exist yet.
            index_type: of Milvus, such as `SCANN`, `HNSW` or `FLAT`.
            params: of the index type, such as `{"nlist": 4096, "with_raw_data": True}`.
            fingerprint: names the model that made the vectors.
            connection: further arguments of `pymilvus.MilvusClient`.

        Raises:
            RetrievalError: the collection exists, or an argument that does not fit.
        """
        if not isinstance(vectors, np.ndarray):
            vectors = check_vectors("vectors", vectors, None)
        if vectors.ndim != 2 or vectors.shape[1] < 1:
            raise RetrievalError(f"vectors: expected shape (any, dimension), got {vectors.shape}")
        ids = np.arange(len(vectors)) if ids is None else check_ids(ids, len(vectors))
        collection = f"zoo_{secrets.token_hex(6)}" if collection is None else collection
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", collection):
            raise RetrievalError(
                f"collection: received {collection!r}, expected letters, digits and underscores"
            )
        client = _client(os.fspath(uri), connection)
        made = False
        try:
            with _named_errors(collection):
                from pymilvus import DataType

                if client.has_collection(collection):
                    raise RetrievalError(
                        f"{os.fspath(uri)} has a collection {collection!r} already"
                    )
                schema = client.create_schema(
                    auto_id=False,
                    enable_dynamic_field=False,
                    description=json.dumps({"fingerprint": fingerprint}),
                )
                schema.add_field(ID, DataType.INT64, is_primary=True)
                schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=vectors.shape[1])
                index = client.prepare_index_params()
                default = {"nlist": 1024, "with_raw_data": True} if index_type == "SCANN" else {}
                index.add_index(
                    VECTOR,
                    index_type=index_type,
                    metric_type="IP",
                    params=dict(default if params is None else params),
                )
                made = True
                client.create_collection(
                    collection, schema=schema, index_params=index, consistency_level="Strong"
                )
                _insert(client, collection, vectors, ids)
        except BaseException:
            if made:
                client.drop_collection(collection)
            raise
        finally:
            client.close()
        opened = cls(uri, collection, **connection)
        opened.fingerprint = fingerprint
        return opened

    def __len__(self) -> int:
        with _named_errors(self.collection):
            rows = self._client.query(self.collection, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def search(self, queries: Any, k: int = 10, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        queries = check_vectors("queries", queries, self.dimension)
        k = check_count("k", k)
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        size = max(_MESSAGE // (4 * self.dimension), 1)
        for start in range(0, len(queries), size):
            with _named_errors(self.collection):
                found = self._client.search(
                    self.collection,
                    data=list(queries[start : start + size]),
                    anns_field=VECTOR,
                    limit=k,
                    search_params={"metric_type": "IP", "params": options},
                    output_fields=[ID],
                )
            for row, hits in enumerate(found, start):
                ids[row, : len(hits)] = [hit[ID] for hit in hits]
                scores[row, : len(hits)] = [hit["distance"] for hit in hits]
        return ids, scores

    def add(self, vectors: Any, ids: Any = None) -> np.ndarray:
        vectors = check_vectors("vectors", vectors, self.dimension)
        if ids is None:
            raise RetrievalError("ids: expected, since Milvus does not tell the largest id")
        ids = check_ids(ids, len(vectors))
        with self._lock:
            there = self._there(ids)
            if there.any():
                raise RetrievalError(f"ids: {some(ids[there])} in the index already; update it")
            with _named_errors(self.collection):
                _insert(self._client, self.collection, vectors, ids)
        return ids

    def update(self, vectors: Any, ids: Any) -> None:
        vectors = check_vectors("vectors", vectors, self.dimension)
        ids = check_ids(ids, len(vectors))
        with self._lock:
            self._assert_there(ids)
            with _named_errors(self.collection):
                for rows in _messages(vectors, ids):
                    self._client.upsert(self.collection, rows)

    def remove(self, ids: Any) -> None:
        ids = check_ids(ids)
        with self._lock:
            self._assert_there(ids)
            with _named_errors(self.collection):
                for start in range(0, len(ids), _IDS):
                    self._client.delete(self.collection, ids=ids[start : start + _IDS].tolist())

    def vectors(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids)
        flat = ids.reshape(-1).astype(np.int64)
        found: dict[int, Any] = {}
        for start in range(0, len(flat), _IDS):
            with _named_errors(self.collection):
                for row in self._client.get(
                    self.collection, ids=flat[start : start + _IDS].tolist(), output_fields=[VECTOR]
                ):
                    found[row[ID]] = row[VECTOR]
        missing = [id for id in flat.tolist() if id not in found]
        if missing:
            raise RetrievalError(f"ids: {some(missing)} not in the index")
        rows = np.array([found[id] for id in flat.tolist()], np.float32)
        return rows.reshape(*ids.shape, self.dimension)

    def ids(self) -> np.ndarray:
        """All ids, in no particular order, `(rows,)`, int64."""
        with _named_errors(self.collection):
            pages = self._client.query_iterator(
                self.collection, batch_size=_IDS, output_fields=[ID]
            )
            found: list[int] = []
            while page := pages.next():
                found += [row[ID] for row in page]
            pages.close()
        return np.array(found, np.int64)

    def __contains__(self, id: object) -> bool:
        try:
            return bool(self._there(np.array([check_count("id", id, 0)]))[0])
        except RetrievalError:
            return False

    def _there(self, ids: np.ndarray) -> np.ndarray:
        found: set[int] = set()
        for start in range(0, len(ids), _IDS):
            with _named_errors(self.collection):
                rows = self._client.get(
                    self.collection, ids=ids[start : start + _IDS].tolist(), output_fields=[ID]
                )
            found |= {row[ID] for row in rows}
        return np.array([id in found for id in ids.tolist()], bool)

    def _assert_there(self, ids: np.ndarray) -> None:
        missing = ~self._there(ids)
        if missing.any():
            raise RetrievalError(f"ids: {some(ids[missing])} not in the index")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Saves where the collection is; a milvus-lite file inside the folder moves with it."""
        uri = self.uri
        if _is_path(uri):
            inside = Path(uri).absolute(), Path(folder).absolute()
            uri = (
                os.path.relpath(*inside) if inside[0].is_relative_to(inside[1]) else str(inside[0])
            )
        with store.saving(folder) as writer:
            writer.finish(
                {
                    "kind": "milvus",
                    "dimension": self.dimension,
                    "rows": len(self),
                    "fingerprint": self.fingerprint,
                    "uri": uri,
                    "collection": self.collection,
                }
            )

    @classmethod
    def open(cls, folder: str | os.PathLike[str], **connection: Any) -> MilvusIndex:
        """Connects to the collection that a saved folder tells of.

        Args:
            folder: what `save` wrote.
            connection: further arguments of `pymilvus.MilvusClient`.

        Raises:
            RetrievalError: no such folder or collection, or of another dimension.
        """
        manifest = store.manifest_of(folder)
        try:
            uri, collection = manifest["uri"], manifest["collection"]
            dimension, fingerprint = manifest["dimension"], manifest["fingerprint"]
        except KeyError as error:
            raise RetrievalError(f"{folder} has no valid manifest: {error!r}") from error
        index = cls(str(Path(folder, uri)) if _is_path(uri) else uri, collection, **connection)
        if index.dimension != dimension:
            index.close()
            raise RetrievalError(
                f"collection {collection!r} has dimension {index.dimension}, "
                f"{folder} says {dimension}"
            )
        index.fingerprint = fingerprint
        return index

    def stats(self) -> dict[str, Any]:
        with _named_errors(self.collection):
            about = self._client.describe_index(self.collection, index_name=VECTOR) or {}
        return {
            "kind": "milvus",
            "rows": len(self),
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
            "uri": self.uri,
            "collection": self.collection,
            "settings": {name: about[name] for name in ("index_type", "metric_type", "params")
                         if name in about},
        }  # fmt: skip

    def drop(self) -> None:
        """Deletes the collection with all that is in it."""
        with _named_errors(self.collection):
            self._client.drop_collection(self.collection)

    def close(self) -> None:
        self._client.close()


def _client(uri: str, connection: Mapping[str, Any]) -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise RetrievalError(
            f"pymilvus cannot be imported ({error}): pip install twin-zoo[milvus]"
        ) from error
    if TOKEN in os.environ and not _is_path(uri):
        connection = {"token": os.environ[TOKEN]} | dict(connection)
    with _named_errors(uri):
        return MilvusClient(uri, **connection)


def _insert(client: Any, collection: str, vectors: np.ndarray, ids: np.ndarray) -> None:
    for rows in _messages(vectors, ids):
        client.insert(collection, rows)


def _messages(vectors: np.ndarray, ids: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    size = max(_MESSAGE // (4 * vectors.shape[1]), 1)
    for start in range(0, len(ids), size):
        block = check_vectors("vectors", vectors[start : start + size], None)
        named = zip(ids[start : start + size].tolist(), block, strict=True)
        yield [{ID: id, VECTOR: vector} for id, vector in named]


def _is_path(uri: str) -> bool:
    return "://" not in uri


def _fingerprint(description: str) -> str | None:
    try:
        found = json.loads(description)["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Errors of the server or the connection as ours, with the name of what it is about."""
    try:
        from pymilvus.exceptions import MilvusException
    except ImportError:  # of which `_client` tells
        yield
        return
    try:
        yield
    except MilvusException as error:
        raise RetrievalError(f"Milvus, {name}: {error.message or error}") from error

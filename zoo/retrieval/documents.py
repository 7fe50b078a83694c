"""A folder of searchable documents: passages, their vectors in an index, and the encoder's name.

    documents.json   what the folder was made from and with; says when it is complete
    passages/        the texts (`PassageStore`)
    embedding/       vectors while they are computed (`Shards`); gone when the index is saved
    index/           the vectors (`open_index`)

Passages are the source; the index is brought in line with them by `sync`, which does only what is
missing. So whatever a kill leaves behind, the next command or the same `build` goes on from there.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import files
from .embedding import Embedder, Shards, fingerprint
from .exact import exact_top, merge
from .index import build_index, open_index
from .milvus import MilvusIndex
from .passages import Document, Passage, PassageError, PassageStore
from .readers import Corpus
from .splitting import Splitter
from .store import manifest_of

FORMAT, VERSION = "zoo documents", 1
SETTINGS = "documents.json"
LOCK = "documents.lock"
PASSAGES, EMBEDDING, INDEX = "passages", "embedding", "index"
READ_AT_ONCE = 1 << 18  # documents between two states that a kill leaves whole
_EMBEDDED_AT_ONCE = 1024
_POLL = 0.5  # seconds between two looks for what another process has to do first

# Stage, steps done and steps in all (0 where that is not known).
Progress = Callable[[str, int, int], None]
MakeEmbedder = Callable[..., Embedder]


class Hit(NamedTuple):
    """A passage that was found, and its inner product with the query."""

    score: float
    passage: Passage


def _silent(stage: str, done: int, total: int) -> None:
    pass


class DocumentIndex:
    """A complete folder of searchable documents.

    Args:
        folder: that `build` made.
        make: opens an encoder when it is first needed: folder of a checkpoint and options ->
            embedder; usually `TextEmbedder.from_pretrained` of either framework.
        verify: compare the checksums of the index's files.

    Raises:
        PassageError: no such folder, an unfinished one, or another model than it was made with.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        make: MakeEmbedder | None = None,
        verify: bool = False,
    ):
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        if self.settings["generation"] is None:
            raise PassageError(
                f"{self.folder} is not finished; run the same `zoo index build` again"
            )
        self._make = make
        self._embedders: dict[str, Embedder] = {}
        self.passages = PassageStore(self.folder / PASSAGES)
        _adopt(self.folder, self.settings)
        self.index = open_index(
            self.folder / INDEX, fingerprint=self.settings["model"]["fingerprint"], verify=verify
        )

    def __len__(self) -> int:
        return len(self.passages)

    @property
    def is_current(self) -> bool:
        """Whether the index knows of all changes of the passages."""
        return self.settings["generation"] == self.passages.generation

    def embedder(self, role: str = "passages") -> Embedder:
        """The encoder of `passages` or `queries`.

        Raises:
            PassageError: there is none, or its weights are not those the vectors were made with.
        """
        model = self.settings["model"]
        key = "folder" if role == "passages" or not model["query_folder"] else "query_folder"
        if key not in self._embedders:
            self._embedders[key] = _open_embedder(self.folder, model, key, self._make)
        return self._embedders[key]

    def search(self, texts: Sequence[str], k: int = 10, **options: Any) -> list[list[Hit]]:
        """The passages that answer queries best.

        Args:
            texts: queries.
            k: how many passages for each; fewer where there are fewer.
            options: of the index's search.
        """
        return self.search_vectors(self.embedder("queries").embed(texts), k, **options)

    def search_vectors(self, queries: Any, k: int = 10, **options: Any) -> list[list[Hit]]:
        """As `search`, with the vectors of the queries, `(batch, dimension)`."""
        ids, scores = self.index.search(queries, k, **options)
        return [
            [
                Hit(float(score), self.passages[int(id)])
                for id, score in zip(row, row_scores, strict=True)
                if id >= 0 and int(id) in self.passages  # another process may have removed it
            ]
            for row, row_scores in zip(ids, scores, strict=True)
        ]

    def add(self, corpus: Iterable[Document], *, split: bool | None = None) -> range:
        """Adds documents.

        Args:
            corpus: a `Corpus`, or documents.
            split: whether to cut them into blocks; by default as the folder's own were, unless
                the corpus comes in blocks.

        Returns:
            The numbers of the new passages.

        Raises:
            PassageError: a document of the same id is there.
        """
        self.embedder()  # whatever is wrong with it shows before anything changes
        with self._changing():
            ids = self.passages.add(self._blocks(corpus, split))
            self._follow(np.arange(ids.start, ids.stop), np.empty(0, np.int64))
        return ids

    def update(self, corpus: Iterable[Document], *, split: bool | None = None) -> range:
        """Adds documents in the place of those of the same id; see `add`."""
        self.embedder()
        with self._changing():
            ids, gone = self.passages.update(self._blocks(corpus, split))
            self._follow(np.arange(ids.start, ids.stop), gone)
        return ids

    def remove(self, documents: Iterable[str]) -> np.ndarray:
        """Removes documents by their ids.

        Returns:
            The numbers of the passages that went.

        Raises:
            PassageError: one is not there; nothing is removed then.
        """
        with self._changing():
            gone = self.passages.remove(documents)
            self._follow(np.empty(0, np.int64), gone)
        return gone

    def _blocks(self, corpus: Iterable[Document], split: bool | None) -> Iterable[Document]:
        length = self.settings["splitting"]["length"]
        if split is None:
            split = length is not None and not getattr(corpus, "is_split", False)
        if not split:
            return corpus
        return Splitter(self.embedder().tokenizer, length or self.embedder().max_length)(corpus)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One change after the other; the index follows before the next one begins."""
        with _locked(self.folder):
            self.settings = read_settings(self.folder)
            _adopt(self.folder, self.settings)
            self.passages.refresh()
            self.index = open_index(self.folder / INDEX, verify=False)
            if not self.is_current:
                self.sync()
            yield

    def sync(self, progress: Progress = _silent) -> tuple[int, int]:
        """Brings the index in line with the passages.

        Returns:
            How many passages were added to the index, and how many removed from it.
        """
        there, wanted = np.sort(self.index.ids()), self.passages.ids()
        gone = np.setdiff1d(there, wanted, assume_unique=True)
        missing = np.setdiff1d(wanted, there, assume_unique=True)
        self._follow(missing, gone, progress)
        return len(missing), len(gone)

    def _follow(self, new: np.ndarray, gone: np.ndarray, progress: Progress = _silent) -> None:
        """Makes a change of the passages in the index too."""
        for start in range(0, len(new), _EMBEDDED_AT_ONCE):
            progress("embedding", start, len(new))
            ids = new[start : start + _EMBEDDED_AT_ONCE]
            vectors = self.embedder().embed_passages(self.passages.read(ids.tolist()))
            self.index.add(vectors, ids)
        if len(gone):
            self.index.remove(gone)
        if len(gone) or len(new):
            self.index.save(self.folder / INDEX)
        self.settings["generation"] = self.passages.generation
        _write_settings(self.folder, self.settings)

    def stats(self) -> dict[str, Any]:
        """What the folder holds, as JSON can hold it."""
        return {
            "folder": str(self.folder),
            "current": self.is_current,
            "corpus": self.settings["corpus"],
            "splitting": self.settings["splitting"],
            "model": self.settings["model"],
            "passages": self.passages.stats(),
            "index": self.index.stats(),
        }

    def true_neighbours(self, queries: np.ndarray, k: int) -> np.ndarray:
        """The ids with the largest inner products of all, `(batch, k)`, by looking at each."""
        ids = self.index.ids()
        best_ids = np.empty((len(queries), 0), np.int64)
        best = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(ids), 1 << 16):
            block = ids[start : start + (1 << 16)]
            rows, scores = exact_top(queries, self.index.vectors(block), k)
            best_ids, best = merge((best_ids, block[rows]), (best, scores), k)
        return best_ids


# Building -----------------------------------------------------------------------------------------


# Starts further processes that embed, and ends them when all shards are done.
HelpOut = Callable[[], contextlib.AbstractContextManager[None]]


def new_settings(
    corpus: Corpus,
    model: str | os.PathLike[str] | None,
    *,
    query_model: str | os.PathLike[str] | None = None,
    length: int | None = None,
    own_vectors: bool = False,
    index: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What documents.json says of a build that has not begun.

    Args:
        corpus: what to index.
        model: checkpoint of the passages' encoder; None with `own_vectors`.
        query_model: checkpoint of the queries' encoder, where that is another one.
        length: word pieces of a block; None leaves documents whole.
        own_vectors: take the vectors that the corpus brings along.
        index: arguments of `build_index`, or of `MilvusIndex.build` with `kind="milvus"`.
        options: of the embedder: `encoder`, `field`, `max_length`, `normalize`.

    Raises:
        ValueError: a combination that makes no sense.
    """
    if model is None and not own_vectors:
        raise ValueError("model: expected a checkpoint, or a corpus with vectors of its own")
    if own_vectors and length is not None:
        raise ValueError("a corpus with vectors of its own cannot be split anew")
    return {
        "format": FORMAT,
        "version": VERSION,
        "corpus": {
            "path": str(corpus.path.resolve()),
            "format": corpus.format,
            "fingerprint": corpus.fingerprint(),
            "own_vectors": own_vectors,
        },
        "splitting": {"length": length},
        "model": {
            "folder": None if model is None else _named(model),
            "query_folder": None if query_model is None else _named(query_model),
            "fingerprint": None if model is None or own_vectors else fingerprint(model),
            "query_fingerprint": None if query_model is None else fingerprint(query_model),
            "options": {name: value for name, value in options.items() if value is not None},
        },
        "index": dict(index or {}),
        "generation": None,
    }


def build(
    corpus: Corpus,
    out: str | os.PathLike[str],
    settings: dict[str, Any],
    *,
    make: MakeEmbedder | None,
    rank: int = 0,
    world: int = 1,
    help_out: HelpOut = contextlib.nullcontext,
    queries: Sequence[str] | None = None,
    shard: int = 4096,
    progress: Progress = _silent,
    stop: Callable[[], bool] = lambda: False,
    **runtime: Any,
) -> dict[str, Any]:
    """Makes a folder of searchable documents, or goes on where it was left.

    Every process of a group calls this with its own `rank`. The first reads the corpus and builds
    the index; all of them embed.

    Args:
        corpus: what to index.
        out: the folder; created where needed.
        settings: from `new_settings`.
        make: opens an encoder, see `DocumentIndex`.
        rank, world: number of this process, and how many there are.
        help_out: starts further processes that embed, once there is something to do.
        queries: real ones, by which the index is tuned; without them, by passages.
        shard: passages of a shard, the unit that is not done twice.
        progress: told of every step.
        stop: asked after each shard; true ends the work of this process.
        runtime: of the embedder in this process: `batch_tokens`, `device`, `threads`.

    Returns:
        What this process did: `read`, `passages`, `shards`, `shards_done_before`, `seconds`.

    Raises:
        PassageError: the folder belongs to another build, or the corpus cannot be read.
    """
    out = Path(out)
    began = time.monotonic()
    summary: dict[str, Any] = {"read": 0, "shards": 0, "shards_done_before": 0, "passages": 0}
    if rank == 0:
        with _locked(out, wait=False):
            _begin(out, settings)
            if read_settings(out)["generation"] is not None:
                documents = DocumentIndex(out, make=make)
                if not documents.is_current:
                    documents.sync(progress)
                return summary | {
                    "passages": len(documents), "complete_before": True,
                    "seconds": time.monotonic() - began,
                }  # fmt: skip
            _lead(corpus, out, settings, make, summary, help_out, queries, shard, progress, runtime)
    else:
        done = help_build(out, settings, make=make, rank=rank, world=world, progress=progress,
                          stop=stop, **runtime)  # fmt: skip
        summary["shards"] = done
    return summary | {"complete_before": False, "seconds": time.monotonic() - began}


def _lead(
    corpus: Corpus,
    out: Path,
    settings: dict[str, Any],
    make: MakeEmbedder | None,
    summary: dict[str, Any],
    help_out: HelpOut,
    queries: Sequence[str] | None,
    shard: int,
    progress: Progress,
    runtime: Mapping[str, Any],
) -> None:
    store = _read(corpus, out, settings, make, summary, progress)
    summary["passages"] = len(store)
    embedder: Embedder | None = None
    if settings["corpus"]["own_vectors"]:
        shards = _own_vectors(corpus, out, store, shard, progress)
    else:
        opened = embedder = _open_embedder(out, settings["model"], "folder", make, **runtime)
        shards = _shards(out, store, opened, settings, shard)
        summary["shards_done_before"] = int(shards.finished().sum())
        with help_out():
            summary["shards"] = _embed(shards, store, opened, progress)
    store.release()
    index = _index(out, settings, shards, embedder, make, queries, progress, runtime)
    index.save(out / INDEX)
    settings["generation"] = store.generation
    _write_settings(out, settings)
    shutil.rmtree(out / EMBEDDING, ignore_errors=True)


def refresh(
    folder: str | os.PathLike[str],
    *,
    make: MakeEmbedder | None,
    model: str | os.PathLike[str] | None = None,
    query_model: str | os.PathLike[str] | None = None,
    help_out: Callable[[dict[str, Any]], contextlib.AbstractContextManager[None]] | None = None,
    queries: Sequence[str] | None = None,
    shard: int = 4096,
    progress: Progress = _silent,
    **runtime: Any,
) -> dict[str, Any]:
    """Builds the index anew, with the vectors of another model if one is named.

    The folder is searched as before meanwhile; the new index takes the old one's place in one
    step. After a kill, the same call goes on where it was.

    Args:
        folder: that `build` made.
        make: opens an encoder, see `DocumentIndex`.
        model: checkpoint of the passages' encoder; None keeps the vectors and merges what was
            added and removed since the index was built.
        query_model: checkpoint of the queries' encoder, where that is another one.
        help_out: given the new settings, starts further processes that embed.
        queries, shard, progress, runtime: as in `build`.

    Returns:
        `passages`, `shards` and `shards_done_before`; with Milvus also `former_collection`, which
        stays until somebody drops it.

    Raises:
        PassageError: the folder is not complete, another process changes it, or there is nothing
            to do as Milvus merges changes itself.
        ValueError: a `query_model` without a `model`.
    """
    folder = Path(folder)
    if query_model is not None and model is None:
        raise ValueError("query_model: given without model")
    with _locked(folder, wait=False):
        documents = DocumentIndex(folder, make=make)
        if not documents.is_current:
            documents.sync(progress)
        store, settings = documents.passages, documents.settings
        summary: dict[str, Any] = {"passages": len(store), "shards": 0, "shards_done_before": 0}
        if model is None:
            if isinstance(documents.index, MilvusIndex):
                raise PassageError(f"{folder}: Milvus merges changes itself; name another model")
            asked = None if queries is None else documents.embedder("queries").embed(queries)
            documents.index.refresh(
                queries=asked, folder=folder / INDEX, progress=progress
            ).result()
            return summary
        settings = copy.deepcopy(settings)
        settings["model"] |= {
            "folder": _named(model),
            "fingerprint": fingerprint(model),
            "query_folder": None if query_model is None else _named(query_model),
            "query_fingerprint": None if query_model is None else fingerprint(query_model),
        }
        settings["corpus"]["own_vectors"] = False
        made = _open_embedder(folder, settings["model"], "folder", make, **runtime)
        shards = _shards(folder, store, made, settings, shard)
        summary["shards_done_before"] = int(shards.finished().sum())
        with contextlib.nullcontext() if help_out is None else help_out(settings):
            summary["shards"] = _embed(shards, store, made, progress)
        index = _index(folder, settings, shards, made, make, queries, progress, runtime)
        # Whoever finds the new index with the old settings knows that it belongs to these.
        _write_settings(folder, documents.settings | {"next": settings})
        index.save(folder / INDEX)
        _write_settings(folder, settings)
        shutil.rmtree(folder / EMBEDDING, ignore_errors=True)
        if isinstance(documents.index, MilvusIndex):  # other processes may be searching it
            summary["former_collection"] = documents.index.collection
    return summary


def _adopt(folder: Path, settings: dict[str, Any]) -> None:
    """Ends a refresh that was cut off when its index had just been saved."""
    following = settings.pop("next", None)
    if following is not None:
        found = manifest_of(folder / INDEX).get("fingerprint")
        if found == following["model"]["fingerprint"]:
            settings.clear()
            settings.update(following)


def _embed(shards: Shards, store: PassageStore, embedder: Embedder, progress: Progress) -> int:
    """Does what is not done yet; returns how many shards that were."""
    return shards.work(
        lambda ids: embedder.embed_passages(store.read(ids.tolist())),
        progress=lambda done: progress("embedding", done, shards.count),
    )


def _index(
    out: Path,
    settings: Mapping[str, Any],
    shards: Shards,
    embedder: Embedder | None,
    make: MakeEmbedder | None,
    queries: Sequence[str] | None,
    progress: Progress,
    runtime: Mapping[str, Any],
) -> Any:
    """The index over finished vectors."""
    asked = None
    if queries is not None:
        if embedder is None or settings["model"]["query_folder"]:
            key = "query_folder" if settings["model"]["query_folder"] else "folder"
            embedder = _open_embedder(out, settings["model"], key, make, **runtime)
        asked = embedder.embed(queries)
    made_of: dict[str, Any] = {"fingerprint": settings["model"]["fingerprint"]} | settings["index"]
    vectors, ids = shards.vectors(), np.asarray(shards.ids)
    if made_of["kind"] == "milvus":
        del made_of["kind"]
        return MilvusIndex.build(vectors, ids, **made_of)
    return build_index(vectors, ids, queries=asked, progress=progress, **made_of)


def help_build(
    out: str | os.PathLike[str],
    settings: Mapping[str, Any],
    *,
    make: MakeEmbedder | None,
    rank: int,
    world: int,
    refreshing: bool = False,
    progress: Progress = _silent,
    stop: Callable[[], bool] = lambda: False,
    **runtime: Any,
) -> int:
    """Waits for the first process's plan, then embeds with the others; see `build`.

    Args:
        refreshing: the plan is that of a `refresh` of a complete folder.

    Returns:
        How many shards this process did.
    """
    out = Path(out)
    while True:
        if stop():
            return 0
        with contextlib.suppress(PassageError, FileNotFoundError):
            found = read_settings(out)
            if found["generation"] is not None and not refreshing:
                return 0
            if refreshing or _difference(found, settings) is None:
                shards, store = Shards(out / EMBEDDING), PassageStore(out / PASSAGES)
                made_with = shards.plan["made_with"]
                if (
                    made_with["generation"] == store.generation
                    and made_with["fingerprint"] == settings["model"]["fingerprint"]
                ):
                    break
        time.sleep(_POLL)
    embedder = _open_embedder(out, settings["model"], "folder", make, **runtime)
    try:
        return shards.work(
            lambda ids: embedder.embed_passages(store.read(ids.tolist())),
            start=rank * shards.count // world,
            progress=lambda done: progress("embedding", done, shards.count),
            stop=stop,
        )
    except FileNotFoundError:
        if read_settings(out)["generation"] is None:
            raise
        return 0  # the first process has finished and cleared the shards away


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Writes the settings, or compares them with those of the build that is there."""
    try:
        found = read_settings(out)
    except FileNotFoundError:
        if out.is_dir() and [name for name in os.listdir(out) if name != LOCK]:
            raise PassageError(f"{out} holds something else; name an empty folder") from None
        _write_settings(out, settings)
        return
    difference = _difference(found, settings)
    if difference is not None:
        name, old, new = difference
        if name == "corpus.fingerprint":
            raise PassageError(
                f"{out}: files of {settings['corpus']['path']} changed since it was begun; "
                "name another folder, or bring a finished one up to date with add and update"
            )
        raise PassageError(
            f"{out} was begun with {name} {old!r}, not {new!r}; name another folder, or delete it"
        )


def _difference(found: Any, wanted: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first entry that two builds do not share."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            # A model may have moved; its fingerprint says whether it is the same one.
            if key in ("generation", "folder", "query_folder", "path"):
                continue
            inner = _difference(found.get(key), wanted.get(key), f"{name}.{key}".strip("."))
            if inner is not None:
                return inner
        return None
    return None if found == wanted else (name, found, wanted)


def _read(
    corpus: Corpus,
    out: Path,
    settings: Mapping[str, Any],
    make: MakeEmbedder | None,
    summary: dict[str, Any],
    progress: Progress,
) -> PassageStore:
    """Fills the store, in steps that a kill leaves whole."""
    folder = out / PASSAGES
    if (folder / "manifest.json").exists():
        store = PassageStore(folder)
    else:
        store = PassageStore.create(folder, {"read": 0, "complete": False})
    length = settings["splitting"]["length"]
    if store.notes["complete"]:
        return store
    splitter = None
    if length is not None:
        from ..tokenizers import AutoTokenizer

        splitter = Splitter(AutoTokenizer.from_pretrained(settings["model"]["folder"]), length)
    documents = iter(corpus)
    done = store.notes["read"]
    for _ in itertools.islice(documents, done):
        pass  # stored before the kill

    def counted(chunk: Iterable[Document]) -> Iterator[Document]:
        for document in chunk:
            summary["read"] += 1
            if not summary["read"] % 100:
                progress("reading", done + summary["read"], 0)
            yield document._replace(vector=None)

    while True:
        first = next(documents, None)
        if first is None:
            break
        chunk: Iterable[Document] = counted(
            itertools.chain([first], itertools.islice(documents, READ_AT_ONCE - 1))
        )
        # The notes are read when the last document has been.
        notes = _Late(lambda: {"read": done + summary["read"], "complete": False})
        store.add(chunk if splitter is None else splitter(chunk), notes=notes)
    store.add([], notes={"read": done + summary["read"], "complete": True})
    progress("reading", done + summary["read"], done + summary["read"])
    return store


class _Late(Mapping[str, Any]):
    """A mapping whose content is asked for when it is needed."""

    def __init__(self, content: Callable[[], dict[str, Any]]):
        self._content = content

    def __getitem__(self, name: str) -> Any:
        return self._content()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())


def _shards(
    out: Path, store: PassageStore, embedder: Embedder, settings: Mapping[str, Any], shard: int
) -> Shards:
    """The plan that is there if it is the same one, else a new one."""
    made_with = embedder.settings() | {
        "fingerprint": settings["model"]["fingerprint"], "generation": store.generation,
    }  # fmt: skip
    with contextlib.suppress(PassageError):
        found = Shards(out / EMBEDDING)
        if found.plan["made_with"] == made_with:
            return found
    ids = store.ids()
    if not len(ids):
        raise PassageError(f"{out}: no passages to embed")
    return Shards.create(out / EMBEDDING, ids, embedder.dimension, shard=shard, made_with=made_with)


def _own_vectors(
    corpus: Corpus, out: Path, store: PassageStore, shard: int, progress: Progress
) -> Shards:
    """Takes over the vectors that a corpus brings along, in its order."""
    documents = iter(corpus)
    first = next(documents)
    if first.vector is None:
        raise PassageError(f"{first.where}: no vector; the corpus has none of its own")
    dimension = len(first.vector)
    documents = itertools.chain([first], documents)
    shards = Shards.create(out / EMBEDDING, store.ids(), dimension, shard=shard)

    def take(ids: np.ndarray) -> np.ndarray:
        rows = list(itertools.islice(documents, len(ids)))
        for document in rows:
            if document.vector is None or len(document.vector) != dimension:
                raise PassageError(f"{document.where}: expected a vector of {dimension} numbers")
        return np.stack([document.vector for document in rows])  # type: ignore[misc]

    shards.work(take, progress=lambda done: progress("vectors", done, shards.count))
    return shards


# Files --------------------------------------------------------------------------------------------


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What documents.json says.

    Raises:
        FileNotFoundError: there is none.
        PassageError: it is damaged, or of a later version.
    """
    path = Path(folder) / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no index of documents: no {SETTINGS}") from None
    except (ValueError, RecursionError) as error:
        raise PassageError(f"{path} is damaged: {error}") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise PassageError(f"{path} is not of an index of documents")
    if settings.get("version") != VERSION:
        raise PassageError(
            f"{path} has version {settings.get('version')!r}; this release reads {VERSION}"
        )
    for part in ("corpus", "splitting", "model", "index"):
        if not isinstance(settings.get(part), dict):
            raise PassageError(f"{path} is damaged: no {part}")
    if "generation" not in settings:
        raise PassageError(f"{path} is damaged: no generation")
    return settings


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    files.atomic_write(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """One change of a folder at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    lock.touch()
    try:
        held = files.lock(lock, exclusive=True, wait=wait)
    except BlockingIOError:
        raise PassageError(f"{folder} is being built or changed by another process") from None
    try:
        yield
    finally:
        files.unlock(held)


def _named(model: str | os.PathLike[str]) -> str:
    """A folder by its full path, a repository by its name."""
    return str(Path(model).resolve()) if Path(model).is_dir() else os.fspath(model)


def _open_embedder(
    folder: Path,
    model: Mapping[str, Any],
    key: str,
    make: MakeEmbedder | None,
    **runtime: Any,
) -> Embedder:
    """The encoder of the passages (`folder`) or of the queries (`query_folder`)."""
    place = model[key]
    if place is None:
        raise PassageError(f"{folder}: no encoder is known, its vectors came with the corpus")
    if make is None:
        raise PassageError(f"{folder}: make: expected a function that opens an encoder")
    wanted = model["query_fingerprint" if key == "query_folder" else "fingerprint"]
    if wanted is not None and (found := fingerprint(place)) != wanted:
        raise PassageError(
            f"{folder} was made with another model than {place} now holds: fingerprint "
            f"{wanted[:12]}..., found {found[:12]}..."
        )
    options = dict(model["options"])
    if key == "query_folder":
        options = {name: options[name] for name in ("field", "normalize") if name in options}
    return make(place, **options, **runtime)

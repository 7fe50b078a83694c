"""Approximate maximum inner product search with Google's ScaNN (arXiv 1908.10396, 2404.00774).

ScaNN's own Python wrapper keeps document names in a pickle. This one talks to the searcher below
it, which knows rows only, so no pickle is written or read and a row costs no Python object.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .exact import as_dtype
from .store import Reader, RetrievalError, Writer

PRECISIONS = ("float32", "bfloat16", "int8")
LEAST_ROWS = 16  # of the asymmetric hash's training
_STEPS = ("tree", "upper_tree", "score_ah", "score_brute_force", "reorder", "pca", "truncate")
_ASSETS = "scann_assets.pbtxt"
_CONFIG = "scann_config.pb"
_TABLES = {
    "x": "dataset.npy",
    "scann_config": "scann_config.pb",
    "serialized_partitioner": "serialized_partitioner.pb",
    "datapoint_to_token": "datapoint_to_token.npy",
    "ah_codebook": "ah_codebook.pb",
    "hashed_dataset": "hashed_dataset.npy",
    "int8_dataset": "int8_dataset.npy",
    "int8_multipliers": "int8_multipliers.npy",
    "dp_norms": "dp_norms.npy",
}
_EMPTY = {
    "datapoint_to_token": np.int32,
    "hashed_dataset": np.uint8,
    "int8_dataset": np.int8,
    "x": np.float32,
    "int8_multipliers": np.float32,
    "dp_norms": np.float32,
}
_DATASET = "dataset.npy"  # ScaNN's float32 rows, as they were given


class ScannSegment:
    """A ScaNN searcher over some vectors.

    Args:
        searcher: ScaNN's searcher.
        uid: 16 hexadecimal digits, which name the segment's files.
        settings: what it was built with, as in `build_scann`.
        rows: how many.
        dimension: of a vector.
        stored: the vectors `(rows, dimension)`, if they are kept beside ScaNN's own form of them.
        leaves: partitions that a search looks into.
        reorder: candidates that are scored again, for `tuned_k` results.
        tuned_k: number of results that `reorder` is meant for.
        threads: of one batched search.
    """

    kind = "scann"

    def __init__(
        self,
        searcher: Any,
        uid: str,
        settings: Mapping[str, Any],
        *,
        rows: int,
        dimension: int,
        stored: np.ndarray | None = None,
        leaves: int | None = None,
        reorder: int | None = None,
        tuned_k: int = 10,
        threads: int = 1,
    ):
        self.uid = uid
        self.stored = stored
        self.leaves, self.reorder, self.tuned_k = leaves, reorder, tuned_k
        self.dimension = dimension
        self.built = dict(settings)
        self._searcher = searcher
        self._rows = rows
        self._names: dict[str, str] = {}  # of ScaNN's files in a saved folder, by their role
        self._vectors_name: str | None = None
        self.use_threads(threads)

    def use_threads(self, threads: int) -> None:
        """Lets a batched search use so many threads."""
        self.threads = threads
        self._searcher.set_num_threads(threads)

    def __len__(self) -> int:
        return self._rows

    def search(
        self,
        queries: np.ndarray,
        k: int,
        leaves: int | None = None,
        reorder: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best rows, `(batch, min(k, rows))`, and their scores, best first.

        Args:
            queries: `(batch, dimension)`, float32, contiguous.
            k: how many. Fewer may be found, which leaves scores of NaN at the end.
            leaves: partitions to look into; by default as tuned.
            reorder: candidates that are scored again; by default as tuned, in proportion to `k`.
        """
        k = min(k, self._rows)
        leaves = (self.leaves if leaves is None else leaves) or -1
        reorder = self.reorder_for(k) if reorder is None else max(reorder, k)
        if len(queries) == 1:
            rows, scores = self._searcher.search(queries[0], k, reorder, leaves)
            return rows[None], scores[None]
        return self._searcher.search_batched(queries, k, reorder, leaves, self.threads > 1, 256)

    def reorder_for(self, k: int) -> int:
        """Candidates to score again where `k` results are asked for."""
        if self.reorder is None:
            return k
        if k == self.tuned_k:
            return self.reorder
        return min(max(self.reorder, math.ceil(self.reorder * k / self.tuned_k)), self._rows)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Float32 vectors of some rows.

        Raises:
            RetrievalError: the index does not keep them.
        """
        if self.stored is None:
            raise RetrievalError(
                "this index keeps no vectors: it was built with keep_vectors=False"
            )
        return np.asarray(self.stored[rows], np.float32)

    def settings(self) -> dict[str, Any]:
        """What it was built with and how it searches, for people."""
        return {
            "built": self.built,
            "leaves": self.leaves,
            "reorder": self.reorder,
            "tuned_k": self.tuned_k,
            "threads": self.threads,
        }

    def memory(self) -> int:
        """Bytes that ScaNN holds in memory, by the sizes of its parts."""
        tables = 0
        if "score_ah" in self.built:
            blocks = -(-self.dimension // self.built["score_ah"]["dimensions_per_block"])
            tables = blocks / 2 * (2 if self.built.get("tree", {}).get("soar_lambda") else 1)
        scored = "reorder" if "score_ah" in self.built else "score_brute_force"
        if scored in self.built:
            tables += self.dimension * _bytes(self.built[scored].get("quantize"))
        return int(self._rows * (tables + 8))

    def write(self, writer: Writer) -> dict[str, Any]:
        """Writes the files and returns the manifest's entry."""
        names = [*self._names.values(), self._vectors_name] if self._names else []
        if names and all([writer.keep(name) for name in names if name is not None]):
            return self._entry()
        # Beside the folder's other files, since parts of it are moved there.
        with tempfile.TemporaryDirectory(dir=writer.scratch()) as scratch:
            self._searcher.serialize(scratch, True)
            assets = _assets(Path(scratch, _ASSETS).read_text()) | {"CONFIG": _CONFIG}
            for name in assets.values():
                writer.move(f"{self.uid}-{name}", Path(scratch, name))
        self._names = {role: f"{self.uid}-{name}" for role, name in assets.items()}
        self._vectors_name = None
        if self.stored is not None:
            if assets.get("DATASET_NPY") == _DATASET and self.stored.dtype == np.float32:
                self._vectors_name = self._names["DATASET_NPY"]
            else:
                self._vectors_name = f"{self.uid}-vectors.npy"
                if not writer.keep(self._vectors_name):
                    writer.array(self._vectors_name, self.stored)
        return self._entry()

    def _entry(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "uid": self.uid,
            "dimension": self.dimension,
            "settings": self.built,
            "leaves": self.leaves,
            "reorder": self.reorder,
            "tuned_k": self.tuned_k,
            "assets": self._names,
            "vectors": self._vectors_name,
            "dtype": None if self.stored is None else self.stored.dtype.name,
        }

    @property
    def soar(self) -> bool:
        """Whether vectors are in a second partition too, which ScaNN's TensorFlow part lacks."""
        return self.built.get("tree", {}).get("soar_lambda") is not None

    def tables(self) -> dict[str, np.ndarray]:
        """The searcher as arguments of ScaNN's TensorFlow operation that makes one.

        Raises:
            RetrievalError: it uses SOAR, or the vectors are needed and not kept.
        """
        if self.soar:
            raise RetrievalError("ScaNN's TensorFlow operations do not take SOAR")
        with tempfile.TemporaryDirectory() as scratch:
            self._searcher.serialize(scratch, True)
            found = {path.name: path for path in Path(scratch).iterdir()}
            tables: dict[str, np.ndarray] = {}
            for name, file in _TABLES.items():
                if file not in found:
                    kind = object if file.endswith(".pb") else _EMPTY[name]
                    tables[name] = np.array([b""], object) if kind is object else np.zeros((), kind)
                elif file.endswith(".pb"):
                    tables[name] = np.array([found[file].read_bytes()], object)
                else:
                    tables[name] = np.load(found[file], allow_pickle=False)
        if "bfloat16_dataset.npy" in found:  # of which the operation knows nothing
            tables["x"] = self.vectors(np.arange(self._rows))
        return tables

    def map_vectors(self, reader: Reader) -> None:
        """Takes the saved vectors in the place of those in memory."""
        if self.stored is not None and self._vectors_name is not None:
            stored = reader.array(self._vectors_name, mapped=True)
            self.stored = as_dtype(stored, self.stored.dtype.name)

    @classmethod
    def read(cls, reader: Reader, entry: dict[str, Any], options: dict[str, Any]) -> ScannSegment:
        """Opens the files that `write` wrote.

        Raises:
            RetrievalError: ScaNN is not installed, or refuses the files.
        """
        assets = dict(entry["assets"])
        config = reader.path(assets.pop("CONFIG"))
        lines = []
        for role, name in assets.items():
            if not role.replace("_", "").isalnum():
                raise RetrievalError(f"{reader.folder} has an asset of the odd name {role!r}")
            path = os.path.abspath(reader.path(name)).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'assets {{ asset_type: {role} asset_path: "{path}" }}')
        # ScaNN takes the other names as given, but this one for granted.
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, _CONFIG).write_bytes(config.read_bytes())
            try:
                searcher = _scann().scann_pybind.ScannNumpy(folder, "\n".join(lines))
            except (ValueError, RuntimeError) as error:
                raise RetrievalError(f"{reader.folder}: ScaNN cannot open it: {error}") from error
        stored = None
        if entry["vectors"] is not None:
            stored = as_dtype(reader.array(entry["vectors"], mapped=True), entry["dtype"])
        segment = cls(
            searcher,
            entry["uid"],
            entry["settings"],
            rows=entry["rows"],
            dimension=entry["dimension"],
            stored=stored,
            leaves=entry["leaves"],
            reorder=entry["reorder"],
            tuned_k=entry["tuned_k"],
            **options,
        )
        segment._names, segment._vectors_name = dict(entry["assets"]), entry["vectors"]
        return segment


def build_scann(vectors: np.ndarray, settings: Mapping[str, Any], *, threads: int = 1) -> Any:
    """Builds ScaNN's searcher.

    Args:
        vectors: `(rows, dimension)`.
        settings: ScaNN's steps by name, `tree`, `score_ah`, `reorder`, `score_brute_force`,
            `upper_tree`, `pca` and `truncate`, each a dict of its arguments in ScaNN's builder;
            `quantize` is `float32`, `bfloat16` or `int8`.
        threads: of the training.

    Returns:
        The searcher.

    Raises:
        RetrievalError: ScaNN is not installed, or refuses the settings.
    """
    scann = _scann()
    vectors = np.ascontiguousarray(vectors, np.float32)
    builder = scann.builder(vectors, 10, "dot_product")
    try:
        for step, arguments in check_settings(settings).items():
            arguments = dict(arguments)
            for name in ("quantize", "scoring_mode"):
                if name in arguments:
                    arguments[name] = _precision(f"{step}.{name}", arguments[name])
            getattr(builder, step)(**arguments)
        return scann.scann_pybind.ScannNumpy(vectors, builder.create_config(), threads)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, RetrievalError):
            raise
        raise RetrievalError(f"ScaNN refuses the settings {dict(settings)}: {error}") from error


def check_settings(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Refuses steps that ScaNN's builder does not have, and gives the others as dicts.

    Raises:
        RetrievalError: names the step.
    """
    for step, arguments in settings.items():
        if step not in _STEPS:
            raise RetrievalError(f"settings: no step {step!r}, expected some of {list(_STEPS)}")
        if not isinstance(arguments, Mapping):
            raise RetrievalError(f"settings: {step} is {arguments!r}, expected a dict of arguments")
    if ("score_ah" in settings) == ("score_brute_force" in settings):
        raise RetrievalError("settings: expected either score_ah or score_brute_force")
    return {step: dict(settings[step]) for step in _STEPS if step in settings}


def installed() -> bool:
    """Whether ScaNN can be imported; it is not."""
    from importlib.util import find_spec

    return find_spec("scann") is not None


def _scann() -> Any:
    """ScaNN's module of searchers that need no TensorFlow graph; its import takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise RetrievalError(
            f"ScaNN cannot be imported ({error}): pip install twin-zoo[retrieval], or kind='exact'"
        ) from error
    return scann_ops_pybind


def _precision(name: str, value: Any) -> Any:
    from scann.scann_ops.py.scann_builder import ReorderType

    if value not in PRECISIONS:
        raise RetrievalError(f"{name}: received {value!r}, expected one of {list(PRECISIONS)}")
    return ReorderType[value.upper()]


def _bytes(precision: str | None) -> int:
    return {None: 4, "float32": 4, "bfloat16": 2, "int8": 1}[precision]


def _assets(text: str) -> dict[str, str]:
    """Asset type -> file name, of ScaNN's list of what it wrote."""
    words = text.split()
    roles = [words[i + 1] for i, word in enumerate(words) if word == "asset_type:"]
    names = [words[i + 1].strip('"') for i, word in enumerate(words) if word == "asset_path:"]
    return dict(zip(roles, names, strict=True))

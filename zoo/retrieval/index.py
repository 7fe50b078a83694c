"""One interface to search by maximum inner product, whatever does the searching.

    index = build_index(vectors, ids)                  # exact or ScaNN, as the size suggests
    ids, scores = index.search(queries, 10)            # (batch, 10) each, best first
    index.add(more_vectors, more_ids); index.remove(old_ids)
    index.save("folder"); index = open_index("folder")

An id is any whole number of 64 bits that is not negative. Where fewer than k are found, ids are -1
and scores -inf at the end of a row.
"""

from __future__ import annotations

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import store
from .store import RetrievalError

if TYPE_CHECKING:
    from .local import LocalIndex

KINDS = ("auto", "exact", "scann")
SCANN_ROWS = 5000  # from which ScaNN is the default

_FLOAT32 = np.dtype(np.float32)

Progress = Callable[[str, int, int], None]


class Index(ABC):
    """Vectors by id, searched by maximum inner product; several threads may search at once.

    Attributes:
        dimension: of a vector.
        fingerprint: names the model that made the vectors; an index is opened for that one only.
    """

    dimension: int
    fingerprint: str | None

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids."""

    @abstractmethod
    def search(self, queries: Any, k: int = 10, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """The ids with the largest inner products.

        Args:
            queries: `(batch, dimension)`: numpy, PyTorch, TensorFlow or lists.
            k: how many.
            options: of the kind of index, such as `leaves` and `reorder` of ScaNN.

        Returns:
            Ids `(batch, k)`, int64, and scores `(batch, k)`, float32, best first.

        Raises:
            RetrievalError: queries of another shape, not finite, or an unknown option.
        """

    @abstractmethod
    def add(self, vectors: Any, ids: Any = None) -> np.ndarray:
        """Adds vectors under new ids.

        Args:
            vectors: `(count, dimension)`.
            ids: `(count,)`; by default the numbers after the largest id.

        Returns:
            The ids.

        Raises:
            RetrievalError: an id is there already or given twice, or vectors of another shape.
        """

    @abstractmethod
    def update(self, vectors: Any, ids: Any) -> None:
        """Gives ids that are there new vectors.

        Args:
            vectors: `(count, dimension)`.
            ids: `(count,)`.

        Raises:
            RetrievalError: an id is not there or given twice, or vectors of another shape.
        """

    @abstractmethod
    def remove(self, ids: Any) -> None:
        """Removes ids that are there.

        Args:
            ids: `(count,)`.

        Raises:
            RetrievalError: an id is not there or given twice.
        """

    @abstractmethod
    def vectors(self, ids: Any) -> np.ndarray:
        """The vectors of ids, as float32.

        Args:
            ids: any shape.

        Returns:
            The shape of `ids`, and `dimension`.

        Raises:
            RetrievalError: an id is not there, or the index keeps no vectors.
        """

    @abstractmethod
    def ids(self) -> np.ndarray:
        """All ids, `(rows,)`, int64."""

    @abstractmethod
    def __contains__(self, id: object) -> bool:
        """Whether an id is there."""

    @abstractmethod
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Saves the index, replacing an earlier one in the folder in one step.

        Args:
            folder: where to; created where needed.

        Raises:
            RetrievalError: the folder holds something else.
            OSError: the disk is full, or the like; the earlier index stays.
        """

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Kind, sizes, settings and measured recall, as JSON can hold them."""

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Lets go of what is held outside of this process."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def choose_kind(rows: int) -> str:
    """The kind of index that suits a number of vectors: `scann` above a few thousand.

    Args:
        rows: number of vectors.
    """
    from .scann import installed

    return "scann" if rows >= SCANN_ROWS and installed() else "exact"


def build_index(
    vectors: Any,
    ids: Any = None,
    *,
    kind: str = "auto",
    fingerprint: str | None = None,
    target_recall: float = 0.95,
    k: int = 10,
    queries: Any = None,
    settings: dict[str, dict[str, Any]] | None = None,
    leaves: int | None = None,
    reorder: int | None = None,
    precision: str = "auto",
    shards: int = 1,
    keep_vectors: bool = True,
    backend: str = "numpy",
    device: str | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: bool | Progress = False,
) -> LocalIndex:
    """Builds an index over vectors.

    Args:
        vectors: `(rows, dimension)` of any floating type, a `.npy` file, or a list of either,
            each of which becomes a shard. Memory-mapped arrays are read block by block. Arrays
            are not copied: do not write to them while the index is in use.
        ids: `(rows,)` whole numbers from 0, all different; by default 0, 1, 2 ...
        kind: `exact`, `scann`, or `auto` for what suits the number of vectors.
        fingerprint: names the model that made the vectors.
        target_recall: share of the true best `k` that ScaNN is to find; its settings are chosen
            by measurement.
        k: number of results that recall is measured with.
        queries: `(batch, dimension)`, real queries to measure with; by default some of the
            vectors, whose neighbours are often easier to find than those of real queries.
        settings: ScaNN's own, instead of a choice by measurement: its builder's steps by name,
            such as `{"tree": {...}, "score_ah": {...}, "reorder": {...}}`.
        leaves: partitions that a search looks into, with `settings`; measured by default.
        reorder: candidates scored again, with `settings`; measured by default.
        precision: of the second scoring: `float32`, `bfloat16`, `int8`, or `auto` for the one
            that is quickest at the target.
        shards: number of equal parts that are built and searched one after the other, which bounds
            the memory of a build.
        keep_vectors: keep the given vectors in the folder, mapped and not in memory; without them
            `vectors` and a `refresh` from the index's own vectors are impossible.
        backend: of exact search: `numpy`, `torch` or `tensorflow`.
        device: of exact search with `torch` or `tensorflow`.
        threads: of building and of one search.
        seed: of the samples.
        progress: a bar on the terminal, or a function of stage, steps done and steps in all.

    Returns:
        The index.

    Raises:
        RetrievalError: an argument that does not fit.
    """
    from .local import LocalIndex
    from .parts import Plan

    plan = Plan(
        kind=kind,
        target_recall=target_recall,
        k=k,
        settings=settings,
        leaves=leaves,
        reorder=reorder,
        precision=precision,
        shards=shards,
        keep_vectors=keep_vectors,
        backend=backend,
        device=device,
        threads=threads,
        seed=seed,
    )
    return LocalIndex.build(
        vectors, ids, plan, queries=queries, fingerprint=fingerprint, progress=progress
    )


def open_index(
    folder: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
    dimension: int | None = None,
    rows: int | None = None,
    verify: bool = True,
    backend: str = "numpy",
    device: str | None = None,
    threads: int = 1,
    **connection: Any,
) -> Any:
    """Opens a saved index.

    Args:
        folder: what `save` wrote, wherever it was moved to.
        fingerprint: of the model that the queries come from.
        dimension: that the vectors have to have.
        rows: that the index has to have.
        verify: compare the checksums of all files, which reads all of them once.
        backend: of exact search.
        device: of exact search with `torch` or `tensorflow`.
        threads: of one search.
        connection: of a Milvus server, such as `token`.

    Returns:
        The index: `LocalIndex` or `MilvusIndex`.

    Raises:
        RetrievalError: no index, a damaged one, or not the one that is expected.
    """
    manifest = store.manifest_of(folder)
    expected = {"dimension": dimension, "rows": rows, "fingerprint": fingerprint}
    _assert_expected(folder, expected, manifest)
    if manifest.get("kind") == "milvus":
        from .milvus import MilvusIndex

        return MilvusIndex.open(folder, **connection)
    if connection:
        raise RetrievalError(f"{sorted(connection)}: arguments of a Milvus server only")
    from .local import LocalIndex

    index = LocalIndex.open(folder, verify=verify, backend=backend, device=device, threads=threads)
    # Once more, as it may have been replaced since.
    found = {"dimension": index.dimension, "rows": len(index), "fingerprint": index.fingerprint}
    _assert_expected(folder, expected, found)
    return index


def _assert_expected(
    folder: str | os.PathLike[str], expected: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    for name, value in expected.items():
        if value is not None and found.get(name) != value:
            what = "was made by the model" if name == "fingerprint" else f"has {name}"
            raise RetrievalError(f"{Path(folder)} {what} {found.get(name)!r}, expected {value!r}")


# Checks of what is given, the same for every kind ---------------------------------------------


def as_array(value: Any) -> np.ndarray:
    """numpy's view of an array of any framework."""
    if hasattr(value, "detach"):  # PyTorch, whose bfloat16 numpy does not know
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)


def check_vectors(name: str, value: Any, dimension: int | None) -> np.ndarray:
    """Contiguous, finite float32 vectors `(count, dimension)`.

    Args:
        name: of the argument.
        value: array of any framework, or lists.
        dimension: expected, None for any.

    Raises:
        RetrievalError: another shape or type, or not finite.
    """
    array = value if type(value) is np.ndarray else as_array(value)
    if array.ndim != 2 or (dimension is not None and array.shape[1] != dimension):
        wanted = "dimension" if dimension is None else dimension
        raise RetrievalError(f"{name}: expected shape (any, {wanted}), got {array.shape}")
    if array.dtype is not _FLOAT32 or not array.flags.c_contiguous:
        if array.dtype.kind not in "fiuV":
            raise RetrievalError(f"{name}: expected numbers, got {array.dtype}")
        array = np.ascontiguousarray(array, np.float32)
    check_finite(name, array)
    return array


def check_finite(name: str, array: np.ndarray, start: int = 0) -> None:
    """Refuses infinities and NaN, which no search could order."""
    # A sum is finite unless something in it is not, or it overflows: then look closer. This one
    # is the quickest, and warns of nothing.
    numbers = array if array.dtype is _FLOAT32 else array.astype(np.float32)
    if not math.isfinite(np.vdot(numbers, numbers)):
        finite = np.isfinite(array).all(-1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise RetrievalError(f"{name}: row {row} holds a number that is not finite")


def check_ids(value: Any, count: int | None = None) -> np.ndarray:
    """Ids `(count,)`, int64, from 0, all different.

    Raises:
        RetrievalError: another shape or type, negative, or given twice.
    """
    array = as_array(value)
    if array.size == 0:
        array = array.reshape(-1).astype(np.int64)
    if array.ndim != 1 or (count is not None and len(array) != count):
        wanted = "count" if count is None else count
        raise RetrievalError(f"ids: expected shape ({wanted},), got {array.shape}")
    if array.dtype.kind not in "iu" or (
        array.dtype.kind == "u" and array.size and array.max() >> 63
    ):
        raise RetrievalError(f"ids: expected whole numbers of 64 bits, got {array.dtype}")
    array = array.astype(np.int64)
    if array.size and array.min() < 0:
        raise RetrievalError(f"ids: expected whole numbers from 0, got {array.min()}")
    if len(array) > 1 and not (np.diff(array) > 0).all():
        ordered = np.sort(array)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise RetrievalError(f"ids: {some(twice)} given twice")
    return array


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number from `least`.

    Raises:
        RetrievalError: anything else.
    """
    if type(value) is int and value >= least:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise RetrievalError(f"{name}: received {value!r}, expected a whole number from {least}")
    return number


def some(ids: Sequence[int] | np.ndarray) -> str:
    """The first few of many ids."""
    shown = ", ".join(str(int(id)) for id in ids[:5])
    return f"{shown} and {len(ids) - 5} more" if len(ids) > 5 else shown

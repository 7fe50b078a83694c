"""Exact maximum inner product search, block by block, in numpy, PyTorch or TensorFlow.

The vectors may be a memory-mapped file larger than the memory: a block is read, multiplied and
dropped again, and no more than one block of scores exists per worker thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .store import Reader, RetrievalError, Writer

BACKENDS = ("numpy", "torch", "tensorflow")
STORAGES = ("float32", "bfloat16", "float16")
_SCORES = 1 << 22  # of a block; 16 MB
_CONVERTED = 1 << 22  # numbers of a block that have to be turned into float32


class ExactSegment:
    """Vectors that are compared one by one.

    Args:
        vectors: `(rows, dimension)`, any floating type; kept as they are.
        uid: 16 hexadecimal digits, which name the segment's files.
        backend: `numpy`, `torch` or `tensorflow`.
        device: of `torch` (`cuda:0`) or `tensorflow` (`GPU:0`); the vectors are moved there once.
        threads: workers of `numpy` that share the rows; the other two have settings of their own.

    Raises:
        RetrievalError: an unknown backend, or an option that it does not have.
    """

    kind = "exact"

    def __init__(
        self,
        vectors: np.ndarray,
        uid: str,
        *,
        backend: str = "numpy",
        device: str | None = None,
        threads: int = 1,
    ):
        check_backend(backend, device, threads)
        self.uid = uid
        self.stored = vectors
        self.backend, self.device, self.threads = backend, device, threads
        self._moved: Any = None
        if device is not None:
            self._moved = [_MOVE[backend](vectors[s], device) for s in _slices(vectors, 1 << 30)]

    def __len__(self) -> int:
        return len(self.stored)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best rows, `(batch, min(k, rows))`, and their scores, best first.

        Args:
            queries: `(batch, dimension)`, float32.
            k: how many.
        """
        if self._moved is not None:
            return _TOP[self.backend](queries, self._moved, k, self.device)
        return exact_top(queries, self.stored, k, backend=self.backend, threads=self.threads)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Float32 vectors of some rows."""
        return np.asarray(self.stored[rows], np.float32)

    def settings(self) -> dict[str, Any]:
        """How it searches, for people."""
        return {"backend": self.backend, "device": self.device, "threads": self.threads}

    def memory(self) -> int:
        """Bytes that are held in memory, not mapped."""
        return 0 if isinstance(self.stored, np.memmap) else self.stored.nbytes

    def write(self, writer: Writer) -> dict[str, Any]:
        """Writes the files and returns the manifest's entry."""
        name = f"{self.uid}-vectors.npy"
        if not writer.keep(name):
            writer.array(name, self.stored)
        return {"kind": self.kind, "uid": self.uid, "dtype": self.stored.dtype.name}

    def map_vectors(self, reader: Reader) -> None:
        """Vectors in memory stay there, where they are searched."""

    @classmethod
    def read(cls, reader: Reader, entry: dict[str, Any], options: dict[str, Any]) -> ExactSegment:
        """Maps the files that `write` wrote."""
        stored = reader.array(f"{entry['uid']}-vectors.npy", mapped=True)
        return cls(as_dtype(stored, entry["dtype"]), entry["uid"], **options)


def check_backend(backend: str, device: str | None, threads: int) -> None:
    """Refuses what a backend cannot do.

    Raises:
        RetrievalError: names the argument.
    """
    if backend not in BACKENDS:
        raise RetrievalError(f"backend: received {backend!r}, expected one of {list(BACKENDS)}")
    if not isinstance(threads, int) or threads < 1:
        raise RetrievalError(f"threads: received {threads!r}, expected a whole number from 1")
    if backend == "numpy" and device is not None:
        raise RetrievalError(f"device: received {device!r}, but numpy has no devices")
    if backend != "numpy" and threads != 1:
        raise RetrievalError(f"threads: {backend} has its own setting; leave this one at 1")


def check_table(
    vectors: Any, ids: Any, k: int, block_rows: int | None, storage: str
) -> tuple[np.ndarray, np.ndarray]:
    """What a model holds to search in, the same checks in both frameworks.

    Args:
        vectors: `(rows, hidden)`.
        ids: `(rows,)`, or None for 0, 1, 2 ...
        k: number of results.
        block_rows: rows compared at a time, or None.
        storage: dtype that a framework keeps them in.

    Returns:
        Vectors, float32, and ids, int64.

    Raises:
        RetrievalError: an argument that does not fit.
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise RetrievalError(f"vectors: expected shape (rows, hidden), got {vectors.shape}")
    ids = np.arange(len(vectors)) if ids is None else np.asarray(ids, np.int64)
    if ids.shape != (len(vectors),):
        raise RetrievalError(f"ids: expected shape ({len(vectors)},), got {ids.shape}")
    for name, value in (("k", k), ("block_rows", block_rows)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise RetrievalError(f"{name}: received {value!r}, expected a whole number from 1")
    if storage not in STORAGES:
        raise RetrievalError(f"storage: received {storage!r}, expected one of {list(STORAGES)}")
    return vectors, ids


def as_dtype(array: np.ndarray, name: str) -> np.ndarray:
    """A stored array as what it was; bfloat16 is stored as bits, which numpy can name."""
    if name == "bfloat16":
        import ml_dtypes

        return array.view(ml_dtypes.bfloat16)
    if array.dtype.name != name:
        raise RetrievalError(f"stored vectors are {array.dtype.name}, the manifest says {name}")
    return array


def exact_top(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    backend: str = "numpy",
    device: str | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the largest inner products; of equal ones, numpy gives the first.

    Args:
        queries: `(batch, dimension)`.
        vectors: `(rows, dimension)`, any floating type, may be memory-mapped.
        k: how many.
        backend: `numpy`, `torch` or `tensorflow`.
        device: where the framework computes.
        threads: workers, with `numpy`.

    Returns:
        Rows `(batch, min(k, rows))`, int64, and scores, float32, best first.

    Raises:
        RetrievalError: an unknown backend, or an option that it does not have.
    """
    check_backend(backend, device, threads)
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, len(vectors))
    if backend != "numpy":
        size = max(_SCORES // max(len(queries), 1), k, 1024)
        if vectors.dtype != np.float32 or not vectors.flags.writeable:
            size = min(size, max(_CONVERTED // vectors.shape[1], k))
        blocks = (_MOVE[backend](vectors[s], device) for s in _slices(vectors, size))
        return _TOP[backend](queries, blocks, k, device)
    if threads == 1:
        return _numpy_top(queries, vectors, 0, len(vectors), k)
    bounds = np.linspace(0, len(vectors), threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(_numpy_top, queries, vectors, low, high, k)
            for low, high in zip(bounds, bounds[1:], strict=False)
        ]
        rows, scores = zip(*(part.result() for part in parts), strict=True)
    return merge(rows, scores, k)


def merge(
    rows: tuple[np.ndarray, ...], scores: tuple[np.ndarray, ...], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of several lists, each `(batch, any)`; of equal scores, the earlier list's."""
    all_rows, all_scores = np.concatenate(rows, 1), np.concatenate(scores, 1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_rows, order, 1), np.take_along_axis(all_scores, order, 1)


def _slices(vectors: np.ndarray, rows: int) -> Iterator[slice]:
    return (slice(start, start + rows) for start in range(0, len(vectors), rows))


def _numpy_top(
    queries: np.ndarray, vectors: np.ndarray, start: int, stop: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """A short first block sets a bar; of the others, only what is above it is looked at again."""
    batch = len(queries)
    k = min(k, stop - start)
    size = max(_SCORES // max(batch, 1), 256)
    if vectors.dtype != np.float32:
        size = min(size, max(_CONVERTED // vectors.shape[1], 256))
    best_rows = np.empty((batch, 0), np.int64)
    best_scores = np.empty((batch, 0), np.float32)
    first = max(2 * k, 512)
    while start < stop:
        end = min(start + (first if not best_rows.shape[1] else size), stop)
        block = np.asarray(vectors[start:end], np.float32)
        # One query: a matrix times a vector, which BLAS does faster than the general product.
        scores = (block @ queries[0])[None] if batch == 1 else queries @ block.T
        rows = np.arange(start, end)
        if not best_rows.shape[1]:
            best_rows, best_scores = merge((np.broadcast_to(rows, scores.shape),), (scores,), k)
        else:
            found, columns = np.nonzero(scores > best_scores[:, -1:])
            if len(found):
                counts = np.bincount(found, minlength=batch)
                # Ragged candidates as a padded table.
                place = np.arange(len(found)) - np.repeat(np.cumsum(counts) - counts, counts)
                new_rows = np.zeros((batch, counts.max()), np.int64)
                new_scores = np.full(new_rows.shape, -np.inf, np.float32)
                new_rows[found, place] = rows[columns]
                new_scores[found, place] = scores[found, columns]
                best_rows, best_scores = merge((best_rows, new_rows), (best_scores, new_scores), k)
        start = end
    return best_rows, best_scores


def _to_torch(block: np.ndarray, device: str | None) -> Any:
    import torch

    if block.dtype.name == "bfloat16":
        tensor = torch.from_numpy(np.array(block.view(np.int16))).view(torch.bfloat16)
    else:
        # PyTorch warns of arrays that may not be written to.
        tensor = torch.from_numpy(block if block.flags.writeable else np.array(block))
    return tensor if device is None else tensor.to(device)


def _torch_top(
    queries: np.ndarray, blocks: Any, k: int, device: str | None
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    with torch.inference_mode():
        asked = torch.from_numpy(queries).to(device or "cpu")
        rows = torch.empty((len(queries), 0), dtype=torch.int64, device=asked.device)
        scores = torch.empty((len(queries), 0), device=asked.device)
        start = 0
        for block in blocks:
            products = asked @ block.float().T
            new_scores, new_rows = products.topk(min(k, len(block)))
            scores = torch.cat([scores, new_scores], 1)
            rows = torch.cat([rows, new_rows + start], 1)
            scores, order = scores.topk(min(k, scores.shape[1]))
            rows = rows.gather(1, order)
            start += len(block)
        return rows.cpu().numpy(), scores.cpu().numpy()


def _to_tensorflow(block: np.ndarray, device: str | None) -> Any:
    import tensorflow as tf

    with tf.device(device or "CPU:0"):
        return tf.constant(block)


def _tensorflow_top(
    queries: np.ndarray, blocks: Any, k: int, device: str | None
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    with tf.device(device or "CPU:0"):
        asked = tf.constant(queries)
        rows = tf.zeros((len(queries), 0), tf.int64)
        scores = tf.zeros((len(queries), 0))
        start = 0
        for block in blocks:
            products = tf.matmul(asked, tf.cast(block, tf.float32), transpose_b=True)
            new_scores, new_rows = tf.math.top_k(products, min(k, len(block)))
            scores = tf.concat([scores, new_scores], 1)
            rows = tf.concat([rows, tf.cast(new_rows, tf.int64) + start], 1)
            scores, order = tf.math.top_k(scores, min(k, scores.shape[1]))
            rows = tf.gather(rows, order, batch_dims=1)
            start += len(block)
        return rows.numpy(), scores.numpy()


_MOVE = {"torch": _to_torch, "tensorflow": _to_tensorflow}
_TOP = {"torch": _torch_top, "tensorflow": _tensorflow_top}

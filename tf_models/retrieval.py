"""Maximum inner product search as a layer, for graphs, accelerators and serving.

`TFDenseRetriever` compares with every vector by TensorFlow's own operations, which an unmodified
TF Serving has; on a TPU its approximate top k is fast (arXiv 2206.14286). `TFScannRetriever` runs
ScaNN's operations on the CPU; whoever loads its SavedModel has to `import scann` first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.retrieval.exact import check_table
from zoo.retrieval.store import RetrievalError


class TFDenseRetriever(keras.layers.Layer):
    """The k vectors with the largest inner products, by comparing with all of them.

    Args:
        vectors: `(rows, hidden)`.
        ids: `(rows,)`, whole numbers of 64 bits; by default 0, 1, 2 ...
        k: how many.
        block_rows: rows compared at a time, which bounds the memory for scores; all by default.
        storage: dtype that the vectors are kept in: `float32`, `bfloat16` or `float16`. Products
            are summed in float32.
        approximate: `tf.math.approx_max_k`, which TPUs have a fast form of. Differs: PyTorch has
            no such operation.
        recall_target: of the approximation.

    Raises:
        RetrievalError: an argument that does not fit.
    """

    def __init__(
        self,
        vectors: Any,
        ids: Any = None,
        k: int = 10,
        *,
        block_rows: int | None = None,
        storage: str = "float32",
        approximate: bool = False,
        recall_target: float = 0.95,
    ) -> None:
        super().__init__(trainable=False, dtype="float32")
        vectors, ids = check_table(vectors, ids, k, block_rows, storage)
        if not 0 < recall_target <= 1:
            raise RetrievalError(f"recall_target: received {recall_target!r}, expected 0 to 1")
        self.k = k
        self.block_rows = block_rows or max(len(vectors), 1)
        self.approximate = approximate
        self.recall_target = recall_target
        self.vectors = self._table("vectors", vectors, storage)
        self.ids = self._table("ids", ids, "int64")
        self.built = True

    @classmethod
    def from_index(cls, index: Any, k: int = 10, **options: Any) -> TFDenseRetriever:
        """Takes the vectors of an index of `zoo.retrieval`, which has to keep them."""
        ids = index.ids()
        return cls(index.vectors(ids), ids, k, **options)

    def call(self, queries: Any) -> dict[str, Any]:
        """`(batch, hidden)` -> ids and scores, `(batch, k)`, best first; -1 and -inf beyond all."""
        found = top_products(queries, self.vectors, self.k, self.block_rows, self._top)
        return _merged(tf.convert_to_tensor(self.ids), *([one] for one in found), self.k)

    def _top(self, scores: Any, k: int) -> tuple[Any, Any]:
        if self.approximate:
            return tf.math.approx_max_k(scores, k, recall_target=self.recall_target)
        return tf.math.top_k(scores, k)

    def _table(self, name: str, values: np.ndarray, dtype: str) -> Any:
        table = self.add_weight(
            name=name, shape=values.shape, dtype=dtype, initializer="zeros", trainable=False
        )
        table.assign(values)
        return table


class TFScannRetriever(keras.layers.Layer):
    """An index of `zoo.retrieval` with ScaNN's operations, the same results in a graph.

    Differs: PyTorch calls ScaNN's Python binding. TensorFlow's operations lack SOAR; an index that
    was built with it is built again without, which takes the time of a build and more leaves for
    the same recall. Weights of this layer are in no `.keras` file: save the index.

    Args:
        index: `LocalIndex` of kind `scann`, without pending changes.
        k: how many.
        leaves: partitions to look into; by default as tuned.
        reorder: candidates that are scored again; by default as tuned.

    Raises:
        RetrievalError: an exact index, or one with pending changes.
    """

    def __init__(
        self, index: Any, k: int = 10, *, leaves: int | None = None, reorder: int | None = None
    ) -> None:
        super().__init__(trainable=False, dtype="float32")
        self.k = k
        self.dimension = index.dimension
        self.shards = []
        with tf.device("CPU:0"):
            for ids, segment in index.graph_parts():
                shard = tf.Module()
                # A searcher is found again by its name: one per layer and shard.
                shard.name_ = uuid.uuid4().hex
                shard.k = min(k, len(segment))
                shard.leaves = segment.leaves if leaves is None else leaves
                shard.reorder = segment.reorder_for(k) if reorder is None else reorder
                shard.ids = tf.Variable(ids, trainable=False)
                shard.tables = {
                    name: tf.Variable(value, trainable=False, dtype=_TABLES[name])
                    for name, value in segment.tables().items()
                }
                self.shards.append(shard)
        self.built = True

    def call(self, queries: Any) -> dict[str, Any]:
        """`(batch, hidden)` -> ids and scores, `(batch, k)`, best first; -1 and -inf beyond all."""
        from scann.scann_ops.py import scann_ops

        queries = tf.cast(queries, tf.float32)
        found, best = [], []
        with tf.device("CPU:0"):
            for shard in self.shards:
                searcher = scann_ops.tensors_to_scann(
                    **{name: table.read_value() for name, table in shard.tables.items()},
                    shared_name=shard.name_,
                )
                rows, scores = scann_ops.scann_search_batched(
                    searcher,
                    queries,
                    shard.k,
                    max(shard.reorder, shard.k),
                    shard.leaves or -1,
                    False,
                )
                # ScaNN's operations tell no shapes, and give fewer columns or NaN where they find
                # fewer than k.
                rows = tf.ensure_shape(rows, (None, None))
                short = [[0, 0], [0, shard.k - tf.shape(rows)[1]]]
                rows = tf.ensure_shape(tf.pad(rows, short), (None, shard.k))
                scores = tf.pad(scores, short, constant_values=np.nan)
                scores = tf.ensure_shape(scores, (None, shard.k))
                missing = tf.math.is_nan(scores)
                best.append(tf.where(missing, -np.inf, scores))
                found.append(tf.gather(shard.ids, tf.where(missing, 0, rows)))
            return _merged(None, found, best, self.k)


_TABLES = {
    "x": tf.float32,
    "scann_config": tf.string,
    "serialized_partitioner": tf.string,
    "datapoint_to_token": tf.int32,
    "ah_codebook": tf.string,
    "hashed_dataset": tf.uint8,
    "int8_dataset": tf.int8,
    "int8_multipliers": tf.float32,
    "dp_norms": tf.float32,
}


def top_products(
    queries: Any, vectors: Any, k: int, block_rows: int, top: Callable[..., Any] = tf.math.top_k
) -> tuple[Any, Any]:
    """The rows with the largest inner products, by comparing with all of them.

    Args:
        queries: `(batch, hidden)`.
        vectors: `(rows, hidden)`; products are summed in float32.
        k: how many; no more than there are.
        block_rows: rows compared at a time, which bounds the memory for scores.
        top: finds the k best of `(batch, rows)` scores.
    Returns:
        Rows and scores, `(batch, at most k)`, best first.
    """
    queries, vectors = tf.cast(queries, tf.float32), tf.convert_to_tensor(vectors)
    found, best = [], []
    for start in range(0, vectors.shape[0], block_rows):
        block = tf.cast(vectors[start : start + block_rows], tf.float32)
        scores, places = top(tf.matmul(queries, block, transpose_b=True), min(k, block.shape[0]))
        found.append(places + start)
        best.append(scores)
    places, scores = tf.concat(found, 1), tf.concat(best, 1)
    if len(found) > 1:
        scores, order = tf.math.top_k(scores, min(k, scores.shape[1]))
        places = tf.gather(places, order, batch_dims=1)
    return places, scores


def _merged(ids: Any, found: list[Any], best: list[Any], k: int) -> dict[str, Any]:
    """The best of several lists of rows, or of ids where `ids` is None, padded to k."""
    places, scores = tf.concat(found, 1), tf.concat(best, 1)
    if len(found) > 1:
        scores, order = tf.math.top_k(scores, min(k, scores.shape[1]))
        places = tf.gather(places, order, batch_dims=1)
    named = places if ids is None else tf.gather(ids, places)
    named = tf.where(tf.math.is_inf(scores) & (scores < 0), tf.constant(-1, named.dtype), named)
    missing = [[0, 0], [0, k - scores.shape[1]]]
    return {
        "ids": tf.pad(named, missing, constant_values=-1),
        "scores": tf.pad(scores, missing, constant_values=-np.inf),
    }

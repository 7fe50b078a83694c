"""Masks and multi-head attention, shared by every family.

Source: Vaswani et al. 2017, section 3.2; relative positions after Shaw et al. 2018 (relative_key)
and Huang et al. 2020, method 4 (relative_key_query).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import tensorflow as tf
from keras import ops

from .layers import Block, Dense, Embedding, dims, dropout

POSITION_EMBEDDING_TYPES = ("absolute", "relative_key", "relative_key_query")


class AttentionBias(NamedTuple):
    """What is added to the scores, and which queries have a key to attend to.

    A query without one attends to all keys alike: it gets no bias and a score of zero everywhere.
    (Were all its scores at the lowest number instead, the sum that a fused kernel keeps for the
    gradient would drown in rounding.)

    Args:
        scores: `(batch, 1, 1 or queries, keys)`; zero or the lowest number. With scores of
            positions: `(batch or 1, heads, queries, keys)`.
        live: `(batch, 1, 1 or queries, 1)`; one, or zero for a query without a key;
            None if all have one.
    """

    scores: Any
    live: Any | None

    @staticmethod
    def with_positions(bias: AttentionBias | None, positions: Any) -> AttentionBias:
        """Scores of positions `(1, heads, queries, keys)`, and what a mask does to them."""
        if bias is None:
            return AttentionBias(positions, None)
        return AttentionBias(bias.scores + positions * bias.live, bias.live)


class Buffer(NamedTuple):
    """Keys or values of earlier calls in memory of a fixed size, which new ones are written into.

    Stands in a cache where a plain tensor may, with the shape of what is filled. The caller counts
    how much that is, and gives a mask over the whole capacity.

    Differs: PyTorch has views, there a call reads only what is filled.

    Args:
        memory: `(batch, heads, capacity, head_dim)`.
        filled: number of slots that earlier calls filled.
        times: `(capacity,)`; when each slot's token comes in the text. Slots of the same time hold
            alternatives. Only relative positions look at it.
    """

    memory: Any
    filled: Any
    times: Any

    @staticmethod
    def room(states: Any, capacity: Any) -> Any:
        """Memory that begins with `states`, `(batch, heads, some, head_dim)`."""
        return tf.pad(states, [[0, 0], [0, 0], [0, capacity - dims(states)[2]], [0, 0]])

    @property
    def shape(self) -> tuple[Any, ...]:
        batch, heads, _, head_dim = self.memory.shape
        return batch, heads, self.filled, head_dim

    def extend(self, new: Any) -> Any:
        """Adds `(batch, heads, new, head_dim)`; returns the whole new memory."""
        batch, heads, capacity, head_dim = dims(self.memory)
        # A scatter of rows is what TensorFlow does in place where nobody else holds the memory,
        # and what XLA compiles with a start that is not known before.
        slots = tf.range(batch * heads)[:, None] * capacity + self.filled + tf.range(dims(new)[2])
        rows = tf.tensor_scatter_nd_update(
            tf.reshape(self.memory, (-1, head_dim)),
            tf.reshape(slots, (-1, 1)),
            tf.reshape(new, (-1, head_dim)),
        )
        return tf.reshape(rows, (batch, heads, capacity, head_dim))


def cached_length(past_key_values: Any) -> Any:
    """How many positions a cache holds."""
    keys = past_key_values[0][0]
    return keys.filled if isinstance(keys, Buffer) else dims(keys)[2]


def attention_bias(mask: Any | None, dtype: str) -> AttentionBias | None:
    """What a mask of ones (attend) and zeros (do not) does to the scores.

    Args:
        mask: `(batch, keys)` or `(batch, queries, keys)`.
    Returns:
        None if there is no mask.
    """
    if mask is None:
        return None
    if len(mask.shape) not in (2, 3):
        raise ValueError(
            "attention mask: expected shape (batch, keys) or (batch, queries, keys), "
            f"got {tuple(mask.shape)}"
        )
    mask = mask[:, None, None, :] if len(mask.shape) == 2 else mask[:, None, :, :]
    live = ops.cast(ops.any(ops.not_equal(mask, 0), axis=-1, keepdims=True), dtype)
    scores = (1.0 - ops.cast(mask, dtype)) * float(ml_dtypes.finfo(dtype).min) * live
    return AttentionBias(scores, live)


def causal_mask(mask: Any, queries: Any) -> Any:
    """Joins a mask over keys with the order of time.

    Args:
        mask: `(batch, keys)`; the last `queries` keys are the queries' own positions.
    Returns:
        `(batch, queries, keys)`.
    """
    keys = dims(mask)[1]
    query_position = ops.arange(queries)[:, None] + (keys - queries)
    allowed = ops.arange(keys)[None, :] <= query_position
    return mask[:, None, :] * ops.cast(allowed, mask.dtype)


def layer_head_masks(head_mask: Any | None, layers: int) -> list[Any | None]:
    """One mask per layer, `(heads, 1, 1)`, from `(heads,)` or `(layers, heads)`."""
    if head_mask is None:
        return [None] * layers
    if len(head_mask.shape) == 1:
        head_mask = ops.repeat(head_mask[None], layers, axis=0)
    if len(head_mask.shape) != 2 or head_mask.shape[0] != layers:
        raise ValueError(
            f"head_mask: expected shape (heads,) or ({layers}, heads), got {tuple(head_mask.shape)}"
        )
    return [head_mask[layer][:, None, None] for layer in range(layers)]


def distances(queries: Any, keys: Any, buffer: Buffer | None) -> Any:
    """How far each query comes behind each key in the text, `(queries, keys)`.

    Args:
        queries, keys: their numbers; without a buffer the last keys are the queries' own.
        buffer: holds the keys, in slots that have times; what is not filled may lie anywhere.
    """
    if buffer is None:
        times = ops.arange(keys)
        query_times = times[keys - queries :]
    else:
        times = buffer.times
        query_times = tf.gather(times, buffer.filled + tf.range(queries))
    return query_times[:, None] - times[None, :]


class MultiHeadAttention(Block):
    """Scaled dot-product attention over the layer's own states, or over an encoder's.

    A family makes the three dense layers under its published names, and says so in `projections`.

    Args:
        heads: their number.
        head_dim: width of a head.
        dropout_rate: of the attention weights.
        scale: of the scores; by default `1 / sqrt(head_dim)`.
    """

    projections: ClassVar[tuple[str, str, str]] = ("query", "key", "value")

    def __init__(
        self,
        heads: int,
        head_dim: int,
        dropout_rate: float,
        scale: float | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.heads = heads
        self.head_dim = head_dim
        self.dropout_rate = dropout_rate
        self.scale = 1.0 / math.sqrt(head_dim) if scale is None else scale

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None = None,
        head_mask: Any | None = None,
        encoder_hidden: Any | None = None,
        past: tuple[Any, ...] | None = None,
        output_attentions: bool = False,
        seed: Any | None = None,
    ) -> tuple[Any, Any | None, tuple[Any, Any]]:
        """
        Args:
            hidden: `(batch, sequence, hidden)`.
            bias: of the mask.
            head_mask: `(heads, 1, 1)`, multiplies the attention weights.
            encoder_hidden: `(batch, keys, hidden)`, attended to instead of `hidden`.
            past: keys and values `(batch, heads, past, head_dim)` from earlier calls, as tensors
                or as `Buffer`.
            seed: of the dropout, None for none.
        Returns:
            Context `(batch, sequence, hidden)`; weights `(batch, heads, sequence, keys)` if asked
            for; all keys and values, to be passed as `past` in the next call.
        """
        to_query, to_key, to_value = (getattr(self, name) for name in self.projections)
        query = self._split(to_query(hidden))
        buffer = None
        if encoder_hidden is None:
            key, value = self._split(to_key(hidden)), self._split(to_value(hidden))
            if past is not None and isinstance(past[0], Buffer):
                buffer = past[0]
                key, value = past[0].extend(key), past[1].extend(value)
            elif past is not None:
                key = ops.concatenate([past[0], key], axis=2)
                value = ops.concatenate([past[1], value], axis=2)
        elif past is None:
            key = self._split(to_key(encoder_hidden))
            value = self._split(to_value(encoder_hidden))
        else:
            key, value = past  # an encoder's states do not change from step to step
        # Differs: TensorFlow has no fused kernel to choose; the explicit path serves always.
        live = None if bias is None else bias.live
        query = query if live is None else query * ops.cast(live, query.dtype)
        scaled = query if self.scale == 1.0 else query * self.scale
        scores = ops.cast(ops.matmul(scaled, ops.swapaxes(key, 2, 3)), "float32")
        relative = self._relative_scores(query, key, buffer)
        if relative is not None:
            relative = relative if live is None else relative * ops.cast(live, "float32")
            scores = scores + relative
        scores = scores if bias is None else scores + ops.cast(bias.scores, "float32")
        weights = ops.cast(tf.nn.softmax(scores), query.dtype)
        weights = dropout(weights, self.dropout_rate, seed)
        if head_mask is not None:
            weights = weights * ops.cast(head_mask, weights.dtype)
        # (batch, heads, sequence, head_dim) -> (batch, sequence, hidden)
        context = ops.swapaxes(ops.matmul(weights, value), 1, 2)
        context = ops.reshape(context, (*dims(context)[:2], self.heads * self.head_dim))
        return context, weights if output_attentions else None, (key, value)

    def _split(self, x: Any) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, heads, sequence, head_dim)`."""
        x = ops.reshape(x, (*dims(x)[:2], self.heads, self.head_dim))
        return ops.swapaxes(x, 1, 2)

    def _relative_scores(self, query: Any, key: Any, buffer: Buffer | None) -> Any | None:
        """Scores of the distances between queries and keys, scaled like the others."""
        return None


class SelfAttention(MultiHeadAttention):
    """Attention of the BERT families.

    Args:
        config: gives hidden_size, num_attention_heads, attention_probs_dropout_prob.
        position_embedding_type: one of `POSITION_EMBEDDING_TYPES`.
    """

    def __init__(
        self, config: Any, position_embedding_type: str = "absolute", dtype: Any = None
    ) -> None:
        heads, size = config.num_attention_heads, config.hidden_size
        super().__init__(heads, size // heads, config.attention_probs_dropout_prob, dtype=dtype)
        if position_embedding_type not in POSITION_EMBEDDING_TYPES:
            raise ValueError(
                f"position_embedding_type: expected one of {POSITION_EMBEDDING_TYPES}, "
                f"got {position_embedding_type!r}"
            )
        stddev = config.initializer_range
        self.query = Dense(size, size, stddev, dtype=dtype)
        self.key = Dense(size, size, stddev, dtype=dtype)
        self.value = Dense(size, size, stddev, dtype=dtype)
        self.position_embedding_type = position_embedding_type
        if position_embedding_type != "absolute":
            self.max_positions = config.max_position_embeddings
            self.distance_embedding = Embedding(
                2 * self.max_positions - 1, self.head_dim, stddev, dtype=dtype
            )

    def _relative_scores(self, query: Any, key: Any, buffer: Buffer | None) -> Any | None:
        """Scores of the distances between queries and keys, scaled like the others."""
        if self.position_embedding_type == "absolute":
            return None
        distance = distances(dims(query)[2], dims(key)[2], buffer)
        if buffer is not None:  # what is not filled may lie too far ahead
            distance = tf.maximum(distance, 1 - self.max_positions)
        # (queries, keys, head_dim)
        embedded = self.distance_embedding(distance + self.max_positions - 1)
        scores = ops.einsum("bhqd,qkd->bhqk", query, embedded)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + ops.einsum("bhkd,qkd->bhqk", key, embedded)
        return ops.cast(scores, "float32") * self.scale

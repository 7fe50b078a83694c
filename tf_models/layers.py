"""Keras layers whose weights exist from construction on, and dropout from explicit seeds.

Differs: PyTorch has these in torch.nn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from .in_turn import after

_EMPTY: ContextVar[bool] = ContextVar("empty", default=False)
# Tables of vocabularies that are there transposed, by the variable's id.
_TRANSPOSED: ContextVar[Mapping[int, Any]] = ContextVar("transposed", default=MappingProxyType({}))


@contextlib.contextmanager
def empty_weights() -> Iterator[None]:
    """New weights get memory, but no values: for models whose weights are about to be loaded."""
    token = _EMPTY.set(True)
    try:
        with tf.variable_creator_scope(_named_alike):
            yield
    finally:
        _EMPTY.reset(token)


def _named_alike(create: Callable[..., tf.Variable], **options: Any) -> tf.Variable:
    """TensorFlow makes a kernel for each name that a variable has had, which takes its time."""
    if not tf.distribute.has_strategy():
        options["name"] = "weight/"  # whatever scope it is in
    return create(**options)


def dims(x: Any) -> tuple[Any, ...]:
    """The shape of a tensor; what is not known before it runs is a tensor."""
    shape = tuple(x.shape)
    return ops.shape(x) if None in shape else shape


@keras.saving.register_keras_serializable("tf_models")
class Initializer(keras.initializers.Initializer):
    """Normal with a standard deviation, or a constant where that is None.

    Args:
        stddev: standard deviation around zero.
        constant: the value to fill with.
        zero_row: a row of a table that starts as zeros.
    """

    def __init__(
        self, stddev: float | None = None, constant: float = 0.0, zero_row: int | None = None
    ) -> None:
        self.stddev = stddev
        self.constant = constant
        self.zero_row = zero_row

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        dtype = keras.backend.standardize_dtype(dtype)
        if _EMPTY.get():
            return tf.raw_ops.Empty(shape=tuple(shape), dtype=dtype, init=False)
        if self.stddev is None:
            return ops.full(shape, self.constant, dtype)
        values = keras.random.normal(shape, stddev=self.stddev, dtype=dtype)
        if self.zero_row is not None:
            rows = ops.arange(shape[0])[:, None]
            values = ops.where(rows == self.zero_row, ops.zeros((), dtype), values)
        return values

    def get_config(self) -> dict[str, Any]:
        return {"stddev": self.stddev, "constant": self.constant, "zero_row": self.zero_row}


class Block(keras.layers.Layer):
    """A layer made of parts that have their weights from construction on.

    Keras need not trace a first call to find out what to build.
    """

    def __init__(self, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.built = True


class Dense(keras.layers.Dense):
    """A dense layer over the last axis.

    Differs: Keras multiplies and adds in three dimensions, which TensorFlow runs more slowly than
    one matrix product with its bias.
    """

    def __init__(
        self, inputs: int, units: int, stddev: float, use_bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(
            units,
            use_bias=use_bias,
            kernel_initializer=Initializer(stddev),
            bias_initializer=Initializer(),
            dtype=dtype,
        )
        self.build((None, inputs))

    def call(self, x: Any) -> Any:
        """`(..., inputs)` -> `(..., units)`."""
        flat = ops.reshape(x, (-1, x.shape[-1]))
        y = tf.matmul(flat, ops.convert_to_tensor(self.kernel))
        y = y if self.bias is None else tf.nn.bias_add(y, self.bias)
        return ops.reshape(y, (*dims(x)[:-1], self.units))


class Embedding(keras.layers.Embedding):
    """A table of vectors.

    Args:
        padding_idx: a row that starts as zeros and gets no gradient, as in PyTorch.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        stddev: float,
        padding_idx: int | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            rows,
            width,
            embeddings_initializer=Initializer(stddev, zero_row=padding_idx),
            dtype=dtype,
        )
        self.padding_idx = padding_idx
        self.shared = False  # whether another layer looks up in the same table
        self.build(None)

    def call(self, ids: Any) -> Any:
        """`(...)` -> `(..., width)`."""
        ids = ids if ids.dtype.is_integer else ops.cast(ids, "int32")
        flat = tf.reshape(ids, (-1,))
        table = ops.convert_to_tensor(self.embeddings)
        if self.shared or tf.distribute.get_strategy().num_replicas_in_sync > 1:
            vectors = _gather_densely(table, flat)  # they do not know each other's rows
        else:
            vectors = _once_per_row(tf.gather(table, flat), flat, self.input_dim)
        vectors = tf.reshape(vectors, (*dims(ids), self.output_dim))
        vectors = ops.cast(vectors, self.compute_dtype)
        if self.padding_idx is None:
            return vectors
        padding = ops.expand_dims(ops.equal(ids, self.padding_idx), -1)
        return ops.where(padding, ops.stop_gradient(vectors), vectors)

    def resize(self, rows: int) -> None:
        """Gives the table another size; rows that both sizes have keep their values."""
        _resize(self, "_embeddings", rows)
        self.input_dim = rows


def _once_per_row(vectors: Any, ids: Any, rows: int) -> Any:
    """The vectors themselves; in the gradient, the first with an id has the sum of all with it.

    Keras' optimizers square a sparse gradient entry by entry, so a row must not have several.
    """

    @tf.custom_gradient
    def same(vectors: Any) -> tuple[Any, Any]:
        def gradient(upstream: Any) -> Any:
            count = tf.size(ids)
            first = tf.gather(tf.math.unsorted_segment_min(tf.range(count), ids, rows), ids)
            return tf.math.unsorted_segment_sum(upstream, first, count)

        return tf.identity(vectors), gradient

    return same(vectors)


def _gather_densely(table: Any, ids: Any) -> Any:
    """Rows of a table, with a gradient of the whole table's size."""

    @tf.custom_gradient
    def gather(table: Any) -> tuple[Any, Any]:
        rows = table.shape[0]
        return tf.gather(table, ids), lambda upstream: tf.math.unsorted_segment_sum(
            upstream, ids, rows
        )

    return gather(tf.convert_to_tensor(table))


class LayerNorm(keras.layers.LayerNormalization):
    """Layer norm over the last axis, computed in float32."""

    def __init__(self, width: int, epsilon: float, dtype: Any = None) -> None:
        super().__init__(
            epsilon=epsilon,
            gamma_initializer=Initializer(constant=1.0),
            beta_initializer=Initializer(),
            dtype=dtype,
        )
        self.build((None, width))

    def call(self, x: Any) -> Any:
        """`(..., width)` -> `(..., width)`."""
        wide = ops.cast(x, "float32")
        mean, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
        y = tf.nn.batch_normalization(
            wide,
            mean,
            variance,
            ops.cast(self.beta, "float32"),
            ops.cast(self.gamma, "float32"),
            self.epsilon,
        )
        return ops.cast(y, x.dtype)


class LeanLayerNorm(LayerNorm):
    """Layer norm that keeps but its input for the gradient.

    Differs: PyTorch's own does so; TensorFlow would keep two tensors more.
    """

    def call(self, x: Any) -> Any:
        """`(..., width)` -> `(..., width)`."""

        @tf.custom_gradient
        def norm(x: Any, gamma: Any, beta: Any) -> tuple[Any, Any]:
            mean, variance = tf.nn.moments(tf.cast(x, tf.float32), axes=[-1], keepdims=True)
            scale = tf.math.rsqrt(variance + self.epsilon)

            def gradient(upstream: Any) -> tuple[Any, Any, Any]:
                dy = tf.cast(upstream, tf.float32)
                with after([dy]):  # not ahead of time
                    y = (tf.cast(x, tf.float32) - mean) * scale
                axes = list(range(len(x.shape) - 1))
                dgamma, dbeta = tf.reduce_sum(dy * y, axes), tf.reduce_sum(dy, axes)
                with after([dgamma, dbeta]):  # or the upstream gradient would be kept for them
                    dy = dy * gamma
                along = tf.reduce_mean(dy * y, -1, keepdims=True)
                dx = (dy - tf.reduce_mean(dy, -1, keepdims=True) - y * along) * scale
                return tf.cast(dx, x.dtype), dgamma, dbeta

            y = (tf.cast(x, tf.float32) - mean) * scale * gamma + beta
            return tf.cast(y, x.dtype), gradient

        return norm(x, *(ops.cast(part, "float32") for part in (self.gamma, self.beta)))


class VocabularyProjection(Block):
    """Scores every word of the vocabulary.

    The table lies as an embedding does, so that it can be tied to one, and is not transposed
    between the frameworks.
    """

    def __init__(
        self, width: int, words: int, stddev: float, use_bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        self.embeddings_initializer = Initializer(stddev)
        self.bias_initializer = Initializer()
        self.embeddings = self.add_weight(
            (words, width), self.embeddings_initializer, name="embeddings"
        )
        self.bias = None
        if use_bias:
            self.bias = self.add_weight((words,), self.bias_initializer, name="bias")

    @contextlib.contextmanager
    def transposed(self) -> Iterator[None]:
        """Turns the table over once, for the calls in a loop inside.

        XLA does so in every call otherwise, which costs more than the call.
        """
        table = tf.transpose(ops.cast(self.embeddings, self.compute_dtype))
        token = _TRANSPOSED.set({**_TRANSPOSED.get(), id(self.embeddings): table})
        try:
            yield
        finally:
            _TRANSPOSED.reset(token)

    def call(self, x: Any) -> Any:
        """`(..., width)` -> `(..., words)`."""
        flat = ops.reshape(x, (-1, x.shape[-1]))
        table = _TRANSPOSED.get().get(id(self.embeddings))
        bias = [] if self.bias is None else [_read(self.bias)]
        if table is None:
            y = _scored(flat, _read(self.embeddings), *bias)
        else:
            y = tf.nn.bias_add(tf.matmul(flat, table), *bias) if bias else tf.matmul(flat, table)
        return ops.reshape(y, (*dims(x)[:-1], self.embeddings.shape[0]))

    def resize(self, words: int) -> None:
        """Gives the vocabulary another size; rows that both sizes have keep their values."""
        _resize(self, "embeddings", words)
        if self.bias is not None:
            _resize(self, "bias", words)


def _read(variable: Any) -> Any:
    """A variable's value as its layer calculates with it."""
    return tf.convert_to_tensor(ops.convert_to_tensor(variable))


@tf.custom_gradient
def _scored(x: Any, table: Any, *bias: Any) -> tuple[Any, Any]:
    """`x @ table.T`, and the bias if there is one.

    TensorFlow would leave the gradients of both to the end, and keep the scores' until then.
    """

    def gradient(upstream: Any) -> tuple[Any, ...]:
        of_weights = [
            tf.matmul(upstream, x, transpose_a=True),
            *(tf.reduce_sum(upstream, 0) for _ in bias),
        ]
        with after(of_weights):
            return tf.matmul(upstream, table), *of_weights

    y = tf.matmul(x, table, transpose_b=True)
    return tf.nn.bias_add(y, *bias) if bias else y, gradient


def replace_part(layer: keras.layers.Layer, attribute: str, part: Any) -> None:
    """Lets a built layer use another variable or layer in the place of its own."""
    old, locked = getattr(layer, attribute), layer._tracker.locked
    layer._tracker.unlock()
    if isinstance(old, keras.Variable):
        layer._untrack_variable(old)
        layer._track_variable(part)
    else:
        layer._tracker.untrack(old)
    setattr(layer, attribute, part)
    if locked:
        layer._tracker.lock()


def resize_last_axis(layer: keras.layers.Layer, attribute: str, size: int) -> None:
    """Gives a variable another size; what both sizes have keeps its values, the rest is zero."""
    old = getattr(layer, attribute)
    kept = old[..., :size]
    behind = [[0, 0]] * (len(old.shape) - 1) + [[0, size - kept.shape[-1]]]
    values = tf.pad(ops.convert_to_tensor(kept), behind)
    new = keras.Variable(values, dtype=old.dtype, trainable=old.trainable, name=old.name)
    replace_part(layer, attribute, new)


def _resize(layer: keras.layers.Layer, attribute: str, rows: int) -> None:
    old = getattr(layer, attribute)
    kept = min(rows, old.shape[0])
    values = getattr(layer, f"{attribute.strip('_')}_initializer")(
        (rows, *old.shape[1:]), old.dtype
    )
    values = ops.concatenate([old[:kept], values[kept:]])
    new = keras.Variable(values, dtype=old.dtype, trainable=old.trainable, name=old.name)
    replace_part(layer, attribute, new)


class Seeds:
    """Seeds for the dropouts of one call, all drawn from one; None switches dropout off.

    A seed is drawn before a block runs and passed into it, so that a block that is recomputed in
    the backward pass drops the same units again.
    Differs: PyTorch replays the state of its generator.
    """

    def __init__(self, seed: Any | None) -> None:
        self._seed = seed
        self._count = 0

    def next(self) -> Any | None:
        if self._seed is None:
            return None
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)


def dropout(x: Any, rate: float, seed: Any | None) -> Any:
    """Zeroes a share `rate` of the elements and scales the rest; nothing if seed is None."""
    if seed is None or rate == 0.0:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, seed=seed, rng_alg="auto_select")

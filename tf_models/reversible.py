"""Reversible residual layers, whose activations are computed again in the backward pass.

Source: Gomez et al. 2017, "The reversible residual network"; Reformer (Kitaev et al. 2020),
section 3. A layer's inputs follow from its outputs, so that the memory for activations does not
grow with the number of layers:

    x1 ---------(+)-------+---> y1       y1 = x1 + attend(x2)       x2 = y2 - feed(y1)
                 |        |
            attend(x2)  feed(y1)
                 |        |
    x2 -----+----+-------(+)--> y2       y2 = x2 + feed(y1)         x1 = y1 - attend(x2)

Differs: PyTorch has a function for each layer but the last, whose activations it keeps, and hands
the streams from one to the next. Here all layers are one function, as TensorFlow would keep what a
layer's gradient is computed from, and each half of a layer is a graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from .in_turn import apart


def run_reversible(
    layers: Sequence[Any], calls: Sequence[Any], hidden: Any, plain: bool
) -> tuple[Any, Any, list[Any]]:
    """Runs layers, without keeping their activations for the gradient.

    Args:
        layers: have `attend(x2, call, memo)`, which returns what is added to x1 and a memo, for a
            second run to take from it what need not be computed again, and `feed(y1, call)`.
            What is random in there comes from seeds in `call`, so that a second run draws it again.
            Those of one `kind` differ in their weights alone.
        calls: what each layer is called with. `own()` has the tensors in which they differ,
            `having(own)` is the same call with others, and `found` has what a layer leaves.
        hidden: `(batch, sequence, hidden)`, of both streams.
        plain: whether to leave it to TensorFlow, which keeps all activations.
    Returns:
        Both streams, and the second behind each layer where `plain`.
    """
    if plain:
        x1 = x2 = hidden
        states = []
        for layer, call in zip(layers, calls, strict=True):
            attended, _ = layer.attend(x2, call, None)
            x1 = x1 + tf.cast(attended, x1.dtype)
            x2 = x2 + tf.cast(layer.feed(x1, call), x2.dtype)
            states.append(x2)
        return x1, x2, states

    weights = [[tf.convert_to_tensor(variable) for variable in layer.weights] for layer in layers]

    @tf.custom_gradient
    def run(hidden: Any, weights: Any) -> tuple[Any, Callable[..., Any]]:
        x1 = x2 = tf.stop_gradient(hidden)  # differentiated below
        halves = _Halves(layers, calls, tf.nest.map_structure(tf.stop_gradient, weights))
        memos = []
        for number, call in enumerate(calls):
            attended, memo, found = halves.run(_attend, number, x2)
            call.found.update(found)
            memos.append(memo)
            x1 = x1 + tf.cast(attended, x1.dtype)
            x2 = x2 + tf.cast(halves.run(_feed, number, x1), x2.dtype)

        def gradient(dy1: Any, dy2: Any) -> Any:
            return _backward(halves, memos, (x1, x2), (dy1, dy2))

        return (x1, x2), gradient

    x1, x2 = run(hidden, weights)
    return x1, x2, []


def _backward(
    halves: _Halves, memos: Sequence[Any], streams: tuple[Any, Any], upstream: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Gradients of what the layers began with and of the weights, from the last to the first."""
    y1, y2, dy1, dy2 = (tf.stop_gradient(x) for x in (*streams, *upstream))
    total = []
    for number, memo in reversed(list(enumerate(memos))):
        fed, dx, feeding = halves.run(_feed_gradients, number, y1, dy2)
        x2, dy1 = y2 - tf.cast(fed, y2.dtype), dy1 + dx
        attended, dx, attending = halves.run(_attend_gradients, number, x2, dy1, memo)
        y1, y2, dy2 = y1 - tf.cast(attended, y1.dtype), x2, dy2 + dx
        total.append([a if b is None else b for a, b in zip(feeding, attending, strict=True)])
    return dy1 + dy2, total[::-1]


class _Halves:
    """Runs halves of layers, each in a graph of its own, which those of a kind share.

    So one half has ended before the next begins, and the graph hardly grows with the layers.
    """

    def __init__(self, layers: Sequence[Any], calls: Sequence[Any], weights: Any) -> None:
        self.layers, self.calls, self.weights = layers, calls, weights
        self.functions: dict[Any, Callable[..., Any]] = {}

    def run(self, half: Callable[..., Any], number: int, *tensors: Any) -> Any:
        layer, call = self.layers[number], self.calls[number]
        key = half, layer.kind
        if key not in self.functions:

            def run(weights: Any, own: Any, *tensors: Any) -> Any:
                return half(layer, call.having(own), weights, *tensors)

            self.functions[key] = apart(run)
        return self.functions[key](self.weights[number], call.own(), *tensors)


def _using(layer: Any, weights: Sequence[Any]) -> Any:
    """A scope in which the layer has these weights."""
    return keras.StatelessScope(zip(layer.weights, weights, strict=True))


def _attend(layer: Any, call: Any, weights: Any, x: Any) -> tuple[Any, Any, Any]:
    with _using(layer, weights):
        return *layer.attend(x, call, None), call.found


def _feed(layer: Any, call: Any, weights: Any, x: Any) -> Any:
    with _using(layer, weights):
        return layer.feed(x, call)


def _attend_gradients(
    layer: Any, call: Any, weights: Any, x: Any, upstream: Any, memo: Any
) -> tuple[Any, Any, list[Any]]:
    return _gradients(layer, lambda x: layer.attend(x, call, memo)[0], weights, x, upstream)


def _feed_gradients(
    layer: Any, call: Any, weights: Any, x: Any, upstream: Any
) -> tuple[Any, Any, list[Any]]:
    return _gradients(layer, lambda x: layer.feed(x, call), weights, x, upstream)


def _gradients(
    layer: Any, function: Callable[[Any], Any], weights: Sequence[Any], x: Any, upstream: Any
) -> tuple[Any, Any, list[Any]]:
    """The function's value at x, and the gradients of x and of the weights."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([x, *weights])
        with _using(layer, weights):
            y = function(x)
    found = tape.gradient(y, [x, *weights], tf.cast(upstream, y.dtype))
    return y, found[0], found[1:]

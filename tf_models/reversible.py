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
layer's gradient is computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf


def run_reversible(
    layers: Sequence[Any], calls: Sequence[Any], hidden: Any, plain: bool
) -> tuple[Any, Any, list[Any]]:
    """Runs layers, without keeping their activations for the gradient.

    Args:
        layers: have `attend(x2, call, memo)`, which returns what is added to x1 and a memo, for a
            second run to take from it what need not be computed again, and `feed(y1, call)`.
            What is random in there comes from seeds in `call`, so that a second run draws it again.
        calls: what each layer is called with.
        hidden: `(batch, sequence, hidden)`, of both streams.
        plain: whether to leave it to TensorFlow, which keeps all activations.
    Returns:
        Both streams, and the second behind each layer where `plain`.
    """
    if plain:
        x1 = x2 = hidden
        states = []
        for layer, call in zip(layers, calls, strict=True):
            x1, x2, _ = _forward(layer, x1, x2, call)
            states.append(x2)
        return x1, x2, states

    @tf.custom_gradient
    def run(hidden: Any) -> tuple[Any, Callable[..., Any]]:
        x1 = x2 = hidden
        memos = []
        for layer, call in zip(layers, calls, strict=True):
            x1, x2, memo = _forward(layer, x1, x2, call)
            memos.append(memo)

        def gradient(dy1: Any, dy2: Any, variables: Any = None) -> Any:
            return _backward(layers, calls, memos, (x1, x2), (dy1, dy2), variables or [])

        return (x1, x2), gradient

    x1, x2 = run(hidden)
    return x1, x2, []


def _forward(layer: Any, x1: Any, x2: Any, call: Any) -> tuple[Any, Any, Any]:
    attended, memo = layer.attend(x2, call, None)
    y1 = x1 + tf.cast(attended, x1.dtype)
    return y1, x2 + tf.cast(layer.feed(y1, call), x2.dtype), memo


def _backward(
    layers: Sequence[Any],
    calls: Sequence[Any],
    memos: Sequence[Any],
    streams: tuple[Any, Any],
    upstream: tuple[Any, Any],
    variables: Sequence[Any],
) -> tuple[Any, list[Any]]:
    """Gradients of what the layers began with and of the variables, from the last to the first."""
    (y1, y2), (dy1, dy2) = streams, upstream
    total: list[Any] = [None] * len(variables)
    for layer, call, memo in reversed(list(zip(layers, calls, memos, strict=True))):
        fed, dx, feeding = _gradients(partial(layer.feed, call=call), y1, dy2, variables)
        x2, dy1 = y2 - tf.cast(fed, y2.dtype), dy1 + dx
        total = [_sum(parts) for parts in zip(total, feeding, strict=True)]
        y1, x2, dy1, dy2 = _after(total, y1, x2, dy1, dy2)
        attend = partial(layer.attend, call=call, memo=memo)
        attended, dx, attending = _gradients(lambda x: attend(x)[0], x2, dy1, variables)  # noqa: B023
        y1, y2, dy2 = y1 - tf.cast(attended, y1.dtype), x2, dy2 + dx
        total = [_sum(parts) for parts in zip(total, attending, strict=True)]
        y1, y2, dy1, dy2 = _after(total, y1, y2, dy1, dy2)
    return dy1 + dy2, total


def _after(total: Sequence[Any], *streams: Any) -> list[Any]:
    """The streams, when the gradients of variables are there.

    These would be left to the end, and what they are made of would be kept for so long.
    """
    with tf.control_dependencies([x for x in total if x is not None]):
        return [tf.identity(x) for x in streams]


def _sum(parts: Sequence[Any]) -> Any:
    """Of what there is, None if there is nothing."""
    found = [part for part in parts if part is not None]
    return tf.add_n(found) if found[1:] else found[0] if found else None


def _gradients(
    function: Callable[[Any], Any], x: Any, upstream: Any, variables: Sequence[Any]
) -> tuple[Any, Any, list[Any]]:
    """The function's value at x, and the gradients of x and of the variables."""
    x = tf.stop_gradient(x)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        for variable in variables:
            tape.watch(variable)
        y = function(x)
    found = tape.gradient(y, [x, *variables], tf.cast(upstream, y.dtype))
    return tf.stop_gradient(y), found[0], found[1:]

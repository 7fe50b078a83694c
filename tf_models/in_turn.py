"""Parts of a graph that run one after another, so that what one holds is gone before the next.

TensorFlow runs whatever it can as soon as it can, in any order. Of layers that are one graph it
would compute all masks at the start, and leave the weights' gradients, with all that they are made
of, to the end.

Differs: PyTorch runs things in the order in which they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same as a graph of its own, where it becomes part of one.

    A call starts when all it is given is there and has ended before any of its results is; all
    calls share the graph.
    """
    if not tf.inside_function():
        return function
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def after(tensors: Sequence[Any]) -> Any:
    """A scope in which nothing runs before these tensors are there."""
    return tf.control_dependencies(tensors if tf.inside_function() else [])


def in_turn(
    function: Callable[[Any], Sequence[Any]], numbers: Sequence[int], axes: Sequence[int]
) -> list[Any]:
    """What a function returns for some numbers, one after another.

    Args:
        axes: along which its results are joined.
    """
    if len(numbers) == 1:
        return list(function(numbers[0]))
    function, found = apart(function), []
    for number in numbers:
        with after(found[-1] if found else []):
            found.append(function(_unfolded(number)))
    return [tf.concat(parts, axis) for *parts, axis in zip(*found, axes, strict=True)]


def _unfolded(number: int) -> Any:
    """A number that is no constant: each would get a graph of its own, made for it."""
    return tf.compat.v1.placeholder_with_default(number, ()) if tf.inside_function() else number

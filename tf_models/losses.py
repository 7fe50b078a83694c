"""Losses of the heads. All are scalars in float32, also where the weights are half precision."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops

from zoo import checks

from .modeling import assert_values

IGNORED = -100


def cross_entropy(logits: Any, labels: Any, ignored: Any = IGNORED, name: str = "labels") -> Any:
    """Mean over the labels that are not `ignored`; zero if all are.

    Args:
        logits: `(..., classes)`.
        labels: `(...)`, integers.
        name: of the labels, for errors.
    """
    checks.label_shape(name, labels.shape, logits.shape[:-1])
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    logits = ops.cast(
        ops.reshape(logits, (-1, logits.shape[-1] or ops.shape(logits)[-1])), "float32"
    )
    assert_values(name, labels, logits.shape[-1], ignored)
    counts = ops.cast(ops.not_equal(labels, ignored), "float32")
    # The fused kernel; an ignored label is looked up as class 0 and weighs nothing.
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels * ops.cast(counts, "int32"), logits
    )
    return ops.sum(each * counts) / ops.maximum(ops.sum(counts), 1.0)


def next_token_loss(logits: Any, labels: Any) -> Any:
    """Cross entropy of each position's prediction of the following label.

    Args:
        logits: `(batch, sequence, vocab)`.
        labels: `(batch, sequence)`, the inputs themselves, not yet shifted.
    """
    checks.label_shape("labels", labels.shape, logits.shape[:-1])
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def shift_tokens_right(labels: Any, pad_token_id: int, decoder_start_token_id: int) -> Any:
    """What a decoder reads to predict the labels: the start token, then all but the last of them.

    Args:
        labels: `(batch, sequence)`; -100 becomes padding.
    Returns:
        `(batch, sequence)`.
    """
    labels = ops.cast(labels, "int32")
    start = ops.full_like(labels[:, :1], decoder_start_token_id)
    shifted = ops.concatenate([start, labels[:, :-1]], axis=1)
    return ops.where(ops.equal(shifted, IGNORED), pad_token_id, shifted)


def classification_loss(logits: Any, labels: Any, config: Any) -> Any:
    """Regression, single-label or multi-label, by `config.problem_type`.

    Where the problem type is not set, one label means regression, integer labels mean one class
    per example, and others mean one independent probability per class.

    Args:
        logits: `(batch, labels)`.
        labels: `(batch,)`, or `(batch, labels)` for several targets; a scalar for one example.
    """
    labels = ops.convert_to_tensor(labels)
    problem = config.problem_type
    if problem is None:
        integers = labels.dtype.is_integer
        problem = (
            "regression" if config.num_labels == 1
            else "single_label_classification" if integers
            else "multi_label_classification"
        )  # fmt: skip
    if problem == "single_label_classification":
        return cross_entropy(logits, labels[None] if labels.shape.rank == 0 else labels)
    if config.num_labels == 1:
        logits, labels = ops.reshape(logits, (-1,)), ops.reshape(labels, (-1,))
    if not labels.shape.is_compatible_with(logits.shape):
        raise ValueError(
            f"labels: expected shape {tuple(logits.shape)} for {problem}, got {tuple(labels.shape)}"
        )
    logits, labels = ops.cast(logits, "float32"), ops.cast(labels, "float32")
    if problem == "regression":
        return ops.mean(ops.square(logits - labels))
    return ops.mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def span_loss(start_logits: Any, end_logits: Any, start_positions: Any, end_positions: Any) -> Any:
    """Mean of the cross entropies of a span's first and last token.

    Positions outside the sequence are left out.

    Args:
        start_logits, end_logits: `(batch, sequence)`.
        start_positions, end_positions: `(batch,)` or `(batch, 1)`.
    """
    sequence = ops.shape(start_logits)[1]
    start, end = (
        ops.clip(ops.reshape(ops.cast(x, "int32"), (-1,)), 0, sequence)
        for x in (start_positions, end_positions)
    )
    return (
        cross_entropy(start_logits, start, sequence, "start_positions")
        + cross_entropy(end_logits, end, sequence, "end_positions")
    ) / 2


def marginal_loss(logits: Any, correct: Any) -> Any:
    """Minus the log of the probability of all that is correct; zero where nothing is.

    Args:
        logits: `(batch, choices)`.
        correct: `(batch, choices)`, booleans.
    Returns:
        `(batch,)`.
    """
    logits = ops.cast(logits, "float32")
    found = ops.logsumexp(ops.where(correct, logits, logits.dtype.min), axis=-1)
    each = ops.logsumexp(logits, axis=-1) - found
    return ops.where(ops.any(correct, axis=-1), each, 0.0)

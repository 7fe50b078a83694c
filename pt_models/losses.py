"""Losses of the heads. All are scalars in float32, also where the weights are half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo import checks

from .modeling import assert_values

IGNORED = -100


def cross_entropy(
    logits: Tensor, labels: Tensor, ignored: int = IGNORED, name: str = "labels"
) -> Tensor:
    """Mean over the labels that are not `ignored`; zero if all are.

    Args:
        logits: `(..., classes)`.
        labels: `(...)`, integers.
        name: of the labels, for errors.
    """
    checks.label_shape(name, labels.shape, logits.shape[:-1])
    labels = labels.reshape(-1).long()
    assert_values(name, labels, logits.shape[-1], ignored)
    logits = logits.reshape(-1, logits.shape[-1]).float()
    total = functional.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum")
    return total / (labels != ignored).sum().clamp(min=1)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each position's prediction of the following label.

    Args:
        logits: `(batch, sequence, vocab)`.
        labels: `(batch, sequence)`, the inputs themselves, not yet shifted.
    """
    checks.label_shape("labels", labels.shape, logits.shape[:-1])
    return cross_entropy(logits[:, :-1], labels[:, 1:])


def shift_tokens_right(labels: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """What a decoder reads to predict the labels: the start token, then all but the last of them.

    Args:
        labels: `(batch, sequence)`; -100 becomes padding.
    Returns:
        `(batch, sequence)`.
    """
    start = torch.full_like(labels[:, :1], decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, pad_token_id)


def classification_loss(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """Regression, single-label or multi-label, by `config.problem_type`.

    Where the problem type is not set, one label means regression, integer labels mean one class
    per example, and others mean one independent probability per class.

    Args:
        logits: `(batch, labels)`.
        labels: `(batch,)`, or `(batch, labels)` for several targets; a scalar for one example.
    """
    problem = config.problem_type
    if problem is None:
        integers = not (labels.is_floating_point() or labels.dtype == torch.bool)
        problem = (
            "regression" if config.num_labels == 1
            else "single_label_classification" if integers
            else "multi_label_classification"
        )  # fmt: skip
    if problem == "single_label_classification":
        return cross_entropy(logits, labels.reshape(-1) if labels.dim() == 0 else labels)
    if config.num_labels == 1:
        logits, labels = logits.reshape(-1), labels.reshape(-1)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels: expected shape {tuple(logits.shape)} for {problem}, got {tuple(labels.shape)}"
        )
    if problem == "regression":
        return functional.mse_loss(logits.float(), labels.float())
    return functional.binary_cross_entropy_with_logits(logits.float(), labels.float())


def span_loss(
    start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor
) -> Tensor:
    """Mean of the cross entropies of a span's first and last token.

    Positions outside the sequence are left out.

    Args:
        start_logits, end_logits: `(batch, sequence)`.
        start_positions, end_positions: `(batch,)` or `(batch, 1)`.
    """
    sequence = start_logits.shape[1]
    start, end = (x.reshape(-1).clamp(0, sequence) for x in (start_positions, end_positions))
    return (
        cross_entropy(start_logits, start, sequence, "start_positions")
        + cross_entropy(end_logits, end, sequence, "end_positions")
    ) / 2


def marginal_loss(logits: Tensor, correct: Tensor) -> Tensor:
    """Minus the log of the probability of all that is correct; zero where nothing is.

    Args:
        logits: `(batch, choices)`.
        correct: `(batch, choices)`, booleans.
    Returns:
        `(batch,)`.
    """
    logits = logits.float()
    lowest = torch.finfo(logits.dtype).min
    found = torch.logsumexp(logits.masked_fill(~correct, lowest), -1)
    return torch.where(correct.any(-1), torch.logsumexp(logits, -1) - found, 0.0)

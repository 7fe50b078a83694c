"""How well questions were answered, by REALM and by RAG alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from zoo.training.questions import Question

RECALL_AT = (1, 5, 20)
AT_ONCE = 16  # questions


@dataclass(frozen=True)
class Scores:
    """How well questions were answered; everything from 0 to 100.

    Args:
        questions: how many.
        exact_match, f1: of the best answer, after the official normalisation.
        recall: by k, the share of questions with an answer in one of the first k passages.
        bm25: the same of a search by words.
    """

    questions: int
    exact_match: float
    f1: float
    recall: dict[int, float]
    bm25: dict[int, float]

    def rows(self, name: str) -> dict[str, dict[int, float]]:
        """The rows of a table, of which the first is the model's."""
        return {name: self.recall, "BM25": self.bm25}


@dataclass(frozen=True)
class ParagraphScores(Scores):
    """As `Scores`, and how often the right paragraph was found.

    Args:
        paragraph, bm25_paragraph: by k, the share whose own paragraph one of the first k passages
            is from; empty where the file does not name it.
    """

    paragraph: dict[int, float] = field(default_factory=dict)
    bm25_paragraph: dict[int, float] = field(default_factory=dict)

    def rows(self, name: str) -> dict[str, dict[int, float]]:
        answers, paragraphs = (self.recall, self.bm25), (self.paragraph, self.bm25_paragraph)
        return {
            f"{who}, {what}": found
            for what, both in (("an answer", answers), ("the paragraph", paragraphs))
            for who, found in zip((name, "BM25"), both, strict=True)
        }


def shares(right: Sequence[Sequence[bool]], ks: Sequence[int]) -> dict[int, float]:
    """By k, the share of rows with something right among the first k."""
    return {k: 100.0 * sum(any(row[:k]) for row in right) / max(len(right), 1) for k in ks}


def answer_scores(predictions: Sequence[str], questions: Sequence[Question]) -> tuple[float, float]:
    """Mean exact match and F1 of predictions."""
    from .metrics import answer_exact_match, answer_f1

    pairs = [(p, q.answers) for p, q in zip(predictions, questions, strict=True)]
    count = max(len(pairs), 1)
    return (
        sum(answer_exact_match(*pair) for pair in pairs) / count,
        sum(answer_f1(*pair) for pair in pairs) / count,
    )


def print_scores(name: str, scores: Scores, console: Console) -> None:
    """Prints the scores of a model."""
    from rich import box
    from rich.table import Table

    ks = list(scores.recall)
    table = Table(*["", *(f"recall@{k}" for k in ks), "exact match", "F1"], box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    right = [f"{scores.exact_match:.1f}", f"{scores.f1:.1f}"]
    for row, found in scores.rows(name).items():
        if found:
            table.add_row(row, *(f"{found[k]:.1f}" for k in ks), *right)
            right = ["", ""]
    table.title = f"{scores.questions} questions"
    console.print(table)


def scores_as_json(scores: Scores) -> dict[str, Any]:
    """As JSON can hold it, with the k as text."""
    return {
        name: {str(k): share for k, share in value.items()} if isinstance(value, dict) else value
        for name, value in asdict(scores).items()
    }


def question_inputs(model: Any, texts: Sequence[str], longest: int) -> dict[str, Any]:
    """Questions as a model's encoder takes them, cut to so many tokens."""
    return tensors_for(model, model.retriever.tokenize_questions(list(texts), longest))


def tensors_for(model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as tensors of a model's framework, where the model is."""
    if type(model).__module__.startswith("pt_models"):
        import torch

        return {name: torch.from_numpy(x).long().to(model.device) for name, x in arrays.items()}
    import tensorflow as tf

    return {name: tf.constant(x, tf.int64) for name, x in arrays.items()}

"""`zoo evaluate rag`: recall of what RAG retrieves, exact match and F1 of what it answers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from zoo.configs import RagConfig
from zoo.retrieval.bm25 import BM25
from zoo.retrieval.rag import RagRetriever
from zoo.training.questions import Question, holds, plain_words

from .ask import RECALL_AT, answer_scores

CLASSES = ("RagTokenForGeneration", "RagSequenceForGeneration")
LONGEST = 32  # tokens of an answer, unless asked for otherwise
_AT_ONCE = 16  # questions


@dataclass(frozen=True)
class Scores:
    """How well questions were answered; everything from 0 to 100.

    Args:
        questions: how many.
        exact_match, f1: of the best answer, after the official normalisation.
        recall: by k, the share of questions with an answer, as whole words, in one of the first k
            passages.
        bm25: the same of a search by words.
        paragraph, bm25_paragraph: by k, the share whose own paragraph one of the first k passages
            is from; empty where the file does not name it.
    """

    questions: int
    exact_match: float
    f1: float
    recall: dict[int, float]
    bm25: dict[int, float]
    paragraph: dict[int, float] = field(default_factory=dict)
    bm25_paragraph: dict[int, float] = field(default_factory=dict)


def open_model(folder: str | os.PathLike[str], framework: str = "pt") -> Any:
    """A RAG model with its retriever.

    Args:
        folder: of the model, its tokenizers and its index; or a repository.
        framework: `pt` or `tf`.

    Raises:
        ValueError: no RAG model with a loss.
    """
    config = RagConfig.from_pretrained(folder)
    name = next((x.removeprefix("TF") for x in config.architectures or ()), None)
    if name not in CLASSES:
        raise ValueError(f"{folder}: {name} in its config.json, expected {' or '.join(CLASSES)}")
    models = importlib.import_module(f"{framework}_models")
    model_class = getattr(models, name if framework == "pt" else f"TF{name}")
    retriever = RagRetriever.from_pretrained(folder, config=config)
    model = model_class.from_pretrained(folder, retriever=retriever)
    return model.eval() if framework == "pt" else model


def evaluate(
    model: Any,
    questions: Sequence[Question],
    ks: Sequence[int] = RECALL_AT,
    words: bool = True,
    **generation: Any,
) -> Scores:
    """Answers questions and counts.

    Args:
        model: with its retriever.
        questions: with their answers.
        ks: how many passages count for recall.
        words: whether to search by words too, over all passages.
        generation: arguments of `generate`.
    """
    texts = [question.text for question in questions]
    given = answers(model, texts, **({"max_new_tokens": LONGEST} | generation))
    exact, f1 = answer_scores(given, questions)
    passages = _Passages(model.retriever)
    most = min(max(ks), len(passages.ids))
    found = passages.places(retrieved(model, texts, most))
    scores = {"recall": passages.recall(questions, found, ks), "bm25": {}}
    if all(question.context for question in questions):
        scores["paragraph"] = passages.of_paragraph(questions, found, ks)
    if words:
        by_words, _ = BM25(passages.headed()).search(texts, most)
        scores["bm25"] = passages.recall(questions, by_words, ks)
        if "paragraph" in scores:
            scores["bm25_paragraph"] = passages.of_paragraph(questions, by_words, ks)
    return Scores(len(questions), exact, f1, **scores)


def answers(model: Any, texts: Sequence[str], **generation: Any) -> list[str]:
    """The best answer to each question.

    Args:
        model: with its retriever.
        texts: questions.
        generation: arguments of `generate`.
    """
    found: list[str] = []
    tokenizer = model.retriever.generator_tokenizer
    for start in range(0, len(texts), _AT_ONCE):
        inputs = _tensors(model, texts[start : start + _AT_ONCE])
        sequences = model.generate(**inputs, **generation)
        decoded = tokenizer.batch_decode(np.asarray(sequences), skip_special_tokens=True)
        found.extend(text.strip() for text in decoded)
    return found


def retrieved(model: Any, texts: Sequence[str], k: int) -> np.ndarray:
    """The passages that a model finds for questions, best first, `(questions, k)`."""
    found = []
    for start in range(0, len(texts), _AT_ONCE):
        vectors = _vectors(model, _tensors(model, texts[start : start + _AT_ONCE]))
        found.append(model.retriever.index.index.search(vectors, k)[0])
    return np.concatenate(found)


def _vectors(model: Any, inputs: dict[str, Any]) -> np.ndarray:
    if type(model).__module__.startswith("pt_models"):
        import torch

        with torch.inference_mode():
            return model.question_encoder(**inputs, return_dict=True)[0].float().cpu().numpy()
    return np.asarray(model.question_encoder(**inputs, return_dict=True)[0], np.float32)


def _tensors(model: Any, texts: Sequence[str]) -> dict[str, Any]:
    """What a question encoder takes."""
    encoded = model.retriever.question_encoder_tokenizer(
        list(texts), padding=True, truncation=True, return_tensors="np",
        max_length=model.config.question_encoder.max_position_embeddings, verbose=False,
    )  # fmt: skip
    arrays = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    if type(model).__module__.startswith("pt_models"):
        import torch

        return {name: torch.from_numpy(x).long().to(model.device) for name, x in arrays.items()}
    import tensorflow as tf

    return {name: tf.constant(x, tf.int64) for name, x in arrays.items()}


class _Passages:
    """All passages of a retriever, by their places in the order of their ids."""

    def __init__(self, retriever: Any):
        stored = retriever.index
        self.ids = np.sort(stored.index.ids())
        docs = stored.get_doc_dicts(self.ids[None])[0]
        self.titles, self.texts = docs["title"], docs["text"]
        self._plain: dict[int, str] = {}

    def headed(self) -> Iterable[str]:
        """With their titles."""
        return (f"{title} {text}" for title, text in zip(self.titles, self.texts, strict=True))

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Places of ids; -1 for none."""
        return np.where(ids >= 0, np.searchsorted(self.ids, np.maximum(ids, 0)), -1)

    def recall(
        self, questions: Sequence[Question], found: np.ndarray, ks: Sequence[int]
    ) -> dict[int, float]:
        """The share of questions with an answer in one of the first k passages."""
        for place in set(found.ravel().tolist()) - set(self._plain):
            self._plain[place] = plain_words(self.texts[place]) if place >= 0 else ""
        right = [
            [holds(self._plain[place], question.answers) for place in row]
            for question, row in zip(questions, found.tolist(), strict=True)
        ]
        return _shares(right, ks)

    def of_paragraph(
        self, questions: Sequence[Question], found: np.ndarray, ks: Sequence[int]
    ) -> dict[int, float]:
        """The share of questions with one of the first k passages from their paragraph."""
        right = []
        for question, row in zip(questions, found.tolist(), strict=True):
            whole = " ".join((question.context or "").split())
            parts = (" ".join(self.texts[i].split()) if i >= 0 else "\0" for i in row)
            right.append([part in whole for part in parts])
        return _shares(right, ks)


def _shares(right: Sequence[Sequence[bool]], ks: Sequence[int]) -> dict[int, float]:
    return {k: 100.0 * sum(any(row[:k]) for row in right) / max(len(right), 1) for k in ks}


def print_scores(scores: Scores, console: Console) -> None:
    """Prints what `evaluate` found."""
    from rich import box
    from rich.table import Table

    ks = list(scores.recall)
    table = Table(*["", *(f"recall@{k}" for k in ks), "exact match", "F1"], box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(name: str, found: dict[int, float], *more: str) -> None:
        if found:
            table.add_row(name, *(f"{found[k]:.1f}" for k in ks), *(more or ("", "")))

    row("RAG, an answer", scores.recall, f"{scores.exact_match:.1f}", f"{scores.f1:.1f}")
    row("BM25, an answer", scores.bm25)
    row("RAG, the paragraph", scores.paragraph)
    row("BM25, the paragraph", scores.bm25_paragraph)
    table.title = f"{scores.questions} questions"
    console.print(table)


def scores_as_json(scores: Scores) -> dict[str, Any]:
    """As JSON can hold it, with the k as text."""
    return {
        name: {str(k): share for k, share in value.items()} if isinstance(value, dict) else value
        for name, value in asdict(scores).items()
    }

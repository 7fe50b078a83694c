"""`zoo evaluate rag`: recall of what RAG retrieves, exact match and F1 of what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from zoo.retrieval.bm25 import BM25
from zoo.training.questions import Question, holds, plain_words

from .scores import AT_ONCE, RECALL_AT, ParagraphScores, answer_scores, question_inputs, shares

LONGEST = 32  # tokens of an answer, unless asked for otherwise


def evaluate(
    model: Any,
    questions: Sequence[Question],
    ks: Sequence[int] = RECALL_AT,
    words: bool = True,
    **generation: Any,
) -> ParagraphScores:
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
    return ParagraphScores(len(questions), exact, f1, **scores)


def answers(model: Any, texts: Sequence[str], **generation: Any) -> list[str]:
    """The best answer to each question.

    Args:
        model: with its retriever.
        texts: questions.
        generation: arguments of `generate`.
    """
    found: list[str] = []
    tokenizer = model.retriever.generator_tokenizer
    for start in range(0, len(texts), AT_ONCE):
        inputs = _inputs(model, texts[start : start + AT_ONCE])
        sequences = model.generate(**inputs, **generation)
        decoded = tokenizer.batch_decode(np.asarray(sequences), skip_special_tokens=True)
        found.extend(text.strip() for text in decoded)
    return found


def retrieved(model: Any, texts: Sequence[str], k: int) -> np.ndarray:
    """The passages that a model finds for questions, best first, `(questions, k)`."""
    found = []
    for start in range(0, len(texts), AT_ONCE):
        vectors = _vectors(model, _inputs(model, texts[start : start + AT_ONCE]))
        found.append(model.retriever.index.index.search(vectors, k)[0])
    return np.concatenate(found)


def _vectors(model: Any, inputs: dict[str, Any]) -> np.ndarray:
    if type(model).__module__.startswith("pt_models"):
        import torch

        with torch.inference_mode():
            return model.question_encoder(**inputs, return_dict=True)[0].float().cpu().numpy()
    return np.asarray(model.question_encoder(**inputs, return_dict=True)[0], np.float32)


def _inputs(model: Any, texts: Sequence[str]) -> dict[str, Any]:
    return question_inputs(model, texts, model.config.question_encoder.max_position_embeddings)


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
        return shares(right, ks)

    def of_paragraph(
        self, questions: Sequence[Question], found: np.ndarray, ks: Sequence[int]
    ) -> dict[int, float]:
        """The share of questions with one of the first k passages from their paragraph."""
        right = []
        for question, row in zip(questions, found.tolist(), strict=True):
            whole = " ".join((question.context or "").split())
            parts = (" ".join(self.texts[i].split()) if i >= 0 else "\0" for i in row)
            right.append([part in whole for part in parts])
        return shares(right, ks)

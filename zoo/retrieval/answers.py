"""Spans or sequences of tokens to answers in words, in either framework.

What comes after REALM's reader and after RAG's generator.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..tokenizers.wordpiece import PREFIX, character_kind

if TYPE_CHECKING:
    from .rag import RagRetriever

UNFINISHED = "\ufffd"  # in the place of bytes that are no character yet


class Answer(NamedTuple):
    """An answer with its evidence.

    Args:
        text: the answer, as it stands in the block: `block[start:end]`.
        score: the sum of the two others; a better answer has a larger one.
        reader_score: how much the reader thinks that this span answers the question.
        retriever_score: relevance of the block to the question.
        block_id: number of the block of evidence.
        block: its text.
        start, end: where the answer stands in the block, in characters.
    """

    text: str
    score: float
    reader_score: float
    retriever_score: float
    block_id: int
    block: str
    start: int
    end: int


class Span(NamedTuple):
    """A span of tokens: of which block (its rank), from which token to which, and its score."""

    block: int
    start: int
    end: int
    score: float


def span_bounds(length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last tokens of all spans, in the order of the reader's candidates.

    Args:
        length: number of tokens.
        width: of the longest span.
    Returns:
        Two arrays `(spans,)`: all spans of one token, then all of two, and so on.
    """
    widths = range(min(width, length))
    starts = np.concatenate([np.arange(length - more) for more in widths])
    ends = np.concatenate([np.arange(more, length) for more in widths])
    return starts, ends


def best_spans(scores: np.ndarray, length: int, width: int, count: int) -> list[Span]:
    """The spans with the highest scores, best first; of equal ones the first.

    Args:
        scores: `(blocks, spans)`; the lowest number of the type stands for no span.
        length: number of tokens.
        width: of the longest span.
        count: how many.
    """
    starts, ends = span_bounds(length, width)
    flat = scores.reshape(-1)
    best = np.argpartition(-flat, count)[:count] if count < flat.size else np.arange(flat.size)
    best = np.sort(best)
    best = best[np.argsort(-flat[best], kind="stable")]
    lowest = np.finfo(flat.dtype).min / 2
    return [
        Span(int(row), int(starts[span]), int(ends[span]), float(scores[row, span]))
        for row, span in zip(*np.unravel_index(best, scores.shape), strict=True)
        if scores[row, span] > lowest
    ]


def locate_pieces(text: str, pieces: Sequence[str], unknown: str) -> list[tuple[int, int]]:
    """Where the pieces of a WordPiece tokenizer stand in the text that they were cut from.

    Tokenizers written in Python keep no track of characters. Text and pieces are compared without
    case and accents, one piece after the other.

    Args:
        text: the text.
        pieces: its pieces, or the first of them.
        unknown: the token that stands for a whole word.
    Returns:
        First character of each piece and the one behind its last.
    """
    folded = [(plain, place) for place, c in enumerate(text) for plain in _folded(c)]
    line = "".join(plain for plain, _ in folded)
    found, here, behind = [], 0, 0
    for piece in pieces:
        core = "".join(map(_folded, piece.removeprefix(PREFIX) or piece))
        if piece == unknown:
            while here < len(line) and line[here].isspace():
                here += 1
            end = here + 1
            while end < len(line) and character_kind(line[end]) == "letter":
                end += 1
        else:
            here = max(line.find(core, here), here)
            end = here + len(core)
        end = min(end, len(line))
        if here < end:
            first, behind = folded[here][1], folded[end - 1][1] + 1
        else:
            first = behind
        found.append((first, behind))
        here = end
    return found


@lru_cache(maxsize=1 << 16)
def _folded(character: str) -> str:
    """A character without case and accents; nothing of one that tokenizers drop."""
    if character_kind(character) in ("drop", "space"):
        return " " if character_kind(character) == "space" else ""
    decomposed = unicodedata.normalize("NFD", character.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


# RAG ----------------------------------------------------------------------------------------------


class RagEvidence(NamedTuple):
    """A passage that an answer was generated from.

    Args:
        id: its number in the index.
        title, text: the passage.
        score: relevance to the question, the inner product of the vectors.
        share: the passage's share of the answer's probability. RAG-Sequence: the posterior
            p(z|x) p(y|x, z) / p(y|x) that the answer came from this passage. RAG-Token, where each
            token may come from another passage: the mean of `shares_per_token`, which is the share
            of the answer's tokens that can be expected to have come from this one.
        shares_per_token: RAG-Token: for each token the posterior
            p(z|x) p(y_i|x, z, y_<i) / p(y_i|x, y_<i); None with RAG-Sequence.
    """

    id: int
    title: str
    text: str
    score: float
    share: float
    shares_per_token: tuple[float, ...] | None


class RagAnswer(NamedTuple):
    """A generated answer with the passages that it was generated from.

    Args:
        text: the answer, as the generator's tokenizer decodes it, without special tokens.
        score: logarithm of `probability`.
        probability: p(y|x), given these passages; of all tokens in `tokens`.
        tokens: the texts of the answer's tokens, special ones by name. The start token and the bos
            token behind it are no part of the answer; the end token, the last, is.
        passages: most relevant first; their shares sum to one.
    """

    text: str
    score: float
    probability: float
    tokens: tuple[str, ...]
    passages: tuple[RagEvidence, ...]


class Weighed(NamedTuple):
    """Probabilities of answers, and where they come from.

    Args:
        scores: `(batch, answers)`, logarithms of probabilities.
        shares: `(batch, answers, D)`, of the passages.
        shares_per_token: `(batch, answers, D, length)`, or None.
        tokens: `(batch, answers, length)`, what was generated.
        counts: the same, whether a token is part of the answer.
    """

    scores: Any
    shares: Any
    shares_per_token: Any | None
    tokens: Any
    counts: Any


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses options of `generate` that answers leave no room for."""
    if "num_return_sequences" in options:
        raise ValueError("num_return_sequences: n_best says how many answers are given")
    for name in options:
        if name == "return_dict_in_generate" or name.startswith("output_"):
            raise ValueError(f"{name}: an answer has its own form; use generate")


def different(texts: Sequence[str], count: int) -> list[int]:
    """Places of the first `count` different texts; fewer where there are fewer."""
    first = {text: place for place, text in reversed([*enumerate(texts)])}
    return sorted(first.values())[:count]


def rag_answers(
    retriever: RagRetriever, ids: np.ndarray, relevance: np.ndarray, weighed: Weighed
) -> list[RagAnswer]:
    """Answers to a question with their passages.

    Args:
        retriever: knows the passages and the generator's tokenizer.
        ids: `(D,)`, of the passages.
        relevance: `(D,)`, their scores.
        weighed: arrays of numpy for the one question.
    """
    [doc] = retriever.index.get_doc_dicts(ids[None])
    tokenizer = retriever.generator_tokenizer
    scores, shares, per_token, tokens, counts = weighed
    answers = []
    for rank, (score, inside) in enumerate(zip(scores[0].tolist(), counts[0], strict=True)):
        passages = [
            RagEvidence(
                int(id),
                doc["title"][place],
                doc["text"][place],
                float(relevance[place]),
                float(shares[0, rank, place]),
                None if per_token is None else tuple(per_token[0, rank, place][inside].tolist()),
            )
            for place, id in enumerate(ids)
        ]
        made = tokens[0, rank][inside].tolist()
        text = tokenizer.decode(made, skip_special_tokens=True)
        probability = float(np.exp(score))
        answers.append(
            RagAnswer(text, score, probability, tuple(spelled(tokenizer, made)), tuple(passages))
        )
    return answers


def spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each id adds, and the names of special ones.

    A character that several ids make together is the text of the last of them.
    """
    special = set(tokenizer.all_special_ids)
    texts, before = [], ""
    for end, id in enumerate(ids, 1):
        if id in special:
            texts.append(tokenizer.convert_ids_to_tokens(id))
            continue
        whole = tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if whole.endswith(UNFINISHED) and end < len(ids):
            texts.append("")
            continue
        texts.append(whole.removeprefix(before))
        before = whole
    return texts

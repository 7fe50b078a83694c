"""Spans of tokens to answers in words: what comes after the reader, in either framework."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..tokenizers.wordpiece import PREFIX, character_kind


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

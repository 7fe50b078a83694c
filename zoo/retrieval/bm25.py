"""Search by words instead of vectors, the baseline that a learned retriever has to beat.

Source: Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond", in
the form of Lucene, whose inverse document frequency is never negative.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from .index import check_count

_WORD = re.compile(r"[^\W_]+")
# Words that every English text has; they cost time and find nothing.
_STOPWORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have he her his "
    "how i if in into is it its may must no not of on or s shall she should so such t than that "
    "the their them then there these they this to was we were what when where which who why "
    "will with would you your".split()
)


class BM25:
    """An index of words.

    Args:
        texts: what is searched; its ids are their numbers from 0.
        k1: how soon more occurrences of a word in a text stop to count.
        b: how much long texts are held back, 0 to 1.

    Raises:
        ValueError: no texts, or numbers out of range.
    """

    def __init__(self, texts: Iterable[str], k1: float = 1.2, b: float = 0.75):
        if k1 < 0:
            raise ValueError(f"k1: received {k1!r}, expected a number from 0")
        if not 0 <= b <= 1:
            raise ValueError(f"b: received {b!r}, expected 0 to 1")
        self._words: dict[str, int] = {}
        words: list[int] = []
        rows: list[int] = []
        lengths = []
        for row, text in enumerate(texts):
            found = _words(text)
            lengths.append(len(found))
            words.extend(self._words.setdefault(word, len(self._words)) for word in found)
            rows.extend([row] * len(found))
        if not lengths:
            raise ValueError("texts: expected at least one")
        self._count = len(lengths)
        # Every pair of word and text once, sorted by word.
        pairs = np.array(words, np.int64) * self._count + np.array(rows, np.int64)
        pairs, often = np.unique(pairs, return_counts=True)
        self._rows = pairs % self._count
        self._starts = np.searchsorted(pairs, np.arange(len(self._words) + 1) * self._count)
        containing = np.diff(self._starts)
        rarity = np.log1p((self._count - containing + 0.5) / (containing + 0.5))
        length = np.array(lengths) / max(float(np.mean(lengths)), 1.0)
        damping = k1 * (1 - b + b * length[self._rows])
        self._scores = np.repeat(rarity, containing) * often / (often + damping)

    def __len__(self) -> int:
        return self._count

    def search(self, queries: Sequence[str], k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The texts that share the rarest words with each query.

        Args:
            queries: texts.
            k: how many.

        Returns:
            Ids `(batch, k)`, int64, and scores `(batch, k)`, float32, best first; -1 and -inf
            where fewer texts share a word.
        """
        k = check_count("k", k)
        ids = np.full((len(queries), k), -1, np.int64)
        best = np.full((len(queries), k), -np.inf, np.float32)
        for number, query in enumerate(queries):
            scores = np.zeros(self._count)
            for word in _words(query):
                if (place := self._words.get(word)) is not None:
                    part = slice(self._starts[place], self._starts[place + 1])
                    scores[self._rows[part]] += self._scores[part]
            found = np.flatnonzero(scores)
            found = found[np.lexsort((found, -scores[found]))[:k]]
            ids[number, : len(found)] = found
            best[number, : len(found)] = scores[found]
        return ids, best


def _words(text: str) -> list[str]:
    """Words in small letters, without the commonest and without the s of a plural."""
    found = (word for word in _WORD.findall(text.lower()) if word not in _STOPWORDS)
    return [_stem(word) for word in found]


def _stem(word: str) -> str:
    """Without the s of a plural (Harman 1991, "How effective is suffixing?", the S stemmer)."""
    if len(word) > 3 and word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    if len(word) > 3 and word.endswith("s") and word[-2] not in "us":
        return word[:-1]
    return word

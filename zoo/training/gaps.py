"""Questions that are made of a passage by leaving out what answers them.

Source: Lewis et al. 2019, "Unsupervised question answering by cloze translation", section 2: names,
dates, numbers and other runs of words are answers; what stands around one, with a question word of
its kind, and with words left out and moved, is the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# The words that ask, by what they ask for, and how often each is taken. English, as are the
# numbers below; in another language questions are sentences with a foreign word in the gap.
_ASKING = {
    "year": {"when": 0.5, "in what year": 0.5},
    "number": {"how many": 0.6, "how much": 0.2, "what": 0.2},
    "name": {"who": 0.4, "what": 0.3, "which": 0.15, "where": 0.15},
    "other": {"what": 0.7, "which": 0.1, "how": 0.1, "why": 0.1},
}
ASKING = sorted({words for kinds in _ASKING.values() for words in kinds})
_NUMBERS = frozenset(
    "one two three four five six seven eight nine ten hundred thousand million half".split()
)
# Words that an answer neither begins nor ends with.
_SMALL = frozenset(
    """a also an and are as at be been but by for from had has have he her his in into is it its
    not of on or she than that the their they this to was were which who with""".split()
)
_SIGNS = ".,;:!?\"'()[]“”‘’"
_STOPS, _ENDS = ".,;:!?", ".?!"
_SIZES = (0.4, 0.3, 0.2, 0.1)  # how often an answer has 1, 2, 3 or 4 words
_LONGEST = 5  # words of a name
_AROUND = (3, 9)  # words on either side of a gap: from, to before
_MOVED = 0.2  # how often words change places, by how many places at most:
_FAR = 4


class Gap(NamedTuple):
    """A question and its answer.

    Args:
        text: where the answer is found.
        question: without the answer.
        answer: as it stands in the text.
    """

    text: str
    question: str
    answer: str


class GapMaker:
    """Makes questions of one passage.

    Args:
        text: of the passage.
        spans: first characters of names and dates, and those after the last.
    """

    def __init__(self, text: str, spans: Iterable[tuple[int, int]] = ()):
        found = list(re.finditer(r"\S+", text))
        self.words = [match.group() for match in found]
        bare = [word.strip(_SIGNS).lower() for word in self.words]
        self._is_small = [not word or word in _SMALL for word in bare]
        self.starts = [place for place, small in enumerate(self._is_small) if not small]
        edges = np.array([match.end() for match in found])
        self._salient = [
            (place, 1) for place, word in enumerate(bare)
            if word in _NUMBERS or any(letter.isdigit() for letter in word)
        ]  # fmt: skip
        for start, end in spans:
            first, last = np.searchsorted(edges, [start, end - 1], "right").tolist()
            if last < len(edges) and last - first < _LONGEST and bare[first]:
                self._salient.append((first, last - first + 1))

    def copied(self, rng: np.random.Generator, room: int = 12, fewest: int = 5) -> Gap:
        """Most of a few words is asked for.

        Args:
            rng: chooses.
            room: how many words are seen.
            fewest: how many of them are asked for at least.
        """
        words = self.words
        first = int(rng.random() * max(len(words) - room + 1, 1))
        seen = min(room, len(words))
        size = min(int(rng.integers(fewest, room)), seen)
        at = first + int(rng.random() * (seen - size + 1))
        question = [*words[max(at - 3, 0) : at], "what", *words[at + size : at + size + 3]]
        answer = " ".join(words[at : at + size])
        return Gap(" ".join(words[first : first + seen]), _closed(question), answer)

    def asked(
        self, rng: np.random.Generator, spoilt: float, drop: float, front: float, salient: float
    ) -> Gap:
        """A name, a date, a number or other words are asked for.

        Args:
            rng: chooses.
            spoilt: from 0, the words around the gap as they stand, to 1.
            drop, front, salient: see `zoo.training.rag.Gaps`.
        """
        words = self.words
        at, size = self._answer(rng, salient)
        answer = " ".join(words[at : at + size]).strip(_SIGNS)
        left, right = rng.integers(*_AROUND, 2)
        before, behind = words[max(at - left, 0) : at], words[at + size : at + size + right]
        # Of the same sentence.
        ends = [place for place, word in enumerate(before) if _ends(word)]
        before = before[ends[-1] + 1 :] if ends else before
        ends = [place for place, word in enumerate(behind) if _ends(word)]
        behind = behind[: ends[0] + 1] if ends else behind
        if _ends(words[at + size - 1]):
            behind = []
        lost = spoilt * drop * rng.random()
        before, behind = ([w for w in part if rng.random() >= lost] for part in (before, behind))
        asking = _ASKING[_kind(answer)]
        ask = str(rng.choice(list(asking), p=list(asking.values())))
        if rng.random() < spoilt * front:
            question = [ask.capitalize(), *before, *behind]
        else:
            question = [*before, ask, *behind]
        if rng.random() < spoilt * _MOVED:
            order = np.argsort(np.arange(len(question)) + _FAR * rng.random(len(question)))
            question = [question[place] for place in order]
        return Gap(" ".join(words), _closed(question), answer)

    def _answer(self, rng: np.random.Generator, salient: float) -> tuple[int, int]:
        """The first word of an answer, and how many words it has."""
        if rng.random() < salient and self._salient:
            return self._salient[int(rng.random() * len(self._salient))]
        at = self.starts[int(rng.random() * len(self.starts))]
        size = 1
        for _ in range(int(rng.choice(len(_SIZES), p=_SIZES))):
            last = at + size - 1
            if last + 1 == len(self.words) or self.words[last][-1] in _STOPS:
                break
            size += 1
        while self._is_small[at + size - 1]:
            size -= 1
        return at, size


def _ends(word: str) -> bool:
    """Whether a sentence ends with a word, which an initial does not."""
    return word[-1] in _ENDS and len(word) > 2


def _kind(answer: str) -> str:
    if re.fullmatch(r"(1\d|20)\d\d", answer):
        return "year"
    if any(letter.isdigit() for letter in answer) or answer.lower() in _NUMBERS:
        return "number"
    return "name" if answer[0].isupper() else "other"


def _closed(words: list[str]) -> str:
    return " ".join(words).rstrip(_SIGNS) + "?"

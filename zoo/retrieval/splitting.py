"""Cuts documents into blocks of at most N word pieces that end where a sentence ends.

As for ORQA (arXiv 1906.00300, section 3): sentences are put together for as long as they fit.
Every character of a document but the white space between blocks is in exactly one block.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .passages import Document

# What may stand before a full stop without ending a sentence, in lower case.
_BEFORE_NAMES = set(
    "mr mrs ms mx dr prof rev fr sr jr st mt ft gen col lt maj capt cmdr sgt cpl pvt adm gov sen "
    "rep hon pres supt insp messrs mme mlle m mgr herr hr fr dipl ing sra srta dra".split()
)
_ABBREVIATIONS = _BEFORE_NAMES | set(
    "etc vs v cf al viz ca approx est esp incl excl resp ibid op cit e.g i.e a.k.a p.s n.b "
    "no nos nr vol vols ch chap sec fig figs eq eqs ref refs p pp par art app ed eds trans repr "
    "inc ltd co corp bros plc llc dept univ assn ave blvd rd sq bldg apt "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun "
    "u.s u.k u.n e.u d.c a.m p.m b.c a.d ph.d m.d b.a m.a b.sc m.sc r.i.p "
    "bzw z.b d.h u.a usw evtl ggf inkl vgl str abs nr bd jh jhd p.ej ud uds pág etc c.-à-d т.е т.д "
    "т.п т.к г гг в вв им ул стр рис см тыс млн млрд руб др проф".split()
)
# These end a sentence as often as not: a capital after them decides.
_MAY_END = set(
    "etc al inc ltd co corp bros plc llc jr sr a.m p.m b.c a.d u.s u.k u.n e.u d.c ph.d m.d b.a "
    "m.a b.sc m.sc usw r.i.p p.s ave blvd rd sq bldg apt univ dept т.д т.п г гг в вв руб млн млрд "
    "др jh jhd ed eds repr".split()
)
# Words that begin sentences far more often than they follow an abbreviation in capitals.
_STARTERS = set(
    "the a an in on at to of for from by with as but and or so yet he she it they we you i his her "
    "its their our this that these those there here when where while after before since if then "
    "however moreover although though because what who why how one two some many most all both "
    "each every no not another other such according der die das ein eine er sie es wir ihr im am "
    "le la les un une il elle ils el los las en él ella он она оно они это в на и но".split()
)
_CLOSERS = "\"'”’»›)]}」』）】〉》"
_OPENERS = "\"'“‘«‹([{「『（【〈《¿¡—–-"
# One or more full stops, question or exclamation marks, then closing quotes, then white space;
# scripts that put no space after a sentence need none.
_END = re.compile(
    rf"(?P<stop>[.!?…‽⁇⁈⁉؟۔।॥።]+)(?P<close>[{re.escape(_CLOSERS)}]*)(?=\s)"
    rf"|[。！？｡]+[{re.escape(_CLOSERS)}]*"
    r"|(?P<break>\n[ \t]*\n\s*)"
)
_PIECE_CHARACTERS = 32
_LAST_WORD = re.compile(r"[^\s(\[{\"'“‘«]*\Z")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*(?:\(?\d{1,3}|\(?[a-zA-Z]|[ivxlc]{1,5})\Z")


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text are.

    A full stop ends one unless it belongs to a title before a name (Dr. Who), an abbreviation
    (e.g., vol. 3), initials (J. R. R. Tolkien), a number in a list, or is followed by a small
    letter. An empty line ends one always. Closing quotes and brackets belong to what they close.

    Args:
        text: any text.

    Returns:
        Start and end of each, without the white space around; nothing else is left out.
    """
    found = []
    start = 0
    for match in _END.finditer(text):
        if match["stop"] and not _ends(text, match, start):
            continue
        end = match.start() if match["break"] else match.end()
        found.append((start, end))
        start = match.end()
    found.append((start, len(text)))
    trimmed = [_trimmed(text, *span) for span in found]
    return [span for span in trimmed if span[0] < span[1]]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _ends(text: str, match: re.Match[str], start: int) -> bool:
    stop = match["stop"]
    following = text[match.end() : match.end() + 80].split(maxsplit=1)
    following_word = following[0].lstrip(_OPENERS) if following else ""
    if not following_word:
        return True
    small = following_word[0].islower()
    if stop[-1] in "!?" or set(stop) & set("!?؟‽⁇⁈⁉"):
        return not (small and match["close"])  # "Why?" he asked
    if stop.startswith("..") or "…" in stop:
        return not small
    if stop != ".":
        return True  # full stops that have no other use
    if small:
        return False
    before = text[max(start, match.start() - 40) : match.start()]
    word = _LAST_WORD.search(before)[0]  # type: ignore[index]
    if match["close"]:
        return True
    plain = word.lower()
    if _LIST_NUMBER.search(before) and before.strip() == word:
        return False
    starter = following_word.rstrip(",;:").lower() in _STARTERS
    if plain in _BEFORE_NAMES and plain not in _MAY_END:
        return False
    if plain in _MAY_END:
        name_follows = plain in ("u.s", "u.k", "u.n", "d.c") and not starter
        return following_word[0].isupper() and not name_follows
    if plain in _ABBREVIATIONS:
        return starter and not following_word[0].isdigit()
    if _INITIAL.match(word):
        if len(word) == 1:  # J. Smith, but: vitamin C. The
            return word.islower() or word == "I" or starter
        return starter
    return True


class Splitter:
    """Cuts documents into blocks.

    Args:
        tokenizer: any of the zoo's.
        length: the most word pieces of a block, special tokens and title not counted.

    Raises:
        ValueError: a length that is not positive.
    """

    def __init__(self, tokenizer: Any, length: int):
        if length < 1:
            raise ValueError(f"length: received {length}, expected a positive number")
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The blocks of documents, each with its document's id, title and metadata.

        Args:
            documents: whole documents; one without text has no blocks.

        Returns:
            Documents again, numbered by `part`.
        """
        for document in documents:
            for part, text in enumerate(self.split(document.text)):
                yield document._replace(text=text, part=part)

    def split(self, text: str) -> list[str]:
        """The blocks of one text."""
        spans = sentences(text)
        sizes = self._sizes([text[start:end] for start, end in spans])
        units = []
        for span, size in zip(spans, sizes, strict=True):
            units.extend([(span, size)] if size <= self.length else self._cut(text, *span))
        blocks: list[tuple[int, int]] = []
        room = 0
        for (start, end), size in units:
            if blocks and size <= room:
                blocks[-1] = (blocks[-1][0], end)
                room -= size
            else:
                blocks.append((start, end))
                room = self.length - size
        # A tokenizer may need a piece more for two sentences together than for each alone.
        joined = self._sizes([text[start:end] for start, end in blocks])
        checked: list[str] = []
        for (start, end), size in zip(blocks, joined, strict=True):
            if size <= self.length:
                checked.append(text[start:end])
            else:
                checked.extend(text[low:high] for (low, high), _ in self._cut(text, start, end))
        return checked

    def _cut(self, text: str, start: int, end: int) -> list[tuple[tuple[int, int], int]]:
        """Pieces of what is too long in one: between sentences, words, or characters."""
        pieces: list[tuple[tuple[int, int], int]] = []
        bounds = [start + low for low, _ in sentences(text[start:end])]
        words = [start + match.end() for match in re.finditer(r"\s+", text[start:end])]
        while start < end:
            # No piece is longer than that on average, so that a look further ahead is idle.
            window = min(end, start + self.length * _PIECE_CHARACTERS)
            size = self._size(text[start:end]) if window == end else self.length + 1
            stop = end if size <= self.length else None
            for places in (bounds, words, range(start + 1, window + 1)):
                if stop is None:
                    low, high = bisect_right(places, start), bisect_right(places, window)
                    stop = self._longest(text, start, places[low:high])
            low, high = _trimmed(text, start, stop or start + 1)
            if low < high:
                pieces.append(((low, high), self._size(text[low:high])))
            start = stop or start + 1  # a character of more pieces than a block has
        return pieces

    def _longest(self, text: str, start: int, places: Sequence[int]) -> int | None:
        """The last place up to which the text fits, found by halving; None where none does."""
        low, high = 0, len(places)
        while low < high:
            middle = (low + high) // 2
            if self._size(text[start : places[middle]].strip()) <= self.length:
                low = middle + 1
            else:
                high = middle
        return places[low - 1] if low else None

    def _size(self, text: str) -> int:
        return self._sizes([text])[0]

    def _sizes(self, texts: list[str]) -> list[int]:
        """The number of word pieces of each text."""
        if not texts:
            return []
        rows = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False,
            return_token_type_ids=False, verbose=False,
        )  # fmt: skip
        return [len(row) for row in rows["input_ids"]]

"""Salient spans: dates and names, which a model has to know the world to fill in.

Source: Guu et al. 2020 (REALM), section 3.4, "salient span masking": the paper tags names with a
model and finds dates by a regular expression. Here both are found by rules, which know no language
but English month names, or by spaCy where it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..retrieval.splitting import sentences

KINDS = ("auto", "rules", "spacy")
SPACY_MODEL = "en_core_web_sm"
# Of spaCy's labels those that are names or dates, as in the paper; amounts are neither.
_LABELS = frozenset(
    "PERSON NORP FAC ORG GPE LOC PRODUCT EVENT WORK_OF_ART LAW LANGUAGE DATE".split()
    + ["PER", "MISC"]
)

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_DATE = re.compile(
    r"(?<![\w.,:/-])(?:"
    rf"{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{3,4}})?"  # 5 March 1905
    rf"|{_MONTH}\s+{_DAY}(?:,?\s+\d{{4}})?(?!\d)"  # March 5, 1905
    rf"|{_MONTH},?\s+{_YEAR}"  # March 1905
    r"|\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{2,4}"
    r"|(?:\d{1,2}(?:st|nd|rd|th))\s+century(?:\s+(?:BCE?|CE|AD))?"
    r"|\d{1,4}\s+(?:BCE?|CE|AD)\b|AD\s+\d{1,4}"
    rf"|{_YEAR}s?"
    r")(?![\w/]|[.,:-]\d)"
)
# A word in capitals, or one that is written as only names are: CamelCase, snake_case, os.path.
_CAPITAL = r"[^\W\d_a-zß-öø-ÿ][\w'’-]*"
_WORD = re.compile(
    r"(?P<code>(?:__)?[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:\(\))?"  # dotted
    r"|_*[A-Za-z]\w*_\w*(?:\(\))?|[A-Za-z]\w*\(\)"  # with an underscore, or called
    r"|[a-z]+[A-Z]\w*)"
    r"|(?P<capital>[^\W\d_]\.(?=\s?[^\W\d_])|[^\W\d_][\w'’-]*)"
    r"|(?P<number>\d+(?:\.\d+)*)"
)
_JOINS = frozenset("of the de la le du des del della di da van von der den".split())
# Words that stand in capitals because a sentence begins.
_PLAIN = frozenset(
    """a about above according additionally after again all also although always among an and
    another any are as at because been before being below besides between both but by can changed
    consequently could deprecated despite did do does during each either especially even every
    example finally first for from further furthermore generally given had has have he hence her
    here his how however i if in indeed initially instead is it its just last later like many may
    meanwhile might more moreover most much must my neither never nevertheless new next no none nor
    not note nothing now of often on once one only or other others otherwise our over perhaps
    please raise raises return returned returns second see several she should similarly since so
    some sometimes such than that the their them then there therefore these they this those though
    three through thus to today together two under unless unlike until unlike upon use used using
    usually various very was we were what when where whereas whether which while who whom whose why
    will with within without would yes yet you your""".split()
)


class Span(NamedTuple):
    """A stretch of text: its characters and whether it is a `date` or a `name`."""

    start: int
    end: int
    kind: str


Finder = Callable[[Sequence[str]], Iterator[list[Span]]]


def find_spans(text: str) -> list[Span]:
    """The dates and names of a text, by rules.

    A name is a run of words in capitals, with small words such as "of" between them and numbers
    after them (Bank of England, Apollo 11), or a word that is written as only names are (os.path,
    ValueError, max_length). A word that begins a sentence counts if the text has it in capitals
    elsewhere too.

    Args:
        text: any text.

    Returns:
        Spans in their order; none overlaps another.
    """
    dates = [Span(*match.span(), "date") for match in _DATE.finditer(text)]
    found: list[Span] = []
    matches = list(_WORD.finditer(text))
    begins = {_first_word(text, *span) for span in sentences(text)}
    inside = {
        match.group() for match in matches if match["capital"] and match.start() not in begins
    }
    run: list[re.Match[str]] = []

    def end_run() -> None:
        while run and not _is_name(run[-1]) and not run[-1]["number"]:
            run.pop()  # "of" after the last name
        if run:
            found.append(Span(run[0].start(), run[-1].end(), "name"))
        run.clear()

    for match in matches:
        word = match.group()
        if run and not _adjoins(text, run[-1], match):
            end_run()
        if match["code"]:
            end_run()
            found.append(Span(*match.span(), "name"))
        elif match["number"]:
            if run and _is_name(run[-1]):
                run.append(match)
        elif _is_name(match):
            at_start = match.start() in begins
            plain = word.lower() in _PLAIN
            if at_start and (plain or (word not in inside and not word[1:2].isupper())):
                # Marie Curie was; but not: Later Marie Curie was, nor: Words that are
                if plain or not _name_goes_on(text, match.end()):
                    continue
            if plain and not run and not word.isupper():
                continue
            run.append(match)
        elif run and word in _JOINS:
            run.append(match)
        else:
            end_run()
    end_run()
    taken = [(span.start, span.end) for span in dates]
    names = [
        span for span in found
        if not any(span.start < end and start < span.end for start, end in taken)
        and span.end - span.start > 1
    ]  # fmt: skip
    return sorted([*dates, *names])


def _first_word(text: str, start: int, end: int) -> int:
    match = re.compile(r"[^\W_]").search(text, start, end)
    return match.start() if match else end


def _is_name(match: re.Match[str]) -> bool:
    word = match["capital"]
    return bool(word) and word[0].isupper()


def _adjoins(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether nothing but a space is between two words of a name."""
    between = text[left.end() : right.start()]
    return between in (" ", "\n") or (not between and left.group().endswith("."))


def _name_goes_on(text: str, end: int) -> bool:
    match = re.compile(r"[ \n]([^\W_])").match(text, end)
    return match is not None and not match[1].islower()


def rules(texts: Iterable[str]) -> Iterator[list[Span]]:
    """`find_spans` of each text."""
    return map(find_spans, texts)


def spacy_finder(model: str = SPACY_MODEL) -> Finder:
    """Names and dates by a pipeline of spaCy.

    Args:
        model: its name or folder.

    Returns:
        A function of texts that gives the spans of each.

    Raises:
        ModuleNotFoundError: spaCy is not installed.
        ValueError: there is no such pipeline.
    """
    try:
        import spacy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("spans='spacy' needs spaCy: pip install spacy") from error
    try:
        pipeline: Any = spacy.load(model)
    except OSError as error:
        raise ValueError(
            f"spaCy has no pipeline {model!r}: python -m spacy download {model}"
        ) from error

    def find(texts: Sequence[str]) -> Iterator[list[Span]]:
        for document in pipeline.pipe(texts):
            yield [
                Span(entity.start_char, entity.end_char,
                     "date" if entity.label_ == "DATE" else "name")
                for entity in document.ents
                if entity.label_ in _LABELS
            ]  # fmt: skip

    return find


def finder(kind: str = "auto", model: str = SPACY_MODEL) -> tuple[str, Finder]:
    """The way of finding spans.

    Args:
        kind: `rules`, `spacy`, or `auto` for spaCy where it and the pipeline are installed.
        model: of spaCy.

    Returns:
        Which one it is, `rules` or `spacy:` and the pipeline; and the function.

    Raises:
        ValueError: another kind, or a pipeline that is not there.
    """
    if kind not in KINDS:
        raise ValueError(f"spans: received {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "rules":
        return kind, rules
    try:
        return f"spacy:{model}", spacy_finder(model)
    except (ModuleNotFoundError, ValueError):
        if kind == "spacy":
            raise
        return "rules", rules

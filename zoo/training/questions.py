"""Questions with their answers, from files in the layouts of SQuAD and of NQ-open."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..retrieval.passages import Document
from .batches import Questions
from .corpus import BlockCorpus

# Words and single signs, as BERT's tokenizers split text first.
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


class QuestionError(ValueError):
    """A file of questions that cannot be read; names file and place."""


@dataclass(frozen=True)
class Question:
    """A question and what answers it.

    Args:
        text: the question.
        answers: any of them is right; none for a question that cannot be answered.
        id: of the question, empty where the file has none.
        context: the paragraph that it was asked about, where the file has one.
        title: of the document that the paragraph is from.
    """

    text: str
    answers: tuple[str, ...]
    id: str = ""
    context: str | None = None
    title: str = ""


def read_questions(*paths: str | os.PathLike[str]) -> list[Question]:
    """The questions of files, `.json` or `.jsonl`, also with `.gz`.

    SQuAD's layout is a JSON object with `data`, whose paragraphs have a `context` and `qas`;
    NQ-open's is an object with `question` and `answer` a line. Lists of such objects and the names
    `answers`, `text` or a single answer in the place of a list are understood too.

    Args:
        paths: the files.

    Returns:
        The questions in the order of the files; those of SQuAD 2 without an answer are left out.

    Raises:
        QuestionError: a file of another layout; names the line or entry.
        OSError: a file that is not there.
    """
    found: list[Question] = []
    for path in paths:
        data = Path(path).read_bytes()
        try:
            data = gzip.decompress(data) if str(path).endswith(".gz") else data
            text = data.decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise QuestionError(f"{path}: {error}") from None
        found.extend(parse_questions(text, os.fspath(path)))
    return found


def parse_questions(text: str, where: str = "questions") -> list[Question]:
    """The questions in the text of a file; see `read_questions`.

    Args:
        text: content of the file.
        where: its name, for messages.

    Raises:
        QuestionError: another layout.
    """
    try:
        content = json.loads(text)
    except ValueError as whole:
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                entries.append((f"{where}:{number}", json.loads(line)))
            except ValueError as error:
                # What begins as lines is one of lines; else it is one broken object.
                problem = f"{where}:{number}: {error}" if entries else f"{where}: {whole}"
                raise QuestionError(problem) from None
    else:
        if isinstance(content, dict) and "data" in content:
            content = content["data"]
        many = content if isinstance(content, list) else [content]
        entries = [(f"{where}: entry {number}", entry) for number, entry in enumerate(many, 1)]
    found: list[Question] = []
    for place, entry in entries:
        if not isinstance(entry, dict):
            raise QuestionError(f"{place}: expected an object, got {json.dumps(entry)[:80]}")
        if "paragraphs" in entry:
            found.extend(_of_article(place, entry))
        elif "version" in entry and "question" not in entry:
            continue  # the first line of some files
        else:
            found.extend(_question(place, entry, {}))
    return found


def _of_article(place: str, article: dict[str, Any]) -> Iterable[Question]:
    paragraphs = _list(place, article, "paragraphs")
    for number, paragraph in enumerate(paragraphs, 1):
        inner = f"{place}, paragraph {number}"
        if not isinstance(paragraph, dict):
            raise QuestionError(f"{inner}: expected an object")
        about = {"context": _text(inner, paragraph, "context"), "title": article.get("title", "")}
        for question in _list(inner, paragraph, "qas"):
            if not isinstance(question, dict):
                raise QuestionError(f"{inner}: expected an object in qas")
            if not question.get("is_impossible"):
                yield from _question(f"{inner}, {question.get('id', '')}", question, about)


def _question(place: str, entry: dict[str, Any], about: dict[str, Any]) -> Iterable[Question]:
    name = next((name for name in ("answers", "answer", "short_answers") if name in entry), None)
    if name is None:
        raise QuestionError(f"{place}: expected answers or answer, got {sorted(entry)}")
    given = entry[name]
    if isinstance(given, dict) and "text" in given:  # as data sets on the hub have it
        given = given["text"]
    given = given if isinstance(given, list) else [given]
    answers: list[str] = []
    for one in given:
        answer = one.get("text") if isinstance(one, dict) else one
        if not isinstance(answer, str):
            raise QuestionError(f"{place}: {name} holds {json.dumps(one)[:80]}, expected text")
        answers.append(answer)
    about = about or {key: entry[key] for key in ("context", "title") if key in entry}
    yield Question(
        _text(place, entry, "question").strip(),
        tuple(dict.fromkeys(answer for answer in answers if answer.strip())),
        str(entry.get("id", "")),
        **about,
    )


def _text(place: str, entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{place}: {name}: expected text, got {json.dumps(value)[:80]}")
    return value


def _list(place: str, entry: dict[str, Any], name: str) -> list[Any]:
    value = entry.get(name)
    if not isinstance(value, list):
        raise QuestionError(f"{place}: {name}: expected a list, got {json.dumps(value)[:80]}")
    return value


def contexts(questions: Iterable[Question]) -> list[Document]:
    """The paragraphs that questions were asked about, each once, to be searched for answers.

    Args:
        questions: those without a paragraph have none.
    """
    found: dict[str, Document] = {}
    for question in questions:
        if question.context is not None and question.context not in found:
            number = str(len(found))
            found[question.context] = Document(number, question.context, question.title)
    return list(found.values())


def split_questions(
    questions: Sequence[Question], held_out: float = 0.2, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Questions to train on and questions to test with.

    What was asked about one paragraph, or in the same words, is on one side as a whole. On which
    side does not change when other questions come or go.

    Args:
        questions: all of them.
        held_out: the share to test with.
        seed: chooses another split.

    Raises:
        ValueError: a share that leaves nothing on one side.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: received {held_out}, expected a share between 0 and 1")
    training: list[Question] = []
    testing: list[Question] = []
    for question in questions:
        group = question.context or " ".join(question.text.lower().split())
        digest = hashlib.sha256(f"{seed}\n{group}".encode()).digest()
        is_held_out = int.from_bytes(digest[:8], "big") < held_out * (1 << 64)
        (testing if is_held_out else training).append(question)
    if not training or not testing:
        raise ValueError(
            f"held_out: a share of {held_out} of {len(questions)} questions leaves "
            f"{len(training)} to train on and {len(testing)} to test with"
        )
    return training, testing


def plain_words(text: str) -> str:
    """Words and single signs in small letters, one space between them and around all.

    Args:
        text: any; case and white space do not count.
    """
    return f" {' '.join(_WORD.findall(text.lower()))} "


def holds(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers occurs in a text as whole words.

    Args:
        text: from `plain_words`.
        answers: as they are.
    """
    plain = map(plain_words, answers)
    return any(answer in text for answer in plain if answer.strip())


def made_questions(corpus: BlockCorpus, query_length: int) -> list[tuple[int, Question]]:
    """Sentences with `what` in the place of a name or a date, which is the answer.

    Lewis et al. 2019, "Unsupervised question answering by cloze translation", section 2.2.1.

    Args:
        corpus: whose salient spans are asked for.
        query_length: the most tokens of a question.

    Returns:
        Rows of the blocks that the sentences are from, and the questions.
    """
    found = []
    for sentence, first, last in corpus.spans:
        low, high = corpus.sentences[sentence]
        row = int(np.searchsorted(corpus.sentence_offsets, sentence, "right")) - 1
        if high - low >= 8 and high - low < query_length and last - first <= 8:
            before, after = corpus.decode(row, low, first), corpus.decode(row, last, high)
            answer = corpus.decode(row, first, last)
            found.append((row, Question(f"{before} what {after}".strip(), (answer,))))
    return found


def has_answer(
    corpus: BlockCorpus, rows: np.ndarray, answers: np.ndarray, length: int | None = None
) -> np.ndarray:
    """Which blocks hold an answer, token by token.

    Args:
        corpus: of the blocks.
        rows: `(batch, k)`; -1 for none.
        answers: ids `(batch, answers, tokens)`, with -1 where there is none.
        length: tokens of a block that are looked at; by default all.

    Returns:
        `(batch, k)`, bool.
    """
    if length is None:
        length = int(corpus.lengths[np.maximum(rows, 0)].max(initial=1))
    tokens, counts = corpus.gather(rows, length)
    return find_answers(tokens, counts, answers)[0].max(-1) >= 0


def find_answers(
    tokens: np.ndarray, counts: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where answers stand first in blocks.

    Args:
        tokens: `(batch, k, tokens)`.
        counts: tokens of each block, `(batch, k)`.
        answers: ids `(batch, answers, tokens)`, with -1 where there is none.

    Returns:
        First and last token of each, `(batch, k, answers)`; -1 where it is not there.
    """
    batch, _, length = tokens.shape
    sizes = (answers >= 0).sum(-1)
    starts = np.full((*counts.shape, answers.shape[1]), -1, np.int64)
    for row in range(batch):
        inside = np.arange(length) < counts[row][:, None]
        blocks = np.where(inside, tokens[row], -2)
        for number, size in enumerate(sizes[row]):
            if not 0 < size <= length:
                continue
            ends = length - size + 1
            found = blocks[:, :ends] == answers[row, number, 0]
            for place in range(1, size):
                found &= blocks[:, place : ends + place] == answers[row, number, place]
            starts[row, :, number] = np.where(found.any(-1), found.argmax(-1), -1)
    return starts, np.where(starts >= 0, starts + sizes[:, None, :] - 1, -1)


def retrieval_recall(
    questions: Questions,
    vectors: np.ndarray,
    index: Any,
    corpus: BlockCorpus,
    ks: Iterable[int] = (1, 5, 20),
) -> dict[int, float]:
    """The share of questions with an answer in one of the first k blocks, token by token.

    Args:
        questions: with their answers.
        vectors: of the questions, `(questions, dimension)`.
        index: over the blocks, whose ids are rows of the corpus.
        corpus: of the blocks.
        ks: how many blocks count.

    Returns:
        By k, from 0 to 1.
    """
    most = min(max(ks), len(corpus))
    rows, _ = index.search(vectors, most)
    right = []
    for start in range(0, len(rows), 64):
        chosen = np.arange(start, min(start + 64, len(rows)))
        right.append(has_answer(corpus, rows[chosen], questions.inputs(chosen)["answer_ids"]))
    found = np.concatenate(right)
    return {k: float(found[:, :k].any(1).mean()) for k in ks}

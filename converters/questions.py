"""The questions that ship with the project, and the text that answers them.

The text is what every CPython carries (`corpus.read_paragraphs`); each answer is a passage of it in
Python 3.11, 3.12 and 3.13 alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources

from zoo.retrieval.passages import Document
from zoo.training.questions import Question, holds, parse_questions, plain_words

from . import corpus

SHIPPED = "python_questions.jsonl"
# The modules whose docstrings belong to the text of the demo, beside all topics of the language.
MODULES = frozenset(
    "asyncio base64 bz2 calendar cmd collections concurrent contextlib copy csv dataclasses"
    " datetime difflib enum fileinput filecmp fnmatch fractions ftplib functools getpass glob"
    " graphlib gzip heapq html http imaplib ipaddress json locale lzma mimetypes multiprocessing"
    " numbers os pathlib pickle platform poplib queue random re sched selectors shelve shutil site"
    " smtplib socket socketserver ssl statistics string subprocess tarfile tempfile textwrap"
    " threading timeit urllib uuid warnings weakref zipfile".split()
)


def python_questions() -> list[Question]:
    """The questions that ship with the project."""
    file = resources.files(__package__).joinpath("data", SHIPPED)
    return parse_questions(file.read_text(encoding="utf-8"), SHIPPED)


def python_documents() -> list[Document]:
    """The text that the shipped questions are about: a document for each section of this Python's
    language reference and of the docstrings of `MODULES`.

    Returns:
        The documents in an order that depends on the Python version alone.

    Raises:
        ValueError: this Python was installed without the text.
    """
    sections: dict[str, list[str]] = {}
    for paragraph in corpus.read_paragraphs():
        # A topic's section is `topic: heading`, a docstring's `module.name`.
        if ":" in paragraph.source or paragraph.source.split(".")[0] in MODULES:
            sections.setdefault(paragraph.source, []).append(paragraph.text)
    return [Document(name, "\n\n".join(texts), name) for name, texts in sections.items()]


def unanswered(questions: Iterable[Question], texts: Iterable[str]) -> list[Question]:
    """Questions none of whose answers occurs in any of the texts as whole words.

    Case and white space do not count.
    """
    whole = "\n".join(map(plain_words, texts))
    return [question for question in questions if not holds(whole, question.answers)]

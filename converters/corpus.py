"""Text that every CPython carries, cut into paragraphs that know their chapter.

The language reference comes from `pydoc_data.topics`, the library reference from the docstrings in
the standard library's sources, which are parsed and never imported.  Nothing is downloaded.
"""

import ast
import io
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Chapters of the two references and where their text stands.  `compound`, `types`, `specialnames`
# and `execmodel` hold whole chapters, so the topics nested in them are not listed again.
TOPICS = {
    "data model": "objects types specialnames",
    "expressions": "atom-identifiers atom-literals attribute-references await binary bitwise"
    " booleans calls comparisons conversions dict exprlists lambda lists numbers operator-summary"
    " power shifting slicings subscriptions unary",
    "statements": "assert assignment augassign break compound continue del global import nonlocal"
    " pass raise return",
    "built-in types": "bltin-code-objects bltin-ellipsis-object bltin-null-object"
    " bltin-type-objects formatstrings string-methods truth typesfunctions typesmapping"
    " typesmethods typesmodules typesseq",
}
MODULES = {
    "mathematics": "_pydecimal fractions numbers random statistics",
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched subprocess"
    " threading",
    "internet": "ftplib http imaplib ipaddress poplib smtplib socket socketserver ssl urllib"
    " webbrowser wsgiref xmlrpc",
    "files": "bz2 filecmp fileinput fnmatch glob gzip lzma ntpath os pathlib posixpath shutil"
    " stat tarfile tempfile zipfile",
}
# Text to learn the language from, without a chapter of its own.
MORE_TOPICS = "debugger execmodel floating id-classes identifiers imaginary integers strings"
MORE_MODULES = (
    "_collections_abc _pyio argparse ast base64 bdb calendar cmd code codecs collections"
    " configparser contextlib copy csv ctypes dataclasses datetime difflib dis doctest email enum"
    " functools getpass gettext graphlib heapq html importlib inspect json locale logging mailbox"
    " mimetypes optparse pdb pickle pkgutil platform plistlib pydoc re selectors shelve site string"
    " textwrap timeit tkinter token tokenize trace traceback turtle types typing unittest uuid"
    " warnings weakref xml"
)


@dataclass(frozen=True)
class Paragraph:
    """One paragraph, the section or definition it belongs to, and its chapter (or None)."""

    text: str
    source: str
    chapter: str | None


def read_paragraphs() -> list[Paragraph]:
    """Read every paragraph of this Python's references, each text once.

    Returns:
        The paragraphs in an order that depends on the Python version alone.

    Raises:
        ValueError: fewer than two chapters were found (a Python without its sources).
    """
    places = [
        *((chapter, names, _topic_sections) for chapter, names in TOPICS.items()),
        *((chapter, names, _docstrings) for chapter, names in MODULES.items()),
        (None, MORE_TOPICS, _topic_sections),
        (None, MORE_MODULES, _docstrings),
    ]
    found: dict[str, Paragraph] = {}
    for chapter, names, sections in places:
        for name in names.split():
            for source, text in sections(name):
                for prose in _prose(text):
                    key = " ".join(_words(prose))
                    found.setdefault(key, Paragraph(prose, source, chapter))
    if len({paragraph.chapter for paragraph in found.values()} - {None}) < 2:
        raise ValueError(
            "the corpus needs pydoc_data.topics and the standard library's .py files, expected in "
            f"{sysconfig.get_path('stdlib')}: this Python was installed without them"
        )
    return list(found.values())


def split(
    paragraphs: Sequence[Paragraph], rng: np.random.Generator, held_out: float = 0.2
) -> tuple[list[Paragraph], list[Paragraph]]:
    """Split into training and held-out paragraphs with nothing of the one in the other.

    A section or definition falls on one side as a whole; a held-out paragraph that repeats more
    than a quarter of its five-word runs from the training side is dropped, as docstrings are
    copied from class to class.  Paragraphs without a chapter are for training.

    Returns:
        The training paragraphs and the held-out ones, which all have a chapter.
    """
    sources = sorted({paragraph.source for paragraph in paragraphs if paragraph.chapter})
    count = round(held_out * len(sources))
    chosen = {sources[i] for i in rng.permutation(len(sources))[:count]}
    training = [p for p in paragraphs if p.source not in chosen]
    seen = {run for paragraph in training for run in _runs(paragraph.text)}
    held = []
    for paragraph in paragraphs:
        runs = _runs(paragraph.text)
        if paragraph.chapter and paragraph.source in chosen and len(runs & seen) <= len(runs) / 4:
            held.append(paragraph)
    return training, held


def majority_share(labels: Iterable[object]) -> float:
    """The accuracy of always answering with the most frequent of `labels`."""
    counts = Counter(labels)
    return max(counts.values()) / counts.total()


# Where the tokenizers look for their special pieces.
REMBERT_PIECES = {
    "pad_id": 0, "pad_piece": "[PAD]", "unk_id": 1, "unk_piece": "[UNK]", "bos_id": -1,
    "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
}  # fmt: skip
BERT_GENERATION_PIECES = {
    "pad_id": 0, "pad_piece": "<pad>", "eos_id": 1, "eos_piece": "</s>", "bos_id": 2,
    "bos_piece": "<s>", "unk_id": 3, "unk_piece": "<unk>", "user_defined_symbols": ["<::::>"],
}  # fmt: skip


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, pieces: Mapping[str, Any] = REMBERT_PIECES
) -> bytes:
    """Train a Unigram model.

    Args:
        pieces: the special ones, `REMBERT_PIECES` or `BERT_GENERATION_PIECES`.

    Returns:
        The bytes of a SentencePiece model with `vocab_size` pieces, or fewer if the text has no
        more.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size,
        hard_vocab_limit=False, num_threads=1, minloglevel=2, **pieces,
    )  # fmt: skip
    return model.getvalue()


def pack(pieces: Iterable[Sequence[int]], length: int, cls_id: int, sep_id: int) -> np.ndarray:
    """Lay token lists end to end and cut them into full rows of `[CLS] ... [SEP]`.

    Returns:
        Ids of shape `(rows, length)`; an incomplete last row is left out.
    """
    stream = np.fromiter((token for piece in pieces for token in piece), np.int64)
    body = length - 2
    rows = stream[: len(stream) // body * body].reshape(-1, body)
    return np.pad(np.pad(rows, ((0, 0), (1, 0)), constant_values=cls_id), ((0, 0), (0, 1)),
                  constant_values=sep_id)  # fmt: skip


def mask_tokens(
    input_ids: np.ndarray,
    special_ids: Sequence[int],
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    probability: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens for masked language modelling (BERT, section 3.1).

    Of the chosen positions 80% become `[MASK]`, 10% another token, 10% stay as they are.

    Args:
        input_ids: ids of shape `(batch, sequence)`, left unchanged.
        special_ids: ids that are neither hidden nor put in.
        mask_id: the id of `[MASK]`.
        vocab_size: the number of ids.
        rng: where chance comes from; equal generators give equal masks.
        probability: the share of ordinary tokens to choose.

    Returns:
        The new ids and the labels, both `(batch, sequence)`; labels are -100 where nothing was
        chosen.
    """
    chosen = (rng.random(input_ids.shape) < probability) & ~np.isin(input_ids, special_ids)
    fate = rng.random(input_ids.shape)
    others = rng.choice(np.setdiff1d(np.arange(vocab_size), special_ids), input_ids.shape)
    masked = np.where(chosen & (fate < 0.8), mask_id, input_ids)
    masked = np.where(chosen & (fate >= 0.9), others, masked)
    return masked, np.where(chosen, input_ids, -100)


def _topic_sections(name: str) -> Iterator[tuple[str, str]]:
    """The sections of one topic, each under `topic: heading`."""
    from pydoc_data.topics import topics

    heading = name
    lines: list[str] = []
    for line in topics.get(name, "").split("\n"):
        if lines and re.fullmatch(r"([*=\-^~\"])\1{3,}", line):  # underlines the line before it
            title = lines.pop()
            yield f"{name}: {heading}", "\n".join(lines)
            heading, lines = title, []
        else:
            lines.append(line)
    yield f"{name}: {heading}", "\n".join(lines)


def _docstrings(module: str) -> Iterator[tuple[str, str]]:
    """The docstrings of one module or package, each under `module.name`.

    Definitions of one name in a module (`close`, `read`) count as one source, since their
    docstrings tend to repeat each other.
    """
    library = Path(sysconfig.get_path("stdlib"))
    file = library / f"{module}.py"
    for path in [file] if file.exists() else sorted((library / module).rglob("*.py")):
        if {"test", "tests", "idle_test"} & set(path.parts):
            continue
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = getattr(node, "name", path.stem)
                yield f"{module}.{name}", ast.get_docstring(node) or ""


def _prose(text: str) -> Iterator[str]:
    """The paragraphs of running text: no grammar, no sessions, no tables, no stubs."""
    for block in re.split(r"\n\s*\n", text):
        prose = " ".join(block.split())
        letters = sum(len(word) for word in re.findall(r"[A-Za-z]{2,}", prose))
        if len(_words(prose)) >= 12 and letters > 0.6 * len(prose) and not re.search(
            r">>>|::=|[-=+]{5}", prose
        ):  # fmt: skip
            yield prose


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

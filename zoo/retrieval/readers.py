"""Reads other people's text: folders of documents, lines, tables, records, data sets.

`Corpus` finds out what a path holds and gives one `Document` after another, in constant memory.
Whatever a file has wrong is said with file and line, or counted and passed over if asked to.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import io
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .block_records import read_block_records
from .passages import Document, PassageError

# How the columns of lines, tables and data sets may be called; the first name is the usual one.
COLUMNS = {
    "id": ("id", "_id", "docid", "doc_id"),
    "text": ("text", "contents", "content", "body"),
    "title": ("title",),
    "vector": ("embeddings", "embedding", "vector"),
}
SUFFIXES = {
    ".txt": "text", ".text": "text", ".rst": "text", ".md": "markdown", ".markdown": "markdown",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".tsv": "tsv", ".tfr": "tfrecord", ".tfrecord": "tfrecord",
    ".npy": "block_records", ".arrow": "datasets", ".parquet": "datasets",
}  # fmt: skip
FORMATS = ("folder", *dict.fromkeys(SUFFIXES.values()))
# Their text is cut into blocks already, and a block's number is its place in the file.
RECORDS = ("tsv", "tfrecord", "datasets", "block_records")
_WHOLE_FILES = ("text", "markdown", "html", "pdf", "jsonl", "tsv")  # what a folder may mix
_EXAMPLES = 5
_FIELD = 1 << 20  # characters of a field; a quote that is never closed ends there

logger = logging.getLogger("zoo.retrieval")
Item = Document | PassageError


class Corpus:
    """Documents of a file or folder, as often as it is iterated over.

    Args:
        path: a file or folder.
        format: one of `FORMATS`; found out from names where None.
        encoding: of text files; a byte order mark in a file has precedence.
        columns: which column is `id`, `text`, `title` or `vector`, where it has another name than
            those in `COLUMNS`; for a table without a header, pass `header`.
        header: the names of the columns of a TSV file that has no line of them.
        quoting: whether fields of a TSV file may stand in double quotes.
        root: folder that the ids of documents are paths in; by default `path` or its folder.
        on_error: "raise", or "skip" what cannot be read and count it.

    Attributes:
        format: what it was found to be.
        skipped: reason -> how many times, of the last iteration: "empty" documents and, in a
            folder, files of other kinds are always passed over; "malformed" ones when asked to.
        problems: the first messages about malformed ones.

    Raises:
        PassageError: nothing there, or nothing that can be read; names what was looked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        *,
        encoding: str = "utf-8",
        columns: Mapping[str, str] | None = None,
        header: Sequence[str] | None = None,
        quoting: bool = True,
        root: str | os.PathLike[str] | None = None,
        on_error: str = "raise",
    ):
        self.path = Path(path)
        if not self.path.exists():
            raise PassageError(f"{self.path} does not exist")
        if format is not None and format not in FORMATS:
            raise PassageError(f"format: received {format!r}, expected one of {', '.join(FORMATS)}")
        if on_error not in ("raise", "skip"):
            raise PassageError(f"on_error: received {on_error!r}, expected raise or skip")
        unknown = sorted(set(columns or {}) - set(COLUMNS))
        if unknown:
            raise PassageError(f"columns: {', '.join(unknown)}: expected {', '.join(COLUMNS)}")
        try:
            "".encode(encoding)
        except LookupError:
            raise PassageError(f"encoding: {encoding!r} is unknown") from None
        self.format = format or _detect(self.path)
        self.encoding, self.on_error, self.quoting = encoding, on_error, quoting
        self.root = self.path if self.path.is_dir() else self.path.parent
        if root is not None:
            self.root = Path(root)
        self.header = None if header is None else list(header)
        named = {name: (column,) for name, column in (columns or {}).items()}
        self.columns: dict[str, tuple[str, ...]] = COLUMNS | named
        self.named = set(named)
        self.skipped: Counter[str] = Counter()
        self.problems: list[str] = []

    @property
    def is_split(self) -> bool:
        """Whether the text is in blocks already, so that it need not be split."""
        return self.format in RECORDS

    def __iter__(self) -> Iterator[Document]:
        """Reads from the start.

        Raises:
            PassageError: something cannot be read; names file and line.
            ModuleNotFoundError: a library is missing; names the extra that has it.
        """
        self.skipped.clear()
        self.problems.clear()
        count = 0
        for item in self._items():
            if isinstance(item, PassageError):
                if self.on_error == "raise":
                    raise item
                self.skipped["malformed"] += 1
                if len(self.problems) < _EXAMPLES:
                    self.problems.append(str(item))
            elif not item.text.strip() and not self._numbered:
                self.skipped["empty"] += 1
            else:
                count += 1
                yield item
        if not count:
            said = "".join(f", {n} {reason}" for reason, n in sorted(self.skipped.items()))
            raise PassageError(f"{self.path} holds no text (read as {self.format}{said})")

    @property
    def _numbered(self) -> bool:
        """Whether other files refer to blocks by their place, so that none may be left out."""
        return self.format in ("tfrecord", "datasets", "block_records")

    def files(self) -> list[Path]:
        """The files that will be read, in order."""
        if self.format == "folder":
            return [path for path in _walk(self.path) if _kind(path) in _WHOLE_FILES]
        if self.format == "tfrecord":
            blocks = _tfrecord_blocks(self.path)
            titles = _tfrecord_titles(blocks)
            return [blocks] if titles is None else [blocks, titles]
        if self.format == "datasets":
            return _dataset_files(self.path)
        if self.path.is_dir():
            if self.format == "block_records":
                return [self.path / "block_records.npy"]
            found = [path for path in _walk(self.path) if _kind(path) == self.format]
            if not found:
                raise PassageError(f"{self.path} holds no file of the format {self.format}")
            return found
        return [self.path]

    def fingerprint(self) -> str:
        """Changes when the names, sizes or times of the files do."""
        state = [self.format]
        for path in self.files():
            status = path.stat()
            name = os.path.relpath(path, self.path)
            state.append(f"{name} {status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(state).encode()).hexdigest()

    def _items(self) -> Iterator[Item]:
        if self.format == "tfrecord":
            yield from _read_blocks(*self.files())
        elif self.format == "datasets":
            for path in self.files():
                yield from self._read_arrow(path)
        elif self.format == "block_records":
            for number, record in enumerate(read_block_records(self.files()[0])):
                yield _record(record, str(number), f"{self.path}: record {number}")
        else:
            if self.format == "folder":
                others = Counter(path.suffix for path in _walk(self.path) if not _kind(path))
                for suffix, count in others.items():
                    self.skipped[f"other files ({suffix or 'no suffix'})"] += count
            for path in self.files():
                yield from self._read_file(path)

    def _read_file(self, path: Path) -> Iterator[Item]:
        kind = (_kind(path) if self.format == "folder" else None) or self.format
        name = path.relative_to(self.root).as_posix()
        if kind == "jsonl":
            yield from self._read_lines(path, name)
        elif kind == "tsv":
            yield from self._read_table(path, name)
        else:
            try:
                title, text = _PARSERS[kind](path, self.encoding)
            except PassageError as error:
                yield error
                return
            yield Document(name, text, title or Path(name).stem, where=str(path))

    # ---- lines and tables ----------------------------------------------------------------------

    def _read_lines(self, path: Path, name: str) -> Iterator[Item]:
        for line, content in _lines(path, self.encoding):
            where = f"{path}:{line}"
            if isinstance(content, PassageError):
                yield content
                continue
            if not content.strip():
                continue
            try:
                values = json.loads(content)
            except (ValueError, RecursionError) as error:
                yield PassageError(f"{where}: no JSON: {error}")
                continue
            if not isinstance(values, dict):
                yield PassageError(f"{where}: expected an object, got {type(values).__name__}")
                continue
            yield self._document(values, f"{name}:{line}", where)

    def _read_table(self, path: Path, name: str) -> Iterator[Item]:
        problems: list[PassageError] = []
        line = 0

        def good_lines() -> Iterator[str]:
            nonlocal line
            for number, content in _lines(path, self.encoding):
                line = number
                if isinstance(content, PassageError):
                    problems.append(content)
                else:
                    yield content

        kind: Any = csv.QUOTE_MINIMAL if self.quoting else csv.QUOTE_NONE
        rows = csv.reader(good_lines(), delimiter="\t", strict=True, quoting=kind)
        header = self.header
        while True:
            start = line + 1
            limit = csv.field_size_limit(_FIELD)
            try:
                row = next(rows, None)
            except csv.Error as error:
                hint = "; --no-quoting if quotes are plain text" if self.quoting else ""
                problems.append(PassageError(f"{path}:{start}: {error}{hint}"))
                row = []
            finally:
                csv.field_size_limit(limit)
            yield from problems
            problems.clear()
            if row is None:
                return
            if not row:
                continue
            if header is None:
                header = row
                if not any(column in header for column in self.columns["text"]):
                    raise PassageError(
                        f"{path}:{start}: expected a line of column names with "
                        f"{self.columns['text'][0]!r}, got {header[:5]}; name the columns "
                        "with --header"
                    )
                continue
            if len(row) != len(header):
                yield PassageError(
                    f"{path}:{start}: expected {len(header)} columns, got {len(row)}"
                )
                continue
            values = dict(zip(header, row, strict=True))
            yield self._document(values, f"{name}:{start}", f"{path}:{start}")

    def _document(self, values: dict[str, Any], fallback: str, where: str) -> Item:
        """A document from named values; those without a meaning are its metadata."""
        found: dict[str, Any] = {}
        for meaning, names in self.columns.items():
            for column in names:
                if values.get(column) is not None:
                    found[meaning] = values.pop(column)
                    break
            else:
                if meaning in self.named:
                    return PassageError(f"{where}: no {names[0]!r} among {sorted(values)[:10]}")
        if "text" not in found:
            wanted = " or ".join(map(repr, self.columns["text"]))
            return PassageError(f"{where}: no {wanted} among {sorted(values)[:10]}")
        vector = found.pop("vector", None)
        if isinstance(found.get("id"), int | float) and not isinstance(found["id"], bool):
            found["id"] = str(found["id"])
        for meaning, value in found.items():
            if not isinstance(value, str):
                return PassageError(
                    f"{where}: the {meaning} is {type(value).__name__}, expected text"
                )
        if vector is not None:
            try:
                vector = np.asarray(vector, np.float32)
            except (TypeError, ValueError):
                return PassageError(f"{where}: the vector is no list of numbers")
            if vector.ndim != 1:
                return PassageError(f"{where}: the vector has {vector.ndim} dimensions, expected 1")
        id, title = found.get("id") or fallback, found.get("title", "")
        problem = _unstorable(id, title, found["text"])
        if problem:
            return PassageError(f"{where}: {problem}")
        rest = {name: value for name, value in values.items() if value is not None}
        return Document(id, found["text"], title, rest or None, where=where, vector=vector)

    # ---- data sets -----------------------------------------------------------------------------

    def _read_arrow(self, path: Path) -> Iterator[Item]:
        number = 0
        for batch in _record_batches(path):
            vectors = None
            names = list(batch.schema.names)
            for column in self.columns["vector"]:
                if column in names:
                    vectors = _matrix(batch.column(column), path)
                    batch = batch.drop_columns([column])
                    break
            for row in range(batch.num_rows):
                values = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
                where = f"{path}: row {number}"
                item = self._document(values, f"{path.name}:{number}", where)
                number += 1
                if vectors is not None and isinstance(item, Document):
                    item = item._replace(vector=vectors[row])
                yield item


# Files of a corpus --------------------------------------------------------------------------------


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    name = name.removesuffix(".gz")
    return SUFFIXES.get(os.path.splitext(name)[1])


def _detect(path: Path) -> str:
    if path.is_dir():
        names = {entry.name for entry in os.scandir(path)}
        if names & {"state.json", "dataset_info.json", "dataset_dict.json"}:
            return "datasets"
        if "blocks.tfr" in names:
            return "tfrecord"
        if "block_records.npy" in names:
            return "block_records"
        kinds = {SUFFIXES.get(os.path.splitext(name)[1]) for name in names} - {None}
        if kinds and kinds <= {"datasets"}:
            return "datasets"
        return "folder"
    kind = _kind(path)
    if kind is None:
        raise PassageError(
            f"{path}: its name does not tell what it holds; expected a folder or one of "
            f"{', '.join(SUFFIXES)}, or --format"
        )
    return kind


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones, sorted; a link to a folder is not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (Path(parent) / name).is_file():
                yield Path(parent) / name


def _open(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str | PassageError]]:
    """The lines of a file with their numbers; one that cannot be decoded is an error."""
    with _open(path) as file:
        wide = file.read(4)[:2] in (b"\xff\xfe", b"\xfe\xff")
        file.seek(0)
        if wide or encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
            # Lines cannot be told before decoding.
            text = io.TextIOWrapper(file, "utf-16" if wide else encoding, newline="")
            number = 0
            try:
                for number, line in enumerate(text, 1):
                    yield number, line
            except UnicodeError as error:
                yield number + 1, PassageError(f"{path}:{number + 1}: not {encoding}: {error}")
            return
        number = 0
        try:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.decode(encoding)
                except UnicodeDecodeError as error:
                    yield number, PassageError(f"{path}:{number}: not {encoding}: {error.reason}")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise PassageError(f"{path}:{number + 1}: cannot be read: {error}") from error


def _unstorable(*texts: str) -> str | None:
    """What keeps a text from being written as UTF-8."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"half of a surrogate pair, {text[error.start]!r}"
    return None


# One document a file ------------------------------------------------------------------------------


def _decoded(path: Path, encoding: str) -> str:
    """The text of a file.

    Raises:
        PassageError: a byte that the encoding does not have; names its line.
    """
    with _open(path) as file:
        data = file.read()
    if data[:3] == b"\xef\xbb\xbf":
        data, encoding = data[3:], "utf-8"
    elif data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PassageError(
            f"{path}:{line}: not {encoding}: {error.reason}; name another with --encoding"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise PassageError(f"{path}:{line}: a NUL character: this is no text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_text(path: Path, encoding: str) -> tuple[str, str]:
    return "", _decoded(path, encoding)


def _library(name: str, package: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {what} needs {package}: pip install 'twin-zoo[documents]'"
        ) from error


_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)


def _read_markdown(path: Path, encoding: str) -> tuple[str, str]:
    """Title (front matter's, else the first heading's) and text without the marks."""
    module = _library("markdown_it", "markdown-it-py", "Markdown")
    source = _decoded(path, encoding)
    title = ""
    front = _FRONT_MATTER.match(source)
    if front:
        source = source[front.end() :]
        named = _FRONT_TITLE.search(front[1])
        title = named[1].strip("\"'") if named else ""
    paragraphs, heading = [], False
    for token in module.MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "inline":
            text = "".join(map(_markdown_text, token.children or ())).strip()
            title = title or (text if heading else "")
        elif token.type in ("fence", "code_block"):
            text = token.content.rstrip()
        elif token.type == "html_block":
            text = " ".join(_TAG.sub(" ", token.content).split())
        else:
            heading = token.type == "heading_open"
            continue
        heading = False
        if text:
            paragraphs.append(text)
    return title, "\n\n".join(paragraphs)


def _markdown_text(token: Any) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " " if token.type == "softbreak" else "\n"
    return "" if token.type == "html_inline" else token.content


_NO_TEXT = {"script", "style", "noscript", "template", "svg", "math", "head", "nav", "select",
            "button", "iframe", "object"}  # fmt: skip
_BLOCKS = set(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html li main ol p pre section "
    "summary table tbody tfoot thead title tr ul".split()
)


def _read_html(path: Path, encoding: str) -> tuple[str, str]:
    """Title and the text of a page, a paragraph for each block; scripts and menus left out."""
    bs4 = _library("bs4", "beautifulsoup4", "HTML")
    _library("lxml", "lxml", "HTML")
    with _open(path) as file:
        data = file.read()
    if not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        declared = bs4.dammit.EncodingDetector.find_declared_encoding(data, is_html=True)
        encoding = declared or encoding
    try:
        text = _decoded(path, encoding).replace("\0", "")
    except LookupError:
        raise PassageError(f"{path}: declares the unknown encoding {encoding!r}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guesses that the text might be a file name, or XML
        soup = bs4.BeautifulSoup(text, "lxml")
    heading = soup.title or soup.h1
    title = " ".join(heading.get_text().split()) if heading else ""
    pieces: list[str | None] = []  # None stands between blocks
    stack: list[Any] = [(soup, False)]
    while stack:
        node, literal = stack.pop()
        if node is None or isinstance(node, str) and type(node) is bs4.NavigableString:
            pieces.append(node if literal or node is None else re.sub(r"\s+", " ", node))
        elif isinstance(node, bs4.Tag) and node.name not in _NO_TEXT:
            if node.name == "br":
                pieces.append("\n")
            elif node.name in ("td", "th"):
                pieces.append(" ")
            literal = literal or node.name in ("pre", "textarea")
            block = node.name in _BLOCKS
            stack.extend([(None, False)] * block)
            stack.extend((child, literal) for child in reversed(node.contents))
            stack.extend([(None, False)] * block)
    paragraphs, current = [], ""
    for piece in [*pieces, None]:
        if piece is not None:
            current += piece
        elif current.strip():
            lines = [re.sub(r" {2,}", " ", line) for line in current.strip().split("\n")]
            paragraphs.append("\n".join(line.rstrip() for line in lines))
            current = ""
    return title, "\n\n".join(paragraphs)


def _read_pdf(path: Path, encoding: str) -> tuple[str, str]:
    """Title and text of a PDF file; a word cut at the end of a line is put together."""
    pypdf = _library("pypdf", "pypdf", "PDF")
    quiet = logging.getLogger("pypdf")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise PassageError(f"{path}: encrypted, and it opens with a password only")
        title = str((reader.metadata and reader.metadata.title) or "").strip()
        pages = []
        for number, page in enumerate(reader.pages, 1):
            try:
                pages.append(page.extract_text().strip())
            except Exception as error:  # whatever a damaged page makes it raise
                raise PassageError(f"{path}: page {number} cannot be read: {error}") from error
    except PassageError:
        raise
    except Exception as error:  # its own errors, and those of the parts it calls
        raise PassageError(f"{path}: no readable PDF file: {error}") from error
    finally:
        quiet.setLevel(level)
    text = "\n\n".join(pages).encode("utf-8", "replace").decode()
    text = re.sub(r"(?<=\w)[-\u00ad\u2010]\n(?=[a-z\u00df-\u00ff])", "", text)
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    return title, re.sub(r"[ \t]{2,}", " ", text).strip()


_PARSERS: dict[str, Callable[[Path, str], tuple[str, str]]] = {
    "text": _read_text,
    "markdown": _read_markdown,
    "html": _read_html,
    "pdf": _read_pdf,
}

# TFRecord -----------------------------------------------------------------------------------------

_RECORDS_AT_ONCE = 4096
_BYTES_AT_ONCE = 1 << 24
_MAX_RECORD = 1 << 28


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_CRC = _crc_table()


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32C of many records at once, a column of bytes at a time.

    Args:
        records: byte strings.

    Returns:
        One number each, `(records,)` uint32.
    """
    lengths = np.array([len(record) for record in records], np.int64)
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max(initial=0))
    state = np.full(len(records), 0xFFFFFFFF, np.uint32)
    step = max(_BYTES_AT_ONCE // max(len(records), 1), 1)
    for start in range(0, longest, step):
        width = min(step, longest - start)
        active = [records[i] for i in order[: np.count_nonzero(lengths > start)]]
        joined = b"".join(record[start : start + width].ljust(width, b"\0") for record in active)
        # (bytes, records): a row holds the byte of one place of each record.
        columns = np.frombuffer(joined, np.uint8).reshape(-1, width).T.copy()
        ends = np.searchsorted(-lengths[order], -np.arange(start, start + width), "left")
        for column, count in zip(columns, ends.tolist(), strict=True):
            part = state[:count]
            state[:count] = _CRC[(part ^ column[:count]) & 0xFF] ^ (part >> np.uint32(8))
    result = np.empty(len(records), np.uint32)
    result[order] = state ^ np.uint32(0xFFFFFFFF)
    return result


def _unmasked(crc: np.ndarray) -> np.ndarray:
    rotated = crc - np.uint32(0xA282EAD8)
    return (rotated >> np.uint32(17)) | (rotated << np.uint32(15))


def read_tfrecords(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of a TFRecord file, with every checksum compared; TensorFlow is not needed.

    Args:
        path: uncompressed, or gzip with a name that ends in .gz.

    Raises:
        PassageError: a damaged or truncated file; names the record.
    """
    path = Path(path)
    with _open(path) as file:
        done = 0
        while True:
            heads: list[bytes] = []
            sums: list[bytes] = []
            records: list[bytes] = []
            size = 0
            problem = None
            while len(records) < _RECORDS_AT_ONCE and size < _BYTES_AT_ONCE:
                head = file.read(12)
                if not head:
                    break
                number = done + len(records)
                length = int.from_bytes(head[:8], "little")
                if len(head) == 12 and length > _MAX_RECORD:  # is it the length that is wrong?
                    found = int(crc32c([head[:8]])[0])
                    wrong = found != int(_unmasked(np.frombuffer(head[8:], "<u4"))[0])
                    what = "the checksum of its length differs" if wrong else f"{length} bytes long"
                    problem = f"{path}: record {number}: {what}"
                    break
                data = file.read(length + 4)
                if len(data) < length + 4:
                    problem = f"{path}: record {number} is cut off"
                    break
                heads.append(head)
                records.append(data[:-4])
                sums.append(data[-4:])
                size += length
            if records:
                _check_sums([head[:8] for head in heads], [head[8:] for head in heads], path, done)
                _check_sums(records, sums, path, done)
                yield from records
                done += len(records)
            if problem:
                raise PassageError(problem)
            if not records:
                return


def _check_sums(records: list[bytes], masked: list[bytes], path: Path, first: int) -> None:
    expected = _unmasked(np.frombuffer(b"".join(masked), "<u4"))
    wrong = np.flatnonzero(crc32c(records) != expected)
    if len(wrong):
        raise PassageError(f"{path}: record {first + int(wrong[0])} is damaged: checksum differs")


def _record(record: bytes, id: str, where: str, title: str = "") -> Item:
    try:
        return Document(id, record.decode(), title, where=where)
    except UnicodeDecodeError as error:
        return PassageError(f"{where} is no UTF-8 text ({error.reason} at byte {error.start})")


def _tfrecord_blocks(path: Path) -> Path:
    if path.is_dir():
        path = path / "blocks.tfr"
        if not path.is_file():
            raise PassageError(f"{path} does not exist")
    return path


def _tfrecord_titles(blocks: Path) -> Path | None:
    """REALM keeps titles in a file beside the blocks."""
    titles = blocks.with_name(blocks.name.replace("blocks", "titles"))
    return titles if titles != blocks and titles.is_file() else None


def _read_blocks(blocks: Path, titles: Path | None = None) -> Iterator[Item]:
    names = None if titles is None else read_tfrecords(titles)
    number = -1
    for number, record in enumerate(read_tfrecords(blocks)):
        title = b"" if names is None else next(names, None)
        if title is None:
            raise PassageError(f"{titles} ends after {number} records, {blocks} goes on")
        where = f"{blocks}: record {number}"
        try:
            yield _record(record, str(number), where, title.decode())
        except UnicodeDecodeError:
            yield PassageError(f"{titles}: record {number} is no UTF-8 text")
    if names is not None and next(names, None) is not None:
        raise PassageError(f"{blocks} ends after {number + 1} records, {titles} goes on")


# Folders of `datasets` ----------------------------------------------------------------------------


def _dataset_files(path: Path) -> list[Path]:
    """The data files of `save_to_disk`, of the library's cache, or plain Arrow and Parquet."""
    if not path.is_dir():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits", [])
        if len(splits) != 1:
            raise PassageError(f"{path} holds the splits {', '.join(splits)}: name one, {path}/...")
        path = path / splits[0]
    if (path / "state.json").is_file():
        state = _json(path / "state.json")
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise PassageError(
                f"{path / 'state.json'}: a selection of rows by indices; save the data set again "
                "after flatten_indices()"
            )
        try:
            names = [entry["filename"] for entry in state["_data_files"]]
        except (KeyError, TypeError) as error:
            raise PassageError(f"{path / 'state.json'} lists no data files") from error
        for name in names:
            if Path(name).name != name:
                raise PassageError(f"{path / 'state.json'}: {name!r} is outside the folder")
        files = [path / name for name in names]
    else:
        files = sorted(file for file in path.rglob("*") if _kind(file) == "datasets")
    for file in files:
        if not file.is_file():
            raise PassageError(f"{file} is missing")
    if not files:
        raise PassageError(f"{path} holds no data set: no state.json, .arrow or .parquet file")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PassageError(f"{path}: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise PassageError(f"{path}: expected an object")
    return found


def _record_batches(path: Path) -> Iterable[Any]:
    pa = _library("pyarrow", "pyarrow", "data sets")
    try:
        if path.suffix == ".parquet":
            parquet = _library("pyarrow.parquet", "pyarrow", "data sets")
            with parquet.ParquetFile(path) as file:
                yield from file.iter_batches(1024)
            return
        ipc = _library("pyarrow.ipc", "pyarrow", "data sets")
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                reader = ipc.open_file(source)
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                source.seek(0)
                yield from ipc.open_stream(source)
    except (pa.ArrowException, OSError) as error:
        raise PassageError(f"{path} cannot be read: {error}") from error


def _matrix(column: Any, path: Path) -> np.ndarray:
    """A column of lists of equal length as `(rows, dimension)` float32."""
    column = getattr(column, "storage", column)  # of an extension type
    if column.null_count:
        raise PassageError(f"{path}: a vector is missing")
    try:
        lengths = column.value_lengths().unique().to_pylist()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if len(lengths) > 1:
            raise PassageError(f"{path}: vectors of several lengths, {sorted(lengths)[:5]}")
        return np.asarray(flat, np.float32).reshape(len(column), -1)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        if isinstance(error, PassageError):
            raise
        raise PassageError(f"{path}: vectors are no lists of numbers") from error

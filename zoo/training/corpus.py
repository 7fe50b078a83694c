"""A corpus of blocks as token ids: what training batches and block embeddings are cut from.

Tokenised once and memory-mapped from then on. A block's number is its row, which is also its id in
an index and its row in `block_emb`. Beside the tokens are the characters they stand for, the
sentences, and the salient spans, so that a batch is a few gathers.

    corpus.json          sizes, tokenizer, how spans were found
    tokens.npy           ids of all blocks, one after the other; offsets.npy: where each begins
    characters.npy       of each token: first character and the one after the last
    titles.npy           ids of the titles, with title_offsets.npy
    sentences.npy        first token and the one after the last, with sentence_offsets.npy
    spans.npy            sentence (of the whole corpus), first token and the one after the last
    ids.npy, documents.npy    number of the passage, and of its document
    texts.npy            UTF-8, with text_offsets.npy
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import numpy as np

from .. import files
from ..retrieval.splitting import sentences
from .spans import SPACY_MODEL, finder

FORMAT, VERSION = "zoo block corpus", 1
SETTINGS = "corpus.json"
_AT_ONCE = 1024  # blocks tokenised in one call
_ARRAYS = {
    "tokens": np.int32, "offsets": np.int64, "characters": np.int32,
    "titles": np.int32, "title_offsets": np.int64,
    "sentences": np.int32, "sentence_offsets": np.int64, "spans": np.int64,
    "ids": np.int64, "documents": np.int64, "texts": np.uint8, "text_offsets": np.int64,
}  # fmt: skip
_WIDTHS = {"characters": 2, "sentences": 2, "spans": 3}


class CorpusError(ValueError):
    """A corpus that is damaged, or was made with another tokenizer."""


class Special(NamedTuple):
    """Ids of the tokens that inputs are put together with."""

    cls: int
    sep: int
    pad: int
    mask: int

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Those of a tokenizer.

        Raises:
            ValueError: it lacks one of them.
        """
        found = {name: getattr(tokenizer, f"{name}_token_id") for name in cls._fields}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise ValueError(f"tokenizer: it has no {missing[0]} token")
        return cls(**found)


class Texts(Sequence[str]):
    """The texts of blocks, by row.

    Args:
        data: UTF-8 of all, uint8.
        offsets: where each begins, and the end, `(blocks + 1,)`.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self._data, self._offsets = data, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        place = int(row)
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)} blocks")
        place %= len(self)
        return self._data[self._offsets[place] : self._offsets[place + 1]].tobytes().decode()


class BlockCorpus:
    """Blocks of text, tokenised.

    `BlockCorpus.build` makes one in memory or in a folder, `BlockCorpus.open` opens a folder.

    Args:
        arrays: by the names of the files.
        settings: as in corpus.json.
        folder: where it was opened from.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    characters: np.ndarray
    titles: np.ndarray
    title_offsets: np.ndarray
    sentences: np.ndarray
    sentence_offsets: np.ndarray
    spans: np.ndarray
    ids: np.ndarray
    documents: np.ndarray

    def __init__(
        self, arrays: dict[str, np.ndarray], settings: dict[str, Any], folder: Path | None = None
    ):
        for name in _ARRAYS:
            if name not in ("texts", "text_offsets"):
                setattr(self, name, arrays[name])
        self.texts = Texts(arrays["texts"], arrays["text_offsets"])
        self.settings = settings
        self.folder = folder
        self.special = Special(**settings["special"])

    @classmethod
    def build(
        cls,
        passages: Iterable[Any],
        tokenizer: Any,
        folder: str | os.PathLike[str] | None = None,
        *,
        spans: str = "auto",
        spacy_model: str = SPACY_MODEL,
        progress: Any = None,
        source: Mapping[str, Any] | None = None,
    ) -> BlockCorpus:
        """Tokenises passages.

        Args:
            passages: a `PassageStore`, passages, documents in blocks, or texts.
            tokenizer: one of the fast ones, as the others know no characters.
            folder: where to keep it, replacing an earlier corpus; in memory by default.
            spans: how salient spans are found: `rules`, `spacy`, or `auto` for spaCy where it is
                installed.
            spacy_model: name or folder of spaCy's pipeline.
            progress: called with the number of blocks after some of them.
            source: what the passages are, as JSON can hold it; kept in the settings.

        Returns:
            The corpus, opened.

        Raises:
            ValueError: no passages, or a tokenizer that does not fit.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer: {type(tokenizer).__name__} gives no offsets; expected a fast one"
            )
        special = Special.of(tokenizer)
        kind, find = finder(spans, spacy_model)
        settings = {
            "format": FORMAT, "version": VERSION, "spans": kind,
            "tokenizer": tokenizer_fingerprint(tokenizer), "special": special._asdict(),
            "source": None if source is None else dict(source),
        }  # fmt: skip
        if folder is None:
            kept: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
            for chunk in _chunks(passages, tokenizer, find, progress):
                for name, array in chunk.items():
                    kept[name].append(array)
            arrays = {name: np.concatenate(parts) for name, parts in kept.items() if parts}
            _assert_some(arrays.get("ids"))
            return cls(arrays, settings | {"blocks": len(arrays["ids"])})
        folder = Path(folder)
        with files.FolderUpdate(folder) as update:
            columns = {name: _Column(update.path(f"{name}.npy"), name) for name in _ARRAYS}
            try:
                for chunk in _chunks(passages, tokenizer, find, progress):
                    for name, array in chunk.items():
                        columns[name].add(array)
                blocks = columns["ids"].rows
                _assert_some(range(blocks))
                for column in columns.values():
                    column.finish()
            finally:
                for column in columns.values():
                    column.close()
            update.write(SETTINGS, json.dumps(settings | {"blocks": blocks}, indent=1) + "\n")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], tokenizer: Any = None) -> BlockCorpus:
        """Opens a corpus, memory-mapped.

        Args:
            folder: that `build` was given.
            tokenizer: what has to be the one that the corpus was made with; not looked at if None.

        Raises:
            CorpusError: no corpus, a damaged one, or another tokenizer.
        """
        folder = Path(folder)
        try:
            with files.reading(folder):
                settings = json.loads((folder / SETTINGS).read_bytes())
                if settings.get("format") != FORMAT or settings.get("version") != VERSION:
                    raise CorpusError(
                        f"{folder / SETTINGS}: expected {FORMAT!r} of version {VERSION}, got "
                        f"{settings.get('format')!r} {settings.get('version')!r}"
                    )
                arrays = {
                    name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                    for name in _ARRAYS
                }
            corpus = cls(arrays, settings, folder)
        except FileNotFoundError as error:
            raise CorpusError(f"{folder} holds no corpus of blocks: no {error.filename}") from error
        except CorpusError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(f"{folder} is damaged: {error}") from error
        corpus._check(arrays)
        if tokenizer is not None:
            corpus.check_tokenizer(tokenizer)
        return corpus

    def _check(self, arrays: dict[str, np.ndarray]) -> None:
        """Sizes that do not fit each other would give the tokens of other blocks."""
        blocks = self.settings["blocks"]
        for name, kind in _ARRAYS.items():
            width = _WIDTHS.get(name)
            shape = arrays[name].shape[1:]
            if arrays[name].dtype != kind or shape != (() if width is None else (width,)):
                raise CorpusError(f"{self.folder}: {name}.npy has another type or shape")
        pairs = (
            ("offsets", "tokens"), ("title_offsets", "titles"), ("text_offsets", "texts"),
            ("sentence_offsets", "sentences"),
        )  # fmt: skip
        for offsets, values in pairs:
            found = arrays[offsets]
            if len(found) != blocks + 1 or found[0] != 0 or found[-1] != len(arrays[values]):
                raise CorpusError(f"{self.folder}: {offsets}.npy does not fit {values}.npy")
        if len(self.characters) != len(self.tokens) or len(self.ids) != blocks:
            raise CorpusError(f"{self.folder}: its arrays have different lengths")

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuses a tokenizer that cuts text in another way than the corpus was cut.

        Raises:
            CorpusError: another one.
        """
        if self.settings["tokenizer"] != tokenizer_fingerprint(tokenizer):
            place = "the corpus" if self.folder is None else str(self.folder)
            raise CorpusError(f"{place} was made with another tokenizer; build it again")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each block, `(blocks,)`, without title and special tokens."""
        return np.diff(self.offsets)

    def body(self, row: int) -> np.ndarray:
        """The tokens of a block."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def title(self, row: int) -> np.ndarray:
        """The tokens of a block's title."""
        return self.titles[self.title_offsets[row] : self.title_offsets[row + 1]]

    def decode(self, row: int, start: int, end: int) -> str:
        """The text of a block's tokens from `start` to before `end`, as it was written."""
        characters = self.characters[self.offsets[row] :]
        return self.texts[row][characters[start, 0] : characters[end - 1, 1]] if start < end else ""

    def gather(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The first tokens of blocks.

        Args:
            rows: any shape; -1 is the empty block.
            length: how many tokens.

        Returns:
            Ids of the shape of `rows` and `length`, with anything beyond a block's end, and how
            many there are of each.
        """
        there = rows >= 0
        safe = np.where(there, rows, 0)
        starts = self.offsets[safe]
        counts = np.minimum(self.offsets[safe + 1] - starts, length) * there
        places = starts[..., None] + np.arange(length)
        return self.tokens[np.minimum(places, len(self.tokens) - 1)], counts

    def block_inputs(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """What an embedder of blocks takes: [CLS] title [SEP] block [SEP].

        As a tokenizer lays out a pair, and a block alone where there is no title.

        Args:
            rows: `(batch,)`; -1 is the empty block.
            length: the most tokens.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids`, `(batch, sequence)`, int32, as long
            as the longest of them.
        """
        return block_inputs(self, np.asarray(rows), length)


def block_inputs(
    corpus: BlockCorpus,
    rows: np.ndarray,
    length: int,
    without: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """See `BlockCorpus.block_inputs`.

    Args:
        corpus: the corpus.
        rows: `(batch,)`.
        length: the most tokens.
        without: first token and the one after the last of what is left out of each block.
    """
    special = corpus.special
    there = rows >= 0
    safe = np.where(there, rows, 0)
    starts = corpus.offsets[safe]
    bodies = (corpus.offsets[safe + 1] - starts) * there
    title_starts = corpus.title_offsets[safe]
    titles = (corpus.title_offsets[safe + 1] - title_starts) * there
    # A title takes no more than half of the room.
    titles = np.minimum(titles, max((length - 3) // 2, 0))
    heads = np.where(titles > 0, titles + 2, 1)  # [CLS] title [SEP], or [CLS]
    if without is None:
        cut, gap = bodies, np.zeros_like(bodies)
    else:
        cut, gap = without[0], without[1] - without[0]
    bodies = np.minimum(bodies - gap, length - heads - 1)
    longest = int((heads + bodies + 1).max(initial=1))
    place = np.arange(longest)[None, :]
    inside = place - heads[:, None]  # number of the token in the block
    source = inside + np.where(inside >= cut[:, None], gap[:, None], 0)
    body = _take(corpus.tokens, starts[:, None] + source)
    title = _take(corpus.titles, title_starts[:, None] + place - 1)
    is_body = (inside >= 0) & (inside < bodies[:, None])
    ends = inside == bodies[:, None]
    is_title = (place >= 1) & (place <= titles[:, None])
    separates = (place == titles[:, None] + 1) & (titles > 0)[:, None]
    input_ids = np.select(
        [is_body, is_title, ends | separates, place == 0],
        [body, title, special.sep, special.cls],
        special.pad,
    )
    mask = place < (heads + bodies + 1)[:, None]
    types = mask & (inside >= 0) & (titles > 0)[:, None]
    return {
        "input_ids": input_ids.astype(np.int32),
        "attention_mask": mask.astype(np.int32),
        "token_type_ids": types.astype(np.int32),
    }


def _take(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at places, and anything where there is no such place."""
    if not len(array):
        return np.zeros(places.shape, array.dtype)
    return array[np.clip(places, 0, len(array) - 1)]


def corpus_of(
    path: str | os.PathLike[str],
    tokenizer: Any,
    folder: str | os.PathLike[str],
    *,
    length: int = 256,
    spans: str = "auto",
    progress: Any = None,
    **reading: Any,
) -> BlockCorpus:
    """The corpus of whatever holds text, made where it is not there yet.

    Args:
        path: a corpus of blocks; a folder that `zoo index build` made, or its store of passages;
            a file of questions in SQuAD's layout, whose paragraphs are taken; else a file or folder
            of documents. Documents are cut into blocks unless they come in some.
        tokenizer: of the model.
        folder: where the corpus is kept; one that is there and fits is taken.
        length: word pieces of a block, where documents are cut.
        spans: see `BlockCorpus.build`.
        progress: see `BlockCorpus.build`.
        reading: arguments of `zoo.retrieval.readers.Corpus`.

    Raises:
        CorpusError: a corpus of another tokenizer, or of other text, is in the folder.
        PassageError: nothing that can be read.
    """
    path, folder = Path(path), Path(folder)
    if (path / SETTINGS).exists():
        return BlockCorpus.open(path, tokenizer)
    passages, source = passages_of(path, tokenizer, length, **reading)
    if (folder / SETTINGS).exists():
        corpus = BlockCorpus.open(folder, tokenizer)
        if corpus.settings.get("source") != source:
            raise CorpusError(f"{folder} is of other text; name another folder, or delete it")
        return corpus
    return BlockCorpus.build(
        passages, tokenizer, folder, spans=spans, progress=progress, source=source
    )


def passages_of(
    path: Path, tokenizer: Any, length: int, **reading: Any
) -> tuple[Any, dict[str, Any]]:
    """The passages of whatever holds text, and what tells them from others; see `corpus_of`."""
    from ..retrieval.passages import MANIFEST, PassageStore
    from ..retrieval.readers import Corpus
    from ..retrieval.splitting import Splitter

    source: dict[str, Any] = {"path": str(path.resolve())}
    if (path / "passages" / MANIFEST).exists() or (path / MANIFEST).exists():
        store = PassageStore(path if (path / MANIFEST).exists() else path / "passages")
        return store, source | {"generation": store.generation}
    if path.suffix == ".json":
        from .questions import contexts, read_questions

        paragraphs = contexts(read_questions(path))
        if not paragraphs:
            raise CorpusError(f"{path}: expected SQuAD's layout, its questions have no paragraphs")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        passages: Any = Splitter(tokenizer, length)(paragraphs)
        return passages, source | {"fingerprint": digest, "length": length}
    found = Corpus(path, **reading)
    passages = found if found.is_split else Splitter(tokenizer, length)(found)
    return passages, source | {"fingerprint": found.fingerprint(), "length": length}


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of what decides how a tokenizer cuts text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        text = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    else:
        # Without what a call sets and the order of a dictionary.
        parts = json.loads(backend.to_str())
        parts["truncation"] = parts["padding"] = None
        text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# Building -----------------------------------------------------------------------------------------


class _Column:
    """An array on disk that grows."""

    def __init__(self, path: Path, name: str):
        self._file = open(path, "xb")
        self._kind, self._width = np.dtype(_ARRAYS[name]), _WIDTHS.get(name)
        self.rows = 0
        self._header()

    def _header(self) -> None:
        """numpy leaves room in it for the first axis to grow."""
        shape = (self.rows,) if self._width is None else (self.rows, self._width)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._kind),
                "fortran_order": False,
                "shape": shape,
            },
        )

    def add(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, self._kind).tobytes())
        self.rows += len(array)

    def finish(self) -> None:
        self._header()

    def close(self) -> None:
        self._file.close()


def _assert_some(rows: Any) -> None:
    if rows is None or not len(rows):
        raise ValueError("passages: there are none")


def _fields(passage: Any, row: int) -> tuple[str, str, int, str | None]:
    """Text, title, number and document of whatever stands for a passage."""
    if isinstance(passage, str | bytes):
        return (passage.decode() if isinstance(passage, bytes) else passage), "", row, None
    number = passage.id if isinstance(passage.id, int) else row
    document = getattr(passage, "document", None)
    return passage.text, passage.title, number, document or str(passage.id)


def _chunks(
    passages: Iterable[Any], tokenizer: Any, find: Any, progress: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Arrays of the corpus, some blocks at a time; offsets of the first chunk begin with 0."""
    remaining = iter(passages)
    row = document = 0
    ends = dict.fromkeys(("offsets", "title_offsets", "sentence_offsets", "text_offsets"), 0)
    last: str | None = None
    plain = {"add_special_tokens": False, "return_attention_mask": False,
             "return_token_type_ids": False, "verbose": False}  # fmt: skip
    while chunk := [_fields(p, row + i) for i, p in enumerate(islice(remaining, _AT_ONCE))]:
        texts = [text for text, *_ in chunk]
        encoding = tokenizer(texts, return_offsets_mapping=True, **plain)
        titles = tokenizer([title for _, title, *_ in chunk], **plain)["input_ids"]
        documents: list[int] = []
        found_sentences: list[np.ndarray] = []
        found_spans: list[np.ndarray] = []
        characters = [np.array(x, np.int32).reshape(-1, 2) for x in encoding["offset_mapping"]]
        for text, places, spans, (_, _, _, name) in zip(
            texts, characters, find(texts), chunk, strict=True
        ):
            if (row or len(documents)) and (name is None or name != last):
                document += 1
            last = name
            documents.append(document)
            first = ends["sentence_offsets"] + sum(map(len, found_sentences))
            of_block = _token_ranges(places, sentences(text))
            found_sentences.append(of_block)
            found_spans.append(_within(_token_ranges(places, spans), of_block, first))
        encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
        parts = {
            "offsets": ("tokens", [np.array(x, np.int32) for x in encoding["input_ids"]]),
            "title_offsets": ("titles", [np.array(x, np.int32) for x in titles]),
            "sentence_offsets": ("sentences", found_sentences),
            "text_offsets": ("texts", encoded),
        }
        arrays = {
            "characters": np.concatenate(characters),
            "spans": np.concatenate(found_spans),
            "ids": np.array([number for _, _, number, _ in chunk], np.int64),
            "documents": np.array(documents, np.int64),
        }
        for offsets, (name, values) in parts.items():
            arrays[name] = np.concatenate(values)
            sizes = ends[offsets] + np.cumsum([len(x) for x in values])
            arrays[offsets] = sizes if row else np.concatenate([[0], sizes])
            ends[offsets] = int(sizes[-1])
        row += len(chunk)
        yield arrays
        if progress is not None:
            progress(row)


def _token_ranges(places: np.ndarray, spans: Iterable[Sequence[Any]]) -> np.ndarray:
    """The tokens that stretches of characters are made of, `(spans, 2)`; empty ones are left out.

    A token belongs to a stretch if it begins in it.
    """
    bounds = np.array([[span[0], span[1]] for span in spans], np.int64).reshape(-1, 2)
    found = np.searchsorted(places[:, 0], bounds).astype(np.int32)
    return found[found[:, 0] < found[:, 1]]


def _within(spans: np.ndarray, of_block: np.ndarray, first: int) -> np.ndarray:
    """Spans with the number of the sentence that holds the whole of them, `(spans, 3)`."""
    if not len(of_block) or not len(spans):
        return np.empty((0, 3), np.int64)
    number = np.searchsorted(of_block[:, 0], spans[:, 0], "right") - 1
    inside = (number >= 0) & (spans[:, 1] <= of_block[np.maximum(number, 0), 1])
    return np.concatenate([first + number[:, None], spans], 1)[inside].astype(np.int64)

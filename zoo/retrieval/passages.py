"""The passages behind an index: number -> text, title and where it is from, in constant memory.

A store is a folder of segments, Arrow files of at most `SEGMENT_ROWS` passages that are written
once and memory-mapped. Removing writes a list of numbers that no longer count; adding writes new
segments; `manifest.json` says which files make up the store, with their checksums, and is replaced
last and in one step, so that whatever happens the earlier state or the new one is there.

A passage's number is given once and never again to another one; it is the id used in an index.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import mmap
import os
import struct
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from .. import files

FORMAT, VERSION = "zoo passages", 1
MANIFEST = "manifest.json"
LOCK = "write.lock"
SEGMENT_ROWS = 1 << 18
BATCH_ROWS = 64
CHECKED_ROWS = 4096  # new documents that are looked for at a time
BATCH_BYTES = 1 << 26  # far below the 2 GB that Arrow's 32-bit offsets reach
SHORT_ROWS, SHORT_SEGMENTS = 4096, 32  # so many short segments at the end are made one
_HEAD = 1 << 16  # bytes of all but the texts of a batch that are read at once
_PREAD: Any = getattr(os, "pread", None)  # not everywhere: the map serves then
_TEXTS = ("document", "title", "metadata", "text")  # the long one last, see `_Segment`
_TEXT = 3 + 3 * _TEXTS.index("text")  # where a batch's place tells of it
_INT32, _OFFSETS = struct.Struct("<i"), struct.Struct("<ii")


class PassageError(ValueError):
    """A passage or document that cannot be stored or found, or a damaged store."""


class Document(NamedTuple):
    """What a reader returns and a store takes.

    Args:
        id: the document's own name, unique in a store: a path, a key, a line number.
        text: the whole text, or one block of it.
        title: may be empty.
        metadata: anything that JSON can hold.
        part: number of the block; the blocks of one document follow one another from 0.
        where: file and line, for messages.
        vector: embedding that came with it, `(dimension,)`; not kept in the store.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] | None = None
    part: int = 0
    where: str = ""
    vector: np.ndarray | None = None


class Passage(NamedTuple):
    """A stored passage: its number, what it says, and which part of which document it is."""

    id: int
    text: str
    title: str
    document: str
    part: int
    metadata: dict[str, Any]


class PassageStore:
    """An opened store of passages.

    Args:
        folder: the store's folder; `PassageStore.create` makes one.

    Raises:
        PassageError: no store, one of a later version, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def create(cls, folder: str | os.PathLike[str], notes: Mapping[str, Any] | None = None) -> Self:
        """Makes an empty store.

        Args:
            folder: must not hold a store yet.
            notes: kept with the store, see `notes`.

        Raises:
            PassageError: there is a store already.
        """
        folder = Path(folder)
        with files.FolderUpdate(folder) as update:
            if (folder / MANIFEST).exists():
                raise PassageError(f"{folder} holds a store of passages already")
            empty = {
                "format": FORMAT, "version": VERSION, "generation": 0, "next_id": 0, "rows": 0,
                "documents": 0, "next_file": 0, "segments": [], "removed": None,
                "notes": dict(notes or {}),
            }  # fmt: skip
            update.write(MANIFEST, json.dumps(empty, indent=1))
        return cls(folder)

    def refresh(self) -> None:
        """Looks again at what is in the folder, after another process changed it."""
        with files.reading(self.folder):
            self._manifest = _read_manifest(self.folder)
            self._removed = self._read_removed()
            self._segments = [_Segment(self.folder, part) for part in self._manifest["segments"]]
        self._firsts = [segment.first for segment in self._segments]
        self._lasts = [part["last"] for part in self._manifest["segments"]]

    # ---- reading -------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many passages there are, not counting removed ones."""
        return self._manifest["rows"]

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int | np.integer) and self._find(int(id)) is not None

    def __getitem__(self, id: int) -> Passage:
        """The passage of a number.

        Raises:
            PassageError: there is none, or it was removed.
        """
        found = self._find(int(id))
        if found is None:
            raise PassageError(f"{self.folder} has no passage {id}")
        segment, place, row = found
        return segment.passage(int(id), place, row)

    def read(self, ids: Iterable[int]) -> list[Passage]:
        """The passages of several numbers, in their order.

        Raises:
            PassageError: one of them is not there.
        """
        return [self[id] for id in ids]

    def __iter__(self) -> Iterator[Passage]:
        """Every passage in the order of the numbers."""
        for segment in self._segments:
            yield from self._live(segment)

    def ids(self) -> np.ndarray:
        """The numbers of all passages, `(rows,)` int64, ascending."""
        found = [np.empty(0, np.int64)]
        for segment, part in zip(self._segments, self._manifest["segments"], strict=True):
            if part["last"] - part["first"] + 1 == part["rows"]:
                numbers = np.arange(part["first"], part["last"] + 1, dtype=np.int64)
            else:
                numbers = np.concatenate([ids for ids, _ in segment.batches()])
                segment.release()
            found.append(numbers[~self._is_removed(numbers)])
        return np.concatenate(found)

    def find(self, document: str) -> list[int]:
        """The numbers of a document's passages, none where there is no such document."""
        key = np.array([_key(document)], np.uint64)
        return [id for runs in self._runs(key, [document]) for id in runs]

    def release(self) -> None:
        """Gives back the memory that reading took; the files stay in the system's cache."""
        for segment in self._segments:
            segment.release()

    @property
    def notes(self) -> dict[str, Any]:
        """What was handed to `create` or the last change that brought notes."""
        return self._manifest["notes"]

    @property
    def generation(self) -> int:
        """Grows by one with every change."""
        return self._manifest["generation"]

    def stats(self) -> dict[str, Any]:
        """Numbers about the store: rows, documents, removed, segments, bytes, generation."""
        manifest = self._manifest
        return {
            "rows": manifest["rows"],
            "documents": manifest["documents"],
            "removed": len(self._removed),
            "segments": len(manifest["segments"]),
            "bytes": sum(part["size"] for part in _listed(manifest)),
            "generation": manifest["generation"],
        }

    def verify(self) -> None:
        """Reads every file and compares its checksum.

        Raises:
            PassageError: a file differs from what was written; names it.
        """
        for part in _listed(self._manifest):
            path = self.folder / part["file"]
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != part["sha256"]:
                raise PassageError(f"{path} is damaged: its checksum is not the one in {MANIFEST}")

    # ---- changing ------------------------------------------------------------------------------

    def add(
        self, documents: Iterable[Document], *, notes: Mapping[str, Any] | None = None
    ) -> range:
        """Appends documents, all or nothing, in constant memory.

        Args:
            documents: their blocks, those of one document in a row.
            notes: replaces the store's notes in the same step.

        Returns:
            The numbers that the passages were given.

        Raises:
            PassageError: a document is there already, or cannot be stored; names file and line.
        """
        return self._change(documents, replace=False, notes=notes)[0]

    def update(self, documents: Iterable[Document]) -> tuple[range, np.ndarray]:
        """Adds documents in the place of those of the same id, all or nothing.

        Returns:
            The numbers of the new passages and those that went, int64 ascending.
        """
        return self._change(documents, replace=True, notes=None)

    def remove(self, documents: Iterable[str]) -> np.ndarray:
        """Removes documents with all their passages, all or nothing.

        Returns:
            The numbers that went, int64 ascending.

        Raises:
            PassageError: one is not there; nothing is removed then.
        """
        names = list(dict.fromkeys([documents] if isinstance(documents, str) else documents))
        with self._writing():
            keys = np.array([_key(name) for name in names], np.uint64)
            found = self._runs(keys, names)
            missing = [name for name, ids in zip(names, found, strict=True) if not ids]
            if missing:
                more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
                listed = ", ".join(map(repr, missing[:5]))
                raise PassageError(f"{self.folder} has no document {listed}{more}")
            gone = np.array(sorted(id for ids in found for id in ids), np.int64)
            manifest = self._manifest
            with files.FolderUpdate(self.folder) as update:
                self._commit(
                    update,
                    manifest["segments"],
                    np.union1d(self._removed, gone),
                    manifest["next_file"],
                    rows=manifest["rows"] - len(gone),
                    documents=manifest["documents"] - len(names),
                )
            self.refresh()
        return gone

    def compact(self) -> None:
        """Writes anew the segments with removed passages and the short ones; numbers stay."""
        with self._writing():
            self._compact(0)

    def _change(
        self, documents: Iterable[Document], *, replace: bool, notes: Mapping[str, Any] | None
    ) -> tuple[range, np.ndarray]:
        with self._writing():
            manifest = self._manifest
            first = manifest["next_id"]
            gone: list[int] = []
            replaced = 0

            def check(keys: np.ndarray, rows: list[Document]) -> None:
                """Looks for earlier documents of the same names, a batch at a time."""
                nonlocal replaced
                found = self._runs(keys, [row.id for row in rows])
                for row, ids in zip(rows, found, strict=True):
                    if ids and not replace:
                        raise PassageError(
                            f"{_place(row)}: there is a document {row.id!r} already, "
                            f"passage {ids[0]} of {self.folder}"
                        )
                    replaced += bool(ids)
                    gone.extend(ids)

            with files.FolderUpdate(self.folder) as update:
                writer = _Writer(update, first, manifest["next_file"], check)
                try:
                    for document in documents:
                        writer.add(document)
                    writer.close()
                except BaseException:
                    writer.abandon()
                    raise
                removed = np.array(sorted(gone), np.int64)
                if writer.next_id > first or notes is not None:
                    self._commit(
                        update,
                        [*manifest["segments"], *writer.segments],
                        np.union1d(self._removed, removed),
                        writer.next_file,
                        next_id=writer.next_id,
                        rows=manifest["rows"] + writer.next_id - first - len(removed),
                        documents=manifest["documents"] + writer.documents - replaced,
                        notes=manifest["notes"] if notes is None else dict(notes),
                    )
            self.refresh()
            last = self._manifest["segments"][-SHORT_SEGMENTS:]
            if len(last) == SHORT_SEGMENTS and all(part["rows"] < SHORT_ROWS for part in last):
                self._compact(len(self._segments) - SHORT_SEGMENTS)
        return range(first, writer.next_id), removed

    def _compact(self, start: int) -> None:
        parts = self._manifest["segments"]
        moved = []
        for number, part in enumerate(parts[start:], start):
            bounds = np.searchsorted(self._removed, [part["first"], part["last"] + 1])
            if bounds[0] != bounds[1] or part["rows"] < SEGMENT_ROWS // 2:
                moved.append(number)
        if not moved:
            return
        still = np.ones(len(self._removed), bool)
        with files.FolderUpdate(self.folder) as update:
            writer = _Writer(update, self._manifest["next_id"], self._manifest["next_file"])
            for place, number in enumerate(moved):
                if place and number != moved[place - 1] + 1:
                    writer.close()  # another segment lies between: ranges must not overlap
                first, last = parts[number]["first"], parts[number]["last"]
                still &= (self._removed < first) | (self._removed > last)
                for passage in self._live(self._segments[number]):
                    writer.copy(passage)
            writer.close()
            kept = [part for number, part in enumerate(parts) if number not in set(moved)]
            everything = sorted([*kept, *writer.segments], key=lambda part: part["first"])
            self._commit(update, everything, self._removed[still], writer.next_file)
        self.refresh()

    def _commit(
        self,
        update: files.FolderUpdate,
        segments: list[dict[str, Any]],
        removed: np.ndarray,
        next_file: int,
        **changes: Any,
    ) -> None:
        """Stages the list of removed numbers and the manifest that makes all of it valid."""
        manifest = self._manifest | changes
        manifest["segments"] = segments
        if not np.array_equal(removed, self._removed):
            name = f"removed-{next_file:06d}.npy"
            manifest["removed"] = _write_array(update, name, removed) if len(removed) else None
        manifest["next_file"] = next_file + 1
        manifest["generation"] += 1
        listed = {part["file"] for part in _listed(manifest)}
        for part in _listed(self._manifest):
            if part["file"] not in listed:
                update.remove(part["file"])
        update.write(MANIFEST, json.dumps(manifest, indent=1))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, each starting from what the one before left."""
        lock = self.folder / LOCK
        lock.touch()
        held = files.lock(lock, exclusive=True)
        try:
            self.refresh()
            yield
        finally:
            files.unlock(held)

    # ---- parts ---------------------------------------------------------------------------------

    def _live(self, segment: _Segment) -> Iterator[Passage]:
        for number, (ids, place) in enumerate(segment.batches()):
            live = np.flatnonzero(~self._is_removed(ids))
            for id, row in zip(ids[live].tolist(), live.tolist(), strict=True):
                yield segment.passage(id, place, row, mapped=True)
            if number % 64 == 63:
                segment.release()
        segment.release()

    def _read_removed(self) -> np.ndarray:
        part = self._manifest["removed"]
        if part is None:
            return np.empty(0, np.int64)
        return _load_array(self.folder / part["file"], part["size"])

    def _is_removed(self, ids: np.ndarray) -> np.ndarray:
        if not len(self._removed):
            return np.zeros(len(ids), bool)
        places = np.minimum(np.searchsorted(self._removed, ids), len(self._removed) - 1)
        return self._removed[places] == ids

    def _find(self, id: int) -> tuple[_Segment, list[int], int] | None:
        number = bisect.bisect_right(self._firsts, id) - 1
        if number < 0 or id > self._lasts[number]:
            return None
        if len(self._removed):
            place = int(np.searchsorted(self._removed, id))
            if place < len(self._removed) and self._removed[place] == id:
                return None
        segment = self._segments[number]
        found = segment.find(id)
        return None if found is None else (segment, *found)

    def _runs(self, keys: np.ndarray, names: Sequence[str]) -> list[list[int]]:
        """The passages of each document, by the hashes of their names."""
        found: list[list[int]] = [[] for _ in names]
        order = np.argsort(keys)
        sorted_keys = keys[order]
        for segment in self._segments:
            index = segment.index
            low = np.searchsorted(index[0], sorted_keys, "left")
            high = np.searchsorted(index[0], sorted_keys, "right")
            for place in np.flatnonzero(high > low).tolist():
                which = int(order[place])
                for run in range(int(low[place]), int(high[place])):
                    first, count = int(index[1, run]), int(index[2, run])
                    spot = segment.find(first)
                    if spot is None or segment.passage(first, *spot).document != names[which]:
                        continue  # another name of the same hash
                    ids = [id for id in range(first, first + count) if self._find(id) is not None]
                    found[which].extend(ids)
        return found


class _Segment:
    """One Arrow file and the hashes of its documents' names, both memory-mapped.

    Single passages are read by the places of Arrow's buffers in the file, which are checked and
    not trusted, and not through the map: pages of it would add up in memory and cost more to map
    than to read. The text comes last in a batch and the rest is a few kB, so two reads are enough.
    """

    def __init__(self, folder: Path, part: Mapping[str, Any]):
        self.path = folder / part["file"]
        self._rows, self.first, self._size = part["rows"], part["first"], part["size"]
        _check_size(self.path, self._size)
        # Opened at once: another process may replace the files before they are needed.
        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._descriptor)
        self._memory = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        # Rows are the hash, ascending; the document's first passage; how many it has.
        self.index = _load_array(folder / part["index"]["file"], part["index"]["size"])
        self._starts: list[int] = []  # first and last id of each batch
        self._ends: list[int] = []
        # Rows, ids, parts, then offsets, data and length of the data of each text.
        self._places = np.empty((0, 3 + 3 * len(_TEXTS)), np.int64)

    def _open(self) -> None:
        pa = _pyarrow()
        places, starts, ends = [], [], []
        try:
            whole = pa.py_buffer(self._memory)
            reader = pa.ipc.open_file(whole)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                place = [batch.num_rows]
                for column in batch.columns:
                    _, *buffers = column.buffers()
                    place += [0 if x is None else x.address - whole.address for x in buffers]
                    if len(buffers) == 2:
                        place.append(0 if buffers[1] is None else buffers[1].size)
                places.append(place)
                ids = self._ids(place)
                starts.append(int(ids[0]))
                ends.append(int(ids[-1]))
            self._places = np.array(places, np.int64).reshape(-1, self._places.shape[1])
        except (pa.ArrowException, OSError, IndexError, ValueError) as error:
            raise PassageError(f"{self.path} is damaged: {error}") from error
        if int(self._places[:, 0].sum()) != self._rows:
            raise PassageError(f"{self.path} is damaged: expected {self._rows} passages")
        self._starts, self._ends = starts, ends
        self.release()  # every batch was looked at

    def _ids(self, place: Sequence[int]) -> np.ndarray:
        return np.frombuffer(self._memory, np.int64, place[0], place[1])

    def batches(self) -> Iterator[tuple[np.ndarray, list[int]]]:
        """For each batch its ids, and the place to pass to `passage`."""
        if not self._starts:
            self._open()
        for place in self._places.tolist():
            yield self._ids(place), place

    def find(self, id: int) -> tuple[list[int], int] | None:
        """Place of the batch, and the row in it."""
        if not self._starts:
            self._open()
        number = bisect.bisect_right(self._starts, id) - 1
        if number < 0 or id > self._ends[number]:
            return None
        place = self._places[number].tolist()
        first = self._starts[number]
        if self._ends[number] - first + 1 == place[0]:
            return place, id - first
        # Passages between were removed and the segment rewritten.
        ids = self._ids(place)
        row = int(np.searchsorted(ids, id))
        return (place, row) if row < len(ids) and ids[row] == id else None

    def passage(self, id: int, place: list[int], row: int, *, mapped: bool = False) -> Passage:
        """A row.

        Args:
            id: its number.
            place: of its batch.
            row: in the batch.
            mapped: read through the map, which is quicker where most rows are read.
        """
        try:
            # Long titles or metadata make more than can be read along: then through the map.
            mapped = mapped or place[-3] - place[2] > _HEAD
            part, texts = self._read(place, row, mapped)
            document, title, metadata, text = texts
            values = json.loads(metadata) if metadata else {}
        except (struct.error, OSError, OverflowError, ValueError) as error:
            raise PassageError(f"{self.path} is damaged: {error}") from error
        return Passage(id, text, title, document, part, values)

    def _read(self, place: list[int], row: int, mapped: bool) -> tuple[int, list[str]]:
        head: Any = self._memory
        base = 0
        if not mapped and _PREAD is not None:
            base = place[2]
            # From the parts to the end of the text's offsets.
            head = _PREAD(self._descriptor, place[-3] + 4 * place[0] + 4 - base, base)
        row *= 4
        texts = []
        for column in range(3, len(place), 3):
            offsets, data, size = place[column : column + 3]
            start, end = _OFFSETS.unpack_from(head, offsets - base + row)
            if not 0 <= start <= end <= size:
                raise ValueError(f"wrong offsets at byte {offsets + row}")
            if start == end:
                texts.append("")
            elif base and column == _TEXT:
                texts.append(_PREAD(self._descriptor, end - start, data + start).decode())
            else:
                data -= base
                texts.append(head[data + start : data + end].decode())
        return _INT32.unpack_from(head, place[2] - base + row)[0], texts

    def release(self) -> None:
        """Gives back the memory of the map; the file stays in the system's cache."""
        if hasattr(self._memory, "madvise"):
            self._memory.madvise(mmap.MADV_DONTNEED)


class _Writer:
    """Writes segments under a folder update.

    Args:
        update: where the files are staged.
        next_id: number of the first new passage.
        next_file: number in the name of the first new file.
        check: called with the hashes and first blocks of new documents, a batch at a time.
    """

    def __init__(
        self,
        update: files.FolderUpdate,
        next_id: int,
        next_file: int,
        check: Callable[[np.ndarray, list[Document]], None] | None = None,
    ):
        self._update, self.next_id, self.next_file, self._check = update, next_id, next_file, check
        self.segments: list[dict[str, Any]] = []
        self.documents = 0
        self._name: str | None = None  # of the current document
        self._indexes: list[np.ndarray] = []  # of the segments that are written
        self._new: list[Document] = []  # not checked yet
        self._start_segment()
        self._start_batch()

    def _start_segment(self) -> None:
        self._file: _HashedFile | None = None
        self._writer: Any = None
        self._rows = 0
        self._bounds = (-1, -1)
        self._runs: list[list[int]] = []  # hash, first passage, number of passages
        self._seen: set[int] = set()

    def _start_batch(self) -> None:
        self._ids: list[int] = []
        self._parts: list[int] = []
        self._texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
        self._bytes = 0
        self._wheres: list[str] = []

    def add(self, document: Document) -> None:
        """Takes a new block."""
        if document.part == 0:
            if not isinstance(document.id, str) or not document.id:
                raise PassageError(f"{_place(document)}: a document needs an id of text")
            key = self._start_document(document.id)
            if key in self._seen or self._is_written(key):
                raise PassageError(f"{_place(document)}: the id {document.id!r} is there twice")
            self._seen.add(key)
            # Of the first block only what the check needs.
            self._new.append(document._replace(text="", vector=None, metadata=None))
            if len(self._new) >= CHECKED_ROWS:
                self._check_new()
        elif document.id != self._name or document.part != self._runs[-1][2]:
            raise PassageError(
                f"{_place(document)}: part {document.part} of {document.id!r} does not follow "
                "the part before it"
            )
        try:
            metadata = json.dumps(dict(document.metadata)) if document.metadata else ""
        except (TypeError, ValueError) as error:
            raise PassageError(f"{_place(document)}: metadata: {error}") from error
        row = (document.id, document.title, metadata, document.text)
        for name, value in zip(_TEXTS, row, strict=True):
            if not isinstance(value, str):
                kind = type(value).__name__
                raise PassageError(f"{_place(document)}: {name} is {kind}, not text")
        self._put(self.next_id, document.part, row, document.where)
        self.next_id += 1

    def copy(self, passage: Passage) -> None:
        """Takes a stored passage with its number."""
        if passage.part == 0:
            self._start_document(passage.document)
        metadata = json.dumps(passage.metadata) if passage.metadata else ""
        row = (passage.document, passage.title, metadata, passage.text)
        self._put(passage.id, passage.part, row, "")

    def _check_new(self) -> None:
        if self._check is not None and self._new:
            self._check(np.array([_key(row.id) for row in self._new], np.uint64), self._new)
        self._new = []

    def close(self) -> None:
        """Ends the current segment."""
        self._check_new()
        self._flush()
        if self._file is not None:
            self._writer.close()
            self._file.close()
            name = f"documents-{self.next_file:06d}.npy"
            index = np.array(sorted(self._runs), np.uint64).reshape(-1, 3).T
            self.segments.append(
                {
                    "file": self._file_name,
                    "size": self._file.size,
                    "sha256": self._file.digest(),
                    "rows": self._rows,
                    "first": self._bounds[0],
                    "last": self._bounds[1],
                    "index": _write_array(self._update, name, index),
                }
            )
            self._indexes.append(np.load(self._update.path(name), mmap_mode="r"))
            self.next_file += 1
        self._start_segment()

    def abandon(self) -> None:
        """Lets go of a file that will not be finished."""
        if self._file is not None:
            self._file.close()

    def _start_document(self, name: str) -> int:
        if self._rows + len(self._ids) >= SEGMENT_ROWS:
            self.close()
        key = _key(name)
        self._runs.append([key, -1, 0])
        self._name = name
        self.documents += 1
        return key

    def _is_written(self, key: int) -> bool:
        """Whether an earlier segment of this change has the name.

        Equal hashes count as equal names here: one in 10^5 corpora of 20 million documents has two.
        """
        wanted = np.uint64(key)
        for index in self._indexes:
            place = np.searchsorted(index[0], wanted)
            if place < index.shape[1] and index[0, place] == wanted:
                return True
        return False

    def _put(self, id: int, part: int, row: tuple[str, str, str, str], where: str) -> None:
        run = self._runs[-1]
        run[1] = id if run[1] < 0 else run[1]
        run[2] += 1
        self._ids.append(id)
        self._parts.append(part)
        for name, value in zip(_TEXTS, row, strict=True):
            self._texts[name].append(value)
            self._bytes += len(value)
        self._wheres.append(where)
        if len(self._ids) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._ids:
            return
        pa = _pyarrow()
        columns = [pa.array(self._ids, pa.int64()), pa.array(self._parts, pa.int32())]
        for name, values in self._texts.items():
            try:
                columns.append(pa.array(values, pa.string()))
            except (UnicodeEncodeError, pa.ArrowException) as error:
                raise PassageError(self._explain(name, values, error)) from error
        batch = pa.record_batch(columns, names=["id", "part", *self._texts])
        if self._file is None:
            self._file_name = f"passages-{self.next_file:06d}.arrow"
            self._file = _HashedFile(self._update.path(self._file_name))
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        first = self._bounds[0]
        self._bounds = (self._ids[0] if first < 0 else first, self._ids[-1])
        self._start_batch()

    def _explain(self, name: str, values: list[str], error: Exception) -> str:
        """Which row it is that cannot be stored."""
        for row, value in enumerate(values):
            document = self._texts["document"][row]
            place = self._wheres[row] or f"document {document!r}"
            try:
                value.encode()
            except UnicodeEncodeError as cause:
                return f"{place}: {name} holds half of a surrogate pair at {cause.start}"
        return str(error)


class _HashedFile:
    """A new file whose checksum is known when it is written."""

    def __init__(self, path: Path):
        self._file = open(path, "xb")
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "passages need pyarrow: pip install 'twin-zoo[documents]'"
        ) from error
    return pyarrow


def _key(name: str) -> int:
    """64 bits that stand for a document's name."""
    encoded = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _place(document: Document) -> str:
    return document.where or f"document {document.id!r}"


def _listed(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every file that a manifest names, with its size and checksum."""
    for part in manifest["segments"]:
        yield part
        yield part["index"]
    if manifest["removed"] is not None:
        yield manifest["removed"]


def _write_array(update: files.FolderUpdate, name: str, array: np.ndarray) -> dict[str, Any]:
    file = _HashedFile(update.path(name))
    try:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    finally:
        file.close()
    return {"file": name, "size": file.size, "sha256": file.digest()}


def _load_array(path: Path, size: int) -> np.ndarray:
    _check_size(path, size)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise PassageError(f"{path} is damaged: {error}") from error


def _check_size(path: Path, size: int) -> None:
    try:
        found = os.stat(path).st_size
    except FileNotFoundError as error:
        raise PassageError(f"{path} is missing") from error
    if found != size:
        raise PassageError(f"{path} is damaged: it has {found} bytes, expected {size}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PassageError(f"{folder} holds no store of passages: no {MANIFEST}") from error
    except (ValueError, RecursionError) as error:
        raise PassageError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PassageError(f"{path} is not the manifest of a store of passages")
    if manifest.get("version") != VERSION:
        raise PassageError(
            f"{path} has version {manifest.get('version')!r}; this release reads {VERSION}"
        )
    try:
        for part in _listed(manifest):
            files.check_file_name(part["file"])
            if type(part["size"]) is not int or type(part["sha256"]) is not str:
                raise TypeError(f"{part['file']} has no size or checksum")
        for part in manifest["segments"]:
            if not all(type(part[name]) is int for name in ("rows", "first", "last")):
                raise TypeError(f"{part['file']} has no numbers of passages")
        if not all(
            type(manifest[n]) is int
            for n in ("generation", "next_id", "rows", "documents", "next_file")
        ):
            raise TypeError("a number is missing")
        if not isinstance(manifest["notes"], dict):
            raise TypeError("notes are missing")
    except (KeyError, TypeError, ValueError) as error:
        raise PassageError(f"{path} is damaged: {error}") from error
    return manifest

"""An index in this process: segments that never change, and what changed since, beside them.

    segments   exact or ScaNN, each over its own rows; one, or several (shards)
    added      new and updated vectors, searched exactly
    removed    rows of either that no longer count

A search takes the present `_State` once and works on that, so searches in other threads go on
undisturbed while the index changes or is rebuilt: a change puts a new state in the old one's place.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import secrets
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .exact import exact_top, merge
from .index import Index, Progress, check_count, check_ids, check_vectors, some
from .parts import (
    Part,
    Plan,
    as_shards,
    build_parts,
    check_shape,
    progress_bar,
    read_part,
    write_part,
)
from .scann import ScannSegment, build_scann
from .store import RetrievalError

_BLOCK = 1 << 16  # rows copied at a time
_DEAD = 256  # added rows that no longer count and are kept nevertheless


@dataclass(frozen=True)
class _State:
    """What a search sees. Arrays are never written to, but for the room behind the views.

    Args:
        parts: the segments.
        base: rows of all segments together; added rows are numbered from here.
        removed: rows that do not count, sorted.
        added: vectors `(count, dimension)`.
        added_ids: `(count,)`.
    """

    parts: tuple[Part, ...]
    base: int
    removed: np.ndarray
    added: np.ndarray
    added_ids: np.ndarray

    @functools.cached_property
    def alone(self) -> Part | None:
        """The segment where there is one and nothing else."""
        alone = len(self.parts) == 1 and not len(self.removed) and not len(self.added)
        return self.parts[0] if alone else None

    def rows(self) -> int:
        return self.base + len(self.added) - len(self.removed)

    def alive(self, rows: np.ndarray) -> np.ndarray:
        """Which rows still count."""
        if not len(self.removed):
            return np.ones(rows.shape, bool)
        places = np.searchsorted(self.removed, rows).clip(max=len(self.removed) - 1)
        return self.removed[places] != rows

    def removed_in(self, start: int, stop: int) -> int:
        """How many rows in a range do not count."""
        low, high = np.searchsorted(self.removed, (start, stop))
        return int(high - low)


class LocalIndex(Index):
    """An exact or ScaNN index in this process, in one or several segments.

    `build_index` and `open_index` make one.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        dimension: int,
        plan: Plan,
        *,
        fingerprint: str | None = None,
        report: dict[str, Any] | None = None,
    ):
        self.dimension = dimension
        self.fingerprint = fingerprint
        self.plan = plan
        self.report = report
        self._lock = threading.RLock()  # held by changes, not by searches
        self._refreshing: list[tuple[str, np.ndarray, np.ndarray]] | None = None
        self._saved: tuple[Path, int] | None = None  # folder and the manifest's checksum
        self._install(parts)

    def _install(self, parts: Sequence[Part]) -> None:
        self._added_rows: dict[int, int] = {}
        self._room = np.empty((0, self.dimension), np.float32)
        self._room_ids = np.empty(0, np.int64)
        self._state = _State(
            tuple(parts),
            sum(map(len, parts)),
            np.empty(0, np.int64),
            self._room,
            self._room_ids,
        )

    # Building ----------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Any = None,
        plan: Plan | None = None,
        *,
        queries: Any = None,
        fingerprint: str | None = None,
        progress: bool | Progress = False,
    ) -> LocalIndex:
        """Builds an index; see `build_index`.

        Args:
            vectors: `(rows, dimension)`, or a list of such.
            ids: `(rows,)`.
            plan: how.
            queries: `(batch, dimension)`.
            fingerprint: names the model.
            progress: a bar, or a function.

        Raises:
            RetrievalError: an argument that does not fit.
        """
        plan = plan or Plan()
        shards = as_shards(vectors, plan.shards)
        dimension = shards[0].shape[1]
        if queries is not None:
            queries = check_vectors("queries", queries, dimension)
        if fingerprint is not None and not isinstance(fingerprint, str):
            raise RetrievalError(f"fingerprint: expected text, got {fingerprint!r}")
        rows = sum(map(len, shards))
        ids = None if ids is None else check_ids(ids, rows)
        with progress_bar(progress) as told:
            parts, report = build_parts(shards, ids, plan, queries, told)
        return cls(parts, dimension, plan, fingerprint=fingerprint, report=report)

    # Searching ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._state.rows()

    def search(self, queries: Any, k: int = 10, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        queries = check_vectors("queries", queries, self.dimension)
        k = check_count("k", k)
        state = self._state
        if options:
            self._check_options(state, options)
        if not len(queries):
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        alone = state.alone
        if alone is not None:  # nothing to merge, and every microsecond counts
            rows, scores = alone.segment.search(queries, k, **options)
            return _padded(alone.ids_of(rows), scores, k)
        found = [self._search_part(state, part, queries, k, options) for part in state.parts]
        if len(state.added):
            found.append(_search_added(state, queries, k))
        ids, scores = zip(*found, strict=True)
        return _padded(*merge(ids, scores, k), k)

    def _search_part(
        self, state: _State, part: Part, queries: np.ndarray, k: int, options: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and scores of one segment, without removed rows."""
        gone = state.removed_in(part.start, part.start + len(part))
        if not gone:
            rows, scores = part.segment.search(queries, k, **options)
            return part.ids_of(rows), _below_all(scores)
        # As many removed rows as there may be among the best; mostly there are few.
        asked = min(k + min(gone, max(k, 16)), len(part))
        while True:
            rows, scores = part.segment.search(queries, asked, **options)
            rows, scores = rows.astype(np.int64), _below_all(scores)
            good = state.alive(rows + part.start) & (scores > -np.inf)
            short = (good.sum(1) < k) & (scores > -np.inf).all(1)
            if asked >= min(k + gone, len(part)) or not short.any():
                break
            asked = min(4 * asked, k + gone, len(part))
        scores = np.where(good, scores, np.float32(-np.inf))
        order = np.argsort(~good, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(rows, order, 1)
        return part.ids_of(rows), np.take_along_axis(scores, order, 1)

    def _check_options(self, state: _State, options: dict[str, Any]) -> None:
        for name, value in options.items():
            if name not in ("leaves", "reorder"):
                raise RetrievalError(f"{name}: no option of a search, expected leaves or reorder")
            check_count(name, value)
            if not any(part.segment.kind == "scann" for part in state.parts):
                raise RetrievalError(f"{name}: an option of ScaNN, but this index is exact")

    def __contains__(self, id: object) -> bool:
        try:
            number = check_count("id", id, 0)
        except RetrievalError:
            return False
        with self._lock:
            return bool(self._find(np.array([number]))[0] >= 0)

    def _find(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, -1 where they are not there. Under the lock."""
        state = self._state
        rows = np.full(len(ids), -1, np.int64)
        for part in state.parts:
            found = part.find(ids)
            rows = np.where(found >= 0, found + part.start, rows)
        rows = np.where((rows >= 0) & state.alive(rows), rows, -1)
        if self._added_rows:
            added = np.array([self._added_rows.get(int(id), -1) for id in ids], np.int64)
            rows = np.where(added >= 0, added + state.base, rows)
        return rows

    def vectors(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids)
        flat = ids.reshape(-1).astype(np.int64)
        with self._lock:
            state = self._state
            alone = state.alone
            rows = self._find(flat) if alone is None else alone.find(flat)
        if len(flat) and rows.min() < 0:
            raise RetrievalError(f"ids: {some(flat[rows < 0])} not in the index")
        if alone is None:
            found = _vectors(state, rows, self.dimension)
        else:
            found = alone.segment.vectors(rows)
        return found.reshape(*ids.shape, self.dimension)

    def ids(self) -> np.ndarray:
        """All ids `(rows,)`, in the order of their rows."""
        state = self._state
        found = [part.ids_of(np.arange(len(part))) for part in state.parts]
        found.append(state.added_ids)
        everything = np.concatenate(found)
        return everything[state.alive(np.arange(len(everything)))]

    # Changing ----------------------------------------------------------------------------------

    def add(self, vectors: Any, ids: Any = None) -> np.ndarray:
        vectors = check_vectors("vectors", vectors, self.dimension)
        with self._lock:
            if ids is None:
                state = self._state
                highest = [part.highest() for part in state.parts]
                highest.append(int(state.added_ids.max()) if len(state.added_ids) else -1)
                ids = np.arange(len(vectors)) + max(highest) + 1
            else:
                ids = check_ids(ids, len(vectors))
                there = self._find(ids) >= 0
                if there.any():
                    raise RetrievalError(f"ids: {some(ids[there])} in the index already; update it")
            self._change("add", ids, vectors)
        return ids

    def update(self, vectors: Any, ids: Any) -> None:
        vectors = check_vectors("vectors", vectors, self.dimension)
        ids = check_ids(ids, len(vectors))
        with self._lock:
            self._assert_there(ids)
            self._change("update", ids, vectors)

    def remove(self, ids: Any) -> None:
        ids = check_ids(ids)
        with self._lock:
            self._assert_there(ids)
            self._change("remove", ids, np.empty((0, self.dimension), np.float32))

    def _assert_there(self, ids: np.ndarray) -> None:
        missing = self._find(ids) < 0
        if missing.any():
            raise RetrievalError(f"ids: {some(ids[missing])} not in the index")

    def _change(self, kind: str, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Takes the old rows of ids away and adds new ones, as one step. Under the lock."""
        if self._refreshing is not None:
            self._refreshing.append((kind, ids, vectors))
        state = self._state
        old = self._find(ids)
        removed = np.union1d(state.removed, old[old >= 0])
        for id in ids:
            self._added_rows.pop(int(id), None)
        count = len(state.added)
        if len(vectors):
            self._append(count, vectors, ids)
            self._added_rows.update(zip(ids.tolist(), range(count, count + len(ids)), strict=True))
        total = count + len(vectors)
        state = replace(
            state, removed=removed, added=self._room[:total], added_ids=self._room_ids[:total]
        )
        dead = state.removed_in(state.base, state.base + total)
        self._state = self._without_dead(state) if dead > max(total // 2, _DEAD) else state

    def _without_dead(self, state: _State) -> _State:
        """The same, with room for those added rows only that count. Under the lock."""
        kept = np.flatnonzero(state.alive(np.arange(len(state.added)) + state.base))
        self._room, self._room_ids = state.added[kept], state.added_ids[kept]
        self._added_rows = dict(zip(self._room_ids.tolist(), range(len(kept)), strict=True))
        removed = state.removed[state.removed < state.base]
        return replace(state, removed=removed, added=self._room, added_ids=self._room_ids)

    def _append(self, count: int, vectors: np.ndarray, ids: np.ndarray) -> None:
        """Writes behind what searches see, into room that doubles when it is full."""
        total = count + len(vectors)
        if total > len(self._room):
            size = max(2 * len(self._room), total, 64)
            room, room_ids = np.empty((size, self.dimension), np.float32), np.empty(size, np.int64)
            room[:count], room_ids[:count] = self._room[:count], self._room_ids[:count]
            self._room, self._room_ids = room, room_ids
        self._room[count:total], self._room_ids[count:total] = vectors, ids

    # Refreshing --------------------------------------------------------------------------------

    def refresh(
        self,
        vectors: Any = None,
        ids: Any = None,
        *,
        queries: Any = None,
        fingerprint: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        plan: Plan | None = None,
        background: bool = False,
        progress: bool | Progress = False,
    ) -> Future[None]:
        """Builds new segments while searches go on in the old ones, then puts them in place.

        Changes that are made meanwhile are made to the new segments too.

        Args:
            vectors: all embeddings anew, `(rows, dimension)`; by default the index's own, which
                merges what was added and removed into the segments.
            ids: `(rows,)`; by default, as in `build_index`.
            queries: `(batch, dimension)`, to measure recall with.
            fingerprint: of the model that made `vectors`; by default the present one.
            folder: saves the new index there, in one step, before it is put in place.
            plan: how to build; by default as before.
            background: return at once and work in another thread.
            progress: a bar, or a function.

        Returns:
            A future that is done when the new index is in place; `result()` raises what went
            wrong, in which case the old index stays.

        Raises:
            RetrievalError: another refresh is running, or an argument does not fit.
        """
        if vectors is None and (ids is not None or fingerprint is not None):
            raise RetrievalError("ids, fingerprint: given without vectors")
        with self._lock:
            if self._refreshing is not None:
                raise RetrievalError("another refresh of this index is running")
            self._refreshing = []
            state = self._state

        def work() -> None:
            try:
                given, named = vectors, ids
                if vectors is None:
                    given, named = self._own(state, folder)
                new = LocalIndex.build(
                    given,
                    named,
                    plan or self.plan,
                    queries=queries,
                    fingerprint=self.fingerprint if fingerprint is None else fingerprint,
                    progress=progress,
                )
                if new.dimension != self.dimension:
                    raise RetrievalError(
                        f"vectors: expected dimension {self.dimension}, got {new.dimension}"
                    )
                # The bulk is written outside of the lock; a change during it is saved after it.
                if folder is not None:
                    done = self._replayed(new, 0)
                    new.save(folder)
                else:
                    done = 0
                with self._lock:
                    late = self._replayed(new, done) > done
                    if folder is not None and (late or not new.is_saved()):
                        new.save(folder)
                    self._take(new)
            finally:
                with self._lock:
                    self._refreshing = None

        future: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # handed to whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(None)

        if background:
            threading.Thread(target=run, name="zoo-refresh").start()
        else:
            run()
            future.result()
        return future

    def _replayed(self, new: LocalIndex, done: int) -> int:
        """Makes the changes since the refresh began to the new index; returns how many."""
        with self._lock:
            changes = list(self._refreshing or [])
        for kind, ids, vectors in changes[done:]:
            with new._lock:
                if kind == "update":  # what the new embeddings lack was removed on purpose
                    there = new._find(ids) >= 0
                    new._change(kind, ids[there], vectors[there])
                else:
                    new._change(kind, ids, vectors)
        return len(changes)

    def _own(
        self, state: _State, folder: str | os.PathLike[str] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """All vectors and ids that count; the vectors in a file without a name, so none is left."""
        total = state.base + len(state.added)
        alive = np.flatnonzero(state.alive(np.arange(total)))
        if folder is None and self._saved is not None:
            folder = self._saved[0]  # where there was room for as many before
        where = None if folder is None or not Path(folder).is_dir() else Path(folder).parent
        with tempfile.TemporaryFile(dir=where) as file:
            shape = (max(len(alive), 1), self.dimension)
            out = np.memmap(file, np.float32, "w+", shape=shape)  # type: ignore[call-overload]
        ids = np.empty(len(alive), np.int64)
        for start in range(0, len(alive), _BLOCK):
            rows = alive[start : start + _BLOCK]
            out[start : start + len(rows)] = _vectors(state, rows, self.dimension)
            ids[start : start + len(rows)] = _ids(state, rows)
        return out[: len(alive)], ids

    def _take(self, new: LocalIndex) -> None:
        """Puts another index's contents in the place of this one's. Under the lock."""
        self._added_rows, self._room, self._room_ids = new._added_rows, new._room, new._room_ids
        self.plan, self.report, self._saved = new.plan, new.report, new._saved
        self.fingerprint = new.fingerprint
        self._state = new._state

    def reload(self, *, verify: bool = True) -> bool:
        """Takes what another process saved into the folder since; searches go on meanwhile.

        Args:
            verify: compare the checksums of all files.

        Returns:
            Whether there was something new.

        Raises:
            RetrievalError: never saved, or the folder does not hold a whole index of this
                dimension any more; the present one stays.
        """
        if self._saved is None:
            raise RetrievalError("this index was neither opened from a folder nor saved to one")
        if self.is_saved():
            return False
        folder = self._saved[0]
        new = LocalIndex.open(folder, verify=verify, plan=self.plan)
        if new.dimension != self.dimension:
            raise RetrievalError(
                f"{folder} has dimension {new.dimension}, this index {self.dimension}"
            )
        with self._lock:
            if self._refreshing is not None:
                raise RetrievalError("a refresh of this index is running")
            self._take(new)
        return True

    # Folders -----------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        with self._lock, store.saving(folder) as writer:
            state = self._state
            manifest = {
                "kind": "local",
                "dimension": self.dimension,
                "rows": state.rows(),
                "fingerprint": self.fingerprint,
                "plan": dataclasses.asdict(self.plan),
                "report": self.report,
                "parts": [write_part(part, writer) for part in state.parts],
                "changes": self._write_changes(state, writer),
            }
            manifest_sum = writer.finish(manifest)
        self._saved = Path(folder).absolute(), manifest_sum
        with store.opening(folder, verify=False) as reader:
            if reader.manifest["crc32"] == manifest_sum:  # not replaced by another process since
                for part in state.parts:
                    part.segment.map_vectors(reader)

    def is_saved(self) -> bool:
        """Whether its folder holds what was last saved to it or opened from it."""
        if self._saved is None:
            return False
        folder, crc = self._saved
        return bool(store.manifest_of(folder)["crc32"] == crc)

    def _write_changes(self, state: _State, writer: store.Writer) -> dict[str, Any] | None:
        """Added rows that count, and the segments' removed rows."""
        kept = np.flatnonzero(state.alive(np.arange(len(state.added)) + state.base))
        removed = state.removed[state.removed < state.base]
        if not len(kept) and not len(removed):
            return None
        uid = secrets.token_hex(8)
        for name, array in (
            ("added", state.added[kept]),
            ("added-ids", state.added_ids[kept]),
            ("removed", removed),
        ):
            writer.array(f"{uid}-{name}.npy", array)
        return {"uid": uid, "added": len(kept), "removed": len(removed)}

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        verify: bool = True,
        plan: Plan | None = None,
        **options: Any,
    ) -> LocalIndex:
        """Opens a saved index; see `open_index`.

        Args:
            folder: what `save` wrote.
            verify: compare the checksums of all files.
            plan: settings of this process, in place of those that were saved.
            options: `backend`, `device` and `threads`.

        Raises:
            RetrievalError: no index, or a damaged one.
        """
        with store.opening(folder, verify=verify) as reader:
            manifest = reader.manifest
            try:
                if manifest["kind"] != "local":
                    raise RetrievalError(f"{folder} holds an index of kind {manifest['kind']!r}")
                plan = plan or replace(Plan(**manifest["plan"]), **options)
                parts: list[Part] = []
                for entry in manifest["parts"]:
                    start = sum(map(len, parts))
                    parts.append(read_part(reader, entry, start, manifest["dimension"], plan))
                index = cls(
                    parts,
                    manifest["dimension"],
                    plan,
                    fingerprint=manifest["fingerprint"],
                    report=manifest["report"],
                )
                index._read_changes(reader, manifest["changes"])
                if len(index) != manifest["rows"]:
                    raise RetrievalError(
                        f"{folder} holds {len(index)} rows, its manifest says {manifest['rows']}"
                    )
            except (KeyError, TypeError, AttributeError) as error:
                raise RetrievalError(f"{folder} has no valid manifest: {error!r}") from error
        index._saved = Path(folder).absolute(), manifest["crc32"]
        return index

    def _read_changes(self, reader: store.Reader, entry: dict[str, Any] | None) -> None:
        if entry is None:
            return
        names = [f"{entry['uid']}-{name}.npy" for name in ("added", "added-ids", "removed")]
        added, ids, removed = map(reader.array, names)
        for name, array, shape in (
            (names[0], added, (entry["added"], self.dimension)),
            (names[1], ids, (entry["added"],)),
            (names[2], removed, (entry["removed"],)),
        ):
            check_shape(reader, name, array, shape)
        self._state = replace(self._state, removed=removed)
        self._change("add", ids, added)

    def stats(self) -> dict[str, Any]:
        state = self._state
        segments = [part.segment for part in state.parts]
        return {
            "kind": "+".join(sorted({segment.kind for segment in segments})),
            "rows": state.rows(),
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
            "shards": len(segments),
            "added": len(self._added_rows),
            "removed": len(state.removed),
            "memory_bytes": sum(s.memory() for s in segments) + state.added.nbytes,
            "settings": segments[0].settings() if segments else {},
            "report": self.report,
            "folder": None if self._saved is None else str(self._saved[0]),
        }

    def graph_parts(self) -> list[tuple[np.ndarray, ScannSegment]]:
        """Ids and searcher of every segment, in a form that ScaNN's TensorFlow operations take.

        Raises:
            RetrievalError: an exact index, or one with changes that are not in its segments.
        """
        from . import tuning

        state = self._state
        if len(state.added) or len(state.removed):
            raise RetrievalError("the index has pending changes: refresh() it first")
        found = []
        for part in state.parts:
            segment: Any = part.segment
            if segment.kind != "scann":
                raise RetrievalError("expected an index of kind 'scann', this one is exact")
            if segment.soar:
                settings = tuning.without_soar(segment.built)
                stored = segment.vectors(np.arange(len(segment)))
                searcher = build_scann(stored, settings, threads=self.plan.threads)
                segment = ScannSegment(
                    searcher,
                    segment.uid,
                    settings,
                    rows=len(segment),
                    dimension=self.dimension,
                    stored=stored,
                )
                tuning.tune(segment, stored, None, target=self.plan.target_recall, k=self.plan.k)
            found.append((part.ids_of(np.arange(len(part))), segment))
        return found

    def clone(self) -> LocalIndex:
        """Another index on the same segments, which changes by itself."""
        with self._lock:
            other = copy.copy(self)
            other._lock = threading.RLock()
            other._refreshing = None
            other._added_rows = dict(self._added_rows)
            other._room, other._room_ids = self._room.copy(), self._room_ids.copy()
            return other


def _search_added(state: _State, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of the added rows that count."""
    gone = state.removed_in(state.base, state.base + len(state.added))
    rows, scores = exact_top(queries, state.added, k + gone)
    if gone:
        scores = np.where(state.alive(rows + state.base), scores, np.float32(-np.inf))
    return state.added_ids[rows], scores


def _vectors(state: _State, rows: np.ndarray, dimension: int) -> np.ndarray:
    out = np.empty((len(rows), dimension), np.float32)
    for part in state.parts:
        mine = (rows >= part.start) & (rows < part.start + len(part))
        if mine.any():
            out[mine] = part.segment.vectors(rows[mine] - part.start)
    mine = rows >= state.base
    out[mine] = state.added[rows[mine] - state.base]
    return out


def _ids(state: _State, rows: np.ndarray) -> np.ndarray:
    out = np.empty(len(rows), np.int64)
    for part in state.parts:
        mine = (rows >= part.start) & (rows < part.start + len(part))
        out[mine] = part.ids_of(rows[mine] - part.start)
    mine = rows >= state.base
    out[mine] = state.added_ids[rows[mine] - state.base]
    return out


def _padded(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores `(batch, k)`, with -1 and -inf where nothing was found."""
    missing = k - scores.shape[1]
    if missing > 0:
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    # One query is common, and its last score looked at quicker.
    whole = math.isfinite(scores.item(-1)) if len(scores) == 1 else np.isfinite(scores[:, -1]).all()
    if not whole:
        scores = _below_all(scores)
        ids = np.where(scores == -np.inf, -1, ids)
    return ids, scores


def _below_all(scores: np.ndarray) -> np.ndarray:
    """Scores with -inf where ScaNN has NaN, for what it did not find."""
    return np.where(np.isnan(scores), np.float32(-np.inf), scores)

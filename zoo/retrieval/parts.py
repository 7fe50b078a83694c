"""The parts of an index: how they are built from vectors, and how they lie in a folder.

A part is a segment, exact or ScaNN, with the ids of its rows. An index has one, or several shards.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import tuning
from .exact import ExactSegment, check_backend
from .index import KINDS, Progress, check_count, check_finite, check_vectors, choose_kind
from .scann import LEAST_ROWS, PRECISIONS, ScannSegment, build_scann, check_settings
from .store import Reader, RetrievalError, Writer

Segment = ExactSegment | ScannSegment
SEGMENTS: dict[str, Any] = {"exact": ExactSegment, "scann": ScannSegment}
_BLOCK = 1 << 16  # rows checked at a time


@dataclass(frozen=True)
class Plan:
    """How an index is built, and built again by `refresh`; see `build_index` for the fields.

    Raises:
        RetrievalError: a field that does not fit.
    """

    kind: str = "auto"
    target_recall: float = 0.95
    k: int = 10
    settings: dict[str, dict[str, Any]] | None = None
    leaves: int | None = None
    reorder: int | None = None
    precision: str = "auto"
    shards: int = 1
    keep_vectors: bool = True
    backend: str = "numpy"
    device: str | None = None
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RetrievalError(f"kind: received {self.kind!r}, expected one of {list(KINDS)}")
        if not 0 < self.target_recall <= 1:
            raise RetrievalError(
                f"target_recall: received {self.target_recall!r}, expected more than 0, at most 1"
            )
        if self.precision not in (*PRECISIONS, "auto"):
            expected = [*PRECISIONS, "auto"]
            raise RetrievalError(
                f"precision: received {self.precision!r}, expected one of {expected}"
            )
        for name in ("k", "shards", "threads"):
            check_count(name, getattr(self, name))
        for name in ("leaves", "reorder"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
                if self.settings is None:
                    raise RetrievalError(f"{name}: is measured unless settings are given")
        if self.settings is not None:
            check_settings(self.settings)
            if self.precision != "auto":
                raise RetrievalError("precision: is part of the settings that are given")
        placed = self.backend != "numpy" or self.device is not None
        for name, given in (
            ("settings", self.settings is not None),
            ("precision", self.precision != "auto"),
            ("keep_vectors", not self.keep_vectors),
        ):
            if given and self.kind == "exact":
                raise RetrievalError(f"{name}: is of ScaNN, but kind is 'exact'")
            if given and placed:
                raise RetrievalError(f"{name}: is of ScaNN, backend and device of exact search")
        if self.kind == "scann" and placed:
            raise RetrievalError("backend, device: of exact search, but kind is 'scann'")
        check_backend(self.backend, self.device, 1)

    def pick_kind(self, rows: int) -> str:
        """`exact` or `scann`."""
        if self.kind != "auto":
            return self.kind
        if self.settings is not None:
            return "scann"
        if self.backend != "numpy" or self.device is not None:
            return "exact"
        return choose_kind(rows)

    def options(self, kind: str) -> dict[str, Any]:
        """What a segment of this kind takes beside its contents."""
        if kind == "scann":
            if self.backend != "numpy" or self.device is not None:
                raise RetrievalError("backend, device: of exact search, but this is ScaNN")
            return {"threads": self.threads}
        threads = self.threads if self.backend == "numpy" else 1
        return {"backend": self.backend, "device": self.device, "threads": threads}


@dataclass(frozen=True)
class Part:
    """A segment with its place among all rows and the ids of its rows.

    Args:
        segment: what searches.
        start: number of its first row.
        first: id of its first row, where ids are consecutive.
        ids: `(rows,)`, where they are not.
        order: rows by rising id, where they do not rise.
    """

    segment: Segment
    start: int
    first: int
    ids: np.ndarray | None
    order: np.ndarray | None

    def __len__(self) -> int:
        return len(self.segment)

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Ids of the segment's rows."""
        if self.ids is not None:
            return self.ids[rows]
        ids = rows.astype(np.int64)
        return ids + self.first if self.first else ids

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The segment's rows of ids, -1 where it does not have them."""
        if not len(self):
            return np.full(len(ids), -1)
        if self.ids is None:
            rows = ids - self.first
            return np.where((rows >= 0) & (rows < len(self)), rows, -1)
        places = np.searchsorted(self.ids, ids, sorter=self.order).clip(max=len(self) - 1)
        rows = places if self.order is None else self.order[places]
        return np.where(self.ids[rows] == ids, rows, -1)

    def highest(self) -> int:
        """The largest id, -1 where there is none."""
        if not len(self):
            return -1
        return self.first + len(self) - 1 if self.ids is None else int(self.ids.max())


def as_shards(vectors: Any, count: int) -> list[np.ndarray]:
    """The given arrays, mapped where they are files, split into as many as wanted.

    Args:
        vectors: `(rows, dimension)`, a file of such, or a list of either.
        count: how many parts of one array.

    Raises:
        RetrievalError: no such arrays, or of different dimensions.
    """
    given = vectors if isinstance(vectors, list | tuple) and _holds_arrays(vectors) else [vectors]
    arrays: list[np.ndarray] = []
    for one in given:
        if isinstance(one, str | os.PathLike):
            try:
                one = np.load(one, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise RetrievalError(f"{os.fspath(one)} is no array of numbers: {error}") from error
        if not isinstance(one, np.ndarray) or one.dtype.kind not in "fV":
            one = check_vectors("vectors", one, None)
        if one.ndim != 2 or one.shape[1] < 1 or one.shape[1:] != (arrays or [one])[0].shape[1:]:
            wanted = arrays[0].shape[1] if arrays else "dimension"
            raise RetrievalError(f"vectors: expected shape (any, {wanted}), got {one.shape}")
        arrays.append(one)
    if count > 1:
        if len(arrays) > 1:
            raise RetrievalError("shards: given along with a list of arrays, which are the shards")
        bounds = np.linspace(0, len(arrays[0]), count + 1).astype(int)
        arrays = [arrays[0][low:high] for low, high in zip(bounds, bounds[1:], strict=False)]
    return arrays


def _holds_arrays(values: Sequence[Any]) -> bool:
    return bool(values) and all(
        isinstance(value, np.ndarray | str | os.PathLike) and getattr(value, "ndim", 2) == 2
        for value in values
    )


def build_parts(
    shards: list[np.ndarray],
    ids: np.ndarray | None,
    plan: Plan,
    queries: np.ndarray | None,
    progress: Progress,
) -> tuple[list[Part], dict[str, Any] | None]:
    """A part for every shard, and how well the settings were found to do.

    Args:
        shards: vectors `(any, dimension)` each.
        ids: of all rows, or None.
        plan: how.
        queries: `(batch, dimension)`, or None.
        progress: told of every step.

    Raises:
        RetrievalError: vectors that are not finite, or a plan that does not fit them.
    """
    rows = sum(map(len, shards))
    done = 0
    for shard in shards:
        for start in range(0, len(shard), _BLOCK):
            progress("checking vectors", done, rows)
            check_finite("vectors", shard[start : start + _BLOCK], start)
            done += len(shard[start : start + _BLOCK])
    progress("checking vectors", done, rows)
    kind = plan.pick_kind(rows)
    if kind == "scann" and min(map(len, shards)) < LEAST_ROWS:
        raise RetrievalError(f"ScaNN needs {LEAST_ROWS} rows in every shard; use kind='exact'")
    segments: list[Any] = []
    report: dict[str, Any] | None = None
    settings = plan.settings
    compared: list[dict[str, Any]] = []
    if kind == "scann" and settings is None:
        settings, compared = tuning.choose_structure(
            shards[0],
            queries,
            target=plan.target_recall,
            k=plan.k,
            precision=plan.precision,
            seed=plan.seed,
            threads=plan.threads,
            progress=progress,
        )
    for number, shard in enumerate(shards):
        progress("building", number, len(shards))
        uid = secrets.token_hex(8)
        if kind == "exact":
            segments.append(ExactSegment(shard, uid, **plan.options(kind)))
            continue
        assert settings is not None
        used = settings if plan.settings else tuning.scaled(settings, len(shards[0]), len(shard))
        segments.append(
            ScannSegment(
                build_scann(shard, used, threads=plan.threads),
                uid,
                used,
                rows=len(shard),
                dimension=shard.shape[1],
                stored=shard if plan.keep_vectors else None,
                leaves=plan.leaves,
                reorder=plan.reorder,
                tuned_k=plan.k,
            )
        )
    progress("building", len(shards), len(shards))
    if kind == "scann":
        progress("measuring recall", 0, 1)
        report = _tune(segments, shards, plan, queries) | {"compared": compared}
        for segment in segments:
            segment.use_threads(plan.threads)  # measured on one
        progress("measuring recall", 1, 1)
    parts, start = [], 0
    for segment in segments:
        own = None if ids is None else ids[start : start + len(segment)]
        parts.append(_part(segment, start, start, own))
        start += len(segment)
    return parts, report


def _tune(
    segments: list[Any], shards: list[np.ndarray], plan: Plan, queries: np.ndarray | None
) -> dict[str, Any]:
    """Sets how far the segments look, unless that is given, and measures the recall."""
    # Shards are alike, and what reaches the recall in each of them reaches it in all.
    fixed = plan.leaves is not None or plan.reorder is not None
    found = [
        tuning.tune(segment, shard, queries, target=plan.target_recall, k=plan.k, seed=plan.seed,
                    fixed=fixed)
        for segment, shard in zip(segments, shards, strict=True)
        if len(shard) > 1
    ]  # fmt: skip
    worst = min(found, key=lambda tuning: tuning.recall)
    return dataclasses.asdict(worst)


def _part(segment: Segment, start: int, first: int, ids: np.ndarray | None) -> Part:
    """Stores ids only where they are not consecutive."""
    order = None
    if ids is not None and len(ids):
        steps = np.diff(ids)
        if (steps == 1).all():
            first, ids = int(ids[0]), None
        elif not (steps > 0).all():
            order = np.argsort(ids)
    return Part(segment, start, first, ids, order)


def write_part(part: Part, writer: Writer) -> dict[str, Any]:
    """Writes the files of a part and returns the manifest's entry."""
    entry = part.segment.write(writer) | {"rows": len(part), "first": part.first, "ids": None}
    if part.ids is not None:
        entry["ids"] = f"{part.segment.uid}-ids.npy"
        if not writer.keep(entry["ids"]):
            writer.array(entry["ids"], part.ids)
    return entry


def read_part(
    reader: Reader, entry: dict[str, Any], start: int, dimension: int, plan: Plan
) -> Part:
    """Opens what `write_part` wrote.

    Raises:
        RetrievalError: an entry that does not fit its files.
    """
    kind = entry["kind"]
    if kind not in SEGMENTS:
        raise RetrievalError(f"{reader.folder} has a segment of the unknown kind {kind!r}")
    segment = SEGMENTS[kind].read(reader, entry, plan.options(kind))
    if len(segment) != entry["rows"]:
        raise RetrievalError(
            f"{reader.folder}: segment {entry['uid']} has {len(segment)} rows, "
            f"the manifest says {entry['rows']}"
        )
    if segment.stored is not None:
        check_shape(reader, entry["uid"], segment.stored, (entry["rows"], dimension))
    ids = None
    if entry["ids"] is not None:
        ids = reader.array(entry["ids"])
        check_shape(reader, entry["ids"], ids, (entry["rows"],))
    return _part(segment, start, entry["first"], ids)


def check_shape(reader: Reader, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses an array of another shape, by name."""
    if array.shape != shape:
        raise RetrievalError(f"{reader.folder}: {name} has shape {array.shape}, expected {shape}")


@contextmanager
def progress_bar(progress: bool | Progress) -> Iterator[Progress]:
    """A function to tell the steps to: the given one, a bar on the terminal, or none."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            # Of a single step nothing is known while it runs: the bar shows that it does.
            bar.update(tasks[stage], completed=done, total=total if done or total > 1 else None)

        yield tell

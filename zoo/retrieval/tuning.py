"""Choosing ScaNN's settings by measurement on sample queries.

A structure (partitions, hashing, precision of the second scoring) has to be built to be measured,
which is done on a sample of the vectors; how far to look (`leaves`, `reorder`) is a matter of each
search and is measured on the finished index, on one half of the queries, while the other half
tells which recall that really gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .exact import exact_top
from .scann import PRECISIONS, ScannSegment, build_scann
from .store import RetrievalError

SAMPLE_QUERIES = 1000
SAMPLE_ROWS = 100_000  # on which structures are compared, fewer where they are wide
_SAMPLE_NUMBERS = 25_600_000
TREE_ROWS = 20_000  # fewer are hashed without partitions
# Vectors that a partition is trained with. On 100,000 clustered vectors and 632 partitions, 158
# for each gave recall 0.92 where 63 gave 0.80, and 20 iterations more than ScaNN's usual 12.
_TRAINING = 200
# How much quicker than the usual partitions others have to be on a sample. A sample holds fewer
# neighbours of everything: on 33,333 of 200,000 clustered vectors partitions without SOAR led by
# 1.3 and half as many by 1.1, on all of them the usual ones did, by 1.15 and 3.
_ADVANTAGE = 1.5
_LEAST_TIME = 0.05  # seconds to measure for
_FINALISTS, _ROUNDS = 6, 5
_REORDER = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200)  # candidates per result

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measurement:
    """What one way of searching gave.

    Args:
        recall: share of the true best k that was found, 0 to 1.
        seconds: processor time of a query, on one thread.
        leaves: partitions looked into; None where the index has none.
        reorder: candidates scored again; None where none are.
    """

    recall: float
    seconds: float
    leaves: int | None = None
    reorder: int | None = None

    @property
    def rate(self) -> float:
        """Queries per second of processor time."""
        return 1 / self.seconds


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true ids that were found.

    Args:
        found: ids `(batch, any)`.
        truth: ids `(batch, k)`.
    """
    if not truth.size:
        return 1.0
    hits = (found[:, :, None] == truth[:, None, :]).any(1)
    return float(hits.mean())


def default_settings(
    rows: int,
    *,
    leaves: int | None = None,
    precision: str = "float32",
    soar: bool = True,
    threshold: float = 0.2,
) -> dict[str, dict[str, Any]]:
    """A structure that suits most: spherical partitions, SOAR, 4-bit codes of two dimensions.

    Args:
        rows: number of vectors.
        leaves: number of partitions, 0 for none; by default about twice the square root of `rows`.
        precision: of the second scoring: `float32`, `bfloat16` or `int8`.
        soar: whether a vector is put into a second partition too (arXiv 2404.00774).
        threshold: of the anisotropic quantisation (arXiv 1908.10396).

    Returns:
        Settings for `build_scann`.
    """
    if precision not in PRECISIONS:
        raise RetrievalError(f"precision: received {precision!r}, expected one of {PRECISIONS}")
    if leaves is None:
        leaves = 0 if rows < TREE_ROWS else round(2 * math.sqrt(rows))
    settings: dict[str, dict[str, Any]] = {}
    if leaves:
        settings["tree"] = {
            "num_leaves": leaves,
            "num_leaves_to_search": max(leaves // 10, 1),
            "training_sample_size": min(rows, max(100_000, _TRAINING * leaves)),
            "training_iterations": 20,
            "spherical": True,
        }
        if soar:
            settings["tree"] |= {"soar_lambda": 1.5, "overretrieve_factor": 2.0}
    settings["score_ah"] = {
        "dimensions_per_block": 2,
        "anisotropic_quantization_threshold": threshold,
        "training_sample_size": 20_000,  # more changed nothing but the time
    }
    settings["reorder"] = {"reordering_num_neighbors": 100, "quantize": precision}
    return settings


def candidates(rows: int, precision: str) -> list[dict[str, dict[str, Any]]]:
    """Structures that are worth a comparison, the usual one first.

    Args:
        rows: number of vectors.
        precision: one of ScaNN's, or `auto` for any of them.
    """
    usual = "bfloat16" if precision == "auto" else precision
    if rows < TREE_ROWS:
        leaves = [0, round(math.sqrt(rows))]
    else:
        leaves = [round(scale * math.sqrt(rows)) for scale in (2, 1, 4)]
    found = [default_settings(rows, leaves=count, precision=usual) for count in leaves]
    found.append(default_settings(rows, leaves=leaves[0], precision=usual, soar=False))
    if precision == "auto":
        found += [
            default_settings(rows, leaves=leaves[0], precision=other)
            for other in ("int8", "float32")
        ]
    return found


def without_soar(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings with every vector in one partition only."""
    settings = {step: dict(arguments) for step, arguments in settings.items()}
    for name in ("soar_lambda", "overretrieve_factor"):
        settings.get("tree", {}).pop(name, None)
    return settings


def scaled(settings: dict[str, dict[str, Any]], rows: int, to: int) -> dict[str, dict[str, Any]]:
    """The settings for another number of rows: partitions go with its square root."""
    settings = {step: dict(arguments) for step, arguments in settings.items()}
    if "tree" in settings and rows != to:
        leaves = max(round(settings["tree"]["num_leaves"] * math.sqrt(to / rows)), 1)
        settings["tree"] |= {
            "num_leaves": leaves,
            "num_leaves_to_search": max(leaves // 10, 1),
            "training_sample_size": min(to, max(100_000, _TRAINING * leaves)),
        }
    return settings


def sweep(
    segment: ScannSegment,
    queries: np.ndarray,
    truth: np.ndarray,
    target: float,
    *,
    own: np.ndarray | None = None,
) -> list[Measurement]:
    """For each number of candidates to score again, the fewest partitions that reach a recall.

    Args:
        segment: the finished searcher.
        queries: `(batch, dimension)`.
        truth: rows of the true best, `(batch, k)`.
        target: recall to reach.
        own: row that each query itself is, `(batch,)`, which does not count.

    Returns:
        Those that reach it, the quickest first; where none does, the one that comes closest.
    """
    k = truth.shape[1]
    tree = segment.built.get("tree")
    grid: list[int | None] = [None] if tree is None else list(_grid(tree["num_leaves"]))
    reorders: list[int | None] = [None]
    if "reorder" in segment.built:
        reorders = [scale * k for scale in _REORDER if scale * k <= len(segment)] or [len(segment)]
    good: list[Measurement] = []
    best = Measurement(-1.0, 1.0)
    top = len(grid) - 1  # more candidates never need more partitions
    for reorder in reorders:
        low, high, hit = 0, top, None
        last = measure(segment, queries, truth, grid[high], reorder, own=own)
        if last.recall > best.recall:
            best = last
        if last.recall < target:
            continue
        hit = last
        while low < high:
            middle = (low + high) // 2
            tried = measure(segment, queries, truth, grid[middle], reorder, own=own)
            if tried.recall >= target:
                high, hit = middle, tried
            else:
                low = middle + 1
        good.append(hit)
        top = high
        if len(good) > 3 and all(m.seconds > 1.2 * min(good, key=_time).seconds for m in good[-2:]):
            break
    if not good:
        return [best]
    # The close ones in turn, so that what else the machine does falls on all of them.
    good.sort(key=_time)
    close = [m for m in good if m.seconds < 1.5 * good[0].seconds][:_FINALISTS]
    rounds = [
        [measure(segment, queries, truth, m.leaves, m.reorder, own=own) for m in close]
        for _ in range(_ROUNDS)
    ]
    close = [min(times, key=_time) for times in zip(*rounds, strict=True)]
    return sorted(close, key=_time) + good[len(close) :]


def measure(
    segment: Any,
    queries: np.ndarray,
    truth: np.ndarray,
    leaves: int | None = None,
    reorder: int | None = None,
    *,
    own: np.ndarray | None = None,
) -> Measurement:
    """Recall and time of one way of searching, all queries as one batch.

    Args:
        segment: with `search(queries, k, ...)` over rows.
        queries: `(batch, dimension)`.
        truth: rows of the true best, `(batch, k)`.
        leaves: partitions to look into.
        reorder: candidates to score again.
        own: row that each query itself is, `(batch,)`, which does not count.
    """
    options = {"leaves": leaves, "reorder": reorder}
    options = {name: value for name, value in options.items() if value is not None}
    k = truth.shape[1] + (own is not None)
    times: list[float] = []
    while sum(times) < _LEAST_TIME and len(times) < 5:
        start = time.thread_time()
        rows, scores = segment.search(queries, k, **options)
        times.append(time.thread_time() - start)
    seconds = min(times) / max(len(queries), 1)
    rows = np.where(np.isfinite(scores), rows.astype(np.int64), -1)
    if own is not None:
        rows[rows == own[:, None]] = -1
    return Measurement(recall(rows, truth), seconds, leaves, reorder)


def true_rows(
    vectors: np.ndarray, queries: np.ndarray, k: int, own: np.ndarray | None = None
) -> np.ndarray:
    """Rows of the true best k, `(batch, k)`, without the query's own row."""
    rows, _ = exact_top(queries, vectors, k + (own is not None))
    if own is None:
        return rows
    others = rows != own[:, None]
    # Where a query does not find itself, the last one goes.
    others[others.all(1), -1] = False
    return rows[others].reshape(len(rows), -1)


@dataclass
class Tuning:
    """How the settings were found.

    Args:
        target: recall asked for.
        recall: recall measured on queries that had no part in the choice.
        k: number of results it was measured with.
        queries: how many queries measured it.
        held_out: whether these were vectors of the index, for want of real queries.
        seconds: processor time of a query, in a batch on one thread.
        compared: the structures that were compared: settings, rows, and what each one gave.
    """

    target: float
    recall: float
    k: int
    queries: int
    held_out: bool
    seconds: float
    compared: list[dict[str, Any]]


def choose_structure(
    vectors: np.ndarray,
    queries: np.ndarray | None,
    *,
    target: float,
    k: int,
    precision: str = "auto",
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Compares structures on a sample of the vectors.

    Args:
        vectors: `(rows, dimension)`.
        queries: `(batch, dimension)`, or None for held-out vectors.
        target: recall at which they are compared.
        k: number of results.
        precision: of the second scoring, `auto` for any.
        seed: of the samples.
        threads: of the building.
        progress: told of every step.

    Returns:
        Settings for all rows, and what every structure gave.
    """
    rows = len(vectors)
    random = np.random.default_rng(seed)
    sample = vectors
    size = min(SAMPLE_ROWS, max(_SAMPLE_NUMBERS // vectors.shape[1], TREE_ROWS))
    if rows > size:
        sample = vectors[np.sort(random.choice(rows, size, replace=False))]
    sample = np.ascontiguousarray(sample, np.float32)
    asked, own = held_out(sample, queries, seed)
    truth = true_rows(sample, asked, k, own)
    compared: list[dict[str, Any]] = []
    found: list[tuple[ScannSegment, Measurement]] = []
    tried = candidates(len(sample), precision)
    for number, settings in enumerate(tried):
        if progress:
            progress("comparing structures", number, len(tried))
        segment = ScannSegment(
            build_scann(sample, settings, threads=threads),
            "0" * 16,
            settings,
            rows=len(sample),
            dimension=sample.shape[1],
        )
        best = sweep(segment, asked, truth, target, own=own)[0]
        found.append((segment, best))
    if progress:
        progress("comparing structures", len(tried), len(tried))
    rounds = [
        [measure(segment, asked, truth, m.leaves, m.reorder, own=own) for segment, m in found]
        for _ in range(_ROUNDS)
    ]
    for times, (segment, _) in zip(zip(*rounds, strict=True), found, strict=True):
        best = min(times, key=_time)
        entry = {"settings": segment.built, "rows": len(sample)} | asdict(best)
        compared.append(entry)
    reached = [entry for entry in compared if entry["recall"] >= target]

    def expected(entry: dict[str, Any]) -> float:
        usual = entry["settings"].get("tree") == compared[0]["settings"].get("tree")
        return entry["seconds"] * (1 if usual or len(sample) == rows else _ADVANTAGE)

    chosen = (
        min(reached, key=expected) if reached else max(compared, key=lambda entry: entry["recall"])
    )
    return scaled(chosen["settings"], len(sample), rows), compared


def held_out(
    vectors: np.ndarray, queries: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Queries to measure with: a sample of those given, else of the vectors themselves.

    Args:
        vectors: `(rows, dimension)`.
        queries: `(batch, dimension)`, or None.
        seed: of the sample.

    Returns:
        Queries, and the row that each one is, None where they were given.
    """
    random = np.random.default_rng(seed)
    if queries is not None:
        count = min(SAMPLE_QUERIES, len(queries))
        chosen = random.permutation(len(queries))[:count]
        return np.ascontiguousarray(queries[chosen], np.float32), None
    rows = random.permutation(len(vectors))[: min(SAMPLE_QUERIES, len(vectors))]
    order = np.sort(rows)  # as a mapped file is read best
    back = np.searchsorted(order, rows)
    return np.ascontiguousarray(vectors[order], np.float32)[back], rows


def tune(
    segment: ScannSegment,
    vectors: np.ndarray,
    queries: np.ndarray | None,
    *,
    target: float,
    k: int,
    seed: int = 0,
    fixed: bool = False,
) -> Tuning:
    """Sets how far a finished searcher looks, so that it reaches a recall as quickly as it can.

    Args:
        segment: the searcher; its `leaves`, `reorder` and `tuned_k` are set.
        vectors: what it was built from.
        queries: `(batch, dimension)`, or None for held-out vectors.
        target: recall to reach.
        k: number of results.
        seed: of the sample.
        fixed: measure only, with the searcher's own `leaves` and `reorder`.

    Returns:
        What was measured.
    """
    asked, own = held_out(vectors, queries, seed)
    truth = true_rows(vectors, asked, k, own)
    half = max(len(asked) // 2, 1)
    own_a, own_b = (None, None) if own is None else (own[:half], own[half:])
    # A half of the queries misjudges the recall by about its standard error.
    margin = min(math.sqrt(target * (1 - target) / (half * k)) * 2, (1 - target) / 2)
    if fixed:
        best = measure(segment, asked[:half], truth[:half], own=own_a)
    else:
        best = sweep(segment, asked[:half], truth[:half], target + margin, own=own_a)[0]
        segment.leaves, segment.reorder, segment.tuned_k = best.leaves, best.reorder, k
    checked = measure(segment, asked[half:], truth[half:], best.leaves, best.reorder, own=own_b)
    return Tuning(
        target=target,
        recall=checked.recall if len(asked) > half else best.recall,
        k=k,
        queries=max(len(asked) - half, 1),
        held_out=queries is None,
        seconds=checked.seconds or best.seconds,
        compared=[],
    )


def _grid(leaves: int) -> Iterable[int]:
    """1, 2, 3 ... in steps of about a tenth."""
    value = 1.0
    while round(value) < leaves:
        yield round(value)
        value = max(value * 1.1, value + 1)
    yield leaves


def _time(measurement: Measurement) -> float:
    return measurement.seconds


def frontier(points: Sequence[Measurement]) -> list[Measurement]:
    """Those that no other one beats in both recall and time, by rising recall."""
    kept: list[Measurement] = []
    for point in sorted(points, key=lambda p: (-p.recall, p.seconds)):
        if not kept or point.seconds < kept[-1].seconds:
            kept.append(point)
    return kept[::-1]

"""Indexes: every kind gives what comparing with all vectors gives, and nothing saved is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.retrieval import (
    LocalIndex,
    MilvusIndex,
    RetrievalError,
    build_index,
    choose_kind,
    open_index,
    tuning,
)
from zoo.retrieval.exact import exact_top
from zoo.retrieval.index import SCANN_ROWS

ROOT = Path(__file__).parents[1]
ROWS, DIMENSION, QUERIES = 6000, 24, 17
QUICK = {
    "tree": {"num_leaves": 40, "num_leaves_to_search": 4, "spherical": True},
    "score_ah": {"dimensions_per_block": 2, "anisotropic_quantization_threshold": 0.2},
    "reorder": {"reordering_num_neighbors": 100},
}


def clustered(rows: int, dimension: int = DIMENSION, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(50, dimension))
    vectors = centres[random.integers(50, size=rows)] + 0.6 * random.normal(size=(rows, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def best(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of the best, in the plainest way."""
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)])
    )


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(ROWS)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(1)
    noise = 0.1 * random.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
    return vectors[random.integers(ROWS, size=QUERIES)] + noise


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    """In no order, beyond 32 bits."""
    return np.random.default_rng(2).permutation(ROWS).astype(np.int64) * 7 + 2**40


@pytest.fixture(scope="module")
def scann(vectors: np.ndarray, ids: np.ndarray) -> LocalIndex:
    pytest.importorskip("scann")
    return build_index(vectors, ids, settings=QUICK, fingerprint="model a")


def everything(index: Any) -> dict[str, int]:
    """Options with which ScaNN looks everywhere and scores everything again."""
    return {"leaves": 10**6, "reorder": len(index) + 10}


# Exact search --------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 700])
@pytest.mark.parametrize("batch", [1, 2, 300])
@pytest.mark.parametrize("threads", [1, 3])
def test_numpy_equals_a_full_sort(k: int, batch: int, threads: int) -> None:
    vectors = clustered(5003, 7, 3)
    queries = clustered(batch, 7, 4)
    rows, scores = exact_top(queries, vectors, k, threads=threads)
    expected_rows, expected_scores = best(vectors, queries, k)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    assert (rows == expected_rows).mean() > 0.999  # but for the order of near-equal scores
    assert rows.shape == (batch, k)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
@pytest.mark.parametrize("placed", [False, True])
def test_frameworks_equal_numpy(backend: str, placed: bool, queries: np.ndarray) -> None:
    pytest.importorskip(backend)
    vectors = clustered(3001)
    vectors.flags.writeable = False
    device = {"torch": "cpu", "tensorflow": "CPU:0"}[backend] if placed else None
    index = build_index(vectors, kind="exact", backend=backend, device=device)
    ids, scores = index.search(queries, 12)
    expected_rows, expected_scores = best(vectors, queries, 12)
    assert (ids == expected_rows).all()
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch", "tensorflow"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_are_kept_and_searched(
    backend: str, dtype: Any, queries: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    vectors = clustered(400).astype(dtype)
    build_index(vectors, kind="exact").save(tmp_path)
    index = open_index(tmp_path, backend=backend)
    rows, scores = best(vectors.astype(np.float32), queries, 5)
    ids, found = index.search(queries, 5)
    np.testing.assert_allclose(found, scores, rtol=1e-5)
    assert (ids == rows).all()
    assert index._state.parts[0].segment.stored.dtype == dtype


def test_equal_scores_come_in_the_order_of_rows() -> None:
    vectors = np.ones((5000, 3), np.float32)
    vectors[4000] = 2
    ids, _ = build_index(vectors, kind="exact").search(np.ones((3, 3)), 5)
    assert ids.tolist() == [[4000, 0, 1, 2, 3]] * 3


def test_a_mapped_file_is_searched_without_being_read_into_memory(tmp_path: Path) -> None:
    """64 MB of vectors, searched by a process that may not have 64 MB more."""
    shape = (1 << 17, 128)
    file = np.lib.format.open_memmap(tmp_path / "v.npy", "w+", np.float32, shape)
    for start in range(0, len(file), 1 << 14):
        file[start : start + (1 << 14)] = clustered(1 << 14, 128, start)
    del file
    code = """
import resource, sys
from zoo.retrieval import build_index, open_index
import numpy as np
queries = np.load(sys.argv[1] + "/q.npy")
index = build_index(sys.argv[1] + "/v.npy", kind="exact")
index.save(sys.argv[1] + "/index")
index = open_index(sys.argv[1] + "/index")
index.search(queries, 10)
anonymous = [l for l in open("/proc/self/status") if l.startswith("RssAnon")][0]
print(int(anonymous.split()[1]) / 1024)
print(index.search(queries, 10)[0].tolist())
"""
    asked = clustered(4, 128, 5)
    np.save(tmp_path / "q.npy", asked)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    memory, found = done.stdout.splitlines()
    assert float(memory) < 60
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert json.loads(found) == best(mapped, asked, 10)[0].tolist()


@pytest.mark.parametrize("convert", ["torch", "tensorflow", "list"])
def test_queries_of_any_framework(convert: str, vectors: np.ndarray, queries: np.ndarray) -> None:
    index = build_index(vectors[:200], kind="exact")
    expected = index.search(queries, 3)[0]
    if convert == "torch":
        torch = pytest.importorskip("torch")
        given: Any = torch.tensor(queries, requires_grad=True)
        assert index.search(given.bfloat16(), 3)[0].shape == (QUERIES, 3)
    elif convert == "tensorflow":
        given = pytest.importorskip("tensorflow").constant(queries)
    else:
        given = queries.tolist()
    assert (index.search(given, 3)[0] == expected).all()


def test_fewer_than_k() -> None:
    index = build_index(clustered(3), [5, 9, 2], kind="exact")
    ids, scores = index.search(clustered(2, seed=1), 5)
    assert (ids[:, 3:] == -1).all() and (scores[:, 3:] == -np.inf).all()
    assert sorted(ids[0, :3].tolist()) == [2, 5, 9]
    index.remove([9, 2])
    ids, scores = index.search(clustered(2, seed=1), 2)
    assert ids.tolist() == [[5, -1]] * 2 and (scores[:, 1] == -np.inf).all()
    assert index.search(np.empty((0, DIMENSION)), 4)[0].shape == (0, 4)


def test_an_empty_index_can_grow(tmp_path: Path) -> None:
    index = build_index(np.empty((0, 4), np.float32))
    assert len(index) == 0 and index.search(np.ones((2, 4)), 3)[0].tolist() == [[-1] * 3] * 2
    assert index.add(np.eye(4)).tolist() == [0, 1, 2, 3]
    index.save(tmp_path)
    assert open_index(tmp_path).search(np.eye(4), 1)[0].ravel().tolist() == [0, 1, 2, 3]


# Changes -------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from(["add", "update", "remove", "save", "refresh"]), max_size=12),
    shards=st.integers(1, 3),
)
def test_changes_equal_a_dictionary(
    seed: int, steps: list[str], shards: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    start = random.normal(size=(random.integers(0, 12), 3)).astype(np.float32)
    names = random.choice(50, len(start), replace=False)
    index = build_index(start, names, kind="exact", shards=shards)
    known = dict(zip(names.tolist(), start, strict=True))
    folder = tmp_path_factory.mktemp("index")
    for step in steps:
        count = int(random.integers(0, 4))
        new = random.normal(size=(count, 3)).astype(np.float32)
        if step == "add":
            free = [id for id in range(60) if id not in known]
            chosen = random.choice(free, count, replace=False)
            index.add(new, chosen)
            known |= dict(zip(chosen.tolist(), new, strict=True))
        elif step == "update":
            chosen = random.permutation(np.array(list(known), np.int64))[:count]
            index.update(new[: len(chosen)], chosen)
            known |= dict(zip(chosen.tolist(), new, strict=False))
        elif step == "remove":
            chosen = random.permutation(np.array(list(known), np.int64))[:count]
            index.remove(chosen)
            for id in chosen.tolist():
                del known[id]
        elif step == "save":
            index.save(folder)
            index = open_index(folder)
        else:
            index.refresh()
            assert index.stats()["added"] == index.stats()["removed"] == 0
    assert len(index) == len(known)
    assert sorted(index.ids().tolist()) == sorted(known)
    assert all(id in index for id in known) and 77 not in index
    asked = random.normal(size=(4, 3)).astype(np.float32)
    found, scores = index.search(asked, 6)
    if known:
        order = np.array(sorted(known))
        table = np.stack([known[id] for id in order.tolist()])
        rows, expected = best(table, asked, 6)
        np.testing.assert_allclose(scores[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-5)
        assert (found[:, : expected.shape[1]] == order[rows]).all()
        np.testing.assert_array_equal(index.vectors(order), table)


def test_updating_again_and_again_takes_no_more_memory(vectors: np.ndarray) -> None:
    index = build_index(vectors[:100], kind="exact")
    for turn in range(3000):
        index.update(vectors[turn : turn + 1], [turn % 7])
    assert len(index._room) < 1000 and len(index._state.removed) < 1000
    np.testing.assert_array_equal(index.vectors([2999 % 7, 50]), vectors[[2999, 50]])
    assert sorted(index.ids().tolist()) == list(range(100))
    found, _ = index.search(vectors[2990:3000], 1)
    assert found[3:].ravel().tolist() == [turn % 7 for turn in range(2993, 3000)]


def test_ids_that_do_not_fit_are_refused(vectors: np.ndarray) -> None:
    index = build_index(vectors[:20], np.arange(20) * 2, kind="exact")
    one = vectors[:1]
    for call, message in (
        (lambda: index.add(one, [4]), "4 in the index already"),
        (lambda: index.update(one, [5]), "5 not in the index"),
        (lambda: index.remove([5, 4]), "5 not in the index"),
        (lambda: index.remove([4, 4]), "4 given twice"),
        (lambda: index.add(vectors[:2], [100, 100]), "100 given twice"),
        (lambda: index.add(one, [-3]), "from 0, got -3"),
        (lambda: index.add(one, [1.5]), "whole numbers of 64 bits, got float64"),
        (lambda: index.add(one, np.array([2**63], np.uint64)), "64 bits, got uint64"),
        (lambda: index.add(one, ["a"]), "whole numbers"),
        (lambda: index.add(one, [[7]]), r"expected shape \(1,\)"),
        (lambda: index.add(one, [7, 9]), r"expected shape \(1,\), got \(2,\)"),
        (lambda: index.vectors([0, 3]), "3 not in the index"),
        (lambda: build_index(vectors[:3], [1, 2, 1]), "1 given twice"),
        (lambda: build_index(vectors[:3], [1, 2]), r"expected shape \(3,\)"),
    ):
        with pytest.raises(RetrievalError, match=message):
            call()
    assert len(index) == 20 and 4 in index and "4" not in index and True not in index


def test_arguments_that_do_not_fit_are_refused(vectors: np.ndarray) -> None:
    index = build_index(vectors[:20], kind="exact")
    bad = vectors[:2].copy()
    bad[1, 3] = np.nan
    for call, message in (
        (lambda: index.search(vectors[0]), r"queries: expected shape \(any, 24\), got \(24,\)"),
        (lambda: index.search(vectors[:2, :5]), r"got \(2, 5\)"),
        (lambda: index.search(bad), "queries: row 1 holds a number that is not finite"),
        (lambda: index.search(vectors[:1], 0), "k: received 0"),
        (lambda: index.search(vectors[:1], 2.5), "k: received 2.5"),
        (lambda: index.search(vectors[:1], 2, leaves=3), "leaves: an option of ScaNN"),
        (lambda: index.search(vectors[:1], 2, depth=3), "depth: no option"),
        (lambda: index.add(bad), "vectors: row 1"),
        (lambda: build_index(bad), "vectors: row 1"),
        (lambda: build_index(vectors[0]), "vectors: expected shape"),
        (lambda: build_index([vectors, vectors[:, :3]]), "vectors: expected shape"),
        (lambda: build_index(np.array([["a"]])), "vectors: expected numbers"),
        (lambda: build_index(vectors, kind="tree"), "kind: received 'tree'"),
        (lambda: build_index(vectors, target_recall=1.5), "target_recall: received 1.5"),
        (lambda: build_index(vectors, precision="int4"), "precision: received 'int4'"),
        (lambda: build_index(vectors, shards=0), "shards: received 0"),
        (lambda: build_index([vectors, vectors], shards=2), "shards: given along"),
        (lambda: build_index(vectors, leaves=3), "leaves: is measured unless settings"),
        (lambda: build_index(vectors, kind="exact", settings=QUICK), "settings: is of ScaNN"),
        (lambda: build_index(vectors, settings={"trees": {}}), "no step 'trees'"),
        (lambda: build_index(vectors, settings={"tree": {}}), "either score_ah"),
        (lambda: build_index(vectors, kind="exact", backend="jax"), "backend: received 'jax'"),
        (lambda: build_index(vectors, kind="exact", device="cuda"), "numpy has no devices"),
        (lambda: build_index(vectors, settings=QUICK, precision="int8"), "precision: is part of"),
        (lambda: build_index(vectors, kind="exact", precision="int8"), "precision: is of ScaNN"),
        (lambda: build_index(vectors, kind="exact", keep_vectors=False), "keep_vectors: is of"),
        (lambda: build_index(vectors, kind="scann", backend="torch"), "backend, device: of exact"),
        (lambda: build_index(vectors, settings=QUICK, backend="torch"), "settings: is of ScaNN"),
        (lambda: build_index(vectors[:3], kind="scann"), "ScaNN needs 16 rows"),
        (lambda: build_index(vectors, fingerprint=3), "fingerprint: expected text"),
        (lambda: index.reload(), "neither opened from a folder"),
        (lambda: index.refresh(ids=[1]), "given without vectors"),
    ):
        with pytest.raises(RetrievalError, match=message):
            call()


def test_one_vector_at_a_time_seldom_copies_the_others(vectors: np.ndarray) -> None:
    index = build_index(vectors[:100], kind="exact")
    rooms = []
    for row in range(2000):
        index.add(vectors[row : row + 1])
        if not rooms or rooms[-1] is not index._room:
            rooms.append(index._room)
    assert [len(room) for room in rooms] == [64, 128, 256, 512, 1024, 2048]
    index.remove(np.arange(50, 2050))
    assert len(index) == 100


# ScaNN ---------------------------------------------------------------------------------------


def test_the_size_picks_the_kind(vectors: np.ndarray) -> None:
    pytest.importorskip("scann")
    assert choose_kind(SCANN_ROWS - 1) == "exact" and choose_kind(SCANN_ROWS) == "scann"
    assert build_index(vectors[:100]).stats()["kind"] == "exact"
    assert build_index(vectors, settings=QUICK).stats()["kind"] == "scann"
    assert build_index(vectors, backend="torch").stats()["kind"] == "exact"


def test_settings_are_tuned_to_the_recall(vectors: np.ndarray) -> None:
    pytest.importorskip("scann")
    told: list[tuple[str, int, int]] = []
    asked = clustered(400, seed=9)
    index = build_index(
        vectors, target_recall=0.9, queries=asked, progress=lambda *step: told.append(step)
    )
    report = index.stats()["report"]
    fresh = clustered(300, seed=10)
    assert recall(index.search(fresh, 10)[0], best(vectors, fresh, 10)[0]) > 0.87
    assert report["recall"] > 0.87 and report["target"] == 0.9 and not report["held_out"]
    assert report["queries"] == 200 and len(report["compared"]) > 2
    assert {stage for stage, _, _ in told} == {
        "checking vectors", "comparing structures", "building", "measuring recall"
    }  # fmt: skip
    assert all(done <= total for _, done, total in told)


def test_without_queries_a_vector_does_not_count_as_its_own_neighbour(
    scann: LocalIndex, vectors: np.ndarray
) -> None:
    asked, own = tuning.held_out(vectors, None, 0)
    assert own is not None and (vectors[own] == asked).all()
    truth = tuning.true_rows(vectors, asked, 10, own)
    assert truth.shape == (len(own), 10) and not (truth == own[:, None]).any()
    assert scann.report is not None and scann.report["held_out"]
    assert scann.report["recall"] > 0.9


def test_a_higher_recall_takes_more_leaves(scann: LocalIndex, vectors: np.ndarray) -> None:
    asked = clustered(200, seed=11)
    truth = best(vectors, asked, 10)[0]
    segment = scann._state.parts[0].segment
    low, high = (tuning.sweep(segment, asked, truth, target) for target in (0.6, 0.99))
    assert low[0].recall >= 0.6 and high[0].recall >= 0.99
    assert min(m.leaves for m in low) < min(m.leaves for m in high)
    points = tuning.frontier(low + high)
    assert points == sorted(points, key=lambda point: point.recall)
    assert points == sorted(points, key=lambda point: point.seconds)


def test_scann_options_reach_it(
    scann: LocalIndex, vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray
) -> None:
    rows, scores = best(vectors, queries, 10)
    found, found_scores = scann.search(queries, 10, **everything(scann))
    assert (found == ids[rows]).all()
    np.testing.assert_allclose(found_scores, scores, rtol=1e-5)
    narrow, _ = scann.search(queries, 10, leaves=1, reorder=10)
    assert recall(narrow, ids[rows]) < 1
    with pytest.raises(RetrievalError, match="reorder: received 0"):
        scann.search(queries, 10, reorder=0)


def test_one_query_equals_a_batch(scann: LocalIndex, queries: np.ndarray) -> None:
    together, scores = scann.search(queries, 10)
    for row, query in enumerate(queries):
        alone, alone_scores = scann.search(query[None], 10)
        assert (alone[0] == together[row]).all()
        np.testing.assert_allclose(alone_scores[0], scores[row], rtol=1e-6)


def test_several_threads_give_the_same(
    scann: LocalIndex, vectors: np.ndarray, tmp_path: Path
) -> None:
    scann.save(tmp_path)
    index = open_index(tmp_path, threads=2)
    expected = scann.search(vectors, 5)
    for found, wanted in zip(index.search(vectors, 5), expected, strict=True):
        assert (found == wanted).all()
    assert index.stats()["settings"]["threads"] == 2


def test_more_than_a_partition_holds_is_padded(scann: LocalIndex, queries: np.ndarray) -> None:
    for asked in (queries, queries[:1]):
        found, scores = scann.search(asked, 3000, leaves=1)
        assert found.shape == (len(asked), 3000) and (found[:, -1] == -1).all()
        assert ((found == -1) == (scores == -np.inf)).all()
        assert (np.diff(scores[:, :20], axis=1) <= 0).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("soar", [False, True])
def test_structures_survive_saving_and_moving(
    precision: str, soar: bool, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("scann")
    chosen = tuning.default_settings(ROWS, leaves=40, precision=precision, soar=soar)
    index = build_index(vectors, settings=chosen, leaves=8, reorder=60)
    expected = index.search(queries, 10)
    index.save(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / 'b "c"')
    opened = open_index(tmp_path / 'b "c"')
    found = opened.search(queries, 10)
    assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()
    stats = opened.stats()
    assert stats["settings"]["built"] == chosen and stats["settings"]["leaves"] == 8
    np.testing.assert_array_equal(opened.vectors([3, 4]), vectors[[3, 4]])
    assert isinstance(opened._state.parts[0].segment.stored, np.memmap)
    names = [path.name for path in (tmp_path / 'b "c"').iterdir()]
    # ScaNN's own float32 rows are the vectors; they are not stored twice.
    assert any(name.endswith("-vectors.npy") for name in names) == (precision != "float32")
    text = (tmp_path / 'b "c"' / "index.json").read_text()
    assert str(tmp_path) not in text


def test_saving_after_opening_gives_the_same_again(
    scann: LocalIndex, queries: np.ndarray, tmp_path: Path
) -> None:
    scann.save(tmp_path / "a")
    open_index(tmp_path / "a").save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name
    found = open_index(tmp_path / "b").search(queries, 10)[0]
    assert (found == scann.search(queries, 10)[0]).all()


def test_vectors_may_be_left_out(vectors: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("scann")
    chosen = tuning.default_settings(ROWS, leaves=40, precision="int8")
    build_index(vectors, settings=chosen, keep_vectors=False).save(tmp_path)
    index = open_index(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < vectors.nbytes
    with pytest.raises(RetrievalError, match="keep_vectors=False"):
        index.vectors([0])
    with pytest.raises(RetrievalError, match="keep_vectors=False"):
        index.refresh()


def test_there_is_no_pickle(
    scann: LocalIndex, queries: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    scann.save(tmp_path)
    # ScaNN's own loader would run this one.
    (tmp_path / "scann_docids.pkl").write_bytes(b"cos\nabort\n(tR.")
    assert (open_index(tmp_path).search(queries, 3)[0] == scann.search(queries, 3)[0]).all()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("pkl")][1:]
    for path in tmp_path.glob("*.npy"):
        assert np.load(path, mmap_mode="r", allow_pickle=False).dtype.kind in "fiu"


def test_scann_refuses_what_it_does_not_know(vectors: np.ndarray) -> None:
    pytest.importorskip("scann")
    for step, argument, message in (
        ("tree", {"leafs": 3}, "leafs"),
        ("reorder", {"quantize": "int4"}, "reorder.quantize: received 'int4'"),
        ("score_ah", {"dimensions_per_block": "two"}, "ScaNN refuses"),
    ):
        wrong = {name: dict(value) for name, value in QUICK.items()}
        wrong[step] |= argument
        with pytest.raises(RetrievalError, match=message):
            build_index(vectors, settings=wrong)


def test_other_steps_pass_through(vectors: np.ndarray, queries: np.ndarray) -> None:
    pytest.importorskip("scann")
    index = build_index(vectors, settings={"score_brute_force": {"quantize": "int8"}}, kind="scann")
    assert recall(index.search(queries, 10)[0], best(vectors, queries, 10)[0]) > 0.9
    assert "AssertionError" not in str(index.stats())


# Shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "scann"])
@pytest.mark.parametrize("given", ["count", "arrays", "files"])
def test_shards_give_what_one_index_gives(
    kind: str, given: str, vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kind": kind}
    if kind == "scann":
        pytest.importorskip("scann")
        options |= {"settings": QUICK, "leaves": 40, "reorder": ROWS}  # all of a shard
    parts: Any = vectors
    if given == "count":
        options["shards"] = 3
    else:
        parts = [vectors[:1000], vectors[1000:4500], vectors[4500:]]
    if given == "files":
        for number, part in enumerate(parts):
            np.save(tmp_path / f"{number}.npy", part)
        parts = [tmp_path / f"{number}.npy" for number in range(3)]
    sharded = build_index(parts, ids, **options)
    rows, scores = best(vectors, queries, 20)
    for index in (sharded, _reopened(sharded, tmp_path / "index")):
        found, found_scores = index.search(queries, 20)
        assert (found == ids[rows]).all()
        np.testing.assert_allclose(found_scores, scores, rtol=1e-5)
        assert index.stats()["shards"] == 3
        np.testing.assert_array_equal(index.vectors(ids[[0, 4000, 5999]]), vectors[[0, 4000, 5999]])


def _reopened(index: Any, folder: Path) -> Any:
    index.save(folder)
    return open_index(folder)


def test_changes_of_a_scann_index(
    vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("scann")
    index = build_index(vectors, ids, settings=QUICK, leaves=40, reorder=ROWS, shards=2)
    rows, _ = best(vectors, queries, 40)
    gone = np.setdiff1d(ids[rows[:, :30]], ids[rows[:2, 35]])
    index.remove(gone)
    index.update(queries[:2], ids[rows[:2, 35]])
    new = index.add(queries[2:4] * 2)
    keep = ~np.isin(ids, gone)
    table = {int(id): vector for id, vector in zip(ids[keep], vectors[keep], strict=True)}
    table |= dict(zip(ids[rows[:2, 35]].tolist(), queries[:2], strict=True))
    table |= dict(zip(new.tolist(), queries[2:4] * 2, strict=True))
    order = np.array(list(table))
    expected, _ = best(np.stack(list(table.values())), queries, 15)
    for opened in (index, _reopened(index, tmp_path)):
        assert len(opened) == len(table)
        assert (opened.search(queries, 15)[0] == order[expected]).all()
    index.refresh()
    stats = index.stats()
    assert stats["added"] == stats["removed"] == 0 and stats["rows"] == len(table)
    assert (index.search(queries, 15)[0] == order[expected]).all()


# Refreshing ----------------------------------------------------------------------------------


def test_searches_go_on_while_all_embeddings_are_replaced(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is wholly the old or wholly the new one, and changes meanwhile are kept."""
    pytest.importorskip("scann")
    index = build_index(vectors, settings=QUICK, leaves=40, reorder=ROWS, fingerprint="old")
    index.save(tmp_path)
    elsewhere = open_index(tmp_path)
    asked = clustered(3, seed=5)
    before, after = (best(sign * vectors, asked, 5)[0] for sign in (1, -1))
    stop, seen, wrong = threading.Event(), [0, 0], []

    def search() -> None:
        while not stop.is_set():
            found = index.search(asked, 5)[0]
            if (found == before).all():
                seen[0] += 1
            elif (found == after).all():
                seen[1] += 1
            else:
                wrong.append(found)

    changed, build = threading.Event(), LocalIndex.build

    def build_after_the_changes(*args: Any, **kwargs: Any) -> LocalIndex:
        assert changed.wait(60)
        return build(*args, **kwargs)

    def until_seen(version: int) -> None:
        deadline = time.monotonic() + 60
        while not seen[version] and time.monotonic() < deadline:
            time.sleep(0.001)

    monkeypatch.setattr(LocalIndex, "build", build_after_the_changes)
    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    until_seen(0)
    future = index.refresh(
        -vectors, fingerprint="new", folder=tmp_path, background=True, queries=asked
    )
    with pytest.raises(RetrievalError, match="another refresh"):
        index.refresh()
    index.add(np.full((1, DIMENSION), 1e-3), [ROWS + 5])
    index.remove([0]) if 0 not in before and 0 not in after else None
    changed.set()
    future.result(60)
    until_seen(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and seen[0] and seen[1]
    assert index.fingerprint == "new" and ROWS + 5 in index and 0 not in index
    assert len(index) == ROWS
    assert elsewhere.fingerprint == "old" and elsewhere.reload() and not elsewhere.reload()
    assert elsewhere.fingerprint == "new" and len(elsewhere) == ROWS
    assert (elsewhere.search(asked, 5)[0] == after).all()


def test_a_failed_refresh_leaves_the_old_index(vectors: np.ndarray, tmp_path: Path) -> None:
    index = build_index(vectors[:50], kind="exact")
    index.save(tmp_path)
    before = index.search(vectors[:3], 4)[0]
    for wrong, message in (
        (np.full((3, DIMENSION), np.inf), "not finite"),
        (vectors[:, :3], "expected dimension 24, got 3"),
    ):
        future = index.refresh(wrong, background=True, folder=tmp_path)
        with pytest.raises(RetrievalError, match=message):
            future.result(60)
    index.update(vectors[7:8], [0])
    index.update(vectors[0:1], [0])
    assert (index.search(vectors[:3], 4)[0] == before).all()
    assert len(open_index(tmp_path, rows=50)) == 50


def test_searches_go_on_while_the_index_changes(vectors: np.ndarray) -> None:
    index = build_index(vectors[:1000], kind="exact")
    asked, stop, wrong = 5 * vectors[1:2], threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            found = index.search(asked, 1)[0][0, 0]
            if found != 5000:  # is always there, in one form or the other
                wrong.append(found)

    index.add(vectors[1:2] * 2, [5000])
    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        index.update(vectors[1:2] * (2 + turn % 3), [5000])
        index.add(vectors[:2] * 0.1, [6000 + turn, 7000 + turn])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


# Folders -------------------------------------------------------------------------------------


def test_an_index_of_something_else_is_refused(scann: LocalIndex, tmp_path: Path) -> None:
    scann.save(tmp_path)
    assert len(open_index(tmp_path, fingerprint="model a", dimension=DIMENSION, rows=ROWS)) == ROWS
    for expected, message in (
        ({"fingerprint": "model b"}, "was made by the model 'model a', expected 'model b'"),
        ({"dimension": 25}, "has dimension 24, expected 25"),
        ({"rows": 3}, "has rows 6000, expected 3"),
        ({"token": "x"}, "arguments of a Milvus server"),
        ({"backend": "torch"}, "settings: is of ScaNN"),
    ):
        with pytest.raises(RetrievalError, match=message):
            open_index(tmp_path, **expected)


def test_damage_is_refused_by_name(scann: LocalIndex, tmp_path: Path) -> None:
    index = scann.clone()
    index.add(clustered(2, seed=3))
    index.remove(index.ids()[:1])
    index.save(tmp_path)
    files = [path for path in tmp_path.iterdir() if path.name != ".index-lock"]
    assert len(files) > 8
    for path in files:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 4
        for damaged in (whole[:-2], whole[: len(whole) // 2], bytes(flipped), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(RetrievalError, match=path.name):
                open_index(tmp_path)
        path.write_bytes(whole)
    assert len(open_index(tmp_path)) == ROWS + 1


def test_a_manifest_is_not_believed(tmp_path: Path) -> None:
    from zoo.retrieval import store

    build_index(clustered(30), np.arange(30) * 3).save(tmp_path)
    path = tmp_path / "index.json"
    good = json.loads(path.read_text())
    vectors = next(name for name in good["files"] if name.endswith("-vectors.npy"))

    def part(**changes: Any) -> dict[str, Any]:
        return {"parts": [good["parts"][0] | changes]}

    for change, message in (
        ({"format": "other"}, "describes 'other'"),
        ({"version": 2}, "version 2, this program reads version 1"),
        ({"rows": 31}, "holds 30 rows, its manifest says 31"),
        (part(rows=29), "has 30 rows, the manifest says 29"),
        ({"dimension": 23}, "shape"),
        (part(dtype="float16"), "stored vectors are float32"),
        (part(kind="other"), "unknown kind 'other'"),
        (part(uid="../../etc"), "does not list"),
        ({"files": {"../secret": {"bytes": 1, "crc32": 0}}}, "no file of an index"),
        ({"files": {vectors: {"bytes": "x"}}}, "index.json"),
        ({"plan": {"kind": "exact", "trees": 3}}, "no valid manifest"),
        ({"kind": "other"}, "index of kind 'other'"),
        ({"parts": 3}, "no valid manifest"),
    ):
        changed = good | change
        changed["crc32"] = store._manifest_sum(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(RetrievalError, match=message):
            open_index(tmp_path)
    for text in ("", "[]", "{", "[" * 100000, "\xff", "{}"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(RetrievalError, match=r"index\.json"):
            open_index(tmp_path)
    path.unlink()
    with pytest.raises(RetrievalError, match="holds no index"):
        open_index(tmp_path)
    with pytest.raises(RetrievalError, match="holds no index"):
        open_index(tmp_path / "nowhere")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"format": "mine"}')
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RetrievalError, match="describes 'mine'"):
        build_index(clustered(5)).save(tmp_path)
    assert (tmp_path / "index.json").read_text() == '{"format": "mine"}'
    (tmp_path / "index.json").unlink()
    build_index(clustered(5)).save(tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_saving_again_writes_only_what_changed(scann: LocalIndex, tmp_path: Path) -> None:
    scann.save(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    index = open_index(tmp_path)
    for turn in range(3):
        index.add(clustered(2, seed=turn))
        index.save(tmp_path)
    after = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    same = {name for name in before if after.get(name) == before[name]}
    assert same == set(before) - {"index.json"}
    assert len(set(after) - set(before)) == 3
    assert len(open_index(tmp_path)) == ROWS + 6


def test_an_older_form_can_be_saved_over_a_newer_one(tmp_path: Path) -> None:
    """Files that this index counts on may have been replaced by another one since."""
    first = build_index(clustered(40), kind="exact")
    first.save(tmp_path)
    opened = open_index(tmp_path)
    build_index(clustered(50, seed=1), kind="exact").save(tmp_path)
    assert len(open_index(tmp_path)) == 50
    opened.save(tmp_path)
    assert len(open_index(tmp_path)) == 40


KILLED = """
import os, shutil, sys
import numpy as np
from zoo.retrieval import build_index, open_index, RetrievalError

folder, kind = sys.argv[1:]
random = np.random.default_rng(0)
old, new = (random.normal(size=(rows, 6)).astype(np.float32) for rows in (40, 50))
build_index(old, kind="exact").save(folder)
shutil.copytree(folder, folder + "-kept")
CALLS = ("replace", "rename", "link", "unlink", "fsync", "mkdir", "write", "rmdir")
seen, count = set(), 0
while True:
    count += 1
    child = os.fork()
    if not child:
        index = open_index(folder)
        left = count
        def dying(real):
            def call(*arguments, **named):
                global left
                left -= 1
                if not left:
                    os.kill(os.getpid(), 9)
                return real(*arguments, **named)
            return call
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        if kind == "save":
            build_index(new, kind="exact").save(folder)
        elif kind == "refresh":
            index.refresh(new, folder=folder)
        else:
            index.add(new[:10])
            index.save(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    rows = len(open_index(folder))
    seen.add(rows)
    assert rows in (40, 50), rows
    if status == 0:
        break
    shutil.rmtree(folder)
    shutil.copytree(folder + "-kept", folder)
left = [name for name in os.listdir(folder) if name.startswith(".zoo")]
assert rows == 50 and not left, (rows, left)
print(count, sorted(seen))
"""


@pytest.mark.parametrize("kind", ["save", "refresh", "change"])
def test_killed_at_every_step_the_old_or_the_new_index_is_there(kind: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "index"), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    steps, seen = done.stdout.split(maxsplit=1)
    assert int(steps) > 15 and json.loads(seen) == [40, 50]


def test_killed_while_refreshing_a_scann_index(
    scann: LocalIndex, vectors: np.ndarray, tmp_path: Path
) -> None:
    """At any moment, of the build or of the save, and whatever it was doing."""
    scann.save(tmp_path / "index")
    code = """
import sys
from zoo.retrieval import open_index
index = open_index(sys.argv[1])
print("ready", flush=True)
while True:
    index.refresh(folder=sys.argv[1])
    print("once", flush=True)
"""
    for delay in (0.0, 0.03):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "index")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        index = open_index(tmp_path / "index", rows=ROWS, fingerprint="model a")
        assert recall(index.search(vectors[:50], 1)[0], index.ids()[:50, None]) > 0.9


def test_several_processes_save_to_one_folder(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from zoo.retrieval import build_index, open_index
rows = int(sys.argv[2])
index = build_index(np.random.default_rng(0).normal(size=(rows, 5)), kind="exact")
for turn in range(12):
    index.add(np.ones((1, 5)))
    index.save(sys.argv[1])
    assert len(open_index(sys.argv[1])) > 9
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(rows)], cwd=ROOT)
        for rows in (10, 200)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(open_index(tmp_path)) in (22, 212)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = """
import importlib, pkgutil, sys
import zoo.retrieval
for module in pkgutil.iter_modules(zoo.retrieval.__path__, "zoo.retrieval."):
    importlib.import_module(module.name)
import numpy as np
zoo.retrieval.build_index(np.eye(3)).search(np.eye(3))
heavy = {"scann", "tensorflow", "torch", "keras", "pymilvus", "milvus_lite", "pyarrow", "rich"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


# Milvus --------------------------------------------------------------------------------------


@pytest.fixture
def milvus(tmp_path: Path, vectors: np.ndarray) -> Iterator[MilvusIndex]:
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    uri = tmp_path / "index" / "corpus.db"
    uri.parent.mkdir()
    with MilvusIndex.build(
        vectors[:300],
        np.arange(300) * 3 + 2**40,
        uri=uri,
        params={"nlist": 16, "with_raw_data": True},
        fingerprint="model a",
    ) as index:
        yield index


def test_milvus_behind_the_same_interface(
    milvus: MilvusIndex, vectors: np.ndarray, queries: np.ndarray
) -> None:
    twin = build_index(vectors[:300], np.arange(300) * 3 + 2**40, kind="exact")
    for change in range(2):
        ids, scores = milvus.search(queries, 9)
        expected, expected_scores = twin.search(queries, 9)
        assert (ids == expected).all()
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4)
        assert len(milvus) == len(twin)
        if not change:
            for index in (milvus, twin):
                index.add(queries[:3] * 2, [5, 6, 7])
                index.update(queries[3:4] * 2, [2**40 + 3])
                index.remove([6, 2**40])
    assert 6 not in milvus and 5 in milvus
    np.testing.assert_allclose(milvus.vectors([[5], [2**40 + 3]]), twin.vectors([[5], [2**40 + 3]]))
    stats = milvus.stats()
    assert stats["settings"]["index_type"] == "SCANN" and stats["rows"] == 301
    assert (milvus.search(queries, 9, nprobe=4)[0] == milvus.search(queries, 9)[0]).all()
    ids, scores = milvus.search(queries, 400)
    assert (ids[:, 301:] == -1).all() and (scores[:, 301:] == -np.inf).all()
    for call, message in (
        (lambda: milvus.add(queries[:1], [5]), "5 in the index already"),
        (lambda: milvus.add(queries[:1]), "Milvus does not tell the largest id"),
        (lambda: milvus.update(queries[:1], [6]), "6 not in the index"),
        (lambda: milvus.remove([6]), "6 not in the index"),
        (lambda: milvus.vectors([6]), "6 not in the index"),
        (lambda: milvus.search(queries[:, :3]), "queries: expected shape"),
        (lambda: MilvusIndex(milvus.uri, "other"), "no collection 'other'"),
        (
            lambda: MilvusIndex.build(vectors[:3], uri=milvus.uri, collection=milvus.collection),
            "already",
        ),
        (lambda: MilvusIndex.build(vectors[:3], uri=milvus.uri, collection="a b"), "underscores"),
    ):
        with pytest.raises(RetrievalError, match=message):
            call()


def test_a_milvus_folder_moves_with_its_file(milvus: MilvusIndex, tmp_path: Path) -> None:
    milvus.save(tmp_path / "index")
    milvus.close()
    code = """
import shutil, sys
from zoo.retrieval import RetrievalError, open_index
shutil.move(sys.argv[1] + "/index", sys.argv[1] + "/moved")
with open_index(sys.argv[1] + "/moved", fingerprint="model a", rows=300) as index:
    assert len(index) == 300 and index.fingerprint == "model a"
    index.drop()
try:
    open_index(sys.argv[1] + "/moved")
except RetrievalError as error:
    print(error)
"""
    # The embedded server of this process holds the file until it ends.
    shutil.copytree(tmp_path / "index", tmp_path / "copy" / "index")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "copy")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "has no collection" in done.stdout
    assert os.path.isdir(tmp_path / "copy" / "moved")

"""Search by maximum inner product: our indexes, bare ScaNN and faiss in one run, on one thread.

    python benchmarks/retrieval_speed.py --rows 1000000 --dimension 128 [--leaves 2000]
    python benchmarks/retrieval_speed.py --model demo_output/model --rows 100000
    python benchmarks/retrieval_speed.py --growth 100000,300000,1000000 --dimension 128
    python benchmarks/retrieval_speed.py --rag --rows 1000000 --dimension 768 --leaves 1000

Clustered unit vectors, queries from the same clusters. Processor time of a query, asked for one by
one and in batches of 256, and recall@10 against exact search. Every engine shows the quickest of
its settings that reaches a recall. `--growth` measures how building, memory and folder grow, and
what that makes for the two published corpora. `--rag` measures what RAG's retriever adds to bare
ScaNN of the same settings, given by hand, and puts faiss beside it.
"""

from __future__ import annotations

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import argparse
import functools
import gc
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zoo.retrieval import build_index, open_index, tuning
from zoo.retrieval.exact import exact_top
from zoo.retrieval.scann import build_scann

K = 10
BATCH = 256
TARGETS = (0.9, 0.95, 0.99)
CORPORA = {"REALM, 13.35M x 128": (13_353_718, 128), "wiki_dpr, 21.0M x 768": (21_015_300, 768)}


class Point(NamedTuple):
    """One setting of one engine; seconds are per query."""

    settings: str
    recall: float
    single: float
    batch: float


def clustered(rows: int, dimension: int, seed: int, centres: int, noise: float) -> np.ndarray:
    """Unit vectors around random directions, block by block."""
    directions = np.random.default_rng(0).normal(size=(centres, dimension)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    out = np.empty((rows, dimension), np.float32)
    random = np.random.default_rng(seed)
    for start in range(0, rows, 1 << 16):
        block = out[start : start + (1 << 16)]
        block[:] = random.standard_normal(block.shape, np.float32)
        block *= noise / math.sqrt(dimension)
        block += directions[random.integers(centres, size=len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return out


def embedded(folder: str, rows: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """REALM's vectors of the standard library's files, eight lines each, and of single lines."""
    from pt_models import RealmForOpenQA
    from pt_models.embedding import TextEmbedder
    from zoo import AutoTokenizer

    blocks: list[str] = []
    for path in sorted(Path(os.__file__).parent.rglob("*.py")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        lines = [line for line in map(str.strip, lines) if len(line) > 20]
        blocks += ["\n".join(lines[at : at + 8]) for at in range(0, len(lines) - 8, 8)]
    random = np.random.default_rng(0)
    chosen = random.permutation(len(blocks))
    asked = [blocks[row].split("\n")[3] for row in chosen[:queries]]
    with tempfile.TemporaryDirectory() as scratch:  # of the whole only the embedder
        RealmForOpenQA.from_pretrained(folder).embedder.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(folder).save_pretrained(scratch)
        embedder = TextEmbedder.from_pretrained(scratch, encoder="RealmEmbedder", max_length=112)
        vectors = embedder.embed([blocks[row] for row in np.sort(chosen[:rows])])
        return vectors, embedder.embed(asked)


def measured(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, truth: np.ndarray,
             settings: str, ones: int = 200, rounds: int = 2) -> Point:  # fmt: skip
    """Recall, and the better of some rounds one by one and in batches."""
    single, batch = [], []
    for _ in range(rounds):
        start = time.process_time()
        for row in range(ones):
            search(queries[row : row + 1])
        single.append((time.process_time() - start) / ones)
        start = time.process_time()
        found = [search(queries[at : at + BATCH]) for at in range(0, len(queries), BATCH)]
        batch.append((time.process_time() - start) / len(queries))
    recall = tuning.recall(np.concatenate(found), truth)
    return Point(settings, recall, min(single), min(batch))


def found(index: Any, asked: np.ndarray) -> np.ndarray:
    return index.search(asked, K)[0]


def quickest(points: list[Point], target: float, by: str) -> Point | None:
    good = [point for point in points if point.recall >= target]
    return min(good, key=lambda point: getattr(point, by)) if good else None


def scann_points(
    searcher: Any, leaves: int, queries: np.ndarray, truth: np.ndarray, reorders: Sequence[int]
) -> Iterator[Point]:
    """A grid by hand over one structure, through ScaNN's own wrapper."""
    from scann.scann_ops.py.scann_ops_pybind import ScannSearcher

    searcher.set_num_threads(1)
    bare = ScannSearcher(searcher)
    for share in (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3):
        looked = max(round(share * leaves), 1)
        for reorder in reorders:

            def search(asked: np.ndarray, looked: int = looked, reorder: int = reorder) -> Any:
                if len(asked) == 1:
                    return bare.search(asked[0], K, reorder, looked)[0][None]
                return bare.search_batched(asked, K, reorder, looked)[0]

            about = f"{looked} of {leaves} leaves, {reorder}"
            point = measured(search, queries, truth, about, 100, 1)
            yield point
        if point.recall > 0.995:
            return


def faiss_points(
    vectors: np.ndarray,
    leaves: int,
    queries: np.ndarray,
    truth: np.ndarray,
    without: Sequence[str],
) -> dict[str, list[Point]]:
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu")
        return {}
    faiss.omp_set_num_threads(1)
    dimension = vectors.shape[1]
    found: dict[str, list[Point]] = {}
    flat = faiss.IndexFlatIP(dimension)
    flat.add(vectors)
    found["faiss Flat"] = [
        measured(lambda asked: flat.search(asked, K)[1], queries[:BATCH], truth[:BATCH], "", 20)
    ]
    start = time.process_time()
    scan = faiss.index_factory(
        dimension, f"IVF{leaves},PQ{dimension // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT
    )
    scan.train(vectors[: 100 * leaves])
    scan.add(vectors)
    print(f"faiss IVF fast-scan: built in {time.process_time() - start:.0f} s", flush=True)
    points = []
    inner = faiss.extract_index_ivf(scan)
    for probes in (2, 4, 8, 16, 32, 64, 100, 150, 200, 300, 450, 700):
        for factor in (6, 12, 25):
            inner.nprobe = min(probes, leaves)
            scan.k_factor = factor
            points.append(
                measured(lambda asked: scan.search(asked, K)[1], queries, truth,
                         f"{probes} of {leaves} lists, {factor * K}", 100, 1)
            )  # fmt: skip
        if points[-1].recall > 0.995:
            break
    found["faiss IVF fast-scan"] = points
    if "HNSW" in without:
        return found
    gc.collect()
    start = time.process_time()
    graph = faiss.IndexHNSWFlat(dimension, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 64
    graph.add(vectors)
    print(f"faiss HNSW: built in {time.process_time() - start:.0f} s", flush=True)
    points = []
    for depth in (16, 32, 64, 128, 256, 512, 1024):
        graph.hnsw.efSearch = depth
        points.append(
            measured(lambda asked: graph.search(asked, K)[1], queries, truth, f"ef {depth}", 100, 1)
        )
        if points[-1].recall > 0.995:
            break
    found["faiss HNSW"] = points
    return found


def overhead(index: Any, queries: np.ndarray, rounds: int = 15) -> tuple[float, float]:
    """Time through our interface over that of bare ScaNN, one by one and in batches."""
    from scann.scann_ops.py.scann_ops_pybind import ScannSearcher

    segment = index._state.parts[0].segment
    bare = ScannSearcher(segment._searcher)
    leaves, reorder = segment.leaves, segment.reorder_for(K)
    ones = [queries[row : row + 1] for row in range(300)]
    bare_ones = [query[0] for query in ones]
    ratios: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        times = []
        for call in (
            lambda: [bare.search(query, K, reorder, leaves) for query in bare_ones],
            lambda: [index.search(query, K) for query in ones],
            lambda: bare.search_batched(queries, K, reorder, leaves),
            lambda: index.search(queries, K),
        ):
            start = time.thread_time()
            call()
            times.append(time.thread_time() - start)
        ratios[0].append(times[1] / times[0])
        ratios[1].append(times[3] / times[2])
    return statistics.median(ratios[0]), statistics.median(ratios[1])


def compare(arguments: argparse.Namespace) -> None:
    rows, dimension = arguments.rows, arguments.dimension
    if arguments.model:
        vectors, queries = embedded(arguments.model, rows, arguments.queries + 2000)
        queries, real = queries[: arguments.queries], queries[arguments.queries :]
        rows, dimension = vectors.shape
    else:
        make = dict(centres=arguments.centres or rows // 100, noise=arguments.noise)
        vectors = clustered(rows, dimension, 1, **make)
        queries = clustered(arguments.queries, dimension, 2, **make)
        real = clustered(2000, dimension, 3, **make)  # what the settings are tuned with
    leaves = arguments.leaves or round(2 * math.sqrt(rows))
    start = time.process_time()
    truth = exact_top(queries, vectors, K)[0]
    print(f"truth in {time.process_time() - start:.0f} s", flush=True)
    engines: dict[str, list[Point]] = {}
    exact = build_index(vectors, kind="exact")
    engines["ours, exact"] = [
        measured(lambda asked: exact.search(asked, K)[0], queries, truth, "numpy", 20)
    ]
    no_soar = {"soar_lambda": None, "overretrieve_factor": None}
    for name, changed, reorders in (
        ("ScaNN plain", {"spherical": False} | no_soar, (100,)),
        ("ScaNN spherical", no_soar, (60, 100, 200)),
        ("ScaNN spherical, SOAR", {}, (60, 100, 200)),
    ):
        if name.split()[-1] in arguments.without:
            continue
        settings = tuning.default_settings(rows, leaves=leaves)
        settings["tree"] |= changed
        start = time.process_time()
        searcher = build_scann(vectors, settings)
        print(f"{name}: built in {time.process_time() - start:.0f} s", flush=True)
        engines[name] = list(scann_points(searcher, leaves, queries, truth, reorders))
        for point in engines[name]:
            if point.settings.startswith(f"{round(0.05 * leaves)} of") and "100" in point.settings:
                print(f"{name}, {point.settings}: recall {point.recall:.3f}")
        del searcher
    rounds = []
    start = time.process_time()
    index = build_index(vectors, kind="scann", target_recall=0.95, queries=real)
    print(f"ours: compared and built in {time.process_time() - start:.0f} s", flush=True)
    for row in index.stats()["report"]["compared"]:
        print(
            f"  {row['rows']} rows, {row['settings'].get('tree')}, {row['settings']['reorder']}: "
            f"recall {row['recall']:.3f}, {1e3 * row['seconds']:.3f} ms"
        )
    for target in TARGETS:
        tuned = tuning.tune(
            index._state.parts[0].segment, vectors, real, target=target, k=K, seed=1
        )
        built = index.stats()["settings"]
        about = (
            f"target {target}, tuned: {built['leaves']} of "
            f"{built['built'].get('tree', {}).get('num_leaves')} leaves, {built['reorder']}, "
            f"{built['built']['reorder']['quantize']}"
            f"{', SOAR' if 'soar_lambda' in built['built'].get('tree', {}) else ''}; "
            f"said {tuned.recall:.3f}"
        )
        rounds.append(measured(functools.partial(found, index), queries, truth, about, 300, 3))
        if target == 0.95:
            single, batch = overhead(index, queries)
            print(f"over bare ScaNN with the same settings: single {single:.3f}, batch {batch:.3f}")
            folder = tempfile.mkdtemp(dir=arguments.scratch)
            index.save(folder)
            size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9
            start, busy = time.perf_counter(), time.process_time()
            open_index(folder)
            spent, busy = time.perf_counter() - start, time.process_time() - busy
            print(
                f"opened {size:.2f} GB in {spent:.2f} s, {spent / size:.2f} s per GB; processor "
                f"time {busy / size:.2f} s per GB",
                flush=True,
            )
            from scann.scann_ops.py.scann_ops_pybind import load_searcher

            bare = Path(folder, "bare")
            bare.mkdir()
            index._state.parts[0].segment._searcher.serialize(str(bare), True)
            size = sum(path.stat().st_size for path in bare.iterdir()) / 1e9
            start = time.perf_counter()
            load_searcher(str(bare))
            spent = time.perf_counter() - start
            print(f"bare ScaNN opens its own {size:.2f} GB of this in {spent:.2f} s", flush=True)
            shutil.rmtree(folder)
    del index
    gc.collect()
    engines["ours, ScaNN"] = rounds
    engines |= faiss_points(vectors, leaves, queries, truth, arguments.without)
    table(engines, f"{rows:,} x {dimension}")


def table(engines: dict[str, list[Point]], title: str) -> None:
    print(f"\n### {title}\n")
    print("| recall@10 | engine | single ms | settings | batch ms | settings |")
    print("|---|---|---|---|---|---|")
    for target in TARGETS:
        for name, points in engines.items():
            best = [quickest(points, target, by) for by in ("single", "batch")]
            if best[0] is None or best[1] is None:
                print(f"| {target} | {name} | not reached | | | |")
                continue
            single, batch = best
            print(
                f"| {target} | {name} | {1e3 * single.single:.3f} | {single.settings} "
                f"({single.recall:.3f}) | {1e3 * batch.batch:.3f} | {batch.settings} "
                f"({batch.recall:.3f}) |"
            )
    exact = engines["ours, exact"][0]
    best = [quickest(engines["ours, ScaNN"], 0.95, by) for by in ("single", "batch")]
    if best[0] and best[1]:
        print(
            f"\nAt recall 0.95, over exact search: single {exact.single / best[0].single:.0f}x, "
            f"batch {exact.batch / best[1].batch:.0f}x."
        )


def rag(arguments: argparse.Namespace) -> None:
    """Five passages for a question: bare ScaNN, RAG's retriever over the same, and faiss."""
    from scann.scann_ops.py.scann_ops_pybind import ScannSearcher

    from zoo import BartConfig, DPRConfig, RagConfig, RagRetriever
    from zoo.retrieval.rag import StoredIndex

    k, rows, dimension = 5, arguments.rows, arguments.dimension
    leaves = arguments.leaves or round(math.sqrt(rows))
    make = dict(centres=arguments.centres or rows // 100, noise=arguments.noise)
    vectors = clustered(rows, dimension, 1, **make)
    queries = clustered(arguments.queries, dimension, 2, **make)
    truth = exact_top(queries, vectors, k)[0]
    settings = tuning.default_settings(rows, leaves=leaves)
    start = time.process_time()
    index = build_index(
        vectors, settings=settings, leaves=arguments.looked or 1, reorder=arguments.reorder
    )
    print(f"ScaNN: built in {time.process_time() - start:.0f} s", flush=True)
    passages = [{"title": f"title {i}", "text": f"text {i}"} for i in range(1000)]

    class Passages:
        def __getitem__(self, id: int) -> dict[str, str]:
            return passages[id % len(passages)]

    config = RagConfig.from_question_encoder_generator_configs(
        DPRConfig(), BartConfig(), retrieval_vector_size=dimension, retrieval_batch_size=BATCH
    )
    retriever = RagRetriever(config, None, None, index=StoredIndex(index, Passages()))
    segment = index._state.parts[0].segment
    bare = ScannSearcher(segment._searcher)
    reorder = segment.reorder_for(k)
    for looked in () if arguments.looked else (5, 10, 15, 20, 30, 45, 70, 100, 150, 220):
        segment.leaves = looked
        if tuning.recall(bare.search_batched(queries, k, reorder, looked)[0], truth) >= 0.95:
            break
    looked = segment.leaves
    contenders: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "bare ScaNN": lambda asked: (
            bare.search(asked[0], k, reorder, looked)[0][None]
            if len(asked) == 1
            else bare.search_batched(asked, k, reorder, looked)[0]
        ),
        "our index": lambda asked: index.search(asked, k)[0],
        "RagRetriever.retrieve": lambda asked: retriever.retrieve(asked, k)[1],
    }
    contenders |= faiss_contenders(vectors, leaves, k)
    print(f"\n### {k} of {rows:,} x {dimension}, {looked} of {leaves} leaves, {reorder}\n")
    print("| engine | recall@5 | single ms | over bare | batch ms | over bare |")
    print("|---|---|---|---|---|---|")
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in contenders}
    ones = [queries[row : row + 1] for row in range(min(100, len(queries)))]
    for _ in range(arguments.rounds):
        for name, search in contenders.items():
            start = time.thread_time()
            for one in ones:
                search(one)
            times[name][0].append((time.thread_time() - start) / len(ones))
            start = time.thread_time()
            for at in range(0, len(queries), BATCH):
                search(queries[at : at + BATCH])
            times[name][1].append((time.thread_time() - start) / len(queries))
    first = times["bare ScaNN"]
    for name, search in contenders.items():
        batches = [search(queries[at : at + BATCH]) for at in range(0, len(queries), BATCH)]
        row = [f"{tuning.recall(np.concatenate(batches), truth):.3f}"]
        for mine, plain in zip(times[name], first, strict=True):
            ratio = statistics.median(x / y for x, y in zip(mine, plain, strict=True))
            row += [f"{1e3 * statistics.median(mine):.3f}", f"{ratio:.3f}"]
        print("| " + " | ".join([name, *row]) + " |", flush=True)


def faiss_contenders(vectors: np.ndarray, leaves: int, k: int) -> dict[str, Any]:
    """Its fast-scan index, with as many lists as we have leaves, at three depths."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu")
        return {}
    faiss.omp_set_num_threads(1)
    dimension = vectors.shape[1]
    scan = faiss.index_factory(
        dimension, f"IVF{leaves},PQ{dimension // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT
    )
    start = time.process_time()
    scan.train(vectors[: 40 * leaves])
    scan.add(vectors)
    print(f"faiss IVF fast-scan: built in {time.process_time() - start:.0f} s", flush=True)
    inner = faiss.extract_index_ivf(scan)

    def search(probes: int, asked: np.ndarray) -> np.ndarray:
        inner.nprobe, scan.k_factor = probes, 10
        return scan.search(asked, k)[1]

    depths = [max(round(share * leaves), 1) for share in (0.01, 0.03, 0.1)]
    return {f"faiss, {n} of {leaves} lists": functools.partial(search, n) for n in depths}


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def growth(arguments: argparse.Namespace) -> None:
    """Builds of growing size with the settings that need the least memory."""
    dimension, precision = arguments.dimension, arguments.precision
    counts = [int(count) for count in arguments.growth.split(",")]
    found = []
    print(f"\n### Growth, {dimension} dimensions, {precision}, {arguments.shards} parts\n")
    print("| rows | build s | memory MB | more while building MB | folder MB | open s |")
    print("|---|---|---|---|---|---|")
    for rows in counts:
        folder = Path(tempfile.mkdtemp(dir=arguments.scratch))
        np.save(folder / "vectors.npy", clustered(rows, dimension, 1,
                                                  arguments.centres or rows // 100,
                                                  arguments.noise))  # fmt: skip
        seconds, peak = alone("--build", str(folder), "--precision", precision,
                              "--shards", str(arguments.shards))  # fmt: skip
        memory, spent = alone("--open", str(folder / "index"))
        size = sum(p.stat().st_size for p in (folder / "index").iterdir())
        shutil.rmtree(folder)
        found.append((rows, seconds, memory, peak, size))
        print(
            f"| {rows:,} | {seconds:.0f} | {memory / 1e6:.0f} | {(peak - memory) / 1e6:.0f} "
            f"| {size / 1e6:.0f} | {spent:.2f} |",
            flush=True,
        )
    for name, (rows, width) in CORPORA.items():
        if width != dimension or len(found) < 2:
            continue
        (n, seconds, memory, peak, size), first = found[-1], found[0]
        power = math.log(seconds / first[1]) / math.log(n / first[0])
        scale = rows / n
        print(
            f"\n{name}: build {seconds * scale**power / 3600:.1f} h on one thread (time grows with "
            f"the power {power:.2f}), memory {memory * scale / 1e9:.1f} GB, while building in "
            f"{arguments.shards} parts {peak * scale / 1e9:.1f} GB, folder "
            f"{size * scale / 1e9:.1f} GB."
        )


def alone(*arguments: str) -> tuple[float, float]:
    """What one of the functions below prints in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=True
    )
    first, second = json.loads(done.stdout)
    return first, second


def building(folder: Path, precision: str, shards: int) -> None:
    """Processor seconds of a build from a mapped file, and the most memory that it takes."""
    from scann.scann_ops.py import scann_ops_pybind  # noqa: F401  (not what is measured)

    mapped = np.load(folder / "vectors.npy", mmap_mode="r")
    rows = len(mapped) // shards
    settings = tuning.default_settings(rows, leaves=round(2 * math.sqrt(rows)), precision=precision)
    peak: list[int] = []
    before, start = resident(), time.process_time()
    make = functools.partial(
        build_index, mapped, settings=settings, leaves=20, reorder=100, keep_vectors=False,
        shards=shards,
    )  # fmt: skip
    watched(make, peak).save(folder / "index")
    print(json.dumps([time.process_time() - start, max(peak) - before]))


def opening(folder: str) -> None:
    """Memory and seconds of an opened index, in a fresh process."""
    from scann.scann_ops.py import scann_ops_pybind  # noqa: F401  (not what is measured)

    before, start = resident(), time.perf_counter()
    index = open_index(folder)
    spent = time.perf_counter() - start
    index.search(np.zeros((1, index.dimension), np.float32), K)
    print(json.dumps([resident() - before, spent]))


def watched(build: Callable[[], Any], peak: list[int]) -> Any:
    """Runs a build and notes the largest resident memory meanwhile."""
    import threading

    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak.append(resident())

    thread = threading.Thread(target=watch)
    peak.append(resident())
    thread.start()
    try:
        return build()
    finally:
        done.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--leaves", type=int, help="of the settings by hand and of faiss")
    parser.add_argument("--centres", type=int, help="clusters; by default rows / 100")
    parser.add_argument("--noise", type=float, default=1.2, help="length beside the centre's 1")
    parser.add_argument("--model", help="folder of a RealmForOpenQA, whose vectors are searched")
    parser.add_argument("--without", default=[], type=lambda text: text.split(","),
                        help="some of plain, spherical, HNSW")  # fmt: skip
    parser.add_argument("--rag", action="store_true", help="only what RAG's retriever adds")
    parser.add_argument(
        "--looked", type=int, help="leaves looked at, of --rag; by default for a recall of 0.95"
    )
    parser.add_argument("--reorder", type=int, default=100, help="of --rag")
    parser.add_argument("--rounds", type=int, default=7, help="of --rag")
    parser.add_argument("--growth", help="numbers of rows; only this is measured then")
    parser.add_argument("--precision", default="int8", help="of --growth")
    parser.add_argument("--shards", type=int, default=1, help="of --growth")
    parser.add_argument("--build", type=Path, help="a folder with vectors; only this is measured")
    parser.add_argument("--open", help="a saved index; how it opens is all that is measured")
    parser.add_argument("--scratch", help="folder for saved indexes")
    arguments = parser.parse_args()
    if arguments.build:
        building(arguments.build, arguments.precision, arguments.shards)
    elif arguments.open:
        opening(arguments.open)
    elif arguments.growth:
        growth(arguments)
    elif arguments.rag:
        rag(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()

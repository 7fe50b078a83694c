"""Look-ups in a passage store: time of 100 random rows, memory, and peers over the same texts.

    python benchmarks/passages_speed.py --rows 1000000 --folder /tmp/passages

Every reader runs in a process of its own, so that its memory can be told; "memory" is how much the
resident memory grows, at most, over all the look-ups of a run.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.retrieval.passages import Document, PassageStore  # noqa: E402

DRAWS = 300  # of 100 rows each


def documents(rows: int) -> Iterator[Document]:
    """Passages of 100 words, as DPR has them, of words of many lengths."""
    random = np.random.default_rng(0)
    words = [
        "".join(map(chr, random.integers(97, 123, size))) for size in random.integers(2, 11, 5000)
    ]
    for start in range(0, rows, 1000):
        chosen = random.integers(0, len(words), (min(1000, rows - start), 100))
        for number, row in enumerate(chosen.tolist(), start):
            text = " ".join([words[place] for place in row])
            yield Document(str(number + 1), text, f"Title {number // 7}")


def read_ours(folder: Path) -> Callable[[list[int]], Any]:
    return PassageStore(folder / "store").read


def read_take(folder: Path) -> Callable[[list[int]], Any]:
    """Arrow's own look-up over the same files."""
    import pyarrow as pa

    tables = [
        pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        for path in sorted((folder / "store").glob("passages-*.arrow"))
    ]
    table = pa.concat_tables(tables)
    return lambda ids: table.take(ids).to_pylist()


def read_sqlite(folder: Path) -> Callable[[list[int]], Any]:
    connection = sqlite3.connect(folder / "peer.sqlite")
    query = "SELECT id, text, title, document, part, metadata FROM passages WHERE id = ?"
    return lambda ids: [connection.execute(query, (id,)).fetchone() for id in ids]


READERS = {
    "ours": read_ours,
    "sqlite": read_sqlite,
    "Arrow Table.take": read_take,
}


def measure(name: str, folder: Path, rows: int) -> dict[str, float]:
    """Opens one reader and looks rows up."""
    import psutil

    memory = psutil.Process().memory_info
    start = time.perf_counter()
    read = READERS[name](folder)
    read([0])
    opened = time.perf_counter() - start
    before, most = memory().rss, 0
    random = np.random.default_rng(1)
    draws = 10 if name.startswith("Arrow") else DRAWS
    times = []
    for _ in range(draws):
        ids = random.integers(0, rows, 100).tolist()
        start = time.process_time()
        read(ids)
        times.append(time.process_time() - start)
        most = max(most, memory().rss)
    again = []
    for _ in range(draws):
        start = time.process_time()
        read(ids)
        again.append(time.process_time() - start)
    return {
        "open ms": opened * 1e3,
        "100 new rows ms": statistics.median(times) * 1e3,
        "same 100 rows ms": statistics.median(again) * 1e3,
        "memory MB": (most - before) / 1e6,
    }


def prepare(folder: Path, rows: int) -> None:
    """Writes the store and the peer's copy, unless they are there."""
    if not (folder / "store" / "manifest.json").exists():
        start = time.process_time()
        store = PassageStore.create(folder / "store")
        store.add(documents(rows))
        print(f"written: {rows / (time.process_time() - start):,.0f} rows/s")
    store = PassageStore(folder / "store")
    if len(store) != rows:
        raise SystemExit(f"{folder}: holds {len(store)} rows, not {rows}; name another folder")
    print(f"{store.stats()['bytes'] / rows:.0f} bytes a row on the disk")
    if not (folder / "peer.sqlite").exists():
        with sqlite3.connect(folder / "peer.sqlite") as connection:
            connection.execute(
                "CREATE TABLE passages (id INTEGER PRIMARY KEY, text TEXT, title TEXT, "
                "document TEXT, part INTEGER, metadata TEXT)"
            )
            connection.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)",
                (passage._replace(metadata="") for passage in store),  # type: ignore[arg-type]
            )
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True, help="where to keep the files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        print(json.dumps(measure(arguments.reader, arguments.folder, arguments.rows)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    prepare(arguments.folder, arguments.rows)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
    for _ in range(arguments.rounds):  # taking turns
        for name in READERS:
            command = [sys.executable, __file__, "--rows", str(arguments.rows)]
            command += ["--folder", str(arguments.folder), "--reader", name]
            found[name].append(json.loads(subprocess.check_output(command)))
    columns = list(found["ours"][0])
    print("\n| reader | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, rounds in found.items():
        values = [statistics.median(entry[column] for entry in rounds) for column in columns]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()

"""The passage store: what goes in comes out, whatever is added, removed, killed or damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from zoo.retrieval import passages  # noqa: E402
from zoo.retrieval.passages import Document, PassageError, PassageStore  # noqa: E402

ROOT = Path(__file__).parents[1]


def parts(name: str, *texts: str) -> list[Document]:
    """A document in several blocks."""
    return [
        Document(name, text, f"title of {name}", {"n": number}, number)
        for number, text in enumerate(texts)
    ]


def whole(count: int, start: int = 0) -> list[Document]:
    return [
        Document(f"d{number}", f"text {number} é", where=f"file:{number}")
        for number in range(start, start + count)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 20 rows in batches of 7."""
    monkeypatch.setattr(passages, "SEGMENT_ROWS", 20)
    monkeypatch.setattr(passages, "BATCH_ROWS", 7)
    monkeypatch.setattr(passages, "CHECKED_ROWS", 9)


@pytest.fixture
def store(tmp_path: Path, small: None) -> PassageStore:
    store = PassageStore.create(tmp_path / "store", {"about": "tests"})
    store.add(whole(100))
    return store


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    store = PassageStore.create(tmp_path)
    assert store.add(parts("a", "first\0", "", "third 😀")) == range(3)
    assert store.add([Document("b", "text", metadata={"x": [1, None, "é"]})]) == range(3, 4)
    for opened in (store, PassageStore(tmp_path)):
        assert len(opened) == 4
        assert opened[2] == (2, "third 😀", "title of a", "a", 2, {"n": 2})
        assert opened[0].text == "first\0"
        assert opened[3].metadata == {"x": [1, None, "é"]}
        assert [passage.id for passage in opened] == [0, 1, 2, 3]
        assert opened.find("a") == [0, 1, 2] and opened.find("c") == []
        assert 3 in opened and np.int64(3) in opened and 4 not in opened and "a" not in opened


@pytest.mark.usefixtures("small")
@settings(max_examples=30)
@given(st.data())
def test_any_history_gives_what_a_dictionary_gives(data: st.DataObject) -> None:
    import tempfile

    passages.SEGMENT_ROWS, passages.BATCH_ROWS = 20, 7
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
    texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1)
    with tempfile.TemporaryDirectory() as folder:
        store = PassageStore.create(folder)
        expected: dict[int, tuple[str, int, str]] = {}
        number = 0
        for _ in range(data.draw(st.integers(1, 6))):
            there = {name for name, _, _ in expected.values()}
            action = data.draw(st.sampled_from(["add", "update", "remove", "compact", "reopen"]))
            if action in ("add", "update"):
                documents = data.draw(st.dictionaries(names, texts, max_size=12))
                if action == "add":
                    documents = {n: t for n, t in documents.items() if n not in there}
                expected = {i: v for i, v in expected.items() if v[0] not in documents}
                for name, blocks in documents.items():
                    for part, text in enumerate(blocks):
                        expected[number] = (name, part, text)
                        number += 1
                rows = [row for name, blocks in documents.items() for row in parts(name, *blocks)]
                getattr(store, action)(rows)
            elif action == "remove" and there:
                gone = data.draw(st.lists(st.sampled_from(sorted(there)), unique=True))
                store.remove(gone)
                expected = {i: v for i, v in expected.items() if v[0] not in gone}
            elif action == "compact":
                store.compact()
            else:
                store = PassageStore(folder)
            found = {p.id: (p.document, p.part, p.text) for p in store}
            assert found == expected
            assert {i: store[i].text for i in expected} == {i: v[2] for i, v in expected.items()}
            assert store.ids().tolist() == sorted(expected)
            assert len(store) == len(expected)
            assert store.stats()["documents"] == len({v[0] for v in expected.values()})
            for name in {v[0] for v in expected.values()}:
                assert store.find(name) == [i for i, v in expected.items() if v[0] == name]
            store.verify()


def test_removed_numbers_do_not_come_back(store: PassageStore) -> None:
    assert store.remove(["d7", "d99"]).tolist() == [7, 99]
    assert 7 not in store and len(store) == 98 and store.find("d7") == []
    with pytest.raises(PassageError, match="no passage 7"):
        store[7]
    assert store.add([Document("d7", "again")]) == range(100, 101)
    store.compact()
    assert 7 not in store and store[100].text == "again"
    assert store.add([Document("new", "x")]) == range(101, 102)


def test_update_replaces_all_parts(store: PassageStore) -> None:
    store.add(parts("long", "a", "b", "c"))
    ids, gone = store.update([*parts("long", "d"), Document("fresh", "e")])
    assert gone.tolist() == [100, 101, 102] and ids == range(103, 105)
    assert [store[i].text for i in store.find("long")] == ["d"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([Document("new", "x"), Document("d3", "x", where="b.txt:9")], r"b\.txt:9: .*'d3' already"),
        ([Document("n", "x"), Document("n", "x", where="b.txt:2")], r"b\.txt:2: .*'n' is .* twice"),
        ([Document("", "x", where="b.txt")], r"b\.txt: a document needs an id"),
        ([Document("n", "\ud800", where="b.txt:4")], r"b\.txt:4: text holds half of a surrogate"),
        ([Document("n", "x", metadata={"a": {1}}, where="b.txt:1")], r"b\.txt:1: metadata: .*set"),
        ([Document("n", "x", part=1, where="b.txt")], r"b\.txt: part 1 of 'n' does not follow"),
        ([Document("n", 3)], "'n': text is int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_changes(
    store: PassageStore, documents: list[Document], message: str
) -> None:
    before = sorted(os.listdir(store.folder))
    # More than a segment of good ones first: they must go again.
    with pytest.raises(PassageError, match=message):
        store.add([*whole(45, 1000), *documents])
    assert sorted(os.listdir(store.folder)) == before
    assert len(PassageStore(store.folder)) == 100
    assert store.add([Document("fine", "x")]) == range(100, 101)


def test_twice_in_one_change_across_segments(store: PassageStore) -> None:
    again = Document("d1005", "x", where="late:1")
    with pytest.raises(PassageError, match="late:1: the id 'd1005' is there twice"):
        store.add([*whole(60, 1000), again])
    with pytest.raises(PassageError, match="twice"):
        store.update([*whole(60, 1000), again])


def test_unknown_documents_are_not_removed(store: PassageStore) -> None:
    with pytest.raises(PassageError, match="no document 'nope'"):
        store.remove(["d1", "nope"])
    assert 1 in store


def test_one_name_is_not_a_list_of_letters(store: PassageStore) -> None:
    assert store.remove("d12").tolist() == [12]


def test_notes_change_with_the_rows(store: PassageStore) -> None:
    assert store.notes == {"about": "tests"}
    store.add([Document("n", "x")], notes={"read": 5})
    assert PassageStore(store.folder).notes == {"read": 5}
    with pytest.raises(PassageError):
        store.add([Document("n", "x")], notes={"read": 6})
    assert PassageStore(store.folder).notes == {"read": 5}


def test_many_short_segments_become_one(store: PassageStore) -> None:
    for number in range(70):
        store.add([Document(f"single{number}", "x")])
    assert store.stats()["segments"] < 5 + 2 * passages.SHORT_SEGMENTS
    assert [store.find(f"single{number}") for number in range(70)] == [[100 + n] for n in range(70)]


def test_an_open_store_outlives_changes_by_others(store: PassageStore) -> None:
    other = PassageStore(store.folder)
    store.remove([f"d{number}" for number in range(50)])
    store.compact()
    assert other[3].text == "text 3 é" and len(other) == 100
    other.refresh()
    assert 3 not in other and len(other) == 50


def test_two_writers_follow_one_another(store: PassageStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(store.folder, n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store.refresh()
    assert len(store) == 120
    assert {p.document for p in store} >= {f"w{n}-{i}" for n in range(2) for i in range(10)}


def _write(folder: Path, number: int) -> None:
    store = PassageStore(folder)
    for i in range(10):
        store.add([Document(f"w{number}-{i}", "x")])


def test_a_killed_writer_leaves_the_earlier_state(tmp_path: Path) -> None:
    PassageStore.create(tmp_path / "s").add(whole(10))
    code = (
        "import sys, time\n"
        "from zoo.retrieval import passages as p\n"
        "p.SEGMENT_ROWS, p.BATCH_ROWS = 20, 7\n"
        "def documents():\n"
        "    for i in range(100): yield p.Document(f'n{i}', 'x')\n"
        "    print('now', flush=True); time.sleep(60)\n"
        "p.PassageStore(sys.argv[1]).add(documents())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    store = PassageStore(tmp_path / "s")
    assert len(store) == 10 and store.add(whole(5, 50)) == range(10, 15)
    store.verify()
    assert not [name for name in os.listdir(store.folder) if name.startswith(".zoo")]


def _files(store: PassageStore) -> dict[str, Path]:
    names = sorted(path.name for path in store.folder.iterdir())
    return {name.split("-")[0]: store.folder / name for name in names}


@pytest.mark.parametrize("kind", ["passages", "documents", "removed"])
def test_damage_is_found(store: PassageStore, kind: str) -> None:
    store.remove(["d1"])
    path = _files(store)[kind]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PassageError, match=rf"{path.name} is damaged"):
        PassageStore(store.folder).verify()
    path.write_bytes(content[:-1])
    with pytest.raises(PassageError, match=rf"{path.name} is damaged: it has"):
        PassageStore(store.folder)
    path.unlink()
    with pytest.raises(PassageError, match=rf"{path.name} is missing"):
        PassageStore(store.folder)


def test_no_damage_crashes_the_reader(store: PassageStore) -> None:
    """Whatever byte is wrong: the right text, a wrong text, or an error; never a crash."""
    path = _files(store)["passages"]
    good = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(good), 150):
        content = bytearray(good)
        content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        try:
            opened = PassageStore(store.folder)
            for number in range(80, 100):
                str(opened[number])
        except PassageError as error:
            assert path.name in str(error) or "no passage" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this release reads 1"),
        ({"format": "other"}, "not the manifest of a store"),
        ({"next_id": None}, "damaged: a number is missing"),
        ({"segments": [{"file": "../x", "size": 1, "sha256": ""}]}, "damaged"),
    ],
)
def test_a_wrong_manifest_is_refused(
    store: PassageStore, change: dict[str, object], message: str
) -> None:
    path = store.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PassageError, match=message):
        PassageStore(store.folder)
    path.write_text("{")
    with pytest.raises(PassageError, match="manifest.json is damaged"):
        PassageStore(store.folder)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(PassageError, match="holds no store of passages"):
        PassageStore(tmp_path)
    PassageStore.create(tmp_path)
    with pytest.raises(PassageError, match="already"):
        PassageStore.create(tmp_path)


def test_a_moved_folder_opens(store: PassageStore, tmp_path: Path) -> None:
    moved = store.folder.rename(tmp_path / "elsewhere")
    assert PassageStore(moved)[5].text == "text 5 é"


def test_without_pyarrow_the_extra_is_named(
    store: PassageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"twin-zoo\[documents\]"):
        PassageStore(store.folder)[0]


def test_memory_is_flat_and_look_ups_read_little(tmp_path: Path) -> None:
    """50,000 passages of 1 kB: reading all of them at random leaves less than 5 MB resident."""
    store = PassageStore.create(tmp_path)
    store.add(Document(str(number), f"{number} " + "x" * 1000) for number in range(50_000))
    code = (
        "import sys, numpy as np, psutil\n"
        "from zoo.retrieval import passages as p\n"
        "store = p.PassageStore(sys.argv[1])\n"
        "store[0]\n"
        "memory = lambda: psutil.Process().memory_info().rss\n"
        "before, most = memory(), 0\n"
        "order = np.random.default_rng(0).permutation(50_000)\n"
        "for i in order.tolist():\n"
        "    assert store[i].text.startswith(f'{i} ')\n"
        "    if not i % 100: most = max(most, memory())\n"
        "sizes = []\n"
        "pread = p._PREAD\n"
        "p._PREAD = lambda *call: sizes.append(call[1]) or pread(*call)\n"
        "store.read(order[:100].tolist())\n"
        "print((most - before) / 1e6, len(sizes), sum(sizes))\n"
    )
    pytest.importorskip("psutil")
    command = [sys.executable, "-c", code, str(tmp_path)]
    grown, reads, size = map(float, subprocess.check_output(command, cwd=ROOT).split())
    assert grown < 5
    # The head of its batch and its text, for each of the 100.
    assert (reads, size < 3000 * 100) == (200, True)


@pytest.mark.parametrize("change", ["no pread", "short head"])
def test_other_ways_of_reading(
    store: PassageStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "no pread":
        monkeypatch.setattr(passages, "_PREAD", None)
    else:
        monkeypatch.setattr(passages, "_HEAD", 100)
    store.add([Document("meta", "text", "title", {"long": "x" * 300})])
    assert [store[n].text for n in range(100)] == [f"text {n} é" for n in range(100)]
    assert store[100] == (100, "text", "title", "meta", 0, {"long": "x" * 300})


def test_iteration_is_in_order(store: PassageStore) -> None:
    assert [p.text for p in store] == [f"text {n} é" for n in range(100)]

"""Reading corpora, cutting them into blocks, and the pickled block records without pickle."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_fixtures import OTHER_SCRIPTS, paragraphs, vocab_file  # noqa: F401

from zoo import RemBertTokenizer, RemBertTokenizerFast
from zoo.retrieval.block_records import read_block_records
from zoo.retrieval.passages import Document, PassageError
from zoo.retrieval.readers import FORMATS, SUFFIXES, Corpus, crc32c, read_tfrecords
from zoo.retrieval.splitting import Splitter, sentences

ROOT = Path(__file__).parents[1]


def rows(corpus: Iterable[Document]) -> list[tuple[str, str, str]]:
    return [(document.id, document.title, document.text) for document in corpus]


# Folders of files ---------------------------------------------------------------------------------


def test_a_folder_of_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("Zwei\r\nZeilen ü".encode())
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    (tmp_path / "sub" / "c.txt").write_bytes("wide".encode("utf-16"))
    (tmp_path / "sub" / "table.jsonl").write_text('{"id": "own", "text": "x"}\n{"text": "y"}\n')
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("no")
    corpus = Corpus(tmp_path)
    assert corpus.format == "folder" and not corpus.is_split
    expected = [
        ("a.txt", "a", "with a mark"),
        ("b.txt", "b", "Zwei\nZeilen ü"),
        ("sub/c.txt", "c", "wide"),
        ("own", "", "x"),
        ("sub/table.jsonl:2", "", "y"),
    ]
    assert rows(corpus) == expected
    assert corpus.skipped == {"empty": 1, "other files (.png)": 1}
    assert rows(corpus) == expected and corpus.skipped["empty"] == 1  # the same when read again
    assert rows(Corpus(tmp_path / "sub" / "c.txt")) == [("c.txt", "c", "wide")]
    assert rows(Corpus(tmp_path / "sub" / "c.txt", root=tmp_path))[0][0] == "sub/c.txt"


def test_fingerprint_tells_changes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    before = Corpus(tmp_path).fingerprint()
    assert Corpus(tmp_path).fingerprint() == before
    (tmp_path / "b.txt").write_text("two")
    assert Corpus(tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\nbad \xff\n", r"a\.txt:2: not utf-8: .*--encoding"),
        (b"zero\n\nhere \x00", r"a\.txt:3: a NUL character"),
        (b"", r"holds no text \(read as text, 1 empty\)"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(PassageError, match=message):
        list(Corpus(tmp_path / "a.txt"))


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    assert next(iter(Corpus(tmp_path, encoding="latin-1"))).text == "größer"
    with pytest.raises(PassageError, match="encoding: 'klingon' is unknown"):
        Corpus(tmp_path, encoding="klingon")


def test_errors_are_counted_if_asked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfa\xfa")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{\n[1]\n{"title": "t"}\n{"text": "y"}\n')
    corpus = Corpus(tmp_path, on_error="skip")
    assert [document.text for document in corpus] == ["x", "y"]
    assert corpus.skipped == {"malformed": 4}
    assert [problem.split(str(tmp_path))[1][:12] for problem in corpus.problems] == [
        "/a.txt:1: no", "/b.jsonl:2: ", "/b.jsonl:3: ", "/b.jsonl:4: ",
    ]  # fmt: skip


def test_markdown(tmp_path: Path) -> None:
    pytest.importorskip("markdown_it")
    (tmp_path / "a.md").write_text(
        "---\nauthor: me\ntitle: 'From the front'\n---\n# First *heading*\n\nSome **bold** text\n"
        "in two lines, `code` and [a link](http://x.y).\n\n- item one\n- item two\n\n"
        "```python\nx = 1\ny = 2\n```\n\n| a | b |\n|---|---|\n| c | d |\n\n"
        "<!-- hidden --><div>raw <b>html</b></div>\n"
    )
    (tmp_path / "b.md").write_text("Intro\n\nHeading\n=======\n\nmore <br> text")
    (tmp_path / "c.md").write_text("---\nno front matter")
    first, second, third = Corpus(tmp_path)
    assert first.title == "From the front"
    assert first.text.split("\n\n") == [
        "First heading", "Some bold text in two lines, code and a link.", "item one", "item two",
        "x = 1\ny = 2", "a", "b", "c", "d", "raw html",
    ]  # fmt: skip
    assert (second.title, second.text) == ("Heading", "Intro\n\nHeading\n\nmore  text")
    assert (third.title, third.text) == ("c", "no front matter")


HTML = """<!doctype html><html><head><title>The
 title</title><style>p {}</style><script>let x = "<p>no</p>"</script></head>
<body><nav>menu</nav><h1>Head</h1><p>One <b>bo</b>ld &amp; fine.<p>Two<br>lines <!-- c --></p>
<ul><li>item<li>other</ul><table><tr><td>a</td><td>b</td></tr></table>
<pre>keep
  this</pre><div>tail <span>of</span> it</div></body></html>"""


def test_html(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_text(HTML)
    latin = "<html><head><meta charset='iso-8859-1'></head><body><h1>Größe</h1>"
    (tmp_path / "b.htm").write_bytes(latin.encode("latin-1"))
    (tmp_path / "c.html").write_text("just words")
    first, second, third = Corpus(tmp_path)
    assert first.title == "The title"
    assert first.text.split("\n\n") == [
        "Head", "One bold & fine.", "Two\nlines", "item", "other", "a b", "keep\n this",
        "tail of it",
    ]  # fmt: skip
    assert (second.title, second.text) == ("Größe", "Größe")
    assert (third.title, third.text) == ("c", "just words")


def test_html_in_a_wrong_encoding(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_bytes(b"<p>fine</p>\n<p>\xff</p>")
    with pytest.raises(PassageError, match=r"a\.html:2: not utf-8"):
        list(Corpus(tmp_path))
    (tmp_path / "a.html").write_bytes(b"<meta charset='x-unknown'><p>a</p>")
    with pytest.raises(PassageError, match="unknown encoding 'x-unknown'"):
        list(Corpus(tmp_path))


def test_html_of_any_depth(tmp_path: Path) -> None:
    pytest.importorskip("bs4")
    (tmp_path / "a.html").write_text("<div>" * 3000 + "deep")
    assert "deep" in next(iter(Corpus(tmp_path))).text


def make_pdf(*pages: str, title: str | None = None) -> bytes:
    """A PDF file with a page for each text, a line of it for each line."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, page in enumerate(pages):
        lines = " ".join(f"({line}) Tj T*" for line in page.split("\n"))
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode()
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    if title:
        objects.append(f"<< /Title ({title}) >>".encode())
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    info = b" /Info %d 0 R" % len(objects) if title else b""
    data += b"trailer\n<< /Size %d /Root 1 0 R%s >>\n" % (len(objects) + 1, info)
    return data + b"startxref\n%d\n%%%%EOF\n" % start


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(
        make_pdf("First line of a para-\ngraph and Anglo-\nSaxon", "Page two", title="A title")
    )
    (tmp_path / "scan.pdf").write_bytes(make_pdf(""))
    corpus = Corpus(tmp_path)
    (document,) = corpus
    assert document.title == "A title"
    assert document.text == "First line of a paragraph and Anglo- Saxon\n\nPage two"
    assert corpus.skipped == {"empty": 1}


def test_a_damaged_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    for content in (b"%PDF-1.4\nnothing", b"", b"no pdf at all", make_pdf("x")[:200]):
        (tmp_path / "a.pdf").write_bytes(content)
        with pytest.raises(PassageError, match=r"a\.pdf: .*no readable PDF|a\.pdf: page|no text"):
            list(Corpus(tmp_path))


@pytest.mark.parametrize(
    ("name", "module"), [("a.html", "bs4"), ("a.md", "markdown_it"), ("a.pdf", "pypdf")]
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    (tmp_path / name).write_text("x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'twin-zoo\[documents\]'"):
        list(Corpus(tmp_path))


# Lines and tables ---------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"_id": "x", "contents": "body", "title": "T", "year": 1999, "none": null}\n\n'
        '{"id": 7, "text": "seven", "embedding": [1, 2.5]}\n'
    )
    first, second = Corpus(path)
    assert first[:4] == ("x", "body", "T", {"year": 1999})
    assert first.where.endswith("a.jsonl:1")
    assert (second.id, second.metadata) == ("7", None)
    assert second.vector is not None and second.vector.tolist() == [1.0, 2.5]
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as file:
        file.write(path.read_bytes())
    assert rows(Corpus(tmp_path / "b.jsonl.gz")) == rows(Corpus(path))


def test_columns_by_other_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "k", "abstract": "words", "text": "not this"}\n')
    (document,) = Corpus(path, columns={"text": "abstract", "id": "key"})
    assert (document.id, document.text) == ("k", "words")
    assert document.metadata == {"text": "not this"}
    with pytest.raises(PassageError, match=r"a\.jsonl:1: no 'body' among"):
        list(Corpus(path, columns={"text": "body"}))
    with pytest.raises(PassageError, match="columns: colour: expected id, text, title, vector"):
        Corpus(path, columns={"colour": "x"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r":2: no JSON"),
        ('"text"', r":2: expected an object, got str"),
        ('{"title": "a"}', r":2: no 'text' or 'contents'"),
        ('{"text": 5}', r":2: the text is int, expected text"),
        ('{"text": "a", "id": [1]}', r":2: the id is list"),
        ('{"text": "\\ud800"}', r":2: half of a surrogate pair"),
        ('{"text": "a", "vector": ["b"]}', r":2: the vector is no list of numbers"),
        ("[" * 100_000, r":2: "),
    ],
)
def test_malformed_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(PassageError, match=rf"a\.jsonl{message}"):
        list(Corpus(path))


def test_bad_bytes_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(PassageError, match=r"a\.jsonl:2: not utf-8"):
        list(Corpus(path))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n' * 1000)[:-20])
    with pytest.raises(PassageError, match=r"b\.jsonl\.gz:\d+: cannot be read"):
        list(Corpus(tmp_path / "b.jsonl.gz"))


def test_tsv_as_dpr_has_it(tmp_path: Path) -> None:
    path = tmp_path / "psgs_w100.tsv"
    path.write_text(
        'id\ttext\ttitle\n1\t"He said ""hi"" to us"\tAaron\n2\tplain\t"""Weird Al"" Yankovic"\n'
    )
    corpus = Corpus(path)
    assert corpus.is_split
    assert rows(corpus) == [
        ("1", "Aaron", 'He said "hi" to us'),
        ("2", '"Weird Al" Yankovic', "plain"),
    ]
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(path.read_bytes())
    assert rows(Corpus(f"{path}.gz")) == rows(corpus)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1\tx\n", r":2: expected 3 columns, got 2"),
        ('1\t"x" y\tt\n', r":2: .*--no-quoting"),
        ('1\tx\tt\n2\t"never closed\tt\n3\ty\tt\n', r":3: unexpected end of data"),
        ('1\t"never closed' + "\nmore" * 300_000, r":2: field larger than field limit"),
        ("1\tx\tt\n2\t\xff\tt\n", r":3: not utf-8"),
    ],
)
def test_malformed_tables(tmp_path: Path, body: str, message: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"id\ttext\ttitle\n" + body.encode("latin-1"))
    with pytest.raises(PassageError, match=rf"a\.tsv{message}"):
        list(Corpus(path))


def test_a_table_without_names(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('7\t"quoted" words\tnews\n')
    with pytest.raises(PassageError, match=r"a\.tsv:1: .*column names with 'text'.*--header"):
        list(Corpus(path, quoting=False))
    (document,) = Corpus(path, header=["id", "text", "kind"], quoting=False)
    assert document[:4] == ("7", '"quoted" words', "", {"kind": "news"})


# TFRecord -----------------------------------------------------------------------------------------


def one_crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    def masked(crc: int) -> bytes:
        rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
        return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + masked(one_crc32c(length)) + data + masked(one_crc32c(data))


def test_crc32c() -> None:
    assert crc32c([b"123456789"]).tolist() == [0xE3069283]
    assert crc32c([]).tolist() == []


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_crc32c_of_many(records: list[bytes]) -> None:
    assert crc32c(records).tolist() == [one_crc32c(data) for data in records]


def test_crc32c_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.retrieval.readers._BYTES_AT_ONCE", 20)
    records = [b"a" * 33, b"", b"bc", b"d" * 9]
    assert crc32c(records).tolist() == [one_crc32c(data) for data in records]


def test_tfrecords_of_tensorflow(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "x.tfr"
    expected = [b"", b"one", "zwölf".encode() * 100]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in expected:
            writer.write(data)
    assert list(read_tfrecords(path)) == expected


def test_realm_blocks_with_titles(tmp_path: Path) -> None:
    (tmp_path / "blocks.tfr").write_bytes(record("é one".encode()) + record(b"") + record(b"two"))
    (tmp_path / "titles.tfr").write_bytes(record(b"A") + record(b"B") + record(b"C"))
    expected = [("0", "A", "é one"), ("1", "B", ""), ("2", "C", "two")]
    # An empty block stays, since vectors and answers refer to blocks by number.
    assert rows(Corpus(tmp_path)) == rows(Corpus(tmp_path / "blocks.tfr")) == expected
    (tmp_path / "titles.tfr").write_bytes(record(b"A"))
    with pytest.raises(PassageError, match=r"titles\.tfr ends after 1 records"):
        list(Corpus(tmp_path))
    (tmp_path / "titles.tfr").write_bytes(record(b"A") * 4)
    with pytest.raises(PassageError, match=r"blocks\.tfr ends after 3 records"):
        list(Corpus(tmp_path))
    (tmp_path / "titles.tfr").unlink()
    assert rows(Corpus(tmp_path))[2] == ("2", "", "two")


def test_damaged_tfrecords(tmp_path: Path) -> None:
    path = tmp_path / "blocks.tfr"
    good = record(b"first one") + record(b"second one") + record(b"third one")
    second = len(record(b"first one"))
    for place, message in (
        (second + 14, "record 1 is damaged"),
        (second + 9, "record 1 is damaged"),
        (second, "record 1"),
        (second + 5, "record 1"),
    ):
        content = bytearray(good)
        content[place] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(PassageError, match=message):
            list(Corpus(path))
    for size in (second + 5, second + 13, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(PassageError, match=r"record [12] is cut off"):
            list(Corpus(path))
    path.write_bytes(record(b"fine") + record(b"\xff\xfe"))
    with pytest.raises(PassageError, match=r"record 1 is no UTF-8 text"):
        list(Corpus(path))
    path.write_bytes(b"")
    with pytest.raises(PassageError, match="holds no text"):
        list(Corpus(path))


# Data sets ----------------------------------------------------------------------------------------


def write_data_set(folder: Path, count: int = 10, files: int = 2) -> np.ndarray:
    """What `datasets.save_to_disk` writes of a small wiki_dpr; returns the vectors."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    vectors = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for name, places in zip(names, np.array_split(np.arange(count), files), strict=True):
        table = pa.table(
            {
                "id": [str(place + 1) for place in places],
                "text": [f"text {place}" for place in places],
                "title": [f"title {place}" for place in places],
                "embeddings": pa.array(list(vectors[places]), pa.list_(pa.float32())),
            }
        )
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return vectors


def test_a_saved_data_set(tmp_path: Path) -> None:
    vectors = write_data_set(tmp_path / "wiki")
    for corpus in (Corpus(tmp_path / "wiki"),):
        documents = list(corpus)
        assert corpus.is_split
        assert rows(documents) == [(f"{n + 1}", f"title {n}", f"text {n}") for n in range(10)]
        assert np.array_equal([document.vector for document in documents], vectors)


def test_a_dictionary_of_splits(tmp_path: Path) -> None:
    write_data_set(tmp_path / "d" / "train")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert len(list(Corpus(tmp_path / "d"))) == 10
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(PassageError, match="the splits train, test: name one"):
        list(Corpus(tmp_path / "d"))


def test_arrow_and_parquet_files(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "year": [1, 2]})
    (tmp_path / "p").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "p" / "x.parquet")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    for corpus in (Corpus(tmp_path / "p"), Corpus(tmp_path / "x.arrow")):
        assert [(d.id, d.text, d.metadata) for d in corpus] == [
            ("a", "x", {"year": 1}), ("b", "y", {"year": 2}),
        ]  # fmt: skip


def test_damaged_data_sets(tmp_path: Path) -> None:
    write_data_set(tmp_path / "wiki")
    state = tmp_path / "wiki" / "state.json"
    good = state.read_text()
    for change, message in (
        ({"_indices_data_files": [{"filename": "x"}]}, "flatten_indices"),
        ({"_data_files": None}, "lists no data files"),
        ({"_data_files": [{"filename": "../x"}]}, "outside the folder"),
        ({"_data_files": [{"filename": "x.arrow"}]}, r"x\.arrow is missing"),
    ):
        state.write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(PassageError, match=message):
            list(Corpus(tmp_path / "wiki"))
    state.write_text(good)
    data = tmp_path / "wiki" / "data-00001-of-00002.arrow"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(PassageError, match=r"data-00001-of-00002\.arrow cannot be read"):
        list(Corpus(tmp_path / "wiki"))


def test_vectors_of_several_lengths(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"text": ["x", "y"], "embeddings": [[1.0, 2.0], [3.0]]})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(PassageError, match=r"x\.arrow: vectors of several lengths"):
        list(Corpus(tmp_path / "x.arrow"))


# What is there ------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(PassageError, match="does not exist"):
        Corpus(tmp_path / "x")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(PassageError, match="its name does not tell"):
        Corpus(tmp_path / "x.bin")
    with pytest.raises(PassageError, match=r"holds no text \(read as folder, 1 other files"):
        list(Corpus(tmp_path))
    with pytest.raises(PassageError, match="holds no file of the format pdf"):
        list(Corpus(tmp_path, "pdf"))
    with pytest.raises(PassageError, match="format: received 'doc', expected one of folder, text"):
        Corpus(tmp_path, "doc")
    with pytest.raises(PassageError, match="on_error: received 'stop'"):
        Corpus(tmp_path, on_error="stop")
    assert set(SUFFIXES.values()) < set(FORMATS)


# block_records.npy --------------------------------------------------------------------------------


def write_records(path: Path, values: Any, protocol: int = 3) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    with open(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (len(values),)}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(array, file, protocol=protocol)


RECORDS = [b"block %d \xc3\xa9" % number for number in range(2500)]
RECORDS += [RECORDS[0], RECORDS[7], b"x" * 300, b"y" * 70_000]  # two of them met again


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_block_records(tmp_path: Path, protocol: int) -> None:
    write_records(tmp_path / "block_records.npy", RECORDS, protocol)
    assert list(read_block_records(tmp_path / "block_records.npy")) == RECORDS
    documents = list(Corpus(tmp_path))
    assert documents[2501].text == "block 7 é" and documents[2501].id == "2501"


def test_block_records_as_numpy_saves_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(RECORDS, object), allow_pickle=True)
    assert list(read_block_records(tmp_path / "a.npy")) == RECORDS
    # As numpy 1 named its parts.
    content = (tmp_path / "a.npy").read_bytes()
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    if b"\x8c\x16numpy.core" in old:  # protocol 4 has the length of the name before it
        old = old.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
    (tmp_path / "a.npy").write_bytes(old)
    assert list(read_block_records(tmp_path / "a.npy")) == RECORDS


class Call:
    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([b"a", Call(os.system, "touch pwned")], r"holds (posix|nt)\.system; refused"),
        ([b"a", Call(eval, "open('pwned', 'w')")], r"holds (__builtin__|builtins)\.eval; refused"),
        ([b"a", Call(np.fromfile, "x")], r"fromfile; refused"),
        ([b"a", "text"], "a str as record 1, expected bytes"),
        ([b"a", None], "a NoneType as record 1"),
        ([b"a", 5], "a int as record 1"),
        ([b"a", (b"b",)], "a tuple as record 1"),
        ([b"a", [b"b"]], "a list outside the array"),
        ([b"a", np.array([1])], r"numpy\.dtype called with"),
        ([b"a", np.dtype("O")], "holds a damaged pickle: memo number"),
        ([b"a", {"b": 1}], "the pickle opcode EMPTY_DICT"),
    ],
)
def test_anything_but_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, values: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "a.npy", values, protocol)
    with pytest.raises(PassageError, match=rf"a\.npy holds .*{message}|{message}"):
        list(read_block_records(tmp_path / "a.npy"))
    assert not (tmp_path / "pwned").exists()


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones(3))
    with pytest.raises(PassageError, match=r"dtype '<f8' and shape \(3,\); expected '|O'"):
        list(read_block_records(path))
    np.save(path, np.array([[b"a", b"b"]], object), allow_pickle=True)
    with pytest.raises(PassageError, match=r"shape \(1, 2\)"):
        list(read_block_records(path))
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(PassageError, match="is no .npy file"):
        list(read_block_records(path))


def test_no_damage_gets_through_as_something_else(tmp_path: Path) -> None:
    """Cut anywhere or with any bit turned: bytes or a message of ours, nothing else."""
    path = tmp_path / "a.npy"
    write_records(path, [b"first", b"second", b"first"])
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(PassageError):
            list(read_block_records(path))
    for place in range(len(good) * 8):
        content = bytearray(good)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            assert all(type(value) is bytes for value in read_block_records(path))
        except PassageError as error:
            assert "a.npy" in str(error)
    path.write_bytes(good + b"x")
    with pytest.raises(PassageError, match="something after its pickle"):
        list(read_block_records(path))


def test_block_records_take_little_memory(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    write_records(tmp_path / "a.npy", [b"%07d" % n + b"x" * 1000 for n in range(60_000)])
    code = (
        "import sys, psutil\n"
        "from zoo.retrieval.block_records import read_block_records\n"
        "before = psutil.Process().memory_info().rss\n"
        "count = sum(1 for _ in read_block_records(sys.argv[1]))\n"
        "print(count, psutil.Process().memory_info().rss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.npy")]
    count, grown = map(int, subprocess.check_output(command, cwd=ROOT).split())
    assert count == 60_000 and grown < 15e6


# Sentences and blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met J. R. R. Tolkien at 5 p.m. on Jan. 3.|It rained!",
        "The U.S. Army is large.|He lives in the U.S.|The weather is fine.",
        'It costs $3.50.|See vol. 3, p. 45.|"Why?" he asked.|"I see."|She left (quickly.)',
        "Smith et al. (2010) said so, e.g. Paris, i.e. there.|See Fig. 3 and www.example.com.|Yes.",
        "He has a Ph.D. in physics.|She works at Apple Inc.|They met in St. Petersburg.",
        "1. First of all.|2. Then the rest...|And on... and on.|Really?!|Yes.",
        "日本語の文。|次の文！|「引用。」|終わり",
        "Он родился в 1900 г. в Москве.|Это так!|Да?",
        "Das ist z.B. gut.|Er wohnt in der Str. 5.",
        "No. 5 is alive.|John F. Kennedy was shot.|Vitamin C.|The rest.",
    ],
)
def test_sentences(text: str) -> None:
    expected = text.split("|")
    joined = text.replace("|", "" if "。" in text else " ")
    assert [joined[start:end] for start, end in sentences(joined)] == expected


def test_an_empty_line_ends_a_sentence() -> None:
    text = "A heading\n\nand a\nsentence. \n \n\n  More"
    assert [text[a:b] for a, b in sentences(text)] == ["A heading", "and a\nsentence.", "More"]
    assert sentences("") == sentences(" \n\n ") == []


@pytest.fixture(scope="module")
def tokenizer(vocab_file: Path) -> RemBertTokenizerFast:  # noqa: F811
    return RemBertTokenizerFast(
        vocab_file, do_lower_case=False, keep_accents=True, unk_token="[UNK]", pad_token="[PAD]"
    )


def size(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("length", [7, 40, 200])
@pytest.mark.parametrize("slow", [False, True])
def test_blocks_fit_and_lose_nothing(
    tokenizer: RemBertTokenizerFast,
    vocab_file: Path,  # noqa: F811
    slow: bool,
    length: int,
) -> None:
    chosen: Any = RemBertTokenizer(vocab_file) if slow else tokenizer
    text = "\n\n".join([*paragraphs()[:25], *OTHER_SCRIPTS])
    blocks = Splitter(chosen, length).split(text)
    assert max(size(chosen, block) for block in blocks) <= length
    assert "".join("".join(blocks).split()) == "".join(text.split())
    assert all(block in text and block == block.strip() for block in blocks)
    if length == 200:
        # Most end where a sentence does.
        ends = {text[a:b][-12:] for a, b in sentences(text)}
        assert sum(block[-12:] in ends for block in blocks) > 0.9 * len(blocks)
        # And are as full as they can be: two neighbours would not fit into one.
        pairs = zip(blocks, blocks[1:], strict=False)
        full = sum(size(chosen, a + " " + b) > length for a, b in pairs)
        assert full >= 0.8 * (len(blocks) - 1)


@settings(max_examples=60)
@given(st.text(st.sampled_from("ab. \n?é漢😀\tΑ,-"), max_size=120), st.integers(1, 9))
def test_any_text_is_split(tokenizer: RemBertTokenizerFast, text: str, length: int) -> None:
    blocks = Splitter(tokenizer, length).split(text)
    assert "".join("".join(blocks).split()) == "".join(text.split())
    # A single character may need more pieces than a small block has.
    assert all(size(tokenizer, block) <= length or len(block) == 1 for block in blocks)


def test_a_long_text_without_ends_is_read_a_window_at_a_time(
    tokenizer: RemBertTokenizerFast,
) -> None:
    read = 0

    def counting(texts: list[str], **options: Any) -> Any:
        nonlocal read
        read += sum(map(len, texts))
        return tokenizer(texts, **options)

    for text in ("word " * 20_000, "漢字" * 10_000):
        read = 0
        blocks = Splitter(counting, 50).split(text)
        assert "".join("".join(blocks).split()) == "".join(text.split())
        # Each block is found by halving a window of a few hundred characters.
        assert read < 64 * len(text)


def test_documents_keep_their_title(tokenizer: RemBertTokenizerFast) -> None:
    whole = Document("id", "One sentence. Another sentence.", "Title", {"a": 1}, where="f:1")
    found = list(Splitter(tokenizer, 6)([whole, Document("empty", " ")]))
    assert [document.part for document in found] == list(range(len(found))) and len(found) > 1
    assert {(d.id, d.title, d.where) for d in found} == {("id", "Title", "f:1")}
    with pytest.raises(ValueError, match="length: received 0"):
        Splitter(tokenizer, 0)

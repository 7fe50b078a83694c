"""Training without a framework: corpus, batches, questions, plan, checkpoints, index refreshes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_embedder
import numpy as np
import pytest
from training_fixtures import Setting, documents, make_setting, questions, texts

from zoo.retrieval import build_index, open_index
from zoo.retrieval.passages import Document, PassageStore
from zoo.retrieval.realm import RealmRetriever
from zoo.tokenizers.realm import RealmTokenizer, RealmTokenizerFast
from zoo.training import corpus as corpus_module
from zoo.training import spans, state
from zoo.training.batches import (
    NULL,
    Candidates,
    InverseCloze,
    MaskedSpans,
    Questions,
    share,
    shuffled,
)
from zoo.training.corpus import BlockCorpus, CorpusError, corpus_of
from zoo.training.evidence import CorpusRetriever
from zoo.training.plan import Plan
from zoo.training.questions import (
    Question,
    QuestionError,
    contexts,
    has_answer,
    parse_questions,
    read_questions,
    retrieval_recall,
    split_questions,
)
from zoo.training.refresh import Refresher, RefreshError, embed_blocks
from zoo.training.vocabulary import train_tokenizer

LENGTHS: dict[str, Any] = {"query_length": 32, "block_length": 80}


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("setting"))


# Salient spans ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Marie Curie was born in Warsaw on 7 November 1867.",
            ["Marie Curie", "Warsaw", "7 November 1867"],
        ),
        ("Later the Bank of England moved. They left in the 1970s.", ["Bank of England", "1970s"]),
        ("Apollo 11 landed on July 20, 1969, not in 2019-01-02.",
         ["Apollo 11", "July 20, 1969", "2019-01-02"]),
        ("The Beatles split. The words are plain. It is so.", ["Beatles"]),
        ("Raise ValueError if max_length of os.path.join() is 3.",
         ["ValueError", "max_length", "os.path.join()"]),
        ("Windows does not. On Windows, it does.", ["Windows", "Windows"]),
        ("J. R. R. Tolkien wrote it in the 20th century.", ["J. R. R. Tolkien", "20th century"]),
        ("NASA sent it. We like COLUMNS and LINES.", ["NASA", "COLUMNS", "LINES"]),
        ("1,900 people, 3.1999 metres, version 1.2001.5", []),
        ("", []),
    ],
)  # fmt: skip
def test_spans_by_rules(text: str, expected: list[str]) -> None:
    assert [text[s.start : s.end] for s in spans.find_spans(text)] == expected


def test_spans_say_what_they_are() -> None:
    kinds = [span.kind for span in spans.find_spans("They saw Rome in May 1905.")]
    assert kinds == ["name", "date"]


def test_spacy_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entity:
        def __init__(self, start: int, end: int, label: str):
            self.start_char, self.end_char, self.label_ = start, end, label

    class Pipeline:
        def pipe(self, texts: list[str]) -> Iterator[Any]:
            for _ in texts:
                entities = [Entity(0, 3, "PERSON"), Entity(4, 8, "DATE"), Entity(9, 10, "CARDINAL")]
                yield types.SimpleNamespace(ents=entities)

    def load(name: str) -> Pipeline:
        if name != "there":
            raise OSError(name)
        return Pipeline()

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=load))
    kind, find = spans.finder("auto", "there")
    assert kind == "spacy:there"
    assert list(find(["Ada 1905 3"])) == [[(0, 3, "name"), (4, 8, "date")]]
    assert spans.finder("auto", "gone")[0] == "rules"
    with pytest.raises(ValueError, match="spaCy has no pipeline 'gone'"):
        spans.finder("spacy", "gone")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ModuleNotFoundError, match="pip install spacy"):
        spans.finder("spacy", "there")
    with pytest.raises(ValueError, match="spans: received 'some', expected one of auto"):
        spans.finder("some")


# The corpus ---------------------------------------------------------------------------------------


def test_corpus_holds_the_texts(setting: Setting) -> None:
    corpus, tokenizer = setting.corpus, setting.tokenizer
    assert len(corpus) == len(documents())
    for row in (0, 17, len(corpus) - 1):
        document = documents()[row]
        assert corpus.texts[row] == document.text
        encoded = tokenizer(document.text, add_special_tokens=False)
        assert corpus.body(row).tolist() == encoded["input_ids"]
        title = tokenizer(document.title, add_special_tokens=False)
        assert corpus.title(row).tolist() == title["input_ids"]
        assert corpus.decode(row, 0, len(corpus.body(row))) == document.text
        first, last = corpus.sentence_offsets[row : row + 2]
        cut = [corpus.decode(row, *bounds) for bounds in corpus.sentences[first:last]]
        assert cut == document.text.replace(". ", ".\n").split("\n")
        inside = (corpus.spans[:, 0] >= first) & (corpus.spans[:, 0] < last)
        found = [corpus.decode(row, start, end) for _, start, end in corpus.spans[inside]]
        assert found == [document.text[s.start : s.end] for s in spans.find_spans(document.text)]
    assert corpus.texts[-1] == documents()[-1].text
    assert corpus.texts[2:4] == [d.text for d in documents()[2:4]]
    with pytest.raises(IndexError, match="row 48 of 48 blocks"):
        corpus.texts[48]


def test_corpus_is_the_same_in_memory_in_parts_and_from_a_store(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PassageStore.create(tmp_path / "store")
    store.add(documents())
    monkeypatch.setattr(corpus_module, "_AT_ONCE", 7)
    seen: list[int] = []
    others = [
        BlockCorpus.build(documents(), setting.tokenizer, spans="rules", progress=seen.append),
        BlockCorpus.build(store, setting.tokenizer, tmp_path / "corpus", spans="rules"),
    ]
    assert seen == [*range(7, 48, 7), 48]
    for other in others:
        for name in (
            "tokens",
            "offsets",
            "characters",
            "titles",
            "sentences",
            "spans",
            "documents",
        ):
            np.testing.assert_array_equal(getattr(other, name), getattr(setting.corpus, name))
        assert list(other.texts) == list(setting.corpus.texts)
    np.testing.assert_array_equal(others[1].ids, store.ids())


def test_corpus_of_plain_texts(setting: Setting) -> None:
    corpus = BlockCorpus.build(["Ada was there.", b"", "Bonn."], setting.tokenizer, spans="rules")
    assert list(corpus.texts) == ["Ada was there.", "", "Bonn."]
    assert corpus.documents.tolist() == [0, 1, 2]
    special = corpus.special
    inputs = corpus.block_inputs(np.array([1, NULL]), 20)
    assert inputs["input_ids"].tolist() == [[special.cls, special.sep]] * 2


def test_blocks_of_one_document_have_its_number(setting: Setting) -> None:
    blocks = [Document("a", "One."), Document("a", "Two.", part=1), Document("b", "Three.")]
    corpus = BlockCorpus.build(blocks, setting.tokenizer)
    assert corpus.documents.tolist() == [0, 0, 1]


def test_corpus_errors(setting: Setting, tmp_path: Path) -> None:
    slow = RealmTokenizer(str(setting.folder / "tokenizer" / "vocab.txt"))
    with pytest.raises(ValueError, match="RealmTokenizer gives no offsets"):
        BlockCorpus.build(["a"], slow)
    with pytest.raises(ValueError, match="passages: there are none"):
        BlockCorpus.build([], setting.tokenizer)
    with pytest.raises(ValueError, match="passages: there are none"):
        BlockCorpus.build([], setting.tokenizer, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(CorpusError, match="holds no corpus of blocks"):
        BlockCorpus.open(tmp_path)
    other = train_tokenizer(["another text altogether"] * 3, tmp_path / "other", 60)
    with pytest.raises(CorpusError, match="made with another tokenizer"):
        BlockCorpus.open(setting.folder / "corpus", other)
    made = BlockCorpus.build(["Ada. Bela."], setting.tokenizer, tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "offsets.npy", made.offsets[:-1])
    with pytest.raises(CorpusError, match=r"offsets\.npy does not fit tokens\.npy"):
        BlockCorpus.open(tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "offsets.npy", made.offsets.astype(np.float32))
    with pytest.raises(CorpusError, match=r"offsets\.npy has another type or shape"):
        BlockCorpus.open(tmp_path / "corpus")
    (tmp_path / "corpus" / "corpus.json").write_text("{}")
    with pytest.raises(CorpusError, match="expected 'zoo block corpus' of version 1"):
        BlockCorpus.open(tmp_path / "corpus")


def test_corpus_of_whatever_holds_text(setting: Setting, tmp_path: Path) -> None:
    tokenizer = setting.tokenizer
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text("Ada came. " * 30)
    made = corpus_of(folder, tokenizer, tmp_path / "one", length=20, spans="rules")
    assert len(made) > 3 and made.lengths.max() <= 20 and made.documents.max() == 0
    # It is taken as it is, unless the text is another one.
    stamp = (tmp_path / "one" / "tokens.npy").stat().st_mtime_ns
    again = corpus_of(folder, tokenizer, tmp_path / "one", length=20)
    assert (tmp_path / "one" / "tokens.npy").stat().st_mtime_ns == stamp
    assert list(again.texts) == list(made.texts)
    (folder / "a.txt").write_text("Bela came too.")
    with pytest.raises(CorpusError, match="is of other text"):
        corpus_of(folder, tokenizer, tmp_path / "one", length=20)
    assert len(corpus_of(tmp_path / "one", tokenizer, tmp_path / "unused")) == len(made)
    store = PassageStore.create(tmp_path / "index" / "passages")
    store.add(documents()[:3])
    for place in (tmp_path / "index", tmp_path / "index" / "passages"):
        found = corpus_of(place, tokenizer, tmp_path / place.name)
        assert list(found.texts) == [d.text for d in documents()[:3]]
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps(SQUAD))
    found = corpus_of(squad, tokenizer, tmp_path / "squad")
    assert list(found.texts) == ["The bridge is made of stone. It is long.", "Another."]
    squad.write_text('[{"question": "who?", "answer": "Ada"}]')
    with pytest.raises(CorpusError, match="expected SQuAD's layout"):
        corpus_of(squad, tokenizer, tmp_path / "other")


def test_block_inputs_are_those_of_the_tokenizer(setting: Setting) -> None:
    rows = np.array([3, 30, 9])
    found = setting.corpus.block_inputs(rows, 80)
    chosen = [documents()[row] for row in rows]
    wanted = setting.tokenizer(
        [d.title for d in chosen], [d.text for d in chosen], padding=True, return_tensors="np"
    )
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])
    short = setting.corpus.block_inputs(rows, 20)
    assert short["input_ids"].shape == (3, 20)
    assert (short["input_ids"][:, -1] == setting.corpus.special.sep).all()
    np.testing.assert_array_equal(short["input_ids"][:, :19], found["input_ids"][:, :19])


def test_tokenizer_of_own_text(setting: Setting, tmp_path: Path) -> None:
    train_tokenizer(texts(), tmp_path, 240)
    again = RealmTokenizerFast.from_pretrained(tmp_path)
    assert again.get_vocab() == setting.tokenizer.get_vocab()
    assert corpus_module.tokenizer_fingerprint(again) == setting.corpus.settings["tokenizer"]
    assert again.decode(again(texts()[5])["input_ids"], skip_special_tokens=True).startswith("the")
    with pytest.raises(ValueError, match="vocab_size: received 5"):
        train_tokenizer(texts(), tmp_path, 5)
    with pytest.raises(ValueError, match="texts: there is nothing"):
        train_tokenizer([], tmp_path / "empty", 50)


# Batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_shuffled_is_a_permutation(size: int) -> None:
    everything = shuffled(np.arange(size), size, (1, 2))
    assert sorted(everything.tolist()) == list(range(size))
    some = np.array([size // 2, 0])
    np.testing.assert_array_equal(shuffled(some, size, (1, 2)), everything[some])
    if size > 60:
        assert (shuffled(np.arange(size), size, (1, 3)) != everything).mean() > 0.9
        assert abs(np.corrcoef(np.arange(size), everything)[0, 1]) < 0.3


def test_shuffled_of_a_huge_size() -> None:
    found = shuffled(np.arange(1000), 10**12, (0,))
    assert len(set(found.tolist())) == 1000 and found.max() < 10**12 and found.max() > 10**11


def test_batches_depend_on_seed_and_step_alone(setting: Setting) -> None:
    kinds = [
        lambda seed: InverseCloze(setting.corpus, 8, seed=seed, **LENGTHS),
        lambda seed: MaskedSpans(setting.corpus, 8, seed=seed),
        lambda seed: Questions(questions(), setting.tokenizer, 8, seed=seed),
    ]
    for make in kinds:
        one, other = make(3), make(3)
        for step in range(9):
            one(step)
        for name, array in one(9).items():
            np.testing.assert_array_equal(array, other(9)[name])
        assert any((array.shape != make(4)(9)[name].shape) or (array != make(4)(9)[name]).any()
                   for name, array in one(9).items())  # fmt: skip
        json.dumps(one.settings())
        epoch = np.concatenate([one.chosen(step) for step in range(one.steps_per_epoch)])
        assert len(set(epoch.tolist())) == one.steps_per_epoch * 8
        following = np.concatenate(
            [one.chosen(step + one.steps_per_epoch) for step in range(one.steps_per_epoch)]
        )
        assert (following != epoch).mean() > 0.5
        assert [len(b["input_ids"]) for b in one.start(2, 4)] == [8, 8]


def without_padding(ids: np.ndarray, mask: np.ndarray) -> list[int]:
    return ids[mask.astype(bool)].tolist()


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_inverse_cloze_takes_the_sentence_out(setting: Setting, keep: float) -> None:
    corpus, special = setting.corpus, setting.corpus.special
    batches = InverseCloze(corpus, 12, keep=keep, query_length=40, block_length=90)
    used = set()
    for step in range(8):
        batch = batches(step)
        assert len(set(batch["rows"].tolist())) == 12
        for place, row in enumerate(batch["rows"]):
            sentence = without_padding(batch["input_ids"][place], batch["attention_mask"][place])
            assert (sentence[0], sentence[-1]) == (special.cls, special.sep)
            body = corpus.body(row).tolist()
            first, last = corpus.sentence_offsets[row : row + 2]
            choices = [body[a:b] for a, b in corpus.sentences[first:last]]
            number = choices.index(sentence[1:-1])
            used.add(number)
            rest = choices if keep else [*choices[:number], *choices[number + 1 :]]
            title = [special.cls, *corpus.title(row), special.sep]
            block = without_padding(
                batch["candidate_input_ids"][place], batch["candidate_attention_mask"][place]
            )
            assert block == [*title, *(x for part in rest for x in part), special.sep]
            types = batch["candidate_token_type_ids"][place]
            assert types.sum() == len(block) - len(title) and not types[: len(title)].any()
    assert used == {0, 1, 2}


def test_inverse_cloze_keeps_some_sentences(setting: Setting) -> None:
    batches = InverseCloze(setting.corpus, 48, keep=0.25, query_length=40, block_length=90)
    full = setting.corpus.lengths + np.diff(setting.corpus.title_offsets) + 3
    kept = [
        (batch["candidate_attention_mask"].sum(1) == full[batch["rows"]]).mean()
        for batch in map(batches, range(40))
    ]
    assert 0.2 < np.mean(kept) < 0.3


def test_inverse_cloze_leaves_out_blocks_of_one_sentence(setting: Setting) -> None:
    texts = ["Only one sentence is in here, and no more.",
             "Ada came early to the town. Nobody had seen her there before. No.",
             "The bridge is made of stone. It stands."]  # fmt: skip
    corpus = BlockCorpus.build(texts, setting.tokenizer)
    batches = InverseCloze(corpus, 2, shortest=6)
    assert sorted(batches(0)["rows"].tolist()) == [1, 2]
    with pytest.raises(ValueError, match="batch_size: 3 is more than the 2 examples"):
        InverseCloze(corpus, 3, shortest=6)
    with pytest.raises(ValueError, match="keep: received 2"):
        InverseCloze(corpus, 1, keep=2)
    with pytest.raises(ValueError, match="query_length: received 4"):
        InverseCloze(corpus, 1, query_length=4)
    with pytest.raises(ValueError, match="batch_size: received 0"):
        InverseCloze(corpus, 0)


@pytest.mark.parametrize("length", [14, 48])
def test_masked_spans(setting: Setting, length: int) -> None:
    corpus, special = setting.corpus, setting.corpus.special
    batches = MaskedSpans(corpus, 16, query_length=length, longest_span=10)
    known = {tuple(row) for row in corpus.spans.tolist()}
    chosen = set()
    for step in range(6):
        batch = batches(step)
        assert batch["input_ids"].shape[1] <= length
        sizes = (batch["masked_weights"] > 0).sum(1)
        np.testing.assert_allclose(batch["masked_weights"].sum(1).mean(), 1, rtol=1e-5)
        for place, row in enumerate(batch["rows"]):
            ids = without_padding(batch["input_ids"][place], batch["attention_mask"][place])
            hidden = batch["masked_positions"][place, : sizes[place]]
            assert (batch["input_ids"][place, hidden] == special.mask).all()
            assert ids.count(special.mask) == sizes[place]
            restored = np.array(ids)
            restored[hidden] = batch["masked_ids"][place, : sizes[place]]
            inner, body = restored[1:-1].tolist(), corpus.body(row).tolist()
            starts = [i for i in range(len(body)) if body[i : i + len(inner)] == inner]
            assert starts
            first, last = corpus.sentence_offsets[row : row + 2]
            spans_here = {
                (number, start + hidden[0] - 1, start + hidden[-1])
                for number in range(first, last) for start in starts
            }  # fmt: skip
            assert spans_here & known
            chosen.add((int(row), int(hidden[0])))
    assert len(chosen) > 60


def test_masked_spans_need_some(setting: Setting) -> None:
    corpus = BlockCorpus.build(["nothing here is a name or date"], setting.tokenizer)
    with pytest.raises(ValueError, match="batch_size: 1 is more than the 0 examples"):
        MaskedSpans(corpus, 1)


class Nearest:
    """An index that finds the rows after a number, in their order."""

    def __init__(self, rows: int):
        self.rows, self.asked = rows, []  # type: ignore[var-annotated]

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((len(vectors), k))
        order = (vectors[:, :1].astype(np.int64) + np.arange(self.rows)) % self.rows
        found = np.full((len(vectors), k), -1)
        found[:, : min(k, self.rows)] = order[:, :k]
        return found, np.zeros(found.shape, np.float32)


def test_candidates_are_never_the_source(setting: Setting) -> None:
    candidates = Candidates(setting.corpus, Nearest(48), count=4, overlap=200, **LENGTHS)
    sources = np.array([0, 1, 5, 47])
    rows = candidates.find(np.array([[0.0], [0.0], [0.0], [46.0]]), sources)
    assert rows.tolist() == [[1, 2, 3, NULL], [0, 2, 3, NULL], [0, 1, 2, NULL], [46, 0, 1, NULL]]
    same = Candidates(setting.corpus, Nearest(48), count=4, same_corpus=False, **LENGTHS)
    assert same.find(np.array([[0.0]]), np.array([0])).tolist() == [[0, 1, 2, NULL]]


def test_candidates_share_no_text_with_the_source(setting: Setting) -> None:
    """Blocks that are cut with an overlap, and a copy of a block in another document."""
    words = " ".join(d.text for d in documents()[:12]).split()
    windows = [" ".join(words[start : start + 40]) for start in range(0, 240, 20)]
    windows.append("Copied from elsewhere: " + windows[4])
    corpus = BlockCorpus.build(windows, setting.tokenizer, spans="rules")
    index = Nearest(len(corpus))
    candidates = Candidates(corpus, index, count=4, overlap=22, **LENGTHS)
    rows = candidates.find(np.array([[3.0]]), np.array([4]))
    # 3 and 5 overlap 4, and 12 is a copy.
    assert rows.tolist() == [[6, 7, 8, NULL]]
    # With runs so short everything shares one with everything.
    assert Candidates(corpus, index, count=4, overlap=1, **LENGTHS).find(
        np.array([[3.0]]), np.array([4])
    ).tolist() == [[-2, -2, -2, NULL]]


def test_candidates_look_further_where_the_nearest_leak(setting: Setting) -> None:
    texts = [documents()[0].text] * 30 + [d.text for d in documents()[1:20:6]]
    corpus = BlockCorpus.build(texts, setting.tokenizer)
    index = Nearest(len(corpus))
    candidates = Candidates(corpus, index, count=4, overlap=20, **LENGTHS)
    found = candidates.find(np.array([[0.0], [30.0]]), np.array([0, 0]))
    assert found.tolist() == [[30, 31, 32, NULL], [30, 31, 32, NULL]]
    # The second was answered by the first search.
    assert index.asked == [(2, 7), (1, 28), (1, 34)]


def test_what_the_models_take_of_candidates(setting: Setting) -> None:
    corpus, tokenizer = setting.corpus, setting.tokenizer
    batch = MaskedSpans(corpus, 3, query_length=32)(0)
    rows = np.array([[5, 9, NULL], [7, -2, NULL], [30, 31, NULL]])
    candidates = Candidates(corpus, count=3, joint_length=72, **LENGTHS)
    found = candidates.inputs(batch["input_ids"], batch["attention_mask"], rows)
    np.testing.assert_array_equal(found["penalty"] < 0, rows == -2)
    blocks = corpus.block_inputs(np.array([5, 9, 7, NULL, 30, 31, NULL]), 80)
    for name, array in blocks.items():
        np.testing.assert_array_equal(found[f"candidate_{name}"], array)
    joint = [found[f"joint_{name}"] for name in ("input_ids", "attention_mask", "token_type_ids")]
    assert max(array.shape[-1] for array in joint) <= 72
    for place in range(3):
        query = without_padding(batch["input_ids"][place], batch["attention_mask"][place])
        for number, row in enumerate(rows[place]):
            body = corpus.body(row).tolist()[: 72 - 33] if row >= 0 else []
            ids, mask, kinds = (array[place, number] for array in joint)
            assert without_padding(ids, mask) == [*query, *body, corpus.special.sep]
            assert without_padding(kinds, mask) == [0] * len(query) + [1] * (len(body) + 1)
    # As the tokenizer lays out a pair.
    text = "when was ada there?"
    ids = np.array([tokenizer(text)["input_ids"]])
    wide = Candidates(corpus, count=2, query_length=32, block_length=90)
    one = wide.inputs(ids, np.ones_like(ids), np.array([[5, NULL]]))
    pair = tokenizer(text, corpus.texts[5])
    assert one["joint_input_ids"][0, 0].tolist() == pair["input_ids"]
    assert one["joint_token_type_ids"][0, 0].tolist() == pair["token_type_ids"]
    with pytest.raises(ValueError, match="joint_length: 33 leaves no room beside 32"):
        Candidates(corpus, count=3, joint_length=33, **LENGTHS)
    with pytest.raises(ValueError, match="count: received 1"):
        Candidates(corpus, count=1, **LENGTHS)


def test_questions_as_ids(setting: Setting) -> None:
    tokenizer = setting.tokenizer
    given = [Question("Who?", ("Ada Arome", "Ada")), ("Where was it found?", ["Rome"]),
             Question("Never", ("one two three four five six seven",))]  # fmt: skip
    batches = Questions(given, tokenizer, 2, answer_length=6, query_length=16)
    assert batches.left_out == 1 and batches.examples == 2
    batch = batches.inputs(np.array([1, 0]))
    assert batch["questions"].tolist() == [1, 0]
    wanted = tokenizer(["Where was it found?", "Who?"], padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], wanted["input_ids"])
    np.testing.assert_array_equal(batch["attention_mask"], wanted["attention_mask"])
    for row, wanted in enumerate((["Rome"], ["Ada Arome", "Ada"])):
        found = [[x for x in answer if x >= 0] for answer in batch["answer_ids"][row].tolist()]
        plain = tokenizer(wanted, add_special_tokens=False)["input_ids"]
        assert [x for x in found if x] == plain
    with pytest.raises(ValueError, match="batch_size: 3 is more than the 2"):
        Questions(given, tokenizer, 3, answer_length=6)


def test_share_of_a_batch(setting: Setting) -> None:
    batch = MaskedSpans(setting.corpus, 6)(0)
    parts = [share(batch, rank, 3) for rank in range(3)]
    for name, array in batch.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    with pytest.raises(ValueError, match="batch_size: 6 cannot be divided among 4"):
        share(batch, 0, 4)


# Questions ----------------------------------------------------------------------------------------

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Bridges",
            "paragraphs": [
                {
                    "context": "The bridge is made of stone. It is long.",
                    "qas": [
                        {"id": "a", "question": " What is it made of?",
                         "answers": [{"text": "stone", "answer_start": 22}] * 2},
                        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "Another.", "qas": [{"id": 3, "question": "What?", "answers": []}]},
            ],
        }
    ],
}  # fmt: skip
NQ = '{"question": "who came", "answer": ["Ada", "Bela"]}\n\n{"question": "when", "answer": "1905"}'


def test_questions_in_the_layout_of_squad(tmp_path: Path) -> None:
    import gzip

    text = "\ufeff" + json.dumps(SQUAD, indent=1)
    (tmp_path / "squad.json").write_text(text, encoding="utf-8")
    (tmp_path / "squad.json.gz").write_bytes(gzip.compress(text.encode()))
    first, second = read_questions(tmp_path / "squad.json")
    context = "The bridge is made of stone. It is long."
    assert first == Question("What is it made of?", ("stone",), "a", context, "Bridges")
    assert (second.id, second.answers) == ("3", ())
    assert read_questions(tmp_path / "squad.json.gz", tmp_path / "squad.json")[2:] == [
        first,
        second,
    ]
    found = contexts([first, second, first])
    assert [(d.id, d.text, d.title) for d in found] == [
        ("0", first.context, "Bridges"), ("1", "Another.", "Bridges"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        NQ,
        json.dumps([{"question": "who came", "answers": {"text": ["Ada", "Bela"]}},
                    {"question": "when", "answer": "1905"}]),
        '{"version": 2}\n' + NQ,
    ],
)  # fmt: skip
def test_questions_in_the_layout_of_nq_open(text: str) -> None:
    assert parse_questions(text) == [
        Question("who came", ("Ada", "Bela")), Question("when", ("1905",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NQ + "\n{broken", r"q\.jsonl:4: Expecting property name"),
        ("nonsense", r"q\.jsonl: Expecting value"),
        ('{"question": "who"}', r"entry 1: expected answers or answer, got \['question'\]"),
        (NQ + '\n{"question": 3, "answer": "a"}', r"q\.jsonl:4: question: expected text, got 3"),
        ('{"question": "who", "answer": [3]}', r"entry 1: answer holds 3, expected text"),
        ('[["who"]]', r'entry 1: expected an object, got \["who"\]'),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}',
         r"entry 1, paragraph 1: qas: expected a list, got null"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"paragraph 1: context: expected text"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_of_questions(text: str, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        parse_questions(text, "q.jsonl")


def test_split_of_questions() -> None:
    some = [Question(f"Q {n}?", ("a",), context=f"paragraph {n // 3}") for n in range(300)]
    training, testing = split_questions(some, 0.25)
    assert 40 < len(testing) < 110 and len(training) + len(testing) == 300
    assert not {q.context for q in training} & {q.context for q in testing}
    again, _ = split_questions(some[::-1] + [Question("New?", ("b",))], 0.25)
    assert set(training) - {None} <= set(again)
    assert split_questions(some, 0.25, seed=1)[1] != testing
    with pytest.raises(ValueError, match="held_out: received 1"):
        split_questions(some, 1)
    with pytest.raises(ValueError, match="leaves 0 to train on and 1 to test with|1 to train on"):
        split_questions(some[:1], 0.5)


def test_answers_are_found_in_blocks(setting: Setting) -> None:
    corpus = setting.corpus
    asked = Questions(questions(), setting.tokenizer, 8)
    rows = np.array([[row, (row + 1) % 48, NULL] for row in range(48)])
    batch = asked.inputs(np.arange(48))
    found = has_answer(corpus, rows, batch["answer_ids"])
    for row in range(48):
        year = questions()[row].answers[0]
        texts = [corpus.texts[i] if i >= 0 else "" for i in rows[row]]
        assert found[row].tolist() == [year in text for text in texts]
    vectors = np.eye(48, dtype=np.float32)
    recall = retrieval_recall(asked, np.roll(vectors, 1, 1), build_index(vectors), corpus, (1, 48))
    assert recall[48] == 1.0
    # The next one's block names another year, but for those who were born 60 years apart.
    assert recall[1] == np.mean([questions()[row].answers[0] in corpus.texts[(row + 1) % 48]
                                 for row in range(48)])  # fmt: skip


def test_evidence_is_that_of_the_retriever(setting: Setting) -> None:
    corpus, tokenizer = setting.corpus, setting.tokenizer
    asked = Questions(questions(), tokenizer, 8).inputs(np.array([4, 11]))
    ids = np.array([[4, 30, -1], [2, 11, 40]])
    arguments = (ids, asked["input_ids"], asked["answer_ids"])
    plain = RealmRetriever([d.text for d in documents()], tokenizer)
    ours = CorpusRetriever(corpus, tokenizer)
    for length in (120, 40):
        one = plain.evidence(*arguments, max_length=length, offsets=True)
        two = ours.evidence(*arguments, max_length=length, offsets=True)
        names = ("input_ids", "attention_mask", "token_type_ids", "block_mask", "has_answers")
        for name in names:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
        assert one.texts == two.texts
        for row in range(2):
            for block in range(3):
                places = [sorted({p for p in e.start_positions[row, block] if p >= 0})
                          for e in (one, two)]  # fmt: skip
                assert places[0] == places[1]
                inside = np.flatnonzero(two.block_mask[row, block])
                for place in inside:
                    expected = one.characters(row, block, place, place)
                    assert two.characters(row, block, place, place) == expected
    lists = [[[x for x in a if x >= 0] for a in row] for row in asked["answer_ids"].tolist()]
    again = ours.evidence(ids, asked["input_ids"], lists, max_length=120)
    np.testing.assert_array_equal(again.has_answers, plain.evidence(*arguments).has_answers)


# The plan -----------------------------------------------------------------------------------------


def test_learning_rate() -> None:
    plan = Plan(10, learning_rate=2.0, warm_up=4)
    rates = [plan.rate(step) for step in range(11)]
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(rates[4:], 2.0 * np.arange(6, -1, -1) / 6)
    assert Plan(10, warm_up=0.2).warm_up_steps == 2
    assert Plan(3, warm_up=0).rate(0) == 1e-4
    assert [Plan(7, checkpoint_every=3).saves_after(n) for n in (1, 3, 6, 7)] == [
        False, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", -1.0), ("warm_up", float("nan")), ("clip", 0.0),
     ("beta_2", 1.0), ("checkpoint_every", 0), ("keep_checkpoints", 0), ("weight_decay", -0.1)],
)  # fmt: skip
def test_plans_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: received"):
        Plan(**{"steps": 3, name: value})


# Checkpoints of a run -----------------------------------------------------------------------------


def write_model(text: str) -> Any:
    return lambda folder: (folder / "model").write_text(text)


def test_checkpoints_of_a_run(tmp_path: Path) -> None:
    moments = {"exp_avg.a": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    for step in (2, 4, 10):
        indexes = tuple(range(step // 2))
        state.save(
            tmp_path, step, write_model(str(step)), moments, {"a": (1, 2)}, indexes=indexes, keep=2
        )
    found = state.checkpoints(tmp_path)
    assert [path.name for path in found] == ["step-00000004", "step-00000010"]
    newest = state.latest(tmp_path)
    assert (newest.step, newest.indexes) == (10, (0, 1, 2, 3, 4))
    assert (newest.folder / "model").read_text() == "10"
    np.testing.assert_array_equal(newest.moments()["exp_avg.a"], moments["exp_avg.a"])
    assert state.indexes_of(tmp_path) == {0, 1, 2, 3, 4}
    newest.check({"a": (1, 2)})
    with pytest.raises(state.TrainingError, match=r"begun with a \[1, 2\], not 3"):
        newest.check({"a": 3})
    with pytest.raises(state.TrainingError, match=r"begun with a \[1, 2\], not None"):
        newest.check({})
    with pytest.raises(state.TrainingError, match="holds a run already"):
        state.assert_new(tmp_path)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    state.save(tmp_path, 1, write_model("1"), {}, {})

    def fail(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        state.save(tmp_path, 2, fail, {}, {})
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000001"]
    state.save(tmp_path, 1, write_model("again"), {}, {})
    assert (state.latest(tmp_path).folder / "model").read_text() == "again"
    (state.latest(tmp_path).folder / "state.json").write_text("{}")
    with pytest.raises(state.TrainingError, match=r"state\.json is damaged"):
        state.latest(tmp_path)
    with pytest.raises(state.TrainingError, match="no checkpoint to go on from"):
        state.latest(tmp_path / "none")
    with pytest.raises(state.TrainingError, match="resume: expected the folder"):
        state.required(None)
    (state.checkpoints(tmp_path)[0] / "optimizer.safetensors").write_bytes(b"nonsense")
    with pytest.raises(state.TrainingError, match=r"optimizer\.safetensors is damaged"):
        state.State(1, {}, (), state.checkpoints(tmp_path)[0]).moments()


def test_what_a_killed_save_leaves_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".zoo-staging-step-00000002-abcd"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert state.checkpoints(tmp_path) == []
    state.save(tmp_path, 2, write_model("2"), {}, {})
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000002"]


def test_log_of_a_run_that_goes_on(tmp_path: Path) -> None:
    log = state.Log(tmp_path)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": step / 3})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    again = state.Log(tmp_path, 2)
    again.add({"step": 3, "loss": 0.1})
    assert again.entries == [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3},
                             {"step": 3, "loss": 0.1}]  # fmt: skip
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == again.entries
    assert state.Log(tmp_path).entries == []


# Index refreshes ----------------------------------------------------------------------------------


def make_refresher(setting: Setting, folder: Path | None, every: int = 3, **more: Any) -> Refresher:
    return Refresher(
        folder, setting.corpus, every, embedder="fake_embedder:FakeEmbedder",
        options=more.pop("options", None), index={"kind": "exact"}, length=80, **more,
    )  # fmt: skip


def saver(setting: Setting, scale: float) -> Any:
    return lambda folder: fake_embedder.save(folder, len(setting.tokenizer), scale)


def vectors_of(setting: Setting, scale: float, folder: Path) -> np.ndarray:
    fake_embedder.save(folder, len(setting.tokenizer), scale)
    embedder = fake_embedder.FakeEmbedder(folder)
    return embed_blocks(embedder.embed_inputs, setting.corpus, np.arange(48), 80)


def test_versions_are_taken_up_when_they_are_due(setting: Setting, tmp_path: Path) -> None:
    """Version k is asked for at step 3k, and searched from step 3(k + 1) on."""
    expected = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    with make_refresher(setting, tmp_path, last_step=12) as refresher:
        for step, version in enumerate(expected):
            changed = refresher.before(step, saver(setting, 1.0 + step))
            assert changed == (step in (0, 6, 9))
            assert refresher.version == version
            wanted = vectors_of(setting, 1.0 + 3 * version, tmp_path / "wanted")
            np.testing.assert_allclose(refresher.index.vectors(np.arange(48)), wanted, rtol=1e-6)
            refresher.forget([])
        # The version of step 9 would be searched after training has ended.
        assert sorted(p.name for p in (tmp_path / "indexes").iterdir() if p.is_dir()) == ["000002"]
        assert refresher.waited > 0
    assert refresher.needed(6) == (1,) and refresher.needed(7) == (1, 2)
    assert refresher.needed(2) == (0,) and refresher.needed(4) == (0, 1)
    assert refresher.needed(11) == (2,)


def test_versions_without_delay(setting: Setting) -> None:
    with make_refresher(setting, None, every=2, delay=0) as refresher:
        versions = []
        for step in range(5):
            refresher.before(step, saver(setting, 1.0))
            versions.append(refresher.version)
        folder = refresher.folder
    assert versions == [0, 0, 1, 1, 2]
    assert not folder.exists()


def test_training_goes_on_while_a_version_is_made(setting: Setting, tmp_path: Path) -> None:
    behave = tmp_path / "behave"
    with make_refresher(setting, tmp_path, options={"behave": str(behave)}) as refresher:
        for step in range(3):
            refresher.before(step, saver(setting, 1.0))
        behave.write_text('"wait"')
        for step in (3, 4, 5):
            assert not refresher.before(step, saver(setting, 2.0))
        deadline = time.monotonic() + 60
        while (refresher.progress() or {})["stage"] != "embedding":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        progress = refresher.progress()
        assert progress is not None
        assert (progress["version"], progress["done"], progress["total"]) == (1, 0, 1)
        behave.unlink()
        assert refresher.before(6, saver(setting, 3.0))
        assert refresher.version == 1


def test_a_killed_worker_is_started_again(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    behave = tmp_path / "behave"
    behave.write_text('"die"')
    with make_refresher(setting, tmp_path, options={"behave": str(behave)}) as refresher:
        refresher.before(0, saver(setting, 1.0))
        assert "version 0 of the index was killed by SIGKILL; it is started again" in caplog.text
        wanted = vectors_of(setting, 1.0, tmp_path / "wanted")
        np.testing.assert_allclose(refresher.index.vectors(np.arange(48)), wanted, rtol=1e-6)


def test_a_worker_that_fails_ends_training(setting: Setting, tmp_path: Path) -> None:
    behave = tmp_path / "behave"
    behave.write_text('"fail"')
    with make_refresher(setting, tmp_path, options={"behave": str(behave)}) as refresher:
        with pytest.raises(RefreshError, match=r"(?s)version 0 .* exit code 1.*out of order"):
            refresher.before(0, saver(setting, 1.0))
    # The others of a group, which wait for the version, end as well.
    other = make_refresher(setting, tmp_path, leads=False)
    with pytest.raises(RefreshError, match="out of order"):
        other.before(0, saver(setting, 1.0))
    behave.write_text('"die"')
    with make_refresher(setting, tmp_path, options={"behave": str(behave)}, retries=0) as again:
        with pytest.raises(RefreshError, match="was killed by SIGKILL; what is finished"):
            again.before(0, saver(setting, 1.0))


TRAINER = """
import sys, time, fake_embedder
from pathlib import Path
from zoo.training.corpus import BlockCorpus
from zoo.training.refresh import Refresher
folder, behave, corpus, words = sys.argv[1:]
refresher = Refresher(folder, BlockCorpus.open(corpus), 2, embedder="fake_embedder:FakeEmbedder",
                      options={"behave": behave}, index={"kind": "exact"}, length=80)
save = lambda place: fake_embedder.save(place, int(words), 1.0)
for step in range(3):
    refresher.before(step, save)
    print(step, flush=True)
    Path(behave).write_text('"wait"')
print(refresher._process.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_trainer(setting: Setting, tmp_path: Path) -> None:
    """Its worker ends too, and whoever resumes makes what was not finished."""
    behave = tmp_path / "behave"
    arguments = [tmp_path, behave, setting.folder / "corpus", len(setting.tokenizer)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert trainer.stdout is not None
    with trainer.stdout:
        assert [trainer.stdout.readline().strip() for _ in range(3)] == ["0", "1", "2"]
        worker = int(trainer.stdout.readline())
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    behave.unlink()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists()
    with make_refresher(setting, tmp_path, every=2) as refresher:
        refresher.keep_only([0, 1])
        assert refresher.before(3, saver(setting, 1.0)) and refresher.version == 0
        assert refresher.before(4, saver(setting, 9.0)) and refresher.version == 1
        wanted = vectors_of(setting, 1.0, tmp_path / "wanted")
        np.testing.assert_allclose(refresher.index.vectors(np.arange(48)), wanted, rtol=1e-6)
        open_index(refresher.folder / "000001" / "index", rows=48)


def test_a_version_that_is_gone(setting: Setting, tmp_path: Path) -> None:
    with make_refresher(setting, tmp_path) as refresher:
        with pytest.raises(RefreshError, match="version 0 of the index is needed to go on and is"):
            refresher.before(4, saver(setting, 1.0))


def test_refresher_arguments(setting: Setting) -> None:
    with pytest.raises(ValueError, match="every: received 0"):
        make_refresher(setting, None, every=0)
    with pytest.raises(ValueError, match="delay: received 2"):
        make_refresher(setting, None, delay=2)
    memory = BlockCorpus.build(["Ada."], setting.tokenizer)
    with pytest.raises(ValueError, match="corpus: expected one in a folder"):
        Refresher(None, memory, 3, embedder="fake_embedder:FakeEmbedder")

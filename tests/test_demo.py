"""The demos' text, tokenizers, masks and output folder, and both whole demos at their smallest."""

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures
from rich.console import Console

from converters import corpus
from converters.corpus import Paragraph
from converters.demo import realm, rembert, stages
from zoo import RemBertTokenizer, RemBertTokenizerFast
from zoo.training.questions import made_questions

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = rembert.Sizes(
    vocabulary=500, hidden=16, layers=1, heads=2, pretraining_length=16, pretraining_batch=4,
    pretraining_steps=5, length=16, batch=128, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def paragraphs() -> list[Paragraph]:
    return corpus.read_paragraphs()


def test_every_chapter_has_paragraphs(paragraphs: list[Paragraph]) -> None:
    counts = Counter(paragraph.chapter for paragraph in paragraphs)
    assert counts.keys() == {*corpus.TOPICS, *corpus.MODULES, None}
    assert min(counts.values()) >= 100, counts
    found = [p for p in paragraphs if p.text.startswith("Assert statements are a convenient way")]
    assert [p.chapter for p in found] == ["statements"]


def test_paragraphs_are_prose_and_come_once(paragraphs: list[Paragraph]) -> None:
    texts = [paragraph.text for paragraph in paragraphs]
    assert len({text.lower() for text in texts}) == len(texts)
    assert not [text for text in texts if ">>>" in text or "::=" in text or "\n" in text]


def test_headings_cut_topics_into_sections() -> None:
    sources = {source for source, _ in corpus._topic_sections("execmodel")}
    assert {"execmodel: Binding of names", "execmodel: Exceptions"} <= sources


def test_split_keeps_sources_apart(paragraphs: list[Paragraph]) -> None:
    training, held_out = corpus.split(paragraphs, np.random.default_rng(3))
    assert not {p.source for p in training} & {p.source for p in held_out}
    assert {p.chapter for p in held_out} == {*corpus.TOPICS, *corpus.MODULES}
    assert corpus.split(paragraphs, np.random.default_rng(3)) == (training, held_out)
    assert corpus.split(paragraphs, np.random.default_rng(4)) != (training, held_out)


def test_split_drops_copies_from_the_held_out_side() -> None:
    def paragraph(words: str, source: int) -> Paragraph:
        return Paragraph(words, f"source {source}", "chapter")

    own = [paragraph(" ".join(f"w{i}x{j}" for j in range(20)), i) for i in range(10)]
    copies = [paragraph(p.text.replace("x19", "y"), 10 + i) for i, p in enumerate(own)]
    training, held_out = corpus.split([*own, *copies], np.random.default_rng(0), held_out=0.5)
    assert held_out and len(training) == 10
    stems = [{p.text.split("x")[0] for p in side} for side in (training, held_out)]
    assert not stems[0] & stems[1]


def test_majority_share() -> None:
    assert corpus.majority_share("aabac") == 0.6


def test_sentencepiece_model_fits_rembert(tmp_path: Path, paragraphs: list[Paragraph]) -> None:
    path = tmp_path / "sentencepiece.model"
    path.write_bytes(corpus.train_sentencepiece((p.text for p in paragraphs[:1500]), 600))
    slow = RemBertTokenizer(path)
    fast = RemBertTokenizerFast(
        path, do_lower_case=False, keep_accents=True, unk_token="[UNK]", pad_token="[PAD]"
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = "Return the sum of a list."
    for tokenizer in (slow, fast):
        assert len(tokenizer) == 600
        assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert slow(text)["input_ids"] == fast(text)["input_ids"]
    again = corpus.train_sentencepiece((p.text for p in paragraphs[:1500]), 600)
    assert again == path.read_bytes()


def test_pack() -> None:
    rows = corpus.pack([[5, 6, 7], [8], [9, 10, 11, 12]], length=5, cls_id=2, sep_id=3)
    assert rows.tolist() == [[2, 5, 6, 7, 3], [2, 8, 9, 10, 3]]


def test_mask_tokens() -> None:
    ids = np.random.default_rng(0).integers(0, 100, (200, 50))
    ids[:, 0], special = 2, [0, 1, 2, 3, 4]
    before = ids.copy()
    masked, labels = corpus.mask_tokens(ids, special, 4, 100, np.random.default_rng(1))
    assert np.array_equal(ids, before)
    chosen = labels != -100
    ordinary = ~np.isin(ids, special)
    assert not (chosen & ~ordinary).any()
    assert np.array_equal(masked[~chosen], ids[~chosen])
    assert np.array_equal(labels[chosen], ids[chosen])
    assert chosen.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.01)
    hidden, kept = masked == 4, masked == ids
    other = chosen & ~hidden & ~kept
    assert (chosen & hidden).sum() / chosen.sum() == pytest.approx(0.8, abs=0.04)
    assert other.sum() / chosen.sum() == pytest.approx(0.1, abs=0.03)
    assert not np.isin(masked[other], special).any()
    again = corpus.mask_tokens(ids, special, 4, 100, np.random.default_rng(1))
    assert np.array_equal(again[0], masked) and np.array_equal(again[1], labels)


def test_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "demo_output"
    foreign.mkdir()
    assert stages.output_folder(None) == Path("demo_output")
    (foreign / "thesis.txt").write_text("mine")
    assert stages.output_folder(None) == Path("demo_output-2")
    with pytest.raises(ValueError, match="demo_output holds other files"):
        rembert.run(output=foreign)
    with pytest.raises(ValueError, match=r"thesis\.txt holds other files"):
        rembert.run(output=foreign / "thesis.txt")
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    own = tmp_path / "deep" / "new"
    assert stages.output_folder(own) == own and own.is_dir()
    (own / stages.SUMMARY).touch()
    (own / "note").touch()
    assert stages.output_folder(own) == own


def test_the_whole_rembert_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = rembert.run(output="out", seed=5, sizes=TINY)
    printed = " ".join(capsys.readouterr().out.split())
    written = json.loads((tmp_path / "out" / stages.SUMMARY).read_text())
    assert f"{summary.accuracy:.1%}" in printed
    assert written["accuracy"] == summary.accuracy and written["seed"] == 5
    assert (tmp_path / "out" / stages.CURVE).read_bytes().startswith(b"\x89PNG")
    assert len(summary.pretraining_loss) == TINY.pretraining_steps
    assert summary.held_out_loss["after"] < summary.held_out_loss["before"]
    assert len(summary.served) == 4
    assert summary.differences["served probabilities"] < 1e-4
    config = json.loads((tmp_path / "out" / "classifier" / "config.json").read_text())
    assert sorted(config["label2id"]) == sorted({*corpus.TOPICS, *corpus.MODULES})

    # The same seed leads to the same model.
    again = rembert._Demo(rembert.Summary(5, TINY), tmp_path / "again", Console(quiet=True))
    again.read_text()
    again.train_tokenizer()
    again.pretrain_in_pytorch()
    assert again.summary.pretraining_loss == summary.pretraining_loss
    first, second = (tmp_path / name / "pretrained" for name in ("out", "again"))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name

    # The examples run on what the demo made.
    def example(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    out = example("pytorch_loop.py", "out/pretrained", "from_torch", "--steps", "20")
    assert "step 20: loss" in out and "held-out accuracy" in out
    out = example("keras_fit.py", "out/pretrained", "from_keras", "--epochs", "1")
    assert "val_accuracy" in out
    out = example("text_serving.py", "from_torch", "serving", "Return the square root of x.")
    assert any(f"{chapter} (" in out for chapter in config["label2id"])


SMALL = realm.Sizes(
    vocabulary=400, hidden=16, heads=2, block_pieces=60, block_length=72, query_length=32,
    cloze_steps=4, cloze_batch=8, pretraining_steps=7, pretraining_batch=4, candidates=3,
    refresh_every=2, made_steps=2, finetuning_steps=2, finetuning_batch=4, searched=4, read=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paragraphs and questions in SQuAD's layout."""
    paragraphs = [
        {
            "context": document.text,
            "qas": [
                {
                    "question": f"{question.text} {number}",
                    "id": f"{document.id}-{number}",
                    "answers": [{"text": answer, "answer_start": 0} for answer in question.answers],
                }
                for number in range(2)
            ],
        }
        for document, question in zip(fixtures.documents(), fixtures.questions(), strict=True)
    ]
    path = tmp_path_factory.mktemp("squad") / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "All", "paragraphs": paragraphs}]}))
    return path


def test_the_whole_realm_demo(
    squad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = realm.run(output="out", seed=3, squad=squad, sizes=SMALL)
    printed = " ".join(capsys.readouterr().out.split())
    written = json.loads((tmp_path / "out" / stages.SUMMARY).read_text())
    phases = ("untrained", "inverse cloze", "pre-training", "fine-tuning")
    for name in ("BM25", *phases):
        found = summary.recall[name]
        assert list(found) == ["1", "5", "20"] and written["recall"][name] == found
        assert 0 <= found["1"] <= found["5"] <= found["20"] <= 100
    assert summary.recall["BM25"]["1"] == 100  # every name is in one paragraph
    assert summary.refreshes == 2 and "2 times a new index was taken up" in printed
    assert set(summary.exact_match) == {"REALM", "BM25's blocks, the same reader"}
    steps = {name: len(losses) for name, losses in summary.losses.items()}
    assert steps == {
        "inverse cloze": 4, "pre-training": 7, "questions made of sentences": 2, "questions": 2,
    }  # fmt: skip
    texts = summary.text
    assert texts["training questions"] + texts["held-out questions"] == 96
    assert max(summary.differences.values()) < 1e-3
    assert len(summary.served) == 8 and all(entry["block_id"] >= 0 for entry in summary.served)
    for picture in (stages.CURVE, realm.RECALL_CURVE):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    index = json.loads((tmp_path / "out" / "model" / "index" / "index.json").read_text())
    assert index["rows"] == texts["blocks"]

    # What it made skips training; a corpus that is too large for it is not exported.
    monkeypatch.setattr(realm, "LARGE", 10)
    again = realm.run(output="again", model="out/model", squad=squad)
    assert again.losses == {} and again.recall == {} and again.served == []
    assert again.exact_match.keys() == summary.exact_match.keys()
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [stages.SUMMARY]


def test_the_realm_demo_asks_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Model:
        def answer(self, questions: list[str], n_best: int) -> list[list[object]]:
            asked.extend(questions)
            return [[]]

    class Terminal:
        def isatty(self) -> bool:
            return True

    lines = iter(["why?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    summary = realm.Summary(0, SMALL)
    demo = realm._Demo(summary, Path(), Console(force_terminal=True, quiet=True))
    demo.model = Model()
    demo.prompt()  # the tests' own input is none
    assert asked == []
    monkeypatch.setattr(sys, "stdin", Terminal())
    demo.prompt()
    assert asked == ["why?"]


def test_questions_are_made_of_sentences(tmp_path: Path) -> None:
    setting = fixtures.make_setting(tmp_path)
    made = [question for _, question in made_questions(setting.corpus, 60)]
    assert len(made) > 48
    text = " ".join(document.text for document in fixtures.documents())
    for question in made:
        [answer] = question.answers
        before, after = question.text.split(" what ") if " what " in question.text else ("", "")
        assert answer in text
        if after:
            assert before in text and after in text and f"{before} {answer}" in text


def test_new_models_start_flat(tmp_path: Path) -> None:
    """The same in both frameworks: texts differ by their words alone."""
    import torch

    from pt_models import RealmEmbedder
    from pt_models.realm_training import start_flat
    from tf_models import TFRealmEmbedder
    from tf_models.realm_training import start_flat as tf_start_flat

    setting = fixtures.make_setting(tmp_path)
    model = RealmEmbedder(fixtures.make_config(setting)).eval()
    model.save_pretrained(tmp_path / "new")
    twin = TFRealmEmbedder.from_pretrained(tmp_path / "new")
    start_flat(model)
    tf_start_flat(twin)
    batch = {"input_ids": torch.tensor([[2, 9, 8, 7, 3], [2, 7, 9, 8, 3]])}
    with torch.no_grad():
        ours = model(**batch, token_type_ids=torch.tensor([[0] * 5, [0, 1, 1, 1, 1]]))
    assert torch.allclose(*ours.projected_score, atol=1e-5)
    assert float(ours.projected_score[0].square().sum()) == pytest.approx(12**0.5, rel=1e-3)
    theirs = twin({name: value.numpy() for name, value in batch.items()})
    np.testing.assert_allclose(theirs.projected_score, ours.projected_score, atol=1e-5)

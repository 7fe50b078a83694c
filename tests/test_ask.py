"""Questions and answers that ship, scores, search by words, `zoo ask`, and the served model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_fixtures as fixtures
from rich.console import Console
from typer.testing import CliRunner

from converters import ask, cli, questions
from converters.metrics import answer_exact_match, answer_f1, normalize_answer
from converters.scores import answer_scores
from zoo import stages
from zoo.retrieval import RetrievalError, build_index
from zoo.retrieval.answers import Answer
from zoo.retrieval.bm25 import BM25
from zoo.retrieval.passages import Document
from zoo.retrieval.realm import RealmRetriever
from zoo.training.questions import Question, split_questions

TESTS = Path(__file__).parent


# What ships -------------------------------------------------------------------------------------


def test_shipped_questions() -> None:
    shipped = questions.python_questions()
    assert len(shipped) >= 400
    words = Counter(" ".join(question.text.lower().split()) for question in shipped)
    assert max(words.values()) == 1
    for question in shipped:
        assert question.title and question.answers, question
        assert all(normalize_answer(answer) for answer in question.answers), question
        # Long enough to say what is asked, and no copy of an answer.
        assert len(question.text.split()) >= 4, question
    training, held_out = split_questions(shipped, 0.25)
    assert 0.15 < len(held_out) / len(shipped) < 0.35
    assert not {q.text for q in training} & {q.text for q in held_out}
    assert split_questions(shipped, 0.25) == (training, held_out)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return questions.python_documents()


def test_shipped_questions_are_answered_by_this_python(documents: list[Document]) -> None:
    assert len({document.id for document in documents}) == len(documents) > 1000
    missing = questions.unanswered(questions.python_questions(), (d.text for d in documents))
    assert not missing


def test_shipped_questions_are_no_copies_of_the_text(documents: list[Document]) -> None:
    text = "\n".join(" ".join(document.text.lower().split()) for document in documents)
    for question in questions.python_questions():
        words = question.text.lower().rstrip("?").split()
        runs = (" ".join(words[i : i + 9]) for i in range(len(words) - 8))
        assert not any(run in text for run in runs), question


def test_unanswered_looks_for_whole_words() -> None:
    asked = [Question("a?", ("Go",)), Question("b?", ("f(x)", "one\ntwo"))]
    assert questions.unanswered(asked, ["going on", "One  two"]) == asked[:1]
    assert questions.unanswered(asked, ["let's GO, f( x ) "]) == []


# Scores -----------------------------------------------------------------------------------------


def test_answers_are_compared_after_the_official_normalisation() -> None:
    assert normalize_answer(" The  Cat's  pyjamas, a-b (an apple)! ") == "cats pyjamas ab apple"
    assert normalize_answer("theatre of an anagram") == "theatre of anagram"
    assert normalize_answer("caf\u00e9") == normalize_answer("cafe\u0301")
    assert answer_exact_match("the io.StringIO", ["io.BytesIO", "IO.StringIO!"]) == 100
    assert answer_exact_match("io", ["io.StringIO"]) == 0
    assert answer_f1("two of the words", ["the two words here", "else"]) == pytest.approx(200 / 3)
    assert answer_f1("nothing", ["else"]) == 0
    assert answer_f1("the", [""]) == 100 and answer_f1("x", [""]) == 0
    exact, f1 = answer_scores(["a dog", ""], [Question("?", ("Dog",)), Question("?", ("x",))])
    assert (exact, f1) == (50, 50)


# Search by words --------------------------------------------------------------------------------


def test_bm25_by_its_formula() -> None:
    texts = ["red apples", "red red pear", "green pear tree in winter", ""]
    index = BM25(texts, k1=1.2, b=0.75)
    ids, scores = index.search(["Reds pear?", "the", "unheard"], 3)
    counts = {"red": (1, 2, 0, 0), "pear": (0, 1, 1, 0)}
    lengths = np.array([2, 3, 4, 0])  # without the commonest words
    expected = np.zeros(4)
    for found in counts.values():
        often = np.array(found)
        rarity = np.log(1 + (4 - np.count_nonzero(often) + 0.5) / (np.count_nonzero(often) + 0.5))
        damping = 1.2 * (0.25 + 0.75 * lengths / lengths.mean())
        expected += rarity * often / (often + damping)
    order = np.argsort(-expected, kind="stable")[:3]
    assert ids[0].tolist() == order.tolist()
    np.testing.assert_allclose(scores[0], expected[order], rtol=1e-6)
    assert ids[1:].tolist() == [[-1] * 3] * 2 and (scores[1:] == -np.inf).all()
    assert len(index) == 4


@pytest.mark.parametrize(
    ("given", "message"), [({"k1": -1}, "k1"), ({"b": 2}, "b: "), ({"texts": []}, "texts")]
)
def test_bm25_refuses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM25(**{"texts": ["a b"]} | given)
    with pytest.raises(RetrievalError, match="k: "):
        BM25(["a b"]).search(["a"], 0)


# A small model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> fixtures.Setting:
    return fixtures.make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def folder(setting: fixtures.Setting) -> Path:
    """A model of random weights with its blocks."""
    torch = pytest.importorskip("torch")
    from pt_models import RealmForOpenQA

    torch.manual_seed(0)
    texts = [document.text for document in fixtures.documents()]
    model = RealmForOpenQA(fixtures.make_config(setting), RealmRetriever(texts, setting.tokenizer))
    model.block_emb = torch.randn(model.block_emb.shape)
    model.save_pretrained(setting.folder / "model")
    model.retriever.save_pretrained(setting.folder / "model")
    return setting.folder / "model"


ASKED = [
    *(question.text for question in fixtures.questions()[:4]),
    "",
    "Why \u2603 zebra?",
    "who " * 150,
]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[Answer]]:
    with ask.opened(folder) as model:
        return model.answer(ASKED, n_best=3)


def run(*arguments: Any) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    return result


def test_ask_a_model_with_its_own_blocks(folder: Path, expected: list[list[Answer]]) -> None:
    result = run("ask", "--corpus", folder, "--json", *ASKED[:2])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [entry["question"] for entry in found] == ASKED[:2]
    for entry, answers in zip(found, expected, strict=False):
        assert [Answer(**a)[:1] + Answer(**a)[4:] for a in entry["answers"]] == [
            a[:1] + a[4:] for a in answers
        ]
    result = run("ask", "--model", folder, "--n-best", 1, "--framework", "tf", ASKED[0])
    assert result.exit_code == 0, result.output
    assert ASKED[0] in result.stdout and f"1. {expected[0][0].text}" in result.stdout
    assert "2. " not in result.stdout


@pytest.mark.parametrize("framework", ["pt", "tf"])
def test_stages_of_an_answer(folder: Path, framework: str) -> None:
    with ask.opened(folder, framework=framework) as model, stages.timed() as seconds:
        model.answer(ASKED[:1])
    assert set(seconds) == {"tokenize", "encode", "retrieve", "read"}
    assert all(value > 0 for value in seconds.values())


def test_ask_documents(folder: Path, tmp_path: Path) -> None:
    """A folder of text is cut, embedded and kept; the second time it is only opened."""
    pytest.importorskip("pyarrow")
    notes = tmp_path / "notes"
    notes.mkdir()
    for document in fixtures.documents()[:6]:
        (notes / f"{document.id}.txt").write_text(document.text)
    options = ["--model", folder, "--json", "--block-length", 40, ASKED[0]]
    first = run("ask", "--corpus", notes, "--index", tmp_path / "kept", *options)
    assert first.exit_code == 0, first.output
    [entry] = json.loads(first.stdout)
    assert entry["answers"]
    whole = "\n".join(document.text for document in fixtures.documents()[:6])
    for answer in entry["answers"]:
        assert answer["block"] in whole
        assert answer["block"][answer["start"] : answer["end"]] == answer["text"]
    again = run("ask", "--corpus", notes, "--index", tmp_path / "kept", *options)
    assert again.stdout == first.stdout
    for path in notes.iterdir():
        path.unlink()
    for place in (tmp_path / "kept", tmp_path / "kept" / "documents"):
        assert run("ask", "--corpus", place, *options).stdout == first.stdout

    # Another embedder's vectors say nothing.
    from pt_models import RealmForOpenQA

    other = RealmForOpenQA.from_pretrained(folder)
    other.embedder.cls.dense.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    other.retriever.tokenizer.save_pretrained(tmp_path / "other")
    options[1] = tmp_path / "other"
    result = run("ask", "--corpus", tmp_path / "kept", *options)
    assert "another embedder" in str(result.exception)
    result = run("ask", "--model", tmp_path / "other", "why?")
    assert "block_records.npy" in str(result.exception)


def test_blocks_of_a_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no folder is asked for on the hub, its blocks too."""
    from pt_models import RealmForOpenQA

    asked: list[str] = []
    model = RealmForOpenQA.from_pretrained(folder)
    blocks, model.retriever = model.retriever, None

    def from_hub(name: str) -> RealmRetriever:
        asked.append(name)
        return blocks

    monkeypatch.setattr(ask, "_load", lambda name, framework: model)
    monkeypatch.setattr(RealmRetriever, "from_pretrained", from_hub)
    assert ask.open_model("someone/model").retriever is blocks
    assert asked == ["someone/model"]


def test_ask_refuses(folder: Path, tmp_path: Path) -> None:
    assert "--model" in str(run("ask", "--corpus", tmp_path, "why?").exception)
    assert "--json" in str(run("ask", "--corpus", folder, "--json").exception)


def test_answers_are_shown_with_their_evidence() -> None:
    block = "before " * 100 + "the answer is here\nand " + "after " * 100
    start = block.index("here")
    answer = Answer("here", 3.25, 1.25, 2.0, 17, block, start, start + 4)
    console = Console(record=True, width=400, force_terminal=True)
    ask.print_answers("where?", [answer], console)
    styled = console.export_text(styles=True, clear=False)
    shown = console.export_text()
    assert "1. here   3.25 (reader 1.25, block 17 2.00)" in shown
    assert "answer is here and after" in shown and shown.count("…") == 2
    assert "\x1b[1;7mhere" in styled
    ask.print_answers("where?", [], console)
    assert "no answer" in console.export_text()


def test_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([ASKED[0], ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    result = run("ask", "--model", folder)
    assert result.exit_code == 0 and ASKED[0] in result.stdout
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    assert run("ask", "--model", folder).exit_code == 0


def test_evaluate(folder: Path, tmp_path: Path) -> None:
    asked = fixtures.questions()[:12]
    file = tmp_path / "asked.jsonl"
    lines = (json.dumps({"question": q.text, "answer": list(q.answers)}) for q in asked)
    file.write_text("\n".join(lines))
    with ask.opened(folder) as model:
        given = model.answer([q.text for q in asked], n_best=1)
        exact, f1 = answer_scores([a[0].text for a in given], asked)
        rows = ask.retrieved(model, [q.text for q in asked], 20)
        texts = [document.text for document in fixtures.documents()]
        right = [
            [q.answers[0] in texts[r] for r in row] for q, row in zip(asked, rows, strict=True)
        ]
    for framework in ("pt", "tf"):
        result = run(
            "evaluate", "realm", "--model", folder, "--questions", file, "--json",
            "--framework", framework,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        scores = json.loads(result.stdout)
        assert (scores["questions"], scores["exact_match"]) == (12, exact)
        assert scores["f1"] == pytest.approx(f1)
        for k in (1, 5, 20):
            assert scores["recall"][str(k)] == pytest.approx(
                100 * np.mean([any(r[:k]) for r in right])
            )
        assert scores["bm25"]["1"] == 100  # every name is in one block
    result = run("evaluate", "realm", "--model", folder, "--questions", file, "--no-bm25")
    assert result.exit_code == 0 and "BM25" not in result.stdout and "12 questions" in result.stdout
    result = run(
        "evaluate", "realm", "--model", folder, "--questions", file, "--held-out", 0.5, "--json"
    )
    assert json.loads(result.stdout)["questions"] == len(split_questions(asked, 0.5)[1])


def test_words_find_blocks_for_the_same_reader(folder: Path) -> None:
    with ask.opened(folder) as model:
        asked = fixtures.questions()[5]
        [[answer]] = ask.by_words(model, [asked.text])
        assert model.index is None
        rows, _ = BM25(model.retriever.texts(np.arange(48))).search([asked.text], 3)
        assert answer.block_id in rows[0]


# The served model -------------------------------------------------------------------------------


def served(version: Path, scratch: Path, calls: dict[str, Any], loader: str) -> dict[str, Any]:
    """What signatures give in a fresh process without our packages."""
    return served_all({"model": request(version, calls, loader)}, scratch)["model"]


def request(version: Path, calls: dict[str, Any], loader: str) -> dict[str, Any]:
    """What `serving_client.py` is to do."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    made: dict[str, Any] = {"folder": str(version), "loaders": [loader], "calls": {}}
    content = SavedModel.FromString((version / "saved_model.pb").read_bytes())
    signatures = content.meta_graphs[0].signature_def
    for name, inputs in calls.items():
        definition = signatures[name]
        made["calls"][name] = {
            "inputs": {
                key: {
                    "values": value,
                    "dtype": definition.inputs[key].dtype,
                    "tensor": definition.inputs[key].name,
                }
                for key, value in inputs.items()
            },
            "outputs": {key: tensor.name for key, tensor in definition.outputs.items()},
        }
    return made


def served_all(requests: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """What several models answer in one process without our packages."""
    (scratch / "request.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, "-I", str(TESTS / "serving_client.py"), str(scratch / "request.json"),
         str(scratch / "answer.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((scratch / "answer.json").read_text())
    return {name: model for models in found.values() for name, model in models.items()}


def assert_answers(found: dict[str, Any], expected: list[list[Answer]], count: int) -> None:
    """That a served model gives a model's answers."""
    for row, answers in enumerate(expected):
        for place in range(count):
            given = [found[name][row][place] for name in
                     ("answers", "block_ids", "evidences", "starts", "ends")]  # fmt: skip
            scores = [found[name][row][place] for name in
                      ("scores", "reader_scores", "retriever_scores")]  # fmt: skip
            if place < len(answers):
                a = answers[place]
                assert given == [a.text, a.block_id, a.block, a.start, a.end], (row, place)
                wanted = [a.score, a.reader_score, a.retriever_score]
                np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
            else:
                assert given == ["", -1, "", -1, -1], (row, place)
        for name in ("answer", "evidence", "score", "block_id"):
            assert found[name][row] == found[name + "s"][row][0]


def test_served_model_answers_as_the_model(
    folder: Path, expected: list[list[Answer]], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow_text")
    result = run("export", folder, tmp_path / "out", "--top-k", 3, "--batch-sizes", "1,2")
    assert result.exit_code == 0, (result.output, result.exception)
    version = tmp_path / "out" / "1"
    assert Path(result.stdout.strip()) == version
    description = json.loads((version / "assets.extra" / "zoo.json").read_text())
    assert description["model"] == "RealmForOpenQA" and description["max_length"] == 112
    signature = description["signatures"]["serving_default"]
    assert signature["inputs"] == {"question": {"dtype": "string", "shape": ["batch"]}}
    assert signature["outputs"]["block_ids"] == {"dtype": "int64", "shape": ["batch", 3]}
    assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    calls = {
        "serving_default": {"question": ASKED},
        "tokens": {
            "input_ids": [[2, 9, 3], [2, 3, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]],
            "token_type_ids": [[0] * 3] * 2,
        },
    }  # fmt: skip
    found = served(version, tmp_path, calls, "session")
    assert_answers(found["serving_default"], expected, 3)
    # The other signature stops at the blocks.
    with ask.opened(folder) as model:
        import torch

        tokens = {name: torch.tensor(x) for name, x in calls["tokens"].items()}
        with torch.no_grad():
            vectors = model.embedder(**tokens).projected_score
            scores, rows = (vectors @ model.block_emb.T).topk(3)
    assert found["tokens"]["block_ids"] == rows.tolist()
    np.testing.assert_allclose(found["tokens"]["retriever_scores"], scores, rtol=1e-4, atol=1e-5)


def test_served_with_scann(folder: Path, tmp_path: Path) -> None:
    """ScaNN's operations find what the index of the folder finds."""
    pytest.importorskip("scann")
    import tensorflow as tf

    from converters.saved_model import export
    from tf_models import TFRealmForOpenQA

    with pytest.raises(ValueError, match="no ScaNN index"):
        export(folder, tmp_path / "none", retrieval="scann", warmup=False)
    model = TFRealmForOpenQA.from_pretrained(folder)
    model.save_pretrained(tmp_path / "model")
    model.retriever.save_pretrained(tmp_path / "model")
    settings = {"score_ah": {"dimensions_per_block": 2}, "reorder": {"reordering_num_neighbors": 8}}
    index = build_index(
        np.array(model.block_emb), kind="scann", settings=settings, leaves=1, reorder=8
    )
    index.save(tmp_path / "model" / "index")
    model.set_index(index)
    expected = model.answer(ASKED[:3], n_best=2)
    version = export(tmp_path / "model", tmp_path / "out", retrieval="scann", top_k=2, warmup=False)
    loaded = tf.saved_model.load(str(version))
    output = loaded.signatures["serving_default"](question=tf.constant(ASKED[:3]))
    found = {name: value.numpy().tolist() for name, value in output.items()}
    for name in ("answers", "evidences", "answer", "evidence"):
        decoded = np.vectorize(lambda text: text.decode(), otypes=[object])(found[name])
        found[name] = decoded.tolist()
    assert_answers(found, expected, 2)


def test_slow_tokenizers_tell_where_answers_stand(
    folder: Path, expected: list[list[Answer]]
) -> None:
    pytest.importorskip("tensorflow_text")
    import tensorflow as tf

    from tf_models import TFRealmForOpenQA
    from tf_models.text_heads import text_head
    from zoo import RealmTokenizer

    model = TFRealmForOpenQA.from_pretrained(folder)
    slow = RealmTokenizer.from_pretrained(folder)
    module = text_head(model, slow, max_length=112, top_k=3, max_answer_length=30)
    found = module(tf.constant(ASKED[:3]))
    for row, answers in enumerate(expected[:3]):
        texts = [text.decode() for text in found["answers"][row].numpy()]
        assert texts == [answer.text for answer in answers]
        assert found["starts"][row].numpy().tolist() == [answer.start for answer in answers]


def test_export_refuses(folder: Path, tmp_path: Path, setting: fixtures.Setting) -> None:
    pytest.importorskip("tensorflow_text")
    from converters.saved_model import export
    from tf_models import TFRealmForOpenQA
    from tf_models.text_heads import text_head

    with pytest.raises(ValueError, match="retrieval: received 'x'"):
        export(folder, tmp_path, retrieval="x")
    with pytest.raises(ValueError, match="max_length"):
        export(folder, tmp_path, max_length=1000)
    options: dict[str, Any] = {"max_length": 112, "top_k": 1, "max_answer_length": 5}
    model = TFRealmForOpenQA(fixtures.make_config(setting))
    with pytest.raises(ValueError, match="block_records.npy"):
        text_head(model, setting.tokenizer, **options)
    model.retriever = RealmRetriever(["one"], setting.tokenizer)
    with pytest.raises(ValueError, match="48 rows, the retriever has 1"):
        text_head(model, setting.tokenizer, **options)
    with pytest.raises(ValueError, match="generates no text"):
        text_head(model, setting.tokenizer, generate={"num_beams": 2}, **options)

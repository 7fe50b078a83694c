"""RAG answers with what each passage has to do with them: in Python, `zoo ask`, one SavedModel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rag_fixtures as fixtures
from rich.console import Console
from test_ask import request, run, served_all

from converters import ask_rag
from zoo import RagRetriever, RagTokenizer, stages
from zoo.retrieval.answers import RagAnswer, RagEvidence, check_options, different, spelled

pytest.importorskip("torch")
TOKEN, SEQUENCE = "RagTokenForGeneration", "RagSequenceForGeneration"
every_head = pytest.mark.parametrize("name", [TOKEN, SEQUENCE])
ASKED = [*fixtures.QUESTIONS, "", "Why \u2603 zebra? It's 'gold'  isn't it", "who " * 60]
SEARCH = {"num_beams": 2, "max_new_tokens": 6}
BEST = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("systems")
    return {name: fixtures.save_system(root / name, name) for name in (TOKEN, SEQUENCE)}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    found = {}
    for name, folder in folders.items():
        with ask_rag.opened(folder) as model:
            found[name] = model
    return found


@pytest.fixture(scope="module")
def expected(models: dict[str, Any]) -> dict[str, list[list[RagAnswer]]]:
    return {name: model.answer(ASKED, n_best=BEST, **SEARCH) for name, model in models.items()}


# Answers ------------------------------------------------------------------------------------------


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max(axis, keepdims=True)).sum(axis, keepdims=True)) - x.max(
        axis, keepdims=True
    )  # fmt: skip


@every_head
def test_probabilities_and_shares_by_brute_force(
    name: str, models: dict[str, Any], expected: dict[str, list[list[RagAnswer]]]
) -> None:
    """Each passage by itself through the generator, and the sum over passages by hand."""
    import torch

    model = models[name]
    retriever = model.retriever
    tokenizer = retriever.generator_tokenizer
    for row in (0, 3):
        encoded = retriever.tokenize_questions(ASKED[row : row + 1], 30)
        ids = {key: torch.from_numpy(x) for key, x in encoded.items()}
        with torch.no_grad():
            found = model.rag.find(ids["input_ids"], ids["attention_mask"])
            sequences = model.generate(**ids, **SEARCH, num_return_sequences=BEST)
        prior = np.exp(log_softmax(found.doc_scores.numpy()[0]))
        texts = tokenizer.batch_decode(sequences, skip_special_tokens=True)
        assert texts[0] == expected[name][row][0].text
        answers = {answer.text: answer for answer in expected[name][row]}
        for text, sequence in zip(texts, sequences.tolist(), strict=True):
            answer = answers.pop(text, None)
            if answer is None:  # one that reads alike came before
                continue
            # Behind the start token and the bos token, and as far as the end token.
            first = 2 if sequence[1] == 0 else 1
            end = sequence.index(2, 1) + 1 if 2 in sequence[1:] else len(sequence)
            tokens = sequence[first:end]
            assert len(answer.tokens) == len(tokens)
            each = []
            for context in range(len(prior)):
                with torch.no_grad():
                    logits = model.generator(
                        input_ids=found.context_input_ids[context : context + 1],
                        attention_mask=found.context_attention_mask[context : context + 1],
                        decoder_input_ids=torch.tensor([sequence[: end - 1]]),
                    ).logits
                probabilities = np.exp(log_softmax(logits.numpy()[0, first - 1 :]))
                each.append(probabilities[range(len(tokens)), tokens])
            by_passage = np.array(each)  # (D, tokens)
            if name == TOKEN:
                joint = prior[:, None] * by_passage
                probability = joint.sum(0).prod()
                per_token = joint / joint.sum(0)
                shares = per_token.mean(1)
                given = [x.shares_per_token for x in answer.passages]
                np.testing.assert_allclose(given, per_token, rtol=1e-4, atol=1e-6)
            else:
                joint = prior * by_passage.prod(1)
                probability, shares = joint.sum(), joint / joint.sum()
                assert all(x.shares_per_token is None for x in answer.passages)
            np.testing.assert_allclose(answer.probability, probability, rtol=1e-3)
            np.testing.assert_allclose(answer.score, np.log(probability), rtol=1e-4)
            np.testing.assert_allclose([x.share for x in answer.passages], shares, atol=1e-5)
            assert 0.01 < shares.max() < 0.9999
            for place, passage in enumerate(answer.passages):
                assert passage.id == found.ids[0, place]
                assert passage.score == pytest.approx(float(found.doc_scores[0, place]), abs=1e-4)
                wanted = fixtures.PASSAGES[passage.id]
                assert (passage.title, passage.text) == (wanted["title"], wanted["text"])


@every_head
def test_both_frameworks_answer_alike(
    name: str, folders: dict[str, Path], expected: dict[str, list[list[RagAnswer]]]
) -> None:
    pytest.importorskip("tensorflow")
    with ask_rag.opened(folders[name], framework="tf") as model:
        found = model.answer(ASKED, n_best=BEST, **SEARCH)
    for ours, theirs in zip(found, expected[name], strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a.text, a.tokens) == (b.text, b.tokens)
            assert a.score == pytest.approx(b.score, abs=1e-4)
            for x, y in zip(a.passages, b.passages, strict=True):
                assert x[:3] == y[:3]
                np.testing.assert_allclose(x[3:5], y[3:5], atol=1e-4)
                if name == TOKEN:
                    np.testing.assert_allclose(x[5], y[5], atol=1e-4)


@every_head
def test_neighbours_and_stages(
    name: str, models: dict[str, Any], expected: dict[str, list[list[RagAnswer]]]
) -> None:
    model = models[name].train()
    with stages.timed() as seconds:
        alone = model.answer(ASKED[1:2], n_best=BEST, n_docs=3, batch_size=1, **SEARCH)
    assert model.training and model.generator.training
    model.eval()
    assert [x.text for x in alone[0]] == [x.text for x in expected[name][1]]
    assert alone[0][0].score == pytest.approx(expected[name][1][0].score, abs=1e-4)
    assert set(seconds) == {"tokenize", "encode", "retrieve", "generate", "weigh"}
    assert all(value > 0 for value in seconds.values())
    # More than there are: all that differ, none twice.
    [many] = model.answer(ASKED[:1], n_best=50, n_docs=1, **SEARCH)
    texts = [answer.text for answer in many]
    assert 1 < len(texts) == len(set(texts)) <= 50
    assert [answer.passages[0].share for answer in many] == [1.0] * len(many)


def test_answer_refuses(models: dict[str, Any]) -> None:
    model = models[TOKEN]
    with pytest.raises(ValueError, match="questions: expected a list"):
        model.answer("who?")
    for name in ("num_return_sequences", "return_dict_in_generate", "output_scores"):
        with pytest.raises(ValueError, match=f"^{name}: "):
            check_options({name: 1})
    with pytest.raises(ValueError, match="n_docs"):
        model.answer(["who?"], n_docs=0)
    retriever = model.retriever
    model.set_retriever(None)
    with pytest.raises(ValueError, match="retriever is None"):
        model.answer(["who?"])
    model.set_retriever(retriever)


def test_words_of_an_answer(models: dict[str, Any]) -> None:
    tokenizer = models[TOKEN].retriever.generator_tokenizer
    ids = tokenizer("the metal\u00fc is", add_special_tokens=False)["input_ids"]
    parts = spelled(tokenizer, [*ids, tokenizer.eos_token_id])
    assert "".join(parts) == "the metal\u00fc is</s>"
    assert parts[-1] == "</s>" and "\u00fc" in parts and "" in parts
    assert different(["b", "a", "b", "c", "d"], 3) == [0, 1, 3] and different(["x", "x"], 2) == [0]


# zoo ask ------------------------------------------------------------------------------------------


def test_ask(
    folders: dict[str, Path],
    expected: dict[str, list[list[RagAnswer]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--num-beams", 2, "--max-new-tokens", 6, "--n-best", BEST]
    result = run("ask", "--model", folders[TOKEN], "--rag", "--json", *options, *ASKED[:2])
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.stdout)
    assert [entry["question"] for entry in found] == ASKED[:2]
    for entry, answers in zip(found, expected[TOKEN], strict=False):
        assert [x["text"] for x in entry["answers"]] == [x.text for x in answers]
        for given, answer in zip(entry["answers"], answers, strict=True):
            assert set(given) == set(RagAnswer._fields)
            for passage, wanted in zip(given["passages"], answer.passages, strict=True):
                assert set(passage) == set(RagEvidence._fields)
                assert passage["shares_per_token"] == pytest.approx(list(wanted[5]), abs=1e-4)
    # The folder says that it is one; its passages are in it.
    lines = iter([ASKED[0], ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    result = run("ask", "--corpus", folders[SEQUENCE], *options, "--n-docs", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    assert ASKED[0] in result.stdout and "probability" in result.stdout
    assert result.stdout.count("passage ") == 2 * BEST


def test_answers_are_shown_with_shares() -> None:
    first = RagEvidence(7, "Gold\x1b[31m", "A metal\n[bold]of old", 1.5, 0.25, (0.05, 0.45))
    second = RagEvidence(8, "", "x" * 500, 0.5, 0.75, (0.95, 0.55))
    answer = RagAnswer(" gold", -0.5, 0.61, (" gold", "</s>"), (first, second))
    console = Console(record=True, width=600, force_terminal=True)
    ask_rag.print_answers("what?", [answer], console)
    styled = console.export_text(styles=True, clear=False)
    shown = console.export_text()
    assert "1. gold   probability 0.61" in shown
    assert shown.index("75%  passage 8") < shown.index("25%  Gold [31m")
    assert "A metal [bold]of old" in shown and "x" * 320 + "\u2026" in shown
    assert "gold 0.95 </s> 0.55" in shown and "\x1b[7mgold" in styled


def test_ask_refuses(folders: dict[str, Path], tmp_path: Path) -> None:
    message = run("ask", "--rag", "--corpus", tmp_path, "why?").exception
    assert "--model" in str(message)
    (tmp_path / "config.json").write_text('{"model_type": "realm"}')
    message = run("ask", "--rag", "--model", tmp_path, "why?").exception
    assert "is no RAG model, its model_type is 'realm'" in str(message)
    message = run("ask", "--model", tmp_path, "--n-docs", 2, "why?").exception
    assert "--n-docs: of RAG models" in str(message)
    message = run("ask", "--model", folders[TOKEN], "--json").exception
    assert "QUESTIONS" in str(message)
    (tmp_path / "config.json").write_text('{"model_type": "rag", "architectures": ["RagModel"]}')
    message = run("ask", "--model", tmp_path, "why?").exception
    assert "'RagModel', expected one of RagToken" in str(message)
    documents = tmp_path / "notes"
    documents.mkdir()
    message = run("ask", "--model", folders[TOKEN], "--corpus", documents, "why?").exception
    assert "context_encoder/" in str(message)


def test_ask_documents(folders: dict[str, Path], tmp_path: Path) -> None:
    """Documents are cut, embedded by the model's context encoder, kept and opened again."""
    pytest.importorskip("pyarrow")
    import shutil

    from pt_models import DPRContextEncoder
    from zoo.tokenizers import DPRContextEncoderTokenizer

    model = shutil.copytree(folders[TOKEN], tmp_path / "model")
    shutil.rmtree(model / "index")
    encoder = DPRContextEncoder(fixtures.rag_config().question_encoder)
    encoder.save_pretrained(model / "context_encoder")
    tokenizer = DPRContextEncoderTokenizer(folders[TOKEN] / "parts" / "vocab.txt")
    tokenizer.save_pretrained(model / "context_encoder")
    notes = tmp_path / "notes"
    notes.mkdir()
    for passage in fixtures.PASSAGES:
        (notes / f"{passage['title'].strip(chr(34))}.txt").write_text(passage["text"])
    options = ["--model", model, "--json", "--n-best", 1, "--max-new-tokens", 4, ASKED[0]]
    first = run("ask", "--corpus", notes, "--index", tmp_path / "kept", *options)
    assert first.exit_code == 0, (first.output, first.exception)
    passages = json.loads(first.stdout)[0]["answers"][0]["passages"]
    assert len({x["text"] for x in passages}) == 3
    assert all("is  a metal" in x["text"] for x in passages)
    shutil.rmtree(notes)
    assert run("ask", "--corpus", tmp_path / "kept", *options).stdout == first.stdout
    # A moved system is still one.
    shutil.move(tmp_path / "kept" / "documents", model / "index")
    model = shutil.move(model, tmp_path / "moved")
    options[1] = model
    assert run("ask", *options).stdout == first.stdout
    # Another context encoder's vectors say nothing.
    encoder.ctx_encoder.bert_model.embeddings.word_embeddings.weight.data += 1
    encoder.save_pretrained(Path(model) / "context_encoder")
    result = run("ask", "--corpus", Path(model) / "index", *options)
    assert "another context encoder" in str(result.exception)


# One SavedModel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_byte_level_bpe_in_the_graph(folders: dict[str, Path], fast: bool) -> None:
    pytest.importorskip("tensorflow_text")
    import tensorflow as tf

    from tf_models.in_graph import TFBartTokenizer
    from zoo.tokenizers import BartTokenizer, BartTokenizerFast

    parts = folders[TOKEN] / "parts"
    files = (parts / "vocab.json", parts / "merges.txt")
    tokenizer = (BartTokenizerFast if fast else BartTokenizer)(*files)
    tokenizer.add_tokens(["<tok>"])
    rng = np.random.default_rng(0)
    letters = list("ab isetmal'\n\t ü漢\U0001f6001.<>\u0301\u2028²½\x1c")
    texts = ["".join(rng.choice(letters, rng.integers(40))) for _ in range(200)]
    texts += ["foo<tok>bar  <tok> x", "<mask> <s> x</s>y", "don't I'll'd \u00a0x \u2003 y", ""]
    layer = TFBartTokenizer.from_tokenizer(tokenizer, padding=False)
    assert layer(tf.constant(texts))["input_ids"].to_list() == tokenizer(texts)["input_ids"]
    rows = [rng.integers(len(tokenizer), size=rng.integers(12)).tolist() for _ in range(200)]
    found = layer.detokenize(tf.ragged.constant(rows, tf.int32, 1)).numpy()
    wanted = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [text.decode() for text in found] == wanted
    again = TFBartTokenizer.from_config(json.loads(json.dumps(layer.get_config())))
    assert again(tf.constant(texts[:9]))["input_ids"].to_list() == tokenizer(texts[:9])["input_ids"]
    with pytest.raises(ValueError, match="add_prefix_space=True cannot be expressed"):
        TFBartTokenizer.from_tokenizer(type(tokenizer)(*files, add_prefix_space=True))


def head(folder: Path, **options: Any) -> Any:
    from tf_models.text_heads import text_head

    with ask_rag.opened(folder, framework="tf") as model:
        sizes = {"max_length": 100, "top_k": 5, "max_answer_length": 30}
        return text_head(model, RagTokenizer.from_pretrained(folder), **{**sizes, **options})


def test_the_generator_reads_the_same_in_the_graph(folders: dict[str, Path]) -> None:
    """Passages and questions are tokenised apart, and make the retriever's tokens together."""
    pytest.importorskip("tensorflow_text")
    import tensorflow as tf

    module = head(folders[TOKEN])
    model = module.model()
    tokens = model.retriever.tokenize_questions(ASKED, 30)
    found = model.rag.find(*(tf.constant(x) for x in tokens.values()))
    asked = module.tokenize(tf.constant(ASKED))
    passages = module.run(asked)
    assert passages["passage_ids"].numpy().tolist() == found.ids.numpy().tolist()
    np.testing.assert_allclose(passages["passage_scores"], found.doc_scores, atol=1e-5)
    contexts = module._contexts(asked["input_ids"], module._rows(passages["passage_ids"]))
    assert (contexts["input_ids"].numpy() == found.context_input_ids.numpy()).all()
    assert (contexts["attention_mask"].numpy() == found.context_attention_mask.numpy()).all()


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both exports answer in a process without our packages."""
    pytest.importorskip("tensorflow_text")
    root = tmp_path_factory.mktemp("served")
    requests = {}
    for name, loader in ((TOKEN, "session"), (SEQUENCE, "object")):
        options = ["--num-beams", 2, "--max-new-tokens", 6, "--num-return-sequences", BEST]
        result = run("export", folders[name], root / name, *options, "--batch-sizes", 1)
        assert result.exit_code == 0, (result.output, result.exception)
        version = Path(result.stdout.strip())
        description = json.loads((version / "assets.extra" / "zoo.json").read_text())
        assert description["model"] == name and description["max_length"] == 100
        signature = description["signatures"]["serving_default"]
        assert signature["inputs"] == {"question": {"dtype": "string", "shape": ["batch"]}}
        assert signature["outputs"]["shares"]["shape"] == ["batch", BEST, 3]
        requests[name] = request(version, {"serving_default": {"question": ASKED}}, loader)
    return served_all(requests, root)


@every_head
def test_served_model_answers_as_the_model(
    name: str, served: dict[str, Any], expected: dict[str, list[list[RagAnswer]]]
) -> None:
    found = served[name]["serving_default"]
    for row, answers in enumerate(expected[name]):
        for place in range(BEST):
            text, shares = found["answers"][row][place], found["shares"][row][place]
            if place >= len(answers):
                assert text == "" and shares == [0.0] * 3
                continue
            answer = answers[place]
            assert text == answer.text
            assert found["scores"][row][place] == pytest.approx(answer.score, abs=1e-4)
            np.testing.assert_allclose(shares, [x.share for x in answer.passages], atol=1e-4)
            if name == TOKEN:
                inside = [token != "" for token in found["tokens"][row][place]]
                given = np.array(found["token_shares"][row][place])[:, inside]
                wanted = [x.shares_per_token for x in answer.passages]
                np.testing.assert_allclose(given, wanted, atol=1e-4)
        passages = answers[0].passages
        assert found["passage_ids"][row] == [x.id for x in passages]
        assert found["titles"][row] == [x.title for x in passages]
        assert found["passages"][row] == [x.text for x in passages]
        scores = [x.score for x in passages]
        np.testing.assert_allclose(found["passage_scores"][row], scores, atol=1e-4)
        assert found["answer"][row] == found["answers"][row][0]
        assert found["score"][row] == found["scores"][row][0]


def test_scann_retrieves_in_the_graph(folders: dict[str, Path], tmp_path: Path) -> None:
    """ScaNN's operations find what the index finds, and the passages keep their numbers."""
    pytest.importorskip("tensorflow_text")
    pytest.importorskip("scann")
    import tensorflow as tf

    from zoo.retrieval import build_index
    from zoo.retrieval.rag import StoredIndex

    with pytest.raises(ValueError, match="no ScaNN index"):
        head(folders[SEQUENCE], retrieval="scann")
    settings = {"score_ah": {"dimensions_per_block": 2}, "reorder": {"reordering_num_neighbors": 8}}
    table = np.concatenate([fixtures.vectors(seed) for seed in range(8)])
    ids = np.arange(len(table)) * 5 + 3
    index = build_index(table, ids, kind="scann", settings=settings, leaves=1, reorder=20)
    texts = {int(id): {"title": f"t{id}", "text": f"passage {id}"} for id in ids}
    with ask_rag.opened(folders[SEQUENCE], framework="tf") as model:
        tokenizer = RagTokenizer.from_pretrained(folders[SEQUENCE])
        retriever = RagRetriever(
            model.config, tokenizer.question_encoder, tokenizer.generator, StoredIndex(index, texts)
        )
        model.set_retriever(retriever)
        from tf_models.text_heads import text_head

        sizes: dict[str, Any] = {"max_length": 100, "top_k": 5, "max_answer_length": 30}
        module = text_head(model, tokenizer, retrieval="scann", **sizes)
        found = module.run(module.tokenize(tf.constant(ASKED)))
        wanted, _ = index.search(found["vectors"].numpy(), 3)
        assert found["passage_ids"].numpy().tolist() == wanted.tolist()
        exact = np.einsum("bh,bdh->bd", found["vectors"], table[(wanted - 3) // 5])
        np.testing.assert_allclose(found["passage_scores"], exact, atol=1e-5)


def test_export_refuses(folders: dict[str, Path]) -> None:
    pytest.importorskip("tensorflow_text")
    from tf_models import TFRagModel
    from tf_models.text_heads import text_head

    with pytest.raises(ValueError, match="retrieval: received 'x'"):
        head(folders[TOKEN], retrieval="x")
    with pytest.raises(ValueError, match="max_length: received 500"):
        head(folders[TOKEN], max_length=500)
    with ask_rag.opened(folders[TOKEN], framework="tf") as model:
        tokenizer = RagTokenizer.from_pretrained(folders[TOKEN])
        sizes: dict[str, Any] = {"max_length": 100, "top_k": 5, "max_answer_length": 30}
        model.config.doc_sep = "//"
        with pytest.raises(ValueError, match="doc_sep: '//' cannot be expressed"):
            text_head(model, tokenizer, **sizes)
        model.config.doc_sep = " // "
        with pytest.raises(ValueError, match="num_return_sequences: received 3, .* 2"):
            text_head(
                model, tokenizer, generate={"num_beams": 2, "num_return_sequences": 3}, **sizes
            )
        model.set_retriever(None)
        with pytest.raises(ValueError, match="folder of searchable documents"):
            text_head(model, tokenizer, **sizes)
        with pytest.raises(ValueError, match="TFRagModel has no text head"):
            text_head(TFRagModel(model.config), tokenizer, **sizes)

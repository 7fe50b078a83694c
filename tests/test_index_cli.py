"""From a corpus to search: vectors in both frameworks, shards that survive a kill, `zoo index`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_readers import write_data_set
from tokenizer_fixtures import paragraphs, vocab_file  # noqa: F401
from typer.testing import CliRunner, Result

from converters import cli, index_cli
from zoo import RemBertConfig, RemBertTokenizerFast
from zoo.retrieval import documents as documents_module
from zoo.retrieval import embedding
from zoo.retrieval.documents import DocumentIndex
from zoo.retrieval.embedding import Embedder, Shards, batches, fingerprint
from zoo.retrieval.passages import Document, PassageError, PassageStore

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[1]
HIDDEN = 32
CONFIG = {
    "vocab_size": 1000, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4,
    "input_embedding_size": 24, "output_embedding_size": 40, "intermediate_size": 48,
    "max_position_embeddings": 128, "initializer_range": 0.3,
}  # fmt: skip
TEXTS = paragraphs()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, vocab_file: Path) -> Path:  # noqa: F811
    """A small RemBERT with its tokenizer."""
    torch = pytest.importorskip("torch")
    import pt_models

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    pt_models.RemBertModel(RemBertConfig(**CONFIG)).save_pretrained(folder)
    RemBertTokenizerFast(
        vocab_file, do_lower_case=False, keep_accents=True, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    import torch

    import pt_models

    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(model, folder)
    torch.manual_seed(1)
    pt_models.RemBertModel(RemBertConfig(**CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pt(model: Path) -> Embedder:
    from pt_models.embedding import TextEmbedder

    return TextEmbedder.from_pretrained(model)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten documents of a few paragraphs each."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        name = f"sub/{number}.txt" if number % 2 else f"{number}.txt"
        (folder / name).write_text("\n\n".join(TEXTS[number * 4 : number * 4 + 4]))
    return folder


# Vectors ------------------------------------------------------------------------------------------


def test_both_frameworks_give_the_same_vectors(model: Path, pt: Embedder) -> None:
    pytest.importorskip("keras")
    from tf_models.embedding import TFTextEmbedder

    tf = TFTextEmbedder.from_pretrained(model, batch_tokens=300)
    titles = ["A title" if number % 2 else "" for number in range(40)]
    expected = pt.embed(TEXTS[:40], titles)
    assert expected.shape == (40, HIDDEN) and expected.dtype == np.float32
    np.testing.assert_allclose(tf.embed(TEXTS[:40], titles), expected, atol=1e-5)
    assert pt.settings() == tf.settings()


def test_vectors_are_the_models_pooled_output(model: Path, pt: Embedder) -> None:
    import torch

    import pt_models
    from zoo import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    opened = pt_models.RemBertModel.from_pretrained(model)
    for title, inputs in (("", (TEXTS[3],)), ("Its title", ("Its title", TEXTS[3]))):
        encoded = tokenizer(*inputs, return_tensors="pt", truncation=True, max_length=128)
        with torch.no_grad():
            expected = opened(**encoded).pooler_output[0].numpy()
        found = pt.embed([TEXTS[5], TEXTS[3]], ["", title])[1]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_does_not_depend_on_the_others(pt: Embedder) -> None:
    together = pt.embed(TEXTS[:30])
    alone = np.concatenate([pt.embed([text]) for text in TEXTS[:30]])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert pt.embed([]).shape == (0, HIDDEN)
    with pytest.raises(ValueError, match="titles: expected 2, got 1"):
        pt.embed(["a", "b"], ["t"])


def test_options_of_an_embedder(model: Path) -> None:
    from pt_models.embedding import TextEmbedder

    short = TextEmbedder.from_pretrained(model, max_length=16, normalize=True, threads=1)
    long = " ".join(TEXTS[:3])
    vectors = short.embed([long, long + " more words at the end"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    for options, message in (
        ({"max_length": 129}, "max_length: received 129, expected at most 128"),
        ({"max_length": 3}, "max_length: received 3"),
        ({"batch_tokens": 0}, "batch_tokens: received 0"),
        ({"encoder": "RemBertNone"}, "rembert has no class RemBertNone"),
        ({"field": "logits"}, "RemBertModel returns last_hidden_state, .* not 'logits'"),
        ({"field": "last_hidden_state"}, r"expected \(batch, dimension\)"),
    ):
        with pytest.raises(ValueError, match=message):
            TextEmbedder.from_pretrained(model, **options)


def test_weights_that_are_missing_are_not_made_up(model: Path, tmp_path: Path) -> None:
    import pt_models
    from pt_models.embedding import TextEmbedder

    folder = tmp_path / "lm"
    shutil.copytree(model, folder)
    pt_models.RemBertForMaskedLM(RemBertConfig(**CONFIG)).save_pretrained(folder)
    with pytest.raises(ValueError, match="no weights for .*pooler.* vectors would be random"):
        TextEmbedder.from_pretrained(folder)


class Stub(Embedder):
    """An encoder of a family to come."""

    outputs: dict[str, tuple[int, ...]] = {"projected_score": (7,), "pooler_output": (5,)}

    def _open(self, module: str, device: str | None, threads: int | None) -> Sequence[str]:
        return ["input_ids", "attention_mask"]

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert set(inputs) == {"input_ids", "attention_mask"}
        rows = len(inputs["input_ids"])
        return {name: np.ones((rows, *shape), np.float32) for name, shape in self.outputs.items()}


def test_the_vector_is_found_by_the_outputs_name(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Stub(model).settings() == {
        "encoder": "RemBertModel", "field": "projected_score", "max_length": 128,
        "normalize": False, "dimension": 7,
    }  # fmt: skip
    assert Stub(model, field="pooler_output").dimension == 5
    monkeypatch.setattr(Stub, "outputs", {"pooler_output": (5,), "last_hidden_state": (3, 5)})
    assert Stub(model).embed(["a", "b"], ["", "t"]).shape == (2, 5)
    monkeypatch.setattr(Stub, "outputs", {"logits": (5,)})
    with pytest.raises(ValueError, match="returns logits, not projected_score or pooler_output"):
        Stub(model)


def test_the_class_of_config_json_unless_it_has_a_head() -> None:
    for names, expected in (
        (["RealmEmbedder"], "RealmEmbedder"),
        (["TFDPRContextEncoder"], "DPRContextEncoder"),
        (["RemBertForMaskedLM"], "RemBertModel"),
        (None, "RemBertModel"),
    ):
        config = RemBertConfig(**CONFIG, architectures=names)
        assert embedding._bare_encoder(config, "RemBertModel") == expected


def test_batches() -> None:
    lengths = np.array([5, 100, 7, 30, 6, 31, 1, 1])
    found = list(batches(lengths, 64))
    assert sorted(np.concatenate(found).tolist()) == list(range(8))
    assert [batch.tolist() for batch in found] == [[1], [5, 3], [2, 4, 0, 6, 7]]
    assert all(len(batch) * lengths[batch].max() <= 64 for batch in found[1:])
    assert max(map(len, batches(np.ones(1000, int), 10**6))) == 256


def test_fingerprint(model: Path, other_model: Path, tmp_path: Path) -> None:
    from converters import convert

    found = fingerprint(model)
    assert len(found) == 64 and fingerprint(model) == found
    assert fingerprint(other_model) != found
    convert(model, tmp_path / "bin", to="bin")
    assert fingerprint(tmp_path / "bin") == found
    shutil.copytree(model, tmp_path / "changed")
    path = tmp_path / "changed" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_name_or_path": "elsewhere", "architectures": ["X"]}))
    assert fingerprint(tmp_path / "changed") == found
    path.write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert fingerprint(tmp_path / "changed") != found


# Shards -------------------------------------------------------------------------------------------


def rows_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids, ids * 2, ids * 3], 1).astype(np.float32)


def test_shards(tmp_path: Path) -> None:
    ids = np.arange(10, 35)
    shards = Shards.create(tmp_path, ids, 3, shard=4, made_with={"a": 1})
    assert shards.count == 7 and not shards.finished().any()
    with pytest.raises(PassageError, match="7 shards are not done"):
        shards.vectors()
    told: list[int] = []
    assert shards.work(rows_of, start=3, progress=told.append) == 7
    assert told[0] == 0 and told[-1] == 7 and told == sorted(told)
    again = Shards(tmp_path)
    assert again.plan["made_with"] == {"a": 1}
    assert np.array_equal(again.vectors(), rows_of(ids))
    assert again.work(rows_of) == 0


def test_shards_go_on_after_an_error(tmp_path: Path) -> None:
    shards = Shards.create(tmp_path, np.arange(20), 3, shard=4)
    asked: list[int] = []

    def fails(ids: np.ndarray) -> np.ndarray:
        if 8 in ids:
            raise RuntimeError("power cut")
        asked.append(int(ids[0]))
        return rows_of(ids)

    with pytest.raises(RuntimeError):
        shards.work(fails)
    assert asked == [0, 4]

    def counted(ids: np.ndarray) -> np.ndarray:
        asked.append(int(ids[0]))
        return rows_of(ids)

    assert Shards(tmp_path).work(counted) == 3
    assert asked == [0, 4, 8, 12, 16]
    assert np.array_equal(shards.vectors(), rows_of(np.arange(20)))


def test_a_shard_in_anothers_hands_is_left_to_it(tmp_path: Path) -> None:
    shards = Shards.create(tmp_path, np.arange(12), 3, shard=4)
    code = (
        "import sys, time, numpy as np\n"
        "from zoo.retrieval.embedding import Shards\n"
        "def slow(ids):\n"
        "    print(ids[0], flush=True); time.sleep(60)\n"
        "Shards(sys.argv[1]).work(slow, start=1)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"4\n"
        did: list[int] = []

        def embed(ids: np.ndarray) -> np.ndarray:
            did.append(int(ids[0]))
            if len(did) == 2:
                process.send_signal(signal.SIGKILL)  # its shard becomes free
            return rows_of(ids)

        assert shards.work(embed, wait=0.05) == 3
        assert did == [0, 8, 4]


def test_wrong_vectors_are_refused(tmp_path: Path) -> None:
    shards = Shards.create(tmp_path, np.arange(5, 9), 3, shard=4)
    with pytest.raises(ValueError, match=r"expected shape \(4, 3\), got \(4, 2\)"):
        shards.work(lambda ids: rows_of(ids)[:, :2])
    with pytest.raises(ValueError, match="vector of passage 6 holds a number that is not finite"):
        shards.work(lambda ids: np.where(ids[:, None] == 6, np.nan, rows_of(ids)))


def test_damaged_shards_are_done_again(tmp_path: Path) -> None:
    shards = Shards.create(tmp_path, np.arange(12), 3, shard=4)
    shards.work(rows_of)
    path = tmp_path / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(PassageError, match="shard 2 is damaged"):
        shards.vectors()
    assert shards.work(rows_of) == 1
    assert np.array_equal(shards.vectors(), rows_of(np.arange(12)))
    path.write_bytes(content[:-1])
    with pytest.raises(PassageError, match=r"vectors\.npy does not fit"):
        Shards(tmp_path)
    with pytest.raises(PassageError, match="no embedding in progress"):
        Shards(tmp_path / "nothing")


# zoo index ----------------------------------------------------------------------------------------


def zoo(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["index", *map(str, arguments)])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def build(corpus: Path, model: Path, out: Path, *more: Any) -> dict[str, Any]:
    arguments = ("build", corpus, "--model", model, "--out", out, "--json", *more)
    return json.loads(zoo(*arguments).stdout)


def found_by(folder: Path, query: str, k: int = 3) -> list[dict[str, Any]]:
    return json.loads(zoo("search", folder, query, "--k", k, "--json").stdout)[0]["passages"]


def vectors_of(folder: Path) -> np.ndarray:
    opened = DocumentIndex(folder)
    return opened.index.vectors(opened.passages.ids())


def test_build_and_search(corpus: Path, model: Path, tmp_path: Path, pt: Embedder) -> None:
    out = tmp_path / "out"
    summary = build(corpus, model, out, "--shard-size", 8, "--block-length", 60)
    store = PassageStore(out / "passages")
    assert summary["read"] == 10 and summary["passages"] == len(store) > 20
    assert summary["shards"] == -(-len(store) // 8) and summary["shards_done_before"] == 0
    assert sorted(os.listdir(out)) == ["documents.json", "documents.lock", "index", "passages"]

    passages = list(store)
    expected = pt.embed_passages(passages)
    np.testing.assert_allclose(vectors_of(out), expected, atol=1e-5)
    query = "the assert statement"
    scores = expected @ pt.embed([query])[0]
    best = np.argsort(-scores)[:3]
    hits = found_by(out, query)
    assert [hit["id"] for hit in hits] == best.tolist()
    assert [hit["text"] for hit in hits] == [passages[i].text for i in best]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[best], atol=1e-3)
    assert hits[0].keys() == {"score", "id", "text", "title", "document", "part", "metadata"}

    printed = zoo("search", out, query, "another query").stdout
    assert passages[best[0]].document in printed and "another query" in printed
    again = build(corpus, model, out, "--block-length", 60)
    assert again["complete_before"] and again["shards"] == 0


def test_keras_builds_the_same(corpus: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("keras")
    build(corpus, model, tmp_path / "pt")
    build(corpus, model, tmp_path / "tf", "--framework", "tf")
    np.testing.assert_allclose(vectors_of(tmp_path / "tf"), vectors_of(tmp_path / "pt"), atol=1e-5)


def test_add_update_remove(corpus: Path, model: Path, tmp_path: Path) -> None:
    out, single = tmp_path / "out", tmp_path / "single.txt"
    build(corpus, model, out)
    before = len(PassageStore(out / "passages"))

    text = "Zebras graze quietly beside the painted river."
    single.write_text(text)
    assert "added 1 documents, 1 passages" in zoo("add", out, single).stdout
    assert found_by(out, text, before + 1)[0]["score"] == pytest.approx(
        max(hit["score"] for hit in found_by(out, text, before + 1))
    )
    there = {hit["document"]: hit for hit in found_by(out, text, before + 5)}
    assert len(there) == 11 and there["single.txt"]["text"] == text
    with pytest.raises(PassageError, match=r"single\.txt: there is a document 'single\.txt'"):
        zoo("add", out, single)

    single.write_text("Other words now.")
    assert "1 new passages in the place of 1" in zoo("update", out, single).stdout
    there = {hit["document"]: hit for hit in found_by(out, text, before + 5)}
    assert there["single.txt"]["text"] == "Other words now." and len(there) == 11

    # A file of the folder that was indexed is known by its path in there.
    (corpus / "sub" / "1.txt").write_text("Short now.")
    zoo("update", out, corpus / "sub" / "1.txt")
    opened = DocumentIndex(out)
    (passage,) = [p for p in opened.passages if p.document == "sub/1.txt"]
    assert passage.text == "Short now." and opened.is_current

    assert "removed 2 documents" in zoo("remove", out, "single.txt", corpus / "0.txt").stdout
    left = {hit["document"] for hit in found_by(out, text, before + 5)}
    assert len(left) == 9 and not left & {"single.txt", "0.txt"}
    with pytest.raises(PassageError, match="no document 'nope'"):
        zoo("remove", out, "nope")
    zoo("add", out, single, "--id", "by/name")
    assert DocumentIndex(out).passages.find("by/name")

    fresh = tmp_path / "fresh"
    np.testing.assert_allclose(
        vectors_of(out),
        DocumentIndex(out, make=index_cli._maker(index_cli.Framework.pt))
        .embedder()
        .embed_passages(list(PassageStore(out / "passages"))),
        atol=1e-5,
    )
    assert not fresh.exists()


def test_a_change_that_was_cut_off_is_made_up_for(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(corpus, model, out)
    # Killed after the passages changed and before the index did.
    store = PassageStore(out / "passages")
    store.add([Document("late", "This came late.")])
    store.remove(["2.txt"])
    result = zoo("search", out, "x", "--k", 1000, "--json")
    assert "a change was interrupted" in result.stderr
    hits = json.loads(result.stdout)[0]["passages"]
    assert not {"2.txt", "late"} & {hit["document"] for hit in hits}
    assert not DocumentIndex(out).is_current
    build(corpus, model, out)
    opened = DocumentIndex(out)
    assert opened.is_current
    assert sorted(opened.index.ids().tolist()) == opened.passages.ids().tolist()
    assert "late" in {hit["document"] for hit in found_by(out, "x", 1000)}


def test_refresh(corpus: Path, model: Path, other_model: Path, tmp_path: Path) -> None:
    out, single = tmp_path / "out", tmp_path / "single.txt"
    build(corpus, model, out)
    single.write_text("Added later.")
    zoo("add", out, single)
    zoo("remove", out, "0.txt")
    before = vectors_of(out)
    zoo("refresh", out)
    opened = DocumentIndex(out)
    assert opened.index.stats()["added"] == opened.index.stats()["removed"] == 0
    np.testing.assert_array_equal(vectors_of(out), before)

    summary = json.loads(
        zoo("refresh", out, "--model", other_model, "--shard-size", 9, "--json").stdout
    )
    assert summary["shards"] == -(-len(opened) // 9)
    from pt_models.embedding import TextEmbedder

    expected = TextEmbedder.from_pretrained(other_model).embed_passages(list(opened.passages))
    np.testing.assert_allclose(vectors_of(out), expected, atol=1e-5)
    np.testing.assert_array_equal(opened.index.vectors(opened.passages.ids()), before)  # still open
    assert found_by(out, "x", 1) and not (out / "embedding").exists()
    with pytest.raises(ValueError, match="query_model: given without model"):
        zoo("refresh", out, "--query-model", model)


def test_a_refresh_that_was_cut_off(
    corpus: Path, model: Path, other_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each of the two points between which index and settings disagree."""
    from zoo.retrieval.local import LocalIndex

    out = tmp_path / "out"
    build(corpus, model, out)
    before = vectors_of(out)
    original = LocalIndex.save

    def killed(self: Any, *arguments: Any) -> None:
        raise KeyboardInterrupt

    def killed_after(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        raise KeyboardInterrupt

    for save, done in ((killed, False), (killed_after, True)):
        with monkeypatch.context() as patch:
            patch.setattr(LocalIndex, "save", save)
            with pytest.raises(KeyboardInterrupt):
                documents_module.refresh(
                    out, make=index_cli._maker(index_cli.Framework.pt), model=other_model
                )
        opened = DocumentIndex(out)
        assert opened.settings["model"]["fingerprint"] == fingerprint(
            other_model if done else model
        )
        assert np.array_equal(vectors_of(out), before) != done
        assert found_by(out, "x", 1)


def test_a_removed_document_is_not_found_by_who_still_has_it_open(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(corpus, model, out)
    opened = DocumentIndex(out)
    before = len(opened)
    zoo("remove", out, "0.txt")
    hits = opened.search_vectors(np.ones((1, HIDDEN), np.float32), before)[0]
    assert len(hits) == before  # as it was when it was opened, texts and all
    opened.passages.refresh()
    hits = opened.search_vectors(np.ones((1, HIDDEN), np.float32), before)[0]
    assert "0.txt" not in {hit.passage.document for hit in hits} and hits


def test_own_vectors(model: Path, tmp_path: Path) -> None:
    vectors = write_data_set(tmp_path / "wiki", 30, 3)
    out = tmp_path / "out"
    arguments = ("build", tmp_path / "wiki", "--out", out, "--own-vectors", "--shard-size", 7)
    zoo(*arguments)
    opened = DocumentIndex(out)
    np.testing.assert_array_equal(opened.index.vectors(opened.passages.ids()), vectors)
    hits = opened.search_vectors(vectors[4:5], 30)[0]
    scores = vectors @ vectors[4]
    assert [hit.passage.id for hit in hits] == np.argsort(-scores).tolist()
    assert hits[0].passage.title == f"title {hits[0].passage.id}"
    with pytest.raises(PassageError, match="no encoder is known"):
        zoo("search", out, "x")
    (tmp_path / "plain.jsonl").write_text('{"text": "no vector"}\n')
    with pytest.raises(PassageError, match=r"plain\.jsonl:1: no vector"):
        zoo("build", tmp_path / "plain.jsonl", "--out", tmp_path / "o", "--own-vectors")


def test_another_encoder_for_queries(
    corpus: Path, model: Path, other_model: Path, tmp_path: Path, pt: Embedder
) -> None:
    from pt_models.embedding import TextEmbedder

    out = tmp_path / "out"
    build(corpus, model, out, "--query-model", other_model)
    expected = vectors_of(out) @ TextEmbedder.from_pretrained(other_model).embed(["a query"])[0]
    assert found_by(out, "a query", 1)[0]["id"] == int(np.argmax(expected))


def test_another_model_is_refused(
    corpus: Path, model: Path, other_model: Path, tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", tmp_path / "model"
    shutil.copytree(model, moved)
    build(corpus, moved, out)
    with pytest.raises(PassageError, match="was begun with model.fingerprint"):
        build(corpus, other_model, out)
    shutil.rmtree(moved)
    shutil.copytree(other_model, moved)
    with pytest.raises(PassageError, match="was made with another model than .* now holds"):
        zoo("search", out, "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--block-length", 50), "was begun with splitting.length 96, not 50"),
        (("--normalize",), "was begun with model.options.normalize None, not True"),
        (("--kind", "exact"), "was begun with index.kind 'auto', not 'exact'"),
    ],
)
def test_another_build_in_the_same_folder(
    corpus: Path, model: Path, tmp_path: Path, arguments: tuple[Any, ...], message: str
) -> None:
    out = tmp_path / "out"
    build(corpus, model, out)
    with pytest.raises(PassageError, match=message):
        build(corpus, model, out, *arguments)


def test_what_build_refuses(corpus: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(PassageError, match="holds something else"):
        build(corpus, model, corpus)
    for arguments, message in (
        (("--block-length", 9, "--no-split"), "--block-length: given with --no-split"),
        (("--columns", "text"), "--columns: received 'text', expected such as"),
        (("--own-vectors", "--block-length", 9), "cannot be split anew"),
        (("--format", "doc"), "format: received 'doc'"),
        (("--kind", "milvus"), "--kind milvus and --uri: one is given without the other"),
        (("--uri", "http://localhost"), "--kind milvus and --uri: one is given without"),
    ):
        with pytest.raises(ValueError, match=message):
            build(corpus, model, tmp_path / "out", *arguments)
    with pytest.raises(ValueError, match="--model: expected a checkpoint"):
        zoo("build", corpus, "--out", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="holds no index of documents"):
        zoo("search", tmp_path, "x")
    assert not (tmp_path / "out" / "documents.json").exists()


def test_errors_in_the_corpus_leave_nothing_half_done(
    corpus: Path, model: Path, tmp_path: Path
) -> None:
    (corpus / "bad.txt").write_bytes(b"fine\n\xff")
    out = tmp_path / "out"
    with pytest.raises(PassageError, match=r"bad\.txt:2: not utf-8"):
        build(corpus, model, out)
    with pytest.raises(PassageError, match="not finished; run the same"):
        zoo("stats", out)
    summary = build(corpus, model, tmp_path / "out2", "--skip-errors")
    assert summary["skipped"] == {"malformed": 1} and summary["read"] == 10


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "converters.cli", "index", *map(str, arguments)]


def test_a_killed_build_goes_on_where_it_was(corpus: Path, model: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = ("--shard-size", 1, "--block-length", 20, "--batch-tokens", 64, "--json")
    call = command("build", corpus, "--model", model, "--out", killed, *arguments)
    with subprocess.Popen(call, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        done = killed / "embedding" / "done"
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if done.exists() and np.frombuffer(done.read_bytes(), "<u4")[::2].sum() >= 3:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    shards = Shards(killed / "embedding")
    before = int(shards.finished().sum())
    assert 3 <= before < shards.count
    with pytest.raises(PassageError, match="not finished"):
        DocumentIndex(killed)

    asked: list[int] = []
    original = Embedder.embed_passages

    def counted(self: Embedder, passages: Any) -> np.ndarray:
        asked.append(len(passages))
        return original(self, passages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "embed_passages", counted)
        summary = build(corpus, model, killed, *arguments[:-1])
    assert summary["shards_done_before"] == before
    assert summary["shards"] == len(asked) == shards.count - before
    assert summary["read"] == 0
    build(corpus, model, whole, *arguments[:-1])
    np.testing.assert_allclose(vectors_of(killed), vectors_of(whole), atol=1e-5)


def test_reading_goes_on_where_it_was(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "READ_AT_ONCE", 3)
    out = tmp_path / "out"
    bad = corpus / "sub" / "9.txt"
    content = bad.read_text()
    (corpus / "sub" / "9.txt").unlink()
    bad.write_bytes(b"\xff" * len(content.encode()))
    times = bad.stat().st_mtime_ns
    with pytest.raises(PassageError, match="not utf-8"):
        build(corpus, model, out)
    assert PassageStore(out / "passages").notes == {"read": 9, "complete": False}
    bad.write_text(content)
    os.utime(bad, ns=(times, times))
    assert build(corpus, model, out)["read"] == 1
    assert {p.document for p in PassageStore(out / "passages")} >= {"0.txt", "sub/9.txt"}


def test_several_processes(corpus: Path, model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    build(corpus, model, alone, "--block-length", 40)
    arguments = ("build", corpus, "--model", model, "--block-length", 40, "--shard-size", 1)

    out = tmp_path / "workers"
    call = command(*arguments, "--out", out, "--workers", 2, "--json")
    summary = json.loads(subprocess.check_output(call, cwd=ROOT, stderr=subprocess.DEVNULL))
    assert summary["failed_workers"] == 0
    np.testing.assert_allclose(vectors_of(out), vectors_of(alone), atol=1e-5)

    out = tmp_path / "ranks"
    processes = [
        subprocess.Popen(
            command(*arguments, "--out", out, "--json"), cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
        )
        for rank in (1, 0)
    ]  # fmt: skip
    summaries = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    passages = len(PassageStore(out / "passages"))
    assert sum(summary["shards"] for summary in summaries) == passages
    np.testing.assert_allclose(vectors_of(out), vectors_of(alone), atol=1e-5)


def test_a_failed_worker_is_told(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cli.sys, "executable", shutil.which("false"))
    summary = build(corpus, model, tmp_path / "out", "--workers", 3, "--shard-size", 5)
    assert summary["failed_workers"] == 2 and len(vectors_of(tmp_path / "out")) > 0


def test_ranks_are_checked(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE: received '2' and '2'"):
        build(corpus, model, tmp_path / "out")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="--workers: torchrun has started"):
        build(corpus, model, tmp_path / "out", "--workers", 2)


def test_two_builds_at_once(corpus: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with documents_module._locked(out):
        with pytest.raises(PassageError, match="by another process"):
            build(corpus, model, out)


def test_stats(corpus: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(corpus, model, out)
    values = json.loads(zoo("stats", out, "--json").stdout)
    assert values["passages"]["documents"] == 10 and values["current"]
    assert values["index"]["rows"] == values["passages"]["rows"]
    assert values["model"]["fingerprint"] == fingerprint(model)
    assert "passages.documents" in zoo("stats", out, "--verify").stdout
    (path,) = (out / "passages").glob("passages-*.arrow")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PassageError, match=f"{path.name} is damaged"):
        zoo("stats", out, "--verify")


def test_a_corpus_that_changed(corpus: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(corpus, model, out)
    (corpus / "more.txt").write_text("more")
    with pytest.raises(PassageError, match="changed since it was begun; .* add and update"):
        build(corpus, model, out)


def test_bench(corpus: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, queries = tmp_path / "out", tmp_path / "queries.jsonl"
    build(corpus, model, out)
    result = json.loads(zoo("bench", out, "--count", 20, "--json").stdout)
    assert [row["leaves"] for row in result["rows"]] == [None, "exact"]
    assert all(row["recall"] == 1 and row["single"] > 0 for row in result["rows"])
    assert (out / "bench.png").read_bytes()[:4] == b"\x89PNG"
    queries.write_text('{"question": "what is it"}\nplain words\n')
    printed = zoo("bench", out, "--queries", queries, "--plot", tmp_path / "p.png").stdout
    assert "2 queries" in printed and "recall@10" in printed
    assert (tmp_path / "p.png").exists()


def test_scann_index(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("scann")
    lines = [{"id": str(n), "text": " ".join(TEXTS[n % 300].split()[: 8 + n % 5]), "title": f"{n}"}
             for n in range(600)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    queries = tmp_path / "q.txt"
    queries.write_text("\n".join(line["text"] for line in lines[::7]))
    build(tmp_path / "a.jsonl", model, out, "--no-split", "--kind", "scann", "--queries", queries)
    result = json.loads(zoo("bench", out, "--queries", queries, "--json").stdout)
    assert result["rows"][0]["recall"] > 0.9 and result["rows"][-1]["leaves"] == "exact"
    zoo("remove", out, "5")
    assert len(DocumentIndex(out)) == 599


def test_milvus(corpus: Path, model: Path, other_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")  # now, as it keeps the stderr that it finds
    from zoo.retrieval import MilvusIndex

    out, plain = tmp_path / "out", tmp_path / "plain"
    build(corpus, model, out, "--kind", "milvus", "--uri", tmp_path / "corpus.db")
    build(corpus, model, plain)
    for folder in (out, plain):
        zoo("remove", folder, "0.txt")
        (tmp_path / "new.txt").write_text(TEXTS[90])
        zoo("add", folder, tmp_path / "new.txt")
    for text in (TEXTS[90], TEXTS[17]):
        assert [hit["id"] for hit in found_by(out, text)] == [
            hit["id"] for hit in found_by(plain, text)
        ]
    np.testing.assert_allclose(vectors_of(out), vectors_of(plain), atol=1e-6)
    with pytest.raises(PassageError, match="Milvus merges changes itself"):
        zoo("refresh", out)
    former = DocumentIndex(out).index
    assert isinstance(former, MilvusIndex)
    assert (
        f"collection {former.collection} is no longer"
        in zoo("refresh", out, "--model", other_model).stdout
    )
    zoo("refresh", plain, "--model", other_model)
    np.testing.assert_allclose(vectors_of(out), vectors_of(plain), atol=1e-6)
    assert zoo("stats", out).stdout.count("milvus")


@pytest.mark.slow
def test_ray(corpus: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    build(corpus, model, tmp_path / "alone", "--block-length", 40)
    arguments = ("--shard-size", 1, "--block-length", 40, "--workers", 2, "--engine", "ray")
    call = command("build", corpus, "--model", model, "--out", tmp_path / "ray", *arguments)
    output = subprocess.check_output([*call, "--json"], cwd=ROOT, stderr=subprocess.DEVNULL)
    assert json.loads(output)["failed_workers"] == 0
    np.testing.assert_allclose(
        vectors_of(tmp_path / "ray"), vectors_of(tmp_path / "alone"), atol=1e-5
    )


def test_ray_is_named_when_it_is_missing(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match="pip install ray"):
        build(corpus, model, tmp_path / "out", "--workers", 2, "--engine", "ray")

"""RAG: retriever, marginal likelihoods written out, generation against brute force, training."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import make_weight, numbers
from frameworks import KERAS, TORCH, Framework, flat
from rag_fixtures import (
    DIMENSION,
    PASSAGES,
    QUESTIONS,
    ExactIndex,
    rag_config,
    retriever,
    save_tokenizers,
    vectors,
)

from zoo import (
    AutoConfig,
    AutoTokenizer,
    BartConfig,
    DPRConfig,
    RagConfig,
    RagRetriever,
    RagTokenizer,
    RemBertConfig,
)
from zoo.outputs import RetrievAugLMMarginOutput, RetrievAugLMOutput

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
HEADS = ("RagSequenceForGeneration", "RagTokenForGeneration")
every_head = pytest.mark.parametrize("name", HEADS)
BATCH, DOCS, LENGTH, TARGET, VOCAB = 3, 2, 9, 6, 40
SAME = 5e-6


# Models and inputs.


def build(
    framework: Framework, name: str, generator: str = "bart", wide: float = 2.0, **fields: Any
) -> Any:
    """A model whose weights are known by their names, wide enough to have opinions."""
    model = framework.model_class(name)(rag_config(generator, VOCAB, **fields))
    values = {n: wide * make_weight(n, s) for n, s in framework.shapes(model).items()}
    values |= {alias: values[source] for alias, source in model.tied_weights().items()}
    framework.set_weights(model, values)
    return model


@cache
def shared(framework: Framework, name: str, generator: str = "bart") -> Any:
    """A model that no test changes."""
    return build(framework, name, generator)


def given(labels: bool = True, batch: int = BATCH, docs: int = DOCS) -> dict[str, np.ndarray]:
    """Passages with their scores, and answers of several lengths."""
    rng = numbers("rag")
    mask = (np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (BATCH * docs, 1))).astype(np.int64)
    found = {
        "context_input_ids": np.where(mask, rng.integers(3, VOCAB, mask.shape), 1),
        "context_attention_mask": mask,
        "doc_scores": rng.standard_normal((BATCH, docs)).astype(np.float32),
    }
    if labels:
        answers = rng.integers(3, VOCAB, (BATCH, TARGET))
        answers[:, 0] = 2
        answers[1, 4:], answers[2, 3:] = 1, -100
        found["labels"] = answers
    rows = {n: batch * (docs if n.startswith("context") else 1) for n in found}
    return {n: x[: rows[n]] for n, x in found.items()}


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(
        -1, keepdims=True
    )  # fmt: skip


def written_out(name: str, logits: np.ndarray, inputs: Any, epsilon: float = 0.0) -> np.ndarray:
    """The loss of each answer as a sum over passages, section 2.1 of the paper."""
    each = log_softmax(logits).reshape(BATCH, DOCS, TARGET, VOCAB)
    passages = log_softmax(inputs["doc_scores"])
    losses = []
    for row, labels in enumerate(inputs["labels"]):
        targets = [(t, y) for t, y in enumerate(labels[1:]) if y not in (1, -100)]
        if name == HEADS[0]:
            whole = [sum(each[row, z, t, y] for t, y in targets) for z in range(DOCS)]
            likelihood = np.log(np.exp(np.array(whole) + passages[row]).sum())
            alike = [each[row, z, [t for t, _ in targets]].sum() for z in range(DOCS)]
            smooth = np.array(alike) + VOCAB * passages[row]
            smooth = smooth.max() + np.log(np.exp(smooth - smooth.max()).sum())
        else:
            tokens = np.log(np.exp(each[row] + passages[row][:, None, None]).sum(0))
            likelihood = sum(tokens[t, y] for t, y in targets)
            smooth = sum(tokens[t].sum() for t, _ in targets)
        losses.append(-(1 - epsilon) * likelihood - epsilon / VOCAB * smooth)
    return np.array(losses)


# The configuration.


def test_published_defaults() -> None:
    config = RagConfig.from_question_encoder_generator_configs(DPRConfig(), BartConfig())
    published = {
        "vocab_size": None, "is_encoder_decoder": True, "prefix": None, "bos_token_id": None,
        "pad_token_id": None, "eos_token_id": None, "decoder_start_token_id": None,
        "title_sep": " / ", "doc_sep": " // ", "n_docs": 5, "max_combined_length": 300,
        "retrieval_vector_size": 768, "retrieval_batch_size": 8, "dataset": "wiki_dpr",
        "dataset_split": "train", "index_name": "compressed", "index_path": None,
        "passages_path": None, "use_dummy_dataset": False, "reduce_loss": False,
        "label_smoothing": 0.0, "do_deduplication": True, "exclude_bos_score": False,
        "do_marginalize": False, "output_retrieved": False, "use_cache": True,
        "forced_eos_token_id": 2, "dataset_revision": None,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    assert config.question_encoder == DPRConfig() and config.generator == BartConfig()


def test_the_configuration_of_two(tmp_path: Path) -> None:
    config = rag_config(n_docs=7, title_sep=" | ")
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path) == config
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["question_encoder"]["model_type"] == "dpr"
    assert saved["generator"]["model_type"] == "bart"
    assert "prefix" not in saved  # a common field at its default
    changed = RagConfig.from_pretrained(tmp_path, n_docs=2)
    assert changed.n_docs == 2 and changed.title_sep == " | "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_docs": 0}, "n_docs: received 0"),
        ({"generator": RemBertConfig()}, "generator: received 'rembert', expected a model with"),
        ({"generator": {"model_type": "bart", "d_model": 7}}, "RagConfig.generator: .*d_model"),
        ({"question_encoder": None}, "question_encoder: received None"),
        ({"label_smoothing": 2}, "label_smoothing: received 2"),
        ({"n_doc": 3}, "did you mean 'n_docs'"),
    ],
)
def test_impossible_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RagConfig(**{"question_encoder": DPRConfig(), "generator": BartConfig(), **change})


# The tokenizer.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's tokenizers and configuration."""
    path = tmp_path_factory.mktemp("rag")
    save_tokenizers(path)
    rag_config().save_pretrained(path)
    return path


def test_two_tokenizers(folder: Path, tmp_path: Path) -> None:
    tokenizer = RagTokenizer.from_pretrained(folder)
    assert type(AutoTokenizer.from_pretrained(folder)) is RagTokenizer
    question, answer = "what is gold", "the metal"
    of_question = tokenizer.question_encoder(question)["input_ids"]
    of_answer = tokenizer.generator(answer)["input_ids"]
    assert tokenizer(question)["input_ids"] == of_question
    assert tokenizer(text_target=answer)["input_ids"] == of_answer
    assert tokenizer(question, text_target=answer)["labels"] == of_answer
    tokenizer._switch_to_target_mode()
    assert tokenizer(answer)["input_ids"] == of_answer
    tokenizer._switch_to_input_mode()
    assert tokenizer(question)["input_ids"] == of_question
    assert tokenizer.decode(of_answer, skip_special_tokens=True) == answer
    assert tokenizer.batch_decode([of_answer], skip_special_tokens=True) == [answer]
    batch = tokenizer.prepare_seq2seq_batch(
        QUESTIONS, ["gold", "tin", "the metal"], max_length=20, return_tensors="np"
    )
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 3
    assert batch["labels"][0, [0, -1]].tolist() == [0, 2] and batch["labels"][1, -1] == 1
    short = tokenizer.prepare_seq2seq_batch(
        [question], [answer], max_length=4, max_target_length=3, padding="max_length"
    )
    assert [len(short[name][0]) for name in ("input_ids", "labels")] == [4, 3]
    assert "labels" not in tokenizer.prepare_seq2seq_batch([question], max_length=9)
    one = tokenizer.prepare_seq2seq_batch(question, answer, max_length=20, return_tensors="np")
    assert one["input_ids"].tolist() == [of_question] and one["labels"].tolist() == [of_answer]
    files = tokenizer.save_pretrained(tmp_path)
    assert all(Path(file).is_file() for file in files)
    again = RagTokenizer.from_pretrained(tmp_path, use_fast=False)
    assert again(question)["input_ids"] == of_question
    with pytest.raises(ValueError, match="(question_encoder|generator)_tokenizer"):
        RagTokenizer.from_pretrained(tmp_path / "generator_tokenizer")


# The retriever.


def test_recorded_retrieval(goldens: Path) -> None:
    place = goldens / "rag" / "retriever"
    hidden = np.load(place / "question_hidden_states.npy")
    for record in json.loads((place / "records.json").read_text()):
        for use_fast in (True, False):
            tokenizer = RagTokenizer.from_pretrained(place, use_fast=use_fast)
            found = RagRetriever(
                RagConfig.from_pretrained(place, **record["config"]),
                tokenizer.question_encoder,
                tokenizer.generator,
                ExactIndex.recorded(place),
            )(
                np.array(record["question_input_ids"]),
                hidden,
                prefix=record["prefix_used"],
                n_docs=record.get("n_docs"),
                return_tensors="np",
            )
            assert sorted(found) == record.get("out_keys", sorted(found))
            for name in ("context_input_ids", "context_attention_mask"):
                np.testing.assert_array_equal(found[name], record[name])
            np.testing.assert_array_equal(found["doc_ids"], record["out_doc_ids"])


def test_what_the_generator_reads(folder: Path) -> None:
    made = retriever(folder, ExactIndex(PASSAGES, vectors()))
    asked = np.eye(2, DIMENSION, dtype=np.float32)
    embeds, ids, docs = made.retrieve(asked, 2)
    np.testing.assert_array_equal(ids, np.argsort(-asked @ vectors().T, 1)[:, :2])
    np.testing.assert_array_equal(embeds, vectors()[ids])
    assert [doc["title"] for doc in docs] == [[PASSAGES[i]["title"] for i in row] for row in ids]
    silver = [{"title": ['"Silver"'], "text": ["Silver is  a metal."]}]
    rows, mask = made.postprocess_docs(silver, ["is it ?"], "say: ", 1)
    text = made.generator_tokenizer.decode(rows[0], skip_special_tokens=True)
    assert text == "say: Silver / Silver is a metal. // is it?"
    assert len(rows[0]) == made.config.max_combined_length and sum(mask[0]) == rows[0].index(1)
    # The questions come back out of their ids, without what pads them.
    tokens = made.question_encoder_tokenizer(QUESTIONS[:2], padding=True, return_tensors="np")
    found = made(tokens["input_ids"], asked, n_docs=1, return_tensors="np")
    for row, question in zip(found["context_input_ids"], QUESTIONS, strict=False):
        text = made.generator_tokenizer.decode(row, skip_special_tokens=True)
        assert text.endswith(f"// {question}".replace(" ?", "?"))
    assert found["retrieved_doc_embeds"].shape == (2, 1, DIMENSION)
    assert isinstance(made(tokens["input_ids"].tolist(), asked.tolist())["doc_ids"], np.ndarray)


@both
def test_tensors_of_either_framework(framework: Framework, folder: Path) -> None:
    made = retriever(folder, ExactIndex(PASSAGES, vectors()))
    tokens = made.question_encoder_tokenizer(QUESTIONS, padding=True, return_tensors=framework.name)
    asked = framework.tensor(np.eye(3, DIMENSION, dtype=np.float32))
    found = made(tokens["input_ids"], asked, return_tensors=framework.name)
    for name, value in found.items():
        assert type(value) is type(asked) or hasattr(value, "numpy"), name
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {
        "context_input_ids": (9, 100),
        "context_attention_mask": (9, 100),
        "retrieved_doc_embeds": (3, 3, DIMENSION),
        "doc_ids": (3, 3),
    }


def test_prefix_and_passages_for_a_context_encoder(folder: Path) -> None:
    config = rag_config()
    config.generator.prefix = "answer: "
    tokenizer = RagTokenizer.from_pretrained(folder)
    made = RagRetriever(
        config, tokenizer.question_encoder, tokenizer.generator, ExactIndex(PASSAGES, vectors())
    )
    tokens = tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="np")
    made.set_ctx_encoder_tokenizer(tokenizer.question_encoder)
    asked = np.eye(3, DIMENSION, dtype=np.float32)
    found = made(tokens["input_ids"], asked, return_tensors="np")
    for row in found["context_input_ids"]:
        assert tokenizer.decode(row, skip_special_tokens=True).startswith("answer: ")
    assert found["tokenized_doc_ids"].shape == found["tokenized_doc_attention_mask"].shape
    best = PASSAGES[int(found["doc_ids"][0, 0])]
    expected = tokenizer.question_encoder(best["title"], best["text"])["input_ids"]
    assert found["tokenized_doc_ids"][0, : len(expected)].tolist() == expected


def test_errors_of_the_retriever(folder: Path) -> None:
    with pytest.raises(ValueError, match="index: expected a DocumentIndex.*list has no is_init"):
        retriever(folder, [])
    with pytest.raises(ValueError, match="config.passages_path: None, expected a folder with"):
        RagRetriever.from_pretrained(folder)
    with pytest.raises(ValueError, match="there is no folder 'wiki_dpr': download the data set"):
        RagRetriever.from_pretrained(folder, index_name="exact")
    with pytest.raises(ValueError, match="config.use_dummy_dataset: True says what to download"):
        RagRetriever.from_pretrained(folder, index_name="exact", use_dummy_dataset=True)
    with pytest.raises(ValueError, match="config.passages_path: there is no folder nowhere"):
        RagRetriever.from_pretrained(folder, passages_path="nowhere")
    made = RagRetriever.from_pretrained(folder, init_retrieval=False)
    with pytest.raises(ValueError, match="config.passages_path"):
        made.retrieve(np.zeros((1, DIMENSION)), 2)
    made = retriever(folder, ExactIndex(PASSAGES, vectors()))
    with pytest.raises(ValueError, match="question_hidden_states: expected shape"):
        made.retrieve(np.zeros(DIMENSION), 2)
    with pytest.raises(ValueError, match="n_docs: received 0"):
        made.retrieve(np.zeros((1, DIMENSION)), 0)
    with pytest.raises(ValueError, match="question_input_ids: expected 2 rows, one for each of"):
        made(np.full((3, 4), 5), np.zeros((2, DIMENSION)))
    made = retriever(folder, ExactIndex(PASSAGES, np.repeat(vectors(), 2, 1)))
    made.index.get_top_docs = lambda asked, n_docs: (  # type: ignore[method-assign]
        np.zeros((len(asked), n_docs), int), made.index.vectors[np.zeros((len(asked), n_docs), int)]
    )  # fmt: skip
    with pytest.raises(ValueError, match="holds vectors of 12 numbers, but those.*have 6"):
        made.retrieve(np.zeros((1, DIMENSION)), 2)


def test_the_published_call_opens_the_folders_own_index(folder: Path, tmp_path: Path) -> None:
    """What says which data set to download does not keep a checkpoint's own passages away."""
    published = {"index_name": "exact", "use_dummy_dataset": True}
    place = write_dataset(tmp_path / "wiki")
    assert_finds(RagRetriever.from_pretrained(folder, dataset=str(place), **published))
    shutil.copytree(folder, tmp_path / "system")
    (tmp_path / "wiki.documents").rename(tmp_path / "system" / "index")
    assert_finds(RagRetriever.from_pretrained(tmp_path / "system", **published))
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        RagRetriever.from_pretrained(tmp_path / "system", passages_path="nowhere", **published)


def write_dataset(place: Path, with_vectors: bool = True, order: Any = None) -> Path:
    """Passages as the `datasets` library saves them."""
    pa = pytest.importorskip("pyarrow")
    place.mkdir(parents=True)
    rows = range(len(PASSAGES)) if order is None else order
    columns = {
        "id": [str(i) for i in rows],
        "title": [PASSAGES[i]["title"] for i in rows],
        "text": [PASSAGES[i]["text"] for i in rows],
    }
    if with_vectors:
        columns["embeddings"] = pa.array(
            [vectors()[i].tolist() for i in rows], pa.list_(pa.float32())
        )
    table = pa.table(columns)
    with pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (place / "state.json").write_text(json.dumps(state))
    return place


def assert_finds(made: RagRetriever) -> None:
    asked = numbers("asked").standard_normal((4, DIMENSION)).astype(np.float32)
    embeds, ids, docs = made.retrieve(asked, 3)
    expected = np.argsort(-asked @ vectors().T, 1)[:, :3]
    for row, doc in zip(expected, docs, strict=True):
        assert doc["title"] == [PASSAGES[i]["title"] for i in row]
        assert doc["text"] == [PASSAGES[i]["text"] for i in row]
    np.testing.assert_allclose(embeds, vectors()[expected], 1e-6)


@pytest.mark.parametrize("index_name", ["custom", "exact", "compressed"])
def test_data_sets_are_read_once(index_name: str, folder: Path, tmp_path: Path) -> None:
    place = write_dataset(tmp_path / "wiki")
    options = {"index_name": index_name, "passages_path": str(place)}
    made = RagRetriever.from_pretrained(folder, **options)
    assert_finds(made)
    assert (tmp_path / "wiki.documents" / "documents.json").is_file()
    # From now on the data set is not read any more.
    (place / "data-00000-of-00001.arrow").unlink()
    assert_finds(RagRetriever.from_pretrained(folder, passages_path=tmp_path / "wiki.documents"))
    made.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    assert RagConfig.from_pretrained(tmp_path / "saved").passages_path == str(place)
    if index_name == "exact":
        other = write_dataset(tmp_path / "data" / "train")
        options = {"dataset": str(tmp_path / "data"), "index_name": "exact"}
        options["index_path"] = str(tmp_path / "elsewhere")
        assert_finds(RagRetriever.from_pretrained(folder, **options))
        assert (tmp_path / "elsewhere" / "documents.json").is_file() and other.is_dir()
        # What was given as an index is found again where its folder still is.
        made = RagRetriever.from_pretrained(folder, index=str(tmp_path / "elsewhere"))
        made.save_pretrained(tmp_path / "again")
        assert_finds(RagRetriever.from_pretrained(tmp_path / "again"))
    with pytest.raises(ValueError, match="vectors of 6 numbers.*retrieval_vector_size is 9"):
        RagRetriever.from_pretrained(
            folder, passages_path=tmp_path / "wiki.documents", retrieval_vector_size=9
        )


def test_vectors_out_of_a_faiss_index(folder: Path, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    place = write_dataset(tmp_path / "wiki", with_vectors=False)
    with pytest.raises(ValueError, match="has no vectors .* name its faiss index"):
        RagRetriever.from_pretrained(folder, passages_path=str(place))
    index = faiss.IndexHNSWFlat(DIMENSION, 8, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors())
    path = tmp_path / "wiki.faiss"
    faiss.write_index(index, str(path))
    options = {"passages_path": str(place), "index_path": str(path)}
    assert_finds(RagRetriever.from_pretrained(folder, **options))
    path.write_bytes(b"no index")
    with pytest.raises(ValueError, match="wiki.faiss is no index of faiss"):
        RagRetriever.from_pretrained(
            folder, index_path=str(path), passages_path=str(write_dataset(tmp_path / "o", False))
        )


@pytest.mark.parametrize("pickled", [True, False])
def test_what_the_papers_authors_released(pickled: bool, folder: Path, tmp_path: Path) -> None:
    """A faiss index over vectors with one number more, ids of its rows, and the passages."""
    faiss = pytest.importorskip("faiss")
    order = [3, 1, 4, 0, 5, 8, 2, 6, 7]
    longer = np.concatenate([vectors()[order], np.ones((9, 1), np.float32)], 1)
    index = faiss.IndexHNSWFlat(DIMENSION + 1, 8)
    index.add(longer)
    name = "hf_bert_base.hnswSQ8_correct_phi_128.c_index"
    faiss.write_index(index, str(tmp_path / f"{name}.index.dpr"))
    (tmp_path / f"{name}.index_meta.dpr").write_bytes(pickle.dumps([str(i) for i in order]))
    if pickled:
        rows = {str(i): (x["text"], x["title"]) for i, x in enumerate(PASSAGES)}
        (tmp_path / "psgs_w100.tsv.pkl").write_bytes(pickle.dumps(rows))
    else:
        texts = [[quoted(x[name]) for name in ("text", "title")] for x in PASSAGES]
        lines = ["\t".join([str(i), *row]) for i, row in enumerate(texts)]
        (tmp_path / "psgs_w100.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    options = {"index_name": "legacy", "passages_path": str(tmp_path)}
    made = RagRetriever.from_pretrained(folder, index_path=str(tmp_path / "new"), **options)
    assert_finds(made)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return (print, ("it ran",))


def test_no_pickle_is_executed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    name = "hf_bert_base.hnswSQ8_correct_phi_128.c_index"
    (tmp_path / f"{name}.index_meta.dpr").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match="not a pickle of plain values: it wants to call builtins"):
        RagRetriever.from_pretrained(folder, index_name="legacy", passages_path=str(tmp_path))
    assert "it ran" not in capsys.readouterr().out


# The models.


@both
@every_head
@pytest.mark.parametrize("generator", ["bart", "t5"])
def test_losses_as_written_out(framework: Framework, name: str, generator: str) -> None:
    model = shared(framework, name, generator)
    inputs = given()
    if generator == "t5":  # whose padding is 0
        inputs["labels"] = np.where(inputs["labels"] == 1, 0, inputs["labels"])
    got = framework.outputs(model, inputs, n_docs=DOCS)
    assert set(got) == {"loss", "logits", "doc_scores", "generator_enc_last_hidden_state"}
    inputs["labels"] = np.where(inputs["labels"] == 0, 1, inputs["labels"])
    expected = written_out(name, got["logits"], inputs)
    np.testing.assert_allclose(got["loss"], expected, 1e-5)


@both
@every_head
def test_smoothing_and_sums(framework: Framework, name: str) -> None:
    model = build(framework, name, label_smoothing=0.2)
    inputs = given()
    each = framework.outputs(model, inputs, n_docs=DOCS)
    np.testing.assert_allclose(each["loss"], written_out(name, each["logits"], inputs, 0.2), 1e-5)
    summed = framework.outputs(model, inputs, n_docs=DOCS, reduce_loss=True)["loss"]
    np.testing.assert_allclose(summed, each["loss"].sum(), 1e-5)
    reduced = build(framework, name, label_smoothing=0.2, reduce_loss=True)
    np.testing.assert_allclose(framework.outputs(reduced, inputs, n_docs=DOCS)["loss"], summed)


@both
def test_without_the_score_of_bos(framework: Framework) -> None:
    """Rows that begin with the bos token leave it out; the others are as they were."""
    model, inputs = shared(framework, HEADS[0]), given()
    inputs["labels"][:2, 1] = 0
    plain = framework.outputs(model, inputs, n_docs=DOCS)
    got = framework.outputs(model, inputs, n_docs=DOCS, exclude_bos_score=True)["loss"]
    each = log_softmax(plain["logits"]).reshape(BATCH, DOCS, TARGET, VOCAB)
    without = np.zeros_like(plain["logits"].reshape(each.shape))
    without[:] = plain["logits"].reshape(each.shape)
    without[:2, :, 0] = 1e4 * (np.arange(VOCAB) == 0)  # as if it were certain
    expected = written_out(HEADS[0], without.reshape(plain["logits"].shape), inputs)
    np.testing.assert_allclose(got, expected, 1e-5)
    assert got[2] == plain["loss"][2] and (got[:2] < plain["loss"][:2]).all()


@both
def test_marginal_logits(framework: Framework) -> None:
    model, inputs = shared(framework, HEADS[1]), given()
    plain = framework.outputs(model, inputs, n_docs=DOCS)
    got = framework.outputs(model, inputs, n_docs=DOCS, do_marginalize=True)
    assert got["logits"].shape == (BATCH, TARGET, VOCAB)
    each = np.exp(log_softmax(plain["logits"])).reshape(BATCH, DOCS, TARGET, VOCAB)
    weights = np.exp(log_softmax(inputs["doc_scores"]))[..., None, None]
    np.testing.assert_allclose(np.exp(got["logits"]), (each * weights).sum(1), 1e-4, 1e-6)
    np.testing.assert_array_equal(got["loss"], plain["loss"])


@pytest.mark.parametrize("name", [*HEADS, "RagModel"])
@pytest.mark.parametrize("generator", ["bart", "t5"])
def test_frameworks_agree(name: str, generator: str, tmp_path: Path) -> None:
    """Weights, an untied generator's too, go over through the same file."""
    model = build(TORCH, name, generator, wide=1.0)
    model.save_pretrained(tmp_path)
    keras, info = KERAS.model_class(name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    inputs = given()
    if name == "RagModel":
        inputs["decoder_input_ids"] = np.maximum(inputs.pop("labels"), 1)[:, :4]
    expected = TORCH.outputs(model, inputs, n_docs=DOCS, output_hidden_states=True)
    got = KERAS.outputs(keras, inputs, n_docs=DOCS, output_hidden_states=True)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(got[key] / scale, value / scale, 2e-5, 2e-5, err_msg=key)
    keras.save_pretrained(tmp_path / "again")
    files = [place / "model.safetensors" for place in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    if name != "RagModel":
        sums = {"n_docs": DOCS, "reduce_loss": True}
        _, expected = TORCH.gradients(model, inputs, **sums)
        _, got = KERAS.gradients(keras, inputs, **sums)
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            floor = 1e-4 * max(np.abs(x).max() for x in expected.values())
            np.testing.assert_allclose(got[key], value, 1e-3, floor, err_msg=key)


@both
def test_fields_and_tuples(framework: Framework) -> None:
    model, inputs = shared(framework, HEADS[1]), given()
    output = framework.call(model, inputs, n_docs=DOCS, output_attentions=True)
    assert type(output) is RetrievAugLMMarginOutput
    for field in ("generator_enc_attentions", "generator_dec_attentions"):
        assert output[field][0].shape[0] == BATCH * DOCS
    assert output.generator_cross_attentions[0].shape[-2:] == (TARGET, LENGTH)
    plain = framework.call(model, inputs, n_docs=DOCS, output_attentions=True, return_dict=False)
    assert type(plain) is tuple
    assert flat(plain).keys() == flat(output.to_tuple()).keys()
    inputs["decoder_input_ids"] = np.maximum(inputs.pop("labels"), 1)
    bare = framework.call(model.rag, inputs, n_docs=DOCS)
    assert type(bare) is RetrievAugLMOutput
    assert len(bare.past_key_values) == 2
    assert framework.call(model.rag, inputs, n_docs=DOCS, use_cache=False).past_key_values is None


@both
def test_the_whole_configuration_decides(framework: Framework) -> None:
    model, inputs = build(framework, HEADS[1], output_hidden_states=True), given()
    assert len(framework.call(model, inputs, n_docs=DOCS).generator_dec_hidden_states) == 3
    bare = framework.call(model, inputs, n_docs=DOCS, output_hidden_states=False)
    assert "generator_dec_hidden_states" not in bare
    model.config.generator.pad_token_id = None
    with pytest.raises(ValueError, match="config.pad_token_id: expected a token, here or in"):
        framework.call(model, inputs, n_docs=DOCS)


@both
def test_a_cache_changes_nothing(framework: Framework) -> None:
    model, inputs = shared(framework, HEADS[1]), given()
    ids = np.maximum(inputs.pop("labels"), 1)
    whole = framework.outputs(model, inputs | {"decoder_input_ids": ids}, n_docs=DOCS)["logits"]
    first = framework.call(model, inputs | {"decoder_input_ids": ids[:, :4]}, n_docs=DOCS)
    rest = {n: inputs[n] for n in ("doc_scores", "context_attention_mask")}
    second = framework.call(
        model,
        rest | {"decoder_input_ids": ids[:, 4:]},
        n_docs=DOCS,
        past_key_values=first.past_key_values,
        encoder_outputs=(first.generator_enc_last_hidden_state,),
    )
    got = np.concatenate([np.array(first.logits), np.array(second.logits)], 1)
    np.testing.assert_allclose(got, whole, 1e-5, 1e-5 * np.abs(whole).max())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "scores": ({"doc_scores": None}, "doc_scores: expected it, or a retriever that finds"),
    "contexts": ({"context_input_ids": None}, "context_input_ids: expected it, or a retriever"),
    "mask": ({"context_attention_mask": None}, "context_attention_mask: expected it, or"),
    "shape": ({"doc_scores": (BATCH, DOCS + 1)}, r"doc_scores: expected shape \(any, 2\)"),
    "rows": ({"context_input_ids": (5, LENGTH)}, r"context_input_ids: expected shape \(6, any\)"),
    "short": (
        {"context_attention_mask": (6, LENGTH - 1)},
        r"context_attention_mask: expected shape \(6, 9\), got \(6, 8\)",
    ),
    "answers": ({"labels": (4, 5)}, r"decoder_input_ids \(the labels\): expected shape \(3, any\)"),
    "two": ({"decoder_input_ids": (3, 5)}, r"labels: expected shape \(3, 5\), got \(3, 6\)"),
}


@both
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_inputs_are_named(framework: Framework, wrong: str) -> None:
    changes, message = WRONG[wrong]
    inputs = given()
    for name, shape in changes.items():
        if shape is None:
            del inputs[name]
        else:
            inputs[name] = np.ones(shape, inputs.get(name, inputs["labels"]).dtype)
    with pytest.raises(ValueError, match=message):
        framework.call(shared(framework, HEADS[0]), inputs, n_docs=DOCS)
    if wrong == "short":  # nothing is cut off in silence
        del inputs["labels"]
        with pytest.raises(ValueError, match=message):
            generate(framework, shared(framework, HEADS[0]), inputs, n_docs=DOCS, max_length=4)


@both
@every_head
def test_an_answer_of_one_token_is_one_of_padding(framework: Framework, name: str) -> None:
    model, inputs = shared(framework, name), given()
    inputs["labels"][:, 1:] = 1
    padded = framework.outputs(model, inputs, n_docs=DOCS)["loss"]
    inputs["labels"] = inputs["labels"][:, :1]
    np.testing.assert_allclose(framework.outputs(model, inputs, n_docs=DOCS)["loss"], padded, 1e-6)


@both
def test_joining_parts(framework: Framework, tmp_path: Path) -> None:
    config = rag_config(vocab=VOCAB)
    question_encoder = framework.model_class("DPRQuestionEncoder")(config.question_encoder)
    generator = framework.model_class("BartForConditionalGeneration")(config.generator)
    for model, name in ((question_encoder, "question"), (generator, "generator")):
        model.save_pretrained(tmp_path / name)
    places = (tmp_path / "question", tmp_path / "generator")
    kind = framework.model_class(HEADS[1])
    joined = kind.from_pretrained_question_encoder_generator(
        *places, n_docs=DOCS, generator_dropout=0.3
    )
    assert joined.config.n_docs == DOCS and joined.config.generator.dropout == 0.3
    assert joined.generator.config is joined.config.generator
    weights = framework.weights(joined)
    for part, model in (("question_encoder", question_encoder), ("generator", generator)):
        for name, value in framework.weights(model).items():
            np.testing.assert_array_equal(weights[f"rag.{part}.{name}"], value)
    mixed = kind.from_pretrained_question_encoder_generator(
        places[0], generator_model=generator, config=config
    )
    assert mixed.generator is generator
    made = kind(question_encoder=question_encoder, generator=generator)
    assert made.question_encoder is question_encoder and made.config.n_docs == 5
    with pytest.raises(ValueError, match="generator_model: given together with generator_pre"):
        kind.from_pretrained_question_encoder_generator(*places, generator_model=generator)
    with pytest.raises(ValueError, match="expected a config, or both a question_encoder"):
        kind(question_encoder=question_encoder)
    with pytest.raises(ValueError, match="generator: expected a model with encoder, decoder"):
        kind(question_encoder=question_encoder, generator=question_encoder)


@both
def test_a_bare_model_opens_a_heads_file_and_back(framework: Framework, tmp_path: Path) -> None:
    model = build(framework, HEADS[0])
    model.save_pretrained(tmp_path)
    bare, info = framework.model_class("RagModel").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    weights = framework.weights(model)
    assert all((weights[f"rag.{n}"] == x).all() for n, x in framework.weights(bare).items())
    bare.save_pretrained(tmp_path / "bare")
    back = framework.model_class(HEADS[1]).from_pretrained(tmp_path / "bare")
    assert all((weights[n] == x).all() for n, x in framework.weights(back).items())


@both
def test_resizing_and_recomputing(framework: Framework) -> None:
    model, inputs = build(framework, HEADS[1]), given()
    loss, expected = framework.gradients(model, inputs, n_docs=DOCS, reduce_loss=True)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again, got = framework.gradients(model, inputs, n_docs=DOCS, reduce_loss=True)
    np.testing.assert_allclose(again, loss, 1e-5)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, 1e-4, 1e-5, err_msg=key)
    model.gradient_checkpointing_disable()
    model.resize_token_embeddings(VOCAB + 3)
    assert model.config.generator.vocab_size == VOCAB + 3
    got = framework.outputs(model, inputs, n_docs=DOCS)["logits"]
    assert got.shape[-1] == VOCAB + 3


# Generation.


def generate(framework: Framework, model: Any, inputs: Any, **options: Any) -> np.ndarray:
    tensors = {n: framework.tensor(x) for n, x in inputs.items()}
    return model.generate(**tensors, **options).numpy()


@both
@pytest.mark.parametrize("generator", ["bart", "t5"])
def test_greedy_search_over_the_sum(framework: Framework, generator: str) -> None:
    """Each token is the one that calls of the model find most likely over all passages."""
    model, inputs = shared(framework, HEADS[1], generator), given(labels=False)
    options = {"max_length": 7, "forced_eos_token_id": None, "eos_token_id": None}
    got = generate(framework, model, inputs, n_docs=DOCS, pad_token_id=None, **options)
    ids = np.full((BATCH, 1), 2 if generator == "bart" else 0)
    for _ in range(6):
        more = inputs | {"decoder_input_ids": ids}
        scores = framework.outputs(model, more, n_docs=DOCS, do_marginalize=True)["logits"]
        ids = np.concatenate([ids, scores[:, -1].argmax(-1)[:, None]], 1)
    np.testing.assert_array_equal(got, ids)


@both
def test_beams_over_the_sum(framework: Framework) -> None:
    """As many beams as there are words find the likeliest text of two tokens."""
    model, inputs = shared(framework, HEADS[1]), given(labels=False, batch=1)
    got = generate(
        framework, model, inputs, n_docs=DOCS, num_beams=VOCAB, max_length=3, eos_token_id=None,
        forced_eos_token_id=None, pad_token_id=1, num_return_sequences=5,
    )  # fmt: skip
    first = framework.outputs(
        model, inputs | {"decoder_input_ids": np.array([[2]])}, n_docs=DOCS, do_marginalize=True
    )["logits"][0, 0]
    whole = {n: np.repeat(x[None], VOCAB, 0).reshape(-1, *x.shape[1:]) for n, x in inputs.items()}
    pairs = np.stack([np.full(VOCAB, 2), np.arange(VOCAB)], 1)
    second = framework.outputs(
        model, whole | {"decoder_input_ids": pairs}, n_docs=DOCS, do_marginalize=True
    )["logits"][:, 1]
    sums = first[:, None] + second
    best = np.argsort(-sums.ravel())[:5]
    expected = np.stack([np.full(5, 2), best // VOCAB, best % VOCAB], 1)
    np.testing.assert_array_equal(got, expected)


def brute_force(framework: Framework, model: Any, inputs: Any, beams: int, unique: bool) -> Any:
    """Thorough decoding (section 2.5), question by question, with nothing but calls."""
    found = []
    for row in range(BATCH):
        passages = slice(row * DOCS, (row + 1) * DOCS)
        own = {n: x[passages] for n, x in inputs.items() if n.startswith("context")}
        answers = model.generator.generate(
            framework.tensor(own["context_input_ids"]),
            attention_mask=framework.tensor(own["context_attention_mask"]),
            num_beams=beams, num_return_sequences=beams, max_length=8,
        ).numpy()  # fmt: skip
        if unique:
            answers = np.array(list(dict.fromkeys(map(tuple, answers.tolist()))))
        losses = []
        for answer in answers:
            scored = own | {"doc_scores": inputs["doc_scores"][row : row + 1],
                            "labels": answer[None]}  # fmt: skip
            loss = framework.outputs(model, scored, n_docs=DOCS, exclude_bos_score=True)["loss"]
            losses.append(float(loss[0]))
        order = np.argsort(losses, kind="stable")
        found.append([[t for t in answers[i].tolist() if t > 1] for i in order])
    return found


@both
@pytest.mark.parametrize("generator, unique", [("bart", True), ("t5", False)])
def test_thorough_decoding(
    framework: Framework, generator: str, unique: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = shared(framework, HEADS[0], generator), given(labels=False)
    # Three nodes of the tree of answers at a time.
    monkeypatch.setattr(sys.modules[type(model).__module__], "SCORED_BYTES", 3 * 4 * DOCS * VOCAB)
    monkeypatch.setattr(model.config, "label_smoothing", 0.0 if unique else 0.4)
    options = {"num_beams": 2, "max_length": 8, "n_docs": DOCS, "do_deduplication": unique}
    expected = brute_force(framework, model, inputs, 2, unique)
    got = generate(framework, model, inputs, num_return_sequences=2, **options)
    assert got.shape[0] == 2 * BATCH
    texts = [[t for t in row if t > 1] for row in got.tolist()]
    assert texts == [text for row in expected for text in row[:2]]
    best = generate(framework, model, inputs, **options)
    np.testing.assert_array_equal(best[:, : got.shape[1]], got[::2])


@both
def test_too_few_different_answers(framework: Framework) -> None:
    model, inputs = shared(framework, HEADS[0]), given(labels=False, batch=1)
    inputs["context_input_ids"][1] = inputs["context_input_ids"][0]
    inputs["context_attention_mask"][1] = inputs["context_attention_mask"][0]
    options = {"n_docs": DOCS, "max_length": 6, "num_return_sequences": 2}
    with pytest.raises(ValueError, match="question 0 has 1 different answers"):
        generate(framework, model, inputs, **options)
    got = generate(framework, model, inputs, do_deduplication=False, **options)
    np.testing.assert_array_equal(got[0], got[1])
    with pytest.raises(ValueError, match="question 0 has 2 different answers"):
        generate(framework, model, inputs, do_deduplication=False, **options | {
            "num_return_sequences": 3})  # fmt: skip
    with pytest.raises(ValueError, match="output_scores: RAG-Sequence generates with each"):
        generate(framework, model, inputs, n_docs=DOCS, output_scores=True)


@both
@every_head
def test_an_answer_does_not_depend_on_its_neighbours(framework: Framework, name: str) -> None:
    model, inputs = shared(framework, name), given(labels=False)
    options = {"n_docs": DOCS, "num_beams": 2, "max_length": 9}
    together = generate(framework, model, inputs, **options)
    wider = dict(inputs)
    for column, padding in (("context_input_ids", 1), ("context_attention_mask", 0)):
        wider[column] = np.pad(inputs[column], ((0, 0), (0, 20)), constant_values=padding)
    np.testing.assert_array_equal(generate(framework, model, wider, **options), together)
    for row in range(BATCH):
        alone = {
            n: x[row * DOCS : (row + 1) * DOCS] if n.startswith("context") else x[row : row + 1]
            for n, x in inputs.items()
        }
        got = generate(framework, model, alone, **options)[0]
        assert together[row, : len(got)].tolist() == got.tolist()
        assert set(together[row, len(got) :].tolist()) <= {1}


@both
def test_hooks_and_records(framework: Framework) -> None:
    """What the engine offers is there for RAG-Token too."""
    model, inputs = shared(framework, HEADS[1]), given(labels=False)
    output = model.generate(
        **{n: framework.tensor(x) for n, x in inputs.items()}, n_docs=DOCS, num_beams=2,
        max_length=6, return_dict_in_generate=True, output_scores=True,
        prefix_allowed_tokens_fn=lambda row, ids: list(range(10, 20)),
    )  # fmt: skip
    tokens = np.array(output.sequences)
    assert ((tokens[:, 1:-1] >= 10) & (tokens[:, 1:-1] < 20)).all()
    assert output.scores[0].shape == (BATCH * 2, VOCAB)
    prompt = np.full((BATCH, 2), 2)
    prompt[:, 1] = [5, 6, 7]
    got = generate(
        framework, model, inputs | {"decoder_input_ids": prompt}, n_docs=DOCS, max_length=6
    )
    np.testing.assert_array_equal(got[:, :2], prompt)


# With a retriever.


@pytest.fixture(scope="module")
def checkpoints(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each head with its tokenizers, with the vocabulary of the fixtures."""
    places = {}
    for name in HEADS:
        place = tmp_path_factory.mktemp(name)
        TORCH.model_class(name)(rag_config()).save_pretrained(place)
        RagTokenizer.from_pretrained(folder).save_pretrained(place)
        places[name] = place
    return places


def with_retriever(framework: Framework, place: Path, name: str) -> tuple[Any, Any]:
    made = retriever(place, ExactIndex(PASSAGES, vectors()))
    return framework.model_class(name).from_pretrained(place, retriever=made), made


def questions(framework: Framework, place: Path, labels: bool = True) -> dict[str, Any]:
    tokenizer = RagTokenizer.from_pretrained(place)
    batch = tokenizer(QUESTIONS, padding=True, return_tensors="np")
    found = {n: batch[n] for n in ("input_ids", "attention_mask")}
    if labels:
        answers = tokenizer.generator(["gold", "tin", "the"], padding=True, return_tensors="np")
        found["labels"] = answers["input_ids"]
    return found


@both
@every_head
def test_questions_alone(framework: Framework, name: str, checkpoints: Any) -> None:
    """With a retriever questions are enough; what it found can be given in its place."""
    model, made = with_retriever(framework, checkpoints[name], name)
    inputs = questions(framework, checkpoints[name])
    got = framework.outputs(model, inputs, output_retrieved=True)
    encoder = framework.outputs(
        model.question_encoder, {n: inputs[n] for n in ("input_ids", "attention_mask")}
    )["pooler_output"]
    np.testing.assert_allclose(got["question_encoder_last_hidden_state"], encoder, 1e-5, 1e-5)
    found = made(inputs["input_ids"], encoder, return_tensors="np")
    for field, key in {
        "retrieved_doc_embeds": "retrieved_doc_embeds",
        "retrieved_doc_ids": "doc_ids",
        "context_input_ids": "context_input_ids",
        "context_attention_mask": "context_attention_mask",
    }.items():
        np.testing.assert_array_equal(got[field], found[key])
    scores = np.einsum("bh,bdh->bd", encoder, found["retrieved_doc_embeds"])
    np.testing.assert_allclose(got["doc_scores"], scores, 1e-5, 1e-5)
    plain = framework.outputs(model, inputs)
    assert set(plain) == set(got) - {
        "retrieved_doc_embeds", "retrieved_doc_ids", "context_input_ids", "context_attention_mask"
    }  # fmt: skip
    direct = {n: got[n] for n in ("context_input_ids", "context_attention_mask", "doc_scores")}
    again = framework.outputs(model, direct | {"labels": inputs["labels"]})
    np.testing.assert_allclose(again["loss"], got["loss"], 1e-5)
    asked = questions(framework, checkpoints[name], labels=False)
    # All that a tokenizer gives can be passed on, and reaches the question encoder.
    kinds = {"token_type_ids": np.ones_like(inputs["input_ids"])}
    other = framework.outputs(model, inputs | kinds)["question_encoder_last_hidden_state"]
    assert np.abs(other - encoder).max() > 1e-3
    asked["token_type_ids"] = np.zeros_like(asked["input_ids"])
    options = {"num_beams": 2, "max_length": 7}
    one = generate(framework, model, asked, **options)
    np.testing.assert_array_equal(one, generate(framework, model, direct, **options))
    fewer = generate(framework, model, asked, n_docs=1, **options)
    assert fewer.shape[0] == len(QUESTIONS)
    model.set_retriever(None)
    with pytest.raises(ValueError, match="expected it, or a retriever that finds passages"):
        framework.call(model, inputs)


@both
@every_head
def test_the_question_encoder_learns(framework: Framework, name: str, checkpoints: Any) -> None:
    """Through the passages' probabilities."""
    model, _ = with_retriever(framework, checkpoints[name], name)
    _, gradients = framework.gradients(
        model, questions(framework, checkpoints[name]), reduce_loss=True
    )
    part = "rag.question_encoder.question_encoder.bert_model.encoder.layer.0.output.dense.weight"
    assert np.abs(gradients[part]).max() > 0
    assert np.abs(gradients["rag.generator.model.shared.weight"]).max() > 0


@both
def test_a_context_encoder_learns_too(framework: Framework, checkpoints: Any) -> None:
    place = checkpoints[HEADS[1]]
    model, made = with_retriever(framework, place, HEADS[1])
    ctx_encoder = framework.model_class("DPRContextEncoder")(rag_config().question_encoder)
    model.set_context_encoder_for_training(ctx_encoder)
    inputs = questions(framework, place)
    with pytest.raises(ValueError, match="call retriever.set_ctx_encoder_tokenizer"):
        framework.call(model, inputs)
    made.set_ctx_encoder_tokenizer(made.question_encoder_tokenizer)
    got = framework.outputs(model, inputs, output_retrieved=True)
    first = PASSAGES[int(got["retrieved_doc_ids"][0, 0])]
    tokens = made.question_encoder_tokenizer(first["title"], first["text"], return_tensors="np")
    vector = framework.outputs(
        ctx_encoder, {n: tokens[n] for n in ("input_ids", "attention_mask")}
    )["pooler_output"]
    np.testing.assert_allclose(got["retrieved_doc_embeds"][0, 0], vector[0], 1e-4, 1e-5)
    _, gradients = framework.gradients(model, inputs, reduce_loss=True)
    name = "rag.ctx_encoder.ctx_encoder.bert_model.encoder.layer.0.output.dense.weight"
    assert np.abs(gradients[name]).max() > 0


def test_fit_with_a_retriever(checkpoints: Any) -> None:
    """The retriever is asked in every step of the graph, of the weights as they are then."""
    import keras

    place = checkpoints[HEADS[1]]
    model, made = with_retriever(KERAS, place, HEADS[1])
    inputs = questions(KERAS, place)
    asked: list[np.ndarray] = []
    look_up = made.retrieve
    made.retrieve = lambda vectors, n: (asked.append(vectors), look_up(vectors, n))[1]
    before = float(np.mean(KERAS.outputs(model, inputs)["loss"]))
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(inputs, epochs=4, batch_size=3, verbose=0).history["loss"]
    np.testing.assert_allclose(history[0], before, 1e-4)
    assert history[-1] < history[0]
    assert len(asked) == 5 and np.abs(asked[1] - asked[-1]).max() > 1e-3


def test_a_pytorch_loop_with_a_retriever(checkpoints: Any) -> None:
    import torch

    place = checkpoints[HEADS[0]]
    model, _ = with_retriever(TORCH, place, HEADS[0])
    inputs = questions(TORCH, place)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(4):
        losses.append(TORCH.gradients(model, inputs, reduce_loss=True)[0])
        optimizer.step()
    assert losses[-1] < losses[0]

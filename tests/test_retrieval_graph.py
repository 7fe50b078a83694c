"""Retrieval inside a model gives what the index gives, also where the model is served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from pt_models.retrieval import DenseRetriever, ScannRetriever
from tf_models.retrieval import TFDenseRetriever, TFScannRetriever
from zoo.retrieval import LocalIndex, RetrievalError, build_index, tuning

ROWS, HIDDEN, BATCH, K = 3001, 12, 5, 7

CLIENT = """
import json, sys
for name in ("zoo", "pt_models", "tf_models", "converters"):
    sys.modules[name] = None  # importing one would fail
import numpy as np, tensorflow as tf
folder, scann, queries = sys.argv[1], sys.argv[2] == "scann", np.array(json.loads(sys.argv[3]))
queries = queries if queries.dtype.kind == "U" else queries.astype(np.float32)
if scann:
    import scann
    import tensorflow_text
answers = []
for version in sys.argv[4:]:
    loaded = tf.saved_model.load(f"{folder}/{version}")
    output = loaded.signatures["serving_default"](queries=tf.constant(queries))
    answers.append({name: value.numpy().tolist() for name, value in output.items()})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], f"{folder}/{version}")
        signature = graph.signature_def["serving_default"]
        output = session.run(
            {name: tensor.name for name, tensor in signature.outputs.items()},
            {signature.inputs["queries"].name: queries},
        )
        answers.append({name: value.tolist() for name, value in output.items()})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = random.normal(size=(30, HIDDEN))
    vectors = centres[random.integers(30, size=ROWS)] + 0.5 * random.normal(size=(ROWS, HIDDEN))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(vectors: np.ndarray) -> np.ndarray:
    return vectors[:BATCH] + np.float32(0.05)


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(1).permutation(ROWS).astype(np.int64) + 2**40


def scann_index(vectors: np.ndarray, ids: np.ndarray, **options: Any) -> LocalIndex:
    pytest.importorskip("scann")
    settings = {"leaves": 30, "soar": False} | options.pop("settings", {})
    return build_index(
        vectors, ids, settings=tuning.default_settings(ROWS, **settings), kind="scann", **options
    )


def numbers(output: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(output["ids"]), np.asarray(output["scores"])


@pytest.mark.parametrize(
    "options", [{}, {"block_rows": 500}, {"storage": "bfloat16"}, {"storage": "float16"}]
)
def test_dense_retrievers_equal_the_index(
    options: dict[str, Any], vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray
) -> None:
    index = build_index(vectors, ids, kind="exact")
    expected_ids, expected = index.search(queries, K)
    both = [
        numbers(DenseRetriever.from_index(index, K, **options)(torch.tensor(queries))),
        numbers(TFDenseRetriever.from_index(index, K, **options)(queries)),
    ]
    for found_ids, scores in both:
        tolerance = 1e-5 if "storage" not in options else 1e-2
        np.testing.assert_allclose(scores, expected, atol=tolerance)
        if "storage" not in options:
            assert (found_ids == expected_ids).all()
        assert found_ids.dtype == np.int64 and scores.dtype == np.float32
    assert (both[0][0] == both[1][0]).all()
    np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-5)


@pytest.mark.parametrize("block_rows", [None, 2])
def test_dense_retrievers_pad_what_is_not_there(block_rows: int | None) -> None:
    table, asked = np.eye(3, dtype=np.float32), np.ones((2, 3), np.float32)
    for output in (
        DenseRetriever(table, [4, 5, 6], 5, block_rows=block_rows)(torch.tensor(asked)),
        TFDenseRetriever(table, [4, 5, 6], 5, block_rows=block_rows)(asked),
    ):
        found, scores = numbers(output)
        assert found.shape == (2, 5) and sorted(found[0, :3]) == [4, 5, 6]
        assert (found[:, 3:] == -1).all() and (scores[:, 3:] == -np.inf).all()


@pytest.mark.parametrize("retriever", [DenseRetriever, TFDenseRetriever])
def test_wrong_arguments_are_refused(retriever: Any, vectors: np.ndarray) -> None:
    for arguments, options, message in (
        ((vectors[0],), {}, r"vectors: expected shape \(rows, hidden\), got \(12,\)"),
        ((vectors, [1, 2]), {}, r"ids: expected shape \(3001,\), got \(2,\)"),
        ((vectors, None, 0), {}, "k: received 0"),
        ((vectors,), {"block_rows": 0}, "block_rows: received 0"),
        ((vectors,), {"storage": "int8"}, "storage: received 'int8'"),
    ):
        with pytest.raises(RetrievalError, match=message):
            retriever(*arguments, **options)
    with pytest.raises(RetrievalError, match="recall_target: received 2"):
        TFDenseRetriever(vectors, recall_target=2)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("approximate", [False, True])
def test_dense_in_a_graph(
    compiled: bool, approximate: bool, vectors: np.ndarray, queries: np.ndarray
) -> None:
    """On a CPU, TensorFlow's approximate top k is exact."""
    layer = TFDenseRetriever(vectors, k=K, block_rows=1000, approximate=approximate)
    graph = tf.function(layer, jit_compile=compiled)
    expected, scores = build_index(vectors, kind="exact").search(queries, K)
    output = graph(tf.constant(queries))
    assert (output["ids"].numpy() == expected).all()
    np.testing.assert_allclose(output["scores"], scores, rtol=1e-5)
    assert layer.trainable_weights == []


def test_dense_in_an_exported_program(
    vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    module = DenseRetriever(vectors, k=K, block_rows=1000)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        module, (torch.tensor(queries[:2]),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, tmp_path / "dense.pt2")
    loaded = torch.export.load(tmp_path / "dense.pt2").module()
    expected, _ = build_index(vectors, kind="exact").search(queries, K)
    assert (loaded(torch.tensor(queries))["ids"].numpy() == expected).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shards", [1, 2])
def test_scann_in_a_graph_equals_the_index(
    precision: str, shards: int, vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray
) -> None:
    index = scann_index(
        vectors, ids, settings={"precision": precision}, shards=shards, leaves=8, reorder=50
    )
    layer = TFScannRetriever(index, K)
    for options in ({}, {"leaves": 1, "reorder": 8}):
        expected, scores = index.search(queries, K, **options)
        layer = TFScannRetriever(index, K, **options)
        for call in (layer, tf.function(layer)):
            output = call(tf.constant(queries))
            assert (output["ids"].numpy() == expected).all()
            np.testing.assert_allclose(output["scores"], scores, rtol=1e-6)
            assert output["ids"].shape == (BATCH, K) and output["ids"].dtype == tf.int64
        output = ScannRetriever(index, K, **options)(torch.tensor(queries))
        assert (output["ids"].numpy() == expected).all()
    narrow = TFScannRetriever(index, 1000, leaves=1)(queries)
    assert (narrow["ids"].numpy()[:, -1] == -1).all()
    assert (narrow["scores"].numpy()[:, -1] == -np.inf).all()


def test_soar_is_left_out_of_a_graph(vectors: np.ndarray, ids: np.ndarray) -> None:
    index = scann_index(vectors, ids, settings={"soar": True}, target_recall=0.9)
    layer = TFScannRetriever(index, 10)
    asked = vectors[::7]
    truth, _ = build_index(vectors, ids, kind="exact").search(asked, 10)
    found = layer(asked)["ids"].numpy()
    assert tuning.recall(found, truth) > 0.87


def test_an_index_that_does_not_fit_a_graph_is_refused(
    vectors: np.ndarray, ids: np.ndarray
) -> None:
    with pytest.raises(RetrievalError, match="this one is exact"):
        TFScannRetriever(build_index(vectors, ids, kind="exact"))
    index = scann_index(vectors, ids, leaves=8, reorder=50)
    index.remove(ids[:1])
    with pytest.raises(RetrievalError, match="pending changes"):
        TFScannRetriever(index)


def export(layer: Any, folder: Path, spec: Any) -> None:
    archive = keras.export.ExportArchive()
    archive.track(layer)
    archive.add_endpoint("serving_default", layer.call, [spec])
    archive.write_out(str(folder), verbose=False)


def served(folder: Path, versions: list[str], queries: Any, scann: bool) -> Any:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT, str(folder)]
        + ["scann" if scann else "plain", json.dumps(queries), *versions],
        capture_output=True,
        text=True,
    )


def test_served_without_our_packages(
    vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    """Two versions of an index side by side, in a process with TensorFlow (and ScaNN) alone."""
    spec = tf.TensorSpec((None, HIDDEN), tf.float32, "queries")
    indexes = [
        scann_index(table, ids, leaves=8, reorder=50) for table in (vectors, vectors[::-1].copy())
    ]
    for version, index in enumerate(indexes, 1):
        export(TFScannRetriever(index, K), tmp_path / "scann" / str(version), spec)
        export(TFDenseRetriever.from_index(index, K), tmp_path / "dense" / str(version), spec)
    for kind in ("dense", "scann"):
        done = served(tmp_path / kind, ["1", "2"], queries.tolist(), kind == "scann")
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        for answer, index in zip(answers, [indexes[0]] * 2 + [indexes[1]] * 2, strict=True):
            options = {} if kind == "scann" else {"leaves": 30, "reorder": ROWS}
            expected, scores = index.search(queries, K, **options)
            assert answer["ids"] == expected.tolist()
            np.testing.assert_allclose(answer["scores"], scores, rtol=1e-5)
    done = served(tmp_path / "scann", ["1"], queries.tolist(), False)
    assert done.returncode != 0 and "Op type not registered 'Scann>" in done.stderr


class TextRetriever(keras.layers.Layer):
    """Tokenizer, encoder and index as one: texts to ids."""

    def __init__(self, tokenizer: Any, encoder: Any, retriever: Any) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.retriever = tokenizer, encoder, retriever
        self.built = True

    def call(self, texts: Any) -> Any:
        return self.retriever(self.encoder(self.tokenizer(texts)).pooler_output)


def test_texts_to_passages_in_one_saved_model(tmp_path: Path) -> None:
    pytest.importorskip("scann")
    from tokenizer_fixtures import paragraphs, train

    from tf_models import TFRemBertModel
    from tf_models.in_graph import TFRemBertTokenizer
    from zoo import RemBertConfig
    from zoo.tokenizers import RemBertTokenizer

    tokenizer = RemBertTokenizer(str(train(tmp_path, vocab_size=900)))
    keras.utils.set_random_seed(0)
    encoder = TFRemBertModel(
        RemBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN * 2,
            num_hidden_layers=1,
            num_attention_heads=2,
            input_embedding_size=16,
            intermediate_size=20,
            max_position_embeddings=40,
            initializer_range=0.5,
        )
    )
    texts = paragraphs()[:60]
    layer = TFRemBertTokenizer.from_tokenizer(tokenizer, max_length=32)
    embedded = encoder(layer(tf.constant(texts))).pooler_output.numpy()
    settings = {
        "score_ah": {"dimensions_per_block": 2},
        "reorder": {"reordering_num_neighbors": 60},
    }
    index = build_index(embedded, kind="scann", settings=settings, reorder=60, leaves=1)
    module = TextRetriever(layer, encoder, TFScannRetriever(index, 3))
    asked = texts[:4]
    module(tf.constant(asked))
    export(module, tmp_path / "model" / "1", tf.TensorSpec((None,), tf.string, "queries"))
    done = served(tmp_path / "model", ["1"], asked, True)
    assert done.returncode == 0, done.stderr
    for answer in json.loads(done.stdout):
        expected = build_index(embedded, kind="exact").search(embedded[:4], 3)[0]
        assert answer["ids"] == expected.tolist()

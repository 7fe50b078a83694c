"""REALM: scoring, reading, retrieval and answers with evidence, in both frameworks."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    BEAM,
    CASE,
    CHOICES,
    HEADS,
    HIDDEN,
    LAYERS,
    PROJECTED,
    REALM_CASES,
    SEQUENCE,
    SPAN_WIDTH,
    VOCAB,
    Arrays,
    Case,
    make_config,
    make_inputs,
    names,
    numbers,
    without_labels,
)
from frameworks import KERAS, TORCH, Framework, flat

from zoo import RealmConfig, RealmRetriever, RealmTokenizer, RealmTokenizerFast
from zoo.checkpoint import CheckpointError
from zoo.retrieval import Answer, PassageStore, build_index
from zoo.retrieval.answers import best_spans, locate_pieces, span_bounds
from zoo.retrieval.block_records import BlockRecords, write_block_records

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
every_case = pytest.mark.parametrize("case", REALM_CASES, ids=names(REALM_CASES))
SAME = 5e-6
LOWEST = np.finfo(np.float32).min


@cache
def shared(framework: Framework, name: str) -> Any:
    """A model that no test changes."""
    return framework.build(CASE[name])


def assert_same(got: Arrays, expected: Arrays, tolerance: float = SAME) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


# ---- what goes in and comes out ----------------------------------------------------------------


@both
@every_case
def test_shapes(framework: Framework, case: Case) -> None:
    got = framework.outputs(shared(framework, case.name), make_inputs(case))
    assert {name: value.shape for name, value in got.items()} == dict(case.shapes)
    booleans = {"retriever_correct", "reader_correct"}
    integers = {"block_idx", "candidate", "start_pos", "end_pos"}
    for name, value in got.items():
        kind = np.bool_ if name in booleans else np.int64 if name in integers else np.float32
        assert value.dtype == kind, name


@both
@every_case
def test_tuples_attentions_and_hidden_states(framework: Framework, case: Case) -> None:
    model, inputs = shared(framework, case.name), make_inputs(case)
    plain = framework.outputs(model, inputs)
    asked = {"output_attentions": True, "output_hidden_states": True}
    if case.name == "scorer":
        with pytest.raises(ValueError, match="output_attentions: the scorer returns scores only"):
            framework.call(model, inputs, **asked)
        asked, rest = {}, {}
    else:
        rows = BATCH * (BEAM if case.name == "reader" else CHOICES)
        rest = {f"hidden_states.{i}": (rows, SEQUENCE, HIDDEN) for i in range(LAYERS + 1)}
        rest |= {f"attentions.{i}": (rows, HEADS, SEQUENCE, SEQUENCE) for i in range(LAYERS)}
    more = framework.outputs(model, inputs, **asked)
    assert_same({name: more[name] for name in plain}, plain)
    assert {name: x.shape for name, x in more.items() if name not in plain} == rest
    named = framework.call(model, inputs, **asked)
    unnamed = framework.call(model, inputs, return_dict=False, **asked)
    assert type(unnamed) is tuple
    assert list(named) == [name for name in type(named).fields if name in named]
    assert_same(flat(unnamed), flat(named.to_tuple()))


@both
@every_case
def test_both_kinds_of_inputs(framework: Framework, case: Case) -> None:
    """Embeddings in the place of ids, with an axis of candidates where ids have one."""
    model, inputs = shared(framework, case.name), make_inputs(case)
    expected = framework.outputs(model, inputs)
    table = framework.weights(model)
    for name in [name for name in inputs if name.endswith("input_ids")]:
        prefix = {"scorer": "embedder."}.get(case.name, "")
        embedded = table[f"{prefix}realm.embeddings.word_embeddings.weight"][inputs.pop(name)]
        if name.startswith("candidate"):
            embedded = embedded.reshape(-1, *embedded.shape[2:])  # as published
        inputs[name.replace("input_ids", "inputs_embeds")] = embedded
    assert_same(framework.outputs(model, inputs), expected)


@every_case
def test_equal_in_both_frameworks(case: Case, tmp_path: Path) -> None:
    torch_model = TORCH.build(case)
    torch_model.save_pretrained(tmp_path)
    keras_model = KERAS.model_class(case.model).from_pretrained(tmp_path)
    inputs = make_inputs(case)
    asked = {} if case.name == "scorer" else {"output_attentions": True}
    expected = TORCH.outputs(torch_model, inputs, **asked)
    assert_same(KERAS.outputs(keras_model, inputs, **asked), expected, 1e-5)
    keras_model.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@both
@every_case
def test_padding_is_not_seen(framework: Framework, case: Case) -> None:
    model = shared(framework, case.name)
    inputs = without_labels(make_inputs(case))
    expected = framework.outputs(model, inputs)
    filler = numbers("padding")
    for name, value in list(inputs.items()):
        if name == "relevance_score":
            continue
        more = filler.integers(1, VOCAB, (*value.shape[:-1], 4)).astype(value.dtype)
        if "token_type" in name or "mask" in name:
            more = np.zeros_like(more)
        inputs[name] = np.concatenate([value, more], -1)
    got = framework.outputs(model, inputs)
    if "logits" in expected:
        live = inputs["attention_mask"].reshape(-1, SEQUENCE + 4)[:, :SEQUENCE] == 1
        got["logits"] = got["logits"][:, :SEQUENCE][live]
        expected["logits"] = expected["logits"][live]
    # The number of a span depends on how many there are.
    got.pop("candidate", None), expected.pop("candidate", None)
    assert_same(got, expected)


@both
@pytest.mark.parametrize("layers", [1, LAYERS])
def test_an_embedder_spares_what_nobody_sees(framework: Framework, layers: int) -> None:
    """The last layer for the first token alone; with hidden states it runs as a whole."""
    model = framework.build(CASE["embedder"], num_hidden_layers=layers)
    inputs = make_inputs(CASE["embedder"])
    draw = numbers("masks")
    square = draw.integers(0, 2, (BATCH, SEQUENCE, SEQUENCE))
    square[0, 0] = 0  # a first token that attends to nothing
    head_mask = draw.integers(0, 2, (layers, HEADS)).astype(np.float32)
    for more in ({}, {"head_mask": head_mask}, {"attention_mask": square}):
        short = framework.outputs(model, inputs | more)["projected_score"]
        whole = framework.outputs(model, inputs | more, output_hidden_states=True)
        np.testing.assert_allclose(short, whole["projected_score"], 1e-5, 1e-5)
        assert f"hidden_states.{layers}" in whole


@both
@pytest.mark.parametrize("length", [1, SPAN_WIDTH - 1, SPAN_WIDTH, 29])
def test_reading_texts_of_any_length(framework: Framework, length: int) -> None:
    """Also shorter than the longest span."""
    draw = numbers(f"length {length}")
    inputs = {
        "input_ids": draw.integers(5, VOCAB, (2, BEAM, length)),
        "block_mask": np.ones((2, BEAM, length), bool),
        "relevance_score": np.zeros((2, BEAM), np.float32),
    }
    got = framework.outputs(shared(framework, "reader"), inputs)
    assert (got["start_pos"] <= got["end_pos"]).all() and (got["end_pos"] < length).all()
    starts, ends = span_bounds(length, SPAN_WIDTH)
    assert (starts[got["candidate"]] == got["start_pos"]).all()
    assert (ends[got["candidate"]] == got["end_pos"]).all()


# ---- losses ------------------------------------------------------------------------------------


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@both
def test_the_marginal_likelihood_is_a_sum_over_blocks(framework: Framework) -> None:
    case = CASE["knowledge-aug"]
    model, inputs = shared(framework, case.name), make_inputs(case)
    got = framework.outputs(model, inputs)
    words = log_softmax(got["logits"].reshape(BATCH, CHOICES, SEQUENCE, VOCAB))
    blocks = log_softmax(inputs["relevance_score"])
    labels, total, count = inputs["labels"], 0.0, 0
    for text in range(BATCH):
        for place in range(SEQUENCE):
            if labels[text, place] < 0 or not inputs["mlm_mask"][text, place]:
                continue
            each = blocks[text] + words[text, :, place, labels[text, place]]
            total -= np.log(np.exp(each).sum())
            count += 1
    assert 0 < count < (labels >= 0).sum()
    np.testing.assert_allclose(got["loss"], total / count, 1e-5)
    nothing = inputs | {"mlm_mask": np.zeros_like(inputs["mlm_mask"])}
    assert framework.outputs(model, nothing)["loss"] == 0
    del inputs["mlm_mask"]
    assert framework.outputs(model, inputs)["loss"] != got["loss"]


@both
def test_reader_losses_as_written_out(framework: Framework) -> None:
    case = CASE["reader"]
    model, inputs = shared(framework, case.name), make_inputs(case)
    inputs["has_answers"][1] = False  # nothing was found: no loss of this question
    inputs["start_positions"][1] = inputs["end_positions"][1] = -1
    got = framework.outputs(model, inputs)
    tensors = {name: framework.tensor(inputs[name]) for name in READ}
    scores, spans = (np.array(flat(x)[""]) for x in model._read(tensors)[:2])
    logits = scores + inputs["relevance_score"][:, :BEAM, None]
    logits = np.where(spans, logits, -np.inf)
    starts, ends = span_bounds(SEQUENCE, SPAN_WIDTH)
    retriever, reader = [0.0], [0.0]
    for question in (0, 2):
        each = log_softmax(inputs["relevance_score"][question])
        retriever.append(-np.log(np.exp(each[inputs["has_answers"][question]]).sum()))
        found = set()
        for block in range(BEAM):
            places = zip(
                inputs["start_positions"][question, block],
                inputs["end_positions"][question, block],
                strict=True,
            )
            for place in places:
                same = (starts == place[0]) & (ends == place[1])
                found |= {(block, span) for span in np.flatnonzero(same)}
        correct = np.zeros_like(spans[question])
        correct[tuple(zip(*found, strict=True))] = True
        assert (got["reader_correct"][question] == correct).all()
        correct &= spans[question]
        each = log_softmax(logits[question].reshape(-1)).reshape(correct.shape)
        reader.append(-np.log(np.exp(each[correct]).sum()) if correct.any() else 0.0)
    assert sum(loss > 0 for loss in reader) > 0
    np.testing.assert_allclose(got["retriever_loss"], np.mean(retriever), 1e-5)
    np.testing.assert_allclose(got["reader_loss"], np.mean(reader), 1e-5)
    np.testing.assert_allclose(got["loss"], np.mean(retriever) + np.mean(reader), 1e-5)
    best = logits.reshape(BATCH, -1).argmax(-1)
    assert (got["block_idx"] == best // logits.shape[2]).all()
    assert (got["candidate"] == best % logits.shape[2]).all()
    assert not got["retriever_correct"][1].any() and not got["reader_correct"][1].any()


READ = ("input_ids", "attention_mask", "token_type_ids", "block_mask")


@both
def test_a_batch_of_questions_reads_like_each_alone(framework: Framework) -> None:
    case = CASE["reader"]
    model, inputs = shared(framework, case.name), make_inputs(case)
    together = framework.outputs(model, inputs)
    alone = [
        framework.outputs(model, {name: x[row] for name, x in inputs.items()})
        for row in range(BATCH)
    ]
    for name in ("loss", "retriever_loss", "reader_loss"):
        mean = np.mean([of_one[name] for of_one in alone])
        np.testing.assert_allclose(together[name], mean, 1e-5)
    for row, of_one in enumerate(alone):
        assert of_one["block_idx"].shape == of_one["candidate"].shape == ()
        assert of_one["start_pos"].shape == of_one["end_pos"].shape == (1,)
        for name in ("retriever_correct", "reader_correct", "block_idx", "candidate"):
            np.testing.assert_array_equal(together[name][row], of_one[name])
        for name in ("start_pos", "end_pos"):
            assert together[name][row] == of_one[name][0]
    flat_positions = {name: inputs[name][..., 0] for name in ("start_positions", "end_positions")}
    one = framework.outputs(model, inputs | flat_positions)
    three = {name: x[..., :1] for name, x in inputs.items() if name in flat_positions}
    assert_same(one, framework.outputs(model, inputs | three))


@both
def test_a_correct_span_outside_the_block_costs_nothing(framework: Framework) -> None:
    """A probability of zero would be an infinite loss."""
    inputs = make_inputs(CASE["reader"])
    inputs["start_positions"][:], inputs["end_positions"][:] = 0, 1  # in the question
    inputs["has_answers"][:] = True
    got = framework.outputs(shared(framework, "reader"), inputs)
    assert got["reader_loss"] == 0 and np.isfinite(got["retriever_loss"])


WRONG = {
    "scorer": [
        ({"candidate_attention_mask": (BATCH, CHOICES, 3)}, "candidate_attention_mask: expected"),
        ({"candidate_token_type_ids": (BATCH, 9)}, r"expected shape \(batch, candidates"),
    ],
    "knowledge-aug": [
        ({"relevance_score": None}, "relevance_score: expected .* together with labels"),
        ({"relevance_score": (BATCH, 2)}, "relevance_score: expected shape"),
        ({"labels": (BATCH, 3)}, "labels: expected shape"),
        ({"mlm_mask": (BATCH, 3)}, "mlm_mask: expected shape"),
        ({"token_type_ids": (BATCH, SEQUENCE)}, r"token_type_ids: expected shape \(batch"),
    ],
    "reader": [
        ({"relevance_score": None}, "relevance_score: the reader needs it"),
        ({"block_mask": None}, "block_mask: the reader needs it"),
        ({"block_mask": (BATCH, BEAM, 3)}, "block_mask: expected shape"),
        ({"relevance_score": (BATCH, 1)}, f"relevance_score: expected {BEAM} blocks or more"),
        ({"has_answers": None}, "has_answers: expected with the other labels"),
        ({"end_positions": (BATCH, 2)}, "end_positions: expected shape"),
        ({"has_answers": (BATCH, 2)}, "has_answers: expected shape"),
    ],
}


@both
@every_case
def test_wrong_inputs_are_named(framework: Framework, case: Case) -> None:
    model = shared(framework, case.name)
    for change, message in WRONG[case.name]:
        inputs = make_inputs(case)
        for name, shape in change.items():
            given = inputs.pop(name)
            if shape is not None:
                inputs[name] = np.zeros(shape, given.dtype)
        with pytest.raises(ValueError, match=message):
            framework.call(model, inputs)


# ---- weights -----------------------------------------------------------------------------------


@both
def test_an_embedder_for_questions_of_their_own(framework: Framework, tmp_path: Path) -> None:
    case = CASE["scorer"]
    inputs = make_inputs(case)
    own = framework.build(CASE["embedder"])
    scorer = framework.model_class("RealmScorer")(make_config(case), own)
    shapes = framework.shapes(scorer)
    values = {name: 0.2 * numbers(f"2 {name}").standard_normal(s) for name, s in shapes.items()}
    values |= {alias: values[source] for alias, source in scorer.tied_weights().items()}
    framework.set_weights(scorer, {name: x.astype(np.float32) for name, x in values.items()})
    got = framework.outputs(scorer, inputs)
    query = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    alone = framework.outputs(own, query)["projected_score"]
    np.testing.assert_allclose(got["query_score"], alone, 1e-5, 1e-5)
    relevance = np.einsum("bd,bcd->bc", got["query_score"], got["candidate_score"])
    np.testing.assert_allclose(got["relevance_score"], relevance, 1e-5, 1e-5)
    # A file of two embedders opens into two.
    scorer.save_pretrained(tmp_path)
    again = framework.model_class("RealmScorer").from_pretrained(
        tmp_path, query_embedder=framework.build(CASE["embedder"])
    )
    assert_same(framework.outputs(again, inputs), got)
    # Of one, the embedder that is given keeps its weights.
    framework.build(case).save_pretrained(tmp_path)
    again, info = type(scorer).from_pretrained(
        tmp_path, query_embedder=own, output_loading_info=True
    )
    assert not any(info.values())
    kept = framework.outputs(again, inputs)
    np.testing.assert_array_equal(kept["query_score"], got["query_score"])
    assert not np.allclose(kept["candidate_score"], got["candidate_score"])


@both
def test_a_shared_embedder_is_one(framework: Framework, tmp_path: Path) -> None:
    from zoo.checkpoint import Checkpoint

    model = framework.build(CASE["scorer"])
    assert model.query_embedder is model.embedder
    model.save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as file:
        assert not [name for name in file if name.startswith("query_embedder.")]
        assert not [name for name in file if name.endswith("decoder.bias")]
    again = framework.model_class("RealmScorer").from_pretrained(tmp_path)
    assert again.query_embedder is again.embedder
    assert again.num_parameters() == again.embedder.num_parameters()


@both
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("embedder", VOCAB + 6),
        ("scorer", VOCAB - 20),
        ("knowledge-aug", VOCAB + 6),
        ("reader", VOCAB - 20),
        ("openqa", VOCAB + 30),
    ],
)
def test_vocabularies_of_another_size(
    framework: Framework, name: str, size: int, tmp_path: Path
) -> None:
    model = openqa(framework) if name == "openqa" else framework.build(CASE[name])
    before = framework.weights(model)
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size
    after = framework.weights(model)
    assert after.keys() == before.keys()
    changed = {key for key in after if after[key].shape != before[key].shape}
    assert changed == {
        key for key in after if "word_emb" in key or "predictions.bias" in key
    }.union(key for key in after if "predictions.decoder" in key)
    for key in changed:
        kept = min(size, len(before[key]))
        np.testing.assert_array_equal(after[key][:kept], before[key][:kept])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for key, value in framework.weights(again).items():
        np.testing.assert_array_equal(value, after[key])


def test_configurations() -> None:
    config = RealmConfig()
    assert (config.pad_token_id, config.reader_seq_len, config.num_candidates) == (1, 320, 8)
    for field, value in (("is_decoder", True), ("add_cross_attention", True)):
        with pytest.raises(ValueError, match=f"{field}: .*REALM has encoders only"):
            RealmConfig(**{field: value})
    with pytest.raises(ValueError, match="searcher_beam_size"):
        RealmConfig(searcher_beam_size=0)
    with pytest.raises(ValueError, match="hidden_size"):
        RealmConfig(hidden_size=30)
    with pytest.raises(ValueError, match="reader_beam_siz"):
        RealmConfig(reader_beam_siz=3)


# ---- tokenizers --------------------------------------------------------------------------------

WORDS = (
    "the a of in and to was is by who when where what which first bridge tower river city built "
    "opened named over old new king queen engineer stands spans crosses designed it year lies "
    "capital north south east west island mountain highest longest largest sea"
).split()
NAMES = ["anna", "berg", "carl", "dorn", "elba", "fink", "gent", "hull", "ivar", "jena"]
PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *NAMES, *"0123456789",
    *(f"##{digit}" for digit in "0123456789"), ".", ",", "?", "-", "##s", "##ing", "cafe",
]  # fmt: skip


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("realm") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


def records() -> list[str]:
    """Blocks of evidence of differing length, with capitals, accents and unknown words."""
    draw = np.random.default_rng(5)
    found = []
    for number in range(23):
        name, other = draw.choice(NAMES, 2, replace=False)
        words = " ".join(draw.choice(WORDS, draw.integers(2, 14)))
        found.append(
            f"The {name.capitalize()} Bridge, opened in {1500 + 13 * number}, crosses the "
            f"{other.upper()} river. Caf\u00e9 Zyx\u00e4 \u4e2d {words}."
        )
    return found


@pytest.mark.parametrize("kind", [RealmTokenizer, RealmTokenizerFast])
def test_candidates(kind: Any, vocabulary: Path) -> None:
    tokenizer = kind(vocabulary)
    text = [["the old bridge", "a"], ["anna 12 -", "the river ."]]
    pairs = [["who is it ?", "what"], ["where", "the sea"]]
    got = tokenizer.batch_encode_candidates(text, text_pair=pairs, max_length=12)
    assert set(got) == {"input_ids", "token_type_ids", "attention_mask"}
    for row in range(2):
        for number in range(2):
            alone = tokenizer(
                text[row][number], pairs[row][number], padding="max_length", max_length=12
            )
            for name, values in got.items():
                assert values[row][number] == alone[name]
    arrays = tokenizer.batch_encode_candidates(text, max_length=5, truncation=True,
                                               return_tensors="np")  # fmt: skip
    assert arrays["input_ids"].shape == (2, 2, 5)
    assert tokenizer.batch_encode_candidates([], max_length=5) == {}
    ragged = tokenizer.batch_encode_candidates([["a"], ["a", "the"], []], max_length=4)
    assert [len(row) for row in ragged["input_ids"]] == [1, 2, 0]
    for wrong, message in (
        ({"text": ["a", "b"]}, "text: .*expected a list of lists"),
        ({"text": text, "text_pair": [["a"], ["b", "c"]]}, "text_pair: expected"),
        ({"text": text, "padding": True}, "padding: .*padded to max_length"),
        ({"text": text, "return_overflowing_tokens": True}, "return_overflowing_tokens"),
        ({"text": text, "max_length": 4, "return_tensors": "np"}, "input_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.batch_encode_candidates(**{"max_length": 12, **wrong})


@pytest.fixture(scope="session")
def layer(vocabulary: Path) -> Any:
    """The tokenizer in the graph."""
    from tf_models.in_graph import TFRealmTokenizer

    return TFRealmTokenizer.from_tokenizer(RealmTokenizer(vocabulary), max_length=24)


def test_candidates_in_the_graph(
    layer: Any, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    tokenizer = RealmTokenizer(vocabulary)
    texts = [records()[start : start + 3] for start in (0, 3, 6, 9)]
    expected = tokenizer.batch_encode_candidates(
        texts, text_pair=[row[::-1] for row in texts], max_length=24, truncation=True
    )
    run = tf.function(layer.batch_encode_candidates)
    got = run(tf.constant(texts), tf.constant([row[::-1] for row in texts]))
    assert {name: x.numpy().tolist() for name, x in got.items()} == dict(expected)
    with pytest.raises(ValueError, match=r"text: expected shape \(batch, candidates\)"):
        layer.batch_encode_candidates(tf.constant(["a"]))
    monkeypatch.setattr(layer, "max_length", None)
    with pytest.raises(ValueError, match="max_length: the layer needs it"):
        layer.batch_encode_candidates(tf.constant([["a"]]))


# ---- the retriever -----------------------------------------------------------------------------


def test_recorded_retrieval(goldens: Path) -> None:
    folder = goldens / "realm" / "retriever"
    tokenizers = {
        "slow": RealmTokenizer.from_pretrained(folder),
        "fast": RealmTokenizerFast.from_pretrained(folder),
    }
    for record in json.loads((folder / "records.json").read_text()):
        retriever = RealmRetriever.from_pretrained(folder)
        retriever.tokenizer = tokenizers[record["tokenizer"]]
        has, starts, ends, encoded = retriever(
            np.array(record["retrieved_block_ids"]),
            record["question_input_ids"],
            record["answer_ids"],
            max_length=record["max_length"],
            return_tensors="np",
        )
        assert has == record["has_answers"]
        assert (starts, ends) == (record["start_pos"], record["end_pos"])
        got = {name: value.tolist() for name, value in encoded.items()}
        assert got == record["concat_inputs"]


@pytest.mark.parametrize("kind", [RealmTokenizer, RealmTokenizerFast])
def test_answers_are_found_wherever_they_stand(kind: Any, vocabulary: Path) -> None:
    retriever = RealmRetriever(["the old bridge of the old king", b"a new queen"], kind(vocabulary))

    def ids(text: str) -> list[int]:
        return retriever.tokenizer(text, add_special_tokens=False)["input_ids"]

    question = [retriever.tokenizer("the old ?")["input_ids"]]  # itself does not count
    answers = [ids("old"), [*ids("old king"), -1, -1], [-1], ids("sea")]
    has, starts, ends, encoded = retriever([0, 1], question, answers, 30, "np")
    assert has == [True, False]
    # [CLS] the old ? [SEP] the old bridge of the old king [SEP]
    assert starts == [[6, 10, 10], [-1, -1, -1]] and ends == [[6, 10, 11], [-1, -1, -1]]
    assert retriever.block_has_answer(encoded, answers) == (has, starts, ends)
    assert retriever([1], question, answers, 30)[:3] == ([False], [[]], [[]])
    assert retriever([1], question, None, 30)[:3] == (None, None, None)
    padded = question[0] + [0, 0]
    evidence = retriever.evidence(np.array([[0, 1], [1, -1]]), [padded] * 2, [answers, []], 30)
    assert evidence.has_answers.tolist() == [[True, False], [False, False]]
    assert evidence.start_positions[0].tolist() == starts
    assert evidence.input_ids[0].tolist() == encoded["input_ids"].tolist()
    assert not evidence.block_mask[1, 1].any() and evidence.texts[1] == ["a new queen", ""]
    for block in (0, 1):
        count = len(ids(["the old bridge of the old king", "a new queen"][block]))
        assert evidence.block_mask[0, block].sum() == count
    with pytest.raises(ValueError, match="block 7: there are 2 block records"):
        retriever([7], question, None)
    with pytest.raises(ValueError, match="answer_ids: expected answers to 2 questions, got 1"):
        retriever.evidence(np.array([[0], [1]]), [padded] * 2, [answers], 30)
    with pytest.raises(ValueError, match="question_input_ids: expected 2 questions, got 1"):
        retriever.evidence(np.array([[0], [1]]), [padded], None, 30)


def test_block_records_stay_in_their_file(tmp_path: Path, vocabulary: Path) -> None:
    blocks = [text.encode() for text in records()] + [b"x" * 255, b"\xff" * 256]
    blocks += blocks[:2]  # the same objects, which a pickle holds once
    own_file, files = tmp_path / "own.npy", []
    for protocol in (2, 3, 4, 5):
        files.append(tmp_path / f"{protocol}.npy")
        with open(files[-1], "wb") as file:
            header = {"descr": "|O", "fortran_order": False, "shape": (len(blocks),)}
            np.lib.format.write_array_header_1_0(file, header)
            pickle.dump(np.array(blocks, dtype=object), file, protocol)
    write_block_records(own_file, iter(blocks), len(blocks))
    # What NumPy reads with pickle, and what is read here without.
    assert list(np.load(own_file, allow_pickle=True)) == blocks
    for path in (*files, own_file):
        found = BlockRecords(path)
        assert len(found) == len(blocks) and list(found) == blocks
        assert found[-1] == blocks[-1] and found[3:5] == blocks[3:5]
        with pytest.raises(IndexError):
            found[len(blocks)]
        assert list(pickle.loads(pickle.dumps(found))) == blocks
    # Saved over the file that it reads.
    blocks = [b"", *(text.encode() for text in records())]
    own_file.unlink()
    write_block_records(own_file, blocks, len(blocks))
    retriever = RealmRetriever(BlockRecords(own_file), RealmTokenizerFast(vocabulary))
    retriever.save_pretrained(tmp_path / "saved")
    again = RealmRetriever.from_pretrained(tmp_path / "saved")
    again.save_pretrained(tmp_path / "saved")
    assert list(RealmRetriever.from_pretrained(tmp_path / "saved").block_records) == blocks
    assert list(again.block_records) == blocks
    with pytest.raises(ValueError, match=r"no block_records\.npy"):
        RealmRetriever.from_pretrained(tmp_path)


def test_spans() -> None:
    starts, ends = span_bounds(4, 3)
    assert list(zip(starts, ends, strict=True)) == [
        (0, 0), (1, 1), (2, 2), (3, 3), (0, 1), (1, 2), (2, 3), (0, 2), (1, 3),
    ]  # fmt: skip
    scores = numbers("spans").standard_normal((2, len(starts))).astype(np.float32)
    scores[1, 3], scores[0, 5], scores[1, 5] = LOWEST, 9, 9
    found = best_spans(scores, 4, 3, 100)
    assert len(found) == scores.size - 1
    assert [span[:3] for span in found[:2]] == [(0, 1, 2), (1, 1, 2)]  # of equals the first
    assert [span.score for span in found] == sorted((s.score for s in found), reverse=True)
    assert best_spans(scores, 4, 3, 5) == found[:5]


@pytest.mark.parametrize("lower", [True, False])
def test_pieces_are_found_in_their_text(lower: bool, vocabulary: Path) -> None:
    """As the other tokenizer says, which keeps track."""
    slow = RealmTokenizer(vocabulary, do_lower_case=lower)
    fast = RealmTokenizerFast(vocabulary, do_lower_case=lower)
    texts = [*records(), "A\u0301nna  1500s,\tZz. zz the\u00a0sea", "\u0130var \u4e2d\u6587 king"]
    for text in texts:
        pieces = slow.tokenize(text)
        expected = fast(text, add_special_tokens=False, return_offsets_mapping=True)
        assert fast.convert_ids_to_tokens(expected["input_ids"]) == pieces
        got = locate_pieces(text, pieces, "[UNK]")
        for piece, place, place_of_fast in zip(
            pieces, got, expected["offset_mapping"], strict=True
        ):
            assert place == tuple(place_of_fast), (text, piece)


# ---- answering questions -----------------------------------------------------------------------

OPENQA = Case(
    "openqa",
    "RealmForOpenQA",
    {},
    {},
    {"vocab_size": len(PIECES), "num_block_records": 23, "reader_beam_size": 4,
     "searcher_beam_size": 7, "reader_seq_len": 29, "max_span_width": 6},
)  # fmt: skip
QUESTIONS = ["Who built the Anna bridge?", "when was the old tower opened", "What lies in the sea?"]


def openqa(framework: Framework, retriever: Any = None, **overrides: Any) -> Any:
    model = framework.model_class("RealmForOpenQA")(
        make_config(OPENQA, **overrides), retriever=retriever
    )
    framework.fill(model)
    return model


@pytest.fixture(scope="session", params=[RealmTokenizerFast, RealmTokenizer], ids=["fast", "slow"])
def retriever(request: Any, vocabulary: Path) -> RealmRetriever:
    return RealmRetriever(records(), request.param(vocabulary))


@pytest.fixture(scope="session")
def fast_retriever(vocabulary: Path) -> RealmRetriever:
    return RealmRetriever(records(), RealmTokenizerFast(vocabulary))


def asked(retriever: RealmRetriever, questions: list[str]) -> Arrays:
    return dict(retriever.tokenizer(questions, padding=True, return_tensors="np"))


def answer_ids(retriever: RealmRetriever) -> list[list[list[int]]]:
    """Of each question; some stand in many blocks."""
    texts = [["anna", "elba"], ["15"], ["carl", "cafe [UNK]"]]
    found = [retriever.tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts]
    return [list(each) for each in found]


@both
def test_questions_in_a_batch_or_alone(
    framework: Framework, fast_retriever: RealmRetriever
) -> None:
    retriever = fast_retriever
    model = openqa(framework, retriever)
    answers = answer_ids(retriever)
    run = framework.training_outputs  # with all blocks that are retrieved
    together = run(model, asked(retriever, QUESTIONS), answer_ids=answers)
    assert together["reader_output.retriever_correct"].shape == (3, 7)
    assert together["predicted_answer_ids"].shape == (3, 6)
    alone = [
        run(model, asked(retriever, [question]), answer_ids=each)
        for question, each in zip(QUESTIONS, answers, strict=True)
    ]
    for name in ("loss", "retriever_loss", "reader_loss"):
        mean = np.mean([of_one[f"reader_output.{name}"] for of_one in alone])
        np.testing.assert_allclose(together[f"reader_output.{name}"], mean, 1e-5)
        assert mean > 0.1
    for row, of_one in enumerate(alone):
        for name in ("retriever_correct", "block_idx", "start_pos", "end_pos"):
            got = together[f"reader_output.{name}"][row]
            np.testing.assert_array_equal(got, of_one[f"reader_output.{name}"].squeeze())
        words = together["predicted_answer_ids"][row]
        assert words[words >= 0].tolist() == of_one["predicted_answer_ids"].tolist()
        assert (words[len(of_one["predicted_answer_ids"]) :] == -1).all()


def test_questions_in_both_frameworks(fast_retriever: RealmRetriever, tmp_path: Path) -> None:
    torch_model = openqa(TORCH, fast_retriever)
    torch_model.save_pretrained(tmp_path)
    keras_class = KERAS.model_class("RealmForOpenQA")
    keras_model = keras_class.from_pretrained(tmp_path, retriever=fast_retriever)
    inputs = asked(fast_retriever, QUESTIONS)
    for more in ({}, {"answer_ids": answer_ids(fast_retriever)}):
        expected = TORCH.outputs(torch_model, inputs, **more)
        assert_same(KERAS.outputs(keras_model, inputs, **more), expected, 1e-5)
    inputs["answer_ids"] = padded(answer_ids(fast_retriever))
    loss, expected = gradients(TORCH, torch_model, inputs)
    keras_loss, got = gradients(KERAS, keras_model, inputs)
    assert abs(loss - keras_loss) < 1e-5 and got.keys() == expected.keys()
    floor = 1e-7 * np.sqrt(sum(np.square(x).sum() for x in expected.values()))
    for name, value in expected.items():
        assert np.linalg.norm(got[name] - value) <= 1e-4 * np.linalg.norm(value) + floor, name
    # Relevance teaches the embedder of questions, and the vectors of the blocks stay.
    assert np.abs(expected["embedder.cls.dense.weight"]).max() > 1e-4
    assert "block_emb" not in expected
    first, second = torch_model.answer(QUESTIONS, 3), keras_model.answer(QUESTIONS, 3)
    for ours, theirs in zip(sum(first, []), sum(second, []), strict=True):
        assert ours._replace(score=0, reader_score=0, retriever_score=0) == theirs._replace(
            score=0, reader_score=0, retriever_score=0
        )
        np.testing.assert_allclose(ours[1:4], theirs[1:4], 1e-4, 1e-5)


def padded(answers: list[list[list[int]]]) -> np.ndarray:
    from zoo.retrieval.realm import padded_answers

    return padded_answers(answers, len(answers))


def gradients(framework: Framework, model: Any, inputs: Arrays) -> tuple[float, Arrays]:
    """Of the reader's output, which the loss is a part of."""
    if framework is TORCH:
        model.train().zero_grad()
        output = model(**{name: framework.tensor(x) for name, x in inputs.items()})
        output.reader_output.loss.backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return output.reader_output.loss.item(), {n: g.numpy() for n, g in found.items()}
    import tensorflow as tf

    from tf_models.modeling import named_weights

    with tf.GradientTape() as tape:
        loss = framework.call(model, inputs, training=True).reader_output.loss
    tied = model.tied_weights()
    named = {name: w for name, w in named_weights(model) if name not in tied}
    found = tape.gradient(loss, [w.variable.value for w in named.values()])
    dense = {n: tf.convert_to_tensor(g).numpy() for n, g in zip(named, found) if g is not None}  # noqa: B905
    return float(loss), {n: g.T if named[n].transposed else g for n, g in dense.items()}


@both
def test_answers_with_evidence(framework: Framework, retriever: RealmRetriever) -> None:
    model = openqa(framework, retriever)
    found = model.answer(QUESTIONS, n_best=7)
    predicted = framework.outputs(model, asked(retriever, QUESTIONS))
    for row, answers in enumerate(found):
        assert len(answers) == 7 and all(type(answer) is Answer for answer in answers)
        assert len({answer.text.lower() for answer in answers}) == 7
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)
        for answer in answers:
            assert answer.block == records()[answer.block_id]
            assert answer.block[answer.start : answer.end] == answer.text != ""
            assert answer.text == answer.text.strip()
            total = answer.reader_score + answer.retriever_score
            np.testing.assert_allclose(answer.score, total, 1e-5, 1e-5)
        # The best is what a call predicts.
        ids = predicted["predicted_answer_ids"][row]
        own = retriever.tokenizer(answers[0].text, add_special_tokens=False)["input_ids"]
        assert own == ids[ids >= 0].tolist()


def test_answering_leaves_the_mode_as_it_was(fast_retriever: RealmRetriever) -> None:
    model = openqa(TORCH, fast_retriever, hidden_dropout_prob=0.5)
    expected = model.eval().answer(QUESTIONS)
    model.train()
    model.embedder.eval()
    assert model.answer(QUESTIONS) == expected  # without dropout
    assert model.training and model.reader.training and not model.embedder.realm.training


@both
def test_batch_mates_change_no_answer(framework: Framework, fast_retriever: RealmRetriever) -> None:
    model = openqa(framework, fast_retriever)
    questions = [*QUESTIONS, "Who?", "when " * 12, "of the river " * 30]
    expected = model.answer(questions, 3, batch_size=1)
    for batch_size, order in ((6, range(6)), (2, [5, 0, 3, 1, 4, 2])):
        got = model.answer([questions[place] for place in order], 3, batch_size=batch_size)
        for place, answers in zip(order, got, strict=True):
            for ours, theirs in zip(answers, expected[place], strict=True):
                assert (ours.text, *ours[4:]) == (theirs.text, *theirs[4:])
                np.testing.assert_allclose(ours[1:4], theirs[1:4], 1e-4, 1e-4)


@both
def test_any_index_in_the_place_of_the_comparison(
    framework: Framework, fast_retriever: RealmRetriever
) -> None:
    model = openqa(framework, fast_retriever)
    expected = model.answer(QUESTIONS)
    vectors = framework.weights(model)["block_emb"]
    model.set_index(build_index(vectors, kind="exact"))
    for ours, theirs in zip(sum(model.answer(QUESTIONS), []), sum(expected, []), strict=True):
        assert (ours.text, *ours[4:]) == (theirs.text, *theirs[4:])
        np.testing.assert_allclose(ours[1:4], theirs[1:4], 1e-5, 1e-5)

    class Backwards:
        """Not even vectors: relevance comes from block_emb; the last is not found."""

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            ids = np.tile([3, 1, 20, -1], (len(queries), 1))[:, :k]
            return ids, np.zeros(ids.shape, np.float32)

    model.set_index(Backwards())
    inputs = asked(fast_retriever, QUESTIONS)
    query = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    question = framework.outputs(model.embedder, query)["projected_score"]
    for row, answers in enumerate(model.answer(QUESTIONS, 400)):
        assert {answer.block_id for answer in answers} == {1, 3, 20}
        for answer in answers:
            relevance = question[row] @ vectors[answer.block_id]
            np.testing.assert_allclose(answer.retriever_score, relevance, 1e-4, 1e-5)
    loss = framework.training_outputs(model, inputs, answer_ids=answer_ids(fast_retriever))
    assert np.isfinite(loss["reader_output.loss"])
    model.set_index(None)
    assert model.answer(QUESTIONS[:1])[0][0].block_id == expected[0][0].block_id


@both
def test_fewer_blocks_than_the_beam(framework: Framework, vocabulary: Path) -> None:
    retriever = RealmRetriever(records()[:2], RealmTokenizerFast(vocabulary))
    model = openqa(framework, retriever, num_block_records=2)
    for answers in model.answer(QUESTIONS, 400):
        assert {answer.block_id for answer in answers} == {0, 1}


@both
def test_passages_of_a_store_as_blocks(
    framework: Framework, vocabulary: Path, tmp_path: Path
) -> None:
    from zoo.retrieval import Document

    store = PassageStore.create(tmp_path / "store")
    store.add(Document(str(number), text) for number, text in enumerate(records()))
    model = openqa(framework, RealmRetriever(store, RealmTokenizerFast(vocabulary)))
    for answer in model.answer(QUESTIONS[:1], 3)[0]:
        assert answer.block == store[answer.block_id].text


@both
def test_one_folder_holds_everything(
    framework: Framework, fast_retriever: RealmRetriever, tmp_path: Path
) -> None:
    model = openqa(framework, fast_retriever)
    model.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path)
    assert opened.retriever is None and opened.index is None
    with pytest.raises(ValueError, match="retriever is None"):
        opened.answer(QUESTIONS)
    fast_retriever.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path)
    expected = model.answer(QUESTIONS)
    assert opened.answer(QUESTIONS) == expected and opened.index is None
    vectors = framework.weights(model)["block_emb"]
    build_index(vectors, kind="exact").save(tmp_path / "index")
    opened = type(model).from_pretrained(tmp_path)
    assert opened.index is not None
    texts = [[answer.text for answer in answers] for answers in expected]
    assert [[answer.text for answer in found] for found in opened.answer(QUESTIONS)] == texts
    # What is passed is taken instead.
    other = RealmRetriever(["the sea"] * 23, fast_retriever.tokenizer)
    opened = type(model).from_pretrained(tmp_path, retriever=other)
    assert opened.retriever is other and opened.index is None
    short = RealmRetriever(["the sea"], fast_retriever.tokenizer)
    opened = type(model).from_pretrained(tmp_path, retriever=short)
    with pytest.raises(ValueError, match="block_emb has 23 rows, the retriever has 1 block rec"):
        opened.answer(QUESTIONS)


@both
def test_vectors_of_blocks_on_a_device(
    framework: Framework, fast_retriever: RealmRetriever
) -> None:
    model = openqa(framework, fast_retriever)
    expected = model.answer(QUESTIONS)
    model.block_embedding_to("cpu")
    assert model.answer(QUESTIONS) == expected
    assert "block_emb" in framework.weights(model)
    assert model.block_emb.shape == (23, PROJECTED)


@both
def test_questions_that_cannot_be_answered(
    framework: Framework, fast_retriever: RealmRetriever
) -> None:
    model = openqa(framework, fast_retriever)
    assert model.answer([]) == []
    for arguments, message in (
        (["who?"[0], 5], None),
        (["who", 0], "questions"),
        ([QUESTIONS, 0], "n_best"),
        ([[1]], "questions: expected a list of texts"),
    ):
        if message is not None:
            with pytest.raises(ValueError, match=message):
                model.answer(*arguments)
    # Nothing of a block fits beside the question: there is no span, and no answer.
    assert model.answer(["the " * 100], max_length=3) == [[]]


@both
def test_recomputed_activations(framework: Framework, fast_retriever: RealmRetriever) -> None:
    inputs = asked(fast_retriever, QUESTIONS)
    inputs["answer_ids"] = padded(answer_ids(fast_retriever))
    model = openqa(framework, fast_retriever)
    loss, expected = gradients(framework, model, inputs)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.reader.is_gradient_checkpointing
    again, got = gradients(framework, model, inputs)
    assert again == pytest.approx(loss, 1e-5)
    assert_same(got, expected, 1e-4)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


# The poolers and heads that no loss depends on.
unused_weights = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")


@unused_weights
def test_fit(fast_retriever: RealmRetriever) -> None:
    """Labels among the inputs, retrieval and tokenization inside the step, also in a graph."""
    import keras

    inputs = asked(fast_retriever, QUESTIONS * 2)
    inputs["answer_ids"] = padded(answer_ids(fast_retriever) * 2)
    losses = []
    for eager, epochs in ((True, 1), (False, 4)):
        model = openqa(KERAS, fast_retriever, num_hidden_layers=1)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=eager, jit_compile=False)
        history = model.fit(inputs, batch_size=3, epochs=epochs, shuffle=False, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[0], losses[1][:1], 1e-4)
    assert losses[1][-1] < losses[1][0]
    found = model.predict({name: inputs[name] for name in ("input_ids", "attention_mask")},
                          batch_size=4, verbose=0)  # fmt: skip
    assert found["predicted_answer_ids"].shape == (6, 6)
    assert (found["predicted_answer_ids"][:3] == found["predicted_answer_ids"][3:]).all()


@unused_weights
def test_fit_of_the_other_models() -> None:
    import keras

    for name in ("knowledge-aug", "reader"):
        model = KERAS.build(CASE[name], num_hidden_layers=1)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        inputs = make_inputs(CASE[name])
        history = model.fit(inputs, batch_size=2, epochs=3, shuffle=False, verbose=0).history
        assert history["loss"][-1] < history["loss"][0]


def test_keras_own_files(tmp_path: Path) -> None:
    """Of a scorer with two embedders, which the constructor is given."""
    import keras

    own = KERAS.build(CASE["embedder"])
    model = KERAS.model_class("RealmScorer")(make_config(CASE["scorer"]), own)
    inputs = make_inputs(CASE["scorer"])
    expected = KERAS.outputs(model, inputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.query_embedder is not loaded.embedder
    assert_same(KERAS.outputs(loaded, inputs), expected)


def test_the_difference_table(tmp_path: Path) -> None:
    """Of embedder and reader, which is all that the two frameworks compute."""
    from converters.verify import verify

    openqa(TORCH).save_pretrained(tmp_path)
    rows = verify(tmp_path)
    assert all(row.passed for row in rows)
    found = {row.name for row in rows}
    assert {"embedder projected_score", "reader reader_loss", "loss"} < found


@both
def test_strangers_are_refused(framework: Framework, tmp_path: Path) -> None:
    """A reader's file is no embedder's: what is missing is said."""
    framework.build(CASE["reader"]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="the head 'cls' is there in part, without cls.dense"):
        framework.model_class("RealmEmbedder").from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        framework.model_class("RealmForOpenQA").from_pretrained(tmp_path)


def test_texts_to_vectors_in_a_graph(vocabulary: Path) -> None:
    """What `zoo export` writes for an embedder."""
    import tensorflow as tf

    from tf_models import text_heads

    model, tokenizer = (
        KERAS.build(CASE["embedder"], vocab_size=len(PIECES)),
        RealmTokenizer(vocabulary),
    )
    head = text_heads.text_head(model, tokenizer, max_length=24, top_k=1, max_answer_length=1)
    texts = records()[:3]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="np")
    expected = KERAS.outputs(model, dict(batch))["projected_score"]
    got = head(tf.constant(texts))
    assert got.keys() == head.outputs.keys() == {"embedding"}
    np.testing.assert_allclose(got["embedding"], expected, 1e-5, 1e-5)

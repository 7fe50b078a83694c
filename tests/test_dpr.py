"""DPR: encoders of questions and passages, the reader, and its tokenizer's ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    DPR_CASES,
    HEADS,
    HIDDEN,
    LAYERS,
    OUTPUT_TOLERANCE,
    SEQUENCE,
    Case,
    make_config,
    make_inputs,
    names,
    numbers,
)
from frameworks import KERAS, TORCH, Framework, flat

from zoo import (
    AutoTokenizer,
    DPRConfig,
    DPRContextEncoderTokenizer,
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoderTokenizer,
    DPRQuestionEncoderTokenizerFast,
    DPRReaderTokenizer,
    DPRReaderTokenizerFast,
)
from zoo.outputs import DPRContextEncoderOutput, DPRQuestionEncoderOutput, DPRReaderOutput

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
every_case = pytest.mark.parametrize("case", DPR_CASES, ids=names(DPR_CASES))
SAME = 5e-6


def assert_same(got: Any, expected: Any, tolerance: float = SAME) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


# The models.


@both
@every_case
def test_what_is_returned(framework: Framework, case: Case) -> None:
    model, inputs = framework.build(case), make_inputs(case)
    plain = framework.outputs(model, inputs)
    assert {name: value.shape for name, value in plain.items()} == dict(case.shapes)
    asked = {"output_attentions": True, "output_hidden_states": True}
    more = framework.outputs(model, inputs, **asked)
    expected = {f"hidden_states.{i}": (BATCH, SEQUENCE, HIDDEN) for i in range(LAYERS + 1)}
    expected |= {f"attentions.{i}": (BATCH, HEADS, SEQUENCE, SEQUENCE) for i in range(LAYERS)}
    assert {n: x.shape for n, x in more.items() if n not in plain} == expected
    assert_same({name: more[name] for name in plain}, plain)
    as_tuple = framework.call(model, inputs, return_dict=False, **asked)
    assert type(as_tuple) is tuple
    assert_same(flat(as_tuple), flat(framework.call(model, inputs, **asked).to_tuple()))
    kinds = {
        "DPRQuestionEncoder": DPRQuestionEncoderOutput,
        "DPRContextEncoder": DPRContextEncoderOutput,
        "DPRReader": DPRReaderOutput,
    }
    assert type(framework.call(model, inputs)) is kinds[case.model]


@every_case
def test_frameworks_agree(case: Case, tmp_path: Path) -> None:
    model, inputs = TORCH.build(case), make_inputs(case)
    model.save_pretrained(tmp_path)
    keras = KERAS.model_class(case.model).from_pretrained(tmp_path)
    expected = TORCH.outputs(model, inputs)
    assert_same(KERAS.outputs(keras, inputs), expected, OUTPUT_TOLERANCE)
    keras.save_pretrained(tmp_path / "again")
    files = [folder / "model.safetensors" for folder in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@both
def test_padding_is_not_attended_to_by_default(framework: Framework) -> None:
    """The encoders know padding by its id; the reader is told by a mask."""
    for name in ("dpr-question", "dpr-passage", "dpr-reader"):
        model = framework.build(CASE[name])
        ids = make_inputs(CASE[name])["input_ids"]
        ids[ids == 0] = 7
        ids[1, 6:] = 0
        plain = framework.outputs(model, {"input_ids": ids})
        told = framework.outputs(
            model, {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
        )
        all_seen = framework.outputs(model, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert_same(plain, all_seen if name == "dpr-reader" else told)
        key = next(iter(plain))
        assert np.abs(told[key] - all_seen[key]).max() > 1e-3
        # With embeddings nobody knows.
        words = {n: x for n, x in framework.weights(model).items() if "word_embed" in n}
        embeds = next(iter(words.values()))[ids]
        assert_same(framework.outputs(model, {"inputs_embeds": embeds}), all_seen)


@both
@pytest.mark.parametrize("kind", ["absolute", "relative_key"])
def test_positions_are_added_only_where_attention_knows_none(
    framework: Framework, kind: str
) -> None:
    case = CASE["dpr-question"]
    model, inputs = framework.build(case, position_embedding_type=kind), make_inputs(case)
    before = framework.outputs(model, inputs)["pooler_output"]
    weights = framework.weights(model)
    name = "question_encoder.bert_model.embeddings.position_embeddings.weight"
    weights[name] = weights[name] + numbers("more").standard_normal(weights[name].shape)
    framework.set_weights(model, weights)
    after = framework.outputs(model, inputs)["pooler_output"]
    assert (np.abs(after - before).max() > 1e-2) == (kind == "absolute")


@both
def test_the_vector_is_the_first_tokens(framework: Framework) -> None:
    case = CASE["dpr-passage"]
    model, inputs = framework.build(case), make_inputs(case)
    got = framework.outputs(model, inputs, output_hidden_states=True)
    weights = framework.weights(model)
    weight, bias = (weights[f"ctx_encoder.encode_proj.{x}"] for x in ("weight", "bias"))
    expected = got[f"hidden_states.{LAYERS}"][:, 0] @ weight.T + bias
    np.testing.assert_allclose(got["pooler_output"], expected, 1e-5, 1e-5)


@both
def test_gradients_reach_every_weight(framework: Framework) -> None:
    case = CASE["dpr-question"]
    model, inputs = framework.build(case), make_inputs(case)
    found = gradients(framework, model, inputs)
    names_ = set(framework.weights(model))
    assert found.keys() == names_ and all(np.abs(x).max() > 0 for x in found.values())
    model.gradient_checkpointing_enable()
    again = gradients(framework, model, inputs)
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, 1e-4, 1e-6, err_msg=name)


def gradients(framework: Framework, model: Any, inputs: Any) -> Any:
    """Of the sum of the squared vectors."""
    if framework is TORCH:
        model.train().zero_grad()
        output = model(**{n: framework.tensor(x) for n, x in inputs.items()})
        output.pooler_output.square().sum().backward()
        return {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
    import tensorflow as tf

    from tf_models.modeling import named_weights

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(framework.call(model, inputs, training=True).pooler_output ** 2)
    named = dict(named_weights(model))
    found = tape.gradient(loss, [weight.variable.value for weight in named.values()])
    return {
        n: (x.T if w.transposed else x)
        for (n, w), x in zip(
            named.items(), (tf.convert_to_tensor(x).numpy() for x in found), strict=True
        )
    }


@both
def test_a_released_files_pooler_is_passed_over(
    framework: Framework, tmp_path: Path, caplog: Any
) -> None:
    from zoo import checkpoint

    model = framework.build(CASE["dpr-question"])
    weights = dict(framework.weights(model))
    for part, shape in (("weight", (HIDDEN, HIDDEN)), ("bias", (HIDDEN,))):
        name = f"question_encoder.bert_model.pooler.dense.{part}"
        weights[name] = np.zeros(shape, np.float32)
    weights["question_encoder.bert_model.embeddings.position_ids"] = np.zeros((1, 29), np.int64)
    sources = {n: (str(x.dtype), x.shape, lambda x=x: x) for n, x in weights.items()}
    checkpoint.save(tmp_path, sources, config_text=model.config.to_json_string())
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and not caplog.records


@both
def test_one_encoders_file_does_not_open_in_the_other(framework: Framework, tmp_path: Path) -> None:
    framework.build(CASE["dpr-question"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="none of its .* keys belongs to the model"):
        framework.model_class("DPRContextEncoder").from_pretrained(tmp_path)


@both
def test_a_reader_projects_nothing(framework: Framework) -> None:
    config = make_config(CASE["dpr-reader"], projection_dim=5)
    with pytest.raises(ValueError, match="projection_dim: received 5, a reader has 0"):
        framework.model_class("DPRReader")(config)


@both
def test_resizing_and_auto(framework: Framework, tmp_path: Path) -> None:
    for name in ("dpr-question", "dpr-reader"):
        model = framework.build(CASE[name])
        table = model.resize_token_embeddings(70)
        assert model.config.vocab_size == 70 and table is model.get_input_embeddings()
        model.save_pretrained(tmp_path / name)
        opened = type(model).from_pretrained(tmp_path / name)
        assert_same(
            framework.outputs(opened, make_inputs(CASE[name])),
            framework.outputs(model, make_inputs(CASE[name])),
        )
    auto = getattr(framework.package(), f"{framework.prefix}AutoModel")
    opened = auto.from_pretrained(tmp_path / "dpr-question")
    assert type(opened).__name__ == f"{framework.prefix}DPRQuestionEncoder"


def test_impossible_configurations() -> None:
    with pytest.raises(ValueError, match="hidden_size: received 770, expected a multiple"):
        DPRConfig(hidden_size=770)
    with pytest.raises(ValueError, match="projection_dim: received -1"):
        DPRConfig(projection_dim=-1)


# The tokenizers.

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] who led the rome some text here more of same a b".split()


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dpr") / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in WORDS))
    return path


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


KINDS = pytest.mark.parametrize("kind", [DPRReaderTokenizer, DPRReaderTokenizerFast])


def test_files_and_auto(vocab_file: Path, tmp_path: Path) -> None:
    for slow, fast in (
        (DPRQuestionEncoderTokenizer, DPRQuestionEncoderTokenizerFast),
        (DPRContextEncoderTokenizer, DPRContextEncoderTokenizerFast),
        (DPRReaderTokenizer, DPRReaderTokenizerFast),
    ):
        slow(vocab_file).save_pretrained(tmp_path)
        assert type(AutoTokenizer.from_pretrained(tmp_path)) is fast
        assert type(AutoTokenizer.from_pretrained(tmp_path, use_fast=False)) is slow
        expected = {"input_ids", "attention_mask"}
        if "Reader" not in slow.__name__:
            expected.add("token_type_ids")
        assert set(fast(vocab_file)("who led")) == set(slow(vocab_file)("who led")) == expected
    pair = DPRContextEncoderTokenizer(vocab_file)("a b", "some text")
    assert pair["input_ids"] == ids("[CLS] a b [SEP] some text [SEP]")


@KINDS
def test_question_title_and_text(kind: type, vocab_file: Path) -> None:
    tokenizer = kind(vocab_file)
    rows = [ids("[CLS] who led [SEP] a b [SEP] some text here"),
            ids("[CLS] who led [SEP] the rome [SEP] more of the same")]  # fmt: skip
    titles, texts = ["a b", "the rome"], ["some text here", "more of the same"]
    got = tokenizer("who led", titles=titles, texts=texts)
    assert got["input_ids"] == rows and got["attention_mask"] == [[1] * len(row) for row in rows]
    assert tokenizer(["who led"] * 2, titles, texts)["input_ids"] == rows
    assert tokenizer("who led", "a b", "some text here")["input_ids"] == rows[:1]
    padded = tokenizer("who led", titles, texts, padding=True, return_tensors="np")
    assert padded["input_ids"].shape == (2, 11)
    assert padded["input_ids"][0, -1] == 0 and padded["attention_mask"].sum() == 10 + 11
    longer = tokenizer("who led", titles, texts, padding="max_length", max_length=12)
    assert [len(row) for row in longer["input_ids"]] == [12, 12]
    cut = tokenizer("who led", titles, texts, truncation=True, max_length=7)
    assert cut["input_ids"] == [row[:7] for row in rows]
    assert set(tokenizer("who led", titles, texts, return_attention_mask=False)) == {"input_ids"}
    assert tokenizer("who led")["input_ids"] == ids("[CLS] who led [SEP]")
    assert tokenizer("who led", titles=["a"])["input_ids"] == [ids("[CLS] who led [SEP] a [SEP]")]
    assert tokenizer("who led", texts="a")["input_ids"] == ids("[CLS] who led [SEP] a [SEP]")
    with pytest.raises(ValueError, match="texts: expected 2, as many as titles, got 1"):
        tokenizer("who led", titles, texts[:1])
    with pytest.raises(ValueError, match="questions: expected one or 2, as many as titles, got 3"):
        tokenizer(["who"] * 3, titles, texts)
    with pytest.raises(TypeError, match="there is no .'stride'"):
        tokenizer("who", titles, texts, stride=1)


@KINDS
def test_best_spans(kind: type, vocab_file: Path) -> None:
    tokenizer = kind(vocab_file)
    inputs = tokenizer(
        "who led", ["a", "the rome"], ["some text here", "more of the same"], padding=True,
        return_tensors="np",
    )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    start, end = np.zeros((2, length)), np.zeros((2, length))
    start[0, 6], end[0, 7] = 5.0, 3.0  # some text
    start[0, 1] = end[0, 1] = 99.0  # of the question: no answer
    end[0, length - 1] = 99.0  # padding
    start[1, 7], end[1, 8] = 4.0, 2.0  # more of
    output = (start, end, np.array([0.5, 2.0]))
    spans = tokenizer.decode_best_spans(inputs, output)
    assert [span.doc_id for span in spans] == [1, 1, 1, 1, 0, 0, 0, 0]
    best = spans[4]
    assert (best.text, best.span_score, best.relevance_score) == ("some text", 8.0, 0.5)
    assert (best.start_index, best.end_index) == (6, 7)
    assert (spans[0].text, spans[0].span_score) == ("more of", 6.0)
    for passage in (spans[:4], spans[4:]):  # none lies inside another
        for one in passage:
            for other in passage:
                if one is not other:
                    inside = one.start_index >= other.start_index and (
                        one.end_index <= other.end_index
                    )
                    assert not inside
    assert tokenizer.decode_best_spans(inputs, output, num_spans=5) == spans[:5]
    few = tokenizer.decode_best_spans(inputs, output, num_spans_per_passage=1)
    assert few == [spans[0], spans[4]]
    short = tokenizer.decode_best_spans(inputs, output, max_answer_length=1)
    assert all(span.start_index == span.end_index for span in short)


@both
def test_from_questions_to_answers(framework: Framework, vocab_file: Path) -> None:
    """A call's output goes into the model, and the model's into the answers, as they are."""
    tokenizer = DPRReaderTokenizerFast(vocab_file)
    tensors = {"pt": "pt", "tf": "tf"}[framework.name]
    inputs = tokenizer(
        "who led", ["a b", "rome"], ["some text", "more of the same"], padding=True,
        return_tensors=tensors,
    )  # fmt: skip
    output = framework.build(CASE["dpr-reader"])(**inputs)
    spans = tokenizer.decode_best_spans(inputs, output, num_spans=3)
    assert len(spans) == 3 and all(isinstance(span.text, str) for span in spans)
    assert isinstance(spans[0].span_score, float)

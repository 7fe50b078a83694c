"""Questions that every model has to answer, asked of both frameworks in the same words."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    CASES,
    CHOICES,
    CROSS,
    ENCODER,
    HEAD_CASES,
    HEADS,
    HIDDEN,
    INPUT,
    LABELS,
    LAYERS,
    POSITIONS,
    SEQUENCE,
    SINGLE_CASES,
    TYPES,
    VOCAB,
    Arrays,
    Case,
    make_inputs,
    names,
    numbers,
    without_labels,
)
from frameworks import KERAS, TORCH, Framework, flat

from zoo.configs import RemBertConfig

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
every_case = pytest.mark.parametrize("case", CASES, ids=names(CASES))
every_single_case = pytest.mark.parametrize("case", SINGLE_CASES, ids=names(SINGLE_CASES))
every_head = pytest.mark.parametrize("case", HEAD_CASES, ids=names(HEAD_CASES))
PLAIN_HEADS = [case for case in HEAD_CASES if case in CASES]
every_plain_head = pytest.mark.parametrize("case", PLAIN_HEADS, ids=names(PLAIN_HEADS))

# Within one framework, two ways to the same numbers.
SAME = 5e-6


@cache
def shared(framework: Framework, name: str) -> Any:
    """A model that no test changes."""
    return framework.build(CASE[name])


def assert_same(got: Arrays, expected: Arrays, tolerance: float = SAME) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


def differ(one: Arrays, other: Arrays) -> bool:
    return any(np.abs(one[name] - other[name]).max() > 1e-3 for name in one)


# Shapes and forms of what comes out.


@both
@every_case
def test_shapes(framework: Framework, case: Case) -> None:
    got = framework.outputs(shared(framework, case.name), make_inputs(case))
    assert {name: value.shape for name, value in got.items()} == dict(case.shapes)
    assert all(value.dtype == np.float32 for value in got.values())
    assert all(np.isfinite(value).all() for value in got.values())


@both
@every_single_case
def test_attentions_and_hidden_states(framework: Framework, case: Case) -> None:
    """Asking for more changes nothing else, though the explicit path computes it."""
    model, inputs = shared(framework, case.name), make_inputs(case)
    plain = framework.outputs(model, inputs)
    more = framework.outputs(model, inputs, output_attentions=True, output_hidden_states=True)
    assert_same({name: more[name] for name in plain}, plain)
    rest = {name: value.shape for name, value in more.items() if name not in plain}
    rows = BATCH * (CHOICES if case.model.endswith("MultipleChoice") else 1)
    expected = {f"hidden_states.{i}": (rows, SEQUENCE, HIDDEN) for i in range(LAYERS + 1)}
    expected |= {f"attentions.{i}": (rows, HEADS, SEQUENCE, SEQUENCE) for i in range(LAYERS)}
    if case.config.get("add_cross_attention"):
        expected |= {
            f"cross_attentions.{i}": (rows, HEADS, SEQUENCE, ENCODER) for i in range(LAYERS)
        }
    assert rest == expected
    for name in rest:
        if "attentions" in name:
            np.testing.assert_allclose(more[name].sum(-1), 1.0, 1e-5)


@both
@every_case
def test_tuples(framework: Framework, case: Case) -> None:
    """`return_dict=False` gives the fields in their order; the pooler has its place always."""
    model, inputs = shared(framework, case.name), make_inputs(case)
    asked = {"output_attentions": True, "output_hidden_states": True}
    named = framework.call(model, inputs, **asked)
    plain = framework.call(model, inputs, return_dict=False, **asked)
    assert type(plain) is tuple
    expected = list(named.to_tuple())
    if case.is_seq2seq and "RemBert" in case.config["encoder"]:
        assert plain[-3].shape == (BATCH, HIDDEN)  # the pooler's place in the encoder's tuple
        plain = (*plain[:-3], *plain[-2:])
    if case.model == "RemBertModel":
        # The published order puts the caches before the hidden states here.
        expected = [named.last_hidden_state, named.pooler_output, named.past_key_values]
        expected += [named.hidden_states, named.attentions]
        expected = [x for i, x in enumerate(expected) if x is not None or i == 1]
    assert len(plain) == len(expected)
    assert [x is None for x in plain] == [x is None for x in expected]
    assert_same(flat(plain), flat(expected))


@both
def test_an_output_answers_to_everything(framework: Framework) -> None:
    case = CASE["masked-lm"]
    output = framework.call(shared(framework, case.name), make_inputs(case))
    assert list(output) == list(output.keys()) == ["loss", "logits"]
    assert len(output) == 2 and "loss" in output and "attentions" not in output
    assert output.loss is output["loss"] is output[0] is output.to_tuple()[0]
    assert output.logits is output[-1] is output[:2][1] is output[1:][0]
    assert output.attentions is None and output.get("attentions") is None
    loss, logits = output.to_tuple()
    assert loss is output.loss and logits is output.logits
    assert dict(**output).keys() == {"loss", "logits"}
    with pytest.raises(AttributeError, match="has no field 'pooler_output'"):
        _ = output.pooler_output
    with pytest.raises(KeyError, match="nonsense"):
        output["nonsense"] = 1
    with pytest.raises(KeyError):
        _ = output["attentions"]
    with pytest.raises(IndexError):
        _ = output[2]
    copied = copy.copy(output)
    copied.loss = None
    assert list(copied) == ["logits"] and copied[0] is output.logits and "loss" in output


@both
def test_the_config_says_what_is_returned_by_default(framework: Framework) -> None:
    case, asked = CASE["token-labels"], {"output_attentions": True, "output_hidden_states": True}
    model = framework.build(case, **asked)
    inputs = make_inputs(case)
    output = framework.call(model, inputs)
    assert list(output) == ["loss", "logits", "hidden_states", "attentions"]
    quiet = framework.call(model, inputs, output_attentions=False, output_hidden_states=False)
    assert list(quiet) == ["loss", "logits"]
    plain = framework.build(case, return_dict=False)
    assert type(framework.call(plain, inputs)) is tuple
    assert list(framework.call(plain, inputs, return_dict=True)) == ["loss", "logits"]


# Masks.


WITHOUT_LABELS = [c for c in CASES if not c.is_seq2seq or "decoder_input_ids" in c.inputs]


@both
@pytest.mark.parametrize("case", WITHOUT_LABELS, ids=names(WITHOUT_LABELS))
def test_padding_is_not_seen(framework: Framework, case: Case) -> None:
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    mask = inputs["attention_mask"].astype(bool)
    other = inputs | {"input_ids": np.where(mask, inputs["input_ids"], 17)}
    if "encoder_attention_mask" in inputs:
        kept = inputs["encoder_attention_mask"][..., None].astype(bool)
        other["encoder_hidden_states"] = np.where(kept, inputs["encoder_hidden_states"], 3.0)
    assert (other["input_ids"] != inputs["input_ids"]).any()

    def visible(outputs: Arrays) -> Arrays:
        found = {}
        for name, value in outputs.items():
            if name.startswith("past_key_values"):
                continue
            if name == "pooler_output" and not mask[:, 0].all():
                continue  # of a token that is padding
            positions = value.shape[1:2] == (SEQUENCE,) and value.shape[0] == BATCH
            found[name] = value[mask] if positions else value
        return found

    one, two = framework.outputs(model, inputs), framework.outputs(model, other)
    assert_same(visible(one), visible(two))
    unmasked = {name: value for name, value in other.items() if "attention_mask" not in name}
    assert differ(visible(one), visible(framework.outputs(model, unmasked)))


@both
@pytest.mark.parametrize("name", ["masked-lm", "causal-lm"])
def test_left_padding_with_position_ids_equals_no_padding(framework: Framework, name: str) -> None:
    model, rng = shared(framework, name), numbers("left")
    ids = rng.integers(1, VOCAB, (1, 7))
    padded = np.concatenate([np.full((1, 4), 5), ids], axis=1)
    mask = np.concatenate([np.zeros((1, 4), np.int64), np.ones((1, 7), np.int64)], axis=1)
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    expected = framework.outputs(model, {"input_ids": ids})["logits"]
    inputs = {"input_ids": padded, "attention_mask": mask, "position_ids": positions}
    got = framework.outputs(model, inputs)["logits"]
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:, 4:], expected, SAME, SAME)


@both
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32, np.bool_])
@pytest.mark.parametrize("name", ["masked-lm", "causal-lm"])
def test_masks_of_every_type(framework: Framework, name: str, kind: type) -> None:
    case = CASE[name]
    inputs = without_labels(make_inputs(case))
    model, mask = shared(framework, name), inputs["attention_mask"]
    expected = framework.outputs(model, inputs)["logits"]
    got = framework.outputs(model, inputs | {"attention_mask": mask.astype(kind)})["logits"]
    np.testing.assert_allclose(got, expected, SAME, SAME)
    # The same as a mask over pairs of queries and keys.
    square = np.repeat(mask[:, None], SEQUENCE, axis=1)
    if name == "causal-lm":
        square = np.tril(square)
    got = framework.outputs(model, inputs | {"attention_mask": square.astype(kind)})["logits"]
    np.testing.assert_allclose(got, expected, SAME, SAME)


@both
def test_a_square_mask_makes_an_encoder_causal(framework: Framework) -> None:
    ids = numbers("square").integers(0, VOCAB, (BATCH, SEQUENCE))
    mask = np.broadcast_to(np.tril(np.ones((SEQUENCE, SEQUENCE), np.int64)), (BATCH, 11, 11))
    got = framework.outputs(shared(framework, "model"), {"input_ids": ids, "attention_mask": mask})
    expected = framework.outputs(
        shared(framework, "model-decoder"), {"input_ids": ids}, use_cache=False
    )
    assert_same(got, expected)


@both
@pytest.mark.parametrize("name", ["masked-lm", "causal-lm", "causal-lm-cross"])
def test_rows_that_may_attend_to_nothing_give_numbers(framework: Framework, name: str) -> None:
    case = CASE[name]
    model, inputs = shared(framework, name), make_inputs(case)
    for mask in [key for key in inputs if key.endswith("attention_mask")]:
        inputs[mask][1] = 0
    plain = framework.outputs(model, inputs)
    got = framework.outputs(model, inputs, output_attentions=True)
    assert all(np.isfinite(value).all() for value in got.values())
    assert_same({key: got[key] for key in plain}, plain)
    # They attend to everything alike, as the published classes do.
    np.testing.assert_allclose(got["attentions.0"][1], 1 / SEQUENCE, 1e-6)
    if name == "causal-lm-cross":
        np.testing.assert_allclose(got["cross_attentions.1"][1], 1 / ENCODER, 1e-6)
    loss, gradients = framework.gradients(model, inputs)
    assert np.isfinite(loss) and all(np.isfinite(value).all() for value in gradients.values())


@both
def test_head_masks(framework: Framework) -> None:
    case = CASE["masked-lm"]
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    plain = framework.outputs(model, inputs)

    def masked(mask: Any) -> Arrays:
        return framework.outputs(model, inputs | {"head_mask": np.array(mask, np.float32)})

    assert_same(masked(np.ones(HEADS)), plain)
    assert_same(masked(np.ones((LAYERS, HEADS))), plain)
    one = [1.0, 0.0, 1.0, 1.0]
    assert_same(masked(one), masked([one, one]))
    assert differ(masked(one), plain)
    assert differ(masked([one, [1.0] * 4]), masked([[1.0] * 4, one]))
    # A silenced head is one whose part of the projection is zero.
    layer = "rembert.encoder.layer.0.attention.output.dense.weight"
    other = framework.build(case)
    weights = framework.weights(other)
    weights[layer][:, 8:16] = 0
    framework.set_weights(other, weights)
    assert_same(masked([one, [1.0] * 4]), framework.outputs(other, inputs))


# Other inputs.


@both
def test_inputs_embeds_take_the_place_of_input_ids(framework: Framework) -> None:
    case = CASE["masked-lm"]
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    table = framework.weights(model)["rembert.embeddings.word_embeddings.weight"]
    ids = inputs.pop("input_ids")
    got = framework.outputs(model, inputs | {"inputs_embeds": table[ids]})
    assert_same(got, framework.outputs(model, inputs | {"input_ids": ids}))


@both
def test_inputs_embeds_of_choices(framework: Framework) -> None:
    case = CASE["multiple-choice"]
    model, inputs = shared(framework, case.name), make_inputs(case)
    table = framework.weights(model)["rembert.embeddings.word_embeddings.weight"]
    expected = framework.outputs(model, inputs)
    embeds = table[inputs.pop("input_ids")]
    assert_same(framework.outputs(model, inputs | {"inputs_embeds": embeds}), expected)


@both
def test_positions_and_types(framework: Framework) -> None:
    model = shared(framework, "model")
    ids = numbers("positions").integers(0, VOCAB, (BATCH, SEQUENCE))
    plain = framework.outputs(model, {"input_ids": ids})
    positions = np.broadcast_to(np.arange(SEQUENCE), ids.shape).copy()
    types = np.zeros_like(ids)
    for given in (
        {"position_ids": positions},
        {"position_ids": positions[:1]},
        {"token_type_ids": types},
        {"token_type_ids": types[:1]},
        {"token_type_ids": types, "position_ids": positions},
    ):
        assert_same(framework.outputs(model, {"input_ids": ids} | given), plain)
    for given in ({"position_ids": positions[:, ::-1]}, {"token_type_ids": types + 1}):
        assert differ(framework.outputs(model, {"input_ids": ids} | given), plain)


@both
@every_single_case
@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (2, POSITIONS)])
def test_every_size(framework: Framework, case: Case, batch: int, sequence: int) -> None:
    """Also the smallest; and an example does not depend on its neighbours."""
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    rng = numbers("sizes")
    middle = inputs["input_ids"].shape[1:-1]
    ids = rng.integers(1, VOCAB, (batch, *middle, sequence))
    got = framework.outputs(model, {"input_ids": ids})
    assert all(np.isfinite(value).all() and len(value) == batch for value in got.values())
    if batch > 1:
        assert_same(
            {name: value[1:] for name, value in got.items()},
            framework.outputs(model, {"input_ids": ids[1:]}),
        )


@both
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_ids_of_both_integer_types(framework: Framework, kind: type) -> None:
    case = CASE["token-labels"]
    inputs = make_inputs(case)
    expected = framework.outputs(shared(framework, case.name), inputs)
    cast = {name: value.astype(kind) for name, value in inputs.items()}
    assert_same(framework.outputs(shared(framework, case.name), cast), expected)


# Decoders.


@both
@pytest.mark.parametrize("name", ["causal-lm", "causal-lm-cross", "model-decoder"])
def test_a_decoder_ignores_the_future(framework: Framework, name: str) -> None:
    case = CASE[name]
    model, inputs = shared(framework, name), without_labels(make_inputs(case))
    del inputs["attention_mask"]
    one = framework.outputs(model, inputs)
    inputs["input_ids"][:, 6:] = (inputs["input_ids"][:, 6:] + 1) % VOCAB
    two = framework.outputs(model, inputs)
    main = "logits" if "logits" in one else "last_hidden_state"
    np.testing.assert_allclose(one[main][:, :6], two[main][:, :6], SAME, SAME)
    assert np.abs(one[main][:, 6:] - two[main][:, 6:]).max() > 1e-3


@both
@pytest.mark.parametrize("split", [[1] * SEQUENCE, [4, 1, 6], [10, 1], [1, 10]], ids=str)
@pytest.mark.parametrize("name", ["causal-lm", "causal-lm-cross"])
def test_a_cache_changes_nothing(framework: Framework, name: str, split: list[int]) -> None:
    case = CASE[name]
    model, inputs = shared(framework, name), without_labels(make_inputs(case))
    mask = inputs["attention_mask"]
    mask[0, :2] = 0  # left padding too, and a hole
    mask[0, 5] = 0
    asked = {"output_attentions": True, "output_hidden_states": True}
    whole = framework.outputs(model, inputs, **asked)
    cached, start, pieces = None, 0, []
    for length in split:
        end = start + length
        piece = inputs | {
            "input_ids": inputs["input_ids"][:, start:end],
            "token_type_ids": inputs["token_type_ids"][:, start:end],
            "attention_mask": mask[:, :end],
        }
        output = framework.call(model, piece, past_key_values=cached, use_cache=True, **asked)
        cached, start = output.past_key_values, end
        pieces.append(flat(output))
    joined = np.concatenate([piece["logits"] for piece in pieces], axis=1)
    # A position that may attend to nothing attends to all it is shown: not comparable.
    live = np.cumsum(mask, axis=1) > 0
    np.testing.assert_allclose(joined[live], whole["logits"][live], 1e-5, 1e-5)
    last = {name: value for name, value in pieces[-1].items() if name.startswith("past")}
    assert last.keys() == {name for name in whole if name.startswith("past")}
    if mask[1].all():
        np.testing.assert_allclose(last["past_key_values.1.0"][1], whole["past_key_values.1.0"][1])
    # Attention reaches over the past.
    assert pieces[-1]["attentions.0"].shape == (BATCH, HEADS, split[-1], SEQUENCE)


@both
def test_caches_only_where_they_are_asked_for(framework: Framework) -> None:
    case = CASE["causal-lm"]
    model, inputs = shared(framework, case.name), make_inputs(case)
    assert "past_key_values" not in framework.call(model, inputs, use_cache=False)
    silent = framework.build(case, use_cache=False)
    assert "past_key_values" not in framework.call(silent, inputs)
    assert "past_key_values" in framework.call(silent, inputs, use_cache=True)
    # An encoder has none.
    assert "past_key_values" not in framework.call(
        shared(framework, "model"), without_labels(make_inputs(CASE["model"])), use_cache=True
    )


@both
def test_cross_attention_sees_the_encoder(framework: Framework) -> None:
    case = CASE["causal-lm-cross"]
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    plain = framework.outputs(model, inputs, output_attentions=True)
    masked = inputs["encoder_attention_mask"] == 0
    assert masked.any()
    weights = plain["cross_attentions.0"].transpose(0, 3, 1, 2)
    assert weights[masked].max() == 0 and weights[~masked].min() > 0
    for change in (
        {"encoder_hidden_states": inputs["encoder_hidden_states"][:, ::-1]},
        {"encoder_attention_mask": np.ones_like(inputs["encoder_attention_mask"])},
    ):
        assert differ(framework.outputs(model, inputs | change, output_attentions=True), plain)
    # A mask over pairs of decoder and encoder positions.
    square = np.repeat(inputs["encoder_attention_mask"][:, None], SEQUENCE, axis=1)
    got = framework.outputs(
        model, inputs | {"encoder_attention_mask": square}, output_attentions=True
    )
    assert_same(got, plain)
    # Without an encoder it is a plain decoder.
    alone = {name: value for name, value in inputs.items() if not name.startswith("encoder")}
    assert "cross_attentions" not in framework.call(model, alone, output_attentions=True)


@both
def test_a_masked_lm_can_attend_to_an_encoder(framework: Framework) -> None:
    model = framework.build(CASE["masked-lm"], **CROSS)
    inputs = make_inputs(CASE["causal-lm-cross"])
    with_encoder = framework.outputs(model, inputs)
    assert "past_key_values.0.0" not in with_encoder
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"] + 1
    assert differ(framework.outputs(model, inputs), with_encoder)


@both
@pytest.mark.parametrize("chunk", [1, 4, 11, 50])
def test_a_chunked_feed_forward_is_the_same(framework: Framework, chunk: int) -> None:
    case = CASE["token-labels"]
    model = framework.build(case, chunk_size_feed_forward=chunk)
    inputs = make_inputs(case)
    expected = framework.outputs(shared(framework, case.name), inputs)
    assert_same(framework.outputs(model, inputs), expected)


@both
def test_the_feed_forward_does_run_in_chunks(framework: Framework) -> None:
    case, widths = CASE["model"], []
    model = framework.build(case, chunk_size_feed_forward=4)
    part = model.encoder.layer[0].intermediate
    part.activation = lambda x: (widths.append(int(x.shape[1])), x)[1]
    framework.outputs(model, without_labels(make_inputs(case)))
    assert widths == [4, 4, 3]


# Losses.


@both
@every_head
def test_gradients_reach_every_weight(framework: Framework, case: Case) -> None:
    model = framework.build(case)
    _, gradients = framework.gradients(model, make_inputs(case))
    tied = model.tied_weights()
    assert gradients.keys() == {
        name for name in framework.weights(model) if name not in tied and case.is_used(name)
    }
    dead = [name for name, value in gradients.items() if not np.abs(value).max() > 0]
    assert not dead
    # The row of padding is not trained, but as the output for padding.
    for table in [name for name in gradients if name.endswith("word_embeddings.weight")]:
        assert gradients[table][0].any() == (table in tied.values()) and gradients[table][1:].any()


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def mean_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    kept = labels >= 0
    each = -np.take_along_axis(log_softmax(logits), np.where(kept, labels, 0)[..., None], -1)
    return each[..., 0][kept].mean()


@both
@every_plain_head
def test_losses_as_written_out(framework: Framework, case: Case) -> None:
    inputs = make_inputs(case)
    got = framework.outputs(shared(framework, case.name), inputs)
    labels = inputs.get("labels")
    if case.name == "question-answering":
        expected = 0.0
        for side in ("start", "end"):
            place = inputs[f"{side}_positions"]
            place = np.where(place < SEQUENCE, place, -100)
            expected += mean_cross_entropy(got[f"{side}_logits"], place) / 2
    elif case.name.startswith("causal"):
        expected = mean_cross_entropy(got["logits"][:, :-1], labels[:, 1:])
    elif case.name == "regression":
        expected = np.mean((got["logits"][:, 0] - labels) ** 2)
    elif case.name == "multi-label":
        p = 1 / (1 + np.exp(-got["logits"]))
        expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    else:
        expected = mean_cross_entropy(got["logits"], labels)
    np.testing.assert_allclose(got["loss"], expected, 1e-5)


@both
@pytest.mark.parametrize(
    "name", ["masked-lm", "causal-lm", "single-label", "token-labels", "multiple-choice"]
)
def test_labels_that_are_all_ignored_give_zero(framework: Framework, name: str) -> None:
    case = CASE[name]
    inputs = make_inputs(case)
    inputs["labels"][:] = -100
    loss, gradients = framework.gradients(framework.build(case), inputs)
    assert loss == 0
    assert all(not value.any() for value in gradients.values())


@both
def test_spans_outside_the_sequence_give_zero(framework: Framework) -> None:
    case = CASE["question-answering"]
    inputs = make_inputs(case)
    for name in case.label_names:
        inputs[name][:] = [SEQUENCE, SEQUENCE + 9, -1][: len(inputs[name])]
    # A negative position counts as the first one, as in the published classes.
    got = framework.outputs(shared(framework, case.name), inputs)
    expected = sum(-log_softmax(got[f"{side}_logits"])[2, 0] for side in ("start", "end")) / 2
    np.testing.assert_allclose(got["loss"], expected, 1e-5)
    for name in case.label_names:
        inputs[name][:] = SEQUENCE
    assert framework.outputs(shared(framework, case.name), inputs)["loss"] == 0


def problem_labels() -> Iterator[tuple[str, dict, np.ndarray, str]]:
    """Name, config, labels, and the problem they amount to."""
    rng = numbers("labels")
    classes, bits = rng.integers(0, LABELS, BATCH), rng.integers(0, 2, (BATCH, LABELS))
    values = rng.standard_normal((BATCH, LABELS)).astype(np.float32)
    several, single = {"num_labels": LABELS}, "single_label_classification"
    multi = "multi_label_classification"
    for kind in (np.int32, np.int64):
        yield f"{kind.__name__} classes", several, classes.astype(kind), single
    yield "column of classes", several, classes[:, None], single
    yield "classes, said so", several | {"problem_type": single}, classes, single
    yield "float classes, said so", several | {"problem_type": single}, classes * 1.0, single
    yield "bool bits", several, bits.astype(bool), multi
    yield "float bits", several, bits.astype(np.float32), multi
    yield "int bits, said so", several | {"problem_type": multi}, bits, multi
    yield "bool bits, said so", several | {"problem_type": multi}, bits.astype(bool), multi
    yield "soft bits", several, np.abs(np.sin(values)), multi
    yield "values", several | {"problem_type": "regression"}, values, "regression"
    yield "one value", {"num_labels": 1}, values[:, 0], "regression"
    yield "column of one value", {"num_labels": 1}, values[:, :1], "regression"
    yield "one double", {"num_labels": 1}, values[:, 0].astype(np.float64), "regression"
    yield "one integer", {"num_labels": 1}, classes, "regression"
    yield "one bit, said so", {"num_labels": 1, "problem_type": multi}, bits[:, :1], multi


PROBLEMS = list(problem_labels())


@cache
def classifier(framework: Framework, config: tuple) -> Any:
    return framework.build(CASE["single-label"], **dict(config))


@both
@pytest.mark.parametrize("problem", PROBLEMS, ids=[problem[0] for problem in PROBLEMS])
def test_labels_of_every_problem(framework: Framework, problem: tuple) -> None:
    _, config, labels, kind = problem
    model = classifier(framework, tuple(config.items()))
    inputs = make_inputs(CASE["single-label"]) | {"labels": labels}
    got = framework.outputs(model, inputs)
    logits, labels = got["logits"].astype(np.float64), labels.astype(np.float64)
    if kind == "single_label_classification":
        expected = mean_cross_entropy(logits, labels.reshape(-1).astype(int))
    elif kind == "regression":
        expected = np.mean((logits - labels.reshape(logits.shape)) ** 2)
    else:
        expected = np.mean(np.log1p(np.exp(logits)) - labels.reshape(logits.shape) * logits)
    assert got["loss"].shape == () and got["loss"].dtype == np.float32
    np.testing.assert_allclose(got["loss"], expected, 1e-5)


# Inputs that cannot be.


def ids(*shape: int) -> np.ndarray:
    return np.ones(shape or (BATCH, SEQUENCE), np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def cached(layers: int, parts: int) -> tuple:
    return ((floats(BATCH, HEADS, 2, HIDDEN // HEADS),) * parts,) * layers


TEXT = {"input_ids": ids()}
ENCODED = TEXT | {"encoder_hidden_states": floats(BATCH, ENCODER, HIDDEN)}
WRONG: list[tuple[str, str, dict, str]] = [
    # what, row, inputs, message
    ("neither", "model", {}, "either input_ids or inputs_embeds, got neither"),
    ("both", "model", TEXT | {"inputs_embeds": floats(BATCH, SEQUENCE, INPUT)}, "got both"),
    ("flat ids", "model", {"input_ids": ids(SEQUENCE)}, r"input_ids: .* got \(11,\)"),
    ("deep ids", "model", {"input_ids": ids(1, 2, 3)}, r"input_ids: .* got \(1, 2, 3\)"),
    (
        "embeds of another width",
        "model",
        {"inputs_embeds": floats(BATCH, SEQUENCE, INPUT + 1)},
        r"inputs_embeds: expected shape \(any, any, 24\), got \(3, 11, 25\)",
    ),
    (
        "too long",
        "model",
        {"input_ids": ids(1, POSITIONS + 1)},
        "30 positions, but config.max_position_embeddings is 29",
    ),
    (
        "too long embeds",
        "model",
        {"inputs_embeds": floats(1, POSITIONS + 1, INPUT)},
        "30 positions, but config.max_position_embeddings is 29",
    ),
    (
        "too long with the past",
        "causal-lm",
        {"input_ids": ids(BATCH, POSITIONS - 1), "past_key_values": cached(LAYERS, 2)},
        "30 positions, but config.max_position_embeddings is 29",
    ),
    (
        "mask of another length",
        "model",
        TEXT | {"attention_mask": ids(BATCH, SEQUENCE + 1)},
        r"attention_mask: expected shape \(3, 11\), got \(3, 12\)",
    ),
    (
        "mask of another batch",
        "model",
        TEXT | {"attention_mask": ids(BATCH + 1, SEQUENCE)},
        r"attention_mask: expected shape \(3, 11\), got \(4, 11\)",
    ),
    (
        "mask that is not square",
        "model",
        TEXT | {"attention_mask": ids(BATCH, SEQUENCE, SEQUENCE + 1)},
        r"attention_mask: expected shape \(3, 11, 11\), got \(3, 11, 12\)",
    ),
    (
        "mask of four dimensions",
        "model",
        TEXT | {"attention_mask": ids(BATCH, 1, SEQUENCE, SEQUENCE)},
        r"attention_mask: expected shape .* got \(3, 1, 11, 11\)",
    ),
    (
        "mask without the past",
        "causal-lm",
        TEXT | {"attention_mask": ids(), "past_key_values": cached(LAYERS, 2)},
        r"attention_mask: expected shape \(3, 13\), got \(3, 11\)",
    ),
    (
        "types of another length",
        "model",
        TEXT | {"token_type_ids": ids(BATCH, SEQUENCE - 1)},
        r"token_type_ids: expected shape \(3, 11\), got \(3, 10\)",
    ),
    (
        "positions of another length",
        "model",
        TEXT | {"position_ids": ids(BATCH, SEQUENCE - 1)},
        r"position_ids: expected shape \(3, 11\), got \(3, 10\)",
    ),
    (
        "types of another batch",
        "model",
        TEXT | {"token_type_ids": ids(BATCH - 1, SEQUENCE)},
        r"token_type_ids: expected shape \(3, 11\), got \(2, 11\)",
    ),
    (
        "head mask for other heads",
        "model",
        TEXT | {"head_mask": floats(HEADS + 1)},
        r"head_mask: expected shape \(4,\) or \(2, 4\), got \(5,\)",
    ),
    (
        "head mask for other layers",
        "model",
        TEXT | {"head_mask": floats(LAYERS + 1, HEADS)},
        r"head_mask: expected shape \(4,\) or \(2, 4\), got \(3, 4\)",
    ),
    (
        "encoder without cross-attention",
        "model-decoder",
        ENCODED,
        "encoder_hidden_states: this model has no cross-attention",
    ),
    (
        "encoder of another batch",
        "causal-lm-cross",
        TEXT | {"encoder_hidden_states": floats(BATCH + 1, ENCODER, HIDDEN)},
        r"encoder_hidden_states: expected shape \(3, any, 32\), got \(4, 9, 32\)",
    ),
    (
        "encoder of another width",
        "causal-lm-cross",
        TEXT | {"encoder_hidden_states": floats(BATCH, ENCODER, HIDDEN + 1)},
        r"encoder_hidden_states: expected shape \(3, any, 32\), got \(3, 9, 33\)",
    ),
    (
        "encoder mask of another length",
        "causal-lm-cross",
        ENCODED | {"encoder_attention_mask": ids(BATCH, ENCODER + 1)},
        r"encoder_attention_mask: expected shape \(3, 9\), got \(3, 10\)",
    ),
    (
        "encoder mask without encoder",
        "causal-lm-cross",
        TEXT | {"encoder_attention_mask": ids(BATCH, ENCODER)},
        "encoder_attention_mask: .* encoder_hidden_states",
    ),
    (
        "cache of other layers",
        "causal-lm",
        TEXT | {"past_key_values": cached(LAYERS + 1, 2)},
        "past_key_values: expected 2 layers .* got 3",
    ),
    (
        "cache without cross-attention",
        "causal-lm-cross",
        ENCODED | {"past_key_values": cached(LAYERS, 2)},
        "past_key_values: expected 2 layers of 4 tensors, got 2 of 2",
    ),
    (
        "ids without choices",
        "multiple-choice",
        TEXT,
        r"input_ids .*: expected shape \(batch, choices, sequence",
    ),
    (
        "no ids for choices",
        "multiple-choice",
        {},
        r"input_ids .*: expected shape \(batch, choices, sequence",
    ),
    (
        "only a start",
        "question-answering",
        TEXT | {"start_positions": ids(BATCH)},
        "start_positions and end_positions: expected both or neither",
    ),
    (
        "only an end",
        "question-answering",
        TEXT | {"end_positions": ids(BATCH)},
        "start_positions and end_positions: expected both or neither",
    ),
    *(
        (
            f"{what} {name}",
            "model",
            {"input_ids": ids()} | {name: ids() * 0 + bad},
            f"{name}: expected values from 0 to {size - 1}, got {bad}",
        )
        for name, size in (
            ("input_ids", VOCAB), ("token_type_ids", TYPES), ("position_ids", POSITIONS)
        )
        for what, bad in (("negative", -1), ("too large", size))
    ),
    *(
        (
            f"label {bad} for {row}",
            row,
            {"input_ids": ids(*shape[:1], CHOICES, SEQUENCE) if row == "multiple-choice" else ids()}
            | {"labels": ids(*shape) * 0 + bad},
            f"labels: expected values from 0 to {classes - 1}.*, got {bad}",
        )
        for row, shape, classes in (
            ("masked-lm", (BATCH, SEQUENCE), VOCAB),
            ("causal-lm", (BATCH, SEQUENCE), VOCAB),
            ("single-label", (BATCH,), LABELS),
            ("token-labels", (BATCH, SEQUENCE), LABELS),
            ("multiple-choice", (BATCH,), CHOICES),
        )
        for bad in (classes, -1)
    ),
    *(
        (
            f"labels of another shape for {row}",
            row,
            {"input_ids": ids(BATCH, CHOICES, SEQUENCE) if row == "multiple-choice" else ids()}
            | {"labels": labels},
            "labels: expected .* got",
        )
        for row, labels in (
            ("masked-lm", ids(BATCH, SEQUENCE - 1)),
            ("causal-lm", ids(BATCH, SEQUENCE + 1)),
            ("single-label", ids(BATCH + 1)),
            ("single-label", ids(BATCH, LABELS)),
            ("multi-label", floats(BATCH, LABELS - 1)),
            ("regression", floats(BATCH, 2)),
            ("token-labels", ids(BATCH)),
            ("multiple-choice", ids(BATCH, CHOICES)),
        )
    ),
    (
        "positions of another batch",
        "question-answering",
        TEXT | {"start_positions": ids(BATCH + 1), "end_positions": ids(BATCH)},
        "start_positions: expected .* got",
    ),
]  # fmt: skip


@both
@pytest.mark.parametrize("wrong", WRONG, ids=[wrong[0] for wrong in WRONG])
def test_wrong_inputs_are_named(framework: Framework, wrong: tuple) -> None:
    """In the same words in both frameworks."""
    _, name, inputs, message = wrong
    inputs = dict(inputs)
    past = inputs.pop("past_key_values", None)
    if past is not None:
        past = tuple(tuple(framework.tensor(x) for x in layer) for layer in past)
        past = {"past_key_values": past}
    with pytest.raises(ValueError, match=message):
        framework.call(shared(framework, name), inputs, **(past or {}))


@both
def test_a_model_wants_its_own_config(framework: Framework) -> None:
    class OtherConfig(RemBertConfig.__mro__[1]):
        model_type = "other"

    with pytest.raises(ValueError, match="RemBertModel takes a RemBertConfig, got OtherConfig"):
        framework.model_class("RemBertModel")(OtherConfig())
    with pytest.raises(ValueError, match="num_labels: expected 2 .* got 7"):
        framework.build(CASE["question-answering"], num_labels=LABELS)
    config = RemBertConfig()
    config.hidden_size = 100
    with pytest.raises(ValueError, match="hidden_size: .* num_attention_heads"):
        framework.model_class("RemBertModel")(config)


@both
def test_a_causal_lm_that_sees_the_future_says_so(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    framework.build(CASE["causal-lm"])
    assert not caplog.records
    framework.build(CASE["causal-lm"], is_decoder=False)
    assert "sees the tokens it predicts unless config.is_decoder=True" in caplog.text

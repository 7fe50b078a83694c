"""The same weights give the same numbers in both frameworks; the files between them are the same.

A weight travels through the real converter: `save_pretrained` of one framework and
`from_pretrained` of the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    ADAM_LOSS_TOLERANCE,
    BATCH,
    CASE,
    CASES,
    CROSS,
    ENCODER,
    GRADIENT_FLOOR,
    GRADIENT_TOLERANCE,
    HEAD_CASES,
    HIDDEN,
    INPUT,
    OUTPUT_TOLERANCE,
    POSITIONS,
    SEQUENCE,
    TINY,
    VOCAB,
    WEIGHT_TOLERANCE,
    Arrays,
    Case,
    make_config,
    make_inputs,
    make_weight,
    names,
    numbers,
    without_labels,
)
from frameworks import KERAS, TORCH, Framework, flat

from zoo.checkpoint import CheckpointError
from zoo.configs import AutoConfig, RemBertConfig
from zoo.configs.base import ACTIVATIONS, POSITION_EMBEDDING_TYPES

every_case = pytest.mark.parametrize("case", CASES, ids=names(CASES))
every_head = pytest.mark.parametrize("case", HEAD_CASES, ids=names(HEAD_CASES))
both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
# One saves, the other opens.
directions = pytest.mark.parametrize(
    ("one", "other"), [(TORCH, KERAS), (KERAS, TORCH)], ids=["pt-to-tf", "tf-to-pt"]
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """A row's model in both frameworks, from one folder; no test changes these."""

    @cache
    def make(name: str) -> tuple[Any, Any]:
        folder = tmp_path_factory.mktemp(name)
        model = TORCH.build(CASE[name])
        model.save_pretrained(folder)
        return model, opened(KERAS, CASE[name], folder)

    return make


def opened(framework: Framework, case: Case, folder: Path, **kwargs: Any) -> Any:
    return framework.model_class(case.model).from_pretrained(folder, **case.init, **kwargs)


def assert_same(got: Arrays, expected: Arrays, tolerance: float = OUTPUT_TOLERANCE) -> None:
    """Within `tolerance` at unit scale: absolute up to one, relative above."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        error = np.abs(got[name] - value) / np.maximum(1.0, np.abs(value))
        assert np.max(error, initial=0) <= tolerance, (name, error.max())


def assert_same_gradients(got: Arrays, expected: Arrays) -> None:
    """Each within a share of its norm.

    The softmax does not see what is added to all scores of a row, so the true gradient of a key's
    bias is zero, and what is computed is rounding on the scale of the others: there is no norm of
    its own to take a share of. The same floor holds for all.
    """
    assert got.keys() == expected.keys()
    floor = GRADIENT_FLOOR * np.sqrt(sum(np.square(x).sum() for x in expected.values()))
    for name, value in expected.items():
        norm = np.linalg.norm(value)
        assert np.linalg.norm(got[name] - value) <= GRADIENT_TOLERANCE * norm + floor, name
        if "key.bias" in name:
            assert max(norm, np.linalg.norm(got[name])) <= 10 * floor, name


# The numbers.


@every_case
def test_outputs(case: Case, pair: Any) -> None:
    torch_model, keras_model = pair(case.name)
    asked = {"output_attentions": True, "output_hidden_states": True}
    for more in ({}, asked):
        inputs = make_inputs(case)
        assert_same(
            KERAS.outputs(keras_model, inputs, **more), TORCH.outputs(torch_model, inputs, **more)
        )


@every_head
def test_gradients(case: Case, pair: Any) -> None:
    torch_model, keras_model = pair(case.name)
    expected, gradients = TORCH.gradients(torch_model, make_inputs(case))
    loss, got = KERAS.gradients(keras_model, make_inputs(case))
    assert abs(loss - expected) <= OUTPUT_TOLERANCE * max(1.0, abs(expected))
    assert_same_gradients(got, gradients)


@every_head
def test_ten_steps_of_sgd_with_momentum(case: Case, tmp_path: Path) -> None:
    TORCH.build(case, num_hidden_layers=1).save_pretrained(tmp_path)
    ends, losses = [], []
    for framework in (TORCH, KERAS):
        model = opened(framework, case, tmp_path)
        step = framework.sgd(model, rate=0.02, momentum=0.9)
        losses.append([step(make_inputs(case)) for _ in range(10)])
        ends.append(framework.weights(model))
    np.testing.assert_allclose(losses[1], losses[0], 1e-5, 1e-5)
    assert losses[0][-1] < losses[0][0]  # it did learn
    assert_same(ends[1], ends[0], WEIGHT_TOLERANCE)


@every_head
def test_ten_steps_of_adamw(case: Case, tmp_path: Path) -> None:
    """Keras adds epsilon before the bias correction; as small as this it makes no difference."""
    TORCH.build(case, num_hidden_layers=1).save_pretrained(tmp_path)
    losses = []
    for framework in (TORCH, KERAS):
        model = opened(framework, case, tmp_path)
        step = framework.adamw(model, rate=1e-3, decay=0.01, epsilon=1e-12)
        losses.append([step(make_inputs(case)) for _ in range(10)])
    assert losses[0][-1] < losses[0][0]
    assert_same(
        {"losses": np.array(losses[1])}, {"losses": np.array(losses[0])}, ADAM_LOSS_TOLERANCE
    )


def variants() -> dict[str, tuple[str, Arrays]]:
    """Inputs other than the rows' own: name -> row, inputs."""
    rng = numbers("variants")
    ids = rng.integers(0, VOCAB, (BATCH, SEQUENCE))
    text = {"input_ids": ids, "labels": rng.integers(0, VOCAB, ids.shape)}
    right = (np.arange(SEQUENCE) < np.array([[11], [4], [7]])).astype(np.int64)
    square = rng.integers(0, 2, (BATCH, SEQUENCE, SEQUENCE))
    square[:, 5] = 0  # rows that may attend to nothing
    nothing = right.copy()
    nothing[1] = 0
    positions = rng.integers(0, POSITIONS, ids.shape)
    embeds = rng.standard_normal((BATCH, SEQUENCE, INPUT)).astype(np.float32)
    encoder = rng.standard_normal((BATCH, ENCODER, HIDDEN)).astype(np.float32)
    heads = np.array([1.0, 0.0, 0.5, 1.0], np.float32)
    found: dict[str, tuple[str, Arrays]] = {}
    for row in ("masked-lm", "causal-lm"):
        for name, more in {
            "no mask": {},
            "padding on the right": {"attention_mask": right},
            "padding on the left": {"attention_mask": right[:, ::-1].copy()},
            "square mask": {"attention_mask": square},
            "nothing to attend to": {"attention_mask": nothing},
            "soft mask": {"attention_mask": right.astype(np.float32)},
            "head mask": {"head_mask": heads},
            "head masks": {"head_mask": np.stack([heads, heads[::-1]]), "attention_mask": right},
            "positions": {"position_ids": positions},
        }.items():
            found[f"{row}, {name}"] = (row, text | more)
        found[f"{row}, embeds"] = (row, {"inputs_embeds": embeds, "labels": text["labels"]})
        for length in (1, 2, 7, POSITIONS):
            some = rng.integers(0, VOCAB, (1, length))
            found[f"{row}, {length} long"] = (row, {"input_ids": some, "labels": some})
    whole = text | {"encoder_hidden_states": encoder}
    masked = {"encoder_attention_mask": (np.arange(ENCODER) % 3 > 0)[None].repeat(BATCH, 0) * 1}
    found["cross, no mask"] = ("causal-lm-cross", whole)
    found["cross, holes"] = ("causal-lm-cross", whole | masked)
    found["cross, head mask"] = ("causal-lm-cross", whole | {"head_mask": heads})
    found["cross, nothing to attend to"] = (
        "causal-lm-cross",
        whole | {"encoder_attention_mask": np.zeros((BATCH, ENCODER), np.int64)},
    )
    return found


VARIANTS = variants()


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_of_other_inputs(variant: str, pair: Any) -> None:
    name, inputs = VARIANTS[variant]
    torch_model, keras_model = pair(name)
    expected = TORCH.outputs(torch_model, inputs)
    assert all(np.isfinite(value).all() for value in expected.values())
    assert_same(KERAS.outputs(keras_model, inputs), expected)


@pytest.mark.parametrize("variant", ["masked-lm, head masks", "cross, nothing to attend to"])
def test_gradients_of_other_inputs(variant: str, pair: Any) -> None:
    name, inputs = VARIANTS[variant]
    torch_model, keras_model = pair(name)
    _, expected = TORCH.gradients(torch_model, inputs)
    assert_same_gradients(KERAS.gradients(keras_model, inputs)[1], expected)


def test_a_cache_of_one_framework_continues_in_the_other(pair: Any) -> None:
    inputs = without_labels(make_inputs(CASE["causal-lm-cross"]))
    ends = []
    for framework, model in zip((TORCH, KERAS), pair("causal-lm-cross"), strict=True):
        ids, types = inputs["input_ids"], inputs["token_type_ids"]
        mask = inputs["attention_mask"]
        first = inputs | {"input_ids": ids[:, :7], "token_type_ids": types[:, :7]}
        first["attention_mask"] = mask[:, :7]
        cached = framework.call(model, first).past_key_values
        last = inputs | {"input_ids": ids[:, 7:], "token_type_ids": types[:, 7:]}
        ends.append(flat(framework.call(model, last, past_key_values=cached)))
    assert_same(ends[1], ends[0])


# Parts.


def test_every_activation_is_known_to_both() -> None:
    from pt_models.activations import ACTIVATIONS as of_torch
    from tf_models.activations import ACTIVATIONS as of_keras

    assert set(of_torch) == set(of_keras) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    """Values and slopes, at 0, at kinks and far out too."""
    import tensorflow as tf
    import torch

    from pt_models.activations import activation as of_torch
    from tf_models.activations import activation as of_keras

    x = np.concatenate([np.linspace(-12, 12, 97), [-100, 100, 1e-3]]).astype(np.float32)
    ours = torch.tensor(x, requires_grad=True)
    expected = of_torch(name)(ours)
    expected.sum().backward()
    theirs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(theirs)
        got = of_keras(name)(theirs)
    assert_same({"values": got.numpy()}, {"values": expected.detach().numpy()})
    smooth = ~np.isin(x, [-10, 0, 6, 10])  # a kink's slope is a convention
    slopes = tape.gradient(got, theirs).numpy()
    assert_same({"slopes": slopes[smooth]}, {"slopes": ours.grad.numpy()[smooth]})


@pytest.mark.parametrize("name", ["relu", "gelu_new", "tanh"])
def test_the_config_chooses_the_activation(name: str) -> None:
    case = CASE["masked-lm"]
    results = []
    for framework in (TORCH, KERAS):
        model = framework.build(case, hidden_act=name)
        results.append(framework.outputs(model, make_inputs(case)))
        assert not np.allclose(
            results[-1]["logits"],
            framework.outputs(framework.build(case), make_inputs(case))["logits"],
            atol=1e-3,
        )
    assert_same(results[1], results[0])


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("kind", POSITION_EMBEDDING_TYPES)
def test_relative_positions_of_the_shared_block(kind: str, explicit: bool) -> None:
    """Forward, gradients, and a second piece with a cache; also the fused path's own."""
    import tensorflow as tf
    import torch

    import pt_models.attention
    import pt_models.bert
    import tf_models.attention
    import tf_models.bert
    from tf_models.modeling import named_weights

    config = RemBertConfig(**TINY, **CROSS)
    ours = pt_models.bert.Layer(config, position_embedding_type=kind).eval()
    theirs = tf_models.bert.Layer(config, position_embedding_type=kind)
    weights = dict(named_weights(theirs))
    state = ours.state_dict()
    assert {name: w.shape for name, w in weights.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    assert ("attention.self.distance_embedding.weight" in state) == (kind != "absolute")
    for name, weight in weights.items():
        value = make_weight(name, weight.shape)
        state[name] = torch.from_numpy(value)
        weight.variable.assign(value.T if weight.transposed else value)
    ours.load_state_dict(state)

    rng = numbers("relative")
    hidden = rng.standard_normal((BATCH, SEQUENCE, HIDDEN)).astype(np.float32)
    encoder = rng.standard_normal((BATCH, ENCODER, HIDDEN)).astype(np.float32)
    # Some queries have no key at all.
    mask = rng.integers(0, 2, (BATCH, SEQUENCE, SEQUENCE)) * (np.arange(SEQUENCE) > 1)[:, None]
    more = {"output_attentions": explicit}

    bias = pt_models.attention.attention_bias(torch.tensor(mask), torch.float32)
    result = ours(torch.tensor(hidden), bias, None, torch.tensor(encoder), **more)
    result[0].square().sum().backward()
    with tf.GradientTape() as tape:
        bias = tf_models.attention.attention_bias(tf.constant(mask), "float32")
        got = theirs(tf.constant(hidden), bias, None, tf.constant(encoder), **more)
        loss = tf.reduce_sum(tf.square(got[0]))
    assert_same(flat(got), flat(result))
    found = tape.gradient(loss, [weight.variable.value for weight in weights.values()])
    gradients = {
        name: tf.convert_to_tensor(value).numpy().T
        if weight.transposed
        else tf.convert_to_tensor(value).numpy()
        for (name, weight), value in zip(weights.items(), found, strict=True)
    }
    expected = {name: parameter.grad.numpy() for name, parameter in ours.named_parameters()}
    if kind == "relative_key_query":  # sees where a key is, so its bias counts
        name = "attention.self.key.bias"
        assert np.linalg.norm(expected[name]) > 0.1
        np.testing.assert_allclose(gradients.pop(name), expected.pop(name), 1e-3, 1e-4)
    assert_same_gradients(gradients, expected)

    # In two pieces, the second one with the first one's keys and values.
    causal = np.tril(np.ones((1, SEQUENCE, SEQUENCE), np.int64))
    for layer, make, bias_of in (
        (ours, torch.tensor, lambda m: pt_models.attention.attention_bias(m, torch.float32)),
        (theirs, tf.constant, lambda m: tf_models.attention.attention_bias(m, "float32")),
    ):
        whole = layer(make(hidden), bias_of(make(causal)), **more)[0]
        first = layer(make(hidden[:, :6]), bias_of(make(causal[:, :6, :6])), **more)
        last = bias_of(make(causal[:, 6:]))
        second = layer(make(hidden[:, 6:]), last, None, None, None, first[3], **more)
        joined = np.concatenate([flat(first[0])[""], flat(second[0])[""]], axis=1)
        np.testing.assert_allclose(joined, flat(whole)[""], 1e-5, 1e-5)


# Files.


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@every_case
def test_both_write_the_same_bytes(case: Case, tmp_path: Path) -> None:
    """Also after a way through the other framework."""
    folders = [tmp_path / name for name in ("torch", "keras", "back")]
    TORCH.build(case).save_pretrained(folders[0])
    opened(KERAS, case, folders[0]).save_pretrained(folders[1])
    opened(TORCH, case, folders[1]).save_pretrained(folders[2])
    generates = hasattr(TORCH.model_class(case.model), "generate")
    names = {"config.json", "model.safetensors", *["generation_config.json"] * generates}
    assert read(folders[0]).keys() == names
    assert read(folders[0]) == read(folders[1]) == read(folders[2])
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["architectures"] == [case.model]
    expected = make_config(case)
    assert config["model_type"] == expected.model_type and config["torch_dtype"] == "float32"
    opened_config = AutoConfig.from_pretrained(folders[0])
    opened_config.update({"architectures": None, "torch_dtype": None})
    assert opened_config == expected


@directions
def test_shards(one: Framework, other: Framework, tmp_path: Path) -> None:
    case = CASE["masked-lm"]
    model = one.build(case)
    model.save_pretrained(tmp_path / "one", max_shard_size="20KB")
    files = read(tmp_path / "one")
    assert "model.safetensors.index.json" in files and "model.safetensors" not in files
    assert sum(name.endswith(".safetensors") for name in files) > 2
    loaded = opened(other, case, tmp_path / "one")
    assert_same(other.weights(loaded), one.weights(model), 0)
    loaded.save_pretrained(tmp_path / "other", max_shard_size="20KB")
    assert read(tmp_path / "other") == files
    # Saved whole over the shards: nothing stale is left.
    loaded.save_pretrained(tmp_path / "other")
    assert read(tmp_path / "other").keys() == {"config.json", "model.safetensors"}


@directions
@pytest.mark.parametrize("name", ["masked-lm", "single-label", "question-answering"])
def test_a_base_checkpoint_opens_in_a_head_model_and_back(
    one: Framework,
    other: Framework,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case, base = CASE[name], CASE["model"]
    model = one.build(base, **case.config)
    model.save_pretrained(tmp_path / "base")
    head, info = opened(other, case, tmp_path / "base", output_loading_info=True)
    loaded, source = other.weights(head), one.weights(model)
    own = {key for key in loaded if not key.startswith("rembert.")}
    assert set(info["missing_keys"]) == own
    for key in loaded.keys() - own:
        np.testing.assert_array_equal(loaded[key], source[key.removeprefix("rembert.")])
    assert own and all(key in caplog.text for key in own)
    # New weights start as in a new model: not as zeros, nor as what memory held.
    for key in own:
        if "LayerNorm.weight" in key:
            assert (loaded[key] == 1).all()
        elif key.endswith("bias"):
            assert not loaded[key].any()
        else:
            assert 0.01 < loaded[key].std() < 0.03
    # And back, with the head unused.
    head.save_pretrained(tmp_path / "head")
    pooled = any(key.startswith("rembert.pooler") for key in loaded)
    bare = Case(base.name, base.model, base.inputs, {}, init={"add_pooling_layer": pooled})
    back, info = opened(one, bare, tmp_path / "head", output_loading_info=True)
    assert set(info["unexpected_keys"]) == own and info["missing_keys"] == []
    for key, value in one.weights(back).items():
        np.testing.assert_array_equal(value, source[key])


@both
def test_sizes_that_do_not_match(framework: Framework, tmp_path: Path) -> None:
    case = CASE["token-labels"]
    model = framework.build(case)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as error:
        opened(framework, case, tmp_path, num_labels=4, vocab_size=99)
    # All of them at once, with both shapes.
    for words in ("classifier.weight", "classifier.bias", "word_embeddings", "(7, 32)", "(4, 32)"):
        assert words in str(error.value), words
    loaded, info = opened(
        framework,
        case,
        tmp_path,
        num_labels=4,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    assert sorted(info["mismatched_keys"]) == [
        ("classifier.bias", (7,), (4,)),
        ("classifier.weight", (7, 32), (4, 32)),
    ]
    weights, source = framework.weights(loaded), framework.weights(model)
    assert weights["classifier.weight"].shape == (4, HIDDEN)
    assert 0.01 < weights["classifier.weight"].std() < 0.03
    rest = {key for key in weights if not key.startswith("classifier")}
    assert_same({key: weights[key] for key in rest}, {key: source[key] for key in rest}, 0)


@both
def test_what_does_not_fit_fails_loudly(framework: Framework, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    case = CASE["single-label"]
    framework.build(case).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)

    def refused(changed: dict[str, np.ndarray]) -> str:
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError) as error:
            opened(framework, case, tmp_path)
        return str(error.value)

    gone = [
        "rembert.encoder.layer.1.output.dense.weight", "rembert.embeddings.LayerNorm.bias",
        "classifier.bias",  # half of a head
    ]  # fmt: skip
    message = refused({key: value for key, value in tensors.items() if key not in gone})
    assert all(key in message for key in gone)
    message = refused({f"bert.{key}": value for key, value in tensors.items()})
    assert "nothing" in message.lower() or "none" in message.lower()
    assert "bert." in message
    message = refused({f"other{i}": np.ones(3, np.float32) for i in range(3)})
    assert "other0" in message
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(ValueError, match="'bert' model, RemBertConfig opens 'rembert'"):
        opened(framework, case, tmp_path)
    with pytest.raises(ValueError, match="no weights; looked for model.safetensors"):
        RemBertConfig(**TINY).save_pretrained(tmp_path / "empty")
        opened(framework, case, tmp_path / "empty")


@directions
def test_config_arguments_of_from_pretrained(
    one: Framework, other: Framework, tmp_path: Path
) -> None:
    case = CASE["masked-lm"]
    one.build(case).save_pretrained(tmp_path)
    model = opened(other, case, tmp_path, output_attentions=True, hidden_act="relu")
    assert model.config.hidden_act == "relu"
    assert "attentions" in other.call(model, make_inputs(case))
    model = opened(other, case, tmp_path, config=RemBertConfig(**TINY, hidden_act="tanh"))
    assert model.config.hidden_act == "tanh"
    with pytest.raises(ValueError, match="hidden_acd.*hidden_act"):
        opened(other, case, tmp_path, hidden_acd="relu")
    with pytest.raises(ValueError, match="safe_serialization=False"):
        model.save_pretrained(tmp_path, safe_serialization=False)


# The vocabulary's size.


@both
@pytest.mark.parametrize("size", [VOCAB + 6, VOCAB - 20])
def test_resizing_the_vocabulary(framework: Framework, size: int, tmp_path: Path) -> None:
    case = CASE["masked-lm"]
    model = framework.build(case)
    before = framework.weights(model)
    embeddings = model.resize_token_embeddings(size)
    assert embeddings is model.get_input_embeddings()
    assert model.config.vocab_size == size
    after = framework.weights(model)
    assert after.keys() == before.keys()
    table, kept = "rembert.embeddings.word_embeddings.weight", min(size, VOCAB)
    for key in (table, "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
        assert after[key].shape == (size, *before[key].shape[1:])
        np.testing.assert_array_equal(after[key][:kept], before[key][:kept])
        new = after[key][kept:]
        if "bias" in key:
            assert not new.any()
        elif len(new):
            assert 0.01 < new.std() < 0.03
    # It computes, saves, opens (in the other framework too) and learns.
    inputs = make_inputs(case)
    inputs["input_ids"] %= size
    inputs["labels"] = np.where(inputs["labels"] < 0, -100, inputs["labels"] % size)
    inputs["input_ids"][0, 0] = inputs["labels"][0, 1] = size - 1
    outputs = framework.outputs(model, inputs)
    assert outputs["logits"].shape == (BATCH, SEQUENCE, size)
    model.save_pretrained(tmp_path)
    other = KERAS if framework is TORCH else TORCH
    assert_same(other.outputs(opened(other, case, tmp_path), inputs), outputs)
    step = framework.sgd(model, rate=0.1, momentum=0.9)
    losses = [step(inputs) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert (framework.weights(model)[table][size - 1] != after[table][size - 1]).all()


@both
def test_resizing_to_the_same_and_to_multiples(framework: Framework) -> None:
    model = framework.build(CASE["masked-lm"])
    before = framework.weights(model)
    model.resize_token_embeddings()
    assert_same(framework.weights(model), before, 0)
    model.resize_token_embeddings(pad_to_multiple_of=16)
    assert model.config.vocab_size == 64
    model.resize_token_embeddings(65, pad_to_multiple_of=8)
    assert framework.weights(model)["cls.predictions.decoder.bias"].shape == (72,)
    with pytest.raises(ValueError, match="new_num_tokens: .* got 0"):
        model.resize_token_embeddings(0)
    with pytest.raises(ValueError, match="pad_to_multiple_of: .* got -8"):
        model.resize_token_embeddings(9, pad_to_multiple_of=-8)
    # Without an output embedding.
    model = framework.build(CASE["token-labels"])
    model.resize_token_embeddings(99)
    assert framework.weights(model)["rembert.embeddings.word_embeddings.weight"].shape[0] == 99


@cache
def tied_class(framework: Framework) -> Any:
    """A family whose output embeddings are its input embeddings; RemBERT's are its own."""
    table = "rembert.embeddings.word_embeddings.weight"
    return type(
        framework.prefix + "Tied",
        (framework.model_class("RemBertForMaskedLM"),),
        {"tied_weights": lambda self: {"cls.predictions.decoder.weight": table}},
    )


def test_rembert_refuses_to_tie() -> None:
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        RemBertConfig(tie_word_embeddings=True)


@both
@pytest.mark.parametrize("padding", [None, 5])
def test_the_padding_id_is_the_configs(framework: Framework, padding: int | None) -> None:
    """Its row starts as zeros and is not trained; None is no row."""
    case = CASE["masked-lm"]
    config = RemBertConfig(**TINY, pad_token_id=padding)
    model = framework.model_class(case.model)(config)
    table = "rembert.embeddings.word_embeddings.weight"
    rows = framework.weights(model)[table]
    inputs = make_inputs(case)
    inputs["input_ids"][0, :2] = 0, 5
    _, gradients = framework.gradients(model, inputs)
    for values in (rows, gradients[table]):
        assert [bool(values[row].any()) for row in (0, 5)] == [True, padding is None]
    if padding is not None:
        with pytest.raises(ValueError, match="new_num_tokens: .* config.pad_token_id .5., got 5"):
            model.resize_token_embeddings(5)
        assert model.config.vocab_size == VOCAB
        assert_same(framework.weights(model), {**framework.weights(model), table: rows}, 0)


@directions
def test_tied_embeddings(one: Framework, other: Framework, tmp_path: Path) -> None:
    source, alias = "rembert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    config = RemBertConfig(**TINY | {"output_embedding_size": INPUT})
    model = tied_class(one)(config)
    untied = one.model_class("RemBertForMaskedLM")(config)
    assert untied.num_parameters() - model.num_parameters() == VOCAB * INPUT
    weights = {key: make_weight(key, shape) for key, shape in one.shapes(model).items()}
    weights[alias] = weights[source]
    one.set_weights(model, weights)
    inputs = make_inputs(CASE["masked-lm"])
    step = one.sgd(model, rate=0.05, momentum=0.9)
    losses = [step(inputs) for _ in range(3)]
    trained = one.weights(model)
    np.testing.assert_array_equal(trained[source], trained[alias])
    assert losses[-1] < losses[0] and (trained[source] != weights[source]).any()
    # One of the two is written, and both are there when it is opened.
    model.save_pretrained(tmp_path)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    assert source in tensors and alias not in tensors
    for key in (source, alias):  # released files have one or the other
        renamed = {key if name == source else name: value for name, value in tensors.items()}
        save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, info = tied_class(other).from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == [] and info["unexpected_keys"] == []
        assert_same(other.weights(loaded), trained, 0)
    assert_same(other.outputs(loaded, inputs), one.outputs(model, inputs))
    # The tie holds over a resize and further training, in the other framework as well.
    for framework, tied in ((one, model), (other, loaded)):
        tied.resize_token_embeddings(VOCAB + 3)
        step = framework.sgd(tied, rate=0.05, momentum=0.9)
        after = [step(inputs) for _ in range(3)]
        assert after[-1] < after[0]
        resized = framework.weights(tied)
        assert resized[source].shape == (VOCAB + 3, INPUT)
        np.testing.assert_array_equal(resized[source], resized[alias])


@both
def test_a_tie_of_different_widths_is_refused(framework: Framework) -> None:
    with pytest.raises(ValueError, match=r"decoder.weight \(61, 40\) cannot be tied .*\(61, 24\)"):
        tied_class(framework)(RemBertConfig(**TINY))


@both
def test_getting_and_setting_embeddings(framework: Framework) -> None:
    case = CASE["masked-lm"]
    model, other = framework.build(case), framework.build(case)
    framework.set_weights(other, {key: 0.5 * v for key, v in framework.weights(other).items()})
    table = "rembert.embeddings.word_embeddings.weight"
    expected = framework.weights(other)
    model.set_input_embeddings(other.get_input_embeddings())
    assert model.get_input_embeddings() is other.get_input_embeddings()
    np.testing.assert_array_equal(framework.weights(model)[table], expected[table])
    model.set_output_embeddings(other.get_output_embeddings())
    assert model.get_output_embeddings() is other.get_output_embeddings()
    framework.set_weights(other, {**expected, **framework.weights(model)})
    assert_same(
        framework.outputs(model, make_inputs(case)), framework.outputs(other, make_inputs(case)), 0
    )
    # What was replaced is gone, what came is trained.
    assert framework.weights(model).keys() == expected.keys()
    step = framework.sgd(model, rate=0.1, momentum=0.0)
    before = framework.weights(model)[table]
    step(make_inputs(case))
    assert (framework.weights(model)[table] != before).any()
    assert model.num_parameters() == other.num_parameters()
    bare = framework.build(CASE["model"])
    assert bare.get_output_embeddings() is None
    with pytest.raises(ValueError, match="RemBertModel has no output embeddings"):
        bare.set_output_embeddings(other.get_output_embeddings())


@both
def test_counting_parameters(framework: Framework) -> None:
    model = framework.build(CASE["masked-lm"])
    sizes = {key: value.size for key, value in framework.weights(model).items()}
    tables = [key for key in sizes if "_embeddings." in key]
    assert len(tables) == 3
    assert model.num_parameters() == sum(sizes.values())
    without = model.num_parameters(exclude_embeddings=True)
    assert without == sum(sizes.values()) - sum(sizes[key] for key in tables)
    part = model.get_input_embeddings()
    if framework is TORCH:
        part.requires_grad_(False)
    else:
        part.trainable = False
    table = "rembert.embeddings.word_embeddings.weight"
    assert model.num_parameters(only_trainable=True) == sum(sizes.values()) - sizes[table]
    assert model.num_parameters() == sum(sizes.values())
    assert model.base_model is model.rembert and model.rembert.base_model is model.rembert


# Recomputing activations.


@both
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("name", ["masked-lm", "causal-lm-cross"])
def test_gradient_checkpointing_changes_no_gradient(
    framework: Framework, name: str, rate: float
) -> None:
    """Also with dropout: what is recomputed drops the same units."""
    case = CASE[name]
    model = framework.build(case, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    inputs = make_inputs(case)

    def gradients() -> tuple[float, Arrays]:
        seed(framework, model)
        return framework.gradients(model, inputs, output_attentions=rate > 0)

    assert not model.is_gradient_checkpointing
    loss, plain = gradients()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again, recomputed = gradients()
    assert loss == again
    assert_same(recomputed, plain, 1e-5)
    if rate:
        framework.gradients(model, inputs)
        assert framework.gradients(model, inputs)[0] != loss  # another seed, other units
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert_same(gradients()[1], plain, 1e-5)


def seed(framework: Framework, model: Any) -> None:
    if framework is TORCH:
        import torch

        torch.manual_seed(7)
    else:
        for part in [model, model.base_model]:
            part.seed_generator.state.assign([3, 7])


@both
def test_a_cache_is_not_kept_while_recomputing(framework: Framework) -> None:
    case = CASE["causal-lm"]
    model = framework.build(case)
    model.gradient_checkpointing_enable()
    training = {} if framework is TORCH else {"training": True}
    tensors = {name: framework.tensor(value) for name, value in make_inputs(case).items()}
    if framework is TORCH:
        model.train()
    assert "past_key_values" not in model(**tensors, **training)
    assert "past_key_values" in framework.call(model, make_inputs(case))


@both
def test_fine_tuning_starts_from_a_language_model(framework: Framework, tmp_path: Path) -> None:
    """Its file has neither the pooler nor the classifier; everything else is taken over."""
    framework.model_class("RemBertForMaskedLM")(RemBertConfig(**TINY)).save_pretrained(tmp_path)
    model, info = framework.model_class("RemBertForSequenceClassification").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert {name.rpartition(".")[0] for name in info["missing_keys"]} == {
        "classifier",
        "rembert.pooler.dense",
    }
    assert all(name.startswith("cls.") for name in info["unexpected_keys"])

"""What BART and T5 have to answer alike, in both frameworks.

What is asked of every model with labels (equal numbers, gradients, training) is asked of the rows
"bart-lm", "bart-untied", "t5-lm" and "t5-gated" of cases.py where it is asked of all.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    DECODER_HEADS,
    HEADS,
    HIDDEN,
    LAYERS,
    OUTPUT_TOLERANCE,
    SEQ2SEQ_CASES,
    SEQUENCE,
    TARGET,
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

from converters.keras_h5 import tensorflow_name
from zoo import ModelOutput
from zoo.checkpoint import Checkpoint, CheckpointError
from zoo.legacy_formats import published_key

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
every_case = pytest.mark.parametrize("case", SEQ2SEQ_CASES, ids=names(SEQ2SEQ_CASES))
every_head = pytest.mark.parametrize("name", ["bart-lm", "t5-gated"])
WHOLE = [case for case in SEQ2SEQ_CASES if case.name != "t5-encoder"]
every_whole = pytest.mark.parametrize("case", WHOLE, ids=names(WHOLE))
SAME = 5e-6
# Sequences of the published classes (transformers 4.40.2) with the weights of cases.py.
RECORDED = json.loads((Path(__file__).parent / "recorded_sequences.json").read_text())
START = {"bart": 2, "t5": 0}


@cache
def shared(framework: Framework, name: str) -> Any:
    """A model that no test changes."""
    return framework.build(CASE[name])


def assert_same(got: Arrays, expected: Arrays, tolerance: float = SAME) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


def decoder_heads(case: Case) -> int:
    return DECODER_HEADS if case.name.startswith("bart") else HEADS


# Shapes and forms.


@both
@every_case
def test_shapes(framework: Framework, case: Case) -> None:
    model, inputs = shared(framework, case.name), make_inputs(case)
    plain = framework.outputs(model, inputs)
    assert {name: value.shape for name, value in plain.items()} == dict(case.shapes)
    more = framework.outputs(model, inputs, output_attentions=True, output_hidden_states=True)
    assert_same({name: more[name] for name in plain}, plain)
    rest = {name: value.shape for name, value in more.items() if name not in plain}
    if case.name == "t5-encoder":
        own = {f"hidden_states.{i}": (BATCH, SEQUENCE, HIDDEN) for i in range(LAYERS + 1)}
        own |= {f"attentions.{i}": (BATCH, HEADS, SEQUENCE, SEQUENCE) for i in range(LAYERS)}
        assert rest == own
        return
    heads = decoder_heads(case)
    expected: dict[str, tuple[int, ...]] = {}
    for i in range(LAYERS + 1):
        expected[f"encoder_hidden_states.{i}"] = (BATCH, SEQUENCE, HIDDEN)
        expected[f"decoder_hidden_states.{i}"] = (BATCH, TARGET, HIDDEN)
    for i in range(LAYERS):
        expected[f"encoder_attentions.{i}"] = (BATCH, HEADS, SEQUENCE, SEQUENCE)
        expected[f"decoder_attentions.{i}"] = (BATCH, heads, TARGET, TARGET)
        expected[f"cross_attentions.{i}"] = (BATCH, heads, TARGET, SEQUENCE)
    assert rest == expected
    last = more[f"encoder_hidden_states.{LAYERS}"]
    np.testing.assert_array_equal(last, more["encoder_last_hidden_state"])


@both
@every_case
def test_tuples(framework: Framework, case: Case) -> None:
    model, inputs = shared(framework, case.name), make_inputs(case)
    named = framework.call(model, inputs, output_attentions=True)
    plain = framework.call(model, inputs, output_attentions=True, return_dict=False)
    assert type(plain) is tuple and len(plain) == len(named)
    assert_same(flat(plain), flat(named.to_tuple()))


@every_case
def test_frameworks_agree(case: Case, tmp_path: Path) -> None:
    torch_model, inputs = shared(TORCH, case.name), make_inputs(case)
    torch_model.save_pretrained(tmp_path)
    model = KERAS.model_class(case.model).from_pretrained(tmp_path)
    expected = TORCH.outputs(torch_model, inputs, output_hidden_states=True)
    got = KERAS.outputs(model, inputs, output_hidden_states=True)
    scale = max(1.0, *(np.abs(value).max() for value in expected.values()))
    assert_same(got, expected, OUTPUT_TOLERANCE * scale)
    model.save_pretrained(tmp_path / "again")
    files = [folder / "model.safetensors" for folder in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


# What the decoder reads.


@both
@every_head
def test_labels_become_the_decoders_inputs(framework: Framework, name: str) -> None:
    inputs = make_inputs(CASE[name])
    inputs = {n: x for n, x in inputs.items() if not n.startswith("decoder_")}
    labels = inputs["labels"]
    config = make_config(CASE[name])
    start = np.full((BATCH, 1), START[name.split("-")[0]])
    shifted = np.concatenate([start, labels[:, :-1]], 1)
    shifted[shifted == -100] = config.pad_token_id
    model = shared(framework, name)
    got = framework.outputs(model, inputs)
    expected = framework.outputs(model, inputs | {"decoder_input_ids": shifted})
    assert_same(got, expected)
    kept = labels >= 0
    scores = got["logits"] - np.log(np.exp(got["logits"]).sum(-1, keepdims=True))
    each = -np.take_along_axis(scores, np.where(kept, labels, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(got["loss"], each[kept].mean(), 1e-5)


@both
def test_without_inputs_of_its_own_barts_decoder_reads_the_encoders(framework: Framework) -> None:
    ids = make_inputs(CASE["bart"])["input_ids"]
    shifted = np.concatenate([np.full((BATCH, 1), 2), ids[:, :-1]], 1)
    model = shared(framework, "bart")
    got = framework.outputs(model, {"input_ids": ids})
    assert_same(got, framework.outputs(model, {"input_ids": ids, "decoder_input_ids": shifted}))
    with pytest.raises(ValueError, match="decoder_input_ids, decoder_inputs_embeds or labels"):
        framework.call(shared(framework, "t5"), {"input_ids": ids})


@both
@every_whole
def test_a_decoder_ignores_the_future(framework: Framework, case: Case) -> None:
    model, inputs = shared(framework, case.name), without_labels(make_inputs(case))
    del inputs["decoder_attention_mask"]
    key = next(iter(case.shapes.keys() - {"loss"} & {"logits", "last_hidden_state"}))
    before = framework.outputs(model, inputs)[key]
    inputs["decoder_input_ids"][:, 4:] = (inputs["decoder_input_ids"][:, 4:] + 7) % 50
    after = framework.outputs(model, inputs)[key]
    np.testing.assert_allclose(after[:, :4], before[:, :4], SAME, SAME)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1e-3


@both
@every_head
@pytest.mark.parametrize("split", [[3, 4], [1, 1, 5], [1] * 7])
def test_a_cache_changes_nothing(framework: Framework, name: str, split: list[int]) -> None:
    model, inputs = shared(framework, name), without_labels(make_inputs(CASE[name]))
    del inputs["decoder_attention_mask"]
    whole = framework.outputs(model, inputs)
    past, start, logits, encoded = None, 0, [], None
    for length in split:
        piece = inputs | {"decoder_input_ids": inputs["decoder_input_ids"][:, start:][:, :length]}
        output = framework.call(model, piece, past_key_values=past, encoder_outputs=encoded)
        past, encoded = output.past_key_values, (output.encoder_last_hidden_state,)
        start += length
        logits.append(np.array(output.logits))
    np.testing.assert_allclose(np.concatenate(logits, 1), whole["logits"], 1e-5, 1e-5)
    caches = {f"past_key_values.{n}": x for n, x in flat(past).items()}
    assert_same(caches, {n: whole[n] for n in caches}, 1e-5)


@both
@every_head
def test_padding_is_not_seen(framework: Framework, name: str) -> None:
    """Neither by the encoder nor by the decoder, nor is the mask's kind of any matter."""
    model, inputs = shared(framework, name), without_labels(make_inputs(CASE[name]))
    before = framework.outputs(model, inputs)["logits"]
    hidden = inputs["attention_mask"] == 0
    inputs["input_ids"][hidden] = (inputs["input_ids"][hidden] + 5) % 50
    for kind in (np.int32, np.float32, bool):
        inputs["attention_mask"] = inputs["attention_mask"].astype(kind)
        got = framework.outputs(model, inputs)["logits"]
        np.testing.assert_allclose(got, before, SAME, SAME)
    behind = inputs["decoder_attention_mask"] == 0
    inputs["decoder_input_ids"][behind] = 3
    seen = inputs["decoder_attention_mask"] == 1
    got = framework.outputs(model, inputs)["logits"]
    np.testing.assert_allclose(got[seen], before[seen], SAME, SAME)


@both
@every_head
def test_embeds_take_the_place_of_ids(framework: Framework, name: str) -> None:
    model, inputs = shared(framework, name), without_labels(make_inputs(CASE[name]))
    expected = framework.outputs(model, inputs)
    table = framework.weights(model)
    words = table.get("shared.weight", table.get("model.shared.weight"))
    for half in ("", "decoder_"):
        inputs[f"{half}inputs_embeds"] = words[inputs.pop(f"{half}input_ids")]
    assert_same(framework.outputs(model, inputs), expected)


@both
@every_head
def test_head_masks(framework: Framework, name: str) -> None:
    """Of the encoder, the decoder and cross-attention, each by itself."""
    case = CASE[name]
    model, inputs = shared(framework, name), without_labels(make_inputs(case))
    plain = framework.outputs(model, inputs)
    masks = {
        "head_mask": (HEADS,),
        "decoder_head_mask": (decoder_heads(case),),
        "cross_attn_head_mask": (decoder_heads(case),),
    }
    found = []
    for mask, shape in masks.items():
        ones = np.ones(shape, np.float32)
        assert_same(framework.outputs(model, inputs | {mask: ones}), plain)
        ones[0] = 0.0
        one = framework.outputs(model, inputs | {mask: ones})["logits"]
        rows = np.tile(ones, (LAYERS, 1))
        assert_same({"logits": framework.outputs(model, inputs | {mask: rows})["logits"]},
                    {"logits": one})  # fmt: skip
        found.append(one)
    for one, other in zip(found, [*found[1:], plain["logits"]], strict=True):
        assert np.abs(one - other).max() > 1e-3
    for mask in masks:
        with pytest.raises(ValueError, match=f"{mask.removeprefix('decoder_')}: expected shape"):
            framework.call(model, inputs | {mask: np.ones((9,), np.float32)})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"inputs_embeds": (BATCH, SEQUENCE, HIDDEN)}, "got both"),
    "width": (
        {"input_ids": None, "inputs_embeds": (BATCH, SEQUENCE, 5)},
        rf"inputs_embeds: expected shape \(any, any, {HIDDEN}\)",
    ),
    "mask": ({"attention_mask": (BATCH, 4)}, "attention_mask: expected shape"),
    "decoder mask": ({"decoder_attention_mask": (BATCH, 4)}, "attention_mask: expected shape"),
    "labels": ({"labels": (BATCH, 4)}, "labels: expected shape"),
    "both of the decoder": ({"decoder_inputs_embeds": (BATCH, TARGET, HIDDEN)}, "got both"),
}


@both
@every_head
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_inputs_are_named(framework: Framework, name: str, wrong: str) -> None:
    changes, message = WRONG[wrong]
    inputs = make_inputs(CASE[name])
    for key, shape in changes.items():
        if shape is None:
            del inputs[key]
        else:
            kind = np.float32 if "embeds" in key else np.int64
            inputs[key] = np.ones(shape, kind)
    with pytest.raises(ValueError, match=message):
        framework.call(shared(framework, name), inputs)


@both
def test_ids_outside_the_vocabulary(framework: Framework) -> None:
    inputs = make_inputs(CASE["bart-lm"])
    inputs["decoder_input_ids"][0, 0] = VOCAB
    with pytest.raises(ValueError, match=f"input_ids: expected values from 0 to {VOCAB - 1}"):
        framework.call(shared(framework, "bart-lm"), inputs)


# Generation.


@both
@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, rows in RECORDED.items() for i in range(len(rows))]
)
def test_recorded_sequences(framework: Framework, name: str, number: int) -> None:
    record = RECORDED[name][number]
    inputs = make_inputs(CASE[name])
    got = shared(framework, name).generate(
        framework.tensor(inputs["input_ids"]),
        attention_mask=framework.tensor(inputs["attention_mask"]),
        **record["options"],
    )
    assert got.numpy().tolist() == record["sequences"]


@both
@every_head
def test_greedy_search_is_what_calls_of_the_model_give(framework: Framework, name: str) -> None:
    model, inputs = shared(framework, name), make_inputs(CASE[name])
    source = {n: inputs[n] for n in ("input_ids", "attention_mask")}
    tensors = {n: framework.tensor(x) for n, x in source.items()}
    got = model.generate(
        **tensors, max_length=7, eos_token_id=None, forced_eos_token_id=None, pad_token_id=None
    ).numpy()
    ids = np.full((BATCH, 1), 2 if name == "bart-lm" else 0)
    for _ in range(6):
        scores = framework.outputs(model, source | {"decoder_input_ids": ids})["logits"]
        ids = np.concatenate([ids, scores[:, -1].argmax(-1)[:, None]], 1)
    np.testing.assert_array_equal(got, ids)


@both
@every_head
def test_padded_prompts_give_what_they_give_alone(framework: Framework, name: str) -> None:
    """Beams go on from prompts of several lengths, on either side of their padding."""
    model, inputs = shared(framework, name), make_inputs(CASE[name])
    rng = numbers("prompts")
    lengths = [5, 2, 4]
    rows = [np.r_[START[name.split("-")[0]], rng.integers(3, 50, n - 1)] for n in lengths]
    options = {"num_beams": 3, "max_new_tokens": 5, "forced_eos_token_id": None}
    pad = make_config(CASE[name]).pad_token_id
    for left in (True, False):
        ids, mask = np.full((BATCH, 5), pad), np.zeros((BATCH, 5), np.int64)
        for i, row in enumerate(rows):
            part = slice(5 - len(row), 5) if left else slice(0, len(row))
            ids[i, part], mask[i, part] = row, 1
        together = model.generate(
            framework.tensor(inputs["input_ids"]),
            attention_mask=framework.tensor(inputs["attention_mask"]),
            decoder_input_ids=framework.tensor(ids),
            decoder_attention_mask=framework.tensor(mask),
            **options,
        ).numpy()[:, 5:]
        for i, row in enumerate(rows):
            alone = model.generate(
                framework.tensor(inputs["input_ids"][i : i + 1]),
                attention_mask=framework.tensor(inputs["attention_mask"][i : i + 1]),
                decoder_input_ids=framework.tensor(row[None]),
                **options,
            ).numpy()[0, len(row) :]
            width = len(alone)
            assert together[i, :width].tolist() == alone.tolist()
            assert set(together[i, width:].tolist()) <= {pad}


def test_xla_generates_the_same() -> None:
    import tensorflow as tf

    model, inputs = shared(KERAS, "t5-gated"), make_inputs(CASE["t5-gated"])
    ids, mask = (tf.constant(inputs[n], tf.int32) for n in ("input_ids", "attention_mask"))
    options = {"num_beams": 2, "max_length": 6}
    expected = model.generate(ids, attention_mask=mask, **options).numpy()
    compiled = model.generate(ids, attention_mask=mask, jit_compile=True, **options).numpy()
    np.testing.assert_array_equal(compiled[:, : expected.shape[1]], expected)


# Weights.


@both
@every_head
def test_recomputed_gradients_are_the_same(framework: Framework, name: str) -> None:
    """Those of the table of distances, which all layers add, among them."""
    inputs = make_inputs(CASE[name])
    model = framework.build(CASE[name])
    loss, expected = framework.gradients(model, inputs)
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again, got = framework.gradients(model, inputs)
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(again, loss, 1e-6)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, 1e-4, 1e-6, err_msg=key)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@both
@pytest.mark.parametrize("name", ["bart-lm", "bart-untied", "t5-lm", "t5-gated"])
def test_one_table_of_words(framework: Framework, name: str, tmp_path: Path) -> None:
    """It serves both halves, and the head unless it is untied; in a file it is there once."""
    from zoo.checkpoint import Checkpoint

    model = framework.build(CASE[name])
    tied = model.config.tie_word_embeddings
    model.save_pretrained(tmp_path)
    path = "model." if name.startswith("bart") else ""
    with Checkpoint.open(tmp_path) as file:
        words = {key for key in file if "embed_tokens" in key or "shared" in key or "head" in key}
    assert words == {f"{path}shared.weight"} | (set() if tied else {"lm_head.weight"})
    opened, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    inputs = make_inputs(CASE[name])
    assert_same(framework.outputs(opened, inputs), framework.outputs(model, inputs))
    before = framework.weights(opened)
    assert (before["lm_head.weight"] == before[f"{path}shared.weight"]).all() == tied
    assert opened.num_parameters() == model.num_parameters()


@both
@every_head
@pytest.mark.parametrize("size", [VOCAB + 6, VOCAB - 4])
def test_resizing_the_vocabulary(
    framework: Framework, name: str, size: int, tmp_path: Path
) -> None:
    model = framework.build(CASE[name])
    inputs = make_inputs(CASE[name])
    inputs = {n: x % (VOCAB - 4) if n.endswith("input_ids") else x for n, x in inputs.items()}
    inputs = without_labels(inputs)
    before = framework.outputs(model, inputs)["logits"]
    table = model.resize_token_embeddings(size)
    assert model.config.vocab_size == size and table is model.get_input_embeddings()
    after = framework.outputs(model, inputs)["logits"]
    kept = min(size, VOCAB)
    assert after.shape[-1] == size
    np.testing.assert_allclose(after[..., :kept], before[..., :kept], SAME, SAME)
    model.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path)
    np.testing.assert_allclose(framework.outputs(opened, inputs)["logits"], after, SAME, SAME)


@both
@every_head
def test_setting_embeddings(framework: Framework, name: str) -> None:
    model, other = framework.build(CASE[name]), framework.build(CASE[name])
    inputs = make_inputs(CASE[name])
    other_weights = {n: 0.5 * x for n, x in framework.weights(other).items()}
    framework.set_weights(other, other_weights)
    model.set_input_embeddings(other.get_input_embeddings())
    assert model.get_encoder().get_input_embeddings() is model.get_input_embeddings()
    weights = framework.weights(model)
    path = "model." if name.startswith("bart") else ""
    for key in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
        expected = other_weights[f"{path}shared.weight"]
        np.testing.assert_array_equal(weights[f"{path}{key}.weight"], expected)
    assert np.isfinite(framework.outputs(model, inputs)["logits"]).all()


@both
@pytest.mark.parametrize(("whole", "bare"), [("bart-lm", "bart"), ("t5-lm", "t5")])
def test_a_bare_model_opens_a_head_models_file_and_back(
    framework: Framework, whole: str, bare: str, tmp_path: Path
) -> None:
    model = framework.build(CASE[whole])
    model.save_pretrained(tmp_path / "whole")
    kind = framework.model_class(CASE[bare].model)
    opened = kind.from_pretrained(tmp_path / "whole")
    inputs = make_inputs(CASE[bare])
    expected = framework.outputs(framework.build(CASE[bare]), inputs)
    states = framework.outputs(opened, inputs)
    path = "model." if bare == "bart" else ""
    mine, theirs = framework.weights(opened), framework.weights(model)
    assert all((value == theirs[f"{path}{key}"]).all() for key, value in mine.items())
    assert states.keys() == expected.keys()
    opened.save_pretrained(tmp_path / "bare")
    back, info = type(model).from_pretrained(tmp_path / "bare", output_loading_info=True)
    assert set(info["missing_keys"]) <= {"final_logits_bias"}
    for key, value in framework.weights(back).items():
        if key != "final_logits_bias":
            np.testing.assert_array_equal(value, theirs[key])
        else:
            assert not value.any()


@both
def test_auto_classes(framework: Framework, tmp_path: Path) -> None:
    package = framework.package()
    prefix = framework.prefix
    for name in ("bart-lm", "t5-gated"):
        model = framework.build(CASE[name])
        model.save_pretrained(tmp_path / name)
        auto = getattr(package, f"{prefix}AutoModelForSeq2SeqLM")
        opened = auto.from_pretrained(tmp_path / name)
        assert type(opened) is type(model)
        bare = getattr(package, f"{prefix}AutoModel").from_pretrained(tmp_path / name)
        assert type(bare).__name__ == f"{prefix}{CASE[name.partition('-')[0]].model}"


@both
def test_the_encoder_can_be_called_by_itself(framework: Framework) -> None:
    for name in ("bart-lm", "t5-gated"):
        model, inputs = shared(framework, name), make_inputs(CASE[name])
        source = {n: inputs[n] for n in ("input_ids", "attention_mask")}
        encoded = framework.call(model.get_encoder(), source)
        assert isinstance(encoded, ModelOutput)
        whole = framework.outputs(model, inputs)["encoder_last_hidden_state"]
        np.testing.assert_allclose(np.array(encoded[0]), whole, SAME, SAME)


def test_fit_and_predict() -> None:
    import keras

    case, inputs = CASE["bart-lm"], make_inputs(CASE["bart-lm"])
    model = KERAS.build(case, encoder_layers=1, decoder_layers=1)
    model.compile(keras.optimizers.Adam(3e-3))
    losses = model.fit(inputs, epochs=4, batch_size=BATCH, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    predicted = model.predict(without_labels(inputs), verbose=0)
    assert predicted["logits"].shape == (BATCH, TARGET, VOCAB)


def test_half_precision() -> None:
    case, inputs = CASE["t5-lm"], make_inputs(CASE["t5-lm"])
    half = KERAS.model_class(case.model)(make_config(case), dtype="mixed_float16")
    KERAS.fill(half)
    got = KERAS.outputs(half, inputs)["logits"]
    expected = KERAS.outputs(shared(KERAS, "t5-lm"), inputs)["logits"]
    assert got.dtype == np.float16
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


# Layer, name and published key of weights in the tf_model.h5 of the published TF classes.
PUBLISHED = {
    "t5": [
        ("shared", "shared/shared/embeddings:0", "shared.weight"),
        ("encoder", "shared/shared/embeddings:0", "shared.weight"),
        (
            "encoder",
            "tft5/encoder/block_._0/layer_._0/SelfAttention/q/kernel:0",
            "encoder.block.0.layer.0.SelfAttention.q.weight",
        ),
        ("encoder", "tft5/encoder/final_layer_norm/weight:0", "encoder.final_layer_norm.weight"),
    ],
    "bart": [
        ("model", "model.shared/model.shared/embeddings:0", "model.shared.weight"),
        (
            "model",
            "tf_bart_1/model/encoder/layers.0/fc1/kernel:0",
            "model.encoder.layers.0.fc1.weight",
        ),
        ("final_logits_bias", "final_logits_bias:0", "final_logits_bias"),
    ],
    "rag": [
        (
            "rag",
            "tf_1/rag/generator/model.shared/embeddings:0",
            "rag.generator.model.shared.weight",
        ),
        ("rag", "final_logits_bias:0", "rag.generator.final_logits_bias"),
    ],
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_files_of_the_published_tf_classes(family: str, tmp_path: Path) -> None:
    arrays = {
        name: np.full((2, 3), number) for number, (_, name, _) in enumerate(PUBLISHED[family])
    }
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        layers: dict[str, list[str]] = {}
        for layer, name, _ in PUBLISHED[family]:
            file.create_dataset(f"{layer}/{name}", data=arrays[name])
            layers.setdefault(layer, []).append(name)
        file.attrs["layer_names"] = list(layers)
        for layer, names in layers.items():
            file[layer].attrs["weight_names"] = names
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint) == {key for _, _, key in PUBLISHED[family]}
    for _, name, key in PUBLISHED[family]:
        expected = arrays[name].T if name.endswith("/kernel:0") else arrays[name]
        np.testing.assert_array_equal(checkpoint.array(key), expected)
    if family == "t5":  # one table in two layers, and not two tables
        with h5py.File(tmp_path / "tf_model.h5", "r+") as file:
            file["encoder/shared/shared/embeddings:0"][0, 0] = 9
        with pytest.raises(CheckpointError, match="holds two weights for 'shared.weight'"):
            Checkpoint.open(tmp_path)
    # The safetensors file of a TF class leaves the model's name out.
    short = "model.shared/model.shared/embeddings:0"
    assert published_key(short, drop_model=False) == "model.shared.weight"
    assert tensorflow_name("final_logits_bias", (1, 3), set()) == "final_logits_bias:0"

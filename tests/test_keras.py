"""What is Keras' own: forms of calling, compile and fit, precision, saving, distribution."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    HEAD_CASES,
    HIDDEN,
    LABELS,
    SEQUENCE,
    VOCAB,
    Arrays,
    make_inputs,
    names,
    without_labels,
)
from frameworks import KERAS, flat

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import tf_models  # noqa: E402
from tf_models.modeling import named_weights  # noqa: E402

ROOT = Path(__file__).parents[1]
every_head = pytest.mark.parametrize("case", HEAD_CASES, ids=names(HEAD_CASES))
SAME = 3e-6


@cache
def shared(name: str) -> Any:
    """A model that no test changes."""
    return KERAS.build(CASE[name])


def assert_same(got: Any, expected: Any, tolerance: float = SAME) -> None:
    got, expected = arrays(got), arrays(expected)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


def arrays(value: Any) -> Arrays:
    if isinstance(value, np.ndarray):
        return {"": value}
    if isinstance(value, dict) and all(isinstance(x, np.ndarray) for x in value.values()):
        return dict(value)
    return flat(value)


# Forms of a call.


def test_every_form_of_inputs_gives_the_same() -> None:
    case = CASE["token-labels"]
    model, inputs = shared(case.name), without_labels(make_inputs(case))
    ids, mask, types = (inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    expected = model(**inputs)
    assert_same(model(inputs), expected)
    assert_same(model({name: tf.constant(value) for name, value in inputs.items()}), expected)
    assert_same(model([ids, mask, types]), expected)
    assert_same(model((ids, mask, types)), expected)
    assert_same(model(ids, mask, types), expected)
    assert_same(model(ids, attention_mask=mask, token_type_ids=types), expected)
    assert_same(model([ids, mask], token_type_ids=types), expected)
    assert_same(model({"input_ids": ids, "attention_mask": mask}, token_type_ids=types), expected)
    assert_same(model(ids), model(input_ids=ids))
    assert_same(model({"input_ids": ids, "training": False}), model(ids))


def test_wrong_forms_are_named() -> None:
    case = CASE["token-labels"]
    model, inputs = shared(case.name), without_labels(make_inputs(case))
    with pytest.raises(ValueError, match=r"no inputs \['inputs_ids'\]; it takes .*'input_ids'"):
        model({"inputs_ids": inputs["input_ids"]})
    with pytest.raises(ValueError, match=r"\['input_ids'\] given twice"):
        model(inputs["input_ids"], input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="takes 10 inputs"):
        model([inputs["input_ids"]] * 11)
    with pytest.raises(TypeError, match="nonsense"):
        model(inputs["input_ids"], nonsense=1)


def test_a_functional_model_around_it(tmp_path: Path) -> None:
    """Symbolic inputs with unknown lengths; trained, saved as one file and opened again."""
    inputs = {
        "input_ids": keras.Input((None,), dtype="int32", name="input_ids"),
        "attention_mask": keras.Input((None,), dtype="int32", name="attention_mask"),
    }
    encoder = KERAS.build(CASE["model"], num_hidden_layers=1)
    encoded = encoder(inputs)
    assert encoded.last_hidden_state.shape == (None, None, HIDDEN)
    assert encoded["pooler_output"].shape == (None, HIDDEN)
    scores = keras.layers.Dense(3, name="scores")(encoded.pooler_output)
    model = keras.Model(inputs, scores)
    data = make_inputs(CASE["model"])
    x = {name: data[name].astype(np.int32) for name in inputs}
    expected = KERAS.call(encoder, x).pooler_output @ model.get_layer("scores").kernel
    assert_same(model(x), expected + model.get_layer("scores").bias)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = np.arange(BATCH)
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=3, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before
    model.save(tmp_path / "bigger.keras")
    assert_same(keras.models.load_model(tmp_path / "bigger.keras")(x), model(x))


def test_symbolic_calls_know_their_shapes() -> None:
    ids = keras.Input((SEQUENCE,), dtype="int32")
    output = shared("masked-lm")(input_ids=ids, output_hidden_states=True, output_attentions=True)
    assert output.logits.shape == (None, SEQUENCE, VOCAB)
    assert [x.shape for x in output.hidden_states] == [(None, SEQUENCE, HIDDEN)] * 3
    assert output.attentions[0].shape == (None, 4, SEQUENCE, SEQUENCE)
    labels = keras.Input((SEQUENCE,), dtype="int32")
    assert shared("masked-lm")(ids, labels=labels).loss.shape == ()


# Training.


def test_weights_are_there_from_construction_on() -> None:
    """Also the optimizer's, and none that a first call would add."""
    model = KERAS.build(CASE["masked-lm"])
    assert model.built
    variables = [weight.variable for _, weight in named_weights(model)]
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in variables}
    assert len(model.trainable_variables) == len(variables)
    before = len(model.variables)
    KERAS.call(model, make_inputs(CASE["masked-lm"]))
    assert len(model.variables) == before


@every_head
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables .'dense")  # the pooler
def test_training_on_the_models_own_loss(case: Any) -> None:
    """`compile(optimizer)` alone: labels among the inputs, or as y; the loss is the model's."""
    inputs = make_inputs(case)
    expected = float(KERAS.call(shared(case.name), inputs).loss)
    model = KERAS.build(case)
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    assert model.train_on_batch(inputs, return_dict=True)["loss"] == pytest.approx(expected, 1e-5)
    assert model.train_on_batch(inputs, return_dict=True)["loss"] < expected
    labels = {name: inputs[name] for name in case.label_names}
    for y in (labels, list(labels.values()), *([labels["labels"]] if len(labels) == 1 else [])):
        KERAS.fill(model)
        got = model.test_on_batch(without_labels(inputs), y, return_dict=True)
        assert got["loss"] == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_fit_evaluate_predict(jit_compile: bool) -> None:
    """In graphs, over batches of which the last is smaller."""
    case = CASE["single-label"]
    inputs = make_inputs(case)
    model = KERAS.build(case, num_hidden_layers=1)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    history = model.fit(inputs, batch_size=2, epochs=2, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.evaluate(inputs, batch_size=3, verbose=0) == pytest.approx(
        float(KERAS.call(model, inputs).loss), 1e-5
    )
    predicted = model.predict(inputs, batch_size=3 if jit_compile else 2, verbose=0)
    expected = KERAS.outputs(model, without_labels(inputs))
    assert list(predicted) == ["logits"] and predicted.logits is predicted[0]
    assert_same(dict(predicted), expected, 1e-5)


def test_predict_leaves_out_what_is_not_asked_for() -> None:
    case = CASE["token-labels"]
    inputs = without_labels(make_inputs(case))
    model = KERAS.build(case, output_hidden_states=True, output_attentions=True)
    predicted = model.predict(inputs, batch_size=2, verbose=0)
    assert list(predicted) == ["logits", "hidden_states", "attentions"]
    assert_same(flat_numpy(predicted), KERAS.outputs(model, inputs), 1e-5)
    plain = KERAS.build(case, return_dict=False)
    (logits,) = plain.predict(inputs, batch_size=2, verbose=0)
    assert logits.shape == (BATCH, SEQUENCE, LABELS)


def flat_numpy(value: Any, prefix: str = "") -> Arrays:
    if isinstance(value, np.ndarray):
        return {prefix.removesuffix("."): value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: Arrays = {}
    for name, item in items:
        found |= flat_numpy(item, f"{prefix}{name}.")
    return found


def test_a_decoder_predicts_with_its_cache() -> None:
    case = CASE["causal-lm"]
    inputs = without_labels(make_inputs(case))
    predicted = shared(case.name).predict(inputs, batch_size=2, verbose=0)
    assert_same(flat_numpy(predicted), KERAS.outputs(shared(case.name), inputs), 1e-5)


@pytest.mark.parametrize("labels_as_y", [True, False])
def test_tf_data(labels_as_y: bool) -> None:
    case = CASE["token-labels"]
    inputs = make_inputs(case)
    x, y = without_labels(inputs), inputs["labels"]
    data = tf.data.Dataset.from_tensor_slices((x, y) if labels_as_y else inputs).batch(1)
    model = KERAS.build(case, num_hidden_layers=1)
    model.compile(keras.optimizers.SGD(0.1), steps_per_execution=2)
    first, last = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    assert last < first


def test_a_keras_loss_with_metrics() -> None:
    case = CASE["single-label"]
    inputs = make_inputs(case)
    x, y = without_labels(inputs), inputs["labels"]
    model = KERAS.build(case, num_hidden_layers=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], weighted_metrics=["accuracy"]
    )
    got = model.evaluate(x, y, verbose=0, return_dict=True)
    output = KERAS.outputs(model, inputs)
    assert got["loss"] == pytest.approx(float(output["loss"]), 1e-5)
    assert got["accuracy"] == pytest.approx((output["logits"].argmax(-1) == y).mean())
    # Weights of examples and classes are Keras' then.
    weights = np.array([1.0, 0.0, 0.0])
    got = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    logits = output["logits"][0]
    expected = (np.log(np.exp(logits).sum()) - logits[y[0]]) / BATCH
    assert got["loss"] == pytest.approx(expected, 1e-5)
    history = model.fit(x, y, class_weight={i: 2.0 for i in range(LABELS)}, verbose=0).history
    assert history["loss"][0] == pytest.approx(2 * float(output["loss"]), 1e-5)


def test_metrics_on_the_models_own_loss() -> None:
    case = CASE["single-label"]
    inputs = make_inputs(case)
    model = KERAS.build(case)
    model.compile("sgd", metrics=[keras.metrics.SparseCategoricalAccuracy("right")])
    expected = (KERAS.outputs(model, inputs)["logits"].argmax(-1) == inputs["labels"]).mean()
    for data in ((inputs,), (without_labels(inputs), inputs["labels"])):
        got = model.evaluate(*data, verbose=0, return_dict=True)
        assert got["right"] == pytest.approx(expected)


def test_metrics_of_both_ends_of_a_span() -> None:
    case = CASE["question-answering"]
    inputs = make_inputs(case)
    labels = {name: inputs[name] % SEQUENCE for name in case.label_names}
    x, right = without_labels(inputs), "sparse_categorical_accuracy"
    model = KERAS.build(case)
    output = KERAS.outputs(model, x)
    expected = [
        (output[f"{side}_logits"].argmax(-1) == labels[f"{side}_positions"]).mean()
        for side in ("start", "end")
    ]
    for metrics in ({"start_logits": [right], "end_logits": [right]}, [[right], [right]]):
        model.compile("sgd", metrics=metrics, run_eagerly=True)
        for data in ((x | labels,), (x, labels), (x, tuple(labels.values()))):
            got = model.evaluate(*data, verbose=0, return_dict=True)
            found = [got[f"{side}_logits_{right}"] for side in ("start", "end")]
            assert found == pytest.approx(expected)


@pytest.mark.parametrize("named", [True, False])
def test_a_keras_loss_on_two_outputs(named: bool) -> None:
    case = CASE["question-answering"]
    inputs = make_inputs(case)
    x = without_labels(inputs)
    start, end = (inputs[name] % SEQUENCE for name in case.label_names)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = KERAS.build(case)
    own = KERAS.call(model, x | {"start_positions": start, "end_positions": end}).loss
    if named:
        model.compile("sgd", {"start_logits": loss, "end_logits": loss})
        got = model.evaluate(x, {"start_logits": start, "end_logits": end}, verbose=0)
    else:
        model.compile("sgd", [loss, loss])
        got = model.evaluate(x, [start, end], verbose=0)
    got = got[0] if isinstance(got, list) else got
    assert got == pytest.approx(2 * float(own), 1e-5)


def test_compiling_twice() -> None:
    """What was compiled last counts: a loss, then the model's own again."""
    case = CASE["regression"]
    inputs = make_inputs(case)
    x, y = without_labels(inputs), inputs["labels"]
    own = float(KERAS.call(shared(case.name), inputs).loss)
    model = KERAS.build(case)
    model.compile("sgd", "mae", metrics=["mse"])
    got = model.evaluate(x, y[:, None], verbose=0, return_dict=True)
    assert got.keys() == {"loss", "mse"} and got["loss"] != pytest.approx(own, 1e-3)
    model.compile("sgd")
    got = model.evaluate(x, y, verbose=0, return_dict=True)
    assert got.keys() == {"loss"} and got["loss"] == pytest.approx(own, 1e-5)


def test_training_errors_are_clear() -> None:
    case = CASE["token-labels"]
    inputs = make_inputs(case)
    x, y = without_labels(inputs), inputs["labels"]
    model = KERAS.build(case)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"pass \['labels'\] among the inputs or as y"):
        model.fit(x, verbose=0)
    with pytest.raises(ValueError, match="sample_weight: the model's own loss takes none"):
        model.fit(x, y, sample_weight=np.ones(BATCH), verbose=0)
    case = CASE["single-label"]
    inputs = make_inputs(case)
    x, y = without_labels(inputs), inputs["labels"]
    model = KERAS.build(case)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="sample_weight: the model's own loss takes none"):
        model.fit(x, y, class_weight={i: 1.0 for i in range(LABELS)}, verbose=0)
    with pytest.raises(ValueError, match="nonsense"):
        model.fit(x, {"nonsense": y}, verbose=0)
    with pytest.raises(ValueError, match=r"\['labels'\] given twice, among the inputs and as y"):
        model.fit(inputs, y, verbose=0)
    with pytest.raises(ValueError, match=r"y: expected \['labels'\], got 2 arrays"):
        model.fit(x, [y, y], verbose=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "adafactor",
        {"class_name": "adam", "config": {"global_clipnorm": 0.1}},
        {"class_name": "sgd", "config": {"clipnorm": 0.1, "momentum": 0.9}},
    ],
    ids=str,
)  # fmt: skip
def test_sparse_gradients_of_tables_in_every_optimizer(optimizer: Any) -> None:
    """The same as with dense ones, though ids repeat: Keras squares sparse ones entry by entry."""
    case = CASE["token-labels"]
    inputs = make_inputs(case)
    ends = []
    for dense in (False, True):
        model = KERAS.build(case, num_hidden_layers=1)
        maker = keras.optimizers.get(optimizer)
        with tf.GradientTape() as tape:
            loss = KERAS.call(model, inputs, training=True).loss
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        assert sum(isinstance(g, tf.IndexedSlices) for g in gradients) == 3
        if dense:
            gradients = [tf.convert_to_tensor(g) for g in gradients]
        maker.apply(gradients, variables)
        weights = KERAS.weights(model)
        ends.append({key: value for key, value in weights.items() if "key.bias" not in key})
    assert_same(*ends)


# Dropout and seeds.


def test_dropout_in_training_only() -> None:
    case = CASE["masked-lm"]
    inputs = make_inputs(case)
    for rates in (
        {"hidden_dropout_prob": 0.5},
        {"attention_probs_dropout_prob": 0.5},
    ):
        model = KERAS.build(case, **rates)
        plain = KERAS.outputs(shared(case.name), inputs)
        assert_same(KERAS.outputs(model, inputs), plain)
        assert_same(KERAS.outputs(model, inputs, training=False), plain)
        one, two = (KERAS.outputs(model, inputs, training=True)["logits"] for _ in range(2))
        assert np.abs(one - two).max() > 0.1 and np.abs(one - plain["logits"]).max() > 0.1
    case = CASE["token-labels"]
    model = KERAS.build(case, classifier_dropout_prob=0.5)
    inputs = make_inputs(case)
    assert_same(KERAS.outputs(model, inputs), KERAS.outputs(shared(case.name), inputs))
    one, two = (KERAS.outputs(model, inputs, training=True)["logits"] for _ in range(2))
    assert np.abs(one - two).max() > 0.1


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    from tf_models.layers import Seeds, dropout

    seeds = Seeds(tf.constant([1, 2]))
    x = tf.ones((200, 500))
    one, two = (dropout(x, 0.3, seeds.next()).numpy() for _ in range(2))
    for y in (one, two):
        assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
        assert y[y != 0] == pytest.approx(1 / 0.7)
    assert (one != two).mean() == pytest.approx(2 * 0.3 * 0.7, abs=0.01)
    assert dropout(x, 0.3, None) is x and dropout(x, 0.0, seeds.next()) is x


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_seed_makes_training_repeat(run_eagerly: bool) -> None:
    case = CASE["single-label"]

    config = KERAS.build(case, hidden_dropout_prob=0.4, num_hidden_layers=1).config

    def losses() -> list[float]:
        keras.utils.set_random_seed(5)
        model = KERAS.model_class(case.model)(config)
        model.compile("sgd", run_eagerly=run_eagerly)
        return model.fit(make_inputs(case), batch_size=2, epochs=2, verbose=0).history["loss"]

    first = losses()
    assert first == losses()
    assert first[0] != first[1]


def test_every_step_of_a_graph_drops_other_units() -> None:
    case = CASE["masked-lm"]
    model = KERAS.build(case, hidden_dropout_prob=0.5)
    inputs = {name: tf.constant(value) for name, value in make_inputs(case).items()}
    step = tf.function(lambda: model(inputs, training=True).loss)
    assert float(step()) != float(step())


# Precision.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["causal-lm-cross", "question-answering", "multiple-choice"])
def test_half_precision(name: str, policy: str) -> None:
    case = CASE[name]
    model = KERAS.model_class(case.model)(shared(name).config, dtype=policy)
    half = policy.removeprefix("mixed_")
    whole = "float32" if policy.startswith("mixed") else half
    assert {weight.variable.dtype for _, weight in named_weights(model)} == {whole}
    KERAS.fill(model)
    inputs = make_inputs(case)
    inputs["attention_mask"][-1] = 0  # rows that may attend to nothing
    expected = KERAS.outputs(shared(name), inputs)
    got = KERAS.outputs(model, inputs, output_hidden_states=True)
    for key, value in expected.items():
        assert got[key].dtype.name == ("float32" if key == "loss" else half), key
        error = np.abs(got[key].astype(np.float32) - value).max()
        assert error < (0.02 if half == "float16" else 0.15), key
    assert {v.dtype.name for k, v in got.items() if "hidden" in k} == {half}
    _, gradients = KERAS.gradients(model, inputs)
    assert all(np.isfinite(value.astype(np.float32)).all() for value in gradients.values())


def test_labels_keep_their_precision() -> None:
    """They are no activations: float16 has no number above 65504."""
    case = CASE["regression"]
    inputs = make_inputs(case) | {"labels": np.array([1e5, 3.14159, 0.0], np.float32)}
    model = KERAS.model_class(case.model)(shared(case.name).config, dtype="mixed_float16")
    KERAS.fill(model)
    expected = float(KERAS.call(shared(case.name), inputs).loss)
    assert float(KERAS.call(model, inputs).loss) == pytest.approx(expected, 1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_training_in_half_precision(policy: str) -> None:
    case = CASE["token-labels"]
    reference = KERAS.build(case, num_hidden_layers=1)
    model = KERAS.model_class(case.model)(reference.config, dtype=policy)
    KERAS.fill(model)
    scaled = policy == "mixed_float16"
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False, run_eagerly=not scaled)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scaled
    losses = model.fit(make_inputs(case), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0] < 10
    reference.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    expected = reference.fit(make_inputs(case), epochs=4, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, 0.02)


def test_a_checkpoint_opens_in_another_precision(tmp_path: Path) -> None:
    case = CASE["masked-lm"]
    shared(case.name).save_pretrained(tmp_path)
    cls = KERAS.model_class(case.model)
    for policy, whole in (("bfloat16", "bfloat16"), ("mixed_float16", "float32")):
        model = cls.from_pretrained(tmp_path, dtype=policy)
        assert {weight.variable.dtype for _, weight in named_weights(model)} == {whole}
        half = tmp_path / policy
        model.save_pretrained(half)
        again = cls.from_pretrained(half)
        assert {weight.variable.dtype for _, weight in named_weights(again)} == {"float32"}
        got, expected = KERAS.weights(again), KERAS.weights(shared(case.name))
        assert_same(got, expected, 1e-2 if whole == "bfloat16" else 1e-9)


# Keras' files.


@every_head
def test_the_keras_format(case: Any, tmp_path: Path) -> None:
    model, inputs = shared(case.name), make_inputs(case)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert_same(KERAS.weights(loaded), KERAS.weights(model), 0)
    assert_same(KERAS.outputs(loaded, inputs), KERAS.outputs(model, inputs))


def test_the_keras_format_keeps_optimizer_precision_and_compilation(tmp_path: Path) -> None:
    case = CASE["single-label"]
    model = KERAS.model_class(case.model)(
        KERAS.build(case, num_hidden_layers=1).config, dtype="mixed_bfloat16", name="mine"
    )
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    inputs = make_inputs(case)
    model.fit(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.name == "mine" and loaded.dtype_policy.name == "mixed_bfloat16"
    assert loaded.run_eagerly
    assert int(loaded.optimizer.iterations.numpy()) == 1
    one, two = (m.fit(inputs, verbose=0).history["loss"] for m in (model, loaded))
    np.testing.assert_allclose(one, two, 1e-6)
    # Adam turns what bfloat16 rounds in small gradients into a share of its step, 0.01.
    assert_same(KERAS.weights(loaded), KERAS.weights(model), 1e-3)


def test_weights_files(tmp_path: Path) -> None:
    case = CASE["causal-lm-cross"]
    model = shared(case.name)
    model.save_weights(tmp_path / "model.weights.h5")
    other = KERAS.model_class(case.model)(model.config)
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(KERAS.weights(other), KERAS.weights(model), 0)


def test_cloning() -> None:
    case = CASE["model-no-pooler"]
    model = shared(case.name)
    for clone in (type(model).from_config(model.get_config()), keras.models.clone_model(model)):
        assert type(clone) is type(model) and clone is not model
        assert clone.pooler is None and clone.config == model.config
        clone.set_weights(model.get_weights())
        inputs = make_inputs(case)
        assert_same(KERAS.outputs(clone, inputs), KERAS.outputs(model, inputs))


def test_resized_models_survive_the_keras_format(tmp_path: Path) -> None:
    case = CASE["masked-lm"]
    model = KERAS.build(case, num_hidden_layers=1)
    model.resize_token_embeddings(VOCAB + 5)
    model.compile("sgd")
    inputs = make_inputs(case)
    first, last = model.fit(inputs, epochs=2, verbose=0).history["loss"]
    assert last < first
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config.vocab_size == VOCAB + 5
    assert_same(KERAS.outputs(loaded, inputs), KERAS.outputs(model, inputs))


def test_resizing_after_training_needs_a_new_optimizer() -> None:
    case = CASE["masked-lm"]
    model = KERAS.build(case, num_hidden_layers=1)
    inputs = make_inputs(case)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    model.fit(inputs, verbose=0)
    model.predict(inputs, verbose=0)
    model.resize_token_embeddings(VOCAB + 5)
    assert model.predict(inputs, verbose=0).logits.shape[-1] == VOCAB + 5
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    first, last = model.fit(inputs, epochs=2, verbose=0).history["loss"]
    assert last < first


# Graphs and distribution.


def test_one_trace_serves_every_length() -> None:
    model, traces = shared("masked-lm"), []
    spec = tf.TensorSpec((None, None), tf.int64)

    @tf.function(input_signature=[spec, spec])
    def run(ids: Any, mask: Any) -> Any:
        traces.append(ids.shape)
        return dict(model(input_ids=ids, attention_mask=mask))

    for batch, length in ((1, 1), (2, 5), (3, SEQUENCE)):
        ids = np.arange(batch * length).reshape(batch, length) % VOCAB
        mask = np.ones_like(ids)
        mask[0, length // 2 + 1 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        assert_same(run(ids, mask)["logits"], KERAS.call(model, inputs).logits)
    assert len(traces) == 1


@pytest.mark.parametrize(("jit_compile", "chunk"), [(False, 0), (False, 4), (True, 0)])
def test_decoding_in_a_graph(jit_compile: bool, chunk: int) -> None:
    """Caches of unknown length go in and come out; XLA compiles each length."""
    model = KERAS.build(CASE["causal-lm"], num_hidden_layers=1, chunk_size_feed_forward=chunk)
    ids = tf.constant(make_inputs(CASE["causal-lm"])["input_ids"])
    expected = model(ids, use_cache=False).logits

    @tf.function(jit_compile=jit_compile, reduce_retracing=True)
    def step(ids: Any, cache: Any) -> Any:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        return output.logits, output.past_key_values

    logits, cached = step(ids[:, :4], None)
    found = [logits]
    for position in range(4, 6):
        logits, cached = step(ids[:, position : position + 1], cached)
        found.append(logits)
    assert_same(tf.concat(found, 1), expected[:, :6], 1e-5)


def test_outputs_pass_through_graphs() -> None:
    model, inputs = shared("single-label"), make_inputs(CASE["single-label"])
    output = tf.function(lambda **x: model(**x, output_hidden_states=True))(
        **{name: tf.constant(value) for name, value in inputs.items()}
    )
    assert type(output).__name__ == "SequenceClassifierOutput"
    assert list(output) == ["loss", "logits", "hidden_states"]
    assert output[0] is output.loss and len(output.hidden_states) == 3


@pytest.mark.parametrize("name", ["causal-lm-cross", "question-answering"])
def test_xla_gives_the_same_gradients(name: str) -> None:
    case = CASE[name]
    model = KERAS.build(case, num_hidden_layers=1)
    inputs = {key: tf.constant(value) for key, value in make_inputs(case).items()}
    variables = [weight.variable.value for _, weight in named_weights(model)]

    @tf.function(jit_compile=True)
    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = model(inputs, training=True).loss
        found = tape.gradient(loss, variables)
        return loss, [tf.convert_to_tensor(g) for g in found]

    loss, got = run()
    expected_loss, expected = KERAS.gradients(model, make_inputs(case))
    assert float(loss) == pytest.approx(expected_loss, 1e-5)
    for (key, weight), value in zip(named_weights(model), got, strict=True):
        value = value.numpy().T if weight.transposed else value.numpy()
        np.testing.assert_allclose(value, expected[key], 1e-4, 1e-5, err_msg=key)


DISTRIBUTED = """
    import sys
    sys.path.insert(0, {tests!r})
    import numpy as np
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras
    from cases import CASE, make_inputs
    from frameworks import KERAS

    case = CASE["single-label"]
    inputs = make_inputs(case)
    # One example per replica has the same share in both means.
    inputs = {{name: value[[0, 1, 0, 2]] for name, value in inputs.items()}}

    def train(strategy, labels_as_y, optimizer):
        with strategy.scope():
            model = KERAS.build(case, num_hidden_layers=1)
            KERAS.fill(model)
            model.compile(optimizer(), jit_compile=False, run_eagerly=strategy is not two)
        x = dict(inputs)
        y = x.pop("labels") if labels_as_y else None
        losses = model.fit(x if labels_as_y else inputs, y, batch_size=4, epochs=2,
                           shuffle=False, verbose=0).history["loss"]
        return losses, KERAS.weights(model), model

    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert two.num_replicas_in_sync == 2
    for labels_as_y, optimizer in (
        (True, lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
        (False, lambda: keras.optimizers.AdamW(1e-3, epsilon=1e-12)),
    ):
        one = train(tf.distribute.get_strategy(), labels_as_y, optimizer)
        other = train(two, labels_as_y, optimizer)
        np.testing.assert_allclose(other[0], one[0], 1e-4, 1e-5)
        for name, value in one[1].items():
            if "key.bias" not in name:
                np.testing.assert_allclose(other[1][name], value, 1e-4, 2e-5, err_msg=name)
    # Evaluated and predicted on two, saved from two.
    expected = KERAS.call(other[2], inputs)
    np.testing.assert_allclose(
        other[2].evaluate(inputs, batch_size=4, verbose=0), float(expected.loss), 1e-5
    )
    predicted = other[2].predict(inputs, batch_size=4, verbose=0)
    np.testing.assert_allclose(predicted.logits, expected.logits, 1e-4, 1e-5)
    other[2].save_pretrained({folder!r})
    opened = type(other[2]).from_pretrained({folder!r})
    for name, value in KERAS.weights(opened).items():
        np.testing.assert_array_equal(value, other[1][name])
    print("equal")
"""


def test_two_devices_train_as_one(tmp_path: Path) -> None:
    """Loss, weights and predictions; devices have to be made before TensorFlow starts."""
    code = textwrap.dedent(DISTRIBUTED).format(
        tests=str(Path(__file__).parent), folder=str(tmp_path / "saved")
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("equal")


# Recomputing.


def test_recomputing_in_graphs_and_with_dropout() -> None:
    """Same losses along some steps, in a graph, with the same seeds."""
    case = CASE["single-label"]
    ends = []
    for recompute in (False, True):
        keras.utils.set_random_seed(3)
        model = KERAS.build(
            case, num_hidden_layers=1, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2
        )
        if recompute:
            model.gradient_checkpointing_enable()
        model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
        ends.append(model.fit(make_inputs(case), epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(ends[1], ends[0], 1e-5)
    with pytest.raises(ValueError, match="gradient_checkpointing_kwargs"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_recomputing_saves_memory() -> None:
    """The compiled backward pass of many layers holds less at a time."""
    case = CASE["token-labels"]
    model = KERAS.build(
        case, num_hidden_layers=6, intermediate_size=512, max_position_embeddings=256
    )
    ids = tf.constant(np.arange(4 * 256).reshape(4, 256) % VOCAB)
    held = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable()
        with tf.GradientTape() as tape:
            loss = model(ids, labels=ids % LABELS, training=True).loss
        held.append(sum(sizes_on(tape)))
        del tape, loss
    assert held[1] < held[0] / 3


def sizes_on(tape: Any) -> list[int]:
    """Bytes of the tensors that are alive because of a tape: all that Python can see."""
    import gc

    assert tape is not None
    gc.collect()
    seen = {
        id(x): x
        for x in gc.get_objects()
        if issubclass(type(x), tf.__internal__.EagerTensor) and x.dtype == tf.float32
    }
    return [int(np.prod(x.shape)) * 4 for x in seen.values()]


def test_all_cases_are_covered() -> None:
    from zoo.families import FAMILIES

    published = {name for family in FAMILIES.values() for name in family.models.values()}
    missing = published - {case.model for case in CASE.values()}
    own_tests = ("RealmForOpenQA", "Reformer", "Rag")  # test_realm, test_reformer, test_rag
    assert all(name.startswith(own_tests) for name in missing), missing


def test_what_a_tokenizer_returns_goes_into_fit() -> None:
    from cases import TINY

    from zoo import BatchEncoding, RemBertConfig

    rows = np.random.default_rng(0).integers(5, 40, (6, 7))
    batch = BatchEncoding({"input_ids": rows, "attention_mask": np.ones_like(rows)})
    model = tf_models.TFRemBertForSequenceClassification(RemBertConfig(**TINY))
    model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    model.fit(batch, np.array([0, 1] * 3), batch_size=3, verbose=0)
    expected = model(dict(batch)).logits
    np.testing.assert_allclose(model.predict(batch, verbose=0)["logits"], expected, atol=1e-5)


def test_new_weights_follow_the_seed_alone(tmp_path: Path) -> None:
    """Not the order of a set, which differs from process to process."""
    from cases import TINY

    from zoo import RemBertConfig

    tf_models.TFRemBertForMaskedLM(RemBertConfig(**TINY)).save_pretrained(tmp_path)
    code = f"""
        import keras, tf_models
        keras.utils.set_random_seed(3)
        model = tf_models.TFRemBertForSequenceClassification.from_pretrained({str(tmp_path)!r})
        weights = [model.classifier.kernel, model.rembert.pooler.dense.kernel]
        print([float(keras.ops.sum(weight)) for weight in weights])
    """
    root = str(Path(tf_models.__file__).parents[1])
    printed = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert len(printed) == 1 and "." in printed.pop()

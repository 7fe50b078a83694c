"""The Keras engine: what the PyTorch engine gives, as one graph, compiled, saved and sampled."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from cases import shown

import pt_models
import tf_models
from pt_models import logits as pt_logits
from tf_models import generation as tf_generation
from tf_models import logits as tf_logits
from zoo import BertGenerationConfig, EncoderDecoderConfig, RemBertConfig
from zoo.generation import GenerationConfig, MaxLengthCriteria

VOCAB = 23
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 14,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.7,
}
PROMPTS = np.random.default_rng(0).integers(3, VOCAB, (3, 5))
# Padding in front, padding behind, and none.
RECORDED = {"return_dict_in_generate": True, "output_scores": True}
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def twins(model: pt_models.PreTrainedModel, folder: Path) -> tuple[Any, Any]:
    """A model in both frameworks, through its checkpoint."""
    model.save_pretrained(folder)
    return model.eval(), getattr(tf_models, f"TF{type(model).__name__}").from_pretrained(folder)


@pytest.fixture(scope="module")
def rembert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes = SIZES | {"input_embedding_size": 10, "output_embedding_size": 8}
    model = pt_models.RemBertForCausalLM(RemBertConfig(**sizes, is_decoder=True))
    return twins(model, tmp_path_factory.mktemp("rembert"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.manual_seed(2)
    encoder = BertGenerationConfig(**SIZES)
    decoder = BertGenerationConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=2, pad_token_id=0, eos_token_id=1
    )
    return twins(pt_models.EncoderDecoderModel(config), tmp_path_factory.mktemp("both"))


def given(tensor: Any, padded: bool) -> dict[str, Any]:
    inputs = {"input_ids": PROMPTS} | ({"attention_mask": MASK} if padded else {})
    return {name: tensor(value) for name, value in inputs.items()}


def arrays(output: Any) -> Any:
    return keras.tree.map_structure(np.asarray, {n: x for n, x in output.items()})


def assert_same(models: tuple[Any, Any], padded: bool, **options: Any) -> None:
    """Both frameworks return the same fields, sequences, and numbers within 1e-4."""
    options = {
        "max_new_tokens": 9,
        "return_dict_in_generate": True,
        "output_scores": True,
    } | options
    expected = arrays(models[0].generate(**given(torch.tensor, padded), **options))
    got = arrays(models[1].generate(**given(tf.constant, padded), **options))
    assert got.keys() == expected.keys()
    for name in expected:
        keras.tree.assert_same_structure(got[name], expected[name])
        pairs = zip(*map(keras.tree.flatten, (got[name], expected[name])), strict=True)
        for mine, theirs in pairs:
            assert mine.shape == theirs.shape, name
            if theirs.dtype.kind == "i":
                assert np.array_equal(mine, theirs), name
            else:
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4, err_msg=name)


EVERYTHING = {"output_logits": True, "output_attentions": True, "output_hidden_states": True}
# Each row is one graph: options that can be told apart stand together.
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {**EVERYTHING},
    "greedy with constraints": {
        "eos_token_id": [1, 5, 7],
        "min_new_tokens": 4,
        "repetition_penalty": 1.4,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "encoder_repetition_penalty": 0.8,
        "bad_words_ids": [[4], [9, 6], [1]],
        "sequence_bias": {(3,): 2.0, (8, 11): -1.5, (8, 11, 12): 4.0},
        "forced_eos_token_id": 1,
        "renormalize_logits": True,
    },
    "beams": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True, **EVERYTHING},
    "beams until nothing better can come": {
        "num_beams": 4,
        "early_stopping": "never",
        "length_penalty": 2.0,
        "eos_token_id": [1, 5],
        "max_length": 17,
        "max_new_tokens": None,
        "begin_suppress_tokens": [6, 7],
        "suppress_tokens": [9],
        "remove_invalid_values": True,
    },
    "beams with constraints": {
        "num_beams": 3,
        "length_penalty": -0.5,
        "min_length": 8,
        "exponential_decay_length_penalty": (3, 1.3),
        "prefix_allowed_tokens_fn": lambda row, ids: [1, *range(2 + (row + int(ids[-1])) % 3, 20)],
    },
    "diverse beams": {
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 0.8,
        "num_return_sequences": 4,
        "no_repeat_ngram_size": 2,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_both_frameworks_generate_the_same(rembert: tuple[Any, Any], name: str) -> None:
    if "output_attentions" in OPTIONS[name]:
        assert_same(rembert, False, **OPTIONS[name])
    options = {n: x for n, x in OPTIONS[name].items() if n != "output_attentions"}
    assert_same(rembert, True, **options)


@pytest.mark.parametrize("name", ["greedy", "beams", "diverse beams"])
def test_both_frameworks_answer_the_same(both: tuple[Any, Any], name: str) -> None:
    options = {"forced_bos_token_id": 4, **OPTIONS[name]}
    assert_same(both, True, **options)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_know_the_time_of_a_beam(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = BertGenerationConfig(**SIZES, is_decoder=True, position_embedding_type=kind)
    models = twins(pt_models.BertGenerationDecoder(config), tmp_path)
    assert_same(models, True, num_beams=3, eos_token_id=[1, 4])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 3}], ids=shown)
def test_a_padded_row_gives_what_it_gives_alone(rembert: tuple[Any, Any], options: dict) -> None:
    options = {"max_new_tokens": 8, "repetition_penalty": 1.5, "eos_token_id": [1, 6], **options}
    model = rembert[1]
    together = model.generate(PROMPTS, attention_mask=MASK, **options).numpy()
    count = options.get("num_return_sequences", 1)
    for row, mask in enumerate(MASK):
        alone = model.generate(
            PROMPTS[row : row + 1, mask == 1], attention_mask=mask[None, mask == 1], **options
        ).numpy()
        new = alone[:, mask.sum() :]
        expected = np.pad(new, [(0, 0), (0, together.shape[1] - 5 - new.shape[1])])
        own = together[row * count : (row + 1) * count]
        assert np.array_equal(own[:, 5:], expected)
        assert np.array_equal(own[:, :5], np.repeat(PROMPTS[row : row + 1], count, 0))


class Counted:
    """Counts how often a model's decoder is traced: twice for a graph, the prompt and the loop."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        decode = type(model)._decode

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.times += 1
            return decode(*args, **kwargs)

        monkeypatch.setattr(type(model), "_decode", counted)


def test_one_graph_serves_all_shapes(
    rembert: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rembert[1]
    counted = Counted(model, monkeypatch)
    options = {"num_beams": 2, "min_new_tokens": 2, "no_repeat_ngram_size": 3}
    for rows, length, steps in ((3, 5, 7), (1, 2, 1), (2, 4, 11)):
        ids = PROMPTS[:rows, :length]
        got = model.generate(ids, max_new_tokens=steps, **options).numpy()
        expected = rembert[0].generate(torch.tensor(ids), max_new_tokens=steps, **options)
        assert np.array_equal(got, expected)
    assert counted.times == 2
    model.generate(ids, max_length=8, **options)
    assert counted.times == 2
    model.generate(ids, max_length=8, **{**options, "no_repeat_ngram_size": 2})
    assert counted.times == 4
    resized = tf_models.TFRemBertForCausalLM(model.config)
    resized.generate(ids, max_length=8)
    resized.resize_token_embeddings(VOCAB + 1)
    resized.cls.predictions.decoder.bias.assign(np.eye(VOCAB + 1)[VOCAB] * 1e3)
    assert resized.generate(ids, max_length=8).numpy()[0, -1] == VOCAB
    resized.resize_token_embeddings(VOCAB)


def test_a_loop_ends_when_all_rows_have(rembert: tuple[Any, Any]) -> None:
    calls: list[int] = []

    def count(input_ids: Any, scores: Any) -> Any:
        calls.append(input_ids.shape[1])
        return scores

    model = rembert[1]
    out = model.generate(
        PROMPTS,
        max_new_tokens=30,
        logits_processor=[count],
        exponential_decay_length_penalty=(2, 9.0),
    )
    assert calls == list(range(5, out.shape[1]))
    assert out.shape[1] < 20


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": [1, 6], "repetition_penalty": 1.2, "bad_words_ids": [[5], [7, 8]]},
        {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
        {"do_sample": True, "num_return_sequences": 2, "top_p": 0.9, "seed": (5, 7)},
    ],
    ids=["greedy", "beams", "sampling"],
)
def test_graph_xla_and_saved_model_give_the_same(
    rembert: tuple[Any, Any], options: dict, tmp_path: Path
) -> None:
    model = rembert[1]
    options = {"max_new_tokens": 8, **options}
    ids, mask = (tf.constant(x, tf.int32) for x in (PROMPTS, MASK))
    eager = model.generate(ids, attention_mask=mask, **options).numpy()
    padded = np.pad(eager, [(0, 0), (0, 13 - eager.shape[1])])

    assert np.array_equal(
        model.generate(ids, attention_mask=mask, jit_compile=True, **options), eager
    )

    def generate(ids: Any, mask: Any) -> Any:
        return model.generate(ids, attention_mask=mask, **options)

    if "num_beams" not in options:  # one of them will do
        return
    assert np.array_equal(tf.function(generate, jit_compile=True)(ids, mask), padded)

    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    steps = options.pop("max_new_tokens")

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int32, "ids"),
            tf.TensorSpec((None, None), tf.int32, "mask"),
            tf.TensorSpec((), tf.int32, "steps"),
        ]
    )
    def served(ids: Any, mask: Any, steps: Any) -> Any:
        sequences = model.generate(ids, attention_mask=mask, max_new_tokens=steps, **options)
        return {"sequences": sequences}

    assert np.array_equal(served(ids, mask, steps)["sequences"], padded)
    tf.saved_model.save(module, str(tmp_path), signatures=served)
    reloaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    got = reloaded(ids=ids, mask=mask, steps=tf.constant(steps))["sequences"]
    assert np.array_equal(got, padded)


@pytest.mark.parametrize(
    ("policy", "options"), [("mixed_float16", {"num_beams": 3}), ("mixed_bfloat16", {})]
)
def test_mixed_precision(both: tuple[Any, Any], policy: str, options: dict, tmp_path: Path) -> None:
    both[0].save_pretrained(tmp_path)
    model = tf_models.TFEncoderDecoderModel.from_pretrained(tmp_path, dtype=policy)
    options = {"max_new_tokens": 6, **RECORDED, **options}
    got = model.generate(PROMPTS, **options)
    exact = both[0].generate(torch.tensor(PROMPTS), **options)
    assert got.scores[0].dtype == tf.float32
    np.testing.assert_allclose(got.scores[0], exact.scores[0], atol=0.5)


def test_seeds(rembert: tuple[Any, Any]) -> None:
    model = rembert[1]

    def sample(**options: Any) -> np.ndarray:
        return model.generate(PROMPTS, do_sample=True, max_new_tokens=12, **options).numpy()

    first = sample(seed=3)
    assert np.array_equal(sample(seed=3), first)
    assert not np.array_equal(sample(seed=4), first)
    keras.utils.set_random_seed(8)
    one, two = sample(), sample()
    keras.utils.set_random_seed(8)
    assert np.array_equal(sample(), one)
    assert np.array_equal(sample(), two)
    assert not np.array_equal(one, two)
    with pytest.raises(ValueError, match="seed: expected an integer or two of them"):
        sample(seed=(1, 2, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"temperature": 0.6, "top_k": 5},
        {"top_k": 0, "top_p": 0.7},
        {"top_k": 0, "typical_p": 0.6, "epsilon_cutoff": 0.02},
    ],
    ids=shown,
)
def test_distribution_of_samples(rembert: tuple[Any, Any], options: dict) -> None:
    count = 4000
    output = rembert[1].generate(
        PROMPTS[:1],
        do_sample=True,
        max_new_tokens=1,
        num_return_sequences=count,
        return_dict_in_generate=True,
        output_logits=True,
        seed=0,
        **options,
    )
    scores = torch.tensor(output.logits[0].numpy()[:1])
    config = GenerationConfig(**options, do_sample=True, eos_token_id=1)
    for warper in pt_logits.warpers(config):
        scores = warper(torch.tensor(PROMPTS[:1]), scores)
    expected = scores.softmax(-1)[0].numpy() * count
    found = np.bincount(output.sequences.numpy()[:, -1], minlength=VOCAB)
    assert found[expected == 0].sum() == 0
    likely = expected > 0
    chi_square = ((found - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = max(likely.sum() - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5


def test_beam_samples_are_scored_texts(rembert: tuple[Any, Any]) -> None:
    output = rembert[1].generate(
        PROMPTS,
        do_sample=True,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=7,
        top_k=8,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        seed=1,
    )
    found = rembert[1].compute_transition_scores(
        output.sequences, output.scores, output.beam_indices
    )
    np.testing.assert_allclose(np.sum(found, axis=1), output.sequences_scores, rtol=1e-4, atol=1e-4)


class Favour(tf_models.TFLogitsProcessor):
    """One token more for each that there is."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        assert tf.is_tensor(scores) and not hasattr(scores, "numpy")
        return scores + 50.0 * tf.one_hot(cur_len % VOCAB, VOCAB)


def test_hooks(rembert: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = rembert[1]
    counted = Counted(model, monkeypatch)
    options: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None, "attention_mask": MASK}
    favour = Favour()
    for jit_compile in (False, True):
        out = model.generate(
            PROMPTS, logits_processor=[favour], jit_compile=jit_compile, **options
        ).numpy()
        assert np.array_equal(out, np.concatenate([PROMPTS, [[5, 6, 7, 8]] * 3], 1))
    seen: list[np.ndarray] = []

    def python(input_ids: Any, scores: Any) -> Any:
        seen.append(input_ids.numpy())
        return scores + 50.0 * tf.one_hot(9, VOCAB)

    class Stop:
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            assert scores is None
            return input_ids.numpy()[:, -1] == 10

    class Streamer:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def put(self, value: Any) -> None:
            self.got.append(np.asarray(value).tolist())

        def end(self) -> None:
            self.got.append("end")

    counted.times = 0
    for length in (2, 3):  # hooks and a streamer of another call need no other graph
        seen.clear()
        streamer = Streamer()
        given = np.concatenate([PROMPTS[:, :1], PROMPTS[:, 5 - length :]], 1)
        out = model.generate(
            given,
            logits_processor=[python],
            stopping_criteria=[Stop(), MaxLengthCriteria(length + 3)],
            streamer=streamer,
            max_new_tokens=7,
        ).numpy()
        expected = np.concatenate([given, [[9, 9]] * 3], 1)
        assert np.array_equal(out, expected)
        assert streamer.got == [given.tolist(), [9] * 3, [9] * 3, "end"]
        assert [ids.shape for ids in seen] == [(3, length + 1), (3, length + 2)]
        assert np.array_equal(seen[1], out[:, :-1])
    assert counted.times == 2


def test_python_hooks_and_graphs(
    rembert: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = rembert[1]

    def same(input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return scores

    with pytest.raises(ValueError, match="logits_processor would be called in Python"):
        model.generate(PROMPTS, logits_processor=[same], jit_compile=True)
    with pytest.raises(ValueError, match="max_time"):
        model.generate(PROMPTS, max_time=1.0, jit_compile=True)

    @tf.function
    def generate(ids: Any) -> Any:
        return model.generate(ids, logits_processor=[same], max_new_tokens=3)

    expected = model.generate(PROMPTS, max_new_tokens=3).numpy()
    got = generate(tf.constant(PROMPTS)).numpy()
    assert "neither exported" in caplog.text
    assert np.array_equal(got[:, : expected.shape[1]], expected)


def test_max_time_stops(rembert: tuple[Any, Any]) -> None:
    out = rembert[1].generate(PROMPTS, max_new_tokens=30, max_time=1e-9, eos_token_id=None)
    assert out.shape == (3, 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_lenght": 3}, "did you mean 'max_length'"),
        ({"input_ids": PROMPTS}, "expected either inputs or input_ids, got both"),
        ({"num_beams": 2, "streamer": object()}, "streamer: expected num_beams=1, got 2"),
        ({"attention_mask": MASK[:, :4]}, r"attention_mask: expected shape \(3, 5\)"),
        ({"attention_mask": MASK * [[0], [1], [1]]}, "row 0 holds no token"),
        ({"max_length": 5}, "max_length: received 5"),
        ({"max_new_tokens": 60, "eos_token_id": None}, "max_position_embeddings is 40"),
        ({"max_length": tf.constant([9])}, "max_length: expected an integer"),
        ({"suppress_tokens": [40]}, r"token ids \[40\]"),
    ],
    ids=shown,
)
def test_errors_name_the_argument(rembert: tuple[Any, Any], options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rembert[1].generate(PROMPTS, **options)


IDS = np.random.default_rng(1).integers(0, VOCAB, (4, 9))
IDS[:, 4:6] = IDS[:, 7:]  # so that n-grams occur twice
IDS[1, :3] = IDS[3, :6] = -1
SCORES = np.random.default_rng(2).normal(size=(4, VOCAB)).astype(np.float32) * 3
SOURCE = np.where(np.arange(7) < [[7], [4]], IDS[:2, 2:], -1)
PROCESSORS: list[tuple[str, list[Any]]] = [
    ("MinLengthLogitsProcessor", [10, [1, 3]]),
    ("MinLengthLogitsProcessor", [9, [1, 3]]),
    ("MinNewTokensLengthLogitsProcessor", [6, 5, 1]),
    ("RepetitionPenaltyLogitsProcessor", [1.7]),
    ("EncoderRepetitionPenaltyLogitsProcessor", [1.7, SOURCE]),
    ("NoRepeatNGramLogitsProcessor", [1]),
    ("NoRepeatNGramLogitsProcessor", [2]),
    ("NoRepeatNGramLogitsProcessor", [3]),
    ("NoRepeatNGramLogitsProcessor", [12]),
    ("EncoderNoRepeatNGramLogitsProcessor", [2, SOURCE]),
    ("EncoderNoRepeatNGramLogitsProcessor", [1, SOURCE]),
    ("SequenceBiasLogitsProcessor", [{(3,): 2.0, (int(IDS[0, -1]), 5): -1.0, (1,) * 12: 9.0}]),
    ("NoBadWordsLogitsProcessor", [[[4], [int(IDS[1, -1]), 5], [1]], 1]),
    ("PrefixConstrainedLogitsProcessor", [lambda row, ids: [row, abs(int(ids[-1]))], 2]),
    ("ForcedBOSTokenLogitsProcessor", [5]),
    ("ForcedEOSTokenLogitsProcessor", [10, [4, 5]]),
    ("ForcedEOSTokenLogitsProcessor", [11, 4]),
    ("InfNanRemoveLogitsProcessor", []),
    ("ExponentialDecayLengthPenalty", [(2, 1.5), [1, 2], 4]),
    ("ExponentialDecayLengthPenalty", [(6, 1.5), 1, 4]),
    ("SuppressTokensLogitsProcessor", [[3, 4]]),
    ("SuppressTokensAtBeginLogitsProcessor", [[3, 4], 9]),
    ("SuppressTokensAtBeginLogitsProcessor", [[3, 4], 8]),
    ("LogitNormalization", []),
    ("TemperatureLogitsWarper", [0.4]),
    ("TopKLogitsWarper", [4]),
    ("TopKLogitsWarper", [1, 3]),
    ("TopKLogitsWarper", [99]),
    ("TopPLogitsWarper", [0.6]),
    ("TopPLogitsWarper", [0.01, 3]),
    ("TypicalLogitsWarper", [0.7]),
    ("TypicalLogitsWarper", [0.05, 4]),
    ("EpsilonLogitsWarper", [0.05]),
    ("EpsilonLogitsWarper", [0.9, 2]),
    ("EtaLogitsWarper", [0.3]),
]


@pytest.mark.parametrize(("name", "arguments"), PROCESSORS, ids=shown)
@pytest.mark.parametrize("forbidden", [False, True])
def test_processors(name: str, arguments: list[Any], forbidden: bool) -> None:
    scores = SCORES.copy()
    if forbidden:
        scores[:, 6:9] = -np.inf
        if name == "InfNanRemoveLogitsProcessor":
            scores[0, :2] = np.nan, np.inf

    def of(kind: Any) -> list[Any]:
        return [kind(x) if isinstance(x, np.ndarray) else x for x in arguments]

    theirs = getattr(pt_logits, name)(*of(torch.tensor))
    expected = theirs(torch.tensor(IDS), torch.tensor(scores)).numpy()
    mine = getattr(tf_logits, f"TF{name}")(*of(lambda x: tf.constant(x, tf.int32)))
    room = np.concatenate([IDS, np.full((4, 3), -1)], 1)  # what is not filled yet
    got = mine(tf.constant(room, tf.int32), tf.constant(scores), tf.constant(9)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_processor_of_ones_own_defines_call() -> None:
    with pytest.raises(NotImplementedError, match="TFLogitsProcessor"):
        tf_models.TFLogitsProcessor()(None, None, None)
    twice = tf_models.TFLogitsProcessorList([tf_logits.TFTemperatureLogitsWarper(0.5)] * 2)
    assert np.array_equal(twice(None, tf.constant([[1.0]]), 1), [[4.0]])


def test_one_token_with_beams_compiled(rembert: tuple[Any, Any]) -> None:
    options = {"num_beams": 2, "max_new_tokens": 1}
    expected = rembert[0].generate(torch.tensor(PROMPTS), **options).numpy()
    found = rembert[1].generate(PROMPTS, jit_compile=True, **options)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", ["different", "ties", "few"])
def test_best_of_long_rows(values: str) -> None:
    """In parts they are the same as at once, equals in the same order."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 20 * tf_generation.PART + 7)).astype(np.float32)
    if values == "ties":
        rows = np.round(rows)
    elif values == "few":
        rows[rng.random(rows.shape) < 0.9999] = -np.inf
    for count in (1, 5, 9):
        found, expected = tf_generation._top(tf.constant(rows), count), tf.math.top_k(rows, count)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])

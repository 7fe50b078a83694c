"""T5 alone: its configuration, its distances, its tokenizers, and what its parts do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASE, HEADS, SEQUENCE, TARGET, make_config, make_inputs, without_labels
from frameworks import KERAS, TORCH, Framework
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_fixtures import train

from zoo import AutoTokenizer, RagConfig, T5Config, T5Tokenizer, T5TokenizerFast
from zoo.configs.t5 import distance_buckets

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])


# The configuration.


def test_published_defaults() -> None:
    config = T5Config()
    published = {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
        "num_decoder_layers": 6, "num_heads": 8, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0, "feed_forward_proj": "relu", "is_encoder_decoder": True,
        "use_cache": True, "pad_token_id": 0, "eos_token_id": 1, "classifier_dropout": 0.0,
        "dense_act_fn": "relu", "is_gated_act": False, "hidden_size": 512,
        "num_attention_heads": 8, "num_hidden_layers": 6,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    assert T5Config(num_layers=3).num_decoder_layers == 3
    assert T5Config(num_hidden_layers=4, num_decoder_layers=2).num_decoder_layers == 2


def test_feed_forward(tmp_path: Path) -> None:
    for name, activation, gated in [
        ("relu", "relu", False),
        ("gated-gelu", "gelu_new", True),
        ("gated-silu", "silu", True),
        ("gelu", "gelu", False),
    ]:
        config = T5Config(feed_forward_proj=name)
        assert (config.dense_act_fn, config.is_gated_act) == (activation, gated)
        config.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert (saved["dense_act_fn"], saved["is_gated_act"]) == (activation, gated)
        assert T5Config.from_pretrained(tmp_path) == config
        other = T5Config.from_pretrained(tmp_path, feed_forward_proj="gated-relu")
        assert (other.dense_act_fn, other.is_gated_act) == ("relu", True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feed_forward_proj": "gated-x"}, "feed_forward_proj: received 'gated-x'"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn: received 'gelu', expected 'relu', as feed_for"),
        ({"relative_attention_num_buckets": 7}, "received 7, expected an even number"),
        ({"relative_attention_max_distance": 16}, "received 16, expected more than half"),
        ({"pad_token_id": -1}, "pad_token_id: received -1"),
        ({"num_layer": 3}, "did you mean"),
    ],
)
def test_impossible_configurations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        T5Config(**values)


@pytest.mark.parametrize("nested", [False, True])
def test_files_of_newer_versions(nested: bool) -> None:
    """They say `tie_word_embeddings: true` of every model, and of v1.1 that nothing is scaled."""
    saved = {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False}
    config = T5Config.from_dict(saved)
    if nested:
        config = RagConfig.from_dict(
            {"question_encoder": {"model_type": "dpr"}, "generator": saved}
        ).generator
    assert config.tie_word_embeddings is False
    assert "scale_decoder_outputs" not in config.to_dict()
    assert T5Config.from_dict(saved | {"scale_decoder_outputs": True}).tie_word_embeddings


# Distances.


def test_rows_of_distances() -> None:
    """As the paper has them: 32 rows, logarithmic up to 128, beyond which all share one."""
    config = T5Config()
    one_way = distance_buckets(config, both_ways=False)
    assert len(one_way) == 2 * 128 + 1
    behind, ahead = one_way[128:], one_way[:128]
    assert ahead == [0] * 128
    assert behind[:16] == list(range(16))
    assert behind[16:] == [
        min(16 + int(math.log(n / 16) / math.log(128 / 16) * 16 + 1e-9), 31) for n in range(16, 129)
    ]
    both_ways = distance_buckets(config, both_ways=True)
    assert both_ways[128:136] == list(range(8)) and max(both_ways[128:]) == 15
    assert both_ways[:128] == [row + 16 for row in both_ways[:128:-1]]


@both
def test_scores_of_distances(framework: Framework) -> None:
    """Far apart, all distances count as one; close by, each side has its own."""
    case = CASE["t5-encoder"]
    model = framework.build(case)
    config = make_config(case)
    farthest, rows = config.relative_attention_max_distance, distance_buckets(config, True)
    length = 2 * farthest + 8
    if framework is TORCH:
        bias = model.encoder.bias(None, length, length, None).scores.detach().numpy()
    else:
        bias = model.encoder.bias(None, length, length, None).scores.numpy()
    assert bias.shape == (1, HEADS, length, length)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = framework.weights(model)[name]
    for query, key in [(0, 0), (3, 1), (1, 3), (0, length - 1), (length - 1, 0), (20, 3)]:
        distance = int(np.clip(query - key, -farthest, farthest))
        np.testing.assert_array_equal(bias[0, :, query, key], table[rows[distance + farthest]])


@both
def test_only_distances_matter(framework: Framework) -> None:
    """Padding in front of a text does not move it."""
    model = framework.build(CASE["t5-encoder"])
    ids = make_inputs(CASE["t5-encoder"])["input_ids"][:1]
    alone = framework.outputs(model, {"input_ids": ids})["last_hidden_state"]
    padded = np.concatenate([np.zeros((1, 5), np.int64), ids], 1)
    mask = (np.arange(SEQUENCE + 5) >= 5)[None].astype(np.int64)
    got = framework.outputs(model, {"input_ids": padded, "attention_mask": mask})
    np.testing.assert_allclose(got["last_hidden_state"][:, 5:], alone, 1e-5, 1e-5)


@both
def test_no_longest_text(framework: Framework) -> None:
    model = framework.build(CASE["t5-encoder"])
    got = framework.outputs(model, {"input_ids": np.ones((1, 300), np.int64)})
    assert np.isfinite(got["last_hidden_state"]).all()


# The model.


@both
def test_a_tied_head_is_scaled(framework: Framework) -> None:
    tied = framework.build(CASE["t5-lm"])
    untied = framework.build(CASE["t5-lm"], tie_word_embeddings=False)
    inputs = without_labels(make_inputs(CASE["t5-lm"]))
    weights = framework.weights(tied)
    framework.set_weights(untied, weights | {"lm_head.weight": weights["shared.weight"]})
    one, other = (framework.outputs(model, inputs)["logits"] for model in (tied, untied))
    np.testing.assert_allclose(one, other * 32**-0.5, 1e-5, 1e-5)


@both
def test_dropout_is_of_training(framework: Framework) -> None:
    inputs = without_labels(make_inputs(CASE["t5-gated"]))
    model = framework.build(CASE["t5-gated"], dropout_rate=0.5)
    one, other = (framework.training_outputs(model, inputs)["logits"] for _ in range(2))
    assert np.abs(one - other).max() > 1e-3
    still = [framework.outputs(model, inputs)["logits"] for _ in range(2)]
    np.testing.assert_array_equal(*still)


@both
def test_new_weights(framework: Framework) -> None:
    """So wide that no layer needs a scale of its own."""
    config = make_config(
        CASE["t5-gated"], d_model=96, d_kv=20, d_ff=150, vocab_size=700, initializer_factor=0.5
    )
    model = framework.model_class("T5ForConditionalGeneration")(config)
    weights = framework.weights(model)
    deviations = {
        "shared": 1.0, "lm_head": 1.0, "SelfAttention.q": (96 * 20) ** -0.5,
        "SelfAttention.k": 96**-0.5, "EncDecAttention.v": 96**-0.5,
        "SelfAttention.o": (HEADS * 20) ** -0.5, "wi_0": 96**-0.5, "wi_1": 96**-0.5,
        "wo": 150**-0.5, "relative_attention_bias": 96**-0.5,
    }  # fmt: skip
    for part, deviation in deviations.items():
        found = [x for name, x in weights.items() if name.endswith(f"{part}.weight")]
        values = np.concatenate([x.ravel() for x in found])
        tolerance = 0.4 if part == "relative_attention_bias" else 0.05
        assert abs(values.std() / (0.5 * deviation) - 1) < tolerance, part
    assert all((x == 1).all() for name, x in weights.items() if "layer_norm" in name)


@both
def test_released_files_with_scores_in_cross_attention(
    framework: Framework, tmp_path: Path, caplog: Any
) -> None:
    """The first ones have a table there which nothing reads; it is no reason to warn."""
    from zoo import checkpoint

    model = framework.build(CASE["t5-lm"])
    weights = {n: x for n, x in framework.weights(model).items() if n not in model.tied_weights()}
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights[name] = np.zeros((8, HEADS), np.float32)
    sources = {n: ("float32", x.shape, lambda x=x: x) for n, x in weights.items()}
    checkpoint.save(tmp_path, sources, config_text=model.config.to_json_string())
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and not caplog.records


@both
def test_the_encoder_alone_opens_a_whole_file(framework: Framework, tmp_path: Path) -> None:
    model = framework.build(CASE["t5-gated"])
    model.save_pretrained(tmp_path)
    encoder, info = framework.model_class("T5EncoderModel").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    inputs = make_inputs(CASE["t5-gated"])
    got = framework.outputs(encoder, {n: inputs[n] for n in ("input_ids", "attention_mask")})
    expected = framework.outputs(model, inputs)["encoder_last_hidden_state"]
    np.testing.assert_array_equal(got["last_hidden_state"], expected)


def test_a_cache_goes_over_to_the_other_framework() -> None:
    case, inputs = CASE["t5-gated"], without_labels(make_inputs(CASE["t5-gated"]))
    del inputs["decoder_attention_mask"]
    models = {framework: framework.build(case) for framework in (TORCH, KERAS)}
    expected = TORCH.outputs(models[TORCH], inputs)["logits"][:, 4:]
    first = inputs | {"decoder_input_ids": inputs["decoder_input_ids"][:, :4]}
    output = TORCH.call(models[TORCH], first)
    past = tuple(tuple(KERAS.tensor(x.numpy()) for x in layer) for layer in output.past_key_values)
    rest = inputs | {"decoder_input_ids": inputs["decoder_input_ids"][:, 4:]}
    got = KERAS.outputs(models[KERAS], rest, past_key_values=past)["logits"]
    assert got.shape[1] == TARGET - 4
    np.testing.assert_allclose(got, expected, 1e-5, 1e-5 * np.abs(expected).max())


# The tokenizers.


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vocabulary(tmp_path_factory.mktemp("t5"))


def make_vocabulary(folder: Path) -> Path:
    path = train(
        folder, 500, eos_id=1, unk_id=2, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
        control_symbols=[],
    )  # fmt: skip
    return path.rename(folder / "spiece.model")


KINDS = pytest.mark.parametrize("kind", [T5Tokenizer, T5TokenizerFast])


@KINDS
def test_sentinels(kind: type, vocab_file: Path) -> None:
    """The first has the largest id."""
    tokenizer = kind(vocab_file)
    assert len(tokenizer) == 600
    assert tokenizer.get_sentinel_tokens() == [f"<extra_id_{i}>" for i in range(100)]
    assert tokenizer.get_sentinel_token_ids() == list(range(599, 499, -1))
    ids = tokenizer("a <extra_id_0> b<extra_id_99>")["input_ids"]
    assert ids.count(599) == ids.count(500) == 1 and ids[-1] == tokenizer.eos_token_id
    few = kind(vocab_file, extra_ids=3, additional_special_tokens=["<x>"])
    assert few.additional_special_tokens == ["<x>", *few.get_sentinel_tokens()]
    assert few.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_2>"]) == [502, 500]
    with pytest.raises(ValueError, match="extra_ids: received 3, and 1 sentinels"):
        kind(vocab_file, extra_ids=3, additional_special_tokens=["<extra_id_0>"])
    assert not kind(vocab_file, extra_ids=0).additional_special_tokens


@KINDS
def test_pairs_and_ends(kind: type, vocab_file: Path, tmp_path: Path) -> None:
    tokenizer = kind(vocab_file)
    a, b = (tokenizer(text)["input_ids"][:-1] for text in ("a statement", "names"))
    assert tokenizer("a statement", "names")["input_ids"] == [*a, 1, *b, 1]
    assert tokenizer.get_special_tokens_mask(a, b) == [0] * len(a) + [1] + [0] * len(b) + [1]
    assert tokenizer.build_inputs_with_special_tokens([5, 1]) == [5, 1]
    if kind is T5Tokenizer:  # the library puts another one behind it, as published
        assert tokenizer("a statement</s>")["input_ids"] == [*a, 1]
        assert tokenizer("a statement</s>", "names</s>")["input_ids"] == [*a, 1, *b, 1]
        mask = tokenizer("a</s>", return_special_tokens_mask=True, return_length=True)
        assert mask["length"] == len(mask["input_ids"]) == len(mask["special_tokens_mask"])
    tokenizer.save_pretrained(tmp_path)
    for use_fast in (True, False):
        other = AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
        assert len(other) == 600
        assert other("a statement", "names")["input_ids"] == [*a, 1, *b, 1]
        assert other.get_sentinel_token_ids() == tokenizer.get_sentinel_token_ids()


@KINDS
def test_spaces_between_special_tokens(kind: type, vocab_file: Path) -> None:
    """As first published every stretch of text begins with a space; later only the first."""
    text = "the</s>the </s> the"
    legacy, later = kind(vocab_file, legacy=True), kind(vocab_file, legacy=False)
    (the,) = legacy.convert_tokens_to_ids(["▁the"])
    assert legacy(text)["input_ids"] == [the, 1, the, 1, the, 1]
    ids = later(text)["input_ids"]
    assert ids[:2] == [the, 1] and ids[-3:] == [1, the, 1] and ids != legacy(text)["input_ids"]
    without = kind(vocab_file, legacy=False, add_prefix_space=False)
    assert without("the")["input_ids"] == ids[2 : ids.index(1, 2)] + [1]
    assert without(" the")["input_ids"] == [the, 1]
    with pytest.raises(ValueError, match="add_prefix_space=False: with legacy=False only"):
        kind(vocab_file, legacy=True, add_prefix_space=False)


def test_decoding(vocab_file: Path) -> None:
    slow, fast = T5Tokenizer(vocab_file), T5TokenizerFast(vocab_file)
    for text in ("a statement binds names", "the list, the list."):
        for tokenizer in (slow, fast):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert slow.decode(slow("a </s> statement")["input_ids"]) == "a</s> statement</s>"
    assert slow.decode(slow("a <extra_id_0> b")["input_ids"]) == "a <extra_id_0> b</s>"


_PAIR: list[Any] = []


def _pair() -> list[Any]:
    if not _PAIR:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = make_vocabulary(Path(folder))
            for legacy in (True, False):
                _PAIR.append([kind(path, legacy=legacy) for kind in (T5Tokenizer, T5TokenizerFast)])
    return _PAIR


PARTS = ["the", " ", "a", "statement", "<pad>", "<unk>", "<extra_id_3>", "é", "日", ".", "x", " of"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_both_classes_agree(text: str) -> None:
    if text.count("  ") or "> " in text or " <" in text or text != text.strip():
        return  # the sentinels of the slow class take spaces along, as published
    for slow, fast in _pair():
        assert slow(text)["input_ids"] == fast(text)["input_ids"], text

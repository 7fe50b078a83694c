"""BART alone: its configuration, its tokenizers, and what its parts do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASE, LAYERS, VOCAB, make_config, make_inputs, without_labels
from frameworks import KERAS, TORCH, Framework
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_fixtures import save_tokenizers

from zoo import AutoTokenizer, BartConfig, BartTokenizer, BartTokenizerFast
from zoo.tokenizers.bart import byte_letters, words

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])


# The configuration.


def test_published_defaults() -> None:
    config = BartConfig()
    published = {
        "vocab_size": 50265, "max_position_embeddings": 1024, "encoder_layers": 12,
        "encoder_ffn_dim": 4096, "encoder_attention_heads": 16, "decoder_layers": 12,
        "decoder_ffn_dim": 4096, "decoder_attention_heads": 16, "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0, "activation_function": "gelu", "d_model": 1024, "dropout": 0.1,
        "attention_dropout": 0.0, "activation_dropout": 0.0, "init_std": 0.02,
        "classifier_dropout": 0.0, "scale_embedding": False, "use_cache": True, "num_labels": 3,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "is_encoder_decoder": True,
        "decoder_start_token_id": 2, "forced_eos_token_id": 2, "hidden_size": 1024,
        "num_attention_heads": 16, "num_hidden_layers": 12,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    saved = json.loads(config.to_json_string())
    assert saved["num_hidden_layers"] == 12 and "hidden_size" not in saved
    assert BartConfig(encoder_layers=3).num_hidden_layers == 3
    assert BartConfig(hidden_size=32, encoder_layers=3, num_hidden_layers=5).num_hidden_layers == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 30}, r"d_model: received 30, expected a multiple of encoder_attention_heads"),
        ({"decoder_attention_heads": 5}, "expected a multiple of decoder_attention_heads"),
        ({"pad_token_id": 50265}, "pad_token_id: received 50265"),
        ({"encoder_layerdrop": 1.5}, "encoder_layerdrop: received 1.5"),
        ({"encoder_layer": 3}, "did you mean"),
    ],
)
def test_impossible_configurations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BartConfig(**values)


# The model.


@both
def test_positions_start_behind_the_first_rows(framework: Framework) -> None:
    """Two rows of the table are no position's; the decoder's last label does not count."""
    model, inputs = framework.build(CASE["bart-lm"]), make_inputs(CASE["bart-lm"])
    _, gradients = framework.gradients(model, inputs)
    for half, length in (("encoder", 11), ("decoder", 6)):
        used = np.abs(gradients[f"model.{half}.embed_positions.weight"]).max(-1) > 0
        assert used.tolist() == [False] * 2 + [True] * length + [False] * (31 - 2 - length)


@both
def test_scaled_embeddings(framework: Framework) -> None:
    plain = framework.build(CASE["bart"])
    scaled = framework.build(CASE["bart"], scale_embedding=True)
    inputs = make_inputs(CASE["bart"])
    weights = framework.weights(plain)
    framework.set_weights(
        plain,
        {n: x * np.float32(32**0.5) if "shared" in n or "embed_tokens" in n else x
         for n, x in weights.items()},
    )  # fmt: skip
    got = framework.outputs(scaled, inputs)["last_hidden_state"]
    expected = framework.outputs(plain, inputs)["last_hidden_state"]
    np.testing.assert_allclose(got, expected, 1e-5, 1e-5)


@both
def test_the_bias_of_the_scores(framework: Framework, tmp_path: Path) -> None:
    """It is no weight, but it is in the file, read from there, and generation knows it."""
    model = framework.build(CASE["bart-lm"])
    inputs = without_labels(make_inputs(CASE["bart-lm"]))
    before = framework.outputs(model, inputs)["logits"]
    weights = framework.weights(model)
    weights["final_logits_bias"] = np.zeros((1, VOCAB), np.float32)
    weights["final_logits_bias"][0, 17] = 1e4
    framework.set_weights(model, weights)
    model.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path)
    after = framework.outputs(opened, inputs)["logits"]
    assert (after.argmax(-1) == 17).all() and not (before.argmax(-1) == 17).all()
    got = opened.generate(framework.tensor(inputs["input_ids"]), max_length=5).numpy()
    assert (got[:, 1:-1] == 17).all()
    _, gradients = framework.gradients(opened, make_inputs(CASE["bart-lm"]))
    assert "final_logits_bias" not in gradients


@both
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_layers_are_dropped_in_training_only(framework: Framework, half: str) -> None:
    inputs = without_labels(make_inputs(CASE["bart"]))
    key = "encoder_last_hidden_state" if half == "encoder" else "last_hidden_state"
    whole = framework.build(CASE["bart"])
    model = framework.build(CASE["bart"], **{f"{half}_layerdrop": 1.0})
    expected = framework.outputs(whole, inputs)[key]
    np.testing.assert_allclose(framework.outputs(model, inputs)[key], expected, 1e-5, 1e-5)
    got = framework.training_outputs(model, inputs, output_hidden_states=True)
    states = [got[f"{half}_hidden_states.{i}"] for i in range(LAYERS + 1)]
    for state in states[1:]:
        np.testing.assert_array_equal(state, states[0])
    if half == "decoder":
        assert not any(name.startswith("past") for name in got)
    sometimes = framework.build(CASE["bart"], **{f"{half}_layerdrop": 0.5})
    found = {framework.training_outputs(sometimes, inputs)[key].tobytes() for _ in range(12)}
    assert 1 < len(found) <= 2**LAYERS


@both
def test_dropout_is_of_training(framework: Framework) -> None:
    inputs = without_labels(make_inputs(CASE["bart"]))
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        model = framework.build(CASE["bart"], **{name: 0.5})
        key = "last_hidden_state"
        one, other = (framework.training_outputs(model, inputs)[key] for _ in range(2))
        assert np.abs(one - other).max() > 1e-3, name
        still = [framework.outputs(model, inputs)[key] for _ in range(2)]
        np.testing.assert_array_equal(*still)


@both
def test_a_text_that_is_too_long(framework: Framework) -> None:
    model = framework.build(CASE["bart"])
    ids = np.ones((1, 30), np.int64)
    with pytest.raises(ValueError, match="30 positions, but config.max_position_embeddings is 29"):
        framework.call(model, {"input_ids": ids})


@both
def test_new_weights(framework: Framework) -> None:
    config = make_config(CASE["bart-lm"], init_std=0.3, vocab_size=900)
    model = framework.model_class("BartForConditionalGeneration")(config)
    weights = framework.weights(model)
    assert abs(weights["model.shared.weight"].std() - 0.3) < 0.02
    assert not weights["model.shared.weight"][config.pad_token_id].any()
    assert not weights["final_logits_bias"].any()
    for name, value in weights.items():
        if name.endswith(".bias"):
            assert not value.any()
        elif value.ndim == 1:
            assert (value == 1).all()


# The tokenizers.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizers")
    save_tokenizers(path)
    return path / "generator_tokenizer"


def test_words_cut_a_text() -> None:
    cut = {
        "it's we'll I'M": ["it", "'s", " we", "'ll", " I", "'", "M"],
        "a  b\n\nc ": ["a", " ", " b", "\n", "\n", "c", " "],
        "x12y ²½": ["x", "12", "y", " ²½"],
        "(a)!? ": ["(", "a", ")!?", " "],
        "\u00a0\u3000a": ["\u00a0", "\u3000", "a"],
    }
    for text, expected in cut.items():
        assert list(words(text)) == expected


def test_every_byte_has_a_letter() -> None:
    letters = byte_letters()
    assert sorted(letters) == list(range(256)) and len(set(letters.values())) == 256
    assert letters[ord("a")] == "a" and letters[ord(" ")] == "Ġ" and letters[ord("\n")] == "Ċ"


@pytest.mark.parametrize("kind", [BartTokenizer, BartTokenizerFast])
def test_special_tokens_and_pairs(kind: type, folder: Path, tmp_path: Path) -> None:
    tokenizer = kind.from_pretrained(folder)
    a, b = tokenizer.encode("a", add_special_tokens=False), tokenizer("is")["input_ids"][1:-1]
    assert tokenizer("a", "is")["input_ids"] == [0, *a, 2, 2, *b, 2]
    types = tokenizer("a", "is", return_token_type_ids=True)["token_type_ids"]
    assert types == [0] * len(tokenizer("a", "is")["input_ids"])
    assert tokenizer.get_special_tokens_mask(a, b) == [1, *[0] * len(a), 1, 1, *[0] * len(b), 1]
    # The mask token takes the space before it along.
    assert tokenizer("a <mask> b")["input_ids"] == [0, *a, 4, *tokenizer.encode(" b")[1:]]
    tokenizer.save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is BartTokenizerFast
    other = AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    assert type(other) is BartTokenizer
    text = "the metal is <mask> löslich\n"
    assert other(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert other.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("kind", [BartTokenizer, BartTokenizerFast])
def test_a_space_in_front(kind: type, folder: Path) -> None:
    plain = kind.from_pretrained(folder)
    fronted = kind.from_pretrained(folder, add_prefix_space=True)
    assert fronted("the metal")["input_ids"] == plain(" the metal")["input_ids"]
    assert fronted(" the metal")["input_ids"] == plain(" the metal")["input_ids"]
    assert fronted("")["input_ids"] == [0, 2]
    split = fronted(["the", "metal"], is_split_into_words=True)["input_ids"]
    assert split == plain(" the metal")["input_ids"]
    if kind is BartTokenizerFast:
        with pytest.raises(ValueError, match="is_split_into_words.*add_prefix_space=True"):
            plain(["the"], is_split_into_words=True)
        offsets = plain("a the", return_offsets_mapping=True)["offset_mapping"]
        whole = kind.from_pretrained(folder, trim_offsets=False)
        assert offsets[2] == (2, 4)
        assert whole("a the", return_offsets_mapping=True)["offset_mapping"][2] == (1, 4)


def test_errors_of_decoding(folder: Path) -> None:
    half = BartTokenizer.from_pretrained(folder).encode("é", add_special_tokens=False)[:1]
    assert BartTokenizer.from_pretrained(folder).decode(half) == "\ufffd"
    assert BartTokenizer.from_pretrained(folder, errors="ignore").decode(half) == ""
    with pytest.raises(UnicodeDecodeError):
        BartTokenizer.from_pretrained(folder, errors="strict").decode(half)
    with pytest.raises(ValueError, match="lone surrogate"):
        BartTokenizer.from_pretrained(folder)("a\ud800")


def test_unusable_files(folder: Path, tmp_path: Path) -> None:
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    with pytest.raises(ValueError, match="vocab_file: .*cannot be read"):
        BartTokenizer(tmp_path / "none", merges)
    with pytest.raises(ValueError, match="merges_file: .*cannot be read"):
        BartTokenizer(vocabulary, tmp_path / "none")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
    with pytest.raises(ValueError, match=r"merges.txt, line 3: expected a pair, found 'a b c'"):
        BartTokenizer(vocabulary, tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text('{"a": "b"}')
    with pytest.raises(ValueError, match="'a' has the id 'b'"):
        BartTokenizerFast(tmp_path / "vocab.json", merges)
    with pytest.raises(ValueError, match="needs a tokenizer_file"):
        BartTokenizerFast()


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_nothing_is_lost_and_both_agree(text: str) -> None:
    slow, fast = _pair()
    ids = slow(text)["input_ids"]
    if "<mask>" not in text:
        assert slow.decode(ids[1:-1], clean_up_tokenization_spaces=False) == text
    assert fast(text)["input_ids"] == ids


_PAIR: list[Any] = []


def _pair() -> list[Any]:
    if not _PAIR:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            save_tokenizers(Path(folder))
            place = Path(folder) / "generator_tokenizer"
            kinds = (BartTokenizer, BartTokenizerFast)
            _PAIR[:] = [kind.from_pretrained(place) for kind in kinds]
    return _PAIR

"""EncoderDecoder: putting halves together, sharing weights, what goes where, released bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BATCH,
    CASE,
    HIDDEN,
    SEQUENCE,
    TARGET,
    TARGET_HIDDEN,
    TINY,
    TINY_GENERATION,
    VOCAB,
    Case,
    make_config,
    make_inputs,
    numbers,
    without_labels,
)
from frameworks import KERAS, TORCH, Framework, flat
from tokenizer_fixtures import train

from zoo import (
    AutoConfig,
    AutoTokenizer,
    BertGenerationConfig,
    EncoderDecoderConfig,
    RemBertConfig,
)

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
directions = pytest.mark.parametrize(
    ("one", "other"), [(TORCH, KERAS), (KERAS, TORCH)], ids=["pt-to-tf", "tf-to-pt"]
)
SAME = 3e-6
MODEL = "EncoderDecoderModel"
DECODER = "decoder.bert."


def assert_same(got: Any, expected: Any, tolerance: float = SAME) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, tolerance, tolerance, err_msg=name)


def halves(framework: Framework, **decoder: Any) -> tuple[Any, Any]:
    made = []
    for name, more in (("Encoder", {}), ("Decoder", decoder)):
        flags = {"is_decoder": True, "add_cross_attention": True} if more is decoder else {}
        model = framework.model_class(f"BertGeneration{name}")(
            BertGenerationConfig(**{**TINY_GENERATION, **flags, **more})
        )
        framework.fill(model)
        made.append(model)
    return made[0], made[1]


# The configuration.


def test_the_configuration_of_two(tmp_path: Path) -> None:
    encoder, decoder = RemBertConfig(**TINY), BertGenerationConfig(**TINY_GENERATION)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=1, tie_encoder_decoder=False
    )
    assert config.is_encoder_decoder and config.decoder_start_token_id == 1
    assert config.decoder.is_decoder and config.decoder.add_cross_attention
    assert not config.encoder.is_decoder and not decoder.is_decoder  # copies
    assert type(config.encoder) is RemBertConfig and config.encoder == encoder
    config.save_pretrained(tmp_path)
    for again in (
        EncoderDecoderConfig.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        EncoderDecoderConfig.from_dict(config.to_dict()),
        EncoderDecoderConfig(encoder=config.encoder.to_dict(), decoder=config.decoder.to_dict(),
                             decoder_start_token_id=1),
    ):  # fmt: skip
        assert again == config and type(again.decoder) is BertGenerationConfig
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "encoder-decoder" and saved["is_encoder_decoder"] is True
    assert saved["encoder"]["model_type"] == "rembert"
    # Every common field stands in a half, as readers expect that leave out defaults.
    assert saved["decoder"]["bos_token_id"] == 1 and saved["decoder"]["num_beams"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": None}, "decoder: received None, expected a model's configuration"),
        ({"encoder": 3}, "encoder: received 3"),
        ({"encoder": {}}, "EncoderDecoderConfig.encoder: model_type: received None"),
        ({"encoder": {"model_type": "bert"}}, "encoder: model_type: received 'bert'"),
        ({"decoder": {"model_type": "rembert", "hidden_size": 0}}, "decoder: .*hidden_size"),
        ({"decodr": {}}, "no field 'decodr'; did you mean 'decoder'"),
    ],
)
def test_impossible_configurations(change: dict[str, Any], message: str) -> None:
    good = {"encoder": BertGenerationConfig(), "decoder": BertGenerationConfig()}
    with pytest.raises(ValueError, match=message):
        EncoderDecoderConfig(**{**good, **change})
    config = EncoderDecoderConfig(**good)
    config.encoder.hidden_size = -1
    with pytest.raises(ValueError, match="encoder.hidden_size: received -1"):
        config.validate()
    config.encoder.hidden_size, config.decoder.cross_attention_hidden_size = 1024, 768
    with pytest.raises(ValueError, match="decoder.cross_attention_hidden_size: received 768"):
        config.validate()


# Construction.


@both
def test_from_two_models(framework: Framework) -> None:
    encoder, decoder = halves(framework)
    model = framework.model_class(MODEL)(encoder=encoder, decoder=decoder)
    assert model.encoder is model.get_encoder() is encoder
    assert model.decoder is model.get_decoder() is decoder
    assert model.config.encoder is encoder.config and model.config.decoder is decoder.config
    assert model.get_input_embeddings() is encoder.get_input_embeddings()
    assert model.get_output_embeddings() is decoder.get_output_embeddings()
    assert framework.weights(model).keys() == {
        *(f"encoder.{name}" for name in framework.weights(encoder)),
        *(f"decoder.{name}" for name in framework.weights(decoder)),
    }
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config, decoder.config, decoder_start_token_id=7, pad_token_id=0
    )
    again = framework.model_class(MODEL)(config, encoder, decoder)
    assert again.config is config and config.decoder is decoder.config
    inputs = make_inputs(CASE["seq2seq"])
    with pytest.raises(ValueError, match="config.decoder_start_token_id is None: set it"):
        framework.outputs(model, inputs)
    model.config.decoder_start_token_id = 7
    with pytest.raises(ValueError, match="config.pad_token_id is None: set it"):
        framework.outputs(model, inputs)
    model.config.pad_token_id = 0
    assert_same(framework.outputs(model, inputs), framework.outputs(again, inputs), 0)
    with pytest.raises(ValueError, match="decoder_input_ids, decoder_inputs_embeds or labels"):
        framework.outputs(model, without_labels(inputs))


@both
def test_halves_that_do_not_fit(framework: Framework) -> None:
    build = framework.model_class(MODEL)
    encoder, decoder = halves(framework)
    with pytest.raises(ValueError, match="expected a config, or both"):
        build()
    with pytest.raises(ValueError, match="expected a config, or both"):
        build(encoder=encoder)
    with pytest.raises(ValueError, match="encoder: expected a model without language-model head"):
        build(encoder=decoder, decoder=decoder)
    with pytest.raises(ValueError, match="Classification has no cross-attention"):
        build(encoder=encoder, decoder=framework.build(CASE["token-labels"]))
    plain = framework.model_class("BertGenerationDecoder")(
        BertGenerationConfig(**TINY_GENERATION, is_decoder=True)
    )
    with pytest.raises(ValueError, match="was made without cross-attention"):
        build(encoder=encoder, decoder=plain)
    with pytest.raises(ValueError, match="encoder: config.is_decoder is True"):
        build(encoder=decoder.bert, decoder=decoder)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        RemBertConfig(**TINY), BertGenerationConfig(**TINY_GENERATION), tie_encoder_decoder=True
    )
    with pytest.raises(ValueError, match="tie_encoder_decoder: .*'rembert'.*'bert-generation'"):
        build(config)


@both
def test_a_decoder_that_does_not_say_so_is_one(framework: Framework) -> None:
    """Released configurations leave out is_decoder, and add_cross_attention at times."""
    plain = BertGenerationConfig(**TINY_GENERATION).to_dict()
    config = EncoderDecoderConfig(encoder=plain, decoder=plain)
    model = framework.model_class(MODEL)(config)
    assert model.decoder.config.is_decoder and model.decoder.config.add_cross_attention
    assert any("crossattention" in name for name in framework.weights(model))


@directions
def test_from_two_checkpoints(one: Framework, other: Framework, tmp_path: Path) -> None:
    encoder = one.build(CASE["model"])
    decoder = one.build(CASE["causal-generation"])
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    model = other.model_class(MODEL).from_encoder_decoder_pretrained(
        tmp_path / "encoder",
        tmp_path / "decoder",
        encoder_hidden_dropout_prob=0.25,
        dtype="float32",
        decoder_use_cache=False,
        decoder_start_token_id=4,
        pad_token_id=0,
        local_files_only=True,
    )
    config = model.config
    assert (config.decoder_start_token_id, config.pad_token_id) == (4, 0)
    assert config.encoder.hidden_dropout_prob == 0.25 and not config.decoder.use_cache
    assert config.decoder.is_decoder and config.decoder.add_cross_attention
    got = other.weights(model)
    for name, value in one.weights(encoder).items():
        np.testing.assert_array_equal(got[f"encoder.{name}"], value)
    for name, value in one.weights(decoder).items():
        np.testing.assert_array_equal(got[f"decoder.{name}"], value)
    for name in (name for name in got if "crossattention" in name and name.endswith("y.weight")):
        assert 0.01 < got[name].std() < 0.03
    # It is a checkpoint like any other.
    model.save_pretrained(tmp_path / "whole")
    back = one.model_class("AutoModelForSeq2SeqLM").from_pretrained(tmp_path / "whole")
    assert type(back) is one.model_class(MODEL)
    inputs = make_inputs(CASE["seq2seq-projected"])
    assert_same(one.outputs(back, inputs), other.outputs(model, inputs), 1e-5)


@both
def test_from_a_checkpoint_and_a_model(framework: Framework, tmp_path: Path) -> None:
    build = framework.model_class(MODEL).from_encoder_decoder_pretrained
    encoder, decoder = halves(framework)
    decoder.save_pretrained(tmp_path)
    model = build(None, tmp_path, encoder_model=encoder, tie_encoder_decoder=True)
    assert model.encoder is encoder and model.config.tie_encoder_decoder
    # A decoder's checkpoint as the encoder: without its head, and seeing both ways.
    model = build(tmp_path, decoder_model=decoder)
    assert not model.encoder.config.is_decoder and not model.encoder.config.add_cross_attention
    with pytest.raises(ValueError, match="decoder_pretrained_model_name_or_path: expected"):
        build(tmp_path)
    with pytest.raises(ValueError, match="encoder_model: given together with encoder_pretrained"):
        build(tmp_path, tmp_path, encoder_model=encoder)
    with pytest.raises(ValueError, match="encoder_model: given together with encoder_hidden_act"):
        build(None, tmp_path, encoder_model=encoder, encoder_hidden_act="relu")
    with pytest.raises(ValueError, match="tie_encoder_decodr"):
        build(tmp_path, tmp_path, tie_encoder_decodr=True)


# Shared weights.


@directions
def test_shared_weights(one: Framework, other: Framework, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    case = CASE["seq2seq-shared"]
    model = one.build(case)
    own = {name: x for name, x in one.weights(model).items() if name not in model.tied_weights()}
    assert model.num_parameters() == sum(x.size for x in own.values())
    assert not any(name.startswith("encoder.") for name in own)
    assert any("crossattention" in name for name in own)
    inputs = make_inputs(case)
    step = one.sgd(model, rate=0.05, momentum=0.9)
    losses = [step(inputs) for _ in range(3)]
    assert losses[-1] < losses[0]
    trained = one.weights(model)
    for name in trained:
        if name.startswith("encoder."):
            source = DECODER + name.removeprefix("encoder.")
            np.testing.assert_array_equal(trained[name], trained[source])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == own.keys()
    # With the decoder's names, the encoder's, or both.
    alias_of = {source: alias for alias, source in model.tied_weights().items()}
    for content in (
        tensors,
        {alias_of.get(name, name): value for name, value in tensors.items()},
        tensors | {alias: tensors[source] for source, alias in alias_of.items()},
    ):
        save_file(content, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, info = other.model_class(MODEL).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert_same(other.weights(loaded), trained, 0)
        assert loaded.num_parameters() == model.num_parameters()
    assert_same(other.outputs(loaded, inputs), one.outputs(model, inputs), 1e-5)


@both
def test_the_gradient_of_a_shared_weight_is_the_sum(framework: Framework) -> None:
    case = CASE["seq2seq-shared"]
    model, inputs = framework.build(case), make_inputs(case)
    loss, shared = framework.gradients(model, inputs)
    case = Case(case.name, MODEL, case.inputs, {}, {**case.config, "tie_encoder_decoder": False})
    apart = framework.build(case)
    framework.set_weights(apart, framework.weights(model))
    again, single = framework.gradients(apart, inputs)
    assert loss == pytest.approx(again, 1e-6)
    for name, value in shared.items():
        name_in_encoder = name.replace(DECODER, "encoder.", 1)
        expected = single[name] + single.get(name_in_encoder, 0.0) * (name_in_encoder != name)
        np.testing.assert_allclose(value, expected, 1e-4, 1e-5, err_msg=name)


@both
def test_resizing(framework: Framework) -> None:
    apart = framework.build(CASE["seq2seq"])
    with pytest.raises(NotImplementedError, match="model.decoder.resize_token_embeddings"):
        apart.resize_token_embeddings(70)
    apart.decoder.resize_token_embeddings(70)
    assert apart.config.decoder.vocab_size == 70 and apart.config.encoder.vocab_size == VOCAB
    assert framework.outputs(apart, make_inputs(CASE["seq2seq"]))["logits"].shape[-1] == 70
    model = framework.build(CASE["seq2seq-shared"])
    before = framework.weights(model)
    assert model.resize_token_embeddings(70) is model.get_input_embeddings()
    after = framework.weights(model)
    for name in ("encoder.embeddings", "decoder.bert.embeddings"):
        table = after[f"{name}.word_embeddings.weight"]
        assert table.shape == (70, HIDDEN)
        np.testing.assert_array_equal(table[:VOCAB], before[f"{name}.word_embeddings.weight"])
    assert_same(
        {"": after["encoder.embeddings.word_embeddings.weight"]},
        {"": after["decoder.lm_head.decoder.weight"]},
        0,
    )
    assert model.config.encoder.vocab_size == model.config.decoder.vocab_size == 70


# What goes where.


@both
def test_labels_become_the_decoders_inputs(framework: Framework) -> None:
    case = CASE["seq2seq"]
    model, inputs = framework.build(case), make_inputs(case)
    labels = inputs["labels"]
    assert (labels == -100).any()
    start = np.full((BATCH, 1), model.config.decoder_start_token_id)
    shifted = np.concatenate([start, np.where(labels < 0, 0, labels)[:, :-1]], axis=1)
    expected = framework.outputs(model, inputs)
    got = framework.outputs(model, inputs | {"decoder_input_ids": shifted})
    assert_same(got, expected, 0)
    logits = expected["logits"]
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(scores, np.where(labels < 0, 0, labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(expected["loss"], each[labels >= 0].mean(), 1e-5)
    # Labels beside given inputs are compared as they are, position by position.
    other = framework.outputs(model, inputs | {"decoder_input_ids": np.where(labels < 0, 5, 6)})
    assert other["loss"] != expected["loss"]


@both
def test_encoder_outputs_take_the_encoders_place(framework: Framework) -> None:
    for row in ("seq2seq", "seq2seq-projected"):
        case = CASE[row]
        model, inputs = framework.build(case), make_inputs(case)
        whole = framework.outputs(model, inputs)
        kinds = [name for name in ("input_ids", "token_type_ids") if name in inputs]
        of_encoder = {name: inputs[name] for name in (*kinds, "attention_mask")}
        encoded = framework.call(model.encoder, of_encoder)
        rest = {name: value for name, value in inputs.items() if name not in kinds}
        for given in (encoded, (encoded[0],), [encoded[0]]):
            got = framework.call(model, rest, encoder_outputs=given)
            assert_same(flat(got), whole)
            plain = framework.call(model, rest, encoder_outputs=given, return_dict=False)
            assert type(plain) is tuple
            np.testing.assert_allclose(plain[1], flat(got)["logits"], SAME, SAME)


@both
def test_further_inputs_of_both_halves(framework: Framework) -> None:
    case = CASE["seq2seq-projected"]
    model, inputs = framework.build(case), make_inputs(case)
    expected = framework.outputs(model, inputs)
    positions = np.broadcast_to(np.arange(SEQUENCE), (BATCH, SEQUENCE)).copy()
    same = {
        "position_ids": positions,
        "decoder_position_ids": positions[:, :TARGET].copy(),
        "head_mask": np.ones(4, np.float32),
        "decoder_head_mask": np.ones((2, 5), np.float32),
    }
    assert_same(framework.outputs(model, inputs | same), expected, 1e-5)
    for name, value in same.items():
        changed = inputs | {name: value[..., ::-1].copy() if "ids" in name else value * 0.5}
        other = framework.outputs(model, changed)
        assert np.abs(other["logits"] - expected["logits"]).max() > 1e-3, name
        states = "encoder_last_hidden_state"
        moved = np.abs(other[states] - expected[states]).max() > 1e-3
        assert moved == (not name.startswith("decoder"))
    tables = framework.weights(model)
    embeds = {
        "inputs_embeds": tables["encoder.embeddings.word_embeddings.weight"][inputs["input_ids"]],
        "decoder_inputs_embeds": tables["decoder.bert.embeddings.word_embeddings.weight"][
            inputs["decoder_input_ids"]
        ],
    }
    rest = {name: x for name, x in inputs.items() if not name.endswith("input_ids")}
    assert_same(framework.outputs(model, rest | embeds), expected, 1e-5)
    for name in ("token_type_id", "decoder_token_type_ids", "decoder_encoder_hidden_states"):
        with pytest.raises(ValueError, match=f"{name}: neither half has such an input"):
            framework.outputs(model, inputs | {name: positions})


@both
def test_decoding_in_pieces(framework: Framework) -> None:
    """With the caches of both attentions, the same as whole."""
    case = CASE["seq2seq-rembert"]
    model = framework.build(case)
    inputs = {name: make_inputs(case)[name] for name in ("input_ids", "attention_mask")}
    ids = numbers("pieces").integers(0, 53, (BATCH, TARGET))
    whole = framework.outputs(model, inputs | {"decoder_input_ids": ids})
    encoded = framework.call(model.encoder, inputs)
    rest, cache, pieces = {"attention_mask": inputs["attention_mask"]}, None, []
    for start, end in ((0, 2), (2, 3), (3, TARGET)):
        piece = framework.call(
            model,
            rest | {"decoder_input_ids": ids[:, start:end]},
            encoder_outputs=encoded,
            past_key_values=cache,
            use_cache=True,
        )
        cache = piece.past_key_values
        pieces.append(flat(piece)["logits"])
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole["logits"], 1e-5, 1e-5)
    assert flat(cache)["1.0"].shape[2:] == (TARGET, TARGET_HIDDEN // 5)
    assert flat(cache)["1.2"].shape[2] == SEQUENCE


@both
def test_what_is_returned(framework: Framework) -> None:
    case = CASE["seq2seq"]
    inputs = make_inputs(case)
    whole = framework.build(case)
    quiet = ["loss", "logits", "past_key_values", "encoder_last_hidden_state"]
    assert list(framework.call(whole, inputs)) == quiet
    assert list(framework.call(whole, inputs, use_cache=False)) == [quiet[0], *quiet[1:2], quiet[3]]
    loud = [
        *quiet[:3], "decoder_hidden_states", "decoder_attentions", "cross_attentions", quiet[3],
        "encoder_hidden_states", "encoder_attentions",
    ]  # fmt: skip
    asked = {"output_attentions": True, "output_hidden_states": True}
    got = framework.call(whole, inputs, **asked)
    assert list(got) == loud
    assert got.cross_attentions[0].shape == (BATCH, 4, TARGET, SEQUENCE)
    for name, value in asked.items():
        setattr(whole.config, name, value)
    assert list(framework.call(whole, inputs)) == loud
    silenced = {name: False for name in asked}
    assert list(framework.call(whole, inputs, **silenced)) == quiet
    for name in asked:
        setattr(whole.config, name, False)
    whole.config.encoder.output_attentions = True
    assert list(framework.call(whole, inputs)) == [*quiet, "encoder_attentions"]
    whole.config.return_dict = False
    plain = framework.call(whole, inputs)
    assert type(plain) is tuple and len(plain) == 5
    assert_same(flat(plain), flat(framework.call(whole, inputs, return_dict=True).to_tuple()), 0)


# Released bundles.


def bundle(folder: Path, tokenizer: str, more: dict[str, Any]) -> Path:
    """A folder as the released ones are: old class names, no bos and eos, no is_decoder."""
    model = TORCH.build(CASE["seq2seq"])
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    names = [name for name in TINY_GENERATION if not name.endswith("_token_id")]
    half = {name: TINY_GENERATION[name] for name in names} | {"model_type": "bert-generation"}
    config = {
        "architectures": ["EncoderDecoderModel"],
        "model_type": "encoder-decoder",
        "is_encoder_decoder": True,
        "encoder": half | {"architectures": ["BertForSeqGenerationDecoder"]},
        "decoder": half | {"architectures": ["BertForSeqGenerationEncoderModel"],
                           "add_cross_attention": True},
        **more,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer == "wordpiece":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "is", "##n", "t"]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    else:
        train(folder, 400).rename(folder / "spiece.model")
    return folder


@pytest.mark.parametrize(
    ("tokenizer", "more", "start"),
    [
        ("wordpiece", {"decoder_start_token_id": 5, "eos_token_id": 1, "pad_token_id": 0}, 5),
        ("wordpiece", {"tokenizer_class": "BertTokenizer", "bos_token_id": 6}, 6),
        ("sentencepiece", {}, 2),
    ],
    ids=["wordpiece, start", "wordpiece, bos", "sentencepiece"],
)
def test_released_bundles(tokenizer: str, more: dict[str, Any], start: int, tmp_path: Path) -> None:
    folder = bundle(tmp_path, tokenizer, more)
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is EncoderDecoderConfig
    assert (config.decoder.bos_token_id, config.decoder.eos_token_id) == (2, 1)
    found = AutoTokenizer.from_pretrained(folder)
    expected = {"wordpiece": "BertTokenizerFast", "sentencepiece": "BertGenerationTokenizer"}
    assert type(found).__name__ == expected[tokenizer]
    slow = AutoTokenizer.from_pretrained(folder, use_fast=False, config=config)
    assert type(slow).__name__ == expected[tokenizer].removesuffix("Fast")
    inputs = make_inputs(CASE["seq2seq"])
    texts = []
    for framework in (TORCH, KERAS):
        for auto in ("AutoModel", "AutoModelForSeq2SeqLM"):
            model, info = framework.model_class(auto).from_pretrained(
                folder, output_loading_info=True
            )
            assert not any(info.values())
        assert type(model) is framework.model_class(MODEL)
        assert model.decoder.config.is_decoder
        # With nothing said, decoding starts with the right token, and ends alike.
        texts.append(model.generate(framework.tensor(inputs["input_ids"])).numpy())
        assert (texts[-1][:, 0] == start).all()
    np.testing.assert_array_equal(texts[0], texts[1])


@both
def test_padding_changes_no_answer(framework: Framework) -> None:
    """Left and right; also of the decoder's prompt."""
    model = framework.build(CASE["seq2seq-rembert"], use_cache=True)
    rng = numbers("padding")
    texts = [rng.integers(1, VOCAB, length) for length in (9, 4, 6)]
    prompts = [rng.integers(3, 53, length) for length in (1, 3, 2)]
    settings = {"max_new_tokens": 5, "num_beams": 3, "eos_token_id": None, "pad_token_id": 0}

    def answers(ids: np.ndarray, mask: np.ndarray, start: np.ndarray, real: np.ndarray) -> Any:
        given = {
            "attention_mask": mask, "decoder_input_ids": start, "decoder_attention_mask": real,
        }  # fmt: skip
        tensors = {name: framework.tensor(value) for name, value in given.items()}
        return model.generate(framework.tensor(ids), **tensors, **settings).numpy()[:, -5:]

    alone = [
        answers(ids[None], np.ones_like(ids)[None], start[None], np.ones_like(start)[None])
        for ids, start in zip(texts, prompts, strict=True)
    ]
    for side in (1, -1):
        padded, masks = zip(*[pad(rows, side) for rows in (texts, prompts)], strict=True)
        together = answers(padded[0], masks[0], padded[1], masks[1])
        np.testing.assert_array_equal(together, np.concatenate(alone))


def pad(rows: list[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their mask; 1 pads on the right, -1 on the left."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for number, row in enumerate(rows):
        at = slice(0, len(row)) if side == 1 else slice(width - len(row), width)
        ids[number, at], mask[number, at] = row, 1
    return ids, mask


# Keras.


def test_fit_predict_and_precision(tmp_path: Path) -> None:
    import keras

    case = CASE["seq2seq-shared"]
    inputs = make_inputs(case)
    model = KERAS.build(case)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(inputs, epochs=4, batch_size=BATCH, verbose=0).history["loss"]
    assert history[-1] < history[0]
    labels = inputs.pop("labels")
    again = model.fit(inputs, labels, epochs=2, batch_size=BATCH, verbose=0).history["loss"]
    assert again[-1] < history[-1]
    predicted = model.predict(
        inputs | {"decoder_input_ids": np.maximum(labels, 0)}, batch_size=2, verbose=0
    )
    assert predicted["logits"].shape == (BATCH, TARGET, VOCAB)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.num_parameters() == model.num_parameters()
    assert_same(KERAS.weights(loaded), KERAS.weights(model), 0)
    # Half precision reaches both halves and the projection between them.
    half = KERAS.model_class(MODEL)(make_config(CASE["seq2seq-projected"]), dtype="mixed_bfloat16")
    KERAS.fill(half)
    output = KERAS.call(half, make_inputs(CASE["seq2seq-projected"]))
    assert output.loss.dtype == "float32" and output.logits.dtype == "bfloat16"
    assert half.enc_to_dec_proj.compute_dtype == half.encoder.compute_dtype == "bfloat16"
    full = KERAS.outputs(KERAS.build(CASE["seq2seq-projected"]),
                         make_inputs(CASE["seq2seq-projected"]))  # fmt: skip
    assert abs(float(output.loss) - full["loss"]) < 0.1


def test_shared_tables_under_adam_take_the_sum() -> None:
    """A row that both halves look up has one gradient, not two that are squared one by one."""
    import keras
    import tensorflow as tf

    case = CASE["seq2seq-shared"]
    model, inputs = KERAS.build(case), make_inputs(case)
    table = dict(KERAS._named(model))["decoder.bert.embeddings.position_embeddings.weight"]
    with tf.GradientTape() as tape:
        loss = KERAS.call(model, inputs, training=True).loss
    gradient = tape.gradient(loss, table.variable.value)
    expected = np.sign(tf.convert_to_tensor(gradient).numpy())
    before = table.numpy()
    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-12)
    optimizer.apply([gradient], [table.variable])
    np.testing.assert_allclose(table.numpy() - before, -1e-3 * expected, atol=2e-6)


# Files of the published TF classes.


@both
def test_the_tf_classes_files(framework: Framework, tmp_path: Path) -> None:
    """There the encoder's own name stands between: `encoder/rembert/embeddings`."""
    import h5py

    case = CASE["seq2seq-projected"]
    config = {
        "encoder": ("RemBert", {}),
        "decoder": ("RemBert", dict(case.config["decoder"][1])),
    }
    case = Case("of tf", MODEL, {}, {}, config)
    model = TORCH.build(case)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        groups: dict[str, list[str]] = {}
        for name, value in TORCH.weights(model).items():
            parts = name.split(".")
            layer = parts[0]
            if layer == "encoder":
                parts.insert(1, "rembert")
            leaf = parts.pop()
            where = "/".join(parts)
            if "LayerNorm" in where:
                leaf = {"weight": "gamma", "bias": "beta"}[leaf]
            elif (
                leaf == "weight" and "embeddings" not in where and "predictions.decoder" not in name
            ):
                leaf, value = "kernel", value.T
            where = where.replace("layer/", "layer_._").replace("/cls/", "/mlm___cls/")
            full = f"tf_encoder_decoder_model/{where}/{leaf}:0"
            file.create_dataset(f"{layer}/{full}", data=value)
            groups.setdefault(layer, []).append(full)
        file.attrs["layer_names"] = [name.encode() for name in groups]
        for layer, found in groups.items():
            file[layer].attrs["weight_names"] = [name.encode() for name in found]
    loaded, info = framework.model_class(MODEL).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert_same(framework.weights(loaded), TORCH.weights(model), 0)


# Converters.


@pytest.mark.parametrize("to", ["bin", "h5", "keras"])
def test_other_formats_and_back(to: str, tmp_path: Path) -> None:
    from converters import convert

    for row in ("seq2seq-shared", "causal-generation"):
        folder = tmp_path / row
        TORCH.build(CASE[row]).save_pretrained(folder / "here")
        convert(folder / "here", folder / to, to=to)
        source = folder / to / "model.keras" if to == "keras" else folder / to
        convert(source, folder / "back", to="safetensors")
        kept = [(folder / name / "model.safetensors").read_bytes() for name in ("here", "back")]
        assert kept[0] == kept[1]


def test_verify(tmp_path: Path) -> None:
    from converters.verify import verify

    TORCH.build(CASE["seq2seq-projected"]).save_pretrained(tmp_path)
    rows = verify(tmp_path)
    assert all(row.difference <= row.tolerance for row in rows)
    names = {row.name for row in rows}
    assert {"logits", "loss", "enc_to_dec_proj.weight", "decoder.lm_head.bias"} <= names
    assert "decoder.lm_head.decoder.weight" not in names  # tied


def test_the_table_knows_the_base_models_prefix() -> None:
    from zoo.families import FAMILIES

    for family in FAMILIES.values():
        for name in family.models.values():
            cls = TORCH.model_class(name)
            assert family.prefix in ("", cls.base_model_prefix)

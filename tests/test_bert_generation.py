"""BertGeneration: what its cache does to masks, relative positions, the tied head, BERT's files."""

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
    TINY_GENERATION,
    VOCAB,
    Arrays,
    make_inputs,
    numbers,
)
from frameworks import KERAS, TORCH, Framework, flat

from zoo import AutoConfig, BertGenerationConfig
from zoo.checkpoint import CheckpointError

both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
SAME = 3e-6
IDS = numbers("generation").integers(1, VOCAB, (BATCH, SEQUENCE))
CAUSAL = np.tril(np.ones((BATCH, SEQUENCE, SEQUENCE), np.int64))


def close(one: np.ndarray, other: np.ndarray, tolerance: float = SAME) -> bool:
    return np.allclose(one, other, tolerance, tolerance)


# The cache.


@both
def test_with_a_cache_nothing_is_masked_as_published(framework: Framework) -> None:
    """Of several new tokens each sees those behind it; what is given as a square mask holds."""
    model = framework.build(CASE["causal-generation"], use_cache=True)

    def logits(ids: np.ndarray = IDS, **more: Any) -> np.ndarray:
        flags = {k: v for k, v in more.items() if isinstance(v, bool)}
        arrays = {k: v for k, v in more.items() if not isinstance(v, bool)}
        return framework.outputs(model, {"input_ids": ids, **arrays}, **flags)["logits"]

    mask = np.ones_like(IDS)
    mask[:, 3] = 0
    plain, causal = logits(), logits(use_cache=False)
    assert close(plain, logits(attention_mask=mask)) and not close(plain, causal)
    assert not close(causal, logits(attention_mask=mask, use_cache=False))
    assert close(causal, logits(attention_mask=CAUSAL)) and close(causal, logits(labels=IDS))
    later = IDS.copy()
    later[:, 7:] = 3
    for more, sees in (({}, True), ({"use_cache": False}, False), ({"labels": IDS}, False)):
        seen = not close(logits(**more)[:, :7], logits(later, **more)[:, :7])
        assert seen == sees
    # One new token at a time it makes no difference.
    cache, pieces = None, []
    for at in range(SEQUENCE):
        piece = {"input_ids": IDS[:, at : at + 1]}
        output = framework.call(model, piece, past_key_values=cache)
        cache = output.past_key_values
        pieces.append(flat(output)["logits"])
    assert close(np.concatenate(pieces, 1), causal, 1e-5)


@both
def test_labels_leave_out_the_cache(framework: Framework) -> None:
    model = framework.build(CASE["causal-generation"], use_cache=True)
    assert "past_key_values" in framework.call(model, {"input_ids": IDS})
    output = framework.call(model, {"input_ids": IDS, "labels": IDS}, use_cache=True)
    assert list(output) == ["loss", "logits"]


@both
def test_recomputing_changes_no_gradient(framework: Framework) -> None:
    """Neither with the masks of a cache nor without."""
    for row in ("causal-generation-cross", "seq2seq"):
        model, inputs = framework.build(CASE[row]), make_inputs(CASE[row])
        loss, plain = framework.gradients(model, inputs)
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        again, recomputed = framework.gradients(model, inputs)
        assert again == pytest.approx(loss, 1e-6)
        for name, value in plain.items():
            np.testing.assert_allclose(recomputed[name], value, 1e-5, 1e-6, err_msg=name)
        model.gradient_checkpointing_disable()
        assert not model.is_gradient_checkpointing


@both
def test_training_with_a_cache_warns(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    from zoo.pretrained import warn_once

    inputs = make_inputs(CASE["seq2seq"])
    for use_cache in (False, True):
        warn_once.cache_clear()
        model = framework.build(CASE["seq2seq"])
        model.config.decoder.use_cache = use_cache
        for _ in range(2):
            framework.gradients(model, inputs)
            framework.outputs(model, inputs)
        assert caplog.text.count("train it with use_cache=False") == use_cache


# Relative positions.


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions(kind: str) -> None:
    """The same numbers and gradients in both; in pieces the same as whole; distances matter."""
    results, gradients = [], []
    case = CASE["causal-generation-cross"]
    for framework in (TORCH, KERAS):
        model = framework.build(case, position_embedding_type=kind)
        table = "bert.encoder.layer.1.attention.self.distance_embedding.weight"
        weights = framework.weights(model)
        assert weights[table].shape == (2 * model.config.max_position_embeddings - 1, 8)
        assert not any("crossattention" in name and "distance" in name for name in weights)
        inputs = make_inputs(case)
        results.append(framework.outputs(model, inputs))
        gradients.append(framework.gradients(model, inputs)[1])
        # The order of time said by hand: with a cache, in two pieces.
        inputs = {name: x for name, x in inputs.items() if name.startswith("encoder")}
        whole = framework.call(
            model, inputs | {"input_ids": IDS, "attention_mask": CAUSAL}, use_cache=True
        )
        first = {"input_ids": IDS[:, :6], "attention_mask": CAUSAL[:, :6, :6]}
        cache = framework.call(model, inputs | first, use_cache=True).past_key_values
        last = {"input_ids": IDS[:, 6:], "attention_mask": CAUSAL[:, 6:]}
        piece = framework.call(model, inputs | last, past_key_values=cache, use_cache=True)
        assert close(flat(piece)["logits"], flat(whole)["logits"][:, 6:], 1e-5)
        weights[table] = weights[table][::-1]
        framework.set_weights(model, weights)
        turned = framework.outputs(model, inputs | {"input_ids": IDS}, use_cache=False)
        assert not close(turned["logits"], flat(whole)["logits"], 1e-3)
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, 1e-5, 1e-5, err_msg=name)
    for name, value in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], value, 1e-3, 2e-5, err_msg=name)


@both
def test_a_checkpoint_without_distances_opens_in_a_relative_model(
    framework: Framework, tmp_path: Path
) -> None:
    framework.build(CASE["generation-encoder"]).save_pretrained(tmp_path)
    cls = framework.model_class("BertGenerationEncoder")
    model, info = cls.from_pretrained(
        tmp_path, position_embedding_type="relative_key", output_loading_info=True
    )
    assert {name.rpartition(".self.")[2] for name in info["missing_keys"]} == {
        "distance_embedding.weight"
    }
    weights = framework.weights(model)
    for name in info["missing_keys"]:
        assert 0.01 < weights[name].std() < 0.03
    with pytest.raises(ValueError, match="position_embedding_type.*'relative'"):
        cls.from_pretrained(tmp_path, position_embedding_type="relative")


# The head.

ALIASES = {
    "lm_head.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}


@both
def test_the_head_is_the_word_embedding(framework: Framework, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    case = CASE["causal-generation"]
    model, inputs = framework.build(case), make_inputs(case)
    assert model.tied_weights() == ALIASES
    sizes = {name: x.size for name, x in framework.weights(model).items() if name not in ALIASES}
    assert model.num_parameters() == sum(sizes.values())
    step = framework.sgd(model, rate=0.05, momentum=0.9)
    losses = [step(inputs) for _ in range(3)]
    trained = framework.weights(model)
    assert losses[-1] < losses[0]
    for alias, source in ALIASES.items():
        np.testing.assert_array_equal(trained[alias], trained[source])
        assert trained[source].any()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert not tensors.keys() & ALIASES.keys()
    # Older files have the other names, or both.
    other = KERAS if framework is TORCH else TORCH
    renamed = {source: alias for alias, source in ALIASES.items()}
    for content in (
        {renamed.get(name, name): value for name, value in tensors.items()},
        tensors | {alias: tensors[source] for alias, source in ALIASES.items()},
    ):
        save_file(content, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, info = other.model_class(case.model).from_pretrained(
            tmp_path, output_loading_info=True
        )
        assert not any(info.values())
        for name, value in other.weights(loaded).items():
            np.testing.assert_array_equal(value, trained[name])


@both
@pytest.mark.parametrize("size", [VOCAB + 6, VOCAB - 20])
def test_resizing_keeps_the_tie(framework: Framework, size: int, tmp_path: Path) -> None:
    case = CASE["causal-generation"]
    model = framework.build(case)
    before, kept = framework.weights(model), min(size, VOCAB)
    model.resize_token_embeddings(size)
    after = framework.weights(model)
    for alias, source in ALIASES.items():
        assert after[alias].shape == (size, *before[alias].shape[1:])
        np.testing.assert_array_equal(after[alias], after[source])
        np.testing.assert_array_equal(after[alias][:kept], before[alias][:kept])
    inputs = {name: value % size for name, value in make_inputs(case).items()}
    step = framework.sgd(model, rate=0.05, momentum=0.9)
    losses = [step(inputs) for _ in range(3)]
    trained = framework.weights(model)
    assert losses[-1] < losses[0]
    for alias, source in ALIASES.items():
        np.testing.assert_array_equal(trained[alias], trained[source])
    model.save_pretrained(tmp_path)
    loaded = framework.model_class(case.model).from_pretrained(tmp_path)
    assert loaded.config.vocab_size == size
    assert close(
        framework.outputs(loaded, inputs)["logits"], framework.outputs(model, inputs)["logits"]
    )


@both
def test_a_head_of_its_own(framework: Framework, tmp_path: Path) -> None:
    config = BertGenerationConfig(**TINY_GENERATION, is_decoder=True, tie_word_embeddings=False)
    model = framework.model_class("BertGenerationDecoder")(config)
    assert model.tied_weights() == {"lm_head.decoder.bias": "lm_head.bias"}
    weights = framework.weights(model)
    head, table = weights["lm_head.decoder.weight"], list(ALIASES.values())[0]
    assert head.shape == (VOCAB, HIDDEN) and (head != weights[table]).any()
    model.save_pretrained(tmp_path)
    loaded = framework.model_class("BertGenerationDecoder").from_pretrained(tmp_path)
    np.testing.assert_array_equal(framework.weights(loaded)["lm_head.decoder.weight"], head)
    other = framework.model_class("BertGenerationDecoder")(config)
    model.set_output_embeddings(other.get_output_embeddings())
    np.testing.assert_array_equal(
        framework.weights(model)["lm_head.decoder.weight"],
        framework.weights(other)["lm_head.decoder.weight"],
    )
    assert framework.weights(model).keys() == weights.keys()


# BERT's files.


def bert_tensors(prefix: str = "bert.", old_names: bool = False) -> Arrays:
    """A plain BERT as published: token types, pooler, heads."""
    weights = TORCH.weights(TORCH.build(CASE["generation-encoder"]))
    found = {prefix + name: value for name, value in weights.items()}
    rng = numbers("bert")

    def more(name: str, *shape: int) -> None:
        found[name] = rng.standard_normal(shape).astype(np.float32)

    more(prefix + "embeddings.token_type_embeddings.weight", 2, HIDDEN)
    more(prefix + "pooler.dense.weight", HIDDEN, HIDDEN)
    more(prefix + "pooler.dense.bias", HIDDEN)
    found[prefix + "embeddings.position_ids"] = np.arange(29)[None]
    if prefix:
        more("cls.predictions.bias", VOCAB)
        more("cls.predictions.transform.dense.weight", HIDDEN, HIDDEN)
        more("cls.predictions.transform.LayerNorm.weight", HIDDEN)
        more("cls.seq_relationship.weight", 2, HIDDEN)
    if old_names:
        found = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for name, value in found.items()
        }
    return found


BERT_CONFIG = {
    **{k: v for k, v in TINY_GENERATION.items() if not k.endswith(("_token_id", "_prob"))},
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "gradient_checkpointing": False,
}


def bert_folder(folder: Path, kind: str) -> Path:
    prefix = "" if "base" in kind else "bert."
    tensors = bert_tensors(prefix, old_names="bin" in kind)
    (folder / "config.json").write_text(json.dumps(BERT_CONFIG))
    if "bin" in kind:
        import torch

        content = {name: torch.from_numpy(value) for name, value in tensors.items()}
        torch.save(content, folder / "pytorch_model.bin")
    else:
        from safetensors.numpy import save_file

        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@both
@pytest.mark.parametrize("kind", ["safetensors", "bin, old names", "base, safetensors"])
def test_a_plain_bert_warm_starts_both_halves(
    framework: Framework, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, tokens = bert_folder(tmp_path, kind), {"bos_token_id": 5, "eos_token_id": 6}
    encoder, info = framework.model_class("BertGenerationEncoder").from_pretrained(
        folder, **tokens, output_loading_info=True
    )
    config = encoder.config
    assert type(config) is BertGenerationConfig and config.model_type == "bert-generation"
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (5, 6, 0)
    source = TORCH.weights(TORCH.build(CASE["generation-encoder"]))
    for name, value in framework.weights(encoder).items():
        np.testing.assert_array_equal(value, source[name])
    assert info["missing_keys"] == [] and "token_type_embeddings" in caplog.text
    groups = ("token_type_embeddings", "pooler", "cls")
    assert all(any(word in key for word in groups) for key in info["unexpected_keys"])
    assert len(info["unexpected_keys"]) == (3 if "base" in kind else 7)

    caplog.clear()
    decoder, info = framework.model_class("BertGenerationDecoder").from_pretrained(
        folder, add_cross_attention=True, is_decoder=True, **tokens, output_loading_info=True
    )
    missing = set(info["missing_keys"])
    weights = framework.weights(decoder)
    assert missing == {name for name in weights if "crossattention" in name} | {"lm_head.bias"}
    assert "newly initialised" in caplog.text and "crossattention" in caplog.text
    for name, value in source.items():
        np.testing.assert_array_equal(weights[f"bert.{name}"], value)
    assert not weights["lm_head.bias"].any()
    np.testing.assert_array_equal(
        weights["lm_head.decoder.weight"], source["embeddings.word_embeddings.weight"]
    )
    whole = framework.model_class("EncoderDecoderModel")(encoder=encoder, decoder=decoder)
    labels = {"labels": IDS, "decoder_input_ids": IDS}
    loss, _ = framework.gradients(whole, {"input_ids": IDS, **labels})
    assert np.isfinite(loss)
    # What is saved says what it is.
    whole.save_pretrained(tmp_path / "whole")
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert saved["encoder"]["model_type"] == saved["decoder"]["model_type"] == "bert-generation"


def test_other_families_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    hint = "BertGenerationConfig and the classes of its family open it"
    with pytest.raises(ValueError, match=f"model_type 'bert', expected .*{hint}"):
        AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rembert"}))
    with pytest.raises(ValueError, match="'rembert' model, BertGenerationConfig opens"):
        BertGenerationConfig.from_pretrained(tmp_path)
    bert_folder(tmp_path, "safetensors")
    with pytest.raises(CheckpointError, match="of another shape"):
        TORCH.model_class("BertGenerationEncoder").from_pretrained(tmp_path, vocab_size=99)

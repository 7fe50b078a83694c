"""Exports that generate give the text of `generate` and `decode`, outside of our packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import OUTPUT_TOLERANCE
from tokenizer_fixtures import train

pytest.importorskip("tensorflow_text")

import keras
import tensorflow as tf

import tf_models
from converters.saved_model import export
from zoo import (
    AutoTokenizer,
    BertGenerationConfig,
    BertGenerationTokenizer,
    BertTokenizer,
    EncoderDecoderConfig,
)

TESTS = Path(__file__).parent
LENGTH = 16
TEXTS = ["The statement is used to bind names.", "naïve", "An object's identity " * 8]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "initializer_range": 0.6, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
# name -> export options
CASES: dict[str, dict[str, int]] = {
    "beams": {"num_beams": 3, "max_new_tokens": 9, "num_return_sequences": 2},
    "greedy": {"max_new_tokens": 9},
    "causal": {"num_beams": 2, "max_new_tokens": 7},
    "word_pieces": {"num_beams": 2},
}


def make(folder: Path, name: str, tokenizer: Any, tokens: dict[str, int]) -> None:
    keras.utils.set_random_seed(3)
    sizes = SIZES | {"vocab_size": len(tokenizer)} | tokens
    decoder = {"is_decoder": True, "add_cross_attention": name != "causal"}
    if name == "causal":
        model = tf_models.TFBertGenerationDecoder(BertGenerationConfig(**sizes, **decoder))
    else:
        config = EncoderDecoderConfig.from_encoder_decoder_configs(
            BertGenerationConfig(**sizes),
            BertGenerationConfig(**sizes, **decoder),
            decoder_start_token_id=tokens["bos_token_id"],
            max_length=11,
            **tokens,
        )
        model = tf_models.TFEncoderDecoderModel(config=config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    spiece = train(
        root, 300, pad_piece="<pad>", eos_id=1, eos_piece="</s>", bos_id=2, bos_piece="<s>",
        unk_id=3, unk_piece="<unk>", control_symbols=[], user_defined_symbols=["<::::>"],
    )  # fmt: skip
    pieces = BertGenerationTokenizer(spiece)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "object", "##s", "bind", "."]
    (root / "vocab.txt").write_text("\n".join([*words, *"abcdefgh", *(f"##{c}" for c in "abcde")]))
    for name in CASES:
        tokenizer, tokens = pieces, {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
        if name == "word_pieces":
            tokenizer = BertTokenizer(root / "vocab.txt")
            tokens = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
        make(root / name, name, tokenizer, tokens)
    return root


@pytest.fixture(scope="module")
def exports(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("serving")
    return {
        name: export(folders / name, root / name, batch_sizes=(1,), max_length=LENGTH, **options)
        for name, options in CASES.items()
    }


@pytest.fixture(scope="module")
def answers(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """loader -> case -> signature -> outputs, from processes without our packages."""
    from tensorflow.core.protobuf import saved_model_pb2

    requests = {}
    for name, folder in exports.items():
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        definition = saved.meta_graphs[0].signature_def["serving_default"]
        assert list(definition.inputs) == ["text"]
        text = definition.inputs["text"]
        call = {
            "inputs": {"text": {"tensor": text.name, "dtype": text.dtype, "values": TEXTS}},
            "outputs": {n: x.name for n, x in definition.outputs.items()},
        }
        loaders = ["object", "session", "native"] if name == "beams" else ["native"]
        requests[name] = {
            "folder": str(folder), "calls": {"serving_default": call}, "loaders": loaders,
        }  # fmt: skip
    work = tmp_path_factory.mktemp("clients")
    (work / "request.json").write_text(json.dumps(requests))
    found: dict[str, Any] = {}
    clients = {"native_client.py": [Path(tf.__file__).parents[1]], "serving_client.py": []}
    for client, arguments in clients.items():
        files = [work / "request.json", work / f"{client}.json"]
        process = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", TESTS / client, *arguments, *files],
            cwd=work, capture_output=True, text=True,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr[-3000:]
        answer = json.loads((work / f"{client}.json").read_text())
        found |= answer if client == "serving_client.py" else {"native": answer}
    return found


@pytest.mark.parametrize(
    "name, loader",
    [*((name, "native") for name in CASES), ("beams", "object"), ("beams", "session")],
)
def test_text_in_text_out(name: str, loader: str, folders: Path, answers: dict[str, Any]) -> None:
    cls = "TFBertGenerationDecoder" if name == "causal" else "TFEncoderDecoderModel"
    model = getattr(tf_models, cls).from_pretrained(folders / name)
    tokenizer = AutoTokenizer.from_pretrained(folders / name)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=LENGTH, return_tensors="tf")
    inputs = {key: x for key, x in inputs.items() if key != "token_type_ids"}
    output = model.generate(
        **inputs, **CASES[name], return_dict_in_generate=True, output_scores=True
    )
    texts = tokenizer.batch_decode(output.sequences.numpy(), skip_special_tokens=True)
    texts = np.array(texts).reshape(len(TEXTS), -1)
    assert len({text for row in texts for text in row}) > 1
    found = answers[loader][name]["serving_default"]
    assert found["texts"] == texts.tolist()
    assert found["text"] == texts[:, 0].tolist()
    if CASES[name].get("num_beams", 1) > 1:
        scores = output.sequences_scores.numpy().reshape(texts.shape)
        np.testing.assert_allclose(found["scores"], scores, atol=10 * OUTPUT_TOLERANCE, rtol=0)
    else:
        assert "scores" not in found


def test_description_names_the_options(exports: dict[str, Path]) -> None:
    text = (exports["beams"] / "assets.extra" / "zoo.json").read_text()
    assert json.loads(text)["generate"] == CASES["beams"]


def test_a_model_that_does_not_generate_refuses_the_options(folders: Path, tmp_path: Path) -> None:
    tokenizer = BertGenerationTokenizer.from_pretrained(folders / "greedy")
    config = BertGenerationConfig(**SIZES, vocab_size=len(tokenizer))
    tf_models.TFBertGenerationEncoder(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="num_beams: TFBertGenerationEncoder generates no text"):
        export(tmp_path / "encoder", tmp_path / "out", num_beams=2)

"""Both frameworks against the recorded numbers of the published classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDENS
from frameworks import KERAS, TORCH, Framework, flat
from rag_fixtures import ExactIndex, retriever

from zoo import RealmRetriever, RealmTokenizer, RealmTokenizerFast
from zoo.configs import (
    BartConfig,
    BertGenerationConfig,
    DPRConfig,
    EncoderDecoderConfig,
    RagConfig,
    RealmConfig,
    ReformerConfig,
    RemBertConfig,
    T5Config,
)

FAMILIES = ("rembert", "bertgeneration", "realm", "rag", "reformer")
FOLDERS = [
    folder.relative_to(GOLDENS)
    for family in FAMILIES
    for folder in sorted((GOLDENS / family).glob("*"))
    if folder.name != "retriever"  # no model: see test_realm, test_rag
]
CLASSES = [
    f"RemBert{head}"
    for head in (
        "Model",
        "ForMaskedLM",
        "ForCausalLM",
        "ForSequenceClassification",
        "ForMultipleChoice",
        "ForTokenClassification",
        "ForQuestionAnswering",
    )
]
CLASSES += ["BertGenerationEncoder", "BertGenerationDecoder", "EncoderDecoderModel"]
CLASSES += ["BertGenerationDecoder:cross"]
REALM = ("Embedder", "Scorer", "KnowledgeAugEncoder", "Reader", "ForOpenQA")
CLASSES += [f"Realm{name}" for name in REALM]
CLASSES += ["DPRQuestionEncoder", "DPRContextEncoder", "RagModel", "RagSequenceForGeneration"]
CLASSES += ["RagTokenForGeneration", "RagTokenForGeneration:t5"]
HEADS = ("ModelWithLMHead", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering")
CLASSES += [f"Reformer{name}" for name in ("Model", *HEADS, "ModelWithLMHead:noaxial")]
both = pytest.mark.parametrize("framework", [TORCH, KERAS], ids=["pt", "tf"])
# Cut to the piece that is fed, in decoding step by step.
PIECES = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")


def assert_close(got: dict, expected: dict, tolerance: dict[str, float]) -> None:
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        np.testing.assert_allclose(got[name], value, **tolerance, err_msg=name)


def in_steps(framework: Framework, model: Any, inputs: dict, case: dict) -> dict:
    found, cache, start = {}, None, 0
    for number, length in enumerate(case["split"]):
        end = start + length
        piece = {
            name: value[:, start:end] if name in PIECES
            else value[:, :end] if name == "attention_mask"
            else value
            for name, value in inputs.items()
        }  # fmt: skip
        output = framework.call(model, piece, **case["kwargs"], **{case["cache"]: cache})
        cache, start = output[case["cache"]], end
        # The reference's record has the cache after the last step only.
        caches = {} if end == sum(case["split"]) else {case["cache"]: None}
        found |= flat(dict(output) | caches, f"step{number}.")
    return found


def generated(framework: Framework, model: Any, inputs: dict, case: dict) -> dict:
    tensors = {name: framework.tensor(value) for name, value in inputs.items()}
    return {"sequences": model.generate(**tensors, **case["kwargs"]).numpy()}


def parts_of(framework: Framework, folder: Path, case: dict) -> dict[str, Any]:
    """What a model is made with, beside its folder."""
    parts = {}
    for name, what in case.get("init", {}).items():
        if name == "query_embedder":
            parts[name] = framework.model_class(what[0]).from_pretrained(folder / what[1])
        elif name == "retriever":
            records = [text.encode() for text in json.loads((folder / what).read_text())]
            tokenizer = RealmTokenizerFast if case["tokenizer"] == "fast" else RealmTokenizer
            parts[name] = RealmRetriever(records, tokenizer.from_pretrained(folder))
        elif name == "rag_retriever":
            parts["retriever"] = retriever(folder, ExactIndex.recorded(folder))
    return parts


@both
@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_recorded_numbers(framework: Framework, folder: Path, goldens: Path) -> None:
    folder = goldens / folder
    case = json.loads((folder / "case.json").read_text())
    inputs = dict(np.load(folder / "inputs.npz"))
    expected = dict(np.load(folder / "expected.npz"))
    model_class = getattr(framework.package(), case[f"{framework.name}_class"])
    parts = parts_of(framework, folder, case)
    model = model_class.from_pretrained(folder, **parts, **case.get("init_kwargs", {}))
    if case["call"] == "generate":
        got = generated(framework, model, inputs, case)
    elif case["call"] == "steps":
        got = in_steps(framework, model, inputs, case)
    elif case["mode"] == "train":
        got = framework.training_outputs(model, inputs, **case["kwargs"])
    else:
        got = framework.outputs(model, inputs, **case["kwargs"])
    assert got.keys() == expected.keys()
    assert_close(got, expected, case["tolerance"])
    if (folder / "grads.npz").exists():
        gradients = dict(np.load(folder / "grads.npz"))
        _, got = framework.gradients(model, inputs, **case["kwargs"])
        assert got.keys() == gradients.keys()
        assert_close(got, gradients, case["grads_tolerance"])


def default_config(name: str) -> Any:
    if name == "EncoderDecoderModel":
        halves = BertGenerationConfig(), BertGenerationConfig()
        return EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    if name.startswith("Realm"):
        return RealmConfig()
    if name.startswith("DPR"):
        return DPRConfig()
    if name.startswith("Rag"):
        generator = T5Config() if name.endswith(":t5") else BartConfig()
        return RagConfig.from_question_encoder_generator_configs(DPRConfig(), generator)
    if name.startswith("BertGeneration"):
        decoder = name.startswith("BertGenerationDecoder")
        cross = name.endswith(":cross")
        return BertGenerationConfig(is_decoder=decoder, add_cross_attention=cross)
    if name.startswith("Reformer"):
        decoder, axial = "LMHead" in name, not name.endswith(":noaxial")
        return ReformerConfig(is_decoder=decoder, axial_pos_embds=axial)
    return RemBertConfig()


@pytest.mark.parametrize("name", CLASSES)
def test_published_keys_in_pytorch(name: str, goldens: Path) -> None:
    """A default-size model opens by key list: nothing missing, nothing unexpected."""
    import torch

    published = json.loads((goldens / "state_keys.json").read_text())[name]["keys"]
    with torch.device("meta"):
        model = TORCH.model_class(name.partition(":")[0])(default_config(name))
        state = {key: torch.empty(shape) for key, shape in published.items()}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published
    report = model.load_state_dict(state, assign=True)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])


@pytest.mark.parametrize("name", CLASSES)
def test_published_keys_in_keras(name: str, goldens: Path) -> None:
    """The same for Keras, by its rule of names; weights that are not touched take no memory."""
    from tf_models.layers import empty_weights
    from tf_models.modeling import named_weights

    published = json.loads((goldens / "state_keys.json").read_text())[name]["keys"]
    with empty_weights():
        model = KERAS.model_class(name.partition(":")[0])(default_config(name))
    assert {key: list(weight.shape) for key, weight in named_weights(model)} == published

"""Checks that what the zoo saves opens in transformers with the same outputs, and the reverse.

    python tests/check_peers.py --peer PYTHON [--peer PYTHON ...]

PYTHON is the interpreter of a virtual environment with transformers 4.40.2, or the newest, in it.
For every class: the zoo writes a folder (the same bytes from both frameworks), the peer opens it
without missing or unexpected keys and answers within 1e-5, saves it anew, and the zoo opens that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "input_embedding_size": 10,
    "output_embedding_size": 14,
    "intermediate_size": 20,
    "max_position_embeddings": 33,
}
CROSS = {"is_decoder": True, "add_cross_attention": True}
# Class -> what its configuration says besides the sizes. With a cache a BertGeneration decoder of
# 4.40.2 masks nothing and the newest masks, hence use_cache.
MODELS: dict[str, dict[str, object]] = {
    "RemBertModel": {},
    "RemBertForMaskedLM": {},
    "RemBertForCausalLM": {"is_decoder": True},
    "RemBertForSequenceClassification": {},
    "RemBertForMultipleChoice": {},
    "RemBertForTokenClassification": {},
    "RemBertForQuestionAnswering": {},
    "BertGenerationEncoder": {},
    "BertGenerationDecoder": CROSS | {"use_cache": False},
    "EncoderDecoderModel": {},
    "EncoderDecoderModel shared": {"tie_encoder_decoder": True},
    "EncoderDecoderModel projected": {"hidden_size": 36},
    "EncoderDecoderModel rembert": {"model_type": "rembert"},
}


def peer(folder: str) -> None:
    """Runs in the peer's environment: opens every model, answers, saves it again."""
    import numpy as np
    import torch
    import transformers

    for name in MODELS:
        place = Path(folder) / name
        model_class = getattr(transformers, name.split()[0], None)
        shares = "shared" in name and int(transformers.__version__.partition(".")[0]) >= 5
        if model_class is None or shares:  # 5 has no tie_encoder_decoder
            continue
        model, info = model_class.from_pretrained(place, output_loading_info=True)
        inputs = {k: torch.from_numpy(v) for k, v in np.load(place / "inputs.npz").items()}
        with torch.no_grad():
            outputs = model.eval()(**inputs, return_dict=True)
        arrays = {k: v.numpy() for k, v in outputs.items() if isinstance(v, torch.Tensor)}
        np.savez(place / "peer.npz", **arrays)
        problems = {k: sorted(map(str, v)) for k, v in info.items() if v}
        (place / "info.json").write_text(json.dumps(problems))
        model.save_pretrained(place / "again")
    print(transformers.__version__)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", required=True)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.folder:
        return peer(arguments.folder)

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import numpy as np
    import torch

    import pt_models
    import tf_models

    failed = False
    for python in arguments.peer:
        with tempfile.TemporaryDirectory() as folder:
            expected = {}
            for name, more in MODELS.items():
                place = Path(folder) / name
                ours = getattr(pt_models, name.split()[0])(config_of(name, more)).eval()
                ours.save_pretrained(place)
                keras = getattr(tf_models, "TF" + name.split()[0]).from_pretrained(place)
                keras.save_pretrained(place / "keras")
                bytes_ = [(p / "model.safetensors").read_bytes() for p in (place, place / "keras")]
                assert bytes_[0] == bytes_[1], f"{name}: the frameworks wrote different bytes"
                inputs = inputs_of(name)
                np.savez(place / "inputs.npz", **inputs)
                expected[name] = inputs, ours(**{k: torch.from_numpy(v) for k, v in inputs.items()})
            command = [python, __file__, "--peer", "", "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{python} failed:\n{done.stderr[-3000:]}")
            print(f"transformers {done.stdout.strip().splitlines()[-1]}")
            for name, (inputs, outputs) in expected.items():
                place = Path(folder) / name
                if not (place / "peer.npz").exists():
                    print(f"  {name:34} not there")
                    continue
                theirs = np.load(place / "peer.npz")
                problems = json.loads((place / "info.json").read_text())
                again, info = getattr(tf_models, "TF" + name.split()[0]).from_pretrained(
                    place / "again", output_loading_info=True
                )
                problems |= {f"back: {k}": v for k, v in info.items() if v}
                back = again(**inputs)
                names = [k for k, v in outputs.items() if isinstance(v, torch.Tensor)]
                there = max(abs(theirs[k] - outputs[k].detach().numpy()).max() for k in names)
                here = max(abs(theirs[k] - np.asarray(back[k])).max() for k in names)
                good = there < 1e-5 and here < 1e-5 and not problems
                failed |= not good
                print(
                    f"  {name:34} {there:.1e} {here:.1e} {problems or ''} {'ok' if good else 'X'}"
                )
    raise SystemExit(failed)


def config_of(name: str, more: dict[str, Any]) -> Any:
    from zoo import AutoConfig, BertGenerationConfig, EncoderDecoderConfig, RemBertConfig

    if name.startswith("RemBert"):
        return RemBertConfig(**SIZES, **more)
    sizes = {k: v for k, v in SIZES.items() if k in BertGenerationConfig._fields}
    if name.startswith("BertGeneration"):
        return BertGenerationConfig(**sizes, **more)
    shared = more.get("tie_encoder_decoder", False)
    decoder = {"model_type": "bert-generation", "use_cache": False, **sizes, **more}
    decoder.pop("tie_encoder_decoder", None)
    if decoder["model_type"] == "rembert":
        decoder |= SIZES
    decoder = AutoConfig.for_model(**decoder)
    encoder = RemBertConfig(**SIZES) if "projected" in name else BertGenerationConfig(**sizes)
    return EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, tie_encoder_decoder=shared, pad_token_id=0, decoder_start_token_id=2
    )


def inputs_of(name: str) -> dict[str, Any]:
    import numpy as np

    shape = (2, 3, 7) if name.endswith("MultipleChoice") else (2, 7)
    rng = np.random.default_rng(0)
    inputs = {
        "input_ids": rng.integers(1, 97, shape),
        "attention_mask": ((np.arange(7) < [[5], [7]]) if len(shape) == 2 else np.ones(shape))
        * np.ones(shape, np.int64),
    }
    inputs["attention_mask"] = inputs["attention_mask"].astype(np.int64)
    if name == "BertGenerationDecoder":
        inputs["encoder_hidden_states"] = rng.standard_normal((2, 5, 24)).astype(np.float32)
    if name.startswith("EncoderDecoder"):
        inputs["labels"] = rng.integers(1, 97, (2, 4))
        inputs["decoder_input_ids"] = rng.integers(1, 97, (2, 4))
    return inputs


if __name__ == "__main__":
    main()

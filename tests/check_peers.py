"""Checks that what the zoo saves opens in transformers with the same outputs, and the reverse.

    python tests/check_peers.py --peer PYTHON [--peer PYTHON ...] [--only Reformer]

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
REALM = {
    "retriever_proj_size": 6,
    "num_candidates": 4,
    "span_hidden_size": 5,
    "max_span_width": 3,
    "reader_beam_size": 2,
    "reader_seq_len": 24,
    "num_block_records": 5,
}
T5 = {
    "d_kv": 8,
    "d_ff": 20,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
# Eight positions, so that seven are padded and sorted in two chunks or more.
REFORMER = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "attention_head_size": 8,
    "feed_forward_size": 20,
    "attn_layers": ["local", "lsh", "lsh"],
    "axial_pos_shape": [2, 4],
    "axial_pos_embds_dim": [10, 14],
    "max_position_embeddings": 8,
    "local_attn_chunk_length": 2,
    "lsh_attn_chunk_length": 4,
    "num_buckets": 4,
    "num_hashes": 2,
    "hash_seed": 3,
}
BLOCKS = ["the red house", "a green tree and a blue sea", "b c d e f g", "the sea", "red, blue."]
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
    "RealmEmbedder": REALM,
    "RealmScorer": REALM,
    "RealmKnowledgeAugEncoder": REALM,
    "RealmReader": REALM,
    "RealmForOpenQA": REALM,
    "DPRQuestionEncoder": {"projection_dim": 11},
    "DPRContextEncoder": {},
    "DPRReader": {},
    "BartModel": {},
    "BartForConditionalGeneration": {"scale_embedding": True},
    "BartForConditionalGeneration untied": {"tie_word_embeddings": False},
    "T5Model": T5,
    "T5EncoderModel": T5,
    "T5ForConditionalGeneration": T5,
    "T5ForConditionalGeneration gated": T5 | GATED,
    "RagModel": {"model_type": "bart"},
    "RagSequenceForGeneration": {"model_type": "bart"},
    "RagTokenForGeneration": {"model_type": "bart"},
    "RagTokenForGeneration t5": {"model_type": "t5", **T5},
    "ReformerModel": REFORMER,
    "ReformerModel positions": REFORMER | {"axial_pos_embds": False, "num_hashes": 1},
    "ReformerModelWithLMHead": REFORMER | {"is_decoder": True},
    "ReformerForMaskedLM": REFORMER | {"num_buckets": [2, 4]},
    "ReformerForSequenceClassification": REFORMER | {"num_labels": 3},
    "ReformerForQuestionAnswering": REFORMER,
}


def arrays_of(outputs: Any) -> dict[str, Any]:
    """Tensors among the outputs, and among those of a model inside."""
    import torch

    found = {}
    for name, value in outputs.items():
        if isinstance(value, torch.Tensor):
            found[name] = value.detach().numpy() * 1.0
        elif isinstance(value, dict):
            found |= arrays_of(value)
    return found


def parts_of(package: Any, name: str, place: Path) -> dict[str, Any]:
    if name != "RealmForOpenQA":
        return {}
    return {"retriever": package.RealmRetriever.from_pretrained(place)}


def peer(folder: str) -> None:
    """Runs in the peer's environment: opens every model, answers, saves it again."""
    import numpy as np
    import torch
    import transformers

    for name in MODELS:
        place = Path(folder) / name
        if not place.exists():
            continue
        model_class = getattr(transformers, name.split()[0], None)
        # 5 has no tie_encoder_decoder, and unties BART's two tables along with its head.
        other = name.endswith(("shared", "Generation untied")) and transformers.__version__ > "5"
        if model_class is None or other:
            continue
        parts = parts_of(transformers, name, place)
        model, info = model_class.from_pretrained(place, output_loading_info=True, **parts)
        inputs = {k: torch.from_numpy(v) for k, v in np.load(place / "inputs.npz").items()}
        with torch.no_grad():
            dicts = (
                {} if name.startswith("Rag") else {"return_dict": True}
            )  # RAG knows no such word
            outputs = model.eval()(**inputs, **dicts)
        np.savez(place / "peer.npz", **arrays_of(outputs))
        problems = {k: sorted(map(str, v)) for k, v in info.items() if v}
        (place / "info.json").write_text(json.dumps(problems))
        # 4.40.2 refuses to write weights of two names as safetensors.
        again = {"safe_serialization": False} if name.startswith("Realm") else {}
        model.save_pretrained(place / "again", **again)
    print(transformers.__version__)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", required=True)
    parser.add_argument("--folder")
    parser.add_argument("--only", default="", help="how the names of the classes begin")
    arguments = parser.parse_args()
    if arguments.folder:
        return peer(arguments.folder)

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import numpy as np
    import torch

    import pt_models
    import tf_models
    import zoo

    failed = False
    for python in arguments.peer:
        with tempfile.TemporaryDirectory() as folder:
            expected = {}
            for name, more in MODELS.items():
                if not name.startswith(arguments.only):
                    continue
                place = Path(folder) / name
                ours = getattr(pt_models, name.split()[0])(config_of(name, more)).eval()
                if name == "RealmForOpenQA":
                    ours.block_emb.normal_()
                    ours.retriever = retriever_in(place)
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
                    place / "again", output_loading_info=True, **parts_of(zoo, name, place)
                )
                problems |= {f"back: {k}": v for k, v in info.items() if v}
                outputs, back = arrays_of(outputs), dict(again(**inputs))
                back |= back.get("reader_output", {})
                there = max(abs(theirs[k] - v).max() for k, v in outputs.items())
                here = max(abs(theirs[k] - np.asarray(back[k])).max() for k in outputs)
                good = there < 1e-5 and here < 1e-5 and not problems
                failed |= not good
                print(
                    f"  {name:34} {there:.1e} {here:.1e} {problems or ''} {'ok' if good else 'X'}"
                )
    raise SystemExit(failed)


def config_of(name: str, more: dict[str, Any]) -> Any:
    from zoo import (
        AutoConfig,
        BertGenerationConfig,
        EncoderDecoderConfig,
        RagConfig,
        RealmConfig,
        ReformerConfig,
        RemBertConfig,
    )

    if name.startswith("Reformer"):
        return ReformerConfig(**more)
    if name.startswith("Rag"):
        dpr = AutoConfig.for_model("dpr", **sizes_of("dpr"), projection_dim=24)
        generator = AutoConfig.for_model(**sizes_of(more["model_type"]), **more)
        return RagConfig.from_question_encoder_generator_configs(dpr, generator, n_docs=2)
    for model_type in ("dpr", "bart", "t5"):
        if name.lower().startswith(model_type):
            return AutoConfig.for_model(model_type, **sizes_of(model_type), **more)

    if name.startswith("RemBert"):
        return RemBertConfig(**SIZES, **more)
    if name.startswith("Realm"):
        sizes = {k: v for k, v in SIZES.items() if k in RealmConfig._fields}
        return RealmConfig(**sizes, **more)
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


def sizes_of(model_type: str) -> dict[str, Any]:
    """`SIZES` under the names that a family of other names has for them."""
    if model_type == "dpr":
        return {k: v for k, v in SIZES.items() if "embedding_size" not in k}
    if model_type == "t5":
        names = {"d_model": "hidden_size", "num_layers": "num_hidden_layers"}
        names |= {"num_heads": "num_attention_heads", "vocab_size": "vocab_size"}
        return {"num_decoder_layers": 1} | {ours: SIZES[k] for ours, k in names.items()}
    sides = {"attention_heads": "num_attention_heads", "ffn_dim": "intermediate_size"}
    sizes = {
        f"{side}_{ours}": SIZES[k] for side in ("encoder", "decoder") for ours, k in sides.items()
    }
    named = {"vocab_size": 97, "d_model": 24, "max_position_embeddings": 33}
    return sizes | named | {"encoder_layers": 2, "decoder_layers": 1}


def retriever_in(place: Path) -> Any:
    """A retriever over `BLOCKS`, saved in the folder."""
    from zoo import RealmRetriever, RealmTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    words += ["the", "red", "house", "green", "tree", "and", "blue", "sea", ",", "."]
    words += [f"w{number}" for number in range(97 - len(words))]
    place.mkdir()
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    retriever = RealmRetriever(BLOCKS, RealmTokenizerFast(place / "vocab.txt"))
    retriever.save_pretrained(place)
    return retriever


def inputs_of(name: str) -> dict[str, Any]:
    import numpy as np

    if name.startswith("Realm"):
        return realm_inputs(name)
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
    if "DPR" in name or "Reformer" in name:
        return inputs
    if not name.startswith(("RemBert", "BertGeneration", "T5Encoder")):
        inputs["decoder_input_ids"] = rng.integers(1, 97, (2, 4))
        if "Model" not in name or name.startswith("EncoderDecoder"):
            inputs["labels"] = rng.integers(1, 97, (2, 4))
        if name == "RagSequenceForGeneration":  # of both, 4.40.2 takes these as the targets
            inputs["labels"] = inputs["decoder_input_ids"]
    if name.startswith("Rag"):
        inputs |= {
            "context_input_ids": rng.integers(1, 97, (4, 9)),
            "context_attention_mask": (np.arange(9) < [[9], [6], [8], [9]]).astype(np.int64),
            "doc_scores": rng.standard_normal((2, 2)).astype(np.float32),
        }
    return inputs


def realm_inputs(name: str) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    if name == "RealmForOpenQA":
        return {"input_ids": np.array([[2, 44, 47, 30, 49, 3]])}
    if name == "RealmReader":
        return {
            "input_ids": rng.integers(5, 97, (2, 9)),
            "token_type_ids": np.tile(np.arange(9) > 3, (2, 1)).astype(np.int64),
            "block_mask": np.tile(np.arange(9) > 3, (2, 1)),
            "relevance_score": rng.standard_normal(3).astype(np.float32),
            "start_positions": np.array([[5, -1], [4, 6], [-1, -1]]),
            "end_positions": np.array([[6, -1], [5, 6], [-1, -1]]),
            "has_answers": np.array([True, True, False]),
        }
    if name == "RealmKnowledgeAugEncoder":
        return {
            "input_ids": rng.integers(5, 97, (2, 4, 7)),
            "relevance_score": rng.standard_normal((2, 4)).astype(np.float32),
            "labels": rng.integers(5, 97, (2, 7)),
            "mlm_mask": rng.integers(0, 2, (2, 7)),
        }
    candidates = {"candidate_input_ids": rng.integers(5, 97, (2, 4, 8))}
    return {
        "input_ids": rng.integers(5, 97, (2, 7)),
        "attention_mask": (np.arange(7) < [[5], [7]]).astype(np.int64),
        **(candidates if name == "RealmScorer" else {}),
    }


if __name__ == "__main__":
    main()

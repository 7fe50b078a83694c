"""Checks that generation gives what transformers gives, over random combinations of options.

    python tests/check_generation_peer.py --peer PYTHON [--count 200] [--seed 0] [--show]

PYTHON is the interpreter of a virtual environment with transformers 4.40.2 in it. Tiny models with
widely spread weights are written to folders, which a child process opens; every case (options,
tokens) goes there as a line of JSON, and its answer comes back as one. Sequences have to be equal,
scores within 1e-4; samples, too, are equal for the same seed, as both draw the same numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VOCAB = 60
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "input_embedding_size": 10,
    "output_embedding_size": 14,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.6,
}
HALF = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "initializer_range": 0.5,
}
CLASSES = {"decoder": "RemBertForCausalLM", "encoder_decoder": "EncoderDecoderModel"}
TUPLES = ("scores", "logits")
NESTED = (
    "attentions", "hidden_states", "decoder_attentions", "cross_attentions",
    "decoder_hidden_states",
)  # fmt: skip
FORBIDDING = (
    "min_length", "min_new_tokens", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "prefix",
)  # fmt: skip


def answer(models: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    """Runs one case: the same code in both environments."""
    import torch

    model = models[case["model"]]
    kwargs = dict(case["kwargs"])
    if kwargs.get("sequence_bias") is not None:
        kwargs["sequence_bias"] = {tuple(k): v for k, v in kwargs["sequence_bias"]}
    if kwargs.pop("prefix", False):
        kwargs["prefix_allowed_tokens_fn"] = lambda row, ids: [
            t for t in range(VOCAB) if (t + int(ids[-1]) + row) % 3 or t == 1
        ]
    mask = case.get("attention_mask")
    if mask is not None:
        kwargs["attention_mask"] = torch.tensor(mask)
    torch.manual_seed(case["seed"])
    try:
        output = model.generate(torch.tensor(case["input_ids"]), **kwargs)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(output, torch.Tensor):
        return {"sequences": output.tolist()}
    found = {"sequences": output.sequences.tolist()}
    for name in ("sequences_scores", "beam_indices"):
        if name in output and output[name] is not None:
            found[name] = output[name].tolist()
    for name in TUPLES:
        if name in output and output[name] is not None:
            found[name] = [step.tolist() for step in output[name]]
    for name in NESTED:
        if name in output and output[name] is not None:
            found[name] = [[layer.tolist() for layer in step] for step in output[name]]
    if found.get("scores") and case.get("transitions"):
        scores = model.compute_transition_scores(
            output.sequences,
            output.scores,
            output.get("beam_indices"),
            normalize_logits=case["transitions"] == "normalized",
        )
        found["transitions"] = scores.tolist()
    return found


def serve(folder: str) -> None:
    """Runs in the peer's environment: answers lines of JSON."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    models = {
        path.name: getattr(transformers, CLASSES[path.name.split("-")[0]]).from_pretrained(path)
        for path in sorted(Path(folder).iterdir())
    }
    print(json.dumps({"version": transformers.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(models, json.loads(line))), flush=True)


def random_case(rng: random.Random, models: list[str]) -> dict[str, Any]:
    """Options that make sense together."""
    model = rng.choice(models)
    encoder = model.startswith("encoder_decoder")
    batch, length = rng.randint(1, 4), rng.randint(1, 7)
    ids = [[rng.randint(3, VOCAB - 1) for _ in range(length)] for _ in range(batch)]
    case: dict[str, Any] = {"model": model, "seed": rng.randint(0, 10**6), "input_ids": ids}
    if encoder and rng.random() < 0.7:
        sizes = [rng.randint(1, length) for _ in range(batch)]
        case["attention_mask"] = [[int(i < n) for i in range(length)] for n in sizes]
    start = 1 if encoder else length
    tokens = [rng.randint(3, VOCAB - 1) for _ in range(200)]

    def few(most: int) -> list[int]:
        return rng.sample(range(3, VOCAB), rng.randint(1, most))

    kwargs: dict[str, Any] = {}
    recorded = rng.random() < 0.6
    if rng.random() < 0.5:
        kwargs["max_new_tokens"] = rng.randint(1, 14)
    else:
        kwargs["max_length"] = start + rng.randint(1, 14)
    beams = rng.choice([1, 1, 2, 3, 4, 6])
    sample = rng.random() < 0.35
    groups = 1
    if beams > 1:
        kwargs["num_beams"] = beams
        if rng.random() < 0.3 and not sample:
            groups = rng.choice([g for g in (2, 3, beams) if beams % g == 0] or [beams])
        if groups > 1:
            kwargs["num_beam_groups"] = groups
            kwargs["diversity_penalty"] = rng.choice([0.3, 1.0, 5.0])
        if rng.random() < 0.5:
            kwargs["early_stopping"] = rng.choice([True, False, "never"])
        if rng.random() < 0.5:
            kwargs["length_penalty"] = rng.choice([0.0, 0.5, 2.0, -1.0])
        if rng.random() < 0.5:
            kwargs["num_return_sequences"] = rng.randint(1, beams)
    if sample:
        kwargs["do_sample"] = True
        if beams == 1 and rng.random() < 0.5:
            kwargs["num_return_sequences"] = rng.randint(1, 4)
        for name, values in {
            "temperature": [0.5, 1.7],
            "top_k": [0, 3, 20],
            "top_p": [0.3, 0.9],
            "typical_p": [0.3, 0.9],
            "epsilon_cutoff": [0.01, 0.1],
            "eta_cutoff": [0.01, 0.1],
        }.items():
            if rng.random() < 0.3:
                kwargs[name] = rng.choice(values)
    eos = rng.random()
    if eos < 0.4:
        kwargs["eos_token_id"] = few(6)
    elif eos < 0.6:
        kwargs["eos_token_id"] = few(1)[0]
    for name, value in {
        "repetition_penalty": rng.choice([0.7, 1.3, 3.0]),
        "encoder_repetition_penalty": rng.choice([0.6, 1.4]),
        "no_repeat_ngram_size": rng.randint(1, 3),
        "encoder_no_repeat_ngram_size": rng.randint(1, 3),
        "bad_words_ids": [
            [rng.choice(tokens) for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 9))
        ],
        "sequence_bias": [
            [[rng.choice(tokens) for _ in range(rng.randint(1, 3))], rng.uniform(-9, 9)]
            for _ in range(rng.randint(1, 9))
        ],
        "min_length": rng.randint(1, 12),
        "min_new_tokens": rng.randint(1, 12),
        "forced_bos_token_id": few(1)[0],
        "forced_eos_token_id": rng.choice([1, few(1)[0]]),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": [rng.randint(0, 5), rng.choice([1.1, 1.6, 0.8])],
        "suppress_tokens": few(20),
        "begin_suppress_tokens": few(20),
        "renormalize_logits": True,
        "prefix": True,
    }.items():
        if rng.random() < 0.12:
            kwargs[name] = value
    rows = kwargs.get("num_beams", 1) * kwargs.get("num_return_sequences", 1)
    if rows > 1:  # the peer applies it to the first rows only
        kwargs.pop("encoder_repetition_penalty", None)
    if beams == 1 and rows > 1:  # and counts these rows as rows of the batch
        kwargs.pop("prefix", None)
    if any(name.startswith("encoder_") for name in kwargs):  # which sees padding as tokens
        case.pop("attention_mask", None)
    if any(name.startswith("forced_") for name in kwargs):  # or nothing is left to choose
        kwargs.pop("suppress_tokens", None)
        kwargs.pop("begin_suppress_tokens", None)
    if sample and beams > 1:  # beams may be alike; with this they end alike, which is a tie
        kwargs.pop("exponential_decay_length_penalty", None)
    if "exponential_decay_length_penalty" in kwargs:  # the peer makes NaN of a forbidden end
        for name in (*FORBIDDING, *(n for n in kwargs if "forced" in n or "no_repeat" in n)):
            kwargs.pop(name, None)
    if recorded and beams > 1:  # rows that are done go on with what nobody looks at
        for name in ("input_ids", "attention_mask"):
            if name in case:
                case[name] = case[name][:1]
    if kwargs.get("sequence_bias"):
        kwargs["sequence_bias"] = [
            [list(k), v] for k, v in {tuple(k): v for k, v in kwargs["sequence_bias"]}.items()
        ]
    if recorded:
        kwargs["return_dict_in_generate"] = True
        for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
            if rng.random() < 0.5:
                kwargs[name] = True
        if groups == 1 and not encoder and kwargs.get("output_scores") and rng.random() < 0.5:
            case["transitions"] = rng.choice(["raw", "normalized"])
    case["kwargs"] = kwargs
    return case


def difference(ours: Any, theirs: Any, bound: float, path: str) -> str | None:
    """What differs, in words; None if nothing does."""
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{path}: {len(ours)} against {len(theirs)}"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            found = difference(a, b, bound, f"{path}[{i}]")
            if found:
                return found
        return None
    if isinstance(ours, float) or isinstance(theirs, float):
        if ours == theirs or ours != ours and theirs != theirs:
            return None
        if abs(ours - theirs) <= bound * max(1.0, abs(theirs)):
            return None
    return None if ours == theirs else f"{path}: {ours} against {theirs}"


def compared(ours: dict[str, Any], theirs: dict[str, Any], kwargs: dict[str, Any]) -> str | None:
    if "error" in ours or "error" in theirs:
        if "error" in ours and "error" in theirs or "At most" in theirs.get("error", ""):
            return None  # the latter: too few were drawn, as several tokens may end a text
        return f"error: {ours.get('error')} against {theirs.get('error')}"
    if set(ours) != set(theirs):
        return f"fields {sorted(ours)} against {sorted(theirs)}"
    # The peer counts beams within their group; samples from beams that are alike are ties.
    ignored = ["beam_indices"] if kwargs.get("do_sample") or "num_beam_groups" in kwargs else []
    if "num_beam_groups" in kwargs:
        ignored += [*TUPLES, *NESTED]
    for name in ours:
        if name in ignored:
            continue
        bound = 1e-4 if name in ("sequences_scores", "transitions") else 1e-3
        found = difference(ours[name], theirs[name], bound, name)
        if found:
            return found
    return None


def write_models(folder: Path) -> list[str]:
    """Saves models of several seeds; returns their names."""
    import torch

    import pt_models
    from zoo import RemBertConfig

    for seed in range(3):
        torch.manual_seed(seed)
        config = RemBertConfig(**DECODER, is_decoder=True)
        model = pt_models.RemBertForCausalLM(config)
        with torch.no_grad():  # ends come up, but not at once
            model.cls.predictions.decoder.bias.normal_(0, 1.0)
        model.save_pretrained(folder / f"decoder-{seed}")
        if not hasattr(pt_models, "EncoderDecoderModel"):
            continue
        from zoo import BertGenerationConfig

        encoder = pt_models.BertGenerationEncoder(BertGenerationConfig(**HALF))
        decoder = pt_models.BertGenerationDecoder(
            BertGenerationConfig(**HALF, is_decoder=True, add_cross_attention=True)
        )
        both = pt_models.EncoderDecoderModel(encoder=encoder, decoder=decoder)
        both.config.decoder_start_token_id = 2
        both.config.pad_token_id, both.config.eos_token_id = 0, 1
        both.save_pretrained(folder / f"encoder_decoder-{seed}")
    return sorted(path.name for path in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.folder:
        return serve(arguments.folder)

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import logging

    import torch

    import pt_models

    logging.getLogger("zoo").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        names = [n for n in write_models(Path(place)) if n.startswith(arguments.only)]
        models = {
            name: getattr(pt_models, CLASSES[name.split("-")[0]]).from_pretrained(f"{place}/{name}")
            for name in names
        }
        command = [arguments.peer, __file__, "--peer", "", "--folder", place]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            print(child.stdout.readline().strip())
            rng = random.Random(arguments.seed)
            for number in range(arguments.count):
                case = random_case(rng, names)
                child.stdin.write(json.dumps(case) + "\n")
                child.stdin.flush()
                theirs = json.loads(child.stdout.readline())
                found = compared(answer(models, case), theirs, case["kwargs"])
                if found:
                    failed += 1
                    print(f"case {number}: {found}\n  {case['model']} {case['kwargs']}")
                    if arguments.show:
                        print(f"  {case}")
            child.stdin.close()
    print(f"{arguments.count - failed} of {arguments.count} cases are equal")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()

"""Generated tokens per second against peers, interleaved, one process per contender.

    python benchmarks/generation_speed.py --peer-old PYTHON --peer-new PYTHON [--rounds 5]

An encoder-decoder of 6 + 6 layers, hidden 512, that answers 64 tokens with 64 new ones. PYTHON is
the interpreter of a virtual environment with the peer in it: transformers 4.40.2 with tf-keras, and
the newest transformers. Prints medians of wall and processor time and their ratios as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

VOCABULARY, SOURCE, NEW = 32000, 64, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 256,
}
# name -> batch, beams
STEPS = {
    "greedy, batch 1": (1, 1),
    "greedy, batch 8": (8, 1),
    "beam 4, batch 1": (1, 4),
    "beam 4, batch 8": (8, 4),
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2}


def options(beams: int) -> dict:
    # As many tokens from everyone: none may end early.
    return {"max_new_tokens": NEW, "min_new_tokens": NEW, "num_beams": beams, "do_sample": False}


def source(batch: int):
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(5, VOCABULARY, (batch, SOURCE))
    mask = np.ones_like(ids)
    for row in range(1, batch):
        mask[row, SOURCE - 4 * row :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def torch_model(library, config_library):
    """An EncoderDecoderModel of random weights, the same for everyone."""
    import torch

    torch.manual_seed(0)
    encoder = config_library.BertGenerationConfig(**SIZES)
    decoder = config_library.BertGenerationConfig(
        **SIZES, is_decoder=True, add_cross_attention=True
    )
    config = config_library.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name, value in TOKENS.items():
        setattr(config, name, value)
    model = library.EncoderDecoderModel(config=config).eval()
    if model.can_generate() and hasattr(model, "generation_config"):
        for name, value in TOKENS.items():
            setattr(model.generation_config, name, value)
    return model


def torch_steps(model, threads: int) -> dict:
    import torch

    torch.set_num_threads(threads)

    def run(batch: int, beams: int):
        inputs = {name: torch.from_numpy(x) for name, x in source(batch).items()}
        with torch.no_grad():
            return model.generate(**inputs, **options(beams)).shape[1]

    return {name: lambda s=shape: run(*s) for name, shape in STEPS.items()}


def our_tensorflow_steps(jit: bool) -> dict:
    import tensorflow as tf

    import tf_models
    import zoo

    model = torch_model_in_keras(tf_models, zoo)

    def run(batch: int, beams: int):
        inputs = {name: tf.constant(x, tf.int32) for name, x in source(batch).items()}
        return model.generate(**inputs, **options(beams), jit_compile=jit).numpy().shape[1]

    return {name: lambda s=shape: run(*s) for name, shape in STEPS.items()}


def torch_model_in_keras(library, config_library):
    import keras

    keras.utils.set_random_seed(0)
    encoder = config_library.BertGenerationConfig(**SIZES)
    decoder = config_library.BertGenerationConfig(
        **SIZES, is_decoder=True, add_cross_attention=True
    )
    config = config_library.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name, value in TOKENS.items():
        setattr(config, name, value)
    return library.TFEncoderDecoderModel(config=config)


def peer_tensorflow_steps() -> dict:
    """4.40.2 has no BertGeneration in TensorFlow; its BERT of the same sizes does the same work."""
    import tensorflow as tf
    from transformers import BertConfig, EncoderDecoderConfig, TFEncoderDecoderModel

    encoder = BertConfig(**SIZES)
    decoder = BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    for name, value in TOKENS.items():
        setattr(config, name, value)
    model = TFEncoderDecoderModel(config=config)
    for name, value in TOKENS.items():
        setattr(model.generation_config, name, value)

    def run(batch: int, beams: int):
        inputs = {name: tf.constant(x, tf.int32) for name, x in source(batch).items()}
        wanted = options(beams)
        del wanted["min_new_tokens"]  # it has none; the length counts the start token
        return model.generate(**inputs, **wanted, min_length=NEW + 1).numpy().shape[1]

    return {name: lambda s=shape: run(*s) for name, shape in STEPS.items()}


def worker(kind: str, threads: int) -> None:
    """Answers each line on standard input, a step's name, with its times."""
    if "tf" in kind:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.environ["TF_USE_LEGACY_KERAS"] = "1" if "peer" in kind else "0"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        steps = peer_tensorflow_steps() if "peer" in kind else our_tensorflow_steps("xla" in kind)
    elif "peer" in kind:
        import transformers

        steps = torch_steps(torch_model(transformers, transformers), threads)
    else:
        import pt_models
        import zoo

        steps = torch_steps(torch_model(pt_models, zoo), threads)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        length = steps[line.strip()]()
        seconds = [time.perf_counter() - wall, time.process_time() - cpu, peak()]
        if length != NEW + 1:
            raise SystemExit(f"{kind} made {length} tokens, expected {NEW + 1}")
        print(json.dumps(seconds), flush=True)


class Contender:
    def __init__(self, kind: str, python: str, threads: int) -> None:
        command = [python, __file__, "--worker", kind, "--threads", str(threads)]
        root = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {"PYTHONPATH": "" if "peer" in kind else root}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while self.process.stdout.readline().strip() != "ready":
            if self.process.poll() is not None:
                raise SystemExit(f"{kind} did not start")

    def run(self, step: str) -> list[float]:
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-old")
    parser.add_argument("--peer-new")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", nargs="+", default=list(STEPS))
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.threads[0])
    kinds = {
        "pt": sys.executable,
        "peer new pt": arguments.peer_new,
        "peer old pt": arguments.peer_old,
        "tf": sys.executable,
        "tf xla": sys.executable,
        "peer old tf": arguments.peer_old,
    }
    kinds = {
        kind: python
        for kind, python in kinds.items()
        if python and (not arguments.kinds or kind in arguments.kinds)
    }
    for threads in arguments.threads:
        contenders = {kind: Contender(kind, python, threads) for kind, python in kinds.items()}
        times = {(kind, step): [] for kind in contenders for step in arguments.steps}
        for turn in range(arguments.rounds + 1):
            for step in arguments.steps:
                for kind, contender in contenders.items():
                    seconds = contender.run(step)
                    if turn:  # the first one warms up
                        times[kind, step].append(seconds)
        print(f"\n{threads} thread(s): ms of wall (processor) time, tokens/s, peak MB so far\n")
        print("| step | contender | wall ms | processor ms | tokens/s | peak MB |")
        print("|---|---|---|---|---|---|")
        for step in arguments.steps:
            for kind in contenders:
                wall, cpu, memory = (
                    statistics.median(column) for column in zip(*times[kind, step], strict=True)
                )
                rate = STEPS[step][0] * NEW / wall
                row = [f"{wall * 1e3:.0f}", f"{cpu * 1e3:.0f}", f"{rate:.0f}", f"{memory:.0f}"]
                print("| " + " | ".join([step, kind, *row]) + " |", flush=True)
        for contender in contenders.values():
            contender.process.kill()


if __name__ == "__main__":
    main()

"""RAG's answers per second against peers, interleaved, one process per contender.

    python benchmarks/rag_speed.py --peer-old PYTHON --peer-new PYTHON [--rounds 5]
    python benchmarks/rag_speed.py --peer-old PYTHON --peer-new PYTHON --memory

A generator of BART-base's size with random weights, 5 passages for each question, 4 beams, 32 new
tokens; what it reads is padded to 300 tokens, as retrievers give it. PYTHON is the interpreter of
a virtual environment with the peer in it: transformers 4.40.2, and the newest. Everyone opens the
same files; different answers are reported. Prints medians and their ratios as Markdown; `--memory`
runs every step in a fresh process and prints the most memory that it held.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY, NEW, BEAMS, DOCS, LENGTH = 50265, 32, 4, 5, 300
BART_BASE = {
    "vocab_size": VOCABULARY,
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "max_position_embeddings": 1024,
    "init_std": 0.06,  # wide enough to have opinions
    "forced_eos_token_id": None,
}
# DPR's encoder gives questions their vectors; here passages and scores are given.
QUESTIONS = {"num_hidden_layers": 1, "vocab_size": 100}
KINDS = {"token": "RagTokenForGeneration", "sequence": "RagSequenceForGeneration"}
STEPS = {f"RAG-{kind}, {n} question(s)": (kind, n) for kind in KINDS for n in (1, 4)}
# As many tokens from everyone: none may end early.
OPTIONS = {"num_beams": BEAMS, "max_length": NEW + 1, "suppress_tokens": [2]}
OPTIONS |= {"no_repeat_ngram_size": 2}  # random weights like to say the same again


def given(batch: int) -> dict[str, Any]:
    """Passages with their questions, of 150 to 220 tokens, and their scores."""
    import numpy as np

    rng = np.random.default_rng(batch)
    lengths = rng.integers(150, 221, batch * DOCS)
    mask = (np.arange(LENGTH) < lengths[:, None]) * 1
    ids = np.where(mask, rng.integers(5, VOCABULARY, mask.shape), 1)
    ids[:, 0] = 0
    ids[np.arange(len(ids)), lengths - 1] = 2
    scores = rng.normal(size=(batch, DOCS)).astype(np.float32)
    return {"context_input_ids": ids, "context_attention_mask": mask, "doc_scores": scores}


def write_model(folder: str) -> None:
    """A checkpoint that everyone opens."""
    import torch

    import pt_models
    from zoo import BartConfig, DPRConfig

    torch.manual_seed(0)
    encoder = pt_models.DPRQuestionEncoder(DPRConfig(**QUESTIONS))
    generator = pt_models.BartForConditionalGeneration(BartConfig(**BART_BASE))
    model = pt_models.RagTokenForGeneration(question_encoder=encoder, generator=generator)
    model.config.n_docs = DOCS
    model.save_pretrained(folder)


def torch_run(package: Any, folder: str, threads: int) -> Any:
    """What runs a step and returns its answers."""
    import torch

    torch.set_num_threads(threads)
    models: dict[str, Any] = {}

    def run(step: str) -> Any:
        kind, batch = STEPS[step]
        if kind not in models:
            models[kind] = getattr(package, KINDS[kind]).from_pretrained(folder).eval()
            if models.keys() == KINDS.keys():  # one set of weights
                models["sequence"].rag = models["token"].rag
        inputs = {name: torch.from_numpy(x) for name, x in given(batch).items()}
        with torch.no_grad():
            return models[kind].generate(**inputs, **OPTIONS, n_docs=DOCS)

    return run


def keras_run(folder: str, jit: bool) -> Any:
    import tensorflow as tf

    import tf_models

    models: dict[str, Any] = {}

    def run(step: str) -> Any:
        kind, batch = STEPS[step]
        if kind not in models:
            models[kind] = getattr(tf_models, f"TF{KINDS[kind]}").from_pretrained(folder)
        inputs = {name: tf.constant(x) for name, x in given(batch).items()}
        return models[kind].generate(**inputs, **OPTIONS, n_docs=DOCS, jit_compile=jit)

    return run


def worker(kind: str, folder: str, threads: int) -> None:
    """Answers each line on standard input, a step's name, with its times and its answers."""
    if "tf" in kind:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        run = keras_run(folder, "xla" in kind)
    elif "peer" in kind:
        import transformers

        run = torch_run(transformers, folder, threads)
    else:
        import pt_models

        run = torch_run(pt_models, folder, threads)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        answers = run(line.strip()).numpy()
        seconds = [time.perf_counter() - wall, time.process_time() - cpu]
        if answers.shape[1] != NEW + 1:
            raise SystemExit(f"{kind} made {answers.shape[1] - 1} tokens, expected {NEW}")
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds, most, answers.tolist()]), flush=True)


class Contender:
    """A process that runs steps when it is told to."""

    def __init__(self, kind: str, python: str, folder: str, threads: int) -> None:
        self.kind = kind
        command = [python, __file__, "--worker", kind, "--folder", folder]
        command += ["--threads", str(threads)]
        root = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {"PYTHONPATH": "" if "peer" in kind else root}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.read("ready")

    def read(self, expected: str) -> str:
        while True:
            line = self.process.stdout.readline()
            if line.startswith(expected):
                return line
            if not line:
                raise SystemExit(f"{self.kind} stopped")

    def run(self, step: str) -> Any:
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()
        return json.loads(self.read("["))


def speed(kinds: dict[str, str], folder: str, threads: int, rounds: int, steps: list[str]) -> None:
    contenders = {x: Contender(x, python, folder, threads) for x, python in kinds.items()}
    times: dict[Any, list[Any]] = {(kind, step): [] for kind in kinds for step in steps}
    answers: dict[Any, Any] = {}
    for turn in range(rounds + 1):
        for step in steps:
            for kind, contender in contenders.items():
                seconds, _, answers[kind, step] = contender.run(step)
                if turn:  # the first one warms up
                    times[kind, step].append(seconds)
    print(f"\n{threads} thread(s)\n")
    print("| step | contender | wall ms | processor ms | wall / ours | answers as ours |")
    print("|---|---|---|---|---|---|")
    ours = next(iter(kinds))
    for step in steps:
        first = statistics.median(wall for wall, _ in times[ours, step])
        for kind in kinds:
            wall, cpu = map(statistics.median, zip(*times[kind, step], strict=True))
            expected = answers[ours, step]
            same = sum(x == y for x, y in zip(answers[kind, step], expected, strict=True))
            row = [f"{1e3 * wall:.0f}", f"{1e3 * cpu:.0f}", f"{wall / first:.2f}"]
            row.append(f"{same} of {len(expected)}")
            print("| " + " | ".join([step, kind, *row]) + " |", flush=True)
    for contender in contenders.values():
        contender.process.kill()


def memory(kinds: dict[str, str], folder: str, threads: int, steps: list[str]) -> None:
    print("\nmost MB held, a fresh process each\n")
    print("| step | " + " | ".join(kinds) + " |\n" + "|---" * (len(kinds) + 1) + "|")
    for step in steps:
        row = []
        for kind, python in kinds.items():
            contender = Contender(kind, python, folder, threads)
            row.append(f"{contender.run(step)[1]:.0f}")
            contender.process.kill()
        print("| " + " | ".join([step, *row]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-old")
    parser.add_argument("--peer-new")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", nargs="+", default=list(STEPS))
    parser.add_argument("--kinds", nargs="+", help="some of the contenders")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--folder", help="where the model is, or is put")
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.folder, arguments.threads)
    kinds = {
        "pt": sys.executable,
        "peer new pt": arguments.peer_new,
        "peer old pt": arguments.peer_old,
        "tf": sys.executable,
        "tf xla": sys.executable,
    }
    kinds = {
        kind: python
        for kind, python in kinds.items()
        if python and (not arguments.kinds or kind in arguments.kinds)
    }
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or name
        if not Path(folder, "config.json").exists():
            write_model(folder)
        if arguments.memory:
            memory(kinds, folder, arguments.threads, arguments.steps)
        else:
            speed(kinds, folder, arguments.threads, arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()

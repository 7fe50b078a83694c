"""REALM's embedder and reader against the published ones, and a question's way to its answer.

    python benchmarks/realm_speed.py --peer PYTHON [--rounds 9]     forward passes, interleaved
    python benchmarks/realm_speed.py --stages [--rows 1000000]      time of each stage

PYTHON is the interpreter of a virtual environment with transformers 4.40.2 in it. Every contender
runs in a process of its own. Prints medians as Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {"num_block_records": 1, "reader_beam_size": 5}  # else as published: 12 layers of 768
# What is run, and the shape of its texts.
SHAPES = {
    "embedder, 8 questions of 24": (8, 24),
    "embedder, 8 blocks of 288": (8, 288),
    "reader, 5 blocks of 320": (5, 320),
}


def inputs(step: str) -> dict[str, Any]:
    """Random ids; each row but the first is shorter than the one before."""
    import numpy as np

    batch, sequence = SHAPES[step]
    rng = np.random.default_rng(0)
    mask = (np.arange(sequence) < sequence - np.arange(batch)[:, None] * sequence // 40) * 1
    made = {"input_ids": rng.integers(5, 30000, (batch, sequence)) * mask, "attention_mask": mask}
    if step.startswith("reader"):
        block = (np.arange(sequence) > 24) & (mask == 1)
        made |= {"token_type_ids": block * 1, "block_mask": block}
        made["relevance_score"] = np.arange(batch, dtype=np.float32)[::-1].copy()
    return made


def models_of(package: Any, prefix: str, config: Any) -> dict[str, Any]:
    return {
        "embedder": getattr(package, f"{prefix}RealmEmbedder")(config),
        "reader": getattr(package, f"{prefix}RealmReader")(config),
    }


def torch_steps(package: Any, config: Any, threads: int) -> dict[str, Any]:
    """Named functions that run one step each."""
    import torch

    torch.set_num_threads(threads)
    models = {name: model.eval() for name, model in models_of(package, "", config).items()}

    def run(step: str) -> Any:
        model = models[step.partition(",")[0]]
        batch = {name: torch.from_numpy(x) for name, x in inputs(step).items()}

        def forward() -> None:
            with torch.no_grad():
                model(**batch)

        return forward

    return {step: run(step) for step in SHAPES}


def keras_steps(jit: bool) -> dict[str, Any]:
    import tensorflow as tf

    import tf_models
    from zoo import RealmConfig

    models = models_of(tf_models, "TF", RealmConfig(**SIZES))

    def run(step: str) -> Any:
        model = models[step.partition(",")[0]]
        batch = {name: tf.constant(x) for name, x in inputs(step).items()}
        forward = tf.function(lambda batch: model(batch, training=False)[0], jit_compile=jit)
        return lambda: forward(batch).numpy()

    return {step: run(step) for step in SHAPES}


def worker(kind: str, threads: int) -> None:
    """Answers each line on standard input, a step's name, with its wall and processor time."""
    if kind == "peer":
        import transformers

        steps = torch_steps(transformers, transformers.RealmConfig(**SIZES), threads)
    elif kind == "pt":
        import pt_models
        from zoo import RealmConfig

        steps = torch_steps(pt_models, RealmConfig(**SIZES), threads)
    else:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        steps = keras_steps(kind == "tf xla")
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        steps[line.strip()]()
        seconds = [time.perf_counter() - wall, time.process_time() - cpu]
        print(json.dumps(seconds), flush=True)


class Contender:
    """A process that runs steps when it is told to."""

    def __init__(self, kind: str, python: str, threads: int) -> None:
        command = [python, __file__, "--worker", kind, "--threads", str(threads)]
        root = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {"PYTHONPATH": "" if kind == "peer" else root}
        environment |= {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        while self.process.stdout.readline().strip() != "ready":
            if self.process.poll() is not None:
                raise SystemExit(f"{kind} did not start")

    def run(self, step: str) -> list[float]:
        self.process.stdin.write(step + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(peer: str | None, threads: int, rounds: int, cpu: bool) -> None:
    kinds = {"pt": sys.executable, "peer": peer, "tf": sys.executable, "tf xla": sys.executable}
    contenders = {
        kind: Contender(kind, python, threads) for kind, python in kinds.items() if python
    }
    times = {(kind, step): [] for kind in contenders for step in SHAPES}
    for turn in range(rounds + 1):
        for step in SHAPES:
            for kind, contender in contenders.items():
                seconds = contender.run(step)[cpu]
                if turn:  # the first one warms up
                    times[kind, step].append(seconds)
    middle = {key: statistics.median(values) for key, values in times.items()}
    others = [kind for kind in contenders if kind != "pt"]
    heads = [f"{threads} thread(s)", *(f"{kind} ms" for kind in contenders)]
    heads += [f"{kind} / pt" for kind in others]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for step in SHAPES:
        row = [f"{middle[kind, step] * 1e3:.1f}" for kind in contenders]
        row += [f"{middle[kind, step] / middle['pt', step]:.2f}" for kind in others]
        print("| " + " | ".join([step, *row]) + " |", flush=True)
    for contender in contenders.values():
        contender.process.kill()


# A question's way ------------------------------------------------------------------------------


def make_corpus(folder: Path, rows: int) -> Any:
    """Blocks of about 280 tokens in a file, and the retriever over them."""
    import numpy as np

    from zoo import RealmRetriever, RealmTokenizerFast
    from zoo.retrieval.block_records import BlockRecords, write_block_records

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{number}" for number in range(30000)]
    (folder / "vocab.txt").write_text("\n".join([*special, *words]) + "\n")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 30000, 280)) for _ in range(2000)]
    blocks = (f"w{i % 30000} {texts[i % 2000]}".encode() for i in range(rows))
    write_block_records(folder / "block_records.npy", blocks, rows)
    records = BlockRecords(folder / "block_records.npy")
    return RealmRetriever(records, RealmTokenizerFast(folder / "vocab.txt"))


def stages(rows: int, rounds: int, threads: int, framework: str) -> None:
    """Where the time from a question to its answers goes."""
    import numpy as np

    from zoo import RealmConfig
    from zoo.retrieval import build_index

    with tempfile.TemporaryDirectory() as name:
        retriever = make_corpus(Path(name), rows)
        config = RealmConfig(**(SIZES | {"num_block_records": rows}))
        rng = np.random.default_rng(1)
        centres = rng.standard_normal((1000, config.retriever_proj_size), np.float32)
        vectors = centres[np.arange(rows) % 1000]
        vectors += 0.6 * rng.standard_normal(vectors.shape, np.float32)
        steps = torch_stages if framework == "pt" else keras_stages
        run, set_index = steps(config, retriever, vectors, threads)
        indexes = {"exact, in the model": None}
        indexes["ScaNN"] = build_index(vectors, kind="scann", threads=os.cpu_count() or 1)
        table: dict[str, dict[str, float]] = {}
        for kind, index in indexes.items():
            set_index(index)
            found = [run("w7 w11 w13 who opened w17 w19 ?") for _ in range(rounds + 1)][1:]
            table[kind] = {
                stage: statistics.median(times[stage] for times in found) for stage in found[0]
            }
        print(f"\n{framework}, {rows:,} blocks, {threads} thread(s)\n")
        print("| stage | " + " | ".join(f"{kind} ms" for kind in table) + " |")
        print("|---" * (len(table) + 1) + "|")
        for stage in next(iter(table.values())):
            row = [f"{times[stage] * 1e3:.1f}" for times in table.values()]
            print("| " + " | ".join([stage, *row]) + " |")
        row = [f"{sum(times.values()) * 1e3:.1f}" for times in table.values()]
        print("| " + " | ".join(["together", *row]) + " |", flush=True)


def torch_stages(config: Any, retriever: Any, vectors: Any, threads: int) -> tuple[Any, Any]:
    import torch

    from pt_models import RealmForOpenQA

    torch.set_num_threads(threads)
    model = RealmForOpenQA(config, retriever).eval()
    model.block_emb.copy_(torch.from_numpy(vectors))

    def arrays(tokens: Any) -> dict[str, Any]:
        return {name: torch.from_numpy(x) for name, x in tokens.items()}

    @torch.inference_mode()
    def run(question: str) -> dict[str, float]:
        return one_question(model, question, arrays, lambda x: x)

    return run, model.set_index


def keras_stages(config: Any, retriever: Any, vectors: Any, threads: int) -> tuple[Any, Any]:
    import tensorflow as tf

    from tf_models import TFRealmForOpenQA

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = TFRealmForOpenQA(config, retriever)
    model.block_emb.assign(vectors)

    def arrays(tokens: Any) -> dict[str, Any]:
        return {name: tf.constant(x) for name, x in tokens.items()}

    def run(question: str) -> dict[str, float]:
        return one_question(model, question, arrays, lambda x: x.numpy(), training=False)

    return run, model.set_index


def one_question(
    model: Any, question: str, arrays: Any, as_numpy: Any, **mode: bool
) -> dict[str, float]:
    """What `answer` does, with a clock between its steps."""
    clock, times = time.perf_counter, {}
    retriever, config = model.retriever, model.config

    def done(stage: str) -> None:
        nonlocal start
        times[stage] = clock() - start
        start = clock()

    start = clock()
    tokens = retriever.tokenize_questions([question], config.max_position_embeddings)
    done("tokens of the question")
    vector = model.embedder(**arrays(tokens), return_dict=True).projected_score
    done("embedder")
    block_ids, relevance = model._search(vector, **mode)
    done("search")
    evidence = retriever.evidence(
        as_numpy(block_ids), tokens["input_ids"], None, config.reader_seq_len, offsets=True
    )
    read = ("input_ids", "attention_mask", "token_type_ids", "block_mask")
    given = arrays({name: getattr(evidence, name) for name in read})
    done("blocks and their tokens")
    scores, _, _ = model.reader._read(given)
    scores = scores.numpy()
    done("reader")
    retriever.answers(evidence, scores, relevance.numpy(), config.max_span_width, 5)
    done("answers")
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpu", action="store_true", help="processor time in place of wall time")
    parser.add_argument("--stages", action="store_true", help="a question's way instead")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--framework", choices=["pt", "tf"], default="pt")
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.threads[0])
    for threads in arguments.threads:
        if arguments.stages:
            stages(arguments.rows, arguments.rounds, threads, arguments.framework)
        else:
            compare(arguments.peer, threads, arguments.rounds, arguments.cpu)


if __name__ == "__main__":
    main()

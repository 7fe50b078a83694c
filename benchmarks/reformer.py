"""Reformer against its peers: time, memory, growth with depth and length, ablation, decoding.

    python benchmarks/reformer.py time --peer-old PYTHON --peer-new PYTHON [--lengths 4096 16384]
    python benchmarks/reformer.py memory --peer-old PYTHON       # a fresh process for each figure
    python benchmarks/reformer.py depth --peer-old PYTHON        # 2, 4, 8 and 12 layers
    python benchmarks/reformer.py scaling --peer-old PYTHON --plot scaling.png
    python benchmarks/reformer.py ablation
    python benchmarks/reformer.py decode --peer-old PYTHON --peer-new PYTHON

Hidden 256, 4 heads of 64, feed-forward 512, local and LSH layers in turn, batch 1, no dropout,
forward and backward. PYTHON is the interpreter of a virtual environment with the peer in it:
transformers 4.40.2, and the newest. Contenders take turns, each in a process of its own; a figure
is the least processor time of `--rounds`. Tables are Markdown; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
VOCABULARY, PROMPT, NEW = 320, 512, 128
FULL = "full attention"


def fields(layers: int, length: int, hashes: int) -> dict:
    power = length.bit_length() - 1
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "attention_head_size": 64,
        "feed_forward_size": 512,
        "attn_layers": ["local", "lsh"] * (layers // 2),
        "axial_pos_shape": [2 ** (power // 2), 2 ** (power - power // 2)],
        "max_position_embeddings": length,
        "num_hashes": hashes,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "is_decoder": True,
        "use_cache": False,
    }


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What a contender does, in a process of its own.


def torch_step(library, config_library, task: dict):
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    config = config_library.ReformerConfig(**fields(task["layers"], task["length"], task["hashes"]))
    config.num_buckets = task.get("buckets")
    model = library.ReformerModelWithLMHead(config).train()
    ids = torch.randint(3, VOCABULARY, (1, task["length"]))

    def step() -> None:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()

    return step


def keras_step(task: dict):
    import tensorflow as tf

    import tf_models
    import zoo

    config = zoo.ReformerConfig(**fields(task["layers"], task["length"], task["hashes"]))
    model = tf_models.TFReformerModelWithLMHead(config)
    ids = tf.random.uniform((1, task["length"]), 3, VOCABULARY, tf.int32)
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False, jit_compile=task["contender"] == "tf xla" or None)
    def gradients():
        with tf.GradientTape() as tape:
            loss = model(input_ids=ids, labels=ids, training=True).loss
        return [tf.reduce_sum(tf.convert_to_tensor(x)) for x in tape.gradient(loss, variables)]

    return lambda: [float(x) for x in gradients()]


def full_attention_step(task: dict):
    """A plain decoder of the same sizes, whose scores take memory as the square of the length."""
    import torch

    import pt_models
    import zoo

    torch.set_num_threads(task["threads"])
    config = zoo.BertGenerationConfig(
        vocab_size=VOCABULARY, hidden_size=256, num_attention_heads=4, intermediate_size=512,
        num_hidden_layers=task["layers"], max_position_embeddings=task["length"],
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=True,
        use_cache=False,
    )  # fmt: skip
    model = pt_models.BertGenerationDecoder(config).train()
    ids = torch.randint(3, VOCABULARY, (1, task["length"]))

    def step() -> None:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()

    return step


def decode_step(library, config_library, task: dict):
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    config = config_library.ReformerConfig(
        **{**fields(task["layers"], 4096, task["hashes"]), "use_cache": True, "num_buckets": 16}
    )
    model = library.ReformerModelWithLMHead(config).eval()
    ids = torch.randint(3, VOCABULARY, (1, PROMPT))
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "num_beams": 1}

    def step() -> None:
        with torch.no_grad():
            assert model.generate(ids, **options).shape[1] == PROMPT + NEW

    return step


def keras_decode_step(task: dict):
    import tensorflow as tf

    import tf_models
    import zoo

    config = zoo.ReformerConfig(
        **{**fields(task["layers"], 4096, task["hashes"]), "use_cache": True, "num_buckets": 16}
    )
    model = tf_models.TFReformerModelWithLMHead(config)
    ids = tf.random.uniform((1, PROMPT), 3, VOCABULARY, tf.int32)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    jit = task["contender"] == "tf xla"
    return lambda: model.generate(ids, **options, jit_compile=jit).numpy()


def ablate(task: dict) -> None:
    """Takes out what is named; everything else stays."""
    from pt_models import layers, lsh_attention, reversible

    without = task["contender"].partition(" without ")[2]
    if without == "faster matrix products":
        layers.Linear.forward = layers.nn.Linear.forward
    elif without == "kept probabilities":
        forward = lsh_attention._ChunkedAttention.forward

        def recomputed(ctx, *given):
            found = forward(ctx, *given)
            ctx.weights = []
            return found

        lsh_attention._ChunkedAttention.forward = staticmethod(recomputed)
    elif without == "kept sort and sums":
        gradients = reversible._Reversible.backward

        def anew(ctx, *given):
            ctx.memo = None
            return gradients(ctx, *given)

        reversible._Reversible.backward = staticmethod(anew)
    elif without == "tiles":
        lsh_attention.TILE["cpu"] = lsh_attention.LARGE_TILE
    elif without == "one pass for all hashes":
        attention = lsh_attention.chunked_attention

        def loop(query, key, value, pattern, memo, mask=None, dropout=None):
            """One hash after another, joined by their shares."""
            import torch

            if memo.order is None:
                return attention(query, key, value, pattern, memo, mask, dropout)
            length, orders = query.shape[1], memo.order
            contexts, sums = [], []
            for order in orders.split(length, 2):
                own = lsh_attention.Memo()
                own.order = order
                contexts.append(attention(query, key, value, pattern, own, mask, dropout))
                rows = lsh_attention.Chunks.of(query, pattern, order, mask)
                index = lsh_attention._own_rows(rows, query.shape[:3].numel(), 1).flatten()
                table = own.sums.new_zeros(query.shape[:3].numel() + 1)
                total = own.sums.sum(-1).flatten().nan_to_num(posinf=0.0)
                sums.append(table.index_copy(0, index, total)[:-1])
            shares = torch.stack(sums).softmax(0).view(len(sums), *query.shape[:3], 1)
            return sum(share * context for share, context in zip(shares, contexts, strict=True))

        import pt_models.reformer

        pt_models.reformer.chunked_attention = loop


def contender(task: dict) -> None:
    """Runs a task whenever it is told to; prints times and the peak of memory."""
    name = task["contender"].split(" without ")[0]
    if name.startswith("peer"):
        import transformers as library

        config_library = library
    else:
        sys.path.insert(0, ROOT)
        import zoo as config_library

        if name.startswith("pt"):
            import pt_models as library

            ablate(task)
    if task["task"] == "decode":
        step = (
            keras_decode_step(task) if name.startswith("tf")
            else decode_step(library, config_library, task)
        )  # fmt: skip
    elif name == FULL:
        step = full_attention_step(task)
    elif name.startswith("tf"):
        step = keras_step(task)
    else:
        step = torch_step(library, config_library, task)
    before = peak()
    for _ in sys.stdin:  # a line for a run
        wall, used = time.perf_counter(), time.process_time()
        step()
        found = {"wall": time.perf_counter() - wall, "processor": time.process_time() - used}
        print(json.dumps(found | {"before": before, "peak": peak()}), flush=True)


class Contender:
    """A task in a process of its own."""

    def __init__(self, python: str, task: dict) -> None:
        threads = str(task["threads"])
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, __file__, "--task", json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env=environment,
        )  # fmt: skip

    def run(self) -> dict | None:
        """Runs the task once, None where it fails (it may need too much memory)."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def end(self) -> str:
        """Ends it; returns what it had to say."""
        self.process.communicate()
        self.log.seek(0)
        return self.log.read() if self.process.returncode else ""


def together(names: dict[str, str], rounds: int, task: dict) -> dict[str, dict | None]:
    """Contenders take turns, round by round; the first one warms up. The least of each figure.

    Where it is about memory, that is one round and no others beside it.
    """
    alone = rounds == 1
    running = {} if alone else {name: Contender(python, task | {"contender": name})
                                for name, python in names.items()}  # fmt: skip
    found: dict[str, list] = {name: [] for name in names}
    for number in range(rounds + (not alone)):
        for name, python in names.items():
            one = Contender(python, task | {"contender": name}) if alone else running[name]
            result = one.run()
            if number or alone:
                found[name].append(result)
            if alone or number == rounds:
                if words := one.end():
                    print(f"{name} failed: {words[-400:]}", file=sys.stderr)
    return {
        name: None if None in results else {
            "wall": min(x["wall"] for x in results),
            "processor": min(x["processor"] for x in results),
            "peak": max(x["peak"] for x in results),
            "before": results[0]["before"],
        }
        for name, results in found.items()
    }  # fmt: skip


# Tables.


def line(values: list) -> None:
    cells = ["-" if x is None else f"{x:.2f}" if isinstance(x, float) else str(x) for x in values]
    print("| " + " | ".join(cells) + " |", flush=True)


def table(head: list[str], rows: Iterable[list]) -> None:
    line(head)
    print("|---" * len(head) + "|", flush=True)
    for row in rows:
        line(row)
    print()


def contenders(options: argparse.Namespace) -> dict[str, str]:
    """Name -> interpreter."""
    found = {name: sys.executable for name in options.ours}
    found |= {"peer old": options.peer_old} if options.peer_old else {}
    found |= {"peer new": options.peer_new} if options.peer_new else {}
    return found


def ratio(theirs: dict | None, ours: dict | None, key: str) -> float | None:
    return theirs[key] / ours[key] if theirs and ours else None


def compare(options: argparse.Namespace, cases: list[dict], key: str, unit: str) -> None:
    names = contenders(options)

    def rows() -> Iterator[list]:
        for case in cases:
            found = together(names, options.rounds, {"threads": options.threads} | case)
            label = ", ".join(f"{k} {case[k]}" for k in ("length", "layers", "hashes") if k in case)
            values = [None if x is None else x[key] for x in found.values()]
            ratios = [
                ratio(found[name], found["pt"], key) if "pt" in found else None
                for name in names if name != "pt"
            ]  # fmt: skip
            yield [label, *values, *ratios]

    head = [f"{name} {unit}" for name in names]
    table(["case", *head, *(f"{name} / pt" for name in names if name != "pt")], rows())


def scaling(options: argparse.Namespace) -> None:
    names = contenders(options) | {FULL: sys.executable}
    seconds: dict[str, list[float | None]] = {name: [] for name in names}
    for length in options.lengths:
        able = {n: python for n, python in names.items() if n != FULL or length <= 16384}
        task = {"task": "time", "layers": 6, "length": length, "hashes": options.hashes[0]}
        found = together(able, options.rounds, task | {"threads": options.threads})
        for name in names:
            one = found.get(name)
            seconds[name].append(None if one is None else one["processor"])
    rows = []
    for name, times in seconds.items():
        growth = []
        for (n, a), (m, b) in zip(
            zip(options.lengths, times, strict=True),
            list(zip(options.lengths, times, strict=True))[1:],
            strict=False,
        ):
            growth.append(math.log(b / a) / math.log(m / n) if a and b else None)
        rows.append([name, *times, *growth])
    steps = zip(options.lengths, options.lengths[1:], strict=False)
    table(["", *(f"{n} s" for n in options.lengths), *(f"n^ {n} to {m}" for n, m in steps)], rows)
    if options.plot:
        plot(options, seconds)


def plot(options: argparse.Namespace, seconds: dict[str, list[float | None]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, times in seconds.items():
        points = [(n, t) for n, t in zip(options.lengths, times, strict=True) if t]
        axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    first, start = options.lengths[0], seconds[options.ours[0]][0]
    line = [start * n * math.log(n) / (first * math.log(first)) for n in options.lengths]
    axes.loglog(options.lengths, line, "k:", label="n log n")
    axes.set_xlabel("tokens")
    axes.set_ylabel("seconds, forward and backward")
    axes.legend()
    figure.tight_layout()
    figure.savefig(options.plot)


def ablation(options: argparse.Namespace) -> None:
    parts = [
        "", "faster matrix products", "kept probabilities", "kept sort and sums", "tiles",
        "one pass for all hashes",
    ]  # fmt: skip
    names = {f"pt without {part}" if part else "pt": sys.executable for part in parts}
    for hashes in options.hashes:
        task = {"task": "time", "layers": 6, "length": options.lengths[0], "hashes": hashes}
        found = together(names, options.rounds, task | {"threads": options.threads})
        rows = [
            [name, x["processor"], x["processor"] / found["pt"]["processor"], x["peak"]]
            for name, x in found.items() if x and found["pt"]
        ]  # fmt: skip
        table([f"{options.lengths[0]} tokens, {hashes} hashes", "s", "times", "peak MB"], rows)


def main() -> None:
    if "--task" in sys.argv:
        return contender(json.loads(sys.argv[sys.argv.index("--task") + 1]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what", choices=("time", "memory", "depth", "scaling", "ablation", "decode")
    )
    parser.add_argument("--peer-old", help="interpreter with transformers 4.40.2")
    parser.add_argument("--peer-new", help="interpreter with the newest transformers")
    parser.add_argument("--ours", nargs="+", default=["pt"], help="of pt, tf, tf xla")
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384])
    parser.add_argument("--hashes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--depths", nargs="+", type=int, default=[2, 4, 8, 12])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", help="where the picture of `scaling` goes")
    options = parser.parse_args()
    grid = [
        {"layers": 6, "length": length, "hashes": hashes}
        for length in options.lengths
        for hashes in options.hashes
    ]
    if options.what in ("memory", "depth"):
        options.rounds = 1
    if options.what == "time":
        cases = [{"task": "time", **case} for case in grid]
        compare(options, cases, "processor", "s")
    elif options.what == "memory":
        compare(options, [{"task": "time", **case} for case in grid], "peak", "MB")
    elif options.what == "depth":
        cases = [
            {"task": "time", "layers": n, "length": options.lengths[-1], "hashes": 1}
            for n in options.depths
        ]
        compare(options, cases, "peak", "MB")
    elif options.what == "decode":
        cases = [{"task": "decode", "layers": 6, "hashes": 1}]
        compare(options, cases, "processor", "s")
    elif options.what == "ablation":
        ablation(options)
    else:
        scaling(options)


if __name__ == "__main__":
    main()

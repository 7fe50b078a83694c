"""From a 1 GB safetensors checkpoint to a model that has run its first forward pass.

    python benchmarks/loading.py [--peer-old PYTHON] [--peer-new PYTHON] [--rounds 5]

The floor is mapping the file and copying every tensor into memory of its own, with the transposes
that Keras kernels need on its side. Every figure comes from a fresh process, interleaved; peak
memory is the resident set beyond the bare import, as a multiple of the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {
    "vocab_size": 120000,
    "hidden_size": 1152,
    "num_hidden_layers": 13,
    "num_attention_heads": 18,
    "intermediate_size": 4608,
}


def make(folder: str) -> None:
    import torch

    from pt_models import RemBertForSequenceClassification
    from zoo import RemBertConfig

    torch.manual_seed(0)
    RemBertForSequenceClassification(RemBertConfig(**SIZES)).save_pretrained(folder)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def floor(folder: str, transposed: bool) -> None:
    """Maps the file and copies it; two-dimensional weights but the tables are transposed."""
    import mmap

    import numpy as np

    with open(f"{folder}/model.safetensors", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(mapped[:8], "little")
    copies = []
    for name, entry in json.loads(mapped[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + place for place in entry["data_offsets"])
        source = np.frombuffer(mapped, np.float32, (end - start) // 4, start)
        source = source.reshape(entry["shape"])
        if transposed and source.ndim == 2 and "embeddings" not in name:
            source = source.T
        out = np.empty(source.shape, np.float32)
        np.copyto(out, source)
        copies.append(out)


def load(kind: str, folder: str) -> None:
    if kind == "pt" or "peer" in kind and "pt" in kind:
        import torch

        torch.set_num_threads(1)
        if kind == "pt":
            from pt_models import RemBertForSequenceClassification as Model
        else:
            from transformers import RemBertForSequenceClassification as Model
        begin(folder)
        model = Model.from_pretrained(folder)
        with torch.no_grad():
            model(torch.ones(1, 8, dtype=torch.long)).logits.numpy()
    else:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.environ["TF_USE_LEGACY_KERAS"] = "1" if "peer" in kind else "0"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        if kind == "tf":
            from tf_models import TFRemBertForSequenceClassification as Model
        else:
            from transformers import TFRemBertForSequenceClassification as Model
        tf.zeros(()).numpy()
        begin(folder)
        model = Model.from_pretrained(folder)
        model(tf.ones((1, 8), tf.int32)).logits.numpy()


STARTED: list = []


def begin(folder: str) -> None:
    reset_peak()
    STARTED[:] = [resident(), time.perf_counter(), time.process_time()]


def worker(kind: str, folder: str) -> None:
    if kind.startswith("floor"):
        # The same imports as the others: memory that a process has just given back is quicker to
        # fill than what lay idle for the seconds that an import takes.
        importlib.import_module("tensorflow" if "tf" in kind else "torch")
        begin(folder)
        floor(folder, kind == "floor tf")
    else:
        load(kind, folder)
    memory, wall, cpu = STARTED
    size = os.path.getsize(f"{folder}/model.safetensors")
    result = [time.perf_counter() - wall, time.process_time() - cpu, (peak() - memory) / size]
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-old")
    parser.add_argument("--peer-new")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker")
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.folder)
    root = str(Path(__file__).resolve().parent.parent)
    sys.path.insert(0, root)
    kinds = {
        "floor pt": sys.executable,
        "pt": sys.executable,
        "peer new pt": arguments.peer_new,
        "peer old pt": arguments.peer_old,
        "floor tf": sys.executable,
        "tf": sys.executable,
        "peer old tf": arguments.peer_old,
    }
    kinds = {kind: python for kind, python in kinds.items() if python}
    results = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        make(folder)
        size = os.path.getsize(f"{folder}/model.safetensors")
        for turn in range(arguments.rounds + 1):
            for kind, python in kinds.items():
                command = [python, __file__, "--worker", kind, "--folder", folder]
                environment = os.environ | {"PYTHONPATH": "" if "peer" in kind else root}
                environment |= {"OMP_NUM_THREADS": "1"}
                output = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=True
                ).stdout
                if turn:
                    results[kind].append(json.loads(output.strip().splitlines()[-1]))
    print(f"\nfile: {size / 1e9:.2f} GB\n")
    print("| | seconds | processor seconds | times the floor | peak memory / file |")
    print("|---|---|---|---|---|")
    middle = {
        kind: [statistics.median(column) for column in zip(*rows, strict=True)]
        for kind, rows in results.items()
    }
    for kind, (wall, cpu, memory) in middle.items():
        ratio = wall / middle["floor tf" if "tf" in kind else "floor pt"][0]
        print(f"| {kind} | {wall:.2f} | {cpu:.2f} | {ratio:.2f} | {memory:.2f} |")


if __name__ == "__main__":
    main()

"""A pre-training step of REALM with and without the index being made anew in a second process.

    OMP_NUM_THREADS=1 python benchmarks/realm_training.py [--framework tf] [--blocks 20000]

Blocks of made-up words with names in them. Rounds of steps alternate: with the worker idle, and
while it embeds. With two cores, the trainer has one thread and the worker the other. Prints medians
as Markdown; "asking" is what the trainer itself does for a new version: save the embedder, and open
the version before.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo.configs import RealmConfig
from zoo.training.batches import Candidates, MaskedSpans
from zoo.training.corpus import BlockCorpus
from zoo.training.plan import Plan
from zoo.training.refresh import Refresher
from zoo.training.vocabulary import train_tokenizer

QUERY, BLOCK = 48, 128


def texts(blocks: int) -> Iterator[str]:
    """Blocks of about 100 word pieces; each sentence has a name."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choice(syllables, 2 + n % 2)) for n in range(3000)]
    names = [word.capitalize() for word in words[:400]]
    for _ in range(blocks):
        sentences = []
        for _ in range(6):
            chosen = rng.choice(words, 12).tolist()
            chosen[5] = str(rng.choice(names))
            chosen[0] = chosen[0].capitalize()
            sentences.append(" ".join(chosen) + ".")
        yield " ".join(sentences)


class Setting:
    """Models of one framework, a corpus, and a step that can be timed."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        package = "pt_models" if options.framework == "pt" else "tf_models"
        self.run = importlib.import_module(f"{package}.realm_training")
        training = importlib.import_module(f"{package}.training")
        models = importlib.import_module(package)
        prefix = "" if options.framework == "pt" else "TF"
        self.tokenizer = train_tokenizer(texts(2000), folder / "tokenizer", 3000)
        self.corpus = BlockCorpus.build(
            texts(options.blocks), self.tokenizer, folder / "corpus", spans="rules"
        )
        config = RealmConfig(
            vocab_size=len(self.tokenizer), hidden_size=options.hidden, pad_token_id=0,
            num_hidden_layers=options.layers, num_attention_heads=options.hidden // 32,
            intermediate_size=4 * options.hidden, num_candidates=options.candidates,
        )  # fmt: skip
        self.embedder = getattr(models, f"{prefix}RealmEmbedder")(config)
        encoder = getattr(models, f"{prefix}RealmKnowledgeAugEncoder")(config)
        self.batches = MaskedSpans(self.corpus, options.batch, query_length=QUERY)
        self.candidates = Candidates(
            self.corpus, count=options.candidates, query_length=QUERY, block_length=BLOCK
        )
        step = self.run.PretrainingStep(self.embedder, encoder, self.candidates)
        self.trainer = training.Trainer(step, Plan(1 << 30))
        self._train = self.trainer.train_step
        if options.framework == "tf":
            import tensorflow as tf

            graph = tf.function(self.trainer.train_step, reduce_retracing=True)
            self._train = lambda batch: graph(
                {n: tf.constant(training._plain(array)) for n, array in batch.items()}
            )["loss"].numpy()
        self.number = 0

    def save(self, folder: Path) -> None:
        self.embedder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def steps(self, count: int) -> list[float]:
        """Seconds of each of some steps."""
        found = []
        for _ in range(count):
            began = time.perf_counter()
            self._train(self.batches(self.number))
            found.append(time.perf_counter() - began)
            self.number += 1
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--framework", choices=("pt", "tf"), default="pt")
    parser.add_argument("--blocks", type=int, default=20000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")
    with tempfile.TemporaryDirectory() as place:
        setting = Setting(options, Path(place))
        with Refresher(
            place, setting.corpus, 1, embedder=setting.run.EMBEDDER, length=BLOCK,
            options={"encoder": "RealmEmbedder"}, index={"kind": "exact"},
        ) as refresher:  # fmt: skip
            began = time.perf_counter()
            refresher.before(0, setting.save)
            alone = time.perf_counter() - began
            setting.candidates.index = refresher.index
            setting.steps(3)
            without, beside, versions, asking, asked = [], [], [], [], 0
            for _ in range(options.rounds):
                without += setting.steps(options.steps)
                # The next version is asked for, and the one before, which is there, taken up.
                asked += 1
                began = time.perf_counter()
                refresher.before(asked, setting.save)
                asking.append(time.perf_counter() - began)
                setting.candidates.index = refresher.index
                progress = refresher.progress()
                while progress is not None and progress["stage"] == "starting":
                    time.sleep(0.05)  # opening the encoder is not what is measured
                    progress = refresher.progress()
                while refresher.progress() is not None:
                    beside += setting.steps(1)
                versions.append(time.perf_counter() - began)
    one, other = statistics.median(without), statistics.median(beside)
    about = f"batch {options.batch} x {options.candidates} candidates, {options.blocks:,} blocks"
    print(f"{options.framework}, hidden {options.hidden}, {options.layers} layers, {about}\n")
    heads = ("step ms, no refresh", "step ms, refresh running", "refresh costs",
             "asking ms", "version alone s", "version beside training s")  # fmt: skip
    values = (f"{1e3 * one:.0f}", f"{1e3 * other:.0f}", f"{other / one - 1:+.1%}",
              f"{1e3 * statistics.median(asking):.0f}", f"{alone:.1f}",
              f"{statistics.median(versions):.1f}")  # fmt: skip
    for row in (heads, ("---",) * len(heads), values):
        print(f"| {' | '.join(row)} |")
    print(f"\n({len(without)} and {len(beside)} steps)")


if __name__ == "__main__":
    main()

"""RemBERT on one page: `zoo demo rembert`.

    text -> tokenizer -> pre-training in PyTorch -> the same folder in Keras -> fine-tuning there
         -> the same folder in PyTorch -> a SavedModel that takes strings, asked in a fresh process

Every figure that it prints was measured in the same run.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo import RemBertConfig, RemBertTokenizerFast

from .. import corpus
from ..corpus import Paragraph
from .stages import CURVE, SUMMARY, Stages, output_folder

# What a user of the SavedModel runs: none of our packages, and the loader that TF Serving uses.
CLIENT = """
import json, sys
for name in ("zoo", "pt_models", "tf_models", "converters", "torch"):
    sys.modules[name] = None  # importing one would fail
import tensorflow as tf, tensorflow_text
graph = tf.compat.v1.saved_model
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    model = graph.loader.load(session, [graph.tag_constants.SERVING], sys.argv[1])
    signature = model.signature_def["serving_default"]
    [text] = [tensor.name for tensor in signature.inputs.values()]
    wanted = [signature.outputs[name].name for name in ("label", "score")]
    answers = session.run(wanted, {text: json.load(sys.stdin)})
print(json.dumps([
    {"label": label.decode(), "probability": float(score)} for label, score in zip(*answers)
]))
"""


@dataclass(frozen=True)
class Sizes:
    """How large the model is and how long it learns."""

    vocabulary: int = 2500
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    pretraining_length: int = 64
    pretraining_batch: int = 8
    pretraining_steps: int = 1600
    length: int = 64
    batch: int = 16
    epochs: int = 4


FULL = Sizes()
QUICK = Sizes(pretraining_steps=100, length=28, epochs=3)


@dataclass
class Summary:
    """What a run found out; `summary.json` holds the same."""

    seed: int
    sizes: Sizes
    paragraphs: dict[str, int] = field(default_factory=dict)
    pretraining_loss: list[float] = field(default_factory=list)
    held_out_loss: dict[str, float] = field(default_factory=dict)
    finetuning_loss: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    majority: float = 0.0
    differences: dict[str, float] = field(default_factory=dict)
    served: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    output: str | os.PathLike[str] | None = None,
    quick: bool = False,
    seed: int = 0,
    sizes: Sizes | None = None,
) -> Summary:
    """Train in both frameworks on the Python references, compare, export, and ask the result.

    Args:
        output: where the models go: a new or empty folder, or that of an earlier demo. By default
            `demo_output`, or the next free `demo_output-2` ... if that holds something else.
        quick: train shortly, for less than a minute in all.
        seed: of everything random.
        sizes: other sizes than those of `quick` or its opposite.

    Returns:
        What was measured, as also written to `summary.json`.

    Raises:
        ValueError: the folder holds foreign files, or a check failed: the frameworks differ, or
            the served model answers otherwise than the trained one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides that there is no GPU
    folder = output_folder(output)
    summary = Summary(seed, sizes or (QUICK if quick else FULL))
    demo = _Demo(summary, folder, Console())
    demo.write_summary()  # from now on the folder is ours
    demo.read_text()
    demo.train_tokenizer()
    demo.pretrain_in_pytorch()
    demo.open_in_both("pretrained")
    demo.finetune_in_keras()
    demo.open_in_both("classifier")
    demo.ask_pytorch()
    demo.export()
    demo.ask_in_fresh_process()
    demo.draw_curves()
    demo.finish()
    return summary


class _Demo(Stages):
    """The steps in their order; each leaves what the next ones need."""

    summary: Summary

    def __init__(self, summary: Summary, folder: Path, console: Console) -> None:
        super().__init__(summary, folder, console)
        self.sizes = summary.sizes
        self.rng = np.random.default_rng(summary.seed)

    # The text ------------------------------------------------------------------------------------

    def read_text(self) -> None:
        with self.phase("Reading the references that ship with Python"):
            paragraphs = corpus.read_paragraphs()
            self.training, self.held_out = corpus.split(paragraphs, self.rng)
            self.labelled = [p for p in self.training if p.chapter]
            self.chapters = sorted({p.chapter for p in self.labelled if p.chapter})
            self.held_out = [p for p in self.held_out if p.chapter in self.chapters]
            self.summary.majority = corpus.majority_share(p.chapter for p in self.held_out)
            self.summary.paragraphs = {
                "training": len(self.training),
                "of a chapter": len(self.labelled),
                "held out": len(self.held_out),
            }
            self.console.print(
                f"{len(self.training)} paragraphs, {len(self.labelled)} of them from "
                f"{len(self.chapters)} chapters: {', '.join(self.chapters)}.\n"
                f"{len(self.held_out)} more are held out, from the tokenizer and pre-training too."
            )

    def train_tokenizer(self) -> None:
        with self.phase("Training a SentencePiece tokenizer"):
            model = corpus.train_sentencepiece(
                (p.text for p in self.training), self.sizes.vocabulary
            )
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "sentencepiece.model"
                path.write_bytes(model)
                # The published defaults of this class are for the released lower-cased files.
                self.tokenizer = RemBertTokenizerFast(
                    path, do_lower_case=False, keep_accents=True,
                    unk_token="[UNK]", pad_token="[PAD]", model_max_length=self.sizes.length,
                )  # fmt: skip
            sample = self.held_out[0].text
            pieces = " ".join(self.tokenizer.tokenize(sample)[:16])
            self.console.print(f"{pieces} …", style="dim", markup=False, highlight=False)

    def encode(self, paragraphs: list[Paragraph]) -> dict[str, np.ndarray]:
        """Ids, mask and types `(paragraphs, length)`, labels `(paragraphs,)`."""
        encoding = self.tokenizer(
            [p.text for p in paragraphs], padding="max_length", truncation=True,
            max_length=self.sizes.length, return_tensors="np",
        )  # fmt: skip
        labels = np.array([self.chapters.index(str(p.chapter)) for p in paragraphs])
        return {**encoding, "labels": labels}

    # The models ----------------------------------------------------------------------------------

    def pretrain_in_pytorch(self) -> None:
        with self.phase("Pre-training RemBERT in PyTorch: which word is hidden?"):
            import torch

            from pt_models import RemBertForMaskedLM

            sizes, tokenizer = self.sizes, self.tokenizer
            config = RemBertConfig(
                vocab_size=len(tokenizer),
                hidden_size=sizes.hidden,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=4 * sizes.hidden,
                input_embedding_size=sizes.hidden,
                output_embedding_size=sizes.hidden,
                max_position_embeddings=128,
                initializer_range=0.05,  # the published 0.02 goes with wider layers
                bos_token_id=tokenizer.cls_token_id,
                eos_token_id=tokenizer.sep_token_id,
            )
            # So small a model gains little from a second thread, and loses much where the other
            # core has something else to do: the threads wait for each other after every operation.
            torch.set_num_threads(1)
            torch.manual_seed(self.summary.seed)
            model = RemBertForMaskedLM(config).train()
            self.console.print(f"{model.num_parameters():,} weights")

            def rows(paragraphs: list[Paragraph]) -> np.ndarray:
                pieces = tokenizer(
                    [p.text for p in paragraphs], add_special_tokens=False, verbose=False
                )
                return corpus.pack(
                    pieces["input_ids"], sizes.pretraining_length,
                    tokenizer.cls_token_id, tokenizer.sep_token_id,
                )  # fmt: skip

            def loss_of(ids: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
                # More than BERT hides (15%), as this model sees little text.
                masked, labels = corpus.mask_tokens(
                    ids, tokenizer.all_special_ids, tokenizer.mask_token_id, len(tokenizer), rng,
                    probability=0.3,
                )  # fmt: skip
                output = model(input_ids=torch.tensor(masked), labels=torch.tensor(labels))
                return output.loss

            def held_out_loss() -> float:
                model.eval()
                with torch.no_grad():
                    loss = loss_of(held_out, np.random.default_rng(self.summary.seed)).item()
                model.train()
                return loss

            training, held_out = rows(self.training), rows(self.held_out)
            steps, batch = sizes.pretraining_steps, sizes.pretraining_batch
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True
            )
            warm_up = max(1, steps // 10)
            rising, falling = (
                torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm_up, 1.0, warm_up),
                torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps - warm_up),
            )
            schedule = torch.optim.lr_scheduler.SequentialLR(
                optimizer, [rising, falling], [warm_up]
            )
            self.summary.held_out_loss["before"] = held_out_loss()
            order = np.resize(self.rng.permutation(len(training)), steps * batch)
            with self.progress(steps) as report:
                for chosen in order.reshape(steps, batch):
                    loss = loss_of(training[chosen], self.rng)
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    self.summary.pretraining_loss.append(loss.item())
                    report(loss.item())
            self.summary.held_out_loss["after"] = held_out_loss()
            self.console.print(
                "Loss on held-out text: {before:.2f} before, {after:.2f} after.".format(
                    **self.summary.held_out_loss
                )
            )
            model.save_pretrained(self.folder / "pretrained")
            tokenizer.save_pretrained(self.folder / "pretrained")

    def open_in_both(self, name: str) -> None:
        with self.phase(f"Opening {name}/ in both frameworks"):
            self.compare(name)

    def finetune_in_keras(self) -> None:
        with self.phase("Fine-tuning in Keras: which chapter is this paragraph from?"):
            import keras

            from tf_models import TFRemBertForSequenceClassification

            sizes = self.sizes
            keras.utils.set_random_seed(self.summary.seed)
            labels = dict(enumerate(self.chapters))
            model = TFRemBertForSequenceClassification.from_pretrained(
                self.folder / "pretrained",
                id2label=labels,
                label2id={chapter: i for i, chapter in labels.items()},
            )
            steps_per_epoch = len(self.labelled) // sizes.batch
            # Whole batches only: for one of another size Keras would trace the graph again.
            training = self.encode(self.labelled[: steps_per_epoch * sizes.batch])
            held_out = self.encode(self.held_out)
            steps = sizes.epochs * steps_per_epoch
            warm_up = max(1, steps // 10)
            rate = keras.optimizers.schedules.CosineDecay(
                0.0, steps - warm_up, warmup_target=1e-3, warmup_steps=warm_up
            )
            model.compile(keras.optimizers.AdamW(rate))
            losses = self.summary.finetuning_loss
            with self.progress(steps) as report:

                def on_batch_end(batch: int, logs: dict[str, float]) -> None:
                    losses.append(float(logs["loss"]))
                    report(losses[-1])
                    model.reset_metrics()  # else Keras reports the epoch's mean so far

                watch = keras.callbacks.LambdaCallback(on_train_batch_end=on_batch_end)
                model.fit(
                    training, epochs=sizes.epochs, batch_size=sizes.batch, verbose=0,
                    callbacks=[watch],
                )  # fmt: skip
            truth = held_out.pop("labels")
            self.logits = model.predict(held_out, batch_size=64, verbose=0)["logits"]
            self.summary.accuracy = float(np.mean(self.logits.argmax(-1) == truth))
            self.console.print(
                f"Held-out accuracy {self.summary.accuracy:.1%} "
                f"(always the largest chapter: {self.summary.majority:.1%})"
            )
            model.save_pretrained(self.folder / "classifier")
            self.tokenizer.save_pretrained(self.folder / "classifier")

    def ask_pytorch(self) -> None:
        with self.phase("Asking the fine-tuned model in PyTorch"):
            import torch

            from pt_models import RemBertForSequenceClassification

            model = RemBertForSequenceClassification.from_pretrained(self.folder / "classifier")
            inputs = {k: torch.tensor(v) for k, v in self.encode(self.held_out).items()}
            with torch.no_grad():
                logits = model(**inputs).logits.numpy()
            difference = float(np.abs(logits - self.logits).max())
            self.summary.differences["held-out logits"] = difference
            same = int(np.sum(logits.argmax(-1) == self.logits.argmax(-1)))
            self.console.print(
                f"{same} of {len(logits)} held-out answers are those of Keras, "
                f"logits within {difference:.1e}"
            )
            if difference > 1e-3:
                raise ValueError(f"classifier: held-out logits differ by {difference:.1e}")

    # Serving -------------------------------------------------------------------------------------

    def export(self) -> None:
        with self.phase("Exporting a SavedModel that takes raw strings"):
            from ..saved_model import export

            self.served = Path(
                export(
                    self.folder / "classifier",
                    self.folder / "serving",
                    batch_sizes=(1, 4),
                    max_length=self.sizes.length,
                )
            )
            self.console.print(str(self.served), markup=False, highlight=False)

    def ask_in_fresh_process(self) -> None:
        with self.phase("Asking it in a fresh process, with tensorflow and tensorflow_text alone"):
            chosen = self.rng.permutation(len(self.held_out))[:4]
            asked = [self.held_out[i] for i in chosen]
            done = subprocess.run(
                [sys.executable, "-I", "-c", CLIENT, str(self.served.resolve())],
                input=json.dumps([p.text for p in asked]),
                capture_output=True, text=True, encoding="utf-8",
            )  # fmt: skip
            if done.returncode:
                raise ValueError(f"the served model failed:\n{done.stderr[-2000:]}")
            answers = json.loads(done.stdout.splitlines()[-1])
            table = Table("paragraph", "answer", "probability", "truth", box=box.SIMPLE)
            for paragraph, answer in zip(asked, answers, strict=True):
                style = "green" if answer["label"] == paragraph.chapter else "red"
                table.add_row(
                    escape(paragraph.text[:60]) + "…", f"[{style}]{answer['label']}[/]",
                    f"{answer['probability']:.2f}", paragraph.chapter,
                )  # fmt: skip
                self.summary.served.append(
                    {"paragraph": paragraph.text, "truth": paragraph.chapter, **answer}
                )
            self.console.print(table)
            shifted = np.exp(self.logits[chosen] - self.logits[chosen].max(-1, keepdims=True))
            expected = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
            difference = max(abs(expected - [answer["probability"] for answer in answers]))
            self.summary.differences["served probabilities"] = float(difference)
            if difference > 1e-4:
                raise ValueError(f"served probabilities differ by {difference:.1e} from Keras'")

    # The end -------------------------------------------------------------------------------------

    def draw_curves(self) -> None:
        with self.phase("Drawing the loss curves"):
            self.draw(
                {
                    "masked LM, PyTorch": self.summary.pretraining_loss,
                    "chapters, Keras": self.summary.finetuning_loss,
                }
            )

    def finish(self) -> None:
        loss, accuracy = self.summary.held_out_loss, self.summary.accuracy
        results = [
            ("masked LM, held-out loss", f"{loss['before']:.2f} → {loss['after']:.2f}"),
            (
                "chapter, held-out accuracy",
                f"{accuracy:.1%} of {len(self.held_out)} "
                f"(largest chapter {self.summary.majority:.1%})",
            ),
        ]
        self.print_end(results, ("pretrained", "classifier", "serving", CURVE, SUMMARY))

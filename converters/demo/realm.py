"""REALM on one page: `zoo demo`.

    text -> tokenizer -> inverse cloze task -> pre-training, while a process beside makes the index
    anew -> fine-tuning on questions and answers -> ScaNN index -> the same folder in Keras
         -> a SavedModel that takes a question, asked in a fresh process -> your own question

Every figure that it prints was measured in the same run, on questions that no phase has seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoo import RealmConfig
from zoo.retrieval.bm25 import BM25
from zoo.training.questions import Question

from .. import ask, scores
from .stages import CURVE, SUMMARY, Stages, output_folder

MODEL, SERVING, CORPUS, RUN, RECALL_CURVE = "model", "serving", "corpus", "run", "recall.png"
HELD_OUT = 0.25
LARGE = 1 << 20  # blocks from which a model is neither exported nor opened twice
TOLERANCE = 1e-3  # of scores, between frameworks and in the served model
SAMPLES = (
    "When was the last time anyone was on the moon?",
    "Who wrote He ain't heavy, he's my brother?",
    "How many seasons of The Bastard Executioner are there?",
)

# What a user of the SavedModel runs: none of our packages, and the loader that TF Serving uses.
CLIENT = """
import json, sys, time
for name in ("zoo", "pt_models", "tf_models", "converters", "torch"):
    sys.modules[name] = None  # importing one would fail
import tensorflow as tf, tensorflow_text
graph = tf.compat.v1.saved_model
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    model = graph.loader.load(session, [graph.tag_constants.SERVING], sys.argv[1])
    signature = model.signature_def["serving_default"]
    [question] = [tensor.name for tensor in signature.inputs.values()]
    names = ("answer", "evidence", "score", "block_id")
    wanted = [signature.outputs[name].name for name in names]
    questions = json.load(sys.stdin)
    session.run(wanted, {question: questions[:1]})
    start = time.perf_counter()
    for one in questions:
        session.run(wanted, {question: [one]})
    seconds = (time.perf_counter() - start) / len(questions)
    found = zip(*session.run(wanted, {question: questions}))
print(json.dumps({"seconds": seconds, "answers": [
    {"answer": a.decode(), "evidence": e.decode(), "score": float(s), "block_id": int(b)}
    for a, e, s, b in found
]}))
"""


@dataclass(frozen=True)
class Sizes:
    """How large the model is and how long each phase learns."""

    vocabulary: int = 4000
    hidden: int = 128
    layers: int = 1
    heads: int = 4
    block_pieces: int = 90
    block_length: int = 112
    query_length: int = 40
    # The inverse cloze task.
    cloze_steps: int = 1500
    cloze_batch: int = 64
    cloze_rate: float = 2e-3
    keep_sentence: float = 0.2
    drop_words: float = 0.6
    # Pre-training.
    pretraining_steps: int = 320
    pretraining_batch: int = 8
    pretraining_rate: float = 1e-3
    embedder_rate: float = 0.02
    candidates: int = 4
    refresh_every: int = 80
    # Fine-tuning, first on questions that are made of sentences.
    made_steps: int = 600
    finetuning_steps: int = 100
    finetuning_batch: int = 8
    made_rate: float = 2e-3
    finetuning_rate: float = 5e-4
    searched: int = 10
    read: int = 4


FULL = Sizes()
QUICK = Sizes(
    cloze_steps=160, cloze_batch=48, drop_words=0.0, pretraining_steps=32, refresh_every=8,
    made_steps=40, finetuning_steps=16, finetuning_rate=1e-4,
)  # fmt: skip


@dataclass
class Summary:
    """What a run found out; `summary.json` holds the same."""

    seed: int
    sizes: Sizes
    text: dict[str, int] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    recall: dict[str, dict[str, float]] = field(default_factory=dict)
    refreshes: int = 0
    exact_match: dict[str, float] = field(default_factory=dict)
    f1: dict[str, float] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    served: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run(
    output: str | os.PathLike[str] | None = None,
    quick: bool = False,
    seed: int = 0,
    model: str | os.PathLike[str] | None = None,
    squad: str | os.PathLike[str] | None = None,
    sizes: Sizes | None = None,
) -> Summary:
    """Train REALM until it answers questions, compare both frameworks, export, and ask the result.

    Args:
        output: where the models go: a new or empty folder, or that of an earlier demo. By default
            `demo_output`, or the next free `demo_output-2` ... if that holds something else.
        quick: train shortly, for less than a minute and a half in all.
        seed: of everything random.
        model: folder or repository of a `RealmForOpenQA` with its block records, which is not
            trained any more.
        squad: file with paragraphs and questions, instead of Python's own documentation.
        sizes: other sizes than those of `quick` or its opposite.

    Returns:
        What was measured, as also written to `summary.json`.

    Raises:
        ValueError: the folder holds foreign files, or a check failed: the frameworks differ, or
            the served model answers otherwise than the trained one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides that there is no GPU
    summary = Summary(seed, sizes or (QUICK if quick else FULL))
    demo = _Demo(summary, output_folder(output), Console())
    demo.write_summary()  # from now on the folder is ours
    if model is None:
        demo.read_text(squad)
        demo.train_tokenizer()
        demo.train_inverse_cloze()
        demo.pretrain()
        demo.finetune()
        demo.build_index()
        demo.show_recall()
    else:
        demo.open(model, squad)
    demo.answer_held_out()
    if len(demo.model.block_emb) <= LARGE:
        demo.open_in_keras()
        demo.export()
        demo.ask_in_fresh_process()
    if summary.losses:
        demo.draw_curves()
    demo.finish()
    demo.prompt()
    return summary


class _Demo(Stages):
    """The steps in their order; each leaves what the next ones need."""

    summary: Summary
    questions: list[Question]

    def __init__(self, summary: Summary, folder: Path, console: Console) -> None:
        super().__init__(summary, folder, console)
        self.sizes = summary.sizes

    # The text ------------------------------------------------------------------------------------

    def read_text(self, squad: str | os.PathLike[str] | None) -> None:
        title = "the references that ship with Python" if squad is None else str(squad)
        with self.phase(f"Reading {title}"):
            from zoo.training.questions import contexts, read_questions, split_questions

            from .. import questions

            if squad is None:
                asked, self.documents = questions.python_questions(), questions.python_documents()
            else:
                asked = read_questions(squad)
                self.documents = contexts(asked)
            missing = questions.unanswered(asked, (d.text for d in self.documents))
            asked = [question for question in asked if question not in missing]
            self.training, self.questions = split_questions(asked, HELD_OUT)
            self.summary.text = {
                "documents": len(self.documents),
                "training questions": len(self.training),
                "held-out questions": len(self.questions),
                "questions without an answer in the text": len(missing),
            }
            self.console.print(
                f"{len(self.documents)} sections. {len(self.training)} questions to train on, "
                f"{len(self.questions)} held out"
                + (f", {len(missing)} without an answer in this text left out." if missing else ".")
            )

    def train_tokenizer(self) -> None:
        with self.phase("Training a WordPiece tokenizer, cutting the text into blocks"):
            from zoo.retrieval.splitting import Splitter
            from zoo.training.batches import Questions
            from zoo.training.corpus import BlockCorpus
            from zoo.training.vocabulary import train_tokenizer

            texts = [d.text for d in self.documents] + [q.text for q in self.training]
            self.tokenizer = train_tokenizer(texts, self.folder / MODEL, self.sizes.vocabulary)
            blocks = list(Splitter(self.tokenizer, self.sizes.block_pieces)(self.documents))
            self.corpus = BlockCorpus.build(
                blocks, self.tokenizer, self.folder / CORPUS, spans="rules"
            )
            self.asked = Questions(
                self.questions, self.tokenizer, 1, query_length=self.sizes.query_length,
                answer_length=1 << 20,  # however long they are, they count
            )  # fmt: skip
            self.words = BM25(f"{block.title} {block.text}" for block in blocks)
            self.summary.text |= {"blocks": len(blocks), "names": len(self.corpus.spans)}
            self.note_recall("BM25", [question.text for question in self.questions], self.words)
            self.console.print(
                f"{len(self.tokenizer)} tokens; {len(blocks)} blocks of "
                f"{self.corpus.lengths.mean():.0f} tokens on average, with "
                f"{len(self.corpus.spans)} names and dates to be hidden"
            )

    # Retrieval -----------------------------------------------------------------------------------

    def note_recall(self, name: str, queries: Any, index: Any) -> None:
        """Measures how often an answer is in the first blocks, and says so."""
        from zoo.training.questions import retrieval_recall

        found = retrieval_recall(self.asked, queries, index, self.corpus, scores.RECALL_AT)
        self.summary.recall[name] = {str(k): 100 * share for k, share in found.items()}
        shown = ", ".join(f"{100 * share:.1f}% in the first {k}" for k, share in found.items())
        self.console.print(f"{name}: an answer is {shown}")

    def note_embedder(self, name: str) -> None:
        """As `note_recall`, by comparing with every block."""
        from pt_models.realm_training import embed_corpus, embed_questions
        from zoo.retrieval import build_index

        vectors = embed_corpus(self.embedder, self.corpus, self.sizes.block_length)
        queries = embed_questions(self.embedder, self.asked)
        self.note_recall(name, queries, build_index(vectors, kind="exact"))

    def train_inverse_cloze(self) -> None:
        with self.phase("Inverse cloze task, PyTorch: which block is this sentence from?"):
            import torch

            from pt_models import RealmEmbedder, RealmKnowledgeAugEncoder
            from pt_models.realm_training import start_flat, train_inverse_cloze

            sizes = self.sizes
            # So small a model gains little from a second thread, and the other core has the
            # index to make.
            torch.set_num_threads(1)
            torch.manual_seed(self.summary.seed)
            config = RealmConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=sizes.hidden,
                retriever_proj_size=sizes.hidden,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                num_candidates=sizes.candidates,
                intermediate_size=4 * sizes.hidden,
                hidden_dropout_prob=0.0,  # the phases are too short for it
                attention_probs_dropout_prob=0.0,
                max_position_embeddings=sizes.query_length + sizes.block_length + 8,
                initializer_range=round(sizes.hidden**-0.5, 4),
                span_hidden_size=sizes.hidden,
                reader_beam_size=sizes.read,
                reader_seq_len=sizes.query_length + sizes.block_length,
                num_block_records=len(self.corpus),
                searcher_beam_size=sizes.searched,
                pad_token_id=self.tokenizer.pad_token_id,
                bos_token_id=self.tokenizer.cls_token_id,
                eos_token_id=self.tokenizer.sep_token_id,
            )
            self.embedder = RealmEmbedder(config)
            self.encoder = RealmKnowledgeAugEncoder(config)
            start_flat(self.embedder, self.encoder)
            self.console.print(f"{self.embedder.num_parameters():,} weights in the embedder")
            self.note_embedder("untrained")
            with self.reported("inverse cloze", sizes.cloze_steps) as report:
                train_inverse_cloze(
                    self.embedder, self.corpus, sizes.cloze_steps, batch_size=sizes.cloze_batch,
                    query_length=sizes.query_length, block_length=sizes.block_length,
                    keep=sizes.keep_sentence, drop=sizes.drop_words,
                    learning_rate=sizes.cloze_rate, beta_2=0.98, seed=self.summary.seed,
                    report=report,
                )  # fmt: skip
            self.note_embedder("inverse cloze")

    def pretrain(self) -> None:
        with self.phase("Pre-training, PyTorch: names are hidden, retrieved blocks help"):
            from pt_models.realm_training import pretrain

            sizes = self.sizes
            shutil.rmtree(self.folder / RUN, ignore_errors=True)  # of an earlier demo
            # As the papers start both from one BERT.
            self.encoder.realm.load_state_dict(self.embedder.realm.state_dict())
            with self.reported("pre-training", sizes.pretraining_steps) as report:
                pretrain(
                    self.embedder, self.encoder, self.corpus, self.tokenizer,
                    sizes.pretraining_steps, refresh_every=sizes.refresh_every,
                    batch_size=sizes.pretraining_batch, query_length=sizes.query_length,
                    block_length=sizes.block_length,
                    joint_length=sizes.query_length + sizes.block_length,
                    worker={"threads": 1}, embedder_rate=sizes.embedder_rate,
                    learning_rate=sizes.pretraining_rate, beta_2=0.98, out=self.folder / RUN,
                    seed=self.summary.seed, report=report,
                )  # fmt: skip
            # The first index is made before training, the others while it goes on.
            self.summary.refreshes = (sizes.pretraining_steps - 1) // sizes.refresh_every - 1
            self.console.print(f"{self.summary.refreshes} times a new index was taken up")
            self.note_embedder("pre-training")

    def finetune(self) -> None:
        with self.phase("Fine-tuning, PyTorch, on questions and answers alone"):
            from pt_models.realm_training import assemble, embed_questions, finetune
            from zoo.retrieval import build_index
            from zoo.training.questions import made_questions

            sizes = self.sizes
            self.model = assemble(
                self.embedder, self.encoder, self.corpus, self.tokenizer,
                block_length=sizes.block_length,
            )  # fmt: skip
            made = [q for _, q in made_questions(self.corpus, sizes.query_length)]
            for name, given, steps, rate in (
                ("questions made of sentences", made, sizes.made_steps, sizes.made_rate),
                ("questions", self.training, sizes.finetuning_steps, sizes.finetuning_rate),
            ):
                self.console.print(f"{len(given)} {name}")
                # The reader learns to read before the embedder listens to what it says.
                self.model.embedder.requires_grad_(given is not made)
                with self.reported(name, steps) as report:
                    finetune(
                        self.model, given, self.tokenizer, steps,
                        batch_size=sizes.finetuning_batch, query_length=sizes.query_length,
                        learning_rate=rate, beta_2=0.98, seed=self.summary.seed, report=report,
                    )  # fmt: skip
            self.queries = embed_questions(self.model.embedder, self.asked)
            self.note_recall(
                "fine-tuning", self.queries, build_index(self.model.block_emb, kind="exact")
            )

    @contextmanager
    def reported(self, name: str, steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A bar for a phase, whose losses are kept."""
        losses = self.summary.losses.setdefault(name, [])
        with self.progress(steps) as update:

            def report(entry: dict[str, Any]) -> None:
                losses.append(float(entry["loss"]))
                update(losses[-1])

            yield report

    def build_index(self) -> None:
        with self.phase("Building the index, writing all that answers questions"):
            from zoo.retrieval import build_index
            from zoo.retrieval.scann import installed

            folder = self.folder / MODEL
            self.model.save_pretrained(folder)
            if self.model.retriever is not None:
                self.model.retriever.save_pretrained(folder)
            kind = "scann" if installed() else "exact"
            index = build_index(
                self.model.block_emb, kind=kind, queries=self.queries, seed=self.summary.seed
            )
            index.save(folder / "index")
            self.summary.index = {"kind": kind, "vectors": len(index)}
            self.note_recall(f"fine-tuning, {kind} index", self.queries, index)
            self.model = type(self.model).from_pretrained(folder)

    def show_recall(self) -> None:
        ks = [str(k) for k in scores.RECALL_AT]
        table = Table("retrieval after", *(f"recall@{k}" for k in ks), box=box.SIMPLE)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, found in self.summary.recall.items():
            table.add_row(name, *(f"{found[k]:.1f}%" for k in ks))
        self.console.print(table)

    # A model that is trained already -------------------------------------------------------------

    def open(self, model: str | os.PathLike[str], squad: str | os.PathLike[str] | None) -> None:
        with self.phase(f"Opening {model}"):
            from zoo.training.questions import read_questions, split_questions

            from .. import questions

            self.model = ask.open_model(model)
            retriever: Any = self.model.retriever
            records = retriever.block_records
            self.questions = [Question(text, ()) for text in SAMPLES]
            if squad is not None:
                self.questions = read_questions(squad)
            elif len(records) <= LARGE:
                texts = retriever.texts(np.arange(len(records)))
                asked = questions.python_questions()
                missing = questions.unanswered(asked, texts)
                if len(missing) < len(asked) // 2:  # it is about Python
                    asked = [question for question in asked if question not in missing]
                    self.questions = split_questions(asked, HELD_OUT)[1]
            self.summary.text = {"blocks": len(records)}
            self.console.print(f"{self.model.num_parameters():,} weights, {len(records):,} blocks")
            if len(records) <= LARGE:
                folder = self.folder / MODEL
                self.model.save_pretrained(folder)
                retriever.save_pretrained(folder)
                if self.model.index is not None:
                    self.model.index.save(folder / "index")

    # Answers -------------------------------------------------------------------------------------

    def answer_held_out(self) -> None:
        with self.phase("Answering questions that were held out, PyTorch"):
            texts = [question.text for question in self.questions]
            self.answers = self.model.answer(texts, n_best=1)
            if any(question.answers for question in self.questions):
                self.note_scores("REALM", self.answers)
                found = ask.by_words(self.model, texts)
                self.note_scores("BM25's blocks, the same reader", found)
            right = [
                i for i, question in enumerate(self.questions)
                if scores.answer_scores(_texts(self.answers[i : i + 1]), [question])[0]
            ]  # fmt: skip
            for i in (right + [i for i in range(len(texts)) if i not in right])[:3]:
                ask.print_answers(texts[i], self.answers[i], self.console)

    def note_scores(self, name: str, answers: Sequence[Sequence[Any]]) -> None:
        exact, f1 = scores.answer_scores(_texts(answers), self.questions)
        self.summary.exact_match[name], self.summary.f1[name] = exact, f1
        self.console.print(
            f"{name}: exact match {exact:.1f}%, F1 {f1:.1f} on {len(self.questions)} questions"
        )

    def open_in_keras(self) -> None:
        with self.phase(f"Opening {MODEL}/ in Keras"):
            from tf_models import TFRealmForOpenQA

            self.compare(MODEL)
            model = TFRealmForOpenQA.from_pretrained(self.folder / MODEL)
            texts = [question.text for question in self.questions[:32]]
            theirs = model.answer(texts, n_best=1)
            self.assert_same("Keras", self.answers[: len(texts)], theirs)

    def assert_same(
        self, name: str, ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]
    ) -> None:
        """Compares answers and their scores.

        Raises:
            ValueError: they differ by more than rounding can explain.
        """
        pairs = [(a[0], b[0]) for a, b in zip(ours, theirs, strict=True) if a and b]
        worst = max((abs(a.score - b.score) for a, b in pairs), default=0.0)
        # Of two spans with the same score either may come first.
        same = sum(a.text == b.text or abs(a.score - b.score) < TOLERANCE for a, b in pairs)
        self.summary.differences[f"{name}, scores of answers"] = worst
        self.console.print(
            f"{same} of {len(ours)} answers are PyTorch's, scores within {worst:.1e}"
        )
        if worst > TOLERANCE or same < len(ours):
            raise ValueError(f"{name} answers otherwise than PyTorch: scores differ by {worst:.1e}")

    def export(self) -> None:
        with self.phase("Exporting a SavedModel that takes a question"):
            from ..saved_model import export

            self.served = Path(
                export(self.folder / MODEL, self.folder / SERVING, batch_sizes=(1,), top_k=3)
            )
            self.console.print(str(self.served), markup=False, highlight=False)

    def ask_in_fresh_process(self) -> None:
        with self.phase("Asking it in a fresh process, with tensorflow and tensorflow_text alone"):
            from zoo.retrieval.answers import Answer

            texts = [question.text for question in self.questions[:8]]
            done = subprocess.run(
                [sys.executable, "-I", "-c", CLIENT, str(self.served.resolve())],
                input=json.dumps(texts), capture_output=True, text=True, encoding="utf-8",
            )  # fmt: skip
            if done.returncode:
                raise ValueError(f"the served model failed:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            table = Table("question", "answer", "score", "evidence", box=box.SIMPLE)
            for text, answer in zip(texts, found["answers"], strict=True):
                table.add_row(
                    escape(text[:60]), escape(answer["answer"]), f"{answer['score']:.2f}",
                    escape(" ".join(answer["evidence"].split())[:50]) + "…",
                )  # fmt: skip
                self.summary.served.append({"question": text, **answer})
            self.console.print(table)
            self.console.print(f"{1000 * found['seconds']:.1f} ms for a question")
            theirs = [
                [Answer(a["answer"], a["score"], 0, 0, a["block_id"], a["evidence"], 0, 0)]
                for a in found["answers"]
            ]
            self.assert_same("served model", self.answers[: len(texts)], theirs)

    # The end -------------------------------------------------------------------------------------

    def draw_curves(self) -> None:
        with self.phase("Drawing the curves"):
            self.draw(self.summary.losses)
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            figure = Figure(figsize=(6, 3.5), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots()
            found = {n: r for n, r in self.summary.recall.items() if n != "BM25"}
            for k, color in zip(
                scores.RECALL_AT, ("tab:blue", "tab:orange", "tab:green"), strict=True
            ):
                axes.plot(
                    list(found), [r[str(k)] for r in found.values()], "o-", color=color,
                    label=f"recall@{k}",
                )  # fmt: skip
                axes.axhline(self.summary.recall["BM25"][str(k)], color=color, linestyle=":")
            axes.set(ylabel="% of held-out questions", title="dotted: BM25", ylim=(0, 100))
            axes.tick_params(axis="x", rotation=20)
            axes.grid(alpha=0.3)
            axes.legend()
            figure.savefig(self.folder / RECALL_CURVE, dpi=120)

    def finish(self) -> None:
        results = [
            (f"recall@1 / 5 / 20, {name}", " / ".join(f"{x:.1f}%" for x in found.values()))
            for name, found in self.summary.recall.items()
        ]
        results += [
            (f"exact match / F1, {name}", f"{exact:.1f}% / {self.summary.f1[name]:.1f}")
            for name, exact in self.summary.exact_match.items()
        ]
        written = (MODEL, SERVING, CURVE, RECALL_CURVE, SUMMARY)
        self.print_end(results, [name for name in written if (self.folder / name).exists()])

    def prompt(self) -> None:
        """Asks for questions where somebody sits at a terminal."""
        if sys.stdin is not None and sys.stdin.isatty() and self.console.is_terminal:
            ask.prompt(self.model, 3, self.console)


def _texts(answers: Sequence[Sequence[Any]]) -> list[str]:
    return [found[0].text if found else "" for found in answers]

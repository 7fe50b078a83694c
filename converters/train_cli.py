"""`zoo train`: models are trained on one's own text and questions, in either framework."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train models on your own text and questions.", no_args_is_help=True)
realm = typer.Typer(
    help="REALM, in the phases of the papers: tokenizer, ict, pretrain, finetune.",
    no_args_is_help=True,
)
app.add_typer(realm, name="realm")

RECALL_AT = (1, 5, 20)
HELD_OUT = 0.2


class Framework(StrEnum):
    pt = "pt"
    tf = "tf"


class Spans(StrEnum):
    auto = "auto"
    rules = "rules"
    spacy = "spacy"


class RagKind(StrEnum):
    token = "token"
    sequence = "sequence"


class Kind(StrEnum):
    auto = "auto"
    exact = "exact"
    scann = "scann"


CorpusPath = Annotated[
    Path, typer.Option("--corpus", help="Documents, a folder of zoo index, or a corpus of blocks.")
]
Out = Annotated[Path, typer.Option(help="Folder for the result and, in run/, what leads to it.")]
InFramework = Annotated[Framework, typer.Option(help="In which to train.")]
Steps = Annotated[int, typer.Option(min=1, help="Updates in all.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Of all processes together.")]
Rate = Annotated[float, typer.Option(help="The highest learning rate.")]
WarmUp = Annotated[float, typer.Option(help="Steps with a rising rate; below 1 a share of all.")]
Decay = Annotated[float, typer.Option(help="Weight decay of matrices.")]
Clip = Annotated[float, typer.Option(help="Largest norm of the gradients; 0 clips nothing.")]
Query = Annotated[int, typer.Option(min=8, help="Tokens of a sentence or question.")]
Block = Annotated[int, typer.Option(min=8, help="Tokens of a block with its title.")]
FindSpans = Annotated[Spans, typer.Option(help="How names and dates are found.")]
Questions = Annotated[
    list[Path] | None,
    typer.Option(help="Files of questions in the layout of SQuAD or NQ-open."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]
Every = Annotated[int | None, typer.Option(min=1, help="Steps between two checkpoints.")]
Keep = Annotated[int, typer.Option(min=1, help="Checkpoints that are kept.")]
Seed = Annotated[int, typer.Option(help="Of batches, dropout and new weights.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda:1; of PyTorch.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of each process.")]
ReportEvery = Annotated[int | None, typer.Option(min=1, help="Steps between two lines.")]
Fields = Annotated[
    str | None,
    typer.Option(help="Of a new model's configuration: hidden_size=128,num_hidden_layers=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON at the end.")]


@realm.command()
def tokenizer(
    corpus: Annotated[Path, typer.Option(help="Documents in any known format.")],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(min=6, help="The most tokens.")] = 30522,
    cased: Annotated[bool, typer.Option("--cased", help="Keep capitals.")] = False,
) -> None:
    """Learn a WordPiece vocabulary of one's own text."""
    from zoo.retrieval.readers import Corpus
    from zoo.training.vocabulary import train_tokenizer

    texts = (part for document in Corpus(corpus) for part in (document.title, document.text))
    made = train_tokenizer(texts, out, vocab_size, do_lower_case=not cased)
    typer.echo(f"{out}: {len(made)} tokens")


@realm.command()
def ict(
    corpus: CorpusPath,
    model: Annotated[
        Path, typer.Option(help="Checkpoint to start from; a tokenizer alone makes a new model.")
    ],
    out: Out,
    steps: Steps = 10000,
    batch_size: BatchSize = 64,
    learning_rate: Rate = 1e-4,
    keep_sentence: Annotated[
        float, typer.Option(min=0, max=1, help="How often a sentence stays in its block.")
    ] = 0.1,
    fields: Fields = None,
    query_length: Query = 64,
    block_length: Block = 288,
    questions: Questions = None,
    framework: InFramework = Framework.pt,
    spans: FindSpans = Spans.auto,
    warm_up: WarmUp = 0.1,
    weight_decay: Decay = 0.01,
    clip: Clip = 1.0,
    checkpoint_every: Every = None,
    keep: Keep = 2,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    report_every: ReportEvery = None,
    as_json: Json = False,
) -> None:
    """Train an embedder by the inverse cloze task: which block is this sentence from?"""
    with _working(framework, threads, out) as work:
        work.open(corpus, model, block_length, spans)
        embedder = work.model("RealmEmbedder", model, device, seed=seed, fields=fields)
        asked = work.questions(questions, query_length)
        recall = {"before": work.recall("before", embedder, asked, block_length)}
        watch = _Watch("ict", steps, report_every, work.leads)
        work.run.train_inverse_cloze(
            embedder, work.corpus, steps, batch_size=batch_size, query_length=query_length,
            block_length=block_length, keep=keep_sentence, tokenizer=work.tokenizer,
            report=watch, learning_rate=learning_rate,
            **_plan(warm_up, weight_decay, clip, checkpoint_every, keep, seed),
            **work.run_options(resume),
        )  # fmt: skip
        recall["after"] = work.recall("after", embedder, asked, block_length)
        work.save(embedder, out)
        work.finish(watch, {"recall": recall}, as_json)


@realm.command()
def pretrain(
    corpus: CorpusPath,
    model: Annotated[Path, typer.Option(help="Embedder to start from, as ict makes it.")],
    out: Out,
    encoder: Annotated[
        Path | None, typer.Option(help="Encoder to start from; by default the embedder's BERT.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Where sentences are from, if not the corpus.")
    ] = None,
    steps: Steps = 10000,
    batch_size: BatchSize = 32,
    learning_rate: Rate = 3e-5,
    embedder_rate: Annotated[
        float, typer.Option(min=0, help="What the embedder's learning rate is multiplied with.")
    ] = 1.0,
    fixed_embedder: Annotated[
        bool, typer.Option("--fixed-embedder", help="Train the encoder only.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(min=2, help="Blocks of a sentence, the empty one included.")
    ] = None,
    refresh_every: Annotated[
        int, typer.Option(min=1, help="Steps between two versions of the index.")
    ] = 500,
    index: Annotated[Kind, typer.Option(help="Kind of the index.")] = Kind.auto,
    query_length: Query = 64,
    block_length: Block = 288,
    joint_length: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a sentence with a block.")
    ] = None,
    questions: Questions = None,
    framework: InFramework = Framework.pt,
    spans: FindSpans = Spans.auto,
    warm_up: WarmUp = 0.1,
    weight_decay: Decay = 0.01,
    clip: Clip = 1.0,
    checkpoint_every: Every = None,
    keep: Keep = 2,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    worker_threads: Annotated[int, typer.Option(min=1, help="Of the process beside.")] = 1,
    worker_device: Annotated[str | None, typer.Option(help="Of the process beside.")] = None,
    report_every: ReportEvery = None,
    as_json: Json = False,
) -> None:
    """Train embedder and encoder to fill in names and dates, while a process beside makes the
    index anew."""
    with _working(framework, threads, out) as work:
        work.open(corpus, model, block_length, spans)
        embedder = work.model("RealmEmbedder", model, device, seed=seed)
        reader = work.model("RealmKnowledgeAugEncoder", encoder or model, device, seed=seed)
        texts = None if text is None else work.open_corpus(text, "text", block_length, spans)
        asked = work.questions(questions, query_length)
        recall = {"before": work.recall("before", embedder, asked, block_length)}
        watch = _Watch("pretrain", steps, report_every, work.leads)
        work.run.pretrain(
            embedder, reader, work.corpus, work.tokenizer, steps, texts=texts,
            refresh_every=refresh_every, batch_size=batch_size, num_candidates=candidates,
            query_length=query_length, block_length=block_length, joint_length=joint_length,
            index={"kind": index.value}, train_embedder=not fixed_embedder,
            worker={"threads": worker_threads, "device": worker_device},
            embedder_rate=embedder_rate, report=watch, learning_rate=learning_rate,
            **_plan(warm_up, weight_decay, clip, checkpoint_every, keep, seed),
            **work.run_options(resume),
        )  # fmt: skip
        recall["after"] = work.recall("after", embedder, asked, block_length)
        work.save(embedder, out / "embedder")
        work.save(reader, out / "encoder")
        work.finish(watch, {"recall": recall}, as_json)


@realm.command()
def finetune(
    corpus: CorpusPath,
    model: Annotated[
        Path, typer.Option(help="What pretrain made, or a model that answers questions.")
    ],
    out: Out,
    questions: Annotated[
        list[Path], typer.Option(help="Files of questions in the layout of SQuAD or NQ-open.")
    ],
    test_questions: Annotated[
        list[Path] | None, typer.Option(help="To test with; by default some of the others.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the questions to test with.")
    ] = HELD_OUT,
    steps: Steps = 10000,
    batch_size: BatchSize = 8,
    learning_rate: Rate = 1e-5,
    searched: Annotated[
        int | None, typer.Option(min=1, help="Blocks that are retrieved in training.")
    ] = None,
    read: Annotated[int | None, typer.Option(min=1, help="Blocks that are read.")] = None,
    index: Annotated[Kind, typer.Option(help="Kind of the index that is saved.")] = Kind.auto,
    query_length: Query = 64,
    block_length: Block = 288,
    framework: InFramework = Framework.pt,
    spans: FindSpans = Spans.auto,
    warm_up: WarmUp = 0.1,
    weight_decay: Decay = 0.01,
    clip: Clip = 1.0,
    checkpoint_every: Every = None,
    keep: Keep = 2,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    report_every: ReportEvery = None,
    as_json: Json = False,
) -> None:
    """Train a model on questions and answers alone; OUT is all that `zoo ask` needs."""
    from zoo.training.questions import read_questions, split_questions

    asked = read_questions(*questions)
    if test_questions:
        training, testing = asked, read_questions(*test_questions)
    elif held_out:
        training, testing = split_questions(asked, held_out)
    else:
        training, testing = asked, []
    sizes = {"searcher_beam_size": searched, "reader_beam_size": read}
    config: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    with _working(framework, threads, out) as work:
        whole = not (model / "embedder").is_dir()
        place = model if whole else model / "embedder"
        work.open(corpus, place, block_length, spans)
        if whole:
            answering = work.model("RealmForOpenQA", model, device, seed=seed, **config)
            if answering.config.num_block_records != len(work.corpus):
                raise ValueError(
                    f"{corpus}: {len(work.corpus)} blocks, but {model} has the vectors of "
                    f"{answering.config.num_block_records}"
                )
        else:
            embedder = work.model("RealmEmbedder", place, device, seed=seed)
            reader = work.model("RealmKnowledgeAugEncoder", model / "encoder", device, seed=seed)
            answering = work.run.assemble(
                embedder, reader, work.corpus, work.tokenizer, block_length=block_length, **config
            )
        tested = work.questions(testing, query_length)
        recall = {"before": work.recall("before", answering, tested, block_length)}
        watch = _Watch("finetune", steps, report_every, work.leads)
        work.run.finetune(
            answering, training, work.tokenizer, steps, corpus=work.corpus, batch_size=batch_size,
            query_length=query_length, report=watch, learning_rate=learning_rate,
            **_plan(warm_up, weight_decay, clip, checkpoint_every, keep, seed),
            **work.run_options(resume),
        )  # fmt: skip
        recall["after"] = work.recall("after", answering, tested, block_length)
        scores = work.score(answering, testing)
        work.save_answering(answering, index.value)
        work.finish(watch, {"recall": recall, **scores}, as_json)


@app.command()
def rag(
    out: Out,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Documents, a folder of zoo index, or questions in SQuAD's layout, whose "
            "paragraphs are taken; by default the references that ship with Python."
        ),
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            help="Files of questions in the layout of SQuAD or NQ-open; by default those that "
            "ship with the project."
        ),
    ] = None,
    test_questions: Annotated[
        list[Path] | None, typer.Option(help="To test with; by default some of the others.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the questions to test with.")
    ] = HELD_OUT,
    model: Annotated[
        Path | None, typer.Option(help="RAG folder to start from; without any, new models.")
    ] = None,
    question_encoder: Annotated[
        Path | None, typer.Option(help="DPR checkpoint to start from.")
    ] = None,
    context_encoder: Annotated[
        Path | None, typer.Option(help="DPR checkpoint to start from.")
    ] = None,
    generator: Annotated[
        Path | None, typer.Option(help="BART or T5 checkpoint to start from.")
    ] = None,
    kind: Annotated[
        RagKind | None, typer.Option(help="RAG-token or RAG-sequence; by default token.")
    ] = None,
    vocab_size: Annotated[
        int, typer.Option(min=6, help="Tokens of the encoders' new tokenizer.")
    ] = 8000,
    generator_vocab_size: Annotated[
        int, typer.Option(min=6, help="Tokens of the generator's new tokenizer.")
    ] = 2000,
    fields: Fields = None,
    generator_fields: Annotated[
        str | None, typer.Option(help="Of a new generator: d_model=128,encoder_layers=2.")
    ] = None,
    cloze_steps: Annotated[
        int | None, typer.Option(min=0, help="Of the inverse cloze task; 600 for new models.")
    ] = None,
    pair_steps: Annotated[
        int | None, typer.Option(min=0, help="On questions with passages; 200 for new models.")
    ] = None,
    denoising_steps: Annotated[
        int, typer.Option(min=0, help="Of the generator on sentences with hidden words.")
    ] = 0,
    gap_steps: Annotated[
        int | None,
        typer.Option(min=0, help="On questions made of the passages; 1600 for new models."),
    ] = None,
    reading_steps: Annotated[
        int | None, typer.Option(min=0, help="On questions and passages; 400 for new models.")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="End to end.")] = 200,
    encoder_rate: Annotated[float, typer.Option(help="Learning rate of the encoders alone.")] = (
        2e-3
    ),
    reading_rate: Annotated[float, typer.Option(help="Learning rate of the generator alone.")] = (
        2e-3
    ),
    learning_rate: Annotated[float, typer.Option(help="Learning rate end to end.")] = 1e-4,
    encoder_batch: Annotated[int, typer.Option(min=2, help="Of the encoders alone.")] = 64,
    reading_batch: Annotated[int, typer.Option(min=1, help="Of the generator alone.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="End to end.")] = 8,
    n_docs: Annotated[int, typer.Option(min=1, help="Passages of each question.")] = 5,
    train_context_encoder: Annotated[
        bool,
        typer.Option(
            "--train-context-encoder",
            help="End to end too, while a process beside makes the index anew.",
        ),
    ] = False,
    refresh_every: Annotated[
        int, typer.Option(min=1, help="Steps between two versions of the index.")
    ] = 100,
    query_length: Query = 40,
    block_length: Block = 80,
    framework: InFramework = Framework.pt,
    warm_up: WarmUp = 0.1,
    weight_decay: Decay = 0.01,
    clip: Clip = 1.0,
    checkpoint_every: Every = None,
    keep: Keep = 2,
    resume: Resume = False,
    seed: Seed = 0,
    device: Device = None,
    threads: Threads = None,
    report_every: ReportEvery = None,
    as_json: Json = False,
) -> None:
    """Train RAG: encoders, then generator, then all end to end; OUT is all that answers."""
    from . import rag_training
    from .scores import scores_as_json

    start = rag_training.Start(question_encoder, context_encoder, generator, model)
    training, testing = rag_training.questions_of(questions, test_questions, held_out)
    plan = _plan(warm_up, weight_decay, clip, checkpoint_every, keep, seed)
    lengths = {"query_length": query_length, "block_length": block_length}
    new = {"cloze": 600, "pairs": 200, "gaps": 1600, "reading": 400} if start.is_new else {}
    wanted = {
        "cloze": cloze_steps, "pairs": pair_steps, "denoising": denoising_steps,
        "gaps": gap_steps, "reading": reading_steps,
    }  # fmt: skip
    phases = {n: new.get(n, 0) if count is None else count for n, count in wanted.items()}
    phases["rag"] = steps
    watches = {}
    with _working(framework, threads, out) as group:
        work = rag_training.Work(
            framework.value, out, start, kind, group.leads, lengths, seed, device
        )
        work.read(corpus, training, vocab_size, generator_vocab_size)
        work.open(fields, generator_fields, n_docs)
        found = work.examples(training) if phases["pairs"] or phases["reading"] else []

        def options(name: str) -> dict[str, Any]:
            """Of a phase: its checkpoints, its lines, its plan."""
            watches[name] = _Watch(name, phases[name], report_every, work.leads)
            place = out / "run" / name
            return {"report": watches[name], **plan, **_where(place, resume, work.leads)}

        if phases["cloze"]:
            work.run.train_inverse_cloze(
                work.context_encoder, work.corpus, phases["cloze"], batch_size=encoder_batch,
                keep=0.5, drop=0.8, learning_rate=encoder_rate, beta_2=0.98, **lengths,
                **options("cloze"),
            )  # fmt: skip
            work.run.copy_encoder(work.context_encoder, work.question_encoder)
        if phases["pairs"]:
            work.run.train_pairs(
                work.question_encoder, work.context_encoder, found, work.corpus,
                work.tokenizer.question_encoder, phases["pairs"],
                batch_size=min(encoder_batch, len(found)), cloze=2, keep=0.5, drop=0.8,
                learning_rate=encoder_rate / 2, beta_2=0.98, **lengths, **options("pairs"),
            )  # fmt: skip
        if phases["denoising"]:
            work.run.train_denoising(
                work.generator, work.corpus, work.joiner(), phases["denoising"],
                batch_size=reading_batch, learning_rate=reading_rate, beta_2=0.98,
                **options("denoising"),
            )  # fmt: skip
        if phases["gaps"]:
            work.run.train_gaps(
                work.generator, work.corpus, work.joiner(), phases["gaps"],
                batch_size=reading_batch, learning_rate=reading_rate, beta_2=0.98,
                copying=phases["gaps"] // 16 if start.is_new else 0, spoil=phases["gaps"] // 4,
                **options("gaps"),
            )  # fmt: skip
        if phases["reading"]:
            work.run.train_reader(
                work.generator, found, work.joiner(), phases["reading"], corpus=work.corpus,
                gaps=3 if start.is_new else 0, batch_size=reading_batch,
                learning_rate=reading_rate / 2, beta_2=0.98, **options("reading"),
            )  # fmt: skip
        work.index()
        results = {"before": work.score("before training end to end", testing)}
        if steps:
            encoded: dict[str, Any] = {}
            if train_context_encoder:
                encoded = {
                    "context_encoder": work.context_encoder, "corpus": work.corpus,
                    "tokenizer": work.tokenizer.question_encoder, "refresh_every": refresh_every,
                    "block_length": block_length,
                }  # fmt: skip
            work.run.finetune(
                work.model, training, steps, batch_size=batch_size, query_length=query_length,
                learning_rate=learning_rate, beta_2=0.98, **encoded, **options("rag"),
            )  # fmt: skip
            if train_context_encoder:
                work.index()
            results["after"] = work.score("after it", testing)
        work.save()
        if work.leads and not as_json:
            typer.echo(f"written: {out}")
        elif work.leads:
            scores = {n: s and scores_as_json(s) for n, s in results.items()}
            losses = {name: watch.last.get("loss") for name, watch in watches.items()}
            summary = {"out": str(out), "steps": phases, "losses": losses, **scores}
            typer.echo(json.dumps(summary, indent=2))


def _where(folder: Path, resume: bool, leads: bool) -> dict[str, Any]:
    """Where a run is, and whether it goes on."""
    from zoo.training.state import checkpoints

    if resume and not checkpoints(folder) and leads:
        typer.echo(f"{folder}: no checkpoint yet, training begins anew", err=True)
    return {"out": folder, "resume": resume and bool(checkpoints(folder))}


class _Work:
    """What the phases share: the framework's functions, corpus, tokenizer, folders.

    Args:
        framework: in which to train.
        out: folder of the result.
        leads: whether this process of a group writes and reports.
    """

    def __init__(self, framework: Framework, out: Path, leads: bool):
        self.framework, self.out, self.leads = framework, out, leads
        package = "pt_models" if framework is Framework.pt else "tf_models"
        self.run = importlib.import_module(f"{package}.realm_training")
        self._models = importlib.import_module(package)

    def open(self, corpus: Path, model: Path, block_length: int, spans: Spans) -> None:
        """Opens the tokenizer of a checkpoint, and the corpus, which is made if need be."""
        from zoo.tokenizers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.corpus = self.open_corpus(corpus, "corpus", block_length, spans)

    def open_corpus(self, path: Path, name: str, block_length: int, spans: Spans) -> Any:
        """The corpus of a path; it is kept in the run's folder."""
        from zoo.training.corpus import SETTINGS, corpus_of

        folder = self.out / "run" / name
        while not self.leads and not any((x / SETTINGS).exists() for x in (path, folder)):
            time.sleep(0.1)  # the first process makes it
        # Some of the tokens are the title's.
        length = block_length * 7 // 8
        found = corpus_of(path, self.tokenizer, folder, length=length, spans=spans.value)
        if self.leads:
            sentences, names = len(found.sentences), len(found.spans)
            shown = f"{len(found):,} blocks, {sentences:,} sentences, {names:,} names and dates"
            typer.echo(f"{path}: {shown}", err=True)
        return found

    def model(
        self,
        name: str,
        place: Path,
        device: str | None,
        *,
        seed: int,
        fields: str | None = None,
        **config: Any,
    ) -> Any:
        """A model of a checkpoint, or a new one where there is a tokenizer only."""
        from zoo.checkpoint import CheckpointError
        from zoo.configs import RealmConfig
        from zoo.pretrained import find_weights

        torch_is_used = self.framework is Framework.pt
        if device is not None and not torch_is_used:
            raise ValueError("--device: of PyTorch; TensorFlow takes the first that it sees")
        model_class = getattr(self._models, name if torch_is_used else f"TF{name}")
        self._seed(seed)
        try:
            find_weights(place)
        except CheckpointError:
            if fields is None:
                raise ValueError(
                    f"{place}: no weights; --fields says how large a new model is"
                ) from None
            model = model_class(RealmConfig(**_new_fields(fields, self.tokenizer)))
            self.run.start_flat(model)
        else:
            if fields is not None:
                raise ValueError(f"--fields: of a new model, but {place} has weights")
            model = model_class.from_pretrained(place, **config)
        return model.to(device) if torch_is_used else model

    def _seed(self, seed: int) -> None:
        if self.framework is Framework.pt:
            import torch

            torch.manual_seed(seed)
        else:
            import keras

            keras.utils.set_random_seed(seed)

    def run_options(self, resume: bool) -> dict[str, Any]:
        """Where the run is, and whether it goes on."""
        return _where(self.out / "run", resume, self.leads)

    def questions(self, given: Any, query_length: int) -> Any:
        """Questions as token ids, from files or read already; None without any."""
        from zoo.training.batches import Questions
        from zoo.training.questions import read_questions

        if not given or not self.leads:
            return None
        asked = read_questions(*given) if isinstance(given[0], Path) else given
        return Questions(asked, self.tokenizer, 1, query_length=query_length, answer_length=32)

    def recall(
        self, when: str, model: Any, asked: Any, block_length: int
    ) -> dict[int, float] | None:
        """The share of questions with an answer in the blocks that are found first."""
        from zoo.retrieval import build_index
        from zoo.training.questions import retrieval_recall

        if asked is None:
            return None
        if hasattr(model, "block_emb"):
            vectors, embedder = model.block_emb, model.embedder
        else:
            vectors, embedder = self.run.embed_corpus(model, self.corpus, block_length), model
        queries = self.run.embed_questions(embedder, asked)
        index = build_index(vectors, kind="exact")
        found = retrieval_recall(asked, queries, index, self.corpus, RECALL_AT)
        shown = "  ".join(f"@{k} {share:.1%}" for k, share in found.items())
        typer.echo(f"recall {when} training, {asked.examples} questions: {shown}", err=True)
        return found

    def score(self, model: Any, questions: Any) -> dict[str, float]:
        """Exact match and F1 of the answers to questions."""
        from .metrics import answer_exact_match, answer_f1

        if not questions or not self.leads:
            return {}
        given = model.answer([question.text for question in questions], n_best=1)
        texts = [answers[0].text if answers else "" for answers in given]
        scores = {}
        for name, measure in (("exact_match", answer_exact_match), ("f1", answer_f1)):
            each = [measure(t, q.answers) for t, q in zip(texts, questions, strict=True)]
            scores[name] = sum(each) / len(each)
        shown = "  ".join(f"{name} {value:.1f}" for name, value in scores.items())
        typer.echo(f"{len(questions)} questions held out: {shown}", err=True)
        return scores

    def save(self, model: Any, folder: Path) -> None:
        """Writes a model with its tokenizer."""
        if self.leads:
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def save_answering(self, model: Any, kind: str) -> None:
        """Writes all that answers questions into one folder."""
        from zoo.retrieval import build_index, choose_kind

        if not self.leads:
            return
        self.save(model, self.out)
        model.retriever.save_pretrained(self.out)
        if (choose_kind(len(self.corpus)) if kind == "auto" else kind) != "exact":
            build_index(model.block_emb, kind=kind).save(self.out / "index")

    def finish(self, watch: _Watch, results: Mapping[str, Any], as_json: bool) -> None:
        """Says what came of it."""
        if self.leads:
            if not as_json:
                typer.echo(f"written: {self.out}")
            else:
                summary = {"out": str(self.out), "steps": watch.steps, **watch.last, **results}
                typer.echo(json.dumps(summary, indent=2))


class _Watch:
    """Prints a line every so many steps, with the means since the last."""

    def __init__(self, name: str, steps: int, every: int | None, leads: bool):
        self.name, self.steps, self._leads = name, steps, leads
        self._every = every or max(steps // 50, 1)
        self._seen: list[dict[str, float]] = []
        self.last: dict[str, float] = {}

    def __call__(self, entry: dict[str, Any]) -> None:
        step = entry.pop("step")
        self._seen.append(entry)
        self.last = {"loss": entry["loss"]}
        if self._leads and (step % self._every == 0 or step == self.steps):
            count = len(self._seen)
            means = {name: sum(e[name] for e in self._seen) / count for name in entry}
            shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            typer.echo(f"{self.name} {step}/{self.steps}  {shown}", err=True)
            self._seen = []


@contextlib.contextmanager
def _working(framework: Framework, threads: int | None, out: Path) -> Iterator[_Work]:
    """The work of this process, alone or in the group that torchrun or TF_CONFIG tells of."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logger = logging.getLogger("zoo.training")
    level = logger.level
    with contextlib.ExitStack() as stack:
        leads = _enter_group(stack, framework, threads)
        if leads:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            stack.callback(logger.removeHandler, handler)
            stack.callback(logger.setLevel, level)
        yield _Work(framework, out, leads)


def _enter_group(stack: contextlib.ExitStack, framework: Framework, threads: int | None) -> bool:
    """Joins the other processes; says whether this one leads."""
    if framework is Framework.pt:
        import torch
        from torch import distributed

        if threads is not None:
            torch.set_num_threads(threads)
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return True
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        stack.callback(distributed.destroy_process_group)
        return distributed.get_rank() == 0
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    if "TF_CONFIG" not in os.environ:
        return True
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    stack.enter_context(strategy.scope())
    return strategy.cluster_resolver.task_id in (None, 0)


def _plan(
    warm_up: float, weight_decay: float, clip: float, every: int | None, keep: int, seed: int
) -> dict[str, Any]:
    return {
        "warm_up": warm_up, "weight_decay": weight_decay, "clip": clip or None,
        "checkpoint_every": every, "keep_checkpoints": keep, "seed": seed,
    }  # fmt: skip


def _fields(text: str | None) -> dict[str, Any]:
    """What `--fields` gives."""
    fields: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"--fields: received {part!r}, expected such as hidden_size=128")
        try:
            fields[name.strip()] = json.loads(value)
        except ValueError:
            fields[name.strip()] = value.strip()
    return fields


def _new_fields(text: str, tokenizer: Any) -> dict[str, Any]:
    """The fields of a new model's configuration."""
    fields = _fields(text)
    hidden = fields.get("hidden_size", 768)
    fields.setdefault("vocab_size", len(tokenizer))
    fields.setdefault("pad_token_id", tokenizer.pad_token_id)
    if isinstance(hidden, int) and 0 < hidden < 768:
        # The published 0.02 goes with wider layers.
        fields.setdefault("initializer_range", round(hidden**-0.5, 4))
    return fields

"""The `zoo` command."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import index_cli, train_cli

app = typer.Typer(
    help="One checkpoint, two frameworks: convert, inspect, verify, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(index_cli.app, name="index")
app.add_typer(train_cli.app, name="train")


class Format(StrEnum):
    safetensors = "safetensors"
    bin = "bin"
    h5 = "h5"
    keras = "keras"
    weights_h5 = "weights.h5"


class Framework(StrEnum):
    tf = "tf"
    pt = "pt"


class Retrieval(StrEnum):
    exact = "exact"
    scann = "scann"


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float64 = "float64"


Head = Annotated[
    str | None,
    typer.Option(help="Published class, as RemBertForMaskedLM; by default config.json's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InFramework = Annotated[Framework, typer.Option(help="In which the model runs.")]
BlockLength = Annotated[
    int | None, typer.Option(min=8, help="Word pieces of a block, where documents are cut.")
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """One checkpoint, two frameworks: convert, inspect, verify, export."""


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Folder, weight file or hub repository.")],
    destination: Annotated[Path, typer.Argument(help="Folder, or a .keras / .weights.h5 file.")],
    to: Annotated[Format | None, typer.Option(help="Format; safetensors by default.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Convert floating-point weights.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Split larger checkpoints.")] = "5GB",
    head: Head = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace weight files that exist.")
    ] = False,
) -> None:
    """Write a checkpoint in another format, with its config.json and tokenizer files."""
    from . import convert as run

    written = run(
        source,
        destination,
        to=to and to.value,
        dtype=dtype and dtype.value,
        max_shard_size=int(max_shard_size) if max_shard_size.isdecimal() else max_shard_size,
        head=head,
        force=force,
    )
    for path in written:
        typer.echo(path)


@app.command()
def info(
    folder: Annotated[str, typer.Argument(help="Folder, weight file or hub repository.")],
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its shape.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint holds, and what is wrong with it (exit code 1 if something is)."""
    from .info import info as run
    from .info import print_info

    found = run(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_info(found, keys=keys)
    if found["problems"]:
        raise typer.Exit(1)


@app.command()
def verify(
    folder: Annotated[str, typer.Argument(help="Folder or hub repository.")],
    tolerance: Annotated[float, typer.Option(help="Of outputs; gradients: ten times.")] = 1e-5,
    head: Head = None,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare PyTorch and Keras on one checkpoint; exit code 1 beyond the tolerance."""
    from .verify import print_table
    from .verify import verify as run

    rows = run(folder, tolerance=tolerance, head=head, seed=seed)
    passed = all(row.passed for row in rows)
    if as_json:
        table = [row._asdict() | {"passed": row.passed} for row in rows]
        typer.echo(json.dumps({"passed": passed, "rows": table}, indent=2))
    else:
        print_table(rows, folder)
        typer.echo("the frameworks agree" if passed else "the frameworks DIFFER")
    if not passed:
        raise typer.Exit(1)


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="Checkpoint with its tokenizer.")],
    out: Annotated[Path, typer.Argument(help="Folder that gets a numbered version, or a .pt2.")],
    framework: Annotated[
        Framework, typer.Option(help="tf: a SavedModel; pt: a program of torch.export.")
    ] = Framework.tf,
    batch_sizes: Annotated[
        str | None, typer.Option(help="Of the warm-up requests; by default 1,8.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="In tokens; by default 128, with pt what the model takes.")
    ] = None,
    head: Head = None,
    top_k: Annotated[int | None, typer.Option(help="Fills or spans; by default 5.")] = None,
    max_answer_length: Annotated[
        int | None, typer.Option(help="Of a span, in tokens; by default 30.")
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(help="Of generated text; by default as the checkpoint says.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of generated text; by default as the checkpoint says.")
    ] = None,
    num_return_sequences: Annotated[
        int | None, typer.Option(help="How many texts; by default as the checkpoint says.")
    ] = None,
    retrieval: Annotated[
        Retrieval | None,
        typer.Option(help="Of a model that answers out of a corpus; by default exact."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="By default the next one.")] = None,
) -> None:
    """Write a SavedModel for TF Serving: strings in, labels, fills or answers out."""
    options: dict[str, Any] = {
        "batch_sizes": batch_sizes,
        "top_k": top_k,
        "max_answer_length": max_answer_length,
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "retrieval": retrieval and retrieval.value,
        "version": version,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if framework is Framework.pt:
        if options:
            raise ValueError(f"{', '.join(options)}: of a SavedModel, not of --framework pt")
        from .torch_export import export_torch

        typer.echo(export_torch(folder, out, head=head, max_length=max_length))
        return
    if batch_sizes is not None:
        try:
            options["batch_sizes"] = [int(size) for size in batch_sizes.split(",")]
        except ValueError:
            raise ValueError(
                f"batch-sizes: received {batch_sizes!r}, expected such as 1,8"
            ) from None
    if max_length is not None:
        options["max_length"] = max_length
    from .saved_model import export as run

    typer.echo(run(folder, out, head=head, **options))


Corpus = Annotated[
    Path | None,
    typer.Option(help="Documents, a folder of zoo index, or a model with its own blocks."),
]
Answering = Annotated[
    str | None, typer.Option(help="Folder or repository of a RealmForOpenQA or a RAG model.")
]
KeptIndex = Annotated[
    Path | None, typer.Option(help="Folder that keeps the blocks of documents and their vectors.")
]
NBest = Annotated[int, typer.Option(min=1, help="Answers to each question.")]
Rag = Annotated[
    bool | None,
    typer.Option("--rag/--realm", help="Which model it is; by default config.json says."),
]
NDocs = Annotated[int | None, typer.Option(min=1, help="RAG: passages for each question.")]
NumBeams = Annotated[int | None, typer.Option(min=1, help="RAG: of the search.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="RAG: of an answer.")]


@contextlib.contextmanager
def answering(
    model: str | None, corpus: Path | None, rag: bool | None, sizes: dict[str, Any], **options: Any
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """An open model, the module that shows its answers, and options of its `answer`."""
    from . import ask, ask_rag

    if rag is None:
        rag = ask_rag.is_rag(corpus if model is None else model)
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if sizes and not rag:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sizes)
        raise ValueError(f"{names}: of RAG models")
    run: Any = ask_rag if rag else ask
    with run.opened(model, corpus, **options) as opened:
        yield opened, run, sizes


@app.command()
def ask(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Without any: asks for them.", show_default=False)
    ] = None,
    corpus: Corpus = None,
    model: Answering = None,
    index: KeptIndex = None,
    rag: Rag = None,
    n_best: NBest = 3,
    n_docs: NDocs = None,
    num_beams: NumBeams = None,
    max_new_tokens: MaxNewTokens = None,
    framework: InFramework = Framework.pt,
    block_length: BlockLength = None,
    as_json: Json = False,
) -> None:
    """Answer questions out of documents, with the evidence."""
    from rich.console import Console

    from .ask import prompt

    if as_json and not questions:
        raise ValueError("QUESTIONS: expected at least one with --json")
    sizes = {"n_docs": n_docs, "num_beams": num_beams, "max_new_tokens": max_new_tokens}
    options = {"index": index, "framework": framework.value, "block_length": block_length}
    with answering(model, corpus, rag, sizes, **options) as (opened, run, chosen):
        console = Console()
        if not questions:
            prompt(opened, n_best, console, run.print_answers, **chosen)
            return
        found = opened.answer(questions, n_best=n_best, **chosen)
        pairs = list(zip(questions, found, strict=True))
        if as_json:
            typer.echo(json.dumps([run.as_json(*pair) for pair in pairs], indent=2))
            return
        for pair in pairs:
            run.print_answers(*pair, console)


@app.command()
def serve(
    corpus: Corpus = None,
    model: Answering = None,
    index: KeptIndex = None,
    rag: Rag = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    n_docs: NDocs = None,
    num_beams: NumBeams = None,
    max_new_tokens: MaxNewTokens = None,
    framework: InFramework = Framework.pt,
    block_length: BlockLength = None,
) -> None:
    """Answer questions on a local web page, with the evidence and the time of every stage."""
    from .serve import run as run_server

    sizes = {"n_docs": n_docs, "num_beams": num_beams, "max_new_tokens": max_new_tokens}
    options = {"index": index, "framework": framework.value, "block_length": block_length}
    run_server(host, port, answering(model, corpus, rag, sizes, **options), typer.echo)


evaluate = typer.Typer(help="Measure models on questions with known answers.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")


@evaluate.command("realm")
def evaluate_realm(
    questions: Annotated[list[Path], typer.Option(help="Files in the layout of SQuAD or NQ-open.")],
    corpus: Annotated[
        Path | None,
        typer.Option(help="Documents, a folder of zoo index, or a model with its own blocks."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or repository of a RealmForOpenQA.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the blocks of documents and their vectors."),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(help="Only the share that training with the same --held-out left out."),
    ] = None,
    framework: InFramework = Framework.pt,
    block_length: BlockLength = None,
    words: Annotated[bool, typer.Option("--bm25/--no-bm25", help="Search by words too.")] = True,
    as_json: Json = False,
) -> None:
    """Exact match and F1 of a model that answers questions, and recall of its retrieval."""
    from rich.console import Console

    from zoo.training.questions import read_questions, split_questions

    from . import ask as run
    from .scores import print_scores, scores_as_json

    asked = read_questions(*questions)
    if held_out is not None:
        asked = split_questions(asked, held_out)[1]
    with run.opened(
        model, corpus, index=index, framework=framework.value, block_length=block_length
    ) as opened:
        found = run.evaluate(opened, asked, words=words)
    if as_json:
        typer.echo(json.dumps(scores_as_json(found), indent=2))
    else:
        print_scores("REALM", found, Console())


@evaluate.command("rag")
def evaluate_rag(
    model: Annotated[
        str, typer.Option(help="Folder or repository of a RAG model, as zoo train rag makes one.")
    ],
    questions: Annotated[list[Path], typer.Option(help="Files in the layout of SQuAD or NQ-open.")],
    held_out: Annotated[
        float | None,
        typer.Option(help="Only the share that training with the same --held-out left out."),
    ] = None,
    n_docs: Annotated[int | None, typer.Option(min=1, help="Passages of each question.")] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Of the search.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 32,
    framework: InFramework = Framework.pt,
    words: Annotated[bool, typer.Option("--bm25/--no-bm25", help="Search by words too.")] = True,
    as_json: Json = False,
) -> None:
    """Exact match and F1 of what a RAG model answers, and recall of its retrieval."""
    from rich.console import Console

    from zoo.training.questions import read_questions, split_questions

    from . import ask_rag
    from .rag_evaluation import evaluate as scored
    from .scores import print_scores, scores_as_json

    asked = read_questions(*questions)
    if held_out is not None:
        asked = split_questions(asked, held_out)[1]
    sizes = {"n_docs": n_docs, "num_beams": num_beams}
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    with ask_rag.opened(model, framework=framework.value) as opened:
        found = scored(opened, asked, words=words, max_new_tokens=max_new_tokens, **given)
    if as_json:
        typer.echo(json.dumps(scores_as_json(found), indent=2))
    else:
        print_scores("RAG", found, Console())


demo = typer.Typer(
    help="Whole jobs on text that every Python carries: train, compare, serve.",
    invoke_without_command=True,
)
app.add_typer(demo, name="demo")
Quick = Annotated[bool, typer.Option("--quick", help="Less than a minute and a half.")]
DemoSeed = Annotated[int, typer.Option(help="Of everything random.")]
Output = Annotated[Path | None, typer.Option(help="Folder for what it makes.")]


@demo.callback()
def demo_realm(
    context: typer.Context,
    quick: Quick = False,
    seed: DemoSeed = 0,
    output: Output = None,
    model: Annotated[
        str | None,
        typer.Option(help="Trained already: folder or repository of a RealmForOpenQA."),
    ] = None,
    squad: Annotated[
        Path | None, typer.Option(help="Paragraphs and questions in SQuAD's layout instead.")
    ] = None,
) -> None:
    """Train REALM on Python's own documentation until it answers questions, then serve it."""
    if context.invoked_subcommand is None:
        from .demo.realm import run

        run(output, quick=quick, seed=seed, model=model, squad=squad)


@demo.command("rembert")
def demo_rembert(quick: Quick = False, seed: DemoSeed = 0, output: Output = None) -> None:
    """Train RemBERT on the Python language reference in both frameworks, then serve it."""
    from .demo.rembert import run

    run(output, quick=quick, seed=seed)


def main() -> None:
    """Runs the command; an error of the input ends in one line, a wrong usage in exit code 2."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if "--debug" in sys.argv:  # checked by `options`, whose values end with the command
            raise
        from rich.console import Console
        from rich.text import Text

        text = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, soft_wrap=True).print(Text(f"error: {text}", style="red"))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

"""The `zoo` command."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import index_cli

app = typer.Typer(
    help="One checkpoint, two frameworks: convert, inspect, verify, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(index_cli.app, name="index")


class Format(StrEnum):
    safetensors = "safetensors"
    bin = "bin"
    h5 = "h5"
    keras = "keras"
    weights_h5 = "weights.h5"


class Framework(StrEnum):
    tf = "tf"
    pt = "pt"


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


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Less than a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Folder for what it makes.")] = None,
) -> None:
    """Train on the Python language reference in both frameworks, then serve the model."""
    from .demo import run

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

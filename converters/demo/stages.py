"""What the demos share: their folder, phases that are timed, bars, curves and the summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

SUMMARY = "summary.json"  # also says that a folder is the demo's own
CURVE = "loss.png"


def output_folder(output: str | os.PathLike[str] | None) -> Path:
    """The folder to write to, made if it is not there.

    Args:
        output: a new or empty folder, or that of an earlier demo. By default `demo_output`, or the
            next free `demo_output-2` ... if that holds something else.

    Raises:
        ValueError: the folder holds foreign files.
    """

    def usable(folder: Path) -> bool:
        if not folder.exists():
            return True
        return folder.is_dir() and ((folder / SUMMARY).is_file() or not any(folder.iterdir()))

    if output is not None:
        folder = Path(output)
        if not usable(folder):
            raise ValueError(f"output: {folder} holds other files; name a new or empty folder")
    else:
        names = ("demo_output" + (f"-{i}" if i > 1 else "") for i in range(1, 1000))
        folder = next(path for path in map(Path, names) if usable(path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Stages:
    """Base of a demo: steps in their order, each of which leaves what the next ones need.

    Args:
        summary: a data class with `seed` and `seconds`; what a run found out.
        folder: for all that it makes.
        console: to print to.
    """

    def __init__(self, summary: Any, folder: Path, console: Console) -> None:
        self.summary, self.folder, self.console = summary, folder, console

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Prints a heading, and notes how long what follows took."""
        self.console.print(f"\n[bold]{title}[/]")
        start = time.perf_counter()
        yield
        self.summary.seconds[title] = round(time.perf_counter() - start, 1)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[float], None]]:
        """A bar; the function it gives takes each step's loss."""
        columns = (
            BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("", total=total, loss=float("nan"))
            yield lambda loss: bar.update(task, advance=1, loss=loss)

    def compare(self, name: str) -> None:
        """Opens a folder in both frameworks and prints the table of differences.

        Raises:
            ValueError: one is larger than it may be.
        """
        from ..verify import print_table, verify

        rows = verify(self.folder / name, seed=self.summary.seed)
        print_table(rows, f"Largest differences, PyTorch and Keras, {name}/", self.console)
        for kind in ("output", "loss", "gradient"):
            differences = [row.difference for row in rows if row.kind == kind]
            if differences:
                self.summary.differences[f"{name} {kind}"] = max(differences)
        if failed := [row.name for row in rows if not row.passed]:
            raise ValueError(f"{name}: the frameworks differ in {', '.join(failed)}")

    def draw(self, curves: Mapping[str, Sequence[float]], file: str = CURVE) -> None:
        """Draws losses side by side, with their moving averages."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5 * len(curves), 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        places = np.atleast_1d(figure.subplots(1, len(curves)))
        for axes, (title, losses) in zip(places, curves.items(), strict=True):
            width = max(1, len(losses) // 50)
            smooth = np.convolve(losses, np.ones(width) / width, "valid")
            axes.plot(losses, color="tab:blue", alpha=0.25)
            axes.plot(np.arange(len(smooth)) + width - 1, smooth, color="tab:blue")
            axes.set(title=title, xlabel="step", ylabel="training loss")
            axes.grid(alpha=0.3)
        figure.savefig(self.folder / file, dpi=120)

    def write_summary(self) -> None:
        """Writes what is known so far; from the first time on the folder is the demo's own."""
        text = json.dumps(asdict(self.summary), indent=2) + "\n"
        (self.folder / SUMMARY).write_text(text, encoding="utf-8")

    def print_end(self, results: Sequence[tuple[str, str]], written: Sequence[str]) -> None:
        """Writes the summary, and prints times, results and what the folder holds."""
        self.write_summary()
        times = Table("step", "seconds", box=box.SIMPLE, title="Time", title_justify="left")
        times.columns[1].justify = "right"
        for title, seconds in self.summary.seconds.items():
            times.add_row(title, f"{seconds:.1f}")
        times.add_row("[bold]all[/]", f"[bold]{sum(self.summary.seconds.values()):.1f}[/]")
        self.console.print(times)
        table = Table("result", "", box=box.SIMPLE, title="Summary", title_justify="left")
        for name, value in results:
            table.add_row(name, value)
        for name, difference in self.summary.differences.items():
            table.add_row(f"largest difference, {name}", f"{difference:.1e}")
        for name in written:
            table.add_row("written", escape(str(self.folder / name)))
        self.console.print(table)

"""Checkpoints of a training in progress, from which it goes on as if it had never stopped.

    checkpoints/step-00000200/
        embedder/ ...            each model as `save_pretrained` writes it
        optimizer.safetensors    Adam's moments, under PyTorch's names and in PyTorch's layout
        state.json               step, settings, versions of the index that are needed
    log.jsonl                    a line for each step

A checkpoint's folder gets its name when everything is in it. Batches, learning rate and dropout
depend on seed and step alone, so nothing else has to be kept, and because names and layout are
those of PyTorch, a run may go on in the other framework.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from .plan import Plan

CHECKPOINTS, LOG = "checkpoints", "log.jsonl"
OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
FORMAT, VERSION = "zoo training", 1
_NAME = re.compile(r"step-(\d{8,})")


class TrainingError(ValueError):
    """A run that cannot go on: no checkpoint, a damaged one, or other settings."""


@dataclass(frozen=True)
class State:
    """What state.json says.

    Args:
        step: steps done.
        settings: that a resumed run has to share.
        indexes: versions of the index that are in use or being made.
        folder: of the checkpoint.
    """

    step: int
    settings: dict[str, Any]
    indexes: tuple[int, ...]
    folder: Path

    def moments(self) -> dict[str, np.ndarray]:
        """Adam's moments by `exp_avg.` or `exp_avg_sq.` and the weight's name.

        Raises:
            TrainingError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.folder / OPTIMIZER
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path} is damaged: {error}") from error

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses to go on with other settings.

        Raises:
            TrainingError: names the first that differs.
        """
        wanted = json.loads(json.dumps(settings))
        for name in [*wanted, *(name for name in self.settings if name not in wanted)]:
            if wanted.get(name) != self.settings.get(name):
                raise TrainingError(
                    f"{self.folder}: begun with {name} {self.settings.get(name)!r}, not "
                    f"{wanted.get(name)!r}; name another folder, or go on with the same settings"
                )


def checkpoints(out: str | os.PathLike[str]) -> list[Path]:
    """The folders of complete checkpoints, the oldest first."""
    folder = Path(out) / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = [(int(match[1]), folder / name) for name in os.listdir(folder)
             if (match := _NAME.fullmatch(name))]  # fmt: skip
    return [path for _, path in sorted(found)]


def read(folder: Path) -> State:
    """Opens a checkpoint.

    Raises:
        TrainingError: it is damaged, or of a later version.
    """
    path = folder / STATE
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise TrainingError(
                f"{path}: expected {FORMAT!r} of version {VERSION}, got {content['format']!r} "
                f"{content['version']!r}"
            )
        return State(
            int(content["step"]), dict(content["settings"]), tuple(content["indexes"]), folder
        )
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged: {error!r}") from error


def latest(out: str | os.PathLike[str]) -> State:
    """The newest checkpoint of a run.

    Raises:
        TrainingError: there is none.
    """
    found = checkpoints(out)
    if not found:
        raise TrainingError(f"{out}: no checkpoint to go on from in {Path(out) / CHECKPOINTS}")
    return read(found[-1])


def required(out: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """The folder to resume from.

    Raises:
        TrainingError: none was named.
    """
    if out is None:
        raise TrainingError("resume: expected the folder of the run as out")
    return out


def assert_new(out: str | os.PathLike[str]) -> None:
    """Refuses to begin anew where another run has checkpoints.

    Raises:
        TrainingError: there are some.
    """
    if checkpoints(out):
        raise TrainingError(
            f"{out} holds a run already: resume it, name another folder, or delete this one"
        )


def all_settings(
    plan: Plan,
    rates: Mapping[str, float] | None,
    settings: Mapping[str, Any] | None,
    refresher: Any = None,
) -> dict[str, Any]:
    """What a run is begun with: plan, batches and index."""
    everything = {"plan": plan.settings(), "rates": dict(rates or {}), **(settings or {})}
    if refresher is not None:
        everything["refresh"] = refresher.settings()
    return everything


def indexes_of(out: str | os.PathLike[str]) -> set[int]:
    """The versions of the index that the checkpoints of a run name."""
    return {number for folder in checkpoints(out) for number in read(folder).indexes}


def save(
    out: str | os.PathLike[str],
    step: int,
    write_models: Callable[[Path], None],
    moments: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    *,
    indexes: tuple[int, ...] = (),
    keep: int = 2,
) -> Path:
    """Writes a checkpoint, all or nothing, and deletes those that are too old.

    Args:
        out: folder of the run.
        step: steps done.
        write_models: writes the models into a folder.
        moments: see `State.moments`.
        settings: that a resumed run has to share.
        indexes: versions of the index that are in use or being made.
        keep: how many checkpoints stay.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: the disk is full, or the like; earlier checkpoints stay.
    """
    from safetensors.numpy import save_file

    folder = Path(out) / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT, "version": VERSION, "step": step, "settings": dict(settings),
        "indexes": list(indexes),
    }  # fmt: skip

    def write(place: Path) -> None:
        write_models(place)
        arrays = {name: np.ascontiguousarray(array) for name, array in moments.items()}
        save_file(arrays, place / OPTIMIZER)
        files.write_new(place / STATE, json.dumps(content, indent=1) + "\n")

    target = folder / f"step-{step:08d}"
    put_folder(target, write)
    for old in checkpoints(out)[:-keep]:
        remove_folder(old)
    return target


def put_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Makes a folder that is there with everything in it or not at all.

    Args:
        target: the folder; an earlier one is replaced.
        write: fills a folder that becomes it.

    Raises:
        OSError: the disk is full, or the like.
    """
    for left in target.parent.glob(f"{files.STAGING}{target.name}-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    staged = target.with_name(f"{files.STAGING}{target.name}-{secrets.token_hex(4)}")
    try:
        staged.mkdir()
        write(staged)
        for place, _, names in os.walk(staged):
            for name in names:
                files._sync_file(Path(place) / name)
            files._sync_folder(Path(place))
        remove_folder(target)
        os.rename(staged, target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    files._sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Deletes a folder, which loses its name first, so that no half of it is ever found."""
    gone = folder.with_name(f"{files.STAGING}{folder.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


class Log:
    """What each step gave, a line of JSON each in log.jsonl.

    Args:
        out: folder of the run; None keeps the entries in memory only.
        step: steps done by the checkpoint that the run goes on from; later lines are dropped.
    """

    def __init__(self, out: str | os.PathLike[str] | None, step: int = 0):
        self.entries: list[dict[str, Any]] = []
        self._path = None if out is None else Path(out) / LOG
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if step and self._path.exists():
            self.entries = [entry for entry in _lines(self._path) if entry["step"] <= step]
        text = "".join(json.dumps(entry) + "\n" for entry in self.entries)
        files.atomic_write(self._path, text)

    def add(self, entry: dict[str, Any]) -> None:
        """Takes the entry of a step."""
        self.entries.append(entry)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # a last line that was cut off
                entry = json.loads(line)
                if isinstance(entry, dict) and "step" in entry:
                    yield entry

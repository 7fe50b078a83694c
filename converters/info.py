"""Says what a checkpoint holds and what is wrong with it, without reading the weights."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any

from zoo import pretrained
from zoo.checkpoint import Checkpoint, CheckpointError
from zoo.configs import AutoConfig, PretrainedConfig

from . import FORMATS, Description, describe, find, keras_format, load_class

_TOKENIZER = r".*tokenizer.*\.json|special_tokens_map\.json|added_tokens\.json|.*\.model|vocab\..*"


def info(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Describes a checkpoint.

    Args:
        source: folder, weight file, or repository of the hub.

    Returns:
        Plain values: `path`, `weights`, `format`, `model_type`, `class`, `config` (what differs
        from the family's defaults), `parameters`, `bytes`, `dtypes`, `files`, `tokenizer_files`,
        `keys` (name, dtype, shape, file), `problems` (texts).

    Raises:
        CheckpointError: there are no weights at all.
        OSError: there is no such folder or repository.
    """
    origin = find(source)
    problems: list[str] = []
    config = None
    model = Description(None, None)
    try:
        if origin.config is None:
            raise ValueError("config.json is missing")
        model = describe(origin.config)
        config = AutoConfig.from_pretrained(origin.folder)
        if model.head is None:
            problems.append("config.json names no class of its family in `architectures`")
    except ValueError as error:
        problems.append(str(error))
    found: dict[str, Any] = {
        "path": str(origin.folder),
        "weights": origin.weights.name,
        "format": _format(origin.weights.name),
        "model_type": getattr(config, "model_type", None),
        "class": model.head,
        "config": _stated(config) if config is not None else {},
        "parameters": 0,
        "bytes": 0,
        "dtypes": {},
        "files": {},
        "tokenizer_files": [],
        "keys": [],
    }
    for path in sorted(origin.folder.iterdir()):
        if re.fullmatch(_TOKENIZER, path.name) and path.is_file():
            found["tokenizer_files"].append(path.name)
        if _format(path.name) and path.is_file() and not path.name.startswith("."):
            found["files"][path.name] = path.stat().st_size
    formats = {_format(name) for name in found["files"]} - {found["format"]}
    if formats:
        others = ", ".join(name for name in found["files"] if _format(name) in formats)
        problems.append(f"besides {origin.weights.name} there are other weights: {others}")
    if keras_format(origin.weights):
        return found | {"problems": problems}
    try:
        with Checkpoint.open(origin.weights) as weights:
            _describe_weights(found, weights)
            if config is not None:
                problems += _problems(weights, config, model, found["dtypes"])
    except CheckpointError as error:
        problems.append(str(error))
    return found | {"problems": problems}


def print_info(found: dict[str, Any], keys: bool = False, console: Any = None) -> None:
    """Prints what `info` found.

    Args:
        found: its result.
        keys: list every key.
        console: of `rich`; by default standard output.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in ("path", "weights", "class", "model_type"):
        table.add_row(name, escape(str(found[name])))
    types = ", ".join(f"{name} {count:,}" for name, count in found["dtypes"].items())
    table.add_row("parameters", f"{found['parameters']:,} ({types})")
    files = ", ".join(f"{name} {_size(size)}" for name, size in found["files"].items())
    table.add_row("files", escape(files))
    table.add_row("tokenizer", escape(", ".join(found["tokenizer_files"]) or "none"))
    skipped = ("architectures", "model_type", "transformers_version")
    for name, value in found["config"].items():
        if name not in skipped:
            table.add_row(f"config.{name}", escape(str(value)))
    console.print(table)
    if keys:
        table = Table(box=box.SIMPLE)
        for column in ("key", "type", "shape"):
            table.add_column(column, no_wrap=True, overflow="fold")
        for key in found["keys"]:
            shape = " x ".join(map(str, key["shape"])) or "scalar"
            table.add_row(escape(key["name"]), key["dtype"], shape)
        console.print(table)
    for problem in found["problems"]:
        console.print(f"[red]problem:[/] {escape(problem)}", soft_wrap=True)


def _describe_weights(found: dict[str, Any], weights: Checkpoint) -> None:
    for name, tensor in weights.items():
        count = math.prod(tensor.shape)
        found["parameters"] += count
        found["bytes"] += tensor.nbytes
        found["dtypes"][tensor.dtype] = found["dtypes"].get(tensor.dtype, 0) + count
        found["keys"].append(
            {
                "name": name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "file": tensor.file.name,
            }
        )


def _problems(
    weights: Checkpoint, config: Any, model: Description, dtypes: dict[str, int]
) -> list[str]:
    problems = []
    stated = config.torch_dtype
    if stated is not None and dtypes and stated not in dtypes:
        problems.append(f"config.json says torch_dtype {stated}, the weights are {list(dtypes)}")
    if model.head is None or importlib.util.find_spec("torch") is None:
        return problems
    import torch

    with torch.device("meta"):
        empty = load_class("pt_models", model)(config)
    shapes = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    try:
        _, report = pretrained.plan(empty, shapes, weights, ignore_mismatched_sizes=False)
    except CheckpointError as error:
        return [*problems, str(error)]
    return [*problems, *(str(report).splitlines() if report else [])]


def _format(name: str) -> str | None:
    return next((kind for kind, names in FORMATS.items() if re.fullmatch(names, name)), None)


def _size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"


def _stated(config: Any) -> dict[str, Any]:
    """What a configuration says beyond defaults; that of a part has the part's name in front."""
    values = {}
    for name, value in config.to_diff_dict().items():
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            # Files hold every field of a part.
            usual = {field: default for field, (default, _) in PretrainedConfig._fields.items()}
            for key, x in part.to_dict().items():
                if key in part._family_fields or key not in usual or x != usual[key]:
                    values[f"{name}.{key}"] = x
        else:
            values[name] = value
    return values

"""Other formats in and out of the neutral checkpoint, and checks that need both frameworks.

Nothing here imports a framework before it is asked to.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo import checkpoint, hub, pretrained
from zoo.checkpoint import Checkpoint, CheckpointError, TensorSource
from zoo.families import FAMILIES, Family
from zoo.files import FolderUpdate
from zoo.legacy_formats import with_published_names

_SHARDS = r"(-\d{5,}-of-\d{5,})?"
# Format -> regular expression for the names of its weight files.
FORMATS = {
    "safetensors": rf"model{_SHARDS}\.safetensors(\.index\.json)?",
    "bin": rf"pytorch_model{_SHARDS}\.bin(\.index\.json)?",
    "h5": rf"tf_model{_SHARDS}\.h5(\.index\.json)?",
    "keras": r".*\.keras",
    "weights.h5": r".*\.weights\.h5",
}
KERAS_FORMATS = ("keras", "weights.h5")
DTYPES = ("float32", "float16", "bfloat16", "float64")
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.md")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    head: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Writes a checkpoint in another format; config.json and tokenizer files go along.

    All files appear together or not at all.

    Args:
        source: folder, weight file, or repository of the hub.
        destination: folder; for Keras' own formats also a file `NAME.keras` / `NAME.weights.h5`.
        to: one of `FORMATS`; by default what the destination's name says, else safetensors.
        dtype: floating-point type to convert to; by default each weight keeps its own.
        max_shard_size: a larger checkpoint is split (safetensors, bin and h5).
        head: published class of the weights, such as `RemBertForMaskedLM`; by default the one
            that config.json names.
        force: allow weight files of the same format to be replaced, and the source's own folder
            as the destination.

    Returns:
        The weight files written.

    Raises:
        ValueError: an argument is impossible, or the destination is in the way.
        CheckpointError: the source is damaged, or does not fit its class.
    """
    target = _target(Path(destination), to)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype: received {dtype!r}, expected one of {', '.join(DTYPES)}")
    origin = find(source)
    _check_target(target, origin, dtype, force)
    model = describe(origin.config, head)
    companions = _companions(origin, target, model, dtype)
    with contextlib.ExitStack() as stack:
        if keras_format(origin.weights):
            from .keras_h5 import read_keras

            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-")))
            origin = read_keras(origin, model, scratch)
            model = describe(origin.config, head)
            companions = _companions(origin, target, model, dtype) | companions
        weights = with_published_names(stack.enter_context(Checkpoint.open(origin.weights)))
        tensors = _tensors(weights, model, dtype)
        if target.format == "safetensors":
            names = checkpoint.save(
                target.folder, tensors, extra_files=companions, max_shard_size=max_shard_size
            )
            return [target.folder / name for name in names]
        shards = checkpoint._split(tensors, checkpoint._parse_size(max_shard_size))
        with FolderUpdate(target.folder) as update:
            if target.format == "bin":
                from .pytorch_bin import write

                names = write(update, shards)
            elif target.format == "h5":
                from .keras_h5 import write_published

                names = write_published(update, shards, model)
            else:
                from .keras_h5 import write_keras

                names = [target.name]
                write_keras(update.path(target.name), tensors, origin.config, model)
            for name, content in companions.items():
                update.write(name, content)
            if not target.is_file:
                update.remove_others(FORMATS[target.format])
    return [target.folder / name for name in names]


def load_class(package: str, model: Description) -> Any:
    """The class of a checkpoint in one framework.

    Args:
        package: `pt_models` or `tf_models`.
        model: from `describe`.

    Raises:
        ValueError: config.json does not tell the class.
    """
    family, head = model.required()
    module = importlib.import_module(f"{package}.{family.module}")
    return getattr(module, f"TF{head}" if package == "tf_models" else head)


def load_model(package: str, folder: str | os.PathLike[str], head: str | None = None) -> Any:
    """Opens a checkpoint in one framework and insists that every weight comes from the file.

    Args:
        package: `pt_models` or `tf_models`.
        folder: the checkpoint, or the name of a repository of the hub.
        head: published class; by default the one that config.json names, or the bare model.

    Returns:
        The model, in float32.

    Raises:
        CheckpointError: the file lacks weights of the class.
    """
    origin = find(folder)
    model = describe(origin.config, head)
    if model.head is None and model.family is not None:
        model = Description(model.family, model.family.models["Model"])
    cls = load_class(package, model)
    with Checkpoint.open(origin.weights) as weights:
        options = pooling(cls, weights)
    loaded, report = cls.from_pretrained(folder, output_loading_info=True, **options)
    if missing := report["missing_keys"]:
        raise CheckpointError(
            f"{folder} lacks weights of {cls.__name__}, choose another class: {', '.join(missing)}"
        )
    return loaded


def pooling(cls: Any, names: Iterable[str]) -> dict[str, bool]:
    """The constructor's arguments that leave out the pooler where a file has none.

    Args:
        cls: class of the model.
        names: of the file's weights.
    """
    if "add_pooling_layer" not in inspect.signature(cls.__init__).parameters:
        return {}
    return {"add_pooling_layer": any("pooler" in re.split(r"[./]", name) for name in names)}


class Description(NamedTuple):
    """What config.json says about the weights beside it.

    Args:
        family: row of the table of families, None where unknown.
        head: published name of the PyTorch class, None where unknown.
    """

    family: Family | None
    head: str | None

    @property
    def is_base(self) -> bool:
        """Whether the class is the bare model, without a head."""
        return self.family is not None and self.head == self.family.models["Model"]

    def required(self) -> tuple[Family, str]:
        """Family and class.

        Raises:
            ValueError: config.json does not tell.
        """
        if self.family is None or self.head is None:
            raise ValueError("head: config.json names no class; give one, as RemBertForMaskedLM")
        return self.family, self.head


def describe(config_text: str | None, head: str | None = None) -> Description:
    """Finds family and class of a checkpoint.

    Args:
        config_text: content of config.json, None if there is none.
        head: published class to take instead of the one in there.

    Raises:
        ValueError: config.json cannot be read, or the class is not one of its family.
    """
    config = parse_config(config_text)
    family = FAMILIES.get(str(config.get("model_type")))
    known = {name: row for row in FAMILIES.values() for name in row.models.values()}
    if head is None:
        names = config.get("architectures")
        first = names[0] if isinstance(names, list) and names else None
        head = str(first).removeprefix("TF") if first else None
        return Description(family, head if head in known else None)
    head = head.removeprefix("TF")
    if head not in known or known[head] is not (family or known[head]):
        expected = [name for name, row in known.items() if family in (None, row)]
        raise ValueError(f"head: received {head!r}, expected one of {', '.join(expected)}")
    return Description(known[head], head)


def parse_config(text: str | None) -> dict[str, Any]:
    """The values of a config.json, none if there is no file.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config.json is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config.json: expected an object, got {type(values).__name__}")
    return values


def keras_format(path: Path) -> str | None:
    """Which of Keras' own formats the file's name stands for."""
    return next((kind for kind in KERAS_FORMATS if path.name.endswith(f".{kind}")), None)


def shard_names(name: str, count: int) -> list[str]:
    """Names of `count` shards: `name` itself, or `stem-00001-of-00002.suffix` and so on."""
    stem, _, suffix = name.rpartition(".")
    if count == 1:
        return [name]
    return [f"{stem}-{number:05}-of-{count:05}.{suffix}" for number in range(1, count + 1)]


class Origin(NamedTuple):
    """A checkpoint to read from."""

    weights: Path  # file or index
    folder: Path
    config: str | None  # content of config.json


class _Target(NamedTuple):
    folder: Path
    name: str  # of the one file that the Keras formats have
    format: str
    is_file: bool


def find(source: str | os.PathLike[str]) -> Origin:
    """Finds the weights and the config.json of a folder, a weight file or a hub repository.

    Raises:
        CheckpointError: there are no weights.
        ValueError: the file is one shard of a checkpoint.
        OSError: there is no such folder or repository.
    """
    path = Path(source)
    if path.is_file():
        weights, folder = path, path.parent
        if re.search(r"-\d{5,}-of-\d{5,}\.", path.name):
            raise ValueError(f"{path} is one of several files; give the folder, or their index")
    else:
        folder = hub.resolve_folder(source, _COMPANIONS)
        keras = sorted(file for file in folder.iterdir() if keras_format(file))
        try:
            weights = pretrained.find_weights(source)
        except CheckpointError:
            if len(keras) != 1:
                raise
            weights = keras[0]
    config = folder / "config.json"
    return Origin(weights, folder, config.read_text("utf-8") if config.is_file() else None)


def _target(path: Path, to: str | None) -> _Target:
    by_name = keras_format(path)
    to = to or by_name or "safetensors"
    if to not in FORMATS:
        raise ValueError(f"to: received {to!r}, expected one of {', '.join(FORMATS)}")
    if by_name == to:
        return _Target(path.parent, path.name, to, True)
    if not path.is_dir() and re.search(r"\.(safetensors|bin|h5|keras)$", path.name):
        raise ValueError(f"{path}: expected the name of a folder, which holds the {to} files")
    return _Target(path, f"model.{to}", to, False)


def _check_target(target: _Target, origin: Origin, dtype: str | None, force: bool) -> None:
    """Refuses to overwrite, and to put two different models into one folder."""
    there: dict[str, list[str]] = {}
    if target.folder.is_dir():
        for file in sorted(os.listdir(target.folder)):
            for kind, pattern in FORMATS.items():
                if re.fullmatch(pattern, file) and not file.startswith("."):
                    there.setdefault(kind, []).append(file)
                    break
    if target.is_file:
        if (target.folder / target.name).exists() and not force:
            raise ValueError(f"{target.folder / target.name} exists; --force replaces it")
        return
    same = target.folder.is_dir() and target.folder.samefile(origin.folder)
    if same and not force:
        raise ValueError(f"{target.folder} is the source's own folder; --force allows it")
    replaced = there.pop(target.format, [])
    if replaced and not force:
        raise ValueError(f"{target.folder} holds {', '.join(replaced)}; --force replaces them")
    if there and (not same or dtype is not None):
        others = ", ".join(name for names in there.values() for name in names)
        raise ValueError(
            f"{target.folder} holds {others}, which would no longer be the same model; "
            "choose another folder"
        )


def _companions(
    origin: Origin, target: _Target, model: Description, dtype: str | None
) -> dict[str, str | bytes]:
    """The files that go along: config.json and those of the tokenizer."""
    if target.is_file:
        return {}
    files: dict[str, str | bytes] = {
        path.name: path.read_bytes()
        for pattern in _COMPANIONS
        for path in sorted(origin.folder.glob(pattern))
        if not any(re.fullmatch(kind, path.name) for kind in FORMATS.values())
        and not path.name.startswith(".")
        and path.is_file()
    }
    config = parse_config(origin.config)
    changed = dict(config)
    if dtype is not None:
        changed["torch_dtype"] = dtype
    if model.head is not None and "architectures" in config:
        changed["architectures"] = [model.head]
    if origin.config is not None and changed != config:
        files["config.json"] = json.dumps(changed, indent=2, sort_keys=True) + "\n"
    return files


def _tensors(weights: Checkpoint, model: Description, dtype: str | None) -> dict[str, TensorSource]:
    """What is to be written: published key -> dtype, shape and a function that reads."""
    tensors = {}
    for name, key in zip(weights, _published(weights, model), strict=True):
        info = weights[name]
        kind = np.dtype(info.dtype)
        wanted = kind if dtype is None or not checkpoint._is_float(kind) else np.dtype(dtype)

        def read(name: str = name, wanted: np.dtype = wanted) -> np.ndarray:
            values = np.empty(weights[name].shape, wanted)
            weights.copy_to(name, values)
            return values

        tensors[key] = TensorSource(wanted.name, info.shape, read)
    return tensors


def _published(weights: Checkpoint, model: Description) -> Iterator[str]:
    """The keys; the published TF classes keep even the bare model inside a layer of its name."""
    front = {name.partition(".")[0] for name in weights}
    prefix = model.family.prefix if model.family is not None and model.is_base else ""
    drop = f"{prefix}." if front == {prefix} else ""
    return (name.removeprefix(drop) for name in weights)

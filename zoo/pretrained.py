"""How both frameworks open and save a checkpoint: the part that needs no framework."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checkpoint, files, hub
from .configs import PretrainedConfig
from .generation import GENERATION_CONFIG_NAME, GenerationConfig, Generator

logger = logging.getLogger("zoo")

# In the order of preference: no pickle before a pickle.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "tf_model.h5.index.json",
)
HUB_ARGUMENTS = hub.ARGUMENTS

Reader = Callable[[], np.ndarray]
Tensors = Mapping[str, tuple[str, tuple[int, ...], Reader]]


class Source(NamedTuple):
    """An opened checkpoint with the configuration that goes with it."""

    config: Any
    checkpoint: checkpoint.Checkpoint
    init_kwargs: dict[str, Any]
    generation_config: GenerationConfig | None  # None where there is no such file


def find_weights(name_or_path: str | os.PathLike[str], **hub_arguments: Any) -> Path:
    """The file that holds (or lists) the weights, downloaded with its shards where needed.

    Raises:
        CheckpointError: there is none; lists the names that were looked for.
    """
    for filename in WEIGHT_FILES:
        found = hub.resolve_file(name_or_path, filename, **hub_arguments)
        if found is None:
            continue
        if filename.endswith(".index.json"):
            for shard in checkpoint.shards_of(found):
                if hub.resolve_file(name_or_path, shard, **hub_arguments) is None:
                    raise checkpoint.CheckpointError(
                        f"{name_or_path}: {filename} lists {shard}, which is not there"
                    )
        return found
    raise checkpoint.CheckpointError(
        f"{name_or_path}: no weights; looked for {', '.join(WEIGHT_FILES)}"
    )


def open_source(
    model_class: Any, name_or_path: str | os.PathLike[str], config: Any, kwargs: dict[str, Any]
) -> Source:
    """Sorts the keywords of `from_pretrained` and opens what it names.

    A keyword is the hub's, the constructor's, or a field of the configuration.
    """
    hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    parameters = inspect.signature(model_class.__init__).parameters
    init_kwargs = {name: kwargs.pop(name) for name in list(kwargs) if name in parameters}
    local = os.path.isdir(name_or_path)
    # Nobody replaces the folder between the reading of its configuration and of its weights.
    with files.reading(name_or_path) if local else contextlib.nullcontext():
        if config is None or isinstance(config, str | os.PathLike):
            place = name_or_path if config is None else config
            config = model_class.config_class.from_pretrained(place, **hub_arguments, **kwargs)
        elif kwargs:
            config = type(config).from_dict(config.to_dict(), **kwargs)
        weights = checkpoint.Checkpoint.open(find_weights(name_or_path, **hub_arguments))
        generation_config = None
        if issubclass(model_class, Generator):
            path = hub.resolve_file(name_or_path, GENERATION_CONFIG_NAME, **hub_arguments)
            if path is not None:
                fields = {name: x for name, x in kwargs.items() if name in GenerationConfig._fields}
                generation_config = GenerationConfig.from_file(path, **fields)
    return Source(config, weights, init_kwargs, generation_config)


def split_halves(
    encoder: str | os.PathLike[str] | None,
    decoder: str | os.PathLike[str] | None,
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sorts the keywords of `from_encoder_decoder_pretrained`.

    Args:
        encoder, decoder: where the halves are, None for one that is given as a model.
        kwargs: all of them.
    Returns:
        Those of the encoder, of the decoder, and the fields of the whole configuration.
    """
    parts, fields = split_parts({"encoder": encoder, "decoder": decoder}, kwargs)
    for part, own in parts.items():
        if "model" not in own:
            is_decoder = part == "decoder"
            own |= {"is_decoder": is_decoder, "add_cross_attention": is_decoder}
    return parts["encoder"], parts["decoder"], fields


def split_parts(
    places: Mapping[str, str | os.PathLike[str] | None], kwargs: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Sorts the keywords of a model that is joined from several.

    Args:
        places: where the parts are, by the prefix of their keywords; None for one that is given
            as a model.
        kwargs: all keywords.
    Returns:
        Those of each part, and the fields of the whole configuration.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in places}
    fields, shared = {}, {}
    for name, value in kwargs.items():
        part = next((part for part in parts if name.startswith(f"{part}_")), None)
        if name in (*HUB_ARGUMENTS, "dtype", "torch_dtype"):
            shared[name] = value
        elif part is not None and name not in PretrainedConfig._fields:
            parts[part][name.removeprefix(f"{part}_")] = value
        else:
            fields[name] = value
    for part, place in places.items():
        own = parts[part]
        if "model" in own:
            more = sorted(set(own) - {"model"})
            if more or place is not None:
                other = more[0] if more else "pretrained_model_name_or_path"
                raise ValueError(f"{part}_model: given together with {part}_{other}")
        elif place is None:
            raise ValueError(
                f"{part}_pretrained_model_name_or_path: expected a folder or repository, or a "
                f"model as {part}_model"
            )
        else:
            parts[part] = shared | own
    return parts, fields


def plan(
    model: Any,
    shapes: Mapping[str, tuple[int, ...]],
    weights: checkpoint.Checkpoint,
    *,
    ignore_mismatched_sizes: bool,
    given: tuple[str, ...] = (),
) -> tuple[dict[str, str], checkpoint.LoadReport]:
    """Says which key of the file fills which weight of the model; see `checkpoint.match`.

    Args:
        given: what the names of weights begin with that have values, as they are in a part that
            the model was made with; the file may lack them.
    """
    found, report = checkpoint.match(
        shapes,
        weights,
        base_model_prefix=model.base_model_prefix,
        tied=model.tied_weights(),
        optional=(*model.optional_weights, *(f"^{re.escape(name)}" for name in given)),
        ignorable=(r"(^|\.)position_ids$", *model.ignored_weights),
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    report.missing = [name for name in report.missing if not name.startswith(given)]
    return found, report


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory that a framework takes over without a copy.

    numpy asks the system for huge pages, which makes filling it several times quicker than filling
    what the frameworks allocate; both want it aligned to 64 bytes.
    """
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    memory = np.empty(nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes].view(kind).reshape(shape)


def announce(
    model_class: type, name_or_path: str | os.PathLike[str], report: checkpoint.LoadReport
) -> None:
    """Warns of weights that were not in the file and of keys that were not used."""
    if report:
        logger.warning("%s from %s:\n%s", model_class.__name__, name_or_path, report)


@functools.cache
def warn_once(text: str) -> None:
    """Warns in these words the first time, and says nothing from then on."""
    logger.warning(text)


def loading_info(report: checkpoint.LoadReport) -> dict[str, Any]:
    """The report under the published names of `output_loading_info`."""
    return {
        "missing_keys": report.missing,
        "unexpected_keys": report.unexpected,
        "mismatched_keys": report.mismatched,
        "error_msgs": [],
    }


def save(
    model: Any,
    folder: str | os.PathLike[str],
    tensors: Tensors,
    max_shard_size: int | str,
    dtype: str,
) -> None:
    """Writes the configuration and the weights of a model of either framework."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("TF")]
    config.torch_dtype = dtype
    text = config.to_json_string()
    extra = {}
    if isinstance(model, Generator):
        extra[GENERATION_CONFIG_NAME] = model._generation_config_text()
    checkpoint.save(
        folder, tensors, config_text=text, extra_files=extra, max_shard_size=max_shard_size
    )


def vocabulary_size(config: Any, wanted: int | None, multiple: int | None) -> int:
    """The size that `resize_token_embeddings` is asked for."""
    size = config.vocab_size if wanted is None else wanted
    if size <= 0:
        raise ValueError(f"new_num_tokens: expected a positive number, got {wanted}")
    if multiple is not None:
        if multiple <= 0:
            raise ValueError(f"pad_to_multiple_of: expected a positive number, got {multiple}")
        size = -(-size // multiple) * multiple
    if config.pad_token_id is not None and size <= config.pad_token_id:
        raise ValueError(
            f"new_num_tokens: expected more than config.pad_token_id ({config.pad_token_id}), "
            f"got {wanted}"
        )
    return size

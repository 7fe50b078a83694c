"""HDF5 files: `tf_model.h5` of the published TF classes, and Keras' own `.keras`, `.weights.h5`.

`zoo.legacy_formats` reads tf_model.h5; `write` is its inverse. Keras' own formats hold weights by
their place in the Keras model, so these go through `tf_models`.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from zoo import checkpoint
from zoo.checkpoint import CheckpointError, TensorSource
from zoo.files import FolderUpdate
from zoo.legacy_formats import H5_NAME, INDEX_SUFFIX, is_transposed, published_key

from . import (
    Description,
    Origin,
    keras_format,
    load_class,
    load_model,
    parse_config,
    pooling,
    shard_names,
)

# The published TF classes hold these weights under another layer, or another word.
_LAYERS = {"cls": "mlm___cls"}
_PLAIN_WEIGHTS = ("word_embeddings", "decoder")


def tensorflow_name(key: str, shape: tuple[int, ...], norms: set[str]) -> str:
    """The name, without the model's own in front, that the published TF classes give a weight.

    Args:
        key: published key, with the base model's prefix.
        shape: its published shape.
        norms: the keys' parents that are layer norms.

    Returns:
        Such as `rembert/encoder/layer_._0/output/dense/kernel:0`.
    """
    parent, _, leaf = key.rpartition(".")
    layer = parent.rpartition(".")[2]
    if parent in norms:
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
    elif leaf == "weight" and len(shape) == 2 and layer not in _PLAIN_WEIGHTS:
        leaf = "embeddings" if layer.endswith("_embeddings") else "kernel"
    if not parent:  # such as BART's final_logits_bias
        return f"{leaf}:0"
    path = re.sub(r"/(\d+)(?=/|$)", r"_._\1", parent.replace(".", "/"))
    first, slash, rest = path.partition("/")
    return f"{_LAYERS.get(first, first)}{slash}{rest}/{leaf}:0"


def write_published(
    update: FolderUpdate, shards: list[dict[str, TensorSource]], model: Description
) -> list[str]:
    """Writes the weights in the scheme of the published TF classes, and the index of shards.

    Args:
        update: where the files go.
        shards: the tensors by published key.
        model: their class.

    Returns:
        Names of the weight files.

    Raises:
        ValueError: the class is not known, or a type that these files cannot hold.
    """
    import h5py

    family, head = model.required()
    sources = {key: source for shard in shards for key, source in shard.items()}
    prefix = f"{family.prefix}." if family.prefix else ""
    if any(key.startswith(prefix) for key in sources):
        prefix = ""
    norms = {
        prefix + key.removesuffix(".weight")
        for key, source in sources.items()
        if key.endswith(".weight") and len(source.shape) == 1
    }
    own_name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", f"TF{head}").lower()
    names = shard_names(H5_NAME, len(shards))
    weight_map = {}
    for file_name, shard in zip(names, shards, strict=True):
        layers: dict[str, list[str]] = {}
        with h5py.File(update.path(file_name), "w") as file:
            for key, source in shard.items():
                name = tensorflow_name(prefix + key, source.shape, norms)
                if published_key(name, drop_model=False) != prefix + key:
                    raise ValueError(f"{key!r} has no name in the scheme of tf_model.h5")
                values = source.read()
                if values.dtype.kind not in "fiub":
                    raise ValueError(
                        f"{key!r} is {values.dtype.name}, which tf_model.h5 cannot hold; "
                        "convert with --dtype float32"
                    )
                if is_transposed(name, source.shape):
                    values = values.T
                full_name = f"{own_name}/{name}"
                layer = name if len(names) > 1 else name.partition("/")[0]
                layers.setdefault(layer, []).append(full_name)
                place = name if len(names) > 1 else f"{layer}/{full_name}"
                file.create_dataset(place, data=values)
                weight_map[full_name] = file_name
            file.attrs["layer_names"] = list(layers)
            for layer, members in layers.items():
                if len(names) == 1:
                    file[layer].attrs["weight_names"] = members
            file.attrs["backend"] = "tensorflow"
    if len(names) > 1:
        total = sum(np.dtype(s.dtype).itemsize * int(np.prod(s.shape)) for s in sources.values())
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        update.write(H5_NAME + INDEX_SUFFIX, text)
    return names


def write_keras(
    path: Path, tensors: dict[str, TensorSource], config_text: str | None, model: Description
) -> None:
    """Writes Keras' own format of the name's ending, through the model in Keras.

    Args:
        path: `NAME.keras`, the whole model, or `NAME.weights.h5`.
        tensors: the weights by published key.
        config_text: content of config.json.
        model: their class.

    Raises:
        CheckpointError: the weights do not fit the class.
    """
    if config_text is None:
        raise ValueError("config.json is missing: a Keras model cannot be built without it")
    import keras

    floats = {source.dtype for source in tensors.values() if "float" in np.dtype(source.dtype).name}
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        checkpoint.save(folder, tensors, config_text=config_text)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(floats.pop() if len(floats) == 1 else before)
        try:
            loaded = load_model("tf_models", folder, model.required()[1])
        finally:
            keras.config.set_dtype_policy(before)
    if keras_format(path) == "keras":
        loaded.save(path)
    else:
        loaded.save_weights(path)


def read_keras(origin: Origin, model: Description, scratch: Path) -> Origin:
    """Reads one of Keras' own formats, through the model in Keras.

    Args:
        origin: the file, and the config.json beside it, which a `.weights.h5` needs.
        model: the class of the weights; a `.keras` names its own.
        scratch: an empty folder, in which the neutral checkpoint is written.

    Returns:
        That checkpoint.

    Raises:
        CheckpointError: the file is damaged, or no model of this package.
    """
    import h5py
    import keras

    # The package itself registers its classes under the names in the file.
    from tf_models import TFPreTrainedModel

    try:
        if keras_format(origin.weights) == "keras":
            loaded = keras.models.load_model(origin.weights, compile=False)
            if not isinstance(loaded, TFPreTrainedModel):
                raise ValueError(f"it holds a {type(loaded).__name__}")
        else:
            cls = load_class("tf_models", model)
            config = cls.config_class.from_dict(parse_config(origin.config))
            names: list[str] = []
            with h5py.File(origin.weights, "r") as file:
                file.visit(names.append)
            options = pooling(cls, names)
            loaded = cls(config, **options)
            loaded.load_weights(origin.weights)
    except (ValueError, TypeError, LookupError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{origin.weights} cannot be read: {error}") from error
    loaded.save_pretrained(scratch)
    config_text = (scratch / "config.json").read_text("utf-8")
    return Origin(scratch / checkpoint.SINGLE, scratch, config_text)

"""Exports a model with its tokenizer as a SavedModel that TF Serving runs: strings in, answers out.

A version holds `saved_model.pb`, `variables/` and, in `assets.extra/`, warm-up requests for the
server and `zoo.json`, which says what the signatures take and give.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zoo

from . import load_model

WARMUP_FILE = "tf_serving_warmup_requests"
MAX_BATCH_SIZES = 1000 // 6  # the server refuses more than 1000 requests; we have 6 signatures
SAMPLE_CHOICES = 2
DEFAULT_LENGTH = 128  # tokens of a row


def export(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    max_length: int | None = None,
    head: str | None = None,
    top_k: int = 5,
    version: int | None = None,
    max_answer_length: int = 30,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    num_return_sequences: int | None = None,
    retrieval: str | None = None,
    warmup: bool = True,
    tokenizer: Any = None,
) -> Path:
    """Writes a version of a SavedModel, which appears as a whole or not at all.

    Args:
        folder: checkpoint with its tokenizer, or repository of the hub.
        out: folder of the versions; made if it is not there.
        batch_sizes: that the server is to be warmed up with.
        max_length: tokens of a row; longer texts are cut. By default 128; of a model that reads
            questions with evidence, what its configuration says: REALM's `reader_seq_len`, RAG's
            `max_combined_length`.
        head: published class, such as `RemBertForMaskedLM`; by default config.json's.
        top_k: how many fills, next tokens or answer spans are given.
        version: number of the version; by default the one after the highest that is there.
        max_answer_length: of an answer span, in tokens.
        num_beams, max_new_tokens, num_return_sequences: of models that generate; by default as
            their generation configuration says. A causal model gives the next token without them.
        retrieval: how a model that answers out of a corpus searches it: `exact` (the default) with
            stock operations, `scann` with those of ScaNN, which the server has to know.
        warmup: whether to write warm-up requests.
        tokenizer: of `zoo.tokenizers`; by default what `AutoTokenizer` opens in `folder`.

    Returns:
        The folder of the version.

    Raises:
        ValueError: an argument is impossible, the version exists, or the tokenizer does not fit.
        CheckpointError: the checkpoint does not fit its class.
    """
    out = Path(out)
    sizes = _checked_sizes(batch_sizes)
    for name, value, least in (
        ("max_length", max_length, 1), ("top_k", top_k, 1),
        ("max_answer_length", max_answer_length, 1), ("version", version, 1),
        ("num_beams", num_beams, 1), ("max_new_tokens", max_new_tokens, 1),
        ("num_return_sequences", num_return_sequences, 1),
    ):  # fmt: skip
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name}: received {value!r}, expected a whole number from {least}")
    if version is not None and os.path.lexists(out / str(version)):
        raise _exists(out / str(version))
    model = load_model("tf_models", folder, head)
    if model.config.model_type == "rag":
        model.set_retriever(zoo.RagRetriever.from_pretrained(folder, config=model.config))
    if max_length is None:
        lengths = (
            getattr(model.config, x, None) for x in ("reader_seq_len", "max_combined_length")
        )
        reads = hasattr(model, "retriever")
        max_length = next((x for x in lengths if reads and x is not None), DEFAULT_LENGTH)
    tokenizer = zoo.AutoTokenizer.from_pretrained(folder) if tokenizer is None else tokenizer
    from tf_models.text_heads import text_head

    generate = {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
    }
    generate = {name: value for name, value in generate.items() if value is not None}
    module = text_head(
        model,
        tokenizer,
        max_length=max_length,
        top_k=top_k,
        max_answer_length=max_answer_length,
        generate=generate,
        retrieval=retrieval,
    )
    signatures = _signatures(module)
    description = {
        "format": 1,
        "model": type(model).__name__.removeprefix("TF"),
        "tokenizer": type(tokenizer).__name__,
        "max_length": max_length,
        "top_k": top_k,
        "max_answer_length": max_answer_length,
        "generate": generate,
        "batch_sizes": sizes,
        "labels": [model.config.id2label[i] for i in range(model.config.num_labels)],
        "signatures": {name: _described(module, name, f) for name, f in signatures.items()},
        "versions": _versions(),
    }
    requests = _requests(module, sizes, signatures) if warmup else {}

    def write(staging: Path) -> None:
        import tensorflow as tf

        tf.saved_model.save(module, os.fspath(staging), signatures)
        extra = staging / "assets.extra"
        extra.mkdir(exist_ok=True)
        (extra / "zoo.json").write_text(json.dumps(description, indent=2) + "\n")
        if requests:
            name = out.resolve().name
            with tf.io.TFRecordWriter(os.fspath(extra / WARMUP_FILE)) as records:
                for signature, examples in requests.items():
                    for example in examples:
                        records.write(prediction_log(name, signature, example))

    return _publish(out, version, write)


def _checked_sizes(batch_sizes: Sequence[int]) -> list[int]:
    sizes = list(batch_sizes)
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            f"batch_sizes: received {batch_sizes!r}, expected whole numbers from 1, such as (1, 8)"
        )
    if len(sizes) > MAX_BATCH_SIZES:
        raise ValueError(
            f"batch_sizes: received {len(sizes)} sizes, expected at most {MAX_BATCH_SIZES}"
        )
    return sorted(set(sizes))


def _exists(path: Path) -> ValueError:
    return ValueError(f"version: {path} exists, and a version is never replaced; choose another")


def _publish(out: Path, version: int | None, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a folder that then becomes the version."""
    out.mkdir(parents=True, exist_ok=True)
    staging = out / f".zoo-{secrets.token_hex(8)}"  # no number, so no server looks at it
    staging.mkdir()
    try:
        write(staging)
        _sync(staging)
        while True:
            number = 1 + max(_numbers(out), default=0) if version is None else version
            target = out / str(number)
            try:
                os.rename(staging, target)
            except OSError:
                if not os.path.lexists(target):
                    raise
                if version is not None:
                    raise _exists(target) from None
            else:
                return target
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _numbers(out: Path) -> Iterator[int]:
    return (int(name) for name in os.listdir(out) if name.isdecimal() and name.isascii())


def _sync(folder: Path) -> None:
    """Brings every file to the disk before the version gets its name."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Signatures ----------------------------------------------------------------------------------


def _signatures(module: Any) -> dict[str, Any]:
    """Name -> concrete function."""
    import tensorflow as tf

    def traced(function: Callable[..., Any], names: Mapping[str, tuple], kind: Any) -> Any:
        specs = [tf.TensorSpec([None] * len(axes), kind, name) for name, axes in names.items()]

        def call(*tensors: Any) -> dict[str, Any]:
            return function(**dict(zip(names, tensors, strict=True)))

        # Named parameters are what the signature's inputs are called after.
        return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()

    row = dict.fromkeys(module.input_names, module.row)

    def tokens(**ids: Any) -> dict[str, Any]:
        return module.run({name: tf.cast(value, tf.int32) for name, value in ids.items()})

    found = {"serving_default": traced(module, module.inputs, tf.string)}
    if module.pair_inputs:
        found["serving_pair"] = traced(module.pairs, module.pair_inputs, tf.string)
    texts = {"text": ("batch",)}
    return found | {
        "tokens": traced(tokens, row, tf.int32),
        "tokens_int64": traced(tokens, row, tf.int64),
        "tokenize": traced(module.tokenize, texts, tf.string),
        "tokenize_pair": traced(module.tokenize, texts | {"text_pair": ("batch",)}, tf.string),
    }


def _described(module: Any, name: str, function: Any) -> dict[str, Any]:
    """Types and shapes of a signature, with the names of axes that have no fixed size."""
    row = dict.fromkeys(module.input_names, module.row)
    text = {"text": ("batch",), "text_pair": ("batch",)}
    flat_row = dict.fromkeys(module.input_names, ("batch", "sequence"))
    axes = {
        "serving_default": module.inputs | module.outputs,
        "serving_pair": module.pair_inputs | module.outputs,
        "tokens": row | module.raw_outputs,
        "tokens_int64": row | module.raw_outputs,
    }.get(name, text | flat_row)

    def described(key: str, spec: Any) -> dict[str, Any]:
        shape = [
            axis if size is None else size
            for axis, size in zip(axes[key], spec.shape.as_list(), strict=True)
        ]
        return {"dtype": spec.dtype.name, "shape": shape}

    inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    return {
        "inputs": {key: described(key, spec) for key, spec in inputs.items()},
        "outputs": {key: described(key, x) for key, x in function.structured_outputs.items()},
    }


def _versions() -> dict[str, str]:
    import keras
    import tensorflow as tf
    import tensorflow_text as tf_text

    return {
        "twin-zoo": zoo.__version__,
        "tensorflow": tf.__version__,
        "tensorflow-text": tf_text.__version__,
        "keras": keras.__version__,
    }


# Warm-up requests ----------------------------------------------------------------------------


def _requests(
    module: Any, sizes: list[int], signatures: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Signature -> requests, one per batch size, with rows as long as they can get."""
    import numpy as np

    longest = module.layer().max_length
    long = " ".join(["text"] * longest)
    if module.task == "ForMaskedLM":
        long = f"{module.mask_token} {long}"

    def strings(names: Mapping[str, tuple], size: int) -> dict[str, Any]:
        return {
            name: np.full(
                (size, SAMPLE_CHOICES)[: len(axes)],
                "What is this?" if name in ("question", "prompt") else long,
                object,
            )
            for name, axes in names.items()
        }

    found: dict[str, list[dict[str, Any]]] = {}
    for size in sizes:
        texts = strings({"text": ("batch",)}, size)
        pairs = strings({"text": ("batch",), "text_pair": ("batch",)}, size)
        ids = {name: x.numpy() for name, x in module.tokenize(texts["text"]).items()}
        if len(module.row) == 3:
            ids = {name: np.stack([x] * SAMPLE_CHOICES, axis=1) for name, x in ids.items()}
        examples = {
            "serving_default": strings(module.inputs, size),
            "serving_pair": pairs,
            "tokens": {name: ids[name].astype(np.int32) for name in module.input_names},
            "tokens_int64": {name: ids[name].astype(np.int64) for name in module.input_names},
            "tokenize": texts,
            "tokenize_pair": pairs,
        }
        for name in signatures:
            found.setdefault(name, []).append(examples[name])
    return found


def prediction_log(model: str, signature: str, inputs: Mapping[str, Any]) -> bytes:
    """A serialised `tensorflow.serving.PredictionLog` that holds one predict request.

    Written by hand, since the package with these messages is not made to be installed beside
    tensorflow. Numbers of the fields: PredictionLog.predict_log 6, PredictLog.request 1,
    PredictRequest.model_spec 1 and .inputs 2, ModelSpec.name 1 and .signature_name 3; key 1 and
    value 2 in the entry of a map.

    Args:
        model: name of the model.
        signature: name of the signature.
        inputs: arrays by name.
    """
    import tensorflow as tf

    spec = _field(1, model.encode()) + _field(3, signature.encode())
    request = _field(1, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])

"""Opens one checkpoint in both frameworks and compares everything they compute from it.

Outputs and loss are compared at unit scale, `max|a - b| / max(1, max|a|)`. A gradient is compared
by its norm, `||a - b|| / ||a||`. Where the true gradient is zero (a bias added to every key shifts
all scores alike, and softmax takes that out again) both frameworks hold nothing but rounding, which
no relative measure can compare. That rounding is of the size of the terms of the sums, which is the
size of the layer's other gradients; so no norm counts for less than a hundredth of the norm of its
layer's whole gradient, and the noise still has to stay below a millionth of it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from zoo.checkpoint import CheckpointError

from . import load_model

TOLERANCE = 1e-5
GRADIENT_FACTOR = 10  # the tolerance of gradients, times that of outputs
NOISE_FLOOR = 0.01


class Row(NamedTuple):
    """One comparison.

    Args:
        name: of the output; of the weight, for a gradient.
        kind: `output`, `loss` or `gradient`.
        part: what the rows of a summary are grouped by, such as `encoder.layer.0`.
        shape: of what was compared.
        difference: relative, as the module says.
        tolerance: the largest difference that is accepted.
    """

    name: str
    kind: str
    part: str
    shape: tuple[int, ...]
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; one that is no number is not."""
        return self.difference <= self.tolerance


def verify(
    folder: str | os.PathLike[str],
    *,
    tolerance: float = TOLERANCE,
    head: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """Runs a checkpoint in PyTorch and in Keras on the same inputs and compares.

    Args:
        folder: the checkpoint, or the name of a repository of the hub.
        tolerance: for outputs and loss; gradients are allowed ten times as much.
        head: published class; by default the one that config.json names.
        seed: of the inputs.

    Returns:
        A row for every output, the loss, and the gradient of every weight.

    Raises:
        CheckpointError: the checkpoint does not fit its class, or the frameworks return different
            outputs or weights.
        ValueError: an argument is impossible.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance: received {tolerance!r}, expected a number above 0")
    ours = _run_torch(folder, head, seed)
    theirs = _run_keras(folder, head, seed)
    rows = []
    for kind in ("output", "loss", "gradient"):
        left, right = ours[kind], theirs[kind]
        if odd := sorted(left.keys() ^ right.keys()):
            raise CheckpointError(f"only one framework returns the {kind} {', '.join(odd)}")
        layers = _layer_norms(left) if kind == "gradient" else {}
        for name, a in left.items():
            b = right[name]
            if a.shape != b.shape:
                raise CheckpointError(f"{kind} {name} has shape {a.shape} and {b.shape}")
            if kind == "gradient":
                difference, limit = _norm(a - b), GRADIENT_FACTOR * tolerance
                difference /= max(_norm(a), NOISE_FLOOR * layers[_part(name)], 1e-30)
            else:
                difference = float(np.max(np.abs(a - b), initial=0.0))
                difference, limit = difference / max(1.0, float(np.max(np.abs(a)))), tolerance
            part = _part(name) if kind == "gradient" else name
            rows.append(Row(name, kind, part, a.shape, difference, limit))
    return rows


def summary(rows: list[Row]) -> list[Row]:
    """The rows of a table to be read: of the gradients of a layer only the worst is kept."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.kind, row.part)
        if key not in worst or worst[key].difference < row.difference or math.isnan(row.difference):
            worst[key] = row
    return list(worst.values())


def print_table(rows: list[Row], title: str, console: Any = None) -> None:
    """Prints the summary of a comparison.

    Args:
        rows: from `verify`.
        title: above the table.
        console: of `rich`; by default standard output.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("compared", no_wrap=True)
    table.add_column("shape / worst weight", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    allowed: dict[str, float] = {}
    for row in summary(rows):
        name, detail = row.name, " x ".join(map(str, row.shape)) or "scalar"
        if row.kind == "gradient":
            part = re.sub(r".*\.(?=layer\.\d+$)", "", row.part)
            name, detail = f"gradient of {part}", row.name.removeprefix(f"{row.part}.")
        style = "green" if row.passed else "bold red"
        table.add_row(name, detail, f"[{style}]{row.difference:.1e}[/]")
        allowed[row.kind] = row.tolerance
    limits = ", ".join(f"{kind} {limit:.0e}" for kind, limit in allowed.items())
    table.caption, table.caption_justify = f"allowed: {limits}", "left"
    (console or Console()).print(table)


# The inputs ----------------------------------------------------------------------------------


def make_inputs(config: Any, head: str, seed: int) -> dict[str, np.ndarray]:
    """Inputs that exercise a class: padding, an odd length, both token types, labels.

    Args:
        config: the model's configuration.
        head: published name of its class.
        seed: of the random numbers.

    Returns:
        Arrays by argument name; ids `(batch, sequence)`, or `(batch, choices, sequence)`.
    """
    draw = np.random.default_rng(seed)
    if config.model_type == "rag":
        count, generator = config.n_docs, config.generator
        texts = [_text(generator, draw) for _ in range(count)]
        inputs = {f"context_{name}": np.concatenate([x[name] for x in texts]) for name in texts[0]}
        inputs["doc_scores"] = draw.normal(size=(3, count))
        answers = _text(generator, draw)
        ids, mask = answers["input_ids"], answers["attention_mask"]
        inputs["decoder_input_ids"] = ids
    elif _has_both(config, head):
        encoder, decoder = (getattr(config, name, config) for name in ("encoder", "decoder"))
        inputs = _text(encoder, draw)
        given = {f"decoder_{name}": value for name, value in _text(decoder, draw).items()}
        ids, mask = given["decoder_input_ids"], given["decoder_attention_mask"]
        inputs |= given
    else:
        several = head.endswith(("ForMultipleChoice", "KnowledgeAugEncoder", "RealmReader"))
        inputs = _text(config, draw, (4,) if several else ())
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
    lengths, shape = mask.sum(-1), ids.shape
    if config.is_decoder and config.add_cross_attention:
        inputs["encoder_hidden_states"] = draw.normal(size=(3, 7, config.hidden_size))
        inputs["encoder_attention_mask"] = (np.arange(7) < [[7], [4], [1]]).astype(np.int64)
    if head.endswith(_WRITERS):
        skipped = (mask == 0) | (draw.random(shape) < 0.5)
        skipped[0, :3] = False
        inputs["labels"] = np.where(skipped, -100, ids)
    elif head.endswith("ForTokenClassification"):
        labels = draw.integers(0, config.num_labels, shape)
        inputs["labels"] = np.where(mask == 1, labels, -100)
    elif head.endswith("ForMultipleChoice"):
        inputs["labels"] = draw.integers(0, shape[1], 3)
    elif head.endswith("ForSequenceClassification"):
        inputs["labels"] = _class_labels(config, draw)
    elif head.endswith("ForQuestionAnswering"):
        inputs["start_positions"] = draw.integers(0, lengths)
        inputs["end_positions"] = draw.integers(inputs["start_positions"], lengths)
    elif head == "DPRReader":
        del inputs["token_type_ids"]
    elif head == "RealmScorer":
        candidates = _text(config, draw, (4,))
        inputs |= {f"candidate_{name}": value for name, value in candidates.items()}
    elif head == "RealmKnowledgeAugEncoder":
        inputs["relevance_score"] = draw.normal(size=shape[:2])
        inputs["labels"] = np.where(mask[:, 0] == 1, ids[:, 0], -100)
    elif head == "RealmReader":
        inputs["relevance_score"] = draw.normal(size=shape[:2])
        inputs["block_mask"] = mask
        inputs["start_positions"] = inputs["end_positions"] = draw.integers(0, lengths)
        inputs["has_answers"] = np.arange(shape[1]) < [[1], [2], [3]]
    return {
        name: value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        for name, value in inputs.items()
    }


# Classes that learn to write the tokens that they read.
_WRITERS = ("ForMaskedLM", "ForCausalLM", "ModelWithLMHead", "Decoder", "EncoderDecoderModel",
            "ForConditionalGeneration", "TokenForGeneration", "SequenceForGeneration")  # fmt: skip


def _has_both(config: Any, head: str) -> bool:
    """Whether a class has an encoder and a decoder; T5's encoder alone has the same config.json."""
    return config.is_encoder_decoder and not head.endswith("EncoderModel")


def _text(
    config: Any, draw: np.random.Generator, choices: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
    """Ids, mask and, where there are any, types of a padded batch."""
    longest = getattr(config, "max_position_embeddings", 23)  # T5 has no last position
    sequence = max(min(23, longest - 1 | 1), 1)
    shape = (3, *choices, sequence)
    lengths = draw.integers(1, sequence + 1, shape[:-1])
    lengths.flat[0] = sequence
    mask = (np.arange(sequence) < lengths[..., None]).astype(np.int64)
    ids = draw.integers(0, config.vocab_size, shape)
    inputs = {
        "input_ids": np.where(mask == 1, ids, config.pad_token_id or 0),
        "attention_mask": mask,
    }
    if "type_vocab_size" in config._fields:
        types = config.type_vocab_size
        found = np.arange(sequence) * types // lengths[..., None]
        inputs["token_type_ids"] = np.minimum(found, types - 1)
    return inputs


def _class_labels(config: Any, draw: np.random.Generator) -> np.ndarray:
    if config.problem_type == "multi_label_classification":
        return draw.integers(0, 2, (3, config.num_labels)).astype(np.float32)
    if config.num_labels == 1 or config.problem_type == "regression":
        return draw.normal(size=3 if config.num_labels == 1 else (3, config.num_labels))
    return draw.integers(0, config.num_labels, 3)


def _projection(shape: tuple[int, ...]) -> np.ndarray:
    """Weights that make a loss of the output of a model that has none of its own."""
    values = np.cos(np.arange(math.prod(shape), dtype=np.float64)) / math.prod(shape)
    return values.reshape(shape).astype(np.float32)


# The two runs --------------------------------------------------------------------------------

_Results = dict[str, dict[str, np.ndarray]]


def _run_torch(folder: Any, head: str | None, seed: int) -> _Results:
    import torch

    model = _with_rotations(load_model("pt_models", folder, head), seed)
    model.eval()
    outputs: dict[str, Any] = {}
    loss = torch.zeros(())
    for prefix, part in _parts(model).items():
        arrays = make_inputs(part.config, type(part).__name__, seed)
        inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
        found = _flat(part(**inputs, **_options(part)))
        own = found.pop("loss", None)
        if own is None:
            own = sum(
                (found[name] * torch.from_numpy(_projection(tuple(found[name].shape)))).sum()
                for name in _WITHOUT_LOSS
                if name in found
            )
        loss = loss + own.sum()  # RAG has one for each question
        outputs |= {prefix + name: value.detach() for name, value in found.items()}
    loss.backward()
    tied = model.tied_weights()
    gradients = {
        name: np.zeros(tuple(p.shape), np.float32) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters(remove_duplicate=False)
        if name not in tied
    }
    return {
        "output": {name: _numbers(value.numpy()) for name, value in outputs.items()},
        "loss": {"loss": loss.detach().numpy()},
        "gradient": gradients,
    }


def _run_keras(folder: Any, head: str | None, seed: int) -> _Results:
    import tensorflow as tf

    from tf_models.modeling import named_weights

    model = _with_rotations(load_model("tf_models", folder, head), seed)
    tied = model.tied_weights()
    weights = {
        name: weight
        for name, weight in named_weights(model)
        if name not in tied and weight.variable.trainable
    }
    outputs: dict[str, Any] = {}
    loss = tf.zeros(())
    with tf.GradientTape() as tape:
        for prefix, part in _parts(model).items():
            head_of_part = type(part).__name__.removeprefix("TF")
            arrays = make_inputs(part.config, head_of_part, seed)
            inputs = {name: tf.constant(value) for name, value in arrays.items()}
            found = _flat(part(**inputs, **_options(part), training=False))
            own = found.pop("loss", None)
            if own is None:
                own = sum(
                    tf.reduce_sum(found[name] * _projection(tuple(found[name].shape)))
                    for name in _WITHOUT_LOSS
                    if name in found
                )
            loss = loss + tf.reduce_sum(own)
            outputs |= {prefix + name: value for name, value in found.items()}
    found = tape.gradient(loss, [weight.variable.value for weight in weights.values()])
    gradients = {}
    for (name, weight), gradient in zip(weights.items(), found, strict=True):
        values = np.zeros(tuple(weight.variable.shape), np.float32)
        if gradient is not None:  # an embedding's has a row for each use
            values = tf.convert_to_tensor(gradient).numpy()
        gradients[name] = values.T if weight.transposed else values
    return {
        "output": {name: _numbers(value.numpy()) for name, value in outputs.items()},
        "loss": {"loss": loss.numpy()},
        "gradient": gradients,
    }


# What a loss is made of where a class has none.
_WITHOUT_LOSS = ("last_hidden_state", "pooler_output", "projected_score", "relevance_score",
                 "start_logits", "end_logits", "relevance_logits", "logits")  # fmt: skip


def _with_rotations(model: Any, seed: int) -> Any:
    """A Reformer draws its rotations anew in every call; these have to be the same ones."""
    if model.config.model_type == "reformer" and model.config.hash_seed is None:
        model.config.hash_seed = seed
    return model


def _parts(model: Any) -> dict[str, Any]:
    """What is run: the model itself, or the parts of one that works on texts between them."""
    if type(model).__name__.endswith("RealmForOpenQA"):
        return {"embedder ": model.embedder, "reader ": model.reader}
    if model.config.model_type == "rag":
        return {"question encoder ": model.question_encoder, "": model}
    return {"": model}


def _options(model: Any) -> dict[str, bool]:
    """All that the class can return, but its cache."""
    config = model.config
    options = {"return_dict": True}
    if not type(model).__name__.endswith("RealmScorer"):
        options |= {"output_hidden_states": True, "output_attentions": True}
    if config.is_decoder or _has_both(config, type(model).__name__):
        options["use_cache"] = False
    return options


def _numbers(values: np.ndarray) -> np.ndarray:
    """Truth values as numbers, which can be subtracted."""
    return values.astype(np.int64) if values.dtype == bool else values


def _flat(output: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs by readable names; states and attentions are lists, one per layer."""
    layers = {"hidden_states": "layer", "attentions": "attention"}
    flat = {}
    for field, value in output.items():
        if field.startswith("past_"):
            continue
        if not isinstance(value, list | tuple):
            flat[field] = value
            continue
        name = layers.get(field, field.removesuffix("s"))
        for number, item in enumerate(value, start=field != "hidden_states"):
            flat[f"{name} {number}" if number else "embeddings"] = item
    return flat


def _part(name: str) -> str:
    """The layer or head that a weight belongs to, else the first two levels of its name."""
    layer = re.match(r"(.*\.layer\.\d+|(?:.*\.)?qa_outputs)\.", name)
    return layer.group(1) if layer else ".".join(name.split(".")[:-1][:2])


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(values, np.float64)))


def _layer_norms(gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, values in gradients.items():
        squares[_part(name)] = squares.get(_part(name), 0.0) + _norm(values) ** 2
    return {part: math.sqrt(square) for part, square in squares.items()}

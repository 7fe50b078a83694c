"""Checks of a model's inputs, the same words in both frameworks.

A dimension that is not known yet (None, while a graph is traced) fits everything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = Sequence[int | None]


def encoder_inputs(
    config: Any,
    embedding_size: int,
    past: int | None,
    *,
    input_ids: Shape | None,
    attention_mask: Shape | None,
    token_type_ids: Shape | None,
    position_ids: Shape | None,
    head_mask: Shape | None,
    inputs_embeds: Shape | None,
    encoder_hidden_states: Shape | None,
    encoder_attention_mask: Shape | None,
) -> tuple[int | None, int | None]:
    """Checks the inputs that a Transformer stack starts from.

    Args:
        embedding_size: width of `inputs_embeds`.
        past: number of positions in the cache, None if not known.
        input_ids, attention_mask, ...: their shapes, None where not given.
    Returns:
        Batch and sequence length.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"expected either input_ids or inputs_embeds, got {given}")
    if input_ids is not None:
        if len(input_ids) != 2:
            raise ValueError(f"input_ids: expected shape (batch, sequence), got {tuple(input_ids)}")
        batch, sequence = input_ids
    else:
        assert_shape("inputs_embeds", inputs_embeds, (None, None, embedding_size))
        batch, sequence = inputs_embeds[:2]  # type: ignore[index]
    total = None if past is None or sequence is None else past + sequence
    limit = config.max_position_embeddings
    if position_ids is None and total is not None and limit is not None and total > limit:
        raise ValueError(
            f"the sequence has {total} positions, but config.max_position_embeddings is {limit}"
        )
    assert_batch_shape("token_type_ids", token_type_ids, (batch, sequence))
    assert_batch_shape("position_ids", position_ids, (batch, sequence))
    _assert_mask_shape("attention_mask", attention_mask, batch, sequence, total)
    head_masks(config, head_mask=head_mask)
    if encoder_hidden_states is None:
        if encoder_attention_mask is not None:
            raise ValueError("encoder_attention_mask: given without encoder_hidden_states")
    else:
        if not (config.is_decoder and config.add_cross_attention):
            raise ValueError(
                "encoder_hidden_states: this model has no cross-attention; "
                "set config.is_decoder=True and config.add_cross_attention=True"
            )
        expected = (batch, None, config.hidden_size)
        assert_shape("encoder_hidden_states", encoder_hidden_states, expected)
        _assert_mask_shape(
            "encoder_attention_mask",
            encoder_attention_mask,
            batch,
            sequence,
            encoder_hidden_states[1],
        )
    return batch, sequence


def rag_parts(question_encoder: Any | None, generator: Any | None) -> None:
    """Checks the two models that a RAG model is joined from."""
    if question_encoder is None or generator is None:
        raise ValueError("expected a config, or both a question_encoder and a generator")
    if not generator.config.is_encoder_decoder or generator.get_output_embeddings() is None:
        raise ValueError(
            "generator: expected a model with encoder, decoder and language-model head, got "
            f"{type(generator).__name__}"
        )


def passages(
    n_docs: int,
    doc_scores: Shape,
    context_input_ids: Shape | None,
    context_attention_mask: Shape | None,
    decoder_input_ids: Shape | None = None,
) -> None:
    """Checks that there are `n_docs` scores and contexts for each question."""
    if n_docs <= 0:
        raise ValueError(f"n_docs: received {n_docs}, expected a number above 0")
    assert_shape("doc_scores", doc_scores, (None, n_docs))
    batch, length = doc_scores[0], None
    rows = None if batch is None else batch * n_docs
    if context_input_ids is not None:
        assert_shape("context_input_ids", context_input_ids, (rows, None))
        length = context_input_ids[1]
    assert_shape("context_attention_mask", context_attention_mask, (rows, length))
    assert_shape("decoder_input_ids (the labels)", decoder_input_ids, (batch, None))


def tokenized_passages(found: Mapping[str, Any]) -> None:
    """Checks that a retriever gives passages for a context encoder."""
    if "tokenized_doc_ids" not in found:
        raise ValueError(
            "the context encoder is to be trained, but the retriever gives no passages for it: "
            "call retriever.set_ctx_encoder_tokenizer(tokenizer) before"
        )


def no_outputs_of_steps(kwargs: Mapping[str, Any]) -> None:
    """Refuses what RAG-Sequence's decoding, which has no steps of its own, cannot return."""
    for name in ("return_dict_in_generate", "output_scores", "output_logits", "streamer"):
        if kwargs.get(name):
            raise ValueError(
                f"{name}: RAG-Sequence generates with each passage and chooses then; it returns "
                "sequences only"
            )


def enough_answers(wanted: int, found: int, row: int) -> None:
    """Checks that there are as many different answers as are to be returned."""
    if wanted > found:
        raise ValueError(
            f"num_return_sequences: received {wanted}, but question {row} has {found} different "
            "answers; raise num_beams or n_docs, or set do_deduplication=False"
        )


def needed(reason: str, **shapes: Shape | None) -> None:
    """Checks that inputs are given without which nothing can be done."""
    for name, shape in shapes.items():
        if shape is None:
            raise ValueError(f"{name}: expected {reason}, got None")


def no_projection(config: Any) -> None:
    """Checks that a DPR reader, which has no use for a text's vector, projects none."""
    if config.projection_dim:
        raise ValueError(f"projection_dim: received {config.projection_dim}, a reader has 0")


def head_masks(config: Any, **shapes: Shape | None) -> None:
    """Checks masks of attention heads, by name, None where not given."""
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    for name, shape in shapes.items():
        if shape is not None and tuple(shape) not in ((heads,), (layers, heads)):
            raise ValueError(
                f"{name}: expected shape ({heads},) or ({layers}, {heads}), got {tuple(shape)}"
            )


def caches(config: Any, past_key_values: Sequence[Sequence[Any]], cross_attention: bool) -> None:
    """Checks that a cache has two tensors for every layer, four with cross-attention."""
    layers, parts = config.num_hidden_layers, 4 if cross_attention else 2
    if len(past_key_values) != layers or any(len(cache) < parts for cache in past_key_values):
        raise ValueError(
            f"past_key_values: expected {layers} layers of {parts} tensors, "
            f"got {len(past_key_values)} of {min(map(len, past_key_values), default=0)}"
        )


def both_halves(encoder: Any | None, decoder: Any | None) -> None:
    """Checks that an EncoderDecoder is given both of its halves where it has no configuration."""
    if encoder is None or decoder is None:
        raise ValueError("expected a config, or both an encoder and a decoder")


def halves(encoder: Any, decoder: Any, call: Callable[..., Any], config: Any) -> None:
    """Checks that two models can be joined into an EncoderDecoder.

    Args:
        call: the decoder's `forward` or `call`.
        config: the whole's.
    """
    if encoder.get_output_embeddings() is not None:
        raise ValueError(
            f"encoder: expected a model without language-model head, got {type(encoder).__name__}"
        )
    if "encoder_hidden_states" not in inspect.signature(call).parameters:
        raise ValueError(f"decoder: {type(decoder).__name__} has no cross-attention")
    if not decoder.config.add_cross_attention:
        raise ValueError(
            f"decoder: this {type(decoder).__name__} was made without cross-attention; make it "
            "with config.is_decoder=True and config.add_cross_attention=True"
        )
    if encoder.config.is_decoder:
        raise ValueError("encoder: config.is_decoder is True, expected False")
    families = encoder.config.model_type, decoder.config.model_type
    if config.tie_encoder_decoder and families[0] != families[1]:
        raise ValueError(
            f"tie_encoder_decoder: an encoder of the family {families[0]!r} cannot share its "
            f"weights with a decoder of the family {families[1]!r}"
        )


def one_vocabulary(config: Any) -> None:
    """Checks that an EncoderDecoder has one vocabulary, and not one for each half."""
    if not config.tie_encoder_decoder:
        raise NotImplementedError(
            "resize_token_embeddings: encoder and decoder have a vocabulary each; use "
            "model.encoder.resize_token_embeddings or model.decoder.resize_token_embeddings"
        )


def inputs_of_halves(
    inputs: Mapping[str, Any], encoder: Callable[..., Any], decoder: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sorts the further inputs of an EncoderDecoder, refusing what neither half takes.

    Args:
        inputs: those of the decoder have `decoder_` in front.
        encoder, decoder: their `forward` or `call`.
    Returns:
        The inputs of either half, under its own names.
    """
    if not inputs:
        return {}, {}
    takes = [set(inspect.signature(call).parameters) for call in (encoder, decoder)]
    fixed = {"encoder_hidden_states", "encoder_attention_mask", "labels", "training"}
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, value in inputs.items():
        half = int(name.startswith("decoder_"))
        own = name.removeprefix("decoder_")
        if own not in takes[half] - fixed:
            known = sorted(takes[0] - fixed | {f"decoder_{x}" for x in takes[1] - fixed})
            raise ValueError(f"{name}: neither half has such an input; they take {known}")
        found[half][own] = value
    return found


def decoder_inputs(config: Any, labels: bool) -> None:
    """Checks that a decoder's inputs can be made of labels."""
    if not labels:
        raise ValueError("expected decoder_input_ids, decoder_inputs_embeds or labels, got none")
    for name in ("decoder_start_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            raise ValueError(
                f"config.{name} is None: set it, or pass decoder_input_ids; the decoder's inputs "
                "are the labels shifted right behind the start token, with padding for -100"
            )


def span(start_positions: Any | None, end_positions: Any | None) -> bool:
    """Whether a span is given, and not half of one."""
    if (start_positions is None) != (end_positions is None):
        given = "start_positions" if end_positions is None else "end_positions"
        raise ValueError(
            f"start_positions and end_positions: expected both or neither, got {given} only"
        )
    return start_positions is not None


def label_shape(name: str, shape: Shape, predictions: Shape) -> None:
    """Checks that there is one label per prediction; a last axis of one is allowed."""
    if len(shape) == len(predictions) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    assert_shape(name, shape, predictions)


def alike(dimensions: Sequence[str], **shapes: Shape | None) -> tuple[int | None, ...]:
    """Checks that all inputs that are given have one shape.

    Args:
        dimensions: what its axes are called.
        shapes: by the name of the input, None where not given.
    Returns:
        The shape.
    """
    expected: tuple[int | None, ...] = (None,) * len(dimensions)
    for name, shape in shapes.items():
        if shape is not None:
            if len(shape) != len(expected):
                words = ", ".join(dimensions)
                raise ValueError(f"{name}: expected shape ({words}), got {tuple(shape)}")
            assert_shape(name, shape, expected)
            expected = tuple(b if a is None else a for a, b in zip(expected, shape, strict=True))
    return expected


def not_returned(model: str, **flags: bool | None) -> None:
    """Refuses to be asked for what a model does not return."""
    for name, flag in flags.items():
        if flag:
            raise ValueError(f"{name}: {model} returns scores only, expected None or False")


def candidates(rows: int | None, batch: int | None) -> None:
    """Checks that every example has the same number of candidates.

    Args:
        rows: candidates of all examples together.
        batch: number of examples.
    """
    if rows is not None and batch is not None and (batch == 0 or rows % batch):
        raise ValueError(f"expected as many candidates for each text, got {rows} for {batch} texts")


def marginal(
    shape: Shape, *, relevance_score: Shape | None, labels: Shape, mlm_mask: Shape | None
) -> None:
    """Checks what a loss over several candidates is computed from.

    Args:
        shape: `(batch, candidates, sequence)` of the inputs.
        relevance_score, labels, mlm_mask: their shapes.
    """
    batch, count, sequence = shape
    if relevance_score is None:
        raise ValueError("relevance_score: expected (batch, candidates) together with labels")
    assert_shape("relevance_score", relevance_score, (batch, count))
    assert_shape("labels", labels, (batch, sequence))
    assert_shape("mlm_mask", mlm_mask, (batch, sequence))


def read_blocks(
    shape: Shape,
    *,
    relevance_score: Shape,
    start_positions: Shape | None,
    end_positions: Shape | None,
    has_answers: Shape | None,
) -> bool:
    """Checks what goes with blocks that are read.

    Args:
        shape: `(batch, beam, sequence)` of the blocks.
        relevance_score, start_positions, end_positions, has_answers: their shapes.
    Returns:
        Whether there are answers to learn from.
    """
    batch, beam, _ = shape
    assert_shape("relevance_score", relevance_score, (batch, None))
    blocks = relevance_score[1]
    if None not in (blocks, beam) and blocks < beam:  # type: ignore[operator]
        raise ValueError(f"relevance_score: expected {beam} blocks or more, got {blocks}")
    positions = {"start_positions": start_positions, "end_positions": end_positions}
    given = [has_answers, *positions.values()]
    if any(given) and not all(given):
        missing = [
            name
            for name, value in {**positions, "has_answers": has_answers}.items()
            if value is None
        ]
        raise ValueError(f"{', '.join(missing)}: expected with the other labels, got None")
    for name, value in positions.items():
        if value is not None:
            assert_shape(name, value, (batch, blocks, None)[: max(len(value), 2)])
    assert_shape("has_answers", has_answers, (batch, blocks))
    return has_answers is not None


def values(name: str, lowest: int, highest: int, size: int, ignored: int | None = None) -> None:
    """Raises a ValueError unless everything from `lowest` to `highest` is a row of a table."""
    if lowest < 0 or highest >= size:
        besides = "" if ignored is None else f" or {ignored}"
        raise ValueError(
            f"{name}: expected values from 0 to {size - 1}{besides}, "
            f"got {lowest if lowest < 0 else highest}"
        )


def assert_batch_shape(name: str, shape: Shape | None, expected: Shape) -> None:
    """As `assert_shape`, where a single example also serves a whole batch."""
    if shape is not None and len(shape) == len(expected) and shape[0] == 1:
        expected = (None, *expected[1:])
    assert_shape(name, shape, expected)


def assert_shape(name: str, shape: Shape | None, expected: Shape) -> None:
    """Raises a ValueError unless `shape` is `expected`, where None fits everything."""
    if shape is not None and (
        len(shape) != len(expected)
        or any(
            got is not None and wanted is not None and got != wanted
            for got, wanted in zip(shape, expected, strict=True)
        )
    ):
        words = ", ".join("any" if size is None else str(size) for size in expected)
        comma = "," if len(expected) == 1 else ""
        raise ValueError(f"{name}: expected shape ({words}{comma}), got {tuple(shape)}")


def _assert_mask_shape(
    name: str, shape: Shape | None, batch: int | None, queries: int | None, keys: int | None
) -> None:
    square = shape is not None and len(shape) == 3
    assert_batch_shape(name, shape, (batch, queries, keys) if square else (batch, keys))

"""What models return: one set of classes for both frameworks.

An output answers to attribute, key, index, slice and `to_tuple()`, and holds only what was asked
for: a field that was not computed is `None` as an attribute and absent everywhere else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class ModelOutput(OrderedDict):
    """An ordered dictionary whose keys are the annotated fields of the class."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = tuple(name for name in cls.__dict__.get("__annotations__", {}))
        cls.fields = cls.__base__.fields + own  # type: ignore[union-attr]

    def __init__(self, *values: Any, **named: Any) -> None:
        """Takes the fields by position or name, or one mapping or iterator of pairs.

        The latter two are how tree libraries rebuild an output.
        """
        if len(values) == 1 and isinstance(values[0], Mapping | Iterator):
            items = dict(values[0])
        else:
            if len(values) > len(self.fields):
                raise ValueError(
                    f"{type(self).__name__} has {len(self.fields)} fields, got {len(values)} values"
                )
            items = dict(zip(self.fields, values, strict=False))
        for name, value in (items | named).items():
            if value is not None:
                self[name] = value

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return OrderedDict.__getitem__(self, name)
        if name in self.fields:
            return None
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {self.fields}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.fields:
            super().__setattr__(name, value)
        elif value is None:
            self.pop(name, None)
        else:
            self[name] = value

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return OrderedDict.__getitem__(self, key)
        return self.to_tuple()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if key not in self.fields:
            raise KeyError(f"{type(self).__name__} has no field {key!r}; it has {self.fields}")
        OrderedDict.__setitem__(self, key, value)

    def to_tuple(self) -> tuple[Any, ...]:
        """The values present, in the order of the fields."""
        return tuple(OrderedDict.__getitem__(self, name) for name in self.fields if name in self)


class BaseModelOutput(ModelOutput):
    """Of an encoder; the fields are as below."""

    last_hidden_state: Any
    hidden_states: Any
    attentions: Any


class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Of a bare encoder or decoder without pooler; the fields are as below."""

    last_hidden_state: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Of a bare encoder or decoder.

    `last_hidden_state` `(batch, sequence, hidden)`; `pooler_output` `(batch, hidden)`;
    `hidden_states` one `(batch, sequence, hidden)` for the embeddings and one per layer;
    `past_key_values` per layer two or four `(batch, heads, sequence, head_dim)`;
    `attentions`, `cross_attentions` one `(batch, heads, sequence, sequence)` per layer.
    """

    last_hidden_state: Any
    pooler_output: Any
    hidden_states: Any
    past_key_values: Any
    attentions: Any
    cross_attentions: Any


class MaskedLMOutput(ModelOutput):
    """`loss` scalar; `logits` `(batch, sequence, vocab)`."""

    loss: Any
    logits: Any
    hidden_states: Any
    attentions: Any


class CausalLMOutputWithCrossAttentions(ModelOutput):
    """`loss` scalar; `logits` `(batch, sequence, vocab)`; the caches of a decoder."""

    loss: Any
    logits: Any
    past_key_values: Any
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class Seq2SeqModelOutput(ModelOutput):
    """Of an encoder with a decoder that has no head; the fields are as below."""

    last_hidden_state: Any
    past_key_values: Any
    decoder_hidden_states: Any
    decoder_attentions: Any
    cross_attentions: Any
    encoder_last_hidden_state: Any
    encoder_hidden_states: Any
    encoder_attentions: Any


class Seq2SeqLMOutput(ModelOutput):
    """Of an encoder with a decoder.

    `loss` scalar; `logits` `(batch, decoder_sequence, vocab)`; `past_key_values`,
    `decoder_hidden_states`, `decoder_attentions` and `cross_attentions` of the decoder;
    `encoder_last_hidden_state` `(batch, sequence, encoder_hidden)`, `encoder_hidden_states` and
    `encoder_attentions` of the encoder.
    """

    loss: Any
    logits: Any
    past_key_values: Any
    decoder_hidden_states: Any
    decoder_attentions: Any
    cross_attentions: Any
    encoder_last_hidden_state: Any
    encoder_hidden_states: Any
    encoder_attentions: Any


class ReformerModelOutput(ModelOutput):
    """Of a bare Reformer.

    `last_hidden_state` `(batch, sequence, 2 * hidden)`, both streams; `past_buckets_states` per
    layer the buckets `(batch, heads, hashes, sequence)`, None where there are none, and the states
    `(batch, sequence, hidden)` that attention saw; `hidden_states` one `(batch, sequence, hidden)`
    for the embeddings and one per layer; `attentions` per layer
    `(batch, heads, chunks, chunk, keys)`, the chunks of all hashes.
    """

    last_hidden_state: Any
    past_buckets_states: Any
    hidden_states: Any
    attentions: Any


class ReformerModelWithLMHeadOutput(ModelOutput):
    """`loss` scalar; `logits` `(batch, sequence, vocab)`; the rest as of a bare Reformer."""

    loss: Any
    logits: Any
    past_buckets_states: Any
    hidden_states: Any
    attentions: Any


class SequenceClassifierOutput(ModelOutput):
    """`loss` scalar; `logits` `(batch, labels)`."""

    loss: Any
    logits: Any
    hidden_states: Any
    attentions: Any


class MultipleChoiceModelOutput(ModelOutput):
    """`loss` scalar; `logits` `(batch, choices)`."""

    loss: Any
    logits: Any
    hidden_states: Any
    attentions: Any


class TokenClassifierOutput(ModelOutput):
    """`loss` scalar; `logits` `(batch, sequence, labels)`."""

    loss: Any
    logits: Any
    hidden_states: Any
    attentions: Any


class QuestionAnsweringModelOutput(ModelOutput):
    """`loss` scalar; `start_logits` and `end_logits` `(batch, sequence)`."""

    loss: Any
    start_logits: Any
    end_logits: Any
    hidden_states: Any
    attentions: Any


class RealmEmbedderOutput(ModelOutput):
    """`projected_score` `(batch, retriever_proj_size)`: what retrieval compares."""

    projected_score: Any
    hidden_states: Any
    attentions: Any


class RealmScorerOutput(ModelOutput):
    """Relevance, and what it is the inner product of.

    `relevance_score` `(batch, candidates)`; `query_score` `(batch, retriever_proj_size)`;
    `candidate_score` `(batch, candidates, retriever_proj_size)`.
    """

    relevance_score: Any
    query_score: Any
    candidate_score: Any


class RealmReaderOutput(ModelOutput):
    """Of one question; of several, one more axis stands in front of all but the losses.

    `loss`, `retriever_loss`, `reader_loss` scalars; `retriever_correct` `(blocks,)`;
    `reader_correct` `(beam, spans)`; `block_idx` and `candidate` `()`; `start_pos` and `end_pos`
    `(1,)`, or `(batch,)` of several questions.
    """

    loss: Any
    retriever_loss: Any
    reader_loss: Any
    retriever_correct: Any
    reader_correct: Any
    block_idx: Any
    candidate: Any
    start_pos: Any
    end_pos: Any
    hidden_states: Any
    attentions: Any


class RealmForOpenQAOutput(ModelOutput):
    """`reader_output` a `RealmReaderOutput`; `predicted_answer_ids` `(answer,)`.

    Of several questions `predicted_answer_ids` is `(batch, max_span_width)`, with -1 behind.
    """

    reader_output: Any
    predicted_answer_ids: Any


class DPRQuestionEncoderOutput(ModelOutput):
    """`pooler_output` `(batch, hidden or projection)`, the vector of each text."""

    pooler_output: Any
    hidden_states: Any
    attentions: Any


class DPRContextEncoderOutput(ModelOutput):
    """`pooler_output` `(batch, hidden or projection)`, the vector of each text."""

    pooler_output: Any
    hidden_states: Any
    attentions: Any


class DPRReaderOutput(ModelOutput):
    """`start_logits`, `end_logits` `(passages, sequence)`; `relevance_logits` `(passages,)`."""

    start_logits: Any
    end_logits: Any
    relevance_logits: Any
    hidden_states: Any
    attentions: Any


class RetrievAugLMMarginOutput(ModelOutput):
    """Of RAG with a head; D passages for each question.

    `loss` `(batch,)`, or scalar if reduced; `logits` `(batch * D, sequence, vocab)`, or
    `(batch, sequence, vocab)` if the passages were summed over; `doc_scores` `(batch, D)`;
    `past_key_values` of the generator; `retrieved_doc_embeds` `(batch, D, dimension)`,
    `retrieved_doc_ids` `(batch, D)`, `context_input_ids` and `context_attention_mask`
    `(batch * D, length)` with `output_retrieved`; `question_encoder_last_hidden_state`
    `(batch, dimension)`, the vectors of the questions; states and attentions of the question
    encoder and of the generator's halves.
    """

    loss: Any
    logits: Any
    doc_scores: Any
    past_key_values: Any
    retrieved_doc_embeds: Any
    retrieved_doc_ids: Any
    context_input_ids: Any
    context_attention_mask: Any
    question_encoder_last_hidden_state: Any
    question_enc_hidden_states: Any
    question_enc_attentions: Any
    generator_enc_last_hidden_state: Any
    generator_enc_hidden_states: Any
    generator_enc_attentions: Any
    generator_dec_hidden_states: Any
    generator_dec_attentions: Any
    generator_cross_attentions: Any


class RetrievAugLMOutput(ModelOutput):
    """Of RAG without a head; the fields are those of `RetrievAugLMMarginOutput`, but the loss."""

    logits: Any
    doc_scores: Any
    past_key_values: Any
    retrieved_doc_embeds: Any
    retrieved_doc_ids: Any
    context_input_ids: Any
    context_attention_mask: Any
    question_encoder_last_hidden_state: Any
    question_enc_hidden_states: Any
    question_enc_attentions: Any
    generator_enc_last_hidden_state: Any
    generator_enc_hidden_states: Any
    generator_enc_attentions: Any
    generator_dec_hidden_states: Any
    generator_dec_attentions: Any
    generator_cross_attentions: Any


def output_classes(base: type[ModelOutput] = ModelOutput) -> list[type[ModelOutput]]:
    """Every output class there is: what a framework registers with its tree library."""
    found = [base]
    for child in base.__subclasses__():
        found += output_classes(child)
    return found

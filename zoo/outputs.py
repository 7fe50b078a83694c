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


def output_classes(base: type[ModelOutput] = ModelOutput) -> list[type[ModelOutput]]:
    """Every output class there is: what a framework registers with its tree library."""
    found = [base]
    for child in base.__subclasses__():
        found += output_classes(child)
    return found

"""RemBERT: BERT with input and output embeddings of different widths.

Paper: Chung et al. 2020, "Rethinking embedding coupling in pre-trained language models".
Weights: google/rembert (encoder only; the published files lack the masked-LM head).
It differs from BERT in small input embeddings that are mapped to the hidden size, and in a
masked-LM head that widens to a large output embedding of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo import checks
from zoo.configs import RemBertConfig
from zoo.outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from .activations import activation
from .attention import attention_bias, causal_mask
from .bert import Cache, Embeddings, Layer, Pooler, StackOutput, run_layers
from .generation import GenerationMixin
from .losses import classification_loss, cross_entropy, next_token_loss, span_loss
from .modeling import PreTrainedModel, default, logger


class RemBertEncoder(nn.Module):
    """Maps embeddings to the hidden size and runs the layers."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(
            config.input_embedding_size, config.hidden_size
        )
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, embeddings: Tensor, *inputs: Any) -> StackOutput:
        """Takes `(batch, sequence, input_embedding)` and what `run_layers` takes."""
        return run_layers(self.layer, self.embedding_hidden_mapping_in(embeddings), *inputs)


class RemBertPreTrainedModel(PreTrainedModel):
    config_class = RemBertConfig
    base_model_prefix = "rembert"
    optional_weights = (r"^pooler\.", r"\.crossattention\.")


class RemBertModel(RemBertPreTrainedModel):
    """The bare encoder, or decoder with `config.is_decoder` (and `config.add_cross_attention`).

    Args:
        config: the configuration.
        add_pooling_layer: whether `pooler_output` is computed.
    """

    def __init__(self, config: RemBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config, config.input_embedding_size)
        self.encoder = RemBertEncoder(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)` with the past's positions, or
                `(batch, sequence, sequence)`; 1 attend, 0 do not.
            token_type_ids, position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, input_embedding)`, instead of `input_ids`.
            encoder_hidden_states: `(batch, encoder_sequence, hidden)`, for cross-attention.
            encoder_attention_mask: `(batch, encoder_sequence)`.
            past_key_values: of an earlier call; then only the new tokens are passed.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return;
                by default as the config says.
        """
        config = self.config
        decoder = config.is_decoder
        use_cache = decoder and default(use_cache, config.use_cache)
        if use_cache and self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            use_cache = False  # recomputation and caches exclude each other
        output_attentions = default(output_attentions, config.output_attentions)
        output_hidden_states = default(output_hidden_states, config.output_hidden_states)
        past = 0
        if past_key_values is not None:
            checks.caches(config, past_key_values, encoder_hidden_states is not None)
            past = past_key_values[0][0].shape[2]
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        batch, sequence = checks.encoder_inputs(config, config.input_embedding_size, past, **shapes)

        embeddings = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past)
        if decoder and (attention_mask is None or attention_mask.dim() == 2):
            if attention_mask is None:
                attention_mask = embeddings.new_ones(batch, past + sequence)
            attention_mask = causal_mask(attention_mask, sequence)
        encoded = self.encoder(
            embeddings,
            attention_bias(attention_mask, embeddings.dtype),
            head_mask,
            encoder_hidden_states,
            attention_bias(encoder_attention_mask, embeddings.dtype),
            past_key_values,
            use_cache,
            output_attentions,
            output_hidden_states,
            self._layer_caller(),
        )
        pooled = self.pooler(encoded.last_hidden_state) if self.pooler is not None else None
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            encoded.last_hidden_state,
            pooled,
            encoded.hidden_states,
            encoded.past_key_values,
            encoded.attentions,
            encoded.cross_attentions,
        )
        if default(return_dict, config.use_return_dict):
            return output
        # The second place is the pooler's also where there is none.
        rest = (encoded.past_key_values, encoded.hidden_states, encoded.attentions)
        rest = tuple(x for x in (*rest, encoded.cross_attentions) if x is not None)
        return (encoded.last_hidden_state, pooled, *rest)


class RemBertPredictionHead(nn.Module):
    """Widens to the output embedding and scores the vocabulary."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.output_embedding_size)
        self.activation = activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.output_embedding_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.output_embedding_size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, sequence, vocab)`."""
        return self.decoder(self.LayerNorm(self.activation(self.dense(hidden))))


class RemBertOnlyMLMHead(nn.Module):
    """Holds the prediction head under its published name."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__()
        self.predictions = RemBertPredictionHead(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.predictions(hidden)


class RemBertLMHeadModel(RemBertPreTrainedModel):
    """What the two language models share: the encoder, the head and its embeddings."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        self.rembert = RemBertModel(config, add_pooling_layer=False)
        self.cls = RemBertOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.cls.predictions.decoder = value
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        if not self.config.tie_word_embeddings:
            return {}
        return {"cls.predictions.decoder.weight": "rembert.embeddings.word_embeddings.weight"}


class RemBertForMaskedLM(RemBertLMHeadModel):
    """RemBERT that predicts masked tokens."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As `RemBertModel`, and:

        Args:
            labels: `(batch, sequence)`; -100 is left out of the loss.
        """
        encoded = self.rembert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class RemBertForCausalLM(GenerationMixin, RemBertLMHeadModel):
    """RemBERT that predicts the next token; a decoder with `config.is_decoder`."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            logger.warning(
                "RemBertForCausalLM sees the tokens it predicts unless config.is_decoder=True"
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `RemBertModel`, and:

        Args:
            labels: `(batch, sequence)`, the inputs themselves; -100 is left out of the loss.
        """
        encoded = self.rembert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else next_token_loss(logits, labels)
        output = CausalLMOutputWithCrossAttentions(
            loss,
            logits,
            encoded.past_key_values,
            encoded.hidden_states,
            encoded.attentions,
            encoded.cross_attentions,
        )
        return self._returned(output, return_dict)


class RemBertForSequenceClassification(RemBertPreTrainedModel):
    """RemBERT that labels a text: regression, one label, or several."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        self.rembert = RemBertModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `RemBertModel`, and:

        Args:
            labels: `(batch,)`, or `(batch, labels)`; see `losses.classification_loss`.
        """
        encoded = self.rembert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class RemBertForMultipleChoice(RemBertPreTrainedModel):
    """RemBERT that picks one of several texts."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        self.rembert = RemBertModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """As `RemBertModel`, with `(batch, choices, sequence)` in place of `(batch, sequence)`.

        Args:
            labels: `(batch,)`, the number of the right choice.
        """
        first = input_ids if inputs_embeds is None else inputs_embeds
        if first is None or first.dim() != (3 if inputs_embeds is None else 4):
            raise ValueError(
                "input_ids (or inputs_embeds): expected shape (batch, choices, sequence[, width]), "
                f"got {None if first is None else tuple(first.shape)}"
            )
        flat = [
            None if x is None else x.flatten(0, 1)
            for x in (input_ids, attention_mask, token_type_ids, position_ids)
        ]
        encoded = self.rembert(
            *flat,
            head_mask,
            None if inputs_embeds is None else inputs_embeds.flatten(0, 1),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        # (batch * choices, 1) -> (batch, choices)
        logits = self.classifier(self.dropout(encoded.pooler_output)).view(-1, first.shape[1])
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MultipleChoiceModelOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class RemBertForTokenClassification(RemBertPreTrainedModel):
    """RemBERT that labels every token."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        self.rembert = RemBertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """As `RemBertModel`, and:

        Args:
            labels: `(batch, sequence)`; -100 is left out of the loss.
        """
        encoded = self.rembert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        loss = None if labels is None else cross_entropy(logits, labels)
        output = TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class RemBertForQuestionAnswering(RemBertPreTrainedModel):
    """RemBERT that marks an answer's first and last token in a text."""

    def __init__(self, config: RemBertConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ValueError(
                "config.num_labels: expected 2 (start and end of a span) for question answering, "
                f"got {config.num_labels}"
            )
        self.rembert = RemBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As `RemBertModel`, and:

        Args:
            start_positions, end_positions: `(batch,)`; outside the sequence they do not count.
        """
        encoded = self.rembert(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        loss = None
        if checks.span(start_positions, end_positions):
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start_logits, end_logits, encoded.hidden_states, encoded.attentions
        )
        return self._returned(output, return_dict)

"""RemBERT: BERT with input and output embeddings of different widths.

Paper: Chung et al. 2020, "Rethinking embedding coupling in pre-trained language models".
Weights: google/rembert (encoder only; the published files lack the masked-LM head).
It differs from BERT in small input embeddings that are mapped to the hidden size, and in a
masked-LM head that widens to a large output embedding of its own.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

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
from .attention import attention_bias, cached_length, causal_mask
from .bert import Cache, Embeddings, Layer, Pooler, StackOutput, run_layers
from .generation import TFGenerationMixin
from .layers import (
    Block,
    Dense,
    LayerNorm,
    VocabularyProjection,
    dropout,
    replace_part,
)
from .losses import classification_loss, cross_entropy, next_token_loss, span_loss
from .modeling import TFPreTrainedModel, default, logger


class TFRemBertEncoder(Block):
    """Maps embeddings to the hidden size and runs the layers."""

    def __init__(self, config: RemBertConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.embedding_hidden_mapping_in = Dense(
            config.input_embedding_size, config.hidden_size, config.initializer_range, dtype=dtype
        )
        self.layer = [Layer(config, dtype=dtype) for _ in range(config.num_hidden_layers)]

    def call(
        self,
        embeddings: Any,
        bias: Any | None = None,
        head_mask: Any | None = None,
        encoder_hidden: Any | None = None,
        encoder_bias: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        **options: Any,
    ) -> StackOutput:
        """Takes `(batch, sequence, input_embedding)` and what `run_layers` takes."""
        hidden = self.embedding_hidden_mapping_in(embeddings)
        inputs = (bias, head_mask, encoder_hidden, encoder_bias, past_key_values)
        return run_layers(self.layer, hidden, *inputs, **options)


class TFRemBertPreTrainedModel(TFPreTrainedModel):
    config_class = RemBertConfig
    base_model_prefix = "rembert"
    optional_weights = (r"^pooler\.", r"\.crossattention\.")

    def _drop(self, x: Any, training: bool | None) -> Any:
        """The dropout before a classifier."""
        return dropout(x, self.config.classifier_dropout_prob, self._seeds(training).next())


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertModel(TFRemBertPreTrainedModel):
    """The bare encoder, or decoder with `config.is_decoder` (and `config.add_cross_attention`).

    Args:
        config: the configuration.
        add_pooling_layer: whether `pooler_output` is computed.
    """

    def __init__(
        self, config: RemBertConfig, add_pooling_layer: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        self.embeddings = Embeddings(config, config.input_embedding_size, dtype=self.dtype_policy)
        self.encoder = TFRemBertEncoder(config, dtype=self.dtype_policy)
        self.pooler = Pooler(config, dtype=self.dtype_policy) if add_pooling_layer else None
        self.post_init()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "add_pooling_layer": self.pooler is not None}

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        encoder_hidden_states: Any | None = None,
        encoder_attention_mask: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
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
        if use_cache and self.gradient_checkpointing and training:
            use_cache = False  # recomputation and caches exclude each other
        output_attentions = default(output_attentions, config.output_attentions)
        output_hidden_states = default(output_hidden_states, config.output_hidden_states)
        past = 0
        if past_key_values is not None:
            checks.caches(config, past_key_values, encoder_hidden_states is not None)
            past = cached_length(past_key_values)
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
        static_past = past if isinstance(past, int) else None
        checks.encoder_inputs(config, config.input_embedding_size, static_past, **shapes)

        seeds = self._seeds(training)
        embeddings = self.embeddings(
            input_ids, token_type_ids, position_ids, inputs_embeds, past=past, seed=seeds.next()
        )
        if decoder and (attention_mask is None or len(attention_mask.shape) == 2):
            batch, sequence, _ = ops.shape(embeddings)
            if attention_mask is None:
                attention_mask = ops.ones((batch, past + sequence), "int32")
            attention_mask = causal_mask(attention_mask, sequence)
        encoded = self.encoder(
            embeddings,
            attention_bias(attention_mask, self.compute_dtype),
            head_mask,
            encoder_hidden_states,
            attention_bias(encoder_attention_mask, self.compute_dtype),
            past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            call=self._layer_caller(training),
            seeds=seeds,
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


class TFRemBertPredictionHead(Block):
    """Widens to the output embedding and scores the vocabulary."""

    def __init__(self, config: RemBertConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.output_embedding_size, config.initializer_range
        self.dense = Dense(config.hidden_size, width, stddev, dtype=dtype)
        self.activation = activation(config.hidden_act)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps, dtype=dtype)
        self.decoder = VocabularyProjection(width, config.vocab_size, stddev, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, sequence, vocab)`."""
        return self.decoder(self.LayerNorm(self.activation(self.dense(hidden))))


class TFRemBertOnlyMLMHead(Block):
    """Holds the prediction head under its published name."""

    def __init__(self, config: RemBertConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.predictions = TFRemBertPredictionHead(config, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        return self.predictions(hidden)


class TFRemBertLMHeadModel(TFRemBertPreTrainedModel):
    """What the two language models share: the encoder, the head and its embeddings."""

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.rembert = TFRemBertModel(
            config, add_pooling_layer=False, dtype=self.dtype_policy, name="rembert"
        )
        self.cls = TFRemBertOnlyMLMHead(config, dtype=self.dtype_policy)
        self.post_init()

    def get_output_embeddings(self) -> VocabularyProjection:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: VocabularyProjection) -> None:
        replace_part(self.cls.predictions, "decoder", value)
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        if not self.config.tie_word_embeddings:
            return {}
        return {"cls.predictions.decoder.weight": "rembert.embeddings.word_embeddings.weight"}


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForMaskedLM(TFRemBertLMHeadModel):
    """RemBERT that predicts masked tokens."""

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        encoder_hidden_states: Any | None = None,
        encoder_attention_mask: Any | None = None,
        labels: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As `TFRemBertModel`, and:

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
            training=training,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForCausalLM(TFGenerationMixin, TFRemBertLMHeadModel):
    """RemBERT that predicts the next token; a decoder with `config.is_decoder`."""

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if not config.is_decoder:
            logger.warning(
                "TFRemBertForCausalLM sees the tokens it predicts unless config.is_decoder=True"
            )

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        encoder_hidden_states: Any | None = None,
        encoder_attention_mask: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        labels: Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `TFRemBertModel`, and:

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
            training=training,
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


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForSequenceClassification(TFRemBertPreTrainedModel):
    """RemBERT that labels a text: regression, one label, or several."""

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.rembert = TFRemBertModel(config, dtype=self.dtype_policy, name="rembert")
        self.classifier = Dense(
            config.hidden_size,
            config.num_labels,
            config.initializer_range,
            dtype=self.dtype_policy,
        )
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        labels: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `TFRemBertModel`, and:

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
            training=training,
        )
        logits = self.classifier(self._drop(encoded.pooler_output, training))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForMultipleChoice(TFRemBertPreTrainedModel):
    """RemBERT that picks one of several texts."""

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.rembert = TFRemBertModel(config, dtype=self.dtype_policy, name="rembert")
        self.classifier = Dense(
            config.hidden_size, 1, config.initializer_range, dtype=self.dtype_policy
        )
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        labels: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> MultipleChoiceModelOutput | tuple[Any, ...]:
        """As `TFRemBertModel`, with `(batch, choices, sequence)` in place of `(batch, sequence)`.

        Args:
            labels: `(batch,)`, the number of the right choice.
        """
        first = input_ids if inputs_embeds is None else inputs_embeds
        if first is None or len(first.shape) != (3 if inputs_embeds is None else 4):
            raise ValueError(
                "input_ids (or inputs_embeds): expected shape (batch, choices, sequence[, width]), "
                f"got {None if first is None else tuple(first.shape)}"
            )
        flat = [
            None if x is None else _flat(x)
            for x in (input_ids, attention_mask, token_type_ids, position_ids)
        ]
        encoded = self.rembert(
            *flat,
            head_mask,
            None if inputs_embeds is None else _flat(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        # (batch * choices, 1) -> (batch, choices)
        logits = self.classifier(self._drop(encoded.pooler_output, training))
        logits = ops.reshape(logits, (-1, ops.shape(first)[1]))
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MultipleChoiceModelOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForTokenClassification(TFRemBertPreTrainedModel):
    """RemBERT that labels every token."""

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.rembert = TFRemBertModel(
            config, add_pooling_layer=False, dtype=self.dtype_policy, name="rembert"
        )
        self.classifier = Dense(
            config.hidden_size,
            config.num_labels,
            config.initializer_range,
            dtype=self.dtype_policy,
        )
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        labels: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """As `TFRemBertModel`, and:

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
            training=training,
        )
        logits = self.classifier(self._drop(encoded.last_hidden_state, training))
        loss = None if labels is None else cross_entropy(logits, labels)
        output = TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFRemBertForQuestionAnswering(TFRemBertPreTrainedModel):
    """RemBERT that marks an answer's first and last token in a text."""

    label_names = ("start_positions", "end_positions")

    def __init__(self, config: RemBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if config.num_labels != 2:
            raise ValueError(
                "config.num_labels: expected 2 (start and end of a span) for question answering, "
                f"got {config.num_labels}"
            )
        self.rembert = TFRemBertModel(
            config, add_pooling_layer=False, dtype=self.dtype_policy, name="rembert"
        )
        self.qa_outputs = Dense(
            config.hidden_size,
            config.num_labels,
            config.initializer_range,
            dtype=self.dtype_policy,
        )
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        start_positions: Any | None = None,
        end_positions: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As `TFRemBertModel`, and:

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
            training=training,
        )
        start_logits, end_logits = ops.unstack(self.qa_outputs(encoded.last_hidden_state), axis=-1)
        loss = None
        if checks.span(start_positions, end_positions):
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start_logits, end_logits, encoded.hidden_states, encoded.attentions
        )
        return self._returned(output, return_dict)


def _flat(x: Any) -> Any:
    """`(batch, choices, ...)` -> `(batch * choices, ...)`."""
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))

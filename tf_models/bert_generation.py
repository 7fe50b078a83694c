"""BertGeneration: BERT as the encoder or the decoder of a text generator.

Paper: Rothe et al. 2020, "Leveraging pre-trained checkpoints for sequence generation tasks".
Weights: google/bert_for_seq_generation_L-24_bbc_encoder, and the halves of the EncoderDecoder
bundles google/roberta2roberta_L-24_* and google/bert2bert_L-24_*; plain BERT checkpoints open too.
It differs from BERT in having no token types and no pooler; the decoder has cross-attention and a
language-model head that is the word embedding, with a bias of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from zoo import checks, pretrained
from zoo.configs import BertGenerationConfig
from zoo.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
)

from .attention import attention_bias, cached_length, causal_mask
from .bert import Cache, Layer, StackOutput, run_layers
from .generation import TFGenerationMixin
from .layers import (
    Block,
    Embedding,
    Initializer,
    LayerNorm,
    VocabularyProjection,
    dropout,
    replace_part,
)
from .losses import next_token_loss
from .modeling import TFPreTrainedModel, assert_values, default, logger


class TFBertGenerationEmbeddings(Block):
    """Word and position embeddings, summed and normalised."""

    def __init__(self, config: BertGenerationConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.hidden_size, config.initializer_range
        self.word_embeddings = Embedding(
            config.vocab_size, width, stddev, padding_idx=config.pad_token_id, dtype=dtype
        )
        self.position_embeddings = Embedding(
            config.max_position_embeddings, width, stddev, dtype=dtype
        )
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps, dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob

    def call(
        self,
        input_ids: Any | None,
        position_ids: Any | None,
        inputs_embeds: Any | None,
        past: Any,
        seed: Any | None = None,
    ) -> Any:
        """Returns `(batch, sequence, hidden)`."""
        assert_values("input_ids", input_ids, self.word_embeddings.input_dim)
        assert_values("position_ids", position_ids, self.position_embeddings.input_dim)
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = (ops.arange(ops.shape(words)[1]) + past)[None]
        summed = words + self.position_embeddings(position_ids)
        return dropout(self.LayerNorm(summed), self.dropout_rate, seed)


class TFBertGenerationLayers(Block):
    """The layers, under their published name."""

    def __init__(self, config: BertGenerationConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        kind = config.position_embedding_type
        self.layer = [Layer(config, kind, dtype=dtype) for _ in range(config.num_hidden_layers)]

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
        """Takes what `run_layers` takes."""
        inputs = (bias, head_mask, encoder_hidden, encoder_bias, past_key_values)
        return run_layers(self.layer, embeddings, *inputs, **options)


class TFBertGenerationPreTrainedModel(TFPreTrainedModel):
    config_class = BertGenerationConfig
    base_model_prefix = "bert"
    optional_weights = (r"\.crossattention\.", r"\.distance_embedding\.")


@keras.saving.register_keras_serializable("tf_models")
class TFBertGenerationEncoder(TFBertGenerationPreTrainedModel):
    """The bare encoder, or decoder with `config.is_decoder` (and `config.add_cross_attention`).

    A decoder that returns its cache (`use_cache`, which is the default) is meant for one new token
    at a time, and as published it then masks nothing: of several new tokens each sees those behind
    it, and padding. `use_cache=False`, labels, or an attention mask over pairs of positions make
    it causal; train it so.

    Args:
        config: the configuration.
    """

    def __init__(self, config: BertGenerationConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.embeddings = TFBertGenerationEmbeddings(config, dtype=self.dtype_policy)
        self.encoder = TFBertGenerationLayers(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
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
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)` with the past's positions, or
                `(batch, sequence, sequence)`; 1 attend, 0 do not.
            position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            encoder_hidden_states: `(batch, encoder_sequence, hidden)`, for cross-attention.
            encoder_attention_mask: `(batch, encoder_sequence)`.
            past_key_values: of an earlier call; then only the new tokens are passed.
            use_cache, output_attentions, output_hidden_states, return_dict: what to return;
                by default as the config says.
        """
        config = self.config
        decoder = config.is_decoder
        use_cache = decoder and default(use_cache, config.use_cache)
        masked = not use_cache
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
            "token_type_ids": None,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        static_past = past if isinstance(past, int) else None
        checks.encoder_inputs(config, config.hidden_size, static_past, **shapes)

        seeds = self._seeds(training)
        embeddings = self.embeddings(
            input_ids, position_ids, inputs_embeds, past=past, seed=seeds.next()
        )
        if decoder and (attention_mask is None or len(attention_mask.shape) == 2):
            batch, sequence, _ = ops.shape(embeddings)
            if masked and attention_mask is None:
                attention_mask = ops.ones((batch, past + sequence), "int32")
            attention_mask = causal_mask(attention_mask, sequence) if masked else None
            if not masked and embeddings.shape[1] != 1 and training:
                pretrained.warn_once(
                    "a BertGeneration decoder that returns its cache sees the tokens that it is to "
                    "predict, as published: train it with use_cache=False"
                )
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
        output = BaseModelOutputWithPastAndCrossAttentions(*encoded)
        return self._returned(output, return_dict)


class TFBertGenerationOnlyLMHead(Block):
    """Scores the vocabulary; the bias has two names in a file."""

    def __init__(self, config: BertGenerationConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.hidden_size, config.initializer_range
        self.bias_initializer = Initializer()
        self.bias = self.add_weight((config.vocab_size,), self.bias_initializer, name="bias")
        self.decoder = VocabularyProjection(width, config.vocab_size, stddev, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, sequence, vocab)`."""
        return self.decoder(hidden)


@keras.saving.register_keras_serializable("tf_models")
class TFBertGenerationDecoder(TFGenerationMixin, TFBertGenerationPreTrainedModel):
    """BertGeneration that predicts the next token; a decoder with `config.is_decoder`."""

    def __init__(self, config: BertGenerationConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        if not config.is_decoder:
            logger.warning(
                "TFBertGenerationDecoder sees the tokens it predicts unless config.is_decoder=True"
            )
        self.bert = TFBertGenerationEncoder(config, dtype=self.dtype_policy, name="bert")
        self.lm_head = TFBertGenerationOnlyLMHead(config, dtype=self.dtype_policy)
        self.post_init()

    def get_output_embeddings(self) -> VocabularyProjection:
        return self.lm_head.decoder

    def set_output_embeddings(self, value: VocabularyProjection) -> None:
        replace_part(self.lm_head, "decoder", value)
        replace_part(self.lm_head, "bias", value.bias)
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        tied = {"lm_head.decoder.bias": "lm_head.bias"}
        if self.config.tie_word_embeddings:
            tied["lm_head.decoder.weight"] = "bert.embeddings.word_embeddings.weight"
        return tied

    def _decode(
        self,
        input_ids: Any,
        attention_mask: Any | None,
        position_ids: Any,
        past_key_values: Any,
        encoded: Mapping[str, Any],
        **kwargs: Any,
    ) -> Any:
        if past_key_values is None and (attention_mask is not None or input_ids.shape[1] != 1):
            # A prompt is read in order of time; with a cache that has to be said.
            if attention_mask is None:
                attention_mask = ops.ones_like(input_ids)
            if len(attention_mask.shape) == 2:
                attention_mask = causal_mask(attention_mask, ops.shape(input_ids)[1])
        return super()._decode(
            input_ids, attention_mask, position_ids, past_key_values, encoded, **kwargs
        )

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        encoder_hidden_states: Any | None = None,
        encoder_attention_mask: Any | None = None,
        labels: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """As `TFBertGenerationEncoder`, and:

        Args:
            labels: `(batch, sequence)`, the inputs themselves; -100 is left out of the loss. With
                labels no cache is returned.
        """
        if labels is not None:
            use_cache = False
        decoded = self.bert(
            input_ids,
            attention_mask,
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
        logits = self.lm_head(decoded.last_hidden_state)
        loss = None if labels is None else next_token_loss(logits, labels)
        output = CausalLMOutputWithCrossAttentions(
            loss,
            logits,
            decoded.past_key_values,
            decoded.hidden_states,
            decoded.attentions,
            decoded.cross_attentions,
        )
        return self._returned(output, return_dict)

"""T5: an encoder and a decoder that turn every task into text from text.

Paper: Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text
Transformer", section 2.1. Weights: t5-small to t5-11b, google/t5-v1_1-*, google/flan-t5-*.
Norms stand in front of each part, divide by the root mean square and have no offset; no layer has
a bias. Positions are known by their distance alone: the first layer of a half has a table of
scores for ranges of distances, which all its layers add. Scores are not scaled.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from zoo.configs import T5Config
from zoo.configs.t5 import distance_buckets
from zoo.outputs import BaseModelOutput

from .activations import activation
from .attention import AttentionBias, Buffer, MultiHeadAttention, distances
from .bert import Cache
from .layers import (
    Block,
    Dense,
    Embedding,
    Initializer,
    Seeds,
    VocabularyProjection,
    dropout,
)
from .modeling import TFPreTrainedModel
from .seq2seq import (
    Sizes,
    TFSeq2SeqLanguageModel,
    TFSeq2SeqModel,
    TFSeq2SeqPreTrainedModel,
    TFStack,
)


def _dense(config: T5Config, inputs: int, units: int, fan: int, dtype: Any) -> Dense:
    """A dense layer whose new weights have a variance of 1 / `fan`."""
    stddev = config.initializer_factor * fan**-0.5
    return Dense(inputs, units, stddev, use_bias=False, dtype=dtype)


class TFT5LayerNorm(Block):
    """Divides by the root mean square (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, config: T5Config, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.weight_initializer = Initializer(constant=1.0)
        self.weight = self.add_weight((config.d_model,), self.weight_initializer, name="weight")
        self.epsilon = config.layer_norm_epsilon

    def call(self, x: Any) -> Any:
        """`(..., hidden)` -> `(..., hidden)`."""
        wide = ops.cast(x, "float32")
        mean = ops.mean(ops.square(wide), axis=-1, keepdims=True)
        scaled = ops.cast(wide * tf.math.rsqrt(mean + self.epsilon), x.dtype)
        return ops.cast(self.weight, x.dtype) * scaled


class TFT5Attention(MultiHeadAttention):
    """Attention with its output projection; the first of a half has the scores of distances."""

    projections = ("q", "k", "v")

    def __init__(self, config: T5Config, has_distances: bool = False, dtype: Any = None) -> None:
        width, inner = config.d_model, config.num_heads * config.d_kv
        super().__init__(config.num_heads, config.d_kv, config.dropout_rate, scale=1.0, dtype=dtype)
        self.q = _dense(config, width, inner, width * config.d_kv, dtype)
        self.k = _dense(config, width, inner, width, dtype)
        self.v = _dense(config, width, inner, width, dtype)
        self.o = _dense(config, inner, width, inner, dtype)
        if has_distances:
            self.relative_attention_bias = Embedding(
                config.relative_attention_num_buckets,
                config.num_heads,
                config.initializer_factor * width**-0.5,
                dtype=dtype,
            )

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None = None,
        head_mask: Any | None = None,
        encoder_hidden: Any | None = None,
        past: Cache | None = None,
        output_attentions: bool = False,
        seed: Any | None = None,
    ) -> tuple[Any, Any | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = super().call(
            hidden, bias, head_mask, encoder_hidden, past, output_attentions, seed
        )
        return self.o(context), weights, cache


class TFT5LayerSelfAttention(Block):
    """Norm and self-attention."""

    def __init__(self, config: T5Config, has_distances: bool, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.SelfAttention = TFT5Attention(config, has_distances, dtype=dtype)
        self.layer_norm = TFT5LayerNorm(config, dtype=dtype)
        self.dropout_rate = config.dropout_rate

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None,
        head_mask: Any | None,
        encoder_hidden: Any | None,
        past: Cache | None,
        output_attentions: bool,
        seeds: Seeds,
    ) -> tuple[Any, Any | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = self.SelfAttention(
            self.layer_norm(hidden),
            bias,
            head_mask,
            encoder_hidden,
            past,
            output_attentions=output_attentions,
            seed=seeds.next(),
        )
        return hidden + dropout(context, self.dropout_rate, seeds.next()), weights, cache


class TFT5LayerCrossAttention(Block):
    """Norm and cross-attention."""

    def __init__(self, config: T5Config, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.EncDecAttention = TFT5Attention(config, dtype=dtype)
        self.layer_norm = TFT5LayerNorm(config, dtype=dtype)
        self.dropout_rate = config.dropout_rate

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None,
        head_mask: Any | None,
        encoder_hidden: Any | None,
        past: Cache | None,
        output_attentions: bool,
        seeds: Seeds,
    ) -> tuple[Any, Any | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = self.EncDecAttention(
            self.layer_norm(hidden),
            bias,
            head_mask,
            encoder_hidden,
            past,
            output_attentions=output_attentions,
            seed=seeds.next(),
        )
        return hidden + dropout(context, self.dropout_rate, seeds.next()), weights, cache


class TFT5DenseActDense(Block):
    """The plain feed-forward network."""

    def __init__(self, config: T5Config, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.wi = _dense(config, config.d_model, config.d_ff, config.d_model, dtype)
        self.wo = _dense(config, config.d_ff, config.d_model, config.d_ff, dtype)
        self.dropout_rate = config.dropout_rate
        self.activation = activation(config.dense_act_fn)

    def call(self, hidden: Any, seed: Any | None = None) -> Any:
        return self.wo(dropout(self.activation(self.wi(hidden)), self.dropout_rate, seed))


class TFT5DenseGatedActDense(Block):
    """The gated feed-forward network (Shazeer 2020, "GLU variants improve Transformer")."""

    def __init__(self, config: T5Config, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.wi_0 = _dense(config, config.d_model, config.d_ff, config.d_model, dtype)
        self.wi_1 = _dense(config, config.d_model, config.d_ff, config.d_model, dtype)
        self.wo = _dense(config, config.d_ff, config.d_model, config.d_ff, dtype)
        self.dropout_rate = config.dropout_rate
        self.activation = activation(config.dense_act_fn)

    def call(self, hidden: Any, seed: Any | None = None) -> Any:
        gated = self.activation(self.wi_0(hidden)) * self.wi_1(hidden)
        return self.wo(dropout(gated, self.dropout_rate, seed))


class TFT5LayerFF(Block):
    """Norm and feed-forward network."""

    def __init__(self, config: T5Config, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        feed_forward = TFT5DenseGatedActDense if config.is_gated_act else TFT5DenseActDense
        self.DenseReluDense = feed_forward(config, dtype=dtype)  # its name whatever the activation
        self.layer_norm = TFT5LayerNorm(config, dtype=dtype)
        self.dropout_rate = config.dropout_rate

    def call(self, hidden: Any, seeds: Seeds) -> Any:
        fed = self.DenseReluDense(self.layer_norm(hidden), seeds.next())
        return hidden + dropout(fed, self.dropout_rate, seeds.next())


class TFT5Block(Block):
    """Self-attention, cross-attention in a decoder, feed-forward network."""

    def __init__(
        self, config: T5Config, is_decoder: bool, has_distances: bool, dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        cross = [TFT5LayerCrossAttention(config, dtype=dtype)] if is_decoder else []
        self.layer = [
            TFT5LayerSelfAttention(config, has_distances, dtype=dtype),
            *cross,
            TFT5LayerFF(config, dtype=dtype),
        ]

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None,
        head_masks: tuple[Any | None, Any | None],
        encoder_hidden: Any | None,
        encoder_bias: AttentionBias | None,
        past: Cache | None,
        output_attentions: bool,
        seed: Any | None = None,
    ) -> tuple[Any, Any | None, Any | None, Cache]:
        """
        Args:
            head_masks: of self-attention and of cross-attention.
        Returns:
            As `bert.Layer`.
        """
        seeds = Seeds(seed)
        head_mask, cross_head_mask = head_masks
        hidden, weights, cache = self.layer[0](
            hidden, bias, head_mask, None, past and past[:2],
            output_attentions=output_attentions, seeds=seeds,
        )  # fmt: skip
        cross_weights = None
        if encoder_hidden is not None:
            hidden, cross_weights, cross_cache = self.layer[1](
                hidden, encoder_bias, cross_head_mask, encoder_hidden, past and past[2:],
                output_attentions=output_attentions, seeds=seeds,
            )  # fmt: skip
            cache = cache + cross_cache
        return self.layer[-1](hidden, seeds=seeds), weights, cross_weights, cache


class TFT5PreTrainedModel(TFPreTrainedModel):
    config_class = T5Config
    optional_weights = (r"^lm_head\.",)
    # The first released files have scores of distances in cross-attention, which nothing reads.
    ignored_weights = (r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.",)


class TFT5Stack(TFStack, TFT5PreTrainedModel):
    """The encoder, or the decoder.

    Args:
        config: the configuration.
        embed_tokens: the table of words that the halves share.
        is_decoder: which half it is.
        kwargs: `dtype`, `name`, `trainable`.
    """

    def __init__(
        self, config: T5Config, embed_tokens: Embedding, is_decoder: bool, **kwargs: Any
    ) -> None:
        layers = config.num_decoder_layers if is_decoder else config.num_layers
        sizes = Sizes(config.d_model, config.num_heads, layers, None, is_decoder)
        super().__init__(config, sizes, embed_tokens, **kwargs)
        dtype = self.dtype_policy
        self.block = [
            TFT5Block(config, is_decoder, number == 0, dtype=dtype) for number in range(layers)
        ]
        self.final_layer_norm = TFT5LayerNorm(config, dtype=dtype)
        self.buckets = tuple(distance_buckets(config, both_ways=not is_decoder))
        self.post_init()

    def embed(self, words: Any, position_ids: Any, seeds: Seeds) -> Any:
        return self._dropout(words, seeds)

    def layer_list(self) -> list[TFT5Block]:
        return self.block

    def bias(
        self, bias: AttentionBias | None, queries: Any, keys: Any, buffer: Buffer | None
    ) -> AttentionBias:
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        farthest = len(self.buckets) // 2
        distance = ops.clip(distances(queries, keys, buffer), -farthest, farthest)
        buckets = tf.gather(tf.constant(self.buckets), distance + farthest)
        # (queries, keys, heads) -> (1, heads, queries, keys)
        positions = ops.transpose(table(buckets), (2, 0, 1))[None]
        return AttentionBias.with_positions(bias, positions)

    def finish(self, hidden: Any, seeds: Seeds) -> Any:
        return self._dropout(self.final_layer_norm(hidden), seeds)

    def _dropout(self, x: Any, seeds: Seeds) -> Any:
        return dropout(x, self.config.dropout_rate, seeds.next())


def _table_of_words(config: T5Config, dtype: Any) -> Embedding:
    return Embedding(config.vocab_size, config.d_model, config.initializer_factor, dtype=dtype)


@keras.saving.register_keras_serializable("tf_models")
class TFT5Model(TFSeq2SeqModel, TFT5PreTrainedModel):
    """The bare encoder and decoder.

    Args:
        config: the configuration.
    """

    def __init__(self, config: T5Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        dtype = self.dtype_policy
        self.shared = _table_of_words(config, dtype)
        self.encoder = TFT5Stack(config, self.shared, False, dtype=dtype, name="encoder")
        self.decoder = TFT5Stack(config, self.shared, True, dtype=dtype, name="decoder")
        self.post_init()


@keras.saving.register_keras_serializable("tf_models")
class TFT5ForConditionalGeneration(TFSeq2SeqLanguageModel, TFT5PreTrainedModel):
    """T5 that predicts the next token.

    The head is the table of words; one of its own with `config.tie_word_embeddings=False`.

    Args:
        config: the configuration.
    """

    def __init__(self, config: T5Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        dtype = self.dtype_policy
        self.shared = _table_of_words(config, dtype)
        self.encoder = TFT5Stack(config, self.shared, False, dtype=dtype, name="encoder")
        self.decoder = TFT5Stack(config, self.shared, True, dtype=dtype, name="decoder")
        self.lm_head = VocabularyProjection(
            config.d_model, config.vocab_size, config.initializer_factor, use_bias=False,
            dtype=dtype,
        )  # fmt: skip
        self.post_init()

    def scores(self, hidden: Any) -> Any:
        if self.config.tie_word_embeddings:  # the table's values are of unit size
            hidden = hidden * self.config.d_model**-0.5
        return self.lm_head(hidden)


@keras.saving.register_keras_serializable("tf_models")
class TFT5EncoderModel(TFSeq2SeqPreTrainedModel, TFT5PreTrainedModel):
    """The encoder alone.

    Args:
        config: the configuration.
    """

    ignored_weights = (r"^decoder\.", r"^lm_head\.")

    def __init__(self, config: T5Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        dtype = self.dtype_policy
        self.shared = _table_of_words(config, dtype)
        self.encoder = TFT5Stack(config, self.shared, False, dtype=dtype, name="encoder")
        self.post_init()

    def _parts(self) -> dict[str, TFPreTrainedModel]:
        return {"encoder": self.encoder}

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)`; 1 attend, 0 do not.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        """
        encoded = self.encoder(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        output = BaseModelOutput(
            encoded.last_hidden_state, encoded.hidden_states, encoded.attentions
        )
        return self._returned(output, return_dict)

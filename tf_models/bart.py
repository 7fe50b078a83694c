"""BART: an encoder and a decoder, trained to restore spoilt text.

Paper: Lewis et al. 2019, "BART: denoising sequence-to-sequence pre-training". Weights:
facebook/bart-base, facebook/bart-large and models fine-tuned from them; RAG's generator.
Its blocks are those of Vaswani et al. 2017 with a norm behind each part and behind the embeddings;
positions are learned, from the third row of their table on. One table of words serves both halves
and the head, which adds a bias that is no weight.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from zoo.configs import BartConfig

from .activations import activation
from .attention import AttentionBias, MultiHeadAttention
from .bert import Cache
from .layers import (
    Block,
    Dense,
    Embedding,
    Initializer,
    LayerNorm,
    Seeds,
    VocabularyProjection,
    dropout,
    resize_last_axis,
)
from .modeling import TFPreTrainedModel
from .seq2seq import Sizes, TFSeq2SeqLanguageModel, TFSeq2SeqModel, TFStack

POSITION_OFFSET = 2  # rows of the table of positions that no position has
EPSILON = 1e-5  # of the norms


class TFBartAttention(MultiHeadAttention):
    """Attention with its output projection."""

    projections = ("q_proj", "k_proj", "v_proj")

    def __init__(self, config: BartConfig, heads: int, dtype: Any = None) -> None:
        width, stddev = config.d_model, config.init_std
        super().__init__(heads, width // heads, config.attention_dropout, dtype=dtype)
        self.k_proj = Dense(width, width, stddev, dtype=dtype)
        self.v_proj = Dense(width, width, stddev, dtype=dtype)
        self.q_proj = Dense(width, width, stddev, dtype=dtype)
        self.out_proj = Dense(width, width, stddev, dtype=dtype)

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
        return self.out_proj(context), weights, cache


class TFBartLayer(Block):
    """Self-attention, cross-attention in a decoder, feed-forward network; a norm behind each."""

    def __init__(
        self, config: BartConfig, heads: int, inner: int, is_decoder: bool, dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.d_model, config.init_std
        self.self_attn = TFBartAttention(config, heads, dtype=dtype)
        self.self_attn_layer_norm = LayerNorm(width, EPSILON, dtype=dtype)
        if is_decoder:
            self.encoder_attn = TFBartAttention(config, heads, dtype=dtype)
            self.encoder_attn_layer_norm = LayerNorm(width, EPSILON, dtype=dtype)
        self.fc1 = Dense(width, inner, stddev, dtype=dtype)
        self.fc2 = Dense(inner, width, stddev, dtype=dtype)
        self.final_layer_norm = LayerNorm(width, EPSILON, dtype=dtype)
        self.activation = activation(config.activation_function)
        self.dropout_rate = config.dropout
        self.activation_dropout_rate = config.activation_dropout

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
        context, weights, cache = self.self_attn(
            hidden, bias, head_mask, None, past and past[:2],
            output_attentions=output_attentions, seed=seeds.next(),
        )  # fmt: skip
        hidden = self.self_attn_layer_norm(hidden + self._dropout(context, seeds))
        cross_weights = None
        if encoder_hidden is not None:
            context, cross_weights, cross_cache = self.encoder_attn(
                hidden, encoder_bias, cross_head_mask, encoder_hidden, past and past[2:],
                output_attentions=output_attentions, seed=seeds.next(),
            )  # fmt: skip
            hidden = self.encoder_attn_layer_norm(hidden + self._dropout(context, seeds))
            cache = cache + cross_cache
        inner = self.activation(self.fc1(hidden))
        inner = dropout(inner, self.activation_dropout_rate, seeds.next())
        hidden = self.final_layer_norm(hidden + self._dropout(self.fc2(inner), seeds))
        return hidden, weights, cross_weights, cache

    def _dropout(self, x: Any, seeds: Seeds) -> Any:
        return dropout(x, self.dropout_rate, seeds.next())


class TFBartPreTrainedModel(TFPreTrainedModel):
    config_class = BartConfig
    base_model_prefix = "model"
    optional_weights = (r"^final_logits_bias$",)
    ignored_weights = (r"(^|\.)(en|de)coder\.version$",)


class TFBartStack(TFStack, TFBartPreTrainedModel):
    """The encoder, or the decoder.

    Args:
        config: the configuration.
        embed_tokens: the table of words that the halves share.
        is_decoder: which half it is.
        kwargs: `dtype`, `name`, `trainable`.
    """

    def __init__(
        self, config: BartConfig, embed_tokens: Embedding, is_decoder: bool, **kwargs: Any
    ) -> None:
        half = "decoder" if is_decoder else "encoder"
        layers, heads, inner, layer_drop = (
            getattr(config, f"{half}_{name}")
            for name in ("layers", "attention_heads", "ffn_dim", "layerdrop")
        )
        width, positions = config.d_model, config.max_position_embeddings
        sizes = Sizes(width, heads, layers, positions, is_decoder)
        super().__init__(config, sizes, embed_tokens, layer_drop, **kwargs)
        dtype = self.dtype_policy
        self.embed_positions = Embedding(
            positions + POSITION_OFFSET, width, config.init_std, dtype=dtype
        )
        self.layers_ = [
            TFBartLayer(config, heads, inner, is_decoder, dtype=dtype) for _ in range(layers)
        ]
        self.layernorm_embedding = LayerNorm(width, EPSILON, dtype=dtype)
        self.embedding_scale = math.sqrt(width) if config.scale_embedding else 1.0
        self.post_init()

    def words(self, input_ids: Any) -> Any:
        return self.embed_tokens(input_ids) * self.embedding_scale

    def embed(self, words: Any, position_ids: Any, seeds: Seeds) -> Any:
        summed = words + self.embed_positions(position_ids + POSITION_OFFSET)
        embedded = self.layernorm_embedding(summed)
        return dropout(embedded, self.config.dropout, seeds.next())

    def layer_list(self) -> list[TFBartLayer]:
        return self.layers_


@keras.saving.register_keras_serializable("tf_models")
class TFBartModel(TFSeq2SeqModel, TFBartPreTrainedModel):
    """The bare encoder and decoder.

    Without any inputs of its own the decoder reads the encoder's, shifted right, as in BART's
    training on spoilt text.

    Args:
        config: the configuration.
    """

    def __init__(self, config: BartConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        dtype = self.dtype_policy
        self.shared = Embedding(
            config.vocab_size, config.d_model, config.init_std, config.pad_token_id, dtype=dtype
        )
        self.encoder = TFBartStack(config, self.shared, False, dtype=dtype, name="encoder")
        self.decoder = TFBartStack(config, self.shared, True, dtype=dtype, name="decoder")
        self.post_init()

    def _decoder_ids(self, input_ids: Any | None, labels: Any | None) -> Any:
        return super()._decoder_ids(None, input_ids if labels is None else labels)


@keras.saving.register_keras_serializable("tf_models")
class TFBartForConditionalGeneration(TFSeq2SeqLanguageModel, TFBartPreTrainedModel):
    """BART that predicts the next token.

    Args:
        config: the configuration.
    """

    caches_with_labels = False

    def __init__(self, config: BartConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.model = TFBartModel(config, dtype=self.dtype_policy, name="model")
        self.final_logits_bias_initializer = Initializer()
        self.final_logits_bias = self.add_weight(
            (1, config.vocab_size),
            self.final_logits_bias_initializer,
            trainable=False,
            name="final_logits_bias",
        )
        self.lm_head = VocabularyProjection(
            config.d_model, config.vocab_size, config.init_std, use_bias=False,
            dtype=self.dtype_policy,
        )  # fmt: skip
        self.post_init()

    def scores(self, hidden: Any) -> Any:
        logits = self.lm_head(hidden)
        return logits + ops.cast(self.final_logits_bias, logits.dtype)

    def _decoder_ids(self, input_ids: Any | None, labels: Any | None) -> Any:
        return self.model._decoder_ids(input_ids, labels)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> keras.layers.Embedding:
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        resize_last_axis(self, "final_logits_bias", self.config.vocab_size)
        return embeddings

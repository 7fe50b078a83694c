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

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.configs import BartConfig

from .activations import activation
from .attention import AttentionBias, MultiHeadAttention
from .bert import Cache
from .layers import Embedding, Linear
from .modeling import PreTrainedModel
from .seq2seq import Seq2SeqLanguageModel, Seq2SeqModel, Sizes, Stack

POSITION_OFFSET = 2  # rows of the table of positions that no position has


class BartAttention(MultiHeadAttention):
    """Attention with its output projection."""

    projections = ("q_proj", "k_proj", "v_proj")

    def __init__(self, config: BartConfig, heads: int) -> None:
        width = config.d_model
        super().__init__(heads, width // heads, config.attention_dropout)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, hidden: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = super().forward(hidden, *inputs)
        return self.out_proj(context), weights, cache


class BartLayer(nn.Module):
    """Self-attention, cross-attention in a decoder, feed-forward network; a norm behind each."""

    def __init__(self, config: BartConfig, heads: int, inner: int, is_decoder: bool) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = BartAttention(config, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        if is_decoder:
            self.encoder_attn = BartAttention(config, heads)
            self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation = activation(config.activation_function)
        self.dropout_rate = config.dropout
        self.activation_dropout_rate = config.activation_dropout

    def forward(
        self,
        hidden: Tensor,
        bias: AttentionBias | None,
        head_masks: tuple[Tensor | None, Tensor | None],
        encoder_hidden: Tensor | None,
        encoder_bias: AttentionBias | None,
        past: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Cache]:
        """
        Args:
            head_masks: of self-attention and of cross-attention.
        Returns:
            As `bert.Layer`.
        """
        head_mask, cross_head_mask = head_masks
        context, weights, cache = self.self_attn(
            hidden, bias, head_mask, None, past and past[:2], output_attentions
        )
        hidden = self.self_attn_layer_norm(hidden + self._dropout(context))
        cross_weights = None
        if encoder_hidden is not None:
            context, cross_weights, cross_cache = self.encoder_attn(
                hidden, encoder_bias, cross_head_mask, encoder_hidden, past and past[2:],
                output_attentions,
            )  # fmt: skip
            hidden = self.encoder_attn_layer_norm(hidden + self._dropout(context))
            cache = cache + cross_cache
        inner = self.activation(self.fc1(hidden))
        inner = functional.dropout(inner, self.activation_dropout_rate, self.training)
        hidden = self.final_layer_norm(hidden + self._dropout(self.fc2(inner)))
        return hidden, weights, cross_weights, cache

    def _dropout(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout_rate, self.training)


class BartPreTrainedModel(PreTrainedModel):
    config_class = BartConfig
    base_model_prefix = "model"
    init_field = "init_std"
    optional_weights = (r"^final_logits_bias$",)
    ignored_weights = (r"(^|\.)(en|de)coder\.version$",)


class BartStack(Stack, BartPreTrainedModel):
    """The encoder, or the decoder.

    Args:
        config: the configuration.
        embed_tokens: the table of words that the halves share.
        is_decoder: which half it is.
    """

    def __init__(self, config: BartConfig, embed_tokens: Embedding, is_decoder: bool) -> None:
        half = "decoder" if is_decoder else "encoder"
        layers, heads, inner, layer_drop = (
            getattr(config, f"{half}_{name}")
            for name in ("layers", "attention_heads", "ffn_dim", "layerdrop")
        )
        width, positions = config.d_model, config.max_position_embeddings
        sizes = Sizes(width, heads, layers, positions, is_decoder)
        super().__init__(config, sizes, embed_tokens, layer_drop)
        self.embed_positions = Embedding(positions + POSITION_OFFSET, width)
        self.layers = nn.ModuleList(
            BartLayer(config, heads, inner, is_decoder) for _ in range(layers)
        )
        self.layernorm_embedding = nn.LayerNorm(width)
        self.embedding_scale = math.sqrt(width) if config.scale_embedding else 1.0

    def words(self, input_ids: Tensor) -> Tensor:
        return self.embed_tokens(input_ids) * self.embedding_scale

    def embed(self, words: Tensor, position_ids: Tensor) -> Tensor:
        summed = words + self.embed_positions(position_ids + POSITION_OFFSET)
        embedded = self.layernorm_embedding(summed)
        return functional.dropout(embedded, self.config.dropout, self.training)

    def layer_list(self) -> nn.ModuleList:
        return self.layers


class BartModel(Seq2SeqModel, BartPreTrainedModel):
    """The bare encoder and decoder.

    Without any inputs of its own the decoder reads the encoder's, shifted right, as in BART's
    training on spoilt text.

    Args:
        config: the configuration.
    """

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = BartStack(config, self.shared, is_decoder=False)
        self.decoder = BartStack(config, self.shared, is_decoder=True)
        self.post_init()

    def _decoder_ids(self, input_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        return super()._decoder_ids(None, input_ids if labels is None else labels)


class BartForConditionalGeneration(Seq2SeqLanguageModel, BartPreTrainedModel):
    """BART that predicts the next token.

    Args:
        config: the configuration.
    """

    caches_with_labels = False

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.model = BartModel(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def scores(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) + self.final_logits_bias

    def _decoder_ids(self, input_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        return self.model._decoder_ids(input_ids, labels)

    def _init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        if name == "final_logits_bias":
            parameter.zero_()
        else:
            super()._init_parameter(module, name, parameter)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        old = self.final_logits_bias
        missing = self.config.vocab_size - old.shape[1]
        self.final_logits_bias = functional.pad(old, (0, missing))  # or cut
        return embeddings

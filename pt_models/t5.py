"""T5: an encoder and a decoder that turn every task into text from text.

Paper: Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text
Transformer", section 2.1. Weights: t5-small to t5-11b, google/t5-v1_1-*, google/flan-t5-*.
Norms stand in front of each part, divide by the root mean square and have no offset; no layer has
a bias. Positions are known by their distance alone: the first layer of a half has a table of
scores for ranges of distances, which all its layers add. Scores are not scaled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.configs import T5Config
from zoo.configs.t5 import distance_buckets
from zoo.outputs import BaseModelOutput

from .activations import activation
from .attention import AttentionBias, MultiHeadAttention, distances
from .bert import Cache
from .layers import Embedding, Linear
from .modeling import PreTrainedModel
from .seq2seq import Seq2SeqLanguageModel, Seq2SeqModel, Seq2SeqPreTrainedModel, Sizes, Stack


def _dense(inputs: int, units: int, fan: int) -> nn.Linear:
    """A dense layer whose new weights have a variance of 1 / `fan`."""
    layer = Linear(inputs, units, bias=False)
    layer.deviation = fan**-0.5
    return layer


class T5LayerNorm(nn.Module):
    """Divides by the root mean square (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.epsilon = config.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """`(..., hidden)` -> `(..., hidden)`."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * scaled.to(self.weight.dtype)


class T5Attention(MultiHeadAttention):
    """Attention with its output projection; the first of a half has the scores of distances."""

    projections = ("q", "k", "v")

    def __init__(self, config: T5Config, has_distances: bool = False) -> None:
        width, inner = config.d_model, config.num_heads * config.d_kv
        super().__init__(config.num_heads, config.d_kv, config.dropout_rate, scale=1.0)
        self.q = _dense(width, inner, width * config.d_kv)
        self.k = _dense(width, inner, width)
        self.v = _dense(width, inner, width)
        self.o = _dense(inner, width, inner)
        if has_distances:
            self.relative_attention_bias = Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )
            self.relative_attention_bias.deviation = width**-0.5

    def forward(self, hidden: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = super().forward(hidden, *inputs)
        return self.o(context), weights, cache


class T5LayerSelfAttention(nn.Module):
    """Norm and self-attention."""

    def __init__(self, config: T5Config, has_distances: bool) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(config, has_distances)
        self.layer_norm = T5LayerNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = self.SelfAttention(self.layer_norm(hidden), *inputs)
        return hidden + self.dropout(context), weights, cache


class T5LayerCrossAttention(nn.Module):
    """Norm and cross-attention."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.EncDecAttention = T5Attention(config)
        self.layer_norm = T5LayerNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None, Cache]:
        """Takes what `MultiHeadAttention` takes."""
        context, weights, cache = self.EncDecAttention(self.layer_norm(hidden), *inputs)
        return hidden + self.dropout(context), weights, cache


class T5DenseActDense(nn.Module):
    """The plain feed-forward network."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = _dense(config.d_model, config.d_ff, config.d_model)
        self.wo = _dense(config.d_ff, config.d_model, config.d_ff)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation = activation(config.dense_act_fn)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.wo(self.dropout(self.activation(self.wi(hidden))))


class T5DenseGatedActDense(nn.Module):
    """The gated feed-forward network (Shazeer 2020, "GLU variants improve Transformer")."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = _dense(config.d_model, config.d_ff, config.d_model)
        self.wi_1 = _dense(config.d_model, config.d_ff, config.d_model)
        self.wo = _dense(config.d_ff, config.d_model, config.d_ff)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.activation = activation(config.dense_act_fn)

    def forward(self, hidden: Tensor) -> Tensor:
        gated = self.activation(self.wi_0(hidden)) * self.wi_1(hidden)
        return self.wo(self.dropout(gated))


class T5LayerFF(nn.Module):
    """Norm and feed-forward network."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        feed_forward = T5DenseGatedActDense if config.is_gated_act else T5DenseActDense
        self.DenseReluDense = feed_forward(config)  # its name whatever the activation
        self.layer_norm = T5LayerNorm(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.dropout(self.DenseReluDense(self.layer_norm(hidden)))


class T5Block(nn.Module):
    """Self-attention, cross-attention in a decoder, feed-forward network."""

    def __init__(self, config: T5Config, is_decoder: bool, has_distances: bool) -> None:
        super().__init__()
        cross = [T5LayerCrossAttention(config)] if is_decoder else []
        self.layer = nn.ModuleList(
            [T5LayerSelfAttention(config, has_distances), *cross, T5LayerFF(config)]
        )

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
        hidden, weights, cache = self.layer[0](
            hidden, bias, head_mask, None, past and past[:2], output_attentions
        )
        cross_weights = None
        if encoder_hidden is not None:
            hidden, cross_weights, cross_cache = self.layer[1](
                hidden, encoder_bias, cross_head_mask, encoder_hidden, past and past[2:],
                output_attentions,
            )  # fmt: skip
            cache = cache + cross_cache
        return self.layer[-1](hidden), weights, cross_weights, cache


class T5PreTrainedModel(PreTrainedModel):
    config_class = T5Config
    optional_weights = (r"^lm_head\.",)
    # The first released files have scores of distances in cross-attention, which nothing reads.
    ignored_weights = (r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.",)

    @torch.no_grad()
    def _init_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Normal, scaled so that no layer needs a scale of its own; one for norms."""
        if parameter.is_meta:
            return
        if isinstance(module, T5LayerNorm):
            parameter.fill_(1.0)
            return
        deviation = getattr(module, "deviation", 1.0)
        parameter.normal_(0.0, self.config.initializer_factor * deviation)


class T5Stack(Stack, T5PreTrainedModel):
    """The encoder, or the decoder.

    Args:
        config: the configuration.
        embed_tokens: the table of words that the halves share.
        is_decoder: which half it is.
    """

    def __init__(self, config: T5Config, embed_tokens: Embedding, is_decoder: bool) -> None:
        layers = config.num_decoder_layers if is_decoder else config.num_layers
        sizes = Sizes(config.d_model, config.num_heads, layers, None, is_decoder)
        super().__init__(config, sizes, embed_tokens)
        self.block = nn.ModuleList(
            T5Block(config, is_decoder, number == 0) for number in range(layers)
        )
        self.final_layer_norm = T5LayerNorm(config)
        self.buckets = distance_buckets(config, both_ways=not is_decoder)

    def embed(self, words: Tensor, position_ids: Tensor) -> Tensor:
        return self._dropout(words)

    def layer_list(self) -> nn.ModuleList:
        return self.block

    def bias(
        self, bias: AttentionBias | None, queries: int, keys: int, times: Tensor | None
    ) -> AttentionBias:
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        device = table.weight.device
        farthest = len(self.buckets) // 2
        distance = distances(queries, keys, times, device).clamp(-farthest, farthest)
        buckets = torch.tensor(self.buckets, device=device)[distance + farthest]
        # (queries, keys, heads) -> (1, heads, queries, keys)
        positions = table(buckets).permute(2, 0, 1)[None]
        return AttentionBias.with_positions(bias, positions)

    def finish(self, hidden: Tensor) -> Tensor:
        return self._dropout(self.final_layer_norm(hidden))

    def _dropout(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.config.dropout_rate, self.training)


class T5Model(Seq2SeqModel, T5PreTrainedModel):
    """The bare encoder and decoder.

    Args:
        config: the configuration.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared, is_decoder=False)
        self.decoder = T5Stack(config, self.shared, is_decoder=True)
        self.post_init()


class T5ForConditionalGeneration(Seq2SeqLanguageModel, T5PreTrainedModel):
    """T5 that predicts the next token.

    The head is the table of words; one of its own with `config.tie_word_embeddings=False`.

    Args:
        config: the configuration.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared, is_decoder=False)
        self.decoder = T5Stack(config, self.shared, is_decoder=True)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def scores(self, hidden: Tensor) -> Tensor:
        if self.config.tie_word_embeddings:  # the table's values are of unit size
            hidden = hidden * self.config.d_model**-0.5
        return self.lm_head(hidden)


class T5EncoderModel(Seq2SeqPreTrainedModel, T5PreTrainedModel):
    """The encoder alone.

    Args:
        config: the configuration.
    """

    ignored_weights = (r"^decoder\.", r"^lm_head\.")

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared, is_decoder=False)
        self.post_init()

    def _parts(self) -> dict[str, PreTrainedModel]:
        return {"encoder": self.encoder}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
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
        )
        output = BaseModelOutput(
            encoded.last_hidden_state, encoded.hidden_states, encoded.attentions
        )
        return self._returned(output, return_dict)

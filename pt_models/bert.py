"""The post-norm Transformer block of BERT, shared by every family that is built from it.

Source: Devlin et al. 2018, section 3; decoder with cross-attention as in Vaswani et al. 2017,
section 3.1. A module's attribute path is the published name of its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .activations import activation
from .attention import AttentionBias, Packing, SelfAttention, layer_head_masks
from .layers import Embedding
from .modeling import assert_values

Cache = tuple[Tensor, ...]


class Embeddings(nn.Module):
    """Word, position and token type embeddings, summed and normalised.

    Args:
        config: gives vocab_size, pad_token_id, max_position_embeddings, type_vocab_size and more.
        width: of the embeddings.
    """

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past: int = 0,
    ) -> Tensor:
        """Returns `(batch, sequence, width)`."""
        assert_values("input_ids", input_ids, self.word_embeddings.num_embeddings)
        assert_values("token_type_ids", token_type_ids, self.token_type_embeddings.num_embeddings)
        assert_values("position_ids", position_ids, self.position_embeddings.num_embeddings)
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past, past + words.shape[1], device=words.device)[None]
        if token_type_ids is None:
            token_type_ids = words.new_zeros(1, words.shape[1], dtype=torch.long)
        types = self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(self.summed(words, types, position_ids)))

    def summed(self, words: Tensor, types: Tensor, position_ids: Tensor) -> Tensor:
        """Embedded words and token types with those of positions."""
        return words + types + self.position_embeddings(position_ids)


class AddAndNorm(nn.Module):
    """Projection, dropout, residual sum, layer norm."""

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    """Attention and what follows it in the block."""

    def __init__(self, config: Any, position_embedding_type: str = "absolute") -> None:
        super().__init__()
        self.self = SelfAttention(config, position_embedding_type)
        self.output = AddAndNorm(config, config.hidden_size)

    def forward(
        self,
        hidden: Tensor,
        bias: AttentionBias | None,
        head_mask: Tensor | None,
        encoder_hidden: Tensor | None,
        past: Cache | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None, Cache]:
        context, weights, cache = self.self(
            hidden, bias, head_mask, encoder_hidden, past, output_attentions
        )
        return self.output(context, hidden), weights, cache


class Intermediate(nn.Module):
    """The feed-forward network's widening half."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class Layer(nn.Module):
    """Self-attention, cross-attention in a decoder that has an encoder, feed-forward network."""

    def __init__(self, config: Any, position_embedding_type: str = "absolute") -> None:
        super().__init__()
        self.attention = Attention(config, position_embedding_type)
        if config.add_cross_attention:
            self.crossattention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config, config.intermediate_size)
        self.chunk_size = config.chunk_size_feed_forward

    def forward(
        self,
        hidden: Tensor,
        bias: AttentionBias | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden: Tensor | None = None,
        encoder_bias: AttentionBias | None = None,
        past: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Cache]:
        """
        Returns:
            Hidden states `(batch, sequence, hidden)`, attention weights, cross-attention weights,
            and the keys and values of this layer: two tensors, four with cross-attention.
        """
        hidden, weights, cache = self.attention(
            hidden, bias, head_mask, None, past and past[:2], output_attentions
        )
        cross_weights = None
        if encoder_hidden is not None:
            hidden, cross_weights, cross_cache = self.crossattention(
                hidden, encoder_bias, head_mask, encoder_hidden, past and past[2:],
                output_attentions,
            )  # fmt: skip
            cache = cache + cross_cache
        if self.chunk_size:
            hidden = torch.cat([self._feed(x) for x in hidden.split(self.chunk_size, 1)], 1)
        else:
            hidden = self._feed(hidden)
        return hidden, weights, cross_weights, cache

    def first(
        self, hidden: Tensor, bias: AttentionBias | None = None, head_mask: Tensor | None = None
    ) -> Tensor:
        """The output for the first token alone, `(batch, 1, hidden)`: all that a pooler sees."""
        if bias is not None:
            live = None if bias.live is None else bias.live[:, :, :1]
            bias = bias._replace(scores=bias.scores[:, :, :1], live=live)
        return self._feed(self.attention(hidden[:, :1], bias, head_mask, hidden, None, False)[0])

    def _feed(self, hidden: Tensor) -> Tensor:
        return self.output(self.intermediate(hidden), hidden)


class StackOutput(NamedTuple):
    """What `run_layers` gives; a field that was not asked for is None."""

    last_hidden_state: Tensor
    past_key_values: tuple[Cache, ...] | None
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None


def run_layers(
    layers: nn.ModuleList,
    hidden: Tensor,
    bias: AttentionBias | None = None,
    head_mask: Tensor | list[Any] | None = None,
    encoder_hidden: Tensor | None = None,
    encoder_bias: AttentionBias | None = None,
    past_key_values: tuple[Cache, ...] | None = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    call: Callable[..., Any] = lambda layer, *inputs: layer(*inputs),
    packing: Packing | None = None,
) -> StackOutput:
    """Runs a stack of `Layer`.

    Args:
        hidden: `(batch, sequence, hidden)`.
        head_mask: `(heads,)` or `(layers, heads)`, or a list of what each layer takes.
        call: applies a layer to its inputs; gradient checkpointing comes in here.
        packing: of the states that are wanted; the last ones are zero elsewhere. Not for
            decoders, nor with attentions or hidden states asked for.
    """
    states, weights, cross_weights, caches = [hidden], [], [], []
    masks = head_mask
    if not isinstance(masks, list):
        masks = layer_head_masks(masks, len(layers))
    pasts = past_key_values or (None,) * len(layers)
    if packing is not None and bias is not None:
        hidden, bias = packing.pack(hidden), bias._replace(packing=packing)
    for layer, mask, past in zip(layers, masks, pasts, strict=True):
        hidden, weight, cross_weight, cache = call(
            layer, hidden, bias, mask, encoder_hidden, encoder_bias, past, output_attentions
        )
        states.append(hidden)
        weights.append(weight)
        cross_weights.append(cross_weight)
        caches.append(cache)
    return StackOutput(
        hidden if packing is None else packing.unpack(hidden),
        tuple(caches) if use_cache else None,
        tuple(states) if output_hidden_states else None,
        tuple(weights) if output_attentions else None,
        tuple(cross_weights) if output_attentions and encoder_hidden is not None else None,
    )


class Encoder(nn.Module):
    """The layers, under their published name."""

    def __init__(self, config: Any, position_embedding_type: str = "absolute") -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(config, position_embedding_type) for _ in range(config.num_hidden_layers)
        )

    def forward(self, embeddings: Tensor, *inputs: Any, **options: Any) -> StackOutput:
        """Takes what `run_layers` takes."""
        return run_layers(self.layer, embeddings, *inputs, **options)


class Pooler(nn.Module):
    """The first token's state through a dense layer and tanh."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, hidden)`."""
        return torch.tanh(self.dense(hidden[:, 0]))

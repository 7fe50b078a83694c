"""The post-norm Transformer block of BERT, shared by every family that is built from it.

Source: Devlin et al. 2018, section 3; decoder with cross-attention as in Vaswani et al. 2017,
section 3.1. A layer's attribute path is the published name of its weights; `output` is taken by
Keras and carries an underscore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from .activations import activation
from .attention import AttentionBias, SelfAttention, layer_head_masks
from .layers import Block, Dense, Embedding, LayerNorm, Seeds, dropout
from .modeling import assert_values

Cache = tuple[Any, ...]


class Embeddings(Block):
    """Word, position and token type embeddings, summed and normalised.

    Args:
        config: gives vocab_size, pad_token_id, max_position_embeddings, type_vocab_size and more.
        width: of the embeddings.
    """

    def __init__(self, config: Any, width: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        stddev = config.initializer_range
        self.word_embeddings = Embedding(
            config.vocab_size, width, stddev, padding_idx=config.pad_token_id, dtype=dtype
        )
        self.position_embeddings = Embedding(
            config.max_position_embeddings, width, stddev, dtype=dtype
        )
        self.token_type_embeddings = Embedding(config.type_vocab_size, width, stddev, dtype=dtype)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps, dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob

    def call(
        self,
        input_ids: Any | None,
        token_type_ids: Any | None,
        position_ids: Any | None,
        inputs_embeds: Any | None,
        past: Any = 0,
        seed: Any | None = None,
    ) -> Any:
        """Returns `(batch, sequence, width)`."""
        assert_values("input_ids", input_ids, self.word_embeddings.input_dim)
        assert_values("token_type_ids", token_type_ids, self.token_type_embeddings.input_dim)
        assert_values("position_ids", position_ids, self.position_embeddings.input_dim)
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = (ops.arange(ops.shape(words)[1]) + past)[None]
        if token_type_ids is None:
            token_type_ids = ops.zeros((1, ops.shape(words)[1]), "int32")
        types = self.token_type_embeddings(token_type_ids)
        summed = self.summed(words, types, position_ids)
        return dropout(self.LayerNorm(summed), self.dropout_rate, seed)

    def summed(self, words: Any, types: Any, position_ids: Any) -> Any:
        """Embedded words and token types with those of positions."""
        return words + types + self.position_embeddings(position_ids)


class AddAndNorm(Block):
    """Projection, dropout, residual sum, layer norm."""

    def __init__(self, config: Any, width: int, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.dense = Dense(width, config.hidden_size, config.initializer_range, dtype=dtype)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob

    def call(self, x: Any, residual: Any, seed: Any | None = None) -> Any:
        return self.LayerNorm(dropout(self.dense(x), self.dropout_rate, seed) + residual)


class Attention(Block):
    """Attention and what follows it in the block."""

    def __init__(
        self, config: Any, position_embedding_type: str = "absolute", dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        self.self = SelfAttention(config, position_embedding_type, dtype=dtype)
        self.output_ = AddAndNorm(config, config.hidden_size, dtype=dtype)

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
        context, weights, cache = self.self(
            hidden,
            bias,
            head_mask,
            encoder_hidden,
            past,
            output_attentions=output_attentions,
            seed=seeds.next(),
        )
        return self.output_(context, hidden, seeds.next()), weights, cache


class Intermediate(Block):
    """The feed-forward network's widening half."""

    def __init__(self, config: Any, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.dense = Dense(
            config.hidden_size, config.intermediate_size, config.initializer_range, dtype=dtype
        )
        self.activation = activation(config.hidden_act)

    def call(self, hidden: Any) -> Any:
        return self.activation(self.dense(hidden))


class Layer(Block):
    """Self-attention, cross-attention in a decoder that has an encoder, feed-forward network."""

    def __init__(
        self, config: Any, position_embedding_type: str = "absolute", dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        self.attention = Attention(config, position_embedding_type, dtype=dtype)
        if config.add_cross_attention:
            self.crossattention = Attention(config, dtype=dtype)
        self.intermediate = Intermediate(config, dtype=dtype)
        self.output_ = AddAndNorm(config, config.intermediate_size, dtype=dtype)
        self.chunk_size = config.chunk_size_feed_forward

    def call(
        self,
        hidden: Any,
        bias: AttentionBias | None = None,
        head_mask: Any | None = None,
        encoder_hidden: Any | None = None,
        encoder_bias: AttentionBias | None = None,
        past: Cache | None = None,
        output_attentions: bool = False,
        seed: Any | None = None,
    ) -> tuple[Any, Any | None, Any | None, Cache]:
        """
        Returns:
            Hidden states `(batch, sequence, hidden)`, attention weights, cross-attention weights,
            and the keys and values of this layer: two tensors, four with cross-attention.
        """
        seeds = Seeds(seed)
        hidden, weights, cache = self.attention(
            hidden, bias, head_mask, None, past and past[:2],
            output_attentions=output_attentions, seeds=seeds,
        )  # fmt: skip
        cross_weights = None
        if encoder_hidden is not None:
            hidden, cross_weights, cross_cache = self.crossattention(
                hidden, encoder_bias, head_mask, encoder_hidden, past and past[2:],
                output_attentions=output_attentions, seeds=seeds,
            )  # fmt: skip
            cache = cache + cross_cache
        last = seeds.next()
        if self.chunk_size and hidden.shape[1] is not None:
            starts = range(0, hidden.shape[1], self.chunk_size)
            chunks = [hidden[:, start : start + self.chunk_size] for start in starts]
            fed = ops.concatenate([self.intermediate(chunk) for chunk in chunks], axis=1)
        else:
            fed = self.intermediate(hidden)
        return self.output_(fed, hidden, last), weights, cross_weights, cache

    def first(
        self,
        hidden: Any,
        bias: AttentionBias | None = None,
        head_mask: Any | None = None,
        seed: Any | None = None,
    ) -> Any:
        """The output for the first token alone, `(batch, 1, hidden)`: all that a pooler sees."""
        seeds = Seeds(seed)
        if bias is not None:
            live = None if bias.live is None else bias.live[:, :, :1]
            bias = bias._replace(scores=bias.scores[:, :, :1], live=live)
        first, _, _ = self.attention(
            hidden[:, :1], bias, head_mask, hidden, None, output_attentions=False, seeds=seeds
        )
        return self.output_(self.intermediate(first), first, seeds.next())


class StackOutput(NamedTuple):
    """What `run_layers` gives; a field that was not asked for is None."""

    last_hidden_state: Any
    past_key_values: tuple[Cache, ...] | None
    hidden_states: tuple[Any, ...] | None
    attentions: tuple[Any, ...] | None
    cross_attentions: tuple[Any, ...] | None


def run_layers(
    layers: list[Layer],
    hidden: Any,
    bias: AttentionBias | None = None,
    head_mask: Any | list[Any] | None = None,
    encoder_hidden: Any | None = None,
    encoder_bias: AttentionBias | None = None,
    past_key_values: tuple[Cache, ...] | None = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    output_hidden_states: bool = False,
    call: Callable[..., Any] = lambda layer, *inputs, **options: layer(*inputs, **options),
    seeds: Seeds | None = None,
) -> StackOutput:
    """Runs a stack of `Layer`.

    Args:
        hidden: `(batch, sequence, hidden)`.
        head_mask: `(heads,)` or `(layers, heads)`, or a list of what each layer takes.
        call: applies a layer to its inputs; gradient checkpointing comes in here.
        seeds: for dropout.
    """
    states, weights, cross_weights, caches = [hidden], [], [], []
    masks = head_mask
    if not isinstance(masks, list):
        masks = layer_head_masks(masks, len(layers))
    pasts = past_key_values or (None,) * len(layers)
    for layer, mask, past in zip(layers, masks, pasts, strict=True):
        hidden, weight, cross_weight, cache = call(
            layer, hidden, bias, mask, encoder_hidden, encoder_bias, past,
            output_attentions=output_attentions, seed=seeds.next() if seeds else None,
        )  # fmt: skip
        states.append(hidden)
        weights.append(weight)
        cross_weights.append(cross_weight)
        caches.append(cache)
    return StackOutput(
        hidden,
        tuple(caches) if use_cache else None,
        tuple(states) if output_hidden_states else None,
        tuple(weights) if output_attentions else None,
        tuple(cross_weights) if output_attentions and encoder_hidden is not None else None,
    )


class Encoder(Block):
    """The layers, under their published name."""

    def __init__(
        self, config: Any, position_embedding_type: str = "absolute", dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        self.layer = [
            Layer(config, position_embedding_type, dtype=dtype)
            for _ in range(config.num_hidden_layers)
        ]

    def call(
        self,
        embeddings: Any,
        bias: Any | None = None,
        head_mask: Any | None = None,
        **options: Any,
    ) -> StackOutput:
        """Takes what `run_layers` takes."""
        return run_layers(self.layer, embeddings, bias, head_mask, **options)


class Pooler(Block):
    """The first token's state through a dense layer and tanh."""

    def __init__(self, config: Any, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        size = config.hidden_size
        self.dense = Dense(size, size, config.initializer_range, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, hidden)`."""
        return ops.tanh(self.dense(hidden[:, 0]))

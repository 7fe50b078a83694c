"""Masks and multi-head attention, shared by every family.

Source: Vaswani et al. 2017, section 3.2; relative positions after Shaw et al. 2018 (relative_key)
and Huang et al. 2020, method 4 (relative_key_query).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import Embedding

POSITION_EMBEDDING_TYPES = ("absolute", "relative_key", "relative_key_query")


class Packing(NamedTuple):
    """States without padding: all rows one after another, for all layers but attention itself.

    Differs: Keras runs graphs, which want shapes that do not depend on a mask's values.

    Args:
        batch, sequence: of the padded states.
        places: `(tokens,)`, of the states that are kept, counted through all rows.
    """

    batch: int
    sequence: int
    places: Tensor

    @classmethod
    def of(cls, kept: Tensor) -> Packing:
        """Packing of the states where `(batch, sequence)` is not zero."""
        return cls(*kept.shape, kept.flatten().nonzero()[:, 0])

    def pack(self, x: Tensor) -> Tensor:
        """`(batch, sequence, width)` -> `(1, tokens, width)`."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """`(1, tokens, width)` -> `(batch, sequence, width)`, zero where nothing was kept."""
        padded = x.new_zeros(self.batch * self.sequence, x.shape[2])
        return padded.index_copy(0, self.places, x[0]).unflatten(0, (self.batch, self.sequence))


class AttentionBias(NamedTuple):
    """What is added to the scores, and which queries have a key to attend to.

    A query without one attends to all keys alike: it gets no bias and a score of zero everywhere.
    (Were all its scores at the lowest number instead, the sum that a fused kernel keeps for the
    gradient would drown in rounding.)

    Args:
        scores: `(batch, 1, 1 or queries, keys)`; zero or the lowest number. With scores of
            positions: `(batch or 1, heads, queries, keys)`.
        live: `(batch, 1, 1 or queries, 1)`; one, or zero for a query without a key;
            None if all have one.
        packing: where the layer's states come without their padding.
    """

    scores: Tensor
    live: Tensor | None
    packing: Packing | None = None

    @staticmethod
    def with_positions(bias: AttentionBias | None, positions: Tensor) -> AttentionBias:
        """Scores of positions `(1, heads, queries, keys)`, and what a mask does to them."""
        if bias is None:
            return AttentionBias(positions, None)
        positions = positions if bias.live is None else positions * bias.live
        return AttentionBias(bias.scores + positions, bias.live)


class Buffer(NamedTuple):
    """Keys or values of earlier calls in memory of a fixed size, which new ones are written into.

    Stands in a cache where a plain tensor may, with the shape of what is filled. The caller counts
    how much that is: a call writes behind it and reads from the start to the end of what it wrote.

    Differs: Keras has no views, there a call reads all of the memory and the mask hides the rest.

    Args:
        memory: `(batch, heads, capacity, head_dim)`.
        filled: number of slots that earlier calls filled.
        times: `(capacity,)`; when each slot's token comes in the text. Slots of the same time hold
            alternatives. Only relative positions look at it.
    """

    memory: Tensor
    filled: int
    times: Tensor

    @staticmethod
    def room(states: Tensor, capacity: int) -> Tensor:
        """Memory that begins with `states`, `(batch, heads, some, head_dim)`."""
        batch, heads, length, head_dim = states.shape
        memory = states.new_empty(batch, heads, capacity, head_dim)
        memory[:, :, :length] = states
        return memory

    @property
    def shape(self) -> tuple[int, ...]:
        batch, heads, _, head_dim = self.memory.shape
        return batch, heads, self.filled, head_dim

    def extend(self, new: Tensor) -> Tensor:
        """Writes `(batch, heads, new, head_dim)`; returns `(batch, heads, filled + new, ...)`."""
        end = self.filled + new.shape[2]
        self.memory[:, :, self.filled : end] = new
        return self.memory[:, :, :end]


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> AttentionBias | None:
    """What a mask of ones (attend) and zeros (do not) does to the scores.

    Args:
        mask: `(batch, keys)` or `(batch, queries, keys)`.
    Returns:
        None if nothing is masked.
    """
    if mask is None:
        return None
    if mask.dim() not in (2, 3):
        raise ValueError(
            "attention mask: expected shape (batch, keys) or (batch, queries, keys), "
            f"got {tuple(mask.shape)}"
        )
    # Without a mask the fused kernel is quicker. Looking at the values costs nothing on a CPU,
    # but would stall an accelerator and break a compiled graph.
    look = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if look and bool(mask.all()):
        return None
    mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None, :, :]
    live = (mask != 0).any(-1, keepdim=True).to(dtype)
    scores = (1.0 - mask.to(dtype)) * torch.finfo(dtype).min * live
    return AttentionBias(scores, None if look and bool(live.all()) else live)


def packing_of(
    mask: Tensor | None, bias: AttentionBias | None, wanted: Tensor | None = None
) -> Packing | None:
    """The packing of states that are attended to or wanted, those of first tokens among them.

    Args:
        mask: `(batch, keys)`; with another one nothing can be left out.
        bias: what `attention_bias` made of it.
        wanted: `(batch, sequence)`; which states are.
    Returns:
        None if there is no padding, on an accelerator, and where a row is all padding, whose
        tokens attend to one another.
    """
    if mask is None or mask.dim() != 2 or bias is None or bias.live is not None:
        return None
    kept = mask != 0 if wanted is None else (mask != 0) | (wanted != 0)
    kept[:, 0] = True
    return None if bool(kept.all()) else Packing.of(kept)


def causal_mask(mask: Tensor, queries: int) -> Tensor:
    """Joins a mask over keys with the order of time.

    Args:
        mask: `(batch, keys)`; the last `queries` keys are the queries' own positions.
    Returns:
        `(batch, queries, keys)`.
    """
    keys = mask.shape[1]
    ones = torch.ones(queries, keys, dtype=mask.dtype, device=mask.device)
    return mask[:, None, :] * ones.tril(keys - queries)


def layer_head_masks(head_mask: Tensor | None, layers: int) -> list[Tensor | None]:
    """One mask per layer, `(heads, 1, 1)`, from `(heads,)` or `(layers, heads)`."""
    if head_mask is None:
        return [None] * layers
    if head_mask.dim() == 1:
        head_mask = head_mask[None].expand(layers, -1)
    if head_mask.dim() != 2 or head_mask.shape[0] != layers:
        raise ValueError(
            f"head_mask: expected shape (heads,) or ({layers}, heads), got {tuple(head_mask.shape)}"
        )
    return [row[:, None, None] for row in head_mask]


def distances(queries: int, keys: int, times: Tensor | None, device: Any) -> Tensor:
    """How far each query comes behind each key in the text, `(queries, keys)`.

    Args:
        queries, keys: their numbers; the last keys are the queries' own.
        times: `(capacity,)`, of the slots of a `Buffer`; by default the keys follow one another.
    """
    times = torch.arange(keys, device=device) if times is None else times[:keys]
    return times[keys - queries :, None] - times[None, :]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over the layer's own states, or over an encoder's.

    A family makes the three dense layers under its published names, and says so in `projections`.

    Args:
        heads: their number.
        head_dim: width of a head.
        dropout_rate: of the attention weights.
        scale: of the scores; by default `1 / sqrt(head_dim)`.
    """

    projections: ClassVar[tuple[str, str, str]] = ("query", "key", "value")

    def __init__(
        self, heads: int, head_dim: int, dropout_rate: float, scale: float | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.dropout_rate = dropout_rate
        self.scale = 1.0 / math.sqrt(head_dim) if scale is None else scale

    def forward(
        self,
        hidden: Tensor,
        bias: AttentionBias | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden: Tensor | None = None,
        past: tuple[Tensor | Buffer, ...] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """
        Args:
            hidden: `(batch, sequence, hidden)`, or packed as the bias says.
            bias: of the mask.
            head_mask: `(heads, 1, 1)`, multiplies the attention weights.
            encoder_hidden: `(batch, keys, hidden)`, attended to instead of `hidden`.
            past: keys and values `(batch, heads, past, head_dim)` from earlier calls, as tensors
                or as `Buffer`.
        Returns:
            Context `(batch, sequence, hidden)`; weights `(batch, heads, sequence, keys)` if asked
            for; all keys and values, to be passed as `past` in the next call.
        """
        to_query, to_key, to_value = (getattr(self, name) for name in self.projections)
        packing = None if bias is None else bias.packing
        unpack = packing.unpack if packing is not None else lambda x: x
        query = self._split(unpack(to_query(hidden)))
        times = None
        if encoder_hidden is None:
            key, value = (self._split(unpack(to(hidden))) for to in (to_key, to_value))
            if past is not None and isinstance(past[0], Buffer):
                times = past[0].times
                key, value = past[0].extend(key), past[1].extend(value)
            elif past is not None:
                key = torch.cat([past[0], key], dim=2)
                value = torch.cat([past[1], value], dim=2)
        elif past is None:
            key = self._split(to_key(encoder_hidden))
            value = self._split(to_value(encoder_hidden))
        else:
            key, value = past  # an encoder's states do not change from step to step
        live = None if bias is None else bias.live
        query = query if live is None else query * live.to(query.dtype)
        added = None if bias is None else bias.scores.to(query.dtype)
        relative = self._relative_scores(query, key, times)
        if relative is not None:
            relative = relative if live is None else relative * live
            added = relative if added is None else relative + added
        dropout = self.dropout_rate if self.training else 0.0
        weights = None
        if output_attentions or head_mask is not None:
            scores = query @ key.transpose(2, 3) * self.scale
            scores = scores if added is None else scores + added
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
            weights = functional.dropout(weights, dropout)
            weights = weights if head_mask is None else weights * head_mask
            context = weights @ value
        else:
            context = functional.scaled_dot_product_attention(
                query, key, value, added, dropout, scale=self.scale
            )
        # (batch, heads, sequence, head_dim) -> (batch, sequence, hidden)
        context = context.transpose(1, 2).flatten(2)
        return context if packing is None else packing.pack(context), weights, (key, value)

    def _split(self, x: Tensor) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, heads, sequence, head_dim)`."""
        return x.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)

    def _relative_scores(self, query: Tensor, key: Tensor, times: Tensor | None) -> Tensor | None:
        """Scores of the distances between queries and keys, scaled like the others."""
        return None


class SelfAttention(MultiHeadAttention):
    """Attention of the BERT families.

    Args:
        config: gives hidden_size, num_attention_heads, attention_probs_dropout_prob.
        position_embedding_type: one of `POSITION_EMBEDDING_TYPES`.
    """

    def __init__(self, config: Any, position_embedding_type: str = "absolute") -> None:
        heads = config.num_attention_heads
        super().__init__(heads, config.hidden_size // heads, config.attention_probs_dropout_prob)
        if position_embedding_type not in POSITION_EMBEDDING_TYPES:
            raise ValueError(
                f"position_embedding_type: expected one of {POSITION_EMBEDDING_TYPES}, "
                f"got {position_embedding_type!r}"
            )
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.position_embedding_type = position_embedding_type
        if position_embedding_type != "absolute":
            self.max_positions = config.max_position_embeddings
            self.distance_embedding = Embedding(2 * self.max_positions - 1, self.head_dim)

    def _relative_scores(self, query: Tensor, key: Tensor, times: Tensor | None) -> Tensor | None:
        """Scores of the distances between queries and keys, scaled like the others."""
        if self.position_embedding_type == "absolute":
            return None
        distance = distances(query.shape[2], key.shape[2], times, query.device)
        # (queries, keys, head_dim)
        embedded = self.distance_embedding(distance + self.max_positions - 1).to(query.dtype)
        scores = torch.einsum("bhqd,qkd->bhqk", query, embedded)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + torch.einsum("bhkd,qkd->bhqk", key, embedded)
        return scores * self.scale

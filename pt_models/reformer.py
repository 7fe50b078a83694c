"""Reformer: a Transformer for long sequences in little memory.

Paper: Kitaev, Kaiser and Levskaya 2020, "Reformer: The efficient Transformer".
Weights: google/reformer-crime-and-punishment, google/reformer-enwik8.
It differs from BERT in attention among neighbours (in the text, or in a sort by hash buckets), in
reversible layers over two streams, in axial position embeddings, and in that it is pre-norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import checks
from zoo.configs import ReformerConfig
from zoo.outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    ReformerModelOutput,
    ReformerModelWithLMHeadOutput,
    SequenceClassifierOutput,
)
from zoo.rotations import hash_rotations

from .activations import activation
from .attention import layer_head_masks
from .generation import PACK_AFTER, PACK_BEFORE, PACKED_BYTES, GenerationMixin, Prompt, StepOutput
from .layers import Embedding, Linear, packed
from .losses import classification_loss, cross_entropy, next_token_loss, span_loss
from .lsh_attention import (
    HIDDEN,
    NO_BUCKET,
    OWN,
    Dropout,
    Memo,
    Memory,
    Pattern,
    attention_weights,
    chunked_attention,
    hash_vectors,
    look_back,
    normalised,
    sorted_order,
)
from .modeling import PreTrainedModel, assert_values, default
from .reversible import Tape, run_plainly, run_reversible

# Numbers that a feed-forward network widens to at a time on a CPU.
FEED_TILE = 2**20


class Hashing(NamedTuple):
    """How vectors are hashed.

    Args:
        rotations: `(heads, head_dim, hashes, directions / 2)`.
        buckets: number of buckets of a round, one more where there is padding.
    """

    rotations: Tensor
    buckets: int


class LayerCache(tuple):
    """What a layer gives to the next step: buckets, None where there are none, and states.

    Besides it has how they were hashed, and what the last step computed from them. A plain tuple of
    the two does as well; then that is found out anew.
    """

    hashing: Hashing | None
    memory: Memory | None

    def __new__(
        cls,
        buckets: Tensor | None,
        states: Tensor,
        hashing: Hashing | None = None,
        memory: Memory | None = None,
    ) -> LayerCache:
        self = super().__new__(cls, (buckets, states))
        self.hashing, self.memory = hashing, memory
        return self

    @classmethod
    def of(cls, cache: Any) -> LayerCache:
        return cache if isinstance(cache, LayerCache) else cls(*cache)

    def __reduce__(self) -> Any:
        return LayerCache, tuple(self)


def dropout(x: Tensor, rate: float, seed: int | None) -> Tensor:
    """Zeroes a share `rate` of the elements and scales the rest; nothing if seed is None.

    The seed decides which, so that a layer that runs again drops the same ones.
    """
    if seed is None or not rate:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.empty_like(x).bernoulli_(1.0 - rate, generator=generator)
    return x * kept.mul_(1.0 / max(1.0 - rate, 1e-9))


Cache = LayerCache | tuple[Tensor | None, Tensor]


class ReplayedCaches(list):
    """The caches of a call that trains, which are not there before somebody asks for them.

    They follow from the streams behind the last layer as gradients do; to keep the states of all
    layers would take the memory that reversible layers save.
    """

    def __init__(self, replay: Callable[[], list[LayerCache]]) -> None:
        super().__init__()
        self._replay: Callable[[], list[LayerCache]] | None = replay

    def _filled(self) -> list[LayerCache]:
        if self._replay is not None:
            replay, self._replay = self._replay, None
            self.extend(replay())
        return self

    def __len__(self) -> int:
        return list.__len__(self._filled())

    def __iter__(self) -> Iterator[LayerCache]:
        return list.__iter__(self._filled())

    def __getitem__(self, index: Any) -> Any:
        return list.__getitem__(self._filled(), index)


class AxialPositionEmbeddings(nn.Module):
    """A position's vector is that of its row joined with that of its column, and so on.

    Reformer has it from Ho et al. 2019, "Axial attention in multidimensional Transformers".
    """

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.shape = tuple(config.axial_pos_shape)
        self.dropout_rate = config.hidden_dropout_prob
        axes = len(self.shape)
        self.weights = nn.ParameterList(
            torch.empty(*(size if a == axis else 1 for a in range(axes)), width)
            for axis, (size, width) in enumerate(
                zip(self.shape, config.axial_pos_embds_dim, strict=True)
            )
        )

    def forward(self, position_ids: Tensor, seed: int | None) -> Tensor:
        """`(batch or 1, sequence)` -> `(batch or 1, sequence, hidden)`."""
        found, stride = [], 1
        for size, weight in zip(reversed(self.shape), reversed(self.weights), strict=True):
            table = weight.reshape(size, -1)
            found.append(functional.embedding(position_ids // stride % size, table))
            stride *= size
        vectors = torch.cat(found[::-1], -1)
        # Whole positions are dropped.
        return vectors * dropout(torch.ones_like(vectors[..., :1]), self.dropout_rate, seed)


class PositionEmbeddings(nn.Module):
    """A vector for each position."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.dropout_rate = config.hidden_dropout_prob
        self.embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, position_ids: Tensor, seed: int | None) -> Tensor:
        """`(batch or 1, sequence)` -> `(batch or 1, sequence, hidden)`."""
        return dropout(self.embedding(position_ids), self.dropout_rate, seed)


class ReformerEmbeddings(nn.Module):
    """Word and position embeddings, summed."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        positions = AxialPositionEmbeddings if config.axial_pos_embds else PositionEmbeddings
        self.position_embeddings = positions(config)
        self.longest = config.longest_sequence
        self.pad_token_id = config.pad_token_id or 0
        self.dropout_rate = config.hidden_dropout_prob

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        past: int,
        seeds: Sequence[int | None],
    ) -> Tensor:
        """Returns `(batch, sequence, hidden)`."""
        assert_values("input_ids", input_ids, self.word_embeddings.num_embeddings)
        assert_values("position_ids", position_ids, self.longest)
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past, past + words.shape[1], device=words.device)[None]
        positions = self.position_embeddings(position_ids, seeds[1])
        return dropout(words, self.dropout_rate, seeds[0]) + positions

    def padded(self, x: Tensor, padding: int) -> Tensor:
        """`(batch, sequence, hidden)` and padding behind it, as the published classes embed it."""
        batch, length, _ = x.shape
        ids = torch.full((1, padding), self.pad_token_id, device=x.device)
        places = torch.arange(length, length + padding, device=x.device)[None]
        more = self(ids, places.clamp(max=self.longest - 1), None, 0, [None, None])
        return torch.cat([x, more.to(x.dtype).expand(batch, -1, -1)], 1)


@dataclass
class LayerCall:
    """What a layer is called with besides its stream.

    Args:
        mask: `(batch, sequence)` bool; which keys may be seen, None for all.
        head_mask: `(heads, 1, 1)`; multiplies what a head gives.
        num_hashes: rounds of hashing.
        seeds: of the layer's dropouts, None for no dropout.
        wants: "buckets", "states" and "attentions", where they are to be returned.
        found: what is returned besides the stream.
    """

    mask: Tensor | None
    head_mask: Tensor | None
    num_hashes: int
    seeds: Sequence[int | None]
    wants: frozenset[str]
    found: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepCall:
    """What a layer is called with for one new position a row.

    Args:
        place: `(rows,)`; the position.
        plain: `(rows,)` bool, False for none; where LSH attention sees all earlier positions, as it
            does as long as they have no buckets.
        mask: `(rows, positions)` bool; which keys may be seen, None for all.
        head_mask: `(heads, 1, 1)`; multiplies what a head gives.
        wants_attentions: whether they are to be returned.
        as_published: whether LSH attention in every row looks at the states of the first, which
            the published classes do in cached steps, and those with a `hash_seed` are to repeat.
        found: what is returned besides the stream.
    """

    place: Tensor
    plain: Tensor | bool
    mask: Tensor | None
    head_mask: Tensor | None
    wants_attentions: bool
    as_published: bool = False
    found: dict[str, Any] = field(default_factory=dict)


class SelfAttention(nn.Module):
    """What both kinds of attention share."""

    kind: str

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, self.head_dim = config.num_attention_heads, config.attention_head_size
        self.pattern = Pattern(
            getattr(config, f"{self.kind}_attn_chunk_length"),
            getattr(config, f"{self.kind}_num_chunks_before"),
            getattr(config, f"{self.kind}_num_chunks_after"),
            config.is_decoder,
            excludes_own=self.kind == "lsh",
        )
        self.dropout_rate = getattr(config, f"{self.kind}_attention_probs_dropout_prob")

    def _linear(self) -> nn.Linear:
        return Linear(self.config.hidden_size, self.heads * self.head_dim, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        """`(batch, sequence, heads * head_dim)` -> `(batch, sequence, heads, head_dim)`."""
        return x.unflatten(2, (self.heads, self.head_dim))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall, memo: Memo
    ) -> Tensor:
        """`(batch, sequence, heads * head_dim)`."""
        length = query.shape[1]
        pattern = self.pattern if length > self.pattern.chunk else self.pattern.whole(length)
        seed = call.seeds[0]
        rate = 0.0 if seed is None else self.dropout_rate
        if "attentions" in call.wants:
            weights = attention_weights(query, key, pattern, memo, call.mask)
            weights = weights if call.head_mask is None else weights * call.head_mask[:, None]
            call.found["attentions"] = weights if length > self.pattern.chunk else weights[:, :, 0]
        context = chunked_attention(
            query, key, value, pattern, memo, call.mask, Dropout(rate, seed or 0)
        )
        if call.head_mask is not None:
            context = context * call.head_mask[:, :, 0]
        return context.flatten(2)

    def _look_back(
        self, query: Tensor, memory: Memory, places: Tensor, hidden: Tensor, call: StepCall
    ) -> Tensor:
        """Attention to positions `(rows, heads, ..., n)` as `(rows, 1, heads * head_dim)`."""
        if call.mask is not None:
            mask = call.mask[:, None].expand(-1, self.heads, -1)
            seen = mask.gather(2, places.flatten(2)).view_as(places) | self._is_own(places, call)
            hidden = hidden + HIDDEN * ~seen
        hidden = hidden.expand_as(places)
        context, scores = look_back(
            query, memory.key, memory.value, places.flatten(2), hidden.flatten(2)
        )
        if call.wants_attentions:
            call.found["attentions"] = scores.view_as(places).softmax(-1).unsqueeze(-2)
        if call.head_mask is not None:
            context = context * call.head_mask[..., 0]
        return context.flatten(1)[:, None]

    def _is_own(self, places: Tensor, call: StepCall) -> Tensor:
        return places == call.place.view(-1, *[1] * (places.dim() - 1))

    def prepared(
        self, cache: LayerCache, num_hashes: int, mask: Tensor | None
    ) -> tuple[Memory, Hashing | None]:
        """What a prompt's cache leaves for generation; see LSH attention."""
        return self.memory(cache[1], None), None

    def extended(
        self,
        cache: LayerCache,
        memory: Memory,
        hashing: Hashing | None,
        call: StepCall,
        num_hashes: int,
    ) -> LayerCache:
        """The cache behind a step."""
        return LayerCache(None, torch.cat([cache[1], call.found["states"]], 1), None, memory)


class LSHSelfAttention(SelfAttention):
    """Attention among vectors of neighbouring hash buckets, queries and keys being the same."""

    kind = "lsh"

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.query_key = self._linear()
        self.value = self._linear()

    def forward(self, hidden: Tensor, call: LayerCall, memo: Memo) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, sequence, heads * head_dim)`."""
        query_key, value = self._split(self.query_key(hidden)), self._split(self.value(hidden))
        if memo.order is None and hidden.shape[1] > self.pattern.chunk:
            hashing = self.hashing(query_key, call.num_hashes, call.mask is not None)
            buckets = self.buckets(query_key, hashing, call.mask)
            memo.order = sorted_order(buckets)
            if "buckets" in call.wants:
                call.found.update(buckets=buckets, hashing=hashing)
        # Reformer, section 2: keys are the queries, made unit length
        return self._attend(query_key, normalised(query_key), value, call, memo)

    def hashing(self, like: Tensor, num_hashes: int, padded: bool) -> Hashing:
        """New rotations, or with a `hash_seed` always the same.

        Args:
            like: `(batch, sequence, heads, head_dim)`.
        """
        config = self.config
        config.choose_buckets(like.shape[1])
        directions, buckets = int(np.sum(config.num_buckets)), int(np.prod(config.num_buckets))
        shape = (self.heads, self.head_dim, num_hashes, directions // 2)
        if config.hash_seed is None:
            rotations = torch.randn(shape, device=like.device)
        else:
            numbers = hash_rotations(config.hash_seed, *shape[:3], directions)
            rotations = torch.from_numpy(numbers.copy()).to(like.device)
        return Hashing(rotations, buckets + padded)

    @torch.no_grad()
    def buckets(self, vectors: Tensor, hashing: Hashing, mask: Tensor | None = None) -> Tensor:
        """Hashes `(batch, sequence, heads, head_dim)` to `(batch, heads, hashes, sequence)`.

        A round's buckets are numbered above those of the round before it, and what is masked has
        the last bucket of its round.
        """
        rotations, count = hashing
        buckets = hash_vectors(vectors.float(), rotations, self.config.num_buckets)
        if mask is not None:
            buckets = torch.where(mask[:, None, None], buckets, count - 1)
        rounds = torch.arange(rotations.shape[2], device=buckets.device)
        return buckets + count * rounds[:, None]

    def found_hashing(self, buckets: Tensor) -> Hashing:
        """How buckets were made, by themselves: as published, padding shows in the highest."""
        hashes = buckets.shape[2]
        hashing = self.hashing(buckets, hashes, padded=False)
        padded = int(buckets.max()) >= hashing.buckets * hashes
        return hashing._replace(buckets=hashing.buckets + padded)

    def memory(self, states: Tensor, buckets: Tensor | None) -> Memory:
        """Of earlier states `(rows, sequence, hidden)` and their buckets, if they have any."""
        key = normalised(self._split(self.query_key(states))).transpose(1, 2)
        memory = Memory(key, self._split(self.value(states)).transpose(1, 2))
        return memory if buckets is None else memory.sorted(buckets)

    def prepared(
        self, cache: LayerCache, num_hashes: int, mask: Tensor | None
    ) -> tuple[Memory, Hashing | None]:
        """What a prompt's cache leaves for generation: its buckets from the start, if need be new.

        Args:
            mask: `(rows, sequence)` bool; what is not padding, which is all behind it.
        """
        memory = self.memory(cache[1], None)
        buckets, hashing = cache[0], cache.hashing
        if buckets is None:
            keys = memory.key.transpose(1, 2)
            hashing = self.hashing(keys, num_hashes, padded=False)
            buckets = self.buckets(keys, hashing)
        elif mask is None and self.config.hash_seed is not None:
            hashing = self.found_hashing(buckets)
        if mask is not None:
            buckets = buckets.masked_fill(~mask[:, None, None], NO_BUCKET)
        return memory.sorted(buckets), hashing

    def advance(
        self, states: Tensor, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Tensor, Memory]:
        """One new position a row, which sees no more than a few chunks.

        Args:
            states: `(rows, 1, hidden)`.
            memory: has room for the position; keys and values are written into it.
            hashing: of the memory's buckets, None if it has none.
        """
        place, chunk, width = call.place, self.pattern.chunk, self.pattern.width
        query_key, value = self._split(self.query_key(states)), self._split(self.value(states))
        memory.put(normalised(query_key)[:, 0], value[:, 0], place)
        last = place.view(-1, 1, 1, 1)
        if hashing is None:
            plain = torch.arange(memory.key.shape[2], device=place.device)
            places = plain.expand(len(place), self.heads, -1)
            hidden = OWN * (places == last[..., 0]) + HIDDEN * (places > last[..., 0])
            return self._look_back(query_key[:, 0], memory, places, hidden, call), memory
        buckets = self.buckets(query_key, hashing)
        call.found["buckets"] = buckets
        memory, rank = memory.sort_in(buckets, place)
        # The chunk in the order that the position falls into, and those beside it.
        index = torch.arange(max(width, chunk + 1), device=place.device)
        start = (rank // chunk - self.pattern.before) * chunk
        places = memory.order.gather(-1, (start + index) % (last + 1))
        hidden = OWN * self._is_own(places, call) + HIDDEN * (index >= width)
        if call.plain is not False:
            every = OWN * (index == last) + HIDDEN * (index > last)
            plain = call.plain.view(-1, 1, 1, 1)
            places = torch.where(plain, index.minimum(last), places)
            hidden = torch.where(plain, every, hidden)
        seen = memory
        if call.as_published and call.plain is False:
            seen = Memory(*(x[:1].expand_as(x) for x in memory[:2]))
        return self._look_back(query_key[:, 0], seen, places, hidden, call), memory

    def extended(
        self,
        cache: LayerCache,
        memory: Memory,
        hashing: Hashing | None,
        call: StepCall,
        num_hashes: int,
    ) -> LayerCache:
        """The cache behind a step; from the length of a chunk on it has buckets."""
        states = torch.cat([cache[1], call.found["states"]], 1)
        buckets = call.found.get("buckets")
        if buckets is not None:
            buckets = torch.cat([cache[0], buckets], -1)
        elif states.shape[1] >= self.pattern.chunk:
            keys = memory.key.transpose(1, 2)
            hashing = self.hashing(keys, num_hashes, padded=False)
            buckets = self.buckets(keys, hashing)
            memory = memory.sorted(buckets)
        return LayerCache(buckets, states, hashing, memory)


class LocalSelfAttention(SelfAttention):
    """Attention among neighbours in the text."""

    kind = "local"

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.query = self._linear()
        self.key = self._linear()
        self.value = self._linear()

    def forward(self, hidden: Tensor, call: LayerCall, memo: Memo) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, sequence, heads * head_dim)`."""
        query, key, value = (
            self._split(layer(hidden)) for layer in (self.query, self.key, self.value)
        )
        return self._attend(query, key / self.head_dim**0.5, value, call, memo)

    def memory(self, states: Tensor, buckets: Tensor | None) -> Memory:
        """Of earlier states `(rows, sequence, hidden)`."""
        key, value = self._split(self.key(states)), self._split(self.value(states))
        return Memory((key / self.head_dim**0.5).transpose(1, 2), value.transpose(1, 2))

    def advance(
        self, states: Tensor, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Tensor, Memory]:
        """One new position a row, which sees its chunk and those before it; see LSH attention."""
        query, key, value = (
            self._split(layer(states)) for layer in (self.query, self.key, self.value)
        )
        memory.put((key / self.head_dim**0.5)[:, 0], value[:, 0], call.place)
        chunk, before, last = self.pattern.chunk, self.pattern.before, call.place[:, None, None]
        index = torch.arange((before + 1) * chunk, device=states.device)
        places = (last // chunk - before) * chunk + index
        hidden = HIDDEN * ((places < 0) | (places > last))
        places = places.clamp(min=0).minimum(last).expand(-1, self.heads, -1)
        return self._look_back(query[:, 0], memory, places, hidden, call), memory


class ReformerSelfOutput(nn.Module):
    """Projects what the heads give."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        width = config.num_attention_heads * config.attention_head_size
        self.dense = Linear(width, config.hidden_size, bias=False)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, context: Tensor, seed: int | None) -> Tensor:
        return dropout(self.dense(context), self.dropout_rate, seed)


class ReformerAttention(nn.Module):
    """Layer norm, attention, projection."""

    def __init__(self, config: ReformerConfig, kind: str) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attention = {"lsh": LSHSelfAttention, "local": LocalSelfAttention}[kind](config)
        self.output = ReformerSelfOutput(config)

    def forward(self, hidden: Tensor, call: LayerCall, memo: Memo) -> Tensor:
        states = self.states(hidden)
        if "states" in call.wants:
            call.found["states"] = states
        return self.output(self.self_attention(states, call, memo), call.seeds[1])

    def states(self, hidden: Tensor) -> Tensor:
        """What attention sees of a stream."""
        return self.layer_norm(hidden.to(self.layer_norm.weight.dtype))

    def advance(
        self, hidden: Tensor, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Tensor, Memory]:
        """One new position a row, `(rows, 1, hidden)`."""
        states = self.states(hidden)
        call.found["states"] = states
        context, memory = self.self_attention.advance(states, memory, hashing, call)
        return self.output(context, None), memory


class ReformerFeedForwardDense(nn.Module):
    """The feed-forward network's widening half."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.feed_forward_size)
        self.activation = activation(config.hidden_act)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, hidden: Tensor, seed: int | None) -> Tensor:
        return self.activation(dropout(self.dense(hidden), self.dropout_rate, seed))


class ReformerFeedForwardOutput(nn.Module):
    """The feed-forward network's narrowing half."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.feed_forward_size, config.hidden_size)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(self, hidden: Tensor, seed: int | None) -> Tensor:
        return dropout(self.dense(hidden), self.dropout_rate, seed)


class ChunkReformerFeedForward(nn.Module):
    """Layer norm and the feed-forward network, some positions at a time."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = ReformerFeedForwardDense(config)
        self.output = ReformerFeedForwardOutput(config)
        self.width = config.feed_forward_size
        self.chunk_size = config.chunk_size_feed_forward

    def forward(self, hidden: Tensor, seeds: Sequence[int | None]) -> Tensor:
        if hidden.shape[1] == 1:
            return self._feed(hidden, seeds)
        fed = [feed(hidden[:, part]) for part, feed in self.pieces(hidden, seeds)]
        return fed[0] if len(fed) == 1 else torch.cat(fed, 1)

    def pieces(
        self, hidden: Tensor, seeds: Sequence[int | None]
    ) -> Iterator[tuple[slice, Callable[[Tensor], Tensor]]]:
        """Slices of the positions, and what makes of one what is added to it."""
        # Reformer, section 3: feed-forward layers work on one position at a time
        batch, length, _ = hidden.shape
        weight = self.layer_norm.weight
        size = self.chunk_size or length
        if not self.chunk_size and weight.dtype == torch.float32 and hidden.device.type == "cpu":
            # As much as stays in a cache; sums of gradients in half precision would lose some.
            size = max(FEED_TILE // (batch * self.width), 1)
        for number, start in enumerate(range(0, length, size)):
            own = [None if seed is None else seed + number for seed in seeds]
            yield slice(start, start + size), partial(self._feed, seeds=own)

    def _feed(self, hidden: Tensor, seeds: Sequence[int | None]) -> Tensor:
        hidden = self.layer_norm(hidden.to(self.layer_norm.weight.dtype))
        return self.output(self.dense(hidden, seeds[0]), seeds[1])


class ReformerLayer(nn.Module):
    """Attention and feed-forward network, as `run_reversible` runs them."""

    def __init__(self, config: ReformerConfig, kind: str) -> None:
        super().__init__()
        self.attention = ReformerAttention(config, kind)
        self.feed_forward = ChunkReformerFeedForward(config)

    def attend(self, hidden: Tensor, call: LayerCall, memo: Memo | None) -> tuple[Tensor, Memo]:
        memo = Memo() if memo is None else memo
        return self.attention(hidden, call, memo), memo

    def feed(self, hidden: Tensor, call: LayerCall) -> Tensor:
        return self.feed_forward(hidden, call.seeds[2:])

    def pieces(
        self, hidden: Tensor, call: LayerCall
    ) -> Iterator[tuple[slice, Callable[[Tensor], Tensor]]]:
        return self.feed_forward.pieces(hidden, call.seeds[2:])


class ReformerEncoder(nn.Module):
    """The reversible layers, and the norm over both of their streams."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ReformerLayer(config, kind) for kind in config.attn_layers)
        self.layer_norm = nn.LayerNorm(2 * config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def forward(
        self,
        hidden: Tensor,
        calls: Sequence[LayerCall],
        seed: int | None,
        output_hidden_states: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, Tensor]]:
        """
        Args:
            hidden: `(batch, sequence, hidden)`.
        Returns:
            Both streams `(batch, sequence, 2 * hidden)`, normalised; the second behind each layer;
            both as they are.
        """
        dtype = hidden.dtype
        # What a layer is taken off again in the backward pass needs the precision.
        x1 = x2 = hidden.float()
        states = [hidden]
        tape = Tape(sum(p.numel() for p in self.layers.parameters() if p.requires_grad))
        for number, (layer, call) in enumerate(zip(self.layers, calls, strict=True)):
            if layer is self.layers[-1]:
                # Its backward pass is the first and would compute again at once what was dropped.
                x1, x2, memo = run_plainly(layer, x1, x2, call)
            else:
                keep = output_hidden_states or layer is self.layers[-2]
                x1, x2, memo = run_reversible(layer, number, x1, x2, call, tape, keep)
            if "buckets" in call.wants:
                call.found["memo"] = memo
            if output_hidden_states:
                states.append(x2.to(dtype))
        joined = self.layer_norm(torch.cat([x1, x2], -1).to(dtype))
        joined = dropout(joined, self.dropout_rate, seed)
        return joined, tuple(states) if output_hidden_states else None, (x1, x2)

    @torch.no_grad()
    def replayed(
        self, calls: Sequence[LayerCall], streams: tuple[Tensor, Tensor], length: int
    ) -> list[LayerCache]:
        """The caches of a call, computed from the streams behind the last layer."""
        y1, y2 = (x.detach() for x in streams)
        caches = []
        for layer, call in reversed(list(zip(self.layers, calls, strict=True))):
            x2 = y2 - layer.feed(y1, call)
            attended, _ = layer.attend(x2, call, call.found["memo"])
            call.found["states"] = layer.attention.states(x2)
            caches.append(_cache(call, length))
            y1, y2 = y1 - attended, x2
        return caches[::-1]

    def advance(
        self,
        hidden: Tensor,
        memories: Sequence[Memory],
        hashings: Sequence[Hashing | None],
        calls: Sequence[StepCall],
    ) -> tuple[Tensor, list[Memory], list[Tensor]]:
        """One new position a row.

        Args:
            hidden: `(rows, 1, hidden)`.
        Returns:
            Both streams `(rows, 1, 2 * hidden)`, the new memories, and the second stream behind
            each layer.
        """
        x1 = x2 = hidden.float()
        states, grown = [hidden], []
        for layer, memory, hashing, call in zip(
            self.layers, memories, hashings, calls, strict=True
        ):
            attended, memory = layer.attention.advance(x2, memory, hashing, call)
            x1 = x1 + attended
            x2 = x2 + layer.feed_forward(x1, [None, None])
            grown.append(memory)
            states.append(x2.to(hidden.dtype))
        return self.layer_norm(torch.cat([x1, x2], -1).to(hidden.dtype)), grown, states


def _cache(call: LayerCall, length: int) -> LayerCache:
    """What a layer's call leaves, without padding."""
    buckets, states = call.found.get("buckets"), call.found["states"]
    buckets = None if buckets is None else buckets[..., :length]
    return LayerCache(buckets, states[:, :length], call.found.get("hashing"))


class ReformerPreTrainedModel(PreTrainedModel):
    config_class = ReformerConfig
    base_model_prefix = "reformer"

    @torch.no_grad()
    def _init_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if isinstance(module, nn.ParameterList) and not parameter.is_meta:
            parameter.normal_(0.0, self.config.axial_norm_std)
        else:
            super()._init_parameter(module, name, parameter)


class ReformerModel(ReformerPreTrainedModel):
    """The bare Reformer, causal with `config.is_decoder`.

    Evaluation pads sequences to the multiple of a chunk that they need; training takes whole ones.
    """

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.embeddings = ReformerEmbeddings(config)
        self.encoder = ReformerEncoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Sequence[Cache] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ReformerModelOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)`; 1 may be attended to, 0 may not.
            position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            num_hashes: rounds of hashing, by default as the config says.
            past_buckets_states: of an earlier call; then one new token is passed.
            use_cache, output_hidden_states, output_attentions, return_dict: what to return;
                by default as the config says.
        """
        config = self.config
        use_cache = default(use_cache, config.use_cache)
        output_attentions = default(output_attentions, config.output_attentions)
        output_hidden_states = default(output_hidden_states, config.output_hidden_states)
        num_hashes = config.num_hashes if num_hashes is None else num_hashes
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": None,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": None,
            "encoder_attention_mask": None,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        past = self._past(past_buckets_states)
        batch, length = checks.encoder_inputs(config, config.hidden_size, past, **shapes)
        self._check(attention_mask, past, length, num_hashes)
        if past_buckets_states is not None:
            return self._returned(
                self._step(
                    input_ids, attention_mask, position_ids, head_mask, inputs_embeds, num_hashes,
                    past_buckets_states, use_cache, output_hidden_states, output_attentions,
                ),
                return_dict,
            )  # fmt: skip
        learns = self.training and torch.is_grad_enabled()
        if learns:
            config.check_training_length(length)
        seeds = self._seeds()
        embeddings = self.embeddings(input_ids, position_ids, inputs_embeds, 0, seeds[:2])
        mask = None if attention_mask is None else (attention_mask != 0).expand(batch, -1)
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None
        padding = config.padding_for(length)
        if padding:
            if mask is None:
                mask = torch.ones(batch, length, dtype=torch.bool, device=embeddings.device)
            embeddings = self.embeddings.padded(embeddings, padding)
            mask = functional.pad(mask, (0, padding))
        replays = use_cache and learns
        wanted = {
            "buckets": use_cache, "states": use_cache and not replays,
            "attentions": output_attentions,
        }  # fmt: skip
        wants = frozenset(name for name, value in wanted.items() if value)
        calls = [
            LayerCall(mask, heads, num_hashes, seeds[3 + 4 * number :][:4], wants)
            for number, heads in enumerate(layer_head_masks(head_mask, len(config.attn_layers)))
        ]
        hidden, states, streams = self.encoder(embeddings, calls, seeds[2], output_hidden_states)
        caches = None
        if replays:
            caches = ReplayedCaches(lambda: self.encoder.replayed(calls, streams, length))
        elif use_cache:
            caches = [_cache(call, length) for call in calls]
        output = ReformerModelOutput(
            hidden[:, :length],
            caches,
            None if states is None else tuple(x[:, :length] for x in states),
            tuple(call.found["attentions"] for call in calls) if output_attentions else None,
        )
        return self._returned(output, return_dict)

    def _check(
        self, attention_mask: Tensor | None, past: int, length: int, num_hashes: int
    ) -> None:
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                "attention_mask: expected shape (batch, sequence), as attention in chunks hides "
                f"keys from all queries alike, got {tuple(attention_mask.shape)}"
            )
        if num_hashes < 1:
            raise ValueError(f"num_hashes: expected an integer above 0, got {num_hashes}")
        longest = self.config.longest_sequence
        if past + length > longest:
            raise ValueError(
                f"the sequence has {past + length} positions, but the product of "
                f"config.axial_pos_shape is {longest}"
            )
        if past and length != 1:
            raise ValueError(
                f"past_buckets_states: expected one new token after them, got {length}"
            )
        if past and self.training:
            raise ValueError("past_buckets_states: they serve evaluation; call model.eval()")

    def _past(self, caches: Sequence[Cache] | None) -> int:
        if caches is None:
            return 0
        layers = len(self.config.attn_layers)
        if len(caches) != layers or any(len(cache) != 2 for cache in caches):
            raise ValueError(
                f"past_buckets_states: expected {layers} pairs of buckets and states, "
                f"got {len(caches)} of {min(map(len, caches), default=0)}"
            )
        return caches[0][1].shape[1]

    def _step(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        head_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        num_hashes: int,
        caches: Sequence[Cache],
        use_cache: bool,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> ReformerModelOutput:
        """One new token behind a cache."""
        past = self._past(caches)
        hidden = self.embeddings(input_ids, position_ids, inputs_embeds, past, [None, None])
        place = torch.full((len(hidden),), past, device=hidden.device)
        mask = None if attention_mask is None else (attention_mask != 0).expand(len(hidden), -1)
        caches = [LayerCache.of(cache) for cache in caches]
        attentions = [layer.attention.self_attention for layer in self.encoder.layers]
        memories, hashings, calls = [], [], []
        for attention, cache, heads in zip(
            attentions, caches, layer_head_masks(head_mask, len(caches)), strict=True
        ):
            memory, hashing = cache.memory, cache.hashing
            published = self.config.hash_seed is not None
            if cache[0] is not None and (hashing is None or published):
                hashing = attention.found_hashing(cache[0])
            if memory is None:
                memory = attention.memory(cache[1], cache[0])
            memories.append(memory.grown(past + 1))
            hashings.append(hashing)
            calls.append(StepCall(place, False, mask, heads, output_attentions, published))
        hidden, memories, states = self.encoder.advance(hidden, memories, hashings, calls)
        caches = [
            attention.extended(cache, memory, hashing, call, num_hashes)
            for attention, cache, memory, hashing, call in zip(
                attentions, caches, memories, hashings, calls, strict=True
            )
        ]
        return ReformerModelOutput(
            hidden,
            caches if use_cache else None,
            tuple(states) if output_hidden_states else None,
            tuple(call.found["attentions"] for call in calls) if output_attentions else None,
        )

    def _seeds(self) -> list[int | None]:
        """Seeds of the dropouts of a call: three of the model's, and four of each layer."""
        count = 3 + 4 * len(self.config.attn_layers)
        if not self.training:
            return [None] * count
        return torch.randint(2**62, (count,)).tolist()


class ReformerOnlyLMHead(nn.Module):
    """Scores the vocabulary, some positions at a time; the bias has two names in a file."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.decoder = Linear(2 * config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.chunk_size = config.chunk_size_lm_head

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, 2 * hidden)` -> `(batch, sequence, vocab)`."""
        if not self.chunk_size:
            return self.decoder(hidden)
        return torch.cat([self.decoder(piece) for piece in hidden.split(self.chunk_size, 1)], 1)


class ReformerLMHeadModel(ReformerPreTrainedModel):
    """What the two language models share: Reformer and the head."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.reformer = ReformerModel(config)
        self.lm_head = ReformerOnlyLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head.decoder = value
        self.lm_head.bias = value.bias
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        tied = {"lm_head.decoder.bias": "lm_head.bias"}
        if self.config.tie_word_embeddings:
            tied["lm_head.decoder.weight"] = "reformer.embeddings.word_embeddings.weight"
        return tied


class ReformerDecoder:
    """The step function of generation, in the place of `TreeDecoder`.

    Every beam is a row of its own, as what it sees depends on how its own text is sorted. A row's
    tokens stand from position 0 on, so that padding changes nothing that local attention sees.
    A step costs a window of each layer, and moving the sort's later entries by one place.

    Args: as of `TreeDecoder`.
    """

    def __init__(
        self,
        model: ReformerModelWithLMHead,
        prompt: Prompt,
        beams: int,
        steps: int,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> None:
        if flags.get("output_attentions"):
            raise ValueError(
                "generate: output_attentions=True: Reformer's attention has another shape in each "
                "step; call the model for it"
            )
        self.model, self.prompt, self.beams, self.flags = model, prompt, beams, flags
        self.encoded = dict(encoded)
        self.made, self.steps = 0, steps
        ids, mask = prompt.given, None
        place = torch.full((len(ids),), ids.shape[1], device=ids.device)
        self.order = None
        if prompt.mask is not None:
            place = prompt.mask.sum(1)
            mask = torch.arange(ids.shape[1], device=ids.device) < place[:, None]
            self.order = prompt.mask.byte().argsort(dim=1, descending=True, stable=True)
            ids = prompt.ids.gather(1, self.order)
        self.ids, self.mask, self.place = ids, mask, place
        self.shortest, self.longest = int(place.min()), int(place.max())
        # Whether LSH attention in all rows looks at the first row's states: then it has to stay.
        self.as_published = model.config.hash_seed is not None and mask is None
        self.may_shrink = not self.as_published
        self.memories: list[Memory] = []
        self.hashings: list[Hashing | None] = []
        self.first: list[LayerCache] = []
        self.later: list[list[dict[str, Any]]] = []

    def start(self) -> StepOutput:
        """Reads the prompt; returns `logits` `(batch, 1, vocab)`."""
        self._assert_room(self.longest)
        reformer, mask = self.model.reformer, self.mask
        output = reformer(
            self.ids,
            None if mask is None else mask.long(),
            use_cache=True,
            output_hidden_states=self.flags.get("output_hidden_states", False),
            return_dict=True,
            **self.encoded,
        )
        rows = torch.arange(len(self.ids), device=self.ids.device)
        last = output.last_hidden_state[rows, self.place - 1][:, None]
        capacity = self.ids.shape[1] + self.steps - 1
        num_hashes = self.encoded.get("num_hashes") or self.model.config.num_hashes
        self.first = output.past_buckets_states
        for layer, cache in zip(reformer.encoder.layers, self.first, strict=True):
            memory, hashing = layer.attention.self_attention.prepared(cache, num_hashes, mask)
            self.memories.append(memory.grown(capacity))
            self.hashings.append(hashing)
        # As with a cache that is passed: a prompt of one chunk has no buckets in the first step.
        self.plain = self._is_below(self.model.config.lsh_attn_chunk_length + 1)
        states = output.hidden_states
        if states is not None:
            if self.order is not None:  # each token where it was given
                index = self.order.argsort(1).gather(1, self.prompt.places)
                states = tuple(x.gather(1, index[..., None].expand_as(x)) for x in states)
            states = tuple(x.repeat_interleave(self.beams, 0) for x in states)
        return StepOutput(self.model.lm_head(last), hidden_states=states)

    def _is_below(self, length: int) -> Tensor | bool:
        """Which rows have fewer tokens, False if none has."""
        if self.shortest + self.made >= length:
            return False
        return self.place + self.made < length

    def _assert_room(self, length: int) -> None:
        longest = self.model.config.longest_sequence
        if length > longest:
            raise ValueError(
                f"generate: the text has {length} tokens, but config.max_position_embeddings and "
                f"config.axial_pos_shape have {longest} positions; set max_length or "
                "max_new_tokens"
            )

    def step(self, tokens: Tensor, parents: Tensor | None) -> StepOutput:
        """Reads one token per beam `(batch, beams)`; returns `logits` `(batch, beams, vocab)`."""
        batch, beams = tokens.shape
        self._assert_room(self.longest + self.made + 1)
        first = torch.arange(batch, device=tokens.device)[:, None]
        if beams > 1 and self.made == 0:  # until now all beams were one
            self._take(first.expand(-1, beams).flatten())
        elif beams > 1 and parents is not None:
            self._take((first * beams + parents).flatten())
        if self.made == PACK_AFTER and self.steps - self.made > PACK_BEFORE:
            self.model = packed(self.model, self.model, batch * beams, PACKED_BYTES)
        reformer, place = self.model.reformer, self.place + self.made
        masks = layer_head_masks(self.encoded.get("head_mask"), len(self.memories))
        calls = [
            StepCall(place, self.plain, None, mask, False, self.as_published) for mask in masks
        ]
        hidden = reformer.embeddings(tokens.reshape(-1, 1), place[:, None], None, 0, [None, None])
        hidden, self.memories, states = reformer.encoder.advance(
            hidden, self.memories, self.hashings, calls
        )
        if beams == 1 and self.mask is None:
            self.later.append([call.found for call in calls])
        self.made += 1
        self.plain = self._is_below(self.model.config.lsh_attn_chunk_length)
        logits = self.model.lm_head(hidden).view(batch, beams, -1)
        wanted = self.flags.get("output_hidden_states")
        return StepOutput(logits, hidden_states=tuple(states) if wanted else None)

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows of the batch only."""
        beams = self.beams if self.made else 1
        index = rows[:, None] * beams + torch.arange(beams, device=rows.device)
        self._take(index.flatten())
        self.later = []

    def _take(self, rows: Tensor) -> None:
        self.memories = [memory.take(rows) for memory in self.memories]
        self.place = self.place[rows]
        if isinstance(self.plain, Tensor):
            self.plain = self.plain[rows]

    def past_key_values(self) -> list[LayerCache] | None:
        """The cache as a call of the model takes it, where there is one beam and no padding."""
        if self.beams > 1 or self.mask is not None or len(self.later) < self.made:
            return None
        length, found = self.ids.shape[1] + self.made, []
        for layer, (first, memory, hashing) in enumerate(
            zip(self.first, self.memories, self.hashings, strict=True)
        ):
            later = [step[layer] for step in self.later]
            states = torch.cat([first[1], *(step["states"] for step in later)], 1)
            buckets = None
            if memory.buckets is not None and self.made and length >= self._chunk():
                order, sorted_ = memory.order[..., :length], memory.buckets[..., :length]
                buckets = torch.empty_like(sorted_).scatter_(-1, order, sorted_)
            found.append(LayerCache(first[0] if not self.made else buckets, states, hashing))
        return found

    def _chunk(self) -> int:
        return self.model.config.lsh_attn_chunk_length


class ReformerModelWithLMHead(GenerationMixin, ReformerLMHeadModel):
    """Reformer that predicts the next token; a decoder."""

    def __init__(self, config: ReformerConfig) -> None:
        config.check_decoder(type(self).__name__)
        super().__init__(config)

    def _generation_inputs(self) -> tuple[str, ...]:
        return ("attention_mask", "head_mask", "num_hashes")

    def _max_positions(self) -> int:
        return self.config.longest_sequence

    def _step_function(self, *arguments: Any) -> ReformerDecoder:
        return ReformerDecoder(self, *arguments)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Sequence[Cache] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> ReformerModelWithLMHeadOutput | tuple[Any, ...]:
        """As `ReformerModel`, and:

        Args:
            labels: `(batch, sequence)`, the inputs themselves; -100 is left out of the loss.
        """
        decoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes,
            past_buckets_states,
            use_cache,
            output_hidden_states,
            output_attentions,
            return_dict=True,
        )
        logits = self.lm_head(decoded.last_hidden_state)
        loss = None if labels is None else next_token_loss(logits, labels)
        output = ReformerModelWithLMHeadOutput(
            loss, logits, decoded.past_buckets_states, decoded.hidden_states, decoded.attentions
        )
        return self._returned(output, return_dict)


class ReformerForMaskedLM(ReformerLMHeadModel):
    """Reformer that predicts masked tokens; sees both sides."""

    def __init__(self, config: ReformerConfig) -> None:
        config.check_encoder(type(self).__name__)
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As `ReformerModel`, and:

        Args:
            labels: `(batch, sequence)`; -100 is left out of the loss.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class ReformerClassificationHead(nn.Module):
    """Scores labels by the first token's streams."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        rate = config.classifier_dropout
        self.dense = Linear(2 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob if rate is None else rate)
        self.out_proj = Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, 2 * hidden)` -> `(batch, labels)`."""
        first = torch.tanh(self.dense(self.dropout(hidden[:, 0])))
        return self.out_proj(self.dropout(first))


class ReformerForSequenceClassification(ReformerPreTrainedModel):
    """Reformer that classifies texts, or rates them with one label."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.reformer = ReformerModel(config)
        self.classifier = ReformerClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `ReformerModel`, and:

        Args:
            labels: `(batch,)`, or `(batch, labels)` for several targets.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(encoded.last_hidden_state)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class ReformerForQuestionAnswering(ReformerPreTrainedModel):
    """Reformer that marks the answer's first and last token."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        self.reformer = ReformerModel(config)
        self.qa_outputs = Linear(2 * config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As `ReformerModel`, and:

        Args:
            start_positions, end_positions: `(batch,)`; outside the sequence they do not count.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
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

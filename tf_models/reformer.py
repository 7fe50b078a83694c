"""Reformer: a Transformer for long sequences in little memory.

Paper: Kitaev, Kaiser and Levskaya 2020, "Reformer: The efficient Transformer".
Weights: google/reformer-crime-and-punishment, google/reformer-enwik8.
It differs from BERT in attention among neighbours (in the text, or in a sort by hash buckets), in
reversible layers over two streams, in axial position embeddings, and in that it is pre-norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import checks
from zoo.configs import ReformerConfig
from zoo.generation import GenerationConfig
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
from .generation import Prompt, StepOutput, TFGenerationMixin
from .layers import (
    Block,
    Dense,
    Embedding,
    Initializer,
    LeanLayerNorm,
    VocabularyProjection,
    _gather_densely,
    dims,
    dropout,
    replace_part,
)
from .losses import classification_loss, cross_entropy, next_token_loss, span_loss
from .lsh_attention import (
    HIDDEN,
    NO_BUCKET,
    OWN,
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
from .modeling import TFPreTrainedModel, assert_values, default
from .reversible import run_reversible


class Hashing(NamedTuple):
    """How vectors are hashed.

    Args:
        rotations: `(heads, head_dim, hashes, directions / 2)`.
        buckets: number of buckets of a round, one more where there is padding.
    """

    rotations: Any
    buckets: Any


class LayerCache(tuple):
    """What a layer gives to the next step: buckets, None where there are none, and states.

    Besides it has how they were hashed, and what the last step computed from them. A plain tuple of
    the two does as well; then that is found out anew.
    """

    hashing: Hashing | None
    memory: Memory | None

    def __new__(
        cls,
        buckets: Any | None,
        states: Any,
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


Cache = LayerCache | tuple[Any, Any]


class TFAxialPositionEmbeddings(Block):
    """A position's vector is that of its row joined with that of its column, and so on.

    Reformer has it from Ho et al. 2019, "Axial attention in multidimensional Transformers".
    """

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.shape = tuple(config.axial_pos_shape)
        self.dropout_rate = config.hidden_dropout_prob
        axes = len(self.shape)
        for axis, (size, width) in enumerate(
            zip(self.shape, config.axial_pos_embds_dim, strict=True)
        ):
            shape = (*(size if a == axis else 1 for a in range(axes)), width)
            initializer = Initializer(config.axial_norm_std)
            # Differs: Keras has no lists of weights, and keeps the name `weights` for itself.
            setattr(self, f"weights.{axis}_initializer", initializer)
            table = self.add_weight(shape, initializer, name=f"weights_{axis}")
            setattr(self, f"weights.{axis}", table)

    def call(self, position_ids: Any, seed: Any | None) -> Any:
        """`(batch or 1, sequence)` -> `(batch or 1, sequence, hidden)`."""
        found, stride = [], 1
        for axis in reversed(range(len(self.shape))):
            size = self.shape[axis]
            table = keras.ops.convert_to_tensor(getattr(self, f"weights.{axis}"))
            table = tf.reshape(table, (size, table.shape[-1]))
            # Rows are looked up again and again, and Keras' optimizers square what is sparse.
            places = position_ids // stride % size
            vectors = _gather_densely(table, tf.reshape(places, (-1,)))
            found.append(tf.reshape(vectors, (*dims(places), table.shape[-1])))
            stride *= size
        vectors = tf.concat(found[::-1], -1)
        # Whole positions are dropped.
        return vectors * dropout(tf.ones_like(vectors[..., :1]), self.dropout_rate, seed)


class TFPositionEmbeddings(Block):
    """A vector for each position."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob
        self.embedding = Embedding(
            config.max_position_embeddings, config.hidden_size, config.initializer_range,
            dtype=dtype,
        )  # fmt: skip

    def call(self, position_ids: Any, seed: Any | None) -> Any:
        """`(batch or 1, sequence)` -> `(batch or 1, sequence, hidden)`."""
        return dropout(self.embedding(position_ids), self.dropout_rate, seed)


class TFReformerEmbeddings(Block):
    """Word and position embeddings, summed."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.word_embeddings = Embedding(
            config.vocab_size, config.hidden_size, config.initializer_range, dtype=dtype
        )
        positions = TFAxialPositionEmbeddings if config.axial_pos_embds else TFPositionEmbeddings
        self.position_embeddings = positions(config, dtype=dtype)
        self.longest = config.longest_sequence
        self.pad_token_id = config.pad_token_id or 0
        self.dropout_rate = config.hidden_dropout_prob

    def call(
        self,
        input_ids: Any | None,
        position_ids: Any | None,
        inputs_embeds: Any | None,
        past: Any,
        seeds: Sequence[Any | None],
    ) -> Any:
        """Returns `(batch, sequence, hidden)`."""
        assert_values("input_ids", input_ids, self.word_embeddings.input_dim)
        assert_values("position_ids", position_ids, self.longest)
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = (tf.range(dims(words)[1]) + past)[None]
        positions = self.position_embeddings(position_ids, seed=seeds[1])
        return dropout(words, self.dropout_rate, seeds[0]) + positions

    def padded(self, x: Any, padding: Any) -> Any:
        """`(batch, sequence, hidden)` and padding behind it, as the published classes embed it."""
        batch, length, hidden = dims(x)
        ids = tf.fill((1, padding), self.pad_token_id)
        places = tf.minimum(tf.range(length, length + padding), self.longest - 1)[None]
        more = self(ids, places, None, past=0, seeds=[None, None])
        return tf.concat([x, tf.broadcast_to(more, (batch, padding, hidden))], 1)


@dataclass
class LayerCall:
    """What a layer is called with besides its stream.

    Args:
        mask: `(batch, sequence)` bool; which keys may be seen, None for all.
        padded: whether the mask hides any, a bool or a scalar.
        length: of the sequence before it was padded, a number or a scalar.
        head_mask: `(heads, 1, 1)`; multiplies what a head gives.
        num_hashes: rounds of hashing.
        seeds: of the layer's dropouts, None for no dropout.
        wants: "cache" and "attentions", where they are to be returned.
        found: what is returned besides the stream.
    """

    mask: Any | None
    padded: Any
    length: Any
    head_mask: Any | None
    num_hashes: int
    seeds: Sequence[Any | None]
    wants: frozenset[str]
    found: dict[str, Any] = field(default_factory=dict)

    def own(self) -> Any:
        """The tensors that are of this layer's call alone."""
        return self.head_mask, tuple(self.seeds)

    def having(self, own: Any) -> LayerCall:
        """A call that has others."""
        return replace(self, head_mask=own[0], seeds=own[1], found={})


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

    place: Any
    plain: Any
    mask: Any | None
    head_mask: Any | None
    wants_attentions: bool
    as_published: Any = False
    found: dict[str, Any] = field(default_factory=dict)


class TFSelfAttention(Block):
    """What both kinds of attention share."""

    kind: str

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
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

    def _linear(self, dtype: Any) -> Dense:
        config, width = self.config, self.heads * self.head_dim
        return Dense(
            config.hidden_size, width, config.initializer_range, use_bias=False, dtype=dtype
        )

    def _split(self, x: Any) -> Any:
        """`(batch, sequence, heads * head_dim)` -> `(batch, sequence, heads, head_dim)`."""
        return tf.reshape(x, (*dims(x)[:2], self.heads, self.head_dim))

    def _attend(self, query: Any, key: Any, value: Any, call: LayerCall, memo: Memo) -> Any:
        """`(batch, sequence, heads * head_dim)`."""
        length = query.shape[1]
        # A length that is not known yet has been padded to whole chunks.
        whole = length is not None and length <= self.pattern.chunk
        pattern = self.pattern.whole(length) if whole else self.pattern
        if "attentions" in call.wants:
            weights = attention_weights(query, key, pattern, memo, call.mask)
            weights = weights if call.head_mask is None else weights * call.head_mask[:, None]
            call.found["attentions"] = weights[:, :, 0] if whole else weights
        exact = False
        if length is None:  # it may be one chunk, which windows then see several times
            exact = call.length <= self.config.shortest_chunk
            exact |= dims(query)[1] <= self.pattern.chunk
        context = chunked_attention(
            query, key, value, pattern, memo, call.mask, self.dropout_rate, call.seeds[0], exact
        )
        if call.head_mask is not None:
            context = context * tf.cast(call.head_mask[:, :, 0], context.dtype)
        return tf.reshape(context, (*dims(context)[:2], self.heads * self.head_dim))

    def _look_back(
        self, query: Any, memory: Memory, places: Any, hidden: Any, call: StepCall
    ) -> Any:
        """Attention to positions `(rows, heads, ..., n)` as `(rows, 1, heads * head_dim)`."""
        rows = dims(places)[0]
        flat = tf.reshape(places, (rows, self.heads, -1))
        if call.mask is not None:
            seen = tf.gather(call.mask, tf.reshape(places, (rows, -1)), batch_dims=1)
            seen = tf.reshape(seen, tf.shape(places)) | self._is_own(places, call)
            hidden = hidden + HIDDEN * tf.cast(~seen, tf.float32)
        hidden = tf.reshape(tf.broadcast_to(hidden, tf.shape(places)), tf.shape(flat))
        context, scores = look_back(query, memory.key, memory.value, flat, hidden)
        if call.wants_attentions:
            weights = tf.nn.softmax(tf.reshape(scores, tf.shape(places)))
            call.found["attentions"] = weights[..., None, :]
        if call.head_mask is not None:
            context = context * tf.cast(call.head_mask[..., 0], context.dtype)
        return tf.reshape(context, (-1, 1, self.heads * self.head_dim))

    def _is_own(self, places: Any, call: StepCall) -> Any:
        return places == tf.reshape(call.place, (-1, *[1] * (len(places.shape) - 1)))

    def prepared(
        self, cache: LayerCache, num_hashes: int, mask: Any | None
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
        return LayerCache(None, tf.concat([cache[1], call.found["states"]], 1), None, memory)


class TFLSHSelfAttention(TFSelfAttention):
    """Attention among vectors of neighbouring hash buckets, queries and keys being the same."""

    kind = "lsh"

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(config, dtype=dtype)
        self.query_key = self._linear(dtype)
        self.value = self._linear(dtype)

    def call(self, hidden: Any, call: LayerCall, memo: Memo) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, sequence, heads * head_dim)`."""
        query_key, value = self._split(self.query_key(hidden)), self._split(self.value(hidden))
        length = hidden.shape[1]
        if memo.order is None and (length is None or length > self.pattern.chunk):
            hashing = self.hashing(length, call.num_hashes, call.padded)
            buckets = self.buckets(query_key, hashing, call.mask)
            memo.order = sorted_order(buckets)
            if "cache" in call.wants:
                call.found.update(buckets=buckets, hashing=hashing)
        memo.rounds = 1 if memo.order is None else call.num_hashes
        # Reformer, section 2: keys are the queries, made unit length
        return self._attend(query_key, normalised(query_key), value, call, memo)

    def hashing(self, length: int | None, num_hashes: int, padded: Any) -> Hashing:
        """New rotations, or with a `hash_seed` always the same.

        Args:
            length: of the sequence, None if not known.
            padded: whether there is padding, a bool or a scalar.
        """
        config = self.config
        if config.num_buckets is None:
            if length is None:
                raise ValueError(
                    "config.num_buckets is None, and the length to choose it by is not known in "
                    "this graph: set it, or call the model with a text first"
                )
            config.choose_buckets(length)
        directions, buckets = int(np.sum(config.num_buckets)), int(np.prod(config.num_buckets))
        shape = (self.heads, self.head_dim, num_hashes, directions // 2)
        if config.hash_seed is None:
            rotations = tf.random.normal(shape)
        else:
            rotations = tf.constant(hash_rotations(config.hash_seed, *shape[:3], directions))
        return Hashing(rotations, buckets + tf.cast(padded, tf.int32))

    def buckets(self, vectors: Any, hashing: Hashing, mask: Any | None = None) -> Any:
        """Hashes `(batch, sequence, heads, head_dim)` to `(batch, heads, hashes, sequence)`.

        A round's buckets are numbered above those of the round before it, and what is masked has
        the last bucket of its round.
        """
        rotations, count = hashing
        vectors = tf.cast(tf.stop_gradient(vectors), tf.float32)
        buckets = hash_vectors(vectors, rotations, self.config.num_buckets)
        if mask is not None:
            buckets = tf.where(mask[:, None, None], buckets, count - 1)
        return buckets + count * tf.range(rotations.shape[2])[:, None]

    def found_hashing(self, buckets: Any) -> Hashing:
        """How buckets were made, by themselves: as published, padding shows in the highest."""
        hashes = buckets.shape[2]
        rotations, count = self.hashing(None, hashes, False)
        padded = tf.reduce_max(tf.cast(buckets, tf.int32)) >= count * hashes
        return Hashing(rotations, count + tf.cast(padded, tf.int32))

    def memory(self, states: Any, buckets: Any | None) -> Memory:
        """Of earlier states `(rows, sequence, hidden)` and their buckets, if they have any."""
        key = tf.transpose(normalised(self._split(self.query_key(states))), (0, 2, 1, 3))
        memory = Memory(key, tf.transpose(self._split(self.value(states)), (0, 2, 1, 3)))
        return memory if buckets is None else memory.sorted(tf.cast(buckets, tf.int32))

    def prepared(
        self, cache: LayerCache, num_hashes: int, mask: Any | None
    ) -> tuple[Memory, Hashing | None]:
        """What a prompt's cache leaves for generation: its buckets from the start, if need be new.

        Args:
            mask: `(rows, sequence)` bool; what is not padding, which is all behind it.
        """
        memory = self.memory(cache[1], None)
        buckets, hashing = cache[0], cache.hashing
        if buckets is None:
            keys = tf.transpose(memory.key, (0, 2, 1, 3))
            hashing = self.hashing(keys.shape[1], num_hashes, False)
            buckets = self.buckets(keys, hashing)
        elif self.config.hash_seed is not None:
            found = self.found_hashing(buckets)
            whole = True if mask is None else tf.reduce_all(mask)
            hashing = Hashing(found.rotations, tf.where(whole, found.buckets, hashing.buckets))
        if mask is not None:
            buckets = tf.where(mask[:, None, None], buckets, NO_BUCKET)
        return memory.sorted(buckets), hashing

    def advance(
        self, states: Any, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Any, Memory]:
        """One new position a row, which sees no more than a few chunks.

        Args:
            states: `(rows, 1, hidden)`.
            memory: has room for the position.
            hashing: of the memory's buckets, None if it has none.
        """
        place, chunk, width = call.place, self.pattern.chunk, self.pattern.width
        query_key, value = self._split(self.query_key(states)), self._split(self.value(states))
        memory = memory.put(normalised(query_key)[:, 0], value[:, 0], place)
        last = tf.reshape(place, (-1, 1, 1, 1))
        if hashing is None:
            rows, heads, capacity, _ = dims(memory.key)
            places = tf.broadcast_to(tf.range(capacity), (rows, heads, capacity))
            hidden = OWN * tf.cast(places == last[..., 0], tf.float32)
            hidden += HIDDEN * tf.cast(places > last[..., 0], tf.float32)
            return self._look_back(query_key[:, 0], memory, places, hidden, call), memory
        buckets = self.buckets(query_key, hashing)
        call.found["buckets"] = buckets
        memory, rank = memory.sort_in(buckets, place)
        # The chunk in the order that the position falls into, and those beside it.
        index = tf.range(max(width, chunk + 1))
        start = (rank // chunk - self.pattern.before) * chunk
        places = tf.gather(memory.order, (start + index) % (last + 1), batch_dims=3)
        hidden = OWN * tf.cast(self._is_own(places, call), tf.float32)
        hidden += HIDDEN * tf.cast(index >= width, tf.float32)
        if call.plain is not False:
            every = OWN * tf.cast(index == last, tf.float32)
            every += HIDDEN * tf.cast(index > last, tf.float32)
            plain = tf.reshape(call.plain, (-1, 1, 1, 1))
            places = tf.where(plain, tf.minimum(index, last), places)
            hidden = tf.where(plain, every, hidden)
        seen = memory
        if call.as_published is not False:
            published = call.as_published
            seen = Memory(*(tf.where(published, x[:1], x) for x in memory[:2]))
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
        states = tf.concat([cache[1], call.found["states"]], 1)
        buckets = call.found.get("buckets")
        if buckets is not None:
            buckets = tf.concat([tf.cast(cache[0], tf.int32), buckets], -1)
        elif states.shape[1] is not None and states.shape[1] >= self.pattern.chunk:
            keys = tf.transpose(memory.key, (0, 2, 1, 3))
            hashing = self.hashing(keys.shape[1], num_hashes, False)
            buckets = self.buckets(keys, hashing)
            memory = memory.sorted(buckets)
        return LayerCache(buckets, states, hashing, memory)


class TFLocalSelfAttention(TFSelfAttention):
    """Attention among neighbours in the text."""

    kind = "local"

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(config, dtype=dtype)
        self.query = self._linear(dtype)
        self.key = self._linear(dtype)
        self.value = self._linear(dtype)

    def call(self, hidden: Any, call: LayerCall, memo: Memo) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, sequence, heads * head_dim)`."""
        query, key, value = (
            self._split(layer(hidden)) for layer in (self.query, self.key, self.value)
        )
        return self._attend(query, key / self.head_dim**0.5, value, call, memo)

    def memory(self, states: Any, buckets: Any | None) -> Memory:
        """Of earlier states `(rows, sequence, hidden)`."""
        key, value = self._split(self.key(states)), self._split(self.value(states))
        order = (0, 2, 1, 3)
        return Memory(tf.transpose(key / self.head_dim**0.5, order), tf.transpose(value, order))

    def advance(
        self, states: Any, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Any, Memory]:
        """One new position a row, which sees its chunk and those before it; see LSH attention."""
        query, key, value = (
            self._split(layer(states)) for layer in (self.query, self.key, self.value)
        )
        memory = memory.put((key / self.head_dim**0.5)[:, 0], value[:, 0], call.place)
        chunk, before, last = self.pattern.chunk, self.pattern.before, call.place[:, None, None]
        index = tf.range((before + 1) * chunk)
        places = (last // chunk - before) * chunk + index
        hidden = HIDDEN * tf.cast((places < 0) | (places > last), tf.float32)
        places = tf.minimum(tf.maximum(places, 0), last)
        places = tf.tile(places, (1, self.heads, 1))
        return self._look_back(query[:, 0], memory, places, hidden, call), memory


class TFReformerSelfOutput(Block):
    """Projects what the heads give."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width = config.num_attention_heads * config.attention_head_size
        self.dense = Dense(
            width, config.hidden_size, config.initializer_range, use_bias=False, dtype=dtype
        )
        self.dropout_rate = config.hidden_dropout_prob

    def call(self, context: Any, seed: Any | None) -> Any:
        return dropout(self.dense(context), self.dropout_rate, seed)


class TFReformerAttention(Block):
    """Layer norm, attention, projection."""

    def __init__(self, config: ReformerConfig, kind: str, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.layer_norm = LeanLayerNorm(config.hidden_size, config.layer_norm_eps, dtype=dtype)
        attention = {"lsh": TFLSHSelfAttention, "local": TFLocalSelfAttention}[kind]
        self.self_attention = attention(config, dtype=dtype)
        self.output_ = TFReformerSelfOutput(config, dtype=dtype)

    def call(self, hidden: Any, call: LayerCall, memo: Memo) -> Any:
        states = self.layer_norm(hidden)
        if "cache" in call.wants:
            call.found["states"] = tf.stop_gradient(states)
        return self.output_(self.self_attention(states, call=call, memo=memo), seed=call.seeds[1])

    def advance(
        self, hidden: Any, memory: Memory, hashing: Hashing | None, call: StepCall
    ) -> tuple[Any, Memory]:
        """One new position a row, `(rows, 1, hidden)`."""
        states = self.layer_norm(tf.cast(hidden, self.compute_dtype))
        call.found["states"] = states
        context, memory = self.self_attention.advance(states, memory, hashing, call)
        return self.output_(context, seed=None), memory


class TFReformerFeedForwardDense(Block):
    """The feed-forward network's widening half."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.dense = Dense(
            config.hidden_size, config.feed_forward_size, config.initializer_range, dtype=dtype
        )
        self.activation = activation(config.hidden_act)
        self.dropout_rate = config.hidden_dropout_prob

    def call(self, hidden: Any, seed: Any | None) -> Any:
        return self.activation(dropout(self.dense(hidden), self.dropout_rate, seed))


class TFReformerFeedForwardOutput(Block):
    """The feed-forward network's narrowing half."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.dense = Dense(
            config.feed_forward_size, config.hidden_size, config.initializer_range, dtype=dtype
        )
        self.dropout_rate = config.hidden_dropout_prob

    def call(self, hidden: Any, seed: Any | None) -> Any:
        return dropout(self.dense(hidden), self.dropout_rate, seed)


class TFChunkReformerFeedForward(Block):
    """Layer norm and the feed-forward network, some positions at a time."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.layer_norm = LeanLayerNorm(config.hidden_size, config.layer_norm_eps, dtype=dtype)
        self.dense = TFReformerFeedForwardDense(config, dtype=dtype)
        self.output_ = TFReformerFeedForwardOutput(config, dtype=dtype)
        self.chunk_size = config.chunk_size_feed_forward

    def call(self, hidden: Any, seeds: Sequence[Any | None]) -> Any:
        # Reformer, section 3: feed-forward layers work on one position at a time
        length = hidden.shape[1]
        size = self.chunk_size or length
        if length is None or size >= length:
            return self._feed(hidden, seeds)
        pieces = [hidden[:, start : start + size] for start in range(0, length, size)]
        fed = [
            self._feed(piece, [None if seed is None else seed + number for seed in seeds])
            for number, piece in enumerate(pieces)
        ]
        return tf.concat(fed, 1)

    def _feed(self, hidden: Any, seeds: Sequence[Any | None]) -> Any:
        hidden = self.layer_norm(hidden)
        return self.output_(self.dense(hidden, seed=seeds[0]), seed=seeds[1])


class TFReformerLayer(Block):
    """Attention and feed-forward network, as `run_reversible` runs them."""

    def __init__(self, config: ReformerConfig, kind: str, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.kind = kind
        self.attention = TFReformerAttention(config, kind, dtype=dtype)
        self.feed_forward = TFChunkReformerFeedForward(config, dtype=dtype)

    def attend(
        self, hidden: Any, call: LayerCall, memo: tuple[Any, Any] | None
    ) -> tuple[Any, tuple[Any, Any]]:
        found = Memo(*memo or ())
        return self.attention(hidden, call=call, memo=found), (found.order, found.sums)

    def feed(self, hidden: Any, call: LayerCall) -> Any:
        return self.feed_forward(hidden, seeds=call.seeds[2:])


class TFReformerEncoder(Block):
    """The reversible layers, and the norm over both of their streams."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.layers = [TFReformerLayer(config, kind, dtype=dtype) for kind in config.attn_layers]
        self.layer_norm = LeanLayerNorm(2 * config.hidden_size, config.layer_norm_eps, dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob

    def call(
        self,
        hidden: Any,
        calls: Sequence[LayerCall],
        seed: Any | None,
        output_hidden_states: bool,
        learns: bool,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """
        Args:
            hidden: `(batch, sequence, hidden)`.
            learns: whether there will be a gradient. Differs: PyTorch knows; and a saved graph
                could not hold this one.
        Returns:
            Both streams `(batch, sequence, 2 * hidden)`, and the second behind each layer.
        """
        # What a layer is taken off again in the backward pass needs the precision.
        plain = output_hidden_states or not learns
        x1, x2, states = run_reversible(self.layers, calls, tf.cast(hidden, tf.float32), plain)
        joined = self.layer_norm(tf.cast(tf.concat([x1, x2], -1), self.compute_dtype))
        joined = dropout(joined, self.dropout_rate, seed)
        if not output_hidden_states:
            return joined, None
        return joined, (hidden, *(tf.cast(x, self.compute_dtype) for x in states))

    def advance(
        self,
        hidden: Any,
        memories: Sequence[Memory],
        hashings: Sequence[Hashing | None],
        calls: Sequence[StepCall],
    ) -> tuple[Any, list[Memory], list[Any]]:
        """One new position a row.

        Args:
            hidden: `(rows, 1, hidden)`.
        Returns:
            Both streams `(rows, 1, 2 * hidden)`, the new memories, and the second stream behind
            each layer.
        """
        x1 = x2 = tf.cast(hidden, tf.float32)
        states, grown = [hidden], []
        for layer, memory, hashing, call in zip(
            self.layers, memories, hashings, calls, strict=True
        ):
            attended, memory = layer.attention.advance(x2, memory, hashing, call)
            x1 = x1 + tf.cast(attended, x1.dtype)
            x2 = x2 + tf.cast(layer.feed_forward(x1, seeds=[None, None]), x2.dtype)
            grown.append(memory)
            states.append(tf.cast(x2, hidden.dtype))
        return self.layer_norm(tf.cast(tf.concat([x1, x2], -1), hidden.dtype)), grown, states


def _cache(call: LayerCall, length: Any) -> LayerCache:
    """What a layer's call leaves, without padding."""
    buckets, states = call.found.get("buckets"), call.found["states"]
    buckets = None if buckets is None else buckets[..., :length]
    return LayerCache(buckets, states[:, :length], call.found.get("hashing"))


class TFReformerPreTrainedModel(TFPreTrainedModel):
    config_class = ReformerConfig
    base_model_prefix = "reformer"


@keras.saving.register_keras_serializable("tf_models")
class TFReformerModel(TFReformerPreTrainedModel):
    """The bare Reformer, causal with `config.is_decoder`.

    Evaluation pads sequences to the multiple of a chunk that they need; training takes whole ones.
    """

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.embeddings = TFReformerEmbeddings(config, dtype=self.dtype_policy)
        self.encoder = TFReformerEncoder(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Sequence[Cache] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
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
        static_past = past if isinstance(past, int) else None
        _, length = checks.encoder_inputs(config, config.hidden_size, static_past, **shapes)
        is_step = past_buckets_states is not None
        self._check(attention_mask, static_past, length, num_hashes, is_step and training)
        if is_step:
            return self._returned(
                self._step(
                    input_ids, attention_mask, position_ids, head_mask, inputs_embeds, num_hashes,
                    past_buckets_states, use_cache, output_hidden_states, output_attentions,
                ),
                return_dict,
            )  # fmt: skip
        if training and length is not None:
            config.check_training_length(length)
        seeds = self._layer_seeds(training)
        embeddings = self.embeddings(
            input_ids, position_ids, inputs_embeds, past=0, seeds=seeds[:2]
        )
        batch, length, _ = dims(embeddings)
        mask = None
        if attention_mask is not None:
            mask = tf.broadcast_to(tf.not_equal(attention_mask, 0), (batch, length))
            if tf.executing_eagerly() and bool(tf.reduce_all(mask)):
                mask = None
        # Differs: a length that is not known yet is padded to whole chunks also where it is short,
        # which comes to the same.
        if isinstance(length, int):
            padding = config.padding_for(length)
        else:
            padding = -length % config.chunk_multiple
        if not isinstance(padding, int) or padding:
            mask = tf.ones((batch, length), tf.bool) if mask is None else mask
            embeddings = self.embeddings.padded(embeddings, padding)
            mask = tf.pad(mask, [[0, 0], [0, padding]])
        padded = False if mask is None else ~tf.reduce_all(mask)
        wants = frozenset(
            name for name, wanted in (("cache", use_cache), ("attentions", output_attentions))
            if wanted
        )  # fmt: skip
        calls = [
            LayerCall(mask, padded, length, heads, num_hashes, seeds[3 + 4 * number :][:4], wants)
            for number, heads in enumerate(layer_head_masks(head_mask, len(config.attn_layers)))
        ]
        hidden, states = self.encoder(
            embeddings, calls=calls, seed=seeds[2], output_hidden_states=output_hidden_states,
            learns=bool(training),
        )  # fmt: skip
        caches = None
        if use_cache:
            caches = [_cache(call, length) for call in calls]
        output = ReformerModelOutput(
            hidden[:, :length],
            caches,
            None if states is None else tuple(x[:, :length] for x in states),
            tuple(call.found["attentions"] for call in calls) if output_attentions else None,
        )
        return self._returned(output, return_dict)

    def _check(
        self,
        attention_mask: Any | None,
        past: int | None,
        length: int | None,
        num_hashes: int,
        trains: bool | None,
    ) -> None:
        if attention_mask is not None and len(attention_mask.shape) != 2:
            raise ValueError(
                "attention_mask: expected shape (batch, sequence), as attention in chunks hides "
                f"keys from all queries alike, got {tuple(attention_mask.shape)}"
            )
        if num_hashes < 1:
            raise ValueError(f"num_hashes: expected an integer above 0, got {num_hashes}")
        longest = self.config.longest_sequence
        if past is not None and length is not None and past + length > longest:
            raise ValueError(
                f"the sequence has {past + length} positions, but the product of "
                f"config.axial_pos_shape is {longest}"
            )
        if past != 0 and length not in (1, None):
            raise ValueError(
                f"past_buckets_states: expected one new token after them, got {length}"
            )
        if trains:
            raise ValueError("past_buckets_states: they serve evaluation; call without training")

    def _past(self, caches: Sequence[Cache] | None) -> Any:
        if caches is None:
            return 0
        layers = len(self.config.attn_layers)
        if len(caches) != layers or any(len(cache) != 2 for cache in caches):
            raise ValueError(
                f"past_buckets_states: expected {layers} pairs of buckets and states, "
                f"got {len(caches)} of {min(map(len, caches), default=0)}"
            )
        return dims(caches[0][1])[1]

    def _step(
        self,
        input_ids: Any | None,
        attention_mask: Any | None,
        position_ids: Any | None,
        head_mask: Any | None,
        inputs_embeds: Any | None,
        num_hashes: int,
        caches: Sequence[Cache],
        use_cache: bool,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> ReformerModelOutput:
        """One new token behind a cache."""
        past = self._past(caches)
        hidden = self.embeddings(
            input_ids, position_ids, inputs_embeds, past=past, seeds=[None, None]
        )
        rows = dims(hidden)[0]
        place, mask = tf.fill((rows,), past), None
        if attention_mask is not None:
            mask = tf.broadcast_to(tf.not_equal(attention_mask, 0), (rows, past + 1))
        caches = [LayerCache.of(cache) for cache in caches]
        attentions = [layer.attention.self_attention for layer in self.encoder.layers]
        published = self.config.hash_seed is not None
        memories, hashings, calls = [], [], []
        for attention, cache, heads in zip(
            attentions, caches, layer_head_masks(head_mask, len(caches)), strict=True
        ):
            memory, hashing = cache.memory, cache.hashing
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

    def _layer_seeds(self, training: bool | None) -> list[Any | None]:
        """Seeds of the dropouts of a call: three of the model's, and four of each layer."""
        seeds = self._seeds(training)
        return [seeds.next() for _ in range(3 + 4 * len(self.config.attn_layers))]


class TFReformerOnlyLMHead(Block):
    """Scores the vocabulary, some positions at a time; the bias has two names in a file."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.decoder = VocabularyProjection(
            2 * config.hidden_size, config.vocab_size, config.initializer_range, dtype=dtype
        )
        self.bias_initializer = Initializer()
        self.bias = self.add_weight((config.vocab_size,), self.bias_initializer, name="bias")
        self.chunk_size = config.chunk_size_lm_head

    def call(self, hidden: Any) -> Any:
        """`(batch, sequence, 2 * hidden)` -> `(batch, sequence, vocab)`."""
        length = hidden.shape[1]
        size = self.chunk_size or length
        if length is None or size >= length:
            return self.decoder(hidden)
        pieces = [hidden[:, start : start + size] for start in range(0, length, size)]
        return tf.concat([self.decoder(piece) for piece in pieces], 1)


class TFReformerLMHeadModel(TFReformerPreTrainedModel):
    """What the two language models share: Reformer and the head."""

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.reformer = TFReformerModel(config, dtype=self.dtype_policy, name="reformer")
        self.lm_head = TFReformerOnlyLMHead(config, dtype=self.dtype_policy)
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
            tied["lm_head.decoder.weight"] = "reformer.embeddings.word_embeddings.weight"
        return tied


class TFReformerDecoder:
    """The step function of generation, in the place of `TreeDecoder`.

    Every beam is a row of its own, as what it sees depends on how its own text is sorted. A row's
    tokens stand from position 0 on, so that padding changes nothing that local attention sees.
    A step costs a window of each layer, and moving the sort's later entries by one place.

    Args: as of `TreeDecoder`.
    """

    def __init__(
        self,
        model: TFReformerModelWithLMHead,
        prompt: Prompt,
        beams: int,
        steps: Any,
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
        if "num_hashes" in self.encoded:  # as many tensors
            self.encoded["num_hashes"] = len(self.encoded["num_hashes"])
        ids, mask = prompt.given, None
        batch, self.length = dims(ids)
        # The last token is not read again.
        self.room = max(steps - 1, 1) if isinstance(steps, int) else tf.maximum(steps - 1, 1)
        place = tf.fill((batch,), self.length)
        self.order = None
        if prompt.mask is not None:
            place = tf.reduce_sum(tf.cast(prompt.mask, tf.int32), 1)
            mask = tf.range(self.length) < place[:, None]
            self.order = tf.argsort(tf.cast(~prompt.mask, tf.int32), axis=1, stable=True)
            ids = tf.gather(prompt.ids, self.order, batch_dims=1)
        self.ids, self.mask, self.place = ids, mask, place
        self.rows = tf.repeat(place, beams)  # (batch * beams,)
        self.hashings: list[Hashing | None] = []

    def start(self) -> tuple[StepOutput, Any]:
        """Reads the prompt.

        Returns:
            `logits` `(batch, 1, vocab)`, and the cache that `step` takes: each layer's memory.
        """
        reformer, mask = self.model.reformer, self.mask
        self._assert_room(0)
        output = reformer(
            self.ids,
            None if mask is None else tf.cast(mask, tf.int32),
            use_cache=True,
            output_hidden_states=self.flags.get("output_hidden_states", False),
            return_dict=True,
            training=False,
            **self.encoded,
        )
        last = tf.gather(output.last_hidden_state, self.place[:, None] - 1, batch_dims=1)
        memories = []
        num_hashes = self.encoded.get("num_hashes") or self.model.config.num_hashes
        for layer, cache in zip(reformer.encoder.layers, output.past_buckets_states, strict=True):
            memory, hashing = layer.attention.self_attention.prepared(cache, num_hashes, mask)
            memory = memory.grown(self.length + self.room)
            memories.append(Memory(*(None if x is None else tf.repeat(x, self.beams, axis=0)
                                     for x in memory)))  # fmt: skip
            self.hashings.append(hashing)
        states = output.hidden_states
        if states is not None:
            if self.order is not None:  # each token where it was given
                index = tf.gather(tf.argsort(self.order, axis=1), self.prompt.places, batch_dims=1)
                states = tuple(tf.gather(x, index, batch_dims=1) for x in states)
            states = tuple(tf.repeat(x, self.beams, axis=0) for x in states)
        cache = tuple(tuple(x for x in memory if x is not None) for memory in memories)
        return StepOutput(self.model.lm_head(last), hidden_states=states), cache

    def _assert_room(self, made: Any) -> None:
        """Differs: an assertion in the graph, and none where XLA compiles."""
        longest = self.model.config.longest_sequence
        words = (
            f"generate: the text has {longest + 1} tokens, but config.max_position_embeddings is "
            f"{longest}; set max_length or max_new_tokens"
        )
        tf.debugging.Assert(tf.reduce_max(self.place) + made <= longest, [words])

    def step(self, tokens: Any, origins: Any | None, made: Any, cache: Any) -> tuple[Any, Any]:
        """Reads one token per beam.

        Args:
            tokens: `(batch, beams)`.
            origins: `(batch, beams, steps)`; which beam each token of a beam's text continued.
                None if each continues itself.
            made: how many steps were read before.
            cache: of `start` or of the last step.
        Returns:
            `logits` `(batch, beams, vocab)`, and the cache with this step.
        """
        self._assert_room(made + 1)
        batch, beams = dims(tokens)
        memories = [Memory(*layer) for layer in cache]
        if origins is not None:
            parents = tf.maximum(tf.gather(origins, made, axis=2), 0)
            rows = tf.reshape(tf.range(batch)[:, None] * beams + parents, (-1,))
            memories = [memory.take(rows) for memory in memories]
        config, reformer = self.model.config, self.model.reformer
        chunk, place = config.lsh_attn_chunk_length, self.rows + made
        # As with a cache that is passed: a prompt of one chunk has no buckets in the first step.
        plain = place < chunk + tf.cast(tf.equal(made, 0), tf.int32)
        published: Any = False
        if config.hash_seed is not None:
            published = ~tf.reduce_any(plain)
            if self.mask is not None:
                published &= tf.reduce_all(self.mask)
        masks = layer_head_masks(self.encoded.get("head_mask"), len(memories))
        calls = [StepCall(place, plain, None, mask, False, published) for mask in masks]
        hidden = reformer.embeddings(
            tf.reshape(tokens, (-1, 1)), place[:, None], None, past=0, seeds=[None, None]
        )
        hidden, memories, states = reformer.encoder.advance(hidden, memories, self.hashings, calls)
        logits = self.model.lm_head(hidden)
        logits = tf.reshape(logits, (batch, beams, logits.shape[-1]))
        wanted = self.flags.get("output_hidden_states")
        cache = tuple(tuple(x for x in memory if x is not None) for memory in memories)
        return StepOutput(logits, hidden_states=tuple(states) if wanted else None), cache

    def past_key_values(self, cache: Any, made: Any) -> None:
        """Differs: PyTorch returns what a call takes; here the loop keeps no states."""


@keras.saving.register_keras_serializable("tf_models")
class TFReformerModelWithLMHead(TFGenerationMixin, TFReformerLMHeadModel):
    """Reformer that predicts the next token; a decoder."""

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        config.check_decoder(type(self).__name__)
        super().__init__(config, **kwargs)

    def _generation_inputs(self) -> tuple[str, ...]:
        return ("attention_mask", "head_mask", "num_hashes")

    def _prompted(
        self, config: GenerationConfig, given: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """Differs: PyTorch learns all lengths as it goes, a graph is made for what is fixed here.

        The number of hashes becomes as many tensors, of which there is another graph each.
        """
        given, ids = super()._prompted(config, given)
        if "num_hashes" in given:
            count = tf.get_static_value(given["num_hashes"])
            if count is None:
                raise ValueError("generate: num_hashes: expected an integer, got a tensor")
            given["num_hashes"] = (tf.zeros(()),) * int(count)
        fields, length = self.config, ids.shape[1]
        if "lsh" in fields.attn_layers and length is not None:
            fields.choose_buckets(length + fields.padding_for(length))
        return given, ids

    def _max_positions(self) -> int:
        return self.config.longest_sequence

    def _step_function(self, *arguments: Any) -> TFReformerDecoder:
        return TFReformerDecoder(self, *arguments)

    def call(
        self,
        input_ids: Any | None = None,
        position_ids: Any | None = None,
        attention_mask: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        num_hashes: int | None = None,
        past_buckets_states: Sequence[Cache] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        labels: Any | None = None,
        training: bool | None = None,
    ) -> ReformerModelWithLMHeadOutput | tuple[Any, ...]:
        """As `TFReformerModel`, and:

        Args:
            labels: `(batch, sequence)`, the inputs themselves; -100 is left out of the loss.
        """
        decoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes=num_hashes,
            past_buckets_states=past_buckets_states,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            training=training,
        )
        logits = self.lm_head(decoded.last_hidden_state)
        loss = None if labels is None else next_token_loss(logits, labels)
        output = ReformerModelWithLMHeadOutput(
            loss, logits, decoded.past_buckets_states, decoded.hidden_states, decoded.attentions
        )
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFReformerForMaskedLM(TFReformerLMHeadModel):
    """Reformer that predicts masked tokens; sees both sides."""

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        config.check_encoder(type(self).__name__)
        super().__init__(config, **kwargs)

    def call(
        self,
        input_ids: Any | None = None,
        position_ids: Any | None = None,
        attention_mask: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        num_hashes: int | None = None,
        labels: Any | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """As `TFReformerModel`, and:

        Args:
            labels: `(batch, sequence)`; -100 is left out of the loss.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes=num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            training=training,
        )
        logits = self.lm_head(encoded.last_hidden_state)
        loss = None if labels is None else cross_entropy(logits, labels)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class TFReformerClassificationHead(Block):
    """Scores labels by the first token's streams."""

    def __init__(self, config: ReformerConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        rate, stddev = config.classifier_dropout, config.initializer_range
        self.dense = Dense(2 * config.hidden_size, config.hidden_size, stddev, dtype=dtype)
        self.dropout_rate = config.hidden_dropout_prob if rate is None else rate
        self.out_proj = Dense(config.hidden_size, config.num_labels, stddev, dtype=dtype)

    def call(self, hidden: Any, seeds: Sequence[Any | None]) -> Any:
        """`(batch, sequence, 2 * hidden)` -> `(batch, labels)`."""
        first = dropout(hidden[:, 0], self.dropout_rate, seeds[0])
        first = tf.tanh(self.dense(first))
        return self.out_proj(dropout(first, self.dropout_rate, seeds[1]))


@keras.saving.register_keras_serializable("tf_models")
class TFReformerForSequenceClassification(TFReformerPreTrainedModel):
    """Reformer that classifies texts, or rates them with one label."""

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.reformer = TFReformerModel(config, dtype=self.dtype_policy, name="reformer")
        self.classifier = TFReformerClassificationHead(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        position_ids: Any | None = None,
        attention_mask: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        num_hashes: int | None = None,
        labels: Any | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `TFReformerModel`, and:

        Args:
            labels: `(batch,)`, or `(batch, labels)` for several targets.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes=num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            training=training,
        )
        seeds = self._seeds(training)
        logits = self.classifier(encoded.last_hidden_state, seeds=[seeds.next(), seeds.next()])
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFReformerForQuestionAnswering(TFReformerPreTrainedModel):
    """Reformer that marks the answer's first and last token."""

    label_names = ("start_positions", "end_positions")

    def __init__(self, config: ReformerConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.reformer = TFReformerModel(config, dtype=self.dtype_policy, name="reformer")
        self.qa_outputs = Dense(
            2 * config.hidden_size, 2, config.initializer_range, dtype=self.dtype_policy
        )
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        position_ids: Any | None = None,
        attention_mask: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        num_hashes: int | None = None,
        start_positions: Any | None = None,
        end_positions: Any | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """As `TFReformerModel`, and:

        Args:
            start_positions, end_positions: `(batch,)`; outside the sequence they do not count.
        """
        encoded = self.reformer(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
            inputs_embeds,
            num_hashes=num_hashes,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            training=training,
        )
        start_logits, end_logits = tf.unstack(self.qa_outputs(encoded.last_hidden_state), axis=-1)
        loss = None
        if checks.span(start_positions, end_positions):
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start_logits, end_logits, encoded.hidden_states, encoded.attentions
        )
        return self._returned(output, return_dict)

"""Attention in chunks, of neighbours in the text or of neighbours in a sort by hash buckets.

Source: Reformer (Kitaev et al. 2020), section 2; hashing after Andoni et al. 2015.

Positions are put in an order, the order is cut into chunks, and a chunk sees itself and chunks
beside it. Local attention has the order of the text. LSH attention has one round after another,
each with the positions sorted by their bucket and, in a bucket, by place:

    order    | 3 7 0 1 | 5 2 4 6 || 0 5 6 7 | 1 2 3 4 |     two rounds of two chunks
    sees       itself and the one before; the first of all sees the last

Rounds are joined as one softmax over the keys of all of them, so that the highest score of a query
and the sum of its exponentials are all that is kept of the scores from one pass to the next.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf

from .in_turn import after, in_turn
from .layers import dims, dropout

# Scores of a text that are there at a time, as far as a head has no more.
SCORES = 2**21
# What is taken off the score of a hidden key; and off that of a query's own, which is seen where
# all others are hidden (twice that off the others then).
HIDDEN, OWN = 1e9, 1e5
NO_BUCKET = 2**30


class Pattern(NamedTuple):
    """Which keys a query sees.

    Args:
        chunk: length of a chunk.
        before, after: chunks that a chunk sees besides itself.
        causal: whether a query sees only what is not behind it in the text.
        excludes_own: whether a query sees its own key only if it sees no other.
    """

    chunk: int
    before: int
    after: int
    causal: bool
    excludes_own: bool

    @property
    def width(self) -> int:
        """The number of keys that a chunk sees."""
        return (self.before + 1 + self.after) * self.chunk

    def whole(self, length: int) -> Pattern:
        """The same in one chunk."""
        return self._replace(chunk=length, before=0, after=0)


# Hashing.


def hash_vectors(vectors: Any, rotations: Any, num_buckets: int | list[int]) -> Any:
    """The buckets of vectors: which of some random directions is nearest, or opposite.

    Args:
        vectors: `(batch, sequence, heads, head_dim)`.
        rotations: `(heads, head_dim, hashes, directions / 2)`.
        num_buckets: number of directions, or factors that are hashed each for itself.
    Returns:
        int32 `(batch, heads, hashes, sequence)`.
    """
    factors = [num_buckets] if isinstance(num_buckets, int) else list(num_buckets)
    heads, head_dim, hashes, directions = rotations.shape
    batch, length, _, _ = dims(vectors)
    flat = tf.reshape(rotations, (heads, head_dim, hashes * directions))
    # Differs: a product that repeats the rotations for each of the batch would do, but with one
    # head TensorFlow 2.20's writes outside of its result where oneDNN has several threads.
    vectors = tf.reshape(tf.transpose(vectors, (2, 0, 1, 3)), (heads, batch * length, head_dim))
    rotated = tf.reshape(tf.matmul(vectors, flat), (heads, batch, length, hashes, directions))
    buckets, count = None, 1
    for factor, share in zip(
        factors, tf.split(rotated, [factor // 2 for factor in factors], axis=-1), strict=True
    ):
        highest, lowest = tf.reduce_max(share, -1), tf.reduce_min(share, -1)
        first = tf.argmax(share, -1, output_type=tf.int32)
        second = tf.argmin(share, -1, output_type=tf.int32)
        nearest = tf.where(highest >= -lowest, first, second + factor // 2)
        buckets = nearest if buckets is None else buckets + count * nearest
        count *= factor
    return tf.transpose(buckets, (1, 0, 3, 2))


def normalised(vectors: Any) -> Any:
    """Vectors of one length as keys, the scale of the scores with it."""
    wide = tf.cast(vectors, tf.float32)
    length = tf.math.rsqrt(tf.reduce_mean(tf.square(wide), -1, keepdims=True) + 1e-6)
    return tf.cast(wide * (length / math.sqrt(vectors.shape[-1])), vectors.dtype)


def sorted_order(buckets: Any) -> Any:
    """Positions sorted by bucket and place, the rounds one after another.

    Args:
        buckets: `(batch, heads, hashes, sequence)`, those of a round above those before it.
    Returns:
        int32 `(batch, heads, hashes * sequence)`.
    """
    batch, heads, hashes, length = dims(buckets)
    # No two are alike, so that one sort of all rounds does.
    keys = tf.cast(buckets, tf.int64) * tf.cast(length, tf.int64) + tf.range(
        tf.cast(length, tf.int64)
    )
    keys = tf.sort(tf.reshape(keys, (batch, heads, hashes * length)), axis=-1)
    return tf.cast(keys % tf.cast(length, tf.int64), tf.int32)


# Attention.


class Heads(NamedTuple):
    """Some heads that follow each other.

    Args:
        start: number of the first.
        size: how many they are.
        rest: how many there are besides.
    """

    start: Any
    size: int
    rest: int = 0

    def of(self, x: Any | None) -> Any | None:
        """What is theirs of `(batch, heads, ...)`."""
        return tf.gather(x, self.numbers(), axis=1) if self.rest and x is not None else x

    def numbers(self) -> Any:
        return self.start + tf.range(self.size)

    def seed(self, seed: Any | None) -> Any | None:
        """A seed of their own."""
        if seed is None or not self.rest:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, self.start)


class Chunks(NamedTuple):
    """The chunks of all batches and of some heads.

    Args:
        heads: which heads.
        place: `(batch or 1, heads or 1, chunks, chunk)`; positions in the text.
        windows: `(batch or 1, heads or 1, chunks, width)`; positions of the keys that are seen.
        inverse: `(batch, heads, hashes, sequence)`; where in the order a position is, round by
            round. None for the order of the text.
        rounds: how many there are.
        mask: `(batch, sequence)` bool; which keys may be seen, None for all.
        pattern: which keys a query sees.
    """

    heads: Heads
    place: Any
    windows: Any
    inverse: Any | None
    rounds: int
    mask: Any | None
    pattern: Pattern

    @classmethod
    def of(
        cls,
        like: Any,
        pattern: Pattern,
        order: Any | None,
        rounds: int,
        mask: Any | None,
        heads: Heads | None = None,
    ) -> Chunks:
        """
        Args:
            like: `(batch, sequence, heads, head_dim)`.
            order: `(batch, heads, hashes * sequence)`, None for that of the text.
            rounds: number of hashes in it.
            mask: `(batch, sequence)` bool.
            heads: which of them, by default all.
        """
        batch, length, count, _ = dims(like)
        heads = Heads(0, count) if heads is None else heads
        order = heads.of(order)
        inverse = None
        if order is None:
            # Masks made of a constant would be as well, and all of them be kept. XLA does not know
            # that this is zero, and it stays so where there is NaN.
            first = tf.reduce_sum(tf.reshape(like, (-1,))[:1])
            zero = tf.cast(tf.minimum(tf.abs(first), 0) > 0, tf.int32)
            place = (tf.range(length) + zero)[None, None]
        else:
            place, inverse = order, _inverse(order, (batch, heads.size, rounds, length))
        place = tf.reshape(place, (*dims(place)[:2], -1, pattern.chunk))
        count = dims(place)[2]
        beside = tf.range(-pattern.before, pattern.after + 1)
        index = (tf.range(count)[:, None] + beside) % count
        windows = tf.gather(place, index, axis=2)
        windows = tf.reshape(windows, (*dims(place)[:3], pattern.width))
        return cls(heads, place, windows, inverse, rounds, mask, pattern)

    def gather(self, x: Any, place: Any) -> Any:
        """`(batch, sequence, heads, n)` of all heads -> `(batch, heads, chunks, places, n)`."""
        batch, length, heads, width = dims(x)
        first = tf.range(batch)[:, None, None, None] * length
        rows = (first + place) * heads + self.heads.numbers()[:, None, None]
        return tf.gather(tf.reshape(x, (-1, width)), rows)

    def scatter(self, x: Any, rounds: bool = False) -> Any:
        """`(batch, heads, chunks, chunk, n)` -> `(batch, sequence, heads, n)`, summed over rounds.

        Args:
            rounds: returns each round's for itself, `(batch, sequence, heads, hashes, n)`.
        """
        batch, heads, chunks, chunk, width = dims(x)
        if self.inverse is None:
            x = tf.transpose(tf.reshape(x, (batch, heads, chunks * chunk, width)), (0, 2, 1, 3))
            return x[:, :, :, None] if rounds else x
        first = tf.range(batch * heads) * (chunks * chunk)
        rows = tf.reshape(first, (batch, heads, 1, 1)) + self.inverse
        found = tf.gather(tf.reshape(x, (-1, width)), tf.transpose(rows, (0, 3, 1, 2)))
        if rounds:
            return found
        return found[:, :, :, 0] if self.rounds == 1 else tf.reduce_sum(found, 3)

    def fold(self, x: Any) -> Any:
        """Sums what windows have of a chunk: `(batch, heads, chunks, width, n)` -> `chunk`."""
        batch, heads, chunks, _, width = dims(x)
        pattern = self.pattern
        neighbours = pattern.before + 1 + pattern.after
        x = tf.reshape(x, (batch, heads, chunks, neighbours, pattern.chunk, width))
        parts = [
            tf.roll(x[:, :, :, number], number - pattern.before, axis=2)
            if number != pattern.before
            else x[:, :, :, number]
            for number in range(neighbours)
        ]
        return parts[0] if len(parts) == 1 else tf.add_n(parts)

    def repeats(self) -> bool:
        """Whether a window may have a query's own key twice, of another round or of this one."""
        number = dims(self.windows)[2]
        few = max(self.pattern.before, self.pattern.after)
        return self.rounds > 1 or not isinstance(number, int) or number <= few

    def hidden(self) -> Any | None:
        """How much is taken off scores, `(batch or 1, heads or 1, chunks, chunk, width)`.

        In units of `HIDDEN`; or of `OWN`, with 1 for the query's own key and 2 for hidden ones.
        None if nothing is.
        """
        pattern, units = self.pattern, None
        if pattern.causal or pattern.excludes_own:
            # Positions are exact in float32, which is quicker to compute with.
            keys = tf.cast(self.windows, tf.float32)[:, :, :, None, :]
            ahead = keys - tf.cast(self.place, tf.float32)[..., None]
            if not pattern.excludes_own:
                units = tf.clip_by_value(ahead, 0.0, 1.0)
            elif pattern.causal:
                units = tf.clip_by_value(ahead + 1.0, 0.0, 2.0)
            else:
                units = tf.maximum(1.0 - tf.abs(ahead), 0.0)
        if self.mask is None:
            return units
        batch, length = dims(self.mask)
        rows = tf.range(batch)[:, None, None, None] * length + self.windows
        blocked = ~tf.gather(tf.reshape(self.mask, (-1,)), rows)[:, :, :, None, :]
        if units is None:
            return tf.cast(blocked, tf.float32)
        if pattern.excludes_own:  # a query that is padding sees itself
            return tf.where(blocked & (units != 1.0), 2.0, units)
        return tf.where(blocked, 1.0, units)


def _inverse(order: Any, shape: tuple[Any, ...]) -> Any:
    """Where in the order each position is, `(batch, heads, hashes, sequence)`."""
    batch, heads, rounds, length = shape
    size = rounds * length
    first = tf.range(batch * heads)[:, None] * size
    index = tf.range(size)[None]
    # Positions of a round are counted behind those of the rounds before it.
    rows = first + index // length * length + tf.reshape(order, (batch * heads, size))
    places = tf.broadcast_to(index, (batch * heads, size))
    flat = tf.scatter_nd(
        tf.reshape(rows, (-1, 1)), tf.reshape(places, (-1,)), (batch * heads * size,)
    )
    return tf.reshape(flat, shape)


def _scores(query: Any, key: Any, chunks: Chunks) -> tuple[Any, Any | None]:
    """Scores `(batch, heads, chunks, chunk, width)` in float32, and which are hidden.

    A query that sees no key attends to all of its window alike.
    """
    scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    units = chunks.hidden()
    if units is None:
        return scores, None
    hidden = units > 0.0
    if not chunks.pattern.excludes_own:
        return tf.where(hidden, -HIDDEN, scores), hidden
    with after([hidden]):
        low = -OWN * units  # in the place of the units
    return tf.where(hidden, low, scores), hidden


class Memo:
    """What a second run of the same attention takes from the first.

    Args:
        order: int32 `(batch, heads, hashes * sequence)`, of LSH attention.
        sums: `(batch, heads, chunks, chunk, 2)`; a query's highest score, and the logarithm of the
            sum of its exponentials above that.
        rounds: number of hashes in the order.
    """

    def __init__(self, order: Any | None = None, sums: Any | None = None, rounds: int = 1) -> None:
        self.order, self.sums, self.rounds = order, sums, rounds


def chunked_attention(
    query: Any,
    key: Any,
    value: Any,
    pattern: Pattern,
    memo: Memo,
    mask: Any | None = None,
    rate: float = 0.0,
    seed: Any | None = None,
    exact: Any = False,
) -> Any:
    """Attention in chunks, in the order that the memo has or else in that of the text.

    Differs: PyTorch goes tile by tile of the chunks, here some heads come after others.

    Args:
        query, key, value: `(batch, sequence, heads, head_dim)`, the scores' scale among them.
        pattern: which keys a query sees.
        memo: of the first run, or a new one that is filled in.
        mask: `(batch, sequence)` bool; which keys may be seen.
        rate, seed: of dropout of the probabilities.
        exact: whether sums are not rounded as published, a bool or a scalar. Differs: PyTorch
            knows every length, and cuts a text of one chunk to windows of one chunk.
    Returns:
        `(batch, sequence, heads, head_dim)`.
    """
    _, length, heads, _ = dims(query)
    size = heads
    if isinstance(length, int):
        few = max(SCORES // (memo.rounds * length * pattern.width), 1)
        size = max(n for n in range(1, heads + 1) if heads % n == 0 and n <= few)
    known, order = memo.sums, memo.order

    @tf.custom_gradient
    def attend(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
        # Differentiated below.
        query, key, value = (tf.stop_gradient(x) for x in (query, key, value))

        def forward(start: Any) -> tuple[Any, Any]:
            own = Heads(start, size, heads - size)
            chunks = Chunks.of(query, pattern, order, memo.rounds, mask, own)
            drop = partial(dropout, rate=rate, seed=own.seed(seed))
            return _attend(query, key, value, chunks, own.of(known), drop, exact)

        context, sums = in_turn(forward, range(0, heads, size), (2, 1))

        def gradient(upstream: Any, _: Any = None) -> tuple[Any, Any, Any]:
            upstream = tf.stop_gradient(tf.cast(upstream, value.dtype))
            # The softmax's gradient takes off a query's mean, which its output has already.
            means = tf.cast(upstream, tf.float32) * tf.cast(context, tf.float32)
            means = tf.reduce_sum(means, -1, keepdims=True)

            def backward(start: Any) -> tuple[Any, Any, Any]:
                own = Heads(start, size, heads - size)
                chunks = Chunks.of(query, pattern, order, memo.rounds, mask, own)
                drop = partial(dropout, rate=rate, seed=own.seed(seed))
                given = query, key, value, upstream, means
                return _attend_gradients(*given, chunks, own.of(sums), drop)

            return in_turn(backward, range(0, heads, size), (2, 2, 2))

        return (context, sums), gradient

    context, memo.sums = attend(query, key, value)
    return context


def _attend(
    query: Any, key: Any, value: Any, chunks: Chunks, known: Any | None, drop: Any, exact: Any
) -> tuple[Any, Any]:
    """What some heads find, `(batch, sequence, heads, head_dim)`, and their sums."""
    q, k = chunks.gather(query, chunks.place), chunks.gather(key, chunks.windows)
    scores, sums = _scores(q, k, chunks)[0], known
    if sums is None:
        highest = tf.reduce_max(scores, -1, keepdims=True)
        # Rounded as the whole sum is, as published: where a query sees but itself, that is
        # near minus a hundred thousand, and probabilities do not quite make one.
        total = tf.math.log(tf.reduce_sum(tf.exp(scores - highest), -1, keepdims=True))
        total = tf.where(exact, total, (highest + total) - highest)
        sums = tf.concat([highest, total], -1)
        if chunks.rounds > 1:
            sums = _joined(sums, chunks, exact)
    weights = tf.exp(scores - sums[..., :1] - sums[..., 1:])
    v = chunks.gather(value, chunks.windows)
    found = tf.cast(tf.matmul(tf.cast(drop(weights), v.dtype), v), tf.float32)
    return tf.cast(chunks.scatter(found), value.dtype), sums


def _attend_gradients(
    query: Any,
    key: Any,
    value: Any,
    upstream: Any,
    means: Any,
    chunks: Chunks,
    sums: Any,
    drop: Any,
) -> tuple[Any, Any, Any]:
    """Of the query, the key and the value of some heads."""
    means = chunks.gather(means, chunks.place)
    q, k = chunks.gather(query, chunks.place), chunks.gather(key, chunks.windows)
    scores, hidden = _scores(q, k, chunks)
    weights = tf.exp(scores - sums[..., :1] - sums[..., 1:])
    # Each step ends before the next one's vectors are there.
    with after([weights]):
        du = chunks.gather(upstream, chunks.place)
        dv = tf.matmul(tf.cast(drop(weights), value.dtype), du, transpose_a=True)
        dv = chunks.scatter(chunks.fold(dv))
    with after([dv]):
        v = chunks.gather(value, chunks.windows)
        ds = drop(tf.cast(tf.matmul(du, v, transpose_b=True), tf.float32))
    ds = (ds - means) * weights
    if hidden is not None and (chunks.mask is not None or chunks.repeats()):
        ds = tf.where(hidden, 0.0, ds)
    ds = tf.cast(ds, q.dtype)
    dq = chunks.scatter(tf.matmul(ds, k))
    with after([dq]):
        dk = tf.matmul(ds, q, transpose_a=True)
        return dq, chunks.scatter(chunks.fold(dk)), dv


def _joined(sums: Any, chunks: Chunks, exact: Any) -> Any:
    """The sums of all rounds, in the place of each round's."""
    each = chunks.scatter(sums, rounds=True)  # (batch, sequence, heads, hashes, 2)
    highest = tf.reduce_max(each[..., :1], 3)
    total = tf.reduce_logsumexp(tf.reduce_sum(each, -1), 3)[..., None] - highest
    apart = tf.reduce_logsumexp(each[..., 0] - highest + each[..., 1], 3)[..., None]
    joined = tf.concat([highest, tf.where(exact, apart, total)], -1)
    # These are of the chunks' heads alone.
    own = Heads(0, chunks.heads.size)
    return chunks._replace(heads=own).gather(joined, chunks.place)


def attention_weights(
    query: Any, key: Any, pattern: Pattern, memo: Memo, mask: Any | None = None
) -> Any:
    """The probabilities of `chunked_attention`, each round's for itself, before dropout.

    Returns:
        `(batch, heads, chunks, chunk, width)`.
    """
    chunks = Chunks.of(query, pattern, memo.order, memo.rounds, mask)
    q, k = chunks.gather(query, chunks.place), chunks.gather(key, chunks.windows)
    scores = _scores(q, k, chunks)[0]
    # Rounded as above, so that these are what the context is made with.
    weights = tf.exp(scores - tf.reduce_logsumexp(scores, -1, keepdims=True))
    return tf.stop_gradient(tf.cast(weights, query.dtype))


# One position after another.


class Memory(NamedTuple):
    """What attention to earlier positions needs.

    Args:
        key, value: `(rows, heads, capacity, head_dim)`.
        order: `(rows, heads, hashes, capacity)`; positions sorted by their buckets.
        buckets: `(rows, heads, hashes, capacity)`; these buckets, `NO_BUCKET` behind the last.
    """

    key: Any
    value: Any
    order: Any | None = None
    buckets: Any | None = None

    def take(self, rows: Any) -> Memory:
        """That of some rows."""
        return Memory(*(None if x is None else tf.gather(x, rows) for x in self))

    def grown(self, capacity: Any) -> Memory:
        """The same with room for more positions."""
        more = capacity - dims(self.key)[2]
        behind = [[0, 0], [0, 0], [0, more], [0, 0]]
        key, value = (tf.pad(x, behind) for x in self[:2])
        if self.order is None:
            return Memory(key, value)
        behind = [[0, 0], [0, 0], [0, 0], [0, more]]
        order = tf.pad(self.order, behind)
        return Memory(key, value, order, tf.pad(self.buckets, behind, constant_values=NO_BUCKET))

    def sorted(self, buckets: Any) -> Memory:
        """The same with buckets `(rows, heads, hashes, capacity)` in the order of the text."""
        order = tf.argsort(buckets, axis=-1, stable=True)
        return self._replace(order=order, buckets=tf.gather(buckets, order, batch_dims=3))

    def put(self, key: Any, value: Any, place: Any) -> Memory:
        """Writes `(rows, heads, head_dim)` at the places `(rows,)`.

        Differs: PyTorch writes into the memory itself.
        """
        rows, heads, capacity, width = dims(self.key)
        slots = tf.range(rows * heads) * capacity + tf.repeat(place, heads)

        def put(table: Any, new: Any) -> Any:
            flat = tf.tensor_scatter_nd_update(
                tf.reshape(table, (-1, width)), slots[:, None], tf.reshape(new, (-1, width))
            )
            return tf.reshape(flat, (rows, heads, capacity, width))

        return self._replace(key=put(self.key, key), value=put(self.value, value))

    def sort_in(self, buckets: Any, place: Any) -> tuple[Memory, Any]:
        """Sorts in positions that come behind all others of their bucket.

        Args:
            buckets: `(rows, heads, hashes, 1)`.
            place: `(rows,)`.
        Returns:
            The new memory and where in the order they are, `(rows, heads, hashes, 1)`.
        """
        rank = tf.reduce_sum(tf.cast(self.buckets <= buckets, tf.int32), -1, keepdims=True)
        index = tf.range(dims(self.buckets)[-1])
        place = tf.reshape(place, (-1, 1, 1, 1))

        def insert(table: Any, new: Any) -> Any:
            moved = tf.concat([table[..., :1], table[..., :-1]], -1)
            return tf.where(index < rank, table, tf.where(index == rank, new, moved))

        return self._replace(
            order=insert(self.order, place), buckets=insert(self.buckets, buckets)
        ), rank


def look_back(query: Any, key: Any, value: Any, places: Any, hidden: Any) -> tuple[Any, Any]:
    """Attention of one query a row to some positions.

    Args:
        query: `(rows, heads, head_dim)`.
        key, value: `(rows, heads, capacity, head_dim)`.
        places: `(rows, heads, n)`.
        hidden: `(rows, heads, n)`; what is taken off the scores.
    Returns:
        `(rows, heads, head_dim)` and the scores `(rows, heads, n)`.
    """
    keys, values = (tf.gather(x, places, batch_dims=2) for x in (key, value))
    scores = tf.cast(tf.matmul(keys, query[..., None])[..., 0], tf.float32) - hidden
    weights = tf.cast(tf.nn.softmax(scores), values.dtype)
    return tf.matmul(weights[:, :, None], values)[:, :, 0], scores

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
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Scores that are there at a time: few enough to stay in a CPU's cache, many on an accelerator.
TILE = {"cpu": 2**19}
LARGE_TILE = 2**27
# What is taken off the score of a hidden key; and off that of a query's own, which is seen where
# all others are hidden (twice that off the others then).
HIDDEN, OWN = 1e9, 1e5
LOG2_E = math.log2(math.e)
NO_BUCKET = 2**62


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


def hash_vectors(vectors: Tensor, rotations: Tensor, num_buckets: int | list[int]) -> Tensor:
    """The buckets of vectors: which of some random directions is nearest, or opposite.

    Args:
        vectors: `(batch, sequence, heads, head_dim)`.
        rotations: `(heads, head_dim, hashes, directions / 2)`.
        num_buckets: number of directions, or factors that are hashed each for itself.
    Returns:
        `(batch, heads, hashes, sequence)`.
    """
    factors = [num_buckets] if isinstance(num_buckets, int) else list(num_buckets)
    hashes, directions = rotations.shape[2:]
    flat = rotations.flatten(2)
    # Pieces, as there may be more directions than dimensions.
    piece = max(1, 2 * TILE["cpu"] // (hashes * directions * vectors.shape[2]))
    found = []
    for part in vectors.transpose(1, 2).split(piece, 2):
        rotated = (part @ flat).unflatten(-1, (hashes, directions))
        buckets, count = None, 1
        shares = rotated.split([factor // 2 for factor in factors], -1)
        for factor, share in zip(factors, shares, strict=True):
            highest, first = share.max(-1)
            lowest, second = share.min(-1)
            nearest = torch.where(highest >= -lowest, first, second + factor // 2)
            buckets = nearest if buckets is None else buckets + count * nearest
            count *= factor
        found.append(buckets)
    return torch.cat(found, 2).transpose(2, 3)


def normalised(vectors: Tensor) -> Tensor:
    """Vectors of one length as keys, the scale of the scores with it."""
    wide = vectors.float()
    length = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return (wide * (length / math.sqrt(vectors.shape[-1]))).to(vectors.dtype)


def sorted_order(buckets: Tensor) -> Tensor:
    """Positions sorted by bucket and place, the rounds one after another.

    Args:
        buckets: `(batch, heads, hashes, sequence)`, those of a round above those before it.
    Returns:
        int32 `(batch, heads, hashes * sequence)`.
    """
    length = buckets.shape[-1]
    place = torch.arange(length, device=buckets.device)
    # No two are alike, so that one sort of all rounds does.
    keys = (buckets * length + place).flatten(2).sort(-1).values
    return (keys % length).int()


# Attention.


class Chunks(NamedTuple):
    """The chunks of all batches and heads in one line, so that a window is a piece of it.

    Before the chunks of a batch's head stand those that its first one sees, behind them those that
    its last one sees; windows that reach from one head into the next are of no use.

    Args:
        rows: `(chunks * chunk,)`; rows of a table `(batch * sequence * heads, head_dim)`.
        place: `(chunks, chunk)` float32; positions in the text.
        blocked: `(chunks, chunk)` bool, which keys are hidden from all; None for none.
        valid: `(windows,)` bool; which windows are of use.
        of_round: `(windows,)`; which round a window is of.
        at_edge: `(windows,)` bool; which windows wrap around or see another round.
        rounds: how many there are.
        repeats: whether a window may have a query's own key twice.
        pattern: which keys a query sees.
    """

    rows: Tensor
    place: Tensor
    blocked: Tensor | None
    valid: Tensor
    of_round: Tensor
    at_edge: Tensor
    rounds: int
    repeats: bool
    pattern: Pattern

    @classmethod
    def of(
        cls, like: Tensor, pattern: Pattern, order: Tensor | None, mask: Tensor | None
    ) -> Chunks:
        """
        Args:
            like: `(batch, sequence, heads, head_dim)`.
            order: `(batch, heads, hashes * sequence)`, None for that of the text.
            mask: `(batch, sequence)` bool.
        """
        batch, length, heads, _ = like.shape
        chunk, before, after = pattern.chunk, pattern.before, pattern.after

        def count(end: int, start: int = 0) -> Tensor:
            return torch.arange(start, end, device=like.device)

        place = count(length).expand(1, 1, -1) if order is None else order
        number = place.shape[2] // chunk
        place = place.unflatten(2, (number, chunk))[:, :, count(number + after, -before) % number]
        place = place.expand(batch, heads, -1, -1)
        tokens = count(batch)[:, None, None, None] * length + place
        rows = (tokens * heads + count(heads)[:, None, None]).flatten()
        index = count(number + before + after).repeat(batch * heads)
        index = index[: len(index) - before - after]
        inside = index % (length // chunk)
        return cls(
            rows,
            place.reshape(-1, chunk).float(),
            None if mask is None else ~mask.flatten()[tokens].view(-1, chunk),
            index < number,
            index.clamp(max=number - 1) // (length // chunk),
            (inside < before) | (inside >= length // chunk - after),
            number * chunk // length,
            # Of another round, or where windows are wider than the text.
            number * chunk > length or length // chunk <= max(before, after),
            pattern,
        )

    def tiles(self) -> Iterator[Tile]:
        """Some windows at a time."""
        chunk, before, after = self.pattern.chunk, self.pattern.before, self.pattern.after
        windows = len(self.valid)
        scores = windows * chunk * self.pattern.width
        # Of one size, as far as that goes.
        number = -(-scores // TILE.get(self.rows.device.type, LARGE_TILE))
        for start in range(0, windows, -(-windows // number)):
            end = min(start + -(-windows // number), windows)
            rows = self.rows[start * chunk : (end + before + after) * chunk]
            yield Tile(start, end, rows, rows[before * chunk : (before + end - start) * chunk])

    def windows(self, x: Tensor, *, transposed: bool = False) -> Tensor:
        """The rows of a tile, `(rows, ...)`, as a view of windows `(windows, width, ...)`."""
        chunk, width = self.pattern.chunk, self.pattern.width
        return x.unfold(0, width, chunk) if transposed else x.unfold(0, width, chunk).mT

    def hidden(self, start: int, end: int) -> Tensor | None:
        """How much is taken off scores, `(windows, chunk, width)`; None if nothing.

        In units of `HIDDEN`; or of `OWN`, with 1 for the query's own key and 2 for hidden ones.
        """
        pattern = self.pattern
        units, place = None, self.place[start : end + pattern.before + pattern.after]
        if pattern.causal or pattern.excludes_own:
            keys = place.flatten().unfold(0, pattern.width, pattern.chunk)[:, None, :]
            queries = place[pattern.before : pattern.before + end - start, :, None]
            # Positions are exact in float32, which is quicker to compute with.
            ahead = keys - queries
            if not pattern.excludes_own:
                units = ahead.clamp_(0.0, 1.0)
            elif pattern.causal:
                units = ahead.add_(1.0).clamp_(0.0, 2.0)
            else:
                units = ahead.abs_().neg_().add_(1.0).clamp_(min=0.0)
        if self.blocked is None:
            return units
        blocked = self.blocked[start : end + pattern.before + pattern.after].flatten()
        blocked = blocked.unfold(0, pattern.width, pattern.chunk)[:, None, :]
        if units is None:
            return blocked.float().expand(-1, pattern.chunk, -1)
        if pattern.excludes_own:  # a query that is padding sees itself
            return units.masked_fill_(blocked & (units != 1.0), 2.0)
        return units.masked_fill_(blocked, 1.0)


class Tile(NamedTuple):
    """Windows from `start` to `end`: rows of the table around them, and of their queries."""

    start: int
    end: int
    rows: Tensor
    own: Tensor


def _gather(table: Tensor, rows: Tensor) -> Tensor:
    return table.index_select(0, rows)


def _exp(x: Tensor) -> Tensor:
    """The exponentials, in place. On a CPU `exp_` is slow where they are zero, as half of them are.

    A power of two is not, and its argument is rounded where the result is next to nothing.
    """
    return x.mul_(LOG2_E).exp2_()


def _scores(query: Tensor, key: Tensor, chunks: Chunks, tile: Tile) -> tuple[Tensor, Tensor | None]:
    """Scores `(windows, chunk, width)` in float32, and which queries see a key, None for all.

    A query that sees none attends to all keys of its window alike.

    Args:
        query: `(windows, chunk, head_dim)`.
        key: `(windows, head_dim, width)`.
    """
    scores = torch.bmm(query, key).float()
    pattern, live = chunks.pattern, None
    hidden = chunks.hidden(tile.start, tile.end)
    if hidden is None:
        return scores, None
    if not pattern.excludes_own:
        if chunks.blocked is not None:
            live = (hidden < 1.0).any(-1, keepdim=True)
            scores.mul_(live)
        return scores.add_(hidden, alpha=-HIDDEN), live
    scores.add_(hidden, alpha=-OWN)
    # The same for each query's own key, so that rounds in which it sees no other weigh the same.
    scores.diagonal(pattern.before * pattern.chunk, 1, 2).fill_(-OWN)
    if chunks.repeats:
        edge = chunks.at_edge[tile.start : tile.end].nonzero()[:, 0]
        scores[edge] = scores[edge].masked_fill_(hidden[edge] == 1.0, -OWN)
    return scores, live


class Dropout(NamedTuple):
    """Dropout of attention's probabilities, the same in each pass."""

    rate: float
    seed: int

    def generator(self, like: Tensor) -> torch.Generator | None:
        if not self.rate:
            return None
        return torch.Generator(like.device).manual_seed(self.seed)

    def kept(self, like: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """What to multiply with, None for nothing."""
        if generator is None:
            return None
        kept = torch.empty_like(like).bernoulli_(1.0 - self.rate, generator=generator)
        return kept.mul_(1.0 / max(1.0 - self.rate, 1e-9))


class Memo:
    """What a second run of the same attention takes from the first.

    Args:
        order: int32 `(batch, heads, hashes * sequence)`, of LSH attention.
        sums: `(windows, chunk, 2)`; a query's highest score in the window, and the logarithm of the
            sum of its exponentials in all rounds above that.
    """

    def __init__(self) -> None:
        self.order: Tensor | None = None
        self.sums: Tensor | None = None


def chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    memo: Memo,
    mask: Tensor | None = None,
    dropout: Dropout | None = None,
) -> Tensor:
    """Attention in chunks, in the order that the memo has or else in that of the text.

    Differs: Keras goes through some heads after others, here it is tile by tile of the chunks.

    Args:
        query, key, value: `(batch, sequence, heads, head_dim)`, the scores' scale among them.
        pattern: which keys a query sees.
        memo: of the first run, or a new one that is filled in.
        mask: `(batch, sequence)` bool; which keys may be seen.
    Returns:
        `(batch, sequence, heads, head_dim)`.
    """
    chunks = Chunks.of(query, pattern, memo.order, mask)
    dropout = Dropout(0.0, 0) if dropout is None else dropout
    return _ChunkedAttention.apply(query, key, value, chunks, memo, dropout)


@torch.no_grad()
def attention_weights(
    query: Tensor, key: Tensor, pattern: Pattern, memo: Memo, mask: Tensor | None = None
) -> Tensor:
    """The probabilities of `chunked_attention`, each round's for itself, before dropout.

    Returns:
        `(batch, heads, chunks, chunk, width)`.
    """
    chunks = Chunks.of(query, pattern, memo.order, mask)
    queries, keys = query.flatten(0, 2), key.flatten(0, 2)
    found = []
    for tile in chunks.tiles():
        q = _gather(queries, tile.own).unflatten(0, (-1, pattern.chunk))
        k = chunks.windows(_gather(keys, tile.rows), transposed=True)
        scores = _scores(q, k, chunks, tile)[0]
        # Rounded as above, so that these are what the context is made with.
        found.append(scores.sub_(scores.logsumexp(-1, keepdim=True)).exp_())
    batch, _, heads, _ = query.shape
    weights = torch.cat(found)[chunks.valid]
    return weights.unflatten(0, (batch, heads, -1)).to(query.dtype)


class _ChunkedAttention(torch.autograd.Function):
    """Gathers, multiplies and scatters tile by tile.

    Where the backward pass follows soon, as in a run for its sake, it finds the probabilities.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        chunks: Chunks,
        memo: Memo,
        dropout: Dropout,
    ) -> Tensor:
        queries, keys, values = (x.flatten(0, 2) for x in (query, key, value))
        size, chunk, known = len(queries), chunks.pattern.chunk, memo.sums
        rounds = chunks.rounds if known is None else 1
        own_rows = _own_rows(chunks, size, rounds)
        # The last row is for windows of no use.
        context = queries.new_zeros(rounds * size + 1, values.shape[1], dtype=torch.float32)
        sums = context.new_empty(len(chunks.valid), chunk, 2) if known is None else known
        generator, kept_weights = dropout.generator(query), []
        for tile in chunks.tiles():
            part = slice(tile.start, tile.end)
            q = _gather(queries, tile.own).unflatten(0, (-1, chunk))
            k = chunks.windows(_gather(keys, tile.rows), transposed=True)
            v = chunks.windows(_gather(values, tile.rows))
            scores, live = _scores(q, k, chunks, tile)
            # The same steps in either run: half precision would round others to another context.
            highest = scores.amax(-1, keepdim=True) if known is None else known[part, :, :1]
            weights = _exp(scores.sub_(highest))
            if known is None:
                # Rounded as the whole sum is, as published: where a query sees but itself, that is
                # near minus a hundred thousand, and probabilities do not quite make one.
                log_total = highest + weights.sum(-1, keepdim=True).log() - highest
                sums[part] = torch.cat([highest, log_total], -1)
            else:
                log_total = known[part, :, 1:]
            kept = dropout.kept(weights, generator)
            dropped = weights if kept is None else weights * kept
            total = log_total.exp()
            found = torch.bmm(dropped.to(v.dtype), v).float().div_(total)
            if known is not None and any(ctx.needs_input_grad):
                kept_weights.append((weights.div_(total), live))
            context.index_add_(0, own_rows[part].flatten(), found.flatten(0, 1))
        context = context[:-1]
        if rounds > 1:
            context, sums = _joined(context.view(rounds, size, -1), sums, own_rows)
        if known is None:
            sums[~chunks.valid] = torch.inf  # no weight in later passes
        memo.sums = sums
        context = context.view(value.shape).to(value.dtype)
        ctx.chunks, ctx.dropout, ctx.weights = chunks, dropout, kept_weights
        ctx.save_for_backward(query, key, value, context, sums)
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        query, key, value, context, sums = ctx.saved_tensors
        chunks, dropout, chunk = ctx.chunks, ctx.dropout, ctx.chunks.pattern.chunk
        queries, keys, values, upstream = (
            x.flatten(0, 2) for x in (query, key, value, upstream.to(value.dtype))
        )
        # The softmax's gradient takes off a query's mean, which its output has already.
        means = (upstream * context.flatten(0, 2)).sum(-1, keepdim=True, dtype=torch.float32)
        own_rows = _own_rows(chunks, len(queries), 1)
        dq = torch.zeros(len(queries) + 1, queries.shape[1], device=queries.device)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
        generator = dropout.generator(query)
        for number, tile in enumerate(chunks.tiles()):
            part, rows = slice(tile.start, tile.end), tile.rows
            q = _gather(queries, tile.own).unflatten(0, (-1, chunk))
            around = _gather(keys, rows)
            du = _gather(upstream, tile.own).unflatten(0, (-1, chunk))
            v = chunks.windows(_gather(values, rows), transposed=True)
            if ctx.weights:
                weights, live = ctx.weights[number]
            else:
                scores, live = _scores(q, chunks.windows(around, transposed=True), chunks, tile)
                highest, log_total = sums[part].split(1, -1)
                weights = _exp(scores.sub_(highest).sub_(log_total))
            kept = dropout.kept(weights, generator)
            dropped = (weights if kept is None else weights * kept).to(v.dtype)
            dv.index_add_(0, rows, _spread(dropped, du, chunks))
            ds = torch.bmm(du, v).float()
            ds = ds if kept is None else ds.mul_(kept)
            ds = ds.sub_(_gather(means, tile.own).unflatten(0, (-1, chunk))).mul_(weights)
            if live is None and chunks.repeats:
                live = sums[part, :, :1] > -OWN / 2
            ds = (ds if live is None else ds.mul_(live)).to(q.dtype)
            found = torch.bmm(ds, chunks.windows(around)).float()
            dq.index_add_(0, own_rows[part].flatten(), found.flatten(0, 1))
            dk.index_add_(0, rows, _spread(ds, q, chunks))
        gradients = (
            x.view(y.shape).to(y.dtype) for x, y in ((dq[:-1], query), (dk, key), (dv, value))
        )
        return *gradients, None, None, None


def _own_rows(chunks: Chunks, size: int, rounds: int) -> Tensor:
    """Rows of the windows' queries `(windows, chunk)`, in a table of each round or of all."""
    before, after = chunks.pattern.before, chunks.pattern.after
    rows = chunks.rows.view(-1, chunks.pattern.chunk)
    rows = rows[before : len(rows) - after]
    if rounds > 1:
        rows = rows + chunks.of_round[:, None] * size
    return torch.where(chunks.valid[:, None], rows, rounds * size)


def _spread(weights: Tensor, vectors: Tensor, chunks: Chunks) -> Tensor:
    """Sums the queries' vectors over the keys of a tile, `(rows, head_dim)` in float32.

    Args:
        weights: `(windows, chunk, width)`.
        vectors: `(windows, chunk, head_dim)`.
    """
    chunk, neighbours = chunks.pattern.chunk, chunks.pattern.width // chunks.pattern.chunk
    windows, _, width = vectors.shape
    total = vectors.new_zeros(windows + neighbours - 1, chunk, width, dtype=torch.float32)
    for number, share in enumerate(weights.split(chunk, 2)):
        own = total[number : number + windows]
        if vectors.dtype == torch.float32:
            own.baddbmm_(share.mT, vectors)
        else:
            own.add_(torch.bmm(share.mT, vectors))
    return total.flatten(0, 1)


def _joined(context: Tensor, sums: Tensor, own_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds as one softmax over the keys of all.

    Args:
        context: `(hashes, rows, head_dim)`, each round's.
        sums: `(windows, chunk, 2)`, each round's.
        own_rows: `(windows, chunk)`, in a table of each round.
    Returns:
        `(rows, head_dim)` and the sums `(windows, chunk, 2)` of all rounds, each above the round's
        own highest score.
    """
    rounds, size, _ = context.shape
    table = sums.new_empty(rounds * size + 1, 2)
    table.index_copy_(0, own_rows.flatten(), sums.flatten(0, 1))
    table = table[:-1].view(rounds, size, 2)
    logs = table.sum(-1)
    log_total = logs.logsumexp(0)
    context = context.mul_((logs - log_total).exp()[..., None]).sum(0)
    highest = sums[..., 0]
    joined = _gather(log_total, own_rows.flatten() % size).view_as(highest)
    return context, torch.stack([highest, joined - highest], -1)


# One position after another.


class Memory(NamedTuple):
    """What attention to earlier positions needs.

    Args:
        key, value: `(rows, heads, capacity, head_dim)`.
        order: `(rows, heads, hashes, capacity)`; positions sorted by their buckets.
        buckets: `(rows, heads, hashes, capacity)`; these buckets, `NO_BUCKET` behind the last.
    """

    key: Tensor
    value: Tensor
    order: Tensor | None = None
    buckets: Tensor | None = None

    def take(self, rows: Tensor) -> Memory:
        """That of some rows."""
        return Memory(*(None if x is None else x.index_select(0, rows) for x in self))

    def grown(self, capacity: int) -> Memory:
        """The same with room for more positions."""
        more = capacity - self.key.shape[2]
        key, value = (functional.pad(x, (0, 0, 0, more)) for x in self[:2])
        if self.order is None:
            return Memory(key, value)
        order = functional.pad(self.order, (0, more))
        buckets = functional.pad(self.buckets, (0, more), value=NO_BUCKET)
        return Memory(key, value, order, buckets)

    def sorted(self, buckets: Tensor) -> Memory:
        """The same with buckets `(rows, heads, hashes, capacity)` in the order of the text."""
        buckets, order = buckets.sort(dim=-1, stable=True)
        return self._replace(order=order, buckets=buckets)

    def put(self, key: Tensor, value: Tensor, place: Tensor) -> None:
        """Writes `(rows, heads, head_dim)` at the places `(rows,)`."""
        rows = torch.arange(len(place), device=place.device)
        self.key[rows, :, place], self.value[rows, :, place] = key, value

    def sort_in(self, buckets: Tensor, place: Tensor) -> tuple[Memory, Tensor]:
        """Sorts in positions that come behind all others of their bucket.

        Args:
            buckets: `(rows, heads, hashes, 1)`.
            place: `(rows,)`.
        Returns:
            The new memory and where in the order they are, `(rows, heads, hashes, 1)`.
        """
        rank = torch.searchsorted(self.buckets, buckets, right=True)
        index = torch.arange(self.buckets.shape[-1], device=rank.device)
        source = index - (index > rank).long()
        places = place[:, None, None, None].expand_as(rank)
        order = self.order.gather(-1, source).scatter_(-1, rank, places)
        sorted_ = self.buckets.gather(-1, source).scatter_(-1, rank, buckets)
        return self._replace(order=order, buckets=sorted_), rank


def look_back(
    query: Tensor, key: Tensor, value: Tensor, places: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of one query a row to some positions.

    Args:
        query: `(rows, heads, head_dim)`.
        key, value: `(rows, heads, capacity, head_dim)`.
        places: `(rows, heads, n)`.
        hidden: `(rows, heads or 1, n)`; what is taken off the scores.
    Returns:
        `(rows, heads, head_dim)` and the scores `(rows, heads, n)`.
    """
    rows, heads, capacity, width = key.shape
    first = torch.arange(rows * heads, device=key.device).view(rows, heads, 1) * capacity
    index = (places + first).flatten()  # whole rows of a table are quicker to gather
    keys, values = (
        _gather(x.flatten(0, 2), index).view(rows, heads, -1, width) for x in (key, value)
    )
    scores = (keys @ query[..., None])[..., 0].float() - hidden
    weights = scores.softmax(-1).to(values.dtype)
    return (weights[:, :, None] @ values)[:, :, 0], scores

"""Batches for the three phases of training, each a pure function of a seed and the step.

So a resumed run sees what an uninterrupted one would have seen, and both frameworks see the same.
What depends on the model, the candidates that an index finds for a query, is `Candidates`, called
with vectors in the middle of a step.

Sources: Lee et al. 2019 (ORQA), sections 4 and 5, the inverse cloze task; Guu et al. 2020 (REALM),
sections 3.2 to 3.4 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .corpus import BlockCorpus, Special, block_inputs

Batch = dict[str, np.ndarray]
NULL = -1  # the row of the empty block
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_INVERSE_CLOZE, _MASKED, _QUESTIONS = 1, 2, 3  # streams of random numbers
_NEVER = np.float32(-1e9)  # relevance of a candidate that is not there


def shuffled(places: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """What a permutation of `range(size)` has at some places, without the rest of it.

    A Feistel network permutes the next power of four; what falls outside is sent through again.

    Args:
        places: `(count,)`, from 0 to `size - 1`.
        size: of the permutation.
        seed: several numbers that choose it.
    """
    keys = np.random.default_rng(list(seed)).integers(0, 1 << 63, 4, np.uint64)
    half = np.uint64(max(((size - 1).bit_length() + 1) // 2, 1))
    low = np.uint64((1 << int(half)) - 1)
    found = np.asarray(places, np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & low
        for key in keys:
            mixed = (right ^ key) * _GOLDEN  # wraps around
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
            left, right = right, left ^ (mixed >> np.uint64(32)) & low
        found[outside] = left << half | right
        outside = found >= size
    return found.astype(np.int64)


class Batches:
    """Base of the batches: examples in an order that is shuffled anew in every epoch.

    Args:
        examples: how many there are.
        batch_size: examples of a batch; an epoch ends when what is left makes no whole batch.
        seed: of everything random.
        stream: of random numbers, a different one for each use.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, stream: int):
        if batch_size < 1:
            raise ValueError(f"batch_size: received {batch_size}, expected a positive number")
        if examples < batch_size:
            raise ValueError(f"batch_size: {batch_size} is more than the {examples} examples")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.steps_per_epoch = examples // batch_size
        self._stream = stream

    def chosen(self, step: int) -> np.ndarray:
        """The examples of a step, all different, `(batch_size,)`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        places = place * self.batch_size + np.arange(self.batch_size)
        return shuffled(places, self.examples, (self.seed, self._stream, epoch))

    def rng(self, step: int) -> np.random.Generator:
        """Random numbers of a step."""
        return np.random.default_rng([self.seed, self._stream, 1 << 32, step])

    def __call__(self, step: int) -> Batch:
        """The batch of a step, from 0."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """All that the batches depend on besides the texts, as JSON can hold it."""
        kept = {"corpus", "queries", "steps_per_epoch"}
        return {
            name: value for name, value in vars(self).items()
            if not name.startswith("_") and name not in kept
        }  # fmt: skip

    def start(self, step: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches from a step on."""
        while stop is None or step < stop:
            yield self(step)
            step += 1


class InverseCloze(Batches):
    """Sentences as questions, and the blocks that they were taken out of as evidence.

    ORQA, section 5: a random sentence of a block is to find the rest of it among the other blocks
    of the batch. It stays in the block with probability `keep`, so that the model learns to match
    words too.

    Args:
        corpus: of blocks; those of a single sentence are left out.
        batch_size: blocks of a batch, all different.
        query_length: the most tokens of a sentence, with [CLS] and [SEP].
        block_length: the most tokens of a block, with its title and special tokens.
        keep: how often the sentence stays in its block.
        shortest: the fewest tokens of a sentence.
        drop: the largest share of a sentence's tokens that are left out, so that a small corpus
            is not learned by heart.
        seed: of everything random.

    Raises:
        ValueError: fewer blocks than a batch has, or a length that leaves no room.
    """

    def __init__(
        self,
        corpus: BlockCorpus,
        batch_size: int,
        *,
        query_length: int = 64,
        block_length: int = 288,
        keep: float = 0.1,
        shortest: int = 5,
        drop: float = 0.0,
        seed: int = 0,
    ):
        _check_lengths(query_length=query_length, block_length=block_length)
        for name, value in (("keep", keep), ("drop", drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: received {value}, expected a probability")
        # Sentences that are long enough to say something, block by block.
        lengths = corpus.sentences[:, 1] - corpus.sentences[:, 0]
        fitting = lengths >= shortest
        self._sentences = np.flatnonzero(fitting)
        before = np.concatenate([[0], np.cumsum(fitting)])
        self._starts = before[corpus.sentence_offsets]
        counts = np.diff(self._starts)
        self._rows = np.flatnonzero((counts > 0) & (np.diff(corpus.sentence_offsets) > 1))
        super().__init__(len(self._rows), batch_size, seed, _INVERSE_CLOZE)
        self.corpus, self.query_length, self.block_length = corpus, query_length, block_length
        self.keep, self.shortest, self.drop = keep, shortest, drop

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns:
            `input_ids`, `attention_mask` of the sentences, `(batch, sequence)`;
            `candidate_input_ids`, `candidate_attention_mask`, `candidate_token_type_ids` of the
            blocks, `(batch, sequence)`; `rows` of the blocks, `(batch,)`.
        """
        corpus, rng = self.corpus, self.rng(step)
        rows = self._rows[self.chosen(step)]
        first, last = self._starts[rows], self._starts[rows + 1]
        number = self._sentences[first + (rng.random(len(rows)) * (last - first)).astype(np.int64)]
        bounds = corpus.sentences[number].astype(np.int64)
        start, end = bounds[:, 0], bounds[:, 1]
        query = _tokens(corpus, rows, start, np.minimum(end, start + self.query_length - 2))
        kept = rng.random(len(rows)) < self.keep
        blocks = block_inputs(
            corpus, rows, self.block_length, (np.where(kept, end, start), end)
        )  # nothing is left out of a block that keeps its sentence
        if self.drop:
            query = _without_some(*query, self.drop, rng)
        return (
            wrapped(*query, corpus.special)
            | {f"candidate_{name}": value for name, value in blocks.items()}
            | {"rows": rows}
        )


class MaskedSpans(Batches):
    """Sentences with a salient span hidden, which retrieved blocks are to help fill in.

    REALM, section 3.4. Each sentence with a salient span is an example; which of its spans is
    hidden changes from epoch to epoch.

    Args:
        corpus: of the sentences.
        batch_size: sentences of a batch.
        query_length: the most tokens of a sentence, with [CLS] and [SEP]; of a longer one the
            part around the span is taken.
        longest_span: the most tokens of a hidden span.
        shortest: the fewest tokens of a sentence.
        seed: of everything random.

    Raises:
        ValueError: fewer sentences with spans than a batch has.
    """

    def __init__(
        self,
        corpus: BlockCorpus,
        batch_size: int,
        *,
        query_length: int = 64,
        longest_span: int = 10,
        shortest: int = 5,
        seed: int = 0,
    ):
        _check_lengths(query_length=query_length)
        sizes = corpus.spans[:, 2] - corpus.spans[:, 1]
        around = corpus.sentences[corpus.spans[:, 0]] if len(corpus.spans) else np.empty((0, 2))
        lengths = around[:, 1] - around[:, 0]
        # A sentence that is nothing but the span would be guessing.
        fits = (sizes <= min(longest_span, query_length - 2)) & (lengths >= shortest)
        self._spans = np.flatnonzero(fits & (sizes < lengths))
        order = np.argsort(corpus.spans[self._spans, 0], kind="stable")
        self._spans = self._spans[order]
        _, self._first, self._count = np.unique(
            corpus.spans[self._spans, 0], return_index=True, return_counts=True
        )
        super().__init__(len(self._first), batch_size, seed, _MASKED)
        self.corpus, self.query_length = corpus, query_length
        self.longest_span, self.shortest = longest_span, shortest

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns:
            `input_ids`, `attention_mask`, `(batch, sequence)`, with the span masked;
            `masked_positions`, `masked_ids`, where the hidden tokens are and what they were, and
            `masked_weights`, of each in the loss, 0 for padding, `(batch, masked)`; `rows` of the
            blocks that the sentences are from, `(batch,)`. Weighted sums, averaged over any equal
            parts of the batch, give the mean over all of its hidden tokens.
        """
        corpus, rng = self.corpus, self.rng(step)
        chosen = self.chosen(step)
        count = self._count[chosen]
        place = self._first[chosen] + (rng.random(len(chosen)) * count).astype(np.int64)
        sentence, low, high = corpus.spans[self._spans[place]].T
        bounds = corpus.sentences[sentence].astype(np.int64)
        rows = np.searchsorted(corpus.sentence_offsets, sentence, "right") - 1
        room = self.query_length - 2
        # As much before the span as after it, where the sentence does not fit.
        start = np.minimum(low - (room - (high - low)) // 2, bounds[:, 1] - room)
        start = np.maximum(np.minimum(start, low), bounds[:, 0])
        end = np.minimum(bounds[:, 1], start + room)
        inputs = wrapped(*_tokens(corpus, rows, start, end), corpus.special)
        sizes = high - low
        place = np.arange(int(sizes.max()))
        there = place < sizes[:, None]
        positions = np.where(there, (low - start + 1)[:, None] + place, 0)
        ids = inputs["input_ids"]
        hidden = np.take_along_axis(ids, positions, 1)
        masked = ids.copy()
        batch, masked_place = np.nonzero(there)
        masked[batch, positions[batch, masked_place]] = corpus.special.mask
        return {
            "input_ids": masked,
            "attention_mask": inputs["attention_mask"],
            "masked_positions": positions.astype(np.int32),
            "masked_ids": np.where(there, hidden, 0).astype(np.int32),
            "masked_weights": (there * (len(rows) / sizes.sum())).astype(np.float32),
            "rows": rows,
        }


class Questions(Batches):
    """Questions with their answers, as token ids.

    Args:
        questions: `(text, answers)`, or `zoo.training.questions.Question`.
        tokenizer: of the model.
        batch_size: questions of a batch.
        query_length: the most tokens of a question, with [CLS] and [SEP].
        answer_length: the most tokens of an answer; longer ones cannot be found and are left out.
        seed: of the order.

    Raises:
        ValueError: fewer questions than a batch has, or one without an answer that fits.
    """

    def __init__(
        self,
        questions: Sequence[Any],
        tokenizer: Any,
        batch_size: int,
        *,
        query_length: int = 64,
        answer_length: int = 10,
        seed: int = 0,
    ):
        _check_lengths(query_length=query_length)
        pairs = [
            (question.text, question.answers) if hasattr(question, "answers") else question
            for question in questions
        ]
        plain = {"add_special_tokens": False, "return_attention_mask": False,
                 "return_token_type_ids": False, "verbose": False}  # fmt: skip
        flat = [answer for _, answers in pairs for answer in answers]
        pieces = iter(tokenizer(flat, **plain)["input_ids"] if flat else [])
        answers, kept = [], []
        for number, (_, texts) in enumerate(pairs):
            different = dict.fromkeys(tuple(next(pieces)) for _ in texts)
            fitting = [answer for answer in different if 0 < len(answer) <= answer_length]
            if fitting:
                kept.append(number)
                answers.append(fitting)
        super().__init__(len(kept), batch_size, seed, _QUESTIONS)
        self.left_out = len(pairs) - len(kept)
        self.query_length, self.answer_length = query_length, answer_length
        self._numbers = np.array(kept, np.int64)
        room = query_length - 2
        ids = [x[:room] for x in tokenizer([pairs[i][0] for i in kept], **plain)["input_ids"]]
        self._counts = np.array([len(x) for x in ids])
        self._ids = np.zeros((len(kept), room), np.int32)
        for row, values in zip(self._ids, ids, strict=True):
            row[: len(values)] = values
        width = max(map(len, answers)), max(len(a) for found in answers for a in found)
        self._answers = np.full((len(kept), *width), -1, np.int32)
        for table, found in zip(self._answers, answers, strict=True):
            for row, values in zip(table, found, strict=False):
                row[: len(values)] = values
        self._special = Special.of(tokenizer)

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns:
            `input_ids`, `attention_mask`, `(batch, sequence)`; `answer_ids`, `(batch, answers,
            tokens)`, with -1 where there is none; `questions`, their numbers, `(batch,)`.
        """
        return self.inputs(self.chosen(step))

    def inputs(self, chosen: np.ndarray) -> Batch:
        """The questions at some places among those that are used; see `__call__`."""
        count = self._counts[chosen]
        longest = int(count.max(initial=1))
        inputs = wrapped(self._ids[chosen, :longest], count, self._special)
        answers = self._answers[chosen]
        answers = answers[:, (answers >= 0).any((0, 2))][:, :, (answers >= 0).any((0, 1))]
        return inputs | {"answer_ids": answers, "questions": self._numbers[chosen]}


def _check_lengths(**lengths: int) -> None:
    for name, value in lengths.items():
        if value < 8:
            raise ValueError(f"{name}: received {value}, expected at least 8 tokens")


def _tokens(
    corpus: BlockCorpus, rows: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of blocks from `start` to before `end`, and how many of them."""
    counts = end - start
    longest = int(counts.max(initial=1))
    places = (corpus.offsets[rows] + start)[:, None] + np.arange(longest)
    return corpus.tokens[np.minimum(places, len(corpus.tokens) - 1)], counts


def _without_some(
    ids: np.ndarray, counts: np.ndarray, most: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Texts without some of their tokens, of each another share up to `most`, but with one."""
    scores = rng.random(ids.shape)
    scores[np.arange(ids.shape[1]) >= counts[:, None]] = 2.0
    left = np.maximum(counts - (rng.random(len(ids)) * most * counts).astype(np.int64), 1)
    ranks = scores.argsort(1).argsort(1)
    stays = ranks < left[:, None]
    order = np.argsort(~stays, axis=1, kind="stable")  # those that stay, as they stood
    return np.take_along_axis(ids, order, 1), left


def wrapped(ids: np.ndarray, counts: np.ndarray, special: Special) -> Batch:
    """[CLS] tokens [SEP], with padding.

    Args:
        ids: `(batch, tokens)`, with anything behind the first `counts` of a row.
        counts: `(batch,)`.
        special: ids of the special tokens.

    Returns:
        `input_ids` and `attention_mask`, `(batch, tokens + 2)`.
    """
    place = np.arange(ids.shape[1] + 2)
    shifted = np.pad(ids, ((0, 0), (1, 1)))
    end = counts[:, None] + 1
    input_ids = np.select(
        [place == 0, place == end, place < end],
        [special.cls, special.sep, shifted],
        special.pad,
    )
    return {
        "input_ids": input_ids.astype(np.int32),
        "attention_mask": (place <= end).astype(np.int32),
    }


def joined(
    corpus: BlockCorpus, input_ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray, room: int
) -> Batch:
    """Each query with each of its blocks: [CLS] query [SEP] block [SEP].

    REALM, section 3.2: the query comes first, so its tokens stand at the same places in every
    candidate's input.

    Args:
        corpus: of the blocks.
        input_ids: of the queries with their special tokens, `(batch, sequence)`.
        lengths: tokens of each query, `(batch,)`.
        rows: `(batch, candidates)`; -1 is the empty block.
        room: the most tokens of a block.

    Returns:
        `input_ids`, `attention_mask`, `token_type_ids`, `(batch, candidates, tokens)`, and
        `block_mask`, 1 at the block's own tokens, as long as the longest of them.
    """
    special = corpus.special
    bodies, counts = corpus.gather(rows, room)
    query = lengths[:, None]
    total = query + counts + 1
    longest = int(total.max(initial=1))
    place = np.arange(longest)
    inside = place - query[..., None]  # (batch, 1, tokens): number of the token in the block
    is_body = (inside >= 0) & (inside < counts[..., None])
    source = np.broadcast_to(np.clip(inside, 0, room - 1), is_body.shape)
    body = np.take_along_axis(bodies, source, -1)
    head = np.full((len(input_ids), 1, longest), special.pad, np.int32)
    width = min(longest, input_ids.shape[1])
    head[:, 0, :width] = input_ids[:, :width]
    ids = np.select(
        [inside < 0, is_body, inside == counts[..., None]], [head, body, special.sep], special.pad
    )
    mask = place < total[..., None]
    return {
        "input_ids": ids.astype(np.int32),
        "attention_mask": mask.astype(np.int32),
        "token_type_ids": (mask & (inside >= 0)).astype(np.int32),
        "block_mask": is_body.astype(np.int32),
    }


class Candidates:
    """The blocks that an index finds for masked sentences, and what the models take of them.

    REALM, sections 3.2 to 3.4: the empty block is always among the candidates, and the block that
    a sentence is from never is, nor is any that shares a run of tokens with it, such as one cut
    from the same text with an overlap.

    Args:
        corpus: of the blocks.
        index: anything with `search(vectors, k) -> ids, scores` whose ids are rows of `corpus`;
            may be replaced between two steps.
        count: candidates of each sentence, the empty block included.
        query_length, block_length: as the sentences' and for an embedder of blocks.
        joint_length: the most tokens of a sentence and a block together; `query_length` and
            `block_length` together by default.
        overlap: length of a run of tokens that two blocks must not share.
        same_corpus: whether the sentences are from `corpus`.

    Raises:
        ValueError: no room for a candidate.
    """

    def __init__(
        self,
        corpus: BlockCorpus,
        index: Any = None,
        *,
        count: int = 8,
        query_length: int = 64,
        block_length: int = 288,
        joint_length: int | None = None,
        overlap: int = 10,
        same_corpus: bool = True,
    ):
        if count < 2:
            raise ValueError(f"count: received {count}, expected a block beside the empty one")
        self.corpus, self.index, self.count = corpus, index, count
        self.block_length = block_length
        self.joint_length = joint_length or query_length + block_length
        self.room = self.joint_length - query_length - 1
        if self.room < 1:
            raise ValueError(
                f"joint_length: {self.joint_length} leaves no room beside {query_length} tokens "
                "of a sentence"
            )
        self.overlap, self.same_corpus = overlap, same_corpus

    def settings(self) -> dict[str, Any]:
        """All that the candidates depend on besides texts and index, as JSON can hold it."""
        names = ("count", "block_length", "joint_length", "overlap", "same_corpus")
        return {name: getattr(self, name) for name in names}

    def find(self, vectors: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """The rows of the candidates.

        Args:
            vectors: of the sentences, `(batch, dimension)`.
            sources: the rows that they are from, `(batch,)`.

        Returns:
            `(batch, count)`: the best blocks, best first, -2 where there is none, and at the end
            the empty block, -1.
        """
        wanted = self.count - 1
        found = np.full((len(vectors), self.count), NULL - 1, np.int64)
        found[:, -1] = NULL
        open_ = np.arange(len(vectors))
        asked = min(wanted + (4 if self.same_corpus else 0), len(self.corpus))
        while len(open_):
            rows, _ = self.index.search(np.ascontiguousarray(vectors[open_]), asked)
            fine = rows >= 0
            if self.same_corpus:
                fine &= ~self._leaks(sources[open_], rows)
            # The first that are allowed, in their order.
            order = np.argsort(~fine, axis=1, kind="stable")[:, :wanted]
            best = np.take_along_axis(rows, order, 1)
            best[~np.take_along_axis(fine, order, 1)] = NULL - 1
            found[open_, : best.shape[1]] = best
            if asked == len(self.corpus):
                break
            open_ = open_[fine.sum(1) < wanted]
            asked = min(asked * 4, len(self.corpus))
        return found

    def _leaks(self, sources: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether blocks hold text of the blocks that sentences are from, `(batch, k)`."""
        corpus, run = self.corpus, self.overlap
        same = rows == sources[:, None]
        longest = int((corpus.offsets[sources + 1] - corpus.offsets[sources]).max())
        own, own_counts = corpus.gather(sources, longest)
        there = np.where(rows >= 0, rows, 0)
        longest = int((corpus.offsets[there + 1] - corpus.offsets[there]).max())
        other, other_counts = corpus.gather(np.where(rows >= 0, rows, NULL), longest)
        if min(own.shape[-1], other.shape[-1]) < run:
            return same
        # Hashes of all runs; each with the number of its sentence, so that one search does all.
        batch = np.arange(len(rows), dtype=np.uint64)
        mine, theirs = _runs(own, run) + batch[:, None], _runs(other, run) + batch[:, None, None]
        valid = np.arange(mine.shape[-1]) <= own_counts[:, None] - run
        known = np.unique(mine[valid])
        if not len(known):
            return same
        places = np.minimum(np.searchsorted(known, theirs), len(known) - 1)
        shared = known[places] == theirs
        shared &= np.arange(theirs.shape[-1]) <= other_counts[..., None] - run
        return same | shared.any(-1)

    def inputs(self, input_ids: np.ndarray, attention_mask: np.ndarray, rows: np.ndarray) -> Batch:
        """What the models take of the candidates.

        Args:
            input_ids, attention_mask: of the sentences, `(batch, sequence)`.
            rows: `(batch, count)`, from `find`.

        Returns:
            `candidate_input_ids`, `candidate_attention_mask`, `candidate_token_type_ids` for the
            embedder, `(batch * (count - 1) + 1, sequence)`, the last of which is the empty block;
            `joint_input_ids`, `joint_attention_mask`, `joint_token_type_ids`, `(batch, count,
            tokens)`; `penalty`, to be added to the relevance, `(batch, count)`.
        """
        blocks = self.corpus.block_inputs(
            np.append(np.maximum(rows[:, :-1], NULL).reshape(-1), NULL), self.block_length
        )
        lengths = attention_mask.sum(1)
        joint = joined(self.corpus, input_ids, lengths, np.maximum(rows, NULL), self.room)
        del joint["block_mask"]
        return (
            {f"candidate_{name}": value for name, value in blocks.items()}
            | {f"joint_{name}": value for name, value in joint.items()}
            | {"penalty": np.where(rows < NULL, _NEVER, np.float32(0))}
        )

    def __call__(
        self,
        vectors: np.ndarray,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        sources: np.ndarray,
    ) -> Batch:
        """`find` and `inputs` in one."""
        rows = self.find(vectors, sources)
        return self.inputs(input_ids, attention_mask, rows) | {"candidates": rows}


def _runs(tokens: np.ndarray, length: int) -> np.ndarray:
    """A hash of each run of tokens, `(..., tokens - length + 1)`."""
    count = tokens.shape[-1] - length + 1
    found = np.zeros((*tokens.shape[:-1], count), np.uint64)
    for shift in range(length):
        found = found * _GOLDEN + tokens[..., shift : shift + count].astype(np.uint64) + _MIX
    return (found ^ found >> np.uint64(31)) * _MIX


def check_positions(config: Any, **lengths: int) -> None:
    """Refuses lengths that a model has no positions for, before the first long batch does.

    Args:
        config: of the model.
        lengths: by the names of the arguments.

    Raises:
        ValueError: names the argument.
    """
    for name, length in lengths.items():
        if length > config.max_position_embeddings:
            raise ValueError(
                f"{name}: {length} is more than config.max_position_embeddings "
                f"({config.max_position_embeddings})"
            )


def share(batch: Mapping[str, np.ndarray], rank: int, world: int) -> Batch:
    """The part of a batch that one of several processes does.

    Args:
        batch: arrays with as many rows.
        rank, world: number of the process, and how many there are.

    Raises:
        ValueError: the processes would have different numbers of rows.
    """
    rows = len(next(iter(batch.values())))
    if rows % world:
        raise ValueError(f"batch_size: {rows} cannot be divided among {world} processes")
    part = slice(rank * rows // world, (rank + 1) * rows // world)
    return {name: value[part] for name, value in batch.items()}

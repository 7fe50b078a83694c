"""Greedy search, sampling and beam search over any decoder or encoder-decoder of the zoo.

The cache is a tree. Beams are not rows of a batch but query positions of their row: one step
decodes `(batch, beams)` tokens, whose keys and values are written into the next slots of a buffer
of fixed size. When beams are re-ordered nothing in it moves; a small table, `origins`, says which
slots hold a beam's text, and the attention mask follows from it. So the keys and values of a
prompt, and of an encoder's states, are there once for all beams of a row:

    slot    0 1 2   3 4   5 6         beams of step 2:  first   0 1 2 4 5
    holds   prompt  step1 step2                         second  0 1 2 4 6

Differs: PyTorch loops in Python over tensors that grow. Here the loop is one `tf.while_loop`, whose
tensors have one size from the start: what is not filled holds -1, or is masked. It is a part of
whatever graph `generate` is called in, and has a graph of its own where it is called eagerly.

Sources: Sutskever et al. 2014, section 3.2 (beam search); Wu et al. 2016, section 7 (length
penalty); Vijayakumar et al. 2018 (diverse beams).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import generation
from zoo.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerationConfig,
    Generator,
)

from .attention import Buffer
from .layers import VocabularyProjection
from .logits import (
    NEVER,
    TFLogitNormalization,
    TFLogitsProcessor,
    TFLogitsProcessorList,
    hamming_diversity,
    processors,
    warpers,
)

logger = logging.getLogger("zoo")

# The score that the second and later beams start from: they are copies of the first.
COPY = -1e9
# How many graphs a model keeps, one for each set of options.
GRAPHS = 16
PART = 512  # of a row, see `_top`


class Prompt(NamedTuple):
    """Tokens to continue, moved to the right end of their rows.

    Args:
        given: `(batch, length)`, as they came.
        ids: `(batch, length)`, padding first.
        mask: `(batch, length)` bool, None without padding.
        places: `(batch, length)`; where each of the given tokens went. None if all stayed.
        token_type_ids: `(batch, length)` or None.
    """

    given: Any
    ids: Any
    mask: Any | None
    places: Any | None
    token_type_ids: Any | None

    @classmethod
    def of(cls, given: Any, mask: Any | None, token_type_ids: Any | None) -> Prompt:
        # Differs: PyTorch looks whether the mask hides anything; a graph does not know.
        if mask is None:
            return cls(given, given, None, None, token_type_ids)
        order = tf.argsort(tf.cast(mask, tf.int32), axis=1, stable=True)
        types = None if token_type_ids is None else tf.gather(token_type_ids, order, batch_dims=1)
        ids, mask = (tf.gather(x, order, batch_dims=1) for x in (given, mask))
        return cls(given, ids, mask, tf.argsort(order, axis=1), types)

    @property
    def seen(self) -> Any:
        """`(batch, length)`: the tokens for `logits.py`, -1 where padded."""
        return self.ids if self.mask is None else tf.where(self.mask, self.ids, -1)


def positions(mask: Any) -> Any:
    """Positions that count a row's tokens and not its padding, `(batch, length)`."""
    return tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=1) - 1, 0)


class StepOutput(NamedTuple):
    """What a step function returns.

    `logits` `(batch, beams, vocab)`; the rest in the published shapes, None if not asked for.
    """

    logits: Any
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None


class TreeDecoder:
    """The step function of a model: what is called for the next tokens' scores.

    Args:
        model: has `_decode`.
        prompt: the tokens to start from.
        beams: continuations per row.
        steps: the most tokens that will be made; a number or a scalar.
        encoded: inputs of `_decode` that are the same in every step.
        flags: output_attentions and output_hidden_states.
    """

    def __init__(
        self,
        model: TFGenerationMixin,
        prompt: Prompt,
        beams: int,
        steps: Any,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> None:
        self.model, self.prompt, self.beams, self.flags = model, prompt, beams, flags
        self.encoded = dict(encoded)
        self.length = _size(prompt.ids, 1)
        # The last token is not read again.
        self.room = max(steps - 1, 1) if isinstance(steps, int) else tf.maximum(steps - 1, 1)
        self.capacity = self.length + self.room * beams
        later = tf.repeat(self.length + tf.range(self.room), beams)
        # (capacity,): the prompt's slots follow one another, a step's slots are of one time.
        self.times = tf.concat([tf.range(self.length), later], 0)
        # (batch or 1, 1): the position of the first new token.
        if prompt.mask is None:
            self.count = tf.reshape(self.length, (1, 1))
            self.visible = tf.ones((1, 1, self.length), tf.int32)
        else:
            mask = tf.cast(prompt.mask, tf.int32)
            self.count = tf.reduce_sum(mask, axis=1, keepdims=True)
            self.visible = mask[:, None]
        self.limit = model._max_positions()
        self.types = None
        if prompt.token_type_ids is not None:
            self.types = prompt.token_type_ids[:, -1:]

    def start(self) -> tuple[StepOutput, Any]:
        """Reads the prompt.

        Returns:
            `logits` `(batch, 1, vocab)`, what follows it, the same for all beams; and the cache
            that `step` takes: per layer the memories of its keys and of its values.
        """
        prompt = self.prompt
        self._assert_room(0)
        types = {} if self.types is None else {"token_type_ids": prompt.token_type_ids}
        output = self.model._decode(
            prompt.ids,
            None if prompt.mask is None else tf.cast(prompt.mask, tf.int32),
            tf.range(self.length)[None] if prompt.mask is None else positions(prompt.mask),
            None,
            self.encoded,
            **types,
            **self.flags,
        )
        if not output.past_key_values:
            raise ValueError(
                f"generate: {type(self.model).__name__} gave no past_key_values; "
                "expected a decoder (config.is_decoder=True) that does not recompute its gradients"
            )
        # An encoder's keys and values do not change: the loop takes them from outside.
        self.crosses = [tuple(cache[2:]) for cache in output.past_key_values]
        cache = tuple(
            tuple(Buffer.room(states, self.capacity) for states in cache[:2])
            for cache in output.past_key_values
        )
        return StepOutput(output.logits[:, -1:], *self._recorded_start(output)), cache

    def _assert_room(self, made: Any) -> None:
        """Differs: an assertion in the graph, and none where XLA compiles."""
        if self.limit is None:
            return
        longest = tf.reduce_max(self.count) + made
        words = _no_room(self.limit + 1, self.limit)
        tf.debugging.Assert(longest <= self.limit, [words])

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
        beams = self.beams
        own = tf.range(beams)[:, None]
        times = tf.range(self.room)
        # (batch or 1, beams, room): where in its step a beam's text has its token, -1 if nowhere.
        if origins is None:
            path = tf.where(times <= made, own, -1)[None]
        else:
            # One more: there is room for a step even where only one token is made.
            origins = tf.pad(origins, [[0, 0], [0, 0], [0, 1]])
            path = tf.where(times == made, own, origins[:, :, 1 : 1 + self.room])
        allowed = tf.one_hot(path, beams, dtype=tf.int32)
        rows = tf.maximum(_size(path, 0), _size(self.visible, 0))
        allowed = tf.reshape(allowed, (_size(path, 0), beams, self.room * beams))
        mask = tf.concat(
            [
                tf.broadcast_to(self.visible, (rows, beams, self.length)),
                tf.broadcast_to(allowed, (rows, beams, self.room * beams)),
            ],
            axis=2,
        )
        filled = self.length + made * beams
        past = tuple(
            (*(Buffer(memory, filled, self.times) for memory in memories), *cross)
            for memories, cross in zip(cache, self.crosses, strict=True)
        )
        shape = (_size(self.count, 0), beams)
        types = {}
        if self.types is not None:
            shape_of_types = (_size(self.types, 0), beams)
            types = {"token_type_ids": tf.broadcast_to(self.types, shape_of_types)}
        output = self.model._decode(
            tokens,
            mask,
            tf.broadcast_to(self.count + made, shape),
            past,
            self.encoded,
            **types,
            **self.flags,
        )
        cache = tuple(tuple(memories[:2]) for memories in output.past_key_values)
        return StepOutput(output.logits, *self._recorded(output, path)), cache

    def past_key_values(self, cache: Any, made: Any) -> Any:
        """The cache as a call of the model takes it, where there is one beam and no padding."""
        if self.beams > 1 or self.prompt.mask is not None:
            return None
        return tuple(
            (*(memory[:, :, : self.length + made] for memory in memories), *cross)
            for memories, cross in zip(cache, self.crosses, strict=True)
        )

    # What was asked for besides the logits, as if every beam were a row of the batch.

    def _recorded_start(self, output: Any) -> tuple[Any, Any, Any]:
        def of_all_beams(x: Any, *axes: int) -> Any:
            for axis in axes if self.prompt.places is not None else ():
                # Differs: tf.gather wants the batch and the places side by side.
                order = [0, axis, *(i for i in range(1, len(x.shape)) if i != axis)]
                moved = tf.gather(tf.transpose(x, order), self.prompt.places, batch_dims=1)
                x = tf.transpose(moved, np.argsort(order))
            return tf.repeat(x, self.beams, axis=0)

        return _each(
            output,
            lambda x: of_all_beams(x, 2, 3),
            lambda x: of_all_beams(x, 2),
            lambda x: of_all_beams(x, 1),
        )

    def _recorded(self, output: Any, path: Any) -> tuple[Any, Any, Any]:
        def attention(x: Any) -> Any:  # (batch, heads, beams, slots)
            batch, steps = _size(x, 0), tf.range(self.room) * self.beams
            places = self.prompt.places
            places = tf.range(self.length)[None] if places is None else places
            index = tf.concat(
                [
                    tf.broadcast_to(places[:, None], (batch, self.beams, self.length)),
                    tf.broadcast_to(
                        self.length + steps + tf.maximum(path, 0), (batch, self.beams, self.room)
                    ),
                ],
                axis=2,
            )
            found = tf.gather(tf.transpose(x, (0, 2, 3, 1)), index, batch_dims=2)
            return cross(tf.transpose(found, (0, 3, 1, 2)))

        def cross(x: Any) -> Any:  # -> (batch * beams, heads, 1, keys)
            heads, keys = _size(x, 1), _size(x, 3)
            return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, heads, 1, keys))

        return _each(output, attention, cross, lambda x: tf.reshape(x, (-1, 1, x.shape[-1])))


def _no_room(length: int, limit: int) -> str:
    return (
        f"generate: the text has {length} tokens, but config.max_position_embeddings is {limit}; "
        "set max_length or max_new_tokens"
    )


def _size(x: Any, axis: int) -> Any:
    """A size as a number where it is known, else as a scalar."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def _each(output: Any, *changes: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    found = (output.attentions, output.cross_attentions, output.hidden_states)
    return tuple(
        None if layers is None else tuple(map(change, layers))
        for layers, change in zip(found, changes, strict=True)
    )


class Run:
    """One call of `generate`: what both kinds of search need, and what is recorded.

    Args:
        config: complete.
        prompt: what the text starts with.
        beams: continuations per row.
        steps: the most tokens to make.
        processors: change the scores.
        warpers: shape the distribution to sample from.
        ticket: under which the caller's Python objects are kept, a scalar.
        criteria, streams: whether there are stopping criteria, and a streamer.
        seed: `(2,)`, of random numbers.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: Prompt,
        beams: int,
        steps: Any,
        processors: TFLogitsProcessorList,
        warpers: TFLogitsProcessorList,
        ticket: Any | None = None,
        criteria: bool = False,
        streams: bool = False,
        seed: Any | None = None,
    ) -> None:
        self.config, self.prompt, self.beams, self.steps = config, prompt, beams, steps
        self.processors, self.warpers = processors, warpers
        self.ticket, self.criteria, self.streams, self.seed = ticket, criteria, streams, seed
        self.batch, self.length = _size(prompt.given, 0), _size(prompt.given, 1)
        self.eos = config.eos_token_ids
        self.pad = config.pad_token_id or 0
        self.places = tf.range(steps)
        self.end = None if config.max_time is None else tf.timestamp() + config.max_time
        wanted = config.return_dict_in_generate
        self.records_scores = bool(wanted and config.output_scores)
        self.records_logits = bool(wanted and config.output_logits)

    def first_records(self, vocab: int) -> dict[str, Any]:
        """Arrays for what is to be returned of every step, none written yet."""
        rows = None if isinstance(self.batch, tf.Tensor) else self.batch * self.beams
        records: dict[str, Any] = {}
        for name in ("scores", "logits"):
            if getattr(self, f"records_{name}"):
                records[name] = tf.TensorArray(
                    tf.float32, self.steps, element_shape=(rows, vocab), clear_after_read=False
                )
        return records

    def record(self, records: dict[str, Any], name: str, step: Any, value: Any) -> dict[str, Any]:
        """The records with `(rows, vocab)` of a step, if it is to be returned."""
        return {**records, name: records[name].write(step, value)} if name in records else records

    def all_beams(self, output: StepOutput) -> Any:
        """The step's logits `(batch, beams, vocab)`."""
        logits = tf.cast(output.logits, tf.float32)
        if logits.shape[1] == self.beams:
            return logits
        return tf.broadcast_to(logits, (self.batch, self.beams, logits.shape[2]))

    def is_end(self, tokens: Any) -> Any:
        """Which tokens end a text."""
        found = tf.zeros_like(tokens, tf.bool)
        for token in self.eos:
            found = (tokens == token) | found
        return found

    def draw(self, scores: Any, count: int, step: Any, stream: int = 0) -> Any:
        """Samples `count` tokens a row, `(rows, tokens)`, without replacement.

        The highest sums of scores and Gumbel noise are such a sample (Kool et al. 2019).
        """
        # One algorithm, and integers, so that the numbers are the same in XLA.
        seed = tf.random.experimental.stateless_fold_in(self.seed, step, alg="philox")
        seed = tf.random.experimental.stateless_fold_in(seed, stream, alg="philox")
        bits = tf.random.stateless_uniform(
            tf.shape(scores), seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        bits = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.int32)
        uniform = (tf.cast(bits, tf.float32) + 0.5) * 2.0**-23  # neither 0 nor 1
        noisy = scores - tf.math.log(-tf.math.log(uniform))
        if count == 1:
            return tf.argmax(noisy, axis=-1, output_type=tf.int32)[:, None]
        return tf.math.top_k(noisy, count).indices

    def stream(self, tokens: Any) -> None:
        """Hands tokens `(rows,)` to the streamer."""
        if self.streams:
            _in_python(_put, self.ticket, tokens, [])

    def stops(self, texts: Any, step: Any, records: dict[str, Any]) -> Any:
        """Whether to stop: for all rows, or `(rows,)`.

        Args:
            texts: `(rows, steps)`, the new tokens.
        """
        stop: Any = tf.constant(False)
        if self.end is not None:
            stop = tf.timestamp() >= self.end
        if not self.criteria:
            return stop
        scores = records["scores"].stack()[: step + 1] if self.records_scores else ()

        def ask(call: Any, ids: Any, *scores: Any) -> Any:
            said = call.criteria(ids, tuple(scores[0]) if scores else None)
            return np.broadcast_to(np.asarray(said, bool), len(ids))

        ids = self.so_far(texts)[:, : self.length + step + 1]
        inputs = (ids, scores) if self.records_scores else (ids,)
        said = _in_python(ask, self.ticket, *inputs, tf.bool)
        return tf.ensure_shape(said, (None,)) | stop

    def so_far(self, texts: Any, groups: int = 1) -> Any:
        """The prompt as it was given and new tokens, `(rows, length + steps)`, padded."""
        texts = tf.where(texts < 0, self.pad, texts)
        return tf.concat([self._of_each(self.prompt.given, groups), texts], axis=1)

    def _of_each(self, prompt: Any, groups: int) -> Any:
        return tf.repeat(prompt, self.beams // groups, axis=0)

    def processed(self, texts: Any, scores: Any, step: Any, groups: int = 1) -> Any:
        """Applies processors and warpers to `(rows, vocab)`.

        Args:
            texts: `(rows, steps)`, the new tokens; -1 where there is none yet.
            groups: of the beams; the rows are those of one.
        """
        own = given = None
        for hook in [*self.processors, *self.warpers]:
            # The caller's processors see what was given, our own know padding from tokens.
            if type(hook).__module__ == processors.__module__:
                if own is None:
                    own = tf.concat([self._of_each(self.prompt.seen, groups), texts], axis=1)
                scores = hook(own, scores, self.length + step)
            else:
                given = self.so_far(texts, groups) if given is None else given
                scores = tf.ensure_shape(hook(given, scores, self.length + step), scores.shape)
        return scores


def _put(call: _Call, tokens: Any) -> None:
    call.streamer.put(tokens.numpy())


class _Call(NamedTuple):
    """The Python objects of a call, which its graph asks for by a ticket."""

    processors: list[Any]
    criteria: Any
    streamer: Any


_CALLS: dict[int, _Call] = {}
_TICKETS = itertools.count()


def _in_python(function: Callable[..., Any], ticket: Any, *inputs: Any) -> Any:
    """Calls a Python function outside the graph; the last of the inputs is the result's dtype."""
    *inputs, dtype = inputs
    return tf.py_function(
        lambda ticket, *tensors: function(_CALLS[int(ticket)], *tensors), [ticket, *inputs], dtype
    )


class _PythonProcessor:
    """A caller's processor that is no part of the graph.

    Args:
        number: which of the call's it is.
        ticket: of the call.
        arguments: how many of (input_ids, scores, cur_len) it takes.
    """

    def __init__(self, number: int, ticket: Any, arguments: int) -> None:
        self.number, self.ticket, self.arguments = number, ticket, arguments

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        def process(call: _Call, *inputs: Any) -> Any:
            return call.processors[self.number](*inputs[: self.arguments])

        ids = input_ids[:, :cur_len]
        return _in_python(process, self.ticket, ids, scores, cur_len, tf.float32)


def search(decoder: Any, run: Run) -> dict[str, Any]:
    """Greedy search, or sampling of every beam for itself.

    Args:
        decoder: has `start` and `step` as `TreeDecoder` has them.
    Returns:
        `texts` `(batch * beams, steps)`, padded, of which `made` steps hold something; what was
        recorded of each step; and the cache.
    """
    beams = run.beams
    rows = run.batch * beams

    def choose(
        output: StepOutput, step: Any, texts: Any, unfinished: Any, records: dict[str, Any]
    ) -> tuple[Any, ...]:
        logits = run.all_beams(output)
        scores = tf.reshape(logits, (rows, logits.shape[2]))
        records = run.record(records, "logits", step, scores)
        scores = run.processed(texts, scores, step)
        records = run.record(records, "scores", step, scores)
        if run.config.do_sample:
            tokens = run.draw(scores, 1, step)[:, 0]
        else:
            tokens = tf.argmax(scores, axis=-1, output_type=tf.int32)
        tokens = tf.where(unfinished, tokens, run.pad)
        texts = tf.where(run.places == step, tokens[:, None], texts)
        run.stream(tokens)
        unfinished = unfinished & ~(run.is_end(tokens) | run.stops(texts, step, records))
        return tokens, texts, unfinished, records

    output, cache = decoder.start()
    records = run.first_records(output.logits.shape[2])
    chosen = choose(output, 0, tf.fill((rows, run.steps), -1), tf.fill((rows,), True), records)

    def go_on(step: Any, chosen: Any, cache: Any, steps: Any) -> Any:
        tokens, texts, unfinished, records = chosen
        output, cache = decoder.step(tf.reshape(tokens, (-1, beams)), None, step - 1, cache)
        steps = _written(steps, output, step - 1)
        return step + 1, choose(output, step, texts, unfinished, records), cache, steps

    made, chosen, cache, steps = _loop(
        lambda step, chosen, *_: (step < run.steps) & tf.reduce_any(chosen[2]),
        go_on,
        (tf.constant(1), chosen, cache, _arrays_for(output, decoder)),
    )
    _, texts, _, records = chosen
    texts = tf.where(texts < 0, run.pad, texts)
    return {"texts": texts, "made": made, **_recorded(output, steps, records), "cache": cache}


def _loop(condition: Callable[..., Any], body: Callable[..., Any], state: Any) -> Any:
    """A `tf.while_loop` over any nest, whose tensors keep the shapes they begin with."""

    def same_shapes(*before: Any) -> Any:
        after = body(*before)

        def keep(old: Any, new: Any) -> Any:
            return new if isinstance(new, tf.TensorArray) else tf.ensure_shape(new, old.shape)

        return tf.nest.map_structure(keep, tuple(before), tuple(after))

    return tf.while_loop(condition, same_shapes, state)


_RECORDED = ("attentions", "cross_attentions", "hidden_states")


def _arrays_for(output: StepOutput, decoder: Any) -> dict[str, Any]:
    """Arrays for what a step function gives besides logits, one per layer.

    Args:
        output: of the first step, whose shapes tell those of the others.
    """
    keys = decoder.length + decoder.room

    def array(name: str, first: Any) -> Any:
        shape = [_size(first, axis) for axis in range(len(first.shape))]
        if name == "hidden_states":
            shape[1] = 1
        else:
            shape[2:] = [1, keys if name == "attentions" else shape[3]]
        # Something is written in any case, as nobody knows the shape of what is never written.
        empty = tf.TensorArray(tf.float32, decoder.room, infer_shape=False, clear_after_read=False)
        return empty.write(0, tf.zeros(shape))

    return {
        name: tuple(array(name, first) for first in getattr(output, name))
        for name in _RECORDED
        if getattr(output, name) is not None
    }


def _written(arrays: dict[str, Any], output: StepOutput, step: Any) -> dict[str, Any]:
    return {
        name: tuple(
            array.write(step, tf.cast(layer, tf.float32))
            for array, layer in zip(layers, getattr(output, name), strict=True)
        )
        for name, layers in arrays.items()
    }


def _recorded(output: StepOutput, steps: dict[str, Any], records: dict[str, Any]) -> dict[str, Any]:
    """What was recorded, as tensors: of all steps, or of the first and of the others."""
    found = {name: array.stack() for name, array in records.items()}
    for name, layers in steps.items():
        found[f"first_{name}"] = getattr(output, name)
        found[f"later_{name}"] = tuple(array.stack() for array in layers)
    return found


class Finished(NamedTuple):
    """The best finished texts of each row and group of beams, none to `size`.

    Args:
        scores: `(batch, groups, size)`, minus infinity where there is none.
        lengths: `(batch, groups, size)`; new tokens without the end token, -1 where there is none.
        tokens: `(batch, groups, size, steps)`, new tokens.
        origins: `(batch, groups, size, steps)`; the beam whose scores each token came from.
    """

    scores: Any
    lengths: Any
    tokens: Any
    origins: Any

    def merged(self, other: Finished) -> Finished:
        """The best of both."""
        size = self.scores.shape[2]
        scores, order = tf.math.top_k(tf.concat([self.scores, other.scores], 2), size)
        rest = (tf.concat([x, y], 2) for x, y in zip(self[1:], other[1:], strict=True))
        return Finished(scores, *(tf.gather(x, order, batch_dims=2) for x in rest))


def beam_search(decoder: Any, run: Run) -> dict[str, Any]:
    """Beam search, beam sampling and diverse beams.

    Args:
        decoder: has `start` and `step` as `TreeDecoder` has them.
    Returns:
        As `search`, with `texts` `(batch * returned, steps)`; `scores_of_texts`
        `(batch * returned,)` and `origins` `(batch * returned, steps)`, of which `width` hold
        something.
    """
    config, beams, steps = run.config, run.beams, run.steps
    groups = config.num_beam_groups
    size = beams // groups
    batch = run.batch

    def choose(output: StepOutput, step: Any, state: _Beams) -> _Beams:
        logits = run.all_beams(output)
        vocab = logits.shape[2]
        rows = (batch * size, vocab)
        records = run.record(
            state.records, "logits", step, tf.reshape(logits, (batch * beams, vocab))
        )
        picked: list[Picked] = []
        recorded, finished, done = [], [], []
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            scores = tf.nn.log_softmax(tf.reshape(logits[:, part], rows))
            if group and config.diversity_penalty:
                earlier = tf.concat([x.tokens for x in picked], 1)
                scores = hamming_diversity(scores, earlier, config.diversity_penalty)
            texts = tf.reshape(state.texts[:, part], (batch * size, steps))
            scores = tf.reshape(run.processed(texts, scores, step, groups), (batch, size, vocab))
            recorded.append(scores)
            found = _candidates(run, scores, state.sums[:, part], step, group)
            own = Finished(*(x[:, group : group + 1] for x in state.finished))
            was_done = state.done[:, group : group + 1]
            if run.eos:
                own = _with_ended(own, found, was_done, state, group, run, step)
            finished.append(own)
            done.append(was_done | _is_settled(own, found, run, step)[:, None])
            found = found.followed(size, was_done, run.pad)
            picked.append(found._replace(parents=found.parents + group * size))
        if groups == 1:
            records = run.record(
                records, "scores", step, tf.reshape(recorded[0], (batch * beams, vocab))
            )
        else:
            all_scores = tf.reshape(tf.concat(recorded, 1), (batch * beams, vocab))
            records = run.record(records, "scores", step, all_scores)
        sums, parents, tokens = (tf.concat([x[field] for x in picked], 1) for field in range(3))
        # The beams' own tables follow their parents; the cache need not.
        now = run.places == step
        texts = tf.gather(state.texts, parents, batch_dims=1)
        texts = tf.where(now, tokens[..., None], texts)
        origins = tf.gather(state.origins, parents, batch_dims=1)
        origins = tf.where(now, parents[..., None], origins)
        stop = run.stops(tf.reshape(texts, (batch * beams, steps)), step, records)
        all_finished = Finished(*(tf.concat(x, 1) for x in zip(*finished, strict=True)))
        all_done = tf.concat(done, 1)
        over = tf.reduce_all(all_done) | tf.reduce_all(stop)
        return _Beams(tokens, sums, texts, origins, all_finished, all_done, over, records)

    output, cache = decoder.start()
    sums = tf.where(tf.range(beams) % size == 0, 0.0, COPY)
    state = _Beams(
        tf.zeros((batch, beams), tf.int32),
        tf.broadcast_to(sums, (batch, beams)),
        tf.fill((batch, beams, steps), -1),
        tf.fill((batch, beams, steps), -1),
        Finished(
            tf.fill((batch, groups, size), NEVER),
            tf.fill((batch, groups, size), -1),
            tf.fill((batch, groups, size, steps), -1),
            tf.fill((batch, groups, size, steps), -1),
        ),
        tf.fill((batch, groups), False),
        tf.constant(False),
        run.first_records(output.logits.shape[2]),
    )

    def go_on(step: Any, state: _Beams, cache: Any, arrays: Any) -> Any:
        output, cache = decoder.step(state.tokens, state.origins, step - 1, cache)
        return step + 1, choose(output, step, state), cache, _written(arrays, output, step - 1)

    made, state, cache, arrays = _loop(
        lambda step, state, *_: (step < steps) & ~state.over,
        go_on,
        (tf.constant(1), choose(output, 0, state), cache, _arrays_for(output, decoder)),
    )
    # Beams that are still running are as good as finished.
    shape = (batch, groups, size)
    scores = tf.reshape(_penalised(state.sums, made, config), shape)
    running = Finished(
        tf.where(state.done[..., None], NEVER, scores),
        tf.fill(shape, made),
        tf.reshape(state.texts, (*shape, steps)),
        tf.reshape(state.origins, (*shape, steps)),
    )
    found = _best(state.finished.merged(running), run)
    return {**found, "made": made, **_recorded(output, arrays, state.records), "cache": cache}


class _Beams(NamedTuple):
    """What the beams are at: tokens and sums `(batch, beams)`, tables `(batch, beams, steps)`."""

    tokens: Any
    sums: Any
    texts: Any
    origins: Any
    finished: Finished
    done: Any  # (batch, groups)
    over: Any
    records: dict[str, Any]


class Picked(NamedTuple):
    """The best continuations of a group of beams, best first.

    Args:
        sums: `(batch, count)`; log probability of the text so far.
        parents: `(batch, count)`; the beams, counted in the group, that they continue.
        tokens: `(batch, count)`.
        ends: `(batch, count)`; which tokens end a text; None if none does.
    """

    sums: Any
    parents: Any
    tokens: Any
    ends: Any | None = None

    def followed(self, size: int, done: Any, pad: int) -> Picked:
        """The continuations to go on with; those of a group that is done are padding."""
        sums, parents, tokens = self[:3]
        if self.ends is not None:
            order = tf.argsort(tf.cast(self.ends, tf.int32), axis=1, stable=True)
            sums, parents, tokens = (
                tf.gather(x, order[:, :size], batch_dims=1) for x in (sums, parents, tokens)
            )
        sums, parents, tokens = (x[:, :size] for x in (sums, parents, tokens))
        return Picked(tf.where(done, 0.0, sums), parents, tf.where(done, pad, tokens))


def _candidates(run: Run, scores: Any, sums: Any, step: Any, group: int) -> Picked:
    """Looks for continuations among scores `(batch, size, vocab)` of beams with `(batch, size)`."""
    _, size, vocab = scores.shape
    sums = tf.reshape(scores + sums[..., None], (-1, size * vocab))
    # Enough to go on with `size` beams, however many of the best ones end.
    count = min(max(2, 1 + len(run.eos)) * size, size * vocab)
    if run.config.do_sample:
        index = run.draw(sums, count, step, group)
        best, order = tf.math.top_k(tf.gather(sums, index, batch_dims=1), count)
        index = tf.gather(index, order, batch_dims=1)
    else:
        best, index = _top(sums, count)
    tokens = index % vocab
    return Picked(best, index // vocab, tokens, run.is_end(tokens) if run.eos else None)


def _top(x: Any, count: int) -> tuple[Any, Any]:
    """`tf.math.top_k` of `(batch, size)`, several times quicker for long rows.

    The best are in the parts with the highest maxima; equals keep their order.
    """
    parts = -(-x.shape[1] // PART)
    if count > min(parts // 4, PART):
        return tf.math.top_k(x, count)
    x = tf.pad(x, [[0, 0], [0, parts * PART - x.shape[1]]], constant_values=float("-inf"))
    x = tf.reshape(x, (-1, parts, PART))
    chosen = tf.sort(tf.math.top_k(tf.reduce_max(x, axis=2), count).indices, axis=1)
    few = tf.reshape(tf.gather(x, chosen, batch_dims=1), (-1, count * PART))
    best, order = tf.math.top_k(few, count)
    return best, tf.gather(chosen, order // PART, batch_dims=1) * PART + order % PART


def _penalised(sums: Any, length: Any, config: GenerationConfig) -> Any:
    """Scores of finished texts: longer ones are favoured by a length penalty above zero."""
    return sums / tf.cast(length, tf.float32) ** config.length_penalty


def _with_ended(
    finished: Finished,
    found: Picked,
    done: Any,
    state: _Beams,
    group: int,
    run: Run,
    step: Any,
) -> Finished:
    """Adds the texts that end in this step, if they are among the best of their group."""
    size = finished.scores.shape[2]
    valid = found.ends[:, :size] & ~done
    scores = _penalised(found.sums[:, :size], step + 1, run.config)
    parents = found.parents[:, :size] + group * size
    now = run.places == step
    tokens = tf.gather(state.texts, parents, batch_dims=1)
    origins = tf.gather(state.origins, parents, batch_dims=1)
    new = (
        tf.where(valid, scores, NEVER),
        tf.where(valid, step, -1),
        tokens,  # an end is put behind them when they are returned
        tf.where(now, parents[..., None], origins),
    )
    return finished.merged(Finished(*(x[:, None] for x in new)))


def _is_settled(finished: Finished, found: Picked, run: Run, step: Any) -> Any:
    """Which groups cannot find anything better, or are to stop as soon as they are full.

    A group is full when it has as many finished texts as beams.
    """
    config = run.config
    full = tf.reduce_all(finished.lengths[:, 0] >= 0, axis=1)
    if config.early_stopping is not True:
        length = step + 1
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = run.steps
        worst = tf.reduce_min(finished.scores[:, 0], axis=1)
        full &= worst >= _penalised(found.sums[:, 0], length, config)
    return full


def _best(finished: Finished, run: Run) -> dict[str, Any]:
    """The texts to return."""
    count = run.config.num_return_sequences
    total = run.beams
    scores, order = tf.math.top_k(tf.reshape(finished.scores, (-1, total)), count)

    def chosen(x: Any, *rest: Any) -> Any:
        found = tf.gather(tf.reshape(x, (-1, total, *rest)), order, batch_dims=1)
        return tf.reshape(found, (-1, *rest))

    lengths = chosen(finished.lengths)[:, None]
    tokens, origins = (chosen(x, run.steps) for x in (finished.tokens, finished.origins))
    first = tf.repeat(tf.range(run.batch) * run.beams, count)[:, None]
    tokens = tf.where(run.places < lengths, tokens, run.pad)
    if run.eos:
        tokens = tf.where(run.places == lengths, run.eos[0], tokens)
    return {
        "texts": tokens,
        "scores_of_texts": tf.reshape(scores, (-1,)),
        "origins": tf.pad(
            tf.where(origins < 0, -1, origins + first),
            [[0, 0], [0, run.length]],
            constant_values=-1,
        ),
        "width": tf.minimum(tf.reduce_max(lengths) + 1, run.steps),
    }


class TFGenerationMixin(Generator):
    """`generate`, for models with a language model's head.

    An encoder-decoder model overrides `_generation_inputs`, `_encode` and `_decode`.
    """

    def _generation_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that `generate` takes besides `input_ids`."""
        names = inspect.signature(type(self).call).parameters
        wanted = (
            "attention_mask", "token_type_ids", "head_mask", "encoder_hidden_states",
            "encoder_attention_mask",
        )  # fmt: skip
        return tuple(name for name in wanted if name in names)

    def _max_positions(self) -> int | None:
        """The longest text there are positions for."""
        config = getattr(self.config, "decoder", self.config)
        return getattr(config, "max_position_embeddings", None)

    def _encode(
        self, inputs: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[Any, dict[str, Any]]:
        """Runs what is run once, before the first step.

        Args:
            inputs: what `generate` was given, by name. With an encoder also `input_ids` and
                `attention_mask`, which are the encoder's.
            flags: output_attentions and output_hidden_states.
        Returns:
            The encoder's output, None without one, and what `_decode` gets in each step as
            `encoded`: tensors with the batch in front, and head masks.
        """
        return None, inputs

    def _decode(
        self,
        input_ids: Any,
        attention_mask: Any | None,
        position_ids: Any,
        past_key_values: Any,
        encoded: Mapping[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Calls the decoder.

        Args:
            input_ids: `(batch, new)`: the prompt first, then one token per beam.
            attention_mask: None, `(batch, keys)` or `(batch or 1, new, keys)`.
            position_ids: `(batch or 1, new)`.
            past_key_values: None, then per layer two `Buffer` and the cross-attention's tensors.
            encoded: from `_encode`.
            kwargs: output_attentions, output_hidden_states; token_type_ids if they were given.
        Returns:
            `logits` `(batch, new, vocab)`, `past_key_values` and the like, as a decoder gives them.
        """
        return self(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=True,
            return_dict=True,
            training=False,
            **encoded,
            **kwargs,
        )

    def _source(self, given: Mapping[str, Any]) -> Any | None:
        """The encoder's tokens for `logits.py`, `(batch, length)`, -1 where padded."""
        source = given.get("input_ids")
        if source is not None and "attention_mask" in given:
            source = tf.where(given["attention_mask"] != 0, source, -1)
        return source

    def _step_function(
        self,
        prompt: Prompt,
        beams: int,
        steps: Any,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> TreeDecoder:
        """What is called for the next tokens' scores; takes what `TreeDecoder` takes."""
        return TreeDecoder(self, prompt, beams, steps, encoded, flags)

    @tf.autograph.experimental.do_not_convert
    def generate(
        self,
        inputs: Any | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: list[Any] | None = None,
        stopping_criteria: list[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Any], Any] | None = None,
        streamer: Any = None,
        seed: Any = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continues a text, or answers one where there is an encoder.

        Called eagerly it runs a graph, which is kept for further calls with the same options; other
        batch sizes and lengths need no other one. Called while a graph is made, as in a
        `tf.function`, it becomes a part of it; sequences then keep the greatest length, padded, and
        what is returned of every step is one tensor with the steps in front.

        Args:
            inputs: `(batch, length)`: the prompt, or the encoder's input. Also as `input_ids`.
                A decoder without one starts with its bos_token_id.
            generation_config: what to use instead of `self.generation_config`.
            logits_processor: processors of one's own, called after the others. A
                `TFLogitsProcessor` or `tf.function` is a part of the graph. Any other function is
                called outside it, with as many of (input_ids, scores, cur_len) as it takes; the
                graph can then be neither exported nor compiled by XLA. So it is with the following
                three.
            stopping_criteria: `StoppingCriteria` of one's own.
            prefix_allowed_tokens_fn: takes a row of the batch and its tokens `(length,)`, returns
                the ids that may follow.
            streamer: has `put` and `end`, see `zoo.generation.TextStreamer`; not with beams.
            seed: an integer or a pair of them, of random numbers; drawn by TensorFlow if None.
                Differs: PyTorch takes a `generator`.
            jit_compile: whether XLA compiles the graph, for each shape anew. In a graph that is
                being made: says that it will be.
            kwargs: fields of the configuration to override; inputs of the model, such as
                attention_mask `(batch, length)`, whose padding may be on either side. In a graph
                max_length and max_new_tokens may be scalar tensors.
        Returns:
            Sequences `(batch * num_return_sequences, length)`: the prompt and what follows it,
            padded at the end; with `return_dict_in_generate` one of the output classes.
        Raises:
            ValueError: an unknown argument or an impossible value.
        """
        lengths = _scalars(kwargs)
        names = self._generation_inputs()
        config, given = self._request(generation_config, kwargs, (*names, "input_ids"))
        if inputs is not None:
            if "input_ids" in given:
                raise ValueError("generate: expected either inputs or input_ids, got both")
            given["input_ids"] = inputs
        given = tf.nest.map_structure(_as_tensor, given)
        generation.settle_tokens(config)
        if config.num_beams > 1 and streamer is not None:
            raise ValueError(f"streamer: expected num_beams=1, got {config.num_beams}")
        hooks = _hooks(logits_processor)
        in_python = {
            "logits_processor": [hook for hook in hooks if not _is_of_graph(hook)],
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "streamer": streamer,
        }
        found = [name for name, hook in in_python.items() if hook]
        if found and jit_compile:
            raise ValueError(
                f"jit_compile=True: {' and '.join(found)} would be called in Python, "
                "which XLA cannot compile"
            )
        if jit_compile and config.max_time is not None:
            raise ValueError("jit_compile=True: max_time needs a clock, which XLA has not")
        call = _Call(hooks, generation.StoppingCriteriaList(stopping_criteria or []), streamer)
        ticket = next(_TICKETS)
        graph = _Graph(self, config, call, prefix_allowed_tokens_fn, jit_compile)
        given, prompt = self._prompted(config, given)
        length = _size(prompt, 1)
        if seed is not None:
            seed = _as_seed(seed)
        elif config.do_sample:
            seed = tf.random.uniform((2,), tf.int32.min, tf.int32.max, tf.int32)
        else:
            seed = tf.zeros((2,), tf.int32)
        if not tf.executing_eagerly():
            if found:
                logger.warning(
                    "generate: %s will be called in Python; this graph can be neither exported "
                    "nor compiled by XLA", " and ".join(found),
                )  # fmt: skip
                _CALLS[ticket] = call  # for as long as there may be the graph
            steps = _steps(config, lengths, length)
            return _output(graph.run(given, steps, seed, tf.constant(ticket)), config, self)
        steps = _steps(config, lengths, length)
        if streamer is not None:
            streamer.put(prompt.numpy())
        _CALLS[ticket] = call
        try:
            result = graph.compiled(given, steps)(given, steps, seed, ticket)
        except tf.errors.InvalidArgumentError as error:
            if "max_position_embeddings" not in error.message:
                raise
            limit = self._max_positions()
            raise ValueError(_no_room(limit + 1, limit)) from None
        finally:
            del _CALLS[ticket]
        if streamer is not None:
            streamer.end()
        return _output(_trimmed(result, length), config, self)

    def _prompted(
        self, config: GenerationConfig, given: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """The inputs with the tokens that the decoder starts from, and these."""
        encoder = self.config.is_encoder_decoder
        name = "decoder_input_ids" if encoder else "input_ids"
        given = dict(given)
        if encoder:
            source = given.get("input_ids", given.get("inputs_embeds"))
            if source is None and "encoder_outputs" in given:
                source = tf.nest.flatten(given["encoder_outputs"])[0]
            if source is None:
                raise ValueError("generate: expected input_ids of the encoder, got none")
            if "input_ids" in given:
                given["input_ids"] = _as_ids("input_ids", given["input_ids"])
        else:
            source = given.get("encoder_hidden_states")
        batch = 1 if source is None else _size(source, 0)
        # A cache is of use where nothing is masked: then it is a graph of its own.
        returns_cache = tf.executing_eagerly() and config.return_dict_in_generate
        ids, mask = given.get(name), given.get(name.replace("input_ids", "attention_mask"))
        start = None
        if encoder and (ids is None or mask is None):
            start = generation.start_token(config)
        if ids is None:
            if not encoder:
                start = config.bos_token_id
                if start is None:
                    raise ValueError("generate: expected input_ids or bos_token_id, got neither")
            ids = tf.fill((batch, 1), start)
        ids = _as_ids(name, ids)
        if not encoder:
            batch = ids.shape[0]
        if tf.executing_eagerly():  # Differs: in a graph the tokens are taken as they are
            if encoder and mask is None and not bool(tf.reduce_all(ids[:, 0] == start)):
                ids = tf.concat([tf.fill((len(ids), 1), start), ids], 1)
            if mask is not None:
                empty = np.flatnonzero(~np.any(mask.numpy() != 0, axis=1))
                if len(empty):
                    raise ValueError(f"{name}: row {empty[0]} holds no token to continue")
        if isinstance(batch, int) and ids.shape[0] not in (None, batch):
            raise ValueError(
                f"{name}: expected {batch} rows as the encoder's input has, got {ids.shape[0]}"
            )
        given[name] = ids
        for ids_name in ("input_ids", "decoder_input_ids"):
            mask_name = ids_name.replace("input_ids", "attention_mask")
            if ids_name not in given or ids_name == "decoder_input_ids" and mask is None:
                continue
            found = _as_mask(mask_name, given.pop(mask_name, None), given[ids_name], config)
            if found is not None and not (returns_cache and bool(tf.reduce_all(found))):
                given[mask_name] = tf.cast(found, tf.int32)
        return given, ids

    def compute_transition_scores(
        self,
        sequences: Any,
        scores: Any,
        beam_indices: Any | None = None,
        normalize_logits: bool = False,
    ) -> Any:
        """The scores of the tokens that were generated.

        Args:
            sequences: `(rows, length)`.
            scores: per step `(batch * beams, vocab)`.
            beam_indices: `(rows, length)`, of beam search.
            normalize_logits: whether to turn scores into log probabilities first.
        Returns:
            `(rows, steps)`; zero behind the end of a beam.
        """
        steps = tf.stack(scores)  # (steps, rows, vocab)
        if normalize_logits:
            steps = tf.nn.log_softmax(steps)
        if beam_indices is None:
            rows = tf.range(tf.shape(sequences)[0])[:, None]
            beam_indices = tf.tile(rows, (1, tf.shape(steps)[0]))
        found = tf.reduce_sum(tf.cast(beam_indices >= 0, tf.int32), axis=1)
        width = tf.reduce_max(found)
        indices = tf.cast(beam_indices[:, :width], tf.int32)
        tokens = tf.cast(sequences[:, tf.shape(sequences)[1] - width :], tf.int32)
        time = tf.broadcast_to(tf.range(width), tf.shape(tokens))
        places = tf.stack([time, tf.maximum(indices, 0), tokens], axis=-1)
        return tf.where(indices < 0, 0.0, tf.gather_nd(steps, places))


def _scalars(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes out greatest lengths that are known only when the graph runs."""
    found = {}
    for name in ("max_length", "max_new_tokens"):
        value = kwargs.get(name)
        if tf.is_tensor(value):
            if value.shape.rank != 0 or not value.dtype.is_integer:
                raise ValueError(
                    f"{name}: expected an integer, got {value.dtype.name} of shape {value.shape}"
                )
            if hasattr(value, "numpy"):
                kwargs[name] = int(value)
            else:
                found[name] = tf.cast(kwargs.pop(name), tf.int32)
    return found


def _steps(config: GenerationConfig, lengths: Mapping[str, Any], length: Any) -> Any:
    """The most tokens to make: a number where it is known, else a scalar."""
    if "max_new_tokens" in lengths:
        return lengths["max_new_tokens"]
    if "max_length" in lengths:
        return lengths["max_length"] - length
    if isinstance(length, int):
        generation.settle_lengths(config, length)
    elif config.max_new_tokens is not None:
        return config.max_new_tokens
    return config.max_length - length


def _as_tensor(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.int32) if value.dtype.is_integer else value


def _as_ids(name: str, ids: Any) -> Any:
    if len(ids.shape) != 2 or not ids.dtype.is_integer:
        raise ValueError(
            f"{name}: expected integers of shape (batch, length), got {tuple(ids.shape)}"
        )
    if ids.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one token, got shape {tuple(ids.shape)}")
    return ids


def _as_mask(name: str, mask: Any, ids: Any, config: GenerationConfig) -> Any | None:
    """A bool mask; without one padding tokens are masked, unless they may mean the end."""
    if mask is None:
        pad = config.pad_token_id
        if pad is None or pad in config.eos_token_ids:
            return None
        found = ids != pad
        # A row of nothing but padding stands for itself.
        return found | ~tf.reduce_all(tf.reduce_any(found, axis=1))
    if not mask.shape.is_compatible_with(ids.shape):
        raise ValueError(f"{name}: expected shape {tuple(ids.shape)}, got {tuple(mask.shape)}")
    return mask != 0 if mask.dtype != tf.bool else mask


def _as_seed(seed: Any) -> Any:
    """`(2,)` of an integer or a pair of them."""
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int32)
    if seed.shape.rank == 0:
        return tf.stack([seed, 0])
    if seed.shape != (2,):
        raise ValueError(f"seed: expected an integer or two of them, got shape {seed.shape}")
    return seed


def _hooks(logits_processor: Any) -> list[Any]:
    """The caller's processors, lists of them taken apart."""
    found = []
    for hook in logits_processor or []:
        found += _hooks(hook) if isinstance(hook, list) else [hook]
    return found


def _is_of_graph(hook: Any) -> bool:
    return isinstance(hook, TFLogitsProcessor | tf.types.experimental.GenericFunction)


def _arguments(hook: Any) -> int:
    """How many of (input_ids, scores, cur_len) a Python function takes."""
    try:
        inspect.signature(hook).bind(None, None, None)
    except TypeError:
        return 2
    return 3


class _Graph:
    """The graph of a call: what is run in it, and the function that was made of it.

    Args:
        model: what generates.
        config: complete but for the lengths.
        call: the caller's Python objects.
        prefix_allowed_tokens_fn: the caller's.
        xla: whether XLA compiles the graph.
    """

    def __init__(
        self,
        model: TFGenerationMixin,
        config: GenerationConfig,
        call: _Call,
        prefix_allowed_tokens_fn: Any,
        xla: bool,
    ) -> None:
        self.model, self.config, self.call, self.xla = model, config, call, xla
        self.prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self.keeps_cache = False

    def run(self, given: Mapping[str, Any], steps: Any, seed: Any, ticket: Any) -> dict[str, Any]:
        """Encodes and decodes."""
        config, model = self.config, self.model
        given = dict(given)
        flags = {
            name: bool(config.return_dict_in_generate and getattr(config, name))
            for name in ("output_attentions", "output_hidden_states")
        }
        output, source = None, None
        if model.config.is_encoder_decoder:
            ids, mask = given.pop("decoder_input_ids"), given.pop("decoder_attention_mask", None)
            source = model._source(given)
            prompt = Prompt.of(ids, None if mask is None else mask != 0, None)
        else:
            ids, mask = given.pop("input_ids"), given.pop("attention_mask", None)
            types = given.pop("token_type_ids", None)
            prompt = Prompt.of(ids, None if mask is None else mask != 0, types)
            source = prompt.seen
        output, encoded = model._encode(given, flags)
        length = _size(ids, 1)
        with_beams = config.num_beams > 1
        beams = config.num_beams if with_beams else config.num_return_sequences
        own = processors(
            config, length, length + steps, source, self.prefix_allowed_tokens_fn,
            beams // config.num_beam_groups,
        )  # fmt: skip
        for number, hook in enumerate(self.call.processors):
            of_graph = _is_of_graph(hook)
            own.append(hook if of_graph else _PythonProcessor(number, ticket, _arguments(hook)))
        shaping = warpers(config) if config.do_sample else TFLogitsProcessorList()
        if config.renormalize_logits:
            (shaping if config.do_sample else own).append(TFLogitNormalization())
        limit = model._max_positions()
        if self.xla and limit is not None:  # where nothing can be asserted later
            longest = length + steps - 1
            if isinstance(longest, int) and longest > limit:
                raise ValueError(_no_room(longest, limit))
        run = Run(
            config, prompt, beams, steps, own, shaping, ticket, bool(self.call.criteria),
            self.call.streamer is not None, seed,
        )  # fmt: skip
        decoder = model._step_function(prompt, beams, steps, encoded, flags)
        with _prepared(model, self.xla):
            found = beam_search(decoder, run) if with_beams else search(decoder, run)
        cache, texts = found.pop("cache"), found.pop("texts")
        given_to_each = tf.repeat(prompt.given, config.num_return_sequences, axis=0)
        found["sequences"] = tf.concat([given_to_each, texts], axis=1)
        if self.keeps_cache:
            found["past_key_values"] = decoder.past_key_values(cache, found["made"] - 1)
        for name in ("attentions", "hidden_states"):
            if flags[f"output_{name}"] and output is not None:
                found[f"encoder_{name}"] = getattr(output, name)
        return {name: value for name, value in found.items() if value is not None}

    def compiled(self, given: Mapping[str, Any], steps: int) -> Callable[..., Any]:
        """The function for inputs like these, one that was made before if there is one."""
        specs = [
            tf.TensorSpec(x.shape if self.xla else _relaxed(name, x.shape), x.dtype)
            for name, value in sorted(given.items())
            for x in tf.nest.flatten(value)
        ]
        self.keeps_cache = bool(self.config.return_dict_in_generate and not self.xla)
        template = tf.nest.map_structure(lambda _: 0, dict(given))
        options = self.config.to_dict()
        if not self.xla:  # the lengths are an input of the graph
            options.update(max_length=None, max_new_tokens=None)
        if self.config.min_new_tokens is not None:
            options["min_length"] = None
        in_graph = tuple(
            id(hook) if _is_of_graph(hook) else _arguments(hook) for hook in self.call.processors
        )
        key = (
            json.dumps(options, sort_keys=True, default=repr), repr(template), repr(specs),
            in_graph, bool(self.call.criteria), self.call.streamer is None,
            id(self.prefix_allowed_tokens_fn), self.xla, steps if self.xla else None,
            tuple(id(variable) for variable in self.model.variables),
        )  # fmt: skip
        graphs = vars(self.model).setdefault("_generation_graphs", _Graphs())
        if key not in graphs:
            graphs[key] = self._function(template, specs, steps)
        return graphs[key]

    def _function(self, template: Any, specs: list[Any], steps: int) -> Callable[..., Any]:
        run = self.run
        scalar, pair = tf.TensorSpec((), tf.int32), tf.TensorSpec((2,), tf.int32)

        def function(leaves: list[Any], made: Any, seed: Any, ticket: Any) -> Any:
            given = tf.nest.pack_sequence_as(template, leaves)
            return run(given, steps if self.xla else made, seed, ticket)

        function = tf.function(function, autograph=False, jit_compile=self.xla or None)
        concrete = function.get_concrete_function(specs, scalar, pair, scalar)

        def call(given: Mapping[str, Any], made: Any, seed: Any, ticket: int) -> dict[str, Any]:
            leaves = tf.nest.flatten(given)
            return concrete(leaves, tf.constant(made), seed, tf.constant(ticket))

        return call


@contextlib.contextmanager
def _prepared(model: Any, xla: bool) -> Iterator[None]:
    """Does before the loop what a call does to its weights and is the same in every step."""
    with contextlib.ExitStack() as stack:
        if model.compute_dtype != model.variable_dtype:
            scope = stack.enter_context(keras.StatelessScope())
            for variable in model.variables:
                if keras.backend.is_float_dtype(variable.dtype):
                    cast = tf.cast(variable.value, model.compute_dtype)
                    scope.state_mapping[id(variable)] = cast
        projection = model.get_output_embeddings()
        if xla and isinstance(projection, VocabularyProjection):
            stack.enter_context(projection.transposed())
        yield


def _relaxed(name: str, shape: Any) -> list[int | None]:
    """A shape with any batch and any lengths."""
    shape = list(shape)
    if "head_mask" in name or len(shape) < 2:
        return shape
    if name == "doc_scores":  # the number of passages is a part of the model
        return [None, shape[1]]
    return [None, shape[1], None, None] if len(shape) == 4 else [None, None, *shape[2:]]


def _trimmed(result: dict[str, Any], length: int) -> dict[str, Any]:
    """The result of a call without what the loop did not reach, tensors of steps as tuples."""
    made = int(result["made"])
    width = int(result.get("width", made))
    found = {**result, "sequences": result["sequences"][:, : length + width]}
    if "origins" in found:
        found["origins"] = found["origins"][:, : length + width]
    for name in ("scores", "logits"):
        if name in found:
            found[name] = tuple(tf.unstack(found[name][:made]))
    for name in _RECORDED:
        if f"first_{name}" not in found:
            continue
        steps = [tuple(found[f"first_{name}"])]
        for step in range(1, made):
            layers = tuple(layer[step - 1] for layer in found[f"later_{name}"])
            if name == "attentions":
                layers = tuple(layer[..., : length + step] for layer in layers)
            steps.append(layers)
        found[name] = tuple(steps)
    return found


def _output(found: dict[str, Any], config: GenerationConfig, model: Any) -> Any:
    """The sequences, or the published output class with what was asked for."""
    if not config.return_dict_in_generate:
        return found["sequences"]
    encoder = model.config.is_encoder_decoder
    fields = {name: found.get(name) for name in ("sequences", "scores", "logits")}
    with_beams = config.num_beams > 1
    if with_beams and config.output_scores:
        fields["sequences_scores"] = found["scores_of_texts"]
        fields["beam_indices"] = found["origins"]
    prefix = "decoder_" if encoder else ""
    for name in _RECORDED:
        # In a graph: of the first step, whose shape is another one, and of those behind it.
        steps = found.get(name)
        if steps is None and f"first_{name}" in found:
            steps = (found[f"first_{name}"], found[f"later_{name}"])
        if steps is not None:
            fields[name if name == "cross_attentions" else prefix + name] = steps
    if encoder:
        for name in ("encoder_attentions", "encoder_hidden_states"):
            fields[name] = found.get(name)
    fields["past_key_values"] = found.get("past_key_values")
    kind = {
        (False, False): GenerateDecoderOnlyOutput,
        (False, True): GenerateEncoderDecoderOutput,
        (True, False): GenerateBeamDecoderOnlyOutput,
        (True, True): GenerateBeamEncoderDecoderOutput,
    }[with_beams, encoder]
    return kind(**{name: fields.get(name) for name in kind.fields})


class _Graphs(OrderedDict):
    """The functions of a model, of which the least used go."""

    def __getitem__(self, key: Any) -> Any:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > GRAPHS:
            self.popitem(last=False)

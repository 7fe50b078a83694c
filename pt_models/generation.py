"""Greedy search, sampling and beam search over any decoder or encoder-decoder of the zoo.

The cache is a tree. Beams are not rows of a batch but query positions of their row: one step
decodes `(batch, beams)` tokens, whose keys and values are written into the next slots of a buffer
of fixed size. When beams are re-ordered nothing in it moves; a small table, `slots`, says which
slots hold a beam's text, and the attention mask follows from it. So the keys and values of a
prompt, and of an encoder's states, are there once for all beams of a row:

    slot    0 1 2   3 4   5 6         beams of step 2:  first   0 1 2 4 5
    holds   prompt  step1 step2                         second  0 1 2 4 6

Sources: Sutskever et al. 2014, section 3.2 (beam search); Wu et al. 2016, section 7 (length
penalty); Vijayakumar et al. 2018 (diverse beams).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo import generation
from zoo.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    GenerationConfig,
    Generator,
    StoppingCriteriaList,
)

from .attention import Buffer
from .layers import packed
from .logits import (
    NEVER,
    LogitNormalization,
    LogitsProcessorList,
    hamming_diversity,
    processors,
    warpers,
)

# After so many steps, with so many to come, weights are packed: that costs what a few steps save.
PACK_AFTER, PACK_BEFORE = 1, 8
PACKED_BYTES = 2**28
# The score that the second and later beams start from: they are copies of the first.
COPY = -1e9


class Prompt(NamedTuple):
    """Tokens to continue, moved to the right end of their rows.

    Args:
        given: `(batch, length)`, as they came.
        ids: `(batch, length)`, padding first.
        mask: `(batch, length)` bool, None without padding.
        places: `(batch, length)`; where each of the given tokens went. None if all stayed.
        token_type_ids: `(batch, length)` or None.
    """

    given: Tensor
    ids: Tensor
    mask: Tensor | None
    places: Tensor | None
    token_type_ids: Tensor | None

    @classmethod
    def of(cls, given: Tensor, mask: Tensor | None, token_type_ids: Tensor | None) -> Prompt:
        if mask is None or bool(mask.all()):
            return cls(given, given, None, None, token_type_ids)
        if not bool(mask.any(1).all()):
            raise ValueError(
                f"attention_mask: row {int(mask.any(1).long().argmin())} holds no token to continue"
            )
        order = mask.to(torch.uint8).argsort(dim=1, stable=True)
        types = None if token_type_ids is None else token_type_ids.gather(1, order)
        return cls(
            given, given.gather(1, order), mask.gather(1, order), order.argsort(dim=1), types
        )

    @property
    def seen(self) -> Tensor:
        """`(batch, length)`: the tokens for `logits.py`, -1 where padded."""
        return self.ids if self.mask is None else self.ids.masked_fill(~self.mask, -1)


def positions(mask: Tensor) -> Tensor:
    """Positions that count a row's tokens and not its padding, `(batch, length)`."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


class StepOutput(NamedTuple):
    """What a step function returns.

    `logits` `(batch, beams, vocab)`; the rest in the published shapes, None if not asked for.
    """

    logits: Tensor
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class TreeDecoder:
    """The step function of a model: what is called for the next tokens' scores.

    Args:
        model: has `_decode`.
        prompt: the tokens to start from.
        beams: continuations per row.
        steps: the most tokens that will be made.
        encoded: inputs of `_decode` that are the same in every step.
        flags: output_attentions and output_hidden_states.
    """

    def __init__(
        self,
        model: GenerationMixin,
        prompt: Prompt,
        beams: int,
        steps: int,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> None:
        self.model, self.prompt, self.beams, self.flags = model, prompt, beams, flags
        self.encoded = dict(encoded)
        batch, length = prompt.ids.shape
        device = prompt.ids.device
        self.filled = length  # slots
        self.made, self.steps = 0, steps  # steps behind the prompt
        self.capacity = length + (steps - 1) * beams
        # (capacity,): the prompt's slots follow one another, a step's slots are of one time.
        self.times = torch.arange(length + steps - 1, device=device)
        if beams > 1:
            self.times = torch.cat(
                [self.times[:length], self.times[length:].repeat_interleave(beams)]
            )
        later = torch.arange(steps, device=device)
        # (batch or 1, steps): the positions of the new tokens.
        count = length if prompt.mask is None else prompt.mask.sum(1, keepdim=True)
        self.positions = (count + later)[None] if prompt.mask is None else count + later
        self.limit = model._max_positions()
        self.longest = length if prompt.mask is None else int(count.max())
        self.types = None
        if prompt.token_type_ids is not None:
            self.types = prompt.token_type_ids[:, -1:]
        # Which slot holds each token of a beam, (batch, beams, so far), and which are no padding.
        # A single beam without padding has all slots and needs no table.
        self.slots = self.real = None
        if beams > 1 or prompt.mask is not None or flags.get("output_attentions"):
            places = torch.arange(length, device=device).expand(batch, -1)
            places = places if prompt.places is None else prompt.places
            self.slots = places[:, None].expand(-1, beams, -1)
            if prompt.mask is not None:
                self.real = prompt.mask.gather(1, places)[:, None]

    def start(self) -> StepOutput:
        """Reads the prompt.

        Returns:
            `logits` `(batch, 1, vocab)`: what follows it, the same for all beams.
        """
        prompt = self.prompt
        self._assert_room(self.longest)
        types = {} if self.types is None else {"token_type_ids": prompt.token_type_ids}
        length = prompt.ids.shape[1]
        places = torch.arange(length, device=prompt.ids.device)[None]
        output = self.model._decode(
            prompt.ids,
            None if prompt.mask is None else prompt.mask.long(),
            places if prompt.mask is None else positions(prompt.mask),
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
        self.caches = [
            (*(Buffer.room(states, self.capacity) for states in cache[:2]), *cache[2:])
            for cache in output.past_key_values
        ]
        return StepOutput(output.logits[:, -1:], *self._recorded_start(output))

    def _assert_room(self, length: int) -> None:
        if self.limit is not None and length > self.limit:
            raise ValueError(
                f"generate: the text has {length} tokens, but config.max_position_embeddings is "
                f"{self.limit}; set max_length or max_new_tokens"
            )

    def step(self, tokens: Tensor, parents: Tensor | None) -> StepOutput:
        """Reads one token per beam.

        Args:
            tokens: `(batch, beams)`.
            parents: `(batch, beams)`; the beams they continue. None if each continues itself.
        Returns:
            `logits` `(batch, beams, vocab)`.
        """
        batch, beams = tokens.shape
        self._assert_room(self.longest + self.made + 1)
        mask = None
        if self.slots is not None:
            if parents is not None:
                self.slots = self.slots.gather(1, parents[..., None].expand_as(self.slots))
            own = torch.arange(self.filled, self.filled + beams, device=tokens.device)
            own = own[None, :, None].expand(batch, -1, -1)
            self.slots = torch.cat([self.slots, own], dim=2)
            if self.real is not None:
                self.real = torch.cat([self.real, self.real.new_ones(batch, 1, 1)], dim=2)
            if beams > 1 or self.real is not None:
                mask = self._mask(batch, beams)
        filled = self.filled
        past = tuple(
            (Buffer(key, filled, self.times), Buffer(value, filled, self.times), *cross)
            for key, value, *cross in self.caches
        )
        types = {} if self.types is None else {"token_type_ids": self.types.expand(-1, beams)}
        if self.made == PACK_AFTER and self.steps - self.made > PACK_BEFORE:
            part = self.model._decoder_part()
            self.model = packed(self.model, part, batch * beams, PACKED_BYTES)
        output = self.model._decode(
            tokens,
            mask,
            self.positions[:, self.made : self.made + 1].expand(-1, beams),
            past,
            self.encoded,
            **types,
            **self.flags,
        )
        self.filled += beams
        self.made += 1
        return StepOutput(output.logits, *self._recorded(output))

    def _mask(self, batch: int, beams: int) -> Tensor:
        """`(batch, beams, filled + beams)`: a beam attends to the slots of its own text."""
        mask = self.slots.new_zeros(batch, beams, self.filled + beams, dtype=torch.float32)
        if self.real is None:
            return mask.scatter_(2, self.slots, 1.0)
        return mask.scatter_(2, self.slots, self.real.expand_as(self.slots).float())

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows of the batch only."""
        self.caches = [tuple(states[rows] for states in cache) for cache in self.caches]
        self.encoded = {
            name: x[rows] if isinstance(x, Tensor) and "head_mask" not in name else x
            for name, x in self.encoded.items()
        }
        if len(self.positions) > 1:
            self.positions = self.positions[rows]
        if self.types is not None and len(self.types) > 1:
            self.types = self.types[rows]
        self.slots = None if self.slots is None else self.slots[rows]
        self.real = None if self.real is None else self.real[rows]

    def past_key_values(self) -> tuple[tuple[Tensor, ...], ...] | None:
        """The cache as a call of the model takes it, where there is one beam and no padding."""
        if self.beams > 1 or self.prompt.mask is not None:
            return None
        return tuple(
            (key[:, :, : self.filled], value[:, :, : self.filled], *cross)
            for key, value, *cross in self.caches
        )

    # What was asked for besides the logits, as if every beam were a row of the batch.

    def _recorded_start(self, output: Any) -> tuple[Any, Any, Any]:
        def of_all_beams(x: Tensor, *axes: int) -> Tensor:
            for axis in axes if self.prompt.places is not None else ():
                shape = [n if i in (0, axis) else 1 for i, n in enumerate(x.shape)]
                x = x.gather(axis, self.prompt.places.view(shape).expand(x.shape))
            return x.repeat_interleave(self.beams, 0)

        return _each(
            output,
            lambda x: of_all_beams(x, 2, 3),
            lambda x: of_all_beams(x, 2),
            lambda x: of_all_beams(x, 1),
        )

    def _recorded(self, output: Any) -> tuple[Any, Any, Any]:
        def attention(x: Tensor) -> Tensor:  # (batch, heads, beams, slots)
            index = self.slots[:, None].expand(-1, x.shape[1], -1, -1)
            return cross(x.gather(3, index))

        def cross(x: Tensor) -> Tensor:  # -> (batch * beams, heads, 1, keys)
            return x.transpose(1, 2).flatten(0, 1)[:, :, None]

        return _each(output, attention, cross, lambda x: x.flatten(0, 1)[:, None])


def _each(output: Any, *changes: Callable[[Tensor], Tensor]) -> tuple[Any, Any, Any]:
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
        processors: change the scores.
        warpers: shape the distribution to sample from.
        criteria: the caller's own.
        streamer, generator: the caller's.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: Prompt,
        beams: int,
        processors: LogitsProcessorList,
        warpers: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        streamer: Any = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.config, self.prompt, self.beams = config, prompt, beams
        self.processors, self.warpers, self.criteria = processors, warpers, criteria
        self.streamer, self.generator = streamer, generator
        self.length = prompt.given.shape[1]
        self.steps = config.max_length - self.length
        self.eos = torch.tensor(config.eos_token_ids, device=prompt.given.device)
        self.pad = config.pad_token_id or 0
        self.end = None if config.max_time is None else time.monotonic() + config.max_time
        wanted = config.return_dict_in_generate
        self.scores = [] if wanted and config.output_scores else None
        self.logits = [] if wanted and config.output_logits else None
        self.outputs: list[StepOutput] | None = (
            [] if wanted and (config.output_attentions or config.output_hidden_states) else None
        )
        recorded = any(x is not None for x in (self.scores, self.logits, self.outputs, streamer))
        hooks = [*processors, *warpers]
        # Whether finished rows may leave the batch: nobody looks at them.
        self.may_shrink = not (
            recorded or criteria or any(not getattr(hook, "rowwise", False) for hook in hooks)
        )

    def record(self, output: StepOutput, beams: int) -> Tensor:
        """Returns the step's logits `(batch, beams, vocab)`."""
        logits = output.logits.float()
        if logits.shape[1] != beams:
            logits = logits.expand(-1, beams, -1)
        if self.logits is not None:
            self.logits.append(logits.flatten(0, 1))
        if self.outputs is not None:
            self.outputs.append(output)
        return logits

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which tokens end a text."""
        return tokens == self.eos if len(self.eos) == 1 else torch.isin(tokens, self.eos)

    def draw(self, probabilities: Tensor, count: int) -> Tensor:
        """Samples `count` tokens a row without replacement."""
        return torch.multinomial(probabilities, count, generator=self.generator)

    def stops(self, ids: Tensor) -> Any:
        """Whether to stop: for all rows, or `(rows,)`."""
        if self.end is not None and time.monotonic() >= self.end:
            return True
        if not self.criteria:
            return False
        scores = None if self.scores is None else tuple(self.scores)
        return self.criteria(ids, scores)

    def seen(self, ids: Tensor, rows: Tensor | None) -> Tensor:
        """The tokens so far for the processors: -1 where the prompt is padded.

        Args:
            ids: `(rows, length)`.
            rows: rows of the batch that are still there, None for all.
        """
        if self.prompt.mask is None:
            return ids
        prompt = self.prompt.seen if rows is None else self.prompt.seen[rows]
        prompt = prompt.repeat_interleave(len(ids) // len(prompt), 0)
        return torch.cat([prompt, ids[:, self.length :]], dim=1)

    def processed(self, ids: Tensor, scores: Tensor, rows: Tensor | None) -> Tensor:
        """Applies processors and warpers to `(rows, vocab)`."""
        hooks = [*self.processors, *self.warpers]
        if not hooks:
            return scores
        own = None
        for hook in hooks:
            # The caller's processors see what was given, our own know padding from tokens.
            if type(hook).__module__ == processors.__module__:
                own = self.seen(ids, rows) if own is None else own
                scores = hook(own, scores)
            else:
                scores = hook(ids, scores)
        return scores


def search(decoder: Any, run: Run) -> Tensor:
    """Greedy search, or sampling of every beam for itself.

    Args:
        decoder: has `start`, `step` and `keep` as `TreeDecoder` has them.
    Returns:
        Sequences `(batch * beams, length)`.
    """
    config, beams, given = run.config, run.beams, run.prompt.given
    batch = len(given)
    ids = given.new_full((batch, beams, config.max_length), run.pad)
    ids[..., : run.length] = given[:, None]
    whole, rows = ids, None  # `rows` of the batch are left, None for all
    unfinished = torch.ones(batch, beams, dtype=torch.bool, device=given.device)
    any_finished = False
    output = decoder.start()
    for length in range(run.length, config.max_length):
        scores = run.record(output, beams).flatten(0, 1)
        scores = run.processed(ids[..., :length].flatten(0, 1), scores, rows)
        if run.scores is not None:
            run.scores.append(scores)
        if config.do_sample:
            tokens = _sampled(run, scores.softmax(-1), rows, batch)
        else:
            tokens = scores.argmax(-1)
        tokens = tokens.view(-1, beams)
        if any_finished:
            tokens = tokens.where(unfinished, run.pad)
        ids[..., length] = tokens
        if run.streamer is not None:
            run.streamer.put(tokens.flatten().cpu())
        stop = run.stops(ids[..., : length + 1].flatten(0, 1))
        if isinstance(stop, Tensor):
            stop = stop.view(-1, beams)
        if len(run.eos):
            stop = run.is_end(tokens) | stop
        if not isinstance(stop, Tensor):
            if stop:
                break
        elif bool((stop & unfinished).any()):
            any_finished = True
            unfinished = unfinished & ~stop
            left = unfinished.any(1)
            count = int(left.sum())
            if count == 0:
                break
            if run.may_shrink and 2 * count <= len(left):
                kept = left.nonzero()[:, 0]
                whole = _written(whole, ids, rows)
                rows = kept if rows is None else rows[kept]
                ids, tokens, unfinished = ids[kept], tokens[kept], unfinished[kept]
                decoder.keep(kept)
        if length + 1 < config.max_length:
            output = decoder.step(tokens, None)
    return _written(whole, ids, rows)[..., : length + 1].flatten(0, 1)


def _written(whole: Tensor, part: Tensor, rows: Tensor | None) -> Tensor:
    """A table of all rows of the batch, after that of some changed."""
    return part if rows is None else whole.index_copy(0, rows, part)


def _sampled(run: Run, probabilities: Tensor, rows: Tensor | None, batch: int) -> Tensor:
    """One token a row; finished rows that have left use up their random numbers all the same."""
    if rows is None:
        return run.draw(probabilities, 1)[:, 0]
    all_rows = probabilities.new_ones(batch, run.beams, probabilities.shape[1])
    all_rows[rows] = probabilities.view(-1, run.beams, probabilities.shape[1])
    return run.draw(all_rows.flatten(0, 1), 1).view(batch, run.beams)[rows].flatten()


class Finished(NamedTuple):
    """The best finished texts of each row and group of beams, none to `size`.

    Args:
        scores: `(batch, groups, size)`, minus infinity where there is none.
        lengths: `(batch, groups, size)`; new tokens without the end token, -1 where there is none.
        tokens: `(batch, groups, size, steps)`, new tokens.
        origins: `(batch, groups, size, steps)`; the beam whose scores each token came from.
    """

    scores: Tensor
    lengths: Tensor
    tokens: Tensor
    origins: Tensor

    def merged(self, other: Finished) -> Finished:
        """The best of both."""
        scores, order = torch.cat([self.scores, other.scores], 2).topk(self.scores.shape[2])
        lengths = torch.cat([self.lengths, other.lengths], 2).gather(2, order)
        order = order[..., None].expand(-1, -1, -1, self.tokens.shape[3])
        return Finished(
            scores,
            lengths,
            torch.cat([self.tokens, other.tokens], 2).gather(2, order),
            torch.cat([self.origins, other.origins], 2).gather(2, order),
        )

    def written(self, part: Finished, rows: Tensor | None) -> Finished:
        """Those of all rows of the batch, after those of some changed."""
        return Finished(*(_written(x, y, rows) for x, y in zip(self, part, strict=True)))


def beam_search(decoder: Any, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Beam search, beam sampling and diverse beams.

    Args:
        decoder: has `start`, `step` and `keep` as `TreeDecoder` has them.
    Returns:
        Sequences `(batch * returned, length)`, their scores `(batch * returned,)`, and beam
        indices `(batch * returned, length)`.
    """
    config, beams, steps = run.config, run.beams, run.steps
    groups = config.num_beam_groups
    size = beams // groups
    given = run.prompt.given
    batch = len(given)
    ids = given.new_full((batch, beams, config.max_length), run.pad)
    ids[..., : run.length] = given[:, None]
    origins = given.new_full((batch, beams, steps), -1)
    sums = torch.zeros(batch, beams, device=given.device)
    if not config.do_sample:  # samples differ even where all beams are still alike
        sums.fill_(COPY)[:, ::size] = 0.0
    done = torch.zeros(batch, groups, dtype=torch.bool, device=given.device)
    finished = Finished(
        torch.full((batch, groups, size), NEVER, device=given.device),
        given.new_full((batch, groups, size), -1),
        given.new_full((batch, groups, size, steps), run.pad),
        given.new_full((batch, groups, size, steps), -1),
    )
    whole, rows = finished, None  # `rows` of the batch are left, None for all
    any_finished = False
    output = decoder.start()
    for step in range(steps):
        length = run.length + step
        logits = run.record(output, beams)
        picked: list[Picked] = []
        recorded = []
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            scores = logits[:, part].flatten(0, 1).log_softmax(-1)
            if group and config.diversity_penalty:
                earlier = torch.cat([x.tokens for x in picked], 1)
                scores = hamming_diversity(scores, earlier, config.diversity_penalty)
            scores = run.processed(ids[:, part, :length].flatten(0, 1), scores, rows)
            recorded.append(scores.view(-1, size, scores.shape[1]))
            found = _candidates(run, recorded[-1], sums[:, part], rows, batch)
            if found.ends is not None:
                any_finished = True
                finished = _with_ended(finished, found, done, ids, origins, group, run, step)
            if any_finished:
                was_done = done[:, group].clone()
                _settle(finished, found, done, group, run, step)
                found = found.followed(size, was_done, run.pad)
            picked.append(found.cut(size, group * size))
        if run.scores is not None:
            run.scores.append(torch.cat(recorded, 1).flatten(0, 1))
        tokens = torch.cat([x.tokens for x in picked], 1)
        parents = torch.cat([x.parents for x in picked], 1)
        sums = torch.cat([x.sums for x in picked], 1)
        # The beams' own tables follow their parents; the cache need not.
        index = parents[..., None]
        ids[..., run.length : length] = ids[..., run.length : length].gather(
            1, index.expand(-1, -1, step)
        )
        ids[..., length] = tokens
        origins[..., :step] = origins[..., :step].gather(1, index.expand(-1, -1, step))
        origins[..., step] = parents
        if any_finished and bool(done.all()):
            break
        stop = run.stops(ids[..., : length + 1].flatten(0, 1))
        if bool(stop.all()) if isinstance(stop, Tensor) else stop:
            break
        if step + 1 == steps:
            break
        if any_finished and run.may_shrink:
            left = ~done.all(1)
            if 2 * int(left.sum()) <= len(left):
                kept = left.nonzero()[:, 0]
                whole = whole.written(finished, rows)
                rows = kept if rows is None else rows[kept]
                finished = Finished(*(x[kept] for x in finished))
                ids, origins, sums, done = ids[kept], origins[kept], sums[kept], done[kept]
                tokens, parents = tokens[kept], parents[kept]
                # The step that follows re-orders the beams of the rows that are left.
                decoder.keep(kept)
        output = decoder.step(tokens, parents)
    # Beams that are still running are as good as finished.
    running = Finished(
        _penalised(sums, step + 1, config)
        .view(-1, groups, size)
        .masked_fill(done[..., None], NEVER),
        torch.full_like(finished.lengths, step + 1),
        ids[..., run.length :].unflatten(1, (groups, size)),
        origins.unflatten(1, (groups, size)),
    )
    return _best(whole.written(finished.merged(running), rows), run)


class Picked(NamedTuple):
    """The best continuations of a group of beams, best first.

    Args:
        sums: `(batch, count)`; log probability of the text so far.
        parents: `(batch, count)`; the beams, counted in the group, that they continue.
        tokens: `(batch, count)`.
        ends: `(batch, count)`; which tokens end a text; None if none does.
    """

    sums: Tensor
    parents: Tensor
    tokens: Tensor
    ends: Tensor | None

    def followed(self, size: int, done: Tensor, pad: int) -> Picked:
        """The continuations to go on with; those of a group that is done are padding."""
        sums, parents, tokens, ends = self
        if ends is not None:
            order = ends.to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
            sums, parents, tokens = (x.gather(1, order) for x in (sums, parents, tokens))
        sums = sums.masked_fill(done[:, None], 0.0)
        return Picked(sums, parents, tokens.masked_fill(done[:, None], pad), None)

    def cut(self, size: int, first: int) -> Picked:
        """The first `size`, with parents counted over all groups."""
        return Picked(
            self.sums[:, :size], self.parents[:, :size] + first, self.tokens[:, :size], None
        )


def _candidates(run: Run, scores: Tensor, sums: Tensor, rows: Tensor | None, batch: int) -> Picked:
    """Looks for continuations among scores `(batch, size, vocab)` of beams with `(batch, size)`."""
    _, size, vocab = scores.shape
    sums = (scores + sums[..., None]).flatten(1)
    # Enough to go on with `size` beams, however many of the best ones end.
    count = max(2, 1 + len(run.eos)) * size
    if run.config.do_sample:
        probabilities = sums.softmax(-1)
        if rows is not None:
            left = probabilities
            probabilities = left.new_ones(batch, left.shape[1])
            probabilities[rows] = left
        index = run.draw(probabilities, count)
        index = index if rows is None else index[rows]
        # Best first; what was drawn after the usual number comes in only where too many end.
        drawn = sums.gather(1, index)
        order = drawn[:, : 2 * size].argsort(dim=1, descending=True)
        order = torch.cat(
            [order, torch.arange(2 * size, count, device=order.device).expand(len(order), -1)], 1
        )
        best, index = drawn.gather(1, order), index.gather(1, order)
    else:
        best, index = sums.topk(min(count, sums.shape[1]))
    tokens = index % vocab
    ends = run.is_end(tokens) if len(run.eos) else None
    if ends is not None and not bool(ends.any()):
        ends = None
    return Picked(best, index // vocab, tokens, ends)


def _penalised(sums: Tensor, length: int, config: GenerationConfig) -> Tensor:
    """Scores of finished texts: longer ones are favoured by a length penalty above zero."""
    return sums / length**config.length_penalty


def _with_ended(
    finished: Finished,
    found: Picked,
    done: Tensor,
    ids: Tensor,
    origins: Tensor,
    group: int,
    run: Run,
    step: int,
) -> Finished:
    """Adds the texts that end in this step, if they are among the best of their group."""
    size = finished.scores.shape[2]
    valid = found.ends[:, :size] & ~done[:, group, None]
    scores = _penalised(found.sums[:, :size], step + 1, run.config).masked_fill(~valid, NEVER)
    parents = found.parents[:, :size] + group * size
    index = parents[..., None].expand(-1, -1, run.steps)
    tokens = ids[..., run.length :].gather(1, index)
    beams = origins.gather(1, index)
    tokens[..., step] = found.tokens[:, :size]
    beams[..., step] = parents
    lengths = torch.full_like(parents, step).masked_fill(~valid, -1)
    new = [x[:, None] for x in (scores, lengths, tokens, beams)]
    merged = Finished(*(x[:, group : group + 1] for x in finished)).merged(Finished(*new))
    return Finished(
        *(x.index_copy(1, own, y) for own in [torch.tensor([group], device=ids.device)]
          for x, y in zip(finished, merged, strict=True))
    )  # fmt: skip


def _settle(
    finished: Finished, found: Picked, done: Tensor, group: int, run: Run, step: int
) -> None:
    """Marks the groups that cannot find anything better, or are to stop as soon as they are full.

    A group is full when it has as many finished texts as beams.
    """
    config = run.config
    full = (finished.lengths[:, group] >= 0).all(1)
    if config.early_stopping is not True:
        length = step + 1
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = run.steps
        full &= finished.scores[:, group].amin(1) >= _penalised(found.sums[:, 0], length, config)
    done[:, group] |= full


def _best(finished: Finished, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """The texts to return, as `beam_search` returns them."""
    config = run.config
    batch, count = len(finished.scores), config.num_return_sequences
    scores, order = finished.scores.flatten(1).topk(count)
    lengths = finished.lengths.flatten(1).gather(1, order).flatten()
    index = order[..., None].expand(-1, -1, run.steps)
    tokens = finished.tokens.flatten(1, 2).gather(1, index).flatten(0, 1)
    origins = finished.origins.flatten(1, 2).gather(1, index)
    first = torch.arange(batch, device=order.device)[:, None, None] * run.beams
    origins = torch.where(origins < 0, -1, origins + first).flatten(0, 1)
    places = torch.arange(run.steps, device=order.device)
    width = int(lengths.max())
    tokens = tokens.masked_fill(places >= lengths[:, None], run.pad)
    if len(run.eos):
        width = min(width + 1, run.steps)
        tokens = tokens.masked_fill(places == lengths[:, None], int(run.eos[0]))
    prompt = run.prompt.given.repeat_interleave(count, 0)
    sequences = torch.cat([prompt, tokens[:, :width]], 1)
    indices = torch.full_like(sequences, -1)
    indices[:, :width] = origins[:, :width]
    return sequences, scores.flatten(), indices


class GenerationMixin(Generator):
    """`generate`, for models with a language model's head.

    An encoder-decoder model overrides `_generation_inputs`, `_encode` and `_decode`.
    """

    def _generation_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that `generate` takes besides `input_ids`."""
        names = inspect.signature(type(self).forward).parameters
        wanted = (
            "attention_mask", "token_type_ids", "head_mask", "encoder_hidden_states",
            "encoder_attention_mask",
        )  # fmt: skip
        return tuple(name for name in wanted if name in names)

    def _max_positions(self) -> int | None:
        """The longest text there are positions for."""
        config = getattr(self.config, "decoder", self.config)
        return getattr(config, "max_position_embeddings", None)

    def _decoder_part(self) -> torch.nn.Module:
        """The part of the model that `_decode` runs."""
        return self.get_decoder() if self.config.is_encoder_decoder else self

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
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: Any,
        encoded: Mapping[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Calls the decoder.

        Args:
            input_ids: `(batch, new)`: the prompt first, then one token per beam.
            attention_mask: None, `(batch, keys)` or `(batch, new, keys)`.
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
            **encoded,
            **kwargs,
        )

    def _step_function(
        self,
        prompt: Prompt,
        beams: int,
        steps: int,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> TreeDecoder:
        """What is called for the next tokens' scores; takes what `TreeDecoder` takes."""
        return TreeDecoder(self, prompt, beams, steps, encoded, flags)

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | list[Any] | None = None,
        stopping_criteria: StoppingCriteriaList | list[Any] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Any] | None = None,
        streamer: Any = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continues a text, or answers one where there is an encoder.

        Args:
            inputs: `(batch, length)`: the prompt, or the encoder's input. Also as `input_ids`.
                A decoder without one starts with its bos_token_id.
            generation_config: what to use instead of `self.generation_config`.
            logits_processor: `LogitsProcessor` of one's own, called after the others.
            stopping_criteria: `StoppingCriteria` of one's own.
            prefix_allowed_tokens_fn: takes a row of the batch and its tokens `(length,)`, returns
                the ids that may follow.
            streamer: has `put` and `end`, see `zoo.generation.TextStreamer`; not with beams.
            generator: where random numbers come from; torch's own if None.
                Differs: Keras takes a `seed`.
            kwargs: fields of the configuration to override; inputs of the model, such as
                attention_mask `(batch, length)`, whose padding may be on either side.
        Returns:
            Sequences `(batch * num_return_sequences, length)`: the prompt and what follows it,
            padded at the end; with `return_dict_in_generate` one of the output classes.
        Raises:
            ValueError: an unknown argument or an impossible value.
        """
        names = self._generation_inputs()
        config, given = self._request(generation_config, kwargs, (*names, "input_ids"))
        if inputs is not None:
            if "input_ids" in given:
                raise ValueError("generate: expected either inputs or input_ids, got both")
            given["input_ids"] = inputs
        hooks = (logits_processor, stopping_criteria, prefix_allowed_tokens_fn, streamer, generator)
        if config.return_dict_in_generate:
            with torch.no_grad():
                return self._generate(config, given, *hooks)
        with torch.inference_mode():  # has less to do, but its tensors are no good for training
            sequences = self._generate(config, given, *hooks)
        return sequences.clone()

    def _generate(
        self,
        config: GenerationConfig,
        given: dict[str, Any],
        logits_processor: Any,
        stopping_criteria: Any,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Any] | None,
        streamer: Any,
        generator: torch.Generator | None,
    ) -> Any:
        """`generate`, after its arguments were sorted into fields and inputs."""
        flags = {
            name: config.return_dict_in_generate and getattr(config, name)
            for name in ("output_attentions", "output_hidden_states")
        }
        generation.settle_tokens(config)
        encoder = self.config.is_encoder_decoder
        source, output, encoded, prompt = (
            self._with_encoder(config, given, flags) if encoder
            else self._without_encoder(config, given, flags)
        )  # fmt: skip
        length = prompt.given.shape[1]
        generation.settle_lengths(config, length)
        beam_search_ = config.num_beams > 1
        if beam_search_ and streamer is not None:
            raise ValueError(f"streamer: expected num_beams=1, got {config.num_beams}")
        beams = config.num_beams if beam_search_ else config.num_return_sequences
        hooks = processors(
            config, length, source, prefix_allowed_tokens_fn, beams // config.num_beam_groups
        )
        hooks += logits_processor or []
        shaping = warpers(config) if config.do_sample else LogitsProcessorList()
        if config.renormalize_logits:
            (shaping if config.do_sample else hooks).append(LogitNormalization())
        criteria = StoppingCriteriaList(stopping_criteria or [])
        run = Run(config, prompt, beams, hooks, shaping, criteria, streamer, generator)
        decoder = self._step_function(prompt, beams, run.steps, encoded, flags)
        run.may_shrink &= getattr(decoder, "may_shrink", True)
        if streamer is not None:
            streamer.put(prompt.given.cpu())
        if beam_search_:
            found = beam_search(decoder, run)
        else:
            found = (search(decoder, run),)
        if streamer is not None:
            streamer.end()
        if not config.return_dict_in_generate:
            return found[0]
        return _output(found, run, decoder, output if encoder else None, encoder)

    def _without_encoder(
        self, config: GenerationConfig, given: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[Tensor, None, dict[str, Any], Prompt]:
        ids = given.pop("input_ids", None)
        if ids is None:
            if config.bos_token_id is None:
                raise ValueError("generate: expected input_ids or bos_token_id, got neither")
            states = given.get("encoder_hidden_states")
            batch = 1 if states is None else len(states)
            ids = torch.full((batch, 1), config.bos_token_id, device=self.device)
        ids = _as_ids("input_ids", ids)
        mask = _as_mask("attention_mask", given.pop("attention_mask", None), ids, config)
        prompt = Prompt.of(ids, mask, given.pop("token_type_ids", None))
        _, encoded = self._encode(given, flags)
        return prompt.seen, None, encoded, prompt

    def _with_encoder(
        self, config: GenerationConfig, given: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[Tensor | None, Any, dict[str, Any], Prompt]:
        ids, mask = given.pop("decoder_input_ids", None), given.pop("decoder_attention_mask", None)
        source = given.get("input_ids")
        if source is not None:
            source = given["input_ids"] = _as_ids("input_ids", source)
            found = _as_mask("attention_mask", given.get("attention_mask"), source, config)
            if found is not None:
                given["attention_mask"] = found.long()
                source = source.masked_fill(~found, -1)
        output, encoded = self._encode(given, flags)
        batch = len(output[0])
        start = generation.start_token(config) if ids is None or mask is None else None
        if ids is None:
            ids = torch.full((batch, 1), start, device=output[0].device)
        ids = _as_ids("decoder_input_ids", ids)
        if start is not None and not bool((ids[:, 0] == start).all()) and mask is None:
            ids = torch.cat([ids.new_full((len(ids), 1), start), ids], 1)
        if len(ids) != batch:
            raise ValueError(
                f"decoder_input_ids: expected {batch} rows as the encoder's input has, "
                f"got {len(ids)}"
            )
        mask = None if mask is None else _as_mask("decoder_attention_mask", mask, ids, config)
        return source, output, encoded, Prompt.of(ids, mask, None)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The scores of the tokens that were generated.

        Args:
            sequences: `(rows, length)`.
            scores: per step `(batch * beams, vocab)`.
            beam_indices: `(rows, length)`, of beam search.
            normalize_logits: whether to turn scores into log probabilities first.
        Returns:
            `(rows, steps)`; zero behind the end of a beam.
        """
        steps = torch.stack(scores)  # (steps, rows, vocab)
        if normalize_logits:
            steps = steps.log_softmax(-1)
        rows = len(sequences)
        if beam_indices is None:
            beam_indices = torch.arange(rows, device=steps.device)[:, None].expand(-1, len(steps))
        width = int((beam_indices >= 0).sum(1).max())
        indices = beam_indices[:, :width]
        tokens = sequences[:, sequences.shape[1] - width :]
        time = torch.arange(width, device=steps.device)
        found = steps[time, indices.clamp(min=0), tokens]
        return found.masked_fill(indices < 0, 0.0)


def _as_ids(name: str, ids: Any) -> Tensor:
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        got = tuple(ids.shape) if hasattr(ids, "shape") else type(ids).__name__
        raise ValueError(f"{name}: expected integers of shape (batch, length), got {got}")
    if ids.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one token, got shape {tuple(ids.shape)}")
    return ids.long()


def _as_mask(name: str, mask: Any, ids: Tensor, config: GenerationConfig) -> Tensor | None:
    """A bool mask; without one padding tokens are masked, unless they may mean the end."""
    if mask is None:
        pad = config.pad_token_id
        if pad is None or pad in config.eos_token_ids:
            return None
        found = ids != pad
        return None if bool(found.all()) or not bool(found.any(1).all()) else found
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        got = tuple(mask.shape) if hasattr(mask, "shape") else type(mask).__name__
        raise ValueError(f"{name}: expected shape {tuple(ids.shape)}, got {got}")
    return mask != 0


def _output(found: tuple[Any, ...], run: Run, decoder: Any, output: Any, encoder: bool) -> Any:
    """The published output class with what was asked for."""
    config, steps = run.config, run.outputs
    fields: dict[str, Any] = {"sequences": found[0]}
    if len(found) > 1:
        fields["sequences_scores"] = found[1] if config.output_scores else None
        fields["beam_indices"] = found[2] if config.output_scores else None
    for name in ("scores", "logits"):
        steps_of = getattr(run, name)
        fields[name] = None if steps_of is None else tuple(steps_of)
    kinds = {"attentions": config.output_attentions, "hidden_states": config.output_hidden_states}
    for name, wanted in kinds.items():
        value = tuple(getattr(step, name) for step in steps) if wanted else None
        fields[f"decoder_{name}" if encoder else name] = value
    if encoder:
        fields["encoder_attentions"] = output.attentions
        fields["encoder_hidden_states"] = output.hidden_states
        if config.output_attentions:
            fields["cross_attentions"] = tuple(step.cross_attentions for step in steps)
    fields["past_key_values"] = decoder.past_key_values()
    kind = {
        (False, False): GenerateDecoderOnlyOutput,
        (False, True): GenerateEncoderDecoderOutput,
        (True, False): GenerateBeamDecoderOnlyOutput,
        (True, True): GenerateBeamEncoderDecoderOutput,
    }[len(found) > 1, encoder]
    return kind(**fields)

"""What changes the scores of the next token during generation, under the published names.

Everywhere: `input_ids` `(rows, length)`, -1 where a row's prompt is padded; `scores`
`(rows, vocab)`. With `rowwise` a processor looks at nothing but what it is called with, so that
finished rows may leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.generation import GenerationConfig

NEVER = -math.inf


class LogitsProcessor:
    """Changes the scores of the next token; a hook for users.

    Differs: in Keras it becomes a part of the graph, and is also told the length so far.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """
        Args:
            input_ids: `(batch * beams, length)`, what there is so far.
            scores: `(batch * beams, vocab)`; logits, or log probabilities in beam search.
        Returns:
            The new scores.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class LogitsProcessorList(list):
    """Processors applied one after another; plain functions will do as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


def _column(tokens: int | Sequence[int], scores: Tensor) -> Tensor:
    tokens = [tokens] if isinstance(tokens, int) else list(tokens)
    return torch.tensor(tokens, dtype=torch.long, device=scores.device)


def _without(scores: Tensor, tokens: int | Sequence[int]) -> Tensor:
    return scores.index_fill(1, _column(tokens, scores), NEVER)


def _only(scores: Tensor, tokens: int | Sequence[int]) -> Tensor:
    return torch.full_like(scores, NEVER).index_fill(1, _column(tokens, scores), 0.0)


def _present(input_ids: Tensor, scores: Tensor) -> Tensor:
    """`(rows, vocab)`: which tokens a row holds."""
    vocab = scores.shape[1]
    table = torch.zeros(scores.shape[0], vocab + 1, dtype=torch.bool, device=scores.device)
    return table.scatter_(1, input_ids.where(input_ids >= 0, vocab), True)[:, :vocab]


class MinLengthLogitsProcessor(LogitsProcessor):
    """No end before a length, the prompt counted in."""

    rowwise = True

    def __init__(self, min_length: int, eos_token_id: int | Sequence[int]) -> None:
        self.min_length, self.eos_token_id = min_length, eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] >= self.min_length:
            return scores
        return _without(scores, self.eos_token_id)


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """No end before a number of new tokens."""

    def __init__(
        self,
        prompt_length_to_skip: int,
        min_new_tokens: int,
        eos_token_id: int | Sequence[int],
    ) -> None:
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id)


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens that are there already become less likely (Keskar et al. 2019, section 4.1)."""

    rowwise = True

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(_present(input_ids, scores), changed, scores)


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Tokens of the encoder's input become more likely.

    Args:
        encoder_input_ids: `(batch, source)`, -1 where padded.
    """

    rowwise = False

    def __init__(self, penalty: float, encoder_input_ids: Tensor) -> None:
        self.processor = RepetitionPenaltyLogitsProcessor(1 / penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beams = len(scores) // len(self.encoder_input_ids)
        return self.processor(self.encoder_input_ids.repeat_interleave(beams, 0), scores)


def _without_seen_ngrams(size: int, text: Tensor, tail: Tensor, scores: Tensor) -> Tensor:
    """Forbids what follows in `text` wherever its n-gram begins like the end of `tail`."""
    if text.shape[1] < size or tail.shape[1] < size - 1:
        return scores
    grams = text.unfold(1, size, 1)  # (rows, places, size)
    begins = tail[:, None, tail.shape[1] - size + 1 :]
    seen = (grams[..., :-1] == begins).all(-1) & (grams >= 0).all(-1)
    forbidden = torch.where(seen, NEVER, 0.0).to(scores.dtype)
    table = torch.zeros_like(scores)
    return scores + table.scatter_reduce_(1, grams[..., -1].clamp(min=0), forbidden, "amin")


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No n-gram occurs twice (Paulus et al. 2017, section 2.5)."""

    rowwise = True

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = ngram_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _without_seen_ngrams(self.ngram_size, input_ids, input_ids, scores)


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No n-gram of the encoder's input occurs.

    Args:
        encoder_input_ids: `(batch, source)`, -1 where padded.
    """

    rowwise = False

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Tensor) -> None:
        self.ngram_size, self.encoder_input_ids = encoder_ngram_size, encoder_input_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        text = self.encoder_input_ids.repeat_interleave(
            len(scores) // len(self.encoder_input_ids), 0
        )
        return _without_seen_ngrams(self.ngram_size, text, input_ids, scores)


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds to the score of a token that would complete one of some sequences.

    Args:
        sequence_bias: `{(token, ...): bias}`, or pairs of both.
    """

    rowwise = True

    def __init__(self, sequence_bias: Mapping[Sequence[int], float] | Sequence[Any]) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        by_length: dict[int, list[tuple[Sequence[int], float]]] = {}
        for tokens, bias in pairs:
            by_length.setdefault(len(tokens), []).append((tokens, float(bias)))
        # Per length: beginnings (sequences, length - 1), last tokens and biases (sequences,).
        self.tables = {
            length: (
                torch.tensor([tokens[:-1] for tokens, _ in items], dtype=torch.long),
                torch.tensor([tokens[-1] for tokens, _ in items]),
                torch.tensor([bias for _, bias in items]),
            )
            for length, items in sorted(by_length.items())
        }

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for length, table in self.tables.items():
            if 1 < length and length > input_ids.shape[1]:
                continue
            begins, last, bias = (x.to(scores.device) for x in table)
            _assert_tokens(last, scores.shape[1])
            tail = input_ids[:, None, input_ids.shape[1] - length + 1 :]
            added = torch.where((tail == begins).all(-1), bias.to(scores.dtype), 0.0)
            scores.index_add_(1, last, added)
        return scores


def _assert_tokens(tokens: Tensor, vocab: int) -> None:
    if int(tokens.max()) >= vocab:
        raise ValueError(
            f"sequence_bias, bad_words_ids: expected token ids below the vocabulary's {vocab}, "
            f"got {int(tokens.max())}"
        )


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Some sequences do not occur; the end token itself stays allowed."""

    def __init__(
        self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Sequence[int] | None
    ) -> None:
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        words = [tuple(word) for word in bad_words_ids]
        super().__init__({word: NEVER for word in words if word not in [(end,) for end in ends]})


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Only tokens that a function allows (De Cao et al. 2020).

    Args:
        prefix_allowed_tokens_fn: takes the row of the batch and `input_ids` `(length,)`, returns
            token ids.
        num_beams: rows of `input_ids` per row of the batch.
    """

    rowwise = False

    def __init__(
        self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]], num_beams: int
    ) -> None:
        self.function, self.beams = prefix_allowed_tokens_fn, num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mask = torch.full_like(scores, NEVER)
        for row, ids in enumerate(input_ids):
            allowed = self.function(row // self.beams, ids)
            if len(allowed) == 0:
                raise ValueError(
                    "prefix_allowed_tokens_fn: expected at least one token, got none for row "
                    f"{row // self.beams} of the batch after {ids.tolist()}"
                )
            mask[row, torch.as_tensor(allowed, dtype=torch.long, device=mask.device)] = 0.0
        return scores + mask


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """The token that follows the decoder's start token."""

    rowwise = True

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _only(scores, self.bos_token_id) if input_ids.shape[1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """The last token where the maximal length is reached."""

    rowwise = True

    def __init__(self, max_length: int, eos_token_id: int | Sequence[int]) -> None:
        self.max_length, self.eos_token_id = max_length, eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = input_ids.shape[1] == self.max_length - 1
        return _only(scores, self.eos_token_id) if last else scores


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """Zero for what is no number, the largest finite numbers for infinite ones."""

    rowwise = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.nan_to_num(nan=0.0)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """The end becomes more likely with each token after a number of them.

    Args:
        exponential_decay_length_penalty: new tokens to start after, and the factor per token.
        input_ids_seq_length: the prompt's length.
    """

    rowwise = True

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | Sequence[int],
        input_ids_seq_length: int,
    ) -> None:
        self.start = exponential_decay_length_penalty[0] + input_ids_seq_length
        self.factor = exponential_decay_length_penalty[1]
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        over = input_ids.shape[1] - self.start
        if over <= 0:
            return scores
        columns = _column(self.eos_token_id, scores)
        ends = scores[:, columns]
        changed = ends + ends.abs() * (self.factor**over - 1)
        changed = torch.where(ends == NEVER, ends, changed)  # what is forbidden stays so
        return scores.index_copy(1, columns, changed)


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Some tokens do not occur."""

    rowwise = True

    def __init__(self, suppress_tokens: Sequence[int]) -> None:
        self.tokens = suppress_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _without(scores, self.tokens)


class SuppressTokensAtBeginLogitsProcessor(SuppressTokensLogitsProcessor):
    """Some tokens do not occur at one length."""

    def __init__(self, begin_suppress_tokens: Sequence[int], begin_index: int) -> None:
        super().__init__(begin_suppress_tokens)
        self.begin_index = begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _without(scores, self.tokens) if input_ids.shape[1] == self.begin_index else scores


class LogitNormalization(LogitsProcessor):
    """Log probabilities."""

    rowwise = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.log_softmax(-1)


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides the scores; above one makes likely and unlikely tokens more alike."""

    rowwise = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Only the most likely tokens (Fan et al. 2018, section 5.4)."""

    rowwise = True

    def __init__(self, top_k: int, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(top_k, min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = scores.topk(min(self.top_k, scores.shape[1])).values[:, -1:]
        return scores.masked_fill(scores < least, NEVER)


class TopPLogitsWarper(LogitsProcessor):
    """The most likely tokens that make up a probability (Holtzman et al. 2019, section 3.1)."""

    rowwise = True

    def __init__(self, top_p: float, min_tokens_to_keep: int = 1) -> None:
        self.top_p, self.kept = top_p, min_tokens_to_keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ordered, order = scores.sort()  # ascending: rounding is least where probabilities are
        unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
        unlikely[:, -self.kept :] = False
        return scores.masked_fill(unlikely.scatter(1, order, unlikely), NEVER)


class TypicalLogitsWarper(LogitsProcessor):
    """Tokens about as surprising as expected (Meister et al. 2022, section 4)."""

    rowwise = True

    def __init__(self, mass: float, min_tokens_to_keep: int = 1) -> None:
        self.mass, self.kept = mass, min_tokens_to_keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        probabilities = logs.exp()
        entropy = -(logs * probabilities).nansum(-1, keepdim=True)
        distance, order = (-logs - entropy).abs().sort()
        mass = probabilities.gather(1, order).cumsum(-1)
        last = (mass < self.mass).sum(1, keepdim=True).clamp(max=scores.shape[1] - 1)
        far = distance > distance.gather(1, last)
        far[:, : self.kept] = False
        return scores.masked_fill(far.scatter(1, order, far), NEVER)


class EpsilonLogitsWarper(LogitsProcessor):
    """Tokens of a least probability (Hewitt et al. 2022, section 4.1)."""

    rowwise = True

    def __init__(self, epsilon: float, min_tokens_to_keep: int = 1) -> None:
        self.epsilon, self.kept = epsilon, min_tokens_to_keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._cut(scores, scores.softmax(-1), self.epsilon)

    def _cut(self, scores: Tensor, probabilities: Tensor, least: Any) -> Tensor:
        best = scores.topk(min(self.kept, scores.shape[1])).values[:, -1:]
        return scores.masked_fill((probabilities < least) & (scores < best), NEVER)


class EtaLogitsWarper(EpsilonLogitsWarper):
    """Tokens of a least probability that falls with the entropy (Hewitt et al. 2022, 4.2)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(-1)
        entropy = -(probabilities * scores.log_softmax(-1)).nansum(-1, keepdim=True)
        least = (math.sqrt(self.epsilon) * (-entropy).exp()).clamp(max=self.epsilon)
        return self._cut(scores, probabilities, least)


def hamming_diversity(scores: Tensor, earlier: Tensor, penalty: float) -> Tensor:
    """Tokens that earlier groups chose become less likely (Vijayakumar et al. 2018, section 4.1).

    Args:
        scores: `(batch * size, vocab)`.
        earlier: `(batch, beams)`; tokens of the groups before.
    """
    counts = scores.new_zeros(len(earlier), scores.shape[1])
    counts.scatter_add_(1, earlier, counts.new_ones(earlier.shape))
    return scores - penalty * counts.repeat_interleave(len(scores) // len(earlier), 0)


def processors(
    config: GenerationConfig,
    prompt: int,
    source: Tensor | None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None,
    beams: int,
) -> LogitsProcessorList:
    """What the configuration asks for, and nothing else, in the published order.

    Args:
        prompt: length of the prompt.
        source: tokens of the encoder's input, or of the prompt, `(batch, source)`, -1 where padded.
        beams: rows of scores per row of the batch.
    """
    eos, found = config.eos_token_ids, LogitsProcessorList()
    if config.sequence_bias is not None:
        found.append(SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.encoder_repetition_penalty != 1.0 and source is not None:
        penalty = config.encoder_repetition_penalty
        found.append(EncoderRepetitionPenaltyLogitsProcessor(penalty, source))
    if config.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size and source is not None:
        size = config.encoder_no_repeat_ngram_size
        found.append(EncoderNoRepeatNGramLogitsProcessor(size, source))
    if config.bad_words_ids is not None:
        found.append(NoBadWordsLogitsProcessor(config.bad_words_ids, config.eos_token_id))
    if eos and config.min_length > prompt:
        found.append(MinLengthLogitsProcessor(config.min_length, eos))
    if prefix_allowed_tokens_fn is not None:
        found.append(PrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, beams))
    if config.forced_bos_token_id is not None:
        found.append(ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        found.append(ForcedEOSTokenLogitsProcessor(config.max_length, config.forced_eos_token_id))
    if config.remove_invalid_values:
        found.append(InfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None and eos:
        decay = config.exponential_decay_length_penalty
        found.append(ExponentialDecayLengthPenalty(decay, eos, prompt))
    if config.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(config.suppress_tokens))
    if config.begin_suppress_tokens:
        later = prompt == 1 and config.forced_bos_token_id is not None
        tokens = config.begin_suppress_tokens
        found.append(SuppressTokensAtBeginLogitsProcessor(tokens, prompt + later))
    return found


def warpers(config: GenerationConfig) -> LogitsProcessorList:
    """What shapes the distribution that is sampled from, in the published order."""
    found = LogitsProcessorList()
    # Beam search picks two continuations per beam, and one more for each way to end.
    kept = len(config.eos_token_ids) + 1 if config.num_beams > 1 else 1
    if config.temperature != 1.0:
        found.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        found.append(TopKLogitsWarper(config.top_k, kept))
    if config.top_p < 1.0:
        found.append(TopPLogitsWarper(config.top_p, kept))
    if config.typical_p < 1.0:
        found.append(TypicalLogitsWarper(config.typical_p, kept))
    if config.epsilon_cutoff > 0.0:
        found.append(EpsilonLogitsWarper(config.epsilon_cutoff, kept))
    if config.eta_cutoff > 0.0:
        found.append(EtaLogitsWarper(config.eta_cutoff, kept))
    return found

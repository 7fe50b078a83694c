"""What is done to the scores of the next token before one is chosen.

Sources: Keskar et al. 2019 (repetition penalty), Fan et al. 2018 (top-k), Holtzman et al. 2020
(top-p), Meister et al. 2022 (typical), Hewitt et al. 2022 (epsilon, eta), Vijayakumar et al. 2018
(diverse beams), Paulus et al. 2018 (no repeated n-grams).

An id below zero is no token: the padding of a prompt, or a place that is not filled yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.generation import GenerationConfig

NEVER = float("-inf")


class TFLogitsProcessor:
    """Changes the scores of the next token; calling it is part of the graph."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """
        Args:
            input_ids: `(rows, length)`, of which `cur_len` are filled.
            scores: `(rows, vocab)`.
            cur_len: scalar.
        Returns:
            `(rows, vocab)`.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__")


class TFLogitsProcessorList(list):
    """Processors that are applied one after another."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        for processor in self:
            scores = processor(input_ids, scores, cur_len)
        return scores


def _one_of(tokens: int | Sequence[int], scores: Any) -> Any:
    """`(vocab,)`: true for those tokens."""
    tokens = [tokens] if isinstance(tokens, int) else tokens
    vocab = scores.shape[-1]
    wrong = [token for token in tokens if not 0 <= token < vocab]
    if wrong:
        raise ValueError(f"token ids {wrong}: expected values from 0 to {vocab - 1}")
    chosen = np.zeros(vocab, bool)
    chosen[list(tokens)] = True
    return tf.constant(chosen)


def _for_each(ids: Any, scores: Any) -> Any:
    """`(batch, source)` -> `(rows, source)`: once for each beam."""
    return tf.repeat(ids, tf.shape(scores)[0] // tf.shape(ids)[0], axis=0)


def _scatter_indices(ids: Any) -> Any:
    """`(rows, count)` -> `(rows, count, 2)`: row and id."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
    return tf.stack([rows, ids], axis=-1)


def _ban(scores: Any, ids: Any) -> Any:
    """Scores with minus infinity at the ids, `(rows, count)`; a negative id bans nothing."""
    values = tf.where(ids < 0, -NEVER, NEVER)
    values = tf.cast(values, scores.dtype)
    return tf.tensor_scatter_nd_min(scores, _scatter_indices(tf.maximum(ids, 0)), values)


def _last_tokens(ids: Any, count: int, cur_len: Any) -> Any:
    """The `count` tokens before `cur_len`, `(rows, count)`; -1 where there are not so many."""
    places = cur_len - count + tf.range(count)
    found = tf.gather(ids, tf.maximum(places, 0), axis=1)
    return tf.where(places < 0, -1, found)


class TFMinLengthLogitsProcessor(TFLogitsProcessor):
    """No end before a length, which counts the prompt."""

    def __init__(self, min_length: int, eos_token_id: int | Sequence[int]) -> None:
        self.min_length = min_length
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        banned = _one_of(self.eos_token_id, scores) & (cur_len < self.min_length)
        return tf.where(banned, NEVER, scores)


class TFMinNewTokensLengthLogitsProcessor(TFMinLengthLogitsProcessor):
    """No end before a number of new tokens."""

    def __init__(
        self, prompt_length_to_skip: Any, min_new_tokens: int, eos_token_id: int | Sequence[int]
    ) -> None:
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id)


class TFRepetitionPenaltyLogitsProcessor(TFLogitsProcessor):
    """Tokens that have occurred become less likely (penalty above 1) or more."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        # In the place of what is no token, one of the row's tokens.
        ids = tf.where(input_ids < 0, tf.reduce_max(input_ids, axis=1, keepdims=True), input_ids)
        found = tf.gather(scores, ids, batch_dims=1)
        changed = tf.where(found < 0, found * self.penalty, found / self.penalty)
        return tf.tensor_scatter_nd_update(scores, _scatter_indices(ids), changed)


class TFEncoderRepetitionPenaltyLogitsProcessor(TFLogitsProcessor):
    """Tokens of the encoder's input become more likely (penalty above 1) or less."""

    def __init__(self, penalty: float, encoder_input_ids: Any) -> None:
        self.processor = TFRepetitionPenaltyLogitsProcessor(1 / penalty)
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return self.processor(_for_each(self.encoder_input_ids, scores), scores, cur_len)


def _without_ngrams_of(source: Any, input_ids: Any, scores: Any, cur_len: Any, size: int) -> Any:
    """Bans what followed, in `source`, the last `size - 1` tokens of `input_ids`."""
    last = _last_tokens(input_ids, size - 1, cur_len)
    length = tf.shape(source)[1]
    source = tf.pad(source, [[0, 0], [0, size]], constant_values=-1)
    following = source[:, size - 1 : length + size - 1]
    for place in range(size - 1):
        token = last[:, place, None]
        same = (source[:, place : length + place] == token) & (token >= 0)
        following = tf.where(same, following, -1)
    return _ban(scores, following)


class TFNoRepeatNGramLogitsProcessor(TFLogitsProcessor):
    """No n tokens in a row occur twice."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = ngram_size

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return _without_ngrams_of(input_ids, input_ids, scores, cur_len, self.ngram_size)


class TFEncoderNoRepeatNGramLogitsProcessor(TFLogitsProcessor):
    """No n tokens in a row are those of the encoder's input."""

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Any) -> None:
        self.ngram_size = encoder_ngram_size
        self.encoder_input_ids = encoder_input_ids

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        source = _for_each(self.encoder_input_ids, scores)
        return _without_ngrams_of(source, input_ids, scores, cur_len, self.ngram_size)


class TFSequenceBiasLogitsProcessor(TFLogitsProcessor):
    """Adds to the score of a token that would complete a sequence."""

    def __init__(self, sequence_bias: Mapping[Sequence[int], float] | Sequence[Any]) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        self.sequence_bias = {tuple(tokens): float(bias) for tokens, bias in pairs}

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        total = tf.zeros_like(scores)
        for length in sorted({len(tokens) for tokens in self.sequence_bias}):
            sequences = [tokens for tokens in self.sequence_bias if len(tokens) == length]
            _one_of([token for tokens in sequences for token in tokens], scores)  # checks them
            table = tf.constant(sequences, input_ids.dtype)  # (sequences, length)
            bias = tf.constant([self.sequence_bias[tokens] for tokens in sequences], scores.dtype)
            last = _last_tokens(input_ids, length - 1, cur_len)
            found = tf.reduce_all(last[:, None, :] == table[None, :, :-1], axis=-1)
            if length > 1:
                found &= cur_len >= length
            added = tf.where(found, bias, 0.0)  # (rows, sequences)
            ids = tf.broadcast_to(table[None, :, -1], tf.shape(found))
            total = tf.tensor_scatter_nd_add(total, _scatter_indices(ids), added)
        return scores + total


class TFNoBadWordsLogitsProcessor(TFSequenceBiasLogitsProcessor):
    """Sequences that never occur; one that is only an end token is left out of them."""

    def __init__(
        self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Sequence[int] | None
    ) -> None:
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        words = [tuple(word) for word in bad_words_ids]
        super().__init__({word: NEVER for word in words if word not in [(end,) for end in ends]})


class TFPrefixConstrainedLogitsProcessor(TFLogitsProcessor):
    """Only tokens that a function allows (De Cao et al. 2020); it is called outside the graph.

    Args:
        prefix_allowed_tokens_fn: takes the row of the batch and `input_ids` `(length,)`, returns
            token ids.
        num_beams: rows of `input_ids` per row of the batch.
    """

    def __init__(
        self, prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]], num_beams: int
    ) -> None:
        self.function, self.beams = prefix_allowed_tokens_fn, num_beams

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        vocab = scores.shape[-1]

        def allowed(input_ids: np.ndarray, cur_len: np.ndarray) -> np.ndarray:
            mask = np.full((len(input_ids), vocab), NEVER, np.float32)
            for row, ids in enumerate(input_ids[:, :cur_len]):
                tokens = self.function(row // self.beams, tf.constant(ids))
                if len(tokens) == 0:
                    raise ValueError(
                        "prefix_allowed_tokens_fn: expected at least one token, got none for row "
                        f"{row // self.beams} of the batch after {ids.tolist()}"
                    )
                mask[row, np.asarray(tokens)] = 0.0
            return mask

        mask = tf.numpy_function(allowed, [input_ids, cur_len], tf.float32)
        return scores + tf.ensure_shape(mask, scores.shape)


class TFForcedBOSTokenLogitsProcessor(TFLogitsProcessor):
    """The first token after the start token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = bos_token_id

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        forced = tf.where(_one_of([self.bos_token_id], scores), 0.0, NEVER)
        return tf.where(cur_len == 1, forced, scores)


class TFForcedEOSTokenLogitsProcessor(TFLogitsProcessor):
    """The last token, where the greatest length is reached."""

    def __init__(self, max_length: Any, eos_token_id: int | Sequence[int]) -> None:
        self.max_length = max_length
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        forced = tf.where(_one_of(self.eos_token_id, scores), 0.0, NEVER)
        return tf.where(cur_len == self.max_length - 1, forced, scores)


class TFInfNanRemoveLogitsProcessor(TFLogitsProcessor):
    """No number becomes zero, infinite ones the largest or lowest number."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        scores = tf.where(tf.math.is_nan(scores), 0.0, scores)
        return tf.clip_by_value(scores, scores.dtype.min, scores.dtype.max)


class TFExponentialDecayLengthPenalty(TFLogitsProcessor):
    """The end becomes likelier with each token after a start, which counts from the prompt."""

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | Sequence[int],
        input_ids_seq_length: Any,
    ) -> None:
        start, self.factor = exponential_decay_length_penalty
        self.start = start + input_ids_seq_length
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        beyond = tf.cast(tf.maximum(cur_len - self.start, 0), scores.dtype)
        raised = scores + tf.abs(scores) * (tf.pow(self.factor, beyond) - 1.0)
        changed = _one_of(self.eos_token_id, scores) & (cur_len > self.start)
        return tf.where(changed, raised, scores)


class TFSuppressTokensLogitsProcessor(TFLogitsProcessor):
    """Tokens that never come."""

    def __init__(self, suppress_tokens: Sequence[int]) -> None:
        self.suppress_tokens = suppress_tokens

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return tf.where(_one_of(self.suppress_tokens, scores), NEVER, scores)


class TFSuppressTokensAtBeginLogitsProcessor(TFLogitsProcessor):
    """Tokens that are not the first one."""

    def __init__(self, begin_suppress_tokens: Sequence[int], begin_index: Any) -> None:
        self.begin_suppress_tokens = begin_suppress_tokens
        self.begin_index = begin_index

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        banned = _one_of(self.begin_suppress_tokens, scores) & (cur_len == self.begin_index)
        return tf.where(banned, NEVER, scores)


class TFLogitNormalization(TFLogitsProcessor):
    """Log probabilities."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return tf.nn.log_softmax(scores)


class TFTemperatureLogitsWarper(TFLogitsProcessor):
    """Below 1 a sharper distribution, above 1 a flatter one."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return scores / self.temperature


class TFTopKLogitsWarper(TFLogitsProcessor):
    """The `top_k` most likely tokens."""

    def __init__(self, top_k: int, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(top_k, min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        best = tf.math.top_k(scores, min(self.top_k, scores.shape[-1])).values
        return tf.where(scores < best[:, -1:], NEVER, scores)


class TFTopPLogitsWarper(TFLogitsProcessor):
    """The most likely tokens that have the probability `top_p` together."""

    def __init__(self, top_p: float, min_tokens_to_keep: int = 1) -> None:
        self.top_p, self.kept = top_p, min_tokens_to_keep

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        ordered = tf.sort(scores, axis=-1, direction="DESCENDING")
        above = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
        kept = tf.reduce_sum(tf.cast(above < self.top_p, tf.int32), axis=-1, keepdims=True)
        return _keep_above(scores, ordered, tf.maximum(kept, self.kept))


def _keep_above(scores: Any, ordered: Any, kept: Any) -> Any:
    """The `kept` highest scores, `(rows, 1)`, out of those in descending order."""
    lowest = tf.gather(ordered, tf.minimum(kept, scores.shape[-1]) - 1, batch_dims=1)
    return tf.where(scores < lowest, NEVER, scores)


class TFTypicalLogitsWarper(TFLogitsProcessor):
    """Tokens whose information is closest to the distribution's entropy, up to a mass."""

    def __init__(self, mass: float = 0.9, min_tokens_to_keep: int = 1) -> None:
        self.mass, self.kept = mass, min_tokens_to_keep

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        logs = tf.nn.log_softmax(scores)
        distance = tf.abs(-logs - _entropy(logs))
        order = tf.argsort(distance, axis=-1, stable=True)
        total = tf.cumsum(tf.nn.softmax(tf.gather(scores, order, batch_dims=1)), axis=-1)
        # The token that passes the mass is still one of them.
        kept = 1 + tf.reduce_sum(tf.cast(total < self.mass, tf.int32), axis=-1, keepdims=True)
        kept = tf.clip_by_value(kept, self.kept, scores.shape[-1])
        furthest = tf.gather(distance, tf.gather(order, kept - 1, batch_dims=1), batch_dims=1)
        return tf.where(distance > furthest, NEVER, scores)


def _entropy(logs: Any) -> Any:
    """`(rows, 1)` of log probabilities; a token that cannot come adds nothing."""
    return -tf.reduce_sum(tf.math.multiply_no_nan(logs, tf.exp(logs)), axis=-1, keepdims=True)


class TFEpsilonLogitsWarper(TFLogitsProcessor):
    """Tokens of a least probability (Hewitt et al. 2022, section 4.1)."""

    def __init__(self, epsilon: float, min_tokens_to_keep: int = 1) -> None:
        self.epsilon, self.kept = epsilon, min_tokens_to_keep

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        return self._cut(scores, tf.nn.softmax(scores), self.epsilon)

    def _cut(self, scores: Any, probabilities: Any, least: Any) -> Any:
        best = tf.math.top_k(scores, min(self.kept, scores.shape[-1])).values[:, -1:]
        return tf.where((probabilities < least) & (scores < best), NEVER, scores)


class TFEtaLogitsWarper(TFEpsilonLogitsWarper):
    """Tokens of a least probability that falls with the entropy (Hewitt et al. 2022, 4.2)."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        entropy = _entropy(tf.nn.log_softmax(scores))
        least = tf.minimum(math.sqrt(self.epsilon) * tf.exp(-entropy), self.epsilon)
        return self._cut(scores, tf.nn.softmax(scores), least)


def hamming_diversity(scores: Any, earlier: Any, penalty: float) -> Any:
    """Tokens that earlier groups chose become less likely (Vijayakumar et al. 2018, section 4.1).

    Args:
        scores: `(batch * size, vocab)`.
        earlier: `(batch, beams)`; tokens of the groups before.
    """
    ids = _for_each(earlier, scores)
    penalties = tf.fill(tf.shape(ids), tf.cast(-penalty, scores.dtype))
    return tf.tensor_scatter_nd_add(scores, _scatter_indices(ids), penalties)


def processors(
    config: GenerationConfig,
    prompt: Any,
    max_length: Any,
    source: Any | None,
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None,
    beams: int,
) -> TFLogitsProcessorList:
    """What the configuration asks for, and nothing else, in the published order.

    Args:
        prompt: length of the prompt.
        max_length: greatest length of all; like the prompt's it may be a tensor.
        source: tokens of the encoder's input, or of the prompt, `(batch, source)`, -1 where padded.
        beams: rows of scores per row of the batch.
    """
    eos, found = config.eos_token_ids, TFLogitsProcessorList()
    if config.sequence_bias is not None:
        found.append(TFSequenceBiasLogitsProcessor(config.sequence_bias))
    if config.encoder_repetition_penalty != 1.0 and source is not None:
        penalty = config.encoder_repetition_penalty
        found.append(TFEncoderRepetitionPenaltyLogitsProcessor(penalty, source))
    if config.repetition_penalty != 1.0:
        found.append(TFRepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(TFNoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size and source is not None:
        size = config.encoder_no_repeat_ngram_size
        found.append(TFEncoderNoRepeatNGramLogitsProcessor(size, source))
    if config.bad_words_ids is not None:
        found.append(TFNoBadWordsLogitsProcessor(config.bad_words_ids, eos))
    if eos and config.min_length and config.min_new_tokens is None:
        found.append(TFMinLengthLogitsProcessor(config.min_length, eos))
    if eos and config.min_new_tokens is not None:
        found.append(TFMinNewTokensLengthLogitsProcessor(prompt, config.min_new_tokens, eos))
    if prefix_allowed_tokens_fn is not None:
        found.append(TFPrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, beams))
    if config.forced_bos_token_id is not None:
        found.append(TFForcedBOSTokenLogitsProcessor(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        found.append(TFForcedEOSTokenLogitsProcessor(max_length, config.forced_eos_token_id))
    if config.remove_invalid_values:
        found.append(TFInfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None and eos:
        decay = config.exponential_decay_length_penalty
        found.append(TFExponentialDecayLengthPenalty(decay, eos, prompt))
    if config.suppress_tokens:
        found.append(TFSuppressTokensLogitsProcessor(config.suppress_tokens))
    if config.begin_suppress_tokens:
        later = 0
        if config.forced_bos_token_id is not None:
            later = tf.where(tf.equal(prompt, 1), 1, 0)
        tokens = config.begin_suppress_tokens
        found.append(TFSuppressTokensAtBeginLogitsProcessor(tokens, prompt + later))
    return found


def warpers(config: GenerationConfig) -> TFLogitsProcessorList:
    """What shapes the distribution that is sampled from, in the published order."""
    found = TFLogitsProcessorList()
    # Beam search picks two continuations per beam, and one more for each way to end.
    kept = len(config.eos_token_ids) + 1 if config.num_beams > 1 else 1
    if config.temperature != 1.0:
        found.append(TFTemperatureLogitsWarper(config.temperature))
    if config.top_k:
        found.append(TFTopKLogitsWarper(config.top_k, kept))
    if config.top_p < 1.0:
        found.append(TFTopPLogitsWarper(config.top_p, kept))
    if config.typical_p < 1.0:
        found.append(TFTypicalLogitsWarper(config.typical_p, kept))
    if config.epsilon_cutoff > 0.0:
        found.append(TFEpsilonLogitsWarper(config.epsilon_cutoff, kept))
    if config.eta_cutoff > 0.0:
        found.append(TFEtaLogitsWarper(config.eta_cutoff, kept))
    return found

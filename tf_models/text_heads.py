"""Models that read text: strings in, labels, fills or answers out, all of it inside the graph.

A text head is a tokenizer, a model and what its outputs mean. It is a `tf.Module` that tracks the
model's bare variables: a SavedModel that tracks Keras' own objects cannot be run by TF Serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from zoo.families import FAMILIES

from .in_graph import (
    SPACE,
    TFBartTokenizer,
    TFBertTokenizer,
    TFReformerByteTokenizer,
    TFSentencePieceTokenizer,
)

Axes = dict[str, tuple[str, ...]]
Tensors = dict[str, tf.Tensor]
LOW = -1e9  # the logarithm of a probability that counts as none
SPACES = np.array([chr(code).isspace() for code in range(0x3002)])  # none is higher


class Text(NamedTuple):
    """Rows of ids with what is needed to get back to the text.

    Args:
        inputs: of the model, each `(batch, sequence)`.
        index: `(batch, sequence)`; which token of the text a position holds, -1 for special
            tokens, padding and the other text of a pair.
        starts, ends: ragged `(batch, tokens)`; the first character of a token and the one after
            its last, -1 where the text was changed too much to tell.
    """

    inputs: Tensors
    index: tf.Tensor
    starts: tf.RaggedTensor
    ends: tf.RaggedTensor


class TextHead(tf.Module):
    """The bare model: texts to vectors. Base of the other heads.

    Args:
        model: of the class that the head is for.
        tokenizer: of `zoo.tokenizers`.
        max_length: tokens of a row; longer texts are cut.
        top_k: how many fills, tokens or spans.
        max_answer_length: of a span, in tokens.
        generate: options of the model's `generate`, for heads that call it.

    Raises:
        ValueError: the tokenizer and the model do not fit together.
    """

    task: ClassVar[str] = "Model"
    # Names of inputs and outputs with their axes.
    inputs: ClassVar[Axes] = {"text": ("batch",)}
    outputs: ClassVar[Axes] = {
        "embedding": ("batch", "hidden"),
        "last_hidden_state": ("batch", "sequence", "hidden"),
        "attention_mask": ("batch", "sequence"),
    }
    # Inputs of a second signature.
    pair_inputs: ClassVar[Axes] = {"text": ("batch",), "text_pair": ("batch",)}
    row: ClassVar[tuple[str, ...]] = ("batch", "sequence")
    raw_outputs: ClassVar[Axes] = {
        "last_hidden_state": ("batch", "sequence", "hidden"),
        "pooler_output": ("batch", "hidden"),
    }

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int,
        top_k: int,
        max_answer_length: int,
        generate: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name="text_head")
        config = self._config(model)
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and max_length > positions:
            raise ValueError(
                f"max_length: received {max_length}, expected at most the model's "
                f"max_position_embeddings, {positions}"
            )
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, the model's vocab_size is "
                f"{config.vocab_size}: call resize_token_embeddings({len(tokenizer)}) and save"
            )
        layer = _layer(tokenizer, max_length)
        self.weights = [weight.value for weight in model.weights]
        self.pieces = layer.pieces
        # Behind functions, as a Module would track what is Keras', and wrap dictionaries.
        self.model: Callable[[], Any] = lambda: model
        self.layer: Callable[[], TFSentencePieceTokenizer] = lambda: layer
        # Each traced once for all signatures.
        functions = {
            "tokenize": tf.function(lambda *texts: layer(*texts), autograph=False),
            "split": tf.function(layer.pieces, autograph=False),
            "run": tf.function(lambda inputs: self._run(model, inputs), autograph=False),
        }
        self._call = lambda name, *inputs: functions[name](*inputs)
        self.top_k, self.max_answer_length = top_k, max_answer_length
        self.generate: Callable[[], Mapping[str, Any]] = lambda: dict(generate or {})
        self.mask_token, self.mask_id = tokenizer.mask_token, tokenizer.mask_token_id
        self.id2label: Callable[[], Mapping[int, str]] = lambda: config.id2label
        self._special = tokenizer.build_inputs_with_special_tokens([-1])
        self._special_pair = tokenizer.build_inputs_with_special_tokens([-1], [-2])
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        unknown = {tokenizer.unk_token, *(f"<0x{byte:02X}>" for byte in range(256))}
        lengths = [-1 if t in unknown else len(t.replace(SPACE, "")) for t in tokens]
        padding = config.vocab_size - len(tokens)
        self.vocabulary = tf.constant(tokens + [""] * padding)
        # Characters of the text that a token stands for, -1 where it does not say.
        self.lengths = tf.constant(lengths + [-1] * padding, tf.int32)

    @staticmethod
    def _config(model: Any) -> Any:
        """Of what texts go into: the encoder where there is one."""
        return getattr(model.config, "encoder", model.config)

    # What the signatures are made of.

    def __call__(self, text: tf.Tensor) -> Tensors:
        """Answers `inputs` with `outputs`."""
        return self._embed(self.tokenize(text))

    def pairs(self, text: tf.Tensor, text_pair: tf.Tensor) -> Tensors:
        """Answers `pair_inputs` with `outputs`."""
        return self._embed(self.tokenize(text, text_pair))

    def tokenize(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> Tensors:
        """Ids, mask and, where the model has them, types; `(batch, sequence)`."""
        return self._call("tokenize", *([text] if text_pair is None else [text, text_pair]))

    def run(self, inputs: Tensors) -> Tensors:
        """What the model returns for ids."""
        return self._call("run", inputs)

    @property
    def input_names(self) -> list[str]:
        """Of the model's own inputs."""
        return ["input_ids", *(n for n in self.layer().plan["inputs"] if n != "input_ids")]

    # Parts.

    def _run(self, model: Any, inputs: Tensors) -> Tensors:
        return _tensors(model(**inputs, **self._options()))

    def _options(self) -> dict[str, Any]:
        options = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
        if getattr(self.model().config, "is_decoder", False):
            options["use_cache"] = False
        return {**options, "training": False}

    def _embed(self, inputs: Tensors) -> Tensors:
        output = self.run(inputs)
        states = output["last_hidden_state"]
        embedding = output.get("pooler_output")
        if embedding is None:
            weights = tf.cast(inputs["attention_mask"], states.dtype)[:, :, None]
            embedding = tf.math.divide_no_nan(
                tf.reduce_sum(states * weights, axis=1), tf.reduce_sum(weights, axis=1)
            )
        return {
            "embedding": embedding,
            "last_hidden_state": states,
            "attention_mask": inputs["attention_mask"],
        }

    def _labels(self) -> tf.Tensor:
        names = self.id2label()
        return tf.constant([names[number] for number in range(len(names))])

    def _hidden(self, inputs: Tensors) -> tf.Tensor:
        """The last states, before the head: `(batch, sequence, hidden)`."""
        return self.model().base_model(**inputs, **self._options()).last_hidden_state

    def _best_words(self, states: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits `(n, vocab)`, scores and ids `(n, k)` of the head at states `(n, hidden)`.

        Only the places asked for go through the head, which costs as much as several layers.
        """
        model = self.model()
        logits = (model.cls if hasattr(model, "cls") else model.lm_head)(states[None])[0]
        top = tf.math.top_k(tf.nn.softmax(logits), min(self.top_k, logits.shape[-1]))
        return logits, top.values, top.indices

    # From tokens back to the text.

    def encode(self, text: tf.Tensor, context: tf.Tensor | None = None) -> Text:
        """Tokenizes; of a pair it is the second text that positions are told for.

        Args:
            text, context: strings `(batch,)`.
        """
        layer = self.layer()
        ids, starts, ends = self.align(text if context is None else context)
        before: list[tf.RaggedTensor] = [] if context is None else [self._call("split", text)]
        kept = layer._truncate([*before, ids])
        plan = layer.plan
        pads = {"input_ids": plan["pad_id"], "token_type_ids": plan["pad_type_id"]}
        columns = layer._columns(kept)
        inputs = {
            name: layer._pad(column, pads.get(name, 0), layer.padding)
            for name, column in columns.items()
        }
        special, last = (self._special_pair, -2) if before else (self._special, -1)
        first = tf.constant(special.index(last), tf.int64)
        if before:
            first += kept[0].row_lengths() - 1  # the first text stands for one in the template
        mask = tf.cast(inputs["attention_mask"], tf.int64)
        index = tf.cumsum(mask, axis=1) - 1 - tf.reshape(first, [-1, 1])
        inside = (mask == 1) & (index >= 0) & (index < kept[-1].row_lengths()[:, None])
        cut = [layer._truncate([*before, offsets])[-1] for offsets in (starts, ends)]
        return Text(inputs, tf.cast(tf.where(inside, index, -1), tf.int32), *cut)

    def align(self, text: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Ids of texts, and the first and the last character (plus one) of each.

        Normalising loses the way back to the text. So its words are tokenized one by one as well:
        where that gives the same ids, each id has its word, and where the characters of a word's
        tokens are as many as the word's, each id has its characters.

        Args:
            text: strings `(batch,)`.
        Returns:
            Three ragged `(batch, tokens)`; characters are -1 in a row whose words give other ids.
        """
        ids = self._call("split", text)
        words, starts, sizes = split_words(text)
        pieces = self._call("split", words.values)  # (words, pieces)
        word = pieces.value_rowids()
        length = tf.gather(self.lengths, pieces.values)
        known = tf.math.segment_sum(tf.maximum(length, 0), word)
        unknown = tf.math.segment_sum(tf.cast(length < 0, tf.int32), word)
        count = pieces.nrows()
        known, unknown = (_padded(x, count) for x in (known, unknown))
        rest = sizes.values - known
        # One unknown token takes what the others leave.
        exact = ((unknown == 0) & (rest == 0)) | ((unknown == 1) & (rest > 0))
        length = tf.where(length < 0, tf.gather(rest, word), length)
        before = tf.cumsum(length, exclusive=True)
        before -= tf.gather(before, tf.gather(pieces.row_starts(), word))
        exact, base, size = (tf.gather(x, word) for x in (exact, starts.values, sizes.values))
        start = base + tf.where(exact, before, 0)
        end = base + tf.where(exact, before + length, size)
        # Pieces that are nothing but a space depend on how the words are joined.
        real = tf.gather(self.lengths, pieces.values) != 0
        values = [pieces.with_values(x) for x in (pieces.values, start, end)]
        parts = [
            words.with_values(tf.ragged.boolean_mask(x, pieces.with_values(real))).merge_dims(1, 2)
            for x in values
        ]
        solid = ids.with_values(tf.gather(self.lengths, ids.values) != 0)
        theirs, ours = parts[0], tf.ragged.boolean_mask(ids, solid)
        width = tf.maximum(*(tf.reduce_max(_padded(x.row_lengths(), 1)) for x in (theirs, ours)))
        a, b = (x.to_tensor(-1, shape=tf.stack([-1, width])) for x in (theirs, ours))
        same = tf.reduce_all(a == b, axis=1)
        # A lone space lies between the token before and the one after.
        rows, one = ids.value_rowids(), tf.cast(solid.values, tf.int64)
        through = tf.cumsum(one) - tf.gather(ours.row_starts(), rows)
        first, count = (tf.gather(x, rows) for x in (theirs.row_starts(), theirs.row_lengths()))
        valid = tf.gather(same, rows) & (count > 0)
        offsets = []
        for values, place in ((parts[1], through - one), (parts[2], through - 1)):
            place = first + tf.maximum(tf.minimum(place, count - 1), 0)
            found = tf.gather(_padded(values.values, 1), tf.where(valid, place, 0))
            offsets.append(ids.with_values(tf.where(valid, found, -1)))
        return ids, *offsets


def split_words(text: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
    """Words between white space, their first character, and how many characters they have.

    Args:
        text: strings `(batch,)`.
    Returns:
        Three ragged `(batch, words)`.
    """
    codes = tf.strings.unicode_decode(text, "UTF-8")
    space = tf.gather(SPACES, tf.minimum(codes.values, len(SPACES) - 1))
    place = tf.ragged.range(codes.row_lengths()).values
    after_space = tf.pad(space, [[1, 0]], constant_values=True)[:-1]
    first = ~space & (after_space | (place == 0))
    # (characters,): the number of the word among those of all texts
    number = tf.cumsum(tf.cast(first, tf.int64)) - 1
    count = tf.math.count_nonzero(first)
    chars = tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(codes.values, ~space), tf.boolean_mask(number, ~space), nrows=count
    )
    rows = tf.RaggedTensor.from_value_rowids(
        tf.strings.unicode_encode(chars, "UTF-8"),
        tf.boolean_mask(codes.value_rowids(), first),
        nrows=codes.nrows(),
    )
    starts = tf.cast(tf.boolean_mask(place, first), tf.int32)
    sizes = tf.cast(chars.row_lengths(), tf.int32)
    return rows, rows.with_values(starts), rows.with_values(sizes)


def _padded(values: tf.Tensor, size: Any) -> tf.Tensor:
    """The values with zeros behind, at least `size` of them."""
    missing = tf.maximum(tf.cast(size, tf.int64) - tf.size(values, tf.int64), 0)
    return tf.concat([values, tf.zeros([missing], values.dtype)], axis=0)


def _tensors(output: Mapping[str, Any]) -> Tensors:
    return {name: value for name, value in output.items() if tf.is_tensor(value)}


class Project(TextHead):
    """Texts to the vectors that retrieval compares."""

    task = "Embedder"
    outputs: ClassVar[Axes] = {"embedding": ("batch", "hidden")}
    raw_outputs: ClassVar[Axes] = {"projected_score": ("batch", "hidden")}

    def _embed(self, inputs: Tensors) -> Tensors:
        return {"embedding": self.run(inputs)["projected_score"]}


class FillMask(TextHead):
    """Texts with mask tokens to the words that fit there.

    `texts` show one mask filled with one of its words and the other masks with their best;
    `text` shows all masks filled with their best. Rows with fewer masks than others have empty
    strings and zeros behind.
    """

    task = "ForMaskedLM"
    outputs = {
        "text": ("batch",),
        "tokens": ("batch", "masks", "k"),
        "token_ids": ("batch", "masks", "k"),
        "scores": ("batch", "masks", "k"),
        "texts": ("batch", "masks", "k"),
    }
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs = {"logits": ("batch", "sequence", "vocab")}

    def __call__(self, text: tf.Tensor) -> Tensors:
        inputs = self.tokenize(text)
        ids = inputs["input_ids"]
        places = tf.where((ids == self.mask_id) & (inputs["attention_mask"] == 1))  # (n, 2)
        _, scores, found = self._best_words(tf.gather_nd(self._hidden(inputs), places))
        best = tf.tensor_scatter_nd_update(ids, places, found[:, 0])
        rows, columns = places[:, 0], places[:, 1]
        here = tf.range(tf.shape(ids, tf.int64)[1]) == columns[:, None]
        # (n, k, sequence)
        filled = tf.where(here[:, None], found[:, :, None], tf.gather(best, rows)[:, None])
        texts = self.layer().detokenize(tf.reshape(filled, [-1, tf.shape(ids)[1]]))
        tokens = tf.gather(self.vocabulary, found)
        by_mask = {"tokens": tokens, "token_ids": found, "scores": scores}
        by_mask["texts"] = tf.reshape(texts, tf.shape(found))
        batch = tf.shape(ids, tf.int64)[0]
        dense = {
            name: tf.RaggedTensor.from_value_rowids(value, rows, nrows=batch).to_tensor()
            for name, value in by_mask.items()
        }
        return {"text": self.layer().detokenize(best), **dense}


class NextToken(TextHead):
    """The words that may follow a text."""

    task = "ForCausalLM"
    outputs = {
        "tokens": ("batch", "k"),
        "token_ids": ("batch", "k"),
        "scores": ("batch", "k"),
        "logits": ("batch", "vocab"),
    }
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs = {"logits": ("batch", "sequence", "vocab")}

    def __call__(self, text: tf.Tensor) -> Tensors:
        inputs = self.tokenize(text)
        # The text goes on, so the special tokens that would end it are left out.
        behind = len(self._special) - 1 - self._special.index(-1)
        mask = inputs["attention_mask"]
        mask *= tf.cast(tf.cumsum(mask, axis=1, reverse=True) > behind, mask.dtype)
        inputs["attention_mask"] = mask
        last = tf.argmax(tf.cumsum(mask, axis=1), axis=1)
        states = tf.gather(self._hidden(inputs), last, batch_dims=1)
        logits, scores, ids = self._best_words(states)
        tokens = tf.gather(self.vocabulary, ids)
        return {"tokens": tokens, "token_ids": ids, "scores": scores, "logits": logits}


class GenerateText(TextHead):
    """A text to the texts that the model makes of it, best first.

    With an encoder they are answers, without one they begin with the text. `scores` are those of
    beam search, there is none without it.
    """

    task = "ForSeq2SeqLM"
    pair_inputs: ClassVar[Axes] = {}

    @property
    def _scored(self) -> Axes:
        beams = self.generate().get("num_beams", self.model().generation_config.num_beams)
        return {"scores": ("batch", "k")} if beams > 1 else {}

    @property
    def outputs(self) -> Axes:  # type: ignore[override]
        return {"text": ("batch",), "texts": ("batch", "k"), **self._scored}

    @property
    def raw_outputs(self) -> Axes:  # type: ignore[override]
        return {"sequences": ("batch", "k", "length"), **self._scored}

    @property
    def input_names(self) -> list[str]:
        known = ("input_ids", *self.model()._generation_inputs(), "attention_mask")
        return [name for name in super().input_names if name in known]

    def _run(self, model: Any, inputs: Tensors) -> Tensors:
        output = model.generate(
            **inputs,
            **self.generate(),
            return_dict_in_generate=True,
            output_scores=bool(self._scored),
        )
        batch = tf.shape(inputs["input_ids"])[0]
        length = output.sequences.shape[1] or tf.shape(output.sequences)[1]
        # (batch * k, length) -> (batch, k, length)
        count = self.generate().get(
            "num_return_sequences", model.generation_config.num_return_sequences
        )
        found = {"sequences": tf.reshape(output.sequences, [batch, count, length])}
        if self._scored:
            found["scores"] = tf.reshape(output.sequences_scores, [batch, count])
        return found

    def tokenize(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> Tensors:
        encoded = super().tokenize(text, text_pair)
        return {name: encoded[name] for name in self.input_names}

    def __call__(self, text: tf.Tensor) -> Tensors:
        found = self.run(self.tokenize(text))
        sequences = found.pop("sequences")
        shape = tf.shape(sequences)
        texts = self.layer().detokenize(tf.reshape(sequences, [-1, shape[2]]))
        texts = tf.ensure_shape(tf.reshape(texts, shape[:2]), sequences.shape[:2])
        return {"text": texts[:, 0], "texts": texts, **found}


class ClassifyText(TextHead):
    """Texts to labels, most probable first, each label judged alone in a multi-label problem."""

    task = "ForSequenceClassification"
    outputs = {
        "label": ("batch",),
        "score": ("batch",),
        "labels": ("batch", "labels"),
        "scores": ("batch", "labels"),
    }
    raw_outputs = {"logits": ("batch", "labels")}

    def __call__(self, text: tf.Tensor) -> Tensors:
        return self._classify(self.tokenize(text))

    def pairs(self, text: tf.Tensor, text_pair: tf.Tensor) -> Tensors:
        return self._classify(self.tokenize(text, text_pair))

    def _classify(self, inputs: Tensors) -> Tensors:
        logits = self.run(inputs)["logits"]
        several = self.model().config.problem_type == "multi_label_classification"
        scores = tf.sigmoid(logits) if several else tf.nn.softmax(logits)
        top = tf.math.top_k(scores, logits.shape[-1])
        labels = tf.gather(self._labels(), top.indices)
        return {
            "label": labels[:, 0],
            "score": top.values[:, 0],
            "labels": labels,
            "scores": top.values,
        }


class Regress(ClassifyText):
    """Texts to numbers, one for each label."""

    outputs = {"values": ("batch", "labels"), "labels": ("batch", "labels")}

    def _classify(self, inputs: Tensors) -> Tensors:
        values = self.run(inputs)["logits"]
        labels = tf.repeat(self._labels()[None], tf.shape(values)[0], axis=0)
        return {"values": values, "labels": labels}


class Choose(TextHead):
    """A prompt and several ways to go on to the best of them; an empty choice is none at all."""

    task = "ForMultipleChoice"
    inputs = {"prompt": ("batch",), "choices": ("batch", "choices")}
    outputs = {
        "choice": ("batch",),
        "index": ("batch",),
        "score": ("batch",),
        "scores": ("batch", "choices"),
    }
    pair_inputs: ClassVar[Axes] = {}
    row = ("batch", "choices", "sequence")
    raw_outputs = {"logits": ("batch", "choices")}

    def __call__(self, prompt: tf.Tensor, choices: tf.Tensor) -> Tensors:  # type: ignore[override]
        prompts = tf.broadcast_to(prompt[:, None], tf.shape(choices))
        logits = self.run(self.tokenize(prompts, choices))["logits"]
        there = choices != ""
        scores = tf.nn.softmax(tf.where(there, logits, LOW)) * tf.cast(there, logits.dtype)
        index = tf.argmax(scores, axis=1, output_type=tf.int32)
        return {
            "choice": tf.gather(choices, index, batch_dims=1),
            "index": index,
            "score": tf.reduce_max(scores, axis=1),
            "scores": scores,
        }


class LabelTokens(TextHead):
    """The tokens of a text with their labels, without special tokens.

    Shorter rows have empty strings and -1 behind. `starts` and `ends` count the characters of the
    text; they are those of the whole word, or -1, where normalising has changed too much.
    """

    task = "ForTokenClassification"
    outputs = {
        "tokens": ("batch", "tokens"),
        "labels": ("batch", "tokens"),
        "scores": ("batch", "tokens"),
        "starts": ("batch", "tokens"),
        "ends": ("batch", "tokens"),
    }
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs = {"logits": ("batch", "sequence", "labels")}

    def __call__(self, text: tf.Tensor) -> Tensors:
        encoded = self.encode(text)
        scores = tf.nn.softmax(self.run(encoded.inputs)["logits"])
        values = {
            "tokens": tf.gather(self.vocabulary, encoded.inputs["input_ids"]),
            "labels": tf.gather(self._labels(), tf.argmax(scores, axis=2)),
            "scores": tf.reduce_max(scores, axis=2),
        }
        inside = encoded.index >= 0
        dense = {n: tf.ragged.boolean_mask(v, inside).to_tensor() for n, v in values.items()}
        dense["starts"] = encoded.starts.to_tensor(-1)
        dense["ends"] = encoded.ends.to_tensor(-1)
        return dense


class AnswerQuestion(TextHead):
    """A question and a text to the spans of the text that answer it, most probable first.

    A score is the probability of the first token times that of the last, within the text.
    `starts` and `ends` count characters of the text; where normalising has changed too much they
    are -1, and the answer is spelled from its tokens. Where there are fewer spans than asked for,
    empty strings with score 0 follow.
    """

    task = "ForQuestionAnswering"
    inputs = {"question": ("batch",), "context": ("batch",)}
    outputs = {
        "answer": ("batch",),
        "score": ("batch",),
        "answers": ("batch", "k"),
        "scores": ("batch", "k"),
        "starts": ("batch", "k"),
        "ends": ("batch", "k"),
    }
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs = {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")}

    def __call__(self, question: tf.Tensor, context: tf.Tensor) -> Tensors:  # type: ignore[override]
        context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8")
        encoded = self.encode(question, context)
        output = self.run(encoded.inputs)
        inside = encoded.index >= 0
        first, last, score = self._spans(output["start_logits"], output["end_logits"], inside)
        index = [tf.gather(encoded.index, x, batch_dims=1) for x in (first, last)]
        real = score > LOW / 2
        offsets = [
            tf.where(real, tf.gather(_filled(x), tf.maximum(i, 0), batch_dims=1), -1)
            for x, i in zip((encoded.starts, encoded.ends), index, strict=True)
        ]
        start, end = offsets
        size = tf.maximum(end - start, 0)
        quoted = tf.strings.substr(context[:, None], tf.maximum(start, 0), size, unit="UTF8_CHAR")
        answers = tf.where(start >= 0, quoted, self._spelled(encoded.inputs, first, last))
        answers = tf.where(real, answers, "")
        scores = tf.where(real, tf.exp(score), 0.0)
        return {
            "answer": answers[:, 0],
            "score": scores[:, 0],
            "answers": answers,
            "scores": scores,
            "starts": start,
            "ends": tf.where(start >= 0, start + size, -1),
        }

    def _spans(
        self, start: tf.Tensor, end: tf.Tensor, inside: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Positions of the first and the last token, and log-probabilities; each `(batch, k)`."""
        longest = self.max_answer_length
        start, end = (
            tf.where(inside, tf.nn.log_softmax(tf.where(inside, x, LOW)), LOW) for x in (start, end)
        )
        sequence = tf.shape(start)[1]
        window = tf.range(sequence)[:, None] + tf.range(longest)
        # (batch, sequence, longest)
        ends = tf.gather(tf.pad(end, [[0, 0], [0, longest]], constant_values=LOW), window, axis=1)
        joint = tf.reshape(start[:, :, None] + ends, [-1, sequence * longest])
        joint = tf.pad(joint, [[0, 0], [0, self.top_k]], constant_values=2 * LOW)
        top = tf.math.top_k(joint, self.top_k)
        first = tf.minimum(top.indices // longest, sequence - 1)
        last = tf.minimum(first + top.indices % longest, sequence - 1)
        return first, last, top.values

    def _spelled(self, inputs: Tensors, first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        """The texts of spans of tokens."""
        ids = inputs["input_ids"]
        place = first[:, :, None] + tf.range(self.max_answer_length)
        spans = tf.gather(ids, tf.minimum(place, tf.shape(ids)[1] - 1), batch_dims=1)
        # Ids outside of the vocabulary are left out.
        spans = tf.where(place <= last[:, :, None], spans, -1)
        texts = self.layer().detokenize(tf.reshape(spans, [-1, self.max_answer_length]))
        return tf.reshape(texts, tf.shape(first))


def _filled(offsets: tf.RaggedTensor) -> tf.Tensor:
    """Dense, with at least one column."""
    return tf.pad(offsets.to_tensor(-1), [[0, 0], [0, 1]], constant_values=-1)


HEADS: dict[str, type[TextHead]] = {
    cls.task: cls
    for cls in (
        TextHead, Project, FillMask, NextToken, GenerateText, ClassifyText, Choose, LabelTokens,
        AnswerQuestion,
    )
}  # fmt: skip


def _layer(tokenizer: Any, max_length: int) -> TFSentencePieceTokenizer:
    """The tokenizer in the graph."""
    names = {base.__name__ for base in type(tokenizer).__mro__}
    word_pieces = names.intersection(TFBertTokenizer.tokenizer_classes)
    kind = TFBertTokenizer if word_pieces else TFSentencePieceTokenizer
    if names.intersection(TFReformerByteTokenizer.tokenizer_classes):
        kind = TFReformerByteTokenizer
    if names.intersection(TFBartTokenizer.tokenizer_classes):
        kind = TFBartTokenizer
    return kind.from_tokenizer(tokenizer, max_length=max_length)


def head_of(model: Any) -> type[TextHead] | None:
    """The class of the text head for a model."""
    from .question_answering import AnswerFromCorpus  # which build on this module
    from .rag_serving import AnswerFromPassages

    heads = HEADS | {AnswerFromCorpus.task: AnswerFromCorpus}
    name = type(model).__name__.removeprefix("TF")
    if model.config.model_type == "rag":
        return AnswerFromPassages if name.endswith("ForGeneration") else None
    for family in FAMILIES.values():
        # A class that is there under two tasks is no bare model.
        for task, cls in sorted(family.models.items(), key=lambda item: item[0] == "Model"):
            if cls == name and task in heads:
                return heads[task]
    return None


def text_head(model: Any, tokenizer: Any, **options: Any) -> TextHead:
    """The text head for a model; a causal one generates if it gets options to `generate`.

    Args:
        model: of any family.
        tokenizer: of `zoo.tokenizers`.
        options: of `TextHead`, and `retrieval` of `AnswerFromCorpus` and `AnswerFromPassages`.

    Raises:
        ValueError: there is none for this class, or the tokenizer does not fit.
    """
    name, config, head = type(model).__name__, model.config, head_of(model)
    if head is None:
        raise ValueError(f"{name} has no text head; expected one of {sorted(HEADS)}")
    if head.task not in ("ForOpenQA", "Rag") and options.pop("retrieval", None) is not None:
        raise ValueError(f"retrieval: {name} does not retrieve")
    if options.get("generate") and head.task != "Rag":
        if head.task not in ("ForSeq2SeqLM", "ForCausalLM"):
            raise ValueError(f"{', '.join(options['generate'])}: {name} generates no text")
        head = GenerateText
    if head is ClassifyText and (
        config.problem_type == "regression"
        or (config.problem_type is None and config.num_labels == 1)
    ):
        head = Regress
    return head(model, tokenizer, **options)

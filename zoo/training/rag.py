"""What RAG is trained on: pairs for its two encoders, passages to be read, passages that are found.

As in `batches`, every batch is a pure function of a seed and the step; what depends on the model,
the passages that its question encoder finds, is `FoundPassages`, called with vectors in the middle
of a step.

Sources: Karpukhin et al. 2020 (DPR), sections 3.2 and 4.1, of pairs and of the passages that are
taken for right; Lewis et al. 2020 (RAG), section 2.4, of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..retrieval.bm25 import BM25
from ..retrieval.rag import RagRetriever, StoredIndex
from .batches import Batch, Batches, wrapped
from .corpus import BlockCorpus, Special, block_inputs
from .gaps import ASKING, GapMaker
from .questions import Question, holds, plain_words

_PAIRS, _READING, _ANSWERED, _DENOISING, _GAPS = 4, 5, 6, 7, 8  # streams of random numbers
_CONSIDERED = 50  # passages that a search by words finds, among which the right one is looked for
_PLAIN = {"add_special_tokens": False, "return_attention_mask": False,
          "return_token_type_ids": False, "verbose": False}  # fmt: skip


class Example(NamedTuple):
    """A question, its answers, and the row of a passage that answers it.

    Args:
        question: the text.
        answers: any of them is right.
        row: of the passage.
    """

    question: str
    answers: tuple[str, ...]
    row: int


def examples(
    questions: Sequence[Question], corpus: BlockCorpus, titles: Sequence[str] = ()
) -> list[Example]:
    """Questions with the passages that answer them.

    Of the passages that share words with a question, the first that holds an answer (DPR, section
    4.1), and that is part of the paragraph which the question was asked about, where that is known.

    Args:
        questions: with their answers.
        corpus: of the passages.
        titles: of the passages, by row.

    Returns:
        Of the questions for which there is such a passage.
    """
    if not questions:
        return []
    texts = corpus.texts
    headed = (f"{titles[i]} {texts[i]}" if titles else texts[i] for i in range(len(texts)))
    rows, _ = BM25(headed).search([question.text for question in questions], _CONSIDERED)
    found = []
    for question, candidates in zip(questions, rows.tolist(), strict=True):
        whole = None if question.context is None else " ".join(question.context.split())
        for row in candidates:
            if row < 0:
                break
            text = texts[row]
            if whole is not None and " ".join(text.split()) not in whole:
                continue
            if holds(plain_words(text), question.answers):
                found.append(Example(question.text, tuple(question.answers), row))
                break
    return found


class Pairs(Batches):
    """Questions with the passages that answer them; the other passages of a batch are wrong.

    DPR, section 3.2, in-batch negatives. A passage that answers two questions of a batch counts
    for both.

    Args:
        found: questions with their passages.
        corpus: of the passages.
        tokenizer: of the questions, that the corpus was made with.
        batch_size: questions of a batch.
        query_length: the most tokens of a question, with [CLS] and [SEP].
        block_length: the most tokens of a passage, with its title and special tokens.
        seed: of everything random.

    Raises:
        ValueError: fewer pairs than a batch has.
    """

    def __init__(
        self,
        found: Sequence[Example],
        corpus: BlockCorpus,
        tokenizer: Any,
        batch_size: int,
        *,
        query_length: int = 64,
        block_length: int = 288,
        seed: int = 0,
    ):
        super().__init__(len(found), batch_size, seed, _PAIRS)
        self.corpus, self.query_length, self.block_length = corpus, query_length, block_length
        self._rows = np.array([example.row for example in found], np.int64)
        self._special = Special.of(tokenizer)
        texts = [example.question for example in found]
        self._ids, self._counts = _table(_encoded(tokenizer, texts, query_length - 2))

    def __call__(self, step: int) -> Batch:
        """The batch of a step: as that of `InverseCloze`."""
        chosen = self.chosen(step)
        rows, counts = self._rows[chosen], self._counts[chosen]
        ids = self._ids[chosen, : counts.max(initial=1)]
        blocks = block_inputs(self.corpus, rows, self.block_length)
        return (
            wrapped(ids, counts, self._special)
            | {f"candidate_{name}": value for name, value in blocks.items()}
            | {"rows": rows}
        )


class Mixed:
    """Batches of several kinds in turn.

    Args:
        parts: batches whose arrays have the same names.
        shares: how often each of them comes; by default all as often.
    """

    def __init__(self, parts: Sequence[Batches], shares: Sequence[int] | None = None):
        self.parts, self.shares = list(parts), list(shares or [1] * len(parts))
        self._order = [number for number, share in enumerate(self.shares) for _ in range(share)]

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        turn, place = divmod(step, len(self._order))
        number = self._order[place]
        before = self._order[:place].count(number)
        return self.parts[number](turn * self.shares[number] + before)

    def settings(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"parts": [part.settings() for part in self.parts], "shares": self.shares}


class Answered(Batches):
    """Base of the batches with answers, as a generator is to write them.

    Args:
        asked: `(text, answers)` of each question.
        retriever: whose tokenizers encode questions and answers.
        batch_size: questions of a batch.
        answer_length: the most tokens of an answer, special ones included; questions without one
            that fits are left out.
        seed: of the order, and of which answer is taken.
        stream: of random numbers.

    Raises:
        ValueError: fewer questions than a batch has.
    """

    def __init__(
        self,
        asked: Sequence[tuple[str, Sequence[str]]],
        retriever: RagRetriever,
        batch_size: int,
        *,
        answer_length: int,
        seed: int,
        stream: int,
    ):
        generator = retriever.config.generator
        tokenizer = retriever.generator_tokenizer
        flat = [answer for _, answers in asked for answer in answers]
        encoded = iter(_encoded(tokenizer, flat, None, add_special_tokens=True))
        start = generator.decoder_start_token_id
        self._labels: list[list[list[int]]] = []
        self._kept: list[int] = []
        for number, (_, answers) in enumerate(asked):
            different = dict.fromkeys(tuple(next(encoded)) for _ in answers)
            fitting = [[start, *ids] for ids in different if len(ids) < answer_length]
            if fitting:
                self._kept.append(number)
                self._labels.append(fitting)
        super().__init__(len(self._kept), batch_size, seed, stream)
        self.left_out = len(asked) - len(self._kept)
        self.answer_length = answer_length
        self._pad = generator.pad_token_id

    def labels(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One of the answers to each question, with the decoder's start token in front.

        Args:
            chosen: questions, `(batch,)`.
            rng: chooses.

        Returns:
            `(batch, tokens)`, int32, with padding.
        """
        picks = rng.random(len(chosen))
        found = [
            self._labels[number][int(pick * len(self._labels[number]))]
            for number, pick in zip(chosen.tolist(), picks, strict=True)
        ]
        return _table(found, self._pad)[0]


class Reading(Answered):
    """Questions, each together with the passage that answers it, which a generator learns to read.

    To learn to copy, it begins with a few words around the answer; more and more of the passage
    comes into view.

    Args:
        found: questions with their passages.
        retriever: joins questions and passages, and looks passages up by row.
        batch_size: questions of a batch.
        answer_length: see `Answered`.
        widen: steps until whole passages are in view; 0 shows them from the start.
        narrowest: characters around an answer that are in view at first.
        seed: of everything random.

    Raises:
        ValueError: fewer questions than a batch has.
    """

    def __init__(
        self,
        found: Sequence[Example],
        retriever: RagRetriever,
        batch_size: int,
        *,
        answer_length: int = 32,
        widen: int = 0,
        narrowest: int = 100,
        seed: int = 0,
    ):
        pairs = [(example.question, example.answers) for example in found]
        super().__init__(
            pairs, retriever, batch_size, answer_length=answer_length, seed=seed, stream=_READING
        )
        self.widen, self.narrowest = widen, narrowest
        self._found = [found[number] for number in self._kept]
        self._retriever = retriever
        questions = [example.question for example in self._found]
        self._texts = _left(retriever.question_encoder_tokenizer, questions)

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns:
            `input_ids`, `attention_mask`, of a passage and a question together, and `labels`, what
            the decoder reads and is to write, `(batch, tokens)`; `label_weights`, of each label in
            the loss, 0 for the first and for padding. Weighted sums, averaged over any equal parts
            of the batch, give the mean over all tokens.
        """
        chosen, rng = self.chosen(step), self.rng(step)
        rows = np.array([self._found[number].row for number in chosen.tolist()])
        docs = self._retriever.index.get_doc_dicts(rows[:, None])
        if step < self.widen:
            share = step / self.widen
            for number, doc, place in zip(
                chosen.tolist(), docs, rng.random(len(docs)), strict=True
            ):
                answers = self._found[number].answers
                doc["text"] = [self._window(doc["text"][0], answers, share, place)]
        texts = [self._texts[number] for number in chosen.tolist()]
        prefix = self._retriever.config.generator.prefix
        inputs = trimmed(*self._retriever.postprocess_docs(docs, texts, prefix, 1, "np"))
        labels = self.labels(chosen, rng)
        return {
            "input_ids": inputs[0],
            "attention_mask": inputs[1],
            "labels": labels,
            "label_weights": _weights(labels, self._pad),
        }

    def _window(self, text: str, answers: Sequence[str], share: float, place: float) -> str:
        """Words around an answer, somewhere in them."""
        at, size = next(
            ((at, len(answer)) for answer in answers if (at := text.find(answer)) >= 0), (0, 0)
        )
        room = self.narrowest + int(share * max(len(text) - self.narrowest, 0))
        start = max(0, min(at - int(place * max(room - size, 0)), len(text) - room))
        stop = start + max(room, size)
        while start > 0 and not text[start - 1].isspace():
            start -= 1  # whole words only
        while stop < len(text) and not text[stop].isspace():
            stop += 1
        return text[start:stop]


class Denoising(Batches):
    """Sentences to be written down again, with some of their words hidden.

    Lewis et al. 2019 (BART), section 2.2, text infilling: a run of tokens becomes one mask. A new
    generator learns from it to copy, many words at a time.

    Args:
        corpus: of the sentences.
        retriever: whose generator's tokenizer encodes them.
        batch_size: sentences of a batch.
        length: the most tokens of a sentence, special ones included.
        hidden: the largest share of a sentence's tokens that is hidden.
        seed: of everything random.

    Raises:
        ValueError: fewer sentences than a batch has, or a tokenizer without mask.
    """

    def __init__(
        self,
        corpus: BlockCorpus,
        retriever: RagRetriever,
        batch_size: int,
        *,
        length: int = 64,
        hidden: float = 0.3,
        seed: int = 0,
    ):
        tokenizer, config = retriever.generator_tokenizer, retriever.config.generator
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise ValueError("tokenizer: the generator's has no mask token")
        texts = []
        for row in range(len(corpus)):
            first, last = corpus.sentence_offsets[row : row + 2]
            texts += [corpus.decode(row, *bounds) for bounds in corpus.sentences[first:last]]
        encoded = _encoded(tokenizer, texts, None, add_special_tokens=True)
        self._sentences = [ids for ids in encoded if 8 <= len(ids) < length]
        super().__init__(len(self._sentences), batch_size, seed, _DENOISING)
        self.length, self.hidden = length, hidden
        self._mask, self._pad = tokenizer.mask_token_id, config.pad_token_id
        self._start = config.decoder_start_token_id

    def __call__(self, step: int) -> Batch:
        """The batch of a step: as that of `Reading`."""
        rng = self.rng(step)
        wholes = [self._sentences[number] for number in self.chosen(step).tolist()]
        inputs, counts = _table([self._spoilt(ids, rng) for ids in wholes], self._pad)
        labels, _ = _table([[self._start, *ids] for ids in wholes], self._pad)
        mask = np.arange(inputs.shape[1]) < counts[:, None]
        return {
            "input_ids": inputs,
            "attention_mask": mask.astype(np.int32),
            "labels": labels,
            "label_weights": _weights(labels, self._pad),
        }

    def _spoilt(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        """A sentence in which runs of tokens, but for the special ones, became masks."""
        left = int(rng.random() * self.hidden * len(ids))
        found = list(ids)
        while left > 0:
            size = min(left, 1 + int(rng.poisson(2)))
            at = 1 + int(rng.random() * max(len(found) - 2 - size, 1))
            found[at : at + size] = [self._mask]
            left -= size
        return found


class Gaps(Batches):
    """Passages of which some words are asked for, from which a new generator learns to read.

    The questions are made anew in every step, see `gaps`. What is to be learned comes one after
    the other: in the first `copying` steps most of a few words is to be written, and all tokens
    are exchanged for others at random, the same for the same, so that nothing helps but copying.
    Then the whole passage is in view; in `spoil` more steps the questions become as unlike the
    text as they stay from there on, and exchanged tokens seldom.

    Args:
        corpus: of the passages.
        retriever: joins questions and passages, and looks passages up by row.
        batch_size: passages of a batch, all different.
        copying, spoil: steps, see above.
        exchanged: how often tokens are exchanged in the end.
        drop: the largest share of a question's words that are left out.
        front: how often the word that asks comes first, so that there is no gap.
        salient: how often a name, a date or a number is asked for.
        seed: of everything random.

    Raises:
        ValueError: fewer passages than a batch has.
    """

    def __init__(
        self,
        corpus: BlockCorpus,
        retriever: RagRetriever,
        batch_size: int,
        *,
        copying: int = 0,
        spoil: int = 0,
        exchanged: float = 0.1,
        drop: float = 0.7,
        front: float = 0.7,
        salient: float = 0.4,
        seed: int = 0,
    ):
        makers = [_gap_maker(corpus, row) for row in range(len(corpus))]
        self._makers = {row: maker for row, maker in enumerate(makers) if maker.starts}
        self._rows = list(self._makers)
        super().__init__(len(self._rows), batch_size, seed, _GAPS)
        self.copying, self.spoil, self.exchanged = copying, spoil, exchanged
        self.drop, self.front, self.salient = drop, front, salient
        self._retriever = retriever
        config, tokenizer = retriever.config, retriever.generator_tokenizer
        self._start = config.generator.decoder_start_token_id
        self._pad = config.generator.pad_token_id
        fixed = [config.title_sep, config.doc_sep, *ASKING, *map(str.capitalize, ASKING)]
        known = {token for ids in _encoded(tokenizer, fixed, None) for token in ids}
        known |= {self._start, *tokenizer.all_special_ids}
        self._free = np.array([i for i in range(len(tokenizer)) if i not in known])

    def __call__(self, step: int) -> Batch:
        """The batch of a step: as that of `Reading`."""
        rng, retriever = self.rng(step), self._retriever
        rows = [self._rows[number] for number in self.chosen(step).tolist()]
        is_copying = step < self.copying
        spoilt = min((step - self.copying) / self.spoil, 1.0) if self.spoil else 1.0
        gaps = [
            self._makers[row].copied(rng) if is_copying
            else self._makers[row].asked(rng, spoilt, self.drop, self.front, self.salient)
            for row in rows
        ]  # fmt: skip
        docs = retriever.index.get_doc_dicts(np.array(rows)[:, None])
        docs = [{**doc, "text": [gap.text]} for doc, gap in zip(docs, gaps, strict=True)]
        texts = _left(retriever.question_encoder_tokenizer, [gap.question for gap in gaps])
        prefix = retriever.config.generator.prefix
        inputs, mask = trimmed(*retriever.postprocess_docs(docs, texts, prefix, 1, "np"))
        tokenizer = retriever.generator_tokenizer
        answers = _encoded(tokenizer, [gap.answer for gap in gaps], None, add_special_tokens=True)
        labels, _ = _table([[self._start, *ids] for ids in answers], self._pad)
        share = 1.0 if is_copying else max(1.0 - spoilt, self.exchanged)
        for row in np.flatnonzero(rng.random(len(rows)) < share):
            others = np.arange(len(tokenizer), dtype=np.int32)
            others[self._free] = rng.permutation(self._free)
            inputs[row], labels[row] = others[inputs[row]], others[labels[row]]
        return {
            "input_ids": inputs,
            "attention_mask": mask,
            "labels": labels,
            "label_weights": _weights(labels, self._pad),
        }


class RagQuestions(Answered):
    """Questions with their answers, for training end to end.

    Args:
        questions: `Question`, or pairs of a text and its answers.
        retriever: whose tokenizers encode them.
        batch_size: questions of a batch.
        query_length: the most tokens of a question, with [CLS] and [SEP].
        answer_length: see `Answered`.
        seed: of everything random.

    Raises:
        ValueError: fewer questions than a batch has.
    """

    def __init__(
        self,
        questions: Sequence[Any],
        retriever: RagRetriever,
        batch_size: int,
        *,
        query_length: int = 64,
        answer_length: int = 32,
        seed: int = 0,
    ):
        pairs = [
            (question.text, tuple(question.answers)) if hasattr(question, "answers") else question
            for question in questions
        ]
        super().__init__(
            pairs, retriever, batch_size, answer_length=answer_length, seed=seed, stream=_ANSWERED
        )
        self.query_length = query_length
        tokenizer = retriever.question_encoder_tokenizer
        texts = [pairs[number][0] for number in self._kept]
        self._answers = [tuple(pairs[number][1]) for number in self._kept]
        self._special = Special.of(tokenizer)
        self._ids, self._counts = _table(_encoded(tokenizer, texts, query_length - 2))

    def answers_of(self, numbers: np.ndarray) -> list[tuple[str, ...]]:
        """The answers to the questions that `questions` of a batch names."""
        return [self._answers[number] for number in numbers.tolist()]

    def __call__(self, step: int) -> Batch:
        """The batch of a step.

        Returns:
            `input_ids`, `attention_mask` of the questions, `labels`, answers with the decoder's
            start token in front, `(batch, tokens)`; `questions`, their numbers, `(batch,)`.
        """
        chosen = self.chosen(step)
        counts = self._counts[chosen]
        ids = self._ids[chosen, : counts.max(initial=1)]
        return wrapped(ids, counts, self._special) | {
            "labels": self.labels(chosen, self.rng(step)),
            "questions": chosen,
        }


class FoundPassages:
    """The passages that a retriever finds for questions, and what the models take of them.

    Args:
        retriever: finds them, and joins them with the questions; its `index.index` may be replaced
            between two steps.
        questions: what the numbers in a batch stand for.
        n_docs: how many passages for each question; by default the configuration's.
        corpus: of the passages, by the ids of the index, where they are encoded anew to train the
            context encoder; None where their vectors are those of the index.
        block_length: the most tokens of a passage for the context encoder.
    """

    def __init__(
        self,
        retriever: RagRetriever,
        questions: RagQuestions,
        n_docs: int | None = None,
        corpus: BlockCorpus | None = None,
        block_length: int = 288,
    ):
        self.retriever, self.corpus, self.block_length = retriever, corpus, block_length
        self.count = retriever.n_docs if n_docs is None else n_docs
        self._questions = questions

    @property
    def index(self) -> Any:
        """What is searched."""
        return self._stored.index

    @index.setter
    def index(self, index: Any) -> None:
        self._stored.index = index

    @property
    def _stored(self) -> StoredIndex:
        found = self.retriever.index
        if not isinstance(found, StoredIndex):
            raise ValueError(
                f"retriever: its index is a {type(found).__name__}, which cannot be refreshed; "
                "expected one of the zoo's"
            )
        return found

    def settings(self) -> dict[str, Any]:
        """All that the passages depend on besides texts and index, as JSON can hold it."""
        encoded = {} if self.corpus is None else {"block_length": self.block_length}
        length = self.retriever.config.max_combined_length
        return {"n_docs": self.count, "max_combined_length": length, **encoded}

    def __call__(self, vectors: np.ndarray, input_ids: np.ndarray, numbers: np.ndarray) -> Batch:
        """Finds passages.

        Args:
            vectors: of the questions, `(batch, dimension)`.
            input_ids: of the questions, `(batch, sequence)`.
            numbers: of the questions, `(batch,)`.

        Returns:
            `context_input_ids`, `context_attention_mask`, of passages and questions together for
            the generator, `(batch * D, tokens)`; `right`, 1 for a passage that holds an answer,
            `(batch, D)`; `embeds`, vectors of the passages, `(batch, D, dimension)`. To train the
            context encoder, instead of the last `candidate_input_ids`,
            `candidate_attention_mask`, `candidate_token_type_ids`, `(batch * D, tokens)`.
        """
        retriever = self.retriever
        embeds, ids, docs = retriever.retrieve(vectors, self.count)
        questions = retriever.question_encoder_tokenizer.batch_decode(
            np.asarray(input_ids), skip_special_tokens=True
        )
        prefix = retriever.config.generator.prefix
        joint = retriever.postprocess_docs(docs, questions, prefix, self.count, "np")
        context_ids, mask = trimmed(*joint)
        right = [
            [holds(plain_words(text), answers) for text in doc["text"]]
            for doc, answers in zip(docs, self._questions.answers_of(numbers), strict=True)
        ]
        found = {
            "context_input_ids": context_ids,
            "context_attention_mask": mask,
            "right": np.array(right, np.float32),
        }
        if self.corpus is None:
            return found | {"embeds": embeds.astype(np.float32)}
        blocks = self.corpus.block_inputs(ids.reshape(-1), self.block_length)
        return found | {f"candidate_{name}": value for name, value in blocks.items()}


def check_trained(
    retriever: Any, context_encoder: Any, corpus: BlockCorpus | None, tokenizer: Any
) -> None:
    """Refuses what a model cannot be trained end to end with.

    Raises:
        ValueError: no retriever, or a context encoder without corpus and tokenizer.
        CorpusError: a corpus that was made with another tokenizer.
    """
    if retriever is None:
        raise ValueError("model: it has no retriever; see set_retriever")
    if context_encoder is None:
        if corpus is not None:
            raise ValueError("corpus: expected together with a context_encoder to be trained")
        return
    if corpus is None or tokenizer is None:
        missing = "corpus" if corpus is None else "tokenizer"
        raise ValueError(f"{missing}: needed to train a context_encoder")
    corpus.check_tokenizer(tokenizer)


def trimmed(input_ids: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """A batch without the columns that are padding in all rows, int32."""
    ids, there = np.asarray(input_ids, np.int32), np.asarray(mask, np.int32)
    used = np.flatnonzero(there.any(0))
    first, last = (used[0], used[-1] + 1) if len(used) else (0, 1)
    return ids[:, first:last], there[:, first:last]


def retriever_of(
    config: Any, tokenizer: Any, index: Any, passages: Any, max_combined_length: int | None = None
) -> RagRetriever:
    """A retriever whose ids are rows of a corpus.

    Args:
        config: `RagConfig`.
        tokenizer: `RagTokenizer`.
        index: over the passages.
        passages: by row, something with a `title` and a `text`, such as a `PassageStore`.
        max_combined_length: of what the generator reads; by default the configuration's.
    """
    if max_combined_length is not None:
        config.max_combined_length = max_combined_length
    return RagRetriever(
        config, tokenizer.question_encoder, tokenizer.generator, StoredIndex(index, passages)
    )


def _left(tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """Questions as the generator sees them: what the question encoder's tokenizer leaves."""
    ids = _encoded(tokenizer, questions, None)
    return list(tokenizer.batch_decode(ids, skip_special_tokens=True))


def _gap_maker(corpus: BlockCorpus, row: int) -> GapMaker:
    """Makes questions of a passage."""
    first, last = corpus.sentence_offsets[row : row + 2]
    low, high = np.searchsorted(corpus.spans[:, 0], [first, last])
    base = corpus.offsets[row]
    characters = corpus.characters
    spans = [
        (int(characters[base + start][0]), int(characters[base + end - 1][1]))
        for _, start, end in corpus.spans[low:high]
    ]
    return GapMaker(corpus.texts[row], spans)


def _weights(labels: np.ndarray, pad: int) -> np.ndarray:
    """Of each label in the loss, `(batch, tokens)`; the first is what the decoder starts from."""
    counts = np.zeros(labels.shape, bool)
    counts[:, 1:] = labels[:, 1:] != pad
    return (counts * (len(labels) / counts.sum())).astype(np.float32)


def _encoded(
    tokenizer: Any, texts: Sequence[str], room: int | None, **options: Any
) -> list[list[int]]:
    """Ids of texts, cut off where there is no room."""
    if not texts:
        return []
    found = tokenizer(list(texts), **(_PLAIN | options))["input_ids"]
    return [list(ids)[:room] for ids in found]


def _table(rows: Iterable[Sequence[int]], fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as an array `(rows, longest)`, int32, and their lengths."""
    rows = list(rows)
    counts = np.array([len(row) for row in rows], np.int64)
    table = np.full((len(rows), max(int(counts.max(initial=1)), 1)), fill, np.int32)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return table, counts

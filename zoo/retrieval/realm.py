"""REALM's retriever: joins questions with blocks of evidence, and finds the answers in them.

Source: Lee et al. 2019, "Latent retrieval for weakly supervised open domain question answering",
section 4; Guu et al. 2020, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import files, hub
from ..stages import stage
from .answers import Answer, best_spans, locate_pieces
from .block_records import BlockRecords, write_block_records
from .index import as_array, check_count
from .store import RetrievalError

if TYPE_CHECKING:
    from ..tokenizers import BatchEncoding

BLOCK_RECORDS = "block_records.npy"
INDEX_FOLDER = "index"
SEARCH_ROWS = 1 << 20  # of block_emb compared at a time


@dataclass
class Evidence:
    """Questions joined with their blocks; all arrays begin with `(batch, blocks)`.

    Args:
        block_ids: `(batch, blocks)`; -1 where fewer were found.
        input_ids, attention_mask, token_type_ids: `(batch, blocks, sequence)`.
        block_mask: the same; True for the tokens of the block.
        texts: the blocks, for each question.
        offsets: `(batch, blocks, sequence, 2)`, characters of each token in its text, if known.
        pieces: token of each id, where characters have to be found another way.
        unknown: the token of unknown words.
        has_answers: `(batch, blocks)`, where answers were given.
        start_positions, end_positions: `(batch, blocks, answers)`; -1 for nowhere.
    """

    block_ids: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray
    block_mask: np.ndarray
    texts: list[list[str]]
    offsets: np.ndarray | None = None
    pieces: Any = None
    unknown: str = ""
    has_answers: np.ndarray | None = None
    start_positions: np.ndarray | None = None
    end_positions: np.ndarray | None = None

    def characters(self, row: int, block: int, start: int, end: int) -> tuple[int, int]:
        """Where a span of tokens stands in its block, in characters."""
        if self.offsets is not None:
            spans = self.offsets[row, block]
            return int(spans[start, 0]), int(spans[end, 1])
        inside = np.flatnonzero(self.block_mask[row, block])
        ids = self.input_ids[row, block, inside[0] : end + 1].tolist()
        found = locate_pieces(self.texts[row][block], self.pieces(ids), self.unknown)
        return found[start - inside[0]][0], found[end - inside[0]][1]


class RealmRetriever:
    """Joins questions with the blocks that were retrieved for them.

    Args:
        block_records: blocks of evidence by number: texts, UTF-8 byte strings, or passages with a
            `text`, such as a `PassageStore` gives.
        tokenizer: `RealmTokenizer` or `RealmTokenizerFast`.
    """

    def __init__(self, block_records: Any, tokenizer: Any):
        self.block_records = block_records
        self.tokenizer = tokenizer

    def __call__(
        self,
        retrieved_block_ids: Any,
        question_input_ids: Any,
        answer_ids: Any,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> tuple[Any, Any, Any, BatchEncoding]:
        """Joins one question with blocks.

        Args:
            retrieved_block_ids: `(blocks,)`.
            question_input_ids: `(1, sequence)`.
            answer_ids: ids of the answers, None if they are not to be looked for.
            max_length: number of tokens to cut question and block to.
            return_tensors: `pt`, `tf`, `np`, or None for lists.
        Returns:
            Whether each block has an answer; for each block first and last tokens of the answers
            that it has, with -1 to the length of the longest list; the encoded questions with
            blocks. The first three are None without answers.
        """
        ids = as_array(retrieved_block_ids).reshape(-1)
        question = self._questions(question_input_ids)[0]
        encoded = self._encode([question] * len(ids), self.texts(ids), max_length, return_tensors)
        if answer_ids is None:
            return None, None, None, encoded
        return (*self.block_has_answer(encoded, answer_ids), encoded)

    def block_has_answer(
        self, concat_inputs: Mapping[str, Any], answer_ids: Any
    ) -> tuple[list[bool], list[list[int]], list[list[int]]]:
        """Looks for answers in blocks.

        Args:
            concat_inputs: questions with blocks; `input_ids` `(blocks, sequence)`.
            answer_ids: ids of the answers; -1 is padding.
        Returns:
            Whether each block has an answer; first and last tokens of the answers that it has,
            with -1 to the length of the longest list.
        """
        input_ids = np.asarray(as_array(concat_inputs["input_ids"]))
        starts, ends = self._find(input_ids, _answers(answer_ids))
        has_answers = np.asarray((starts >= 0).any(-1))
        return has_answers.tolist(), starts.tolist(), ends.tolist()

    @stage("tokenize")
    def evidence(
        self,
        block_ids: np.ndarray,
        question_input_ids: Any,
        answer_ids: Any = None,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Evidence:
        """Joins several questions with their blocks.

        Args:
            block_ids: `(batch, blocks)`; -1 for none.
            question_input_ids: `(batch, sequence)`, padded.
            answer_ids: for each question ids of its answers, as lists or as an array
                `(batch, answers, answer)` with -1 as padding.
            max_length: number of tokens to cut question and block to.
            offsets: keep where tokens stand in their block.
        """
        block_ids = as_array(block_ids)
        batch, blocks = block_ids.shape
        questions = self._questions(question_input_ids)
        if len(questions) != batch:
            raise ValueError(
                f"question_input_ids: expected {batch} questions, got {len(questions)}"
            )
        texts = self.texts(block_ids.reshape(-1))
        repeated = [question for question in questions for _ in range(blocks)]
        fast = self.tokenizer.is_fast
        more = {"return_offsets_mapping": True} if offsets and fast else {}
        encoded = self._encode(repeated, texts, max_length, "np", **more)
        types = encoded["token_type_ids"]
        mask = (types == 1) & (encoded["special_tokens_mask"] == 0)

        def split(rows: Any) -> Any:
            return rows.reshape(batch, blocks, *rows.shape[1:])

        found = Evidence(
            block_ids,
            split(encoded["input_ids"]),
            split(encoded["attention_mask"]),
            split(types),
            split(mask & (block_ids.reshape(-1, 1) >= 0)),
            [texts[start : start + blocks] for start in range(0, batch * blocks, blocks)],
            split(np.asarray(encoded["offset_mapping"])) if more else None,
            None if fast else self.tokenizer.convert_ids_to_tokens,
            self.tokenizer.unk_token,
        )
        if answer_ids is not None:
            self._mark(found, _answers_of_batch(answer_ids, batch))
        return found

    @stage("tokenize")
    def tokenize_questions(self, questions: list[str], longest: int) -> dict[str, np.ndarray]:
        """Questions for the embedder, `(batch, sequence)` each.

        Args:
            questions: texts.
            longest: number of tokens to cut them to.
        """
        limit = min(longest, self.tokenizer.model_max_length)
        names = ("input_ids", "attention_mask", "token_type_ids")
        encoded = self.tokenizer(
            questions, padding=True, truncation=True, max_length=limit, return_tensors="np"
        )
        return {name: encoded[name] for name in names}

    @stage("read")
    def answers(
        self, evidence: Evidence, scores: np.ndarray, relevance: np.ndarray, width: int, count: int
    ) -> list[list[Answer]]:
        """The best answers to each question.

        Args:
            evidence: what was read.
            scores: `(batch, blocks, spans)` of the reader.
            relevance: `(batch, blocks)`.
            width: tokens of the longest span.
            count: how many; the same words count once, with their best evidence.
        """
        return [
            self._answers_to(evidence, row, scores[row], relevance[row], width, count)
            for row in range(len(scores))
        ]

    def texts(self, block_ids: np.ndarray) -> list[str]:
        """The blocks of numbers `(blocks,)`; nothing for -1.

        Raises:
            ValueError: there is no such block.
        """
        return [_text(self.block_records, int(id)) for id in block_ids]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: Any, **kwargs: Any
    ) -> Self:
        """Opens a folder or repository with a tokenizer and `block_records.npy`.

        The records stay in the file; no pickle is executed.

        Args:
            init_inputs, kwargs: as for the tokenizer's `from_pretrained`.
        """
        from ..tokenizers import RealmTokenizerFast

        name = os.fspath(pretrained_model_name_or_path)
        where = {key: kwargs[key] for key in hub.ARGUMENTS if key in kwargs}
        path = hub.resolve_file(name, BLOCK_RECORDS, **where)
        if path is None:
            raise ValueError(f"{name}: no {BLOCK_RECORDS}")
        tokenizer = RealmTokenizerFast.from_pretrained(name, *init_inputs, **kwargs)
        return cls(BlockRecords(path), tokenizer)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes the tokenizer's files and `block_records.npy`.

        Args:
            save_directory: made if it is not there; its other files are left alone.
        """
        self.tokenizer.save_pretrained(save_directory)
        count = len(self.block_records)
        records = (_text(self.block_records, number).encode() for number in range(count))
        with files.FolderUpdate(save_directory) as update:
            write_block_records(update.path(BLOCK_RECORDS), records, count)

    def _questions(self, question_input_ids: Any) -> list[str]:
        """The words of tokenized questions."""
        rows = as_array(question_input_ids).tolist()
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def _encode(
        self,
        questions: list[str],
        texts: list[str],
        max_length: int | None,
        return_tensors: str | None,
        **more: Any,
    ) -> BatchEncoding:
        return self.tokenizer(
            questions,
            texts,
            padding=True,
            truncation=True,
            max_length=max_length,
            return_special_tokens_mask=True,
            return_tensors=return_tensors,
            **more,
        )

    def _find(
        self, input_ids: np.ndarray, answers: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """First and last tokens `(blocks, found)` wherever an answer stands, then -1."""
        rows, length = input_ids.shape
        first = np.argmax(input_ids == self.tokenizer.sep_token_id, -1)
        behind = np.arange(length) > first[:, None]  # the question
        found: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        for answer in answers:
            if not 0 < len(answer) <= length:
                continue
            windows = length - len(answer) + 1
            matches = behind[:, :windows].copy()
            for place, token in enumerate(answer):
                matches &= input_ids[:, place : windows + place] == token
            for row, start in zip(*(x.tolist() for x in matches.nonzero()), strict=True):
                found[row].append((start, start + len(answer) - 1))
        spans = np.full((rows, max(map(len, found), default=0), 2), -1, np.int64)
        for row, places in enumerate(found):
            spans[row, : len(places)] = np.array(places).reshape(-1, 2)
        return spans[..., 0], spans[..., 1]

    def _mark(self, evidence: Evidence, answers: list[list[np.ndarray]]) -> None:
        """Notes where the answers stand."""
        found = [self._find(*each) for each in zip(evidence.input_ids, answers, strict=True)]
        most = max(1, *(starts.shape[1] for starts, _ in found))
        shape = (*evidence.block_ids.shape, most)
        evidence.start_positions, evidence.end_positions = np.full((2, *shape), -1, np.int64)
        for row, (starts, ends) in enumerate(found):
            evidence.start_positions[row, :, : starts.shape[1]] = starts
            evidence.end_positions[row, :, : ends.shape[1]] = ends
        evidence.has_answers = np.any(evidence.start_positions >= 0, axis=-1)

    @staticmethod
    def _answers_to(
        evidence: Evidence,
        row: int,
        scores: np.ndarray,
        relevance: np.ndarray,
        width: int,
        count: int,
    ) -> list[Answer]:
        length = evidence.input_ids.shape[-1]
        lowest = np.finfo(scores.dtype).min
        with np.errstate(over="ignore"):  # what is no span has the lowest number already
            total = np.where(scores > lowest / 2, scores + relevance[:, None], lowest)
        found: dict[str, Answer] = {}
        for span in best_spans(total, length, width, 16 * count):
            start, end = evidence.characters(row, span.block, span.start, span.end)
            block = evidence.texts[row][span.block]
            text = block[start:end]
            if text and text.lower() not in found:
                of_block = float(relevance[span.block])
                found[text.lower()] = Answer(
                    text,
                    span.score,
                    span.score - of_block,
                    of_block,
                    int(evidence.block_ids[row, span.block]),
                    block,
                    start,
                    end,
                )
                if len(found) == count:
                    break
        return list(found.values())


def open_folder(folder: str | os.PathLike[str]) -> tuple[RealmRetriever | None, Any]:
    """The retriever and the index in the folder of a model, None for what is not there."""
    from .index import open_index

    retriever = index = None
    if os.path.isfile(os.path.join(folder, BLOCK_RECORDS)):
        retriever = RealmRetriever.from_pretrained(folder)
        place = os.path.join(folder, INDEX_FOLDER)
        if os.path.isdir(place):
            index = open_index(place)
    return retriever, index


def check_questions(questions: Any, n_best: int, batch_size: int) -> None:
    """Checks what a model is to answer."""
    if isinstance(questions, str) or not all(isinstance(text, str) for text in questions):
        raise ValueError(f"questions: expected a list of texts, got {questions!r:.200}")
    check_count("n_best", n_best)
    check_count("batch_size", batch_size)


def check_records(retriever: RealmRetriever, rows: int) -> None:
    """Checks that there is a record for every vector."""
    count = len(retriever.block_records)
    if count != rows:
        raise ValueError(f"block_emb has {rows} rows, the retriever has {count} block records")


def search(index: Any, queries: np.ndarray, count: int) -> np.ndarray:
    """Ids `(batch, count)` that an index finds, -1 where it finds fewer.

    Args:
        index: any of `zoo.retrieval`, or another with its `search`.
        queries: `(batch, dimension)`.
        count: how many.
    """
    found = as_array(index.search(queries, count)[0])[:, :count].astype(np.int64)
    return np.pad(found, ((0, 0), (0, count - found.shape[1])), constant_values=-1)


def vectors_of(index: Any, ids: np.ndarray) -> np.ndarray | None:
    """The vectors of ids in an index; zeros for -1, None where the index keeps none.

    Args:
        index: any index of `zoo.retrieval`, or another with its `search`.
        ids: `(batch, blocks)`.
    Returns:
        `(batch, blocks, dimension)`.
    """
    if not hasattr(index, "vectors"):
        return None
    there = ids >= 0
    try:
        found = index.vectors(ids[there])
    except RetrievalError:
        return None
    vectors = np.zeros((*ids.shape, found.shape[-1]), np.float32)
    vectors[there] = found
    return vectors


def _text(records: Any, number: int) -> str:
    """The text of a block."""
    if number < 0:
        return ""
    try:
        record = records[number]
    except (IndexError, KeyError, ValueError):
        raise ValueError(f"block {number}: there are {len(records)} block records") from None
    if isinstance(record, bytes):
        return record.decode("utf-8")
    return record if isinstance(record, str) else record.text


def padded_answers(answer_ids: Any, batch: int) -> np.ndarray:
    """Ids of answers as `(batch, answers, answer)`, with -1 as padding.

    Args:
        answer_ids: as `RealmRetriever.evidence` takes them.
        batch: number of questions.
    """
    found = _answers_of_batch(answer_ids, batch)
    most = max(map(len, found), default=0)
    longest = max((len(answer) for of_one in found for answer in of_one), default=0)
    padded = np.full((batch, most, longest), -1, np.int64)
    for row, of_one in enumerate(found):
        for number, answer in enumerate(of_one):
            padded[row, number, : len(answer)] = answer
    return padded


def _answers(answer_ids: Any) -> list[np.ndarray]:
    """The ids of each answer without padding."""
    rows = [np.asarray(as_array(answer), np.int64).reshape(-1) for answer in answer_ids]
    return [row[row >= 0] for row in rows]


def _answers_of_batch(answer_ids: Any, batch: int) -> list[list[np.ndarray]]:
    """The same for each question; those of one question may stand without an axis for it."""
    if hasattr(answer_ids, "shape"):
        answer_ids = as_array(answer_ids)
        single = answer_ids.ndim == 2
    else:
        inner = [part for answer in answer_ids for part in answer]
        single = batch == 1 and all(np.ndim(as_array(part)) == 0 for part in inner)
    found = [_answers(of_one) for of_one in ([answer_ids] if single else answer_ids)]
    if len(found) != batch:
        raise ValueError(f"answer_ids: expected answers to {batch} questions, got {len(found)}")
    return found

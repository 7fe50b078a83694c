"""Evidence for questions from blocks that are tokenised already."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..retrieval.index import as_array
from ..retrieval.realm import Evidence, RealmRetriever
from .batches import joined
from .corpus import BlockCorpus
from .questions import find_answers


class CorpusRetriever(RealmRetriever):
    """A `RealmRetriever` whose blocks are not tokenised anew for every question.

    Args:
        corpus: of the blocks; their texts are the block records.
        tokenizer: that the corpus was made with.

    Raises:
        CorpusError: another tokenizer.
    """

    def __init__(self, corpus: BlockCorpus, tokenizer: Any):
        corpus.check_tokenizer(tokenizer)
        super().__init__(corpus.texts, tokenizer)
        self.corpus = corpus

    def evidence(
        self,
        block_ids: np.ndarray,
        question_input_ids: Any,
        answer_ids: Any = None,
        max_length: int | None = None,
        offsets: bool = False,
    ) -> Evidence:
        """Joins several questions with their blocks; see `RealmRetriever.evidence`.

        A block is cut where question and block together are too long, a question never.
        """
        corpus = self.corpus
        block_ids, questions = as_array(block_ids), as_array(question_input_ids)
        lengths = (questions != corpus.special.pad).sum(1)
        longest = self.tokenizer.model_max_length if max_length is None else max_length
        room = max(min(longest, 1 << 20) - int(lengths.max()) - 1, 1)
        room = min(room, int(corpus.lengths[np.maximum(block_ids, 0)].max(initial=1)))
        joint = joined(corpus, questions, lengths, block_ids, room)
        inputs = {name: array.astype(np.int64) for name, array in joint.items()}
        found = Evidence(
            block_ids,
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["token_type_ids"],
            inputs["block_mask"].astype(bool),
            [self.texts(row) for row in block_ids],
            unknown=self.tokenizer.unk_token,
        )
        if offsets:
            found.offsets = self._offsets(block_ids, lengths, inputs["input_ids"].shape[-1], room)
        if answer_ids is not None:
            bodies, counts = corpus.gather(block_ids, room)
            starts, ends = find_answers(bodies, counts, _padded(answer_ids, len(block_ids)))
            there = starts >= 0
            before = lengths[:, None, None]  # tokens of the question
            found.has_answers = np.asarray(there.any(-1))
            found.start_positions = np.where(there, starts + before, -1)
            found.end_positions = np.where(there, ends + before, -1)
        return found

    def _offsets(
        self, block_ids: np.ndarray, lengths: np.ndarray, longest: int, room: int
    ) -> np.ndarray:
        """Characters of each token in its block, `(batch, blocks, sequence, 2)`."""
        corpus = self.corpus
        starts = corpus.offsets[np.maximum(block_ids, 0)][..., None]
        inside = np.clip(np.arange(longest) - lengths[:, None, None], 0, room - 1)
        return corpus.characters[np.minimum(starts + inside, len(corpus.characters) - 1)]


def _padded(answer_ids: Any, batch: int) -> np.ndarray:
    """Answers as an array `(batch, answers, tokens)` with -1 as padding."""
    if hasattr(answer_ids, "shape"):
        answers = np.asarray(as_array(answer_ids), np.int64)
        return answers if answers.ndim == 3 else answers[None]
    single = batch == 1 and all(np.ndim(token) == 0 for answer in answer_ids for token in answer)
    questions = [answer_ids] if single else answer_ids
    most = max((len(answers) for answers in questions), default=0)
    longest = max((len(answer) for answers in questions for answer in answers), default=0)
    found = np.full((len(questions), max(most, 1), max(longest, 1)), -1, np.int64)
    for row, answers in enumerate(questions):
        for number, answer in enumerate(answers):
            found[row, number, : len(answer)] = as_array(answer)
    return found

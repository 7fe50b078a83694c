"""DPR's tokenizers: BERT's, and a reader's that joins a question, a title and a text.

Source: Karpukhin et al. 2020, section 6.1, of the answers that a reader chooses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .base import PreTrainedTokenizerBase
from .encoding import BatchEncoding
from .special_tokens import python_values
from .wordpiece import BertTokenizer, BertTokenizerFast


class DPRQuestionEncoderTokenizer(BertTokenizer):
    """Of questions; takes what `BertTokenizer` takes."""


class DPRQuestionEncoderTokenizerFast(BertTokenizerFast):
    """Of questions, on the `tokenizers` library; takes what `BertTokenizerFast` takes."""

    slow_tokenizer_class = DPRQuestionEncoderTokenizer


class DPRContextEncoderTokenizer(BertTokenizer):
    """Of passages, a title and a text as a pair; takes what `BertTokenizer` takes."""


class DPRContextEncoderTokenizerFast(BertTokenizerFast):
    """The same on the `tokenizers` library; takes what `BertTokenizerFast` takes."""

    slow_tokenizer_class = DPRContextEncoderTokenizer


class DPRSpanPrediction(NamedTuple):
    """An answer that a reader found.

    Args:
        span_score: of the first and of the last token together.
        relevance_score: of the passage.
        doc_id: number of the passage.
        start_index, end_index: of the first and of the last token in the passage's row.
        text: of the answer.
    """

    span_score: float
    relevance_score: float
    doc_id: int
    start_index: int
    end_index: int
    text: str


class DPRReaderMixin(PreTrainedTokenizerBase):
    """[CLS] question [SEP] title [SEP] text, and back to answers."""

    def __call__(  # type: ignore[override]
        self,
        questions: Any,
        titles: Any = None,
        texts: Any = None,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_attention_mask: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Turns a question and passages into ids.

        Args:
            questions: one question, which is asked of every passage, or one for each passage.
            titles: of the passages; a title or a list of them.
            texts: of the passages. With titles or texts alone these are the second text of a
                pair; without either the questions stand alone.
            padding, max_length, return_tensors: as of any tokenizer.
            truncation: whether rows longer than `max_length` (or than what the model takes) lose
                the end of their text.
            return_attention_mask: by default as `model_input_names` says.
            kwargs: further arguments of a call, where there are no titles or no texts.

        Returns:
            `input_ids`, `attention_mask`: `(passages, sequence)`.

        Raises:
            ValueError: as many titles as texts, or as questions, were expected.
        """
        options: dict[str, Any] = {
            "padding": padding,
            "max_length": max_length,
            "return_tensors": return_tensors,
            "return_attention_mask": return_attention_mask,
        }
        if titles is None or texts is None:
            passages = texts if titles is None else titles
            if isinstance(passages, list | tuple) and isinstance(questions, str):
                questions = [questions] * len(passages)
            return super().__call__(questions, passages, truncation=truncation, **options, **kwargs)
        if kwargs:
            raise TypeError(
                f"{type(self).__name__}: with titles and texts there is no {sorted(kwargs)}"
            )
        titles, texts = ([x] if isinstance(x, str) else list(x) for x in (titles, texts))
        if len(titles) != len(texts):
            raise ValueError(f"texts: expected {len(titles)}, as many as titles, got {len(texts)}")
        questions = [questions] * len(titles) if isinstance(questions, str) else list(questions)
        if len(questions) != len(titles):
            raise ValueError(
                f"questions: expected one or {len(titles)}, as many as titles, got {len(questions)}"
            )
        plain: dict[str, Any] = {"padding": False, "truncation": False}
        first = super().__call__(questions, titles, **plain)["input_ids"]
        second = super().__call__(texts, add_special_tokens=False, **plain)["input_ids"]
        rows = [[*a, *b] for a, b in zip(first, second, strict=True)]
        if truncation:
            limit = self.model_max_length if max_length is None else max_length
            rows = [row[:limit] for row in rows]
        return self.pad({"input_ids": rows}, **options)

    def decode_best_spans(
        self,
        reader_input: Any,
        reader_output: Any,
        num_spans: int = 16,
        max_answer_length: int = 64,
        num_spans_per_passage: int = 4,
    ) -> list[DPRSpanPrediction]:
        """The best answers of the most relevant passages.

        Args:
            reader_input: what a call gave.
            reader_output: what `DPRReader` gave; first its start, end and relevance scores.
            num_spans: the most answers.
            max_answer_length: the most tokens of an answer.
            num_spans_per_passage: the most answers of a passage, none of which lies inside
                another.

        Returns:
            Answers, those of the most relevant passage first.
        """
        rows = python_values(reader_input["input_ids"])
        starts, ends, relevance = (np.asarray(_numbers(x)) for x in reader_output[:3])
        found: list[DPRSpanPrediction] = []
        for passage in np.argsort(-relevance, kind="stable").tolist():
            row = rows[passage]
            # Behind the question; a title may be the answer.
            first = row.index(self.sep_token_id, 2) + 1
            last = row.index(self.pad_token_id) if row[-1] == self.pad_token_id else len(row)
            spans = _best_spans(
                starts[passage, first:last],
                ends[passage, first:last],
                max_answer_length,
                num_spans_per_passage,
            )
            for score, start, end in spans:
                start, end = start + first, end + first
                text = self.decode(row[start : end + 1])
                found.append(
                    DPRSpanPrediction(score, float(relevance[passage]), passage, start, end, text)
                )
            if len(found) >= num_spans:
                break
        return found[:num_spans]


class DPRReaderTokenizer(DPRReaderMixin, BertTokenizer):
    """Of questions with passages; takes what `BertTokenizer` takes."""

    model_input_names = ["input_ids", "attention_mask"]


class DPRReaderTokenizerFast(DPRReaderMixin, BertTokenizerFast):
    """The same on the `tokenizers` library; takes what `BertTokenizerFast` takes."""

    model_input_names = ["input_ids", "attention_mask"]
    slow_tokenizer_class = DPRReaderTokenizer


def _numbers(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _best_spans(
    starts: np.ndarray, ends: np.ndarray, longest: int, count: int
) -> list[tuple[float, int, int]]:
    """Scores and bounds of the best spans of which none lies inside another, best first."""
    scores = starts[:, None] + ends[None, :]
    length = np.arange(len(ends))[None, :] - np.arange(len(starts))[:, None]
    first, last = np.nonzero((length >= 0) & (length < longest))
    order = np.argsort(-scores[first, last], kind="stable")
    chosen: list[tuple[float, int, int]] = []
    for start, end in zip(first[order].tolist(), last[order].tolist(), strict=True):
        if len(chosen) == count:
            break
        if not any(a <= start and end <= b or start <= a and b <= end for _, a, b in chosen):
            chosen.append((float(scores[start, end]), start, end))
    return chosen

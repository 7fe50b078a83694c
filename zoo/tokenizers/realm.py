"""REALM's tokenizers: BERT's, with a method that encodes several candidates for every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .encoding import BatchEncoding, PaddingStrategy
from .wordpiece import BertTokenizer, BertTokenizerFast

if TYPE_CHECKING:
    from .base import PreTrainedTokenizerBase as _Base
else:
    _Base = object

COLUMNS = ("input_ids", "attention_mask", "token_type_ids")


class CandidatesMixin(_Base):
    """What both classes add to BERT's."""

    def batch_encode_candidates(
        self,
        text: Sequence[Sequence[Any]],
        *,
        text_pair: Sequence[Sequence[Any]] | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Turns texts with an axis of candidates into ids, always padded to `max_length`.

        Args:
            text: `(batch, candidates)` texts.
            text_pair: the second texts, of the same form.
            kwargs: as for `__call__`. Without `max_length` rows are padded to the model's. A
                longer row is cut with `truncation=True` only.
        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, `(batch, candidates, max_length)`.
        Raises:
            ValueError: texts of another form, or rows that differ in length where arrays are
                asked for.
        """
        padding = kwargs.pop("padding", PaddingStrategy.MAX_LENGTH)
        if padding != PaddingStrategy.MAX_LENGTH:
            raise ValueError(f"padding: received {padding!r}, candidates are padded to max_length")
        if kwargs.pop("return_overflowing_tokens", False):
            raise ValueError("return_overflowing_tokens: not possible with candidates")
        counts = _counts("text", text)
        if text_pair is not None and (got := _counts("text_pair", text_pair)) != counts:
            raise ValueError(f"text_pair: expected {counts} candidates as in text, got {got}")
        tensors = kwargs.pop("return_tensors", None)
        columns: dict[str, list[Any]] = {}
        if counts:
            pairs = None if text_pair is None else [one for row in text_pair for one in row]
            flat = [one for row in text for one in row]
            encoded = self(flat, pairs, padding=padding, **kwargs)
            for name in COLUMNS:
                rows = iter(encoded.get(name, ()))
                if name in encoded:
                    columns[name] = [[next(rows) for _ in range(count)] for count in counts]
        return BatchEncoding(columns, tensor_type=tensors)


def _counts(name: str, text: Any) -> list[int]:
    """Number of candidates of each example."""
    lists = (list, tuple)
    if not isinstance(text, lists) or not all(isinstance(row, lists) for row in text):
        raise ValueError(
            f"{name}: received {text!r:.200}, expected a list of lists of texts, "
            "(batch, candidates)"
        )
    return [len(row) for row in text]


class RealmTokenizer(CandidatesMixin, BertTokenizer):
    """REALM's tokenizer in Python; the arguments are those of `BertTokenizer`."""


class RealmTokenizerFast(CandidatesMixin, BertTokenizerFast):
    """REALM's tokenizer on the `tokenizers` library; the arguments are as in `BertTokenizerFast`.

    Args:
        clean_text, wordpieces_prefix, ...: see `BertTokenizerFast`.
    """

    slow_tokenizer_class = RealmTokenizer

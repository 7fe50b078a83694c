"""[CLS] text [SEP] text [SEP]: the special tokens around a text, as in BERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import processors

from .base import PreTrainedTokenizerBase
from .fast import PreTrainedTokenizerFast


class ClsSepMixin(PreTrainedTokenizerBase):
    """[CLS] text [SEP], or [CLS] text [SEP] second text [SEP] with the types 0 and 1."""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        cls, sep = [self.cls_token_id], [self.sep_token_id]
        if token_ids_1 is None:
            return cls + token_ids_0 + sep
        return cls + token_ids_0 + sep + token_ids_1 + sep

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        types = [0] * (len(token_ids_0) + 2)
        return types if token_ids_1 is None else types + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
        mask = [1] + [0] * len(token_ids_0) + [1]
        return mask if token_ids_1 is None else mask + [0] * len(token_ids_1) + [1]


class ClsSepFastMixin(ClsSepMixin, PreTrainedTokenizerFast):
    """The same on the `tokenizers` library."""

    def _set_template(self) -> None:
        """Tells the library which special tokens surround a text."""
        cls, sep = self.cls_token, self.sep_token
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(cls, self.cls_token_id), (sep, self.sep_token_id)],
        )

    def _apply_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Arguments typed in code apply to what was read from a tokenizer.json, too."""
        if {"cls_token", "sep_token"} & set(overrides):
            self._set_template()

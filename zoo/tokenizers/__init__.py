"""Tokenizers of all families; names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from .auto import AutoTokenizer
    from .bart import BartTokenizer, BartTokenizerFast
    from .base import PreTrainedTokenizerBase
    from .bert_generation import BertGenerationTokenizer
    from .dpr import (
        DPRContextEncoderTokenizer,
        DPRContextEncoderTokenizerFast,
        DPRQuestionEncoderTokenizer,
        DPRQuestionEncoderTokenizerFast,
        DPRReaderTokenizer,
        DPRReaderTokenizerFast,
    )
    from .encoding import (
        BatchEncoding,
        CharSpan,
        PaddingStrategy,
        TensorType,
        TokenSpan,
        TruncationStrategy,
    )
    from .fast import PreTrainedTokenizerFast
    from .rag import RagTokenizer
    from .realm import RealmTokenizer, RealmTokenizerFast
    from .reformer import ReformerByteTokenizer, ReformerTokenizer, ReformerTokenizerFast
    from .rembert import RemBertTokenizer, RemBertTokenizerFast
    from .sentencepiece import SentencePieceTokenizer
    from .slow import PreTrainedTokenizer
    from .t5 import T5Tokenizer, T5TokenizerFast
    from .wordpiece import BertTokenizer, BertTokenizerFast

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BartTokenizer",
    "BartTokenizerFast",
    "BatchEncoding",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "CharSpan",
    "DPRContextEncoderTokenizer",
    "DPRContextEncoderTokenizerFast",
    "DPRQuestionEncoderTokenizer",
    "DPRQuestionEncoderTokenizerFast",
    "DPRReaderTokenizer",
    "DPRReaderTokenizerFast",
    "PaddingStrategy",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
    "RagTokenizer",
    "RealmTokenizer",
    "RealmTokenizerFast",
    "ReformerByteTokenizer",
    "ReformerTokenizer",
    "ReformerTokenizerFast",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "SentencePieceTokenizer",
    "T5Tokenizer",
    "T5TokenizerFast",
    "TensorType",
    "TokenSpan",
    "TruncationStrategy",
]

_MODULES = {
    "auto": ("AutoTokenizer",),
    "bart": ("BartTokenizer", "BartTokenizerFast"),
    "base": ("PreTrainedTokenizerBase",),
    "bert_generation": ("BertGenerationTokenizer",),
    "dpr": (
        "DPRContextEncoderTokenizer",
        "DPRContextEncoderTokenizerFast",
        "DPRQuestionEncoderTokenizer",
        "DPRQuestionEncoderTokenizerFast",
        "DPRReaderTokenizer",
        "DPRReaderTokenizerFast",
    ),
    "encoding": (
        "BatchEncoding",
        "CharSpan",
        "PaddingStrategy",
        "TensorType",
        "TokenSpan",
        "TruncationStrategy",
    ),
    "fast": ("PreTrainedTokenizerFast",),
    "rag": ("RagTokenizer",),
    "realm": ("RealmTokenizer", "RealmTokenizerFast"),
    "reformer": ("ReformerByteTokenizer", "ReformerTokenizer", "ReformerTokenizerFast"),
    "rembert": ("RemBertTokenizer", "RemBertTokenizerFast"),
    "sentencepiece": ("SentencePieceTokenizer",),
    "slow": ("PreTrainedTokenizer",),
    "t5": ("T5Tokenizer", "T5TokenizerFast"),
    "wordpiece": ("BertTokenizer", "BertTokenizerFast"),
}


def __getattr__(name: str) -> Any:
    if name == "AddedToken":
        return importlib.import_module("tokenizers").AddedToken
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]

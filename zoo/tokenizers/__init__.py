"""Tokenizers of all families; names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken

    from .auto import AutoTokenizer
    from .base import PreTrainedTokenizerBase
    from .bert_generation import BertGenerationTokenizer
    from .encoding import (
        BatchEncoding,
        CharSpan,
        PaddingStrategy,
        TensorType,
        TokenSpan,
        TruncationStrategy,
    )
    from .fast import PreTrainedTokenizerFast
    from .rembert import RemBertTokenizer, RemBertTokenizerFast
    from .sentencepiece import SentencePieceTokenizer
    from .slow import PreTrainedTokenizer
    from .wordpiece import BertTokenizer, BertTokenizerFast

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BatchEncoding",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "CharSpan",
    "PaddingStrategy",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "SentencePieceTokenizer",
    "TensorType",
    "TokenSpan",
    "TruncationStrategy",
]

_MODULES = {
    "auto": ("AutoTokenizer",),
    "base": ("PreTrainedTokenizerBase",),
    "bert_generation": ("BertGenerationTokenizer",),
    "encoding": (
        "BatchEncoding",
        "CharSpan",
        "PaddingStrategy",
        "TensorType",
        "TokenSpan",
        "TruncationStrategy",
    ),
    "fast": ("PreTrainedTokenizerFast",),
    "rembert": ("RemBertTokenizer", "RemBertTokenizerFast"),
    "sentencepiece": ("SentencePieceTokenizer",),
    "slow": ("PreTrainedTokenizer",),
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

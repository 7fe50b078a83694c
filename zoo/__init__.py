"""Twin Zoo's shared layer: configurations, tokenizers and checkpoint files, without a framework.

A name is imported when it is first used, so that `import zoo` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointError, LoadReport
    from .configs import (
        AutoConfig,
        BartConfig,
        BertGenerationConfig,
        DPRConfig,
        EncoderDecoderConfig,
        PretrainedConfig,
        RagConfig,
        RealmConfig,
        ReformerConfig,
        RemBertConfig,
        T5Config,
    )
    from .generation import (
        BaseStreamer,
        GenerationConfig,
        MaxLengthCriteria,
        MaxTimeCriteria,
        StoppingCriteria,
        StoppingCriteriaList,
        TextIteratorStreamer,
        TextStreamer,
    )
    from .hub import HubError
    from .outputs import ModelOutput
    from .retrieval import RagRetriever, RealmRetriever
    from .tokenizers import (
        AddedToken,
        AutoTokenizer,
        BartTokenizer,
        BartTokenizerFast,
        BatchEncoding,
        BertGenerationTokenizer,
        BertTokenizer,
        BertTokenizerFast,
        DPRContextEncoderTokenizer,
        DPRContextEncoderTokenizerFast,
        DPRQuestionEncoderTokenizer,
        DPRQuestionEncoderTokenizerFast,
        DPRReaderTokenizer,
        DPRReaderTokenizerFast,
        RagTokenizer,
        RealmTokenizer,
        RealmTokenizerFast,
        ReformerByteTokenizer,
        ReformerTokenizer,
        ReformerTokenizerFast,
        RemBertTokenizer,
        RemBertTokenizerFast,
        T5Tokenizer,
        T5TokenizerFast,
    )

__all__ = [
    "AddedToken",
    "AutoConfig",
    "AutoTokenizer",
    "BartConfig",
    "BartTokenizer",
    "BartTokenizerFast",
    "BaseStreamer",
    "BatchEncoding",
    "BertGenerationConfig",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "Checkpoint",
    "CheckpointError",
    "DPRConfig",
    "DPRContextEncoderTokenizer",
    "DPRContextEncoderTokenizerFast",
    "DPRQuestionEncoderTokenizer",
    "DPRQuestionEncoderTokenizerFast",
    "DPRReaderTokenizer",
    "DPRReaderTokenizerFast",
    "EncoderDecoderConfig",
    "GenerationConfig",
    "HubError",
    "LoadReport",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "ModelOutput",
    "PretrainedConfig",
    "RagConfig",
    "RagRetriever",
    "RagTokenizer",
    "RealmConfig",
    "RealmRetriever",
    "RealmTokenizer",
    "RealmTokenizerFast",
    "ReformerByteTokenizer",
    "ReformerConfig",
    "ReformerTokenizer",
    "ReformerTokenizerFast",
    "RemBertConfig",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "T5Config",
    "T5Tokenizer",
    "T5TokenizerFast",
    "TextIteratorStreamer",
    "TextStreamer",
]

_MODULES = {
    "checkpoint": ("Checkpoint", "CheckpointError", "LoadReport"),
    "configs": (
        "AutoConfig",
        "BartConfig",
        "BertGenerationConfig",
        "DPRConfig",
        "EncoderDecoderConfig",
        "PretrainedConfig",
        "RagConfig",
        "RealmConfig",
        "ReformerConfig",
        "RemBertConfig",
        "T5Config",
    ),
    "generation": (
        "BaseStreamer",
        "GenerationConfig",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "StoppingCriteria",
        "StoppingCriteriaList",
        "TextIteratorStreamer",
        "TextStreamer",
    ),
    "hub": ("HubError",),
    "outputs": ("ModelOutput",),
    "retrieval": ("RagRetriever", "RealmRetriever"),
    "tokenizers": (
        "AddedToken",
        "AutoTokenizer",
        "BartTokenizer",
        "BartTokenizerFast",
        "BatchEncoding",
        "BertGenerationTokenizer",
        "BertTokenizer",
        "BertTokenizerFast",
        "DPRContextEncoderTokenizer",
        "DPRContextEncoderTokenizerFast",
        "DPRQuestionEncoderTokenizer",
        "DPRQuestionEncoderTokenizerFast",
        "DPRReaderTokenizer",
        "DPRReaderTokenizerFast",
        "RagTokenizer",
        "RealmTokenizer",
        "RealmTokenizerFast",
        "ReformerByteTokenizer",
        "ReformerTokenizer",
        "ReformerTokenizerFast",
        "RemBertTokenizer",
        "RemBertTokenizerFast",
        "T5Tokenizer",
        "T5TokenizerFast",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

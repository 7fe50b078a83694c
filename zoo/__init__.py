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
        BertGenerationConfig,
        EncoderDecoderConfig,
        PretrainedConfig,
        RemBertConfig,
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
    from .tokenizers import (
        AddedToken,
        AutoTokenizer,
        BatchEncoding,
        BertGenerationTokenizer,
        BertTokenizer,
        BertTokenizerFast,
        RemBertTokenizer,
        RemBertTokenizerFast,
    )

__all__ = [
    "AddedToken",
    "AutoConfig",
    "AutoTokenizer",
    "BaseStreamer",
    "BatchEncoding",
    "BertGenerationConfig",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "Checkpoint",
    "CheckpointError",
    "EncoderDecoderConfig",
    "GenerationConfig",
    "HubError",
    "LoadReport",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "ModelOutput",
    "PretrainedConfig",
    "RemBertConfig",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
]

_MODULES = {
    "checkpoint": ("Checkpoint", "CheckpointError", "LoadReport"),
    "configs": (
        "AutoConfig",
        "BertGenerationConfig",
        "EncoderDecoderConfig",
        "PretrainedConfig",
        "RemBertConfig",
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
    "tokenizers": (
        "AddedToken",
        "AutoTokenizer",
        "BatchEncoding",
        "BertGenerationTokenizer",
        "BertTokenizer",
        "BertTokenizerFast",
        "RemBertTokenizer",
        "RemBertTokenizerFast",
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

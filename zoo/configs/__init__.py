"""Model configurations: one class per family, with the names of the published `config.json`."""

from .auto import AutoConfig
from .bart import BartConfig
from .base import PretrainedConfig
from .bert_generation import BertGenerationConfig
from .dpr import DPRConfig
from .encoder_decoder import EncoderDecoderConfig
from .rag import RagConfig
from .realm import RealmConfig
from .reformer import ReformerConfig
from .rembert import RemBertConfig
from .t5 import T5Config

__all__ = [
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
]

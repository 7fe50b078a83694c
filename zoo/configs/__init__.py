"""Model configurations: one class per family, with the names of the published `config.json`."""

from .auto import AutoConfig
from .base import PretrainedConfig
from .bert_generation import BertGenerationConfig
from .encoder_decoder import EncoderDecoderConfig
from .rembert import RemBertConfig

__all__ = [
    "AutoConfig",
    "BertGenerationConfig",
    "EncoderDecoderConfig",
    "PretrainedConfig",
    "RemBertConfig",
]

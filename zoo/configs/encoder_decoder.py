"""Encoder and decoder in one model (Rothe et al. 2020, section 2): two configurations in one."""

import copy
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from .auto import config_class
from .base import PretrainedConfig
from .rules import Flag, Rule

PARTS = ("encoder", "decoder")
ModelConfig = Annotated[
    Any,
    Rule("a model's configuration", lambda value: isinstance(value, PretrainedConfig)),
]


def as_config(name: str, values: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration that a dictionary with a `model_type` describes.

    Args:
        name: of the field, for errors.
    """
    try:
        return config_class(values.get("model_type")).from_dict(values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


class EncoderDecoderConfig(PretrainedConfig):
    """The configurations of an encoder and of a decoder, and what concerns both together.

    Args:
        encoder: configuration of the encoder, or a dictionary with its `model_type`.
        decoder: the same of the decoder.
        is_encoder_decoder: True, as readers of the file expect.
        **kwargs: fields that all families have, see `PretrainedConfig`; among them
            `decoder_start_token_id`, `pad_token_id` and `tie_encoder_decoder`.

    Raises:
        ValueError: a half is missing, an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "encoder-decoder"
    is_composition: ClassVar[bool] = True

    encoder: ModelConfig = None
    decoder: ModelConfig = None
    is_encoder_decoder: Flag = True

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: PretrainedConfig, decoder_config: PretrainedConfig, **kwargs: Any
    ) -> Self:
        """Joins two configurations; the decoder's becomes one of a decoder with cross-attention.

        Args:
            encoder_config, decoder_config: of the halves; copies of them are used.
            **kwargs: further fields.
        """
        encoder, decoder = copy.deepcopy(encoder_config), copy.deepcopy(decoder_config)
        decoder.is_decoder = decoder.add_cross_attention = True
        return cls(encoder=encoder, decoder=decoder, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and isinstance(value, Mapping):
            value = as_config(f"{type(self).__name__}.{name}", value)
        super().__setattr__(name, value)

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        for part in PARTS:
            for name, value, expected in getattr(self, part)._problems():
                yield f"{part}.{name}", value, expected
        width = self.decoder.cross_attention_hidden_size
        if width is not None and width != self.decoder.hidden_size:
            yield (
                "decoder.cross_attention_hidden_size",
                width,
                f"None: an encoder of another width than the decoder's "
                f"({self.decoder.hidden_size}) is projected to it",
            )

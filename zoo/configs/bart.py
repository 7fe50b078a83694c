"""BART (Lewis et al. 2019, "BART: denoising sequence-to-sequence pre-training").

An encoder and a decoder with learned positions and a norm behind each part. Published weights:
facebook/bart-base, facebook/bart-large and models made of them; RAG's generator.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from .base import PretrainedConfig
from .rules import (
    Activation,
    Flag,
    LabelIds,
    LabelNames,
    NonNegative,
    PositiveInt,
    Probability,
    Rule,
    TokenId,
    TokenIds,
    is_integer,
)


class BartConfig(PretrainedConfig):
    """Sizes and settings of a BART model; the defaults are those of facebook/bart-large.

    Args:
        vocab_size: number of token ids.
        max_position_embeddings: the longest sequence, of the encoder and of the decoder.
        encoder_layers, decoder_layers: number of layers.
        encoder_ffn_dim, decoder_ffn_dim: width inside the feed-forward part of a layer.
        encoder_attention_heads, decoder_attention_heads: number of attention heads per layer.
        encoder_layerdrop, decoder_layerdrop: how often a layer is left out in training
            (Fan et al. 2019, "Reducing Transformer depth on demand").
        activation_function: activation in the feed-forward part, by name or as a function.
        d_model: width of the model, a multiple of both numbers of heads.
        dropout: after embeddings and dense layers.
        attention_dropout: of attention probabilities.
        activation_dropout: behind the activation.
        init_std: standard deviation of new weights.
        classifier_dropout: of classification heads; kept for the files that have it.
        scale_embedding: whether embeddings are multiplied by the square root of `d_model`.
        use_cache: whether the decoder returns keys and values for the next step.
        pad_token_id: id of padding, whose embedding stays zero.
        bos_token_id, eos_token_id: ids at the beginning and at the end of a sequence.
        is_encoder_decoder: True, as readers of the file expect.
        decoder_start_token_id: what the decoder starts from.
        forced_eos_token_id: what generation ends with at the greatest length.
        **kwargs: fields that all families have, see `PretrainedConfig`; `num_hidden_layers` is
            the encoder's number of layers unless it is given.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "bart"
    attribute_map: ClassVar[dict[str, str]] = {
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
    }
    optional_fields: ClassVar[dict[str, Rule]] = PretrainedConfig.optional_fields | {
        "num_hidden_layers": Rule("an integer", is_integer)
    }

    vocab_size: PositiveInt = 50265
    max_position_embeddings: PositiveInt = 1024
    encoder_layers: PositiveInt = 12
    encoder_ffn_dim: PositiveInt = 4096
    encoder_attention_heads: PositiveInt = 16
    decoder_layers: PositiveInt = 12
    decoder_ffn_dim: PositiveInt = 4096
    decoder_attention_heads: PositiveInt = 16
    encoder_layerdrop: Probability = 0.0
    decoder_layerdrop: Probability = 0.0
    activation_function: Activation = "gelu"
    d_model: PositiveInt = 1024
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.0
    activation_dropout: Probability = 0.0
    init_std: NonNegative = 0.02
    classifier_dropout: Probability = 0.0
    scale_embedding: Flag = False
    use_cache: Flag = True
    pad_token_id: TokenId = 1
    bos_token_id: TokenId = 0
    eos_token_id: TokenIds = 2
    is_encoder_decoder: Flag = True
    decoder_start_token_id: TokenId = 2
    forced_eos_token_id: Any = 2
    id2label: LabelNames = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    label2id: LabelIds = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}

    def _fill(self, values: Mapping[str, Any]) -> None:
        layers = values.get("encoder_layers", type(self).encoder_layers)
        super()._fill({"num_hidden_layers": layers, **values})

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            yield from self._undivided("d_model", name)
        yield from self._unknown_padding(self.vocab_size)

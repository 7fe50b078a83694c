"""DPR (Karpukhin et al. 2020, "Dense passage retrieval for open-domain question answering").

BERT as an encoder of questions, as an encoder of passages, and as a reader. Published weights:
facebook/dpr-question_encoder-*, facebook/dpr-ctx_encoder-* and facebook/dpr-reader-*.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from .base import PretrainedConfig
from .rules import (
    Activation,
    Count,
    NonNegative,
    PositionEmbeddingType,
    PositiveInt,
    Probability,
    TokenId,
)


class DPRConfig(PretrainedConfig):
    """Sizes and settings of a DPR model; the defaults are those of the published ones.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the encoder, a multiple of `num_attention_heads`.
        num_hidden_layers: number of layers.
        num_attention_heads: number of attention heads per layer.
        intermediate_size: width inside the feed-forward part of a layer.
        hidden_act: activation in there, by name or as a function.
        hidden_dropout_prob: dropout after embeddings and dense layers.
        attention_probs_dropout_prob: dropout of attention probabilities.
        max_position_embeddings: the longest sequence.
        type_vocab_size: number of token types.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: epsilon of the layer norms.
        pad_token_id: id of padding, whose embedding stays zero.
        position_embedding_type: "absolute", "relative_key" (Shaw et al. 2018) or
            "relative_key_query" (Huang et al. 2020, method 4).
        projection_dim: width that a text's vector is projected to; 0 for no projection.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "dpr"

    vocab_size: PositiveInt = 30522
    hidden_size: PositiveInt = 768
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: NonNegative = 0.02
    layer_norm_eps: NonNegative = 1e-12
    pad_token_id: TokenId = 0
    position_embedding_type: PositionEmbeddingType = "absolute"
    projection_dim: Count = 0

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        yield from self._undivided("hidden_size", "num_attention_heads")
        yield from self._unknown_padding(self.vocab_size)

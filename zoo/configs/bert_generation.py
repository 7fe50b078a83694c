"""BertGeneration (Rothe et al. 2020, "Leveraging pre-trained checkpoints for sequence generation").

BERT without token types and pooler, as an encoder or as a decoder with cross-attention. Published
weights: google/bert_for_seq_generation_L-24_bbc_encoder, and the halves of the EncoderDecoder
bundles google/roberta2roberta_L-24_* and google/bert2bert_L-24_*. A plain BERT checkpoint opens
as well.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from .base import PretrainedConfig
from .rules import (
    Activation,
    Flag,
    NonNegative,
    PositionEmbeddingType,
    PositiveInt,
    Probability,
    TokenId,
    TokenIds,
)


class BertGenerationConfig(PretrainedConfig):
    """Sizes and settings of a BertGeneration model; the defaults are those of the published ones.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the model, a multiple of `num_attention_heads`.
        num_hidden_layers: number of layers.
        num_attention_heads: number of attention heads per layer.
        intermediate_size: width inside the feed-forward part of a layer.
        hidden_act: activation in there, by name or as a function.
        hidden_dropout_prob: dropout after embeddings and dense layers.
        attention_probs_dropout_prob: dropout of attention probabilities.
        max_position_embeddings: the longest sequence.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: epsilon of the layer norms.
        pad_token_id: id of padding, whose embedding stays zero.
        bos_token_id: id at the beginning of a sequence.
        eos_token_id: id, or ids, at the end of a sequence.
        position_embedding_type: "absolute", "relative_key" (Shaw et al. 2018) or
            "relative_key_query" (Huang et al. 2020, method 4).
        use_cache: whether a decoder returns keys and values for the next step.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "bert-generation"
    also_opens: ClassVar[tuple[str, ...]] = ("bert",)

    vocab_size: PositiveInt = 50358
    hidden_size: PositiveInt = 1024
    num_hidden_layers: PositiveInt = 24
    num_attention_heads: PositiveInt = 16
    intermediate_size: PositiveInt = 4096
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    initializer_range: NonNegative = 0.02
    layer_norm_eps: NonNegative = 1e-12
    pad_token_id: TokenId = 0
    bos_token_id: TokenId = 2
    eos_token_id: TokenIds = 1
    position_embedding_type: PositionEmbeddingType = "absolute"
    use_cache: Flag = True

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        yield from self._undivided("hidden_size", "num_attention_heads")
        yield from self._unknown_padding(self.vocab_size)

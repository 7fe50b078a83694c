"""RemBERT (Chung et al. 2020, "Rethinking embedding coupling in pre-trained language models").

A BERT encoder whose input embeddings are narrow and whose output embeddings, used in pre-training
only, are wide and separate from them. Published weights: google/rembert.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from .base import PretrainedConfig
from .rules import Activation, Flag, NonNegative, PositiveInt, Probability, TokenId, TokenIds


class RemBertConfig(PretrainedConfig):
    """Sizes and settings of a RemBERT model; the defaults are those of google/rembert.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the encoder, a multiple of `num_attention_heads`.
        num_hidden_layers: number of layers.
        num_attention_heads: number of attention heads per layer.
        input_embedding_size: width of the input embeddings, projected to `hidden_size`.
        output_embedding_size: width of the output embeddings of the language model heads.
        intermediate_size: width inside the feed-forward part of a layer.
        hidden_act: activation in there, by name or as a function.
        hidden_dropout_prob: dropout after embeddings and dense layers.
        attention_probs_dropout_prob: dropout of attention probabilities.
        classifier_dropout_prob: dropout before a classifier.
        max_position_embeddings: the longest sequence.
        type_vocab_size: number of token types.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: epsilon of the layer norms.
        use_cache: whether a decoder returns keys and values for the next step.
        pad_token_id: id of padding, whose embedding stays zero.
        bos_token_id: id at the beginning of a sequence.
        eos_token_id: id, or ids, at the end of a sequence.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "rembert"

    vocab_size: PositiveInt = 250300
    hidden_size: PositiveInt = 1152
    num_hidden_layers: PositiveInt = 32
    num_attention_heads: PositiveInt = 18
    input_embedding_size: PositiveInt = 256
    output_embedding_size: PositiveInt = 1664
    intermediate_size: PositiveInt = 4608
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: Probability = 0.0
    attention_probs_dropout_prob: Probability = 0.0
    classifier_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: NonNegative = 0.02
    layer_norm_eps: NonNegative = 1e-12
    use_cache: Flag = True
    pad_token_id: TokenId = 0
    bos_token_id: TokenId = 312
    eos_token_id: TokenIds = 313
    tie_word_embeddings: Flag = False

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        yield from self._undivided("hidden_size", "num_attention_heads")
        yield from self._unknown_padding(self.vocab_size)
        if self.tie_word_embeddings and self.input_embedding_size != self.output_embedding_size:
            yield (
                "tie_word_embeddings",
                True,
                f"False unless input_embedding_size ({self.input_embedding_size}) equals "
                f"output_embedding_size ({self.output_embedding_size})",
            )

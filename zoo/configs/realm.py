"""REALM (Guu et al. 2020, "REALM: Retrieval-augmented language model pre-training").

A plain BERT three times: one embeds questions and blocks of evidence for retrieval, one fills
masked words with a block in sight, one reads answers out of blocks (as in ORQA, Lee et al. 2019).
Published weights: google/realm-cc-news-pretrained-*, google/realm-orqa-{nq,wq}-*.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from .base import PretrainedConfig
from .rules import Activation, NonNegative, PositiveInt, Probability, TokenId, TokenIds


class RealmConfig(PretrainedConfig):
    """Sizes and settings of REALM's models; the defaults are those of the published ones.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the encoder, a multiple of `num_attention_heads`.
        retriever_proj_size: width of the vectors that retrieval compares.
        num_hidden_layers: number of layers.
        num_attention_heads: number of attention heads per layer.
        num_candidates: blocks per example in pre-training.
        intermediate_size: width inside the feed-forward part of a layer.
        hidden_act: activation in there, by name or as a function.
        hidden_dropout_prob: dropout after embeddings and dense layers.
        attention_probs_dropout_prob: dropout of attention probabilities.
        max_position_embeddings: the longest sequence.
        type_vocab_size: number of token types.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: epsilon of the layer norms.
        span_hidden_size: width of the reader's spans.
        max_span_width: tokens of the longest answer.
        reader_layer_norm_eps: epsilon of the reader's own layer norm.
        reader_beam_size: blocks that are read for a question.
        reader_seq_len: tokens of a question with a block.
        num_block_records: number of blocks.
        searcher_beam_size: blocks that are retrieved in training, all of which count in the
            retriever's loss; in evaluation only the `reader_beam_size` that are read are.
        pad_token_id: row of the word embeddings that starts as zeros and gets no gradient. As
            published this is 1, although the tokenizers' padding is 0.
        bos_token_id: id at the beginning of a sequence.
        eos_token_id: id, or ids, at the end of a sequence.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "realm"

    vocab_size: PositiveInt = 30522
    hidden_size: PositiveInt = 768
    retriever_proj_size: PositiveInt = 128
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 12
    num_candidates: PositiveInt = 8
    intermediate_size: PositiveInt = 3072
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    max_position_embeddings: PositiveInt = 512
    type_vocab_size: PositiveInt = 2
    initializer_range: NonNegative = 0.02
    layer_norm_eps: NonNegative = 1e-12
    span_hidden_size: PositiveInt = 256
    max_span_width: PositiveInt = 10
    reader_layer_norm_eps: NonNegative = 1e-3
    reader_beam_size: PositiveInt = 5
    reader_seq_len: PositiveInt = 320
    num_block_records: PositiveInt = 13353718
    searcher_beam_size: PositiveInt = 5000
    pad_token_id: TokenId = 1
    bos_token_id: TokenId = 0
    eos_token_id: TokenIds = 2

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        yield from self._undivided("hidden_size", "num_attention_heads")
        yield from self._unknown_padding(self.vocab_size)
        for name in ("is_decoder", "add_cross_attention"):
            if getattr(self, name):
                yield (name, True, "False: REALM has encoders only")

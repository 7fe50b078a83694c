"""RAG (Lewis et al. 2020, "Retrieval-augmented generation for knowledge-intensive NLP tasks").

The configurations of a question encoder and of a generator in one, with what concerns retrieval.
Published weights: facebook/rag-token-*, facebook/rag-sequence-*.
"""

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from .base import PretrainedConfig
from .encoder_decoder import ModelConfig, as_config
from .rules import Flag, PositiveInt, Probability, Text, TokenId, TokenIds

PARTS = ("question_encoder", "generator")


class RagConfig(PretrainedConfig):
    """Settings of a RAG model; the defaults are the published ones.

    Args:
        vocab_size: number of the generator's token ids, None where it is left to the generator.
        is_encoder_decoder: True, as readers of the file expect.
        prefix: kept for the files that have it; what is put in front of the generator's input is
            the `prefix` in the generator's configuration.
        bos_token_id, pad_token_id, eos_token_id, decoder_start_token_id: of the generator; what
            is None here is the generator's.
        title_sep: what stands between the title of a passage and its text.
        doc_sep: what stands between a passage and the question.
        n_docs: how many passages are retrieved.
        max_combined_length: length of the generator's input, passage and question together.
        retrieval_vector_size: width of the vectors in the index.
        retrieval_batch_size: how many questions are looked up at once.
        dataset, dataset_split: folder of the published passages and which part of them.
        dataset_revision: as `use_dummy_dataset`.
        index_name: "custom" for passages and an index of one's own at `passages_path` and
            `index_path`, "exact" or "compressed" for those of the published data set, "legacy" for
            the ones that the paper used.
        index_path, passages_path: where the index and the passages are.
        use_dummy_dataset: kept for the files that have it; refused where it would say what to
            download.
        reduce_loss: whether losses are summed over the batch.
        label_smoothing: share of the probability that is spread over all tokens in the loss.
        do_deduplication: whether equal answers from different passages count as one.
        exclude_bos_score: whether RAG-sequence leaves the first token out of its loss.
        do_marginalize: whether RAG-token's logits are summed over the passages.
        output_retrieved: whether what was retrieved is returned too.
        use_cache: whether the decoder returns keys and values for the next step.
        forced_eos_token_id: what generation ends with at the greatest length; the generator's if
            None.
        question_encoder: configuration of the question encoder, or a dictionary with its
            `model_type`.
        generator: the same of the generator, a model with encoder and decoder.
        **kwargs: fields that all families have, see `PretrainedConfig`.

    Raises:
        ValueError: a half is missing, an impossible value or a misspelt keyword.
    """

    model_type: ClassVar[str] = "rag"
    is_composition: ClassVar[bool] = True

    vocab_size: TokenId = None
    is_encoder_decoder: Flag = True
    prefix: Text = None
    bos_token_id: TokenId = None
    pad_token_id: TokenId = None
    eos_token_id: TokenIds = None
    decoder_start_token_id: TokenId = None
    title_sep: str = " / "
    doc_sep: str = " // "
    n_docs: PositiveInt = 5
    max_combined_length: PositiveInt = 300
    retrieval_vector_size: PositiveInt = 768
    retrieval_batch_size: PositiveInt = 8
    dataset: Text = "wiki_dpr"
    dataset_split: Text = "train"
    index_name: Text = "compressed"
    index_path: Text = None
    passages_path: Text = None
    use_dummy_dataset: Flag = False
    reduce_loss: Flag = False
    label_smoothing: Probability = 0.0
    do_deduplication: Flag = True
    exclude_bos_score: Flag = False
    do_marginalize: Flag = False
    output_retrieved: Flag = False
    use_cache: Flag = True
    forced_eos_token_id: Any = None
    dataset_revision: Text = None
    question_encoder: ModelConfig = None
    generator: ModelConfig = None

    @classmethod
    def from_question_encoder_generator_configs(
        cls,
        question_encoder_config: PretrainedConfig,
        generator_config: PretrainedConfig,
        **kwargs: Any,
    ) -> Self:
        """Joins two configurations.

        Args:
            question_encoder_config, generator_config: of the halves; copies of them are used.
            **kwargs: further fields.
        """
        question_encoder = copy.deepcopy(question_encoder_config)
        return cls(
            question_encoder=question_encoder, generator=copy.deepcopy(generator_config), **kwargs
        )

    def _fill(self, values: Mapping[str, Any]) -> None:
        super()._fill(values)
        if self.forced_eos_token_id is None:
            self.forced_eos_token_id = self.generator.forced_eos_token_id

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if name in PARTS and isinstance(value, Mapping):
            value = as_config(f"{type(self).__name__}.{name}", value)
        super().__setattr__(name, value)

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        for part in PARTS:
            for name, value, expected in getattr(self, part)._problems():
                yield f"{part}.{name}", value, expected
        if not self.generator.is_encoder_decoder:
            yield (
                "generator",
                self.generator.model_type,
                "a model with encoder and decoder (is_encoder_decoder=True)",
            )

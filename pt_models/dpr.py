"""DPR: two BERTs that put questions and passages into one space, and a reader of passages.

Paper: Karpukhin et al. 2020, "Dense passage retrieval for open-domain question answering". Weights:
facebook/dpr-question_encoder-*, facebook/dpr-ctx_encoder-*, facebook/dpr-reader-*.
They differ from BERT in having no pooler: the first token's last state is the vector of a text,
projected where `config.projection_dim` says so. The question encoder is RAG's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo import checks
from zoo.configs import DPRConfig
from zoo.outputs import (
    DPRContextEncoderOutput,
    DPRQuestionEncoderOutput,
    DPRReaderOutput,
    ModelOutput,
)

from .attention import attention_bias
from .bert import Embeddings, Encoder, StackOutput
from .modeling import PreTrainedModel, default


class DPREmbeddings(Embeddings):
    """BERT's; where attention knows of distances, positions are in the file but not added."""

    def __init__(self, config: DPRConfig, width: int) -> None:
        super().__init__(config, width)
        self.adds_positions = config.position_embedding_type == "absolute"

    def summed(self, words: Tensor, types: Tensor, position_ids: Tensor) -> Tensor:
        if not self.adds_positions:
            return words + types
        return super().summed(words, types, position_ids)


class DPRBert(nn.Module):
    """Embeddings and layers, under their published names."""

    def __init__(self, config: DPRConfig) -> None:
        super().__init__()
        self.embeddings = DPREmbeddings(config, config.hidden_size)
        self.encoder = Encoder(config, config.position_embedding_type)


class DPREncoder(nn.Module):
    """A BERT, and what projects its vectors."""

    def __init__(self, config: DPRConfig) -> None:
        super().__init__()
        self.bert_model = DPRBert(config)
        if config.projection_dim:
            self.encode_proj = nn.Linear(config.hidden_size, config.projection_dim)

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_attentions: bool,
        output_hidden_states: bool,
        call: Callable[..., Any],
    ) -> StackOutput:
        """Takes what the models take, and how a layer is called."""
        embeddings = self.bert_model.embeddings(input_ids, token_type_ids, None, inputs_embeds)
        return self.bert_model.encoder(
            embeddings,
            attention_bias(attention_mask, embeddings.dtype),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            call=call,
        )

    def vector(self, hidden: Tensor) -> Tensor:
        """`(batch, sequence, hidden)` -> `(batch, hidden or projection)`."""
        first = hidden[:, 0]
        return self.encode_proj(first) if hasattr(self, "encode_proj") else first


class DPRPreTrainedModel(PreTrainedModel):
    config_class = DPRConfig
    # Released files have a pooler, which nothing reads.
    ignored_weights = (r"\.bert_model\.pooler\.",)
    part: ClassVar[str] = ""  # where the encoder is

    def get_input_embeddings(self) -> nn.Embedding:
        return self.get_submodule(self.part).bert_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.get_submodule(self.part).bert_model.embeddings.word_embeddings = value

    def _encoded(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> StackOutput:
        """Checks the inputs and runs the encoder."""
        config = self.config
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": None,
            "head_mask": None,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": None,
            "encoder_attention_mask": None,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        checks.encoder_inputs(config, config.hidden_size, 0, **shapes)
        return self.get_submodule(self.part)(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            default(output_attentions, config.output_attentions),
            default(output_hidden_states, config.output_hidden_states),
            self._layer_caller(),
        )


class DPRTextEncoder(DPRPreTrainedModel):
    """What the encoders of questions and of passages share."""

    output_class: ClassVar[type[ModelOutput]]

    def __init__(self, config: DPRConfig) -> None:
        super().__init__(config)
        setattr(self, self.part, DPREncoder(config))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)`; 1 attend, 0 do not. By default padding is not
                attended to.
            token_type_ids: `(batch, sequence)`.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        """
        if attention_mask is None and input_ids is not None:
            if self.config.pad_token_id is not None:
                attention_mask = (input_ids != self.config.pad_token_id).long()
        encoded = self._encoded(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_attentions,
            output_hidden_states,
        )  # fmt: skip
        vector = self.get_submodule(self.part).vector(encoded.last_hidden_state)
        output = self.output_class(vector, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class DPRQuestionEncoder(DPRTextEncoder):
    """Puts questions into the space.

    Args:
        config: the configuration.
    """

    part = "question_encoder"
    output_class = DPRQuestionEncoderOutput


class DPRContextEncoder(DPRTextEncoder):
    """Puts passages into the space; they are encoded as a pair of title and text.

    Args:
        config: the configuration.
    """

    part = "ctx_encoder"
    output_class = DPRContextEncoderOutput


class DPRSpanPredictor(nn.Module):
    """Scores tokens as the first and as the last of an answer, and passages."""

    def __init__(self, config: DPRConfig) -> None:
        super().__init__()
        self.encoder = DPREncoder(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.qa_classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(passages, sequence, hidden)` -> `(passages, sequence)` twice, `(passages,)`."""
        start, end = self.qa_outputs(hidden).unbind(-1)
        return start, end, self.qa_classifier(hidden[:, 0])[:, 0]


class DPRReader(DPRPreTrainedModel):
    """Reads answers out of passages (section 6.1), a question with one passage in each row.

    Args:
        config: the configuration, without a projection.
    """

    part = "span_predictor.encoder"

    def __init__(self, config: DPRConfig) -> None:
        super().__init__(config)
        checks.no_projection(config)
        self.span_predictor = DPRSpanPredictor(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DPRReaderOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(passages, sequence)`, as `DPRReaderTokenizer` makes them.
            attention_mask: `(passages, sequence)`; 1 attend, 0 do not.
            inputs_embeds: `(passages, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        """
        encoded = self._encoded(
            input_ids, attention_mask, None, inputs_embeds, output_attentions, output_hidden_states
        )
        scores = self.span_predictor(encoded.last_hidden_state)
        output = DPRReaderOutput(*scores, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

"""DPR: two BERTs that put questions and passages into one space, and a reader of passages.

Paper: Karpukhin et al. 2020, "Dense passage retrieval for open-domain question answering". Weights:
facebook/dpr-question_encoder-*, facebook/dpr-ctx_encoder-*, facebook/dpr-reader-*.
They differ from BERT in having no pooler: the first token's last state is the vector of a text,
projected where `config.projection_dim` says so. The question encoder is RAG's.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar

import keras
from keras import ops

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
from .layers import Block, Dense, Seeds, replace_part
from .modeling import TFPreTrainedModel, default


class TFDPREmbeddings(Embeddings):
    """BERT's; where attention knows of distances, positions are in the file but not added."""

    def __init__(self, config: DPRConfig, width: int, dtype: Any = None) -> None:
        super().__init__(config, width, dtype=dtype)
        self.adds_positions = config.position_embedding_type == "absolute"

    def summed(self, words: Any, types: Any, position_ids: Any) -> Any:
        if not self.adds_positions:
            return words + types
        return super().summed(words, types, position_ids)


class TFDPRBert(Block):
    """Embeddings and layers, under their published names."""

    def __init__(self, config: DPRConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.embeddings = TFDPREmbeddings(config, config.hidden_size, dtype=dtype)
        self.encoder = Encoder(config, config.position_embedding_type, dtype=dtype)


class TFDPREncoder(Block):
    """A BERT, and what projects its vectors."""

    def __init__(self, config: DPRConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.bert_model = TFDPRBert(config, dtype=dtype)
        if config.projection_dim:
            self.encode_proj = Dense(
                config.hidden_size, config.projection_dim, config.initializer_range, dtype=dtype
            )

    def call(
        self,
        input_ids: Any | None,
        attention_mask: Any | None,
        token_type_ids: Any | None,
        inputs_embeds: Any | None,
        output_attentions: bool,
        output_hidden_states: bool,
        call: Callable[..., Any],
        seeds: Seeds,
    ) -> StackOutput:
        """Takes what the models take, and how a layer is called."""
        embeddings = self.bert_model.embeddings(
            input_ids, token_type_ids, None, inputs_embeds, seed=seeds.next()
        )
        return self.bert_model.encoder(
            embeddings,
            attention_bias(attention_mask, self.compute_dtype),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            call=call,
            seeds=seeds,
        )

    def vector(self, hidden: Any) -> Any:
        """`(batch, sequence, hidden)` -> `(batch, hidden or projection)`."""
        first = hidden[:, 0]
        return self.encode_proj(first) if hasattr(self, "encode_proj") else first


class TFDPRPreTrainedModel(TFPreTrainedModel):
    config_class = DPRConfig
    # Released files have a pooler, which nothing reads.
    ignored_weights = (r"\.bert_model\.pooler\.",)
    part: ClassVar[str] = ""  # where the encoder is

    def _encoder(self) -> TFDPREncoder:
        return attrgetter(self.part)(self)

    def get_input_embeddings(self) -> keras.layers.Embedding:
        return self._encoder().bert_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: keras.layers.Embedding) -> None:
        replace_part(self._encoder().bert_model.embeddings, "word_embeddings", value)

    def _encoded(
        self,
        input_ids: Any | None,
        attention_mask: Any | None,
        token_type_ids: Any | None,
        inputs_embeds: Any | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        training: bool | None,
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
        return self._encoder()(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            output_attentions=default(output_attentions, config.output_attentions),
            output_hidden_states=default(output_hidden_states, config.output_hidden_states),
            call=self._layer_caller(training),
            seeds=self._seeds(training),
        )


class TFDPRTextEncoder(TFDPRPreTrainedModel):
    """What the encoders of questions and of passages share."""

    output_class: ClassVar[type[ModelOutput]]

    def __init__(self, config: DPRConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        setattr(self, self.part, TFDPREncoder(config, dtype=self.dtype_policy))
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
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
                attention_mask = ops.not_equal(input_ids, self.config.pad_token_id)
                attention_mask = ops.cast(attention_mask, "int32")
        encoded = self._encoded(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_attentions,
            output_hidden_states, training,
        )  # fmt: skip
        vector = self._encoder().vector(encoded.last_hidden_state)
        output = self.output_class(vector, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFDPRQuestionEncoder(TFDPRTextEncoder):
    """Puts questions into the space.

    Args:
        config: the configuration.
    """

    part = "question_encoder"
    output_class = DPRQuestionEncoderOutput


@keras.saving.register_keras_serializable("tf_models")
class TFDPRContextEncoder(TFDPRTextEncoder):
    """Puts passages into the space; they are encoded as a pair of title and text.

    Args:
        config: the configuration.
    """

    part = "ctx_encoder"
    output_class = DPRContextEncoderOutput


class TFDPRSpanPredictor(Block):
    """Scores tokens as the first and as the last of an answer, and passages."""

    def __init__(self, config: DPRConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.hidden_size, config.initializer_range
        self.encoder = TFDPREncoder(config, dtype=dtype)
        self.qa_outputs = Dense(width, 2, stddev, dtype=dtype)
        self.qa_classifier = Dense(width, 1, stddev, dtype=dtype)

    def call(self, hidden: Any) -> tuple[Any, Any, Any]:
        """`(passages, sequence, hidden)` -> `(passages, sequence)` twice, `(passages,)`."""
        start, end = ops.unstack(self.qa_outputs(hidden), axis=-1)
        return start, end, self.qa_classifier(hidden[:, 0])[:, 0]


@keras.saving.register_keras_serializable("tf_models")
class TFDPRReader(TFDPRPreTrainedModel):
    """Reads answers out of passages (section 6.1), a question with one passage in each row.

    Args:
        config: the configuration, without a projection.
    """

    part = "span_predictor.encoder"

    def __init__(self, config: DPRConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        checks.no_projection(config)
        self.span_predictor = TFDPRSpanPredictor(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
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
            input_ids, attention_mask, None, inputs_embeds, output_attentions,
            output_hidden_states, training,
        )  # fmt: skip
        scores = self.span_predictor(encoded.last_hidden_state)
        output = DPRReaderOutput(*scores, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

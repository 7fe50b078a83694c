"""REALM: a BERT that looks things up, for questions over a corpus and masked language modelling.

Paper: Guu et al. 2020, "REALM: Retrieval-augmented language model pre-training"; the reader is
that of ORQA (Lee et al. 2019, "Latent retrieval for weakly supervised open domain question
answering"). Weights: google/realm-cc-news-pretrained-{embedder,scorer,encoder,openqa},
google/realm-orqa-{nq,wq}-{reader,openqa}.
It differs from BERT in what is done with it: an embedder of questions and blocks of evidence, an
encoder that sees a block with each text, and a reader that scores spans of blocks as answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from zoo import checks
from zoo.configs import RealmConfig
from zoo.outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    RealmEmbedderOutput,
    RealmForOpenQAOutput,
    RealmReaderOutput,
    RealmScorerOutput,
)
from zoo.retrieval import realm as retrieval
from zoo.retrieval.answers import Answer, span_bounds
from zoo.stages import stage

from .activations import activation
from .attention import attention_bias, layer_head_masks
from .bert import Embeddings, Encoder, Pooler, run_layers
from .layers import (
    Block,
    Dense,
    Initializer,
    LayerNorm,
    VocabularyProjection,
    dims,
    replace_part,
)
from .losses import IGNORED, marginal_loss
from .modeling import TFPreTrainedModel, assert_values, default, named_weights
from .retrieval import top_products


class TFRealmPreTrainedModel(TFPreTrainedModel):
    config_class = RealmConfig
    base_model_prefix = "realm"
    optional_weights = (r"^pooler\.",)


@keras.saving.register_keras_serializable("tf_models")
class TFRealmBertModel(TFRealmPreTrainedModel):
    """The plain BERT inside all others.

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.embeddings = Embeddings(config, config.hidden_size, dtype=self.dtype_policy)
        self.encoder = Encoder(config, dtype=self.dtype_policy)
        self.pooler = Pooler(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pooled_only: bool = False,
        training: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask: `(batch, sequence)` or `(batch, sequence, sequence)`; 1 attend, 0 not.
            token_type_ids, position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
            pooled_only: whether nothing but `pooler_output` is wanted, which spares most of the
                last layer.
        """
        config = self.config
        tensors = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
            "encoder_hidden_states": None,
            "encoder_attention_mask": None,
        }
        shapes = {name: None if x is None else x.shape for name, x in tensors.items()}
        checks.encoder_inputs(config, config.hidden_size, 0, **shapes)

        seeds = self._seeds(training)
        hidden = self.embeddings(
            input_ids, token_type_ids, position_ids, inputs_embeds, seed=seeds.next()
        )
        bias = attention_bias(attention_mask, self.compute_dtype)
        asked = {
            "output_attentions": default(output_attentions, config.output_attentions),
            "output_hidden_states": default(output_hidden_states, config.output_hidden_states),
        }
        calling = {"call": self._layer_caller(training), "seeds": seeds}
        if pooled_only and not any(asked.values()):
            *masks, mask = layer_head_masks(head_mask, config.num_hidden_layers)
            *layers, last = self.encoder.layer
            hidden = run_layers(layers, hidden, bias, masks, **calling).last_hidden_state
            pooled = self.pooler(last.first(hidden, bias, mask, seeds.next()))
            return BaseModelOutputWithPoolingAndCrossAttentions(pooler_output=pooled)
        encoded = self.encoder(hidden, bias, head_mask, **asked, **calling)
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            encoded.last_hidden_state,
            self.pooler(encoded.last_hidden_state),
            encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return self._returned(output, return_dict)


class TFRealmPredictionHeadTransform(Block):
    """What comes before the vocabulary in the masked-LM head."""

    def __init__(self, config: RealmConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        size = config.hidden_size
        self.dense = Dense(size, size, config.initializer_range, dtype=dtype)
        self.activation = activation(config.hidden_act)
        self.LayerNorm = LayerNorm(size, config.layer_norm_eps, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class TFRealmLMPredictionHead(Block):
    """Scores the vocabulary; the bias has two published names."""

    def __init__(self, config: RealmConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.transform = TFRealmPredictionHeadTransform(config, dtype=dtype)
        self.decoder = VocabularyProjection(
            config.hidden_size, config.vocab_size, config.initializer_range, dtype=dtype
        )
        self.bias = self.decoder.bias
        self.bias_initializer = self.decoder.bias_initializer

    def call(self, hidden: Any) -> Any:
        """`(..., hidden)` -> `(..., vocab)`."""
        return self.decoder(self.transform(hidden))


class TFRealmOnlyMLMHead(Block):
    """Holds the masked-LM head under its published name."""

    def __init__(self, config: RealmConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.predictions = TFRealmLMPredictionHead(config, dtype=dtype)

    def call(self, hidden: Any) -> Any:
        return self.predictions(hidden)


class TFRealmScorerProjection(Block):
    """Projects to the vectors that retrieval compares.

    The masked-LM head in it has weights in published files and is not used.
    """

    def __init__(self, config: RealmConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.retriever_proj_size, config.initializer_range
        self.predictions = TFRealmLMPredictionHead(config, dtype=dtype)
        self.dense = Dense(config.hidden_size, width, stddev, dtype=dtype)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps, dtype=dtype)

    def call(self, pooled: Any) -> Any:
        """`(batch, hidden)` -> `(batch, retriever_proj_size)`."""
        return self.LayerNorm(self.dense(pooled))


class TFRealmReaderProjection(Block):
    """Scores every span of up to `max_span_width` tokens as the answer."""

    def __init__(self, config: RealmConfig, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        width, stddev = config.span_hidden_size, config.initializer_range
        self.max_span_width = config.max_span_width
        self.dense_intermediate = Dense(config.hidden_size, 2 * width, stddev, dtype=dtype)
        self.dense_output = Dense(width, 1, stddev, dtype=dtype)
        self.layer_normalization = LayerNorm(width, config.reader_layer_norm_eps, dtype=dtype)

    def call(self, hidden: Any, block_mask: Any) -> tuple[Any, Any]:
        """
        Args:
            hidden: `(rows, sequence, hidden)`.
            block_mask: `(rows, sequence)`; where an answer may begin and end.
        Returns:
            Scores `(rows, spans)` in float32, in the order of `zoo.retrieval.answers.span_bounds`,
            and which of them are spans of the block.
        """
        # ORQA, section 4: a span is its first and its last token.
        starts, ends = ops.split(self.dense_intermediate(hidden), 2, axis=-1)
        mask, length = ops.cast(block_mask, "bool"), dims(hidden)[1]
        sums, masks = [], []
        # Differs: in a graph the length may be unknown, and a width beyond it has no spans.
        for more in range(self.max_span_width):
            first = ops.maximum(length - more, 0)
            sums.append(starts[:, :first] + ends[:, more:])
            masks.append(mask[:, :first] & mask[:, more:])
        # (rows, spans, span_hidden) -> (rows, spans)
        spans = self.layer_normalization(ops.relu(ops.concatenate(sums, axis=1)))
        scores = ops.squeeze(self.dense_output(spans), -1)
        return ops.cast(scores, "float32"), ops.concatenate(masks, axis=1)


class TFRealmHeadModel(TFRealmPreTrainedModel):
    """What the models with one BERT share: a masked-LM head at `cls.predictions`."""

    cls: Block

    def get_output_embeddings(self) -> VocabularyProjection:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: VocabularyProjection) -> None:
        replace_part(self.cls.predictions, "decoder", value)
        replace_part(self.cls.predictions, "bias", value.bias)
        self.tie_weights()

    def tied_weights(self) -> dict[str, str]:
        return {"cls.predictions.decoder.bias": "cls.predictions.bias"}


@keras.saving.register_keras_serializable("tf_models")
class TFRealmEmbedder(TFRealmHeadModel):
    """Turns questions and blocks into the vectors that retrieval compares.

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.realm = TFRealmBertModel(config, dtype=self.dtype_policy, name="realm")
        self.cls = TFRealmScorerProjection(config, dtype=self.dtype_policy)
        # It embeds both questions and blocks in a step of training.
        embeddings = self.realm.embeddings
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            getattr(embeddings, name).shared = True
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> RealmEmbedderOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask, token_type_ids, position_ids: `(batch, sequence)`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        """
        encoded = self.realm(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            pooled_only=True,
            training=training,
        )
        projected = self.cls(encoded.pooler_output)
        output = RealmEmbedderOutput(projected, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)


class TFRealmComposite(TFRealmPreTrainedModel):
    """A model of models, each of which has a BERT and a vocabulary of its own."""

    base_model_prefix = ""
    parts: ClassVar[tuple[str, ...]] = ()  # their names; two may be one and the same

    def _parts(self) -> dict[str, TFPreTrainedModel]:
        """Each part once, under its first name."""
        named = [(name, getattr(self, name)) for name in self.parts]
        first = {id(part): name for name, part in reversed(named)}
        return {name: part for name, part in named if first[id(part)] == name}

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        for name, part in self._parts().items():
            of_part = part.tied_weights()
            for other in self.parts:
                if other != name and getattr(self, other) is part:
                    for weight, _ in named_weights(part):
                        tied[f"{other}.{weight}"] = f"{name}.{of_part.get(weight, weight)}"
        return tied

    def get_input_embeddings(self) -> keras.layers.Embedding:
        return getattr(self, self.parts[0]).get_input_embeddings()

    def set_input_embeddings(self, value: keras.layers.Embedding) -> None:
        getattr(self, self.parts[0]).set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> keras.layers.Embedding:
        """As in `TFPreTrainedModel`, in every part."""
        before = self.config.vocab_size
        for part in self._parts().values():
            part.config.vocab_size = before  # they share a configuration
            part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
            self.config.vocab_size = part.config.vocab_size
        self.train_function = self.test_function = self.predict_function = None
        return self.get_input_embeddings()


@keras.saving.register_keras_serializable("tf_models")
class TFRealmScorer(TFRealmComposite):
    """Scores the relevance of candidate blocks to a text (REALM, section 3.1).

    Args:
        config: the configuration.
        query_embedder: embeds the texts; by default the embedder of the candidates does.
    """

    parts = ("embedder", "query_embedder")

    def __init__(
        self,
        config: RealmConfig,
        query_embedder: TFRealmEmbedder | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, **kwargs)
        self.embedder = TFRealmEmbedder(config, dtype=self.dtype_policy, name="embedder")
        self.query_embedder = self.embedder if query_embedder is None else query_embedder
        self.post_init()

    def get_config(self) -> dict[str, Any]:
        other = self.query_embedder is not self.embedder
        own = self.query_embedder.get_config() if other else None
        return {**super().get_config(), "query_embedder": own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> TFRealmScorer:
        own = config["query_embedder"]
        embedder = None if own is None else TFRealmEmbedder.from_config(own)
        return super().from_config({**config, "query_embedder": embedder})

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        candidate_input_ids: Any | None = None,
        candidate_attention_mask: Any | None = None,
        candidate_token_type_ids: Any | None = None,
        candidate_inputs_embeds: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> RealmScorerOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`.
            attention_mask, token_type_ids, position_ids: `(batch, sequence)`.
            candidate_input_ids: `(batch, candidates, candidate_sequence)`.
            candidate_attention_mask, candidate_token_type_ids: the same shape.
            candidate_inputs_embeds: `(batch * candidates, candidate_sequence, hidden)`, instead of
                `candidate_input_ids`.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence; in both embedders.
            inputs_embeds: `(batch, sequence, hidden)`, instead of `input_ids`.
            output_attentions, output_hidden_states: only False; the embedders return them.
            return_dict: by default as the config says.
        """
        checks.not_returned(
            "the scorer",
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        query = self.query_embedder(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            return_dict=True,
            training=training,
        ).projected_score
        inputs = {
            "candidate_input_ids": candidate_input_ids,
            "candidate_attention_mask": candidate_attention_mask,
            "candidate_token_type_ids": candidate_token_type_ids,
        }
        checks.alike(("batch", "candidates", "candidate_sequence"), **_shapes(inputs))
        candidate = self.embedder(
            *map(_flat, inputs.values()),
            head_mask=head_mask,
            inputs_embeds=candidate_inputs_embeds,
            return_dict=True,
            training=training,
        ).projected_score
        checks.candidates(candidate.shape[0], query.shape[0])
        # (batch * candidates, retriever_proj_size) -> (batch, candidates, retriever_proj_size)
        candidate = ops.reshape(candidate, (dims(query)[0], -1, candidate.shape[-1]))
        relevance = ops.einsum("bd,bcd->bc", query, candidate)
        return self._returned(RealmScorerOutput(relevance, query, candidate), return_dict)


@keras.saving.register_keras_serializable("tf_models")
class TFRealmKnowledgeAugEncoder(TFRealmHeadModel):
    """Fills masked words with a block in sight, and weighs the blocks (REALM, section 3.2).

    Args:
        config: the configuration.
    """

    def __init__(self, config: RealmConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.realm = TFRealmBertModel(config, dtype=self.dtype_policy, name="realm")
        self.cls = TFRealmOnlyMLMHead(config, dtype=self.dtype_policy)
        self.post_init()

    def tied_weights(self) -> dict[str, str]:
        tied = super().tied_weights()
        if self.config.tie_word_embeddings:
            words = "realm.embeddings.word_embeddings.weight"
            tied["cls.predictions.decoder.weight"] = words
        return tied

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        relevance_score: Any | None = None,
        labels: Any | None = None,
        mlm_mask: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, candidates, sequence)`, each text with each of its blocks.
            attention_mask, token_type_ids, position_ids: the same shape.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: `(batch, candidates, sequence, hidden)`, instead of `input_ids`.
            relevance_score: `(batch, candidates)` of `TFRealmScorer`; wanted with labels.
            labels: `(batch, sequence)`; -100 is left out of the loss.
            mlm_mask: `(batch, sequence)`; 0 is left out of the loss.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        Returns:
            `logits` `(batch * candidates, sequence, vocab)`; `loss`, minus the mean log likelihood
            of the labels, each summed over the blocks.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        shape = checks.alike(("batch", "candidates", "sequence"), **_shapes(inputs))
        encoded = self.realm(
            **{name: _flat(x) for name, x in inputs.items()},
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.cls(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            targets = {"relevance_score": relevance_score, "labels": labels, "mlm_mask": mlm_mask}
            checks.marginal(shape, **_shapes(targets))
            loss = self._loss(logits, **targets)
        output = MaskedLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return self._returned(output, return_dict)

    def _loss(self, logits: Any, relevance_score: Any, labels: Any, mlm_mask: Any | None) -> Any:
        labels = ops.cast(labels, "int32")
        assert_values("labels", labels, logits.shape[-1], IGNORED)
        # REALM, equation 1: p(y | x) is the sum over blocks z of p(z | x) p(y | z, x).
        (batch, sequence), candidates = dims(labels), dims(relevance_score)[1]
        counted = ops.not_equal(labels, IGNORED)
        # An ignored label is looked up as word 0 and weighs nothing.
        targets = ops.where(counted, labels, 0)[:, None]
        targets = ops.broadcast_to(targets, (batch, candidates, sequence))
        words = ops.reshape(ops.cast(logits, "float32"), (-1, logits.shape[-1]))
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(ops.reshape(targets, (-1,)), words)
        blocks = ops.log_softmax(ops.cast(relevance_score, "float32"), axis=-1)
        joint = blocks[..., None] - ops.reshape(each, (batch, candidates, sequence))
        joint = ops.logsumexp(joint, axis=1)
        if mlm_mask is not None:
            counted = counted & ops.not_equal(mlm_mask, 0)
        counts = ops.cast(counted, "float32")
        return -ops.sum(joint * counts) / ops.maximum(ops.sum(counts), 1.0)


@keras.saving.register_keras_serializable("tf_models")
class TFRealmReader(TFRealmHeadModel):
    """Reads the answer to a question out of blocks of evidence.

    Args:
        config: the configuration.
    """

    label_names = ("start_positions", "end_positions", "has_answers")

    def __init__(self, config: RealmConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.realm = TFRealmBertModel(config, dtype=self.dtype_policy, name="realm")
        self.cls = TFRealmOnlyMLMHead(config, dtype=self.dtype_policy)
        self.qa_outputs = TFRealmReaderProjection(config, dtype=self.dtype_policy)
        self.post_init()

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        position_ids: Any | None = None,
        head_mask: Any | None = None,
        inputs_embeds: Any | None = None,
        relevance_score: Any | None = None,
        block_mask: Any | None = None,
        start_positions: Any | None = None,
        end_positions: Any | None = None,
        has_answers: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> RealmReaderOutput | tuple[Any, ...]:
        """Reads the blocks of one question, or of several with one more axis in front.

        Args:
            input_ids: `(beam, sequence)` or `(batch, beam, sequence)`: the question with each of
                the blocks that are read, the most relevant first.
            attention_mask, token_type_ids, position_ids: the same shape.
            head_mask: `(heads,)` or `(layers, heads)`; 1 keep, 0 silence.
            inputs_embeds: the shape of `input_ids` and `hidden`, instead of `input_ids`.
            relevance_score: `([batch,] blocks)`, of all blocks that were retrieved: those that
                are read and possibly more, which count in the retriever's loss.
            block_mask: the shape of `input_ids`; True for the tokens of the block.
            start_positions, end_positions: `([batch,] blocks)` or `([batch,] blocks, answers)`,
                where an answer stands; -1 for nowhere.
            has_answers: `([batch,] blocks)`; which blocks hold an answer.
            output_attentions, output_hidden_states, return_dict: what to return; by default as
                the config says.
        Returns:
            The best span as `block_idx`, `candidate` (its number among the spans of the block),
            `start_pos` and `end_pos`. With positions and `has_answers` also the losses (of
            several questions the mean), and which blocks and spans are correct.
        """
        if relevance_score is None or block_mask is None:
            name = "relevance_score" if relevance_score is None else "block_mask"
            raise ValueError(f"{name}: the reader needs it, got None")
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "block_mask": block_mask,
        }
        labels = {
            "start_positions": start_positions,
            "end_positions": end_positions,
            "has_answers": has_answers,
        }
        single = len(block_mask.shape) == 2
        if single:
            inputs, labels = _with_axis(inputs), _with_axis(labels)
            relevance_score = relevance_score[None]
        shape = checks.alike(("batch", "beam", "sequence"), **_shapes(inputs))
        asked = checks.read_blocks(shape, relevance_score=relevance_score.shape, **_shapes(labels))
        scores, spans, encoded = self._read(
            inputs, head_mask, output_attentions, output_hidden_states, training
        )
        # ORQA, section 4: the reader's score and the retriever's.
        relevance = ops.cast(relevance_score, "float32")
        logits = scores + relevance[:, : dims(scores)[1], None]
        logits = ops.where(spans, logits, logits.dtype.min)
        output = RealmReaderOutput()
        starts, ends = _span_bounds(dims(inputs["block_mask"])[2], self.config.max_span_width)
        if asked:
            output = _reader_losses(logits, spans, relevance, starts, ends, **labels)
        # Differs: TensorFlow wants the number of spans as a tensor of the type of an index.
        count = ops.cast(ops.shape(logits)[2], "int64")
        best = tf.argmax(ops.reshape(logits, (dims(logits)[0], -1)), -1)
        output.block_idx, output.candidate = best // count, best % count
        output.start_pos = tf.gather(starts, output.candidate)
        output.end_pos = tf.gather(ends, output.candidate)
        if single:
            for name in ("retriever_correct", "reader_correct", "block_idx", "candidate"):
                if name in output:
                    output[name] = output[name][0]
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        return self._returned(output, return_dict)

    def _read(
        self,
        inputs: Mapping[str, Any | None],
        head_mask: Any | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        training: bool | None = None,
    ) -> tuple[Any, Any, BaseModelOutputWithPoolingAndCrossAttentions]:
        """Scores of all spans `(batch, beam, spans)`, and which of them are of the block."""
        flat = {name: _flat(x) for name, x in inputs.items()}
        mask = flat.pop("block_mask")
        encoded = self.realm(
            **flat,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        batch, beam, _ = dims(inputs["block_mask"])
        found = self.qa_outputs(encoded.last_hidden_state, mask)
        # (batch * beam, spans) -> (batch, beam, spans)
        scores, spans = (ops.reshape(x, (batch, beam, dims(x)[1])) for x in found)
        return scores, spans, encoded


def _reader_losses(
    logits: Any,
    spans: Any,
    relevance: Any,
    starts: Any,
    ends: Any,
    start_positions: Any,
    end_positions: Any,
    has_answers: Any,
) -> RealmReaderOutput:
    """Losses of retriever and reader, and what is correct.

    Args:
        logits, spans: `(batch, beam, spans)`.
        relevance, has_answers: `(batch, blocks)`.
        starts, ends: `(spans,)`, first and last tokens.
        start_positions, end_positions: `(batch, blocks)` or `(batch, blocks, answers)`.
    """
    batch, beam, _ = dims(logits)
    first, last = (
        ops.cast(x if len(x.shape) == 3 else x[..., None], starts.dtype)[:, :beam, :, None]
        for x in (start_positions, end_positions)
    )
    # (batch, beam, answers, spans) -> (batch, beam, spans)
    correct = ops.any(ops.equal(first, starts) & ops.equal(last, ends), axis=2)
    has_answers = ops.cast(has_answers, "bool")
    # ORQA, equations 8 and 9: blocks with an answer are right, and so are spans that are one.
    flat = (ops.reshape(x, (batch, -1)) for x in (logits, correct & spans))
    retriever_loss = ops.mean(marginal_loss(relevance, has_answers))
    reader_loss = ops.mean(marginal_loss(*flat))
    return RealmReaderOutput(
        retriever_loss + reader_loss, retriever_loss, reader_loss, has_answers, correct
    )


@keras.saving.register_keras_serializable("tf_models")
class TFRealmForOpenQA(TFRealmComposite):
    """Answers questions out of a corpus (REALM, section 3.3).

    Args:
        config: the configuration.
        retriever: gives the texts of blocks; see `RealmRetriever`. Keras' own files leave it out.

    Attributes:
        block_emb: `(num_block_records, retriever_proj_size)`, the vectors of the blocks.
        index: what finds blocks in its place, see `set_index`.
    """

    parts = ("embedder", "reader")
    label_names = ("answer_ids",)

    def __init__(
        self,
        config: RealmConfig,
        retriever: retrieval.RealmRetriever | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, **kwargs)
        self.embedder = TFRealmEmbedder(config, dtype=self.dtype_policy, name="embedder")
        self.reader = TFRealmReader(config, dtype=self.dtype_policy, name="reader")
        size = (config.num_block_records, config.retriever_proj_size)
        self.block_emb_initializer = Initializer()
        self.block_emb = self.add_weight(
            size, self.block_emb_initializer, trainable=False, name="block_emb"
        )
        self.retriever = retriever
        self.index: Any = None
        self.post_init()

    def searcher_beam_size(self, training: bool | None = None) -> int:
        """Blocks that are retrieved; in evaluation only those that are read.

        Differs: whether it trains, a PyTorch model knows, and a Keras model is told.
        """
        config = self.config
        return config.searcher_beam_size if training else config.reader_beam_size

    def block_embedding_to(self, device: str) -> None:
        """Moves `block_emb`, and with it the search, to a device.

        Args:
            device: where to.
        """
        with tf.device(device):
            moved = keras.Variable(self.block_emb.value, trainable=False, name="block_emb")
        replace_part(self, "block_emb", moved)

    def set_index(self, index: Any) -> None:
        """Lets an index find the blocks, instead of the comparison with all of `block_emb`.

        Relevance is computed from the vectors that the index keeps, or else from `block_emb`.

        Args:
            index: any of `zoo.retrieval`, or another with `search(vectors, k) -> ids, scores`;
                None goes back to `block_emb`. Its ids are the numbers of the block records.
        """
        self.index = index
        self.train_function = self.test_function = self.predict_function = None

    def call(
        self,
        input_ids: Any | None,
        attention_mask: Any | None = None,
        token_type_ids: Any | None = None,
        answer_ids: Any = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> RealmForOpenQAOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`, questions.
            attention_mask, token_type_ids: the same shape.
            answer_ids: ids of the answers of each question, as lists or `(batch, answers, answer)`
                with -1 behind the shorter; of a single question also without the first axis.
            return_dict: by default as the config says.
        """
        question = self.embedder(
            input_ids, attention_mask, token_type_ids, return_dict=True, training=training
        ).projected_score
        block_ids, relevance = self._search(question, training)
        inputs = self._evidence(block_ids, input_ids, answer_ids)
        inputs["relevance_score"] = relevance
        single = input_ids.shape[0] == 1
        if single:  # as published: without an axis for one question
            inputs = {name: x[0] for name, x in inputs.items()}
        read = self.reader(**inputs, return_dict=True, training=training)
        predicted = self._words(inputs["input_ids"], read, single)
        return self._returned(RealmForOpenQAOutput(read, predicted), return_dict)

    def _words(self, input_ids: Any, read: RealmReaderOutput, single: bool) -> Any:
        """Ids of the answers: `(answer,)`, or `(batch, max_span_width)` with -1 behind."""
        blocks = input_ids[None] if single else input_ids
        start, end = read.start_pos, read.end_pos
        chosen = tf.gather(blocks, ops.reshape(read.block_idx, (-1,)), batch_dims=1)
        more = ops.arange(self.config.max_span_width, dtype=start.dtype)
        # (batch, sequence) -> (batch, max_span_width)
        places = ops.minimum(start[:, None] + more, ops.cast(dims(chosen)[1], start.dtype) - 1)
        words = tf.gather(chosen, places, batch_dims=1)
        words = ops.where(more > (end - start)[:, None], -1, words)
        return words[0, : end[0] - start[0] + 1] if single else words

    def answer(
        self,
        questions: Sequence[str],
        n_best: int = 5,
        max_length: int | None = None,
        batch_size: int = 8,
    ) -> list[list[Answer]]:
        """Answers questions, with evidence. How they are put into batches changes nothing.

        Args:
            questions: texts.
            n_best: answers to each question; the same words count once.
            max_length: tokens of a question with a block; `config.reader_seq_len` by default.
            batch_size: questions at a time.
        Returns:
            For each question up to `n_best` answers, best first.
        """
        retrieval.check_questions(questions, n_best, batch_size)
        return [
            answers
            for start in range(0, len(questions), batch_size)
            for answers in self._answer(
                list(questions[start : start + batch_size]), n_best, max_length
            )
        ]

    def _answer(
        self, questions: list[str], n_best: int, max_length: int | None
    ) -> list[list[Answer]]:
        retriever = self._checked_retriever()
        tokens = retriever.tokenize_questions(questions, self.config.max_position_embeddings)
        tensors = {name: ops.convert_to_tensor(x) for name, x in tokens.items()}
        with stage("encode"):
            question = self.embedder(**tensors, return_dict=True).projected_score
        with stage("retrieve"):
            block_ids, relevance = self._search(question, False)
        length = self.config.reader_seq_len if max_length is None else max_length
        evidence = retriever.evidence(
            block_ids.numpy(), tokens["input_ids"], None, length, offsets=True
        )
        beam = self.config.reader_beam_size
        inputs = {name: getattr(evidence, name)[:, :beam] for name in _READ}
        with stage("read"):
            scores, spans, _ = self.reader._read(
                {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
            )
        scores = ops.where(spans, scores, scores.dtype.min)
        return retriever.answers(
            evidence, scores.numpy(), relevance.numpy(), self.config.max_span_width, n_best
        )

    def _search(self, question: Any, training: bool | None) -> tuple[Any, Any]:
        """Numbers of the blocks `(batch, blocks)` and their relevance, best first.

        Only relevance passes gradients on, and only to the question (REALM, section 3.3).
        """
        count = self.searcher_beam_size(training)
        question = ops.cast(question, "float32")
        asked = ops.stop_gradient(question)
        if self.index is None:
            retrieval.check_records(self._checked_retriever(), self.block_emb.shape[0])
            rows, _ = top_products(asked, self.block_emb, count, retrieval.SEARCH_ROWS)
            block_ids, vectors = ops.cast(rows, "int64"), ops.take(self.block_emb, rows, axis=0)
        else:
            # Differs: in a graph TensorFlow has to be told to call Python, and what comes back.
            block_ids, vectors = tf.numpy_function(
                self._found, [asked, count], [tf.int64, tf.float32]
            )
            block_ids = tf.ensure_shape(block_ids, (question.shape[0], count))
            vectors = tf.ensure_shape(vectors, (*block_ids.shape, question.shape[1]))
        relevance = ops.einsum("bd,bkd->bk", question, ops.cast(vectors, "float32"))
        return block_ids, ops.where(block_ids < 0, relevance.dtype.min, relevance)

    def _found(self, asked: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Block numbers and vectors of an index."""
        block_ids = retrieval.search(self.index, asked, int(count))
        vectors = retrieval.vectors_of(self.index, block_ids)
        if vectors is None:
            rows = tf.gather(self.block_emb.value, np.maximum(block_ids, 0))
            vectors = tf.cast(rows, tf.float32).numpy()
        return block_ids, vectors

    def _checked_retriever(self) -> retrieval.RealmRetriever:
        if self.retriever is None:
            raise ValueError(f"{type(self).__name__}: retriever is None; give it a RealmRetriever")
        return self.retriever

    def _evidence(self, block_ids: Any, input_ids: Any, answer_ids: Any) -> dict[str, Any]:
        """What the reader reads, `(batch, beam, sequence)`, and where answers stand."""
        retriever, beam = self._checked_retriever(), self.config.reader_beam_size
        length = self.config.reader_seq_len
        names = [*_READ, *(TFRealmReader.label_names if answer_ids is not None else ())]
        inputs = [block_ids, input_ids]
        if answer_ids is not None:
            if not tf.is_tensor(answer_ids):
                answer_ids = retrieval.padded_answers(answer_ids, input_ids.shape[0])
            inputs.append(answer_ids)

        def join(*arrays: np.ndarray) -> list[np.ndarray]:
            evidence = retriever.evidence(*arrays, *[None] * (3 - len(arrays)), length)
            return [
                getattr(evidence, name)[:, :beam] if name in _READ else getattr(evidence, name)
                for name in names
            ]

        found = tf.numpy_function(join, inputs, [_TYPES.get(name, tf.int64) for name in names])
        batch, blocks = block_ids.shape
        read = None if blocks is None else min(beam, blocks)
        shapes = dict.fromkeys(_READ, (batch, read, None))
        shapes |= dict.fromkeys(TFRealmReader.label_names, (batch, blocks, None))
        shapes["has_answers"] = (batch, blocks)
        return {
            name: tf.ensure_shape(x, shapes[name]) for name, x in zip(names, found, strict=True)
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if self._compile_loss is None and isinstance(y_pred, RealmForOpenQAOutput):
            y_pred = y_pred.reader_output
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """As in `TFPreTrainedModel`; a folder may hold all that answers questions.

        Without a retriever, `block_records.npy` and a tokenizer in the same folder make one, and
        an index in its sub-folder `index` is used.

        Args:
            model_args: the retriever.
            kwargs: `retriever`, and as in `TFPreTrainedModel`.
        """
        found = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        if not model_args and "retriever" not in kwargs:
            folder = os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
            model.retriever, index = retrieval.open_folder(folder)
            model.set_index(index)
        return found


_READ = ("input_ids", "attention_mask", "token_type_ids", "block_mask")
_TYPES = {"block_mask": tf.bool, "has_answers": tf.bool}


def _span_bounds(length: Any, width: int) -> tuple[Any, Any]:
    """First and last tokens of all spans; see `zoo.retrieval.answers.span_bounds`."""
    if isinstance(length, int):
        starts, ends = span_bounds(length, width)
        return ops.convert_to_tensor(starts), ops.convert_to_tensor(ends)
    length = tf.cast(length, tf.int64)
    starts = tf.concat([tf.range(tf.maximum(length - more, 0)) for more in range(width)], 0)
    ends = tf.concat([tf.range(more, tf.maximum(length, more)) for more in range(width)], 0)
    return starts, ends


def _flat(x: Any | None) -> Any | None:
    """`(batch, candidates, ...)` -> `(batch * candidates, ...)`."""
    return None if x is None else ops.reshape(x, (-1, *dims(x)[2:]))


def _with_axis(inputs: Mapping[str, Any | None]) -> dict[str, Any | None]:
    """One question as a batch of one."""
    return {name: None if x is None else x[None] for name, x in inputs.items()}


def _shapes(inputs: Mapping[str, Any | None]) -> dict[str, Sequence[int | None] | None]:
    """Shapes for the checks; of embeddings without their width."""
    return {
        name: None if x is None else x.shape[:3] if name == "inputs_embeds" else x.shape
        for name, x in inputs.items()
    }

"""RAG: a generator that reads passages which a question encoder finds.

Paper: Lewis et al. 2020, "Retrieval-augmented generation for knowledge-intensive NLP tasks".
Weights: facebook/rag-token-*, facebook/rag-sequence-*: DPR's question encoder and BART.
The answer's probability is a sum over passages: of whole answers (RAG-Sequence) or of each token
(RAG-Token), section 2.1. A question's passages are rows of the generator's batch, one after
another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf
from keras import ops

from zoo import checks, pretrained
from zoo.configs import RagConfig
from zoo.generation import GenerationConfig
from zoo.outputs import ModelOutput, RetrievAugLMMarginOutput, RetrievAugLMOutput
from zoo.retrieval import answers as in_words
from zoo.retrieval.answers import RagAnswer, Weighed
from zoo.retrieval.realm import check_questions
from zoo.stages import stage

from .attention import Buffer
from .auto import TFAutoModel, TFAutoModelForSeq2SeqLM
from .bert import Cache
from .generation import Prompt, StepOutput, TFGenerationMixin, TreeDecoder
from .layers import dims
from .losses import IGNORED
from .modeling import TFPreTrainedModel, default

SCORED_BYTES = 2**27  # of logits that a step of RAG-Sequence's decoding makes
FEW = 16  # lengths of texts are multiples of it


class TFRagPreTrainedModel(TFPreTrainedModel):
    """What the three models share: parts, and who is asked for what.

    Args:
        config: the configuration; by default made of those of the parts.
        question_encoder: gives questions their vectors; by default a new one.
        generator: an encoder with a decoder and a language-model head; by default a new one.
        retriever: finds passages, see `zoo.retrieval.RagRetriever`; None where they are given.
        kwargs: `dtype` (of new parts), `name`, `trainable`.
    Raises:
        ValueError: nothing to build from, or parts that do not fit.
    """

    config_class = RagConfig
    base_model_prefix = "rag"
    optional_weights = (r"\.final_logits_bias$", r"^generator\.lm_head\.", r"^ctx_encoder\.")
    ignored_weights = (
        r"\.bert_model\.pooler\.",
        r"\.(en|de)coder\.version$",
        r"\.EncDecAttention\.relative_attention_bias\.",
    )

    def set_retriever(self, retriever: Any) -> None:
        """From now on passages are looked up with `retriever`."""
        self.base_model.retriever = retriever

    def set_context_encoder_for_training(self, ctx_encoder: TFPreTrainedModel) -> None:
        """From now on the passages that were found are encoded anew, so that it learns too.

        Args:
            ctx_encoder: such as `TFDPRContextEncoder`; the retriever needs its tokenizer, see
                `RagRetriever.set_ctx_encoder_tokenizer`.
        """
        for model in {id(x): x for x in (self, self.base_model)}.values():
            model._tracker.unlock()  # of a model that is built already
        self.base_model.context_encoder_training = True
        self.base_model.ctx_encoder = ctx_encoder

    def _parts(self) -> dict[str, TFPreTrainedModel]:
        base = self.base_model
        parts = {"question_encoder": base.question_encoder, "generator": base.generator}
        ctx_encoder = getattr(base, "ctx_encoder", None)
        return parts if ctx_encoder is None else {**parts, "ctx_encoder": ctx_encoder}

    def get_encoder(self) -> keras.layers.Layer:
        return self.base_model.generator.get_encoder()

    def get_decoder(self) -> keras.layers.Layer:
        return self.base_model.generator.get_decoder()

    def get_input_embeddings(self) -> keras.layers.Embedding:
        return self.base_model.generator.get_input_embeddings()

    def set_input_embeddings(self, value: keras.layers.Embedding) -> None:
        self.base_model.generator.set_input_embeddings(value)

    def get_output_embeddings(self) -> keras.layers.Layer | None:
        return self.base_model.generator.get_output_embeddings()

    def set_output_embeddings(self, value: keras.layers.Layer) -> None:
        self.base_model.generator.set_output_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> keras.layers.Embedding:
        """Gives the generator's vocabulary another size."""
        generator = self.base_model.generator
        embeddings = generator.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        if self.config.vocab_size is not None:
            self.config.vocab_size = generator.config.vocab_size
        self.train_function = self.test_function = self.predict_function = None
        return embeddings

    @classmethod
    def from_pretrained_question_encoder_generator(
        cls,
        question_encoder_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        generator_pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        retriever: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Joins two checkpoints.

        Args:
            question_encoder_pretrained_model_name_or_path: folder or repository of the encoder.
            generator_pretrained_model_name_or_path: the same of the generator.
            retriever: finds passages.
            kwargs: `question_encoder_` or `generator_` and an argument of that part's
                `from_pretrained`; `question_encoder_model`, `generator_model` for a part that is
                there already; `dtype` and where to look on the hub, for both; `config`, or fields
                of the whole configuration, such as `n_docs`.
        """
        places = {
            "question_encoder": question_encoder_pretrained_model_name_or_path,
            "generator": generator_pretrained_model_name_or_path,
        }
        config = kwargs.pop("config", None)
        of_part, fields = pretrained.split_parts(places, kwargs)
        autos = {"question_encoder": TFAutoModel, "generator": TFAutoModelForSeq2SeqLM}
        models = []
        for part, auto in autos.items():
            model = of_part[part].pop("model", None)
            models.append(model or auto.from_pretrained(places[part], **of_part[part]))
        if config is None:
            config = RagConfig.from_question_encoder_generator_configs(
                *(model.config for model in models), **fields
            )
        elif fields:
            config = type(config).from_dict(config.to_dict(), **fields)
        return cls(config, *models, retriever=retriever)

    def _token(self, name: str) -> int | None:
        """A special token: the whole's, or else the generator's."""
        own = getattr(self.config, name)
        return getattr(self.config.generator, name) if own is None else own

    def _padding(self) -> int:
        """The token that pads answers and what the generator reads."""
        pad = self._token("pad_token_id")
        checks.needed("a token, here or in config.generator", **{"config.pad_token_id": pad})
        return pad


class Found(NamedTuple):
    """Passages of a batch of questions, D of each.

    Args:
        doc_scores: `(batch, D)`.
        context_input_ids, context_attention_mask: `(batch * D, length)`, what the generator reads.
        embeds: `(batch, D, dimension)`, vectors of the passages.
        ids: `(batch, D)`.
        vectors: `(batch, dimension)`, of the questions.
        question: what the question encoder returned.
        states: `(batch * D, length, hidden)`, of the generator's encoder, where it has read them.
    """

    doc_scores: Any
    context_input_ids: Any | None
    context_attention_mask: Any | None
    embeds: Any | None = None
    ids: Any | None = None
    vectors: Any | None = None
    question: ModelOutput | None = None
    states: Any | None = None

    def unpadded(self) -> Found:
        """Without the last places that are padding in all rows: nothing attends to them.

        Differs: not in a graph, and some stay, so that there are few different shapes to trace.
        """
        ids, mask = self.context_input_ids, self.context_attention_mask
        if mask is None or not tf.executing_eagerly():
            return self
        mask = tf.convert_to_tensor(mask)
        live = mask.numpy() != 0
        if not live.any(1).all():
            return self  # a row of nothing but padding attends to all of it
        length = -(-int(live.any(0).nonzero()[0].max() + 1) // FEW) * FEW
        return self._replace(
            context_input_ids=ids[:, :length], context_attention_mask=mask[:, :length]
        )


@keras.saving.register_keras_serializable("tf_models")
class TFRagModel(TFRagPreTrainedModel):
    """The question encoder, the retriever and the generator; logits are those of each passage."""

    def __init__(
        self,
        config: RagConfig | None = None,
        question_encoder: TFPreTrainedModel | None = None,
        generator: TFPreTrainedModel | None = None,
        retriever: Any = None,
        **kwargs: Any,
    ) -> None:
        config = _config(config, question_encoder, generator)
        if generator is not None:
            kwargs.setdefault("dtype", generator.dtype_policy)
        super().__init__(config, **kwargs)
        if question_encoder is None:
            question_encoder = TFAutoModel.from_config(
                config.question_encoder, dtype=self.dtype_policy, name="question_encoder"
            )
        if generator is None:
            generator = TFAutoModelForSeq2SeqLM.from_config(
                config.generator, dtype=self.dtype_policy, name="generator"
            )
        checks.rag_parts(question_encoder, generator)
        self.question_encoder, self.generator = question_encoder, generator
        # One object each: what is changed in a part is changed in the whole.
        config.question_encoder, config.generator = question_encoder.config, generator.config
        self.retriever = retriever
        self.ctx_encoder = None
        self.context_encoder_training = False
        self.post_init()

    def find(
        self,
        input_ids: Any,
        attention_mask: Any | None = None,
        n_docs: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        token_type_ids: Any | None = None,
        training: bool | None = None,
    ) -> Found:
        """Looks passages up with the retriever; in a graph it is called in Python.

        Args:
            input_ids, attention_mask: `(batch, sequence)`, of the questions.
            n_docs: how many passages for each; by default the configuration's.
            output_attentions, output_hidden_states: of the question encoder.
            token_type_ids: `(batch, sequence)`, of the questions, for an encoder that has them.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        question = self.question_encoder(
            input_ids,
            attention_mask,
            **kinds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        vectors = _vectors(question)
        found = self._retrieved(input_ids, vectors, n_docs)
        if self.context_encoder_training:
            passages = self.ctx_encoder(
                found["tokenized_doc_ids"],
                found["tokenized_doc_attention_mask"],
                return_dict=True,
                training=training,
            )
            embeds = _vectors(passages)
            embeds = ops.reshape(embeds, (-1, n_docs, embeds.shape[-1]))
        else:
            embeds = ops.cast(found["retrieved_doc_embeds"], vectors.dtype)
        # Section 2.2: p(z|x) is proportional to the exponential of the inner product.
        scores = ops.einsum("bh,bdh->bd", vectors, embeds)
        return Found(
            scores,
            found["context_input_ids"],
            found["context_attention_mask"],
            embeds,
            found["doc_ids"],
            vectors,
            question,
        )

    def _retrieved(self, input_ids: Any, vectors: Any, n_docs: int) -> dict[str, Any]:
        """What the retriever says, as tensors."""
        names = ["context_input_ids", "context_attention_mask", "retrieved_doc_embeds", "doc_ids"]
        if self.context_encoder_training:
            names += ["tokenized_doc_ids", "tokenized_doc_attention_mask"]

        def look_up(input_ids: Any, vectors: Any) -> list[Any]:
            prefix = self.generator.config.prefix
            found = self.retriever(
                input_ids, vectors, prefix=prefix, n_docs=n_docs, return_tensors="np"
            )
            if self.context_encoder_training:
                checks.tokenized_passages(found)
            return [found[name].astype(kind) for name, kind in zip(names, kinds, strict=True)]

        floats = "retrieved_doc_embeds"
        kinds = ["float32" if name == floats else "int64" for name in names]
        inputs = (tf.convert_to_tensor(input_ids), tf.cast(vectors, tf.float32))
        if tf.executing_eagerly():
            arrays = map(tf.convert_to_tensor, look_up(*(x.numpy() for x in inputs)))
        else:
            arrays = tf.numpy_function(look_up, inputs, kinds)
        found = dict(zip(names, arrays, strict=True))
        for name, x in found.items():
            if name == floats:
                x.set_shape((vectors.shape[0], n_docs, vectors.shape[-1]))
            elif name == "doc_ids":
                x.set_shape((vectors.shape[0], n_docs))
            else:
                length = self.config.max_combined_length if "context" in name else None
                x.set_shape((None, length))
        return found

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Any | None = None,
        decoder_attention_mask: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        doc_scores: Any | None = None,
        context_input_ids: Any | None = None,
        context_attention_mask: Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Any | None = None,
        training: bool | None = None,
    ) -> RetrievAugLMOutput | tuple[Any, ...]:
        """
        Args:
            input_ids: `(batch, sequence)`, questions; needed where passages are to be found.
            attention_mask: `(batch, sequence)`; 1 attend, 0 do not.
            encoder_outputs: of an earlier call of the generator's encoder, instead of what it
                reads; the first is its last hidden states `(batch * D, length, hidden)`.
            decoder_input_ids: `(batch, decoder_sequence)`; of all passages of a question.
            decoder_attention_mask: `(batch, decoder_sequence)` with the past's positions.
            past_key_values: of an earlier call; then only the new tokens are passed.
            doc_scores: `(batch, D)`, of the passages; found by the retriever if not given.
            context_input_ids, context_attention_mask: `(batch * D, length)`, what the generator
                reads; made by the retriever if not given.
            use_cache, output_attentions, output_hidden_states, output_retrieved, return_dict: what
                to return; by default as the config says.
            n_docs: D, how many passages for each question; by default the configuration's.
            token_type_ids: `(batch, sequence)`, of the questions, for an encoder that has them.
        """
        config = self.config
        n_docs = config.n_docs if n_docs is None else n_docs
        output_retrieved = default(output_retrieved, config.output_retrieved)
        output_attentions = default(output_attentions, config.output_attentions)
        output_hidden_states = default(output_hidden_states, config.output_hidden_states)
        given = (context_input_ids, context_attention_mask, doc_scores)
        retrieves = encoder_outputs is None and any(x is None for x in given)
        if retrieves and self.retriever is not None:
            checks.needed("questions to find passages for", input_ids=_shape(input_ids))
            found = self.find(
                input_ids, attention_mask, n_docs, output_attentions, output_hidden_states,
                token_type_ids, training,
            )  # fmt: skip
        else:
            found = _given(doc_scores, context_input_ids, context_attention_mask, encoder_outputs)
        checks.passages(
            n_docs,
            found.doc_scores.shape,
            _shape(found.context_input_ids),
            _shape(found.context_attention_mask),
            _shape(decoder_input_ids),
        )
        decoder_input_ids, decoder_attention_mask = (
            None if x is None else ops.repeat(x, n_docs, axis=0)
            for x in (decoder_input_ids, decoder_attention_mask)
        )
        generated = self.generator(
            input_ids=None if encoder_outputs is not None else found.context_input_ids,
            attention_mask=found.context_attention_mask,
            encoder_outputs=encoder_outputs,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=default(use_cache, config.use_cache),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        shown = output_retrieved and found.ids is not None
        question = found.question
        output = RetrievAugLMOutput(
            generated.logits,
            found.doc_scores,
            generated.past_key_values,
            found.embeds if shown else None,
            found.ids if shown else None,
            found.context_input_ids if shown else None,
            found.context_attention_mask if shown else None,
            found.vectors,
            None if question is None else question.hidden_states,
            None if question is None else question.attentions,
            generated.encoder_last_hidden_state,
            generated.encoder_hidden_states,
            generated.encoder_attentions,
            generated.decoder_hidden_states,
            generated.decoder_attentions,
            generated.cross_attentions,
        )
        return self._returned(output, return_dict)


class TFRagForGeneration(TFRagPreTrainedModel):
    """What the two models with a loss share.

    In `fit` the loss is the mean over the batch, unless it is reduced to a sum.

    Args:
        config, question_encoder, generator, retriever, kwargs: as `TFRagModel` takes them.
    """

    def __init__(
        self,
        config: RagConfig | None = None,
        question_encoder: TFPreTrainedModel | None = None,
        generator: TFPreTrainedModel | None = None,
        retriever: Any = None,
        **kwargs: Any,
    ) -> None:
        config = _config(config, question_encoder, generator)
        if generator is not None:
            kwargs.setdefault("dtype", generator.dtype_policy)
        super().__init__(config, **kwargs)
        self.rag = TFRagModel(
            config, question_encoder, generator, retriever, dtype=self.dtype_policy, name="rag"
        )
        self.post_init()

    @property
    def question_encoder(self) -> TFPreTrainedModel:
        return self.rag.question_encoder

    @property
    def generator(self) -> TFPreTrainedModel:
        return self.rag.generator

    @property
    def retriever(self) -> Any:
        return self.rag.retriever

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return ops.mean(super().compute_loss(x, y, y_pred, sample_weight, training))

    def _read_by_decoder(
        self, labels: Any | None, decoder_input_ids: Any | None, use_cache: bool | None
    ) -> tuple[Any | None, bool | None]:
        """What the decoder reads, and whether it returns a cache."""
        if labels is None:
            return decoder_input_ids, use_cache
        if decoder_input_ids is not None:
            checks.assert_shape("labels", labels.shape, decoder_input_ids.shape)
        else:
            ignored = ops.equal(labels, IGNORED)
            decoder_input_ids = ops.where(ignored, self._padding(), labels)
        return decoder_input_ids, False

    def _targets(self, labels: Any) -> tuple[Any, Any]:
        """What is to be predicted at each position, and where that counts, `(batch, sequence)`.

        Labels are what the decoder reads, so it predicts those that follow.
        """
        pad = self._padding()
        labels = tf.cast(labels, tf.int32)
        following = tf.pad(labels[:, 1:], [[0, 0], [0, 1]], constant_values=pad)
        counts = (following != pad) & (following != IGNORED)
        return tf.where(counts, following, 0), counts

    def _output(
        self, loss: Any | None, found: RetrievAugLMOutput, return_dict: bool | None
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        output = RetrievAugLMMarginOutput(loss=loss, **found)
        return self._returned(output, return_dict)

    def _find(
        self,
        input_ids: Any | None,
        attention_mask: Any | None,
        context_input_ids: Any | None,
        context_attention_mask: Any | None,
        doc_scores: Any | None,
        n_docs: int,
        token_type_ids: Any | None = None,
    ) -> Found:
        """The passages to generate from, looked up where they are not given."""
        if context_input_ids is None and self.retriever is not None:
            checks.needed("questions to find passages for", input_ids=_shape(input_ids))
            found = self.rag.find(input_ids, attention_mask, n_docs, token_type_ids=token_type_ids)
        else:
            if context_attention_mask is None and context_input_ids is not None:
                is_text = ops.not_equal(context_input_ids, self._padding())
                context_attention_mask = ops.cast(is_text, "int32")
            found = _given(doc_scores, context_input_ids, context_attention_mask, None)
        checks.passages(
            n_docs,
            found.doc_scores.shape,
            _shape(found.context_input_ids),
            _shape(found.context_attention_mask),
        )
        return found

    def answer(
        self,
        questions: Sequence[str],
        n_best: int = 1,
        n_docs: int | None = None,
        batch_size: int = 8,
        **options: Any,
    ) -> list[list[RagAnswer]]:
        """Answers questions, with the passages. How they are put into batches changes nothing.

        Args:
            questions: texts.
            n_best: answers to each question; the same words count once.
            n_docs: passages for each question; by default the configuration's.
            batch_size: questions at a time.
            options: of `generate`, such as `num_beams` and `max_new_tokens`.
        Returns:
            For each question up to `n_best` answers, in the order in which `generate` ranks them.
        Raises:
            ValueError: there is no retriever, or an argument is impossible.
        """
        check_questions(questions, n_best, batch_size)
        in_words.check_options(options)
        if self.retriever is None:
            raise ValueError(f"{type(self).__name__}: retriever is None; give it a RagRetriever")
        n_docs = self.config.n_docs if n_docs is None else n_docs
        return [
            answers
            for start in range(0, len(questions), batch_size)
            for answers in self._answer(
                list(questions[start : start + batch_size]), n_best, n_docs, options
            )
        ]

    def _answer(
        self, questions: list[str], n_best: int, n_docs: int, options: Mapping[str, Any]
    ) -> list[list[RagAnswer]]:
        retriever, encoder = self.retriever, self.question_encoder
        tokens = retriever.tokenize_questions(questions, encoder.config.max_position_embeddings)
        with stage("encode"):
            asked = [tf.convert_to_tensor(x) for x in tokens.values()]
            found = self._find(*asked, None, None, None, n_docs)
        with stage("generate"):
            found = self._read(found)
            sequences = self._candidates(found, n_best, options)
            sequences = tf.reshape(sequences, (len(questions), -1, dims(sequences)[1]))
        decode, answers = retriever.generator_tokenizer.batch_decode, []
        for row, candidates in enumerate(sequences):
            with stage("weigh"):
                texts = decode(candidates.numpy().tolist(), skip_special_tokens=True)
                chosen = tf.gather(candidates, in_words.different(texts, n_best))
                passages = slice(row * n_docs, (row + 1) * n_docs)
                own = Found(
                    found.doc_scores[row : row + 1],
                    found.context_input_ids[passages],
                    found.context_attention_mask[passages],
                    states=found.states[passages],
                )
                weighed = self._weigh(chosen[None], own)
                answers.append(
                    in_words.rag_answers(
                        retriever,
                        found.ids[row].numpy(),
                        tf.cast(found.doc_scores[row], tf.float32).numpy(),
                        Weighed(*(None if x is None else x.numpy() for x in weighed)),
                    )
                )
        return answers

    def _read(self, found: Found) -> Found:
        """With the states of the generator's encoder."""
        found = found.unpadded()
        ids, mask = found.context_input_ids, found.context_attention_mask
        encoded = self.generator._encode({"input_ids": ids, "attention_mask": mask}, {})
        return found._replace(states=encoded[0][0])

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Any:
        """Answers `(batch * any, length)`, best first, some of them maybe alike."""
        raise NotImplementedError

    def _weigh(self, answers: Any, found: Found) -> Weighed:
        """Probabilities of answers `(batch, answers, length)`, and what passages share in them.

        Args:
            answers: to each question.
            found: what they were made from, read by the encoder.
        """
        batch, count, length = dims(answers)
        n_docs, bos = found.doc_scores.shape[1], self._token("bos_token_id")

        def each(x: Any) -> Any:
            """The same for all answers to a question."""
            rows = tf.reshape(x, (batch, -1, *dims(x)[1:]))
            return tf.reshape(tf.repeat(rows, count, axis=0), (-1, *dims(x)[1:]))

        mask, answers = found.context_attention_mask, tf.reshape(answers, (-1, length))
        output = self.rag(
            encoder_outputs=(each(found.states),),
            decoder_input_ids=answers,
            doc_scores=each(found.doc_scores),
            context_attention_mask=each(mask),
            use_cache=False,
            n_docs=n_docs,
            return_dict=True,
        )
        labels, counts = self._targets(answers)
        if bos is not None:
            counts &= (tf.range(length) > 0) | (labels != bos)
        # (batch * answers, D, length)
        logits = _of_passages(output.logits, n_docs)
        tokens = _log_probabilities(logits, labels[:, None])
        passages = tf.nn.log_softmax(tf.cast(output.doc_scores, tf.float32))
        found_all = (*self._shares(tokens, passages, counts), labels, counts)
        return Weighed(
            *(None if x is None else tf.reshape(x, (batch, count, *dims(x)[1:])) for x in found_all)
        )

    def _shares(self, tokens: Any, passages: Any, counts: Any) -> tuple[Any, Any, Any | None]:
        """Scores and shares of `Weighed`, of a flat batch of answers.

        Args:
            tokens: `(answers, D, length)`, log probabilities.
            passages: `(answers, D)`, the same.
            counts: `(answers, length)`, whether a token is part of the answer.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable("tf_models")
class TFRagSequenceForGeneration(TFRagForGeneration):
    """RAG-Sequence: an answer's probability is summed over passages as a whole."""

    def get_nll(
        self,
        seq_logits: Any,
        doc_scores: Any,
        target: Any,
        reduce_loss: bool = False,
        epsilon: float = 0.0,
        exclude_bos_score: Any = False,
        n_docs: int | None = None,
    ) -> Any:
        """Minus the log probability of answers (section 2.1, RAG-Sequence).

        Args:
            seq_logits: `(batch * D, sequence, vocab)`, of each passage.
            doc_scores: `(batch, D)`.
            target: `(batch, sequence)`, what the decoder read.
            reduce_loss: whether to sum over the batch.
            epsilon: label smoothing.
            exclude_bos_score: whether a first token that is the bos token does not count (but in
                the smoothing, as published); for all, or `(batch,)`. Every row is looked at by
                itself.
            n_docs: D.
        Returns:
            `(batch,)`, or a scalar if reduced.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        labels, counts = self._targets(target)
        # (batch, D, sequence, vocab)
        logits = _of_passages(seq_logits, n_docs)
        tokens = _log_probabilities(logits, labels[:, None])
        sums = tf.reduce_sum(tf.nn.log_softmax(logits), axis=-1) if epsilon else None
        loss = self._loss(
            tokens, sums, doc_scores, labels, counts, epsilon, exclude_bos_score, logits.shape[-1]
        )
        return tf.reduce_sum(loss) if reduce_loss else loss

    def _loss(
        self,
        tokens: Any,
        sums: Any | None,
        doc_scores: Any,
        labels: Any,
        counts: Any,
        epsilon: float,
        exclude_bos_score: Any,
        vocab: int,
    ) -> Any:
        """`get_nll` of what is known of answers with each passage, `(batch,)`.

        Args:
            tokens: `(batch, D, sequence)`, log probabilities of the labels.
            sums: the same of the whole vocabulary, summed; needed for smoothing.
            doc_scores: `(batch or 1, D)`.
            labels, counts: `(batch, sequence)`.
            epsilon, exclude_bos_score: as `get_nll` takes them.
            vocab: size of the vocabulary.
        """
        passages = tf.nn.log_softmax(tf.cast(doc_scores, tf.float32))
        # As published the passage's probability comes in with the second token.
        enters = tf.cast(tf.pad(counts, [[0, 0], [0, 1]])[:, 1:2], tf.float32)
        bos = self._token("bos_token_id")
        scored = counts
        if exclude_bos_score is not False and bos is not None:
            is_bos = (labels[:, 0] == bos) & exclude_bos_score
            scored &= tf.concat([~is_bos[:, None], tf.ones_like(counts[:, 1:])], axis=1)
        counts, scored = (tf.cast(x[:, None], tf.float32) for x in (counts, scored))
        found = tf.reduce_sum(tokens * scored, axis=2) + passages * enters
        loss = -tf.reduce_logsumexp(found, axis=1)
        if sums is not None:
            each = tf.reduce_sum(sums * counts, axis=2)
            smooth = -tf.reduce_logsumexp(each + vocab * passages * enters, axis=1)
            loss = (1.0 - epsilon) * loss + epsilon / vocab * smooth
        return loss

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Any | None = None,
        decoder_attention_mask: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        context_input_ids: Any | None = None,
        context_attention_mask: Any | None = None,
        doc_scores: Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        exclude_bos_score: bool | None = None,
        reduce_loss: bool | None = None,
        labels: Any | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Any | None = None,
        training: bool | None = None,
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        """As `TFRagModel`, and:

        Args:
            exclude_bos_score, reduce_loss: of the loss, see `get_nll`; by default as the config
                says.
            labels: `(batch, sequence)`, answers with the decoder's start token in front, as the
                decoder reads them; padding and -100 are left out of the loss.
        """
        config = self.config
        decoder_input_ids, use_cache = self._read_by_decoder(labels, decoder_input_ids, use_cache)
        found = self.rag(
            input_ids, attention_mask, encoder_outputs, decoder_input_ids, decoder_attention_mask,
            past_key_values, doc_scores, context_input_ids, context_attention_mask, use_cache,
            output_attentions, output_hidden_states, output_retrieved, n_docs, return_dict=True,
            token_type_ids=token_type_ids, training=training,
        )  # fmt: skip
        loss = None
        if labels is not None:
            loss = self.get_nll(
                found.logits,
                found.doc_scores,
                labels,
                reduce_loss=default(reduce_loss, config.reduce_loss),
                epsilon=config.label_smoothing,
                exclude_bos_score=default(exclude_bos_score, config.exclude_bos_score),
                n_docs=n_docs,
            )
        return self._output(loss, found, return_dict)

    def generate(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        context_input_ids: Any | None = None,
        context_attention_mask: Any | None = None,
        doc_scores: Any | None = None,
        do_deduplication: bool | None = None,
        num_return_sequences: int | None = None,
        num_beams: int | None = None,
        n_docs: int | None = None,
        token_type_ids: Any | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Answers questions by thorough decoding (section 2.5).

        Each passage is generated from by itself; then all different answers to a question are
        scored with all of its passages.

        Args:
            input_ids, attention_mask: `(batch, sequence)`, questions.
            context_input_ids, context_attention_mask: `(batch * D, length)`, what the generator
                reads; without them passages are looked up.
            doc_scores: `(batch, D)`, with `context_input_ids`.
            do_deduplication: whether equal answers count once; by default as the config says.
            num_return_sequences: answers to each question; by default the configuration's.
            num_beams: of the search with each passage; by default the configuration's.
            n_docs: D, how many passages for each question; by default the configuration's.
            token_type_ids: `(batch, sequence)`, of the questions, for an encoder that has them.
            model_kwargs: further arguments of the generator's `generate`.
        Returns:
            `(batch * num_return_sequences, length)`, best first, padded at the end.
        Raises:
            ValueError: fewer different answers than `num_return_sequences`.
        """
        config = self.config
        n_docs = config.n_docs if n_docs is None else n_docs
        checks.no_outputs_of_steps(model_kwargs)
        returned = config.num_return_sequences if num_return_sequences is None else (
            num_return_sequences
        )  # fmt: skip
        beams = config.num_beams if num_beams is None else num_beams
        found = self._find(
            input_ids, attention_mask, context_input_ids, context_attention_mask, doc_scores,
            n_docs, token_type_ids,
        )  # fmt: skip
        read = model_kwargs.pop("encoder_outputs", None)
        found = found.unpadded() if read is None else found
        generator, contexts = self.generator, found.context_input_ids
        mask = found.context_attention_mask
        inputs = {"input_ids": contexts, "attention_mask": mask, "encoder_outputs": read}
        encoder_outputs, encoded = generator._encode(inputs, {})
        sequences = generator.generate(
            contexts,
            attention_mask=mask,
            encoder_outputs=encoder_outputs,
            num_beams=beams,
            num_return_sequences=beams,
            **model_kwargs,
        )
        count, length = n_docs * beams, dims(sequences)[1]
        # (batch, D * beams, length)
        candidates = tf.reshape(sequences, (-1, count, length))
        checks.enough_answers(returned, count, 0)
        repeated = tf.zeros((1, 1), tf.bool)
        if default(do_deduplication, config.do_deduplication):
            same = tf.reduce_all(candidates[:, :, None] == candidates[:, None], axis=-1)
            earlier = tf.range(count)[:, None] < tf.range(count)
            repeated = tf.reduce_any(same & earlier, axis=1)
            if tf.executing_eagerly():
                # Differs: rows have one size, and in a graph that of all answers; what came before
                # stays in shorter ones and is not chosen.
                different = tf.reduce_sum(tf.cast(~repeated, tf.int32), 1).numpy()
                for row, left in enumerate(different):
                    checks.enough_answers(returned, int(left), row)
                order = tf.argsort(tf.cast(repeated, tf.int32), axis=1, stable=True)
                candidates, repeated = (
                    tf.gather(x, order[:, : different.max()], batch_dims=1)
                    for x in (candidates, repeated)
                )
        losses = self._scorer(n_docs)(candidates, encoded, found.doc_scores)
        losses = tf.where(repeated, float("inf"), losses)
        best = tf.argsort(losses, axis=1, stable=True)[:, :returned]
        answers = tf.gather(candidates, best, batch_dims=1)
        return tf.reshape(answers, (-1, length))

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Any:
        n_docs = found.doc_scores.shape[1]
        given = {
            "context_input_ids": found.context_input_ids,
            "context_attention_mask": found.context_attention_mask,
            "doc_scores": found.doc_scores,
            "n_docs": n_docs,
            "encoder_outputs": (found.states,),
        }
        if n_best == 1:
            return self.generate(**given, num_return_sequences=1, **options)
        # All there are: how many of them are different is known afterwards.
        count = n_docs * (options.get("num_beams") or self.config.num_beams)
        alike = {"do_deduplication": False, "num_return_sequences": count}
        return self.generate(**given, **{**options, **alike})

    def _shares(self, tokens: Any, passages: Any, counts: Any) -> tuple[Any, Any, Any | None]:
        whole = tf.reduce_sum(tf.where(counts[:, None], tokens, 0.0), -1) + passages
        return tf.reduce_logsumexp(whole, -1), tf.nn.softmax(whole), None

    def _scorer(self, n_docs: int) -> Callable[..., Any]:
        """`_answer_losses`, in a graph of its own where it is called eagerly."""

        def losses(candidates: Any, encoded: Mapping[str, Any], doc_scores: Any) -> Any:
            return self._answer_losses(candidates, encoded, doc_scores, n_docs)

        if not tf.executing_eagerly():
            return losses
        smoothing = self.config.label_smoothing
        key = (n_docs, smoothing, *(id(variable) for variable in self.variables))
        made = vars(self).setdefault("_scorers", {})
        if key not in made:
            made[key] = tf.function(losses, autograph=False, reduce_retracing=True)
        return made[key]

    def _answer_losses(
        self, candidates: Any, encoded: Mapping[str, Any], doc_scores: Any, n_docs: int
    ) -> Any:
        """`(batch, candidates)`, of answers `(batch, candidates, length)` to each question."""
        candidates = tf.cast(candidates, tf.int32)

        def losses(row: Any) -> Any:
            passages = slice(row * n_docs, (row + 1) * n_docs)
            of_row = {
                name: x[passages] if tf.is_tensor(x) and "head_mask" not in name else x
                for name, x in encoded.items()
            }
            return self._question_losses(candidates[row], of_row, doc_scores[row : row + 1])

        return tf.map_fn(
            losses,
            tf.range(dims(candidates)[0]),
            parallel_iterations=1,
            fn_output_signature=tf.TensorSpec((candidates.shape[1],), tf.float32),
        )

    def _question_losses(self, candidates: Any, encoded: Mapping[str, Any], scores: Any) -> Any:
        """`(candidates,)`, of answers `(candidates, length)` to one question.

        The decoder reads a tree, in which what answers begin with together is there once.
        """
        generator, n_docs = self.generator, scores.shape[1]
        labels, counts = self._targets(candidates)
        tree = PrefixTree.of(candidates, counts)
        size = dims(tree.places)[0]
        smoothing = self.config.label_smoothing

        def read(start: Any, stop: Any, past: Any) -> Any:
            return generator._decode(
                tf.repeat(tree.tokens[None, start:stop], n_docs, axis=0),
                # Differs: PyTorch's memory ends with what is written.
                tf.cast(tree.visible[None, start:stop, : stop if past is None else size], tf.int32),
                tree.places[None, start:stop],
                past,
                encoded,
            )

        def scored(decoded: Any, start: Any, stop: Any, tokens: Any, sums: Any) -> tuple[Any, Any]:
            here = (tree.nodes >= start) & (tree.nodes < stop)
            node = tf.clip_by_value(tree.nodes - start, 0, stop - start - 1)
            logits = tf.cast(decoded.logits, tf.float32)  # (D, nodes, vocab)
            index = tf.stack([node, labels], axis=-1)
            index = tf.repeat(index[None], n_docs, axis=0)
            of_label = tf.gather_nd(logits, index, batch_dims=1)
            of_label -= tf.gather(tf.reduce_logsumexp(logits, axis=-1), node, axis=1)
            tokens = tf.where(here, of_label, tokens)
            if smoothing:
                each = tf.reduce_sum(tf.nn.log_softmax(logits), axis=-1)
                sums = tf.where(here, tf.gather(each, node, axis=1), sums)
            return tokens, sums

        # The first node alone begins the caches.
        begun = read(0, 1, None)
        vocab = begun.logits.shape[-1]
        at_once = max(1, SCORED_BYTES // (4 * n_docs * vocab))
        crosses = [cache[2:] for cache in begun.past_key_values]
        caches = [tuple(Buffer.room(x, size) for x in cache[:2]) for cache in begun.past_key_values]
        none = tf.zeros((n_docs, *dims(candidates)), tf.float32)

        def step(start: Any, caches: Any, tokens: Any, sums: Any) -> tuple[Any, ...]:
            stop = tf.minimum(start + at_once, size)
            past = tuple(
                (*(Buffer(memory, start, tree.places) for memory in memories), *cross)
                for memories, cross in zip(caches, crosses, strict=True)
            )
            decoded = read(start, stop, past)
            caches = [tuple(cache[:2]) for cache in decoded.past_key_values]
            return stop, caches, *scored(decoded, start, stop, tokens, sums)

        _, _, tokens, sums = tf.while_loop(
            lambda start, *_: start < size,
            step,
            (tf.constant(1), caches, *scored(begun, 0, 1, none, none)),
            parallel_iterations=1,
        )
        bos = self._token("bos_token_id")
        return self._loss(
            tf.transpose(tokens, (1, 0, 2)),
            tf.transpose(sums, (1, 0, 2)) if smoothing else None,
            scores,
            labels,
            counts,
            smoothing,
            False if bos is None else tf.reduce_all(candidates[:, 1] == bos),
            vocab,
        )


class PrefixTree(NamedTuple):
    """Texts as one, in which what several begin with is there once.

    Args:
        tokens: `(nodes,)`.
        places: `(nodes,)`; where in its text each comes.
        visible: `(nodes, nodes)`; whether a node sees another: what is before it, and itself.
        nodes: `(texts, length)`; the node at each place of a text.
    """

    tokens: Any
    places: Any
    visible: Any
    nodes: Any

    @classmethod
    def of(cls, texts: Any, counts: Any) -> PrefixTree:
        """The tree of texts `(texts, length)`, as far as predictions from there on count."""
        count, length = dims(texts)
        number = tf.range(count)
        # (texts, texts, length): whether two begin with the same so far.
        same = tf.math.cumprod(tf.cast(texts[:, None] == texts[None], tf.int32), axis=2) == 1
        # (texts, length): the first text that begins so, which has the node for all.
        owner = tf.reduce_min(tf.where(same, number[None, :, None], count), axis=1)
        needed = tf.cumsum(tf.cast(counts, tf.int32), axis=1, reverse=True) > 0
        needed |= tf.range(length) == 0
        kept = (owner == number[:, None]) & tf.reduce_any(same & needed[None], axis=1)
        rows, places = tf.unstack(tf.cast(tf.where(kept), tf.int32), axis=1)
        visible = tf.gather(tf.gather(owner, rows), places, axis=1) == rows
        visible &= places <= places[:, None]
        every = tf.cumsum(tf.cast(tf.reshape(kept, (-1,)), tf.int32)) - 1
        nodes = tf.gather(every, owner * length + tf.range(length))
        tokens = tf.gather(tf.reshape(texts, (-1,)), rows * length + places)
        return cls(tokens, places, visible, nodes)


class PassageDecoder(TreeDecoder):
    """A step function that reads every beam with every passage and sums their probabilities.

    Args:
        generator: has `_decode`.
        prompt: the tokens to start from, of each question.
        beams, steps, flags: as `TreeDecoder` takes them.
        encoded: inputs of `_decode`, and `doc_scores` `(batch, D)`.
    """

    def __init__(
        self,
        generator: TFGenerationMixin,
        prompt: Prompt,
        beams: int,
        steps: Any,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> None:
        encoded = dict(encoded)
        self.passages = tf.nn.log_softmax(tf.cast(encoded.pop("doc_scores"), tf.float32))
        self.n_docs = self.passages.shape[1]
        super().__init__(generator, Prompt(*map(self._each, prompt)), beams, steps, encoded, flags)

    def _each(self, x: Any | None) -> Any | None:
        """The same for all passages of a question."""
        return None if x is None else tf.repeat(x, self.n_docs, axis=0)

    def _summed(self, output: StepOutput) -> StepOutput:
        """Log probabilities `(batch, beams, vocab)` in the place of logits of each passage."""
        return output._replace(logits=_marginal(output.logits, self.passages))

    def start(self) -> tuple[StepOutput, Any]:
        output, cache = super().start()
        return self._summed(output), cache

    def step(self, tokens: Any, origins: Any | None, made: Any, cache: Any) -> tuple[Any, Any]:
        tokens, origins = self._each(tokens), self._each(origins)
        output, cache = super().step(tokens, origins, made, cache)
        return self._summed(output), cache


@keras.saving.register_keras_serializable("tf_models")
class TFRagTokenForGeneration(TFGenerationMixin, TFRagForGeneration):
    """RAG-Token: the probability of each token of an answer is summed over passages."""

    def marginalize(self, seq_logits: Any, doc_scores: Any, n_docs: int | None = None) -> Any:
        """Log probabilities of tokens (section 2.1, RAG-Token).

        Args:
            seq_logits: `(batch * D, sequence, vocab)`, of each passage.
            doc_scores: `(batch, D)`.
            n_docs: D.
        Returns:
            `(batch, sequence, vocab)`.
        """
        return _marginal(seq_logits, tf.nn.log_softmax(tf.cast(doc_scores, tf.float32)))

    def get_nll(
        self,
        seq_logits: Any,
        doc_scores: Any,
        target: Any,
        reduce_loss: bool = False,
        epsilon: float = 0.0,
        n_docs: int | None = None,
    ) -> Any:
        """Minus the log probability of answers (section 2.1, RAG-Token).

        Args:
            seq_logits: `(batch * D, sequence, vocab)`, of each passage.
            doc_scores: `(batch, D)`.
            target: `(batch, sequence)`, what the decoder read.
            reduce_loss: whether to sum over the batch.
            epsilon: label smoothing.
            n_docs: D.
        Returns:
            `(batch,)`, or a scalar if reduced.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        labels, counts = self._targets(target)
        counts = tf.cast(counts, tf.float32)
        logits = _of_passages(seq_logits, n_docs)
        passages = tf.nn.log_softmax(tf.cast(doc_scores, tf.float32))
        tokens = _log_probabilities(logits, labels[:, None]) + passages[..., None]
        loss = -tf.reduce_sum(tf.reduce_logsumexp(tokens, axis=1) * counts, axis=1)
        if epsilon:
            each = tf.reduce_sum(_marginal(seq_logits, passages), axis=-1)
            smooth = -tf.reduce_sum(each * counts, axis=1)
            loss = (1.0 - epsilon) * loss + epsilon / logits.shape[-1] * smooth
        return tf.reduce_sum(loss) if reduce_loss else loss

    def call(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Any | None = None,
        decoder_attention_mask: Any | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        context_input_ids: Any | None = None,
        context_attention_mask: Any | None = None,
        doc_scores: Any | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        do_marginalize: bool | None = None,
        reduce_loss: bool | None = None,
        labels: Any | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Any | None = None,
        training: bool | None = None,
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        """As `TFRagModel`, and:

        Args:
            do_marginalize: whether the logits are log probabilities summed over passages,
                `(batch, sequence, vocab)`; by default as the config says.
            reduce_loss: of the loss, see `get_nll`; by default as the config says.
            labels: `(batch, sequence)`, answers with the decoder's start token in front, as the
                decoder reads them; padding and -100 are left out of the loss.
        """
        config = self.config
        decoder_input_ids, use_cache = self._read_by_decoder(labels, decoder_input_ids, use_cache)
        found = self.rag(
            input_ids, attention_mask, encoder_outputs, decoder_input_ids, decoder_attention_mask,
            past_key_values, doc_scores, context_input_ids, context_attention_mask, use_cache,
            output_attentions, output_hidden_states, output_retrieved, n_docs, return_dict=True,
            token_type_ids=token_type_ids, training=training,
        )  # fmt: skip
        loss = None
        if labels is not None:
            loss = self.get_nll(
                found.logits,
                found.doc_scores,
                labels,
                reduce_loss=default(reduce_loss, config.reduce_loss),
                epsilon=config.label_smoothing,
                n_docs=n_docs,
            )
        if default(do_marginalize, config.do_marginalize):
            found.logits = self.marginalize(found.logits, found.doc_scores, n_docs)
        return self._output(loss, found, return_dict)

    def generate(
        self,
        input_ids: Any | None = None,
        attention_mask: Any | None = None,
        context_input_ids: Any | None = None,
        context_attention_mask: Any | None = None,
        doc_scores: Any | None = None,
        n_docs: int | None = None,
        generation_config: GenerationConfig | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Any], Any] | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        token_type_ids: Any | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answers questions; the next token's probability is summed over passages in every step.

        Args:
            input_ids, attention_mask: `(batch, sequence)`, questions.
            context_input_ids, context_attention_mask: `(batch * D, length)`, what the generator
                reads; without them passages are looked up.
            doc_scores: `(batch, D)`, with `context_input_ids`.
            n_docs: D, how many passages for each question; by default the configuration's.
            token_type_ids: `(batch, sequence)`, of the questions, for an encoder that has them.
            generation_config, prefix_allowed_tokens_fn, logits_processor, stopping_criteria,
                kwargs: as `TFGenerationMixin.generate` takes them.
        Returns:
            As `TFGenerationMixin.generate`; attentions and states have a row for each passage.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        found = self._find(
            input_ids, attention_mask, context_input_ids, context_attention_mask, doc_scores,
            n_docs, token_type_ids,
        )  # fmt: skip
        asked = ("output_attentions", "output_hidden_states")
        config = generation_config or self.generation_config
        if "encoder_outputs" not in kwargs and not any(
            kwargs.get(name, getattr(config, name)) for name in asked
        ):
            found = found.unpadded()
        return super().generate(
            found.context_input_ids,
            generation_config,
            logits_processor,
            stopping_criteria,
            prefix_allowed_tokens_fn,
            attention_mask=found.context_attention_mask,
            doc_scores=found.doc_scores,
            **kwargs,
        )

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Any:
        config = options.get("generation_config") or self.generation_config
        samples = options.get("do_sample", config.do_sample)
        beams = config.num_beams if samples else max(config.num_beams, n_best)
        beams = options.get("num_beams") or beams
        # A search ends with as many answers as it has beams.
        count = n_best if samples and beams == 1 else min(n_best, beams)
        return self.generate(
            context_input_ids=found.context_input_ids,
            context_attention_mask=found.context_attention_mask,
            doc_scores=found.doc_scores,
            n_docs=found.doc_scores.shape[1],
            encoder_outputs=(found.states,),
            **{**options, "num_beams": beams, "num_return_sequences": count},
        )

    def _shares(self, tokens: Any, passages: Any, counts: Any) -> tuple[Any, Any, Any | None]:
        joint = tokens + passages[..., None]
        scores = tf.reduce_sum(tf.where(counts, tf.reduce_logsumexp(joint, 1), 0.0), -1)
        per_token = tf.nn.softmax(joint, 1)
        inside = tf.cast(counts, tf.float32)[:, None]
        number = tf.reduce_sum(inside, -1)
        mean = tf.math.divide_no_nan(tf.reduce_sum(per_token * inside, -1), number)
        return scores, tf.where(number > 0, mean, tf.exp(passages)), per_token

    # For the engine every passage is a row of the encoder's batch, and every question one of the
    # decoder's.

    def _generation_inputs(self) -> tuple[str, ...]:
        return (
            "attention_mask", "doc_scores", "encoder_outputs", "decoder_input_ids",
            "decoder_attention_mask",
        )  # fmt: skip

    def _max_positions(self) -> int | None:
        return self.generator._max_positions()

    def _prompted(
        self, config: GenerationConfig, given: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        n_docs = given["doc_scores"].shape[1]
        of_decoder = ("decoder_input_ids", "decoder_attention_mask")
        given = {
            name: tf.repeat(x, n_docs, axis=0) if name in of_decoder else x
            for name, x in given.items()
        }
        given, prompt = super()._prompted(config, given)
        given |= {name: given[name][::n_docs] for name in of_decoder if name in given}
        return given, prompt[::n_docs]

    def _source(self, given: Mapping[str, Any]) -> Any | None:
        source = super()._source(given)
        if source is None:
            return None
        return tf.reshape(source, (-1, given["doc_scores"].shape[1] * dims(source)[1]))

    def _encode(
        self, inputs: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[Any, dict[str, Any]]:
        inputs = dict(inputs)
        doc_scores = inputs.pop("doc_scores")
        output, encoded = self.generator._encode(inputs, flags)
        return output, {**encoded, "doc_scores": doc_scores}

    def _step_function(
        self,
        prompt: Prompt,
        beams: int,
        steps: Any,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> PassageDecoder:
        return PassageDecoder(self.generator, prompt, beams, steps, encoded, flags)


def _config(config: RagConfig | None, question_encoder: Any, generator: Any) -> RagConfig:
    if config is not None:
        return config
    checks.rag_parts(question_encoder, generator)
    return RagConfig.from_question_encoder_generator_configs(
        question_encoder.config, generator.config
    )


def _shape(x: Any | None) -> Any | None:
    return None if x is None else x.shape


def _vectors(output: ModelOutput) -> Any:
    """The vector of each text: what is pooled, or the first token's last state."""
    pooled = output.get("pooler_output")
    return output[0][:, 0] if pooled is None else pooled


def _given(
    doc_scores: Any | None,
    context_input_ids: Any | None,
    context_attention_mask: Any | None,
    encoder_outputs: Any,
) -> Found:
    """Passages that the caller gave."""
    needed = {"doc_scores": _shape(doc_scores)}
    if encoder_outputs is None:
        needed["context_input_ids"] = _shape(context_input_ids)
        needed["context_attention_mask"] = _shape(context_attention_mask)
    checks.needed("it, or a retriever that finds passages", **needed)
    return Found(doc_scores, context_input_ids, context_attention_mask)


def _of_passages(logits: Any, n_docs: int) -> Any:
    """`(batch * D, ...)` -> `(batch, D, ...)`, in float32."""
    return tf.reshape(tf.cast(logits, tf.float32), (-1, n_docs, *dims(logits)[1:]))


def _log_probabilities(logits: Any, labels: Any) -> Any:
    """Log probabilities of labels, a table of the vocabulary's size neither made nor kept.

    Args:
        logits: `(batch, D, sequence, vocab)`.
        labels: `(batch, 1, sequence)`.
    Returns:
        `(batch, D, sequence)`.
    """
    labels = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _marginal(logits: Any, passages: Any) -> Any:
    """Log probabilities, summed over passages.

    Args:
        logits: `(batch * D, ..., vocab)`.
        passages: `(batch, D)`, log probabilities.
    Returns:
        `(batch, ..., vocab)`.
    """
    each = tf.nn.log_softmax(_of_passages(logits, passages.shape[1]))
    return tf.reduce_logsumexp(each + passages[..., None, None], axis=1)

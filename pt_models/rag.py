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

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import checks, pretrained
from zoo.configs import RagConfig
from zoo.generation import GenerationConfig
from zoo.outputs import ModelOutput, RetrievAugLMMarginOutput, RetrievAugLMOutput
from zoo.retrieval import answers as in_words
from zoo.retrieval.answers import RagAnswer, Weighed
from zoo.retrieval.realm import check_questions
from zoo.stages import stage

from .attention import Buffer
from .auto import AutoModel, AutoModelForSeq2SeqLM
from .bert import Cache
from .generation import GenerationMixin, Prompt, StepOutput, TreeDecoder
from .losses import IGNORED
from .modeling import PreTrainedModel, default

SCORED_BYTES = 2**27  # of logits that a step of RAG-Sequence's decoding makes


class RagPreTrainedModel(PreTrainedModel):
    """What the three models share: parts, and who is asked for what.

    Args:
        config: the configuration; by default made of those of the parts.
        question_encoder: gives questions their vectors; by default a new one.
        generator: an encoder with a decoder and a language-model head; by default a new one.
        retriever: finds passages, see `zoo.retrieval.RagRetriever`; None where they are given.
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

    def set_context_encoder_for_training(self, ctx_encoder: PreTrainedModel) -> None:
        """From now on the passages that were found are encoded anew, so that it learns too.

        Args:
            ctx_encoder: such as `DPRContextEncoder`; the retriever needs its tokenizer, see
                `RagRetriever.set_ctx_encoder_tokenizer`.
        """
        self.base_model.context_encoder_training = True
        self.base_model.ctx_encoder = ctx_encoder

    def _parts(self) -> dict[str, PreTrainedModel]:
        base = self.base_model
        parts = {"question_encoder": base.question_encoder, "generator": base.generator}
        ctx_encoder = getattr(base, "ctx_encoder", None)
        return parts if ctx_encoder is None else {**parts, "ctx_encoder": ctx_encoder}

    def _init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """As in the part that has it."""
        for part in self._parts().values():
            if any(inner is module for inner in part.modules()):
                part._init_parameter(module, name, parameter)

    def get_encoder(self) -> nn.Module:
        return self.generator.get_encoder()

    def get_decoder(self) -> nn.Module:
        return self.generator.get_decoder()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.generator.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.generator.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear | None:
        return self.generator.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.generator.set_output_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Gives the generator's vocabulary another size."""
        embeddings = self.generator.resize_token_embeddings(new_num_tokens, pad_to_multiple_of)
        if self.config.vocab_size is not None:
            self.config.vocab_size = self.generator.config.vocab_size
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
        models = []
        for part, auto in (("question_encoder", AutoModel), ("generator", AutoModelForSeq2SeqLM)):
            model = of_part[part].pop("model", None)
            models.append(model or auto.from_pretrained(places[part], **of_part[part]))
        if config is None:
            config = RagConfig.from_question_encoder_generator_configs(
                *(model.config for model in models), **fields
            )
        elif fields:
            config = type(config).from_dict(config.to_dict(), **fields)
        return cls(config, *models, retriever=retriever).eval()

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

    doc_scores: Tensor
    context_input_ids: Tensor | None
    context_attention_mask: Tensor | None
    embeds: Tensor | None = None
    ids: Tensor | None = None
    vectors: Tensor | None = None
    question: ModelOutput | None = None
    states: Tensor | None = None

    def unpadded(self) -> Found:
        """Without the last places that are padding in all rows: nothing attends to them."""
        ids, mask = self.context_input_ids, self.context_attention_mask
        if mask is None or not bool(mask.any(1).all()):
            return self  # a row of nothing but padding attends to all of it
        length = int(mask.any(0).nonzero().max()) + 1
        return self._replace(
            context_input_ids=ids[:, :length], context_attention_mask=mask[:, :length]
        )


class RagModel(RagPreTrainedModel):
    """The question encoder, the retriever and the generator; logits are those of each passage."""

    def __init__(
        self,
        config: RagConfig | None = None,
        question_encoder: PreTrainedModel | None = None,
        generator: PreTrainedModel | None = None,
        retriever: Any = None,
    ) -> None:
        config = _config(config, question_encoder, generator)
        super().__init__(config)
        if question_encoder is None:
            question_encoder = AutoModel.from_config(config.question_encoder)
        if generator is None:
            generator = AutoModelForSeq2SeqLM.from_config(config.generator)
        checks.rag_parts(question_encoder, generator)
        self.question_encoder, self.generator = question_encoder, generator
        # One object each: what is changed in a part is changed in the whole.
        config.question_encoder, config.generator = question_encoder.config, generator.config
        self.retriever = retriever
        self.ctx_encoder: PreTrainedModel | None = None
        self.context_encoder_training = False
        self.tie_weights()

    def find(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        n_docs: int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Found:
        """Looks passages up with the retriever.

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
        )
        vectors = _vectors(question)
        found = self.retriever(
            input_ids.cpu().numpy(),
            vectors.detach().float().cpu().numpy(),
            prefix=self.generator.config.prefix,
            n_docs=n_docs,
            return_tensors="pt",
        )
        device = vectors.device
        if self.context_encoder_training:
            checks.tokenized_passages(found)
            passages = self.ctx_encoder(
                found["tokenized_doc_ids"].to(device),
                found["tokenized_doc_attention_mask"].to(device),
                return_dict=True,
            )
            embeds = _vectors(passages).unflatten(0, (-1, n_docs))
        else:
            embeds = found["retrieved_doc_embeds"].to(vectors)
        # Section 2.2: p(z|x) is proportional to the exponential of the inner product.
        scores = torch.einsum("bh,bdh->bd", vectors, embeds)
        return Found(
            scores,
            found["context_input_ids"].to(device),
            found["context_attention_mask"].to(device),
            embeds,
            found["doc_ids"].to(device),
            vectors,
            question,
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        doc_scores: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
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
                token_type_ids,
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
            None if x is None else x.repeat_interleave(n_docs, dim=0)
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


class RagForGeneration(RagPreTrainedModel):
    """What the two models with a loss share.

    Args:
        config, question_encoder, generator, retriever: as `RagModel` takes them.
    """

    def __init__(
        self,
        config: RagConfig | None = None,
        question_encoder: PreTrainedModel | None = None,
        generator: PreTrainedModel | None = None,
        retriever: Any = None,
    ) -> None:
        config = _config(config, question_encoder, generator)
        super().__init__(config)
        self.rag = RagModel(config, question_encoder, generator, retriever)

    @property
    def question_encoder(self) -> PreTrainedModel:
        return self.rag.question_encoder

    @property
    def generator(self) -> PreTrainedModel:
        return self.rag.generator

    @property
    def retriever(self) -> Any:
        return self.rag.retriever

    def _read_by_decoder(
        self, labels: Tensor | None, decoder_input_ids: Tensor | None, use_cache: bool | None
    ) -> tuple[Tensor | None, bool | None]:
        """What the decoder reads, and whether it returns a cache."""
        if labels is None:
            return decoder_input_ids, use_cache
        if decoder_input_ids is not None:
            checks.assert_shape("labels", labels.shape, decoder_input_ids.shape)
        else:
            decoder_input_ids = labels.masked_fill(labels == IGNORED, self._padding())
        return decoder_input_ids, False

    def _targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be predicted at each position, and where that counts, `(batch, sequence)`.

        Labels are what the decoder reads, so it predicts those that follow.
        """
        pad = self._padding()
        following = functional.pad(labels[:, 1:], (0, 1), value=pad)
        counts = (following != pad) & (following != IGNORED)
        return following.masked_fill(~counts, 0), counts

    def _output(
        self, loss: Tensor | None, found: RetrievAugLMOutput, return_dict: bool | None
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        output = RetrievAugLMMarginOutput(loss=loss, **found)
        return self._returned(output, return_dict)

    def _find(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        context_input_ids: Tensor | None,
        context_attention_mask: Tensor | None,
        doc_scores: Tensor | None,
        n_docs: int,
        token_type_ids: Tensor | None = None,
    ) -> Found:
        """The passages to generate from, looked up where they are not given."""
        if context_input_ids is None and self.retriever is not None:
            checks.needed("questions to find passages for", input_ids=_shape(input_ids))
            found = self.rag.find(input_ids, attention_mask, n_docs, token_type_ids=token_type_ids)
        else:
            if context_attention_mask is None and context_input_ids is not None:
                pad = self._padding()
                context_attention_mask = (context_input_ids != pad).long()
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
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.inference_mode():
                return [
                    answers
                    for start in range(0, len(questions), batch_size)
                    for answers in self._answer(
                        list(questions[start : start + batch_size]), n_best, n_docs, options
                    )
                ]
        finally:  # parts may have been in evaluation before
            for module in training:
                module.training = True

    def _answer(
        self, questions: list[str], n_best: int, n_docs: int, options: Mapping[str, Any]
    ) -> list[list[RagAnswer]]:
        retriever, encoder = self.retriever, self.question_encoder
        tokens = retriever.tokenize_questions(questions, encoder.config.max_position_embeddings)
        with stage("encode"):
            asked = [torch.from_numpy(x).to(self.device) for x in tokens.values()]
            found = self._find(*asked, None, None, None, n_docs)
        with stage("generate"):
            found = self._read(found)
            sequences = self._candidates(found, n_best, options).unflatten(0, (len(questions), -1))
        decode, answers = retriever.generator_tokenizer.batch_decode, []
        for row, candidates in enumerate(sequences):
            with stage("weigh"):
                texts = decode(candidates.tolist(), skip_special_tokens=True)
                chosen = candidates[in_words.different(texts, n_best)]
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
                        found.ids[row].cpu().numpy(),
                        found.doc_scores[row].float().cpu().numpy(),
                        Weighed(*(None if x is None else x.cpu().numpy() for x in weighed)),
                    )
                )
        return answers

    def _read(self, found: Found) -> Found:
        """With the states of the generator's encoder."""
        found = found.unpadded()
        ids, mask = found.context_input_ids, found.context_attention_mask
        encoded = self.generator._encode({"input_ids": ids, "attention_mask": mask}, {})
        return found._replace(states=encoded[0][0])

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Tensor:
        """Answers `(batch * any, length)`, best first, some of them maybe alike."""
        raise NotImplementedError

    def _weigh(self, answers: Tensor, found: Found) -> Weighed:
        """Probabilities of answers `(batch, answers, length)`, and what passages share in them.

        Args:
            answers: to each question.
            found: what they were made from, read by the encoder.
        """
        batch, count, _ = answers.shape
        n_docs, bos = found.doc_scores.shape[1], self._token("bos_token_id")

        def each(x: Tensor) -> Tensor:
            """The same for all answers to a question."""
            return x.unflatten(0, (batch, -1)).repeat_interleave(count, 0).flatten(0, 1)

        mask, answers = found.context_attention_mask, answers.flatten(0, 1)
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
            counts[:, 0] &= labels[:, 0] != bos
        # (batch * answers, D, length)
        logits = output.logits.float().unflatten(0, (-1, n_docs))
        tokens = _log_probabilities(logits, labels[:, None])
        passages = output.doc_scores.float().log_softmax(-1)
        found_all = (*self._shares(tokens, passages, counts), labels, counts)
        return Weighed(*(None if x is None else x.unflatten(0, (batch, -1)) for x in found_all))

    def _shares(
        self, tokens: Tensor, passages: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scores and shares of `Weighed`, of a flat batch of answers.

        Args:
            tokens: `(answers, D, length)`, log probabilities.
            passages: `(answers, D)`, the same.
            counts: `(answers, length)`, whether a token is part of the answer.
        """
        raise NotImplementedError


class RagSequenceForGeneration(RagForGeneration):
    """RAG-Sequence: an answer's probability is summed over passages as a whole."""

    def get_nll(
        self,
        seq_logits: Tensor,
        doc_scores: Tensor,
        target: Tensor,
        reduce_loss: bool = False,
        epsilon: float = 0.0,
        exclude_bos_score: bool = False,
        n_docs: int | None = None,
    ) -> Tensor:
        """Minus the log probability of answers (section 2.1, RAG-Sequence).

        Args:
            seq_logits: `(batch * D, sequence, vocab)`, of each passage.
            doc_scores: `(batch, D)`.
            target: `(batch, sequence)`, what the decoder read.
            reduce_loss: whether to sum over the batch.
            epsilon: label smoothing.
            exclude_bos_score: whether a first token that is the bos token does not count (but in
                the smoothing, as published). Every row is looked at by itself.
            n_docs: D.
        Returns:
            `(batch,)`, or a scalar if reduced.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        labels, counts = self._targets(target)
        # (batch, D, sequence, vocab)
        logits = seq_logits.float().unflatten(0, (-1, n_docs))
        tokens = _log_probabilities(logits, labels[:, None])
        sums = logits.log_softmax(-1).sum(-1) if epsilon else None
        loss = self._loss(
            tokens, sums, doc_scores, labels, counts, epsilon, exclude_bos_score, logits.shape[-1]
        )
        return loss.sum() if reduce_loss else loss

    def _loss(
        self,
        tokens: Tensor,
        sums: Tensor | None,
        doc_scores: Tensor,
        labels: Tensor,
        counts: Tensor,
        epsilon: float,
        exclude_bos_score: bool,
        vocab: int,
    ) -> Tensor:
        """`get_nll` of what is known of answers with each passage, `(batch,)`.

        Args:
            tokens: `(batch, D, sequence)`, log probabilities of the labels.
            sums: the same of the whole vocabulary, summed; needed for smoothing.
            doc_scores: `(batch or 1, D)`.
            labels, counts: `(batch, sequence)`.
            epsilon, exclude_bos_score: as `get_nll` takes them.
            vocab: size of the vocabulary.
        """
        passages = doc_scores.float().log_softmax(-1)
        # As published the passage's probability comes in with the second token.
        enters = functional.pad(counts, (0, 1))[:, 1:2].float()
        bos = self._token("bos_token_id")
        scored = counts
        if exclude_bos_score and bos is not None:
            is_bos = (labels[:, 0] == bos) & counts[:, 0]
            scored = counts & ~functional.pad(is_bos[:, None], (0, counts.shape[1] - 1))
        found = (tokens * scored[:, None]).sum(2) + passages * enters
        loss = -found.logsumexp(1)
        if sums is not None:
            each = (sums * counts[:, None]).sum(2)
            smooth = -(each + vocab * passages * enters).logsumexp(1)
            loss = (1.0 - epsilon) * loss + epsilon / vocab * smooth
        return loss

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        exclude_bos_score: bool | None = None,
        reduce_loss: bool | None = None,
        labels: Tensor | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        """As `RagModel`, and:

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
            token_type_ids=token_type_ids,
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

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        do_deduplication: bool | None = None,
        num_return_sequences: int | None = None,
        num_beams: int | None = None,
        n_docs: int | None = None,
        token_type_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> Tensor:
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
        answers: list[Tensor] = []
        deduplicates = default(do_deduplication, config.do_deduplication)
        # (batch, D * beams, length)
        for row, candidates in enumerate(sequences.unflatten(0, (-1, n_docs * beams))):
            if deduplicates:
                unique = dict.fromkeys(map(tuple, candidates.tolist()))
                candidates = candidates.new_tensor(list(unique))
            checks.enough_answers(returned, len(candidates), row)
            passages = slice(row * n_docs, (row + 1) * n_docs)
            of_row = {
                name: x[passages] if isinstance(x, Tensor) and "head_mask" not in name else x
                for name, x in encoded.items()
            }
            losses = self._answer_losses(candidates, of_row, found.doc_scores[row : row + 1])
            best = losses.sort(stable=True).indices[:returned]
            answers.append(candidates[best])
        return torch.cat(answers)

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Tensor:
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

    def _shares(
        self, tokens: Tensor, passages: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        whole = tokens.masked_fill(~counts[:, None], 0.0).sum(-1) + passages
        return whole.logsumexp(-1), whole.softmax(-1), None

    def _answer_losses(
        self, candidates: Tensor, encoded: Mapping[str, Any], scores: Tensor
    ) -> Tensor:
        """`(candidates,)`, of answers `(candidates, length)` to one question.

        The decoder reads a tree, in which what answers begin with together is there once.
        """
        generator, n_docs = self.generator, scores.shape[1]
        labels, counts = self._targets(candidates)
        tree = PrefixTree.of(candidates, counts)
        size = len(tree.places)
        smoothing = self.config.label_smoothing
        shape = (n_docs, *candidates.shape)
        tokens = sums = torch.zeros(shape, device=candidates.device)
        caches: Any = None
        start, stop = 0, 1  # the first node alone begins the caches
        while start < size:
            past = caches and tuple(
                (Buffer(key, start, tree.places), Buffer(value, start, tree.places), *cross)
                for key, value, *cross in caches
            )
            decoded = generator._decode(
                tree.tokens[start:stop].expand(n_docs, -1),
                tree.visible[None, start:stop, :stop].float(),
                tree.places[None, start:stop],
                past,
                encoded,
            )
            if caches is None:
                caches = [
                    (*(Buffer.room(states, size) for states in cache[:2]), *cache[2:])
                    for cache in decoded.past_key_values
                ]
            here = (tree.nodes >= start) & (tree.nodes < stop)
            node = (tree.nodes - start).clamp(0, stop - start - 1)
            logits = decoded.logits.float()  # (D, nodes, vocab)
            of_label = logits[:, node, labels] - logits.logsumexp(-1)[:, node]
            tokens = torch.where(here, of_label, tokens)
            if smoothing:
                sums = torch.where(here, logits.log_softmax(-1).sum(-1)[:, node], sums)
            at_once = max(1, SCORED_BYTES // (4 * n_docs * logits.shape[-1]))
            start, stop = stop, min(stop + at_once, size)
        bos = self._token("bos_token_id")
        return self._loss(
            tokens.transpose(0, 1),
            sums.transpose(0, 1) if smoothing else None,
            scores,
            labels,
            counts,
            smoothing,
            bos is not None and bool((candidates[:, 1] == bos).all()),
            logits.shape[-1],
        )


class PrefixTree(NamedTuple):
    """Texts as one, in which what several begin with is there once.

    Args:
        tokens: `(nodes,)`.
        places: `(nodes,)`; where in its text each comes.
        visible: `(nodes, nodes)`; whether a node sees another: what is before it, and itself.
        nodes: `(texts, length)`; the node at each place of a text.
    """

    tokens: Tensor
    places: Tensor
    visible: Tensor
    nodes: Tensor

    @classmethod
    def of(cls, texts: Tensor, counts: Tensor) -> PrefixTree:
        """The tree of texts `(texts, length)`, as far as predictions from there on count."""
        count, length = texts.shape
        number = torch.arange(count, device=texts.device)
        # (texts, texts, length): whether two begin with the same so far.
        same = (texts[:, None] == texts[None]).long().cumprod(2).bool()
        # (texts, length): the first text that begins so, which has the node for all.
        owner = torch.where(same, number[None, :, None], count).amin(1)
        needed = counts.flip(1).long().cumsum(1).flip(1) > 0
        needed[:, 0] = True
        kept = (owner == number[:, None]) & (same & needed[None]).any(1)
        rows, places = kept.nonzero(as_tuple=True)
        visible = (owner[rows][:, places] == rows) & (places <= places[:, None])
        every = kept.flatten().cumsum(0).view(count, length) - 1
        return cls(texts[rows, places], places, visible, every.gather(0, owner))


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
        generator: GenerationMixin,
        prompt: Prompt,
        beams: int,
        steps: int,
        encoded: Mapping[str, Any],
        flags: Mapping[str, bool],
    ) -> None:
        encoded = dict(encoded)
        self.passages = encoded.pop("doc_scores").float().log_softmax(-1)
        self.n_docs = self.passages.shape[1]
        super().__init__(generator, Prompt(*map(self._each, prompt)), beams, steps, encoded, flags)

    def _each(self, x: Tensor | None) -> Tensor | None:
        """The same for all passages of a question."""
        return None if x is None else x.repeat_interleave(self.n_docs, 0)

    def _summed(self, output: StepOutput) -> StepOutput:
        """Log probabilities `(batch, beams, vocab)` in the place of logits of each passage."""
        return output._replace(logits=_marginal(output.logits, self.passages))

    def start(self) -> StepOutput:
        return self._summed(super().start())

    def step(self, tokens: Tensor, parents: Tensor | None) -> StepOutput:
        return self._summed(super().step(self._each(tokens), self._each(parents)))

    def keep(self, rows: Tensor) -> None:
        self.passages = self.passages[rows]
        each = torch.arange(self.n_docs, device=rows.device)
        super().keep((rows[:, None] * self.n_docs + each).flatten())


class RagTokenForGeneration(GenerationMixin, RagForGeneration):
    """RAG-Token: the probability of each token of an answer is summed over passages."""

    def marginalize(
        self, seq_logits: Tensor, doc_scores: Tensor, n_docs: int | None = None
    ) -> Tensor:
        """Log probabilities of tokens (section 2.1, RAG-Token).

        Args:
            seq_logits: `(batch * D, sequence, vocab)`, of each passage.
            doc_scores: `(batch, D)`.
            n_docs: D.
        Returns:
            `(batch, sequence, vocab)`.
        """
        return _marginal(seq_logits, doc_scores.float().log_softmax(-1))

    def get_nll(
        self,
        seq_logits: Tensor,
        doc_scores: Tensor,
        target: Tensor,
        reduce_loss: bool = False,
        epsilon: float = 0.0,
        n_docs: int | None = None,
    ) -> Tensor:
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
        logits = seq_logits.float().unflatten(0, (-1, n_docs))
        passages = doc_scores.float().log_softmax(-1)
        tokens = (_log_probabilities(logits, labels[:, None]) + passages[..., None]).logsumexp(1)
        loss = -(tokens * counts).sum(1)
        if epsilon:
            smooth = -(_marginal(seq_logits, passages).sum(-1) * counts).sum(1)
            loss = (1.0 - epsilon) * loss + epsilon / logits.shape[-1] * smooth
        return loss.sum() if reduce_loss else loss

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | tuple[Any, ...] | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[Cache, ...] | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_retrieved: bool | None = None,
        do_marginalize: bool | None = None,
        reduce_loss: bool | None = None,
        labels: Tensor | None = None,
        n_docs: int | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> RetrievAugLMMarginOutput | tuple[Any, ...]:
        """As `RagModel`, and:

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
            token_type_ids=token_type_ids,
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
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        n_docs: int | None = None,
        generation_config: GenerationConfig | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], Any] | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        token_type_ids: Tensor | None = None,
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
                kwargs: as `GenerationMixin.generate` takes them.
        Returns:
            As `GenerationMixin.generate`; attentions and states have a row for each passage.
        """
        n_docs = self.config.n_docs if n_docs is None else n_docs
        with torch.no_grad():
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

    def _candidates(self, found: Found, n_best: int, options: Mapping[str, Any]) -> Tensor:
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

    def _shares(
        self, tokens: Tensor, passages: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        joint = tokens + passages[..., None]
        scores = joint.logsumexp(1).masked_fill(~counts, 0.0).sum(-1)
        per_token = joint.softmax(1)
        inside = counts[:, None]
        mean = (per_token * inside).sum(-1) / inside.sum(-1).clamp(min=1)
        return scores, torch.where(inside.any(-1), mean, passages.exp()), per_token

    # For the engine every passage is a row of the encoder's batch, and every question one of the
    # decoder's.

    def _generation_inputs(self) -> tuple[str, ...]:
        return (
            "attention_mask", "doc_scores", "encoder_outputs", "decoder_input_ids",
            "decoder_attention_mask",
        )  # fmt: skip

    def _max_positions(self) -> int | None:
        return self.generator._max_positions()

    def _with_encoder(
        self, config: GenerationConfig, given: dict[str, Any], flags: Mapping[str, bool]
    ) -> tuple[Tensor | None, Any, dict[str, Any], Prompt]:
        n_docs = given["doc_scores"].shape[1]
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            if isinstance(given.get(name), Tensor):
                given[name] = given[name].repeat_interleave(n_docs, 0)
        source, output, encoded, prompt = super()._with_encoder(config, given, flags)
        if source is not None:
            source = source.unflatten(0, (-1, n_docs)).flatten(1)
        of_questions = (None if x is None else x[::n_docs] for x in prompt)
        return source, output, encoded, Prompt(*of_questions)

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
        steps: int,
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


def _shape(x: Tensor | None) -> torch.Size | None:
    return None if x is None else x.shape


def _vectors(output: ModelOutput) -> Tensor:
    """The vector of each text: what is pooled, or the first token's last state."""
    pooled = output.get("pooler_output")
    return output[0][:, 0] if pooled is None else pooled


def _given(
    doc_scores: Tensor | None,
    context_input_ids: Tensor | None,
    context_attention_mask: Tensor | None,
    encoder_outputs: Any,
) -> Found:
    """Passages that the caller gave."""
    needed = {"doc_scores": _shape(doc_scores)}
    if encoder_outputs is None:
        needed["context_input_ids"] = _shape(context_input_ids)
        needed["context_attention_mask"] = _shape(context_attention_mask)
    checks.needed("it, or a retriever that finds passages", **needed)
    return Found(doc_scores, context_input_ids, context_attention_mask)


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probabilities of labels, a table of the vocabulary's size neither made nor kept.

    Args:
        logits: `(batch, D, sequence, vocab)`.
        labels: `(batch, 1, sequence)`.
    Returns:
        `(batch, D, sequence)`.
    """
    labels = labels.expand(logits.shape[:-1])
    losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


def _marginal(logits: Tensor, passages: Tensor) -> Tensor:
    """Log probabilities, summed over passages.

    Args:
        logits: `(batch * D, ..., vocab)`.
        passages: `(batch, D)`, log probabilities.
    Returns:
        `(batch, ..., vocab)`.
    """
    each = logits.float().log_softmax(-1).unflatten(0, passages.shape)
    return (each + passages[..., None, None]).logsumexp(1)

"""How RAG is trained: its two encoders on pairs, its generator on passages, then all end to end.

Papers: Karpukhin et al. 2020 (DPR), section 3.2, of the encoders; Lewis et al. 2020 (RAG), section
2.4, of question encoder and generator through the marginal likelihood; Guu et al. 2020 (REALM),
section 3.3, of the index that is made anew while the passages' encoder learns too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.training.batches import Batches, InverseCloze, check_positions
from zoo.training.copying import copying_weights, fits
from zoo.training.corpus import BlockCorpus
from zoo.training.plan import Plan
from zoo.training.rag import (
    Denoising,
    Example,
    FoundPassages,
    Gaps,
    Mixed,
    Pairs,
    RagQuestions,
    Reading,
    check_trained,
)
from zoo.training.refresh import Refresher

from .dpr import TFDPRContextEncoder, TFDPRQuestionEncoder
from .matching import INPUTS, embed_corpus, embed_questions, flatten_start, match, vectors_of
from .modeling import TFPreTrainedModel, named_weights
from .rag import TFRagSequenceForGeneration, TFRagTokenForGeneration
from .realm_training import EMBEDDER, train_inverse_cloze
from .training import IndexRefresh, Report, Step, train, worker_number

__all__ = [
    "PairsStep",
    "RagStep",
    "ReadingStep",
    "copy_encoder",
    "embed_corpus",
    "embed_questions",
    "finetune",
    "start_flat",
    "start_generator",
    "train_denoising",
    "train_gaps",
    "train_inverse_cloze",
    "train_pairs",
    "train_reader",
]

# Differs: TensorFlow is told beforehand what comes back from Python.
_FOUND = {
    "context_input_ids": tf.int32, "context_attention_mask": tf.int32, "right": tf.float32,
}  # fmt: skip
_ENCODED = {f"candidate_{name}": tf.int32 for name in INPUTS}


class PairsStep(Step):
    """Each question is to find its passage among those of the batch (DPR, section 3.2).

    Args:
        question_encoder: of questions.
        context_encoder: of passages.
    """

    def __init__(
        self, question_encoder: TFPreTrainedModel, context_encoder: TFPreTrainedModel
    ) -> None:
        super().__init__({"question_encoder": question_encoder, "context_encoder": context_encoder})

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `Pairs` or `InverseCloze`.
            training: whether dropout is on.

        Returns:
            `loss` and `accuracy`, the share of questions whose passage is found first.
        """
        questions = vectors_of(self.question_encoder, batch, training=training)
        passages = vectors_of(self.context_encoder, batch, "candidate_", training=training)
        return match(questions, passages, batch["rows"])


class ReadingStep(Step):
    """The answer to a question is written with the passage that holds it in sight.

    Args:
        generator: an encoder with a decoder and a language-model head.
    """

    def __init__(self, generator: TFPreTrainedModel) -> None:
        super().__init__({"generator": generator})

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `Reading`, `Gaps` or `Denoising`.
            training: whether dropout is on.

        Returns:
            `loss`, minus the log likelihood of a token; `accuracy` of the likeliest token;
            `exact`, the share of answers all of whose tokens are the likeliest.
        """
        labels, weights = batch["labels"], batch["label_weights"][:, 1:]
        logits = self.generator(
            batch["input_ids"], batch["attention_mask"], decoder_input_ids=labels[:, :-1],
            use_cache=False, return_dict=True, training=training,
        ).logits  # fmt: skip
        logits, targets = tf.cast(logits, tf.float32), labels[:, 1:]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        right = tf.equal(tf.argmax(logits, -1, targets.dtype), targets)
        exact = tf.reduce_all(right | tf.equal(weights, 0.0), 1)
        return {
            "loss": tf.reduce_mean(tf.reduce_sum(losses * weights, 1)),
            "accuracy": tf.reduce_mean(tf.reduce_sum(tf.cast(right, tf.float32) * weights, 1)),
            "exact": tf.reduce_mean(tf.cast(exact, tf.float32)),
        }


class RagStep(Step):
    """Questions are answered out of the passages that are found for them (RAG, section 2.4).

    The answer's likelihood is summed over passages, so that question encoder and generator learn
    from the answers alone; what is found is searched for inside the step.

    Args:
        model: with question encoder and generator.
        passages: finds them.
        context_encoder: of the passages, to train it too; `passages` then gives their tokens.
    """

    def __init__(
        self,
        model: TFRagSequenceForGeneration | TFRagTokenForGeneration,
        passages: FoundPassages,
        context_encoder: TFPreTrainedModel | None = None,
    ) -> None:
        models = {"question_encoder": model.question_encoder, "generator": model.generator}
        if context_encoder is not None:
            models["context_encoder"] = context_encoder
        super().__init__(models)
        self.model, self.passages = model, passages

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `RagQuestions`.
            training: whether dropout is on.

        Returns:
            `loss`, minus the log likelihood of an answer, the mean over questions; `retrieved`,
            the share of questions with an answer in a passage that was found; `first`, in the
            first one; `right`, the probability of passages that hold an answer.
        """
        vectors = vectors_of(self.question_encoder, batch, training=training)
        found = self._found(vectors, batch)
        if "context_encoder" in self.models:
            embeds = vectors_of(self.context_encoder, found, "candidate_", training)
            embeds = tf.reshape(embeds, (-1, self.passages.count, embeds.shape[-1]))
        else:
            embeds = found["embeds"]
        # Section 2.2: p(z|x) is proportional to the exponential of the inner product.
        scores = tf.einsum("bh,bdh->bd", vectors, embeds)
        losses = self.model(
            context_input_ids=found["context_input_ids"],
            context_attention_mask=found["context_attention_mask"],
            doc_scores=scores, labels=batch["labels"], n_docs=self.passages.count,
            reduce_loss=False, return_dict=True, training=training,
        ).loss  # fmt: skip
        right, priors = found["right"], tf.nn.softmax(scores)
        return {
            "loss": tf.reduce_mean(losses),
            "retrieved": tf.reduce_mean(tf.reduce_max(right, 1)),
            "first": tf.reduce_mean(right[:, 0]),
            "right": tf.reduce_mean(tf.reduce_sum(right * priors, 1)),
        }

    def _found(self, vectors: tf.Tensor, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The passages that the index finds, which no gradient flows through."""
        encoded = "context_encoder" in self.models
        kinds = _FOUND | (_ENCODED if encoded else {"embeds": tf.float32})

        def find(*arrays: np.ndarray) -> list[np.ndarray]:
            found = self.passages(*arrays)
            return [found[name] for name in kinds]

        given = [tf.stop_gradient(vectors), *(batch[n] for n in ("input_ids", "questions"))]
        arrays = tf.numpy_function(find, given, list(kinds.values()))
        rows, count = batch["input_ids"].shape[0], self.passages.count
        flat = (None if rows is None else rows * count, None)
        shapes = {"right": (rows, count), "embeds": (rows, count, vectors.shape[-1])}
        return {
            name: tf.ensure_shape(array, shapes.get(name, flat))
            for name, array in zip(kinds, arrays, strict=True)
        }


def start_flat(*models: TFDPRQuestionEncoder | TFDPRContextEncoder) -> None:
    """Lets new encoders begin as if words had no order and all types were one.

    See `flatten_start`.

    Args:
        models: whose weights are new.
    """
    for model in models:
        bert = getattr(model, model.part).bert_model
        norm = bert.encoder.layer[-1].output_.LayerNorm.gamma
        flatten_start(bert.embeddings, None if model.config.projection_dim else norm)


def start_generator(model: TFPreTrainedModel, seed: int = 0) -> None:
    """Lets a new BART begin with weights from which it soon learns to copy.

    See `zoo.training.copying`. Other models, and those without room for such weights, stay as they
    are.

    Args:
        model: whose weights are new.
        seed: of the weights; they are the same in both frameworks.
    """
    if not fits(model.config):
        return
    weights = dict(named_weights(model))
    shapes = {name: weight.shape for name, weight in weights.items()}
    for name, values in copying_weights(model.config, shapes, seed).items():
        weight = weights[name]
        weight.variable.assign(values.T if weight.transposed else values)


def copy_encoder(source: TFDPRContextEncoder, target: TFDPRQuestionEncoder) -> None:
    """Gives a question encoder the weights of a context encoder.

    Args:
        source: the one.
        target: the other, of the same size.
    """
    given = dict(named_weights(source))
    for name, weight in named_weights(target):
        renamed = source.part + name.removeprefix(target.part)
        weight.variable.assign(given[renamed].variable)


def train_pairs(
    question_encoder: TFPreTrainedModel,
    context_encoder: TFPreTrainedModel,
    found: Sequence[Example],
    corpus: BlockCorpus,
    tokenizer: Any,
    steps: int,
    *,
    batch_size: int = 64,
    query_length: int = 64,
    block_length: int = 288,
    cloze: int = 0,
    keep: float = 0.1,
    drop: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains two encoders to find the passages that answer questions.

    Args:
        question_encoder, context_encoder: trained where they are.
        found: questions with their passages, see `zoo.training.rag.examples`.
        corpus: of the passages.
        tokenizer: of the questions, that the corpus was made with.
        steps: updates in all.
        batch_size, query_length, block_length: see `Pairs`.
        cloze: batches of the inverse cloze task for each one of pairs, so that what only the
            corpus says is not forgotten.
        keep, drop: see `InverseCloze`.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.

    Raises:
        CorpusError: a corpus that was made with another tokenizer.
    """
    settings = Plan(steps, **plan)
    corpus.check_tokenizer(tokenizer)
    check_positions(question_encoder.config, query_length=query_length)
    check_positions(context_encoder.config, block_length=block_length)
    sizes = {"query_length": query_length, "block_length": block_length, "seed": settings.seed}
    batches: Any = Pairs(found, corpus, tokenizer, batch_size, **sizes)
    if cloze:
        made = InverseCloze(corpus, batch_size, keep=keep, drop=drop, **sizes)
        parts: list[Batches] = [batches, made]
        batches = Mixed(parts, [1, cloze])
    return train(
        PairsStep(question_encoder, context_encoder), batches, settings, out=out, resume=resume,
        settings={"batches": batches.settings()}, tokenizer=tokenizer, report=report,
    )  # fmt: skip


def _train_generator(
    generator: TFPreTrainedModel,
    batches: Any,
    settings: Plan,
    retriever: Any,
    out: str | os.PathLike[str] | None,
    resume: bool,
    report: Report | None,
) -> list[dict[str, Any]]:
    """Trains a generator alone; see `train`."""
    return train(
        ReadingStep(generator), batches, settings, out=out, resume=resume,
        settings={"batches": batches.settings()}, tokenizer=retriever.generator_tokenizer,
        report=report,
    )  # fmt: skip


def train_reader(
    generator: TFPreTrainedModel,
    found: Sequence[Example],
    retriever: Any,
    steps: int,
    *,
    batch_size: int = 32,
    answer_length: int = 32,
    widen: int = 0,
    corpus: BlockCorpus | None = None,
    gaps: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains a generator to answer questions out of passages that it is given.

    Args:
        generator: trained where it is.
        found: questions with their passages, see `zoo.training.rag.examples`; also sentences with
            a gap, see `zoo.training.questions.made_questions`.
        retriever: joins both, and looks passages up by row.
        steps: updates in all.
        batch_size, answer_length, widen: see `Reading`.
        corpus: of the passages; needed with `gaps`.
        gaps: batches of `Gaps` for each one of questions, so that a few questions are not learned
            by heart.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.
    """
    settings = Plan(steps, **plan)
    batches: Any = Reading(
        found, retriever, batch_size, answer_length=answer_length, widen=widen, seed=settings.seed
    )
    if gaps:
        if corpus is None:
            raise ValueError("corpus: needed to make questions of")
        made = Gaps(corpus, retriever, batch_size, seed=settings.seed)
        batches = Mixed([batches, made], [1, gaps])
    return _train_generator(generator, batches, settings, retriever, out, resume, report)


def train_gaps(
    generator: TFPreTrainedModel,
    corpus: BlockCorpus,
    retriever: Any,
    steps: int,
    *,
    batch_size: int = 32,
    copying: int = 0,
    spoil: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains a generator to read passages, by questions that are made of them.

    Args:
        generator: trained where it is.
        corpus: of the passages.
        retriever: joins both, and looks passages up by row.
        steps: updates in all.
        batch_size, copying, spoil: see `Gaps`.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.
    """
    settings = Plan(steps, **plan)
    batches = Gaps(corpus, retriever, batch_size, copying=copying, spoil=spoil, seed=settings.seed)
    return _train_generator(generator, batches, settings, retriever, out, resume, report)


def train_denoising(
    generator: TFPreTrainedModel,
    corpus: BlockCorpus,
    retriever: Any,
    steps: int,
    *,
    batch_size: int = 32,
    length: int = 64,
    hidden: float = 0.3,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains a generator to write sentences down with some of their words hidden.

    Args:
        generator: trained where it is.
        corpus: of the sentences.
        retriever: whose generator's tokenizer encodes them.
        steps: updates in all.
        batch_size, length, hidden: see `Denoising`.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.
    """
    settings = Plan(steps, **plan)
    batches = Denoising(
        corpus, retriever, batch_size, length=length, hidden=hidden, seed=settings.seed
    )
    return _train_generator(generator, batches, settings, retriever, out, resume, report)


def finetune(
    model: TFRagSequenceForGeneration | TFRagTokenForGeneration,
    questions: Sequence[Any],
    steps: int,
    *,
    context_encoder: TFPreTrainedModel | None = None,
    corpus: BlockCorpus | None = None,
    tokenizer: Any = None,
    refresh_every: int = 500,
    batch_size: int = 8,
    n_docs: int | None = None,
    query_length: int = 64,
    block_length: int = 288,
    answer_length: int = 32,
    index: Mapping[str, Any] | None = None,
    delay: int = 1,
    worker: Mapping[str, Any] | None = None,
    rates: Mapping[str, float] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains a model end to end on questions and their answers alone.

    Args:
        model: trained where it is, with its retriever.
        questions: `Question` or pairs of a text and its answers.
        steps: updates in all.
        context_encoder: trained too where it is given, here or to
            `set_context_encoder_for_training`; the index is then made anew from it by a second
            process, and passages are encoded anew in every step.
        corpus: of the passages, opened from a folder; needed with a context encoder.
        tokenizer: of the context encoder, that the corpus was made with; needed with it.
        refresh_every: steps between two versions of the index.
        batch_size, query_length, answer_length: see `RagQuestions`.
        n_docs: passages of each question; by default the configuration's.
        block_length: the most tokens of a passage for the context encoder.
        index: arguments of `build_index`.
        delay, worker: see `Refresher`; `worker` are its further arguments, such as `threads`.
        rates: what the learning rates of `question_encoder`, `generator` and `context_encoder`
            are multiplied with.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.

    Raises:
        ValueError: no retriever, or a context encoder without corpus and tokenizer.
        CorpusError: a corpus that was made with another tokenizer.
    """
    settings = Plan(steps, **plan)
    retriever = model.retriever
    if context_encoder is None:
        context_encoder = model.rag.ctx_encoder
    check_trained(retriever, context_encoder, corpus, tokenizer)
    check_positions(model.question_encoder.config, query_length=query_length)
    batches = RagQuestions(
        questions, retriever, batch_size, query_length=query_length,
        answer_length=answer_length, seed=settings.seed,
    )  # fmt: skip
    passages = FoundPassages(
        retriever, batches, n_docs, None if context_encoder is None else corpus, block_length
    )
    refresh = None
    if context_encoder is not None and corpus is not None:
        check_positions(context_encoder.config, block_length=block_length)

        def save(folder: Path) -> None:
            context_encoder.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        refresher = Refresher(
            out, corpus, refresh_every, embedder=EMBEDDER,
            options={"encoder": type(context_encoder).__name__.removeprefix("TF")},
            length=block_length, index=index, delay=delay, last_step=steps,
            leads=worker_number() == 0, **(worker or {}),
        )  # fmt: skip
        refresh = IndexRefresh(refresher, passages, save)
    kept = {"batches": batches.settings(), "passages": passages.settings()}
    return train(
        RagStep(model, passages, context_encoder), batches, settings, out=out, resume=resume,
        rates=rates, settings=kept, refresh=refresh, report=report,
    )  # fmt: skip

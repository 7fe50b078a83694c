"""The three phases in which REALM is trained: what a step of each computes, a function for each.

Papers: Lee et al. 2019 (ORQA), section 5, the inverse cloze task; Guu et al. 2020 (REALM),
sections 3.2 to 3.4, pre-training with masked spans and retrieved blocks; sections 3.3 and 4 (and
ORQA, section 4), fine-tuning on questions and answers alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.configs import RealmConfig
from zoo.training.batches import (
    Candidates,
    InverseCloze,
    MaskedSpans,
    Questions,
    check_positions,
)
from zoo.training.corpus import BlockCorpus
from zoo.training.evidence import CorpusRetriever
from zoo.training.plan import Plan
from zoo.training.refresh import Refresher

from .matching import (
    INPUTS,
    embed_corpus,
    embed_questions,
    flatten_start,
    in_groups,
    match,
    vectors_of,
)
from .modeling import named_weights
from .realm import TFRealmEmbedder, TFRealmForOpenQA, TFRealmKnowledgeAugEncoder
from .training import IndexRefresh, Report, Step, train, worker_number

__all__ = [
    "EMBEDDER",
    "InverseClozeStep",
    "PretrainingStep",
    "QuestionStep",
    "assemble",
    "embed_corpus",
    "embed_questions",
    "finetune",
    "pretrain",
    "start_flat",
    "train_inverse_cloze",
]

EMBEDDER = "tf_models.embedding:TFTextEmbedder"
# Differs: TensorFlow is told beforehand what comes back from Python.
_FOUND = {
    **{f"{kind}_{name}": tf.int32 for kind in ("candidate", "joint") for name in INPUTS},
    "penalty": tf.float32,
}


class InverseClozeStep(Step):
    """Each sentence is to find its block among those of the batch (ORQA, section 5).

    Args:
        embedder: of sentences and blocks.
    """

    def __init__(self, embedder: TFRealmEmbedder) -> None:
        super().__init__({"embedder": embedder})

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `InverseCloze`.
            training: whether dropout is on.

        Returns:
            `loss` and `accuracy`, the share of sentences whose block is found first.
        """
        queries = vectors_of(self.embedder, batch, training=training)
        blocks = vectors_of(self.embedder, batch, "candidate_", training=training)
        return match(queries, blocks, batch["rows"])


class PretrainingStep(Step):
    """Hidden spans are filled in with retrieved blocks in sight (REALM, sections 3.1 and 3.2).

    Args:
        embedder: of sentences and blocks.
        encoder: reads a sentence together with a block.
        candidates: finds the blocks of a sentence.
        train_embedder: whether the embedder is trained too.
    """

    def __init__(
        self,
        embedder: TFRealmEmbedder,
        encoder: TFRealmKnowledgeAugEncoder,
        candidates: Candidates,
        train_embedder: bool = True,
    ) -> None:
        models = {"embedder": embedder, "encoder": encoder}
        super().__init__(models if train_embedder else {"encoder": encoder})
        self.embedder, self.candidates = embedder, candidates
        self.train_embedder = train_embedder

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `MaskedSpans`.
            training: whether dropout is on.

        Returns:
            `loss`, minus the log likelihood of the hidden tokens, summed over the blocks;
            `accuracy` of the likeliest token; `gain`, by how much the retrieved blocks make the
            tokens likelier than the empty one does (REALM, section 4.4, retrieval utility);
            `empty`, the weight of the empty block.
        """
        queries = vectors_of(self.embedder, batch, training=training)
        found = self._found(queries, batch)
        blocks = vectors_of(self.embedder, found, "candidate_", training=training)
        if not self.train_embedder:
            queries, blocks = tf.stop_gradient(queries), tf.stop_gradient(blocks)
        count = self.candidates.count
        # The empty block is the last, and everyone's.
        own = tf.reshape(blocks[:-1], (-1, count - 1, blocks.shape[-1]))
        relevance = tf.concat(
            [tf.einsum("bd,bcd->bc", queries, own),
             tf.matmul(queries, blocks[-1:], transpose_b=True)], 1,
        )  # fmt: skip
        relevance += found["penalty"]

        # Only where something is hidden are words scored: (batch, candidates, masked, hidden)
        places = tf.repeat(batch["masked_positions"], count, 0)
        inputs = {name: _flat(found[f"joint_{name}"]) for name in INPUTS}
        hidden = in_groups(
            lambda inputs, places: self._hidden(inputs, places, training), inputs, places
        )
        shape = (-1, count, tf.shape(places)[1], hidden.shape[-1])
        logits = tf.cast(self.encoder.cls(tf.reshape(hidden, shape)), tf.float32)
        words = tf.nn.log_softmax(logits)
        labels, weights = batch["masked_ids"], batch["masked_weights"]
        targets = tf.repeat(labels[:, None], count, 1)
        # (batch, candidates, masked)
        likelihood = -tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        prior = tf.nn.log_softmax(relevance)
        joint = tf.reduce_logsumexp(prior[..., None] + likelihood, 1)
        loss = -tf.reduce_mean(tf.reduce_sum(joint * weights, 1))
        best = tf.argmax(
            tf.reduce_logsumexp(tf.stop_gradient(prior[..., None, None] + words), 1), -1, tf.int32
        )
        gain = tf.reduce_mean(tf.reduce_sum((joint - likelihood[:, -1]) * weights, 1))
        right = tf.cast(tf.equal(best, labels), tf.float32)
        accuracy = tf.reduce_mean(tf.reduce_sum(right * weights, 1))
        empty = tf.reduce_mean(tf.exp(prior[:, -1]))
        return {"loss": loss, "accuracy": accuracy, "gain": gain, "empty": empty}

    def _hidden(
        self, inputs: Mapping[str, tf.Tensor], places: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """The encoder's states at some places, `(rows, places, hidden)`."""
        states = self.encoder.realm(**inputs, return_dict=True, training=training)
        return tf.gather(states.last_hidden_state, places, batch_dims=1)

    def _found(self, queries: tf.Tensor, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The candidates that the index finds, which no gradient flows through."""

        def find(*arrays: np.ndarray) -> list[np.ndarray]:
            found = self.candidates(*arrays)
            return [found[name] for name in _FOUND]

        given = [tf.stop_gradient(queries), *(batch[n] for n in ("input_ids", "attention_mask"))]
        arrays = tf.numpy_function(find, [*given, batch["rows"]], list(_FOUND.values()))
        rows, count = batch["input_ids"].shape[0], self.candidates.count
        shapes = {
            "candidate": (None if rows is None else rows * (count - 1) + 1, None),
            "joint": (rows, count, None),
            "penalty": (rows, count),
        }
        return {
            name: tf.ensure_shape(array, shapes[name.split("_")[0]])
            for name, array in zip(_FOUND, arrays, strict=True)
        }


class QuestionStep(Step):
    """Questions are answered out of the blocks that are retrieved for them (REALM, section 3.3).

    Args:
        model: with its retriever, and `block_emb` or an index.
    """

    def __init__(self, model: TFRealmForOpenQA) -> None:
        super().__init__({"model": model})

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: of `Questions`.
            training: whether dropout is on, and more blocks are retrieved than read.

        Returns:
            `loss` of retriever and reader; `retrieved`, the share of questions with an answer in
            a retrieved block, and `read`, in one that is read; `exact`, the share whose best span
            is an answer.
        """
        read = self.model(
            batch["input_ids"], batch["attention_mask"], answer_ids=batch["answer_ids"],
            return_dict=True, training=training,
        ).reader_output  # fmt: skip
        beam = self.model.config.reader_beam_size
        # A single question comes without its axis.
        rows = tf.shape(batch["input_ids"])[0]
        blocks = tf.reshape(read.retriever_correct, (rows, -1))
        spans = tf.reshape(read.reader_correct, (rows, -1))
        width = tf.cast(tf.shape(read.reader_correct)[-1], tf.int64)
        best = tf.reshape(read.block_idx * width + read.candidate, (-1, 1))
        shares = {
            "retrieved": tf.reduce_any(blocks, 1),
            "read": tf.reduce_any(blocks[:, :beam], 1),
            "exact": tf.gather(spans, best, batch_dims=1),
        }
        return {
            "loss": read.loss,
            "retriever_loss": read.retriever_loss,
            "reader_loss": read.reader_loss,
            **{name: tf.reduce_mean(tf.cast(x, tf.float32)) for name, x in shares.items()},
        }


def start_flat(*models: TFRealmEmbedder | TFRealmKnowledgeAugEncoder) -> None:
    """Lets new models begin as if words had no order and all types were one; see `flatten_start`.

    Args:
        models: whose weights are new.
    """
    for model in models:
        norm = model.cls.LayerNorm.gamma if isinstance(model, TFRealmEmbedder) else None
        flatten_start(model.realm.embeddings, norm)


def train_inverse_cloze(
    embedder: TFRealmEmbedder,
    corpus: BlockCorpus,
    steps: int,
    *,
    batch_size: int = 64,
    query_length: int = 64,
    block_length: int = 288,
    keep: float = 0.1,
    drop: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    tokenizer: Any = None,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains an embedder to find the block that a sentence was taken out of.

    Args:
        embedder: trained where it is.
        corpus: of blocks.
        steps: updates in all.
        batch_size, query_length, block_length, keep, drop: see `InverseCloze`.
        out, resume, tokenizer, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.
    """
    settings = Plan(steps, **plan)
    check_positions(embedder.config, query_length=query_length, block_length=block_length)
    batches = InverseCloze(
        corpus, batch_size, query_length=query_length, block_length=block_length, keep=keep,
        drop=drop, seed=settings.seed,
    )  # fmt: skip
    return train(
        InverseClozeStep(embedder), batches, settings, out=out, resume=resume,
        settings={"batches": batches.settings()}, tokenizer=tokenizer, report=report,
    )  # fmt: skip


def pretrain(
    embedder: TFRealmEmbedder,
    encoder: TFRealmKnowledgeAugEncoder,
    corpus: BlockCorpus,
    tokenizer: Any,
    steps: int,
    *,
    texts: BlockCorpus | None = None,
    refresh_every: int = 500,
    batch_size: int = 32,
    num_candidates: int | None = None,
    query_length: int = 64,
    block_length: int = 288,
    joint_length: int | None = None,
    index: Mapping[str, Any] | None = None,
    delay: int = 1,
    worker: Mapping[str, Any] | None = None,
    train_embedder: bool = True,
    embedder_rate: float = 1.0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains embedder and encoder to fill in salient spans with retrieved blocks in sight.

    Args:
        embedder, encoder: trained where they are.
        corpus: of the blocks that are retrieved, opened from a folder.
        tokenizer: that the corpus was made with.
        steps: updates in all.
        texts: where the sentences are from; by default `corpus`.
        refresh_every: steps between two versions of the index.
        batch_size: sentences of a batch.
        num_candidates: blocks of a sentence, the empty one included; by default the
            configuration's.
        query_length, block_length, joint_length: see `Candidates`.
        index: arguments of `build_index`.
        delay, worker: see `Refresher`; `worker` are its further arguments, such as `threads`.
        train_embedder: whether the embedder is trained too; without it the encoder learns to read
            what a fixed embedder finds, as an encoder wants that has not read anything yet.
        embedder_rate: what the embedder's learning rate is multiplied with.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.

    Raises:
        CorpusError: a corpus that was made with another tokenizer.
    """
    settings = Plan(steps, **plan)
    texts = corpus if texts is None else texts
    for one in (corpus, texts):
        one.check_tokenizer(tokenizer)
    batches = MaskedSpans(texts, batch_size, query_length=query_length, seed=settings.seed)
    candidates = Candidates(
        corpus, count=num_candidates or embedder.config.num_candidates,
        query_length=query_length, block_length=block_length, joint_length=joint_length,
        same_corpus=texts is corpus,
    )  # fmt: skip
    check_positions(embedder.config, query_length=query_length, block_length=block_length)
    check_positions(encoder.config, joint_length=candidates.joint_length)

    def save(folder: Path) -> None:
        embedder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    refresher = Refresher(
        out, corpus, refresh_every if train_embedder else steps, embedder=EMBEDDER,
        options={"encoder": "RealmEmbedder"}, length=block_length, index=index, delay=delay,
        last_step=steps,
        leads=worker_number() == 0, **(worker or {}),
    )  # fmt: skip
    return train(
        PretrainingStep(embedder, encoder, candidates, train_embedder), batches, settings,
        out=out, resume=resume, rates={"embedder": embedder_rate} if train_embedder else None,
        settings={"batches": batches.settings(), "candidates": candidates.settings()},
        refresh=IndexRefresh(refresher, candidates, save), tokenizer=tokenizer, report=report,
    )  # fmt: skip


def assemble(
    embedder: TFRealmEmbedder,
    encoder: TFRealmKnowledgeAugEncoder,
    corpus: BlockCorpus,
    tokenizer: Any,
    *,
    block_length: int = 288,
    batch_tokens: int = 8192,
    **config: Any,
) -> TFRealmForOpenQA:
    """A model that answers questions out of a corpus, made of pre-trained parts.

    REALM, section 4.2: the reader starts from the encoder that read blocks in pre-training, but
    for the layers that score spans; the blocks' vectors stay as they are from here on.

    Args:
        embedder: of questions and blocks.
        encoder: whose BERT and masked-LM head the reader starts from.
        corpus: of the blocks.
        tokenizer: that the corpus was made with.
        block_length: the most tokens of a block, with its title.
        batch_tokens: the most tokens of a batch of blocks, padding included.
        config: fields of the configuration to set, such as `searcher_beam_size`.

    Returns:
        The model, with the corpus as its retriever.
    """
    fields = {"num_block_records": len(corpus)} | config
    model = TFRealmForOpenQA(RealmConfig.from_dict(embedder.config.to_dict(), **fields))
    _copy(embedder, model.embedder)
    # All but the scores of spans are the encoder's.
    _copy(encoder, model.reader)
    model.block_emb.assign(embed_corpus(embedder, corpus, block_length, batch_tokens))
    model.retriever = CorpusRetriever(corpus, tokenizer)
    return model


def finetune(
    model: TFRealmForOpenQA,
    questions: Sequence[Any],
    tokenizer: Any,
    steps: int,
    *,
    corpus: BlockCorpus | None = None,
    batch_size: int = 8,
    query_length: int = 64,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    report: Report | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    """Trains a model on questions and their answers alone.

    Args:
        model: trained where it is; see `assemble`.
        questions: `Question` or pairs of text and answers.
        tokenizer: of the model.
        steps: updates in all.
        corpus: of the blocks, in place of the model's retriever.
        batch_size, query_length: see `Questions`.
        out, resume, report: see `train`.
        plan: further settings of `Plan`, such as `learning_rate` and `seed`.

    Returns:
        What each step gave.
    """
    settings = Plan(steps, **plan)
    check_positions(
        model.config, query_length=query_length, reader_seq_len=model.config.reader_seq_len
    )
    if corpus is not None:
        model.retriever = CorpusRetriever(corpus, tokenizer)
    batches = Questions(
        questions, tokenizer, batch_size, query_length=query_length,
        answer_length=model.config.max_span_width, seed=settings.seed,
    )  # fmt: skip
    return train(
        QuestionStep(model), batches, settings, out=out, resume=resume,
        settings={"batches": batches.settings()}, tokenizer=tokenizer, report=report,
    )  # fmt: skip


def _flat(x: tf.Tensor) -> tf.Tensor:
    """`(batch, candidates, ...)` -> `(batch * candidates, ...)`."""
    rows = None if x.shape[0] is None else x.shape[0] * x.shape[1]
    return tf.reshape(x, (-1 if rows is None else rows, tf.shape(x)[2]))


def _copy(source: Any, target: Any) -> None:
    """Gives a model the weights that another one has under the same names."""
    given = dict(named_weights(source))
    for name, weight in named_weights(target):
        if name in given:
            weight.variable.assign(given[name].variable)

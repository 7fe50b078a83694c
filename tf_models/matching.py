"""Encoders that put texts into one space: their vectors, and how they learn to match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.retrieval.embedding import FIELDS
from zoo.training.corpus import BlockCorpus
from zoo.training.refresh import embed_blocks

from .modeling import TFPreTrainedModel

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# A batch is run in so many groups of rows of similar lengths, of at least so many rows.
GROUPS, GROUP = 4, 16
_NEVER = -1e9  # score of a block that is right for another query too


def match(queries: tf.Tensor, blocks: tf.Tensor, rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """Each query is to find its block among those of the batch.

    Karpukhin et al. 2020 (DPR), section 3.2; Lee et al. 2019 (ORQA), section 5.

    Args:
        queries, blocks: vectors, `(batch, dimension)`.
        rows: of the blocks; equal ones are the same block, `(batch,)`.

    Returns:
        `loss` and `accuracy`, the share of queries whose block is found first.
    """
    own, everyone = tf.range(tf.shape(queries)[0]), rows
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        # The blocks of all replicas are candidates. What a call inside gave has no device, which
        # several workers need.
        own += context.replica_id_in_sync_group * tf.shape(blocks)[0]
        blocks = context.all_gather(tf.identity(blocks), axis=0)
        everyone = context.all_gather(tf.identity(rows), axis=0)
    # (batch, blocks)
    scores = tf.matmul(queries, blocks, transpose_b=True)
    is_own = tf.equal(own[:, None], tf.range(tf.shape(blocks)[0]))
    same = tf.equal(rows[:, None], everyone) & ~is_own
    scores = tf.where(same, _NEVER, scores)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(own, scores)
    right = tf.equal(tf.argmax(scores, 1, tf.int32), own)
    return {
        "loss": tf.reduce_mean(each),
        "accuracy": tf.reduce_mean(tf.cast(right, tf.float32)),
    }


def flatten_start(embeddings: Any, norm: Any = None) -> None:
    """Lets a new encoder begin as if words had no order and all types were one.

    Trained from nothing and on little text, a first token that sees mostly its own place and type
    gives every text the same vector, and training drives vectors together before it tells them
    apart. Relevance begins divided by the square root of the width, as attention is.

    Args:
        embeddings: of words, positions and types.
        norm: weight of the norm that a text's vector comes out of.
    """
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.embeddings.assign(tf.zeros_like(table.embeddings.value))
    if norm is not None:
        norm.assign(norm.value * norm.shape[0] ** -0.25)


def embed_corpus(
    embedder: TFPreTrainedModel, corpus: BlockCorpus, length: int = 288, batch_tokens: int = 8192
) -> np.ndarray:
    """Vectors of all blocks, `(blocks, dimension)`.

    Args:
        embedder: of blocks.
        corpus: of the blocks.
        length: the most tokens of a block, with its title.
        batch_tokens: the most tokens of a batch, padding included.
    """
    run = _graph(embedder)
    return embed_blocks(
        lambda inputs: _embedded(run, inputs),
        corpus, np.arange(len(corpus)), length, batch_tokens,
    )  # fmt: skip


def embed_questions(
    embedder: TFPreTrainedModel, questions: Any, batch_size: int = 64
) -> np.ndarray:
    """Vectors of all questions, `(questions, dimension)`.

    Args:
        embedder: of questions.
        questions: `zoo.training.Questions`, with their tokens.
        batch_size: questions at a time.
    """
    run = _graph(embedder)
    found = []
    for start in range(0, questions.examples, batch_size):
        chosen = np.arange(start, min(start + batch_size, questions.examples))
        found.append(_embedded(run, questions.inputs(chosen)))
    return np.concatenate(found)


def _graph(embedder: TFPreTrainedModel) -> Callable[..., tf.Tensor]:
    """The embedder in evaluation. Differs: as a graph, since eager operations are slow."""
    return tf.function(lambda inputs: vectors_of(embedder, inputs), reduce_retracing=True)


def _embedded(run: Callable[..., tf.Tensor], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Vectors in evaluation, `(batch, dimension)`."""
    return run({name: tf.constant(inputs[name]) for name in INPUTS if name in inputs}).numpy()


def vectors_of(
    embedder: TFPreTrainedModel,
    batch: Mapping[str, tf.Tensor],
    prefix: str = "",
    training: bool = False,
) -> tf.Tensor:
    """The vectors of texts, `(batch, dimension)`."""
    given = {name: batch[prefix + name] for name in INPUTS if prefix + name in batch}

    def run(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        output = embedder(**inputs, return_dict=True, training=training)
        return tf.cast(_vectors(output), tf.float32)

    return in_groups(run, given)


def _vectors(output: Any) -> tf.Tensor:
    """The first of the outputs that stand for a whole text."""
    return next(output[name] for name in FIELDS if output.get(name) is not None)


def in_groups(
    run: Callable[..., tf.Tensor], inputs: Mapping[str, tf.Tensor], *others: tf.Tensor
) -> tf.Tensor:
    """Runs a batch in groups of similar lengths, so that little of it is padding.

    Differs: a graph has a fixed number of groups; where the number of rows is not known, one.

    Args:
        run: from inputs `(rows, tokens)` and parts of the others to a tensor `(rows, ...)`.
        inputs: `(rows, sequence)`, with an `attention_mask`.
        others: `(rows, ...)`.
    """
    lengths = tf.reduce_sum(inputs["attention_mask"], 1)
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    rows = order.shape[0]
    groups = 1 if rows is None else max(min(rows // GROUP, GROUPS), 1)
    size = tf.shape(order)[0] if rows is None else -(-rows // groups)
    found = []
    for start in [0] if rows is None else range(0, rows, size):
        chosen = order[start : start + size]
        longest = lengths[chosen[0]]
        trimmed = {name: tf.gather(value, chosen)[:, :longest] for name, value in inputs.items()}
        found.append(run(trimmed, *(tf.gather(other, chosen) for other in others)))
    return tf.gather(tf.concat(found, 0), tf.argsort(order))

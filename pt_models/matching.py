"""Encoders that put texts into one space: their vectors, and how they learn to match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.retrieval.embedding import FIELDS
from zoo.training.corpus import BlockCorpus
from zoo.training.refresh import embed_blocks

from .modeling import PreTrainedModel
from .training import gather_rows, tensor

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# A batch is run in so many groups of rows of similar lengths, of at least so many rows.
GROUPS, GROUP = 4, 16
_NEVER = -1e9  # score of a block that is right for another query too


def match(queries: Tensor, blocks: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Each query is to find its block among those of the batch.

    Karpukhin et al. 2020 (DPR), section 3.2; Lee et al. 2019 (ORQA), section 5.

    Args:
        queries, blocks: vectors, `(batch, dimension)`.
        rows: of the blocks; equal ones are the same block, `(batch,)`.

    Returns:
        `loss` and `accuracy`, the share of queries whose block is found first.
    """
    # The blocks of all processes are candidates.
    blocks, first = gather_rows(blocks)
    everyone, _ = gather_rows(rows.double())
    # (batch, blocks)
    scores = queries.float() @ blocks.float().T
    own = torch.arange(first, first + len(queries), device=scores.device)
    same = rows.double()[:, None] == everyone
    same[torch.arange(len(own), device=own.device), own] = False
    scores = scores.masked_fill(same, _NEVER)
    return {
        "loss": functional.cross_entropy(scores, own),
        "accuracy": (scores.argmax(1) == own).float().mean(),
    }


@torch.no_grad()
def flatten_start(embeddings: Any, norm: Tensor | None = None) -> None:
    """Lets a new encoder begin as if words had no order and all types were one.

    Trained from nothing and on little text, a first token that sees mostly its own place and type
    gives every text the same vector, and training drives vectors together before it tells them
    apart. Relevance begins divided by the square root of the width, as attention is.

    Args:
        embeddings: of words, positions and types.
        norm: weight of the norm that a text's vector comes out of.
    """
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.zero_()
    if norm is not None:
        norm.mul_(norm.numel() ** -0.25)


def embed_corpus(
    embedder: PreTrainedModel, corpus: BlockCorpus, length: int = 288, batch_tokens: int = 8192
) -> np.ndarray:
    """Vectors of all blocks, `(blocks, dimension)`.

    Args:
        embedder: of blocks.
        corpus: of the blocks.
        length: the most tokens of a block, with its title.
        batch_tokens: the most tokens of a batch, padding included.
    """
    return embed_blocks(
        lambda inputs: _embedded(embedder, inputs),
        corpus, np.arange(len(corpus)), length, batch_tokens,
    )  # fmt: skip


def embed_questions(embedder: PreTrainedModel, questions: Any, batch_size: int = 64) -> np.ndarray:
    """Vectors of all questions, `(questions, dimension)`.

    Args:
        embedder: of questions.
        questions: `zoo.training.Questions`, with their tokens.
        batch_size: questions at a time.
    """
    found = []
    for start in range(0, questions.examples, batch_size):
        chosen = np.arange(start, min(start + batch_size, questions.examples))
        found.append(_embedded(embedder, questions.inputs(chosen)))
    return np.concatenate(found)


def _embedded(embedder: PreTrainedModel, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Vectors in evaluation, `(batch, dimension)`."""
    training = embedder.training
    embedder.eval()
    try:
        with torch.inference_mode():
            tensors = {name: tensor(array, embedder.device) for name, array in inputs.items()}
            return vectors_of(embedder, tensors).float().cpu().numpy()
    finally:
        embedder.train(training)


def vectors_of(embedder: PreTrainedModel, batch: Mapping[str, Tensor], prefix: str = "") -> Tensor:
    """The vectors of texts, `(batch, dimension)`."""
    given = {name: batch[prefix + name] for name in INPUTS if prefix + name in batch}
    return in_groups(lambda inputs: _vectors(embedder(**inputs, return_dict=True)), given)


def _vectors(output: Any) -> Tensor:
    """The first of the outputs that stand for a whole text."""
    return next(output[name] for name in FIELDS if output.get(name) is not None)


def in_groups(run: Callable[..., Tensor], inputs: Mapping[str, Tensor], *others: Tensor) -> Tensor:
    """Runs a batch in groups of similar lengths, so that little of it is padding.

    Args:
        run: from inputs `(rows, tokens)` and parts of the others to a tensor `(rows, ...)`.
        inputs: `(rows, sequence)`, with an `attention_mask`.
        others: `(rows, ...)`.
    """
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(descending=True, stable=True)
    found = []
    for rows in order.chunk(max(min(len(order) // GROUP, GROUPS), 1)):
        longest = int(lengths[rows[0]])
        trimmed = {name: value[rows, :longest] for name, value in inputs.items()}
        found.append(run(trimmed, *(other[rows] for other in others)))
    return torch.cat(found)[order.argsort()]

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

import torch
from torch import Tensor

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
from .realm import RealmEmbedder, RealmForOpenQA, RealmKnowledgeAugEncoder
from .training import IndexRefresh, Report, Step, group_rank, tensor, train

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

EMBEDDER = "pt_models.embedding:TextEmbedder"


class InverseClozeStep(Step):
    """Each sentence is to find its block among those of the batch (ORQA, section 5).

    Args:
        embedder: of sentences and blocks.
    """

    def __init__(self, embedder: RealmEmbedder) -> None:
        super().__init__({"embedder": embedder})

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            batch: of `InverseCloze`.

        Returns:
            `loss` and `accuracy`, the share of sentences whose block is found first.
        """
        queries = vectors_of(self.embedder, batch)
        blocks = vectors_of(self.embedder, batch, "candidate_")
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
        embedder: RealmEmbedder,
        encoder: RealmKnowledgeAugEncoder,
        candidates: Candidates,
        train_embedder: bool = True,
    ) -> None:
        models = {"embedder": embedder, "encoder": encoder}
        super().__init__(models if train_embedder else {"encoder": encoder})
        self.embedder, self.candidates = embedder, candidates
        self.train_embedder = train_embedder

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            batch: of `MaskedSpans`.

        Returns:
            `loss`, minus the log likelihood of the hidden tokens, summed over the blocks;
            `accuracy` of the likeliest token; `gain`, by how much the retrieved blocks make the
            tokens likelier than the empty one does (REALM, section 4.4, retrieval utility);
            `empty`, the weight of the empty block.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.set_grad_enabled(self.train_embedder and torch.is_grad_enabled()):
            queries = vectors_of(self.embedder, batch)
            found = self._found(queries, ids, mask, batch["rows"])
            blocks = vectors_of(self.embedder, found, "candidate_")
        count = found["penalty"].shape[1]
        # The empty block is the last, and everyone's.
        own = blocks[:-1].view(len(ids), count - 1, -1)
        relevance = torch.cat(
            [torch.einsum("bd,bcd->bc", queries, own), queries @ blocks[-1:].T], 1
        )
        relevance = relevance.float() + found["penalty"]

        # Only where something is hidden are words scored: (batch, candidates, masked, hidden)
        places = batch["masked_positions"][:, None].expand(-1, count, -1)
        inputs = {name: found[f"joint_{name}"].flatten(0, 1) for name in INPUTS}
        hidden = in_groups(self._hidden, inputs, places.flatten(0, 1))
        logits = self.encoder.cls(hidden.unflatten(0, (-1, count))).float()
        words = torch.log_softmax(logits, -1)
        labels, weights = batch["masked_ids"], batch["masked_weights"]
        targets = labels[:, None, :, None].expand(-1, count, -1, 1)
        # (batch, candidates, masked)
        likelihood = words.gather(-1, targets).squeeze(-1)
        prior = torch.log_softmax(relevance, -1)
        joint = torch.logsumexp(prior[..., None] + likelihood, 1)
        loss = -(joint * weights).sum(1).mean()
        with torch.no_grad():
            best = torch.logsumexp(prior[..., None, None] + words, 1).argmax(-1)
            gain = ((joint - likelihood[:, -1]) * weights).sum(1).mean()
            accuracy = ((best == labels) * weights).sum(1).mean()
            empty = prior[:, -1].exp().mean()
        return {"loss": loss, "accuracy": accuracy, "gain": gain, "empty": empty}

    def _hidden(self, inputs: Mapping[str, Tensor], places: Tensor) -> Tensor:
        """The encoder's states at some places, `(rows, places, hidden)`."""
        states = self.encoder.realm(**inputs, return_dict=True).last_hidden_state
        return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))

    def _found(self, queries: Tensor, ids: Tensor, mask: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """The candidates that the index finds, which no gradient flows through."""
        arrays = self.candidates(
            queries.detach().float().cpu().numpy(), *(x.cpu().numpy() for x in (ids, mask, rows))
        )
        return {name: tensor(array, ids.device) for name, array in arrays.items()}


class QuestionStep(Step):
    """Questions are answered out of the blocks that are retrieved for them (REALM, section 3.3).

    Args:
        model: with its retriever, and `block_emb` or an index.
    """

    def __init__(self, model: RealmForOpenQA) -> None:
        super().__init__({"model": model})

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            batch: of `Questions`.

        Returns:
            `loss` of retriever and reader; `retrieved`, the share of questions with an answer in
            a retrieved block, and `read`, in one that is read; `exact`, the share whose best span
            is an answer.
        """
        read = self.model(
            batch["input_ids"], batch["attention_mask"], answer_ids=batch["answer_ids"],
            return_dict=True,
        ).reader_output  # fmt: skip
        beam = self.model.config.reader_beam_size
        # A single question comes without its axis.
        blocks = read.retriever_correct.view(len(batch["input_ids"]), -1)
        spans = read.reader_correct.view(len(blocks), -1)
        width = read.reader_correct.shape[-1]
        best = (read.block_idx * width + read.candidate).view(-1, 1)
        return {
            "loss": read.loss,
            "retriever_loss": read.retriever_loss,
            "reader_loss": read.reader_loss,
            "retrieved": blocks.any(1).float().mean(),
            "read": blocks[:, :beam].any(1).float().mean(),
            "exact": spans.gather(1, best).float().mean(),
        }


def start_flat(*models: RealmEmbedder | RealmKnowledgeAugEncoder) -> None:
    """Lets new models begin as if words had no order and all types were one; see `flatten_start`.

    Args:
        models: whose weights are new.
    """
    for model in models:
        norm = model.cls.LayerNorm.weight if isinstance(model, RealmEmbedder) else None
        flatten_start(model.realm.embeddings, norm)


def train_inverse_cloze(
    embedder: RealmEmbedder,
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
    embedder: RealmEmbedder,
    encoder: RealmKnowledgeAugEncoder,
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
        leads=group_rank()[0] == 0, **(worker or {}),
    )  # fmt: skip
    return train(
        PretrainingStep(embedder, encoder, candidates, train_embedder), batches, settings,
        out=out, resume=resume, rates={"embedder": embedder_rate} if train_embedder else None,
        settings={"batches": batches.settings(), "candidates": candidates.settings()},
        refresh=IndexRefresh(refresher, candidates, save), tokenizer=tokenizer, report=report,
    )  # fmt: skip


def assemble(
    embedder: RealmEmbedder,
    encoder: RealmKnowledgeAugEncoder,
    corpus: BlockCorpus,
    tokenizer: Any,
    *,
    block_length: int = 288,
    batch_tokens: int = 8192,
    **config: Any,
) -> RealmForOpenQA:
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
    model = RealmForOpenQA(RealmConfig.from_dict(embedder.config.to_dict(), **fields))
    model.embedder.load_state_dict(embedder.state_dict())
    # All but the scores of spans are the encoder's.
    model.reader.load_state_dict(encoder.state_dict(), strict=False)
    model.tie_weights()
    vectors = embed_corpus(embedder, corpus, block_length, batch_tokens)
    model.block_emb = torch.from_numpy(vectors)
    model.retriever = CorpusRetriever(corpus, tokenizer)
    return model.to(embedder.device)


def finetune(
    model: RealmForOpenQA,
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

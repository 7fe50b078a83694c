"""Question answering over a corpus as one graph: a question in, answers with their evidence out.

Tokenizer, embedder, retrieval and reader of a `TFRealmForOpenQA` are in the graph. The blocks of
its retriever are among the variables: their text, their tokens, and where those stand in the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from zoo.retrieval.answers import locate_pieces
from zoo.retrieval.realm import SEARCH_ROWS, RealmRetriever
from zoo.retrieval.store import RetrievalError

from .realm import _span_bounds
from .retrieval import TFScannRetriever, top_products
from .text_heads import LOW, Axes, Tensors, TextHead

RETRIEVAL = ("exact", "scann")
SPANS = 16  # looked at for an answer, as the same words count once
_AT_ONCE = 1024  # blocks tokenised in one call


class AnswerFromCorpus(TextHead):
    """A question to its answers, best first, each with the block that it stands in.

    `score` is the sum of what the reader thinks of the span and of the block's relevance, `starts`
    and `ends` count characters of the block. Where there are fewer answers than asked for, empty
    strings with block -1 follow. The answers are those of the model's `answer`.

    Args:
        retrieval: `exact` compares with the vectors of all blocks, with stock operations;
            `scann` searches the model's index with ScaNN's, which the server has to know.

    Raises:
        ValueError: the model has no retriever, or no ScaNN index where one is asked for.
    """

    task = "ForOpenQA"
    inputs: ClassVar[Axes] = {"question": ("batch",)}
    outputs: ClassVar[Axes] = {
        "answer": ("batch",),
        "evidence": ("batch",),
        "score": ("batch",),
        "block_id": ("batch",),
        **dict.fromkeys(
            (
                "answers",
                "evidences",
                "scores",
                "reader_scores",
                "retriever_scores",
                "block_ids",
                "starts",
                "ends",
            ),
            ("batch", "k"),
        ),
    }
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs = {
        "block_ids": ("batch", "blocks"),
        "retriever_scores": ("batch", "blocks"),
        "vectors": ("batch", "hidden"),
    }

    def __init__(
        self, model: Any, tokenizer: Any, *, retrieval: str | None = None, **options: Any
    ) -> None:
        if model.retriever is None:
            raise ValueError("the model has no block records: expected block_records.npy beside it")
        if retrieval not in (None, *RETRIEVAL):
            raise ValueError(f"retrieval: received {retrieval!r}, expected one of {RETRIEVAL}")
        rows, records = model.block_emb.shape[0], len(model.retriever.block_records)
        if rows != records:
            raise ValueError(f"block_emb has {rows} rows, the retriever has {records} records")
        super().__init__(model, tokenizer, **options)
        self.blocks = min(model.config.reader_beam_size, rows)
        self.question_length = min(model.config.max_position_embeddings, tokenizer.model_max_length)
        searcher = None
        if retrieval == "scann":
            try:
                searcher = TFScannRetriever(model.index, self.blocks)
            except (AttributeError, RetrievalError) as error:
                raise ValueError(
                    f"retrieval: the model has no ScaNN index to export: {error}"
                ) from error
            self.shards = list(searcher.shards)  # a Module does not look into a layer
        self.searcher = lambda: searcher
        self.special_ids = sorted(set(tokenizer.all_special_ids))
        self.texts, self.tokens, self.offsets, self.characters = (
            tf.Variable(value, trainable=False, name=name)
            for name, value in _blocks(model.retriever, tokenizer).items()
        )

    def _run(self, model: Any, inputs: Tensors) -> Tensors:
        """The blocks for questions."""
        vectors = model.embedder(**inputs, return_dict=True, training=False).projected_score
        vectors = tf.cast(vectors, tf.float32)
        table = tf.convert_to_tensor(model.block_emb)
        searcher = self.searcher()
        if searcher is None:
            block_ids = tf.cast(top_products(vectors, table, self.blocks, SEARCH_ROWS)[0], tf.int64)
        else:
            block_ids = searcher(vectors)["ids"]
        found = tf.cast(tf.gather(table, tf.maximum(block_ids, 0)), tf.float32)
        relevance = tf.einsum("bd,bkd->bk", vectors, found)
        relevance = tf.where(block_ids < 0, relevance.dtype.min, relevance)
        return {"block_ids": block_ids, "retriever_scores": relevance, "vectors": vectors}

    def tokenize(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> Tensors:
        if text_pair is not None:
            return super().tokenize(text, text_pair)
        return self._padded(self.layer()._columns([self._question(text)]))

    def __call__(self, question: tf.Tensor) -> Tensors:  # type: ignore[override]
        found = self.run(self.tokenize(question))
        block_ids, relevance = found["block_ids"], found["retriever_scores"]
        inputs, mask, index = self._joint(self._question(question), block_ids)
        shape = tf.stack([tf.shape(block_ids)[0], self.blocks, -1])
        evidence = {name: tf.reshape(x, shape) for name, x in inputs.items()}
        evidence["block_mask"] = tf.reshape(mask, shape)
        scores, spans, _ = self.model().reader._read(evidence, training=False)
        scores = tf.where(spans, scores + relevance[:, :, None], scores.dtype.min)
        return self._answers(scores, relevance, block_ids, tf.reshape(index, shape))

    def _question(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Tokens of questions as the embedder gets them, `(batch, tokens)`."""
        room = self.question_length - len(self._special) + 1
        return self._call("split", text)[:, :room]

    def _padded(self, columns: Mapping[str, tf.RaggedTensor]) -> Tensors:
        layer = self.layer()
        pads = {"input_ids": layer.plan["pad_id"], "token_type_ids": layer.plan["pad_type_id"]}
        return {name: layer._pad(x, pads.get(name, 0), "longest") for name, x in columns.items()}

    def _joint(
        self, question: tf.RaggedTensor, block_ids: tf.Tensor
    ) -> tuple[Tensors, tf.Tensor, tf.Tensor]:
        """Questions with their blocks, one after the other.

        Returns:
            What the reader takes, where the block stands, and which of its tokens are where; each
            `(batch * blocks, sequence)`.
        """
        # The retriever joins the words of a question, without special and unknown tokens.
        known = tf.reduce_all(question.values[:, None] != self.special_ids, -1)
        question = tf.ragged.boolean_mask(question, question.with_values(known))
        rows = tf.reshape(block_ids, [-1])
        asked = tf.gather(question, tf.repeat(tf.range(question.nrows()), self.blocks))
        start = tf.gather(self.offsets, tf.maximum(rows, 0))
        end = tf.gather(self.offsets, tf.maximum(rows, 0) + 1)
        sizes = tf.where(rows < 0, tf.zeros_like(start), end - start)
        place = tf.ragged.range(sizes)
        tokens = place.with_values(
            tf.gather(self.tokens, tf.gather(start, place.value_rowids()) + place.values)
        )
        layer = self.layer()
        kept = layer._truncate([tf.cast(asked, tokens.dtype), tokens])
        inputs = self._padded(layer._columns(kept))
        first = self._special_pair.index(-2) - 1 + kept[0].row_lengths()  # it stands for one there
        index = tf.range(tf.shape(inputs["input_ids"], tf.int64)[1])[None] - first[:, None]
        mask = (index >= 0) & (index < kept[1].row_lengths()[:, None])
        return inputs, mask, tf.where(mask, index, tf.zeros_like(index))

    def _answers(
        self, scores: tf.Tensor, relevance: tf.Tensor, block_ids: tf.Tensor, index: tf.Tensor
    ) -> Tensors:
        """The best spans in words, each word once.

        Args:
            scores: `(batch, blocks, spans)`, the lowest number for what is no span.
            relevance, block_ids: `(batch, blocks)`.
            index: `(batch, blocks, sequence)`, which token of the block is where.
        """
        lowest = scores.dtype.min / 2
        count = tf.shape(scores)[2]
        flat = tf.reshape(scores, [tf.shape(scores)[0], -1])
        wanted = SPANS * self.top_k
        flat = tf.pad(flat, [[0, 0], [0, wanted]], constant_values=scores.dtype.min)
        best, span = tf.math.top_k(flat, wanted)  # (batch, wanted)
        real = best > lowest
        span = tf.where(real, span, 0)
        block = span // tf.maximum(count, 1)
        width = self.model().config.max_span_width
        bounds = _span_bounds(tf.shape(index)[2], width)
        numbers = tf.gather(block_ids, block, batch_dims=1)
        safe = tf.maximum(numbers, 0)
        start, end = (
            self._character(safe, block, index, tf.gather(bound, span % tf.maximum(count, 1)), side)
            for side, bound in enumerate(bounds)
        )
        blocks = tf.gather(self.texts, safe)
        text = tf.strings.substr(blocks, start, tf.maximum(end - start, 0), unit="UTF8_CHAR")
        folded = tf.strings.lower(text, encoding="utf-8")
        # (batch, wanted, wanted): whether a better span has the same words
        same = (folded[:, :, None] == folded[:, None, :]) & real[:, None, :]
        again = tf.reduce_any(tf.linalg.band_part(same, -1, 0) & ~tf.eye(wanted, dtype=bool), 2)
        real &= (text != "") & ~again
        order = tf.argsort(tf.cast(~real, tf.int32), axis=1, stable=True)[:, : self.top_k]

        def chosen(values: tf.Tensor, missing: Any) -> tf.Tensor:
            values = tf.where(real, values, tf.constant(missing, values.dtype))
            return tf.gather(values, order, batch_dims=1)

        of_block = tf.gather(relevance, block, batch_dims=1)
        found = {
            "answers": chosen(text, ""),
            "evidences": chosen(blocks, ""),
            "scores": chosen(best, LOW),
            "reader_scores": chosen(best - of_block, LOW),
            "retriever_scores": chosen(of_block, LOW),
            "block_ids": chosen(numbers, -1),
            "starts": chosen(start, -1),
            "ends": chosen(end, -1),
        }
        first = {name: found[f"{name}s"][:, 0] for name in ("answer", "evidence", "score")}
        return {**first, "block_id": found["block_ids"][:, 0], **found}

    def _character(
        self, numbers: tf.Tensor, block: tf.Tensor, index: tf.Tensor, place: tf.Tensor, side: int
    ) -> tf.Tensor:
        """Where tokens begin (side 0) or end (side 1) in the text of their blocks."""
        row = tf.gather(index, block, batch_dims=1)  # (batch, wanted, sequence)
        token = tf.gather(row, place, batch_dims=2) + tf.gather(self.offsets, numbers)
        last = tf.shape(self.characters, tf.int64)[0] - 1
        return tf.gather(self.characters[:, side], tf.minimum(token, last))


def _blocks(retriever: RealmRetriever, tokenizer: Any) -> dict[str, Any]:
    """The blocks: texts `(blocks,)`, tokens of all, where each block's begin `(blocks + 1,)`, and
    the first character of each token and the one after its last."""
    plain = {"add_special_tokens": False, "return_attention_mask": False,
             "return_token_type_ids": False, "verbose": False}  # fmt: skip
    more = {"return_offsets_mapping": True} if tokenizer.is_fast else {}
    texts: list[str] = []
    tokens, characters, counts = [], [], [0]
    count = len(retriever.block_records)
    for start in range(0, count, _AT_ONCE):
        some = retriever.texts(np.arange(start, min(start + _AT_ONCE, count)))
        encoded = tokenizer(some, **plain, **more)
        rows = encoded["input_ids"]
        if tokenizer.is_fast:
            places = encoded["offset_mapping"]
        else:
            places = [
                locate_pieces(text, tokenizer.convert_ids_to_tokens(row), tokenizer.unk_token)
                for text, row in zip(some, rows, strict=True)
            ]
        texts.extend(some)
        counts.extend(map(len, rows))
        tokens.extend(np.array(row, np.int32) for row in rows)
        characters.extend(np.array(row, np.int32).reshape(-1, 2) for row in places)
    return {
        "texts": np.array([text.encode() for text in texts], object),
        # One more, so that there is something to look up where no block has any.
        "tokens": np.concatenate([*tokens, np.zeros(1, np.int32)]),
        "offsets": np.cumsum(counts, dtype=np.int64),
        "characters": np.concatenate([*characters, np.zeros((1, 2), np.int32)]),
    }

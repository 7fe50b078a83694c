"""RAG as one graph: a question in, generated answers with their passages out.

Tokenizers, question encoder, retrieval and generator of a `TFRagTokenForGeneration` or a
`TFRagSequenceForGeneration` are in the graph. The passages are among the variables: their texts,
vectors, and tokens. What the generator reads is a passage and then the question; as no token
reaches over the space between them, the tokens of both are those of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from zoo.retrieval.rag import RagRetriever, StoredIndex
from zoo.retrieval.realm import SEARCH_ROWS
from zoo.retrieval.store import RetrievalError

from .in_graph import CannotExpressError, TFBertTokenizer
from .question_answering import RETRIEVAL
from .rag import Found
from .retrieval import TFScannRetriever, top_products
from .text_heads import LOW, Axes, Tensors, TextHead, _layer

_AT_ONCE = 1024  # passages tokenised in one call


class AnswerFromPassages(TextHead):
    """A question to its answers, best first, with what each passage has to do with them.

    `scores` are logarithms of the answers' probabilities, `shares` those of the passages in them,
    `token_shares` the same for each token of RAG-Token's; see `RagAnswer` and `RagEvidence`. Where
    there are fewer different answers than asked for, empty strings with shares of zero follow. The
    answers are those of the model's `answer`.

    Args:
        model: with its retriever, which looks passages up in an index of the zoo.
        tokenizer: a `RagTokenizer`.
        max_length: tokens of a passage with a question.
        generate: options of `answer`: `num_return_sequences` for its `n_best`, `num_beams` ...
        retrieval: `exact` compares with the vectors of all passages, with stock operations;
            `scann` searches the model's index with ScaNN's, which the server has to know.

    Raises:
        ValueError: the model has no such retriever, there is no ScaNN index where one is asked
            for, or a tokenizer or a setting cannot be expressed.
    """

    task = "Rag"
    inputs: ClassVar[Axes] = {"question": ("batch",)}
    pair_inputs: ClassVar[Axes] = {}
    raw_outputs: ClassVar[Axes] = {
        "passage_ids": ("batch", "passages"),
        "passage_scores": ("batch", "passages"),
        "vectors": ("batch", "hidden"),
    }

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int,
        retrieval: str | None = None,
        generate: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if retrieval not in (None, *RETRIEVAL):
            raise ValueError(f"retrieval: received {retrieval!r}, expected one of {RETRIEVAL}")
        retriever, config = model.retriever, model.config
        if retriever is None or not isinstance(retriever.index, StoredIndex):
            found = None if retriever is None else type(retriever.index).__name__
            raise ValueError(
                f"the model's passages are in {found}: expected a RagRetriever on a folder of "
                "searchable documents"
            )
        names = {base.__name__ for base in type(tokenizer.question_encoder).__mro__}
        if not names.intersection(TFBertTokenizer.tokenizer_classes):
            raise CannotExpressError(
                f"question_encoder: {type(tokenizer.question_encoder).__name__} cannot be joined "
                "with passages in the graph; expected a tokenizer of word pieces"
            )
        positions = model.generator._max_positions()
        if positions is not None and max_length > positions:
            raise ValueError(
                f"max_length: received {max_length}, expected at most the generator's "
                f"max_position_embeddings, {positions}"
            )
        chosen = dict(generate or {})
        default = getattr(model, "generation_config", config).num_return_sequences
        count = chosen.pop("num_return_sequences", default)
        beams = chosen.get("num_beams")
        if not hasattr(model, "marginalize"):  # RAG-Sequence searches with each passage
            beams = config.n_docs * (beams or config.num_beams)
        if beams is not None and count > beams:
            raise ValueError(f"num_return_sequences: received {count}, a search gives {beams}")
        index = retriever.index.index
        ids = np.sort(np.asarray(index.ids(), np.int64))
        if len(ids) < config.n_docs:
            raise ValueError(f"n_docs: {config.n_docs}, but there are {len(ids)} passages")
        searcher = None
        if retrieval == "scann":
            try:
                searcher = TFScannRetriever(index, config.n_docs)
            except (AttributeError, RetrievalError) as error:
                raise ValueError(
                    f"retrieval: the model has no ScaNN index to export: {error}"
                ) from error
        texts, titles, values, offsets = _passages(retriever, tokenizer.generator, ids)
        tables = {
            "ids": ids,
            "vectors": np.asarray(index.vectors(ids), np.float32),
            "titles": titles,
            "texts": texts,
            "tokens": values,
            "offsets": offsets,
        }
        longest = config.question_encoder.max_position_embeddings
        longest = min(longest, tokenizer.question_encoder.model_max_length)
        super().__init__(
            model, tokenizer.question_encoder, max_length=longest, generate=generate, **options
        )
        self.count, self.options = count, lambda: chosen
        self.searcher = lambda: searcher
        self.shards = [] if searcher is None else list(searcher.shards)  # it is no Module
        self.tables = {
            name: tf.Variable(value, trainable=False, name=name) for name, value in tables.items()
        }
        layer = _layer(tokenizer.generator, max_length)
        if not layer.plan.get("split_words", True):
            raise CannotExpressError(
                f"generator: {type(tokenizer.generator).__name__} has tokens that reach over a "
                "space, so passages and questions cannot be joined in the graph"
            )
        self.generator_pieces = layer.pieces
        self.generator_layer = lambda: layer
        tokens = tokenizer.generator.convert_ids_to_tokens(list(range(len(tokenizer.generator))))
        missing = max(config.generator.vocab_size - len(tokens), 0)
        self.generator_vocabulary = tf.constant(tokens + [""] * missing)

    @staticmethod
    def _config(model: Any) -> Any:
        return model.config.question_encoder

    @property
    def outputs(self) -> Axes:  # type: ignore[override]
        return {
            "answer": ("batch",),
            "score": ("batch",),
            "answers": ("batch", "k"),
            "scores": ("batch", "k"),
            "titles": ("batch", "passages"),
            "passages": ("batch", "passages"),
            "passage_ids": ("batch", "passages"),
            "passage_scores": ("batch", "passages"),
            "shares": ("batch", "k", "passages"),
            "tokens": ("batch", "k", "length"),
            "token_shares": ("batch", "k", "passages", "length"),
        }

    @property
    def input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"]

    def tokenize(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> Tensors:
        encoded = super().tokenize(text, text_pair)
        return {name: encoded[name] for name in self.input_names}

    def _run(self, model: Any, inputs: Tensors) -> Tensors:
        """The passages for questions."""
        from .rag import _vectors

        n_docs, table = model.config.n_docs, self.tables["vectors"]
        vectors = _vectors(model.question_encoder(**inputs, return_dict=True, training=False))
        vectors = tf.cast(vectors, tf.float32)
        searcher = self.searcher()
        if searcher is None:
            rows = top_products(vectors, table, n_docs, SEARCH_ROWS)[0]
            ids = tf.gather(self.tables["ids"], rows)
        else:
            ids = searcher(vectors)["ids"]
        found = tf.gather(table, self._rows(ids))
        scores = tf.einsum("bh,bdh->bd", vectors, found)
        return {"passage_ids": ids, "passage_scores": scores, "vectors": vectors}

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Where passages are in the tables."""
        places = tf.searchsorted(self.tables["ids"], tf.reshape(ids, [-1]))
        return tf.reshape(places, tf.shape(ids))

    def __call__(self, question: tf.Tensor) -> Tensors:  # type: ignore[override]
        model, layer = self.model(), self.generator_layer()
        asked = self.tokenize(question)
        passages = self.run(asked)
        rows, scores = self._rows(passages["passage_ids"]), passages["passage_scores"]
        contexts = self._contexts(asked["input_ids"], rows)
        found = model._read(Found(scores, contexts["input_ids"], contexts["attention_mask"]))
        sequences = model._candidates(found, self.count, self.options())
        # (batch * candidates, length) -> (batch, candidates)
        batch, length = tf.shape(question)[0], tf.shape(sequences)[1]
        texts = tf.reshape(layer.detokenize(sequences), [batch, -1])
        places, real = _different(texts, self.count)
        sequences = tf.reshape(sequences, tf.stack([batch, -1, length]))
        best = tf.ensure_shape(tf.gather(sequences, places, batch_dims=1), [None, self.count, None])
        weighed = model._weigh(best, found)
        answers = tf.where(real, tf.gather(texts, places, batch_dims=1), "")
        answers = tf.ensure_shape(answers, [None, self.count])
        score = tf.where(real, weighed.scores, LOW)
        outputs = {
            "answer": answers[:, 0],
            "score": score[:, 0],
            "answers": answers,
            "scores": score,
            "titles": tf.gather(self.tables["titles"], rows),
            "passages": tf.gather(self.tables["texts"], rows),
            "passage_ids": passages["passage_ids"],
            "passage_scores": scores,
            "shares": tf.where(real[..., None], weighed.shares, 0.0),
        }
        if weighed.shares_per_token is not None:
            inside = weighed.counts & real[..., None]
            tokens = tf.gather(self.generator_vocabulary, weighed.tokens)
            outputs["tokens"] = tf.where(inside, tokens, "")
            shares = tf.where(inside[:, :, None], weighed.shares_per_token, 0.0)
            outputs["token_shares"] = shares
        return outputs

    def _contexts(self, question_ids: tf.Tensor, rows: tf.Tensor) -> Tensors:
        """Passages with questions, as the generator reads them, `(batch * D, max_length)`."""
        layer = self.generator_layer()
        text = tf.strings.regex_replace(self.layer().detokenize(question_ids), "  ", " ")
        asked = layer.pieces(" " + text)
        asked = tf.gather(asked, tf.repeat(tf.range(tf.shape(rows)[0]), rows.shape[1]))
        flat = tf.reshape(rows, [-1])
        start, end = (tf.gather(self.tables["offsets"], flat + side) for side in (0, 1))
        place = tf.ragged.range(end - start)
        every = tf.gather(start, place.value_rowids()) + place.values
        tokens = place.with_values(tf.gather(self.tables["tokens"], every))
        joined = tf.concat([tokens, tf.cast(asked, tokens.dtype)], axis=1)
        columns = layer._columns(layer._truncate([joined]))
        pads = {"input_ids": layer.plan["pad_id"]}
        return {
            name: layer._pad(columns[name], pads.get(name, 0), "max_length")
            for name in ("input_ids", "attention_mask")
        }


def _different(texts: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Places of the first different texts of each row, and whether one is there; `(batch, count)`.

    Args:
        texts: `(batch, candidates)`.
    """
    size = tf.shape(texts)[1]
    short = tf.maximum(count - size, 0)
    earlier = tf.range(size)[:, None] < tf.range(size)
    again = tf.reduce_any((texts[:, :, None] == texts[:, None]) & earlier, axis=1)
    order = tf.argsort(tf.cast(again, tf.int32), axis=1, stable=True)
    real = tf.pad(~tf.gather(again, order, batch_dims=1), [[0, 0], [0, short]])
    return tf.pad(order, [[0, 0], [0, short]])[:, :count], real[:, :count]


def _passages(
    retriever: RagRetriever, tokenizer: Any, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Texts and titles `(passages,)`, the tokens of all, and where each passage's begin."""
    prefix = retriever.config.generator.prefix
    texts: list[bytes] = []
    titles: list[bytes] = []
    tokens, counts = [np.zeros(0, np.int32)], [0]
    for start in range(0, len(ids), _AT_ONCE):
        [doc] = retriever.index.get_doc_dicts(ids[None, start : start + _AT_ONCE])
        parts = [
            retriever._joined(title, text, "", prefix)
            for title, text in zip(doc["title"], doc["text"], strict=True)
        ]
        if any(part[-1:] != " " or part[-2:-1].isspace() or not part[:-1] for part in parts):
            raise CannotExpressError(
                f"doc_sep: {retriever.config.doc_sep!r} cannot be expressed in the graph; expected "
                "something that ends with one space"
            )
        # Behind the passage comes the question with this space in front.
        encoded = tokenizer([part[:-1] for part in parts], add_special_tokens=False, verbose=False)
        texts.extend(text.encode() for text in doc["text"])
        titles.extend(title.encode() for title in doc["title"])
        counts.extend(map(len, encoded["input_ids"]))
        tokens.extend(np.array(row, np.int32) for row in encoded["input_ids"])
    return (
        np.array(texts, object),
        np.array(titles, object),
        np.concatenate(tokens),
        np.cumsum(counts, dtype=np.int64),
    )

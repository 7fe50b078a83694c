"""RAG's retriever: finds passages for questions, and joins both for the generator.

Source: Lewis et al. 2020, "Retrieval-augmented generation for knowledge-intensive NLP tasks",
section 2.2. Passages and vectors lie in a folder of searchable documents (`DocumentIndex`); the
layouts of released checkpoints are read once and turned into one.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from .. import hub
from ..configs.rag import RagConfig
from ..stages import stage
from .index import Index, as_array, check_count, check_vectors
from .passages import Document, PassageError
from .readers import Corpus
from .store import RetrievalError

if TYPE_CHECKING:
    from ..tokenizers import BatchEncoding
    from .documents import DocumentIndex

logger = logging.getLogger("zoo")

SETTINGS = "documents.json"
OWN_INDEX = "index"  # a folder of searchable documents in that of the model
# What the paper's authors released: passages, index, and the passage of each row of the index.
LEGACY_PASSAGES = ("psgs_w100.tsv", "psgs_w100.tsv.pkl")
LEGACY_INDEX = "hf_bert_base.hnswSQ8_correct_phi_128.c_index"
FAISS_AT_ONCE = 4096  # vectors read out of an index at a time


class PassageIndex(Protocol):
    """What a retriever looks passages up in; the published interface of such an index."""

    def is_initialized(self) -> bool:
        """Whether passages can be looked up."""

    def init_index(self) -> None:
        """Makes it so."""

    def get_top_docs(
        self, question_hidden_states: np.ndarray, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids `(batch, n_docs)` and vectors `(batch, n_docs, dimension)`, best first."""

    def get_doc_dicts(self, doc_ids: np.ndarray) -> list[dict[str, Any]]:
        """`title` and `text` of the passages of each question, lists of `n_docs`."""


class StoredIndex:
    """Looks passages up in an index of the zoo.

    Args:
        index: of their vectors.
        passages: by the index's ids, something with a `title` and a `text`: a `PassageStore`, or
            any mapping or sequence.
        folder: where both are, if they are a folder of searchable documents.
    """

    def __init__(self, index: Index, passages: Any, folder: Path | None = None):
        self.index = index
        self.passages = passages
        self.folder = folder

    @classmethod
    def of(cls, documents: DocumentIndex) -> Self:
        """That of a folder of searchable documents."""
        return cls(documents.index, documents.passages, documents.folder)

    def is_initialized(self) -> bool:
        return True

    def init_index(self) -> None:
        pass

    def get_top_docs(
        self, question_hidden_states: np.ndarray, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, _ = self.index.search(question_hidden_states, n_docs)
        if (ids < 0).any():
            raise RetrievalError(f"n_docs: received {n_docs}, the index holds {len(self.index)}")
        return ids, self.index.vectors(ids)

    def get_doc_dicts(self, doc_ids: np.ndarray) -> list[dict[str, Any]]:
        found = []
        for row in np.asarray(doc_ids).tolist():
            passages = [self.passages[int(id)] for id in row]
            found.append(
                {
                    "title": [_part(passage, "title") for passage in passages],
                    "text": [_part(passage, "text") for passage in passages],
                }
            )
        return found


def _part(passage: Any, name: str) -> str:
    return passage[name] if isinstance(passage, Mapping) else getattr(passage, name)


class RagRetriever:
    """Finds passages for questions and joins both.

    Args:
        config: the model's configuration; says where passages and index are, see `open_passages`.
        question_encoder_tokenizer: decodes the questions.
        generator_tokenizer: encodes what the generator reads.
        index: what to look passages up in, instead of what the configuration names: a
            `DocumentIndex`, a folder of one, or anything with the methods of `PassageIndex`.
        init_retrieval: whether to open the index now.
    """

    def __init__(
        self,
        config: RagConfig,
        question_encoder_tokenizer: Any,
        generator_tokenizer: Any,
        index: Any = None,
        init_retrieval: bool = True,
    ):
        self.config = config
        self.question_encoder_tokenizer = question_encoder_tokenizer
        self.generator_tokenizer = generator_tokenizer
        self.n_docs = config.n_docs
        self.batch_size = config.retrieval_batch_size
        self.ctx_encoder_tokenizer: Any = None
        self.return_tokenized_docs = False
        self._index: PassageIndex | None = None if index is None else _as_index(index)
        if init_retrieval:
            self.init_retrieval()

    @property
    def index(self) -> PassageIndex:
        """What passages are looked up in; opened where it is not yet."""
        self.init_retrieval()
        assert self._index is not None
        return self._index

    def init_retrieval(self) -> None:
        """Opens the index."""
        if self._index is None:
            self._index = StoredIndex.of(open_passages(self.config))
        elif not self._index.is_initialized():
            self._index.init_index()

    @classmethod
    def from_pretrained(
        cls,
        retriever_name_or_path: str | os.PathLike[str],
        indexed_dataset: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Opens the retriever of a RAG checkpoint.

        A folder of searchable documents in it, `index/`, is what passages are looked up in, unless
        `kwargs` name another place; else what the configuration names.

        Args:
            retriever_name_or_path: folder or repository.
            indexed_dataset: passages with their index: see `index` of the class.
            kwargs: `config`, `index`, `init_retrieval`; where and how to look on the hub; fields
                of the configuration, such as `index_name`, `passages_path` and `index_path`.
        """
        from ..tokenizers.rag import RagTokenizer

        where = {name: kwargs.pop(name) for name in hub.ARGUMENTS if name in kwargs}
        index = kwargs.pop("index", indexed_dataset)
        init_retrieval = kwargs.pop("init_retrieval", True)
        config = kwargs.pop("config", None)
        own = Path(retriever_name_or_path) / OWN_INDEX
        if config is None:
            config = RagConfig.from_pretrained(retriever_name_or_path, **where, **kwargs)
        elif kwargs:
            config = RagConfig.from_dict(config.to_dict(), **kwargs)
        named = {"passages_path", "index_path", "dataset"} & set(kwargs)
        if "index_name" in kwargs and config.passages_path is not None:
            named.add("index_name")
        if index is None and not named and (own / SETTINGS).is_file():
            index = own
        tokenizer = RagTokenizer.from_pretrained(retriever_name_or_path, config=config, **where)
        return cls(config, tokenizer.question_encoder, tokenizer.generator, index, init_retrieval)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes the configuration and both tokenizers.

        Passages and index stay where they are; the configuration says where, if they are a folder
        of searchable documents.
        """
        from ..tokenizers.rag import RagTokenizer

        config, given = self.config, getattr(self._index, "folder", None)
        if given is not None and config.passages_path is None:
            own = Path(save_directory) / OWN_INDEX
            if given.resolve() != own.resolve():
                named = {"index_name": "custom", "passages_path": given.resolve()}
                config = RagConfig.from_dict(config.to_dict(), **named)
        config.save_pretrained(save_directory)
        tokenizer = RagTokenizer(self.question_encoder_tokenizer, self.generator_tokenizer)
        tokenizer.save_pretrained(save_directory)

    def set_ctx_encoder_tokenizer(self, ctx_encoder_tokenizer: Any) -> None:
        """From now on a call returns passages for a context encoder too, to train it.

        Args:
            ctx_encoder_tokenizer: its tokenizer.
        """
        self.ctx_encoder_tokenizer = ctx_encoder_tokenizer
        self.return_tokenized_docs = True

    @stage("tokenize")
    def tokenize_questions(self, questions: Sequence[str], longest: int) -> dict[str, np.ndarray]:
        """Questions for the question encoder: ids and mask, `(batch, sequence)`.

        Args:
            questions: texts.
            longest: number of tokens to cut them to.
        """
        tokenizer = self.question_encoder_tokenizer
        limit = min(longest, tokenizer.model_max_length)
        encoded = tokenizer(
            list(questions), padding=True, truncation=True, max_length=limit, return_tensors="np"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    @stage("retrieve")
    def retrieve(
        self, question_hidden_states: Any, n_docs: int
    ) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Looks passages up.

        Args:
            question_hidden_states: `(batch, dimension)`, vectors of questions.
            n_docs: how many passages for each.

        Returns:
            Vectors `(batch, n_docs, dimension)` and ids `(batch, n_docs)` of the passages, best
            first, and for each question a dictionary of their `title` and `text`.
        """
        check_count("n_docs", n_docs)
        vectors = check_vectors("question_hidden_states", question_hidden_states, None)
        parts = [
            self.index.get_top_docs(vectors[start : start + self.batch_size], n_docs)
            for start in range(0, len(vectors), self.batch_size)
        ]
        ids = np.concatenate([np.asarray(ids) for ids, _ in parts])
        embeddings = np.concatenate([np.asarray(found, np.float32) for _, found in parts])
        if embeddings.shape[-1] != vectors.shape[-1]:
            raise ValueError(
                f"the index holds vectors of {embeddings.shape[-1]} numbers, but those of the "
                f"questions have {vectors.shape[-1]}"
            )
        return embeddings, ids, self.index.get_doc_dicts(ids)

    @stage("tokenize")
    def postprocess_docs(
        self,
        docs: Sequence[Mapping[str, Any]],
        input_strings: Sequence[str],
        prefix: str | None,
        n_docs: int,
        return_tensors: Any = None,
    ) -> tuple[Any, Any]:
        """Joins questions with their passages.

        Args:
            docs: of each question, as `retrieve` gives them.
            input_strings: questions.
            prefix: what comes in front; None for nothing.
            n_docs: how many passages of each.
            return_tensors: `pt`, `tf`, `np`, or None for lists.

        Returns:
            `input_ids` and `attention_mask`, `(batch * n_docs, max_combined_length)`.
        """
        config = self.config
        texts = [
            self._joined(doc["title"][rank], doc["text"][rank], question, prefix)
            for doc, question in zip(docs, input_strings, strict=True)
            for rank in range(n_docs)
        ]
        encoded = self.generator_tokenizer(
            texts,
            max_length=config.max_combined_length,
            return_tensors=return_tensors,
            padding="max_length",
            truncation=True,
        )
        return encoded["input_ids"], encoded["attention_mask"]

    def _joined(self, title: str, text: str, question: str, prefix: str | None) -> str:
        """One passage with its question, for the generator."""
        title = title.removeprefix('"').removesuffix('"')
        config = self.config
        joined = f"{prefix or ''}{title}{config.title_sep}{text}{config.doc_sep}{question}"
        return joined.replace("  ", " ")

    def __call__(
        self,
        question_input_ids: Any,
        question_hidden_states: Any,
        prefix: str | None = None,
        n_docs: int | None = None,
        return_tensors: Any = None,
    ) -> BatchEncoding:
        """Finds passages for questions and joins both.

        Args:
            question_input_ids: `(batch, sequence)`, padded, as the question encoder reads them.
            question_hidden_states: `(batch, dimension)`, their vectors.
            prefix: what comes in front; by default the generator's `prefix`.
            n_docs: how many passages for each question; by default the configuration's.
            return_tensors: `pt`, `tf`, `np`, or None for lists.

        Returns:
            `context_input_ids`, `context_attention_mask` `(batch * n_docs, max_combined_length)`;
            `retrieved_doc_embeds` `(batch, n_docs, dimension)`; `doc_ids` `(batch, n_docs)`; after
            `set_ctx_encoder_tokenizer` also `tokenized_doc_ids` and `tokenized_doc_attention_mask`
            `(batch * n_docs, sequence)`.
        """
        from ..tokenizers import BatchEncoding

        n_docs = self.n_docs if n_docs is None else n_docs
        prefix = self.config.generator.prefix if prefix is None else prefix
        if len(question_input_ids) != len(question_hidden_states):
            raise ValueError(
                f"question_input_ids: expected {len(question_hidden_states)} rows, one for each of "
                f"question_hidden_states, got {len(question_input_ids)}"
            )
        embeddings, ids, docs = self.retrieve(question_hidden_states, n_docs)
        questions = self.question_encoder_tokenizer.batch_decode(
            as_array(question_input_ids), skip_special_tokens=True
        )
        input_ids, mask = self.postprocess_docs(docs, questions, prefix, n_docs, return_tensors)
        data = {
            "context_input_ids": input_ids,
            "context_attention_mask": mask,
            "retrieved_doc_embeds": embeddings,
            "doc_ids": ids,
        }
        if self.return_tokenized_docs:
            titles = [title for doc in docs for title in doc["title"]]
            texts = [text for doc in docs for text in doc["text"]]
            encoded = self.ctx_encoder_tokenizer(
                titles, texts, truncation=True, padding="longest", return_tensors=return_tensors
            )
            data["tokenized_doc_ids"] = encoded["input_ids"]
            data["tokenized_doc_attention_mask"] = encoded["attention_mask"]
        return BatchEncoding(data, tensor_type=return_tensors)


def _as_index(index: Any) -> PassageIndex:
    from .documents import DocumentIndex

    if isinstance(index, str | os.PathLike):
        index = DocumentIndex(index)
    if isinstance(index, DocumentIndex):
        return StoredIndex.of(index)
    methods = ("is_initialized", "init_index", "get_top_docs", "get_doc_dicts")
    missing = [name for name in methods if not hasattr(index, name)]
    if missing:
        raise ValueError(
            f"index: expected a DocumentIndex, a folder of one, or an object with the methods "
            f"{', '.join(methods)}; {type(index).__name__} has no {', '.join(missing)}"
        )
    return index


# Layouts of released checkpoints ------------------------------------------------------------------


def open_passages(config: RagConfig) -> DocumentIndex:
    """The folder of searchable documents that a configuration names.

    `passages_path` is such a folder, or a data set with the columns title, text and embeddings as
    the `datasets` library saves it: one of one's own (`index_name="custom"`), the published
    wiki_dpr ("exact", "compressed"), or a folder of what the paper's authors released ("legacy").
    A data set is read once, and turned into a folder beside it, or at `index_path`.

    A faiss index at `index_path` is read where the data set has no vectors; that needs `faiss`.

    Args:
        config: gives index_name, passages_path, index_path, dataset, dataset_split.

    Raises:
        ValueError: nothing there, or vectors of another width than `retrieval_vector_size`.
    """
    from .documents import DocumentIndex, build, new_settings

    place = _passages_path(config)
    documents = place
    if not (place / SETTINGS).exists():
        faiss_index = None if config.index_path is None else Path(config.index_path)
        if faiss_index is not None and not faiss_index.is_file():
            documents, faiss_index = faiss_index, None
        else:
            documents = place.with_name(f"{place.name}.documents")
        corpus = _legacy(place) if config.index_name == "legacy" else _dataset(place, faiss_index)
        settings = new_settings(corpus, None, own_vectors=True, index={"kind": "auto"})
        if not (documents / SETTINGS).exists():
            logger.info("%s is turned into %s, once", place, documents)
        build(corpus, documents, settings, make=None)
    opened = DocumentIndex(documents)
    if opened.index.dimension != config.retrieval_vector_size:
        raise ValueError(
            f"{documents} holds vectors of {opened.index.dimension} numbers, but "
            f"config.retrieval_vector_size is {config.retrieval_vector_size}"
        )
    return opened


def _passages_path(config: RagConfig) -> Path:
    if config.passages_path is not None:
        place = Path(config.passages_path)
        if not place.is_dir():
            raise ValueError(f"config.passages_path: there is no folder {place}")
        return place
    if config.index_name == "custom":
        raise ValueError("config.passages_path: None, expected a folder with index_name 'custom'")
    place = Path(config.dataset or "")
    for found in (place / (config.dataset_split or ""), place):
        if config.dataset and found.is_dir():
            return found
    for name in ("use_dummy_dataset", "dataset_revision"):
        if getattr(config, name):
            raise ValueError(
                f"config.{name}: {getattr(config, name)!r} says what to download, and nothing is "
                "downloaded here; name a folder of passages as passages_path"
            )
    raise ValueError(
        f"config.passages_path: None, and there is no folder {config.dataset!r}: download the data "
        f"set of index_name {config.index_name!r} and name its folder, or use passages of your own "
        "(index_name='custom')"
    )


class _Vectored(Corpus):
    """A corpus whose vectors are in an index of the faiss library.

    Args:
        path: the corpus.
        index: file of the index; its rows are the documents, in their order.
        documents: what is read instead of the files in `path`, in the order of the rows.
        dimension: the first so many numbers of a vector; all by default.
    """

    def __init__(
        self,
        path: Path,
        index: Path,
        documents: Iterable[Document] | None = None,
        dimension: int | None = None,
        **options: Any,
    ):
        super().__init__(path, **options)
        self.index, self.documents, self.dimension = index, documents, dimension

    def fingerprint(self) -> str:
        status = self.index.stat()
        return f"{super().fingerprint()} {status.st_size} {status.st_mtime_ns}"

    def __iter__(self) -> Iterator[Document]:
        faiss = _faiss()
        try:
            index = faiss.read_index(os.fspath(self.index), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise PassageError(f"{self.index} is no index of faiss: {error}") from None
        vectors: np.ndarray | None = None
        count = 0
        documents = super().__iter__() if self.documents is None else iter(self.documents)
        for document in documents:
            row = count % FAISS_AT_ONCE
            if row == 0:
                wanted = min(FAISS_AT_ONCE, index.ntotal - count)
                if wanted > 0:
                    vectors = index.reconstruct_n(count, wanted)[:, : self.dimension]
            if count >= index.ntotal or vectors is None:
                raise PassageError(f"{self.index} holds {index.ntotal} vectors, {self.path} more")
            yield document._replace(vector=vectors[row])
            count += 1
        if count != index.ntotal:
            raise PassageError(
                f"{self.index} holds {index.ntotal} vectors, {self.path} has {count} passages"
            )


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ModuleNotFoundError(
            "an index of faiss is read with its library: pip install 'twin-zoo[faiss]'"
        ) from None
    return faiss


def _dataset(place: Path, faiss_index: Path | None) -> Corpus:
    """Passages as `datasets` saves them, with vectors of their own or those of an index."""
    corpus = Corpus(place, format="datasets")
    if next(iter(corpus)).vector is not None:
        return corpus
    if faiss_index is None:
        raise ValueError(
            f"{place}: the data set has no vectors (a column embeddings); name its faiss index as "
            "config.index_path"
        )
    return _Vectored(place, faiss_index, format="datasets")


def _legacy(place: Path) -> Corpus:
    """What the paper's authors released: passages as text, or as a pickle of plain values."""
    index = place / f"{LEGACY_INDEX}.index.dpr"
    ids = _plain_pickle(place / f"{LEGACY_INDEX}.index_meta.dpr")
    found = [place / name for name in LEGACY_PASSAGES if (place / name).is_file()]
    if not found:
        raise ValueError(f"{place}: found neither {' nor '.join(LEGACY_PASSAGES)}")
    path = found[0]
    if path.suffix == ".pkl":
        passages = _plain_pickle(path)
    else:
        passages = {x.id: (x.text, x.title) for x in Corpus(path, format="tsv")}

    class InOrder:
        """The passages in the order of the index's rows."""

        def __iter__(self) -> Iterator[Document]:
            for id in ids:
                text, title = passages[id] if id in passages else passages[str(id)]
                yield Document(str(id), text, title or "", where=f"{path}, passage {id}")

    # The last number of a vector turned inner products into distances.
    return _Vectored(path, index, InOrder(), dimension=-1, format="tsv")


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, dictionaries, texts and numbers; anything else is refused unread."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}")


def _plain_pickle(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: not a pickle of plain values: {error}") from None

"""`zoo train rag`: one folder that answers questions, from text and questions alone."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from zoo import files
from zoo.configs import BartConfig, DPRConfig, RagConfig
from zoo.retrieval.documents import build, new_settings
from zoo.retrieval.passages import Document, PassageStore
from zoo.retrieval.readers import Corpus
from zoo.tokenizers import AutoTokenizer, RagTokenizer
from zoo.training.questions import Question, contexts, read_questions, split_questions
from zoo.training.state import remove_folder

from . import rag_evaluation

PASSAGES, CORPUS, TOKENIZER, READY = "passages", "corpus", "tokenizer", "ready"
CONTEXT_ENCODER, INDEX = "context_encoder", "index"
CLASSES = {"token": "RagTokenForGeneration", "sequence": "RagSequenceForGeneration"}
NEW_ENCODER = {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
NEW_GENERATOR = {
    "d_model": 128, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}  # fmt: skip
_POLL = 0.1  # seconds between two looks for what the first process has to do


@dataclass(frozen=True)
class Start:
    """Where models and tokenizers are from; None is trained from nothing.

    Args:
        question_encoder, generator: folders or repositories of the two.
        context_encoder: the same of the passages' encoder.
        model: a RAG folder, which holds the first two, and the third if it was trained here.
    """

    question_encoder: Path | None = None
    context_encoder: Path | None = None
    generator: Path | None = None
    model: Path | None = None

    def __post_init__(self) -> None:
        parts = {
            "--question-encoder": self.question_encoder,
            "--context-encoder": self.context_encoder,
            "--generator": self.generator,
        }
        given = [name for name, place in parts.items() if place is not None]
        if self.model is not None:
            if self.question_encoder or self.generator:
                raise ValueError(f"--model: its parts cannot be given too, received {given[0]}")
            if self.encoder_folder is None:
                raise ValueError(
                    f"--context-encoder: needed, as {self.model} has no folder {CONTEXT_ENCODER}"
                )
        elif given and len(given) < len(parts):
            missing = next(name for name in parts if name not in given)
            raise ValueError(f"{missing}: needed beside {given[0]}, or leave out all of them")

    @property
    def is_new(self) -> bool:
        """Whether there is nothing to start from."""
        return self.model is None and self.generator is None

    @property
    def encoder_folder(self) -> Path | None:
        """Of the passages' encoder."""
        if self.context_encoder is None and self.model is not None:
            place = self.model / CONTEXT_ENCODER
            return place if place.is_dir() else None
        return self.context_encoder


def texts_of(corpus: Path | None) -> tuple[list[Document], Path | None]:
    """Documents that are to be cut into passages, and the path of what is in passages already.

    Args:
        corpus: documents, questions in SQuAD's layout, or a folder of `zoo index build`; by
            default the references that ship with Python.
    """
    from .questions import python_documents

    if corpus is None:
        return python_documents(), None
    if corpus.suffix == ".json":
        return contexts(read_questions(corpus)), None
    if (corpus / PASSAGES).is_dir():
        return [], corpus / PASSAGES
    found = Corpus(corpus)
    return (list(found), None) if not found.is_split else ([], corpus)


def questions_of(
    questions: Sequence[Path] | None, testing: Sequence[Path] | None, held_out: float
) -> tuple[list[Question], list[Question]]:
    """Questions to train on and to test with; by default those that ship with the project."""
    from . import questions as shipped

    if questions:
        asked = read_questions(*questions)
    else:
        asked = shipped.python_questions()
        missing = shipped.unanswered(asked, (d.text for d in shipped.python_documents()))
        asked = [question for question in asked if question not in missing]
    if testing:
        return asked, read_questions(*testing)
    return split_questions(asked, held_out) if held_out else (asked, [])


class Work:
    """One training, phase by phase; each leaves what the next ones need.

    Args:
        framework: `pt` or `tf`.
        out: folder of the result; what leads to it is in `run/` below.
        start: where models are from.
        kind: `token` or `sequence`; None takes that of the model, or else `token`.
        leads: whether this process of a group writes and reports.
        lengths: `query_length`, `block_length`.
        seed: of everything random.
        device: of PyTorch.
    """

    def __init__(
        self,
        framework: str,
        out: Path,
        start: Start,
        kind: str | None,
        leads: bool,
        lengths: dict[str, int],
        seed: int,
        device: str | None = None,
    ):
        if device is not None and framework != "pt":
            raise ValueError("--device: of PyTorch; TensorFlow takes the first that it sees")
        self.framework, self.out, self.start, self.leads = framework, out, start, leads
        self.lengths, self.seed, self.device = lengths, seed, device
        self.kind = kind or self._kind_of(start) or "token"
        self.run = importlib.import_module(f"{framework}_models.rag_training")
        self._models = importlib.import_module(f"{framework}_models")
        self._seed()

    @staticmethod
    def _kind_of(start: Start) -> str | None:
        if start.model is None:
            return None
        names = RagConfig.from_pretrained(start.model).architectures or ()
        return next((kind for kind, name in CLASSES.items() if name in names), None)

    def say(self, text: str) -> None:
        if self.leads:
            typer.echo(text, err=True)

    def _folder(self, name: str) -> Path:
        return self.out / "run" / name

    def _first(self, name: str, make: Any, **source: Any) -> Path:
        """A folder that the first process makes, and the others wait for.

        Args:
            name: of the folder.
            make: fills it.
            source: what it is made of; one that is there has to be of the same.
        """
        folder = self._folder(name)
        marker = folder / READY
        content = json.dumps(source, sort_keys=True)
        if self.leads and not marker.exists():
            remove_folder(folder)  # what a kill left behind
            make(folder)
            files.atomic_write(marker, content)
        while not marker.exists():
            time.sleep(_POLL)
        if marker.read_text() != content:
            raise ValueError(
                f"{folder} was made of other text, or with other lengths; name another folder, or "
                "delete it"
            )
        return folder

    # Text ----------------------------------------------------------------------------------------

    def read(
        self,
        corpus: Path | None,
        training: Sequence[Question],
        vocab_size: int,
        generator_vocab_size: int,
    ) -> None:
        """Opens or trains the tokenizers, cuts the text into passages, and tokenises these."""
        from zoo.training.corpus import corpus_of, tokenizer_fingerprint

        documents, ready = texts_of(corpus)
        start = self.start
        if start.model is not None:
            self.tokenizer = RagTokenizer.from_pretrained(start.model)
        elif start.question_encoder is not None and start.generator is not None:
            self.tokenizer = RagTokenizer(
                AutoTokenizer.from_pretrained(start.question_encoder),
                AutoTokenizer.from_pretrained(start.generator),
            )
        else:
            self.tokenizer = self._new_tokenizer(
                documents, ready, training, vocab_size, generator_vocab_size
            )
        words = self.tokenizer.question_encoder
        source: dict[str, Any] = {
            "text": _digest(documents, ready), "tokenizer": tokenizer_fingerprint(words),
        }  # fmt: skip
        if ready is None:
            source["length"] = self.lengths["block_length"]
        self.passages = PassageStore(
            self._first(
                PASSAGES, lambda folder: self._cut(documents, ready, folder, words), **source
            )
        )
        self.titles = [passage.title for passage in self.passages]
        self.corpus = corpus_of(
            self._folder(PASSAGES), words,
            self._first(
                CORPUS, lambda folder: corpus_of(self._folder(PASSAGES), words, folder), **source
            ),
        )  # fmt: skip
        self.say(
            f"{corpus or 'Python'}: {len(self.corpus):,} passages of "
            f"{self.corpus.lengths.mean():.0f} word pieces on average"
        )

    def _new_tokenizer(
        self,
        documents: list[Document],
        ready: Path | None,
        training: Any,
        vocab_size: int,
        generator_vocab_size: int,
    ) -> RagTokenizer:
        from zoo.training.vocabulary import train_rag_tokenizer

        def make(folder: Path) -> None:
            known = itertools.chain(documents, () if ready is None else _stored(ready))
            parts = (part for document in known for part in (document.title, document.text))
            asked = (question.text for question in training)
            train_rag_tokenizer(
                itertools.chain(parts, asked), folder, vocab_size,
                generator_vocab_size=generator_vocab_size,
            )  # fmt: skip

        asked = [Document("", question.text) for question in training]
        source = {"text": _digest(documents, ready), "questions": _digest(asked, None)}
        sizes = {"vocab_size": vocab_size, "generator_vocab_size": generator_vocab_size}
        return RagTokenizer.from_pretrained(self._first(TOKENIZER, make, **sizes, **source))

    def _cut(self, documents: list[Document], ready: Path | None, folder: Path, words: Any) -> None:
        from zoo.retrieval.splitting import Splitter

        if ready is not None:
            found = iter(_stored(ready))
        else:
            # Some of the tokens are the title's.
            found = Splitter(words, self.lengths["block_length"] * 7 // 8)(documents)
        PassageStore.create(folder).add(found)

    # Models --------------------------------------------------------------------------------------

    def open(self, encoder_fields: str | None, generator_fields: str | None, n_docs: int) -> None:
        """Opens the three models, or makes new ones."""
        from zoo.training.batches import check_positions

        from .train_cli import _fields

        if self.start.is_new:
            self._new(_fields(encoder_fields), _fields(generator_fields))
        else:
            for name, given in (("fields", encoder_fields), ("generator-fields", generator_fields)):
                if given is not None:
                    raise ValueError(f"--{name}: of new models, but these have weights")
            start = self.start
            self.context_encoder = self._open("DPRContextEncoder", start.encoder_folder)
            if start.model is not None:
                whole = self._open(CLASSES[self.kind], start.model)
                self.question_encoder, self.generator = whole.question_encoder, whole.generator
            else:
                self.question_encoder = self._open("DPRQuestionEncoder", start.question_encoder)
                self.generator = self._open("AutoModelForSeq2SeqLM", start.generator)
        for config, name in (
            (self.context_encoder.config, "block_length"),
            (self.question_encoder.config, "query_length"),
        ):
            check_positions(config, **{name: self.lengths[name]})
        if self.framework == "pt":
            for model in (self.context_encoder, self.question_encoder, self.generator):
                model.to(self.device)
        config = RagConfig.from_question_encoder_generator_configs(
            self.question_encoder.config, self.generator.config, n_docs=n_docs,
            index_name="custom", retrieval_vector_size=self._dimension(),
        )  # fmt: skip
        config.max_combined_length = self._combined_length(config)
        self.model = self._class(CLASSES[self.kind])(
            config, question_encoder=self.question_encoder, generator=self.generator
        )
        if self.framework == "pt":
            self.model.eval()

    def _dimension(self) -> int:
        config = self.question_encoder.config
        return int(config.projection_dim or config.hidden_size)

    def _combined_length(self, config: RagConfig) -> int:
        """What the longest passage needs beside a question, if the generator has room for it."""
        tokenizer = self.tokenizer.generator
        texts = (f"{p.title}{config.title_sep}{p.text}{config.doc_sep}" for p in self.passages)
        longest = 0
        while part := list(itertools.islice(texts, 512)):
            ids = tokenizer(part, verbose=False)["input_ids"]
            longest = max(longest, max(map(len, ids)))
        room = getattr(self.generator.config, "max_position_embeddings", None) or 1 << 20
        # A question has more tokens here than word pieces now and then.
        return min(longest + self.lengths["query_length"] * 5 // 4, room)

    def _new(self, encoder: dict[str, Any], generator: dict[str, Any]) -> None:
        """New models, that start in a way that learns on little text."""
        words, letters = self.tokenizer.question_encoder, self.tokenizer.generator
        encoder, generator = NEW_ENCODER | encoder, NEW_GENERATOR | generator
        longest = max(self.lengths.values())
        sizes = {
            "vocab_size": len(words), "pad_token_id": words.pad_token_id,
            "max_position_embeddings": max(longest, 16), "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "intermediate_size": 4 * encoder["hidden_size"],
            # The published 0.02 goes with wider layers.
            "initializer_range": round(encoder["hidden_size"] ** -0.5, 4),
        }  # fmt: skip
        dpr = DPRConfig(**(sizes | encoder))
        width = generator["d_model"]
        tokens = {
            "vocab_size": len(letters), "pad_token_id": letters.pad_token_id,
            "bos_token_id": letters.bos_token_id, "eos_token_id": letters.eos_token_id,
            "decoder_start_token_id": letters.eos_token_id, "forced_eos_token_id": None,
            "max_position_embeddings": 3 * longest, "dropout": 0.0,
            "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width,
            "init_std": round(width**-0.5, 4),
        }  # fmt: skip
        bart = BartConfig(**(tokens | generator))
        self.context_encoder = self._class("DPRContextEncoder")(dpr)
        self.question_encoder = self._class("DPRQuestionEncoder")(dpr)
        self.generator = self._class("BartForConditionalGeneration")(bart)
        self.run.start_flat(self.context_encoder)
        self.run.copy_encoder(self.context_encoder, self.question_encoder)
        self.run.start_generator(self.generator, self.seed)

    def _class(self, name: str) -> Any:
        return getattr(self._models, name if self.framework == "pt" else f"TF{name}")

    def _open(self, name: str, place: Path | None) -> Any:
        model = self._class(name).from_pretrained(place)
        return model.eval() if self.framework == "pt" else model

    def _seed(self) -> None:
        if self.framework == "pt":
            import torch

            torch.manual_seed(self.seed)
        else:
            import keras

            keras.utils.set_random_seed(self.seed)

    # Training ------------------------------------------------------------------------------------

    def examples(self, training: Sequence[Question]) -> list[Any]:
        """The training questions for which a passage is known.

        Raises:
            ValueError: there are none.
        """
        from zoo.training.rag import examples

        found = examples(training, self.corpus, self.titles)
        if not found:
            raise ValueError(
                f"--questions: none of {len(training)} has an answer in the passages; set "
                "--pair-steps and --reading-steps to 0, or name a corpus that answers them"
            )
        self.say(f"{len(found)} of {len(training)} training questions have a passage of their own")
        return found

    def index(self) -> None:
        """Looks passages up by the context encoder's vectors from now on."""
        from zoo.retrieval import build_index
        from zoo.training.rag import retriever_of

        vectors = self.run.embed_corpus(
            self.context_encoder, self.corpus, self.lengths["block_length"]
        )
        self.model.set_retriever(
            retriever_of(self.model.config, self.tokenizer, build_index(vectors), self.passages)
        )

    def joiner(self) -> Any:
        """A retriever that joins questions and passages; nothing is searched for."""
        from zoo.retrieval import build_index
        from zoo.training.rag import retriever_of

        vectors = np.zeros((1, self.model.config.retrieval_vector_size), np.float32)
        index = build_index(vectors, kind="exact")
        return retriever_of(self.model.config, self.tokenizer, index, self.passages)

    # The end -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes all that answers questions into one folder."""
        if not self.leads:
            return
        out = self.out
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        place = out / CONTEXT_ENCODER
        self.context_encoder.save_pretrained(place)
        self.tokenizer.question_encoder.save_pretrained(place)
        module = importlib.import_module(f"{self.framework}_models.embedding")
        embedder = module.TextEmbedder if self.framework == "pt" else module.TFTextEmbedder
        blocks = _Blocks(self.passages.folder)
        settings = new_settings(
            blocks, place, encoder="DPRContextEncoder", max_length=self.lengths["block_length"],
            index={"kind": "auto"},
        )  # fmt: skip
        remove_folder(out / INDEX)  # of an earlier training, with other weights
        build(blocks, out / INDEX, settings, make=embedder.from_pretrained)

    def score(self, name: str, questions: Sequence[Question], **generation: Any) -> Any:
        """Measures the model on questions, and says how good it is; None without any."""
        if not questions or not self.leads:
            return None
        scores = rag_evaluation.evaluate(self.model, questions, **generation)
        shown = "  ".join(f"@{k} {share:.1f}" for k, share in scores.recall.items())
        words = "  ".join(f"@{k} {share:.1f}" for k, share in scores.bm25.items())
        self.say(
            f"{name}, {scores.questions} questions held out: recall {shown} (BM25 {words}), "
            f"exact match {scores.exact_match:.1f}, F1 {scores.f1:.1f}"
        )
        return scores


class _Blocks(Corpus):
    """Passages that are stored already, as documents in blocks, in their order."""

    def __init__(self, folder: Path):
        self._store = PassageStore(folder)
        super().__init__(folder, format="jsonl")

    def fingerprint(self) -> str:
        return f"{len(self._store)} {self._store.generation}"

    def __iter__(self) -> Iterator[Document]:
        return _stored(self._store.folder)


def _stored(place: Path) -> Iterator[Document]:
    """The passages of a store or of a file with one a line, each a document of its own name."""
    from zoo.retrieval.passages import MANIFEST

    if not (place / MANIFEST).exists():
        yield from Corpus(place)
        return
    for passage in PassageStore(place):
        yield Document(
            passage.document, passage.text, passage.title, passage.metadata, passage.part
        )


def _digest(documents: Sequence[Document], ready: Path | None) -> str:
    """Tells one text from another."""
    found = hashlib.sha256()
    for document in itertools.chain(documents, () if ready is None else _stored(ready)):
        found.update(f"{document.title}\0{document.text}\0".encode())
    return found.hexdigest()

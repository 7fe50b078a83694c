"""`zoo ask` with a RAG model: generated answers, and what each passage has to do with them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from zoo import hub
from zoo.retrieval.answers import RagAnswer, RagEvidence
from zoo.retrieval.documents import SETTINGS, DocumentIndex
from zoo.retrieval.embedding import fingerprint
from zoo.retrieval.rag import OWN_INDEX, RagRetriever

from . import parse_config
from .ask import DOCUMENTS, LONGEST_BLOCK, SHOWN, build_documents

MODEL_TYPE = "rag"
CONTEXT_ENCODER = "context_encoder"  # a checkpoint in the model's folder
HEADS = ("RagTokenForGeneration", "RagSequenceForGeneration")
FAINT, STRONG = 0.1, 0.5  # shares from which a token is shown as a passage's


def is_rag(folder: str | os.PathLike[str] | None) -> bool:
    """Whether a folder or repository holds a RAG model; a file or no folder at all does not."""
    if folder is None or os.path.isfile(folder):
        return False
    try:
        return _config(folder).get("model_type") == MODEL_TYPE
    except hub.HubError:
        return False  # who opens it says what is wrong


def _config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What config.json says, nothing where there is none."""
    path = hub.resolve_file(folder, "config.json")
    return {} if path is None else parse_config(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def opened(
    model: str | os.PathLike[str] | None = None,
    corpus: str | os.PathLike[str] | None = None,
    *,
    index: str | os.PathLike[str] | None = None,
    framework: str = "pt",
    block_length: int | None = None,
    progress: Any = None,
) -> Iterator[Any]:
    """A RAG model with its passages.

    Args:
        model: folder or repository of a RAG model; by default `corpus` is one.
        corpus: documents in any known format, or a folder that `zoo index build` made with the
            model's context encoder. By default what is in the model's folder, or what its
            configuration names.
        index: folder to keep the passages of documents and their vectors in, and to take them
            from the next time; by default they last as long as the model is open.
        framework: `pt` or `tf`.
        block_length: word pieces of a passage, where documents are cut.
        progress: see `zoo.retrieval.documents.build`.

    Raises:
        ValueError: no model, no passages, or ones with the vectors of another context encoder.
    """
    if model is None:
        if not is_rag(corpus):
            raise ValueError(f"--model: expected a RAG checkpoint, as {corpus} is none")
        model, corpus = corpus, None
    assert model is not None
    if not is_rag(model):
        kind = _config(model).get("model_type")
        raise ValueError(f"--rag: {model} is no RAG model, its model_type is {kind!r}")
    if corpus is not None and Path(corpus).resolve() == Path(model).resolve():
        corpus = None
    answering = load(model, framework)
    with contextlib.ExitStack() as stack:
        documents = None
        if corpus is not None:
            places = (Path(corpus), Path(corpus) / DOCUMENTS, Path(corpus) / OWN_INDEX)
            documents = next((x for x in places if (x / SETTINGS).is_file()), None)
            if documents is None:
                kept = Path(index or stack.enter_context(tempfile.TemporaryDirectory()))
                documents = kept / DOCUMENTS
                encoder = context_encoder(model)
                config = json.loads((encoder / "config.json").read_text())
                room = config.get("max_position_embeddings") or 512
                length = block_length or min(room, LONGEST_BLOCK)
                build_documents(Path(corpus), documents, encoder, framework, length, progress)
            _assert_fits(documents, model)
        retriever = RagRetriever.from_pretrained(
            model, documents and DocumentIndex(documents), config=answering.config
        )
        width = answering.question_encoder.config
        _assert_width(retriever, getattr(width, "projection_dim", 0) or width.hidden_size)
        answering.set_retriever(retriever)
        yield answering


def load(model: str | os.PathLike[str], framework: str = "pt") -> Any:
    """A RAG model of the class that its config.json names, without passages.

    Raises:
        ValueError: it names none that generates.
    """
    names = _config(model).get("architectures") or [None]
    name = str(names[0]).removeprefix("TF")
    if name not in HEADS:
        raise ValueError(
            f"{model}: config.json names the architecture {names[0]!r}, expected one of "
            f"{', '.join(HEADS)}"
        )
    prefix = "" if framework == "pt" else "TF"
    models = importlib.import_module(f"{framework}_models")
    answering = getattr(models, f"{prefix}{name}").from_pretrained(model)
    return answering.eval() if framework == "pt" else answering


def context_encoder(model: str | os.PathLike[str]) -> Path:
    """The checkpoint that gives passages their vectors: in the folder, or of its own index.

    Raises:
        ValueError: there is none.
    """
    own = Path(model) / CONTEXT_ENCODER
    if (own / "config.json").is_file():
        return own
    settings = Path(model) / OWN_INDEX / SETTINGS
    if settings.is_file():
        made_with = json.loads(settings.read_text())["model"]
        folder = made_with["folder"] and Path(model, OWN_INDEX, made_with["folder"])
        if folder and folder.is_dir() and fingerprint(folder) == made_with["fingerprint"]:
            return folder
    raise ValueError(
        f"{model}: no {CONTEXT_ENCODER}/ in it, which documents need; or pass as --corpus what "
        "`zoo index build` made with the model's context encoder"
    )


def _assert_fits(documents: Path, model: str | os.PathLike[str]) -> None:
    """Vectors of another context encoder would be compared all the same, and find anything."""
    ours = Path(model) / CONTEXT_ENCODER
    theirs = json.loads((documents / SETTINGS).read_text())["model"]["fingerprint"]
    if theirs is None or not (ours / "config.json").is_file():
        return  # vectors of unknown origin, or nothing to compare with
    if fingerprint(ours) != theirs:
        raise ValueError(
            f"{documents} was made with another context encoder than the model's: fingerprint "
            f"{str(theirs)[:12]}..., that of {ours} is {fingerprint(ours)[:12]}..."
        )


def _assert_width(retriever: RagRetriever, width: int) -> None:
    index = getattr(retriever.index, "index", None)
    if index is not None and index.dimension != width:
        raise ValueError(
            f"the passages have vectors of {index.dimension} numbers, the question encoder gives "
            f"{width}"
        )


# Answers in words ---------------------------------------------------------------------------------


def as_json(question: str, answers: Sequence[RagAnswer]) -> dict[str, Any]:
    """A question and its answers, as JSON can hold them."""
    return {
        "question": question,
        "answers": [
            {**answer._asdict(), "passages": [x._asdict() for x in answer.passages]}
            for answer in answers
        ],
    }


def print_answers(
    question: str, answers: Sequence[RagAnswer], console: Console, shown: int = SHOWN
) -> None:
    """Prints answers, each with its passages and their shares, per token where there are such.

    The passages are the same for all answers; their texts come with the first.
    """
    console.print(Text(question, style="bold"))
    for number, answer in enumerate(answers, 1):
        head = Text(f"{number}. ").append(one_line(answer.text), style="bold green")
        head.append(f"   probability {answer.probability:.3g}", style="dim")
        console.print(head)
        for passage in sorted(answer.passages, key=lambda x: -x.share):
            line = Text(f"   {passage.share:4.0%}  ")
            line.append(one_line(passage.title) or f"passage {passage.id}", style="bold")
            line.append(f"  (passage {passage.id}, {passage.score:.2f})", style="dim")
            if passage.shares_per_token is not None:
                line.append("  ").append(per_token(answer, passage))
            console.print(line)
            if number == 1:
                text = one_line(passage.text)
                cut = text if len(text) <= shown else f"{text[:shown]}…"
                console.print(Text(f"         {cut}", style="dim"))


def per_token(answer: RagAnswer, passage: RagEvidence) -> Text:
    """An answer's tokens with a passage's share of each."""
    line = Text()
    for token, share in zip(answer.tokens, passage.shares_per_token or (), strict=True):
        style = "reverse" if share >= STRONG else "" if share >= FAINT else "dim"
        line.append(one_line(token) or "·", style=style).append(f" {share:.2f} ", style="dim")
    return line


def one_line(text: str) -> str:
    """A text without line breaks, control characters and spaces around it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())

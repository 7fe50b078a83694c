"""`zoo ask` and `zoo evaluate realm`: questions answered out of documents, with the evidence."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from zoo.retrieval.answers import Answer
from zoo.retrieval.bm25 import BM25
from zoo.retrieval.documents import SETTINGS, DocumentIndex, build, new_settings
from zoo.retrieval.embedding import fingerprint
from zoo.retrieval.realm import BLOCK_RECORDS, RealmRetriever
from zoo.tokenizers import AutoTokenizer
from zoo.training.questions import Question

from .scores import AT_ONCE, RECALL_AT, Scores, answer_scores, question_inputs, shares

EMBEDDER, DOCUMENTS = "embedder", "documents"  # in the folder that `index` names
QUESTION, LONGEST_BLOCK = 32, 256  # tokens
SHOWN = 320  # characters of a block


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
    """A model that answers questions out of a corpus.

    Args:
        model: folder or repository of a `RealmForOpenQA`; by default `corpus` is one.
        corpus: documents in any known format, a folder that `zoo index build` made, or a model
            with its block records. By default the model's own.
        index: folder to keep the blocks of documents and their vectors in, and to take them from
            the next time; by default they last as long as the model is open.
        framework: `pt` or `tf`.
        block_length: word pieces of a block, where documents are cut; by default what the reader
            takes beside a question of 32 tokens, and at most 256.
        progress: see `zoo.retrieval.documents.build`.

    Raises:
        ValueError: no model, one without the vectors of its blocks, or documents that were indexed
            with another one.
    """
    if model is None and corpus is not None and (Path(corpus) / BLOCK_RECORDS).is_file():
        model = corpus
    if model is None:
        raise ValueError(
            f"--model: expected a checkpoint, as {corpus} is no model with blocks of its own"
        )
    if corpus is not None and Path(corpus).resolve() == Path(model).resolve():
        corpus = None
    if corpus is None:
        yield open_model(model, framework)
        return
    if (Path(corpus) / BLOCK_RECORDS).is_file():
        raise ValueError(f"--corpus: {corpus} is a model with blocks of its own, leave out --model")
    answering = _load(model, framework)
    with contextlib.ExitStack() as stack:
        tokenizer = AutoTokenizer.from_pretrained(model)
        folder = next((x for x in _places(corpus) if (x / SETTINGS).is_file()), None)
        if folder is None:
            kept = Path(index or stack.enter_context(tempfile.TemporaryDirectory()))
            folder = kept / DOCUMENTS
            if not (folder / SETTINGS).is_file():
                answering.embedder.save_pretrained(kept / EMBEDDER)
                tokenizer.save_pretrained(kept / EMBEDDER)
            config = answering.config
            room = min(config.reader_seq_len, config.max_position_embeddings) - QUESTION
            length = block_length or max(min(room, LONGEST_BLOCK), QUESTION)
            build_documents(
                Path(corpus), folder, kept / EMBEDDER, framework, length, progress,
                encoder="RealmEmbedder",
            )  # fmt: skip
        documents = DocumentIndex(folder)
        _assert_fits(documents, answering)
        answering.retriever = RealmRetriever(documents.passages, tokenizer)
        answering.set_index(documents.index)
        yield answering


def open_model(model: str | os.PathLike[str], framework: str = "pt") -> Any:
    """A model with the blocks that are in the same folder or repository.

    Raises:
        ValueError: there are none.
    """
    answering = _load(model, framework)
    if answering.retriever is None and not os.path.isdir(model):
        answering.retriever = RealmRetriever.from_pretrained(model)
    if answering.retriever is None:
        raise ValueError(f"{model}: no {BLOCK_RECORDS} in it; --corpus: expected documents")
    return answering


def _load(model: str | os.PathLike[str], framework: str) -> Any:
    models = importlib.import_module(f"{framework}_models")
    prefix = "" if framework == "pt" else "TF"
    answering = getattr(models, f"{prefix}RealmForOpenQA").from_pretrained(model)
    return answering.eval() if framework == "pt" else answering


def _places(corpus: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Where searchable documents may be in a folder."""
    return Path(corpus), Path(corpus) / DOCUMENTS


def build_documents(
    corpus: Path,
    documents: Path,
    checkpoint: Path,
    framework: str,
    length: int,
    progress: Any,
    **options: Any,
) -> None:
    """Cuts documents into passages and embeds them.

    Args:
        corpus: documents in any known format.
        documents: folder to make.
        checkpoint: of what gives them their vectors.
        framework: `pt` or `tf`.
        length: word pieces of a passage; documents that come in passages are left as they are.
        progress: see `zoo.retrieval.documents.build`.
        options: of `zoo.retrieval.documents.new_settings`.
    """
    from zoo.retrieval.readers import Corpus

    module = importlib.import_module(f"{framework}_models.embedding")
    embedder = module.TextEmbedder if framework == "pt" else module.TFTextEmbedder
    found = Corpus(corpus)
    settings = new_settings(
        found, checkpoint, length=None if found.is_split else length,
        index={"kind": "auto", "target_recall": 0.95, "shards": 1}, **options,
    )  # fmt: skip
    shown = {} if progress is None else {"progress": progress}
    build(found, documents, settings, make=embedder.from_pretrained, **shown)


def _assert_fits(documents: DocumentIndex, answering: Any) -> None:
    """Vectors of another embedder would be compared all the same, and find anything."""
    with tempfile.TemporaryDirectory() as scratch:
        answering.embedder.save_pretrained(scratch)
        ours = fingerprint(scratch)
    theirs = documents.settings["model"]["fingerprint"]
    if theirs != ours:
        raise ValueError(
            f"{documents.folder} was made with another embedder than the model's: fingerprint "
            f"{str(theirs)[:12]}..., the model's is {ours[:12]}..."
        )


# Answers in words ---------------------------------------------------------------------------------


def as_json(question: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """A question and its answers, as JSON can hold them."""
    return {"question": question, "answers": [answer._asdict() for answer in answers]}


def print_answers(
    question: str, answers: Sequence[Answer], console: Console, shown: int = SHOWN
) -> None:
    """Prints answers, each with its score and its block, in which the answer is marked."""
    console.print(Text(question, style="bold"))
    if not answers:
        console.print("no answer in the blocks that were read")
    for number, answer in enumerate(answers, 1):
        head = Text(f"{number}. ").append(answer.text, style="bold green")
        head.append(
            f"   {answer.score:.2f} (reader {answer.reader_score:.2f}, block {answer.block_id} "
            f"{answer.retriever_score:.2f})",
            style="dim",
        )
        console.print(head)
        console.print(evidence(answer, shown))


def evidence(answer: Answer, shown: int = SHOWN) -> Text:
    """The part of a block around an answer, with the answer marked."""
    room = max(shown - (answer.end - answer.start), 0) // 2
    low = max(0, min(answer.start - room, len(answer.block) - shown))
    high = min(len(answer.block), max(answer.end + room, shown))
    text = Text("   " + ("…" if low else ""), style="dim")
    text.append(" ".join(answer.block[low : answer.start].split(" ")).replace("\n", " "))
    text.append(answer.block[answer.start : answer.end], style="reverse bold not dim")
    text.append(answer.block[answer.end : high].replace("\n", " "))
    return text.append("…" if high < len(answer.block) else "")


# Evaluation ---------------------------------------------------------------------------------------


def evaluate(
    model: Any, questions: Sequence[Question], ks: Sequence[int] = RECALL_AT, words: bool = True
) -> Scores:
    """Answers questions and counts.

    Args:
        model: with its retriever.
        questions: with their answers.
        ks: how many blocks count for recall.
        words: whether to search by words too, over all blocks.
    """
    texts = [question.text for question in questions]
    given = model.answer(texts, n_best=1)
    exact, f1 = answer_scores([a[0].text if a else "" for a in given], questions)
    by_words = {}
    if words:
        searched = BM25(_all_blocks(model))
        by_words = recall(model, questions, searched.search(texts, max(ks))[0], ks)
    return Scores(
        len(questions), exact, f1, recall(model, questions, retrieved(model, texts, max(ks)), ks),
        by_words,
    )  # fmt: skip


def by_words(model: Any, texts: Sequence[str]) -> list[list[Answer]]:
    """The best answer to each question from the blocks that a search by words finds."""
    rows, _ = BM25(_all_blocks(model)).search(texts, model.config.reader_beam_size)
    before = model.index
    found = []
    try:
        for text, row in zip(texts, rows, strict=True):
            model.set_index(_Given(row))
            found.extend(model.answer([text], n_best=1))
    finally:
        model.set_index(before)
    return found


class _Given:
    """An index that finds the same blocks whatever is asked."""

    def __init__(self, row: np.ndarray):
        self._row = row

    def search(self, vectors: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.tile(self._row[:k], (len(vectors), 1))
        return rows, np.zeros(rows.shape, np.float32)


def retrieved(model: Any, texts: Sequence[str], k: int) -> np.ndarray:
    """The blocks that a model finds for questions, best first, `(questions, k)`."""
    vectors = np.concatenate(
        [
            _question_vectors(model, texts[start : start + AT_ONCE])
            for start in range(0, len(texts), AT_ONCE)
        ]
    )
    if model.index is not None:
        return np.asarray(model.index.search(vectors, k)[0])
    from zoo.retrieval.exact import exact_top

    table = model.block_emb
    table = table.detach().cpu().numpy() if hasattr(table, "detach") else np.asarray(table)
    rows = exact_top(vectors, np.ascontiguousarray(table, np.float32), min(k, len(table)))[0]
    return np.asarray(rows)


def _question_vectors(model: Any, texts: Sequence[str]) -> np.ndarray:
    inputs = question_inputs(model, texts, model.config.max_position_embeddings)
    if type(model).__module__.startswith("pt_models"):
        import torch

        model.eval()
        with torch.inference_mode():
            return model.embedder(**inputs, return_dict=True).projected_score.float().cpu().numpy()
    vectors = model.embedder(**inputs, return_dict=True, training=False).projected_score
    return np.asarray(vectors, np.float32)


def recall(
    model: Any, questions: Sequence[Question], rows: np.ndarray, ks: Sequence[int] = RECALL_AT
) -> dict[int, float]:
    """The share of questions with an answer in one of the first k blocks, token by token.

    Args:
        model: with its retriever.
        questions: with their answers.
        rows: blocks that were found, best first, `(questions, found)`; -1 for none.
        ks: how many blocks count.
    """
    retriever = model.retriever
    tokens: dict[int, str] = {}

    def joined(texts: Sequence[str]) -> list[str]:
        encoded = retriever.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [f" {' '.join(map(str, row))} " for row in encoded["input_ids"]]

    wanted = sorted({int(row) for row in rows.ravel() if row >= 0})
    if wanted:
        tokens = dict(zip(wanted, joined(retriever.texts(np.array(wanted))), strict=True))
    right = []
    for question, found in zip(questions, rows, strict=True):
        answers = [answer for answer in joined(question.answers) if answer.strip()]
        right.append([any(a in tokens.get(int(row), "") for a in answers) for row in found])
    return shares(right, ks)


def _all_blocks(model: Any) -> list[str]:
    """The texts of all blocks; a place that no block has is empty."""
    records = model.retriever.block_records
    if hasattr(records, "ids"):  # a store of passages, whose numbers have gaps
        texts = [""] * (int(max(records.ids(), default=-1)) + 1)
        for passage in records.read(records.ids().tolist()):
            texts[passage.id] = f"{passage.title} {passage.text}"
        return texts
    return model.retriever.texts(np.arange(len(records)))


def prompt(
    model: Any,
    n_best: int,
    console: Console,
    show: Callable[[str, Any, Console], None] = print_answers,
    **options: Any,
) -> None:
    """Answers what is typed, until an empty line or the end of the input.

    Args:
        model: has an `answer`.
        n_best: answers to each question.
        console: prints.
        show: prints a question and its answers.
        options: of `answer`.
    """
    console.print("\nYour question (an empty line ends):", style="bold")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            question = ""
        if not question:
            return
        show(question, model.answer([question], n_best=n_best, **options)[0], console)

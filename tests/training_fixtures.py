"""A small corpus, its tokenizer, questions, and models: what the tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from zoo.configs import RealmConfig
from zoo.retrieval.passages import Document
from zoo.training.corpus import BlockCorpus
from zoo.training.questions import Question
from zoo.training.vocabulary import train_tokenizer

NAMES = "Ada Bela Cora Dora Elsa Fina Gita Hana Inga Jana Kira Lena".split()
TOWNS = "Rome Oslo Kyiv Bonn Lima Cork Nice Bern".split()
THINGS = "a stone bridge|a brass clock|a wool coat|a paper boat|a glass lamp|a tin box".split("|")


def documents() -> list[Document]:
    """Three sentences about each of 48 people, with a name and a year to be hidden."""
    found = []
    for number in range(48):
        name = f"{NAMES[number % 12]} {chr(65 + number % 7)}{TOWNS[number % 5].lower()}"
        town, year = TOWNS[number % 8], 1850 + 3 * number
        thing = THINGS[number % 6]
        text = (
            f"The records say that {name} was born in {town} in the year {year} and stayed there. "
            f"As everyone knows, {name} made {thing} that is still shown to visitors of {town}. "
            f"It was found again in {year + 60} by people who had read about it."
        )
        found.append(Document(f"{number}", text, f"About {name}"))
    return found


def questions() -> list[Question]:
    """When each of them was born."""
    found = []
    for document in documents():
        name = document.title.removeprefix("About ")
        year = document.text.split("the year ")[1][:4]
        found.append(Question(f"In which year was {name} born?", (year,)))
    return found


def texts() -> list[str]:
    """All that the vocabulary is learned from."""
    return [d.text for d in documents()] + [q.text for q in questions()]


class Setting(NamedTuple):
    """A corpus in a folder with its tokenizer."""

    corpus: BlockCorpus
    tokenizer: Any
    folder: Path


def make_setting(folder: Path) -> Setting:
    tokenizer = train_tokenizer(texts(), folder / "tokenizer", 240)
    corpus = BlockCorpus.build(documents(), tokenizer, folder / "corpus", spans="rules")
    return Setting(corpus, tokenizer, folder)


def make_config(setting: Setting, **overrides: Any) -> RealmConfig:
    fields: dict[str, Any] = {
        "vocab_size": len(setting.tokenizer), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "retriever_proj_size": 12,
        "span_hidden_size": 10, "max_span_width": 6, "max_position_embeddings": 128,
        "reader_seq_len": 112, "reader_beam_size": 3, "searcher_beam_size": 7,
        "num_candidates": 4, "initializer_range": 0.2, "pad_token_id": 0,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "num_block_records": len(setting.corpus),
    }  # fmt: skip
    return RealmConfig(**fields | overrides)

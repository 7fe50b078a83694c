"""Passages, tokenizers and models that are small enough to look at, for the tests of RAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from zoo import BartConfig, DPRConfig, RagConfig, RagRetriever, RagTokenizer, T5Config

DIMENSION = 6
TITLES = ["Gold", '"Silver"', "Iron", "Tin", "Lead", "Copper", "Zinc", "Nickel", "Cobalt"]
PASSAGES = [
    {"title": title, "text": f"{title} is  a metal, number {number} of the list."}
    for number, title in enumerate(TITLES)
]
QUESTIONS = ["what is gold", "which number has tin ?", "is lead a metal"]


class ExactIndex:
    """The published interface of an index, over a few vectors."""

    def __init__(self, passages: list[dict[str, str]], vectors: np.ndarray):
        self.passages, self.vectors = passages, vectors
        self.is_open = False

    @classmethod
    def recorded(cls, folder: Path) -> ExactIndex:
        """What the recorded numbers were made with."""
        passages = json.loads((folder / "passages.json").read_text())
        return cls(passages, np.load(folder / "passages_embeddings.npy"))

    def is_initialized(self) -> bool:
        return self.is_open

    def init_index(self) -> None:
        self.is_open = True

    def get_top_docs(self, question_hidden_states: Any, n_docs: int) -> tuple[Any, Any]:
        scores = question_hidden_states @ self.vectors.T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :n_docs]
        return ids, self.vectors[ids]

    def get_doc_dicts(self, doc_ids: Any) -> list[dict[str, Any]]:
        rows = [[self.passages[int(id)] for id in row] for row in doc_ids]
        return [{name: [x[name] for x in row] for name in ("title", "text")} for row in rows]


def retriever(folder: Path, index: Any) -> RagRetriever:
    """The retriever of a recorded checkpoint."""
    config = RagConfig.from_pretrained(folder)
    tokenizer = RagTokenizer.from_pretrained(folder, config=config)
    return RagRetriever(config, tokenizer.question_encoder, tokenizer.generator, index)


def vectors(seed: int = 0) -> np.ndarray:
    """Those of `PASSAGES`."""
    return np.random.default_rng(seed).standard_normal((len(PASSAGES), DIMENSION), np.float32)


def save_tokenizers(folder: Path) -> None:
    """Vocabularies of the words and of the letters in the texts above, as checkpoints have them."""
    from zoo.tokenizers import BartTokenizer, DPRQuestionEncoderTokenizer
    from zoo.tokenizers.bart import byte_letters

    texts = QUESTIONS + [x[name] for x in PASSAGES for name in x]
    words = sorted({word.strip('",.?') for text in texts for word in text.lower().split()})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ".", "?"]
    parts = folder / "parts"
    parts.mkdir()
    (parts / "vocab.txt").write_text("".join(f"{x}\n" for x in specials + words if x))
    merges = ["Ġ t", "Ġt h", "a l", "e t", "et al", "Ġ m", "Ġm etal", "i s", "Ġ is"]
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_letters().values()]
    tokens = letters + [merge.replace(" ", "") for merge in merges]
    (parts / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(tokens)}))
    (parts / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    question_encoder = DPRQuestionEncoderTokenizer(parts / "vocab.txt")
    generator = BartTokenizer(parts / "vocab.json", parts / "merges.txt")
    RagTokenizer(question_encoder, generator).save_pretrained(folder)


def rag_config(generator: str = "bart", vocab: int = 280, words: int = 60, **fields: Any) -> Any:
    """A tiny model's, wide enough in its weights to have opinions."""
    question_encoder = DPRConfig(
        vocab_size=words,
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=9,
        max_position_embeddings=30,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.5,
    )
    if generator == "bart":
        made: Any = BartConfig(
            vocab_size=vocab,
            d_model=12,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=3,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=10,
            max_position_embeddings=120,
            dropout=0.0,
            init_std=0.5,
        )
    else:
        made = T5Config(
            vocab_size=vocab,
            d_model=12,
            d_kv=5,
            d_ff=14,
            num_layers=1,
            num_decoder_layers=2,
            num_heads=2,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            tie_word_embeddings=False,
            feed_forward_proj="gated-gelu",
        )
    own = {"n_docs": 3, "max_combined_length": 100, "retrieval_vector_size": DIMENSION}
    return RagConfig.from_question_encoder_generator_configs(
        question_encoder, made, **{**own, "index_name": "custom", **fields}
    )


def save_system(folder: Path, name: str, **fields: Any) -> Path:
    """A RAG model of random weights with its tokenizers, and its passages in `index/`."""
    import torch

    import pt_models
    from zoo.retrieval.documents import build, new_settings
    from zoo.retrieval.readers import Corpus

    folder.mkdir(parents=True)
    save_tokenizers(folder)
    torch.manual_seed(0)
    config = rag_config(max_length=9, **fields)
    config.generator.decoder_layers = 1
    getattr(pt_models, name)(config).save_pretrained(folder)
    lines = [
        json.dumps({"id": str(number), **passage, "embeddings": vector.tolist()})
        for number, (passage, vector) in enumerate(zip(PASSAGES, 0.4 * vectors(), strict=True))
    ]
    (folder / "passages.jsonl").write_text("\n".join(lines))
    corpus = Corpus(folder / "passages.jsonl")
    settings = new_settings(corpus, None, own_vectors=True, index={"kind": "exact"})
    build(corpus, folder / "index", settings, make=None)
    return folder

"""Vocabularies of one's own text: WordPiece, and byte-level BPE.

Source: Wu et al. 2016, section 4.1; learned by merging the pair that occurs most often, as
SentencePiece does it. The trainer of WordPiece in the `tokenizers` library breaks ties at random,
so that no two runs of it agree; its trainer of byte-level BPE does not. Sennrich et al. 2015,
section 3.2, of merging pairs; Radford et al. 2019, section 2.2, of doing so with bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BART_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_START = "\u2581"  # marks the first piece of a word in SentencePiece
_LINE = 100  # words; SentencePiece leaves out long lines


def train_tokenizer(
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    vocab_size: int = 30522,
    *,
    do_lower_case: bool = True,
) -> Any:
    """Learns a vocabulary and saves REALM's tokenizer with it.

    The same texts give the same vocabulary, in which every character of theirs is a token, so that
    none of their words is unknown.

    Args:
        texts: to learn from.
        folder: for the tokenizer's files.
        vocab_size: the most tokens, special ones included.
        do_lower_case: whether text is lower-cased.

    Returns:
        `RealmTokenizerFast`.

    Raises:
        ValueError: no room for the characters of the texts, or no texts.
    """
    from ..tokenizers.realm import RealmTokenizerFast

    return _wordpiece(RealmTokenizerFast, texts, folder, vocab_size, do_lower_case)


def train_rag_tokenizer(
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    vocab_size: int = 30522,
    *,
    generator_vocab_size: int | None = None,
    do_lower_case: bool = False,
) -> Any:
    """Learns the vocabularies of a RAG model: WordPiece for DPR, byte-level BPE for BART.

    What the generator reads of a question is what the question encoder's tokenizer leaves of it,
    so capitals are kept by default.

    Args:
        texts: to learn from.
        folder: for the tokenizers' two sub-folders.
        vocab_size: the most tokens of either, special ones included.
        generator_vocab_size: of the generator's, if it is to have others.
        do_lower_case: whether the question encoder's text is lower-cased.

    Returns:
        `RagTokenizer`.

    Raises:
        ValueError: no room for the characters of the texts, or no texts.
    """
    from ..tokenizers.dpr import DPRQuestionEncoderTokenizerFast
    from ..tokenizers.rag import FOLDERS, RagTokenizer

    texts = list(texts)
    places = {part: Path(folder) / name for part, name in FOLDERS.items()}
    question_encoder = _wordpiece(
        DPRQuestionEncoderTokenizerFast, texts, places["question_encoder"], vocab_size,
        do_lower_case,
    )  # fmt: skip
    letters = _bytes(texts, places["generator"], generator_vocab_size or vocab_size)
    return RagTokenizer(question_encoder, letters)


def _wordpiece(
    tokenizer_class: Any,
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    vocab_size: int,
    do_lower_case: bool,
) -> Any:
    """Learns a vocabulary and saves a tokenizer with it."""
    tokens = _train(texts, vocab_size, do_lower_case)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocab_file = folder / "vocab.txt"
    vocab_file.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    tokenizer = tokenizer_class(vocab_file=str(vocab_file), do_lower_case=do_lower_case)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _bytes(texts: Iterable[str], folder: Path, vocab_size: int) -> Any:
    """Learns merges of bytes and saves BART's tokenizer with them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from ..tokenizers.bart import MERGES_FILE, VOCAB_FILE, BartTokenizerFast, byte_letters

    letters = sorted(byte_letters().values())
    if vocab_size < len(letters) + len(BART_SPECIAL):
        raise ValueError(
            f"vocab_size: received {vocab_size}, expected at least "
            f"{len(letters) + len(BART_SPECIAL)} for all bytes"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(BART_SPECIAL), initial_alphabet=letters,
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.model.save(str(folder))
    # A first word is like any other, so that an answer is spelled as the passage spells it.
    tokenizer = BartTokenizerFast(
        str(folder / VOCAB_FILE), str(folder / MERGES_FILE), add_prefix_space=True
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _train(texts: Iterable[str], vocab_size: int, lower_case: bool) -> list[str]:
    """The tokens, special ones first."""
    import sentencepiece
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    splitter = pre_tokenizers.BertPreTokenizer()
    characters: set[str] = set()
    model = io.BytesIO()

    def cut() -> Iterator[str]:
        for text in texts:
            found = [w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
            characters.update(*found)
            for start in range(0, len(found), _LINE):
                yield " ".join(found[start : start + _LINE])

    lines = list(cut())
    if not lines:
        raise ValueError("texts: there is nothing to learn a vocabulary from")
    # Each character at the start of a word and within.
    alone = [token for one in sorted(characters) for token in (one, f"##{one}")]
    room = vocab_size - len(SPECIAL) - len(alone)
    if room < 0:
        raise ValueError(
            f"vocab_size: received {vocab_size}, expected at least {len(SPECIAL) + len(alone)} for "
            f"the {len(characters)} characters of the texts"
        )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=vocab_size,
        hard_vocab_limit=False, num_threads=1, minloglevel=2, bos_id=-1, eos_id=-1,
        normalization_rule_name="identity", split_by_unicode_script=False, split_by_number=False,
        character_coverage=1.0,
    )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = (trained.id_to_piece(number) for number in range(1, trained.get_piece_size()))
    learnt = (piece[1:] if piece.startswith(_START) else f"##{piece}" for piece in pieces)
    known = {*alone, ""}
    longer = [piece for piece in learnt if piece not in known]
    return [*SPECIAL, *alone, *longer[:room]]

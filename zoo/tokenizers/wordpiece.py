"""BERT's tokenizers: words, cut into the longest pieces of a vocabulary from the left.

Source: Devlin et al. 2018, section 3; Wu et al. 2016, section 4.1. Text is cleaned, lower-cased
and stripped of accents where asked, cut at white space, punctuation and around Chinese characters;
a word that the vocabulary cannot spell is unknown as a whole.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from .cls_sep import ClsSepFastMixin, ClsSepMixin
from .saving import TOKENIZER_FILE
from .slow import PreTrainedTokenizer

VOCAB_FILE = "vocab.txt"
PREFIX = "##"
LONGEST_WORD = 100  # characters; a longer word is unknown

# Blocks of Chinese characters, which count as words of their own; kana and hangul do not.
_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
# All of ASCII's symbols count as punctuation, also those that Unicode calls something else.
_ASCII_SYMBOLS = frozenset(chr(code) for code in range(33, 127) if not chr(code).isalnum())


def read_vocabulary(vocab_file: Any) -> dict[str, int]:
    """The tokens of a vocabulary file, one a line, with their ids.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    if vocab_file is None:
        raise ValueError(f"vocab_file: received None, expected the path of a {VOCAB_FILE}")
    try:
        lines = Path(vocab_file).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"vocab_file: {vocab_file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"vocab_file: {vocab_file} is not UTF-8 at byte {error.start}") from None
    if not lines[-1]:
        lines.pop()
    return {token: index for index, token in enumerate(lines)}


def vocabulary_text(vocabulary: dict[str, int]) -> bytes:
    """The vocabulary file of these tokens.

    Raises:
        ValueError: the ids have gaps, which a file of lines cannot say.
    """
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"the ids of the vocabulary have gaps: there is no {VOCAB_FILE} of it")
    return "".join(f"{token}\n" for token in tokens).encode()


@lru_cache(maxsize=1 << 16)
def character_kind(character: str) -> str:
    """`drop`, `space`, `chinese`, `symbol` or `letter`."""
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return "space"
    if character in "\0\ufffd" or category[0] == "C":
        return "drop"
    if character in _ASCII_SYMBOLS or category[0] == "P":
        return "symbol"
    code = ord(character)
    return "chinese" if any(low <= code <= high for low, high in _CHINESE) else "letter"


class BasicTokenizer:
    """Cuts a text into words and symbols.

    Args:
        do_lower_case: whether words are lower-cased.
        never_split: words that are left as they are.
        tokenize_chinese_chars: whether each Chinese character is a word.
        strip_accents: whether accents are dropped; None does what `do_lower_case` says.
        do_split_on_punc: whether symbols are words of their own.
    """

    def __init__(
        self,
        do_lower_case: bool = True,
        never_split: Iterable[str] | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        do_split_on_punc: bool = True,
    ):
        self.do_lower_case = do_lower_case
        self.never_split = set(never_split or ())
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.strip_accents = strip_accents
        self.do_split_on_punc = do_split_on_punc

    def tokenize(self, text: str, never_split: Iterable[str] = ()) -> list[str]:
        """The words and symbols of a text.

        Args:
            text: the text.
            never_split: further words that are left as they are.
        """
        kept = self.never_split.union(never_split)
        words: list[str] = []
        for word in unicodedata.normalize("NFC", self._clean(text)).split():
            if word in kept:
                words.append(word)
                continue
            if self.do_lower_case:
                word = word.lower()
            if self.do_lower_case if self.strip_accents is None else self.strip_accents:
                decomposed = unicodedata.normalize("NFD", word)
                word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
            words += self._cut(word)
        return words

    def _clean(self, text: str) -> str:
        """Without control characters, with plain spaces, and some around Chinese characters."""
        parts = []
        for character in text:
            kind = character_kind(character)
            if kind == "chinese" and self.tokenize_chinese_chars:
                parts.append(f" {character} ")
            elif kind != "drop":
                parts.append(" " if kind == "space" else character)
        return "".join(parts)

    def _cut(self, word: str) -> list[str]:
        """The word, cut around its symbols."""
        if not self.do_split_on_punc:
            return word.split()
        cut = "".join(f" {c} " if character_kind(c) == "symbol" else c for c in word)
        return cut.split()


class WordpieceTokenizer:
    """Cuts a word into the longest pieces of a vocabulary, from the left.

    Args:
        vocab: the pieces; those that continue a word begin with `prefix`.
        unk_token: what stands for a word that cannot be cut.
        max_input_chars_per_word: a longer word is unknown.
        prefix: of pieces that continue a word.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        unk_token: str,
        max_input_chars_per_word: int = LONGEST_WORD,
        prefix: str = PREFIX,
    ):
        self.vocab = vocab
        self.unk_token = unk_token
        self.max_input_chars_per_word = max_input_chars_per_word
        self.prefix = prefix

    def tokenize(self, text: str) -> list[str]:
        """The pieces of words that are separated by white space."""
        return [piece for word in text.split() for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        if len(word) > self.max_input_chars_per_word:
            return [self.unk_token]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            front = self.prefix if start else ""
            for end in range(len(word), start, -1):
                piece = front + word[start:end]
                if piece in self.vocab:
                    break
            else:
                return [self.unk_token]
            pieces.append(piece)
            start = end
        return pieces


class BertTokenizer(ClsSepMixin, PreTrainedTokenizer):
    """BERT's tokenizer in Python.

    Args:
        vocab_file: path of the vocabulary, one token a line.
        do_lower_case: whether text is lower-cased.
        do_basic_tokenize: whether text is cut into words and symbols before words are cut into
            pieces; without it, only white space separates words.
        never_split: words that are left as they are, with `do_basic_tokenize`.
        unk_token, sep_token, pad_token, cls_token, mask_token: special tokens.
        tokenize_chinese_chars: whether each Chinese character is a word.
        strip_accents: whether accents are dropped; None does what `do_lower_case` says.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}

    def __init__(
        self,
        vocab_file: Any,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Iterable[str] | None = None,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self._vocab = read_vocabulary(vocab_file)
        self._tokens = {index: token for token, index in self._vocab.items()}
        self.do_basic_tokenize = do_basic_tokenize
        self.basic_tokenizer = BasicTokenizer(
            do_lower_case, never_split, tokenize_chinese_chars, strip_accents
        )
        self.wordpiece_tokenizer = WordpieceTokenizer(self._vocab, str(unk_token))
        super().__init__(
            do_lower_case=do_lower_case,
            do_basic_tokenize=do_basic_tokenize,
            never_split=None if never_split is None else list(never_split),
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            tokenize_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return self._vocab | self.added_tokens_encoder

    @property
    def _lowers(self) -> bool:
        return self.do_lower_case and self.do_basic_tokenize

    def _tokenize(self, text: str) -> list[str]:
        if not self.do_basic_tokenize:
            return self.wordpiece_tokenizer.tokenize(text)
        special = self.all_special_tokens
        kept = self.basic_tokenizer.never_split
        return [
            piece
            for word in self.basic_tokenizer.tokenize(text, special)
            for piece in ([word] if word in kept else self.wordpiece_tokenizer.tokenize(word))
        ]

    def _base_id(self, token: str) -> int | None:
        return self._vocab.get(token)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._vocab.get(token, self._vocab.get(self.unk_token))

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens.get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens).replace(f" {PREFIX}", "").strip()

    def _vocabulary_files(self) -> dict[str, bytes]:
        return {VOCAB_FILE: vocabulary_text(self._vocab)}


class BertTokenizerFast(ClsSepFastMixin):
    """BERT's tokenizer on the `tokenizers` library.

    It is read from a tokenizer.json, and made from the vocabulary where there is none. Case,
    accents and Chinese characters are treated as the arguments say in either case.

    Args:
        vocab_file: path of the vocabulary, one token a line.
        tokenizer_file: path of a tokenizer.json.
        do_lower_case: whether text is lower-cased.
        unk_token, sep_token, pad_token, cls_token, mask_token: special tokens.
        clean_text: whether control characters are dropped and all white space is made plain;
            None does what a tokenizer.json says, and does without one.
        tokenize_chinese_chars: whether each Chinese character is a word.
        strip_accents: whether accents are dropped; None does what `do_lower_case` says.
        wordpieces_prefix: of pieces that continue a word; None stands for that of a
            tokenizer.json, and for "##" without one.
        kwargs: see `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE, "tokenizer_file": TOKENIZER_FILE}
    slow_tokenizer_class = BertTokenizer

    def __init__(
        self,
        vocab_file: Any = None,
        tokenizer_file: Any = None,
        do_lower_case: bool = True,
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        clean_text: bool | None = None,
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        wordpieces_prefix: str | None = None,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self._unknown = str(unk_token)
        self._prefix = wordpieces_prefix
        given = {"clean_text": clean_text, "wordpieces_prefix": wordpieces_prefix}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        super().__init__(
            tokenizer_file=tokenizer_file,
            do_lower_case=do_lower_case,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            tokenize_chinese_chars=tokenize_chinese_chars,
            strip_accents=strip_accents,
            **kwargs,
        )
        backend = self._tokenizer
        if isinstance(backend.normalizer, normalizers.BertNormalizer):
            if clean_text is None:
                clean_text = backend.normalizer.clean_text
            backend.normalizer = normalizers.BertNormalizer(
                clean_text=clean_text,
                handle_chinese_chars=tokenize_chinese_chars,
                strip_accents=strip_accents,
                lowercase=do_lower_case,
            )
            self._changed()
        if wordpieces_prefix is not None and isinstance(backend.model, models.WordPiece):
            backend.model.continuing_subword_prefix = wordpieces_prefix
            backend.decoder = decoders.WordPiece(wordpieces_prefix)
        if backend.post_processor is None:
            self._set_template()

    def _convert(self) -> tokenizers.Tokenizer:
        if self.vocab_file is None:
            raise ValueError(
                f"{type(self).__name__} needs a tokenizer_file ({TOKENIZER_FILE}) or a vocab_file "
                f"({VOCAB_FILE})"
            )
        prefix = PREFIX if self._prefix is None else self._prefix
        model = models.WordPiece(
            read_vocabulary(self.vocab_file),
            unk_token=self._unknown,
            max_input_chars_per_word=LONGEST_WORD,
            continuing_subword_prefix=prefix,
        )
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix)
        return backend

    def _vocabulary_files(self) -> dict[str, bytes]:
        state = json.loads(self._tokenizer.to_str())["model"]
        return {VOCAB_FILE: vocabulary_text(state["vocab"])}

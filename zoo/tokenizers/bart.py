"""BART's tokenizers: byte-level BPE, <s> text </s></s> second text </s>.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2;
Sennrich et al. 2015 of merging pairs. A text is cut into words with the space before them; each of
their bytes is written as one visible letter, and letters are merged pair by pair in the order that
a file lists. So any text can be spelled, and nothing is lost.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from .base import Call, PreTrainedTokenizerBase
from .fast import PreTrainedTokenizerFast
from .saving import TOKENIZER_FILE, read_json
from .slow import PreTrainedTokenizer

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
VERSION = "#version"
CACHED_WORDS = 1 << 16

CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
# Over the kinds of characters, see `_kind`: letters, numbers or other signs, each with the space
# before them; white space, but for the last of it where something follows, or this last one.
WORD = re.compile(" ?(?:L+|N+|O+)|[ S]+(?![LNO])|[ S]+")


@lru_cache(maxsize=1)
def byte_letters() -> dict[int, str]:
    """The visible letter that stands for each byte.

    Bytes that are visible as Latin-1 stand for themselves, the others for what follows U+0100.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


@lru_cache(maxsize=1)
def letter_bytes() -> dict[str, int]:
    """The byte that each letter stands for."""
    return {letter: byte for byte, letter in byte_letters().items()}


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """A letter L, a number N, white space S (a plain space itself), or anything else O."""
    if character == " ":
        return " "
    category = unicodedata.category(character)
    if category[0] == "Z" or character in "\t\n\v\f\r\x85":
        return "S"
    return category[0] if category[0] in "LN" else "O"


def words(text: str) -> Iterator[str]:
    """The words, numbers, signs and spaces that a text is cut into; together they are the text."""
    kinds = "".join(map(_kind, text))
    at = 0
    while at < len(text):
        found = CONTRACTION.match(text, at) or WORD.match(kinds, at)
        assert found is not None
        yield text[at : found.end()]
        at = found.end()


def read_merges(merges_file: Any) -> dict[tuple[str, str], int]:
    """The pairs of a merges file, one a line, with their places.

    Raises:
        ValueError: there is no such file, or a line holds no pair.
    """
    if merges_file is None:
        raise ValueError(f"merges_file: received None, expected the path of a {MERGES_FILE}")
    try:
        lines = Path(merges_file).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"merges_file: {merges_file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"merges_file: {merges_file} is not UTF-8 at byte {error.start}") from None
    merges: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith(VERSION):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise ValueError(f"{merges_file}, line {number}: expected a pair, found {line!r}")
        merges[pair[0], pair[1]] = len(merges)
    return merges


def _read_vocabulary(vocab_file: Any) -> dict[str, int]:
    if vocab_file is None:
        raise ValueError(f"vocab_file: received None, expected the path of a {VOCAB_FILE}")
    try:
        vocabulary = read_json(vocab_file)
    except OSError as error:
        raise ValueError(f"vocab_file: {vocab_file} cannot be read: {error.strerror}") from None
    for token, index in vocabulary.items():
        if not isinstance(index, int):
            raise ValueError(f"vocab_file: {vocab_file}: {token!r} has the id {index!r}")
    return vocabulary


def _files(vocabulary: Mapping[str, int], merges: Any) -> dict[str, bytes]:
    text = json.dumps(vocabulary, indent=2, ensure_ascii=False, sort_keys=True)
    lines = [f"{VERSION}: 0.2", *(" ".join(pair) for pair in merges)]
    return {VOCAB_FILE: f"{text}\n".encode(), MERGES_FILE: ("\n".join(lines) + "\n").encode()}


class BartMixin(PreTrainedTokenizerBase):
    """<s> text </s>, or <s> text </s></s> second text </s>; there are no token types."""

    model_input_names = ["input_ids", "attention_mask"]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        cls, sep = [self.cls_token_id], [self.sep_token_id]
        if token_ids_1 is None:
            return cls + token_ids_0 + sep
        return cls + token_ids_0 + sep + sep + token_ids_1 + sep

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
        mask = [1] + [0] * len(token_ids_0) + [1]
        return mask if token_ids_1 is None else mask + [1] + [0] * len(token_ids_1) + [1]


def _token(token: str | AddedToken, lstrip: bool = False) -> AddedToken:
    if isinstance(token, AddedToken):
        return token
    return AddedToken(token, lstrip=lstrip, normalized=True, special=True)


class BartTokenizer(BartMixin, PreTrainedTokenizer):
    """BART's tokenizer in Python.

    Args:
        vocab_file: path of the vocabulary, a JSON object of tokens and ids.
        merges_file: path of the pairs to merge, one a line.
        errors: what decoding does with bytes that are no UTF-8, as for `bytes.decode`.
        bos_token, eos_token, sep_token, cls_token, unk_token, pad_token, mask_token: special
            tokens. The mask token takes the spaces before it along, unless it is given as an
            `AddedToken` that does not.
        add_prefix_space: whether a text begins with a space, so that its first word is like any
            other.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE, "merges_file": MERGES_FILE}

    def __init__(
        self,
        vocab_file: Any,
        merges_file: Any,
        errors: str = "replace",
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        sep_token: str | AddedToken = "</s>",
        cls_token: str | AddedToken = "<s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        add_prefix_space: bool = False,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self.merges_file = merges_file
        self.errors = errors
        self.add_prefix_space = add_prefix_space
        self._vocab = _read_vocabulary(vocab_file)
        self._merges = read_merges(merges_file)
        self._tokens = {index: token for token, index in self._vocab.items()}
        self._spelled: dict[str, list[str]] = {}
        super().__init__(
            errors=errors,
            bos_token=_token(bos_token),
            eos_token=_token(eos_token),
            sep_token=_token(sep_token),
            cls_token=_token(cls_token),
            unk_token=_token(unk_token),
            pad_token=_token(pad_token),
            mask_token=_token(mask_token, lstrip=True),
            add_prefix_space=add_prefix_space,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return self._vocab | self.added_tokens_encoder

    def _prefixed(self, text: Any, always: bool = False) -> Any:
        """The text with a space in front, where it has none."""
        wanted = always or self.add_prefix_space
        if wanted and isinstance(text, str) and text and not text[0].isspace():
            return f" {text}"
        return text

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        if not add_special_tokens:
            text, pair = self._prefixed(text), self._prefixed(pair)
        return super().tokenize(text, pair, add_special_tokens, **kwargs)

    def _encode_flat(self, texts: list[str], call: Call) -> list[list[int]]:
        # Words are cut out of a text where there is a space before them.
        texts = [self._prefixed(text, call.is_split_into_words) for text in texts]
        return super()._encode_flat(texts, call)

    def _tokenize(self, text: str) -> list[str]:
        return [token for word in words(text) for token in self._spell(word)]

    def _spell(self, word: str) -> list[str]:
        """The tokens of a word."""
        spelled = self._spelled.get(word)
        if spelled is None:
            try:
                data = word.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text: {word!a} has a lone surrogate at {error.start}, which is no valid "
                    "Unicode and cannot be tokenized"
                ) from None
            letters = byte_letters()
            spelled = self._merged([letters[byte] for byte in data])
            if len(self._spelled) >= CACHED_WORDS:
                self._spelled.clear()
            self._spelled[word] = spelled
        return spelled

    def _merged(self, parts: list[str]) -> list[str]:
        """Joins the pair that comes first in the file wherever it is, until there is none."""
        merges, last = self._merges, len(self._merges)
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: merges.get(pair, last))
            if best not in merges:
                break
            joined, at = [], 0
            while at < len(parts):
                if at < len(pairs) and pairs[at] == best:
                    joined.append(parts[at] + parts[at + 1])
                    at += 2
                else:
                    joined.append(parts[at])
                    at += 1
            parts = joined
        return parts

    def _base_id(self, token: str) -> int | None:
        return self._vocab.get(token)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._vocab.get(token, self._vocab.get(self.unk_token))

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens.get(index, self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        known = letter_bytes()
        data = bytearray()
        for character in "".join(tokens):
            byte = known.get(character)
            data += character.encode() if byte is None else bytes([byte])
        return data.decode(errors=self.errors)

    def _vocabulary_files(self) -> dict[str, bytes]:
        return _files(self._vocab, self._merges)


class BartTokenizerFast(BartMixin, PreTrainedTokenizerFast):
    """BART's tokenizer on the `tokenizers` library.

    It is read from a tokenizer.json, and made from vocabulary and merges where there is none.

    Args:
        vocab_file: path of the vocabulary, a JSON object of tokens and ids.
        merges_file: path of the pairs to merge, one a line.
        tokenizer_file: path of a tokenizer.json.
        errors: kept for the files that have it; the library replaces what is no UTF-8.
        bos_token, eos_token, sep_token, cls_token, unk_token, pad_token, mask_token: special
            tokens, as for `BartTokenizer`.
        add_prefix_space: whether a text begins with a space, so that its first word is like any
            other. Texts that are lists of words need it.
        trim_offsets: whether the characters of a token leave out the space before it.
        kwargs: see `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {
        "vocab_file": VOCAB_FILE,
        "merges_file": MERGES_FILE,
        "tokenizer_file": TOKENIZER_FILE,
    }
    slow_tokenizer_class = BartTokenizer

    def __init__(
        self,
        vocab_file: Any = None,
        merges_file: Any = None,
        tokenizer_file: Any = None,
        errors: str = "replace",
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        sep_token: str | AddedToken = "</s>",
        cls_token: str | AddedToken = "<s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self.merges_file = merges_file
        self.add_prefix_space = add_prefix_space
        super().__init__(
            tokenizer_file=tokenizer_file,
            errors=errors,
            bos_token=_token(bos_token),
            eos_token=_token(eos_token),
            sep_token=_token(sep_token),
            cls_token=_token(cls_token),
            unk_token=_token(unk_token),
            pad_token=_token(pad_token),
            mask_token=_token(mask_token, lstrip=True),
            add_prefix_space=add_prefix_space,
            trim_offsets=trim_offsets,
            **kwargs,
        )
        backend = self._tokenizer
        if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space)
        if isinstance(backend.post_processor, processors.RobertaProcessing | None):
            backend.post_processor = processors.RobertaProcessing(
                (self.sep_token, self.sep_token_id),
                (self.cls_token, self.cls_token_id),
                trim_offsets,
                add_prefix_space,
            )

    def _convert(self) -> tokenizers.Tokenizer:
        if self.vocab_file is None or self.merges_file is None:
            raise ValueError(
                f"{type(self).__name__} needs a tokenizer_file ({TOKENIZER_FILE}), or a vocab_file "
                f"({VOCAB_FILE}) and a merges_file ({MERGES_FILE})"
            )
        vocabulary, merges = _read_vocabulary(self.vocab_file), read_merges(self.merges_file)
        try:
            model = models.BPE(
                vocabulary,
                list(merges),
                continuing_subword_prefix="",
                end_of_word_suffix="",
                fuse_unk=False,
            )
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(
                f"{self.vocab_file} and {self.merges_file} do not fit each other: {error}"
            ) from None
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(self.add_prefix_space)
        backend.decoder = decoders.ByteLevel()
        return backend

    def _encodings(
        self, texts: list[Any], pairs: list[Any] | None, call: Call, offsets: bool
    ) -> list[tokenizers.Encoding]:
        if call.is_split_into_words and not self.add_prefix_space:
            raise ValueError(
                f"is_split_into_words: {type(self).__name__} needs add_prefix_space=True for it, "
                "as words are cut out of a text where there is a space before them"
            )
        return super()._encodings(texts, pairs, call, offsets)

    def _vocabulary_files(self) -> dict[str, bytes]:
        state = json.loads(self._tokenizer.to_str())["model"]
        pairs = [x.split(" ") if isinstance(x, str) else x for x in state["merges"]]
        return _files(state["vocab"], pairs)

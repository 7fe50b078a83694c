"""SentencePiece: the Python tokenizers on its library, and the reading of its model files."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .slow import PreTrainedTokenizer

UNIGRAM = 1


@dataclass
class SentencePieceModel:
    """The parts of a SentencePiece model file that a tokenizer needs."""

    pieces: list[tuple[str, float]]
    types: list[int]
    model_type: int = UNIGRAM
    unk_id: int = 0
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_vocab_file(vocab_file: Any) -> bytes:
    """The bytes of a SentencePiece model file.

    Raises:
        ValueError: there is no such file.
    """
    if vocab_file is None:
        raise ValueError("vocab_file: received None, expected the path of a SentencePiece model")
    try:
        return Path(vocab_file).read_bytes()
    except OSError as error:
        raise ValueError(f"vocab_file: {vocab_file} cannot be read: {error.strerror}") from None


def keep_spaces(model_proto: bytes) -> bytes:
    """The same model with runs of spaces, and those at the ends, left as they are.

    In protobuf's encoding a message that occurs twice is merged: what is appended here is a
    normalizer_spec (field 3) with remove_extra_whitespaces (field 4) set to false.
    """
    return model_proto + b"\x1a\x02\x20\x00"


def keep_beginning(model_proto: bytes) -> bytes:
    """The same model without a space that is put in front of a text.

    As `keep_spaces`, with add_dummy_prefix (field 3) set to false.
    """
    return model_proto + b"\x1a\x02\x18\x00"


def parse_model(model_proto: bytes) -> SentencePieceModel:
    """Reads a SentencePiece model; needs neither protobuf nor the sentencepiece library.

    Args:
        model_proto: content of a `.model` file.

    Raises:
        ValueError: it is no such file.
    """
    model = SentencePieceModel([], [])
    try:
        rest = _read_pieces(model_proto, model)
        for field, value in _fields(memoryview(model_proto)[rest:]):
            if field == 1:  # one piece: text, score, type
                text, score, kind = "", 0.0, 1
                for part, entry in _fields(value):
                    if part == 1:
                        text = bytes(entry).decode("utf-8")
                    elif part == 2:
                        (score,) = struct.unpack("<f", entry)
                    elif part == 3:
                        kind = entry
                model.pieces.append((text, score))
                model.types.append(kind)
            elif field == 2:  # trainer_spec
                for part, entry in _fields(value):
                    if part == 3:
                        model.model_type = entry
                    elif part == 35:
                        model.byte_fallback = bool(entry)
            elif field == 3:  # normalizer_spec
                for part, entry in _fields(value):
                    if part == 2:
                        model.charsmap = bytes(entry)
                    elif part == 3:
                        model.add_dummy_prefix = bool(entry)
                    elif part == 4:
                        model.remove_extra_whitespaces = bool(entry)
    except (IndexError, TypeError, struct.error, UnicodeDecodeError):
        raise ValueError("not a SentencePiece model: its bytes cannot be parsed") from None
    if not model.pieces:
        raise ValueError("not a SentencePiece model: it has no pieces")
    model.unk_id = model.types.index(2) if 2 in model.types else 0
    return model


def _read_pieces(data: bytes, model: SentencePieceModel) -> int:
    """Reads the plain pieces that a file starts with, a text and a score each; gives their end.

    The general reader could do the same. There are a quarter of a million, and this is faster.
    """
    at, end = 0, len(data)
    score = struct.Struct("<f").unpack_from
    while at + 2 < end and data[at] == 0x0A and data[at + 1] < 0x80:
        start = at + 2
        after = start + data[at + 1]
        text_end = start + 2 + data[start + 1]
        kind = 1
        if after == text_end + 7 and data[after - 2] == 0x18:
            kind = data[after - 1]
        elif after != text_end + 5:
            break
        if data[start] != 0x0A or data[text_end] != 0x15 or after > end:
            break
        model.pieces.append((data[start + 2 : text_end].decode(), score(data, text_end + 1)[0]))
        model.types.append(kind)
        at = after
    return at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a message in protobuf's encoding."""
    data = memoryview(message)
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise IndexError(f"wire type {kind}")
        if at + size > end:
            raise IndexError("cut off")
        yield key >> 3, data[at : at + size]
        at += size


class SentencePieceTokenizer(PreTrainedTokenizer):
    """Base of the tokenizers on the `sentencepiece` library.

    A subclass names its file in `vocab_files_names` and its special tokens in its constructor.

    Args:
        vocab_file: path of the SentencePiece model.
        sp_model_kwargs: options of `SentencePieceProcessor`, for instance for sampling.
        kwargs: see `PreTrainedTokenizer`.

    Attributes:
        sp_model: the `SentencePieceProcessor`.
        sp_model_proto: the model as bytes, as `sp_model` uses it.
    """

    sp_model_proto: bytes

    def __init__(
        self, vocab_file: Any, sp_model_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ):
        self.vocab_file = vocab_file
        self.sp_model_kwargs = sp_model_kwargs or {}
        self._vocab_bytes = read_vocab_file(vocab_file)
        self.sp_model_proto = self._model_proto()
        self._load()
        if sp_model_kwargs:
            kwargs["sp_model_kwargs"] = sp_model_kwargs
        super().__init__(**kwargs)

    def _model_proto(self) -> bytes:
        """The model to use, made from the file's bytes."""
        return self._vocab_bytes

    def _load(self) -> None:
        self.sp_model = self._processor(self.sp_model_proto)
        self._vocab_size = self.sp_model.get_piece_size()
        self._unk = self.sp_model.unk_id()

    def _processor(self, model_proto: bytes) -> Any:
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(**_sampling(self.sp_model_kwargs))
        try:
            processor.LoadFromSerializedProto(model_proto)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self.vocab_file}: not a SentencePiece model: {error}") from None
        return processor

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "sp_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def _normalize(self, pieces: list[str]) -> list[str]:
        """What happens to pieces of text before SentencePiece sees them."""
        return pieces

    def _tokenize(self, text: str) -> list[str]:
        return self._sentencepiece(self._normalize([text]), str)[0]

    def _encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        pieces = self._normalize(pieces)
        rows = self._sentencepiece(pieces, int)
        # An unknown piece may be spelled like an added token that was not cut out of the text.
        if any(index >= self._vocab_size for index in self._added):
            for row, ids in enumerate(rows):
                if self._unk in ids:
                    tokens = self._sentencepiece([pieces[row]], str)[0]
                    rows[row] = self.convert_tokens_to_ids(tokens)
        return rows

    def _sentencepiece(self, pieces: list[str], kind: type) -> list[list[Any]]:
        return self._encoded(self.sp_model, pieces, kind)

    def _encoded(self, processor: Any, pieces: list[str], kind: type) -> list[list[Any]]:
        try:
            return processor.encode(pieces, out_type=kind)
        except (TypeError, RuntimeError, UnicodeError):
            for piece in pieces:
                _refuse_surrogates(piece)
            raise

    def _convert_token_to_id(self, token: str) -> int | None:
        try:
            return self.sp_model.piece_to_id(token)
        except (TypeError, RuntimeError, UnicodeError):
            _refuse_surrogates(token)
            raise

    def _base_id(self, token: str) -> int | None:
        index = self._convert_token_to_id(token)
        unknown = index == self._unk and token != self.sp_model.id_to_piece(index)
        return None if unknown else index

    def _convert_id_to_token(self, index: int) -> str:
        return self.sp_model.id_to_piece(index)

    def get_vocab(self) -> dict[str, int]:
        pieces = self.sp_model.id_to_piece(list(range(self._vocab_size)))
        return dict(zip(pieces, range(self._vocab_size), strict=True)) | self.added_tokens_encoder

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.sp_model.decode_pieces(tokens)

    def _vocabulary_files(self) -> dict[str, bytes]:
        return {self.vocab_files_names["vocab_file"]: self._vocab_bytes}


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `SentencePieceProcessor` in its own words.

    As published, `nbest_size` 0 or 1 samples nothing and any negative number samples from all
    splits; the library takes -1 and numbers above 1.
    """
    size = options.get("nbest_size")
    if size is None or not options.get("enable_sampling"):
        return options
    if size in (0, 1):
        return {k: v for k, v in options.items() if k != "nbest_size"} | {"enable_sampling": False}
    return options | {"nbest_size": max(size, -1)}


def _refuse_surrogates(text: str) -> None:
    for at, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise ValueError(
                f"text: character {at} is the lone surrogate {ascii(character)}, which is no valid "
                f"Unicode and cannot be tokenized: {text[max(0, at - 20) : at + 20]!a}"
            )

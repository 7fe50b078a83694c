"""Reformer's tokenizers: SentencePiece with nothing put around a text, and plain bytes.

The SentencePiece classes go with google/reformer-crime-and-punishment; they have no padding token
unless one is given (`pad_token="<unk>"` will do). `ReformerByteTokenizer` is the scheme of
google/reformer-enwik8, which has no vocabulary file: a byte's id is its value plus 2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from .fast import PreTrainedTokenizerFast
from .saving import TOKENIZER_FILE
from .sentencepiece import UNIGRAM, SentencePieceTokenizer, parse_model, read_vocab_file
from .slow import PreTrainedTokenizer

VOCAB_FILE = "spiece.model"


class ReformerTokenizer(SentencePieceTokenizer):
    """Reformer's tokenizer on the `sentencepiece` library.

    Args:
        vocab_file: path of the SentencePiece model.
        eos_token, unk_token: special tokens.
        additional_special_tokens: further special tokens.
        sp_model_kwargs: options of `SentencePieceProcessor`: `enable_sampling`, `nbest_size` and
            `alpha` make it draw one of several ways to split a text (Kudo 2018, "Subword
            regularization").
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    strips_text = True  # decoding does

    def __init__(
        self,
        vocab_file: Any,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        additional_special_tokens: list[str | AddedToken] | None = None,
        sp_model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            vocab_file,
            sp_model_kwargs,
            eos_token=eos_token,
            unk_token=unk_token,
            additional_special_tokens=additional_special_tokens or [],
            **kwargs,
        )

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """SentencePiece spells what lies between special tokens; these stand as they are."""
        special = set(self.all_special_tokens)
        text = ""
        run: list[str] = []
        for token in tokens:
            if token in special:
                text += self.sp_model.decode_pieces(run) + token
                run = []
            else:
                run.append(token)
        return (text + self.sp_model.decode_pieces(run)).strip()


class ReformerTokenizerFast(PreTrainedTokenizerFast):
    """Reformer's tokenizer on the `tokenizers` library.

    It is read from a tokenizer.json, and made from the SentencePiece model where there is none.

    Args:
        vocab_file: path of the SentencePiece model.
        tokenizer_file: path of a tokenizer.json.
        eos_token, unk_token: special tokens.
        additional_special_tokens: further special tokens.
        kwargs: see `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE, "tokenizer_file": TOKENIZER_FILE}
    model_input_names = ["input_ids", "attention_mask"]
    slow_tokenizer_class = ReformerTokenizer

    def __init__(
        self,
        vocab_file: Any = None,
        tokenizer_file: Any = None,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        additional_special_tokens: list[str | AddedToken] | None = None,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self._vocab_bytes = None if vocab_file is None else read_vocab_file(vocab_file)
        super().__init__(
            tokenizer_file=tokenizer_file,
            eos_token=eos_token,
            unk_token=unk_token,
            additional_special_tokens=additional_special_tokens or [],
            **kwargs,
        )

    def _convert(self) -> tokenizers.Tokenizer:
        if self._vocab_bytes is None:
            raise ValueError(
                f"ReformerTokenizerFast needs a tokenizer_file ({TOKENIZER_FILE}) or a vocab_file "
                f"({VOCAB_FILE})"
            )
        model = parse_model(self._vocab_bytes)
        if model.model_type != UNIGRAM:
            raise ValueError(
                f"{self.vocab_file}: SentencePiece model type {model.model_type}, expected a "
                f"Unigram model ({UNIGRAM})"
            )
        backend = tokenizers.Tokenizer(
            models.Unigram(model.pieces, model.unk_id, model.byte_fallback)
        )
        steps: list[normalizers.Normalizer] = [
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(tokenizers.Regex(" {2,}"), "▁"),
        ]
        if model.charsmap:
            steps.insert(0, normalizers.Precompiled(model.charsmap))
        backend.normalizer = normalizers.Sequence(steps)
        prefix = "always" if model.add_dummy_prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prefix)
        backend.decoder = decoders.Metaspace("▁", prefix)
        if model.byte_fallback:
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
        return backend

    def _vocabulary_files(self) -> dict[str, bytes]:
        if self._vocab_bytes is None:
            raise ValueError(
                f"this ReformerTokenizerFast was made from a {TOKENIZER_FILE} alone: there is no "
                f"{VOCAB_FILE} to save"
            )
        return {VOCAB_FILE: self._vocab_bytes}


class ReformerByteTokenizer(PreTrainedTokenizer):
    """Text as the bytes of its UTF-8: ids 2 to 257, and 0 for padding.

    A token is written as `<0x41>`. Bytes that are no text decode to U+FFFD.

    Args:
        pad_token: stands for id 0.
        unk_token: stands for id 1, which is never made.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {}
    model_input_names = ["input_ids", "attention_mask"]
    first_byte = 2

    def __init__(
        self,
        pad_token: str | AddedToken = "<pad>",
        unk_token: str | AddedToken = "<unk>",
        **kwargs: Any,
    ):
        self._spelt = [str(pad_token), str(unk_token)]
        self._spelt += [f"<0x{byte:02X}>" for byte in range(256)]
        self._numbers = {token: index for index, token in enumerate(self._spelt)}
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        super().__init__(pad_token=pad_token, unk_token=unk_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._spelt)

    def get_vocab(self) -> dict[str, int]:
        return self._numbers | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return [self._spelt[index] for index in self._encode_pieces([text])[0]]

    def _encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        try:
            return [[self.first_byte + byte for byte in piece.encode()] for piece in pieces]
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text: a lone surrogate at character {error.start} has no bytes"
            ) from None

    def _base_id(self, token: str) -> int | None:
        return self._numbers.get(token)

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._numbers.get(token, 1)

    def _convert_id_to_token(self, index: int) -> str:
        return self._spelt[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Bytes as text; what is no byte stands as it is."""
        text, run = "", bytearray()
        for token in tokens:
            index = self._numbers.get(token, 0)
            if index >= self.first_byte:
                run.append(index - self.first_byte)
            else:
                text += run.decode(errors="replace") + token
                run.clear()
        return text + run.decode(errors="replace")

    def _vocabulary_files(self) -> dict[str, bytes]:
        return {}

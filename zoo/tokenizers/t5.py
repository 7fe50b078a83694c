"""T5's tokenizers: SentencePiece, text </s> second text </s>.

Source: Raffel et al. 2019, section 2.2 and figure 2: behind the pieces of the model come the
sentinels <extra_id_0>, <extra_id_1> ..., the first with the largest id, that stand for spans that
are left out.

As first published (`legacy`) SentencePiece puts a space in front of every stretch of text between
special tokens; without `legacy` it does so at the beginning of the text alone.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from .base import Call, PreTrainedTokenizerBase
from .fast import PreTrainedTokenizerFast
from .saving import TOKENIZER_FILE
from .sentencepiece import (
    UNIGRAM,
    SentencePieceTokenizer,
    keep_beginning,
    parse_model,
    read_vocab_file,
)

logger = logging.getLogger("zoo.tokenizers")

VOCAB_FILE = "spiece.model"
SPACE = "▁"  # as SentencePiece writes it
SENTINEL = re.compile(r"<extra_id_\d+>")


def _sentinels(count: int) -> list[str]:
    return [f"<extra_id_{number}>" for number in range(count)]


def _with_sentinels(tokens: Iterable[Any] | None, extra_ids: int) -> list[Any] | None:
    """The additional special tokens with the sentinels among them.

    Raises:
        ValueError: some sentinels are among them already, but not as many as `extra_ids`.
    """
    if tokens is None:
        return list(_sentinels(extra_ids)) or None
    tokens = list(tokens)
    found = [token for token in tokens if SENTINEL.fullmatch(str(getattr(token, "content", token)))]
    if extra_ids and not found:
        return tokens + _sentinels(extra_ids)
    if extra_ids and len(found) != extra_ids:
        raise ValueError(
            f"extra_ids: received {extra_ids}, and {len(found)} sentinels among the "
            "additional_special_tokens; expected as many, or none"
        )
    return tokens


class T5Mixin(PreTrainedTokenizerBase):
    """text </s>, or text </s> second text </s>; there are no token types."""

    model_input_names = ["input_ids", "attention_mask"]

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] == self.eos_token_id else [*ids, self.eos_token_id]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        ended = self._ended(token_ids_0)
        return ended if token_ids_1 is None else ended + self._ended(token_ids_1)

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
        mask = [0] * len(token_ids_0) + [1]
        return mask if token_ids_1 is None else mask + [0] * len(token_ids_1) + [1]

    def get_sentinel_tokens(self) -> list[str]:
        """The sentinels, the first of them first."""
        return [token for token in self.additional_special_tokens if SENTINEL.fullmatch(token)]

    def get_sentinel_token_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())


class T5Tokenizer(T5Mixin, SentencePieceTokenizer):
    """T5's tokenizer on the `sentencepiece` library.

    Args:
        vocab_file: path of the SentencePiece model.
        eos_token, unk_token, pad_token: special tokens.
        extra_ids: number of sentinels behind the model's pieces.
        additional_special_tokens: further special tokens; the sentinels are added where none of
            them is among these.
        sp_model_kwargs: options of `SentencePieceProcessor`: `enable_sampling`, `nbest_size` and
            `alpha` make it draw one of several ways to split a text.
        legacy: whether a space is put in front of every stretch of text between special tokens;
            None means True.
        add_prefix_space: whether a space is put in front of a text; without `legacy` only.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}

    def __init__(
        self,
        vocab_file: Any,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: Iterable[str | AddedToken] | None = None,
        sp_model_kwargs: dict[str, Any] | None = None,
        legacy: bool | None = None,
        add_prefix_space: bool = True,
        **kwargs: Any,
    ):
        self.legacy = legacy is None or legacy
        if self.legacy and not add_prefix_space:
            raise ValueError("add_prefix_space=False: with legacy=False only")
        self.add_prefix_space = add_prefix_space
        self.extra_ids = extra_ids
        # Behind the pieces, the first with the largest id; whatever is in the files comes on top.
        count = len(parse_model(read_vocab_file(vocab_file)).pieces)
        added = {
            count + extra_ids - 1 - number: AddedToken(
                token, lstrip=True, rstrip=True, normalized=False, special=True
            )
            for number, token in enumerate(_sentinels(extra_ids))
        }
        kwargs["added_tokens_decoder"] = added | (kwargs.get("added_tokens_decoder") or {})
        super().__init__(
            vocab_file,
            sp_model_kwargs,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            extra_ids=extra_ids,
            additional_special_tokens=_with_sentinels(additional_special_tokens, extra_ids),
            legacy=self.legacy,
            add_prefix_space=add_prefix_space,
            **kwargs,
        )

    def _load(self) -> None:
        super()._load()
        self._inside = None if self.legacy else self._processor(keep_beginning(self.sp_model_proto))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_inside"}

    def _marked(self, text: Any) -> Any:
        """A text that begins with `SPACE`, and has none elsewhere, where a space goes in front."""
        if self.legacy or not isinstance(text, str):
            return text
        return (SPACE if self.add_prefix_space else "") + text.replace(SPACE, " ")

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        if not add_special_tokens:
            text, pair = self._marked(text), self._marked(pair)
        return super().tokenize(text, pair, add_special_tokens, **kwargs)

    def _encode_flat(self, texts: list[str], call: Call) -> list[list[int]]:
        return super()._encode_flat([self._marked(text) for text in texts], call)

    def _sentencepiece(self, pieces: list[str], kind: type) -> list[list[Any]]:
        if self.legacy:
            return super()._sentencepiece(pieces, kind)
        found: list[list[Any]] = [[] for _ in pieces]
        for fronted in (True, False):
            # With a space in front, or as they stand.
            own = [i for i, x in enumerate(pieces) if x.startswith((SPACE, " ")) is fronted]
            processor = self.sp_model if fronted else self._inside
            texts = [pieces[i].removeprefix(SPACE) for i in own]
            for i, row in zip(own, self._encoded(processor, texts, kind), strict=True):
                found[i] = row
        return found

    def _assemble(
        self, first: list[list[int]], second: list[list[int]] | None, call: Call
    ) -> dict[str, list[Any]]:
        eos = self.eos_token_id
        if not call.add_special_tokens or not any(eos in ids for ids in [*first, *(second or ())]):
            return super()._assemble(first, second, call)
        # A text that has its end already gets no other.
        marked = replace(call, return_special_tokens_mask=True)
        columns = super()._assemble(first, second, marked)
        for row, (ids, mask) in enumerate(
            zip(columns["input_ids"], columns["special_tokens_mask"], strict=True)
        ):
            kept = [
                not (mask[at] and at and ids[at - 1] == eos and not mask[at - 1])
                for at in range(len(ids))
            ]
            for name, column in columns.items():
                if isinstance(column[row], list) and name != "overflowing_tokens":
                    column[row] = list(itertools.compress(column[row], kept))
            if "length" in columns:
                columns["length"][row] = sum(kept)
        if not call.return_special_tokens_mask:
            del columns["special_tokens_mask"]
        return columns

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """SentencePiece spells what lies between special tokens.

        A space comes in front of that, as published unless it is the last.
        """
        special = set(self.all_special_tokens)
        runs = [(key, list(x)) for key, x in itertools.groupby(tokens, special.__contains__)]
        text = ""
        for number, (is_special, run) in enumerate(runs, 1):
            spelled = "".join(run) if is_special else self.sp_model.decode_pieces(run)
            text += spelled if is_special or number == len(runs) else f" {spelled}"
        return text.strip()


class T5TokenizerFast(T5Mixin, PreTrainedTokenizerFast):
    """T5's tokenizer on the `tokenizers` library.

    It is read from a tokenizer.json, and made from the SentencePiece model where there is none.

    Args:
        vocab_file: path of the SentencePiece model.
        tokenizer_file: path of a tokenizer.json.
        eos_token, unk_token, pad_token, extra_ids, additional_special_tokens: as for
            `T5Tokenizer`.
        legacy, add_prefix_space: the same; None leaves it to the tokenizer.json, and means True
            without one.
        kwargs: see `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE, "tokenizer_file": TOKENIZER_FILE}
    slow_tokenizer_class = T5Tokenizer

    def __init__(
        self,
        vocab_file: Any = None,
        tokenizer_file: Any = None,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: Iterable[str | AddedToken] | None = None,
        add_prefix_space: bool | None = None,
        legacy: bool | None = None,
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self.extra_ids = extra_ids
        self._vocab_bytes = None if vocab_file is None else read_vocab_file(vocab_file)
        given = {"add_prefix_space": add_prefix_space, "legacy": legacy}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        prefix = "always" if legacy is not False else "first"
        if add_prefix_space is False:
            if legacy is not False:
                raise ValueError("add_prefix_space=False: with legacy=False only")
            prefix = "never"
        self._prefix = prefix
        super().__init__(
            tokenizer_file=tokenizer_file,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            extra_ids=extra_ids,
            additional_special_tokens=_with_sentinels(additional_special_tokens, extra_ids),
            **kwargs,
        )
        backend = self._tokenizer
        decided = legacy is not None or add_prefix_space is not None
        if decided and isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
            backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prefix)
        if backend.post_processor is None:
            backend.post_processor = processors.TemplateProcessing(
                single=f"$A:0 {self.eos_token}:0",
                pair=f"$A:0 {self.eos_token}:0 $B:0 {self.eos_token}:0",
                special_tokens=[(self.eos_token, self.eos_token_id)],
            )

    def _convert(self) -> tokenizers.Tokenizer:
        if self._vocab_bytes is None:
            raise ValueError(
                f"{type(self).__name__} needs a tokenizer_file ({TOKENIZER_FILE}) or a vocab_file "
                f"({VOCAB_FILE})"
            )
        model = parse_model(self._vocab_bytes)
        if model.model_type != UNIGRAM:
            raise ValueError(
                f"{self.vocab_file}: SentencePiece model type {model.model_type}, expected a "
                f"Unigram model ({UNIGRAM})"
            )
        sentinels = [(token, 0.0) for token in reversed(_sentinels(self.extra_ids))]
        backend = tokenizers.Tokenizer(
            models.Unigram(model.pieces + sentinels, model.unk_id, model.byte_fallback)
        )
        steps: list[normalizers.Normalizer] = [
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(tokenizers.Regex(" {2,}"), SPACE),
        ]
        if model.charsmap:
            steps.insert(0, normalizers.Precompiled(model.charsmap))
        backend.normalizer = normalizers.Sequence(steps)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, self._prefix)
        backend.decoder = decoders.Metaspace(SPACE, self._prefix)
        if model.byte_fallback:
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
        return backend

    def _vocabulary_files(self) -> dict[str, bytes]:
        if self._vocab_bytes is None:
            raise ValueError(
                f"{type(self).__name__} was made from a {TOKENIZER_FILE} alone: there is no "
                f"{VOCAB_FILE} to save"
            )
        return {VOCAB_FILE: self._vocab_bytes}

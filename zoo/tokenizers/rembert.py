"""RemBERT's tokenizers: SentencePiece, [CLS] text [SEP] text [SEP].

The two published classes differ in their defaults, and each keeps its own:

* `RemBertTokenizer`: [PAD] and [UNK], cased, accents kept;
* `RemBertTokenizerFast`: <pad> and <unk>, lower-cased, accents dropped. A released
  tokenizer_config.json sets these arguments, so that both give nearly the same ids from there.

What remains are a few texts on which the libraries disagree: white space around added tokens and
at the ends, U+2581 and zero-width characters in the text, `` and '' (the fast class reads them as
a quotation mark), and long runs of combining marks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from .cls_sep import ClsSepFastMixin, ClsSepMixin
from .saving import TOKENIZER_FILE
from .sentencepiece import (
    UNIGRAM,
    SentencePieceTokenizer,
    keep_spaces,
    parse_model,
    read_vocab_file,
)

VOCAB_FILE = "sentencepiece.model"


class RemBertTokenizer(ClsSepMixin, SentencePieceTokenizer):
    """RemBERT's tokenizer on the `sentencepiece` library.

    Args:
        vocab_file: path of the SentencePiece model.
        do_lower_case: whether text is lower-cased; by default False.
        remove_space: whether runs of spaces, and spaces at the ends, count as one or none.
        keep_accents: whether accents are kept; by default True.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: special
            tokens. The mask token takes the spaces before it along, unless it is given as an
            `AddedToken` that does not.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}

    def __init__(
        self,
        vocab_file: Any,
        do_lower_case: bool = False,
        remove_space: bool = True,
        keep_accents: bool = True,
        bos_token: str | AddedToken = "[CLS]",
        eos_token: str | AddedToken = "[SEP]",
        unk_token: str | AddedToken = "[UNK]",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "[PAD]",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        **kwargs: Any,
    ):
        self.remove_space = remove_space
        self.keep_accents = keep_accents
        super().__init__(
            vocab_file,
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            keep_accents=keep_accents,
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=_mask(mask_token),
            **kwargs,
        )

    def _model_proto(self) -> bytes:
        return self._vocab_bytes if self.remove_space else keep_spaces(self._vocab_bytes)

    def _normalize(self, pieces: list[str]) -> list[str]:
        if self.keep_accents:
            return pieces
        decomposed = [unicodedata.normalize("NFKD", piece) for piece in pieces]
        return ["".join(c for c in text if not unicodedata.combining(c)) for text in decomposed]


class RemBertTokenizerFast(ClsSepFastMixin):
    """RemBERT's tokenizer on the `tokenizers` library.

    It is read from a tokenizer.json, and made from the SentencePiece model where there is none.

    Args:
        vocab_file: path of the SentencePiece model.
        tokenizer_file: path of a tokenizer.json, which then decides on case, accents and spaces.
        do_lower_case: whether text is lower-cased; by default True.
        remove_space: whether runs of spaces count as one.
        keep_accents: whether accents are kept; by default False.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: special
            tokens. Mind the defaults `<unk>` and `<pad>`: they are added to a vocabulary that
            lacks them.
        kwargs: see `PreTrainedTokenizerFast`.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE, "tokenizer_file": TOKENIZER_FILE}
    slow_tokenizer_class = RemBertTokenizer

    def __init__(
        self,
        vocab_file: Any = None,
        tokenizer_file: Any = None,
        do_lower_case: bool = True,
        remove_space: bool = True,
        keep_accents: bool = False,
        bos_token: str | AddedToken = "[CLS]",
        eos_token: str | AddedToken = "[SEP]",
        unk_token: str | AddedToken = "<unk>",
        sep_token: str | AddedToken = "[SEP]",
        pad_token: str | AddedToken = "<pad>",
        cls_token: str | AddedToken = "[CLS]",
        mask_token: str | AddedToken = "[MASK]",
        **kwargs: Any,
    ):
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.keep_accents = keep_accents
        self._vocab_bytes = None if vocab_file is None else read_vocab_file(vocab_file)
        super().__init__(
            tokenizer_file=tokenizer_file,
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            keep_accents=keep_accents,
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=_mask(mask_token),
            **kwargs,
        )
        if self._tokenizer.post_processor is None:
            self._set_template()

    def _convert(self) -> tokenizers.Tokenizer:
        if self._vocab_bytes is None:
            raise ValueError(
                f"RemBertTokenizerFast needs a tokenizer_file ({TOKENIZER_FILE}) or a vocab_file "
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
        backend.normalizer = self._normalizer(
            normalizers.Precompiled(model.charsmap) if model.charsmap else None
        )
        prefix = "always" if model.add_dummy_prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prefix)
        backend.decoder = decoders.Metaspace("▁", prefix)
        if model.byte_fallback:
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
        return backend

    def _normalizer(self, charsmap: normalizers.Normalizer | None) -> normalizers.Normalizer:
        steps: list[normalizers.Normalizer] = [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
        ]
        if self.remove_space:
            steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
        if not self.keep_accents:
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if self.do_lower_case:
            steps.append(normalizers.Lowercase())
        return normalizers.Sequence(steps + ([charsmap] if charsmap is not None else []))

    def _apply_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Arguments typed in code apply to what was read from a tokenizer.json, too."""
        if {"do_lower_case", "remove_space", "keep_accents"} & set(overrides):
            self._tokenizer.normalizer = self._normalizer(_charsmap(self._tokenizer.normalizer))
            self._changed()
        super()._apply_overrides(overrides)

    def _vocabulary_files(self) -> dict[str, bytes]:
        if self._vocab_bytes is None:
            raise ValueError(
                f"this RemBertTokenizerFast was made from a {TOKENIZER_FILE} alone: there is no "
                f"{VOCAB_FILE} to save"
            )
        return {VOCAB_FILE: self._vocab_bytes}


def _charsmap(normalizer: Any) -> normalizers.Normalizer | None:
    """The step of a normalizer that holds SentencePiece's own character map."""
    steps = [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = [normalizer[index] for index in range(len(normalizer))]
    for step in steps:
        if isinstance(step, normalizers.Precompiled):
            return step
    return None


def _mask(token: Any) -> Any:
    if not isinstance(token, str):
        return token
    return AddedToken(token, lstrip=True, normalized=True, special=True)

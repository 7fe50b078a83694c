"""Tokenizers written in Python: added tokens are cut out, the rest of the text is encoded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken

from .base import Call, PreTrainedTokenizerBase
from .special_tokens import changed

Piece = str | AddedToken


def _lower(text: str) -> str:
    """Lower case letter by letter, as published: a sigma at the end of a word is like any other."""
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


class Splitter:
    """Cuts added tokens out of a text: leftmost first, and of those the longest.

    Args:
        tokens: what to look for.
    """

    def __init__(self, tokens: Iterable[AddedToken]):
        self.tokens = {token.content: token for token in tokens}
        self._lengths: dict[str, list[int]] = {}
        for content in sorted(self.tokens, key=len, reverse=True):
            lengths = self._lengths.setdefault(content[0], [])
            if len(content) not in lengths:
                lengths.append(len(content))
        # For a quick look at many texts: one search per first character, then one per token.
        self._rare = tuple(self.tokens) if len(self.tokens) <= 16 else ("",)
        self._first = re.compile(
            f"[{re.escape(''.join(self._lengths))}]" if self.tokens else r"(?!)"
        )

    def candidates(self, texts: list[str]) -> set[int]:
        """The indices of the texts that may have a token in them."""
        rare = self._rare
        return {
            i
            for first in self._lengths
            for i, text in enumerate(texts)
            if first in text and any([token in text for token in rare])
        }

    def split(self, text: str) -> list[Piece]:
        """The text as a list of plain pieces, none of them empty, and of tokens."""
        pieces: list[Piece] = []
        start = resume = 0
        for match in self._first.finditer(text):
            at = match.start()
            if at < resume:
                continue
            for length in self._lengths[match.group()]:
                token = self.tokens.get(text[at : at + length])
                if token is not None:
                    break
            else:
                continue
            end = resume = at + length
            if token.single_word:
                special = at == start and bool(pieces) and getattr(pieces[-1], "special", False)
                joined_left = at > 0 and text[at - 1] != " " and not special
                if joined_left or (end < len(text) and text[end] != " "):
                    # Part of a longer word: plain text, which however ends, or begins, here.
                    cut = end if joined_left else at
                    if cut > start:
                        pieces.append(text[start:cut])
                    start = cut
                    continue
            before = text[start:at].rstrip() if token.lstrip else text[start:at]
            pieces += [before, token] if before else [token]
            if token.rstrip:
                end += len(text) - end - len(text[end:].lstrip())
            start = end
        if start < len(text):
            pieces.append(text[start:])
        return pieces


class PreTrainedTokenizer(PreTrainedTokenizerBase):
    """Base of the tokenizers written in Python.

    A subclass makes its vocabulary first and calls this constructor then. It provides
    `vocab_size`, `_tokenize`, `_base_id`, `_convert_id_to_token`,
    `convert_tokens_to_string` and `_vocabulary_files`; one that can encode many pieces at a time
    overrides `_encode_pieces` as well.

    Args:
        do_lower_case: whether everything but special tokens is lower-cased.
        added_tokens_decoder: added tokens by id, as tokenizer_config.json holds them.
        kwargs: see `PreTrainedTokenizerBase`.
    """

    is_fast = False
    do_lower_case: bool = False

    def __init__(self, **kwargs: Any):
        added = kwargs.pop("added_tokens_decoder", None) or {}
        self.do_lower_case = kwargs.get("do_lower_case", self.do_lower_case)
        super().__init__(**kwargs)
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self._splitter: Splitter | None = None
        self._protected: Splitter | None = None
        for index, token in added.items():
            self._put(int(index), token)
        self._add_tokens(
            [
                token
                for token in self.all_special_tokens_extended
                if token.content not in self._added_ids
            ]
        )

    # ---- what a subclass provides -------------------------------------------------------------

    def _tokenize(self, text: str) -> list[str]:
        """The tokens of a piece of text without added tokens."""
        raise NotImplementedError

    def _base_id(self, token: str) -> int | None:
        """The id of a token of the base vocabulary, None for one that it lacks."""
        raise NotImplementedError

    def _convert_token_to_id(self, token: str) -> int | None:
        """The same, or the id that the vocabulary has for unknown tokens."""
        return self._base_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        """The token of an id of the base vocabulary."""
        raise NotImplementedError

    def _encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """The ids of many pieces of text without added tokens."""
        return [self.convert_tokens_to_ids(self._tokenize(piece)) for piece in pieces]

    # ---- vocabulary ----------------------------------------------------------------------------

    def _put(self, index: int, token: AddedToken) -> None:
        replaced = self._added.get(index)
        if replaced is not None:
            self._added_ids.pop(replaced.content, None)
        self._added[index] = token
        self._added_ids[token.content] = index
        self._splitter = self._protected = None

    def _add_tokens(self, tokens: list[AddedToken]) -> int:
        count = 0
        for token in tokens:
            if self._lowers and token.normalized and not token.special:
                token = changed(token, content=token.content.lower())
            index = self._added_ids.get(token.content)
            if index is None:
                index = self._base_id(token.content)
            if index is None:
                index = max(len(self), 1 + max(self._added, default=-1))
                count += 1
            self._put(index, token)
        return count

    def __len__(self) -> int:
        return self.vocab_size + sum(index >= self.vocab_size for index in self._added)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._added.items()))

    def get_vocab(self) -> dict[str, int]:
        base = {self._convert_id_to_token(index): index for index in range(self.vocab_size)}
        return base | self.added_tokens_encoder

    def _token_to_id(self, token: str) -> int | None:
        index = self._added_ids.get(token)
        return self._convert_token_to_id(token) if index is None else index

    def _id_to_token(self, index: int) -> str | None:
        token = self._added.get(index)
        if token is not None:
            return token.content
        if not 0 <= index < self.vocab_size:
            raise IndexError(f"id {index} is outside of the vocabulary of {len(self)} tokens")
        return self._convert_id_to_token(index)

    # ---- text to tokens ------------------------------------------------------------------------

    @property
    def splitter(self) -> Splitter:
        """Finds the added tokens in a text."""
        if self._splitter is None:
            self._splitter = Splitter(self._added.values())
        return self._splitter

    @property
    def protected(self) -> Splitter:
        """Finds the tokens that keep their case in a text."""
        if self._protected is None:
            self._protected = Splitter(
                changed(token, lstrip=False, rstrip=False, single_word=False)
                for token in self._added.values()
                if token.special or not token.normalized
            )
        return self._protected

    @property
    def _lowers(self) -> bool:
        """Whether text is lower-cased before tokens are looked for."""
        return self.do_lower_case

    def _lower(self, texts: list[str]) -> list[str]:
        """Lower-cased texts, in which special tokens keep their case."""
        if not self._lowers:
            return texts
        protected = self.protected
        kept = protected.candidates(texts)
        return [
            "".join(
                _lower(piece) if isinstance(piece, str) else piece.content
                for piece in protected.split(text)
            )
            if i in kept
            else _lower(text)
            for i, text in enumerate(texts)
        ]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        split_special_tokens = kwargs.pop("split_special_tokens", self.split_special_tokens)
        if kwargs:
            raise TypeError(f"tokenize() got unexpected arguments {sorted(kwargs)}")
        if add_special_tokens:
            return self.convert_ids_to_tokens(self.encode(text, pair))
        tokens: list[str] = []
        for part in (text, pair):
            if part is None:
                continue
            (part,) = self._lower([_checked(part)])
            for piece in [part] if split_special_tokens else self.splitter.split(part):
                tokens += (
                    [piece.content] if isinstance(piece, AddedToken) else self._tokenize(piece)
                )
        return tokens

    def _encode_rows(
        self, texts: list[Any], pairs: list[Any] | None, call: Call
    ) -> tuple[dict[str, list[Any]], Any]:
        first = self._encode_texts(texts, call)
        second = None if pairs is None else self._encode_texts(pairs, call)
        return self._assemble(first, second, call), None

    def _encode_texts(self, texts: list[Any], call: Call) -> list[list[int]]:
        """The ids of each text, or of each list of words, without special tokens.

        The pieces of the whole batch are encoded at once, and put back where they belong after.
        """
        if call.is_split_into_words:
            for row in texts:
                if not isinstance(row, (list, tuple)):
                    raise ValueError(f"text: received {row!r:.200}, expected a list of words")
            words = self._encode_flat([word for row in texts for word in row], call)
            rows, start = [], 0
            for row in texts:
                rows.append([index for ids in words[start : start + len(row)] for index in ids])
                start += len(row)
            return rows
        if texts and all(isinstance(row, (list, tuple)) for row in texts):
            return [self._ids("text", row) for row in texts]
        return self._encode_flat(texts, call)

    def _encode_flat(self, texts: list[str], call: Call) -> list[list[int]]:
        if not {str}.issuperset(map(type, texts)):
            texts = [_checked(text) for text in texts]
        texts = self._lower(texts)
        splitter = self.splitter
        # Few texts have an added token in them: the others are encoded as they are.
        to_split = set() if call.split_special_tokens else splitter.candidates(texts)
        split = {i: splitter.split(texts[i]) for i in to_split}
        if not split:
            return self._encode_pieces(texts)
        pieces: list[str] = []
        for i, text in enumerate(texts):
            pieces += [p for p in split[i] if isinstance(p, str)] if i in split else [text]
        encoded = iter(self._encode_pieces(pieces))
        return [
            [
                index
                for piece in split[i]
                for index in (
                    next(encoded) if isinstance(piece, str) else [self._added_ids[piece.content]]
                )
            ]
            if i in split
            else next(encoded)
            for i in range(len(texts))
        ]

    # ---- tokens to text ------------------------------------------------------------------------

    def _decode_rows(self, rows: list[list[int]], skip: bool, spaces: bool) -> list[str]:
        special = set(self.all_special_tokens)
        # Special tokens of the base vocabulary are spelled by the model, the others stand alone.
        alone = {
            token.content
            for index, token in self._added.items()
            if token.content not in special or index >= self.vocab_size
        }
        named = {token.content for token in self._special_tokens.values() if token is not None}
        alone -= named
        skipped = set(self.all_special_ids) if skip else set()
        joint = " " if spaces else ""
        texts = []
        for row in rows:
            parts: list[str] = []
            run: list[str] = []
            for index in row:
                if index in skipped:
                    continue
                token = self._id_to_token(index)
                if token is None:
                    continue
                if token in alone:
                    before = self.convert_tokens_to_string(run) if run else ""
                    parts += [before, token] if before else [token]
                    run = []
                else:
                    run.append(token)
            if run:
                parts.append(self.convert_tokens_to_string(run))
            texts.append(joint.join(parts))
        return texts


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f"text: received {text!r:.200}, expected a str")
    return text

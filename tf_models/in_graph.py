"""Tokenizers as Keras layers on tensorflow-text: strings in, ids, mask and types out.

A layer is made from a tokenizer of `zoo.tokenizers` and gives that tokenizer's ids, in `tf.data`,
in a functional model and inside a SavedModel that needs only tensorflow and tensorflow-text. The
tokenizer becomes a *plan*: a JSON dictionary of what the graph does, which is also what is saved.

    text -> split at raw tokens -> normalise -> split at normalised tokens -> words -> pieces

Three things keep the ids equal to the Python ones:

* Normalisation runs in SentencePiece's own normaliser: a model that knows no character gives back
  its whole normalised input as one unknown piece.
* Single-precision sums decide between splits of equal score by rounding noise. Scores are rounded
  to multiples of 2^-14, whose sums are exact, and each word is split on its own to keep sums small.
* The `Precompiled` normaliser of `tokenizers` works on grapheme clusters, SentencePiece's on the
  longest match; `_precompiled_steps` states the former in terms of the latter.
"""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import itertools
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.python.ops.sentencepiece_tokenizer import (
    gen_sentencepiece_tokenizer as text_ops,
)

from zoo.tokenizers import bart
from zoo.tokenizers.wordpiece import LONGEST_WORD, PREFIX, character_kind

Plan = dict[str, Any]
Step = list[Any]

SPACE = "\u2581"  # SentencePiece's visible space
# Two noncharacters: set between a letter and its marks, they keep the normaliser from joining them.
BREAK = "\ufdd0\ufdd1"
CUT = b"\xff"  # a separator: no byte of valid UTF-8
HUGE_LENGTH = 10**9  # a larger model_max_length says that there is no limit
SCORE_STEP = 2.0**14
HUB_OPTIONS = (
    "revision",
    "cache_dir",
    "token",
    "local_files_only",
    "force_download",
    "subfolder",
)


class CannotExpressError(ValueError):
    """The tokenizer does something that has no counterpart among the ops of the graph."""


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


# --- regular expressions -----------------------------------------------------------------------


def _char_class(code_points: Iterable[int]) -> str:
    """The RE2 character class of these code points."""
    ranges: list[list[int]] = []  # an empty class matches nothing
    for code in sorted(code_points):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    inside = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges)
    return f"[{inside}]" if ranges else r"[^\x{0}-\x{10ffff}]"


# White space that lstrip and rstrip of an added token take with them.
PYTHON_SPACES = _char_class(code for code in range(0x3001) if chr(code).isspace())
UNICODE_SPACES = _char_class(
    code for code in range(0x3001) if chr(code).isspace() and not 0x1C <= code <= 0x1F
)


def _replace_step(pattern: str, rewrite: str) -> Step:
    return ["replace", pattern, rewrite]


# --- SentencePiece models for normalising ------------------------------------------------------


def _model_pb2() -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2


def _compile_rules(rules: Sequence[tuple[str, str]]) -> bytes:
    """The precompiled character map that rewrites each first string as the second."""
    import sentencepiece

    sentencepiece.set_min_log_level(1)  # it reports each map that it compiles
    normalizer = sentencepiece.SentencePieceNormalizer(norm_map=list(rules))
    spec = _model_pb2().NormalizerSpec()
    spec.ParseFromString(normalizer.serialized_normalizer_spec())
    return spec.precompiled_charsmap


def _identity_spec(charsmap: bytes | None = None) -> Any:
    """A normaliser that applies the character map, by default an idle one, and nothing else."""
    # Without any map SentencePiece prints a note on each load.
    return _model_pb2().NormalizerSpec(
        name="identity",
        precompiled_charsmap=charsmap or _compile_rules([(BREAK, "")]),
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        escape_whitespaces=False,
    )


def _normalizer_step(spec: Any, user_defined: Iterable[str] = ()) -> Step:
    """A step that normalises as this `NormalizerSpec` says, sparing user-defined pieces."""
    pb2 = _model_pb2()
    kinds = pb2.ModelProto.SentencePiece
    model = pb2.ModelProto(normalizer_spec=spec)
    model.trainer_spec.model_type = pb2.TrainerSpec.UNIGRAM
    model.pieces.add(piece="<unk>", score=0.0, type=kinds.UNKNOWN)
    model.pieces.add(piece=BREAK, score=0.0, type=kinds.NORMAL)  # one ordinary piece is a must
    for piece in user_defined:
        model.pieces.add(piece=piece, score=0.0, type=kinds.USER_DEFINED)
    return ["normalizer", _pack(model.SerializeToString())]


def _rules_step(rules: Sequence[tuple[str, str]]) -> list[Step]:
    return [_normalizer_step(_identity_spec(_compile_rules(rules)))] if rules else []


def _graph_model(model: Any) -> Any:
    """A copy as the graph runs it: normalised words in, scores whose sums are exact."""
    pb2 = _model_pb2()
    model = pb2.ModelProto.FromString(model.SerializeToString())
    model.normalizer_spec.CopyFrom(_identity_spec())
    model.ClearField("denormalizer_spec")
    if model.trainer_spec.model_type == pb2.TrainerSpec.UNIGRAM:
        for piece in model.pieces:
            piece.score = round(piece.score * SCORE_STEP) / SCORE_STEP
    return model


def _splits_at_spaces(model: Any) -> bool:
    """Whether no piece reaches over the start of a word, so that words can be split alone."""
    kinds = _model_pb2().ModelProto.SentencePiece
    usable = [p.piece for p in model.pieces if p.type in (kinds.NORMAL, kinds.USER_DEFINED)]
    return SPACE in usable and not any(SPACE in piece[1:] for piece in usable)


# --- from a tokenizer to a plan ----------------------------------------------------------------


def _token_entry(token: Any, index: int, content: str | None = None) -> list[Any]:
    if token.single_word:
        raise CannotExpressError(
            f"added token {token.content!r} has single_word=True, which the in-graph tokenizer "
            "cannot express (RE2 knows no Unicode word boundaries)"
        )
    return [content or token.content, int(index), bool(token.lstrip), bool(token.rstrip)]


def _common_plan(tokenizer: Any) -> Plan:
    limit = tokenizer.model_max_length
    return {
        "inputs": list(tokenizer.model_input_names),
        "pad_id": None if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        "pad_type_id": int(tokenizer.pad_token_type_id),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "max_length": int(limit) if limit and limit < HUGE_LENGTH else None,
        # What decoding writes for added tokens; "" for those that it skips.
        "written": [
            [int(index), tokenizer.decode([index], True, clean_up_tokenization_spaces=False)]
            for index in tokenizer.added_tokens_decoder
        ],
        "clean_up": bool(tokenizer.clean_up_tokenization_spaces),
    }


def _slow_plan(tokenizer: Any) -> Plan:
    """The plan of a tokenizer that hands text to `sentencepiece`."""
    if tokenizer.sp_model_kwargs:
        raise CannotExpressError(
            f"sp_model_kwargs={tokenizer.sp_model_kwargs} cannot be expressed in the graph; "
            "expected none"
        )
    pb2 = _model_pb2()
    model = pb2.ModelProto()
    model.ParseFromString(tokenizer.sp_model_proto)
    for option in ("byte_fallback", "treat_whitespace_as_suffix"):
        if getattr(model.trainer_spec, option):
            raise CannotExpressError(f"a model with {option} cannot be expressed in the graph")
    kinds = pb2.ModelProto.SentencePiece
    user_defined = [piece.piece for piece in model.pieces if piece.type == kinds.USER_DEFINED]
    segment_steps = [_normalizer_step(model.normalizer_spec, user_defined)]
    if not getattr(tokenizer, "keep_accents", True):
        segment_steps = _rules_step(_character_rules(_without_accents)) + segment_steps
    lower = bool(tokenizer.do_lower_case)
    tokens, protected = [], []
    for index, token in tokenizer.added_tokens_decoder.items():
        if tokenizer.split_special_tokens:
            continue
        tokens.append(_token_entry(token, index))
        if token.special or not token.normalized:
            protected.append(tokens[-1])
    theirs = next(i for i, piece in enumerate(model.pieces) if piece.type == kinds.UNKNOWN)
    ours = int(tokenizer.unk_token_id)
    split_words = _splits_at_spaces(model) and model.normalizer_spec.escape_whitespaces
    return _common_plan(tokenizer) | {
        "kind": "slow",
        "spaces": PYTHON_SPACES,
        # Lower-casing spares special tokens; all tokens are looked for in what it leaves.
        "raw_tokens": protected if lower else tokens,
        "text_steps": _rules_step(_character_rules(str.lower)) if lower else [],
        "normalized_tokens": tokens if lower else [],
        "segment_steps": segment_steps,
        "metaspace": None,
        "split_words": split_words,
        "model": _pack(_graph_model(model).SerializeToString()),
        "size": len(model.pieces),
        "unknown": None if theirs == ours else [theirs, ours],
        "leading": _leading(model.normalizer_spec),
        "strip": bool(getattr(tokenizer, "strips_text", False)),
        "single": _slow_template(tokenizer, [[-1]]),
        "pair": _slow_template(tokenizer, [[-1], [-2]]),
    }


def _leading(spec: Any) -> str:
    """How many spaces at the start of a text decoding takes away, as part of an expression."""
    if spec.remove_extra_whitespaces:
        return "*"
    return "?" if spec.add_dummy_prefix else "{0}"


def _slow_template(tokenizer: Any, texts: list[list[int]]) -> list[list[Any]]:
    """`[[special id or "A" or "B", type], ...]`, found by asking about texts of one id."""
    ids = tokenizer.build_inputs_with_special_tokens(*texts)
    types = tokenizer.create_token_type_ids_from_sequences(*texts)
    letters = {-1: "A", -2: "B"}
    return [[letters.get(i, i), kind] for i, kind in zip(ids, types, strict=True)]


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def _character_rules(change: Callable[[str], str]) -> list[tuple[str, str]]:
    """Rules for a change that treats each character alone."""
    pairs = ((char, change(char)) for char in map(chr, _code_points()))
    return [(char, changed) for char, changed in pairs if char != changed]


def _code_points() -> Iterable[int]:
    """All Unicode scalar values but the newline and NUL."""
    scalars = itertools.chain(range(1, 0xD800), range(0xE000, 0x110000))
    return (code for code in scalars if code != ord("\n"))


def _probe(normalizer: Any, between: str = "\n") -> list[tuple[str, str]]:
    """Rules for a normaliser of `tokenizers` that treats each character alone.

    Args:
        normalizer: what to ask.
        between: a text that it leaves as it is.
    """
    chars = [chr(code) for code in _code_points()]
    results = normalizer.normalize_str(between.join(chars)).split(between)
    pairs = zip(chars, results, strict=True)
    return [(char, changed) for char, changed in pairs if char != changed]


def _fast_plan(tokenizer: Any) -> Plan:
    """The plan of a tokenizer that wraps a Unigram model of the `tokenizers` library."""
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    raw, normalized = [], []
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special and tokenizer.split_special_tokens:
            continue
        content = token.content
        if token.normalized and backend.normalizer is not None:
            # The library looks for the token as its own normaliser writes it.
            content = backend.normalizer.normalize_str(content)
        (normalized if token.normalized else raw).append(_token_entry(token, index, content))
    model, unknown = _unigram_model(state["model"])
    return _common_plan(tokenizer) | {
        "kind": "fast",
        "spaces": UNICODE_SPACES,
        "raw_tokens": raw,
        "text_steps": _normalizer_steps(state["normalizer"]),
        "normalized_tokens": normalized,
        "segment_steps": [],
        "metaspace": _metaspace(state["pre_tokenizer"]),
        "split_words": bool(state["pre_tokenizer"].get("split", True)),
        "model": _pack(_graph_model(model).SerializeToString()),
        "size": unknown[0],
        "unknown": unknown,
        "leading": _leading_of_decoder(state["decoder"]),
        "strip": False,
        "single": _fast_template(state["post_processor"], "single"),
        "pair": _fast_template(state["post_processor"], "pair"),
    }


def _metaspace(pre_tokenizer: Mapping[str, Any] | None) -> str:
    kind = pre_tokenizer and pre_tokenizer["type"]
    if not pre_tokenizer or kind != "Metaspace" or pre_tokenizer["replacement"] != SPACE:
        raise CannotExpressError(
            f"pre_tokenizer {kind} cannot be expressed in the graph; expected Metaspace with "
            f"{SPACE!r}"
        )
    return pre_tokenizer["prepend_scheme"]


def _leading_of_decoder(decoder: Mapping[str, Any] | None) -> str:
    kind = decoder and decoder["type"]
    if not decoder or kind != "Metaspace" or decoder["replacement"] != SPACE:
        raise CannotExpressError(
            f"decoder {kind} cannot be expressed in the graph; expected Metaspace with {SPACE!r}"
        )
    return "{0}" if decoder["prepend_scheme"] == "never" else "?"


def _fast_template(post_processor: Mapping[str, Any] | None, which: str) -> list[list[Any]]:
    """`[[special id or "A" or "B", type], ...]` of one text or of a pair."""
    if post_processor is None:
        return [["A", 0]] if which == "single" else [["A", 0], ["B", 1]]
    if post_processor["type"] != "TemplateProcessing":
        raise CannotExpressError(
            f"post_processor {post_processor['type']} cannot be expressed in the graph; "
            "expected TemplateProcessing"
        )
    parts: list[list[Any]] = []
    for part in post_processor[which]:
        ((kind, body),) = part.items()
        ids = [body["id"]] if kind == "Sequence" else post_processor["special_tokens"][body["id"]]
        ids = ids if kind == "Sequence" else ids["ids"]
        parts += [[index, body["type_id"]] for index in ids]
    return parts


def _unigram_model(state: Mapping[str, Any]) -> tuple[Any, list[int]]:
    """The model as a proto, and which id stands for which id of the tokenizer.

    `tokenizers` finds every piece of its vocabulary in the text, the unknown one too, while
    SentencePiece does not find its unknown piece; so that one is added behind the others.
    """
    if state["type"] != "Unigram":
        raise CannotExpressError(
            f"model {state['type']} cannot be expressed in the graph; expected Unigram"
        )
    if state["unk_id"] is None:
        raise CannotExpressError("a Unigram model without unk_id cannot be expressed in the graph")
    if state.get("byte_fallback"):
        raise CannotExpressError("a model with byte_fallback cannot be expressed in the graph")
    pb2 = _model_pb2()
    kinds = pb2.ModelProto.SentencePiece
    model = pb2.ModelProto()
    model.trainer_spec.model_type = pb2.TrainerSpec.UNIGRAM
    for piece, score in state["vocab"]:
        model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    vocab = {piece for piece, _ in state["vocab"]}
    unknown = next(name for name in _names("<unk>") if name not in vocab)
    model.pieces.add(piece=unknown, score=0.0, type=kinds.UNKNOWN)
    model.trainer_spec.unk_piece = unknown
    return model, [len(vocab), state["unk_id"]]


def _names(stem: str) -> Iterable[str]:
    return (stem + "_" * count for count in itertools.count())


def _normalizer_steps(state: Mapping[str, Any] | None) -> list[Step]:
    """The steps of one `normalizer` entry of tokenizer.json."""
    from tokenizers import normalizers

    if state is None:
        return []
    kind = state["type"]
    if kind == "Sequence":
        return [step for part in state["normalizers"] for step in _normalizer_steps(part)]
    if kind == "Replace":
        ((syntax, pattern),) = state["pattern"].items()
        if syntax == "String":
            pattern = re.escape(pattern)
        elif re.search(r"\\[A-Za-z]|\(\?|\[\[|[*+?}][+?]", pattern):
            raise CannotExpressError(
                f"normalizer Replace: pattern {pattern!r} may mean something else in RE2"
            )
        return [_replace_step(pattern, state["content"].replace("\\", "\\\\"))]
    if kind == "Strip":
        ends = (("^{}+", state["strip_left"]), ("{}+$", state["strip_right"]))
        return [_replace_step(end.format(UNICODE_SPACES), "") for end, wanted in ends if wanted]
    if kind == "Precompiled":
        return _precompiled_steps(base64.b64decode(state["precompiled_charsmap"]))
    if kind in ("NFD", "NFKD"):
        # Characters as the library decomposes them, then the canonical order of marks.
        return _rules_step(_probe(getattr(normalizers, kind)())) + [["unicode", "NFD"]]
    if kind in ("NFC", "NFKC"):
        return [["unicode", kind]]
    if kind in ("StripAccents", "Lowercase"):
        return _rules_step(_probe(getattr(normalizers, kind)()))
    raise CannotExpressError(f"normalizer {kind} cannot be expressed in the graph")


def _extenders() -> set[str]:
    """The characters that `tokenizers` counts to the cluster of the character before."""
    from tokenizers import normalizers

    # A cluster found in the map is replaced whole: what follows "a" and vanishes belongs to it.
    probe = normalizers.Precompiled(_compile_rules([("a", "b")]))
    codes = itertools.chain(range(0x20, 0xD800), range(0xE000, 0x20000), range(0xE0000, 0xE1000))
    chars = [chr(code) for code in codes]
    results = probe.normalize_str("\n".join("a" + char for char in chars)).split("\n")
    return {char for char, result in zip(chars, results, strict=True) if result == "b"}


def _precompiled_steps(charsmap: bytes) -> list[Step]:
    """The `Precompiled` normaliser: clusters below 6 bytes become what their shortest key gives.

    All else is rewritten character by character. So of a cluster that starts with a key only that
    key's text remains, marks behind it vanish, and in a cluster of 6 bytes or more nothing is
    joined. SentencePiece takes the longest key everywhere; the expressions below remove or break
    up in advance what it would do otherwise.
    """
    import sentencepiece

    if not charsmap:
        return []
    normalizer = sentencepiece.SentencePieceNormalizer(
        normalizer_spec=_identity_spec(charsmap).SerializeToString()
    )
    rules = normalizer.decompile()
    extend = _extenders()
    alone = {source for source, _ in rules if len(source) == 1}
    steps: list[Step] = []
    if "\r" in alone:
        steps.append(_replace_step("\r\n", "\r"))

    def chars_class(chars: Iterable[str]) -> str:
        return _char_class(map(ord, chars))

    def size(width: int, chars: Iterable[str]) -> str:
        return chars_class(char for char in chars if len(char.encode()) == width)

    # A mark leans on anything but a control character.
    controls = {
        char
        for char in map(chr, itertools.chain(range(0xD800), range(0xE000, 0xE1000)))
        if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") and char not in extend
    }
    scalars = map(chr, itertools.chain(range(0xD800), range(0xE000, 0x10000)))
    solid = [char for char in scalars if char not in controls]
    base1, base2, base3 = (size(width, solid) for width in (1, 2, 3))
    mark2, mark3, mark4 = (size(width, extend) for width in (2, 3, 4))
    mark = chars_class(extend)
    mark34 = f"(?:{mark3}|{mark4})"
    # Clusters of 6 bytes or more: a break between the letter and its marks.
    long = (
        f"({base1})({mark2}{mark2}{mark}|{mark2}{mark34}|{mark34}{mark})"
        f"|({base2})({mark2}{mark}|{mark3}{mark}|{mark4})"
        f"|({base3})({mark2}{mark}|{mark34})"
        f"|([\\x{{10000}}-\\x{{10ffff}}])({mark})"
    )
    steps.append(_replace_step(long, rf"\1\3\5\7{BREAK}\2\4\6\8"))
    # A sign that belongs to the next letter makes no key fit its cluster.
    prepended = "[\\x{600}-\\x{605}\\x{6dd}\\x{70f}]"
    control = chars_class(controls)
    steps.append(_replace_step(f"({prepended}[^{control[1:]})({mark})", rf"\1{BREAK}\2"))
    # Short clusters whose first character is a key lose their marks,
    eaten = chars_class(alone - controls - extend)
    steps.append(_replace_step(f"({eaten}){mark}{{1,2}}", r"\1"))
    # also where a mark with nothing to lean on comes first,
    loose = f"(^|{control})({chars_class(alone & extend)})"
    steps.append(_replace_step(f"{loose}{mark}{{1,2}}", r"\1\2"))
    # and those that start with a key of two characters lose the third.
    joined: dict[str, list[int]] = {}
    short = [
        (source, target)
        for source, target in rules
        if len(source) == 1
        or (len(source.encode()) < 6 and source[0] not in alone and set(source[1:]) <= extend)
    ]
    for source, _ in short:
        if len(source) == 2 and len(source.encode()) == 3:
            joined.setdefault(source[0], []).append(ord(source[1]))
    if joined:
        letters = "|".join(re.escape(key) + _char_class(joined[key]) for key in sorted(joined))
        steps.append(_replace_step(f"({letters}){mark2}", r"\1"))
    return steps + _rules_step([*short, (BREAK, "")])


# --- WordPiece ---------------------------------------------------------------------------------


def _wordpiece_common(tokenizer: Any, vocab: Mapping[str, int], prefix: str, unknown: str) -> Plan:
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise CannotExpressError("a vocabulary whose ids have gaps cannot be expressed")
    if unknown not in vocab:
        raise CannotExpressError(f"a vocabulary without its unk_token {unknown!r}")
    return _common_plan(tokenizer) | {
        "vocab": tokens,
        "prefix": prefix,
        "unknown": vocab[unknown],
        "longest_word": LONGEST_WORD,
        "segment_steps": [],
    }


def _class_steps(rules: Sequence[tuple[str, str]]) -> list[Step]:
    """As `_rules_step`; most of BERT's rules drop or surround a character, quicker by a class."""
    groups: dict[str, list[int]] = {"": [], " ": [], r" \1 ": []}
    others = []
    for char, target in rules:
        group = groups.get(target.replace(char, r"\1"))
        if group is None:
            others.append((char, target))
        else:
            group.append(ord(char))
    steps = [
        _replace_step(f"({_char_class(codes)})", target)
        for target, codes in groups.items()
        if codes
    ]
    return steps + _rules_step(others)


@functools.cache
def _word_piece_steps(
    lower: bool, strips: bool, chinese: bool
) -> tuple[str, list[Step], list[Step]]:
    """The class of symbols; the steps of lower-casing; those of cleaning. For all Unicode, once."""
    chars = [chr(code) for code in _code_points()]
    by_kind: dict[str, list[str]] = {}
    for char in chars:
        by_kind.setdefault(character_kind(char), []).append(char)
    rules = [(char, "") for char in by_kind["drop"]]
    rules += [(char, " ") for char in by_kind["space"] if char != " "]
    if chinese:
        rules += [(char, f" {char} ") for char in by_kind["chinese"]]
    lowered = _rules_step(_character_rules(str.lower)) if lower else []
    steps = [_replace_step("\n", " "), _replace_step("\\x00", ""), *_class_steps(rules), *lowered]
    steps.append(["unicode", "NFD" if strips else "NFC"])
    if strips:
        steps += _class_steps([(c, "") for c in chars if unicodedata.category(c) == "Mn"])
    return _char_class(map(ord, by_kind["symbol"])), lowered, steps


def _slow_wordpiece_plan(tokenizer: Any) -> Plan:
    """The plan of a `BertTokenizer`."""
    basic = tokenizer.basic_tokenizer
    for name, wanted in (("do_basic_tokenize", True), ("never_split", set())):
        value = getattr(tokenizer if name == "do_basic_tokenize" else basic, name)
        if value != wanted:
            raise CannotExpressError(f"{name}={value!r} cannot be expressed in the graph")
    lower = bool(tokenizer.do_lower_case)
    strips = lower if basic.strip_accents is None else bool(basic.strip_accents)
    symbols, lowered, steps = _word_piece_steps(lower, strips, bool(basic.tokenize_chinese_chars))
    tokens, protected = [], []
    for index, token in tokenizer.added_tokens_decoder.items():
        if tokenizer.split_special_tokens:
            continue
        tokens.append(_token_entry(token, index))
        if token.special or not token.normalized:
            protected.append(tokens[-1])
    vocab = {token: tokenizer.vocab[token] for token in tokenizer._vocab}
    return _wordpiece_common(tokenizer, vocab, PREFIX, tokenizer.unk_token) | {
        "kind": "slow",
        "spaces": PYTHON_SPACES,
        "raw_tokens": protected if lower else tokens,
        "text_steps": copy.deepcopy(lowered),
        "normalized_tokens": tokens if lower else [],
        "segment_steps": copy.deepcopy(steps),
        "symbols": symbols,
        "blanks": PYTHON_SPACES,
        "cleaning_decoder": False,
        "single": _slow_template(tokenizer, [[-1]]),
        "pair": _slow_template(tokenizer, [[-1], [-2]]),
    }


@functools.cache
def _probed_word_steps(
    clean: bool, chinese: bool, strips: bool, lower: bool
) -> tuple[list[Step], str, str]:
    """What BERT's normaliser does, as steps; the classes of symbols and of blanks. Asked once."""
    from tokenizers import normalizers, pre_tokenizers

    quiet = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False,
             "lowercase": False}  # fmt: skip

    def probed(**switched_on: bool) -> list[Step]:
        return _class_steps(_probe(normalizers.BertNormalizer(**(quiet | switched_on)), "0x0"))

    steps: list[Step] = []
    if clean:
        steps += [_replace_step("\n", " "), _replace_step("\\x00", "")]
    steps += probed(clean_text=clean, handle_chinese_chars=chinese)
    if strips:
        steps += _rules_step(_probe(normalizers.NFD())) + [["unicode", "NFD"]]
        steps += probed(strip_accents=True)
    if lower:
        steps += probed(lowercase=True)
    # Every character behind a letter: a symbol is a piece of its own, a blank is in none.
    probe = "".join(f"a{char}" for char in map(chr, _code_points()))
    pieces = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(probe)
    symbols = {start for _, (start, end) in pieces if end == start + 1 and start % 2}
    ends = [0, *(end for _, (_, end) in pieces)]
    starts = [*(start for _, (start, _) in pieces), len(probe)]
    gaps = (place for end, start in zip(ends, starts, strict=True) for place in range(end, start))
    return (
        steps,
        _char_class(ord(probe[place]) for place in symbols),
        _char_class([10, *(ord(probe[place]) for place in gaps)]),
    )


def _fast_wordpiece_plan(tokenizer: Any) -> Plan:
    """The plan of a `BertTokenizerFast`."""
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    model = state["model"]
    kinds = {part: (state[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer")}
    if model["type"] != "WordPiece" or kinds != {
        "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"
    }:  # fmt: skip
        raise CannotExpressError(f"{model['type']} with {kinds} cannot be expressed in the graph")
    if model["max_input_chars_per_word"] != LONGEST_WORD:
        raise CannotExpressError(f"expected max_input_chars_per_word={LONGEST_WORD}")
    options = {name: value for name, value in state["normalizer"].items() if name != "type"}
    strips = options["lowercase"] if options["strip_accents"] is None else options["strip_accents"]
    steps, symbols, blanks = _probed_word_steps(
        options["clean_text"], options["handle_chinese_chars"], strips, options["lowercase"]
    )
    raw, normalized = [], []
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special and tokenizer.split_special_tokens:
            continue
        content = backend.normalizer.normalize_str(token.content) if token.normalized else None
        (normalized if token.normalized else raw).append(_token_entry(token, index, content))
    decoder = state["decoder"] or {}
    if decoder.get("type") != "WordPiece":
        raise CannotExpressError(f"decoder {decoder.get('type')} cannot be expressed in the graph")
    prefix = model["continuing_subword_prefix"]
    return _wordpiece_common(tokenizer, model["vocab"], prefix, model["unk_token"]) | {
        "kind": "fast",
        "spaces": UNICODE_SPACES,
        "raw_tokens": raw,
        "text_steps": copy.deepcopy(steps),
        "normalized_tokens": normalized,
        "symbols": symbols,
        "blanks": blanks,
        "cleaning_decoder": bool(decoder["cleanup"]),
        "single": _fast_template(state["post_processor"], "single"),
        "pair": _fast_template(state["post_processor"], "pair"),
    }


# --- byte-level BPE ----------------------------------------------------------------------------


def _byte_pair_plan(tokenizer: Any) -> Plan:
    """The plan of a `BartTokenizer` or a `BartTokenizerFast`."""
    fast = getattr(tokenizer, "is_fast", False)
    raw: list[list[Any]] = []
    normalized: list[list[Any]] = []
    for index, token in tokenizer.added_tokens_decoder.items():
        if tokenizer.split_special_tokens and (token.special or not fast):
            continue
        (normalized if fast and token.normalized else raw).append(_token_entry(token, index))
    if fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        model = state["model"]
        _check_byte_pairs(state)
        vocab = model["vocab"]
        pairs = [x.split(" ") if isinstance(x, str) else x for x in model["merges"]]
    else:
        vocab, pairs = tokenizer._vocab, list(tokenizer._merges)
    for name, wanted in (("add_prefix_space", False), ("errors", "replace")):
        value = getattr(tokenizer, name, wanted)
        if value != wanted:
            raise CannotExpressError(f"{name}={value!r} cannot be expressed in the graph")
    size = len(vocab)
    if sorted(vocab.values()) != list(range(size)):
        raise CannotExpressError("a vocabulary whose ids have gaps cannot be expressed")
    letters = bart.byte_letters()
    wanted_tokens = {
        *letters.values(),
        *(part for pair in pairs for part in (*pair, "".join(pair))),
    }
    if missing := sorted(wanted_tokens - set(vocab)):
        raise CannotExpressError(
            f"vocabulary: {missing[0]!r} is missing, and {len(missing) - 1} other tokens that "
            "bytes and merges need"
        )
    merges = [(vocab[a], vocab[b], vocab[a + b]) for a, b in pairs]
    known = bart.letter_bytes()
    spelled = [
        bytes(known[c] for c in token) if known.keys() >= set(token) else token.encode()
        for token in sorted(vocab, key=vocab.__getitem__)
    ]
    return _common_plan(tokenizer) | {
        "kind": "fast" if fast else "slow",
        "spaces": UNICODE_SPACES if fast else PYTHON_SPACES,
        "raw_tokens": raw,
        "text_steps": [],
        "normalized_tokens": normalized,
        "segment_steps": [],
        "size": size,
        "bytes": [vocab[letters[byte]] for byte in range(256)],
        "merges": _pack(np.array(merges, "<i4").reshape(-1, 3).tobytes()),
        "spelled": [base64.b64encode(token).decode() for token in spelled],
        "kinds": dict(_kinds_of_characters()),
        "single": _slow_template(tokenizer, [[-1]]),
        "pair": _slow_template(tokenizer, [[-1], [-2]]),
    }


@functools.cache
def _kinds_of_characters() -> dict[str, str]:
    """The classes of letters L, numbers N, white space S and other characters O."""
    kinds: dict[str, list[int]] = {"L": [], "N": [], "O": [], "S": []}
    for code in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        kinds[bart._kind(chr(code)).replace(" ", "S")].append(code)
    return {kind: _char_class(codes) for kind, codes in kinds.items()}


def _check_byte_pairs(state: Mapping[str, Any]) -> None:
    """Refuses a tokenizer.json that says anything else than BART's."""
    model, cutter, decoder = (state[x] or {} for x in ("model", "pre_tokenizer", "decoder"))
    if model.get("type") != "BPE" or cutter.get("type") != "ByteLevel" or state["normalizer"]:
        raise CannotExpressError(
            f"{model.get('type')} with the pre_tokenizer {cutter.get('type')} and the normalizer "
            f"{(state['normalizer'] or {}).get('type')} cannot be expressed in the graph"
        )
    if decoder.get("type") != "ByteLevel":
        raise CannotExpressError(f"decoder {decoder.get('type')} cannot be expressed in the graph")
    for part, name, wanted in (
        (cutter, "add_prefix_space", (False,)), (cutter, "use_regex", (True,)),
        (model, "dropout", (None,)), (model, "byte_fallback", (False,)),
        (model, "ignore_merges", (False,)), (model, "continuing_subword_prefix", (None, "")),
        (model, "end_of_word_suffix", (None, "")),
    ):  # fmt: skip
        if part.get(name, wanted[0]) not in wanted:
            raise CannotExpressError(f"{name}={part[name]!r} cannot be expressed in the graph")


# --- the graph ---------------------------------------------------------------------------------


class _NamedModel(tf.saved_model.experimental.TrackableResource):
    """A SentencePiece model that TensorFlow keeps under a name of its own.

    Without a name it belongs to the kernel that made it, and `tf.random.set_seed` throws the
    kernels away: graphs that hold the tokenizer would fail from then on.
    """

    def __init__(self, model: bytes):
        super().__init__()
        self._model = model
        _ = self.resource_handle  # made here: in a graph that is being traced it would stay there

    def _create_resource(self) -> tf.Tensor:
        name = "sentencepiece_" + hashlib.sha256(self._model).hexdigest()
        return text_ops.sentencepiece_op(model=self._model, shared_name=name)


def _sentencepiece(packed: str, out_type: tf.DType = tf.int32) -> tf_text.SentencepieceTokenizer:
    model = _unpack(packed)
    tokenizer = tf_text.SentencepieceTokenizer(model=model, out_type=out_type)
    tokenizer._model_resource = _NamedModel(model)
    return tokenizer


class _Pieces(tf.Module):
    """Texts in, ids without special tokens out; holds the SentencePiece resources."""

    def __init__(self, plan: Plan):
        super().__init__(name="pieces")
        self.normalizers = [
            _sentencepiece(rest[0], tf.string)
            for kind, *rest in plan["text_steps"] + plan["segment_steps"]
            if kind == "normalizer"
        ]
        self.model = self.make_model(plan)
        # Held through a closure, as a Module would wrap the dictionary.
        self.plan: Callable[[], Plan] = lambda: plan

    def make_model(self, plan: Plan) -> Any:
        return _sentencepiece(plan["model"])

    def run_steps(self, name: str, text: tf.Tensor) -> tf.Tensor:
        plan = self.plan()
        used = 0 if name == "text_steps" else sum(s[0] == "normalizer" for s in plan["text_steps"])
        for kind, *rest in plan[name]:
            if kind == "normalizer":
                text = tf.strings.reduce_join(self.normalizers[used].tokenize(text), axis=-1)
                used += 1
            elif kind == "replace":
                text = tf.strings.regex_replace(text, *rest)
            else:
                text = tf_text.normalize_utf8(text, rest[0])
        return text

    def split_tokens(
        self, name: str, text: tf.Tensor, first: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.RaggedTensor], tf.RaggedTensor]]:
        """Takes added tokens out of the text.

        Args:
            name: `raw_tokens` or `normalized_tokens`.
            text: `(texts,)`.
            first: `(texts,)`, whether a text is the first of its row.

        Returns: the parts between tokens `(parts,)`, with `""` in the place of a token; whether a
            part is the first of its row; and a function that makes the ids `(texts, pieces)` out of
            those of the parts `(parts, pieces)`.
        """
        tokens = self.plan()[name]
        if not tokens:
            return text, first, lambda ids: ids
        spaces = self.plan()["spaces"] + "*"
        # The longest token wins where several start at one place.
        tokens = sorted(tokens, key=lambda token: -len(token[0].encode()))
        pattern = "|".join(
            (spaces if left else "") + re.escape(content) + (spaces if right else "")
            for content, _, left, right in tokens
        )
        # Text and tokens take turns: text, token, text, token, text.
        marked = tf.strings.regex_replace(text, f"({pattern})", CUT + rb"\1" + CUT)
        parts = tf.strings.split(marked, CUT)
        position = tf.ragged.range(parts.row_lengths()).values
        is_token = position % 2 == 1
        contents = tf.boolean_mask(parts.values, is_token)
        spaced = "|".join(re.escape(token[0]) for token in tokens if token[2] or token[3])
        if spaced:
            core = f"^{spaces}({spaced}){spaces}$"
            contents = tf.strings.regex_replace(contents, core, r"\1")
        matches = tf.equal(contents[:, None], tf.constant([token[0] for token in tokens])[None])
        found = tf.RaggedTensor.from_row_lengths(
            tf.gather([token[1] for token in tokens], tf.argmax(matches, axis=1)),
            tf.cast(is_token, tf.int64),
        )

        def join(ids: tf.RaggedTensor) -> tf.RaggedTensor:
            return parts.with_values(tf.concat([found, ids], axis=1)).merge_dims(1, 2)

        first = tf.gather(first, parts.value_rowids()) & (position == 0)
        return tf.where(is_token, "", parts.values), first, join

    def words(self, text: tf.Tensor, first: tf.Tensor) -> tf.RaggedTensor:
        """`(segments, words)`: each word begins with the visible space before it."""
        plan = self.plan()
        if plan["metaspace"]:
            text = tf.strings.regex_replace(text, " ", SPACE)
            missing = ~tf.strings.regex_full_match(text, f"(?s)(?:{SPACE}.*)?")
            if plan["metaspace"] == "first":
                missing &= first
            if plan["metaspace"] != "never":
                text = tf.where(missing, SPACE + text, text)
        if not plan["split_words"]:
            return tf.RaggedTensor.from_uniform_row_length(text, 1)
        return tf.strings.split(tf.strings.regex_replace(text, SPACE, CUT + SPACE.encode()), CUT)

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """`(rows,)` strings to `(rows, pieces)` ids."""
        # Malformed bytes become U+FFFD, as decoding with errors="replace" makes them.
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        first = tf.ones_like(text, tf.bool)
        text, first, join_raw = self.split_tokens("raw_tokens", text, first)
        text = self.run_steps("text_steps", text)
        text, first, join_normalized = self.split_tokens("normalized_tokens", text, first)
        text = self.run_steps("segment_steps", text)
        words = self.words(text, first)
        ids = words.with_values(self.ids_of_words(words.values)).merge_dims(1, 2)
        return join_raw(join_normalized(ids))

    def ids_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """`(words,)` to `(words, pieces)`."""
        ids = self.model.tokenize(words)
        return self.rename_unknown(ids) if self.plan()["unknown"] else ids

    def rename_unknown(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Gives the unknown piece its id; `tokenizers` makes one of two neighbours that have it."""
        theirs, ours = self.plan()["unknown"]
        values = tf.where(ids.values == theirs, ours, ids.values)
        if self.plan()["kind"] == "slow":
            return ids.with_values(values)
        follows = tf.ragged.range(ids.row_lengths()).values > 0
        unknown = values == ours
        repeated = unknown & follows & tf.pad(unknown, [[1, 0]])[:-1]
        return tf.ragged.boolean_mask(ids.with_values(values), ids.with_values(~repeated))

    def texts(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """`(rows, pieces)` ids to `(rows,)` texts, leaving out special tokens."""
        plan = self.plan()
        written = plan["written"] or [[-1, ""]]
        values = tf.cast(ids.values, tf.int32)
        known = (values >= 0) & (values < plan["size"])
        piece = self.model.id_to_string(tf.where(known, values, 0))
        matches = values[:, None] == tf.constant([index for index, _ in written])[None]
        is_added = tf.reduce_any(matches, axis=1)
        content = tf.gather([text for _, text in written], tf.argmax(matches, axis=1))
        piece = tf.where(is_added, content, piece)
        keep = (known | is_added) & ~(is_added & (content == ""))
        pieces = tf.ragged.boolean_mask(ids.with_values(piece), ids.with_values(keep))
        is_added = tf.boolean_mask(is_added, keep)
        # BREAK stands where a run of pieces starts, which loses its first space.
        leads = tf.ragged.range(pieces.row_lengths()).values == 0
        before = tf.where(leads, BREAK, "")
        if plan["kind"] == "slow":
            # Runs between added tokens are decoded on their own and joined by spaces.
            after = tf.pad(is_added, [[1, 0]])[:-1]
            before = tf.where(is_added | after, tf.where(leads, BREAK, " " + BREAK), before)
        text = tf.strings.reduce_join(pieces.with_values(before + pieces.values), axis=-1)
        start = BREAK + SPACE + plan["leading"]
        text = tf.strings.regex_replace(text, f"{start} {BREAK}", BREAK)  # an empty run
        text = tf.strings.regex_replace(text, start, "")
        text = tf.strings.regex_replace(text, SPACE, " ")
        if plan["strip"]:
            text = tf.strings.regex_replace(text, f"^{plan['spaces']}+|{plan['spaces']}+$", "")
        return _cleaned(text) if plan["clean_up"] else text


def _cleaned(text: tf.Tensor) -> tf.Tensor:
    """Without the spaces before punctuation and contractions that decoding takes away."""
    for mark in ".?!,":
        text = tf.strings.regex_replace(text, re.escape(" " + mark), mark)
    text = tf.strings.regex_replace(text, " ' ", "'")
    for end in ("n't", "'m", "'s", "'ve", "'re"):
        text = tf.strings.regex_replace(text, " " + end, end)
    return text


class _WordPieces(_Pieces):
    """The same for WordPiece: a word is cut into the longest pieces from the left."""

    def make_model(self, plan: Plan) -> tf_text.FastWordpieceTokenizer:
        return tf_text.FastWordpieceTokenizer(
            plan["vocab"],
            suffix_indicator=plan["prefix"],
            max_bytes_per_word=4 * plan["longest_word"],
            token_out_type=tf.int32,
            unknown_token=plan["vocab"][plan["unknown"]],
            no_pretokenization=True,
        )

    def words(self, text: tf.Tensor, first: tf.Tensor) -> tf.RaggedTensor:
        """`(segments, words)`: what white space separates, with every symbol a word of its own."""
        text = tf.strings.regex_replace(text, f"({self.plan()['symbols']})", CUT + rb"\1" + CUT)
        parts = tf.strings.split(tf.strings.regex_replace(text, self.plan()["blanks"], CUT), CUT)
        return tf.ragged.boolean_mask(parts, parts.with_values(parts.values != ""))

    def ids_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        plan = self.plan()
        # The op counts bytes, and the tokenizers characters.
        long = tf.strings.length(words, "UTF8_CHAR") > plan["longest_word"]
        ids = self.model.tokenize(tf.where(long, "", words))
        unknown = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.math.count_nonzero(long)], plan["unknown"]), tf.cast(long, tf.int64)
        )
        return tf.concat([ids, unknown], axis=1)

    def texts(self, ids: tf.RaggedTensor) -> tf.Tensor:
        plan = self.plan()
        written = plan["written"] or [[-1, ""]]
        values = tf.cast(ids.values, tf.int32)
        known = (values >= 0) & (values < len(plan["vocab"]))
        piece = tf.gather(plan["vocab"], tf.where(known, values, 0))
        matches = values[:, None] == tf.constant([index for index, _ in written])[None]
        is_added = tf.reduce_any(matches, axis=1)
        content = tf.gather([text for _, text in written], tf.argmax(matches, axis=1))
        piece = tf.where(is_added, content, piece)
        keep = (known | is_added) & ~(is_added & (content == ""))
        pieces = tf.ragged.boolean_mask(ids.with_values(piece), ids.with_values(keep))
        leads = tf.ragged.range(pieces.row_lengths()).values == 0
        starts = leads
        if plan["kind"] == "slow":  # an added token stands alone
            alone = tf.boolean_mask(is_added, keep)
            starts = leads | alone | tf.pad(alone, [[1, 0]])[:-1]
        prefix = re.escape(plan["prefix"])
        continued = ~starts & tf.strings.regex_full_match(pieces.values, f"(?s){prefix}.*")
        rest = tf.strings.regex_replace(pieces.values, f"^{prefix}", "")
        spelled = tf.where(continued, rest, tf.where(leads, "", " ") + pieces.values)
        if plan["cleaning_decoder"]:
            spelled = _cleaned(spelled)
        text = tf.strings.reduce_join(pieces.with_values(spelled), axis=-1)
        return _cleaned(text) if plan["clean_up"] else text


class _BytePairs(_Pieces):
    """The same for byte-level BPE: the bytes of a word are joined pair by pair."""

    def make_model(self, plan: Plan) -> None:
        """Three arrays: what a pair is found by, in order, its place in the file, and its id."""
        first, second, made = np.frombuffer(_unpack(plan["merges"]), "<i4").reshape(-1, 3).T
        keys = first.astype(np.int64) * plan["size"] + second
        order = np.argsort(keys)
        # One that is never found, so that there is something to look into.
        keys = np.append(keys[order], np.int64(plan["size"]) ** 2)
        ranks, made = (np.append(x, 0).astype(np.int32) for x in (order, made[order]))
        self.merges: Callable[[], tuple[np.ndarray, ...]] = lambda: (keys, ranks, made)

    def words(self, text: tf.Tensor, first: tf.Tensor) -> tf.RaggedTensor:
        """`(segments, words)`: letters, numbers or signs, each with the space before it."""
        letter, number, other, space = (self.plan()["kinds"][kind] for kind in "LNOS")
        # The last of several spaces belongs to what follows it.
        last = f"({space}+)({space})([^{space[1:]})"
        parts = tf.strings.split(tf.strings.regex_replace(text, last, rb"\1" + CUT + rb"\2\3"), CUT)
        word = f"('(?:s|t|re|ve|m|ll|d)| ?{letter}+| ?{number}+| ?{other}+|{space}+)"
        marked = tf.strings.regex_replace(parts.values, word, rb"\1" + CUT)
        words = parts.with_values(tf.strings.split(marked, CUT)).merge_dims(1, 2)
        return tf.ragged.boolean_mask(words, words.with_values(words.values != ""))

    def ids_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        split = tf.strings.bytes_split(words)
        values = tf.cast(tf.reshape(tf.io.decode_raw(split.values, tf.uint8), [-1]), tf.int32)
        ids = split.with_values(tf.gather(tf.constant(self.plan()["bytes"]), values))
        # At least two columns: a pair to look at.
        width = tf.maximum(ids.bounding_shape(1), 2)
        dense = ids.to_tensor(-1, shape=tf.stack([-1, width]))
        keys, ranks, made = map(tf.constant, self.merges())
        never = ranks.dtype.max
        column = tf.range(tf.cast(width, tf.int32))[None]

        def found(dense: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Where each pair's merge is, and its rank; `(words, width - 1)`."""
            first, second = tf.cast(dense[:, :-1], tf.int64), tf.cast(dense[:, 1:], tf.int64)
            wanted = first * self.plan()["size"] + second
            wanted = tf.where(second < 0, tf.constant(-1, tf.int64), wanted)
            place = tf.reshape(tf.searchsorted(keys, tf.reshape(wanted, [-1])), tf.shape(wanted))
            return place, tf.where(tf.gather(keys, place) == wanted, tf.gather(ranks, place), never)

        def merge(dense: tf.Tensor, place: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, ...]:
            """Joins the pair of each word that comes first in the file, the first of several."""
            at = tf.argmin(rank, axis=1, output_type=tf.int32)[:, None]
            joined = tf.gather(made, tf.gather(place, at, batch_dims=1))
            left = tf.pad(dense[:, 1:], [[0, 0], [0, 1]], constant_values=-1)
            changed = tf.where(column == at, joined, tf.where(column > at, left, dense))
            any_left = tf.reduce_min(rank, axis=1, keepdims=True) < never
            dense = tf.where(any_left, changed, dense)
            return dense, *found(dense)

        dense = tf.while_loop(
            lambda dense, place, rank: tf.reduce_any(rank < never),
            merge,
            (dense, *found(dense)),
            parallel_iterations=1,
        )[0]
        return tf.RaggedTensor.from_tensor(dense, padding=-1)

    def texts(self, ids: tf.RaggedTensor) -> tf.Tensor:
        plan = self.plan()
        written = plan["written"] or [[-1, ""]]
        values = tf.cast(ids.values, tf.int32)
        known = (values >= 0) & (values < plan["size"])
        spelled = tf.constant([base64.b64decode(token) for token in plan["spelled"]])
        piece = tf.gather(spelled, tf.where(known, values, 0))
        matches = values[:, None] == tf.constant([index for index, _ in written])[None]
        is_added = tf.reduce_any(matches, axis=1)
        content = tf.gather([text for _, text in written], tf.argmax(matches, axis=1))
        piece = tf.where(is_added, content, piece)
        keep = (known | is_added) & ~(is_added & (content == ""))
        pieces = tf.ragged.boolean_mask(ids.with_values(piece), ids.with_values(keep))
        if plan["kind"] == "slow":  # an added token stands alone
            alone = tf.boolean_mask(is_added, keep)
            follows = tf.ragged.range(pieces.row_lengths()).values > 0
            apart = follows & (alone | tf.pad(alone, [[1, 0]])[:-1])
            pieces = pieces.with_values(tf.where(apart, " ", "") + pieces.values)
        text = tf.strings.reduce_join(pieces, axis=-1)
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
        return _cleaned(text) if plan["clean_up"] else text


def _pad_strategy(padding: bool | str | None) -> str:
    names = {True: "longest", False: "do_not_pad", None: "do_not_pad"}
    strategy = str(names.get(padding, padding))  # type: ignore[call-overload]
    if strategy not in ("longest", "max_length", "do_not_pad"):
        raise ValueError(
            f"padding={padding!r} is unknown; expected True, False, 'longest', 'max_length' or "
            "'do_not_pad'"
        )
    return strategy


def _truncation_strategy(truncation: bool | str | None, max_length: int | None) -> str:
    names = {True: "longest_first", False: "do_not_truncate"}
    names[None] = names[max_length is not None]  # type: ignore[index]
    strategy = str(names.get(truncation, truncation))  # type: ignore[call-overload]
    if strategy not in ("longest_first", "only_first", "only_second", "do_not_truncate"):
        raise ValueError(
            f"truncation={truncation!r} is unknown; expected True, False, 'longest_first', "
            "'only_first', 'only_second' or 'do_not_truncate'"
        )
    return strategy


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; expected one of {list(choices)}")
    return value


def _keep(ids: tf.RaggedTensor, lengths: tf.Tensor, side: str) -> tf.RaggedTensor:
    """The first (side right) or last (side left) `lengths` ids of each row."""
    positions = tf.ragged.range(ids.row_lengths())
    drop = ids.row_lengths() - lengths if side == "left" else tf.zeros_like(lengths)
    rows = positions.value_rowids()
    start, stop = tf.gather(drop, rows), tf.gather(drop + lengths, rows)
    inside = (positions.values >= start) & (positions.values < stop)
    return tf.ragged.boolean_mask(ids, ids.with_values(inside))


@keras.saving.register_keras_serializable("zoo")
class TFSentencePieceTokenizer(keras.layers.Layer):
    """A tokenizer on SentencePiece or a Unigram model, as a layer from strings to ids.

    Args:
        plan: what the graph does, as made by `from_tokenizer`.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for ragged outputs.
        truncation: `True` or `"longest_first"`, `"only_first"`, `"only_second"`, or `False`; left
            out, `"longest_first"` when `max_length` is given.
        max_length: of a row with its special tokens; left out, the tokenizer's own limit.
        pad_to_multiple_of: rounds the padded length up.
        add_special_tokens: whether rows get `[CLS]` and `[SEP]` or their like.
        padding_side, truncation_side: `"right"` or `"left"`; left out, the tokenizer's own.
        output_dtype: `"int32"` or `"int64"`.

    The ids are those of the tokenizer, with one exception: where a word can be split in several
    ways of exactly equal score, as in `0000` by the pieces `0` and `00`, the layer puts the
    longer piece last. So does `tokenizers`; `sentencepiece` mostly does, but at times rounding
    of its single-precision sums has it choose another order of the same pieces. Malformed UTF-8
    is read as by `bytes.decode(errors="replace")`. (The other exception is far-fetched: a slow
    tokenizer gives an unknown run of characters the id of an added token when normalising has
    spelled that token, which stood in the text otherwise; here the run stays unknown.)
    """

    tokenizer_classes: tuple[str, ...] = ()  # names of the classes that it can be made from
    pieces_class: type[_Pieces] = _Pieces

    def __init__(
        self,
        plan: Plan,
        *,
        padding: bool | str | None = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        add_special_tokens: bool = True,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        output_dtype: str = "int32",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.padding = _pad_strategy(padding)
        self.truncation = _truncation_strategy(truncation, max_length)
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.max_length = max_length or plan["max_length"]
        self.pad_to_multiple_of = pad_to_multiple_of
        self.add_special_tokens = add_special_tokens
        sides = ("right", "left")
        self.padding_side = _choice("padding_side", padding_side or plan["padding_side"], sides)
        self.truncation_side = _choice(
            "truncation_side", truncation_side or plan["truncation_side"], sides
        )
        self.output_dtype = _choice("output_dtype", output_dtype, ("int32", "int64"))
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding='max_length' needs max_length, and the tokenizer has none")
        if self.padding != "do_not_pad" and plan["pad_id"] is None:
            raise ValueError(f"padding={padding!r} needs a pad_token, and the tokenizer has none")
        multiple = pad_to_multiple_of or 1
        cuts = self.truncation != "do_not_truncate" and self.padding != "do_not_pad"
        if cuts and self.max_length and self.max_length % multiple:
            raise ValueError(
                f"max_length={self.max_length} must be a multiple of "
                f"pad_to_multiple_of={multiple} when both truncating and padding"
            )
        self._fast = plan["kind"] == "fast"
        # Keras would cast strings.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.autocast = False
        with tf.init_scope():
            self.pieces = self.pieces_class(plan)
        self._room("single")
        self.built = True

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> Self:
        """The layer that gives the ids of this tokenizer.

        Args:
            tokenizer: a slow or fast SentencePiece tokenizer of `zoo.tokenizers`, with the tokens
                that were added to it.
            options: the arguments of the layer.

        Raises:
            ValueError: the class does not fit, or the tokenizer does something that the graph
                cannot express; the message names it.
        """
        names = [base.__name__ for base in type(tokenizer).__mro__]
        if cls.tokenizer_classes and not set(cls.tokenizer_classes) & set(names):
            raise ValueError(
                f"{cls.__name__} is made from {' or '.join(cls.tokenizer_classes)}, "
                f"not from {names[0]}"
            )
        return cls(cls._plan_of(tokenizer), **options)

    @classmethod
    def _plan_of(cls, tokenizer: Any) -> Plan:
        if getattr(tokenizer, "is_fast", False):
            return _fast_plan(tokenizer)
        if hasattr(tokenizer, "sp_model"):
            return _slow_plan(tokenizer)
        raise CannotExpressError(f"{type(tokenizer).__name__} is no SentencePiece tokenizer")

    @classmethod
    def from_pretrained(cls, name_or_path: Any, *, use_fast: bool = True, **options: Any) -> Self:
        """The layer for the tokenizer in a folder or a repository of the hub.

        Args:
            name_or_path: the folder or the repository id.
            use_fast: whether to follow the fast class or the slow one.
            options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` and
                `subfolder` go to the tokenizer, the others are the arguments of the layer.
        """
        from zoo.tokenizers import AutoTokenizer

        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, use_fast=use_fast, **hub)
        return cls.from_tokenizer(tokenizer, **options)

    @property
    def plan(self) -> Plan:
        """What the graph does, as a dictionary that JSON can hold."""
        return self.pieces.plan()

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again, the vocabulary among them."""
        return super().get_config() | {
            "plan": copy.deepcopy(self.plan),
            "padding": self.padding,
            "truncation": self.truncation,
            "max_length": self.max_length,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "add_special_tokens": self.add_special_tokens,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "output_dtype": self.output_dtype,
        }

    def _template(self, which: str) -> list[list[Any]]:
        parts = self.plan[which]
        if self.add_special_tokens:
            return parts
        # Bare texts have no types in the Python classes.
        return [[part, kind * self._fast] for part, kind in parts if part in ("A", "B")]

    def _room(self, which: str) -> int | None:
        """How many ids of the text or the pair fit into a row; None without truncation."""
        if self.truncation == "do_not_truncate" or self.max_length is None:
            return None
        room = self.max_length - sum(part[0] not in ("A", "B") for part in self._template(which))
        if room < 0:
            raise ValueError(
                f"max_length={self.max_length} is less than the special tokens of a {which} row"
            )
        return room

    def call(self, text: Any, pair: Any = None) -> dict[str, Any]:
        """Ids, mask and types of texts or of pairs of texts.

        Args:
            text: strings `(batch,)`, or of any other shape.
            pair: the second texts, strings of the same shape.

        Returns:
            `input_ids`, `attention_mask` and, where the model has types, `token_type_ids`:
            `(batch, sequence)`, ragged when padding is off.
        """
        return self._encode(text, pair, self.padding)

    def _encode(self, text: Any, pair: Any, padding: str) -> dict[str, Any]:
        """As `call`, with another padding than the layer's."""
        texts = [tf.convert_to_tensor(text, tf.string)]
        if pair is not None:
            texts.append(tf.convert_to_tensor(pair, tf.string))
        shape, static = tf.shape(texts[0]), texts[0].shape
        if pair is not None and not static.is_compatible_with(texts[1].shape):
            raise ValueError(f"text has shape {static}, pair {texts[1].shape}; expected the same")
        ragged = padding == "do_not_pad"
        if ragged and static.rank not in (0, 1):
            raise ValueError(f"ragged outputs need texts of shape (batch,) or (), got {static}")
        # Both texts in one pass.
        ids = self.pieces(tf.concat([tf.reshape(part, [-1]) for part in texts], axis=0))
        sequences = [ids]
        if pair is not None:
            rows = tf.size(texts[0])
            sequences = [ids[:rows], ids[rows:]]
        columns = self._columns(self._truncate(sequences))
        if ragged:
            return {k: v[0] if static.rank == 0 else v for k, v in columns.items()}
        pads = {"input_ids": self.plan["pad_id"], "token_type_ids": self.plan["pad_type_id"]}
        dense = {
            name: self._pad(column, pads.get(name, 0), padding) for name, column in columns.items()
        }
        for name, column in dense.items():
            width = column.shape[1]
            column = tf.reshape(column, tf.concat([shape, tf.shape(column)[1:]], axis=0))
            dense[name] = tf.ensure_shape(column, [*static, width])
        return dense

    def _truncate(self, sequences: list[tf.RaggedTensor]) -> list[tf.RaggedTensor]:
        room = self._room("single" if len(sequences) == 1 else "pair")
        if room is None:
            return sequences
        lengths = [sequence.row_lengths() for sequence in sequences]
        excess = tf.maximum(tf.add_n(lengths) - room, 0)
        if len(sequences) == 2 and self.truncation == "longest_first":
            # Ids leave the longer sequence one by one. At equal length Python takes the second,
            # `tokenizers` the one that was longer at first, or the first of equals.
            first, second = lengths
            half = tf.fill(tf.shape(first), tf.constant((room + 1) // 2, tf.int64))
            if self._fast:
                half = tf.where(first <= second, tf.constant(room // 2, tf.int64), half)
            kept = tf.minimum(first, tf.maximum(half, room - second))
            lengths = [kept, tf.minimum(second, room - kept)]
        elif self._fast and room == 0:
            lengths = [length * 0 for length in lengths]
        else:
            place = 1 if self.truncation == "only_second" else 0
            lengths = self._cut_one(lengths, excess, place)
        return [
            _keep(sequence, length, self.truncation_side)
            for sequence, length in zip(sequences, lengths, strict=True)
        ]

    def _cut_one(self, lengths: list[tf.Tensor], excess: tf.Tensor, place: int) -> list[tf.Tensor]:
        """The lengths after one sequence lost the excess; a sequence is never lost as a whole."""
        length = lengths[place] if place < len(lengths) else lengths[0] * 0
        enough = length > excess
        if self._fast and not (len(lengths) == 1 and place == 0):
            message = (
                f"truncation={self.truncation!r}: a text is too short for the pair to reach "
                f"max_length={self.max_length}"
            )
            with tf.control_dependencies(
                [tf.debugging.assert_equal(enough | (excess == 0), True, message)]
            ):
                length = tf.identity(length)
        left = tf.where(enough, length - excess, length)
        return [left if index == place else other for index, other in enumerate(lengths)]

    def _columns(self, sequences: list[tf.RaggedTensor]) -> dict[str, tf.RaggedTensor]:
        """The sequences between special tokens, with types and mask, all ragged."""
        dtype = tf.as_dtype(self.output_dtype)
        rows = sequences[0].nrows()
        by_letter = dict(zip("AB", sequences, strict=False))
        ids, types = [], []
        for index, kind in self._template("single" if len(sequences) == 1 else "pair"):
            if index in by_letter:
                part = tf.cast(by_letter[index], dtype)
            else:
                part = tf.RaggedTensor.from_tensor(
                    tf.fill(tf.stack([rows, 1]), tf.constant(index, dtype))
                )
            ids.append(part)
            types.append(tf.ones_like(part) * tf.constant(kind, dtype))
        columns = {"input_ids": tf.concat(ids, axis=1)}
        if "token_type_ids" in self.plan["inputs"]:
            columns["token_type_ids"] = tf.concat(types, axis=1)
        columns["attention_mask"] = tf.ones_like(columns["input_ids"])
        return columns

    def _pad(self, column: tf.RaggedTensor, value: int, padding: str) -> tf.Tensor:
        lengths = column.row_lengths()
        multiple = self.pad_to_multiple_of or 1
        static = None
        if padding == "max_length":
            static = -(-self.max_length // multiple) * multiple
            width = tf.constant(static, tf.int64)
            message = f"a row is longer than max_length={self.max_length}; turn on truncation"
            checks = [tf.debugging.assert_less_equal(lengths, width, message)]
        else:
            longest = tf.reduce_max(tf.concat([lengths, [0]], axis=0))
            width = -(-longest // multiple) * multiple
            checks = []
        with tf.control_dependencies(checks):
            missing = width - lengths
        pads = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(missing)], tf.constant(value, column.dtype)), missing
        )
        parts = [column, pads] if self.padding_side == "right" else [pads, column]
        values = tf.concat(parts, axis=1).values
        dense = tf.reshape(values, tf.stack([column.nrows(), width]))
        return tf.ensure_shape(dense, [None, static])

    def detokenize(self, ids: Any) -> Any:
        """The texts of ids, as `decode(ids, skip_special_tokens=True)` of the tokenizer.

        Args:
            ids: `(batch, sequence)`, dense or ragged, or `(sequence,)`; ids outside of the
                vocabulary are left out.

        Returns:
            Strings `(batch,)` or `()`.
        """
        if isinstance(ids, tf.RaggedTensor):
            return self.pieces.texts(ids)
        ids = tf.convert_to_tensor(ids)
        if ids.shape.rank not in (1, 2):
            raise ValueError(
                f"ids have shape {ids.shape}; expected (batch, sequence) or (sequence,)"
            )
        rows = tf.RaggedTensor.from_tensor(ids if ids.shape.rank == 2 else ids[None])
        texts = self.pieces.texts(rows)
        return texts if ids.shape.rank == 2 else texts[0]


@keras.saving.register_keras_serializable("zoo")
class TFRemBertTokenizer(TFSentencePieceTokenizer):
    """`RemBertTokenizer` or `RemBertTokenizerFast` as a layer: strings to ids, in the graph.

    `TFRemBertTokenizer.from_tokenizer(tokenizer, max_length=128)` makes it from a tokenizer,
    `from_pretrained` from its files; the arguments are those of `TFSentencePieceTokenizer`.
    """

    tokenizer_classes = ("RemBertTokenizer", "RemBertTokenizerFast")


@keras.saving.register_keras_serializable("zoo")
class TFReformerTokenizer(TFSentencePieceTokenizer):
    """`ReformerTokenizer` or `ReformerTokenizerFast` as a layer: strings to ids, in the graph.

    These have no padding token unless one is given to the tokenizer, as `pad_token="<unk>"`;
    without one the layer takes `padding=False`.
    """

    tokenizer_classes = ("ReformerTokenizer", "ReformerTokenizerFast")


class _Bytes(_Pieces):
    """The same for bytes, whose ids are their values plus the number of other tokens."""

    def make_model(self, plan: Plan) -> None:
        """There is none."""

    def words(self, text: tf.Tensor, first: tf.Tensor) -> tf.RaggedTensor:
        return tf.strings.bytes_split(text)

    def ids_of_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        ids = tf.cast(tf.io.decode_raw(words, tf.uint8), tf.int32) + self.plan()["first_byte"]
        return tf.RaggedTensor.from_uniform_row_length(tf.reshape(ids, [-1]), 1)

    def texts(self, ids: tf.RaggedTensor) -> tf.Tensor:
        plan = self.plan()
        written = dict(plan["written"])
        spelled = [written.get(index, "").encode() for index in range(plan["size"])]
        first = plan["first_byte"]
        spelled[first : first + 256] = [bytes([byte]) for byte in range(256)]
        values = tf.cast(ids.values, tf.int32)
        known = (values >= 0) & (values < plan["size"])
        pieces = tf.where(known, tf.gather(tf.constant(spelled), tf.where(known, values, 0)), "")
        text = tf.strings.reduce_join(ids.with_values(pieces), axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")


@keras.saving.register_keras_serializable("zoo")
class TFReformerByteTokenizer(TFSentencePieceTokenizer):
    """`ReformerByteTokenizer` as a layer: strings to ids, in the graph."""

    tokenizer_classes = ("ReformerByteTokenizer",)
    pieces_class = _Bytes

    @classmethod
    def _plan_of(cls, tokenizer: Any) -> Plan:
        tokens = [
            _token_entry(token, index) for index, token in tokenizer.added_tokens_decoder.items()
        ]
        return _common_plan(tokenizer) | {
            "kind": "slow",
            "spaces": PYTHON_SPACES,
            "raw_tokens": [] if tokenizer.split_special_tokens else tokens,
            "text_steps": [],
            "normalized_tokens": [],
            "segment_steps": [],
            "size": len(tokenizer),
            "first_byte": tokenizer.first_byte,
            "single": _slow_template(tokenizer, [[-1]]),
            "pair": _slow_template(tokenizer, [[-1], [-2]]),
        }


@keras.saving.register_keras_serializable("zoo")
class TFBertGenerationTokenizer(TFSentencePieceTokenizer):
    """`BertGenerationTokenizer` as a layer: strings to ids, in the graph."""

    tokenizer_classes = ("BertGenerationTokenizer",)


@keras.saving.register_keras_serializable("zoo")
class TFBertTokenizer(TFSentencePieceTokenizer):
    """`BertTokenizer` or `BertTokenizerFast` as a layer: strings to ids, in the graph.

    `TFBertTokenizer.from_tokenizer(tokenizer, max_length=128)` makes it from a tokenizer,
    `from_pretrained` from its files; the arguments are those of `TFSentencePieceTokenizer`.
    `do_basic_tokenize=False` and `never_split` cannot be expressed.
    """

    tokenizer_classes = ("BertTokenizer", "BertTokenizerFast")
    pieces_class = _WordPieces

    @classmethod
    def _plan_of(cls, tokenizer: Any) -> Plan:
        fast = getattr(tokenizer, "is_fast", False)
        return _fast_wordpiece_plan(tokenizer) if fast else _slow_wordpiece_plan(tokenizer)


@keras.saving.register_keras_serializable("zoo")
class TFRealmTokenizer(TFBertTokenizer):
    """`RealmTokenizer` or `RealmTokenizerFast` as a layer; see `TFBertTokenizer`."""

    def batch_encode_candidates(self, text: Any, text_pair: Any = None) -> dict[str, Any]:
        """Ids, mask and types of several texts for every example, padded to `max_length`.

        Args:
            text: strings `(batch, candidates)`.
            text_pair: the second texts, strings of the same shape.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, `(batch, candidates, max_length)`.

        Raises:
            ValueError: texts of another shape, or a layer without `max_length`.
        """
        text = tf.convert_to_tensor(text, tf.string)
        if text.shape.rank not in (None, 2):
            raise ValueError(f"text: expected shape (batch, candidates), got {text.shape}")
        if self.max_length is None:
            raise ValueError("max_length: the layer needs it, to pad candidates to")
        return self._encode(text, text_pair, "max_length")


@keras.saving.register_keras_serializable("zoo")
class TFBartTokenizer(TFSentencePieceTokenizer):
    """`BartTokenizer` or `BartTokenizerFast` as a layer: strings to ids, in the graph.

    `add_prefix_space` and `errors` other than "replace" cannot be expressed.
    """

    tokenizer_classes = ("BartTokenizer", "BartTokenizerFast")
    pieces_class = _BytePairs

    @classmethod
    def _plan_of(cls, tokenizer: Any) -> Plan:
        return _byte_pair_plan(tokenizer)

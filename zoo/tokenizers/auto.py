"""The tokenizer that a folder or repository calls for."""

from __future__ import annotations

import os
from typing import Any

from .. import hub
from ..families import FAMILIES, FURTHER_TOKENIZERS, TOKENIZERS, tokenizers_of
from .base import PreTrainedTokenizerBase
from .fast import PreTrainedTokenizerFast
from .saving import CONFIG_FILE, TOKENIZER_FILE, read_json


class AutoTokenizer:
    """Opens whichever tokenizer is there; use `AutoTokenizer.from_pretrained`."""

    def __init__(self) -> None:
        raise TypeError("AutoTokenizer is not made directly: use AutoTokenizer.from_pretrained")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *init_inputs: Any,
        use_fast: bool = True,
        tokenizer_type: str | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> PreTrainedTokenizerBase:
        """Opens a tokenizer from a folder or from the hub.

        The class is `tokenizer_class` of tokenizer_config.json, else that of config.json, else the
        one of the `model_type` in config.json. A model made of an encoder and a decoder has its
        encoder's, unless its folder holds a vocabulary of WordPieces: then `BertTokenizer`.

        Args:
            pretrained_model_name_or_path: folder or repository name.
            init_inputs: positional arguments of the constructor.
            use_fast: whether to prefer the class on the `tokenizers` library.
            tokenizer_type: a model type that decides instead of the files.
            config: a model's configuration that decides instead of config.json.
            kwargs: where to look on the hub, and constructor arguments, as for the classes.

        Raises:
            ValueError: nothing tells the class, or it is unknown.
        """
        hub_names = (
            "cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder",
        )  # fmt: skip
        where = {name: kwargs[name] for name in hub_names if name in kwargs}
        name = os.fspath(pretrained_model_name_or_path)
        if tokenizer_type is not None:
            chosen = _choose(*tokenizers_of(tokenizer_type), use_fast)
            return chosen.from_pretrained(name, *init_inputs, **kwargs)

        class_name = read_json(hub.resolve_file(name, CONFIG_FILE, **where)).get("tokenizer_class")
        if class_name is not None:
            chosen = _by_name(name, class_name, use_fast)
            return chosen.from_pretrained(name, *init_inputs, **kwargs)
        described = (
            read_json(hub.resolve_file(name, "config.json", **where))
            if config is None
            else config.to_dict()
        )
        encoder = described.get("encoder")
        if described.get("tokenizer_class") is None and isinstance(encoder, dict):
            described = encoder
        class_name, model_type = described.get("tokenizer_class"), described.get("model_type")
        if class_name is not None:
            chosen = _by_name(name, class_name, use_fast)
        elif model_type is not None:
            chosen = _choose(*tokenizers_of(model_type), use_fast)
            needed = chosen.vocab_files_names.values()
            if needed and not any(hub.resolve_file(name, file, **where) for file in needed):
                # A released bundle of BertGeneration halves has the vocabulary of a BERT.
                wordpiece = _choose(*TOKENIZERS["bert"], use_fast)
                if hub.resolve_file(name, wordpiece.vocab_files_names["vocab_file"], **where):
                    chosen = wordpiece
        else:
            raise ValueError(
                f"{name}: neither {CONFIG_FILE} nor config.json names a tokenizer_class or a "
                "model_type; use a tokenizer class by its name"
            )
        return chosen.from_pretrained(name, *init_inputs, **kwargs)


def _by_name(name: str, class_name: str, use_fast: bool) -> type[PreTrainedTokenizerBase]:
    base = class_name.removesuffix("Fast")
    pairs = [*map(tokenizers_of, FAMILIES), *TOKENIZERS.values(), *FURTHER_TOKENIZERS]
    for slow, fast in pairs:
        if base in (slow, (fast or "").removesuffix("Fast")):
            return _choose(slow, fast, use_fast)
    if base in ("PreTrainedTokenizer", "TokenizersBackend"):
        return PreTrainedTokenizerFast
    known = sorted({slow for slow, _ in pairs if slow})
    raise ValueError(
        f"{name}: tokenizer_class {class_name!r} is unknown, expected one of {known} (a "
        f"{TOKENIZER_FILE} opens with PreTrainedTokenizerFast whatever the class)"
    )


def _choose(slow: str | None, fast: str | None, use_fast: bool) -> type[PreTrainedTokenizerBase]:
    from .. import tokenizers

    name = fast if use_fast and fast else slow or fast
    if name is None:
        raise ValueError("this family has no tokenizer of its own")
    return getattr(tokenizers, name)

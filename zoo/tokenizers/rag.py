"""RAG's tokenizer: that of the question encoder and that of the generator, in two sub-folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .. import hub
from ..configs.rag import RagConfig
from .auto import AutoTokenizer

if TYPE_CHECKING:
    from .base import PreTrainedTokenizerBase
    from .encoding import BatchEncoding

logger = logging.getLogger("zoo.tokenizers")

FOLDERS = {
    "question_encoder": "question_encoder_tokenizer",
    "generator": "generator_tokenizer",
}


class RagTokenizer:
    """Encodes questions for the question encoder and answers for the generator, decodes answers.

    Args:
        question_encoder: tokenizer of the questions.
        generator: tokenizer of the generator.

    Attributes:
        current_tokenizer: the one that encodes texts: the question encoder's, unless the mode was
            switched.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {}  # there are none but those of the two

    def __init__(
        self, question_encoder: PreTrainedTokenizerBase, generator: PreTrainedTokenizerBase
    ):
        self.question_encoder = question_encoder
        self.generator = generator
        self.current_tokenizer = question_encoder

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Opens both tokenizers.

        Args:
            pretrained_model_name_or_path: folder or repository of a RAG checkpoint.
            kwargs: `config`, the configuration that tells the classes where the files do not;
                `use_fast`, and where and how to look on the hub, as for `AutoTokenizer`.

        Raises:
            ValueError: a sub-folder is missing, or nothing tells its class.
        """
        config = kwargs.pop("config", None)
        where = {name: kwargs[name] for name in hub.ARGUMENTS if name in kwargs}
        subfolder = kwargs.pop("subfolder", "")
        if config is None:
            try:
                config = RagConfig.from_pretrained(pretrained_model_name_or_path, **where)
            except hub.HubError:
                config = None  # the sub-folders may tell by themselves
        parts = {}
        for part, folder in FOLDERS.items():
            parts[part] = AutoTokenizer.from_pretrained(
                pretrained_model_name_or_path,
                config=None if config is None else getattr(config, part),
                subfolder="/".join(filter(None, (subfolder, folder))),
                **kwargs,
            )
        return cls(**parts)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes both tokenizers, each into its sub-folder; returns the paths of the files."""
        if os.path.isfile(save_directory):
            raise ValueError(f"save_directory: {os.fspath(save_directory)} is a file")
        written: tuple[str, ...] = ()
        for part, folder in FOLDERS.items():
            written += getattr(self, part).save_pretrained(Path(save_directory) / folder)
        return written

    def _switch_to_input_mode(self) -> None:
        """From now on texts are questions."""
        self.current_tokenizer = self.question_encoder

    def _switch_to_target_mode(self) -> None:
        """From now on texts are answers."""
        self.current_tokenizer = self.generator

    def __call__(
        self, text: Any = None, *args: Any, text_target: Any = None, **kwargs: Any
    ) -> BatchEncoding:
        """Turns texts into ids; see the tokenizers' own call.

        Args:
            text: a question or a batch of them; answers after `_switch_to_target_mode`.
            args, kwargs: as the tokenizers take them.
            text_target: answers, whose ids are returned as `labels` (as `input_ids` when there is
                no `text`). They are the generator's; in transformers 4.40 they are the question
                encoder's, which is no use.
        """
        if text_target is None:
            return self.current_tokenizer(text, *args, **kwargs)
        target = self.generator(text_target, *args, **kwargs)
        if text is None:
            return target
        encoding = self.current_tokenizer(text, *args, **kwargs)
        encoding["labels"] = target["input_ids"]
        return encoding

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The text of the generator's ids."""
        return self.generator.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The texts of a batch of the generator's ids."""
        return self.generator.batch_decode(*args, **kwargs)

    def prepare_seq2seq_batch(
        self,
        src_texts: str | Sequence[str],
        tgt_texts: str | Sequence[str] | None = None,
        max_length: int | None = None,
        max_target_length: int | None = None,
        padding: Any = "longest",
        return_tensors: Any = None,
        truncation: Any = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Questions, and answers as `labels`.

        Args:
            src_texts: questions, or one.
            tgt_texts: answers, or one.
            max_length: the most tokens of a question; what the encoder takes by default.
            max_target_length: the most tokens of an answer; `max_length` by default.
            padding, return_tensors, truncation, kwargs: as in a call.
        """
        options = {"padding": padding, "return_tensors": return_tensors, "truncation": truncation}
        encoding = self.question_encoder(
            _texts(src_texts), max_length=max_length, **options, **kwargs
        )
        if tgt_texts is not None:
            limit = max_length if max_target_length is None else max_target_length
            target = self.generator(_texts(tgt_texts), max_length=limit, **options, **kwargs)
            encoding["labels"] = target["input_ids"]
        return encoding


def _texts(texts: str | Sequence[str]) -> str | list[str]:
    """One text as it is, not as its letters."""
    return texts if isinstance(texts, str) else list(texts)

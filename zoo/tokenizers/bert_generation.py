"""BertGeneration's tokenizer: SentencePiece, with nothing put around a text.

Released decoders learn to end with `</s>` because labels end with it: that, and a `<s>` in front,
is for the caller to add.
"""

from __future__ import annotations

import itertools
from typing import Any

from tokenizers import AddedToken

from .sentencepiece import SentencePieceTokenizer

VOCAB_FILE = "spiece.model"


class BertGenerationTokenizer(SentencePieceTokenizer):
    """BertGeneration's tokenizer on the `sentencepiece` library.

    Args:
        vocab_file: path of the SentencePiece model.
        bos_token, eos_token, unk_token, pad_token, sep_token: special tokens.
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
        bos_token: str | AddedToken = "<s>",
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        sep_token: str | AddedToken = "<::::>",
        sp_model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            vocab_file,
            sp_model_kwargs,
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            sep_token=sep_token,
            **kwargs,
        )

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """SentencePiece spells what lies between special tokens; these stand as they are."""
        special = set(self.all_special_tokens)
        text = ""
        for is_special, group in itertools.groupby(tokens, special.__contains__):
            run = list(group)
            text += "".join(run) if is_special else self.sp_model.decode_pieces(run)
        return text.strip()

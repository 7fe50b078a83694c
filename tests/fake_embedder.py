"""An encoder without a framework, for the process that makes an index: counts words."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import Checkpoint, checkpoint
from zoo.configs import RealmConfig

DIMENSION, REALM_DIMENSION = 6, 12
# Of the encoders that have no such table.
WORDS = {
    "RealmEmbedder": "realm.embeddings.word_embeddings.weight",
    "DPRContextEncoder": "ctx_encoder.bert_model.embeddings.word_embeddings.weight",
}


class FakeEmbedder:
    """Sums a row of a table for each token.

    Args:
        folder: of a checkpoint with the table.
        behave: a file that says what to do before a batch: `wait` while it is there, `die` once,
            or `fail`.
        encoder: REALM's embedder and DPR's have no such table; their word embeddings serve.
        threads: not used.
    """

    def __init__(
        self,
        folder: Any,
        behave: str | None = None,
        encoder: str | None = None,
        threads: int | None = None,
    ):
        with Checkpoint.open(Path(folder) / "model.safetensors") as weights:
            if encoder is None:
                self._table = np.array(weights.array("table"))
            else:
                words = weights.array(WORDS[encoder])
                width = REALM_DIMENSION if encoder == "RealmEmbedder" else words.shape[1]
                self._table = np.array(words[:, :width])
        self.dimension = self._table.shape[1]
        self._behave = None if behave is None else Path(behave)

    def settings(self) -> dict[str, Any]:
        return {"encoder": "FakeEmbedder"}

    def embed_inputs(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        while self._behave is not None and self._behave.exists():
            what = json.loads(self._behave.read_text())
            if what == "die":
                self._behave.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "fail":
                raise RuntimeError("the encoder is out of order")
            time.sleep(0.01)
        vectors = self._table[inputs["input_ids"]] * inputs["attention_mask"][..., None]
        return vectors.sum(1)


def save(folder: Path, vocab_size: int, scale: float) -> None:
    """Writes the checkpoint of a table."""
    table = np.random.default_rng(0).normal(size=(vocab_size, DIMENSION)).astype(np.float32)
    checkpoint.save(
        folder,
        {"table": ("float32", table.shape, lambda: table * np.float32(scale))},
        config_text=RealmConfig(vocab_size=vocab_size).to_json_string(),
    )

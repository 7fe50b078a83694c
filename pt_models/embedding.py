"""Vectors of texts from any encoder of the zoo; see `zoo.retrieval.embedding`."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from zoo.retrieval.embedding import Embedder


class TextEmbedder(Embedder):
    """Turns texts into vectors with a model in PyTorch."""

    def _open(self, module: str, device: str | None, threads: int | None) -> Sequence[str]:
        if threads is not None:
            torch.set_num_threads(threads)
        if device is None:
            place = int(os.environ.get("LOCAL_RANK", 0))  # of this process on its machine
            count = torch.cuda.device_count()
            device = f"cuda:{place % count}" if count else "cpu"
        models = importlib.import_module(f".{module}", __package__)
        model_class = getattr(models, self.encoder, None)
        if model_class is None:
            raise ValueError(f"{self.folder}: {module} has no class {self.encoder}")
        model, info = model_class.from_pretrained(self.folder, output_loading_info=True)
        self._check_loaded(info["missing_keys"])
        self._model, self._device = model.eval().to(device), device
        return list(inspect.signature(model.forward).parameters)

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {
            name: torch.from_numpy(np.asarray(value, np.int64)).to(self._device)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            outputs = self._model(**tensors, return_dict=True)
        return {
            name: value.float().cpu().numpy()
            for name, value in outputs.items()
            if isinstance(value, torch.Tensor)
        }

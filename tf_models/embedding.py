"""Vectors of texts from any encoder of the zoo; see `zoo.retrieval.embedding`."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from zoo.retrieval.embedding import Embedder


class TFTextEmbedder(Embedder):
    """Turns texts into vectors with a model in Keras."""

    def _open(self, module: str, device: str | None, threads: int | None) -> Sequence[str]:
        if threads is not None:
            # Differs: TensorFlow takes the number before its first operation only.
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        if device is None:
            place = int(os.environ.get("LOCAL_RANK", 0))  # of this process on its machine
            count = len(tf.config.list_physical_devices("GPU"))
            device = f"GPU:{place % count}" if count else "CPU:0"
        models = importlib.import_module(f".{module}", __package__)
        model_class = getattr(models, f"TF{self.encoder}", None)
        if model_class is None:
            raise ValueError(f"{self.folder}: {module} has no class {self.encoder}")
        with tf.device(device):
            model, info = model_class.from_pretrained(self.folder, output_loading_info=True)
        self._check_loaded(info["missing_keys"])
        self._model, self._device = model, device
        # Differs: one graph for batches of every size, as eager operations are slow.
        self._graph = tf.function(self._outputs, reduce_retracing=True)
        return [name for name in inspect.signature(model.call).parameters if name != "training"]

    def _run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with tf.device(self._device):
            tensors = {
                name: tf.constant(np.asarray(value, np.int32)) for name, value in inputs.items()
            }
            outputs = self._graph(tensors)
        return {name: value.numpy() for name, value in outputs.items()}

    def _outputs(self, tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs = self._model(tensors, training=False, return_dict=True)
        return {
            name: tf.cast(value, tf.float32)
            for name, value in outputs.items()
            if isinstance(value, tf.Tensor)
        }

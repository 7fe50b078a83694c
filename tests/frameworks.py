"""PyTorch and Keras behind one set of methods, so that a test asks both the same question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from cases import Arrays, Case, make_config, make_weight


def flat(value: Any, prefix: str = "") -> Arrays:
    """Nested outputs as arrays: `logits`, `hidden_states.0`; of a tuple `0`, `1.0`."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        value = value.detach() if hasattr(value, "detach") else value
        return {prefix.removesuffix("."): np.array(value.numpy())}
    found: Arrays = {}
    for name, item in items:
        found |= flat(item, f"{prefix}{name}.")
    return found


class Framework:
    """What both can do."""

    name: ClassVar[str]
    prefix: ClassVar[str]

    def model_class(self, name: str) -> Any:
        return getattr(self.package(), self.prefix + name)

    def package(self) -> Any:
        raise NotImplementedError

    def build(self, case: Case, **overrides: Any) -> Any:
        """A model with the row's configuration and with weights known by their names."""
        model = self.model_class(case.model)(make_config(case, **overrides), **case.init)
        self.fill(model)
        return model

    def fill(self, model: Any) -> None:
        values = {n: make_weight(n, s) for n, s in self.shapes(model).items()}
        values |= {alias: values[source] for alias, source in model.tied_weights().items()}
        self.set_weights(model, values)

    def shapes(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.weights(model).items()}

    def outputs(self, model: Any, inputs: Arrays, **kwargs: Any) -> Arrays:
        """In evaluation."""
        return flat(self.call(model, inputs, **kwargs))

    def call(self, model: Any, inputs: Arrays, **kwargs: Any) -> Any:
        raise NotImplementedError

    def training_outputs(self, model: Any, inputs: Arrays, **kwargs: Any) -> Arrays:
        """In training mode."""
        raise NotImplementedError

    def weights(self, model: Any) -> Arrays:
        raise NotImplementedError

    def set_weights(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        raise NotImplementedError

    def gradients(self, model: Any, inputs: Arrays, **kwargs: Any) -> tuple[float, Arrays]:
        """Loss and gradient of every weight it reaches, in training mode."""
        raise NotImplementedError


class Torch(Framework):
    name, prefix = "pt", ""

    def package(self) -> Any:
        import pt_models

        return pt_models

    def tensor(self, value: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.array(value))

    def call(self, model: Any, inputs: Arrays, **kwargs: Any) -> Any:
        import torch

        with torch.no_grad():
            return model.eval()(**{n: self.tensor(v) for n, v in inputs.items()}, **kwargs)

    def training_outputs(self, model: Any, inputs: Arrays, **kwargs: Any) -> Arrays:
        model.train()
        return flat(model(**{n: self.tensor(v) for n, v in inputs.items()}, **kwargs))

    def weights(self, model: Any) -> Arrays:
        return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}

    def set_weights(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        model.load_state_dict({name: self.tensor(value) for name, value in values.items()})

    def gradients(self, model: Any, inputs: Arrays, **kwargs: Any) -> tuple[float, Arrays]:
        model.train().zero_grad()
        loss = model(**{n: self.tensor(v) for n, v in inputs.items()}, **kwargs).loss
        loss.backward()
        tied = model.tied_weights()
        return loss.item(), {
            name: parameter.grad.numpy().copy()
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.grad is not None and name not in tied
        }

    def sgd(self, model: Any, rate: float, momentum: float) -> Callable[[Arrays], float]:
        import torch

        return self._step(model, torch.optim.SGD(model.parameters(), rate, momentum=momentum))

    def adamw(self, model: Any, rate: float, decay: float, epsilon: float) -> Any:
        import torch

        optimizer = torch.optim.AdamW(
            model.parameters(), rate, betas=(0.9, 0.999), eps=epsilon, weight_decay=decay
        )
        return self._step(model, optimizer)

    def _step(self, model: Any, optimizer: Any) -> Callable[[Arrays], float]:
        def step(inputs: Arrays) -> float:
            loss, _ = self.gradients(model, inputs)
            optimizer.step()
            return loss

        return step


class Keras(Framework):
    name, prefix = "tf", "TF"

    def package(self) -> Any:
        import tf_models

        return tf_models

    def tensor(self, value: np.ndarray) -> Any:
        import tensorflow as tf

        return tf.constant(value)

    def call(self, model: Any, inputs: Arrays, **kwargs: Any) -> Any:
        return model(**{n: self.tensor(v) for n, v in inputs.items()}, **kwargs)

    def training_outputs(self, model: Any, inputs: Arrays, **kwargs: Any) -> Arrays:
        return flat(self.call(model, inputs, training=True, **kwargs))

    def _named(self, model: Any) -> dict[str, Any]:
        from tf_models.modeling import named_weights

        return dict(named_weights(model))

    def weights(self, model: Any) -> Arrays:
        return {name: np.array(weight.numpy()) for name, weight in self._named(model).items()}

    def set_weights(self, model: Any, values: Mapping[str, np.ndarray]) -> None:
        named = self._named(model)
        assert named.keys() == values.keys()
        for name, weight in named.items():
            weight.variable.assign(values[name].T if weight.transposed else values[name])

    def gradients(self, model: Any, inputs: Arrays, **kwargs: Any) -> tuple[float, Arrays]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.call(model, inputs, training=True, **kwargs).loss
        tied = model.tied_weights()
        named = {name: w for name, w in self._named(model).items() if name not in tied}
        found = tape.gradient(loss, [weight.variable.value for weight in named.values()])
        # Tables have sparse gradients.
        dense = [None if x is None else tf.convert_to_tensor(x).numpy() for x in found]
        return float(loss), {
            name: value.T if weight.transposed else value
            for (name, weight), value in zip(named.items(), dense, strict=True)
            if value is not None
        }

    def sgd(self, model: Any, rate: float, momentum: float) -> Callable[[Arrays], float]:
        import keras

        return self._step(model, keras.optimizers.SGD(rate, momentum=momentum))

    def adamw(self, model: Any, rate: float, decay: float, epsilon: float) -> Any:
        import keras

        return self._step(
            model,
            keras.optimizers.AdamW(
                rate, weight_decay=decay, beta_1=0.9, beta_2=0.999, epsilon=epsilon
            ),
        )

    def _step(self, model: Any, optimizer: Any) -> Callable[[Arrays], float]:
        import tensorflow as tf

        def step(inputs: Arrays) -> float:
            with tf.GradientTape() as tape:
                loss = self.call(model, inputs, training=True).loss
            variables = model.trainable_variables
            gradients = tape.gradient(loss, [variable.value for variable in variables])
            pairs = zip(gradients, variables, strict=True)
            optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])
            return float(loss)

        return step


TORCH, KERAS = Torch(), Keras()

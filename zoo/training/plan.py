"""How a model is trained: steps, learning rate, clipping, decay; the same in both frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Settings of AdamW with warm-up and linear decay, as BERT was trained.

    Args:
        steps: updates in all.
        learning_rate: the highest.
        warm_up: updates in which the rate rises; a share of `steps` where below 1.
        weight_decay: of matrices; biases and the weights of norms do not decay.
        clip: the largest norm of all gradients together; None clips nothing.
        beta_1, beta_2, epsilon: of Adam.
        seed: of batches and dropout.
        checkpoint_every: steps between two checkpoints; None writes none but the last.
        keep_checkpoints: how many stay.

    Raises:
        ValueError: a value that makes no sense.
    """

    steps: int
    learning_rate: float = 1e-4
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip: float | None = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    seed: int = 0
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        def check(name: str, fine: bool, wanted: str) -> None:
            if not fine:
                raise ValueError(f"{name}: received {getattr(self, name)!r}, expected {wanted}")

        check("steps", isinstance(self.steps, int) and self.steps > 0, "a positive number")
        for name in ("learning_rate", "warm_up", "weight_decay", "epsilon"):
            value = getattr(self, name)
            check(name, math.isfinite(value) and value >= 0, "a number from 0")
        check("clip", self.clip is None or self.clip > 0, "a positive number or None")
        for name in ("beta_1", "beta_2"):
            check(name, 0 <= getattr(self, name) < 1, "a number from 0 to below 1")
        every = self.checkpoint_every
        check("checkpoint_every", every is None or every > 0, "a positive number or None")
        check("keep_checkpoints", self.keep_checkpoints > 0, "a positive number")

    @property
    def warm_up_steps(self) -> int:
        return int(self.warm_up * self.steps if self.warm_up < 1 else self.warm_up)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0.

        It rises linearly to `learning_rate`, then falls linearly, to reach 0 after the last step.
        """
        warm = self.warm_up_steps
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * max(self.steps - step, 0) / max(self.steps - warm, 1)

    def saves_after(self, done: int) -> bool:
        """Whether a checkpoint is written when so many steps are done."""
        every = self.checkpoint_every
        return done == self.steps or (every is not None and done % every == 0)

    def settings(self) -> dict[str, Any]:
        """What a resumed run has to share with the one it goes on with."""
        kept = asdict(self)
        for name in ("checkpoint_every", "keep_checkpoints"):
            del kept[name]
        return kept


def decays(shape: Sequence[int]) -> bool:
    """Whether a weight of that shape decays: matrices do, biases and norms do not."""
    return len(shape) > 1


def factors_of(models: Iterable[str], rates: Mapping[str, float] | None) -> dict[str, float]:
    """What the learning rate of each model is multiplied with.

    Args:
        models: their names.
        rates: of some of them.

    Raises:
        ValueError: of a model that there is not.
    """
    factors = dict.fromkeys(models, 1.0)
    for name, factor in (rates or {}).items():
        if name not in factors:
            raise ValueError(f"rates: no model {name!r}; there are {', '.join(factors)}")
        if not math.isfinite(factor) or factor < 0:
            raise ValueError(f"rates: received {factor} for {name}, expected a number from 0")
        factors[name] = factor
    return factors

"""A training loop whose runs can be cut off anywhere and go on as if nothing had happened.

`zoo.training` holds what needs no framework: batches, the plan, checkpoints, the index refreshes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from zoo.training import state as training_state
from zoo.training.batches import Batch, share
from zoo.training.plan import Plan, decays, factors_of
from zoo.training.refresh import Refresher

from .modeling import PreTrainedModel

Report = Callable[[dict[str, Any]], None]
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Step(nn.Module):
    """What one step of training computes, on top of models that it holds.

    Args:
        models: by the names under which their weights are saved.
    """

    def __init__(self, models: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.models = dict(models)
        for name, model in models.items():
            setattr(self, name, model)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            batch: as the batches of `zoo.training` give it.

        Returns:
            Scalars; `loss` is what is minimised.
        """
        raise NotImplementedError


class Trainer:
    """AdamW with the rate, clipping and decay of a plan, on one process or a group of them.

    In a group (torchrun) each process does an equal part of every batch and their gradients are
    averaged, so that the result is that of one process.

    Args:
        step: what a step computes; its models are trained where they are.
        plan: the settings.
        rates: by a model's name, what its learning rate is multiplied with.
    """

    def __init__(self, step: Step, plan: Plan, rates: Mapping[str, float] | None = None) -> None:
        self.step, self.plan = step, plan
        self.done = 0  # steps
        self._names = _names_of(step.models)
        groups = [
            {
                "params": [
                    parameter
                    for name, parameter in self._names.items()
                    if name.startswith(f"{model}.") and decays(parameter.shape) is decay
                ],
                "weight_decay": plan.weight_decay * decay,
                "factor": factor,
            }
            for model, factor in factors_of(step.models, rates).items()
            for decay in (True, False)
        ]
        self.optimizer = torch.optim.AdamW(
            groups, plan.learning_rate, betas=(plan.beta_1, plan.beta_2), eps=plan.epsilon,
            fused=True,
        )  # fmt: skip
        self.rank, self.world = group_rank()
        self._module: nn.Module = step
        if self.world > 1:
            # No buffer is trained; of a large corpus, the vectors of blocks are one.
            step._ddp_params_and_buffers_to_ignore = [name for name, _ in step.named_buffers()]
            # Heads that a step does not use get no gradient.
            self._module = nn.parallel.DistributedDataParallel(step, find_unused_parameters=True)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update.

        Args:
            batch: of all processes together.

        Returns:
            What the step computed, and `learning_rate`; of several processes the mean.
        """
        plan = self.plan
        # Dropout depends on the step alone, so that a resumed run drops the same units.
        torch.manual_seed((plan.seed * 1_000_003 + self.done) * 4096 + self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(self.done) * group["factor"]
        device = next(self.step.parameters()).device
        if self.world > 1:
            batch = share(batch, self.rank, self.world)
        found = self._module({name: tensor(array, device) for name, array in batch.items()})
        self.optimizer.zero_grad(set_to_none=True)
        found["loss"].backward()
        if plan.clip is not None:
            nn.utils.clip_grad_norm_(self.step.parameters(), plan.clip)
        self.optimizer.step()
        self.done += 1
        values = torch.stack([value.detach().float() for value in found.values()])
        if self.world > 1:
            distributed.all_reduce(values)
            values /= self.world
        entry = dict(zip(found, values.tolist(), strict=True))
        return entry | {"learning_rate": plan.rate(self.done - 1)}

    def fit(
        self, batches: Callable[[int], Batch], callbacks: Sequence[Any] = ()
    ) -> list[dict[str, float]]:
        """Trains until the plan's steps are done.

        Args:
            batches: the batch of a step.
            callbacks: objects with `on_train_begin(trainer)`, `on_train_batch_begin(step)`,
                `on_train_batch_end(step, entry)` or `on_train_end()`.

        Returns:
            What each step gave.
        """
        self.step.train()
        call = _Callbacks(callbacks)
        call("on_train_begin", self)
        history = []
        while self.done < self.plan.steps:
            began = time.perf_counter()
            number = self.done
            call("on_train_batch_begin", number)
            entry = {"step": number + 1} | self.train_step(batches(number))
            entry["seconds"] = time.perf_counter() - began
            history.append(entry)
            call("on_train_batch_end", number, entry)
        call("on_train_end")
        self.step.eval()
        return history

    def moments(self) -> dict[str, np.ndarray]:
        """Adam's moments by the weights' names; of weights without gradient there are none."""
        found = {}
        for name, parameter in self._names.items():
            for moment in _MOMENTS:
                value = self.optimizer.state.get(parameter, {}).get(moment)
                if value is not None:
                    found[f"{moment}.{name}"] = value.detach().float().cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Writes the models, each into a folder of its name."""
        for name, model in self.step.models.items():
            model.save_pretrained(folder / name)

    def restore(self, state: training_state.State) -> None:
        """Goes on from a checkpoint.

        Raises:
            TrainingError: its optimizer has other weights.
        """
        for name, model in self.step.models.items():
            device = next(model.parameters()).device
            loaded = type(model).from_pretrained(state.folder / name, dtype=model.dtype)
            model.load_state_dict(loaded.state_dict())
            model.to(device)
        moments = state.moments()
        self.done = state.step
        for name, parameter in self._names.items():
            values = {moment: moments.pop(f"{moment}.{name}", None) for moment in _MOMENTS}
            if values[_MOMENTS[0]] is None:
                continue
            if values[_MOMENTS[0]].shape != tuple(parameter.shape):
                raise training_state.TrainingError(f"{state.folder}: {name} has another shape")
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(state.step)),
                **{moment: torch.tensor(value).to(parameter) for moment, value in values.items()},
            }
        if moments:
            raise training_state.TrainingError(
                f"{state.folder}: no weights for {', '.join(sorted(moments)[:3])}"
            )


class TrainingCheckpoint:
    """Writes checkpoints as the plan says.

    Args:
        out: folder of the run.
        settings: that a resumed run has to share.
        refresher: whose versions of an index belong to the checkpoints.
        tokenizer: saved with every model.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        settings: Mapping[str, Any],
        refresher: Refresher | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.out, self.settings, self.refresher = out, settings, refresher
        self.tokenizer = tokenizer

    def on_train_begin(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_batch_end(self, step: int, entry: Mapping[str, Any]) -> None:
        trainer = self._trainer
        if not trainer.plan.saves_after(step + 1):
            return
        if trainer.rank == 0:
            refresher = self.refresher
            training_state.save(
                self.out, step + 1, self._write, trainer.moments(), self.settings,
                indexes=() if refresher is None else refresher.needed(step + 1),
                keep=trainer.plan.keep_checkpoints,
            )  # fmt: skip
            if refresher is not None:
                refresher.forget(training_state.indexes_of(self.out))
        if trainer.world > 1:
            distributed.barrier()

    def _write(self, folder: Path) -> None:
        self._trainer.save(folder)
        if self.tokenizer is not None:
            for name in self._trainer.step.models:
                self.tokenizer.save_pretrained(folder / name)


class IndexRefresh:
    """Has an index made anew while training goes on, and takes it up.

    Args:
        refresher: makes the versions.
        candidates: whose `index` they become.
        save: writes the encoder of the blocks and its tokenizer into a folder.
    """

    def __init__(self, refresher: Refresher, candidates: Any, save: Callable[[Path], None]) -> None:
        self.refresher, self.candidates, self.save = refresher, candidates, save

    def on_train_batch_begin(self, step: int) -> None:
        if self.refresher.before(step, self.save):
            self.candidates.index = self.refresher.index

    def on_train_end(self) -> None:
        self.refresher.close()


class StepLog:
    """Keeps what each step gave, in memory and in log.jsonl, and tells it on.

    Args:
        log: keeps it.
        report: called with each entry.
    """

    def __init__(self, log: training_state.Log | None, report: Report | None = None) -> None:
        self.log, self.report = log, report

    def on_train_batch_end(self, step: int, entry: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.add(dict(entry))
        if self.report is not None:
            self.report(dict(entry))


def train(
    step: Step,
    batches: Callable[[int], Batch],
    plan: Plan,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    rates: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    refresh: IndexRefresh | None = None,
    tokenizer: Any = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Trains with checkpoints, a log and index refreshes.

    Args:
        step: what a step computes.
        batches: the batch of a step.
        plan: the settings.
        out: folder for checkpoints and log; None writes nothing.
        resume: go on from the newest checkpoint in `out`.
        rates: see `Trainer`.
        settings: what a resumed run has to share besides the plan.
        refresh: of the index.
        tokenizer: saved with every checkpoint.
        report: called with what each step gave.

    Returns:
        What each step gave, those before a resumption too: `step`, `loss`, `learning_rate`,
        `seconds` and others.

    Raises:
        TrainingError: nothing to resume, or with other settings.
    """
    trainer = Trainer(step, plan, rates)
    refresher = None if refresh is None else refresh.refresher
    everything = training_state.all_settings(plan, rates, settings, refresher)
    done = 0
    if resume:
        state = training_state.latest(training_state.required(out))
        state.check(everything)
        trainer.restore(state)
        done = state.step
    elif out is not None:
        training_state.assert_new(out)
    if refresher is not None:
        refresher.keep_only(state.indexes if resume else ())
        if trainer.world > 1:
            distributed.barrier()
    log = training_state.Log(out, done) if trainer.rank == 0 else None
    callbacks: list[Any] = [] if refresh is None else [refresh]
    callbacks.append(StepLog(log, report if trainer.rank == 0 else None))
    if out is not None:
        callbacks.append(TrainingCheckpoint(out, everything, refresher, tokenizer))
    try:
        history = trainer.fit(batches, callbacks)
    finally:
        if refresher is not None:
            refresher.close()
    return history if log is None else log.entries


def tensor(array: np.ndarray, device: torch.device | str | None = None) -> Tensor:
    """A tensor of an array; whole numbers have 64 bits."""
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


class _GatherRows(torch.autograd.Function):
    """The rows of all processes; their gradients add up at the process that a row is from."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes of a group, and where the own ones begin.

    Args:
        rows: as many in every process, `(rows, ...)`.
    """
    rank, world = group_rank()
    return (rows, 0) if world == 1 else (_GatherRows.apply(rows), rank * len(rows))


def group_rank() -> tuple[int, int]:
    """Number of this process and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _names_of(models: Mapping[str, PreTrainedModel]) -> dict[str, nn.Parameter]:
    """Every weight that is trained, once, by the model's name and its own."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, model in models.items():
        tied = model.tied_weights()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in tied or not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            found[f"{prefix}.{name}"] = parameter
    return found


class _Callbacks:
    """Calls a method of every object that has it."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._callbacks = list(callbacks)

    def __call__(self, method: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            found = getattr(callback, method, None)
            if found is not None:
                found(*arguments)

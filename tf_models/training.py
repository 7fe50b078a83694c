"""Training with `fit` whose runs can be cut off anywhere and go on as if nothing had happened.

`zoo.training` holds what needs no framework: batches, the plan, checkpoints, the index refreshes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from zoo.training import state as training_state
from zoo.training.batches import Batch, share
from zoo.training.plan import Plan, decays, factors_of
from zoo.training.refresh import Refresher

from .modeling import TFPreTrainedModel, Weight, named_weights

Report = Callable[[dict[str, Any]], None]
_MOMENTS = {"exp_avg": "_momentums", "exp_avg_sq": "_velocities"}


class Step(keras.layers.Layer):
    """What one step of training computes, on top of models that it holds.

    Args:
        models: by the names under which their weights are saved.
    """

    def __init__(self, models: Mapping[str, TFPreTrainedModel]) -> None:
        super().__init__()
        self._model_names = tuple(models)
        for name, model in models.items():
            setattr(self, name, model)
        self.built = True

    @property
    def models(self) -> dict[str, TFPreTrainedModel]:
        return {name: getattr(self, name) for name in self._model_names}

    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """
        Args:
            batch: as the batches of `zoo.training` give it.
            training: whether dropout is on.

        Returns:
            Scalars; `loss` is what is minimised.
        """
        raise NotImplementedError


class Trainer(keras.Model):
    """AdamW with the rate, clipping and decay of a plan, on one replica or several.

    It is compiled: `fit` on a dataset of batches trains. Under a strategy of `tf.distribute` each
    replica does an equal part of every batch and the gradients are averaged, so that the result is
    that of one replica.

    Args:
        step: what a step computes; its models are trained where they are.
        plan: the settings.
        rates: by a model's name, what its learning rate is multiplied with.
    """

    def __init__(self, step: Step, plan: Plan, rates: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.step, self.plan = step, plan
        self._named = _names_of(step.models)
        self._generators = [model.seed_generator for model in _models_in(step)]
        # Differs: an optimizer of Keras has one rate, so that every model has its own optimizer.
        self._optimizers = {
            model: self._make_optimizer(model, factor)
            for model, factor in factors_of(step.models, rates).items()
        }
        self.compile(next(iter(self._optimizers.values())))
        self.built = True
        self.rank = worker_number()

    def _make_optimizer(self, model: str, factor: float) -> keras.optimizers.Optimizer:
        plan, weights = self.plan, list(self._named[model].values())
        optimizer = keras.optimizers.AdamW(
            _Rate(plan, factor), plan.weight_decay, plan.beta_1, plan.beta_2, plan.epsilon
        )
        optimizer.exclude_from_weight_decay([w.variable for w in weights if not decays(w.shape)])
        optimizer.build([weight.variable for weight in weights])
        return optimizer

    @property
    def done(self) -> int:
        """Steps done."""
        return int(self.optimizer.iterations.numpy())

    def train_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One update.

        Args:
            data: a batch, or this replica's part of it.

        Returns:
            What the step computed; of several replicas the mean.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        # Dropout depends on the step alone, so that a resumed run drops the same units.
        number = tf.cast(self.optimizer.iterations.value, tf.int64) * 4096
        for place, generator in enumerate(self._generators):
            seed = tf.stack([tf.constant(self.plan.seed * 64 + place, tf.int64), number])
            generator.state.assign(tf.cast(seed, generator.state.dtype))
        with tf.GradientTape() as tape:
            found = self.step(data, training=True)
        weights = [weight for named in self._named.values() for weight in named.values()]
        gradients = tape.gradient(found["loss"], [weight.variable.value for weight in weights])
        # Differs: tables have sparse gradients here, with several entries for one row. Heads that
        # a step does not use have none.
        known = {
            number: tf.convert_to_tensor(gradient)
            for number, gradient in enumerate(gradients)
            if gradient is not None
        }
        values = {name: tf.cast(value, tf.float32) for name, value in found.items()}
        if replicas > 1:
            known, values = context.all_reduce(tf.distribute.ReduceOp.MEAN, (known, values))
        if self.plan.clip is not None:
            scale = tf.minimum(
                self.plan.clip / (tf.linalg.global_norm(list(known.values())) + 1e-6), 1.0
            )
            known = {number: x * tf.cast(scale, x.dtype) for number, x in known.items()}
        first = 0
        for model, named in self._named.items():
            own = [number for number in range(first, first + len(named)) if number in known]
            # Keras adds up what the replicas bring.
            self._optimizers[model].apply(
                [known[number] / replicas for number in own],
                [weights[number].variable for number in own],
            )
            first += len(named)
        return values

    def dataset(self, batches: Callable[[int], Batch]) -> tf.data.Dataset:
        """The batches from the next step on, for `fit`.

        Args:
            batches: the batch of a step.
        """
        first = self.done
        sample = batches(first)
        signature = {name: _spec(array.shape, _dtype(array)) for name, array in sample.items()}

        def generate() -> Any:
            for number in range(first, self.plan.steps):
                yield {name: _plain(array) for name, array in batches(number).items()}

        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(1)

    def run(self, batches: Callable[[int], Batch], callbacks: Sequence[Any] = ()) -> None:
        """Trains until the plan's steps are done.

        Args:
            batches: the batch of a step.
            callbacks: of Keras.
        """
        left = self.plan.steps - self.done
        if left <= 0:
            return
        strategy = tf.distribute.get_strategy()
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self._run_on_workers(strategy, batches, callbacks)
            return
        self.fit(
            self.dataset(batches),
            steps_per_epoch=left,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        )

    def _run_on_workers(
        self, strategy: Any, batches: Callable[[int], Batch], callbacks: Sequence[Any]
    ) -> None:
        """Differs: `fit` of Keras 3 does not know strategies of several workers."""
        step = tf.function(
            lambda batch: strategy.run(self.train_step, (batch,)), reduce_retracing=True
        )
        call = keras.callbacks.CallbackList(list(callbacks), model=self)
        call.on_train_begin()
        first = self.done
        for number in range(first, self.plan.steps):
            call.on_train_batch_begin(number)
            batch = batches(number)

            def part(context: Any, batch: Batch = batch) -> dict[str, tf.Tensor]:
                own = share(batch, context.replica_id_in_sync_group, context.num_replicas_in_sync)
                return {name: tf.constant(_plain(array)) for name, array in own.items()}

            values = strategy.experimental_distribute_values_from_function(part)
            parts = {n: strategy.experimental_local_results(x) for n, x in values.items()}
            if all(len(own) == 1 for own in parts.values()):
                # Plain tensors, for which the graph is made once and not for every length.
                values = {name: own[0] for name, own in parts.items()}
                if number == first:
                    specs = {name: _spec(x.shape, x.dtype) for name, x in values.items()}
                    step = step.get_concrete_function(specs)
            found = {
                name: strategy.experimental_local_results(value)[0]
                for name, value in step(values).items()
            }
            call.on_train_batch_end(number, found)
        call.on_train_end()

    def moments(self) -> dict[str, np.ndarray]:
        """Adam's moments by the weights' names, in PyTorch's layout."""
        found = {}
        for name, weight, moment, slot in self._slots():
            value = np.asarray(slot.numpy(), np.float32)
            found[f"{moment}.{name}"] = value.T if weight.transposed else value
        return found

    def _slots(self) -> Iterator[tuple[str, Weight, str, keras.Variable]]:
        """Every moment: of which weight, which one, and its variable."""
        for model, named in self._named.items():
            for place, (name, weight) in enumerate(named.items()):
                for moment, attribute in _MOMENTS.items():
                    slot = getattr(self._optimizers[model], attribute)[place]
                    yield f"{model}.{name}", weight, moment, slot

    def save_models(self, folder: Path) -> None:
        """Writes the models, each into a folder of its name."""
        for name, model in self.step.models.items():
            model.save_pretrained(folder / name)

    def restore(self, state: training_state.State) -> None:
        """Goes on from a checkpoint.

        Raises:
            TrainingError: its optimizer has other weights.
        """
        for name, model in self.step.models.items():
            loaded = dict(named_weights(type(model).from_pretrained(state.folder / name)))
            for key, weight in named_weights(model):
                weight.variable.assign(loaded[key].variable)
        moments = state.moments()
        for name, weight, moment, slot in self._slots():
            value = moments.pop(f"{moment}.{name}", None)
            if value is None:
                continue
            if value.shape != weight.shape:
                raise training_state.TrainingError(f"{state.folder}: {name} has another shape")
            slot.assign(value.T if weight.transposed else value)
        if moments:
            raise training_state.TrainingError(
                f"{state.folder}: no weights for {', '.join(sorted(moments)[:3])}"
            )
        for optimizer in self._optimizers.values():
            optimizer.iterations.assign(state.step)


class TrainingCheckpoint(keras.callbacks.Callback):
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
        super().__init__()
        self.out, self.settings, self.refresher = out, settings, refresher
        self.tokenizer = tokenizer

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        trainer = self.model
        done = trainer.done
        if not trainer.plan.saves_after(done) or trainer.rank != 0:
            return
        refresher = self.refresher
        training_state.save(
            self.out, done, self._write, trainer.moments(), self.settings,
            indexes=() if refresher is None else refresher.needed(done),
            keep=trainer.plan.keep_checkpoints,
        )  # fmt: skip
        if refresher is not None:
            refresher.forget(training_state.indexes_of(self.out))

    def _write(self, folder: Path) -> None:
        self.model.save_models(folder)
        if self.tokenizer is not None:
            for name in self.model.step.models:
                self.tokenizer.save_pretrained(folder / name)


class IndexRefresh(keras.callbacks.Callback):
    """Has an index made anew while training goes on, and takes it up.

    Args:
        refresher: makes the versions.
        candidates: whose `index` they become.
        save: writes the encoder of the blocks and its tokenizer into a folder.
    """

    def __init__(self, refresher: Refresher, candidates: Any, save: Callable[[Path], None]) -> None:
        super().__init__()
        self.refresher, self.candidates, self.save = refresher, candidates, save

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.refresher.before(self.model.done, self.save):
            self.candidates.index = self.refresher.index

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.refresher.close()


class StepLog(keras.callbacks.Callback):
    """Keeps what each step gave, in memory and in log.jsonl, and tells it on.

    Args:
        log: keeps it.
        report: called with each entry.
    """

    def __init__(self, log: training_state.Log | None, report: Report | None = None) -> None:
        super().__init__()
        self.log, self.report = log, report

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        trainer = self.model
        done = trainer.done
        entry = {"step": done} | {name: float(value) for name, value in (logs or {}).items()}
        entry["learning_rate"] = trainer.plan.rate(done - 1)
        entry["seconds"] = time.perf_counter() - self._began
        if self.log is not None:
            self.log.add(entry)
        if self.report is not None:
            self.report(entry)


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
    """Trains through `fit` with callbacks for checkpoints, a log and index refreshes.

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
        _wait_for_all()
    log = training_state.Log(out, done) if trainer.rank == 0 else None
    callbacks: list[Any] = [] if refresh is None else [refresh]
    callbacks.append(StepLog(log, report if trainer.rank == 0 else None))
    if out is not None:
        callbacks.append(TrainingCheckpoint(out, everything, refresher, tokenizer))
    try:
        trainer.run(batches, callbacks)
    finally:
        if refresher is not None:
            refresher.close()
    return [] if log is None else log.entries


@keras.saving.register_keras_serializable("tf_models")
class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A plan's learning rate, times a factor."""

    def __init__(self, plan: Plan, factor: float = 1.0) -> None:
        self.plan, self.factor = plan, factor

    def __call__(self, step: Any) -> Any:
        plan = self.plan
        done = tf.cast(step, tf.float32)
        warm = plan.warm_up_steps
        left = tf.maximum(plan.steps - done, 0.0) / max(plan.steps - warm, 1)
        share_of = tf.where(done < warm, (done + 1.0) / max(warm, 1), left)
        return plan.learning_rate * self.factor * share_of

    def get_config(self) -> dict[str, Any]:
        return {"plan": self.plan.settings(), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Rate:
        return cls(Plan(**config["plan"]), config["factor"])


def _plain(array: np.ndarray) -> np.ndarray:
    """Whole numbers with 32 bits."""
    return array.astype(np.int32) if array.dtype.kind in "iu" else array


def _dtype(array: np.ndarray) -> np.dtype:
    return _plain(array[:0]).dtype


def _spec(shape: Any, dtype: Any) -> tf.TensorSpec:
    """Of a batch: as many rows, of any lengths."""
    return tf.TensorSpec((shape[0], *(None,) * (len(shape) - 1)), dtype)


def worker_number() -> int:
    """Number of this process among the workers of the strategy."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    return 0 if resolver is None or resolver.task_id is None else int(resolver.task_id)


def _wait_for_all() -> None:
    """Lets no worker go on before all have come here."""
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):

        @tf.function
        def meet() -> Any:
            def one() -> Any:
                context = tf.distribute.get_replica_context()
                return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0))

            return strategy.run(one)

        meet()


def _names_of(models: Mapping[str, TFPreTrainedModel]) -> dict[str, dict[str, Weight]]:
    """Every weight that is trained, once, by the model's name and its own."""
    found: dict[str, dict[str, Weight]] = {}
    seen: set[int] = set()
    for prefix, model in models.items():
        tied = model.tied_weights()
        found[prefix] = {}
        for name, weight in named_weights(model):
            if name in tied or not weight.variable.trainable or id(weight.variable) in seen:
                continue
            seen.add(id(weight.variable))
            found[prefix][name] = weight
    return found


def _models_in(step: Step) -> list[TFPreTrainedModel]:
    """All models below a step, each of which has a generator of seeds."""
    return [x for x in step._flatten_layers() if isinstance(x, TFPreTrainedModel)]

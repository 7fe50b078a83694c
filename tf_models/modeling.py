"""What every Keras model of the zoo can do: load, save, tie and resize its weights, and train.

A weight's attribute path is its published key: a trailing underscore is dropped (Keras reserves
some names), and `kernel`, `embeddings`, `gamma`, `beta` are `weight`, `weight`, `weight`, `bias`;
kernels are transposed. That one rule serves every family.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import keras
import numpy as np
import optree
import tensorflow as tf
from keras import ops, tree

from zoo import checks, pretrained
from zoo.outputs import ModelOutput, output_classes
from zoo.tokenizers.encoding import BatchEncoding

from .layers import Embedding, Seeds, empty_weights, replace_part

logger = logging.getLogger("zoo")


def _register_output(cls: type[ModelOutput]) -> None:
    """Lets fit, predict and functional models look inside an output."""
    optree.register_pytree_node(
        cls,
        lambda output: (list(output.values()), list(output.keys())),
        lambda names, values: cls(zip(names, values, strict=True)),
        namespace="keras",
    )


for _cls in output_classes():
    _register_output(_cls)

# What a tokenizer returns can go into fit and predict as it is.
optree.register_pytree_node(
    BatchEncoding,
    lambda batch: (list(batch.values()), list(batch.keys())),
    lambda names, values: dict(zip(names, values, strict=True)),
    namespace="keras",
)


class Weight(NamedTuple):
    """A variable under its published name.

    Args:
        variable: the Keras variable.
        transposed: whether the published layout has the axes in reverse order.
        owner: the layer that holds it.
        attribute: under which name.
    """

    variable: keras.Variable
    transposed: bool
    owner: keras.layers.Layer
    attribute: str

    @property
    def shape(self) -> tuple[int, ...]:
        """In the published layout."""
        shape = tuple(self.variable.shape)
        return shape[::-1] if self.transposed else shape

    def numpy(self) -> np.ndarray:
        """The values in the published layout."""
        values = self.variable.value.numpy()
        return np.ascontiguousarray(values.T) if self.transposed else values

    def initialise(self) -> None:
        """Gives it the values that a new model starts from."""
        initializer = getattr(self.owner, f"{self.attribute.strip('_')}_initializer")
        self.variable.assign(initializer(self.variable.shape, self.variable.dtype))


_LEAVES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}


def named_weights(layer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, Weight]]:
    """Every weight below a layer with its published name, found by walking the attributes.

    Keras' own `variable.path` is not used: a model that was built before it was nested loses the
    prefix there.
    """
    for attribute, value in vars(layer).items():
        if isinstance(value, keras.Variable):
            name = attribute.strip("_")  # Keras' own layers keep `kernel` as `_kernel`
            weight = Weight(value, name == "kernel", layer, attribute)
            yield prefix + _LEAVES.get(name, name), weight
        elif attribute.startswith("_"):
            continue
        elif isinstance(value, keras.layers.Layer):
            yield from named_weights(value, f"{prefix}{attribute.rstrip('_')}.")
        elif isinstance(value, list | tuple):
            for number, child in enumerate(value):
                if isinstance(child, keras.layers.Layer):
                    yield from named_weights(child, f"{prefix}{attribute.rstrip('_')}.{number}.")


def default(value: bool | None, otherwise: bool) -> bool:
    """An argument of a call, or what the configuration says if it was not given."""
    return otherwise if value is None else value


def assert_values(name: str, values: Any, size: int, ignored: int | None = None) -> None:
    """Raises a ValueError unless all values (but `ignored`) are rows of a table of that size.

    Looking at them costs nothing on a CPU, but would stall an accelerator, and in a graph there
    are none yet; nothing is checked then.
    """
    if values is None or not tf.executing_eagerly() or "CPU" not in values.device:
        return
    found = values.numpy()
    if ignored is not None:
        found = found[found != ignored]
    if found.size:
        checks.values(name, int(found.min()), int(found.max()), size, ignored)


class TFPreTrainedModel(keras.Model):
    """Base of all models.

    Inputs come as keywords, as a dictionary, as a list in the order of `call`, or as one tensor.
    `compile(optimizer)` trains on the model's own loss, from labels among the inputs or given as
    `y`; `compile(optimizer, loss)` applies a Keras loss to the main output and `y`.

    Args:
        config: the family's configuration; kept as `model.config`.
        dtype: Keras dtype or policy, such as "mixed_float16".
        kwargs: `name`, `trainable`.
    """

    config_class: ClassVar[type]
    base_model_prefix: ClassVar[str] = ""
    # Regular expressions over the base model's own keys: weights a released file may lack.
    optional_weights: ClassVar[tuple[str, ...]] = ()
    # Regular expressions of keys in released files that no weight belongs to.
    ignored_weights: ClassVar[tuple[str, ...]] = ()
    # Inputs that the model's own loss is computed from.
    label_names: ClassVar[tuple[str, ...]] = ("labels",)

    def __init__(self, config: Any, dtype: Any = None, **kwargs: Any) -> None:
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, "
                f"got {type(config).__name__}"
            )
        config.validate()
        # Labels keep their precision; the layers cast what they compute with.
        super().__init__(dtype=dtype, autocast=False, **kwargs)
        self.config = config
        self.gradient_checkpointing = False
        self.seed_generator = keras.random.SeedGenerator()

    def post_init(self) -> None:
        """To be called at the end of a public class's constructor."""
        self.built = True
        self.tie_weights()

    # Calling: every form of inputs becomes keywords.

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        names, others = self._input_names()
        if inputs and isinstance(inputs[0], Mapping):
            given = dict(inputs[0])
            inputs = inputs[1:]
            unknown = sorted(set(given) - set(names) - {"training"})
            if unknown and not others:
                raise ValueError(f"{type(self).__name__} has no inputs {unknown}; it takes {names}")
            rest = [name for name in names if name not in given]
        else:
            if inputs and isinstance(inputs[0], list | tuple):
                inputs = (*inputs[0], *inputs[1:])
            given, rest = {}, names
        if len(inputs) > len(rest):
            raise ValueError(
                f"{type(self).__name__} takes {len(names)} inputs {names}, got {len(inputs)} more "
                f"than fit"
            )
        given.update(zip(rest, inputs, strict=False))
        twice = sorted(set(given) & set(kwargs))
        if twice:
            raise ValueError(f"{type(self).__name__}: {twice} given twice")
        return super().__call__(**given, **kwargs)

    def _input_names(self) -> tuple[list[str], bool]:
        """The names of the inputs in their order, and whether there may be others."""
        parameters = inspect.signature(self.call).parameters.values()
        rest = [p for p in parameters if p.kind is p.VAR_KEYWORD]
        return [p.name for p in parameters if p.name != "training" and p not in rest], bool(rest)

    def _seeds(self, training: bool | None) -> Seeds:
        """Seeds of the dropouts of this call."""
        if not training:
            return Seeds(None)
        return Seeds(ops.cast(self.seed_generator.next(), "int32"))

    def _returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output itself, or the tuple of what it holds."""
        return output if default(return_dict, self.config.use_return_dict) else output.to_tuple()

    # Parts.

    @property
    def base_model(self) -> TFPreTrainedModel:
        """The model without its head."""
        return getattr(self, self.base_model_prefix, self)

    def __dir__(self) -> list[str]:
        # Keras' saver follows every attribute that is listed here, and this one may lead back.
        return [name for name in super().__dir__() if name != "base_model"]

    def _parts(self) -> dict[str, TFPreTrainedModel]:
        """The models that the base model is made of, by name; none where it has its own layers."""
        return {}

    def _with_layers(self) -> list[TFPreTrainedModel]:
        """The models inside that have layers."""
        parts = self._parts().values()
        return [model for part in parts for model in part._with_layers()] or [self.base_model]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts weights; a tied weight counts once."""
        counted = {
            id(weight.variable): weight.variable
            for _, weight in named_weights(self)
            if not (exclude_embeddings and isinstance(weight.owner, keras.layers.Embedding))
        }
        return sum(
            int(np.prod(v.shape)) for v in counted.values() if v.trainable or not only_trainable
        )

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Recomputes each layer's activations in the backward pass, to save memory.

        Args:
            gradient_checkpointing_kwargs: PyTorch's options; TensorFlow has none and refuses any.
        """
        if gradient_checkpointing_kwargs:
            raise ValueError(
                "gradient_checkpointing_kwargs: tf.recompute_grad takes no options, got "
                f"{dict(gradient_checkpointing_kwargs)}"
            )
        for model in self._with_layers():
            model.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        for model in self._with_layers():
            model.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(model.gradient_checkpointing for model in self._with_layers())

    def _layer_caller(self, training: bool | None) -> Callable[..., Any]:
        """Calls a layer, recomputing it in the backward pass if that is switched on."""
        if not (self.gradient_checkpointing and training):
            return lambda layer, *inputs, **options: layer(*inputs, **options)
        return _recomputed

    # Embeddings.

    def get_input_embeddings(self) -> keras.layers.Embedding:
        return self.base_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: keras.layers.Embedding) -> None:
        replace_part(self.base_model.embeddings, "word_embeddings", value)
        self.tie_weights()

    def get_output_embeddings(self) -> keras.layers.Layer | None:
        """The layer that gives a score to each word of the vocabulary, if the model has one."""
        return None

    def set_output_embeddings(self, value: keras.layers.Layer) -> None:
        raise ValueError(f"{type(self).__name__} has no output embeddings")

    def tied_weights(self) -> dict[str, str]:
        """Names of weights that are one with another: alias -> source."""
        path = "" if self.base_model is self else f"{self.base_model_prefix}."
        return {
            f"{path}{name}.{alias}": f"{path}{name}.{source}"
            for name, part in self._parts().items()
            for alias, source in part.tied_weights().items()
        }

    def tie_weights(self) -> None:
        weights = dict(named_weights(self))
        for alias, source in self.tied_weights().items():
            if weights[source].shape != weights[alias].shape:
                raise ValueError(
                    f"{alias} {weights[alias].shape} cannot be tied to "
                    f"{source} {weights[source].shape}"
                )
            if weights[alias].variable is not weights[source].variable:
                owner = weights[alias].owner
                replace_part(owner, weights[alias].attribute, weights[source].variable)
                if isinstance(owner, Embedding):
                    owner.shared = True

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> keras.layers.Embedding:
        """Gives the vocabulary another size; rows that both sizes have keep their values.

        An optimizer that was built for the old size has to be compiled anew.

        Args:
            new_num_tokens: None keeps the size (but for `pad_to_multiple_of`).
            pad_to_multiple_of: rounds the size up.
        Returns:
            The input embeddings.
        """
        size = pretrained.vocabulary_size(self.config, new_num_tokens, pad_to_multiple_of)
        if size != self.config.vocab_size:
            parts = [self.get_input_embeddings(), self.get_output_embeddings()]
            resized: dict[int, keras.Variable] = {}
            kept = []  # while they live, no other variable has their ids
            for layer in [part for part in parts if part is not None]:
                before = dict(named_weights(layer))
                layer.resize(size)
                for name, weight in named_weights(layer):
                    kept.append(before[name].variable)
                    resized.setdefault(id(kept[-1]), weight.variable)
            # Wherever they are: a tied weight has several names.
            for _, weight in list(named_weights(self)):
                if id(weight.variable) in resized:
                    replace_part(weight.owner, weight.attribute, resized[id(weight.variable)])
            self.config.vocab_size = size
            self.tie_weights()
            self.train_function = self.test_function = self.predict_function = None
        return self.get_input_embeddings()

    # Files.

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: Any = None,
        dtype: Any = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Opens a checkpoint: a folder or the name of a repository on the hub.

        Args:
            model_args: further positional arguments of the constructor.
            config: a configuration to use instead of the checkpoint's own.
            dtype: Keras dtype or policy of the model; Keras' default if None.
            ignore_mismatched_sizes: leave a weight whose shape differs newly initialised.
            output_loading_info: return `(model, info)`, where info lists the keys that were
                missing, unexpected or mismatched.
            kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`,
                `subfolder`; arguments of the constructor; fields of the config to override.
        Raises:
            zoo.checkpoint.CheckpointError: the weights do not fit; lists every key at fault.
        """
        kwargs.pop("from_pt", None)  # one checkpoint serves both frameworks
        source = pretrained.open_source(cls, pretrained_model_name_or_path, config, kwargs)
        with source.checkpoint as file:
            with empty_weights():
                model = cls(source.config, *model_args, dtype=dtype, **source.init_kwargs)
            weights = dict(named_weights(model))
            given = tuple(
                f"{name}." for name, x in source.init_kwargs.items() if isinstance(x, keras.Model)
            )
            plan, report = pretrained.plan(
                model,
                {name: weight.shape for name, weight in weights.items()},
                file,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                given=given,
            )
            tied = model.tied_weights()
            for name, weight in weights.items():
                key = plan.get(name)
                if name in tied or (key is None and name.startswith(given)):
                    continue
                if key is None:
                    weight.initialise()
                else:
                    data = pretrained.aligned_empty(
                        tuple(weight.variable.shape), weight.variable.dtype
                    )
                    file.copy_to(key, data, transpose=weight.transposed)
                    _give(weight.variable, data)
        if source.generation_config is not None:
            model.generation_config = source.generation_config
        pretrained.announce(cls, pretrained_model_name_or_path, report)
        return (model, pretrained.loading_info(report)) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
    ) -> None:
        """Writes `config.json` and `model.safetensors`, all or nothing.

        Args:
            save_directory: made if it is not there; its other files are left alone.
            max_shard_size: bytes, or such as "200MB"; a larger model is split into shards.
            safe_serialization: False is refused; `zoo convert --to h5` writes tf_model.h5.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization=False: models are saved as safetensors; "
                "`zoo convert SRC DST --to h5` writes tf_model.h5"
            )
        aliases = self.tied_weights()
        tensors = {
            name: (weight.variable.dtype, weight.shape, weight.numpy)
            for name, weight in named_weights(self)
            if name not in aliases
        }
        pretrained.save(self, save_directory, tensors, max_shard_size, self.variable_dtype)

    # Keras' own files.

    def get_config(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        config = dict(config)
        family_config = cls.config_class.from_dict(config.pop("config"))
        config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        return cls(family_config, **config)

    # Training.

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """As in Keras; without `loss` the model's own loss is trained on."""
        # Keras keeps the loss and metrics of an earlier compile() otherwise.
        self._compile_loss = self._compile_metrics = None
        super().compile(
            optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a model that was saved compiled; Keras wants this where compile() is our own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> Any:
        return super().train_step(self._with_labels(data))

    def test_step(self, data: Any) -> Any:
        return super().test_step(self._with_labels(data))

    def predict_step(self, data: Any) -> Any:
        output = super().predict_step(data)
        if isinstance(output, ModelOutput):
            output.pop("loss", None)  # a scalar has no place in outputs joined over batches
        return output

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if self._compile_loss is not None:
            return super().compute_loss(x, y, self._main_output(y, y_pred), sample_weight, training)
        loss = y_pred.get("loss") if isinstance(y_pred, ModelOutput) else None
        if loss is None:
            raise ValueError(
                f"{type(self).__name__} has no loss to train on: pass {list(self.label_names)} "
                "among the inputs or as y, or give compile() a loss"
            )
        if sample_weight is not None:
            raise ValueError(
                "sample_weight: the model's own loss takes none; give compile() a loss"
            )
        extra = [self._aggregate_additional_loss(value) for value in self.losses]
        # Keras sums the replicas' losses and gradients.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return sum(extra, loss / replicas)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if y is None and isinstance(x, Mapping) and all(name in x for name in self.label_names):
            labels, main = [x[name] for name in self.label_names], _main_names(y_pred)
            if len(labels) == len(main):  # else they are about no output
                y = dict(zip(main, labels, strict=True)) if labels[1:] else labels[0]
        return super().compute_metrics(x, y, self._main_output(y, y_pred), sample_weight)

    def _with_labels(self, data: Any) -> Any:
        """Moves y among the inputs where the model's own loss is trained on."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self._compile_loss is not None or y is None:
            return data
        names, _ = self._input_names()
        if not isinstance(x, Mapping):
            x = dict(zip(names, x if isinstance(x, list | tuple) else [x], strict=False))
        if not isinstance(y, Mapping):
            given = y if isinstance(y, list | tuple) else [y]
            if len(given) != len(self.label_names):
                raise ValueError(f"y: expected {list(self.label_names)}, got {len(given)} arrays")
            y = dict(zip(self.label_names, given, strict=True))
        twice = sorted(set(x) & set(y))
        if twice:
            raise ValueError(f"{twice} given twice, among the inputs and as y")
        return {**x, **y}, None, sample_weight

    def _main_output(self, y: Any, y_pred: Any) -> Any:
        """The part of an output that a Keras loss or metric compares with y."""
        if not isinstance(y_pred, ModelOutput):
            return y_pred
        if isinstance(y, Mapping):
            return {name: y_pred[name] for name in y if name in y_pred}
        main = _main_names(y_pred)
        return y_pred[main[0]] if len(main) == 1 else [y_pred[name] for name in main]


def _main_names(output: ModelOutput) -> list[str]:
    """The outputs that labels are about."""
    return [name for name in output if name.endswith("logits")] or [next(iter(output))]


def _recomputed(layer: Any, hidden: Any, *inputs: Any, **options: Any) -> Any:
    """Calls a layer so that its activations are computed again in the backward pass.

    Gradients flow to the hidden states of the layer and of the encoder, to the bias of the scores
    and to the weights.
    """
    bias, head_mask, encoder_hidden, *rest = inputs
    found: list[Any] = []

    def run(*states: Any) -> list[Any]:
        there = iter(states)
        hidden, scores, encoder_hidden = (None if x is None else next(there) for x in given)
        own = None if bias is None else bias._replace(scores=scores)
        outputs = layer(hidden, own, head_mask, encoder_hidden, *rest, **options)
        found[:] = [outputs]
        return [x for x in tree.flatten(outputs) if x is not None]

    given = (hidden, None if bias is None else bias.scores, encoder_hidden)
    tensors = iter(tf.recompute_grad(run)(*(x for x in given if x is not None)))
    return tree.map_structure(lambda x: None if x is None else next(tensors), found[0])


def _give(variable: keras.Variable, data: np.ndarray) -> None:
    """Makes an aligned array the value of a variable, without a copy."""
    if data.dtype.isbuiltin != 1:  # DLPack in numpy knows no bfloat16
        variable.assign(data)
    else:
        variable.assign(tf.experimental.dlpack.from_dlpack(data.__dlpack__()))

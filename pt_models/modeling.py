"""What every PyTorch model of the zoo can do: load, save, tie and resize its weights.

A weight's attribute path is its published key, so a checkpoint needs no table of names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from zoo import checks, pretrained
from zoo.outputs import ModelOutput, output_classes

logger = logging.getLogger("zoo")


def _register_output(cls: type[ModelOutput]) -> None:
    """Lets DDP, torch.compile and torch.export look inside an output."""
    pytree.register_pytree_node(
        cls,
        lambda output: (list(output.values()), list(output.keys())),
        lambda values, names: cls(zip(names, values, strict=True)),
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )


for _cls in output_classes():
    _register_output(_cls)


def default(value: bool | None, otherwise: bool) -> bool:
    """An argument of a call, or what the configuration says if it was not given."""
    return otherwise if value is None else value


def assert_values(name: str, values: Tensor | None, size: int, ignored: int | None = None) -> None:
    """Raises a ValueError unless all values (but `ignored`) are rows of a table of that size.

    Looking at them costs nothing on a CPU, but would stall an accelerator and break a compiled
    graph, where nothing is checked.
    """
    if values is None or values.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if ignored is not None:
        values = values[values != ignored]
    if values.numel():
        lowest, highest = values.aminmax()
        checks.values(name, int(lowest), int(highest), size, ignored)


class PreTrainedModel(nn.Module):
    """Base of all models.

    Args:
        config: the family's configuration; kept as `model.config`.
    """

    config_class: ClassVar[type]
    base_model_prefix: ClassVar[str] = ""
    # Regular expressions over the base model's own keys: weights a released file may lack.
    optional_weights: ClassVar[tuple[str, ...]] = ()
    # Regular expressions of keys in released files that no weight belongs to.
    ignored_weights: ClassVar[tuple[str, ...]] = ()
    init_field: ClassVar[str] = "initializer_range"

    def __init__(self, config: Any) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, "
                f"got {type(config).__name__}"
            )
        config.validate()
        self.config = config
        self.gradient_checkpointing: dict[str, Any] | bool = False

    def post_init(self) -> None:
        """To be called at the end of a public class's constructor."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                self._init_parameter(module, name, parameter)
        self.tie_weights()

    @torch.no_grad()
    def _init_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Normal, as wide as `init_field` says; zero for biases and padding, one for norms."""
        if parameter.is_meta:
            return
        if isinstance(module, nn.LayerNorm) and name == "weight":
            parameter.fill_(1.0)
        elif name == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, getattr(self.config, self.init_field))
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                parameter[module.padding_idx].zero_()

    @property
    def base_model(self) -> PreTrainedModel:
        """The model without its head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def _parts(self) -> dict[str, PreTrainedModel]:
        """The models that the base model is made of, by name; none where it has its own layers."""
        return {}

    def _with_layers(self) -> list[PreTrainedModel]:
        """The models inside that have layers."""
        parts = self._parts().values()
        return [model for part in parts for model in part._with_layers()] or [self.base_model]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts weights; a tied weight counts once."""
        skipped = {
            id(module.weight)
            for module in self.modules()
            if exclude_embeddings and isinstance(module, nn.Embedding)
        }
        return sum(
            p.numel()
            for p in self.parameters()
            if id(p) not in skipped and (p.requires_grad or not only_trainable)
        )

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Recomputes each layer's activations in the backward pass, to save memory.

        Args:
            gradient_checkpointing_kwargs: passed to `torch.utils.checkpoint.checkpoint`.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for model in self._with_layers():
            model.gradient_checkpointing = options

    def gradient_checkpointing_disable(self) -> None:
        for model in self._with_layers():
            model.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(model.gradient_checkpointing for model in self._with_layers())

    def _layer_caller(self) -> Callable[..., Any]:
        """Calls a layer, under `torch.utils.checkpoint` while training if that is switched on."""
        if not (self.gradient_checkpointing and self.training):
            return lambda layer, *inputs: layer(*inputs)
        options = self.gradient_checkpointing
        return lambda layer, *inputs: torch_checkpoint(layer, *inputs, **options)

    def _returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output itself, or the tuple of what it holds."""
        return output if default(return_dict, self.config.use_return_dict) else output.to_tuple()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.base_model.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.base_model.embeddings.word_embeddings = value
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer that gives a score to each word of the vocabulary, if the model has one."""
        return None

    def set_output_embeddings(self, value: nn.Linear) -> None:
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
        for alias, source in self.tied_weights().items():
            weight = self.get_parameter(source)
            if weight.shape != self.get_parameter(alias).shape:
                raise ValueError(
                    f"{alias} {tuple(self.get_parameter(alias).shape)} cannot "
                    f"be tied to {source} {tuple(weight.shape)}"
                )
            path, _, leaf = alias.rpartition(".")
            setattr(self.get_submodule(path), leaf, weight)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Embedding:
        """Gives the vocabulary another size; rows that both sizes have keep their values.

        Args:
            new_num_tokens: None keeps the size (but for `pad_to_multiple_of`).
            pad_to_multiple_of: rounds the size up.
        Returns:
            The input embeddings.
        """
        size = pretrained.vocabulary_size(self.config, new_num_tokens, pad_to_multiple_of)
        if size != self.config.vocab_size:
            output = self.get_output_embeddings()
            resized: dict[nn.Parameter, nn.Parameter] = {}
            for module in (self.get_input_embeddings(), output):
                for name, old in [] if module is None else module.named_parameters():
                    if old in resized:
                        continue
                    new = nn.Parameter(old.new_empty(size, *old.shape[1:]), old.requires_grad)
                    self._init_parameter(module, name, new)
                    with torch.no_grad():
                        new[: len(old)] = old[:size]
                    resized[old] = new
            # Wherever they are: a tied weight has several names.
            for module in self.modules():
                for name, old in list(module.named_parameters(recurse=False)):
                    if old in resized:
                        setattr(module, name, resized[old])
            self.get_input_embeddings().num_embeddings = size
            if output is not None:
                output.out_features = size
            self.config.vocab_size = size
        return self.get_input_embeddings()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: Any = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Opens a checkpoint: a folder or the name of a repository on the hub.

        Args:
            model_args: further positional arguments of the constructor.
            config: a configuration to use instead of the checkpoint's own.
            dtype, torch_dtype: of the weights in memory; float32 if None, the file's if "auto".
            ignore_mismatched_sizes: leave a weight whose shape differs newly initialised.
            output_loading_info: return `(model, info)`, where info lists the keys that were
                missing, unexpected or mismatched.
            kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`,
                `subfolder`; arguments of the constructor; fields of the config to override.
        Raises:
            zoo.checkpoint.CheckpointError: the weights do not fit; lists every key at fault.
        """
        source = pretrained.open_source(cls, pretrained_model_name_or_path, config, kwargs)
        with source.checkpoint as weights:
            with torch.device("meta"):
                model = cls(source.config, *model_args, **source.init_kwargs)
            tied = model.tied_weights()
            given = tuple(
                f"{name}." for name, x in source.init_kwargs.items() if isinstance(x, nn.Module)
            )
            plan, report = pretrained.plan(
                model,
                {name: tuple(p.shape) for name, p in model.state_dict().items()},
                weights,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                given=given,
            )
            requested = _requested_dtype(torch_dtype if dtype is None else dtype)
            for name, old in model.state_dict(keep_vars=True).items():
                path, _, leaf = name.rpartition(".")
                module, key = model.get_submodule(path), plan.get(name)
                if name in tied or (key is None and name.startswith(given)):
                    continue
                kind = requested or (_torch_dtype(weights[key].dtype) if key else torch.float32)
                memory = pretrained.aligned_empty(tuple(old.shape), _numpy_dtype(kind))
                loaded = _as_tensor(memory, kind)
                if isinstance(old, nn.Parameter):
                    loaded = nn.Parameter(loaded)
                setattr(module, leaf, loaded)
                if key is None:
                    model._init_parameter(module, leaf, loaded)
                else:
                    weights.copy_to(key, memory)
            model.tie_weights()
        if source.generation_config is not None:
            model.generation_config = source.generation_config
        pretrained.announce(cls, pretrained_model_name_or_path, report)
        model.eval()
        return (model, pretrained.loading_info(report)) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
    ) -> None:
        """Writes `config.json` and `model.safetensors`, all or nothing.

        Args:
            save_directory: made if it is not there; its other files are left alone.
            state_dict: weights to write instead of the model's own, by the same names.
            max_shard_size: bytes, or such as "200MB"; a larger model is split into shards.
            safe_serialization: False is refused; `zoo convert --to bin` writes the pickle format.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization=False: models are saved as safetensors; "
                "`zoo convert SRC DST --to bin` writes pytorch_model.bin"
            )
        aliases = self.tied_weights()
        state = self.state_dict() if state_dict is None else state_dict
        tensors = {
            name: (_numpy_dtype(tensor.dtype), tuple(tensor.shape), _reader(tensor))
            for name, tensor in state.items()
            if name not in aliases
        }
        pretrained.save(self, save_directory, tensors, max_shard_size, _numpy_dtype(self.dtype))


# torch's dtypes and those of a checkpoint have the same names.
def _torch_dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _numpy_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _requested_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """None stands for the dtype in the file."""
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype: expected 'auto' or a floating point type, got {dtype!r}")
    return found


def _is_foreign(dtype: torch.dtype) -> bool:
    """Whether torch and numpy know the type under different implementations: pass the bytes."""
    return _numpy_dtype(dtype).startswith(("bfloat16", "float8"))


def _same_size(dtype: torch.dtype) -> torch.dtype:
    return {1: torch.uint8, 2: torch.int16}[dtype.itemsize]


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """A numpy view of a CPU tensor's memory."""
    if _is_foreign(tensor.dtype):
        raw = tensor.view(_same_size(tensor.dtype)).numpy()
        return raw.view(np.dtype(_numpy_dtype(tensor.dtype)))
    return tensor.numpy()


def _as_tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A tensor over an array's memory."""
    if _is_foreign(dtype):
        return torch.from_numpy(array.view(_numpy_dtype(_same_size(dtype)))).view(dtype)
    return torch.from_numpy(array)


def _reader(tensor: Tensor) -> Callable[[], np.ndarray]:
    return lambda: _as_numpy(tensor.detach().cpu().contiguous())

"""What every model configuration shares: fields, checks, and reading and writing `config.json`.

A family declares its fields in the class body, see `fields`. They are checked when a configuration
is made, updated or saved, and by `validate()`, which models call before they build anything from
it.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from .. import hub
from .fields import Fields, plain, read_json
from .rules import (
    ACTIVATIONS,
    POSITION_EMBEDDING_TYPES,
    Count,
    Flag,
    LabelIds,
    LabelNames,
    ProblemType,
    Rule,
    Text,
    TokenId,
    TokenIds,
    is_integer,
    one_of,
)

CONFIG_NAME = "config.json"
SECOND_NAMES = ("num_labels", "dtype")
LABEL_FIELDS = ("num_labels", "id2label", "label2id")


def _integer_keys(value: Any) -> Any:
    """The mapping with keys such as "0" (JSON has no others) turned into integers."""
    if not isinstance(value, Mapping):
        return value
    return {
        int(key) if isinstance(key, str) and key.isdecimal() else key: item
        for key, item in value.items()
    }


def _dtype_name(value: Any) -> Any:
    """The name of a torch, tensorflow or numpy dtype, found without importing any of them."""
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "name"):
        return value.name
    text = str(value)
    is_dtype = isinstance(value, str) or text.startswith("torch.")
    return text.removeprefix("torch.") if is_dtype else value


class PretrainedConfig(Fields):
    """The fields common to all families, and everything that is done with a configuration.

    A keyword that is close to the name of a field but is none is refused, with the suggestion; any
    other unknown keyword becomes an attribute and is saved. Keys of a `config.json` that no class
    declares are kept and written back as they were.

    Raises:
        ValueError: a value that no model can have, or a misspelt keyword. The message names the
            field, the value received and what is expected.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}  # another name of a field -> the field
    is_composition: ClassVar[bool] = False
    also_opens: ClassVar[tuple[str, ...]] = ()  # other model types whose files describe this model

    # Known names that have no default: checked where they are given.
    optional_fields: ClassVar[dict[str, Rule]] = {
        "position_embedding_type": one_of(POSITION_EMBEDDING_TYPES)
    }

    _family_fields: ClassVar[tuple[str, ...]]  # those that the family declares, in order

    # Not saved: where the configuration was read from, and which keys the file had. Keys that are
    # the name of a method here cannot become attributes and wait in `_shadowed` to be written back.
    _loaded_from = ""
    _loaded_keys = frozenset[str]()
    _shadowed: ClassVar[Mapping[str, Any]] = {}

    # The model.
    architectures: Any = None
    torch_dtype: Text = None
    is_decoder: Flag = False
    is_encoder_decoder: Flag = False
    add_cross_attention: Flag = False
    cross_attention_hidden_size: Any = None
    tie_word_embeddings: Flag = True
    tie_encoder_decoder: Flag = False
    chunk_size_feed_forward: Count = 0
    pruned_heads: dict[int, list[int]] = {}
    tokenizer_class: Text = None
    bos_token_id: TokenId = None
    pad_token_id: TokenId = None
    eos_token_id: TokenIds = None
    sep_token_id: TokenId = None
    decoder_start_token_id: TokenId = None

    # What a call returns.
    output_attentions: Flag = False
    output_hidden_states: Flag = False
    return_dict: Flag = True
    torchscript: Flag = False

    # The task.
    id2label: LabelNames = {0: "LABEL_0", 1: "LABEL_1"}
    label2id: LabelIds = {"LABEL_0": 0, "LABEL_1": 1}
    problem_type: ProblemType = None
    finetuning_task: Any = None
    task_specific_params: Any = None
    prefix: Any = None

    # Kept for the files that have them; text generation checks those that it uses.
    max_length: Any = 20
    min_length: Any = 0
    do_sample: Any = False
    early_stopping: Any = False
    num_beams: Any = 1
    num_beam_groups: Any = 1
    diversity_penalty: Any = 0.0
    temperature: Any = 1.0
    top_k: Any = 50
    top_p: Any = 1.0
    typical_p: Any = 1.0
    repetition_penalty: Any = 1.0
    length_penalty: Any = 1.0
    no_repeat_ngram_size: Any = 0
    encoder_no_repeat_ngram_size: Any = 0
    bad_words_ids: Any = None
    num_return_sequences: Any = 1
    output_scores: Any = False
    return_dict_in_generate: Any = False
    forced_bos_token_id: Any = None
    forced_eos_token_id: Any = None
    remove_invalid_values: Any = False
    exponential_decay_length_penalty: Any = None
    suppress_tokens: Any = None
    begin_suppress_tokens: Any = None
    tf_legacy_loss: Any = False
    use_bfloat16: Any = False
    _name_or_path: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._collect_fields()

    @classmethod
    def _collect_fields(cls) -> None:
        super()._collect_fields()
        shared = PretrainedConfig.__mro__
        family = [base for base in reversed(cls.__mro__) if base not in shared]
        names = dict.fromkeys(name for base in family for name in inspect.get_annotations(base))
        cls._family_fields = tuple(name for name in names if name in cls._fields)
        kind = inspect.Parameter
        parameters = [
            kind(name, kind.POSITIONAL_OR_KEYWORD, default=cls._fields[name][0])
            for name in cls._family_fields
        ]
        signature = inspect.Signature([*parameters, kind("kwargs", kind.VAR_KEYWORD)])
        cls.__signature__ = signature  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(self._family_fields):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(self._family_fields)} values without "
                f"a keyword, got {len(args)}"
            )
        for name, value in zip(self._family_fields, args, strict=False):
            if name in kwargs:
                raise TypeError(f"{type(self).__name__}: {name} was given twice")
            kwargs[name] = value
        self._check_keywords(kwargs)
        self._fill(kwargs)

    def _fill(self, values: Mapping[str, Any]) -> None:
        """Sets every field, from `values` or its default, and checks the whole."""
        values = {self.attribute_map.get(name, name): value for name, value in values.items()}
        self._check_model_type(values.pop("model_type", None) or self.model_type)
        if "dtype" in values:  # the newer name of torch_dtype
            newer = values.pop("dtype")
            values["torch_dtype"] = values.get("torch_dtype") or newer
        labels = {name: values.pop(name, None) for name in LABEL_FIELDS}
        self._set_defaults()
        self._fill_labels(**labels)
        for name, value in values.items():
            if self._is_reserved(name):
                self.__dict__["_shadowed"] = {**self._shadowed, name: value}
            else:
                setattr(self, name, value)
        self.validate()

    def _fill_labels(self, num_labels: Any, id2label: Any, label2id: Any) -> None:
        """Completes whichever of the three was given; the two dictionaries have one size."""
        if id2label is None and isinstance(label2id, Mapping) and label2id:
            id2label = {number: label for label, number in label2id.items()}
        if id2label is not None:
            self.id2label = id2label
            if num_labels is not None and num_labels != self.num_labels:
                raise ValueError(
                    f"{type(self).__name__}.num_labels: received {num_labels!r}, expected "
                    f"{self.num_labels}, the number of names in id2label"
                )
        elif num_labels is not None:
            self.num_labels = num_labels
        if label2id:
            self.label2id = label2id

    def _check_model_type(self, value: Any) -> None:
        if value != self.model_type:
            raise ValueError(
                f"{type(self).__name__} describes a {self.model_type!r} model, "
                f"received model_type {value!r}"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        name = self.attribute_map.get(name, name)
        if name == "model_type":
            return self._check_model_type(value)
        if name in ("id2label", "pruned_heads"):
            value = _integer_keys(value)
        elif name == "torch_dtype":
            value = _dtype_name(value)
        super().__setattr__(name, value)
        if name == "id2label" and isinstance(value, dict):
            self.label2id = {label: number for number, label in value.items()}

    def __getattr__(self, name: str) -> Any:
        # Only reached where the usual look-up finds nothing.
        field = type(self).attribute_map.get(name)
        if field is None:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        return getattr(self, field)

    @property
    def num_labels(self) -> int:
        """The number of labels; setting another number names them LABEL_0, LABEL_1, ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if not is_integer(value) or value <= 0:
            raise ValueError(
                f"{type(self).__name__}.num_labels: received {value!r}, expected an integer above 0"
            )
        if len(self.id2label) != value:
            self.id2label = {number: f"LABEL_{number}" for number in range(value)}

    @property
    def dtype(self) -> str | None:
        """Another name of `torch_dtype`."""
        return self.torch_dtype

    @dtype.setter
    def dtype(self, value: Any) -> None:
        self.torch_dtype = value

    @property
    def use_return_dict(self) -> bool:
        """Whether a call without `return_dict` gives an output object and not a tuple."""
        return self.return_dict and not self.torchscript

    @property
    def name_or_path(self) -> str:
        """The folder or repository this was read from, else the one its file names."""
        return self._loaded_from or self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str) -> None:
        self._loaded_from = ""
        self._name_or_path = str(value)

    # Checks

    def _rules(self) -> Mapping[str, Rule | None]:
        return {**super()._rules(), **self.optional_fields}

    def _undivided(self, width: str, heads: str) -> Iterator[tuple[str, Any, str]]:
        """A width that is not the same for every head."""
        size, count = getattr(self, width), getattr(self, heads)
        if size % count:
            yield width, size, f"a multiple of {heads} ({count})"

    def _unknown_padding(self, known: int) -> Iterator[tuple[str, Any, str]]:
        """Padding that no embedding is for."""
        pad = self.pad_token_id
        if pad is not None and not 0 <= pad < known:
            yield "pad_token_id", pad, f"None or an id below vocab_size ({known})"

    @classmethod
    def _known_names(cls) -> set[str]:
        names = {*super()._known_names(), *cls.optional_fields, *cls.attribute_map}
        return names | {"num_labels", "dtype", "name_or_path", "model_type"}

    # To and from dictionaries and files

    def to_dict(self) -> dict[str, Any]:
        """All fields and unknown keys, configurations inside as dictionaries, as a deep copy."""
        hidden = ("_loaded_from", "_loaded_keys", "_shadowed")
        values = {name: value for name, value in self.__dict__.items() if name not in hidden}
        values = {**values, **self._shadowed, "model_type": self.model_type}
        # Second names: read into a field, and written back with it where the file had them.
        values |= {name: getattr(self, name) for name in SECOND_NAMES if name in self._loaded_keys}
        return {name: plain(value) for name, value in values.items()}

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds: the family's fields, keys that the file had or that no class
        declares, and common fields whose value, or default in the family, is not the usual one."""
        common = PretrainedConfig._fields
        return {
            name: value
            for name, value in self.to_dict().items()
            if name in self._loaded_keys
            or name not in common
            or not value == common[name][0] == self._fields[name][0]
        }

    def _as_json(self, values: Mapping[str, Any]) -> str:
        for name, value in values.items():
            if callable(value):
                raise ValueError(
                    f"{type(self).__name__}.{name}: {value!r} cannot be saved, a file holds the "
                    f"names only of {', '.join(ACTIVATIONS)}"
                )
        return super()._as_json(values)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes `config.json`, all or nothing, and leaves the folder's other files alone.

        Raises:
            ValueError: an impossible value, or one that JSON cannot hold.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_json_file(folder / CONFIG_NAME)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Makes a configuration of what a `config.json` holds.

        Args:
            config_dict: unknown keys are kept.
            return_unused_kwargs: whether overrides that name no field are given back.
            **overrides: fields to set to other values.

        Returns:
            The configuration, or (configuration, unused overrides) with `return_unused_kwargs`.

        Raises:
            ValueError: another family's dictionary, a misspelt override, an impossible value.
        """
        values = {cls.attribute_map.get(name, name): item for name, item in config_dict.items()}
        cls._check_keywords(overrides, known=values)
        unused = {}
        if return_unused_kwargs:
            known = {*cls._known_names(), *values}
            unused = {name: item for name, item in overrides.items() if name not in known}
        changes = {
            cls.attribute_map.get(name, name): item
            for name, item in overrides.items()
            if name not in unused
        }
        if "dtype" in changes:
            changes["torch_dtype"] = changes.pop("dtype")
        config = cls.__new__(cls)
        config._loaded_keys = frozenset(values)
        config._fill({**_without_other_labels(values, changes), **changes})
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the configuration in the file `path`."""
        return cls.from_dict(read_json(path))

    @classmethod
    def get_config_dict(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a `config.json` as it is; see `from_pretrained`.

        Returns:
            The file's dictionary and the keywords that are not about finding the file.
        """
        path: Path | None = Path(pretrained_model_name_or_path)
        if path is None or not path.is_file():
            path = hub.resolve_file(
                pretrained_model_name_or_path,
                CONFIG_NAME,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
                subfolder=subfolder,
            )
        if path is None:
            place = "/".join(filter(None, (str(pretrained_model_name_or_path), subfolder)))
            raise hub.HubError(f"{place} has no {CONFIG_NAME}")
        return read_json(path), kwargs

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Opens the configuration of a checkpoint.

        Args:
            pretrained_model_name_or_path: a folder, a `config.json`, or a repository of the hub.
            return_unused_kwargs: whether overrides that name no field are given back.
            **kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` and
                `subfolder` say where and how to look; the others override fields.

        Returns:
            The configuration, or (configuration, unused overrides) with `return_unused_kwargs`.

        Raises:
            HubError: there is no such folder, repository or file, or it cannot be reached.
            ValueError: the file is broken or another family's, or a value is impossible.
        """
        values, overrides = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls._from_file(
            values, str(pretrained_model_name_or_path), return_unused_kwargs, overrides
        )

    @classmethod
    def _from_file(
        cls, values: dict[str, Any], place: str, return_unused_kwargs: bool, overrides: Any
    ) -> Any:
        found = values.get("model_type")
        if found in cls.also_opens:
            values = {name: item for name, item in values.items() if name != "model_type"}
        elif found and cls.model_type and found != cls.model_type:
            raise ValueError(
                f"{place} holds a {found!r} model, {cls.__name__} opens {cls.model_type!r}; "
                "AutoConfig picks the class by itself"
            )
        config, unused = cls.from_dict(values, return_unused_kwargs=True, **overrides)
        config._loaded_from = place
        if return_unused_kwargs:
            return config, unused
        config.update(unused)
        return config

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Sets several fields; none is changed if one of them is impossible.

        Raises:
            ValueError: an impossible value or a misspelt name.
        """
        self._check_keywords(config_dict, known=self.__dict__)
        with self._all_or_nothing():
            labels = {name: config_dict.get(name) for name in LABEL_FIELDS}
            self._fill_labels(**labels)
            for name in config_dict.keys() - labels.keys():
                setattr(self, name, config_dict[name])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PretrainedConfig):
            return NotImplemented
        return type(self) is type(other) and self.to_dict() == other.to_dict()


PretrainedConfig._collect_fields()


def _without_other_labels(
    values: Mapping[str, Any], changes: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The file's values without the labels that the overrides replace."""
    if "id2label" in changes or "label2id" in changes:
        replaced = {*LABEL_FIELDS}
    elif "num_labels" in changes:
        same = len(values.get("id2label") or ()) == changes["num_labels"]
        replaced = {"num_labels"} if same else {*LABEL_FIELDS}
    else:
        return values
    return {name: value for name, value in values.items() if name not in replaced}

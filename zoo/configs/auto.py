"""Picks the configuration class that goes with a `model_type`."""

import importlib
import os
from typing import Any

from ..families import FAMILIES, family_of
from .base import PretrainedConfig


def config_class(model_type: str | None) -> type[PretrainedConfig]:
    """The configuration class of a family.

    Raises:
        ValueError: the type is missing or unknown.
    """
    family = family_of(model_type)
    return getattr(importlib.import_module(f"zoo.configs.{family.module}"), family.config)


class AutoConfig:
    """Opens the configuration of any family; made with its class methods only."""

    def __init__(self) -> None:
        raise TypeError("use AutoConfig.from_pretrained(...) or AutoConfig.for_model(...)")

    @classmethod
    def for_model(cls, model_type: str, *args: Any, **kwargs: Any) -> PretrainedConfig:
        """A new configuration of the family `model_type`, such as "rembert".

        Raises:
            ValueError: an unknown family, an impossible value or a misspelt keyword.
        """
        return config_class(model_type)(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """Opens the configuration of a checkpoint of any family.

        Args:
            pretrained_model_name_or_path: a folder, a `config.json`, or a repository of the hub.
            **kwargs: as for `RemBertConfig.from_pretrained`.

        Returns:
            The configuration, or (configuration, unused overrides) with `return_unused_kwargs`.

        Raises:
            HubError: there is no such folder, repository or file, or it cannot be reached.
            ValueError: the file is broken, or its family is unknown.
        """
        place = str(pretrained_model_name_or_path)
        unused = kwargs.pop("return_unused_kwargs", False)
        values, overrides = PretrainedConfig.get_config_dict(place, **kwargs)
        model_type = values.get("model_type")
        if model_type not in FAMILIES:
            classes = map(config_class, FAMILIES)
            also = [cls.__name__ for cls in classes if model_type in cls.also_opens]
            hint = f"; {also[0]} and the classes of its family open it" if also else ""
            raise ValueError(
                f"{place}: config.json has model_type {model_type!r}, "
                f"expected one of {sorted(FAMILIES)}{hint}"
            )
        return config_class(model_type)._from_file(values, place, unused, overrides)

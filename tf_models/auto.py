"""Picks the model class that goes with a checkpoint's `model_type`, for each task."""

from __future__ import annotations

import importlib
import os
from typing import Any, ClassVar

from zoo import pretrained
from zoo.configs import AutoConfig
from zoo.families import family_of

from .modeling import TFPreTrainedModel


class TFAutoModel:
    """The bare model of any family; made with its class methods only."""

    task: ClassVar[str] = "Model"

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(f"use {name}.from_pretrained(...) or {name}.from_config(...)")

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> TFPreTrainedModel:
        """A newly initialised model.

        Args:
            config: a configuration of any family.
            kwargs: further arguments of the constructor.
        Raises:
            ValueError: the family has no model for this task.
        """
        return cls._model_class(config)(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> TFPreTrainedModel:
        """Opens a checkpoint of any family; takes what the model's `from_pretrained` takes."""
        config = kwargs.get("config")
        if config is None:
            hub_arguments = {k: v for k, v in kwargs.items() if k in pretrained.HUB_ARGUMENTS}
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub_arguments)
        model_class = cls._model_class(config)
        return model_class.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _model_class(cls, config: Any) -> type[TFPreTrainedModel]:
        family = family_of(config.model_type)
        if cls.task not in family.models:
            raise ValueError(
                f"{cls.__name__}: {config.model_type} has models for {sorted(family.models)}, "
                f"not {cls.task}"
            )
        module = importlib.import_module(f".{family.module}", __package__)
        return getattr(module, "TF" + family.models[cls.task])


class TFAutoModelForMaskedLM(TFAutoModel):
    """The model that predicts masked tokens, of any family."""

    task = "ForMaskedLM"


class TFAutoModelForCausalLM(TFAutoModel):
    """The model that predicts the next token, of any family."""

    task = "ForCausalLM"


class TFAutoModelForSeq2SeqLM(TFAutoModel):
    """The encoder with a decoder that predicts the next token, of any family."""

    task = "ForSeq2SeqLM"


class TFAutoModelForSequenceClassification(TFAutoModel):
    """The model that labels a text, of any family."""

    task = "ForSequenceClassification"


class TFAutoModelForMultipleChoice(TFAutoModel):
    """The model that picks one of several texts, of any family."""

    task = "ForMultipleChoice"


class TFAutoModelForTokenClassification(TFAutoModel):
    """The model that labels every token, of any family."""

    task = "ForTokenClassification"


class TFAutoModelForQuestionAnswering(TFAutoModel):
    """The model that marks an answer in a text, of any family."""

    task = "ForQuestionAnswering"

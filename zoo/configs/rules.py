"""What the values of a configuration's fields may be: each type carries its check."""

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

ACTIVATIONS = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_pytorch_tanh",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
POSITION_EMBEDDING_TYPES = ("absolute", "relative_key", "relative_key_query")


@dataclass(frozen=True)
class Rule:
    """What a field accepts, and the words for it in an error."""

    expectation: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    """Whether `value` is a whole number and not a truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number and not a truth value."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def one_of(names: Iterable[str], optional: bool = False) -> Rule:
    """The rule that accepts the given strings, and None where `optional`."""
    known = tuple(names)
    expectation = "one of " + ", ".join(map(repr, known)) + (" or None" if optional else "")
    return Rule(
        expectation,
        lambda value: value in known if isinstance(value, str) else optional and value is None,
    )


def _is_label_names(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and sorted(map(str, value)) == sorted(map(str, range(len(value))))
        and len(value) > 0
    )


Flag = Annotated[bool, Rule("True or False", lambda value: isinstance(value, bool))]
PositiveInt = Annotated[
    int, Rule("an integer above 0", lambda value: is_integer(value) and value > 0)
]
Count = Annotated[
    int, Rule("an integer, 0 or above", lambda value: is_integer(value) and value >= 0)
]
Probability = Annotated[
    float,
    Rule("a number between 0 and 1", lambda value: is_number(value) and 0 <= value <= 1),
]
NonNegative = Annotated[
    float, Rule("a number, 0 or above", lambda value: is_number(value) and value >= 0)
]
TokenId = Annotated[
    int | None, Rule("an integer or None", lambda value: value is None or is_integer(value))
]
TokenIds = Annotated[
    int | list[int] | None,
    Rule(
        "an integer, a list of integers or None",
        lambda value: (
            value is None
            or is_integer(value)
            or (isinstance(value, list) and bool(value) and all(map(is_integer, value)))
        ),
    ),
]
Text = Annotated[
    str | None, Rule("a string or None", lambda value: value is None or isinstance(value, str))
]
Activation = Annotated[
    str | Callable[[Any], Any],
    Rule(
        one_of(ACTIVATIONS).expectation + ", or a function",
        lambda value: callable(value) or one_of(ACTIVATIONS).accepts(value),
    ),
]
PositionEmbeddingType = Annotated[str, one_of(POSITION_EMBEDDING_TYPES)]
ProblemType = Annotated[str | None, one_of(PROBLEM_TYPES, optional=True)]
LabelNames = Annotated[
    dict[int, str], Rule("a dictionary with the keys 0, 1, ... to label names", _is_label_names)
]
LabelIds = Annotated[
    dict[str, int],
    Rule("a dictionary of label names to ids", lambda value: isinstance(value, dict)),
]

"""Values with names, defaults and checks: what configurations of models and of generation share.

A class declares its fields in its body, `name: Type = default`; the type carries the check. Values
are plain attributes.
"""

import contextlib
import copy
import difflib
import inspect
import json
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from .. import files
from .rules import Rule


class Fields:
    """What is done with fields; a subclass has its file's name and what else it checks."""

    _fields: ClassVar[dict[str, tuple[Any, Rule | None]]]  # name -> (default, rule)

    @classmethod
    def _collect_fields(cls) -> None:
        cls._fields = {}
        for name, hint in get_type_hints(cls, include_extras=True).items():
            if get_origin(hint) is not ClassVar:
                rule = next((item for item in get_args(hint) if isinstance(item, Rule)), None)
                cls._fields[name] = (getattr(cls, name), rule)

    def _set_defaults(self) -> None:
        for name, (default, _) in self._fields.items():
            setattr(self, name, copy.deepcopy(default))

    # Checks

    def validate(self) -> None:
        """Checks every field, and the fields against one another.

        Raises:
            ValueError: lists each impossible value: the field, the value, what is expected.
        """
        problems = [
            f"{type(self).__name__}.{name}: received {value!r}, expected {expected}"
            for name, value, expected in self._problems()
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def _problems(self) -> Iterator[tuple[str, Any, str]]:
        """Yields (field, value, expectation) of what is wrong."""
        values = self.__dict__
        wrong = [
            (name, values[name], rule.expectation)
            for name, rule in self._rules().items()
            if rule is not None and name in values and not rule.accepts(values[name])
        ]
        yield from wrong or self._conflicts()

    def _conflicts(self) -> Iterator[tuple[str, Any, str]]:
        """The same of fields that are valid by themselves, but not together."""
        yield from ()

    def _rules(self) -> Mapping[str, Rule | None]:
        return {name: rule for name, (_, rule) in self._fields.items()}

    @classmethod
    def _known_names(cls) -> set[str]:
        """The names that a keyword may have."""
        return {*cls._fields}

    @classmethod
    def _is_reserved(cls, name: str) -> bool:
        """Whether an attribute of that name would hide one of the class's own."""
        if name in cls._fields:
            return False
        own = inspect.getattr_static(cls, name, None)
        return own is not None and not (isinstance(own, property) and own.fset is not None)

    @classmethod
    def _check_keywords(cls, names: Iterable[str], known: Iterable[str] = ()) -> None:
        """Refuses a keyword that looks like a misspelt field, or would hide a method."""
        fields = {*cls._known_names(), *known}
        for name in names:
            if name in fields:
                continue
            if cls._is_reserved(name):
                raise ValueError(f"{cls.__name__}: {name!r} is no field and cannot be set")
            suggestion = suggested(name, fields)
            if suggestion:
                raise ValueError(
                    f"{cls.__name__} has no field {name!r}; did you mean {suggestion}? "
                    "(A field of your own with that name can be set as an attribute.)"
                )

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Checks what was changed inside; if something is impossible, nothing was changed."""
        before = dict(self.__dict__)
        try:
            yield
            self.validate()
        except Exception:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    # To dictionaries and files

    def to_dict(self) -> dict[str, Any]:
        """All fields and unknown keys as a deep copy."""
        raise NotImplementedError

    def to_diff_dict(self) -> dict[str, Any]:
        """What a file holds."""
        raise NotImplementedError

    def _as_json(self, values: Mapping[str, Any]) -> str:
        """The text of a file.

        Raises:
            ValueError: a value that JSON cannot hold.
        """
        for name, value in values.items():
            try:
                json.dumps(value, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{type(self).__name__}.{name}: {value!r} cannot be saved as JSON: {error}"
                ) from error
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of a file.

        Args:
            use_diff: False writes every field, also those at their defaults.

        Raises:
            ValueError: a value that JSON cannot hold.
        """
        return self._as_json(self.to_diff_dict() if use_diff else self.to_dict())

    def to_json_file(self, path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Checks all fields and writes them, all or nothing, to the file `path`."""
        self.validate()
        files.atomic_write(Path(path), self.to_json_string(use_diff))

    def __repr__(self) -> str:
        text = json.dumps(self.to_diff_dict(), indent=2, sort_keys=True, default=repr)
        return f"{type(self).__name__} {text}"


def plain(value: Any) -> Any:
    """A deep copy of `value` in JSON's own types where it has an equivalent there."""
    if isinstance(value, Fields):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value if callable(value) else copy.deepcopy(value)
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def suggested(name: str, known: Iterable[str]) -> str:
    """The known names close to one that is not known, in words; empty if there is none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.75)
    return " or ".join(map(repr, close))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises:
        ValueError: the file is not UTF-8, not JSON or no dictionary; names the file and line.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values

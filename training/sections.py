"""From plain values, as TOML has them, to frozen dataclasses, in which an unknown key is an error."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from training.errors import RecipeError

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise with this message unless a recipe's value makes sense.

    Raises:
        RecipeError: it does not.
    """
    if not condition:
        raise RecipeError(message)


def plain(value: Any) -> Any:
    """Return a value with lists for tuples, as TOML and JSON have them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: which known name is meant, perhaps."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return a dataclass of plain values, its sections too.

    Args:
        cls: to build.
        values: by the names of its fields.
        where: path of the section with a dot at the end, for messages; empty for the whole.

    Raises:
        RecipeError: an unknown key, a wrong type, or a value that makes no sense.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise RecipeError(f"unknown key {where + key!r}{nearest(key, hints)}")
    return cls(**{key: _convert(value, hints[key], where + key) for key, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return the value as the type its field is annotated with."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where} is a section, not {value!r}")
        return build(hint, value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where} is one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise RecipeError(f"{where} is a list of {len(arguments)} numbers, not {value!r}")
        return tuple(_convert(item, kind, where) for item, kind in zip(value, arguments, strict=True))
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: type | types.UnionType, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise RecipeError(f"{where} must be finite, not {value!r}")
        return float(value)
    if type(value) is not hint:
        name = getattr(hint, "__name__", str(hint))
        raise RecipeError(f"{where} is of type {name}, not {value!r}")
    return value

"""What every configuration checks its values with."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from mixvpr_jax.errors import InputError
from mixvpr_jax.stores import as_path


def closest(name: object, known: Iterable[str]) -> str:
    """The known names nearest to a mistyped one, as the end of an error line."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    return f"; closest: {', '.join(near)}" if near else f"; known: {', '.join(names)}"


def require_known(what: str, name: object, known: Iterable[str]) -> None:
    """Raises InputError with the nearest names where this one is not known."""
    known = list(known)
    if name not in known:
        raise InputError(f"{what}: unknown name {name!r}{closest(name, known)}")


def is_finite(number: float) -> bool:
    """Whether a number is neither infinite nor NaN, nor so large that no float holds it."""
    return abs(number) <= sys.float_info.max


def require_positive(config: object, *names: str) -> None:
    """Raises InputError where one of these fields is no finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if not (is_finite(value) and value > 0):
            raise InputError(f"{name}: expected a number above 0, found {value!r:.40}")


def require_not_negative(config: object, *names: str) -> None:
    """Raises InputError where one of these fields is no finite number from 0 on; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (is_finite(value) and value >= 0):
            raise InputError(f"{name}: expected 0 or more, found {value!r:.40}")


def to_paths(config: object, *names: str) -> None:
    """Makes paths of these fields, whatever kind of path was given; None passes.

    Raises:
        InputError: An address that is none of a disk or of a store.
    """
    for name in names:
        if (value := getattr(config, name)) is not None:
            path = tuple(map(as_path, value)) if isinstance(value, tuple) else as_path(value)
            object.__setattr__(config, name, path)


def checked_fields(cls: type, values: object) -> Mapping[str, Any]:
    """JSON values for each field of a dataclass, none missing, none surplus, each of its type."""
    if not isinstance(values, Mapping):
        raise InputError(f"{cls.__name__}: expected an object, found {values!r}")
    expected = {f.name: str(f.type) for f in fields(cls)}
    missing, surplus = expected.keys() - values.keys(), values.keys() - expected.keys()
    if missing or surplus:
        raise InputError(
            f"{cls.__name__}: missing fields {sorted(missing)}, unknown fields {sorted(surplus)}"
        )
    for name, value in values.items():
        if not _JSON_TYPES[expected[name]](value):
            raise InputError(f"{cls.__name__}: {name}: expected {expected[name]}, found {value!r}")
    return values


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ints(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


# How JSON holds each type of field: what json.loads may give for it.
_JSON_TYPES = {
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    "str": lambda value: isinstance(value, str),
    "Dtype": lambda value: isinstance(value, str),
    "tuple[int, ...]": _are_ints,
    "tuple[int, int]": _are_ints,
    "AggregatorConfig | None": lambda value: value is None or isinstance(value, Mapping),
}

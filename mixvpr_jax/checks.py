"""What every configuration checks its values with."""

from __future__ import annotations

import difflib
import numbers
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, as_path


def closest(name: object, known: Iterable[str]) -> str:
    """The known names nearest to a mistyped one, as the end of an error line."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    return f"; closest: {', '.join(near)}" if near else f"; known: {', '.join(names)}"


def nearest(path: AnyPath) -> str:
    """The folders whose names are nearest to that of one that is not there, as `closest` says it.

    "" where there are none, and in an object store.
    """
    if not isinstance(path, Path) or path.exists():
        return ""
    missing = next(part for part in (path, *path.parents) if part.parent.is_dir())
    try:
        beside = {p.name.casefold(): str(p) for p in missing.parent.iterdir() if p.is_dir()}
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name.casefold(), beside, n=3, cutoff=0.6)
    return f"; closest: {', '.join(beside[name] for name in near)}" if near else ""


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


def to_plain_numbers(config: Any) -> None:
    """Makes Python's numbers of the int and float fields of a dataclass, whatever kind they are.

    Raises:
        InputError: A field that is no such number.
    """
    for each in fields(config):
        kind = {"int": numbers.Integral, "float": numbers.Real}.get(str(each.type))
        value = getattr(config, each.name)
        if kind is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(f"{each.name}: expected {each.type}, found {value!r:.40}")
        if type(value) not in (int, float):  # NumPy's
            object.__setattr__(
                config, each.name, int(value) if kind is numbers.Integral else float(value)
            )


def to_whole_numbers(config: object, name: str, expected: str) -> None:
    """Makes a tuple of whole numbers of this field, whatever kind of sequence was given.

    Raises:
        InputError: It is none.
    """
    value = getattr(config, name)
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if values is None or not all(map(_is_int, values)):
        raise InputError(f"{name}: expected {expected}, found {value!r:.100}")
    object.__setattr__(config, name, tuple(map(int, values)))


def to_paths(config: object, *names: str) -> None:
    """Makes paths of these fields, whatever kind of path was given; None passes.

    Raises:
        InputError: An address that is none of a disk or of a store.
    """
    for name in names:
        if (value := getattr(config, name)) is not None:
            path = tuple(map(as_path, value)) if isinstance(value, tuple) else as_path(value)
            object.__setattr__(config, name, path)


def checked_fields(
    cls: type, values: object, defaults: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """JSON values for each field of a dataclass, none missing, none surplus, each of its type.

    Args:
        cls: The dataclass.
        values: What JSON holds.
        defaults: Values of the fields that may be missing.

    Raises:
        InputError: The line names the fields that are not as expected.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{cls.__name__}: expected an object, found {values!r}")
    values = {**(defaults or {}), **values}
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
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _are_ints(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


# How JSON holds each type of field: what json.loads may give for it.
_JSON_TYPES = {
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    "str": lambda value: isinstance(value, str),
    "Dtype": lambda value: isinstance(value, str),
    "Interpolation": lambda value: isinstance(value, str),
    "tuple[int, ...]": _are_ints,
    "tuple[int, int]": _are_ints,
    "AggregatorConfig | None": lambda value: value is None or isinstance(value, Mapping),
}

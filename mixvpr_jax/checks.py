"""Checks that configurations apply to their values."""

from __future__ import annotations

import difflib
import numbers
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixvpr_jax.errors import InputError, text_of

if TYPE_CHECKING:
    import numpy as np


def closest(name: object, known: Iterable[str]) -> str:
    """The known names closest to a mistyped one, as the end of an error line."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    few = names if len(names) <= 20 else [*names[:20], "…"]
    return f"; closest: {', '.join(near)}" if near else f"; known: {', '.join(few)}"


def nearest(path: object) -> str:
    """The existing folders whose names are closest to a missing one's, as the end of an error line.

    "" if there are none, and in an object store.
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


def no_folder(path: Any) -> str:
    """What was found in place of a folder, a file or nothing, as the end of an error line."""
    return "a file" if path.exists() else f"no such folder{nearest(path)}"


def only(
    what: str,
    given: Sequence[str],
    expected: str = "one folder",
    remedy: str = "give the folder of these photos",
) -> str:
    """The one name given for `what`; raises InputError for several, as a shell's pattern gives."""
    if len(given) != 1:
        raise InputError(f"{what}: expected {expected}, found {len(given):,} names; {remedy}")
    return given[0]


def require_known(what: str, name: object, known: Iterable[str]) -> None:
    """Raises InputError with the closest names if this one is unknown."""
    known = list(known)
    if name not in known:
        raise InputError(f"{what}: unknown name {name!r}{closest(name, known)}")


def to_array(expected: str, value: object, dtype: type[np.generic] | None = None) -> np.ndarray:
    """A value as NumPy's array, perhaps of a dtype; an np.memmap stays one.

    Raises:
        InputError: Tensors that need gradients or are on no CPU, ragged lists, masked values; for
            a dtype, text, times and complex numbers; the line begins with what was `expected`.
    """
    import numpy as np

    try:
        array = np.asanyarray(value)  # of NumPy, JAX, PyTorch …
        if dtype is not None and array.dtype.kind not in "USMmc":
            with np.errstate(over="ignore"):  # what it cannot hold is infinite
                array = array.astype(dtype, copy=False)
    except Exception as error:
        found = f"{type(value).__name__}: {text_of(error)}"
        raise InputError(f"{expected}, found {found}") from error
    if np.ma.is_masked(array):
        raise InputError(f"{expected}, found masked values; fill them or leave them out")
    if dtype is not None and array.dtype != dtype:
        raise InputError(f"{expected}, found {array.dtype}; convert it by astype")
    return array if isinstance(array, np.memmap) else np.asarray(array)  # no matrix


def require_one_size(queries: np.ndarray, database: np.ndarray) -> None:
    """Raises InputError for queries [q, d] and a database [n, d] of different lengths d."""
    if queries.shape[1] != database.shape[1]:
        raise InputError(
            f"expected queries and database of one model, found descriptors of {queries.shape[1]} "
            f"and of {database.shape[1]} values"
        )


def require_positive(config: object, *names: str) -> None:
    """Raises InputError unless each of these fields is finite and above 0, or None."""
    _require(config, names, "a number above 0", operator.gt)


def require_not_negative(config: object, *names: str) -> None:
    """Raises InputError unless each of these fields is finite and at least 0, or None."""
    _require(config, names, "0 or more", operator.ge)


def _require(config: object, names: Iterable[str], expected: str, fits: Callable) -> None:
    for name in names:
        value = getattr(config, name)  # an integer may be beyond the range of floats
        if value is not None and not (abs(value) <= sys.float_info.max and fits(value, 0)):
            raise InputError(f"{name}: expected {expected}, found {value!r:.40}")


def to_plain_numbers(config: Any) -> None:
    """Converts a dataclass's int and float fields to Python's numbers, or raises InputError.

    None passes where the type has it. Switches must be bools, and nested settings of their own
    class: a text such as "False" would count as true.
    """
    kinds = {"int": numbers.Integral, "float": numbers.Real, "bool": bool}
    for each in fields(config):
        value, type_name = getattr(config, each.name), str(each.type).removesuffix(" | None")
        nested = each.default_factory if isinstance(each.default_factory, type) else None
        kind = kinds.get(type_name, nested)
        if kind is None or (value is None and type_name != each.type):
            continue
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"{each.name}: expected {each.type}, found {value!r:.40}")
        plain = {numbers.Integral: int, numbers.Real: float}.get(kind)
        if plain is not None and type(value) not in (int, float):  # NumPy's
            object.__setattr__(config, each.name, plain(value))


def to_whole_numbers(config: object, name: str, expected: str) -> None:
    """Converts a field, a sequence or array of integers from 0 on, to a tuple."""
    value = getattr(config, name)
    value = value.tolist() if hasattr(value, "tolist") else value
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (None,)
    whole = [int(x) for x in values if isinstance(x, numbers.Integral) and not isinstance(x, bool)]
    if len(whole) < len(values) or min(whole, default=0) < 0:
        raise InputError(f"{name}: expected {expected}, found {value!r:.100}")
    object.__setattr__(config, name, tuple(whole))


def to_size(config: object, name: str) -> None:
    """Converts a field to a tuple of height and width in pixels, or raises InputError."""
    to_whole_numbers(config, name, "(height, width)")
    value = getattr(config, name)
    if len(value) != 2 or min(value) < 1:
        raise InputError(f"{name}: expected (height, width), found {value}")


def checked_fields(
    cls: type, values: object, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a dataclass from a JSON object, which must hold all but those with defaults.

    The dataclass checks their values.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{cls.__name__}: expected an object, found {values!r:.100}")
    values = {**(defaults or {}), **values}
    expected = {f.name for f in fields(cls)}
    missing, surplus = expected - values.keys(), values.keys() - expected
    if missing or surplus:
        raise InputError(
            f"{cls.__name__}: missing fields {sorted(missing)}, unknown fields {sorted(surplus)}"
        )
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], *, besides: Iterable[str] = ()
) -> list[str]:
    """A line for each field, `besides` some, in which two configurations of JSON values differ."""
    old, new = flat(there), flat(here)
    found = ((name, old.get(name), new.get(name)) for name in sorted((old | new).keys() - besides))
    return [f"{name}: {a!r} there, {b!r} here" for name, a, b in found if a != b]

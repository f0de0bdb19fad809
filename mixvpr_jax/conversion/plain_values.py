"""Values that people keep beside weights: numbers of NumPy, paths, dates, settings, random states.

They are told by the names that a pickle refers to. Settings are read, for they may hold a model's;
the rest is left aside: what it is gets counted, what it holds is not looked at. Nothing is imported
or called.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixvpr_jax.conversion.pickles import BROKEN

_MAPPINGS = {
    "collections Counter",
    "collections defaultdict",
    "lightning.fabric.utilities.data AttributeDict",
    "lightning.pytorch.utilities.parsing AttributeDict",
    "lightning_fabric.utilities.data AttributeDict",
    "pytorch_lightning.utilities.parsing AttributeDict",
}
_NAMESPACES = {"argparse Namespace", "types SimpleNamespace"}
_OTHERS = {"collections deque", "torch.torch_version TorchVersion"}
_DTYPE, _SCALAR = "numpy dtype", re.compile(r"numpy\._?core\.multiarray scalar")
_ASIDE = re.compile(
    r"pathlib(\._local)? (Pure)?(Posix|Windows)?Path"
    r"|datetime (datetime|date|time|timedelta|timezone)"
    r"|builtins (range|xrange|slice|frozenset)|decimal Decimal|fractions Fraction|uuid UUID"
    r"|torch\._C Generator|torch\.serialization _get_layout"
    r"|numpy\._?core\.multiarray _reconstruct|numpy\._?core\.numeric _frombuffer"
    r"|numpy\.random\._pickle __(generator|bit_generator|randomstate)_ctor"
    r"|numpy\.random\.bit_generator __pyx_unpickle_SeedSequence"
)
# Named in arguments, or kept themselves; never called.
_TYPES = re.compile(
    r"builtins (object|type|NoneType|bool|int|long|float|str|unicode|list|tuple|dict|Ellipsis)"
    r"|numpy (ndarray|(u?int|float|complex)\d{1,3}|bool_?|str_|bytes_)"
    r"|numpy\.random\.\w+ (MT19937|PCG64|PCG64DXSM|Philox|SFC64|SeedSequence)"
    r"|torch (per_\w+_affine|per_channel_affine_float_qparams|strided|sparse_coo)"
)
_NUMBER = re.compile(r"[biuf][1248]|c8|c16")


@dataclass(frozen=True)
class Aside:
    """A value, or a type of values, that was left aside; by its name."""

    name: str


@dataclass
class _DType:
    """What `numpy.dtype(…)` would make."""

    code: str
    order: str = "="


class _Namespace(Mapping[Any, Any]):
    """Settings that were attributes: what `__setstate__` was given, not a copy of it."""

    def __init__(self) -> None:
        self.settings: dict[Any, Any] = {}

    def __getitem__(self, name: Any) -> Any:
        return self.settings[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)


class PlainValues:
    """The vocabulary of such values; a part of a `pickles.Vocabulary`.

    Attributes:
        found: How many of them were left aside, by name.
    """

    def __init__(self) -> None:
        self.found = Counter[str]()

    def name(self, name: str) -> Aside | None:
        """A stand-in, where the name is known."""
        known = name == _DTYPE or name in _MAPPINGS | _NAMESPACES | _OTHERS
        known = known or any(names.fullmatch(name) for names in (_SCALAR, _ASIDE, _TYPES))
        return Aside(name) if known else None

    def call(self, maker: Aside, arguments: tuple) -> Any:
        """What a call makes: plain settings and numbers, or something that is left aside.

        What it is given is not copied: many calls may be given the same.
        """
        name = maker.name
        if name == _DTYPE:
            return _DType(arguments[0] if isinstance(arguments[0], str) else "")
        if _TYPES.fullmatch(name):
            raise ValueError(f"a call of {name.replace(' ', '.')} as no data need")
        if name in _MAPPINGS:
            return arguments[0] if arguments and type(arguments[0]) is dict else {}
        if name in _NAMESPACES:
            return _Namespace()
        match name, arguments:
            case "collections deque", _:
                return arguments[0] if arguments and type(arguments[0]) is list else []
            case "torch.torch_version TorchVersion", (str(version),):
                return version
            case _, (_DType() as dtype, bytes(data)) if _SCALAR.fullmatch(name):
                return _number(dtype, data)
        self.found[name.replace(" ", ".")] += 1
        return Aside(name)

    def complete(self, value: Any, state: Any) -> None:
        """What `__setstate__` sets: settings; the rest is passed over."""
        match value, state:
            case _Namespace(), dict():
                value.settings = state
            case _DType(), (_, str(order), *_):
                value.order = order
            case _Namespace() | _DType() | Aside() | dict(), _:
                pass  # an OrderedDict's attributes are no part of it
            case _:
                raise ValueError(BROKEN)


def _number(dtype: _DType, data: bytes) -> Any:
    """NumPy's number as Python's; what is none is left aside."""
    if not _NUMBER.fullmatch(dtype.code) or dtype.order not in tuple("<>=|"):
        return Aside("numpy scalar")
    whole = np.dtype(dtype.order + dtype.code)
    if len(data) != whole.itemsize:
        raise ValueError(BROKEN)
    return np.frombuffer(data, whole)[0].item()

"""Pickles from strangers, loaded without running what they say.

Loading a pickle may call any function. Here a scan of its operations refuses those that no data
need and bounds what the rest may build. Then an `Unpickler` loads it, to which every name is an
inert stand-in: nothing is imported, and nothing of the file's choice is called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MOST_OPERATIONS = 4_000_000  # of 200 bytes each; a checkpoint has some ten thousand
BROKEN = "a pickle that is broken"
_OPERATIONS = re.compile(
    r"PROTO|FRAME|STOP|MARK|POP|GLOBAL|STACK_GLOBAL|REDUCE|NEWOBJ|BUILD|BINPERSID"
    r"|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG[14]|BINFLOAT|BINUNICODE8?|SHORT_BINUNICODE"
    r"|(SHORT_)?BINSTRING|BINBYTES8?|SHORT_BINBYTES|BYTEARRAY8|MEMOIZE|(LONG_)?BIN(PUT|GET)"
    r"|EMPTY_(LIST|DICT|SET|TUPLE)|APPENDS?|SETITEMS?|ADDITEMS|FROZENSET|TUPLE[123]?"
)
_BROKEN_BY = (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError)
_BROKEN_BY += (AssertionError, OverflowError, RecursionError)
_FILLING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")
_HASHABLE = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
_MADE = 0  # the weight of what a call made; plain values weigh 1 or more
Find = Callable[[str], Any]  # of a name such as "numpy dtype" a stand-in; raises for all others


class Code(ValueError):
    """A pickle would import or call something that no data need; it was not executed."""

    def __init__(self, name: str) -> None:
        found = name.replace(" ", ".")
        super().__init__(f"a pickle with code in it, which was not executed: {found}")


class Inert:
    """The base of all that a pickle may name or make: no key, and not changed by a state."""

    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        raise ValueError(BROKEN)


class DType(Inert):
    """What `numpy.dtype(code)` would make, in the byte order that a state says."""

    def __init__(self, code: object) -> None:
        self.code, self.order = code if isinstance(code, str) else "", "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]
        if self.order not in ("<", ">", "|", "="):
            raise ValueError(BROKEN)

    def to_numpy(self) -> np.dtype:
        """The type itself; its code is the caller's to check."""
        return np.dtype(self.code if self.order in "|=" else self.order + self.code)


def stand_in(name: str, call: Callable[..., Any]) -> type[Inert]:
    """A type whose calls in a pickle go to `call`."""
    members = {"name": name, "__new__": lambda _, *arguments: call(*arguments)}
    return type("StandIn", (Inert,), members)


def name_of(value: Any) -> str | None:
    """The name that a stand-in was made for; None for any other value."""
    known = isinstance(value, type) and issubclass(value, Inert)
    return getattr(value, "name", None) if known else None


def load(stream: io.BytesIO, find: Find, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Loads the pickle that begins here; the stream is left at its end.

    `find` gives stand-ins, which are called with values of any type that may contain themselves;
    `persistent` gives what lies elsewhere in the file.

    Raises:
        ValueError: A pickle that is broken or needs more than data do, or what `find` raises.
    """
    try:
        return _Unpickler(_scanned(stream, find), find, persistent).load()
    except _BROKEN_BY as error:
        raise ValueError(BROKEN) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, find: Find, persistent: Callable[[Any], Any] | None) -> None:
        super().__init__(io.BytesIO(pickled), encoding="latin-1")
        self._find, self._persistent = find, persistent

    def find_class(self, module_name: str, global_name: str) -> Any:
        return self._find(f"{module_name} {global_name}")

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise ValueError("a pickle that refers to another file")
        return self._persistent(pid)


def _scanned(stream: io.BytesIO, find: Find) -> bytes:
    """The pickle, found harmless, without its frames: those steer how an Unpickler reads.

    Each value on the stack weighs what it takes to hash it: a tuple of two of itself, sixty times
    over, would take forever. Operations that make a tuple or repeat a value count for its weight,
    so nesting is bounded, too: n tuples, one within the other, count for n²/2.
    """
    content, start = memoryview(stream.getvalue()), stream.tell()
    begin, pieces = start, list[memoryview]()
    stack, marks, memo, count = list[int](), list[int](), dict[int, int](), 0
    for operation, argument, place in _operations(stream):
        if count > MOST_OPERATIONS:
            raise ValueError(f"a pickle of more than {MOST_OPERATIONS:,} operations")
        name, weight = operation.name, 1
        match name:
            case _ if not _OPERATIONS.fullmatch(name):
                raise ValueError(f"a pickle with the operation {name}, which no data need")
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                if argument > place - start:  # the Unpickler's memory reaches up to there
                    raise ValueError(BROKEN)
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                weight = memo[argument]
                stack.append(weight)
            case "MARK":
                marks.append(len(stack))
            case _:
                taken = _take(operation.stack_before, stack, marks)
                if name == "FRAME":
                    pieces.append(content[begin:place])
                    begin = place + 9  # after its length
                elif name == "GLOBAL":
                    find(argument)
                elif name == "BUILD" and taken[0] != _MADE:
                    raise ValueError(BROKEN)
                elif name in ("REDUCE", "NEWOBJ", "BUILD"):
                    weight = _MADE
                elif name in _HASHABLE:
                    weight += sum(taken)
                elif name in _FILLING:
                    weight = taken[0]
                elif isinstance(argument, int) and argument.bit_length() > 64:
                    weight = 16 * argument.bit_length()  # such may all have the same hash
                stack.extend(weight for _ in operation.stack_after)
        count += max(weight, 1)
    pieces.append(content[begin : stream.tell()])
    return b"".join(pieces)


def _take(before: list[pickletools.StackObject], stack: list[int], marks: list[int]) -> list[int]:
    place = len(stack) - len(before)
    if pickletools.markobject in before:
        place = marks.pop() - before.index(pickletools.markobject)
    if place < (marks[-1] if marks else 0):
        raise ValueError(BROKEN)
    taken = stack[place:]
    del stack[place:]
    return taken


def _operations(stream: io.BytesIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    try:
        for operation, argument, place in pickletools.genops(stream):
            yield operation, argument, place or 0
    except ValueError as error:  # in words about opcodes
        raise ValueError(BROKEN) from error

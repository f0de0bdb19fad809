"""Pickles from strangers: walked through, never run.

Loading a pickle may call any function. Here it is only followed, operation by operation: plain
values are built, the few names that a kind of file is made of become inert stand-ins, which its
`Vocabulary` knows, and all else is refused. Nothing is imported or called, and operations are
counted: each takes some bytes of memory, be it a single byte of the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol, TypeVar

_Kind = TypeVar("_Kind")

_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_VALUES = frozenset({*_NUMBERS, *_TEXTS, *_BYTES})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_KEYS = (str, bytes, int, float, type(None))  # what is hashed: tuples of tuples would take forever

MOST_OPERATIONS = 4_000_000  # of 200 bytes each; a checkpoint has some ten thousand
BROKEN = "a pickle that is broken"


class Code(ValueError):
    """A pickle would import or call something that no data need; it was not executed."""

    def __init__(self, name: str) -> None:
        """Of what."""
        found = name.replace(" ", ".")
        super().__init__(f"a pickle with code in it, which was not executed: {found}")


class Vocabulary(Protocol):
    """What a kind of file may say beyond plain values; each method raises ValueError for the rest.

    Arguments are what a stranger wrote: of any type, and perhaps within themselves.
    """

    def name(self, name: str) -> Any:
        """A stand-in for what would be imported, such as "numpy dtype"."""

    def call(self, maker: Any, arguments: tuple) -> Any:
        """What a call would make."""

    def complete(self, value: Any, state: Any) -> None:
        """What `__setstate__` would set."""

    def persistent(self, identity: Any) -> Any:
        """What lies elsewhere in the file."""


def walk(stream: BinaryIO, vocabulary: Vocabulary) -> Any:
    """The value of the pickle that begins here; the stream is left behind it.

    Raises:
        ValueError: It is broken, or says what the vocabulary does not know; what, in words.
    """
    try:
        return _Walk(vocabulary).follow(stream)
    except (LookupError, TypeError, AssertionError, OverflowError, RecursionError) as error:
        raise ValueError(BROKEN) from error


class _Walk:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def follow(self, stream: BinaryIO) -> Any:
        stack, memo = self.stack, self.memo
        for count, (operation, argument, _) in enumerate(_operations(stream)):
            if count > MOST_OPERATIONS:
                raise ValueError(f"a pickle of more than {MOST_OPERATIONS:,} operations")
            match operation.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    self.marks.append(len(stack))
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINPUT" | "LONG_BINPUT":
                    memo[_whole(argument)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[_whole(argument)])
                case name if name in _VALUES:
                    stack.append(argument)
                case name if name in _CONSTANTS:
                    stack.append(_CONSTANTS[name])
                case name if name in _EMPTY:
                    stack.append(_EMPTY[name]())
                case name if not self._gather(name):
                    self._refer(name, argument)
        raise ValueError(BROKEN)

    def _gather(self, operation: str) -> bool:
        """The operations that make one plain value of several."""
        stack = self.stack
        match operation:
            case "POP":
                stack.pop()
            case "APPEND":
                item = stack.pop()
                _of_type(list, stack[-1]).append(item)
            case "APPENDS":
                items = self._since_mark()
                _of_type(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _of_type(dict, stack[-1])[as_key(key)] = value
            case "SETITEMS":
                items = self._since_mark()
                pairs = zip(map(as_key, items[::2]), items[1::2], strict=False)
                _of_type(dict, stack[-1]).update(pairs)
            case "ADDITEMS":
                items = self._since_mark()
                _of_type(set, stack[-1]).update(map(as_key, items))
            case "FROZENSET":
                stack.append(frozenset(map(as_key, self._since_mark())))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case name if name in _TUPLES:
                stack.append(tuple(self._since(len(stack) - _TUPLES[name])))
            case _:
                return False
        return True

    def _refer(self, operation: str, argument: Any) -> None:
        """The operations that would import or call something."""
        stack, vocabulary = self.stack, self.vocabulary
        match operation:
            case "GLOBAL":
                stack.append(vocabulary.name(argument))
            case "STACK_GLOBAL":
                name, module = (_of_type(str, stack.pop()) for _ in range(2))
                stack.append(vocabulary.name(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                arguments = _of_type(tuple, stack.pop())
                stack.append(vocabulary.call(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                vocabulary.complete(stack[-1], state)
            case "BINPERSID":
                stack.append(vocabulary.persistent(stack.pop()))
            case name:
                raise ValueError(f"a pickle with the operation {name}, which no data need")

    def _since_mark(self) -> list[Any]:
        return self._since(self.marks.pop())

    def _since(self, place: int) -> list[Any]:
        if not 0 <= place <= len(self.stack):
            raise ValueError(BROKEN)
        items = self.stack[place:]
        del self.stack[place:]
        return items


def _operations(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    try:
        yield from pickletools.genops(stream)
    except ValueError as error:  # in words about opcodes
        raise ValueError(BROKEN) from error


def _of_type(kind: type[_Kind], value: Any) -> _Kind:
    if type(value) is not kind:
        raise ValueError(BROKEN)
    return value


def _whole(value: Any) -> int:
    return _of_type(int, value)


def as_key(key: Any) -> Any:
    """A key of a dictionary: a plain value or a tuple of such."""
    parts = key if type(key) is tuple else (key,)
    if not all(isinstance(part, _KEYS) for part in parts):
        raise ValueError(BROKEN)
    return key

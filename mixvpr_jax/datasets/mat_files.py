"""MATLAB files of version 5 to 7 from strangers: structs, cells, text and numbers.

`scipy.io.loadmat` reads them, too, but ends the process with a segmentation fault on broken ones:
tests/fuzz/seeds/crashed_scipy_0.mat. (MathWorks, "MAT-File Format".)
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_BYTES = 128 * 2**20  # of content, uncompressed; a split of Pittsburgh has some 10 million

_BROKEN = "one that is broken"
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)  # classes of arrays
_COMPLEX = 0x0800  # among an array's flags
_DEEPEST = 8  # names in a cell in a struct are 3
_NOTHING = np.empty((0, 0))


def read_variable(content: bytes, name: str) -> Any:
    """The variable of this name in a file's content: None where there is no such one.

    Returns:
        A struct as a dictionary, a cell array as a list, text as a string, numbers as an array.
        MATLAB's order is by columns; so is a list's.

    Raises:
        NotImplementedError: A file of version 7.3.
        ValueError: No MATLAB file, a broken one, or one that holds something else; what, in words.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[:4] == b"\0\0\0\0":
        raise ValueError("something else")
    version = int.from_bytes(content[124:126], "little" if order == "<" else "big")
    if version == 0x0200:
        raise NotImplementedError
    if version != 0x0100:
        raise ValueError(f"version {version:#06x}")
    try:
        return _Reader(order).variable(memoryview(content)[128:], name)
    except (struct.error, zlib.error, LookupError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(_BROKEN) from error


class _Reader:
    def __init__(self, order: str) -> None:
        self.order = order
        self.tag = struct.Struct(f"{order}II")
        self.left = MAX_BYTES

    def variable(self, content: memoryview, name: str) -> Any:
        for kind, data in self.elements(content):
            if kind == _COMPRESSED:
                kind, data = _following(self.elements(self.unpacked(data)))
            if kind == _MATRIX and len(data):
                parts = self.elements(data)
                title = [_following(parts)[1] for _ in range(3)][2]
                if bytes(title) == name.encode():
                    return self.matrix(data, 0)
        return None

    def elements(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """What follows one another: kinds and contents, each padded to 8 bytes."""
        place = 0
        while place < len(data):
            kind, size = self.tag.unpack_from(data, place)
            start = place + 8
            if kind >> 16:  # a small one, with its content within these 8 bytes
                kind, size, start, place = kind & 0xFFFF, kind >> 16, place + 4, start
            else:
                place = start + size + (-size % 8 if kind != _COMPRESSED else 0)
            if start + size > min(place, len(data)):
                raise ValueError("one that is cut short")
            yield kind, data[start : start + size]

    def unpacked(self, data: memoryview) -> memoryview:
        stream = zlib.decompressobj()
        content = stream.decompress(data, self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"one of more than {MAX_BYTES:,} bytes")
        if not stream.eof:
            raise ValueError("one that is cut short")
        return memoryview(content)

    def matrix(self, data: memoryview, depth: int) -> Any:
        """The value of an element; None for what is neither struct, cells, text nor numbers."""
        if not len(data):
            return _NOTHING
        if depth > _DEEPEST:
            raise ValueError("cells nested too deep")
        parts = self.elements(data)
        flags, sizes, _ = (_following(parts)[1] for _ in range(3))
        marks = self.tag.unpack_from(flags)[0]
        kind, shape = marks & 0xFF, tuple(np.frombuffer(sizes, f"{self.order}i4").tolist())
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError("an array of no possible shape")
        count = math.prod(shape)
        if kind == _CELL:
            return [self.value(parts, depth) for _ in range(count)]
        if kind == _STRUCT and count == 1:
            length, names = (bytes(_following(parts)[1]) for _ in range(2))
            width = int.from_bytes(length, "little" if self.order == "<" else "big")
            starts = range(0, len(names), width)
            fields = (names[start : start + width].split(b"\0")[0] for start in starts)
            return {field.decode("latin-1"): self.value(parts, depth) for field in fields}
        if kind == _CHAR:
            return self.text(*_following(parts), shape)
        if kind in _NUMERIC and not marks & _COMPLEX:
            return self.numbers(*_following(parts), shape)
        return None

    def value(self, parts: Iterator[tuple[int, memoryview]], depth: int) -> Any:
        kind, data = _following(parts)
        if kind != _MATRIX:
            raise ValueError(_BROKEN)
        return self.matrix(data, depth + 1)

    def text(self, kind: int, data: memoryview, shape: tuple[int, ...]) -> str | list[str]:
        """A row of characters, or a row each of a matrix without the blanks at its end."""
        order = {"<": "-le", ">": "-be"}[self.order]
        text = str(data, _TEXTS[kind] + (order if kind in (4, 17, 18) else ""))
        if len(text) != math.prod(shape):
            raise ValueError(f"{len(text)} characters in an array of shape {shape}")
        rows = shape[0]
        return [text[row::rows].rstrip() for row in range(rows)] if rows > 1 else text

    def numbers(self, kind: int, data: memoryview, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data):,} bytes in an array of shape {shape} of {dtype}")
        return np.frombuffer(data, dtype).reshape(shape, order="F").copy("F")  # alone in memory


def _following(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    part = next(parts, None)
    if part is None:
        raise ValueError("one that is cut short")
    return part

"""How a valid file is broken: bits, numbers, pieces of it, and pieces of others."""

import struct

from hypothesis import strategies as st

_NUMBERS = (
    0,
    1,
    2,
    127,
    255,
    2**15,
    2**16 - 1,
    10**6,
    2**31 - 1,
    2**32 - 1,
    10**9,
    2**40,
    2**63 - 1,
)
_SIZES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Kind:
    """A kind of file: the contents of valid ones, and what such are made of."""

    def __init__(self, files, pieces):
        self.files, self.pieces = files, pieces

    def __repr__(self):
        return "Kind()"  # Hypothesis would print them all


def broken(files, pieces=()):
    """One of several files after a few changes, among them pieces put where they do not belong."""
    return _broken(Kind(files, pieces))


@st.composite
def _broken(draw, kind):
    data = bytearray(draw(st.sampled_from(kind.files)))
    for _ in range(draw(st.integers(0, 4))):
        change = draw(st.sampled_from(_CHANGES))
        change(draw, data, kind.files, kind.pieces)
    return bytes(data)


def _place(draw, data):
    return draw(st.integers(0, max(len(data) - 1, 0)))


def _cut(draw, data, files, pieces):
    del data[_place(draw, data) :]


def _flip(draw, data, files, pieces):
    if data:
        data[_place(draw, data)] ^= 1 << draw(st.integers(0, 7))


def _replace(draw, data, files, pieces):
    place, new = _place(draw, data), draw(st.binary(min_size=1, max_size=8))
    data[place : place + len(new)] = new


def _count(draw, data, files, pieces):
    """A number where perhaps a length stood."""
    size, value = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(_NUMBERS))
    value = min(value, 256**size - 1) if draw(st.booleans()) else -value % 256**size
    place, order = _place(draw, data), draw(st.sampled_from("<>"))
    data[place : place + size] = struct.pack(order + _SIZES[size], value)


def _drop(draw, data, files, pieces):
    place = _place(draw, data)
    del data[place : place + draw(st.integers(1, 64))]


def _repeat(draw, data, files, pieces):
    place = _place(draw, data)
    piece = data[place : place + draw(st.integers(1, 64))]
    data[place:place] = piece * draw(st.integers(1, 4))


def _splice(draw, data, files, pieces):
    """A piece of another file of the kind, or one that such files are made of."""
    if pieces and draw(st.booleans()):
        piece = draw(st.sampled_from(pieces))
    else:
        other = draw(st.sampled_from(files))
        start = _place(draw, other)
        piece = other[start : start + draw(st.integers(1, 256))]
    place = _place(draw, data)
    over = len(piece) if draw(st.booleans()) else 0
    data[place : place + over] = piece


_CHANGES = (_cut, _flip, _replace, _count, _drop, _repeat, _splice, _splice)

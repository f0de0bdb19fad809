"""MATLAB files as scipy reads them, where it does; broken ones refused, where it crashes."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from benchmark_trees import cells
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mixvpr_jax.datasets import mat_files
from mixvpr_jax.datasets.mat_files import read_variable

NUMBERS = st.sampled_from(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=3, max_side=4))
)
TEXT = st.text(st.characters(exclude_categories=("Cs",), max_codepoint=0xFFFF), min_size=1)


def saved(variables, **options):
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, **options)
    return stream.getvalue()


def same(ours, theirs):
    """Ours are plain values; scipy's are arrays of them."""
    match ours:
        case dict():
            names = theirs.dtype.names
            return list(ours) == list(names) and all(same(ours[n], theirs[n][0, 0]) for n in names)
        case list():
            flat = theirs.ravel(order="F")
            return len(ours) == flat.size and all(map(same, ours, flat))
        case str():
            return theirs.size == bool(ours) and "".join(theirs.tolist()) == ours
    return ours.dtype == theirs.dtype and np.array_equal(
        ours, theirs, equal_nan=ours.dtype.kind == "f"
    )


@settings(deadline=None)
@given(st.lists(NUMBERS | TEXT, max_size=4), NUMBERS, TEXT, st.booleans())
def test_what_scipy_writes(items, numbers, text, compressed):
    value = {"cells": cells(items), "numbers": numbers, "text": text, "inner": {"text": text}}
    content = saved({"other": 1.0, "value": value}, do_compression=compressed)
    theirs = scipy.io.loadmat(io.BytesIO(content))
    assert same(read_variable(content, "value"), theirs["value"])
    assert same(read_variable(content, "other"), theirs["other"])
    assert read_variable(content, "absent") is None


def test_rows_of_text_lose_their_blanks():
    content = saved({"names": np.array(["a.jpg", "longer.jpg"])})
    assert read_variable(content, "names") == ["a.jpg", "longer.jpg"]


def test_what_is_neither_numbers_nor_text_is_none():
    """A field that is not needed is no reason to refuse a file."""
    struct_ = {
        "sparse": scipy.sparse.eye(3).tocsc(),
        "complex": 1j,
        "many": np.zeros(2, [("a", "f8")]),
    }
    content = saved({"value": struct_ | {"good": 5.0}})
    read = read_variable(content, "value")
    assert [read[name] for name in struct_] == [None] * 3
    assert read["good"] == [[5.0]]


def big_endian(content):
    """A file of one variable, of doubles, as a machine of the other order writes it."""
    name, values = b"v\0\0\0", np.arange(4.0).reshape(2, 2)
    parts = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 2, 2)
    parts += struct.pack(">HH", 1, 1) + name
    parts += struct.pack(">II", 9, 32) + values.tobytes(order="F")[::-1]
    return content[:124] + b"\x01\x00MI" + struct.pack(">II", 14, len(parts)) + parts


def test_the_other_order_of_bytes():
    content = big_endian(saved({"v": 1.0}))
    theirs = scipy.io.loadmat(io.BytesIO(content))["v"]
    assert np.array_equal(read_variable(content, "v"), theirs)


def test_what_is_compressed_may_not_be_large(monkeypatch):
    monkeypatch.setattr(mat_files, "MAX_BYTES", 10**6)
    packed = zlib.compress(bytes(10**8))
    content = saved({"v": 1.0})[:128] + struct.pack("<II", 15, len(packed)) + packed
    tracemalloc.start()
    with pytest.raises(ValueError, match="one of more than 1,000,000 bytes"):
        read_variable(content, "v")
    assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    tracemalloc.stop()


def test_what_is_announced_and_not_there():
    whole = saved({"v": cells(["a"])})
    place = whole.index(struct.pack("<IIII", 5, 8, 1, 1))
    for sizes in ((2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (-1, 1), (2, 1)):
        broken = whole[: place + 8] + struct.pack("<ii", *sizes) + whole[place + 16 :]
        with pytest.raises(ValueError, match="cut short|of no possible shape"):
            read_variable(broken, "v")


def test_cells_within_cells():
    value = 1.0
    for _ in range(30):
        value = cells([value])
    with pytest.raises(ValueError, match="cells nested too deep"):
        read_variable(saved({"v": value}), "v")

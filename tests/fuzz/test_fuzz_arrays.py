"""Lists and ground truth in .npy files from strangers."""

import io
import pickle
import struct

import numpy as np
import pytest
from breaking import broken
from fuzzing import allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st

from mixvpr_jax.datasets.ground_truth import read_indices, read_names, read_positives


def objects(*items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def with_header(body, shape="(5,)", descr="'|O'", order="False"):
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


RAGGED = objects(np.array([3, 1]), [2], 0, np.array([]), np.array([4], np.uint16))
ARRAYS = [
    RAGGED,
    objects("a/b.jpg", "ü.jpg", b"c.jpg"),
    objects(np.str_("c.jpg"), np.int64(7), None, 2.5),
    objects(objects(np.array([1]))),
    np.array(["a/b.jpg", "ü.jpg"]),
    np.array([b"a/b.jpg", b"c"]),
    np.arange(6, dtype=np.int32).reshape(2, 3, order="F"),
    np.arange(3.0),
    np.empty((0, 2)),
]
FILES = [saved(array) for array in ARRAYS]
FILES += [with_header(pickle.dumps(ARRAYS[i], 2), f"({len(ARRAYS[i])},)") for i in range(3)]
OTHERS = [b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", b"", b"PK\x03\x04"]
NAMES = "numpy ndarray, numpy dtype, numpy.core.multiarray _reconstruct, os system, builtins eval"
TYPES = ["'|O'", "'<i8'", "'<U4'", "'|S3'", "'<f8'", "'|V8'", "[('a', '<i8')]", "'<U999999999'"]
TYPES += ["'a5'", "'x'", "5", "'<M8[s]'", "[('a', '|O')]", "('<i4', (2**9,))", "'<U0'", "'?'", "''"]
PIECES = [
    *(f"c{name}\n".replace(" ", "\n").encode() for name in NAMES.split(", ")),
    *b"R 0 1 2 b a e s u t } ] ) ( Q K\x05 h\x01 q\x01 h\x00 \x85 \x86 \x87 \x81 N .".split(),
    b"\x94", b"\x93",
    *(b"\x8c" + bytes([len(text)]) + text for text in (b"O8", b"U4", b"S1", b"U999999", b"<")),
    b"J\xff\xff\xff\x7f",
    b"\x8a\x08" + struct.pack("<q", 2**62),
]  # fmt: skip


@st.composite
def headed(draw):
    """A file whose header says what it likes."""
    number = st.sampled_from((0, 1, 2, 3, 5, -1, 2**31, 2**63, 10**30, 1.5, True, None, "'a'"))
    shape = draw(st.lists(number, max_size=4))
    descr = draw(st.sampled_from(TYPES))
    body = draw(st.one_of(st.binary(max_size=64), broken([pickle.dumps(RAGGED)], PIECES)))
    order = draw(st.sampled_from(("False", "True", "3")))
    text = ", ".join(map(str, shape))
    return with_header(body, f"({text},)" if shape else "()", descr, order)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "list.npy"

    def read_as(content):
        path.write_bytes(content)
        limit = allowed(content, ".npy")
        readers = (read_names,), (read_indices, 9, "it"), (read_positives, 5, 9)
        return [
            line_of(reader, path, *sizes, memory=limit, inside=path.parent)
            for reader, *sizes in readers
        ]

    return read_as


SEEDS = kept_seeds(".npy")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(read, name):
    assert all(read(SEEDS[name]))


@campaign(500)
@given(st.one_of(broken([*FILES, *OTHERS], PIECES), headed()))
def test_arrays(read, content):
    read(content)

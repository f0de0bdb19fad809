"""Files of NumPy, read without running what they say."""

import os
import pickle
import struct

import numpy as np
import pytest
from benchmark_trees import object_array

from mixvpr_jax.datasets.ground_truth import read_indices, read_names, read_positives
from mixvpr_jax.datasets.object_arrays import read_array
from mixvpr_jax.errors import InputError

RAGGED = object_array([np.array([3, 1]), [2], 0, np.array([]), np.array([4], np.uint16)])


def npy(path, body, shape=(5,), descr="|O"):
    header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    return path


def same(a, b):
    if isinstance(a, np.ndarray) and a.dtype == object:
        return a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
    return type(a) is type(b) and np.array_equal(a, b)


ARRAYS = [
    RAGGED,
    object_array(["a/b.jpg", "ü.jpg"]),
    object_array([np.str_("c.jpg"), np.int64(7), None, 2.5]),
    object_array([object_array([np.array([1])])]),
    np.asfortranarray(object_array([1, 2, 3, 4, 5, 6]).reshape(2, 3)),
    object_array([np.arange(6, dtype=">i4").reshape(2, 3).T]),
    object_array([RAGGED[0], RAGGED[0]]),
    np.empty((0,), object),
    np.array(["a/b.jpg", "ü.jpg"]),
    np.array([b"a/b.jpg", b"c"]),
    np.arange(6, dtype=np.int32).reshape(2, 3, order="F"),
    np.empty((0, 2)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
@pytest.mark.parametrize("module", [None, b"numpy.core", b"numpy._core"])
def test_whatever_numpy_writes_comes_back(tmp_path, array, module):
    file = tmp_path / "a.npy"
    if array.dtype != object or module is None:
        np.save(file, array, allow_pickle=True)
    else:  # NumPy 1 pickled by another protocol, and called its module otherwise
        body = pickle.dumps(array, protocol=3)
        npy(file, body.replace(b"numpy._core", module), array.shape)
    read = read_array(file)
    assert read.dtype == array.dtype and same(read, array)


class Command:
    """What a pickle may do to whoever loads it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [object_array, lambda items: items[0]])
def test_no_code_is_executed(tmp_path, protocol, wrap):
    marker = tmp_path / "ran"
    file = npy(tmp_path / "a.npy", pickle.dumps(wrap([Command(marker)]), protocol), (1,))
    with pytest.raises(
        InputError, match=r"a\.npy: expected a NumPy array \(\.npy\), found a pickle"
    ):
        read_array(file)
    assert not marker.exists()
    with pytest.raises(InputError, match=r"found .*(posix system|operation)"):
        read_array(npy(file, pickle.dumps(Command(marker), protocol), (1,)))
    assert not marker.exists()


GOOD = pickle.dumps(RAGGED, protocol=4)
HOSTILE = {
    "a call of something that is named twice": b"cnumpy\nndarray\ncnumpy\nndarray\nR.",
    "a call of a text": b"\x8c\x01a)R.",
    "a type of elements with fields": b"cnumpy\ndtype\n\x8c\x05i4,i4\x85R.",
    "an array of a size of its own": b"cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x10\x85C\x01b\x87R.",
    "a number": b"K\x01.",
    "a state without an object": b"\x80\x04b.",
    "a memory that was never filled": b"h\x07.",
    "a place of memory beyond all": b"K\x01r\xff\xff\xff\xff.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a name by extension": b"\x82\x01.",
    "an object of another process": b"Pelsewhere\n.",
    "an end that is missing": GOOD[:-1],
    "half of it": GOOD[: len(GOOD) // 2],
    "more after the end": GOOD + b"more",
    "nothing": b"",
    "a frame of no end": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "bytes of no end": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "objects as bytes": GOOD.replace(b"\x8c\x02i8", b"\x8c\x02O8", 1),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_broken_and_hostile_pickles_are_refused(tmp_path, body):
    with pytest.raises(InputError, match=r"a\.npy: expected a NumPy array \(\.npy\), found "):
        read_array(npy(tmp_path / "a.npy", body))


def test_every_byte_of_a_pickle_may_be_wrong(tmp_path):
    """Whatever a changed byte says, it is an array or one line."""
    random = np.random.default_rng(0)
    for place in range(len(GOOD)):
        body = bytearray(GOOD)
        body[place] = random.integers(256)
        try:
            read_array(npy(tmp_path / "a.npy", bytes(body)))
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "an empty file"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        ("<!DOCTYPE html><html>", "an HTML page .*; delete it and download again"),
        ("PK", "something else"),
    ],
)
def test_what_is_no_array_is_recognised(tmp_path, content, found):
    (tmp_path / "a.npy").write_text(content)
    with pytest.raises(InputError, match=f"expected a NumPy array .*, found {found}"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("shape", "descr", "found"),
    [
        ((10**15,), "<i8", r"16 bytes where shape \(10+,\) of int64 takes"),
        ((10**9,), "<U30", "16 bytes where"),
        ((10**12,), "<U0", "elements of type <U0"),
        ((1,), "<i8", "16 bytes where shape .* takes 8"),
        ((3,), "<i8", "16 bytes where shape .* takes 24"),
        ((-1,), "<i8", "shape"),
        ((2,), [("a", "<i8")], "elements of type"),
        ((2,), "|V8", "elements of type"),
        ((10**15,), "|O", "a pickle that is broken|header says|exhausted|opcode"),
    ],
)
def test_headers_that_promise_what_is_not_there(tmp_path, shape, descr, found):
    with pytest.raises(InputError, match=f"found .*({found})"):
        read_array(npy(tmp_path / "a.npy", bytes(16), shape, descr))


def test_headers_that_are_none(tmp_path):
    for content in (
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\x08\x00{'a': ( \n",
        b"\x93NUMPY\x01\x00\x0c\x00__import__()\n",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 20_000,
        b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
    ):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match="expected a NumPy array"):
            read_array(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"absent\.npy: .*No such file"):
        read_array(tmp_path / "absent.npy")


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return path


def test_lists(tmp_path):
    file = tmp_path / "a.npy"
    for array in (np.array(["a", "b"]), np.array([b"a", b"b"]), object_array(["a", "b"])):
        assert read_names(saved(file, array)) == ["a", "b"]
    assert read_indices(saved(file, np.array([2, 0])), 3, "it").tolist() == [2, 0]
    positives = read_positives(saved(file, RAGGED), 5, 5)
    assert [found.tolist() for found in positives] == [[1, 3], [2], [0], [], [4]]
    assert {found.dtype for found in positives} == {np.dtype(np.int64)}
    for identity in (np.arange(3), np.arange(3)[:, None]):
        assert [f.tolist() for f in read_positives(saved(file, identity), 3, 3)] == [[0], [1], [2]]


@pytest.mark.parametrize("array", [np.array([1.0, 0.0]), object_array([[1.0], np.array([0.0])])])
def test_indices_that_matlab_wrote(tmp_path, array):
    found = read_positives(saved(tmp_path / "a.npy", array), 2, 2)
    assert [(one.tolist(), one.dtype) for one in found] == [([1], np.int64), ([0], np.int64)]


def test_positives_padded_by_repetition(tmp_path):
    found = read_positives(saved(tmp_path / "a.npy", np.array([[0, 0], [1, 1]])), 2, 2)
    assert [one.tolist() for one in found] == [[0], [1]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(3), r"expected a list of file names, found shape \(3,\) of int64"),
        (np.array([["a"]]), r"expected a list of file names, found shape \(1, 1\)"),
        (object_array(["a", 3]), "expected a list of file names"),
        (np.array(["a", "b", "a"]), r"a.npy: expected each image once, found 'a' 2 times"),
    ],
)
def test_lists_that_are_none(tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        read_names(saved(tmp_path / "a.npy", array))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (object_array([[0], [5]]), r"query 1: the database has 5 images.*below that, found 5"),
        (object_array([[0], [-1]]), "expected indices below that, found -1"),
        (object_array([[0], [0.5]]), "expected whole numbers, found"),
        (object_array([[0], [0, np.nan]]), "expected whole numbers, found"),
        (object_array([[0], [np.inf]]), "expected whole numbers, found"),
        (object_array([[0], [5.0]]), "below that, found 5"),
        (object_array([[0], "x"]), "expected whole numbers, found 'x'"),
        (object_array([[0], [[1], [2, 3]]]), "expected whole numbers"),
        (object_array([[0]]), "expected the positives of 2 queries, found 1 entries"),
        (np.array(3), "expected the positives of 2 queries, found 1 entries"),
        (np.eye(2, 5), r"query 0: .* below that, found a 0 or 1 for each; give np.flatnonzero"),
        (object_array([[3], [0, 0, 1, 1, 0]]), "query 1: .* found a 0 or 1 for each"),
    ],
)
def test_positives_that_are_none(tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        read_positives(saved(tmp_path / "a.npy", array), 2, 5)


@pytest.mark.parametrize(
    ("dtype", "most"),
    [("u1", 256), ("i2", 32_768), ("u2", 65_536), ("f2", 2049), ("f4", 2**24 + 1)],
)
def test_indices_of_a_type_too_small_for_the_database(tmp_path, dtype, most):
    file = saved(tmp_path / "a.npy", object_array([np.array([7], dtype), []]))
    assert read_positives(file, 2, most)[0].tolist() == [7]
    with pytest.raises(InputError, match=f"has {most + 1:,} images, expected .* as int64, found"):
        read_positives(file, 2, most + 1)
    with pytest.raises(InputError, match=f"has {most + 1:,} images, expected .* as int64, found"):
        read_indices(saved(tmp_path / "b.npy", np.array([7], dtype)), most + 1, "a list")
    cells = object_array([np.array([7], dtype), np.array([most], "i4")])  # MATLAB's, by SciPy
    assert read_positives(saved(file, cells), 2, most + 1)[1].tolist() == [most]

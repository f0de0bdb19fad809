"""Pickles whose operations alone would harm: refused before anything is built."""

import io
import pickle
import struct
import time

import pytest

from mixvpr_jax.conversion import restricted_pickle
from mixvpr_jax.conversion.restricted_pickle import BROKEN, Inert, load, name_of, stand_in


def nothing(name):
    """Every name stands for something that makes an inert value."""
    return stand_in(name, lambda *arguments: Inert())


def loaded(pickled):
    return load(io.BytesIO(pickled), nothing)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol):
    value = {"a": [1, 2.5, None, True], (1, "b"): (2, 3), "large": -(10**40), "text": "ü" * 300}
    assert loaded(pickle.dumps(value, protocol)) == value


def test_pickles_in_a_row():
    stream = io.BytesIO(b"".join(pickle.dumps(value, 4) for value in ("a" * 500, [1], "c")))
    assert [load(stream, nothing) for _ in range(3)] == ["a" * 500, [1], "c"]
    assert stream.read() == b""


def test_names_are_never_more_than_stand_ins():
    found = loaded(b"cos\nsystem\n.")
    assert issubclass(found, Inert) and name_of(found) == "os system"
    assert type(loaded(b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.")) is Inert


HOSTILE = {
    "a state for a name": b"cnumpy\nfloat32\n}b.",
    "attributes for a name": b"cnumpy\nfloat32\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "a state for a plain value": b"]}b.",
    "a state for what has none": b"cx\ny\n)R}b.",
    "an object as a key": b"}cx\ny\n)RK\x01s.",
    "a call of what was called": b"cx\ny\n)R)R.",
    "an object of no type": b"K\x01)\x81.",
    "a frame that ends within a value": b"\x80\x04\x95" + struct.pack("<Q", 3) + b"X\x09\0\0\0.",
    "bytes of no end": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "memory far from what is there": b"K\x01r" + struct.pack("<I", 2**31) + b".",
    "values below a mark": b"K\x01(\x85.",
    "a mark taken for a value": b"K\x01(0.",
    "an operation of old pickles": b"(icos\nsystem\n.",
    "an extension": b"\x82\x01.",
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_operations(pickled):
    with pytest.raises(ValueError, match=f"{BROKEN}|which no data need"):
        loaded(pickled)


def test_frames_do_not_steer_the_reading():
    """An Unpickler drops the rest of a frame that ends within a value, and reads on."""
    hidden = b"X\x08\x00\x00\x00" + b"cos\na\n0."
    framed = b"\x80\x04\x95" + struct.pack("<Q", 6) + hidden
    assert loaded(framed + b".") == "cos\na\n0."


def test_tuples_within_tuples():
    for count, fits in ((2000, True), (4000, False)):
        pickled = b"}" + b")" + b"\x85" * count + b"K\x01s."
        if fits:
            assert len(loaded(pickled)) == 1
        else:
            with pytest.raises(ValueError, match="operations"):
                loaded(pickled)


def test_tuples_that_unfold():
    twice = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    with pytest.raises(ValueError, match="operations"):
        loaded(b"}" + twice + b"K\x01s.")


def test_keys_of_one_hash():
    """Each would be compared with all before it."""
    modulus = 2**61 - 1  # of Python's hashes of whole numbers
    keys = b"".join(
        b"\x8a\x0c" + ((index + 10) * modulus).to_bytes(12, "little") + b"N"
        for index in range(20_000)
    )
    start = time.monotonic()
    with pytest.raises(ValueError, match="operations"):
        loaded(b"}(" + keys + b"u.")
    assert time.monotonic() - start < 5


def test_operations_are_counted(monkeypatch):
    pickled = b"\x80\x02](" + 16 * b"N" + b"e."
    monkeypatch.setattr(restricted_pickle, "MOST_OPERATIONS", 20)
    assert loaded(pickled) == [None] * 16
    monkeypatch.setattr(restricted_pickle, "MOST_OPERATIONS", 19)
    with pytest.raises(ValueError, match="a pickle of more than 19 operations"):
        loaded(pickled)

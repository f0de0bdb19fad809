"""Files of NumPy (.npy) from strangers: arrays of numbers, text and arrays, and nothing else."""

from __future__ import annotations

import io
import math
import tokenize
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from mixvpr_jax.datasets.pickled_arrays import elements, load_array
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_KINDS = "biufUS"


def read_array(path: AnyPath) -> np.ndarray:
    """Reads an array, of objects too, without executing what the file says.

    `numpy.load(allow_pickle=True)` runs any function that an array of objects names. This follows
    none: see `pickled_arrays`. What the header promises is checked against the file's size before
    any memory is taken for it.

    Raises:
        InputError: No such file, or one that is no array of numbers, text or arrays.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: expected a NumPy array (.npy), {reason}") from None
    try:
        return _parse(content)
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: expected a NumPy array (.npy), found {reason}") from None


def _parse(content: bytes) -> np.ndarray:
    if not content.startswith(npy.MAGIC_PREFIX):
        raise ValueError(_what_else(content))
    stream = io.BytesIO(content)
    shape, fortran, dtype = _header(stream)
    body = content[stream.tell() :]
    if dtype.kind == "O":
        array = load_array(body)
        if array.dtype != object or array.shape != shape:
            raise ValueError(f"shape {array.shape} where the header says {shape}")
        return array
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"elements of type {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise ValueError(f"{len(body):,} bytes where shape {shape} of {dtype} takes {expected:,}")
    return elements(body, dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    try:
        shape, fortran, dtype = _HEADERS[version](stream)
    except (SyntaxError, TypeError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise ValueError("a header that is broken") from error
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype


def _what_else(content: bytes) -> str:
    """What people find in place of a file that a website or Git should have given them."""
    start = content[:200].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; fetch the file itself"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page; download the file again"
    return "an empty file" if not content else "something else"

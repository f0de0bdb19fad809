"""Files that take as much memory as they can: no more than SECURITY.md says."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch_or_skip as torch
from fuzzing import BESIDES, MEBIBYTE, PICKLE_TIMES, PIXEL_BYTES, TIMES, allowed, line_of
from PIL import Image
from test_fuzz_arrays import objects, saved, with_header

from mixvpr_jax import preprocess
from mixvpr_jax.conversion.formats import read_checkpoint
from mixvpr_jax.conversion.key_table import to_flax
from mixvpr_jax.data.gsv_cities import COLUMNS, read_places
from mixvpr_jax.datasets import mat_files
from mixvpr_jax.datasets.ground_truth import read_names, read_positives
from mixvpr_jax.datasets.mat_files import read_variable
from mixvpr_jax.preprocess import Preprocess, decode_image

COUNT = 50_000


def read_all(path):
    to_flax(read_checkpoint(path).state)


def test_tensors_of_one_storage(tmp_path):
    half = torch.ones(3000, 1000, dtype=torch.float16)
    names = ("backbone.model.conv1.weight", "aggregator.row_proj.weight")
    for zipped in (True, False):
        path = tmp_path / "model.ckpt"
        torch.save(dict.fromkeys(names, half), path, _use_new_zipfile_serialization=zipped)
        line_of(read_all, path, memory=allowed(path.read_bytes(), ".ckpt"))


@pytest.mark.parametrize("operation", [b"}", b"]", b"\x8f", b"N\x94", b"}\x94"])
def test_pickles_of_nothing(tmp_path, operation):
    """A byte each for an empty dictionary, a list, a set, a memory of None."""
    path = tmp_path / "model.ckpt"
    content = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    path.write_bytes(content + b"\x80\x04](" + operation * (2 * COUNT) + b"e.")
    assert line_of(read_checkpoint, path, memory=BESIDES + PICKLE_TIMES * path.stat().st_size)


UNWRAPPED = b"h\x01)\x81}X\x08\x00\x00\x00_content%ssb"
SHARED = {
    "sets": (b"cbuiltins\nset\n", b"h\x01h\x00\x85R"),
    "dictionaries": (b"ccollections\nOrderedDict\n", b"h\x01h\x02\x85R"),
    "sizes": (b"ctorch\nSize\n", b"h\x01h\x00\x85R"),
    "texts as bytes": (b"c_codecs\nencode\n", b"h\x01h\x04X\x06\x00\x00\x00latin1\x86R"),
    "counters": (b"ccollections\nCounter\n", b"h\x01h\x03\x85R"),
    "frozen sets": (b"cbuiltins\nfrozenset\n", b"h\x01h\x00\x85R"),
    "deques": (b"ccollections\ndeque\n", b"h\x01h\x00\x85R"),
    "settings": (b"cargparse\nNamespace\n", b"h\x01)\x81h\x03b"),
    "OmegaConf's settings": (b"comegaconf.dictconfig\nDictConfig\n", UNWRAPPED % b"h\x03"),
    "OmegaConf's lists": (b"comegaconf.listconfig\nListConfig\n", UNWRAPPED % b"h\x00"),
    "paths": (b"cpathlib\nPosixPath\n", b"h\x01h\x00\x85R"),
}


@pytest.mark.parametrize("name", SHARED)
def test_calls_that_share_what_they_are_given(tmp_path, name):
    """Ten thousand times the same list, or the same dictionary."""
    maker, call = SHARED[name]
    numbers = b"".join(b"J" + struct.pack("<i", index) for index in range(COUNT))
    pairs = b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(COUNT // 4))
    items = b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(COUNT // 4))
    text = b"X" + struct.pack("<I", COUNT) + b"a" * COUNT
    shared = b"](%seq\x00%sq\x01](%seq\x02}(%suq\x03%sq\x04" % (numbers, maker, pairs, items, text)
    path = tmp_path / "model.ckpt"
    content = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    path.write_bytes(content + b"\x80\x04(" + shared + 10_000 * call + b"t.")
    assert line_of(read_checkpoint, path, memory=BESIDES + PICKLE_TIMES * path.stat().st_size)


ARRAYS = {
    "numbers": objects(*[index % 9 for index in range(COUNT)]),
    "lists": objects(*[[index % 9] for index in range(COUNT)]),
    "arrays": objects(*[np.array([index % 9], np.int8) for index in range(COUNT // 4)]),
    "bytes": (np.arange(COUNT) % 9).astype(np.int8),
    "names": np.array(["a"] * COUNT),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_little(tmp_path, name):
    path = tmp_path / "a.npy"
    path.write_bytes(saved(ARRAYS[name]))
    limit = allowed(path.read_bytes(), ".npy")
    line_of(read_names, path, memory=limit)
    line_of(read_positives, path, len(ARRAYS[name]), 9, memory=limit)


def test_references_to_large_arrays(tmp_path):
    """Scalars of one text, lists of one array: each two bytes more."""
    text = b"B" + struct.pack("<I", 4 * COUNT) + b"A\0\0\0" * COUNT + b"q\x03"
    dtype = b"cnumpy\ndtype\nX\x06\x00\x00\x00U50000\x85Rq\x02"
    scalars = b"h\x01h\x02h\x03\x86R" * 1000
    state = b"(K\x01M\xe8\x03\x85cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R\x89](" + scalars + b"etb."
    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    scalar = b"cnumpy.core.multiarray\nscalar\nq\x01"
    pickled = b"\x80\x04" + scalar + dtype + text + begin + state
    path = tmp_path / "a.npy"
    path.write_bytes(with_header(pickled, "(1000,)"))
    line = line_of(read_names, path, memory=allowed(path.read_bytes(), ".npy"))
    assert line and "more than 16 times" in line


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def cells_of(item, compressed):
    count = 4 * MEBIBYTE // len(item)
    head = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", count, 1))
    content = element(14, head + struct.pack("<HH4s", 1, 1, b"v") + item * count)
    if compressed:
        packed = zlib.compress(content)
        content = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB".ljust(124) + b"\0\1IM" + content


def matrix(kind, shape, rest):
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *shape))
    return element(14, head + struct.pack("<HH4s", 1, 0, b"") + rest)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "item",
    [
        element(14, b""),
        matrix(6, (1, 1), struct.pack("<HH4s", 2, 1, b"\5")),
        matrix(4, (1, 2), struct.pack("<HH4s", 16, 2, b"ab")),
        matrix(1, (0, 0), b""),
    ],
    ids=["nothing", "number", "text", "cells"],
)
def test_cells_of_little(monkeypatch, item, compressed):
    monkeypatch.setattr(mat_files, "MAX_BYTES", 5 * MEBIBYTE)
    content = cells_of(item, compressed)
    held = mat_files.MAX_BYTES if compressed else len(content)
    line_of(read_variable, content, "v", memory=BESIDES + (TIMES[".mat"] // 2) * held)


def test_tables_of_short_rows_and_a_long_one(tmp_path):
    rows = [f"1,1,1,{bearing},R,1,1," for bearing in range(COUNT // 4)]
    rows += [f"1,1,1,0,{'R' * 220},1,1,a"]
    (tmp_path / "Dataframes").mkdir()
    table = tmp_path / "Dataframes" / "Rome.csv"
    table.write_text("\n".join([",".join(COLUMNS), *rows]))
    line_of(read_places, tmp_path, ["Rome"], memory=allowed(table.read_bytes(), ".csv"))


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("I;16", "PNG", {}),
        ("I;16", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "tiff_lzw", "tiffinfo": {274: 6}}),
        ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        ("RGBA", "WEBP", {"quality": 1, "method": 0}),
    ],
)
def test_large_images_of_one_colour(mode, kind, options):
    stream, size = io.BytesIO(), (2600, 2000)
    Image.new(mode, size).save(stream, kind, **options)
    limit = BESIDES + PIXEL_BYTES * size[0] * size[1]
    assert size[0] * size[1] < preprocess.MAX_PIXELS

    def resized():
        Preprocess((8, 8)).resize(decode_image(stream.getvalue(), "a"))

    assert line_of(resized, memory=limit) is None

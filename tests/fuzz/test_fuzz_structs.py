"""Ground truth in .mat files from strangers."""

import io
import zlib

import numpy as np
import pytest
import scipy.io
from benchmark_trees import cells
from breaking import broken
from fuzzing import allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st

from mixvpr_jax.datasets import BENCHMARKS
from mixvpr_jax.datasets.ground_truth import read_struct

NAMES = [f"000/00082{i}_pitch1_yaw1.jpg" for i in range(3)]


def struct_file(compressed=False, **changes):
    struct = {
        "whichSet": "test",
        "dbImageFns": cells(NAMES),
        "utmDb": np.array([(585e3 + i, 4477e3) for i in range(3)]).T,
        "qImageFns": cells(NAMES[:2]),
        "utmQ": np.array([(585e3 + i, 4477e3) for i in range(2)]).T,
        "numImages": 3.0,
        "numQueries": 2.0,
        "posDistThr": 25.0,
    } | changes
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"dbStruct": struct}, do_compression=compressed)
    return stream.getvalue()


FILES = [
    struct_file(),
    struct_file(utmDb=np.zeros((2, 3), np.int32), posDistThr=np.float32(25)),
    struct_file(utmDb=np.zeros((3, 2)), qImageFns=np.array(NAMES[:2])),
]
OTHERS = [
    b"<!DOCTYPE html>",
    b"version https://git-lfs.github.com/spec/v1\n",
    b"",
    b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n",
]
TAGS = [kind.to_bytes(4, "little") for kind in (*range(1, 19), 2**16 + 1)]
FLAGS = [bytes([kind, flag, 0, 0]) for kind in range(1, 18) for flag in (0, 2, 8, 15)]


@st.composite
def compressed(draw):
    """The same inside of what MATLAB compresses: zlib's own checksum does not shield it."""
    content = draw(broken(FILES, TAGS + FLAGS))
    packed = zlib.compress(content[128:])
    return content[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed


def read_positives(path):
    read_struct(path, BENCHMARKS["pitts30k-test"], [[path.parent]] * 2)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    path = tmp_path_factory.mktemp("structs") / "pitts.mat"

    def read_as(content):
        path.write_bytes(content)
        limit = allowed(content, ".mat")
        return line_of(read_positives, path, memory=limit, inside=path.parent)

    return read_as


SEEDS = kept_seeds(".mat")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(read, name):
    assert read(SEEDS[name])


@campaign(400)
@given(st.one_of(broken([*FILES, *OTHERS], TAGS + FLAGS), compressed()))
def test_structs(read, content):
    read(content)

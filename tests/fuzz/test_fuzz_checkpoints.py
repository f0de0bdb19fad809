"""Checkpoints from strangers: .ckpt and .pth, zipped or older, and .safetensors."""

import io
import json
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from breaking import broken
from fuzzing import PICKLE_TIMES, allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st

from mixvpr_jax.conversion import convert_checkpoint


def small_state():
    """Names of a checkpoint, and hardly any numbers."""
    names = ["backbone.model.conv1.weight", "backbone.model.bn1.running_var"]
    names += [f"backbone.model.layer{s}.0.conv2.weight" for s in (1, 2)]
    names += ["aggregator.mix.0.mix.1.weight", "aggregator.row_proj.weight"]
    names += ["aggregator.channel_proj.weight"]
    return {name: torch.arange(8.0).reshape(2, 4) for name in names}


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def lightning(state):
    return {
        "epoch": 3,
        "state_dict": OrderedDict(state),
        "hyper_parameters": {"agg_config": {"in_h": 20, "in_w": 20}, "layers_to_crop": [4]},
        "lr_schedulers": [{"milestones": Counter([5, 10]), "size": torch.Size([1, 2])}],
    }


STATE = small_state()
HALF = {name: tensor.to(torch.bfloat16) for name, tensor in STATE.items()}
PICKLES = [
    saved(content, _use_new_zipfile_serialization=zipped)
    for content in (STATE, lightning(STATE), HALF)
    for zipped in (True, False)
]
ZIPS = PICKLES[::2]
SAFETENSORS = [
    safetensors.numpy.save({name: tensor.numpy() for name, tensor in STATE.items()}),
    safetensors.numpy.save({"conv1.weight": np.ones((2, 0), np.float16)}, metadata={"a": "b"}),
]
OTHERS = [
    b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"",
]
GLOBALS = (
    "os system", "posix system", "builtins eval", "builtins bytearray", "builtins set",
    "collections OrderedDict", "collections Counter", "torch Tensor", "torch Size", "torch device",
    "torch FloatStorage", "torch.storage UntypedStorage", "torch FloatTensor", "torch float32",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2",
    "torch.nn.parameter Parameter", "_codecs encode", "torch.serialization _get_layout",
)  # fmt: skip
PIECES = [
    *(f"c{name}\n".replace(" ", "\n").encode() for name in GLOBALS),
    *b"R 0 1 2 b a e s u t } ] ) ( Q K\x05 h\x01 q\x01 \x85 \x86 \x87 \x81 N .".split(),
    *(b"J" + struct.pack("<i", value) for value in (-1, 0, 10**6, 2**31 - 1)),
    b"\x8a\x08" + struct.pack("<q", 2**62),
    b"J\x00\x00\x00\x40\x85",
    *OTHERS[:2],
]  # fmt: skip


@st.composite
def zipped(draw):
    """An archive whose entries were broken before they were put together, its checksums right."""
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(ZIPS)))) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries:
            if name.endswith("data.pkl") or draw(st.integers(0, 9)) == 0:
                content = draw(broken([content], PIECES))
            if draw(st.integers(0, 19)) == 0:
                name = draw(
                    st.sampled_from((name + "x", "../" + name, name.upper(), entries[0][0]))
                )
            how = zipfile.ZIP_DEFLATED if draw(st.integers(0, 9)) == 0 else zipfile.ZIP_STORED
            with warnings.catch_warnings(action="ignore"):  # of a name that is there twice
                archive.writestr(zipfile.ZipInfo(name), content, how)
    return stream.getvalue()


@st.composite
def headed(draw):
    """A .safetensors file whose header says something else."""
    content = draw(st.sampled_from(SAFETENSORS))
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    number = st.sampled_from((0, 1, 8, 32, -1, 2**31, 2**63, 2**64 - 1, 2**70, 1.5, "1", None))
    for name in list(header):
        if draw(st.integers(0, 3)) == 0:
            field = draw(st.sampled_from(("dtype", "shape", "data_offsets", "name", "gone")))
            entry = header[name] = dict(header[name])
            if field == "dtype":
                kinds = ("F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "C64", "BOOL", "U64", "x", 1)
                entry["dtype"] = draw(st.sampled_from(kinds))
            elif field in ("shape", "data_offsets"):
                entry[field] = draw(st.lists(number, max_size=4))
            elif field == "name":
                other = draw(
                    st.sampled_from(["__metadata__", "conv1.weight", "a\nb", "\x1b[2J", ""])
                )
                header[other] = header.pop(name)
            else:
                del header[name]
    text = json.dumps(header).encode()
    given_length = (
        len(text) if draw(st.integers(0, 9)) else draw(st.sampled_from((0, 1, 2**40, 2**64 - 1)))
    )
    return struct.pack("<Q", given_length) + text + body


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")

    def read_as(content, suffix):
        path = folder / f"model{suffix}"
        path.write_bytes(content)
        limit = allowed(content, suffix) + PICKLE_TIMES * 4096
        return line_of(convert_checkpoint, path, memory=limit, inside=folder)

    for content in (PICKLES[0], SAFETENSORS[0]):
        read_as(content, ".ckpt")  # what PyTorch loads for the first time is no concern
    return read_as


SEEDS = kept_seeds(".ckpt", ".safetensors")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(read, name):
    assert read(SEEDS[name], Path(name).suffix)


@campaign(400)
@given(st.one_of(broken(PICKLES, PIECES), zipped()))
def test_checkpoints(read, content):
    read(content, ".ckpt")


@campaign(300)
@given(st.one_of(broken([*SAFETENSORS, *OTHERS]), headed()))
def test_safetensors(read, content):
    read(content, ".safetensors")

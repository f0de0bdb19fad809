"""Checkpoints from strangers: .ckpt and .pth, zipped or older, and .safetensors."""

import io
import json
import math
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch_or_skip as torch
from breaking import broken
from flax import nnx
from fuzzing import PICKLE_TIMES, allowed, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st
from other_libraries import omegaconf

from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.conversion.formats import Checkpoint, read_checkpoint
from mixvpr_jax.conversion.infer import infer_config
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.conversion.layouts import LAYOUTS
from mixvpr_jax.models.config import ConvAPConfig, GeMConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.models.vpr import VPRModel


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
        "best": [np.float64(1), np.arange(3), Path("a"), Namespace(lr=1), defaultdict(list)],
        "state_dict": OrderedDict(state),
        "hyper_parameters": {"agg_config": {"in_h": 20, "in_w": 20}, "layers_to_crop": [4]},
        "lr_schedulers": [{"milestones": Counter([5, 10]), "size": torch.Size([1, 2])}],
    }


def hydras(state, **options):
    with pytest.MonkeyPatch.context() as monkeypatch:
        create, content = omegaconf(monkeypatch), lightning(state)
        return saved(content | {"hyper_parameters": create(content["hyper_parameters"])}, **options)


STATE = small_state()
HALF = {name: tensor.to(torch.bfloat16) for name, tensor in STATE.items()}
PICKLES = [
    saved(content, _use_new_zipfile_serialization=zipped)
    for content in (STATE, lightning(STATE), HALF)
    for zipped in (True, False)
]
PICKLES += [hydras(STATE, _use_new_zipfile_serialization=zipped) for zipped in (True, False)]
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
    "numpy dtype", "numpy ndarray", "numpy._core.multiarray scalar", "pathlib PosixPath",
    "numpy._core.multiarray _reconstruct", "argparse Namespace", "collections defaultdict",
    "collections deque", "builtins list", "builtins range", "datetime datetime", "uuid UUID",
    "types SimpleNamespace", "torch._C Generator", "torch.torch_version TorchVersion",
    "omegaconf.dictconfig DictConfig", "omegaconf.listconfig ListConfig", "typing Any",
    "omegaconf.nodes AnyNode", "omegaconf.base Metadata", "_operator getitem",
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


# Hyper-parameters ---------------------------------------------------------------------------------

NAMES = ["agg_config", "agg_arch", "backbone_arch", "layers_to_crop", "aggregator", "backbone"]
NAMES += ["datamodule", "class", "params", "in_h", "in_w", "s1", "s2", "backbone_name"]
NAMES += ["image_size", "val_image_size", "train_image_size"]
ODD = [
    0,
    1,
    2,
    4,
    16,
    20,
    64,
    320,
    -1,
    True,
    None,
    2**31,
    10**400,
    1.5,
    float("nan"),
    "320",
    "MixVPR",
]
ODD += [
    "AVGPool",
    "resnet18",
    "",
    "a\nb",
    b"4",
    np.int64(4),
    np.float64(4),
    Path("x"),
    np.array([4, 4]),
]
ODD += [range(2), torch.Size([64, 64]), torch.ones(2), torch.float32, {1}]


@st.composite
def settings(draw):
    """Nested dictionaries of names that are looked for, some within themselves."""
    value = st.sampled_from(ODD)
    pairs = st.lists(value, max_size=3) | st.tuples(value, value)
    deeper = st.recursive(
        value | pairs,
        lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
        max_leaves=12,
    )
    found = draw(st.dictionaries(st.sampled_from(NAMES), deeper, max_size=8))
    if draw(st.booleans()):
        for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
            within = draw(
                st.sampled_from([item for item in found.values() if type(item) is dict] or [found])
            )
            within[name] = draw(st.sampled_from([found, [found], [found, found]]))
    return found


MODELS = [
    ModelConfig("resnet18", (4,), aggregator, (64, 64))
    for aggregator in (MixVPRConfig(4, 1, 1.0, 2), ConvAPConfig(4), GeMConfig(), None)
]


def shapes(config):
    """The official names and shapes of a model, in arrays that take no memory."""
    model = nnx.eval_shape(lambda: VPRModel(config, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    empty = {".".join(map(str, path)): np.broadcast_to(np.float32(0), x.shape) for path, x in flat}
    return {name: np.broadcast_to(np.float32(0), a.shape) for name, a in to_torch(empty).items()}


STATES = [(config, shapes(config)) for config in MODELS]


@campaign(300)
@given(settings(), settings(), st.sampled_from(STATES))
def test_hyper_parameters(tmp_path_factory, values, of_data, model):
    path = tmp_path_factory.getbasetemp() / "settings.ckpt"
    content = {"state_dict": {"conv1.weight": torch.ones(2)}}
    content |= {"hyper_parameters": values, "datamodule_hyper_parameters": of_data}
    path.write_bytes(saved(content))
    config, state = model

    def infer():
        settings = read_checkpoint(path).settings
        checkpoint = Checkpoint("", LAYOUTS[0], dict(state), settings=settings)
        found = infer_config(checkpoint)
        assert len("".join(checkpoint.notes)) < 2000
        assert found.aggregator == config.aggregator or isinstance(config.aggregator, ConvAPConfig)
        if isinstance(config.aggregator, MixVPRConfig):  # and never another map than there was
            assert math.prod(found.feature_size) == math.prod(config.feature_size)
        assert all(0 < size <= 2**20 for size in found.image_size)

    line_of(infer, memory=allowed(path.read_bytes(), ".ckpt") + PICKLE_TIMES * 4096)


@campaign(300)
@given(st.one_of(broken([*SAFETENSORS, *OTHERS]), headed()))
def test_safetensors(read, content):
    read(content, ".safetensors")

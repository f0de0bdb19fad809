"""Values of other libraries in a checkpoint: read as settings, left aside, or refused as code."""

import argparse
import collections
import datetime
import decimal
import enum
import pathlib
import types
import uuid

import numpy as np
import pytest
import torch_or_skip as torch
from checkpoints import read_file, same_weights, saved
from other_libraries import of_library, omegaconf

from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.errors import InputError

BESIDE = {
    "a float64": np.float64(91.2),
    "a float32": np.float32(91.2),
    "an int64": np.int64(3),
    "a bool": np.bool_(True),
    "a text": np.str_("resnet50"),
    "a date of NumPy": np.datetime64("2026-01-01"),
    "an array": np.array([91.2, 95.0]),
    "an array of columns": np.asfortranarray(np.eye(3)),
    "an array of objects": np.array([None, "a"], object),
    "a dtype": np.dtype("float32"),
    "a type of NumPy": np.float32,
    "a path": pathlib.PosixPath("/x/y"),
    "a path of Windows": pathlib.PureWindowsPath("c:/x"),
    "a defaultdict": collections.defaultdict(list, {"a": [1]}),
    "settings": argparse.Namespace(lr=1, path=pathlib.PosixPath("/x")),
    "a namespace": types.SimpleNamespace(a=1),
    "a range": range(3),
    "a slice": slice(1, 2),
    "a moment": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a day": datetime.date(2026, 1, 1),
    "a duration": datetime.timedelta(1),
    "a deque": collections.deque([1.0], 3),
    "a frozenset": frozenset({1}),
    "a decimal": decimal.Decimal("1.5"),
    "an id": uuid.UUID(int=3),
    "a version": torch.__version__,
    "a layout": torch.strided,
    "a torch dtype": torch.bfloat16,
    "a size": torch.Size([1, 2]),
    "a device": torch.device("cuda:0"),
    "a state of torch": torch.get_rng_state(),
    "a generator": torch.Generator(),
    "a state of NumPy": np.random.get_state(),
    "a generator of NumPy": np.random.default_rng(0),
    "a type": int,
}


@pytest.mark.parametrize("value", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_values_beside_the_weights_do_not_matter(path, state, value, protocol):
    few = {name: state[name] for name in list(state)[:3]}
    content = {"state_dict": few, "beside": {"deeper": [value]}}
    for zipped in (True, False):
        options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
        torch.save(content, path, **options)
        read = read_file(path)["state_dict"]
        assert all(np.array_equal(read[name], tensor) for name, tensor in few.items())


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "function",
    [
        torch.optim.lr_scheduler.OneCycleLR._annealing_cos,
        torch.optim.swa_utils.SWALR._linear_anneal,
    ],
)
def test_functions_of_schedulers_do_not_matter(path, state, function, protocol):
    """Schedulers of PyTorch saved them: OneCycleLR before 2.4, SWALR in 2.8 still."""
    content = {"state_dict": state, "lr_schedulers": [{"anneal_func": function}]}
    torch.save(content, path, pickle_protocol=protocol)
    assert same_weights(convert_checkpoint(path).model, state)


@pytest.mark.parametrize("by_name", [True, False])
def test_torchvisions_filters_are_read(path, state, monkeypatch, by_name):
    """Python 3.11 saves an enum's member by its name, others by its value."""
    kind = of_library(monkeypatch, "torchvision.transforms.functional", "InterpolationMode")

    class Filter:
        def __reduce__(self):
            return (getattr, (kind, "BICUBIC")) if by_name else (kind, ("bicubic",))

    data = {"image_size": (64, 64), "interpolation": Filter()}
    content = {"state_dict": state, "datamodule_hyper_parameters": data}
    config = convert_checkpoint(saved(path, content)).model.config
    assert config.interpolation == "bicubic" and config.image_size == (64, 64)


def test_values_left_aside_are_counted(path, state):
    values = [np.array([1.0]), pathlib.PosixPath("/x"), pathlib.PosixPath("/y")]
    conversion = convert_checkpoint(saved(path, {"state_dict": state, "beside": values}))
    assert (
        "note: 3 values beside the weights left aside "
        f"(numpy._core.multiarray._reconstruct, {pathlib.PosixPath.__module__}.PosixPath)"
        in conversion.summary()
    )
    assert "left aside" not in convert_checkpoint(saved(path, state)).summary()


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_weights_that_are_arrays_of_numpy(path, state, key):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    with pytest.raises(InputError, match=r"tensors, found keys .* NumPy .*: save torch.from_numpy"):
        convert_checkpoint(saved(path, arrays if key is None else {key: arrays}))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", [np.zeros((3, 1_500_000), np.uint8), bytes(4_500_000)], ids=type)
def test_values_left_aside_may_be_large(path, state, value, zipped):
    """Such as the descriptors of a database: the second protocol writes them as text."""
    few = {"conv1.weight": state["backbone.model.conv1.weight"]}
    content = {"state_dict": few, "beside": value}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_file(path)["state_dict"]
    assert np.array_equal(read["conv1.weight"], few["conv1.weight"])


@pytest.mark.parametrize("kind", [dict, argparse.Namespace, types.SimpleNamespace])
def test_settings_are_read_whatever_they_lie_in(path, state, kind):
    agg_config = collections.defaultdict(int, {"in_h": np.int64(2), "in_w": np.int32(8)})
    content = {"state_dict": state, "hyper_parameters": kind(agg_config=agg_config)}
    assert convert_checkpoint(saved(path, content)).model.config.feature_size == (2, 8)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("easydict", "EasyDict"),
        ("yacs.config", "CfgNode"),
        ("fvcore.common.config", "CfgNode"),
        ("addict.addict", "Dict"),
        ("mmengine.config.config", "ConfigDict"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_dictionaries_of_libraries_of_settings(path, state, module, kind, protocol, monkeypatch):
    made = of_library(monkeypatch, module, kind, dict)
    config = made(agg_config=made(in_h=2, in_w=8))
    config.note = "an attribute"
    content = {"state_dict": state, "hyper_parameters": config}
    torch.save(content, path, pickle_protocol=protocol)
    assert convert_checkpoint(path).model.config.feature_size == (2, 8)


SETTINGS = {
    "image_size": [32, 128],
    "agg_config": {"in_h": 2, "in_w": 8, "nested": [{"a": (1, None)}]},
    "layers_to_crop": [4],
    "lr": 1e-3,
    "workdir": "???",
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "within",
    [
        lambda settings: settings,
        lambda settings: {"config": settings, "lr": 0.1},
        lambda settings: {name: settings._content[name] for name in list(SETTINGS)[:3]},
        lambda settings: {"agg_config": settings._content["agg_config"]},
    ],
    ids=["themselves", "an argument", "each", "a part"],
)  # a part leads to all of them first, by its parent
def test_settings_of_omegaconf(path, state, within, protocol, zipped, monkeypatch):
    content = {"state_dict": state, "hyper_parameters": within(omegaconf(monkeypatch)(SETTINGS))}
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(content | {"hparams_type": type(content["hyper_parameters"])}, path, **options)
    conversion = convert_checkpoint(path)
    assert conversion.model.config.image_size == (32, 128)
    assert not [note for note in conversion.checkpoint.notes if not note.startswith("images taken")]


def test_settings_of_omegaconf_become_plain(path, state, monkeypatch):
    create = omegaconf(monkeypatch)
    missing = create({})
    missing._content = "${elsewhere}"
    content = {"state_dict": state, "settings": create(SETTINGS), "missing": missing}
    read = read_file(saved(path, content))
    plain = SETTINGS["agg_config"] | {"nested": [{"a": [1, None]}]}
    assert read["settings"] == SETTINGS | {"agg_config": plain}
    assert read["missing"] == {}


def test_settings_of_omegaconf_that_refer_to_others_are_said(path, state, monkeypatch):
    settings = {"image_size": "${data.size}", "agg_config": {"in_h": "${data.h}", "in_w": "???"}}
    settings = omegaconf(monkeypatch)(settings)
    content = {"state_dict": state, "hyper_parameters": settings}
    summary = convert_checkpoint(saved(path, content)).summary()
    assert "note: hyper-parameters: image_size ignored: no valid size" in summary
    assert "note: hyper-parameters: in_h and in_w ignored: no valid size" in summary


def test_lightnings_callbacks_before_1_5(path, state, monkeypatch):
    """Their types were keys."""
    module = "pytorch_lightning.callbacks.model_checkpoint"
    kind = of_library(monkeypatch, module, "ModelCheckpoint")
    saved(path, {"state_dict": state, "callbacks": {kind: {"best_model_score": 0.9}}})
    assert same_weights(convert_checkpoint(path).model, state)
    with pytest.raises(InputError, match="a call of .*ModelCheckpoint as PyTorch makes none"):
        convert_checkpoint(saved(path, {"state_dict": state, "callbacks": kind()}))


class Colour(enum.Enum):
    RED = 1


class Settings:
    """Of a class that nobody else knows."""


@pytest.mark.parametrize("value", [Colour.RED, Settings(), print, bytearray(b"a"), torch.nn.ReLU()])
def test_what_is_no_plain_value_is_still_code(path, state, value):
    line = r"a pickle with code in it, which was not executed: [\w.]+; .* save its state_dict alone"
    line += " with PyTorch, or its settings too, as plain values"
    for content in ({"state_dict": state, "beside": value}, value):
        with pytest.raises(InputError, match=line):
            convert_checkpoint(saved(path, content))

"""What lies around weights: wrapped modules, other dictionaries, values of other libraries."""

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
from checkpoints import CONFIG, read_file, same_weights, saved
from other_libraries import of_library, omegaconf

from mixvpr_jax import CosPlaceConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.conversion import convert_checkpoint, to_state_dict
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.vpr import create_model

# Wrapped modules ----------------------------------------------------------------------------------


def renamed(state, *pairs):
    for old, new in pairs:
        state = {name.replace(old, new, 1): tensor for name, tensor in state.items()}
    return state


WRAPPED = {
    "a compiled backbone": [("backbone.", "backbone._orig_mod.")],
    "a backbone in DDP": [("backbone.", "backbone.module.")],
    "both in both": [
        ("backbone.", "backbone.module._orig_mod."),
        ("aggregator.", "aggregator._orig_mod.module."),
    ],
    "a compiled stage": [("layer2.", "layer2._orig_mod.")],
    "a compiled mixer": [("aggregator.mix.1.", "aggregator.mix.1._orig_mod.")],
    "all of it": [("backbone.", "_orig_mod.backbone."), ("aggregator.", "_orig_mod.aggregator.")],
    "stages in FSDP": [("layer2.0.", "layer2._fsdp_wrapped_module.0._checkpoint_wrapped_module.")],
    "in Lightning's strategy": [
        ("backbone.", "_forward_module.backbone."),
        ("aggregator.", "_forward_module.aggregator."),
    ],
    "in a network": [("backbone.", "net.backbone."), ("aggregator.", "net.aggregator.")],
    "in DDP in a model": [
        ("backbone.", "model.module.backbone."),
        ("aggregator.", "model.module.aggregator."),
    ],
}


@pytest.mark.parametrize("pairs", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_modules(path, state, pairs):
    assert same_weights(convert_checkpoint(saved(path, renamed(state, *pairs))).model, state)


def test_a_wrapped_backbone(path):
    from reference_torch import TorchvisionResNet

    backbone = TorchvisionResNet("resnet18", 4).state_dict()
    for prefix in ("module.", "model._orig_mod.", "backbone."):
        content = {prefix + name: tensor for name, tensor in backbone.items()}
        model = convert_checkpoint(saved(path, content)).model
        assert model.config.aggregator is None
        expected = {f"backbone.model.{name}": tensor for name, tensor in backbone.items()}
        assert same_weights(model, expected)


def test_averaged_weights(path, state):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.batches = torch.nn.BatchNorm1d(1)

    counted = torch.optim.swa_utils.AveragedModel(Network()).state_dict()["n_averaged"]
    content = {"n_averaged": counted} | {f"module.{name}": t for name, t in state.items()}
    conversion = convert_checkpoint(saved(path, content))
    assert same_weights(conversion.model, state)
    assert conversion.checkpoint.dropped["counters of averaged weights"] == ["n_averaged"]


@pytest.mark.parametrize("prefix", ["ema.", "teacher.module.", "a.b."])
def test_two_networks_in_one_state_are_told(path, state, prefix):
    content = state | {prefix + name: tensor for name, tensor in state.items()}
    other = prefix.replace("module.", "") + "backbone.model.conv1.weight"
    with pytest.raises(InputError, match=f"one set of weights, found .* and {other}"):
        convert_checkpoint(saved(path, content))
    alone = {prefix + name: tensor for name, tensor in state.items()}
    assert same_weights(convert_checkpoint(saved(path, alone)).model, state)


def test_the_same_weights_with_and_without_a_wrapper(path, state):
    content = state | renamed(state, ("backbone.", "backbone._orig_mod."))
    with pytest.raises(InputError, match="found both .*model.conv1.* and .*_orig_mod.model.conv1"):
        convert_checkpoint(saved(path, content))


# Dictionaries around them -------------------------------------------------------------------------

KEYS = [
    "model_state_dict",
    "model",
    "net",
    "network",
    "ema",
    "state_dict_ema",
    "model_ema",
    "params",
]


@pytest.mark.parametrize("key", KEYS)
def test_weights_under_a_key(path, state, key):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch_num": 3, "best_r5": 91.5, "optimizer_state_dict": optimizer, key: state}
    conversion = convert_checkpoint(saved(path, content))
    assert same_weights(conversion.model, state)
    assert f"note: weights taken from {key}" in conversion.summary()


def test_weights_two_keys_deep(path, state):
    content = {"epoch": 3, "state": {"model": state, "optimizer": {}}}
    assert same_weights(convert_checkpoint(saved(path, content)).model, state)


@pytest.mark.parametrize("other", ["ema", "model_ema", "teacher"])
def test_several_sets_of_weights_are_told_and_chosen(path, state, other):
    averaged = {name: 2 * tensor for name, tensor in state.items()}
    saved(path, {"model": state, other: averaged})
    with pytest.raises(InputError, match=rf"official.ckpt: .*found model, {other}; say .* --key"):
        convert_checkpoint(path)
    assert same_weights(convert_checkpoint(path, key="model").model, state)
    assert same_weights(convert_checkpoint(path, key=other).model, averaged)
    with pytest.raises(InputError, match="--key none: expected a dictionary .* model, "):
        convert_checkpoint(path, key="none")


def test_lightnings_own_is_taken_and_others_are_said(path, state):
    averaged = {name: 2 * tensor for name, tensor in state.items()}
    content = {"state_dict": state, "callbacks": {"EMA": averaged}, "epoch": 1}
    conversion = convert_checkpoint(saved(path, content))
    assert same_weights(conversion.model, state)
    assert "note: callbacks.EMA left aside, state_dict taken" in conversion.summary()
    assert same_weights(convert_checkpoint(path, key="callbacks.EMA").model, averaged)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("StochasticWeightAveraging", "average_model_state"),
        ("EMA{'decay': 0.999}", "ema_state_dict"),
    ],
)
def test_averages_of_lightnings_callbacks(path, state, name, kind):
    averaged = {name: 2 * tensor for name, tensor in state.items()}
    content = {"state_dict": state, "callbacks": {name: {"n_averaged": 3, kind: averaged}}}
    key = f"callbacks.{name}.{kind}"
    summary = convert_checkpoint(saved(path, content)).summary()
    assert f"note: {key} left aside, state_dict taken (--key says which)" in summary
    assert same_weights(convert_checkpoint(path, key=key).model, averaged)


@pytest.mark.parametrize(
    ("place", "beside"),
    [
        ("callbacks", {"callbacks": {"EMA": {"ema_weights": [torch.ones(3, 2)]}}}),
        ("ema", {"ema": {"decay": 0.99, "shadow_params": (torch.ones(3),)}}),
        ("aggregator", {"aggregator": {"p": torch.ones(1)}}),
    ],
)
def test_tensors_that_no_name_tells_are_said(path, state, place, beside):
    content = {"model": {"net": state}} | beside
    assert f"note: tensors left aside in {place}\n" in summary_of(path, content)
    content = {"model": {"net": state} | beside}
    assert f"note: tensors left aside in model.{place}\n" in summary_of(path, content)


def test_what_training_keeps_is_not_said(path, state):
    moments = {"state": {0: {"exp_avg": torch.ones(3)}}}
    best = {"best_model_score": torch.tensor(0.9)}
    kept = {"optimizer_states": [moments], "rng_state": torch.ones(3), "callbacks": best}
    assert "tensors left aside" not in summary_of(path, {"state_dict": state} | kept)


def summary_of(path, content):
    return convert_checkpoint(saved(path, content)).summary()


def test_the_same_dictionary_twice_is_one_set(path, state):
    assert same_weights(
        convert_checkpoint(saved(path, {"model": state, "net": state})).model, state
    )


def test_values_beside_tensors_are_said(path, state):
    content = state | {"epoch": 3, "metrics": {"recall": [91.5]}, "best": np.float64(3)}
    conversion = convert_checkpoint(saved(path, content))
    assert same_weights(conversion.model, state)
    dropped = conversion.checkpoint.dropped["entries that are no tensors"]
    assert dropped == ["epoch", "metrics", "best"]
    for hidden in ([torch.ones(1)], {"a": ({"b": torch.ones(1)},)}):
        with pytest.raises(InputError, match=r"expected tensors alone .*, found metrics"):
            convert_checkpoint(saved(path, state | {"metrics": hidden}))


# Values of other libraries ------------------------------------------------------------------------

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
    for content in ({"state_dict": state, "beside": value}, value):
        with pytest.raises(InputError, match=line):
            convert_checkpoint(saved(path, content))


# CosPlace and EigenPlaces -------------------------------------------------------------------------

CHILDREN = ["conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4"]


def cosplace(state, head=("aggregation.1.p", "aggregation.3.")):
    """As the authors of CosPlace name them: a backbone's children in a row."""
    content = {}
    for name, tensor in state.items():
        if name.startswith("backbone.model."):
            module, rest = name.removeprefix("backbone.model.").split(".", 1)
            name = f"backbone.{CHILDREN.index(module)}.{rest}"
        name = name.replace("aggregator.gem.p", head[0])
        content[name.replace("aggregator.fc.", head[1])] = tensor
    return content


def weights(config):
    model = create_model(config, seed=2)
    return {name: torch.tensor(array) for name, array in to_state_dict(model).items()}


def test_the_authors_cosplace_and_eigenplaces(path):
    config = ModelConfig("resnet18", (), CosPlaceConfig(64), (512, 512))
    state = weights(config)
    state["aggregator.gem.p"] += 0.25
    bare, whole = cosplace(state), {"epoch_num": 3, "model_state_dict": cosplace(state)}
    for content in (bare, whole):
        conversion = convert_checkpoint(saved(path, content))
        assert conversion.model.config == config
        assert same_weights(conversion.model, state)
        assert "CosPlace, EigenPlaces" in conversion.summary()
        assert "images taken as 512x512, as is usual" in conversion.summary()
    given = convert_checkpoint(path, image_size=(480, 640)).model.config
    assert given.image_size == (480, 640)


def test_the_same_head_in_the_benchmark_of_its_authors(path):
    state = weights(ModelConfig("resnet18", (4,), CosPlaceConfig(64)))
    content = cosplace(state, ("aggregation.0.1.p", "aggregation.1."))
    conversion = convert_checkpoint(saved(path, {"model_state_dict": content}))
    assert same_weights(conversion.model, state)
    assert conversion.model.config.layers_to_crop == (4,)


def test_other_heads_and_backbones_behind_those_names(path):
    state = cosplace(weights(ModelConfig("resnet18", (4,), CosPlaceConfig(64))))
    pooled = {name: t for name, t in state.items() if not name.startswith("aggregation.3")}
    with pytest.raises(InputError, match="expected MixVPR .* found gem"):
        convert_checkpoint(saved(path, pooled))
    other = {n.replace("aggregation.1.p", "aggregation.conv.weight"): t for n, t in state.items()}
    with pytest.raises(InputError, match="left unfilled: aggregator.gem.p; entries left over"):
        convert_checkpoint(saved(path, other))
    twice = state | {"aggregation.1.weight": state["aggregation.3.weight"]}
    with pytest.raises(InputError, match="found both aggregation.3.weight and aggregation.1.weig"):
        convert_checkpoint(saved(path, twice))
    vgg = {f"backbone.{i}.weight": torch.ones(64, 3, 3, 3) for i in (0, 2, 5)}
    with pytest.raises(InputError, match="backbone: expected stages"):
        convert_checkpoint(saved(path, vgg))


@pytest.mark.parametrize("kind", [str, lambda path: path, lambda path: Path(path)])
def test_paths_of_any_kind(tmp_path, state, kind):
    path = tmp_path / "model.ckpt"
    assert convert_checkpoint(kind(saved(path, state))).model.config == CONFIG


class Path:
    """What has a path, and is none."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_the_aggregator_of_another_configuration(path, state):
    with pytest.raises(InputError, match="2x2 make a feature map|16 positions"):
        convert_checkpoint(saved(path, state), image_size=(32, 32))
    assert isinstance(CONFIG.aggregator, MixVPRConfig)

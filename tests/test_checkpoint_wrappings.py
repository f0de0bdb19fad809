"""What lies around weights: wrapped modules, other dictionaries."""

import numpy as np
import pytest
import torch_or_skip as torch
from checkpoints import CONFIG, same_weights, saved

from mixvpr_jax import MixVPRConfig
from mixvpr_jax.conversion import convert_checkpoint
from mixvpr_jax.errors import InputError

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


@pytest.mark.parametrize("value", [lambda tensor: tensor.shape, str, lambda _: 0.05])
def test_dictionaries_that_only_have_the_names_of_weights(path, state, value):
    """Shapes, which DeepSpeed keeps, names of averages, learning rates."""
    names = {name: value(tensor) for name, tensor in state.items()}
    conversion = convert_checkpoint(saved(path, {"module": state, "param_shapes": names}))
    assert same_weights(conversion.model, state)
    summary = summary_of(path, {"state_dict": state, "names": names})
    assert "left aside" not in summary


def test_values_beside_tensors_are_said(path, state):
    content = state | {"epoch": 3, "metrics": {"recall": [91.5]}, "best": np.float64(3)}
    conversion = convert_checkpoint(saved(path, content))
    assert same_weights(conversion.model, state)
    dropped = conversion.checkpoint.dropped["entries that are no tensors"]
    assert dropped == ["epoch", "metrics", "best"]
    for hidden in ([torch.ones(1)], {"weight": torch.ones(1)}, {"a": ({"b": torch.ones(1)},)}):
        line = rf"expected tensors alone .*, found metrics \({type(hidden).__name__}\)"
        with pytest.raises(InputError, match=line):
            convert_checkpoint(saved(path, state | {"metrics": hidden}))


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

"""EfficientNet gives timm's feature maps, in evaluation and in training, and takes its weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from feature_maps import (
    PREFIX,
    channels_first,
    check_graphs,
    golden_error,
    require_close,
    saved,
    state_of,
    without_unused,
)
from flax import nnx
from one_program import describe
from random_models import drawn, shapes_of
from recipe import official_shapes, recipe_state
from reference import in_float64

from mixvpr_jax import GeMConfig, InputError, MixVPRConfig, ModelConfig
from mixvpr_jax.conversion import convert_checkpoint, get_weights
from mixvpr_jax.conversion.formats import read_checkpoint
from mixvpr_jax.conversion.infer import infer_config
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.export.files import export_model
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import EFFICIENTNETS, EfficientNetShape
from mixvpr_jax.models.layers import Conv, sum_of_shifts
from mixvpr_jax.models.vpr import fold
from mixvpr_jax.training.config import OptimizerConfig, StartConfig, TrainConfig
from mixvpr_jax.training.step import parameter_groups

F = torch.nn.functional
TINY = EfficientNetShape(0.05, 0.3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the stages


@pytest.mark.parametrize(
    "arch, dtype, tolerance",
    [
        ("efficientnet_b0", "float32", 1e-5),
        ("efficientnet_b0", "float64", 1e-11),
        ("efficientnet_b2", "float64", 1e-11),
    ],
)
def test_timms_feature_maps(arch, dtype, tolerance, parity):
    parity(f"feature maps of EfficientNet, {dtype}", golden_error(arch, dtype), tolerance)


# A second writing, with PyTorch's own functions ---------------------------------------------------


def by_torch(state, images, training=False):
    """The feature map [b, c, h, w]; training updates the state's running statistics."""

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        options = {"padding": len(weight[0, 0]) // 2, "groups": x.shape[1] // weight.shape[1]}
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, **options)

    def norm(x, name):
        running = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(
            x, *running, state[f"{name}.weight"], state[f"{name}.bias"], training, 0.1, 1e-5
        )

    def excited(x, name):
        inner = F.silu(conv(F.adaptive_avg_pool2d(x, 1), f"{name}.conv_reduce"))
        return x * torch.sigmoid(conv(inner, f"{name}.conv_expand"))

    x = F.silu(norm(conv(images, "conv_stem", 2), "bn1"))
    blocks = {tuple(map(int, n.split(".")[1:3])) for n in state if n.startswith("blocks.")}
    for stage, index in sorted(blocks):
        name, before = f"blocks.{stage}.{index}", x
        stride = STRIDES[stage] if index == 0 else 1
        norms, last = iter(("bn1", "bn2", "bn3")), "conv_pw"
        if stage > 0:
            x, last = F.silu(norm(conv(x, f"{name}.conv_pw"), f"{name}.{next(norms)}")), "conv_pwl"
        x = F.silu(norm(conv(x, f"{name}.conv_dw", stride), f"{name}.{next(norms)}"))
        x = norm(conv(excited(x, f"{name}.se"), f"{name}.{last}"), f"{name}.{next(norms)}")
        if x.shape == before.shape:
            x = x + before
    return F.silu(norm(conv(x, "conv_head"), "bn2"))


@pytest.fixture
def tiny(monkeypatch):
    for mapping in (backbones.EFFICIENTNETS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "tiny", TINY)


def config(size=(75, 43), dtype="float64", aggregator=None):
    return ModelConfig("tiny", (), aggregator, size, dtype)


@pytest.mark.parametrize("size, folded", [((75, 43), False), ((64, 33), True)])
def test_a_second_writing(size, folded, tiny):
    with in_float64():
        model = drawn(config(size))
        images = np.random.default_rng(3).standard_normal((2, *size, 3))
        own = fold(model) if folded else model
        found = np.asarray(describe(own, images))
        state = state_of(model)
    assert found.shape[1:] == (*model.config.feature_size, model.config.feature_channels)
    require_close(found, by_torch(state, channels_first(images)).permute(0, 2, 3, 1))


def test_training_mode(tiny):
    """Feature maps, batch_stats and gradients by the batch's statistics, without its padding."""
    rng = np.random.default_rng(3)
    images = rng.standard_normal((4, 75, 43, 3))
    valid = np.array([True, True, True, False])
    with in_float64():
        model = drawn(config())
        state = state_of(model)
        view = nnx.view(model, use_running_average=False)
        graph, params, statistics = nnx.split(view, nnx.Param, nnx.BatchStat)
        toward = rng.standard_normal((3, *model.config.feature_size, 64))

        @jax.jit
        @partial(jax.grad, has_aux=True)
        def differentiate(params, images, valid, toward):
            model = nnx.merge(graph, params, statistics, copy=True)
            features = model(images, valid)[:3]
            return (features * toward).sum(), (features, nnx.state(model, nnx.BatchStat))

        gradient, (found, moved) = differentiate(params, *map(jnp.asarray, (images, valid, toward)))
        nnx.update(model, gradient, moved)
        ours = state_of(model)
    for name, array in state.items():
        array.requires_grad_("running" not in name)
    expected = by_torch(state, channels_first(images[:3]), training=True).permute(0, 2, 3, 1)
    (expected * torch.from_numpy(toward)).sum().backward()
    require_close(np.asarray(found), expected, 1e-11)
    for name, array in state.items():
        require_close(ours[name].numpy(), array if "running" in name else array.grad, 1e-10)


@pytest.mark.parametrize("size, stride, sides", [(3, 1, (7, 6)), (3, 2, (7, 6)), (5, 2, (8, 3))])
def test_depthwise_convolution_by_shifts(size, stride, sides):
    """That of CPUs and XLA's own, which other platforms take."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((2, *sides, 5)), jnp.float32)
    conv = Conv(5, 5, size, stride=stride, groups=5, dtype="float32", rngs=nnx.Rngs(0))
    shifted = sum_of_shifts(images, conv.kernel[...], stride=stride)
    np.testing.assert_array_equal(conv(images), shifted)
    text = jax.jit(conv).trace(images).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 1
    kernel = torch.from_numpy(np.array(conv.kernel[...].transpose(3, 2, 0, 1)))
    expected = F.conv2d(channels_first(np.array(images)), kernel, None, stride, size // 2, 1, 5)
    np.testing.assert_allclose(shifted, expected.permute(0, 2, 3, 1), atol=1e-6)


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.", PREFIX, f"module.{PREFIX}"])
def test_timms_weights_both_ways(prefix, tmp_path):
    state = recipe_state(official_shapes()["efficientnet_b0"])
    path = saved({prefix + name: array for name, array in state.items()}, tmp_path / "b0.pth")
    converted = convert_checkpoint(path)
    config = converted.model.config
    assert (config.arch, config.aggregator, config.image_size) == (
        "efficientnet_b0",
        None,
        (320, 320),
    )
    assert "backbone: efficientnet_b0\n" in converted.summary()
    assert "dropped: 2 head behind the backbone" in converted.summary()
    back = to_torch(get_weights(converted.model))
    assert {name: array.shape for name, array in back.items()} == {
        PREFIX + name: array.shape for name, array in state.items()
    }
    for name, array in without_unused(state).items():
        np.testing.assert_array_equal(back[PREFIX + name], array)


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_each_of_them_is_inferred(name, tmp_path):
    """By its shapes alone, with MixVPR on it as the official code saves it."""
    config = ModelConfig(name, (), MixVPRConfig(8, 1, 1.0, 2), (64, 64))
    weights = {n: np.zeros(shape, np.float32) for n, shape in shapes_of(config).items()}
    assert infer_config(read_checkpoint(saved(to_torch(weights), tmp_path / "x.pth"))) == config
    widths = {"efficientnet_b2": 1408, "efficientnet_b3": 1536, "efficientnet_b4": 1792}
    assert config.feature_channels == widths.get(name, 1280)


def of_b5():
    """The weights that tell B5: its stem, its head and its last block of each stage."""
    state = {"conv_stem.weight": (48, 3, 3, 3), "conv_head.weight": (2048, 512, 1, 1)}
    for stage, count in enumerate((3, 5, 5, 7, 7, 9, 3)):
        state[f"blocks.{stage}.{count - 1}.bn1.weight"] = (8,)
    return {name: np.zeros(shape, np.float32) for name, shape in state.items()}


def test_weights_that_do_not_fit(tmp_path):
    with pytest.raises(
        InputError,
        match=r"expected one of efficientnet_b0, .*; found a network of timm's with stages of "
        r"\[3, 5, 5, 7, 7, 9, 3\] blocks, a stem of 48 channels and a head of 2048",
    ):
        convert_checkpoint(saved(of_b5(), tmp_path / "b5.pth"))
    state = recipe_state(official_shapes()["efficientnet_b0"])
    head = {
        "aggregator.channel_proj.weight": np.zeros((8, 1024), np.float32),
        "aggregator.row_proj.weight": np.zeros((2, 100), np.float32),
    }
    path = saved({PREFIX + name: a for name, a in state.items()} | head, tmp_path / "x.pth")
    line = "expected 1280 input channels, as efficientnet_b0 gives, found 1024"
    with pytest.raises(InputError, match=line):
        convert_checkpoint(path)
    del state["blocks.3.1.se.conv_expand.bias"]
    with pytest.raises(InputError, match=r"unfilled: .*blocks\.3\.1\.se\.conv_expand\.bias"):
        convert_checkpoint(saved(state, tmp_path / "x.pth"))


def test_weights_that_timms_shapes_do_not_tell_apart(tiny, tmp_path):
    model = drawn(config((64, 64), "float32", GeMConfig()))
    state = to_torch(get_weights(model))
    for told, line in ((None, "taken as tiny"), ("tiny", ""), ("tf_efficientnet_b0", "otherwise")):
        settings = {"backbone_arch": told, "agg_arch": "GeM"} if told else {}
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        torch.save({"state_dict": tensors, "hyper_parameters": settings}, tmp_path / "x.ckpt")
        if told and told.startswith("tf_"):
            with pytest.raises(InputError, match="found tf_efficientnet_b0, which pads"):
                convert_checkpoint(tmp_path / "x.ckpt")
        else:
            assert (line in convert_checkpoint(tmp_path / "x.ckpt").summary()) == bool(line) or told


# Models -------------------------------------------------------------------------------------------


def test_a_model_describes_and_exports(tiny, tmp_path):
    """In float32 and bfloat16, as StableHLO, and as ONNX."""
    model = drawn(config((64, 64), "float32", GeMConfig()))
    images = np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(describe(model, images))
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    narrow = describe(drawn(config((64, 64), "bfloat16", GeMConfig())), images)
    assert (np.asarray(narrow) * expected).sum(1).min() > 0.999
    export_model(model, tmp_path / "m.stablehlo", dtype="float32")
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    np.testing.assert_allclose(program.call(images), expected, atol=1e-6)
    check_graphs(model, images, tmp_path / "m.onnx")
    features = drawn(config((64, 64), "float32"))
    check_graphs(features, images, tmp_path / "features.onnx", all_of_them=False)


@pytest.mark.parametrize("frozen", [None, 0, 2, 4])
def test_stages_that_are_frozen(frozen, tiny):
    """As in the official code: two stages with the stem, and one more for each."""
    model = drawn(config((32, 32), "float32", GeMConfig()))
    groups = parameter_groups(nnx.state(model, nnx.Param), frozen)
    stages = groups["backbone"]["blocks"]
    held = [set(jax.tree.leaves(stages[str(stage)])) == {"frozen"} for stage in range(7)]
    assert held == [frozen is not None and stage <= frozen + 1 for stage in range(7)]
    for part in ("conv_head", "bn2"):
        assert set(jax.tree.leaves(groups["backbone"][part])) == {"trained"}
    with pytest.raises(InputError, match="expected None or 0 to 4 with tiny, found 5"):
        TrainConfig(
            StartConfig("tiny", (), GeMConfig(), (32, 32)),
            optimizer=OptimizerConfig(layers_to_freeze=5),
        )

"""Swin V2 gives timm's feature maps, also in gradients, and takes its weights."""

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
)
from flax import nnx
from one_program import describe
from random_models import drawn, shapes_of
from recipe import official_shapes
from reference import in_float64

from mixvpr_jax import GeMConfig, InputError, MixVPRConfig, ModelConfig
from mixvpr_jax.conversion import (
    convert_checkpoint,
    get_weights,
    to_state_dict,
    weights_hash,
    write_checkpoint,
)
from mixvpr_jax.conversion.key_table import to_torch
from mixvpr_jax.export.files import export_model
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import SwinShape
from mixvpr_jax.models.swin import log_spaced
from mixvpr_jax.training.config import OptimizerConfig, StartConfig, TrainConfig
from mixvpr_jax.training.step import parameter_groups

F = torch.nn.functional
ARCH = "swinv2_base_window12to16_192to256"
TINY = SwinShape(64, 8, (2, 2, 1, 1), (1, 2, 2, 4), 4, (3, 3, 3, 2))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-11)])
def test_timms_feature_map(dtype, tolerance, parity):
    parity(f"feature maps of Swin V2, {dtype}", golden_error(ARCH, dtype), tolerance)


def test_the_official_names_shapes():
    """Of every array, without drawing any."""
    weights = {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in shapes_of(ModelConfig(ARCH, (), None, (256, 256))).items()
    }
    found = {name.removeprefix(PREFIX): array.shape for name, array in to_torch(weights).items()}
    expected = {n: tuple(shape) for n, shape in official_shapes()[ARCH].items()}
    assert found == {n: s for n, s in expected.items() if not n.startswith("head.")}


# A second writing: attention over the whole map, in which most pairs are ruled out ----------------


def spaced(offsets, trained):
    scaled = offsets.float() / (trained - 1) * 8
    return (torch.sign(scaled) * torch.log2(scaled.abs() + 1) / 3).double()


def attention(x, state, name, *, heads, window, shift, trained):
    """Of a map [b, side, side, c]; a pair attends within a window of the shifted map."""
    batch, side, _, width = x.shape
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    shifted = (places - shift) % side
    together = (shifted[:, None] // window == shifted[None] // window).all(-1)
    wrapped = (shifted >= side - shift) if shift else torch.zeros_like(shifted, dtype=torch.bool)
    torn = (wrapped[:, None] != wrapped[None]).any(-1)

    offsets = spaced(shifted[:, None] % window - shifted[None] % window, trained)
    hidden = F.relu(
        F.linear(offsets, state[f"{name}.cpb_mlp.0.weight"], state[f"{name}.cpb_mlp.0.bias"])
    )
    bias = 16 * torch.sigmoid(F.linear(hidden, state[f"{name}.cpb_mlp.2.weight"]))
    bias = bias.permute(2, 0, 1) + torch.where(torn, -100.0, 0.0)

    qkv = F.linear(x.reshape(batch, side**2, width), state[f"{name}.qkv.weight"])
    query, key, value = qkv.split(width, -1)
    query, value = query + state[f"{name}.q_bias"], value + state[f"{name}.v_bias"]
    parts = [p.reshape(batch, side**2, heads, -1).transpose(1, 2) for p in (query, key, value)]
    query, key = (F.normalize(part, dim=-1) for part in parts[:2])
    scale = state[f"{name}.logit_scale"].clamp(max=np.log(100)).exp()
    scores = (query @ key.transpose(-1, -2) * scale + bias).masked_fill(~together, -torch.inf)
    mixed = (scores.softmax(-1) @ parts[2]).transpose(1, 2).reshape(x.shape)
    return F.linear(mixed, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])


def by_torch(state, images, shape):
    """The feature map [b, s, s, c] of images [b, 3, s, s]."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def mlp(x, name):
        x = F.gelu(F.linear(x, state[f"{name}.fc1.weight"], state[f"{name}.fc1.bias"]))
        return F.linear(x, state[f"{name}.fc2.weight"], state[f"{name}.fc2.bias"])

    patches = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = norm(F.conv2d(images, *patches, stride=4).permute(0, 2, 3, 1), "patch_embed.norm")
    for stage, count in enumerate(shape.blocks):
        if stage:
            below = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            weight = state[f"layers.{stage}.downsample.reduction.weight"]
            x = norm(F.linear(torch.cat(below, -1), weight), f"layers.{stage}.downsample.norm")
        window = min(shape.window, x.shape[1])
        for index in range(count):
            block = f"layers.{stage}.blocks.{index}"
            shift = window // 2 if index % 2 and x.shape[1] > window else 0
            options = {"heads": shape.heads[stage], "window": window, "shift": shift}
            options["trained"] = shape.trained_windows[stage]
            x = x + norm(attention(x, state, f"{block}.attn", **options), f"{block}.norm1")
            x = x + norm(mlp(x, f"{block}.mlp"), f"{block}.norm2")
    return norm(x, "norm")


@pytest.fixture
def tiny(monkeypatch):
    for mapping in (backbones.SWINS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "tiny", TINY)


def config(dtype="float32", aggregator=None):
    return ModelConfig("tiny", (), aggregator, (64, 64), dtype)


def test_a_second_writing(tiny):
    """Feature maps and gradients, in float64; some scales are beyond their limit of 100."""
    rng = np.random.default_rng(3)
    images, toward = rng.standard_normal((2, 64, 64, 3)), rng.standard_normal((2, 2, 2, 64))
    with in_float64():
        model = drawn(config("float64"))
        attn = getattr(model.backbone.layers, "1").blocks
        getattr(attn, "0").attn.logit_scale[...] += jnp.array([[[5.0]], [[1.0]]])
        state = state_of(model)
        graph, params = nnx.split(model)

        def objective(params, images, toward):
            found = nnx.merge(graph, params, copy=True)(images)
            return (found * toward).sum(), found

        differentiate = jax.jit(jax.grad(objective, has_aux=True))
        gradient, found = differentiate(params, jnp.asarray(images), jnp.asarray(toward))
        nnx.update(model, gradient)
        ours = state_of(model)
    for array in state.values():
        array.requires_grad_()
    expected = by_torch(state, channels_first(images), TINY)
    (expected * torch.from_numpy(toward)).sum().backward()
    require_close(np.asarray(found), expected)
    for name, array in state.items():
        require_close(ours[name].numpy(), array.grad, 1e-10)
    clamped = ours["layers.1.blocks.0.attn.logit_scale"]
    assert clamped[0] == 0 and clamped[1] != 0


@pytest.mark.parametrize("window, trained", [(16, 12), (8, 6), (7, 8), (4, 1)])
def test_offsets_are_pytorchs_to_the_last_bit(window, trained):
    offsets = torch.arange(1 - window, window)
    expected = spaced(offsets, max(trained, 2)).numpy()
    np.testing.assert_array_equal(log_spaced(window, trained), expected)


# Weights ------------------------------------------------------------------------------------------


def mask(side):
    """Of windows of 4 in a map, shifted by 2: what only the shift brought together."""
    region = np.repeat([0, 1, 2], [side - 4, 2, 2])  # of what lay together
    windows = []
    for top in range(0, side, 4):
        for left in range(0, side, 4):
            rows, columns = region[top : top + 4], region[left : left + 4]
            own = [(row, column) for row in rows for column in columns]
            windows.append([[0.0 if one == other else -100.0 for other in own] for one in own])
    return np.array(windows, np.float32)


def earlier(state, prefix=""):
    """As timm 0.6 names them, with its tables and a classifier."""
    renamed = {}
    for name, array in state.items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) - 1)
        renamed[prefix + ".".join(parts)] = array
    for block, side in (("layers.0.blocks.1", 16), ("layers.1.blocks.1", 8)):
        renamed[f"{prefix}{block}.attn_mask"] = mask(side)
        renamed[f"{prefix}{block}.attn.relative_coords_table"] = np.zeros((1, 7, 7, 2), np.float32)
        renamed[f"{prefix}{block}.attn.relative_position_index"] = np.zeros((16, 16), np.int64)
    renamed[f"{prefix}head.weight"] = np.zeros((1000, 64), np.float32)
    return renamed


@pytest.mark.parametrize("prefix", ["", "model.", PREFIX, f"module.{PREFIX}"])
def test_weights_both_ways(prefix, tiny, tmp_path):
    model = drawn(config())
    state = {name.removeprefix(PREFIX): a for name, a in to_torch(get_weights(model)).items()}
    path, size = tmp_path / "swin.pth", (64, 64)
    for theirs in (earlier(state, prefix), {prefix + name: a for name, a in state.items()}):
        converted = convert_checkpoint(saved(theirs, path), image_size=size)
        assert converted.model.config == model.config
        back = to_torch(get_weights(converted.model))
        assert back.keys() == {PREFIX + name for name in state}
        for name, array in state.items():
            np.testing.assert_array_equal(back[PREFIX + name], array)
        summary = converted.summary()
        assert "note: backbone taken as tiny: weights do not tell the windows" in summary
    with pytest.raises(InputError, match="OpenVPRLab: expected a ResNet, or DINOv2 .*, found tiny"):
        to_state_dict(model, "openvprlab", 0)


def test_the_names_of_the_official_codes_timm(tiny, tmp_path):
    """Of 0.6.12, whose `load_state_dict(strict=True)` takes them: later ones give other axes."""
    model = drawn(config("float32", GeMConfig()))
    whole = {n.removeprefix(PREFIX): a for n, a in to_torch(get_weights(model)).items()}
    pooled = whole.pop("aggregator.p")
    computed = ("relative_coords_table", "relative_position_index", "head.weight")
    expected = {n: a for n, a in earlier(whole, PREFIX).items() if not n.endswith(computed)}
    expected["aggregator.p"] = pooled
    for name in ("x.ckpt", "x.safetensors"):
        write_checkpoint(model, tmp_path / name)
        again = convert_checkpoint(tmp_path / name, image_size=(64, 64)).model
        assert again.config == model.config
        assert weights_hash(get_weights(again)) == weights_hash(get_weights(model))
    found = torch.load(tmp_path / "x.ckpt")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_name_that_hyper_parameters_tell(tmp_path, monkeypatch):
    name = f"{ARCH}_22kft1k"
    for one in (ARCH, name):
        for mapping in (backbones.SWINS, backbones.BACKBONES):
            monkeypatch.setitem(mapping, one, TINY)
    model = drawn(ModelConfig(name, (), MixVPRConfig(8, 1, 1.0, 2), (64, 64)))
    weights = {n: torch.from_numpy(np.array(a)) for n, a in to_torch(get_weights(model)).items()}
    told = {"backbone_arch": name, "layers_to_crop": [], "agg_arch": "MixVPR"}
    content = {"state_dict": weights, "hyper_parameters": told}
    torch.save(content, tmp_path / "x.ckpt")
    converted = convert_checkpoint(tmp_path / "x.ckpt", image_size=(64, 64))
    assert converted.model.config == model.config
    assert "windows" not in converted.summary()


@pytest.mark.parametrize(
    "added, line",
    [
        (
            {"layers.3.blocks.1.norm1.weight": (64,)},
            r"found a Swin Transformer of 8 channels and stages of \(2, 2, 1, 2\) blocks",
        ),
        (
            {"layers.0.blocks.0.attn.relative_position_bias_table": (49, 1)},
            "expected one of swinv2_.*; found a Swin Transformer V1",
        ),
        ({"layers.0.blocks.0.attn.gate": (1,)}, r"left over: .*attn\.gate"),
    ],
)
def test_weights_that_do_not_fit(added, line, tiny, tmp_path):
    state = to_torch(get_weights(drawn(config())))
    state |= {PREFIX + name: np.zeros(shape, np.float32) for name, shape in added.items()}
    with pytest.raises(InputError, match=line):
        convert_checkpoint(saved(state, tmp_path / "x.pth"), image_size=(64, 64))


# Models -------------------------------------------------------------------------------------------


def test_a_model_describes_and_exports(tiny, tmp_path):
    """In float32 and bfloat16, as StableHLO, and as ONNX."""
    model = drawn(config("float32", GeMConfig()))
    images = np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(describe(model, images))
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    narrow = drawn(config("bfloat16", GeMConfig()))
    assert (np.asarray(describe(narrow, images)) * expected).sum(1).min() > 0.999
    export_model(model, tmp_path / "m.stablehlo", dtype="float32")
    program = jax.export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes()))
    np.testing.assert_allclose(program.call(images), expected, atol=2e-6)
    check_graphs(model, images, tmp_path / "m.onnx")
    features = drawn(config())
    check_graphs(features, images, tmp_path / "features.onnx", all_of_them=False)


def test_other_sizes():
    line = f"image_size: expected images of 256x256 with {ARCH}, found 320x320; closest: 256x256"
    with pytest.raises(InputError, match=line):
        ModelConfig(ARCH, (), GeMConfig())
    with pytest.raises(InputError, match=rf"layers_to_crop: expected \(\) with {ARCH}"):
        ModelConfig(ARCH, (4,), GeMConfig(), (256, 256))


@pytest.mark.parametrize("frozen", [None, 0, 1, 3])
def test_stages_that_are_frozen(frozen):
    """As in the official code: two stages, and five blocks more of the third for each."""
    names = shapes_of(ModelConfig(ARCH, (), None, (256, 256)))
    labels = {}
    for name in names:
        params = np.zeros(())
        for part in reversed(name.split(".")):
            params = {part: params}
        labels[name] = jax.tree.leaves(parameter_groups(params, frozen))[0]
    below = () if frozen is None else ("patch_embed.", "layers.0.", "layers.1.", "layers.2.down")
    below += tuple(f"layers.2.blocks.{block}." for block in range(min(5 * (frozen or 0), 18)))
    for name, label in labels.items():
        is_frozen = name.removeprefix("backbone.").startswith(below) if below else False
        assert label == ("frozen" if is_frozen else "trained"), name
    with pytest.raises(InputError, match=f"expected None or 0 to 3 with {ARCH}, found 4"):
        TrainConfig(
            StartConfig(ARCH, (), GeMConfig(), (256, 256)),
            optimizer=OptimizerConfig(layers_to_freeze=4),
        )

"""SALAD and BoQ against second writings in PyTorch: descriptors, gradients, weights both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from flax import nnx
from one_program import describe
from reference import in_float64
from reference_dinov2 import TorchModel
from reference_heads import TorchBoQ, salad

from mixvpr_jax import (
    BoQConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    SALADConfig,
    create_model,
)
from mixvpr_jax.conversion import (
    build_model,
    convert_checkpoint,
    get_weights,
    to_state_dict,
    write_checkpoint,
)
from mixvpr_jax.evaluation.describe import compile_saliency
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.models.salad import transport

SALAD, BOQ = SALADConfig(5, 6, 7), BoQConfig(128, 9, 2, 3)
MEGALOC = "dinov2_vitb14"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Small transformers: one beside the published ones, and one under the name of MegaLoc's."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "tiny", ViTShape(2, 24, 3))
        monkeypatch.setitem(mapping, MEGALOC, ViTShape(2, 36, 3))


def drawn(config):
    """A model whose every entry is random, and its state_dict as tensors."""
    model = create_model(config, seed=0)
    rng = np.random.default_rng(1)
    for _, leaf in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        leaf[...] = jnp.asarray(np.abs(rng.normal(0.1, 0.2, leaf.shape)) + 0.01, leaf.dtype)
        if leaf.ndim > 1:
            leaf[...] = jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype)
    state = to_state_dict(model)
    return model, {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def theirs(config, state, features):
    tensors = [torch.from_numpy(np.array(array)).requires_grad_() for array in features]
    if isinstance(config.aggregator, SALADConfig):
        return tensors, salad(state, *tensors)
    module = TorchBoQ(config.feature_channels, **vars(config.aggregator)).double()
    own = {n.removeprefix("aggregator."): a for n, a in state.items() if "aggregator" in n}
    module.load_state_dict(own, strict=True)
    return tensors, module(tensors[0].permute(0, 3, 1, 2))


# Descriptors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(70, 42), (28, 98)])
@pytest.mark.parametrize("aggregator", [SALAD, BOQ])
def test_descriptors_and_gradients(aggregator, size, parity):
    with in_float64():
        config = ModelConfig("tiny", (), aggregator, size, "float64")
        model, state = drawn(config)
        images = np.random.default_rng(3).standard_normal((3, *size, 3))
        toward = np.random.default_rng(4).standard_normal((3, config.descriptor_dim))

        @nnx.jit
        def ours(model, images, toward):
            features = model.features(images)
            found, pull = jax.vjp(lambda *some: model.head(*some), *features)
            return found, features, pull(toward)

        answers = ours(model, jnp.asarray(images), jnp.asarray(toward))
        found, features, gradients = jax.tree.map(np.asarray, answers)
    tensors, expected = theirs(config, state, features)
    (expected * torch.from_numpy(toward)).sum().backward()
    assert found.shape == (3, config.descriptor_dim)
    difference = np.abs(found - expected.detach().numpy()).max()
    parity(f"{aggregator.name}, descriptors, float64", difference, 1e-12)
    for ours, tensor in zip(gradients, tensors, strict=True):
        largest = np.abs(tensor.grad.numpy()).max()
        difference = np.abs(ours - tensor.grad.numpy()).max() / largest
        parity(f"{aggregator.name}, gradients by the features, float64", difference, 1e-11)


@pytest.mark.parametrize("aggregator", [SALAD, BOQ])
def test_float32_and_bfloat16(aggregator, parity):
    images = np.random.default_rng(3).standard_normal((3, 70, 42, 3)).astype(np.float32)
    with in_float64():
        model, _ = drawn(ModelConfig("tiny", (), aggregator, (70, 42), "float64"))
        exact = np.asarray(describe(model, jnp.asarray(images, jnp.float64)))
        weights = get_weights(model)
    for dtype, tolerance in (("float32", 2e-6), ("bfloat16", 0.05)):
        config = ModelConfig("tiny", (), aggregator, (70, 42), dtype)
        found = np.asarray(describe(build_model(config, weights), images))
        assert found.dtype == np.float32
        if dtype == "float32":
            difference = np.abs(found - exact).max()
            parity(f"{aggregator.name}, descriptors, float32", difference, tolerance)
        else:
            assert (found * exact).sum(1).min() > 0.99


@pytest.mark.parametrize(
    "aggregator, options",
    [
        (SALAD, {}),
        (SALAD, {"projection": 11}),
        (BOQ, {"final_norm": False}),
        (MixVPRConfig(8, 2, 1.0, 2), {"final_norm": False}),
    ],
    ids=["SALAD", "MegaLoc", "BoQ", "MixVPR"],
)
def test_whole_models(aggregator, options, parity):
    images = np.random.default_rng(3).standard_normal((3, 42, 70, 3))
    with in_float64():
        arch = MEGALOC if "projection" in options else "tiny"
        config = ModelConfig(arch, (), aggregator, (42, 70), "float64", **options)
        model, _ = drawn(config)
        found = np.asarray(describe(model, jnp.asarray(images)))
        with torch.no_grad():
            module = TorchModel(model).double()
            expected = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    parity("models on DINOv2, float64", np.abs(found - expected).max(), 1e-12)


def test_transport():
    """A position's shares and that of the dustbin are 1 in all; a cluster takes about 1."""
    scores = np.random.default_rng(0).normal(0, 2, (2, 40, 6)).astype(np.float32)
    shares = np.asarray(transport(jnp.asarray(scores), jnp.ones(())))
    assert (shares > 0).all() and (shares.sum(2) < 1).all()
    np.testing.assert_allclose(shares.sum(1), 1, atol=0.4)
    high = np.asarray(transport(jnp.asarray(scores), jnp.full((), 80.0)))
    low = np.asarray(transport(jnp.asarray(scores) * 40, jnp.ones(())))
    assert np.isfinite(high).all() and np.isfinite(low).all()
    with pytest.raises(InputError, match="more than 6 positions .* found 6; give larger images"):
        transport(jnp.asarray(scores[:, :6]), jnp.ones(()))


# Configurations -----------------------------------------------------------------------------------


def test_configurations_that_do_not_fit():
    with pytest.raises(InputError, match="class token for SALAD, found resnet50; there are dinov2"):
        ModelConfig("resnet50", (4,), SALADConfig())
    with pytest.raises(InputError, match="final_norm: expected true with resnet50, found False"):
        ModelConfig("resnet50", (4,), BoQConfig(), final_norm=False)
    with pytest.raises(
        InputError, match=r"more positions than SALAD has clusters \(64\), found 15"
    ):
        ModelConfig("tiny", (), SALADConfig(), (70, 42))
    with pytest.raises(InputError, match="proj_channels: expected a multiple of 64, found 100"):
        BoQConfig(100)


def test_the_official_sizes():
    size = {"layers_to_crop": (), "image_size": (322, 322)}
    assert ModelConfig("dinov2_vitb14", aggregator=SALADConfig(), **size).descriptor_dim == 8448
    assert ModelConfig("dinov2_vitb14", aggregator=BoQConfig(384), **size).descriptor_dim == 12288
    assert ModelConfig("resnet50", (4,), BoQConfig(512)).descriptor_dim == 16384
    config = ModelConfig("tiny", (), SALAD, (70, 42), projection=9, final_norm=True)
    assert "final_norm" not in config.to_dict()
    for some in (config, ModelConfig("tiny", (), BOQ, (70, 42), final_norm=False)):
        assert ModelConfig.from_dict(some.to_dict()) == some


def test_saliency_and_a_single_compilation():
    model = create_model(ModelConfig("tiny", (), SALAD, (70, 42)))
    pair = np.random.default_rng(0).standard_normal((2, 70, 42, 3)).astype(np.float32)
    maps = np.asarray(compile_saliency(model)(pair))
    assert maps.shape == (2, 5, 3) and (maps > 0).all()
    assert abs(maps.max() - 1) < 1e-7  # later versions of XLA multiply by a reciprocal


# Weights ------------------------------------------------------------------------------------------

VIT = ("tiny", ())
SIZE = {"image_size": (70, 42)}
BICUBIC = {"interpolation": "bicubic"}
# Repositories' models, and what they call the parts.
RELEASES = {
    "SALAD": ((*VIT, SALAD), SIZE, ("backbone.model.", "aggregator.")),
    "MegaLoc": (
        (MEGALOC, (), SALAD),
        {**SIZE, "projection": 11},
        ("backbone.", "aggregator.agg.", "aggregator.linear."),
    ),
    "BoQ, DINOv2": (
        (*VIT, BOQ),
        {**SIZE, **BICUBIC, "final_norm": False},
        ("backbone.dino.", "aggregator."),
    ),
    "BoQ, ResNet": (
        ("resnet18", (4,), BOQ),
        {"image_size": (64, 64), **BICUBIC},
        ("backbone.net.", "aggregator."),
    ),
}


@pytest.mark.parametrize("parts, options, prefixes", RELEASES.values(), ids=RELEASES)
def test_weights_both_ways(parts, options, prefixes, tmp_path):
    config = ModelConfig(*parts, **options)
    model, state = drawn(config)
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in state)
    assert all(name.startswith(prefixes) for name in state)
    if config.projection:  # its second release, without a mask token
        assert not any("backbone.model" in name or "mask_token" in name for name in state)
    torch.save(state, tmp_path / "x.pth")
    converted = convert_checkpoint(tmp_path / "x.pth", image_size=config.image_size)
    assert converted.model.config == config
    images = np.random.default_rng(0).standard_normal((2, *config.image_size, 3)).astype("f")
    np.testing.assert_array_equal(describe(converted.model, images), describe(model, images))
    for name, array in to_state_dict(converted.model).items():
        np.testing.assert_array_equal(array, state[name].numpy())


def test_megalocs_first_release(tmp_path):
    """Its backbone is `backbone.model`, with the mask token."""
    model, state = drawn(ModelConfig(MEGALOC, (), SALAD, **SIZE, projection=11))
    first = {n.replace("backbone.", "backbone.model."): array for n, array in state.items()}
    first["backbone.model.mask_token"] = torch.full((1, 36), 0.5)
    torch.save(first, tmp_path / "x.pth")
    converted = convert_checkpoint(tmp_path / "x.pth", image_size=(70, 42)).model
    assert converted.config == model.config
    images = np.random.default_rng(0).standard_normal((2, 70, 42, 3)).astype(np.float32)
    np.testing.assert_array_equal(describe(converted, images), describe(model, images))
    assert (get_weights(converted)["backbone.mask_token"] == 0.5).all()


def test_openvprlabs_names(tmp_path):
    """Of its DINOv2, which leaves out the last LayerNorm, and of its ResNets, with BoQ."""
    model, state = drawn(ModelConfig(*VIT, BOQ, **SIZE, **BICUBIC, final_norm=False))
    write_checkpoint(model, tmp_path / "x.pth", layout="openvprlab")
    assert torch.load(tmp_path / "x.pth").keys() == state.keys()
    resnet, _ = drawn(ModelConfig("resnet18", (4,), BOQ, (64, 64), **BICUBIC))
    write_checkpoint(resnet, tmp_path / "y.pth", layout="openvprlab")
    converted = convert_checkpoint(tmp_path / "y.pth", image_size=(64, 64)).model
    assert converted.config == resnet.config
    normed, _ = drawn(ModelConfig(*VIT, BOQ, **SIZE))
    with pytest.raises(
        InputError, match="OpenVPRLab: expected .* without its last LayerNorm .* tiny"
    ):
        write_checkpoint(normed, tmp_path / "z.pth", layout="openvprlab")
    assert not (tmp_path / "z.pth").exists()


def test_a_projection_that_megaloc_does_not_have():
    for arch, options in (("tiny", {}), (MEGALOC, {"final_norm": False})):
        model = create_model(ModelConfig(arch, (), SALAD, **SIZE, projection=11, **options))
        with pytest.raises(InputError, match="found a projection to 11 values"):
            to_state_dict(model)


@pytest.mark.parametrize("aggregator", [GeMConfig(), SALAD], ids=lambda each: each.name)
def test_a_linear_layer_of_others(aggregator, tmp_path):
    """Weights do not tell whether theirs comes before or after unit norm: refused."""
    config = ModelConfig(*VIT, aggregator, **SIZE)
    _, state = drawn(config)
    state |= {"aggregator.linear.weight": torch.ones(11, config.descriptor_dim or 0)}
    state |= {"aggregator.linear.bias": torch.ones(11)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match="left over: aggregator.linear.bias, aggregator.linear.w"):
        convert_checkpoint(tmp_path / "x.pth", image_size=(70, 42))


@pytest.mark.parametrize("norm", [True, False, None])
def test_salads_own_setting_of_the_last_norm(norm, tmp_path):
    _, state = drawn(ModelConfig(*VIT, SALAD, **SIZE))
    settings = {"backbone_config": {"norm_layer": norm, "return_token": True}}
    if norm is None:  # none, as there
        del settings["backbone_config"]["norm_layer"]
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "x.ckpt")
    converted = convert_checkpoint(tmp_path / "x.ckpt", image_size=(70, 42))
    assert converted.model.config.final_norm == bool(norm)
    assert ("LayerNorm" in converted.summary()) == (not norm)


def test_the_size_of_salads_evaluation_is_said(tmp_path):
    """Its code trains on 224x224, which the file tells, and evaluates with 322x322."""
    _, state = drawn(ModelConfig(*VIT, SALAD, **SIZE))
    for size, said in (((224, 224), True), ((322, 322), False)):
        of_data = {"image_size": size}
        content = {"state_dict": state, "datamodule_hyper_parameters": of_data}
        torch.save(content, tmp_path / "x.ckpt")
        converted = convert_checkpoint(tmp_path / "x.ckpt")
        assert converted.model.config.image_size == size
        assert ("SALAD's authors evaluate with 322x322" in converted.summary()) == said
    given = convert_checkpoint(tmp_path / "x.ckpt", image_size=(70, 42))
    assert "SALAD's authors evaluate" not in given.summary()


def test_a_last_norm_that_nothing_tells(tmp_path):
    _, state = drawn(ModelConfig(*VIT, SALAD, **SIZE))
    torch.save(state, tmp_path / "x.pth")
    converted = convert_checkpoint(tmp_path / "x.pth", image_size=(70, 42))
    assert converted.model.config.final_norm
    assert "note: the last LayerNorm is taken as applied, as in SALAD's" in converted.summary()


@pytest.mark.parametrize(
    "lost, line",
    [
        ("aggregator.dust_bin", "aggregator: expected MixVPR .* found cluster_features, score"),
        ("aggregator.score.3.weight", "missing aggregator.score.3.weight"),
        ("aggregator.score.0.bias", "unfilled: aggregator.score.0.bias"),
    ],
)
def test_weights_that_are_missing(lost, line, tmp_path):
    _, state = drawn(ModelConfig(*VIT, SALAD, **SIZE))
    del state[lost]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match=line):
        convert_checkpoint(tmp_path / "x.pth")

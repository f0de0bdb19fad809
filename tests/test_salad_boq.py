"""SALAD and BoQ against second writings in PyTorch: descriptors, gradients, weights both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from flax import nnx
from reference import in_float64

from mixvpr_jax import BoQConfig, InputError, ModelConfig, SALADConfig, create_model
from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights, to_state_dict
from mixvpr_jax.evaluation.describe import compile_saliency
from mixvpr_jax.models import backbones
from mixvpr_jax.models.backbones import ViTShape
from mixvpr_jax.models.salad import transport

F = torch.nn.functional
SALAD, BOQ = SALADConfig(5, 6, 7), BoQConfig(128, 9, 2, 3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A small transformer beside the published ones."""
    for mapping in (backbones.VITS, backbones.BACKBONES):
        monkeypatch.setitem(mapping, "tiny", ViTShape(2, 24, 3))


# Second writings ----------------------------------------------------------------------------------


def mlp(state, name, last, x):
    """Over the last axis, from 1x1 convolutions or Linear layers of a torch.nn.Sequential."""
    for layer in (0, last):
        weight, bias = (state[f"aggregator.{name}.{layer}.{part}"] for part in ("weight", "bias"))
        x = F.linear(x if layer == 0 else x.relu(), weight.flatten(1), bias)
    return x


def salad(state, features, token):
    """Of the paper, its transport as products of a kernel's rows and columns."""
    x = features.flatten(1, 2)
    scores, count = mlp(state, "score", 3, x), x.shape[1]
    dust = state["aggregator.dust_bin"].expand(*scores.shape[:2], 1)
    kernel = torch.cat([scores, dust], 2).exp()
    takes = torch.ones(kernel.shape[2], dtype=kernel.dtype)
    takes[-1] = count - scores.shape[2]
    rows = torch.ones(*kernel.shape[:2], dtype=kernel.dtype)
    for _ in range(3):
        columns = takes / torch.einsum("bnm,bn->bm", kernel, rows)
        rows = 1 / torch.einsum("bnm,bm->bn", kernel, columns)
    plan = (kernel * rows[:, :, None] * columns[:, None])[:, :, :-1]
    clusters = torch.einsum("bnd,bnm->bdm", mlp(state, "cluster_features", 3, x), plan)
    token = F.normalize(mlp(state, "token_features", 2, token), dim=1)
    return F.normalize(torch.cat([token, F.normalize(clusters, dim=1).flatten(1)], 1), dim=1)


class Block(torch.nn.Module):
    """Official names, of PyTorch's own modules."""

    def __init__(self, width, num_queries):
        super().__init__()
        heads = width // 64
        self.encoder = torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True
        )
        self.queries = torch.nn.Parameter(torch.empty(1, num_queries, width))
        self.self_attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_q = torch.nn.LayerNorm(width)
        self.cross_attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_out = torch.nn.LayerNorm(width)

    def forward(self, x):
        x = self.encoder(x)
        queries = self.queries.expand(len(x), -1, -1)
        queries = self.norm_q(queries + self.self_attn(queries, queries, queries)[0])
        return x, self.norm_out(self.cross_attn(queries, x, x)[0])


class TorchBoQ(torch.nn.Module):
    def __init__(self, channels, config):
        super().__init__()
        width = config.proj_channels
        self.proj_c = torch.nn.Conv2d(channels, width, 3, padding=1)
        self.norm_input = torch.nn.LayerNorm(width)
        blocks = (Block(width, config.num_queries) for _ in range(config.num_layers))
        self.boqs = torch.nn.ModuleList(blocks)
        self.fc = torch.nn.Linear(config.num_layers * config.num_queries, config.row_dim)

    def forward(self, features):
        x = self.norm_input(self.proj_c(features.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))
        found = []
        for block in self.boqs:
            x, read = block(x)
            found.append(read)
        x = self.fc(torch.cat(found, 1).transpose(1, 2))
        return F.normalize(x.flatten(1), dim=1)


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
    module = TorchBoQ(config.feature_channels, config.aggregator).double()
    own = {n.removeprefix("aggregator."): a for n, a in state.items() if "aggregator" in n}
    module.load_state_dict(own, strict=True)
    return tensors, module(*tensors)


@nnx.jit
def run(model, images):
    return model(images)


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
        exact = np.asarray(run(model, jnp.asarray(images, jnp.float64)))
        weights = get_weights(model)
    for dtype, tolerance in (("float32", 2e-6), ("bfloat16", 0.05)):
        config = ModelConfig("tiny", (), aggregator, (70, 42), dtype)
        found = np.asarray(run(build_model(config, weights), images))
        assert found.dtype == np.float32
        if dtype == "float32":
            difference = np.abs(found - exact).max()
            parity(f"{aggregator.name}, descriptors, float32", difference, tolerance)
        else:
            assert (found * exact).sum(1).min() > 0.99


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
    with pytest.raises(InputError, match="proj_channels: expected a multiple of 64, found 100"):
        BoQConfig(100)
    with pytest.raises(InputError, match="expected a feature map of more than 64 positions"):
        create_model(ModelConfig("tiny", (), SALADConfig(), (70, 42)))(
            np.zeros((1, 70, 42, 3), "f")
        )


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
    assert maps.shape == (2, 5, 3) and maps.max() == 1 and (maps > 0).all()


# Weights ------------------------------------------------------------------------------------------

VIT = ("tiny", ())
SIZE = {"image_size": (70, 42)}
BICUBIC = {"interpolation": "bicubic"}
# Repositories' models, and what they call the parts.
RELEASES = {
    "SALAD": ((*VIT, SALAD), SIZE, ("backbone.model.", "aggregator.")),
    "MegaLoc": (
        (*VIT, SALAD),
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
    np.testing.assert_array_equal(run(converted.model, images), run(model, images))
    for name, array in to_state_dict(converted.model).items():
        np.testing.assert_array_equal(array, state[name].numpy())


def test_megalocs_first_release(tmp_path):
    """Its backbone is `backbone.model`, with the mask token."""
    model, state = drawn(ModelConfig(*VIT, SALAD, **SIZE, projection=11))
    first = {n.replace("backbone.", "backbone.model."): array for n, array in state.items()}
    first["backbone.model.mask_token"] = torch.full((1, 24), 0.5)
    torch.save(first, tmp_path / "x.pth")
    converted = convert_checkpoint(tmp_path / "x.pth", image_size=(70, 42)).model
    assert converted.config == model.config
    images = np.random.default_rng(0).standard_normal((2, 70, 42, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(converted, images), run(model, images))
    assert (get_weights(converted)["backbone.mask_token"] == 0.5).all()


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

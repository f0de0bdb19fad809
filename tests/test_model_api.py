"""A model in use: fresh weights, views, Linen, types of numbers, sizes of images."""

from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_or_skip as torch
from flax import nnx
from one_program import describe
from small_model import SMALL

import mixvpr_jax
from mixvpr_jax import (
    CosPlaceConfig,
    GeMConfig,
    InputError,
    MixVPRConfig,
    ModelConfig,
    create_model,
    to_linen,
)
from mixvpr_jax.models.resnet import max_pool
from mixvpr_jax.models.vpr import empty_model


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_seeds_that_jax_does_not_take(seed):
    with pytest.raises(InputError, match=f"seed: expected an integer of 64 bits, found {seed}"):
        create_model(SMALL, seed=seed)


def test_seeds_make_the_weights(model):
    kernel = model.backbone.conv1.kernel[...]
    assert np.array_equal(kernel, create_model(SMALL, seed=3).backbone.conv1.kernel[...])
    assert not np.array_equal(kernel, create_model(SMALL, seed=4).backbone.conv1.kernel[...])
    of_numpy = create_model(SMALL, seed=np.int64(3))
    assert np.array_equal(kernel, of_numpy.backbone.conv1.kernel[...])


def test_all_64_bits_of_a_seed_count():
    seeds = (0, 2**31, 2**32, 2**33, 2**62, 2**63 - 1, -1, -(2**32), -(2**63), 2**32 - 1)
    kernels = [create_model(SMALL, seed=seed).aggregator.channel_proj.kernel for seed in seeds]
    assert len({np.asarray(kernel[...]).tobytes() for kernel in kernels}) == len(seeds)


def test_an_empty_model_is_the_same_without_values(model):
    graph, drawn = nnx.split(model)
    same_graph, zeros = nnx.split(empty_model(model.config))
    assert same_graph == graph
    assert jax.tree.map(lambda x: (x.shape, x.dtype), zeros) == jax.tree.map(
        lambda x: (x.shape, x.dtype), drawn
    )
    assert not any(array.any() for array in jax.tree.leaves(zeros))


def test_fresh_weights_are_drawn_as_the_official_ones():
    config = ModelConfig("resnet18", (4,), MixVPRConfig(256, 1, 1, 4))
    model = create_model(config)
    block = getattr(model.backbone.layer3, "1")
    assert np.std(block.conv2.kernel[...]) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    mixer = getattr(model.aggregator.mix, "0")
    assert np.std(mixer.expand.kernel[...]) == pytest.approx(0.02, rel=0.02)
    assert not np.any(mixer.expand.bias[...])
    for layer, fan_in in ((model.aggregator.channel_proj, 256), (model.aggregator.row_proj, 400)):
        for array in (layer.kernel[...], layer.bias[...]):
            assert np.abs(array).max() <= fan_in**-0.5
        assert np.std(layer.kernel[...]) == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)


def test_views_switch_between_training_and_evaluation(model):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((3, 48, 64, 3)), jnp.float32)
    training = nnx.view(model, use_running_average=False)
    before = describe(model, images)
    assert not np.allclose(describe(training, images), before, atol=1e-3)
    assert training.backbone.bn1.mean is model.backbone.bn1.mean  # shared, and moved by training
    assert not np.array_equal(describe(model, images), before)


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (1, 1)])
def test_max_pool_in_both_directions(size):
    """Forward and backward derivatives are each other's transposes, as of PyTorch's pooling."""
    random = np.random.default_rng(0)
    x, dx = (jnp.asarray(random.standard_normal((2, *size, 3)), jnp.float32) for _ in range(2))
    y, dy = jax.jit(lambda x, dx: jax.jvp(max_pool, (x,), (dx,)))(x, dx)
    back = jnp.asarray(random.standard_normal(y.shape), jnp.float32)
    (gradient,) = jax.jit(lambda x, back: jax.vjp(max_pool, x)[1](back))(x, back)
    assert np.vdot(dy, back) == pytest.approx(np.vdot(dx, gradient), rel=1e-5)
    nchw = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    theirs = torch.nn.functional.max_pool2d(nchw, 3, 2, 1)
    theirs.backward(torch.tensor(np.asarray(back).transpose(0, 3, 1, 2)))
    assert np.array_equal(y, theirs.detach().numpy().transpose(0, 2, 3, 1))
    assert np.allclose(gradient, nchw.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-6)
    along_scale = jax.eval_shape(jax.jacfwd(lambda s: max_pool(s * x)), jnp.float32(1))
    assert along_scale.shape == y.shape


def test_derivatives_of_a_model_by_its_images(model):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((1, 48, 64, 3)), jnp.float32)
    direction = jnp.ones_like(images)
    graph, state = nnx.split(model)

    def describe_images(images):
        return nnx.merge(graph, state)(images)

    @jax.jit
    def forward_along(images, direction):
        return jax.jvp(describe_images, (images,), (direction,))[1]

    @jax.jit
    def pull(images, along):
        return jax.vjp(describe_images, images)[1](along)[0]

    forward = forward_along(images, direction)
    for index in (0, 7):
        along = jnp.zeros_like(forward).at[0, index].set(1)
        assert np.vdot(pull(images, along), direction) == pytest.approx(
            float(forward[0, index]), abs=1e-4
        )


def test_linen_gives_the_same_descriptors(model, photos):
    images = mixvpr_jax.Preprocess(SMALL.image_size)(photos)
    module, variables = to_linen(model)
    assert variables.keys() == {"params", "batch_stats"}
    names = flax.traverse_util.flatten_dict(variables, sep="/")
    assert "params/backbone/layer1/0/conv1/kernel" in names
    assert "batch_stats/backbone/layer2/1/bn2/var" in names
    assert all(isinstance(array, jax.Array) for array in names.values())
    descriptors = jax.jit(module.apply)(variables, images)
    assert np.allclose(descriptors, describe(model, images), atol=1e-6)
    fresh = jax.eval_shape(module.init, jax.random.key(0), images)
    assert jax.tree.map(lambda x: x.shape, fresh) == jax.tree.map(jnp.shape, variables)


def test_linen_trains(model, photos):
    images = mixvpr_jax.Preprocess(SMALL.image_size)(photos)
    module, variables = to_linen(model, train=True)
    apply = jax.jit(partial(module.apply, mutable=["batch_stats"]))
    descriptors, updated = apply(variables, images)
    trained = nnx.clone(model)
    trained.train()
    assert np.allclose(descriptors, describe(trained, images), atol=1e-6)
    mean = updated["batch_stats"]["backbone"]["bn1"]["mean"]
    assert np.allclose(mean, trained.backbone.bn1.mean[...], atol=1e-6)
    assert not np.allclose(mean, model.backbone.bn1.mean[...], atol=1e-4)


@pytest.mark.parametrize("aggregator", [MixVPRConfig(8, 2, 1, 2), GeMConfig(), CosPlaceConfig(16)])
def test_bfloat16_keeps_float32_parameters_and_descriptors(aggregator, photos):
    config = ModelConfig("resnet18", (4,), aggregator, (64, 64), "bfloat16")
    model = create_model(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    descriptors = describe(model, mixvpr_jax.Preprocess((64, 64))(photos))
    assert descriptors.dtype == jnp.float32
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)


def test_float64_needs_x64():
    with pytest.raises(InputError, match="jax_enable_x64"):
        create_model(ModelConfig(dtype="float64"))


@pytest.mark.parametrize("size", [(41, 57), (48, 64), (45, 60)])
def test_every_image_size_with_the_same_map_fits(model, size):
    assert jax.eval_shape(model, jnp.zeros((1, *size, 3))).shape == (1, 16)


@pytest.mark.parametrize("size", [(40, 64), (49, 64), (48, 65), (320, 320)])
def test_other_image_sizes_name_those_that_fit(model, size):
    expected = r"height 41 to 48 and width 57 to 64 pixels \(a feature map of 6x8\)"
    with pytest.raises(InputError, match=f"{expected}, found {size[0]}x{size[1]}"):
        model(jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("aggregator", [GeMConfig(), CosPlaceConfig(4), mixvpr_jax.ConvAPConfig(4)])
def test_pooling_takes_any_image_size(aggregator):
    model = create_model(ModelConfig("resnet18", (3, 4), aggregator))
    for size in ((31, 77), (64, 64)):
        found = jax.eval_shape(model, jnp.ones((1, *size, 3)))
        assert found.shape == (1, model.config.descriptor_dim)


@pytest.mark.parametrize(
    "images, message",
    [
        (
            jnp.zeros((48, 64, 3)),
            r"expected shape \[batch, height, width, 3\], found \[48, 64, 3\]",
        ),
        (jnp.zeros((0, 48, 64, 3)), "images: expected at least one, found none"),
        (jnp.zeros((1, 3, 48, 64)), r"found \[1, 3, 48, 64\]"),
        (jnp.zeros((1, 48, 64, 3), jnp.uint8), "expected normalised floats, found uint8"),
        ([np.zeros((48, 64, 3))], "expected an array, found list; use `preprocess`"),
        ("street.jpg", "expected an array, found str; use `preprocess`"),
    ],
)
def test_what_is_no_batch_of_normalised_images_is_refused(model, images, message):
    # Without the tests' own type check, so that the message is the one that a user sees.
    with pytest.raises(InputError, match=message):
        mixvpr_jax.models.vpr.check_images(model.config, images)

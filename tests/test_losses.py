"""Losses and miners against the official ones, and against plain loops."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from loops import KINDS, Loops, batches
from recipe import GOLDEN
from reference import in_float64

from mixvpr_jax import losses
from mixvpr_jax.losses import LOSSES, mining
from mixvpr_jax.models.layers import l2_normalize

MINERS = {
    "None": None,
    "MultiSimilarityMiner": mining.multi_similarity_miner,
    "TripletMarginMiner": mining.triplet_margin_miner,
    "PairMarginMiner": mining.pair_margin_miner,
}
GOLD = np.load(GOLDEN / "losses.npz")
CASES = sorted({tuple(name.split("/")[:2]) for name in GOLD.files if name.count("/") == 3})


@pytest.mark.parametrize("loss, miner", CASES)
@pytest.mark.parametrize("bits, tolerance", [("f64", 1e-9), ("f32", 1e-5)])
def test_official_values_and_gradients(loss, miner, bits, tolerance, parity):
    value, gradient = on_golden_inputs(loss, miner, bits)
    expected = GOLD[f"{loss}/{miner}/{bits}/loss"]
    expected_gradient = GOLD[f"{loss}/{miner}/{bits}/grad"]
    dtype = {"f64": "float64", "f32": "float32"}[bits]
    parity(
        f"losses with each miner, {dtype}, relative", abs(value - expected) / expected, tolerance
    )
    error = np.abs(gradient - expected_gradient).max() / np.abs(expected_gradient).max()
    parity(f"their gradients, {dtype}, relative to the largest", error, tolerance)


@cache
def on_golden_inputs(loss, miner, bits):
    return on_inputs(loss, miner, bits, GOLD)


def on_inputs(loss, miner, bits, batch):
    """Value and gradient, on one device."""
    with jax.enable_x64(bits == "f64"):
        inputs = jnp.asarray(batch["inputs"], "float64" if bits == "f64" else "float32")
        labels = jnp.asarray(batch["labels"], "int32")

        @jax.jit
        @jax.value_and_grad
        def run(inputs):
            descriptors = l2_normalize(inputs)
            mined = MINERS[miner] and MINERS[miner](descriptors, labels)
            return LOSSES[loss](descriptors, labels, mined)

        return tuple(map(np.asarray, run(inputs)))


@pytest.mark.parametrize("miner", MINERS)
def test_official_masks_and_batch_accuracy(miner):
    with in_float64():
        descriptors = l2_normalize(jnp.asarray(GOLD["inputs"]))
        labels = jnp.asarray(GOLD["labels"], "int32")
        mined = MINERS[miner] and MINERS[miner](descriptors, labels)
        anchors = np.ones(len(labels)) if mined is None else mining.mined_anchors(mined)
        accuracy = 1 - np.asarray(anchors).mean()
    if miner == "TripletMarginMiner":
        assert np.array_equal(mined.mask, GOLD[f"{miner}/triplet_mask"])
    elif mined is not None:
        assert np.array_equal(mined.positive, GOLD[f"{miner}/positive_mask"])
        assert np.array_equal(mined.negative, GOLD[f"{miner}/negative_mask"])
    assert accuracy == float(GOLD[f"SupConLoss/{miner}/f64/batch_accuracy"])


def in_one_shape(descriptors, labels):
    """The same padded with zeros and images that do not count: two programs for all sizes."""
    rows = 9 if len(labels) > 1 else 1  # an image really alone stays so
    wide = np.zeros((rows, 5))
    wide[: len(labels), : descriptors.shape[1]] = descriptors
    wide[len(labels) :] = 0.6, 0.8, 0, 0, 0
    return wide, np.concatenate([labels, np.full(rows - len(labels), -1)])


@pytest.mark.parametrize("loss, miner", CASES)
@settings(max_examples=8, deadline=None)
@given(drawn=st.tuples(*map(batches, KINDS)))
def test_losses_are_what_plain_loops_give(loss, miner, drawn):
    for kind, batch in zip(KINDS, drawn, strict=True):
        loops = Loops(*batch, miner)
        pairwise = loss not in ("TripletMarginLoss", "CentroidTripletLoss", "FastAPLoss")
        few = len(loops.positives) <= 1 and len(loops.negatives) <= 1
        expected = 0 if pairwise and few else getattr(loops, loss)()
        with in_float64():
            descriptors, labels = map(jnp.asarray, in_one_shape(*batch))
            value, gradient = map(np.asarray, compiled(loss, miner)(descriptors, labels))
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-12), kind
        assert np.isfinite(gradient).all(), kind


@cache
def compiled(loss, miner):
    """A loss with its miner and its gradient, of descriptors and labels."""

    def run(descriptors, labels):
        mined = MINERS[miner] and MINERS[miner](descriptors, labels)
        return LOSSES[loss](descriptors, labels, mined)

    return jax.jit(jax.value_and_grad(run))


def padded(count):
    """The golden inputs and labels, and images that do not count."""
    spare = np.random.default_rng(0).standard_normal((count, GOLD["inputs"].shape[1]))
    return {
        "inputs": np.concatenate([GOLD["inputs"], spare]),
        "labels": np.concatenate([GOLD["labels"], np.full(count, -1)]),
    }


# Each loss, and each miner: the other pairs are padded below.
@pytest.mark.parametrize(
    "loss, miner", [case for case in CASES if "None" in case or "MultiSimilarityLoss" in case]
)
def test_padding_changes_nothing(loss, miner):
    value, gradient = on_golden_inputs(loss, miner, "f64")
    padded_value, padded_gradient = on_inputs(loss, miner, "f64", padded(5))
    assert abs(value - padded_value) <= 1e-14 * abs(value)
    assert np.abs(padded_gradient[:24] - gradient).max() <= 1e-12 * np.abs(gradient).max()
    assert not padded_gradient[24:].any()


@pytest.mark.parametrize("loss, miner", CASES)
def test_rows_on_eight_devices_add_up(loss, miner):
    """Four rows each, of which the last two devices' are padding."""
    mesh, batch = (
        jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        padded(8),
    )
    with in_float64():
        inputs, labels = jnp.asarray(batch["inputs"]), jnp.asarray(batch["labels"], "int32")

        def device(inputs, labels):
            rows = jax.lax.axis_index("data") * 4 + jnp.arange(4, dtype="int32")

            def share(inputs):
                descriptors = l2_normalize(inputs)
                mined = MINERS[miner] and MINERS[miner](descriptors, labels, rows=rows)
                value = LOSSES[loss](descriptors, labels, mined, rows=rows, axis_name="data")
                return jax.lax.pcast(value, "data", to="varying") / 8, value

            gradient, value = jax.grad(share, has_aux=True)(
                jax.lax.pcast(inputs, "data", to="varying")
            )
            return value, jax.lax.psum(gradient, "data")

        parallel = jax.shard_map(device, mesh=mesh, in_specs=(P(), P()), out_specs=(P(), P()))
        value, gradient = map(np.asarray, jax.jit(parallel)(inputs, labels))
    # Circle's exponents, of up to 80 and more, turn roundings of 1e-16 in a sum's order into 1e-12.
    assert value == pytest.approx(float(GOLD[f"{loss}/{miner}/f64/loss"]), rel=1e-10)
    assert not gradient[24:].any()
    # Not the golden gradient: PyTorch's softplus is linear above 20, a change of up to 2e-9 there.
    _, expected = on_golden_inputs(loss, miner, "f64")
    print(np.abs(gradient[:24] - expected).max() / np.abs(expected).max())
    assert np.abs(gradient[:24] - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [32, 64])
def test_only_distances_below_rounding_are_zero(bits):
    """Squared distances up to four epsilons; beyond them the distance and its gradient are true."""
    with jax.enable_x64(bits == 64):
        kind = np.dtype(f"float{bits}").type
        epsilon = float(np.finfo(kind).eps)
        squared = kind(epsilon) * np.array([0, 1, 4, 5, 6, 40, 400, 40_000], kind)
        similarity = jnp.asarray(1 - squared / 2)  # exact: a half epsilon is a step below 1
        gradient = jax.grad(lambda given: mining.distances(given).sum())(similarity)
        found, gradient = np.asarray(mining.distances(similarity)), np.asarray(gradient)
    expected = np.sqrt(squared[3:])
    assert not found[:3].any()
    assert not gradient[:3].any()
    assert found[3:] == pytest.approx(expected, rel=2 * epsilon)
    assert gradient[3:] == pytest.approx(-1 / expected, rel=4 * epsilon)


def test_a_negative_just_as_far_as_the_margin_is_semihard():
    angles = jnp.array([0.0, 0.5, 0.7])
    descriptors = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    _, near, far = mining.distances(mining.similarities(descriptors))[0]
    mined = mining.triplet_margin_miner(
        descriptors, jnp.array([0, 0, 1]), margin=float(far - near), rows=jnp.array([0])
    )
    assert mined.mask.sum() == 1


def test_near_copies_are_pushed_apart():
    """A distance of 1e-7 is none of rounding: it counts as what it is."""
    with in_float64():
        near = jnp.array([[1.0, 0.0], [np.cos(1e-7), np.sin(1e-7)]])
        for labels, expected in (([0, 0], 1e-7), ([0, 1], 1 - 1e-7)):
            value = losses.contrastive(near, jnp.array(labels, "int32"))
            assert float(value) == pytest.approx(expected, abs=5e-9)


def test_copies_have_a_finite_gradient():
    descriptors = jnp.tile(l2_normalize(jnp.ones((1, 4))), (4, 1))
    labels = jnp.array([0, 0, 1, 1])
    for name, loss in LOSSES.items():
        gradient = jax.jit(jax.grad(lambda x, loss=loss: loss(x, labels)))(descriptors)
        assert np.isfinite(gradient).all(), name


def test_centroids_take_no_miner():
    labels = jnp.array([0, 0])
    with pytest.raises(ValueError, match="takes no miner"):
        losses.centroid_triplet(jnp.eye(2), labels, mining.all_pairs(labels))

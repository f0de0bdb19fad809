"""Losses and miners against the official ones, and against plain loops."""

import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from recipe import GOLDEN
from reference import in_float64

from mixvpr_jax import losses, mining
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.models.normalize import l2_normalize

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
def test_official_values_and_gradients(loss, miner, bits, tolerance):
    with jax.enable_x64(bits == "f64"):
        inputs = jnp.asarray(GOLD["inputs"], "float64" if bits == "f64" else "float32")
        labels = jnp.asarray(GOLD["labels"], "int32")

        @jax.jit
        @jax.value_and_grad
        def run(inputs):
            descriptors = l2_normalize(inputs)
            mined = MINERS[miner] and MINERS[miner](descriptors, labels)
            return LOSSES[loss](descriptors, labels, mined)

        value, gradient = map(np.asarray, run(inputs))
    expected = GOLD[f"{loss}/{miner}/{bits}/loss"]
    expected_gradient = GOLD[f"{loss}/{miner}/{bits}/grad"]
    print(loss, miner, bits, abs(value - expected) / expected)
    assert abs(value - expected) <= tolerance * expected
    scale = np.abs(expected_gradient).max()
    print(np.abs(gradient - expected_gradient).max() / scale)
    assert np.abs(gradient - expected_gradient).max() <= tolerance * scale


@pytest.mark.parametrize("miner", [name for name in MINERS if name != "None"])
def test_official_masks_and_batch_accuracy(miner):
    with in_float64():
        descriptors = l2_normalize(jnp.asarray(GOLD["inputs"]))
        labels = jnp.asarray(GOLD["labels"], "int32")
        mined = MINERS[miner](descriptors, labels)
        accuracy = float(mining.batch_accuracy(mined, labels))
    if miner == "TripletMarginMiner":
        assert np.array_equal(mined.mask, GOLD[f"{miner}/triplet_mask"])
    else:
        assert np.array_equal(mined.positive, GOLD[f"{miner}/positive_mask"])
        assert np.array_equal(mined.negative, GOLD[f"{miner}/negative_mask"])
    assert accuracy == pytest.approx(float(GOLD[f"SupConLoss/{miner}/f64/batch_accuracy"]))


@st.composite
def batches(draw):
    """Descriptors and labels of any structure: one place, all distinct, copies, a single image."""
    count, dim = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    labels = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    descriptors = random.standard_normal((count, dim))
    if draw(st.booleans()):
        descriptors = descriptors[random.integers(0, count, count)]  # copies among them
    return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True), np.array(labels)


class Loops:
    """Losses written as the papers read: loops over images, no mask, no vector."""

    def __init__(self, descriptors, labels, miner):
        self.x, self.labels, self.images = descriptors, labels, range(len(labels))
        self.s = [[float(a @ b) for b in descriptors] for a in descriptors]
        gaps = [[float(np.linalg.norm(a - b)) for b in descriptors] for a in descriptors]
        self.d = [[0.0 if gap < 3e-8 else gap for gap in row] for row in gaps]
        self.triplets = None
        if miner == "TripletMarginMiner":
            self.triplets = [t for t in self.all_triplets() if 0 < self.gap(t) <= 0.1]
            self.positives = [(a, p) for a, p, _ in self.triplets]
            self.negatives = [(a, n) for a, _, n in self.triplets]
        else:
            self.positives = [pair for pair in self.of(True) if self.mined(miner, *pair, True)]
            self.negatives = [pair for pair in self.of(False) if self.mined(miner, *pair, False)]
        self.mining = miner != "None"

    def of(self, same):
        pairs = itertools.permutations(self.images, 2)
        return [(a, b) for a, b in pairs if (self.labels[a] == self.labels[b]) == same]

    def all_triplets(self):
        return [(a, p, n) for a, p in self.of(True) for b, n in self.of(False) if a == b]

    def gap(self, triplet):
        a, p, n = triplet
        return self.d[a][n] - self.d[a][p]

    def mined(self, miner, a, b, same):
        if miner == "PairMarginMiner":
            return self.s[a][b] < 0.7 if same else self.s[a][b] > 0.3
        if miner == "MultiSimilarityMiner":
            others = [self.s[a][c] for anchor, c in self.of(not same) if anchor == a]
            if same:
                return bool(others) and self.s[a][b] - 0.1 < max(others)
            return bool(others) and self.s[a][b] + 0.1 > min(others)
        return True

    def row(self, pairs, a):
        return [self.s[a][b] for b in dict.fromkeys(b for anchor, b in pairs if anchor == a)]

    def per_anchor(self, loss):
        return [loss(self.row(self.positives, a), self.row(self.negatives, a)) for a in self.images]

    def MultiSimilarityLoss(self):
        def loss(positives, negatives):
            attract = np.log(1 + sum(np.exp(-s) for s in positives))
            return attract + np.log(1 + sum(np.exp(50 * s) for s in negatives)) / 50

        return np.mean(self.per_anchor(loss))

    def SupConLoss(self):
        def loss(positives, negatives):
            if not positives or len(positives + negatives) == 1:
                return 0
            total = sum(np.exp(s / 0.07) for s in positives + negatives)
            return -np.mean([np.log(np.exp(s / 0.07) / total) for s in positives])

        found = self.per_anchor(loss)
        return mean_above_zero(found) if self.positives and self.negatives else 0

    def CircleLoss(self):
        def loss(positives, negatives):
            if not positives or not negatives:
                return 0
            attract = sum(np.exp(-80 * max(1.4 - s, 0) * (s - 0.6)) for s in positives)
            repel = sum(np.exp(80 * max(s + 0.4, 0) * (s - 0.4)) for s in negatives)
            return np.log1p(attract * repel)

        return mean_above_zero(self.per_anchor(loss))

    def ContrastiveLoss(self):
        pull = mean_above_zero([self.d[a][b] for a, b in self.positives])
        return pull + mean_above_zero([max(1 - self.d[a][b], 0) for a, b in self.negatives])

    def Lifted(self):
        def loss(positives, negatives):
            attract = np.log(sum(np.exp(1 - s) for s in positives)) if positives else 0
            repel = np.log(sum(np.exp(s) for s in negatives)) if negatives else 0
            return max(attract + repel, 0)

        return np.mean(self.per_anchor(loss))

    def NTXentLoss(self):
        if not self.positives or not self.negatives:
            return 0
        found = []
        for a, p in self.positives:
            own = np.exp(self.s[a][p] / 0.07)
            against = sum(np.exp(self.s[a][n] / 0.07) for b, n in self.negatives if b == a)
            found.append(-np.log(own / (own + against)))
        return np.mean(found)

    def TripletMarginLoss(self):
        triplets = self.triplets
        if triplets is None:
            triplets = [(a, p, n) for a, p in self.positives for b, n in self.negatives if a == b]
        return mean_above_zero([max(0.1 - self.gap(triplet), 0) for triplet in triplets])

    def FastAPLoss(self):
        middles, found = np.linspace(0, 4, 31), []
        parts = self.triplets or [*self.positives, *self.negatives]
        counts = np.bincount([i for part in parts for i in part], minlength=len(self.labels))
        if self.triplets is None:
            assert counts.sum() == 2 * len(parts)
        for a in self.images:
            same = [b for anchor, b in self.of(True) if anchor == a]
            other = [b for anchor, b in self.of(False) if anchor == a]
            if not same:
                continue
            h = [np.array([pulse(2 - 2 * self.s[a][b], m) for m in middles]) for b in same]
            g = [np.array([pulse(2 - 2 * self.s[a][b], m) for m in middles]) for b in other]
            positive, total = sum(h), sum(h) + (sum(g) if g else 0)
            terms = zip(positive, np.cumsum(positive), np.cumsum(total), strict=True)
            precision = sum(x * y / z for x, y, z in terms if x * y > 0) / len(same)
            weight = counts[a] / counts.max() if self.mining and counts.any() else 1
            found.append((1 - precision) * weight)
        return np.mean(found) if found else 0


def pulse(squared, middle):
    return max(1 - abs(max(squared, 0) - middle) / (4 / 30), 0)


def mean_above_zero(values):
    above = [value for value in values if value > 0]
    return np.mean(above) if above else 0


@settings(max_examples=60, deadline=None)
@given(
    batch=batches(),
    loss=st.sampled_from(sorted(set(LOSSES) - {"CentroidTripletLoss"})),
    miner=st.sampled_from(sorted(MINERS)),
)
def test_losses_are_what_plain_loops_give(batch, loss, miner):
    loops = Loops(*batch, miner)
    pairwise = loss not in ("TripletMarginLoss", "FastAPLoss")
    few = len(loops.positives) <= 1 and len(loops.negatives) <= 1
    expected = 0 if pairwise and few else getattr(loops, loss)()
    with in_float64():
        descriptors, labels = jnp.asarray(batch[0]), jnp.asarray(batch[1], "int32")

        def run(x):
            mined = MINERS[miner] and MINERS[miner](x, labels)
            return LOSSES[loss](x, labels, mined)

        value, gradient = map(np.asarray, jax.value_and_grad(run)(descriptors))
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss, miner", CASES)
def test_padding_changes_nothing(loss, miner):
    with in_float64():
        inputs, labels = jnp.asarray(GOLD["inputs"]), jnp.asarray(GOLD["labels"], "int32")
        spare = jnp.asarray(np.random.default_rng(0).standard_normal((5, inputs.shape[1])))

        @jax.value_and_grad
        def run(inputs, labels):
            descriptors = l2_normalize(inputs)
            mined = MINERS[miner] and MINERS[miner](descriptors, labels)
            return LOSSES[loss](descriptors, labels, mined)

        value, gradient = run(inputs, labels)
        padded = jnp.concatenate([labels, jnp.full(5, -1, "int32")])
        padded_value, padded_gradient = run(jnp.concatenate([inputs, spare]), padded)
        assert abs(value - padded_value) <= 1e-14 * abs(value)
        assert np.abs(padded_gradient[:24] - gradient).max() <= 1e-12 * np.abs(gradient).max()
        assert not padded_gradient[24:].any()


@pytest.mark.parametrize("loss, miner", CASES)
def test_rows_on_eight_devices_add_up(loss, miner):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with in_float64():
        descriptors = l2_normalize(jnp.asarray(GOLD["inputs"]))
        labels = jnp.asarray(GOLD["labels"], "int32")

        def device(descriptors, labels):
            rows = jax.lax.axis_index("data") * 3 + jnp.arange(3, dtype="int32")
            mined = MINERS[miner] and MINERS[miner](descriptors, labels, rows=rows)
            return LOSSES[loss](descriptors, labels, mined, rows=rows, axis_name="data")

        parallel = jax.shard_map(device, mesh=mesh, in_specs=(P(), P()), out_specs=P())
        found = float(jax.jit(parallel)(descriptors, labels))
    # Circle's exponents, of up to 80 and more, turn roundings of 1e-16 in a sum's order into 1e-12.
    assert found == pytest.approx(float(GOLD[f"{loss}/{miner}/f64/loss"]), rel=1e-10)


def test_copies_have_a_finite_gradient():
    descriptors = jnp.tile(l2_normalize(jnp.ones((1, 4))), (4, 1))
    labels = jnp.array([0, 0, 1, 1])
    for name, loss in LOSSES.items():
        gradient = jax.grad(lambda x, loss=loss: loss(x, labels))(descriptors)
        assert np.isfinite(gradient).all(), name


def test_the_examples_in_the_docstrings_hold():
    modules = {mining: 4, losses.pairs: 6, losses.triplets: 2, losses.ranking: 1}
    for module, count in modules.items():
        result = doctest.testmod(module, extraglobs=vars(mining), optionflags=doctest.ELLIPSIS)
        assert result.attempted >= count
        assert result.failed == 0


def test_centroids_take_no_miner():
    labels = jnp.array([0, 0])
    with pytest.raises(ValueError, match="takes no miner"):
        losses.centroid_triplet(jnp.eye(2), labels, mining.all_pairs(labels))

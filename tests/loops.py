"""Losses as plain loops, and the batches that they are compared on."""

import itertools

import numpy as np
from hypothesis import strategies as st

KINDS = ("mixed", "copies", "one place", "all distinct", "a single image")


@st.composite
def batches(draw, kind):
    """Descriptors and labels of a kind, of whatever size."""
    count = 1 if kind == "a single image" else draw(st.integers(2, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    descriptors = random.standard_normal((count, draw(st.integers(2, 5))))
    labels = random.integers(0, 4, count)
    if kind == "copies":
        descriptors = descriptors[random.integers(0, count, count)]
    elif kind == "one place":
        labels = np.full(count, 3)
    elif kind == "all distinct":
        labels = random.permutation(count)
    return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True), labels


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

    def CentroidTripletLoss(self):
        def towards(images):
            mean = np.mean([self.x[image] for image in images], axis=0)
            return mean / np.linalg.norm(mean)

        def distance(a, centroid):
            gap = np.linalg.norm(self.x[a] - centroid)
            return 0.0 if gap < 3e-8 else gap

        places, found = {label: np.flatnonzero(self.labels == label) for label in self.labels}, []
        for a in self.images:
            others = [image for image in places[self.labels[a]] if image != a]
            for label in places.keys() - {self.labels[a]}:
                if others:
                    near, far = distance(a, towards(others)), distance(a, towards(places[label]))
                    found.append(max(near - far + 0.05, 0))
        return mean_above_zero(found)

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

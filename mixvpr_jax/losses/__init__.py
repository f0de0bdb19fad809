"""Metric-learning losses over mined pairs and triplets, with the official parameters.

Each takes unit descriptors [n, d] and labels [n] of the whole batch (a negative label marks
padding) and what a miner chose (by default every pair), and gives a scalar. Shapes are fixed by
masks, so that all of it compiles, differentiates and runs inside a parallel step: with `rows`, a
device computes the part of its own anchors alone, and with `axis_name` the parts of all devices are
added up.

Definitions and reductions are those of pytorch-metric-learning 1.6 (Musgrave et al., 2020), and
parameters those of utils/losses.py of amaralibey/MixVPR.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Array

from mixvpr_jax.losses.pairs import circle, contrastive, lifted, multi_similarity, nt_xent, sup_con
from mixvpr_jax.losses.ranking import centroid_triplet, fast_ap, triplet_margin

Loss = Callable[..., Array]

# By the names that the official configuration knows them by.
LOSSES: Mapping[str, Loss] = {
    "MultiSimilarityLoss": multi_similarity,
    "SupConLoss": sup_con,
    "CircleLoss": circle,
    "ContrastiveLoss": contrastive,
    "Lifted": lifted,
    "FastAPLoss": fast_ap,
    "NTXentLoss": nt_xent,
    "TripletMarginLoss": triplet_margin,
    "CentroidTripletLoss": centroid_triplet,
}

__all__ = [
    "LOSSES",
    "Loss",
    "centroid_triplet",
    "circle",
    "contrastive",
    "fast_ap",
    "lifted",
    "multi_similarity",
    "nt_xent",
    "sup_con",
    "triplet_margin",
]

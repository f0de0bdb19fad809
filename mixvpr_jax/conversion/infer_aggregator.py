"""An aggregator's configuration, from the shapes of its weights."""

from __future__ import annotations

import math

from mixvpr_jax.conversion.formats import Checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import (
    BoQConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    OwnAggregatorConfig,
    SALADConfig,
)


def infer_aggregator(
    checkpoint: Checkpoint, pool_size: tuple[int, int] | None
) -> tuple[OwnAggregatorConfig | None, int | None]:
    """The aggregator and its input channels, where its weights tell them."""
    parts = {name.split(".")[1] for name in checkpoint.state if name.startswith("aggregator.")}
    if not parts:
        return None, None
    if parts & {"mix", "row_proj", "channel_proj"}:
        return _mixvpr(checkpoint)
    if "dust_bin" in parts:
        return _salad(checkpoint)
    if "boqs" in parts:
        return _boq(checkpoint)
    if "channel_pool" in parts:
        out_channels, in_channels = checkpoint.shape("aggregator.channel_pool.weight", 4)[:2]
        if pool_size is None:
            checkpoint.notes.append("ConvAP's cells taken as 2x2 (--pool-size S1 S2 for others)")
        return ConvAPConfig(out_channels, *(pool_size or (2, 2))), in_channels
    if "fc" in parts:
        out_dim, in_channels = checkpoint.shape("aggregator.fc.weight", 2)
        return CosPlaceConfig(out_dim), in_channels
    if "p" in parts:
        return GeMConfig(), None
    raise InputError(
        "aggregator: expected MixVPR (mix, channel_proj, row_proj), ConvAP (channel_pool), "
        "CosPlace (gem, fc), GeM (p), SALAD (dust_bin, score, …) or BoQ (boqs, fc, …); "
        f"found {', '.join(sorted(parts))}"
    )


def _mixvpr(checkpoint: Checkpoint) -> tuple[MixVPRConfig, int]:
    out_channels, in_channels = checkpoint.shape("aggregator.channel_proj.weight", 2)
    out_rows, positions = checkpoint.shape("aggregator.row_proj.weight", 2)
    depth = checkpoint.count(r"aggregator\.mix\.(\d{1,4})\.")
    ratio = 1.0
    if depth:
        hidden = checkpoint.shape("aggregator.mix.0.mix.1.weight", 2)[0]
        ratio = hidden / positions
        if int(positions * ratio) != hidden:  # the official code truncates
            ratio = math.nextafter(ratio, math.inf)
    return MixVPRConfig(out_channels, depth, ratio, out_rows), in_channels


def _salad(checkpoint: Checkpoint) -> tuple[SALADConfig, int]:
    num_clusters = checkpoint.shape("aggregator.score.3.weight", 4)[0]
    cluster_dim = checkpoint.shape("aggregator.cluster_features.3.weight", 4)[0]
    token_dim = checkpoint.shape("aggregator.token_features.2.weight", 2)[0]
    in_channels = checkpoint.shape("aggregator.cluster_features.0.weight", 4)[1]
    return SALADConfig(num_clusters, cluster_dim, token_dim), in_channels


def _boq(checkpoint: Checkpoint) -> tuple[BoQConfig, int]:
    channels, in_channels = checkpoint.shape("aggregator.proj_c.weight", 4)[:2]
    num_queries = checkpoint.shape("aggregator.boqs.0.queries", 3)[1]
    row_dim, read = checkpoint.shape("aggregator.fc.weight", 2)
    return BoQConfig(channels, num_queries, read // num_queries, row_dim), in_channels


def projection_of(checkpoint: Checkpoint) -> int | None:
    """Outputs of the Linear layer after the aggregator, as in MegaLoc; None if there is none.

    Other layouts' is left over, to be refused: no weight tells whether its input has unit norm.
    """
    name = "aggregator.linear.weight"
    if not checkpoint.layout.projects or name not in checkpoint.state:
        return None
    return checkpoint.shape(name, 2)[0]

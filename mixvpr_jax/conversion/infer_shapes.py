"""The aggregator and the backbone of a checkpoint, from the names and shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from mixvpr_jax.conversion.formats import Checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import BACKBONES, EFFICIENTNETS, RESNETS, SWINS, VITS, ViTShape
from mixvpr_jax.models.config import (
    BoQConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    OwnAggregatorConfig,
    SALADConfig,
)

Backbone = tuple[str, tuple[int, ...]]  # its name, and the stages that are cut

_PREFIX = "backbone.model."


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


# Backbones ---------------------------------------------------------------------------------------


def infer_backbone(
    checkpoint: Checkpoint, told: str | None, num_cropped: int | None, in_channels: int | None
) -> Backbone:
    """The backbone that the aggregator sits on, and which of its stages are cut.

    Its name and the number of cut stages are what hyper-parameters tell, if they do; the channels
    are what the aggregator's weights show. Weights of cut stages move to `checkpoint.dropped`.
    """
    if f"{_PREFIX}conv_stem.weight" in checkpoint.state:
        name = _efficientnet(checkpoint, told)
    elif f"{_PREFIX}patch_embed.norm.weight" in checkpoint.state:
        name = _swin(checkpoint, told)
    elif f"{_PREFIX}patch_embed.proj.weight" in checkpoint.state:
        name = _vit(checkpoint)
    else:
        return _resnet(checkpoint, told, num_cropped, in_channels)
    channels = BACKBONES[name].out_channels(4)
    if in_channels not in (None, channels):
        raise InputError(
            f"aggregator: expected {channels} input channels, as {name} gives, found {in_channels}"
        )
    return name, ()


def _counts(checkpoint: Checkpoint, pattern: str) -> dict[int, int]:
    """Blocks of each stage, in order; the pattern's groups are the numbers of stage and block."""
    counts: dict[int, int] = {}
    for name in checkpoint.state:
        if match := re.match(rf"backbone\.model\.{pattern}", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    return dict(sorted(counts.items()))


def _none_of(known: Iterable[str], found: str) -> InputError:
    return InputError(f"backbone: expected one of {', '.join(known)}; found {found}")


def _efficientnet(checkpoint: Checkpoint, told: str | None) -> str:
    if (told or "").startswith("tf_"):
        found = f"{told}, which pads convolutions differently and is not supported"
        raise _none_of(EFFICIENTNETS, found)
    blocks = list(_counts(checkpoint, r"blocks\.(\d{1,4})\.(\d{1,4})\.").values())
    stem = checkpoint.shape(f"{_PREFIX}conv_stem.weight", 4)[0]
    outer = checkpoint.shape(f"{_PREFIX}conv_head.weight", 4)[0]
    for name, shape in EFFICIENTNETS.items():
        own = [stage.blocks for stage in shape.stages], shape.scaled(32), shape.out_channels(4)
        if own == (blocks, stem, outer):
            if told != name:
                line = f"backbone taken as {name}; timm's tf_{name} has the same names and shapes"
                checkpoint.notes.append(f"{line}, but other padding and epsilon: not supported")
            return name
    found = f"stages of {blocks} blocks, a stem of {stem} channels and a head of {outer}"
    raise _none_of(EFFICIENTNETS, f"a network of timm's with {found}")


def _swin(checkpoint: Checkpoint, told: str | None) -> str:
    if f"{_PREFIX}layers.0.blocks.0.attn.relative_position_bias_table" in checkpoint.state:
        raise _none_of(SWINS, "a Swin Transformer V1")
    blocks = tuple(_counts(checkpoint, r"layers\.(\d{1,4})\.blocks\.(\d{1,4})\.").values())
    width = checkpoint.shape(f"{_PREFIX}patch_embed.norm.weight", 1)[0]
    names = [n for n, shape in SWINS.items() if (shape.width, shape.blocks) == (width, blocks)]
    if not names:
        found = f"a Swin Transformer of {width} channels and stages of {blocks} blocks"
        raise _none_of(SWINS, found)
    if told in names:
        return told
    if (told or "").startswith("swin"):
        raise _none_of(names, f"{told}")
    checkpoint.notes.append(f"backbone taken as {names[0]}: weights do not tell the windows")
    return names[0]


def _vit(checkpoint: Checkpoint) -> str:
    width = checkpoint.shape(f"{_PREFIX}patch_embed.proj.weight", 4)[0]
    depth = checkpoint.count(r"backbone\.model\.blocks\.(\d{1,4})\.")
    gated = f"{_PREFIX}blocks.0.mlp.w12.weight" in checkpoint.state
    tokens = f"{_PREFIX}register_tokens"
    registers = checkpoint.shape(tokens, 3)[1] if tokens in checkpoint.state else 0
    for name, shape in VITS.items():
        if shape == ViTShape(depth, width, shape.heads, gated, registers):
            return name
    found = f"{depth} {'gated ' * gated}blocks of {width} channels with {registers} registers"
    raise _none_of(VITS, found)


def _resnet(
    checkpoint: Checkpoint, told: str | None, num_cropped: int | None, in_channels: int | None
) -> Backbone:
    counts = _counts(checkpoint, r"layer(\d)\.(\d{1,4})\.")
    if list(counts) not in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
        found = list(counts) or "none"
        raise InputError(f"backbone: expected stages 1-2, 1-3 or 1-4 (layer1, …), found {found}")
    blocks = tuple(counts.values())
    inner, group_inputs = checkpoint.shape(f"{_PREFIX}layer1.0.conv2.weight", 4)[:2]
    groups = inner // group_inputs
    bottleneck = f"{_PREFIX}layer1.0.conv3.weight" in checkpoint.state
    names = [
        name
        for name, shape in RESNETS.items()
        if shape.blocks[: len(blocks)] == blocks
        and (shape.bottleneck, shape.groups, shape.inner_channels(1)) == (bottleneck, groups, inner)
    ]
    if not names:
        found = f"stages of {blocks} blocks, {inner} inner channels in {groups} groups"
        raise _none_of(RESNETS, found)
    # Official code may leave stages in the file that the aggregator never sees.
    num_stages = min(len(blocks), 4 - (num_cropped or 0))
    if in_channels is not None:
        channels = {RESNETS[names[0]].out_channels(s): s for s in range(2, len(blocks) + 1)}
        if in_channels not in channels:
            raise InputError(
                f"aggregator: expected as many input channels as a stage gives ({list(channels)}), "
                f"found {in_channels}"
            )
        num_stages = channels[in_channels]
    checkpoint.drop("cut stages", rf"backbone\.model\.layer[{num_stages + 1}-9]\..*")
    crop = tuple(range(num_stages + 1, 5))
    if told in names:
        return told, crop
    if len(names) > 1:  # the stages that are kept are the same network
        line = f"backbone called {names[0]}; the same, as far as it is kept: {', '.join(names[1:])}"
        checkpoint.notes.append(line)
    return names[0], crop

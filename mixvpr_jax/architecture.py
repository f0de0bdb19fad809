"""A model's configuration, read off the names and shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mixvpr_jax.checkpoints import Checkpoint
from mixvpr_jax.config import (
    AggregatorConfig,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
)
from mixvpr_jax.errors import InputError
from mixvpr_jax.trunks import TRUNKS, TrunkShape

Size = tuple[int, int]


def infer_config(
    checkpoint: Checkpoint, *, in_size: Size | None = None, pool_size: Size | None = None
) -> ModelConfig:
    """The configuration whose weights these are; stages that it cuts move to `dropped`.

    Args:
        checkpoint: What `read_checkpoint` gave; its state, dropped and notes are amended.
        in_size: Height and width of the feature map; of MixVPR's the weights tell the product
            alone. By default the hyper-parameters of a Lightning checkpoint, else a square.
        pool_size: ConvAP's cells (s1, s2), which no weight tells. By default the
            hyper-parameters, else the official 2 x 2, noted.

    Raises:
        InputError: No known trunk or aggregator; a size that is needed or does not fit.
    """
    for size in (in_size, pool_size):
        if size is not None and min(size) < 1:
            raise InputError(f"expected a size of two numbers above 0, found {size[0]} {size[1]}")
    aggregator, in_channels = _aggregator(checkpoint, pool_size)
    arch, num_stages = _trunk(checkpoint, in_channels)
    config = ModelConfig(arch, tuple(range(num_stages + 1, 5)), aggregator)
    size = config.image_size
    if isinstance(aggregator, MixVPRConfig):
        in_h, in_w = _map_size(checkpoint, in_size)
        size = (in_h * config.stride, in_w * config.stride)
    elif in_size is not None:
        size = (in_size[0] * config.stride, in_size[1] * config.stride)
    return ModelConfig(arch, config.layers_to_crop, aggregator, size)


def _trunk(checkpoint: Checkpoint, in_channels: int | None) -> tuple[str, int]:
    """The trunk's name and how many of its stages the aggregator sits on."""
    blocks = _block_counts(checkpoint)
    inner, group_inputs = _shape(checkpoint, "backbone.model.layer1.0.conv2.weight", 4)[:2]
    groups = inner // group_inputs
    bottleneck = "backbone.model.layer1.0.conv3.weight" in checkpoint.state
    names = [
        name
        for name, shape in TRUNKS.items()
        if shape.blocks[: len(blocks)] == blocks
        and (shape.bottleneck, shape.groups, shape.inner_channels(1)) == (bottleneck, groups, inner)
    ]
    if not names:
        found = f"stages of {blocks} blocks, {inner} inner channels in {groups} groups"
        raise InputError(f"trunk: expected one of {', '.join(TRUNKS)}; found {found}")
    num_stages = _kept_stages(checkpoint, TRUNKS[names[0]], len(blocks), in_channels)
    cut = rf"backbone\.model\.layer[{num_stages + 1}-9]\..*"
    checkpoint.drop("cut stages", [name for name in checkpoint.state if re.fullmatch(cut, name)])
    return _name_among(checkpoint, names), num_stages


def _name_among(checkpoint: Checkpoint, names: list[str]) -> str:
    """Which of the trunks whose kept stages are the same network was trained."""
    told = str(checkpoint.hyper_parameters.get("backbone_arch", "")).lower()
    if told in names or len(names) == 1:
        return told if told in names else names[0]
    others = ", ".join(names[1:])
    checkpoint.notes.append(f"trunk called {names[0]}; the same, as far as it is kept: {others}")
    return names[0]


def _block_counts(checkpoint: Checkpoint) -> tuple[int, ...]:
    counts: dict[int, int] = {}
    for name in checkpoint.state:
        if match := re.match(r"backbone\.model\.layer(\d)\.(\d{1,4})\.", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    if sorted(counts) not in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
        found = sorted(counts) or "none"
        raise InputError(f"trunk: expected stages 1-2, 1-3 or 1-4 (layer1, …), found {found}")
    return tuple(counts[stage] for stage in sorted(counts))


def _kept_stages(
    checkpoint: Checkpoint, shape: TrunkShape, present: int, in_channels: int | None
) -> int:
    """Official code may leave stages in the file that the aggregator never sees."""
    if in_channels is None:
        cropped = checkpoint.hyper_parameters.get("layers_to_crop")
        if isinstance(cropped, list) and cropped in ([], [4], [3, 4], [4, 3]):
            return min(present, 4 - len(cropped))
        return present
    for stage in range(2, present + 1):
        if shape.out_channels(stage) == in_channels:
            return stage
    offered = [shape.out_channels(stage) for stage in range(2, present + 1)]
    raise InputError(
        f"aggregator: expected as many input channels as a stage gives ({offered}), "
        f"found {in_channels}"
    )


def _aggregator(
    checkpoint: Checkpoint, pool_size: Size | None
) -> tuple[AggregatorConfig | None, int | None]:
    """The aggregator and its input channels, where its weights tell them."""
    parts = {name.split(".")[1] for name in checkpoint.state if name.startswith("aggregator.")}
    if not parts:
        return None, None
    if parts & {"mix", "row_proj", "channel_proj"}:
        return _mixvpr(checkpoint)
    if "channel_pool" in parts:
        out_channels, in_channels = _shape(checkpoint, "aggregator.channel_pool.weight", 4)[:2]
        return ConvAPConfig(out_channels, *_pool_size(checkpoint, pool_size)), in_channels
    if "fc" in parts:
        out_dim, in_channels = _shape(checkpoint, "aggregator.fc.weight", 2)
        return CosPlaceConfig(out_dim), in_channels
    if "p" in parts:
        return GeMConfig(), None
    raise InputError(
        "aggregator: expected MixVPR (mix, channel_proj, row_proj), ConvAP (channel_pool), "
        f"CosPlace (gem, fc) or GeM (p); found {', '.join(sorted(parts))}"
    )


def _mixvpr(checkpoint: Checkpoint) -> tuple[MixVPRConfig, int]:
    out_channels, in_channels = _shape(checkpoint, "aggregator.channel_proj.weight", 2)
    out_rows, positions = _shape(checkpoint, "aggregator.row_proj.weight", 2)
    mixers = [re.match(r"aggregator\.mix\.(\d{1,4})\.", name) for name in checkpoint.state]
    depth = 1 + max((int(match[1]) for match in mixers if match), default=-1)
    ratio = 1.0
    if depth:
        hidden = _shape(checkpoint, "aggregator.mix.0.mix.1.weight", 2)[0]
        ratio = hidden / positions
        if int(positions * ratio) != hidden:  # the official code truncates
            ratio = math.nextafter(ratio, math.inf)
    return MixVPRConfig(out_channels, depth, ratio, out_rows), in_channels


def _map_size(checkpoint: Checkpoint, given: Size | None) -> Size:
    """Height and width of the feature map whose product the weights tell."""
    positions = _shape(checkpoint, "aggregator.row_proj.weight", 2)[1]
    side = math.isqrt(positions)
    size = given or _hyper_parameter_pair(checkpoint, "in_h", "in_w")
    if size is None and side * side == positions:
        checkpoint.notes.append(
            f"a map of {positions} positions taken as {side}x{side} (--in-size H W for another)"
        )
        size = (side, side)
    if size is None:
        raise InputError(
            f"feature map: {positions} positions are no square: give its height and width with "
            "--in-size H W"
        )
    if size[0] * size[1] != positions:
        raise InputError(
            f"feature map: expected {positions} positions, found {size[0]}x{size[1]}; "
            "give its height and width with --in-size H W"
        )
    return size


def _pool_size(checkpoint: Checkpoint, given: Size | None) -> Size:
    size = given or _hyper_parameter_pair(checkpoint, "s1", "s2")
    if size is None:
        checkpoint.notes.append("ConvAP's cells taken as 2x2 (--pool-size S1 S2 for others)")
    return size or (2, 2)


def _hyper_parameter_pair(checkpoint: Checkpoint, first: str, second: str) -> Size | None:
    """Two integers of the aggregator's configuration, as the official Lightning module keeps it."""
    values: Any = checkpoint.hyper_parameters.get("agg_config")
    if not isinstance(values, Mapping):
        return None
    one, other = values.get(first), values.get(second)
    return (one, other) if type(one) is int and type(other) is int else None


def _shape(checkpoint: Checkpoint, name: str, rank: int) -> tuple[int, ...]:
    if name not in checkpoint.state:
        raise InputError(f"missing {name}, without which the model cannot be inferred")
    shape = checkpoint.state[name].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{name}: expected {rank} axes, none of them empty, found {list(shape)}")
    return shape

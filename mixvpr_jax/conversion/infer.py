"""A model's configuration, read off the names and shapes of its weights."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from mixvpr_jax.conversion.formats import Checkpoint
from mixvpr_jax.conversion.hyper_parameters import Size
from mixvpr_jax.conversion.key_table import BACKBONE
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import (
    AGGREGATORS,
    BACKBONES,
    AggregatorConfig,
    BackboneShape,
    ConvAPConfig,
    CosPlaceConfig,
    GeMConfig,
    MixVPRConfig,
    ModelConfig,
)

# What repositories call the aggregators whose weights are known.
_CALLED = {
    "mixvpr": MixVPRConfig,
    "convap": ConvAPConfig,
    "cosplace": CosPlaceConfig,
    "gem": GeMConfig,
    "gempool": GeMConfig,
}


def infer_config(
    checkpoint: Checkpoint,
    *,
    image_size: Size | None = None,
    in_size: Size | None = None,
    pool_size: Size | None = None,
) -> ModelConfig:
    """The configuration whose weights these are; stages that it cuts move to `dropped`.

    Args:
        checkpoint: What `read_checkpoint` gave; its state, dropped and notes are amended.
        image_size: Height and width that images are resized to, in pixels. By default what the
            hyper-parameters say, else the largest with the feature map, else what is usual, noted.
        in_size: Height and width of the feature map; of MixVPR's the weights tell the product
            alone. By default that of the image size, else what the hyper-parameters say, else a
            square, noted.
        pool_size: ConvAP's cells (s1, s2), which no weight tells. By default the
            hyper-parameters, else the official 2 x 2, noted.

    Raises:
        InputError: No known backbone or aggregator; a size that is needed or does not fit.
    """
    for size in (image_size, in_size, pool_size):
        if size is not None and min(size) < 1:
            raise InputError(f"expected a size of two numbers above 0, found {size[0]} {size[1]}")
    aggregator, in_channels = _aggregator(checkpoint, pool_size)
    _require_told(checkpoint, aggregator)
    arch, num_stages = _backbone(checkpoint, in_channels)
    interpolation = checkpoint.layout.interpolation
    if interpolation != "bilinear":
        checkpoint.notes.append(f"images resized by a {interpolation} filter, as there")
    crop = tuple(range(num_stages + 1, 5))
    config = ModelConfig(arch, crop, aggregator, interpolation=interpolation)
    return replace(config, image_size=_image_size(checkpoint, config, image_size, in_size))


def _backbone(checkpoint: Checkpoint, in_channels: int | None) -> tuple[str, int]:
    """The backbone's name and how many of its stages the aggregator sits on."""
    blocks = _block_counts(checkpoint)
    inner, group_inputs = _shape(checkpoint, "backbone.model.layer1.0.conv2.weight", 4)[:2]
    groups = inner // group_inputs
    bottleneck = "backbone.model.layer1.0.conv3.weight" in checkpoint.state
    names = [
        name
        for name, shape in BACKBONES.items()
        if shape.blocks[: len(blocks)] == blocks
        and (shape.bottleneck, shape.groups, shape.inner_channels(1)) == (bottleneck, groups, inner)
    ]
    if not names:
        found = f"stages of {blocks} blocks, {inner} inner channels in {groups} groups"
        raise InputError(f"backbone: expected one of {', '.join(BACKBONES)}; found {found}")
    num_stages = _kept_stages(checkpoint, BACKBONES[names[0]], len(blocks), in_channels)
    cut = rf"backbone\.model\.layer[{num_stages + 1}-9]\..*"
    checkpoint.drop("cut stages", [name for name in checkpoint.state if re.fullmatch(cut, name)])
    return _name_among(checkpoint, names), num_stages


def _name_among(checkpoint: Checkpoint, names: list[str]) -> str:
    """Which of the backbones whose kept stages are the same network was trained."""
    told = checkpoint.told.arch
    if told in names or len(names) == 1:
        return told if told in names else names[0]
    others = ", ".join(names[1:])
    checkpoint.notes.append(f"backbone called {names[0]}; the same, as far as it is kept: {others}")
    return names[0]


def _block_counts(checkpoint: Checkpoint) -> tuple[int, ...]:
    counts: dict[int, int] = {}
    for name in checkpoint.state:
        if match := re.match(r"backbone\.model\.layer(\d)\.(\d{1,4})\.", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    if sorted(counts) not in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
        found = sorted(counts) or "none"
        raise InputError(f"backbone: expected stages 1-2, 1-3 or 1-4 (layer1, …), found {found}")
    return tuple(counts[stage] for stage in sorted(counts))


def _kept_stages(
    checkpoint: Checkpoint, shape: BackboneShape, present: int, in_channels: int | None
) -> int:
    """Official code may leave stages in the file that the aggregator never sees."""
    if in_channels is None:
        cropped = checkpoint.told.num_cropped
        return present if cropped is None else min(present, 4 - cropped)
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


def _require_told(checkpoint: Checkpoint, aggregator: AggregatorConfig | None) -> None:
    """Holds the aggregator that the weights are of to the one that the hyper-parameters name."""
    told = checkpoint.told.aggregator
    found = "no weights of an aggregator" if aggregator is None else f"weights of {aggregator.name}"
    if told is None:
        if aggregator is None and checkpoint.layout is not BACKBONE:
            checkpoint.notes.append(
                f"{found}: taken as a bare backbone; averages have none, either"
            )
        return
    kind = _CALLED.get(told.lower())
    if kind is not None and type(aggregator) is kind:
        return
    if kind is None and aggregator is not None:
        checkpoint.notes.append(f"{found}, which the hyper-parameters call {told!r:.40}")
        return
    known = ", ".join(kind.name for kind in AGGREGATORS.values())
    raise InputError(
        f"aggregator: expected one of {known} by weights and hyper-parameters alike, found {found} "
        f"and {told!r:.40} in the hyper-parameters"
    )


def _image_size(
    checkpoint: Checkpoint, config: ModelConfig, given: Size | None, in_size: Size | None
) -> Size:
    """Height and width of the images, which the feature map and the weights agree with."""
    size = given or checkpoint.told.image_size
    if size is not None:
        _require_agreement(checkpoint, replace(config, image_size=size), given, in_size)
        return size
    if isinstance(config.aggregator, MixVPRConfig):
        in_size = _map_size(checkpoint, in_size)
    if in_size is None:
        height, width = checkpoint.layout.image_size
        line = f"images taken as {height}x{width}, as is usual (--image-size H W for another size)"
        checkpoint.notes.append(line)
        return height, width
    height, width = (length * config.stride for length in in_size)
    checkpoint.notes.append(
        f"images taken as {height}x{width}, the largest with a map of {in_size[0]}x{in_size[1]} "
        "(--image-size H W for another size)"
    )
    return height, width


def _require_agreement(
    checkpoint: Checkpoint, config: ModelConfig, given: Size | None, in_size: Size | None
) -> None:
    """Raises InputError where an image size makes another feature map than there must be."""
    found = config.feature_size
    text = (
        f"images of {_by(config.image_size)}{'' if given else ' in the hyper-parameters'} make a "
        f"feature map of {_by(found)}"
    )
    told_map = None if given else checkpoint.told.map_size  # what is given has the last word
    for expected, where in ((in_size, "--in-size"), (told_map, "in_h and in_w")):
        if expected is not None and tuple(expected) != found:
            raise InputError(
                f"{text}, {where} say {_by(expected)}; give the right size with --image-size H W"
            )
    if isinstance(config.aggregator, MixVPRConfig):
        positions = _positions(checkpoint)
        if found[0] * found[1] != positions:
            raise InputError(
                f"{text}, MixVPR's weights are for {positions:,} positions; give the right size "
                "with --image-size H W"
            )


def _map_size(checkpoint: Checkpoint, given: Size | None) -> Size:
    """Height and width of the feature map whose product the weights tell."""
    positions = _positions(checkpoint)
    side = math.isqrt(positions)
    size = given or checkpoint.told.map_size
    if size is None and side * side == positions:
        checkpoint.notes.append(
            f"a map of {positions} positions taken as {side}x{side} (--in-size H W for another)"
        )
        size = (side, side)
    if size is None:
        raise InputError(
            f"feature map: {positions} positions are no square: give its height and width with "
            "--in-size H W, or those of images with --image-size H W"
        )
    if size[0] * size[1] != positions:
        raise InputError(
            f"feature map: expected {positions} positions, found {size[0]}x{size[1]}; "
            "give its height and width with --in-size H W"
        )
    return size


def _positions(checkpoint: Checkpoint) -> int:
    return _shape(checkpoint, "aggregator.row_proj.weight", 2)[1]


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _pool_size(checkpoint: Checkpoint, given: Size | None) -> Size:
    size = given or checkpoint.told.pool_size
    if size is None:
        checkpoint.notes.append("ConvAP's cells taken as 2x2 (--pool-size S1 S2 for others)")
    return size or (2, 2)


def _shape(checkpoint: Checkpoint, name: str, rank: int) -> tuple[int, ...]:
    if name not in checkpoint.state:
        raise InputError(f"missing {name}, without which the model cannot be inferred")
    shape = checkpoint.state[name].shape
    if len(shape) != rank or 0 in shape:
        raise InputError(f"{name}: expected {rank} axes, none of them empty, found {list(shape)}")
    return shape

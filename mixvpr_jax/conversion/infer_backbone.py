"""The backbone of a checkpoint, from the names and shapes of its weights."""

from __future__ import annotations

import re

from mixvpr_jax.conversion.formats import Checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.backbones import BACKBONES, EFFICIENTNETS, RESNETS, SWINS, VITS, ViTShape

Backbone = tuple[str, tuple[int, ...]]  # its name, and the stages that are cut

_PREFIX = "backbone.model."


def infer_backbone(
    checkpoint: Checkpoint, told: str | None, num_cropped: int | None, in_channels: int | None
) -> Backbone:
    """The backbone that the aggregator sits on, and which of its stages are cut.

    Its name and the number of cut stages are what hyper-parameters tell, if they do; the channels
    are what the aggregator's weights show. Weights of cut stages move to `checkpoint.dropped`.

    Raises:
        InputError: No known backbone, or one with other channels than the aggregator takes.
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


def _efficientnet(checkpoint: Checkpoint, told: str | None) -> str:
    if (told or "").startswith("tf_"):
        raise InputError(
            f"backbone: expected one of {', '.join(EFFICIENTNETS)}; found {told}, which pads "
            "convolutions differently and is not supported"
        )
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
    raise InputError(
        f"backbone: expected one of {', '.join(EFFICIENTNETS)}; found a network of timm's with "
        f"stages of {blocks} blocks, a stem of {stem} channels and a head of {outer}"
    )


def _swin(checkpoint: Checkpoint, told: str | None) -> str:
    expected = next(iter(SWINS))
    if f"{_PREFIX}layers.0.blocks.0.attn.relative_position_bias_table" in checkpoint.state:
        raise InputError(f"backbone: expected {expected}, found a Swin Transformer V1")
    blocks = tuple(_counts(checkpoint, r"layers\.(\d{1,4})\.blocks\.(\d{1,4})\.").values())
    width = checkpoint.shape(f"{_PREFIX}patch_embed.norm.weight", 1)[0]
    names = [n for n, shape in SWINS.items() if (shape.width, shape.blocks) == (width, blocks)]
    if not names:
        raise InputError(
            f"backbone: expected {expected}, found a Swin Transformer of {width} channels and "
            f"stages of {blocks} blocks"
        )
    if told in names:
        return told
    if (told or "").startswith("swin"):
        raise InputError(f"backbone: expected one of {', '.join(names)}; found {told}")
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
    raise InputError(
        f"backbone: expected one of {', '.join(VITS)}; found {depth} {'gated ' * gated}blocks of "
        f"{width} channels with {registers} registers"
    )


def _resnet(
    checkpoint: Checkpoint, told: str | None, num_cropped: int | None, in_channels: int | None
) -> Backbone:
    """The backbone that the aggregator sits on; stages that it never sees are dropped."""
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
        raise InputError(f"backbone: expected one of {', '.join(RESNETS)}; found {found}")
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

"""Shapes of the backbones that the package has, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ResNetShape:
    """The layout of a torchvision ResNet (V1).

    Attributes:
        blocks: Residual blocks in each of stages 1-4.
        bottleneck: Whether blocks are 1x1, 3x3, 1x1 convolutions instead of two 3x3.
        groups: Groups of the 3x3 convolutions of bottleneck blocks.
        base_width: Channels of a group in stage 1.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    base_width: int = 64

    @property
    def expansion(self) -> int:
        """Output channels of a block as a multiple of its planes."""
        return 4 if self.bottleneck else 1

    def out_channels(self, stage: int) -> int:
        """Channels that leave `stage` (1-4)."""
        return 64 * 2 ** (stage - 1) * self.expansion

    def inner_channels(self, stage: int) -> int:
        """Channels of the 3x3 convolutions inside the blocks of `stage` (1-4)."""
        return 2 ** (stage - 1) * self.base_width * self.groups


@dataclass(frozen=True)
class ViTShape:
    """The layout of a DINOv2 vision transformer, with patches of 14 pixels.

    Attributes:
        depth: Blocks.
        width: Channels of a token.
        heads: Heads of attention.
        swiglu: Whether the blocks' MLPs are gated, as those of ViT-g.
        num_registers: Register tokens.
    """

    depth: int
    width: int
    heads: int
    swiglu: bool = False
    num_registers: int = 0

    @property
    def hidden(self) -> int:
        """Width of an MLP's hidden layer."""
        hidden = 4 * self.width
        return (hidden * 2 // 3 + 7) // 8 * 8 if self.swiglu else hidden


RESNETS: Mapping[str, ResNetShape] = {
    "resnet18": ResNetShape((2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetShape((3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetShape((3, 4, 6, 3), bottleneck=True),
    "resnet101": ResNetShape((3, 4, 23, 3), bottleneck=True),
    "resnet152": ResNetShape((3, 8, 36, 3), bottleneck=True),
    "resnext50_32x4d": ResNetShape((3, 4, 6, 3), bottleneck=True, groups=32, base_width=4),
    "resnext101_32x8d": ResNetShape((3, 4, 23, 3), bottleneck=True, groups=32, base_width=8),
    "wide_resnet50_2": ResNetShape((3, 4, 6, 3), bottleneck=True, base_width=128),
    "wide_resnet101_2": ResNetShape((3, 4, 23, 3), bottleneck=True, base_width=128),
}
_PLAIN = {
    "dinov2_vits14": ViTShape(12, 384, 6),
    "dinov2_vitb14": ViTShape(12, 768, 12),
    "dinov2_vitl14": ViTShape(24, 1024, 16),
    "dinov2_vitg14": ViTShape(40, 1536, 24, swiglu=True),
}
VITS: Mapping[str, ViTShape] = _PLAIN | {
    f"{name}_reg": replace(shape, num_registers=4) for name, shape in _PLAIN.items()
}
BACKBONES: Mapping[str, ResNetShape | ViTShape] = {**RESNETS, **VITS}
PATCH = 14  # pixels of a transformer's patch

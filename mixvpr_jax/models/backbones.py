"""Shapes of the backbones that the package has, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

PATCH = 14  # pixels of a DINOv2 transformer's patch


class Shape:
    """What a model's configuration asks of any backbone; with the answers of most.

    Attributes:
        crops: What `layers_to_crop` may be.
    """

    crops: ClassVar[tuple[tuple[int, ...], ...]] = ((),)

    @property
    def sizes(self) -> str:
        """The images that it takes, in words."""
        return "any"

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """The size closest to this one that images may have, in pixels."""
        return height, width

    def stride(self, num_stages: int) -> int:
        """Pixels of an image per position of the feature map."""
        return 32

    def out_channels(self, num_stages: int) -> int:
        """Channels of the feature map."""
        raise NotImplementedError(f"{type(self).__name__}.out_channels")

    @property
    def most_frozen(self) -> int:
        """The largest `layers_to_freeze`."""
        return 3


@dataclass(frozen=True)
class ResNetShape(Shape):
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
    crops = ((), (4,), (3, 4))

    def stride(self, num_stages: int) -> int:
        return 4 * 2 ** (num_stages - 1)

    def out_channels(self, num_stages: int) -> int:
        """Channels that leave so many stages (1-4)."""
        return 64 * 2 ** (num_stages - 1) * (4 if self.bottleneck else 1)

    def inner_channels(self, stage: int) -> int:
        """Channels of the 3x3 convolutions inside the blocks of `stage` (1-4)."""
        return 2 ** (stage - 1) * self.base_width * self.groups


@dataclass(frozen=True)
class ViTShape(Shape):
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
    def sizes(self) -> str:
        return f"multiples of {PATCH} pixels"

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = (max(round(side / PATCH), 1) for side in (height, width))
        return rows * PATCH, columns * PATCH

    def stride(self, num_stages: int) -> int:
        return PATCH

    def out_channels(self, num_stages: int) -> int:
        return self.width

    @property
    def most_frozen(self) -> int:
        return self.depth

    @property
    def hidden(self) -> int:
        """Width of an MLP's hidden layer."""
        hidden = 4 * self.width
        return (hidden * 2 // 3 + 7) // 8 * 8 if self.swiglu else hidden


class Stage(NamedTuple):
    """Blocks of an EfficientNet; the first of them has the stride."""

    kernel: int
    stride: int
    expansion: int  # channels inside a block, as a multiple of those that enter
    channels: int
    blocks: int


_B0 = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class EfficientNetShape(Shape):
    """The layout of an EfficientNet of timm's, which scales that of B0.

    Attributes:
        width: Factor of the channels, which are rounded to multiples of 8.
        depth: Factor of the blocks of each stage, rounded up.
    """

    width: float
    depth: float

    @property
    def most_frozen(self) -> int:
        return 4

    @property
    def stages(self) -> list[Stage]:
        """The seven stages."""
        return [
            stage._replace(
                channels=self.scaled(stage.channels), blocks=math.ceil(stage.blocks * self.depth)
            )
            for stage in _B0
        ]

    def scaled(self, channels: int) -> int:
        """Channels where B0 has so many: rounded to the nearest 8, but down by a tenth at most."""
        exact = channels * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * exact else rounded

    def out_channels(self, num_stages: int) -> int:
        return self.scaled(1280)


@dataclass(frozen=True)
class SwinShape(Shape):
    """The layout of a Swin Transformer V2 of timm's, which takes square images of one size.

    Attributes:
        side: Of the images, in pixels.
        width: Channels of the first stage; each further one has twice as many.
        blocks: Blocks of each stage.
        heads: Heads of attention of each stage.
        window: Positions along a side of a window of attention; a smaller map is one window.
        trained_windows: The same in pre-training, for each stage.
    """

    side: int
    width: int
    blocks: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    trained_windows: tuple[int, int, int, int]

    @property
    def sizes(self) -> str:
        return f"images of {self.side}x{self.side}"

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        return self.side, self.side

    def out_channels(self, num_stages: int) -> int:
        return 8 * self.width


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
EFFICIENTNETS: Mapping[str, EfficientNetShape] = {
    "efficientnet_b0": EfficientNetShape(1.0, 1.0),
    "efficientnet_b1": EfficientNetShape(1.0, 1.1),
    "efficientnet_b2": EfficientNetShape(1.1, 1.2),
    "efficientnet_b3": EfficientNetShape(1.2, 1.4),
    "efficientnet_b4": EfficientNetShape(1.4, 1.8),
}
_SWINV2_BASE = SwinShape(256, 128, (2, 2, 18, 2), (4, 8, 16, 32), 16, (12, 12, 12, 6))
SWINS: Mapping[str, SwinShape] = {
    "swinv2_base_window12to16_192to256": _SWINV2_BASE,
    "swinv2_base_window12to16_192to256_22kft1k": _SWINV2_BASE,  # as the official code calls it
}
BACKBONES: Mapping[str, Shape] = {**RESNETS, **VITS, **EFFICIENTNETS, **SWINS}

"""The trunks: what tells one torchvision ResNet (V1) from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrunkShape:
    """The layout of a torchvision ResNet (V1): what tells one architecture from another.

    Attributes:
        blocks: Number of residual blocks of stages 1-4.
        bottleneck: Blocks of 1x1, 3x3, 1x1 convolutions (else two 3x3).
        groups: Groups of the 3x3 convolutions of bottleneck blocks.
        base_width: Channels of a group where a stage has 64 planes.
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


TRUNKS: Mapping[str, TrunkShape] = {
    "resnet18": TrunkShape((2, 2, 2, 2), bottleneck=False),
    "resnet34": TrunkShape((3, 4, 6, 3), bottleneck=False),
    "resnet50": TrunkShape((3, 4, 6, 3), bottleneck=True),
    "resnet101": TrunkShape((3, 4, 23, 3), bottleneck=True),
    "resnet152": TrunkShape((3, 8, 36, 3), bottleneck=True),
    "resnext50_32x4d": TrunkShape((3, 4, 6, 3), bottleneck=True, groups=32, base_width=4),
    "resnext101_32x8d": TrunkShape((3, 4, 23, 3), bottleneck=True, groups=32, base_width=8),
    "wide_resnet50_2": TrunkShape((3, 4, 6, 3), bottleneck=True, base_width=128),
    "wide_resnet101_2": TrunkShape((3, 4, 23, 3), bottleneck=True, base_width=128),
}

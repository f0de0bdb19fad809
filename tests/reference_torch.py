"""The official model in PyTorch, written afresh with the official parameter names.

It exists to be compared against: it defines what a checkpoint's names and shapes are (torchvision's
ResNet under `backbone.model`, the aggregators of amaralibey/MixVPR and amaralibey/gsv-cities under
`aggregator`) and what its descriptors must be. Arrays are NCHW here.
"""

from __future__ import annotations

import torch_or_skip as torch
from reference_heads import TorchBoQ

F, nn = torch.nn.functional, torch.nn

# arch: (block counts, uses bottlenecks, groups, width per group)
ARCHS = {
    "resnet18": ((2, 2, 2, 2), False, 1, 64),
    "resnet34": ((3, 4, 6, 3), False, 1, 64),
    "resnet50": ((3, 4, 6, 3), True, 1, 64),
    "resnet101": ((3, 4, 23, 3), True, 1, 64),
    "resnet152": ((3, 8, 36, 3), True, 1, 64),
    "resnext50_32x4d": ((3, 4, 6, 3), True, 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), True, 32, 8),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 1, 128),
    "wide_resnet101_2": ((3, 4, 23, 3), True, 1, 128),
}


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3 (strided, grouped), 1x1."""

    def __init__(
        self, inputs: int, planes: int, stride: int, bottleneck: bool, groups: int, base: int
    ):
        super().__init__()
        self.bottleneck = bottleneck
        outputs = planes * (4 if bottleneck else 1)
        width = planes * base // 64 * groups
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchvisionResNet(nn.Module):
    """torchvision's ResNet V1 up to its last kept stage; `full` adds the classifier `fc`."""

    def __init__(self, arch: str, stages: int = 4, full: bool = False):
        super().__init__()
        counts, bottleneck, groups, base = ARCHS[arch]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(counts[:stages]):
            blocks = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                planes = 64 * 2**stage
                blocks.append(Block(channels, planes, stride, bottleneck, groups, base))
                channels = planes * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = stages
        self.out_channels = channels
        if full:
            self.fc = nn.Linear(channels, 1000)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x


class Backbone(nn.Module):
    """Gives the backbone its official name, `backbone.model`."""

    def __init__(self, arch: str, layers_to_crop: tuple[int, ...]):
        super().__init__()
        self.model = TorchvisionResNet(arch, 4 - len(layers_to_crop))

    def forward(self, x):
        return self.model(x)


class FeatureMixerLayer(nn.Module):
    def __init__(self, size: int, mlp_ratio: float):
        super().__init__()
        hidden = int(size * mlp_ratio)
        self.mix = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size)
        )

    def forward(self, x):
        return x + self.mix(x)


class MixVPR(nn.Module):
    def __init__(self, in_channels, in_h, in_w, out_channels, mix_depth, mlp_ratio, out_rows):
        super().__init__()
        size = in_h * in_w
        self.mix = nn.Sequential(*(FeatureMixerLayer(size, mlp_ratio) for _ in range(mix_depth)))
        self.channel_proj = nn.Linear(in_channels, out_channels)
        self.row_proj = nn.Linear(size, out_rows)

    def forward(self, x):
        x = self.mix(x.flatten(2))
        x = self.channel_proj(x.mT).mT
        return F.normalize(self.row_proj(x).flatten(1), dim=1)


class ConvAP(nn.Module):
    def __init__(self, in_channels, out_channels, s1=2, s2=2):
        super().__init__()
        self.channel_pool = nn.Conv2d(in_channels, out_channels, 1)
        self.AAP = nn.AdaptiveAvgPool2d((s1, s2))

    def forward(self, x):
        return F.normalize(self.AAP(self.channel_pool(x)).flatten(1), dim=1)


class GeMPool(nn.Module):
    def __init__(self, p=3.0, eps=1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))
        self.eps = eps

    def forward(self, x):
        return x.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)


class GeM(GeMPool):
    def forward(self, x):
        return F.normalize(super().forward(x), dim=1)


class CosPlace(nn.Module):
    def __init__(self, in_dim, out_dim):
        super().__init__()
        self.gem = GeMPool()
        self.fc = nn.Linear(in_dim, out_dim)

    def forward(self, x):
        return F.normalize(self.fc(self.gem(F.normalize(x, dim=1))), dim=1)


AGGREGATORS = {
    "MixVPR": MixVPR,
    "ConvAP": ConvAP,
    "CosPlace": CosPlace,
    "GeM": GeM,
    "BoQ": TorchBoQ,
}


class VPRModel(nn.Module):
    """Backbone and aggregator: normalised images [b, 3, h, w] → descriptors [b, d] of unit norm."""

    def __init__(self, arch, layers_to_crop, aggregator, aggregator_config):
        super().__init__()
        self.backbone = Backbone(arch, tuple(layers_to_crop))
        self.aggregator = AGGREGATORS[aggregator](**aggregator_config)

    def forward(self, x):
        return self.aggregator(self.backbone(x))


class CosPlaceNet(nn.Module):
    """The network of gmberton/CosPlace and EigenPlaces, with their parameter names."""

    def __init__(self, arch, dim):
        super().__init__()
        net = TorchvisionResNet(arch)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        stem = (net.conv1, net.bn1, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.backbone = nn.Sequential(*stem, *stages)
        # At the places of the normalisations and the flattening there is nothing to load.
        linear = nn.Linear(net.out_channels, dim)
        self.aggregation = nn.Sequential(nn.Identity(), GeMPool(), nn.Identity(), linear)

    def forward(self, x):
        return F.normalize(self.aggregation(F.normalize(self.backbone(x), dim=1)), dim=1)

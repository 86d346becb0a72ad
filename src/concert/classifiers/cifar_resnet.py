"""The ResNets for 32x32 images of He et al. (2016), with the keys of published checkpoints."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from concert.errors import ConcertError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; option B, a 1x1 convolution, where the shape changes."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.downsample is None else self.downsample(features)
        out = F.relu(self.bn1(self.conv1(features)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + shortcut, inplace=True)


class CifarResNet(nn.Module):
    """ResNet of `depth` 6n + 2 with widths 16, 32, 64: 1,730,714 parameters at depth 110.

    Takes (B, `in_channels`, H, W), usually 3x32x32, and returns (B, `num_classes`) logits. The
    state dict has the keys and shapes of the checkpoints of Cohen et al. (2019), SmoothAdv and
    MACER. Convolutions start He-normal with fan-out.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConcertError(f"a CIFAR ResNet has depth 6n + 2 (20, 32, 110, ...), not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return logits


def _stage(in_width: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    later = (BasicBlock(width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_width, width, stride), *later)

"""The generator of the paper's Appendix G."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from concert.generator.box import INPUT_LIMIT, check_box, check_images, gate


class PaperGenerator(nn.Module):
    """The generator of the paper's Appendix G: 378,064 parameters at three channels.

    Two stride-2 convolutions, four residual blocks at a quarter of the resolution, two transposed
    convolutions; 27 million multiply-adds at 3x32x32. It holds batch norms: certify in eval mode.
    Takes (B, C, H, W) images, noisy or not, of any height and width: sides are padded to a
    multiple of 4, at least 8, by repeating the border. Returns the sigma map, (B, C, H, W) in
    [low, high].
    """

    def __init__(self, channels: int, low: float, high: float) -> None:
        super().__init__()
        check_box(channels, low, high)
        self.channels, self.low, self.high = channels, low, high
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 1),
            nn.InstanceNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.InstanceNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.InstanceNorm2d(64),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(_ResidualBlock(64) for _ in range(4)))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.ConvTranspose2d(16, channels, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.channels)
        height, width = images.shape[2:]
        missing = [max(8, 4 * math.ceil(side / 4)) - side for side in (height, width)]
        images = images.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        if any(missing):
            images = F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")
        logits = self.head(self.decoder(self.blocks(self.encoder(images))))
        return gate(logits[..., :height, :width], self.low, self.high)


class _ResidualBlock(nn.Module):
    """ResnetBlock of Appendix G, without an activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = features + self.body(features)
        return out

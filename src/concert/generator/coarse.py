"""A small generator with a low-resolution map that changes little under noise on its input."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from concert.errors import ConcertError
from concert.generator.box import INPUT_LIMIT, check_box, check_images, gate, into_box, upsample


def convolutions(channels: int, width: int) -> nn.Sequential:
    """Two 3x3 convolutions of `width` channels with group norm."""
    groups = math.gcd(4, width)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
    )


class CoarseGenerator(nn.Module):
    """A small generator with a low-resolution map, for noise models that query a noisy image.

    Average pooling by `pool` (4 suits 28 and 32 pixels, 16 suits 224) leaves pool^2 times less
    noise variance in the input; three 3x3 convolutions of `width` channels with group norm see
    all of it; the gated map, not its logits, is upsampled bilinearly: interpolating between values
    of the box cannot leave it, neighbouring cells blend in units of sigma, and the gate is
    evaluated pool^2 times less often. 0.13 million multiply-adds at 1x28x28, 0.23 at 3x32x32.

    Takes (B, C, H, W) images of any height and width, noisy or not. Returns the sigma map,
    (B, C, H, W) in [low, high]; freshly built, it is nearly constant at the middle of the box.
    """

    def __init__(
        self, channels: int, low: float, high: float, pool: int = 4, width: int = 16
    ) -> None:
        super().__init__()
        check_box(channels, low, high)
        if pool < 1 or width < 1:
            raise ConcertError(f"generator pool {pool} and width {width} must be at least 1")
        self.channels, self.low, self.high, self.pool = channels, low, high, pool
        self.body = convolutions(channels, width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.channels)
        height, width = images.shape[2:]
        images = images.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        # A cell at the border averages the pixels it has. Group norm is slow in channels_last.
        cells = F.avg_pool2d(images, self.pool, ceil_mode=True, count_include_pad=False)
        coarse = gate(self.head(self.body(cells.contiguous())), self.low, self.high)
        if self.pool == 1:
            return coarse
        fine = upsample(coarse, self.pool)[..., :height, :width]
        return into_box(fine, self.low, self.high)

"""Generators: networks from an image to a map of noise standard deviations in a box [low, high].

`PaperGenerator` is the one of the paper (Appendix G), `CoarseGenerator` a small one whose map is
smooth and changes little under noise on its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from concert.errors import ConcertError, nearest

# Noisy images stay far below; inputs up to the largest float would overflow inside the network.
INPUT_LIMIT = 100.0


def gate(logits: Tensor, low: float, high: float) -> Tensor:
    """Eq. 14: low + (high - low) * sigmoid(logits), in [low, high] also after rounding.

    With low = a and high = omega*b this equals (a exp(-z) + omega b) / (1 + exp(-z)), without its
    overflow at large -z. float64 stays float64, every other precision becomes float32. The
    bounds hold against `low` and `high` as real numbers: results are clamped to the innermost
    floats of the box, and where the box is narrower than one float `low` has precedence, because
    the radius rests on it. NaN logits raise a ConcertError: no certificate would hold for them.
    """
    sigma = _into_box(low + (high - low) * torch.sigmoid(_at_least_float32(logits)), low, high)
    if bool(torch.isnan(sigma).any()):
        raise ConcertError(
            "the generator's output is not a number: its input or its weights are damaged"
        )
    return sigma


def _into_box(sigma: Tensor, low: float, high: float) -> Tensor:
    """Clamp to the floats of sigma's precision within [low, high]."""
    sigma = _at_least_float32(sigma)
    kind = np.float64 if sigma.dtype == torch.float64 else np.float32
    lowest, highest = kind(low), kind(high)
    if float(lowest) < low:
        lowest = np.nextafter(lowest, kind(np.inf))
    if float(highest) > high:
        highest = np.nextafter(highest, kind(-np.inf))
    return sigma.clamp(max=float(highest)).clamp(min=float(lowest))


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


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
        _check_box(channels, low, high)
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
        _check_images(images, self.channels)
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
        _check_box(channels, low, high)
        if pool < 1 or width < 1:
            raise ConcertError(f"generator pool {pool} and width {width} must be at least 1")
        self.channels, self.low, self.high, self.pool = channels, low, high, pool
        groups = math.gcd(4, width)
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        _check_images(images, self.channels)
        height, width = images.shape[2:]
        images = images.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        # A cell at the border averages the pixels it has. Group norm is slow in channels_last.
        cells = F.avg_pool2d(images, self.pool, ceil_mode=True, count_include_pad=False)
        coarse = gate(self.head(self.body(cells.contiguous())), self.low, self.high)
        if self.pool == 1:
            return coarse
        fine = _upsample(coarse, self.pool)[..., :height, :width]
        return _into_box(fine, self.low, self.high)


def _upsample(maps: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of (..., h, w) maps by a whole factor.

    As two products with the matrices of one-dimensional linear interpolation, which take an
    eighth of the time of `F.interpolate` on such small maps.
    """

    def weights(cells: int) -> Tensor:
        identity = torch.eye(cells, dtype=maps.dtype, device=maps.device)
        return F.interpolate(identity[None], scale_factor=float(factor), mode="linear")[0]

    rows, columns = weights(maps.shape[-2]), weights(maps.shape[-1])
    return rows.T @ (maps @ columns)


GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "paper": PaperGenerator,
    "coarse": CoarseGenerator,
}


def build_generator(
    name: str,
    channels: int,
    low: float,
    high: float,
    init_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The generator `name` ("paper" or "coarse") with further arguments of its constructor."""
    if name not in GENERATORS:
        raise ConcertError(nearest("generator", name, GENERATORS))
    try:
        return GENERATORS[name](channels, low, high, **(init_args or {}))
    except TypeError as error:
        raise ConcertError(f"wrong arguments for generator '{name}': {error}") from error


def multiply_adds(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image of `shape` (C, H, W)."""
    reference = next(module.parameters())
    image = torch.zeros(1, *shape, dtype=reference.dtype, device=reference.device)
    training = module.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            module.eval()(image)
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2


def _check_box(channels: int, low: float, high: float) -> None:
    if channels < 1:
        raise ConcertError(f"a generator needs at least one channel, not {channels}")
    if not (0.0 < low <= high < math.inf):
        raise ConcertError(f"the box of sigma [{low}, {high}] must satisfy 0 < low <= high")


def _check_images(images: Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels:
        raise ConcertError(
            f"the generator takes images of shape (B, {channels}, H, W), not {tuple(images.shape)}"
        )

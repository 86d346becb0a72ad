"""A generator whose log-map cannot change fast: its Lipschitz constant is known by construction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concert.errors import ConcertError
from concert.generator.box import (
    INPUT_LIMIT,
    check_box,
    check_images,
    gate,
    interpolation,
    interpolation_like,
    into_box,
)

# Covers the rounding of float32 convolutions and of the norms below.
NORM_MARGIN: Final = 1e-4


class BoundedGenerator(nn.Module):
    """A coarse generator with ||log G(x) - log G(x')||_2 <= lipschitz * ||x - x'||_2.

    For any weights, up to the rounding of float32.

    The mean of k pixels has norm 1/sqrt(k); each of three 3x3 convolutions is divided by its norm
    where that exceeds one; ReLU and clamping do not expand; the logarithm of the gated
    value, log(low + (high - low) sigmoid(u)), has slope at most
    (sqrt(high) - sqrt(low)) / (sqrt(high) + sqrt(low)); logarithms are interpolated linearly by a
    matrix of known norm. One factor in front of the gate makes the product `lipschitz`. There are
    no normalisation layers, because their slope is not bounded.

    Takes (B, C, H, W) images of any height and width. Returns the sigma map,
    (B, C, H, W) in [low, high].
    """

    def __init__(
        self,
        channels: int,
        low: float,
        high: float,
        lipschitz: float = 0.2,
        pool: int = 4,
        width: int = 16,
    ) -> None:
        super().__init__()
        check_box(channels, low, high)
        if pool < 1 or width < 1 or not lipschitz > 0:
            raise ConcertError(
                "generator pool and width must be at least 1 and lipschitz positive, got "
                f"{pool}, {width} and {lipschitz}"
            )
        self.channels, self.low, self.high, self.pool = channels, low, high, pool
        self.lipschitz = lipschitz
        self.first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.head = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        for convolution in (self.first, self.second, self.head):
            nn.init.orthogonal_(convolution.weight)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.channels)
        height, width = images.shape[2:]
        images = images.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        cells = F.avg_pool2d(images, self.pool, ceil_mode=True, count_include_pad=False)
        factor = self.factor(height, width)
        cells = unit_convolution(cells, self.first.weight).relu()
        cells = unit_convolution(cells, self.second.weight).relu()
        cells = factor * unit_convolution(cells, self.head.weight) + self.bias
        coarse = gate(cells, self.low, self.high).log()
        rows, columns = (interpolation_like(cells, side, self.pool) for side in cells.shape[2:])
        fine = (rows @ coarse @ columns.T).exp()[..., :height, :width]
        return into_box(fine, self.low, self.high)

    def factor(self, height: int, width: int) -> float:
        """What the head's output is multiplied by, so that the whole has the slope `lipschitz`."""
        norm = gate_slope(self.low, self.high)
        for side in (height, width):
            cells = -(-side // self.pool)
            # The mean of k pixels has norm 1/sqrt(k); the last cell of a side has the fewest.
            norm /= math.sqrt(side - (cells - 1) * self.pool)
            norm *= float(torch.linalg.matrix_norm(interpolation(cells, self.pool), 2))
        return self.lipschitz / (norm * (1.0 + NORM_MARGIN)) if norm > 0 else 1.0


def unit_convolution(maps: Tensor, weight: Tensor) -> Tensor:
    """A zero-padded 3x3 convolution, divided by its norm where that exceeds one."""
    norm = convolution_norm(weight, maps.shape[2:])
    return F.conv2d(maps, weight / (norm * (1.0 + NORM_MARGIN)).clamp(min=1.0), padding=1)


def gate_slope(low: float, high: float) -> float:
    """The largest slope of u -> log(low + (high - low) sigmoid(u)).

    At sigmoid(u) = sqrt(low) / (sqrt(low) + sqrt(high)).
    """
    return (math.sqrt(high) - math.sqrt(low)) / (math.sqrt(high) + math.sqrt(low))


def convolution_norm(weight: Tensor, size: Sequence[int]) -> Tensor:
    """An upper bound of the l2 norm of a zero-padded 3x3 convolution on maps of `size` (H, W).

    `weight` is (out, in, 3, 3). With two more rows and columns the convolution does not wrap around
    a torus, so it is a part of the circular convolution there, whose norm is the largest singular
    value of its transfer matrices, one a frequency. Differentiable.
    """
    grid = [side + 2 for side in size]
    transfer = torch.fft.fft2(weight.double(), s=grid)
    matrices = transfer.permute(2, 3, 0, 1)
    norm: Tensor = torch.linalg.svdvals(matrices).amax()
    return norm.to(weight.dtype)

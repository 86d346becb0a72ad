"""What the colorization networks share: 4 x 4 cells, and the blocks of Zhang et al."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

# Pixels of a cell's side: distributions come at a quarter of the resolution.
STRIDE = 4
# Three halvings of the resolution: the networks of Zhang et al. need multiples of this.
SIZE_MULTIPLE = 8


def block(*widths: int, dilation: int = 1, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution and a ReLU for each pair of neighbouring widths, then batch norm.

    `stride` is that of the last convolution.
    """
    layers: list[nn.Module] = []
    strides = [1] * (len(widths) - 2) + [stride]
    for (before, after), step in zip(pairwise(widths), strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, step, dilation, dilation), nn.ReLU()]
    return [*layers, nn.BatchNorm2d(widths[-1])]


def double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """A transposed convolution to twice the resolution."""
    return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1)


def pad(inputs: Tensor) -> Tensor:
    """(B, C, H, W) with its border replicated, right and below, to multiples of 8."""
    height, width = inputs.shape[-2:]
    amounts = (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE)
    return functional.pad(inputs, amounts, mode="replicate")


def crop_cells(cells: Tensor, height: int, width: int) -> Tensor:
    """Of the cells of a padded image those of the image: (B, Q, ceil(H / 4), ceil(W / 4))."""
    return cells[..., : -(-height // STRIDE), : -(-width // STRIDE)]


def enlarge(cells: Tensor, height: int, width: int) -> Tensor:
    """Values of 4 x 4 cells, bilinearly, at every pixel: (B, C, H, W)."""
    full = functional.interpolate(cells, scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return full[..., :height, :width]

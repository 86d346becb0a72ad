"""Three orthogonal parts of an image: its colour, its smooth brightness, and detail.

    chroma   what changes no pixel's luma: two values a pixel (none for grey images)
    smooth   luma, constant in blocks of `block` x `block` pixels
    detail   the rest of luma

Luma is the combination 0.2126 R + 0.7152 G + 0.0722 B of Rec. 709, along a unit vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

# Rec. 709: the luminance of the sRGB primaries.
LUMA: Final = (0.2126, 0.7152, 0.0722)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def luma_direction(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The unit vector of luma, (1, C, 1, 1); made once, so that no batch waits for its copy."""
    weights = torch.tensor(LUMA if channels == 3 else (1.0,), dtype=torch.float64)
    direction: Tensor = (weights / weights.norm()).to(device, dtype)[None, :, None, None]
    return direction


def scale_bands(images: Tensor, chroma: float, smooth: float, detail: float, block: int) -> Tensor:
    """Images (B, C, H, W), C of 1 or 3, with each part multiplied by its number.

    A symmetric linear map of an image, of whose singular values the three numbers are all.
    """
    direction = luma_direction(images.shape[1], images.dtype, images.device)
    luma = (images * direction).sum(dim=1, keepdim=True)
    means = functional.avg_pool2d(luma, block, ceil_mode=True, count_include_pad=False)
    blocks = means.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    blocks = blocks[..., : luma.shape[2], : luma.shape[3]]
    added = ((detail - chroma) * luma).add_(blocks, alpha=smooth - detail)
    return torch.addcmul(chroma * images, added, direction)


@dataclass(frozen=True)
class Bands:
    """An ellipsoid around an image of `shape` (C, H, W) with one semi-axis for all of each part."""

    shape: tuple[int, int, int]
    block: int
    chroma: float
    smooth: float
    detail: float

    def times(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with each part multiplied by its semi-axis."""
        return scale_bands(images, self.chroma, self.smooth, self.detail, self.block)

    def divided(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) with each part divided by its semi-axis."""
        return scale_bands(
            images, 1.0 / self.chroma, 1.0 / self.smooth, 1.0 / self.detail, self.block
        )

    def scaled(self, factor: float) -> Bands:
        """The ellipsoid with all semi-axes multiplied by `factor`."""
        return replace(
            self,
            chroma=factor * self.chroma,
            smooth=factor * self.smooth,
            detail=factor * self.detail,
        )

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """How many dimensions colour, smooth luma and its detail have."""
        channels, height, width = self.shape
        blocks = math.ceil(height / self.block) * math.ceil(width / self.block)
        return (channels - 1) * height * width, blocks, height * width - blocks

    @property
    def axes(self) -> dict[float, int]:
        """The semi-axes, and how many dimensions have each; parts without a dimension have none."""
        found: dict[float, int] = {}
        semi_axes = self.chroma, self.smooth, self.detail
        for axis, count in zip(semi_axes, self.dimensions, strict=True):
            if count:
                found[axis] = found.get(axis, 0) + count
        return found

    @property
    def mean_log(self) -> float:
        """Mean logarithm of the semi-axes over all dimensions."""
        total = math.fsum(count * math.log(axis) for axis, count in self.axes.items())
        return total / math.prod(self.shape)

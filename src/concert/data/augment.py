"""Training-time geometry, drawn from a given generator and applied to a whole batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ATTEMPTS = 10


def crop_and_flip(batch: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Random crop after zero padding and horizontal flip, independent per image (CIFAR-10).

    All channels of an image get the same geometry. `batch` and the result are (B, C, H, W);
    the random numbers depend on B only, so they are the same with more channels.
    """
    size, _, height, width = batch.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, size), generator=generator)
    flip = torch.rand(size, generator=generator) < 0.5
    padded = F.pad(batch, (padding, padding, padding, padding))
    # Every possible crop is a view of the padded images; one gather copies the chosen ones.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(size), :, top, left]
    return torch.where(flip[:, None, None, None], crops.flip(-1), crops)


def resized_crop_boxes(
    heights: Tensor, widths: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The boxes of RandomResizedCrop with its usual area (0.08, 1) and aspect ratio (3/4, 4/3).

    Up to ten boxes are tried per image, then the largest central one within the aspect ratios is
    taken. `heights` and `widths` are (B,). Returns the boxes (B, 4) as top, left, height, width in
    pixels and the flips (B,) bool. The number of random numbers drawn depends on B only.
    """
    size = len(heights)
    draws = torch.rand(size, ATTEMPTS, 4, generator=generator, dtype=torch.float64)
    flip = torch.rand(size, generator=generator) < 0.5
    heights, widths = heights.double(), widths.double()
    area = (heights * widths)[:, None] * (0.08 + 0.92 * draws[..., 0])
    ratio = torch.exp(math.log(4 / 3) * (2 * draws[..., 1] - 1))
    box_width = (area * ratio).sqrt().round()
    box_height = (area / ratio).sqrt().round()
    fits = (box_width <= widths[:, None]) & (box_height <= heights[:, None])
    fits &= (box_width >= 1) & (box_height >= 1)
    picked = fits.double().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)

    central_width = torch.minimum(widths, (heights * 4 / 3).round())
    central_height = torch.minimum(heights, (widths * 4 / 3).round())
    width = torch.where(found, box_width.gather(1, picked)[:, 0], central_width)
    height = torch.where(found, box_height.gather(1, picked)[:, 0], central_height)
    top = draws[..., 2].gather(1, picked)[:, 0] * (heights - height + 1)
    left = draws[..., 3].gather(1, picked)[:, 0] * (widths - width + 1)
    top = torch.where(found, top, (heights - height) / 2).floor()
    left = torch.where(found, left, (widths - width) / 2).floor()
    return torch.stack((top, left, height, width), dim=1).long(), flip


def resized_crop(batch: Tensor, generator: torch.Generator) -> Tensor:
    """RandomResizedCrop to the same size and horizontal flip of tensors with values in [0, 1].

    All channels of an image get the same geometry. `batch` and the result are (B, C, H, W).
    """
    size, _, height, width = batch.shape
    boxes, flips = resized_crop_boxes(
        torch.full((size,), height), torch.full((size,), width), generator
    )
    result = torch.empty_like(batch)
    for index, ((top, left, box_height, box_width), flip) in enumerate(
        zip(boxes.tolist(), flips.tolist(), strict=True)
    ):
        box = batch[index : index + 1, :, top : top + box_height, left : left + box_width]
        view = F.interpolate(
            box, (height, width), mode="bilinear", align_corners=False, antialias=True
        )
        result[index] = view[0].flip(-1) if flip else view[0]
    return result.clamp_(0.0, 1.0)

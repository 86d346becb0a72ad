"""The pieces of a claimed region, each an ellipsoid that a search can walk in.

Inside a part a perturbation is written in the part's own units: delta = A u with a symmetric A, so
that the part is the open unit ball {u : ||u|| < 1}. A multiplies pixels by their semi-axes, or the
colour, smooth brightness and detail of an image by theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from concert.certificates import Region
from concert.certificates.bands import Bands

# Candidates keep this distance from the boundary, in the part's own units: the region is open, and
# a perturbed image is rounded to float32.
INSIDE: Final = 1e-6


@dataclass(frozen=True)
class Part:
    """{A u : ||u|| < 1}; `axes`, float64 (C, H, W) or bands, says what A is, `name` which part."""

    name: str
    axes: Tensor | Bands

    def like(self, tensor: Tensor) -> Part:
        """The part with axes in the precision and on the device of a tensor."""
        return self if isinstance(self.axes, Bands) else replace(self, axes=self.axes.to(tensor))

    def times(self, units: Tensor) -> Tensor:
        """A u for u (S, C, H, W), in its precision."""
        if isinstance(self.axes, Bands):
            return self.axes.times(units)
        return units * self.axes.to(units)

    def divided(self, deltas: Tensor) -> Tensor:
        """The u (S, C, H, W) of perturbations A u, in their precision."""
        if isinstance(self.axes, Bands):
            return self.axes.divided(deltas)
        return deltas / self.axes.to(deltas)

    def norms(self, deltas: Tensor) -> Tensor:
        """Norms of perturbations (S, C, H, W) in the part's own units: (S,) float64."""
        return lengths(self.divided(deltas.double().cpu()))


def lengths(points: Tensor) -> Tensor:
    """Euclidean norms (S,) of points (S, C, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(points, dim=(1, 2, 3))
    return norms


def spread(values: Tensor) -> Tensor:
    """One number a point, (S,), as (S, 1, 1, 1)."""
    return values[:, None, None, None]


def parts_of(region: Region, shape: Sequence[int]) -> list[Part]:
    """The ball of a certified region for images of `shape`, and its ellipsoid if there is one."""
    ball = Part("ball", torch.full(tuple(shape), region.radius, dtype=torch.float64))
    axes = region.bands if region.axes is None else region.axes.double().cpu()
    return [ball] if axes is None else [ball, Part("ellipsoid", axes)]


def project(units: Tensor, part: Part, image: Tensor, boxed: bool) -> Tensor:
    """Points (S, C, H, W) of a part, in its units, moved into it; with `boxed` into [0, 1] too.

    A perturbed pixel is clamped first and the whole is then scaled towards the image, which does
    not leave the box, because it is convex and holds the image.
    """
    if boxed:
        units = part.divided((image + part.times(units)).clamp(0.0, 1.0) - image)
    scales = ((1.0 - INSIDE) / lengths(units)).clamp(max=1.0)
    return units * spread(scales)


def realize(
    units: Tensor, part: Part, image: Tensor, boxed: bool, levels: int | None = None
) -> Tensor:
    """Perturbed images (S, C, H, W) in float32, on the processor, that are inside as they stand.

    `levels`: the images must be multiples of 1/levels, as `image` is. Rounding may carry a point
    over the boundary; it is then scaled towards the image until the difference of the two float32
    images, computed in float64, is inside.
    """
    clean, units = image.cpu().double(), units.cpu().double()
    scales, shrink = torch.ones(len(units), dtype=torch.float64), INSIDE
    while True:
        deltas = spread(scales) * part.times(units)
        perturbed = clean + deltas
        if levels is not None:
            perturbed = (perturbed * levels).round() / levels
        if boxed:
            perturbed = perturbed.clamp(0.0, 1.0)
        perturbed = perturbed.float()
        outside = part.norms(perturbed.double() - clean) > 1.0 - 0.5 * INSIDE
        if not bool(outside.any()):
            return perturbed
        scales[outside] *= max(0.0, 1.0 - shrink)
        shrink *= 2.0

"""Certified regions: what they contain, how large they are, and for whom they hold.

One image's certificate is a `Region`, a batch's are `Regions`:
`Regions(static(p, sigma_map) for p, sigma_map in zip(p_lower, sigma_maps))`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from scipy.special import gammaln
from torch import Tensor

from concert.certificates.bands import Bands


class Guarantee(StrEnum):
    """For whom a certified region holds."""

    DEPLOYED = "deployed"
    FROZEN = "frozen-noise"
    NONE = "none"
    UNKNOWN = "unknown"

    @property
    def sentence(self) -> str:
        """The guarantee in one sentence, as printed under every table."""
        return _SENTENCES[self]


_SENTENCES: Final = {
    Guarantee.DEPLOYED: (
        "For each image separately, with probability at least 1 - alpha over the certifying draws, "
        "the smoothed classifier as deployed predicts the same class for every perturbation inside "
        "the region."
    ),
    Guarantee.FROZEN: (
        "For each image separately, with probability at least 1 - alpha over the certifying draws, "
        "the region holds, but only for a classifier whose sigma map is frozen at the certified "
        "image; the deployed classifier recomputes the map on the perturbed image and is not "
        "covered."
    ),
    Guarantee.NONE: "The number is a reproduction of a published formula and guarantees nothing.",
    Guarantee.UNKNOWN: "The log does not say what its radii guarantee.",
}


@dataclass(frozen=True)
class Region:
    """Certified perturbations: the ball of `radius` in `dim` dimensions, and an ellipsoid if any.

    `axes` holds the ellipsoid's semi-axes, shape (C, H, W): {delta : sum (delta_i/axes_i)^2 < 1}.
    `bands`, in its place, is an ellipsoid whose axes lie along colour, smooth brightness and detail
    rather than along pixels. A perturbation in either is certified; `radius` is the largest
    certified l2 ball.
    """

    certificate: str
    guarantee: Guarantee
    radius: float
    dim: int
    axes: Tensor | None = None
    bands: Bands | None = None

    def contains(self, delta: Tensor) -> Tensor:
        """Whether perturbations (C, H, W) or (B, C, H, W) are certified: bool, shape () or (B,).

        Raises ValueError for other shapes than the image's.
        """
        delta = torch.as_tensor(delta)
        shape = None if self.axes is None else tuple(self.axes.shape)
        shape = shape if self.bands is None else self.bands.shape
        if (
            delta.ndim not in (3, 4)
            or delta.shape[-3:].numel() != self.dim
            or shape not in (None, tuple(delta.shape[-3:]))
        ):
            wanted = f"shape {shape}" if shape else f"{self.dim} values"
            raise ValueError(
                f"a perturbation has the image's shape (C, H, W), {wanted}, or (B, C, H, W) for "
                f"several; got {tuple(delta.shape)}"
            )
        if delta.ndim != 3:
            # One at a time: sums over rows of a batch are rounded otherwise than a single sum.
            return torch.tensor([bool(self.contains(one)) for one in delta], dtype=torch.bool)
        values = delta.detach().double().cpu().flatten()
        inside = (values.square().sum() < self.radius**2) & (self.radius > 0)
        if self.axes is not None:
            inside |= (values / self.axes.double().flatten()).square().sum() < 1.0
        if self.bands is not None:
            unit = self.bands.divided(values.view(1, *self.bands.shape))
            inside |= unit.square().sum() < 1.0
        return inside

    @property
    def semi_axes(self) -> Tensor:
        """Semi-axes of the ellipsoid, (C, H, W); of a ball its radius, (dim,). float64.

        Those of bands, which are no pixels' own, are (dim,) too.
        """
        if self.axes is not None:
            return self.axes.double()
        if self.bands is not None:
            lengths = torch.tensor(list(self.bands.axes), dtype=torch.float64)
            return lengths.repeat_interleave(torch.tensor(list(self.bands.axes.values())))
        return torch.full((self.dim,), max(self.radius, 0.0), dtype=torch.float64)

    @property
    def proxy_volume(self) -> float:
        """Geometric mean of the semi-axes: rhat * (prod sigma_i)^(1/d), the paper's Eq. 11.

        Of the ball where that is larger than the ellipsoid.
        """
        if self.radius <= 0:
            return 0.0
        if self.bands is not None:
            return max(self.radius, math.exp(self.bands.mean_log))
        if self.axes is None:
            return self.radius
        return max(self.radius, math.exp(float(self.axes.double().log().mean())))

    @property
    def log_volume(self) -> float:
        """Natural logarithm of the region's volume, -inf for an empty region."""
        if self.radius <= 0:
            return -math.inf
        unit_ball = 0.5 * self.dim * math.log(math.pi) - float(gammaln(0.5 * self.dim + 1.0))
        return unit_ball + self.dim * math.log(self.proxy_volume)


class Regions:
    """Regions of a batch of images, one each; every answer has the batch dimension first.

    All must come from the same certificate, guarantee and dimension (ValueError otherwise), because
    radii that promise different things do not belong in one tensor. Each answer is exactly that of
    the single regions.
    """

    def __init__(self, regions: Iterable[Region]) -> None:
        self.regions = tuple(regions)
        if len({(one.certificate, one.guarantee, one.dim) for one in self.regions}) != 1:
            raise ValueError(
                "a batch needs at least one region, and the same certificate, guarantee and "
                "dimension for all"
            )
        self.certificate, self.guarantee = self.regions[0].certificate, self.regions[0].guarantee
        self.dim = self.regions[0].dim

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, number: int) -> Region:
        return self.regions[number]

    def contains(self, deltas: Tensor) -> Tensor:
        """Whether each image's perturbation, (B, C, H, W) in all, is certified: bool, (B,)."""
        if len(deltas) != len(self):
            raise ValueError(f"{len(deltas)} perturbations for {len(self)} regions")
        pairs = zip(self.regions, deltas, strict=True)
        return torch.tensor([bool(region.contains(delta)) for region, delta in pairs])

    @property
    def radius(self) -> Tensor:
        """Radii of the largest certified l2 balls, (B,) float64."""
        return torch.tensor([region.radius for region in self.regions], dtype=torch.float64)

    @property
    def semi_axes(self) -> Tensor:
        """Semi-axes (B, C, H, W), or (B, dim) where all regions are balls; float64."""
        shapes = (region.axes.shape for region in self.regions if region.axes is not None)
        shape = next(shapes, torch.Size([self.dim]))
        return torch.stack([region.semi_axes.reshape(shape) for region in self.regions])

    @property
    def proxy_volume(self) -> Tensor:
        """Geometric means of the semi-axes (Eq. 11), (B,) float64."""
        return torch.tensor([region.proxy_volume for region in self.regions], dtype=torch.float64)

    @property
    def log_volume(self) -> Tensor:
        """Natural logarithms of the volumes, (B,) float64; -inf where a region is empty."""
        return torch.tensor([region.log_volume for region in self.regions], dtype=torch.float64)


def union(certificate: str, first: Region, second: Region) -> Region:
    """Both of two regions that hold together: the larger ball, and the ellipsoid of either."""
    if first.guarantee is not second.guarantee or first.dim != second.dim:
        raise ValueError("only regions with the same guarantee and dimension can be united")
    certified = [region for region in (first, second) if region.radius > 0]
    axes = next((region.axes for region in certified if region.axes is not None), None)
    bands = next((region.bands for region in certified if region.bands is not None), None)
    radius = max(first.radius, second.radius)
    return Region(certificate, first.guarantee, radius, first.dim, axes, bands)


def empty(certificate: str, guarantee: Guarantee, dim: int) -> Region:
    """The region of an abstention."""
    return Region(certificate, guarantee, 0.0, dim)

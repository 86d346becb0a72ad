"""From a confidence bound on a vote share to a region in which the prediction cannot change.

Pure functions of numbers. Every region states what it guarantees, because the same formula can hold
for the classifier as deployed or only for one whose noise is frozen at the certified image.

References: Cohen, Rosenfeld and Kolter, ICML 2019 (isotropic radius); the paper's Eqs. 10 and 11
(ellipsoid, proxy volume); Lyu et al., NeurIPS 2024 (adaptive composition, behind the queried ball).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from scipy.special import gammaln, ndtri
from torch import Tensor


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
        "With probability at least 1 - alpha over the certifying draws, the smoothed classifier as "
        "deployed predicts the same class for every perturbation inside the region."
    ),
    Guarantee.FROZEN: (
        "The region holds only for a classifier whose sigma map is frozen at the certified image; "
        "the deployed classifier recomputes the map on the perturbed image and is not covered."
    ),
    Guarantee.NONE: "The number is a reproduction of a published formula and guarantees nothing.",
    Guarantee.UNKNOWN: "The log does not say what its radii guarantee.",
}


@dataclass(frozen=True)
class Region:
    """A ball or an axis-aligned ellipsoid of perturbations, {delta : sum (delta_i/axes_i)^2 < 1}.

    `axes` holds the semi-axes, shape (C, H, W), or is None for a ball of `radius` in `dim`
    dimensions. `radius` is the largest l2 ball inside the region.
    """

    certificate: str
    guarantee: Guarantee
    radius: float
    dim: int
    axes: Tensor | None = None

    @property
    def proxy_volume(self) -> float:
        """Geometric mean of the semi-axes: rhat * (prod sigma_i)^(1/d), the paper's Eq. 11."""
        if self.radius <= 0:
            return 0.0
        if self.axes is None:
            return self.radius
        return math.exp(float(self.axes.double().log().mean()))

    @property
    def log_volume(self) -> float:
        """Natural logarithm of the region's volume, -inf for an empty region."""
        if self.radius <= 0:
            return -math.inf
        unit_ball = 0.5 * self.dim * math.log(math.pi) - float(gammaln(0.5 * self.dim + 1.0))
        return unit_ball + self.dim * math.log(self.proxy_volume)


def normalized_radius(p_lower: float) -> float:
    """rhat = Phi^-1(p_lower), rounded down; 0 where p_lower <= 1/2 (Eq. 10, one-sided)."""
    if not 0.0 <= p_lower < 1.0:
        raise ValueError(f"p_lower must lie in [0, 1), got {p_lower}")
    return 0.0 if p_lower <= 0.5 else math.nextafter(float(ndtri(p_lower)), 0.0)


def isotropic_radius(p_lower: float, sigma: float) -> float:
    """Cohen's l2 radius sigma * Phi^-1(p_lower), rounded down; 0 where p_lower <= 1/2."""
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return math.nextafter(sigma * normalized_radius(p_lower), 0.0)


def isotropic(p_lower: float, sigma: float, dim: int) -> Region:
    """Cohen's ball (Cohen et al. 2019, Theorem 1, with p_B = 1 - p_lower)."""
    return Region("isotropic", Guarantee.DEPLOYED, isotropic_radius(p_lower, sigma), dim)


def _ellipsoid(p_lower: float, sigma_map: Tensor) -> tuple[float, Tensor]:
    # Kept in float64: the axes are products of float32 maps with a float64 quantile.
    sigma = sigma_map.detach().double().cpu()
    if not bool((sigma > 0).all() & sigma.isfinite().all()):
        raise ValueError("every entry of the sigma map must be positive and finite")
    axes = sigma * normalized_radius(p_lower)
    return math.nextafter(float(axes.min()), 0.0), axes


def static(p_lower: float, sigma_map: Tensor) -> Region:
    """Ellipsoid with semi-axes sigma_i * Phi^-1(p_lower) of one sigma map for all images.

    Cohen's theorem in the coordinates z_i / sigma_i; the map does not depend on the input, so the
    region holds for the classifier as deployed.
    """
    radius, axes = _ellipsoid(p_lower, sigma_map)
    return Region("static", Guarantee.DEPLOYED, radius, axes.numel(), axes)


def frozen(p_lower: float, sigma_map: Tensor) -> Region:
    """The paper's ellipsoid and minimal radius min(sigma) * rhat at sigma = G(x) (Eqs. 10, 11).

    Holds only for the classifier whose sigma map stays frozen at G(x).
    """
    radius, axes = _ellipsoid(p_lower, sigma_map)
    return Region("frozen", Guarantee.FROZEN, radius, axes.numel(), axes)


def queried_ball(p_lower: float, sigma_low: float, dim: int) -> Region:
    """Ball of radius sigma_low * Phi^-1(p_lower) for noise shaped by a noisy query.

    `sigma_low` is the lower end a of the generator's box. Releasing the query and the noisy copy is
    mu-Gaussian-DP with mu <= ||delta||/a for every output of the generator, whence the radius.
    """
    radius = isotropic_radius(p_lower, sigma_low)
    return Region("queried-ball", Guarantee.DEPLOYED, radius, dim)


def empty(certificate: str, guarantee: Guarantee, dim: int) -> Region:
    """The region of an abstention."""
    return Region(certificate, guarantee, 0.0, dim)


def sigma_statistics(sigma_map: Tensor) -> tuple[float, float, float]:
    """Minimum, geometric mean and maximum of a sigma map (the paper's Table 8 uses the minimum)."""
    sigma = sigma_map.detach().double()
    low, high = torch.aminmax(sigma)
    return float(low), math.exp(float(sigma.log().mean())), float(high)

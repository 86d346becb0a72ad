"""From a confidence bound on a vote share to a region in which the prediction cannot change.

Pure functions of numbers. Every region states what it guarantees, because the same formula can hold
for the classifier as deployed or only for one whose noise is frozen at the certified image.

References: Cohen, Rosenfeld and Kolter, ICML 2019 (isotropic radius); the paper's Eqs. 10 and 11
(ellipsoid, proxy volume); Lyu et al., NeurIPS 2024 (adaptive composition, behind the queried ball).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


# Relative; covers SciPy's error in Phi^-1 (6.3e-16 against 40 digits) and that of later products.
RADIUS_MARGIN: Final = 1e-14
# Covers the drift of a generator's map between float32 engines (about 1e-7 relative).
FLOOR_SLACK: Final = 1e-6


@dataclass(frozen=True)
class Region:
    """Certified perturbations: the ball of `radius` in `dim` dimensions, and an ellipsoid if any.

    `axes` holds the ellipsoid's semi-axes, shape (C, H, W): {delta : sum (delta_i/axes_i)^2 < 1}.
    A perturbation in either is certified; `radius` is the largest certified l2 ball.
    """

    certificate: str
    guarantee: Guarantee
    radius: float
    dim: int
    axes: Tensor | None = None

    def contains(self, delta: Tensor) -> Tensor:
        """Whether perturbations (C, H, W) or (B, C, H, W) are certified: bool, shape () or (B,)."""
        single = delta.ndim == 3
        rows = delta.detach().double().cpu().reshape(1 if single else len(delta), -1)
        inside = (rows.square().sum(dim=1) < self.radius**2) & (self.radius > 0)
        if self.axes is not None:
            inside |= (rows / self.axes.double().reshape(1, -1)).square().sum(dim=1) < 1.0
        return inside[0] if single else inside

    @property
    def proxy_volume(self) -> float:
        """Geometric mean of the semi-axes: rhat * (prod sigma_i)^(1/d), the paper's Eq. 11.

        Of the ball where that is larger than the ellipsoid.
        """
        if self.radius <= 0 or self.axes is None:
            return max(self.radius, 0.0)
        return max(self.radius, math.exp(float(self.axes.double().log().mean())))

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
    return 0.0 if p_lower <= 0.5 else float(ndtri(p_lower)) * (1.0 - RADIUS_MARGIN)


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


def queried_ellipsoid(p_lower: float, floor: Tensor) -> Region:
    """Ellipsoid with semi-axes floor_i * Phi^-1(p_lower) for noise shaped by a noisy query.

    `floor` (C, H, W) is a map fixed before the certifying draws; `p_lower` bounds the probability
    that the class is voted for *and* the query's map is at least `floor` at every pixel (truncated
    counting). Replacing the map by its maximum with `floor` changes no counted vote, and the
    replaced mechanism has budget ||delta / floor|| at every input: docs/certificates.md.
    """
    radius, axes = _ellipsoid(p_lower, floor.double() * (1.0 - FLOOR_SLACK))
    return Region("queried", Guarantee.DEPLOYED, radius, axes.numel(), axes)


def union(certificate: str, first: Region, second: Region) -> Region:
    """Both of two regions that hold together: the larger ball, and the ellipsoid of either."""
    if first.guarantee is not second.guarantee or first.dim != second.dim:
        raise ValueError("only regions with the same guarantee and dimension can be united")
    certified = [region for region in (first, second) if region.radius > 0]
    axes = next((region.axes for region in certified if region.axes is not None), None)
    radius = max(first.radius, second.radius)
    return Region(certificate, first.guarantee, radius, first.dim, axes)


@dataclass(frozen=True)
class Claim:
    """An event whose probability is bounded from below, and the region that a bound gives.

    The event is a vote for the candidate class and, with `floor`, a sigma map above it everywhere.
    `alpha_share` is the claim's part of the image's error probability.
    """

    region: Callable[[float], Region]
    alpha_share: float = 1.0
    floor: Tensor | None = None


def empty(certificate: str, guarantee: Guarantee, dim: int) -> Region:
    """The region of an abstention."""
    return Region(certificate, guarantee, 0.0, dim)


def sigma_statistics(sigma_map: Tensor) -> tuple[float, float, float]:
    """Minimum, geometric mean and maximum of a sigma map (the paper's Table 8 uses the minimum)."""
    sigma = sigma_map.detach().double()
    low, high = torch.aminmax(sigma)
    return float(low), math.exp(float(sigma.log().mean())), float(high)

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
from typing import Final

import torch
from scipy.special import ndtri
from torch import Tensor

from concert.certificates.bands import Bands
from concert.certificates.input_dependent import input_dependent_radius
from concert.certificates.regions import Guarantee, Region, empty
from concert.certificates.split_kl import lipschitz_radius

# Relative; covers SciPy's error in Phi^-1 (6.3e-16 against 40 digits) and that of later products.
RADIUS_MARGIN: Final = 1e-14
# Covers the drift of a generator's map between float32 engines (about 1e-7 relative).
FLOOR_SLACK: Final = 1e-6
# Rounding of a generator's map in float32, relative.
MAP_ROUNDING: Final = 1e-6


def normalized_radius(p_lower: float, p_upper: float | None = None) -> float:
    """rhat of Eq. 10, rounded down: (Phi^-1(p_lower) - Phi^-1(p_upper)) / 2, at least 0.

    `p_upper` bounds the probability of every other class from above; both bounds must hold
    together, so each has its part of alpha. One-sided, without it, it is 1 - p_lower, and rhat is
    Phi^-1(p_lower); what p_lower leaves is never exceeded, whatever `p_upper` says.
    """
    # A float32 scalar or tensor would be given a quantile of its own precision.
    p_lower = float(p_lower)
    if not 0.0 <= p_lower < 1.0:
        raise ValueError(f"p_lower must lie in [0, 1), got {p_lower}")
    one_sided = float(ndtri(p_lower)) if p_lower > 0.0 else -math.inf
    rhat = one_sided
    if p_upper is not None:
        if not 0.0 < p_upper <= 1.0:
            raise ValueError(f"p_upper must lie in (0, 1], got {p_upper}")
        rhat = max(one_sided, 0.5 * (one_sided - float(ndtri(float(p_upper)))))
        # The difference may lose digits of two nearly equal quantiles.
        rhat -= RADIUS_MARGIN * abs(one_sided) if math.isfinite(one_sided) else 0.0
    return max(0.0, rhat * (1.0 - RADIUS_MARGIN))


def isotropic_radius(p_lower: float, sigma: float, p_upper: float | None = None) -> float:
    """Cohen's l2 radius sigma * rhat, rounded down; one-sided without `p_upper`."""
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    return math.nextafter(sigma * normalized_radius(p_lower, p_upper), 0.0)


def isotropic(p_lower: float, sigma: float, dim: int, p_upper: float | None = None) -> Region:
    """Cohen's ball (Cohen et al. 2019, Theorem 1); one-sided, p_B = 1 - p_lower, by default."""
    return Region("isotropic", Guarantee.DEPLOYED, isotropic_radius(p_lower, sigma, p_upper), dim)


def isotropic_grid(p_lower: float, sigma: float, dim: int, distance: float) -> Region:
    """Cohen's ball for noise on a grid, between images of that grid.

    Rounded Gaussian noise added to a grid image is the rounding of Gaussian noise added to it.
    `distance` bounds the total variation between the integers as drawn and that noise, over all
    `dim` values: it is taken from the share at x, and asked for beyond 1/2 at x + delta.
    """
    if not 0.0 <= distance <= 0.01:
        raise ValueError(f"distance must lie in [0, 0.01], got {distance}")
    # Phi^-1(1/2 + t) <= 2.51 t for t <= 0.01.
    p_ideal = max(0.0, math.nextafter(p_lower - distance, 0.0))
    rhat = normalized_radius(p_ideal) - 2.51 * distance
    radius = math.nextafter(sigma * max(0.0, rhat) * (1.0 - RADIUS_MARGIN), 0.0)
    return Region("isotropic-grid", Guarantee.DEPLOYED, radius, dim)


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


def banded(p_lower: float, sigmas: Bands) -> Region:
    """Ellipsoid along colour, smooth brightness and detail, for noise of levels `sigmas` there.

    Cohen's theorem in the coordinates A^-1 z, where A multiplies each part by its level; A does not
    depend on the input, so the region holds for the classifier as deployed. A is applied in
    float32, where an error of the largest level counts beside the smallest.
    """
    levels = list(sigmas.axes)
    if not all(level > 0 and math.isfinite(level) for level in levels):
        raise ValueError("every level of the noise must be positive and finite")
    slack = MAP_ROUNDING * max(levels) / min(levels)
    factor = normalized_radius(p_lower) * max(0.0, 1.0 - slack)
    dim = math.prod(sigmas.shape)
    if factor <= 0:
        return empty("banded", Guarantee.DEPLOYED, dim)
    axes = sigmas.scaled(factor)
    radius = math.nextafter(min(axes.axes), 0.0)
    return Region("banded", Guarantee.DEPLOYED, radius, dim, bands=axes)


def frozen(p_lower: float, sigma_map: Tensor) -> Region:
    """The paper's ellipsoid and minimal radius min(sigma) * rhat at sigma = G(x) (Eqs. 10, 11).

    Holds only for the classifier whose sigma map stays frozen at G(x).
    """
    radius, axes = _ellipsoid(p_lower, sigma_map)
    return Region("frozen", Guarantee.FROZEN, radius, axes.numel(), axes)


def algorithm2(
    p_lower: float, sigma_map: Tensor, low: float, high: float, guarantee: Guarantee
) -> Region:
    """The radius step of the paper's Algorithm 2, with its formulas corrected (docs/errata.md).

    sigma_0 is the map's minimum (Lemma 3), and an attacker may move sigma_1 in [low, high], the
    generator's box. A theorem for one noise level per image (Sukenik et al. 2022); Lemma 3, which
    is to carry it over to maps, is false, so `guarantee` is `none` for them. The radius is 0 for
    all but narrow boxes in the dimension of images.
    """
    smallest, _, largest = sigma_statistics(sigma_map)
    if not low <= smallest <= largest <= high:
        raise ValueError(
            f"the sigma map's range [{smallest}, {largest}] is not in the box [{low}, {high}]"
        )
    dim = sigma_map.numel()
    return Region(
        "algorithm2", guarantee, input_dependent_radius(p_lower, smallest, low, high, dim), dim
    )


def lipschitz(p_lower: float, sigma_map: Tensor, constant: float) -> Region:
    """Ball for noise shaped by the image itself through a generator that changes slowly.

    `sigma_map` is G(x) and log G is `constant`-Lipschitz in l2: `concert.certificates.split_kl`.
    Both maps are computed in float32, each value to a relative `MAP_ROUNDING`.
    """
    smallest, _, _ = sigma_statistics(sigma_map)
    dim = sigma_map.numel()
    rounding = 2.0 * MAP_ROUNDING * math.sqrt(dim)
    radius = lipschitz_radius(p_lower, smallest, constant, rounding) * (1.0 - RADIUS_MARGIN)
    return Region("lipschitz", Guarantee.DEPLOYED, radius, dim)


def queried_ball(
    p_lower: float, sigma_low: float, dim: int, p_upper: float | None = None
) -> Region:
    """Ball of radius sigma_low * Phi^-1(p_lower) for noise shaped by a noisy query.

    `sigma_low` is the lower end a of the generator's box. Releasing the query and the noisy copy is
    mu-Gaussian-DP with mu <= ||delta||/a for every output of the generator, whence the radius,
    one-sided by default.
    """
    radius = isotropic_radius(p_lower, sigma_low, p_upper)
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


@dataclass(frozen=True)
class Claim:
    """An event whose probability is bounded from below, and the region that a bound gives.

    The event is a vote for the candidate class and, with `floor`, a sigma map above it everywhere.
    `alpha_share` is the claim's part of the image's error probability.
    """

    region: Callable[[float], Region]
    alpha_share: float = 1.0
    floor: Tensor | None = None

    def radius(self, p_lower: float) -> float:
        """The radius of the region that a bound gives."""
        return self.region(p_lower).radius


def sigma_statistics(sigma_map: Tensor) -> tuple[float, float, float]:
    """Minimum, geometric mean and maximum of a sigma map (the paper's Table 8 uses the minimum)."""
    sigma = sigma_map.detach().double()
    low, high = torch.aminmax(sigma)
    return float(low), math.exp(float(sigma.log().mean())), float(high)

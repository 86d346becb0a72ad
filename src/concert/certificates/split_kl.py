"""A certificate for a generator that cannot change fast: shift by Neyman-Pearson, scale by KL.

If log G is L-Lipschitz (l2 to l2, the vector of d logarithms), the deployed classifier is certified
at delta whenever, for some theta in [0, 1] and p = Phi(Phi^-1(p_lower) - theta rho) > 1/2,

    -1/2 ln(4 p (1 - p))  >  (1 - theta)^2 rho^2 / 2 + h(L ||delta||),     rho = ||delta / G(x)||,

with h(u) = (e^(2u) - 1)/2 - u. The first part moves the centre by theta * delta without changing
the noise; the rest is bounded by the Kullback-Leibler divergence and data processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, ndtri

from concert.bounds import MARGIN

BISECTIONS: Final = 60


def scale_divergence(u: float) -> float:
    """h(u) = (e^(2u) - 1)/2 - u: KL divergence of N(0, e^(2u)) from N(0, 1), in nats."""
    return 0.5 * math.expm1(2.0 * u) - u


def shift_slack(z: float, rho: float) -> float:
    """max over theta of -1/2 ln(4 p (1 - p)) - (1 - theta)^2 rho^2 / 2; any theta is sound."""

    def loss(theta: float) -> float:
        q = z - theta * rho
        if q <= 0:
            return math.inf
        gain = -0.5 * (math.log(4.0) + float(log_ndtr(q)) + float(log_ndtr(-q)))
        return 0.5 * ((1.0 - theta) * rho) ** 2 - gain

    largest = min(1.0, z / rho) if rho > 0 else 1.0
    found = minimize_scalar(loss, bounds=(0.0, largest), method="bounded", options={"xatol": 1e-10})
    return -min(float(found.fun), loss(0.0), loss(largest * (1.0 - 1e-12)))


def _largest_rho(z: float, divergence: Callable[[float], float]) -> float:
    """Largest rho in [0, z] whose slack exceeds the divergence, by bisection, rounded down."""
    inside, outside = 0.0, z
    if z <= 0 or shift_slack(z, 0.0) - MARGIN <= divergence(0.0):
        return 0.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (inside + outside)
        if shift_slack(z, middle) - MARGIN > divergence(middle):
            inside = middle
        else:
            outside = middle
    return inside


def lipschitz_radius(
    p_lower: float, sigma_min: float, lipschitz: float, rounding: float = 0.0
) -> float:
    """Certified l2 radius for a generator whose log-map is `lipschitz`-Lipschitz; deployed.

    `sigma_min` is the smallest entry of G(x). `rounding`: norm by which the log-maps computed at
    two images may differ further. About sigma_min * Phi^-1(p_lower) divided by
    1 + 1.07 * lipschitz * sigma_min.
    """
    if not (sigma_min > 0 and lipschitz >= 0):
        raise ValueError(f"need sigma_min > 0 and lipschitz >= 0, got {sigma_min} and {lipschitz}")
    if p_lower <= 0.5:
        return 0.0
    scaled = lipschitz * sigma_min
    return sigma_min * _largest_rho(
        float(ndtri(p_lower)), lambda rho: scale_divergence(scaled * rho + rounding)
    )


def box_radius(p_lower: float, sigma_min: float, low: float, high: float, dim: int) -> float:
    """Certified l2 radius for any two sigma maps in [low, high]^dim, however they depend on x.

    Sound for every generator with that box; 0 in high dimension for any but a narrow box.
    """
    if not 0 < low <= sigma_min <= high:
        raise ValueError(f"need 0 < low <= sigma_min <= high, got {low}, {sigma_min}, {high}")
    if p_lower <= 0.5:
        return 0.0
    divergence = dim * scale_divergence(math.log(high / low))
    return sigma_min * _largest_rho(float(ndtri(p_lower)), lambda rho: divergence)

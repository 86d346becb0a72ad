"""Input-dependent isotropic smoothing: the exact worst case when the noise level itself may move.

At x the noise is N(0, sigma_0^2 I); at x + delta an attacker may have brought it to
N(0, sigma_1^2 I). By the Neyman-Pearson lemma the least favourable set is {p_1/p_0 <= t}: a ball
for sigma_0 < sigma_1, the complement of one for sigma_0 > sigma_1, a half-space for equal levels.
Its probabilities are noncentral chi-square distribution functions with d degrees of freedom.

Reference: Sukenik, Kuvshinov and Guennemann, ICML 2022. The paper's Eqs. 6, 7, 24 and 25 misprint
these formulas, and its step to per-pixel maps (Lemma 3) does not hold: docs/errata.md.
"""

from __future__ import annotations

import math
import warnings
from typing import Final

from scipy.special import ndtr, ndtri
from scipy.stats import chi2, ncx2

from concert.bounds import MARGIN

# The chi-square functions lose their accuracy nearer to sigma_1 = sigma_0 than this.
NEAREST_RATIO: Final = 1e-4
BISECTIONS: Final = 100


def worst_case_probability(
    p_lower: float, shift: float, sigma_0: float, sigma_1: float, dim: int
) -> float:
    """Lower bound of P(A) under N(x + delta, sigma_1^2 I), reduced by `bounds.MARGIN`.

    Tight but for levels that are nearly equal.

    A is any event with P(A) >= p_lower under N(x, sigma_0^2 I); `shift` is ||delta||_2; `dim` is
    the number of pixel values. Both directions, and the limit Phi(Phi^-1(p_lower) - shift/sigma_0)
    at sigma_1 = sigma_0. Levels that differ by less than 1e-4 of sigma_0 are moved apart to that
    distance, on the same side: if the bound exceeds 1/2 there, it does so at the level asked for
    (docs/errata.md), so a decision at 1/2 stays sound.

    Raises ValueError for p_lower outside (0, 1), a negative shift, levels that are not positive, or
    a dimension below 1.
    """
    if not 0.0 < p_lower < 1.0:
        raise ValueError(f"p_lower must lie in (0, 1), got {p_lower}")
    if not (shift >= 0 and math.isfinite(shift)):
        raise ValueError(f"shift must be finite and not negative, got {shift}")
    if not (sigma_0 > 0 and sigma_1 > 0 and math.isfinite(sigma_0) and math.isfinite(sigma_1)):
        raise ValueError(f"noise levels must be positive and finite, got {sigma_0} and {sigma_1}")
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    if sigma_1 == sigma_0:
        probability = float(ndtr(ndtri(p_lower) - shift / sigma_0))
    else:
        ratio = sigma_1 / sigma_0
        if abs(ratio - 1.0) < NEAREST_RATIO:
            ratio = 1.0 + math.copysign(NEAREST_RATIO, sigma_1 - sigma_0)
        with warnings.catch_warnings():
            # SciPy warns where its series gives up, and returns what is checked below.
            warnings.simplefilter("ignore", RuntimeWarning)
            probability = _ball_probability(p_lower, shift / sigma_0, ratio, dim)
    return max(0.0, probability - MARGIN)


def _ball_probability(p_lower: float, shift: float, ratio: float, dim: int) -> float:
    """The bound in units of sigma_0, for ratio = sigma_1 / sigma_0 != 1."""
    gap = abs(ratio * ratio - 1.0)
    center_0 = (shift / gap) ** 2
    center_1 = (ratio * shift / gap) ** 2
    if ratio > 1.0:
        # Inside the ball. The upper tail keeps the digits of a p_lower near 1.
        radius = _quantile_from_above(1.0 - p_lower, dim, center_0) / ratio**2
        return float(_distribution(radius, dim, center_1))
    radius = _quantile(1.0 - p_lower, dim, center_0) / ratio**2
    return float(_upper_tail(radius, dim, center_1))


def _quantile(q: float, dim: int, center: float) -> float:
    return float(chi2.ppf(q, dim) if center == 0 else ncx2.ppf(q, dim, center))


def _quantile_from_above(q: float, dim: int, center: float) -> float:
    return float(chi2.isf(q, dim) if center == 0 else ncx2.isf(q, dim, center))


def _distribution(value: float, dim: int, center: float) -> float:
    return float(chi2.cdf(value, dim) if center == 0 else ncx2.cdf(value, dim, center))


def _upper_tail(value: float, dim: int, center: float) -> float:
    return float(chi2.sf(value, dim) if center == 0 else ncx2.sf(value, dim, center))


def input_dependent_radius(
    p_lower: float, sigma_0: float, low: float, high: float, dim: int
) -> float:
    """Largest certified l2 radius when sigma may move anywhere in [low, high], rounded down.

    `sigma_0` in [low, high] is the noise level at the certified image, one number for the whole
    image. It suffices to test the two ends of the box, because a bound of at most 1/2 stays at most
    1/2 further from sigma_0 on the same side. 0 where p_lower <= 1/2, and in high dimension for any
    but a narrow box. The bound decreases in the shift, so bisection finds the radius.
    """
    if not 0 < low <= sigma_0 <= high:
        raise ValueError(f"need 0 < low <= sigma_0 <= high, got {low}, {sigma_0}, {high}")
    if p_lower <= 0.5:
        return 0.0
    ends = {low, sigma_0, high}

    def certified(radius: float) -> bool:
        return all(worst_case_probability(p_lower, radius, sigma_0, end, dim) > 0.5 for end in ends)

    inside, outside = 0.0, sigma_0 * float(ndtri(p_lower))
    if not certified(inside):
        return 0.0
    for _ in range(BISECTIONS):
        middle = 0.5 * (inside + outside)
        if middle in (inside, outside):
            break
        if certified(middle):
            inside = middle
        else:
            outside = middle
    return inside

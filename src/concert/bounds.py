"""Confidence bounds on a vote share, and the numbers of draws they need.

Everything is float64. Lower bounds are reduced (and upper bounds raised) by `MARGIN`, which covers
the error of SciPy's incomplete beta function against 40-digit binomial tails (at most 1e-10).
"""

from __future__ import annotations

import math
from typing import Final

from scipy.special import betaincinv
from scipy.stats import binomtest

MARGIN: Final = 1e-9


def _check(k: int, n: int, alpha: float) -> None:
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"need 0 <= k <= n and n >= 1, got k={k}, n={n}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """One-sided lower bound of a binomial proportion (Clopper and Pearson 1934).

    P(bound <= p) >= 1 - alpha for k ~ Binomial(n, p). Returns a value in [0, 1).
    """
    _check(k, n, alpha)
    if k == 0:
        return 0.0
    return max(0.0, float(betaincinv(k, n - k + 1, alpha)) - MARGIN)


def clopper_pearson_upper(k: int, n: int, alpha: float) -> float:
    """One-sided upper bound of a binomial proportion, in (0, 1]."""
    _check(k, n, alpha)
    if k == n:
        return 1.0
    return min(1.0, float(betaincinv(k + 1, n - k, 1.0 - alpha)) + MARGIN)


def binomial_p_value(k_top: int, k_second: int) -> float:
    """Exact two-sided p-value of "the two classes are equally likely" (Hung and Fithian 2019).

    `Predict` of Cohen et al. 2019 abstains where it exceeds alpha. Without votes it is 1.
    """
    if k_top + k_second == 0:
        return 1.0
    return float(binomtest(int(k_top), int(k_top + k_second), 0.5).pvalue)


def smallest_certifying_n(alpha: float) -> int:
    """Fewest unanimous draws whose lower bound exceeds 1/2, so that any radius can be certified."""
    n = max(1, math.floor(math.log(alpha) / math.log(0.5)))
    while clopper_pearson_lower(n, n, alpha) <= 0.5:
        n += 1
    return n


def smallest_deciding_n(alpha: float) -> int:
    """Fewest unanimous draws at which the two-sided test of `predict` does not abstain."""
    n = 1
    while binomial_p_value(n, 0) > alpha:
        n += 1
    return n


def draws_to_certify(share: float, alpha: float, limit: int = 10**9) -> int | None:
    """Fewest draws (up to rounding) whose lower bound exceeds 1/2 at a given vote share.

    None where the share is at most 1/2 or more than `limit` draws are needed.
    """
    if share <= 0.5 or clopper_pearson_lower(int(share * limit), limit, alpha) <= 0.5:
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        if clopper_pearson_lower(int(share * middle), middle, alpha) > 0.5:
            high = middle
        else:
            low = middle + 1
    return high

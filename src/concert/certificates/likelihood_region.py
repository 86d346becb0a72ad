"""Where a likelihood ratio of two anisotropic Gaussians is small: the paper's Theorem 2, corrected.

With p0 = N(x, diag sigma_0^2) and p1 = N(x + delta, diag sigma_1^2), the worst-case classifier of
the Neyman-Pearson lemma gives the class to {z : p1(z)/p0(z) <= t}. Put u = z - x,
beta_i = sigma_1i^2 - sigma_0i^2, alpha_i = sigma_0i^2 sigma_1i^2. Taking logarithms and doubling,

    sum_i (beta_i u_i^2 + 2 sigma_0i^2 delta_i u_i - sigma_0i^2 delta_i^2) / alpha_i
        <= 2 ln t + 2 sum_i ln(sigma_1i / sigma_0i),

and where beta_i != 0 its square is completed:

    sum_i beta_i/alpha_i (z_i - c_i)^2 <= Lambda,        c_i = x_i - sigma_0i^2 delta_i / beta_i,
    Lambda = sum_i delta_i^2/beta_i + 2 ln t + 2 sum_i ln(sigma_1i/sigma_0i).

A coordinate with beta_i = 0 enters by (2 delta_i u_i - delta_i^2)/sigma_0i^2 instead. The signs of
beta decide what kind of region this is. For study and plots: no certificate rests on it. What is
misprinted in the paper is in docs/errata.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


class Kind(StrEnum):
    """What a region {z : p1/p0 <= t} looks like."""

    EMPTY = "empty"
    EVERYTHING = "everything"
    ELLIPSOID = "ellipsoid"
    COMPLEMENT = "complement of an ellipsoid"
    HALF_SPACE = "half-space"
    PARABOLOID = "of paraboloid type"
    HYPERBOLOID = "of hyperboloid type"


@dataclass(frozen=True, eq=False)
class LikelihoodRegion:
    """{z : p1(z)/p0(z) <= t}; made by `likelihood_region`. All tensors float64, of one shape."""

    x: Tensor
    delta: Tensor
    sigma_0: Tensor
    sigma_1: Tensor
    log_t: float

    @property
    def beta(self) -> Tensor:
        """sigma_1^2 - sigma_0^2, without cancellation."""
        return (self.sigma_1 - self.sigma_0) * (self.sigma_1 + self.sigma_0)

    @property
    def alpha(self) -> Tensor:
        """sigma_0^2 sigma_1^2."""
        return (self.sigma_0 * self.sigma_1).square()

    @property
    def constant(self) -> float:
        """2 ln t + 2 sum ln(sigma_1/sigma_0)."""
        return 2.0 * self.log_t + 2.0 * float((self.sigma_1 / self.sigma_0).log().sum())

    @property
    def level(self) -> float:
        """Lambda; its sum runs over the coordinates with beta_i != 0."""
        curved = self.beta != 0
        return self.constant + float((self.delta[curved].square() / self.beta[curved]).sum())

    @property
    def kind(self) -> Kind:
        """What the region looks like.

        Coordinates with beta_i = 0 and delta_i = 0 do not matter: along them it is a cylinder. An
        ellipsoid of level 0 is a point.
        """
        beta, level = self.beta, self.level
        convex, concave = bool((beta > 0).any()), bool((beta < 0).any())
        linear = bool(((beta == 0) & (self.delta != 0)).any())
        if convex and concave:
            return Kind.HYPERBOLOID
        if linear:
            return Kind.PARABOLOID if convex or concave else Kind.HALF_SPACE
        if convex:
            return Kind.ELLIPSOID if level >= 0 else Kind.EMPTY
        if concave:
            return Kind.COMPLEMENT if level < 0 else Kind.EVERYTHING
        return Kind.EVERYTHING if level >= 0 else Kind.EMPTY

    @property
    def center(self) -> Tensor:
        """x - sigma_0^2 delta / beta; x where beta_i = 0 = delta_i, NaN where only beta_i = 0."""
        shift = self.sigma_0.square() * self.delta / self.beta
        return self.x - torch.where((self.beta == 0) & (self.delta == 0), 0.0, shift).where(
            (self.beta != 0) | (self.delta == 0), math.nan
        )

    @property
    def semi_axes(self) -> Tensor | None:
        """sqrt(alpha Lambda / beta) of an ellipsoid or of the one left out; None for other kinds.

        Infinite along a cylinder's coordinates.
        """
        if self.kind not in (Kind.ELLIPSOID, Kind.COMPLEMENT):
            return None
        lengths = (self.alpha * self.level / self.beta).sqrt()
        return torch.where(self.beta == 0, math.inf, lengths)

    def contains(self, z: Tensor) -> Tensor:
        """Whether p1(z)/p0(z) <= t, for points of x's shape or (B, ...): bool, () or (B,).

        Evaluated before completing the square, so that a small beta_i costs no digits.
        """
        single = z.shape == self.x.shape
        if not single and z.shape[1:] != self.x.shape:
            raise ValueError(
                f"points must have shape {tuple(self.x.shape)} or a batch of it, got "
                f"{tuple(z.shape)}"
            )
        u = z.detach().double().cpu() - self.x
        # (beta u^2 + 2 sigma_0^2 delta u - sigma_0^2 delta^2) / alpha, in fewer operations.
        terms = self.beta / self.alpha * u.square()
        terms = terms + self.delta * (2.0 * u - self.delta) / self.sigma_1.square()
        values = terms.sum() if single else terms.flatten(1).sum(dim=1)
        return values <= self.constant


def likelihood_region(
    x: Tensor, delta: Tensor, sigma_0: Tensor, sigma_1: Tensor, log_t: float
) -> LikelihoodRegion:
    """{z : p1(z)/p0(z) <= t} of p0 = N(x, diag sigma_0^2) and p1 = N(x + delta, diag sigma_1^2).

    All tensors have one shape, any; `log_t` is ln t. Raises ValueError for shapes that differ,
    values that are not finite, and standard deviations that are not positive.
    """
    x, delta, sigma_0, sigma_1 = tensors = [
        value.detach().double().cpu() for value in (x, delta, sigma_0, sigma_1)
    ]
    if any(value.shape != x.shape for value in tensors):
        shapes = ", ".join(str(tuple(value.shape)) for value in tensors)
        raise ValueError(f"x, delta, sigma_0 and sigma_1 must have one shape, got {shapes}")
    if not (all(bool(value.isfinite().all()) for value in tensors) and math.isfinite(log_t)):
        raise ValueError("x, delta, sigma_0, sigma_1 and log_t must be finite")
    if not bool((sigma_0 > 0).all() & (sigma_1 > 0).all()):
        raise ValueError("every entry of sigma_0 and sigma_1 must be positive")
    return LikelihoodRegion(x, delta, sigma_0, sigma_1, log_t)

"""Stopping certification early, by any rule, without losing its error probability.

The votes are looked at after fixed cumulative numbers of draws n_1 < ... < n_J. Stage j bounds the
vote share at error w_j * alpha, with sum w_j = 1, and the bound is the largest so far. By the union
bound all J statements hold together with probability at least 1 - alpha, so it does not matter why
or when sampling stops. The class counted must not depend on the certifying draws.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import ndtri

from concert.bounds import clopper_pearson_lower
from concert.errors import ConcertError, nearest

# Looks before the last one, with their shares of alpha; the last one gets the rest.
LOOKS: Final = (
    (500, 0.06),
    (1500, 0.07),
    (5000, 0.08),
    (7500, 0.10),
    (15_000, 0.11),
    (40_000, 0.18),
)
# A radius is given up on when all draws would miss it even if the image's share were this many
# standard errors above the one seen. Sound for any value, because giving up only lowers the radius.
GIVE_UP: Final = 3.0


@dataclass(frozen=True)
class Stages:
    """Cumulative numbers of draws, and their shares of alpha, which sum to at most 1."""

    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.shares) or not self.sizes:
            raise ValueError("stages need as many sizes as shares, at least one")
        if any(a >= b for a, b in zip((0, *self.sizes), self.sizes, strict=False)):
            raise ValueError(f"sizes must be positive and increase, got {self.sizes}")
        if min(self.shares) <= 0 or sum(self.shares) > 1.0 + 1e-12:
            raise ValueError(f"shares must be positive and sum to at most 1, got {self.shares}")

    @classmethod
    def single(cls, n: int) -> Stages:
        """One look at the end: plain Clopper-Pearson."""
        return cls((n,), (1.0,))

    @classmethod
    def standard(cls, n: int, multiple: int = 1) -> Stages:
        """Looks near 500, 1,500, 5,000, 7,500, 15,000, 40,000 and at n; all but n rounded up to a
        multiple of the batch size. The bound at the end costs at most about 1 % of the radius.
        """
        looks = {-(-size // multiple) * multiple: share for size, share in LOOKS}
        early = {size: share for size, share in looks.items() if size < n}
        return cls((*early, n), (*early.values(), 1.0 - sum(early.values())))


class StagedBound:
    """The running lower bound of one event's probability, at error `alpha` over all stages."""

    def __init__(self, stages: Stages, alpha: float) -> None:
        self.stages, self.alpha = stages, alpha
        self.stage = 0
        self.p_lower = 0.0

    def update(self, k: int) -> float:
        """Take the cumulative count `k` at the next stage; returns the bound so far."""
        n, share = self.stages.sizes[self.stage], self.stages.shares[self.stage]
        self.stage += 1
        self.p_lower = max(self.p_lower, clopper_pearson_lower(k, n, share * self.alpha))
        return self.p_lower


@dataclass(frozen=True)
class StoppingRule:
    """When to stop sampling an image.

    "full": never before n. "relative:0.05": once the radius is within 5 % of what n draws are
    projected to give. "grid:0,0.25,0.5": once every radius of the grid is certified, out of reach,
    or given up on. An image that cannot reach a vote share of 1/2 is given up on by the last two.
    """

    kind: str
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> StoppingRule:
        """The rule of a text such as "full", "relative:0.05" or "grid:0,0.25,0.5"."""
        kind, _, rest = text.partition(":")
        if kind not in ("full", "relative", "grid"):
            raise ConcertError(nearest("stopping rule", kind, ["full", "relative:EPS", "grid:R,R"]))
        try:
            values = tuple(float(part) for part in rest.split(",")) if rest else ()
        except ValueError:
            raise ConcertError(f"stopping rule '{text}' has a part that is no number") from None
        if kind == "full" and values:
            raise ConcertError("stopping rule 'full' takes no numbers")
        if kind == "relative" and not (len(values) == 1 and 0 < values[0] < 1):
            raise ConcertError("stopping rule 'relative:EPS' needs one number in (0, 1)")
        if kind == "grid" and (
            not values or min(values) < 0 or not all(map(math.isfinite, values))
        ):
            raise ConcertError("stopping rule 'grid:R,R,...' needs radii that are not negative")
        return cls(kind, tuple(sorted(set(values))))

    def stages(self, n: int, multiple: int = 1) -> Stages:
        """The looks that the rule needs."""
        return Stages.single(n) if self.kind == "full" else Stages.standard(n, multiple)

    def stops(
        self,
        bound: StagedBound,
        k: int,
        radius_of: Callable[[float], float],
        reached: float | None = None,
    ) -> bool:
        """Whether to stop after the last update, whose count was `k`.

        `radius_of` turns a lower bound into the radius that is reported; it must not decrease.
        `reached`: the radius that another claim about the image has certified so far, None if
        none; radii of a grid up to it are decided whatever this claim can reach.
        """
        sizes = bound.stages.sizes
        n, last = sizes[bound.stage - 1], sizes[-1]
        if n == last:
            return True
        if self.kind == "full":
            return False
        share = k / n
        optimistic = share + GIVE_UP * math.sqrt(max(share * (1.0 - share), 1.0 / n) / n)
        final_alpha = bound.stages.shares[-1] * bound.alpha
        most = min(k + last - n, math.floor(optimistic * last))
        best = clopper_pearson_lower(most, last, final_alpha)
        if best <= 0.5:
            return True
        radius = radius_of(bound.p_lower)
        if self.kind == "relative":
            projected = clopper_pearson_lower(round(share * last), last, final_alpha)
            wanted = (1.0 - self.values[0]) * radius_of(projected)
            return bound.p_lower > 0.5 and radius >= wanted
        certified = bound.p_lower > 0.5 or reached is not None
        target = next_radius(self.values, max(radius, reached or 0.0), certified)
        if target is None:
            return True
        return radius_of(best) < target


@dataclass(frozen=True)
class StagingLoss:
    """What looking early costs an image that all n draws are made for, as shares of its radius.

    Against one plain Clopper-Pearson bound at the end: where all votes agree, and where 90 % do.
    """

    unanimous: float
    ninety: float


def staging_loss(stages: Stages, alpha: float) -> StagingLoss:
    """The loss of stages at error `alpha`, for radii proportional to Phi^-1 of the bound."""
    return StagingLoss(_loss_at(1.0, stages, alpha), _loss_at(0.9, stages, alpha))


def _loss_at(share: float, stages: Stages, alpha: float) -> float:
    n, bound = stages.sizes[-1], StagedBound(stages, alpha)
    for size in stages.sizes:
        staged = bound.update(math.floor(share * size))
    plain = clopper_pearson_lower(math.floor(share * n), n, alpha)
    if staged <= 0.5:
        # Nothing is certified, by either or by the stages alone.
        return float(plain > 0.5)
    return 1.0 - float(ndtri(staged) / ndtri(plain))


def next_radius(grid: Sequence[float], radius: float, certified: bool) -> float | None:
    """The smallest radius of an ascending grid that is not certified yet, or None."""
    if not certified:
        return grid[0]
    position = bisect.bisect_right(grid, radius)
    return grid[position] if position < len(grid) else None

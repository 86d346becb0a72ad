"""Gaussian noise on the grid of 8-bit images: integers are drawn and added, nothing is rounded.

Adding float32 noise to a float32 image is not adding a real Gaussian, and classifiers can be built
that are certified and broken through the rounding (Voracek and Hein 2023). Here an image of
multiples of 1/levels gets noise k/levels, where the integer k is a Gaussian of standard deviation
levels * sigma rounded to the nearest integer. Image and noise add as integers, and for images on
the grid the sum is the rounding of x + sigma * eps, so Cohen's radius holds between such images by
post-processing.

k is drawn by comparing uniform 64-bit integers with a table of the rounded Gaussian's distribution
function. The table is computed with 50 decimal digits, so it is wrong by its last bit only, and
`total_variation` bounds what that can do.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from concert import certificates
from concert.certificates import Region
from concert.deferred import refuse
from concert.errors import ConcertError
from concert.noise.fixed import IsotropicNoise

DIGITS: Final = 50
PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
WORD: Final = 2**64
# Draws are found by their first 16 bits where these decide, else by a search among the thresholds.
GUIDE_BITS: Final = 16
# In grid steps: float32 holds uint8 / 255 to 5e-5 of a step, whichever way it was divided.
ON_GRID: Final = 1e-4


def upper_half(x: Decimal) -> Decimal:
    """Phi(x) - 1/2 for x >= 0, to about 40 digits.

    The density times x + x^3/3 + x^5/(3*5) + ..., whose terms are all positive.
    """
    with localcontext() as context:
        context.prec = DIGITS
        square, term, total, odd = x * x, x, x, 1
        while term > total * Decimal(10) ** -DIGITS:
            odd += 2
            term = term * square / odd
            total += term
        return total * (-square / 2).exp() / (2 * PI).sqrt()


@lru_cache(maxsize=8)
def thresholds(spread: float) -> tuple[int, ...]:
    """2^64 times P(K <= k), rounded, for the k at which it lies strictly between 0 and 2^64.

    K is a Gaussian of standard deviation `spread`, rounded to integers. The middle two entries
    belong to k = -1 and k = 0, and the table is symmetric.
    """
    right: list[int] = []
    with localcontext() as context:
        context.prec = DIGITS
        while True:
            x = (Decimal(len(right)) + Decimal("0.5")) / Decimal(spread)
            share = int((WORD * (Decimal("0.5") + upper_half(x))).to_integral_value())
            if share >= WORD:
                break
            right.append(share)
    return (*(WORD - share for share in reversed(right)), *right)


class GridNoise(IsotropicNoise):
    """z = x + k / levels with integers k distributed as levels * sigma * eps, rounded.

    Takes images whose values are multiples of 1/levels only, up to float32 rounding; the
    certificate is about such images. Each lane of a draw is one uniform 64-bit integer a value; for
    training, float normals are taken too and rounded.
    """

    certificate = "isotropic-grid"
    draws = "bits"
    table: Tensor
    guide: Tensor
    mixed: Tensor

    def __init__(self, sigma: float, levels: int = 255) -> None:
        super().__init__(sigma)
        if not (isinstance(levels, int) and 1 <= levels <= 1023):
            raise ConcertError(f"grid must be a whole number from 1 to 1023, got {levels}")
        if not 0.1 <= levels * self.sigma <= 2000:
            raise ConcertError(
                f"noise on a grid needs a sigma of 0.1 to 2000 steps, got {levels * sigma:g}: "
                "change sigma or grid"
            )
        self.levels = levels
        shares = thresholds(levels * self.sigma)
        # Signed, so that 64 uniform bits can be compared as they are.
        table = torch.tensor([share - WORD // 2 for share in shares], dtype=torch.int64)
        first = torch.arange(-(2 ** (GUIDE_BITS - 1)), 2 ** (GUIDE_BITS - 1)) << (64 - GUIDE_BITS)
        last = first + (2 ** (64 - GUIDE_BITS) - 1)
        guide = torch.searchsorted(table, first, right=True)
        mixed = guide != torch.searchsorted(table, last, right=True)
        for name, tensor in (("table", table), ("guide", guide.int()), ("mixed", mixed)):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def total_variation(self) -> float:
        """Bound of the distance between one value's noise as drawn and the rounded Gaussian.

        Every threshold is off by at most half a unit of 2^-64, and so are those beyond the table,
        whose errors fall faster than geometrically; the last two terms stand for them.
        """
        return (len(self.table) + 2 * math.ceil(self.levels * self.sigma) + 2) * 2.0**-65

    def steps(self, bits: Tensor) -> Tensor:
        """The integers k (float32) that uniform 64-bit integers (B, C, H, W) stand for."""
        # Through memory order, in which looking up is several times faster.
        last = bits.permute(0, 2, 3, 1)
        flat = last.reshape(-1)
        if flat.device.type == "cpu":
            cells = (flat >> (64 - GUIDE_BITS)) + 2 ** (GUIDE_BITS - 1)
            below = torch.take(self.guide, cells)
            open_ = torch.take(self.mixed, cells).nonzero().squeeze(1)
            below[open_] = torch.searchsorted(self.table, flat[open_], right=True, out_int32=True)
        else:
            # Elsewhere the host would have to wait for the number of open cells.
            below = torch.searchsorted(self.table, flat, right=True, out_int32=True)
        steps = (below - len(self.table) // 2).float()
        return steps.reshape(last.shape).permute(0, 3, 1, 2)

    def accept(self, images: Tensor) -> Tensor:
        scaled = images * self.levels
        whole = scaled.round()
        if images.numel():
            distance = (scaled - whole).abs().flatten(1).amax(1)
            refuse(distance > ON_GRID, lambda: self._off_grid(float(distance.max())))
        return whole / self.levels

    def _off_grid(self, distance: float) -> ConcertError:
        return ConcertError(
            f"this noise takes images whose values are multiples of 1/{self.levels}, got values"
            f" {distance:.2g} steps away: round them, (images * {self.levels}).round() / "
            f"{self.levels}"
        )

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noisy copies: from 64-bit integers exactly, from normals (training) up to rounding."""
        used = images.new_full((), self.sigma)
        if normals[0].is_floating_point():
            steps = (normals[0] * (self.levels * self.sigma)).round()
            return images + steps / self.levels, used
        # Sums of integers are exact, and a division gives one float32 for each of them.
        whole = (self.accept(images) * self.levels).round()
        return self.steps(normals[0]).add_(whole).div_(self.levels), used

    def sentence_of(self, certificate: str) -> str:
        return (
            f"{super().sentence_of(certificate)} It takes only images whose values are multiples "
            f"of 1/{self.levels}, and the perturbed images are such images too."
        )

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        distance = dim * self.total_variation
        # Two accepted images may be nearer than the grid images they stand for, which differ by
        # whole steps: each by up to ON_GRID of a step.
        sigma = self.sigma * (1.0 - 2.0 * ON_GRID)
        return certificates.isotropic_grid(p_lower, sigma, dim, distance)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "grid": self.levels}

"""Noise with a level of its own for colour, for smooth brightness and for detail.

z = x + A eps, where A multiplies the three parts of an image (`concert.certificates.bands`) by
three numbers. A does not depend on the image, so Cohen's theorem in the coordinates A^-1 z gives an
ellipsoid that holds for the classifier as deployed. It is long where the noise is large: changes of
colour, or of the brightness of whole regions, are certified at norms far above the ball's radius.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from concert import certificates
from concert.certificates import Guarantee, Region
from concert.certificates.bands import Bands, scale_bands
from concert.errors import ConcertError
from concert.noise.base import NoiseModel, as_drawn, check_sigma


class BandedNoise(NoiseModel):
    """z = x + A eps, with standard deviations that do not depend on x.

    Args:
        sigma: along detail of luma, which is what people see most of.
        chroma_sigma: along changes of colour; default sigma.
        smooth_sigma: along luma that is constant in blocks; default sigma. It is the deviation of
            the l2 norm: the k pixels of a block change by smooth_sigma / sqrt(k) each.
        block: side of a block in pixels; blocks at the border may be smaller.
    """

    kind = certificate = "banded"
    guarantee = Guarantee.DEPLOYED

    def __init__(
        self,
        sigma: float,
        chroma_sigma: float | None = None,
        smooth_sigma: float | None = None,
        block: int = 8,
    ) -> None:
        super().__init__()
        chroma = sigma if chroma_sigma is None else chroma_sigma
        smooth = sigma if smooth_sigma is None else smooth_sigma
        self.sigma = check_sigma("sigma", sigma)
        self.chroma_sigma = check_sigma("chroma_sigma", chroma)
        self.smooth_sigma = check_sigma("smooth_sigma", smooth)
        if block < 1:
            raise ConcertError(f"block must be at least 1 pixel, got {block}")
        self.block = int(block)

    def accept(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ConcertError(
                f"banded noise takes grey images or RGB, got {images.shape[1]} channels"
            )
        return images

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        levels = self.chroma_sigma, self.smooth_sigma, self.sigma
        noise = scale_bands(normals[0], *levels, self.block)
        return images + noise, images.new_full((), self.sigma)

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        channels, height, width = sigma_map.shape[-3:]
        levels = map(as_drawn, (self.chroma_sigma, self.smooth_sigma, self.sigma))
        bands = Bands((channels, height, width), self.block, *levels)
        return certificates.banded(p_lower, bands)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "sigma": self.sigma,
            "chroma_sigma": self.chroma_sigma,
            "smooth_sigma": self.smooth_sigma,
            "block": self.block,
        }

"""Noise that is shaped by the clean image through a generator: the paper's."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from concert import certificates
from concert.certificates import Claim, Guarantee, Region
from concert.errors import ConcertError
from concert.noise.base import NoiseModel, as_drawn, check_sigma

NO_CODEBOOK: Final = (
    "a codebook has no map where its choice is too close to call, and generated noise cannot do "
    "without one: use queried noise, or another generator"
)


class GeneratedNoise(NoiseModel):
    """z = x + G(x) * eps: the paper's noise. Its certificate "frozen" holds for a frozen map only.

    Certificate "algorithm2" is the radius step of the paper's Algorithm 2 with its formulas
    corrected. It needs the generator's box, attributes `low` and `high`. It guarantees nothing for
    maps. Certificate "lipschitz", offered where the generator has a number `lipschitz` that log G
    never exceeds as a slope, holds for the classifier as deployed.

    A generator whose class says `one_level = True` gives one level per image: the first entry of
    its output, clamped to the box, is used for the whole image, so that "algorithm2" holds for the
    classifier as deployed whatever the generator does.

    The default certificate is one that holds for the classifier as deployed where there is one,
    else "frozen".
    """

    kind = "generated"
    certificate = "frozen"
    guarantee = Guarantee.FROZEN

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        if hasattr(generator, "choice_margin"):
            raise ConcertError(NO_CODEBOOK)
        self.generator = generator
        if self.slope is not None:
            self.certificate = "lipschitz"
        elif self.one_level:
            self.certificate = "algorithm2"
        self.guarantee = self.guarantee_of(self.certificate)

    @property
    def one_level(self) -> bool:
        """Whether the generator's class says that its map is one level for the whole image."""
        return getattr(type(self.generator), "one_level", False) is True

    def box(self) -> tuple[float, float]:
        """The interval that no entry of a sigma map leaves, as float32 can hold its ends."""
        try:
            low = check_sigma("low", self.generator.low)  # type: ignore[arg-type]
            high = check_sigma("high", self.generator.high)  # type: ignore[arg-type]
        except (AttributeError, TypeError):
            raise ConcertError(
                "certificate 'algorithm2' needs the box of the generator's maps: give the generator"
                " numbers 'low' and 'high'"
            ) from None
        return as_drawn(low), max(high, float(np.float32(high)))

    def prepare(self, images: Tensor) -> Tensor | None:
        sigma: Tensor = self.generator(images)
        if not self.one_level:
            if self.slope is not None and sigma.shape != images.shape:
                # One value used at many pixels would change all of them at once.
                raise ConcertError(
                    "a generator with a known slope must return a value for every pixel, "
                    f"{tuple(images.shape)}, not {tuple(sigma.shape)}"
                )
            return sigma
        low, high = self.box()
        return sigma[:, :1, :1, :1].float().clamp(low, high).expand_as(images)

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if sigma is None:
            sigma = self.prepare(images)
        assert sigma is not None
        return torch.addcmul(images, normals[0], sigma), sigma

    @property
    def certificates(self) -> tuple[str, ...]:
        bounded = ("lipschitz",) if self.slope is not None else ()
        rest = (name for name in ("frozen", "algorithm2", *bounded) if name != self.certificate)
        return (self.certificate, *rest)

    @property
    def slope(self) -> float | None:
        """The Lipschitz constant in l2 of the log-map that the noise uses, where it is known."""
        slope = getattr(self.generator, "lipschitz", None)
        return None if slope is None or self.one_level else float(slope)

    def guarantee_of(self, certificate: str) -> Guarantee:
        certificate = self.certificate if certificate == "auto" else certificate
        if certificate == "lipschitz":
            return Guarantee.DEPLOYED
        if certificate != "algorithm2":
            return Guarantee.FROZEN
        self.box()
        return Guarantee.DEPLOYED if self.one_level else Guarantee.NONE

    def claims(
        self, certificate: str, sigma_map: Tensor, floor: Tensor | None = None
    ) -> tuple[Claim, ...]:
        """The frozen ellipsoid, or by name the ball of Algorithm 2 or of a known slope."""
        slope = self.slope
        if certificate == "lipschitz" and slope is not None:
            return (Claim(lambda p: certificates.lipschitz(p, sigma_map, slope)),)
        if certificate != "algorithm2":
            return super().claims(certificate, sigma_map)
        guarantee, (low, high) = self.guarantee_of(certificate), self.box()
        smallest, largest = (float(end) for end in torch.aminmax(sigma_map.detach().double()))
        if not low <= smallest <= largest <= high:
            raise ConcertError(
                f"the generator's map has values in [{smallest:.6g}, {largest:.6g}], outside its "
                f"box [{low:.6g}, {high:.6g}]: correct its 'low' and 'high', or clamp its output"
            )
        return (Claim(lambda p: certificates.algorithm2(p, sigma_map, low, high, guarantee)),)

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.frozen(p_lower, sigma_map)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind}

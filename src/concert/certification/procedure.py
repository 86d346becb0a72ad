"""How images are certified: the numbers of draws, the error, the certificate, the stopping rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from concert import bounds
from concert.certification.stopping import StoppingRule
from concert.checks import check_alpha, check_counts
from concert.errors import ConcertError, nearest
from concert.noise import NoiseModel
from concert.streams import Domain, Stream

# What the model of a certificate is trained with, for those who name one that it does not have.
_NEEDS: Final = {
    "isotropic": "isotropic noise without --noise.grid",
    "isotropic-grid": "isotropic noise with --noise.grid",
    "static": "static noise",
    "queried": "queried noise",
    "queried-ball": "queried noise",
    "frozen": "generated noise",
    "algorithm2": "generated noise",
    "lipschitz": "generated noise by a generator with a known slope (--noise.generator bounded)",
}


@dataclass(frozen=True)
class Procedure:
    """What decides a certification, beside the model and the image.

    n0, n: selection and certifying draws. alpha: error probability per image. seed: of the noise.
    certificate: by name, or "auto", the noise model's default. stopping: full, relative:EPS or
    grid:R,R,... (`concert.certification.stopping`). n_select: generator passes that choose the
    queried ellipsoid's map.
    """

    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    seed: int = 0
    certificate: str = "auto"
    stopping: str = "full"
    n_select: int = 2000

    @property
    def rule(self) -> StoppingRule:
        """The stopping rule."""
        return StoppingRule.parse(self.stopping)

    def certificate_of(self, noise: NoiseModel) -> str:
        """The certificate's own name."""
        return noise.certificate if self.certificate == "auto" else self.certificate

    def check(self, noise: NoiseModel) -> None:
        """Refuse settings that can never certify anything, before any draw is made."""
        check_alpha(self.alpha)
        check_counts(n0=self.n0, n=self.n, n_select=self.n_select)
        for name, count in (("n0", self.n0), ("n_select", self.n_select)):
            if count < 1:
                raise ConcertError(f"{name} must be at least 1, got {count}")
        certificate = self.certificate_of(noise)
        # Two claims are made at alpha/2 each.
        alpha = self.alpha / 2 if noise.needs_floor(certificate) else self.alpha
        fewest = bounds.smallest_certifying_n(alpha)
        if self.n < fewest:
            raise ConcertError(
                f"n={self.n} draws can never certify at alpha={self.alpha}: the smallest n that "
                f"could is {fewest}"
            )
        if certificate not in noise.certificates:
            names = ["auto", *noise.certificates]
            if certificate in _NEEDS:
                raise ConcertError(
                    f"certificate '{certificate}' needs {_NEEDS[certificate]}; this noise has: "
                    f"{', '.join(names)}"
                )
            raise ConcertError(nearest(f"certificate for {noise.kind} noise", certificate, names))
        noise.guarantee_of(certificate)  # refuses one that lacks what it rests on
        Stream(self.seed, Domain.CERTIFY, 0)  # refuses an impossible seed
        _ = self.rule

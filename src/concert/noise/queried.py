"""Noise that is shaped by a noisy query of the image, so that its certificate holds as deployed."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from concert import certificates
from concert.certificates import Claim, Guarantee, Region
from concert.errors import ConcertError
from concert.noise.base import NoiseModel, as_drawn, check_sigma, normal_like, repeat


class QueriedNoise(NoiseModel):
    """Noise shaped by a noisy query, and the query's noise reused.

        m1 = x + q * xi,  tau = G(m1) in [low, high],  high < q
        z  = x + tau * ((tau/q) * xi + sqrt(1 - (tau/q)^2) * eps)

    The generator sees m1 only. Given (m1, z) the pair is an adaptive composition of Gaussian
    mechanisms of total budget ||delta/tau|| <= ||delta||/low, so Cohen's ball at sigma = low holds
    for the classifier as deployed. Certificate "queried" adds the ellipsoid of truncated counting,
    both at half of alpha; "queried-ball" is the ball alone.
    """

    kind = "queried"
    certificate = "queried"
    guarantee = Guarantee.DEPLOYED
    lanes = 2

    def __init__(self, generator: nn.Module, query_sigma: float, low: float, high: float) -> None:
        super().__init__()
        self.generator = generator
        self.low, self.high = check_sigma("low", low), check_sigma("high", high)
        self.query_sigma = check_sigma("query_sigma", query_sigma)
        if not self.low <= self.high < self.query_sigma:
            raise ConcertError(
                "queried noise needs low <= high < query_sigma, got "
                f"low={low}, high={high}, query_sigma={query_sigma}: raise query_sigma or "
                "lower high"
            )

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        xi, eps = normals
        tau = self.shape_noise(images, xi)
        return self.combine(images, xi, eps, tau), tau

    def shape_noise(self, images: Tensor, xi: Tensor) -> Tensor:
        """The map tau (B, C, H, W) for a query's normals xi."""
        query = torch.add(images, xi, alpha=self.query_sigma)
        # The certificate rests on this bound, so it must not rest on the generator's own clamp, nor
        # on a precision in which the bounds would be rounded.
        tau: Tensor = self.generator(query).float().clamp(self.low, self.high)
        return tau

    def normals_of_copies(
        self, images: Tensor, m: int, generator: torch.Generator, share_query: bool = True
    ) -> tuple[Tensor, ...]:
        """xi and eps: xi (B, C, H, W) where the copies of an image share one query."""
        xi = normal_like(images, generator, 1 if share_query else m)
        return xi, normal_like(images, generator, m)

    def copies_from(
        self, images: Tensor, m: int, normals: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        xi, eps = normals
        if len(xi) != len(images):
            return super().copies_from(images, m, normals)
        tau = self.shape_noise(images, xi)
        # `combine` in two parts, the one that the copies of an image share computed once.
        ratio = tau / self.query_sigma
        mean = images + tau * ratio * xi
        deviation = tau * (1.0 - ratio * ratio).sqrt()
        return torch.addcmul(repeat(mean, m), eps, repeat(deviation, m)), tau.expand_as(images)

    def deployed(self, differentiable: bool = False) -> NoiseModel:
        if not hasattr(self.generator, "choice_margin"):
            return self
        twin = copy.deepcopy(self)
        generator: Any = twin.generator
        generator.choice_margin, generator.differentiable = 0.0, differentiable
        return twin

    def instability(self, images: Tensor, generator: torch.Generator) -> Tensor:
        maps = [self.shape_noise(images, normal_like(images, generator)) for _ in range(2)]
        changes: Tensor = (maps[0].log() - maps[1].log()).abs().flatten(1).amax(dim=1)
        return changes

    @property
    def lowest(self) -> float:
        return as_drawn(self.low)

    def reference(self, mean_map: Tensor) -> Tensor:
        """The mean map, or the map of a codebook nearest to it: that of nearly all queries."""
        nearest = getattr(self.generator, "nearest_map", None)
        if nearest is None:
            return mean_map
        chosen: Tensor = nearest(mean_map).float().clamp(self.low, self.high)
        return chosen

    def sigma_map_of(self, images: Tensor, normals: Tensor) -> Tensor:
        return self.shape_noise(images, normals)

    @property
    def certificates(self) -> tuple[str, ...]:
        return (self.certificate, "queried-ball")

    def needs_floor(self, certificate: str) -> bool:
        return certificate == "queried"

    def claims(
        self, certificate: str, sigma_map: Tensor, floor: Tensor | None = None
    ) -> tuple[Claim, ...]:
        """The ball, or with certificate "queried" the ball and the ellipsoid at alpha/2 each."""
        (ball,) = super().claims(certificate, sigma_map)
        if floor is None:
            return (ball,)
        return (
            replace(ball, alpha_share=0.5),
            Claim(lambda p: certificates.queried_ellipsoid(p, floor), 0.5, floor),
        )

    def combine(self, images: Tensor, xi: Tensor, eps: Tensor, tau: Tensor) -> Tensor:
        """The noisy copy z for a given map tau."""
        ratio = tau / self.query_sigma
        return images + tau * (ratio * xi + (1.0 - ratio * ratio).sqrt() * eps)

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.queried_ball(p_lower, as_drawn(self.low), dim)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "query_sigma": self.query_sigma,
            "low": self.low,
            "high": self.high,
        }

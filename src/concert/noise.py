"""Noise models: how one noisy copy of an image is drawn, and what a certificate may rest on.

A model turns standard normals into noisy copies and says which sigma map each copy used. Noise is
in the units of the image's [0, 1] range, added in float32 and never clipped. The four models differ
in where the sigma map comes from: a number, one map for all images, the image itself (the paper),
or a noisy query of the image (whose guarantee holds for the classifier as deployed).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from concert import certificates
from concert.certificates import Claim, Guarantee, Region
from concert.errors import ConcertError


class NoiseModel(nn.Module, ABC):
    """Base of the noise models.

    Attributes: `kind` (its name in configurations), `certificate` (the default one), `guarantee` of
    that certificate, `lanes` (independent standard normals per draw).
    """

    kind: str
    certificate: str
    guarantee: Guarantee
    lanes: int = 1

    @property
    def certificates(self) -> tuple[str, ...]:
        """The names of the certificates that this noise offers, the default first."""
        return (self.certificate,)

    def prepare(self, images: Tensor) -> Tensor | None:
        """The sigma maps (B, C, H, W) that depend on clean images only, computed once; or None."""
        return None

    @abstractmethod
    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noisy copies and the sigma maps they used (broadcastable to them).

        `images` and each of `normals` broadcast to (B, C, H, W); `sigma` is what `prepare` gave.
        """

    def copies(
        self, images: Tensor, m: int, generator: torch.Generator, share_query: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`m` noisy copies per image for training, and the sigma maps they used.

        Copies of one image are adjacent: (B * m, C, H, W). The maps are (B, C, H, W) where the
        copies of an image share one, (B * m, C, H, W) where they do not.
        """
        repeated = images.repeat_interleave(m, dim=0)
        normals = tuple(_normal_like(repeated, generator) for _ in range(self.lanes))
        sigma = self.prepare(images)
        spread = None if sigma is None else sigma.repeat_interleave(m, dim=0)
        noisy, used = self(repeated, normals, spread)
        if sigma is not None:
            return noisy, sigma.expand_as(images)
        return noisy, used.expand(len(used) if used.ndim == 4 else len(images), *images.shape[1:])

    @abstractmethod
    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        """The certified region; `sigma_map` is the image's, or the mean over selection draws."""

    def needs_floor(self, certificate: str) -> bool:
        """Whether the certificate rests on a map fixed before the certifying draws."""
        return False

    def claims(
        self, certificate: str, sigma_map: Tensor, floor: Tensor | None = None
    ) -> tuple[Claim, ...]:
        """What is claimed about an image (C, H, W), given its (mean) sigma map and the floor."""
        return (Claim(lambda p_lower: self.region(p_lower, sigma_map, sigma_map.numel())),)

    def sigma_map_of(self, images: Tensor, normals: Tensor) -> Tensor:
        """The sigma maps of draws whose first lane is `normals`."""
        maps: Tensor = self(images, (normals,) * self.lanes)[1]
        return maps

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but tensors that rebuilds the model, for a run's configuration."""


def _check_sigma(name: str, value: float) -> float:
    if not (math.isfinite(value) and float(np.float32(value)) > 0):
        raise ConcertError(f"{name} must be a positive number, got {value}")
    return float(value)


def _as_drawn(sigma: float) -> float:
    """The largest value no greater than `sigma` and its float32 rounding, in which it is used."""
    return min(sigma, float(np.float32(sigma)))


def _normal_like(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator, device=images.device)


class IsotropicNoise(NoiseModel):
    """z = x + sigma * eps (Cohen et al. 2019)."""

    kind = certificate = "isotropic"
    guarantee = Guarantee.DEPLOYED

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = _check_sigma("sigma", sigma)

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return torch.add(images, normals[0], alpha=self.sigma), images.new_tensor(self.sigma)

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.isotropic(p_lower, _as_drawn(self.sigma), dim)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "sigma": self.sigma}


class StaticNoise(NoiseModel):
    """z = x + sigma_map * eps with one sigma map (C, H, W) for all images."""

    kind = certificate = "static"
    guarantee = Guarantee.DEPLOYED
    sigma_map: Tensor

    def __init__(self, sigma_map: Tensor) -> None:
        super().__init__()
        sigma_map = sigma_map.float()
        if sigma_map.ndim != 3 or not bool((sigma_map > 0).all() & sigma_map.isfinite().all()):
            raise ConcertError(
                "the sigma map must have shape (C, H, W) and positive, finite entries, "
                f"got shape {tuple(sigma_map.shape)}"
            )
        self.register_buffer("sigma_map", sigma_map)

    def prepare(self, images: Tensor) -> Tensor | None:
        if self.sigma_map.shape != images.shape[1:]:
            raise ConcertError(
                f"the sigma map has shape {tuple(self.sigma_map.shape)}, the images have "
                f"{tuple(images.shape[1:])}: they must be equal"
            )
        return self.sigma_map.expand_as(images)

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return torch.addcmul(images, normals[0], self.sigma_map), self.sigma_map[None]

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.static(p_lower, self.sigma_map)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.sigma_map.shape)}


class GeneratedNoise(NoiseModel):
    """z = x + G(x) * eps: the paper's noise. Its certificate holds for a frozen sigma map only."""

    kind = "generated"
    certificate = "frozen"
    guarantee = Guarantee.FROZEN

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def prepare(self, images: Tensor) -> Tensor | None:
        sigma: Tensor = self.generator(images)
        return sigma

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if sigma is None:
            sigma = self.generator(images)
        return torch.addcmul(images, normals[0], sigma), sigma

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.frozen(p_lower, sigma_map)

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind}


class QueriedNoise(NoiseModel):
    """Noise shaped by a noisy query, and the query's noise reused.

        m1 = x + q * xi,  tau = G(m1) in [low, high],  high < q
        z  = x + tau * ((tau/q) * xi + sqrt(1 - (tau/q)^2) * eps)

    The generator sees m1 only. Given (m1, z) the pair is an adaptive composition of Gaussian
    mechanisms of total budget ||delta/tau|| <= ||delta||/low, so Cohen's ball at sigma = low holds
    for the classifier as deployed.
    """

    kind = "queried"
    certificate = "queried-ball"
    guarantee = Guarantee.DEPLOYED
    lanes = 2

    def __init__(self, generator: nn.Module, query_sigma: float, low: float, high: float) -> None:
        super().__init__()
        self.generator = generator
        self.low, self.high = _check_sigma("low", low), _check_sigma("high", high)
        self.query_sigma = _check_sigma("query_sigma", query_sigma)
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

    def copies(
        self, images: Tensor, m: int, generator: torch.Generator, share_query: bool = True
    ) -> tuple[Tensor, Tensor]:
        if not share_query:
            return super().copies(images, m, generator)
        xi = _normal_like(images, generator)
        tau = self.shape_noise(images, xi)
        repeated, shared_xi, spread = (
            tensor.repeat_interleave(m, dim=0) for tensor in (images, xi, tau)
        )
        eps = _normal_like(repeated, generator)
        return self.combine(repeated, shared_xi, eps, spread), tau.expand_as(images)

    def sigma_map_of(self, images: Tensor, normals: Tensor) -> Tensor:
        return self.shape_noise(images, normals)

    @property
    def certificates(self) -> tuple[str, ...]:
        return (self.certificate, "queried")

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
        return certificates.queried_ball(p_lower, _as_drawn(self.low), dim)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "query_sigma": self.query_sigma,
            "low": self.low,
            "high": self.high,
        }

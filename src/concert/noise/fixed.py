"""Noise that does not depend on the image: one level, or one map for all images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from concert import certificates
from concert.certificates import Guarantee, Region
from concert.errors import ConcertError
from concert.noise.base import NoiseModel, as_drawn, check_sigma


class IsotropicNoise(NoiseModel):
    """z = x + sigma * eps (Cohen et al. 2019)."""

    kind = certificate = "isotropic"
    guarantee = Guarantee.DEPLOYED

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = check_sigma("sigma", sigma)

    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return torch.add(images, normals[0], alpha=self.sigma), images.new_full((), self.sigma)

    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        return certificates.isotropic(p_lower, as_drawn(self.sigma), dim)

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

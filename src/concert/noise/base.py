"""What every noise model can do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from concert.certificates import Claim, Guarantee, Region
from concert.errors import ConcertError


class NoiseModel(nn.Module, ABC):
    """Base of the noise models.

    Attributes: `kind` (its name in configurations), `certificate` (the default one), `guarantee` of
    that certificate, `lanes` (independent sets of random numbers per draw), `draws` (what they are:
    float32 standard normals, or uniform 64-bit integers).
    """

    kind: str
    certificate: str
    guarantee: Guarantee
    lanes: int = 1
    draws: Literal["normals", "bits"] = "normals"

    @property
    def lowest(self) -> float:
        """A value that no entry of a sigma map is ever below; 0 where none is known."""
        return 0.0

    @property
    def certificates(self) -> tuple[str, ...]:
        """The names of the certificates that this noise offers, the default first."""
        return (self.certificate,)

    def guarantee_of(self, certificate: str) -> Guarantee:
        """What a certificate by name (or "auto") guarantees; refuses one that cannot be given."""
        return self.guarantee

    def sentence_of(self, certificate: str) -> str:
        """The guarantee of a certificate by name (or "auto") in words."""
        return self.guarantee_of(certificate).sentence

    def accept(self, images: Tensor) -> Tensor:
        """The images (B, C, H, W) as this noise takes them; refuses those it does not take."""
        return images

    def prepare(self, images: Tensor) -> Tensor | None:
        """The sigma maps (B, C, H, W) that depend on clean images only, computed once; or None."""
        return None

    @abstractmethod
    def forward(
        self, images: Tensor, normals: tuple[Tensor, ...], sigma: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noisy copies and the sigma maps they used (broadcastable to them).

        `images` and each of `normals` broadcast to (B, C, H, W); `sigma` is what `prepare` gave.
        `normals` holds one tensor a lane, of the kind that `draws` names.
        """

    def copies(
        self, images: Tensor, m: int, generator: torch.Generator, share_query: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`m` noisy copies per image for training, and the sigma maps they used.

        Copies of one image are adjacent: (B * m, C, H, W). The maps are (B, C, H, W) where the
        copies of an image share one, (B * m, C, H, W) where they do not.
        """
        return self.copies_from(
            images, m, self.normals_of_copies(images, m, generator, share_query)
        )

    def normals_of_copies(
        self, images: Tensor, m: int, generator: torch.Generator, share_query: bool = True
    ) -> tuple[Tensor, ...]:
        """The standard normals that `copies` uses, a tensor a lane: (B * m, C, H, W)."""
        return tuple(normal_like(images, generator, m) for _ in range(self.lanes))

    def copies_from(
        self, images: Tensor, m: int, normals: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """`copies` with given normals, so that several batches of images can share their noise."""
        sigma = self.prepare(images)
        spread = None if sigma is None else repeat(sigma, m)
        noisy, used = self(repeat(images, m), normals, spread)
        if sigma is not None:
            return noisy, sigma.expand_as(images)
        return noisy, used.expand(len(used) if used.ndim == 4 else len(images), *images.shape[1:])

    def deployed(self, differentiable: bool = False) -> NoiseModel:
        """The noise as predictions are made with: no draw is undecided, as certificates have it.

        With `differentiable`, gradients with respect to the image pass wherever they can.
        """
        return self

    def instability(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """How much the log-map differs between two queries of each image, at most: (B,)."""
        raise ConcertError(
            f"{self.kind} noise has no query: objective.stability needs queried noise"
        )

    @abstractmethod
    def region(self, p_lower: float, sigma_map: Tensor, dim: int) -> Region:
        """The certified region; `sigma_map` is the image's, or the mean over selection draws."""

    def reference(self, mean_map: Tensor) -> Tensor:
        """The map (C, H, W) below which dips are measured, given the mean over selection draws."""
        return mean_map

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


def check_sigma(name: str, value: float) -> float:
    if not (math.isfinite(value) and float(np.float32(value)) > 0):
        raise ConcertError(f"{name} must be a positive number, got {value}")
    return float(value)


def as_drawn(sigma: float) -> float:
    """The largest value no greater than `sigma` and its float32 rounding, in which it is used."""
    return min(sigma, float(np.float32(sigma)))


def repeat(images: Tensor, m: int) -> Tensor:
    """(B, C, H, W) -> (B * m, C, H, W), copies of an image adjacent, channels last."""
    return images.permute(0, 2, 3, 1).repeat_interleave(m, dim=0).permute(0, 3, 1, 2)


def normal_like(images: Tensor, generator: torch.Generator, m: int = 1) -> Tensor:
    """Standard normals for `m` copies per image, (B * m, C, H, W), in the images' memory layout.

    Drawn in memory order: filling a channels-last tensor in place is several times slower.
    """
    count, channels, height, width = images.shape
    if images.is_contiguous():
        shape = count * m, channels, height, width
        return torch.randn(shape, generator=generator, device=images.device)
    shape = count * m, height, width, channels
    normals = torch.randn(shape, generator=generator, device=images.device)
    return normals.permute(0, 3, 1, 2)

"""Training batches, with the entropy maps of their images where an objective wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from concert.colorization import EntropyMaps, build_colorizer, cached_entropy_maps, entropy_map
from concert.data import ImageSet
from concert.recipes.config import Recipe


class EntropySource:
    """Training batches with their entropy maps: cached, or computed online for photographs."""

    def __init__(
        self, recipe: Recipe, images: ImageSet, needed: bool, device: torch.device
    ) -> None:
        self.images, self.device = images, device
        self.needed = needed or recipe.noise.kind == "static"
        self.maps: EntropyMaps | None = None
        self.inputs: dict[str, str] = {}
        if self.needed:
            # A recipe is the user's own, so the class that it names is trusted.
            colorizer = build_colorizer(recipe.colorizer, recipe.colorizer_args, trust=True)
            self.colorizer = colorizer.to(device)
            self.inputs["colorizer"] = str(self.colorizer.fingerprint)
            # A crop of a photograph on disk is not a crop of the stored image, so a stored map does
            # not fit it.
            if images.augmentation != "photo" or recipe.noise.kind == "static":
                self.maps = cached_entropy_maps(images, self.colorizer)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Augmented images (B, C, H, W) and their entropy maps (B, 1, H, W), on the device."""
        if not self.needed:
            x = self.images.training_images(indices, generator)
            return self._ready(x), None
        if self.images.augmentation == "photo":
            x = self._ready(self.images.training_images(indices, generator))
            return x, entropy_map(x, self.colorizer)
        assert self.maps is not None
        both = self.images.training_images(indices, generator, self.maps.maps(indices))
        return self._ready(both[:, :-1]), both[:, -1:].to(self.device)

    def _ready(self, x: Tensor) -> Tensor:
        return x.to(self.device).contiguous(memory_format=torch.channels_last)

    def static_map(self, recipe: Recipe, indices: Tensor) -> Tensor | None:
        """low + (omega * high - low) * the mean entropy map, (C, H, W), for static noise."""
        if recipe.noise.kind != "static":
            return None
        assert self.maps is not None
        total = torch.zeros((1, *self.images.shape[1:]), dtype=torch.float64)
        for part in torch.split(indices, 1024):
            total += self.maps.maps(part).double().sum(dim=0)
        low, high = recipe.noise.low, recipe.noise.omega * recipe.noise.high
        sigma_map = low + (high - low) * (total / len(indices)).float()
        return sigma_map.expand(self.images.shape[0], -1, -1).contiguous()

"""A choice among a few learned maps: the shape of the noise that is most stable under a query."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from concert.errors import ConcertError, nearest
from concert.generator.box import (
    INPUT_LIMIT,
    check_box,
    check_images,
    check_numbers,
    gate,
    into_box,
)
from concert.generator.coarse import convolutions

REGIONS: Final = 4
# A choice whose scores are closer than this could fall otherwise in another float32 engine.
CHOICE_MARGIN: Final = 1e-4
# A number of a map gets gradients from a few pixels of a share of the images, a weight of a network
# from all: without this factor, which acts as its square on the learning rate, maps hardly move.
STRETCH: Final = 10.0


class CodebookGenerator(nn.Module):
    """A generator that chooses one of `codes` learned maps by looking at the image.

    The maps are parameters on a grid of `cells` x `cells`, gated into the box (Eq. 14) and resized
    to the image bilinearly. The choice is made by two 3x3 convolutions on the image pooled by
    `pool`, averaged over 4 x 4 regions and normalised over the training images, and one linear
    layer. Where a choice is clear, noise on the
    input does not change the map at all, so that a truncated count loses next to nothing.

    In training the choice is differentiable: "straight_through" uses the chosen map and passes
    gradients as if it were the mixture of all maps by the softmax of the scores, "soft" uses that
    mixture. In evaluation the map is always exactly one of the codebook, or not a number where the
    two best scores differ by less than `choice_margin`, 1e-4 (of the largest, where it exceeds 1):
    a certificate must not count such a draw, because another engine could choose otherwise. With
    `differentiable` gradients pass in evaluation too, straight through.

    Takes (B, C, H, W) images of any height and width, noisy or not. Returns the sigma map,
    (B, C, H, W) in [low, high].
    """

    def __init__(
        self,
        channels: int,
        low: float,
        high: float,
        codes: int = 8,
        cells: int = 7,
        pool: int = 4,
        width: int = 16,
        choice: Literal["straight_through", "soft"] = "straight_through",
    ) -> None:
        super().__init__()
        check_box(channels, low, high)
        if min(codes, cells, pool, width) < 1:
            raise ConcertError(
                "generator codes, cells, pool and width must be at least 1, got "
                f"{codes}, {cells}, {pool} and {width}"
            )
        if choice not in ("straight_through", "soft"):
            raise ConcertError(nearest("choice", str(choice), ("straight_through", "soft")))
        self.channels, self.low, self.high, self.pool = channels, low, high, pool
        self.choice = choice
        # Settings of use, not of the model; see `QueriedNoise.deployed`.
        self.choice_margin, self.differentiable = CHOICE_MARGIN, False
        # Different from the start: equal maps would get equal gradients for ever.
        self.codes = nn.Parameter(0.1 / STRETCH * torch.randn(codes, channels, cells, cells))
        self.body = convolutions(channels, width)
        features = width * REGIONS**2
        # What all images have in common must not decide the choice: without this norm one map wins
        # for all of them from the start, and the others are never trained.
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.head = nn.Linear(features, codes)

    def scores(self, images: Tensor) -> Tensor:
        """How well each map suits each image, (B, codes)."""
        images = images.clamp(-INPUT_LIMIT, INPUT_LIMIT)
        cells = F.avg_pool2d(images, self.pool, ceil_mode=True, count_include_pad=False)
        regions = F.adaptive_avg_pool2d(self.body(cells.contiguous()), REGIONS)
        scores: Tensor = self.head(self._normalized(regions.flatten(1))).float()
        check_numbers(scores)
        return scores

    def _normalized(self, features: Tensor) -> Tensor:
        """By their batch in training; one image alone, as the last of an epoch may be, has none."""
        if self.training and len(features) > 1:
            normalized: Tensor = self.norm(features)
            return normalized
        known = self.norm.running_mean, self.norm.running_var
        return F.batch_norm(features, *known, training=False, eps=self.norm.eps)

    def maps(self, height: int, width: int) -> Tensor:
        """The codebook at the size of an image: (codes, C, H, W) in [low, high]."""
        coarse = gate(STRETCH * self.codes, self.low, self.high)
        fine = F.interpolate(coarse, size=(height, width), mode="bilinear")
        return into_box(fine, self.low, self.high)

    def nearest_map(self, sigma_map: Tensor) -> Tensor:
        """The map of the codebook that is nearest to `sigma_map` (C, H, W)."""
        maps = self.maps(*sigma_map.shape[-2:])
        distances = (maps - sigma_map.to(maps)).square().flatten(1).sum(dim=1)
        return maps[distances.argmin()]

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.channels)
        scores, maps = self.scores(images), self.maps(*images.shape[2:])
        best = scores.argmax(dim=1)
        if not self.training and not self.differentiable:
            chosen = maps[best]
            if len(maps) == 1 or self.choice_margin == 0:
                return chosen
            top = scores.topk(2, dim=1).values
            # Rounding grows with the scores.
            margin = self.choice_margin * scores.abs().amax(dim=1).clamp(min=1.0)
            clear = top[:, 0] - top[:, 1] >= margin
            return torch.where(clear[:, None, None, None], chosen, torch.nan)
        shares = scores.softmax(dim=1)
        if self.choice == "straight_through" or not self.training:
            chosen = F.one_hot(best, len(maps)).to(shares.dtype)
            shares = chosen + shares - shares.detach()
        mixed = (shares @ maps.flatten(1)).reshape(images.shape)
        return into_box(mixed, self.low, self.high)

"""Small networks and images whose attacks can be reasoned about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from concert.noise import NoiseModel
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

SHAPE = (3, 8, 8)
CLASSES = 4


class Patches(nn.Module):
    """A smooth classifier: random linear scores of soft-thresholded pixels, fixed by its seed."""

    def __init__(self, classes: int = CLASSES, shape: tuple[int, int, int] = SHAPE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        channels, height, width = shape
        size = channels * height * width
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator) / size**0.5)

    def forward(self, images: Tensor) -> Tensor:
        return 6.0 * torch.tanh(2.0 * (images - 0.5)).flatten(1) @ self.weight.T


class Rooted(Patches):
    """The same of the square roots of pixels: below 0 the gradient is not a number."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * (images > 0)).sqrt())


class Brightness(nn.Module):
    """A generator: more noise where the image is bright."""

    def forward(self, images: Tensor) -> Tensor:
        return 0.2 + 0.2 * torch.sigmoid(8.0 * (images - 0.5))


class Red(nn.Module):
    """Two classes: is the mean of red above that of blue?"""

    def forward(self, images: Tensor) -> Tensor:
        score = 20.0 * (images[:, 0] - images[:, -1]).flatten(1).mean(dim=1)
        return torch.stack([-score, score], dim=1)


def smooth(
    classifier: nn.Module,
    noise: NoiseModel,
    num_classes: int = CLASSES,
    batch_size: int = 64,
    shape: tuple[int, int, int] | None = SHAPE,
) -> SmoothedClassifier:
    """A hot loop of one thread, in evaluation mode."""
    sampling = SamplingSettings(batch_size=batch_size, workers=1)
    return SmoothedClassifier(classifier, noise, num_classes, shape, sampling).eval()


def random_images(count: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def labels_of(smoothed: SmoothedClassifier, images: Tensor) -> Tensor:
    """What the soft smoothed classifier says, so that an attack has something to change."""
    with torch.no_grad():
        return smoothed(images).argmax(dim=1)

"""Networks whose smoothed version is known, among them the counterexamples to frozen sigma maps.

In one and two dimensions the classifier is a ball around the origin and the generator's noise grows
outside a smaller ball, so that a perturbation inside the frozen region meets twice the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from concert.noise import NoiseModel
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

LOW, HIGH = 0.25, 0.5


class Ball(nn.Module):
    """Class 0 where ||z|| <= radius; with `hard` the logits are piecewise constant."""

    def __init__(self, radius: float, hard: bool = False) -> None:
        super().__init__()
        self.radius, self.hard = radius, hard

    def forward(self, images: Tensor) -> Tensor:
        score = 20.0 * (self.radius - images.flatten(1).norm(dim=1))
        if self.hard:
            score = score.sign()
        return torch.stack([score, -score], dim=1)


class Line(nn.Module):
    """The 1-D generator: LOW left of 0.06, HIGH right of it."""

    def forward(self, images: Tensor) -> Tensor:
        return LOW + (HIGH - LOW) * torch.sigmoid(80.0 * (images - 0.06))


class Plane(nn.Module):
    """The 2-D generator: LOW inside the circle of radius sqrt(0.08), HIGH outside."""

    def forward(self, images: Tensor) -> Tensor:
        square = images.square().sum(dim=(1, 2, 3), keepdim=True)
        return (LOW + (HIGH - LOW) * torch.sigmoid(60.0 * (square - 0.08))).expand_as(images)


class HalfSpace(nn.Module):
    """Class 0 where weight.x > threshold; smoothed isotropically, the same half-space."""

    def __init__(self, weight: Tensor, threshold: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.weight.flatten() - self.threshold
        return 4.0 * torch.stack([score, -score], dim=1)


def smooth(
    classifier: nn.Module, noise: NoiseModel, shape: tuple[int, int, int], batch_size: int = 1024
) -> SmoothedClassifier:
    """Two classes, and a hot loop of one thread."""
    sampling = SamplingSettings(batch_size=batch_size, workers=1)
    return SmoothedClassifier(classifier, noise, 2, shape, sampling)

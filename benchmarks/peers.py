"""What others do, written plainly: the published certification loop, and a toolbox's.

Cohen, Rosenfeld and Kolter (ICML 2019) sample the noise of one image in batches, add it to copies
of the image, classify, and count in Python.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


class Repeating(nn.Module):
    """Their normalisation layer: mean and deviation repeated to the size of the batch."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        shape = (count, height, width, 1)
        means = self.mean.repeat(shape).permute(0, 3, 1, 2)
        deviations = self.std.repeat(shape).permute(0, 3, 1, 2)
        return (images - means) / deviations


def published(
    network: nn.Module, image: Tensor, sigma: float, batch: int, num_classes: int
) -> Callable[[], int]:
    """One batch of the published loop; returns the number of draws."""
    network = network.eval()

    def work() -> int:
        with torch.no_grad():
            copies = image.repeat((batch, 1, 1, 1))
            noise = torch.randn_like(copies) * sigma
            predictions = network(copies + noise).argmax(1)
            counts = np.zeros(num_classes, dtype=int)
            for index in predictions.cpu().numpy():
                counts[index] += 1
        return int(counts.sum())

    return work


def toolbox(
    network: nn.Module, image: Tensor, sigma: float, batch: int, num_classes: int, n: int
) -> Callable[[], int]:
    """`certify` of the Adversarial Robustness Toolbox for one image with n draws."""
    from art.estimators.certification.randomized_smoothing import (
        PyTorchRandomizedSmoothing,
    )

    smoothed = PyTorchRandomizedSmoothing(
        model=network.eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(image.shape[1:]),
        nb_classes=num_classes,
        sample_size=100,
        scale=sigma,
        alpha=0.001,
        device_type="cpu",
    )

    def work() -> int:
        smoothed.certify(image.numpy(), n=n, batch_size=batch)
        return n + 100

    return work

"""What others do, written plainly: published certification and training loops, and a toolbox's.

Cohen, Rosenfeld and Kolter (ICML 2019) sample the noise of one image in batches, add it to copies
of the image, classify, and count in Python.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


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


class PlainLeNet(nn.Module):
    """LeNet as its users write it: ReLU before max-pooling, and a view for the fully connected."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.max_pool2d(functional.relu(self.conv1(images)), 2, 2)
        features = functional.max_pool2d(functional.relu(self.conv2(features)), 2, 2)
        logits: Tensor = self.fc2(functional.relu(self.fc1(features.view(-1, 800))))
        return logits


def macer_step(
    network: nn.Module, images: Tensor, labels: Tensor, sigma: float, m: int
) -> Callable[[], int]:
    """One training step of MACER (Zhai et al., ICLR 2020), eager and in the plain layout.

    The order of their trainer: repeat the images, add noise, classify, sum both losses, where the
    second takes the images that are classified correctly with a finite gap below gamma; divide by
    the batch and step, reading both losses back.
    """
    lbd, beta, gamma = 12.0, 16.0, 8.0
    normal = torch.distributions.Normal(torch.tensor([0.0]), torch.tensor([1.0]))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    network.train()

    def work() -> int:
        batch = len(images)
        copies = images.repeat((1, m, 1, 1)).view(batch * m, *images.shape[1:])
        outputs = network(copies + torch.randn_like(copies) * sigma).reshape(batch, m, -1)
        votes = functional.softmax(outputs, dim=2).mean(1)
        classification = functional.nll_loss(torch.log(votes + 1e-10), labels, reduction="sum")
        scores, classes = functional.softmax(outputs * beta, dim=2).mean(1).topk(2)
        correct = classes[:, 0] == labels
        first, second = scores[correct, 0], scores[correct, 1]
        gap = normal.icdf(second) - normal.icdf(first)
        near = ~torch.isnan(gap) & ~torch.isinf(gap) & (gap.abs() <= gamma)
        gap = normal.icdf(second[near]) - normal.icdf(first[near]) + gamma
        robustness = gap.sum() * sigma / 2
        loss = (classification + lbd * robustness) / batch
        classification.item(), robustness.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return batch

    return work

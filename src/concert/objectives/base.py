"""What every training objective takes and gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concert.noise import NoiseModel


@dataclass(frozen=True)
class LossTerms:
    """A batch's loss and what it is made of.

    `total` is differentiated. The terms are batch means (detached scalars), already weighted, whose
    sum is the total; docs/objectives.md says what each is for each method. `soft_correct` counts
    images whose mean softmax over the copies is largest at the label; `sigma` are the maps used.
    """

    total: Tensor
    classification: Tensor
    robustness: Tensor
    penalty: Tensor
    soft_correct: Tensor
    sigma: Tensor


class Objective(ABC):
    """A training method. Settings are constructor arguments with the published defaults.

    `needs_entropy`: whether it wants the entropy maps of its images. `start_epoch`: the epoch,
    counted from 0, from which all of its terms are trained. `m`: noisy copies of an image in a
    step, which reports state.
    """

    m: int = 1
    needs_entropy: bool = False
    start_epoch: int = 0

    def check(self, noise: NoiseModel) -> None:
        """Raise a ConcertError for a noise model that the method is not defined for."""
        return

    @abstractmethod
    def __call__(
        self,
        classifier: nn.Module,
        noise: NoiseModel,
        images: Tensor,
        labels: Tensor,
        entropy_maps: Tensor | None,
        epoch: int,
        generator: torch.Generator,
    ) -> LossTerms:
        """The loss of one batch: images (B, C, H, W) in [0, 1], labels (B,), maps (B, 1, H, W)."""


def logits_of_copies(classifier: nn.Module, noisy: Tensor, count: int) -> Tensor:
    """The logits of `count` images' noisy copies, adjacent for each image, as (B, m, K) float32."""
    logits: Tensor = classifier(noisy).float().unflatten(0, (count, len(noisy) // count))
    return logits


def log_soft_votes(log_scores: Tensor) -> Tensor:
    """The logarithm of the mean score over copies, (B, m, K) -> (B, K), without underflow."""
    return torch.logsumexp(log_scores, dim=1) - math.log(log_scores.shape[1])

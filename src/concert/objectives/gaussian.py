"""Gaussian augmentation (Cohen, Rosenfeld and Kolter, ICML 2019): cross-entropy on noisy copies."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.objectives.base import LossTerms, Objective


class GaussianObjective(Objective):
    """Cross-entropy of `m` noisy copies per image, one as published."""

    def __init__(self, m: int = 1) -> None:
        if m < 1:
            raise ConcertError(f"m must be at least 1, got {m}")
        self.m = m

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
        noisy, sigma = noise.copies(images, self.m, generator)
        logits = classifier(noisy)
        loss = F.cross_entropy(logits, labels.repeat_interleave(self.m))
        soft_votes = logits.detach().softmax(dim=1).unflatten(0, (len(images), self.m)).mean(dim=1)
        zero = loss.new_zeros(())
        return LossTerms(
            total=loss,
            classification=loss.detach(),
            robustness=zero,
            penalty=zero,
            soft_correct=(soft_votes.argmax(dim=1) == labels).sum(),
            sigma=sigma.detach(),
        )

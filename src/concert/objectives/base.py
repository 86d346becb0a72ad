"""What every training objective takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from concert.noise import NoiseModel


@dataclass(frozen=True)
class LossTerms:
    """A batch's loss and what it is made of.

    `total` is differentiated. The terms are batch means (detached scalars), already weighted;
    `soft_correct` counts images whose mean softmax over the copies is largest at the label; `sigma`
    are the maps used.
    """

    total: Tensor
    classification: Tensor
    robustness: Tensor
    penalty: Tensor
    soft_correct: Tensor
    sigma: Tensor


class Objective(ABC):
    """A training method. Settings are constructor arguments with the published defaults."""

    needs_entropy: bool = False

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

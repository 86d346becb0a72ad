"""Consistency regularization (Jeong and Shin, NeurIPS 2020).

For every image with m noisy copies, F_j the softmax of copy j and F the mean of them:

    loss = 1/m sum_j CE(F_j, y) + lambda * 1/m sum_j KL(F || F_j) + eta * H(F)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.objectives.base import LossTerms, Objective, log_soft_votes, logits_of_copies


def divergence_and_entropy(log_scores: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over copies of KL(F || F_j), and H(F), in nats: (B, m, K) -> (B,) and (B,)."""
    log_mean = log_soft_votes(log_scores)
    mean = log_mean.exp()
    entropy = -(mean * log_mean).sum(dim=1)
    divergence = -entropy - (mean * log_scores.mean(dim=1)).sum(dim=1)
    return divergence, entropy


class ConsistencyObjective(Objective):
    """Cross-entropy of noisy copies, and a penalty on their disagreement; for any noise model.

    `m` copies per image. `lambda_weight`: lambda, of the divergence from the mean prediction.
    `eta`: of the mean prediction's entropy. The defaults are those for CIFAR-10 at sigma = 0.5.
    """

    def __init__(self, m: int = 2, lambda_weight: float = 10.0, eta: float = 0.5) -> None:
        if m < 2:
            raise ConcertError(f"m must be at least 2, for copies that can disagree, got {m}")
        if not (lambda_weight >= 0 and eta >= 0):
            raise ConcertError(
                "lambda_weight and eta must not be negative, got "
                f"lambda_weight={lambda_weight}, eta={eta}"
            )
        self.m, self.lambda_weight, self.eta = m, lambda_weight, eta

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
        logits = logits_of_copies(classifier, noisy, len(images))
        log_scores = F.log_softmax(logits, dim=2)
        classification = F.nll_loss(log_scores.mean(dim=1), labels)
        divergence, entropy = divergence_and_entropy(log_scores)
        robustness = self.lambda_weight * divergence.mean()
        penalty = self.eta * entropy.mean()
        soft_votes = log_soft_votes(log_scores.detach())
        return LossTerms(
            total=classification + robustness + penalty,
            classification=classification.detach(),
            robustness=robustness.detach(),
            penalty=penalty.detach(),
            soft_correct=(soft_votes.argmax(dim=1) == labels).sum(),
            sigma=sigma.detach(),
        )

"""MACER (Zhai et al., ICLR 2020): maximise the certified radius of a soft smoothed classifier.

Algorithm 1 of that paper, for a batch of B images with m Gaussian copies each:

    z_ij       logits of copy j of image i
    l_i        = -log mean_j softmax(z_ij)[y_i]
    p_i        = mean_j softmax(beta * z_ij)
    gap_i      = Phi^-1(largest p_i) - Phi^-1(second largest p_i)
    S          = images with argmax p_i = y_i and gap_i <= gamma
    loss       = 1/B sum_i l_i + lambda/B sum_{i in S} sigma/2 * (gamma - gap_i)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.noise import IsotropicNoise, NoiseModel
from concert.objectives.base import LossTerms, Objective, log_soft_votes, logits_of_copies


def margin_loss(soft_votes: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """gamma - gap of each image in S, 0 of the others: scores (B, K), labels (B,) -> (B,).

    The gap is Phi^-1(p1) - Phi^-1(p2) of the two largest scores. An image whose gap is not finite
    is outside S, and its score never enters the graph, where its gradient would not be finite.
    """
    top, classes = soft_votes.topk(2, dim=1)
    gaps = normal_gap(top.detach())
    counted = (classes[:, 0] == labels) & gaps.isfinite() & (gaps <= gamma)
    safe = torch.where(counted[:, None], top, 0.5)
    return (gamma - normal_gap(safe)) * counted


def normal_gap(top: Tensor) -> Tensor:
    """Phi^-1(p1) - Phi^-1(p2) of scores (B, 2) -> (B,)."""
    quantiles: Tensor = torch.special.ndtri(top)
    return quantiles[:, 0] - quantiles[:, 1]


class MacerObjective(Objective):
    """Cross-entropy of the soft smoothed classifier and a hinge on its certified radius.

    `m` copies per image. `lambda_weight`: lambda. `gamma`: where the hinge on the gap ends.
    `softmax_scale`: beta, the inverse temperature, in the robustness term only. `start_epoch`: the
    first epoch of the robustness term, 0 as published; its successors on MNIST begin it with the
    first decay of the learning rate. The defaults are those for CIFAR-10 at sigma = 0.25.
    """

    def __init__(
        self,
        m: int = 16,
        lambda_weight: float = 12.0,
        gamma: float = 8.0,
        softmax_scale: float = 16.0,
        start_epoch: int = 0,
    ) -> None:
        if m < 1:
            raise ConcertError(f"m must be at least 1, got {m}")
        if not lambda_weight >= 0 or not gamma > 0 or not softmax_scale > 0:
            raise ConcertError(
                "lambda_weight must not be negative, gamma and softmax_scale must be positive, got "
                f"lambda_weight={lambda_weight}, gamma={gamma}, softmax_scale={softmax_scale}"
            )
        self.m, self.lambda_weight, self.gamma = m, lambda_weight, gamma
        self.softmax_scale, self.start_epoch = softmax_scale, start_epoch

    def check(self, noise: NoiseModel) -> None:
        isotropic_level(noise)

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
        level = isotropic_level(noise)
        noisy, sigma = noise.copies(images, self.m, generator)
        logits = logits_of_copies(classifier, noisy, len(images))
        log_g = log_soft_votes(F.log_softmax(logits, dim=2))
        classification = F.nll_loss(log_g, labels)

        robustness = classification.new_zeros(())
        if epoch >= self.start_epoch and self.lambda_weight > 0:
            soft_votes = (self.softmax_scale * logits).softmax(dim=2).mean(dim=1)
            margins = margin_loss(soft_votes, labels, self.gamma)
            robustness = self.lambda_weight * level / 2 * margins.mean()
        return LossTerms(
            total=classification + robustness,
            classification=classification.detach(),
            robustness=robustness.detach(),
            penalty=classification.new_zeros(()),
            soft_correct=(log_g.argmax(dim=1) == labels).sum(),
            sigma=sigma.detach(),
        )


def isotropic_level(noise: NoiseModel) -> float:
    """The sigma of isotropic noise; other noise is refused."""
    if not isinstance(noise, IsotropicNoise):
        raise ConcertError(
            f"MACER's radius is that of isotropic noise, not of {noise.kind} noise: set noise.kind "
            "to isotropic, or objective.name to concert with objective.beta 0, its form for maps"
        )
    return noise.sigma

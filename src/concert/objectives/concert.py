"""The Concert objective: Eqs. 10 to 13 and Algorithm 1 of the paper.

The published equation, algorithm and text disagree in places; each choice is a setting, and
docs/errata.md lists them with the reason for the default.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.errors import ConcertError, nearest
from concert.noise import NoiseModel
from concert.objectives.base import LossTerms, Objective, log_soft_votes, logits_of_copies

# Phi^-1 is infinite at 0 and 1, which float32 softmax averages reach; beyond this the radius no
# longer grows (Phi^-1(1 - 1e-6) = 4.75) and its gradient is zero.
PROBABILITY_FLOOR: Final = 1e-6


def soft_radius(soft_votes: Tensor, labels: Tensor) -> Tensor:
    """rhat of Eq. 10, (B,), from mean scores (B, K): (Phi^-1(p_y) - Phi^-1(max of others)) / 2."""
    p = soft_votes.clamp(PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    own = p.gather(1, labels[:, None])[:, 0]
    rival = p.scatter(1, labels[:, None], -1.0).amax(dim=1)
    radius: Tensor = 0.5 * (torch.special.ndtri(own) - torch.special.ndtri(rival))
    return radius


def proxy_volume(rhat: Tensor, sigma: Tensor) -> Tensor:
    """v of Eq. 11: rhat (B,) times the geometric mean, exp(mean(log)), of sigma maps (B, ...)."""
    return rhat * sigma.flatten(1).log().mean(dim=1).exp()


def entropy_penalty(sigma: Tensor, entropy_maps: Tensor) -> Tensor:
    """||(1 - Omega) * sigma||_2 (Eq. 13) of each image: (B, C, H, W), maps (B, 1, H, W) -> (B,)."""
    norm: Tensor = torch.linalg.vector_norm(((1.0 - entropy_maps) * sigma).flatten(1), dim=1)
    return norm


class ConcertObjective(Objective):
    """L_c + alpha * L_r + beta * L_p, the last two from epoch `start_epoch` on.

    `m` noisy copies per image (the paper does not give it). `alpha`, `beta`, `kappa`: Eq. 13.
    `start_epoch`: T of the lazy start, counted from 0.
    `classification`: "mean_of_log" (Eq. 13) or "log_of_mean" (Algorithm 1).
    `hinge`: "correct" (Eq. 9: only images whose scores in Eq. 10 are largest at the label) or "all"
    (Algorithm 1).
    `early_generator`: before T, the generator is not trained ("frozen": Algorithm 1) or trained by
    L_c ("trained": the text, alpha and beta are zero). L_c alone drives the gate of Eq. 14 into
    saturation at its lower end, from where the terms that start at T hardly move it.
    `softmax_scale`: multiplies the logits in rhat only (MACER's inverse temperature; 1 as
    published).
    `share_query`: for queried noise, one query serves an image's m copies.
    `stability`: weight of a further term for queried noise (not in the paper, 0 as published): the
    largest change of log tau between two queries of the same image. The queried ellipsoid is as
    large as the maps are stable.
    """

    def __init__(
        self,
        m: int = 16,
        alpha: float = 6.0,
        beta: float = 1.0,
        kappa: float = 8.0,
        start_epoch: int = 200,
        classification: Literal["mean_of_log", "log_of_mean"] = "mean_of_log",
        hinge: Literal["correct", "all"] = "correct",
        early_generator: Literal["frozen", "trained"] = "frozen",
        softmax_scale: float = 1.0,
        share_query: bool = True,
        stability: float = 0.0,
    ) -> None:
        if m < 1:
            raise ConcertError(f"m must be at least 1, got {m}")
        if not all(value >= 0 for value in (alpha, beta, kappa, stability)) or softmax_scale <= 0:
            raise ConcertError(
                "alpha, beta, kappa and stability must not be negative and softmax_scale must be "
                f"positive, got alpha={alpha}, beta={beta}, kappa={kappa}, stability={stability}, "
                f"softmax_scale={softmax_scale}"
            )
        for name, choice, valid in (
            ("classification", classification, ("mean_of_log", "log_of_mean")),
            ("hinge", hinge, ("correct", "all")),
            ("early_generator", early_generator, ("frozen", "trained")),
        ):
            if choice not in valid:
                raise ConcertError(nearest(f"choice for {name}", str(choice), valid))
        self.m, self.alpha, self.beta, self.kappa = m, alpha, beta, kappa
        self.start_epoch = start_epoch
        self.classification, self.hinge = classification, hinge
        self.early_generator = early_generator
        self.softmax_scale, self.share_query = softmax_scale, share_query
        self.stability = stability
        self.needs_entropy = beta > 0

    def check(self, noise: NoiseModel) -> None:
        if noise.kind == "banded":
            raise ConcertError(
                "the proxy volume of objective concert needs a sigma map, and banded noise has "
                "levels of bands instead: use another objective, such as gaussian"
            )
        if self.stability > 0 and noise.kind != "queried":
            raise ConcertError(
                f"objective.stability needs queried noise, not {noise.kind}: leave it out, or set "
                "noise.kind"
            )

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
        started = epoch >= self.start_epoch
        trains_generator = started or self.early_generator == "trained"
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains_generator):
            noisy, sigma = noise.copies(images, self.m, generator, self.share_query)

        logits = logits_of_copies(classifier, noisy, len(images))
        log_scores = F.log_softmax(logits, dim=2)
        log_g = log_soft_votes(log_scores)
        correct = log_g.argmax(dim=1) == labels
        scores = log_scores.mean(dim=1) if self.classification == "mean_of_log" else log_g
        classification = F.nll_loss(scores, labels)

        robustness = penalty = classification.new_zeros(())
        if started:
            soft_votes = (self.softmax_scale * logits).softmax(dim=2).mean(dim=1)
            groups = len(sigma) // len(images)
            rhat = soft_radius(soft_votes, labels)
            volume = proxy_volume(rhat.repeat_interleave(groups), sigma)
            shortfall = F.relu(self.kappa - volume).view(len(images), groups).mean(dim=1)
            if self.hinge == "correct":
                shortfall = shortfall * (soft_votes.argmax(dim=1) == labels)
            robustness = self.alpha * shortfall.mean()
            if self.beta > 0:
                assert entropy_maps is not None
                maps = entropy_maps.repeat_interleave(groups, dim=0)
                penalty = self.beta * entropy_penalty(sigma, maps).mean()
            if self.stability > 0:
                changes = noise.instability(images, generator)
                penalty = penalty + self.stability * changes.mean()
        return LossTerms(
            total=classification + robustness + penalty,
            classification=classification.detach(),
            robustness=robustness.detach(),
            penalty=penalty.detach(),
            soft_correct=correct.sum(),
            sigma=sigma.detach(),
        )

"""SmoothAdv (Salman et al., NeurIPS 2019): train on attacks of the soft smoothed classifier.

For every image draw the noise of m copies once, and with it

    J(x')  = -log 1/m sum_j softmax(f(x' + noise_j))[y]          (Eq. S of that paper)
    x'     = argmax of J over the l2 ball of radius epsilon, by PGD or DDN
    loss   = 1/m sum_j CE(f(x' + noise_j), y)

During the attack the networks are in evaluation mode and their weights have no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.engines.inference import dtype_of
from concert.errors import ConcertError, nearest
from concert.noise import NoiseModel
from concert.objectives.base import LossTerms, Objective, log_soft_votes, logits_of_copies
from concert.objectives.soft_attacks import ddn, pgd


@contextmanager
def attacked(*networks: nn.Module) -> Iterator[None]:
    """The networks in evaluation mode and without gradients of weights; afterwards as before."""
    modules = [module for network in networks for module in network.modules()]
    weights = [weight for network in networks for weight in network.parameters()]
    modes, wanted = [m.training for m in modules], [w.requires_grad for w in weights]
    try:
        for network in networks:
            network.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for weight, flag in zip(weights, wanted, strict=True):
            weight.requires_grad_(flag)


def bare(network: Any) -> Any:
    """The network without what distributes its training: an attack concerns one process only.

    It then has the precision of its weights: with mixed precision an attack is in float32.
    """
    from lightning_fabric import is_wrapped

    return network.module if is_wrapped(network) else network


class SmoothAdvObjective(Objective):
    """Cross-entropy of noisy copies of attacked images; for any noise model.

    A noise model that looks at the image looks at the attacked one, and the attack goes through it.

    `m` noisy copies in the attack. `epsilon`: its l2 radius. `steps`: of the attack. `attack`: pgd
    or ddn. `warmup_epochs`: epoch e, counted from 0, attacks with min(1, (e + 1) / warmup_epochs) *
    epsilon. `train_copies`: train on "all" copies of the attack or on the "first" alone.
    `ddn_gamma`, `ddn_levels`: see `ddn`. The defaults are those for CIFAR-10 at sigma = 0.25.
    """

    def __init__(
        self,
        m: int = 8,
        epsilon: float = 255 / 256,
        steps: int = 10,
        attack: Literal["pgd", "ddn"] = "pgd",
        warmup_epochs: int = 10,
        train_copies: Literal["all", "first"] = "all",
        ddn_gamma: float = 0.05,
        ddn_levels: int = 256,
    ) -> None:
        if m < 1 or steps < 1:
            raise ConcertError(f"m and steps must be at least 1, got m={m}, steps={steps}")
        if not 0 < epsilon < math.inf or warmup_epochs < 0:
            raise ConcertError(
                "epsilon must be positive and warmup_epochs must not be negative, got "
                f"epsilon={epsilon}, warmup_epochs={warmup_epochs}"
            )
        if not 0 < ddn_gamma < 1 or ddn_levels < 2:
            raise ConcertError(
                "ddn_gamma must lie in (0, 1) and ddn_levels must be at least 2, got "
                f"ddn_gamma={ddn_gamma}, ddn_levels={ddn_levels}"
            )
        for name, choice, valid in (
            ("attack", attack, ("pgd", "ddn")),
            ("train_copies", train_copies, ("all", "first")),
        ):
            if choice not in valid:
                raise ConcertError(nearest(f"choice for {name}", str(choice), valid))
        self.m, self.epsilon, self.steps, self.attack = m, epsilon, steps, attack
        self.warmup_epochs, self.train_copies = warmup_epochs, train_copies
        self.ddn_gamma, self.ddn_levels = ddn_gamma, ddn_levels

    def radius(self, epoch: int) -> float:
        """The attack's radius in an epoch, counted from 0."""
        return self.epsilon * min(1.0, (epoch + 1) / max(1, self.warmup_epochs))

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
        normals = noise.normals_of_copies(images, self.m, generator)
        f, shape = bare(classifier), bare(noise)
        with attacked(f, shape), torch.enable_grad():
            seen = shape.deployed(differentiable=True)

            def victim(x: Tensor) -> Tensor:
                noisy, _ = seen.copies_from(x, self.m, normals)
                return logits_of_copies(f, noisy.to(dtype_of(f)), len(x))

            search, epsilon = (victim, images, labels), self.radius(epoch)
            if self.attack == "pgd":
                found = pgd(*search, epsilon, self.steps, generator)
            else:
                settings = self.ddn_gamma, self.ddn_levels
                found = ddn(*search, epsilon, self.steps, generator, *settings)

        m = self.m
        if self.train_copies == "first":
            m = 1
            normals = tuple(z if len(z) == len(images) else z[:: self.m] for z in normals)
        noisy, sigma = noise.copies_from(found.detach(), m, normals)
        log_scores = F.log_softmax(logits_of_copies(classifier, noisy, len(images)), dim=2)
        loss = F.nll_loss(log_scores.mean(dim=1), labels)
        soft_votes = log_soft_votes(log_scores.detach())
        zero = loss.new_zeros(())
        return LossTerms(
            total=loss,
            classification=loss.detach(),
            robustness=zero,
            penalty=zero,
            soft_correct=(soft_votes.argmax(dim=1) == labels).sum(),
            sigma=sigma.detach(),
        )

"""The attacks that SmoothAdv trains on: l2 attacks of the soft smoothed classifier (Salman et al.,
NeurIPS 2019), with the noise of its copies held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from concert.noise.base import normal_like
from concert.objectives.base import log_soft_votes

# From images (B, C, H, W) to the logits (B, m, K) of their copies, always with the same noise.
Victim = Callable[[Tensor], Tensor]


def attack_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """J of Eq. S: logits of copies (B, m, K), labels (B,) -> (B,)."""
    return F.nll_loss(log_soft_votes(F.log_softmax(logits, dim=2)), labels, reduction="none")


def pgd(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient ascent on J from the image itself, in steps of 2 * epsilon / `steps`.

    After every step the image is clamped to [0, 1], then the perturbation's l2 norm to epsilon.
    Returns the attacked images.
    """
    delta = torch.zeros_like(images)
    for _ in range(steps):
        direction, _ = ascent(victim, images + delta, labels, generator)
        delta = delta + 2.0 * epsilon / steps * direction
        delta = shorten((images + delta).clamp(0.0, 1.0) - images, epsilon)
    return images + delta


def ddn(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
    gamma: float = 0.05,
    levels: int = 256,
) -> Tensor:
    """Decoupled direction and norm (Rony et al., CVPR 2019): the smallest perturbation found.

    The norm starts at epsilon and is multiplied by 1 - `gamma` after a step that found the majority
    of copies misled, by 1 + `gamma` otherwise; the step decays from 1 by `cosine_decay`. Images
    are rounded to `levels` grey levels, and the result's norm is at most epsilon before a last
    rounding. An image for which nothing was found is returned as it is.
    """
    delta, best = torch.zeros_like(images), torch.zeros_like(images)
    largest = lengths(torch.maximum(images, 1.0 - images))
    smallest, norm = largest.clone(), torch.full_like(largest, epsilon)
    for rate in cosine_decay(steps):
        direction, logits = ascent(victim, images + delta, labels, generator)
        misled = majority(logits) != labels
        better = misled & (lengths(delta) < smallest)
        smallest = torch.where(better, lengths(delta), smallest)
        best = torch.where(spread(better), delta, best)

        delta = delta + rate * direction
        norm = torch.minimum(norm * torch.where(misled, 1.0 - gamma, 1.0 + gamma), largest)
        delta = delta * spread(norm / lengths(delta))
        delta = rounded(images + delta, levels).clamp(0.0, 1.0) - images
    return (images + rounded(shorten(best, epsilon), levels)).clamp(0.0, 1.0)


def cosine_decay(steps: int) -> list[float]:
    """The lengths of DDN's steps: the first is 1, and the one after the last would be 0.01."""
    return [0.01 + 0.99 * (1.0 + math.cos(math.pi * step / steps)) / 2.0 for step in range(steps)]


def ascent(
    victim: Victim, images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The gradient of J of l2 norm 1 for each image, and the logits (B, m, K) it comes from.

    Where the gradient is zero, normal noise takes its place.
    """
    images = images.detach().requires_grad_()
    logits = victim(images)
    (gradient,) = torch.autograd.grad(attack_loss(logits, labels).sum(), images)
    norms = lengths(gradient)
    if bool((norms == 0).any()):
        gradient = torch.where(spread(norms == 0), normal_like(images, generator), gradient)
        norms = torch.where(norms == 0, 1.0, norms)
    return gradient / spread(norms), logits.detach()


def majority(logits: Tensor) -> Tensor:
    """The class that most copies choose, (B, m, K) -> (B,); the first of several."""
    votes = F.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=1)
    return votes.argmax(dim=1)


def lengths(delta: Tensor) -> Tensor:
    """l2 norms (B,) of (B, C, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norms


def shorten(delta: Tensor, epsilon: float) -> Tensor:
    """The perturbations with their l2 norm at most epsilon."""
    return delta * spread((epsilon / lengths(delta)).clamp(max=1.0))


def spread(values: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def rounded(values: Tensor, levels: int) -> Tensor:
    return (values * (levels - 1)).round() / (levels - 1)

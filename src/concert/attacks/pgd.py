"""Projected gradient descent with expectation over noise: the adaptive attacker.

The attack of Salman et al. (NeurIPS 2019), "Provably Robust Deep Learning via Adversarially Trained
Smoothed Classifiers": gradients of the soft smoothed classifier. Here they also flow through the
generator of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from concert.attacks.base import Against, AttackResult, OnStep, Precision, Victim, check_at_least
from concert.attacks.grid import Norm
from concert.errors import ConcertError, nearest
from concert.smoothing import SmoothedClassifier

# The strength of a test, and one that a processor can afford.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "reference": {"steps": 20, "draws": 128},
    "fast": {"steps": 10, "draws": 32},
}
# More than adding a perturbation to a value in [0, 1] in float32 moves it.
ROUNDING: Final = 2.0**-23


@torch.inference_mode(False)
def pgd(
    smoothed: SmoothedClassifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    epsilon: float = 0.5,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: float | None = None,
    draws: int = 128,
    fresh: bool = False,
    against: Against = "deployed",
    precision: Precision = "32-true",
    success_draws: int = 200,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep = lambda step, steps: None,
) -> AttackResult:
    """Attack images (B, C, H, W) in [0, 1] with labels (B,) inside a ball around each.

    Ascends -log of the mean softmax over noisy copies of the label (descends it of the target), by
    gradients of unit norm (linf: of unit entries). The perturbation starts at 0; after every step
    the image is clipped to [0, 1] and the perturbation brought back into the ball.

    epsilon, norm: the ball. step_size: default 2 * epsilon / steps. draws: copies per image. fresh:
    new draws for every step; without it all steps share theirs, as published. precision: of the
    gradients. success_draws: fresh ones that judge the result. indices: the images' numbers in
    their data set, which address the noise.

    Returns the best iterate on the draws that all steps share; with `fresh`, where gains are of
    different draws, the last one. The norm of a returned perturbation, computed in float64, is at
    most epsilon; in linf on a grid, up to the rounding of the grid's numbers to float32.

    Source: Salman, Li, Razenshteyn, Zhang, Zhang, Bubeck and Yang, "Provably Robust Deep Learning
    via Adversarially Trained Smoothed Classifiers" (NeurIPS 2019), Eq. S, by its PGD.

    Raises ConcertError for impossible settings.
    """
    victim = Victim(
        smoothed, images, labels, targets, against, draws, seed, indices, precision=precision
    )
    check(
        victim.clean.shape[1:],
        epsilon=epsilon,
        norm=norm,
        steps=steps,
        step_size=step_size,
        success_draws=success_draws,
    )
    size = 2.0 * epsilon / steps if step_size is None else step_size
    clean, lanes, generators = victim.clean, victim.lanes(0), victim.generators()

    points = best = clean
    best_gain = torch.full((len(clean),), -torch.inf, dtype=torch.float64, device=clean.device)
    for step in range(steps + 1):
        found = victim.log_probability(points, lanes)
        gain = victim.sign * found.value
        better = torch.full_like(gain, True, dtype=torch.bool) if fresh else gain > best_gain
        best = torch.where(better[:, None, None, None], points, best)
        best_gain = torch.where(better, gain, best_gain)
        if step == steps:
            break
        direction = _unit(_nonzero(victim.sign * found.gradient, generators), norm)
        points = (points + size * direction).clamp(0.0, 1.0)
        # Shortening the perturbation keeps the image in [0, 1].
        points = clean + _project(points - clean, epsilon, norm)
        if fresh:
            lanes = victim.lanes(step + 1)
        on_step(step + 1, steps)
    bound = (norm, _inner(epsilon, norm, clean[0].numel()))
    return victim.result(best, torch.full_like(victim.labels, steps), success_draws, bound)


def check(
    shape: Sequence[int],
    *,
    epsilon: float,
    norm: str,
    steps: int,
    step_size: float | None,
    success_draws: int,
    **others: Any,
) -> None:
    """Refuse settings of `pgd` that cannot be, for images of a shape (C, H, W); `others` can."""
    check_at_least(0, epsilon=epsilon)
    check_at_least(1, steps=steps, success_draws=success_draws)
    if norm not in ("l2", "linf"):
        raise ConcertError(nearest("norm", str(norm), ("l2", "linf")))
    if step_size is not None and not 0 < step_size < torch.inf:
        raise ConcertError(f"step_size must be above 0 and finite, got {step_size}")


def _unit(gradient: Tensor, norm: str) -> Tensor:
    """The steepest direction (B, C, H, W) of unit norm."""
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    # A confident classifier's gradient is so small that its squares underflow.
    gradient = gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
    length: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    return gradient / length.clamp(min=tiny)


def _inner(epsilon: float, norm: Norm, count: int) -> float:
    """A radius so much below epsilon that rounding `count` values does not exceed that."""
    return max(0.0, epsilon - ROUNDING * (1.0 if norm == "linf" else math.sqrt(count)))


def _project(delta: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The perturbation (B, C, H, W) in a ball."""
    inner = _inner(epsilon, norm, delta[0].numel())
    if norm == "linf":
        return delta.clamp(-inner, inner)
    length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True).double()
    factor = (inner / length.clamp(min=1e-12)).clamp(max=1.0)
    return delta * factor.to(delta.dtype)


def _nonzero(gradient: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """A random direction in place of a gradient that is zero everywhere, as published."""
    flat = gradient.flatten(1).abs().amax(dim=1) == 0
    for row in flat.nonzero()[:, 0].tolist():
        random = torch.randn(gradient.shape[1:], generator=generators[row])
        gradient[row] = random.to(gradient.device)
    return gradient

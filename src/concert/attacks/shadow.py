"""Shadow: large, smooth and nearly grey perturbations that spoof a certificate.

Ghiasi, Shafahi and Goldstein (ICLR 2020), "Breaking Certified Defenses: Semantic Adversarial
Examples with Spoofed Robustness Certificates". The perturbation is not bounded in norm; three
penalties keep it inconspicuous. The settings are those of the published runs, which are the same
for CIFAR-10 and ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from concert.attacks.base import Against, AttackResult, OnStep, Precision, Victim, check_at_least
from concert.errors import ConcertError
from concert.smoothing import SmoothedClassifier

# The published strength, and one that a processor can afford.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "reference": {"steps": 300, "draws": 400},
    "fast": {"steps": 100, "draws": 32},
}
# Of the total variation of one channel: twice the largest eigenvalue of the grid's Laplacian.
LARGEST_CURVATURE: Final = 16.0


def total_variation(delta: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring pixels, (B,), for (B, C, H, W)."""
    across = (delta[..., :, 1:] - delta[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (delta[..., 1:, :] - delta[..., :-1, :]).square().flatten(1).sum(dim=1)
    return across + down


def mean_color(delta: Tensor) -> Tensor:
    """Sum over channels of the squared mean of the absolute perturbation, (B,)."""
    return delta.abs().mean(dim=(2, 3)).square().sum(dim=1)


def dissimilarity(delta: Tensor) -> Tensor:
    """l2 norm of the map of squared differences between channels, (B,); 0 for one channel.

    At each pixel the map is the sum over pairs of channels, each pair once.
    """
    channels = delta.shape[1]
    pairs = [(i, j) for i in range(channels) for j in range(i)]
    if not pairs:
        return delta.new_zeros(len(delta))
    squares = torch.stack([(delta[:, i] - delta[:, j]).square() for i, j in pairs])
    # The norm has no gradient at 0, where all channels are alike.
    return (squares.sum(dim=0).square().flatten(1).sum(dim=1) + 1e-20).sqrt()


@torch.inference_mode(False)
def shadow(
    smoothed: SmoothedClassifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    steps: int = 300,
    draws: int = 400,
    lr: float = 0.1,
    lambda_tv: float = 0.3,
    lambda_c: float = 1.0,
    lambda_s: float = 0.5,
    channels: int = 1,
    sigma: float | None = None,
    against: Against = "deployed",
    precision: Precision = "32-true",
    success_draws: int = 200,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep = lambda step, steps: None,
) -> AttackResult:
    """Attack images (B, C, H, W) in [0, 1] with labels (B,), towards `targets` (B,) if given.

    Gradient ascent, from a uniform start in [-1/2, 1/2], on

        -CE(target) - lambda_tv * TV - lambda_c * C - lambda_s * S      (untargeted: +CE(label))

    where CE is the cross-entropy averaged over `draws` noisy copies that are drawn once. The image
    is clipped to [0, 1] at the end only. `channels` 1 gives all channels the same perturbation (S
    is 0), 3 one each. `sigma`: isotropic noise of the attacker's own in place of the classifier's.
    `precision`: of the gradients. `success_draws`: fresh ones that judge the result. Without
    targets the attack is untargeted; `spoofing_shadow` chooses them as published.

    Source: Ghiasi, Shafahi and Goldstein, "Breaking Certified Defenses: Semantic Adversarial
    Examples with Spoofed Robustness Certificates" (ICLR 2020): the objective of its Shadow Attack,
    which is the one above with a target.

    Raises ConcertError for impossible settings, and for a step that makes the total variation
    diverge.
    """
    victim = Victim(
        smoothed, images, labels, targets, against, draws, seed, indices, sigma, precision
    )
    check(
        victim.clean.shape[1:],
        steps=steps,
        lr=lr,
        lambda_tv=lambda_tv,
        lambda_c=lambda_c,
        lambda_s=lambda_s,
        channels=channels,
        success_draws=success_draws,
    )
    clean = victim.clean
    lanes = victim.lanes(0)
    size = (channels, *clean.shape[2:])
    start = [torch.rand(size, generator=each) - 0.5 for each in victim.generators()]
    delta = torch.stack(start).to(clean.device)
    for step in range(steps):
        adversarial = victim.log_probability(clean + delta, lanes, averaging="mean_of_log")
        leaf = delta.detach().requires_grad_()
        with torch.enable_grad():
            full = leaf.expand_as(clean)
            penalty = (
                lambda_tv * total_variation(full)
                + lambda_c * mean_color(full)
                + lambda_s * dissimilarity(full)
            )
            # The penalties, and what backward makes of the adversarial gradient of the image.
            objective = (victim.sign * adversarial.gradient * full).sum() - penalty.sum()
            (gradient,) = torch.autograd.grad(objective, leaf)
        delta = delta + lr * gradient.nan_to_num(0.0, 0.0, 0.0)
        on_step(step + 1, steps)
    return victim.result(clean + delta, torch.full_like(victim.labels, steps), success_draws)


def check(
    shape: Sequence[int],
    *,
    steps: int,
    lr: float,
    lambda_tv: float,
    lambda_c: float,
    lambda_s: float,
    channels: int,
    success_draws: int,
    **others: Any,
) -> None:
    """Refuse settings of `shadow` that cannot be, for images of a shape (C, H, W); `others` can."""
    check_at_least(1, steps=steps, success_draws=success_draws)
    check_at_least(0, lr=lr, lambda_tv=lambda_tv, lambda_c=lambda_c, lambda_s=lambda_s)
    if channels not in (1, shape[0]):
        raise ConcertError(f"channels must be 1 or the {shape[0]} of the images, got {channels}")
    shrinks = lr * lambda_tv * LARGEST_CURVATURE * shape[0] / channels
    if shrinks > 2.0:
        raise ConcertError(
            f"with lr {lr:g} and lambda_tv {lambda_tv:g} every step multiplies the roughest part "
            f"of the perturbation by {1 - shrinks:.3g}, and it grows without end: lower lr below "
            f"{2.0 * lr / shrinks:.3g}"
        )

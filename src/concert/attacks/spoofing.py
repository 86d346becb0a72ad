"""Shadow towards several classes, of which the one with the largest spoofed radius is kept.

Ghiasi, Shafahi and Goldstein (ICLR 2020), and their released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypedDict, Unpack

import torch
from torch import Tensor

from concert import bounds
from concert.attacks.base import Against, AttackResult, OnStep, Precision, Victim, check_at_least
from concert.attacks.shadow import shadow
from concert.sampling.votes import Request
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream

SPOOF_ALPHA: Final = 0.001
SPOOF_DRAWS: Final = 200


def target_classes(num_classes: int, label: int) -> list[int]:
    """The targets tried for an image: all other classes, or at most ten evenly spaced ones."""
    return [k for k in range(0, num_classes, -(-num_classes // 10)) if k != label]


class ShadowSettings(TypedDict, total=False):
    """Those arguments of `shadow` that `spoofing_shadow` passes on; left out, shadow's defaults."""

    steps: int
    draws: int
    lr: float
    lambda_tv: float
    lambda_c: float
    lambda_s: float
    channels: int
    sigma: float | None
    against: Against
    precision: Precision


def spoofing_shadow(
    smoothed: SmoothedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    spoof_draws: int = SPOOF_DRAWS,
    success_draws: int = 200,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep = lambda step, steps: None,
    **settings: Unpack[ShadowSettings],
) -> AttackResult:
    """`shadow` towards each of `target_classes`, and for each image the largest spoofed radius.

    Images (B, C, H, W) in [0, 1] with labels (B,); `targets` of the result says whose attack was
    kept. The radius is that of the noise's default certificate (of queried noise, of its ball) for
    any class but the label, as published, from `spoof_draws` draws that are neither the attack's
    nor those of a later certification; where no target leads to one, the target with the most votes
    is kept. Success is that of an untargeted attack too: any class but the label.

    Source: Ghiasi, Shafahi and Goldstein (ICLR 2020), as `shadow`, and its released code.

    Raises ConcertError as `shadow` does.
    """
    check_at_least(1, spoof_draws=spoof_draws)
    # Before the work, because it refuses what does not fit.
    against = settings.get("against", "deployed")
    judge = Victim(smoothed, images, labels, None, against, 1, seed, indices)
    truth = judge.labels.tolist()
    aimed_at = [target_classes(smoothed.num_classes, label) for label in truth]
    runs, done = sum(len(goals) for goals in aimed_at), 0
    kept: list[AttackResult] = []
    for row, (label, index) in enumerate(zip(truth, judge.indices, strict=True)):
        goals = aimed_at[row]
        tried = [
            shadow(
                smoothed,
                images[row : row + 1],
                labels[row : row + 1],
                torch.tensor([target]),
                seed=seed,
                indices=[index],
                success_draws=success_draws,
                on_step=_counted(on_step, done + place, runs),
                **settings,
            )
            for place, target in enumerate(goals)
        ]
        done += len(goals)
        kept.append(
            max(tried, key=lambda each: spoofed(smoothed, each, label, spoof_draws, seed, index))
        )
    attacked, steps, aims = (
        torch.cat([getattr(each, name) for each in kept]) for name in ("images", "steps", "targets")
    )
    result = judge.result(attacked.to(judge.clean.device), steps, success_draws)
    return replace(result, targets=aims)


def spoofed(
    smoothed: SmoothedClassifier,
    result: AttackResult,
    label: int,
    draws: int,
    seed: int,
    index: int,
) -> tuple[float, int]:
    """The spoofed radius of one attacked image with its label, and the votes of its target."""
    image = result.images[0]
    stream = Stream(seed, Domain.AUDIT, index)
    (votes,) = smoothed.sampler(image.shape).sample(image, [Request(stream, draws, mean_map=True)])
    count, top = int(votes.counts[int(result.targets[0])]), int(votes.counts.argmax())
    p_lower = bounds.clopper_pearson_lower(int(votes.counts[top]), draws, SPOOF_ALPHA)
    if top == label or p_lower <= 0.5 or votes.sigma_map is None:
        return 0.0, count
    claim, *_ = smoothed.noise.claims(smoothed.noise.certificate, votes.sigma_map)
    return claim.radius(p_lower), count


def _counted(on_step: OnStep, done: int, total: int) -> OnStep:
    """`on_step` for one of `total` runs of equally many steps, after `done` of them."""
    return lambda step, steps: on_step(done * steps + step, total * steps)

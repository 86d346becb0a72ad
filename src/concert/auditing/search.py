"""The search for a perturbation that changes the smoothed prediction.

Steepest ascent on the soft vote margin, the mean over noisy copies of softmax for the best other
class minus that for the certified class. Gradients flow through everything that the deployed
classifier does with a perturbed image: the noise model recomputes the sigma map, whether from the
image or from a noisy query of it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from concert.auditing.parts import Part, lengths, project, spread
from concert.sampling.soft_votes import SoftVotes, soft_margins
from concert.streams import Domain, keyed_generator

# In the part's own units: its diameter is 2. Steps shrink to a tenth.
FIRST_STEP: Final = 0.5
LAST_STEP: Final = 0.05
NEAR: Final = 1e-3


def starting_units(starts: int, shape: tuple[int, int, int], seed: int, index: int) -> Tensor:
    """Starting points (S, C, H, W) in a part's units: near the image, on the boundary, inside.

    Boundary starts come in opposite pairs, so that in one dimension both ends are tried.
    """
    generator = keyed_generator(seed, Domain.ATTACK, index)
    directions = torch.randn(starts, *shape, generator=generator)
    directions /= spread(lengths(directions))
    radii = torch.rand(starts, generator=generator)
    radii[:1] = NEAR
    for first in range(1, starts, 3):
        radii[first : first + 2] = 1.0
        if first + 1 < starts:
            directions[first + 1] = -directions[first]
    return directions * spread(radii)


def search(
    votes: SoftVotes,
    image: Tensor,
    part: Part,
    boxed: bool,
    label: int,
    starts: Tensor,
    steps: int,
    draws: int,
) -> Tensor:
    """The best point (S, C, H, W) of every start, in the part's units; `image` is (C, H, W).

    Every step draws fresh noise for its gradient. The best of a start's points is the one with the
    largest margin on draws that all points have in common.
    """
    image = image.to(votes.device)
    part = part.like(image)
    units = project(starts.to(votes.device), part, image, boxed)
    best, best_margins = units, torch.full((len(units),), -torch.inf, dtype=torch.float64)
    best_margins = best_margins.to(votes.device)
    common = votes.normals(0, draws)
    for step in range(steps + 1):
        margins, rivals = soft_margins(votes.shares(image + part.times(units), common), label)
        better = margins > best_margins
        best = torch.where(spread(better), units, best)
        best_margins = torch.where(better, margins, best_margins)
        if step == steps:
            break
        fresh = votes.normals(1 + step, draws)
        # In the part's units the gradient is scaled by the axes, and its own direction is steepest.
        gradient = part.times(votes.gradient(image + part.times(units), rivals, label, fresh))
        norms = lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        size = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (step / max(1, steps - 1))
        units = units + size * gradient / spread(norms)
        units = project(units, part, image, boxed)
    return best

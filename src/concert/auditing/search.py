"""The search for a perturbation that changes the smoothed prediction.

Steepest ascent on the soft vote margin, the mean over noisy copies of softmax for the best other
class minus that for the certified class. Gradients flow through everything that the deployed
classifier does with a perturbed image: the noise model recomputes the sigma map, whether from the
image or from a noisy query of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from concert.auditing.parts import Part, lengths, project, spread
from concert.inference import dtype_of
from concert.memory import channels_last
from concert.sampling import Sampler
from concert.smoothing import SmoothedClassifier
from concert.streams import DRAWS_PER_BLOCK, Domain, Stream, keyed_generator

# In the part's own units: its diameter is 2. Steps shrink to a tenth.
FIRST_STEP: Final = 0.5
LAST_STEP: Final = 0.05
NEAR: Final = 1e-3


class SoftVotes:
    """Class shares of noisy copies as means of softmax, and the gradients of their differences.

    The differentiable counterpart of the hot loop: the same noise model, and the classifier without
    its folding. Noise is addressed by (seed, image index, step), in a domain of its own, so that a
    later test on other draws is fresh. Memory is bounded by the hot loop's batch size.
    """

    def __init__(self, smoothed: SmoothedClassifier, sampler: Sampler, seed: int, index: int):
        self.classifier = channels_last(
            copy.deepcopy(smoothed.classifier).eval().requires_grad_(False)
        )
        self.noise = copy.deepcopy(sampler.noise.deployed(differentiable=True))
        self.device, self.dtype = sampler.device, dtype_of(self.classifier)
        self.shape, self.num_classes = sampler.shape, sampler.num_classes
        self.limit = sampler.batch_size
        self.stream = Stream(seed, Domain.ATTACK, index)

    def normals(self, step: int, draws: int) -> tuple[Tensor, ...]:
        """The standard normals (draws, C, H, W) of one step, one tensor a lane."""
        blocks = -(-draws // DRAWS_PER_BLOCK)
        channels, height, width = self.shape
        lanes = []
        for lane in range(self.noise.lanes):
            base = torch.empty(
                blocks * DRAWS_PER_BLOCK, height, width, channels, device=self.device
            )
            for block in range(blocks):
                part = base[block * DRAWS_PER_BLOCK : (block + 1) * DRAWS_PER_BLOCK]
                self.stream.fill(step * blocks + block, lane, part)
            lanes.append(base[:draws].permute(0, 3, 1, 2))
        return tuple(lanes)

    @torch.no_grad()
    def shares(self, points: Tensor, normals: tuple[Tensor, ...]) -> Tensor:
        """Mean softmax (S, K) in float64 of the noisy copies of points (S, C, H, W)."""
        draws = len(normals[0])
        total = torch.zeros(
            len(points), self.num_classes, dtype=torch.float64, device=points.device
        )
        for rows, columns in self._pieces(len(points), draws):
            some = tuple(lane[columns] for lane in normals)
            total[rows] += self._softmax(points[rows], some).double().sum(dim=1)
        return total / draws

    def gradient(
        self, points: Tensor, rivals: Tensor, label: int, normals: tuple[Tensor, ...]
    ) -> Tensor:
        """Gradients (S, C, H, W) of share(rival) - share(label) in each point; `rivals` is (S,).

        Zero where the network is piecewise constant.
        """
        draws = len(normals[0])
        total = torch.zeros_like(points)
        for rows, columns in self._pieces(len(points), draws):
            with torch.enable_grad():
                leaf = points[rows].detach().requires_grad_()
                softmax = self._softmax(leaf, tuple(lane[columns] for lane in normals))
                shares = softmax.sum(dim=1) / draws
                gap = shares.gather(1, rivals[rows, None]).sum() - shares[:, label].sum()
                if not gap.requires_grad:
                    continue
                (gradient,) = torch.autograd.grad(gap, leaf, allow_unused=True)
            if gradient is not None:
                total[rows] += gradient.nan_to_num(0.0, 0.0, 0.0)
        return total

    def _pieces(self, points: int, draws: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of points and of draws with at most `limit` noisy copies each."""
        width = min(draws, self.limit)
        height = max(1, self.limit // width)
        for row in range(0, points, height):
            for column in range(0, draws, width):
                yield slice(row, row + height), slice(column, column + width)

    def _softmax(self, points: Tensor, normals: tuple[Tensor, ...]) -> Tensor:
        """Softmax (S, D, K) of D noisy copies of each point."""
        count, draws = len(points), len(normals[0])
        sigma = self.noise.prepare(points)
        noisy, _ = self.noise(
            points.repeat_interleave(draws, dim=0),
            tuple(lane.repeat(count, 1, 1, 1) for lane in normals),
            None if sigma is None else sigma.repeat_interleave(draws, dim=0),
        )
        softmax: Tensor = self.classifier(noisy.to(self.dtype)).float().softmax(dim=1)
        return softmax.nan_to_num(0.0).view(count, draws, -1)


def soft_margins(shares: Tensor, label: int | Tensor) -> tuple[Tensor, Tensor]:
    """For shares (S, K): best other share minus the label's, and that class, each (S,).

    `label` is one class for all, or a class for each (S,).
    """
    own = torch.as_tensor(label, device=shares.device).expand(len(shares))[:, None]
    best, rivals = shares.scatter(1, own, -torch.inf).max(dim=1)
    return best - shares.gather(1, own)[:, 0], rivals


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
    axes = part.axes.float().to(votes.device)
    units = project(starts.to(votes.device), axes, image, boxed)
    best, best_margins = units, torch.full((len(units),), -torch.inf, dtype=torch.float64)
    best_margins = best_margins.to(votes.device)
    common = votes.normals(0, draws)
    for step in range(steps + 1):
        margins, rivals = soft_margins(votes.shares(image + axes * units, common), label)
        better = margins > best_margins
        best = torch.where(spread(better), units, best)
        best_margins = torch.where(better, margins, best_margins)
        if step == steps:
            break
        fresh = votes.normals(1 + step, draws)
        # In the part's units the gradient is scaled by the axes, and its own direction is steepest.
        gradient = axes * votes.gradient(image + axes * units, rivals, label, fresh)
        norms = lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        size = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (step / max(1, steps - 1))
        units = units + size * gradient / spread(norms)
        units = project(units, axes, image, boxed)
    return best

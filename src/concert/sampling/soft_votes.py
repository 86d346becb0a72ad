"""Soft votes: the differentiable counterpart of the hot loop.

Class shares of noisy copies as means of softmax, and their gradients with respect to the images.
Gradients flow through everything that the deployed classifier does with an image: the noise model
recomputes the sigma map, whether from the image or from a noisy query of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from concert.checks import check_counts
from concert.engines.inference import dtype_of
from concert.errors import ConcertError
from concert.memory import channels_last
from concert.noise import NoiseModel
from concert.sampling.noisy_copies import draw_normals, noisy_logits, select_draws
from concert.sampling.sampler import Sampler
from concert.streams import Domain, Stream, fresh_seed

# How the log-probabilities of an image's copies are averaged; the words of the objectives.
Averaging = Literal["log_of_mean", "mean_of_log"]

# Below it a probability in float32 is 0, and its logarithm not finite.
LOWEST_LOG: Final = -80.0


@dataclass(frozen=True)
class SoftSettings:
    """How `SmoothedClassifier.forward` draws.

    draws: noisy copies of every image. seed: of their noise, which is the same at every call and
    for every image of a batch; None draws fresh noise at every call.
    """

    draws: int = 64
    seed: int | None = 0

    def __post_init__(self) -> None:
        check_counts(draws=self.draws)
        if self.draws < 1:
            raise ConcertError(f"draws must be at least 1, got {self.draws}")


def soft_log_votes(
    classifier: nn.Module, noise: NoiseModel, images: Tensor, settings: SoftSettings
) -> Tensor:
    """log mean softmax (B, K) of noisy copies of images (B, C, H, W): the soft smoothed classifier.

    Differentiable, through the noise model too. All copies are in memory at once.
    """
    stream = Stream(fresh_seed() if settings.seed is None else settings.seed, Domain.ATTACK, 0)
    normals = draw_normals(
        stream, 0, settings.draws, noise.lanes, images.shape[1:], device=images.device
    )
    logits = noisy_logits(classifier, noise.deployed(differentiable=True), images, normals)
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(settings.draws)


@dataclass(frozen=True)
class LogProbability:
    """What `SoftVotes.log_probability` returns about points (S, C, H, W).

    value: float64 (S,), the average log-probability of the class asked for. gradient: of it, in the
    points. shares: mean softmax, float64 (S, K).
    """

    value: Tensor
    gradient: Tensor
    shares: Tensor


class SoftVotes:
    """Class shares of noisy copies as means of softmax, and gradients.

    The same noise model as in the hot loop, or `noise` in its place, and the classifier without its
    folding. Noise is addressed by (seed, image index, step), in a domain of its own, so that a
    later test on other draws is fresh. Memory is bounded by the hot loop's batch size.
    """

    def __init__(
        self,
        classifier: nn.Module,
        sampler: Sampler,
        seed: int,
        index: int = 0,
        noise: NoiseModel | None = None,
    ) -> None:
        self.classifier = channels_last(copy.deepcopy(classifier).eval().requires_grad_(False))
        noise = sampler.noise.deployed(differentiable=True) if noise is None else noise
        self.noise = copy.deepcopy(noise)
        self.device, self.dtype = sampler.device, dtype_of(self.classifier)
        self.shape, self.num_classes = sampler.shape, sampler.num_classes
        self.limit = sampler.batch_size
        self.stream = Stream(seed, Domain.ATTACK, index)

    def normals(self, step: int, draws: int) -> tuple[Tensor, ...]:
        """The standard normals (draws, C, H, W) of one step, one tensor a lane."""
        return draw_normals(self.stream, step, draws, self.noise.lanes, self.shape, self.device)

    def normals_of(self, indices: Sequence[int], step: int, draws: int) -> tuple[Tensor, ...]:
        """The normals of several images, (S, draws, C, H, W) a lane; each has its own stream."""
        each = [
            draw_normals(
                Stream(self.stream.seed, Domain.ATTACK, index),
                step,
                draws,
                self.noise.lanes,
                self.shape,
                self.device,
            )
            for index in indices
        ]
        return tuple(torch.stack(lane) for lane in zip(*each, strict=True))

    @torch.no_grad()
    def shares(self, points: Tensor, normals: tuple[Tensor, ...]) -> Tensor:
        """Mean softmax (S, K) in float64 of the noisy copies of points (S, C, H, W)."""
        draws = normals[0].shape[-4]
        total = self._zeros(len(points))
        for rows, columns in self._pieces(len(points), draws):
            some = select_draws(normals, rows, columns)
            total[rows] += self._softmax(points[rows], some).double().sum(dim=1)
        return total / draws

    def gradient(
        self, points: Tensor, rivals: Tensor, label: int, normals: tuple[Tensor, ...]
    ) -> Tensor:
        """Gradients (S, C, H, W) of share(rival) - share(label) in each point; `rivals` is (S,).

        Zero where the network is piecewise constant.
        """
        draws = normals[0].shape[-4]
        total = torch.zeros_like(points)
        for rows, columns in self._pieces(len(points), draws):
            with torch.enable_grad():
                leaf = points[rows].detach().requires_grad_()
                softmax = self._softmax(leaf, select_draws(normals, rows, columns))
                shares = softmax.sum(dim=1) / draws
                gap = shares.gather(1, rivals[rows, None]).sum() - shares[:, label].sum()
            total[rows] += gradient_of(gap, leaf)
        return total

    def log_probability(
        self,
        points: Tensor,
        classes: Tensor,
        normals: tuple[Tensor, ...],
        averaging: Averaging = "log_of_mean",
    ) -> LogProbability:
        """The log-probability of a class (S,) at each point (S, C, H, W), and its gradient.

        "log_of_mean": of the soft smoothed classifier, log mean softmax (Salman et al. 2019).
        "mean_of_log": the mean of the copies' log softmax, a cross-entropy over them.
        """
        draws, count = normals[0].shape[-4], len(points)
        shares, gradient = self._zeros(count), torch.zeros_like(points)
        # log mean exp is accumulated over pieces of the draws relative to the largest term so far.
        largest = points.new_full((count,), -torch.inf, dtype=torch.float64)
        total = points.new_zeros(count, dtype=torch.float64)
        for rows, columns in self._pieces(count, draws):
            with torch.enable_grad():
                leaf = points[rows].detach().requires_grad_()
                logits = noisy_logits(
                    self.classifier, self.noise, leaf, select_draws(normals, rows, columns)
                )
                # In float32 a confident classifier has probability 1 and no gradient.
                log_scores = (
                    logits.double().log_softmax(dim=2).nan_to_num(LOWEST_LOG, 0.0, LOWEST_LOG)
                )
                chosen = classes[rows, None, None].expand(-1, log_scores.shape[1], 1)
                own = log_scores.gather(2, chosen)[..., 0]
                if averaging == "mean_of_log":
                    weights = torch.ones_like(own)
                else:
                    highest = torch.maximum(largest[rows], own.detach().amax(dim=1))
                    shrink = (largest[rows] - highest).exp()
                    largest[rows] = highest
                    gradient[rows] *= shrink[:, None, None, None]
                    total[rows] *= shrink
                    weights = (own.detach() - highest[:, None]).exp()
                objective = (weights * own).sum()
            gradient[rows] += gradient_of(objective, leaf)
            added = own if averaging == "mean_of_log" else weights
            total[rows] += added.detach().double().sum(dim=1)
            shares[rows] += log_scores.detach().double().exp().sum(dim=1)
        if averaging == "mean_of_log":
            return LogProbability(total / draws, gradient / draws, shares / draws)
        value = largest + (total / draws).log()
        return LogProbability(value, gradient / total[:, None, None, None].float(), shares / draws)

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, self.num_classes, dtype=torch.float64, device=self.device)

    def _pieces(self, points: int, draws: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of points and of draws with at most `limit` noisy copies each."""
        width = min(draws, self.limit)
        height = max(1, self.limit // width)
        for row in range(0, points, height):
            for column in range(0, draws, width):
                yield slice(row, row + height), slice(column, column + width)

    def _softmax(self, points: Tensor, normals: tuple[Tensor, ...]) -> Tensor:
        """Softmax (S, D, K) of D noisy copies of each point."""
        logits = noisy_logits(self.classifier, self.noise, points, normals)
        return logits.softmax(dim=2).nan_to_num(0.0)


def gradient_of(scalar: Tensor, leaf: Tensor) -> Tensor:
    """The gradient, 0 where there is none and where it is not finite."""
    if not scalar.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(scalar, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)


def soft_margins(shares: Tensor, label: int | Tensor) -> tuple[Tensor, Tensor]:
    """For shares (S, K): best other share minus the label's, and that class, each (S,).

    `label` is one class for all, or a class for each (S,).
    """
    own = torch.as_tensor(label, device=shares.device).expand(len(shares))[:, None]
    best, rivals = shares.scatter(1, own, -torch.inf).max(dim=1)
    return best - shares.gather(1, own)[:, 0], rivals

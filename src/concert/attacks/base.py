"""What every attack takes and gives: whom it attacks, on which draws, and what came out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from concert.attacks.grid import Norm, whole_steps
from concert.checks import check_counts, check_images, check_indices
from concert.engines.precision import full_precision
from concert.errors import ConcertError, nearest
from concert.noise import IsotropicNoise
from concert.noise.base import check_sigma
from concert.sampling.soft_votes import Averaging, LogProbability, SoftVotes
from concert.sampling.votes import Request
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream, keyed_generator

# base: the classifier without noise. smoothed: with the noise that the clean image gets, frozen.
# deployed: the noise model sees the attacked image, and gradients flow through it.
Against = Literal["base", "smoothed", "deployed"]
# Of the gradients only, in the words of training.precision; success is judged in full precision.
Precision = Literal["32-true", "bf16-mixed"]
# Told the number of steps taken and of all, between steps; an exception of it ends the attack.
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class AttackResult:
    """Attacked images and what they do.

    images: float32 (B, C, H, W) in [0, 1], on the processor. success: bool (B,), whether the
    prediction is another class than the label, or with targets the target; it is that of the base
    classifier if that was attacked, else the most voted class of the deployed smoothed classifier
    on fresh draws. success_8bit: the same after rounding the images to multiples of 1/255.
    l2, linf: norms (B,) of the perturbation, float64. steps: taken for each image (B,).
    targets: the class (B,) aimed at, -1 where the attack is untargeted. start: what cadv makes of
    the images before its first step; None for the others, of which pgd begins at the clean images
    and shadow at these and a uniform draw from [-1/2, 1/2].
    """

    images: Tensor
    success: Tensor
    success_8bit: Tensor
    l2: Tensor
    linf: Tensor
    steps: Tensor
    targets: Tensor
    start: Tensor | None = None


def check_victim(
    against: str, draws: int, sigma: float | None = None, precision: str = "32-true"
) -> None:
    """Refuse victims and precisions that do not exist, and draws that are none."""
    if precision not in get_args(Precision):
        raise ConcertError(nearest("precision", str(precision), get_args(Precision)))
    if against not in get_args(Against):
        raise ConcertError(nearest("choice for against", str(against), get_args(Against)))
    check_counts(draws=draws)
    if draws < 1:
        raise ConcertError(f"draws must be at least 1, got {draws}")
    if sigma is not None:
        check_sigma("sigma", sigma)
        if against == "base":
            raise ConcertError("the base classifier has no noise: leave sigma out")


class Victim:
    """What an attack on clean images (B, C, H, W) takes gradients of.

    `sigma` replaces the noise by an isotropic one of the attacker's own. Image i has the draws of
    (seed, indices[i]), whatever else is in its batch.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        against: Against,
        draws: int,
        seed: int,
        indices: Sequence[int] | None,
        sigma: float | None = None,
        precision: Precision = "32-true",
    ) -> None:
        check_victim(against, draws, sigma, precision)
        images = smoothed.noise.accept(check_images(images.clone(), smoothed.shape))
        if not len(images):
            raise ConcertError("there is no image to attack: give at least one")
        self.smoothed, self.against, self.seed = smoothed, against, seed
        self.precision = precision
        self.indices = check_indices(indices, len(images))
        self.sampler = smoothed.sampler(images.shape[1:])
        self.clean = images.to(self.sampler.device)
        self.labels = self._classes("labels", labels)
        self.targets = None if targets is None else self._classes("targets", targets)
        if self.targets is not None and bool((self.targets == self.labels).any()):
            raise ConcertError("an image's target must not be its label: choose another class")
        self.draws = 1 if against == "base" else draws
        own = None if sigma is None else IsotropicNoise(sigma)
        self.votes = SoftVotes(smoothed.classifier, self.sampler, seed, noise=own)
        # Frozen noise, or none, is added as it is: a sigma of 1 times what `lanes` returns.
        unit = IsotropicNoise(1.0)
        frozen = SoftVotes(smoothed.classifier, self.sampler, seed, noise=unit)
        self._seen = self.votes if against == "deployed" else frozen

    @property
    def goal(self) -> Tensor:
        """The class (B,) whose probability the attack changes: the target, or the label."""
        return self.labels if self.targets is None else self.targets

    @property
    def sign(self) -> float:
        """1 to raise the goal's log-probability (targeted), -1 to lower it."""
        return -1.0 if self.targets is None else 1.0

    def lanes(self, step: int) -> tuple[Tensor, ...]:
        """The random numbers of one step, (B, draws, C, H, W) a lane."""
        if self.against == "base":
            return (torch.zeros_like(self.clean)[:, None],)
        normals = self.votes.normals_of(self.indices, step, self.draws)
        if self.against == "deployed":
            return normals
        # Given the sigma map every noise model is additive, so this freezes any of them.
        with torch.no_grad(), full_precision(self.sampler.device):
            offsets = [
                self.votes.noise(image[None], tuple(lane[row] for lane in normals))[0] - image
                for row, image in enumerate(self.clean)
            ]
        return (torch.stack(offsets),)

    def log_probability(
        self,
        points: Tensor,
        lanes: tuple[Tensor, ...],
        rows: Tensor | None = None,
        averaging: Averaging = "log_of_mean",
    ) -> LogProbability:
        """Of the goal at points that replace the images numbered `rows`, all of them if None."""
        classes = self.goal
        if rows is not None:
            classes, lanes = classes[rows], tuple(lane[rows] for lane in lanes)
        device, mixed = self.sampler.device, self.precision == "bf16-mixed"
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=mixed)
        with full_precision(device), autocast:
            return self._seen.log_probability(points.detach(), classes, lanes, averaging)

    def generators(self) -> list[torch.Generator]:
        """A generator for what an attack draws beside noise, one an image."""
        return [keyed_generator(self.seed, Domain.ATTACK, index) for index in self.indices]

    def predictions(self, images: Tensor, draws: int) -> Tensor:
        """Predicted classes (B,): of the base classifier, or the most voted of fresh draws."""
        if self.against == "base":
            with torch.no_grad():
                logits = torch.cat(
                    [self.votes.classifier(image[None].to(self.votes.dtype)) for image in images]
                )
            return logits.argmax(dim=1)
        votes = [
            self.sampler.sample(
                image, [Request(Stream(self.seed, Domain.PREDICT, index), draws, deployed=True)]
            )[0]
            for image, index in zip(images, self.indices, strict=True)
        ]
        return torch.tensor([int(each.counts.argmax()) for each in votes], device=images.device)

    def result(
        self,
        perturbed: Tensor,
        steps: Tensor,
        success_draws: int,
        bound: tuple[Norm, float] = ("l2", math.inf),
        start: Tensor | None = None,
    ) -> AttackResult:
        """Judge perturbed images (B, C, H, W), clipped to [0, 1] and put on the noise's grid.

        On a grid no perturbation exceeds `bound`, a norm and its largest value, by more than the
        rounding of the grid's numbers to float32.
        """
        perturbed = self.realized(perturbed, bound)
        rounded = (perturbed * 255.0).round() / 255.0
        delta = (perturbed.double() - self.clean.double()).flatten(1)
        return AttackResult(
            images=perturbed.cpu(),
            success=self._succeeds(perturbed, success_draws).cpu(),
            success_8bit=self._succeeds(self.realized(rounded), success_draws).cpu(),
            l2=delta.norm(dim=1).cpu(),
            linf=delta.abs().amax(dim=1).cpu(),
            steps=steps.cpu(),
            targets=(torch.full_like(self.labels, -1) if self.targets is None else self.goal).cpu(),
            start=None if start is None else start.cpu(),
        )

    def realized(self, perturbed: Tensor, bound: tuple[Norm, float] = ("l2", math.inf)) -> Tensor:
        """Images that the classifier takes: in [0, 1], and on the grid if its noise is."""
        perturbed = perturbed.detach().float().clamp(0.0, 1.0)
        levels = getattr(self.smoothed.noise, "levels", None)
        if levels is None:
            return perturbed
        steps = (perturbed - self.clean) * levels
        whole = whole_steps(steps, bound[0], bound[1] * levels)
        on_grid: Tensor = ((self.clean * levels).round() + whole) / levels
        return on_grid

    def _succeeds(self, images: Tensor, draws: int) -> Tensor:
        predicted = self.predictions(images, draws)
        return predicted != self.labels if self.targets is None else predicted == self.goal

    def _classes(self, name: str, classes: Tensor) -> Tensor:
        count = self.smoothed.num_classes
        given = torch.as_tensor(classes).clone().to(self.sampler.device, torch.int64)
        if given.shape != (len(self.clean),) or bool(((given < 0) | (given >= count)).any()):
            raise ConcertError(
                f"{name} must be one class from 0 to {count - 1} for each of the "
                f"{len(self.clean)} images"
            )
        return given


def check_at_least(least: float, **values: float) -> None:
    """Refuse settings that are too small, infinite, or not numbers."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ConcertError(f"{name} must be at least {least:g} and finite, got {value}")

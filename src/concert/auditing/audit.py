"""The audit of one image: search every part of its claimed region, then test what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from concert import bounds
from concert.auditing.parts import parts_of, realize
from concert.auditing.search import search, starting_units
from concert.auditing.verdict import TEST_ERROR, Candidate, judge
from concert.certificates import Guarantee, Region
from concert.checks import check_images
from concert.errors import ConcertError
from concert.records.record import Certification
from concert.sampling.soft_votes import SoftVotes
from concert.smoothing import SmoothedClassifier

# With and without the [0, 1] box.
BOXES: Final = (False, True)


@dataclass(frozen=True)
class AuditSettings:
    """How hard an audit tries.

    starts: of each search; the first is the image itself with a little noise, the others are
    random, on the boundary and inside. steps: of gradient ascent from each. draws: noisy copies per
    gradient. n0: draws that choose among the candidates. n: fresh draws of the test. seed: of all.
    """

    starts: int = 8
    steps: int = 20
    draws: int = 32
    n0: int = 500
    n: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("starts", 1), ("steps", 0), ("draws", 1), ("n0", 1)):
            if getattr(self, name) < least:
                raise ConcertError(f"{name} must be at least {least}, got {getattr(self, name)}")
        # The test is one-sided, and two candidates share its error.
        fewest = bounds.smallest_deciding_n(2.0 * TEST_ERROR / len(BOXES))
        if self.n < fewest:
            raise ConcertError(
                f"n={self.n} draws can never show a break at error {TEST_ERROR:g}: the smallest n "
                f"that could is {fewest}"
            )


@dataclass(frozen=True)
class Finding:
    """What an audit found about one image.

    certificate, guarantee, radius: of the claim. label: the certified class, rival: the class that
    came closest to it. part, boxed: where the closest candidate lies, and whether in [0, 1].
    l2_norm: of its perturbation. region_norm: the same in the norm whose unit ball is the ellipsoid
    (the ball where there is none). margin: vote share of the certified class minus the best other's
    at the candidate, on n fresh draws. label_votes, rival_votes: of them. p_value: exact and
    one-sided, of "the rival is not more probable". broken: the test says that it is.
    image: the candidate itself, float32 (C, H, W).
    """

    index: int
    certificate: str
    guarantee: Guarantee
    radius: float
    label: int
    rival: int
    part: str
    boxed: bool
    l2_norm: float
    region_norm: float
    margin: float
    label_votes: int
    rival_votes: int
    n: int
    p_value: float
    broken: bool
    image: Tensor = field(compare=False, repr=False)


@torch.inference_mode(False)
def audit(
    smoothed: SmoothedClassifier,
    image: Tensor,
    claim: Region | Certification,
    label: int,
    index: int = 0,
    settings: AuditSettings | None = None,
) -> Finding:
    """Try to break the claim that `image` (C, H, W) keeps the class `label` throughout a region.

    The classifier audited is the deployed one, whatever the claim's guarantee: its noise model sees
    the perturbed image. `index` is the image's number in its data set and addresses the noise,
    which no certification or prediction uses. A claim that is true of the deployed classifier is
    called broken with probability at most 1e-6. Raises ConcertError for a claim that certifies
    nothing and for images that the model does not take.
    """
    settings = settings or AuditSettings()
    # A copy, because gradients cannot flow through what was made in inference mode.
    (image,) = smoothed.noise.accept(check_images(image.clone(), smoothed.shape))
    region = _region(claim, image)
    if region.radius <= 0 or not 0 <= label < smoothed.num_classes:
        raise ConcertError(
            f"nothing to audit: radius {region.radius:g}, certified class {label}; give a region "
            "that is not empty and its class"
        )
    candidates = list(find_candidates(smoothed, image, region, label, index, settings))
    sampler = smoothed.sampler(image.shape)
    verdict = judge(sampler, candidates, label, settings.n0, settings.n, settings.seed, index)
    delta = verdict.candidate.image.double() - image.cpu().double()
    outer = parts_of(region, image.shape)[-1]
    return Finding(
        index=index,
        certificate=region.certificate,
        guarantee=region.guarantee,
        radius=region.radius,
        label=label,
        rival=verdict.rival,
        part=verdict.candidate.part,
        boxed=verdict.candidate.boxed,
        l2_norm=float(delta.norm()),
        region_norm=float(outer.norms(delta[None])),
        margin=verdict.margin,
        label_votes=verdict.label_votes,
        rival_votes=verdict.rival_votes,
        n=verdict.n,
        p_value=verdict.p_value,
        broken=verdict.broken,
        image=verdict.candidate.image,
    )


def find_candidates(
    smoothed: SmoothedClassifier,
    image: Tensor,
    region: Region,
    label: int,
    index: int,
    settings: AuditSettings,
) -> Iterator[Candidate]:
    """The best candidate of every start, for each part of the region, with and without the box."""
    sampler = smoothed.sampler(image.shape)
    votes = SoftVotes(smoothed.classifier, sampler, settings.seed, index)
    starts = starting_units(settings.starts, sampler.shape, settings.seed, index)
    # Noise on a grid takes images of that grid only.
    levels = getattr(sampler.noise, "levels", None)
    for part in parts_of(region, image.shape):
        for boxed in BOXES:
            units = search(votes, image, part, boxed, label, starts, settings.steps, settings.draws)
            for perturbed in realize(units, part, image, boxed, levels):
                yield Candidate(part.name, boxed, perturbed)


def _region(claim: Region | Certification, image: Tensor) -> Region:
    if isinstance(claim, Region):
        return claim
    dim = torch.numel(image)
    return Region(claim.certificate, claim.guarantee, claim.radius, dim, claim.axes, claim.bands)

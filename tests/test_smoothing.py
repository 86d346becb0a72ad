"""The smoothed classifier: certificates of classifiers whose smoothed version is known exactly."""

from __future__ import annotations

import copy
import gc
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from concert import bounds
from concert.certificates import Guarantee, isotropic_radius, normalized_radius
from concert.certification.procedure import Procedure
from concert.checks import check_images
from concert.engines.precision import full_precision
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.records.record import ABSTAIN, Certification
from concert.sampling.sampler import SamplingSettings
from concert.sampling.votes import Request, Votes
from concert.smoothing import SmoothedClassifier, decide
from concert.streams import Domain, Stream

SHAPE = (1, 2, 3)
SIGMA = 0.5
WEIGHT = torch.tensor([0.3, -0.7, 0.2, 0.9, -0.4, 0.1])
NORM = float(WEIGHT.norm())
SMALL = SamplingSettings(batch_size=64, workers=1)


class Function(nn.Module):
    """A classifier or generator made of a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class HalfSpace(nn.Module):
    """Class 0 where weight.x > threshold; its smoothed version is the same half-space."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ WEIGHT - self.threshold
        return torch.stack([score, torch.zeros_like(score)], dim=1) * 100.0


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def with_share(share: float, image: Tensor, sigma: float = SIGMA) -> HalfSpace:
    """The half-space that puts a share of an image's noisy copies in class 0."""
    return HalfSpace(float(image.flatten() @ WEIGHT) - float(ndtri(share)) * sigma * NORM)


def smoothed(
    classifier: nn.Module, noise: NoiseModel | None = None, classes: int = 2, **options: object
) -> SmoothedClassifier:
    return SmoothedClassifier(
        classifier, noise or IsotropicNoise(SIGMA), classes, sampling=SMALL, **options
    )


# ---------------------------------------------------------------------- the true boundary


@pytest.fixture(scope="module")
def certified() -> tuple[Tensor, Tensor, list[Certification]]:
    """Images, their signed distances from the boundary in l2, and their certifications."""
    points = images(40)
    classifier = HalfSpace(0.25)
    distance = (points.flatten(1) @ WEIGHT - 0.25) / NORM
    return points, distance, smoothed(classifier).certify(points, n=4000, alpha=0.001, seed=1)


def test_certified_radii_do_not_reach_the_boundary_and_come_close(
    certified: tuple[Tensor, Tensor, list[Certification]],
) -> None:
    _, distances, certifications = certified
    answered = 0
    for distance, record in zip(distances.tolist(), certifications, strict=True):
        # Each radius is too large with probability 0.001: none of these 40 is.
        assert record.radius <= abs(distance)
        share = float(ndtr(abs(distance) / SIGMA))
        if record.label == ABSTAIN:
            # Too close to the boundary for 4000 draws, or for 100 to choose the right class.
            assert share < (0.55 if record.candidate == int(distance < 0) else 0.75)
            continue
        answered += 1
        assert record.label == int(distance < 0)
        # p_lower is below the true share by at most 3.1 + 5 standard errors of 4000 draws.
        slack = 8.1 * math.sqrt(share * (1 - share) / 4000) + 0.003
        assert record.radius >= SIGMA * float(ndtri(max(0.5, share - slack)))
    assert answered >= 30
    assert max(record.radius for record in certifications) > 0.8 * SIGMA


def test_records_are_consistent(certified: tuple[Tensor, Tensor, list[Certification]]) -> None:
    for number, record in enumerate(certified[2]):
        assert (record.index, record.seed, record.n_used) == (number, 1, 4000)
        assert len(record.votes) == 2
        assert sum(record.votes) <= 4000
        k = record.votes[record.candidate]
        assert record.p_lower == bounds.clopper_pearson_lower(k, 4000, 0.001)
        assert record.radius == isotropic_radius(record.p_lower, SIGMA)
        assert (record.certificate, record.guarantee) == ("isotropic", Guarantee.DEPLOYED)
        assert record.axes is None
        assert record.proxy_volume == record.radius
        for sigma in (record.sigma_min, record.sigma_geomean, record.sigma_max):
            assert sigma == pytest.approx(SIGMA)
        assert (record.label == ABSTAIN) == (record.reason != "") == (record.radius == 0)
        if record.label != ABSTAIN:
            assert record.label == record.candidate


@pytest.mark.parametrize("stopping", ["relative:0.1", "grid:0,0.1,0.2"])
def test_stopping_early_uses_the_beginning_of_the_same_draws(
    certified: tuple[Tensor, Tensor, list[Certification]], stopping: str
) -> None:
    points, distances, whole = certified
    model = smoothed(HalfSpace(0.25))
    early = model.certify(points, n=4000, alpha=0.001, seed=1, stopping=stopping)
    assert len({record.n_used for record in early}) > 1
    for point, distance, record, full in zip(points, distances, early, whole, strict=True):
        assert record.radius <= abs(float(distance))
        assert record.candidate == full.candidate
        assert all(a <= b for a, b in zip(record.votes, full.votes, strict=True))
        if record.n_used < 4000:
            (alone,) = model.certify(point, n=record.n_used, seed=1, indices=[record.index])
            assert record.votes == alone.votes


def test_a_static_ellipsoid_touches_the_boundary_only() -> None:
    sigma_map = torch.tensor([0.2, 0.9, 0.3, 0.5, 0.4, 0.7]).reshape(SHAPE)
    points = images(10)
    records = smoothed(HalfSpace(0.25), StaticNoise(sigma_map)).certify(points, n=4000, alpha=0.001)
    scaled = (WEIGHT * sigma_map.flatten()).norm()
    for point, record in zip(points, records, strict=True):
        # The plane touches the ellipsoid of size rhat where |w.x - t| = rhat * |w * sigma|.
        true_rhat = abs(float(point.flatten() @ WEIGHT) - 0.25) / float(scaled)
        rhat = normalized_radius(record.p_lower)
        assert rhat <= true_rhat
        assert record.guarantee is Guarantee.DEPLOYED
        if record.label == ABSTAIN:
            assert record.axes is None
            continue
        assert record.axes is not None
        assert torch.allclose(record.axes, sigma_map.double() * rhat, rtol=1e-6)
        assert record.radius == pytest.approx(0.2 * rhat, rel=1e-6)
        assert (record.sigma_min, record.sigma_max) == pytest.approx((0.2, 0.9))
    assert sum(record.label != ABSTAIN for record in records) >= 5


@pytest.mark.parametrize("share", [0.7, 0.97])
def test_bounds_are_too_high_no_more_often_than_alpha(share: float) -> None:
    image, alpha, runs = images(1)[0], 0.05, 300
    model = smoothed(with_share(share, image))
    records = [model.certify(image, n0=30, n=100, alpha=alpha, seed=s)[0] for s in range(runs)]
    true = {0: share, 1: 1 - share}
    exceeded = sum(record.p_lower > true[record.candidate] for record in records)
    # The exact error of the bound, and five standard deviations of 300 runs either way.
    lower = np.array([bounds.clopper_pearson_lower(k, 100, alpha) for k in range(101)])
    exact = float(stats.binom.pmf(np.arange(101), 100, share)[lower > share].sum())
    assert exact <= alpha
    low, high = stats.binom.ppf([3e-7, 1 - 3e-7], runs, exact)
    assert low <= exceeded <= high
    wrong = sum(record.label not in (0, ABSTAIN) for record in records)
    assert wrong <= stats.binom.ppf(1 - 3e-7, runs, alpha)
    assert len({record.votes for record in records}) > 5


def test_the_candidate_comes_from_the_selection_draws() -> None:
    image = images(1)[0]
    model = smoothed(with_share(0.55, image))
    sampler = model.sampler(SHAPE)
    for seed in range(60):
        record = model.certify(image, n0=5, n=100, alpha=0.05, seed=seed)[0]
        (chosen,) = sampler.sample(image, [Request(Stream(seed, Domain.SELECT, 0), 5)])
        (counted,) = sampler.sample(image, [Request(Stream(seed, Domain.CERTIFY, 0), 100)])
        assert record.candidate == int(chosen.counts.argmax())
        assert record.votes == tuple(counted.counts)
        k = record.votes[record.candidate]
        assert record.p_lower == bounds.clopper_pearson_lower(k, 100, 0.05)


@pytest.mark.parametrize("stopping", ["full", "relative:0.01"])
@pytest.mark.parametrize("certificate", ["queried-ball", "queried"])
def test_choices_are_made_before_the_certifying_draws_and_those_are_used_once(
    certificate: str, stopping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[tuple[Stream, int, int]] = []
    fill = Stream.fill

    def recorded(stream: Stream, block: int, lane: int, out: Tensor) -> None:
        filled.append((stream, block, lane))
        fill(stream, block, lane, out)

    monkeypatch.setattr(Stream, "fill", recorded)
    generator = Function(lambda m1: 0.3 + 0.1 * torch.sigmoid(m1))
    model = smoothed(with_share(0.9, images(1)[0]), QueriedNoise(generator, 0.6, 0.25, 0.5))
    (record,) = model.certify(
        images(1), 100, 2000, 0.001, 8, [3], certificate, stopping, n_select=200
    )
    assert record.certificate == certificate
    select, certify = Stream(8, Domain.SELECT, 3), Stream(8, Domain.CERTIFY, 3)
    first = next(i for i, (stream, _, _) in enumerate(filled) if stream == certify)
    assert {stream for stream, _, _ in filled[:first]} == {select}
    assert {stream for stream, _, _ in filled[first:]} == {certify}
    addresses = [(block, lane) for _, block, lane in filled[first:]]
    blocks = math.ceil(record.n_used / SMALL.batch_size) * SMALL.batch_size // 16
    assert sorted(addresses) == [(block, lane) for block in range(blocks) for lane in (0, 1)]


# ------------------------------------------------------------------- guarantees of models


def test_the_claimed_frozen_radius_is_left_by_the_deployed_decision() -> None:
    """A iff |z| <= 0.25, noise from 0.25 to 0.5 just outside the image."""

    def band(z: Tensor) -> Tensor:
        score = 0.25 - z.flatten(1).abs()
        return torch.cat([score, torch.zeros_like(score)], dim=1) * 100.0

    noise = GeneratedNoise(Function(lambda x: 0.25 + 0.25 * torch.sigmoid(80 * (x - 0.06))))
    model = smoothed(Function(band), noise)
    record = model.certify(torch.zeros(1, 1, 1), n=50_000, alpha=0.001)[0]
    assert record.guarantee is Guarantee.FROZEN
    assert record.label == 0
    assert record.votes[0] / 50_000 == pytest.approx(0.6788, abs=5 * 0.0021)
    assert 0.105 < record.radius < 0.1171
    # Within that radius the deployed classifier answers B.
    attacked = torch.full((1, 1, 1, 1), 0.08)
    votes = model.prediction_votes(attacked, 20_000, seed=0)[0]
    assert votes.counts[0] / 20_000 == pytest.approx(0.4091, abs=5 * 0.0035)
    assert model.predict(attacked, n=20_000, seed=0).tolist() == [1]


def test_queried_noise_keeps_its_promise_where_the_frozen_radius_breaks() -> None:
    def band(z: Tensor) -> Tensor:
        score = 0.25 - z.flatten(1).abs()
        return torch.cat([score, torch.zeros_like(score)], dim=1) * 100.0

    generator = Function(lambda x: 0.15 + 0.35 * torch.sigmoid(80 * (x - 0.06)))
    model = smoothed(Function(band), QueriedNoise(generator, 0.6, 0.15, 0.5))
    record = model.certify(torch.zeros(1, 1, 1), n=20_000, alpha=0.001, certificate="queried-ball")[
        0
    ]
    assert record.guarantee is Guarantee.DEPLOYED
    assert record.label == 0
    assert record.axes is None
    assert record.radius == pytest.approx(0.15 * normalized_radius(record.p_lower), rel=1e-6)
    assert 0.15 <= record.sigma_min <= record.sigma_max <= 0.5
    inside = torch.linspace(0, record.radius * 0.999, 6).reshape(-1, 1, 1, 1)
    shares = [votes.counts[0] / 20_000 for votes in model.prediction_votes(inside, 20_000, seed=0)]
    for delta, share in zip(inside.flatten().tolist(), shares, strict=True):
        floor = ndtr(ndtri(record.p_lower) - delta / 0.15)
        assert share >= floor - 5 * 0.0036


def test_the_queried_ellipsoid_of_a_constant_map_is_cohens_ball_at_that_noise() -> None:
    noise = QueriedNoise(Function(lambda x: torch.full_like(x, 0.4)), 0.6, 0.25, 0.5)
    points = images(12)
    model = smoothed(HalfSpace(0.25), noise)
    records = model.certify(points, n=4000, alpha=0.001, certificate="queried")
    balls = model.certify(points, n=4000, alpha=0.001, certificate="queried-ball")
    for point, record, ball in zip(points, records, balls, strict=True):
        assert (record.certificate, record.guarantee) == ("queried", Guarantee.DEPLOYED)
        assert record.votes == ball.votes
        distance = abs(float(point.flatten() @ WEIGHT) - 0.25) / NORM
        assert record.radius <= distance
        # All votes are above the floor, and half of the error is spent on each claim.
        k = record.votes[record.candidate]
        assert record.p_lower == bounds.clopper_pearson_lower(k, 4000, 0.0005)
        if record.label == ABSTAIN:
            continue
        assert record.axes is not None
        rhat = normalized_radius(record.p_lower)
        assert torch.allclose(record.axes, torch.full_like(record.axes, 0.4 * rhat), rtol=3e-6)
        assert record.radius == pytest.approx(0.4 * rhat, rel=3e-6)
        assert record.radius > 1.5 * ball.radius
    assert sum(record.label != ABSTAIN for record in records) >= 6


def test_the_ellipsoid_rests_on_votes_above_its_floor() -> None:
    """All votes are for A, but in 3 of 100 draws the map is below its usual value."""
    threshold = 0.5 * 6 + float(ndtri(0.97)) * 0.6 * math.sqrt(6)

    def dipping(m1: Tensor) -> Tensor:
        usual = m1.flatten(1).sum(dim=1) < threshold
        return torch.where(usual, 0.45, 0.15).reshape(-1, 1, 1, 1).expand_as(m1)

    model = smoothed(HalfSpace(-50.0), QueriedNoise(Function(dipping), 0.6, 0.15, 0.5))
    center = torch.full(SHAPE, 0.5)
    record = model.certify(center, n=10_000, alpha=0.001, certificate="queried")[0]
    assert record.votes == (10_000, 0)
    assert 0.955 < record.p_lower < 0.97
    assert record.axes is not None
    # The floor is a part of the mean map, which the dips lower by 0.009.
    assert float(record.axes.max()) <= 0.45 * normalized_radius(record.p_lower)
    assert float(record.axes.min()) >= 0.43 * normalized_radius(record.p_lower)
    ball = model.certify(center, n=10_000, alpha=0.001, certificate="queried-ball")[0]
    assert ball.p_lower == bounds.clopper_pearson_lower(10_000, 10_000, 0.001)


def test_perturbations_in_the_queried_ellipsoid_keep_the_class() -> None:
    """A ball as class A, and a generator with more noise on the second pixel."""

    def ball(z: Tensor) -> Tensor:
        score = 0.9 - (z.flatten(1) - 0.5).norm(dim=1, keepdim=True)
        return torch.cat([score, torch.zeros_like(score)], dim=1) * 100.0

    ends = torch.tensor([0.2, 0.4])
    generator = Function(lambda x: ends + 0.02 * torch.sigmoid(4 * x.flip(-1)))
    noise = QueriedNoise(generator, 0.5, 0.15, 0.45)
    model = smoothed(Function(ball), noise)
    center = torch.full((1, 1, 2), 0.5)
    record = model.certify(center, n=20_000, alpha=0.001, certificate="queried")[0]
    assert record.label == 0
    assert record.axes is not None
    short, long = record.axes.flatten().tolist()
    rhat = normalized_radius(record.p_lower)
    # The map moves by a tenth on the first pixel, and one dip lowers the floor of both.
    assert 0.18 * rhat <= short <= 0.22 * rhat
    assert 0.36 * rhat <= long <= 0.42 * rhat
    assert record.radius == pytest.approx(short, rel=1e-9)
    angles = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)[:-1]
    offsets = 0.99 * torch.stack([short * angles.cos(), long * angles.sin()], dim=1)
    inside = (center + offsets.reshape(-1, 1, 1, 2)).float().clamp(0, 1)
    for votes in model.prediction_votes(inside, 10_000, seed=1):
        assert votes.counts[0] / 10_000 > 0.5


def test_the_sigma_statistics_of_queried_noise_are_of_its_mean_map() -> None:
    noise = QueriedNoise(Function(lambda x: 0.2 + 0.3 * torch.sigmoid(9 * x)), 0.6, 0.2, 0.5)
    point = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]).reshape(SHAPE)
    record = smoothed(HalfSpace(0.25), noise).certify(point, n0=5000, n=100)[0]
    expected = [
        0.2 + 0.3 * stats.norm(x, 0.6).expect(lambda m: 1 / (1 + np.exp(-9 * np.maximum(m, -50))))
        for x in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    error = 5 * 0.15 / math.sqrt(5000)
    assert record.sigma_min == pytest.approx(min(expected), abs=error)
    assert record.sigma_max == pytest.approx(max(expected), abs=error)
    assert record.sigma_geomean == pytest.approx(float(stats.gmean(expected)), abs=error)


# --------------------------------------------------------------------------- abstentions


@pytest.mark.parametrize(
    ("share", "advice"),
    [(0.55, r"n=\d+ would certify at this vote share"), (0.0, "no n certifies")],
)
def test_an_abstention_says_why(share: float, advice: str) -> None:
    image = images(1)[0]
    if share:
        classifier: nn.Module = with_share(share, image)
    else:  # three equal classes
        turns = torch.tensor([0.0, 1.0, 2.0]) * 2 * math.pi / 3
        classifier = Function(lambda z: torch.cos(200.0 * z.flatten(1)[:, :1] + turns))
    model = smoothed(classifier, classes=2 if share else 3)
    record = model.certify(image, n=200, alpha=0.001, seed=3)[0]
    assert record.label == ABSTAIN
    assert record.radius == record.proxy_volume == 0.0
    assert record.log_volume == -math.inf
    assert record.guarantee is Guarantee.DEPLOYED
    k = record.votes[record.candidate]
    assert re.fullmatch(
        rf"p_lower {record.p_lower:.4f} <= 0.5 from {k} of 200 votes; {advice}.*", record.reason
    )
    if share:
        named = re.search(r"n=(\d+) ", record.reason)
        assert named is not None
        assert int(named[1]) == bounds.draws_to_certify(k / 200, 0.001)
        assert int(named[1]) > 200


def test_a_class_that_is_ruled_out_takes_no_votes_and_leaves_the_others() -> None:
    """A logit of minus infinity is how classes are masked; one of plus infinity is damage."""
    shift = torch.tensor([-math.inf, 0.0, 5.0])
    model = smoothed(Function(lambda z: 0.0 * z.flatten(1)[:, :3] + shift), classes=3)
    record = model.certify(images(1), n=200)[0]
    assert (record.label, record.votes) == (2, (0, 0, 200))
    two = smoothed(Function(lambda z: 0.0 * z.flatten(1)[:, :2] + shift[:2]), classes=2)
    assert two.certify(images(1), n=200)[0].votes == (0, 200)
    damaged = smoothed(Function(lambda z: 0.0 * z.flatten(1)[:, :3] - shift), classes=3)
    assert damaged.certify(images(1), n=200)[0].label == ABSTAIN


def test_a_classifier_of_damaged_logits_abstains() -> None:
    model = smoothed(Function(lambda z: z.flatten(1)[:, :3] * math.nan), classes=3)
    record = model.certify(images(1), n=50)[0]
    assert (record.label, record.radius, record.votes) == (ABSTAIN, 0.0, (0, 0, 0))
    assert "0 of 50 votes, 50 undecided; the logits of undecided votes, or" in record.reason
    assert model.predict(images(2), n=50).tolist() == [ABSTAIN, ABSTAIN]


def test_decide_by_hand() -> None:
    def votes(*counts: int) -> Votes:
        return Votes(np.array(counts), sum(counts))

    # 10 to 0 has p = 0.00195, 11 to 0 has 0.00098.
    assert decide(votes(0, 10, 0), 0.001) == ABSTAIN
    assert decide(votes(0, 11, 0), 0.001) == 1
    assert decide(votes(11, 0), 0.001) == 0
    assert decide(votes(5, 5, 90), 0.001) == 2
    assert decide(votes(50, 50, 3), 0.05) == ABSTAIN
    assert decide(votes(0, 0, 0), 0.999) == ABSTAIN
    assert decide(votes(3, 0, 0), 0.25) == 0


def test_predict_answers_at_ease_and_abstains_near_the_boundary() -> None:
    points = images(200)
    scores = points.flatten(1) @ WEIGHT
    for share, expected in [(0.98, 0), (0.02, 1)]:
        threshold = float(ndtri(share)) * SIGMA * NORM
        model = smoothed(Function(lambda z, t=threshold: HalfSpace(-t)(z)))
        zero = torch.zeros(5, *SHAPE)
        assert model.predict(zero, n=200, seed=1).tolist() == [expected] * 5
    # All of these lie on the boundary exactly, up to the float32 of their score.
    point = points[int((scores - 0.25).abs().argmin())]
    model = smoothed(HalfSpace(float(point.flatten() @ WEIGHT)))
    labels = model.predict(point.expand(200, *SHAPE), n=100, alpha=0.05, seed=2)
    answered = int((labels != ABSTAIN).sum())
    assert 0 < answered <= stats.binom.ppf(1 - 3e-7, 200, 0.05)


# -------------------------------------------------------------------------- noise addresses


def test_indices_address_the_noise() -> None:
    points = images(10)
    model = smoothed(HalfSpace(0.25))
    batch = model.certify(points, n=500)
    assert model.certify(points[7], n=500, indices=[7]) == [batch[7]]
    assert model.certify(points[7], n=500)[0].votes != batch[7].votes
    backwards = list(range(9, -1, -1))
    assert model.certify(points.flip(0), n=500, indices=backwards) == batch[::-1]
    assert smoothed(HalfSpace(0.25)).certify(points, n=500) == batch
    assert [r.votes for r in model.certify(points, n=500, seed=1)] != [r.votes for r in batch]
    votes = model.prediction_votes(points, 500, seed=0)
    again = model.prediction_votes(points[[7]], 500, 0, indices=[7])[0]
    assert again.counts.tolist() == votes[7].counts.tolist()
    # Prediction and certification do not share draws.
    assert tuple(votes[7].counts) != batch[7].votes


def test_a_prediction_without_a_seed_cannot_be_foreseen() -> None:
    turns = torch.arange(8) * 2 * math.pi / 8
    model = smoothed(Function(lambda z: torch.cos(200.0 * z.flatten(1)[:, :1] + turns)), classes=8)
    counts = {model.prediction_votes(images(1), 800, None)[0].counts.tobytes() for _ in range(5)}
    assert len(counts) == 5
    counts = {model.prediction_votes(images(1), 800, 4)[0].counts.tobytes() for _ in range(3)}
    assert len(counts) == 1


def test_weights_are_those_of_the_first_use_until_refreshed() -> None:
    classifier = HalfSpace(-5.0)
    model = smoothed(classifier).train()
    assert model.predict(images(1), n=50).tolist() == [0]
    with torch.no_grad():
        classifier.threshold.fill_(5.0)
    model.refresh()
    assert model.predict(images(1), n=50).tolist() == [1]
    assert classifier.training
    assert classifier.threshold.requires_grad


def test_images_of_another_shape_get_a_sampler_of_their_own() -> None:
    model = smoothed(Function(lambda z: z.flatten(1)[:, :2] * torch.tensor([1.0, -1.0])))
    for shape in (SHAPE, (1, 3, 2), SHAPE):
        assert model.predict(torch.ones(1, *shape), n=50).tolist() == [0]


def test_images_of_another_shape_do_not_end_a_job_under_way() -> None:
    model = smoothed(Function(lambda z: z.flatten(1)[:, :2] * torch.tensor([1.0, -1.0])))
    points, procedure = torch.ones(20, *SHAPE), Procedure(n=3000)
    job = model.certify_each(points, procedure)
    found = [next(job).certification]
    assert model.predict(torch.ones(1, 1, 3, 2), n=50).tolist() == [0]
    found += [timed.certification for timed in job]
    assert found == model.certify(points, n=3000)


def test_a_used_model_can_be_copied() -> None:
    model = smoothed(HalfSpace(0.25))
    expected = model.certify(images(2), n=50)
    assert copy.deepcopy(model).certify(images(2), n=50) == expected


def test_no_images_are_no_results() -> None:
    model = smoothed(HalfSpace(0.25))
    assert model.certify(images(0), n=50) == []
    assert model.predict(images(0), n=50).shape == (0,)
    assert model.predict(images(3), n=50).dtype == torch.int64
    with pytest.raises(ConcertError, match="2 indices, and no image"):
        list(model.certify_each(iter([]), Procedure(n=50), [0, 1]))


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 3), r"must have shape \(B, C, H, W\) or \(C, H, W\), got \(2, 3\)"),
        (torch.zeros(1, 1, 1, 2, 3), "must have shape"),
        (torch.zeros(4, 1, 3, 2), r"takes images of shape \(1, 2, 3\).*got \(1, 3, 2\)"),
        (torch.zeros(4, *SHAPE, dtype=torch.uint8), "floating point.*uint8"),
        (torch.zeros(4, *SHAPE, dtype=torch.int64), "floating point.*int64"),
        (torch.full((4, *SHAPE), 255.0), r"must lie in \[0, 1\], got \[255, 255\]"),
        (torch.linspace(-0.1, 1, 6).reshape(SHAPE), r"got \[-0.1, 1\]"),
        (torch.tensor([0.0, math.nan] * 3).reshape(SHAPE), "NaN"),
        (torch.tensor([0.0, math.inf] * 3).reshape(SHAPE), "NaN or infinite"),
    ],
)
def test_bad_images_are_one_line(bad: Tensor, message: str) -> None:
    model = smoothed(HalfSpace(0.25), shape=SHAPE)
    for use in (
        lambda: check_images(bad, SHAPE),
        lambda: model.certify(bad, n=50),
        lambda: model.predict(bad, n=50),
    ):
        with pytest.raises(ConcertError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_good_images_become_float32_batches(dtype: torch.dtype) -> None:
    image = torch.linspace(0, 1, 6).reshape(SHAPE)
    checked = check_images(image.to(dtype))
    assert checked.shape == (1, *SHAPE)
    assert checked.dtype == torch.float32
    assert torch.allclose(checked[0], image, atol=4e-3)
    assert check_images(image[None].expand(3, *SHAPE), SHAPE).shape == (3, *SHAPE)
    assert check_images(torch.zeros(0, *SHAPE), SHAPE).shape == (0, *SHAPE)


def test_images_that_are_no_tensor_are_one_line() -> None:
    with pytest.raises(ConcertError, match="tensor"):
        check_images(images(1).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 9, "alpha": 0.001}, "n=9 draws can never certify at alpha=0.001.*is 10$"),
        ({"n": 0, "alpha": 0.05}, "smallest n that could is 5$"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, got 0"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 1, got 1"),
        ({"alpha": math.nan}, "alpha must lie between 0 and 1, got nan"),
        ({"n0": 0}, "n0 must be at least 1, got 0"),
        (
            {"certificate": "frozen"},
            "'frozen' needs generated noise; this noise has: auto, isotropic",
        ),
        ({"certificate": "isotropc"}, "did you mean 'isotropic'"),
        ({"certificate": "queried"}, "'queried' needs queried noise"),
        ({"indices": [1, 2]}, "got 2 indices for 1 images"),
        ({"seed": -1}, r"2\^63"),
        ({"indices": [-1]}, r"2\^63"),
    ],
)
def test_settings_that_cannot_certify_are_one_line(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConcertError, match=message) as caught:
        smoothed(HalfSpace(0.25)).certify(images(1), **{"n": 50, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 10, "alpha": 0.001}, "n=10 draws can never decide at alpha=0.001.*is 11$"),
        ({"alpha": 2.0}, "alpha must lie between 0 and 1"),
        ({"indices": []}, "got 0 indices for 1 images"),
    ],
)
def test_settings_that_cannot_predict_are_one_line(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConcertError, match=message) as caught:
        smoothed(HalfSpace(0.25)).predict(images(1), **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_smallest_numbers_of_draws_are_enough() -> None:
    model = smoothed(HalfSpace(-50.0))
    assert model.certify(images(1), n0=1, n=10, alpha=0.001)[0].label == 0
    assert model.predict(images(1), n=11, alpha=0.001).tolist() == [0]


def test_two_claims_need_more_draws_than_one() -> None:
    noise = QueriedNoise(Function(lambda x: torch.full_like(x, 0.3)), 0.6, 0.25, 0.5)
    model = smoothed(HalfSpace(-50.0), noise)
    assert model.certify(images(1), n=11, certificate="queried")[0].label == 0
    with pytest.raises(ConcertError, match=r"n=10 draws can never certify.*is 11"):
        model.certify(images(1), n=10, certificate="queried")


def test_selection_needs_a_draw() -> None:
    noise = QueriedNoise(Function(lambda x: torch.full_like(x, 0.3)), 0.6, 0.25, 0.5)
    with pytest.raises(ConcertError, match="n_select"):
        smoothed(HalfSpace(-50.0), noise).certify(
            images(1), n=50, certificate="queried", n_select=0
        )


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(ConcertError, match="at least 2"):
        smoothed(HalfSpace(0.25), classes=classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier": lambda images: images}, "torch.nn.Module, got function"),
        ({"noise": 0.25}, "IsotropicNoise"),
        ({"shape": 28}, "channels, height, width"),
        ({"shape": (28, 28)}, "channels, height, width"),
    ],
)
def test_what_cannot_be_smoothed_is_one_line(changes: dict[str, Any], message: str) -> None:
    given = {"classifier": nn.Flatten(), "noise": IsotropicNoise(0.25), "num_classes": 2}
    with pytest.raises(ConcertError, match=message):
        SmoothedClassifier(**{**given, **changes})


def test_a_certification_has_its_region() -> None:
    (image,) = images(1)
    (found,) = smoothed(with_share(0.99, image)).certify(image, n=1000)
    region = found.region(SHAPE)
    assert found.radius > 0
    assert region.guarantee is found.guarantee
    assert region.log_volume == found.log_volume
    edge = torch.zeros(SHAPE, dtype=torch.float64)
    edge.view(-1)[0] = found.radius
    assert bool(region.contains(0.999 * edge))
    assert not bool(region.contains(edge))
    with pytest.raises(ValueError, match="not of shape"):
        found.region((*SHAPE[:2], SHAPE[2] + 1))


def test_the_models_own_certificate_can_be_named() -> None:
    for noise in (
        IsotropicNoise(SIGMA),
        StaticNoise(torch.full(SHAPE, SIGMA)),
        GeneratedNoise(Function(lambda x: torch.full_like(x, SIGMA))),
        QueriedNoise(Function(lambda x: torch.full_like(x, SIGMA)), 1.0, SIGMA, 0.9),
    ):
        model = smoothed(HalfSpace(-50.0), noise)
        named, automatic = (
            model.certify(images(1), n=50, certificate=name)[0]
            for name in (noise.certificate, "auto")
        )
        assert named == automatic
        assert (named.certificate, named.guarantee) == (noise.certificate, noise.guarantee)
        # A constant map is isotropic noise, whatever it came from.
        assert named.radius == pytest.approx(SIGMA * normalized_radius(named.p_lower), rel=1e-6)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_indices_may_come_in_any_sequence(kind: Callable[[list[int]], list[int]]) -> None:
    model = smoothed(HalfSpace(0.25))
    expected = model.certify(images(2), n=50, indices=[4, 9])
    assert model.certify(images(2), n=50, indices=kind([4, 9])) == expected


def test_indices_may_come_in_a_tensor() -> None:
    model = smoothed(HalfSpace(0.25))
    expected = model.certify(images(2), n=50, indices=[4, 9])
    assert model.certify(images(2), n=50, indices=torch.tensor([4, 9])) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("output", [math.nan, -1.0])
def test_a_damaged_generator_of_frozen_noise_is_one_line(output: float) -> None:
    noise = GeneratedNoise(Function(lambda x: torch.full_like(x, output)))
    with pytest.raises(ConcertError, match="sigma"):
        smoothed(HalfSpace(-50.0), noise).certify(images(1), n=50)


def test_a_change_of_noise_or_weights_is_never_answered_by_stale_copies() -> None:
    model = smoothed(HalfSpace(0.25), IsotropicNoise(0.25))
    (before,) = model.certify(images(1), n=200)
    model.noise.sigma = 0.5
    (after,) = model.certify(images(1), n=200)
    (fresh,) = smoothed(HalfSpace(0.25), IsotropicNoise(0.5)).certify(images(1), n=200)
    assert after == fresh
    assert after != before
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(images(1)[0].numel(), 2))
    model = smoothed(linear, IsotropicNoise(0.25))
    model.predict(images(1), n=50, seed=0)
    with torch.no_grad():
        linear[1].weight.zero_()
        linear[1].bias.copy_(torch.tensor([0.0, 9.0]))
    assert model.predict(images(1), n=50, seed=0).tolist() == [1]


def test_used_models_leave_no_threads_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        model = smoothed(HalfSpace(0.25))
        model.predict(images(1), n=50, seed=0)
        del model
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


# ------------------------------------------------------------------- draws must be independent


class Together(nn.Module):
    """All images of a batch are put into the class of their mean."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images.mean() - 0.5).expand(len(images))
        return torch.stack([score, -score], dim=1)


class Spatial(nn.Module):
    """A weight of five dimensions, which has no channels-last layout, beside one of four."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.deep = nn.Conv2d(1, 2, 1), nn.Conv3d(1, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.flat(images).mean(dim=(2, 3)) + self.deep(images[:, None]).mean(dim=(2, 3, 4))


def test_modules_of_all_kinds() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    image = torch.rand(1, 1, 2, 2)
    scripted, traced = torch.jit.script(linear), torch.jit.trace(linear, image)
    votes = [
        SmoothedClassifier(module, IsotropicNoise(0.5), 2).certify(image, n=200, seed=0)[0].votes
        for module in (linear, scripted, traced)
    ]
    assert votes[0] == votes[1] == votes[2]
    SmoothedClassifier(Spatial(), IsotropicNoise(0.5), 2).predict(image, n=64)
    with pytest.warns(FutureWarning, match="deprecated"):
        weighted = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(4, 2)))
    weighted(image)
    with pytest.raises(ConcertError, match="cannot be copied, because it keeps"):
        SmoothedClassifier(weighted, IsotropicNoise(0.5), 2).predict(image, n=64)
    linear.lock = threading.Lock()
    with pytest.raises(ConcertError, match=r"cannot be copied .*_thread\.lock"):
        SmoothedClassifier(linear, IsotropicNoise(0.5), 2).predict(image, n=64)


class Follows(nn.Module):
    """All images of a batch are put into the class of one of them, or of a neighbour.

    In batches of more than `least`; `third` is the logit of a third class, which has no vote.
    """

    def __init__(self, row: Any, least: int = 0, third: float = -9.0) -> None:
        super().__init__()
        self.row, self.least, self.third = row, least, third

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - 0.5
        if len(images) > self.least:
            ways = {"neighbour": score.roll(1), "mirror": score.flip(0)}
            ways["far"] = score.roll(len(score) // 2)
            ways["four"] = score.view(-1, 4).flip(1).flatten() if len(score) % 4 == 0 else score
            score = ways[self.row] if self.row in ways else score[self.row].expand(len(images))
        return torch.stack([score, -score, torch.full_like(score, self.third)], dim=1)


@pytest.mark.parametrize("row", [0, 1, -1, "neighbour", "mirror", "far", "four"])
@pytest.mark.parametrize(("least", "third"), [(0, -9.0), (8, -math.inf), (8, -1e9), (8, -1e5)])
@pytest.mark.parametrize("batch_size", [16, 256])
def test_a_classifier_that_follows_another_row_is_refused(
    row: Any, least: int, third: float, batch_size: int
) -> None:
    """As the votes are counted: in batches of that size, whatever smaller ones give."""
    sampling = SamplingSettings(batch_size)
    follows = Follows(row, least, third)
    smoothed = SmoothedClassifier(follows, IsotropicNoise(0.5), 3, sampling=sampling)
    with pytest.raises(ConcertError, match="depends on the other images of its batch"):
        smoothed.certify(torch.full((1, 1, 1, 1), 0.52), n=100)


class Crowded(nn.Module):
    """Batch statistics, in batches of more than eight."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1)
        score = score - (score.mean() if len(images) > 8 else 0.5)
        return torch.stack([score, -score], dim=1)


def test_a_classifier_that_sees_its_batch_is_refused() -> None:
    """Its draws are not independent: a radius of 0.79 was certified and false at 0.08."""
    image = torch.full((1, 1, 1, 1), 0.52)
    coupled = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten()
    )
    for classifier, shape in (
        (Together(), (1, 1, 1)),
        (Crowded(), (1, 1, 1)),
        (coupled, (1, 3, 3)),
    ):
        smoothed = SmoothedClassifier(classifier, IsotropicNoise(0.5), 2 if shape[1] == 1 else 4)
        with pytest.raises(ConcertError, match="depends on the other images of its batch"):
            smoothed.certify(image.expand(1, *shape), n=100)


def test_a_generator_that_sees_its_batch_is_refused() -> None:
    class Mean(nn.Module):
        low, high = 0.25, 0.475

        def forward(self, images: Tensor) -> Tensor:
            return (0.25 + 0.2 * images.mean().sigmoid()).expand_as(images)

    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    smoothed = SmoothedClassifier(classifier, QueriedNoise(Mean(), 0.5, 0.25, 0.475), 2)
    with pytest.raises(ConcertError, match=r"the generator's output .* depends on the other"):
        smoothed.predict(torch.rand(1, 1, 2, 2), n=32)


def test_weights_changed_without_a_trace_are_used() -> None:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        classifier[1].weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    smoothed = SmoothedClassifier(classifier, IsotropicNoise(0.1), 2)
    image = torch.full((1, 1, 2, 2), 0.9)
    assert smoothed.predict(image, n=100, seed=0).tolist() == [0]
    # No version counter sees this.
    classifier[1].weight.data.neg_()
    assert smoothed.predict(image, n=100, seed=0).tolist() == [1]
    assert smoothed.certify(image, n=100)[0].label == 1


def test_weights_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    smoothed = SmoothedClassifier(classifier, IsotropicNoise(0.1), 2)
    assert smoothed.predict(torch.rand(1, 1, 2, 2), n=100, seed=0).shape == (1,)


class Close(nn.Module):
    """Class 0 by `gap` in a half-space, class 1 by far elsewhere."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap

    def forward(self, images: Tensor) -> Tensor:
        right = images.flatten(1)[:, 0] > 0.5
        score = torch.where(right, self.gap, -1.0)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_a_certificate_holds_for_an_engine_that_drifts_within_the_margin() -> None:
    """Votes just above the margin are below it in the other engine, whose prediction counts them
    all the same.
    """
    image = torch.full((1, 1, 1, 1), 0.9)
    certified = SmoothedClassifier(Close(1.001e-4), IsotropicNoise(0.25), 2)
    (result,) = certified.certify(image, n=10_000)
    assert result.label == 0
    assert result.radius > 0.3
    drifted = SmoothedClassifier(Close(0.6e-4), IsotropicNoise(0.25), 2)
    assert drifted.predict(image, n=1000, seed=1).tolist() == [0]
    inside = image - 0.9 * result.radius
    assert drifted.predict(inside, n=100_000, seed=1).tolist() == [0]
    # Its own certificate leaves those votes out.
    assert drifted.certify(image, n=1000)[0].label != 0


def test_numbers_of_draws_are_whole() -> None:
    smoothed = SmoothedClassifier(Close(1.0), IsotropicNoise(0.25), 2)
    image = torch.full((1, 1, 1, 1), 0.9)
    for settings in ({"n": 1e3}, {"n": 1000, "n0": 10.0}, {"n": 1000, "n_select": "20"}):
        with pytest.raises(ConcertError, match="must be a whole number"):
            smoothed.certify(image, **settings)  # type: ignore[arg-type]
    assert smoothed.certify(image, n=np.int64(1000))[0].n_used == 1000  # type: ignore[arg-type]


class Remembering(nn.Module):
    """Keeps what it is about to use in itself, and cannot be traced."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(math.prod(SHAPE), 64)
        self.outer = nn.Linear(64, outputs)

    def forward(self, images: Tensor) -> Tensor:
        self.kept = images.flatten(1)
        if bool(self.kept.sum() > 1e9):
            self.kept = -self.kept
        for _ in range(20):
            self.kept = self.kept + 0.0 * self.inner(self.kept).sum()
        return self.outer(self.inner(self.kept))


class Kept(nn.Module):
    """A generator of the same kind, whose maps have one value."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Remembering(1)

    def forward(self, images: Tensor) -> Tensor:
        level = 0.3 + 0.1 * self.inside(images).sigmoid()
        return level[:, :, None, None].expand_as(images)


@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_threads_do_not_see_each_others_activations(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Remembering(3) if kind == "classifier" else HalfSpace(0.25)
        generator = Kept()
    noise: NoiseModel = IsotropicNoise(0.5)
    if kind == "generator":
        noise = QueriedNoise(generator, 0.5, 0.3, 0.4)
    found = []
    for workers in (1, 4, 4):
        model = SmoothedClassifier(
            classifier,
            noise,
            3 if kind == "classifier" else 2,
            sampling=SamplingSettings(16, workers=workers),
        )
        results = model.certify(images(3), n=4000)
        found.append([(result.votes, result.p_lower, result.sigma_geomean) for result in results])
        model.refresh()
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_a_process_of_lower_precision_gets_the_same_votes() -> None:
    """oneDNN would count in bfloat16, far beyond the vote margin, under the same engine's name."""
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.Flatten(), nn.Linear(2048, 64), nn.Linear(64, 10)
    )
    torch.nn.init.normal_(classifier[2].weight, std=2.0)
    x = torch.rand(1, 1, 16, 16)

    def votes() -> tuple[Certification, ...]:
        smoothed = SmoothedClassifier(classifier, IsotropicNoise(0.5), 10)
        return tuple(smoothed.certify(x, n=4000, seed=0))

    wanted, before = votes(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert votes() == wanted
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


FEWER_BITS = """
import os, torch
from concert import IsotropicNoise, SmoothedClassifier
from concert.engines.precision import full_precision, rounding_of_this_processor
from concert.errors import ConcertError

def certify():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    try:
        SmoothedClassifier(network, IsotropicNoise(0.5), 2).certify(torch.rand(1, 1, 2, 2), n=100)
    except ConcertError as error:
        return str(error)
    return "certified"

first = certify()
os.environ.pop("ONEDNN_DEFAULT_FPMATH_MODE", None)  # it stays in force
print(rounding_of_this_processor() > 1e-4, first == certify(), first)
"""


@pytest.mark.parametrize("mode", ["BF16", "STRICT"])
def test_a_process_whose_convolutions_keep_fewer_bits_is_refused(mode: str) -> None:
    environment = os.environ | {"ONEDNN_DEFAULT_FPMATH_MODE": mode}
    said = subprocess.run(
        [sys.executable, "-c", FEWER_BITS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # A processor without bfloat16 keeps all bits, whatever is asked for.
    fewer = said.startswith("True")
    assert fewer <= (mode == "BF16")
    assert said.split()[1] == "True"
    assert ("unset ONEDNN_DEFAULT_FPMATH_MODE and start again" in said) == fewer
    assert ("certified" in said) != fewer


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
@pytest.mark.parametrize("parent", ["none", "torch", "cudnn"])
@pytest.mark.parametrize("own", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("legacy", ["highest", "high"])
def test_no_setting_of_a_graphics_card_leaves_tf32_on(parent: str, own: str, legacy: str) -> None:
    """In a process of its own: what torch made of them before does not come back."""
    code = f"""
import torch
from concert.engines.precision import full_precision
backends = torch.backends
parts = backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul
if {parent!r} != "none":
    {{"torch": backends, "cudnn": backends.cudnn}}[{parent!r}].fp32_precision = "tf32"
torch.set_float32_matmul_precision({legacy!r})
if {own!r} != "none":
    parts[0].fp32_precision = {own!r}
before = [part.fp32_precision for part in parts]
with full_precision(torch.device("cuda")):
    assert all(part.fp32_precision != "tf32" for part in parts), "tf32 is on"
assert [part.fp32_precision for part in parts] == before, "it did not come back"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_precision_comes_back_when_the_last_user_ends() -> None:
    flags = torch.backends.cuda.matmul
    before, flags.allow_tf32 = flags.allow_tf32, True
    try:
        first, second = (full_precision(torch.device("cuda")) for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not flags.allow_tf32
        second.__exit__(None, None, None)
        assert flags.allow_tf32
    finally:
        flags.allow_tf32 = before

"""Audits of networks whose deployed prediction is known everywhere."""

from __future__ import annotations

import pytest
import torch
from counterexamples import HIGH, LOW, Ball, HalfSpace, Line, Plane, smooth
from torch import Tensor, nn

from concert.auditing import AuditSettings, Finding, audit
from concert.auditing.audit import find_candidates
from concert.certificates import Guarantee, Region, isotropic
from concert.errors import ConcertError
from concert.noise import (
    GeneratedNoise,
    GridNoise,
    IsotropicNoise,
    NoiseModel,
    QueriedNoise,
    StaticNoise,
)
from concert.records.record import Certification
from concert.smoothing import SmoothedClassifier

QUICK = AuditSettings(starts=5, steps=8, draws=64, n0=400, n=4000, seed=3)
NETWORKS = [
    pytest.param(Ball(0.25), Line(), (1, 1, 1), id="1-D"),
    pytest.param(Ball(0.6), Plane(), (1, 1, 2), id="2-D"),
    pytest.param(Ball(0.25, hard=True), Line(), (1, 1, 1), id="1-D, piecewise constant"),
    pytest.param(Ball(0.6, hard=True), Plane(), (1, 1, 2), id="2-D, piecewise constant"),
]


def audited(
    classifier: nn.Module, noise: NoiseModel, shape: tuple[int, int, int], certificate: str = "auto"
) -> tuple[SmoothedClassifier, Certification, Finding]:
    smoothed, image = smooth(classifier, noise, shape), torch.zeros(shape)
    (claim,) = smoothed.certify(image, 2000, 20_000, seed=1, certificate=certificate)
    assert claim.label == 0
    return smoothed, claim, audit(smoothed, image, claim, 0, settings=QUICK)


@pytest.mark.parametrize(("classifier", "generator", "shape"), NETWORKS)
def test_a_frozen_certificate_is_broken(
    classifier: nn.Module, generator: nn.Module, shape: tuple[int, int, int]
) -> None:
    smoothed, claim, finding = audited(classifier, GeneratedNoise(generator), shape)
    assert claim.guarantee is Guarantee.FROZEN
    assert finding.broken
    assert finding.boxed, "there is a break in [0, 1], and it comes before one outside"
    assert (finding.label, finding.rival) == (0, 1)
    assert finding.margin < 0
    assert finding.p_value <= 5e-7
    assert finding.region_norm < 1
    # The deployed classifier's own prediction, at draws that the audit does not use.
    assert int(smoothed.predict(finding.image, n=4000, seed=11)) == 1


@pytest.mark.parametrize(("classifier", "generator", "shape"), NETWORKS)
def test_certificates_for_the_deployed_classifier_are_not(
    classifier: nn.Module, generator: nn.Module, shape: tuple[int, int, int]
) -> None:
    queried = QueriedNoise(generator, 0.7, LOW, HIGH)
    for noise, certificate in (
        (IsotropicNoise(LOW), "isotropic"),
        (queried, "queried-ball"),
        (queried, "queried"),
    ):
        _, claim, finding = audited(classifier, noise, shape, certificate)
        assert claim.radius > 0
        assert not finding.broken
        assert finding.margin > 0


@pytest.mark.parametrize("boxed_image", [0.0, 0.5, 0.97])
def test_every_candidate_is_inside_its_region_and_box(boxed_image: float) -> None:
    shape = (1, 3, 4)
    generator = torch.Generator().manual_seed(0)
    axes = 0.05 + torch.rand(shape, generator=generator, dtype=torch.float64)
    region = Region("queried", Guarantee.DEPLOYED, 0.3, 12, axes)
    weight = torch.randn(shape, generator=generator)
    smoothed = smooth(HalfSpace(weight, 0.1), IsotropicNoise(0.2), shape)
    image = torch.full(shape, boxed_image)
    found = list(find_candidates(smoothed, image, region, 0, 0, QUICK))
    assert len(found) == 2 * 2 * QUICK.starts
    for candidate in found:
        delta = candidate.image.double() - image.double()
        assert bool(region.contains(delta))
        norm = (delta / axes).norm() if candidate.part == "ellipsoid" else delta.norm() / 0.3
        assert 0 < float(norm) < 1
        if candidate.boxed:
            assert float(candidate.image.min()) >= 0
            assert float(candidate.image.max()) <= 1
    assert any(float(c.image.max()) > 1 or float(c.image.min()) < 0 for c in found)


def half_space(distance: float, shape: tuple[int, int, int]) -> tuple[SmoothedClassifier, Tensor]:
    """A grey image at an l2 distance from the boundary of a smoothed half-space."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    weight /= weight.norm()
    image = torch.full(shape, 0.5)
    threshold = float((weight * image).sum()) - distance
    return smooth(HalfSpace(weight, threshold), IsotropicNoise(0.25), shape), image


@pytest.mark.parametrize(("claimed", "broken"), [(0.55, True), (0.499, False)])
def test_a_radius_is_broken_just_beyond_the_truth(claimed: float, broken: bool) -> None:
    # In 192 dimensions a random direction is useless: the gradient must find the normal.
    shape = (3, 8, 8)
    smoothed, image = half_space(0.5, shape)
    claim = Region("isotropic", Guarantee.DEPLOYED, claimed, 192)
    finding = audit(smoothed, image, claim, 0, settings=AuditSettings(3, 12, 32, 200, 4000))
    assert finding.broken is broken
    assert finding.l2_norm <= claimed
    assert abs(finding.margin) < 0.3


@pytest.mark.parametrize(("share", "broken"), [(1.1, True), (0.998, False)])
def test_an_ellipsoid_is_broken_just_beyond_the_truth(share: float, broken: bool) -> None:
    # Semi-axes differ tenfold: the way to the boundary is not along the plain gradient.
    shape = (3, 8, 8)
    generator = torch.Generator().manual_seed(6)
    sigma = 0.05 + 0.45 * torch.rand(shape, generator=generator)
    weight = torch.randn(shape, generator=generator)
    image, scale = torch.full(shape, 0.5), float((sigma * weight).norm())
    threshold = float((weight * image).sum()) - 1.5 * scale
    smoothed = smooth(HalfSpace(weight, threshold), StaticNoise(sigma), shape)
    axes = 1.5 * share * sigma.double()
    claim = Region("static", Guarantee.DEPLOYED, float(axes.min()), 192, axes)
    finding = audit(smoothed, image, claim, 0, settings=AuditSettings(3, 12, 32, 200, 4000))
    assert finding.broken is broken
    assert finding.part == "ellipsoid"
    assert 0.99 < finding.region_norm < 1
    assert finding.l2_norm > 2 * claim.radius


def test_a_break_outside_the_box_alone_is_one_too() -> None:
    # The only way to the boundary is below 0.
    shape = (1, 1, 2)
    smoothed = smooth(HalfSpace(torch.tensor([1.0, 0.0]), -0.1), IsotropicNoise(0.25), shape)
    claim = Region("isotropic", Guarantee.DEPLOYED, 0.3, 2)
    finding = audit(smoothed, torch.zeros(shape), claim, 0, settings=QUICK)
    assert finding.broken
    assert not finding.boxed
    assert float(finding.image.min()) < -0.1


@pytest.mark.parametrize(("claimed", "broken"), [(0.57, True), (0.499, False)])
def test_noise_on_a_grid_is_audited_on_that_grid(claimed: float, broken: bool) -> None:
    shape = (3, 8, 8)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    weight /= weight.norm()
    image = (torch.full(shape, 0.5) * 255).round() / 255
    threshold = float((weight * image).sum()) - 0.5
    smoothed = smooth(HalfSpace(weight, threshold), GridNoise(0.25), shape)
    claim = Region("isotropic-grid", Guarantee.DEPLOYED, claimed, 192)
    quick = AuditSettings(3, 12, 32, 200, 4000)
    finding = audit(smoothed, image, claim, 0, settings=quick)
    assert finding.broken is broken
    assert 0.98 * claimed < finding.l2_norm < claimed
    for candidate in find_candidates(smoothed, image, claim, 0, 0, quick):
        steps = candidate.image.double() * 255
        assert float((steps - steps.round()).abs().max()) < 1e-4
        assert bool(claim.contains(candidate.image.double() - image.double()))


def test_an_audit_repeats_itself_and_depends_on_seed_and_index() -> None:
    smoothed, image = half_space(0.5, (1, 2, 2))
    claim = Region("isotropic", Guarantee.DEPLOYED, 0.4, 4)
    first = audit(smoothed, image, claim, 0, 4, QUICK)
    again = audit(smoothed, image, claim, 0, 4, QUICK)
    assert first == again
    assert torch.equal(first.image, again.image)
    other = audit(smoothed, image, claim, 0, 5, QUICK)
    assert other.label_votes != first.label_votes


def test_it_does_not_touch_the_model() -> None:
    smoothed, image = half_space(0.5, (1, 2, 2))
    smoothed.train()
    audit(smoothed, image, isotropic(0.9, 0.25, 4), 0, settings=QUICK)
    assert smoothed.classifier.training


def test_gradients_flow_where_the_caller_has_turned_them_off() -> None:
    shape = (3, 8, 8)
    smoothed, image = half_space(0.5, shape)
    with torch.inference_mode():
        image = image * 1.0
        smoothed.predict(image, n=64, seed=0)
        claim = Region("isotropic", Guarantee.DEPLOYED, 0.55, 192)
        finding = audit(smoothed, image, claim, 0, settings=AuditSettings(3, 12, 32, 200, 4000))
    assert finding.broken


def test_what_cannot_be_audited_is_refused() -> None:
    smoothed, image = half_space(0.5, (1, 2, 2))
    with pytest.raises(ConcertError, match="nothing to audit"):
        audit(smoothed, image, isotropic(0.4, 0.25, 4), 0)
    with pytest.raises(ConcertError, match="nothing to audit"):
        audit(smoothed, image, isotropic(0.9, 0.25, 4), -1)
    with pytest.raises(ConcertError, match=r"\[0, 1\]"):
        audit(smoothed, image + 1, isotropic(0.9, 0.25, 4), 0)
    with pytest.raises(ConcertError, match="smallest n that could is 21"):
        AuditSettings(n=20)
    with pytest.raises(ConcertError, match="starts must be at least 1"):
        AuditSettings(starts=0)

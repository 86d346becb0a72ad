"""PGD: what it finds on classifiers whose best attack is known."""

from __future__ import annotations

import pytest
import torch
from networks import (
    CLASSES,
    SHAPE,
    Brightness,
    Patches,
    Red,
    Rooted,
    labels_of,
    random_images,
    smooth,
)

from concert.attacks import pgd
from concert.attacks.base import Victim
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, GridNoise, IsotropicNoise, NoiseModel, QueriedNoise
from concert.smoothing import SmoothedClassifier

NOISES = [
    IsotropicNoise(0.25),
    GeneratedNoise(Brightness()),
    QueriedNoise(Brightness(), 0.6, 0.2, 0.4),
]


def victim_of(smoothed: SmoothedClassifier, images: torch.Tensor) -> Victim:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Victim(smoothed, images, labels, None, "deployed", 1, 0, None)


@pytest.mark.parametrize("against", ["base", "smoothed", "deployed"])
def test_it_walks_straight_up_a_linear_classifier(against: str) -> None:
    """The gradient is the same everywhere, so the ball's best point is known."""
    smoothed = smooth(Red(), IsotropicNoise(0.25), num_classes=2)
    image = torch.full((1, *SHAPE), 0.5)
    image[:, 0] += 0.02
    result = pgd(
        smoothed, image, torch.tensor([1]), epsilon=0.4, steps=8, draws=32, against=against
    )
    best = torch.zeros(SHAPE)
    best[0], best[2] = -1.0, 1.0
    best *= 0.4 / best.norm()
    assert torch.allclose(result.images[0] - image[0], best, atol=1e-3)
    assert result.success.tolist() == [True]
    assert result.success_8bit.tolist() == [True]
    assert result.targets.tolist() == [-1]
    assert float(result.l2) == pytest.approx(0.4, abs=1e-5)
    delta = (result.images.double() - image.double()).flatten()
    assert float(result.l2) == pytest.approx(float(delta.norm()), rel=1e-9)
    assert float(result.linf) == pytest.approx(float(delta.abs().max()), rel=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_points_stay_in_the_ball_and_in_the_box(noise: NoiseModel, norm: str) -> None:
    smoothed = smooth(Patches(), noise)
    images = random_images(3).mul(1.2).sub(0.1).clamp(0, 1)
    epsilon = 1.5 if norm == "l2" else 0.1
    result = pgd(
        smoothed, images, labels_of(smoothed, images), epsilon=epsilon, norm=norm, steps=6, draws=16
    )
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert bool(result.images.isfinite().all())
    assert float((result.l2 if norm == "l2" else result.linf).max()) <= epsilon
    assert result.steps.tolist() == [6, 6, 6]


def test_targets_are_reached_and_the_label_is_left() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images = random_images(3)
    labels = labels_of(smoothed, images)
    targets = (labels + 1) % CLASSES
    common = {"epsilon": 4.0, "steps": 10, "draws": 16}
    aimed = pgd(smoothed, images, labels, targets, **common)
    assert aimed.success.all()
    assert labels_of(smoothed, aimed.images).tolist() == targets.tolist()
    assert aimed.targets.tolist() == targets.tolist()
    left = pgd(smoothed, images, labels, **common)
    assert left.success.all()
    assert (labels_of(smoothed, left.images) != labels).all()


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_a_batch_is_its_images_and_a_seed_is_a_result(noise: NoiseModel) -> None:
    smoothed = smooth(Patches(), noise)
    images = random_images(3)
    labels = labels_of(smoothed, images)
    settings = {"epsilon": 1.0, "steps": 4, "draws": 24, "success_draws": 64}
    together = pgd(smoothed, images, labels, seed=1, indices=[4, 9, 7], **settings)
    again = pgd(smoothed, images, labels, seed=1, indices=[4, 9, 7], **settings)
    assert torch.equal(together.images, again.images)
    for row, index in enumerate([4, 9, 7]):
        one = slice(row, row + 1)
        alone = pgd(smoothed, images[one], labels[one], seed=1, indices=[index], **settings)
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-4)
        assert alone.success[0] == together.success[row]
    other = pgd(smoothed, images, labels, seed=2, indices=[4, 9, 7], **settings)
    assert not torch.equal(together.images, other.images)


def test_the_adaptive_attacker_beats_the_one_that_sees_a_frozen_map() -> None:
    """A classifier that looks at roughness only: brighter pixels get more noise."""

    class Noisy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rough = (images[..., 1:] - images[..., :-1]).square().flatten(1).mean(dim=1)
            return torch.stack([40.0 * (rough - 0.2), 40.0 * (0.2 - rough)], dim=1)

    smoothed = smooth(Noisy(), GeneratedNoise(Brightness()), num_classes=2)
    images = torch.full((1, *SHAPE), 0.5)
    gains = {}
    for against in ("smoothed", "deployed"):
        result = pgd(smoothed, images, torch.tensor([1]), draws=64, against=against)
        gains[against] = float(smoothed(result.images)[0, 0].exp().detach())
    assert gains["deployed"] > gains["smoothed"] + 0.05


def test_noise_on_a_grid_gets_images_of_the_grid() -> None:
    smoothed = smooth(Patches(), GridNoise(0.25))
    images = (random_images(2) * 255).round() / 255
    labels = labels_of(smoothed, images)
    result = pgd(smoothed, images, labels, epsilon=1.0, steps=4, draws=16)
    steps = result.images * 255
    assert float((steps - steps.round()).abs().max()) < 1e-3
    assert torch.equal(result.success, result.success_8bit)
    assert float(result.l2.min()) > 0.5
    small = pgd(smoothed, images, labels, epsilon=0.3, steps=4, draws=16)
    assert float(small.l2.max()) <= 0.3
    assert float(small.l2.min()) > 0.2
    assert torch.equal(victim_of(smoothed, images).realized(small.images), small.images)


@pytest.mark.parametrize(("epsilon", "alike"), [(0.25, 0.4), (1.0, 0.8)])
def test_on_a_grid_a_small_step_of_many_values_is_not_lost(epsilon: float, alike: float) -> None:
    """Of 150,528 values most move by less than a step of the grid."""
    shape = (3, 224, 224)
    smoothed = smooth(Patches(shape=shape), GridNoise(0.25), batch_size=16, shape=shape)
    images = (random_images(1, shape=shape) * 255).round() / 255
    label = torch.tensor([0])
    settings = {"epsilon": epsilon, "steps": 2, "draws": 4, "success_draws": 2}
    found = pgd(smoothed, images, label, **settings)
    assert 0.95 * epsilon < float(found.l2) <= epsilon
    steps = (found.images - images) * 255
    assert torch.allclose(steps, steps.round(), atol=1e-2)
    free = pgd(
        smooth(Patches(shape=shape), IsotropicNoise(0.25), batch_size=16, shape=shape),
        images,
        label,
        **settings,
    )
    moved = (free.images - images).flatten()
    # In the direction that it had: as far as whole steps allow.
    assert float(torch.cosine_similarity(moved, steps.flatten(), dim=0)) > alike


def test_fresh_draws_are_other_draws() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images = random_images(1)
    labels = labels_of(smoothed, images)
    fixed, fresh = (
        pgd(smoothed, images, labels, epsilon=1.0, steps=4, draws=8, fresh=each)
        for each in (False, True)
    )
    assert not torch.equal(fixed.images, fresh.images)


def test_with_fresh_draws_the_last_iterate_is_returned_not_the_luckiest() -> None:
    """One step less is one step back, whatever the draws said."""
    smoothed = smooth(Red(), IsotropicNoise(0.25), num_classes=2)
    image = torch.full((1, *SHAPE), 0.5)
    lengths = [
        float(
            pgd(
                smoothed,
                image,
                torch.tensor([1]),
                epsilon=4.0,
                steps=steps,
                step_size=0.1,
                draws=2,
                fresh=True,
            ).l2
        )
        for steps in (3, 4, 5)
    ]
    assert lengths == pytest.approx([0.3, 0.4, 0.5], abs=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_black_white_and_grey_images_give_no_nan(norm: str) -> None:
    smoothed = smooth(Patches(), QueriedNoise(Brightness(), 0.6, 0.2, 0.4))
    images = torch.stack([torch.full(SHAPE, value) for value in (0.0, 0.5, 1.0)])
    result = pgd(
        smoothed, images, labels_of(smoothed, images), norm=norm, steps=4, draws=8, success_draws=32
    )
    assert bool(result.images.isfinite().all())
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_gradients_that_are_not_finite_do_no_harm() -> None:
    smoothed = smooth(Rooted(), IsotropicNoise(0.25))
    images = torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 0.5)])
    result = pgd(smoothed, images, torch.tensor([0, 1]), steps=4, draws=8, success_draws=32)
    assert bool(result.images.isfinite().all())


def test_a_flat_classifier_is_left_by_chance_not_by_nan() -> None:
    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images * 0).flatten(1)[:, :2] + torch.tensor([1.0, 0.0])

    smoothed = smooth(Flat(), IsotropicNoise(0.25), num_classes=2)
    result = pgd(smoothed, random_images(2), torch.tensor([0, 0]), steps=3, draws=8)
    assert bool(result.images.isfinite().all())
    assert result.success.tolist() == [False, False]


def test_a_confident_classifier_is_attacked_along_its_gradient() -> None:
    """Its probability is 1 in float32 everywhere on the way to the boundary's other side."""

    class Confident(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            score = 3000.0 * (images[:, 0] - images[:, 2]).flatten(1).mean(dim=1)
            return torch.stack([-score, score], dim=1)

    smoothed = smooth(Confident(), IsotropicNoise(0.25), num_classes=2)
    image = torch.full((1, *SHAPE), 0.5)
    image[:, 0] += 0.01
    result = pgd(smoothed, image, torch.tensor([1]), epsilon=0.5, steps=8, against="base")
    assert result.success.tolist() == [True]


def test_mistakes_are_named() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images, labels = random_images(2), torch.tensor([0, 1])
    for settings, message in (
        ({"epsilon": -1.0}, "epsilon must be at least 0"),
        ({"epsilon": float("inf")}, "epsilon must be at least 0 and finite"),
        ({"step_size": float("nan")}, "step_size must be above 0"),
        ({"step_size": -1.0}, "step_size must be above 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"against": "bas"}, "did you mean 'base'"),
        ({"indices": [1]}, "1 indices for 2 images"),
        ({"targets": torch.tensor([0, 0])}, "target must not be its label"),
        ({"targets": torch.tensor([7, 7])}, "from 0 to 3"),
    ):
        with pytest.raises(ConcertError, match=message):
            pgd(smoothed, images, labels, **settings)
    with pytest.raises(ConcertError, match=r"must lie in \[0, 1\]"):
        pgd(smoothed, images + 1, labels)
    with pytest.raises(ConcertError, match="one class"):
        pgd(smoothed, images, torch.tensor([0]))
    with pytest.raises(ConcertError, match="no image"):
        pgd(smoothed, images[:0], labels[:0])


def test_it_works_where_gradients_are_switched_off() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images = random_images(2)
    expected = pgd(smoothed, images, torch.tensor([0, 1]), steps=2, draws=8)
    with torch.inference_mode():
        inside = pgd(smoothed, random_images(2), torch.tensor([0, 1]), steps=2, draws=8)
    assert torch.equal(inside.images, expected.images)

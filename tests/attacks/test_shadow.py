"""Shadow: its penalties on hand-made perturbations, its objective, and what it finds."""

from __future__ import annotations

from inspect import signature

import pytest
import torch
from networks import SHAPE, Brightness, Patches, Rooted, labels_of, random_images, smooth
from torch import Tensor

from concert.attacks import shadow
from concert.attacks.shadow import (
    PRESETS,
    dissimilarity,
    mean_color,
    total_variation,
)
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise
from concert.sampling.soft_votes import SoftVotes

FAST = {"steps": 12, "draws": 16, "success_draws": 64}
NOISES = [
    IsotropicNoise(0.25),
    GeneratedNoise(Brightness()),
    QueriedNoise(Brightness(), 0.6, 0.2, 0.4),
]


def test_penalties_of_hand_made_perturbations() -> None:
    delta = torch.zeros(2, 3, 2, 3)
    delta[0, 0] = torch.tensor([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    delta[1] = -0.5
    # Across 1 + 4, down 0 + 1 + 9; a constant has none.
    assert total_variation(delta).tolist() == pytest.approx([15.0, 0.0])
    # (4 / 6)^2 in one channel; three times 0.5^2.
    assert mean_color(delta).tolist() == pytest.approx([(4 / 6) ** 2, 0.75])
    # Red differs from both others: twice the squares 1 and 9, so sqrt(2^2 + 18^2).
    assert dissimilarity(delta).tolist() == pytest.approx([328**0.5, 0.0], abs=1e-6)
    assert dissimilarity(delta[:, :1]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("penalty", [total_variation, mean_color, dissimilarity])
def test_penalties_have_the_gradients_of_finite_differences(penalty) -> None:
    delta = torch.rand(2, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(penalty, (delta - 0.3).requires_grad_())
    at_zero = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalty(at_zero).sum(), at_zero)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_is_the_gradient_of_the_objective_as_published(
    channels: int, targeted: bool
) -> None:
    """The whole objective written out, and differentiated in one piece."""
    sigma, weights, lr = 0.25, (0.3, 1.0, 0.5), 0.1
    smoothed = smooth(Patches(), IsotropicNoise(sigma))
    image, label, target = 0.3 + 0.4 * random_images(1), torch.tensor([1]), torch.tensor([2])
    settings = {"draws": 20, "lr": lr, "channels": channels, "seed": 4}
    goal = target if targeted else None
    # A start so small that no pixel is clipped.
    result = shadow(smoothed, image, label, goal, steps=1, **settings)

    from concert.streams import Domain, keyed_generator

    start = torch.rand((channels, *SHAPE[1:]), generator=keyed_generator(4, Domain.ATTACK, 0)) - 0.5
    delta = start.clone().requires_grad_()
    full = delta.expand(SHAPE)
    votes = SoftVotes(smoothed.classifier, smoothed.sampler(SHAPE), 4)
    (normals,) = votes.normals_of([0], 0, 20)
    logits = smoothed.classifier(image + full + sigma * normals[0])
    entropy = torch.nn.functional.cross_entropy(logits, (target if targeted else label).expand(20))
    objective = (-1 if targeted else 1) * entropy
    penalties = (total_variation, mean_color, dissimilarity)
    for weight, penalty in zip(weights, penalties, strict=True):
        objective = objective - weight * penalty(full[None])[0]
    (gradient,) = torch.autograd.grad(objective, delta)
    expected = (image[0] + (start + lr * gradient).expand(SHAPE)).clamp(0, 1)
    assert torch.allclose(result.images[0], expected.detach(), atol=1e-5)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_it_changes_the_answer_and_stays_in_the_box(noise: NoiseModel) -> None:
    smoothed = smooth(Patches(), noise)
    images = random_images(3)
    labels = labels_of(smoothed, images)
    result = shadow(smoothed, images, labels, **{**FAST, "steps": 40}, lambda_tv=0.05)
    assert result.success.all()
    assert result.success_8bit.all()
    assert (labels_of(smoothed, result.images) != labels).all()
    assert bool(result.images.isfinite().all())
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_one_channel_perturbs_all_channels_alike() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images = 0.45 + 0.1 * random_images(1)
    for channels in (1, 3):
        attacked = shadow(smoothed, images, torch.tensor([0]), channels=channels, **FAST).images
        unclipped = ((attacked > 0) & (attacked < 1)).all(dim=1)
        delta = (attacked - images).movedim(1, -1)[unclipped]
        assert len(delta) > 20
        alike = float((delta[:, 0] - delta[:, 2]).abs().max())
        assert alike < 1e-6 if channels == 1 else alike > 0.1


def test_smoother_perturbations_cost_less() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images = 0.45 + 0.1 * random_images(1)
    rough, smoother = (
        shadow(smoothed, images, torch.tensor([0]), lambda_tv=weight, **FAST).images - images
        for weight in (0.0, 0.3)
    )
    assert float(total_variation(smoother)) < 0.5 * float(total_variation(rough))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_largest_weight_that_is_taken_still_smooths(channels: int) -> None:
    """Just below the limit the penalties smooth the start: the check is not too strict."""

    class Flat(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images * 0).flatten(1)[:, :2]

    smoothed = smooth(Flat(), IsotropicNoise(0.25), num_classes=2)
    images = torch.full((1, *SHAPE), 0.5)
    settings = {"steps": 200, "draws": 4, "channels": channels, "lr": 0.1}
    limit = 2.0 / (0.1 * 16.0 * 3 / channels)
    kept = shadow(smoothed, images, torch.tensor([0]), lambda_tv=0.99 * limit, **settings)
    assert float(total_variation(kept.images - images)) < 0.01
    with pytest.raises(ConcertError, match="without end"):
        shadow(smoothed, images, torch.tensor([0]), lambda_tv=1.01 * limit, **settings)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_a_batch_is_its_images_and_a_seed_is_a_result(noise: NoiseModel) -> None:
    smoothed = smooth(Patches(), noise)
    images = random_images(2)
    labels = labels_of(smoothed, images)
    together = shadow(smoothed, images, labels, indices=[4, 9], **FAST)
    again = shadow(smoothed, images, labels, indices=[4, 9], **FAST)
    assert torch.equal(together.images, again.images)
    for row, index in enumerate([4, 9]):
        one = slice(row, row + 1)
        alone = shadow(smoothed, images[one], labels[one], indices=[index], **FAST)
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-3)


def test_the_attackers_own_noise_replaces_the_classifiers() -> None:
    images = random_images(1)
    own = shadow(smooth(Patches(), IsotropicNoise(0.4)), images, torch.tensor([0]), **FAST)
    queried = smooth(Patches(), NOISES[2])
    replaced = shadow(queried, images, torch.tensor([0]), sigma=0.4, **FAST)
    assert torch.equal(own.images, replaced.images)
    assert not torch.equal(own.images, shadow(queried, images, torch.tensor([0]), **FAST).images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_black_white_and_grey_images_give_no_nan(noise: NoiseModel, channels: int) -> None:
    shape = (3, 8, 8)
    smoothed = smooth(Patches(shape=shape), noise, shape=shape)
    images = torch.stack([torch.full(shape, value) for value in (0.0, 0.5, 1.0)])
    labels = labels_of(smoothed, images)
    result = shadow(smoothed, images, labels, channels=channels, **{**FAST, "steps": 4})
    assert bool(result.images.isfinite().all())
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_gradients_that_are_not_finite_do_no_harm() -> None:
    """Of a network with a square root at 0, and of a penalty that overflows."""
    images = torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 0.5)])
    labels = torch.tensor([0, 1])
    rooted = smooth(Rooted(), IsotropicNoise(0.25))
    for smoothed, settings in ((rooted, {}), (smooth(Patches(), NOISES[0]), {"lambda_c": 1e30})):
        result = shadow(smoothed, images, labels, **FAST, **settings)
        assert bool(result.images.isfinite().all())


def test_presets_are_settings_of_the_attack() -> None:

    defaults = {name: p.default for name, p in signature(shadow).parameters.items()}
    assert PRESETS["reference"] == {name: defaults[name] for name in PRESETS["reference"]}
    assert PRESETS["fast"] == {"steps": 100, "draws": 32}


def test_mistakes_are_named() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    images: Tensor = random_images(1)
    for settings, message in (
        ({"channels": 2}, "channels must be 1 or the 3"),
        ({"lambda_tv": float("nan")}, "lambda_tv must be at least 0"),
        ({"sigma": -1.0}, "sigma must be a positive number"),
        ({"sigma": 0.5, "against": "base"}, "leave sigma out"),
        ({"lambda_tv": 0.45}, "grows without end: lower lr below 0.0926"),
    ):
        with pytest.raises(ConcertError, match=message):
            shadow(smoothed, images, torch.tensor([0]), **settings)

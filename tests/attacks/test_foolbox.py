"""A smoothed classifier is a module that other libraries can attack."""

from __future__ import annotations

import pytest
import torch
from networks import Brightness, Patches, labels_of, random_images, smooth

from concert.noise import IsotropicNoise, NoiseModel, QueriedNoise
from concert.sampling.soft_votes import SoftSettings

foolbox = pytest.importorskip("foolbox")


@pytest.mark.parametrize(
    "noise",
    [IsotropicNoise(0.25), QueriedNoise(Brightness(), 0.6, 0.2, 0.4)],
    ids=lambda noise: noise.kind,
)
def test_foolbox_attacks_the_smoothed_classifier(noise: NoiseModel) -> None:
    smoothed = smooth(Patches(), noise)
    smoothed.soft = SoftSettings(draws=32, seed=0)
    images = random_images(3)
    labels = labels_of(smoothed, images)
    model = foolbox.PyTorchModel(smoothed, bounds=(0, 1))
    assert foolbox.utils.accuracy(model, images, labels) == 1.0
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(steps=10, random_start=False)
    _, (small, large), (_, success) = attack(model, images, labels, epsilons=[1e-4, 3.0])
    assert bool(success.all())
    assert (smoothed.predict(large, n=200, seed=1) != labels).all()
    assert (labels_of(smoothed, small) == labels).all()
    assert float((large - images).flatten(1).norm(dim=1).max()) <= 3.0 * (1 + 1e-4)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1


def test_its_gradients_are_those_of_our_own_attack() -> None:
    """On the same draws the two libraries walk to the same point."""
    from concert.attacks import pgd

    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    smoothed.soft = SoftSettings(draws=64, seed=0)
    images = random_images(1)
    labels = labels_of(smoothed, images)
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(
        steps=8, abs_stepsize=0.1, random_start=False
    )
    model = foolbox.PyTorchModel(smoothed, bounds=(0, 1))
    _, theirs, _ = attack(model, images, labels, epsilons=0.5)
    ours = pgd(smoothed, images, labels, epsilon=0.5, steps=8, step_size=0.1, draws=64, seed=0)
    values = [float(smoothed(each)[0, labels].detach()) for each in (theirs, ours.images, images)]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    assert values[1] < values[2] - 0.1
    assert torch.allclose(theirs, ours.images, atol=0.02)

"""Gaussian augmentation: the cross-entropy of the noisy copies, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.objectives import OBJECTIVES, GaussianObjective

SHAPE = (2, 4, 4)
NOISE = {
    "isotropic": lambda: IsotropicNoise(0.5),
    "static": lambda: StaticNoise(torch.linspace(0.1, 0.9, 32).reshape(SHAPE)),
    "generated": lambda: GeneratedNoise(CoarseGenerator(2, 0.2, 0.5)),
    "queried": lambda: QueriedNoise(CoarseGenerator(2, 0.2, 0.5), 0.6, 0.2, 0.5),
}


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(5, *SHAPE, generator=seeded(1)), torch.tensor([0, 2, 1, 1, 0])


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("kind", NOISE)
def test_loss_is_the_cross_entropy_of_the_same_copies(
    kind: str, m: int, batch: tuple[Tensor, Tensor], classifier: nn.Module
) -> None:
    images, labels = batch
    torch.manual_seed(3)
    noise: NoiseModel = NOISE[kind]()
    terms = GaussianObjective(m)(classifier, noise, images, labels, None, 0, seeded())
    noisy, sigma = noise.copies(images, m, seeded())
    logits = classifier(noisy)
    spread = torch.tensor([label for label in labels for _ in range(m)])
    expected = -logits.log_softmax(1)[torch.arange(5 * m), spread].mean()
    assert torch.allclose(terms.total, expected)
    assert torch.allclose(terms.classification, expected)
    assert not terms.classification.requires_grad
    assert float(terms.robustness) == float(terms.penalty) == 0.0
    assert torch.allclose(terms.sigma, sigma)
    votes = torch.stack([row.softmax(1).mean(0) for row in logits.split(m)])
    assert int(terms.soft_correct) == int((votes.argmax(1) == labels).sum())
    # Gradients are those of the plain loss as well.
    parameters = list(classifier.parameters())
    for got, wanted in zip(
        torch.autograd.grad(terms.total, parameters, retain_graph=True),
        torch.autograd.grad(F.cross_entropy(logits, spread), parameters),
        strict=True,
    ):
        assert torch.allclose(got, wanted, atol=1e-6)


def test_little_noise_gives_the_loss_of_the_images(
    batch: tuple[Tensor, Tensor], classifier: nn.Module
) -> None:
    images, labels = batch
    terms = GaussianObjective(3)(
        classifier, IsotropicNoise(1e-6), images, labels, None, 0, seeded()
    )
    assert terms.total.item() == pytest.approx(
        F.cross_entropy(classifier(images), labels).item(), abs=1e-4
    )


def test_soft_votes_are_counted_over_the_copies_of_an_image() -> None:
    # The single pixel is the image's number plus noise; the classifier reads the number.
    labels = torch.tensor([0, 1, 2, 0])
    images = torch.tensor([0.0, 0.4, 0.8, 0.8]).reshape(4, 1, 1, 1)

    class Reader(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = -50.0 * (x.flatten(1) - torch.tensor([[0.0, 0.4, 0.8]])) ** 2
            return out

    terms = GaussianObjective(5)(Reader(), IsotropicNoise(0.01), images, labels, None, 0, seeded())
    assert int(terms.soft_correct) == 3


def test_copies_depend_on_the_generator_only(
    batch: tuple[Tensor, Tensor], classifier: nn.Module
) -> None:
    images, labels = batch
    objective, noise = GaussianObjective(2), IsotropicNoise(0.5)
    losses = [
        objective(classifier, noise, images, labels, None, epoch, seeded(seed)).total.item()
        for epoch, seed in [(0, 1), (9, 1), (0, 2)]
    ]
    assert losses[0] == losses[1] != losses[2]


def test_settings() -> None:
    assert GaussianObjective().m == 1
    assert not GaussianObjective().needs_entropy
    assert OBJECTIVES["gaussian"] is GaussianObjective
    with pytest.raises(ConcertError, match="m must be at least 1, got 0"):
        GaussianObjective(0)

"""Soft votes: log-probabilities and gradients in pieces, and the classifier as a module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.noise import (
    BandedNoise,
    GeneratedNoise,
    GridNoise,
    IsotropicNoise,
    NoiseModel,
    QueriedNoise,
    StaticNoise,
)
from concert.sampling.sampler import SamplingSettings
from concert.sampling.soft_votes import Averaging, SoftSettings, SoftVotes
from concert.smoothing import SmoothedClassifier

SHAPE = (1, 2, 3)


class Net(nn.Module):
    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            scale * torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1)) @ self.weight.T


class Bright(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 0.2 + 0.2 * torch.sigmoid(4.0 * (images - 0.5))


NOISES = [
    IsotropicNoise(0.3),
    StaticNoise(torch.tensor([[[0.2, 0.3, 0.4], [0.3, 0.2, 0.5]]])),
    BandedNoise(0.3, smooth_sigma=0.6, block=2),
    GeneratedNoise(Bright()),
    QueriedNoise(Bright(), 0.6, 0.2, 0.4),
]


def smooth(noise: NoiseModel, batch_size: int = 64, scale: float = 3.0) -> SmoothedClassifier:
    sampling = SamplingSettings(batch_size=batch_size, workers=1)
    return SmoothedClassifier(Net(scale), noise, 3, SHAPE, sampling).eval()


def votes_of(smoothed: SmoothedClassifier) -> SoftVotes:
    return SoftVotes(smoothed.classifier, smoothed.sampler(SHAPE), seed=3)


def points(count: int = 4) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("averaging", ["log_of_mean", "mean_of_log"])
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_log_probabilities_and_their_gradients(noise: NoiseModel, averaging: Averaging) -> None:
    """Against autograd over all copies at once in float64."""
    classes = torch.tensor([0, 1, 2, 1])
    votes = votes_of(smooth(noise, batch_size=16))
    normals = votes.normals_of([5, 6, 7, 8], 0, 40)
    found = votes.log_probability(points(), classes, normals, averaging)

    leaf = points().double().requires_grad_()
    net, twin = copy.deepcopy(votes.classifier).double(), copy.deepcopy(votes.noise).double()
    log_scores = []
    for row in range(4):
        lanes = tuple(lane[row].double() for lane in normals)
        image = leaf[row : row + 1].expand(40, -1, -1, -1)
        log_scores.append(net(twin(image, lanes)[0].double()).log_softmax(dim=1))
    scores = torch.stack(log_scores)
    own = scores[torch.arange(4), :, classes]
    wanted = own.mean(dim=1) if averaging == "mean_of_log" else own.exp().mean(dim=1).log()
    (gradient,) = torch.autograd.grad(wanted.sum(), leaf)
    assert torch.allclose(found.value, wanted.detach(), atol=1e-5)
    assert torch.allclose(found.gradient.double(), gradient, atol=1e-4, rtol=1e-3)
    assert torch.allclose(found.shares, scores.detach().exp().mean(dim=1), atol=1e-6)


def test_a_class_that_no_copy_is_in_still_has_a_gradient() -> None:
    """Softmax underflows in float32, its logarithm does not."""
    votes = votes_of(smooth(IsotropicNoise(0.01), batch_size=16, scale=300.0))
    point = points(1)
    losing = votes.shares(point, votes.normals_of([0], 0, 40)).argmin(dim=1)
    found = votes.log_probability(point, losing, votes.normals_of([0], 0, 40))
    assert float(found.shares[0, losing]) < 1e-38
    assert float(found.value) < -100
    assert bool(found.gradient.isfinite().all())
    assert float(found.gradient.norm()) > 1


def test_a_class_that_all_copies_are_in_still_has_a_gradient() -> None:
    """1 minus its probability is far below the resolution of float32."""
    votes = votes_of(smooth(IsotropicNoise(0.01), batch_size=16, scale=60.0))
    point = points(1)
    normals = votes.normals_of([0], 0, 40)
    winning = votes.shares(point, normals).argmax(dim=1)
    found = votes.log_probability(point, winning, normals)
    assert -1e-8 < float(found.value) <= 0
    assert float(found.gradient.abs().max()) > 0


def test_the_module_is_the_mean_softmax_over_its_draws() -> None:
    smoothed = smooth(IsotropicNoise(0.3))
    smoothed.soft = SoftSettings(draws=4000, seed=1)
    probabilities = smoothed(points(2)).exp()
    assert probabilities.shape == (2, 3)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(2), atol=1e-5)
    generator = torch.Generator().manual_seed(9)
    for row, image in enumerate(points(2)):
        noisy = image + 0.3 * torch.randn(20_000, *SHAPE, generator=generator)
        expected = smoothed.classifier(noisy).softmax(dim=1).mean(dim=0)
        # The standard deviation of a mean of 4,000 numbers in [0, 1] is at most 0.008.
        assert torch.allclose(probabilities[row], expected, atol=0.04)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_the_module_is_differentiated_through_its_noise(noise: NoiseModel) -> None:
    smoothed, step = smooth(noise), 1e-2
    image = points(1).requires_grad_()
    value = smoothed(image)[0, 1]
    (gradient,) = torch.autograd.grad(value, image)
    for pixel in range(6):
        shift = torch.zeros(6)
        shift[pixel] = step
        ahead, behind = (
            float(smoothed(image.detach() + sign * shift.view(SHAPE))[0, 1].detach())
            for sign in (1, -1)
        )
        assert float(gradient.flatten()[pixel]) == pytest.approx(
            (ahead - behind) / (2 * step), rel=0.05, abs=0.02
        )


def test_calls_repeat_and_rows_do_not_depend_on_their_batch() -> None:
    smoothed = smooth(QueriedNoise(Bright(), 0.6, 0.2, 0.4))
    together = smoothed(points())
    assert torch.equal(together, smoothed(points()))
    for row in range(4):
        assert torch.allclose(together[row], smoothed(points()[row : row + 1])[0], atol=1e-6)
    smoothed.soft = SoftSettings(draws=64, seed=None)
    assert not torch.equal(smoothed(points()), smoothed(points()))


def test_noise_on_a_grid_has_gradients_too() -> None:
    image = (points(1) * 255).round() / 255
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(smooth(GridNoise(0.3))(image)[0, 0], image)
    assert float(gradient.norm()) > 0


def test_mistakes_are_named() -> None:
    with pytest.raises(ConcertError, match="draws must be at least 1"):
        SoftSettings(draws=0)
    training = SmoothedClassifier(Net(), IsotropicNoise(0.3), 3)
    with pytest.raises(ConcertError, match=r"call its eval\(\)"):
        training(points())

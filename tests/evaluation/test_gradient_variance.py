"""Eq. 12's gradient variance against what can be derived and simulated independently."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.evaluation.gradient_variance import classification_loss, gradient_variance
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise


def test_both_forms_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]).log_softmax(2)
    p = logits[0, :, 0].exp()
    labels = torch.tensor([0])
    mean_of_log = classification_loss(logits, labels, "mean_of_log")
    log_of_mean = classification_loss(logits, labels, "log_of_mean")
    assert float(mean_of_log) == pytest.approx(-float(p.log().mean()))
    assert float(log_of_mean) == pytest.approx(-float(p.mean().log()))
    assert float(log_of_mean) < float(mean_of_log)


class OneWeight(nn.Module):
    """Logits (w * mean of the image, 0); -log f_0 has the gradient -(1 - sigmoid) * mean."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor) -> Tensor:
        first = self.weight * images.flatten(1).mean(dim=1)
        return torch.stack([first, torch.zeros_like(first)], dim=1)


@pytest.mark.parametrize("m", [1, 4])
def test_one_weight_against_a_simulation_without_autograd(m: int) -> None:
    """Monte Carlo, 20,000 against 2,000 repetitions; a variance's standard error is about 3 %."""
    image, sigma, weight = torch.full((1, 1, 1, 1), 0.7), 0.8, 1.5
    noise = IsotropicNoise(sigma)
    found = gradient_variance(
        OneWeight(weight), noise, image, torch.tensor([0]), copies=(m,), repetitions=2000
    )
    draws = torch.Generator().manual_seed(5)
    z = 0.7 + sigma * torch.randn(20_000, m, generator=draws, dtype=torch.float64)
    s = torch.sigmoid(weight * z)
    exact = {
        "mean_of_log": (-(1 - s) * z).mean(dim=1),
        "log_of_mean": -(s * (1 - s) * z).mean(dim=1) / s.mean(dim=1),
    }
    assert {each.form for each in found} == set(exact)
    for each in found:
        assert (each.network, each.m) == ("classifier", m)
        assert each.variance == pytest.approx(float(exact[each.form].var()), rel=0.15)
        mean = float(exact[each.form].mean())
        assert each.squared_mean == pytest.approx(mean**2, rel=0.25, abs=1e-3)
    if m == 1:
        assert found[0].variance == pytest.approx(found[1].variance)


def test_the_generator_is_measured_too() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    noise = GeneratedNoise(CoarseGenerator(1, 0.2, 0.5)).eval()
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    found = gradient_variance(classifier, noise, images, labels, copies=(2,), repetitions=3)
    assert [(each.network, each.form) for each in found] == [
        ("classifier", "mean_of_log"),
        ("generator", "mean_of_log"),
        ("classifier", "log_of_mean"),
        ("generator", "log_of_mean"),
    ]
    assert all(each.variance > 0 for each in found)
    with pytest.raises(ConcertError, match="repetitions"):
        gradient_variance(classifier, noise, images, labels, repetitions=1)

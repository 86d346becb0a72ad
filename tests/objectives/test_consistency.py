"""Consistency regularization against the same numbers computed in NumPy."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.generator import CoarseGenerator
from concert.noise import IsotropicNoise, NoiseModel, QueriedNoise
from concert.objectives import OBJECTIVES, ConsistencyObjective
from concert.objectives.consistency import divergence_and_entropy

SHAPE = (2, 4, 4)
LABELS = torch.tensor([0, 2, 1, 1, 0])


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 3))


def noise_model(kind: str) -> NoiseModel:
    torch.manual_seed(4)
    if kind == "queried":
        return QueriedNoise(CoarseGenerator(2, 0.2, 0.5, pool=2), 0.6, 0.2, 0.5)
    return IsotropicNoise(0.5)


@pytest.mark.parametrize("kind", ["isotropic", "queried"])
@pytest.mark.parametrize("m", [2, 5])
def test_terms_are_those_of_the_paper(kind: str, m: int) -> None:
    classifier, noise = network(), noise_model(kind)
    images = torch.rand(5, *SHAPE, generator=seeded(1))
    objective = ConsistencyObjective(m, lambda_weight=7.0, eta=0.3)
    terms = objective(classifier, noise, images, LABELS, None, 0, seeded())
    with torch.no_grad():
        noisy, _ = noise.copies(images, m, seeded())
        logits = classifier(noisy).double().numpy().reshape(5, m, 3)
    mean = softmax(logits, axis=2).mean(axis=1)
    cross = -log_softmax(logits, axis=2)[np.arange(5)[:, None], np.arange(m), LABELS[:, None]]
    divergence = rel_entr(mean[:, None], softmax(logits, axis=2)).sum(axis=2).mean(axis=1)
    entropy = -(mean * np.log(mean)).sum(axis=1)
    assert float(terms.classification) == pytest.approx(cross.mean(), abs=1e-6)
    assert float(terms.robustness) == pytest.approx(7.0 * divergence.mean(), abs=2e-6)
    assert float(terms.penalty) == pytest.approx(0.3 * entropy.mean(), abs=1e-6)
    expected = cross.mean() + 7.0 * divergence.mean() + 0.3 * entropy.mean()
    assert terms.total.item() == pytest.approx(expected, abs=5e-6)
    assert int(terms.soft_correct) == int((mean.argmax(axis=1) == LABELS.numpy()).sum())


@pytest.mark.parametrize("kind", ["isotropic", "queried"])
@pytest.mark.parametrize("m", [2, 5])
def test_gradients_of_the_total_are_those_of_the_written_out_loss(kind: str, m: int) -> None:
    classifier, noise = network(), noise_model(kind)
    images = torch.rand(5, *SHAPE, generator=seeded(1))
    objective = ConsistencyObjective(m, lambda_weight=7.0, eta=0.3)
    total = objective(classifier, noise, images, LABELS, None, 0, seeded()).total
    gradients = torch.autograd.grad(total, [*classifier.parameters(), *noise.parameters()])

    f, g = deepcopy(classifier).double(), deepcopy(noise).double()
    normals = tuple(draw.double() for draw in noise.normals_of_copies(images, m, seeded()))
    noisy, _ = g.copies_from(images.double(), m, normals)
    odds = f(noisy).reshape(5, m, 3).exp()
    p = odds / odds.sum(dim=2, keepdim=True)
    mean = p.mean(dim=1)
    cross = -p[torch.arange(5), :, LABELS].log().mean()
    divergence = (mean[:, None] * (mean[:, None] / p).log()).sum(dim=2).mean()
    entropy = -(mean * mean.log()).sum(dim=1).mean()
    loss = cross + 7.0 * divergence + 0.3 * entropy
    assert total.item() == pytest.approx(loss.item(), abs=1e-6)
    expected = torch.autograd.grad(loss, [*f.parameters(), *g.parameters()])
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one.double(), other, rtol=0, atol=1e-6)


def test_by_hand() -> None:
    scores = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
    divergence, entropy = divergence_and_entropy(scores.log())
    halves = 0.7 * np.log(0.7 / 0.5) + 0.3 * np.log(0.3 / 0.5)
    tenths = 0.7 * np.log(0.7 / 0.9) + 0.3 * np.log(0.3 / 0.1)
    assert divergence.item() == pytest.approx((halves + tenths) / 2)
    assert entropy.item() == pytest.approx(-0.7 * np.log(0.7) - 0.3 * np.log(0.3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=6, max_size=6))
def test_any_logits_give_sound_values_and_finite_gradients(values: list[float]) -> None:
    logits = torch.tensor(values, dtype=torch.float64).reshape(1, 2, 3).requires_grad_()
    divergence, entropy = divergence_and_entropy(logits.log_softmax(2))
    assert divergence.item() >= -1e-9
    assert -1e-9 <= entropy.item() <= np.log(3) + 1e-9
    (gradient,) = torch.autograd.grad(divergence.sum() + entropy.sum(), logits)
    assert bool(gradient.isfinite().all())


def test_gradient_of_the_terms() -> None:
    logits = torch.randn(4, 3, 5, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence_and_entropy(z.log_softmax(2)), logits)


def test_copies_that_agree_have_no_divergence() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 2.0, 0.5]).expand(len(x), 3)

    images = torch.rand(5, *SHAPE, generator=seeded(1))
    objective = ConsistencyObjective(4, 10.0, 0.5)
    terms = objective(Blind(), IsotropicNoise(1.0), images, LABELS, None, 0, seeded())
    assert float(terms.robustness) == pytest.approx(0.0, abs=1e-5)
    p = softmax([1.0, 2.0, 0.5])
    assert float(terms.penalty) == pytest.approx(-0.5 * (p * np.log(p)).sum(), rel=1e-5)


def test_settings() -> None:
    objective = ConsistencyObjective()
    assert (objective.m, objective.lambda_weight, objective.eta) == (2, 10.0, 0.5)
    assert OBJECTIVES["consistency"] is ConsistencyObjective
    assert not objective.needs_entropy


@pytest.mark.parametrize("arguments", [{"m": 1}, {"lambda_weight": -1.0}, {"eta": float("nan")}])
def test_impossible_settings_are_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConcertError, match="must") as caught:
        ConsistencyObjective(**arguments)
    assert "\n" not in str(caught.value)

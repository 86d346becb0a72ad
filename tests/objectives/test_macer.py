"""MACER against the same numbers computed in NumPy, and against the Concert objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri, softmax
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.noise import GeneratedNoise, GridNoise, IsotropicNoise, StaticNoise
from concert.objectives import OBJECTIVES, ConcertObjective, MacerObjective
from concert.objectives.macer import margin_loss

SHAPE = (2, 4, 4)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0])
SIGMA = 0.4


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> Tensor:
    return torch.rand(len(LABELS), *SHAPE, generator=seeded(1), dtype=torch.float64).float()


def network(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(3)
    made = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        made[-1].weight *= scale
    return made


class Doubled(nn.Module):
    """A classifier that works, and keeps its logits, in float64."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return Exact.of(logits)


class Exact(torch.Tensor):
    """A float64 tensor that `float()` leaves as it is, so that a loss is computed in float64."""

    @staticmethod
    def of(tensor: Tensor) -> Tensor:
        made: Tensor = tensor.as_subclass(Exact)
        return made

    def float(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.as_subclass(torch.Tensor)


def evaluate(objective: Any, classifier: nn.Module, noise: Any = None, epoch: int = 0) -> Any:
    noise = IsotropicNoise(SIGMA) if noise is None else noise
    return objective(classifier, noise, images(), LABELS, None, epoch, seeded())


def derived(
    logits: NDArray[np.float64], objective: MacerObjective, sigma: float
) -> tuple[float, float, NDArray[np.float64]]:
    """Both terms, and the gradient of their sum by the logits (B, m, K), written out by hand."""
    batch, m, classes = logits.shape
    classification = robustness = 0.0
    gradient = np.zeros_like(logits)
    for i, label in enumerate(LABELS.tolist()):
        # -log mean_j softmax(z_j)[y]: by z_jc its derivative is w_j (s_jc - [c = y]), where w_j is
        # the share of copy j in the sum of softmaxes at y.
        scores = softmax(logits[i], axis=1)
        classification -= np.log(scores[:, label].mean()) / batch
        share = scores[:, label] / scores[:, label].sum()
        onehot = np.eye(classes)[label]
        gradient[i] += share[:, None] * (scores - onehot) / batch

        sharp = softmax(objective.softmax_scale * logits[i], axis=1)
        votes = sharp.mean(axis=0)
        first, second = np.argsort(-votes)[:2]
        gap = ndtri(votes[first]) - ndtri(votes[second])
        if first != label or not np.isfinite(gap) or gap > objective.gamma:
            continue
        weight = objective.lambda_weight * sigma / 2 / batch
        robustness += weight * (objective.gamma - gap)
        # dPhi^-1(p)/dp = sqrt(2 pi) exp(Phi^-1(p)^2 / 2), dp_c/dz_jd = beta/m s_jc ([c = d] - s_jd)
        for c, sign in ((first, -1.0), (second, 1.0)):
            slope = np.sqrt(2 * np.pi) * np.exp(ndtri(votes[c]) ** 2 / 2)
            inner = sharp[:, [c]] * (np.eye(classes)[c] - sharp) * objective.softmax_scale / m
            gradient[i] += weight * sign * slope * inner
    return classification, robustness, gradient


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("beta", [1.0, 16.0])
def test_terms_and_gradient_agree_with_their_derivation(scale: float, beta: float) -> None:
    objective = MacerObjective(m=5, lambda_weight=3.0, gamma=4.0, softmax_scale=beta)
    kept: list[Tensor] = []

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(scale)

        def forward(self, x: Tensor) -> Tensor:
            kept.append(self.inner(x.double()).detach().requires_grad_())
            return Exact.of(kept[-1])

    terms = evaluate(objective, Keeping())
    logits = kept[0].detach().numpy().reshape(len(LABELS), 5, 3)
    classification, robustness, gradient = derived(logits, objective, SIGMA)
    assert float(terms.classification) == pytest.approx(classification, abs=1e-6)
    assert float(terms.robustness) == pytest.approx(robustness, abs=1e-6)
    assert terms.total.item() == pytest.approx(classification + robustness, abs=1e-6)
    assert robustness > 0
    (found,) = torch.autograd.grad(terms.total, kept[0])
    assert found.numpy().reshape(gradient.shape) == pytest.approx(gradient, abs=1e-6)
    votes = logsumexp(logits - logsumexp(logits, axis=2, keepdims=True), axis=1).argmax(axis=1)
    assert int(terms.soft_correct) == int((votes == LABELS.numpy()).sum())


def test_margin_by_hand() -> None:
    votes = torch.tensor(
        [
            [0.7, 0.2, 0.1],  # right
            [0.2, 0.5, 0.3],  # wrong
            [1.0, 0.0, 0.0],  # right, infinite gap
            [0.9999999, 5e-8, 5e-8],  # right, beyond gamma
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    margins = margin_loss(votes, torch.tensor([0, 0, 0, 0]), 8.0)
    assert margins.tolist() == pytest.approx([8.0 - (ndtri(0.7) - ndtri(0.2)), 0.0, 0.0, 0.0])
    (gradient,) = torch.autograd.grad(margins.sum(), votes)
    assert bool(gradient.isfinite().all())
    assert gradient[1:].abs().sum() == 0
    slope = float(torch.exp(torch.special.ndtri(torch.tensor(0.7, dtype=torch.float64)) ** 2 / 2))
    assert gradient[0, 0].item() == pytest.approx(-slope * np.sqrt(2 * np.pi))


def test_gradient_of_the_margin() -> None:
    votes = torch.rand(6, 4, generator=seeded(), dtype=torch.float64).softmax(1)
    labels = votes.argmax(1)
    assert torch.autograd.gradcheck(lambda p: margin_loss(p, labels, 8.0), votes.requires_grad_())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-60, 60), min_size=6, max_size=6), st.integers(0, 2))
def test_any_logits_give_a_margin_between_0_and_gamma_and_finite_gradients(
    values: list[float], label: int
) -> None:
    logits = torch.tensor(values).reshape(1, 2, 3).requires_grad_()
    margins = margin_loss((16 * logits).softmax(2).mean(1), torch.tensor([label]), 8.0)
    assert 0.0 <= margins.item() <= 8.0
    (gradient,) = torch.autograd.grad(margins.sum(), logits)
    assert bool(gradient.isfinite().all())


def test_the_robustness_term_begins_at_its_epoch() -> None:
    objective = MacerObjective(m=4, start_epoch=3, softmax_scale=2.0)
    before, after = (evaluate(objective, network().float(), epoch=epoch) for epoch in (2, 3))
    assert float(before.robustness) == 0.0 < float(after.robustness)
    assert float(before.classification) == float(after.classification)
    assert before.total.item() == float(before.classification)


class Constant(nn.Module):
    """A generator whose map is one number."""

    low = high = SIGMA

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, SIGMA)


@pytest.mark.parametrize("gamma", [3.0, 4.0, 8.0])
@pytest.mark.parametrize("beta", [1.0, 2.5, 16.0])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_concert_without_penalty_on_constant_noise_is_macer(
    gamma: float, beta: float, scale: float
) -> None:
    lambda_weight = 12.0
    macer = MacerObjective(8, lambda_weight, gamma, softmax_scale=beta)
    concert = ConcertObjective(
        m=8,
        alpha=lambda_weight,
        beta=0.0,
        kappa=SIGMA * gamma / 2,
        start_epoch=0,
        classification="log_of_mean",
        hinge="correct",
        softmax_scale=beta,
    )
    classifier = Doubled(network(scale))
    ours = evaluate(concert, classifier, GeneratedNoise(Constant()))
    theirs = evaluate(macer, classifier, IsotropicNoise(SIGMA))
    for name in ("total", "classification", "robustness", "penalty"):
        mine, macers = (getattr(terms, name).item() for terms in (ours, theirs))
        assert mine == pytest.approx(macers, rel=1e-6)
    assert float(theirs.robustness) > 0
    weights = list(classifier.parameters())
    for got, wanted in zip(
        torch.autograd.grad(ours.total, weights),
        torch.autograd.grad(theirs.total, weights),
        strict=True,
    ):
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-8)
        assert float(wanted.abs().max()) > 0


def test_settings_and_noise() -> None:
    objective = MacerObjective()
    published = objective.m, objective.lambda_weight, objective.gamma, objective.softmax_scale
    assert published == (16, 12.0, 8.0, 16.0)
    assert objective.start_epoch == 0
    assert OBJECTIVES["macer"] is MacerObjective
    assert not objective.needs_entropy
    objective.check(GridNoise(0.25, 255))
    with pytest.raises(ConcertError, match=r"isotropic.*not of static.*objective.beta 0"):
        evaluate(objective, network().float(), StaticNoise(torch.full(SHAPE, 0.3)))


@pytest.mark.parametrize(
    "arguments",
    [{"m": 0}, {"lambda_weight": -1.0}, {"gamma": 0.0}, {"softmax_scale": float("nan")}],
)
def test_impossible_settings_are_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConcertError, match="must") as caught:
        MacerObjective(**arguments)
    assert "\n" not in str(caught.value)

"""The Concert objective against the same numbers computed in NumPy, and where gradients go."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, ndtr, ndtri, softmax
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise
from concert.objectives import OBJECTIVES, ConcertObjective
from concert.objectives.concert import (
    PROBABILITY_FLOOR,
    entropy_penalty,
    proxy_volume,
    soft_radius,
)

SHAPE = (2, 4, 4)
CLASSES = 3
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
START = 4
LOW, HIGH = 0.2, 0.5


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(6, *SHAPE, generator=seeded(1))
    return images, torch.rand(6, 1, *SHAPE[1:], generator=seeded(2))


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def noise_model(kind: str) -> NoiseModel:
    torch.manual_seed(4)
    generator = CoarseGenerator(2, LOW, HIGH, pool=2)
    nn.init.normal_(generator.head.weight, std=0.3)
    if kind == "isotropic":
        return IsotropicNoise(0.4)
    if kind == "generated":
        return GeneratedNoise(generator)
    return QueriedNoise(generator, 0.6, LOW, HIGH)


def evaluate(
    objective: ConcertObjective,
    classifier: nn.Module,
    noise: NoiseModel,
    epoch: int = START,
    seed: int = 7,
) -> Any:
    images, maps = batch()
    return objective(classifier, noise, images, LABELS, maps, epoch, seeded(seed))


def gradients(total: Tensor, module: nn.Module) -> list[Tensor]:
    parameters = list(module.parameters())
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


# ------------------------------------------------------------------------- pure functions


def test_soft_radius_by_hand() -> None:
    votes = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=torch.float64)
    expected = [
        0.5 * (ndtri(0.7) - ndtri(0.2)),
        0.5 * (ndtri(0.3) - ndtri(0.5)),
        0.0,
    ]
    labels = torch.tensor([0, 2, 1])
    assert soft_radius(votes, labels).tolist() == pytest.approx(expected, abs=1e-14)


@settings(max_examples=100, deadline=None)
@given(st.floats(-4.0, 4.0))
def test_soft_radius_of_two_classes_is_the_quantile(quantile: float) -> None:
    p = float(ndtr(quantile))
    votes = torch.tensor([[p, 1 - p]], dtype=torch.float64)
    assert float(soft_radius(votes, torch.tensor([0]))) == pytest.approx(quantile, abs=1e-9)
    assert float(soft_radius(votes, torch.tensor([1]))) == pytest.approx(-quantile, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_radius_of_saturated_votes_is_finite_and_flat(dtype: torch.dtype) -> None:
    votes = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    radius = soft_radius(votes, torch.tensor([0, 0]))
    largest = float(ndtri(1 - PROBABILITY_FLOOR))
    assert radius.tolist() == pytest.approx([largest, -largest], rel=5e-3)
    (gradient,) = torch.autograd.grad(radius.sum(), votes)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_proxy_volume_by_hand() -> None:
    sigma = torch.tensor([[[[0.25, 0.5], [1.0, 2.0]]], [[[0.3, 0.3], [0.3, 0.3]]]])
    rhat = torch.tensor([1.5, -2.0])
    expected = [1.5 * (0.25 * 0.5 * 1.0 * 2.0) ** 0.25, -0.6]
    assert proxy_volume(rhat, sigma).tolist() == pytest.approx(expected, rel=1e-6)
    # The product itself, 0.05 ** 150,528, is far below what a float can hold.
    many = torch.full((1, 3, 224, 224), 0.05)
    assert float(proxy_volume(torch.ones(1), many)) == pytest.approx(0.05, rel=1e-4)


def test_entropy_penalty_by_hand() -> None:
    sigma = torch.tensor([[[[3.0, 4.0]], [[0.0, 12.0]]]])
    assert entropy_penalty(sigma, torch.zeros(1, 1, 1, 2)).tolist() == pytest.approx([13.0])
    maps = torch.tensor([[[[0.5, 1.0]]]])
    assert entropy_penalty(sigma, maps).tolist() == pytest.approx([1.5])
    # Where everything is ambiguous there is nothing to pay, and no gradient that is not a number.
    sigma.requires_grad_()
    penalty = entropy_penalty(sigma, torch.ones(1, 1, 1, 2))
    assert penalty.item() == 0.0
    (gradient,) = torch.autograd.grad(penalty.sum(), sigma)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_gradients_of_the_pure_functions() -> None:
    votes = torch.rand(5, 4, generator=seeded(), dtype=torch.float64).softmax(1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda p: soft_radius(p, labels), votes)
    sigma = 0.2 + torch.rand(3, 2, 2, 2, generator=seeded(), dtype=torch.float64)
    rhat = torch.randn(3, generator=seeded(), dtype=torch.float64)
    inputs = (rhat.requires_grad_(), sigma.requires_grad_())
    assert torch.autograd.gradcheck(proxy_volume, inputs)
    maps = torch.rand(3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: entropy_penalty(s, maps), sigma)


# ------------------------------------------------------------------------- the whole loss


def expected_terms(
    objective: ConcertObjective, classifier: nn.Module, noise: NoiseModel, epoch: int
) -> tuple[float, float, float, int]:
    """Classification, robustness and penalty terms and right soft votes, image by image."""
    images, maps = batch()
    m = objective.m
    with torch.no_grad():
        noisy, sigma = noise.copies(images, m, seeded(), objective.share_query)
        logits: NDArray[np.float64] = classifier(noisy).double().numpy()
    sigma = sigma.double()
    classification, robustness, penalty, right = 0.0, 0.0, 0.0, 0
    for number, label in enumerate(LABELS.tolist()):
        own = logits[number * m : (number + 1) * m]
        average = softmax(own, axis=1).mean(axis=0)
        if objective.classification == "mean_of_log":
            classification -= log_softmax(own, axis=1)[:, label].mean() / 6
        else:
            classification -= (logsumexp(own[:, label] - logsumexp(own, axis=1)) - np.log(m)) / 6
        is_right = int(average.argmax()) == label
        right += is_right
        scores = softmax(objective.softmax_scale * own, axis=1).mean(axis=0)
        rhat = 0.5 * (ndtri(scores[label]) - ndtri(np.delete(scores, label).max()))
        unshared = len(sigma) > 6
        own_maps = sigma[number * m : (number + 1) * m] if unshared else sigma[number : number + 1]
        for one in own_maps.numpy():
            shortfall = max(0.0, objective.kappa - rhat * float(np.prod(one) ** (1 / one.size)))
            if objective.hinge == "all" or is_right:
                robustness += objective.alpha * shortfall / len(own_maps) / 6
            weighted = (1 - maps[number].double().numpy()) * one
            penalty += objective.beta * math.sqrt((weighted**2).sum()) / len(own_maps) / 6
    if epoch < objective.start_epoch:
        robustness = penalty = 0.0
    return classification, robustness, penalty, right


SETTINGS = list(
    itertools.product(["mean_of_log", "log_of_mean"], ["correct", "all"], [True, False], [1.0, 2.5])
)


@pytest.mark.parametrize("kind", ["isotropic", "generated", "queried"])
@pytest.mark.parametrize("epoch", [0, START - 1, START, START + 7])
def test_loss_in_every_setting(kind: str, epoch: int) -> None:
    classifier, noise = network(), noise_model(kind)
    totals = set()
    for classification, hinge, share, scale in SETTINGS:
        objective = ConcertObjective(
            m=3,
            alpha=1.7,
            beta=0.6,
            kappa=0.3,
            start_epoch=START,
            classification=classification,
            hinge=hinge,
            softmax_scale=scale,
            share_query=share,
        )
        terms = evaluate(objective, classifier, noise, epoch)
        l_c, l_r, l_p, right = expected_terms(objective, classifier, noise, epoch)
        assert float(terms.classification) == pytest.approx(l_c, rel=1e-5)
        assert float(terms.robustness) == pytest.approx(l_r, rel=1e-4, abs=1e-7)
        assert float(terms.penalty) == pytest.approx(l_p, rel=1e-5)
        assert terms.total.item() == pytest.approx(l_c + l_r + l_p, rel=1e-5)
        assert int(terms.soft_correct) == right
        assert 0 < right < 6
        assert terms.sigma.shape == (6 if share or kind != "queried" else 18, *SHAPE)
        for term in (terms.classification, terms.robustness, terms.penalty, terms.sigma):
            assert not term.requires_grad
        totals.add(round(terms.total.item(), 6))
    # The settings matter: all that can differ do.
    sharing = 2 if kind == "queried" else 1
    assert len(totals) == (8 if epoch >= START else 2) * sharing


def test_log_of_mean_never_exceeds_mean_of_log() -> None:
    classifier, noise = network(), noise_model("queried")

    def loss(name: Any, m: int) -> float:
        objective = ConcertObjective(m=m, start_epoch=9, classification=name)
        return float(evaluate(objective, classifier, noise).classification)

    assert loss("log_of_mean", 8) < loss("mean_of_log", 8)  # Jensen
    assert loss("log_of_mean", 1) == pytest.approx(loss("mean_of_log", 1), rel=1e-6)


def test_copies_of_an_image_stand_together() -> None:
    # Without noise to speak of, every image's soft vote is its own class: rows that were mixed up
    # would blend the votes of different images.
    class Reader(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = -60.0 * (x.flatten(1) - torch.tensor([[0.0, 0.5, 1.0]])) ** 2
            return out

    images = (LABELS.float() / 2).reshape(6, 1, 1, 1)
    objective = ConcertObjective(m=4, start_epoch=0, beta=0.0, kappa=0.5, alpha=1.0)
    terms = objective(Reader(), IsotropicNoise(1e-3), images, LABELS, None, 0, seeded())
    assert int(terms.soft_correct) == 6
    assert float(terms.classification) < 1e-3
    # rhat of such votes is its cap of 4.75, and v is 1e-3 of it.
    assert float(terms.robustness) == pytest.approx(0.5 - 4.7534e-3, abs=2e-4)


# --------------------------------------------------------------------- where gradients go


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["generated", "queried"])
@pytest.mark.parametrize("early", ["frozen", "trained"])
def test_the_generator_before_and_after_the_start(kind: str, share: bool, early: str) -> None:
    classifier, noise = network(), noise_model(kind)
    objective = ConcertObjective(m=3, start_epoch=START, early_generator=early, share_query=share)
    for epoch, trained in [(START - 1, early == "trained"), (START, True)]:
        total = evaluate(objective, classifier, noise, epoch).total
        largest = max(float(g.abs().max()) for g in gradients(total, noise))
        assert (largest > 0) == trained
        assert all(float(g.abs().max()) > 0 for g in gradients(total, classifier))
    # Freezing changes gradients only.
    other = ConcertObjective(m=3, start_epoch=START, early_generator="frozen", share_query=share)
    assert torch.equal(
        evaluate(objective, classifier, noise, 0).total, evaluate(other, classifier, noise, 0).total
    )


def test_the_penalty_reaches_the_generator_only() -> None:
    classifier, noise = network(), noise_model("queried")
    with_penalty, without = (
        evaluate(ConcertObjective(m=3, start_epoch=0, beta=beta), classifier, noise).total
        for beta in (2.0, 0.0)
    )
    for a, b in zip(
        gradients(with_penalty, classifier), gradients(without, classifier), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
    difference = [
        float((a - b).abs().max())
        for a, b in zip(gradients(with_penalty, noise), gradients(without, noise), strict=True)
    ]
    assert max(difference) > 1e-4


def test_the_hinge_is_flat_beyond_kappa() -> None:
    classifier, noise = network(), noise_model("queried")
    terms = evaluate(ConcertObjective(start_epoch=0, kappa=0.0, hinge="correct"), classifier, noise)
    assert float(terms.robustness) == 0.0
    # "all" also pushes the images that are wrong: their volume is negative.
    terms = evaluate(ConcertObjective(start_epoch=0, kappa=0.0, hinge="all"), classifier, noise)
    assert float(terms.robustness) > 0.0


@pytest.mark.parametrize("kind", ["generated", "queried"])
def test_gradient_of_the_whole_loss_by_differences(kind: str) -> None:
    classifier, noise = network(), noise_model(kind)
    objective = ConcertObjective(m=2, alpha=1.0, kappa=1.0, start_epoch=0, hinge="all")
    heads = [classifier[-1].weight, noise.generator.head.weight]  # type: ignore[index,union-attr]
    for parameter, position in itertools.product(heads, (0, 5, 11)):
        (gradient,) = torch.autograd.grad(evaluate(objective, classifier, noise).total, parameter)
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                parameter.view(-1)[position] += step
                values.append(evaluate(objective, classifier, noise).total.item())
                parameter.view(-1)[position] -= step
        # The loss is float32, hence the long step and the tolerance.
        assert float(gradient.view(-1)[position]) == pytest.approx(
            (values[0] - values[1]) / 2e-2, rel=0.02, abs=2e-4
        )


@pytest.mark.parametrize("classification", ["mean_of_log", "log_of_mean"])
@pytest.mark.parametrize("hinge", ["correct", "all"])
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_saturated_softmax_gives_finite_loss_and_gradients(
    classification: str, hinge: str, scale: float
) -> None:
    classifier, noise = network(), noise_model("queried")
    head = classifier[-1]  # type: ignore[index]
    with torch.no_grad():
        head.weight *= scale
    objective = ConcertObjective(
        m=2, start_epoch=0, classification=classification, hinge=hinge, softmax_scale=10.0
    )
    terms = evaluate(objective, classifier, noise)
    assert bool(terms.total.isfinite())
    found = [*gradients(terms.total, classifier), *gradients(terms.total, noise)]
    assert all(bool(gradient.isfinite().all()) for gradient in found)
    assert max(float(gradient.abs().max()) for gradient in found) > 0


def test_the_loss_depends_on_the_generator_of_noise_only() -> None:
    classifier, noise = network(), noise_model("queried")
    objective = ConcertObjective(m=2, start_epoch=0)
    state = torch.random.get_rng_state()
    first, second, other = (
        evaluate(objective, classifier, noise, seed=seed).total.item() for seed in (1, 1, 2)
    )
    assert first == second != other
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------------------------- settings


def test_published_settings_are_the_defaults() -> None:
    objective = ConcertObjective()
    published = (objective.alpha, objective.beta, objective.kappa, objective.start_epoch)
    assert published == (6.0, 1.0, 8.0, 200)
    assert OBJECTIVES["concert"] is ConcertObjective


def test_entropy_maps_are_needed_only_with_a_penalty() -> None:
    assert ConcertObjective(beta=0.5).needs_entropy
    assert not ConcertObjective(beta=0.0).needs_entropy
    images, _ = batch()
    objective = ConcertObjective(m=2, beta=0.0, start_epoch=0)
    terms = objective(network(), IsotropicNoise(0.4), images, LABELS, None, 3, seeded())
    assert float(terms.penalty) == 0.0
    assert float(terms.robustness) > 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"m": 0},
        {"alpha": -1.0},
        {"beta": -0.1},
        {"kappa": -8.0},
        {"softmax_scale": 0.0},
        {"softmax_scale": -1.0},
    ],
)
def test_impossible_settings_are_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConcertError, match="must") as caught:
        ConcertObjective(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"classification": "mean of log"},
        {"hinge": "none"},
        {"early_generator": "Trained"},
        {"alpha": math.nan},
    ],
)
def test_unknown_choices_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConcertError):
        ConcertObjective(**arguments)


# ------------------------------------------------------------------------------- stability


def test_stability_adds_the_largest_change_of_the_log_map_between_two_queries() -> None:
    classifier, noise = network(), noise_model("queried")
    plain = evaluate(ConcertObjective(m=2, start_epoch=START), classifier, noise)
    weighted = evaluate(ConcertObjective(m=2, start_epoch=START, stability=3.0), classifier, noise)
    images, _ = batch()
    draws = seeded()
    noise.copies(images, 2, draws)
    assert isinstance(noise, QueriedNoise)
    queries = [images + 0.6 * torch.randn(images.shape, generator=draws) for _ in range(2)]
    logs = [noise.generator(query).detach().double().log().numpy() for query in queries]
    expected = np.abs(logs[0] - logs[1]).reshape(6, -1).max(axis=1).mean()
    assert expected > 0.01
    added = float((weighted.total - plain.total).detach())
    assert added == pytest.approx(3.0 * expected, rel=1e-4)
    assert float(weighted.penalty - plain.penalty) == pytest.approx(added, rel=1e-4)


def test_stability_trains_the_generator_and_only_after_the_start() -> None:
    classifier, noise = network(), noise_model("queried")
    objective = ConcertObjective(m=2, alpha=0.0, beta=0.0, start_epoch=START, stability=1.0)
    late = evaluate(objective, classifier, noise)
    assert any(bool((g != 0).any()) for g in gradients(late.total, noise))
    early = evaluate(objective, classifier, noise, epoch=START - 1)
    assert float(early.penalty) == 0.0


def test_stability_needs_a_query() -> None:
    objective = ConcertObjective(m=2, start_epoch=START, stability=1.0)
    with pytest.raises(ConcertError, match="queried noise"):
        evaluate(objective, network(), noise_model("generated"))

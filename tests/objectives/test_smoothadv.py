"""SmoothAdv: its attacks in NumPy step by step, their limits, and the loss on what they find."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from concert.errors import ConcertError
from concert.generator import CoarseGenerator, CodebookGenerator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.objectives import OBJECTIVES, GaussianObjective, SmoothAdvObjective
from concert.objectives.soft_attacks import (
    ascent,
    attack_loss,
    cosine_decay,
    ddn,
    lengths,
    pgd,
    shorten,
)

SHAPE = (1, 4, 4)
M, SIGMA = 3, 0.3
LABELS = torch.tensor([0, 2, 1, 1, 0])
NOISE: dict[str, Any] = {
    "isotropic": lambda: IsotropicNoise(SIGMA),
    "static": lambda: StaticNoise(torch.linspace(0.1, 0.5, 16).reshape(SHAPE)),
    "generated": lambda: GeneratedNoise(CoarseGenerator(1, 0.2, 0.5, pool=2)),
    "queried": lambda: QueriedNoise(CoarseGenerator(1, 0.2, 0.5, pool=2), 0.6, 0.2, 0.5),
}


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    levels = torch.randint(256, (len(LABELS), *SHAPE), generator=seeded(1))
    return (levels.double() / 255).to(dtype)


def weights() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    draws = np.random.default_rng(0)
    return draws.normal(size=(16, 3)), draws.normal(size=3)


def normals() -> Tensor:
    return torch.randn(len(LABELS), M, 16, generator=seeded(5), dtype=torch.float64)


def victim(x: Tensor) -> Tensor:
    """The logits of a linear classifier on M noisy copies, in float64."""
    matrix, bias = (torch.from_numpy(array) for array in weights())
    noisy = x.double().flatten(1)[:, None] + SIGMA * normals()
    return noisy @ matrix + bias


def soft_loss(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """J of Eq. S and its gradient by the image (B, 16), written out by hand; and the logits."""
    matrix, bias = weights()
    logits = (x[:, None] + SIGMA * normals().numpy()) @ matrix + bias
    scores = softmax(logits, axis=2)
    labels = LABELS.numpy()
    own = scores[np.arange(len(labels)), :, labels]
    # -log mean_j s_jy by x: sum_j w_j sum_c (s_jc - [c = y]) W_c with w_j = s_jy / sum_j s_jy
    shares = own / own.sum(axis=1, keepdims=True)
    by_logits = shares[:, :, None] * (scores - np.eye(3)[labels][:, None])
    return -np.log(own.mean(axis=1)), by_logits.sum(axis=1) @ matrix.T, logits


def norms(delta: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((delta**2).sum(axis=1, keepdims=True))


def test_the_attack_loss_and_its_gradient_agree_with_their_derivation() -> None:
    x = images()
    loss, gradient, logits = soft_loss(x.flatten(1).numpy())
    assert attack_loss(victim(x), LABELS).numpy() == pytest.approx(loss, abs=1e-6)
    direction, seen = ascent(victim, x, LABELS, seeded())
    assert seen.numpy() == pytest.approx(logits, abs=1e-12)
    assert direction.flatten(1).numpy() == pytest.approx(gradient / norms(gradient), abs=1e-6)
    assert torch.autograd.gradcheck(lambda z: attack_loss(z, LABELS), victim(x).requires_grad_())


@pytest.mark.parametrize(("epsilon", "steps"), [(0.5, 1), (0.5, 4), (3.0, 6)])
def test_pgd_takes_the_published_steps(epsilon: float, steps: int) -> None:
    x = images().flatten(1).numpy()
    delta = np.zeros_like(x)
    for _ in range(steps):
        _, gradient, _ = soft_loss(x + delta)
        delta = delta + 2 * epsilon / steps * gradient / norms(gradient)
        delta = np.clip(x + delta, 0, 1) - x
        delta = delta * np.minimum(1, epsilon / np.maximum(norms(delta), 1e-12))
    found = pgd(victim, images(), LABELS, epsilon, steps, seeded())
    assert found.flatten(1).numpy() == pytest.approx(x + delta, abs=1e-6)
    before, after = (attack_loss(victim(image), LABELS) for image in (images(), found))
    assert bool((after > before).all())


# 0.505 + 0.495 cos(180 degrees i / steps), i from 0.
RATES = {
    1: [1.0],
    2: [1.0, 0.505],
    3: [1.0, 0.7525, 0.2575],
    6: [1.0, 0.9336825749, 0.7525, 0.505, 0.2575, 0.0763174251],
}


@pytest.mark.parametrize("steps", RATES)
def test_ddns_first_step_has_length_1(steps: int) -> None:
    assert cosine_decay(steps) == pytest.approx(RATES[steps], abs=1e-9)


@pytest.mark.parametrize(("epsilon", "steps"), [(0.8, 1), (0.8, 3), (0.8, 6), (3.0, 6)])
def test_ddn_takes_the_published_steps(epsilon: float, steps: int) -> None:
    x = images().flatten(1).numpy()
    delta, best = np.zeros_like(x), np.zeros_like(x)
    largest = norms(np.maximum(x, 1 - x))
    norm, smallest = np.full_like(largest, epsilon), largest.copy()
    expected, seen = [], []
    for rate in RATES[steps]:
        expected.append(x + delta)
        _, gradient, logits = soft_loss(x + delta)
        votes = np.stack([np.bincount(row, minlength=3) for row in logits.argmax(axis=2)])
        misled = (votes.argmax(axis=1) != LABELS.numpy())[:, None]
        better = misled & (norms(delta) < smallest)
        smallest = np.where(better, norms(delta), smallest)
        best = np.where(better, delta, best)
        delta = delta + rate * gradient / norms(gradient)
        norm = np.minimum(norm * np.where(misled, 0.95, 1.05), largest)
        delta = delta * norm / norms(delta)
        delta = np.clip(np.round((x + delta) * 255) / 255, 0, 1) - x
    best = best * np.minimum(1, epsilon / np.maximum(norms(best), 1e-12))
    expected.append(x + np.round(best * 255) / 255)

    def watched(image: Tensor) -> Tensor:
        seen.append(image.detach().flatten(1).numpy())
        return victim(image)

    found = ddn(watched, images(), LABELS, epsilon, steps, seeded())
    seen.append(found.flatten(1).numpy())
    assert np.stack(seen) == pytest.approx(np.stack(expected), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 4.0), st.integers(1, 8), st.sampled_from(["pgd", "ddn"]))
def test_what_is_found_is_an_image_in_the_ball(epsilon: float, steps: int, attack: str) -> None:
    x = images(torch.float32)
    search = pgd if attack == "pgd" else ddn
    found = search(victim, x, LABELS, epsilon, steps, seeded())
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    # DDN rounds to grey levels last: at most half a level for each of 16 pixels.
    slack = 4 * 0.5 / 255 if attack == "ddn" else 0.0
    assert float(lengths(found - x).max()) <= epsilon + slack + 1e-5
    if attack == "ddn":
        assert torch.allclose((found * 255).round() / 255, found, atol=1e-6)


def test_ddn_returns_an_image_as_it_is_where_nothing_misleads() -> None:
    def sure(x: Tensor) -> Tensor:
        logits = 50.0 * F.one_hot(LABELS, 3).double()[:, None].expand(-1, M, -1)
        return logits + 1e-3 * x.double().flatten(1).sum(1)[:, None, None] * torch.arange(3)

    assert torch.equal(ddn(sure, images(), LABELS, 1.0, 5, seeded()), images())


def test_without_a_gradient_the_step_is_noise_from_the_given_generator() -> None:
    def flat(x: Tensor) -> Tensor:
        return 0.0 * x.double().flatten(1)[:, None, :3].expand(-1, M, -1)

    direction, _ = ascent(flat, images(), LABELS, seeded(2))
    again, _ = ascent(flat, images(), LABELS, seeded(2))
    other, _ = ascent(flat, images(), LABELS, seeded(3))
    assert torch.equal(direction, again)
    assert not torch.equal(direction, other)
    assert float(lengths(direction).min()) > 0
    found = pgd(flat, images(), LABELS, 0.5, 3, seeded())
    assert float(lengths(found - images()).max()) <= 0.5 + 1e-6


def test_shorten_touches_only_what_is_too_long() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    assert torch.allclose(shorten(delta, 1.0), expected)


# ------------------------------------------------------------------------- the whole loss


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)
    )


def noise_model(kind: str) -> NoiseModel:
    torch.manual_seed(4)
    made: NoiseModel = NOISE[kind]()
    return made


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
@pytest.mark.parametrize("train_copies", ["all", "first"])
@pytest.mark.parametrize("kind", NOISE)
def test_loss_on_attacked_images_with_the_attacks_noise(
    kind: str, train_copies: Any, attack: Any
) -> None:
    classifier, noise, x = network(), noise_model(kind), images(torch.float32)
    objective = SmoothAdvObjective(
        M, epsilon=1.0, steps=3, attack=attack, warmup_epochs=4, train_copies=train_copies
    )
    statistics = classifier[1].running_mean.clone()  # type: ignore[index,union-attr,operator]
    terms = objective(classifier, noise, x, LABELS, None, 1, seeded())
    assert classifier.training
    assert all(weight.requires_grad for weight in classifier.parameters())

    # Afresh: the same noise, the attack in evaluation mode at half of epsilon, the loss in training
    # mode on the same noise, written out in float64.
    twin, draws = network(), seeded()
    z = noise.normals_of_copies(x, M, draws)

    def attacked(image: Tensor) -> Tensor:
        noisy, _ = noise.copies_from(image, M, z)
        logits: Tensor = twin.eval()(noisy).unflatten(0, (len(image), M))
        return logits

    noise.eval()
    search: Any = pgd if attack == "pgd" else ddn
    found = search(attacked, x, LABELS, 0.5, 3, draws)
    assert torch.equal(twin[1].running_mean, statistics)  # type: ignore[index,union-attr]
    noise.train()
    _, sigma = noise.copies_from(found, M, z)
    f, g = twin.train().double(), deepcopy(noise).double()
    noisy, _ = g.copies_from(found.double(), M, tuple(normal.double() for normal in z))
    if train_copies == "first":
        noisy = noisy[::M]
    scores = f(noisy).unflatten(0, (len(LABELS), -1))
    own = scores[torch.arange(len(LABELS)), :, LABELS]
    loss = (scores.exp().sum(dim=2).log() - own).mean()
    assert terms.total.item() == pytest.approx(loss.item(), abs=1e-6)
    gradients = torch.autograd.grad(terms.total, [*classifier.parameters(), *noise.parameters()])
    expected = torch.autograd.grad(loss, [*f.parameters(), *g.parameters()])
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one.double(), other, rtol=0, atol=1e-6)
    assert float(terms.classification) == terms.total.item()
    assert float(terms.robustness) == float(terms.penalty) == 0.0
    assert terms.sigma.shape == (len(LABELS), *SHAPE)
    assert torch.allclose(terms.sigma, sigma.detach(), atol=1e-6)
    votes = scores.softmax(dim=2).mean(dim=1).argmax(dim=1)
    assert int(terms.soft_correct) == int((votes == LABELS).sum())


def test_the_attack_sees_a_codebook_choose_as_when_deployed() -> None:
    """A certificate leaves out draws whose choice is close; an attack has all, and gradients."""
    torch.manual_seed(4)
    generator = CodebookGenerator(1, 0.2, 0.5, codes=2, pool=2)
    generator.choice_margin = 1e9
    noise, x = QueriedNoise(generator, 0.6, 0.2, 0.5), images(torch.float32)
    classifier, seen = network(), []

    def watch(module: nn.Module, taken: tuple[Tensor], given: Tensor) -> None:
        if not module.training:
            seen.append(given)

    generator.register_forward_hook(watch)
    objective = SmoothAdvObjective(M, epsilon=1.0, steps=3, warmup_epochs=0)
    terms = objective(classifier, noise, x, LABELS, None, 0, seeded())
    assert bool(terms.total.isfinite())
    assert len(seen) == 3
    assert all(bool(given.isfinite().all()) and given.requires_grad for given in seen)
    assert (generator.choice_margin, generator.differentiable) == (1e9, False)


def test_attacked_images_cost_more_than_images() -> None:
    classifier, noise, x = network(), noise_model("isotropic"), images(torch.float32)
    attacked = SmoothAdvObjective(M, epsilon=1.0, warmup_epochs=0)
    plain = GaussianObjective(M)(classifier, noise, x, LABELS, None, 0, seeded())
    assert attacked(classifier, noise, x, LABELS, None, 0, seeded()).total > plain.total


def test_the_radius_grows_over_the_first_epochs() -> None:
    objective = SmoothAdvObjective(epsilon=2.0, warmup_epochs=4)
    assert [objective.radius(epoch) for epoch in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert SmoothAdvObjective(epsilon=2.0, warmup_epochs=0).radius(0) == 2.0


def test_settings() -> None:
    objective = SmoothAdvObjective()
    assert (objective.m, objective.epsilon, objective.steps) == (8, 255 / 256, 10)
    assert (objective.attack, objective.warmup_epochs) == ("pgd", 10)
    assert (objective.train_copies, objective.ddn_gamma, objective.ddn_levels) == ("all", 0.05, 256)
    assert OBJECTIVES["smoothadv"] is SmoothAdvObjective


@pytest.mark.parametrize(
    "arguments",
    [
        {"m": 0},
        {"steps": 0},
        {"epsilon": 0.0},
        {"epsilon": float("inf")},
        {"warmup_epochs": -1},
        {"ddn_gamma": 1.0},
        {"ddn_levels": 1},
        {"attack": "fgsm"},
        {"train_copies": "second"},
    ],
)
def test_impossible_settings_are_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConcertError) as caught:
        SmoothAdvObjective(**arguments)
    assert "\n" not in str(caught.value)

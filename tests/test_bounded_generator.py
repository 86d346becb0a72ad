"""The bounded generator: its Lipschitz constant, attacked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.generator import BoundedGenerator, CoarseGenerator
from concert.generator.bounded import convolution_norm, gate_slope, interpolation
from concert.noise import GeneratedNoise
from concert.smoothing import SmoothedClassifier
from concert.split_kl import lipschitz_radius

LOW, HIGH = 0.25, 0.475


def trained_looking(lipschitz: float, seed: int, scale: float) -> BoundedGenerator:
    torch.manual_seed(seed)
    generator = BoundedGenerator(1, LOW, HIGH, lipschitz).double().eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return generator


@given(st.floats(1e-3, 10.0), st.floats(1.01, 100.0))
@settings(max_examples=100, deadline=None)
def test_gate_slope_is_the_largest_of_a_fine_grid(low: float, ratio: float) -> None:
    high = low * ratio
    u = np.linspace(-20, 20, 200_001)
    slopes = np.gradient(np.log(low + (high - low) / (1 + np.exp(-u))), u)
    assert slopes.max() <= gate_slope(low, high) + 1e-9
    assert slopes.max() >= gate_slope(low, high) * (1 - 1e-6)


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (1, 3)])
def test_convolution_norm_bounds_the_dense_matrix(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    identity = torch.eye(3 * math.prod(size), dtype=torch.float64).reshape(-1, 3, *size)
    matrix = F.conv2d(identity, weight, padding=1).flatten(1).T
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    bound = float(convolution_norm(weight, size))
    assert exact <= bound
    if min(size) >= 5:
        assert bound <= 1.25 * exact


def test_interpolation_is_the_bilinear_one() -> None:
    maps = torch.rand(1, 1, 5, 7, dtype=torch.float64)
    expected = F.interpolate(maps, scale_factor=4.0, mode="bilinear")
    torch.testing.assert_close(interpolation(5, 4) @ maps @ interpolation(7, 4).T, expected)


@pytest.mark.parametrize("side", [28, 30])
@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_no_direction_changes_the_log_map_faster_than_allowed(side: int, scale: float) -> None:
    """Power iteration on the Jacobian from random images finds its largest singular value."""
    generator, worst = trained_looking(0.2, 1, scale), 0.0
    for seed in range(5):
        x = torch.rand(1, 1, side, side, dtype=torch.float64) * (1 + seed)
        direction = torch.randn_like(x)
        for _ in range(15):
            direction = direction / direction.norm()
            _, pushed = torch.autograd.functional.jvp(lambda z: generator(z).log(), x, direction)
            slope = float(pushed.norm())
            _, direction = torch.autograd.functional.vjp(lambda z: generator(z).log(), x, pushed)
            if float(direction.norm()) == 0:
                break
        worst = max(worst, slope)
    assert worst <= 0.2


def test_far_images_are_no_further_in_log_map_than_allowed() -> None:
    for seed in range(20):
        generator = trained_looking(0.5, seed, 1.0)
        x, other = torch.randn(2, 1, 1, 28, 28, dtype=torch.float64)
        change = (generator(x).log() - generator(other).log()).norm()
        assert change <= 0.5 * (x - other).norm()


def test_the_constant_is_used_and_not_only_kept() -> None:
    """A larger constant lets the map vary more: the bound is not so loose that nothing is left."""
    changes = []
    for lipschitz in (0.1, 1.0):
        generator = trained_looking(lipschitz, 0, 1.0)
        x = torch.rand(8, 1, 28, 28, dtype=torch.float64)
        changes.append(float(generator(x).log().std(dim=0).mean().detach()))
    assert changes[1] > 5 * changes[0] > 0


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConcertError, match="lipschitz"):
        BoundedGenerator(1, LOW, HIGH, lipschitz=0.0)


class Half(nn.Module):
    """Class 0 where the mean pixel exceeds one half; sure of it."""

    def forward(self, images: Tensor) -> Tensor:
        score = 50.0 * (images.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([score, -score], dim=1)


def test_the_certificate_is_the_split_kl_radius_and_deployed() -> None:
    generator = trained_looking(0.3, 2, 1.0).float()
    smoothed = SmoothedClassifier(Half(), GeneratedNoise(generator), 2, (1, 28, 28))
    image = 0.512 + 0.02 * torch.rand(1, 1, 28, 28)
    (result,) = smoothed.certify(image, n=2000, certificate="lipschitz")
    (frozen,) = smoothed.certify(image, n=2000, certificate="frozen")
    smallest = float(generator(image).min().detach())
    assert result.certificate == "lipschitz"
    assert result.guarantee is Guarantee.DEPLOYED
    expected = lipschitz_radius(result.p_lower, smallest, 0.3)
    assert result.radius == pytest.approx(expected, rel=1e-9)
    assert 0.7 * frozen.radius < result.radius < 0.999 * frozen.radius


def test_the_certificate_is_not_offered_without_a_known_slope() -> None:
    coarse = GeneratedNoise(CoarseGenerator(1, LOW, HIGH))
    smoothed = SmoothedClassifier(Half(), coarse, 2, (1, 28, 28))
    with pytest.raises(ConcertError, match="lipschitz"):
        smoothed.certify(torch.rand(1, 1, 28, 28), n=2000, certificate="lipschitz")

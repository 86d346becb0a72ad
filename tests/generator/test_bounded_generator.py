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
from concert.certificates.split_kl import lipschitz_radius
from concert.errors import ConcertError
from concert.generator import BoundedGenerator, CoarseGenerator
from concert.generator.bounded import convolution_norm, gate_slope
from concert.generator.box import interpolation
from concert.noise import GeneratedNoise
from concert.smoothing import SmoothedClassifier

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


def test_a_matrix_kept_from_inference_mode_can_be_trained_through() -> None:
    images = torch.rand(1, 1, 44, 44)
    generator = BoundedGenerator(1, LOW, HIGH)
    with torch.inference_mode():
        generator(images)
    generator(images).sum().backward()


def test_interpolation_is_the_bilinear_one() -> None:
    maps = torch.rand(1, 1, 5, 7, dtype=torch.float64)
    expected = F.interpolate(maps, scale_factor=4.0, mode="bilinear")
    torch.testing.assert_close(interpolation(5, 4) @ maps @ interpolation(7, 4).T, expected)


def largest_slope(generator: BoundedGenerator, x: Tensor, steps: int) -> float:
    """The largest singular value of the log-map's Jacobian at x, by power iteration."""
    direction, slope = torch.randn_like(x), 0.0
    for _ in range(steps):
        direction = direction / direction.norm()
        _, pushed = torch.autograd.functional.jvp(lambda z: generator(z).log(), x, direction)
        slope = float(pushed.norm())
        _, direction = torch.autograd.functional.vjp(lambda z: generator(z).log(), x, pushed)
        if float(direction.norm()) == 0:
            break
    return slope


@pytest.mark.parametrize("side", [28, 30])
@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_no_direction_changes_the_log_map_faster_than_allowed(side: int, scale: float) -> None:
    generator = trained_looking(0.2, 1, scale)
    points = [torch.rand(1, 1, side, side, dtype=torch.float64) * (1 + k) for k in range(5)]
    assert max(largest_slope(generator, x, 15) for x in points) <= 0.2


@pytest.mark.parametrize(
    ("channels", "side", "pool", "reached"),
    [(1, 28, 4, 0.95), (3, 32, 4, 0.95), (3, 12, 1, 0.95), (1, 30, 4, 0.4), (2, 33, 16, 0.05)],
)
def test_the_worst_weights_reach_the_constant_and_do_not_pass_it(
    channels: int, side: int, pool: int, reached: float
) -> None:
    """Convolutions that copy their input, three times too large, at the gate's steepest point.

    Where the last cell of a side has fewer pixels, the bound is that of the smallest cell.
    """
    generator = BoundedGenerator(channels, LOW, HIGH, 0.2, pool=pool).double().eval()
    with torch.no_grad():
        for convolution in (generator.first, generator.second, generator.head):
            convolution.weight.zero_()
            for channel in range(channels):
                convolution.weight[channel, channel, 1, 1] = 3.0
        x = torch.full((1, channels, side, side), 0.5, dtype=torch.float64)
        steepest = math.sqrt(LOW) / (math.sqrt(LOW) + math.sqrt(HIGH))
        # A convolution of norm 3 is divided by it, so that the middle of the image stays at 1/2.
        generator.bias += math.log(steepest / (1 - steepest)) - 0.5 * generator.factor(side, side)
    slope = largest_slope(generator, x, 60)
    assert reached * 0.2 < slope <= 0.2


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
    # What holds as deployed is the default, and the paper's own must be asked for.
    assert smoothed.certify(image, n=2000) == [result]
    assert smoothed.noise.guarantee_of("auto") is Guarantee.DEPLOYED
    assert frozen.guarantee is Guarantee.FROZEN
    exact = lipschitz_radius(result.p_lower, smallest, 0.3)
    # The rounding of float32 maps is accounted for.
    assert 0.999 * exact < result.radius < exact
    assert 0.7 * frozen.radius < result.radius < 0.999 * frozen.radius


def test_the_certificate_is_not_offered_without_a_known_slope() -> None:
    coarse = GeneratedNoise(CoarseGenerator(1, LOW, HIGH))
    smoothed = SmoothedClassifier(Half(), coarse, 2, (1, 28, 28))
    with pytest.raises(ConcertError, match="lipschitz"):
        smoothed.certify(torch.rand(1, 1, 28, 28), n=2000, certificate="lipschitz")


class Total(nn.Module):
    """A map of one value for the whole image, whose logarithm has slope 0.2 in one direction."""

    lipschitz, low, high = 0.2, 0.25, 0.475

    def __init__(self, one_level: bool) -> None:
        super().__init__()
        self.full = one_level

    def forward(self, images: Tensor) -> Tensor:
        scale = 0.2 / math.sqrt(images[0].numel())
        log = (scale * images.flatten(1).sum(dim=1)).clamp(0.0, math.log(1.9))
        level = (0.25 * log.exp()).reshape(-1, 1, 1, 1)
        return level.expand_as(images) if self.full else level


class OneLevel(Total):
    one_level = True


def test_a_slope_of_one_value_is_not_taken_for_that_of_a_whole_map() -> None:
    images = torch.rand(1, 1, 8, 8)
    single = SmoothedClassifier(Half(), GeneratedNoise(OneLevel(True)), 2, (1, 8, 8))
    assert "lipschitz" not in single.noise.certificates
    broadcast = SmoothedClassifier(Half(), GeneratedNoise(Total(False)), 2, (1, 8, 8))
    with pytest.raises(ConcertError, match="every pixel"):
        broadcast.certify(images, n=2000, certificate="lipschitz")

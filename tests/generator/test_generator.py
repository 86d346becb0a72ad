"""Generators: the paper's architecture, the box of sigma under any input, and the gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from concert.classifiers import build_classifier
from concert.errors import ConcertError
from concert.generator import (
    GENERATORS,
    CoarseGenerator,
    CodebookGenerator,
    PaperGenerator,
    build_generator,
    gate,
    multiply_adds,
)

LOW, HIGH = 0.12, 0.5
SIZES = [(28, 28), (32, 32), (33, 45), (20, 20), (1, 1), (3, 50), (224, 224)]


def random_weights(name: str, channels: int, seed: int, scale: float = 1.0) -> nn.Module:
    """A generator in eval mode whose head is not small, so that its map varies."""
    generator = build_generator(name, channels, LOW, HIGH).eval()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            spread = scale / math.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(spread * torch.randn(parameter.shape, generator=noise))
    if isinstance(generator, CodebookGenerator):
        # Near a tie it gives NaN on purpose, which is no map.
        generator.choice_margin = 0.0
    return generator


def assert_in_box(sigma: Tensor, low: float = LOW, high: float = HIGH) -> None:
    """In float64, where float32 numbers and the bounds are exact."""
    assert bool((sigma.double() >= low).all())
    assert bool((sigma.double() <= high).all())


def test_gate_is_equation_14() -> None:
    z = torch.linspace(-30, 30, 601, dtype=torch.float64)
    a, omega_b = LOW, HIGH
    printed = (a * torch.exp(-z) + omega_b) / (1 + torch.exp(-z))
    torch.testing.assert_close(gate(z, a, omega_b), printed, rtol=1e-14, atol=0)


@given(
    logits=st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20),
    low=st.floats(1e-6, 10.0),
    ratio=st.floats(1.0, 100.0),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=300, deadline=None)
def test_gate_stays_in_the_box_for_any_logits(
    logits: list[float], low: float, ratio: float, dtype: torch.dtype
) -> None:
    high = low * ratio
    sigma = gate(torch.tensor(logits, dtype=dtype), low, high)
    assert sigma.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert bool((sigma.double() >= low).all())
    # A box narrower than one float32 may have none inside: then the next one above `low`.
    assert bool((sigma.double() <= max(high, low * (1 + 2**-22))).all())


def test_gate_bounds_hold_against_the_real_numbers() -> None:
    """float32(0.12) is below 0.12 and float32(0.7) below 0.7: rounding goes inwards."""
    ends = gate(torch.tensor([-200.0, 200.0]), 0.12, 0.7)
    assert ends[0].double() >= 0.12
    assert ends[0] == torch.nextafter(torch.tensor(0.12), torch.tensor(1.0))
    assert ends[1] == torch.tensor(0.7)
    ends = gate(torch.tensor([-200.0, 200.0]), 0.1, 0.3)
    assert ends[0] == torch.tensor(0.1)
    assert ends[1] == torch.nextafter(torch.tensor(0.3), torch.tensor(0.0))


def test_constant_box_gives_its_only_value() -> None:
    assert bool((gate(torch.randn(50), 0.25, 0.25) == 0.25).all())
    assert bool((gate(torch.randn(50), 0.12, 0.12).double() >= 0.12).all())


def test_nan_does_not_pass() -> None:
    with pytest.raises(ConcertError, match="not a number"):
        gate(torch.tensor([0.0, math.nan]), LOW, HIGH)
    for name in GENERATORS:
        generator = build_generator(name, 1, LOW, HIGH).eval()
        images = torch.zeros(2, 1, 16, 16)
        images[1, 0, 3, 3] = math.nan
        with pytest.raises(ConcertError, match="not a number"):
            generator(images)


@pytest.mark.parametrize("name", sorted(GENERATORS))
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_channels_give_a_map_in_the_box(name: str, size: tuple[int, int]) -> None:
    for channels in (1, 3):
        images = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
        sigma = random_weights(name, channels, 1, scale=3.0)(images)
        assert sigma.shape == images.shape
        assert sigma.dtype == torch.float32
        assert_in_box(sigma)


@pytest.mark.parametrize("name", sorted(GENERATORS))
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=16, max_size=16),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
)
@settings(max_examples=40, deadline=None)
def test_extreme_images_stay_in_the_box(
    name: str, values: list[float], seed: int, scale: float
) -> None:
    images = torch.tensor(values).reshape(1, 1, 4, 4).repeat_interleave(3, -1)
    assert_in_box(random_weights(name, 1, seed, scale)(images))


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_largest_floats_stay_in_the_box(name: str) -> None:
    images = torch.full((1, 1, 8, 8), torch.finfo(torch.float32).max)
    images[..., ::2] *= -1
    assert_in_box(random_weights(name, 1, 0)(images))


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_a_new_generator_is_nearly_constant_at_the_middle(name: str) -> None:
    torch.manual_seed(0)
    generator = build_generator(name, 3, LOW, HIGH).eval()
    sigma = generator(torch.rand(4, 3, 32, 32) + 0.5 * torch.randn(4, 3, 32, 32))
    assert (sigma - (LOW + HIGH) / 2).abs().max() < 0.15 * (HIGH - LOW)
    assert sigma.std() < 0.05 * (HIGH - LOW)


def test_paper_generator_is_appendix_g() -> None:
    """Parameters per layer, in the order of the appendix's table."""
    printed = [64, 8_224, 32_832, *[36_864, 128] * 8, 32_768, 8_192, 48]
    generator = PaperGenerator(3, LOW, HIGH)
    counted = [
        sum(p.numel() for p in module.parameters(recurse=False))
        for module in generator.modules()
        if list(module.parameters(recurse=False))
    ]
    assert counted == printed
    assert sum(counted) == 378_064


def test_paper_generator_has_the_shapes_of_appendix_g() -> None:
    generator = PaperGenerator(3, LOW, HIGH).eval()
    seen = []
    for module in generator.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, _, out: seen.append((type(m), out.shape[1:])))
    generator(torch.rand(1, 3, 32, 32))
    down = [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    padded = ((64, 10, 10), (64, 8, 8), (64, 8, 8))
    blocks = [*padded, (64, 8, 8), *padded] * 4
    up = [(32, 16, 16)] * 3 + [(16, 32, 32)] * 3 + [(3, 32, 32)]
    assert [tuple(shape) for _, shape in seen] == down + blocks + up
    assert [kind for kind, _ in seen[9:16]] == [
        *(nn.ReflectionPad2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU),
        *(nn.ReflectionPad2d, nn.Conv2d, nn.BatchNorm2d),
    ]


def test_coarse_map_is_the_bilinear_interpolation_of_its_cells() -> None:
    generator = random_weights("coarse", 2, 3)
    images = torch.randn(2, 2, 28, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = generator.head(generator.body(F.avg_pool2d(images, 4)))
        cells = LOW + (HIGH - LOW) * torch.sigmoid(logits)
        expected = F.interpolate(cells, scale_factor=4.0, mode="bilinear", align_corners=False)
        torch.testing.assert_close(generator(images), expected)
    assert expected.std() > 0.01


def test_coarse_map_of_a_cropped_image_is_the_cropped_map_of_its_extension() -> None:
    """Sides that are no multiple of the pool: the last cell averages the pixels it has."""
    generator = random_weights("coarse", 1, 4)
    images = torch.rand(1, 1, 30, 33, generator=torch.Generator().manual_seed(0))
    extended = torch.zeros(1, 1, 32, 36)
    extended[..., :30, :33] = images
    extended[..., 30:, :33] = images[..., 28:, :].mean(2, keepdim=True)
    extended[..., 33:] = extended[..., 32:33]
    # Each missing pixel replaced by the mean of its cell leaves the cell's mean unchanged.
    for row in range(0, 32, 4):
        height = min(30, row + 4)
        extended[..., row : row + 4, 33:] = images[..., row:height, 32:].mean()
    for column in range(0, 32, 4):
        extended[..., 30:, column : column + 4] = images[..., 28:, column : column + 4].mean()
    torch.testing.assert_close(generator(images), generator(extended)[..., :30, :33])


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_channels_last_gives_the_same_map(name: str) -> None:
    generator = random_weights(name, 3, 5)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = generator(images)
    generator.to(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(images.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_parameter_learns(name: str) -> None:
    generator = build_generator(name, 1, LOW, HIGH).train()
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    (generator(images) * torch.linspace(0, 1, 28)).sum().backward()
    for parameter_name, parameter in generator.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        # A bias in front of an instance norm is subtracted again.
        if not (name == "paper" and parameter_name.endswith(".bias")):
            assert parameter.grad.abs().max() > 0, parameter_name


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    generator = CoarseGenerator(1, LOW, HIGH, pool=2, width=4).double()
    nn.init.normal_(generator.head.weight)
    images = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(generator, (images,))
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: gate(z, LOW, HIGH), (logits,))


def test_multiply_adds_agree_with_known_counts() -> None:
    paper = PaperGenerator(3, LOW, HIGH).train()
    assert multiply_adds(paper, (3, 32, 32)) == pytest.approx(54.7e6 / 2, rel=0.01)
    assert paper.training
    lenet, resnet = build_classifier("lenet", 10, 1), build_classifier("resnet20", 10, 3)
    lenet_cost, resnet_cost = multiply_adds(lenet, (1, 28, 28)), multiply_adds(resnet, (3, 32, 32))
    assert lenet_cost == 25 * 20 * 24**2 + 25 * 20 * 50 * 8**2 + 800 * 500 + 500 * 10
    assert resnet_cost == pytest.approx(40.8e6, rel=0.01)
    assert multiply_adds(CoarseGenerator(1, LOW, HIGH), (1, 28, 28)) < 0.1 * lenet_cost
    assert multiply_adds(CoarseGenerator(3, LOW, HIGH), (3, 32, 32)) < 0.02 * resnet_cost


def test_mistakes_are_one_line() -> None:
    for arguments, message in [
        (("papr", 1, LOW, HIGH), "did you mean 'paper'"),
        (("paper", 1, LOW, HIGH, {"pool": 4}), "wrong arguments for generator 'paper'"),
        (("coarse", 1, LOW, HIGH, {"pool": 0}), "must be at least 1"),
        (("coarse", 0, LOW, HIGH), "at least one channel"),
        (("coarse", 1, 0.0, HIGH), "0 < low <= high"),
        (("coarse", 1, 0.5, 0.4), "0 < low <= high"),
        (("coarse", 1, 0.5, math.nan), "0 < low <= high"),
    ]:
        with pytest.raises(ConcertError, match=message) as caught:
            build_generator(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConcertError, match=r"takes images of shape \(B, 1, H, W\)"):
        build_generator("coarse", 1, LOW, HIGH)(torch.zeros(1, 3, 8, 8))

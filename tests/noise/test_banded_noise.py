"""Noise with levels of its own for colour, smooth brightness and detail, and its ellipsoid."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from torch import Tensor, nn

from concert import certificates
from concert.auditing.audit import AuditSettings, audit
from concert.auditing.parts import parts_of, project, realize
from concert.certificates import Guarantee
from concert.certificates.bands import LUMA, Bands, scale_bands
from concert.errors import ConcertError
from concert.noise import BandedNoise
from concert.recipes.building import build_noise, describe_noise
from concert.recipes.config import NoiseSettings
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

# Channels, height, width, block: a whole number of blocks, parts of blocks, grey, single pixels.
SHAPES = [(3, 4, 4, 2), (3, 5, 3, 2), (1, 4, 6, 3), (3, 2, 3, 1), (1, 3, 3, 8)]


def matrix(shape: tuple[int, int, int], block: int, *levels: float) -> Tensor:
    """The map of `scale_bands` as a matrix (d, d), in float64."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return scale_bands(basis, *levels, block).flatten(1).T


class Linear(nn.Module):
    """Class 1 where weight . z is above the threshold: its vote share is known exactly."""

    def __init__(self, weight: Tensor, threshold: float) -> None:
        super().__init__()
        self.weight, self.threshold = weight, threshold

    def forward(self, images: Tensor) -> Tensor:
        score = 50.0 * ((images * self.weight).flatten(1).sum(dim=1) - self.threshold)
        return torch.stack([-score, score], dim=1)


# ------------------------------------------------------------------------ three parts of an image


@pytest.mark.parametrize(("channels", "height", "width", "block"), SHAPES)
def test_the_map_has_the_levels_as_its_eigenvalues(
    channels: int, height: int, width: int, block: int
) -> None:
    shape = channels, height, width
    made = matrix(shape, block, 3.0, 2.0, 0.5)
    assert torch.allclose(made, made.T, atol=1e-12)
    found = torch.linalg.eigvalsh(made)
    expected = [
        axis
        for axis, count in Bands(shape, block, 3.0, 2.0, 0.5).axes.items()
        for _ in range(count)
    ]
    assert len(expected) == math.prod(shape)
    assert found.tolist() == pytest.approx(sorted(expected), abs=1e-12)
    same = matrix(shape, block, 0.7, 0.7, 0.7)
    assert torch.allclose(same, 0.7 * torch.eye(len(same), dtype=torch.float64), atol=1e-12)


def test_parts_by_hand() -> None:
    """A change along the weights of luma is one of luma, a change across them one of colour."""
    luma = torch.tensor(LUMA, dtype=torch.float64)
    luma /= luma.norm()
    across = torch.tensor([LUMA[1], -LUMA[0], 0.0], dtype=torch.float64)
    steps = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    for direction, pattern, factor in (
        (luma, torch.ones(2, 2, dtype=torch.float64), 2.0),
        (luma, steps, 0.5),
        (across, torch.ones(2, 2, dtype=torch.float64), 3.0),
        (across, steps, 3.0),
    ):
        image = (direction[:, None, None] * pattern)[None]
        assert torch.allclose(scale_bands(image, 3.0, 2.0, 0.5, 2), factor * image, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.tuples(*[st.floats(0.05, 20.0) for _ in range(3)]),
    st.integers(0, 2**31),
)
def test_dividing_undoes_multiplying(
    sizes: tuple[int, int, int, int], levels: tuple[float, float, float], seed: int
) -> None:
    bands = Bands(sizes[:3], sizes[3], *levels)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, *sizes[:3], dtype=torch.float64, generator=generator)
    assert torch.allclose(bands.divided(bands.times(images)), images, atol=1e-10)
    doubled = bands.scaled(2.0)
    assert torch.allclose(doubled.times(images), 2.0 * bands.times(images), atol=1e-10)
    assert doubled.mean_log == pytest.approx(bands.mean_log + math.log(2.0))


# ------------------------------------------------------------------------------- what is drawn


def test_the_noise_has_its_covariance() -> None:
    """20,000 draws: each entry's standard error is at most 0.007 times the variances' product."""
    noise = BandedNoise(0.25, 1.0, 0.5, block=2)
    shape, draws = (3, 2, 4), 20_000
    normals = torch.randn(draws, *shape, generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, *shape)
    noisy, level = noise(image, (normals,))
    assert float(level) == 0.25
    found = torch.cov((noisy - image).flatten(1).T.double())
    root = matrix(shape, 2, 1.0, 0.5, 0.25)
    assert torch.allclose(found, root @ root, atol=5 * 0.01)


def test_equal_levels_are_isotropic_noise() -> None:
    normals = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = torch.rand(4, 3, 5, 5)
    noisy, _ = BandedNoise(0.5)(images, (normals,))
    assert torch.allclose(noisy, images + 0.5 * normals, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConcertError, match="chroma_sigma must be a positive number"):
        BandedNoise(0.25, chroma_sigma=-1.0)
    with pytest.raises(ConcertError, match="block must be at least 1"):
        BandedNoise(0.25, block=0)
    with pytest.raises(ConcertError, match="grey images or RGB"):
        BandedNoise(0.25).accept(torch.rand(1, 2, 4, 4))


def test_a_recipe_gives_the_noise_and_its_settings_give_it_back() -> None:
    shape = (3, 8, 8)
    described = describe_noise(NoiseSettings("banded", sigma=0.5, chroma_sigma=2.0), shape)
    noise = build_noise(described, shape)
    assert isinstance(noise, BandedNoise)
    assert noise.settings() == described
    assert described == {
        "kind": "banded",
        "sigma": 0.5,
        "chroma_sigma": 2.0,
        "smooth_sigma": 0.5,
        "block": 8,
    }


# ------------------------------------------------------------------------------- the certificate


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.tuples(*[st.floats(0.1, 4.0) for _ in range(3)]),
    st.floats(0.51, 0.9999),
    st.integers(0, 2**31),
)
def test_the_ellipsoid_is_exact_for_linear_classifiers(
    sizes: tuple[int, int, int, int], levels: tuple[float, float, float], share: float, seed: int
) -> None:
    """Its worst perturbation lies along A^2 w, where the vote share falls to exactly one half."""
    shape, block = sizes[:3], sizes[3]
    bands = Bands(shape, block, *levels)
    region = certificates.banded(share, bands)
    weight = torch.randn(
        1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    spread = float(bands.times(weight).norm())
    worst = bands.times(bands.times(weight)) / spread
    margin = certificates.normalized_radius(share)
    for factor, inside in ((0.999, True), (1.001, False)):
        delta = factor * margin * worst
        assert bool(region.contains(delta[0])) is inside
        # The share of the class at x + delta when it was `share` at x.
        left = float(ndtr(margin - float((weight * delta).sum() / spread)))
        assert (left > 0.5) is inside


def test_radius_volume_and_axes() -> None:
    bands = Bands((3, 4, 4), 2, 3.0, 1.0, 0.5)
    region = certificates.banded(0.9, bands)
    z = certificates.normalized_radius(0.9)
    assert region.guarantee is Guarantee.DEPLOYED
    assert region.radius == pytest.approx(0.5 * z, rel=1e-5)
    assert region.radius < 0.5 * z
    # 32 dimensions of colour, 4 blocks, 12 of detail.
    mean_log = (32 * math.log(3.0) + 4 * math.log(1.0) + 12 * math.log(0.5)) / 48
    assert region.proxy_volume == pytest.approx(z * math.exp(mean_log), rel=1e-4)
    assert region.semi_axes.sort().values.tolist() == pytest.approx(
        [0.5 * z] * 12 + [1.0 * z] * 4 + [3.0 * z] * 32, rel=1e-4
    )
    assert certificates.banded(0.5, bands).radius == 0.0
    with pytest.raises(ValueError, match="shape"):
        region.contains(torch.zeros(3, 8, 2))


def test_parts_without_dimensions_do_not_count() -> None:
    """A grey image has no colour, however little noise is asked for there."""
    region = certificates.banded(0.9, Bands((1, 4, 4), 2, 0.01, 1.0, 0.5))
    assert region.radius == pytest.approx(0.5 * certificates.normalized_radius(0.9), rel=1e-5)


def smoothed(weight: Tensor, threshold: float) -> SmoothedClassifier:
    noise = BandedNoise(0.25, chroma_sigma=1.0, smooth_sigma=0.5, block=2)
    sampling = SamplingSettings(batch_size=64, workers=1)
    return SmoothedClassifier(Linear(weight, threshold), noise, 2, (3, 4, 4), sampling).eval()


def test_certificates_hold_along_colour_and_are_not_broken() -> None:
    """A classifier of colour, whose ball would end where its ellipsoid still has a third to go."""
    direction = torch.tensor([LUMA[1], -LUMA[0], 0.0])
    weight = (direction / direction.norm())[:, None, None].expand(3, 4, 4) / 4.0
    image = torch.full((1, 3, 4, 4), 0.5)
    model = smoothed(weight, float((image * weight).sum()) - 1.5)
    (found,) = model.certify(image, n0=50, n=4000, alpha=0.001, seed=0)
    assert found.label == 1
    assert found.certificate == "banded"
    region = found.region((3, 4, 4))
    assert region.contains(-0.9 * 1.5 * weight)
    assert float((1.35 * weight).norm()) > 3 * found.radius
    assert not region.contains(-1.5 * weight)
    with pytest.raises(ValueError, match="not of shape"):
        found.region((3, 2, 8))

    starts = AuditSettings(starts=4, steps=6, draws=64, n0=64, n=2000)
    finding = audit(model, image[0], found, 1, settings=starts)
    assert not finding.broken
    names = {part.name for part in parts_of(region, (3, 4, 4))}
    assert names == {"ball", "ellipsoid"}


def test_the_search_stays_in_the_ellipsoid_and_in_the_box() -> None:
    region = certificates.banded(0.99, Bands((3, 4, 4), 2, 3.0, 1.0, 0.5))
    ellipsoid = parts_of(region, (3, 4, 4))[1]
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    starts = 2.0 * torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    for boxed in (False, True):
        units = project(starts, ellipsoid, image, boxed)
        for perturbed in realize(units, ellipsoid, image, boxed):
            assert region.contains(perturbed.double() - image.double())
            if boxed:
                assert 0.0 <= float(perturbed.min()) <= float(perturbed.max()) <= 1.0


def test_trained_certified_and_audited_from_the_command_line(tmp_path: Path) -> None:
    from concert.cli import main

    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objective: {name: gaussian}\n")
    flags = ["--noise.kind", "banded", "--noise.sigma", "0.25", "--noise.smooth_sigma", "0.5"]
    small = ["--training.epochs", "4", "--data.subset", "first:512"]
    assert main(["train", str(recipe), *flags, *small, "--out", str(run)]) == 0
    assert main(["certify", str(run), "--subset", "first:4", "--n", "400"]) == 0
    audit_flags = ["--images", "2", "--starts", "2", "--steps", "2", "--draws", "8", "--n", "100"]
    assert main(["audit", str(run), *audit_flags, "--n0", "16"]) == 0

"""Noise on the grid of 8-bit images: its exact distribution, its draws, and what it certifies."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri
from torch import Tensor, nn

from concert import bounds
from concert.certificates import Guarantee, isotropic_grid, isotropic_radius
from concert.errors import ConcertError
from concert.noise import GridNoise, IsotropicNoise
from concert.noise.grid import ON_GRID, thresholds, upper_half
from concert.recipes.building import Description, build_noise, describe_noise
from concert.recipes.config import NoiseSettings
from concert.records.record import ABSTAIN
from concert.runs import load, save_model
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.votes import Request
from concert.smoothing import SmoothedClassifier
from concert.streams import DRAWS_PER_BLOCK, Domain, Stream, source_name

SHAPE = (1, 5, 7)
SIGMA = 0.25
STREAM = Stream(4, Domain.CERTIFY, 2)


def grid_images(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8).float() / 255


def words(count: int, seed: int = 0) -> Tensor:
    out = torch.empty(count, dtype=torch.int64)
    Stream(seed, Domain.AUDIT, 0).fill_bits(0, 0, out)
    return out


# ------------------------------------------------------------------------- the table


@pytest.mark.parametrize("spread", [0.1, 1.0, 16.0, 0.12 * 255, 63.75, 255.0])
def test_thresholds_against_mpmath(spread: float) -> None:
    table = thresholds(spread)
    half = len(table) // 2
    with mpmath.workdps(60):
        for k in range(-half, half, 1 if spread < 20 else 7):
            exact = mpmath.mpf(2) ** 64 * mpmath.ncdf((k + mpmath.mpf("0.5")) / mpmath.mpf(spread))
            assert abs(table[half + k] - exact) <= mpmath.mpf("0.5") + mpmath.mpf(10) ** -20
        # What the table leaves out is below half a unit.
        beyond = mpmath.mpf(2) ** 64 * mpmath.ncdf(-(half + mpmath.mpf("0.5")) / mpmath.mpf(spread))
    assert beyond <= 0.5
    assert 0 < table[0] <= table[-1] < 2**64
    assert list(table) == sorted(table)


@pytest.mark.parametrize("spread", [0.3, 63.75])
def test_total_variation_against_mpmath(spread: float) -> None:
    noise = GridNoise(spread / 255)
    table, half = thresholds(255 * noise.sigma), len(noise.table) // 2
    with mpmath.workdps(60):
        shares = [mpmath.mpf(0), *(mpmath.mpf(t) / mpmath.mpf(2) ** 64 for t in table)]
        shares.append(mpmath.mpf(1))
        distance, below = mpmath.mpf(0), mpmath.mpf(0)
        scale = mpmath.mpf(255 * noise.sigma)
        for k in range(-half, half + 1):
            upper = mpmath.ncdf((k + mpmath.mpf("0.5")) / scale)
            drawn = shares[k + half + 1] - shares[k + half]
            distance += abs(drawn - (upper - below))
            below = upper
        distance = (distance + 1 - below) / 2
    assert 0 < float(distance) <= noise.total_variation < 1e-15


def test_the_normal_distribution_function_in_many_digits() -> None:
    from decimal import Decimal

    for text in ("0", "0.001", "0.5", "1.75", "4", "9.25", "12"):
        with mpmath.workdps(60):
            exact = mpmath.ncdf(mpmath.mpf(text)) - mpmath.mpf("0.5")
            assert abs(mpmath.mpf(str(upper_half(Decimal(text)))) - exact) < mpmath.mpf(10) ** -40


# ------------------------------------------------------------------------- the draws


def test_steps_are_the_number_of_thresholds_at_or_below_the_word() -> None:
    noise = GridNoise(SIGMA)
    table = np.array(thresholds(255 * SIGMA), dtype=object)
    ends = noise.table[::37]
    tried = torch.cat([words(2000), ends, ends - 1, ends + 1, torch.tensor([-(2**63), 2**63 - 1])])
    steps = noise.steps(tried.reshape(1, 1, 1, -1)).flatten()
    unsigned = tried.numpy().astype(object) + 2**63
    expected = [int((table <= word).sum()) - len(table) // 2 for word in unsigned]
    assert steps.tolist() == expected
    assert max(expected) == -min(expected) == len(table) // 2


def test_draws_follow_the_rounded_gaussian() -> None:
    count, sigma = 400_000, 0.02
    noise = GridNoise(sigma)
    bits = words(count).reshape(-1, 1, 20, 20)
    noisy, used = noise(torch.full((1, 1, 20, 20), 128 / 255), (bits,))
    steps = (noisy * 255 - 128).round().flatten().long()
    assert float((noisy * 255 - 128 - steps.reshape(noisy.shape)).abs().max()) < 1e-3
    assert float(used) == pytest.approx(sigma)
    spread = 255 * sigma
    edges = np.arange(-18, 18) + 0.5
    expected = count * np.diff(stats.norm.cdf(np.array([-np.inf, *edges, np.inf]) / spread))
    inner = torch.arange(-18, 19)
    observed = (steps.clamp(-18, 18)[:, None] == inner).sum(dim=0).numpy()
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    # Training draws, from ordinary normals.
    images = torch.full((1, 1, 20, 20), 128 / 255)
    noisy, _ = noise.copies(images, count // 400, torch.Generator().manual_seed(1))
    steps = (noisy * 255 - 128).round().flatten().long()
    observed = (steps.clamp(-18, 18)[:, None] == inner).sum(dim=0).numpy()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_large_deviations_follow_the_rounded_gaussian() -> None:
    noise, spread = GridNoise(SIGMA), 255 * SIGMA
    steps = noise.steps(words(4_000_000, seed=3).reshape(-1, 1, 1000, 1000)).flatten()
    for bound in (0, 1, 50, 150, 250, 300):
        expected = len(steps) * 2 * stats.norm.sf((bound + 0.5) / spread)
        got = int((steps.abs() > bound).sum())
        assert abs(got - expected) < 5 * math.sqrt(expected)
    assert abs(float(steps.double().mean())) < 5 * spread / math.sqrt(len(steps))


def test_noisy_copies_are_exact_floats_of_the_grid_and_not_clipped() -> None:
    noise = GridNoise(SIGMA)
    images = grid_images(1)
    bits = words(200 * math.prod(SHAPE)).reshape(200, *SHAPE)
    noisy, _ = noise(images, (bits,))
    whole = (images * 255).round() + noise.steps(bits)
    assert torch.equal(noisy, whole / 255)
    assert float(noisy.min()) < 0
    assert float(noisy.max()) > 1
    # Without noise an image is what it was, bit for bit.
    assert torch.equal(noise.accept(images), images)


def test_training_draws_let_gradients_reach_the_image() -> None:
    images = grid_images(2).requires_grad_()
    noisy, _ = GridNoise(SIGMA).copies(images, 3, torch.Generator().manual_seed(0))
    noisy.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, torch.full_like(images, 3.0))


def test_votes_have_an_address() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 3))
    (image,), noise, n = grid_images(1), GridNoise(SIGMA), 90
    block = torch.empty(DRAWS_PER_BLOCK, 5, 7, 1, dtype=torch.int64)
    expected = np.zeros(3, dtype=np.int64)
    with torch.no_grad():
        for draw in range(n):
            STREAM.fill_bits(draw // DRAWS_PER_BLOCK, 0, block)
            one = block[draw % DRAWS_PER_BLOCK].permute(2, 0, 1)[None]
            expected[int(classifier(noise(image[None], (one,))[0]).argmax())] += 1
    assert np.count_nonzero(expected) > 1
    for batch_size, workers in ((16, 1), (48, 2), (128, 1)):
        settings = SamplingSettings(batch_size, 0.0, workers)
        sampler = Sampler(classifier, noise, 3, SHAPE, torch.device("cpu"), settings)
        (votes,) = sampler.sample(image, [Request(STREAM, n, mean_map=True)])
        sampler.close()
        assert votes.counts.tolist() == expected.tolist()
        assert votes.sigma_map is not None
        assert votes.sigma_map.unique().tolist() == pytest.approx([SIGMA])


# ------------------------------------------------------------------- what it certifies


class HalfSpace(nn.Module):
    """Class 0 where the mean of all values is at least a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - self.threshold
        return torch.stack([score, torch.zeros_like(score)], dim=1) * 1000.0


def test_the_certificate_agrees_with_the_continuous_one_on_a_half_space() -> None:
    images = grid_images(12, seed=5)
    model = HalfSpace(0.49)
    n, root = 20_000, math.sqrt(math.prod(SHAPE))
    records = {
        noise: SmoothedClassifier(model, noise, 2).certify(images, n=n)
        for noise in (IsotropicNoise(SIGMA), GridNoise(SIGMA))
    }
    continuous, discrete = records.values()
    answered = 0
    for image, first, second in zip(images, continuous, discrete, strict=True):
        distance = abs(float(image.mean()) - 0.49) * root
        assert second.certificate == "isotropic-grid"
        assert second.guarantee is Guarantee.DEPLOYED
        assert second.radius <= distance
        k = second.votes[second.candidate]
        assert second.p_lower == bounds.clopper_pearson_lower(k, n, 0.001)
        if ABSTAIN in (first.label, second.label):
            continue
        answered += 1
        assert first.label == second.label
        # Shares of different draws differ by five standard errors of each.
        spread = 10 * math.sqrt(first.p_lower * (1 - first.p_lower) / n) + 1e-3
        low, high = (min(max(first.p_lower + s * spread, 0.5), 0.9999) for s in (-1, 1))
        assert SIGMA * ndtri(low) - 1e-9 <= second.radius <= SIGMA * ndtri(high)
    assert answered >= 8


@pytest.mark.parametrize("p", [0.6, 0.9, 0.999, 1 - 1e-7])
def test_the_radius_loses_nothing_but_the_error_of_table_and_images(p: float) -> None:
    noise, dim = GridNoise(SIGMA), 150_528
    region = noise.region(p, torch.empty(0), dim)
    distance = dim * noise.total_variation
    assert distance < 1e-10
    with mpmath.workdps(40):

        def quantile(q: mpmath.mpf) -> mpmath.mpf:
            return mpmath.sqrt(2) * mpmath.erfinv(2 * q - 1)

        exact = SIGMA * (quantile(mpmath.mpf(p) - distance) - quantile(0.5 + mpmath.mpf(distance)))
        assert mpmath.mpf(region.radius) <= exact
    assert region.radius == pytest.approx((1 - 2 * ON_GRID) * isotropic_radius(p, SIGMA), rel=1e-5)
    assert region.dim == dim


def test_a_large_error_of_the_table_is_paid_for() -> None:
    assert isotropic_grid(0.505, 1.0, 4, 0.01).radius == 0.0
    assert isotropic_grid(0.9, 1.0, 4, 0.01).radius < isotropic_radius(0.89, 1.0) - 0.025
    for distance in (-1e-9, 0.02, math.nan):
        with pytest.raises(ValueError, match="distance"):
            isotropic_grid(0.9, 1.0, 4, distance)


# ----------------------------------------------------------------- what it does not take


def test_images_off_the_grid_are_refused_in_one_line() -> None:
    model = SmoothedClassifier(HalfSpace(0.5), GridNoise(SIGMA), 2)
    images = grid_images(2)
    images[1, 0, 2, 3] = 100.4 / 255
    for ask in (
        lambda: model.predict(images, n=100),
        lambda: model.certify(images, n=100),
        lambda: model.noise(images, (words(70).reshape(2, *SHAPE),)),
    ):
        with pytest.raises(ConcertError, match=r"multiples of 1/255.*0\.4 steps.*round") as caught:
            ask()
        assert "\n" not in str(caught.value)
    rounded = (images * 255).round() / 255
    assert model.predict(rounded, n=100, seed=1).shape == (2,)


def test_8_bit_images_are_taken_however_they_were_divided() -> None:
    noise = GridNoise(SIGMA)
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    wanted = every.float() / 255
    for images in (wanted, every.float() * (1 / 255), (every.double() / 255).float()):
        assert torch.equal(noise.accept(images), wanted)
    with pytest.raises(ConcertError, match="multiples of 1/255"):
        noise.accept((every.float() / 255).half().float())
    assert IsotropicNoise(SIGMA).accept(images) is images


@pytest.mark.parametrize(("sigma", "levels"), [(0.25, 0), (0.25, 2000), (1e-4, 255), (8.0, 255)])
def test_impossible_grids_are_refused(sigma: float, levels: int) -> None:
    with pytest.raises(ConcertError, match="grid"):
        GridNoise(sigma, levels)


# ------------------------------------------------------------------------ as a setting


def test_a_recipe_names_the_grid() -> None:
    plain = NoiseSettings(kind="isotropic", sigma=SIGMA)
    assert describe_noise(plain, SHAPE) == {"kind": "isotropic", "sigma": SIGMA}
    assert type(build_noise(describe_noise(plain, SHAPE), SHAPE)) is IsotropicNoise
    described = describe_noise(dataclasses.replace(plain, grid=255), SHAPE)
    noise = build_noise(described, SHAPE)
    assert type(noise) is GridNoise
    assert noise.settings() == described == {"kind": "isotropic", "sigma": SIGMA, "grid": 255}
    with pytest.raises(ConcertError, match=r"noise\.grid is for isotropic noise only"):
        describe_noise(NoiseSettings(kind="queried", grid=255), SHAPE)


def test_a_saved_model_comes_back_with_its_grid(tmp_path: Path) -> None:
    described = {"kind": "isotropic", "sigma": SIGMA, "grid": 255}
    name = f"{__name__}.HalfSpace"
    classifier = {"name": name, "init_args": {"threshold": 0.49}, "mean": None, "std": None}
    names = ("bright", "dark")
    description = Description(classifier, described, 2, SHAPE, names, "own")
    model, noise = HalfSpace(0.47), GridNoise(SIGMA)
    save_model(tmp_path, description, model, noise)
    loaded = load(tmp_path, trust=True)
    assert isinstance(loaded.noise, GridNoise)
    images = grid_images(3)
    (wanted, got) = (
        smoothed.certify(images, n=500)
        for smoothed in (SmoothedClassifier(model, noise, 2), loaded)
    )
    assert wanted == got
    assert "multiples of 1/255" in loaded.noise.sentence_of("auto")
    assert source_name(torch.device("cpu"), loaded.noise.draws) == "philox4x64-bits"

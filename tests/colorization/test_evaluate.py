import json
from importlib import resources
from math import log
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from concert.colorization.evaluate import (
    describe_grey,
    judge,
    marginals,
    smoothed_marginal,
    spearman,
)
from concert.colorization.lab import AB_BINS
from concert.colorization.pictures import center_crops, color_counts, held_out, read_pictures, stack

RESULTS = Path(__file__).parents[2] / "results" / "colorizer"


class Uniform(torch.nn.Module):
    def forward(self, lightness, hints, mask):
        return lightness.new_zeros(len(lightness), AB_BINS, 8, 8)


def random_images(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def test_spearman_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 9, (5, 40)).astype(np.float32)  # with ties
    second = first + rng.normal(0, 4, (5, 40)).astype(np.float32)
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-12)


def test_spearman_of_a_constant_row_is_undefined() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    constant = values.copy()
    constant[0] = 1
    assert np.isnan(spearman(constant, values)[0])
    assert spearman(constant, values)[1] == pytest.approx(1)


def test_smoothed_marginal_is_positive_and_sums_to_one() -> None:
    counts = torch.zeros(AB_BINS).double()
    counts[3] = 71
    marginal = smoothed_marginal(counts)
    assert marginal.sum().item() == pytest.approx(1)
    assert marginal[3].item() == pytest.approx(72 / 600)
    assert marginal.min() > 0


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_uniform_prediction_is_judged_as_what_it_is() -> None:
    uniform = torch.full((AB_BINS,), 1 / AB_BINS).double()
    figures = judge(Uniform(), random_images(), uniform, uniform, batch_size=4)
    assert figures["images"] == 6
    assert figures["cells"] == 6 * 64
    for name in ("cross_entropy", "soft_cross_entropy"):
        assert figures[name]["model"] == pytest.approx(log(AB_BINS), rel=1e-5)
        assert figures[name]["below"] == pytest.approx(0, abs=1e-5)
    assert figures["mean_entropy"] == pytest.approx(log(AB_BINS), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_the_marginal_of_the_images_themselves_is_their_entropy() -> None:
    images = random_images()
    both = [smoothed_marginal(1e9 * color_counts(images, soft=soft)) for soft in (False, True)]
    expected = [-(one * one.log())[one > 1e-6].sum().item() for one in both]
    figures = judge(Uniform(), images, *both)
    assert figures["cross_entropy"]["marginal"] == pytest.approx(expected[0], rel=1e-4)
    assert figures["soft_cross_entropy"]["marginal"] == pytest.approx(expected[1], rel=1e-4)
    assert expected[1] > expected[0]


def test_grey_images_are_described(colorizer) -> None:
    images = random_images(4)[:, :1]
    images[0] = 7
    figures = describe_grey(colorizer, images, batch_size=3)
    assert figures["share_without_map"] == 0.25
    assert figures["range_within_image"]["min"] == 0
    assert figures["range_within_image"]["max"] > 0
    assert 0 <= figures["mean_map_on_dark_pixels"] <= 1


@pytest.fixture(scope="module")
def evidence():
    return json.loads((RESULTS / "evidence.json").read_text())


def test_the_evidence_is_about_the_shipped_weights_and_recipes(evidence, colorizer) -> None:
    assert evidence["colorizer"] == colorizer.fingerprint
    package = resources.files("concert.colorization")
    cards = [
        json.loads((RESULTS / "fit-1.json").read_text()),
        json.loads((RESULTS / "fit-2.json").read_text()),
        json.loads(package.joinpath("compact.json").read_text()),
    ]
    assert cards[2]["sha256"] == colorizer.fingerprint
    assert cards[2]["initial"] == cards[1]["sha256"]
    assert cards[1]["initial"] == cards[0]["sha256"]
    for number, card in enumerate(cards, start=1):
        rows = (RESULTS / f"fit-{number}.csv").read_text().splitlines()
        assert int(rows[-1].split(",")[0]) == card["recipe"]["steps"]


# What the weights in the package reach, and docs/colorizer.md says.
BELOW_MARGINAL = {"cifar10_test": 0.10, "photos_held_out": 0.06}


@pytest.mark.parametrize("source", ["cifar10_test", "photos_held_out"])
def test_the_evidence_shows_that_the_entropies_mean_something(evidence, source) -> None:
    figures = evidence[source]
    assert figures["cross_entropy"]["below"] >= BELOW_MARGINAL[source]
    assert figures["soft_cross_entropy"]["below"] >= BELOW_MARGINAL[source] - 0.01
    assert figures["spearman_pooled"] >= 0.3
    assert figures["spearman_mean_over_images"] >= 0.3
    assert figures["cross_entropy_with_hints"] < 0.9 * figures["cross_entropy"]["model"]
    assert figures["mean_entropy"] == pytest.approx(figures["cross_entropy"]["model"], rel=0.05)


def test_the_maps_of_digits_vary(evidence) -> None:
    assert evidence["mnist_test"]["share_without_map"] == 0
    assert evidence["mnist_test"]["range_within_image"]["min"] > 0.1


def test_the_claims_hold_on_images_judged_now(shared_data, evidence, colorizer) -> None:
    thumbnails = stack(read_pictures(shared_data / "cifar10" / "test.parquet"))
    training, others = held_out(
        read_pictures(shared_data / "imagenet-sample" / "validation.parquet")
    )
    # The judged images and, for the constant prediction, others of the same source.
    samples = {
        "cifar10_test": (thumbnails[:500], thumbnails[500:]),
        "photos_held_out": (center_crops(others, 128, 112), center_crops(training[::4], 128, 112)),
    }
    for source, (sample, rest) in samples.items():
        figures = judge(colorizer, sample, *marginals(rest, 50), batch_size=20)
        claimed = evidence[source]
        assert figures["cross_entropy"]["below"] >= BELOW_MARGINAL[source] - 0.01
        assert figures["spearman_pooled"] >= 0.3
        for measured, claim in (
            (figures["cross_entropy"]["model"], claimed["cross_entropy"]["model"]),
            (figures["mean_entropy"], claimed["mean_entropy"]),
        ):
            assert measured == pytest.approx(claim, rel=0.1)

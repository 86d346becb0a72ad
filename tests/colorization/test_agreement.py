"""Two colorizers compared, and the pictures of their maps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from concert.colorization import load_colorizer
from concert.colorization.agreement import agreement, all_entropies
from concert.colorization.gallery import gallery, sample_photographs
from concert.data.digits import digits

RESULTS = Path(__file__).parents[2] / "results" / "colorizer"
SECOND = RESULTS / "independent.safetensors"


class Brightness(torch.nn.Module):
    """Two colours, the more certain the brighter the cell: entropy falls with brightness."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, lightness, hints, mask):
        cells = torch.nn.functional.avg_pool2d(lightness, 4) / 50
        cells = cells if self.sign > 0 else 2 - cells
        return torch.cat([cells, torch.zeros_like(cells)], dim=1)


def noise(count=6, channels=1, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8
    )


def test_a_colorizer_agrees_with_itself_and_not_with_its_opposite() -> None:
    same = agreement(Brightness(), Brightness(), noise(), batch_size=4)
    assert same["mean"] == pytest.approx(1)
    assert same["pooled"] == pytest.approx(1)
    assert (same["images"], same["cells"]) == (6, 6 * 64)
    # Noise images have nothing in common: 5 standard errors of 6 images of 64 cells.
    assert abs(same["shifted"]) < 5 / np.sqrt(6 * 63)
    opposite = agreement(Brightness(), Brightness(-1), noise())
    assert opposite["mean"] == pytest.approx(-1)


def test_the_interval_is_that_of_the_mean() -> None:
    images = noise(5, 3)
    pair = [load_colorizer(), Brightness()]
    result = agreement(*pair, images)
    first, second = (all_entropies(colorizer, images, 2) for colorizer in pair)
    each = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert result["mean"] == pytest.approx(np.mean(each))
    error = scipy.stats.sem(each)
    assert result["low"] == pytest.approx(np.mean(each) - 1.96 * error)
    assert result["high"] == pytest.approx(np.mean(each) + 1.96 * error)
    everything = scipy.stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert result["pooled"] == pytest.approx(everything)


def test_images_of_one_colour_are_left_out() -> None:
    images = noise()
    images[2] = 128
    result = agreement(Brightness(), Brightness(), images)
    assert result["images_with_varying_entropies"] == 5
    assert result["mean"] == pytest.approx(1)


def test_the_independent_fit_agrees_on_pictures_that_need_no_download() -> None:
    # The committed figures are on CIFAR-10, photographs and MNIST; these come with scikit-learn.
    second = load_colorizer(SECOND)
    first = load_colorizer()
    assert first.fingerprint != second.fingerprint
    stated = json.loads((RESULTS / "agreement.json").read_text())
    assert (stated["first"], stated["second"]) == (first.fingerprint, second.fingerprint)
    photographs = agreement(first, second, sample_photographs())
    assert photographs["mean"] > 0.5
    assert photographs["mean"] > photographs["shifted"] + 0.3
    figures = agreement(first, second, digits("test")[0][:50])
    assert figures["mean"] > 0.5


def test_the_picture_shows_every_image_and_map(colorizer) -> None:
    images = noise(3, 3, 16)
    content = gallery(images, [colorizer, load_colorizer(SECOND)], ("shipped", "second"))
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    # Three rows of three: in each of the nine places something that is not white.
    for rows in np.array_split(picture[:, :500], 3, axis=0):
        for part in np.array_split(rows, 3, axis=1):
            assert (part.min(axis=-1) < 200).mean() > 0.2
    # The maps run from the darkest to the brightest colour of the scale.
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert (0, 0, 3) in colours


def test_the_sample_photographs_are_colour_pictures() -> None:
    photographs = sample_photographs()
    assert photographs.shape == (2, 3, 212, 320)
    assert photographs.float().std(dim=1).mean() > 5

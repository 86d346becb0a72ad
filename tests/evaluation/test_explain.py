"""Explanations of one image, and their pictures."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from concert import IsotropicNoise, QueriedNoise, SmoothedClassifier, StaticNoise
from concert.colorization import entropy_map, load_colorizer
from concert.errors import ConcertError
from concert.evaluation.entropy_figure import entropy_figure
from concert.evaluation.explain import Explanation, explain, noisy_copy
from concert.evaluation.explain_figure import explanation_figure, rendered
from concert.noise import GridNoise
from concert.procedure import Procedure

NAMES = ("left $x$", "right <b>")
PROCEDURE = Procedure(n0=32, n=300, n_select=64, seed=1)


class Sides(nn.Module):
    """Which half of the image is brighter; never undecided at the images used here."""

    def forward(self, images: Tensor) -> Tensor:
        left, right = images.flatten(2).mean(dim=1).view(len(images), 8, 2, 4).mean(dim=(1, 3)).T
        return torch.stack([left, right], dim=1)


class HalfMap(nn.Module):
    """Little noise on the left, much on the right, whatever it is asked for."""

    def forward(self, images: Tensor) -> Tensor:
        halves = torch.tensor([0.05] * 4 + [0.2] * 4).expand(images.shape[1:])
        return halves.expand_as(images)


@pytest.fixture
def image() -> Tensor:
    image = torch.zeros(3, 8, 8)
    image[..., 4:] = 0.8
    image[0, 2:5, 5] = 0.3
    return image


def explained(noise: nn.Module, image: Tensor) -> Explanation:
    smoothed = SmoothedClassifier(Sides(), noise, num_classes=2)
    return explain(smoothed, image, NAMES, load_colorizer(), PROCEDURE, index=4)


def test_an_explanation_holds_the_certificate_and_its_maps(image: Tensor) -> None:
    noise = QueriedNoise(HalfMap(), query_sigma=0.4, low=0.05, high=0.3)
    explanation = explained(noise, image)
    smoothed = SmoothedClassifier(Sides(), noise, num_classes=2)
    (expected,) = smoothed.certify(image[None], 32, 300, seed=1, indices=[4], n_select=64)
    assert explanation.certification == expected
    assert explanation.answer == "right <b>"
    assert f"answers right <b> for every image at an l2 distance below {expected.radius:.3f}"[
        :60
    ] in (explanation.sentence)
    assert torch.equal(explanation.entropy, entropy_map(image[None], load_colorizer())[0, 0])
    assert explanation.sigma[0].tolist() == pytest.approx([0.05] * 4 + [0.2] * 4)
    assert expected.axes is not None


@pytest.mark.parametrize(
    "noise",
    [
        IsotropicNoise(0.1),
        StaticNoise(torch.full((3, 8, 8), 0.1)),
        QueriedNoise(HalfMap(), query_sigma=0.4, low=0.1, high=0.1),
        GridNoise(0.1),
    ],
    ids=lambda noise: noise.kind,
)
def test_a_noisy_copy_has_the_noise_of_the_model(noise: nn.Module, image: Tensor) -> None:
    image = (image * 255).round() / 255
    smoothed = SmoothedClassifier(Sides(), noise, num_classes=2)
    copies = torch.stack([noisy_copy(smoothed, image, seed=7, index=i) for i in range(40)])
    spread = (copies - image).std()
    assert float(spread) == pytest.approx(0.1, rel=0.05)  # 7,680 draws: five standard errors
    assert torch.equal(copies[3], noisy_copy(smoothed, image.clone(), seed=7, index=3))


def test_images_that_are_no_pictures_are_refused() -> None:
    smoothed = SmoothedClassifier(Sides(), IsotropicNoise(0.1), num_classes=2)
    with pytest.raises(ConcertError, match="grey or RGB"):
        explain(smoothed, torch.zeros(2, 8, 8), NAMES, load_colorizer(), PROCEDURE)


def test_the_pictures_are_whole_and_always_the_same(image: Tensor) -> None:
    explanation = explained(QueriedNoise(HalfMap(), 0.4, 0.05, 0.3), image)
    png, svg = (rendered(explanation_figure(explanation), kind) for kind in ("png", "svg"))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (1500, 990)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (colours == [0, 0x72, 0xB2]).all(axis=1).any()
    text = " ".join(ElementTree.fromstring(svg).itertext())
    for part in (
        "Answer: right <b>",
        "mean tau",
        "entropy map",
        "not covered",
        "deployed",
        "8/255",
    ):
        assert part in text
    assert rendered(explanation_figure(explanation), "svg") == svg


def test_the_picture_of_an_abstention_claims_nothing(image: Tensor) -> None:
    explanation = explained(IsotropicNoise(0.5), torch.full((3, 8, 8), 0.5))
    svg = rendered(explanation_figure(explanation), "svg").decode()
    assert explanation.certification.label == -1
    for part in ("Abstains", "nothing is certified", "not covered"):
        assert part in svg
    assert "radius" not in svg


def test_entropy_maps_of_images_of_several_sizes() -> None:
    images = [torch.rand(3, 40, 60), torch.rand(1, 30, 20)]
    png = rendered(entropy_figure(images, ["a $", "b"], load_colorizer()), "png", dpi=50)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width == 500

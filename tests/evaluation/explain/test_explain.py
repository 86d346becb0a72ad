"""Explanations of one image, and their pictures."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from concert import IsotropicNoise, QueriedNoise, SmoothedClassifier, StaticNoise
from concert.certificates import Guarantee
from concert.certification.procedure import Procedure
from concert.colorization import entropy_map, load_colorizer
from concert.errors import ConcertError
from concert.evaluation.explain.entropy_figure import entropy_figure
from concert.evaluation.explain.explain import Explanation, explain, noisy_copy
from concert.evaluation.explain.figure import explanation_figure, rendered
from concert.noise import GridNoise

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
        "mean noise level (tau)",
        "entropy map",
        "not covered",
        "deployed",
        "/255",
    ):
        assert part in text
    assert rendered(explanation_figure(explanation), "svg") == svg


def test_the_picture_of_an_abstention_claims_nothing(image: Tensor) -> None:
    explanation = explained(IsotropicNoise(0.5), torch.full((3, 8, 8), 0.5))
    svg = rendered(explanation_figure(explanation), "svg").decode()
    assert explanation.certification.label == -1
    for part in ("Abstains", "nothing is certified", "No change is certified"):
        assert part in svg
    for part in ("radius", "may change", "Guarantee"):
        assert part not in svg


def with_changes(image: Tensor, **changes: Any) -> Explanation:
    """The explanation of queried noise with another certification or other names."""
    explanation = explained(QueriedNoise(HalfMap(), 0.4, 0.05, 0.3), image)
    own = {name: changes.pop(name) for name in ("class_names", "true_class") if name in changes}
    return replace(explanation, certification=replace(explanation.certification, **changes), **own)


def text_of(explanation: Explanation) -> str:
    """All that the picture says, its description too."""
    svg = rendered(explanation_figure(explanation), "svg")
    return " ".join(ElementTree.fromstring(svg).itertext())


def colours_of(explanation: Explanation) -> set[tuple[int, ...]]:
    with Image.open(io.BytesIO(rendered(explanation_figure(explanation), "png"))) as picture:
        return set(map(tuple, np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)))


def test_the_picture_of_frozen_noise_says_so_everywhere(image: Tensor) -> None:
    text = text_of(with_changes(image, guarantee=Guarantee.FROZEN))
    for part in (
        "covered for frozen noise only",
        ", for frozen noise only",
        "For frozen noise only: all 192 values",
        "For frozen noise only: the certified region",
        "frozen noise only: up to ",
    ):
        assert part in text
    for part in ("A change of up to", "All 192 values", "covered: "):
        assert part not in text


@pytest.mark.parametrize("guarantee", [Guarantee.NONE, Guarantee.UNKNOWN])
def test_a_radius_that_guarantees_nothing_claims_nothing(
    image: Tensor, guarantee: Guarantee
) -> None:
    explanation = with_changes(image, guarantee=guarantee, votes=(0, 0), candidate=0)
    text = text_of(explanation)
    for part in ("may change", "covered:", "any one patch", "semi-axes", "Pale"):
        assert part not in text
    assert "Nothing is drawn" in text
    assert ("guarantees nothing" in text) == (guarantee == Guarantee.NONE)
    assert (0, 0x72, 0xB2) not in colours_of(explanation)


def test_a_ball_has_a_table_instead_of_a_map(image: Tensor) -> None:
    text = text_of(with_changes(image, axes=None))
    assert "8/255:" in text
    assert "64/255:" in text
    assert "The certified region is the ball." in text
    for part in ("not covered", "semi-axes", "Pale"):
        assert part not in text


def test_long_and_foreign_names_stay_in_the_picture(image: Tensor) -> None:
    names = ("猫" * 90, "tench, Tinca tinca, " * 20)
    explanation = with_changes(image, class_names=names, true_class=names[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = rendered(explanation_figure(explanation), "png")
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        assert picture.info["Title"].startswith("Answer: tench, Tinca tinca")
        assert "l2 distance below" in picture.info["Description"]
    assert (pixels[:140, -20:] == 255).all()
    assert "true class: 猫" in text_of(explanation)


def test_votes_beyond_five_classes_are_summed(image: Tensor) -> None:
    names = tuple(f"class {k}" for k in range(9))
    votes = (100, 80, 60, 40, 20, 10, 5, 5, 0)
    text = text_of(with_changes(image, class_names=names, votes=votes, n_used=320, candidate=0))
    assert "others (3 classes): 6.2 %" in text
    assert "class 5" not in text


def test_no_votes_are_no_numbers(image: Tensor) -> None:
    text = text_of(with_changes(image, votes=(0, 0), n_used=0, p_lower=float("nan")))
    assert "No noisy copies were counted." in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize("radius", [0.01, 3.0, 40.0])
def test_the_scale_ends_beyond_the_radius_and_the_axes(image: Tensor, radius: float) -> None:
    axes = torch.full((3, 8, 8), 0.5)
    axes[..., 4:] = 0.9
    figure = explanation_figure(with_changes(image, radius=radius, axes=axes))
    ends = [each.get_xlim()[1] for each in figure.axes if "l2 norm" in each.get_xlabel()]
    assert len(ends) == 1
    assert ends[0] >= 1.1 * max(radius, 0.9)


def test_the_svg_has_a_title_and_a_description(image: Tensor) -> None:
    explanation = explained(QueriedNoise(HalfMap(), 0.4, 0.05, 0.3), image)
    root = ElementTree.fromstring(rendered(explanation_figure(explanation), "svg"))
    assert root.get("role") == "img"
    assert root[0].text == "Answer: right <b>"
    assert explanation.sentence in str(root[1].text)


def test_the_entropy_map_says_whose_it_is_and_what_it_is_for(image: Tensor) -> None:
    isotropic = replace(explained(IsotropicNoise(0.1), image), colorizer_name="siggraph17")
    text = text_of(isotropic)
    for part in ("entropy map by siggraph17", "relative within this image", "not used by this"):
        assert part in text
    queried = text_of(explained(QueriedNoise(HalfMap(), 0.4, 0.05, 0.3), image))
    assert "not used by this noise" not in queried


def test_entropy_maps_of_images_of_several_sizes() -> None:
    images = [torch.rand(3, 40, 60), torch.rand(1, 30, 20)]
    png = rendered(entropy_figure(images, ["a $", "b"], load_colorizer()), "png", dpi=50)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width == 500

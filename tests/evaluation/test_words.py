"""Certificates in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from concert.certificates import Guarantee
from concert.certificates.bands import Bands
from concert.errors import ConcertError
from concert.evaluation.words import (
    certified_sentence,
    percent,
    radius_text,
    region_sentences,
    sentence_of,
)
from concert.records.record import Certification


def certification(**changes: Any) -> Certification:
    values: dict[str, Any] = {
        "label": 3,
        "radius": 0.46999,
        "p_lower": 0.97,
        "guarantee": Guarantee.DEPLOYED,
        "certificate": "isotropic",
        "axes": None,
        "proxy_volume": 0.47,
        "log_volume": 1.0,
        "n_used": 1000,
        "votes": (0, 0, 0, 1000),
        "seed": 0,
        "index": 0,
        "candidate": 3,
        "sigma_min": 0.25,
        "sigma_geomean": 0.25,
        "sigma_max": 0.25,
        "reason": "",
    }
    return Certification(**(values | changes))


def test_a_radius_is_rounded_down_and_the_error_probability_stated() -> None:
    text = sentence_of(certification(), "a cat", 0.001)
    assert text == (
        "With probability at least 1 - 0.001 over the draws made for this image, the classifier as "
        "deployed answers a cat for every image at an l2 distance below 0.469."
    )


@pytest.mark.parametrize(
    ("guarantee", "part"),
    [
        (Guarantee.FROZEN, "The classifier that runs computes another map there"),
        (Guarantee.NONE, "it guarantees nothing"),
        (Guarantee.UNKNOWN, "does not say what that guarantees"),
    ],
)
def test_weaker_guarantees_say_so(guarantee: Guarantee, part: str) -> None:
    text = sentence_of(certification(guarantee=guarantee), "3", 0.01)
    assert part in text
    assert "deployed" not in text
    assert "0.469" in text


def test_abstentions_and_empty_regions() -> None:
    abstained = certification(label=-1, radius=0.0, reason="p_lower 0.4 <= 0.5.")
    assert sentence_of(abstained, "", 0.1) == "Abstains: p_lower 0.4 <= 0.5. Nothing is certified."
    empty = sentence_of(certification(radius=0.0), "3", 0.1)
    assert empty == "Answers 3; nothing around the image is certified."


def test_a_grid_covers_images_on_it_only() -> None:
    text = sentence_of(certification(certificate="isotropic-grid"), "3", 0.1)
    assert "for every image on the noise's grid at an l2" in text


def test_an_unknown_error_probability_is_not_invented() -> None:
    text = certified_sentence(Guarantee.DEPLOYED, "isotropic", None)
    assert text.startswith("As far as the log says, ")


@pytest.mark.parametrize("alpha", ["0.001", True, [0.1]])
def test_an_error_probability_that_is_no_number_is_refused(alpha: Any) -> None:
    with pytest.raises(ConcertError, match="not a number"):
        certified_sentence(Guarantee.DEPLOYED, "isotropic", alpha)


@pytest.mark.parametrize(
    ("radius", "text"),
    [
        (0.46999, "0.469"),
        (0.001, "0.001"),
        (0.0009999, "0.000999"),
        (0.0004, "0.0004"),
        (1.2345e-9, "1.23E-9"),
        (0.0, "0.000"),
    ],
)
def test_small_radii_keep_digits_and_are_rounded_down(radius: float, text: str) -> None:
    assert radius_text(radius) == text
    assert float(text) <= radius


def test_shares_are_rounded_down_but_not_to_nothing() -> None:
    assert [percent(share) for share in (0.0, 0.0004, 0.9996)] == ["0.0 %", "under 0.1 %", "99.9 %"]


def test_noisy_copies_without_a_class_are_told() -> None:
    reason = "p_lower 0.0100 <= 0.5 from 20 of 2000 votes, 1900 undecided; the logits of undecided"
    text = sentence_of(certification(label=-1, radius=0.0, reason=reason), "abstains", 0.001, "dog")
    assert "1,900 have no class: their outputs are too close or no numbers" in text
    assert "do not help" not in text


@pytest.mark.parametrize(
    ("votes", "advice", "told"),
    [
        (19877, "no n certifies a vote share of at most 1/2", "More noisy copies do not help"),
        (20177, "n=412345 would certify at this vote share", "About 412,345 noisy copies would be"),
        (20177, "sampling stopped early by the stopping rule", "ended the sampling early"),
    ],
)
def test_abstentions_are_told_without_jargon(votes: int, advice: str, told: str) -> None:
    reason = f"p_lower 0.4853 <= 0.5 from {votes} of 40192 votes; {advice}"
    abstained = certification(label=-1, radius=0.0, reason=reason, p_lower=0.48528)
    text = sentence_of(abstained, "abstains", 0.001, "dog")
    share = {19877: "49.45", 20177: "50.20"}[votes]
    assert text.startswith(f"Abstains: {votes:,} of 40,192 noisy copies ({share} %) vote for dog,")
    assert "a share of at least 48.52 %, and more than 50 % is needed. " in text
    assert told in text
    assert text.endswith(". Nothing is certified.")
    assert "p_lower" not in text


def test_a_uniform_ellipsoid_inside_the_ball_is_the_ball() -> None:
    found = certification(radius=1.33, axes=torch.full((1, 28, 28), 1.3305))
    assert region_sentences(found, (1, 28, 28))[0] == "The certified region is the ball."
    longer = certification(radius=1.33, axes=torch.full((1, 28, 28), 1.34))
    assert "semi-axes of 1.3" in region_sentences(longer, (1, 28, 28))[0]


def test_the_region_of_bands_is_no_ball() -> None:
    levels = Bands((3, 32, 32), 4, chroma=3.0, smooth=1.5, detail=0.5)
    found = certification(radius=0.5, certificate="banded", bands=levels)
    text, patches = region_sentences(found, (3, 32, 32))
    assert text == (
        "The certified region is an ellipsoid with these semi-axes: along changes of colour 3.000, "
        "along brightness that is constant in blocks of 4 pixels 1.500, along detail 0.500. What "
        "is said of patches is of the ball inside."
    )
    assert "any one patch" in patches


def test_bands_without_a_dimension_are_not_named() -> None:
    grey = Bands((1, 8, 8), 1, chroma=3.0, smooth=1.5, detail=0.5)
    found = certification(radius=0.5, certificate="banded", bands=grey)
    text, _ = region_sentences(found, (1, 8, 8))
    assert "colour" not in text
    assert "detail" not in text
    assert "blocks of 1 pixels 1.500. What" in text


def test_on_a_grid_every_sentence_is_about_images_on_it() -> None:
    found = certification(certificate="isotropic-grid")
    for text in region_sentences(found, (1, 28, 28)):
        assert text.startswith("Among images on the grid only: ")


def test_every_value_at_once_is_decided_by_the_norm_of_that_change() -> None:
    """3 x 8 x 40: 8/255 in a patch of 8 x 8 has norm 0.435, in every value 0.972."""
    text = region_sentences(certification(radius=0.6), (3, 8, 40))[1]
    assert text == "A change of up to 8/255 is covered in any one patch of 8 x 8 pixels."
    text = region_sentences(certification(radius=0.98), (3, 8, 40))[1]
    assert text == "A change of up to 8/255 in every value of the image at once is covered."


def test_patches_that_are_covered_in_some_places_only() -> None:
    axes = torch.full((1, 10, 10), 0.02)
    axes[..., 5:] = 0.15
    text = region_sentences(certification(radius=0.02, axes=axes), (1, 10, 10))[1]
    assert text == (
        "A change of up to 8/255 is covered in some patches of up to 4 x 4 pixels, not everywhere."
    )
    text = region_sentences(certification(radius=0.01), (1, 10, 10))[1]
    assert text == "A change of 8/255 in one pixel is not covered."


def test_regions_say_for_whom_they_hold() -> None:
    frozen = region_sentences(certification(guarantee=Guarantee.FROZEN), (1, 28, 28))
    assert all(text.startswith("For frozen noise only: ") for text in frozen)
    for guarantee in (Guarantee.NONE, Guarantee.UNKNOWN):
        assert region_sentences(certification(guarantee=guarantee), (1, 28, 28)) == []
    assert region_sentences(certification(radius=0.0), (1, 28, 28)) == []

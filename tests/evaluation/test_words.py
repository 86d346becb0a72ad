"""Certificates in words."""

from __future__ import annotations

from typing import Any

import pytest

from concert.certificates import Guarantee
from concert.evaluation.words import certified_sentence, sentence_of
from concert.records import Certification


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
        "With probability at least 1 - 0.001 over the draws, the classifier as deployed answers a "
        "cat for every image at an l2 distance below 0.469."
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


def test_a_grid_covers_images_of_8_bits_only() -> None:
    text = sentence_of(certification(certificate="isotropic-grid"), "3", 0.1)
    assert "every image of 8 bits" in text


def test_an_unknown_error_probability_is_not_invented() -> None:
    text = certified_sentence(Guarantee.DEPLOYED, "isotropic", None)
    assert text.startswith("As far as the log says, ")

"""The curves of a page, as paths and as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from concert.certificates import Guarantee
from concert.evaluation.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    certified_accuracy_chart,
)
from concert.evaluation.figures import COLOURS
from concert.evaluation.metrics import certified_accuracy
from concert.log_reading import LoadedLog

OUTCOMES = [(0, 0, 1.0), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def points(path: str) -> list[tuple[float, float]]:
    pairs = re.findall(r"([\d.]+) ([\d.]+)", path)
    return [(float(x), float(y)) for x, y in pairs]


def test_the_corners_of_a_curve_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    chart = certified_accuracy_chart([make_log(OUTCOMES)])
    (curve,) = chart.curves
    assert chart.largest == 1.0
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    middle, end, half, quarter = (
        LEFT + width / 2,
        LEFT + width,
        TOP + height / 2,
        TOP + height * 0.75,
    )
    expected = [(LEFT, half), (LEFT, half), (middle, half), (middle, quarter), (end, quarter)]
    corners = points(curve.path)
    assert corners[:5] == [
        (pytest.approx(x, abs=0.06), pytest.approx(y, abs=0.06)) for x, y in expected
    ]
    assert corners[-1] == (pytest.approx(end, abs=0.06), HEIGHT - BOTTOM)
    assert [text for _, text in chart.x_ticks][:3] == ["0.00", "0.25", "0.50"]


def test_the_numbers_are_those_of_the_log_and_not_in_our_favour(
    make_log: Callable[..., LoadedLog],
) -> None:
    radii = np.random.default_rng(0).random(60)
    log = make_log([(0, 0, float(radius)) for radius in radii])
    steps = certified_accuracy_chart([log]).curves[0].steps
    for radius, value, low, high in zip(*steps.values(), strict=True):
        exact = float(certified_accuracy(log.frame, [radius])[0])
        assert low <= value <= exact
        assert high >= value


def test_guarantees_have_dashes_and_later_rounds_of_colours_have_marks(
    make_log: Callable[..., LoadedLog],
) -> None:
    logs = [make_log(OUTCOMES, f"run{i}", [Guarantee.FROZEN]) for i in range(len(COLOURS) + 1)]
    first, *_, last = certified_accuracy_chart(logs).curves
    assert first.dash == "dashed"
    assert (first.marker, first.marks) == ("", [])
    assert last.colour == first.colour
    assert last.marker == "o"
    assert len(last.marks) > 5


def test_logs_without_a_certified_image(make_log: Callable[..., LoadedLog]) -> None:
    chart = certified_accuracy_chart([make_log([(0, -1, 0.0)])])
    assert chart.largest > 0

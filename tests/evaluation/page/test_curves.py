"""The curves of a page, as paths and as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from concert.certificates import Guarantee
from concert.evaluation.figures import COLOURS
from concert.evaluation.metrics import certified_accuracy
from concert.evaluation.page.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    certified_accuracy_chart,
)
from concert.records.reading import LoadedLog

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


def test_a_curve_that_has_ended_keeps_its_band(make_log: Callable[..., LoadedLog]) -> None:
    """At 0 of 4 images the exact interval is [0, 0.6024], up to the end of the axis."""
    logs = [make_log(OUTCOMES, "long"), make_log([(0, 0, 0.25)] * 4, "short")]
    band = points(certified_accuracy_chart(logs).curves[1].band)
    at_the_end = {y for x, y in band if x == pytest.approx(WIDTH - RIGHT, abs=0.06)}
    high = 1 - 0.025 ** (1 / 4)
    height = HEIGHT - TOP - BOTTOM
    wanted = sorted([TOP + height * (1 - high), HEIGHT - BOTTOM])
    assert sorted(at_the_end) == pytest.approx(wanted, abs=0.06)


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
    # An interval never has no width, also where no image is left.
    assert steps["value"][-1] == steps["low"][-1] == 0
    assert steps["high"][-1] == pytest.approx(1 - 0.025 ** (1 / 60), abs=1e-4)
    assert min(np.subtract(steps["high"], steps["low"])) > 0.05


@pytest.mark.parametrize("largest", [0.002, 0.5, 1.2, 7.0, 300.0])
def test_the_slider_has_steps_for_the_range_and_reaches_its_end(
    make_log: Callable[..., LoadedLog], largest: float
) -> None:
    chart = certified_accuracy_chart([make_log([(0, 0, largest), (1, 1, largest / 3)])])
    assert 90 < chart.largest / chart.step < 201
    for radius in (chart.largest, chart.default):
        assert radius / chart.step == pytest.approx(round(radius / chart.step), abs=1e-6)
    assert float(f"{chart.default:.{chart.decimals}f}") == pytest.approx(chart.default)


def test_values_at_the_default_radius_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    chart = certified_accuracy_chart(
        [make_log([(0, 0, 1.0), (1, 1, 0.5), (2, 3, 5.0), (4, 4, 0.1)])]
    )
    assert chart.default == 0.5
    # Two of four: the ends solve P(at least 2) = P(at most 2) = 2.5 %.
    assert chart.curves[0].default == ("0.500", "0.067 to 0.933")
    short = certified_accuracy_chart([make_log([(0, -1, 0.0)], "none")])
    assert short.curves[0].default == ("0.000", "0.000 to 0.976")


def test_guarantees_have_dashes_and_curves_from_the_second_on_have_marks(
    make_log: Callable[..., LoadedLog],
) -> None:
    logs = [make_log(OUTCOMES, f"run{i}", [Guarantee.FROZEN]) for i in range(len(COLOURS) + 1)]
    curves = certified_accuracy_chart(logs).curves
    first, *others = curves
    assert first.dash == "dashed"
    assert (first.marker, first.marks) == ("", [])
    assert all(len(curve.marks) > 5 for curve in others)
    # Neither colour alone nor the mark alone has to tell curves apart.
    assert len({curve.marker for curve in curves}) == len(curves)
    assert len({curve.colour for curve in curves}) == len(COLOURS)


def test_logs_without_a_certified_image(make_log: Callable[..., LoadedLog]) -> None:
    chart = certified_accuracy_chart([make_log([(0, -1, 0.0)])])
    assert chart.largest > 0

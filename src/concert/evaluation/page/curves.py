"""The curves of certified accuracy as paths of an SVG that a page draws in its own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from concert.evaluation.figures import COLOURS, LINE_STYLES, MARKERS, step_radii
from concert.evaluation.labels import RowLabel, guarantees, row_labels
from concert.evaluation.metrics import certified_at, certified_radii, share_interval
from concert.evaluation.rendering import rounded_down, rounded_up
from concert.records.reading import LoadedLog

WIDTH: Final = 760
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 50, 18, 14, 40
_MARKS: Final = 12


@dataclass(frozen=True)
class Curve:
    """One log's curve. path, band: of the SVG. marks: where its marker stands.

    colour, marker, dash: as in the figure. steps: the numbers of the curve as texts, none rounded
    in our favour, so that a page can read values off it: radius, value, low, high. default: value
    and interval at the chart's default radius, as texts.
    """

    label: RowLabel
    path: str
    band: str
    marks: list[tuple[float, float]]
    colour: int
    marker: str
    dash: str
    steps: dict[str, list[float]]
    default: tuple[str, str]


@dataclass(frozen=True)
class Chart:
    """All curves with the axes they share; `ticks` are (position, text).

    step, default: of the slider that reads values off the curves, in radii.
    """

    curves: list[Curve]
    largest: float
    step: float
    default: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]

    @property
    def decimals(self) -> int:
        """With how many decimals a radius of the slider is printed."""
        return max(2, -math.floor(math.log10(self.step) + 1e-9))

    @property
    def dashes(self) -> set[str]:
        """All styles of the curves' lines, to say what they mean."""
        return {curve.dash for curve in self.curves}

    @property
    def data(self) -> dict[str, Any]:
        """What a script needs to read values off the curves."""
        return {
            "largest": self.largest,
            "decimals": self.decimals,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "curves": [curve.steps for curve in self.curves],
        }


def certified_accuracy_chart(logs: Sequence[LoadedLog]) -> Chart:
    """Certified accuracy against l2 radius with pointwise exact 95 % bands, a curve per log."""
    largest = max(float(certified_radii(log.frame).max()) for log in logs)
    step = _nice_step(largest / 8, (1, 2.5, 5, 10)) if largest > 0 else 0.25
    end = step * max(1, math.ceil(largest / step - 1e-9))
    # Every end is a multiple of every such step, so that the slider reaches it.
    slide = _nice_step(end / 200, (1, 2, 5, 10))
    default = round(slide * math.floor(min(0.5, end / 2) / slide + 1e-9), 12)
    curves = [
        _curve(log, label, i, end, default)
        for i, (log, label) in enumerate(zip(logs, row_labels(logs), strict=True))
    ]
    digits = max(2, -math.floor(math.log10(step)))
    x_ticks = [(_x(step * i, end), f"{step * i:.{digits}f}") for i in range(round(end / step) + 1)]
    y_ticks = [(_y(i / 5), f"{i / 5:.1f}") for i in range(6)]
    return Chart(curves, end, slide, default, x_ticks, y_ticks)


def _curve(log: LoadedLog, label: RowLabel, number: int, end: float, default: float) -> Curve:
    radii = step_radii(certified_radii(log.frame))
    curve = share_interval(certified_at(log.frame, radii))
    values, low, high = (list(map(float, part)) for part in (curve.value, curve.low, curve.high))
    xs = [_x(float(radius), end) for radius in radii]
    # Beyond its last radius a curve is 0, with the interval that it has there.
    across = [*xs, WIDTH - RIGHT]
    upper, lower = _steps(across, [*high, high[-1]]), _steps(across, [*low, low[-1]])
    band = "M" + "L".join(_point(*point) for point in [*upper, *reversed(lower)]) + "Z"
    corners = _steps(xs, values)
    # Marks of curves that lie on each other stand in different places.
    shift = (number % 3 + 0.5) / 3
    places = [LEFT + (xs[-1] - LEFT) * (i + shift) / _MARKS for i in range(_MARKS)]
    heights = [values[next(i for i, x in enumerate(xs) if x >= place)] for place in places]
    marks = [(round(x, 1), round(_y(y), 1)) for x, y in zip(places, heights, strict=True)]
    marker = MARKERS[number % len(MARKERS)]
    steps = {
        "radius": [float(rounded_down(float(radius), 5)) for radius in radii],
        "value": [float(rounded_down(value, 4)) for value in values],
        "low": [float(rounded_down(value, 4)) for value in low],
        "high": [float(rounded_up(value, 4)) for value in high],
    }
    return Curve(
        label=label,
        path="M" + "L".join(_point(*point) for point in corners),
        band=band,
        marks=list(dict.fromkeys(marks)) if marker else [],
        colour=number % len(COLOURS),
        marker=marker,
        dash=LINE_STYLES[guarantees(log.frame)[-1]],
        steps=steps,
        default=_read(steps, default),
    )


def _read(steps: dict[str, list[float]], radius: float) -> tuple[str, str]:
    """Value and interval at a radius, as the page's script reads them.

    Beyond the last step, whose value is 0, they are those of the last step.
    """
    last = len(steps["radius"]) - 1
    at = next((i for i, step in enumerate(steps["radius"]) if step >= radius - 1e-9), last)
    low, high = rounded_down(steps["low"][at]), rounded_up(steps["high"][at])
    return rounded_down(steps["value"][at]), f"{low} to {high}"


def _steps(xs: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """The corners of a curve whose value at each x holds since the x before."""
    corners = [(xs[0], _y(values[0]))]
    for i in range(1, len(xs)):
        corners += [(xs[i - 1], _y(values[i])), (xs[i], _y(values[i]))]
    return corners


def _x(radius: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * radius / end


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value)


def _point(x: float, y: float) -> str:
    return f"{x:.1f} {y:.1f}"


def _nice_step(least: float, factors: Sequence[float]) -> float:
    """The smallest step that is a factor times a power of ten and at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in factors if factor * power >= least * (1 - 1e-9))

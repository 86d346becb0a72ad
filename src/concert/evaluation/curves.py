"""The curves of certified accuracy as paths of an SVG that a page draws in its own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from concert.evaluation.figures import COLOURS, LINE_STYLES, MARKERS, step_radii
from concert.evaluation.metrics import Interval, bootstrap, certified_at, certified_radii
from concert.evaluation.rendering import rounded_down, rounded_up
from concert.evaluation.tables import RowLabel, guarantees, row_labels
from concert.log_reading import LoadedLog

WIDTH: Final = 760
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 50, 18, 14, 40
_MARKS: Final = 12


@dataclass(frozen=True)
class Curve:
    """One log's curve. path, band: of the SVG. marks: where its marker stands.

    colour, marker, dash: as in the figure. steps: the numbers of the curve as texts, none rounded
    in our favour, so that a page can read values off it: radius, value, low, high.
    """

    label: RowLabel
    path: str
    band: str
    marks: list[tuple[float, float]]
    colour: int
    marker: str
    dash: str
    steps: dict[str, list[float]]


@dataclass(frozen=True)
class Chart:
    """All curves with the axes they share; `ticks` are (position, text)."""

    curves: list[Curve]
    largest: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]

    @property
    def data(self) -> dict[str, Any]:
        """What a script needs to read values off the curves."""
        return {
            "largest": self.largest,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "curves": [curve.steps for curve in self.curves],
        }


def certified_accuracy_chart(logs: Sequence[LoadedLog], seed: int = 0) -> Chart:
    """Certified accuracy against l2 radius with 95 % bootstrap bands, a curve per log."""
    largest = max(float(certified_radii(log.frame).max()) for log in logs)
    step = _nice_step(largest)
    end = step * max(1, math.ceil(largest / step - 1e-9))
    curves = [
        _curve(log, label, i, end, seed)
        for i, (log, label) in enumerate(zip(logs, row_labels(logs), strict=True))
    ]
    digits = max(2, -math.floor(math.log10(step)))
    x_ticks = [(_x(step * i, end), f"{step * i:.{digits}f}") for i in range(round(end / step) + 1)]
    y_ticks = [(_y(i / 5), f"{i / 5:.1f}") for i in range(6)]
    return Chart(curves, end, x_ticks, y_ticks)


def _curve(log: LoadedLog, label: RowLabel, number: int, end: float, seed: int) -> Curve:
    radii = step_radii(certified_radii(log.frame))
    curve: Interval = bootstrap(certified_at(log.frame, radii), seed)
    values, low, high = (list(map(float, part)) for part in (curve.value, curve.low, curve.high))
    xs = [_x(float(radius), end) for radius in radii]
    upper, lower = _steps(xs, high), _steps(xs, low)
    band = "M" + "L".join(_point(*point) for point in [*upper, *reversed(lower)]) + "Z"
    corners = _steps(xs, values)
    places = [LEFT + (xs[-1] - LEFT) * (i + 0.5) / _MARKS for i in range(_MARKS)]
    heights = [values[next(i for i, x in enumerate(xs) if x >= place)] for place in places]
    marks = [(round(x, 1), round(_y(y), 1)) for x, y in zip(places, heights, strict=True)]
    return Curve(
        label=label,
        path="M" + "L".join(_point(*point) for point in corners),
        band=band,
        marks=list(dict.fromkeys(marks)) if number >= len(COLOURS) else [],
        colour=number % len(COLOURS),
        marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
        dash=LINE_STYLES[guarantees(log.frame)[-1]],
        steps={
            "radius": [float(rounded_down(float(radius), 5)) for radius in radii],
            "value": [float(rounded_down(value, 4)) for value in values],
            "low": [float(rounded_down(value, 4)) for value in low],
            "high": [float(rounded_up(value, 4)) for value in high],
        },
    )


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


def _nice_step(largest: float) -> float:
    """A step of 1, 2.5 or 5 times a power of ten that gives at most eight ticks."""
    if largest <= 0:
        return 0.25
    raw = largest / 8
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2.5, 5, 10) if factor * power >= raw)

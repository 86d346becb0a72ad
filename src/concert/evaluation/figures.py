"""Certified accuracy against radius, one curve per log (the paper's Figure 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from concert.certificates import Guarantee
from concert.evaluation.labels import RowLabel, guarantees, row_labels
from concert.evaluation.metrics import (
    Floats,
    average_certified_radius,
    certified_at,
    certified_radii,
    share_interval,
)
from concert.evaluation.rendering import rounded_down
from concert.evaluation.tables import require_one_dataset, stopped_early
from concert.records.reading import LoadedLog

# Okabe and Ito's palette without its yellow, which is hard to see on white.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES: Final = {
    Guarantee.DEPLOYED: "solid",
    Guarantee.FROZEN: "dashed",
    Guarantee.NONE: "dotted",
    Guarantee.UNKNOWN: "dashdot",
}
# From the second log on curves have marks, so that colour is not all that tells them apart. Eight
# marks and seven colours make 56 different curves.
MARKERS: Final = ("", "o", "s", "^", "D", "v", "P", "X")
_POINTS: Final = 400
_LEGEND_WIDTH: Final = 78


def certified_accuracy_figure(logs: Sequence[LoadedLog]) -> bytes:
    """A PNG of certified accuracy against l2 radius, with pointwise exact 95 % bands.

    The line style is that of the weakest guarantee in the log. Raises ConcertError for logs of
    different data sets.
    """
    data = require_one_dataset(logs)
    names = [_legend_entry(log, label) for log, label in zip(logs, row_labels(logs), strict=True)]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(7.2, 4.2 + 0.22 * lines), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Beyond a log's last radius its accuracy is 0 with an interval, as before.
    end = 1.05 * max(float(certified_radii(log.frame).max()) for log in logs) or 1.0
    for i, (log, name) in enumerate(zip(logs, names, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        style = LINE_STYLES[guarantees(log.frame)[-1]]
        steps = np.append(step_radii(certified_radii(log.frame)), end)
        curve = share_interval(certified_at(log.frame, steps))
        axes.step(
            steps,
            curve.value,
            where="pre",
            color=colour,
            linestyle=style,
            linewidth=1.8,
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            # Marks of curves that lie on each other stand in different places.
            markevery=(0.08 * (i % 3) / 3, 0.08),
            label=name,
        )
        axes.fill_between(
            steps, curve.low, curve.high, step="pre", color=colour, alpha=0.13, linewidth=0
        )
    axes.set(xlabel="l2 radius, pixels in [0, 1]", ylabel="certified accuracy")
    axes.set_title(data, loc="left", parse_math=False)
    axes.set_title("bands: exact 95 % interval at each radius by itself", loc="right", fontsize=8)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside lower left", frameon=False, handlelength=3.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _legend_entry(log: LoadedLog, label: RowLabel) -> str:
    """Name, guarantee and AMCR in lines that the figure has room for."""
    name = ", ".join(filter(None, (label.method, label.sigma and f"sigma {label.sigma}")))
    radius = rounded_down(average_certified_radius(log.frame))
    # Sampling that stopped early leaves a lower bound.
    least = "at least " if stopped_early(log) else ""
    entry = f"{name}; guarantee: {label.guarantee}; AMCR {least}{radius}"
    return textwrap.fill(entry, _LEGEND_WIDTH)


def step_radii(radii: Floats) -> Floats:
    """0 and the radii at which the curve drops, ascending, at most 400, and one beyond the last.

    The accuracy at a step's right end holds for the whole step, so where steps are left out the
    curve is drawn lower than it is.
    """
    drops = np.unique(np.append(radii, 0.0))
    if len(drops) > _POINTS:
        drops = drops[np.linspace(0, len(drops) - 1, _POINTS).round().astype(int)]
    return np.append(drops, np.nextafter(drops[-1], np.inf))

"""The picture of an explanation: maps above, certificate below, in words and to scale.

Every part says for whom the certificate holds: solid blue for the classifier as deployed, warm and
dashed for frozen noise only, nothing drawn for a radius that guarantees nothing.
"""

from __future__ import annotations

import math
import warnings
from io import BytesIO
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from concert.certificates import Guarantee
from concert.evaluation.explain import panels
from concert.evaluation.explain.coverage import is_ball, uniform_change
from concert.evaluation.explain.explain import Explanation
from concert.evaluation.explain.lettering import plain, short, wrapped
from concert.evaluation.explain.panels import BLUE, INK, ORANGE, QUIET, displayed
from concert.evaluation.rendering import rounded_down
from concert.evaluation.words import (
    claims_a_region,
    radius_text,
    region_sentences,
    restriction,
    sentence_of,
)
from concert.records.record import ABSTAIN

__all__ = ["BLUE", "INK", "ORANGE", "QUIET", "displayed", "explanation_figure", "rendered"]

# For names of classes; matplotlib complains about fonts that are not installed.
_FONTS: Final = (
    "DejaVu Sans",
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("Noto Sans", "Noto Sans Devanagari", "Arial Unicode MS", "Segoe UI Symbol"),
)
_STYLE: Final[dict[Any, Any]] = {
    "hatch.color": ORANGE,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "concert",
}
_LONGEST_NAME: Final = 56


def explanation_figure(explanation: Explanation) -> Figure:
    """A figure of 10 x 6.6 inches; radii in it are rounded down.

    Its label holds its title and, on the second line, its description, which `rendered` writes.
    """
    certification = explanation.certification
    abstains = certification.label == ABSTAIN
    title = "Abstains" if abstains else f"Answer: {short(explanation.answer, _LONGEST_NAME)}"
    with matplotlib.rc_context(_style()):
        figure = Figure(figsize=(10, 6.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        above = figure.add_gridspec(1, 4, left=0.02, right=0.94, bottom=0.6, top=0.845, wspace=0.5)
        panels.draw_maps([figure.add_subplot(above[0, column]) for column in range(4)], explanation)
        below = figure.add_gridspec(1, 4, left=0.02, right=0.94, bottom=0.25, top=0.49, wspace=0.5)
        panels.draw_covered(figure.add_subplot(below[0, 0]), explanation)
        panels.draw_votes(figure.add_subplot(below[0, 1]), explanation)
        _words(figure.add_subplot(below[0, 2:]), explanation)
        _scale(figure.add_axes((0.02, 0.07, 0.96, 0.085)), explanation)
        plain(figure.text(0.02, 0.955, title, fontsize=14, fontweight="bold", color=INK))
        if explanation.true_class:
            # On a line of its own, so that a long answer does not push it out of the picture.
            true = f"true class: {short(explanation.true_class, 100)}"
            plain(figure.text(0.02, 0.925, true, fontsize=10, color=INK))
    figure.set_label(f"{title}\n{' '.join(_paragraphs(explanation))}")
    return figure


def rendered(figure: Figure, kind: Literal["png", "svg"], dpi: int = 150) -> bytes:
    """The figure's file; the same figure gives the same bytes.

    An SVG tells screen readers that it is an image, its title and its description.
    """
    buffer = BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    title, _, description = str(figure.get_label()).partition("\n")
    if title:
        metadata |= {"Title": title, "Description": description}
    with matplotlib.rc_context(_style()), warnings.catch_warnings():
        # A name in a script that no font here has is drawn as boxes; the SVG holds it as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    if kind == "png":
        return buffer.getvalue()
    described = buffer.getvalue().replace(b"<svg ", b'<svg role="img" ', 1)
    if title:
        element = f"</title>\n <desc>{escape(description)}</desc>".encode()
        described = described.replace(b"</title>", element, 1)
    return described


def _style() -> dict[Any, Any]:
    installed = {font.name for font in fontManager.ttflist}
    return _STYLE | {"font.family": [font for font in _FONTS if font in installed]}


def _paragraphs(explanation: Explanation) -> list[str]:
    """What is certified, the region's shape, what it covers, by which certificate."""
    certification, names = explanation.certification, explanation.class_names
    candidate = certification.candidate
    named = short(names[candidate], _LONGEST_NAME) if 0 <= candidate < len(names) else ""
    answer = short(explanation.answer, _LONGEST_NAME)
    last = f"Certificate: {certification.certificate}."
    if certification.radius > 0:
        last += f" Guarantee: {Guarantee(certification.guarantee).value}."
    return [
        sentence_of(certification, answer, explanation.alpha, named),
        *region_sentences(certification, panels.image_shape(explanation)),
        last,
    ]


def _words(axes: Axes, explanation: Explanation) -> None:
    axes.axis("off")
    panels.headline(axes, "in words")
    paragraphs = _paragraphs(explanation)
    # The smallest size holds the longest text: frozen noise, an ellipsoid and a long name.
    for size, columns in ((8.5, 72), (8.0, 77), (7.5, 82), (7.0, 88)):
        lines = [line for part in paragraphs for line in wrapped(part, columns)]
        if len(lines) * size * 1.4 <= 126:
            break
    text = "\n".join(lines)
    plain(axes.text(0, 1.0, text, va="top", fontsize=size, color=INK, linespacing=1.4))


def _scale(axes: Axes, explanation: Explanation) -> None:
    """The radius on one line with changes that everyone knows."""
    certification, shape = explanation.certification, panels.image_shape(explanation)
    dim, radius = math.prod(shape), certification.radius
    longest = radius
    if certification.axes is not None and not is_ball(radius, certification.axes):
        longest = float(certification.axes.max())
    by = {k: (math.sqrt(dim) * k / 255, f"all values\nby {k}/255") for k in (1, 2, 4, 8)}
    pixel = (math.sqrt(shape[0]), "one pixel,\nblack to white")
    end = 1.12 * max(radius, longest, by[4][0])
    _draw_radius(axes, explanation, longest, end)
    shown: list[float] = []
    for value, name in (by[8], pixel, by[4], by[2], by[1]):
        # Marks whose names would overlap are left out, the last ones first.
        if value > 0.97 * end or any(abs(value - other) < 0.075 * end for other in shown):
            continue
        shown.append(value)
        axes.plot([value, value], [-0.6, 0.8], color=INK, linewidth=0.8)
        # A name near the left end would begin outside of the picture.
        ha = "left" if value < 0.04 * end else "center"
        axes.text(value, 0.9, name, ha=ha, va="bottom", fontsize=7.5, color=INK)
    note = "l2 norm of a change (pixels in [0, 1])."
    if claims_a_region(certification):
        at_once = uniform_change(radius, certification.axes, dim) * 255
        change = rounded_down(at_once, 2) if at_once >= 0.01 else radius_text(at_once)
        if panels.is_frozen(explanation):
            note += f" For frozen noise only: all {dim} values at once, up to {change}/255."
            note += " Unhatched: along the longest semi-axis." if longest > radius else ""
        else:
            whom = restriction(certification)
            note += f" {whom}:" if whom else ""
            note += f" All {dim} values together may change by up to {change}/255."
            if longest > radius:
                note += " Pale: up to the longest semi-axis, covered in its direction only."
    axes.set_xlabel(note, fontsize=8, color=QUIET, loc="left")
    axes.set_xlim(0, end)
    axes.set_ylim(-0.6, 2.2)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_radius(axes: Axes, explanation: Explanation, longest: float, end: float) -> None:
    """The bar: solid for the deployed classifier, hatched and open for frozen noise, else none."""
    certification, radius = explanation.certification, explanation.certification.radius
    solid = claims_a_region(certification) and not panels.is_frozen(explanation)
    label = f"radius {radius_text(radius)}"
    if radius <= 0:
        label = "nothing is certified"
    elif solid:
        axes.barh(0, radius, height=1, color=BLUE)
        axes.barh(0, longest - radius, left=radius, height=1, color=BLUE, alpha=0.3)
    elif panels.is_frozen(explanation):
        label += ", for frozen noise only"
        for left, width, hatch in ((0, radius, "///"), (radius, longest - radius, "")):
            axes.barh(
                0,
                width,
                left=left,
                height=1,
                facecolor="none",
                edgecolor=ORANGE,
                hatch=hatch,
                linestyle=(0, (4, 2)),
            )
    else:
        known = certification.guarantee == Guarantee.NONE
        label = f"a formula's {label}, which guarantees nothing" if known else f"{label}, not known"
        label += "" if known else " to guarantee anything"
        longest = radius
        axes.plot([radius, radius], [-0.5, 0.5], color=QUIET, linewidth=1.2, linestyle=":")
    # A letter takes about a hundredth of the line.
    inside = radius > (0.01 * len(label) + 0.02) * end
    beyond = longest if longest < 0.6 * end else radius
    axes.text(
        radius - 0.01 * end if inside else beyond + 0.01 * end,
        0,
        label,
        ha="right" if inside else "left",
        va="center",
        color="white" if inside and solid else INK,
        fontsize=9,
        fontweight="bold",
        zorder=4,
        bbox={"facecolor": BLUE if inside and solid else "white", "edgecolor": "none", "pad": 1.5},
    )

"""The picture of an explanation: maps above, certificate below, in words and to scale.

Colours are Okabe and Ito's and cividis, which people with any kind of colour vision tell apart;
what is not covered is hatched as well.
"""

from __future__ import annotations

import math
import textwrap
from io import BytesIO
from typing import Any, Final, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from torch import Tensor

from concert.certificates import Guarantee, sigma_statistics
from concert.evaluation.coverage import patch_coverage, telling_side, uniform_change
from concert.evaluation.explain import Explanation
from concert.evaluation.rendering import rounded_down
from concert.records import ABSTAIN

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
INK: Final = "#222222"
QUIET: Final = "#6b6b6b"
CHANGE: Final = 8 / 255
_MOST_CLASSES: Final = 5
_STYLE: Final[dict[Any, Any]] = {
    "hatch.color": ORANGE,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "concert",
}


def explanation_figure(explanation: Explanation) -> Figure:
    """A figure of 10 x 6.6 inches; radii in it are rounded down."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        above = figure.add_gridspec(1, 4, left=0.02, right=0.94, bottom=0.6, top=0.86, wspace=0.5)
        _maps([figure.add_subplot(above[0, column]) for column in range(4)], explanation)
        below = figure.add_gridspec(1, 4, left=0.02, right=0.94, bottom=0.25, top=0.5, wspace=0.5)
        _covered(figure.add_subplot(below[0, 0]), explanation)
        _votes(figure.add_subplot(below[0, 1]), explanation)
        _words(figure.add_subplot(below[0, 2:]), explanation)
        _scale(figure.add_axes((0.02, 0.075, 0.96, 0.085)), explanation)
        abstains = explanation.certification.label == ABSTAIN
        title = "Abstains" if abstains else f"Answer: {explanation.answer}"
        if explanation.true_class:
            title += f"   (true class: {explanation.true_class})"
        _text(figure.text(0.02, 0.955, title, fontsize=14, fontweight="bold", color=INK))
    return figure


def rendered(figure: Figure, kind: Literal["png", "svg"], dpi: int = 150) -> bytes:
    """The figure's file; the same figure gives the same bytes."""
    buffer = BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def displayed(image: Tensor) -> np.ndarray[Any, Any]:
    """An image (C, H, W) as matplotlib shows it, (H, W, 3), cut to [0, 1]."""
    return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def _maps(axes: list[Axes], explanation: Explanation) -> None:
    image, entropy, sigma, noisy = axes
    _picture(image, "image").imshow(displayed(explanation.image), interpolation="nearest")
    shown = _picture(entropy, "entropy map: how ambiguous\nthe colour is, 0 to 1").imshow(
        explanation.entropy.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
    )
    _colour_bar(entropy, shown)
    values = explanation.sigma.double().numpy()
    what = "mean tau" if explanation.noise == "queried" else "sigma map"
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        _picture(sigma, f"{what}: {low:.3f} at every pixel")
        low, high = 0.0, 2 * high
    else:
        _picture(sigma, f"{what}: noise per pixel,\n{low:.3f} to {high:.3f}")
    shown = sigma.imshow(values, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    _colour_bar(sigma, shown)
    _picture(noisy, "a noisy copy, what is voted on\n(cut to [0, 1] for display)")
    noisy.imshow(displayed(explanation.noisy), interpolation="nearest")


def _covered(axes: Axes, explanation: Explanation) -> None:
    certification, shape = explanation.certification, _shape(explanation)
    radius, ellipsoid = certification.radius, certification.axes
    side = telling_side(radius, ellipsoid, shape, CHANGE)
    covered = np.zeros(shape[1:], dtype=bool)
    if side:
        covered = patch_coverage(radius, ellipsoid, shape, CHANGE, side)
    if side >= min(shape[1:]) and covered.all():
        title = "a change of up to 8/255 in every\nvalue of the image at once"
    elif side:
        title = f"a change of up to 8/255 in all of\n{side} x {side} pixels around here"
    else:
        title = "a change of 8/255 in one pixel"
    _picture(axes, title)
    axes.imshow(displayed(explanation.image) * 0.45 + 0.5, interpolation="nearest")
    tint = np.zeros((*covered.shape, 4))
    tint[covered] = (*matplotlib.colors.to_rgb(BLUE), 0.5)
    axes.imshow(tint, interpolation="nearest")
    if not covered.all():
        extent = (-0.5, shape[2] - 0.5, -0.5, shape[1] - 0.5)
        axes.contourf(
            np.kron((~covered).astype(float), np.ones((4, 4))),
            levels=[0.5, 1.5],
            colors="none",
            hatches=["////"],
            extent=extent,
            origin="lower",
        )
    handles = []
    if covered.any():
        share = f"covered ({_percent(covered.mean())})"
        handles.append(Patch(facecolor=BLUE, alpha=0.5, label=share))
    if not covered.all():
        handles.append(Patch(facecolor="none", edgecolor=ORANGE, hatch="////", label="not covered"))
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        borderaxespad=0,
        borderpad=0.2,
        frameon=False,
        fontsize=8,
        handlelength=1.6,
    )


def _votes(axes: Axes, explanation: Explanation) -> None:
    certification = explanation.certification
    total = certification.n_used
    bars = [
        (explanation.class_names[k], count, BLUE if k == certification.candidate else "#9a9a9a")
        for k, count in sorted(enumerate(certification.votes), key=lambda vote: -vote[1])
        if count
    ][:_MOST_CLASSES]
    undecided = total - sum(certification.votes)
    if undecided:
        bars.append(("undecided", undecided, "#d0d0d0"))
    for position, (name, count, colour) in enumerate(bars):
        axes.barh(position, count / total, color=colour, height=0.34)
        label = f"{_short(name)}: {_percent(count / total)}"
        _text(axes.text(0, position - 0.26, label, va="bottom", fontsize=8, color=INK))
    axes.axvline(certification.p_lower, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
    axes.set_ylim(max(len(bars), 3) - 0.6, -0.8)
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8)
    _title(axes, f"votes of {total:,} noisy copies")
    axes.set_xlabel(
        f"dashed: certified share, {rounded_down(certification.p_lower, 4)}",
        fontsize=8,
        color=QUIET,
        loc="left",
    )
    axes.spines[["top", "right", "left"]].set_visible(False)


def _words(axes: Axes, explanation: Explanation) -> None:
    axes.axis("off")
    certification = explanation.certification
    _title(axes, "in words")
    paragraphs = [explanation.sentence]
    if certification.radius > 0 and certification.axes is not None:
        low, middle, high = sigma_statistics(certification.axes)
        region = "the ball and an ellipsoid" if low < certification.radius else "an ellipsoid"
        paragraphs.append(
            f"The certified region is {region} with semi-axes of {rounded_down(low)} to "
            f"{rounded_down(high)}, {rounded_down(middle)} in the geometric mean. Where they are "
            "long, more change is covered."
        )
    if certification.radius > 0:
        paragraphs.append(_patches(explanation))
    paragraphs.append(
        f"Certificate: {certification.certificate}. Guarantee: "
        f"{Guarantee(certification.guarantee).value}."
    )
    text = "\n".join(textwrap.fill(part, 72) for part in paragraphs)
    _text(axes.text(0, 1.0, text, va="top", fontsize=8.5, color=INK, linespacing=1.45))


def _patches(explanation: Explanation) -> str:
    """Up to which patch a change of 8/255 is covered, everywhere and at least somewhere."""
    certification, shape = explanation.certification, _shape(explanation)
    everywhere = somewhere = 0
    for side in range(1, min(shape[1:]) + 1):
        covered = patch_coverage(certification.radius, certification.axes, shape, CHANGE, side)
        everywhere = side if covered.all() else everywhere
        somewhere = side if covered.any() else somewhere
    if everywhere == min(shape[1:]):
        return "A change of up to 8/255 is covered even in every value of the image at once."
    text = f"A change of up to 8/255 is covered in any patch of {everywhere} x {everywhere} pixels"
    if somewhere > everywhere:
        text += f", and in some of up to {somewhere} x {somewhere}"
    return f"{text}." if somewhere else "A change of 8/255 in one pixel is not covered."


def _scale(axes: Axes, explanation: Explanation) -> None:
    """The radius on one line with changes that everyone knows."""
    certification, shape = explanation.certification, _shape(explanation)
    dim, radius = math.prod(shape), certification.radius
    longest = float(certification.axes.max()) if certification.axes is not None else radius
    by = {k: (math.sqrt(dim) * k / 255, f"all values\nby {k}/255") for k in (1, 2, 4, 8)}
    pixel = (math.sqrt(shape[0]), "one pixel,\nblack to white")
    end = 1.12 * max(longest, by[4][0])
    axes.barh(0, radius, height=1, color=BLUE)
    if longest > radius > 0:
        axes.barh(0, longest - radius, left=radius, height=1, color=BLUE, alpha=0.3)
    inside = radius > 0.25 * end
    axes.text(
        radius - 0.01 * end if inside else longest + 0.01 * end,
        0,
        f"radius {rounded_down(radius)}" if radius > 0 else "nothing is certified",
        ha="right" if inside else "left",
        va="center",
        color="white" if inside else INK,
        fontsize=9,
        fontweight="bold",
        zorder=4,
        bbox={"facecolor": BLUE if inside else "white", "edgecolor": "none", "pad": 1.5},
    )
    shown: list[float] = []
    for value, name in (by[8], pixel, by[4], by[2], by[1]):
        # Marks whose names would overlap are left out, the last ones first.
        if value > 0.97 * end or any(abs(value - other) < 0.075 * end for other in shown):
            continue
        shown.append(value)
        axes.plot([value, value], [-0.6, 0.8], color=INK, linewidth=0.8)
        axes.text(value, 0.9, name, ha="center", va="bottom", fontsize=7.5, color=INK)
    change = uniform_change(radius, certification.axes, dim) * 255
    note = "l2 norm of a change (pixels in [0, 1])."
    if radius > 0:
        note += f" All {dim} values together may change by up to {rounded_down(change, 2)}/255."
    if certification.axes is not None and radius > 0:
        note += " Pale: up to the longest semi-axis, covered in its direction only."
    axes.set_xlabel(note, fontsize=8, color=QUIET, loc="left")
    axes.set_xlim(0, end)
    axes.set_ylim(-0.6, 2.2)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _shape(explanation: Explanation) -> tuple[int, int, int]:
    channels, height, width = explanation.image.shape
    return channels, height, width


def _picture(axes: Axes, title: str) -> Axes:
    _title(axes, title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#bbbbbb")
    return axes


def _colour_bar(axes: Axes, shown: AxesImage) -> None:
    beside = axes.inset_axes((1.04, 0, 0.05, 1))
    axes.figure.colorbar(shown, cax=beside).ax.tick_params(labelsize=7)
    beside.spines[:].set_visible(False)


def _title(axes: Axes, title: str) -> None:
    _text(axes.set_title(title, fontsize=9, color=INK, loc="left"))


def _text(text: Any) -> None:
    """Names of classes may hold dollars, which are no formulas."""
    text.set_parse_math(False)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{rounded_down(100 * float(share), 1)} %"

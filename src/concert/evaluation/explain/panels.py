"""The panels of an explanation that show pictures and votes, and what all its panels share.

Colours are Okabe and Ito's and cividis, which people with any kind of colour vision tell apart;
what is not covered is hatched as well. What holds for frozen noise only is never blue.
"""

from __future__ import annotations

from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from concert.certificates import Guarantee
from concert.evaluation.explain.coverage import is_ball, patch_coverage, telling_patch
from concert.evaluation.explain.explain import Explanation
from concert.evaluation.explain.lettering import plain, short
from concert.evaluation.rendering import rounded_down
from concert.evaluation.words import claims_a_region, largest_patch, percent

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
AMBER: Final = "#E69F00"
INK: Final = "#222222"
QUIET: Final = "#6b6b6b"
# Changes of each value in units of 1/255, of which the telling one is drawn.
CHANGES: Final = (8, 16, 32, 64)
_MOST_CLASSES: Final = 5
# Noise that computes a sigma map of its own for every image.
_SHAPED: Final = ("generated", "queried")


def displayed(image: Tensor) -> NDArray[Any]:
    """An image (C, H, W) as matplotlib shows it, (H, W, 3), cut to [0, 1]."""
    return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def draw_maps(axes: list[Axes], explanation: Explanation) -> None:
    """The image, its entropy map, its sigma map and a noisy copy."""
    image, entropy, sigma, noisy = axes
    _picture(image, "image").imshow(displayed(explanation.image), interpolation="nearest")
    by = f" by {short(explanation.colorizer_name, 12)}" if explanation.colorizer_name else ""
    shown = _picture(entropy, f"entropy map{by}: colour's\nambiguity, relative within this image")
    _colour_bar(
        entropy,
        shown.imshow(
            explanation.entropy.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
        ),
    )
    used = explanation.noise in _SHAPED
    note = "not an input of the classifier" if used else "not used by this noise"
    entropy.set_xlabel(note, fontsize=8, color=QUIET, loc="left")
    values = explanation.sigma.double().numpy()
    what = "mean noise level (tau)" if explanation.noise == "queried" else "sigma map"
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        _picture(sigma, f"{what}:\n{low:.3f} at every pixel")
        low, high = 0.0, 2 * high
    else:
        _picture(sigma, f"{what}\nper pixel, {low:.3f} to {high:.3f}")
    shown_sigma = sigma.imshow(values, cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    _colour_bar(sigma, shown_sigma)
    _picture(noisy, "a noisy copy like those voted on\n(cut to [0, 1] for display)")
    noisy.imshow(displayed(explanation.noisy), interpolation="nearest")


def draw_covered(axes: Axes, explanation: Explanation) -> None:
    """Where patches of the telling size and change are covered, in sentences where all are alike.

    No picture where nothing is certified, or the number guarantees nothing.
    """
    certification, shape = explanation.certification, image_shape(explanation)
    radius, ellipsoid = certification.radius, certification.axes
    if not claims_a_region(certification):
        text = (
            "No change is certified\nto leave the answer as it is."
            if radius <= 0
            else "Nothing is drawn: the radius\ndoes not guarantee anything."
        )
        _sentences(axes, "what is covered", text)
        return
    found = None
    if not is_ball(radius, ellipsoid):
        found = telling_patch(radius, ellipsoid, shape, [step / 255 for step in CHANGES])
    if found is None:
        steps = ((step, largest_patch(certification, shape, step)) for step in CHANGES)
        rows = "\n".join(f"{step}/255:  {patch}" for step, patch in steps)
        title = "covered: a change of each value by\nup to this, in any one patch of"
        if is_frozen(explanation):
            title = f"for frozen noise only\n{title}"
        _sentences(axes, title, rows)
        return
    change, side = found
    covered = patch_coverage(radius, ellipsoid, shape, change, side)
    _draw_patches(axes, explanation, covered, round(change * 255), side)


def _draw_patches(
    axes: Axes, explanation: Explanation, covered: NDArray[np.bool_], change: int, side: int
) -> None:
    """A square per place of the patch, at its centre; pixels at which no patch is centred stay."""
    frozen = is_frozen(explanation)
    _, height, width = image_shape(explanation)
    who = "for frozen noise only: up to" if frozen else "covered: a change of up to"
    _picture(axes, f"{who} {change}/255\nin all of {side} x {side} pixels centred here")
    axes.imshow(displayed(explanation.image) * 0.45 + 0.5, interpolation="nearest")
    left, top = side / 2 - 1, side / 2 - 1
    extent = (left, left + covered.shape[1], top + covered.shape[0], top)
    colour = AMBER if frozen else BLUE
    tint = np.zeros((*covered.shape, 4))
    tint[covered] = (*matplotlib.colors.to_rgb(colour), 0.5)
    axes.imshow(tint, interpolation="nearest", extent=extent)
    axes.contourf(
        # Repeated, so that the hatched area ends near the squares' borders, not at their centres.
        np.kron((~covered).astype(float), np.ones((4, 4))),
        levels=[0.5, 1.5],
        colors="none",
        hatches=["////"],
        extent=(extent[0], extent[1], extent[3], extent[2]),
        origin="lower",
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    share = f"{percent(covered.mean())} of {covered.size:,} patches"
    label = f"covered for frozen noise only:\n{share}" if frozen else f"covered: {share}"
    axes.legend(
        handles=[
            Patch(facecolor=colour, alpha=0.5, label=label),
            Patch(facecolor="none", edgecolor=ORANGE, hatch="////", label="not covered"),
        ],
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        borderaxespad=0,
        borderpad=0.2,
        labelspacing=0.3,
        frameon=False,
        fontsize=8,
        handlelength=1.6,
    )


def draw_votes(axes: Axes, explanation: Explanation) -> None:
    """The votes of the certifying draws as bars, the candidate's lower bound as a dashed line."""
    certification = explanation.certification
    total = certification.n_used
    if total <= 0:
        _sentences(axes, "votes", "No noisy copies were counted.")
        return
    voted = sorted(enumerate(certification.votes), key=lambda vote: -vote[1])
    voted = [(k, count) for k, count in voted if count]
    bars = [
        (
            short(explanation.class_names[k], 24),
            count,
            BLUE if k == certification.candidate else "#9a9a9a",
        )
        for k, count in voted[:_MOST_CLASSES]
    ]
    others = [count for _, count in voted[_MOST_CLASSES:]]
    if others:
        plural = "class" if len(others) == 1 else "classes"
        bars.append((f"others ({len(others)} {plural})", sum(others), "#9a9a9a"))
    undecided = total - sum(certification.votes)
    if undecided:
        bars.append(("undecided", undecided, "#d0d0d0"))
    for position, (name, count, colour) in enumerate(bars):
        axes.barh(position, count / total, color=colour, height=0.34)
        label = f"{name}: {percent(count / total)}"
        plain(
            axes.text(
                0,
                position - 0.24,
                label,
                va="bottom",
                fontsize=8 if len(bars) <= _MOST_CLASSES else 7,
                color=INK,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
        )
    if 0 <= certification.p_lower <= 1:
        axes.axvline(certification.p_lower, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
        share = f"dashed: lower bound, {rounded_down(certification.p_lower, 4)}"
        axes.set_xlabel(share, fontsize=8, color=QUIET, loc="left")
    axes.set_ylim(max(len(bars), 3) - 0.6, -0.8)
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8)
    headline(axes, f"votes of {total:,} noisy copies")
    axes.spines[["top", "right", "left"]].set_visible(False)


def image_shape(explanation: Explanation) -> tuple[int, int, int]:
    """(C, H, W) of the image."""
    channels, height, width = explanation.image.shape
    return channels, height, width


def is_frozen(explanation: Explanation) -> bool:
    """Whether the region holds for a frozen sigma map only."""
    return explanation.certification.guarantee == Guarantee.FROZEN


def headline(axes: Axes, title: str) -> None:
    """The title of a panel."""
    plain(axes.set_title(title, fontsize=9, color=INK, loc="left"))


def _sentences(axes: Axes, title: str, text: str) -> None:
    axes.axis("off")
    headline(axes, title)
    plain(axes.text(0, 0.96, text, va="top", fontsize=8.5, color=INK, linespacing=1.6))


def _picture(axes: Axes, title: str) -> Axes:
    headline(axes, title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#bbbbbb")
    return axes


def _colour_bar(axes: Axes, shown: AxesImage) -> None:
    beside = axes.inset_axes((1.04, 0, 0.05, 1))
    axes.figure.colorbar(shown, cax=beside).ax.tick_params(labelsize=7)
    beside.spines[:].set_visible(False)

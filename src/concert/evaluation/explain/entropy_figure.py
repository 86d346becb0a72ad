"""Pictures beside their entropy maps: where colours are ambiguous, and where they are not."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from concert.colorization import entropy_map
from concert.evaluation.explain.figure import INK, QUIET, displayed


def entropy_figure(images: Sequence[Tensor], names: Sequence[str], colorizer: nn.Module) -> Figure:
    """A row per image (C, H, W) in [0, 1], of any size: itself and its entropy map."""
    heights = [9.2 / 2 * image.shape[1] / image.shape[2] for image in images]
    figure = Figure(figsize=(10, sum(heights) + 0.45 * len(images) + 0.5), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(images), 2, squeeze=False, height_ratios=heights)
    for (left, right), image, name in zip(grid, images, names, strict=True):
        left.imshow(displayed(image))
        entropies = entropy_map(image[None], colorizer)[0, 0].numpy()
        shown = right.imshow(entropies, cmap="cividis", vmin=0, vmax=1)
        for axes, title in ((left, name), (right, "entropy map")):
            axes.set_title(title, fontsize=10, color=INK, loc="left", parse_math=False)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=grid[:, 1], shrink=0.6, pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    bar.outline.set_visible(False)
    figure.supxlabel(
        "1: the colours that the colour model holds possible are many, and an attacker can hide a "
        "change of colour. 0: they are few.",
        fontsize=9,
        color=QUIET,
    )
    return figure

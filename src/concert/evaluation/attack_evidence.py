"""Do attacks perturb where the entropy is high? The paper's Figure 5, and figures behind it.

    python -m concert.evaluation.attack_evidence ATTACK [--out DIR] [--colorizer NAME]
        [--colorizer_args '{...}'] [--trust true] [--shown 6]

ATTACK is a folder that `concert attack` wrote. For each image the magnitude of its perturbation is
ranked, pixel by pixel, against the entropy map of the clean image, and as a control against that of
another image of the set, so that a pattern common to all images is told from one that follows the
image. cAdv begins at a recoloured image: there what is there before the first step and what the
attack changes from there are ranked too, each with a control of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from concert.colorization import build_colorizer, entropy_map
from concert.errors import ConcertError
from concert.evaluation import rendering
from concert.evaluation.attack_folder import read_attack, read_images, told_of
from concert.evaluation.correlation import spearman_rows
from concert.evaluation.metrics import FEWEST_IMAGES, Floats, bootstrap
from concert.files import write_atomically
from concert.import_paths import import_from_here
from concert.tool import as_json, run_tool


@dataclass(frozen=True)
class Average:
    """A mean over images with its 95 % bootstrap interval, None for fewer than 10 images."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Followed:
    """Spearman correlations of the magnitudes of changes with entropy maps, over a set of images.

    correlation: of the change with the image's own map. control: with another image's. difference:
    of the two, paired by image. positive: share of images whose correlation is positive. images:
    used; constant: left out, because the map or the change is constant.
    """

    images: int
    constant: int
    positive: float
    correlation: Average
    control: Average
    difference: Average


@dataclass(frozen=True)
class Evidence:
    """Whether an attack follows the entropy.

    whole: the perturbation. Of cAdv, which begins at a recoloured image, else None: start, what is
    there before the first step; own, the change from there; gained, by how much the correlation of
    the whole exceeds that of the start, of the images that have both. What fewer than two images
    can be used for is None.
    """

    whole: Followed
    start: Followed | None = None
    own: Followed | None = None
    gained: Average | None = None


def magnitude(clean: Tensor, attacked: Tensor) -> Tensor:
    """How much each pixel changed: l2 norm over channels, (B, 1, H, W)."""
    norms: Tensor = torch.linalg.vector_norm(attacked - clean, dim=1, keepdim=True)
    return norms


def derangement(count: int, seed: int) -> NDArray[np.int64]:
    """A random permutation of 0..count-1 without fixed points, for count of at least 2."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    shuffled = np.empty(count, dtype=np.int64)
    # Each goes to the next of a random circle.
    shuffled[order] = np.roll(order, 1)
    return shuffled


def attack_evidence(
    clean: Tensor,
    attacked: Tensor,
    colorizer: nn.Module,
    seed: int = 0,
    start: Tensor | None = None,
) -> tuple[Evidence, Floats]:
    """The evidence of clean and attacked images (B, C, H, W), and the images' correlations (B,).

    `start`: what cAdv made of them before its first step. Correlations of images that are left out
    are NaN. Raises ConcertError where fewer than two images can be used.
    """
    parts = [clean[row : row + 64] for row in range(0, len(clean), 64)]
    maps = _flat(torch.cat([entropy_map(part, colorizer) for part in parts]))
    whole, each = followed(clean, attacked, maps, seed)
    if whole is None:
        raise ConcertError(
            "fewer than two images have a perturbation and an entropy map that vary: attack more"
        )
    if start is None:
        return Evidence(whole), each
    (before, at_start), (own, _) = (
        followed(*pair, maps, seed) for pair in ((clean, start), (start, attacked))
    )
    gained = each - at_start
    gained = gained[np.isfinite(gained)]
    return Evidence(whole, before, own, _average(gained, seed) if len(gained) > 1 else None), each


def followed(
    before: Tensor, after: Tensor, maps: Floats, seed: int
) -> tuple[Followed | None, Floats]:
    """How changes of images (B, C, H, W) follow maps (B, H * W), and the correlations (B,).

    None where fewer than two images can be used; correlations of the others are NaN.
    """
    changes = _flat(magnitude(before, after))
    each = spearman_rows(changes, maps)
    used = np.isfinite(each)
    if used.sum() < 2:
        return None, each
    control = spearman_rows(changes[used], maps[used][derangement(int(used.sum()), seed)])
    found = Followed(
        images=int(used.sum()),
        constant=int((~used).sum()),
        positive=float((each[used] > 0).mean()),
        correlation=_average(each[used], seed),
        control=_average(control, seed),
        difference=_average(each[used] - control, seed),
    )
    return found, each


def _flat(maps: Tensor) -> Floats:
    return maps.flatten(1).double().numpy()


def _average(values: Floats, seed: int) -> Average:
    interval = bootstrap(values, seed)
    if len(values) < FEWEST_IMAGES:
        return Average(float(interval.value), None, None)
    return Average(float(interval.value), float(interval.low), float(interval.high))


def evidence_figure(
    clean: Tensor, attacked: Tensor, colorizer: nn.Module, correlations: Sequence[float]
) -> bytes:
    """A PNG: for each image the clean and the attacked one, the magnitude and the entropy map."""
    columns = ("clean", "attacked", "perturbation", "entropy")
    changes, entropy = magnitude(clean, attacked), entropy_map(clean, colorizer)
    count = len(clean)
    figure = Figure(figsize=(6.4, 1.6 * count + 0.3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, len(columns), squeeze=False)
    for row, axes in enumerate(grid):
        shown = (clean[row], attacked[row], changes[row], entropy[row])
        for axis, image, title in zip(axes, shown, columns, strict=True):
            flat = image.movedim(0, -1).numpy()
            grey = flat.shape[-1] == 1
            limits = {"vmin": 0.0, "vmax": 1.0} if title != "perturbation" else {"vmin": 0.0}
            axis.imshow(flat[..., 0] if grey else flat, cmap="gray" if grey else None, **limits)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=9)
        axes[0].set_ylabel(f"rank corr. {correlations[row]:.2f}", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def main(
    attack: Path,
    out: Path | None = None,
    colorizer: str = "compact",
    colorizer_args: dict[str, Any] | None = None,
    trust: bool = False,
    shown: int = 6,
    seed: int = 0,
) -> str:
    """The evidence of an attack as JSON; with `out` also DIR/evidence.{json,csv,png}.

    evidence.csv has the correlation of each image, empty where it was left out. `colorizer`,
    `colorizer_args` and `trust` are those of `concert attack`, here for the entropy maps.
    """
    if trust:
        import_from_here()
    images, told = read_images(attack), told_of(read_attack(attack))
    clean, attacked = images.clean, images.attacked
    network = build_colorizer(colorizer, colorizer_args, trust)
    evidence, each = attack_evidence(clean, attacked, network, seed, images.start)
    chosen = {"colorizer": colorizer, "colorizer_args": colorizer_args}
    told = {"attack": told, **chosen, "seed": seed}
    text = as_json(told | asdict(evidence), None if out is None else out / "evidence.json")
    if out is not None:
        rows = pd.DataFrame({"index": images.numbers, "correlation": each})
        write_atomically(out / "evidence.csv", rendering.to_csv(rows))
        count = max(1, min(shown, len(clean)))
        figure = evidence_figure(clean[:count], attacked[:count], network, each[:count].tolist())
        write_atomically(out / "evidence.png", figure)
    return text


if __name__ == "__main__":
    run_tool(main)

"""What does an attack change: colour, the brightness of regions, or detail?

    python -m concert.evaluation.attack_bands ATTACK [--block 8] [--out FILE]

ATTACK is a folder that `concert attack` wrote. Its perturbations fall into the three orthogonal
parts of banded noise (`concert.certificates.bands`), which can be larger along one of them. cAdv
keeps the lightness and begins at a recoloured image: there what is there before the first step and
what the attack changes from there are taken apart too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from concert.certificates.bands import Bands, scale_bands
from concert.errors import ConcertError
from concert.evaluation.attack_folder import read_attack, read_images, told_of
from concert.tool import as_json, run_tool

# The factors of `scale_bands` that keep one part, in the order of `Bands.dimensions`.
PARTS: Final[Mapping[str, tuple[float, float, float]]] = {
    "chroma": (1.0, 0.0, 0.0),
    "smooth": (0.0, 1.0, 0.0),
    "detail": (0.0, 0.0, 1.0),
}
QUARTILES: Final = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Part:
    """One part of the changes of a set of images.

    energy: its share of the sum of squares of all changes. dimensions: its share of an image's
    dimensions, which is the energy that white noise has there. l2_quartiles: of its norm, over
    images.
    """

    energy: float
    dimensions: float
    l2_quartiles: list[float]


@dataclass(frozen=True)
class Change:
    """The changes of a set of images: their sum of squares, quartiles of their norms, and parts."""

    sum_of_squares: float
    l2_quartiles: list[float]
    chroma: Part
    smooth: Part
    detail: Part


def attack_bands(before: Tensor, after: Tensor, block: int = 8) -> Change | None:
    """The parts of the changes from one to the other images (B, C, H, W); None if there are none.

    block: side in pixels of the blocks in which smooth luma is constant, as of banded noise. Raises
    ConcertError for images that are neither grey nor RGB, for a block below 1, and for changes that
    are not finite.
    """
    channels, height, width = before.shape[1:]
    if channels not in (1, 3):
        raise ConcertError(f"luma is of grey or RGB images, these have {channels} channels")
    if block < 1:
        raise ConcertError(f"block must be at least 1 pixel, got {block}")
    changes = after.double() - before.double()
    total = float(changes.square().sum())
    if not math.isfinite(total):
        raise ConcertError("the images have values that are not finite: attack them again")
    if total == 0:
        return None
    dimensions = Bands((channels, height, width), block, 1.0, 1.0, 1.0).dimensions
    parts = {}
    for (name, factors), count in zip(PARTS.items(), dimensions, strict=True):
        part = scale_bands(changes, *factors, block)
        energy = float(part.square().sum()) / total
        parts[name] = Part(energy, count / changes[0].numel(), _quartiles(part))
    return Change(total, _quartiles(changes), **parts)


def _quartiles(changes: Tensor) -> list[float]:
    norms = changes.flatten(1).norm(dim=1)
    quartiles: list[float] = torch.quantile(norms, norms.new_tensor(QUARTILES)).tolist()
    return quartiles


def main(attack: Path, block: int = 8, out: Path | None = None) -> str:
    """The parts of an attack's perturbations as JSON; with `out` also as a file.

    whole: the perturbations. start, own: of cAdv, what is there before the first step, and the
    change from there; else null, as is what changes nothing.
    """
    images, told = read_images(attack), told_of(read_attack(attack))
    clean, start, attacked = images.clean, images.start, images.attacked
    pairs = {"whole": (clean, attacked)}
    if start is not None:
        pairs |= {"start": (clean, start), "own": (start, attacked)}
    found: dict[str, Any] = dict.fromkeys(("whole", "start", "own"))
    for name, pair in pairs.items():
        change = attack_bands(*pair, block)
        found[name] = None if change is None else asdict(change)
    if found["whole"] is None:
        raise ConcertError(f"{attack} has no image that is perturbed: attack others")
    return as_json({"attack": told, "block": block, "images": len(images.numbers)} | found, out)


if __name__ == "__main__":
    run_tool(main)

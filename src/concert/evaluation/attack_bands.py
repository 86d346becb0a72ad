"""What does an attack change: colour, the brightness of regions, or detail?

    python -m concert.evaluation.attack_bands ATTACK [--block 8] [--out FILE]

ATTACK is a folder that `concert attack` wrote. Its perturbations fall into the three orthogonal
parts of banded noise (`concert.certificates.bands`), which can be larger along one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from concert.certificates.bands import scale_bands
from concert.errors import ConcertError
from concert.evaluation.attack_folder import read_attack, read_images, told_of
from concert.tool import as_json, run_tool

# The factors of `scale_bands` that keep one part.
PARTS: Final[Mapping[str, tuple[float, float, float]]] = {
    "chroma": (1.0, 0.0, 0.0),
    "smooth": (0.0, 1.0, 0.0),
    "detail": (0.0, 0.0, 1.0),
}
QUARTILES: Final = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Part:
    """One part of the perturbations of a set of images.

    energy: its share of the sum of squares of all perturbations. l2: the quartiles, over images, of
    its l2 norm.
    """

    energy: float
    l2: list[float]


def attack_bands(perturbations: Tensor, block: int = 8) -> dict[str, Part]:
    """The parts of perturbations (B, C, H, W), C of 1 or 3: chroma, smooth, detail, and "whole".

    block: side in pixels of the blocks in which smooth luma is constant, as of banded noise. Raises
    ConcertError for other channels, for a block below 1, and where nothing is perturbed.
    """
    if perturbations.shape[1] not in (1, 3):
        raise ConcertError(
            f"luma is of grey or RGB images, these have {perturbations.shape[1]} channels"
        )
    if block < 1:
        raise ConcertError(f"block must be at least 1 pixel, got {block}")
    exact = perturbations.double()
    total = float(exact.square().sum())
    if total == 0:
        raise ConcertError("no image is perturbed: attack others")
    parts = {name: scale_bands(exact, *factors, block) for name, factors in PARTS.items()}
    return {name: _part(each, total) for name, each in (parts | {"whole": exact}).items()}


def _part(perturbations: Tensor, total: float) -> Part:
    norms = perturbations.flatten(1).norm(dim=1)
    at = torch.tensor(QUARTILES, dtype=norms.dtype)
    return Part(float(norms.square().sum()) / total, torch.quantile(norms, at).tolist())


def main(attack: Path, block: int = 8, out: Path | None = None) -> str:
    """The parts of an attack's perturbations as JSON; with `out` also as a file."""
    images, told = read_images(attack), told_of(read_attack(attack))
    found = attack_bands(images.attacked.double() - images.clean.double(), block)
    parts = {name: asdict(part) for name, part in found.items()}
    return as_json({"attack": told, "block": block, "images": len(images.numbers)} | parts, out)


if __name__ == "__main__":
    run_tool(main)

"""How stable are the maps of queried noise? The share of queries whose map stays above a floor.

    python -m concert.evaluation.stability RUN [--subset first:100] [--data.path DIR] [--out FILE]

For each image and each dip, the share of generator passes with tau >= (1 - dip) * reference at
every pixel, where the reference is the mean map, or the nearest map of a codebook. The queried
ellipsoid has semi-axes (1 - dip) * reference * Phi^-1(p*), and p* cannot exceed that share: a
generator whose curve rises late or slowly has small ellipsoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from concert.certificates import sigma_statistics
from concert.certification.selection import map_dips
from concert.errors import ConcertError
from concert.evaluation.correlation import chosen_images
from concert.runs import GivenData, load
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream
from concert.tool import as_json, run_tool

DIPS: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class MapStability:
    """The curve over a set of images.

    dips; shares: mean over images of the share of draws above the floor at each dip; worst: the
    least over images. dip_at_99, dip_at_999: the dip that 99 and 99.9 % of draws stay above, mean
    over images. low, geomean, high: of the reference maps, mean over images. maps: how many
    different reference maps there are.
    """

    images: int
    draws: int
    dips: list[float]
    shares: list[float]
    worst: list[float]
    dip_at_99: float
    dip_at_999: float
    low: float
    geomean: float
    high: float
    maps: int


def map_stability(
    smoothed: SmoothedClassifier,
    images: Tensor,
    draws: int = 2000,
    seed: int = 0,
    dips: Sequence[float] = DIPS,
) -> MapStability:
    """The curve for images (B, C, H, W) under queried noise."""
    if smoothed.noise.kind != "queried":
        raise ConcertError(f"stability is about queried noise, not {smoothed.noise.kind}")
    sampler = smoothed.sampler(images.shape[1:])
    found, references = [], []
    for index, image in enumerate(images):
        mean, dip = sampler.run(
            image, map_dips(sampler.noise, Stream(seed, Domain.SELECT, index), draws)
        )
        references.append(sampler.noise.reference(mean.to(sampler.device)).cpu())
        found.append(dip.double())
    all_dips = torch.stack(found)
    # A dip measured in float32 may be a rounding above zero where the map did not move.
    shares = torch.stack([(all_dips <= dip + 1e-6).double().mean(dim=1) for dip in dips])
    ends = torch.tensor([sigma_statistics(reference) for reference in references]).mean(dim=0)
    return MapStability(
        images=len(images),
        draws=draws,
        dips=list(dips),
        shares=shares.mean(dim=1).tolist(),
        worst=shares.amin(dim=1).tolist(),
        dip_at_99=float(all_dips.quantile(0.99, dim=1).mean()),
        dip_at_999=float(all_dips.quantile(0.999, dim=1).mean()),
        low=float(ends[0]),
        geomean=float(ends[1]),
        high=float(ends[2]),
        maps=len(torch.unique(torch.stack(references).flatten(1), dim=0)),
    )


def main(
    run: Path,
    data: GivenData | None = None,
    subset: str = "first:100",
    draws: int = 2000,
    out: Path | None = None,
) -> str:
    """The stability of a run's maps as JSON, also written to `out`."""
    name, chosen = chosen_images(run, data, subset)
    result = map_stability(load(run), chosen, draws)
    return as_json({"data": name, "subset": subset, **asdict(result)}, out)


if __name__ == "__main__":
    run_tool(main)

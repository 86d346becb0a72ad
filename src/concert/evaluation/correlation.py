"""Does the noise follow the entropy? Rank correlation of sigma maps with entropy maps.

    python -m concert.evaluation.correlation RUN [--subset first:100] [--data.path DIR] [--out FILE]
        [--colorizer NAME] [--colorizer_args '{...}'] [--trust true]

For each image the sigma map (for queried noise: the mean map over selection draws) is ranked
against its entropy map, and as a control against that of the next image, so that a pattern common
to all maps is told from one that follows the image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from concert.colorization import build_colorizer, entropy_map
from concert.data import load_images, subset_indices
from concert.errors import ConcertError
from concert.evaluation.metrics import FEWEST_IMAGES
from concert.import_paths import import_from_here
from concert.runs import GivenData, data_of, load, read_description
from concert.sampling.votes import Request
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream
from concert.tool import as_json, run_tool


@dataclass(frozen=True)
class MapCorrelation:
    """Spearman correlations of sigma maps with entropy maps over a set of images.

    mean, low, high: mean over images with its 95 % normal interval, which fewer than 10 images do
    not have (None). pooled: over all pixels of all images. shifted: mean against the next image's
    entropy map. constant: images left out because one of their maps is constant. sigma_min,
    sigma_mean, sigma_max: of the sigma maps.
    """

    images: int
    draws: int
    mean: float
    low: float | None
    high: float | None
    pooled: float
    shifted: float
    constant: int
    sigma_min: float
    sigma_mean: float
    sigma_max: float


def spearman_rows(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman correlation of each row (N, P) with the same row of the other; NaN if constant."""
    ranks = [rankdata(rows, axis=1) for rows in (first, second)]
    ranks = [rows - rows.mean(axis=1, keepdims=True) for rows in ranks]
    norms = [np.sqrt((rows**2).sum(axis=1)) for rows in ranks]
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = (ranks[0] * ranks[1]).sum(axis=1) / (norms[0] * norms[1])
    return result


def sigma_maps(smoothed: SmoothedClassifier, images: Tensor, draws: int, seed: int) -> Tensor:
    """The sigma map of each image, or its mean over `draws` selection draws: (B, C, H, W)."""
    sampler = smoothed.sampler(images.shape[1:])
    maps = []
    for index, image in enumerate(images):
        request = Request(Stream(seed, Domain.SELECT, index), draws, mean_map=True)
        (votes,) = sampler.sample(image, [request])
        assert votes.sigma_map is not None
        maps.append(votes.sigma_map)
    return torch.stack(maps)


def map_correlation(
    smoothed: SmoothedClassifier,
    images: Tensor,
    colorizer: nn.Module,
    draws: int = 256,
    seed: int = 0,
) -> MapCorrelation:
    """Correlate the sigma maps of images (B, C, H, W) with their entropy maps.

    Raises ConcertError where fewer than two images have maps that vary.
    """
    sigma = sigma_maps(smoothed, images, draws, seed)
    entropy = entropy_map(images, colorizer).expand_as(sigma)
    rows = [maps.flatten(1).double().numpy() for maps in (sigma, entropy)]
    each = spearman_rows(rows[0], rows[1])
    valid = np.isfinite(each)
    if valid.sum() < 2:
        raise ConcertError(
            "fewer than two images have a sigma map and an entropy map that vary: give more "
            "images, or a model whose noise depends on them"
        )
    sigmas, entropies = (maps[valid] for maps in rows)
    shifted = spearman_rows(sigmas, np.roll(entropies, 1, axis=0))
    pooled = spearman_rows(sigmas.reshape(1, -1), entropies.reshape(1, -1))
    mean = float(each[valid].mean())
    error = float(each[valid].std(ddof=1) / np.sqrt(valid.sum()))
    enough = valid.sum() >= FEWEST_IMAGES
    return MapCorrelation(
        images=int(valid.sum()),
        draws=draws,
        mean=mean,
        low=mean - 1.96 * error if enough else None,
        high=mean + 1.96 * error if enough else None,
        pooled=float(pooled[0]),
        shifted=float(shifted.mean()),
        constant=int((~valid).sum()),
        sigma_min=float(sigma.min()),
        sigma_mean=float(sigma.mean()),
        sigma_max=float(sigma.max()),
    )


def chosen_images(run: Path, given: GivenData | None, subset: str) -> tuple[str, Tensor]:
    """The name of a run's data set, or of the one given, and test images (B, C, H, W) of it."""
    data = data_of(run, read_description(run)[0].data, given)
    images = load_images(data.name, "test", data.path, data.size)
    return data.name, images.images(subset_indices(len(images), subset))


def main(
    run: Path,
    data: GivenData | None = None,
    subset: str = "first:100",
    colorizer: str = "compact",
    colorizer_args: dict[str, Any] | None = None,
    trust: bool = False,
    draws: int = 256,
    out: Path | None = None,
) -> str:
    """The correlation of a run's maps as JSON, also written to `out`.

    `colorizer`, `colorizer_args`: as in a recipe, of the entropy maps. `trust`: import the run's
    own classifier code, and a colorizer of your own.
    """
    if trust:
        import_from_here()
    name, chosen = chosen_images(run, data, subset)
    network = build_colorizer(colorizer, colorizer_args, trust)
    result = map_correlation(load(run, trust), chosen, network, draws)
    told = {
        "data": name,
        "subset": subset,
        "colorizer": colorizer,
        "colorizer_args": colorizer_args,
    }
    return as_json(told | asdict(result), out)


if __name__ == "__main__":
    run_tool(main)

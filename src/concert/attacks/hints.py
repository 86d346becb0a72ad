"""Where cAdv gives its first hints: in clusters of colours of lowest or highest mean entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from concert.colorization.lab import AB_LIMIT

# The blur before clustering, in pixels of an image of this size.
BLUR: Final = 3.0
BLUR_SIZE: Final = 224


def starting_hints(
    lab: Tensor,
    entropies: Tensor,
    generators: Sequence[torch.Generator],
    clusters: int,
    chosen: int,
    choice: Literal["lowest", "highest"],
    space: Literal["ab", "lab"],
    hints: int,
    seed: int,
    restarts: int,
) -> tuple[Tensor, Tensor]:
    """Hints (B, 2, H, W) and mask (B, 1, H, W) of Lab images (B, 3, H, W), a generator for each.

    `hints` pixels are drawn from the `chosen` of `clusters` clusters. The entropies (B, 1, h, w)
    are of cells of 4 x 4 pixels, the last ones reaching over the border.
    """
    # Nearest pixel, as published.
    entropies = functional.interpolate(entropies, scale_factor=4, mode="nearest")
    given: list[tuple[Tensor, Tensor]] = []
    for image, entropy, generator in zip(lab, entropies, generators, strict=True):
        found = color_clusters(image, clusters, space, seed, restarts)
        height, width = found.shape
        cells = entropy[0, :height, :width].double().cpu().numpy()
        given.append(
            first_hints(image, choose_clusters(cells, found, chosen, choice), hints, generator)
        )
    colors, mask = (torch.stack(each) for each in zip(*given, strict=True))
    return colors, mask


def color_clusters(
    lab: Tensor, clusters: int, space: Literal["ab", "lab"], seed: int, restarts: int = 10
) -> NDArray[np.int64]:
    """The cluster (H, W) of every pixel of a Lab image (3, H, W): k-means on blurred colours.

    The best of `restarts` starts. "ab" leaves the lightness out, as the released code does; "lab"
    keeps it, as the paper says.
    """
    from sklearn.cluster import KMeans

    chosen = (lab if space == "lab" else lab[1:]).double().cpu().numpy()
    blur = BLUR * min(chosen.shape[1:]) / BLUR_SIZE
    blurred = gaussian_filter(chosen, (0.0, blur, blur)).reshape(len(chosen), -1).T
    # k-means warns, and no cluster is empty, only where there are that many colours.
    count = min(clusters, len(np.unique(blurred.round(6), axis=0)))
    means = KMeans(count, n_init=restarts, random_state=seed % 2**32).fit_predict(blurred)
    found: NDArray[np.int64] = means.reshape(chosen.shape[1:]).astype(np.int64)
    return found


def choose_clusters(
    entropy: NDArray[np.float64],
    clusters: NDArray[np.int64],
    count: int,
    choice: Literal["lowest", "highest"],
) -> NDArray[np.bool_]:
    """Mask (H, W) of the `count` clusters whose mean entropy is lowest, or highest."""
    means = np.array([entropy[clusters == k].mean() for k in range(clusters.max() + 1)])
    order = np.argsort(means, kind="stable")
    return np.isin(clusters, order[:count] if choice == "lowest" else order[::-1][:count])


def first_hints(
    lab: Tensor, chosen: NDArray[np.bool_], hints: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hints (2, H, W) and mask (1, H, W): the true colours of random pixels of the chosen ones."""
    pixels = torch.from_numpy(np.flatnonzero(chosen))
    drawn = pixels[torch.randperm(len(pixels), generator=generator)[:hints]].to(lab.device)
    mask = torch.zeros_like(lab[:1])
    mask.view(-1)[drawn] = 1.0
    return lab[1:] / AB_LIMIT * mask, mask

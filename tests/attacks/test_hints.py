"""Where cAdv's first hints are, and what they say."""

from __future__ import annotations

import numpy as np
import torch
from networks import random_images

from concert.attacks.hints import choose_clusters, color_clusters, first_hints
from concert.colorization import rgb_to_lab

SHAPE = (3, 16, 16)


def test_colours_are_clustered_and_lightness_only_when_asked() -> None:
    rgb = torch.zeros(1, 3, 32, 32)
    rgb[:, 0] = 0.8
    rgb[:, :, :, 16:] = torch.tensor([0.2, 0.2, 0.8]).view(3, 1, 1)
    (lab,) = rgb_to_lab(rgb)
    found = color_clusters(lab, 2, "ab", seed=0)
    assert found.shape == (32, 32)
    assert len(np.unique(found[:, :15])) == len(np.unique(found[:, 17:])) == 1
    assert found[0, 0] != found[0, -1]
    grey = torch.full((1, 3, 32, 32), 0.2)
    grey[..., 16:] = 0.9
    (lab,) = rgb_to_lab(grey)
    lab[1:] = 0.0
    assert len(np.unique(color_clusters(lab, 8, "ab", seed=0))) == 1
    assert len(np.unique(color_clusters(lab, 8, "lab", seed=0))) > 1


def test_the_best_of_several_starts_counts() -> None:
    colors = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(3)) * 100
    lab = torch.cat([torch.full((1, 12, 12), 50.0), colors])

    def spread_within(restarts: int) -> float:
        found = torch.from_numpy(color_clusters(lab, 8, "ab", seed=1, restarts=restarts))
        parts = (colors[:, found == k] for k in range(8))
        return sum(float((part - part.mean(dim=1, keepdim=True)).square().sum()) for part in parts)

    assert spread_within(20) < spread_within(1)


def test_clusters_are_chosen_by_mean_entropy() -> None:
    clusters = np.array([[0, 0, 1], [2, 2, 1]])
    entropy = np.array([[1.0, 3.0, 5.0], [0.0, 1.0, 0.0]])
    # Means: 2, 2.5 and 0.5.
    lowest = choose_clusters(entropy, clusters, 1, "lowest")
    assert lowest.tolist() == [[False, False, False], [True, True, False]]
    highest = choose_clusters(entropy, clusters, 2, "highest")
    assert highest.tolist() == [[True, True, True], [False, False, True]]
    assert choose_clusters(entropy, clusters, 9, "lowest").all()


def test_hints_are_true_colours_of_chosen_pixels() -> None:
    (lab,) = rgb_to_lab(random_images(1, shape=SHAPE))
    chosen = np.zeros(SHAPE[1:], dtype=bool)
    chosen[3:9, 2:7] = True
    hints, mask = first_hints(lab, chosen, 12, torch.Generator().manual_seed(0))
    revealed = mask[0] == 1
    assert int(revealed.sum()) == 12
    assert not bool((revealed & ~torch.from_numpy(chosen)).any())
    assert torch.allclose(110 * hints[:, revealed], lab[1:, revealed], atol=1e-4)
    assert not bool(hints[:, ~revealed].any())
    everything = first_hints(lab, chosen, 500, torch.Generator().manual_seed(0))[1]
    assert torch.equal(everything[0] == 1, torch.from_numpy(chosen))

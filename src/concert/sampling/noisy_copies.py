"""Differentiable noisy copies of images: their normals, by address, and their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from concert.engines.inference import dtype_of
from concert.noise import NoiseModel
from concert.streams import DRAWS_PER_BLOCK, Stream


def noisy_logits(
    classifier: nn.Module, noise: NoiseModel, points: Tensor, normals: tuple[Tensor, ...]
) -> Tensor:
    """Logits (S, D, K) of D noisy copies of each of the points (S, C, H, W), differentiable.

    Each of `normals`, one a lane of the noise, is (D, C, H, W), the same draws for all points, or
    (S, D, C, H, W).
    """
    count, draws = len(points), normals[0].shape[-4]
    sigma = noise.prepare(points)
    noisy, _ = noise(
        points.repeat_interleave(draws, dim=0),
        tuple(lane.expand(count, *lane.shape[-4:]).flatten(0, 1) for lane in normals),
        None if sigma is None else sigma.repeat_interleave(draws, dim=0),
    )
    logits: Tensor = classifier(noisy.to(dtype_of(classifier))).float()
    return logits.view(count, draws, -1)


def draw_normals(
    stream: Stream,
    step: int,
    draws: int,
    lanes: int,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[Tensor, ...]:
    """The standard normals (draws, C, H, W) of one step of a stream, one tensor a lane."""
    blocks = -(-draws // DRAWS_PER_BLOCK)
    channels, height, width = shape
    result = []
    for lane in range(lanes):
        base = torch.empty(blocks * DRAWS_PER_BLOCK, height, width, channels, device=device)
        for block in range(blocks):
            part = base[block * DRAWS_PER_BLOCK : (block + 1) * DRAWS_PER_BLOCK]
            stream.fill(step * blocks + block, lane, part)
        result.append(base[:draws].permute(0, 3, 1, 2))
    return tuple(result)


def select_draws(normals: tuple[Tensor, ...], rows: slice, columns: slice) -> tuple[Tensor, ...]:
    """The lanes' draws of some points; those that all points share have no rows."""
    return tuple(lane[columns] if lane.ndim == 4 else lane[rows, columns] for lane in normals)

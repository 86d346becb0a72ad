"""Normalisation as the first layer of a classifier, so that noise is added to [0, 1] pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from concert.errors import ConcertError


class Normalize(nn.Module):
    """(x - mean) / std per channel, for (B, C, H, W) images.

    It owns no tensors in the state dict: mean and std belong to the configuration, and the
    checkpoints of Cohen et al. have none either.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ConcertError(f"{len(mean)} means but {len(std)} stds: give one per channel")
        if not all(math.isfinite(m) for m in mean) or not all(0 < s < math.inf for s in std):
            raise ConcertError("normalisation needs finite means and positive stds")
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor([float(v) for v in values]).reshape(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"

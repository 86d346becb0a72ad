"""What is asked of the hot loop and what it answers: draws of a stream, votes and sigma maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concert.streams import Stream


@dataclass(frozen=True)
class Request:
    """Draws `start` to `n` of a stream; `start` is a multiple of the batch size.

    `mean_map` asks for the mean sigma map over them. `floor` (C, H, W) asks to count separately the
    votes of draws whose sigma map is at least `floor` at every pixel. `deployed`: votes as
    predictions count them, the largest logit wins, instead of with a certificate's margins.
    """

    stream: Stream
    n: int
    mean_map: bool = False
    start: int = 0
    floor: Tensor | None = None
    deployed: bool = False


@dataclass(frozen=True)
class Votes:
    """`counts` (K,) of `n` draws (the rest were within the margin), and the mean sigma map.

    `joint` (K,): the votes of draws whose sigma map was above the request's floor.
    """

    counts: NDArray[np.int64]
    n: int
    sigma_map: Tensor | None = None
    joint: NDArray[np.int64] | None = None


def count_votes(logits: Tensor, margin: float, counted: Tensor | None = None) -> Tensor:
    """Votes per class and, last, undecided draws: (K + 1,) int64 from logits (B, K).

    A draw whose top-1 to top-2 gap is below `margin`, or whose logits are not finite, is undecided;
    so is one outside the mask `counted` (B,).
    """
    top = logits.float().topk(2, dim=1)
    decided = (top.values[:, 0] - top.values[:, 1] >= margin) & logits.isfinite().all(dim=1)
    if counted is not None:
        decided &= counted
    ballots = torch.where(decided, top.indices[:, 0], logits.shape[1])
    return torch.bincount(ballots, minlength=logits.shape[1] + 1)


def sum_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The sum (C, H, W) in float64 of sigma maps (B, C, H, W) and how many there are.

    A map that is not a number marks a draw whose noise is undecided (`CodebookGenerator`), and is
    left out.
    """
    return maps.double().nansum(dim=0), maps[:, 0, 0, 0].isfinite().sum()


class MapSum:
    """A running mean of sigma maps, added in the order of the draws."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, total: Tensor, count: Tensor) -> None:
        self.total += total
        self.count += count

    def mean(self) -> Tensor:
        """The mean map (C, H, W) in float32; 0 where no map was decided."""
        return (self.total / self.count.clamp(min=1)).float()

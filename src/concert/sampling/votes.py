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

    `classify` False asks for sigma maps alone, without the classifier: with `keep_maps` for the
    maps themselves if there is room for them, with `reference` (C, H, W) for each map's dip.
    """

    stream: Stream
    n: int
    mean_map: bool = False
    start: int = 0
    floor: Tensor | None = None
    deployed: bool = False
    classify: bool = True
    keep_maps: bool = False
    reference: Tensor | None = None


@dataclass(frozen=True)
class Votes:
    """`counts` (K,) of `n` draws (the rest were within the margin), and the mean sigma map.

    `joint` (K,): the votes of draws whose sigma map was above the request's floor. `dips` (n,): see
    `dips_below`. `maps` (n, C, H, W): the draws' sigma maps, on the hot loop's device.
    """

    counts: NDArray[np.int64]
    n: int
    sigma_map: Tensor | None = None
    joint: NDArray[np.int64] | None = None
    dips: Tensor | None = None
    maps: Tensor | None = None


def ballots(logits: Tensor, margin: float) -> Tensor:
    """The class that each draw votes for, or K if it is undecided: (B,) int64 from logits (B, K).

    A draw is undecided if its top-1 to top-2 gap is below `margin`, and if a logit is not a number
    or the largest is infinite; a logit of minus infinity rules its class out.
    """
    # Numbers that are none come first.
    top = logits.float().topk(2, dim=1)
    first, second = top.values.unbind(dim=1)
    decided = (first - second >= margin) & first.isfinite()
    return torch.where(decided, top.indices[:, 0], logits.shape[1])


def count(votes: Tensor, num_classes: int) -> Tensor:
    """Votes per class and, last, undecided draws: (K + 1,) int64 from ballots (B,)."""
    # Unlike `bincount` it does not look at the values, for which the host would have to wait.
    totals = torch.zeros(num_classes + 1, dtype=torch.int64, device=votes.device)
    return totals.scatter_add_(0, votes, torch.ones_like(votes))


def dips_below(maps: Tensor, reference: Tensor) -> Tensor:
    """The largest relative dip of each sigma map (B, C, H, W) below a reference (C, H, W): (B,).

    The map is at least (1 - dip) times the reference at every pixel.
    """
    return 1.0 - (maps / reference).nan_to_num().flatten(1).amin(dim=1)


def sum_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The sum (C, H, W) in float64 of sigma maps (B, C, H, W) and how many there are.

    A map that is not a number marks a draw whose noise is undecided (`CodebookGenerator`), and is
    left out.
    """
    return maps.double().nansum(dim=0), maps[:, 0, 0, 0].isfinite().sum()


class MapSum:
    """A running mean of sigma maps, the same in whatever order they are added.

    Values of one pixel are float32 numbers of one box, whose sums in float64 are exact for 2^29
    draws times the ratio of the box's ends.
    """

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, total: Tensor, count: Tensor) -> None:
        self.total += total
        self.count += count

    def mean(self) -> Tensor:
        """The mean map (C, H, W) in float32; 0 where no map was decided."""
        return (self.total / self.count.clamp(min=1)).float()

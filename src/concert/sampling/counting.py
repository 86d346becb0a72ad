"""The draws of requests as batches take them, and what is known of a request as they come back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from concert.deferred import Check
from concert.sampling.votes import MapSum, Request, Votes


@dataclass(frozen=True)
class Subject:
    """An image (1, C, H, W) on the hot loop's device, and its sigma map if that is known."""

    x: Tensor
    sigma: Tensor | None


@dataclass(frozen=True)
class Segment:
    """Draws `first` to `first + rows` of a request, in consecutive rows of a batch.

    `valid` of them are asked for; the others fill the batch up.
    """

    subject: Subject
    request: Request
    first: int
    rows: int
    keep_maps: bool

    @property
    def valid(self) -> int:
        return max(0, min(self.rows, self.request.n - self.first))


@dataclass(frozen=True)
class Part:
    """What the draws of one segment gave; `counts` (2, K + 1): all votes, those above the floor."""

    counts: Tensor | None = None
    map_sum: tuple[Tensor, Tensor] | None = None
    dips: Tensor | None = None
    maps: Tensor | None = None
    checks: tuple[Check, ...] = ()


class Count:
    """What is known of one request while its batches come back, in any order.

    Everything stays on the device until the end, so that the host waits for it once a request.
    `room`: the bytes that maps may take, if the request asks to keep them.
    """

    def __init__(
        self,
        request: Request,
        num_classes: int,
        shape: tuple[int, int, int],
        device: torch.device,
        room: int,
    ) -> None:
        floor, reference = (
            None if given is None else given.to(device)
            for given in (request.floor, request.reference)
        )
        self.request = replace(request, floor=floor, reference=reference)
        draws = request.n - request.start
        self.counts = torch.zeros(2, num_classes + 1, dtype=torch.int64, device=device)
        self.map_sum = MapSum(shape, device) if request.mean_map else None
        self.dips = None if reference is None else torch.zeros(draws, device=device)
        # float32 takes four bytes.
        self.bytes = 4 * draws * math.prod(shape) if request.keep_maps else 0
        if self.bytes > room:
            self.bytes = 0
        self.maps = torch.zeros(draws, *shape, device=device) if self.bytes else None
        self.checks: list[Check] = []

    def add(self, segment: Segment, part: Part) -> None:
        """Count the draws of a segment."""
        position = segment.first - self.request.start
        rows = slice(position, position + segment.valid)
        if part.counts is not None:
            self.counts += part.counts
        if self.map_sum is not None and part.map_sum is not None:
            self.map_sum.add(*part.map_sum)
        if self.dips is not None and part.dips is not None:
            self.dips[rows] = part.dips
        if self.maps is not None and part.maps is not None:
            self.maps[rows] = part.maps
        for number, check in enumerate(part.checks):
            if number == len(self.checks):
                self.checks.append(Check(check.failed.clone(), check.error))
            else:
                self.checks[number].failed.logical_or_(check.failed)

    def votes(self) -> Votes:
        """The answer, or the error of a check that failed."""
        flags = [check.failed.long().reshape(1) for check in self.checks]
        numbers = torch.cat([self.counts.flatten(), *flags]).cpu()
        for check, failed in zip(self.checks, numbers[self.counts.numel() :], strict=True):
            if failed:
                raise check.error()
        counts, joint = numbers[: self.counts.numel()].reshape(self.counts.shape)[:, :-1].numpy()
        return Votes(
            counts,
            self.request.n - self.request.start,
            None if self.map_sum is None else self.map_sum.mean().cpu(),
            None if self.request.floor is None else joint,
            None if self.dips is None else self.dips.cpu(),
            self.maps,
        )

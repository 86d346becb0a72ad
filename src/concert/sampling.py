"""Noisy copies through the classifier, votes counted: the hot loop, and the only one.

Written for throughput: noise is drawn into one reused buffer per worker laid out channels-last (an
i.i.d. draw has no layout, and convolutions prefer it), batch norm is folded into convolutions in a
private copy of the classifier, batches are small enough to stay in cache, workers are threads with
one intra-op thread each, and the counts of a batch are one `bincount`. Memory does not grow with n.

Every batch holds `batch_size` consecutive draws of one image, the last one padded, so a draw always
sits in the same row of a batch of the same shape and its vote is the same bit for bit, whatever
else is sampled before, after or beside it.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from concert.errors import ConcertError
from concert.memory import channels_last
from concert.noise import NoiseModel
from concert.streams import DRAWS_PER_BLOCK, Stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingSettings:
    """How the hot loop runs; part of a certification log's identity, except for `workers`.

    `batch_size`: draws per forward pass, a multiple of 16; 0 chooses by the image's size.
    `vote_margin`: a draw votes only where the gap between its two largest logits is at least this,
    so that the counts hold for every float32 engine whose logits drift by less than half of it.
    `workers`: threads; 0 means one per intra-op thread of torch on a processor, else one.
    """

    batch_size: int = 0
    vote_margin: float = 1e-4
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 0 or self.batch_size % DRAWS_PER_BLOCK:
            raise ConcertError(
                f"batch_size must be a multiple of {DRAWS_PER_BLOCK}, got {self.batch_size}"
            )
        if not self.vote_margin >= 0:
            raise ConcertError(f"vote_margin must not be negative, got {self.vote_margin}")

    def resolved_batch_size(self, shape: Sequence[int], device: torch.device) -> int:
        """The batch size for images of `shape` (C, H, W) on `device`."""
        if self.batch_size:
            return self.batch_size
        pixels = int(np.prod(shape[-2:]))
        if device.type != "cpu":
            return 1024 if pixels <= 64 * 64 else 64
        return 256 if pixels <= 900 else 64 if pixels <= 64 * 64 else 16


@dataclass(frozen=True)
class Request:
    """Draws `start` to `n` of a stream; `mean_map` asks for the mean sigma map over them.

    `start` is a multiple of the batch size.
    """

    stream: Stream
    n: int
    mean_map: bool = False
    start: int = 0


@dataclass(frozen=True)
class Votes:
    """`counts` (K,) of `n` draws (the rest were within the margin), and the mean sigma map."""

    counts: NDArray[np.int64]
    n: int
    sigma_map: Tensor | None = None


def count_votes(logits: Tensor, margin: float) -> Tensor:
    """Votes per class and, last, undecided draws: (K + 1,) int64 from logits (B, K).

    A draw whose top-1 to top-2 gap is below `margin`, or whose logits are not finite, is undecided.
    """
    top = logits.float().topk(2, dim=1)
    decided = (top.values[:, 0] - top.values[:, 1] >= margin) & logits.isfinite().all(dim=1)
    ballots = torch.where(decided, top.indices[:, 0], logits.shape[1])
    return torch.bincount(ballots, minlength=logits.shape[1] + 1)


def inference_copy(classifier: nn.Module, probe: Tensor) -> nn.Module:
    """A private copy in evaluation mode, batch norm folded, channels-last.

    Folding is kept only if the copy agrees with the original on a probe batch (B, C, H, W) to
    within 1e-4 of the logits' scale; a model that cannot be traced is used unfolded.
    """
    plain = channels_last(copy.deepcopy(classifier).eval().requires_grad_(False))
    with torch.inference_mode():
        wanted = plain(probe)
        try:
            folded = channels_last(fuse(plain))
            got = folded(probe)
        except Exception as error:
            log.debug("batch norm not folded: %s", error)
            return plain
    scale = max(1.0, float(wanted.abs().max()))
    if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=0, atol=1e-4 * scale):
        log.debug("batch norm not folded: the folded copy differs")
        return plain
    return folded


class Sampler:
    """Counts votes of one classifier under one noise model for images of one shape."""

    def __init__(
        self,
        classifier: nn.Module,
        noise: NoiseModel,
        num_classes: int,
        shape: tuple[int, int, int],
        device: torch.device,
        settings: SamplingSettings,
    ) -> None:
        self.num_classes, self.shape, self.device = num_classes, shape, device
        self.margin = settings.vote_margin
        self.batch_size = settings.resolved_batch_size(shape, device)
        probe = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)).to(device)
        self.classifier = inference_copy(classifier, probe)
        self.noise: NoiseModel = copy.deepcopy(noise).eval().requires_grad_(False)
        with torch.inference_mode():
            logits = self.classifier(probe)
        if logits.shape != (2, num_classes):
            raise ConcertError(
                f"the classifier gives outputs of shape {tuple(logits.shape[1:])} for images of "
                f"shape {shape}, but num_classes is {num_classes}"
            )
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.workers = settings.workers or threads
        self._threads = max(1, threads // self.workers)
        self._scratch = threading.local()
        self._pool = ThreadPoolExecutor(self.workers, initializer=self._start_worker)

    def close(self) -> None:
        """End the worker threads."""
        self._pool.shutdown()

    def _start_worker(self) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(self._threads)
        channels, height, width = self.shape
        # Contiguous (B, H, W, C) memory seen as (B, C, H, W) is channels-last, and filling it in
        # memory order is several times faster than filling a permuted tensor.
        bases = [
            torch.zeros(self.batch_size, height, width, channels, device=self.device)
            for _ in range(self.noise.lanes)
        ]
        self._scratch.bases = bases
        self._scratch.normals = tuple(base.permute(0, 3, 1, 2) for base in bases)

    def sample(self, image: Tensor, requests: Sequence[Request]) -> list[Votes]:
        """The votes of each request, all for one image (C, H, W)."""
        with torch.inference_mode():
            x = image.to(self.device)[None].contiguous(memory_format=torch.channels_last)
            sigma = self.noise.prepare(x)
        jobs = [
            (number, start)
            for number, request in enumerate(requests)
            for start in range(request.start, request.n, self.batch_size)
        ]
        batches = self._pool.map(lambda job: self._batch(x, sigma, requests[job[0]], job[1]), jobs)
        totals = [
            torch.zeros(self.num_classes + 1, dtype=torch.int64, device=self.device)
            for _ in requests
        ]
        # Summed in the order of the draws, so that the workers' timing cannot change a rounding.
        maps = [torch.zeros(self.shape, dtype=torch.float64, device=self.device) for _ in requests]
        for (number, _), (counts, map_sum) in zip(jobs, batches, strict=True):
            totals[number] += counts
            if map_sum is not None:
                maps[number] += map_sum
        return [
            Votes(
                total[:-1].cpu().numpy(),
                request.n - request.start,
                (map_sum / (request.n - request.start)).float().cpu() if request.mean_map else None,
            )
            for total, map_sum, request in zip(totals, maps, requests, strict=True)
        ]

    @torch.inference_mode()
    def _batch(
        self, x: Tensor, sigma: Tensor | None, request: Request, start: int
    ) -> tuple[Tensor, Tensor | None]:
        """Votes (K + 1,) of one batch of draws, and the sum of their sigma maps (C, H, W)."""
        valid = min(self.batch_size, request.n - start)
        for lane, base in enumerate(self._scratch.bases):
            for offset in range(0, self.batch_size, DRAWS_PER_BLOCK):
                block = (start + offset) // DRAWS_PER_BLOCK
                request.stream.fill(block, lane, base[offset : offset + DRAWS_PER_BLOCK])
        noisy, used = self.noise(x, self._scratch.normals, sigma)
        counts = count_votes(self.classifier(noisy)[:valid], self.margin)
        if not request.mean_map:
            return counts, None
        return counts, used.expand_as(noisy)[:valid].double().sum(dim=0)

"""Noisy copies through the classifier, votes counted: the hot loop, and the only one.

Written for throughput: noise is drawn into one reused buffer per worker laid out channels-last (an
i.i.d. draw has no layout, and convolutions prefer it), the network is run by an engine on a
private copy of the classifier, batches are small enough to stay in cache, workers are threads with
one intra-op thread each, and the counts of a batch are one `bincount`. Memory does not grow with n.

Every batch holds `batch_size` consecutive draws of one image, the last one padded, so a draw always
sits in the same row of a batch of the same shape and its vote is the same bit for bit, whatever
else is sampled before, after or beside it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from concert.engines import EngineChoice, build_engine
from concert.engines.torch_engines import noisy_probe
from concert.errors import ConcertError
from concert.inference import check_rows_alone, full_precision
from concert.noise import NoiseModel
from concert.streams import DRAWS_PER_BLOCK, Stream
from concert.votes import MapSum, Request, Votes, count_votes, sum_of


@dataclass(frozen=True)
class SamplingSettings:
    """How the hot loop runs; part of a certification log's identity, except for `workers`.

    `batch_size`: draws per forward pass, a multiple of 16; 0 chooses by the image's size.
    `vote_margin`: for a certificate a draw votes only where the gap between its two largest logits
    is at least this. Predictions count every draw for its largest logit, so that a certificate
    holds for every float32 engine whose logits drift by less than half of the margin.
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
        if self.workers < 0:
            raise ConcertError(f"workers must not be negative, got {self.workers}")
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
        choice: EngineChoice | None = None,
    ) -> None:
        self.num_classes, self.shape, self.device = num_classes, shape, device
        self.margin = settings.vote_margin
        self.batch_size = settings.resolved_batch_size(shape, device)
        self.noise: NoiseModel = copy.deepcopy(noise).eval().requires_grad_(False).float()
        self.deployed_noise = self.noise.deployed()
        generator = getattr(self.noise, "generator", None)
        if generator is not None:
            probe = noisy_probe(shape).to(device)
            with full_precision(device):
                check_rows_alone(generator, probe, "generator")
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.workers = settings.workers or threads
        self._threads = max(1, threads // self.workers)
        with full_precision(device):
            self.network = build_engine(
                choice or EngineChoice(),
                classifier,
                shape,
                num_classes,
                device,
                tolerance=0.25 * self.margin,
                batch_size=self.batch_size,
                threads=self._threads,
            )
        self._scratch = threading.local()
        self._pool = ThreadPoolExecutor(self.workers)

    @property
    def engine(self) -> str:
        """What computes the logits, for the log: two engines may differ in rare votes."""
        return self.network.name

    def close(self) -> None:
        """End the worker threads."""
        self._pool.shutdown()

    def _bases(self) -> list[Tensor]:
        """This worker's noise buffers, one a lane, made at its first batch."""
        if not hasattr(self._scratch, "bases"):
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            channels, height, width = self.shape
            dtype = torch.float32 if self.noise.draws == "normals" else torch.int64
            # Contiguous (B, H, W, C) memory seen as (B, C, H, W) is channels-last, and filling it
            # in memory order is several times faster than filling a permuted tensor.
            self._scratch.bases = [
                torch.zeros(
                    self.batch_size, height, width, channels, dtype=dtype, device=self.device
                )
                for _ in range(self.noise.lanes)
            ]
        bases: list[Tensor] = self._scratch.bases
        return bases

    def sample(self, image: Tensor, requests: Sequence[Request]) -> list[Votes]:
        """The votes of each request, all for one image (C, H, W)."""
        if any(request.start % self.batch_size for request in requests):
            # Another start would draw the beginning of its batch a second time.
            raise ValueError(f"a request must start at a multiple of {self.batch_size} draws")
        x = self._ready(image)
        with torch.inference_mode(), full_precision(self.device):
            sigma = self.noise.prepare(x)
        if sigma is not None and not bool((sigma.isfinite() & (sigma > 0)).all()):
            raise ConcertError(
                "the generator's sigma map is not positive and finite: its weights are damaged"
            )
        jobs = [
            (number, start)
            for number, request in enumerate(requests)
            for start in range(request.start, request.n, self.batch_size)
        ]
        with full_precision(self.device):
            batches = list(
                self._pool.map(lambda job: self._batch(x, sigma, requests[job[0]], job[1]), jobs)
            )
        # Row 0 counts all votes, row 1 those above the floor.
        size = (2, self.num_classes + 1)
        totals = [torch.zeros(size, dtype=torch.int64, device=self.device) for _ in requests]
        # Summed in the order of the draws, so that the workers' timing cannot change a rounding.
        maps = [MapSum(self.shape, self.device) for _ in requests]
        for (number, _), (counts, map_sum) in zip(jobs, batches, strict=True):
            totals[number] += counts
            if map_sum is not None:
                maps[number].add(*map_sum)
        results = []
        for total, running, request in zip(totals, maps, requests, strict=True):
            votes, joint = total[:, :-1].cpu().numpy()
            n = request.n - request.start
            mean = running.mean().cpu() if request.mean_map else None
            results.append(Votes(votes, n, mean, None if request.floor is None else joint))
        return results

    def sigma_maps(self, image: Tensor, stream: Stream, n: int) -> tuple[Tensor, Tensor]:
        """How the sigma map of one image varies over the first n draws, without the classifier.

        Returns the mean map (C, H, W) and each draw's largest relative dip below the noise's
        reference map, (n,): the map is at least (1 - dip) times the reference at every pixel.
        """
        x = self._ready(image)
        starts = range(0, n, self.batch_size)
        total = MapSum(self.shape, self.device)
        with torch.inference_mode(), full_precision(self.device):
            # Only sums and dips leave the workers, so that memory does not grow with n.
            for part in self._pool.map(
                lambda start: sum_of(self._maps(x, stream, start, n)), starts
            ):
                total.add(*part)
            reference = self.noise.reference(total.mean())

            def dips(start: int) -> Tensor:
                ratios = (self._maps(x, stream, start, n) / reference).nan_to_num()
                return 1.0 - ratios.flatten(1).amin(dim=1)

            return total.mean().cpu(), torch.cat(list(self._pool.map(dips, starts))).cpu()

    def _ready(self, image: Tensor) -> Tensor:
        with torch.inference_mode():
            return image.to(self.device)[None].contiguous(memory_format=torch.channels_last)

    def _draw(self, stream: Stream, start: int, lanes: int) -> tuple[Tensor, ...]:
        """Fill this worker's buffers with the draws from `start` on."""
        bases = self._bases()[:lanes]
        fill = stream.fill if self.noise.draws == "normals" else stream.fill_bits
        for lane, base in enumerate(bases):
            for offset in range(0, self.batch_size, DRAWS_PER_BLOCK):
                block = (start + offset) // DRAWS_PER_BLOCK
                fill(block, lane, base[offset : offset + DRAWS_PER_BLOCK])
        return tuple(base.permute(0, 3, 1, 2) for base in bases)

    @torch.inference_mode()
    def _maps(self, x: Tensor, stream: Stream, start: int, n: int) -> Tensor:
        """Sigma maps (B, C, H, W) of one batch of draws."""
        maps = self.noise.sigma_map_of(x, self._draw(stream, start, lanes=1)[0])
        return maps.expand(self.batch_size, *self.shape)[: n - start]

    @torch.inference_mode()
    def _batch(
        self, x: Tensor, sigma: Tensor | None, request: Request, start: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Votes (2, K + 1) of one batch of draws, and the sum of their sigma maps."""
        valid = min(self.batch_size, request.n - start)
        noise = self.deployed_noise if request.deployed else self.noise
        margin = 0.0 if request.deployed else self.margin
        noisy, used = noise(x, self._draw(request.stream, start, noise.lanes), sigma)
        logits = self.network(noisy)[:valid]
        decided = used.expand_as(noisy)[:valid, 0, 0, 0].isfinite()
        counts = count_votes(logits, margin, decided)
        joint = torch.zeros_like(counts)
        if request.floor is not None:
            above = (used >= request.floor.to(used.device)).flatten(1).all(dim=1)
            joint = count_votes(logits, margin, above.expand(self.batch_size)[:valid])
        if not request.mean_map:
            return torch.stack([counts, joint]), None
        return torch.stack([counts, joint]), sum_of(used.expand_as(noisy)[:valid])

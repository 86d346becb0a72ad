"""Noisy copies through the classifier, votes counted: the hot loop, and the only one.

Written for throughput: the network is run by an engine on a private copy of the classifier, batches
are small enough to stay in cache, hold draws of several images where one leaves room, and are run
by workers, threads with one intra-op thread each unless fewer with more are faster. Memory does not
grow with n or the number of images.

A vote is the same bit for bit, whatever else is sampled before, after or beside it: what a vote is,
is defined by batches of `batch_size` consecutive draws of one image. Batches that mix images, and
workers of several threads, are used only where a probe finds that they give the same bits.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from concert.engines import Engine, EngineChoice, build_engine
from concert.engines.inference import check_rows_alone
from concert.engines.precision import full_precision
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.sampling.batches import Batches, whole_batch
from concert.sampling.crew import Crew, candidates
from concert.sampling.mixing import drive
from concert.sampling.settling import best_crew, bits, mixing_is_exact, same_bits
from concert.sampling.votes import Request, Votes
from concert.sampling.work import Case, Steps, answers
from concert.streams import DRAWS_PER_BLOCK

T = TypeVar("T")

# Batches from which on a probe and a warm-up pay.
LARGE_JOB: Final = 64

log = logging.getLogger(__name__)


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
        self.batches = Batches(noise, num_classes, shape, device, self.batch_size, self.margin)
        self.noise = self.batches.noise
        self.choice = choice or EngineChoice()
        self._engine: Callable[[int], Engine] = functools.partial(
            build_engine,
            self.choice,
            classifier,
            shape,
            num_classes,
            device,
            0.25 * self.margin,
            self.batch_size,
        )
        cores = torch.get_num_threads() if device.type == "cpu" else 1
        workers = settings.workers or cores
        self._crews = [self._crew(workers, max(1, cores // workers))]
        # As the votes are counted: by this engine, in batches of this size, by a worker.
        probe = whole_batch(shape, self.batch_size, device)
        with full_precision(device):
            self.crew.submit(check_rows_alone, self.network, probe, "classifier").result()
        if not self.choice.exported:
            # One network for any number of threads; its original may change or go.
            network = self.network
            self._engine = lambda threads: network
        # A compiled network keeps the number of threads that it was compiled for.
        free = not settings.workers and self.choice.name != "torch-compile"
        self._others = candidates(cores)[1:] if free else []
        self._plan = f"{classifier}\n{noise}"
        self.mixed = False
        self._settling, self._settled = threading.Lock(), False

    def _crew(self, count: int, threads: int) -> Crew:
        with full_precision(self.device):
            return Crew(count, threads, self._engine(threads), self.device)

    @property
    def crew(self) -> Crew:
        """The workers in use."""
        return self._crews[-1]

    @property
    def workers(self) -> int:
        """How many batches are run at a time."""
        return self.crew.count

    @property
    def network(self) -> Engine:
        """What computes the logits."""
        return self.crew.network

    @property
    def engine(self) -> str:
        """What computes the logits, for the log: two engines may differ in rare votes."""
        return self.network.name

    def close(self) -> None:
        """End the worker threads."""
        for crew in self._crews:
            crew.close()

    def drive(self, cases: Iterable[Case[T]], draws: int) -> Iterator[tuple[T, float]]:
        """The results of images' steps and their seconds, in the order of the cases.

        `draws`: about how many there will be, which says whether preparations pay.
        """
        crew, mixed = self.settle(draws)
        with full_precision(self.device):
            yield from drive(self.batches, crew, cases, mixed)

    def run(self, image: Tensor, steps: Steps[T]) -> T:
        """The result of the steps of one image (C, H, W)."""
        ((result, _),) = self.drive([Case(image, steps)], draws=0)
        return result

    def sample(self, image: Tensor, requests: Sequence[Request]) -> list[Votes]:
        """The votes of each request, all for one image (C, H, W)."""
        return self.run(image, answers(requests))

    def settle(self, draws: int) -> tuple[Crew, bool]:
        """The workers to use, and whether batches mix images; neither changes a vote.

        Chosen before the first job of many draws.
        """
        with self._settling:
            if self._settled or draws < LARGE_JOB * self.batch_size:
                return self.crew, self.mixed
            with full_precision(self.device):
                if self._others:
                    subject = {
                        "engine": self.engine,
                        **self.choice.identity,
                        "model": self._plan,
                        "shape": list(self.shape),
                        "batch_size": self.batch_size,
                    }
                    chosen = best_crew(self.batches, self.crew, self._others, self._crew, subject)
                    if chosen is not self.crew:
                        # The usual one stays: another thread may be using it.
                        self._crews.append(chosen)
                self.mixed = mixing_is_exact(self.batches, self.crew)
            log.debug("%d workers, batches mix images: %s", self.workers, self.mixed)
            self._settled = True
            return self.crew, self.mixed

    def thread_identity(self) -> dict[str, int]:
        """`threads` for a log's identity, where more than one a worker changes the bits."""
        if self.crew.threads == 1:
            return {}
        with closing(self._crew(1, 1)) as single:
            same = same_bits(bits(self.batches, single), bits(self.batches, self.crew))
        return {} if same else {"threads": self.crew.threads}

"""One batch of draws: noise onto images, through the generator and the classifier, counted.

Noise is drawn into one reused buffer per worker laid out channels-last (an i.i.d. draw has no
layout, and convolutions prefer it). A batch always has the same shape. It holds segments, draws of
one request each; the counts stay on the device, and nothing makes the host wait for it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from concert.deferred import Check, deferred_checks
from concert.engines.inference import check_rows_alone, twin
from concert.engines.precision import full_precision
from concert.engines.torch_engines import noisy_probe
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.sampling.counting import Part, Segment, Subject
from concert.sampling.crew import Crew
from concert.sampling.votes import ballots, count, dips_below, sum_of
from concert.streams import DRAWS_PER_BLOCK


def whole_batch(shape: tuple[int, int, int], batch_size: int, device: torch.device) -> Tensor:
    """Noisy images (B, C, H, W) in the memory of a batch of draws, to try a network on."""
    probe = noisy_probe(shape, batch_size).to(device)
    return probe.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Batches:
    """Batches of `batch_size` draws under a noise model, for images of one shape.

    The noise is a private copy. Its generator is refused if it does not treat images alone.
    """

    def __init__(
        self,
        noise: NoiseModel,
        num_classes: int,
        shape: tuple[int, int, int],
        device: torch.device,
        batch_size: int,
        margin: float,
    ) -> None:
        self.num_classes, self.shape, self.device = num_classes, shape, device
        self.batch_size, self.margin = batch_size, margin
        self.noise: NoiseModel = copy.deepcopy(noise).eval().requires_grad_(False).float()
        self._own = threading.local()
        generator = getattr(self.noise, "generator", None)
        # Of one lane, the generator looks at one image alone.
        if generator is not None and self.noise.lanes > 1:
            probe = whole_batch(shape, batch_size, device)
            with full_precision(device):
                check_rows_alone(generator, probe, "generator")

    def subject(self, image: Tensor) -> Subject:
        """An image (C, H, W) on the device, with its sigma map if it depends on nothing else."""
        with torch.inference_mode():
            x = image.to(self.device)[None].contiguous(memory_format=torch.channels_last)
            x = self.noise.accept(x)
            sigma = self.noise.prepare(x)
        if sigma is not None and not bool((sigma.isfinite() & (sigma > 0)).all()):
            raise ConcertError(
                "the generator's sigma map is not positive and finite: its weights are damaged"
            )
        return Subject(x, sigma)

    @torch.inference_mode()
    def count(self, segments: Sequence[Segment], crew: Crew) -> list[Part]:
        """What the draws of each segment gave, on a worker of `crew`.

        Segments of one batch agree in `classify` and `deployed`.
        """
        with deferred_checks() as checks:
            used, logits = self.compute(segments, crew)
        votes = None
        if logits is not None:
            margin = 0.0 if segments[0].request.deployed else self.margin
            # A map that is not a number marks a draw whose noise is undecided.
            decided = used[:, 0, 0, 0].isfinite()
            votes = torch.where(decided, ballots(logits, margin), self.num_classes)
        parts, row = [], 0
        for segment in segments:
            rows = slice(row, row + segment.valid)
            ours = None if votes is None else votes[rows]
            told = tuple(check.of(rows, self.batch_size) for check in checks)
            parts.append(self._part(segment, used[rows], ours, told))
            row += segment.rows
        return parts

    def _noise_of(self, deployed: bool) -> NoiseModel:
        """This thread's noise model."""
        if not hasattr(self._own, "noise"):
            noise = twin(self.noise)
            assert isinstance(noise, NoiseModel)
            self._own.noise = {False: noise, True: noise.deployed()}
        chosen: NoiseModel = self._own.noise[deployed]
        return chosen

    def compute(self, segments: Sequence[Segment], crew: Crew) -> tuple[Tensor, Tensor | None]:
        """The sigma maps (B, C, H, W) of a batch, and its logits (B, K) if it is classified."""
        request, buffers = segments[0].request, self._buffers(crew)
        x = self._spread([s.subject.x for s in segments], segments, buffers["images"])
        maps = [s.subject.sigma for s in segments if s.subject.sigma is not None]
        sigma = self._spread(maps, segments, buffers["sigma"]) if maps else None
        if not request.classify:
            (xi,) = self._draw(segments, buffers["lanes"][:1])
            used = self._noise_of(False).sigma_map_of(x, xi) if sigma is None else sigma
            return used.expand(self.batch_size, *self.shape), None
        noise = self._noise_of(request.deployed)
        noisy, used = noise(x, self._draw(segments, buffers["lanes"]), sigma)
        return used.expand_as(noisy), crew.network(noisy)

    def _part(
        self, segment: Segment, used: Tensor, votes: Tensor | None, checks: tuple[Check, ...]
    ) -> Part:
        """What the valid draws of a segment gave, by their maps (B, C, H, W) and votes (B,)."""
        request, counts = segment.request, None
        if votes is not None:
            counts = count(votes, self.num_classes)
            joint = torch.zeros_like(counts)
            if request.floor is not None:
                above = (used >= request.floor).flatten(1).all(dim=1)
                joint = count(torch.where(above, votes, self.num_classes), self.num_classes)
            counts = torch.stack([counts, joint])
        return Part(
            counts,
            sum_of(used) if request.mean_map else None,
            None if request.reference is None else dips_below(used, request.reference),
            used.clone() if segment.keep_maps else None,
            checks,
        )

    def _spread(
        self, values: Sequence[Tensor], segments: Sequence[Segment], buffer: Tensor
    ) -> Tensor:
        """The (1, C, H, W) value of each segment in each of its rows; alone, it is broadcast."""
        if len(values) == 1:
            return values[0]
        row = 0
        for value, segment in zip(values, segments, strict=True):
            buffer[row : row + segment.rows] = value
            row += segment.rows
        return buffer

    def _draw(self, segments: Sequence[Segment], lanes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fill buffers (B, H, W, C), one a lane, with the draws of the segments."""
        for lane, base in enumerate(lanes):
            row = 0
            for segment in segments:
                stream = segment.request.stream
                fill = stream.fill if self.noise.draws == "normals" else stream.fill_bits
                for first in range(segment.first, segment.first + segment.rows, DRAWS_PER_BLOCK):
                    fill(first // DRAWS_PER_BLOCK, lane, base[row : row + DRAWS_PER_BLOCK])
                    row += DRAWS_PER_BLOCK
        return tuple(base.permute(0, 3, 1, 2) for base in lanes)

    def _buffers(self, crew: Crew) -> dict[str, Any]:
        """This worker's buffers, made at its first batch."""
        buffers: dict[str, Any] = crew.own.__dict__
        if not buffers:
            channels, height, width = self.shape
            dtype = torch.float32 if self.noise.draws == "normals" else torch.int64
            # Contiguous (B, H, W, C) memory seen as (B, C, H, W) is channels-last, and filling it
            # in memory order is several times faster than filling a permuted tensor.
            size = (self.batch_size, height, width, channels)
            buffers["lanes"] = [
                torch.zeros(size, dtype=dtype, device=self.device) for _ in range(self.noise.lanes)
            ]
            for name in ("images", "sigma"):
                buffers[name] = torch.zeros(size, device=self.device).permute(0, 3, 1, 2)
        return buffers

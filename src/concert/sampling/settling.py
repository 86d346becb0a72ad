"""What is found out before a job of many draws: how batches may be packed, and the best workers.

Nothing found here changes a vote, because what does not give the same bits is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from concert.engines.precision import full_precision
from concert.sampling.batches import Batches
from concert.sampling.counting import Segment
from concert.sampling.crew import Crew, fastest, remember, remembered
from concert.sampling.votes import Request
from concert.streams import DRAWS_PER_BLOCK, Domain, Stream

# Batches of blocks at random places in random company, each with a place for every block.
MIXTURES: Final = 4


def mixing_is_exact(batches: Batches, crew: Crew) -> bool:
    """Whether a block of draws gives the same bits at any place of a batch and in any company.

    Votes are defined by batches of consecutive draws of one image; a block of those is compared
    with itself in batches that mix two images.
    """
    size = DRAWS_PER_BLOCK
    blocks = batches.batch_size // size
    if blocks == 1:
        return True
    random = np.random.default_rng(0)
    for classify in (True, False):
        pure = [made_up(batches, number, classify) for number in (0, 1)]
        found = [bits(batches, crew, [segment]) for segment in pure]
        wanted = [
            torch.cat([part.reshape(-1, size, *part.shape[1:]) for part in parts])
            for parts in zip(*found, strict=True)
        ]
        for _ in range(MIXTURES):
            order = random.permutation(2 * blocks)[:blocks].tolist()
            mixture = [
                replace(pure[block // blocks], first=block % blocks * size, rows=size)
                for block in order
            ]
            expected = [part[order].flatten(0, 1) for part in wanted]
            if not same_bits(bits(batches, crew, mixture), expected):
                return False
    return True


def best_crew(
    batches: Batches,
    usual: Crew,
    others: Sequence[tuple[int, int]],
    make: Callable[[int, int], Crew],
    subject: Mapping[str, Any],
) -> Crew:
    """The fastest of the usual crew and `others` (workers, threads) that give the same bits.

    By a warm-up, or by what an earlier one has found for the same `subject`.
    """
    known = remembered(subject)
    if known is not None:
        others = [pair for pair in others if pair[0] == known]
    wanted, crews = bits(batches, usual), [usual]
    for crew in (make(*pair) for pair in others):
        if same_bits(bits(batches, crew), wanted):
            crews.append(crew)
        else:
            crew.close()
    chosen = crews[-1]
    if known is None:
        chosen = crews[fastest([functools.partial(one_round, batches, crew) for crew in crews])]
        remember(subject, chosen.count)
    for crew in crews:
        if crew not in (usual, chosen):
            crew.close()
    return chosen


def one_round(batches: Batches, crew: Crew) -> int:
    """One batch of votes for every worker of a crew; the number of draws."""
    segments = [made_up(batches)]
    for future in [crew.submit(batches.count, segments, crew) for _ in range(crew.count)]:
        future.result()
    return crew.count * batches.batch_size


def made_up(batches: Batches, number: int = 0, classify: bool = True) -> Segment:
    """A full batch of draws of a made-up image of zeros and ones, which are on every grid."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 2, batches.shape, generator=generator).float()
    stream, size = Stream(0, Domain.SELECT, number), batches.batch_size
    request = Request(stream, size, classify=classify)
    return Segment(batches.subject(image), request, 0, size, keep_maps=False)


def bits(batches: Batches, crew: Crew, segments: Sequence[Segment] = ()) -> list[Tensor]:
    """All that a batch gives, sigma maps and logits, as a worker of `crew` computes it."""

    @torch.inference_mode()
    def compute() -> list[Tensor]:
        found = batches.compute(segments or [made_up(batches)], crew)
        return [part.clone() for part in found if part is not None]

    with full_precision(batches.device):
        return crew.submit(compute).result()


def same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal; what is not a number equals what is not."""
    pairs = zip(some, others, strict=True)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)

"""Whether a candidate breaks a certificate, and how many breaks alpha alone would allow.

The search is free to fool itself: a candidate is a break only if draws that no search has seen say
so, counted by the hot loop that serves deployed predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from concert.bounds import binomial_p_value
from concert.sampling.sampler import Sampler
from concert.sampling.votes import Request
from concert.streams import Domain, Stream

# Probability, per image, that the fresh tests call a certificate broken that is not.
TEST_ERROR: Final = 1e-6
# Breaks are more than alpha explains where it explains as many with less than this probability.
RARE: Final = 0.01


@dataclass(frozen=True)
class Candidate:
    """A perturbed image (C, H, W) float32 in a part of the region, inside [0, 1] if `boxed`."""

    part: str
    boxed: bool
    image: Tensor


@dataclass(frozen=True)
class Verdict:
    """A fresh test of one candidate.

    label_votes, rival_votes: of n draws at the candidate. margin: the certified class' share minus
    the best other class' there. p_value: exact and one-sided, of "the certified class is at least
    as probable as the rival". broken: p_value is at most the test's error.
    """

    candidate: Candidate
    rival: int
    label_votes: int
    rival_votes: int
    n: int
    margin: float
    p_value: float
    broken: bool


def rival_p_value(rival_votes: int, label_votes: int) -> float:
    """Exact one-sided p-value of "the rival is at most as probable as the certified class".

    Given their sum, the rival's votes are then at most Binomial(sum, 1/2). The binomial at 1/2 is
    symmetric, so this is half the two-sided p-value; 1 where the rival does not lead.
    """
    if rival_votes <= label_votes:
        return 1.0
    return 0.5 * binomial_p_value(rival_votes, label_votes)


def judge(
    sampler: Sampler,
    candidates: Sequence[Candidate],
    label: int,
    n0: int,
    n: int,
    seed: int,
    index: int,
) -> Verdict:
    """The verdict on an image: its closest candidate, in [0, 1] or not, tested on n fresh draws.

    n0 other draws choose the closest candidate of either kind, and each one's rival. Both are
    tested, at half the error. A break in [0, 1] comes before one outside, and both before none.
    """
    stream = Stream(seed, Domain.AUDIT, index)
    start = -(-n0 // sampler.batch_size) * sampler.batch_size
    chosen: dict[bool, tuple[float, int, Candidate]] = {}
    for candidate in candidates:
        (votes,) = sampler.sample(candidate.image, [Request(stream, n0, deployed=True)])
        margin, rival = share_margin(votes.counts, label, n0)
        if candidate.boxed not in chosen or margin < chosen[candidate.boxed][0]:
            chosen[candidate.boxed] = (margin, rival, candidate)
    verdicts = []
    for _, rival, candidate in chosen.values():
        fresh = Request(stream, start + n, start=start, deployed=True)
        (votes,) = sampler.sample(candidate.image, [fresh])
        ours, theirs = int(votes.counts[label]), int(votes.counts[rival])
        margin, _ = share_margin(votes.counts, label, n)
        p_value = rival_p_value(theirs, ours)
        broken = p_value <= TEST_ERROR / len(chosen)
        verdicts.append(Verdict(candidate, rival, ours, theirs, n, margin, p_value, broken))
    return min(verdicts, key=_closeness)


def _closeness(verdict: Verdict) -> tuple[bool, bool, float]:
    outside = verdict.broken and not verdict.candidate.boxed
    return not verdict.broken, outside, verdict.margin


def share_margin(counts: NDArray[np.int64], label: int, n: int) -> tuple[float, int]:
    """The label's share of n draws minus the best other class', and that class."""
    others = counts.copy()
    others[label] = -1
    rival = int(others.argmax())
    return (int(counts[label]) - int(counts[rival])) / n, rival


def breaks_allowed(images: int, alpha: float) -> int:
    """The most breaks among `images` certifications that alpha explains.

    Each certification is wrong with probability at most alpha, independently, and each test adds
    `TEST_ERROR`; so breaks are at most Binomial(images, alpha + TEST_ERROR). Any count above the
    one returned has a probability below `RARE`.
    """
    return int(binom.ppf(1.0 - RARE, images, min(1.0, alpha + TEST_ERROR)))

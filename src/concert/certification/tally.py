"""Counting the votes of one image stage by stage, and what they certify so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from concert.bounds import draws_to_certify
from concert.certificates import Claim, Region, union
from concert.certification.stopping import StagedBound, Stages, StoppingRule
from concert.sampling.votes import Votes


class Tally:
    """The votes so far and a running bound for each claim; all claims hold together.

    `n` draws have been counted, `counts` (K,) are the votes, `finished` says whether to stop.
    """

    def __init__(
        self,
        claims: Sequence[Claim],
        stages: Stages,
        alpha: float,
        candidate: int,
        num_classes: int,
    ) -> None:
        self.claims, self.candidate = claims, candidate
        self.bounds = [StagedBound(stages, claim.alpha_share * alpha) for claim in claims]
        self.counts = np.zeros(num_classes, dtype=np.int64)
        self.joint = np.zeros(num_classes, dtype=np.int64)
        self.n = 0
        self.finished = False

    def add(self, votes: Votes, rule: StoppingRule) -> None:
        """Count a stage's votes, update every bound and ask the rule; all must be content."""
        self.n += votes.n
        self.counts += votes.counts
        if votes.joint is not None:
            self.joint += votes.joint
        ks = [
            int((self.counts if claim.floor is None else self.joint)[self.candidate])
            for claim in self.claims
        ]
        for bound, k in zip(self.bounds, ks, strict=True):
            bound.update(k)
        reached = max(
            (
                claim.radius(bound.p_lower)
                for claim, bound in zip(self.claims, self.bounds, strict=True)
                if bound.p_lower > 0.5
            ),
            default=None,
        )
        self.finished = all(
            rule.stops(bound, k, claim.radius, reached)
            for claim, bound, k in zip(self.claims, self.bounds, ks, strict=True)
        )

    def region(self) -> tuple[Region, float]:
        """The certified region, and the lower bound that its radius rests on."""
        regions = [
            claim.region(bound.p_lower)
            for claim, bound in zip(self.claims, self.bounds, strict=True)
        ]
        best = max(range(len(regions)), key=lambda number: regions[number].radius)
        if len(regions) == 1:
            return regions[0], self.bounds[0].p_lower
        return union(regions[1].certificate, regions[0], regions[1]), self.bounds[best].p_lower

    @property
    def decided(self) -> bool:
        """Whether the candidate is the most probable class, up to the error probability."""
        return any(bound.p_lower > 0.5 for bound in self.bounds)

    def reason(self) -> str:
        """Why the class is undecided, and how many draws would at the observed share.

        Speaks of the first claim, whose event is the vote alone, at the last look's error.
        """
        k, bound = int(self.counts[self.candidate]), self.bounds[0]
        undecided = self.n - int(self.counts.sum())
        alpha = bound.stages.shares[-1] * bound.alpha
        needed = draws_to_certify(k / self.n, alpha)
        if 2 * k <= self.n < 2 * (k + undecided):
            advice = (
                "the logits of undecided votes, or the scores of their codebook's maps, are closer "
                "than a margin, or no numbers: check the networks and the scale of their outputs"
            )
        elif 2 * k <= self.n:
            advice = "no n certifies a vote share of at most 1/2"
        elif needed is None:
            advice = "more than 10^9 draws would be needed at this vote share"
        elif needed <= bound.stages.sizes[-1]:
            advice = "sampling stopped early by the stopping rule"
        else:
            advice = f"n={needed} would certify at this vote share"
        votes = f"{self.n} votes" + (f", {undecided} undecided" if undecided else "")
        return f"p_lower {bound.p_lower:.4f} <= 0.5 from {k} of {votes}; {advice}"

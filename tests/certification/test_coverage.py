"""Bounds are too high no more often than alpha, for every stopping rule and all claims together.

Repetitions are simulated from counts, without a classifier. Each test says how many misses it
tolerates, and that twice alpha would exceed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from concert.bounds import clopper_pearson_lower, clopper_pearson_upper
from concert.certificates import Claim
from concert.certification.stopping import StagedBound, Stages, StoppingRule
from concert.certification.tally import Tally
from concert.noise import QueriedNoise
from concert.sampling.votes import Votes

ALPHA, REPETITIONS, N = 0.02, 3000, 8000
RULES = ["full", "relative:0.05", "grid:0,0.1,0.2,0.3"]


class Never(StoppingRule):
    """Looks at every stage and goes on: the largest bound of all looks is what counts."""

    def stops(self, bound: StagedBound, *arguments: object, **others: object) -> bool:
        return bound.stage == len(bound.stages.sizes)


def tolerated(alpha: float = ALPHA, repetitions: int = REPETITIONS) -> int:
    """More misses than these have a probability of 1e-4 at alpha, and of 0.99 at twice alpha."""
    limit = int(binom.ppf(0.9999, repetitions, alpha))
    assert binom.cdf(limit, repetitions, 2 * alpha) < 0.01
    return limit


def claims() -> tuple[Claim, ...]:
    """The ball and the ellipsoid of queried noise, with the parts of alpha that it gives them."""
    noise = QueriedNoise(torch.nn.Identity(), 0.5, 0.25, 0.45)
    floor = torch.full((1, 1, 2), 0.4)
    return noise.claims("queried", floor, floor)


def misses(made: Sequence[Claim], rule: StoppingRule, stages: Stages, seed: int) -> int:
    """Repetitions in which any claim's bound exceeds the probability of its event.

    A vote has probability 0.9 and a map above the floor, independent of it, 0.8: the claims' errors
    are then nearly independent, and their sum is nearly all of alpha.
    """
    p, above = 0.9, 0.8
    draw = np.random.default_rng(seed)
    steps = np.diff((0, *stages.sizes))
    truths = [p if claim.floor is None else p * above for claim in made]
    total = 0
    for _ in range(REPETITIONS):
        tally = Tally(made, stages, ALPHA, 0, 2)
        for step in steps:
            counted, low, other = draw.multinomial(step, [p * above, p * (1 - above), 1 - p])
            votes = np.array([counted + low, other])
            tally.add(Votes(votes, int(step), joint=np.array([counted, 0])), rule)
            if tally.finished:
                break
        bounds = zip(tally.bounds, truths, strict=True)
        total += any(bound.p_lower > truth for bound, truth in bounds)
    return total


@pytest.mark.parametrize("text", RULES)
def test_coverage_of_all_claims_under_stopping(text: str) -> None:
    """The ball's bound and the ellipsoid's hold together, wherever the rule stops."""
    rule = StoppingRule.parse(text)
    assert misses(claims(), rule, rule.stages(N), seed=1) <= tolerated()


def test_coverage_of_the_largest_bounds_of_all_looks() -> None:
    """What a rule that stops at the first wrong bound would get."""
    stages = Stages.standard(N)
    assert len(stages.sizes) == 5
    assert misses(claims(), Never("full"), stages, seed=2) <= tolerated()


def test_an_alpha_that_is_not_split_between_claims_is_noticed() -> None:
    """Both claims at all of alpha err nearly twice as often."""
    greedy = tuple(replace(claim, alpha_share=1.0) for claim in claims())
    rule = StoppingRule.parse("full")
    assert misses(greedy, rule, rule.stages(N), seed=1) > tolerated()


def test_an_alpha_that_is_not_split_between_looks_is_noticed() -> None:
    """Five looks at all of alpha each err more than twice as often."""
    draw = np.random.default_rng(3)
    sizes = Stages.standard(N).sizes
    steps = np.diff((0, *sizes))
    wrong = 0
    for _ in range(REPETITIONS):
        counts = np.cumsum(draw.binomial(steps, 0.9))
        looks = zip(counts, sizes, strict=True)
        wrong += any(clopper_pearson_lower(int(k), n, ALPHA) > 0.9 for k, n in looks)
    assert wrong > tolerated()


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_coverage_of_single_bounds(p: float) -> None:
    """Both directions, at a number of draws fixed beforehand; neither is idle."""
    counts = np.random.default_rng(4).binomial(N, p, REPETITIONS)
    low = sum(clopper_pearson_lower(int(k), N, ALPHA) > p for k in counts)
    high = sum(clopper_pearson_upper(int(k), N, ALPHA) < p for k in counts)
    for wrong in (low, high):
        assert REPETITIONS * ALPHA / 2 < wrong <= tolerated()

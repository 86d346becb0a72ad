"""Staged bounds stay valid under every stopping rule, and the rules stop when they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from concert.bounds import MARGIN, clopper_pearson_lower
from concert.certificates import Claim, isotropic, isotropic_radius
from concert.certification.stopping import (
    StagedBound,
    Stages,
    StagingLoss,
    StoppingRule,
    next_radius,
    staging_loss,
)
from concert.certification.tally import Tally
from concert.errors import ConcertError
from concert.sampling.votes import Votes

GRID = "grid:0,0.25,0.5,0.75"


def quarter(p_lower: float) -> float:
    return isotropic_radius(p_lower, 0.25)


def test_reference_path() -> None:
    stages = Stages((500, 1500, 5000, 15000, 40000, 100000), (0.08, 0.08, 0.12, 0.12, 0.2, 0.4))
    bound = StagedBound(stages, 0.001)
    path = {
        495: 0.960865128917687,
        1486: 0.9773633465554801,
        4951: 0.9840076435596986,
        14850: 0.9866662554423595,
        39604: 0.9882259937398488,
        99011: 0.9890168624755438,
    }
    for k, lower in path.items():
        reported = bound.update(k)
        assert reported + MARGIN == pytest.approx(lower, rel=1e-9)
        assert reported < lower


@given(st.integers(1, 200_000), st.sampled_from([1, 16, 64, 256]))
def test_standard_stages_are_whole_batches_and_spend_alpha_once(n: int, multiple: int) -> None:
    stages = Stages.standard(n, multiple)
    assert stages.sizes[-1] == n
    assert all(size % multiple == 0 for size in stages.sizes[:-1])
    assert sum(stages.shares) == pytest.approx(1.0)
    assert stages.shares[-1] >= 0.4 - 1e-12


def test_the_bound_never_falls() -> None:
    bound = StagedBound(Stages.standard(10_000), 0.001)
    bound.update(500)
    high = bound.p_lower
    assert bound.update(800) == high


def run(rule: str, p: float, n: int, alpha: float, unit: float, generator: np.random.Generator):
    """Simulate one image; the bound and the draws used."""
    parsed = StoppingRule.parse(rule)
    bound = StagedBound(parsed.stages(n), alpha)
    k = used = 0
    for size in bound.stages.sizes:
        k += int(generator.binomial(size - used, p))
        used = size
        bound.update(k)
        if parsed.stops(bound, k, lambda p: isotropic_radius(p, unit)):
            break
    return bound.p_lower, used


@pytest.mark.parametrize("rule", ["full", "relative:0.05", GRID])
@pytest.mark.parametrize("p", [0.55, 0.9, 0.995])
def test_coverage_under_stopping(rule: str, p: float) -> None:
    # 3,000 repetitions at alpha = 0.02: twice alpha would give 120 misses, far outside.
    alpha, repetitions = 0.02, 3000
    generator = np.random.default_rng(3)
    misses = sum(run(rule, p, 8000, alpha, 0.25, generator)[0] > p for _ in range(repetitions))
    assert misses <= binom.ppf(0.9999, repetitions, alpha)


def test_coverage_of_the_most_hostile_rule() -> None:
    # Stops at the first look whose bound is wrong: exactly what the union bound pays for.
    alpha, p, repetitions = 0.05, 0.9, 4000
    stages = Stages.standard(20_000)
    generator = np.random.default_rng(5)
    steps = np.diff((0, *stages.sizes))
    misses = 0
    for _ in range(repetitions):
        bound = StagedBound(stages, alpha)
        misses += any(bound.update(int(k)) > p for k in np.cumsum(generator.binomial(steps, p)))
    assert misses <= binom.ppf(0.9999, repetitions, alpha)


def test_the_grid_rule_saves_draws_and_decides_every_radius() -> None:
    generator = np.random.default_rng(1)
    unit, n = 0.25, 100_000
    used = []
    for p in (0.3, 0.7, 0.9, 0.99, 0.99999):
        lower, draws = run(GRID, p, n, 0.001, unit, generator)
        full = clopper_pearson_lower(round(p * n), n, 0.001)
        used.append(draws)
        for radius in (0.0, 0.25, 0.5, 0.75):
            true_radius = unit * norm.ppf(full) if full > 0.5 else -1.0
            if abs(true_radius - radius) > 0.02:  # away from the grid both procedures agree
                certified = lower > 0.5 and unit * norm.ppf(lower) >= radius
                assert certified == (true_radius >= radius)
    assert np.mean(used) < 0.2 * n


def test_relative_stops_within_its_fraction() -> None:
    generator = np.random.default_rng(2)
    for p in (0.7, 0.95, 0.99):
        lower, draws = run("relative:0.1", p, 100_000, 0.001, 1.0, generator)
        full = clopper_pearson_lower(round(p * 100_000), 100_000, 0.001)
        assert norm.ppf(lower) >= 0.85 * norm.ppf(full)
        assert draws < 100_000


def test_hopeless_images_are_given_up_on_and_hopeful_ones_are_not() -> None:
    for rule in ("relative:0.05", GRID):
        parsed = StoppingRule.parse(rule)
        bound = StagedBound(parsed.stages(100_000), 0.001)
        bound.update(150)
        assert parsed.stops(bound, 150, quarter)  # 30 % after 500 draws
        bound = StagedBound(parsed.stages(100_000), 0.001)
        bound.update(265)
        assert not parsed.stops(bound, 265, quarter)  # 53 % may still pass 1/2


def test_full_is_plain_clopper_pearson() -> None:
    parsed = StoppingRule.parse("full")
    bound = StagedBound(parsed.stages(1000), 0.001)
    assert bound.update(990) == clopper_pearson_lower(990, 1000, 0.001)
    assert parsed.stops(bound, 990, quarter)


def test_next_radius() -> None:
    assert next_radius((0.0, 0.25), 0.0, False) == 0.0
    assert next_radius((0.0, 0.25), 0.1, True) == 0.25
    assert next_radius((0.0, 0.25), 0.25, True) is None


@pytest.mark.parametrize(
    "text",
    ["fulll", "relative", "relative:2", "relative:a", "grid", "grid:-1", "full:1", "grid:inf"],
)
def test_nonsense_is_one_line(text: str) -> None:
    with pytest.raises(ConcertError, match="stopping rule"):
        StoppingRule.parse(text)


@pytest.mark.parametrize(
    ("sizes", "shares"), [((), ()), ((5, 5), (0.5, 0.5)), ((5,), (1.1,)), ((5,), (0.0,))]
)
def test_impossible_stages(sizes: tuple[int, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="s"):
        Stages(sizes, shares)


def test_a_radius_that_is_zero_for_any_bound_is_decided_with_the_class() -> None:
    for rule in ("relative:0.05", GRID):
        parsed = StoppingRule.parse(rule)
        bound = StagedBound(parsed.stages(100_000), 0.001)
        bound.update(490)
        assert parsed.stops(bound, 490, lambda p: 0.0)
    bound = StagedBound(parsed.stages(100_000), 0.001)
    bound.update(265)
    assert not parsed.stops(bound, 265, lambda p: 0.0)


def test_a_grid_is_decided_by_all_claims_together() -> None:
    """A ball that is still undecided does not go on where the ellipsoid contains it."""
    ball = Claim(lambda p: isotropic(p, 0.25, 784), 0.5)
    ellipsoid = Claim(lambda p: isotropic(p, 0.45, 784), 0.5, torch.full((1, 28, 28), 0.45))
    rule = StoppingRule.parse("grid:0,0.25,0.5,0.75,1")
    votes = Votes(np.array([500, 0]), 500, joint=np.array([500, 0]))
    alone = Tally([ball], rule.stages(100_000), 0.001, 0, 2)
    both = Tally([ball, ellipsoid], rule.stages(100_000), 0.001, 0, 2)
    for tally in (alone, both):
        tally.add(votes, rule)
    # 500 unanimous draws: radius 0.52 by the ball, 0.93 by the ellipsoid; 1.0 is still open.
    assert not alone.finished
    assert not both.finished
    votes = Votes(np.array([1000, 0]), 1000, joint=np.array([1000, 0]))
    for tally in (alone, both):
        tally.add(votes, rule)
    # 1,500 draws: 0.60 and 1.08.
    assert not alone.finished
    assert both.finished
    assert both.region()[0].radius > 1.0

    # Whatever stops it, no draw is left out of the counts and both bounds keep their alpha.
    assert both.n == 1500
    assert [bound.alpha for bound in both.bounds] == [0.0005, 0.0005]


def test_an_ellipsoid_out_of_reach_does_not_stop_the_ball() -> None:
    ball = Claim(lambda p: isotropic(p, 0.25, 784), 0.5)
    ellipsoid = Claim(lambda p: isotropic(p, 0.45, 784), 0.5, torch.full((1, 28, 28), 0.45))
    rule = StoppingRule.parse("grid:0,0.25,0.5,0.75")
    tally = Tally([ball, ellipsoid], rule.stages(100_000), 0.001, 0, 2)
    # The maps are never above the floor: only the ball can certify, and it is still open.
    tally.add(Votes(np.array([500, 0]), 500, joint=np.array([0, 0])), rule)
    assert not tally.finished
    assert tally.decided


def test_more_draws_than_can_be_asked_for_are_not_called_a_minority() -> None:
    ball = Claim(lambda p: isotropic(p, 0.25, 784), 1.0)
    rule = StoppingRule.parse("full")
    for votes, advice in (
        ([50_001, 49_999], "more than 10^9 draws would be needed at this vote share"),
        ([50_000, 50_000], "no n certifies a vote share of at most 1/2"),
        ([40_000, 10_000], "the logits of undecided votes, or the scores of their codebook"),
    ):
        tally = Tally([ball], rule.stages(100_000), 0.001, 0, 2)
        tally.add(Votes(np.array(votes), 100_000), rule)
        assert advice in tally.reason()


def test_a_radius_that_all_draws_would_miss_is_given_up_on() -> None:
    # 0.75 needs 0.99865. At 99.75 % after 15,104 draws all remaining ones could still be votes, but
    # not at a share that three standard errors above this one explain.
    parsed = StoppingRule.parse(GRID)
    stages = parsed.stages(100_000, 256)
    for share, stopped in ((0.9975, True), (0.9985, False)):
        bound = StagedBound(stages, 0.001)
        for size in stages.sizes[: stages.sizes.index(15_104) + 1]:
            k = round(share * size)
            bound.update(k)
        assert parsed.stops(bound, k, quarter) == stopped


def test_what_looking_early_costs_is_the_last_stages_share_of_the_error() -> None:
    stages = Stages.standard(100_000, 256)
    loss = staging_loss(stages, 0.001)
    # All draws agree: p_lower is the n-th root of the error.
    radii = [norm.ppf(error ** (1 / 100_000)) for error in (stages.shares[-1] * 0.001, 0.001)]
    assert loss.unanimous == pytest.approx(1 - radii[0] / radii[1], rel=1e-3)
    assert 0.005 < loss.unanimous < 0.012
    bounds = [clopper_pearson_lower(90_000, 100_000, a) for a in (stages.shares[-1] * 1e-3, 1e-3)]
    assert loss.ninety == pytest.approx(1 - norm.ppf(bounds[0]) / norm.ppf(bounds[1]), rel=1e-9)
    assert 0 < loss.ninety < loss.unanimous
    assert staging_loss(Stages.single(1000), 0.001) == StagingLoss(0.0, 0.0)
    # Ten draws certify plainly, and not after a share of the error was spent on five.
    assert staging_loss(Stages((5, 10), (0.5, 0.5)), 0.001).unanimous == 1.0

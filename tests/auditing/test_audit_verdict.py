"""The fresh test, and how many breaks alpha explains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from concert.auditing.verdict import (
    TEST_ERROR,
    Candidate,
    breaks_allowed,
    judge,
    rival_p_value,
    share_margin,
)
from concert.sampling.votes import Request, Votes
from concert.streams import Domain


@pytest.mark.parametrize(
    ("rival", "label"), [(10, 3), (51, 50), (700, 300), (21, 0), (5, 5), (0, 9)]
)
def test_the_p_value_is_the_exact_one_sided_one(rival: int, label: int) -> None:
    exact = float(binomtest(rival, rival + label, 0.5, alternative="greater").pvalue)
    expected = exact if rival > label else 1.0
    assert rival_p_value(rival, label) == pytest.approx(expected, rel=1e-9)


def test_p_values_of_equal_classes_are_not_small_too_often() -> None:
    numbers = np.random.default_rng(0)
    votes = numbers.multinomial(400, [0.4, 0.4, 0.2], size=5000)
    small = np.mean([rival_p_value(theirs, ours) <= 0.01 for ours, theirs, _ in votes])
    assert small <= 0.01 + 5 * math.sqrt(0.01 * 0.99 / 5000)
    assert small > 0.004, "the test should not be idle"


@pytest.mark.parametrize("images", [1, 5, 10, 50, 500, 5000])
@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.2])
def test_the_breaks_allowed_are_the_binomial_quantile(images: int, alpha: float) -> None:
    allowed, p = breaks_allowed(images, alpha), alpha + TEST_ERROR
    below = 0.0
    for count in range(allowed + 1):
        before = below
        log_term = (
            math.lgamma(images + 1) - math.lgamma(count + 1) - math.lgamma(images - count + 1)
        )
        below += math.exp(log_term + count * math.log(p) + (images - count) * math.log1p(-p))
    assert 1.0 - below <= 0.01 + 1e-9
    assert allowed == 0 or 1.0 - before > 0.01 - 1e-9


def test_known_quantiles() -> None:
    # P(X >= 1) is 4.9 % for 50 images at 0.001, P(X >= 2) is 0.12 %.
    assert breaks_allowed(50, 0.001) == 1
    assert breaks_allowed(5, 0.001) == 0
    assert breaks_allowed(1000, 0.001) == 4


def test_the_margin_leaves_the_label_out() -> None:
    assert share_margin(np.array([60, 30, 10]), 0, 100) == (0.3, 1)
    assert share_margin(np.array([30, 60, 10]), 0, 100) == (-0.3, 1)
    assert share_margin(np.array([0, 0, 0]), 0, 100)[1] != 0


@dataclass
class Ballot:
    """A sampler whose votes depend on the image alone: `shares` by the image's first value."""

    shares: dict[int, tuple[float, ...]]
    batch_size: int = 64
    asked: list[tuple[int, Request]] = field(default_factory=list)

    def sample(self, image: torch.Tensor, requests: list[Request]) -> list[Votes]:
        (request,) = requests
        self.asked.append((int(image), request))
        n = request.n - request.start
        counts = [round(share * n) for share in self.shares[int(image)]]
        return [Votes(np.array(counts, dtype=np.int64), n)]


def verdict_of(shares: dict[int, tuple[float, ...]], boxed: set[int], n: int = 4000) -> Any:
    ballot = Ballot(shares)
    candidates = [
        Candidate("ball", number in boxed, torch.tensor(float(number))) for number in shares
    ]
    verdict = judge(ballot, candidates, 0, 100, n, seed=9, index=4)  # type: ignore[arg-type]
    return verdict, ballot


def test_the_closest_of_either_kind_is_tested_on_draws_that_chose_nothing() -> None:
    shares = {1: (0.9, 0.1), 2: (0.6, 0.4), 3: (0.7, 0.3), 4: (0.8, 0.2)}
    verdict, ballot = verdict_of(shares, boxed={3, 4})
    choosing, testing = ballot.asked[:4], ballot.asked[4:]
    assert [number for number, _ in testing] == [2, 3]
    assert all((request.start, request.n) == (0, 100) for _, request in choosing)
    assert all((request.start, request.n) == (128, 4128) for _, request in testing)
    assert {request.stream.domain for _, request in ballot.asked} == {Domain.AUDIT}
    assert {(r.stream.seed, r.stream.index) for _, r in ballot.asked} == {(9, 4)}
    assert (int(verdict.candidate.image), verdict.broken) == (2, False)
    assert verdict.margin == pytest.approx(0.2)


def test_a_break_in_the_box_comes_first_then_one_outside() -> None:
    verdict, _ = verdict_of({1: (0.1, 0.9), 2: (0.3, 0.7)}, boxed={2})
    assert verdict.broken
    assert int(verdict.candidate.image) == 2
    verdict, _ = verdict_of({1: (0.4, 0.6), 2: (0.5, 0.5)}, boxed={2})
    assert verdict.broken
    assert int(verdict.candidate.image) == 1


def test_a_lead_that_chance_explains_is_no_break() -> None:
    # 2140 of 4000 has a one-sided p-value of about 5e-6, 2160 of 2e-7.
    verdict, _ = verdict_of({1: (0.465, 0.535)}, boxed=set())
    assert verdict.margin < 0
    assert not verdict.broken
    verdict, _ = verdict_of({1: (0.46, 0.54)}, boxed=set())
    assert verdict.broken

"""The first certifications of a classifier that was not trained with the noise."""

from __future__ import annotations

import pytest

from concert.evaluation.collapse import ENOUGH, FEWEST, collapsed

MIXED = [i % 4 for i in range(ENOUGH)]


@pytest.mark.parametrize(
    ("answers", "labels", "verdict"),
    [
        ([-1] * ENOUGH, MIXED, True),
        ([-1] * ENOUGH, [0] * ENOUGH, True),
        ([3] * ENOUGH, MIXED, True),
        ([3, *[-1] * (ENOUGH - 1)], MIXED, True),
        ([3] * ENOUGH, [3] * ENOUGH, False),
        ([3] * ENOUGH, [3] * (ENOUGH // 2 + 1) + [1] * (ENOUGH // 2 - 1), False),
        ([3, *[2] * (ENOUGH - 1)], MIXED, False),
        ([-1] * (ENOUGH - 1), MIXED[:-1], True),
        ([-1] * FEWEST, MIXED[:FEWEST], True),
        ([-1] * (FEWEST - 1), MIXED[: FEWEST - 1], False),
        ([3] * (ENOUGH - 1), MIXED[:-1], False),
        (MIXED, MIXED, False),
    ],
)
def test_by_hand(answers: list[int], labels: list[int], verdict: bool) -> None:
    assert collapsed(answers, labels) is verdict

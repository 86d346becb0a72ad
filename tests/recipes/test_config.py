"""Settings that a recipe cannot have."""

from __future__ import annotations

import pytest

from concert.errors import ConcertError
from concert.recipes.config import TrainingSettings


@pytest.mark.parametrize("milestones", [[60, -3, 1], [60, 30], [0, 30], [-1]])
def test_milestones_are_positive_and_rise(milestones: list[int]) -> None:
    with pytest.raises(ConcertError, match="milestones must be positive and in rising") as error:
        TrainingSettings(epochs=2, milestones=milestones)
    assert str(milestones) in str(error.value)


@pytest.mark.parametrize("milestones", [[], [1], [30, 60]])
def test_milestones_may_lie_beyond_the_epochs_of_a_trial(milestones: list[int]) -> None:
    assert TrainingSettings(epochs=2, milestones=milestones).milestones == milestones


def test_nesterovs_momentum_needs_momentum() -> None:
    assert TrainingSettings(nesterov=True).nesterov
    assert not TrainingSettings(momentum=0.0).nesterov
    with pytest.raises(ConcertError, match=r"nesterov needs a training\.momentum above 0"):
        TrainingSettings(momentum=0.0, nesterov=True)

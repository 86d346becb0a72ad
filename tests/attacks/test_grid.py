"""Perturbations in whole steps: within the bound, and no step of it wasted."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concert.attacks.grid import whole_steps


def test_without_a_bound_it_is_the_nearest() -> None:
    steps = torch.tensor([0.4, -0.6, 2.5001, -3.0]).reshape(1, 1, 2, 2)
    assert whole_steps(steps, "l2", math.inf).flatten().tolist() == [0.0, -1.0, 3.0, -3.0]


def test_in_linf_it_is_the_nearest_within_the_bound() -> None:
    steps = torch.tensor([0.4, -0.6, 2.7, -2.7]).reshape(1, 1, 2, 2)
    assert whole_steps(steps, "linf", 2.7).flatten().tolist() == [0.0, -1.0, 2.0, -2.0]


def test_in_l2_what_is_left_goes_where_it_gains_most() -> None:
    """Whole parts 2, 0, 0, 0 have the square 4; 5.96 leaves one step, for 0.9 and not for -0.8."""
    steps = torch.tensor([2.1, 0.9, -0.8, 0.3]).reshape(1, 1, 2, 2)
    assert whole_steps(steps, "l2", 100.0).flatten().tolist() == [2.0, 1.0, 0.0, 0.0]
    larger = torch.tensor([2.1, 0.9, -0.9, 0.4]).reshape(1, 1, 2, 2)
    # 6.19 leaves two. From 2 to 3 would cost 5, for a tenth of a step.
    assert whole_steps(larger, "l2", 100.0).flatten().tolist() == [2.0, 1.0, -1.0, 0.0]
    assert whole_steps(larger, "l2", 5.5**0.5).flatten().tolist() == [2.0, 1.0, 0.0, 0.0]


def test_a_perturbation_inside_the_ball_does_not_grow() -> None:
    steps = torch.full((1, 3, 4, 4), 0.2)
    whole = whole_steps(steps, "l2", 1000.0)
    assert float(whole.norm()) <= float(steps.norm())
    assert float(whole.norm()) > 0


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 40.0))
def test_it_never_exceeds_the_bound_and_uses_it(seed: int, bound: float) -> None:
    given_steps = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    lengths = given_steps.flatten(1).norm(dim=1)
    steps = given_steps * (bound / lengths)[:, None, None, None]
    whole = whole_steps(steps, "l2", bound)
    assert torch.equal(whole, whole.round())
    squares = whole.double().square().flatten(1).sum(dim=1)
    assert bool((squares <= bound**2 * (1 + 1e-9)).all())
    assert bool((whole * steps >= 0).all())
    # The cheapest step that is left costs more than what is left.
    lower = (steps.abs() + 1e-4).floor()
    for row in range(3):
        rest = (whole[row].abs() == lower[row]) & (steps[row].abs() - lower[row] > 1e-4)
        used = whole[row].abs() > lower[row]
        if bool(rest.any()) and not bool(used.any()):
            ratio = (steps[row].abs() - lower[row]) / (2 * lower[row] + 1)
            first = int(ratio.masked_fill(~rest, -1.0).argmax())
            least = min(bound**2, float(steps[row].double().square().sum()))
            assert squares[row] + 2 * float(lower[row].flatten()[first]) + 1 > least


def test_images_do_not_share_a_bound() -> None:
    steps = torch.stack([torch.full((1, 2, 2), 0.5), torch.tensor([[[1.7, 0.0], [0.0, 0.9]]])])
    whole = whole_steps(steps, "l2", 2.0)
    assert whole.square().flatten(1).sum(dim=1).tolist() == [1.0, 2.0]
    assert whole[1].flatten().tolist() == [1.0, 0.0, 0.0, 1.0]

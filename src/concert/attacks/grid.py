"""Perturbations in whole steps of a grid, for noise that takes only images on one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from concert.noise.grid import ON_GRID

Norm = Literal["l2", "linf"]


def whole_steps(steps: Tensor, norm: Norm, bound: float) -> Tensor:
    """Perturbations (B, C, H, W) in steps of a grid, of a norm up to `bound`, made whole within it.

    To the nearest without a bound (infinity), and in linf up to it. In l2 the whole part of each
    value is kept, and what is then missing of the perturbation's norm goes to one step more of the
    values that gain most by it for its cost in squared norm: to the nearest, a perturbation of less
    than half a step a value would be nothing.
    """
    if math.isinf(bound):
        return steps.round()
    if norm == "linf":
        most = math.floor(bound + ON_GRID)
        return steps.round().clamp(-most, most)
    whole = (steps.abs() + ON_GRID).floor()
    missing, cost = (steps.abs() - whole).flatten(1), (2.0 * whole + 1.0).flatten(1)
    square = steps.double().square().flatten(1).sum(dim=1).clamp(max=bound**2)
    left = square - whole.double().square().flatten(1).sum(dim=1)
    order = (missing / cost).argsort(dim=1, descending=True, stable=True)
    spent = cost.gather(1, order).double().cumsum(dim=1)
    chosen = (spent <= left[:, None]) & (missing.gather(1, order) > ON_GRID)
    more = torch.zeros_like(missing).scatter(1, order, chosen.to(missing.dtype))
    return (whole + more.reshape(whole.shape)) * steps.sign()

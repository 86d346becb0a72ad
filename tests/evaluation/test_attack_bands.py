"""What an attack changes: perturbations made of one part, of two in known shares, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from concert.certificates.bands import LUMA
from concert.errors import ConcertError
from concert.evaluation.attack_bands import Change, attack_bands

LUMA_STEP = torch.tensor(LUMA, dtype=torch.float64)[None, :, None, None]


def bands_of(changes: Tensor, block: int = 4) -> Change:
    found = attack_bands(torch.zeros_like(changes), changes, block)
    assert found is not None
    return found


def checkered(side: int = 8) -> Tensor:
    """Ones and minus ones whose mean over every block of even side is 0: (1, 1, side, side)."""
    rows = torch.arange(side)
    return (1.0 - 2.0 * ((rows[:, None] + rows[None, :]) % 2)).double()[None, None]


def test_perturbations_of_one_part_alone() -> None:
    # Equal luma: 0.7152 of red against 0.2126 of green.
    colour = torch.tensor([LUMA[1], -LUMA[0], 0.0], dtype=torch.float64)[None, :, None, None]
    alone = {
        "chroma": colour * checkered(),
        "smooth": LUMA_STEP * torch.ones(1, 1, 8, 8, dtype=torch.float64),
        "detail": LUMA_STEP * checkered(),
    }
    for name, perturbation in alone.items():
        found = bands_of(perturbation)
        part = getattr(found, name)
        assert part.energy == pytest.approx(1.0)
        assert part.l2_quartiles == pytest.approx([float(perturbation.norm())] * 3)
        for other in alone.keys() - {name}:
            assert getattr(found, other).energy == pytest.approx(0.0, abs=1e-12)


def test_energies_add_up_and_norms_are_over_images() -> None:
    """A grey layer of 1 changes colour too: its luma part is the sum of LUMA over its norm."""
    layer = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    # The second image changes twice as much, and in detail.
    both = torch.cat([layer, 2 * layer * checkered()])
    found = bands_of(both)
    luma = sum(LUMA) ** 2 / (3 * sum(weight**2 for weight in LUMA))
    assert found.smooth.energy == pytest.approx(luma / 5)
    assert found.detail.energy == pytest.approx(4 * luma / 5)
    assert found.chroma.energy == pytest.approx(1 - luma)
    assert found.sum_of_squares == pytest.approx(5 * 3 * 64)
    norm = math.sqrt(3 * 64)
    assert found.l2_quartiles == pytest.approx([1.25 * norm, 1.5 * norm, 1.75 * norm])
    # Blocks of one pixel leave no detail.
    fine = bands_of(both, block=1)
    assert fine.detail.energy == pytest.approx(0.0, abs=1e-12)
    assert fine.smooth.energy == pytest.approx(luma)


def test_white_noise_has_its_energy_where_the_dimensions_are() -> None:
    noise = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = bands_of(noise)
    assert found.chroma.dimensions == pytest.approx(2 / 3)
    assert found.smooth.dimensions == pytest.approx(16 / 768)
    assert found.detail.dimensions == pytest.approx((256 - 16) / 768)
    for part in (found.chroma, found.smooth, found.detail):
        # 153,600 squares of variance 2: three standard errors of the smallest share are below 2 %.
        assert part.energy == pytest.approx(part.dimensions, rel=0.08)


def test_grey_images_have_no_colour() -> None:
    found = bands_of(torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0)))
    assert found.chroma.energy == pytest.approx(0.0, abs=1e-12)
    assert found.chroma.dimensions == 0.0
    assert found.smooth.energy + found.detail.energy == pytest.approx(1.0)


def test_what_has_no_parts_is_none_or_refused() -> None:
    assert attack_bands(torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)) is None
    for after, block, said in (
        (torch.ones(1, 4, 8, 8), 8, "4 channels"),
        (torch.ones(1, 3, 8, 8), 0, "at least 1 pixel"),
        (torch.full((1, 3, 8, 8), math.nan), 8, "not finite"),
    ):
        with pytest.raises(ConcertError, match=said):
            attack_bands(torch.zeros_like(after), after, block)

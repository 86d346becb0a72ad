"""What an attack changes: perturbations made of one part, of two in known shares, and refusals."""

from __future__ import annotations

import math

import pytest
import torch

from concert.certificates.bands import LUMA
from concert.errors import ConcertError
from concert.evaluation.attack_bands import attack_bands

LUMA_STEP = torch.tensor(LUMA, dtype=torch.float64)[None, :, None, None]


def checkered(side: int = 8) -> torch.Tensor:
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
        found = attack_bands(perturbation, block=4)
        assert found[name].energy == pytest.approx(1.0)
        assert found[name].l2 == pytest.approx([float(perturbation.norm())] * 3)
        for other in alone.keys() - {name}:
            assert found[other].energy == pytest.approx(0.0, abs=1e-12)


def test_energies_add_up_and_norms_are_over_images() -> None:
    """A grey layer of 1 changes colour too: its luma part is the sum of LUMA over its norm."""
    layer = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    # The second image changes twice as much, and in detail.
    both = torch.cat([layer, 2 * layer * checkered()])
    found = attack_bands(both, block=4)
    luma = sum(LUMA) ** 2 / (3 * sum(weight**2 for weight in LUMA))
    assert found["smooth"].energy == pytest.approx(luma / 5)
    assert found["detail"].energy == pytest.approx(4 * luma / 5)
    assert found["chroma"].energy == pytest.approx(1 - luma)
    assert found["whole"].energy == pytest.approx(1.0)
    norm = math.sqrt(3 * 64)
    assert found["whole"].l2 == pytest.approx([1.25 * norm, 1.5 * norm, 1.75 * norm])
    # Blocks of one pixel leave no detail.
    fine = attack_bands(both, block=1)
    assert fine["detail"].energy == pytest.approx(0.0, abs=1e-12)
    assert fine["smooth"].energy == pytest.approx(luma)


def test_grey_images_have_no_colour() -> None:
    found = attack_bands(torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0)), 4)
    assert found["chroma"].energy == pytest.approx(0.0, abs=1e-12)
    assert found["smooth"].energy + found["detail"].energy == pytest.approx(1.0)


def test_what_has_no_parts_is_refused() -> None:
    for perturbations, block, said in (
        (torch.ones(1, 4, 8, 8), 8, "4 channels"),
        (torch.ones(1, 3, 8, 8), 0, "at least 1 pixel"),
        (torch.zeros(1, 3, 8, 8), 8, "no image is perturbed"),
    ):
        with pytest.raises(ConcertError, match=said):
            attack_bands(perturbations, block)

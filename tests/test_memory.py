"""Peak memory of certification does not grow with draws, images or data."""

from __future__ import annotations

import pytest
from memory import SIZES, peak


@pytest.mark.slow
def test_peak_memory_is_flat_in_draws_images_and_data() -> None:
    usual, *others = (peak(size) for size in SIZES)
    assert usual <= 150
    assert max(others) <= 150
    # The allocator is not exact; all draws of the longest would take 750 MB.
    assert max(others) <= usual + 30

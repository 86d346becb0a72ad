"""Memory of tensors, and that of certification, which does not grow with draws, images or data."""

from __future__ import annotations

import pytest
import torch
from memory import SIZES, peak

from concert.memory import own_memory


def test_own_memory_has_the_values_alone() -> None:
    weight = torch.nn.Parameter(torch.arange(6, dtype=torch.float64).view(2, 3))
    own = own_memory(weight.T)
    assert torch.equal(own, weight.detach().T)
    assert own.dtype == torch.float64
    assert own.is_contiguous()
    assert not own.requires_grad
    assert own.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
    assert own_memory(weight, torch.float32).dtype == torch.float32
    whole = own_memory(weight)
    assert whole.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()


@pytest.mark.slow
def test_peak_memory_is_flat_in_draws_images_and_data() -> None:
    usual, *others = (peak(size) for size in SIZES)
    assert usual <= 150
    assert max(others) <= 150
    # The allocator is not exact; all draws of the longest would take 750 MB.
    assert max(others) <= usual + 30

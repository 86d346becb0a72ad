"""Numbers too small to be normal count as 0 while a network is trained.

A processor computes with subnormal numbers many times slower, and backpropagation through a softmax
of scaled logits is full of them once a network has learned its images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

_SMALLEST_NORMAL: Final = torch.finfo(torch.float32).tiny


def are_flushed() -> bool:
    """Whether subnormal results of this thread are 0."""
    return not bool(torch.tensor(_SMALLEST_NORMAL, dtype=torch.float32, device="cpu") * 0.5)


@contextmanager
def flushed_subnormals() -> Iterator[None]:
    """On a processor that can: for this thread, and for the intra-op threads that it starts inside.

    Those keep it afterwards, and those started before do not have it: torch offers no other way.
    """
    before = are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)

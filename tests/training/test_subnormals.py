"""Subnormal numbers are 0 while a network is trained."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from concert.training.subnormals import are_flushed, flushed_subnormals

can = torch.set_flush_denormal(True)
torch.set_flush_denormal(False)
pytestmark = pytest.mark.skipif(not can, reason="a processor that cannot")

# Products of two threads, which start inside; in a process of its own, as they stay.
THREADS = """
import torch
from concert.training.subnormals import flushed_subnormals
torch.set_num_threads(2)
with flushed_subnormals():
    print(int(((torch.full((1_000_000,), 1e-30) * 1e-10) != 0).sum()))
"""


def test_this_thread_and_those_it_starts_flush_them() -> None:
    said = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert said.stdout == "0\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("before", [False, True])
def test_what_was_before_comes_back(dtype: torch.dtype, before: bool) -> None:
    """Whatever the default of new tensors is."""
    try:
        torch.set_flush_denormal(before)
        torch.set_default_dtype(dtype)
        with flushed_subnormals():
            assert are_flushed()
            with flushed_subnormals():
                assert are_flushed()
            assert are_flushed()
        assert are_flushed() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(False)


def test_backpropagation_flushes_them_too() -> None:
    x = torch.tensor(1e-30, requires_grad=True)
    with flushed_subnormals():
        (gradient,) = torch.autograd.grad((x * 1e-20) * 1e-20, x)
    assert float(gradient) == 0.0

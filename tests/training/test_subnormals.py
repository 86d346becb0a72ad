"""Subnormal numbers are 0 while a network is trained, in all of its threads."""

from __future__ import annotations

import threading

import torch

from concert.training.subnormals import are_flushed, flushed_subnormals

MANY = 1_000_000


def subnormals() -> int:
    """How many of the products of two threads are not 0."""
    return int(((torch.full((MANY,), 1e-30) * 1e-10) != 0).sum())


def test_this_thread_and_those_it_starts_flush_them() -> None:
    found = []

    def work() -> None:
        torch.set_num_threads(2)
        with flushed_subnormals():
            found.append(subnormals())

    # A thread of its own has threads of its own below.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_what_was_before_comes_back() -> None:
    before = are_flushed()
    with flushed_subnormals():
        assert are_flushed()
        with flushed_subnormals():
            assert are_flushed()
        assert are_flushed()
    assert are_flushed() == before


def test_backpropagation_flushes_them_too() -> None:
    x = torch.tensor(1e-30, requires_grad=True)
    with flushed_subnormals():
        (gradient,) = torch.autograd.grad((x * 1e-20) * 1e-20, x)
    assert float(gradient) == 0.0

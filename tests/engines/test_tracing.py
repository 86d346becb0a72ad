"""Forward passes and the tracing of a network keep out of each other's way."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from concert.engines.inference import inference_copy
from concert.engines.torch_engines import EagerEngine
from concert.engines.tracing import Gate
from concert.sampling.crew import Crew


def test_passes_run_side_by_side_and_tracing_waits_for_them() -> None:
    gate, inside, order = Gate(), threading.Barrier(3), []
    leave = threading.Event()

    def one_pass() -> None:
        with gate.passing():
            inside.wait(10)
            leave.wait(10)
            order.append("pass")

    def trace() -> None:
        with gate.tracing():
            order.append("trace")

    with ThreadPoolExecutor(4) as pool:
        passes = [pool.submit(one_pass) for _ in range(2)]
        inside.wait(10)
        traced = pool.submit(trace)
        assert not traced.done()
        leave.set()
        for each in (*passes, traced):
            each.result(10)
    assert order == ["pass", "pass", "trace"]


def test_a_tracing_holds_up_passes_and_lets_them_in_afterwards_whatever_happened() -> None:
    gate, began, leave = Gate(), threading.Event(), threading.Event()
    order: list[str] = []

    def trace() -> None:
        with gate.tracing():
            began.set()
            leave.wait(10)
            order.append("trace")
            raise RuntimeError("no graph")

    def one_pass() -> None:
        with gate.passing():
            order.append("pass")

    with ThreadPoolExecutor(2) as pool:
        traced = pool.submit(trace)
        began.wait(10)
        held = pool.submit(one_pass)
        leave.set()
        with pytest.raises(RuntimeError, match="no graph"):
            traced.result(10)
        held.result(10)
    assert order == ["trace", "pass"]


def test_workers_call_modules_while_another_network_is_traced() -> None:
    """Without the gate a worker's module is taken for part of the traced network, and not found."""
    network = nn.Sequential(nn.Flatten(), *[nn.Linear(12, 12) for _ in range(200)])
    shape, probe = (3, 2, 2), torch.rand(4, 3, 2, 2)
    engine = EagerEngine(network, shape, 12, torch.device("cpu"), 1e-4)
    crew = Crew(2, 1, engine, torch.device("cpu"))

    def calls() -> int:
        plain = nn.Sequential(*[nn.Identity() for _ in range(20)])
        for _ in range(20):
            plain(probe)
        return 20

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        jobs = [crew.submit(calls) for _ in range(400)]
        while not all(job.done() for job in jobs):
            inference_copy(network, probe, 12, 1e-4)
        assert [job.result() for job in jobs] == [20] * 400
    finally:
        sys.setswitchinterval(interval)
        crew.close()

"""Several contestants timed in turn, so that a machine whose clock wanders treats all alike.

Each contestant lives in a process of its own, warms up, and then works only while it is asked to:
a slice of some seconds, in turns, until every one has worked for `seconds`. A rate is the median
over slices, and a ratio the median of the ratios of neighbouring slices.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A contestant is made once in its process and then called; it returns how many units it has done.
Make = Callable[[], Callable[[], int]]


@dataclass(frozen=True)
class Rates:
    """Units per second of every slice, in the order of the rounds."""

    slices: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.slices)

    def over(self, other: Rates) -> float:
        """How many times faster than another contestant, slice by slice."""
        pairs = zip(self.slices, other.slices, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def times(ratio: float, up: bool = False) -> str:
    """A ratio as text, its digits cut off, or rounded up; never rounded to a better one."""
    # The small number is for ratios that are exact, such as 1.
    cut = math.ceil(100 * ratio - 1e-9) if up else math.floor(100 * ratio + 1e-9)
    return f"{cut / 100:.2f}x"


def write_record(out: Path, results: Mapping[str, Rates | str], **facts: Any) -> None:
    """A race's slices as JSON, with facts about it and the machine."""
    # Not for the contestants, whose environment is set before they import it.
    import torch

    record = {
        **facts,
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "rates": {
            name: rates if isinstance(rates, str) else list(rates.slices)
            for name, rates in results.items()
        },
    }
    out.write_text(json.dumps(record, indent=2) + "\n")


def _serve(make: Make, environment: Mapping[str, str], pipe: Connection) -> None:
    os.environ.update(environment)
    try:
        work = make()
        work()
        pipe.send("ready")
        while (seconds := pipe.recv()) is not None:
            began, units = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                units += work()
            pipe.send(units / (time.perf_counter() - began))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def race(
    contestants: Mapping[str, Make],
    seconds: float = 60.0,
    slice_seconds: float = 10.0,
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Rates | str]:
    """Rates by name, or why a contestant could not run."""
    context = multiprocessing.get_context("spawn")
    runners: dict[str, tuple[Any, Connection]] = {}
    results: dict[str, Rates | str] = {}
    for name, make in contestants.items():
        here, there = context.Pipe()
        environment = dict((environments or {}).get(name, {}))
        process = context.Process(target=_serve, args=(make, environment, there), daemon=True)
        process.start()
        answer = here.recv()
        if answer != "ready":
            results[name] = str(answer)
            continue
        runners[name] = process, here
    slices: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(max(1, round(seconds / slice_seconds))):
        for name, (_, pipe) in list(runners.items()):
            try:
                pipe.send(slice_seconds)
                slices[name].append(float(pipe.recv()))
            except (BrokenPipeError, EOFError):
                results[name] = "its process was killed: was there too little memory?"
                del runners[name], slices[name]
    for process, pipe in runners.values():
        pipe.send(None)
        process.join(timeout=30)
    return results | {name: Rates(tuple(rates)) for name, rates in slices.items()}

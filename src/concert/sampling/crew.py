"""Worker threads of the hot loop, and how many of them are fastest on this machine.

Several workers of one intra-op thread each mostly beat one worker of many, but not for every
network and engine. A short warm-up tells, once for each of them: its answer is kept in the user's
cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

import torch

from concert.data.cache import cache_folder
from concert.engines import Engine
from concert.engines.tracing import GATE
from concert.files import write_atomically

P = ParamSpec("P")
T = TypeVar("T")

SECONDS: Final = 0.1
# A choice other than the usual one must be worth it.
GAIN: Final = 1.05

logger = logging.getLogger(__name__)


class Crew:
    """`count` workers with `threads` intra-op threads each on a processor, and their engine.

    `own` is what each worker keeps for itself, such as its buffers.
    """

    def __init__(self, count: int, threads: int, network: Engine, device: torch.device) -> None:
        self.count, self.threads, self.network = count, threads, network
        self.own = threading.local()
        limit = (lambda: torch.set_num_threads(threads)) if device.type == "cpu" else None
        self._pool = ThreadPoolExecutor(count, initializer=limit)

    def submit(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> Future[T]:
        """Have a worker do it, after what was submitted before."""

        def passing() -> T:
            with GATE.passing():
                return work(*args, **named)

        return self._pool.submit(passing)

    def close(self) -> None:
        """End the workers when they have done what was submitted."""
        self._pool.shutdown()


def candidates(threads: int) -> list[tuple[int, int]]:
    """Workers and intra-op threads of each: all of one thread first, half as many each time."""
    counts = [threads]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return [(count, threads // count) for count in counts]


def rate(work: Callable[[], int], seconds: float = SECONDS) -> float:
    """Draws per second of `work`, which returns how many it made."""
    began, draws = time.perf_counter(), 0
    while draws == 0 or time.perf_counter() - began < seconds:
        draws += work()
    return draws / (time.perf_counter() - began)


def fastest(works: Sequence[Callable[[], int]], rounds: int = 2) -> int:
    """The number of the fastest of `works`, in turns; the first one unless another gains 5 %."""
    for work in works:
        work()
    rates = [0.0] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            rates[number] = max(rates[number], rate(work))
    best = max(range(len(works)), key=rates.__getitem__)
    return best if rates[best] > GAIN * rates[0] else 0


def machine() -> dict[str, Any]:
    """What the speed of threads depends on."""
    return {"node": platform.node(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def remembered(subject: Mapping[str, Any]) -> int | None:
    """The number of workers that an earlier warm-up of `subject` has found here, if any."""
    try:
        found = json.loads(_file(subject).read_text())["workers"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def remember(subject: Mapping[str, Any], workers: int) -> None:
    """Keep the answer of a warm-up of `subject`."""
    file = _file(subject)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"workers": workers, **subject, **machine()}
        write_atomically(file, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        # It is only measured again the next time.
        logger.warning("cannot write %s (%s): set CONCERT_CACHE to another folder", file, error)


def _file(subject: Mapping[str, Any]) -> Any:
    text = json.dumps({**subject, **machine()}, sort_keys=True)
    return cache_folder() / "workers" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

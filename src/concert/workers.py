"""Processes that another one of ours starts, and how the two end together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

# Set for the processes that one of us starts; torchrun and SLURM start theirs themselves.
_STARTED_BY: Final = "CONCERT_STARTED_BY"
# Seconds between two looks of a worker at the process that started it.
_WATCH: Final = 0.5


def is_worker() -> bool:
    """Whether another process of ours started this one, and speaks for it."""
    return os.environ.get(_STARTED_BY, str(os.getpid())) != str(os.getpid())


@contextmanager
def starting() -> Iterator[None]:
    """Around the start of processes. In a process that was started so, it begins to watch: when the
    process that started it has ended, however it ended, it asks itself to stop.
    """
    if is_worker():
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
        yield
        return
    os.environ[_STARTED_BY] = str(os.getpid())
    try:
        yield
    finally:
        # Or else every command that a script gives later would take itself for a worker.
        del os.environ[_STARTED_BY]


def end_workers(workers: Sequence[subprocess.Popen[bytes]], ask: bool) -> None:
    """Wait for processes to end; `ask` them first to stop at the next safe point."""
    for worker in workers:
        if ask and worker.poll() is None:
            with suppress(ProcessLookupError):
                worker.terminate()
    try:
        for worker in workers:
            worker.wait()
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os.kill(os.getpid(), signal.SIGTERM)

"""Commands of a comparison in processes of their own, side by side, each done only once.

A step that ended well is noted in its run's `steps.json` with its arguments, and is left out as
long as they are the same and what it made is there. Another one goes on where it was, as its
command does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from concert.comparison.plan import Comparison
from concert.comparison.products import note_done
from concert.comparison.steps import Progress, Step
from concert.errors import INTERRUPTED, ConcertError
from concert.files import lock_file

PAUSE: Final = 0.2


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[int | None]:
    """A lock on the comparison's folder, which its processes keep for as long as they live."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as file:
        try:
            lock_file(file)
        except OSError:
            raise ConcertError(
                f"another comparison still works in {out}: wait for it, or choose another --out"
            ) from None
        yield None if sys.platform == "win32" else file.fileno()


def perform(
    steps: Sequence[Step],
    comparison: Comparison,
    lock: int | None,
    show: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> bool:
    """Perform the steps, `comparison.jobs` side by side; False if `stop` asked for an early end.

    A step that fails leaves out those after it in its run; the others go on.
    """
    progress = Progress(list(steps), comparison.jobs)
    stopping = False
    try:
        while True:
            for step in progress.running():
                _end(step)
            if stop() and not stopping:
                stopping = True
                for step in progress.running():
                    _signal(step, signal.SIGINT)
            _leave_out(steps)
            if not stopping:
                _start_ready(progress, comparison.threads, lock)
            over = stopping or not any(step.waits for step in steps)
            if over and not progress.running():
                break
            for step in progress.running():
                step.done = step.fraction()
            show(progress)
            time.sleep(PAUSE)
        show(progress)
    finally:
        for step in progress.running():
            _signal(step, signal.SIGKILL)
    return not stopping and not any(step.code == INTERRUPTED for step in steps)


def _leave_out(steps: Sequence[Step]) -> None:
    """End the steps whose earlier step failed, with its code."""
    for step in steps:
        if step.waits and step.after is not None and step.after.code not in (None, 0):
            step.code = step.after.code


def _start_ready(progress: Progress, threads: int, lock: int | None) -> None:
    """Start what can begin, as far as there is room; what was done before ends at once."""
    for step in progress.steps:
        if not step.waits or (step.after is not None and step.after.code != 0):
            continue
        # Asked only now: what an earlier step of the run has just made counts.
        if step.done_before():
            step.code = 0
        elif len(progress.running()) < progress.jobs:
            _start(step, threads, lock)


def _start(step: Step, threads: int, lock: int | None) -> None:
    step.run.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    output: IO[bytes]
    with step.output.open("ab") as output:
        step.output_at_start = output.tell()
        # In a session of its own: an interrupt of the terminal reaches only this process, which
        # passes it on once.
        step.process = subprocess.Popen(
            [sys.executable, *step.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    step.began, step.done_at_start = time.monotonic(), step.fraction()


def _end(step: Step) -> None:
    assert step.process is not None
    step.code = step.process.poll()
    if step.code is not None:
        step.seconds = time.monotonic() - step.began
    if step.code == 0:
        note_done(step.run.folder, step.key, step.arguments)


def _signal(step: Step, number: int) -> None:
    assert step.process is not None
    with contextlib.suppress(ProcessLookupError):
        step.process.send_signal(number)

"""The steps of a comparison: commands in processes of their own, side by side, done only once.

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from concert.comparison.plan import Comparison, PlannedRun, attack_folder
from concert.comparison.products import (
    VARIANCE,
    is_whole,
    note_done,
    read_notes,
    share_attacked,
    share_certified,
    share_trained,
)
from concert.errors import INTERRUPTED, ConcertError
from concert.files import lock_file

PAUSE: Final = 0.2


@dataclass
class Step:
    """One command of one run, or of an attack on it. `after` must be done first.

    began, seconds: of this part; seconds is None until the step has ended. done, done_at_start: the
    share of it that is done, by now and when this part began. output_at_start: bytes of its output
    that are of earlier parts. code: its exit code.
    """

    run: PlannedRun
    kind: str
    arguments: list[str]
    after: Step | None = None
    attack: str = ""
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    seconds: float | None = None
    done: float = 0.0
    done_at_start: float = 0.0
    output_at_start: int = 0
    code: int | None = None

    @property
    def name(self) -> str:
        return f"{self.run.name} {self.key}"

    @property
    def key(self) -> str:
        """What tells it from the other steps of its run."""
        return f"{self.kind}-{self.attack}" if self.attack else self.kind

    @property
    def folder(self) -> Path:
        """Where its product is."""
        return attack_folder(self.run, self.attack) if self.attack else self.run.folder

    @property
    def output(self) -> Path:
        return self.run.folder / f"{self.key}.log"

    @property
    def waits(self) -> bool:
        return self.process is None and self.code is None

    def done_before(self) -> bool:
        """Whether an earlier comparison did the very same, and what it made is still there."""
        noted = read_notes(self.run.folder).get(self.key) == self.arguments
        return noted and is_whole(self.folder, self.kind, self.run.folder)

    def fraction(self) -> float:
        """How much of the step is done, from what it has written."""
        if self.kind == "train":
            return share_trained(self.folder, self.run.recipe.training.epochs)
        shares = {"certify": share_certified, "attack": share_attacked}
        return shares[self.kind](self.folder) if self.kind in shares else 0.0


@dataclass
class Progress:
    """Where a comparison is: for a display, called now and then."""

    steps: list[Step]
    jobs: int

    def running(self) -> list[Step]:
        return [step for step in self.steps if step.process is not None and step.code is None]

    def seconds_left(self) -> tuple[float, bool]:
        """Estimated from the same steps of other runs; and whether that is all, or some step has
        begun for no run and is left out.
        """
        totals: dict[str, list[float]] = {}
        left, everything = 0.0, True
        for step in self.steps:
            if step.seconds is not None:
                totals.setdefault(step.key, []).append(step.seconds)
        for step in self.running():
            if step.done > step.done_at_start:
                pace = (time.monotonic() - step.began) / (step.done - step.done_at_start)
                totals.setdefault(step.key, []).append(pace)
                left += pace * (1 - step.done)
            else:
                everything = False
        for step in self.steps:
            if step.waits and step.key in totals:
                left += sum(totals[step.key]) / len(totals[step.key])
            everything = everything and not (step.waits and step.key not in totals)
        return left / self.jobs, everything


def steps_of(comparison: Comparison) -> list[Step]:
    """Training, certification and further measurements of every run, and then the attacks."""
    steps: list[Step] = []
    for run in comparison.runs:
        trained = Step(run, "train", ["-m", "concert", *run.train])
        certify = ["-m", "concert", *run.certify]
        steps += [trained, Step(run, "certify", certify, after=trained)]
        if run.gradient_variance:
            tool = ["-m", "concert.evaluation.gradient_variance", str(run.folder)]
            path = run.recipe.data.path
            tool += [] if path is None else ["--data.path", str(path)]
            tool += ["--trust", "true"] if run.trust else []
            tool += ["--out", str(run.folder / VARIANCE)]
            steps.append(Step(run, "variance", tool, after=trained))
    trainings = {step.run.name: step for step in steps if step.kind == "train"}
    for plan in comparison.attacks:
        for member in plan.members:
            attack, certify = (["-m", "concert", *each] for each in (member.attack, member.certify))
            trained = trainings[member.run.name]
            attacked = Step(member.run, "attack", attack, after=trained, attack=plan.name)
            certified = Step(member.run, "certify", certify, after=attacked, attack=plan.name)
            steps += [attacked, certified]
    return steps


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

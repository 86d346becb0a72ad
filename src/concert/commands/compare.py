"""`concert compare SPEC`: train, certify, attack and report a set of recipes on one budget."""

from __future__ import annotations

import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from concert.commands.logged_images import find_images
from concert.comparison.attack_report import write_attacks
from concert.comparison.certified import read_logs
from concert.comparison.performing import only_one, perform
from concert.comparison.report import write_comparison
from concert.comparison.spec import REPORT, default_out, read_spec
from concert.comparison.steps import Progress, Step, steps_of
from concert.console import LiveRow, StopSignal, clock, make_console
from concert.errors import INTERRUPTED, ConcertError
from concert.evaluation.page.page import PageExtras
from concert.import_paths import import_from_here
from concert.parsers import COMMANDS, Parser
from concert.runs import GivenData


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert compare", description=COMMANDS["compare"])
    made.add_argument("spec", type=str, help="specification (YAML), or the name of a shipped one")
    made.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="folder of the runs (default: runs/ and the name of SPEC)",
    )
    made.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    made.add_argument(
        "--jobs", type=int | None, default=None, help="processes side by side (default: SPEC's)"
    )
    made.add_argument(
        "--threads", type=int | None, default=None, help="of each process (default: SPEC's)"
    )
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert compare SPEC`"""
    import_from_here()
    out = options.out or default_out(options.spec)
    given = {"jobs": options.jobs, "threads": options.threads}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if value < 1:
            raise ConcertError(f"--{name} must be at least 1, got {value}")
    comparison = replace(read_spec(options.spec, out, options.data.path), **given)
    console, steps = make_console(), steps_of(comparison)
    with only_one(out) as lock, StopSignal() as stop, ComparisonDisplay(console, stop) as display:
        finished = perform(steps, comparison, lock, display.update, lambda: stop.asked)
    if not finished:
        console.print(f"stopped; the same command goes on from {out}")
        return INTERRUPTED
    failed, found = next((step for step in steps if step.code != 0), None), read_logs(comparison)
    report = out / REPORT
    command = f"concert {shlex.join(argv)}"
    if found.logs or failed is None:
        images = find_images(found.logs, GivenData())
        files = write_comparison(comparison, report, PageExtras(images, command=command))
        table = report / ("paper.md" if report / "paper.md" in files else "table.txt")
        console.print(table.read_text(encoding="utf-8"))
        console.print(f"report: {report} ({', '.join(file.name for file in files)})")
    files, missing = write_attacks(comparison, report, PageExtras(command=command))
    for verdict in (file for file in files if file.name == "verdict.md"):
        console.print(f"attack {verdict.parent.name}:\n{verdict.read_text(encoding='utf-8')}")
    if failed is not None:
        raise ConcertError(f"{failed.name} failed: {_last_line(failed)}")
    for name, why in (found.missing | missing).items():
        raise ConcertError(f"{name} is not in the report: {why}")
    return 0


class ComparisonDisplay(LiveRow):
    """What is done, what runs, and the time left."""

    title = "comparing"

    def __init__(self, console: Console, stop: StopSignal) -> None:
        super().__init__(console, stop)
        self.done: set[str] = set()

    def update(self, progress: Progress) -> None:
        ended = [step for step in progress.steps if step.code is not None]
        for step in ended:
            if step.name not in self.done:
                self.done.add(step.name)
                if step.seconds is not None:
                    stopped = step.code in (INTERRUPTED, -signal.SIGINT)
                    said = "stopped" if stopped else "done" if step.code == 0 else "failed"
                    self.console.print(f"{step.name}: {said} after {step.seconds:.0f} s")
        left, everything = progress.seconds_left()
        time_left = clock(left)
        if not everything:
            time_left = f"{time_left} and steps not timed yet" if int(left) else "not known yet"
        row = [("done", f"{len(ended)}/{len(progress.steps)}")]
        if len(ended) < len(progress.steps):
            running = (f"{step.name} {step.done:.0%}" for step in progress.running())
            row += [("running", ", ".join(running) or "-"), ("time left", time_left)]
        # An interrupt is passed on to the processes first, and they are waited for.
        if not self.stop.asked:
            self.show(row, finished=False)


def _last_line(step: Step) -> str:
    """Why a step failed: what it said last since it was started, or the signal that ended it."""
    if step.code is not None and step.code < 0:
        likely = ", for instance for want of memory" if -step.code == signal.SIGKILL else ""
        return f"it was ended by signal {-step.code}{likely} ({step.output})"
    try:
        output = step.output.read_bytes()[step.output_at_start :]
    except OSError:
        output = b""
    said = [line for line in output.decode("utf-8", "replace").split("\n") if line.strip()]
    return f"{said[-1] if said else 'it said nothing'} ({step.output})"

"""`concert audit RUN`: try to break the certificates of a log."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from concert.auditing import AuditSettings
from concert.auditing.run import AuditProgress, AuditResult, audit_log, find_log, log_identity
from concert.commands.loading import load_run
from concert.console import LiveRow, StopSignal, clock, make_console
from concert.data import load_images
from concert.memory import keep_large_blocks
from concert.parsers import COMMANDS, Parser, data_flags, sampling_flags
from concert.recipes.config import DataSettings
from concert.records.reading import LoadedLog, read_log
from concert.runs import data_of, read_description
from concert.smoothing import SmoothedClassifier


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert audit", description=COMMANDS["audit"])
    made.add_argument("run", type=Path, help="run or model folder")
    made.add_argument(
        "--log", type=Path | None, default=None, help="default: the only certify*.tsv in RUN"
    )
    made.add_argument("--images", type=int, default=50, help="first so many certified images")
    made.add_argument("--starts", type=int, default=8, help="starting points of a search")
    made.add_argument("--steps", type=int, default=20, help="gradient steps from each")
    made.add_argument("--draws", type=int, default=32, help="noisy copies per gradient")
    made.add_argument("--n0", type=int, default=500, help="draws that choose a candidate")
    made.add_argument("--n", type=int, default=10_000, help="fresh draws that test it")
    made.add_argument("--seed", type=int, default=0, help="seed of the audit's own noise")
    data_flags(made, "the log's data")
    made.add_argument("--out", type=Path | None, default=None, help="default RUN/audit-LOG")
    sampling_flags(made)
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert audit RUN`; exit code 1 where more certificates are broken than alpha explains"""
    settings = AuditSettings(
        options.starts, options.steps, options.draws, options.n0, options.n, options.seed
    )
    description, _ = read_description(options.run)
    log = read_log(options.log or find_log(options.run))
    identity = log_identity(log)
    # The votes behind a log depend, though rarely, on the batch shape.
    options.batch_size = options.batch_size or int(identity["batch_size"])
    options.data.name = options.data.name or str(identity["data"]["name"])
    data = data_of(options.run, description.data, options.data)
    out = options.out or options.run / f"audit-{log.path.stem}"
    smoothed, console = load_run(options), make_console()
    command = f"concert {shlex.join(argv)}"
    result = audit_with_display(
        smoothed, data, log, options.images, settings, out, console, command
    )
    for sentence in result.sentences:
        console.print(sentence)
    console.print(f"audit: {out}")
    return 0 if result.passed else 1


class AuditDisplay(LiveRow):
    """The live table of an audit: tried, broken, closest margin, time left."""

    title = "trying to break certificates (figures of this part of the run)"

    def __init__(self, console: Console, stop: StopSignal) -> None:
        super().__init__(console, stop)
        self.began = time.monotonic()
        self.images = self.broken = 0
        self.closest = 1.0

    def __call__(self, progress: AuditProgress) -> None:
        finding = progress.finding
        self.images += 1
        self.broken += finding.broken
        self.closest = min(self.closest, finding.margin)
        each = (time.monotonic() - self.began) / self.images
        left = (progress.total - progress.done) * each
        row = [
            ("tried", f"{progress.done}/{progress.total}"),
            ("broken", f"{self.broken}"),
            ("closest margin", f"{self.closest:.3f}"),
            ("time left", clock(left)),
        ]
        self.show(row, progress.done == progress.total)


def audit_with_display(
    smoothed: SmoothedClassifier,
    data: DataSettings,
    log: LoadedLog,
    count: int,
    settings: AuditSettings,
    out: Path,
    console: Console,
    command: str = "",
) -> AuditResult:
    """Audit a log with a live table on the console."""
    keep_large_blocks()
    split = str(log.run["identity"]["data"]["split"])
    images = load_images(data.name, split, data.path, data.size)
    with StopSignal() as stop, AuditDisplay(console, stop) as display:
        return audit_log(smoothed, images, log, count, settings, out, display, command)

"""What the command-line tool shows while it works: training, certification and audits."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from concert.auditing import AuditSettings
from concert.auditing.run import AuditProgress, AuditResult, audit_log
from concert.config import DataSettings, Recipe
from concert.data import load_images
from concert.evaluation.certify import CertifyProgress, CertifySettings, certify_data
from concert.log_reading import LoadedLog
from concert.memory import keep_large_blocks
from concert.smoothing import SmoothedClassifier
from concert.team import Team
from concert.training import StepProgress, Watcher, train
from concert.training_state import EpochMetrics


class StopSignal:
    """Turns the first interrupt into a request to stop at a safe point; the second one raises."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class TrainingDisplay(Watcher):
    """A line per epoch, and on a terminal a progress bar."""

    def __init__(self, console: Console, stop: StopSignal) -> None:
        self.console, self.stop = console, stop
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps, {task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, epoch=0, epochs=0, speed=0.0)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def start(self, facts: dict[str, Any]) -> None:
        costs = facts["multiply_adds"]
        cost = f"classifier {costs['classifier'] / 1e6:.2f} M multiply-adds an image"
        if "generator" in costs:
            share = 100 * costs["generator"] / costs["classifier"]
            cost += f", generator {costs['generator'] / 1e6:.3f} M ({share:.1f} %)"
        self.console.print(
            f"{facts['images']:,} images, {facts['steps']} steps an epoch on {facts['device']}; "
            f"{cost}"
        )
        if facts["epoch"]:
            self.console.print(f"going on after epoch {facts['epoch']}")

    def step(self, progress: StepProgress) -> None:
        self.bar.update(
            self.task,
            completed=progress.step,
            total=progress.steps,
            epoch=progress.epoch + 1,
            epochs=progress.epochs,
            speed=progress.metrics.images_per_second,
        )

    def epoch(self, metrics: EpochMetrics) -> None:
        self.console.print(
            f"epoch {metrics.epoch + 1}: loss {metrics.loss:.4f} "
            f"(classification {metrics.classification:.4f}, robustness {metrics.robustness:.4f}, "
            f"penalty {metrics.penalty:.4f}), soft accuracy {metrics.soft_accuracy:.4f}, "
            f"sigma {metrics.sigma_min:.3f}/{metrics.sigma_mean:.3f}/{metrics.sigma_max:.3f}, "
            f"{metrics.images_per_second:.0f} images/s"
        )

    def should_stop(self) -> bool:
        return self.stop.asked


class LiveRow:
    """A table of one row that follows the work; not on a terminal, a line now and then."""

    title: str

    def __init__(self, console: Console, stop: StopSignal) -> None:
        self.console, self.stop = console, stop
        self.live = Live(console=console, refresh_per_second=2, transient=False)
        self.last = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, row: list[tuple[str, str]], finished: bool) -> None:
        """Show the row, and raise KeyboardInterrupt if the work was asked to stop."""
        if self.console.is_terminal:
            table = Table(title=self.title)
            for name, _ in row:
                table.add_column(name, justify="right")
            table.add_row(*(value for _, value in row))
            self.live.update(table)
        elif finished or time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            self.console.print(", ".join(f"{name} {value}" for name, value in row))
        if self.stop.asked and not finished:
            raise KeyboardInterrupt


class CertificationDisplay(LiveRow):
    """The live table of a certification: done, accuracy at 0, mean radius, draws/s, time left."""

    title = "certifying (figures of this part of the run)"

    def __init__(self, console: Console, stop: StopSignal) -> None:
        super().__init__(console, stop)
        self.images = self.correct = self.abstained = self.draws = 0
        self.radii = self.seconds = 0.0

    def __call__(self, progress: CertifyProgress) -> None:
        certification = progress.certification
        right = certification.label == progress.true_label
        self.images += 1
        self.correct += right
        self.abstained += certification.label < 0
        self.radii += certification.radius * right
        self.draws += certification.n_used
        self.seconds += progress.seconds
        self.show(self._row(progress), progress.done == progress.total)

    def _row(self, progress: CertifyProgress) -> list[tuple[str, str]]:
        left = (progress.total - progress.done) * self.seconds / self.images
        return [
            ("done", f"{progress.done}/{progress.total}"),
            ("accuracy at 0", f"{self.correct / self.images:.3f}"),
            ("mean radius", f"{self.radii / self.images:.3f}"),
            ("abstained", f"{self.abstained}"),
            ("draws/s", f"{self.draws / max(self.seconds, 1e-9):,.0f}"),
            ("time left", f"{int(left) // 60}:{int(left) % 60:02d}"),
        ]


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
        left = int((progress.total - progress.done) * each)
        row = [
            ("tried", f"{progress.done}/{progress.total}"),
            ("broken", f"{self.broken}"),
            ("closest margin", f"{self.closest:.3f}"),
            ("time left", f"{left // 60}:{left % 60:02d}"),
        ]
        self.show(row, progress.done == progress.total)


def make_console(quiet: bool = False) -> Console:
    """Standard output, with colours only where it is a terminal."""
    return Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, quiet=quiet)


def train_with_display(recipe: Recipe, out: Path, console: Console) -> bool:
    """Train with progress on the console; False if it was interrupted."""
    keep_large_blocks()
    with StopSignal() as stop, TrainingDisplay(console, stop) as display:
        return train(recipe, out, display)


def certify_with_display(
    smoothed: SmoothedClassifier,
    run: Path,
    data: DataSettings,
    settings: CertifySettings,
    log_path: Path,
    console: Console,
    command: str = "",
    team: Team | None = None,
) -> None:
    """Certify with a live table on the console."""
    keep_large_blocks()
    images = load_images(data.name, settings.split, data.path, data.size)
    with StopSignal() as stop, CertificationDisplay(console, stop) as display:
        certify_data(smoothed, run, images, settings, log_path, display, command, team)


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

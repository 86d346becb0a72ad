"""What the command-line tool shows while it works, and how it is asked to stop."""

from __future__ import annotations

import math
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table


def clock(seconds: float) -> str:
    """Minutes and whole seconds, rounded up, as 12:05."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02d}"


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
            if not self.last:
                self.console.print(f"{self.title}:")
            self.last = time.monotonic()
            self.console.print(", ".join(f"{name} {value}" for name, value in row))
        if self.stop.asked and not finished:
            raise KeyboardInterrupt


def make_console(quiet: bool = False) -> Console:
    """Standard output, with colours only where it is a terminal."""
    return Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, quiet=quiet)

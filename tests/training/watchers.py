"""Who watches a training, and stops it."""

from __future__ import annotations

from concert.training.loop import StepProgress, Watcher


class StopAfter(Watcher):
    """Asks to stop once a number of steps has been made."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, progress: StepProgress) -> None:
        self.left -= 1

    def should_stop(self) -> bool:
        return self.left <= 0

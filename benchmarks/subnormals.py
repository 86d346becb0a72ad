"""What computing with subnormal numbers costs training on a processor.

    python benchmarks/subnormals.py results/mnist/table6/macer-0.5-cpu data/mnist

Goes on with a trained run, its robustness term on, and makes the same steps with subnormal numbers
flushed to 0, as `concert train` does, and without, in turns. Seconds are of one core's work.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from concert.commands.train import parser, recipe_of
from concert.recipes.config import Recipe
from concert.training import loop
from concert.training.loop import StepProgress, Watcher
from concert.training.subnormals import flushed_subnormals

WAYS: dict[str, Any] = {"flushed": flushed_subnormals, "not flushed": nullcontext}


class Clock(Watcher):
    """Ends a run after so many steps; `seconds` is what those after the first have cost."""

    def __init__(self, steps: int) -> None:
        self.left, self.began, self.seconds = steps, 0.0, 0.0

    def step(self, progress: StepProgress) -> None:
        now = time.process_time()
        self.began = self.began or now
        self.left, self.seconds = self.left - 1, now - self.began

    def should_stop(self) -> bool:
        return self.left <= 0


def seconds_of(way: Any, recipe: Recipe, steps: int) -> float:
    """Seconds a step of training one way."""
    clock = Clock(steps + 1)
    loop.flushed_subnormals = way  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            loop.train(recipe, Path(scratch) / "run", clock)
    finally:
        loop.flushed_subnormals = flushed_subnormals  # type: ignore[assignment]
    return clock.seconds / steps


def main(run: Path, path: Path, steps: int = 20, rounds: int = 3, out: Path | None = None) -> str:
    """Seconds a step, flushed and not, and their ratio, as JSON; `out`: also written there."""
    torch.set_num_threads(1)
    arguments = ["--config", str(run / "config.yaml"), "--init", str(run)]
    arguments += ["--data.path", str(path), "--objective.start_epoch", "0"]
    made = parser()
    recipe = recipe_of(made.instantiate(made.parse_args(arguments)))
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            found[name].append(seconds_of(way, recipe, steps))
    flushed, plain = (statistics.median(each) for each in found.values())
    record = {"run": str(run), "ratio": round(plain / flushed, 2), "seconds_a_step": found}
    text = json.dumps(record | {"torch": torch.__version__}, indent=2)
    if out is not None:
        out.write_text(text + "\n")
    return text


if __name__ == "__main__":
    print(auto_cli(main))

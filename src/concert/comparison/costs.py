"""What the runs of a comparison are and cost, and what was measured on their models."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from concert.comparison.plan import PlannedRun
from concert.comparison.products import VARIANCE, measured
from concert.evaluation import rendering
from concert.evaluation.labels import row_labels
from concert.recipes.building import build_objective
from concert.records.reading import LoadedLog


def run_costs(runs: Sequence[PlannedRun], logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """What each run is and cost: copies, generator, epochs, seconds of training and certifying."""
    rows = []
    for run, log, label in zip(runs, logs, row_labels(logs), strict=True):
        try:
            epochs = pd.read_csv(run.folder / "metrics.csv")
        except (OSError, ValueError):  # gone: its cells are empty
            epochs = pd.DataFrame(columns=["images", "seconds"], dtype=float)
        noise = log.run["identity"].get("noise") or {}
        rows.append(
            {
                "run": run.name,
                "sigma": label.sigma,
                "method": label.method,
                "generator": str(noise.get("generator", "")),
                "copies": _copies(run),
                "epochs": len(epochs) or None,
                "training images": epochs["images"].max(),
                "training seconds": epochs["seconds"].sum(min_count=1),
                "seconds per epoch": float(epochs["seconds"].mean()),
                "certified images": len(log.frame),
                "certification seconds": float(log.frame["time"].sum()),
                "seconds per image": float(log.frame["time"].mean()),
            }
        )
    return pd.DataFrame(rows)


def training_times(seconds: pd.Series[float]) -> str:
    """How long trainings took, in a sentence; NaN where it is not known."""
    if seconds.isna().all():
        return "How long training took is not known."
    shortest = rendering.rounded_down(seconds.min() / 60, 0)
    longest = rendering.rounded_up(seconds.max() / 60, 0)
    return f"Training took {shortest} to {longest} minutes of this machine a run (runs.csv)."


def _copies(run: PlannedRun) -> int:
    """Noisy copies of an image in a training step."""
    objective = build_objective(run.recipe.objective)
    return 1 if getattr(objective, "train_copies", "all") == "first" else objective.m


def gradient_variances(runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """The variances of the runs that ask for them: a row for each network, form of loss and m."""
    rows = []
    for run in runs:
        if run.gradient_variance:
            rows += [
                {"run": run.name, **row}
                for row in measured(run.folder, VARIANCE).get("variances", [])
            ]
    return pd.DataFrame(rows)

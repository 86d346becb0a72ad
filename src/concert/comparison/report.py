"""The report of a comparison: the paper's tables and figures, with its numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from concert.comparison.spec import Comparison, PlannedRun
from concert.errors import ConcertError
from concert.evaluation import rendering, tables
from concert.evaluation.figures import certified_accuracy_figure
from concert.evaluation.paper_tables import TABLE_OF, beside_the_paper, table_8, table_9
from concert.evaluation.report import write_report
from concert.files import write_atomically
from concert.log_reading import LoadedLog, read_log

SOURCES = (
    "paper: as printed; its n is not stated, it trained for 300 epochs (ImageNet: 120). here: the "
    "logs of this comparison; runs.csv has what each run cost."
)


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Write the report on all runs that are certified into `out`, and return the files' paths.

    All that `concert report` writes; paper.{csv,md,tex} (Tables 1, 6, 7), table8.csv, table9.csv;
    a figure for each group of runs (Figures 3 and 4); runs.csv (what each run cost); and
    gradient_variance.csv where it was measured (Eq. 12). Runs without a log are left out.
    """
    certified = [run for run in comparison.runs if (run.folder / "certify.tsv").is_file()]
    logs = [read_log(run.folder / "certify.tsv") for run in certified]
    if not logs:
        raise ConcertError("no run has been certified: see train.log in the runs' folders")
    notes = [SOURCES, *tables.data_notes(logs), *tables.run_notes(logs)]
    costs = run_costs(certified, logs)
    contents: dict[str, str | bytes] = {
        "runs.csv": rendering.to_csv(costs),
        "table8.csv": rendering.to_csv(table_8(logs)),
    }
    epoch, certification = costs["seconds per epoch"], costs["seconds per image"]
    contents["table9.csv"] = rendering.to_csv(table_9(certification.mean(), epoch.mean()))
    table = beside_the_paper(logs)
    if table is not None:
        number = TABLE_OF[tables.require_one_dataset(logs)]
        contents["paper.csv"] = rendering.to_csv(table)
        lines = [f"Columns and first rows: the paper's Table {number}.", *notes]
        contents["paper.md"] = rendering.to_markdown(table, lines)
        contents["paper.tex"] = rendering.to_latex(table, lines)
    for group, members in grouped(certified, logs).items():
        contents[f"figure-{group}.png"] = certified_accuracy_figure(members)
    variances = gradient_variances(certified)
    if len(variances):
        contents["gradient_variance.csv"] = rendering.to_csv(variances)
    files = write_report(logs, out)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return files + [out / name for name in contents]


def grouped(runs: Sequence[PlannedRun], logs: Sequence[LoadedLog]) -> dict[str, list[LoadedLog]]:
    """The logs of each figure: by the runs' groups, else by sigma or the lower end of the box."""
    found: dict[str, list[LoadedLog]] = {}
    for run, log in zip(runs, logs, strict=True):
        noise = run.recipe.noise
        level = noise.sigma if noise.kind == "isotropic" else noise.low
        for group in run.groups or (f"{level:g}",):
            found.setdefault(group, []).append(log)
    return found


def run_costs(runs: Sequence[PlannedRun], logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """What each run cost: epochs, seconds of training, seconds per epoch and certified image."""
    rows = []
    for run, log, label in zip(runs, logs, tables.row_labels(logs), strict=True):
        epochs = pd.read_csv(run.folder / "metrics.csv")
        rows.append(
            {
                "run": run.name,
                "sigma": label.sigma,
                "method": label.method,
                "epochs": len(epochs),
                "training images": int(epochs["images"].max()),
                "training seconds": float(epochs["seconds"].sum()),
                "seconds per epoch": float(epochs["seconds"].mean()),
                "certified images": len(log.frame),
                "certification seconds": float(log.frame["time"].sum()),
                "seconds per image": float(log.frame["time"].mean()),
            }
        )
    return pd.DataFrame(rows)


def gradient_variances(runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """The measured variances of all runs, a row for each run, network, form of the loss and m."""
    rows = []
    for run in runs:
        file = run.folder / "gradient_variance.json"
        if file.is_file():
            measured = json.loads(file.read_text(encoding="utf-8"))["variances"]
            rows += [{"run": run.name, **row} for row in measured]
    return pd.DataFrame(rows)

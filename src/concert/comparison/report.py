"""The report of a comparison: the paper's tables and figures, with its numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from concert.comparison.certified import Certified, read_logs, remove_others
from concert.comparison.costs import gradient_variances, run_costs, training_times
from concert.comparison.plan import Comparison, PlannedRun
from concert.comparison.products import PREDICTION, measured
from concert.errors import ConcertError
from concert.evaluation import difference_table, rendering, table_notes, tables
from concert.evaluation.figures import certified_accuracy_figure
from concert.evaluation.labels import row_labels
from concert.evaluation.page.page import PageExtras
from concert.evaluation.page.tables import text_table
from concert.evaluation.paper_appendix import table_8, table_9
from concert.evaluation.paper_tables import TABLE_OF, beside_the_paper
from concert.evaluation.report import FILES as REPORT_FILES
from concert.evaluation.report import write_report
from concert.files import write_atomically
from concert.records.reading import LoadedLog

SOURCES: Final = (
    "paper: as printed; its n is not stated; it trained Concert for 300 epochs (ImageNet: 120) and "
    "does not say for how many the other methods. here: the logs of this comparison; runs.csv has "
    "what each run cost."
)
# Files of an earlier report that this one may not have.
OF_RUNS: Final = (
    *REPORT_FILES,
    *("runs.csv", "table8.csv", "table9.csv", "gradient_variance.csv", "figure-*.png"),
    *("paper.csv", "paper.md", "paper.tex", "differences.csv", "differences.md"),
)


def write_comparison(
    comparison: Comparison, out: Path, extras: PageExtras | None = None
) -> list[Path]:
    """Write the report on all runs that are certified into `out`, and return the files' paths.

    All that `concert report` writes; paper.{csv,md,tex} (Tables 1, 6, 7), table8.csv, table9.csv;
    a figure for each group of runs (Figures 3 and 4); runs.csv (what each run cost);
    differences.{csv,md} where the comparison has a `first`; and gradient_variance.csv where it was
    measured (Eq. 12). Runs without a log are named in the notes of the tables. `extras`: what the
    page shows beside. Such files of an earlier report that this one does not have are removed.
    Raises ConcertError if no run has a log.
    """
    found = read_logs(comparison)
    certified, logs = found.runs, found.logs
    if not logs:
        remove_others(out, OF_RUNS, [])
        name, why = next(iter(found.missing.items()))
        raise ConcertError(
            f"no run has been certified ({name}: {why}): see train.log and certify.log in the "
            "runs' folders"
        )
    missing = found.notes()
    notes = [*missing, *table_notes.data_notes(logs), *table_notes.run_notes(logs)]
    costs = run_costs(certified, logs)
    epochs = list(zip(costs["seconds per epoch"], costs["training images"], strict=True))
    predictions = [measured(run.folder, PREDICTION) for run in certified]
    contents: dict[str, str | bytes] = {
        "runs.csv": rendering.to_csv(costs),
        "table8.csv": rendering.to_csv(table_8(logs)),
        "table9.csv": rendering.to_csv(table_9(logs, epochs, predictions)),
    }
    beside = beside_the_paper(logs)
    if beside is not None:
        number = TABLE_OF[tables.require_one_dataset(logs)]
        title = f"Columns and first rows: the paper's Table {number}."
        lines = [title, SOURCES, training_times(costs["training seconds"]), *notes]
        contents["paper.csv"] = rendering.to_csv(beside)
        contents["paper.md"] = rendering.to_markdown(beside, lines)
        contents["paper.tex"] = rendering.to_latex(beside, lines)
    groups = grouped(certified, logs)
    for group, members in groups.items():
        contents[f"figure-{group}.png"] = certified_accuracy_figure(members)
    differences, unpaired = paired_differences(comparison, found, groups)
    missing += unpaired
    if len(differences):
        below = [*difference_table.NOTES, *unpaired, *notes]
        contents |= difference_table.files(differences, below)
        shown, caption = difference_table.printed(differences), difference_table.NOTES[0]
        table = text_table("differences", "Paired differences", caption, shown, unpaired)
        extras = replace(extras or PageExtras(), tables=(table,))
    variances = gradient_variances(certified)
    if len(variances):
        contents["gradient_variance.csv"] = rendering.to_csv(variances)
    files = write_report(logs, out, extras=extras, notes=missing)
    for name, content in contents.items():
        write_atomically(out / name, content)
    files += [out / name for name in contents]
    remove_others(out, OF_RUNS, files)
    return files


def paired_differences(
    comparison: Comparison, found: Certified, groups: Mapping[str, Sequence[LoadedLog]]
) -> tuple[pd.DataFrame, list[str]]:
    """Each `first` run minus each other of its figures, and why a pair is missing.

    At those radii of the tables at which no log depends on when its sampling stopped.
    """
    labels = row_labels(found.logs)
    radii = tables.settled_radii(found.logs, tables.radius_grid(found.logs))
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    if comparison.first and not radii:
        unsettled = difference_table.UNSETTLED
        return pd.DataFrame(), [f"Not paired: at all radii accuracies are {unsettled}."]
    for first, run in enumerate(found.runs):
        if run.name not in comparison.first:
            continue
        mates = {id(log) for logs in groups.values() for log in logs if _among(first, logs, found)}
        others = [i for i, log in enumerate(found.logs) if id(log) in mates and i != first]
        if not others:
            notes.append(f"{labels[first].name}: no other run is in its figures.")
        for other in others:
            pair = (labels[first], labels[other])
            try:
                parts.append(
                    difference_table.difference_table(
                        found.logs[first], [found.logs[other]], radii, pair
                    )
                )
            except ConcertError as error:
                notes.append(f"Not paired: {pair[0].name} and {pair[1].name} ({error}).")
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()), notes


def _among(place: int, logs: Sequence[LoadedLog], found: Certified) -> bool:
    return any(log is found.logs[place] for log in logs)


def grouped(runs: Sequence[PlannedRun], logs: Sequence[LoadedLog]) -> dict[str, list[LoadedLog]]:
    """The logs of each figure: by the runs' groups, else by sigma or the lower end of the box."""
    found: dict[str, list[LoadedLog]] = {}
    for run, log in zip(runs, logs, strict=True):
        noise = run.recipe.noise
        level = noise.sigma if noise.kind in ("isotropic", "banded") else noise.low
        for group in run.groups or (f"{level:g}",):
            found.setdefault(group, []).append(log)
    return found

"""The report of a comparison: the paper's tables and figures, with its numbers beside ours."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from concert.comparison.costs import gradient_variances, run_costs, training_times
from concert.comparison.plan import AttackPlan, Comparison, PlannedRun, attack_folder
from concert.comparison.products import LOG, PREDICTION, measured, weights_of
from concert.errors import ConcertError
from concert.evaluation import difference_table, rendering, table_notes, tables
from concert.evaluation.attack_verdict import verdict_table, write_verdict
from concert.evaluation.figures import certified_accuracy_figure
from concert.evaluation.page.page import PageExtras
from concert.evaluation.paper_appendix import table_8, table_9
from concert.evaluation.paper_tables import TABLE_OF, beside_the_paper
from concert.evaluation.report import FILES as REPORT_FILES
from concert.evaluation.report import write_report
from concert.files import write_atomically
from concert.records.reading import LoadedLog, read_log

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
OF_ATTACKS: Final = (*REPORT_FILES, "verdict.csv", "verdict.md")


@dataclass(frozen=True)
class Certified:
    """The runs of a comparison that have a log, their logs, and why each of the others has none."""

    runs: list[PlannedRun]
    logs: list[LoadedLog]
    missing: dict[str, str]

    def notes(self) -> list[str]:
        """What tables say of the runs that are missing."""
        return [f"Not in this report: {name} ({why})." for name, why in self.missing.items()]


def read_logs(comparison: Comparison) -> Certified:
    """The logs of all runs that can be read; writes nothing."""
    return _readable([(run, run.folder / LOG) for run in comparison.runs])


def _readable(files: Sequence[tuple[PlannedRun, Path]]) -> Certified:
    found = Certified([], [], {})
    for run, file in files:
        try:
            log = read_log(file) if file.is_file() else None
        except ConcertError as error:
            found.missing[run.name] = str(error)
            continue
        if log is None:
            found.missing[run.name] = "not certified"
        elif weights_of(run.folder) is None:
            found.missing[run.name] = f"the model of {file} is gone"
        elif weights_of(run.folder) != log.run["identity"].get("weights"):
            found.missing[run.name] = f"{file} is of another model: delete it"
        else:
            found.runs.append(run)
            found.logs.append(log)
    return found


def write_comparison(
    comparison: Comparison, out: Path, extras: PageExtras | None = None
) -> list[Path]:
    """Write the report on all runs that are certified into `out`, and return the files' paths.

    All that `concert report` writes; paper.{csv,md,tex} (Tables 1, 6, 7), table8.csv, table9.csv;
    a figure for each group of runs (Figures 3 and 4); runs.csv (what each run cost);
    differences.{csv,md} where the comparison has a `first`; and gradient_variance.csv where it was
    measured (Eq. 12). Runs without a log are named in the notes
    of the tables. `extras`: what the page shows beside. Such files of an earlier report that this
    one does not have are removed. Raises ConcertError if no run has a log.
    """
    found = read_logs(comparison)
    certified, logs = found.runs, found.logs
    if not logs:
        _remove_others(out, OF_RUNS, [])
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
    notes = [*notes, *unpaired]
    if len(differences):
        below = [*difference_table.NOTES, *notes]
        shown = difference_table.printed(differences)
        contents["differences.csv"] = rendering.to_csv(differences)
        contents["differences.md"] = rendering.to_markdown(shown, below)
    variances = gradient_variances(certified)
    if len(variances):
        contents["gradient_variance.csv"] = rendering.to_csv(variances)
    files = write_report(logs, out, extras=extras, notes=missing)
    for name, content in contents.items():
        write_atomically(out / name, content)
    files += [out / name for name in contents]
    _remove_others(out, OF_RUNS, files)
    return files


def paired_differences(
    comparison: Comparison, found: Certified, groups: Mapping[str, Sequence[LoadedLog]]
) -> tuple[pd.DataFrame, list[str]]:
    """Each `first` run minus each other of its figures, and why a pair is missing.

    At those radii of the tables at which no log depends on when its sampling stopped.
    """
    labels = tables.row_labels(found.logs)
    radii = tables.settled_radii(found.logs, tables.radius_grid(found.logs))
    parts, notes = [], []
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


def _remove_others(out: Path, patterns: Sequence[str], written: Sequence[Path]) -> None:
    """Remove the files of an earlier report that are not among those written."""
    for file in (file for pattern in patterns for file in out.glob(pattern)):
        if file not in written and file.is_file():
            file.unlink()


def write_attacks(
    comparison: Comparison, out: Path, extras: PageExtras | None = None
) -> tuple[list[Path], dict[str, str]]:
    """Write the report on each attack into a folder of its name in `out`.

    All that `concert report` writes of attacked images (Tables 2 to 5), and verdict.{csv,md}, the
    paired differences of the first run to the others. Returns the files' paths, and why something
    is missing, by "RUN, attack NAME" or "attack NAME". Of an attack without a log nothing is
    written, and an earlier report on it, or on one that the comparison no longer has, is removed.
    """
    files: list[Path] = []
    missing: dict[str, str] = {}
    for plan in comparison.attacks:
        folders = [(each.run, attack_folder(each.run, plan.name) / LOG) for each in plan.members]
        found = _readable(folders)
        missing |= {f"{name}, attack {plan.name}": why for name, why in found.missing.items()}
        written: list[Path] = []
        try:
            if found.logs:
                written += write_report(
                    found.logs, out / plan.name, taus=plan.taus, extras=extras, notes=found.notes()
                )
            written += _write_verdict(plan, found, out / plan.name)
        except ConcertError as error:
            missing[f"attack {plan.name}"] = str(error)
        _remove_others(out / plan.name, OF_ATTACKS, written)
        files += written
    named = {plan.name for plan in comparison.attacks}
    for gone in (file.parent for file in out.glob("*/attacks.csv")):
        if gone.name not in named:
            _remove_others(gone, OF_ATTACKS, [])
            with contextlib.suppress(OSError):
                gone.rmdir()
    return files, missing


def _write_verdict(plan: AttackPlan, found: Certified, out: Path) -> list[Path]:
    by_name = dict(zip((run.name for run in found.runs), found.logs, strict=True))
    first = by_name.pop(plan.first, None)
    if first is None or not by_name:
        return []
    return write_verdict(verdict_table(first, list(by_name.values()), plan.taus), out)


def grouped(runs: Sequence[PlannedRun], logs: Sequence[LoadedLog]) -> dict[str, list[LoadedLog]]:
    """The logs of each figure: by the runs' groups, else by sigma or the lower end of the box."""
    found: dict[str, list[LoadedLog]] = {}
    for run, log in zip(runs, logs, strict=True):
        noise = run.recipe.noise
        level = noise.sigma if noise.kind in ("isotropic", "banded") else noise.low
        for group in run.groups or (f"{level:g}",):
            found.setdefault(group, []).append(log)
    return found

"""The logs of a comparison that can be reported, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from concert.comparison.plan import Comparison, PlannedRun
from concert.comparison.products import LOG, weights_of
from concert.errors import ConcertError
from concert.records.reading import LoadedLog, read_log


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
    return readable([(run, run.folder / LOG) for run in comparison.runs])


def readable(files: Sequence[tuple[PlannedRun, Path]]) -> Certified:
    """Those of the runs' logs that are there, intact and of the model that the run has now."""
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


def remove_others(out: Path, patterns: Sequence[str], written: Sequence[Path]) -> None:
    """Remove the files of an earlier report that are not among those written."""
    for file in (file for pattern in patterns for file in out.glob(pattern)):
        if file not in written and file.is_file():
            file.unlink()

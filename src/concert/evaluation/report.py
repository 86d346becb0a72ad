"""A folder with everything that certification logs say: tables, runtimes, figure and summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final

from concert.errors import ConcertError
from concert.evaluation import attack_table, interval_table, rendering, table_notes, tables
from concert.evaluation.attacked_log import attacked
from concert.evaluation.figures import certified_accuracy_figure
from concert.evaluation.labels import RowLabel, guarantees, row_labels
from concert.evaluation.metrics import (
    abstention_rate,
    average_certified_radius,
    certified_at,
    nonzero_certified_accuracy,
    share_interval,
)
from concert.evaluation.page.page import PageExtras, report_page
from concert.evaluation.paper_tables import attacks_beside_the_paper
from concert.evaluation.region_table import region_notes, region_table
from concert.files import write_atomically
from concert.records.reading import LoadedLog

# All that `write_report` may write.
FILES: Final = (
    *(f"{name}.{kind}" for name in ("table", "attacks") for kind in ("txt", "csv", "md", "tex")),
    *(f"{name}.csv" for name in ("intervals", "regions", "attacks_paper")),
    *(f"{name}.md" for name in ("intervals", "regions", "attacks_paper")),
    *("sigma_statistics.csv", "runtime.csv", "certified_accuracy.png"),
    *("summary.json", "report.html"),
)


def write_report(
    logs: Sequence[LoadedLog],
    out_dir: Path | str,
    radii: Sequence[float] | None = None,
    taus: Sequence[float] | None = None,
    extras: PageExtras | None = None,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write table.{txt,csv,md,tex}, intervals.{csv,md}, regions.{csv,md}, sigma_statistics.csv,
    runtime.csv, certified_accuracy.png, summary.json and report.html into `out_dir`, and return
    their paths; for logs of attacked images also attacks.{txt,csv,md,tex}, on the subsets perturbed
    by at most each of `taus` (default: the paper's grid), and where the paper has such a table its
    numbers beside ours, attacks_paper.{csv,md}. `notes` stand first below every table and on the
    page.

    The folder is created. Nothing is written unless everything could be computed. Raises
    ConcertError for no logs, logs of different data sets and a folder that cannot be written.
    """
    table = tables.comparison_table(logs, radii)
    grid = list(dict.fromkeys(map(float, tables.radius_grid(logs) if radii is None else radii)))
    below = [*notes, *table_notes.data_notes(logs), *table_notes.run_notes(logs)]
    regions, intervals = region_table(logs), interval_table.interval_table(logs, grid)
    contents: dict[str, str | bytes] = {
        "table.txt": rendering.to_text(table, below),
        "table.csv": rendering.to_csv(table),
        "table.md": rendering.to_markdown(table, below),
        "table.tex": rendering.to_latex(table, below),
        "intervals.csv": rendering.to_csv(intervals),
        "intervals.md": rendering.to_markdown(
            interval_table.printed(intervals), interval_table.NOTES + below
        ),
        "regions.csv": rendering.to_csv(regions),
        "regions.md": rendering.to_markdown(regions, region_notes(logs) + below),
        "sigma_statistics.csv": rendering.to_csv(tables.sigma_statistics(logs)),
        "runtime.csv": rendering.to_csv(tables.runtime_table(logs)),
        "certified_accuracy.png": certified_accuracy_figure(logs),
        "summary.json": json.dumps(summary(logs, grid), indent=2, ensure_ascii=False) + "\n",
        "report.html": report_page(logs, radii, extras, taus, notes),
    }
    if all(attacked(log) for log in logs):
        attacks = attack_table.attack_table(logs, taus)
        shown, read = attack_table.printed(attacks), attack_table.attack_notes(logs)
        beside, below = attacks_beside_the_paper(logs), [*read, *below]
        under = [attack_table.CLEAN_NOTE, *below]
        contents |= {
            "attacks.txt": rendering.to_text(shown, under),
            "attacks.csv": rendering.to_csv(attacks),
            "attacks.md": rendering.to_markdown(shown, under),
            "attacks.tex": rendering.to_latex(shown, under),
        }
        if beside is not None:
            contents["attacks_paper.csv"] = rendering.to_csv(beside)
            contents["attacks_paper.md"] = rendering.to_markdown(beside, below)
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(
                folder / name, content if isinstance(content, bytes) else content.encode()
            )
    except OSError as error:
        raise ConcertError(f"cannot write into {folder}: {error.strerror}") from error
    return [folder / name for name in contents]


def summary(logs: Sequence[LoadedLog], radii: Sequence[float]) -> dict[str, Any]:
    """Exact metrics with their 95 % intervals, per log, as JSON values.

    Accuracies have exact intervals of a share; AMCR has a bootstrap interval, null where there is
    none, its upper end also where sampling stopped early.
    """
    return {
        "data": tables.require_one_dataset(logs),
        "data_notes": table_notes.data_notes(logs),
        "run_notes": table_notes.run_notes(logs),
        "logs": [
            _log_summary(log, label, radii)
            for log, label in zip(logs, row_labels(logs), strict=True)
        ],
    }


def _log_summary(log: LoadedLog, label: RowLabel, radii: Sequence[float]) -> dict[str, Any]:
    band = share_interval(certified_at(log.frame, radii))
    return {
        "log": str(log.path),
        "method": label.method,
        "sigma": label.sigma,
        "guarantees": {each.value: each.sentence for each in guarantees(log.frame)},
        "certificate": label.certificate,
        "images": len(log.frame),
        "n": tables.draws(log),
        "amcr": _amcr(log),
        "certified_accuracy": [
            {
                "radius": float(radius),
                "value": float(band.value[i]),
                "low": float(band.low[i]),
                "high": float(band.high[i]),
            }
            for i, radius in enumerate(radii)
        ],
        "nonzero_certified_accuracy": nonzero_certified_accuracy(log.frame),
        "abstention_rate": abstention_rate(log.frame),
    }


def _amcr(log: LoadedLog) -> dict[str, float | None]:
    low, high = (end if isfinite(end) else None for end in tables.amcr_ends(log))
    return {"value": average_certified_radius(log.frame), "low": low, "high": high}

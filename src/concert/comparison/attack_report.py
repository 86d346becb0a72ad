"""The report on each attack of a comparison: Tables 2 to 5, and whether the first run is better."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from concert.comparison.certified import Certified, readable, remove_others
from concert.comparison.plan import AttackPlan, Comparison, attack_folder
from concert.comparison.products import LOG
from concert.errors import ConcertError
from concert.evaluation import attack_verdict
from concert.evaluation.page.page import PageExtras
from concert.evaluation.page.tables import PageTable, text_table
from concert.evaluation.report import FILES as REPORT_FILES
from concert.evaluation.report import write_report
from concert.files import write_atomically

OF_ATTACKS: Final = (*REPORT_FILES, "verdict.csv", "verdict.md")


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
        found = readable(folders)
        missing |= {f"{name}, attack {plan.name}": why for name, why in found.missing.items()}
        written: list[Path] = []
        beside, notes = extras, found.notes()
        try:
            verdict = _verdict(plan, found)
            if verdict is not None:
                written += attack_verdict.write_verdict(verdict, out / plan.name)
                table = _page_table(verdict)
                beside = replace(extras or PageExtras(), tables=(table,))
        except ConcertError as error:
            missing[f"attack {plan.name}"] = str(error)
        try:
            if found.logs:
                written += write_report(
                    found.logs, out / plan.name, taus=plan.taus, extras=beside, notes=notes
                )
        except ConcertError as error:
            missing[f"attack {plan.name}"] = str(error)
        remove_others(out / plan.name, OF_ATTACKS, written)
        files += written
    _remove_gone(out, [plan.name for plan in comparison.attacks])
    return files, missing


def _remove_gone(out: Path, names: Sequence[str]) -> None:
    """Remove the reports of an earlier comparison on attacks that are not among `names`."""
    record = out / "attacks.json"
    with contextlib.suppress(OSError, ValueError):
        for name in set(json.loads(record.read_text(encoding="utf-8"))) - set(names):
            remove_others(out / name, OF_ATTACKS, [])
            with contextlib.suppress(OSError):
                (out / name).rmdir()
    if names or record.exists():
        write_atomically(record, json.dumps(names) + "\n")


def _verdict(plan: AttackPlan, found: Certified) -> pd.DataFrame | None:
    """The first run against each of the others; None without both."""
    by_name = dict(zip((run.name for run in found.runs), found.logs, strict=True))
    first = by_name.pop(plan.first, None)
    if first is None or not by_name:
        return None
    return attack_verdict.verdict_table(first, list(by_name.values()), plan.taus)


def _page_table(verdict: pd.DataFrame) -> PageTable:
    title, shown = "Which is certified more often?", attack_verdict.printed(verdict)
    return text_table("verdict", title, attack_verdict.NOTES[0], shown)

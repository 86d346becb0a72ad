"""Is one method better than others on the same images? Paired differences at each radius.

    python -m concert.evaluation.difference_table LOG '[OTHER_LOG, ...]' [--out DIR] [--radii '[1]']

Two separate intervals hide most of what the same images tell about two methods: how hard an image
is does not count in the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from concert.errors import ConcertError
from concert.evaluation.labels import JOINT, RowLabel, row_labels
from concert.evaluation.metrics import certified_at
from concert.evaluation.pairing import aligned, paired_shares, require_others
from concert.evaluation.rendering import interval, rounded_down, to_csv, to_markdown, to_text
from concert.evaluation.tables import (
    checked_radii,
    fingerprint_of,
    radius_grid,
    radius_name,
    require_one_dataset,
    settled_radii,
)
from concert.files import write_atomically
from concert.records.reading import LoadedLog, read_log
from concert.tool import run_tool

NOTES: Final = [
    "Columns headed by r and a number: certified accuracy at that l2 radius of the first method "
    "minus that of the other, on the images that both logs have, rounded down, with its 95 % "
    "bootstrap interval over pairs of answers to one image, rounded outwards. higher, lower: where "
    "the two-sided p of McNemar's exact test is below 0.05, each radius by itself, not corrected "
    "for their number; undecided elsewhere. One training each: another seed may differ by more."
]

UNSETTLED: Final = "lower bounds that depend on when sampling stopped"


def difference_table(
    first: LoadedLog,
    others: Sequence[LoadedLog],
    radii: Sequence[float],
    labels: Sequence[RowLabel] | None = None,
) -> pd.DataFrame:
    """A row per other log and radius: how much more often the first is right and certified.

    Columns: first, other, radius, N (images of both), accuracy first, accuracy other, difference,
    low, high (95 % bootstrap interval; NaN where resampling tells nothing), p, verdict ("higher",
    "lower" or "undecided"), guarantee (of the two). `labels`: what a larger table calls the first
    and the others. Raises ConcertError without others, for logs of several data sets or of
    different images, and without common images.
    """
    require_others(others)
    logs = [first, *others]
    require_one_dataset(logs)
    if len({fingerprint_of(log) for log in logs} - {None}) > 1:
        raise ConcertError(
            "the logs are of different images, which cannot be paired: certify the same ones"
        )
    ours, *theirs = row_labels(logs) if labels is None else labels
    rows = []
    for label, other in zip(theirs, others, strict=True):
        told: dict[str, object] = {"first": ours.name, "other": label.name}
        claims = JOINT.join(dict.fromkeys((ours.guarantee, label.guarantee)))
        pair = aligned(first.frame, other.frame)
        found = paired_shares(*(certified_at(frame, radii) for frame in pair))
        for radius, shares in zip(radii, found, strict=True):
            row = told | {"radius": float(radius)} | shares.columns()
            rows.append(row | {"guarantee": claims})
    return pd.DataFrame(rows)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: a row per pair of logs, a column per radius."""
    radii = list(dict.fromkeys(table["radius"]))
    rows = []
    for start in range(0, len(table), len(radii)):
        pair = table.iloc[start : start + len(radii)]
        row = {name: pair.iloc[0][name] for name in ("first", "other")}
        for each in pair.to_dict("records"):
            said = "" if each["verdict"] == "undecided" else str(each["verdict"])
            cell = (rounded_down(each["difference"]), interval(each["low"], each["high"]), said)
            row[f"r {radius_name(each['radius'])}"] = " ".join(filter(None, cell))
        rows.append(row | {name: pair.iloc[0][name] for name in ("guarantee", "N")})
    return pd.DataFrame(rows)


def files(table: pd.DataFrame, notes: Sequence[str]) -> dict[str, str]:
    """The table as files, by name: all numbers as they are, and as text over its notes."""
    return {
        "differences.csv": to_csv(table),
        "differences.md": to_markdown(printed(table), notes),
    }


def main(
    log: Path,
    others: list[Path] | Path,
    out: Path | None = None,
    radii: list[float] | None = None,
) -> str:
    """The table as text; with `out` also DIR/differences.csv and DIR/differences.md."""
    given = others if isinstance(others, list) else [others]
    first, *rest = logs = [read_log(path) for path in (log, *given)]
    grid = radius_grid(logs) if radii is None else checked_radii(radii)
    settled = settled_radii(logs, grid)
    notes = list(NOTES)
    if radii is None:
        grid = settled
    elif settled != grid:
        notes.append(f"At {[r for r in grid if r not in settled]} accuracies are {UNSETTLED}.")
    if not grid:
        raise ConcertError(f"at all radii of the tables accuracies are {UNSETTLED}: give --radii")
    table = difference_table(first, rest, grid)
    shown = printed(table)
    if out is not None:
        for name, content in files(table, notes).items():
            write_atomically(out / name, content)
    return to_text(shown, notes)


if __name__ == "__main__":
    run_tool(main)

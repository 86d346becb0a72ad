"""Is one method better than others under the same attack? Paired differences over the same images.

    python -m concert.evaluation.attack_verdict LOG '[OTHER_LOG, ...]' [--out DIR] [--taus '[2,3]']

Each log is of an attack on its own model, of the same clean images. An image counts for a tau if
both models' perturbations of it are at most that; with a small tau these are the images that are
easy to attack for both, so the row of all images is the one to quote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from concert.errors import ConcertError
from concert.evaluation import rendering
from concert.evaluation.attack_table import checked_taus, tau_grid, tau_name
from concert.evaluation.attacked_log import (
    attacked_through_itself,
    clean_numbers,
    perturbation_norms,
    strength,
)
from concert.evaluation.labels import JOINT, row_labels
from concert.evaluation.metrics import Floats, certified_radii
from concert.evaluation.pairing import aligned, paired_shares, require_others
from concert.evaluation.tables import require_one_dataset
from concert.files import write_atomically
from concert.records.reading import LoadedLog, read_log
from concert.tool import run_tool

NOTES = [
    "difference: certified accuracy (correct with a radius above 0) of the first method minus that "
    "of the other, on the clean images that both attacks perturbed by at most tau (l2), each "
    "through its own model, rounded down; low, high: 95 % bootstrap interval over pairs, rounded "
    "outwards. p: two-sided, of McNemar's exact test; a verdict is given where it is below 0.05, "
    "each row by itself, not corrected for their number. With a small tau these are the images "
    "that are easy to attack for both: quote the row of all images.",
]


def verdict_table(
    first: LoadedLog, others: Sequence[LoadedLog], taus: Sequence[float] | None = None
) -> pd.DataFrame:
    """A row per other log and tau; the last tau is infinite, which is all images of both logs.

    Columns: first, other, tau, N, accuracy first, accuracy other, difference, low, high, p, verdict
    ("higher", "lower", "undecided", or "no images"), guarantee (of the two). Raises ConcertError
    without others, and for logs that are not of attacked images, of several data sets or with other
    labels of the same images, of attacks with different settings, or of attacks through another
    model than the one certified.
    """
    require_others(others)
    logs = [first, *others]
    require_one_dataset(logs)
    check_comparable(logs)
    grid = checked_taus(tau_grid(logs) if taus is None else taus)
    labels = row_labels(logs)
    names = [label.name for label in labels]
    frames = [clean_indexed(log) for log in logs]
    rows = []
    for name, label, other in zip(names[1:], labels[1:], frames[1:], strict=True):
        claims = JOINT.join(dict.fromkeys((labels[0].guarantee, label.guarantee)))
        for tau in grid:
            row: dict[str, object] = {"first": names[0], "other": name, "tau": tau}
            (shares,) = paired_shares(*map(_certified, common(frames[0], other, tau)))
            rows.append(row | shares.columns() | {"guarantee": claims})
    return pd.DataFrame(rows)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: accuracies and differences cut, the ends of intervals outwards, p up."""
    rows = []
    for row in table.to_dict("records"):
        cells: dict[str, object] = {name: row[name] for name in ("first", "other", "N")}
        cells["tau"] = tau_name(row["tau"]).removeprefix("tau ")
        for name in ("accuracy first", "accuracy other", "difference", "low"):
            cells[name] = "" if math.isnan(row[name]) else rendering.rounded_down(row[name])
        for name, digits in (("high", 3), ("p", 4)):
            up = "" if math.isnan(row[name]) else rendering.rounded_up(row[name], digits)
            cells[name] = up
        rows.append(cells | {name: row[name] for name in ("verdict", "guarantee")})
    order = [name for name in table.columns if name in rows[0]]
    return pd.DataFrame(rows, columns=order)


def clean_indexed(log: LoadedLog) -> pd.DataFrame:
    """The log's frame, its images numbered as in the clean data set, with their norms "l2"."""
    return log.frame.assign(idx=clean_numbers(log), l2=perturbation_norms(log))


def check_comparable(logs: Sequence[LoadedLog]) -> None:
    """Refuse logs of attacks with other settings, or through another model than the certified."""
    for log in logs:
        if not attacked_through_itself(log):
            raise ConcertError(
                f"{log.path} is of images that were attacked through another model: attack its own"
            )
        if strength(log) != strength(logs[0]):
            raise ConcertError(
                f"the attacks of {logs[0].path} ({strength(logs[0])}) and {log.path} "
                f"({strength(log)}) differ: attack both with the same settings"
            )


def common(
    first: pd.DataFrame, second: pd.DataFrame, tau: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows, in one order, of the images of both frames, perturbed by at most tau in both.

    Raises ConcertError where the two give an image different labels.
    """
    if not len(np.intersect1d(first["idx"], second["idx"])):
        return first[:0], second[:0]
    ours, theirs = aligned(first, second)
    within = (ours["l2"].to_numpy() <= tau) & (theirs["l2"].to_numpy() <= tau)
    return ours[within], theirs[within]


def _certified(frame: pd.DataFrame) -> Floats:
    """1 where an image is correct with a radius above 0, else 0: (N, 1)."""
    return (certified_radii(frame) > 0).astype(np.float64)[:, None]


def write_verdict(table: pd.DataFrame, out: Path) -> list[Path]:
    """Write verdict.csv and verdict.md into `out`, and return their paths."""
    files = [out / "verdict.csv", out / "verdict.md"]
    write_atomically(files[0], rendering.to_csv(table))
    write_atomically(files[1], rendering.to_markdown(printed(table), NOTES))
    return files


def main(
    log: Path,
    others: list[Path] | Path,
    out: Path | None = None,
    taus: list[float] | None = None,
) -> str:
    """The table as text; with `out` also DIR/verdict.csv and DIR/verdict.md."""
    given = others if isinstance(others, list) else [others]
    table = verdict_table(read_log(log), [read_log(other) for other in given], taus)
    written = [] if out is None else write_verdict(table, out)
    said = [f"written: {', '.join(map(str, written))}"] if written else []
    return "\n".join([rendering.to_text(printed(table), NOTES), *said])


if __name__ == "__main__":
    run_tool(main)

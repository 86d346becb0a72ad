"""Is one method better than others on the same images? Paired differences at each radius.

Two separate intervals hide most of what the same images tell about two methods: how hard an image
is does not count in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from concert.evaluation.metrics import (
    FEWEST_IMAGES,
    certified_at,
    mcnemar_p,
    paired_difference,
    verdict_of,
)
from concert.evaluation.rendering import interval, rounded_down
from concert.evaluation.tables import JOINT, radius_name, require_one_dataset, row_labels
from concert.records.reading import LoadedLog

NOTES: Final = [
    "Columns headed by a number: certified accuracy at that l2 radius of the first method minus "
    "that of the other, on the images that both logs have, rounded down, with its 95 % bootstrap "
    "interval over pairs of answers to one image, rounded outwards. higher, lower: where the "
    "two-sided p of McNemar's exact test is below 0.05, each radius by itself, not corrected for "
    "their number. One training each: another seed may differ by more."
]


def difference_table(
    first: LoadedLog, others: Sequence[LoadedLog], radii: Sequence[float]
) -> pd.DataFrame:
    """A row per other log and radius: how much more often the first is right and certified.

    Columns: first, other, radius, N (images of both), accuracy first, accuracy other, difference,
    low, high (95 % bootstrap interval; NaN where resampling tells nothing), p, verdict ("higher",
    "lower" or "undecided"), guarantee (of the two). Raises ConcertError for logs of several data
    sets, and without common images.
    """
    logs = [first, *others]
    require_one_dataset(logs)
    labels = row_labels(logs)
    rows = []
    for label, other in zip(labels[1:], others, strict=True):
        found = paired_difference(
            first.frame, other.frame, lambda frame: certified_at(frame, radii)
        )
        shared = np.intersect1d(first.frame["idx"], other.frame["idx"])
        ours, theirs = (
            certified_at(log.frame.set_index("idx", drop=False).loc[shared], radii)
            for log in (first, other)
        )
        for i, radius in enumerate(radii):
            # All differences alike: a resample tells nothing of other images.
            told = len(shared) >= FEWEST_IMAGES and found.low[i] < found.high[i]
            p = mcnemar_p(ours[:, i], theirs[:, i])
            rows.append(
                {
                    "first": labels[0].name,
                    "other": label.name,
                    "radius": float(radius),
                    "N": len(shared),
                    "accuracy first": float(ours[:, i].mean()),
                    "accuracy other": float(theirs[:, i].mean()),
                    "difference": float(found.value[i]),
                    "low": float(found.low[i]) if told else math.nan,
                    "high": float(found.high[i]) if told else math.nan,
                    "p": p,
                    "verdict": verdict_of(float(found.value[i]), p),
                    "guarantee": JOINT.join(dict.fromkeys((labels[0].guarantee, label.guarantee))),
                }
            )
    return pd.DataFrame(rows)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: a row per pair of logs, a column per radius."""
    rows = []
    for (first, other), part in table.groupby(["first", "other"], sort=False):
        row: dict[str, object] = {"first": first, "other": other}
        for each in part.to_dict("records"):
            said = "" if each["verdict"] == "undecided" else str(each["verdict"])
            cell = (rounded_down(each["difference"]), interval(each["low"], each["high"]), said)
            row[f"r {radius_name(each['radius'])}"] = " ".join(filter(None, cell))
        rows.append(row | {"guarantee": part.iloc[0]["guarantee"], "N": part.iloc[0]["N"]})
    return pd.DataFrame(rows)

"""Intervals of certified accuracies over images: what other test images might have given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import pandas as pd

from concert.evaluation.labels import row_labels
from concert.evaluation.metrics import (
    FEWEST_IMAGES,
    bootstrap,
    certified_at,
    share_interval,
)
from concert.evaluation.rendering import interval
from concert.evaluation.tables import radius_name, require_one_dataset
from concert.records.reading import LoadedLog

NOTES: Final = [
    "Columns headed by r and a number: 95 % interval of the certified accuracy at that l2 radius, "
    "exact (Clopper-Pearson) for each radius by itself; lower ends are rounded down, upper ends "
    "up. intervals.csv also has the bootstrap intervals over images."
]


def interval_table(logs: Sequence[LoadedLog], radii: Sequence[float]) -> pd.DataFrame:
    """A row per log and radius: the certified accuracy with two 95 % intervals over images.

    Columns: sigma, method, guarantee, certificate, N, radius, certified accuracy, low, high (the
    exact interval of a share), bootstrap low, bootstrap high (percentiles; NaN where resampling
    tells nothing, as with fewer than 10 images or where all or none of them count).
    """
    require_one_dataset(logs)
    rows = []
    for log, label in zip(logs, row_labels(logs), strict=True):
        counted = certified_at(log.frame, radii)
        exact, resampled = share_interval(counted), bootstrap(counted)
        for i, radius in enumerate(radii):
            told = len(counted) >= FEWEST_IMAGES and 0 < exact.value[i] < 1
            rows.append(
                {
                    "sigma": label.sigma,
                    "method": label.method,
                    "guarantee": label.guarantee,
                    "certificate": label.certificate,
                    "N": len(counted),
                    "radius": float(radius),
                    "certified accuracy": float(exact.value[i]),
                    "low": float(exact.low[i]),
                    "high": float(exact.high[i]),
                    "bootstrap low": float(resampled.low[i]) if told else math.nan,
                    "bootstrap high": float(resampled.high[i]) if told else math.nan,
                }
            )
    return pd.DataFrame(rows)


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The exact intervals as text, a row per log and a column per radius."""
    radii = list(dict.fromkeys(table["radius"]))
    rows: list[dict[str, object]] = []
    for start in range(0, len(table), len(radii)):
        part = table.iloc[start : start + len(radii)]
        first = part.iloc[0]
        cells = map(interval, part["low"], part["high"])
        rows.append(
            {name: first[name] for name in ("sigma", "method")}
            | {f"r {radius_name(r)}": cell for r, cell in zip(radii, cells, strict=True)}
            | {name: first[name] for name in ("guarantee", "certificate", "N")}
        )
    return pd.DataFrame(rows)

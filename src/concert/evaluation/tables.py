"""Tables of certification logs, in the layout of the paper.

A table is a pandas data frame with exact numbers, a row per log; `concert.evaluation.rendering`
prints it, `concert.evaluation.labels` names its rows. What a log is of stands in its JSON file:
"data" (the name of the data set) and "data_notes" in "info", and "n" in "identity".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from concert.errors import ConcertError
from concert.evaluation.labels import row_labels
from concert.evaluation.metrics import (
    abstention_rate,
    amcr_interval,
    average_certified_radius,
    certified_accuracy,
    certified_radii,
    percentage,
)
from concert.records.reading import LoadedLog


def require_one_dataset(logs: Sequence[LoadedLog]) -> str:
    """The data set of all logs, "" if unknown; ConcertError for none, or for logs of several."""
    if not logs:
        raise ConcertError("no logs given: give at least one certification log")
    ((path, times),) = Counter(log.path.resolve() for log in logs).most_common(1)
    if times > 1:
        raise ConcertError(f"{path} is given {times} times: give each log once")
    names = dict.fromkeys(str(log.run["info"].get("data") or "") for log in logs)
    known = [name for name in names if name]
    if len(known) > 1:
        # Attacked images are called by their data set and the attack.
        sets = {name.partition(",")[0] for name in known}
        what = "data set" if len(sets) == len(known) else "attack, and the clean images,"
        raise ConcertError(
            f"logs of {known[0]} and {known[1]} do not go into one table: report each {what} by "
            "itself"
        )
    return known[0] if known else ""


def radius_grid(logs: Sequence[LoadedLog]) -> list[float]:
    """0, 0.25, ... (steps of 0.5 for ImageNet) up to the last radius with a non-zero entry."""
    step = 0.5 if "imagenet" in require_one_dataset(logs).lower() else 0.25
    largest = max(float(certified_radii(log.frame).max()) for log in logs)
    return [step * i for i in range(math.floor(largest / step) + 1)]


def checked_radii(radii: Sequence[float]) -> list[float]:
    """Each radius once; ConcertError where one is none."""
    grid = list(dict.fromkeys(map(float, radii)))
    if not all(math.isfinite(radius) and radius >= 0 for radius in grid):
        raise ConcertError(f"radii must be finite and not negative, got {grid}")
    return grid


def comparison_table(
    logs: Sequence[LoadedLog], radii: Sequence[float] | None = None
) -> pd.DataFrame:
    """Certified accuracy at each radius and AMCR, a row per log (Tables 1, 6 and 7).

    Columns: sigma, method, one per radius, AMCR with its 95 % bootstrap interval (`amcr_ends`),
    guarantee, certificate, abstained (%), N images and n certifying draws. `radii`
    defaults to `radius_grid`.
    Raises ConcertError for negative radii and for logs of different data sets.
    """
    require_one_dataset(logs)
    grid = radius_grid(logs) if radii is None else checked_radii(radii)
    rows = []
    for log, label in zip(logs, row_labels(logs), strict=True):
        low, high = amcr_ends(log)
        accuracies = certified_accuracy(log.frame, grid)
        rows.append(
            {"sigma": label.sigma, "method": label.method}
            | {radius_name(radius): accuracies[i] for i, radius in enumerate(grid)}
            | {
                "AMCR": average_certified_radius(log.frame),
                "AMCR low": low,
                "AMCR high": high,
                "guarantee": label.guarantee,
                "certificate": label.certificate,
                "abstained (%)": percentage(abstention_rate(log.frame)),
                "N": len(log.frame),
                "n": draws(log),
            }
        )
    return pd.DataFrame(rows).astype({"n": "Int64"})


def sigma_statistics(logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """Minimum, median and maximum over images of each sigma map's minimum (Table 8)."""
    rows = []
    for log, label in zip(logs, row_labels(logs), strict=True):
        lows = log.frame["sigma_min"].astype(float)
        rows.append(
            {
                "sigma": label.sigma,
                "method": label.method,
                "certificate": label.certificate,
                "min": lows.min(),
                "median": lows.median(),
                "max": lows.max(),
                "N": int(lows.count()),
            }
        )
    return pd.DataFrame(rows)


def runtime_table(logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """Seconds per certified image and certifying draws per second (compare Table 9)."""
    rows = []
    for log, label in zip(logs, row_labels(logs), strict=True):
        seconds = log.frame["time"].astype(float)
        total_draws = log.frame["n_used"].astype(float).sum(skipna=False)
        rows.append(
            {
                "sigma": label.sigma,
                "method": label.method,
                "certificate": label.certificate,
                "seconds per image": seconds.mean(),
                "median seconds": seconds.median(),
                "total seconds": seconds.sum(),
                "draws per second": total_draws / seconds.sum() if seconds.sum() else math.nan,
                "N": len(log.frame),
            }
        )
    return pd.DataFrame(rows)


def fingerprint_of(log: LoadedLog) -> str | None:
    """What tells a log's images from others; None if the log does not say."""
    data = log.run["identity"].get("data")
    return data.get("fingerprint") if isinstance(data, dict) else None


def stopped_early(log: LoadedLog) -> bool:
    """Whether the log's images were stopped before all draws, which makes AMCR a lower bound."""
    return log.run["identity"].get("stopping") not in (None, "", "full")


def settled_radii(logs: Sequence[LoadedLog], radii: Sequence[float]) -> list[float]:
    """Those of `radii` at which no log's accuracy rests on when it stopped: they are on its grid.

    An image that stopped on a grid is settled there, and may have a larger radius than it shows;
    one that stopped near its radius is settled at 0.
    """
    grids = [_stopping_grid(log) for log in logs]
    return [r for r in radii if all(grid is None or r in grid for grid in grids)]


def _stopping_grid(log: LoadedLog) -> list[float] | None:
    """Radii at which early stopping changed nothing; None if there was none."""
    kind, _, given = str(log.run["identity"].get("stopping", "")).partition(":")
    if kind == "relative":
        return [0.0]  # an image stops once it is certified at all
    return list(map(float, given.split(","))) if kind == "grid" else None


def amcr_ends(log: LoadedLog) -> tuple[float, float]:
    """The interval of a log's AMCR with all draws; NaN where resampling tells nothing.

    Where sampling stopped early only its lower end is known: the other is infinite.
    """
    low, high = amcr_interval(log.frame)
    return low, math.inf if stopped_early(log) and not math.isnan(low) else high


def draws(log: LoadedLog) -> int | None:
    """Certifying draws per image: the run's "n", else the most that an image used, else None."""
    given = log.run["identity"].get("n")
    most = log.frame["n_used"].max()
    return int(given) if given else None if pd.isna(most) else int(most)


def radius_name(radius: float) -> str:
    """A radius as the name of its column, with at least two decimals."""
    short = f"{radius:.2f}"
    return short if float(short) == radius else repr(radius)

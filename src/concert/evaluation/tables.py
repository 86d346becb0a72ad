"""Tables of certification logs, in the layout of the paper.

A table is a pandas data frame with exact numbers, a row per log; `concert.evaluation.rendering`
prints it. How a log is called stands in its JSON file: "method", "box" or "sigma", "data" (the name
of the data set) and "data_notes" in "info", and "n" in "identity".
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.evaluation.metrics import (
    abstention_rate,
    amcr_interval,
    average_certified_radius,
    certified_accuracy,
    certified_radii,
)
from concert.log_reading import LoadedLog

JOINT = " + "


@dataclass(frozen=True)
class RowLabel:
    """How a table or a figure calls a log; `sigma` is a number or a box, "" if unknown."""

    sigma: str
    method: str
    guarantee: str
    certificate: str


def row_labels(logs: Sequence[LoadedLog]) -> list[RowLabel]:
    """A label per log. Where the run does not say, the folder and the file name do.

    Labels that would be the same get the folder's name after the method, and where that is the same
    too, the file's.
    """
    labels = [_row_label(log) for log in logs]
    for name in (_folder, lambda log: f"{_folder(log)}/{log.path.stem}"):
        times = Counter(labels)
        labels = [
            label
            if times[label] == 1
            else replace(label, method=f"{_row_label(log).method} ({name(log)})")
            for log, label in zip(logs, labels, strict=True)
        ]
    return labels


def guarantees(frame: pd.DataFrame) -> list[Guarantee]:
    """The guarantees of a log's rows, strongest first."""
    present = set(frame["guarantee"])
    return [guarantee for guarantee in Guarantee if guarantee.value in present]


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
        raise ConcertError(
            f"logs of {known[0]} and {known[1]} do not go into one table: report each data set "
            "by itself"
        )
    return known[0] if known else ""


def radius_grid(logs: Sequence[LoadedLog]) -> list[float]:
    """0, 0.25, ... (steps of 0.5 for ImageNet) up to the last radius with a non-zero entry."""
    step = 0.5 if "imagenet" in require_one_dataset(logs).lower() else 0.25
    largest = max(float(certified_radii(log.frame).max()) for log in logs)
    return [step * i for i in range(math.floor(largest / step) + 1)]


def comparison_table(
    logs: Sequence[LoadedLog], radii: Sequence[float] | None = None
) -> pd.DataFrame:
    """Certified accuracy at each radius and AMCR, a row per log (Tables 1, 6 and 7).

    Columns: sigma, method, one per radius, AMCR with its 95 % bootstrap interval (NaN where there
    is none), guarantee, certificate, abstained (%), N images and n certifying draws. `radii`
    defaults to `radius_grid`.
    Raises ConcertError for negative radii and for logs of different data sets.
    """
    require_one_dataset(logs)
    grid = radius_grid(logs) if radii is None else list(dict.fromkeys(map(float, radii)))
    if not all(math.isfinite(radius) and radius >= 0 for radius in grid):
        raise ConcertError(f"radii must be finite and not negative, got {grid}")
    rows = []
    for log, label in zip(logs, row_labels(logs), strict=True):
        low, high = amcr_interval(log.frame)
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
                "abstained (%)": 100 * abstention_rate(log.frame),
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


def data_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """What the runs say about their data ("data_notes": a text or a list), each note once."""
    notes: list[str] = []
    for log in logs:
        given = log.run["info"].get("data_notes") or []
        notes += [given] if isinstance(given, str) else given
    return list(dict.fromkeys(note for note in notes if note))


GRID_CAVEAT: Final = "sampling stopped on a grid of radii"
GRID_NOTE: Final = (
    "With stopping grid an image stops as soon as it is settled at every radius of the grid: "
    "between these radii curves are lower than with all n draws, and so is AMCR."
)


def stopped_on_grid(log: LoadedLog) -> bool:
    """Whether the log's images stopped early on a grid of radii, which makes AMCR a lower bound."""
    return str(log.run["identity"].get("stopping", "")).startswith("grid")


def grid_caveats(logs: Sequence[LoadedLog], what: str) -> list[str]:
    """That numbers called `what` are lower bounds for the logs that stopped on a grid; [] if none.

    Logs are named where others did not.
    """
    stopped = [
        f"{label.method}, sigma {label.sigma}" if label.sigma else label.method
        for log, label in zip(logs, row_labels(logs), strict=True)
        if stopped_on_grid(log)
    ]
    if not stopped:
        return []
    of = "" if len(stopped) == len(logs) else " of " + "; ".join(dict.fromkeys(stopped))
    return [f"{what}{of}: lower bounds, because {GRID_CAVEAT}."]


def run_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """Which logs are not finished, and how each was certified: one note per set of settings."""
    notes: list[str] = []
    settings: dict[str, list[str]] = {}
    for log, label in zip(logs, row_labels(logs), strict=True):
        identity, total = log.run["identity"], log.run["info"].get("subset_images")
        name = f"{label.method}, sigma {label.sigma}" if label.sigma else label.method
        if isinstance(total, int) and len(log.frame) < total:
            notes.append(f"{name}: not finished, {len(log.frame)} of {total} images.")
        data, said = identity.get("data"), {}
        if isinstance(data, dict) and data.get("split"):
            said["images"] = f"{data['split']} {identity.get('subset', 'all')}"
        said |= {key: identity.get(key) for key in ("alpha", "n0", "n", "stopping", "seed")}
        text = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
        if text:
            settings.setdefault(text, []).append(name)
    attacked = any(isinstance(log.run["info"].get("attack"), dict) for log in logs)
    if not notes and not attacked and len({frozenset(log.frame["idx"]) for log in logs}) > 1:
        notes.append("The logs do not have the same images: their rows differ by that too.")
    if any(map(stopped_on_grid, logs)):
        notes.append(GRID_NOTE)
    if len(settings) == 1:
        return [*notes, f"Certified with {next(iter(settings))}."]
    return notes + [f"{'; '.join(names)}: {text}." for text, names in settings.items()]


def draws(log: LoadedLog) -> int | None:
    """Certifying draws per image: the run's "n", else the most that an image used, else None."""
    given = log.run["identity"].get("n")
    most = log.frame["n_used"].max()
    return int(given) if given else None if pd.isna(most) else int(most)


def radius_name(radius: float) -> str:
    """A radius as the name of its column, with at least two decimals."""
    short = f"{radius:.2f}"
    return short if float(short) == radius else repr(radius)


def _row_label(log: LoadedLog) -> RowLabel:
    name = log.path.name.removesuffix(".tsv")
    fallback = _folder(log) if name == "certify" else f"{_folder(log)}/{name}"
    info = log.run["info"]
    sigma = str(info.get("box") or info.get("sigma") or "")
    if not sigma:
        # The field's own spelling: noise_0.25/test/sigma_0.25.
        spelled = re.findall(r"(?:sigma|noise)_(\d+(?:\.\d+)?)", log.path.as_posix())
        sigma = spelled[-1] if spelled else ""
    certificates = sorted(set(log.frame["certificate"]) - {""})
    return RowLabel(
        sigma=sigma,
        method=str(info.get("method") or fallback),
        guarantee=JOINT.join(guarantee.value for guarantee in guarantees(log.frame)),
        certificate=JOINT.join(certificates),
    )


def _folder(log: LoadedLog) -> str:
    return log.path.resolve().parent.name

"""Certified accuracy under attack, on the images perturbed by at most tau (Tables 2 to 5)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from concert.errors import ConcertError
from concert.evaluation.attacked_log import (
    attack_of,
    attacked_through_itself,
    clean_numbers,
    perturbation_norms,
    reference_of,
    right_before,
    strength,
)
from concert.evaluation.labels import row_labels
from concert.evaluation.metrics import certified_radii, proportion_interval
from concert.evaluation.rendering import rounded_down, rounded_up
from concert.evaluation.tables import require_one_dataset
from concert.records.reading import LoadedLog

# The grids of the paper's tables, by attack; the second for ImageNet. It has none for pgd.
GRIDS: Final = {
    "cadv": (
        (2.0, 2.25, 2.5, 2.75, 3.0, 4.0, 5.0, 6.0),
        (10.0, 20.0, 40.0, 80.0, 160.0, 320.0),
    ),
    "shadow": ((3.0, 4.0, 5.0, 6.0), (10.0, 30.0, 90.0, 270.0)),
    "pgd": ((0.25, 0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0)),
}


# What cAdv's stop rule does to small perturbations.
STOPS: Final = (
    ", and it stops once the model is fooled, so that images which it answered wrong anyway are "
    "perturbed least"
)


def tau_grid(logs: Sequence[LoadedLog]) -> list[float]:
    """The paper's grid for the logs' attack and data set."""
    method = str(attack_of(logs[0])["method"])
    small, large = GRIDS.get(method, GRIDS["pgd"])
    return list(large if "imagenet" in require_one_dataset(logs).lower() else small)


def attack_table(logs: Sequence[LoadedLog], taus: Sequence[float] | None = None) -> pd.DataFrame:
    """A row per log, set of images and tau: share of those perturbed by at most tau certified.

    Certified means correct with a radius above 0. Columns: log (its place), sigma, method, attack,
    targets (of the attack; "none" is untargeted), against, images ("all", and where the attack
    knows it "right before": by the smoothed classifier), tau, N (images perturbed by at most tau),
    right before (of them, by the most voted class; NaN if not known), certified, accuracy, low and
    high (exact 95 % interval of a proportion), guarantee, certificate. The last row of a set is
    without a bound, tau infinite. Where N is 0 the accuracy is NaN. Raises ConcertError for logs of
    clean images, or of several data sets or attacks.
    """
    require_one_dataset(logs)
    grid = checked_taus(tau_grid(logs) if taus is None else taus)
    rows = []
    for place, (log, label) in enumerate(zip(logs, row_labels(logs), strict=True)):
        attack, norms = attack_of(log), perturbation_norms(log)
        certified = certified_radii(log.frame) > 0
        sets = {"all": np.full(len(norms), True)}
        right = right_before(log)
        if right is not None:
            sets["right before"] = right
        for (images, members), tau in itertools.product(sets.items(), grid):
            within = members & (norms <= tau)
            n, k = int(within.sum()), int((certified & within).sum())
            low, high = proportion_interval(k, n)
            rows.append(
                {
                    "log": place,
                    "sigma": label.sigma,
                    "method": label.method,
                    "attack": attack["method"],
                    "targets": str(attack.get("targets", "")),
                    "against": attack["against"],
                    "images": images,
                    "tau": tau,
                    "N": n,
                    "right before": math.nan if right is None else int((right & within).sum()),
                    "certified": k,
                    "accuracy": k / n if n else math.nan,
                    "low": low,
                    "high": high,
                    "guarantee": label.guarantee,
                    "certificate": label.certificate,
                }
            )
    return pd.DataFrame(rows)


def checked_taus(taus: Sequence[float]) -> list[float]:
    """The thresholds of a table, each once, and infinity; ConcertError where one is no number."""
    if not all(math.isfinite(tau) and tau >= 0 for tau in taus):
        raise ConcertError(f"taus must be finite and not negative, got {list(taus)}")
    return [*dict.fromkeys(map(float, taus)), math.inf]


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the paper's layout: a row per log and set, a column per tau, all cells text.

    A cell has the accuracy, rounded down, its interval, and the number of images; "clean" the share
    of all images that were right before the attack.
    """
    first = ("sigma", "method", "attack", "targets", "against", "images")
    rows = []
    for _, part in table.groupby(["log", "images"], sort=False):
        each = part.to_dict("records")
        named = {name: each[0][name] for name in (*first, "guarantee", "certificate")}
        cells = {tau_name(row["tau"]): _cell(row) for row in each}
        clean = {"clean": _clean(each[-1]) if named["images"] == "all" else ""}
        rows.append({**{name: named.pop(name) for name in first}, **clean, **cells, **named})
    return pd.DataFrame(rows)


def tau_name(tau: float) -> str:
    """The column of a threshold: "tau 2.5", or "all" for infinity."""
    return "all" if math.isinf(tau) else f"tau {repr(tau).removesuffix('.0')}"


CLEAN_NOTE: Final = (
    "clean: share of all images that were right before the attack (most voted class, without a "
    "test)."
)


def attack_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """How to read the table, how its images were attacked, and through which model."""
    stops = STOPS if attack_of(logs[0])["method"] == "cadv" else ""
    notes = [
        "Share of the images perturbed by at most tau (l2) that are correct with a radius above 0, "
        "with its exact 95 % interval and the number of such images. A radius is that of the "
        "attacked image: it says that the answer there is stable, not that the attack was within "
        "the clean image's region.",
        "Each model's own attack decides which images are in its subsets"
        f"{stops}: compare models by the column of all images.",
    ]
    attacks: dict[str, list[str]] = {}
    for log, label in zip(logs, row_labels(logs), strict=True):
        name = label.name
        attacks.setdefault(strength(log) + reference_of(log), []).append(name)
        right = right_before(log)
        if right is not None:
            notes.append(
                f"{name}: its smoothed classifier was right on {int(right.sum())} of {len(right)} "
                "images before the attack (most voted class, without a test)."
            )
        if not attacked_through_itself(log):
            notes.append(f"{name}: its images were attacked through another model.")
    if len({frozenset(clean_numbers(log)) for log in logs if "index" in attack_of(log)}) > 1:
        notes.append("The attacks are not of the same clean images: rows differ by that too.")
    return notes + [f"{'; '.join(names)}: attacked with {text}." for text, names in attacks.items()]


def _clean(row: Mapping[Any, Any]) -> str:
    known = row["N"] and not math.isnan(row["right before"])
    return rounded_down(row["right before"] / row["N"], 2) if known else ""


def _cell(row: Mapping[Any, Any]) -> str:
    if not row["N"]:
        return "- (0)"
    ends = f"[{rounded_down(row['low'], 2)}, {rounded_up(row['high'], 2)}]"
    return f"{rounded_down(row['accuracy'], 2)} {ends} ({row['N']})"

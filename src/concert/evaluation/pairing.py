"""Two methods on the same images: the mean of the differences, image by image.

How hard an image is does not count in a difference, so that smaller ones are told than by two
separate intervals. A log is the frame of `concert.records.reading.read_log`.

References: McNemar, Psychometrika 1947 (the exact form: a binomial test of the images on which the
two differ); Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from concert.errors import ConcertError
from concert.evaluation.metrics import (
    FEWEST_IMAGES,
    LEVEL,
    RESAMPLES,
    Floats,
    Interval,
    bootstrap,
    certified_radii,
)


@dataclass(frozen=True)
class PairedShares:
    """Shares of the same N images that count for two methods, and whether they differ.

    low and high: ends of the 95 % bootstrap interval of the difference; NaN with fewer than 10
    images, and where all differences are alike, so that a resample tells nothing of other images.
    p: two-sided, of McNemar's exact test. verdict: "higher" or "lower" where p is below 0.05, else
    "undecided"; "no images" without any, and then every number but N is NaN.
    """

    N: int
    first: float = math.nan
    other: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    verdict: str = "no images"

    def columns(self) -> dict[str, object]:
        """The row of a table: the shares are called accuracies."""
        named = {"first": "accuracy first", "other": "accuracy other"}
        return {named.get(name, name): value for name, value in asdict(self).items()}


def paired_shares(first: Floats, other: Floats) -> list[PairedShares]:
    """Compare zeros and ones (N, R) of the same N images, column by column.

    Raises ConcertError for arrays of different shapes.
    """
    if first.shape != other.shape or first.ndim != 2:
        raise ConcertError(
            f"shares are compared of the same images, got shapes {first.shape} and {other.shape}"
        )
    count, columns = first.shape
    if not count:
        return [PairedShares(0)] * columns
    differences = first - other
    interval = bootstrap(differences) if count >= FEWEST_IMAGES else None
    found = []
    for column in range(columns):
        ours, theirs, each = (part[:, column] for part in (first, other, differences))
        difference, p = float(each.mean()), mcnemar_p(ours, theirs)
        low, high = math.nan, math.nan
        if interval is not None and each.min() < each.max():
            low, high = float(interval.low[column]), float(interval.high[column])
        verdict = "undecided" if p >= 1.0 - LEVEL else "higher" if difference > 0 else "lower"
        shares = float(ours.mean()), float(theirs.mean())
        found.append(PairedShares(count, *shares, difference, low, high, p, verdict))
    return found


def mcnemar_p(first: Floats, other: Floats) -> float:
    """Two-sided p of McNemar's exact test for zeros and ones (N,) of the same images.

    From the images that count for one alone; 1 without any.
    """
    alone, discordant = int((first > other).sum()), int((first != other).sum())
    return float(binomtest(alone, discordant).pvalue) if discordant else 1.0


def paired_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    values: Callable[[pd.DataFrame], Floats] = certified_radii,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Mean of values(first) - values(second) over the images that both logs hold, with interval.

    By default of certified radii: the difference of AMCR. Of logs that stopped early it is a
    difference of two lower bounds, which says little about AMCR with all draws, and of fewer than
    10 images a resample says little about others. Raises ConcertError as `aligned` does.
    """
    ours, theirs = aligned(first, second)
    return bootstrap(values(ours) - values(theirs), seed, resamples, level)


def require_others(others: Sequence[object]) -> None:
    """Refuse a comparison with nothing."""
    if not others:
        raise ConcertError("there is nothing to compare with: give at least one other log")


def aligned(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the images that both logs hold, in one order.

    Raises ConcertError if the logs have no image in common or disagree on a label, as logs of
    different data sets do.
    """
    shared = np.intersect1d(first["idx"], second["idx"])
    if not len(shared):
        raise ConcertError("the two logs have no image in common: certify the same subset")
    ours, theirs = (frame.set_index("idx", drop=False).loc[shared] for frame in (first, second))
    labels = ours["label"].to_numpy(), theirs["label"].to_numpy()
    if (labels[0] != labels[1]).any():
        image = int(shared[labels[0] != labels[1]][0])
        raise ConcertError(
            f"the two logs give image {image} different labels: compare logs of one data set"
        )
    return ours, theirs

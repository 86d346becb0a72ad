"""Metrics of a certification log, with 95 % intervals over images.

Every metric is a mean over all images of a value per image. A share, whose values are 0 and 1, has
an exact interval; other means have bootstrap intervals, which resample images. A log is the frame
of `concert.records.reading.read_log`; abstentions and wrong predictions count 0.

References: Clopper and Pearson, Biometrika 1934; Efron and Tibshirani, An Introduction to the
Bootstrap, 1993 (percentile intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from concert import bounds
from concert.records.record import ABSTAIN

LEVEL: Final = 0.95
RESAMPLES: Final = 2000
# Resampling fewer images than this says little about the images that were not drawn.
FEWEST_IMAGES: Final = 10
_CELLS_IN_MEMORY: Final = 4_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean (or means, one per column) with the ends of its interval."""

    value: Floats
    low: Floats
    high: Floats


def certified_radii(frame: pd.DataFrame) -> Floats:
    """Radius per image, 0 where the prediction is wrong or abstained: (N,)."""
    radii: Floats = frame["radius"].to_numpy(np.float64) * _correct(frame)
    return radii


def certified_at(frame: pd.DataFrame, radii: ArrayLike) -> Floats:
    """1 where an image is correct with radius >= r, else 0: (N, R) for radii (R,)."""
    grid = np.atleast_1d(np.asarray(radii, dtype=np.float64))
    reached = frame["radius"].to_numpy(np.float64)[:, None] >= grid
    certified: Floats = (reached & _correct(frame)[:, None]).astype(np.float64)
    return certified


def certified_accuracy(frame: pd.DataFrame, radii: ArrayLike) -> Floats:
    """mean(correct and radius >= r) for radii (R,); at r = 0 the share of correct predictions.

    The paper's Tables 2 to 5 count radii above 0 instead: `nonzero_certified_accuracy`.
    """
    count: Floats = certified_at(frame, radii).sum(axis=0)
    return count / len(frame)


def nonzero_certified_accuracy(frame: pd.DataFrame) -> float:
    """mean(correct and radius > 0): the certified accuracy under attack of Tables 2 to 5."""
    return int((certified_radii(frame) > 0).sum()) / len(frame)


def average_certified_radius(frame: pd.DataFrame) -> float:
    """sum(radius * correct) / N, the paper's AMCR; abstentions count 0."""
    return math.fsum(certified_radii(frame)) / len(frame)


def abstention_rate(frame: pd.DataFrame) -> float:
    """Share of images for which the smoothed classifier abstains."""
    return int((frame["predict"] == ABSTAIN).sum()) / len(frame)


def bootstrap(
    values: Floats, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Mean over images of values (N,) or (N, R), with a percentile interval at `level`.

    Images are drawn with replacement `resamples` times, in chunks that bound the memory. The
    interval is degenerate where all images have the same value.
    """
    count = len(values)
    columns = values.reshape(count, -1)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    chunk = max(1, _CELLS_IN_MEMORY // count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, count, (rows, count))
        cells = drawn + count * np.arange(rows)[:, None]
        times_drawn = np.bincount(cells.ravel(), minlength=rows * count).reshape(rows, count)
        means[start : start + rows] = times_drawn @ columns / count
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    shape = values.shape[1:]
    return Interval(columns.mean(axis=0).reshape(shape), low.reshape(shape), high.reshape(shape))


def amcr_interval(frame: pd.DataFrame) -> tuple[float, float]:
    """Ends of the bootstrap interval of AMCR; both NaN where resampling tells nothing.

    That is with fewer than 10 images, and where all values are equal, so that every resample has
    the same mean: an interval of no width would claim that other images cannot differ.
    """
    values = certified_radii(frame)
    if len(values) < FEWEST_IMAGES or values.min() == values.max():
        return math.nan, math.nan
    interval = bootstrap(values)
    return float(interval.low), float(interval.high)


def share_interval(values: Floats, level: float = LEVEL) -> Interval:
    """Shares of images: means of zeros and ones (N,) or (N, R) with exact intervals at `level`.

    Each column has its own interval. A band of such intervals holds at each point by itself, not
    for a curve as a whole.
    """
    count = len(values)
    successes = values.sum(axis=0).round().astype(int)
    found, place = np.unique(successes, return_inverse=True)
    ends = np.array([proportion_interval(int(k), count, level) for k in found])
    low, high = (ends[place, end].reshape(successes.shape) for end in (0, 1))
    return Interval(successes / count, low, high)


def proportion_interval(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The Clopper-Pearson interval of k successes in n trials; NaN without trials.

    It covers the share with at least `level` whatever the share, also where all or none succeed.
    """
    if not n:
        return math.nan, math.nan
    tail = (1.0 - level) / 2.0
    return bounds.clopper_pearson_lower(k, n, tail), bounds.clopper_pearson_upper(k, n, tail)


def _correct(frame: pd.DataFrame) -> NDArray[np.bool_]:
    return (frame["correct"] == 1).to_numpy(dtype=bool)


def percentage(share: float) -> float:
    """100 times a share as it is written: 0.07 gives 7, not 7.000000000000001."""
    return float(100 * Decimal(repr(float(share))))

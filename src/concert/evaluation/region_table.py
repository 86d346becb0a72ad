"""How large certified regions are: inscribed balls, ellipsoids and volumes, a row per log.

AMCR counts the inscribed ball alone. An ellipsoid is larger, which this table shows, and compares
each log with the first one given, image by image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from concert.errors import ConcertError
from concert.evaluation.ellipsoids import AXIS, INSCRIBED, compare_ellipsoids
from concert.evaluation.labels import row_labels
from concert.evaluation.metrics import average_certified_radius, certified_radii, percentage
from concert.evaluation.table_notes import early_caveats
from concert.evaluation.tables import require_one_dataset
from concert.records.reading import LoadedLog

EARLY: Final = "Sampling that stopped early leaves regions smaller than all draws would."


def region_table(logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """Columns: sigma, method, AMCR, axis, log-volume, common, larger (%), draws, guarantee and
    certificate.

    axis: mean over all images of the geometric mean of the region's semi-axes (Eq. 11), wrong or
    abstained images counting 0. log-volume: mean natural logarithm of the volume over the images,
    `common` in number, that every log certifies which certifies any. larger (%): share of the
    images certified by this log and the first whose axis is at least 1.15 times the first's while
    the radius is at least 0.9 times the first's. draws: mean certifying draws per image. NaN where
    a log does not say.
    """
    require_one_dataset(logs)
    certified = [set(log.frame["idx"][certified_radii(log.frame) > 0].astype(int)) for log in logs]
    some_certified = [some for some in certified if some]
    common = sorted(set.intersection(*some_certified)) if some_certified else []
    rows = []
    for log, label, some in zip(logs, row_labels(logs), certified, strict=True):
        frame = log.frame.set_index("idx")
        correct = (frame["correct"] == 1) & (frame["radius"] > 0)
        axes = frame["proxy_volume"].astype(float).where(correct, 0.0)
        volumes = frame.loc[common, "log_volume"].astype(float) if some else pd.Series(dtype=float)
        rows.append(
            {
                "sigma": label.sigma,
                "method": label.method,
                "AMCR": average_certified_radius(log.frame),
                "axis": float(axes.mean(skipna=False)),
                "log-volume": float(volumes.mean(skipna=False)),
                "common": len(common) if some else 0,
                "larger (%)": percentage(_larger(log, logs[0])),
                "draws": float(frame["n_used"].astype(float).mean(skipna=False)),
                "guarantee": label.guarantee,
                "certificate": label.certificate,
            }
        )
    return pd.DataFrame(rows)


def region_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """How to read the table."""
    name = row_labels(logs)[0].name
    return [
        "AMCR: mean over all images of the radius of the largest ball inside the certified region. "
        "axis: mean over all images of the geometric mean of the certified region's semi-axes, "
        "wrong and abstained images counting 0. log-volume: mean over the 'common' images, which "
        "all logs certify; a log that certifies no image at all is left out. Both are of the whole "
        "region, an ellipsoid where the certificate has one. draws: mean certifying draws of "
        "an image.",
        f"larger: share of the images certified by the log and by the first one ({name}) whose "
        f"axis is at least {AXIS} times the first's and whose radius is at least {INSCRIBED} times "
        "the first's. Rows with another guarantee than the first's are compared all the same.",
        *early_caveats(logs, "AMCR, axis and log-volume"),
        *([] if all(map(_took_all_draws, logs)) else [EARLY]),
    ]


def _took_all_draws(log: LoadedLog) -> bool:
    return bool(log.run["identity"].get("stopping") == "full")


def _larger(log: LoadedLog, first: LoadedLog) -> float:
    try:
        return compare_ellipsoids(log, first).larger
    except ConcertError:  # no image in common
        return float(np.nan)

"""Is a certified ellipsoid worth more than the baseline's ball? Image by image, from two logs.

    python -m concert.evaluation.ellipsoids LOG BASELINE [--out FILE]

The geometric mean of the semi-axes (the proxy volume, Eq. 11) and the radius of the largest
inscribed ball of LOG are compared with the baseline's on images that both logs have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from concert.errors import ConcertError
from concert.records.reading import LoadedLog, read_log
from concert.tool import as_json, run_tool

AXIS: Final = 1.15
INSCRIBED: Final = 0.9


@dataclass(frozen=True)
class EllipsoidComparison:
    """Over images that both logs have; a wrong or abstained image counts 0, as in AMCR.

    radius, baseline_radius: mean inscribed and baseline radius. axis: mean geometric-mean
    semi-axis. log_volume, baseline_log_volume: mean over images that both certify correctly.
    certified: those images. larger: the share of them whose geometric-mean axis is at least 1.15
    times the baseline's (its radius, where it is a ball) while the inscribed radius is at least 0.9
    times the baseline's.
    """

    images: int
    certified: int
    radius: float
    axis: float
    baseline_radius: float
    log_volume: float
    baseline_log_volume: float
    larger: float


def compare_ellipsoids(log: LoadedLog, baseline: LoadedLog) -> EllipsoidComparison:
    """The comparison of a log with a baseline's; ConcertError where they share no images."""
    both = log.frame.merge(baseline.frame, on="idx", suffixes=("", "_base"))
    if both.empty:
        raise ConcertError(f"{log.path} and {baseline.path} have no image in common")
    if not bool((both["label"] == both["label_base"]).all()):
        raise ConcertError(
            f"{log.path} and {baseline.path} disagree about true classes: give logs of one data set"
        )
    right, right_base = (both[name] == 1 for name in ("correct", "correct_base"))
    certified = both[right & right_base & (both["radius"] > 0) & (both["radius_base"] > 0)]
    larger = (certified["proxy_volume"] >= AXIS * certified["proxy_volume_base"]) & (
        certified["radius"] >= INSCRIBED * certified["radius_base"]
    )
    some = len(certified) > 0
    known = bool(certified[["proxy_volume", "proxy_volume_base"]].notna().all(axis=None))
    return EllipsoidComparison(
        images=len(both),
        certified=len(certified),
        radius=float((both["radius"] * right).mean()),
        axis=float((both["proxy_volume"] * right).mean()),
        baseline_radius=float((both["radius_base"] * right_base).mean()),
        log_volume=float(certified["log_volume"].mean()) if some else np.nan,
        baseline_log_volume=float(certified["log_volume_base"].mean()) if some else np.nan,
        larger=float(larger.mean()) if some and known else np.nan,
    )


def main(log: Path, baseline: Path, out: Path | None = None) -> str:
    """The comparison as JSON, also written to `out`."""
    result = compare_ellipsoids(read_log(log), read_log(baseline))
    return as_json({"log": str(log), "baseline": str(baseline), **asdict(result)}, out)


if __name__ == "__main__":
    run_tool(main)

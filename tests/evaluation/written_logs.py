"""Certification logs with given outcomes, written and read as users' logs are, and frames alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from concert.certificates import Guarantee
from concert.records.log import CertificationLog
from concert.records.reading import LoadedLog, read_log
from concert.records.record import Certification

Outcome = tuple[int, int, float]


def frame(*rows: Outcome, first: int = 0) -> pd.DataFrame:
    """The frame of a log of (true label, prediction, radius), its images numbered from `first`."""
    return pd.DataFrame(
        {
            "idx": range(first, first + len(rows)),
            "label": [row[0] for row in rows],
            "predict": [row[1] for row in rows],
            "radius": [row[2] for row in rows],
            "correct": [int(row[0] == row[1]) for row in rows],
        }
    )


def log_maker(tmp_path: Path) -> Callable[..., LoadedLog]:
    """`make_log` for logs in folders of `tmp_path`."""

    def make(
        outcomes: Sequence[Outcome],
        name: str = "run",
        guarantees: Sequence[Guarantee] = (Guarantee.DEPLOYED,),
        identity: dict[str, Any] | None = None,
        **info: Any,
    ) -> LoadedLog:
        path = tmp_path / name / "certify.tsv"
        with CertificationLog.open(path, identity or {}, info) as log:
            for index, (true_label, label, radius) in enumerate(outcomes):
                certification = Certification(
                    label=label,
                    radius=radius,
                    p_lower=0.9,
                    guarantee=guarantees[index % len(guarantees)],
                    certificate="isotropic",
                    axes=None,
                    proxy_volume=radius,
                    log_volume=-1.0,
                    n_used=1000,
                    votes=(1000,),
                    seed=0,
                    index=index,
                    candidate=0,
                    sigma_min=0.25 + index / 64,
                    sigma_geomean=0.5,
                    sigma_max=1.0,
                    reason="",
                )
                log.append(certification, true_label, seconds=0.5 * (index + 1))
        return read_log(path)

    return make

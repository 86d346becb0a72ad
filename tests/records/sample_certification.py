"""A certification to write and read, with what a test is about changed."""

from __future__ import annotations

from typing import Any

from concert.certificates import Guarantee
from concert.records.record import Certification


def certification(index: int = 17, **changes: Any) -> Certification:
    values: dict[str, Any] = {
        "label": 3,
        "radius": 0.5,
        "p_lower": 0.97,
        "guarantee": Guarantee.DEPLOYED,
        "certificate": "isotropic",
        "axes": None,
        "proxy_volume": 0.5,
        "log_volume": -12.0,
        "n_used": 100,
        "votes": (0, 1, 0, 99),
        "seed": 7,
        "index": index,
        "candidate": 3,
        "sigma_min": 0.25,
        "sigma_geomean": 0.25,
        "sigma_max": 0.25,
        "reason": "",
    }
    return Certification(**{**values, **changes})

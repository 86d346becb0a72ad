"""Two recipes on digits and a specification of both, for the tests of comparisons."""

from __future__ import annotations

from pathlib import Path

import yaml

COHEN = {
    "data": {"name": "digits", "subset": "first:128"},
    "noise": {"kind": "isotropic", "sigma": 0.25},
    "objective": {"name": "gaussian", "m": 1},
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.05},
}
CONCERT = COHEN | {
    "noise": {"kind": "generated", "generator": "coarse"},
    "objective": {"name": "concert", "m": 2, "start_epoch": 1},
}
SPEC = {
    "runs": [
        {"recipe": "cohen.yaml"},
        {
            "recipe": "concert.yaml",
            "name": "beta-0",
            "set": {"objective.beta": 0},
            "groups": ["beta"],
        },
    ],
    "set": {"training.lr": 0.02},
    "certify": {"subset": "first:4", "n": 200, "n0": 16},
    "jobs": 2,
    "threads": 1,
}


def change(folder: Path, **parts: object) -> None:
    """Write the specification again, with other parts."""
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC | parts))

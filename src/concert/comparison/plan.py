"""What a comparison does: its runs, the attacks on them, and the arguments of their commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from concert.recipes.config import Recipe


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, checked: its recipe with all settings, and its commands' arguments.

    groups: the figures that it is in. gradient_variance: whether Eq. 12's is measured. data, split:
    of the images that are certified. trust: whether code of the user's own is imported.
    """

    name: str
    folder: Path
    recipe: Recipe
    train: list[str]
    certify: list[str]
    groups: tuple[str, ...] = ()
    gradient_variance: bool = False
    data: str = ""
    split: str = "test"
    trust: bool = False


def attack_folder(run: PlannedRun, name: str) -> Path:
    """Where the attack of this name on a run is."""
    return run.folder / f"attack-{name}"


@dataclass(frozen=True)
class PlannedAttack:
    """An attack on one run, and the certification of its images."""

    run: PlannedRun
    attack: list[str]
    certify: list[str]


@dataclass(frozen=True)
class AttackPlan:
    """The same attack on several runs, each through its own model.

    first: the run whose certified accuracy is compared with that of each other; "" for none.
    taus: largest l2 norms of the tables' subsets; None for the paper's.
    """

    name: str
    members: list[PlannedAttack]
    first: str = ""
    taus: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Comparison:
    """A specification, checked.

    jobs: processes side by side, each with so many threads. first: the names of the runs that those
    of the same figures are compared with, image by image.
    """

    runs: list[PlannedRun]
    jobs: int = 1
    threads: int = 1
    attacks: tuple[AttackPlan, ...] = ()
    first: tuple[str, ...] = ()

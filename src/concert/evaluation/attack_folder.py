"""The folder of an attack, read for what is to be found out about it: its settings and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet
from torch import Tensor

from concert.data.floats import ATTACK_FILE, CLEAN, START, attack_description, numbers_of
from concert.errors import ConcertError

# Of an attack's settings, what a finding about it names.
TOLD: Final = ("method", "against", "targets", "arguments", "seed", "weights", "data", "subset")


@dataclass(frozen=True)
class AttackedImages:
    """Images of an attack's folder (B, C, H, W), and their numbers in their data set.

    start: what cAdv made of them before its first step, None of other attacks.
    """

    clean: Tensor
    attacked: Tensor
    start: Tensor | None
    numbers: list[int]


def told_of(attack: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an attack that a finding about it names, as far as they are known."""
    return {name: attack[name] for name in TOLD if name in attack}


def read_attack(folder: Path) -> dict[str, Any]:
    """What an attack's folder says of its settings."""
    described = attack_description(folder).get("identity")
    if not isinstance(described, dict):
        raise ConcertError(f"{folder} has no {ATTACK_FILE} that can be read: restore it")
    return described


def read_images(folder: Path) -> AttackedImages:
    """The images of a folder that `concert attack` finished."""
    files = sorted(folder.glob("*.parquet"))
    if len(files) != 1:
        raise ConcertError(f"{folder} holds no finished attack: give what `concert attack` wrote")
    try:
        known = pyarrow.parquet.read_schema(files[0]).names
        kinds = [name for name in (CLEAN, "image", START) if name != START or name in known]
        table = pyarrow.parquet.read_table(files[0], columns=[*kinds, "index"])
    except (OSError, pyarrow.ArrowException) as error:
        raise ConcertError(f"cannot read {files[0]}: {str(error).splitlines()[0]}") from None
    images = {name: numbers_of(table.column(name), str(files[0])) for name in kinds}
    numbers = table.column("index").to_pylist()
    return AttackedImages(images[CLEAN], images["image"], images.get(START), numbers)

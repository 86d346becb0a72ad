"""Whose a run folder is: that of one recipe, written down before the training begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from concert.errors import ConcertError
from concert.files import write_atomically
from concert.recipes.config import Recipe
from concert.recipes.writing import to_dict, to_yaml

# These may change between the parts of an interrupted run without changing its result's meaning.
FREE: Final = (
    "data.path",
    "training.checkpoint_seconds",
    "training.accelerator",
    "training.devices",
    "training.num_nodes",
)

# What is said of a setting that a recipe does not have.
ABSENT: Final = "nothing given"

# What runs were trained with before these were settings: their config.yaml does not name them.
EARLIER: Final = {"training.nesterov": False}


def claim_folder(recipe: Recipe, out: Path) -> None:
    """Write config.yaml, or check that the run that is there has the same recipe."""
    file = out / "config.yaml"
    if not file.is_file():
        if out.is_dir() and (out / "checkpoints").is_dir():
            raise ConcertError(f"{out} has checkpoints but no config.yaml: choose another --out")
        write_atomically(file, to_yaml(recipe))
        return
    check_claim(recipe, out)


def check_claim(recipe: Recipe, out: Path) -> None:
    """Refuse `recipe` if `out` holds a run of another one; writes nothing."""
    file = out / "config.yaml"
    if not file.is_file():
        return
    try:
        there = _flatten(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, AttributeError, ValueError):
        raise ConcertError(f"{file} is damaged: restore it or choose another --out") from None
    here = _flatten(to_dict(recipe))
    for name in sorted(there.keys() | here.keys()):
        # Without a value is not the same as null, of an argument that may be null.
        missing = EARLIER.get(name, ABSENT)
        was, wanted = there.get(name, missing), here.get(name, missing)
        if name not in FREE and was != wanted:
            raise ConcertError(
                f"{out} holds a run with {name} = {was}, this recipe has {wanted}: "
                "choose another --out"
            )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

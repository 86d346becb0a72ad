"""A recipe as plain values and as YAML."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from concert.recipes.config import Recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values only, without the settings left at None; arguments of classes as given."""
    result: dict[str, Any] = _plain(recipe)
    return result


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        given = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return {name: _plain(item) for name, item in given.items() if item is not None}
    return value.as_posix() if isinstance(value, Path) else copy.deepcopy(value)


def to_yaml(recipe: Recipe) -> str:
    """The recipe as it is written into a run folder."""
    return yaml.safe_dump(to_dict(recipe), sort_keys=False)

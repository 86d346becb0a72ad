"""The colorizer whose entropy maps belong to a run."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from concert.colorization import build_colorizer
from concert.colorization.compact import SHIPPED
from concert.runs import CONFIG, model_folder

log = logging.getLogger(__name__)


def colorizer_of(
    run: Path, name: str = "", arguments: Mapping[str, Any] | None = None, trust: bool = False
) -> tuple[nn.Module, str]:
    """A colorizer and its name: the one given, or else that of the run's recipe.

    A run without a recipe has the shipped one. A warning is logged if the run was trained with
    maps of another colorizer. `arguments` and `trust` as for `build_colorizer`.
    """
    folder = model_folder(run)
    recipe: dict[str, Any] = {}
    if not name:
        with contextlib.suppress(OSError, yaml.YAMLError, TypeError, ValueError):
            recipe = dict(yaml.safe_load((folder.parent / "config.yaml").read_text()))
        name = str(recipe.get("colorizer") or SHIPPED)
        arguments = arguments or recipe.get("colorizer_args")
    colorizer = build_colorizer(name, arguments, trust)
    trained_with = json.loads((folder / CONFIG).read_text()).get("trained_on", {}).get("colorizer")
    if trained_with not in (None, colorizer.fingerprint):
        log.warning(
            "%s was trained with the entropy maps of another colorizer than '%s': the map shown is "
            "not the one it learned from",
            run,
            name,
        )
    return colorizer, name

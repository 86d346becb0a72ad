"""What is compared: a YAML file with the runs, and the settings that all of them share.

runs:
  - {recipe: mnist/cohen-0.25-cpu}
  - {recipe: mnist/concert-0.25-cpu, name: no-penalty, set: {objective.beta: 0}, groups: [beta]}
set: {training.epochs: 12}          settings of every training, as its flags
certify: {n: 100000, subset: "first:500"}
jobs: 2
threads: 1
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from concert.commands.certify import parser as certify_parser
from concert.commands.train import parser as train_parser
from concert.commands.train import recipe_of
from concert.config import Recipe
from concert.errors import ConcertError, nearest
from concert.recipes import find_recipe, find_spec
from concert.training import check_claim

PARTS = ("runs", "set", "certify", "jobs", "threads")
RUN_PARTS = ("recipe", "name", "set", "certify", "groups", "gradient_variance")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, checked: its recipe with all settings, and its commands' arguments.

    groups: the figures that it is in. gradient_variance: whether Eq. 12's is measured.
    """

    name: str
    folder: Path
    recipe: Recipe
    train: list[str]
    certify: list[str]
    groups: tuple[str, ...] = ()
    gradient_variance: bool = False


@dataclass(frozen=True)
class Comparison:
    """A specification, checked. jobs: processes side by side, each with so many threads."""

    runs: list[PlannedRun]
    jobs: int = 1
    threads: int = 1
    notes: list[str] = field(default_factory=list)


def read_spec(name: str, out: Path, data_path: Path | None = None) -> Comparison:
    """Read and check a specification, by path or by the name of a shipped one.

    `data_path`: the folder of the data, for all runs. Raises ConcertError before anything is
    written, also where `out` holds a run of another recipe.
    """
    file = find_spec(name)
    try:
        text = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConcertError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
    if not isinstance(text, dict) or not isinstance(text.get("runs"), list) or not text["runs"]:
        raise ConcertError(f"{file} must have a list 'runs' of recipes")
    _known(file, text, PARTS)
    whole = {"jobs": text.get("jobs", 1), "threads": text.get("threads", 1)}
    for key, value in whole.items():
        if not isinstance(value, int) or value < 1:
            raise ConcertError(f"{file}: {key} must be a whole number, at least 1, got {value}")
    runs = [_plan(file, entry, text, out, data_path) for entry in text["runs"]]
    names = [run.name for run in runs]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice:
        raise ConcertError(f"{file}: two runs are called '{twice}': give one of them a 'name'")
    return Comparison(runs, **whole)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as flags of the command line: {"a.b": [1, 2]} is ["--a.b=[1, 2]"]."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    ]


def _plan(
    file: Path, entry: Any, common: Mapping[str, Any], out: Path, data_path: Path | None
) -> PlannedRun:
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
        raise ConcertError(f"{file}: each of 'runs' needs a 'recipe', got {entry}")
    _known(file, entry, RUN_PARTS)
    recipe_file = find_recipe(entry["recipe"])
    name = str(entry.get("name") or recipe_file.stem)
    if "/" in name or name.startswith("."):
        raise ConcertError(f"{file}: '{name}' cannot be the name of a folder: choose another name")
    folder = out / name
    data = {} if data_path is None else {"data.path": str(data_path)}
    settings = {**(common.get("set") or {}), **(entry.get("set") or {}), **data}
    train = ["--config", str(recipe_file), "--out", str(folder), *flags(settings)]
    settings = {**(common.get("certify") or {}), **(entry.get("certify") or {}), **data}
    certify = [str(folder), "--log", str(folder / "certify.tsv"), *flags(settings)]
    try:
        parser = train_parser()
        recipe = recipe_of(parser.instantiate(parser.parse_args(train)))
        certify_parser().parse_args(certify)
    except ConcertError as error:
        raise ConcertError(f"{file}, run {name}: {error}") from None
    check_claim(recipe, folder)
    return PlannedRun(
        name,
        folder,
        recipe,
        ["train", *train],
        ["certify", *certify],
        tuple(entry.get("groups") or ()),
        bool(entry.get("gradient_variance", False)),
    )


def _known(file: Path, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ConcertError(f"{file}: {nearest('key', str(key), known)}")

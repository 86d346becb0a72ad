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
import re
from argparse import _StoreTrueAction
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from concert.building import check_noise_settings
from concert.commands.certify import parser as certify_parser
from concert.commands.train import parser as train_parser
from concert.commands.train import recipe_of
from concert.comparison.checks import check_log, check_settings
from concert.comparison.products import LOG
from concert.config import Recipe
from concert.errors import ConcertError, nearest
from concert.parsers import Parser
from concert.recipes import find_recipe, find_spec, recipes_folder
from concert.training import check_claim

PARTS: Final = ("runs", "set", "certify", "jobs", "threads")
RUN_PARTS: Final = ("recipe", "name", "set", "certify", "groups", "gradient_variance")
# The folder of the report, beside those of the runs.
REPORT: Final = "report"
# Flags that say where a run is, which is for the comparison to say.
RESERVED: Final = {"set": ("config", "out"), "certify": ("run", "log")}
EXAMPLES: Final = {"set": "{training.epochs: 12}", "certify": "{n: 10000}"}
SAFE_NAME: Final = re.compile(r"\w[\w .=+-]*")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, checked: its recipe with all settings, and its commands' arguments.

    groups: the figures that it is in. gradient_variance: whether Eq. 12's is measured. data: the
    name of the data that are certified. trust: whether code of the user's own is imported.
    """

    name: str
    folder: Path
    recipe: Recipe
    train: list[str]
    certify: list[str]
    groups: tuple[str, ...] = ()
    gradient_variance: bool = False
    data: str = ""
    trust: bool = False


@dataclass(frozen=True)
class Comparison:
    """A specification, checked. jobs: processes side by side, each with so many threads."""

    runs: list[PlannedRun]
    jobs: int = 1
    threads: int = 1


def read_spec(name: str, out: Path, data_path: Path | None = None) -> Comparison:
    """Read and check a specification, by path or by the name of a shipped one.

    `data_path`: the folder of the data, for all runs. Raises ConcertError before anything is
    written, also where `out` holds a run of another recipe or a log of other settings.
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
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConcertError(f"{file}: {key} must be a whole number, at least 1, got {value}")
    runs = [_plan(file, entry, text, out, data_path) for entry in text["runs"]]
    names = [run.name for run in runs]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice:
        raise ConcertError(f"{file}: two runs are called '{twice}': give one of them a 'name'")
    other = next((run for run in runs if run.data != runs[0].data), None)
    if other:
        raise ConcertError(
            f"{file}: runs {runs[0].name} of {runs[0].data} and {other.name} of {other.data} do "
            "not go into one table: write a specification for each data set"
        )
    return Comparison(runs, **whole)


def default_out(name: str) -> Path:
    """The folder of a comparison's runs: runs/compare/mnist for a shipped one, runs/STEM else."""
    file, shipped = find_spec(name).resolve(), recipes_folder().resolve()
    inside = file.is_relative_to(shipped)
    return Path("runs") / (file.relative_to(shipped).with_suffix("") if inside else file.stem)


def flags(settings: Mapping[str, Any], switches: Collection[str] = ()) -> list[str]:
    """Settings as flags of the command line: {"a.b": [1, 2]} is ["--a.b=[1, 2]"].

    `switches`: the flags that take no value; they are given where the setting is true.
    """
    given = []
    for key, value in settings.items():
        if key not in switches:
            said = value if isinstance(value, str) else json.dumps(value, default=str)
            given.append(f"--{key}={said}")
        elif not isinstance(value, bool):
            raise ConcertError(f"'{key}' must be true or false, got {value}")
        elif value:
            given.append(f"--{key}")
    return given


def _plan(
    file: Path, entry: Any, common: Mapping[str, Any], out: Path, data_path: Path | None
) -> PlannedRun:
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
        raise ConcertError(f"{file}: each of 'runs' needs a 'recipe', got {entry}")
    _known(file, entry, RUN_PARTS)
    recipe_file = find_recipe(entry["recipe"])
    name = entry.get("name", recipe_file.stem)
    if not _is_safe(name) or name == REPORT:
        raise ConcertError(f"{file}: '{name}' cannot be the name of a folder: choose another name")
    where, folder = f"{file}, run {name}", out / name
    groups, measured = entry.get("groups") or [], entry.get("gradient_variance", False)
    if not isinstance(groups, list) or not all(map(_is_safe, groups)):
        raise ConcertError(
            f"{where}: groups must be a list of names of files, such as [beta], got {groups}"
        )
    if not isinstance(measured, bool):
        raise ConcertError(f"{where}: gradient_variance must be true or false, got {measured}")
    data = {} if data_path is None else {"data.path": str(data_path)}
    given = {
        part: _settings(file, part, common) | _settings(where, part, entry) | data
        for part in RESERVED
    }
    trainer, certifier = train_parser(), certify_parser()
    try:
        train = [
            "--config",
            str(recipe_file),
            "--out",
            str(folder),
            *flags(given["set"], _switches(trainer)),
        ]
        chosen = flags(given["certify"], _switches(certifier))
        log = folder / LOG
        certify = [str(folder), "--log", str(log), *chosen]
        asked = trainer.instantiate(trainer.parse_args(train))
        recipe = recipe_of(asked)
        options = certifier.instantiate(certifier.parse_args(certify))
        settings = check_settings(recipe, options)
        if not (folder / "config.yaml").is_file():
            # As `concert train` has it: a run that is under way was begun with these settings.
            noise = (name for name in asked.given if name.startswith("noise."))
            check_noise_settings(recipe.noise.kind, (name.split(".")[1] for name in noise))
    except ConcertError as error:
        raise ConcertError(f"{where}: {error}") from None
    check_claim(recipe, folder)
    check_log(log, settings, options)
    return PlannedRun(
        name,
        folder,
        recipe,
        ["train", *train],
        ["certify", *certify],
        tuple(dict.fromkeys(groups)),
        measured,
        options.data.name or recipe.data.name,
        options.trust,
    )


def _settings(where: Path | str, part: str, holder: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that a specification or one of its runs gives as its `part`."""
    given = holder.get(part)
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConcertError(
            f"{where}: '{part}' must be settings with values, such as {EXAMPLES[part]}, got {given}"
        )
    for key in RESERVED[part]:
        if key in given:
            raise ConcertError(
                f"{where}: '{key}' in '{part}' is chosen by the comparison: remove it"
            )
    return given


def _switches(parser: Parser) -> set[str]:
    return {action.dest for action in parser._actions if isinstance(action, _StoreTrueAction)}


def _is_safe(name: object) -> bool:
    return isinstance(name, str) and SAFE_NAME.fullmatch(name) is not None


def _known(file: Path, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise ConcertError(f"{file}: {nearest('key', str(key), known)}")

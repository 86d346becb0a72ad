"""What is compared: a YAML file with the runs, and the settings that all of them share.

runs:
  - {recipe: mnist/cohen-0.25-cpu}
  - {recipe: mnist/concert-0.25-cpu, name: no-penalty, set: {objective.beta: 0}, groups: [beta]}
set: {training.epochs: 12}          settings of every training, as its flags
certify: {n: 100000, subset: "first:500"}
first: [concert-0.25-cpu]           each is compared with the runs of its figure, image by image
attacks: {cadv: {set: {preset: fast}}}    on all runs; see concert.comparison.attack_plans
jobs: 2
threads: 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from concert.commands.train import parser as train_parser
from concert.commands.train import recipe_of
from concert.comparison.attack_plans import plan_attacks
from concert.comparison.checks import check_code, check_log, check_settings
from concert.comparison.given import Part, certification, check_keys, flags, is_safe, settings_of
from concert.comparison.plan import Comparison, PlannedRun
from concert.comparison.products import LOG
from concert.comparison.written import read_yaml
from concert.errors import ConcertError, nearest
from concert.recipes.building import check_noise_settings
from concert.recipes.shipped import find_recipe, find_spec, recipes_folder
from concert.training.run_claim import check_claim

PARTS: Final = ("runs", "set", "certify", "first", "attacks", "jobs", "threads")
RUN_PARTS: Final = ("recipe", "name", "set", "certify", "groups", "gradient_variance")
# The folder of the report, beside those of the runs.
REPORT: Final = "report"
# Where a run is, is for the comparison to say.
FLAGS: Final = {
    "set": Part("{training.epochs: 12}", ("config", "out")),
    "certify": Part("{n: 10000}", ("run", "log")),
}


def read_spec(name: str, out: Path, data_path: Path | None = None) -> Comparison:
    """Read and check a specification, by path or by the name of a shipped one.

    `data_path`: the folder of the data, for all runs. Raises ConcertError before anything is
    written, also where `out` holds a run of another recipe or a log of other settings.
    """
    file = find_spec(name)
    text = read_yaml(file)
    if isinstance(text, dict):
        check_keys(file, text, PARTS)
    if not isinstance(text, dict) or not isinstance(text.get("runs"), list) or not text["runs"]:
        raise ConcertError(f"{file} must have a list 'runs' of recipes")
    whole = {"jobs": text.get("jobs", 1), "threads": text.get("threads", 1)}
    for key, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConcertError(f"{file}: {key} must be a whole number, at least 1, got {value}")
    runs = [_plan(file, entry, text, out, data_path) for entry in text["runs"]]
    names = [run.name for run in runs]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice:
        raise ConcertError(f"{file}: two runs are called '{twice}': give one of them a 'name'")
    images = [(run.data, run.split) for run in runs]
    other = next((run for run, each in zip(runs, images, strict=True) if each != images[0]), None)
    if other:
        raise ConcertError(
            f"{file}: runs {runs[0].name} of {' '.join(images[0])} images and {other.name} of "
            f"{other.data} {other.split} images do not go into one table: write a specification "
            "for each"
        )
    first = _first(file, text.get("first"), names)
    attacks = plan_attacks(file, text.get("attacks"), runs, data_path)
    return Comparison(runs, **whole, attacks=attacks, first=first)


def _first(file: Path, given: Any, names: list[str]) -> tuple[str, ...]:
    """The runs that others are compared with: one name or a list of them."""
    asked = [] if given is None else given if isinstance(given, list) else [given]
    for name in asked:
        if name not in names:
            raise ConcertError(f"{file}: first: {nearest('run', str(name), names)}")
    return tuple(dict.fromkeys(asked))


def default_out(name: str) -> Path:
    """The folder of a comparison's runs: runs/compare/mnist for a shipped one, runs/STEM else."""
    file, shipped = find_spec(name).resolve(), recipes_folder().resolve()
    inside = file.is_relative_to(shipped)
    return Path("runs") / (file.relative_to(shipped).with_suffix("") if inside else file.stem)


@dataclass(frozen=True)
class _Entry:
    """One of a specification's runs as it is written there, each part of the right form."""

    recipe: Path
    name: str
    groups: tuple[str, ...]
    gradient_variance: bool
    given: Mapping[str, Any]


def _entry(file: Path, entry: Any) -> _Entry:
    if isinstance(entry, str):
        entry = {"recipe": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("recipe"), str):
        raise ConcertError(f"{file}: each of 'runs' needs a 'recipe', got {entry}")
    check_keys(file, entry, RUN_PARTS)
    try:
        recipe = find_recipe(entry["recipe"])
    except ConcertError as error:
        raise ConcertError(f"{file}: {error}") from None
    name = entry.get("name", recipe.stem)
    if not is_safe(name) or name == REPORT:
        raise ConcertError(f"{file}: '{name}' cannot be the name of a folder: choose another name")
    groups, measured = entry.get("groups") or [], entry.get("gradient_variance", False)
    if not isinstance(groups, list) or not all(map(is_safe, groups)):
        raise ConcertError(
            f"{file}, run {name}: groups must be a list of names of files, such as [beta], got "
            f"{groups}"
        )
    if not isinstance(measured, bool):
        raise ConcertError(
            f"{file}, run {name}: gradient_variance must be true or false, got {measured}"
        )
    return _Entry(recipe, name, tuple(dict.fromkeys(groups)), measured, entry)


def _plan(
    file: Path, entry: Any, common: Mapping[str, Any], out: Path, data_path: Path | None
) -> PlannedRun:
    """One run, its commands checked as they would check themselves."""
    written = _entry(file, entry)
    where, folder = f"{file}, run {written.name}", out / written.name
    data = {} if data_path is None else {"data.path": str(data_path)}
    given = {
        key: settings_of(file, key, part, common)
        | settings_of(where, key, part, written.given)
        | data
        for key, part in FLAGS.items()
    }
    trainer = train_parser()
    try:
        train = ["--config", str(written.recipe), "--out", str(folder)]
        train += flags(given["set"], trainer)
        log = folder / LOG
        certify, options = certification(folder, log, given["certify"])
        asked = trainer.instantiate(trainer.parse_args(train))
        recipe = recipe_of(asked)
        settings = check_settings(recipe, options)
        if not (folder / "config.yaml").is_file():
            # As `concert train` has it: a run that is under way was begun with these settings.
            noise = (name for name in asked.given if name.startswith("noise."))
            check_noise_settings(recipe.noise.kind, (name.split(".")[1] for name in noise))
        check_claim(recipe, folder)
        check_code(folder, options.trust)
        check_log(log, settings, options)
    except ConcertError as error:
        raise ConcertError(f"{where}: {error}") from None
    return PlannedRun(
        written.name,
        folder,
        recipe,
        ["train", *train],
        ["certify", *certify],
        written.groups,
        written.gradient_variance,
        options.data.name or recipe.data.name,
        settings.split,
        options.trust,
    )

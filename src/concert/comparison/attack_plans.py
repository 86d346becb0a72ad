"""The attacks of a specification, on its runs.

attacks:
  cadv: {set: {preset: fast, subset: "every:8"}, certify: {n: 10000, stopping: "grid:0"}}
  strong: {runs: [cohen, concert], first: concert, set: {method: shadow}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from concert.commands.attack import parser as attack_parser
from concert.commands.attack import settings_of as attack_settings_of
from concert.comparison.checks import (
    check_attack,
    check_attack_folder,
    check_log,
    check_settings,
)
from concert.comparison.given import Part, certification, check_keys, flags, is_safe, settings_of
from concert.comparison.plan import AttackPlan, PlannedAttack, PlannedRun, attack_folder
from concert.comparison.products import LOG
from concert.errors import ConcertError, nearest
from concert.evaluation.attack_table import checked_taus
from concert.recipes.config import DataSettings
from concert.sampling.sampler import SamplingSettings

ATTACK_PARTS: Final = ("runs", "first", "taus", "set", "certify")
# Where the attacked images are, is for the comparison to say.
FLAGS: Final = {
    "set": Part("{preset: fast}", ("run", "out")),
    "certify": Part("{n: 10000}", ("run", "log", "data.name", "data.path", "split")),
}


def plan_attacks(
    file: Path, given: Any, runs: Sequence[PlannedRun], data_path: Path | None
) -> tuple[AttackPlan, ...]:
    """The attacks that a specification gives under `attacks`, each checked as its command would.

    Raises ConcertError also where a folder holds another attack or a log of other settings.
    """
    if given is None:
        return ()
    if not isinstance(given, dict):
        raise ConcertError(
            f"{file}: 'attacks' must be names with settings, such as "
            f"{{cadv: {{set: {{preset: fast}}}}}}, got {given}"
        )
    return tuple(
        _plan(file, name, {} if entry is None else entry, runs, data_path)
        for name, entry in given.items()
    )


def _plan(
    file: Path, name: Any, entry: Any, runs: Sequence[PlannedRun], data_path: Path | None
) -> AttackPlan:
    if not is_safe(name) or not isinstance(entry, dict):
        raise ConcertError(
            f"{file}: each of 'attacks' needs a name for its folders, and settings, got "
            f"{name}: {entry}"
        )
    where = f"{file}, attack {name}"
    check_keys(where, entry, ATTACK_PARTS)
    members = _members(where, entry.get("runs"), runs)
    first = entry.get("first") or ""
    if first and first not in [run.name for run in members]:
        raise ConcertError(f"{where}: first: {nearest('run', str(first), _names(members))}")
    chosen = {part: settings_of(where, part, FLAGS[part], entry) for part in FLAGS}
    path = {} if data_path is None else {"data.path": str(data_path)}
    asked = {"method": name} | chosen["set"] | path
    data = {asked.get("data.name") or run.recipe.data.name for run in members}
    if len(data) > 1:
        raise ConcertError(
            f"{where}: its runs are of {' and '.join(sorted(data))}, which do not go into one "
            "table: name the 'runs', or give 'data.name' in 'set'"
        )
    try:
        planned = [_attack_on(run, name, asked, chosen["certify"]) for run in members]
    except ConcertError as error:
        raise ConcertError(f"{where}: {error}") from None
    return AttackPlan(name, planned, first, _taus(where, entry.get("taus")))


def _members(where: str, given: Any, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that are attacked: all, or those named."""
    if given is None:
        return list(runs)
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise ConcertError(f"{where}: runs must be a list of names of runs, got {given}")
    by_name = {run.name: run for run in runs}
    for name in given:
        if name not in by_name:
            raise ConcertError(f"{where}: {nearest('run', str(name), _names(runs))}")
    return [by_name[name] for name in dict.fromkeys(given)]


def _taus(where: str, given: Any) -> tuple[float, ...] | None:
    if given is None:
        return None
    numbers = isinstance(given, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in given
    )
    try:
        if not given or not numbers:
            raise ConcertError(f"taus must be a list of numbers, got {given}")
        checked_taus(given)
    except (ConcertError, OverflowError) as error:
        raise ConcertError(f"{where}: {error}") from None
    return tuple(map(float, given))


def _names(runs: Sequence[PlannedRun]) -> list[str]:
    return [run.name for run in runs]


def _attack_on(
    run: PlannedRun, name: str, asked: Mapping[str, Any], certify: Mapping[str, Any]
) -> PlannedAttack:
    folder = attack_folder(run, name)
    trust = {"trust": True} if run.trust else {}
    attacker = attack_parser()
    attack = [str(run.folder), "--out", str(folder), *flags({**asked, **trust}, attacker)]
    given = attacker.instantiate(attacker.parse_args(attack))
    settings = attack_settings_of(given)
    trained = run.recipe.data
    data_name = given.data.name or trained.name
    size = given.data.size or (trained.size if data_name == trained.name else None)
    check_attack(settings, DataSettings(data_name, size=size))
    SamplingSettings(given.batch_size, given.vote_margin, given.workers)
    check_attack_folder(folder, settings, data_name, run.folder)
    same = {key: asked[key] for key in ("data.name", "split") if key in asked}
    images = {"data.path": str(folder)} | same
    log = folder / LOG
    arguments, options = certification(run.folder, log, {**certify, **images, **trust})
    check_log(log, check_settings(run.recipe, options), options)
    return PlannedAttack(run, ["attack", *attack], ["certify", *arguments])

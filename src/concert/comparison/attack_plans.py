"""The attacks of a specification, on its runs.

attacks:
  cadv: {set: {preset: fast, subset: "every:8"}, certify: {n: 10000, stopping: "grid:0"}}
  strong: {runs: [cohen, concert], first: concert, set: {method: shadow}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from concert.attacks.settings import AttackSettings
from concert.commands.attack import parser as attack_parser
from concert.commands.attack import settings_of as attack_settings_of
from concert.commands.certify import parser as certify_parser
from concert.comparison.checks import check_log, check_settings, check_subset_rule
from concert.comparison.given import check_keys, flags, is_safe, settings_of
from concert.comparison.plan import AttackPlan, PlannedAttack, PlannedRun, attack_folder
from concert.comparison.products import LOG, read_attack
from concert.errors import ConcertError, nearest

ATTACK_PARTS: Final = ("runs", "first", "set", "certify")
# Flags that say where the attacked images are, which is for the comparison to say.
RESERVED: Final = {
    "set": ("run", "out"),
    "certify": ("run", "log", "data.name", "data.path", "split"),
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
    return tuple(_plan(file, name, entry or {}, runs, data_path) for name, entry in given.items())


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
    chosen = {part: settings_of(where, part, entry, RESERVED[part]) for part in RESERVED}
    path = {} if data_path is None else {"data.path": str(data_path)}
    asked = {"method": name} | chosen["set"] | path
    try:
        planned = [_attack_on(run, name, asked, chosen["certify"]) for run in members]
    except ConcertError as error:
        raise ConcertError(f"{where}: {error}") from None
    return AttackPlan(name, planned, first)


def _members(where: str, given: Any, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs that are attacked: all, or those named."""
    if given is None:
        return list(runs)
    if not isinstance(given, list) or not given:
        raise ConcertError(f"{where}: runs must be a list of names of runs, got {given}")
    by_name = {run.name: run for run in runs}
    for name in given:
        if name not in by_name:
            raise ConcertError(f"{where}: {nearest('run', str(name), _names(runs))}")
    return [by_name[name] for name in dict.fromkeys(given)]


def _names(runs: Sequence[PlannedRun]) -> list[str]:
    return [run.name for run in runs]


def _attack_on(
    run: PlannedRun, name: str, asked: Mapping[str, Any], certify: Mapping[str, Any]
) -> PlannedAttack:
    folder = attack_folder(run, name)
    trust = {"trust": True} if run.trust else {}
    attacker, certifier = attack_parser(), certify_parser()
    attack = [str(run.folder), "--out", str(folder), *flags({**asked, **trust}, attacker)]
    settings = attack_settings_of(attacker.instantiate(attacker.parse_args(attack)))
    check_subset_rule(settings.subset)
    _check_folder(folder, settings)
    same = {key: asked[key] for key in ("data.name", "split") if key in asked}
    images = {"data.path": str(folder)} | same
    log = folder / LOG
    arguments = [
        str(run.folder),
        "--log",
        str(log),
        *flags({**certify, **images, **trust}, certifier),
    ]
    options = certifier.instantiate(certifier.parse_args(arguments))
    check_log(log, check_settings(run.recipe, options), options)
    return PlannedAttack(run, ["attack", *attack], ["certify", *arguments])


def _check_folder(folder: Path, settings: AttackSettings) -> None:
    """Refuse the folder of an attack with other settings; all else there the attack checks."""
    there = read_attack(folder).get("identity")
    if not isinstance(there, dict):
        return
    for name, value in json.loads(json.dumps(settings.described())).items():
        if there.get(name) != value:
            raise ConcertError(
                f"{folder} was attacked with {name} = {there.get(name)}, this comparison has "
                f"{value}: delete it, or choose another name or --out"
            )

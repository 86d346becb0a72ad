"""What a specification says, checked for its form, and its settings as flags of the commands."""

from __future__ import annotations

import json
import re
from argparse import _StoreTrueAction
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from concert.commands.certify import parser as certify_parser
from concert.errors import ConcertError, nearest
from concert.parsers import Parser

SAFE_NAME: Final = re.compile(r"\w[\w .=+-]*")


@dataclass(frozen=True)
class Part:
    """A part of a specification that gives flags: an example, and flags that it may not give."""

    example: str
    reserved: Collection[str]


def settings_of(
    where: Path | str, name: str, part: Part, holder: Mapping[str, Any]
) -> dict[str, Any]:
    """The flags that `holder`, a specification or a piece of one, gives as the part of a name."""
    given = holder.get(name)
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConcertError(
            f"{where}: '{name}' must be settings with values, such as {part.example}, got {given}"
        )
    for key in part.reserved:
        if key in given:
            raise ConcertError(
                f"{where}: '{key}' in '{name}' is chosen by the comparison: remove it"
            )
    return given


def flags(settings: Mapping[str, Any], parser: Parser) -> list[str]:
    """Settings as flags of a command: {"a.b": [1, 2]} is ["--a.b=[1, 2]"].

    Flags of `parser` that take no value are given where the setting is true.
    """
    switches = {action.dest for action in parser._actions if isinstance(action, _StoreTrueAction)}
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


def certification(run: Path, log: Path, settings: Mapping[str, Any]) -> tuple[list[str], Any]:
    """The arguments of `concert certify` for a run with settings into a log, and them parsed."""
    parser = certify_parser()
    arguments = [str(run), "--log", str(log), *flags(settings, parser)]
    return arguments, parser.instantiate(parser.parse_args(arguments))


def is_safe(name: object) -> bool:
    """Whether this can be the name of a file or folder everywhere."""
    return isinstance(name, str) and SAFE_NAME.fullmatch(name) is not None


def check_keys(where: Path | str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that a specification does not have."""
    for key in given:
        if key not in known:
            raise ConcertError(f"{where}: {nearest('key', str(key), list(known))}")

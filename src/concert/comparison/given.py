"""What a specification says, checked for its form, and its settings as flags of the commands."""

from __future__ import annotations

import json
import re
from argparse import _StoreTrueAction
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from concert.errors import ConcertError, nearest
from concert.parsers import Parser

EXAMPLES: Final = {"set": "{training.epochs: 12}", "certify": "{n: 10000}"}
SAFE_NAME: Final = re.compile(r"\w[\w .=+-]*")


def settings_of(
    where: Path | str, part: str, holder: Mapping[str, Any], reserved: Collection[str]
) -> dict[str, Any]:
    """The flags that a part of a specification, "set" or "certify", gives.

    `reserved`: those that are for the comparison to say.
    """
    given = holder.get(part)
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConcertError(
            f"{where}: '{part}' must be settings with values, such as {EXAMPLES[part]}, got {given}"
        )
    for key in reserved:
        if key in given:
            raise ConcertError(
                f"{where}: '{key}' in '{part}' is chosen by the comparison: remove it"
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


def is_safe(name: object) -> bool:
    """Whether this can be the name of a file or folder everywhere."""
    return isinstance(name, str) and SAFE_NAME.fullmatch(name) is not None


def check_keys(where: Path | str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that a specification does not have."""
    for key in given:
        if key not in known:
            raise ConcertError(f"{where}: {nearest('key', str(key), list(known))}")

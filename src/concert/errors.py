"""The one exception for mistakes in what the user asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

# Exit code of a command that was interrupted and goes on when it is given again.
INTERRUPTED: Final = 130
# More names than these are listed only where none is near.
MOST_NAMES: Final = 20


class ConcertError(Exception):
    """A mistake in the input: one line that says what is wrong and what to change.

    The command-line tool prints the line and exits with code 2; library users may catch it.
    """


class TeamEndedError(ConcertError):
    """Another process of the same job has ended, and has said why."""


def closest(name: str, names: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The name most likely meant: one that goes on after an underscore, else the most similar."""
    longer = [each for each in names if name and each.startswith(f"{name}_")]
    return next(iter(longer + get_close_matches(name, names, n=1, cutoff=cutoff)), None)


def nearest(kind: str, name: str, valid: Iterable[str]) -> str:
    """The message for an unknown `name` of some `kind`, with the nearest valid one."""
    names = sorted(valid)
    close = closest(name, names, cutoff=0.5)
    hint = f": did you mean '{close}'?" if close else "."
    if len(names) > MOST_NAMES and close:
        return f"unknown {kind} '{name}'{hint}"
    return f"unknown {kind} '{name}'{hint} Valid: {', '.join(names)}"

"""`python -m concert.SOMETHING`: small tools beside the commands, with the same one-line errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

from jsonargparse import auto_cli

from concert.errors import ConcertError


def run_tool(main: Callable[..., str]) -> None:
    """Call `main` with the arguments of the command line and print its text; exit 2 on mistakes."""
    try:
        print(auto_cli(main, as_positional=True))
    except ConcertError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

"""`python -m concert.SOMETHING`: small tools beside the commands, with the same one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from concert.errors import ConcertError
from concert.files import write_atomically


def run_tool(main: Callable[..., str]) -> None:
    """Call `main` with the arguments of the command line and print its text; exit 2 on mistakes.

    `--trust` needs no value, as for the commands.
    """
    given, values = sys.argv[1:], ("true", "false", "yes", "no")
    bare = (
        each == "--trust" and (after is None or after.lower() not in values)
        for each, after in zip_longest(given, given[1:])
    )
    arguments = [f"{each}=true" if alone else each for each, alone in zip(given, bare, strict=True)]
    try:
        print(auto_cli(main, as_positional=True, args=arguments))
    except ConcertError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def as_json(found: Mapping[str, Any], out: Path | None) -> str:
    """What a tool found as JSON, also written to the file `out` if one is given."""
    text = json.dumps(found, indent=2)
    if out is not None:
        write_atomically(out, text + "\n")
    return text

"""`concert demo`: train, certify and compare on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concert.console import make_console
from concert.parsers import COMMANDS, Parser


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert demo", description=COMMANDS["demo"])
    made.add_argument("--out", type=Path, default=Path("concert-demo"), help="folder to write")
    made.add_argument("--quick", action="store_true", help="a smoke test: less of everything")
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert demo`"""
    from concert.demo import run_demo

    return run_demo(options.out, options.quick, make_console())

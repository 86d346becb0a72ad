"""`concert report LOG...`: tables and figures from certification logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concert.console import (
    make_console,
)
from concert.evaluation.report import write_report
from concert.log_reading import read_log
from concert.parsers import COMMANDS, Parser


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert report", description=COMMANDS["report"])
    made.add_argument("logs", type=Path, nargs="+", help="certification logs (TSV)")
    made.add_argument("--out", type=Path, default=Path("report"), help="folder to write")
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert report LOG...`"""
    files = write_report([read_log(path) for path in options.logs], options.out)
    console = make_console()
    console.print((options.out / "table.txt").read_text(encoding="utf-8"))
    console.print("written: " + ", ".join(str(file) for file in files))
    return 0

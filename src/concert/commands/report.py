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
    made.add_argument(
        "--taus",
        type=list[float] | None,
        default=None,
        help="of attacked images: largest l2 norms of the subsets, [2,3,...]; default: the paper's",
    )
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert report LOG...`"""
    logs = [read_log(path) for path in options.logs]
    files = write_report(logs, options.out, taus=options.taus)
    console = make_console()
    console.print((options.out / "table.txt").read_text(encoding="utf-8"))
    attacks = options.out / "attacks.txt"
    if attacks in files:
        console.print(attacks.read_text(encoding="utf-8"))
    console.print("written: " + ", ".join(str(file) for file in files))
    return 0

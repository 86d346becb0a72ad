"""`concert report LOG...`: everything that certification logs say, as files and as one page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from concert.commands.logged_images import find_images
from concert.console import make_console
from concert.errors import ConcertError
from concert.evaluation.attacked_log import attacked
from concert.evaluation.explain.gallery import gallery
from concert.evaluation.page.page import PageExtras
from concert.evaluation.report import write_report
from concert.evaluation.tables import require_one_dataset
from concert.import_paths import import_from_here
from concert.parsers import COMMANDS, Parser, data_flags
from concert.records.reading import read_log, run_path


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert report", description=COMMANDS["report"])
    made.add_argument("logs", type=Path, nargs="+", help="certification logs (TSV)")
    made.add_argument("--out", type=Path, default=Path("report"), help="folder to write")
    made.add_argument(
        "--taus",
        type=list[float] | None,
        default=None,
        help="of attacked images: largest l2 norms of the subsets, [2,3,...]; default: the paper's "
        "for cadv and shadow",
    )
    data_flags(made, "the data of the runs, for thumbnails, if it is at hand")
    made.add_argument(
        "--gallery", type=int, default=0, help="how many images to certify again and explain"
    )
    made.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert report LOG...`"""
    logs = [read_log(path) for path in options.logs]
    require_one_dataset(logs)
    if options.gallery < 0:
        raise ConcertError(f"gallery must not be negative, got {options.gallery}")
    if options.gallery and not any(log.run["identity"] for log in logs):
        missing = run_path(logs[0].path)
        raise ConcertError(
            f"the gallery needs {missing}, which says what model and images the log is about: put "
            "it beside the log, or leave out --gallery"
        )
    if options.taus is not None and not all(map(attacked, logs)):
        raise ConcertError("--taus is for logs of attacked images: leave it out")
    images = find_images(logs, options.data)
    shown = None
    if options.gallery:
        if images is None:
            raise ConcertError("the gallery needs the images: give their folder with --data.path")
        if options.trust:
            import_from_here()
        shown = gallery(logs, images, options.gallery, options.trust)
    extras = PageExtras(images, shown, f"concert {shlex.join(argv)}")
    files = write_report(logs, options.out, taus=options.taus, extras=extras)
    console = make_console()
    console.print((options.out / "table.txt").read_text(encoding="utf-8"))
    attacks = options.out / "attacks.txt"
    if attacks in files:
        console.print(attacks.read_text(encoding="utf-8"))
    console.print("written: " + ", ".join(str(file) for file in files))
    console.print(f"look at: {options.out / 'report.html'}")
    return 0

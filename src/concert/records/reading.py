"""Reading certification logs: ours, and the six-column logs of other projects.

A log is a TSV with a row per image (schema in `concert.records.record`) and a JSON file beside
it with what is the same for all rows: {"schema": 1, "identity": {...}, "info": {...}}.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.records.record import COHEN_COLUMNS, COLUMNS, parse_cells

log = logging.getLogger(__name__)

SCHEMA: Final = 1
HEADER: Final = "\t".join(COLUMNS).encode()
_ABSENT_TEXTS: Final = {
    "votes": "",
    "guarantee": Guarantee.UNKNOWN.value,
    "certificate": "",
    "reason": "",
}


@dataclass(frozen=True)
class LoadedLog:
    """A log in memory.

    frame: the columns of `concert.records.record.COLUMNS`, a row per image in the file's order.
    run: the content of the JSON file, with an empty "identity" and "info" where there is none.
    path: the TSV file.
    """

    frame: pd.DataFrame
    run: dict[str, Any]
    path: Path

    def guarantee_sentence(self, guarantee: Guarantee) -> str:
        """What its certificate guarantees as its log says, or all such guarantees."""
        return str(self.run["info"].get("guarantee_sentence", guarantee.sentence))


def read_log(path: Path | str) -> LoadedLog:
    """Read a log of ours, or a six-column log of another project (Cohen's scripts and their heirs).

    In `frame`, `time` is in seconds and votes are sparse text; what a log of another project lacks
    is NaN for numbers, "" for texts and "unknown" for the guarantee; columns that we do not know
    are left out. Raises ConcertError if the file is missing, empty, damaged, cut off or not a log.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise ConcertError(f"{path} is a folder: give the log in it, such as certify.tsv") from None
    except OSError as error:
        raise ConcertError(f"cannot read {path}: {error.strerror}") from error
    if not content.strip():
        raise ConcertError(f"{path} is empty: give a certification log")
    ours = content.startswith(HEADER)
    lines, torn = complete_lines(content.replace(b"\r\n", b"\n"), ours)
    header = lines[0].decode("utf-8-sig", errors="replace").split("\t") if lines else []
    missing = [name for name in COHEN_COLUMNS if name not in header]
    if missing:
        raise ConcertError(
            f"{path} is not a certification log: its first line has no column {', '.join(missing)}"
        )
    if torn:
        raise ConcertError(
            f"{path} ends within a line: give the `concert certify` that wrote it again, which "
            "goes on from the last whole line, or delete that line"
        )
    rows = parse_rows(path, lines, header)
    if not rows:
        raise ConcertError(f"{path} has no rows yet: certify at least one image")
    columns = {
        name: [row[name] for row in rows] if name in rows[0] else _ABSENT_TEXTS.get(name, math.nan)
        for name in COLUMNS
    }
    frame = pd.DataFrame(columns).astype(dict.fromkeys(_ABSENT_TEXTS, str))
    return LoadedLog(frame, _run_beside(path, ours), path)


def run_path(path: Path) -> Path:
    """The JSON file beside a log: certify.tsv -> certify.json, sigma_0.25 -> sigma_0.25.json."""
    return path.with_name(path.name.removesuffix(".tsv") + ".json")


def _run_beside(path: Path, ours: bool) -> dict[str, Any]:
    """The description of a log to be read, empty where there is none."""
    try:
        return load_run(run_path(path))
    except FileNotFoundError:
        if ours:
            log.warning("%s: there is no %s, the run is unknown", path, run_path(path).name)
    except ConcertError:
        if ours:
            raise
    return {"schema": SCHEMA, "identity": {}, "info": {}}


def complete_lines(content: bytes, ours: bool) -> tuple[list[bytes], bool]:
    """Lines without a torn last one, and whether there was one.

    A line of ours is whole once its line end is on disk. A log of another project may end without
    one, and is torn only if columns are missing.
    """
    *lines, tail = content.split(b"\n")
    if tail and not ours:
        lines.append(tail)
    torn = bool(tail) and ours
    if len(lines) > 1 and lines[-1].count(b"\t") < lines[0].count(b"\t"):
        lines.pop()
        torn = True
    return lines, torn


def parse_rows(path: Path, lines: Sequence[bytes], header: Sequence[str]) -> list[dict[str, Any]]:
    """The values of every row below the first line, which is the header."""
    rows: list[dict[str, Any]] = []
    line_of: dict[int, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = parse_cells(header, line.decode().split("\t"))
        except ValueError as error:
            raise ConcertError(
                f"{path}, line {number}: {error}: repair or delete that line"
            ) from None
        first = line_of.setdefault(row["idx"], number)
        if first != number:
            raise ConcertError(
                f"{path}, line {number}: image {row['idx']} already stands in line {first}: "
                "delete one of them"
            )
        rows.append(row)
    return rows


def load_run(path: Path) -> dict[str, Any]:
    """The content of the JSON file beside a log; FileNotFoundError if there is none."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConcertError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        run = None
    if not isinstance(run, dict) or not all(
        isinstance(run.get(key), dict) for key in ("identity", "info")
    ):
        raise ConcertError(f"{path} does not describe a certification log: restore or delete it")
    if run.get("schema") != SCHEMA:
        raise ConcertError(
            f"{path} has schema {run.get('schema')}, this version reads {SCHEMA}: "
            "use the version that wrote it"
        )
    return run

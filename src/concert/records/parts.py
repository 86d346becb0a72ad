"""A certification log written by several processes: a part for each, merged into one at the end.

    certify.tsv  certify.part0of4.tsv  certify.part1of4.tsv  ...

A part is a log like any other. Parts that a killed run has left are taken up by the next one,
whatever its number of processes, so that at most the images under way are lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from concert.errors import ConcertError
from concert.records.log import CertificationLog, check_subset, run_to_resume
from concert.records.reading import HEADER, complete_lines, parse_rows, run_path
from concert.records.record import COLUMNS
from concert.team import Team


@contextmanager
def shared_log(
    path: Path,
    identity: Mapping[str, Any],
    info: Mapping[str, Any],
    team: Team,
    images: Sequence[int],
) -> Iterator[tuple[CertificationLog, list[int], int]]:
    """The log that this process is to write, its images of those given, and how many are done.

    One process alone writes the log itself. Several write parts, and the first one appends them to
    the log when all have left the context, in the order of `images`: the rows are those that one
    process would have written. Parts survive an exception. The processes need not share a disk.
    """
    if len(set(team.gather(json.dumps(identity, sort_keys=True)))) > 1:
        raise ConcertError(
            "the processes differ in the model, the data, the settings or the engine: give all of "
            "them the same"
        )
    parts = _rows(path, identity, images)  # refuses other parts before the log is touched
    with ExitStack() as files:
        # The first process holds the log all the time, so that no other command writes it.
        whole = None
        if team.rank == 0:
            whole = files.enter_context(CertificationLog.open(path, identity, info, images))
        logged = set() if whole is None else whole.done
        done = set().union(*team.gather(logged | set(parts)))
        todo = [index for index in images if index not in done]
        counted = len(images) - len(todo)
        if whole is not None and team.size == 1 and not existing_parts(path):
            yield whole, todo, counted
            return
        own = _own_part(path, team)
        part = files.enter_context(CertificationLog.open(own, identity, info, images))
        yield part, todo[team.rank :: team.size], counted
        rows: dict[int, bytes] = {}
        for some in team.gather(_rows(path, identity, images)):
            rows |= some
        if whole is not None:
            for index in images:
                if index in rows and index not in whole.done:
                    whole.append_line(index, rows[index])
        # Nobody deletes a part before its rows are in the log.
        team.gather(None)
    for part_path in existing_parts(path):
        part_path.unlink(missing_ok=True)
        run_path(part_path).unlink(missing_ok=True)


def existing_parts(path: Path) -> list[Path]:
    """The parts of a log on this machine's disk."""
    if not path.parent.is_dir():
        return []
    pattern = re.compile(re.escape(path.name.removesuffix(".tsv")) + r"\.part\d+of\d+\.tsv")
    return sorted(found for found in path.parent.iterdir() if pattern.fullmatch(found.name))


def _own_part(path: Path, team: Team) -> Path:
    stem = path.name.removesuffix(".tsv")
    return path.with_name(f"{stem}.part{team.rank}of{team.size}.tsv")


def _rows(path: Path, identity: Mapping[str, Any], images: Sequence[int]) -> dict[int, bytes]:
    """Image number -> line, of all parts of a log; refuses parts of another run."""
    rows: dict[int, bytes] = {}
    wanted = json.loads(json.dumps(identity))
    for part in existing_parts(path):
        content = part.read_bytes()
        if HEADER.startswith(content):  # killed before its first row
            continue
        run = run_to_resume(part, content, wanted)
        lines, _ = complete_lines(content, ours=True)
        parsed = parse_rows(part, lines, COLUMNS)
        check_subset(part, {row["idx"] for row in parsed}, images, run["identity"], wanted)
        rows |= {row["idx"]: line for row, line in zip(parsed, lines[1:], strict=True)}
    return rows

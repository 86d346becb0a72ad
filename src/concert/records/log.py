"""The certification log on disk: written row by row, resumed after a kill.

`certify.tsv` holds the rows (schema in `concert.records.record`), `certify.json` beside it what is
the same for all rows: {"schema": 1, "identity": {...}, "info": {...}}. The identity is everything
that decides the rows (hashes of weights, noise and data, seed, alpha, n, ...) and must be the same
for a log to be resumed; the info is for people and reports (versions, command, guarantee, notes)
and stays as first written. Only the subset of images may grow: identity's "subset" and info's
"subset_images" then become those of the larger one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from concert.errors import ConcertError
from concert.files import take, write_atomically
from concert.records.reading import HEADER, SCHEMA, complete_lines, load_run, parse_rows, run_path
from concert.records.record import COLUMNS, Certification, format_row

log = logging.getLogger(__name__)

_SHOWN_DIFFERENCES: Final = 3


class CertificationLog:
    """A log open for appending, by one process at a time; a context manager.

    path: the TSV file. run: the content of the JSON file. done: the indices that have a row.
    """

    def __init__(self, path: Path, file: FileIO, run: dict[str, Any], done: set[int]) -> None:
        self.path = path
        self.run = run
        self.done = done
        self._file = file

    @classmethod
    def open(
        cls,
        path: Path | str,
        identity: Mapping[str, Any],
        info: Mapping[str, Any],
        images: Collection[int] | None = None,
    ) -> CertificationLog:
        """Create a log, or resume one that has the same identity.

        `identity` and `info` are JSON values. `images`: the indices of identity's "subset", which
        may differ from that of the log if they hold every index that the log has. A torn last line,
        left by a killed run, is cut off with a warning. Raises ConcertError if the log was made
        with other settings, is damaged, is in use by another process or cannot be written.
        """
        path = Path(path)
        text = json.dumps(
            {"schema": SCHEMA, "identity": identity, "info": info},
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        file = _open_locked(path)
        try:
            content = file.readall()
            if HEADER.startswith(content):  # nothing or a torn header: there is no row to lose
                file.truncate(0)
                write_atomically(run_path(path), f"{text}\n".encode())
                file.write(HEADER + b"\n")
                os.fsync(file.fileno())
                return cls(path, file, json.loads(text), set())
            run = run_to_resume(path, content, json.loads(text)["identity"])
            lines, torn = complete_lines(content, ours=True)
            rows = parse_rows(path, lines, COLUMNS)
            if torn:
                log.warning("%s: cut off a torn last line, left by a killed run", path)
                file.truncate(sum(len(line) + 1 for line in lines))
            done = {row["idx"] for row in rows}
            check_subset(path, done, images, run["identity"], identity)
            if run["identity"].get("subset") != identity.get("subset"):
                run["identity"]["subset"] = identity.get("subset")
                run["info"]["subset_images"] = info.get("subset_images")
                grown = json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False)
                write_atomically(run_path(path), f"{grown}\n".encode())
            return cls(path, file, run, done)
        except OSError as error:
            file.close()
            raise ConcertError(f"cannot write {path}: {error.strerror}") from error
        except BaseException:
            file.close()
            raise

    def append(self, certification: Certification, true_label: int, seconds: float) -> None:
        """Write one row; when this returns, the row survives a kill of the process.

        Raises ValueError for an index that has a row already, ConcertError if the disk is full.
        """
        line = format_row(certification, true_label, seconds).encode()
        self.append_line(certification.index, line)

    def append_line(self, index: int, line: bytes) -> None:
        """As `append`, a row that is written already, without its line end."""
        if index in self.done:
            raise ValueError(f"{self.path} already has a row for image {index}")
        line += b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise ConcertError(f"cannot write {self.path}: {error.strerror}") from error
        self.done.add(index)

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open_locked(path: Path) -> FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a+")
    except OSError as error:
        raise ConcertError(f"cannot write {path}: {error.strerror}") from error
    try:
        take(file, path, "--log")
    except ConcertError:
        file.close()
        raise
    file.seek(0)
    return file


def run_to_resume(path: Path, content: bytes, identity: dict[str, Any]) -> dict[str, Any]:
    """The description of the log at `path`, if it is the run with this identity, but for the
    subset.
    """
    remedy = f"give another --log, or delete {path}"
    if not content.startswith(HEADER + b"\n"):
        raise ConcertError(f"{path} is not a certification log of this version: {remedy}")
    try:
        run = load_run(run_path(path))
    except FileNotFoundError:
        raise ConcertError(
            f"{path} cannot be resumed without {run_path(path).name}: {remedy}"
        ) from None
    there, here = ({**one, "subset": ""} for one in (run["identity"], identity))
    differences = list(_differences(there, here))
    if differences:
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
        more = len(differences) - _SHOWN_DIFFERENCES
        rest = f"; and {more} more" if more > 0 else ""
        raise ConcertError(f"{path} was made with other settings ({shown}{rest}): {remedy}")
    return run


def check_subset(
    path: Path,
    logged: Collection[int],
    images: Collection[int] | None,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
) -> None:
    """Refuse to go on with a log of identity `there` that has rows outside of the images asked."""
    if there.get("subset") == here.get("subset"):
        return
    if images is None or not set(logged) <= set(images):
        raise ConcertError(
            f"{path} has images of subset {there.get('subset')} that {here.get('subset')} does not "
            "have: give another --log, or a subset that holds them all"
        )


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for key in dict.fromkeys([*here, *there]):
        old, new = there.get(key, "absent"), here.get(key, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old}, is {new}"

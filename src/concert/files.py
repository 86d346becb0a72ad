"""Writing files so that a reader, or the next run, never meets half of one, nor two writers."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import uuid
from io import FileIO
from pathlib import Path
from typing import IO, Any

from concert.errors import ConcertError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)


def lock_file(file: IO[Any] | int) -> None:
    """Lock an open file or folder for this process until it is closed; Windows has no such locks.

    Raises BlockingIOError if another process has it, OSError on a file system without locks.
    """
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def take(file: FileIO | int, path: Path, flag: str) -> None:
    """Have an open file or folder for this process alone, until it is closed.

    ConcertError, which advises another `flag`, if another process has it. Nothing is locked where
    the file system, or Windows, has no such locks.
    """
    try:
        lock_file(file)
    except BlockingIOError:
        raise ConcertError(
            f"{path} is in use by another process: wait for it, or give another {flag}"
        ) from None
    except OSError as error:
        log.debug("%s is not locked: %s", path, error)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary one in its folder; an interrupted write leaves no trace."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        with open(name, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise

"""The images that certification logs are about, where they are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from concert.data import ImageSet, load_images
from concert.errors import ConcertError
from concert.evaluation.explain.gallery import run_folder
from concert.records.reading import LoadedLog
from concert.runs import data_of

AT_HAND: Final = "digits"


def find_images(logs: Sequence[LoadedLog], given: Any) -> ImageSet | None:
    """The images by the flags `given`, or those that a log's run was trained on; else None.

    None also for logs of different images, which a page would show in each other's place. Without
    flags the network is never used. Raises ConcertError if images were asked for that are missing
    or not those of the logs.
    """
    asked = bool(given.name or given.path)
    stated = [
        (log, said)
        for log in logs
        if isinstance(said := log.run["identity"].get("data"), dict) and "fingerprint" in said
    ]
    if len({str(said["fingerprint"]) for _, said in stated}) > 1:
        if asked:
            raise ConcertError(
                "the logs are of different images: report them one by one, or leave out --data"
            )
        return None
    for log, said in stated:
        name, split = str(said.get("name")), str(said.get("split"))
        run: Path = run_folder(log) or log.path.resolve().parent
        settings = data_of(run, name, given)
        if not asked and settings.path is None and name != AT_HAND:
            continue
        try:
            images = load_images(settings.name, split, settings.path, settings.size)
        except ConcertError:
            if asked:
                raise
            continue
        if images.fingerprint == said["fingerprint"]:
            return images
        if asked:
            raise ConcertError(
                f"{settings.path or settings.name} does not hold the images of {log.path}: give "
                "their folder with --data.path, and --data.size if they were resized"
            )
    if asked:
        raise ConcertError("no log says which images it is about: leave out --data")
    return None

"""What the steps of a comparison leave in the folder of a run, and the notes of those that ended.

RUN/model/  metrics.csv  certify.{tsv,json}  gradient_variance.json  steps.json
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from concert.errors import ConcertError
from concert.files import write_atomically
from concert.log_reading import load_run
from concert.runs import CONFIG, read_description

NOTE: Final = "steps.json"
LOG: Final = "certify.tsv"
VARIANCE: Final = "gradient_variance.json"


def is_whole(folder: Path, kind: str) -> bool:
    """Whether all that a step makes is there: of "train" the model, of "certify" a row for each
    image, certified with the model that is there, of "variance" the variances.
    """
    if kind == "train":
        return (folder / "model" / CONFIG).is_file()
    if kind == "certify":
        return share_certified(folder) >= 1 and _is_of_this_model(folder)
    return (folder / VARIANCE).is_file()


def share_trained(folder: Path, epochs: int) -> float:
    """The share of a training's epochs that are done."""
    return _rows(folder / "metrics.csv") / epochs


def share_certified(folder: Path) -> float:
    """The share of a certification's images that have a row; 0 without a log or its JSON file."""
    with contextlib.suppress(ConcertError, OSError, ValueError, KeyError, TypeError):
        images = int(load_run((folder / LOG).with_suffix(".json"))["info"]["subset_images"])
        return _rows(folder / LOG) / images
    return 0.0


def read_notes(folder: Path) -> dict[str, list[str]]:
    """The arguments of each step of a run that ended well, by its kind."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def note_done(folder: Path, kind: str, arguments: Sequence[str]) -> None:
    """Note that a step ended well."""
    notes = read_notes(folder) | {kind: list(arguments)}
    write_atomically(folder / NOTE, json.dumps(notes, indent=1) + "\n")


def _is_of_this_model(folder: Path) -> bool:
    try:
        logged = load_run((folder / LOG).with_suffix(".json"))["identity"].get("weights")
        return bool(logged == read_description(folder)[1])
    except (ConcertError, OSError):
        return False


def _rows(file: Path) -> int:
    """Complete lines below the first."""
    try:
        return max(0, file.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0

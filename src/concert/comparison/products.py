"""What the steps of a comparison leave in the folder of a run, and the notes of those that ended.

RUN/model/  metrics.csv  certify.{tsv,json}  steps.json
RUN/prediction_time.json  gradient_variance.json
RUN/attack-NAME/  attack.json  test.parquet  certify.{tsv,json}
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet

from concert.data.floats import attack_description
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.records.reading import load_run
from concert.runs import CONFIG, read_description

NOTE: Final = "steps.json"
LOG: Final = "certify.tsv"
VARIANCE: Final = "gradient_variance.json"
PREDICTION: Final = "prediction_time.json"


def is_whole(folder: Path, kind: str, run: Path) -> bool:
    """Whether all that a step makes in `folder` is there, and made with the model of `run`.

    Of "train" that is the model, of "certify" a row for each image, of "attack" all attacked
    images, of "variance" and "prediction" what was measured.
    """
    if kind == "train":
        return (folder / "model" / CONFIG).is_file()
    if kind == "certify":
        return share_certified(folder) >= 1 and _is_of_model(_logged(folder), run)
    if kind == "attack":
        return share_attacked(folder) >= 1 and _is_of_model(attack_description(folder), run)
    return bool(measured(run, {"variance": VARIANCE, "prediction": PREDICTION}[kind]))


def measured(run: Path, file: str) -> dict[str, Any]:
    """What was measured on the model that is in a run's folder, VARIANCE or PREDICTION; else {}."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = json.loads((run / file).read_text(encoding="utf-8"))
        if _is_of_model({"identity": found}, run):
            return dict(found)
    return {}


def share_trained(folder: Path, epochs: int) -> float:
    """The share of a training's epochs that are done."""
    return _rows(folder / "metrics.csv") / epochs


def share_certified(folder: Path) -> float:
    """The share of a certification's images that have a row; 0 without a log or its JSON file."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        images = int(_logged(folder)["info"]["subset_images"])
        return _rows(folder / LOG) / images
    return 0.0


def share_attacked(folder: Path) -> float:
    """The share of an attack's images that are done; 1 only once they are one data set."""
    described = attack_description(folder)
    if described.get("result") is not None:
        return float(len(list(folder.glob("*.parquet"))) == 1)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        parts = (folder / "parts").glob("*.parquet")
        done = sum(_rows_of_part(part, part.stat().st_mtime_ns) for part in parts)
        images = int(described["info"]["subset_images"])
        return min(done / images, 0.99)
    return 0.0


def weights_of(run: Path) -> str | None:
    """The hash of a run's weights; None while it has no model."""
    try:
        return read_description(run)[1]
    except (ConcertError, OSError):
        return None


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


def _logged(folder: Path) -> dict[str, Any]:
    """What the JSON file beside a log says; {} where there is none that can be read."""
    try:
        return load_run((folder / LOG).with_suffix(".json"))
    except (ConcertError, OSError):
        return {}


def _is_of_model(described: Mapping[str, Any], run: Path) -> bool:
    identity = described.get("identity")
    made_with = identity.get("weights") if isinstance(identity, dict) else None
    return made_with is not None and made_with == weights_of(run)


@functools.cache
def _rows_of_part(part: Path, changed: int) -> int:
    """Rows of a Parquet file; `changed` tells its versions apart."""
    return int(pyarrow.parquet.read_metadata(part).num_rows)


def _rows(file: Path) -> int:
    """Complete lines below the first."""
    try:
        return max(0, file.read_bytes().count(b"\n") - 1)
    except OSError:
        return 0

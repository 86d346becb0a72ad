"""What tables and figures call a certification log.

That stands in its JSON file, "method" and "box" or "sigma" in "info"; where it does not, the log's
folders and file say it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from concert.certificates import Guarantee
from concert.records.reading import LoadedLog

# Between the guarantees or certificates of one row.
JOINT: Final = " + "


@dataclass(frozen=True)
class RowLabel:
    """How a table or a figure calls a log; `sigma` is a number or a box, "" if unknown."""

    sigma: str
    method: str
    guarantee: str
    certificate: str

    @property
    def name(self) -> str:
        """Method and sigma, for a sentence."""
        return f"{self.method}, sigma {self.sigma}" if self.sigma else self.method


def row_labels(logs: Sequence[LoadedLog]) -> list[RowLabel]:
    """A label per log. Where the run does not say, the folder and the file name do.

    Labels that would be the same get the folder's name after the method, where that is the same
    too, the file's, and where that is the same, all of the path that the logs do not share.
    """
    labels = [_row_label(log) for log in logs]
    for name in (_folder, _folder_and_file, lambda log: _where(log, logs)):
        times = Counter(labels)
        labels = [
            label
            if times[label] == 1
            else replace(label, method=f"{_row_label(log).method} ({name(log)})")
            for log, label in zip(logs, labels, strict=True)
        ]
    return labels


def guarantees(frame: pd.DataFrame) -> list[Guarantee]:
    """The guarantees of a log's rows, strongest first."""
    present = set(frame["guarantee"])
    return [guarantee for guarantee in Guarantee if guarantee.value in present]


def _row_label(log: LoadedLog) -> RowLabel:
    fallback = _folder(log) if _file(log) == "certify" else _folder_and_file(log)
    info = log.run["info"]
    sigma = str(info.get("box") or info.get("sigma") or "")
    if not sigma:
        # The field's own spelling: noise_0.25/test/sigma_0.25.
        spelled = re.findall(r"(?:sigma|noise)_(\d+(?:\.\d+)?)", log.path.as_posix())
        sigma = spelled[-1] if spelled else ""
    certificates = sorted(set(log.frame["certificate"]) - {""})
    return RowLabel(
        sigma=sigma,
        method=str(info.get("method") or fallback),
        guarantee=JOINT.join(guarantee.value for guarantee in guarantees(log.frame)),
        certificate=JOINT.join(certificates),
    )


def _file(log: LoadedLog) -> str:
    return log.path.name.removesuffix(".tsv")


def _folder_and_file(log: LoadedLog) -> str:
    return f"{_folder(log)}/{_file(log)}"


def _where(log: LoadedLog, logs: Sequence[LoadedLog]) -> str:
    """All of a log's path that the logs do not share."""
    shared = os.path.commonpath([each.path.resolve().parent for each in logs])
    return (log.path.resolve().parent.relative_to(shared) / log.path.name).as_posix()


def _folder(log: LoadedLog) -> str:
    """The folder of the log; that of an attack, which is called after it, with the run's."""
    folder = log.path.resolve().parent
    is_attack = folder.name.startswith("attack-")
    return f"{folder.parent.name}/{folder.name}" if is_attack else folder.name

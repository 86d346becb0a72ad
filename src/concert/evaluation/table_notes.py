"""What stands below tables: about the data, how runs were trained and certified, lower bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from concert.evaluation.attacked_log import attacked
from concert.evaluation.labels import row_labels
from concert.evaluation.metrics import percentage
from concert.evaluation.rendering import rounded_up
from concert.evaluation.tables import fingerprint_of, stopped_early
from concert.records.reading import LoadedLog


def data_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """What the runs say about their data ("data_notes": a text or a list), each note once."""
    notes: list[str] = []
    for log in logs:
        given = log.run["info"].get("data_notes") or []
        notes += [given] if isinstance(given, str) else given
    return list(dict.fromkeys(note for note in notes if note))


EARLY_CAVEAT: Final = "sampling stopped early"
GRID_NOTE: Final = (
    "With stopping grid an image stops as soon as it is settled at every radius of the grid: "
    "between and beyond these radii curves are lower than with all n draws, and so is AMCR."
)
RELATIVE_NOTE: Final = (
    "With stopping relative an image stops as soon as its radius is within that share of what all "
    "n draws are expected to give: curves are lower than with all n draws, and so is AMCR."
)
UNANIMOUS: Final = (
    "Images for which all n draws were made and all voted for one class; more draws like these "
    "would give larger radii"
)


def early_caveats(logs: Sequence[LoadedLog], what: str) -> list[str]:
    """That numbers called `what` are lower bounds for the logs that stopped early; [] if none.

    Logs are named where others did not.
    """
    stopped = [
        label.name for log, label in zip(logs, row_labels(logs), strict=True) if stopped_early(log)
    ]
    if not stopped:
        return []
    of = "" if len(stopped) == len(logs) else " of " + "; ".join(dict.fromkeys(stopped))
    return [f"{what}{of}: lower bounds, because {EARLY_CAVEAT}."]


def _subset(log: LoadedLog) -> str:
    """Which images of the split; of attacked ones also which were attacked."""
    subset, attack = str(log.run["identity"].get("subset", "all")), log.run["info"].get("attack")
    if not isinstance(attack, dict) or "subset" not in attack:
        return subset
    of_these = "" if subset == "all" else f", of these {subset}"
    return f"{attack['subset']}, attacked{of_these}"


def unanimous_share(log: LoadedLog) -> float:
    """The share of the images for which all n draws were made and voted for one class."""
    n, frame = log.run["identity"].get("n"), log.frame
    if not isinstance(n, int):
        return 0.0
    # A draw that was undecided is a vote for none.
    return float(frame["votes"].astype(str).str.fullmatch(rf"\d+:{n}").mean())


def run_notes(logs: Sequence[LoadedLog]) -> list[str]:
    """Which logs are not finished, and how each was trained and certified: a note per way."""
    notes: list[str] = []
    settings: dict[str, list[str]] = {}
    trained: dict[str, list[str]] = {}
    for log, label in zip(logs, row_labels(logs), strict=True):
        identity, total = log.run["identity"], log.run["info"].get("subset_images")
        name = label.name
        if log.run["info"].get("training"):
            trained.setdefault(str(log.run["info"]["training"]), []).append(name)
        if isinstance(total, int) and len(log.frame) < total:
            notes.append(f"{name}: not finished, {len(log.frame)} of {total} images.")
        data, said = identity.get("data"), {}
        if isinstance(data, dict) and data.get("split"):
            said["images"] = f"{data['split']} {_subset(log)}"
        said |= {key: identity.get(key) for key in ("alpha", "n0", "n", "stopping", "seed")}
        text = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
        if text:
            settings.setdefault(text, []).append(name)
    clean = not any(map(attacked, logs))
    prints = {fingerprint_of(log) for log in logs} - {None}
    other = len(prints) > 1 or (
        not notes and len({frozenset(log.frame["idx"]) for log in logs}) > 1
    )
    if clean and other:
        notes.append("The logs do not have the same images: their rows differ by that too.")
    rules = [str(log.run["identity"].get("stopping", "")).partition(":")[0] for log in logs]
    notes += [GRID_NOTE] if "grid" in rules else []
    notes += [RELATIVE_NOTE] if "relative" in rules else []
    capped = [
        f"{label.name} {rounded_up(percentage(share), 1)} %"
        for log, label in zip(logs, row_labels(logs), strict=True)
        if (share := unanimous_share(log)) > 0
    ]
    notes += [f"{UNANIMOUS}: {'; '.join(capped)}."] if capped else []
    notes += [f"{'; '.join(names)}: {text}." for text, names in trained.items()]
    if len(settings) == 1:
        return [*notes, f"Certified with {next(iter(settings))}."]
    return notes + [f"{'; '.join(names)}: {text}." for text, names in settings.items()]

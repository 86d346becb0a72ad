"""What a certification log says of the attack on its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concert.errors import ConcertError
from concert.evaluation.metrics import Floats
from concert.records.reading import LoadedLog


def attacked(log: LoadedLog) -> bool:
    """Whether a log is of attacked images."""
    return isinstance(log.run["info"].get("attack"), dict)


def attack_of(log: LoadedLog) -> dict[str, Any]:
    """What the attack wrote about itself; ConcertError for a log of clean images."""
    attack = log.run["info"].get("attack")
    if not isinstance(attack, dict) or not {"method", "against", "l2"} <= attack.keys():
        raise ConcertError(f"{log.path} is not a log of attacked images: leave it out")
    return attack


def perturbation_norms(log: LoadedLog) -> Floats:
    """The l2 norm of the perturbation of each image in the log's frame, (N,)."""
    norms = np.asarray(attack_of(log)["l2"], dtype=np.float64)
    rows = log.frame["idx"].to_numpy(np.int64)
    if rows.max() >= len(norms):
        raise ConcertError(
            f"{log.path} has images that the attack beside it does not: restore its JSON file"
        )
    chosen: Floats = norms[rows]
    return chosen


def clean_numbers(log: LoadedLog) -> NDArray[np.int64]:
    """The number in the clean data set of each image in the log's frame, (N,)."""
    index = attack_of(log).get("index")
    if index is None:
        raise ConcertError(f"{log.path} does not say which clean images it is of: certify it again")
    numbers: NDArray[np.int64] = np.asarray(index, dtype=np.int64)[
        log.frame["idx"].to_numpy(np.int64)
    ]
    return numbers


def right_before(log: LoadedLog) -> NDArray[np.bool_] | None:
    """Whether the smoothed classifier was right on each clean image, (N,); None if not known.

    By the most voted class of the attack's draws, without a test, so without abstaining.
    """
    attack = attack_of(log)
    votes = attack.get("clean_vote")
    if votes is None and attack["against"] != "base":
        votes = attack.get("clean_predict")  # the same, in older folders
    if votes is None:
        return None
    chosen = np.asarray(votes, dtype=np.int64)[log.frame["idx"].to_numpy(np.int64)]
    right: NDArray[np.bool_] = chosen == log.frame["label"].to_numpy(np.int64)
    return right


def strength(log: LoadedLog) -> str:
    """The settings of a log's attack in one line: what two attacks must share to be compared."""
    attack = attack_of(log)
    told: dict[str, Any] = {
        name: attack[name] for name in ("method", "targets", "against") if name in attack
    }
    told |= {k: v for k, v in attack.get("arguments", {}).items() if k != "against"}
    if attack["against"] == "base":
        told.pop("draws", None)  # there is nothing to draw
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


def reference_of(log: LoadedLog) -> str:
    """What the reference preset has instead, in brackets; "" if it has the same."""
    instead = attack_of(log).get("reference") or {}
    values = ", ".join(
        f"no {name}" if value is None else f"{name} {value}" for name, value in instead.items()
    )
    return f" (the reference preset has {values})" if values else ""


def attacked_through_itself(log: LoadedLog) -> bool:
    """Whether the model that a log certifies is the one attacked, as far as both are known.

    Of the noise an attack knows its own settings, and not those of the network in it: the weights
    tell networks apart.
    """
    victim, certified = (_model_of(each) for each in (attack_of(log), log.run["identity"]))
    return all(certified.get(name, value) == value for name, value in victim.items())


def _model_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a description says of the model: settings of its noise, weights, network, its source."""
    noise = described.get("noise")
    known = dict(noise) if isinstance(noise, dict) else {}
    parts = ("weights", "classifier", "classifier_source")
    return known | {name: described[name] for name in parts if name in described}

"""The paper's numbers beside those of certification logs: Tables 1 to 7.

The numbers are in `paper/tableN.csv`, with the paper's rows and columns. It gives its n nowhere and
says of Concert alone how long it trained; its radius for Concert holds for frozen noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from concert.evaluation import attack_table
from concert.evaluation.labels import RowLabel, row_labels
from concert.evaluation.metrics import (
    average_certified_radius,
    certified_accuracy,
)
from concert.evaluation.rendering import interval
from concert.evaluation.tables import amcr_ends, draws, require_one_dataset
from concert.records.reading import LoadedLog

TABLE_OF: Final = {"cifar10": 1, "mnist": 6, "imagenet": 7}
IMAGES_OF: Final = {1: 500, 6: 10_000, 7: 500}
TABLE_OF_ATTACK: Final = {
    "cifar10, cadv": 2,
    "cifar10, shadow": 3,
    "imagenet, cadv": 4,
    "imagenet, shadow": 5,
}
# Whom the paper attacks, and which images: of cAdv it says "each base classifier smoothed", and of
# CIFAR-10 not whether the images were right before.
IMAGES_OF_ATTACK: Final = {"cifar10": "not stated", "imagenet": "right before"}
ATTACKED: Final = {"cadv": "not stated", "shadow": "smoothed"}
# How many images a cell has; of Shadow the paper says it of the largest tau at most.
COUNTS_OF_ATTACK: Final = {"cadv": " (100)", "shadow": ""}
# Noise that the paper does not have: a map that is the same for all images, levels for bands.
OTHER_NOISE: Final = ("static", "banded")
# The upper end of the paper's box for Concert, by the sigma of the row.
UPPER_END: Final = {"0.25": 0.5, "0.5": 1.0, "1.0": 1.5}


def paper_table(number: int) -> pd.DataFrame:
    """A table of the paper as printed; sigma and method are text."""
    file = Path(__file__).parent / "paper" / f"table{number}.csv"
    return pd.read_csv(file, dtype={"sigma": str, "method": str})


def beside_the_paper(logs: Sequence[LoadedLog]) -> pd.DataFrame | None:
    """Each row of Table 1, 6 or 7, and below it the logs of the same method and noise.

    Certified accuracy at the paper's radii and AMCR with its 95 % bootstrap interval (`amcr_ends`).
    Logs of methods and noise that the paper does not have come last. Concert's rows are by the box
    (`matches`), and every log of it, whatever its certificate, stands below the paper's Concert:
    the column `guarantee` tells them apart. None for data that the paper does not have.
    """
    number = TABLE_OF.get(require_one_dataset(logs))
    if number is None:
        return None
    table = paper_table(number)
    radii = [name for name in table.columns if name[0].isdigit()]
    labels = row_labels(logs)
    ours = [_our_row(log, label, radii) for log, label in zip(logs, labels, strict=True)]
    groups, others = _by_row(table, labels, [has_papers_noise(log) for log in logs])
    rows: list[dict[str, object]] = []
    for printed, places in groups:
        rows.append(
            {"sigma": printed["sigma"], "method": printed["method"], "source": "paper"}
            | {name: float(printed[name]) for name in radii}
            | {
                "AMCR": float(printed["AMCR"]),
                "interval": "",
                "guarantee": _papers_guarantee(printed),
                "certificate": "",
                "N": IMAGES_OF[number],
                "n": "",
            }
        )
        rows += [ours[place] for place in places]
    rows += [ours[place] for place in others]
    return pd.DataFrame(rows)


def attacks_beside_the_paper(logs: Sequence[LoadedLog]) -> pd.DataFrame | None:
    """Each row of Table 2, 3, 4 or 5, and below it the logs of the same method and noise.

    Columns: sigma, method, source, targets, against, images, a column per tau of the paper's and
    "all", guarantee, certificate; all text. Our cells are those of `attack_table.printed`, for all
    images and for those right before. The paper has 100 images a column of cAdv, and of Shadow 100
    in all; it does not say how many of those are within a smaller tau, nor, of CIFAR-10, whether
    its images were right before. Logs of other methods or noise come last, and so do targeted
    attacks, which the paper does not have. None for data and attacks that the paper does not have.
    """
    attacked = require_one_dataset(logs)
    number = TABLE_OF_ATTACK.get(attacked)
    if number is None:
        return None
    data, attack = attacked.split(", ")
    table = paper_table(number)
    taus = [name for name in table.columns if name not in ("sigma", "method")]
    whole = attack_table.attack_table(logs, [float(tau) for tau in taus])
    ours = [
        [{**row, "source": "here"} for row in attack_table.printed(part).to_dict("records")]
        for _, part in whole.groupby("log", sort=False)
    ]
    comparable = [
        has_papers_noise(log) and each[0]["targets"] in ("none", "")
        for log, each in zip(logs, ours, strict=True)
    ]
    groups, others = _by_row(table, row_labels(logs), comparable)
    count = COUNTS_OF_ATTACK[attack]
    rows: list[dict[Any, Any]] = []
    for printed, places in groups:
        rows.append(
            {"sigma": printed["sigma"], "method": printed["method"], "source": "paper"}
            | {"targets": "none", "against": ATTACKED[attack], "images": IMAGES_OF_ATTACK[data]}
            | {f"tau {tau}": f"{printed[tau]:.2f}{count}" for tau in taus}
            | {"all": "", "guarantee": _papers_guarantee(printed), "certificate": ""}
        )
        rows += [row for place in places for row in ours[place]]
    rows += [row for place in others for row in ours[place]]
    return pd.DataFrame(rows, columns=list(rows[0]))


def matches(label: RowLabel, sigma: str, method: str) -> bool:
    """Whether a log belongs to the paper's row of this sigma and method.

    Of Concert, a log whose box begins at sigma and ends no higher than the paper's does, because
    recipes take a share of the box; of the others, a log of this sigma. A label does not say which
    noise it is: `has_papers_noise` does.
    """
    ours = label.method.split()[0].lower() if label.method else ""
    try:
        low, *high = map(float, label.sigma.split("-"))
    except ValueError:
        return False
    if ours != method.lower() or low != float(sigma):
        return False
    if method != "Concert":
        return not high
    return len(high) == 1 and low < high[0] <= UPPER_END[sigma]


def noise_kind(log: LoadedLog) -> str:
    """The kind of noise of a log; "" if it does not say."""
    noise = log.run["identity"].get("noise")
    described = noise.get("kind") if isinstance(noise, dict) else None
    return str(log.run["info"].get("noise") or described or "")


def has_papers_noise(log: LoadedLog) -> bool:
    """Whether the paper has a log's kind of noise, as far as the log says."""
    return noise_kind(log) not in OTHER_NOISE


def _by_row(
    table: pd.DataFrame, labels: Sequence[RowLabel], comparable: Sequence[bool]
) -> tuple[list[tuple[pd.Series[Any], list[int]]], list[int]]:
    """Each row of the paper's table with the places of the logs that belong to it; all others."""
    printed = [row for _, row in table.iterrows()]
    homes: list[list[int]] = [[] for _ in printed]
    others: list[int] = []
    for place, label in enumerate(labels):
        fitting = [
            home
            for row, home in zip(printed, homes, strict=True)
            if matches(label, row["sigma"], row["method"])
        ]
        (fitting[0] if fitting and comparable[place] else others).append(place)
    return list(zip(printed, homes, strict=True)), others


def _papers_guarantee(row: pd.Series[Any]) -> str:
    return "frozen-noise" if row["method"] == "Concert" else "deployed"


def _our_row(log: LoadedLog, label: RowLabel, radii: Sequence[str]) -> dict[str, object]:
    accuracies = certified_accuracy(log.frame, [float(name) for name in radii])
    return (
        {"sigma": label.sigma, "method": label.method, "source": "here"}
        | {name: accuracies[i] for i, name in enumerate(radii)}
        | {
            "AMCR": average_certified_radius(log.frame),
            "interval": interval(*amcr_ends(log)),
            "guarantee": label.guarantee,
            "certificate": label.certificate,
            "N": len(log.frame),
            "n": "" if draws(log) is None else str(draws(log)),
        }
    )

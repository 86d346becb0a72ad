"""Tables 8 and 9 of the paper, sigma and runtimes, with rows of ours below its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from concert.evaluation.labels import row_labels
from concert.evaluation.paper_tables import noise_kind, paper_table
from concert.evaluation.tables import draws, require_one_dataset, sigma_statistics
from concert.records.reading import LoadedLog

# Noise whose sigma map is another for each image.
WITH_MAPS: Final = ("generated", "queried")


def table_8(logs: Sequence[LoadedLog]) -> pd.DataFrame:
    """Minimum, median and maximum over images of the smallest sigma of a map, after the paper's.

    Only logs whose noise has a map for each image: of others there is nothing to vary.
    """
    printed = paper_table(8).assign(method="Concert", source="paper", data="cifar10", N=500)
    ours = sigma_statistics(logs).assign(source="here", data=require_one_dataset(logs))
    ours = ours[[noise_kind(log) in WITH_MAPS for log in logs]]
    columns = ["sigma", "method", "source", "data", "min", "median", "max", "N"]
    return pd.concat([printed[columns], ours[columns]], ignore_index=True)


def table_9(
    logs: Sequence[LoadedLog],
    epochs: Sequence[tuple[float, float]],
    predictions: Sequence[Mapping[str, Any]],
) -> pd.DataFrame:
    """Seconds of a prediction, a certification and a training epoch of Concert, after the paper's.

    Means; of predictions the median. For each log, `epochs`: the mean seconds of its run's epochs
    and the images of one; `predictions`: what `concert.evaluation.prediction_time` says, {} where
    it was not asked. Columns: item, source, sigma, method, data, n (draws), machine (of ours,
    engine and torch), draws (the mean of what an image used, fewer than n where it stopped early),
    images (that the number is of, or of an epoch), seconds; all but the last are text, "" where
    nothing is known. Logs of other methods are left out.
    """
    data = require_one_dataset(logs)
    items = ("Single prediction", "Single Certification", "Training epoch")
    here: dict[str, list[dict[str, object]]] = {item: [] for item in items}
    for log, label, (seconds, images), predicted in zip(
        logs, row_labels(logs), epochs, predictions, strict=True
    ):
        if label.method.split()[:1] != ["Concert"]:
            continue
        run = {"source": "here", "sigma": label.sigma, "method": label.method, "data": data}
        if predicted:
            here["Single prediction"].append(
                {**run, "n": str(predicted["n"]), "draws": str(predicted["n"])}
                | {"machine": _known(predicted["engine"], predicted["torch"])}
                | {"images": str(predicted["images"]), "seconds": float(predicted["seconds"])}
            )
        here["Single Certification"].append(
            {**run, "n": "" if draws(log) is None else str(draws(log)), "machine": _machine(log)}
            | {"draws": _mean_draws(log), "images": str(len(log.frame))}
            | {"seconds": float(log.frame["time"].mean())}
        )
        here["Training epoch"].append(
            {**run, "n": "", "machine": "", "draws": "", "seconds": seconds}
            | {"images": "" if pd.isna(images) else str(int(images))}
        )
    rows: list[dict[str, object]] = []
    for item, seconds in paper_table(9).itertuples(index=False):
        rows.append(
            {"item": item, "source": "paper", "sigma": "", "method": "Concert"}
            | {"data": "not stated", "n": "" if item == "Training epoch" else "not stated"}
            | {"machine": "two P100 GPUs"}
            | {"draws": "", "images": "", "seconds": seconds}
        )
        rows += [{"item": item, **row} for row in here.get(item, [])]
    return pd.DataFrame(rows)


def _mean_draws(log: LoadedLog) -> str:
    used = log.frame["n_used"].astype(float).mean(skipna=False)
    return "" if math.isnan(used) else f"{used:.0f}"


def _machine(log: LoadedLog) -> str:
    """What is known of what a log was made with: the engine and the version of torch."""
    versions = log.run["info"].get("versions")
    torch = versions.get("torch") if isinstance(versions, dict) else None
    return _known(log.run["identity"].get("engine"), torch)


def _known(engine: str | None, torch: str | None) -> str:
    return ", ".join(str(each) for each in (engine, torch and f"torch {torch}") if each)

"""Explanations of some images of a log, from the smallest certified radius to the largest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

import numpy as np

from concert.certification.procedure import Procedure
from concert.data import ImageSet
from concert.errors import ConcertError
from concert.evaluation.explain.explain import Explanation, explain
from concert.evaluation.explain.run_colorizer import colorizer_of
from concert.evaluation.metrics import certified_radii
from concert.records.reading import LoadedLog
from concert.runs import load, read_description
from concert.sampling.sampler import SamplingSettings

logger = logging.getLogger(__name__)

# Those whose regions have a shape of their own first.
_ORDER: Final = ("queried", "frozen", "static")


def gallery(
    logs: Sequence[LoadedLog], images: ImageSet, count: int, trust: bool = False
) -> tuple[LoadedLog, list[Explanation]]:
    """`count` images of one log, certified again with its settings and explained.

    The log is one with its model beside it, and with an ellipsoid as certificate if there is one.
    The images are evenly spaced in the order of their certified radii; a single one is in the
    middle. A warning is logged where the certificate is not the log's. Raises ConcertError if no
    log has its model beside it.
    """
    with_models = [(log, run) for log in logs if (run := run_of(log)) is not None]
    if not with_models:
        raise ConcertError(
            "the gallery needs a model, and no log lies in the run folder that made it: leave out "
            "--gallery, or report the log where it was written"
        )
    log, run = min(with_models, key=lambda found: _rank(found[0]))
    identity = log.run["identity"]
    names = {entry.name for entry in fields(Procedure)}
    procedure = Procedure(**{name: identity[name] for name in names if name in identity})
    sampling = SamplingSettings(identity["batch_size"], identity["vote_margin"])
    smoothed = load(run, trust, sampling=sampling)
    colorizer, name = colorizer_of(run, trust=trust)
    order = np.argsort(certified_radii(log.frame), kind="stable")
    places = np.linspace(0, len(order) - 1, count) if count > 1 else [(len(order) - 1) / 2]
    chosen = order[np.unique(np.round(places).astype(int))]
    explanations = []
    for row in chosen:
        index, label = int(log.frame["idx"].iloc[row]), int(log.frame["label"].iloc[row])
        (image,) = images.images([index])
        explanation = explain(
            smoothed,
            image,
            images.class_names,
            colorizer,
            procedure,
            index,
            images.class_names[label],
        )
        found, row = explanation.certification, log.frame.iloc[row]
        if found.label != row["predict"] or not np.isclose(found.radius, row["radius"], atol=1e-6):
            logger.warning(
                "image %d: certified again, %s has answer %d and radius %.3f, the log says %d and "
                "%.3f (engine %s now, %s then)",
                index,
                run,
                found.label,
                found.radius,
                row["predict"],
                row["radius"],
                smoothed.sampler(image.shape).engine,
                identity.get("engine"),
            )
        explanations.append(replace(explanation, colorizer_name=Path(name).name))
    return log, explanations


def _rank(log: LoadedLog) -> int:
    certificate = log.run["identity"].get("certificate")
    return _ORDER.index(certificate) if certificate in _ORDER else len(_ORDER)


def run_of(log: LoadedLog) -> Path | None:
    """The run folder that made the log, if it is there and its weights are still the log's."""
    folder = run_folder(log)
    if folder is None or "batch_size" not in log.run["identity"]:
        return None
    weights = read_description(folder)[1]
    return folder if weights == log.run["identity"].get("weights") else None


def run_folder(log: LoadedLog) -> Path | None:
    """The folder with a model that the log lies in, or below."""
    parents = log.path.resolve().parents
    return next((folder for folder in parents[:2] if (folder / "model").is_dir()), None)

"""Attacking the images of a data set, into a folder that can be resumed and certified."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from concert.attacks.base import Against, AttackResult, OnStep, Victim
from concert.attacks.record import AttackRecord
from concert.attacks.settings import METHODS, AttackSettings
from concert.attacks.spoofing import spoofing_shadow
from concert.data import ImageSet, split_names, subset_indices
from concert.errors import ConcertError
from concert.runs import source_of, weights_file
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, keyed_generator

# Without noise a batch is what fills a processor; with noise an image's copies do.
BASE_BATCH: Final = 16


@dataclass(frozen=True)
class AttackProgress:
    """A batch that has just been written, what it took, and how many images of all are done."""

    result: AttackResult
    seconds: float
    done: int
    total: int


@dataclass(frozen=True)
class StepProgress:
    """How far the batch under way is.

    step, steps: taken, and of all. images: of the batch. seconds: since it began. done, total: how
    many images were done before it, and of all.
    """

    step: int
    steps: int
    images: int
    seconds: float
    done: int
    total: int


def attack_data(
    smoothed: SmoothedClassifier,
    images: ImageSet,
    settings: AttackSettings,
    out: Path,
    on_batch: Callable[[AttackProgress], None] = lambda progress: None,
    command: str = "",
    on_step: Callable[[StepProgress], None] = lambda progress: None,
    classifier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Attack the chosen images that `out` does not have yet; returns a summary.

    `classifier`: as the model's folder describes it, where it has one. `on_step` is told of the
    steps of a batch; an exception of it or of `on_batch` ends the attack, without the batch under
    way.

    Raises ConcertError, before anything is written, for images that do not fit the model or are
    attacked already, and for a folder with another attack.
    """
    if smoothed.shape is not None and images.shape != smoothed.shape:
        raise ConcertError(
            f"the model takes images of shape {smoothed.shape} (channels, height, width), "
            f"{images.name} has {images.shape}"
        )
    if images.attack is not None:
        raise ConcertError(
            f"the images of {images.source} are attacked already, and norms would be measured from "
            "them: attack the clean ones"
        )
    arguments = dict(settings.arguments)
    settings.check(images.shape, smoothed.num_classes)
    indices = subset_indices(len(images), settings.subset)
    weights = hashlib.sha256(weights_file(smoothed.classifier, smoothed.noise)).hexdigest()
    attack = settings.described() | {
        "weights": weights,
        **({} if classifier is None else {"classifier": dict(classifier)}),
        **source_of(smoothed.classifier, smoothed.noise),
        "noise": smoothed.noise.settings(),
        "data": {
            "name": images.name,
            "split": settings.split,
            "fingerprint": images.fingerprint,
            "notes": images.notes,
        },
    }
    identity = attack | {"concert": version("concert-smoothing")}
    info = {
        "command": command,
        "data_source": images.source,
        "torch": torch.__version__,
        "subset_images": len(indices),
    }
    file = f"{split_names(images.name, settings.split)[0]}.parquet"
    size = settings.images_per_batch or batch_size(smoothed, images.shape, arguments)
    with AttackRecord.open(out, file, identity, info) as record:
        todo = [index for index in indices if index not in record.rows]
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            done = len(indices) - len(todo) + start
            began = time.perf_counter()
            tell = _telling(on_step, len(batch), began, done, len(indices))
            clean, labels = images.images(batch), images.labels[batch]
            result = run_attack(smoothed, clean, labels, settings, arguments, batch, tell)
            before = clean_predictions(smoothed, clean, labels, settings, batch)
            seconds = (time.perf_counter() - began) / len(batch)
            record.append(clean, result, labels.tolist(), batch, before, seconds)
            done += len(batch)
            on_batch(AttackProgress(result, seconds * len(batch), done, len(indices)))
        if not record.finished:
            rows = [record.rows[index] for index in indices]
            told = attack | {"reference": settings.reference(), "command": command}
            record.finish(images.class_names, told, summarize(rows, images))
        summary: dict[str, Any] = record.description["result"]
    return summary


def _telling(
    on_step: Callable[[StepProgress], None], images: int, began: float, done: int, total: int
) -> OnStep:
    """What an attack on a batch calls between steps; `began` as `time.perf_counter` has it."""
    return lambda step, steps: on_step(
        StepProgress(step, steps, images, time.perf_counter() - began, done, total)
    )


def run_attack(
    smoothed: SmoothedClassifier,
    clean: Tensor,
    labels: Tensor,
    settings: AttackSettings,
    arguments: Mapping[str, Any],
    indices: list[int],
    on_step: OnStep,
) -> AttackResult:
    """One batch, with the targets that the settings ask for."""
    addressed = {**arguments, "seed": settings.seed, "indices": indices, "on_step": on_step}
    if settings.targets == "spoof":
        return spoofing_shadow(smoothed, clean, labels, **addressed)
    targets = None
    if settings.targets != "none":
        targets = chosen_targets(settings, labels, indices, smoothed.num_classes)
    result: AttackResult = METHODS[settings.method](smoothed, clean, labels, targets, **addressed)
    return result


def chosen_targets(
    settings: AttackSettings, labels: Tensor, indices: list[int], num_classes: int
) -> Tensor:
    """A target (B,) for each image, never its label: the class asked for, or a random one.

    Images whose label is the class asked for get the next class.
    """
    if settings.targets == "random":
        shifts = [
            int(
                torch.randint(
                    num_classes - 1, (), generator=keyed_generator(settings.seed, Domain.ATTACK, i)
                )
            )
            for i in indices
        ]
        return (labels + 1 + torch.tensor(shifts)) % num_classes
    wanted = torch.full_like(labels, int(settings.targets))
    return torch.where(wanted == labels, (wanted + 1) % num_classes, wanted)


def clean_predictions(
    smoothed: SmoothedClassifier,
    clean: Tensor,
    labels: Tensor,
    settings: AttackSettings,
    indices: list[int],
) -> tuple[list[int], list[int]]:
    """What the attacked classifier said before, and the most voted class of the smoothed one.

    Judged as an attack's success is; the two differ only where the base classifier is attacked.
    """

    def predicted(against: Against) -> list[int]:
        victim = Victim(smoothed, clean, labels, None, against, 1, settings.seed, indices)
        classes: list[int] = victim.predictions(victim.clean, draws).tolist()
        return classes

    draws = settings.arguments["success_draws"]
    votes = predicted("deployed")
    return (predicted("base") if settings.arguments["against"] == "base" else votes), votes


def batch_size(
    smoothed: SmoothedClassifier, shape: tuple[int, int, int], arguments: Mapping[str, Any]
) -> int:
    """Images at a time, so that their noisy copies fill about one batch of the hot loop."""
    if arguments["against"] == "base":
        return BASE_BATCH
    return max(1, smoothed.sampler(shape).batch_size // int(arguments["draws"]))


def summarize(rows: list[dict[str, Any]], images: ImageSet) -> dict[str, Any]:
    """Rates over all images, and over those that the attacked classifier got right before."""
    right = [row for row in rows if row["clean_predict"] == int(images.labels[row["index"]])]
    norms = torch.tensor([row["l2"] for row in rows], dtype=torch.float64)
    return {
        "images": len(rows),
        "clean_correct": len(right),
        "succeeded": sum(row["success"] for row in rows),
        "succeeded_8bit": sum(row["success_8bit"] for row in rows),
        "succeeded_of_clean_correct": sum(row["success"] for row in right),
        "l2_quartiles": torch.quantile(norms, torch.tensor([0.25, 0.5, 0.75]).double()).tolist(),
        "seconds": sum(row["seconds"] for row in rows),
    }

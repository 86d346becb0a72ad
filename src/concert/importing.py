"""From a checkpoint to a run folder that every command takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from concert.building import Description, build_base, build_noise, describe_noise
from concert.config import NoiseSettings
from concert.data import load_images
from concert.data.known import KNOWN, Known
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.foreign_checkpoints import (
    Architecture,
    Checkpoint,
    Normalization,
    fill,
    mean_and_std,
    named_as_in,
    read_checkpoint,
    recognize,
    unwrapped,
)
from concert.inference import check_classifier
from concert.runs import CONFIG, save_model

# The data sets that our classifiers are published for.
USUAL_DATA: Final = {"lenet": "mnist", "resnet50": "imagenet"}


@dataclass(frozen=True)
class ImportSettings:
    """What a checkpoint does not say.

    sigma, grid: of the isotropic noise that it was trained with, as in `NoiseSettings`.
    data: name of the data set; None for the one that the network is published for. data_path: its
    folder. classifier, init_args: import path and constructor arguments of any torch module; None
    for one of ours, told by the tensors. normalization: see `mean_and_std`. mean, std: of another
    normalisation, per channel. input_size, channels, num_classes: of a data set that is not known.
    method: how tables call the model.
    """

    sigma: float
    grid: int | None = None
    data: str | None = None
    data_path: Path | None = None
    classifier: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    normalization: Normalization | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    input_size: int | None = None
    channels: int | None = None
    num_classes: int | None = None
    method: str = "imported"


def import_checkpoint(path: Path, out: Path, settings: ImportSettings) -> Description:
    """Write the run folder `out` from the checkpoint at `path`, and return the model's description.

    A classifier of the user's own is imported and constructed, so only one that is trusted may be
    given. Raises ConcertError, with nothing written, for a checkpoint or settings that do not fit.
    """
    if (out / "model" / CONFIG).exists() or (out / "config.yaml").exists():
        raise ConcertError(f"{out} holds a run already: choose another --out")
    checkpoint = read_checkpoint(path)
    inner, normalized = unwrapped(checkpoint.tensors)
    if settings.classifier is None:
        found = recognize(inner, settings.input_size)
        data = settings.data or USUAL_DATA.get(found.name, "cifar10")
    else:
        data = settings.data or "images"
        found = _described(settings, KNOWN.get(data))
    _check_data(found, data, KNOWN.get(data), settings)
    classifier = {
        "name": found.name,
        "init_args": found.init_args,
        **_normalization(settings, normalized, data, found.shape[0]),
    }
    described = describe_noise(
        NoiseSettings("isotropic", sigma=settings.sigma, grid=settings.grid), found.shape
    )
    names = _class_names(found, data, settings)
    description = Description(classifier, described, found.num_classes, found.shape, names, data)
    # The random weights of a fresh network are replaced, but drawing them moves torch's generator.
    with torch.random.fork_rng(devices=[]):
        network = build_base(description, trust=True)
    core = network if classifier["mean"] is None else network[1]  # type: ignore[index]
    fill(core, named_as_in(core, checkpoint.tensors))
    check_classifier(network.eval(), torch.zeros((2, *found.shape)), found.num_classes)
    noise = build_noise(described, found.shape)
    write_atomically(out / "config.yaml", _record(path, checkpoint, settings, data))
    inputs = {"checkpoint": checkpoint.sha256}
    save_model(out / "model", description, network, noise, inputs)
    return description


def _class_names(found: Architecture, data: str, settings: ImportSettings) -> tuple[str, ...]:
    """Those of the images, where they are at hand; numbers where they are not."""
    if settings.data_path is None:
        return tuple(str(number) for number in range(found.num_classes))
    images = load_images(data, "test", settings.data_path, settings.input_size)
    if (images.shape, images.num_classes) != (found.shape, found.num_classes):
        raise ConcertError(
            f"the network takes images of shape {found.shape} in {found.num_classes} classes, "
            f"{images.name} has {images.shape} in {images.num_classes}: give other data, or "
            "--input_size"
        )
    return images.class_names


def _described(settings: ImportSettings, known: Known | None) -> Architecture:
    """A classifier of the user's own: nothing about it can be told from its tensors."""
    assert settings.classifier is not None
    channels = settings.channels or (known and known.shape[0])
    size = settings.input_size or (known and known.shape[1])
    classes = settings.num_classes or (known and known.num_classes)
    given = {"channels": channels, "input_size": size, "num_classes": classes}
    missing = [f"--{name}" for name, value in given.items() if not value]
    if missing or not (channels and size and classes):
        raise ConcertError(
            f"a classifier of your own needs {' and '.join(missing)}, or a known data set by "
            "--data.name"
        )
    return Architecture(
        settings.classifier, classes, (channels, size, size), dict(settings.init_args)
    )


def _check_data(
    found: Architecture, data: str, known: Known | None, settings: ImportSettings
) -> None:
    """Refuse a known data set that the network does not fit, and settings that contradict it."""
    if settings.num_classes not in (None, found.num_classes):
        raise ConcertError(
            f"the checkpoint has {found.num_classes} classes, not {settings.num_classes}: leave "
            "out --num_classes"
        )
    if known is None:
        return
    if (found.shape[0], found.num_classes) != (known.shape[0], known.num_classes):
        raise ConcertError(
            f"the network takes {found.shape[0]} channels and has {found.num_classes} classes, "
            f"{data} has {known.shape[0]} and {known.num_classes}: give another --data.name"
        )


def _normalization(
    settings: ImportSettings, normalized: bool, data: str, channels: int
) -> dict[str, list[float] | None]:
    if settings.mean is not None or settings.std is not None:
        if settings.normalization is not None:
            raise ConcertError("give --normalization, or --mean and --std, but not both")
        std = [1.0] * channels if settings.std is None else settings.std
        return {"mean": settings.mean or [0.0] * channels, "std": std}
    known = KNOWN[data].mean_std if data in KNOWN else None
    # A user's own module normalises by itself, and its keys may begin with anything.
    normalized = normalized and settings.classifier is None
    chosen = mean_and_std(settings.normalization, normalized, known, data)
    return {"mean": None, "std": None} if chosen is None else {"mean": chosen[0], "std": chosen[1]}


def _record(path: Path, checkpoint: Checkpoint, settings: ImportSettings, data: str) -> str:
    """config.yaml: where the model came from, in the place where others have their recipe."""
    path_of_data = {"path": settings.data_path.as_posix()} if settings.data_path else {}
    record = {
        "imported": {
            "file": path.name,
            "sha256": checkpoint.sha256,
            "layout": checkpoint.layout,
            **checkpoint.facts,
        },
        "data": {"name": data, **path_of_data},
        "objective": {"name": settings.method},
    }
    return yaml.safe_dump(record, sort_keys=False)

"""From a checkpoint to a run folder that every command takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import nn

from concert.data import load_images
from concert.data.known import KNOWN, Known
from concert.engines.inference import check_classifier
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.foreign.checkpoints import (
    Architecture,
    Checkpoint,
    check_arch,
    read_checkpoint,
    recognize,
)
from concert.foreign.weights import (
    Normalization,
    check_fit,
    fill,
    mean_and_std,
    named_as_in,
    unwrapped,
)
from concert.recipes.building import Description, build_base, build_noise, describe_noise
from concert.recipes.config import NoiseSettings
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
        check_arch(checkpoint.facts.get("arch"), found)
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
    description = Description(classifier, described, found.num_classes, found.shape, (), data)
    if settings.classifier is None:
        # What the tensors claim is compared before anything of that size is allocated.
        with torch.device("meta"):
            shapes = _core(build_base(description, trust=False), classifier)
            check_fit(shapes, named_as_in(shapes, checkpoint.tensors))
    # The random weights of a fresh network are replaced, but drawing them moves torch's generator.
    with torch.random.fork_rng(devices=[]):
        network = build_base(description, trust=True)
    core = _core(network, classifier)
    fill(core, named_as_in(core, checkpoint.tensors))
    _check_outputs(network.eval(), found)
    description = replace(description, class_names=_class_names(found, data, settings))
    noise = build_noise(described, found.shape)
    write_atomically(out / "config.yaml", _record(path, checkpoint, settings, data))
    inputs = {"checkpoint": checkpoint.sha256}
    save_model(out / "model", description, network, noise, inputs)
    return description


def _core(network: nn.Module, classifier: dict[str, Any]) -> nn.Module:
    """The network without its normalisation."""
    return network if classifier["mean"] is None else network[1]  # type: ignore[index]


def _check_outputs(network: nn.Module, found: Architecture) -> None:
    """Refuse a network that does not give finite logits for a black and a white image."""
    probe = torch.stack([torch.zeros(found.shape), torch.ones(found.shape)])
    check_classifier(network, probe, found.num_classes)
    with torch.inference_mode():
        finite = bool(network(probe).isfinite().all())
    if not finite:
        raise ConcertError(
            "the classifier's outputs are not finite for a black or a white image: the checkpoint "
            "is damaged, or its training failed"
        )


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
    if settings.classifier is None and settings.init_args:
        raise ConcertError(
            "--classifier.init_args belongs to a classifier that is given by --classifier.name: "
            "leave it out"
        )
    if settings.num_classes not in (None, found.num_classes):
        raise ConcertError(
            f"the checkpoint has {found.num_classes} classes, not {settings.num_classes}: leave "
            "out --num_classes"
        )
    if settings.channels not in (None, found.shape[0]):
        raise ConcertError(
            f"the checkpoint takes {found.shape[0]} channels, not {settings.channels}: leave out "
            "--channels"
        )
    if found.num_classes < 2 or min(found.shape) < 1:
        raise ConcertError(
            f"a classifier needs two classes and an image to look at, this one takes {found.shape} "
            f"in {found.num_classes}: give another checkpoint, or other sizes"
        )
    if known is None:
        return
    if (found.shape, found.num_classes) != (known.shape, known.num_classes):
        raise ConcertError(
            f"the network takes images of shape {found.shape} in {found.num_classes} classes, "
            f"{data} has {known.shape} in {known.num_classes}: "
            f"{'leave out --input_size, or ' if settings.input_size else ''}give another "
            "--data.name"
        )


def _normalization(
    settings: ImportSettings, normalized: bool, data: str, channels: int
) -> dict[str, list[float] | None]:
    if settings.mean is not None or settings.std is not None:
        if settings.normalization is not None:
            raise ConcertError("give --normalization, or --mean and --std, but not both")
        mean = [0.0] * channels if settings.mean is None else settings.mean
        std = [1.0] * channels if settings.std is None else settings.std
        return {"mean": mean, "std": std}
    # A user's own module normalises by itself, and its keys may begin with anything.
    normalized = normalized and settings.classifier is None
    chosen = mean_and_std(settings.normalization, normalized, KNOWN.get(data), data)
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

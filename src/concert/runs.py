"""Run folders: what a training run writes, and from there back to a smoothed classifier.

    RUN/config.yaml  metrics.csv  checkpoints/  model/{weights.safetensors,config.json}  *.tsv
    *.json

A model folder holds no pickle and no code. A classifier given by import path is imported only when
the caller says that the folder is trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from concert.engines import read_choice
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.import_paths import source_hash
from concert.memory import own_memory
from concert.noise import NoiseModel
from concert.recipes.building import Description, build_base, build_noise
from concert.recipes.config import DataSettings
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

log = logging.getLogger(__name__)

FORMAT: Final = 1
WEIGHTS: Final = "weights.safetensors"
CONFIG: Final = "config.json"


def weights_file(classifier: nn.Module, noise: NoiseModel) -> bytes:
    """The content of a weights file; its hash identifies the weights.

    Numbers are in float32, as they are loaded, whatever precision they were trained in.
    """
    tensors = {
        f"{prefix}.{name}": own_memory(
            tensor, torch.float32 if tensor.is_floating_point() else None
        )
        for prefix, module in (("classifier", classifier), ("noise", noise))
        for name, tensor in module.state_dict().items()
    }
    return save_tensors(tensors, metadata={"format": "pt"})


def source_of(*models: nn.Module) -> dict[str, str]:
    """The hash of the files that define the user's own classes in models, whose code may change."""
    found = source_hash(type(part) for model in models for part in model.modules())
    return {} if found is None else {"classifier_source": found}


def save_model(
    folder: Path,
    description: Description,
    classifier: nn.Module,
    noise: NoiseModel,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write weights, then the description with their hash; with it, the folder is whole.

    `inputs`: hashes of what the model was trained on, kept for the record.
    """
    content = weights_file(classifier, noise)
    write_atomically(folder / WEIGHTS, content)
    text = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "classifier": dict(description.classifier),
        "noise": dict(description.noise),
        "num_classes": description.num_classes,
        "shape": list(description.shape),
        "class_names": list(description.class_names),
        "data": description.data,
        "trained_on": dict(inputs or {}),
        **source_of(classifier, noise),
    }
    write_atomically(folder / CONFIG, json.dumps(text, indent=2) + "\n")


def model_folder(path: Path) -> Path:
    """The model folder of a run folder, or the path itself if it is one."""
    if not path.exists():
        raise ConcertError(f"no such folder: {path}; give a run folder that `concert train` made")
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file():
            return folder
    if (path / "checkpoints").is_dir():
        raise ConcertError(f"{path} is not trained to its end: run the same `concert train` again")
    raise ConcertError(f"{path} holds no model: it needs model/{CONFIG} and model/{WEIGHTS}")


def read_description(path: Path) -> tuple[Description, str]:
    """The description of a run or model folder, and the hash of its weights file."""
    file = model_folder(path) / CONFIG
    try:
        text = json.loads(file.read_text())
        if text["format"] != FORMAT:
            raise ConcertError(
                f"{file} has format {text['format']}, this version of concert reads {FORMAT}"
            )
        channels, height, width = (int(size) for size in text["shape"])
        description = Description(
            text["classifier"],
            text["noise"],
            int(text["num_classes"]),
            (channels, height, width),
            tuple(text["class_names"]),
            text["data"],
        )
        return description, str(text["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConcertError(
            f"{file} is damaged ({type(error).__name__}: {error}): train again or restore it"
        ) from None


def read_weights(folder: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a model folder, whose weights file must have the hash `digest`."""
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ConcertError(f"cannot read {folder / WEIGHTS}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConcertError(
            f"{folder / WEIGHTS} is damaged: its hash is not the one in {CONFIG}; train again or "
            "restore it"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ConcertError(_not_fitting(folder, error)) from None


def tensors_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of `prefix`.NAME, by NAME."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    """Fill a module with those of a model folder's tensors whose names begin with `prefix`."""
    try:
        module.load_state_dict(tensors_of(tensors, prefix))
    except RuntimeError as error:
        raise ConcertError(_not_fitting(folder, error)) from None


@dataclass(frozen=True)
class GivenData:
    """Which images, as flags say; what they leave out is that of the training run.

    Args:
        name: of the data set.
        path: folder of the data.
        size: resize and crop to this.
    """

    name: str = ""
    path: Path | None = None
    size: int | None = None


def data_of(run: Path, trained_on: str, given: GivenData | None = None) -> DataSettings:
    """The data of the flags, completed from the training run."""
    given = given or GivenData()
    trained: dict[str, Any] = {}
    if given.name in ("", trained_on):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            trained = dict(yaml.safe_load((run / "config.yaml").read_text())["data"])
    path = given.path or trained.get("path")
    return DataSettings(
        given.name or trained_on,
        None if path is None else Path(path),
        size=given.size or trained.get("size"),
    )


def load(
    path: str | Path,
    trust: bool = False,
    device: torch.device | str | None = None,
    sampling: SamplingSettings | None = None,
    deployed: bool = True,
) -> SmoothedClassifier:
    """The smoothed classifier of a run or model folder, in evaluation mode on `device`.

    A classifier given by an import path outside concert is imported only with `trust=True`.
    `deployed`: with the engine that `concert export` chose, if any; else with torch.
    """
    folder = model_folder(Path(path))
    description, digest = read_description(folder)
    try:
        classifier = build_base(description, trust)
        noise = build_noise(description.noise, description.shape)
    except (KeyError, TypeError) as error:
        raise ConcertError(
            f"{folder / CONFIG} is damaged ({type(error).__name__}: {error}): train again or "
            "restore it"
        ) from None
    tensors = read_weights(folder, digest)
    load_into(classifier, tensors, "classifier", folder)
    load_into(noise, tensors, "noise", folder)
    if code_has_changed(folder, classifier, noise):
        log.warning(
            "the code of the classifier has changed since %s was saved: with the same weights it "
            "may be another classifier",
            folder,
        )
    smoothed = SmoothedClassifier(
        classifier,
        noise,
        description.num_classes,
        description.shape,
        sampling,
        read_choice(folder, digest) if deployed else None,
    )
    return smoothed.eval().to(device or "cpu")


def code_has_changed(folder: Path, *models: nn.Module) -> bool:
    """Whether the user's own classes are no longer those that a model folder was saved with."""
    saved = json.loads((folder / CONFIG).read_text()).get("classifier_source")
    return saved is not None and source_of(*models).get("classifier_source") != saved


def _not_fitting(folder: Path, error: Exception) -> str:
    first = str(error).splitlines()[0]
    return f"{folder / WEIGHTS} does not fit the model in {CONFIG}: {first}"

"""Run folders: from a recipe to modules, and from a model folder back to a smoothed classifier.

    RUN/config.yaml  metrics.csv  checkpoints/  model/{weights.safetensors,config.json}  *.tsv
    *.json

A model folder holds no pickle and no code. A classifier given by import path is imported only when
the caller says that the folder is trusted.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from concert.classifiers import build_classifier
from concert.config import NoiseSettings, ObjectiveSettings, Recipe, objective_arguments
from concert.data import MEAN_STD
from concert.errors import ConcertError, nearest
from concert.files import write_atomically
from concert.generator import build_generator
from concert.noise import (
    GeneratedNoise,
    GridNoise,
    IsotropicNoise,
    NoiseModel,
    QueriedNoise,
    StaticNoise,
)
from concert.objectives import OBJECTIVES, Objective
from concert.sampling import SamplingSettings
from concert.smoothing import SmoothedClassifier

FORMAT: Final = 1
WEIGHTS: Final = "weights.safetensors"
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class Description:
    """What rebuilds a model, as written to model/config.json."""

    classifier: Mapping[str, Any]
    noise: Mapping[str, Any]
    num_classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    data: str


def build_objective(settings: ObjectiveSettings) -> Objective:
    """The objective by name; a setting that it does not have is refused."""
    if settings.name not in OBJECTIVES:
        raise ConcertError(nearest("objective", settings.name, OBJECTIVES))
    method = OBJECTIVES[settings.name]
    arguments = objective_arguments(settings)
    known = set(inspect.signature(method).parameters)
    for name in arguments:
        if name not in known:
            raise ConcertError(
                f"objective '{settings.name}' has no setting '{name}': remove it "
                f"(it has {', '.join(sorted(known))})"
            )
    return method(**arguments)


def describe_noise(settings: NoiseSettings, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The resolved noise model of a recipe, for images of `shape`."""
    if settings.kind == "isotropic":
        grid = {} if settings.grid is None else {"grid": settings.grid}
        return {"kind": "isotropic", "sigma": settings.sigma, **grid}
    if settings.grid is not None:
        raise ConcertError(
            f"noise.grid is for isotropic noise only, not {settings.kind}: remove it"
        )
    if settings.low > settings.high:
        raise ConcertError(
            f"the sigma box needs low <= high, got noise.low={settings.low:g} and "
            f"noise.high={settings.high:g}: exchange them"
        )
    low, high = settings.low, settings.omega * settings.high
    if not 0 < low <= high:
        raise ConcertError(
            f"the sigma box needs 0 < low <= omega * high, got low={low} and omega * high={high:g}"
            ": raise high or omega, or lower low"
        )
    if not settings.omega <= 1:
        raise ConcertError(f"omega must be at most 1, got {settings.omega}")
    described: dict[str, Any] = {"kind": settings.kind, "low": low, "high": high}
    if settings.kind == "queried":
        query = settings.high if settings.query_sigma is None else settings.query_sigma
        described["query_sigma"] = query
    if settings.kind != "static":
        name = settings.generator or ("coarse" if settings.kind == "queried" else "paper")
        if name == "codebook" and settings.kind == "generated":
            raise ConcertError(
                "a codebook has no map where its choice is too close to call, and generated noise "
                "cannot do without one: use queried noise, or another generator"
            )
        arguments = dict(settings.generator_args)
        if name != "paper":
            # At 224 x 224 a pool of 4 would leave the query's noise in the map and cost too much.
            arguments.setdefault("pool", 4 if max(shape[1:]) <= 64 else 16)
        described |= {"generator": name, "generator_args": arguments}
    return described


def build_noise(
    described: Mapping[str, Any], shape: tuple[int, int, int], sigma_map: Tensor | None = None
) -> NoiseModel:
    """The noise model of a description; `sigma_map` (C, H, W) is for static noise."""
    kind = described["kind"]
    if kind == "isotropic":
        if "grid" in described:
            return GridNoise(described["sigma"], described["grid"])
        return IsotropicNoise(described["sigma"])
    if kind == "static":
        placeholder = torch.full(shape, float(described["low"]))
        return StaticNoise(placeholder if sigma_map is None else sigma_map)
    low, high = described["low"], described["high"]
    generator = build_generator(
        described["generator"], shape[0], low, high, described["generator_args"]
    )
    if kind == "generated":
        return GeneratedNoise(generator)
    if kind == "queried":
        return QueriedNoise(generator, described["query_sigma"], low, high)
    raise ConcertError(
        nearest("noise model", str(kind), ["isotropic", "static", "generated", "queried"])
    )


def describe(
    recipe: Recipe, shape: tuple[int, int, int], num_classes: int, class_names: tuple[str, ...]
) -> Description:
    """The model that a recipe asks for, for a data set's shape and classes."""
    settings = recipe.classifier
    classifier: dict[str, Any] = {"name": settings.name, "init_args": dict(settings.init_args)}
    if "." not in settings.name:
        default = MEAN_STD.get(recipe.data.name)
        mean, std = settings.mean, settings.std
        if mean is None and std is None and default is not None:
            mean, std = list(default[0]), list(default[1])
        classifier |= {"mean": mean, "std": std}
        if settings.name == "lenet":
            classifier["init_args"].setdefault("image_size", shape[1])
    noise = describe_noise(recipe.noise, shape)
    return Description(classifier, noise, num_classes, shape, class_names, recipe.data.name)


def build_base(description: Description, trust: bool) -> nn.Module:
    """The base classifier of a description, with fresh weights."""
    c = description.classifier
    return build_classifier(
        c["name"],
        description.num_classes,
        description.shape[0],
        mean=c.get("mean"),
        std=c.get("std"),
        init_args=c.get("init_args"),
        trust=trust,
    )


def weights_file(classifier: nn.Module, noise: NoiseModel) -> bytes:
    """The content of a weights file; its hash identifies the weights."""
    tensors = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, module in (("classifier", classifier), ("noise", noise))
        for name, tensor in module.state_dict().items()
    }
    return save_tensors(tensors, metadata={"format": "pt"})


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


def load(
    path: str | Path,
    trust: bool = False,
    device: torch.device | str | None = None,
    sampling: SamplingSettings | None = None,
) -> SmoothedClassifier:
    """The smoothed classifier of a run or model folder, in evaluation mode on `device`.

    A classifier given by an import path outside concert is imported only with `trust=True`.
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
        tensors = load_tensors(content)
        for prefix, module in (("classifier", classifier), ("noise", noise)):
            own = {
                name.removeprefix(f"{prefix}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{prefix}.")
            }
            module.load_state_dict(own)
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ConcertError(
            f"{folder / WEIGHTS} does not fit the model in {CONFIG}: {first}"
        ) from None
    smoothed = SmoothedClassifier(
        classifier, noise, description.num_classes, description.shape, sampling
    )
    return smoothed.eval().to(device or "cpu")

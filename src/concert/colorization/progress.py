"""The settings and the checkpoints of a fit of the compact colorizer."""

from __future__ import annotations

import csv
import io
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from concert.colorization.compact import CompactColorizer
from concert.colorization.muon import Muon
from concert.errors import ConcertError
from concert.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Settings of a fit; the defaults are those of the first fit of the weights in the package.

    A step costs 0.35 s on one core (AMD EPYC 9004), the whole fit 35 minutes.
    """

    steps: int = 6000
    image_batch: int = 96  # CIFAR-10 images
    photo_batch: int = 16
    crop: int = 80  # pixels, of a photograph
    longest: int = 256  # pixels, the largest shortest side that photographs are resized to
    learning_rate: float = 0.003  # of AdamW
    weight_decay: float = 0.02
    muon_learning_rate: float = 0.03
    muon_weight_decay: float = 0.05
    momentum: float = 0.95  # of Muon
    warmup: int = 100  # steps, then a half cosine to 0
    uniform_share: float = 0.995  # lambda of the rebalancing
    hint_share: float = 0.5  # of the images, with hints
    stretch: float = 1.0  # of photographs, at most
    gamma: float = 1.0  # of the lightness of photographs, at most
    noise: float = 0.0  # in the lightness of photographs, at most, in units of L
    statistics_crops: int = 2000  # of photographs, for the rebalancing
    log_every: int = 25
    checkpoint_every: int = 200
    seed: int = 0


@dataclass
class Progress:
    """What a checkpoint holds: the model, the optimizers and the log up to `step`."""

    colorizer: CompactColorizer
    optimizers: list[torch.optim.Optimizer]
    step: int
    rows: list[dict[str, float]]


def start(recipe: Recipe, out: Path, initial: CompactColorizer | None = None) -> Progress:
    """A new fit, from `initial` or random weights, or the one whose checkpoint stands in `out`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        colorizer = CompactColorizer()
    if initial is not None:
        colorizer.load_state_dict(initial.state_dict())
    hidden: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in colorizer.named_parameters():
        matrix = parameter.ndim == 4 and not name.startswith(("stem", "head"))
        (hidden if matrix else others).append(parameter)
    muon = Muon(hidden, recipe.muon_learning_rate, recipe.momentum, recipe.muon_weight_decay)
    adam = torch.optim.AdamW(others, recipe.learning_rate, weight_decay=recipe.weight_decay)
    progress = Progress(colorizer, [muon, adam], 0, [])
    path = out / "checkpoint.safetensors"
    if path.exists():
        load_checkpoint(progress, recipe, path)
        logger.info("continuing at step %d", progress.step)
    return progress


def save_checkpoint(progress: Progress, recipe: Recipe, out: Path) -> None:
    """Write checkpoint.safetensors and fit.csv, each atomically."""
    tensors = {f"model.{key}": value for key, value in progress.colorizer.state_dict().items()}
    for number, optimizer in enumerate(progress.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{index}.{name}": value for name, value in state.items()}
    note = json.dumps({"recipe": asdict(recipe), "step": progress.step, "rows": progress.rows})
    contiguous = {key: value.contiguous() for key, value in tensors.items()}
    content = safetensors.torch.save(contiguous, metadata={"fit": note})
    write_atomically(out / "checkpoint.safetensors", content)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["step", "loss_images", "loss_photos", "seconds_per_step"])
    writer.writeheader()
    writer.writerows(progress.rows)
    write_atomically(out / "fit.csv", table.getvalue().encode())


def load_checkpoint(progress: Progress, recipe: Recipe, path: Path) -> None:
    """Set `progress` to what stands in a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            note: dict[str, Any] = json.loads(file.metadata()["fit"])
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConcertError(f"{path} is damaged or no checkpoint of a fit: remove it") from error
    if note["recipe"] != asdict(recipe):
        raise ConcertError(f"{path} belongs to other settings: repeat them or choose another --out")
    model = {key[6:]: value for key, value in tensors.items() if key.startswith("model.")}
    progress.colorizer.load_state_dict(model)
    for number, optimizer in enumerate(progress.optimizers):
        state = optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"{number}."):
                _, index, name = key.split(".")
                state["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(state)
    progress.step, progress.rows = note["step"], note["rows"]

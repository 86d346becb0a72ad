"""What training must remember to go on after an interruption as if there had been none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from concert.errors import ConcertError
from concert.objectives import LossTerms
from concert.recipes.config import TrainingSettings
from concert.runs import tensors_of
from concert.training.checkpoints import load_latest, save_checkpoint


@dataclass
class EpochMetrics:
    """One row of metrics.csv: means over the epoch's images, extremes of sigma, throughput."""

    epoch: int
    lr: float
    loss: float = 0.0
    classification: float = 0.0
    robustness: float = 0.0
    penalty: float = 0.0
    soft_accuracy: float = 0.0
    sigma_min: float = float("inf")
    sigma_mean: float = 0.0
    sigma_max: float = 0.0
    images: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0

    def add(self, terms: LossTerms, count: int, seconds: float) -> None:
        """Accumulate a batch of `count` images."""
        self.images += count
        low, high = torch.aminmax(terms.sigma)
        values = torch.stack(
            [
                terms.total.detach(),
                terms.classification,
                terms.robustness,
                terms.penalty,
                terms.soft_correct / count,
                terms.sigma.mean(),
                low,
                high,
            ]
        ).tolist()
        names = ("loss", "classification", "robustness", "penalty", "soft_accuracy", "sigma_mean")
        for name, value in zip(names, values, strict=False):
            before = getattr(self, name)
            setattr(self, name, before + (value - before) * count / self.images)
        self.sigma_min = min(self.sigma_min, values[-2])
        self.sigma_max = max(self.sigma_max, values[-1])
        self.seconds += seconds
        self.images_per_second = self.images / max(self.seconds, 1e-9)


@dataclass
class TrainingState:
    """The modules, the optimizer and the position in the run; `step` counts within the epoch.

    `inputs`: hashes of the training images and the colorizer, which must not change within a run.
    """

    classifier: nn.Module
    noise: nn.Module
    optimizer: torch.optim.SGD
    epoch: int = 0
    step: int = 0
    current: EpochMetrics | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        yield "classifier", self.classifier
        yield "noise", self.noise

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in self._modules():
            for name, parameter in module.named_parameters():
                yield f"{prefix}.{name}", parameter

    def save(self, folder: Path) -> None:
        """Write a checkpoint of everything below."""
        tensors = {
            f"{prefix}.{name}": tensor
            for prefix, module in self._modules()
            for name, tensor in module.state_dict().items()
        }
        for name, parameter in self._parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        position = {
            "epoch": self.epoch,
            "step": self.step,
            "current": None if self.current is None else asdict(self.current),
            "rows": self.rows,
            "inputs": self.inputs,
        }
        save_checkpoint(folder, self.epoch * 10**6 + self.step, tensors, position)

    def resume(self, folder: Path) -> bool:
        """Take over the newest intact checkpoint of `folder`; False if there is none."""
        found = load_latest(folder)
        if found is None:
            return False
        tensors, position = found
        for name, there in position["inputs"].items():
            here = self.inputs.get(name, "none")
            if there != here:
                raise ConcertError(
                    f"the run in {folder.parent} was begun with another {name} (sha256 "
                    f"{there[:12]}, now {here[:12]}): restore it, or choose another --out"
                )
        for prefix, module in self._modules():
            try:
                module.load_state_dict(tensors_of(tensors, prefix))
            except RuntimeError as error:
                raise ConcertError(
                    f"the checkpoint in {folder} does not fit the {prefix}: {error}".splitlines()[0]
                ) from None
        for name, parameter in self._parameters():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                layout = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = layout
        self.epoch, self.step, self.rows = position["epoch"], position["step"], position["rows"]
        self.current = EpochMetrics(**position["current"]) if position["current"] else None
        return True

    def table(self) -> str:
        """metrics.csv: a row per finished epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(EpochMetrics(0, 0.0).__dict__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


def make_optimizer(
    settings: TrainingSettings, classifier: nn.Module, noise: nn.Module
) -> torch.optim.SGD:
    """Stochastic gradient descent over both networks, each with its own learning-rate scale."""
    groups = [
        {"params": list(classifier.parameters()), "scale": 1.0},
        {"params": list(noise.parameters()), "scale": settings.generator_lr_scale},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """Step decay: lr * lr_decay^(milestones passed)."""
    passed = sum(epoch >= milestone for milestone in settings.milestones)
    return settings.lr * settings.lr_decay**passed

"""How processes share the training of one model: networks, batches, and the wish to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from concert.classifiers import Denoised
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.recipes.config import TrainingSettings
from concert.streams import keyed_generator


def distributed(fabric: Fabric, classifier: nn.Module, noise: NoiseModel) -> tuple[Any, Any]:
    """Both networks as their gradients are summed over processes and in the precision asked for."""
    f = fabric.setup_module(classifier)
    if isinstance(classifier, Denoised):
        f.mark_forward_method("denoise_and_classify")
    if not any(True for _ in noise.parameters()):
        return f, noise.to(fabric.device)
    g = fabric.setup_module(noise)
    noise.float()  # noise is made and added in float32, whatever the classifier's weights are
    for method in ("copies", "copies_from", "instability"):
        g.mark_forward_method(method)
    return f, g


def check_precision(settings: TrainingSettings, noise: NoiseModel, processes: int) -> None:
    """Refuse weights of low precision where a trained generator is shared by processes.

    Fabric would then cast to that precision whatever the generator is given.
    """
    low = settings.precision.endswith("-true") and not settings.precision.startswith(("32", "64"))
    if low and processes > 1 and any(True for _ in noise.parameters()):
        mixed = settings.precision.replace("true", "mixed")
        raise ConcertError(
            f"training.precision {settings.precision} with a generator needs a single process: use "
            f"{mixed}, or training.devices 1"
        )


def share_of(batch: Tensor, fabric: Fabric) -> Tensor:
    """This process's images of a batch; the first serve twice where they do not divide evenly."""
    count = -(-len(batch) // fabric.world_size)
    places = torch.arange(count) * fabric.world_size + fabric.global_rank
    return batch[places % len(batch)]


def any_of(fabric: Fabric, asked: bool) -> bool:
    """Whether any process asks; all of them must call this at the same step."""
    if fabric.world_size == 1:
        return asked
    votes: Any = fabric.all_reduce(torch.tensor(float(asked), device=fabric.device), None, "sum")
    return float(votes) > 0


@contextmanager
def seeded(device: torch.device, *address: int) -> Iterator[None]:
    """Torch's own generators seeded by an address for a while, for layers such as dropout."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(keyed_generator(*address).initial_seed())
        yield

"""Generators by name, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from concert.errors import ConcertError, nearest
from concert.generator.bounded import BoundedGenerator
from concert.generator.coarse import CoarseGenerator
from concert.generator.codebook import CodebookGenerator
from concert.generator.paper import PaperGenerator

GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "paper": PaperGenerator,
    "coarse": CoarseGenerator,
    "codebook": CodebookGenerator,
    "bounded": BoundedGenerator,
}


def build_generator(
    name: str,
    channels: int,
    low: float,
    high: float,
    init_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The generator `name` (see `GENERATORS`) with further arguments of its constructor."""
    if name not in GENERATORS:
        raise ConcertError(nearest("generator", name, GENERATORS))
    try:
        return GENERATORS[name](channels, low, high, **(init_args or {}))
    except TypeError as error:
        raise ConcertError(f"wrong arguments for generator '{name}': {error}") from error


def multiply_adds(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image of `shape` (C, H, W)."""
    reference = next(module.parameters())
    image = torch.zeros(1, *shape, dtype=reference.dtype, device=reference.device)
    training = module.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            module.eval()(image)
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2

"""The network in torch: as it is, with batch norm folded, and compiled if asked for."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from concert.engines.base import Engine
from concert.engines.inference import deciding, dtype_of, inference_copy, rounding, twin
from concert.engines.rewriting import is_rewritten
from concert.errors import ConcertError


def noisy_probe(shape: tuple[int, int, int], count: int = 8) -> Tensor:
    """Images (count, C, H, W) plus noise, the same ones always, to compare two engines on."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand((count, *shape), generator=generator)
    return probe + 0.25 * torch.randn(probe.shape, generator=generator)


def drift_of(got: Tensor, wanted: Tensor) -> float:
    """The largest difference of two engines' logits (B, K), of those that can decide a vote."""
    got, wanted = deciding(got), deciding(wanted)
    return float(torch.where(got == wanted, 0.0, (got - wanted).abs()).max())


def check_drift(name: str, got: Tensor, wanted: Tensor) -> float:
    """`drift_of`; refuses one that is no rounding."""
    drift, most = drift_of(got, wanted), rounding(wanted)
    if not drift <= most:
        raise ConcertError(
            f"engine '{name}' gives logits that differ by {drift:.2g} from the trained network's: "
            f"that is no rounding, which would be {most:.2g} at most; use another engine"
        )
    return drift


class EagerEngine(Engine):
    """A private copy of the classifier, channels-last, batch norm folded where that is exact."""

    def __init__(
        self,
        classifier: nn.Module,
        shape: tuple[int, int, int],
        num_classes: int,
        device: torch.device,
        tolerance: float,
    ) -> None:
        self.dtype = dtype_of(classifier)
        probe = noisy_probe(shape).to(device, self.dtype)
        self.network = inference_copy(classifier, probe, num_classes, tolerance)
        traced = isinstance(self.network, GraphModule)
        how = ("-folded" if traced else "") + ("-rewritten" if is_rewritten(self.network) else "")
        self.name = f"torch-eager-{str(self.dtype).removeprefix('torch.')}{how}"
        self._own = threading.local()

    def __call__(self, images: Tensor) -> Tensor:
        if not hasattr(self._own, "network"):
            self._own.network = twin(self.network)
        logits: Tensor = self._own.network(images.to(self.dtype))
        return logits


class CompiledEngine(Engine):
    """`torch.compile` of an eager engine's network, for batches of the size of `probe`, which are
    to be channels-last; its first batches take a while.
    """

    def __init__(self, eager: EagerEngine, probe: Tensor) -> None:
        self.dtype = eager.dtype
        self.compiled: Any = torch.compile(eager.network, dynamic=False)
        probe = probe.to(self.dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            try:
                got, wanted = self.compiled(probe), eager.network(probe)
            except Exception as error:
                raise ConcertError(
                    "torch.compile does not take this classifier "
                    f"({str(error).strip().splitlines()[0]}): use engine 'torch'"
                ) from error
        check_drift("torch-compile", got, wanted)
        self.name = eager.name.replace("torch-eager", f"torch-compile-{torch.__version__}")
        # Only a traced network is known to keep nothing in itself: others take turns.
        traced = isinstance(eager.network, GraphModule)
        self._turn: AbstractContextManager[Any] = nullcontext() if traced else threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        with self._turn:
            logits: Tensor = self.compiled(images.to(self.dtype))
        return logits

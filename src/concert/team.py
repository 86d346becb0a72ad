"""The processes that share a job: one alone, or several on one machine or many.

Lightning Fabric starts them, or finds itself started by torchrun or SLURM. They exchange plain
Python values, never tensors, and nothing while they work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from concert.errors import ConcertError, TeamEndedError
from concert.workers import end_workers, starting

T = TypeVar("T")

# One process may be done long before another. One that has ended is noticed at once all the same.
_PATIENCE: Final = timedelta(days=30)


@dataclass(frozen=True)
class Team:
    """This process's number, `rank`, among `size`, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; waits for all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(values, value)
        except RuntimeError as error:
            raise TeamEndedError(
                "another process has ended "
                f"({str(error).strip().splitlines()[0]}); the same command goes on from here"
            ) from None
        return values


def make_fabric(
    accelerator: str, devices: int, num_nodes: int, precision: str = "32-true"
) -> Fabric:
    """Fabric on the asked devices; one that is not there is one line."""
    several = devices * num_nodes > 1
    try:
        return Fabric(
            accelerator=accelerator,
            strategy=DDPStrategy(timeout=_PATIENCE) if several else "auto",
            devices=devices,
            num_nodes=num_nodes,
            precision=precision,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConcertError(
            f"there is no accelerator '{accelerator}' with precision '{precision}' and {devices} "
            f"device(s) here: {str(error).strip().splitlines()[0]}"
        ) from None


def team_fabric(accelerator: str, devices: int, num_nodes: int) -> Fabric | None:
    """What is to start the processes of a command, or None for one process alone."""
    for name, count in (("devices", devices), ("num_nodes", num_nodes)):
        if count < 1:
            raise ConcertError(f"--{name} must be at least 1, got {count}")
    return None if devices * num_nodes == 1 else make_fabric(accelerator, devices, num_nodes)


@contextmanager
def launch(fabric: Fabric | None) -> Iterator[Team]:
    """Start Fabric's processes; each of them enters the context.

    When it ends by an exception, the processes that this one has started stop at a safe point. They
    are waited for in any case.
    """
    if fabric is None:
        yield Team()
        return
    with starting():
        fabric.launch()
    workers = tuple(getattr(fabric.strategy.launcher, "procs", ()))
    try:
        yield Team(fabric.global_rank, fabric.world_size, fabric.device)
    except BaseException:
        if fabric.world_size > 1 and torch.distributed.is_initialized():
            # Or else a process that waits for this one's answer would never hear that none comes.
            torch.distributed.destroy_process_group()
        end_workers(workers, ask=True)
        raise
    end_workers(workers, ask=False)

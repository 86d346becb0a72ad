"""The processes that share a job: one alone, or several on one machine or many.

Lightning Fabric starts them, or finds itself started by torchrun or SLURM. They exchange plain
Python values, never tensors, and nothing while they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from concert.errors import ConcertError

T = TypeVar("T")


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
            raise ConcertError(
                "another process has ended "
                f"({str(error).strip().splitlines()[0]}); the same command goes on from here"
            ) from None
        return values


def make_fabric(
    accelerator: str, devices: int, num_nodes: int, precision: str = "32-true"
) -> Fabric:
    """Fabric on the asked devices; one that is not there is one line."""
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision=precision,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConcertError(
            f"there is no accelerator '{accelerator}' with precision '{precision}' and {devices} "
            f"device(s) here: {str(error).strip().splitlines()[0]}"
        ) from None


def make_team(accelerator: str, devices: int, num_nodes: int) -> Team:
    """Start the processes of a command; each of them returns from here."""
    for name, count in (("devices", devices), ("num_nodes", num_nodes)):
        if count < 1:
            raise ConcertError(f"--{name} must be at least 1, got {count}")
    if devices * num_nodes == 1:
        return Team()
    fabric = make_fabric(accelerator, devices, num_nodes)
    fabric.launch()
    return Team(fabric.global_rank, fabric.world_size, fabric.device)

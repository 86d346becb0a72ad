"""Noise streams: every standard normal number has an address.

The address of a block of draws is (seed, domain, image index, block, lane). Nothing else decides
its numbers: not the order of images, the batching, the number of workers, nor a restart. A block
holds
`DRAWS_PER_BLOCK` draws; the lanes are the independent normals that one draw needs.

On the processor the source is the Philox 4x64 counter generator with NumPy's ziggurat, whose
float32 tail reaches beyond 8 sigma (torch's own is cut at 5.77 sigma, which matters in many
dimensions). On other devices it is the device's own generator, seeded by a hash of the address; its
numbers are the same on devices of one kind only.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import torch
from torch import Tensor

from concert.errors import ConcertError

DRAWS_PER_BLOCK: Final = 16


class Domain(IntEnum):
    """What draws are for; draws of different domains are independent."""

    SELECT = 1
    CERTIFY = 2
    PREDICT = 3
    TRAIN = 4
    ATTACK = 5
    AUDIT = 6


def fresh_seed() -> int:
    """A 63-bit seed from the operating system, for predictions an attacker must not guess."""
    return secrets.randbits(63)


def source_name(device: torch.device, draws: str = "normals") -> str:
    """The source of a device's normals, or of its uniform integers ("bits"), for the log."""
    if device.type == "cpu":
        return "philox4x64-bits" if draws == "bits" else "philox4x64-ziggurat"
    # How a seed is spread over a GPU's threads depends on its kind.
    known = device.type == "cuda" and torch.cuda.is_available()
    name = f"-{torch.cuda.get_device_name(device)}" if known else ""
    return f"torch-{device.type}{name}" + ("-bits" if draws == "bits" else "")


# A generator for each thread: new ones for every block cost time, and those of several threads may
# share a cache line.
_own = threading.local()


@dataclass(frozen=True)
class Stream:
    """The draws of one image in one domain; `seed` and `index` lie in [0, 2^63)."""

    seed: int
    domain: Domain
    index: int

    def __post_init__(self) -> None:
        if not (0 <= self.seed < 2**63 and 0 <= self.index < 2**63):
            raise ConcertError(
                f"seed and image index must lie in [0, 2^63), got {self.seed} and {self.index}"
            )

    def fill(self, block: int, lane: int, out: Tensor) -> None:
        """Overwrite `out` (contiguous float32) with the standard normals of one block and lane.

        A shorter `out` gets the beginning of the block's numbers on the processor.
        """
        if out.device.type == "cpu":
            self._philox(block, lane).standard_normal(dtype=np.float32, out=out.numpy())
        else:
            out.normal_(generator=self._torch_generator(block, lane, out.device))

    def fill_bits(self, block: int, lane: int, out: Tensor) -> None:
        """Overwrite `out` (contiguous int64) with 64 uniform bits each, of one block and lane.

        They are the source of the block's normals, so a draw must not use both.
        """
        if out.device.type == "cpu":
            # The generator's words as they come; unlike `random_raw` it frees other threads.
            words = self._philox(block, lane).integers(
                0, 2**64 - 1, out.numel(), dtype=np.uint64, endpoint=True
            )
            out.copy_(torch.from_numpy(words.view(np.int64)).reshape(out.shape))
        else:
            out.random_(-(2**63), None, generator=self._torch_generator(block, lane, out.device))

    def _philox(self, block: int, lane: int) -> np.random.Generator:
        """This thread's generator at the beginning of a block and lane."""
        if not hasattr(_own, "generator"):
            _own.generator = np.random.Generator(np.random.Philox(key=0))
            _own.start = _own.generator.bit_generator.state
        _own.start["state"] = {
            "key": np.array([self.seed, self.domain], dtype=np.uint64),
            "counter": np.array([0, lane, block, self.index], dtype=np.uint64),
        }
        _own.generator.bit_generator.state = _own.start
        return _own.generator  # type: ignore[no-any-return]

    def _torch_generator(self, block: int, lane: int, device: torch.device) -> torch.Generator:
        address = (self.seed, self.domain, self.index, block, lane)
        return keyed_generator(*address, device=device)


def keyed_generator(*address: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by a hash of an address, such as (seed, domain, epoch, step)."""
    text = ",".join(str(int(part)) for part in address)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest, "little"))
    return generator

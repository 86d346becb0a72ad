"""Full float32 arithmetic while votes are counted, whatever the process has chosen."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch.nn import functional

from concert.errors import ConcertError

# Of float32, of a sum of 144 products; bfloat16 is off by a thousand times as much.
MOST_ROUNDING: Final = 1e-5
# A setting of the process: of which object, its name, and its value for full precision.
Setting = tuple[Any, str, Any]


class _Matmul:
    """torch.set_float32_matmul_precision as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


def settings_of(device: torch.device) -> list[Setting]:
    """TensorFloat-32 of a GPU; bfloat16 of a processor, by oneDNN."""
    backends: Any = torch.backends
    if device.type == "cuda":
        older = [(part, "allow_tf32", False) for part in (backends.cudnn, backends.cuda.matmul)]
        parents = [getattr(part, "fp32_precision", "none") for part in (backends, backends.cudnn)]
        # The older names leave it to the parents of the newer ones, and raise once they disagree.
        with contextlib.suppress(RuntimeError):
            for part, name, _ in older:
                getattr(part, name)
            if parents == ["none", "none"]:
                return older
        parts = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    elif device.type == "cpu":
        if not hasattr(backends.mkldnn, "conv"):  # torch before 2.9
            return [(_Matmul(), "precision", "highest")]
        parts = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    else:
        parts = []
    return [(part, "fp32_precision", "ieee") for part in parts]


@functools.cache
def rounding_of_this_processor() -> float:
    """Largest error of a small convolution in float32; about 1e-6, in bfloat16 several 1e-3.

    By oneDNN's own setting in the environment it is larger, and nothing takes that back in a
    process that has begun to compute.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, 16, 12, 12), generator=generator)
    weight = torch.randn((32, 16, 3, 3), generator=generator) / 12.0
    with torch.inference_mode():
        got = functional.conv2d(images, weight)
        return float((got - functional.conv2d(images.double(), weight.double())).abs().max())


def check_processor() -> None:
    """Refuse a processor that keeps fewer bits, with full precision set."""
    error = rounding_of_this_processor()
    if error > MOST_ROUNDING:
        raise ConcertError(
            f"float32 arithmetic of this process is off by {error:.1g}, more than a certificate "
            "may rest on: unset ONEDNN_DEFAULT_FPMATH_MODE and start again"
        )


@dataclass
class _Use:
    """How many ask for full precision on a kind of device, and its settings before the first."""

    users: int = 0
    before: list[Setting] = field(default_factory=list)


_LOCK: Final = threading.Lock()
_USES: Final[dict[str, _Use]] = {}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Without number formats of fewer bits, which drift far beyond the vote margin.

    The settings are the process's: they come back when the last of all that run has ended. Raises
    ConcertError where a processor keeps fewer bits all the same.
    """
    with _LOCK:
        use = _USES.setdefault(device.type, _Use())
        if use.users == 0:
            # What is as it should be is left alone: set, "none" would not come back.
            chosen = [each for each in settings_of(device) if getattr(*each[:2]) != each[2]]
            use.before = [(owner, name, getattr(owner, name)) for owner, name, _ in chosen]
            for setting in chosen:
                setattr(*setting)
        use.users += 1
    try:
        if device.type == "cpu":
            check_processor()
        yield
    finally:
        with _LOCK:
            use.users -= 1
            if use.users == 0:
                for setting in use.before:
                    setattr(*setting)

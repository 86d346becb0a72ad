"""Full float32 arithmetic while votes are counted, whatever the process has chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch

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
    if device.type == "cuda":
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    if device.type != "cpu":
        return []
    parts = [getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")]
    if any(part is None for part in parts):  # torch before 2.9
        return [(_Matmul(), "precision", "highest")]
    return [(part, "fp32_precision", "ieee") for part in parts]


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

    The settings are the process's: they come back when the last of all that run has ended.
    """
    with _LOCK:
        use = _USES.setdefault(device.type, _Use())
        if use.users == 0:
            chosen = settings_of(device)
            use.before = [(owner, name, getattr(owner, name)) for owner, name, _ in chosen]
            for setting in chosen:
                setattr(*setting)
        use.users += 1
    try:
        yield
    finally:
        with _LOCK:
            use.users -= 1
            if use.users == 0:
                for setting in use.before:
                    setattr(*setting)

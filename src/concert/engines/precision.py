"""Full float32 arithmetic while votes are counted, whatever the process has chosen."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from concert.errors import ConcertError

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
        # These may not be read once the newer ones have been set, nor by others if we set those.
        with contextlib.suppress(RuntimeError):
            for part, name, _ in older:
                getattr(part, name)
            return older
        parts = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    elif device.type == "cpu":
        if not hasattr(backends.mkldnn, "conv"):
            return [(_Matmul(), "precision", "highest")]
        parts = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    else:
        parts = []
    return [(part, "fp32_precision", "ieee") for part in parts]


def check_environment() -> None:
    """Refuse fewer bits by oneDNN's own setting: nothing takes it back in a running process."""
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        mode = os.environ.get(name, "")
        if mode.upper() not in ("", "STRICT"):
            raise ConcertError(
                f"{name}={mode} makes float32 arithmetic keep fewer bits than a certificate may "
                "rest on: unset it"
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
    ConcertError if the environment asks for fewer bits on a processor.
    """
    if device.type == "cpu":
        check_environment()
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

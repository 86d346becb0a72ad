"""Which engine a model is deployed with, as its folder says, and building it.

    model/engine.json  model/engine.onnx

Without them the engine is torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from concert.engines.base import Engine
from concert.engines.onnx_engines import OnnxRuntimeEngine, OpenVINOEngine
from concert.engines.torch_engines import CompiledEngine, EagerEngine, noisy_probe
from concert.errors import ConcertError, nearest

ENGINES: Final = (
    "torch",
    "torch-compile",
    "onnxruntime",
    "onnxruntime-int8",
    "openvino",
    "openvino-int8",
)
CHOICE: Final = "engine.json"
NETWORK: Final = "engine.onnx"


def check_engine(name: str) -> None:
    """Refuse an engine that there is not."""
    if name not in ENGINES:
        raise ConcertError(nearest("engine", name, ENGINES))


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name; `file` and its `sha256` where it runs an exported network."""

    name: str = "torch"
    file: Path | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        check_engine(self.name)
        if self.exported != (self.file is not None):
            raise ConcertError(
                f"engine '{self.name}' needs "
                f"{'an exported network: concert export' if self.exported else 'no file'}"
            )

    @property
    def exported(self) -> bool:
        """Whether the engine runs a file of its own."""
        return not self.name.startswith("torch")

    @property
    def precision(self) -> str:
        """Of the arithmetic: an int8 network is another classifier than the trained one."""
        return "int8" if self.name.endswith("-int8") else "float32"

    @property
    def identity(self) -> dict[str, str]:
        """What a log's identity says of the file, if there is one."""
        return {"engine_sha256": self.sha256} if self.sha256 else {}


def read_choice(model_folder: Path, weights: str) -> EngineChoice:
    """The engine that a model folder says, checked against the hash of the weights and the file."""
    record = model_folder / CHOICE
    if not record.is_file():
        return EngineChoice()
    try:
        text = json.loads(record.read_text())
        name, made_from, digest = str(text["engine"]), text["weights"], str(text.get("sha256", ""))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConcertError(
            f"{record} is damaged ({type(error).__name__}): run `concert export` again"
        ) from None
    if made_from != weights:
        raise ConcertError(
            f"{record} was made from other weights than those beside it: run `concert export` again"
        )
    if not digest:
        return EngineChoice(name)
    file = model_folder / NETWORK
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise ConcertError(f"{file} is missing or damaged: run `concert export` again")
    return EngineChoice(name, file, digest)


def build_engine(
    choice: EngineChoice,
    classifier: nn.Module,
    shape: tuple[int, int, int],
    num_classes: int,
    device: torch.device,
    tolerance: float,
    batch_size: int,
    threads: int,
) -> Engine:
    """The engine of a choice for images of `shape`, `threads` intra-op threads a worker."""
    if not choice.exported:
        eager = EagerEngine(classifier, shape, num_classes, device, tolerance)
        if choice.name == "torch":
            return eager
        return CompiledEngine(eager, noisy_probe(shape, batch_size).to(device))
    if device.type != "cpu":
        raise ConcertError(
            f"engine '{choice.name}' runs on a processor only: pass --accelerator cpu, or "
            "`concert export RUN --engine torch-compile`"
        )
    assert choice.file is not None
    if choice.name.startswith("onnxruntime"):
        return OnnxRuntimeEngine(choice.file, choice.precision, threads)
    return OpenVINOEngine(choice.file, choice.precision, threads, batch_size, shape)

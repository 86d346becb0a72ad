"""An exported network (ONNX) run by ONNX Runtime or OpenVINO, on a processor."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concert.engines.base import Engine
from concert.errors import ConcertError

INPUT, OUTPUT = "images", "logits"


def optional(module: str, extra: str) -> Any:
    """A module of an optional dependency; one line where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConcertError(
            f"{module} is not installed ({error}): pip install 'concert-smoothing[{extra}]'"
        ) from None


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime: one session for all workers, `threads` threads for each call."""

    def __init__(self, file: Path, precision: str, threads: int) -> None:
        runtime = optional("onnxruntime", "onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Threads that spin while they wait take the processor from the other workers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = runtime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ConcertError(f"{file} does not load: {str(error).splitlines()[0]}") from None
        self.name = f"onnxruntime-{runtime.__version__}-{precision}"

    def __call__(self, images: Tensor) -> Tensor:
        (logits,) = self.session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)


class OpenVINOEngine(Engine):
    """OpenVINO: the network compiled once a worker for batches of one size."""

    def __init__(
        self, file: Path, precision: str, threads: int, batch_size: int, shape: tuple[int, int, int]
    ) -> None:
        vino = optional("openvino", "openvino")
        self.core = vino.Core()
        try:
            self.model = self.core.read_model(str(file))
            self.model.reshape([batch_size, *shape])
        except RuntimeError as error:
            raise ConcertError(f"{file} does not load: {str(error).splitlines()[0]}") from None
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned, all workers may find themselves on one core.
            "ENABLE_CPU_PINNING": False,
            # Otherwise OpenVINO chooses bfloat16 by itself on processors that have it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.name = f"openvino-{vino.__version__.split('-')[0]}-{precision}"
        self._workers = threading.local()

    def __call__(self, images: Tensor) -> Tensor:
        if not hasattr(self._workers, "request"):
            compiled = self.core.compile_model(self.model, "CPU", self.settings)
            self._workers.request = compiled.create_infer_request()
        request = self._workers.request
        request.infer({0: images.contiguous().numpy()}, share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

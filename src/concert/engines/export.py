"""Exporting a trained network for another engine, and quantizing it.

The export is checked before it is deployed: a float32 engine must give the trained network's logits
up to rounding; of an int8 network, which is another classifier, it is said how often it votes
otherwise.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from concert.engines.choice import CHOICE, NETWORK, EngineChoice, build_engine, check_engine
from concert.engines.inference import check_rows_alone, dtype_of, private_copy
from concert.engines.onnx_engines import INPUT, OUTPUT, optional
from concert.engines.torch_engines import check_drift, drift_of, noisy_probe
from concert.errors import ConcertError
from concert.files import write_atomically

BATCH: Final = 16


@dataclass(frozen=True)
class ExportResult:
    """drift: largest difference of a logit from the trained network's on the noisy images given.

    votes, images: how many of the images the two put in different classes.
    """

    choice: EngineChoice
    drift: float
    votes: int
    images: int


def export_engine(
    model_folder: Path,
    name: str,
    classifier: nn.Module,
    num_classes: int,
    weights: str,
    noisy: Tensor,
    tolerance: float,
) -> ExportResult:
    """Deploy the classifier of a model folder with engine `name` from now on.

    `noisy` (B, C, H, W): images with the noise that the classifier will see; they calibrate an int8
    network and compare the engine with the trained network. `weights`: hash of the trained weights.
    Raises ConcertError where the export fails or a float32 engine differs by more than rounding;
    what was deployed before is then left as it was. `tolerance` is for folding batch norm.
    """
    check_engine(name)
    shape: tuple[int, int, int] = tuple(noisy.shape[1:])  # type: ignore[assignment]
    classifier = private_copy(classifier)
    content = b""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / NETWORK
        if name.startswith("torch"):
            choice = EngineChoice(name)
        else:
            content = to_onnx(classifier, shape)
            if name.endswith("-int8"):
                content = quantize(content, noisy)
            file.write_bytes(content)
            choice = EngineChoice(name, file, hashlib.sha256(content).hexdigest())
        result = compare(choice, classifier, num_classes, noisy, tolerance)
    record: dict[str, Any] = {"engine": name, "weights": weights}
    if content:
        record |= {"sha256": choice.sha256, "bytes": len(content)}
        write_atomically(model_folder / NETWORK, content)
    record |= {"drift": result.drift, "other_votes": result.votes, "compared": result.images}
    write_atomically(model_folder / CHOICE, json.dumps(record, indent=2) + "\n")
    if not content:
        (model_folder / NETWORK).unlink(missing_ok=True)
    return result


def to_onnx(classifier: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The network as ONNX with a free batch size; ConcertError where torch cannot export it."""
    optional("onnx", "onnxruntime")
    optional("onnxscript", "onnxruntime")
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    device = next((p.device for p in classifier.parameters()), torch.device("cpu"))
    example = torch.zeros((2, *shape), device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                # A copy, so that the one given keeps its precision.
                copy.deepcopy(classifier).float(),
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                verbose=False,
            )
    except Exception as error:
        raise ConcertError(
            "torch cannot export this classifier as ONNX "
            f"({str(error).strip().splitlines()[0]}): use engine 'torch' or 'torch-compile'"
        ) from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def quantize(network: bytes, noisy: Tensor) -> bytes:
    """Static int8 quantization of an ONNX network, ranges from noisy images (B, C, H, W)."""
    quantization = optional("onnxruntime.quantization", "onnxruntime")
    shape_inference = optional("onnxruntime.quantization.shape_inference", "onnxruntime")
    batches = iter(np.split(noisy.cpu().numpy(), range(BATCH, len(noisy), BATCH)))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self, source: Iterator[Any]) -> None:
            self.source = source

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.source, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as scratch:
        plain, ready, small = (Path(scratch) / name for name in ("plain", "ready", "small"))
        plain.write_bytes(network)
        # Folds batch norm first: quantized apart, it would lose most of its precision.
        shape_inference.quant_pre_process(str(plain), str(ready))
        quantization.quantize_static(
            str(ready),
            str(small),
            Reader(batches),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return small.read_bytes()


def compare(
    choice: EngineChoice,
    classifier: nn.Module,
    num_classes: int,
    noisy: Tensor,
    tolerance: float,
) -> ExportResult:
    """How the engine's logits differ from the trained network's on noisy images."""
    shape: tuple[int, int, int] = tuple(noisy.shape[1:])  # type: ignore[assignment]
    device = next((p.device for p in classifier.parameters()), torch.device("cpu"))
    engine = build_engine(choice, classifier, shape, num_classes, device, tolerance, BATCH, 1)
    check_rows_alone(engine, noisy_probe(shape, BATCH).to(device), "network")
    whole = len(noisy) // BATCH * BATCH
    with torch.inference_mode():
        batches = [batch.to(device) for batch in torch.split(noisy[:whole], BATCH)]
        dtype = dtype_of(classifier)
        wanted = torch.cat([classifier(batch.to(dtype)) for batch in batches]).float().cpu()
        got = torch.cat([engine(batch) for batch in batches]).float().cpu()
    if choice.precision == "float32":
        drift = check_drift(choice.name, got, wanted)
    else:
        drift = drift_of(got, wanted)
        if not math.isfinite(drift):
            raise ConcertError(
                f"engine '{choice.name}' gives logits that are no numbers, as of classes ruled out "
                "by minus infinity: use an engine of float32"
            )
    votes = int((got.argmax(dim=1) != wanted.argmax(dim=1)).sum())
    return ExportResult(choice, drift, votes, whole)

"""Checkpoints of other projects: their layouts, and which network their tensors are of.

All are read without running any code of theirs:

    {"epoch", "arch", "state_dict", "optimizer"}   Cohen et al. 2019, SmoothAdv, consistency
    {"net", "epoch"}                               MACER
    a state dict by itself, or safetensors         anyone's

The first one's keys begin with "1.", because the normalisation is part of the model, and with
"1.module." where the network ran on several devices. The normalisation owns no tensors, so which
one it was is not in the file: Cohen's subtracts mean and divides by std, SmoothAdv's subtracts only
the mean in most models, MACER has none.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from concert.errors import ConcertError

Tensors = Mapping[str, Tensor]
Normalization = Literal["standard", "center", "none"]

# What wraps a network's own keys: Sequential(normalisation, network) and DataParallel.
WRAPPERS: Final = ("module.", "1.")
BATCH_COUNTER: Final = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors under their own names, and what it says about itself.

    layout: "state_dict", "net" or "tensors". facts: "arch" and "epoch", where they are given.
    sha256: of the file.
    """

    tensors: dict[str, Tensor]
    layout: str
    facts: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Architecture:
    """One of our classifiers by name, as the shapes of a checkpoint's tensors tell it."""

    name: str
    num_classes: int
    shape: tuple[int, int, int]
    init_args: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any of the layouts above; ConcertError for anything else."""
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise ConcertError(f"{path} is a folder: give the checkpoint file in it") from None
    except OSError as error:
        raise ConcertError(f"cannot read {path}: {error.strerror}") from None
    saved = _load(path, content)
    layout, tensors = _layout(path, saved)
    names = ("arch", "epoch")
    facts = {name: saved[name] for name in names if isinstance(saved.get(name), str | int)}
    return Checkpoint(tensors, layout, facts, hashlib.sha256(content).hexdigest())


def unwrapped(tensors: Tensors) -> tuple[dict[str, Tensor], bool]:
    """Tensors under the network's own keys, and whether a normalisation stood before it."""
    normalized = False
    while True:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if wrapper is None:
            return dict(tensors), normalized
        normalized |= wrapper == "1."
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def named_as_in(network: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors with or without their wrappers, whichever the network's own names are."""
    own = {name for name in network.state_dict() if not name.endswith(BATCH_COUNTER)}
    return dict(tensors) if own <= tensors.keys() else unwrapped(tensors)[0]


def recognize(tensors: Tensors, size: int | None = None) -> Architecture:
    """Which of our classifiers has tensors of these names and shapes, for images of `size`."""
    try:
        first, channels = tensors["conv1.weight"], int(tensors["conv1.weight"].shape[1])
        if "fc1.weight" in tensors:
            size = size or _lenet_size(tensors)
            arguments = {"image_size": size}
            classes = len(tensors["fc2.weight"])
            return Architecture("lenet", classes, (channels, size, size), arguments)
        classes = len(tensors["fc.weight"])
        blocks = len({name.split(".")[1] for name in tensors if name.startswith("layer1.")})
        if len(first) == 64 and "layer4.0.conv3.weight" in tensors:
            size = size or 224
            return Architecture("resnet50", classes, (channels, size, size), {})
        if len(first) == 16 and blocks and "layer4.0.conv1.weight" not in tensors:
            size = size or 32
            return _cifar_resnet(6 * blocks + 2, classes, (channels, size, size))
    except (KeyError, IndexError):
        pass
    raise ConcertError(
        f"the checkpoint's tensors ({', '.join(list(tensors)[:3])}, ...) are of none of lenet, "
        "resnet20, resnet110 and resnet50: give the classifier by --classifier.name module.Class"
    )


def fill(network: nn.Module, tensors: Tensors) -> None:
    """Load tensors into a network; every name and shape must be the network's own.

    Counters of batch norm, which checkpoints of old versions of torch lack, stay at 0. Floating
    point values of any precision are taken as the network's own. ConcertError for what is missing,
    left over, of another shape or not finite.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            if name.endswith(BATCH_COUNTER):
                continue
            raise ConcertError(_mismatch(f"the checkpoint has no '{name}'"))
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            raise ConcertError(_mismatch(f"the checkpoint's '{name}' has shape {shapes}"))
        if not bool(tensors[name].isfinite().all()):
            raise ConcertError(
                f"the checkpoint's '{name}' has values that are not finite: it "
                "is damaged, or its training failed"
            )
    left = [name for name in tensors if name not in wanted]
    if left:
        raise ConcertError(_mismatch(f"the checkpoint's '{left[0]}' is not in the classifier"))
    network.load_state_dict({**wanted, **tensors})


def mean_and_std(
    choice: Normalization | None,
    normalized: bool,
    known: tuple[Sequence[float], Sequence[float]] | None,
    data: str,
) -> tuple[list[float], list[float]] | None:
    """The normalisation in front of an imported network: (mean, std) per channel, or None.

    `choice` is the user's: "standard" (mean and std, Cohen), "center" (mean only, most models of
    SmoothAdv) or "none". Without one: none for a checkpoint whose model had no normalisation; one
    that had it is refused, because the file does not say which, and the wrong one costs all
    accuracy. `known`: the data set's usual values.
    """
    if choice is None and normalized and known is not None:
        raise ConcertError(
            "the checkpoint's model had a normalisation, and the file does not say which: give "
            "--normalization standard (mean and std: Cohen), center (mean only: most models of "
            "SmoothAdv) or none"
        )
    if choice is None or choice == "none":
        return None
    if known is None:
        raise ConcertError(
            f"{data} has no usual mean and std: give --mean and --std, or --normalization none"
        )
    mean, std = known
    return list(mean), list(std) if choice == "standard" else [1.0] * len(mean)


def _load(path: Path, content: bytes) -> dict[str, Any]:
    """The file's dictionary, without running code."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_safetensors(content))
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise ConcertError(
                f"{path} is a pickle that wants to run code, which is refused: save its "
                "state_dict() alone where you trust it, and import that"
            ) from None
        raise ConcertError(f"{path} is no checkpoint of torch: give one, or safetensors") from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ConcertError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}): give a checkpoint of "
            "torch or a .safetensors file"
        ) from None
    if not isinstance(saved, dict):
        raise ConcertError(
            f"{path} holds a {type(saved).__name__}, not a state dict: save state_dict() of the "
            "model"
        )
    return saved


def _layout(path: Path, saved: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    for layout in ("state_dict", "net"):
        if isinstance(saved.get(layout), dict):
            return layout, _only_tensors(path, saved[layout])
    return "tensors", _only_tensors(path, saved)


def _only_tensors(path: Path, found: Mapping[str, Any]) -> dict[str, Tensor]:
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if strange or not found:
        what = f"'{strange[0]}' is no tensor" if strange else "it is empty"
        raise ConcertError(
            f"{path} has no layout that is known ({what}): it should be a state dict, or hold one "
            "under 'state_dict' or 'net'"
        )
    return dict(found)


def _lenet_size(tensors: Tensors) -> int:
    """The smallest square image whose features have as many entries as the first layer takes."""
    side = math.isqrt(tensors["fc1.weight"].shape[1] // len(tensors["conv2.weight"]))
    return 4 * side + 12


def _cifar_resnet(depth: int, classes: int, shape: tuple[int, int, int]) -> Architecture:
    if depth in (20, 110):
        return Architecture(f"resnet{depth}", classes, shape, {})
    arguments = {"depth": depth, "num_classes": classes, "in_channels": shape[0]}
    return Architecture("concert.classifiers.CifarResNet", classes, shape, arguments)


def _mismatch(what: str) -> str:
    return (
        f"{what}: the checkpoint is of another architecture; give the right one by "
        "--classifier.name and --classifier.init_args"
    )

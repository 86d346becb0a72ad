"""Checkpoints of other projects: their layouts, and which network their tensors are of.

Three are read:

    {"epoch", "arch", "state_dict", "optimizer"}   Cohen et al. 2019, SmoothAdv, consistency
    {"net", "epoch"}                               MACER
    a state dict by itself, or safetensors         anyone's

No code of theirs is run, and nothing larger than the file is made of it. How their tensors come
into one of our networks is in `concert.foreign.weights`.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from concert.errors import ConcertError

Tensors = Mapping[str, Tensor]

# What the weights of a network are stored in; the quantised and complex types are none of these.
NUMBERS: Final = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
# The deepest network of He et al. (2016). More "blocks" are names that somebody made up.
DEEPEST: Final = 1202


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


def recognize(tensors: Tensors, size: int | None = None) -> Architecture:
    """Which of our classifiers has tensors of these names and shapes, for images of `size`."""
    try:
        width, channels = tensors["conv1.weight"].shape[:2]
        if "fc1.weight" in tensors:
            size = size or _lenet_size(tensors)
            arguments = {"image_size": size}
            classes = tensors["fc2.weight"].shape[0]
            return Architecture("lenet", classes, (channels, size, size), arguments)
        classes = tensors["fc.weight"].shape[0]
        blocks = len({name.split(".")[1] for name in tensors if name.startswith("layer1.")})
        if width == 64 and "layer4.0.conv3.weight" in tensors:
            size = size or 224
            return Architecture("resnet50", classes, (channels, size, size), {})
        depth = 6 * blocks + 2
        if width == 16 and 2 < depth <= DEEPEST and "layer4.0.conv1.weight" not in tensors:
            size = size or 32
            return _cifar_resnet(depth, classes, (channels, size, size))
    # A name that is not there, or a tensor of too few dimensions or of none of the features.
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        pass
    first = [name for name in tensors if name.startswith("0.")]
    # A number or so for each channel.
    if first and all(tensors[name].numel() <= 4 for name in first):
        raise ConcertError(
            f"the checkpoint has tensors of what is before the network ({', '.join(first[:3])}): "
            "if they are a normalisation's, leave them out of the file and give --mean and --std; "
            "else give the classifier by --classifier.name module.Class"
        )
    raise ConcertError(
        f"the checkpoint's tensors ({', '.join(list(tensors)[:3])}, ...) are of none of lenet, "
        "resnet20, resnet110 and resnet50: give the classifier by --classifier.name module.Class"
    )


def check_arch(arch: object, found: Architecture) -> None:
    """Refuse a checkpoint that names a network other than the one that its tensors are of.

    Only the names that published checkpoints have for our networks are compared.
    """
    if not isinstance(arch, str) or not re.fullmatch(r"lenet|(cifar_)?resnet\d+", arch):
        return
    depth = found.init_args.get("depth")
    name = found.name if depth is None else f"resnet{depth}"
    if arch.removeprefix("cifar_") != name:
        raise ConcertError(
            f"the checkpoint says that it is of {arch}, but its tensors are of {name}: it is "
            "damaged or mixed up; give another one"
        )


def _load(path: Path, content: bytes) -> dict[str, Any]:
    """The file's dictionary, without running code."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_safetensors(content))
        _check_uncompressed(path, content)
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and "GLOBAL" in str(error):
            raise ConcertError(
                f"{path} is a pickle of more than tensors and plain numbers, which may run code "
                "and is refused: save its state_dict() alone where you trust it, and import that"
            ) from None
        raise ConcertError(f"{path} is no checkpoint of torch: give one, or safetensors") from None
    except ConcertError:
        raise
    # What is no checkpoint may fail in any way.
    except Exception as error:
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


def _check_uncompressed(path: Path, content: bytes) -> None:
    """Refuse an archive that would be larger in memory than on disk: torch.save compresses none."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > len(content):
        raise ConcertError(
            f"{path} would take {total:,} bytes of its {len(content):,}: it is no file of "
            "torch.save; save it anew"
        )


def _layout(path: Path, saved: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    for layout in ("state_dict", "net"):
        if isinstance(saved.get(layout), dict):
            return layout, _only_tensors(path, saved[layout])
    return "tensors", _only_tensors(path, saved)


def _only_tensors(path: Path, found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, all of which can be looked at without more memory than theirs.

    A few bytes can claim to be a tensor of any size, by strides of 0 or without any storage.
    """
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if strange or not found:
        what = f"'{strange[0]}' is no tensor" if strange else "it is empty"
        raise ConcertError(
            f"{path} has no layout that is known ({what}): it should be a state dict, or hold one "
            "under 'state_dict' or 'net'"
        )
    for name, tensor in found.items():
        if not isinstance(name, str) or not name.isprintable():
            raise ConcertError(
                f"{path} has a tensor with the name {name!r}: names must be text, as state_dict() "
                "gives them"
            )
        what = _not_plain(tensor)
        if what:
            raise ConcertError(f"{path} has a '{name}' that is {what}: save dense real tensors")
    return dict(found)


def _not_plain(tensor: Tensor) -> str:
    """Why a tensor is none of dense numbers that are in the file; "" if it is."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.dtype not in NUMBERS:
        return f"of type {tensor.dtype}"
    if tensor.device.type != "cpu":
        return f"without values (device {tensor.device})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "larger than what is stored of it"
    return ""


def _lenet_size(tensors: Tensors) -> int:
    """The smallest square image whose features have as many entries as the first layer takes."""
    side = math.isqrt(tensors["fc1.weight"].shape[1] // tensors["conv2.weight"].shape[0])
    return 4 * side + 12


def _cifar_resnet(depth: int, classes: int, shape: tuple[int, int, int]) -> Architecture:
    if depth in (20, 110):
        return Architecture(f"resnet{depth}", classes, shape, {})
    arguments = {"depth": depth, "num_classes": classes, "in_channels": shape[0]}
    return Architecture("concert.classifiers.CifarResNet", classes, shape, arguments)

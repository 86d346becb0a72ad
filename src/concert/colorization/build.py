"""From a setting to a colorizer: the shipped one, a published one, or a class of the user."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from concert.colorization.compact import SHIPPED, load_colorizer
from concert.colorization.entropy import MIN_RANGE, color_entropy
from concert.colorization.layers import STRIDE
from concert.colorization.published import RELEASES, load_published
from concert.errors import ConcertError, nearest
from concert.import_paths import construct, import_module_class, one_line, source_hash

logger = logging.getLogger(__name__)

# The mean entropy of a trained network stays away from both ends of [0, log Q] by these shares:
# that of the shipped one is 0.4 of it, and what was never trained is nearly indifferent.
LOWEST, HIGHEST = 0.01, 0.9
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
PROBE_SIZE = 64


def build_colorizer(
    name: str = SHIPPED, arguments: Mapping[str, Any] | None = None, trust: bool = False
) -> nn.Module:
    """The colorizer of a setting, in evaluation mode, its parameters frozen.

    It maps lightness (B, 1, H, W) in [0, 100], hints (B, 2, H, W) in [-110, 110] and a mask
    (B, 1, H, W) in [0, 1] to logits (B, Q, ceil(H / 4), ceil(W / 4)). It has the attributes
    `fingerprint`, by which cached maps are told apart, and `bins`, its Q. Those of the package also
    have `takes_hints`, and a method `colors` from the same inputs to colours ab (B, 2, H, W). A
    warning is logged if its entropies cannot be those of a trained network.

    Args:
        name: "compact" (shipped); "siggraph17" or "eccv16" (downloaded once); the path of a
            weights file of one of the three; or the import path of an `nn.Module` class.
        arguments: for weights of siggraph17 `mask_center`, 0 (the default) or 0.5; for an import
            path the arguments of the class.
        trust: whether a class from outside `concert` may be imported.

    Raises:
        ConcertError: for whatever does not exist or does not fit.
    """
    given = dict(arguments or {})
    colorizer: Any
    if name != SHIPPED and (name in RELEASES or _is_other_weights(name)):
        colorizer = load_published(name, **_mask_center(name, given))
    elif name == SHIPPED or Path(name).suffix == WEIGHTS_SUFFIXES[0]:
        if given:
            raise ConcertError(
                f"the colorizer '{name}' takes no arguments: leave out {_list(given)}"
            )
        colorizer = load_colorizer(name)
    elif "." in name:
        kind = "colorizer"
        colorizer = construct(kind, name, import_module_class(kind, name, trust), given)
        colorizer.eval().requires_grad_(False)
        if not getattr(colorizer, "fingerprint", ""):
            colorizer.fingerprint = _fingerprint(colorizer, name, given)
    else:
        raise ConcertError(
            nearest("colorizer", name, [SHIPPED, *RELEASES])
            + " (or the path of a weights file, or the import path of a class)"
        )
    colorizer.bins = check_colorizer(colorizer, name)
    module: nn.Module = colorizer
    return module


@torch.no_grad()
def check_colorizer(colorizer: nn.Module, name: str) -> int:
    """The Q of a colorizer; logs a warning if it looks untrained.

    The entropies of a probe picture must vary, and their mean lie clear of 0 and log Q. Some
    published conversions may hold a head for the distribution that was never trained: its maps
    would look like maps. A head of large random weights is not noticed.

    Raises:
        ConcertError: if the colorizer fails or gives no distributions for 4 x 4 cells.
    """
    lightness = probe_picture()
    zeros = torch.zeros_like(lightness)
    try:
        logits = colorizer(lightness, zeros.expand(-1, 2, -1, -1), zeros)
    except ConcertError:
        raise
    # A class of the user may fail in any way.
    except Exception as error:
        raise ConcertError(
            f"the colorizer '{name}' fails on lightness, hints and mask ({one_line(error)}): "
            "see build_colorizer for its inputs"
        ) from error
    cells = PROBE_SIZE // STRIDE
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else (type(logits).__name__,)
    if shape[:1] + shape[2:] != (1, cells, cells):
        raise ConcertError(
            f"the colorizer '{name}' gives {shape} for {PROBE_SIZE} x {PROBE_SIZE} pixels: it must "
            f"give logits (1, Q, {cells}, {cells})"
        )
    entropies = color_entropy(logits)
    low, high, most = float(entropies.min()), float(entropies.max()), log(logits.shape[1])
    mean = float(entropies.mean())
    inside = LOWEST * most < mean < HIGHEST * most
    if not (inside and high - low > MIN_RANGE):
        logger.warning(
            "the colorizer '%s' looks untrained: on a probe picture its entropies are %.4f to %.4f "
            "nats, %.4f in the mean (possible: 0 to %.4f), and they should vary and stay clear of "
            "both ends; its entropy maps mean nothing",
            name,
            low,
            high,
            mean,
            most,
        )
    return int(logits.shape[1])


def probe_picture() -> Tensor:
    """Lightness (1, 1, 64, 64) of a scene: a bright sky over a textured ground, and a ball."""
    y, x = torch.meshgrid(torch.arange(PROBE_SIZE), torch.arange(PROBE_SIZE), indexing="ij")
    sky = 90 - 0.3 * y
    ground = 40 + 12 * torch.sin(0.9 * x + 0.4 * y)
    distance = ((x - 22) ** 2 + (y - 38) ** 2).sqrt()
    scene = torch.where(y < PROBE_SIZE // 2, sky, ground)
    return torch.where(distance < 14, 75 - 3 * distance, scene)[None, None]


def _is_other_weights(name: str) -> bool:
    """Whether `name` is a weights file, but not of the compact colorizer."""
    if not name.endswith(WEIGHTS_SUFFIXES):
        return Path(name).is_file()
    if not name.endswith(WEIGHTS_SUFFIXES[0]):
        return True
    try:
        with safe_open(name, framework="pt") as file:
            keys = set(file.keys())
    except (OSError, SafetensorError):
        return False
    return any(release.mark in keys for release in RELEASES.values())


def _mask_center(name: str, given: Mapping[str, Any]) -> dict[str, float]:
    others = given.keys() - {"mask_center"}
    if others:
        raise ConcertError(f"the colorizer '{name}' has no argument {_list(others)}: leave it out")
    center = given.get("mask_center", 0.0)
    if center not in (0, 0.5):
        raise ConcertError(f"mask_center must be 0 or 0.5, got {center}")
    return {"mask_center": float(center)}


def _fingerprint(colorizer: nn.Module, name: str, given: Mapping[str, Any]) -> str:
    """A hash of a class's name, code, arguments and tensors."""
    code = source_hash(type(part) for part in colorizer.modules())
    digest = hashlib.sha256(f"{name} {code} {sorted(given.items())}\n".encode())
    for key, value in colorizer.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _list(names: Any) -> str:
    return ", ".join(sorted(names))

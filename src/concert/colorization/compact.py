"""The compact colorizer: a small network of our own for the distribution of colours.

It takes the inputs of Zhang et al. (SIGGRAPH 2017), lightness, ab hints and a hint mask, and
returns the logits of the same 529 ab colours at a quarter of the resolution. It has 0.8 million
parameters where theirs has 34 million, works at any size, and its weights come with the package.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from concert.colorization.lab import AB_BINS, AB_LIMIT, decode_ab
from concert.colorization.layers import STRIDE, enlarge
from concert.errors import ConcertError, nearest

ARCHITECTURE = "concert-compact-colorizer-1"
SHIPPED = "compact"


def convolution(
    in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    # Replicated borders: with zeros a constant image would not have a constant map, and on an
    # 8 x 8 map nearly half of the cells touch the border.
    return nn.Conv2d(
        in_channels, out_channels, 3, stride, dilation, dilation, padding_mode="replicate"
    )


def norm_relu(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(channels // 8, channels), nn.ReLU()]


def residual(channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*norm_relu(channels), convolution(channels, channels, dilation=dilation))


class CompactColorizer(nn.Module):
    """Colour distribution of every 4 x 4 block of an image from its lightness and some hints.

    The pixels of a block become the channels of one cell. Residual convolutions work on these cells
    (`fine`, `last`) and, in between, on a grid of half the resolution (`coarse`), where dilations
    let every output see more than 100 pixels across. Group norm makes an output independent of the
    rest of the batch, in training and in evaluation alike.

    `fingerprint` is the SHA-256 of the weights file it was loaded from, "" before that.
    """

    bins = AB_BINS
    takes_hints = True

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.fingerprint = ""
        self.stem = convolution(4 * STRIDE**2, width)
        self.fine = residual(width)
        self.down = nn.Sequential(*norm_relu(width), convolution(width, width, stride=2))
        self.coarse = nn.ModuleList(residual(width, dilation) for dilation in (1, 2, 1, 2))
        self.up = nn.Sequential(*norm_relu(width), nn.Conv2d(width, width, 1))
        self.last = nn.ModuleList(residual(width) for _ in range(2))
        self.head = nn.Sequential(*norm_relu(width), nn.Conv2d(width, AB_BINS, 1))
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def forward(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """Logits of the 529 colours for every block of 4 x 4 pixels.

        Args:
            lightness: (B, 1, H, W) in [0, 100].
            hints: (B, 2, H, W), ab colours in [-110, 110], 0 where nothing is revealed.
            mask: (B, 1, H, W), 1 where the hint is to be believed, else 0.

        Returns:
            (B, 529, ceil(H / 4), ceil(W / 4)); H and W that are no multiples of 4 are padded on
            the right and at the bottom by replicating the border.
        """
        height, width = lightness.shape[-2:]
        inputs = torch.cat([lightness / 50 - 1, hints / AB_LIMIT, mask], dim=1)
        inputs = functional.pad(inputs, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        cells = functional.pixel_unshuffle(inputs, STRIDE)
        cells = self.stem(cells.contiguous(memory_format=torch.channels_last))
        cells = cells + self.fine(cells)
        context = self.down(cells)
        for block in self.coarse:
            context = context + block(context)
        context = functional.interpolate(self.up(context), scale_factor=2, mode="bilinear")
        cells = cells + context[..., : cells.shape[-2], : cells.shape[-1]]
        for block in self.last:
            cells = cells + block(cells)
        logits: Tensor = self.head(cells)
        return logits

    def colors(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """The mean colour ab (B, 2, H, W) of every cell's distribution, bilinearly enlarged."""
        probabilities = self.forward(lightness, hints, mask).softmax(dim=1)
        return enlarge(decode_ab(probabilities), *lightness.shape[-2:])


def save_colorizer(colorizer: CompactColorizer) -> bytes:
    """The content of a weights file: float16 tensors and the name of the architecture."""
    state = {key: value.half().contiguous() for key, value in colorizer.state_dict().items()}
    return safetensors.torch.save(state, metadata={"architecture": ARCHITECTURE})


def load_colorizer(name_or_path: str | Path = SHIPPED) -> CompactColorizer:
    """The compact colorizer in evaluation mode, its parameters frozen, in float32.

    Args:
        name_or_path: "compact", the weights in the package, or the path of a weights file that
            `python -m concert.colorization.fit` wrote. The network is never used.

    Raises:
        ConcertError: if the name is unknown, or the file is missing, corrupt or of another model.
    """
    name = str(name_or_path)
    if name == SHIPPED:
        folder = resources.files("concert.colorization")
        content = _read(folder.joinpath("compact.safetensors"), name)
        expected = json.loads(_read(folder.joinpath("compact.json"), name))["sha256"]
        if hashlib.sha256(content).hexdigest() != expected:
            raise ConcertError("the colorizer in the package is damaged: install concert again")
    elif Path(name).suffix or len(Path(name).parts) > 1:
        content = _read(Path(name), name)
    else:
        raise ConcertError(
            nearest("colorizer", name, [SHIPPED]) + " (or the path of a weights file)"
        )
    return _build(content, name)


def _read(file: Path | Traversable, name: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConcertError(
            f"cannot read the colorizer '{name}' ({error.strerror}): give the path of its weights"
        ) from error


def _build(content: bytes, name: str) -> CompactColorizer:
    other = (
        f"'{name}' does not hold the weights of a compact colorizer: "
        "give a file that python -m concert.colorization.fit wrote"
    )
    try:
        state = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except SafetensorError as error:
        raise ConcertError(f"'{name}' is damaged or no safetensors file: fetch it again") from error
    if header.get("__metadata__", {}).get("architecture") != ARCHITECTURE:
        raise ConcertError(other)
    colorizer = CompactColorizer()
    expected = {key: value.shape for key, value in colorizer.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != expected:
        raise ConcertError(other)
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise ConcertError(f"'{name}' holds weights that are not finite: fetch it again")
    colorizer.load_state_dict({key: value.float() for key, value in state.items()})
    colorizer.fingerprint = hashlib.sha256(content).hexdigest()
    return colorizer.eval().requires_grad_(False)

"""Entropy maps: how ambiguous the colour of every pixel is (the paper's Section 3.3, Eq. 8)."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from concert.colorization.lab import AB_BINS, rgb_to_lab
from concert.colorization.layers import STRIDE
from concert.data.cache import cache_folder
from concert.errors import ConcertError
from concert.files import write_atomically

logger = logging.getLogger(__name__)

# To be raised with every change of what the stored numbers mean.
MAP_VERSION = 1

# In nats, 0.2 % of log 529. A smaller range is left by rounding, not by the image.
MIN_RANGE = 0.01

# In units of L (0..100): far below one step of an 8-bit image, above the rounding of float32.
MIN_CONTRAST = 1e-3


class Images(Protocol):
    """What is needed of a set of images of one size."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int]) -> Tensor: ...


def color_entropy(logits: Tensor) -> Tensor:
    """Entropy of the colour distribution of every cell (Eq. 8), in nats.

    Args:
        logits: (B, Q, h, w).

    Returns:
        (B, 1, h, w) in [0, log Q], from log-probabilities, so that none of them underflows.
    """
    log_probabilities = logits.movedim(1, -1).log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1).unsqueeze(1)


@torch.no_grad()
def raw_entropies(images: Tensor, colorizer: nn.Module) -> Tensor:
    """Entropy of every 4 x 4 block of images (B, C, H, W) in [0, 1], without hints, in nats.

    The result is (B, 1, ceil(H / 4), ceil(W / 4)). An image of constant lightness tells nothing
    about any pixel, so all its entropies are replaced by their mean: what a network makes of the
    image's border is not ambiguity.
    """
    lightness = rgb_to_lab(images)[:, :1]
    zeros = torch.zeros_like(lightness)
    entropies = color_entropy(colorizer(lightness, zeros.expand(-1, 2, -1, -1), zeros))
    constant = lightness.amax(dim=(1, 2, 3)) - lightness.amin(dim=(1, 2, 3)) < MIN_CONTRAST
    mean = entropies.mean(dim=(1, 2, 3), keepdim=True).expand_as(entropies)
    return torch.where(constant[:, None, None, None], mean, entropies)


def normalize_entropies(entropies: Tensor, height: int, width: int) -> Tensor:
    """Entropy maps (B, 1, height, width) of raw entropies (B, 1, h, w): Omega of Section 3.3.

    Bilinear upsampling by four and min-max normalisation of every image to [0, 1]. Images whose
    entropies lie within `MIN_RANGE` have a map of zeros.
    """
    full = functional.interpolate(
        entropies, scale_factor=STRIDE, mode="bilinear", align_corners=False
    )[..., :height, :width]
    low = full.amin(dim=(1, 2, 3), keepdim=True)
    span = full.amax(dim=(1, 2, 3), keepdim=True) - low
    return torch.where(span < MIN_RANGE, 0.0, (full - low) / span.clamp(min=MIN_RANGE))


def entropy_map(images: Tensor, colorizer: nn.Module) -> Tensor:
    """Normalised colorization entropy of images, without hints (Section 3.3, Eq. 8).

    Args:
        images: (B, 3, H, W) or grey (B, 1, H, W) in [0, 1], any H and W.
        colorizer: maps lightness, hints and mask to logits at a quarter of the resolution.

    Returns:
        (B, 1, H, W) in [0, 1]: minimum 0 and maximum 1 in every image, or zeros for an image
        whose lightness is constant or whose entropies differ by less than `MIN_RANGE`. No
        gradient flows through it.
    """
    return normalize_entropies(raw_entropies(images, colorizer), *images.shape[-2:])


class EntropyMaps:
    """The entropy maps of a set of images, kept at a quarter of the resolution (N, 1, h, w)."""

    def __init__(self, entropies: npt.NDArray[np.float32], height: int, width: int) -> None:
        self.entropies = entropies
        self.height = height
        self.width = width

    def __len__(self) -> int:
        return len(self.entropies)

    def maps(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The maps of the images at `indices`: float32 (B, 1, H, W), as `entropy_map` has them."""
        rows = torch.from_numpy(self.entropies[np.asarray(indices, dtype=np.int64)])
        return normalize_entropies(rows, self.height, self.width)


def cached_entropy_maps(
    image_set: Images,
    colorizer: nn.Module,
    cache_dir: Path | None = None,
    batch_size: int = 256,
) -> EntropyMaps:
    """Entropy maps of all images of a set, computed once and kept on disk.

    The file holds the raw entropies (4 bytes for 16 pixels). Its name is made of the fingerprints
    of the colorizer and of the images and of `MAP_VERSION`. A damaged file is computed again; a
    folder that cannot be written to costs a warning, not the maps.

    Args:
        image_set: images of one size.
        colorizer: as for `entropy_map`, with the attribute `fingerprint`, and `bins` unless 529.
        cache_dir: default is the environment's CONCERT_CACHE, else ~/.cache/concert.
        batch_size: images at a time; it changes speed and memory only.

    Raises:
        ConcertError: if the colorizer has no fingerprint, because its maps could not be told from
            another's.
    """
    fingerprint = str(getattr(colorizer, "fingerprint", ""))
    if not fingerprint:
        raise ConcertError(
            "a colorizer without a fingerprint has no cache: load it with build_colorizer"
        )
    folder = cache_dir or cache_folder()
    # A fingerprint may be any text, of which no part need be its own.
    network = hashlib.sha256(fingerprint.encode()).hexdigest()
    name = f"entropy-{MAP_VERSION}-{network[:24]}-{image_set.fingerprint[:24]}.npy"
    height, width = image_set.images([0]).shape[-2:]
    shape = (len(image_set), 1, -(-height // STRIDE), -(-width // STRIDE))
    most = log(getattr(colorizer, "bins", AB_BINS))
    entropies = _load(folder / name, shape, most)
    if entropies is None:
        entropies = _compute(image_set, colorizer, shape, batch_size)
        _store(folder / name, entropies)
    return EntropyMaps(entropies, height, width)


def _compute(
    image_set: Images, colorizer: nn.Module, shape: tuple[int, ...], batch_size: int
) -> npt.NDArray[np.float32]:
    device = next((p.device for p in colorizer.parameters()), torch.device("cpu"))
    entropies = np.empty(shape, dtype=np.float32)
    for start in range(0, len(image_set), batch_size):
        stop = min(start + batch_size, len(image_set))
        images = image_set.images(range(start, stop)).to(device)
        entropies[start:stop] = raw_entropies(images, colorizer).cpu().numpy()
        if start // (batch_size * 50) != stop // (batch_size * 50):
            logger.info("entropy maps: %d of %d images", stop, len(image_set))
    return entropies


def _load(path: Path, shape: tuple[int, ...], most: float) -> npt.NDArray[np.float32] | None:
    try:
        entropies: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        logger.warning("the cache file %s is damaged and is computed again", path)
        return None
    sound = entropies.shape == shape and entropies.dtype == np.float32
    if not (sound and entropies.min() >= -1e-3 and entropies.max() <= most + 1e-3):
        logger.warning("the cache file %s holds no entropy maps and is computed again", path)
        return None
    return entropies


def _store(path: Path, entropies: npt.NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, entropies)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    except OSError as error:
        logger.warning("entropy maps are not cached: cannot write %s (%s)", path, error)

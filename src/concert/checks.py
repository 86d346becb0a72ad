"""What a call may ask for: images, error probabilities and numbers of draws that can work."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from torch import Tensor

from concert import bounds
from concert.errors import ConcertError


def check_images(images: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Images as float32 (B, C, H, W), or a one-line error.

    Accepts one image (C, H, W) too. Values must be finite and in [0, 1].
    """
    if not isinstance(images, Tensor):
        raise ConcertError(f"images must be a torch tensor, got {type(images).__name__}")
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        raise ConcertError(
            f"images must have shape (B, C, H, W) or (C, H, W), got {tuple(images.shape)}"
        )
    if shape is not None and tuple(images.shape[1:]) != tuple(shape):
        raise ConcertError(
            f"the model takes images of shape {tuple(shape)} (channels, height, width), "
            f"got {tuple(images.shape[1:])}"
        )
    if not images.is_floating_point():
        raise ConcertError(f"images must be floating point in [0, 1], got {images.dtype}")
    images = images.float()
    if not bool(images.isfinite().all()):
        raise ConcertError("images contain NaN or infinite values")
    if images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise ConcertError(
            f"image values must lie in [0, 1], got [{float(images.min()):.4g}, "
            f"{float(images.max()):.4g}]: scale them, and leave normalisation to the model"
        )
    return images


def check_counts(**counts: int) -> None:
    """Refuse numbers of draws that are not whole."""
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise ConcertError(f"{name} must be a whole number, got {count!r}")


def check_prediction(n: int, alpha: float) -> None:
    """Refuse settings at which `predict` always abstains."""
    check_alpha(alpha)
    check_counts(n=n)
    fewest = bounds.smallest_deciding_n(alpha)
    if n < fewest:
        raise ConcertError(
            f"n={n} draws can never decide at alpha={alpha}: the smallest n that could is {fewest}"
        )


def check_alpha(alpha: float) -> None:
    """Refuse an error probability outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        raise ConcertError(f"alpha must lie between 0 and 1, got {alpha}")


def check_indices(indices: Sequence[int] | None, count: int) -> Sequence[int]:
    """The images' numbers, 0, 1, ... unless given; there must be one per image."""
    if indices is None:
        return range(count)
    if len(indices) != count:
        raise ConcertError(f"got {len(indices)} indices for {count} images")
    return [int(index) for index in indices]

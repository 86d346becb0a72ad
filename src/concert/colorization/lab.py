"""CIELAB conversions and the grid of ab colours that colorization networks predict.

Lab is D65, 2 degree observer, from gamma-encoded sRGB, as in scikit-image: L in [0, 100], a and b
inside [-110, 110] for every sRGB colour. The grid is that of Zhang et al., "Real-Time User-Guided
Image Colorization with Learned Deep Priors" (SIGGRAPH 2017): 23 x 23 points, 10 apart, a-major.
"""

from __future__ import annotations

import torch
from torch import Tensor

from concert.errors import ConcertError

AB_LIMIT = 110.0
AB_STEP = 10.0
AB_SIDE = 23
AB_BINS = AB_SIDE * AB_SIDE


def rgb_to_lab(images: Tensor) -> Tensor:
    """Lab of sRGB images.

    Args:
        images: (B, 3, H, W) or grey (B, 1, H, W), which is repeated to three channels, in [0, 1].

    Returns:
        (B, 3, H, W): L in [0, 100], a and b. Gradients are finite everywhere, also at black.

    Raises:
        ConcertError: if the images have neither one nor three channels.
    """
    from kornia.color import rgb_to_lab as convert  # importing kornia takes longer than torch

    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ConcertError(
            f"images of shape {tuple(images.shape)} have no Lab colours: "
            "give (B, 3, H, W) or grey (B, 1, H, W)"
        )
    return convert(images.expand(-1, 3, -1, -1))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """sRGB of Lab images, both (B, 3, H, W).

    The result is not clipped, because clipping removes the gradient of colours outside the sRGB
    gamut: it lies in [0, 1] for colours inside, and the caller clamps the rest when it must.
    """
    from kornia.color import lab_to_rgb as convert

    return convert(lab, clip=False)


def encode_ab(ab: Tensor) -> tuple[Tensor, Tensor]:
    """Soft encoding of ab colours: bilinear weights over the four nearest grid points.

    Bilinear weights are chosen over the Gaussian ones of Zhang et al. (2016) because the weighted
    mean of the grid points gives the colour back exactly (`decode_ab` inverts the encoding), the
    weights are continuous in the colour, and a colour on a grid point is a one-hot vector, so the
    encoding adds no blur of its own to the entropy.

    Args:
        ab: (B, 2, H, W); values outside [-110, 110] are clamped.

    Returns:
        Bins (B, 4, H, W), int64 in 0..528, and weights (B, 4, H, W), non-negative with sum 1.
    """
    position = (ab.clamp(-AB_LIMIT, AB_LIMIT) + AB_LIMIT) / AB_STEP
    corner = position.floor().clamp(max=AB_SIDE - 2)
    fraction_a, fraction_b = (position - corner).unbind(1)
    first = (corner[:, 0] * AB_SIDE + corner[:, 1]).long()
    bins = torch.stack([first, first + 1, first + AB_SIDE, first + AB_SIDE + 1], dim=1)
    weights = torch.stack(
        [
            (1 - fraction_a) * (1 - fraction_b),
            (1 - fraction_a) * fraction_b,
            fraction_a * (1 - fraction_b),
            fraction_a * fraction_b,
        ],
        dim=1,
    )
    return bins, weights


def ab_grid(like: Tensor) -> Tensor:
    """The ab colours of the 529 bins, (529, 2), with the device and type of `like`."""
    axis = torch.arange(AB_SIDE, device=like.device, dtype=like.dtype) * AB_STEP - AB_LIMIT
    return torch.cartesian_prod(axis, axis)


def decode_ab(probabilities: Tensor) -> Tensor:
    """Mean ab colour (B, 2, H, W) of distributions over the bins (B, 529, H, W)."""
    return torch.einsum("bqhw,qc->bchw", probabilities, ab_grid(probabilities))

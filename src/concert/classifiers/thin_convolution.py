"""A convolution of images with one channel, whose gradient with respect to the image is fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class ThinConv2d(nn.Conv2d):
    """nn.Conv2d without padding or stride; values, weights and their gradients are the same.

    On a processor the gradient with respect to an image of one channel takes five times as long as
    the forward pass. Attacks and trained noise need it in every step, so it is computed as one
    matrix product and a sum over overlapping windows.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, images: Tensor) -> Tensor:
        return thin_convolution(images, self.weight, self.bias)


class _ThinConvolution(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        context.save_for_backward(images, weight)
        return F.conv2d(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = context.saved_tensors
        wanted = context.needs_input_grad
        for_images = None
        if wanted[0]:
            # A product for each image leaves the windows as `fold` reads them.
            kernels = weight.flatten(1).T.expand(len(images), -1, -1)
            windows = torch.bmm(kernels, gradient.flatten(2))
            for_images = F.fold(windows, images.shape[2:], weight.shape[2:])
        _, for_weight, for_bias = torch.ops.aten.convolution_backward(
            gradient, images, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
            [False, wanted[1], wanted[2]],
        )  # fmt: skip
        return for_images, for_weight, for_bias


@fx.wrap
def thin_convolution(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution; a traced network does not look into it."""
    thin = images.shape[1] == 1 and bias is not None
    # Under autocast the convolution chooses its precision, also backwards.
    here = images.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not (thin and images.requires_grad and here):
        return F.conv2d(images, weight, bias)
    features: Tensor = _ThinConvolution.apply(images, weight, bias)  # type: ignore[no-untyped-call]
    return features

"""The colorization network that takes hints: Zhang et al. (SIGGRAPH 2017).

R. Zhang, J.-Y. Zhu, P. Isola, X. Geng, A. S. Lin, T. Yu, A. A. Efros: "Real-Time User-Guided Image
Colorization with Learned Deep Priors". The state dict has the keys of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from concert.colorization.lab import AB_BINS, AB_LIMIT
from concert.colorization.layers import block, crop_cells, double, pad


class Siggraph17(nn.Module):
    """Colour distribution and colours of an image from its lightness and some hints.

    107 tensors. A U-Net: seven blocks down to an eighth of the resolution, three up again. The
    distribution leaves it at a quarter of the resolution, the colours at the full one. `model1` to
    `model10` are the blocks conv1 to conv10 of the paper.

    Args:
        mask_center: what the weights were trained to see subtracted from the mask: 0 for those
            converted from Caffe, 0.5 for those trained in PyTorch.
    """

    bins = AB_BINS
    takes_hints = True

    def __init__(self, mask_center: float = 0.0) -> None:
        super().__init__()
        self.fingerprint = ""
        self.mask_center = mask_center
        self.model1 = nn.Sequential(*block(4, 64, 64))
        self.model2 = nn.Sequential(*block(64, 128, 128))
        self.model3 = nn.Sequential(*block(128, 256, 256, 256))
        self.model4 = nn.Sequential(*block(256, 512, 512, 512))
        self.model5 = nn.Sequential(*block(512, 512, 512, 512, dilation=2))
        self.model6 = nn.Sequential(*block(512, 512, 512, 512, dilation=2))
        self.model7 = nn.Sequential(*block(512, 512, 512, 512))
        self.model8up = nn.Sequential(double(512, 256))
        self.model3short8 = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1))
        self.model8 = nn.Sequential(nn.ReLU(), *block(256, 256, 256))
        self.model9up = nn.Sequential(double(256, 128))
        self.model2short9 = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1))
        self.model9 = nn.Sequential(nn.ReLU(), *block(128, 128))
        self.model10up = nn.Sequential(double(128, 128))
        self.model1short10 = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1))
        self.model10 = nn.Sequential(
            nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.LeakyReLU(negative_slope=0.2)
        )
        self.model_class = nn.Sequential(nn.Conv2d(256, AB_BINS, 1))
        self.model_out = nn.Sequential(nn.Conv2d(128, 2, 1), nn.Tanh())

    def forward(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """Logits of the 529 colours for every block of 4 x 4 pixels.

        Args:
            lightness: (B, 1, H, W) in [0, 100].
            hints: (B, 2, H, W), ab colours in [-110, 110], 0 where nothing is revealed.
            mask: (B, 1, H, W), 1 where the hint is to be believed, else 0.

        Returns:
            (B, 529, ceil(H / 4), ceil(W / 4)). The network takes multiples of 8; other sizes are
            padded on the right and at the bottom by replicating the border.
        """
        _, _, conv8 = self._trunk(lightness, hints, mask)
        return crop_cells(self.model_class(conv8), *lightness.shape[-2:])

    def colors(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """The colours ab (B, 2, H, W) in [-110, 110] that the network regresses."""
        conv1, conv2, conv8 = self._trunk(lightness, hints, mask)
        conv9 = self.model9(self.model9up(conv8) + self.model2short9(conv2))
        conv10 = self.model10(self.model10up(conv9) + self.model1short10(conv1))
        height, width = lightness.shape[-2:]
        ab: Tensor = self.model_out(conv10)[..., :height, :width] * AB_LIMIT
        return ab

    def _trunk(
        self, lightness: Tensor, hints: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of blocks 1, 2 and 8: full resolution, a half and a quarter of it."""
        inputs = [(lightness - 50) / 100, hints / AB_LIMIT, mask - self.mask_center]
        conv1 = self.model1(pad(torch.cat(inputs, dim=1)))
        # The resolution is halved by leaving out pixels, not by strides.
        conv2 = self.model2(conv1[..., ::2, ::2])
        conv3 = self.model3(conv2[..., ::2, ::2])
        conv7 = self.model7(self.model6(self.model5(self.model4(conv3[..., ::2, ::2]))))
        conv8 = self.model8(self.model8up(conv7) + self.model3short8(conv3))
        return conv1, conv2, conv8

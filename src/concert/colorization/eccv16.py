"""The colorization network without hints: Zhang et al. (ECCV 2016).

R. Zhang, P. Isola, A. A. Efros: "Colorful Image Colorization". The state dict has the keys of the
published weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from concert.colorization.lab import AB_LIMIT
from concert.colorization.layers import block, crop_cells, double, enlarge, pad
from concert.errors import ConcertError

# Of the 529 colours of the grid those that some sRGB image has.
GAMUT_BINS = 313


class Eccv16(nn.Module):
    """Colour distribution of an image from its lightness alone.

    32,236,011 parameters. Eight blocks at up to an eighth of the resolution; the distribution over
    313 colours leaves the last at a quarter of it. `model_out` holds these colours, divided by 110.
    """

    bins = GAMUT_BINS
    takes_hints = False

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = ""
        self.model1 = nn.Sequential(*block(1, 64, 64, stride=2))
        self.model2 = nn.Sequential(*block(64, 128, 128, stride=2))
        self.model3 = nn.Sequential(*block(128, 256, 256, 256, stride=2))
        self.model4 = nn.Sequential(*block(256, 512, 512, 512))
        self.model5 = nn.Sequential(*block(512, 512, 512, 512, dilation=2))
        self.model6 = nn.Sequential(*block(512, 512, 512, 512, dilation=2))
        self.model7 = nn.Sequential(*block(512, 512, 512, 512))
        self.model8 = nn.Sequential(
            double(512, 256),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, GAMUT_BINS, 1),
        )
        self.model_out = nn.Conv2d(GAMUT_BINS, 2, 1, bias=False)

    def forward(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """Logits of the 313 colours for every block of 4 x 4 pixels.

        Args:
            lightness: (B, 1, H, W) in [0, 100].
            hints: (B, 2, H, W), for the interface that the colorizers share; not looked at.
            mask: (B, 1, H, W), zeros.

        Returns:
            (B, 313, ceil(H / 4), ceil(W / 4)). Sizes that are no multiples of 8 are padded on the
            right and at the bottom by replicating the border.

        Raises:
            ConcertError: if the mask reveals a hint, which this network could not follow.
        """
        if bool((mask != 0).any()):
            raise ConcertError("eccv16 takes no colour hints: use compact or siggraph17")
        features = self.model4(self.model3(self.model2(self.model1(pad((lightness - 50) / 100)))))
        logits = self.model8(self.model7(self.model6(self.model5(features))))
        return crop_cells(logits, *lightness.shape[-2:])

    def colors(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        """The mean colour ab (B, 2, H, W) of every cell's distribution, bilinearly enlarged."""
        probabilities = self.forward(lightness, hints, mask).softmax(dim=1)
        ab = self.model_out(probabilities) * AB_LIMIT
        return enlarge(ab, *lightness.shape[-2:])

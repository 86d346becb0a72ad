"""A denoiser in front of a classifier (Salman et al., Denoised Smoothing, NeurIPS 2020).

A classifier that was not trained with noise abstains under it. A denoiser in front of it takes the
noise away again, and randomized smoothing of the pair certifies it without touching the classifier.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from concert.errors import ConcertError


class DnCNN(nn.Module):
    """The residual denoiser of Zhang et al. (2017): images minus the noise that it sees in them.

    `depth` 3x3 convolutions of `width` channels, batch norm in all but the first and the last.
    Takes and returns (B, `in_channels`, H, W); the published one has depth 17 and width 64.
    """

    def __init__(self, in_channels: int = 3, depth: int = 5, width: int = 16) -> None:
        super().__init__()
        if depth < 2 or width < 1:
            raise ConcertError(
                f"a DnCNN needs a depth of at least 2 and a positive width, got {depth} and {width}"
            )
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.noise = nn.Sequential(*layers, nn.Conv2d(width, in_channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # Training starts from the identity.
        for parameter in self.noise[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        estimate: Tensor = self.noise(images)
        return images - estimate


class Denoised(nn.Module):
    """`classifier` after `denoiser`; of the two only the denoiser is ever trained.

    The denoiser maps (B, C, H, W) to the same shape, the classifier that to logits (B, K). The
    classifier stays in evaluation mode, and its parameters take no gradient, though gradients pass
    through it.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(images))
        return logits

    def denoise_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The denoised images and their logits."""
        denoised = self.denoiser(images)
        return denoised, self.classifier(denoised)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.classifier.eval()
        return self

"""LeNet in the size that MACER (Zhai et al. 2020) and the paper use on MNIST."""

from __future__ import annotations

from torch import Tensor, fx, nn
from torch.nn import functional as F

from concert.classifiers.thin_convolution import ThinConv2d
from concert.errors import ConcertError


@fx.wrap
def check_size(images: Tensor, size: int) -> None:
    """Refuse images (B, C, H, W) of another size, also in a traced network."""
    if images.shape[-2] != size or images.shape[-1] != size:
        raise ConcertError(
            f"this LeNet takes {size}x{size} images, not {images.shape[-2]}x{images.shape[-1]}: "
            "set its image_size"
        )


class LeNet(nn.Module):
    """conv 20@5x5, pool, conv 50@5x5, pool, fc 500, fc `num_classes`.

    431,080 parameters for ten classes of 1x28x28 images. Takes (B, `in_channels`, `image_size`,
    `image_size`) and returns (B, `num_classes`) logits. Max-pooling comes before ReLU: the result
    is the same to the bit and ReLU has a quarter of the work.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ConcertError(f"LeNet needs images of at least 16x16 pixels, not {image_size}")
        self.image_size = image_size
        self.conv1 = ThinConv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        check_size(images, self.image_size)
        # In place: pooling and matrix products do not need their outputs for gradients.
        features = F.relu(F.max_pool2d(self.conv1(images), 2), inplace=True)
        features = F.relu(F.max_pool2d(self.conv2(features), 2), inplace=True)
        logits: Tensor = self.fc2(F.relu(self.fc1(features.flatten(1)), inplace=True))
        return logits

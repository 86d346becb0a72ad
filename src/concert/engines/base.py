"""What every engine can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Engine(ABC):
    """Logits of noisy copies, in evaluation mode, from several threads at once.

    `name` is what a log says of it, with everything that may change a rare vote.
    """

    name: str

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) on the engine's device, in any memory format."""

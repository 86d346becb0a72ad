"""What is known of the data sets that have a name of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Known:
    """The facts that a data set loaded under a known name must agree with.

    `hub` is the repository on the Hugging Face hub, `hub_splits` its names for train and test.
    `resize` is the shorter side an image is resized to before the centre crop to `shape`;
    None leaves images as they are stored.
    """

    shape: tuple[int, int, int]
    num_classes: int
    counts: Mapping[str, int]
    augmentation: str = "none"
    mean_std: MeanStd | None = None
    resize: int | None = None
    hub: str = ""
    hub_splits: Mapping[str, str] = field(default_factory=dict)

    def shape_at(self, size: int | None) -> tuple[int, int, int]:
        """(channels, height, width) of its images cropped to `size`, as usual without one."""
        return self.shape if size is None else (self.shape[0], size, size)


KNOWN: dict[str, Known] = {
    "digits": Known((1, 28, 28), 10, {"train": 1500, "test": 297}),
    "mnist": Known(
        (1, 28, 28),
        10,
        {"train": 60_000, "test": 10_000},
        hub="ylecun/mnist",
        hub_splits={"train": "train", "test": "test"},
    ),
    "cifar10": Known(
        (3, 32, 32),
        10,
        {"train": 50_000, "test": 10_000},
        augmentation="crop_flip",
        mean_std=((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        hub="uoft-cs/cifar10",
        hub_splits={"train": "train", "test": "test"},
    ),
    "imagenet": Known(
        (3, 224, 224),
        1000,
        {"train": 1_281_167, "test": 50_000},
        augmentation="photo",
        mean_std=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        resize=256,
        hub="ILSVRC/imagenet-1k",
        hub_splits={"train": "train", "test": "validation"},
    ),
}

# None: MNIST-like data are used without a normalisation layer (Cohen et al. 2019, MACER).
MEAN_STD: dict[str, MeanStd | None] = {name: known.mean_std for name, known in KNOWN.items()}

"""Images, Parquet files and folders of images for tests to read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def random_image(seed: int, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> Image.Image:
    """An image of (width, height) `size` with random pixels."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels))
    return Image.fromarray(pixels.astype(np.uint8), mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_parquet(file: Path, images: list[Image.Image], labels: list, **options) -> None:
    """As the `datasets` library writes it; options: image, label, kind, names."""
    import datasets

    names = options.get("names")
    image, label = options.get("image", "image"), options.get("label", "label")
    features = {image: datasets.Image()}
    if names is not None:
        features[label] = datasets.ClassLabel(names=names)
    elif labels and isinstance(labels[0], str):
        features[label] = datasets.Value("string")
    else:
        features[label] = datasets.Value("int64")
    rows = [{"bytes": encoded(i, options.get("kind", "PNG")), "path": None} for i in images]
    table = datasets.Dataset.from_dict(
        {image: rows, label: labels}, features=datasets.Features(features)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(file))


def write_folder(root: Path, classes: dict[str, int], **options) -> None:
    """`classes` maps "train/cat" to a number of images; options as for `random_image`."""
    for position, (folder, count) in enumerate(classes.items()):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            image = random_image(100 * position + index, **options)
            image.save(root / folder / f"{index:03}.png")

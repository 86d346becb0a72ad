"""Pictures of entropy maps, as docs/colorizer.md shows them.

    python -m concert.colorization.gallery SECOND [--cifar10 DIR] [--mnist FILE] [--out DIR]

OUT receives entropy-photographs.png (scikit-learn's two), entropy-cifar10.png and
entropy-digits.png: the images, their maps by the shipped colorizer, and by a second one (a weights
file) with the rank correlation of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from concert.colorization.agreement import all_entropies
from concert.colorization.build import build_colorizer
from concert.colorization.entropy import entropy_map
from concert.colorization.evaluate import spearman
from concert.colorization.pictures import read_pictures, stack
from concert.files import write_atomically
from concert.tool import run_tool

PHOTOGRAPH_SIZE = (320, 212)


def sample_photographs() -> Tensor:
    """scikit-learn's two photographs, a temple and a flower: uint8 (2, 3, 212, 320)."""
    # Imported here because it takes seconds.
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(array) for array in load_sample_images().images]
    return stack(picture.resize(PHOTOGRAPH_SIZE, Image.Resampling.BICUBIC) for picture in pictures)


def gallery(images: Tensor, colorizers: Sequence[nn.Module], names: Sequence[str]) -> bytes:
    """A PNG of uint8 images (N, C, H, W) in one row and the maps of each colorizer in another.

    Above each map stands the rank correlation of its entropies with the first colorizer's.
    """
    count, _, height, width = images.shape
    cell = 7.0 / count
    rows = len(colorizers) + 1
    size = (7.6, rows * (cell * height / width + 0.25))
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, count, squeeze=False)
    entropies = [all_entropies(colorizer, images, batch_size=count) for colorizer in colorizers]
    maps = [entropy_map(images.float() / 255, colorizer)[:, 0] for colorizer in colorizers]
    shown = None
    for column in range(count):
        pixels = images[column].expand(3, -1, -1).movedim(0, -1)
        axes[0, column].imshow(pixels.numpy())
        for row, values in enumerate(maps, start=1):
            shown = axes[row, column].imshow(values[column].numpy(), cmap="magma", vmin=0, vmax=1)
            if row > 1:
                pair = (entropies[0][column, None], entropies[row - 1][column, None])
                title = f"{spearman(*pair)[0]:.2f}"
                axes[row, column].set_title(title, fontsize=7, pad=2)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate(("image", *names)):
        axes[row, 0].set_ylabel(name, fontsize=7)
    assert shown is not None
    bar = figure.colorbar(shown, ax=axes[1:].ravel().tolist(), ticks=[0, 1], aspect=30, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def main(
    second: Path,
    cifar10: Path = Path("data/cifar10"),
    mnist: Path = Path("data/mnist/test.parquet"),
    out: Path = Path("docs/images"),
) -> str:
    """Write the three pictures into `out`."""
    colorizers = [build_colorizer(), build_colorizer(str(second))]
    sources = {
        "photographs": sample_photographs(),
        "cifar10": stack(read_pictures(cifar10 / "test.parquet")[:8]),
        "digits": stack(read_pictures(mnist)[:10])[:, :1],
    }
    for name, images in sources.items():
        content = gallery(images, colorizers, ("shipped", "second"))
        write_atomically(out / f"entropy-{name}.png", content)
    return f"pictures in {out}"


if __name__ == "__main__":
    run_tool(main)

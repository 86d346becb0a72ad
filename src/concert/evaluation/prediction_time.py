"""How long a single prediction of a smoothed classifier takes (Table 9).

    python -m concert.evaluation.prediction_time RUN [--n 1000] [--images 5] [--out FILE]

Every prediction takes all n draws, so its time does not depend on the image: random ones do.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from concert.errors import ConcertError
from concert.import_paths import import_from_here
from concert.runs import load, read_description
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, keyed_generator
from concert.tool import as_json, run_tool


def prediction_seconds(
    smoothed: SmoothedClassifier,
    shape: tuple[int, int, int],
    n: int = 1000,
    images: int = 5,
    seed: int = 0,
) -> list[float]:
    """Seconds of `predict` with n draws for each of some images (C, H, W), one at a time.

    One more before them, which builds what is built only once, does not count.
    """
    if images < 1:
        raise ConcertError(f"images must be at least 1, got {images}")
    generator = keyed_generator(seed, Domain.PREDICT, 0)
    pictures = torch.rand((1 + images, 1, *shape), generator=generator)
    # Noise on a grid takes images that are on it.
    levels = getattr(smoothed.noise, "levels", 255)
    seconds = []
    for image in (pictures * levels).round() / levels:
        began = time.perf_counter()
        smoothed.predict(image, n, seed=seed)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main(
    run: Path, n: int = 1000, images: int = 5, trust: bool = False, out: Path | None = None
) -> str:
    """The median of the seconds as JSON, with what they depend on, also written to `out`.

    With the engine that the run was exported for, if any. `trust`: import the run's own classifier
    code. Raises ConcertError for a run that cannot be loaded.
    """
    description, weights = read_description(run)
    if trust:
        import_from_here()
    smoothed = load(run, trust)
    record = {
        "weights": weights,
        "seconds": median(prediction_seconds(smoothed, description.shape, n, images)),
        "n": n,
        "images": images,
        "engine": smoothed.sampler(description.shape).engine,
        "torch": torch.__version__,
    }
    return as_json(record, out)


if __name__ == "__main__":
    run_tool(main)

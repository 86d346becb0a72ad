"""Images a second of `certify` with a stopping rule: batches that mix images, and that do not.

    python benchmarks/mixing.py RUN --path data/mnist --out benchmarks/mixing.json
    python benchmarks/mixing.py RUN --path data/mnist --other ../before/src

`--other` is the source folder of another version.

The contestants certify the same images with the same draws.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from interleave import Make, Rates, race, times
from jsonargparse import auto_cli


def certifying(
    run: Path, data: str, path: Path | None, subset: str, stopping: str, mixed: bool, code: str
) -> Callable[[], int]:
    """`certify` of all images of the subset; one unit is an image."""
    if code:
        sys.path.insert(0, code)
    try:
        from concert.certification.procedure import Procedure
    except ImportError:  # versions whose modules stood side by side
        from concert.procedure import Procedure  # type: ignore[import-not-found, no-redef]
    from concert.data import load_images, subset_indices
    from concert.memory import keep_large_blocks
    from concert.runs import load

    keep_large_blocks()
    smoothed = load(run)
    images = load_images(data, "test", path)
    indices = subset_indices(len(images), subset)
    chosen, procedure = images.images(indices), Procedure(stopping=stopping)
    sampler = smoothed.sampler(images.shape)
    if not code:
        sampler.settle(len(indices) * procedure.n)
        sampler.mixed = mixed and sampler.mixed

    def work() -> int:
        return len(list(smoothed.certify_each(chosen, procedure, indices)))

    return work


def main(
    run: Path,
    data: str = "mnist",
    path: Path | None = None,
    subset: str = "first:20",
    stopping: str = "grid:0,0.25,0.5,0.75",
    seconds: float = 60.0,
    slice_seconds: float = 10.0,
    other: str = "",
    out: Path | None = None,
) -> str:
    """Race the versions on a run; a Markdown table, and JSON in `out`."""
    make = functools.partial(certifying, run, data, path, subset, stopping)
    contestants: dict[str, Make] = {
        "of one image": functools.partial(make, False, ""),
        "mixed": functools.partial(make, True, ""),
    }
    if other:
        contestants = {"other version": functools.partial(make, False, other), **contestants}
    results = race(contestants, seconds, slice_seconds)
    first = next(iter(results.values()))
    lines = ["| batches | images/s | ratio |", "| :-- | --: | --: |"]
    record = {}
    for name, rates in results.items():
        assert isinstance(rates, Rates), rates
        assert isinstance(first, Rates), first
        lines.append(f"| {name} | {rates.median:.2f} | {times(rates.over(first))} |")
        record[name] = list(rates.slices)
    if out is not None:
        out.write_text(json.dumps({"run": run.name, "images_per_second": record}, indent=2) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

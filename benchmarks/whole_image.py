"""The certificate of one image, n = 100,000, start to end: the published loop and ours.

    python benchmarks/whole_image.py --network resnet20 --out benchmarks/records/whole-resnet20.json

Draws per second of single runs that take minutes: they confirm what `draws.py` finds in slices.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from draws import SHAPES, SIGMA, exported, network_of, theirs
from interleave import Make, Rates, race, times, write_record
from jsonargparse import auto_cli

from concert import IsotropicNoise, SmoothedClassifier
from concert.engines import EngineChoice
from concert.engines.choice import read_choice
from concert.memory import keep_large_blocks

N0 = 100


def certificate(name: str, engine: str, folder: Path, n: int) -> Callable[[], int]:
    """`certify` of one image; the first call is short, to warm up."""
    keep_large_blocks()
    choice = EngineChoice() if engine == "torch" else read_choice(folder, "benchmark")
    noise = IsotropicNoise(SIGMA)
    smoothed = SmoothedClassifier(network_of(name), noise, 10, SHAPES[name], engine=choice)
    smoothed.sampler(SHAPES[name]).settle(n)
    image, sizes = torch.rand(1, *SHAPES[name]), iter([1000])

    def work() -> int:
        used = next(sizes, n)
        smoothed.certify(image, n0=N0, n=used, stopping="full")
        return used + N0

    return work


def loop(name: str, batch: int, n: int) -> Callable[[], int]:
    """As many batches of the published loop; the first call is one batch."""
    one, sizes = theirs(name, batch, False), iter([batch])

    def work() -> int:
        return sum(one() for _ in range(0, next(sizes, n), batch))

    return work


def main(
    network: str = "resnet20",
    engines: tuple[str, ...] = ("torch", "onnxruntime"),
    batch: int = 1000,
    n: int = 100_000,
    out: Path | None = None,
) -> str:
    """One certificate each; a Markdown table, and JSON in `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        first = f"published, batch {batch}"
        contestants: dict[str, Make] = {first: functools.partial(loop, network, batch, n)}
        for engine in engines:
            folder = exported(Path(scratch), engine, network)
            contestants[engine] = functools.partial(certificate, network, engine, folder, n)
        results = race(contestants, seconds=1.0, slice_seconds=1.0)
    baseline = results[first]
    assert isinstance(baseline, Rates)
    lines = [f"| {network}, n = {n:,} | seconds | against published |", "| :-- | --: | --: |"]
    for name, rates in results.items():
        assert isinstance(rates, Rates), rates
        lines.append(f"| {name} | {n / rates.median:.1f} | {times(rates.over(baseline))} |")
    if out is not None:
        write_record(out, results, network=network, n=n)
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

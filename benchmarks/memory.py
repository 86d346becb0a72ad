"""Peak memory of certification above the loaded model and data, at three sizes each.

    python benchmarks/memory.py --out benchmarks/records/memory.json

Images of 32 x 32 under queried noise, which keeps most; every row is a process of its own.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import resource
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli

from concert import QueriedNoise
from concert.certification.procedure import Procedure
from concert.classifiers import build_classifier
from concert.generator import CoarseGenerator
from concert.memory import keep_large_blocks
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier


@dataclass(frozen=True)
class Size:
    """Draws an image, images, and images of the data set that they come from."""

    n: int = 4000
    images: int = 3
    data: int = 10


SIZES = (
    Size(),
    Size(n=16_000),
    Size(n=64_000),
    Size(n=1000, images=12),
    Size(n=1000, images=48),
    Size(data=1000),
    Size(data=10_000),
)


def resident() -> float:
    """The most megabytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth(size: Size, network: str) -> float:
    """Megabytes that certifying adds to this process."""
    torch.set_num_threads(2)
    keep_large_blocks()
    torch.manual_seed(0)
    noise = QueriedNoise(CoarseGenerator(3, 0.25, 0.475), 0.5, 0.25, 0.475)
    arguments = {"init_args": {"image_size": 32}} if network == "lenet" else {}
    classifier = build_classifier(network, 10, 3, **arguments)
    smoothed = SmoothedClassifier(classifier, noise, 10, sampling=SamplingSettings(workers=2))
    # The data set itself is bytes; an image becomes float32 when it is taken.
    store = torch.randint(0, 256, (size.data, 3, 32, 32), dtype=torch.uint8)
    before = resident()
    procedure = Procedure(n=size.n, n0=32, alpha=0.01, n_select=2000)
    pictures = (store[number % size.data].float() / 255 for number in range(size.images))
    for _ in smoothed.certify_each(pictures, procedure, range(size.images)):
        pass
    return resident() - before


def peak(size: Size, network: str = "lenet") -> float:
    """The same in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(growth, size, network).result()


def main(network: str = "lenet", out: Path | None = None) -> str:
    """Measure every size; a Markdown table, and JSON in `out`."""
    lines = ["| n | images | data set | megabytes |", "| --: | --: | --: | --: |"]
    rows = []
    for size in SIZES:
        megabytes = peak(size, network)
        rows.append({**asdict(size), "megabytes": round(megabytes, 1)})
        lines.append(f"| {size.n:,} | {size.images} | {size.data:,} | {megabytes:.0f} |")
    if out is not None:
        record = {"network": network, "torch": torch.__version__, "rows": rows}
        out.write_text(json.dumps(record, indent=2) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

"""How many votes of a trained network differ between engines, per million draws.

    python benchmarks/engine_votes.py results/mnist/cohen-0.25-cpu --path data/mnist \\
        --out benchmarks/records/engine-votes-lenet.json

Every engine gets the very same draws of the same test images as torch in eager mode. Two counts:
draws whose largest logit is another class (a prediction's votes), and those among them that a
certificate has counted for torch, because the two largest logits differed by the margin.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from draws import export
from jsonargparse import auto_cli
from torch import Tensor

from concert.data import load_images
from concert.engines import Engine
from concert.engines.choice import ENGINES, build_engine, read_choice
from concert.memory import keep_large_blocks
from concert.noise import NoiseModel
from concert.runs import load
from concert.sampling.votes import ballots
from concert.streams import DRAWS_PER_BLOCK, Domain, Stream

BATCH = 64
CALIBRATION = 512
KINDS = ("another class", "another class than a certificate counted")


def noisy_copies(noise: NoiseModel, image: Tensor, stream: Stream, block: int) -> Tensor:
    """A batch of draws of an image (1, C, H, W), as the hot loop makes them."""
    lanes = []
    for lane in range(noise.lanes):
        base = torch.empty(BATCH, *image.shape[2:], image.shape[1])
        for row in range(0, BATCH, DRAWS_PER_BLOCK):
            part = base[row : row + DRAWS_PER_BLOCK]
            stream.fill(block + row // DRAWS_PER_BLOCK, lane, part)
        lanes.append(base.permute(0, 3, 1, 2))
    noisy, _ = noise(image, tuple(lanes))
    return noisy


@torch.inference_mode()
def compare(
    engines: Mapping[str, Engine], noisy: Tensor, margin: float, counts: Mapping[str, Counter[str]]
) -> None:
    """Count the draws in which engines disagree with torch, without and with the margin."""
    logits = {name: engine(noisy).clone() for name, engine in engines.items()}
    none = next(iter(logits.values())).shape[1]
    votes, sure = ballots(logits["torch"], 0.0), ballots(logits["torch"], margin)
    for name, found in counts.items():
        other = ballots(logits[name], 0.0)
        found[KINDS[0]] += int((other != votes).sum())
        found[KINDS[1]] += int(((sure != none) & (other != sure)).sum())


def main(
    run: Path,
    data: str = "mnist",
    path: Path | None = None,
    images: int = 100,
    draws: int = 5000,
    engines: tuple[str, ...] = ENGINES[1:],
    margin: float = 1e-4,
    out: Path | None = None,
) -> str:
    """Compare the engines on `draws` draws of every image; a Markdown table, and JSON in `out`."""
    keep_large_blocks()
    smoothed = load(run, deployed=False)
    tests, training = (load_images(data, split, path) for split in ("test", "train"))
    shape, classes = tests.shape, smoothed.num_classes
    seen = training.images(list(range(CALIBRATION)))
    generator = torch.Generator().manual_seed(0)
    noisy, _ = smoothed.noise.copies(smoothed.noise.accept(seen), 1, generator)
    with tempfile.TemporaryDirectory() as scratch:
        built: dict[str, Engine] = {}
        for name in ("torch", *engines):
            folder = export(Path(scratch), name, smoothed.classifier, classes, noisy)
            choice = read_choice(folder, "benchmark")
            cpu, drift = torch.device("cpu"), 0.25 * margin
            built[name] = build_engine(
                choice, smoothed.classifier, shape, classes, cpu, drift, BATCH, 1
            )
        counts = {name: Counter[str]() for name in engines}
        for index in range(images):
            image = smoothed.noise.accept(tests.images([index]))
            stream = Stream(0, Domain.CERTIFY, index)
            for first in range(0, draws, BATCH):
                x = noisy_copies(smoothed.noise, image, stream, first // DRAWS_PER_BLOCK)
                compare(built, x, margin, counts)
    total = images * -(-draws // BATCH) * BATCH
    lines = [
        f"| {run.name}, {total:,} draws | {' | '.join(KINDS)} |",
        "| :-- | --: | --: |",
    ]
    for name, found in counts.items():
        cells = (f"{found[kind] / total * 1e6:,.1f} ({found[kind]})" for kind in KINDS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if out is not None:
        told = {name: {kind: found[kind] for kind in KINDS} for name, found in counts.items()}
        record = {"run": run.name, "draws": total, "margin": margin, "counts": told}
        out.write_text(json.dumps(record, indent=2) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

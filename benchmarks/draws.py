"""Draws per second against the published procedure and a toolbox, for every engine.

    python benchmarks/draws.py --network lenet --out benchmarks/draws-lenet.json
    pip install adversarial-robustness-toolbox      # its rows are left out where it is missing

Untrained networks: the speed does not depend on the weights.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleave import Make, Rates, race, write_record
from jsonargparse import auto_cli
from peers import Repeating, published, toolbox

from concert import IsotropicNoise, QueriedNoise
from concert.classifiers import build_classifier
from concert.engines import EngineChoice, read_choice
from concert.engines.choice import ENGINES
from concert.engines.export import export_engine
from concert.engines.torch_engines import noisy_probe
from concert.generator import CoarseGenerator
from concert.memory import keep_large_blocks
from concert.sampling import Sampler, SamplingSettings
from concert.streams import Domain, Stream
from concert.votes import Request

SHAPES = {
    "lenet": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "resnet110": (3, 32, 32),
    "resnet50": (3, 224, 224),
}
SIGMA = 0.25
CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def network_of(name: str, normalize: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"init_args": {"image_size": 28}} if name == "lenet" else {}
    if name != "lenet" and normalize:
        arguments |= {"mean": CIFAR[0], "std": CIFAR[1]}
    classes = 1000 if name == "resnet50" else 10
    return build_classifier(name, classes, SHAPES[name][0], **arguments).eval()


def ours(name: str, noise: str, engine: str, folder: str, allocator: bool) -> Callable[[], int]:
    """One request of the hot loop, workers as by default."""
    if allocator:
        keep_large_blocks()
    shape = SHAPES[name]
    choice = EngineChoice()
    if engine != "torch":
        choice = read_choice(Path(folder), "benchmark")
    if noise == "isotropic":
        model = IsotropicNoise(SIGMA)
    else:
        pool = 4 if shape[1] <= 64 else 16
        model = QueriedNoise(CoarseGenerator(shape[0], 0.25, 0.475, pool=pool), 0.5, 0.25, 0.475)
    network = network_of(name)
    classes = 1000 if name == "resnet50" else 10
    sampler = Sampler(
        network, model, classes, shape, torch.device("cpu"), SamplingSettings(), choice
    )
    image = torch.rand(shape)
    stream = Stream(0, Domain.CERTIFY, 0)
    n = 4 * sampler.workers * sampler.batch_size

    def work() -> int:
        sampler.sample(image, [Request(stream, n)])
        return n

    return work


def theirs(name: str, batch: int, allocator: bool) -> Callable[[], int]:
    """The published loop at a batch size."""
    if allocator:
        keep_large_blocks()
    network = network_of(name, normalize=False)
    if name != "lenet":
        network = torch.nn.Sequential(Repeating(*CIFAR), network)
    return published(network, torch.rand(1, *SHAPES[name]), SIGMA, batch, 10)


def art(name: str, batch: int) -> Callable[[], int]:
    """The toolbox at a batch size."""
    return toolbox(network_of(name), torch.rand(1, *SHAPES[name]), SIGMA, batch, 10, n=2000)


def main(
    network: str = "lenet",
    engines: tuple[str, ...] = ENGINES,
    noises: tuple[str, ...] = ("isotropic", "queried"),
    batches: tuple[int, ...] = (1000, 100),
    seconds: float = 60.0,
    slice_seconds: float = 10.0,
    out: Path | None = None,
) -> str:
    """Race everything for one network; a Markdown table, and JSON in `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        contestants: dict[str, Make] = {}
        for batch in batches:
            for allocator in (False, True):
                kept = ", blocks kept" if allocator else ""
                contestants[f"published, batch {batch}{kept}"] = functools.partial(
                    theirs, network, batch, allocator
                )
        contestants["toolbox, batch 32"] = functools.partial(art, network, 32)
        for engine in engines:
            folder = Path(scratch) / engine
            folder.mkdir()
            if engine != "torch":
                model = network_of(network)
                classes = 1000 if network == "resnet50" else 10
                probe = noisy_probe(SHAPES[network], 64)
                export_engine(folder, engine, model, classes, "benchmark", probe, 2.5e-5)
            for noise in noises:
                for allocator in (False, True) if engine == "torch" else (True,):
                    kept = ", blocks kept" if allocator else ""
                    contestants[f"{engine}, {noise}{kept}"] = functools.partial(
                        ours, network, noise, engine, str(folder), allocator
                    )
        results = race(contestants, seconds, slice_seconds)
    baseline = results[f"published, batch {batches[0]}"]
    assert isinstance(baseline, Rates)
    lines = [f"| {network} | draws/s | against published |", "| :-- | --: | --: |"]
    for name, rates in results.items():
        if isinstance(rates, str):
            lines.append(f"| {name} | {rates} | |")
        else:
            lines.append(f"| {name} | {rates.median:,.0f} | {rates.over(baseline):.2f}x |")
    if out is not None:
        write_record(out, results, network=network, seconds=seconds)
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

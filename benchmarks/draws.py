"""Draws per second against the published procedure and a toolbox, for every engine.

    python benchmarks/draws.py --network lenet --out benchmarks/records/draws-lenet.json
    pip install adversarial-robustness-toolbox      # its rows are left out where it is missing

Untrained networks: the speed does not depend on the weights. A row of matrix products of 2048 x
2048 says what the machine gave at most, and `flops` what one draw needs.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from interleave import Make, Rates, race, times, write_record
from jsonargparse import auto_cli
from peers import PlainLeNet, Repeating, published, toolbox
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from concert import IsotropicNoise, QueriedNoise
from concert.classifiers import build_classifier
from concert.engines import EngineChoice, read_choice
from concert.engines.choice import ENGINES
from concert.engines.export import export_engine
from concert.engines.torch_engines import noisy_probe
from concert.generator import CoarseGenerator
from concert.memory import keep_large_blocks
from concert.noise import NoiseModel
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.votes import Request
from concert.streams import Domain, Stream

SHAPES = {
    "lenet": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "resnet110": (3, 32, 32),
    "resnet50": (3, 224, 224),
}
SIGMA = 0.25
CALL_SECONDS = 3.0
PUBLISHED, KEPT, PRODUCTS = "published", ", blocks kept", "matrix products"
CIFAR = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def noise_of(shape: tuple[int, int, int], kind: str) -> NoiseModel:
    """Isotropic noise, or queried noise with an untrained coarse generator."""
    if kind == "isotropic":
        return IsotropicNoise(SIGMA)
    pool = 4 if shape[1] <= 64 else 16
    return QueriedNoise(CoarseGenerator(shape[0], 0.25, 0.475, pool=pool), 0.5, 0.25, 0.475)


def classes_of(name: str) -> int:
    return 1000 if name == "resnet50" else 10


def network_of(name: str, normalize: bool = True) -> torch.nn.Module:
    """A network of random weights, batch norm fitted to noisy images.

    Without that the logits of a deep one overflow, and engines refuse to fold batch norm.
    """
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"init_args": {"image_size": 28}} if name == "lenet" else {}
    if name != "lenet" and normalize:
        arguments |= {"mean": CIFAR[0], "std": CIFAR[1]}
    network = build_classifier(name, classes_of(name), SHAPES[name][0], **arguments).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(noisy_probe(SHAPES[name], 16))
    return network.eval()


def export(
    scratch: Path, engine: str, network: torch.nn.Module, num_classes: int, noisy: Tensor
) -> Path:
    """A folder with the network as an engine runs it; `noisy` images to calibrate on."""
    folder = scratch / engine
    folder.mkdir()
    if engine != "torch":
        export_engine(folder, engine, network, num_classes, "benchmark", noisy, 2.5e-5)
    return folder


def exported(scratch: Path, engine: str, name: str) -> Path:
    """The same of an untrained network."""
    probe = noisy_probe(SHAPES[name], 64)
    return export(scratch, engine, network_of(name), classes_of(name), probe)


def ours(name: str, noise: str, engine: str, folder: Path, allocator: bool) -> Callable[[], int]:
    """One request of the hot loop, workers as by default."""
    if allocator:
        keep_large_blocks()
    shape = SHAPES[name]
    choice = EngineChoice()
    if engine != "torch":
        choice = read_choice(folder, "benchmark")
    sampler = Sampler(
        network_of(name),
        noise_of(shape, noise),
        classes_of(name),
        shape,
        torch.device("cpu"),
        SamplingSettings(),
        choice,
    )
    image = torch.rand(shape)
    stream = Stream(0, Domain.CERTIFY, 0)
    # What a large job chooses: the workers, and whether batches mix.
    sampler.settle(10**9)
    round_of = 4 * sampler.workers * sampler.batch_size

    def work(n: int) -> int:
        sampler.sample(image, [Request(stream, n)])
        return n

    work(round_of)
    began = time.perf_counter()
    work(round_of)
    # Some seconds: at the end of a request workers wait for each other.
    rounds = max(1, round(CALL_SECONDS / (time.perf_counter() - began)))
    return functools.partial(work, rounds * round_of)


def plain(name: str) -> torch.nn.Module:
    """The network as its users write it."""
    if name == "lenet":
        return PlainLeNet()
    return torch.nn.Sequential(Repeating(*CIFAR), network_of(name, normalize=False))


def theirs(name: str, batch: int, allocator: bool) -> Callable[[], int]:
    """The published loop at a batch size."""
    if allocator:
        keep_large_blocks()
    return published(plain(name), torch.rand(1, *SHAPES[name]), SIGMA, batch, classes_of(name))


def art(name: str, batch: int) -> Callable[[], int]:
    """The toolbox at a batch size."""
    n = 64 if name == "resnet50" else 2000
    return toolbox(plain(name), torch.rand(1, *SHAPES[name]), SIGMA, batch, classes_of(name), n)


def products(size: int = 2048) -> Callable[[], int]:
    """Matrix products; one unit is a million floating-point operations."""
    some, other = torch.rand(size, size), torch.rand(size, size)

    def work() -> int:
        torch.mm(some, other)
        return 2 * size**3 // 10**6

    return work


def flops_of(name: str) -> int:
    """Floating-point operations of one image, twice the multiplications."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(name).eval()(torch.rand(1, *SHAPES[name]))
    return int(counter.get_total_flops())


def main(
    network: str = "lenet",
    engines: tuple[str, ...] = ENGINES,
    noises: tuple[str, ...] = ("isotropic", "queried"),
    batches: tuple[int, ...] = (1000, 256, 100),
    seconds: float = 60.0,
    slice_seconds: float = 10.0,
    out: Path | None = None,
) -> str:
    """Race everything for one network; a Markdown table, and JSON in `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        contestants: dict[str, Make] = {}
        for batch in batches:
            for allocator in (False, True):
                kept = KEPT if allocator else ""
                contestants[f"{PUBLISHED}, batch {batch}{kept}"] = functools.partial(
                    theirs, network, batch, allocator
                )
        contestants["toolbox, batch 32"] = functools.partial(art, network, 32)
        contestants[PRODUCTS] = products
        for engine in engines:
            folder = exported(Path(scratch), engine, network)
            for noise in noises:
                for allocator in (False, True) if engine == "torch" else (True,):
                    kept = KEPT if allocator else ""
                    contestants[f"{engine}, {noise}{kept}"] = functools.partial(
                        ours, network, noise, engine, folder, allocator
                    )
        results = race(contestants, seconds, slice_seconds)
    flops = flops_of(network)
    if out is not None:
        write_record(out, results, network=network, seconds=seconds, flops=flops)
    return table(network, results, flops)


def table(network: str, results: Mapping[str, Rates | str], flops: int) -> str:
    """Draws per second, ratios to the published loop, and the share of the matrix products.

    The ratios are to its first batch size and to the one that suits it best, blocks not kept.
    """
    rates = {name: found for name, found in results.items() if isinstance(found, Rates)}
    most = rates.pop(PRODUCTS)
    loops = [name for name in rates if name.startswith(PUBLISHED) and not name.endswith(KEPT)]
    first, best = loops[0], max(loops, key=lambda name: rates[name].median)
    lines = [
        f"| {network} | draws/s | against {first} | against {best} | of the matrix products |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for name, found in rates.items():
        share = found.over(most) * flops / 1e6
        ratios = " | ".join(times(found.over(rates[other])) for other in (first, best))
        speed = f"{found.median:,.0f}" if found.median >= 100 else f"{found.median:.1f}"
        lines.append(f"| {name} | {speed} | {ratios} | {share:.0%} |")
    lines += [f"| {name} | {why} | | | |" for name, why in results.items() if isinstance(why, str)]
    lines.append(f"| ({PRODUCTS}) | {most.median / 1000:,.0f} GFLOP/s | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

"""Training images per second of every objective, against a plain implementation of MACER's step.

    python benchmarks/training.py --network lenet --out benchmarks/training-lenet.json

One step is a batch of `batch` images with m noisy copies each: draws, loss, backward pass and
update. Every row has the same m; SmoothAdv's attack makes `ATTACK_STEPS` steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from draws import SHAPES, SIGMA, network_of
from interleave import Make, Rates, race, times, write_record
from jsonargparse import auto_cli
from peers import PlainLeNet, macer_step

from concert import IsotropicNoise, QueriedNoise
from concert.generator import CoarseGenerator
from concert.memory import channels_last, keep_large_blocks
from concert.noise import NoiseModel
from concert.objectives import (
    ConcertObjective,
    ConsistencyObjective,
    GaussianObjective,
    MacerObjective,
    Objective,
    SmoothAdvObjective,
)
from concert.recipes.config import TrainingSettings
from concert.training.state import make_optimizer

ATTACK_STEPS = 2
# Also timed without the allocator setting of `concert train`.
BOTH_WAYS = ("macer", "concert, queried noise")
# As the peer, so that both spend their time alike: the step's speed does not depend on the weights.
RATE = TrainingSettings(lr=0.01, weight_decay=5e-4)


def objectives(m: int) -> dict[str, tuple[Objective, str]]:
    """Every objective with its noise, all terms on."""
    return {
        "gaussian": (GaussianObjective(m), "isotropic"),
        "macer": (MacerObjective(m), "isotropic"),
        "consistency": (ConsistencyObjective(m), "isotropic"),
        f"smoothadv, {ATTACK_STEPS} steps": (
            SmoothAdvObjective(m, steps=ATTACK_STEPS),
            "isotropic",
        ),
        "concert, queried noise": (ConcertObjective(m, start_epoch=0), "queried"),
        "concert, generator not trained yet": (ConcertObjective(m, start_epoch=1), "queried"),
    }


def batch_of(network: str, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand((batch, *SHAPES[network]), generator=draws)
    return images, torch.randint(10, (batch,), generator=draws)


def ours(
    network: str, name: str, batch: int, m: int, allocator: bool, compiled: bool
) -> Callable[[], int]:
    """One step as the training loop makes it."""
    if allocator:
        keep_large_blocks()
    objective, kind = objectives(m)[name]
    images, labels = batch_of(network, batch)
    images = images.contiguous(memory_format=torch.channels_last)
    maps = torch.rand(batch, 1, *images.shape[2:])
    noise: NoiseModel = IsotropicNoise(SIGMA)
    if kind == "queried":
        generator = CoarseGenerator(images.shape[1], 0.25, 0.475, pool=4)
        noise = QueriedNoise(generator, 0.5, 0.25, 0.475)
    classifier = channels_last(network_of(network)).train()
    if compiled:
        classifier.compile()
    optimizer = make_optimizer(RATE, classifier, noise)
    draws = torch.Generator().manual_seed(1)

    def work() -> int:
        terms = objective(classifier, noise, images, labels, maps, 0, draws)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        return batch

    return work


def theirs(network: str, batch: int, m: int, allocator: bool) -> Callable[[], int]:
    """The published step."""
    if allocator:
        keep_large_blocks()
    plain = PlainLeNet() if network == "lenet" else network_of(network, normalize=False)
    return macer_step(plain, *batch_of(network, batch), SIGMA, m)


def main(
    network: str = "lenet",
    m: int = 16,
    batch: int = 64,
    rows: tuple[str, ...] = tuple(objectives(16)),
    compile: bool = False,
    seconds: float = 60.0,
    slice_seconds: float = 10.0,
    out: Path | None = None,
) -> str:
    """Race every objective for one network; a Markdown table, and JSON in `out`."""
    contestants: dict[str, Make] = {}
    for allocator in (False, True):
        kept = ", blocks kept" if allocator else ""
        contestants[f"published MACER{kept}"] = functools.partial(
            theirs, network, batch, m, allocator
        )
        for name in rows if allocator else [name for name in rows if name in BOTH_WAYS]:
            contestants[f"{name}{kept}"] = functools.partial(
                ours, network, name, batch, m, allocator, False
            )
            if compile:
                contestants[f"{name}, compiled{kept}"] = functools.partial(
                    ours, network, name, batch, m, allocator, True
                )
    results = race(contestants, seconds, slice_seconds)
    baseline = results["published MACER"]
    assert isinstance(baseline, Rates)
    lines = [
        f"| {network}, m = {m} | images/s | against published | against it with blocks kept |",
        "| :-- | --: | --: | --: |",
    ]
    tuned = results["published MACER, blocks kept"]
    assert isinstance(tuned, Rates)
    for name, rates in results.items():
        if isinstance(rates, str):
            lines.append(f"| {name} | {rates} | | |")
        else:
            ratios = f"{times(rates.over(baseline))} | {times(rates.over(tuned))}"
            lines.append(f"| {name} | {rates.median:,.1f} | {ratios} |")
    if out is not None:
        write_record(out, results, network=network, m=m, batch=batch, seconds=seconds)
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

"""Where the time of the hot loop goes, on one worker of one thread.

python benchmarks/parts.py --networks '[lenet,resnet20]' --out benchmarks/records/parts.json
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from draws import SHAPES, network_of, noise_of
from jsonargparse import auto_cli

from concert.memory import keep_large_blocks
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.votes import Request
from concert.streams import Domain, Stream


class Clock:
    """Seconds of functions by a name, without those of the timed functions within them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = 0.0

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            before, self.inner = self.inner, 0.0
            began = time.perf_counter()
            found = function(*args, **named)
            took = time.perf_counter() - began
            self.seconds[name] += took - self.inner
            self.inner = before + took
            return found

        return call


def shares(network: str, noise: str, seconds: float) -> dict[str, float]:
    """The share of the time that each part takes."""
    torch.set_num_threads(1)
    settings = SamplingSettings(workers=1)
    shape = SHAPES[network]
    model = noise_of(shape, noise)
    sampler = Sampler(network_of(network), model, 10, shape, torch.device("cpu"), settings)
    clock, batches, crew = Clock(), sampler.batches, sampler.crew
    image, stream = torch.rand(shape), Stream(0, Domain.CERTIFY, 0)
    sampler.sample(image, [Request(stream, sampler.batch_size)])
    of_thread = batches._noise_of
    # An instance's own attribute is found before the method.
    vars(batches)["_draw"] = clock.timed("drawing normals", batches._draw)
    vars(batches)["_noise_of"] = lambda deployed: clock.timed(
        "generator and adding", of_thread(deployed)
    )
    vars(batches)["count"] = clock.timed("counting and the rest", batches.count)
    network_alone = crew.network
    vars(crew)["network"] = clock.timed("classifier", network_alone)
    began, total = time.perf_counter(), 0.0
    while total < seconds:
        sampler.sample(image, [Request(stream, 16 * sampler.batch_size)])
        total = time.perf_counter() - began
    clock.seconds["waiting"] = total - sum(clock.seconds.values())
    return {name: spent / total for name, spent in clock.seconds.items()}


def main(
    networks: tuple[str, ...] = ("lenet", "resnet20"),
    seconds: float = 20.0,
    out: Path | None = None,
) -> str:
    """Profile every network under both kinds of noise; a Markdown table, and JSON in `out`."""
    keep_large_blocks()
    record = {
        f"{network}, {noise}": shares(network, noise, seconds)
        for network in networks
        for noise in ("isotropic", "queried")
    }
    parts = list(next(iter(record.values())))
    lines = ["| | " + " | ".join(parts) + " |", "| :-- |" + " --: |" * len(parts)]
    for name, found in record.items():
        lines.append(f"| {name} | " + " | ".join(f"{found[part]:.1%}" for part in parts) + " |")
    if out is not None:
        out.write_text(json.dumps(record, indent=2) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

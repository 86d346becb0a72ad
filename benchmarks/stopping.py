"""What a stopping rule saves and costs, on the votes of a full run.

    python benchmarks/stopping.py RUN benchmarks/stopping-mnist.json --data.name mnist \\
        --data.path data/mnist --subset first:500 --stopping grid:0,0.25,0.5,0.75

Every image is certified with all n draws, and the counts at each look of the standard stages are
noted in a file beside `out`, which a second call goes on with. From the same votes follows what
`full` and the rule give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli

from concert.certification.procedure import Procedure
from concert.certification.selection import Selection, select
from concert.certification.stopping import Stages, StoppingRule, staging_loss
from concert.certification.tally import Tally
from concert.data import ImageSet, load_images, subset_indices
from concert.memory import keep_large_blocks
from concert.recipes.config import DataSettings
from concert.runs import load, read_description
from concert.sampling.sampler import Sampler
from concert.sampling.votes import Request, Votes
from concert.sampling.work import Case, Steps
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream


def looks(sampler: Sampler, index: int, procedure: Procedure) -> Steps[tuple[Selection, list[Any]]]:
    """The selection of an image, and the votes between the looks up to n."""
    chosen = yield from select(
        sampler.noise, Stream(procedure.seed, Domain.SELECT, index), procedure
    )
    found, start = [], 0
    for size in Stages.standard(procedure.n, sampler.batch_size).sizes:
        request = Request(
            Stream(procedure.seed, Domain.CERTIFY, index), size, start=start, floor=chosen.floor
        )
        found.append((yield request))
        start = size
    return chosen, found


def outcome(
    sampler: Sampler, chosen: Selection, votes: list[Votes], procedure: Procedure, rule: str
) -> tuple[int, float, int]:
    """The class (-1: abstains), radius and draws that a rule gives on the votes of the looks."""
    parsed = StoppingRule.parse(rule)
    claims = sampler.noise.claims(
        procedure.certificate_of(sampler.noise), chosen.sigma_map, chosen.floor
    )
    stages = parsed.stages(procedure.n, sampler.batch_size)
    tally = Tally(claims, stages, procedure.alpha, chosen.candidate, sampler.num_classes)
    if len(stages.sizes) == 1:
        joint = [part.joint for part in votes if part.joint is not None]
        total = np.sum([part.counts for part in votes], axis=0)
        above = np.sum(joint, axis=0) if joint else None
        votes = [Votes(total, procedure.n, joint=above)]
    for part in votes:
        tally.add(part, parsed)
        if tally.finished:
            break
    region, _ = tally.region()
    return (chosen.candidate, region.radius, tally.n) if tally.decided else (-1, 0.0, tally.n)


def rows(
    smoothed: SmoothedClassifier,
    images: ImageSet,
    indices: list[int],
    procedure: Procedure,
    rule: str,
) -> Iterator[dict[str, Any]]:
    """A row an image: the counts of its candidate at the looks, and both outcomes."""
    sampler = smoothed.sampler(images.shape)
    cases = (Case(images.images([index])[0], looks(sampler, index, procedure)) for index in indices)
    results = sampler.drive(cases, len(indices) * procedure.n)
    for index, ((chosen, votes), _) in zip(indices, results, strict=True):
        k = chosen.candidate
        joint = [int(part.joint[k]) for part in votes if part.joint is not None]
        yield {
            "idx": index,
            "candidate": k,
            "votes": np.cumsum([int(part.counts[k]) for part in votes]).tolist(),
            "joint": np.cumsum(joint).astype(int).tolist(),
            "full": outcome(sampler, chosen, votes, procedure, "full"),
            "rule": outcome(sampler, chosen, votes, procedure, rule),
        }


def summary(found: list[dict[str, Any]], labels: list[int], rule: str, n: int) -> dict[str, Any]:
    """Certified accuracy at every radius of the grid and draws, of `full` and of the rule."""
    grid = StoppingRule.parse(rule).values if rule.startswith("grid") else (0.0,)

    def accuracy(name: str, radius: float) -> float:
        return float(
            np.mean(
                [
                    row[name][0] == label and row[name][1] >= radius
                    for row, label in zip(found, labels, strict=True)
                ]
            )
        )

    return {
        "images": len(found),
        "share_of_draws": float(np.mean([row["rule"][2] / n for row in found])),
        "grid": list(grid),
        "full": [accuracy("full", radius) for radius in grid],
        "rule": [accuracy("rule", radius) for radius in grid],
    }


def main(
    run: Path,
    out: Path,
    data: DataSettings | None = None,
    subset: str = "first:500",
    stopping: str = "grid:0,0.25,0.5,0.75",
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    certificate: str = "auto",
) -> str:
    """Certify at full n, replay the rule, and write both as JSON."""
    keep_large_blocks()
    procedure = Procedure(n=n, alpha=alpha, seed=seed, certificate=certificate)
    smoothed = load(run)
    procedure.check(smoothed.noise)
    data = data or DataSettings(read_description(run)[0].data)
    images = load_images(data.name, "test", data.path)
    indices = subset_indices(len(images), subset)
    settings = {"run": run.name, "data": data.name, **asdict(procedure), "stopping": stopping}
    noted = out.with_suffix(".rows.jsonl")
    header = json.dumps(settings, sort_keys=True) + "\n"
    lines = noted.read_text().splitlines(keepends=True) if noted.exists() else []
    if lines and lines[0] != header:
        raise SystemExit(f"{noted} is of other settings: delete it, or give another --out")
    # A killed run may have left half a line.
    lines = [line for line in lines if line.endswith("\n")] or [header]
    noted.write_text("".join(lines))
    done = {row["idx"]: row for row in map(json.loads, lines[1:])}
    todo = [index for index in indices if index not in done]
    with noted.open("a") as file:
        for row in rows(smoothed, images, todo, procedure, stopping):
            done[row["idx"]] = row
            print(json.dumps(row), file=file, flush=True)
    stages = StoppingRule.parse(stopping).stages(n, smoothed.sampler(images.shape).batch_size)
    record = {
        **settings,
        **summary([done[index] for index in indices], images.labels[indices].tolist(), stopping, n),
        "looks": list(stages.sizes),
        "loss": asdict(staging_loss(stages, alpha)),
    }
    text = json.dumps(record, indent=2)
    out.write_text(text + "\n")
    return text


if __name__ == "__main__":
    print(auto_cli(main))

"""What `concert certify` costs against draws, images and processes, start included.

    python benchmarks/scaling.py results/mnist/cohen-0.25-cpu --path data/mnist \\
        --out benchmarks/records/scaling.json

Every row is the command as a user types it, run `rounds` times in turn with the others.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonargparse import auto_cli


@dataclass(frozen=True)
class Job:
    """Draws an image, images and processes."""

    n: int
    images: int
    devices: int = 1


JOBS = (
    Job(10_000, 4),
    Job(40_000, 4),
    Job(160_000, 4),
    Job(10_000, 16),
    Job(10_000, 64),
    Job(40_000, 24),
    Job(40_000, 24, devices=2),
)


def seconds_of(run: Path, data: str, path: Path | None, job: Job) -> float:
    """The seconds of one command."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(sys.executable, "-m", "concert", "certify", str(run), "--data.name", data),
            *("--data.path", str(path)) * (path is not None),
            *("--subset", f"first:{job.images}", "--n", str(job.n)),
            *("--devices", str(job.devices), "--accelerator", "cpu"),
            *("--log", str(Path(scratch) / "certify.tsv")),
        ]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began


def main(
    run: Path,
    data: str = "mnist",
    path: Path | None = None,
    rounds: int = 3,
    out: Path | None = None,
) -> str:
    """Time every job; a Markdown table, and JSON in `out`."""
    found: dict[Job, list[float]] = {job: [] for job in JOBS}
    for _ in range(rounds):
        for job, seconds in found.items():
            seconds.append(seconds_of(run, data, path, job))
    lines = [
        "| n | images | processes | seconds | draws/s |",
        "| --: | --: | --: | --: | --: |",
    ]
    rows = []
    for job, seconds in found.items():
        middle = statistics.median(seconds)
        rows.append({**asdict(job), "seconds": [round(value, 2) for value in seconds]})
        speed = job.n * job.images / middle
        cells = f"{job.n:,} | {job.images} | {job.devices} | {middle:.1f} | {speed:,.0f}"
        lines.append(f"| {cells} |")
    if out is not None:
        out.write_text(json.dumps({"run": run.name, "rows": rows}, indent=2) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    print(auto_cli(main))

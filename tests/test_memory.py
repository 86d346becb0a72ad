"""Peak memory of certification does not grow with draws, images or data."""

from __future__ import annotations

import subprocess
import sys

import pytest

CERTIFY = """
import resource, sys, torch
from concert import QueriedNoise
from concert.classifiers import build_classifier
from concert.generator import CoarseGenerator
from concert.memory import keep_large_blocks
from concert.procedure import Procedure
from concert.sampling import SamplingSettings
from concert.smoothing import SmoothedClassifier

n, images, data = map(int, sys.argv[1:])
torch.set_num_threads(2)
keep_large_blocks()
torch.manual_seed(0)
noise = QueriedNoise(CoarseGenerator(3, 0.25, 0.475), 0.5, 0.25, 0.475)
network = build_classifier("lenet", 10, 3, init_args={"image_size": 32})
smoothed = SmoothedClassifier(network, noise, 10, sampling=SamplingSettings(workers=2))
# The data set itself is bytes; an image becomes float32 when it is taken.
store = torch.randint(0, 256, (data, 3, 32, 32), dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
procedure = Procedure(n=n, n0=32, alpha=0.01, n_select=2000)
pictures = (store[number % data].float() / 255 for number in range(images))
for _ in smoothed.certify_each(pictures, procedure, range(images)):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def peak(n: int, images: int, data: int) -> float:
    """Megabytes above the loaded model and data."""
    arguments = [sys.executable, "-c", CERTIFY, str(n), str(images), str(data)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_peak_memory_is_flat_in_draws_images_and_data() -> None:
    usual = peak(4000, 3, 10)
    assert usual <= 150
    others = [
        peak(*sizes)
        for sizes in (
            (16_000, 3, 10),
            (64_000, 3, 10),
            (1000, 12, 10),
            (1000, 48, 10),
            (4000, 3, 1000),
            (4000, 3, 10_000),
        )
    ]
    assert max(others) <= 150
    # The allocator is not exact; all draws of the longest would take 750 MB.
    assert max(others) <= usual + 30

"""A generator tuned against its own frozen certificate breaks it, and the audit finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from counterexamples import HIGH, LOW, Ball
from torch import Tensor, nn

from concert.auditing import AuditSettings, audit
from concert.auditing.unstable import Tuning, tune
from concert.errors import ConcertError
from concert.generator.box import gate
from concert.noise import GeneratedNoise, IsotropicNoise
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier


class Small(nn.Module):
    """A generator for images of one pixel that can change fast, and hardly does when built."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1))
        nn.init.constant_(self.body[2].bias, -4.0)

    def forward(self, images: Tensor) -> Tensor:
        return gate(self.body(30.0 * images.flatten(1)), LOW, HIGH).reshape(images.shape)


def smoothed_ball() -> SmoothedClassifier:
    sampling = SamplingSettings(batch_size=1024, workers=1)
    return SmoothedClassifier(Ball(0.25), GeneratedNoise(Small()), 2, (1, 1, 1), sampling)


def test_tuning_breaks_the_frozen_certificate_of_a_generator_that_kept_it() -> None:
    image = torch.zeros(1, 1, 1, 1)
    smoothed = smoothed_ball()
    settings = AuditSettings(starts=4, steps=20, draws=256, n0=1000, n=10_000)
    (before,) = smoothed.certify(image, n=10_000)
    assert before.label == 0
    assert not audit(smoothed, image[0], before, 0, settings=settings).broken

    tuning = Tuning(steps=200, lr=0.01, draws=256, anchor=100.0, n=10_000)
    report = tune(smoothed, image, torch.tensor([0]), tuning)
    assert report["images"] == 1
    assert report["fooled"] == 1.0

    (after,) = smoothed.certify(image, n=10_000)
    # The map at the clean image is the old one, and so is what is certified there.
    assert after.radius == pytest.approx(before.radius, rel=0.1)
    assert after.guarantee == before.guarantee
    finding = audit(smoothed, image[0], after, 0, settings=settings)
    assert finding.broken
    assert finding.l2_norm < after.radius


def test_what_cannot_be_tuned_is_refused() -> None:
    image, label = torch.zeros(1, 1, 1, 1), torch.tensor([1])
    with pytest.raises(ConcertError, match="no image of the subset is certified"):
        tune(smoothed_ball(), image, label, Tuning(steps=1))
    with pytest.raises(ConcertError, match="steps and draws"):
        Tuning(steps=0)
    isotropic = SmoothedClassifier(Ball(0.25), IsotropicNoise(0.25), 2, (1, 1, 1))
    with pytest.raises(ConcertError, match="only generated noise"):
        tune(isotropic, image, label, Tuning(steps=1))


def test_the_tool_refuses_in_one_line(tmp_path: Path) -> None:
    """A model is never overwritten, and a wrong path is no traceback."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    for run, out, part in (
        (tmp_path / "nowhere", tmp_path / "out", "no such folder"),
        (tmp_path / "run", tmp_path / "run", "holds a model already"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "concert.auditing.unstable", str(run), str(out)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert part in done.stderr
        assert done.stderr.count("\n") == 1

"""Killed at any moment, a run goes on to the same end and loses nothing that it had reported."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from concert.data import load_images
from concert.errors import ConcertError
from concert.evaluation.certify import CertifyProgress, CertifySettings, certify_data
from concert.recipes.config import (
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.records.reading import read_log
from concert.runs import load
from concert.training.checkpoints import load_latest
from concert.training.loop import Watcher, train
from concert.training.state import EpochMetrics

KILLS = 10
RECIPE = Recipe(
    DataSettings("digits", subset="first:192"),
    noise=NoiseSettings(kind="queried"),
    objective=ObjectiveSettings("concert", m=2, start_epoch=3),
    training=TrainingSettings(epochs=12, batch_size=32, checkpoint_seconds=0.02),
)


def killed_after(work: Callable[[], None], seconds: float) -> bool:
    """Run `work` in a forked process, kill it after `seconds`; True if it was done before."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "the run failed on its own"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def note(file: Path, text: str) -> None:
    """Append a line that survives a kill, as a line on a terminal would."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def noted(file: Path) -> set[int]:
    return {int(line) for line in file.read_text().split()} if file.exists() else set()


def test_training_killed_at_random_moments(tmp_path: Path) -> None:
    began = time.monotonic()
    train(RECIPE, tmp_path / "whole")
    duration = time.monotonic() - began
    run, reported = tmp_path / "run", tmp_path / "reported"

    class Reporting(Watcher):
        def epoch(self, metrics: EpochMetrics) -> None:
            note(reported, str(metrics.epoch))

    moments = random.Random(7)
    kills, done = 0, False
    while kills < KILLS and not done:
        done = killed_after(
            lambda: train(RECIPE, run, Reporting()), moments.uniform(0.05, duration / 3)
        )
        kills += not done
        found = load_latest(run / "checkpoints")
        finished = 0 if found is None else found[1]["epoch"]
        assert noted(reported) <= set(range(finished))
    assert kills >= 3
    assert train(RECIPE, run)

    whole = load_file(tmp_path / "whole" / "model" / "weights.safetensors")
    resumed = load_file(run / "model" / "weights.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_certification_killed_at_random_moments(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(replace(RECIPE, training=replace(RECIPE.training, epochs=1)), run)
    images = load_images("digits", "test")
    settings = CertifySettings(subset="first:60", n0=32, n=500)

    def certify(log: Path, on_image: Callable[[CertifyProgress], None]) -> None:
        certify_data(load(run), run, images, settings, log, on_image)

    began = time.monotonic()
    certify(tmp_path / "whole.tsv", lambda progress: None)
    duration = time.monotonic() - began
    log, reported = tmp_path / "log.tsv", tmp_path / "reported"
    moments = random.Random(11)
    kills, done = 0, False
    while kills < KILLS and not done:
        done = killed_after(
            lambda: certify(log, lambda p: note(reported, str(p.certification.index))),
            moments.uniform(0.02, duration / 4),
        )
        kills += not done
        if noted(reported):
            assert noted(reported) <= set(read_log(log).frame["idx"])
    assert kills >= 3
    certify(log, lambda progress: None)

    whole, resumed = read_log(tmp_path / "whole.tsv"), read_log(log)
    assert whole.run["identity"] == resumed.run["identity"]
    columns = [name for name in whole.frame if name != "time"]
    assert whole.frame[columns].equals(resumed.frame[columns])


def test_a_log_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    short = replace(RECIPE, training=replace(RECIPE.training, epochs=1))
    train(short, run)
    train(replace(short, training=replace(short.training, seed=5)), other)
    images = load_images("digits", "test")
    settings = CertifySettings(subset="first:2", n0=16, n=32)
    certify_data(load(run), run, images, settings, tmp_path / "log.tsv")
    content = (tmp_path / "log.tsv").read_bytes()
    with pytest.raises(ConcertError, match="weights"):
        certify_data(load(other), other, images, settings, tmp_path / "log.tsv")
    with pytest.raises(ConcertError, match="seed"):
        certify_data(load(run), run, images, replace(settings, seed=1), tmp_path / "log.tsv")
    assert (tmp_path / "log.tsv").read_bytes() == content


def test_an_interrupt_saves_the_state_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "concert", "train", "mnist/cohen-0.25-cpu"]
    command += ["--data.name", "digits", "--training.batch_size", "16", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1:"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert "the same command goes on" in rest
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None
    assert 1 <= found[1]["epoch"] < 30

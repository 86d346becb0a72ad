"""The time of a single prediction: what is timed, and what is said of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from concert import IsotropicNoise, SmoothedClassifier
from concert.classifiers import LeNet
from concert.errors import ConcertError
from concert.evaluation.prediction_time import main, prediction_seconds
from concert.noise import GridNoise
from concert.recipes.building import Description
from concert.runs import read_description, save_model


def test_all_draws_are_timed_and_the_first_prediction_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smoothed = SmoothedClassifier(LeNet(), IsotropicNoise(0.5), num_classes=10)
    asked: list[tuple[tuple[int, ...], int]] = []

    def slow(images: Tensor, n: int, seed: int) -> Tensor:
        time.sleep(0.02 if asked else 0.3)
        asked.append((tuple(images.shape), n))
        return torch.zeros(1, dtype=torch.int64)

    monkeypatch.setattr(smoothed, "predict", slow)
    seconds = prediction_seconds(smoothed, (1, 28, 28), n=64, images=3)
    assert asked == [((1, 1, 28, 28), 64)] * 4
    assert len(seconds) == 3
    assert min(seconds) >= 0.02
    assert max(seconds) < 0.3
    with pytest.raises(ConcertError, match="images must be at least 1, got 0"):
        prediction_seconds(smoothed, (1, 28, 28), images=0)


def test_noise_on_a_grid_gets_images_on_it() -> None:
    smoothed = SmoothedClassifier(LeNet(), GridNoise(0.5, levels=15), num_classes=10)
    assert len(prediction_seconds(smoothed, (1, 28, 28), n=16, images=2)) == 2


def test_a_run_is_timed(tmp_path: Path) -> None:
    description = Description(
        {"name": "lenet", "init_args": {}},
        {"kind": "isotropic", "sigma": 0.25},
        10,
        (1, 28, 28),
        tuple("0123456789"),
        "digits",
    )
    save_model(tmp_path / "run" / "model", description, LeNet(), IsotropicNoise(0.25))
    text = main(tmp_path / "run", n=64, images=2, out=tmp_path / "time.json")
    assert (tmp_path / "time.json").read_text() == text + "\n"
    record = json.loads(text)
    assert (record["n"], record["images"]) == (64, 2)
    assert record["engine"].startswith("torch-")
    assert record["weights"] == read_description(tmp_path / "run")[1]
    assert record["seconds"] > 0

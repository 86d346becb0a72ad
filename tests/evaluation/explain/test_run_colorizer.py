"""The maps shown are those of the run's own colorizer, or it is said that they are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from concert.classifiers import LeNet
from concert.colorization import load_colorizer
from concert.errors import ConcertError
from concert.evaluation.explain.run_colorizer import colorizer_of
from concert.noise import IsotropicNoise
from concert.recipes.building import Description
from concert.runs import save_model

OTHER = Path(__file__).parents[3] / "results/colorizer/independent.safetensors"


def run_of(folder: Path, recipe: dict[str, object], trained_with: str = "") -> Path:
    description = Description(
        classifier={"name": "lenet"},
        noise={"kind": "isotropic", "sigma": 0.25},
        num_classes=10,
        shape=(1, 28, 28),
        class_names=tuple("0123456789"),
        data="mnist",
    )
    inputs = {"colorizer": trained_with} if trained_with else {}
    save_model(folder / "model", description, LeNet(), IsotropicNoise(0.25), inputs)
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_it_is_the_one_given_or_that_of_the_recipe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, {"colorizer": str(OTHER)})
    colorizer, name = colorizer_of(run)
    assert name == str(OTHER)
    assert colorizer.fingerprint == load_colorizer(OTHER).fingerprint
    assert colorizer_of(run / "model")[1] == str(OTHER)
    assert colorizer_of(run, "compact")[1] == "compact"
    assert not caplog.text
    (run / "config.yaml").unlink()
    assert colorizer_of(run)[1] == "compact"
    with pytest.raises(ConcertError, match="takes no arguments"):
        colorizer_of(run, "compact", {"mask_center": 0.5})


def test_another_than_it_was_trained_with_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path, {}, str(load_colorizer().fingerprint))
    with caplog.at_level(logging.WARNING):
        colorizer_of(run)
        assert not caplog.text
        colorizer_of(run, str(OTHER))
    assert "was trained with the entropy maps of another colorizer" in caplog.text

"""What a log says of how its run was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from concert.evaluation.describing import describe_method, training_note
from concert.recipes.building import Description

DECAYS = {"epochs": 9, "milestones": [9]}
NOISE = {"kind": "isotropic", "sigma": 0.5}
DESCRIBED = Description({"name": "lenet"}, NOISE, 10, (1, 28, 28), (), "mnist")


def recipe(objective: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"objective": objective, "data": {"subset": "all"}, "training": {"epochs": 20}} | parts


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (recipe({"name": "gaussian"}), "trained for 20 epochs, training images all, 1 noisy copy"),
        (recipe({"name": "gaussian"}, training={"epochs": 1}), "trained for 1 epoch,"),
        (recipe({"name": "smoothadv", "m": 4}), "4 noisy copies of an image"),
        (recipe({"name": "smoothadv", "m": 4, "train_copies": "first"}), "1 noisy copy of"),
        (recipe({"name": "macer"}), "16 noisy copies of an image"),
        (recipe({"name": "macer", "m": 4}), "4 noisy copies of an image"),
        (recipe({"name": "smoothadv", "warmup_epochs": 500}), "grown to 20/500 of epsilon"),
        (recipe({"name": "gaussian"}, training=DECAYS), "never decayed (training.milestones [9])"),
        (recipe({"name": "gaussian"}, init="runs/a"), "from the weights of runs/a"),
        (recipe({"name": "gaussian"}, data={"subset": "first:9"}), "training images first:9"),
    ],
)
def test_epochs_images_copies_and_first_weights_are_told(
    described: dict[str, Any], said: str
) -> None:
    assert said in training_note(described)


@pytest.mark.parametrize(
    ("objective", "never"),
    [
        ({"name": "concert"}, True),  # its published start is epoch 200
        ({"name": "concert", "start_epoch": 20}, True),
        ({"name": "concert", "start_epoch": 19}, False),
        ({"name": "macer"}, False),
        ({"name": "macer", "start_epoch": 20}, True),
        ({"name": "gaussian"}, False),
        ({"name": "mine.Method"}, False),  # its defaults are not known without its code
        ({"name": "mine.Method", "start_epoch": 20}, True),
    ],
)
def test_a_method_whose_own_terms_never_began_is_called_plain(
    objective: dict[str, Any], never: bool
) -> None:
    assert ("never began" in training_note(recipe(objective))) is never


@pytest.mark.parametrize(
    "written",
    [b"objective: {name: macer}\n", b"objective: {name: macer}\ntraining: {epochs: many}\n"],
)
def test_a_recipe_that_says_little_still_names_its_method(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(written)
    told = describe_method(tmp_path, DESCRIBED)
    assert told == {"method": "MACER", "noise": "isotropic", "sigma": "0.5"}


def test_a_recipe_that_cannot_be_read_names_no_method(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes("objective: {name: \u00e9}".encode("utf-16"))
    assert describe_method(tmp_path, DESCRIBED)["method"] == "model"


def test_what_its_epochs_reach_is_not_told() -> None:
    reached = {"epochs": 20, "milestones": [19]}
    for objective in ({"name": "smoothadv"}, {"name": "smoothadv", "warmup_epochs": 20}):
        said = training_note(recipe(objective, training=reached))
        assert "epsilon" not in said
        assert "decayed" not in said

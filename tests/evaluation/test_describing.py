"""What a log says of how its run was trained."""

from __future__ import annotations

from typing import Any

import pytest

from concert.evaluation.describing import training_note


def recipe(objective: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"objective": objective, "data": {"subset": "all"}, "training": {"epochs": 20}} | parts


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (recipe({"name": "gaussian"}), "trained for 20 epochs, training images all, 1 noisy"),
        (recipe({"name": "macer"}), "16 noisy copies of an image"),
        (recipe({"name": "macer", "m": 4}), "4 noisy copies of an image"),
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

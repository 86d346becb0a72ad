"""Momentum, plain and Nesterov's: the steps it takes, and whose run it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torch import nn
from watchers import StopAfter

from concert.errors import ConcertError
from concert.recipes.config import (
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.recipes.writing import to_dict
from concert.runs import read_description
from concert.training.loop import train
from concert.training.run_claim import claim_folder
from concert.training.state import make_optimizer

PLAIN = Recipe(
    DataSettings("digits", subset="first:96"),
    noise=NoiseSettings(kind="isotropic", sigma=0.25),
    objective=ObjectiveSettings("gaussian", m=1),
    training=TrainingSettings(epochs=2, batch_size=32, checkpoint_seconds=0.0),
)
NESTEROV = replace(PLAIN, training=replace(PLAIN.training, nesterov=True))


def hash_of_weights(run: Path) -> str:
    return read_description(run)[1]


def forget_the_setting(run: Path) -> None:
    """Make config.yaml that of a run that was begun before the setting existed."""
    file = run / "config.yaml"
    settings = yaml.safe_load(file.read_text())
    del settings["training"]["nesterov"]
    file.write_text(yaml.safe_dump(settings, sort_keys=False))


# With gradients of 1 the buffer is 1, then 1.5, then 1.75. Plain momentum goes lr = 0.1 times the
# buffer, Nesterov's 0.1 (1 + 0.5 buffer).
@pytest.mark.parametrize(
    ("nesterov", "places"), [(False, [0.9, 0.75, 0.575]), (True, [0.85, 0.675, 0.4875])]
)
def test_the_steps_by_hand(nesterov: bool, places: list[float]) -> None:
    classifier, noise = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    for module in (classifier, noise):
        nn.init.ones_(module.weight)
    settings = TrainingSettings(lr=0.1, momentum=0.5, weight_decay=0.0, nesterov=nesterov)
    optimizer = make_optimizer(settings, classifier, noise)
    for place in places:
        optimizer.zero_grad()
        (classifier.weight.sum() + noise.weight.sum()).backward()
        optimizer.step()
        assert classifier.weight.item() == pytest.approx(place, abs=1e-12)
        assert noise.weight.item() == pytest.approx(place, abs=1e-12)


def test_a_run_with_nesterovs_momentum_goes_on_bit_for_bit(tmp_path: Path) -> None:
    assert train(NESTEROV, tmp_path / "whole")
    parts = 0
    while not train(NESTEROV, tmp_path / "parts", StopAfter(1)):
        parts += 1
    assert parts == 5  # 2 epochs of 3 steps, stopped after all but the last
    assert hash_of_weights(tmp_path / "whole") == hash_of_weights(tmp_path / "parts")
    assert train(PLAIN, tmp_path / "plain")
    assert hash_of_weights(tmp_path / "whole") != hash_of_weights(tmp_path / "plain")


@pytest.mark.parametrize("begun", [PLAIN, NESTEROV])
def test_the_kind_of_momentum_is_part_of_the_run(tmp_path: Path, begun: Recipe) -> None:
    claim_folder(begun, tmp_path)
    assert to_dict(begun)["training"]["nesterov"] == begun.training.nesterov
    claim_folder(begun, tmp_path)
    other = NESTEROV if begun is PLAIN else PLAIN
    with pytest.raises(ConcertError, match=r"training\.nesterov.*choose another --out"):
        claim_folder(other, tmp_path)


def test_a_run_from_before_the_setting_has_plain_momentum(tmp_path: Path) -> None:
    assert train(PLAIN, tmp_path / "whole")
    run = tmp_path / "run"
    assert not train(PLAIN, run, StopAfter(4))
    forget_the_setting(run)
    with pytest.raises(ConcertError, match=r"training\.nesterov = False, this recipe has True"):
        train(NESTEROV, run)
    assert train(PLAIN, run)
    assert hash_of_weights(run) == hash_of_weights(tmp_path / "whole")

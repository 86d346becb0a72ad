"""Classifiers by name and by import path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from concert.classifiers import CifarResNet, LeNet, Normalize, build_classifier
from concert.errors import ConcertError

MODULE = """
import torch

class Linear(torch.nn.Module):
    def __init__(self, classes, fail=False):
        super().__init__()
        if fail:
            raise RuntimeError("first line\\nsecond line")
        self.layer = torch.nn.Linear(4, classes)

    def forward(self, images):
        return self.layer(images.flatten(1))

def function(): ...
NUMBER = 3
class NotAModule: ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user with classes of all kinds."""
    (tmp_path / "own_networks.py").write_text(MODULE)
    (tmp_path / "failing_networks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def refused(*arguments, **keywords) -> str:
    with pytest.raises(ConcertError) as caught:
        build_classifier(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bare_network_without_mean() -> None:
    network = build_classifier("lenet", 10, 1)
    assert isinstance(network, LeNet)
    assert "conv1.weight" in network.state_dict()


def test_normalised_network_has_the_keys_of_published_checkpoints() -> None:
    network = build_classifier("resnet20", 10, 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    assert isinstance(network[0], Normalize)
    assert isinstance(network[1], CifarResNet)
    assert set(network.state_dict()) == {f"1.{key}" for key in CifarResNet(20).state_dict()}
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / 0.2
    torch.testing.assert_close(network.eval()(images), network[1](normalised))


def test_arguments_reach_the_network() -> None:
    network = build_classifier("lenet", 7, 3, init_args={"image_size": 32})
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_import_path_inside_concert_needs_no_trust() -> None:
    network = build_classifier("concert.classifiers.CifarResNet", 10, 3, init_args={"depth": 8})
    assert isinstance(network, CifarResNet)


def test_import_path_outside_concert_with_trust(own: str) -> None:
    network = build_classifier(
        f"{own}.Linear", 5, 1, (0.5,), (0.5,), init_args={"classes": 5}, trust=True
    )
    assert network(torch.rand(2, 1, 2, 2)).shape == (2, 5)


def test_code_of_others_does_not_even_run_without_trust(own: str) -> None:
    message = refused(f"{own}.Linear", 5, 1)
    assert "--trust" in message
    assert "trust=True" in message
    assert own not in sys.modules
    assert "--trust" in refused("concertina.Network", 5, 1)


def test_mistakes_are_one_line(own: str) -> None:
    trusted = {"num_classes": 5, "in_channels": 1, "trust": True}
    assert "did you mean 'lenet'" in refused("lenett", 10, 1)
    assert "cannot import 'no_such_module'" in refused("no_such_module.Network", **trusted)
    assert "division by zero" in refused("failing_networks.Network", **trusted)
    assert "did you mean 'Linear'" in refused(f"{own}.Linaer", **trusted)
    for name in ("function", "NUMBER", "NotAModule"):
        assert "is no class derived from torch.nn.Module" in refused(f"{own}.{name}", **trusted)
    failing = {"classes": 5, "fail": True}
    message = refused(f"{own}.Linear", init_args=failing, **trusted)
    assert message.endswith("first line")
    assert "classes" in refused(f"{own}.Linear", **trusted)
    assert "depth" in refused("lenet", 10, 1, init_args={"depth": 3})
    assert "at least 16x16" in refused("lenet", 10, 1, init_args={"image_size": 8})
    assert "both mean and std" in refused("lenet", 10, 1, mean=(0.5,))
    assert "3 normalisation means for images of 1 channels" in refused(
        "lenet", 10, 1, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert "is no class derived from torch.nn.Module" in refused(
        "concert.classifiers.lenet.nn", 10, 1
    )
    assert issubclass(LeNet, nn.Module)

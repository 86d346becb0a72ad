"""A log knows the user's own code, wherever in the model it stands."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from concert.classifiers import LeNet, Normalize
from concert.noise import IsotropicNoise
from concert.runs import source_of

CODE = "from torch import nn\n\nclass Net(nn.Flatten):\n    pass\n"


@pytest.fixture
def own_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """A function from files of `tmp_path`, by module, to a `Net` of the last.

    The modules are forgotten when the test ends.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def make(**files: str) -> nn.Module:
        for name, code in files.items():
            (tmp_path / f"{name}.py").write_text(code)
            # Set first, so that what is imported here goes with the test.
            monkeypatch.setitem(sys.modules, name, sys)
            del sys.modules[name]
        network: nn.Module = importlib.import_module(list(files)[-1]).Net()
        return network

    return make


def test_the_source_of_wrapped_classes_is_hashed(
    tmp_path: Path, own_net: Callable[..., nn.Module]
) -> None:
    net = own_net(own_hashed_network=CODE)
    wrapped = nn.Sequential(Normalize([0.5], [0.5]), net)
    first = source_of(wrapped, IsotropicNoise(0.25))
    assert first == source_of(net)
    assert len(first["classifier_source"]) == 64
    (tmp_path / "own_hashed_network.py").write_text(CODE + "# changed\n")
    assert source_of(wrapped) != first
    assert source_of(nn.Sequential(Normalize([0.5], [0.5]), LeNet(10)), IsotropicNoise(0.25)) == {}


def test_the_source_of_base_classes_counts(
    tmp_path: Path, own_net: Callable[..., nn.Module]
) -> None:
    """What a class inherits from another file of the user's decides its answers too."""
    derived = "import own_base\n\nclass Net(own_base.Net): ...\n"
    net = own_net(own_base=CODE, own_derived=derived)
    first = source_of(net)
    (tmp_path / "own_base.py").write_text(CODE + "# changed\n")
    assert source_of(net) != first


def test_a_module_that_is_called_like_one_of_pythons_is_the_users(
    own_net: Callable[..., nn.Module],
) -> None:
    assert "classifier_source" in source_of(own_net(this=CODE))

"""A log knows the user's own code, wherever in the model it stands."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from torch import nn

from concert.classifiers import LeNet, Normalize
from concert.noise import IsotropicNoise
from concert.runs import source_of

CODE = "from torch import nn\n\nclass Net(nn.Flatten):\n    pass\n"


def test_the_source_of_wrapped_classes_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_hashed_network.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_hashed_network", raising=False)
    net = importlib.import_module("own_hashed_network").Net()
    wrapped = nn.Sequential(Normalize([0.5], [0.5]), net)
    first = source_of(wrapped, IsotropicNoise(0.25))
    assert first == source_of(net)
    assert len(first["classifier_source"]) == 64
    (tmp_path / "own_hashed_network.py").write_text(CODE + "# changed\n")
    assert source_of(wrapped) != first
    assert source_of(nn.Sequential(Normalize([0.5], [0.5]), LeNet(10)), IsotropicNoise(0.25)) == {}


def test_the_source_of_base_classes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class inherits from another file of the user's decides its answers too."""
    (tmp_path / "own_base.py").write_text(CODE)
    (tmp_path / "own_derived.py").write_text("import own_base\n\nclass Net(own_base.Net): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_base", "own_derived"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    net = importlib.import_module("own_derived").Net()
    first = source_of(net)
    (tmp_path / "own_base.py").write_text(CODE + "# changed\n")
    assert source_of(net) != first


def test_a_module_that_is_called_like_one_of_pythons_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    net = importlib.import_module("this").Net()
    hashed = source_of(net)
    sys.modules.pop("this")
    assert "classifier_source" in hashed

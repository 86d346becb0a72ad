"""Commands that the tool prints for the next step can be pasted as they are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from concert.cli import main

QUICK = ["--n", "100", "--n0", "10", "--subset", "first:16"]
CODE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))

    def forward(self, images):
        return self.layers(images)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pasted_network.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("pasted_network", None)


def pasted(printed: str, start: str) -> list[list[str]]:
    """The arguments of the printed commands that follow `start` on their line."""
    lines = [line.split(start, 1)[1] for line in printed.splitlines() if line.startswith(start)]
    return [shlex.split(line)[1:] for line in lines]


def test_an_pasted_network_from_import_to_a_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pasted_network  # type: ignore[import-not-found]

    network = pasted_network.Own()
    nn.init.zeros_(network.layers[2].weight)
    network.layers[2].bias.data = torch.eye(10)[3]  # one class for all
    torch.save(network.state_dict(), "own.pt")
    given = ["--classifier.name", "pasted_network.Own", "--data.name", "digits"]
    assert main(["import", "own.pt", "--out", "a run", "--sigma", "0.5", *given]) == 0
    (certify,) = pasted(capsys.readouterr().out, "next: ")
    assert main([*certify, *QUICK]) == 0
    printed = capsys.readouterr().out
    tune, denoise = pasted(printed, "  ")
    assert "30 epochs each" in printed
    for command in (tune, denoise):
        assert main([*command, "--training.epochs", "1", "--data.subset", "first:64"]) == 0
        (certified,) = pasted(capsys.readouterr().out, "next: ")
        assert main([*certified, *QUICK]) == 0
        capsys.readouterr()
    (report,) = pasted(printed, "next: ")
    assert main(report) == 0


def test_code_that_has_changed_since_the_training_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import pasted_network

    torch.save(pasted_network.Own().state_dict(), "own.pt")
    given = ["--classifier.name", "pasted_network.Own", "--data.name", "digits"]
    assert main(["import", "own.pt", "--out", "run", "--sigma", "0.5", *given]) == 0
    (certify,) = pasted(capsys.readouterr().out, "next: ")
    assert main([*certify, *QUICK]) == 0
    assert "has changed" not in caplog.text
    Path("pasted_network.py").write_text(CODE + "# changed\n")
    assert main([*certify, *QUICK, "--log", "other.tsv"]) == 0
    assert "code of the classifier has changed since run/model was saved" in caplog.text

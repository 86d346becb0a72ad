"""`concert attack` as a user gives it: attack, certify, report, and the evidence."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from concert.attacks.base import AttackResult
from concert.attacks.run import AttackProgress, StepProgress
from concert.cli import main
from concert.commands.attack import AttackDisplay
from concert.console import StopSignal
from concert.errors import ConcertError
from concert.evaluation.attack_bands import main as bands
from concert.evaluation.attack_evidence import main as evidence
from concert.evaluation.correlation import main as correlation

RECIPE = {
    "data": {"name": "digits", "subset": "first:256"},
    "noise": {"kind": "queried", "low": 0.25, "high": 0.5},
    "objective": {"name": "gaussian", "m": 1},
    "training": {"epochs": 3, "batch_size": 32, "lr": 0.05},
}
SMALL = ["--subset", "first:4", "--steps", "3", "--draws", "16", "--success_draws", "64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model on digits."""
    folder = tmp_path_factory.mktemp("attack")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("concert: error: ")
    assert error.count("\n") == 1
    return error


def test_attacked_certified_and_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = run / "attack-shadow", tmp_path / "report"
    attack = ["attack", str(run), "--method", "shadow", *SMALL]
    assert main(attack) == 0
    printed = capsys.readouterr().out
    assert "4 images" in printed
    (next_line,) = [line for line in printed.splitlines() if line.startswith("next: concert ")]
    certify = next_line.removeprefix("next: concert ").split()
    assert main([*certify, "--n", "200", "--n_select", "100"]) == 0
    assert main(attack) == 0, "finished: nothing to do"
    info = json.loads((out / "certify.json").read_text())["info"]
    assert info["data"] == "digits, shadow"
    assert info["attack"]["index"] == [0, 1, 2, 3]
    capsys.readouterr()
    command = ["report", str(out / "certify.tsv"), "--out", str(report), "--taus", "[0.1,99]"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "tau 99" in printed
    assert "- (0)" in printed
    rows = list(csv.DictReader((report / "attacks.csv").open()))
    cells = {images: [] for images in ("all", "right before")}
    for row in rows:
        cells[row["images"]].append((row["tau"], int(row["N"])))
    assert cells["all"] == [("0.1", 0), ("99.0", 4), ("inf", 4)]
    labels = json.loads((out / "certify.json").read_text())["info"]["attack"]["clean_vote"]
    assert len(labels) == 4
    (_, right), (_, whole) = cells["right before"][1:]
    assert 0 < right == whole < 4
    assert {path.suffix for path in report.glob("attacks.*")} == {".txt", ".csv", ".md", ".tex"}

    page = (report / "report.html").read_text()
    assert page.index("concert attack") < page.index("concert certify"), "how to make it again"

    found = json.loads(bands(out, block=4, out=tmp_path / "bands.json"))
    assert (found["images"], found["block"], found["start"], found["own"]) == (4, 4, None, None)
    energies = [found["whole"][name]["energy"] for name in ("chroma", "smooth", "detail")]
    assert sum(energies) == pytest.approx(1.0)
    assert json.loads((tmp_path / "bands.json").read_text()) == found

    told = json.loads(evidence(out, out=tmp_path / "evidence", shown=2))
    assert told["attack"]["method"] == "shadow"
    assert told["whole"]["images"] == 4
    correlation = told["whole"]["correlation"]
    assert -1 <= correlation["mean"] <= 1
    assert correlation["low"] is correlation["high"] is None, "four images have no interval"
    assert json.loads((tmp_path / "evidence" / "evidence.json").read_text()) == told
    each = list(csv.DictReader((tmp_path / "evidence" / "evidence.csv").open()))
    assert len(each) == 4
    mean = sum(float(row["correlation"]) for row in each) / 4
    assert mean == pytest.approx(correlation["mean"], abs=1e-6)
    assert (tmp_path / "evidence" / "evidence.png").read_bytes().startswith(b"\x89PNG")


OWN = """
import torch
from torch.nn import functional


class Own(torch.nn.Module):
    # Two colours: ambiguous where it is dark, or with -1 where it is bright.
    def __init__(self, sign=1):
        super().__init__()
        self.sign = sign

    def forward(self, lightness, hints, mask):
        bright = functional.avg_pool2d(lightness, 4, ceil_mode=True) / 50 - 1
        first = 3 + 2 * self.sign * bright
        return torch.cat([first, torch.zeros_like(first)], dim=1)
"""


def test_entropy_maps_of_a_colorizer_of_ones_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_colorizer.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    out, name = tmp_path / "attack", "own_colorizer.Own"
    command = ["attack", str(run), "--method", "pgd", *SMALL, "--out", str(out)]
    assert main(command) == 0
    flags = {"colorizer": name, "trust": True}
    tools = {
        "evidence": lambda **chosen: json.loads(evidence(out, **chosen)),
        "correlation": lambda **chosen: json.loads(
            correlation(run, subset="first:4", draws=16, **chosen)
        ),
    }
    for tool in tools.values():
        with pytest.raises(ConcertError, match="say so with --trust"):
            tool(colorizer=name)
        bright, dark = (tool(**flags, colorizer_args={"sign": sign}) for sign in (1, -1))
        assert (dark["colorizer"], dark["colorizer_args"]) == (name, {"sign": -1})
        means = [
            each.get("mean") or each["whole"]["correlation"]["mean"] for each in (bright, dark)
        ]
        assert means[0] == pytest.approx(-means[1], abs=0.05), "the map is turned round"
        assert abs(means[0]) > 0.1


def test_flags_reach_the_attack(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pgd"
    flags = ["--epsilon", "0.3", "--norm", "linf", "--fresh", "true", "--against", "smoothed"]
    command = ["attack", str(run), "--method", "pgd", *SMALL, *flags, "--targets", "random"]
    assert main([*command, "--preset", "fast", "--seed", "3", "--out", str(out)]) == 0
    identity = json.loads((out / "attack.json").read_text())["identity"]
    arguments = identity["arguments"]
    assert {name: arguments[name] for name in ("epsilon", "norm", "fresh", "steps", "draws")} == {
        "epsilon": 0.3,
        "norm": "linf",
        "fresh": True,
        "steps": 3,
        "draws": 16,
    }
    assert (identity["against"], identity["targets"], identity["seed"]) == ("smoothed", "random", 3)


class Rows(AttackDisplay):
    """What the display would show."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()), StopSignal())
        self.shown: list[dict[str, str]] = []

    def show(self, row: list[tuple[str, str]], finished: bool) -> None:
        self.shown.append(dict(row))


def test_the_time_left_is_known_within_the_first_batch() -> None:
    norms, yes, classes = torch.ones(4), torch.ones(4).bool(), torch.zeros(4).long()
    result = AttackResult(torch.rand(4, 1, 2, 2), yes, yes, norms, norms, classes, classes)
    display = Rows()
    # A quarter of four images took a minute, and seven of eight are left.
    display.step(StepProgress(25, 100, images=4, seconds=60.0, done=0, total=8))
    assert display.shown[-1] == {"done": "0/8", "step": "25/100", "time left": "7:00"}
    display(AttackProgress(result, seconds=200.0, done=4, total=8))
    assert display.shown[-1]["time left"] == "3:20"
    assert "step" not in display.shown[-1]
    # Six images, two of them half of the second batch, took 240 seconds.
    display.step(StepProgress(50, 100, images=4, seconds=40.0, done=4, total=8))
    assert display.shown[-1]["time left"] == "1:20"
    assert list(display.shown[-1])[-2:] == ["step", "time left"]
    # Of a run that goes on, the images done before took no time of this one.
    resumed = Rows()
    resumed.step(StepProgress(1, 2, images=2, seconds=10.0, done=6, total=10))
    assert resumed.shown[-1] == {"done": "6/10", "step": "1/2", "time left": "0:30"}


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ("--out", out, *SMALL)
    assert "did you mean 'shadow'" in fails(capsys, "attack", run, "--method", "shdow", *common)
    assert "use shadow or pgd" in fails(capsys, "attack", run, "--method", "cadv", *common)
    error = fails(capsys, "attack", run, "--method", "pgd", "--lr", "1", *common)
    assert "has no setting 'lr'" in error
    error = fails(capsys, "attack", run, "--method", "pgd", "--targets", "11", *common)
    assert "unknown targets '11'" in error
    error = fails(capsys, "attack", run, "--method", "cadv", "--colorizer", "compct", *common)
    assert "did you mean 'compact'" in error
    # Before its weights are downloaded.
    error = fails(capsys, "attack", run, "--method", "cadv", "--colorizer", "eccv16", *common)
    assert "takes no hints" in error
    assert "nowhere" in fails(capsys, "attack", "nowhere", "--method", "pgd", *common)
    assert not out.exists()
    error = fails(capsys, "attack", run, "--method", "pgd", "--images_per_batch=-1", *common)
    assert "images_per_batch must be 0 or more" in error
    error = fails(capsys, "attack", run, "--method", "pgd", "--epsilon", ".inf", *common)
    assert "epsilon must be a finite number" in error
    with pytest.raises(Exception, match="holds no finished attack"):
        evidence(tmp_path)


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["attack", "--help"])
    assert exit_info.value.code == 0
    assert "--lambda_tv" in capsys.readouterr().out

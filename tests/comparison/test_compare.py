"""`concert compare`: two recipes on digits, interrupted, resumed and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from concert.cli import main
from concert.comparison.spec import flags, read_spec
from concert.comparison.steps import Progress, only_one, steps_of
from concert.config import Recipe
from concert.errors import INTERRUPTED, ConcertError
from concert.recipes import spec_names

COHEN = {
    "data": {"name": "digits", "subset": "first:128"},
    "noise": {"kind": "isotropic", "sigma": 0.25},
    "objective": {"name": "gaussian", "m": 1},
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.05},
}
CONCERT = COHEN | {
    "noise": {"kind": "generated", "generator": "coarse"},
    "objective": {"name": "concert", "m": 2, "start_epoch": 1},
}
SPEC = {
    "runs": [
        {"recipe": "cohen.yaml"},
        {
            "recipe": "concert.yaml",
            "name": "beta-0",
            "set": {"objective.beta": 0},
            "groups": ["beta"],
        },
    ],
    "set": {"training.lr": 0.02},
    "certify": {"subset": "first:4", "n": 200, "n0": 16},
    "jobs": 2,
    "threads": 1,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two recipes and a specification of both."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("cohen", COHEN), ("concert", CONCERT), ("spec", SPEC)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def change(folder: Path, **parts: object) -> None:
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC | parts))


def test_the_plan_is_common_settings_and_then_the_runs_own(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"), Path("somewhere"))
    cohen, other = comparison.runs
    assert (cohen.name, other.name) == ("cohen", "beta-0")
    assert isinstance(cohen.recipe, Recipe)
    assert cohen.recipe.training.lr == other.recipe.training.lr == 0.02
    assert other.recipe.objective.beta == 0
    assert str(cohen.recipe.data.path) == "somewhere"
    assert [step.name for step in steps_of(comparison)] == [
        "cohen train",
        "cohen certify",
        "beta-0 train",
        "beta-0 certify",
    ]
    assert flags({"a.b": [1, 2], "c": "x:1", "d": None}) == ["--a.b=[1, 2]", "--c=x:1", "--d=null"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"runs": []}, "must have a list 'runs'"),
        ({"runs": [{"name": "x"}]}, "needs a 'recipe'"),
        ({"runs": ["nowhere.yaml"]}, "no such recipe file"),
        ({"runs": ["cohen.yaml", "cohen.yaml"]}, "two runs are called 'cohen'"),
        ({"runs": [{"recipe": "cohen.yaml", "nmae": "x"}]}, "did you mean 'name'"),
        ({"runs": [{"recipe": "cohen.yaml", "name": "../x"}]}, "name of a folder"),
        ({"set": {"training.epoch": 3}}, "run cohen: .*training.epoch"),
        ({"certify": {"m": 3}}, "run cohen: "),
        ({"job": 3}, "did you mean 'jobs'"),
        ({"threads": 0}, "threads must be a whole number"),
    ],
)
def test_a_bad_specification_is_one_line(
    folder: Path, parts: dict[str, object], message: str
) -> None:
    change(folder, **parts)
    with pytest.raises(ConcertError, match=message) as error:
        read_spec("spec.yaml", Path("out"))
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_with_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Long enough to be interrupted in the middle of a training.
    change(folder, set={"training.lr": 0.02, "training.epochs": 12})
    command = [sys.executable, "-m", "concert", "compare", "spec.yaml", "--out", "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = [folder / "out" / name / "metrics.csv" for name in ("cohen", "beta-0")]
    deadline = time.monotonic() + 120
    while not any(file.exists() for file in metrics) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    with pytest.raises(ConcertError, match="another comparison still works"), only_one(Path("out")):
        raise AssertionError("the lock was given twice")
    os.kill(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, printed
    assert "the same command goes on" in printed
    assert not list((folder / "out").glob("*/model"))
    (first, *_) = (file.parent for file in metrics if file.exists())

    # Going on, from the checkpoints. Short runs of the same recipes are other runs.
    change(folder, set={"training.lr": 0.02})
    with pytest.raises(ConcertError, match=r"holds a run with training\.epochs"):
        read_spec("spec.yaml", Path("out"))
    change(folder, set={"training.lr": 0.02, "training.epochs": 12})
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "beta-0 certify: done after" in printed
    assert "going on after epoch" in (first / "train.log").read_text()

    report = folder / "out" / "report"
    costs = pd.read_csv(report / "runs.csv")
    assert list(costs["run"]) == ["cohen", "beta-0"]
    assert list(costs["epochs"]) == [12, 12]
    assert list(costs["training images"]) == [128, 128]
    table = pd.read_csv(report / "table.csv")
    assert list(table["method"]) == ["Cohen", "Concert (generated)"]
    assert {"figure-0.25.png", "figure-beta.png", "table8.csv", "table9.csv"} <= {
        file.name for file in report.iterdir()
    }

    # What is done is not done again.
    before = {file: file.stat().st_mtime_ns for file in (folder / "out").glob("*/*.log")}
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "done after" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(
        folder,
        runs=[
            {"recipe": "cohen.yaml"},
            {"recipe": "cohen.yaml", "name": "bad", "set": {"training.lr": 1e30}},
        ],
    )
    assert main(["compare", "spec.yaml", "--out", "out", "--jobs", "1"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("concert: error: bad train failed: ")
    assert captured.err.count("\n") == 1
    assert (folder / "out" / "report" / "table.csv").is_file()
    assert not (folder / "out" / "bad" / "certify.tsv").exists()


def test_time_left_by_hand(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"))
    steps = steps_of(comparison)
    progress = Progress(steps, jobs=2)
    assert progress.seconds_left() is None
    for step, seconds in zip(steps[:2], (30.0, 10.0), strict=True):
        step.code, step.seconds = 0, seconds
    # A training and a certification like the first are left, for two processes.
    assert progress.seconds_left() == 20.0


def test_a_step_with_other_arguments_is_done_again(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"))
    step = steps_of(comparison)[0]
    step.run.folder.mkdir(parents=True)
    assert not step.noted()
    (step.run.folder / "steps.json").write_text(json.dumps({"train": step.arguments}))
    assert step.noted()
    (step.run.folder / "steps.json").write_text("{")
    assert not step.noted()


@pytest.mark.parametrize("name", spec_names())
def test_shipped_specifications_are_complete(name: str, tmp_path: Path) -> None:
    comparison = read_spec(name, tmp_path / "out")
    assert len({run.name for run in comparison.runs}) == len(comparison.runs) >= 4
    assert not (tmp_path / "out").exists()
    methods = {run.recipe.objective.name for run in comparison.runs}
    assert {"concert", "macer"} <= methods

"""`concert compare`: two recipes on digits, interrupted, resumed, damaged and reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from specs import COHEN, change
from written_runs import cut, write_log

from concert.cli import main
from concert.comparison.performing import only_one
from concert.comparison.spec import read_spec
from concert.comparison.steps import Step
from concert.errors import INTERRUPTED, ConcertError

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
"""


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
    page = (report / "report.html").read_text()
    assert "concert compare spec.yaml --out out" in page, "what makes this very report again"
    assert "data:image/png" in page, "digits are at hand"
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

    # What is lost is made again, and only that.
    cohen, other = folder / "out" / "cohen", folder / "out" / "beta-0"
    for lost in ("certify.tsv", "certify.json"):
        (cohen / lost).unlink()
    whole = (other / "certify.tsv").read_bytes()
    cut(other / "certify.tsv", 1)
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert {f"{name} certify: done after" in printed for name in ("cohen", "beta-0")} == {True}
    assert "train: done after" not in printed
    assert list(pd.read_csv(report / "table.csv")["N"]) == [4, 4]
    assert (other / "certify.tsv").read_bytes().startswith(whole[: whole.index(b"\n1\t")])


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
    assert "Not in this report: bad (not certified)." in captured.out
    assert (folder / "out" / "report" / "table.csv").is_file()
    assert not (folder / "out" / "bad" / "certify.tsv").exists()


@pytest.mark.slow
def test_runs_are_attacked_and_compared_under_attack(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pgd = {"set": {"epsilon": 2.0, "steps": 3, "draws": 4, "subset": "first:12"}}
    certify = {"n": 200, "n0": 16, "stopping": "grid:0"}
    change(folder, attacks={"pgd": pgd | {"first": "beta-0", "certify": certify}})
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "cohen attack-pgd: done after" in printed
    report = folder / "out" / "report"
    assert list(pd.read_csv(report / "table.csv")["N"]) == [4, 4]
    verdict = pd.read_csv(report / "pgd" / "verdict.csv")
    assert set(verdict["first"]) == {"Concert (generated), sigma 0.25-0.475"}
    assert set(verdict["other"]) == {"Cohen, sigma 0.25"}
    assert verdict["N"].iloc[-1] == 12
    attacked = pd.read_csv(report / "pgd" / "attacks.csv")
    assert list(attacked["method"].unique()) == ["Cohen", "Concert (generated)"]
    before = {file: file.stat().st_mtime_ns for file in (folder / "out").glob("*/attack-*/*")}
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert "done after" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_classifier_of_ones_own_is_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.py").write_text(OWN)
    (folder / "own.yaml").write_text(yaml.safe_dump(COHEN | {"classifier": {"name": "own.Net"}}))
    change(
        folder,
        runs=[{"recipe": "own.yaml", "gradient_variance": True}],
        certify={"subset": "first:2", "n": 200, "n0": 16, "trust": True},
    )
    assert main(["compare", "spec.yaml", "--out", "out"]) == 0, capsys.readouterr().err
    variances = pd.read_csv(folder / "out" / "report" / "gradient_variance.csv")
    assert set(variances["form"]) == {"mean_of_log", "log_of_mean"}


def ending(step: Step, code: int, said: str) -> None:
    step.run.folder.mkdir(parents=True, exist_ok=True)
    step.output.write_text(said)
    step.code = code


def test_the_first_step_that_failed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is certified, because the certifications failed: the reason is in their output."""

    def start(step: Step, threads: int, lock: int | None) -> None:
        trains = step.kind == "train"
        ending(step, 0 if trains else 2, "trained\n" if trains else "begun\nno such disk\n\n")

    monkeypatch.setattr("concert.comparison.performing._start", start)
    assert main(["compare", "spec.yaml", "--out", "out"]) == 2
    assert capsys.readouterr().err == (
        "concert: error: cohen certify failed: no such disk (out/cohen/certify.log)\n"
    )
    assert not (folder / "out" / "report").exists()


def test_a_step_that_was_killed_is_not_told_by_what_it_said_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(step: Step, threads: int, lock: int | None) -> None:
        ending(step, -9, "epoch 3: loss 0.1, 500 images/s\n")

    monkeypatch.setattr("concert.comparison.performing._start", killed)
    assert main(["compare", "spec.yaml", "--out", "out"]) == 2
    assert capsys.readouterr().err == (
        "concert: error: cohen train failed: it was ended by signal 9, for instance for want of "
        "memory (out/cohen/train.log)\n"
    )


def test_output_of_an_earlier_start_is_not_todays_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(step: Step, threads: int, lock: int | None) -> None:
        before = "epoch 3: loss 0.1, 500 images/s\n"
        ending(step, 2, before)
        step.output_at_start = len(before)

    monkeypatch.setattr("concert.comparison.performing._start", silent)
    assert main(["compare", "spec.yaml", "--out", "out"]) == 2
    assert "cohen train failed: it said nothing (" in capsys.readouterr().err


def test_a_run_that_is_missing_is_no_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both certifications say that they ended well, but one has left no log."""

    def start(step: Step, threads: int, lock: int | None) -> None:
        if step.name == "cohen certify":
            write_log(step.run.folder)
        ending(step, 0, "")

    monkeypatch.setattr("concert.comparison.performing._start", start)
    assert main(["compare", "spec.yaml", "--out", "out"]) == 2
    captured = capsys.readouterr()
    assert "beta-0 is not in the report: not certified" in captured.err
    assert "Not in this report: beta-0" in captured.out

"""Steps of a comparison: what is left out, what is done again, how long the rest takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from specs import change
from written_runs import cut, write_log, write_model, write_variances

from concert.comparison.performing import perform
from concert.comparison.products import note_done, share_certified
from concert.comparison.spec import read_spec
from concert.comparison.steps import Progress, Step, steps_of


def finished(folder: Path) -> list[Step]:
    """The steps of a run that is done, all of them noted."""
    change(folder, runs=[{"recipe": "cohen.yaml", "gradient_variance": True}])
    steps = steps_of(read_spec("spec.yaml", Path("out")))
    run = folder / "out" / "cohen"
    write_model(run)
    write_log(run)
    write_variances(run)
    for step in steps:
        note_done(run, step.kind, step.arguments)
    return steps


def test_time_left_by_hand(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"))
    steps = [step for step in steps_of(comparison) if step.kind in ("train", "certify")]
    progress = Progress(steps, jobs=2)
    assert progress.seconds_left() == (0.0, False)
    for step, seconds in zip(steps[:2], (30.0, 10.0), strict=True):
        step.code, step.seconds = 0, seconds
    # A training and a certification like the first are left, for two processes.
    assert progress.seconds_left() == (20.0, True)
    # That certification had half of its images from an earlier process.
    steps[1].done_at_start = 0.5
    assert progress.seconds_left() == (25.0, True)
    steps[1].done_at_start = 0.0
    steps[1].seconds = None
    steps[1].code = None
    # Of certifications nothing is known yet.
    assert progress.seconds_left() == (15.0, False)


def test_time_left_of_attacks_is_not_that_of_others(folder: Path) -> None:
    quick, slow = ({"set": {"method": "pgd", "steps": steps}} for steps in (1, 99))
    change(folder, runs=["cohen.yaml"], attacks={"quick": quick, "slow": slow})
    steps = steps_of(read_spec("spec.yaml", Path("out")))
    for step, seconds in zip(steps[:4], (50.0, 1000.0, 10.0, 20.0), strict=True):
        step.code, step.seconds = 0, seconds
    # Of the slow attack and its certification nothing is known.
    assert Progress(steps, jobs=1).seconds_left() == (0.0, False)


def test_a_step_with_other_arguments_is_done_again(folder: Path) -> None:
    train, *_ = finished(folder)
    notes = folder / "out" / "cohen" / "steps.json"
    assert json.loads(notes.read_text())["train"] == train.arguments
    assert train.done_before()
    notes.write_text(json.dumps({"train": [*train.arguments, "--training.lr=1"]}))
    assert not train.done_before()
    notes.write_text("{")
    assert not train.done_before()


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("certify.tsv", "certify"),
        ("certify.json", "certify"),
        ("model/config.json", "train"),
        ("gradient_variance.json", "variance"),
    ],
)
def test_a_step_whose_product_is_lost_is_done_again(folder: Path, lost: str, again: str) -> None:
    steps = finished(folder)
    assert all(step.done_before() for step in steps)
    (folder / "out" / "cohen" / lost).unlink()
    assert again in {step.kind for step in steps if not step.done_before()}


def test_a_certification_that_is_cut_short_goes_on(folder: Path) -> None:
    _, certify, _ = finished(folder)
    log = folder / "out" / "cohen" / "certify.tsv"
    cut(log, 3)
    assert share_certified(log.parent) == 0.75
    assert not certify.done_before()


def test_a_log_of_another_model_is_not_this_runs(folder: Path) -> None:
    _, certify, _ = finished(folder)
    write_model(folder / "out" / "cohen", "other weights")
    assert not certify.done_before()


def test_variances_of_another_model_are_not_this_runs(folder: Path) -> None:
    *_, variance = finished(folder)
    assert variance.done_before()
    write_variances(folder / "out" / "cohen", "other weights")
    assert not variance.done_before()


def test_what_an_earlier_step_makes_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is lost and trained again to the same weights: its log is not made again."""
    steps = finished(folder)
    run = folder / "out" / "cohen"
    (run / "model" / "config.json").unlink()
    started = []

    def start(step: Step, threads: int, lock: int | None) -> None:
        started.append(step.kind)
        write_model(run)
        step.code = 0

    monkeypatch.setattr("concert.comparison.performing._start", start)
    comparison = read_spec("spec.yaml", Path("out"))
    assert perform(steps, comparison, None, lambda progress: None, lambda: False)
    assert started == ["train"]
    assert [step.code for step in steps] == [0, 0, 0]

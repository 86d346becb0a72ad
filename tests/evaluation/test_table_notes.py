"""Notes below tables: how logs were certified, and which numbers are lower bounds."""

from __future__ import annotations

from collections.abc import Callable

from concert.evaluation.table_notes import grid_caveats, run_notes
from concert.records.reading import LoadedLog

OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def test_logs_of_other_images_say_so(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log([(0, 0, 1.0)] * count, name=f"of {count}") for count in (1, 2)]
    assert any("not have the same images" in note for note in run_notes(logs))
    assert not any("not have the same images" in note for note in run_notes(logs[:1]))


def test_run_notes_say_how_logs_were_certified_and_which_are_not_finished(
    make_log: Callable[..., LoadedLog],
) -> None:
    identity = {
        "data": {"split": "test"},
        "subset": "first:500",
        "alpha": 0.001,
        "n": 1000,
        "stopping": "full",
    }
    said = "images test first:500, alpha 0.001, n 1000, stopping full"
    names = {"method": "Cohen", "subset_images": len(OUTCOMES)}
    whole = make_log(OUTCOMES, "a", identity=identity, sigma="0.25", **names)
    part = make_log(OUTCOMES[:2], "b", identity=identity, sigma="0.5", **names)
    other = make_log(OUTCOMES, "c", identity=identity | {"alpha": 0.01}, sigma="1.0", **names)
    assert run_notes([whole]) == [f"Certified with {said}."]
    unfinished = f"Cohen, sigma 0.5: not finished, 2 of {len(OUTCOMES)} images."
    assert run_notes([whole, part]) == [unfinished, f"Certified with {said}."]
    assert run_notes([whole, other]) == [
        f"Cohen, sigma 0.25: {said}.",
        f"Cohen, sigma 1.0: {said.replace('0.001', '0.01')}.",
    ]
    assert run_notes([make_log(OUTCOMES, "unknown")]) == []
    early = make_log(OUTCOMES, "d", identity=identity | {"stopping": "grid:0,0.5"}, **names)
    (note,) = (note for note in run_notes([whole, early]) if "AMCR" in note)
    assert "lower than with all n draws" in note


def test_which_logs_stopped_on_a_grid_is_said(make_log: Callable[..., LoadedLog]) -> None:
    grid = make_log(OUTCOMES, "a", identity={"stopping": "grid:0,0.5"}, method="Cohen", sigma="1")
    full = make_log(OUTCOMES, "b", identity={"stopping": "full"}, method="Concert")
    because = "lower bounds, because sampling stopped on a grid of radii"
    assert grid_caveats([grid, full], "AMCR") == [f"AMCR of Cohen, sigma 1: {because}."]
    assert grid_caveats([grid], "AMCR") == [f"AMCR: {because}."]
    assert grid_caveats([full], "AMCR") == []

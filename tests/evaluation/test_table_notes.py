"""Notes below tables: how logs were certified, and which numbers are lower bounds."""

from __future__ import annotations

from collections.abc import Callable

from concert.evaluation.table_notes import (
    RELATIVE_NOTE,
    UNANIMOUS,
    early_caveats,
    run_notes,
    unanimous_share,
)
from concert.records.reading import LoadedLog

OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def test_logs_of_other_images_say_so(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log([(0, 0, 1.0)] * count, name=f"of {count}") for count in (1, 2)]
    assert any("not have the same images" in note for note in run_notes(logs))
    assert not any("not have the same images" in note for note in run_notes(logs[:1]))
    of_two_files = [
        make_log([(0, 0, 1.0)], name, identity={"data": {"fingerprint": name}}) for name in "ab"
    ]
    assert any("not have the same images" in note for note in run_notes(of_two_files))


def test_run_notes_say_how_logs_were_certified_and_which_are_not_finished(
    make_log: Callable[..., LoadedLog],
) -> None:
    identity = {
        "data": {"split": "test"},
        "subset": "first:500",
        "alpha": 0.001,
        "n": 2000,  # twice what the logs' images used
        "stopping": "full",
    }
    said = "images test first:500, alpha 0.001, n 2000, stopping full"
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
    within = make_log(OUTCOMES, "e", identity=identity | {"stopping": "relative:0.1"}, **names)
    assert RELATIVE_NOTE in run_notes([within])


def test_which_logs_stopped_on_a_grid_is_said(make_log: Callable[..., LoadedLog]) -> None:
    grid = make_log(OUTCOMES, "a", identity={"stopping": "grid:0,0.5"}, method="Cohen", sigma="1")
    full = make_log(OUTCOMES, "b", identity={"stopping": "full"}, method="Concert")
    because = "lower bounds, because sampling stopped early"
    assert early_caveats([grid, full], "AMCR") == [f"AMCR of Cohen, sigma 1: {because}."]
    assert early_caveats([grid], "AMCR") == [f"AMCR: {because}."]
    assert early_caveats([full], "AMCR") == []


def test_images_whose_radius_n_caps_are_counted(make_log: Callable[..., LoadedLog]) -> None:
    """Only where all n draws were made and voted for one class would more draws say more."""
    log = make_log([(0, 0, 0.8)] * 4, "a", identity={"n": 1000}, method="Cohen")
    log.frame["n_used"] = [1000, 1000, 500, 1000]
    log.frame["votes"] = ["0:1000", "0:999,3:1", "0:500", "4:1000"]
    assert unanimous_share(log) == 0.5
    (note,) = (note for note in run_notes([log]) if note.startswith(UNANIMOUS))
    assert note.endswith("Cohen 50.0 %.")
    log.frame["votes"] = ["0:999", "0:999,3:1", "0:500", "4:1000"]
    assert unanimous_share(log) == 0.25, "an undecided draw votes for none"
    assert unanimous_share(make_log(OUTCOMES, "peer")) == 0.0  # of no known n
    mixed = make_log(OUTCOMES, "b", identity={"n": 1000})
    mixed.frame["votes"] = "0:999,3:1"
    assert not any(note.startswith(UNANIMOUS) for note in run_notes([mixed]))


def test_how_runs_were_trained_is_said_once_for_all_that_were_trained_alike(
    make_log: Callable[..., LoadedLog],
) -> None:
    logs = [
        make_log(OUTCOMES, name, method="Cohen", sigma=name, training=text)
        for name, text in (("0.5", "trained for 2 epochs"), ("1", "trained for 2 epochs"))
    ]
    assert "Cohen, sigma 0.5; Cohen, sigma 1: trained for 2 epochs." in run_notes(logs)


def test_attacked_images_are_called_by_the_attacks_subset(
    make_log: Callable[..., LoadedLog],
) -> None:
    for subset, said in (("all", "test first:20, attacked."), ("first:4", "of these first:4.")):
        identity = {"data": {"split": "test"}, "subset": subset}
        attack = {"method": "cadv", "against": "base", "l2": [1.0] * 4, "subset": "first:20"}
        log = make_log(OUTCOMES, subset.replace(":", ""), identity=identity, attack=attack)
        assert any(note.endswith(said) for note in run_notes([log]))

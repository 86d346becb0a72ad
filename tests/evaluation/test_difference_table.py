"""Paired differences of two logs: by hand, and on data whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from concert.errors import ConcertError
from concert.evaluation.difference_table import NOTES, difference_table, main, printed
from concert.evaluation.interval_table import interval_table
from concert.evaluation.labels import row_labels
from concert.evaluation.rendering import to_markdown
from concert.evaluation.tables import settled_radii
from concert.records.reading import LoadedLog

MakeLog = Callable[..., LoadedLog]


def test_by_hand(make_log: MakeLog) -> None:
    """Six images certified by the first alone decide (p = 2/64), five do not (p = 2/32)."""
    ours = make_log([(0, 0, 1.0)] * 6 + [(0, 0, 0.2)] * 4, "ours", method="Concert", sigma="0.5")
    theirs = make_log([(0, 0, 0.2)] * 5 + [(0, 0, 0.4)] * 5, "theirs", method="Cohen", sigma="0.5")
    table = difference_table(ours, [theirs], [0.0, 0.3, 0.5]).set_index("radius")
    assert table["difference"].tolist() == pytest.approx([0.0, 0.1, 0.6])
    assert table["accuracy first"].tolist() == [1.0, 0.6, 0.6]
    assert table["accuracy other"].tolist() == [1.0, 0.5, 0.0]
    # At 0.3: five for the first alone, four for the other alone.
    assert table["p"].tolist() == pytest.approx([1.0, 1.0, 2 / 64])
    assert table["verdict"].tolist() == ["undecided", "undecided", "higher"]
    assert math.isnan(table.loc[0.0, "low"])
    assert table.loc[0.5, "low"] < 0.6 < table.loc[0.5, "high"]
    backwards = difference_table(theirs, [ours], [0.5])
    assert backwards["verdict"].tolist() == ["lower"]
    shown = printed(table.reset_index())
    assert shown["r 0.00"][0] == "0.000"
    assert shown["r 0.50"][0].startswith("0.600 [")
    assert shown["r 0.50"][0].endswith("] higher")
    assert "McNemar" in to_markdown(shown, NOTES)


def test_images_are_paired_by_their_index(make_log: MakeLog) -> None:
    """Paired by their place, six images would differ each way."""
    outcomes = [(0, 0, 1.0)] * 6 + [(0, 1, 0.0)] * 6
    ours, theirs = make_log(outcomes, "ours"), make_log(outcomes, "theirs")
    backwards = replace(theirs, frame=theirs.frame.iloc[::-1])
    table = difference_table(ours, [backwards], [0.5])
    assert table[["difference", "p"]].to_numpy().tolist() == [[0.0, 1.0]]
    assert math.isnan(table["low"][0]), "no two answers differ"
    later = replace(theirs, frame=theirs.frame.assign(idx=theirs.frame["idx"] + 6))
    (row,) = difference_table(ours, [later], [0.5]).to_dict("records")
    # In common are ours' last six, wrong, and theirs' first six, right.
    assert (row["N"], row["difference"], row["verdict"]) == (6, -1.0, "lower")


def test_different_images_are_not_paired(make_log: MakeLog) -> None:
    logs = [
        make_log([(0, 0, 1.0)], name, identity={"data": {"fingerprint": name}}) for name in "ab"
    ]
    with pytest.raises(ConcertError, match="of different images"):
        difference_table(logs[0], logs[1:], [0.5])


def test_logs_of_the_same_names_have_rows_of_their_own(make_log: MakeLog) -> None:
    first = make_log([(0, 0, 1.0)] * 4, "first", method="Concert")
    others = [make_log([(0, 0, r)] * 4, str(r), method="Cohen") for r in (1.0, 0.1)]
    alike = row_labels([first, others[0]])
    parts = [difference_table(first, [other], [0.5], alike) for other in others]
    shown = printed(pd.concat(parts, ignore_index=True))
    assert shown["r 0.50"].tolist() == ["0.000", "1.000"]


def test_logs_without_a_common_image_are_refused(make_log: MakeLog) -> None:
    ours, theirs = make_log([(0, 0, 1.0)], "ours"), make_log([(0, 0, 1.0)], "theirs")
    theirs.frame["idx"] = 7
    with pytest.raises(ConcertError, match="no image in common"):
        difference_table(ours, [theirs], [0.5])
    with pytest.raises(ConcertError, match="at least one other log"):
        difference_table(make_log([(0, 0, 1.0)], "alone"), [], [0.0])


def test_pairing_finds_what_two_intervals_do_not(make_log: MakeLog) -> None:
    """Images of very different difficulty, on which the first method is a little better."""
    hard = np.random.default_rng(0).random(500)
    ours = make_log([(0, 0, 1.0 if u < 0.55 else 0.1) for u in hard], "ours")
    theirs = make_log([(0, 0, 1.0 if u < 0.50 else 0.1) for u in hard], "theirs")
    (row,) = difference_table(ours, [theirs], [0.5]).to_dict("records")
    assert row["verdict"] == "higher"
    assert 0 < row["low"] < row["high"] < 0.1
    alone = interval_table([ours, theirs], [0.5])
    assert alone["low"][0] < alone["high"][1], "the two intervals by themselves overlap"


def test_the_tool_writes_what_it_prints(make_log: MakeLog, tmp_path: Path) -> None:
    stopped = {"stopping": "grid:0,0.5"}
    ours = make_log([(0, 0, 0.9)] * 6 + [(0, 1, 0.0)] * 6, "ours", identity=stopped)
    theirs = make_log([(0, 1, 0.0)] * 12, "theirs")
    text = main(ours.path, [theirs.path], tmp_path / "out")
    assert "0.500 [" in text
    table = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert table["radius"].tolist() == [0.0, 0.5]
    assert table["verdict"].tolist() == ["higher", "higher"]
    assert "McNemar" in (tmp_path / "out" / "differences.md").read_text()
    assert "r 0.75" in main(ours.path, [theirs.path], radii=[0.75])


def test_radii_that_the_stopping_did_not_settle_have_a_note_or_no_verdict(
    make_log: MakeLog,
) -> None:
    outcomes = [(0, 0, 0.9)] * 12
    full = make_log(outcomes, "full", identity={"stopping": "full"})
    near = make_log(outcomes, "near", identity={"stopping": "relative:0.3"})
    grid = make_log(outcomes, "grid", identity={"stopping": "grid:0.3"})
    assert settled_radii([full, near], [0.0, 0.25, 0.5]) == [0.0]
    assert settled_radii([full, grid], [0.0, 0.3]) == [0.3]
    with pytest.raises(ConcertError, match=r"at all radii of the tables .* give --radii"):
        main(grid.path, full.path)
    assert "At [0.5] accuracies are lower bounds" in main(grid.path, full.path, radii=[0.3, 0.5])
    for radii in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(ConcertError, match="finite and not negative"):
            main(full.path, near.path, radii=radii)

"""Paired differences of two logs: by hand, and on data whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from concert.errors import ConcertError
from concert.evaluation.difference_table import NOTES, difference_table, printed
from concert.evaluation.rendering import to_markdown
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
    ours = make_log([(0, 0, 1.0), (0, 1, 0.0)], "ours")
    theirs = make_log([(0, 0, 1.0), (0, 1, 0.0)], "theirs")
    backwards = replace(theirs, frame=theirs.frame.iloc[::-1])
    table = difference_table(ours, [backwards], [0.5])
    assert table["difference"].tolist() == [0.0]
    assert table["p"].tolist() == [1.0]


def test_logs_without_a_common_image_are_refused(make_log: MakeLog) -> None:
    ours, theirs = make_log([(0, 0, 1.0)], "ours"), make_log([(0, 0, 1.0)], "theirs")
    theirs.frame["idx"] = 7
    with pytest.raises(ConcertError, match="no image in common"):
        difference_table(ours, [theirs], [0.5])


def test_pairing_finds_what_two_intervals_do_not(make_log: MakeLog) -> None:
    """Images of very different difficulty, on which the first method is a little better."""
    hard = np.random.default_rng(0).random(500)
    ours = make_log([(0, 0, 1.0 if u < 0.55 else 0.1) for u in hard], "ours")
    theirs = make_log([(0, 0, 1.0 if u < 0.50 else 0.1) for u in hard], "theirs")
    (row,) = difference_table(ours, [theirs], [0.5]).to_dict("records")
    assert row["verdict"] == "higher"
    # Of all 500 images only those between the two shares differ, a standard error of about 0.01.
    assert row["high"] - row["low"] < 0.05

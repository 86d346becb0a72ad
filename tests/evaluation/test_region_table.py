"""The table of region sizes, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from concert.evaluation.region_table import EARLY, region_notes, region_table
from concert.evaluation.rendering import to_markdown
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"


def test_the_table_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    first = make_log([(0, 0, 1.0), (1, 1, 0.5), (2, 3, 0.7)], "first", method="Cohen", sigma="0.25")
    # Image 0 is larger (axis 1.2, radius 0.95), image 1 is not (radius 0.4), image 2 is new.
    log = make_log([(0, 0, 0.95), (1, 1, 0.4), (2, 2, 0.5999)], "log", method="Concert")
    log.frame["proxy_volume"] = [1.2, 0.9, 0.7499]
    log.frame["log_volume"] = [2.0, 1.0, 7.0]
    # Certifies nothing, so it does not take part in what all logs certify.
    none = make_log([(0, 0, 0.0), (1, 1, 0.0), (2, 2, 0.0)], "none")
    table = region_table([first, log, none]).set_index("method")
    assert list(table["common"]) == [2, 2, 0]
    assert table.loc["Cohen", "axis"] == pytest.approx(1.5 / 3)
    assert table.loc["Concert", "axis"] == pytest.approx((1.2 + 0.9 + 0.7499) / 3)
    assert table.loc["Concert", "AMCR"] == pytest.approx((0.95 + 0.4 + 0.5999) / 3)
    assert table.loc["Concert", "log-volume"] == pytest.approx(1.5)
    assert table.loc["Concert", "larger (%)"] == pytest.approx(50.0)
    assert table.loc["Cohen", "larger (%)"] == 0.0
    assert table.loc["Concert", "draws"] == 1000
    assert math.isnan(table.iloc[2]["log-volume"])
    assert math.isnan(table.iloc[2]["larger (%)"])
    assert table.iloc[2]["axis"] == 0.0

    text = to_markdown(region_table([first, log, none]), region_notes([first, log, none]))
    # Sizes and shares go down, never up.
    assert "| 0.649 | 0.949 | 1.5 | 2 | 50.0 | 1000 |" in text
    assert "(Cohen, sigma 0.25)" in text
    assert "stopped on a grid" not in text
    assert EARLY in text, "these logs do not say how they stopped"
    whole = [replace(log, run={"identity": {"stopping": "full"}, "info": {}})]
    assert EARLY not in region_notes(whole)
    first.run["identity"]["stopping"] = "grid:0,0.5"
    assert any(
        note.startswith("AMCR, axis and log-volume of Cohen, sigma 0.25: lower bounds")
        for note in region_notes([first, log])
    )
    assert "nan" not in text


def test_logs_of_other_projects_and_of_other_images(make_log: Callable[..., LoadedLog]) -> None:
    ours = make_log([(0, 0, 1.0)], "ours")
    ours.frame["idx"] = 10**6
    theirs = read_log(DATA / "cohen_seconds.tsv")
    table = region_table([ours, theirs])
    assert list(table["common"]) == [0, 0]
    assert math.isnan(table.iloc[1]["larger (%)"])
    assert math.isnan(table.iloc[1]["draws"])
    assert "nan" not in to_markdown(table)

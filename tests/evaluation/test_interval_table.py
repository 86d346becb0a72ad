"""Intervals of certified accuracies against SciPy's exact ones and a resampling of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from concert.evaluation.interval_table import interval_table, printed
from concert.records.reading import LoadedLog

# 12 of 20 correct with radius 0.5, 3 of them with 1.
OUTCOMES = [(0, 0, 1.0)] * 3 + [(0, 0, 0.5)] * 9 + [(0, 1, 2.0)] * 8


def test_both_intervals(make_log: Callable[..., LoadedLog]) -> None:
    """The bootstrap's ends are quantiles of 2,000 binomial means: within one image of theirs."""
    table = interval_table([make_log(OUTCOMES)], [0.0, 0.75, 1.25])
    assert list(table["certified accuracy"]) == [0.6, 0.15, 0.0]
    for row, count in zip(table.to_dict("records"), (12, 3, 0), strict=True):
        exact = binomtest(count, 20).proportion_ci(0.95, method="exact")
        assert row["low"] == pytest.approx(exact.low, abs=1e-8)
        assert row["high"] == pytest.approx(exact.high, abs=1e-8)
    means = np.random.default_rng(1).binomial(20, [0.6, 0.15], (100_000, 2)) / 20
    for end, quantile in (("bootstrap low", 0.025), ("bootstrap high", 0.975)):
        expected = np.quantile(means, quantile, axis=0)
        assert table[end][:2].to_numpy() == pytest.approx(expected, abs=0.051)
    # None of the images counts at 1.25: every resample says 0, which tells nothing.
    assert table.loc[2, ["bootstrap low", "bootstrap high"]].isna().all()


def test_few_images_have_no_bootstrap_interval(make_log: Callable[..., LoadedLog]) -> None:
    table = interval_table([make_log(OUTCOMES[:4])], [0.75])
    assert table["bootstrap low"].isna().all()
    assert table.loc[0, "high"] > 0.75 > table.loc[0, "low"]


def test_printed_outwards_a_row_for_each_log(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log(OUTCOMES, "a", method="Cohen"), make_log(OUTCOMES, "b", method="MACER")]
    shown = printed(interval_table(logs, [0.0, 1.25]))
    assert list(shown["method"]) == ["Cohen", "MACER"]
    # Exact: 0.36054 to 0.80881, and 0 to 0.16843.
    assert list(shown["r 0.00"]) == ["[0.360, 0.809]"] * 2
    assert list(shown["r 1.25"]) == ["[0.000, 0.169]"] * 2

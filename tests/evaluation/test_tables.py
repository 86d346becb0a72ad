"""Tables of logs: what stands in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.evaluation.table_notes import data_notes
from concert.evaluation.tables import comparison_table, radius_grid, runtime_table, sigma_statistics
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"
OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def test_a_row_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log(OUTCOMES, identity={"n": 2000}, method="Cohen", sigma="0.25", data="cifar10")
    table = comparison_table([log])
    assert ", ".join(table.columns) == (
        "sigma, method, 0.00, 0.25, 0.50, 0.75, AMCR, AMCR low, AMCR high, "
        "guarantee, certificate, abstained (%), N, n"
    )
    (row,) = table.to_dict("records")
    assert (row["sigma"], row["method"]) == ("0.25", "Cohen")
    assert [row[name] for name in ("0.00", "0.25", "0.50", "0.75")] == [0.5, 0.5, 0.5, 0.25]
    assert row["AMCR"] == pytest.approx(1.3 / 4, rel=1e-15)
    assert math.isnan(row["AMCR low"])
    assert math.isnan(row["AMCR high"])
    (row,) = comparison_table([make_log(OUTCOMES * 3, "more")]).to_dict("records")
    assert 0 <= row["AMCR low"] < row["AMCR"] < row["AMCR high"] <= 0.8
    row = table.iloc[0]
    assert (row["guarantee"], row["certificate"]) == ("deployed", "isotropic")
    assert (row["abstained (%)"], row["N"], row["n"]) == (25, 4, 2000)


def test_the_grid_ends_with_the_last_entry_that_is_not_zero(
    make_log: Callable[..., LoadedLog],
) -> None:
    short = make_log([(0, 0, 0.2), (1, 2, 3.0)], "short")
    long = make_log([(0, 0, 1.0)], "long")
    assert radius_grid([short]) == [0]
    assert radius_grid([short, long]) == [0, 0.25, 0.5, 0.75, 1.0]
    assert radius_grid([make_log([(0, -1, 0.0)], "none")]) == [0]
    imagenet = make_log([(0, 0, 1.2)], "imagenet", data="imagenet")
    assert radius_grid([imagenet]) == [0, 0.5, 1.0]


def test_chosen_radii(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log(OUTCOMES)
    table = comparison_table([log], radii=[0.8, 0, 0.125, 0])
    assert list(table.columns[2:5]) == ["0.80", "0.00", "0.125"]
    assert list(table.iloc[0, 2:5]) == [0.25, 0.5, 0.5]
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConcertError, match="radii must be finite and not negative"):
            comparison_table([log], radii=[0.0, wrong])


def test_a_log_given_twice_is_refused(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log([(0, 0, 1.0)], name="a")
    with pytest.raises(ConcertError, match="given 2 times"):
        comparison_table([log, log])


def test_a_log_with_two_guarantees_names_both(make_log: Callable[..., LoadedLog]) -> None:
    log = make_log(OUTCOMES, guarantees=[Guarantee.FROZEN, Guarantee.DEPLOYED])
    assert list(comparison_table([log])["guarantee"]) == ["deployed + frozen-noise"]


def test_draws_fall_back_to_the_rows_and_may_be_unknown(make_log: Callable[..., LoadedLog]) -> None:
    table = comparison_table([make_log(OUTCOMES), read_log(DATA / "cohen_clock")])
    assert table["n"].isna().tolist() == [False, True]
    assert table["n"][0] == 1000


def test_data_sets_are_not_mixed(make_log: Callable[..., LoadedLog]) -> None:
    mnist = make_log(OUTCOMES, "mnist", data="mnist", data_notes="first 100")
    cifar = make_log(OUTCOMES, "cifar10", data="cifar10", data_notes=["first 100", "resized"])
    unknown = make_log(OUTCOMES, "unknown")
    with pytest.raises(ConcertError, match="logs of mnist and cifar10 do not go into one table"):
        comparison_table([mnist, unknown, cifar])
    assert len(comparison_table([mnist, unknown])) == 2
    assert data_notes([mnist, unknown, cifar]) == ["first 100", "resized"]
    with pytest.raises(ConcertError, match="no logs given"):
        comparison_table([])


def test_sigma_statistics_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    table = sigma_statistics([make_log(OUTCOMES, method="Concert", box="0.25-0.5")])
    assert table.to_dict("records") == [
        {
            "sigma": "0.25-0.5",
            "method": "Concert",
            "certificate": "isotropic",
            "min": 0.25,
            "median": 0.25 + 1.5 / 64,
            "max": 0.25 + 3 / 64,
            "N": 4,
        }
    ]
    unknown = sigma_statistics([read_log(DATA / "cohen_clock")])
    assert math.isnan(unknown["min"][0])
    assert unknown["N"][0] == 0


def test_runtimes_by_hand(make_log: Callable[..., LoadedLog]) -> None:
    # Four images take 0.5, 1, 1.5 and 2 seconds with 1,000 draws each.
    (row,) = runtime_table([make_log(OUTCOMES)]).to_dict("records")
    assert row["seconds per image"] == row["median seconds"] == 1.25
    assert row["total seconds"] == 5
    assert row["draws per second"] == 800
    assert math.isnan(runtime_table([read_log(DATA / "cohen_clock")])["draws per second"][0])

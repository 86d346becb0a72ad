"""The paper's numbers beside logs of one's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concert.evaluation.labels import RowLabel
from concert.evaluation.paper_tables import (
    attacks_beside_the_paper,
    beside_the_paper,
    matches,
    paper_table,
)
from concert.evaluation.rendering import to_latex, to_markdown
from concert.records.reading import LoadedLog

QUERIED = {"noise": {"kind": "queried"}}
OUTCOMES = [(0, 0, 0.6), (1, 1, 0.3), (2, 3, 0.9), (3, -1, 0.0)]


@pytest.mark.parametrize(("number", "radii"), [(1, 9), (6, 9), (7, 7)])
def test_the_papers_tables_are_whole(number: int, radii: int) -> None:
    table = paper_table(number)
    assert table.shape == (12, radii + 3)
    assert list(table["sigma"].unique()) == ["0.25", "0.5", "1.0"]
    assert list(table["method"][:4]) == ["Cohen", "SmoothAdv", "MACER", "Concert"]
    accuracies = table.iloc[:, 2:-1]
    assert (accuracies.diff(axis=1).iloc[:, 1:] <= 0).all(axis=None)
    # Between 0 and the integral of a falling curve that ends at the largest radius of n = 100,000.
    assert (table["AMCR"] <= 3.82 * table["sigma"].astype(float) * accuracies.iloc[:, 0]).all()


def test_cells_of_the_papers_tables() -> None:
    first, sixth, seventh = (paper_table(number) for number in (1, 6, 7))
    assert first.loc[7, ["sigma", "method", "1.00", "AMCR"]].tolist() == [
        "0.5",
        "Concert",
        0.38,
        0.704,
    ]
    assert sixth.loc[9, ["method", "2.00", "AMCR"]].tolist() == ["SmoothAdv", 0.43, 1.781]
    assert seventh.loc[10, ["method", "3.00", "AMCR"]].tolist() == ["MACER", 0.13, 1.004]


def test_logs_stand_below_the_row_of_their_method(make_log: Callable[..., LoadedLog]) -> None:
    shape, bands = {"noise": "static"}, {"noise": "banded"}
    logs = [
        make_log(OUTCOMES, "a", data="mnist", method="Cohen", sigma="0.25"),
        make_log(OUTCOMES, "b", data="mnist", method="Concert (queried)", sigma="0.5-0.95"),
        make_log(OUTCOMES, "c", data="mnist", method="Concert (static)", sigma="0.5-0.95", **shape),
        make_log(OUTCOMES, "d", data="mnist", method="Consistency", sigma="0.25"),
        make_log(OUTCOMES, "e", data="mnist", method="macer", sigma="1"),
        make_log(OUTCOMES, "f", data="mnist", method="Cohen (colour 3)", sigma="0.5", **bands),
    ]
    table = beside_the_paper(logs)
    assert table is not None
    # All rows of the paper, each with ours below it, and what the paper does not have.
    assert (table["source"] == "paper").sum() == 12
    below: dict[tuple[str, str], list[str]] = {}
    for _, row in table.iterrows():
        if row["source"] == "paper":
            below[row["sigma"], row["method"]] = []
            last = row["sigma"], row["method"]
        else:
            below[last].append(row["method"])
    assert {row: ours for row, ours in below.items() if ours} == {
        ("0.25", "Cohen"): ["Cohen"],
        ("0.5", "Concert"): ["Concert (queried)"],
        ("1.0", "MACER"): ["macer"],
        ("1.0", "Concert"): ["Concert (static)", "Consistency", "Cohen (colour 3)"],
    }
    printed, ours = table.iloc[0], table.iloc[1]
    assert (printed["0.50"], printed["AMCR"], printed["N"]) == (0.97, 0.912, 10_000)
    assert (ours["0.00"], ours["0.25"], ours["0.50"], ours["0.75"]) == (0.5, 0.5, 0.25, 0.0)
    assert ours["AMCR"] == pytest.approx(0.225)
    concert = (table["method"] == "Concert") & (table["source"] == "paper")
    assert set(table[concert]["guarantee"]) == {"frozen-noise"}
    text = to_markdown(table, ["a note"])
    assert "| 0.25 | Cohen | paper | 0.990 |" in text
    assert "a note" in text
    assert "Cohen" in to_latex(table)


@pytest.mark.parametrize(
    ("ours", "printed", "is_row"),
    [
        (("0.5-0.95", "Concert (queried)"), ("0.5", "Concert"), True),
        (("0.5-0.6", "Concert (generated)"), ("0.5", "Concert"), True),
        (("0.5-1", "Concert (generated)"), ("0.5", "Concert"), True),
        (("1-1.425", "Concert (generated)"), ("1.0", "Concert"), True),
        # A box that reaches higher than the paper's, or none at all.
        (("0.5-3", "Concert (generated)"), ("0.5", "Concert"), False),
        (("0.25-0.6", "Concert (generated)"), ("0.25", "Concert"), False),
        (("0.5-0.5", "Concert (generated)"), ("0.5", "Concert"), False),
        (("0.5", "Concert"), ("0.5", "Concert"), False),
        (("0.5", "Cohen (1/255 grid)"), ("0.5", "Cohen"), True),
        (("0.5-0.95", "MACER (generated)"), ("0.5", "MACER"), False),
        (("0.25", "Cohen"), ("0.5", "Cohen"), False),
        (("[0.25, 0.5]", "Cohen"), ("0.25", "Cohen"), False),
        (("", ""), ("0.25", "Cohen"), False),
    ],
)
def test_which_row_a_log_belongs_to(
    ours: tuple[str, str], printed: tuple[str, str], is_row: bool
) -> None:
    assert matches(RowLabel(*ours, "deployed", ""), *printed) is is_row


def test_a_wider_box_than_the_papers_comes_last(make_log: Callable[..., LoadedLog]) -> None:
    wide = make_log(OUTCOMES, data="mnist", method="Concert (generated)", sigma="0.5-3")
    table = beside_the_paper([wide])
    assert table is not None
    assert list(table["source"]) == ["paper"] * 12 + ["here"]


def test_the_interval_is_explained(make_log: Callable[..., LoadedLog]) -> None:
    table = beside_the_paper([make_log(OUTCOMES, data="mnist", method="Cohen", sigma="0.25")])
    assert table is not None
    for text in (to_markdown(table), to_latex(table).replace(r"\%", "%")):
        assert "interval: its 95 % bootstrap interval over images" in text
        assert "are rounded down, upper ends up" in text
        assert "has no interval" in text


def test_data_that_the_paper_does_not_have(make_log: Callable[..., LoadedLog]) -> None:
    assert beside_the_paper([make_log(OUTCOMES, data="digits", method="Cohen", sigma="1")]) is None


@pytest.mark.parametrize(("number", "taus"), [(2, 8), (3, 4), (4, 6), (5, 4)])
def test_the_papers_tables_under_attack_are_whole(number: int, taus: int) -> None:
    table = paper_table(number)
    assert table.shape == (4, taus + 2)
    assert list(table["method"]) == ["Cohen", "SmoothAdv", "MACER", "Concert"]
    assert set(table["sigma"]) == {"0.5" if number % 2 else "1.0"}
    # The paper's claim: Concert is best at the largest tau, or all are 0 there.
    last = table.iloc[:, -1]
    assert last.iloc[3] == last.max()


def test_attacked_logs_stand_below_the_row_of_their_method(
    make_log: Callable[..., LoadedLog],
) -> None:
    attack = {"method": "shadow", "against": "deployed", "l2": [2.0, 3.5, 5.0, 7.0]}
    bands = {"noise": "banded", "method": "Cohen (colour 3)", "sigma": "0.5"}
    logs = [
        make_log(OUTCOMES, name, data="cifar10, shadow", attack=attack, method=method, sigma=sigma)
        for name, method, sigma in (
            ("a", "Consistency", "0.5"),
            ("b", "Concert (queried)", "0.5-0.825"),
        )
    ]
    logs.append(make_log(OUTCOMES, "d", data="cifar10, shadow", attack=attack, **bands))
    table = attacks_beside_the_paper(logs)
    assert table is not None
    assert list(zip(table["method"], table["source"], strict=True)) == [
        ("Cohen", "paper"),
        ("SmoothAdv", "paper"),
        ("MACER", "paper"),
        ("Concert", "paper"),
        ("Concert (queried)", "here"),
        ("Consistency", "here"),
        ("Cohen (colour 3)", "here"),
    ]
    assert table.loc[3, ["tau 3", "tau 6", "all"]].tolist() == ["0.33", "0.15", ""]
    # Of the images perturbed by at most 6 two of three are certified.
    assert table.loc[4, "tau 6"].startswith("0.66 [")
    assert table.loc[4, "tau 6"].endswith("(3)")
    assert attacks_beside_the_paper([make_log(OUTCOMES, "c", data="cifar10, pgd")]) is None


def test_the_amcr_of_a_log_that_stopped_on_a_grid_has_no_upper_end(
    make_log: Callable[..., LoadedLog],
) -> None:
    grid = {"stopping": "grid:0,0.25"}
    many = OUTCOMES * 5
    logs = [
        make_log(many, "a", identity=grid, data="mnist", method="Cohen", sigma="0.25"),
        make_log(many, "b", data="mnist", method="Cohen", sigma="0.5"),
    ]
    table = beside_the_paper(logs)
    here = table[table["source"] == "here"]
    first, second = here["interval"]
    assert first.endswith(", inf]")
    assert not second.endswith(", inf]")
    assert first.split(",")[0] == second.split(",")[0], "the same lower end"

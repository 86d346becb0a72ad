"""Printed tables: rounding, guarantees, escaping."""

from __future__ import annotations

import io
from collections.abc import Callable

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concert.certificates import Guarantee
from concert.evaluation.metrics import percentage
from concert.evaluation.rendering import (
    rounded_down,
    rounded_up,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from concert.evaluation.tables import comparison_table
from concert.records.reading import LoadedLog

OUTCOMES = [(0, 0, 0.9999), (1, 1, 0.4999), (2, 3, 5.0)] * 4


@pytest.fixture
def table(make_log: Callable[..., LoadedLog]) -> pd.DataFrame:
    logs = [
        make_log(OUTCOMES, "a", [Guarantee.DEPLOYED], method="Cohen_50%", sigma="[0.25, 0.5]"),
        make_log(OUTCOMES, "b", [Guarantee.FROZEN], method="Con|cert", sigma="[1, 2]"),
    ]
    return comparison_table(logs)


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        (0.9999, "0.999", "1.000"),
        (0.57, "0.570", "0.570"),  # 0.57 * 1000 is below 570 in floating point
        (57 / 100, "0.570", "0.570"),
        (2 / 3, "0.666", "0.667"),
        (0.0, "0.000", "0.000"),
        (1e-9, "0.000", "0.001"),
        (12.3456, "12.345", "12.346"),
    ],
)
def test_numbers_are_cut_and_not_rounded(value: float, down: str, up: str) -> None:
    assert rounded_down(value) == down
    assert rounded_up(value) == up


@given(st.floats(0, 1e6))
def test_printed_numbers_bracket_the_value(value: float) -> None:
    assert float(rounded_down(value)) <= value <= float(rounded_up(value))
    assert float(rounded_up(value)) - float(rounded_down(value)) < 0.0010001


@given(st.integers(0, 500))
def test_shares_of_500_images_are_printed_exactly(count: int) -> None:
    assert rounded_down(count / 500) == f"{count // 500}.{count % 500 * 2:03d}"
    tenths = count * 2
    for printed in (rounded_down, rounded_up):
        assert printed(percentage(count / 500), 1) == f"{tenths // 10}.{tenths % 10}"


def test_text_states_guarantees_and_notes(table: pd.DataFrame) -> None:
    text = to_text(table, ["the first 3 images"])
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == (
        "sigma method 0.00 0.25 0.50 0.75 AMCR guarantee certificate abstained (%) N n"
    )
    assert "deployed" in lines[2]
    assert "frozen-noise" in lines[3]
    assert "0.666  0.666  0.333  0.333" in lines[2]
    # AMCR 5.9992 / 12, here the mean of the radii with the ends of the frame.
    ends = (rounded_down(table["AMCR low"][0]), rounded_up(table["AMCR high"][0]))
    assert f"  0.499 [{ends[0]}, {ends[1]}]  " in lines[2]
    assert "has no interval" not in text
    for guarantee in (Guarantee.DEPLOYED, Guarantee.FROZEN):
        assert f"{guarantee.value}: {guarantee.sentence}" in lines
    assert Guarantee.NONE.sentence not in text
    assert Guarantee.UNKNOWN.sentence not in text
    assert lines[-1] == "the first 3 images"
    # A header and its numbers end in the same place.
    assert lines[0].index("0.25") + 4 == lines[2].index("0.666  0.333") + 5


def test_csv_has_full_precision(table: pd.DataFrame) -> None:
    back = pd.read_csv(io.StringIO(to_csv(table)))
    assert list(back["0.00"]) == [2 / 3, 2 / 3]
    assert list(back["AMCR high"]) == list(table["AMCR high"])
    assert list(back["guarantee"]) == ["deployed", "frozen-noise"]


def test_markdown_is_a_pipe_table_with_its_notes(table: pd.DataFrame) -> None:
    lines = to_markdown(table, ["a note"]).splitlines()
    assert lines[0].startswith("| sigma | method | 0.00 |")
    assert lines[1].startswith("| :-- | :-- | --: |")
    assert r"Con\|cert" in lines[3]
    assert {line.replace(r"\|", "").count("|") for line in lines[:4]} == {13}
    assert f"- deployed: {Guarantee.DEPLOYED.sentence}" in lines
    assert lines[-1] == "- a note"


def test_latex_is_escaped(table: pd.DataFrame) -> None:
    latex = to_latex(table, ["5 % of R&D_set, #1 {curly} ~ ^"])
    assert r"Cohen\_50\%" in latex
    assert r"abstained (\%)" in latex
    assert r"5 \% of R\&D\_set, \#1 \{curly\}" in latex
    assert "frozen-noise: " + Guarantee.FROZEN.sentence in latex
    # A row that begins with a bracket would be read as the argument of the line end above it.
    assert "{[0.25, 0.5]} & Cohen" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert not any(row.lstrip().startswith("[") for row in rows)
    assert [row.count(" & ") for row in rows[:3]] == [11, 11, 11]
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2


def test_an_amcr_without_an_interval_stands_alone(make_log: Callable[..., LoadedLog]) -> None:
    text = to_text(comparison_table([make_log([(0, 0, 0.5)] * 20)]))
    assert "  0.500  deployed" in text
    assert "[" not in text.splitlines()[2]
    assert "nan" not in text
    assert "has no interval" in text

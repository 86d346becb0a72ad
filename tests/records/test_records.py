"""The certification record and its row in the log."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_certification import certification

from concert.certificates import Guarantee
from concert.records.record import (
    ABSTAIN,
    COLUMNS,
    Certification,
    format_row,
    format_votes,
    parse_cells,
    parse_row,
    parse_seconds,
    parse_votes,
)

plain_text = st.text(st.characters(exclude_characters='\t\r\n"', codec="utf-8"))
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 10**12)


@st.composite
def certifications(draw: st.DrawFn) -> Certification:
    label = draw(st.integers(-1, 999))
    positive = st.floats(0, allow_nan=False, allow_infinity=False)
    return Certification(
        label=label,
        radius=0.0 if label == ABSTAIN else draw(positive),
        p_lower=draw(st.floats(0, 1)),
        guarantee=draw(st.sampled_from(Guarantee)),
        certificate=draw(plain_text),
        axes=None,
        proxy_volume=draw(numbers),
        log_volume=draw(numbers),
        n_used=draw(counts),
        votes=tuple(draw(st.lists(counts, max_size=20))),
        seed=draw(st.integers(0, 2**63 - 1)),
        index=draw(counts),
        candidate=draw(st.integers(0, 999)),
        sigma_min=draw(numbers),
        sigma_geomean=draw(numbers),
        sigma_max=draw(numbers),
        reason=draw(plain_text),
    )


@given(certifications(), st.integers(0, 999), st.floats(0, 1e9))
def test_a_row_gives_back_the_record_exactly(
    record: Certification, true_label: int, seconds: float
) -> None:
    line = format_row(record, true_label, seconds)
    assert "\n" not in line
    assert line.count("\t") == len(COLUMNS) - 1
    back = parse_row(line, seed=record.seed, num_classes=len(record.votes))
    assert back == (record, true_label, seconds)
    assert parse_row(line + "\n", record.seed, len(record.votes)) == back


def test_the_first_six_columns_are_cohens_and_the_order_is_settled() -> None:
    assert " ".join(COLUMNS) == (
        "idx label predict radius correct time candidate p_lower n_used votes guarantee "
        "certificate proxy_volume log_volume sigma_min sigma_geomean sigma_max reason"
    )


def test_a_wrong_prediction_keeps_its_radius_and_is_not_correct() -> None:
    cells = dict(zip(COLUMNS, format_row(certification(), 5, 1.0).split("\t"), strict=True))
    assert (cells["label"], cells["predict"], cells["radius"], cells["correct"]) == (
        "5",
        "3",
        "0.5",
        "0",
    )


def test_an_abstention_is_never_correct() -> None:
    record = certification(label=ABSTAIN, radius=0.0, reason="p_lower 0.4 is too small")
    cells = dict(zip(COLUMNS, format_row(record, 3, 1.0).split("\t"), strict=True))
    assert (cells["predict"], cells["radius"], cells["correct"]) == ("-1", "0.0", "0")


def test_numbers_of_numpy_and_torch_are_written_as_plain_numbers() -> None:
    record = certification(
        radius=torch.tensor(0.1, dtype=torch.float32),
        label=torch.tensor(3),
        p_lower=torch.tensor(0.97, dtype=torch.float64).numpy()[()],
        votes=tuple(torch.tensor([0, 1, 0, 99]).numpy()),
    )
    cells = dict(zip(COLUMNS, format_row(record, 3, 1.0).split("\t"), strict=True))
    # 0.1 in float32, exactly, and not the shorter 0.1, which is smaller.
    assert float(cells["radius"]) == 13421773 / 2**27
    assert (cells["predict"], cells["p_lower"], cells["votes"]) == ("3", "0.97", "1:1,3:99")


def test_axes_are_neither_written_nor_compared() -> None:
    record = certification(axes=torch.ones(3, 4, 4))
    assert record == certification()
    assert format_row(record, 3, 1.0) == format_row(certification(), 3, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"radius": math.nan},
        {"radius": math.inf},
        {"radius": -0.1},
        {"label": ABSTAIN},
        {"reason": "two\nlines"},
        {"reason": "a\ttab"},
        {"certificate": '"quoted"'},
    ],
)
def test_impossible_records_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"radius|reason|certificate"):
        certification(**changes)


def test_votes_are_sparse_and_ascending() -> None:
    assert format_votes((0, 0, 0, 9990, 0, 0, 0, 0, 10)) == "3:9990,8:10"
    assert parse_votes("3:9990,8:10") == {3: 9990, 8: 10}
    assert format_votes((0, 0)) == ""
    assert parse_votes("") == {}


@pytest.mark.parametrize(
    "text", ["3", "3:", "a:1", "8:10,3:9990", "3:1,3:2", "3:0", "-1:4", "3:-4"]
)
def test_votes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|are not classes"):
        parse_votes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15.7", 15.7),
        ("0:00:15.700000", 15.7),
        ("1:02:03", 3723.0),
        ("1 day, 0:00:00.5", 86400.5),
        ("3 days, 1:00:00", 262800.0),
        ("1e-05", 1e-5),
    ],
)
def test_both_forms_of_time(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("idx", "1.5", "idx '1.5' is not a whole number"),
        ("radius", "wide", "radius 'wide' is not a number"),
        ("radius", "nan", "radius must be finite"),
        ("radius", "-1", "not negative"),
        ("correct", "0", "correct is 0 for label 3 and prediction 3"),
        ("predict", "4", "correct is 1 for label 3 and prediction 4"),
        ("votes", "3-99", "votes '3-99' is not votes such as"),
        ("guarantee", "sure", "guarantee 'sure' is not one of deployed, frozen-noise"),
        ("time", "soon", "time 'soon' is not a time"),
    ],
)
def test_a_bad_cell_is_named(column: str, text: str, message: str) -> None:
    cells = format_row(certification(), 3, 1.0).split("\t")
    cells[COLUMNS.index(column)] = text
    with pytest.raises(ValueError, match=message):
        parse_row("\t".join(cells))


def test_a_row_must_have_all_columns() -> None:
    line = format_row(certification(), 3, 1.0)
    with pytest.raises(ValueError, match="17 columns instead of 18"):
        parse_row(line.rpartition("\t")[0])
    with pytest.raises(ValueError, match="class 3, but there are 3 classes"):
        parse_row(line, num_classes=3)


def test_columns_of_others_are_left_out() -> None:
    names = ("idx", "label", "predict", "radius", "correct", "time", "colour")
    values = parse_cells(names, ("1", "2", "2", "0.5", "1", "0:00:01", "red"))
    assert values == {
        "idx": 1,
        "label": 2,
        "predict": 2,
        "radius": 0.5,
        "correct": 1,
        "time": 1.0,
    }


def test_records_are_compared_by_what_they_certify() -> None:
    assert certification() != replace(certification(), radius=math.nextafter(0.5, 1))

"""Reading logs of other projects, and files that are no logs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.records.reading import LoadedLog, read_log
from concert.records.record import COLUMNS

DATA = Path(__file__).parents[1] / "data_files"
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("cohen_seconds.tsv", [15.7, 15.6, 15.5]), ("cohen_clock", [15.7, 3723.0, 86400.5])],
)
def test_six_columns_with_both_forms_of_time(name: str, seconds: list[float]) -> None:
    log = read_log(DATA / name)
    frame = log.frame
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["idx"]) == [0, 20, 40]
    assert list(frame["label"]) == [3, 7, 4]
    assert list(frame["predict"]) == [3, -1, 2]
    assert list(frame["radius"]) == [0.95, 0.0, 0.291]
    assert list(frame["correct"]) == [1, 0, 0]
    assert list(frame["time"]) == seconds
    assert set(frame["guarantee"]) == {"unknown"}
    assert set(frame["certificate"]) == set(frame["reason"]) == set(frame["votes"]) == {""}
    for column in ("candidate", "p_lower", "n_used", "proxy_volume", "log_volume", "sigma_min"):
        assert frame[column].isna().all()
    assert log.run == {"schema": 1, "identity": {}, "info": {}}
    assert log.guarantee_sentence(Guarantee.UNKNOWN) == Guarantee.UNKNOWN.sentence


def test_the_sentence_of_a_log_is_its_own() -> None:
    log = LoadedLog(pd.DataFrame(), {"identity": {}, "info": {"guarantee_sentence": "told"}}, DATA)
    assert log.guarantee_sentence(Guarantee.DEPLOYED) == "told"


def test_a_script_for_cohens_logs_reads_ours() -> None:
    ours = pd.read_csv(DATA / "certify.tsv", delimiter="\t")
    assert list(ours.columns[:6]) == ["idx", "label", "predict", "radius", "correct", "time"]
    assert (ours["correct"] & (ours["radius"] >= 0.25)).mean() == 0.2
    assert len(ours) == 5


def test_a_json_may_describe_a_log_of_another_project(tmp_path: Path) -> None:
    path = tmp_path / "sigma_0.25"
    path.write_text(HEADER + "0\t1\t1\t0.5\t1\t0.1\n")
    description = {"schema": 1, "identity": {}, "info": {"method": "Cohen"}}
    (tmp_path / "sigma_0.25.json").write_text(json.dumps(description))
    assert read_log(path).run == description
    (tmp_path / "sigma_0.25.json").write_text("[]")
    assert read_log(path).run["info"] == {}


def test_windows_line_ends_a_byte_order_mark_and_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    text = "\ufeff" + HEADER.replace("\n", "\tcolour\r\n") + "0\t1\t1\t0.5\t1\t0.1\tred\r\n"
    path.write_bytes(text.encode())
    assert list(read_log(path).frame["radius"]) == [0.5]


def test_the_last_line_of_another_project_may_lack_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.tsv"
    whole = HEADER + "0\t1\t1\t0.5\t1\t0.1\n20\t2\t2\t0.25\t1\t0.1"
    path.write_text(whole)
    assert list(read_log(path).frame["idx"]) == [0, 20]
    assert not caplog.text
    path.write_text(whole.rpartition("\t")[0])
    with pytest.raises(ConcertError, match="ends within a line"):
        read_log(path)


def test_a_log_of_ours_without_its_json_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "certify.tsv"
    path.write_bytes((DATA / "certify.tsv").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert read_log(path).frame["guarantee"][1] == "frozen-noise"
    assert "no certify.json" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: give a certification log"),
        (b" \n\n", "is empty"),
        (b"idx\tlabel\tpredict\tcorrect\ttime\n", "has no column radius"),
        (b"\x89PNG\r\n\x1a\n\0\0", "has no column idx, label, predict"),
        (b"hello", "has no column idx"),
        (HEADER.encode(), "has no rows yet"),
        (HEADER.encode() + b"0\t1\t1\tx\t1\t0.1\n", "line 2: radius 'x' is not a number"),
        (HEADER.encode() + b"0\t1\t1\t0.5\t0\t0.1\n", "line 2: correct is 0 for label 1"),
        (HEADER.encode() + 2 * b"0\t1\t1\t0.5\t1\t0.1\n", "line 3: image 0 already stands"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_bytes(content)
    with pytest.raises(ConcertError, match=message) as caught:
        read_log(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ConcertError, match=r"cannot read .*log.tsv: No such file"):
        read_log(tmp_path / "log.tsv")
    with pytest.raises(ConcertError, match="is a folder: give the log in it"):
        read_log(tmp_path)

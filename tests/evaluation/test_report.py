"""The report folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.evaluation.report import FILES, write_report
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"
OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]
NAMES = [
    "table.txt",
    "table.csv",
    "table.md",
    "table.tex",
    "intervals.csv",
    "intervals.md",
    "regions.csv",
    "regions.md",
    "sigma_statistics.csv",
    "runtime.csv",
    "certified_accuracy.png",
    "summary.json",
    "report.html",
]


def test_a_report_holds_every_file_and_nothing_else(
    make_log: Callable[..., LoadedLog], tmp_path: Path
) -> None:
    notes = {"data": "cifar10", "data_notes": "every 20th image"}
    logs = [
        make_log(OUTCOMES, "a", method="Cohen", sigma="0.25", **notes),
        make_log(OUTCOMES, "b", [Guarantee.FROZEN], method="Concert", box="0.25-0.5", **notes),
        read_log(DATA / "cohen_seconds.tsv"),
    ]
    folder = tmp_path / "new" / "report"
    paths = write_report(logs, folder)
    assert paths == [folder / name for name in NAMES]
    assert sorted(folder.iterdir()) == sorted(paths)
    text = (folder / "table.txt").read_text()
    for part in ("Cohen", "frozen-noise", "unknown", "every 20th image"):
        assert part in text
        assert part in (folder / "table.md").read_text()
        assert part in (folder / "table.tex").read_text()
    assert list(pd.read_csv(folder / "table.csv")["0.50"]) == [0.5, 0.5, 1 / 3]
    assert list(pd.read_csv(folder / "sigma_statistics.csv")["min"].dropna()) == [0.25, 0.25]
    assert list(pd.read_csv(folder / "regions.csv")["common"]) == [1, 1, 1]
    assert "frozen-noise" in (folder / "regions.md").read_text()
    assert list(pd.read_csv(folder / "runtime.csv")["N"]) == [4, 4, 3]
    with Image.open(folder / "certified_accuracy.png") as image:
        assert image.width > 1000
    assert write_report(logs, folder) == paths


def test_the_files_that_a_report_may_write(
    make_log: Callable[..., LoadedLog], tmp_path: Path
) -> None:
    attack = {"method": "shadow", "against": "deployed", "l2": [1.0] * 4}
    paths = write_report([make_log(OUTCOMES, data="cifar10, shadow", attack=attack)], tmp_path)
    assert {path.name for path in paths} == set(FILES)


def test_the_summary_by_hand(make_log: Callable[..., LoadedLog], tmp_path: Path) -> None:
    log = make_log(OUTCOMES * 3, method="Cohen", sigma="0.25", identity={"n": 500})
    write_report([log], tmp_path / "report", radii=[0.0, 0.75])
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    (entry,) = summary["logs"]
    assert entry["method"] == "Cohen"
    assert entry["sigma"] == "0.25"
    assert entry["guarantees"] == {"deployed": Guarantee.DEPLOYED.sentence}
    assert (entry["images"], entry["n"]) == (12, 500)
    assert entry["amcr"]["value"] == pytest.approx(1.3 / 4)
    assert entry["amcr"]["low"] < 1.3 / 4 < entry["amcr"]["high"]
    accuracy = entry["certified_accuracy"]
    assert [(point["radius"], point["value"]) for point in accuracy] == [(0.0, 0.5), (0.75, 0.25)]
    assert all(0 <= point["low"] <= point["value"] <= point["high"] <= 1 for point in accuracy)
    # 6 of 12: by symmetry the ends add up to 1.
    assert accuracy[0]["low"] + accuracy[0]["high"] == pytest.approx(1)
    assert (entry["nonzero_certified_accuracy"], entry["abstention_rate"]) == (0.5, 0.25)


def test_a_summary_without_an_interval(make_log: Callable[..., LoadedLog], tmp_path: Path) -> None:
    write_report([make_log(OUTCOMES)], tmp_path / "report")
    text = (tmp_path / "report" / "summary.json").read_text()
    (entry,) = json.loads(text)["logs"]
    assert (entry["amcr"]["low"], entry["amcr"]["high"]) == (None, None)
    assert "NaN" not in text
    assert "fewer than 10 images" in (tmp_path / "report" / "table.txt").read_text()


def test_nothing_is_written_for_logs_that_do_not_go_together(
    make_log: Callable[..., LoadedLog], tmp_path: Path
) -> None:
    logs = [make_log(OUTCOMES, name, data=name) for name in ("mnist", "cifar10")]
    with pytest.raises(ConcertError, match="logs of mnist and cifar10"):
        write_report(logs, tmp_path / "report")
    with pytest.raises(ConcertError, match="no logs given"):
        write_report([], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_cannot_be_written(
    make_log: Callable[..., LoadedLog], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConcertError, match="cannot write into"):
        write_report([make_log(OUTCOMES)], tmp_path / "file")


def test_a_published_log_gives_back_its_table(tmp_path: Path) -> None:
    """Six columns, radii of three digits: a share counts as in Cohen's own analysis."""
    rows = ["0\t3\t3\t0.378\t1\t15.4", "20\t7\t-1\t0.0\t0\t15.6", "40\t4\t0\t0.941\t0\t15.7"]
    rows += ["60\t7\t7\t0.5\t1\t15.8", "80\t8\t8\t0.978\t1\t0:00:15.9"]
    file = tmp_path / "noise_0.25" / "test" / "sigma_0.25"
    file.parent.mkdir(parents=True)
    file.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "\n".join(rows) + "\n")
    write_report([read_log(file)], tmp_path / "report", [0.25, 0.5, 0.75, 1.0])
    (row,) = pd.read_csv(tmp_path / "report" / "table.csv").to_dict("records")
    assert [row[radius] for radius in ("0.25", "0.50", "0.75", "1.00")] == [0.6, 0.4, 0.2, 0.0]
    assert row["sigma"] == 0.25
    assert row["AMCR"] == pytest.approx((0.378 + 0.5 + 0.978) / 5)
    assert (row["guarantee"], row["N"], row["abstained (%)"]) == ("unknown", 5, 20.0)

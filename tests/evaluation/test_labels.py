"""How tables call logs: by what the run says, else by folders and files, each by its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from concert.evaluation.labels import row_labels
from concert.records.reading import LoadedLog, read_log

DATA = Path(__file__).parents[1] / "data_files"
OUTCOMES = [(0, 0, 0.8), (1, 1, 0.5), (2, 3, 5.0), (4, -1, 0.0)]


def test_logs_are_named_by_their_folder_if_nothing_else_does(
    make_log: Callable[..., LoadedLog],
) -> None:
    labels = row_labels([make_log(OUTCOMES, "first"), make_log(OUTCOMES, "noise_0.50", box="1-2")])
    assert [(label.method, label.sigma) for label in labels] == [
        ("first", ""),
        ("noise_0.50", "1-2"),
    ]
    foreign = row_labels([read_log(DATA / "cohen_seconds.tsv")])[0]
    assert (foreign.method, foreign.guarantee) == ("data_files/cohen_seconds", "unknown")


def test_sigma_of_other_projects_comes_from_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "noise_1.00" / "test" / "sigma_0.25"
    path.parent.mkdir(parents=True)
    path.write_bytes((DATA / "cohen_clock").read_bytes())
    assert row_labels([read_log(path)])[0].sigma == "0.25"


def test_equal_labels_are_told_apart_by_their_folders(make_log: Callable[..., LoadedLog]) -> None:
    logs = [make_log(OUTCOMES, name, method="Cohen") for name in ("a", "b")]
    assert [label.method for label in row_labels(logs)] == ["Cohen (a)", "Cohen (b)"]


def test_published_logs_of_two_methods_are_told_apart(tmp_path: Path) -> None:
    logs = []
    for method in ("cohen", "macer"):
        file = tmp_path / method / "resnet110" / "noise_0.25" / "test" / "sigma_0.25"
        file.parent.mkdir(parents=True)
        file.write_bytes((DATA / "cohen_clock").read_bytes())
        logs.append(read_log(file))
    first, second = (label.method for label in row_labels(logs))
    assert first == "test/sigma_0.25 (cohen/resnet110/noise_0.25/test/sigma_0.25)"
    assert second == first.replace("cohen", "macer")


def test_logs_of_one_folder_are_told_apart_by_all_of_their_names(tmp_path: Path) -> None:
    logs = []
    for name in ("sigma_0.25", "sigma_0.25.tsv"):
        (tmp_path / name).write_bytes((DATA / "cohen_clock").read_bytes())
        logs.append(read_log(tmp_path / name))
    first, second = (label.method for label in row_labels(logs))
    assert first.endswith("(sigma_0.25)")
    assert second.endswith("(sigma_0.25.tsv)")

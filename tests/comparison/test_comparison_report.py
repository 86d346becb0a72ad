"""The report of a comparison, on runs that are written by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from specs import SPEC, change
from written_runs import IDENTITY, write_log, write_model, write_prediction, write_variances

from concert.comparison.attack_report import write_attacks
from concert.comparison.certified import read_logs
from concert.comparison.plan import Comparison
from concert.comparison.report import SOURCES, write_comparison
from concert.comparison.spec import read_spec
from concert.errors import ConcertError

GENERATED = {"method": "Concert (generated)", "noise": "generated", "sigma": "0.25-0.475"}


def two_runs(folder: Path, data: str = "digits") -> Comparison:
    """Both runs of the specification, finished."""
    comparison = read_spec("spec.yaml", Path("out"))
    write_log(folder / "out" / "cohen", data=data)
    write_log(folder / "out" / "beta-0", {"certificate": "frozen"}, data=data, **GENERATED)
    return comparison


def test_runs_that_are_missing_are_named(folder: Path) -> None:
    comparison = two_runs(folder)
    report = folder / "out" / "report"
    write_comparison(comparison, report)
    assert "Not in this report" not in (report / "table.txt").read_text()
    (folder / "out" / "cohen" / "certify.tsv").unlink()
    files = write_comparison(comparison, report)
    assert len(files) == len(set(files))
    for name in ("table.txt", "table.md", "table.tex"):
        assert "Not in this report: cohen (not certified)." in (report / name).read_text()
    assert list(pd.read_csv(report / "runs.csv")["run"]) == ["beta-0"]


def test_a_damaged_log_is_named_and_the_others_reported(folder: Path) -> None:
    comparison = two_runs(folder, "mnist")
    log = folder / "out" / "cohen" / "certify.tsv"
    log.write_text(log.read_text().replace("\t0\t", "\t?\t", 1))
    write_comparison(comparison, folder / "report")
    text = (folder / "report" / "paper.md").read_text()
    assert "Not in this report: cohen (" in text
    assert "certify.tsv, line 2" in text
    assert list(read_logs(comparison).missing) == ["cohen"]


def test_variances_are_reported_of_runs_that_ask_and_of_their_model(folder: Path) -> None:
    runs = [{"recipe": "cohen.yaml", "gradient_variance": asked} for asked in (True, False)]
    runs[1]["name"] = "other"
    change(folder, runs=runs)
    comparison, file = read_spec("spec.yaml", Path("out")), folder / "r" / "gradient_variance.csv"
    for name in ("cohen", "other"):
        write_log(folder / "out" / name)
        write_model(folder / "out" / name)
        write_variances(folder / "out" / name)
    write_comparison(comparison, folder / "r")
    assert list(pd.read_csv(file)["run"]) == ["cohen"]
    write_variances(folder / "out" / "cohen", "other weights")
    write_comparison(comparison, folder / "r")
    assert not file.exists()


def test_what_a_run_is_stands_beside_what_it_cost(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"))
    write_log(folder / "out" / "cohen")
    identity = {"certificate": "frozen", "noise": {"kind": "generated", "generator": "coarse"}}
    write_log(folder / "out" / "beta-0", identity, **GENERATED)
    write_comparison(comparison, folder / "report")
    costs = pd.read_csv(folder / "report" / "runs.csv", keep_default_na=False)
    assert costs["generator"].tolist() == ["", "coarse"]
    assert costs["copies"].tolist() == [run.recipe.objective.m or 1 for run in comparison.runs]


def test_without_any_log_there_is_no_report(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"))
    with pytest.raises(ConcertError, match=r"cohen: not certified.*train\.log and certify\.log"):
        write_comparison(comparison, folder / "report")
    assert not (folder / "report").exists()


def test_the_papers_numbers_are_explained(folder: Path) -> None:
    write_comparison(two_runs(folder, "mnist"), folder / "report")
    for name in ("paper.md", "paper.tex"):
        text = " ".join((folder / "report" / name).read_text().replace(r"\%", "%").split())
        assert "interval: its 95 % bootstrap interval over images" in text
        assert "rounded down" in text
        assert SOURCES in text
        assert "Training took 0 to 1 minutes of this machine a run" in text
    assert "it trained Concert for 300 epochs" in SOURCES


def test_table_9_has_a_row_for_each_run_of_concert(folder: Path) -> None:
    write_comparison(two_runs(folder), folder / "report")
    table = pd.read_csv(folder / "report" / "table9.csv", keep_default_na=False)
    here = table[table["source"] == "here"]
    assert list(here["method"]) == ["Concert (generated)"] * 2
    assert list(here["data"]) == ["digits"] * 2
    assert list(here["seconds"]) == [0.5, 3.0]
    assert list(here["images"]) == ["4", "128"]
    statistics = pd.read_csv(folder / "report" / "table8.csv")
    assert list(statistics["data"]) == ["cifar10"] * 3 + ["digits"]


@pytest.mark.parametrize(("weights", "rows"), [("w", 1), ("other weights", 0)])
def test_a_prediction_of_another_model_is_not_in_table_9(
    folder: Path, weights: str, rows: int
) -> None:
    comparison = two_runs(folder)
    concert = comparison.runs[1].folder
    write_model(concert)
    write_prediction(concert, weights)
    write_comparison(comparison, folder / "report")
    table = pd.read_csv(folder / "report" / "table9.csv", keep_default_na=False)
    found = table[(table["source"] == "here") & (table["item"] == "Single prediction")]
    expected = [["1000", "1000", "5", 0.25]] * rows
    assert found[["n", "draws", "images", "seconds"]].to_numpy().tolist() == expected


def test_figures_of_groups_that_are_gone_are_removed(folder: Path) -> None:
    report = folder / "out" / "report"
    write_comparison(two_runs(folder, "mnist"), report)
    figures = {"figure-0.25.png", "figure-beta.png"}
    assert figures < {file.name for file in report.iterdir()}
    assert (report / "paper.md").is_file()
    change(folder, runs=["cohen.yaml", SPEC["runs"][1] | {"groups": ["kappa", "kappa"]}])
    (report / "mine.png").write_bytes(b"")
    write_comparison(read_spec("spec.yaml", Path("out"), None), report)
    left = {file.name for file in report.iterdir()}
    assert {name for name in left if name.startswith("figure-")} == {
        "figure-0.25.png",
        "figure-kappa.png",
    }
    assert {"mine.png", "paper.md", "table.txt"} <= left
    for name in ("cohen", "beta-0"):
        (folder / "out" / name / "certify.tsv").unlink()
    two_runs(folder)
    write_comparison(read_spec("spec.yaml", Path("out"), None), report)
    assert not (report / "paper.md").exists()


def test_the_logs_here_are_those_of_the_specification() -> None:
    assert IDENTITY["n"] == SPEC["certify"]["n"]


def test_the_first_runs_are_compared_with_those_of_their_figures(folder: Path) -> None:
    runs = [
        {"recipe": "cohen.yaml", "name": name, "groups": groups}
        for name, groups in (("a", ["x"]), ("b", ["x", "y"]), ("c", ["y"]), ("d", ["z"]))
    ]
    grid = {"certify": SPEC["certify"] | {"stopping": "grid:0,0.25"}}
    change(folder, runs=runs, first=["b", "d"], **grid)
    comparison = read_spec("spec.yaml", Path("out"))
    for run in comparison.runs:
        write_log(run.folder, {"stopping": "grid:0,0.25"}, method=run.name.upper())
    write_comparison(comparison, folder / "report")
    table = pd.read_csv(folder / "report" / "differences.csv")
    pairs = list(dict.fromkeys(zip(table["first"], table["other"], strict=True)))
    assert pairs == [("B, sigma 0.25", "A, sigma 0.25"), ("B, sigma 0.25", "C, sigma 0.25")]
    assert set(table["radius"]) == {0.0, 0.25}, "beyond its grid an accuracy tells of the stopping"
    text = (folder / "report" / "differences.md").read_text()
    assert "McNemar" in text
    assert "D, sigma 0.25: no other run is in its figures." in text
    assert "Paired differences" in (folder / "report" / "report.html").read_text()
    change(folder, runs=runs, **grid)
    write_comparison(read_spec("spec.yaml", Path("out")), folder / "report")
    assert not (folder / "report" / "differences.csv").exists()
    change(folder, runs=runs, first="e", **grid)
    with pytest.raises(ConcertError, match="first: unknown run 'e'"):
        read_spec("spec.yaml", Path("out"))


def test_pairs_that_cannot_be_made_are_told_and_the_rest_is_reported(folder: Path) -> None:
    runs = [{"recipe": "cohen.yaml", "name": name} for name in ("a", "b", "c")]
    change(folder, runs=runs, first="a")
    comparison = read_spec("spec.yaml", Path("out"))
    for run, images in zip(comparison.runs, ("x", "x", "other"), strict=True):
        data = {"name": "digits", "split": "test", "images": 297, "fingerprint": images}
        write_log(run.folder, {"data": data}, method=run.name.upper())
    write_comparison(comparison, folder / "report")
    text = (folder / "report" / "differences.md").read_text()
    assert "| A, sigma 0.25 | B, sigma 0.25 |" in text
    assert "Not paired: A, sigma 0.25 and C, sigma 0.25 (the logs are of different images" in text
    assert "The logs do not have the same images" in text


def test_costs_that_are_gone_are_empty(folder: Path) -> None:
    comparison = two_runs(folder, "mnist")
    (comparison.runs[0].folder / "metrics.csv").unlink()
    write_comparison(comparison, folder / "report")
    costs = pd.read_csv(folder / "report" / "runs.csv")
    assert costs["training seconds"].isna().tolist() == [True, False]
    (comparison.runs[1].folder / "metrics.csv").unlink()
    write_comparison(comparison, folder / "report")
    assert "How long training took is not known." in (folder / "report" / "paper.md").read_text()


def test_a_log_whose_model_is_gone_is_not_reported(folder: Path) -> None:
    comparison = two_runs(folder)
    (comparison.runs[1].folder / "model" / "config.json").unlink()
    write_comparison(comparison, folder / "report")
    text = (folder / "report" / "table.txt").read_text()
    assert "Not in this report: beta-0 (the model of out/beta-0/certify.tsv is gone)." in text


def test_reports_on_attacks_that_are_gone_are_removed_and_no_others(folder: Path) -> None:
    for name in ("old", "of-the-user"):
        (folder / "report" / name).mkdir(parents=True)
        for file in ("attacks.csv", "verdict.md"):
            (folder / "report" / name / file).write_text("of an earlier specification")
    (folder / "report" / "attacks.json").write_text('["old"]')
    write_attacks(read_spec("spec.yaml", Path("out")), folder / "report")
    assert not (folder / "report" / "old").exists()
    assert len(list((folder / "report" / "of-the-user").iterdir())) == 2


def test_without_a_radius_that_is_settled_nothing_is_paired(folder: Path) -> None:
    runs = [{"recipe": "cohen.yaml", "name": name} for name in ("a", "b")]
    change(folder, runs=runs, first="a", certify=SPEC["certify"] | {"stopping": "grid:0.1"})
    comparison = read_spec("spec.yaml", Path("out"))
    for run in comparison.runs:
        write_log(run.folder, {"stopping": "grid:0.1"}, method=run.name.upper())
    write_comparison(comparison, folder / "report")
    assert not (folder / "report" / "differences.csv").exists()
    assert "Not paired: at all radii" in (folder / "report" / "table.txt").read_text()

"""`concert audit` as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from concert.cli import main

RECIPE = {
    "data": {"name": "digits", "subset": "first:256"},
    "noise": {"kind": "queried", "low": 0.25, "high": 0.5},
    "objective": {"name": "gaussian", "m": 1},
    "training": {"epochs": 3, "batch_size": 32, "lr": 0.05},
}
SMALL = ["--starts", "2", "--steps", "2", "--draws", "16", "--n0", "64", "--n", "500"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model on digits, with a log of the queried ellipsoid."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]) == 0
    certify = ["certify", str(folder / "run"), "--subset", "first:8", "--n", "400"]
    assert main([*certify, "--certificate", "queried", "--n_select", "300"]) == 0
    return folder / "run"


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["audit", *(str(argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("concert: error: ")
    assert error.count("\n") == 1
    return error


def test_a_true_log_passes_and_the_same_command_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(run), "--images", "2", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "Certified images tried: 2; broken: 0" in printed
    assert "alpha = 0.001 alone would break 0.00" in printed
    out = run / "audit-certify-n400"
    before = (out / "audit.tsv").read_text()
    assert len(before.splitlines()) == 3
    assert json.loads((out / "audit.json").read_text())["result"]["passed"] is True
    assert main(["audit", str(run), "--images", "2", *SMALL]) == 0
    assert (out / "audit.tsv").read_text() == before


def test_claims_that_are_too_large_end_with_exit_code_1(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = (run / "certify-n400.tsv").read_text().splitlines()
    names = header.split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in lines]
    for row in rows:
        if float(row["radius"]) > 0:
            row["radius"] = row["proxy_volume"] = "9.0"
    log = tmp_path / "certify.tsv"
    log.write_text("\n".join([header, *("\t".join(row.values()) for row in rows)]) + "\n")
    (tmp_path / "certify.json").write_text((run / "certify-n400.json").read_text())
    out = tmp_path / "out"
    small = ["--starts", "2", "--steps", "8", "--draws", "16", "--n0", "64", "--n", "500"]
    assert main(["audit", str(run), "--log", str(log), "--images", "2", "--out", str(out), *small])
    assert "this is more than alpha explains" in capsys.readouterr().out
    assert (out / "broken.safetensors").stat().st_size > 0
    assert len(list(out.glob("*-perturbed.png"))) >= 1


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "certify.tsv"
    log.write_text((run / "certify-n400.tsv").read_text())
    description = json.loads((run / "certify-n400.json").read_text())
    description["identity"]["weights"] = "0" * 64
    log.with_suffix(".json").write_text(json.dumps(description))
    assert "other weights" in fails(capsys, run, "--log", log, "--out", "out")
    log.with_suffix(".json").unlink()
    assert "does not say" in fails(capsys, run, "--log", log, "--out", "out")
    assert "at least 1" in fails(capsys, run, "--images", "0", "--out", "out")
    assert "smallest n that could is 21" in fails(capsys, run, "--n", "5", "--out", "out")
    assert "nowhere" in fails(capsys, "nowhere")
    assert "no certification log" in fails(capsys, run / "model")
    assert not (tmp_path / "out").exists()


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["audit", "--help"])
    assert exit_info.value.code == 0
    assert "--starts" in capsys.readouterr().out

"""Attacks of a specification: what they plan, what is refused, what counts as done."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from specs import SPEC, change
from written_runs import write_log, write_model

from concert.commands.attack import parser as attack_parser
from concert.commands.attack import settings_of
from concert.comparison.attack_report import write_attacks
from concert.comparison.certified import read_logs
from concert.comparison.products import note_done, share_attacked
from concert.comparison.report import write_comparison
from concert.comparison.spec import read_spec
from concert.comparison.steps import Step, steps_of
from concert.errors import ConcertError

PGD: dict[str, Any] = {"set": {"epsilon": 2.0, "steps": 3, "subset": "first:8"}}
CERTIFY = {"certify": {"n": 200, "n0": 16}}


def attack_steps(folder: Path, **entry: object) -> list[Step]:
    """The steps of PGD on the runs of the specification."""
    change(folder, attacks={"pgd": PGD | CERTIFY | entry})
    return [step for step in steps_of(read_spec("spec.yaml", Path("out"))) if step.attack]


def write_attack(folder: Path, **identity: object) -> None:
    """An attack's folder as the planned one leaves it when it has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"identity": identity, "info": {"subset_images": 8}, "result": None}
    (folder / "attack.json").write_text(json.dumps(described))


def test_each_run_is_attacked_through_its_own_model_after_its_training(folder: Path) -> None:
    steps = attack_steps(folder)
    assert [step.name for step in steps] == [
        "cohen attack-pgd",
        "cohen certify-pgd",
        "beta-0 attack-pgd",
        "beta-0 certify-pgd",
    ]
    assert [step.after.name for step in steps if step.after is not None] == [
        "cohen train",
        "cohen attack-pgd",
        "beta-0 train",
        "beta-0 attack-pgd",
    ]
    assert [" ".join(step.arguments[3:]) for step in steps[:2]] == [
        "out/cohen --out out/cohen/attack-pgd --method=pgd --epsilon=2.0 --steps=3 "
        "--subset=first:8",
        "out/cohen --log out/cohen/attack-pgd/certify.tsv --n=200 --n0=16 "
        "--data.path=out/cohen/attack-pgd",
    ]


def test_a_name_is_the_method_unless_it_has_one(folder: Path) -> None:
    change(folder, attacks={"strong": {"runs": ["cohen"], "set": {"method": "pgd", "steps": 9}}})
    comparison = read_spec("spec.yaml", Path("out"), Path("data"))
    (plan,) = comparison.attacks
    (member,) = plan.members
    assert "--method=pgd" in member.attack
    # The attack reads the clean images, its certification the attacked ones.
    assert "--data.path=data" in member.attack
    assert "--data.path=out/cohen/attack-strong" in member.certify
    change(folder, attacks={"pgd": {"set": {"split": "train", "data.name": "digits"}}})
    (plan,) = read_spec("spec.yaml", Path("out")).attacks
    assert {"--split=train", "--data.name=digits"} <= set(plan.members[0].certify)


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (["pgd"], "'attacks' must be names with settings"),
        ({"a/b": {}}, "needs a name for its folders"),
        ({"pgd": 3}, "needs a name for its folders"),
        ({"pgdd": {}}, "attack pgdd: unknown attack 'pgdd'"),
        ({"pgd": {"run": ["cohen"]}}, "did you mean 'runs'"),
        ({"pgd": {"runs": []}}, "runs must be a list of names"),
        ({"pgd": {"runs": ["cohn"]}}, "unknown run 'cohn'"),
        ({"pgd": {"runs": ["cohen"], "first": "beta-0"}}, "first: unknown run 'beta-0'"),
        ({"pgd": {"set": {"out": "x"}}}, "'out' in 'set' is chosen by the comparison"),
        ({"pgd": {"certify": {"data.path": "x"}}}, "'data.path' in 'certify' is chosen"),
        ({"pgd": {"set": {"clusters": 3}}}, "attack pgd: .*no setting 'clusters'"),
        ({"pgd": {"set": {"epsilo": 3}}}, "attack pgd: .*epsilo"),
        ({"pgd": {"set": {"preset": "quick"}}}, "unknown preset 'quick'"),
        ({"pgd": {"set": {"subset": "frst:3"}}}, "subset rule"),
        ({"cadv": {"set": {"colorizer": "nowhere.pth"}}}, "attack cadv: "),
        ({"pgd": {"runs": [{"recipe": "cohen.yaml"}]}}, "runs must be a list of names"),
        ({"pgd": False}, "needs a name for its folders"),
        ({"pgd": {"set": "fast"}}, r"such as \{preset: fast\}"),
        ({"pgd": {"set": {"targets": "spoof"}}}, "unknown targets 'spoof'"),
        ({"pgd": {"set": {"targets": "99"}}}, "a class from 0 to 9"),
        ({"pgd": {"set": {"against": "smothed"}}}, "did you mean 'smoothed'"),
        ({"pgd": {"set": {"norm": "l3"}}}, "unknown norm 'l3'"),
        ({"pgd": {"set": {"steps": 0}}}, "steps must be at least 1"),
        ({"pgd": {"set": {"draws": 0}}}, "draws must be at least 1"),
        ({"pgd": {"set": {"epsilon": -1}}}, "epsilon must be at least 0"),
        ({"pgd": {"set": {"images_per_batch": -1}}}, "images_per_batch must be 0 or more"),
        ({"pgd": {"set": {"seed": -3}}}, "seed must lie in"),
        ({"pgd": {"set": {"split": "tset"}}}, "did you mean 'test'"),
        ({"pgd": {"set": {"batch_size": -1}}}, "batch"),
        ({"cadv": {}}, "cadv changes colours"),
        ({"shadow": {"set": {"channels": 3}}}, "channels must be 1"),
        ({"shadow": {"set": {"sigma": 0.0}}}, "sigma must be a positive number"),
        ({"shadow": {"set": {"lr": 9.0}}}, "lower lr below"),
        ({"pgd": {"certify": {"n": 0}}}, "attack pgd: "),
        ({"pgd": {"certify": {"stopping": "grid"}}}, "attack pgd: "),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    folder: Path, attacks: object, message: str
) -> None:
    change(folder, attacks=attacks)
    with pytest.raises(ConcertError, match=message):
        read_spec("spec.yaml", Path("out"))
    assert not (folder / "out").exists()


def test_a_folder_of_another_attack_is_refused(folder: Path) -> None:
    attack, *_ = attack_steps(folder)
    run = folder / "out" / "cohen"
    write_model(run)
    given = attack_parser().parse_args(attack.arguments[3:])
    data = {"name": "digits", "split": "test", "fingerprint": "f"}
    same = settings_of(attack_parser().instantiate(given)).described()
    same |= {"data": data, "concert": version("concert-smoothing"), "weights": "w"}
    write_attack(attack.folder, **same)
    read_spec("spec.yaml", Path("out"))
    for name, value in (
        ("targets", "3"),
        ("subset", "first:9"),
        ("arguments", same["arguments"] | {"steps": 4}),
        ("data", data | {"split": "train"}),
        ("data", data | {"name": "mnist"}),
        ("concert", "0.0"),
        ("weights", "other"),
    ):
        write_attack(attack.folder, **(same | {name: value}))
        with pytest.raises(ConcertError, match=r"attack-pgd was attacked with .*: delete it, or"):
            read_spec("spec.yaml", Path("out"))


def test_code_of_ones_own_is_trusted_in_every_command(folder: Path) -> None:
    change(folder, certify=SPEC["certify"] | {"trust": True}, attacks={"pgd": PGD})
    (plan,) = read_spec("spec.yaml", Path("out")).attacks
    for member in plan.members:
        assert "--trust" in member.attack
        assert "--trust" in member.certify


def test_runs_of_several_data_sets_are_not_attacked_together(folder: Path) -> None:
    other = {"recipe": "cohen.yaml", "name": "other", "set": {"data.name": "mnist"}}
    certify = SPEC["certify"] | {"data.name": "digits"}
    change(folder, runs=["cohen.yaml", other], certify=certify, attacks={"pgd": PGD})
    with pytest.raises(ConcertError, match="its runs are of digits and mnist"):
        read_spec("spec.yaml", Path("out"))
    attacks = {"pgd": {"set": PGD["set"] | {"data.name": "digits"}}}
    change(folder, runs=["cohen.yaml", other], certify=certify, attacks=attacks)
    (plan,) = read_spec("spec.yaml", Path("out")).attacks
    assert all("--data.name=digits" in member.certify for member in plan.members)


def test_an_attack_is_done_when_its_images_are_one_data_set_of_this_model(folder: Path) -> None:
    attack, certify, *_ = attack_steps(folder)
    run = folder / "out" / "cohen"
    write_model(run)
    note_done(run, attack.key, attack.arguments)
    write_attack(attack.folder, weights="w")
    assert share_attacked(attack.folder) == 0.0
    rows = pyarrow.table({"index": list(range(6))})
    (attack.folder / "parts").mkdir()
    pyarrow.parquet.write_table(rows, attack.folder / "parts" / "0.parquet")
    assert attack.fraction() == 0.75
    assert not attack.done_before()
    described = json.loads((attack.folder / "attack.json").read_text())
    (attack.folder / "attack.json").write_text(json.dumps(described | {"result": {}}))
    assert not attack.done_before()
    pyarrow.parquet.write_table(rows, attack.folder / "test.parquet")
    assert attack.done_before()
    write_log(attack.folder)
    note_done(run, certify.key, certify.arguments)
    assert certify.done_before()
    # What was made through another model is not this run's.
    write_model(run, "other weights")
    assert not attack.done_before()
    assert not certify.done_before()


def test_runs_without_attacked_images_are_named(folder: Path) -> None:
    attack_steps(folder)
    comparison = read_spec("spec.yaml", Path("out"))
    files, missing = write_attacks(comparison, folder / "report")
    assert files == []
    assert missing == {
        "cohen, attack pgd": "not certified",
        "beta-0, attack pgd": "not certified",
    }
    write_log(folder / "out" / "cohen" / "attack-pgd", data="digits, pgd")
    files, missing = write_attacks(comparison, folder / "report")
    assert list(missing) == ["beta-0, attack pgd"]
    text = (folder / "report" / "pgd" / "table.txt").read_text()
    assert "Not in this report: beta-0 (not certified)." in text
    page = (folder / "report" / "pgd" / "report.html").read_text()
    assert "Not in this report: beta-0 (not certified)." in page


def test_logs_of_another_model_are_not_reported(folder: Path) -> None:
    attack_steps(folder)
    run = folder / "out" / "cohen"
    write_log(run)
    write_log(run / "attack-pgd", data="digits, pgd")
    comparison = read_spec("spec.yaml", Path("out"))
    written, _ = write_attacks(comparison, folder / "report")
    whole = folder / "whole"
    assert {file.name for file in write_comparison(comparison, whole)} >= {"runs.csv", "table.md"}
    (whole / "of mine.md").write_text("kept")
    (folder / "report" / "pgd" / "of mine.md").write_text("kept")
    assert {file.name for file in written} >= {"table.md", "report.html"}
    # Trained again: the report on the model before is not left as if it were of this one.
    write_model(run, "retrained")
    assert "of another model: delete it" in read_logs(comparison).missing["cohen"]
    files, missing = write_attacks(comparison, folder / "report")
    assert "of another model: delete it" in missing["cohen, attack pgd"]
    assert files == []
    assert [file.name for file in (folder / "report" / "pgd").iterdir()] == ["of mine.md"]
    with pytest.raises(ConcertError, match="no run has been certified"):
        write_comparison(comparison, whole)
    assert [file.name for file in whole.iterdir()] == ["of mine.md"]


def test_nothing_is_left_of_attacks_that_do_not_go_into_one_report(folder: Path) -> None:
    attack_steps(folder)
    comparison = read_spec("spec.yaml", Path("out"))
    write_log(folder / "out" / "cohen" / "attack-pgd", data="digits, pgd")
    assert write_attacks(comparison, folder / "report")[0]
    write_log(folder / "out" / "beta-0" / "attack-pgd", data="mnist, pgd")
    files, missing = write_attacks(comparison, folder / "report")
    assert files == []
    assert "do not go into one table" in missing["attack pgd"]
    assert not list((folder / "report" / "pgd").iterdir())


def test_runs_of_one_method_are_told_apart(folder: Path) -> None:
    again = {"recipe": "cohen.yaml", "name": "again"}
    change(folder, runs=["cohen.yaml", again], attacks={"pgd": PGD | CERTIFY | {"first": "again"}})
    comparison = read_spec("spec.yaml", Path("out"))
    attack = {"method": "pgd", "against": "base", "l2": [1.0] * 4, "index": [0, 1, 2, 3]}
    attack |= {"clean_predict": [0] * 4, "targets": "none"}
    for name in ("cohen", "again"):
        write_log(folder / "out" / name / "attack-pgd", data="cifar10, pgd", attack=attack)
    (folder / "report" / "pgd").mkdir(parents=True)
    write_attacks(comparison, folder / "report")
    text = (folder / "report" / "pgd" / "attacks.txt").read_text()
    assert "Cohen (cohen/attack-pgd)" in text
    assert "Cohen (again/attack-pgd)" in text
    verdict = folder / "report" / "pgd" / "verdict.md"
    pair = "Cohen (again/attack-pgd), sigma 0.25 | Cohen (cohen/attack-pgd), sigma 0.25"
    assert pair in verdict.read_text()
    page = (folder / "report" / "pgd" / "report.html").read_text()
    assert "Which is certified more often?" in page
    # A verdict that is no longer asked for is no longer there.
    change(folder, runs=["cohen.yaml", again], attacks={"pgd": PGD | CERTIFY})
    write_attacks(read_spec("spec.yaml", Path("out")), folder / "report")
    assert not verdict.exists()


def test_the_tables_have_the_taus_of_the_specification(folder: Path) -> None:
    again = {"recipe": "cohen.yaml", "name": "again"}
    plan = PGD | CERTIFY | {"first": "again", "taus": [0.5, 1]}
    change(folder, runs=["cohen.yaml", again], attacks={"pgd": plan})
    attack = {"method": "pgd", "against": "base", "l2": [1.0] * 4, "index": [0, 1, 2, 3]}
    for name in ("cohen", "again"):
        write_log(folder / "out" / name / "attack-pgd", data="cifar10, pgd", attack=attack)
    write_attacks(read_spec("spec.yaml", Path("out")), folder / "report")
    for file in ("attacks.csv", "verdict.csv"):
        table = pd.read_csv(folder / "report" / "pgd" / file)
        assert set(table["tau"]) == {0.5, 1.0, math.inf}


@pytest.mark.parametrize("taus", [[], 1, ["a"], [True], [-1], [1e400], [10**400], {"a": 1}])
def test_taus_that_are_none_are_refused(folder: Path, taus: object) -> None:
    change(folder, attacks={"pgd": PGD | CERTIFY | {"taus": taus}})
    with pytest.raises(ConcertError, match="attack pgd: "):
        read_spec("spec.yaml", Path("out"))

"""Specifications of comparisons: what they plan, and what is refused before anything is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from specs import COHEN, SPEC, change

from concert.commands.certify import parser as certify_parser
from concert.comparison.given import flags
from concert.comparison.spec import default_out, read_spec
from concert.comparison.steps import steps_of
from concert.errors import ConcertError
from concert.recipes.config import Recipe
from concert.recipes.shipped import recipes_folder, spec_names
from concert.training.run_claim import claim_folder


def test_the_plan_is_common_settings_and_then_the_runs_own(folder: Path) -> None:
    comparison = read_spec("spec.yaml", Path("out"), Path("somewhere"))
    cohen, other = comparison.runs
    assert (cohen.name, other.name) == ("cohen", "beta-0")
    assert isinstance(cohen.recipe, Recipe)
    assert cohen.recipe.training.lr == other.recipe.training.lr == 0.02
    assert other.recipe.objective.beta == 0
    assert other.groups == ("beta",)
    assert str(cohen.recipe.data.path) == "somewhere"
    assert [step.name for step in steps_of(comparison)] == [
        "cohen train",
        "cohen certify",
        "beta-0 train",
        "beta-0 certify",
        "beta-0 prediction",
    ]


def test_arguments_are_those_that_runs_have_noted(folder: Path) -> None:
    change(folder, runs=[{"recipe": "cohen.yaml", "gradient_variance": True}])
    steps = steps_of(read_spec("spec.yaml", Path("out"), Path("somewhere")))
    certify = "--n=200 --n0=16 --subset=first:4 --data.path=somewhere"
    assert [" ".join(step.arguments) for step in steps] == [
        "-m concert train --config cohen.yaml --out out/cohen --training.lr=0.02 "
        "--data.path=somewhere",
        f"-m concert certify out/cohen --log out/cohen/certify.tsv {certify}",
        "-m concert.evaluation.gradient_variance out/cohen --data.path somewhere "
        "--out out/cohen/gradient_variance.json",
    ]


def test_predictions_of_noise_with_maps_are_timed(folder: Path) -> None:
    *_, timed = steps_of(read_spec("spec.yaml", Path("out")))
    assert " ".join(timed.arguments) == (
        "-m concert.evaluation.prediction_time out/beta-0 --out out/beta-0/prediction_time.json"
    )


def test_settings_become_flags() -> None:
    parser = certify_parser()
    given = {"a.b": [1, 2], "c": "x:1", "d": None}
    assert flags(given, parser) == ["--a.b=[1, 2]", "--c=x:1", "--d=null"]
    assert flags({"trust": True, "n": 3}, parser) == ["--trust", "--n=3"]
    assert flags({"trust": False, "n": 3}, parser) == ["--n=3"]
    with pytest.raises(ConcertError, match="'trust' must be true or false, got yes"):
        flags({"trust": "yes"}, parser)


ONE, BOX = {"recipe": "cohen.yaml"}, {"recipe": "concert.yaml"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"runs": []}, "must have a list 'runs'"),
        ({"runs": [{"name": "x"}]}, "needs a 'recipe'"),
        ({"runs": ["nowhere.yaml"]}, "spec.yaml: no such recipe file"),
        ({"runs": None, "run": ["cohen.yaml"]}, "unknown key 'run': did you mean 'runs'"),
        ({"runs": ["cohen.yaml", "cohen.yaml"]}, "two runs are called 'cohen'"),
        ({"runs": [ONE | {"nmae": "x"}]}, "did you mean 'name'"),
        ({"runs": [ONE | {"name": "../x"}]}, "name of a folder"),
        ({"runs": [ONE | {"name": 5}]}, "name of a folder"),
        ({"runs": [ONE | {"name": "report"}]}, "'report' cannot be the name of a folder"),
        ({"runs": [ONE | {"groups": "beta"}]}, "run cohen: groups must be a list of names"),
        ({"runs": [ONE | {"groups": ["a/b"]}]}, "run cohen: groups must be a list of names"),
        ({"runs": [ONE | {"groups": 5}]}, "run cohen: groups must be a list of names"),
        ({"runs": [ONE | {"set": 3}]}, "run cohen: 'set' must be settings with values"),
        ({"runs": [ONE | {"gradient_variance": "false"}]}, "gradient_variance must be true or fal"),
        ({"set": ["training.epochs"]}, "'set' must be settings with values"),
        ({"certify": {1: 2}}, "'certify' must be settings with values"),
        ({"set": {"training.epoch": 3}}, "run cohen: .*training.epoch"),
        ({"certify": {"m": 3}}, "run cohen: "),
        ({"set": {"out": "elsewhere"}}, "'out' in 'set' is chosen by the comparison: remove it"),
        ({"set": {"config": "concert.yaml"}}, "'config' in 'set' is chosen by the comparison"),
        ({"certify": {"log": "x.tsv"}}, "'log' in 'certify' is chosen by the comparison"),
        ({"certify": {"trust": "true"}}, "run cohen: 'trust' must be true or false"),
        ({"job": 3}, "did you mean 'jobs'"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"jobs": True}, "jobs must be a whole number"),
        ({"certify": {"subset": "frst:2"}}, "run cohen: unknown subset rule 'frst:2'"),
        ({"set": {"data.subset": "first"}}, "run cohen: unknown subset rule 'first'"),
        ({"certify": {"certificate": "quered"}}, "run cohen: unknown certificate .* 'quered'"),
        ({"certify": {"stopping": "grd:1"}}, "run cohen: unknown stopping rule 'grd'"),
        ({"certify": {"split": "tset"}}, "run cohen: unknown split 'tset': did you mean 'test'"),
        ({"certify": {"n": 0}}, "run cohen: n=0 draws can never certify"),
        ({"certify": {"batch_size": 5}}, "run cohen: batch_size must be a multiple"),
        ({"set": {"objective.alpha": 3}}, "'gaussian' has no setting 'alpha'"),
        ({"set": {"objective.name": "macre"}}, "unknown objective 'macre': did you mean 'macer'"),
        (
            {"runs": [BOX | {"set": {"noise.low": 0.9}}]},
            "run concert: the sigma box needs low <= hi",
        ),
        ({"set": {"noise.low": 0.9}}, "run cohen: noise.low has no meaning for isotropic noise"),
        ({"set": {"classifier.name": "lenett"}}, "unknown classifier 'lenett'"),
        (
            {"set": {"classifier.name": "own.Net"}},
            "'own.Net' is code from outside concert: .*trust",
        ),
    ],
)
def test_a_bad_specification_is_one_line(
    folder: Path, parts: dict[str, object], message: str
) -> None:
    change(folder, **parts)
    with pytest.raises(ConcertError, match=message) as error:
        read_spec("spec.yaml", Path("out"))
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()


def test_one_table_is_of_one_data_set(folder: Path) -> None:
    (folder / "mnist.yaml").write_text(yaml.safe_dump(COHEN | {"data": {"name": "mnist"}}))
    change(folder, runs=["cohen.yaml", "mnist.yaml"])
    with pytest.raises(ConcertError, match="cohen of digits test images and mnist of mnist test"):
        read_spec("spec.yaml", Path("out"))
    # What is certified counts, not what was trained on.
    change(folder, runs=["cohen.yaml", "mnist.yaml"], certify={"data.name": "mnist"})
    assert [run.data for run in read_spec("spec.yaml", Path("out")).runs] == ["mnist", "mnist"]


def test_trust_reaches_the_tools(folder: Path) -> None:
    change(
        folder,
        runs=[{"recipe": "cohen.yaml", "gradient_variance": True}],
        set={"classifier.name": "own.Net", "trust": True},
        certify={"trust": True},
    )
    train, certify, variance = steps_of(read_spec("spec.yaml", Path("out")))
    assert train.arguments[-1] == certify.arguments[-1] == "--trust"
    assert variance.arguments[2:5] == ["out/cohen", "--trust", "true"]


def test_a_run_that_is_under_way_keeps_its_noise_settings(folder: Path) -> None:
    change(folder, runs=["cohen.yaml"], set={"noise.low": 0.2})
    with pytest.raises(ConcertError, match=r"noise\.low has no meaning"):
        read_spec("spec.yaml", Path("out"))
    (folder / "plain.yaml").write_text(yaml.safe_dump(SPEC | {"runs": ["cohen.yaml"]}))
    recipe = read_spec("plain.yaml", Path("out")).runs[0].recipe
    recipe = replace(recipe, noise=replace(recipe.noise, low=0.2))
    recipe = replace(recipe, training=replace(recipe.training, lr=0.05))
    claim_folder(recipe, folder / "out" / "cohen")
    assert read_spec("spec.yaml", Path("out")).runs[0].recipe.noise.low == 0.2


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("compare/mnist", "runs/compare/mnist"),
        (str(recipes_folder() / "compare" / "mnist.yaml"), "runs/compare/mnist"),
        ("spec.yaml", "runs/spec"),
        ("deep/er/other.yml", "runs/other"),
    ],
)
def test_runs_are_in_runs(folder: Path, given: str, out: str) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "other.yml").write_text(yaml.safe_dump(SPEC))
    assert default_out(given) == Path(out)
    absolute = (folder / given).resolve() if (folder / given).is_file() else given
    assert default_out(str(absolute)) == Path(out)


@pytest.mark.parametrize("name", spec_names())
def test_shipped_specifications_are_complete(name: str, tmp_path: Path) -> None:
    comparison = read_spec(name, tmp_path / "out")
    assert len({run.name for run in comparison.runs}) == len(comparison.runs) >= 2
    assert not (tmp_path / "out").exists()
    methods = {run.recipe.objective.name for run in comparison.runs}
    assert {"concert", "macer"} <= methods

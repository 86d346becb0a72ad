"""What `concert train` takes as asked for, and what it refuses of that."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from concert.cli import main
from concert.commands.train import given_settings

SHORT = ["--data.name", "digits", "--data.subset", "first:8", "--training.epochs", "1"]
NOISY = yaml.safe_dump({"noise": {"kind": "queried", "low": 0.3}, "classifier": {"name": "lenet"}})


@pytest.mark.parametrize(
    ("arguments", "files", "given"),
    [
        ([], [], set()),
        (["--noise.low", "0.3", "--out", "run"], [], {"noise.low", "out"}),
        (["--noise.generator_args.pool=4"], [], {"noise.generator_args"}),
        (["--noise", "{kind: static, low: 1}"], [], {"noise.kind", "noise.low"}),
        (["--classifier={name: a.B}"], [], {"classifier.name"}),
        ([], [NOISY], {"noise.low"}),
        (["--noise.kind=isotropic"], [NOISY], {"noise.kind"}),
        (["--init", "run"], [NOISY], {"init", "noise.low"}),
        ([], [NOISY + "init: run"], {"noise.low", "classifier.name"}),
        ([], ["init: null", ""], set()),
    ],
)
def test_what_is_asked_for(arguments: list[str], files: list[str], given: set[str]) -> None:
    assert given_settings(arguments, files) == given


@pytest.mark.parametrize(
    ("recipe", "flags", "setting"),
    [
        ("mnist/concert-0.5-cpu", ["--noise.sigma", "1.0"], "noise.sigma"),
        ("mnist/cohen-0.5-cpu", ["--noise.low=1.0", "--noise.generator", "paper"], "noise.gen"),
        ("mnist/cohen-0.5-cpu", ["--noise.low", "0.25"], "noise.low"),  # also the default
        ("mnist/cohen-0.5-cpu", ["--noise.kind", "static", "--noise.sigma", "1"], "noise.sigma"),
    ],
)
def test_noise_settings_of_another_kind_are_refused(
    recipe: str,
    flags: list[str],
    setting: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", recipe, "--out", str(tmp_path / "run"), *SHORT, *flags]) == 2
    said = capsys.readouterr().err
    assert f"{setting}" in said
    assert "has no meaning for" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_a_setting_of_another_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("noise: {kind: isotropic, sigma: 0.5, omega: 0.9}")
    flags = ["--objective.name", "gaussian", "--out", str(tmp_path / "run")]
    assert main(["train", str(tmp_path / "own.yaml"), *SHORT, *flags]) == 2
    assert "noise.omega has no meaning for isotropic noise" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["mnist/cohen-0.5-cpu", "mnist/concert-0.5-cpu"])
def test_the_config_of_a_run_is_a_recipe(recipe: str, tmp_path: Path) -> None:
    """It has every setting, also those of other kinds of noise, at their defaults."""
    short = [*SHORT, "--objective.m", "1"]
    assert main(["train", recipe, "--out", str(tmp_path / "run"), *short]) == 0
    config = str(tmp_path / "run" / "config.yaml")
    assert "sigma" in yaml.safe_load(Path(config).read_text())["noise"]
    assert main(["train", config, "--out", str(tmp_path / "again")]) == 0


def test_another_kind_by_flag_leaves_the_recipes_settings_behind(tmp_path: Path) -> None:
    flags = ["--noise.kind", "isotropic", "--noise.sigma", "0.5", "--objective.beta", "0"]
    flags += ["--objective.start_epoch", "0"]
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", "mnist/concert-generated-0.5-cpu", *SHORT, *flags, *out]) == 0


def test_a_run_that_was_begun_with_such_settings_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were ignored once, and are in the config.yaml of the run."""
    command = ["train", "mnist/cohen-0.5-cpu", "--out", str(tmp_path / "run"), *SHORT]
    assert main(command) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["noise"]["low"] = 0.4
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert main([*command, "--noise.low", "0.4"]) == 0
    assert "already trained" in capsys.readouterr().out


def test_milestones_beyond_a_trials_epochs_are_no_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "mnist/cohen-0.5-cpu", "--out", str(tmp_path / "run"), *SHORT]
    assert main([*command, "--training.milestones", "[60,-3,1]"]) == 2
    assert "training.milestones must be positive and in rising order" in capsys.readouterr().err
    assert main(command) == 0

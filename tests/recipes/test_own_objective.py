"""A training method of the user's own, named by import path in a recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from concert.cli import main
from concert.errors import ConcertError
from concert.objectives import GaussianObjective, Objective
from concert.recipes.building import build_objective
from concert.recipes.config import ObjectiveSettings
from concert.records.reading import read_log

CODE = '''
from concert.objectives import GaussianObjective, Objective

class Doubled(GaussianObjective):
    """Gaussian augmentation whose images are repeated `times` times."""
    def __init__(self, m: int = 1, times: int = 2) -> None:
        if times < 1:
            raise ValueError(f"times must be positive, got {times}")
        super().__init__(m * times)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_method.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    return tmp_path


def test_it_takes_settings_and_arguments_of_its_own(here: Path) -> None:
    made = build_objective(ObjectiveSettings("own_method.Doubled", {"times": 3}, m=2))
    assert isinstance(made, Objective)
    assert made.m == 6  # type: ignore[attr-defined]
    assert isinstance(build_objective(ObjectiveSettings("gaussian")), GaussianObjective)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ObjectiveSettings("own_method.Doubled", {"time": 3}), "has no setting 'time'.*m, times"),
        (ObjectiveSettings("own_method.Doubled", alpha=1.0), "has no setting 'alpha'"),
        (ObjectiveSettings("own_method.Doubled", {"times": 0}), "times must be positive, got 0"),
        (ObjectiveSettings("own_method.Dubled"), "did you mean 'Doubled'"),
        (ObjectiveSettings("torch.nn.Flatten"), "not a concert.objectives.Objective class"),
        (ObjectiveSettings("own_method.Objective"), "not a concert.objectives.Objective class"),
        (ObjectiveSettings("no_such_module.Method"), "cannot import 'no_such_module'"),
        (ObjectiveSettings("gausian"), "did you mean 'gaussian'"),
    ],
)
def test_what_does_not_fit_is_refused(here: Path, settings: ObjectiveSettings, said: str) -> None:
    with pytest.raises(ConcertError, match=said):
        build_objective(settings)


def test_it_trains_certifies_and_has_its_name_in_tables(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "data": {"name": "digits", "subset": "first:64"},
        "classifier": {"name": "lenet"},
        "noise": {"kind": "isotropic", "sigma": 0.25},
        "objective": {"name": "own_method.Doubled", "init_args": {"times": 2}},
        "training": {"epochs": 1, "batch_size": 32},
    }
    Path("own.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "own.yaml", "--out", "run", "--objective.m", "2"]) == 0
    written = yaml.safe_load(Path("run/config.yaml").read_text())["objective"]
    assert written == {"name": "own_method.Doubled", "init_args": {"times": 2}, "m": 2}
    flags = ["--subset", "first:4", "--n", "200", "--n0", "20", "--log", "run/certify.tsv"]
    assert main(["certify", "run", *flags]) == 0
    log = read_log(Path("run/certify.tsv"))
    assert log.run["info"]["method"] == "Doubled"
    capsys.readouterr()
    refused = ["train", "own.yaml", "--out", "other", "--objective.init_args", '{"times": 0}']
    assert main(refused) == 2
    assert "times must be positive" in capsys.readouterr().err
    assert not Path("other/model").exists()

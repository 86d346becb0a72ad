"""A training method of the user's own, named by import path in a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from concert.cli import main
from concert.errors import ConcertError
from concert.evaluation.describing import describe_method
from concert.objectives import GaussianObjective, Objective
from concert.recipes.building import Description, build_objective
from concert.recipes.config import (
    ClassifierSettings,
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.records.reading import read_log
from concert.runs import read_description
from concert.training.loop import Watcher, train

CODE = '''
from dataclasses import replace

from concert.objectives import DenoiseObjective, GaussianObjective, Objective

class Doubled(GaussianObjective):
    """Gaussian augmentation whose images are repeated `times` times."""
    def __init__(self, m: int = 1, times: int = 2) -> None:
        if times < 1:
            raise ValueError(f"times must be positive, got {times}")
        super().__init__(m * times)

class Cohen(GaussianObjective):
    def __init__(self, eta: float | None = 0.5, **others) -> None:
        super().__init__(**others)
        self.eta = eta

class Denoising(DenoiseObjective):
    pass

class Bare(GaussianObjective):
    def __call__(self, *given):
        return super().__call__(*given).total

class Number(GaussianObjective):
    def __call__(self, *given):
        return replace(super().__call__(*given), total=0.5)

class Detached(GaussianObjective):
    def __call__(self, *given):
        terms = super().__call__(*given)
        return replace(terms, total=terms.total.detach())

class Unreduced(GaussianObjective):
    def __call__(self, *given):
        terms = super().__call__(*given)
        return replace(terms, total=terms.total.expand(32))

class Halved(GaussianObjective):
    def __init__(self) -> None:
        self.m = 0.5
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_method.py").write_text(CODE)
    (tmp_path / "ends_python.py").write_text("import sys\n\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    return tmp_path


def test_it_takes_settings_and_arguments_of_its_own(here: Path) -> None:
    free = build_objective(ObjectiveSettings("own_method.Cohen", {"m": 3}))
    assert (free.m, free.eta) == (3, 0.5)  # type: ignore[attr-defined]
    made = build_objective(ObjectiveSettings("own_method.Doubled", {"times": 3}, m=2))
    assert isinstance(made, Objective)
    assert made.m == 6
    assert isinstance(build_objective(ObjectiveSettings("gaussian")), GaussianObjective)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ObjectiveSettings("own_method.Doubled", {"time": 3}), "has no setting 'time'.*m, times"),
        (ObjectiveSettings("own_method.Doubled", alpha=1.0), "has no setting 'alpha'"),
        (ObjectiveSettings("own_method.Doubled", {"times": 0}), "times must be positive, got 0"),
        (ObjectiveSettings("own_method.Dubled"), "did you mean 'Doubled'"),
        (ObjectiveSettings("torch.nn.Flatten"), "no class derived from concert.objectives"),
        (ObjectiveSettings("own_method.Objective"), "no class derived from concert.objectives"),
        (ObjectiveSettings("own_method.Doubled", {"m": 3}, m=2), "objective.m is in .*init_args"),
        (ObjectiveSettings("own_method.Halved"), "m must be a whole number, not 0.5"),
        (ObjectiveSettings("own_method.Halved", m=1), "has no setting 'm'.*it has none"),
        (ObjectiveSettings("gaussian", {"m": 2}), "init_args is for a class of your own"),
        (ObjectiveSettings("concert.objectives.GaussianObjective"), "unknown objective"),
        (ObjectiveSettings("ends_python.Method"), "cannot import 'ends_python'"),
        (ObjectiveSettings("no_such_module.Method"), "cannot import 'no_such_module'"),
        (ObjectiveSettings("gausian"), "did you mean 'gaussian'"),
    ],
)
def test_what_does_not_fit_is_refused(here: Path, settings: ObjectiveSettings, said: str) -> None:
    with pytest.raises(ConcertError, match=said):
        build_objective(settings)


def recipe(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "data": {"name": "digits", "subset": "first:64"},
        "classifier": {"name": "lenet"},
        "noise": {"kind": "isotropic", "sigma": 0.25},
        "objective": {"name": name, "init_args": arguments},
        "training": {"epochs": 1, "batch_size": 32},
    }


def test_an_argument_that_is_null_is_written_down(here: Path) -> None:
    """Without it the method's own default would be taken for it."""
    Path("null.yaml").write_text(yaml.safe_dump(recipe("own_method.Cohen", eta=None)))
    assert main(["train", "null.yaml", "--out", "run"]) == 0
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    assert written["objective"]["init_args"] == {"eta": None}
    assert main(["train", "null.yaml", "--out", "run"]) == 0
    assert main(["train", "run/config.yaml", "--out", "run"]) == 0
    assert main(["train", "null.yaml", "--out", "run", "--objective.init_args", "null"]) == 2
    method = describe_method(Path("run"), read_description(Path("run"))[0])["method"]
    assert method == "own_method.Cohen", "it is not the paper's"


def test_a_denoising_method_of_ones_own_needs_a_denoiser(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(recipe("own_method.Denoising")))
    assert main(["train", "own.yaml", "--out", "run"]) == 2
    assert "'own_method.Denoising' trains a denoiser" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", "must return concert.objectives.LossTerms, not Tensor"),
        ("Number", "must return a scalar tensor with a gradient as total, not float"),
        ("Detached", "not one of shape (), requires_grad=False"),
        ("Unreduced", "not one of shape (32,), requires_grad=True"),
    ],
)
def test_a_method_that_returns_no_loss_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(recipe(f"own_method.{name}")))
    assert main(["train", "own.yaml", "--out", "run"]) == 2
    printed = capsys.readouterr().err
    assert f"objective 'own_method.{name}'" in printed
    assert said in printed


def test_a_run_is_not_gone_on_with_by_other_code(here: Path) -> None:
    class Stop(Watcher):
        def should_stop(self) -> bool:
            return True

    objective = ObjectiveSettings("own_method.Doubled")
    begun = Recipe(
        DataSettings("digits", subset="first:64"),
        ClassifierSettings("lenet"),
        NoiseSettings("isotropic"),
        objective,
        TrainingSettings(epochs=1, batch_size=32),
    )
    assert not train(begun, here / "run", Stop())
    Path("own_method.py").write_text(CODE + "# changed\n")
    with pytest.raises(ConcertError, match="begun with another code of the objective"):
        train(begun, here / "run")
    Path("own_method.py").write_text(CODE)
    assert train(begun, here / "run")


def test_a_run_is_not_gone_on_with_by_another_classifier(here: Path) -> None:
    class Stop(Watcher):
        def should_stop(self) -> bool:
            return True

    network = CODE + "from torch import nn\n\nclass Net(nn.Sequential):\n"
    network += (
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    Path("own_method.py").write_text(network)
    begun = Recipe(
        DataSettings("digits", subset="first:64"),
        ClassifierSettings("own_method.Net"),
        NoiseSettings("isotropic"),
        ObjectiveSettings("gaussian"),
        TrainingSettings(epochs=1, batch_size=32),
    )
    assert not train(begun, here / "run", Stop())
    Path("own_method.py").write_text(network + "# changed\n")
    with pytest.raises(ConcertError, match="begun with another code of the classifier"):
        train(begun, here / "run")


def test_what_an_imported_model_was_trained_by_is_a_text(tmp_path: Path) -> None:
    record = {"imported": {"file": "a.pt"}, "objective": {"name": "SmoothAdv 0.5"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(record))
    noise = {"kind": "isotropic", "sigma": 0.5}
    described = Description({"name": "lenet"}, noise, 10, (1, 28, 28), (), "mnist")
    assert describe_method(tmp_path, described)["method"] == "SmoothAdv 0.5"


def test_it_trains_certifies_and_has_its_name_in_tables(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(recipe("own_method.Doubled", times=2)))
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

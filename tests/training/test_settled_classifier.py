"""Imported models of every layout as initial weights: their classifier is the new run's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from concert import load
from concert.classifiers import CifarResNet, Denoised, LeNet, Normalize
from concert.cli import main
from concert.data.known import KNOWN
from concert.errors import ConcertError
from concert.recipes.config import (
    ClassifierSettings,
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.training.initial_weights import settle_classifier
from concert.training.loop import train

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))
"""
NAME = "own_net_as_initial_weights.Net"
CIFAR = KNOWN["cifar10"].mean_std
assert CIFAR is not None
NONE = ([0.0] * 3, [1.0] * 3)
# One step over a few images that leaves all parameters as they are.
STILL = ["--training.lr", "1e-30", "--training.momentum", "0", "--training.weight_decay", "0"]
STILL += ["--training.epochs", "1", "--data.subset", "first:8"]
DENOISE = ["--objective.name", "denoise", "--classifier.denoiser", "dncnn"]


@dataclass(frozen=True)
class Layout:
    """A checkpoint, how it is imported, and the mean and std that it is used with.

    spoken: flags that say of the classifier what is true.
    """

    make: Callable[[], nn.Module]
    save: Callable[[dict[str, Any]], dict[str, Any]]
    flags: list[str]
    normalization: tuple[Any, Any]
    recipe: str = "cifar10/cohen-0.5-cpu"
    trust: list[str] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)


def cohen(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"arch": "cifar_resnet20", "state_dict": {f"1.{k}": v for k, v in tensors.items()}}


def own_net() -> nn.Module:
    from own_net_as_initial_weights import Net  # type: ignore[import-not-found]

    made: nn.Module = Net(4)
    return made


LAYOUTS = {
    "standard": Layout(
        lambda: CifarResNet(20),
        cohen,
        ["--normalization", "standard"],
        CIFAR,
        spoken=["--classifier.name", "resnet20"],
    ),
    "center": Layout(
        lambda: CifarResNet(20),
        cohen,
        ["--normalization", "center"],
        (CIFAR[0], [1.0] * 3),
        spoken=["--classifier.std", "[1,1,1]"],
    ),
    "none": Layout(
        lambda: CifarResNet(20),
        lambda tensors: {"net": tensors},
        [],
        NONE,
        spoken=["--classifier.mean", "[0,0,0]", "--classifier.std", "[1,1,1]"],
    ),
    "lenet": Layout(
        LeNet,
        dict,
        ["--data.name", "digits"],
        ([0.0], [1.0]),
        "mnist/cohen-0.5-cpu",
        spoken=["--classifier.init_args", "{image_size: 28}"],
    ),
    "own": Layout(
        own_net,
        dict,
        [
            *("--classifier.name", NAME, "--classifier.init_args", "{width: 4}"),
            *("--mean", "0.5", "--std", "[0.25]"),
            *("--input-size", "28", "--channels", "1", "--num_classes", "10"),
        ],
        ([0.5], [0.25]),
        "mnist/cohen-0.5-cpu",
        ["--trust"],
        [
            *("--classifier.name", NAME),
            *("--classifier.mean", "[0.5]", "--classifier.std", "[0.25]"),
        ],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every layout, and images to train on."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "own_net_as_initial_weights.py").write_text(OWN)
    draws = np.random.default_rng(0)
    for number in range(10):
        (folder / "images" / "train" / str(number)).mkdir(parents=True)
        pixels = draws.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "train" / str(number) / "a.png")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.syspath_prepend(str(folder))
        torch.manual_seed(0)
        for name, layout in LAYOUTS.items():
            torch.save(layout.save(layout.make().state_dict()), folder / f"{name}.pt")
            arguments = [str(folder / f"{name}.pt"), "--out", str(folder / name)]
            assert main(["import", *arguments, "--sigma", "0.5", *layout.flags]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))


def command(folder: Path, name: str, out: Path, *flags: str) -> list[str]:
    layout = LAYOUTS[name]
    data = ["--data.path", str(folder / "images")]
    data = data if layout.recipe.startswith("cifar10") else ["--data.name", "digits"]
    start = ["train", layout.recipe, "--out", str(out), "--init", str(folder / name)]
    return [*start, *data, *STILL, *flags]


def parts_of(network: nn.Module) -> tuple[list[float], list[float], list[torch.Tensor]]:
    """Mean, std and parameters of a classifier."""
    if not (isinstance(network, nn.Sequential) and isinstance(network[0], Normalize)):
        return [], [], list(network.parameters())
    mean, std = network[0].mean.flatten().tolist(), network[0].std.flatten().tolist()
    return mean, std, list(network.parameters())


def same_classifier(network: nn.Module, folder: Path, name: str) -> None:
    """`network` has the parameters of the imported run, and the layout's normalisation."""
    mean, std, parameters = parts_of(network)
    expected = LAYOUTS[name].normalization
    if mean:
        assert torch.equal(torch.tensor(mean), torch.tensor(expected[0]))
        assert torch.equal(torch.tensor(std), torch.tensor(expected[1]))
    else:
        assert set(expected[0]) == {0.0}
        assert set(expected[1]) == {1.0}
    source = list(load(folder / name, trust=True).classifier.parameters())
    assert len(source) == len(parameters) > 0
    pairs = zip(source, parameters, strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-20) for a, b in pairs)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_imported_model_is_fine_tuned(folder: Path, name: str, tmp_path: Path) -> None:
    arguments = command(folder, name, tmp_path / "run", *LAYOUTS[name].trust)
    assert main(arguments) == 0
    same_classifier(load(tmp_path / "run", trust=True).classifier, folder, name)
    assert main(arguments) == 0  # the same command is the same recipe


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_flags_truly_say_of_the_classifier_is_no_contradiction(
    folder: Path, name: str, tmp_path: Path
) -> None:
    assert main(command(folder, name, tmp_path / "run", *LAYOUTS[name].spoken)) == 0
    same_classifier(load(tmp_path / "run", trust=True).classifier, folder, name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_imported_model_gets_a_denoiser(folder: Path, name: str, tmp_path: Path) -> None:
    assert main(command(folder, name, tmp_path / "run", *LAYOUTS[name].trust, *DENOISE)) == 0
    whole = load(tmp_path / "run", trust=True).classifier
    assert isinstance(whole, Denoised)
    same_classifier(whole.classifier, folder, name)
    source = load(folder / name, trust=True)
    images = torch.rand(3, *source.shape)
    with torch.inference_mode():
        assert torch.allclose(whole.classifier(images), source.classifier(images), atol=1e-6)


def test_the_run_says_which_classifier_it_has(folder: Path, tmp_path: Path) -> None:
    assert main(command(folder, "own", tmp_path / "own", "--trust")) == 0
    config = yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())
    said = {"name": NAME, "init_args": {"width": 4}, "mean": [0.5], "std": [0.25]}
    assert {key: config["classifier"][key] for key in said} == said


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("own", ["--classifier.name", "lenet"], f"has classifier.name = {NAME}, this recipe has l"),
        ("own", ["--trust", "--classifier.init_args", "{width: 5}"], "classifier.init_args = "),
        ("own", ["--trust", "--classifier.init_args.width=5"], "classifier.init_args = "),
        ("own", ["--trust", "--classifier.std", "[0.5]"], "classifier.std = [0.25], this"),
        ("own", ["--trust", "--classifier={mean: [0.4]}"], "classifier.mean = [0.5], this recipe"),
        ("own", [], "code from outside concert: if you trust it, say so with --trust"),
        ("none", ["--classifier.name", "resnet110"], "has classifier.name = resnet20, this"),
        ("none", ["--classifier.mean", "[0.5,0.5,0.5]"], "classifier.mean = [0.0, 0.0, 0.0]"),
        ("center", ["--classifier.std", "[0.5,0.5,0.5]"], "classifier.std = [1.0, 1.0, 1.0]"),
    ],
)
def test_a_classifier_that_contradicts_the_run_is_refused(
    folder: Path,
    name: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(folder, name, tmp_path / "run", *flags)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_init_of_its_own_must_agree_with_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "data": {"name": "digits", "subset": "first:8"},
        "noise": {"kind": "isotropic", "sigma": 0.5},
        "objective": {"name": "gaussian"},
        "training": {"epochs": 1},
        "init": str(folder / "own"),
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**recipe, "classifier": {"name": "lenet"}}))
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--trust"]) == 2
    assert f"has classifier.name = {NAME}, this recipe has lenet" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(recipe))
    assert main(["train", str(file), "--out", str(tmp_path / "run"), "--trust"]) == 0
    assert load(tmp_path / "run", trust=True).classifier[0].mean.item() == 0.5


LENET = Recipe(
    DataSettings("digits", subset="first:8"),
    noise=NoiseSettings("isotropic", sigma=0.5),
    objective=ObjectiveSettings("gaussian"),
    training=TrainingSettings(epochs=1, lr=1e-30, momentum=0.0, weight_decay=0.0),
)


def test_a_recipe_that_agrees_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Runs that were begun with it go on: their config.yaml is compared with it."""
    assert train(LENET, tmp_path / "lenet")
    same = replace(LENET, init=tmp_path / "lenet")
    for asked in ((), ("name", "mean")):
        assert settle_classifier(same, asked) is same
    standard = replace(
        same,
        data=DataSettings("cifar10"),
        classifier=ClassifierSettings("resnet20", denoiser="dncnn"),
        init=folder / "standard",
    )
    assert settle_classifier(standard, ()) is standard
    assert settle_classifier(LENET, ()) is LENET


def test_a_finished_run_needs_its_initial_weights_no_more(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "lenet", tmp_path / "source")
    recipe = replace(LENET, init=tmp_path / "source")
    assert train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    assert settle_classifier(recipe, ()) is recipe


def test_from_python_means_that_are_not_given_are_those_of_the_run(
    folder: Path, tmp_path: Path
) -> None:
    own = replace(LENET, init=folder / "own", classifier=ClassifierSettings(NAME, {"width": 4}))
    assert train(own, tmp_path / "run")
    same_classifier(load(tmp_path / "run", trust=True).classifier, folder, "own")
    with pytest.raises(ConcertError, match=r"has classifier\.name"):
        train(replace(own, classifier=ClassifierSettings("lenet")), tmp_path / "other")

"""The hint about a run that was not trained with its noise."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from concert.commands.certify import CertificationDisplay
from concert.commands.train import parser, recipe_of
from concert.commands.untrained import untrained_hint
from concert.console import StopSignal, make_console
from concert.evaluation.certify import CertifyProgress
from concert.recipes.building import Description, build_objective
from concert.recipes.config import DataSettings
from concert.recipes.shipped import find_recipe

RUN = Path("some runs/own")


def hint(abstained: int = 16, **changed: Any) -> str:
    description: dict[str, Any] = {
        "classifier": {"name": "lenet"},
        "noise": {"kind": "isotropic", "sigma": 0.5},
        "num_classes": 10,
        "shape": (1, 28, 28),
        "class_names": (),
        "data": "mnist",
    }
    return untrained_hint(16, abstained, RUN, Description(**(description | changed)))


@pytest.mark.parametrize(
    ("abstained", "said"),
    [
        (16, "of the first 16 images all 16 abstain: "),
        (14, "of the first 16 images 14 abstain and the other 2 get one and the same class: "),
        (0, "of the first 16 images all 16 get one and the same class: "),
    ],
)
def test_abstentions_are_counted_by_themselves(abstained: int, said: str) -> None:
    assert hint(abstained).startswith(said)


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({}, "mnist/cohen-0.5-cpu"),
        ({"noise": {"kind": "queried", "low": 1, "high": 2}}, "mnist/cohen-1.0-cpu"),
        ({"noise": {"kind": "isotropic", "sigma": 0.5, "grid": 255}}, "mnist/cohen-0.5-cpu"),
        ({"noise": {"kind": "isotropic", "sigma": 0.94}}, "mnist/cohen-1.0-cpu"),
        ({"data": "cifar10"}, "cifar10/cohen-0.5-cpu"),
        ({"data": "imagenet"}, "imagenet/cohen-0.5"),
        ({"data": "digits"}, "mnist/cohen-0.5-cpu"),
        ({"data": "my images", "classifier": {"name": "a.B"}}, "mnist/cohen-0.5-cpu"),
    ],
)
def test_the_commands_of_the_hint_are_recipes_that_can_be_trained(
    changed: dict[str, Any], command: str
) -> None:
    commands = re.findall(r"^  concert train (\S+) (.*)$", hint(**changed), re.MULTILINE)
    assert [recipe for recipe, _ in commands] == [command] * 2
    for recipe, flags in commands:
        train = parser()
        arguments = ["--config", str(find_recipe(recipe)), *shlex.split(flags)]
        made = recipe_of(train.instantiate(train.parse_args(arguments)))
        build_objective(made.objective)  # refuses settings that the objective does not have
        assert made.init == RUN
        assert made.data.name == changed.get("data", "mnist")
        noise = {"sigma": 0.5} | changed.get("noise", {})
        assert made.noise.sigma == noise.get("low", noise["sigma"])
        assert made.noise.grid == noise.get("grid")
        assert ("isotropic noise only" in hint(**changed)) == ("low" in noise)
        assert ("--trust" in flags) == ("classifier" in changed)
        assert ("--data.path" in flags) == (made.data.name == "my images")
    assert (made.objective.name, made.classifier.denoiser) == ("denoise", "dncnn")
    # The second is not refused because the first has made its folder.
    outs = [shlex.split(flags)[shlex.split(flags).index("--out") + 1] for _, flags in commands]
    assert len({*outs, str(RUN)}) == 3


@pytest.mark.parametrize(
    ("answers", "total", "said"),
    [
        ([-1] * 5, 5, "of the first 5 images all 5 abstain: "),
        ([-1] * 5, 9, ""),
        ([-1, -1, -1, -1, 3], 5, ""),
        ([-1] * 20, 20, "of the first 16 images all 16 abstain: "),
    ],
)
def test_the_hint_is_given_once_and_of_a_few_images_at_the_end(
    answers: list[int],
    total: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    description = Description({"name": "lenet"}, {"sigma": 0.5}, 10, (1, 28, 28), (), "mnist")

    def advice(images: int, abstained: int) -> str:
        return untrained_hint(images, abstained, RUN, description)

    with StopSignal() as stop, CertificationDisplay(make_console(), stop, advice) as display:
        for done, label in enumerate(answers, start=1):
            found: Any = SimpleNamespace(label=label, radius=0.0, n_used=100)
            display(CertifyProgress(found, true_label=done % 4, seconds=1, done=done, total=total))
    printed = capsys.readouterr().out
    assert printed.count("figures of this part of the run") == 1
    assert printed.count("of the first") == bool(said)
    assert said in printed


MNIST = Description({"name": "lenet"}, {"sigma": 0.5}, 10, (1, 28, 28), (), "mnist")


def commands_of(said: str) -> list[list[str]]:
    found = re.findall(r"^  concert train (\S+) (.*)$", said, re.MULTILINE)
    return [shlex.split(flags) for _, flags in found]


def test_the_hint_says_where_the_runs_own_data_are_and_no_others() -> None:
    here = DataSettings("mnist", Path("a b"), size=28)
    for flags in commands_of(untrained_hint(16, 16, RUN, MNIST, here)):
        assert flags[flags.index("--data.path") + 1] == "a b"
        assert flags[flags.index("--data.size") + 1] == "28"
    for flags in commands_of(untrained_hint(16, 16, RUN, MNIST, replace(here, name="letters"))):
        assert not {"--data.path", "--data.size"} & set(flags)


def test_a_model_behind_a_denoiser_is_fine_tuned_with_it() -> None:
    own = {"name": "lenet", "denoiser": {"name": "mine.Denoiser", "init_args": {"depth": 4}}}
    (flags,) = commands_of(untrained_hint(16, 16, RUN, replace(MNIST, classifier=own)))
    assert flags[flags.index("--classifier.denoiser") + 1] == "mine.Denoiser"
    assert json.loads(flags[flags.index("--classifier.denoiser_args") + 1]) == {"depth": 4}
    assert "--trust" in flags


def test_a_model_that_was_trained_with_the_noise_is_not_told_to_train_with_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "metrics.csv").write_text("epoch\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "model"):
        said = untrained_hint(16, 16, folder, MNIST)
        assert "learned nothing" in said
        assert "concert train" not in said

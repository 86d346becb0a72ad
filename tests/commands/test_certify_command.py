"""The hint about a run that was not trained with its noise."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from concert.commands.certify import CertificationDisplay, untrained_hint
from concert.commands.train import parser, recipe_of
from concert.console import StopSignal, make_console
from concert.evaluation.certify import CertifyProgress
from concert.recipes.building import Description, build_objective
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
        (16, "of the first 16 images 16 abstain: "),
        (14, "of the first 16 images 14 abstain and the other 2 get one and the same class: "),
        (0, "of the first 16 images 0 abstain and the other 16 get one and the same class: "),
    ],
)
def test_abstentions_are_counted_by_themselves(abstained: int, said: str) -> None:
    assert hint(abstained).startswith(said)


@pytest.mark.parametrize(
    ("changed", "command"),
    [
        ({}, "mnist/cohen-0.5-cpu"),
        ({"noise": {"kind": "queried", "low": 1, "high": 2}}, "mnist/cohen-0.5-cpu"),
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
    commands = re.findall(r"concert train (\S+) (.*?)(?:;|$)", hint(**changed))
    assert [recipe for recipe, _ in commands] == [command] * 2
    for recipe, flags in commands:
        train = parser()
        arguments = ["--config", str(find_recipe(recipe)), *shlex.split(flags)]
        made = recipe_of(train.instantiate(train.parse_args(arguments)))
        build_objective(made.objective)  # refuses settings that the objective does not have
        assert made.init == RUN
        assert made.data.name == changed.get("data", "mnist")
        assert made.noise.sigma == changed.get("noise", {}).get("sigma", 0.5)
        assert ("--trust" in flags) == ("classifier" in changed)
        assert ("--data.path" in flags) == (made.data.name == "my images")
    assert (made.objective.name, made.classifier.denoiser) == ("denoise", "dncnn")
    # The second is not refused because the first has made its folder.
    outs = [shlex.split(flags)[shlex.split(flags).index("--out") + 1] for _, flags in commands]
    assert len({*outs, str(RUN)}) == 3


@pytest.mark.parametrize(
    ("answers", "total", "said"),
    [
        ([-1] * 5, 5, "of the first 5 images 5 abstain: "),
        ([-1] * 5, 9, ""),
        ([-1, -1, -1, -1, 3], 5, ""),
        ([-1] * 20, 20, "of the first 16 images 16 abstain: "),
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
    assert printed.count("of the first") == bool(said)
    assert said in printed


def test_the_hint_knows_where_the_images_are_and_whose_code_there_is() -> None:
    own = {"name": "lenet", "denoiser": {"name": "mine.Denoiser", "init_args": {}}}
    said = untrained_hint(
        16, 16, RUN, Description(own, {"sigma": 0.5}, 10, (1, 28, 28), (), "mnist"), Path("a b")
    )
    commands = re.findall(r"concert train (\S+) (.*?)(?:;|$)", said)
    assert len(commands) == 2
    for _, flags in commands:
        given = shlex.split(flags)
        assert given[given.index("--data.path") + 1] == "a b"
        assert "--trust" in given

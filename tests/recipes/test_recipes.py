"""The recipes in configs/: complete, as their names and the paper say, and able to train."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from concert.commands.train import parser as train_parser
from concert.data import MEAN_STD
from concert.noise import NoiseModel
from concert.recipes.building import (
    build_base,
    build_noise,
    build_objective,
    describe,
    objective_arguments,
)
from concert.recipes.config import Recipe
from concert.recipes.shipped import find_recipe, recipe_names, recipes_folder
from concert.training.state import make_optimizer

SHAPES = {
    "mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "imagenet": ((3, 224, 224), 1000),
}
# Section 4 of the paper: the box of a name, and per data set the classifier and the schedule.
BOXES = {"0.25": (0.25, 0.5), "0.5": (0.5, 1.0), "1.0": (1.0, 1.5)}
CLASSIFIERS = {"mnist": "lenet", "cifar10": "resnet110", "imagenet": "resnet50"}
SCHEDULES = {
    "mnist": (300, [100, 200], 200),
    "cifar10": (300, [100, 200], 200),
    "imagenet": (120, [30, 60, 90], 60),
}
# The objective of each family, and the methods that Concert is compared with.
OBJECTIVES = {
    "cohen": "gaussian",
    "smoothadv": "smoothadv",
    "macer": "macer",
    "consistency": "consistency",
    "concert": "concert",
    "concert-generated": "concert",
}
RIVALS = ("cohen", "smoothadv", "macer", "consistency")
# For the queried ellipsoid; not in the paper, and only scaled to a processor.
ELLIPSOID = {"concert-stable": "coarse", "concert-codebook": "codebook"}
# What they are compared with, scaled too: one map for all images.
COMPARED = ("static",)

NAMES = recipe_names()
SMALL = [name for name in NAMES if not name.startswith("imagenet")]
PHOTOGRAPHS = [name for name in NAMES if name.startswith("imagenet")]
CONCERT = [name for name in NAMES if "/concert-" in name]


@cache
def load_recipe(name: str) -> Recipe:
    """A recipe as `concert train` reads it."""
    parser = train_parser()
    options = parser.instantiate(parser.parse_args(["--config", str(find_recipe(name))]))
    return Recipe(
        options.data,
        options.classifier,
        options.noise,
        options.objective,
        options.training,
        options.colorizer,
    )


def parts(name: str) -> tuple[str, str, str, bool]:
    """Data set, family, box and whether it is scaled: mnist/concert-generated-0.25-cpu."""
    data, _, rest = name.partition("/")
    scaled = rest.endswith("-cpu")
    family, _, box = rest.removesuffix("-cpu").rpartition("-")
    return data, family, box, scaled


def test_every_recipe_of_the_paper_is_there_and_no_other() -> None:
    published = {f"{d}/{f}-{box}" for d in SHAPES for f in OBJECTIVES for box in BOXES}
    scaled = {f"{name}-cpu" for name in published}
    ellipsoid = {f"mnist/{f}-{box}-cpu" for f in ELLIPSOID for box in BOXES}
    compared = {f"mnist/{f}-{box}-cpu" for f in COMPARED for box in BOXES}
    assert set(NAMES) == published | scaled | ellipsoid | compared


@pytest.mark.parametrize("name", NAMES)
def test_the_contents_are_what_the_name_says(name: str) -> None:
    recipe, (data, family, box, scaled) = load_recipe(name), parts(name)
    assert recipe.data.name == data
    assert recipe.data.path is None
    assert recipe.objective.name == OBJECTIVES.get(family, "concert")
    kinds = {"concert-generated": "generated", "static": "static"}
    kind = "isotropic" if family in RIVALS else kinds.get(family, "queried")
    assert recipe.noise.kind == kind
    assert (recipe.objective.stability is not None) == (family in ELLIPSOID)
    if family in RIVALS:
        assert recipe.noise.sigma == float(box)
    else:
        assert (recipe.noise.low, recipe.noise.high) == BOXES[box]
        # The paper's generator costs nine times LeNet.
        expected = "coarse" if kind == "queried" or scaled else "paper"
        if kind == "static":
            assert recipe.noise.generator is None
            assert recipe.objective.beta == 0
        else:
            assert recipe.noise.generator == ELLIPSOID.get(family, expected)
        assert recipe.noise.query_sigma is None
    if not scaled or data == "imagenet":
        assert recipe.classifier.name == CLASSIFIERS[data]


@pytest.mark.parametrize("name", NAMES)
def test_each_file_begins_by_saying_what_it_is(name: str) -> None:
    lines = find_recipe(name).read_text().splitlines()
    comments = [line.startswith("# ") for line in lines]
    assert comments.index(False) in (2, 3)
    assert not any(comments[comments.index(False) :])
    low, high = BOXES[parts(name)[2]]
    said = f"sigma = {low}" if parts(name)[1] in RIVALS else f"box ({low}, {high})"
    assert said in lines[0]


@pytest.mark.parametrize("name", [name for name in CONCERT if not name.endswith("-cpu")])
def test_published_recipes_have_the_papers_numbers(name: str) -> None:
    recipe, data = load_recipe(name), parts(name)[0]
    epochs, milestones, start = SCHEDULES[data]
    assert (recipe.training.epochs, recipe.training.milestones) == (epochs, milestones)
    assert (recipe.training.lr, recipe.training.lr_decay) == (0.01, 0.1)
    assert recipe.training.batch_size == 128
    assert recipe.training.generator_lr_scale == 1.0
    assert recipe.objective.start_epoch == start
    weights = recipe.objective.alpha, recipe.objective.beta, recipe.objective.kappa
    assert weights == (6.0, 1.0, 8.0)
    assert recipe.data.subset == "all"


@pytest.mark.parametrize("name", [f"{d}/cohen-{box}" for d in SHAPES for box in BOXES])
def test_published_baselines_have_cohens_numbers(name: str) -> None:
    training = load_recipe(name).training
    small = name.startswith("mnist")
    assert (training.epochs, training.milestones, training.lr_decay) == (90, [30, 60], 0.1)
    assert (training.lr, training.batch_size) == ((0.01, 256) if small else (0.1, 400))
    assert (training.momentum, training.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize(
    ("name", "objective", "training"),
    [
        # m, lambda, gamma, inverse temperature, start | epochs, batch, rate, decay, milestones
        ("cifar10/macer-0.25", (16, 12, 8, 16, 0), (440, 64, 0.01, 5e-4, [200, 400])),
        ("cifar10/macer-0.5", (16, 4, 8, 16, 0), (440, 64, 0.01, 5e-4, [200, 400])),
        ("cifar10/macer-1.0", (16, 12, 8, 16, 200), (440, 64, 0.01, 5e-4, [200, 400])),
        ("mnist/macer-0.25", (16, 16, 8, 16, 30), (90, 256, 0.01, 1e-4, [30, 60])),
        ("mnist/macer-0.5", (16, 16, 8, 16, 30), (90, 256, 0.01, 1e-4, [30, 60])),
        ("mnist/macer-1.0", (16, 6, 8, 16, 30), (90, 256, 0.01, 1e-4, [30, 60])),
        ("imagenet/macer-0.25", (2, 6, 8, 16, 0), (120, 256, 0.1, 1e-4, [30, 60, 90])),
        ("imagenet/macer-0.5", (2, 3, 8, 16, 0), (120, 256, 0.1, 1e-4, [30, 60, 90])),
        ("imagenet/macer-1.0", (2, 3, 8, 16, 0), (120, 256, 0.1, 1e-4, [30, 60, 90])),
        # m, epsilon, steps, warm-up: a step has 256 noisy copies
        ("cifar10/smoothadv-0.25", (8, 255 / 256, 10, 10), (150, 32, 0.1, 1e-4, [50, 100])),
        ("cifar10/smoothadv-0.5", (2, 2, 2, 10), (150, 128, 0.1, 1e-4, [50, 100])),
        ("cifar10/smoothadv-1.0", (2, 2, 10, 10), (150, 128, 0.1, 1e-4, [50, 100])),
        ("mnist/smoothadv-0.25", (4, 255 / 256, 10, 10), (90, 64, 0.01, 1e-4, [30, 60])),
        ("mnist/smoothadv-0.5", (4, 255 / 256, 10, 10), (90, 64, 0.01, 1e-4, [30, 60])),
        ("mnist/smoothadv-1.0", (4, 255 / 256, 10, 10), (90, 64, 0.01, 1e-4, [30, 60])),
        ("imagenet/smoothadv-0.25", (1, 255 / 256, 1, 10), (90, 256, 0.1, 1e-4, [30, 60])),
        ("imagenet/smoothadv-0.5", (1, 255 / 256, 1, 10), (90, 256, 0.1, 1e-4, [30, 60])),
        ("imagenet/smoothadv-1.0", (1, 2, 1, 10), (90, 256, 0.1, 1e-4, [30, 60])),
        # m, lambda, eta: a step has 256 noisy copies, on ImageNet at 0.5 and 1.0 200
        ("cifar10/consistency-0.25", (2, 20, 0.5), (150, 128, 0.1, 1e-4, [50, 100])),
        ("cifar10/consistency-0.5", (2, 10, 0.5), (150, 128, 0.1, 1e-4, [50, 100])),
        ("cifar10/consistency-1.0", (2, 10, 0.5), (150, 128, 0.1, 1e-4, [50, 100])),
        ("mnist/consistency-0.25", (2, 10, 0.5), (90, 128, 0.01, 1e-4, [30, 60])),
        ("mnist/consistency-0.5", (2, 5, 0.5), (90, 128, 0.01, 1e-4, [30, 60])),
        ("mnist/consistency-1.0", (2, 5, 0.5), (90, 128, 0.01, 1e-4, [30, 60])),
        ("imagenet/consistency-0.25", (2, 10, 0.5), (90, 128, 0.1, 1e-4, [30, 60])),
        ("imagenet/consistency-0.5", (2, 5, 0.5), (90, 100, 0.1, 1e-4, [30, 60])),
        ("imagenet/consistency-1.0", (2, 5, 0.1), (90, 100, 0.1, 1e-4, [30, 60])),
    ],
)
def test_published_rivals_have_their_papers_numbers(
    name: str, objective: tuple[float, ...], training: tuple[object, ...]
) -> None:
    recipe = load_recipe(name)
    given = objective_arguments(recipe.objective)
    names = {
        "macer": ("m", "lambda_weight", "gamma", "softmax_scale", "start_epoch"),
        "smoothadv": ("m", "epsilon", "steps", "warmup_epochs"),
        "consistency": ("m", "lambda_weight", "eta"),
    }[recipe.objective.name]
    assert tuple(given[key] for key in names) == objective
    t = recipe.training
    assert (t.epochs, t.batch_size, t.lr, t.weight_decay, t.milestones) == training
    assert (t.momentum, t.lr_decay, recipe.data.subset) == (0.9, 0.1, "all")


@pytest.mark.parametrize("name", NAMES)
def test_momentum_is_nesterovs_where_a_paper_says_so(name: str) -> None:
    data, family, box, scaled = parts(name)
    # ImageNet at 0.25 is not in that paper: the recipe is of those who ran its released code.
    said = family == "consistency" and not scaled and (data, box) != ("imagenet", "0.25")
    assert load_recipe(name).training.nesterov == said


@pytest.mark.parametrize("name", [name for name in NAMES if "/smoothadv-" in name])
def test_smoothadv_subtracts_the_mean_only_where_it_is_as_published(name: str) -> None:
    classifier, (data, _, _, scaled) = load_recipe(name).classifier, parts(name)
    shape, num_classes = SHAPES[data]
    described = describe(load_recipe(name), shape, num_classes, ()).classifier
    usual = MEAN_STD[data]
    header = " ".join(find_recipe(name).read_text().splitlines()[:2])
    if usual is None:
        assert (described["mean"], described["std"]) == (None, None)
    elif scaled:
        assert (classifier.mean, classifier.std) == (None, None)
        assert (described["mean"], described["std"]) == (list(usual[0]), list(usual[1]))
        assert "mean and std" in header
    else:
        assert (described["mean"], described["std"]) == (list(usual[0]), [1.0, 1.0, 1.0])
        assert "centred images" in header


def test_scaled_recipes_of_a_data_set_have_the_same_images_and_classifier() -> None:
    for data in ("mnist", "cifar10"):
        scaled = [load_recipe(name) for name in NAMES if name.startswith(data) and "-cpu" in name]
        assert len({recipe.data.subset for recipe in scaled}) == 1
        assert len({str(recipe.classifier) for recipe in scaled}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_fits_into_the_epochs(name: str) -> None:
    recipe = load_recipe(name)
    milestones = recipe.training.milestones
    assert milestones == sorted(set(milestones))
    assert milestones[0] > 0
    assert milestones[-1] < recipe.training.epochs
    if "/concert-" in name:
        assert recipe.objective.start_epoch is not None
        assert 0 < recipe.objective.start_epoch < recipe.training.epochs


def shortened(recipe: Recipe, m: int) -> Recipe:
    """The recipe with at most `m` copies and one step of an attack, for a large network."""
    objective = recipe.objective
    if objective.m is not None:
        objective = replace(objective, m=min(m, objective.m))
    if objective.steps is not None:
        objective = replace(objective, steps=1)
    return replace(recipe, objective=objective)


def take_a_step(name: str, recipe: Recipe, batch: int) -> tuple[float, list[float], NoiseModel]:
    """The loss of one step with all terms on, how far every parameter moved, and the noise."""
    shape, num_classes = SHAPES[parts(name)[0]]
    class_names = tuple(str(number) for number in range(num_classes))
    description = describe(recipe, shape, num_classes, class_names)
    mean_std = MEAN_STD[recipe.data.name]
    if name.startswith("cifar10/macer") and "-cpu" not in name:
        mean_std = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # it is published without normalisation
    if mean_std is not None and "/smoothadv" in name and "-cpu" not in name:
        mean_std = (mean_std[0], (1.0, 1.0, 1.0))  # its first layer subtracts the mean only
    expected = (None, None) if mean_std is None else (list(mean_std[0]), list(mean_std[1]))
    assert (description.classifier["mean"], description.classifier["std"]) == expected
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = build_base(description, trust=False).train()
        noise = build_noise(description.noise, shape).train()
    optimizer = make_optimizer(recipe.training, classifier, noise)
    trained = [*classifier.parameters(), *noise.parameters()]
    before = [parameter.detach().clone() for parameter in trained]
    terms = build_objective(recipe.objective)(
        classifier,
        noise,
        torch.rand((batch, *shape), generator=draws),
        torch.randint(num_classes, (batch,), generator=draws),
        torch.rand((batch, 1, *shape[1:]), generator=draws),
        recipe.objective.start_epoch or 0,
        draws,
    )
    terms.total.backward()
    optimizer.step()
    pairs = zip(trained, before, strict=True)
    moved = [float((new.detach() - old).abs().max()) for new, old in pairs]
    return float(terms.total.detach()), moved, noise


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_training(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.classifier.name == "resnet110":
        recipe = shortened(recipe, m=4)
    loss, moved, noise = take_a_step(name, recipe, batch=2)
    assert 0 < loss < float("inf")
    assert all(0 < distance < float("inf") for distance in moved)
    assert noise.guarantee.value == ("frozen-noise" if "generated" in name else "deployed")


@pytest.mark.slow
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_step_of_training_on_photographs(name: str) -> None:
    recipe = shortened(load_recipe(name), m=2 if "consistency" in name else 1)
    loss, moved, _ = take_a_step(name, recipe, batch=2)
    assert 0 < loss < float("inf")
    assert all(distance < float("inf") for distance in moved)
    assert max(moved) > 0


def test_recipes_are_found_by_name_and_by_path() -> None:
    path = find_recipe("mnist/concert-0.25-cpu")
    assert path == recipes_folder() / "mnist" / "concert-0.25-cpu.yaml"
    assert find_recipe("configs/mnist/concert-0.25-cpu.yaml").samefile(path)
    assert find_recipe(str(Path(path))) == path

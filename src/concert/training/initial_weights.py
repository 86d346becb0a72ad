"""Training that starts from a finished model: fine-tuning, or a denoiser before its classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from concert.classifiers import Denoised
from concert.data import MEAN_STD
from concert.data.known import KNOWN
from concert.errors import ConcertError
from concert.import_paths import is_foreign
from concert.noise import NoiseModel
from concert.objectives import DenoiseObjective, Objective
from concert.recipes.building import Description, describe_classifier
from concert.recipes.config import Recipe
from concert.runs import load_into, model_folder, read_description, read_weights

# What a recipe says of the classifier itself, without a denoiser before it.
CLASSIFIER: Final = ("name", "init_args", "mean", "std")


def settle_classifier(
    recipe: Recipe, asked: Collection[str] = CLASSIFIER, trust: bool = True
) -> Recipe:
    """The recipe with the classifier of the run that its `init` names.

    `asked`: those of `CLASSIFIER` in which the recipe must agree with that run; a mean and std of
    None agree with any. The others are taken from there. A recipe without `init`, or with the same
    classifier as there, stays as it is. Raises ConcertError for what contradicts the run, and,
    without `trust`, for a class from outside concert that the recipe does not name itself.
    """
    if recipe.init is None:
        return recipe
    try:
        theirs, _ = read_description(recipe.init)
    except ConcertError:
        # A finished run needs its initial weights no more; `take_weights` complains where they are.
        return recipe
    channels = theirs.shape[0]
    known = KNOWN.get(recipe.data.name)
    if known is not None and known.shape[0] != channels:
        raise ConcertError(
            f"{recipe.init} takes images of shape {theirs.shape}, {recipe.data.name} has "
            f"{known.shape}: give another --init"
        )
    own = describe_classifier(recipe.classifier, recipe.data.name, theirs.shape)
    if not _differences(theirs.classifier, own, channels):
        return recipe
    there: dict[str, Any] = {name: theirs.classifier.get(name) for name in CLASSIFIER}
    usual = MEAN_STD.get(recipe.data.name) is not None and "." not in str(there["name"])
    if there["mean"] is None and usual:
        # None would be the data set's usual values.
        there |= {"mean": [0.0] * channels, "std": [1.0] * channels}
    taken: dict[str, Any] = {
        name: value
        for name, value in there.items()
        if name not in asked or getattr(recipe.classifier, name) is None
    }
    named = recipe.classifier.name
    settled = replace(recipe, classifier=replace(recipe.classifier, **taken))
    own = describe_classifier(settled.classifier, recipe.data.name, theirs.shape)
    _same_classifier(recipe.init, theirs.classifier, own, channels)
    if settled.classifier.name != named and is_foreign(settled.classifier.name) and not trust:
        raise ConcertError(
            f"{recipe.init} has the classifier '{settled.classifier.name}', code from outside "
            "concert: if you trust it, say so with --trust"
        )
    return settled


def take_weights(
    source: Path, description: Description, classifier: nn.Module, noise: NoiseModel
) -> str:
    """Fill a new model with the weights of a run or model folder; returns their hash.

    The classifier must be the same network with the same normalisation, where none is that by mean
    0 and std 1. A model with a denoiser takes the classifier behind it from a model without one.
    The generator is taken over where the source has one of the same kind, whatever its box. Raises
    ConcertError for what does not fit.
    """
    theirs, digest = read_description(source)
    folder = model_folder(source)
    tensors = read_weights(folder, digest)
    if (theirs.shape, theirs.num_classes) != (description.shape, description.num_classes):
        raise ConcertError(
            f"{source} takes images of shape {theirs.shape} in {theirs.num_classes} classes, this "
            f"recipe's have {description.shape} in {description.num_classes}: give another --init"
        )
    wanted, target = dict(description.classifier), classifier
    if isinstance(classifier, Denoised) and "denoiser" not in theirs.classifier:
        del wanted["denoiser"]
        target = classifier.classifier
    _same_classifier(source, theirs.classifier, wanted, theirs.shape[0])
    denoisers = [described.get("denoiser") for described in (theirs.classifier, wanted)]
    if denoisers[0] != denoisers[1]:
        raise ConcertError(
            f"{source} has classifier.denoiser = {denoisers[0]}, this recipe has {denoisers[1]}: "
            "set it as there, or give another --init"
        )
    renamed = _renamed(tensors, _place(theirs.classifier), _place(wanted))
    load_into(target, renamed, "classifier", folder)
    generators = [
        {key: noise.get(key) for key in ("generator", "generator_args")}
        for noise in (theirs.noise, description.noise)
    ]
    if "generator" in description.noise and generators[0] == generators[1]:
        load_into(noise, tensors, "noise", folder)
    return digest


def _comparable(described: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """`CLASSIFIER` of a description, where no normalisation is that by mean 0 and std 1."""
    same = {name: described.get(name) for name in CLASSIFIER}
    if same["mean"] is None and same["std"] is None:
        same |= {"mean": [0.0] * channels, "std": [1.0] * channels}
    return same


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], channels: int
) -> dict[str, tuple[Any, Any]]:
    """What is not the same in two descriptions: (theirs, ours) by name."""
    here, there = _comparable(ours, channels), _comparable(theirs, channels)
    return {name: (there[name], here[name]) for name in CLASSIFIER if there[name] != here[name]}


def _same_classifier(
    source: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], channels: int
) -> None:
    differences = _differences(theirs, ours, channels)
    if differences:
        name, (there, here) = next(iter(differences.items()))
        raise ConcertError(
            f"{source} has classifier.{name} = {there}, this recipe has {here}: set it as there, "
            "or give another --init"
        )


def _place(described: Mapping[str, Any]) -> str:
    """What the names of the network's own tensors begin with in a model of this description."""
    denoised = "classifier." if "denoiser" in described else ""
    normalized = "" if described.get("mean") is None else "1."
    return f"classifier.{denoised}{normalized}"


def _renamed(tensors: Mapping[str, Tensor], before: str, after: str) -> dict[str, Tensor]:
    return {
        after + name.removeprefix(before) if name.startswith(before) else name: tensor
        for name, tensor in tensors.items()
    }


def check_denoiser(recipe: Recipe, objective: Objective, classifier: nn.Module) -> None:
    """Refuse a denoiser before a classifier of random weights, and its objective without it."""
    if isinstance(classifier, Denoised) and recipe.init is None:
        raise ConcertError(
            "classifier.denoiser stands before a classifier that is trained already: give its run "
            "by --init"
        )
    if isinstance(objective, DenoiseObjective) and not isinstance(classifier, Denoised):
        raise ConcertError(
            f"objective '{recipe.objective.name}' trains a denoiser: set classifier.denoiser to "
            "dncnn or to an import path"
        )

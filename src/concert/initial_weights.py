"""Training that starts from a finished model: fine-tuning, or a denoiser before its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from concert.building import Description
from concert.classifiers import Denoised
from concert.config import Recipe
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.runs import load_into, model_folder, read_description, read_weights


def take_weights(
    source: Path, description: Description, classifier: nn.Module, noise: NoiseModel
) -> str:
    """Fill a new model with the weights of a run or model folder; returns their hash.

    The classifier must be the same network with the same normalisation. A model with a denoiser
    takes the classifier behind it from a model without one. The generator is taken over where the
    source has one of the same kind, whatever its box. Raises ConcertError for what does not fit.
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
    _same_classifier(source, theirs.classifier, wanted)
    load_into(target, tensors, "classifier", folder)
    generators = [
        {key: noise.get(key) for key in ("generator", "generator_args")}
        for noise in (theirs.noise, description.noise)
    ]
    if "generator" in description.noise and generators[0] == generators[1]:
        load_into(noise, tensors, "noise", folder)
    return digest


def _same_classifier(source: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ConcertError(
                f"{source} has classifier.{name} = {theirs.get(name)}, this recipe has "
                f"{ours.get(name)}: set it as there, or give another --init"
            )


def check_denoiser(recipe: Recipe, classifier: nn.Module) -> None:
    """Refuse a denoiser before a classifier of random weights, and its objective without it."""
    if isinstance(classifier, Denoised) and recipe.init is None:
        raise ConcertError(
            "classifier.denoiser stands before a classifier that is trained already: give its run "
            "by --init"
        )
    if recipe.objective.name == "denoise" and not isinstance(classifier, Denoised):
        raise ConcertError(
            "objective 'denoise' trains a denoiser: set classifier.denoiser to dncnn or to an "
            "import path"
        )

"""What to do about a classifier that was not trained with the noise it is certified with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Final

import yaml

from concert.commands.loading import trust_flag
from concert.data.known import KNOWN
from concert.recipes.building import Description
from concert.recipes.config import DataSettings
from concert.recipes.shipped import find_recipe, recipe_names
from concert.runs import CONFIG

SEEMS: Final = (
    "of the first {images} images {what}: the classifier does not seem to be trained with this "
    "noise. {other}"
)
LEARNED_NOTHING: Final = (
    "of the first {images} images {what}: trained with this very noise, the model seems to have "
    "learned nothing (its losses are in {metrics}). Train it with less noise, for longer, or with "
    "another learning rate."
)
OTHER: Final = (
    "It has {kind} noise; fine-tuning is offered with isotropic noise only, near the lower end. "
)
TUNE: Final = "concert train {recipe} --init {run}{flags} --out {run}-tuned"
DENOISE: Final = (
    "concert train {recipe} --init {run}{flags} --objective.name denoise --objective.agreement 0.3 "
    "--classifier.denoiser dncnn --training.lr 0.03 --out {run}-denoised"
)
EPOCHS: Final = " ({epochs} epochs{each}; fewer with --training.epochs):"


def untrained_hint(
    images: int,
    abstained: int,
    run: Path,
    description: Description,
    certified: DataSettings | None = None,
) -> str:
    """What to do about a run whose first `images` were no use; `abstained` of them got no class.

    A sentence, and below it the commands, a line each. Their recipe is one of Gaussian
    augmentation, whose objective has no settings that a denoiser's lacks, for the run's data where
    there is one, with a sigma near the run's. `certified`: the images certified, which say where
    such data are.
    """
    kind = description.noise.get("kind", "isotropic")
    metrics = (run.parent if (run / CONFIG).is_file() else run) / "metrics.csv"
    what = _outcome(images, abstained)
    if metrics.is_file():  # made by a training under the noise of this very model
        return LEARNED_NOTHING.format(images=images, what=what, metrics=metrics)
    recipe, flags = _recipe(description)
    flags += _data_flags(description.data, certified)
    flags += trust_flag(description).split()
    denoiser = description.classifier.get("denoiser")
    if denoiser:
        flags += [f"--classifier.denoiser {shlex.quote(denoiser['name'])}"]
        if denoiser.get("init_args"):
            arguments = shlex.quote(json.dumps(denoiser["init_args"]))
            flags += [f"--classifier.denoiser_args {arguments}"]
    ways = "Fine-tune it" if denoiser else "Fine-tune it, or put a denoiser before it"
    text = yaml.safe_load(find_recipe(recipe).read_text(encoding="utf-8"))
    lines = [
        SEEMS + ways + EPOCHS,
        *(f"  {command}" for command in ([TUNE] if denoiser else [TUNE, DENOISE])),
    ]
    return "\n".join(lines).format(
        images=images,
        what=what,
        epochs=text["training"]["epochs"],
        other="" if kind == "isotropic" else OTHER.format(kind=kind),
        each="" if denoiser else " each",
        recipe=recipe,
        run=shlex.quote(str(run)),
        flags="".join(f" {flag}" for flag in flags),
    )


def _outcome(images: int, abstained: int) -> str:
    rest = images - abstained
    if not abstained:
        return f"all {images} get one and the same class"
    if not rest:
        return f"all {images} abstain"
    return f"{abstained} abstain and the other {rest} get one and the same class"


def _recipe(description: Description) -> tuple[str, list[str]]:
    """The shipped recipe nearest to a run's data and sigma, and the flags that it lacks.

    Of noise with a box the sigma is its lower end.
    """
    data, noise = description.data, description.noise
    sigma = noise.get("low", noise.get("sigma"))
    shipped = data if f"{data}/cohen-0.5" in recipe_names() else "mnist"
    flags = [] if shipped == data else [f"--data.name {shlex.quote(data)}"]
    level = "0.5"
    if sigma is not None:
        level = min(("0.25", "0.5", "1.0"), key=lambda known: abs(float(known) - sigma))
        flags += [] if float(level) == sigma else [f"--noise.sigma {sigma:g}"]
    flags += [f"--noise.grid {noise['grid']}"] if noise.get("grid") else []
    # The scaled recipes of ImageNet are smoke tests.
    return f"{shipped}/cohen-{level}" + ("" if shipped == "imagenet" else "-cpu"), flags


def _data_flags(data: str, certified: DataSettings | None) -> list[str]:
    """Where the images of `data` are: those certified, if they are of that name."""
    found = certified if certified is not None and certified.name == data else DataSettings(data)
    flags = []
    if found.path is not None:
        flags.append(f"--data.path {shlex.quote(str(found.path))}")
    elif data not in KNOWN:
        flags.append("--data.path FOLDER")
    return flags + ([] if found.size is None else [f"--data.size {found.size}"])

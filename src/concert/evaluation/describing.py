"""What a certification log says of its run for the tables: method, training, and the images."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from concert.data import ImageSet
from concert.objectives import OBJECTIVES
from concert.recipes.building import Description

# Objectives as tables name them.
TITLES: Final = {
    "gaussian": "Cohen",
    "smoothadv": "SmoothAdv",
    "macer": "MACER",
    "consistency": "Consistency",
    "denoise": "Denoised",
    "concert": "Concert",
}


def describe_method(run: Path, description: Description) -> dict[str, Any]:
    """How tables name the run: the objective and the noise model with its sigma or box; and how it
    was trained, where its recipe is there.
    """
    noise = description.noise
    kind = noise["kind"]
    sigma = f"{noise['low']:g}-{noise['high']:g}" if "low" in noise else f"{noise['sigma']:g}"
    title, told = "model", {}
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        title = _title(recipe)
        told = {} if "imported" in recipe else {"training": training_note(recipe)}
    method = title if kind == "isotropic" else f"{title} ({kind})"
    if kind == "banded":
        method = (
            f"{title} (colour {noise['chroma_sigma']:g}, blocks of {noise['block']} "
            f"{noise['smooth_sigma']:g})"
        )
    if "grid" in noise:
        method = f"{title} (1/{noise['grid']} grid)"
    return {"method": method, "noise": kind, "sigma": sigma, **told}


def training_note(recipe: Mapping[str, Any]) -> str:
    """How a recipe trains: epochs, images, copies, initial weights; and what of the method its
    epochs do not reach.
    """
    epochs, objective = int(recipe["training"]["epochs"]), recipe["objective"]
    copies, start = (_setting(objective, name) for name in ("m", "start_epoch"))
    data = recipe.get("data") or {}
    parts = [f"trained for {_counted(epochs, 'epoch', 'epochs')}"]
    parts.append(f"training images {data.get('subset')}")
    if copies is not None and _setting(objective, "train_copies") == "first":
        copies = 1  # the others are the attack's
    if copies is not None:
        parts.append(f"{_counted(copies, 'noisy copy', 'noisy copies')} of an image")
    parts += [f"from the weights of {recipe['init']}"] if recipe.get("init") else []
    warmup = _setting(objective, "warmup_epochs") or 0
    if warmup > epochs:
        parts.append(f"its attack had grown to {epochs}/{warmup} of epsilon (warmup_epochs)")
    milestones = recipe["training"].get("milestones") or []
    if milestones and min(milestones) >= epochs:
        parts.append(f"the learning rate never decayed (training.milestones {milestones})")
    if start is not None and start >= epochs:
        parts.append(
            f"the method's own terms never began (objective.start_epoch {start}): this is plain "
            "cross-entropy under noise"
        )
    return ", ".join(parts)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _setting(objective: Mapping[str, Any], name: str) -> Any:
    """A setting as given, else the default of the objective; None of a class outside concert."""
    method = OBJECTIVES.get(objective["name"])
    if objective.get(name) is not None or method is None:
        return objective.get(name)
    parameter = inspect.signature(method).parameters.get(name)
    return getattr(method, name, None) if parameter is None else parameter.default


def _title(recipe: Mapping[str, Any]) -> str:
    """The method of a recipe, or what an imported model was said to be trained by."""
    name = str(recipe["objective"]["name"])
    own = name.rpartition(".")[2]
    # A user's class that is called like one of the paper's methods is not taken for that.
    taken = own.lower() in {title.lower() for title in TITLES.values()}
    return TITLES.get(name, name if "imported" in recipe or taken else own)


def describe_data(images: ImageSet) -> dict[str, Any]:
    """How tables name the data; for attacked images also what the attack did to each of them."""
    if images.attack is None:
        return {"data": images.name}
    told = (
        "method",
        "targets",
        "against",
        "arguments",
        "reference",
        "seed",
        "weights",
        "classifier",
        "classifier_source",
        "noise",
        "data",
        "subset",
        "command",
    )
    lists = ("index", "clean_predict", "clean_vote", "success", "l2", "linf")
    attack = {name: images.attack[name] for name in (*told, *lists) if name in images.attack}
    # Another name than the clean images have, so that no table mixes the two.
    return {"data": f"{images.name}, {attack['method']}", "attack": attack}

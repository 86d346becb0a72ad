"""From a recipe to modules: the classifier, the noise model and the objective it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from concert.classifiers import Denoised, build_classifier, build_denoiser
from concert.data import MEAN_STD
from concert.errors import ConcertError, nearest
from concert.generator import build_generator
from concert.import_paths import construct, import_class, is_foreign
from concert.noise import (
    BandedNoise,
    GeneratedNoise,
    GridNoise,
    IsotropicNoise,
    NoiseModel,
    QueriedNoise,
    StaticNoise,
)
from concert.noise.generated import NO_CODEBOOK
from concert.objectives import OBJECTIVES, Objective
from concert.recipes.config import (
    ClassifierSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
)

KEYWORD: Final = inspect.Parameter.POSITIONAL_OR_KEYWORD
KEYWORD_ONLY: Final = inspect.Parameter.KEYWORD_ONLY
_BOX: Final = ("low", "high", "omega")
_GENERATOR: Final = (*_BOX, "generator", "generator_args")
# The settings that a kind of noise is made of.
NOISE_SETTINGS: Final = {
    "isotropic": ("sigma", "grid"),
    "banded": ("sigma", "chroma_sigma", "smooth_sigma", "block"),
    "static": _BOX,
    "generated": _GENERATOR,
    "queried": (*_GENERATOR, "query_sigma"),
}


@dataclass(frozen=True)
class Description:
    """What rebuilds a model, as written to model/config.json."""

    classifier: Mapping[str, Any]
    noise: Mapping[str, Any]
    num_classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    data: str


def build_objective(settings: ObjectiveSettings) -> Objective:
    """The objective by name or import path; a setting that it does not have is refused.

    A recipe is the user's own, so the class that it names is trusted.
    """
    name, method = settings.name, _method(settings.name)
    arguments = objective_arguments(settings)
    if settings.init_args is not None and not is_foreign(name):
        raise ConcertError(
            "objective.init_args is for a class of your own: give the settings of "
            f"'{name}' by their names"
        )
    parameters = inspect.signature(method).parameters.values()
    known = {each.name for each in parameters if each.kind in (KEYWORD, KEYWORD_ONLY)}
    if not any(each.kind == each.VAR_KEYWORD for each in parameters):
        for given in arguments:
            if given not in known:
                raise ConcertError(
                    f"objective '{name}' has no setting '{given}': remove it "
                    f"(it has {', '.join(sorted(known)) or 'none'})"
                )
    made = construct("objective", name, method, arguments)
    if not isinstance(made.m, int):
        raise ConcertError(f"objective '{name}': m must be a whole number, not {made.m!r}")
    return made


def objective_arguments(settings: ObjectiveSettings) -> dict[str, Any]:
    """The settings that were given, by the names of the objective's constructor.

    Raises ConcertError for one that is given twice, as a setting and in `init_args`.
    """
    given = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    own = given.pop("init_args") or {}
    shared = {key: value for key, value in given.items() if key != "name" and value is not None}
    for name in sorted(shared.keys() & own.keys()):
        raise ConcertError(f"objective.{name} is in objective.init_args too: remove one of them")
    return shared | own


def _method(name: str) -> Callable[..., Objective]:
    if is_foreign(name):
        return import_class("objective", name, True, Objective, "concert.objectives.Objective")
    if name not in OBJECTIVES:
        raise ConcertError(nearest("objective", name, OBJECTIVES))
    return OBJECTIVES[name]


def check_noise_settings(kind: str, given: Iterable[str]) -> None:
    """Refuse names of noise settings that `kind` has no use for; "kind" itself is none of them."""
    for name in sorted(given):
        if name != "kind" and name not in NOISE_SETTINGS[kind]:
            raise ConcertError(
                f"noise.{name} has no meaning for {kind} noise: remove it "
                f"(noise.kind {kind} has {', '.join(NOISE_SETTINGS[kind])})"
            )


def describe_noise(settings: NoiseSettings, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The resolved noise model of a recipe, for images of `shape`."""
    if settings.kind == "isotropic":
        grid = {} if settings.grid is None else {"grid": settings.grid}
        return {"kind": "isotropic", "sigma": settings.sigma, **grid}
    if settings.kind == "banded":
        given = {name: getattr(settings, name) for name in NOISE_SETTINGS["banded"]}
        given = {name: value for name, value in given.items() if value is not None}
        return BandedNoise(**given).settings()
    if settings.grid is not None:
        raise ConcertError(
            f"noise.grid is for isotropic noise only, not {settings.kind}: remove it"
        )
    if settings.low > settings.high:
        raise ConcertError(
            f"the sigma box needs low <= high, got noise.low={settings.low:g} and "
            f"noise.high={settings.high:g}: exchange them"
        )
    low, high = settings.low, settings.omega * settings.high
    if not 0 < low <= high:
        raise ConcertError(
            f"the sigma box needs 0 < low <= omega * high, got low={low} and omega * high={high:g}"
            ": raise high or omega, or lower low"
        )
    if not settings.omega <= 1:
        raise ConcertError(f"omega must be at most 1, got {settings.omega}")
    described: dict[str, Any] = {"kind": settings.kind, "low": low, "high": high}
    if settings.kind == "queried":
        query = settings.high if settings.query_sigma is None else settings.query_sigma
        described["query_sigma"] = query
    if settings.kind != "static":
        name = settings.generator or ("coarse" if settings.kind == "queried" else "paper")
        if name == "codebook" and settings.kind == "generated":
            raise ConcertError(NO_CODEBOOK)
        arguments = dict(settings.generator_args)
        if name != "paper":
            # At 224 x 224 a pool of 4 would leave the query's noise in the map and cost too much.
            arguments.setdefault("pool", 4 if max(shape[1:]) <= 64 else 16)
        described |= {"generator": name, "generator_args": arguments}
    return described


def build_noise(
    described: Mapping[str, Any], shape: tuple[int, int, int], sigma_map: Tensor | None = None
) -> NoiseModel:
    """The noise model of a description; `sigma_map` (C, H, W) is for static noise."""
    kind = described["kind"]
    if kind == "isotropic":
        if "grid" in described:
            return GridNoise(described["sigma"], described["grid"])
        return IsotropicNoise(described["sigma"])
    if kind == "banded":
        return BandedNoise(*(described[name] for name in NOISE_SETTINGS["banded"]))
    if kind == "static":
        placeholder = torch.full(shape, float(described["low"]))
        return StaticNoise(placeholder if sigma_map is None else sigma_map)
    low, high = described["low"], described["high"]
    generator = build_generator(
        described["generator"], shape[0], low, high, described["generator_args"]
    )
    if kind == "generated":
        return GeneratedNoise(generator)
    if kind == "queried":
        return QueriedNoise(generator, described["query_sigma"], low, high)
    raise ConcertError(nearest("noise model", str(kind), NOISE_SETTINGS))


def describe_classifier(
    settings: ClassifierSettings, data: str, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The resolved classifier of a recipe, for images of `shape` of the data set `data`.

    One of ours is normalised by the data set's usual mean and std unless others are given, a module
    given by import path only by those that are given.
    """
    described: dict[str, Any] = {"name": settings.name, "init_args": dict(settings.init_args)}
    mean, std = settings.mean, settings.std
    if "." not in settings.name:
        default = MEAN_STD.get(data)
        if mean is None and std is None and default is not None:
            mean, std = list(default[0]), list(default[1])
        described |= {"mean": mean, "std": std}
        if settings.name == "lenet":
            described["init_args"].setdefault("image_size", shape[1])
    elif mean is not None or std is not None:
        described |= {"mean": mean, "std": std}
    if settings.denoiser is not None:
        described["denoiser"] = {
            "name": settings.denoiser,
            "init_args": dict(settings.denoiser_args),
        }
    return described


def describe(
    recipe: Recipe, shape: tuple[int, int, int], num_classes: int, class_names: tuple[str, ...]
) -> Description:
    """The model that a recipe asks for, for a data set's shape and classes."""
    classifier = describe_classifier(recipe.classifier, recipe.data.name, shape)
    noise = describe_noise(recipe.noise, shape)
    return Description(classifier, noise, num_classes, shape, class_names, recipe.data.name)


def build_base(description: Description, trust: bool) -> nn.Module:
    """The base classifier of a description, with fresh weights."""
    c = description.classifier
    classifier = build_classifier(
        c["name"],
        description.num_classes,
        description.shape[0],
        mean=c.get("mean"),
        std=c.get("std"),
        init_args=c.get("init_args"),
        trust=trust,
    )
    if "denoiser" not in c:
        return classifier
    d = c["denoiser"]
    denoiser = build_denoiser(d["name"], description.shape[0], d.get("init_args"), trust)
    return Denoised(denoiser, classifier)

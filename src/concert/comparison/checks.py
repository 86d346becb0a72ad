"""What a run of a comparison is checked for before anything is trained.

A mistake in the settings of a certification would else be found after hours of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from concert.attacks.settings import AttackSettings
from concert.classifiers.build import CLASSIFIERS, DENOISERS
from concert.comparison.products import weights_of
from concert.data import subset_indices
from concert.data.floats import attack_description
from concert.data.known import KNOWN, Known
from concert.data.load import SPLITS, unknown_data
from concert.errors import ConcertError, nearest
from concert.evaluation.certify import CertifySettings
from concert.import_paths import is_foreign
from concert.noise import NoiseModel
from concert.objectives import OBJECTIVES, Objective
from concert.recipes.building import build_base, build_noise, build_objective, describe_noise
from concert.recipes.config import ClassifierSettings, DataSettings, Recipe
from concert.records.reading import HEADER, complete_lines, load_run, parse_rows, run_path
from concert.records.record import COLUMNS
from concert.runs import code_has_changed, model_folder, read_description
from concert.sampling.sampler import SamplingSettings

# No data set is larger: rules are checked without the images.
MANY_IMAGES: Final = 10_000_000
# For data sets that are not known by name; only the generator's first layer depends on the shape.
ANYTHING: Final = Known((3, 32, 32), num_classes=1_000_000, counts={})
# What a log and a certification that goes on with it must have in common.
DECIDING: Final = ("n0", "n", "alpha", "seed", "certificate", "stopping", "split")


def check_settings(recipe: Recipe, options: Any) -> CertifySettings:
    """The settings of a run's certification, with its certificate by name.

    `options`: of `concert certify`, parsed. Raises ConcertError where the objective or the noise of
    the recipe does not exist, does not fit or never begins, where the settings can never certify,
    where a rule for a subset is none, and where a classifier does not exist or is the user's own
    and not trusted.
    """
    noise = noise_of(recipe)
    objective = build_objective(recipe.objective)
    objective.check(noise)
    check_start(objective, recipe)
    check_subset_rule(recipe.data.subset)
    check_data(recipe.data, options)
    names = (entry.name for entry in fields(CertifySettings))
    settings = CertifySettings(**{name: getattr(options, name) for name in names})
    settings.check(noise)
    check_split(settings.split)
    check_subset_rule(settings.subset)
    SamplingSettings(options.batch_size, options.vote_margin, options.workers)
    check_classifier(recipe.classifier, options.trust)
    return replace(settings, certificate=settings.certificate_of(noise))


def check_data(trained_on: DataSettings, options: Any) -> None:
    """Refuse names of data sets that are not known, and of which no folder is given."""
    data = options.data
    certified = DataSettings(data.name or trained_on.name, data.path)
    if data.name in ("", trained_on.name) and data.path is None:
        certified = trained_on
    for each in (trained_on, certified):
        if each.path is None and each.name not in KNOWN:
            raise unknown_data(each.name)


def check_start(objective: Objective, recipe: Recipe) -> None:
    """Refuse a training that ends before all terms of its method begin."""
    name, start, epochs = recipe.objective.name, objective.start_epoch, recipe.training.epochs
    if start >= epochs:
        less = ", or set objective.start_epoch to less" if name in OBJECTIVES else ""
        raise ConcertError(
            f"objective '{name}' trains all of its terms from epoch {start} on (start_epoch, "
            f"counted from 0), and there are {epochs} epochs: tables would call plain "
            f"cross-entropy '{name}'; train for longer{less}"
        )


def check_code(folder: Path, trust: bool) -> None:
    """Refuse a finished run whose own classifier's code is no longer that of the training."""
    try:
        description, _ = read_description(folder)
    except ConcertError:
        return
    if trust and code_has_changed(model_folder(folder), build_base(description, trust)):
        raise ConcertError(
            f"the code of the classifier has changed since {folder} was trained: restore it, or "
            "choose another name or --out"
        )


def noise_of(recipe: Recipe) -> NoiseModel:
    """The noise model of a recipe with fresh weights."""
    shape = shape_of(recipe.data)
    return build_noise(describe_noise(recipe.noise, shape), shape)


def shape_of(data: DataSettings) -> tuple[int, int, int]:
    """(channels, height, width) of known images, of `ANYTHING` for others, in the size given."""
    return KNOWN.get(data.name, ANYTHING).shape_at(data.size)


def check_attack(settings: AttackSettings, data: DataSettings) -> None:
    """Refuse an attack that cannot be on such data, as far as is known without the images."""
    check_subset_rule(settings.subset)
    check_split(settings.split)
    settings.check(shape_of(data), KNOWN.get(data.name, ANYTHING).num_classes)


def check_split(split: str) -> None:
    """Refuse a split that no data set has."""
    if split not in SPLITS:
        raise ConcertError(nearest("split", split, SPLITS))


def check_subset_rule(rule: str) -> None:
    """Refuse a rule for a subset that is none, whatever the number of images."""
    count = "".join(rule.split(":")[1:2])
    asked = int(count) if count.isascii() and count.isdigit() else 1
    subset_indices(min(max(asked, 1), MANY_IMAGES), rule)


def check_classifier(settings: ClassifierSettings, trust: bool) -> None:
    """Refuse networks that do not exist, and those that `concert certify` may not import."""
    named = (("classifier", settings.name, CLASSIFIERS), ("denoiser", settings.denoiser, DENOISERS))
    for kind, name, ours in named:
        if name is None or name in ours:
            continue
        if "." not in name:
            raise ConcertError(nearest(kind, name, ours))
        if is_foreign(name) and not trust:
            raise ConcertError(
                f"{kind} '{name}' is code from outside concert: if you trust it, say so with "
                "'certify: {trust: true}'"
            )


def check_log(log: Path, settings: CertifySettings, options: Any) -> None:
    """Refuse a log that was made with other settings than these; writes nothing.

    `settings`: as `check_settings` gives them. `options`: of `concert certify`, parsed. A log that
    is not there or has not begun is no obstacle, and the subset may grow.
    """
    try:
        content = log.read_bytes()
    except FileNotFoundError:
        return
    if HEADER.startswith(content):
        return
    described = run_path(log)
    remedy = f"delete {log} and {described.name}, or choose another --out"
    if not content.startswith(HEADER + b"\n"):
        raise ConcertError(f"{log} is not a certification log of this version: {remedy}")
    try:
        identity = load_run(described)["identity"]
    except FileNotFoundError:
        raise ConcertError(f"{log} cannot be resumed without {described.name}: {remedy}") from None
    data = identity.get("data")
    data = data if isinstance(data, dict) else {}
    there = identity | {"split": data.get("split")}
    here = {name: getattr(settings, name) for name in DECIDING}
    here["vote_margin"] = options.vote_margin
    if options.batch_size:
        here["batch_size"] = options.batch_size
    if "n_select" in there:
        here["n_select"] = settings.n_select
    _require_same(f"{log} was made with", there, here, remedy)
    if there.get("subset") != settings.subset:
        lines, _ = complete_lines(content, ours=True)
        logged = {row["idx"] for row in parse_rows(log, lines, COLUMNS)}
        asked = subset_indices(int(data.get("images", MANY_IMAGES)), settings.subset)
        if not logged <= set(asked):
            raise ConcertError(
                f"{log} has images of subset {there.get('subset')} that {settings.subset} does not "
                f"have: {remedy}"
            )


def check_attack_folder(folder: Path, settings: AttackSettings, data: str, run: Path) -> None:
    """Refuse the folder of an attack with other settings, data or weights; writes nothing.

    `data`: the name of what is attacked. `run`: the folder of the model. A folder that is not there
    or has not begun is no obstacle.
    """
    there = attack_description(folder).get("identity")
    if not isinstance(there, dict):
        return
    images = there.get("data")
    there = there | {name: images.get(name) for name in ("name", "split")} if images else there
    here = json.loads(json.dumps(settings.described()))
    here |= {"name": data, "split": settings.split, "concert": version("concert-smoothing")}
    weights = weights_of(run)
    here |= {} if weights is None else {"weights": weights}
    remedy = "delete it, or choose another name or --out"
    _require_same(f"{folder} was attacked with", there, here, remedy)


def _require_same(
    made: str, there: Mapping[str, Any], here: Mapping[str, Any], remedy: str
) -> None:
    for name, value in here.items():
        if there.get(name) != value:
            raise ConcertError(
                f"{made} {name} = {there.get(name)}, this comparison has {value}: {remedy}"
            )

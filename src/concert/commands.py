"""What each command does, given its parsed options: wiring between the library and the console."""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image, ImageOps, UnidentifiedImageError

from concert.auditing import AuditSettings
from concert.auditing.run import find_log, log_identity
from concert.checks import check_images, check_prediction
from concert.config import DataSettings, Recipe
from concert.console import (
    audit_with_display,
    certify_with_display,
    make_console,
    train_with_display,
)
from concert.data import load_images, subset_indices
from concert.data.decode import COLOUR, GREY
from concert.engines.choice import check_engine
from concert.engines.export import export_engine
from concert.errors import INTERRUPTED, ConcertError
from concert.evaluation.certify import CertifySettings
from concert.evaluation.report import write_report
from concert.log_reading import read_log
from concert.records import ABSTAIN
from concert.runs import load, model_folder, read_description
from concert.sampling import SamplingSettings
from concert.smoothing import SmoothedClassifier, decide
from concert.streams import Domain, keyed_generator
from concert.team import make_team
from concert.training import claim_folder


def train(options: Any, argv: list[str]) -> int:
    """`concert train CONFIG`"""
    recipe = Recipe(
        data=options.data,
        classifier=options.classifier,
        noise=options.noise,
        objective=options.objective,
        training=options.training,
        colorizer=options.colorizer,
    )
    _import_from_here()
    name = Path(str(options.config[0])).stem if options.config else recipe.objective.name
    out = options.out or Path("runs") / recipe.data.name / name
    console = make_console()
    if (out / "model" / "config.json").is_file():
        # Still checked: another recipe must not pass for this one.
        claim_folder(recipe, out)
        console.print(f"{out} is already trained")
    else:
        finished = train_with_display(recipe, out, console)
        if not finished:
            console.print(f"stopped; the same command goes on from {out}")
            return INTERRUPTED
        console.print(f"trained: {out}")
    console.print(f"next: concert certify {shlex.quote(str(out))}")
    return 0


def certify(options: Any, argv: list[str]) -> int:
    """`concert certify RUN`"""
    description, _ = read_description(options.run)
    data = _data_of(options.run, description.data, options.data)
    names = (entry.name for entry in fields(CertifySettings))
    settings = CertifySettings(**{name: getattr(options, name) for name in names})
    log_path = options.log or options.run / f"certify-n{settings.n}.tsv"
    team = make_team(options.accelerator, options.devices, options.num_nodes)
    smoothed = _load(options, device=team.device)
    console = make_console(quiet=team.rank > 0)
    command = f"concert {shlex.join(argv)}"
    certify_with_display(smoothed, options.run, data, settings, log_path, console, command, team)
    console.print(f"log: {log_path}")
    console.print(smoothed.noise.sentence_of(settings.certificate))
    console.print(f"next: concert report {shlex.quote(str(log_path))}")
    return 0


def predict(options: Any, argv: list[str]) -> int:
    """`concert predict RUN IMAGE...`"""
    description, _ = read_description(options.run)
    smoothed = _load(options)
    images = torch.cat(
        [read_image(path, description.shape, options.resize) for path in options.images]
    )
    # Checked before any draw; the votes are then decided exactly as `predict` does.
    check_prediction(options.n, options.alpha)
    console = make_console()
    for path, votes in zip(
        options.images, smoothed.prediction_votes(images, options.n, options.seed), strict=True
    ):
        label = decide(votes, options.alpha)
        top = int(votes.counts.argmax())
        share = f"{votes.counts[top]}/{votes.n} votes for {description.class_names[top]}"
        answer = "abstains" if label == ABSTAIN else description.class_names[label]
        console.print(f"{path}: {answer} ({share})")
    return 0


def export(options: Any, argv: list[str]) -> int:
    """`concert export RUN --engine NAME`"""
    # Checked first: loading and sampling images takes a while.
    check_engine(options.engine)
    if options.images < 1:
        raise ConcertError(f"--images must be at least 1, got {options.images}")
    description, weights = read_description(options.run)
    # The engine deployed so far may be the very one that is to be replaced.
    smoothed = _load(options, deployed=False)
    data = _data_of(options.run, description.data, options.data)
    images = load_images(data.name, "train", data.path, data.size)
    count = min(options.images, len(images))
    chosen = images.images(subset_indices(len(images), f"random:{count}:{options.seed}"))
    chosen = smoothed.noise.accept(check_images(chosen, description.shape))
    device = next(smoothed.classifier.parameters()).device
    noise = keyed_generator(options.seed, Domain.TRAIN, device=device)
    with torch.inference_mode():
        noisy, _ = smoothed.noise.copies(chosen.to(device), 1, noise)
    result = export_engine(
        model_folder(options.run),
        options.engine,
        smoothed.classifier,
        description.num_classes,
        weights,
        noisy[noisy.isfinite().flatten(1).all(dim=1)],
        0.25 * options.vote_margin,
    )
    console = make_console()
    console.print(
        f"{options.run} is deployed with {options.engine}: against the trained network, logits "
        f"differ by at most {result.drift:.2g}, and {result.votes} of {result.images} noisy images "
        "fall into another class"
    )
    if result.choice.precision == "float32":
        covered = result.drift < 0.5 * options.vote_margin
        console.print(
            f"certificates with a vote margin of {options.vote_margin:g} "
            f"{'hold for both networks' if covered else 'hold for the one that made them only'}"
        )
    if result.choice.precision == "int8":
        console.print("an int8 network is another classifier: certify it anew, into a new --log")
    console.print(f"next: concert certify {shlex.quote(str(options.run))}")
    return 0


def audit(options: Any, argv: list[str]) -> int:
    """`concert audit RUN`; exit code 1 where more certificates are broken than alpha explains"""
    settings = AuditSettings(
        options.starts, options.steps, options.draws, options.n0, options.n, options.seed
    )
    description, _ = read_description(options.run)
    log = read_log(options.log or find_log(options.run))
    identity = log_identity(log)
    # The votes behind a log depend, though rarely, on the batch shape.
    options.batch_size = options.batch_size or int(identity["batch_size"])
    options.data.name = options.data.name or str(identity["data"]["name"])
    data = _data_of(options.run, description.data, options.data)
    out = options.out or options.run / f"audit-{log.path.stem}"
    smoothed, console = _load(options), make_console()
    command = f"concert {shlex.join(argv)}"
    result = audit_with_display(
        smoothed, data, log, options.images, settings, out, console, command
    )
    for sentence in result.sentences:
        console.print(sentence)
    console.print(f"audit: {out}")
    return 0 if result.passed else 1


def report(options: Any, argv: list[str]) -> int:
    """`concert report LOG...`"""
    files = write_report([read_log(path) for path in options.logs], options.out)
    console = make_console()
    console.print((options.out / "table.txt").read_text(encoding="utf-8"))
    console.print("written: " + ", ".join(str(file) for file in files))
    return 0


def demo(options: Any, argv: list[str]) -> int:
    """`concert demo`"""
    from concert.demo import run_demo

    return run_demo(options.out, options.quick, make_console())


def read_image(path: Path, shape: tuple[int, int, int], resize: bool) -> torch.Tensor:
    """An image file as (1, C, H, W) in [0, 1], for a model that takes `shape`."""
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise ConcertError(f"{path} has more than 8 bits a channel: convert it to 8 bits")
            if file.mode not in GREY + COLOUR:
                raise ConcertError(
                    f"{path} has pixel mode {file.mode}: save it as 8-bit grey or RGB without an "
                    "alpha channel"
                )
            if channels == 1 and file.mode in COLOUR and has_colour(file):
                raise ConcertError(f"{path} has colours, the model takes grey images: convert it")
            picture = file.convert({1: "L", 3: "RGB"}.get(channels, "RGB"))
    except FileNotFoundError:
        raise ConcertError(f"no such file: {path}") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ConcertError(f"cannot read {path} as an image: {error}") from None
    if picture.size != (width, height):
        if not resize:
            raise ConcertError(
                f"{path} is {picture.size[0]} x {picture.size[1]}, the model takes {width} x "
                f"{height}: resize it, or pass --resize"
            )
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(pixels).copy()).permute(2, 0, 1)[None]


def has_colour(image: Image.Image) -> bool:
    """Whether any pixel of a colour image is not grey."""
    channels = np.asarray(image.convert("RGB"))
    return bool((channels != channels[..., :1]).any())


def _import_from_here() -> None:
    """Let import paths name modules in the working folder, as `python -m` would."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _load(
    options: Any, deployed: bool = True, device: torch.device | None = None
) -> SmoothedClassifier:
    sampling = SamplingSettings(options.batch_size, options.vote_margin, options.workers)
    if options.trust:
        _import_from_here()
    chosen = options.accelerator
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return load(options.run, options.trust, device or chosen, sampling, deployed)
    except (RuntimeError, AssertionError) as error:
        raise ConcertError(
            f"cannot use accelerator '{options.accelerator}': {str(error).splitlines()[0]}"
        ) from None


def _data_of(run: Path, trained_on: str, given: Any) -> DataSettings:
    """The data of the flags; what they leave out is that of the training run."""
    trained: dict[str, Any] = {}
    if given.name in ("", trained_on):
        with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError):
            trained = dict(yaml.safe_load((run / "config.yaml").read_text())["data"])
    path = given.path or trained.get("path")
    return DataSettings(
        given.name or trained_on,
        None if path is None else Path(path),
        size=given.size or trained.get("size"),
    )

"""`concert export RUN --engine NAME`: deploy a trained network with a faster engine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch

from concert.checks import check_images
from concert.commands.loading import load_run, trust_flag
from concert.console import make_console
from concert.data import load_images, subset_indices
from concert.engines.choice import check_engine
from concert.engines.export import export_engine
from concert.errors import ConcertError
from concert.parsers import COMMANDS, Parser, data_flags, sampling_flags
from concert.runs import data_of, model_folder, read_description
from concert.streams import Domain, keyed_generator


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert export", description=COMMANDS["export"])
    made.add_argument("run", type=Path, help="run or model folder")
    made.add_argument(
        "--engine",
        type=str,
        required=True,
        help="torch, torch-compile, onnxruntime, openvino, onnxruntime-int8 or openvino-int8",
    )
    data_flags(made, "the training data")
    made.add_argument(
        "--images", type=int, default=512, help="noisy training images to calibrate and compare on"
    )
    made.add_argument("--seed", type=int, default=0, help="of the choice of images and the noise")
    sampling_flags(made)
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert export RUN --engine NAME`"""
    # Checked first: loading and sampling images takes a while.
    check_engine(options.engine)
    if options.images < 1:
        raise ConcertError(f"--images must be at least 1, got {options.images}")
    description, weights = read_description(options.run)
    # The engine deployed so far may be the very one that is to be replaced.
    smoothed = load_run(options, deployed=False)
    data = data_of(options.run, description.data, options.data)
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
            + (
                "hold for both networks, as far as these images show"
                if covered
                else "hold for the one that made them only"
            )
        )
    if result.choice.precision == "int8":
        console.print("an int8 network is another classifier: certify it anew")
    log = options.run / f"certify-{options.engine}.tsv"
    console.print(
        f"next: concert certify {shlex.quote(str(options.run))}{trust_flag(description)} "
        f"--log {shlex.quote(str(log))}"
    )
    return 0

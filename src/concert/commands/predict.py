"""`concert predict RUN IMAGE...`: image files under the smoothed classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from concert.checks import check_prediction
from concert.commands.loading import load_run
from concert.console import make_console
from concert.data.decode import COLOUR, GREY
from concert.errors import ConcertError
from concert.parsers import COMMANDS, Parser, sampling_flags
from concert.records.record import ABSTAIN
from concert.runs import read_description
from concert.smoothing import decide


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert predict", description=COMMANDS["predict"])
    made.add_argument("run", type=Path, help="run or model folder")
    made.add_argument("images", type=Path, nargs="+", help="image files")
    made.add_argument("--n", type=int, default=1000, help="draws per image")
    made.add_argument("--alpha", type=float, default=0.001, help="error probability per image")
    made.add_argument(
        "--seed", type=int | None, default=None, help="default: fresh noise that nobody can foresee"
    )
    made.add_argument("--resize", action="store_true", help="resize images that have another size")
    sampling_flags(made)
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert predict RUN IMAGE...`"""
    description, _ = read_description(options.run)
    smoothed = load_run(options)
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
            # A camera notes how it was held; the pixels themselves are not turned.
            upright = ImageOps.exif_transpose(file)
            picture = upright.convert({1: "L", 3: "RGB"}.get(channels, "RGB"))
    except FileNotFoundError:
        raise ConcertError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ConcertError(f"{path} is a folder: give the image files in it") from None
    except ConcertError:
        raise
    # The library raises whatever its readers meet: OSError, ValueError, errors of its own.
    except Exception as error:
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


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image file, as the camera was held."""
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file).size


def has_colour(image: Image.Image) -> bool:
    """Whether any pixel of a colour image is not grey."""
    channels = np.asarray(image.convert("RGB"))
    return bool((channels != channels[..., :1]).any())

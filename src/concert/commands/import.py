"""`concert import CHECKPOINT --out DIR`: a published or own classifier becomes a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from concert.commands.loading import trust_flag
from concert.commands.logged_images import AT_HAND
from concert.console import make_console
from concert.data.known import KNOWN
from concert.foreign.importing import ImportSettings, import_checkpoint
from concert.foreign.weights import Normalization
from concert.import_paths import import_from_here
from concert.parsers import COMMANDS, Parser


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert import", description=COMMANDS["import"])
    made.add_argument("checkpoint", type=Path, help="file of torch.save, or .safetensors")
    made.add_argument("--out", type=Path, required=True, help="run folder to write")
    made.add_argument(
        "--sigma", type=float, required=True, help="of the isotropic noise that it was trained with"
    )
    made.add_argument(
        "--grid", type=int | None, default=None, help="255: noise on the grid of 8-bit images"
    )
    made.add_argument(
        "--normalization",
        type=Normalization | None,
        default=None,
        help="standard (mean and std: Cohen), center (mean only: most of SmoothAdv) or none",
    )
    made.add_argument(
        "--mean",
        type=list[float] | float | None,
        default=None,
        help="of another normalisation, [a,b,c], one of each channel; 0 beside --std alone",
    )
    made.add_argument(
        "--std",
        type=list[float] | float | None,
        default=None,
        help="as mean; 1 beside --mean alone",
    )
    made.add_argument(
        "--data.name",
        type=str | None,
        default=None,
        help="mnist, cifar10, imagenet or any name; default: what the network is published for",
    )
    made.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    made.add_argument(
        "--input_size", "--input-size", type=int | None, default=None, help="height and width"
    )
    made.add_argument(
        "--channels", type=int | None, default=None, help="of images of another data set"
    )
    made.add_argument(
        "--num_classes", "--num-classes", type=int | None, default=None, help="of another data set"
    )
    made.add_argument(
        "--classifier.name",
        type=str | None,
        default=None,
        help="import path of any torch module; default: one of ours, told by the tensors",
    )
    made.add_argument(
        "--classifier.init_args", type=dict[str, Any], default={}, help="of that module"
    )
    made.add_argument(
        "--method", type=str, default="imported", help="how tables call it, such as SmoothAdv"
    )
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert import CHECKPOINT --out DIR`"""
    import_from_here()
    settings = ImportSettings(
        sigma=options.sigma,
        grid=options.grid,
        data=options.data.name,
        data_path=options.data.path,
        classifier=options.classifier.name,
        init_args=options.classifier.init_args,
        normalization=options.normalization,
        mean=per_channel(options.mean),
        std=per_channel(options.std),
        input_size=options.input_size,
        channels=options.channels,
        num_classes=options.num_classes,
        method=options.method,
    )
    made = import_checkpoint(options.checkpoint, options.out, settings)
    channels, height, width = made.shape
    mean, std = made.classifier["mean"], made.classifier["std"]
    normalised = f"normalised by mean {mean} and std {std}" if mean else "not normalised"
    console = make_console()
    console.print(
        f"imported: {options.out}, {made.classifier['name']} for {channels}x{height}x{width} "
        f"images of {made.num_classes} classes, {normalised}, sigma {options.sigma:g}"
    )
    more = trust_flag(made)
    if made.data not in KNOWN and options.data.path is None:
        more += " --data.path FOLDER"
    console.print(f"next: concert certify {shlex.quote(str(options.out))}{more}")
    if options.data.path is None and made.data in KNOWN and made.data != AT_HAND:
        console.print(f"--data.path FOLDER where {made.data} is; else it is downloaded")
    return 0


def per_channel(given: list[float] | float | None) -> list[float] | None:
    """One number is that of a grey image's only channel."""
    return [float(given)] if isinstance(given, int | float) else given

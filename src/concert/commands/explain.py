"""`concert explain RUN IMAGE...`: a picture per image of its certificate and what it rests on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from concert.certification.procedure import Procedure
from concert.commands.loading import load_run
from concert.commands.predict import read_image, size_of
from concert.console import make_console
from concert.errors import ConcertError
from concert.parsers import CERTIFICATES, COMMANDS, Parser, sampling_flags
from concert.runs import read_description


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert explain", description=COMMANDS["explain"])
    made.add_argument("run", type=Path, help="run or model folder")
    made.add_argument("images", type=Path, nargs="+", help="image files")
    made.add_argument(
        "--out", type=Path, default=Path("explained"), help="folder for a PNG and an SVG per image"
    )
    made.add_argument("--n", type=int, default=10_000, help="certifying draws per image")
    made.add_argument("--n0", type=int, default=100, help="selection draws per image")
    made.add_argument("--alpha", type=float, default=0.001, help="error probability per image")
    made.add_argument("--seed", type=int, default=0, help="seed of the noise")
    made.add_argument("--certificate", type=str, default="auto", help=CERTIFICATES)
    made.add_argument("--stopping", type=str, default="full", help="as for certify")
    made.add_argument(
        "--n_select", type=int, default=2000, help="generator passes for the queried ellipsoid"
    )
    made.add_argument(
        "--colorizer",
        type=str,
        default="",
        help="compact, siggraph17, eccv16, a file of their weights, or an import path (--trust); "
        "default: that of the run",
    )
    made.add_argument(
        "--colorizer_args",
        type=dict[str, Any] | None,
        default=None,
        help="mask_center of siggraph17, or the arguments of your own class",
    )
    made.add_argument("--resize", action="store_true", help="resize images that have another size")
    sampling_flags(made)
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert explain RUN IMAGE...`"""
    from concert.evaluation.explain.explain import explain
    from concert.evaluation.explain.figure import explanation_figure, rendered
    from concert.evaluation.explain.run_colorizer import colorizer_of
    from concert.files import write_atomically

    description, _ = read_description(options.run)
    procedure = Procedure(
        options.n0,
        options.n,
        options.alpha,
        options.seed,
        options.certificate,
        options.stopping,
        options.n_select,
    )
    smoothed = load_run(options)
    procedure.check(smoothed.noise)
    names = _file_names(options.images)
    targets = [[options.out / f"{name}.{kind}" for kind in ("png", "svg")] for name in names]
    check_targets(options.images, targets)
    colorizer, colorizer_name = colorizer_of(
        options.run, options.colorizer, options.colorizer_args, options.trust
    )
    images = [read_image(path, description.shape, options.resize)[0] for path in options.images]
    console = make_console()
    for index, (path, image, files) in enumerate(zip(options.images, images, targets, strict=True)):
        explanation = explain(smoothed, image, description.class_names, colorizer, procedure, index)
        explanation = replace(explanation, colorizer_name=Path(colorizer_name).name)
        figure = explanation_figure(explanation)
        write_atomically(files[0], rendered(figure, "png"))
        write_atomically(files[1], rendered(figure, "svg"))
        console.print(f"{path}: {explanation.sentence}")
        if options.resize and size_of(path) != image.shape[:0:-1]:
            width, height = image.shape[:0:-1]
            console.print(f"  resized to {width} x {height}: the statement is about that image")
        console.print(f"  written: {', '.join(map(str, files))}")
    return 0


def check_targets(images: Sequence[Path], targets: Sequence[Sequence[Path]]) -> None:
    """Refuse to write an explanation over an image that is given."""
    given = {path.resolve() for path in images}
    for target in itertools.chain.from_iterable(targets):
        if target.resolve() in given:
            raise ConcertError(
                f"{target} is one of the images and would be overwritten: give another --out"
            )


def _file_names(paths: list[Path]) -> list[str]:
    """A name per image file: its own, or with a number before it where two have the same."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}-{stem}" for number, stem in enumerate(stems, start=1)]

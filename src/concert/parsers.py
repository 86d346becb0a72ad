"""What each command takes: parsers of arguments whose errors are one line.

The settings of `train` come from the dataclasses of a recipe: defaults, then its YAML, then flags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse._actions import ActionConfigFile

from concert.config import Recipe
from concert.errors import ConcertError, nearest

COMMANDS: Final = {
    "train": "train a recipe, or go on with an interrupted run",
    "certify": "certify the images of a data set into a log; resumes",
    "predict": "predict image files with the smoothed classifier",
    "export": "deploy a trained network with a faster engine",
    "audit": "try to break the certificates of a log; resumes",
    "report": "tables and a figure from certification logs",
    "demo": "train, certify and compare on digits, in a few minutes",
}


CERTIFICATES: Final = (
    "auto, isotropic, isotropic-grid, static, queried, queried-ball, frozen, algorithm2 or "
    "lipschitz; which depends on the noise"
)


@dataclass(frozen=True)
class SamplingFlags:
    """How draws are made.

    Args:
        accelerator: auto, cpu, cuda or another torch device with float64.
        batch_size: draws per forward pass, a multiple of 16; 0 chooses by image size.
        vote_margin: a certificate counts a draw only if its two largest logits differ by this.
        workers: sampling threads; 0 chooses.
    """

    accelerator: str = "auto"
    batch_size: int = 0
    vote_margin: float = 1e-4
    workers: int = 0


class Parser(ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConcertError(_one_line(message, self))


def _one_line(message: str, parser: ArgumentParser) -> str:
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    unknown = re.search(r"[Uu]nrecognized arguments: (--\S+?)(?:[= ]|$)", text)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        return (
            nearest("option", unknown[1], [f for f in flags if f.startswith("--")]).split(" Valid")[
                0
            ]
            + f" See `{parser.prog} --help`"
        )
    key = re.search(r"Group '([\w.]*)' does not accept option '([\w.]+)'", text)
    if key:
        path = f"{key[1]}.{key[2]}".strip(".")
        names = [action.dest for action in parser._actions]
        close = get_close_matches(path, names, n=1)
        hint = f": did you mean '{close[0]}'?" if close else ""
        return f"unknown setting '{path}'{hint} See `{parser.prog} --help`"
    return f"{text} (see `{parser.prog} --help`)"


def _train_parser() -> Parser:
    parser = Parser(prog="concert train", description=COMMANDS["train"])
    parser.usage = "concert train CONFIG [--out DIR] [--data.path DIR] [--SETTING VALUE ...]"
    parser.add_argument(
        "--config", action=ActionConfigFile, help="recipe (YAML), also the first argument"
    )
    parser.add_argument(
        "--out", type=Path | None, default=None, help="run folder (default runs/DATA/RECIPE)"
    )
    parser.add_class_arguments(Recipe, None)
    return parser


def _data_flags(parser: Parser, default: str) -> None:
    parser.add_argument("--data.name", type=str, default="", help=f"default: {default}")
    parser.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    parser.add_argument(
        "--data.size", type=int | None, default=None, help="resize and crop to this"
    )


def _sampling_flags(parser: Parser) -> None:
    parser.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    parser.add_class_arguments(SamplingFlags, None)


def _certify_parser() -> Parser:
    parser = Parser(prog="concert certify", description=COMMANDS["certify"])
    parser.add_argument("run", type=Path, help="run or model folder")
    _data_flags(parser, "the training data")
    parser.add_argument("--split", type=str, default="test", help="train or test")
    parser.add_argument(
        "--subset", type=str, default="all", help="all, first:N, every:K or random:N:SEED"
    )
    parser.add_argument("--n0", type=int, default=100, help="selection draws per image")
    parser.add_argument("--n", type=int, default=100_000, help="certifying draws per image")
    parser.add_argument("--alpha", type=float, default=0.001, help="error probability per image")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--certificate", type=str, default="auto", help=CERTIFICATES)
    parser.add_argument(
        "--stopping", type=str, default="full", help="full, relative:EPS or grid:R,R,..."
    )
    parser.add_argument(
        "--n_select", type=int, default=2000, help="generator passes for the queried ellipsoid"
    )
    parser.add_argument("--log", type=Path | None, default=None, help="default RUN/certify-nN.tsv")
    parser.add_argument(
        "--devices", type=int, default=1, help="processes on this machine, which share the images"
    )
    parser.add_argument(
        "--num_nodes", "--num-nodes", type=int, default=1, help="machines, each with that many"
    )
    _sampling_flags(parser)
    return parser


def _predict_parser() -> Parser:
    parser = Parser(prog="concert predict", description=COMMANDS["predict"])
    parser.add_argument("run", type=Path, help="run or model folder")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--n", type=int, default=1000, help="draws per image")
    parser.add_argument("--alpha", type=float, default=0.001, help="error probability per image")
    parser.add_argument(
        "--seed", type=int | None, default=None, help="default: fresh noise that nobody can foresee"
    )
    parser.add_argument(
        "--resize", action="store_true", help="resize images that have another size"
    )
    _sampling_flags(parser)
    return parser


def _export_parser() -> Parser:
    parser = Parser(prog="concert export", description=COMMANDS["export"])
    parser.add_argument("run", type=Path, help="run or model folder")
    parser.add_argument(
        "--engine",
        type=str,
        required=True,
        help="torch, torch-compile, onnxruntime, openvino, onnxruntime-int8 or openvino-int8",
    )
    _data_flags(parser, "the training data")
    parser.add_argument(
        "--images", type=int, default=512, help="noisy training images to calibrate and compare on"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and the noise")
    _sampling_flags(parser)
    return parser


def _audit_parser() -> Parser:
    parser = Parser(prog="concert audit", description=COMMANDS["audit"])
    parser.add_argument("run", type=Path, help="run or model folder")
    parser.add_argument(
        "--log", type=Path | None, default=None, help="default: the only certify*.tsv in RUN"
    )
    parser.add_argument("--images", type=int, default=50, help="first so many certified images")
    parser.add_argument("--starts", type=int, default=8, help="starting points of a search")
    parser.add_argument("--steps", type=int, default=20, help="gradient steps from each")
    parser.add_argument("--draws", type=int, default=32, help="noisy copies per gradient")
    parser.add_argument("--n0", type=int, default=500, help="draws that choose a candidate")
    parser.add_argument("--n", type=int, default=10_000, help="fresh draws that test it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the audit's own noise")
    _data_flags(parser, "the log's data")
    parser.add_argument("--out", type=Path | None, default=None, help="default RUN/audit-LOG")
    _sampling_flags(parser)
    return parser


def _report_parser() -> Parser:
    parser = Parser(prog="concert report", description=COMMANDS["report"])
    parser.add_argument("logs", type=Path, nargs="+", help="certification logs (TSV)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write")
    return parser


def _demo_parser() -> Parser:
    parser = Parser(prog="concert demo", description=COMMANDS["demo"])
    parser.add_argument("--out", type=Path, default=Path("concert-demo"), help="folder to write")
    parser.add_argument("--quick", action="store_true", help="a smoke test: less of everything")
    return parser


PARSERS: Final = {
    "train": _train_parser,
    "certify": _certify_parser,
    "predict": _predict_parser,
    "export": _export_parser,
    "audit": _audit_parser,
    "report": _report_parser,
    "demo": _demo_parser,
}

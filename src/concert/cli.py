"""The commands: train, certify, predict, audit, report, demo. No logic of its own.

Settings come from dataclasses: defaults, then the recipe's YAML, then flags. What the user got
wrong is one line on standard error and exit code 2; an interrupted run exits with 130 and goes on
when the same command is given again.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse._actions import ActionConfigFile

from concert.config import Recipe
from concert.errors import INTERRUPTED, ConcertError, nearest

COMMANDS: Final = {
    "train": "train a recipe, or go on with an interrupted run",
    "certify": "certify the images of a data set into a log; resumes",
    "predict": "predict image files with the smoothed classifier",
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
        vote_margin: a draw votes only if its two largest logits differ by at least this.
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    for noisy in (
        "matplotlib",
        "urllib3",
        "httpx",
        "fsspec",
        "filelock",
        "PIL",
        "lightning_fabric",
        "huggingface_hub",
        "datasets",
    ):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric|torch.*|jsonargparse.*")
    try:
        return _dispatch(argv)
    except ConcertError as error:
        if debug:
            raise
        print(f"concert: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        if debug:
            raise
        print(f"concert: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("concert: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"concert {version('concert-smoothing')}")
        return 0
    if argv[0] not in COMMANDS:
        raise ConcertError(nearest("command", argv[0], COMMANDS))
    # Imported here, so that --help does not wait for torch.
    from concert import commands

    parser = PARSERS[argv[0]]()
    rest = argv[1:]
    if argv[0] == "train":
        rest = _config_flag(rest)
    options = parser.instantiate(parser.parse_args(rest))
    return int(getattr(commands, argv[0])(options, argv))


def _usage() -> str:
    lines = [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: concert COMMAND [options]    (concert COMMAND --help, concert --version)",
            "",
            "Certified robustness of image classifiers by context-aware randomized smoothing.",
            "",
            *lines,
            "",
            "--debug with any command shows tracebacks and debug messages.",
        ]
    )


def _config_flag(argv: list[str]) -> list[str]:
    """`concert train CONFIG ...`: the first argument that is neither a flag nor a flag's value."""
    from concert.recipes import find_recipe, recipe_names

    if any(flag.split("=")[0] in ("-h", "--help", "--config") for flag in argv):
        return argv
    for position, argument in enumerate(argv):
        before = argv[position - 1] if position else ""
        is_value = before.startswith("--") and "=" not in before
        if not argument.startswith("-") and not is_value:
            file = str(find_recipe(argument))
            return ["--config", file, *argv[:position], *argv[position + 1 :]]
    raise ConcertError(
        f"concert train needs a recipe: a YAML file or one of {', '.join(recipe_names())}"
    )


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


def _certify_parser() -> Parser:
    parser = Parser(prog="concert certify", description=COMMANDS["certify"])
    parser.add_argument("run", type=Path, help="run or model folder")
    parser.add_argument("--data.name", type=str, default="", help="default: the training data")
    parser.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    parser.add_argument(
        "--data.size", type=int | None, default=None, help="resize and crop to this"
    )
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
    parser.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    parser.add_class_arguments(SamplingFlags, None)
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
    parser.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    parser.add_class_arguments(SamplingFlags, None)
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
    parser.add_argument("--data.name", type=str, default="", help="default: the log's data")
    parser.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    parser.add_argument(
        "--data.size", type=int | None, default=None, help="resize and crop to this"
    )
    parser.add_argument("--out", type=Path | None, default=None, help="default RUN/audit-LOG")
    parser.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    parser.add_class_arguments(SamplingFlags, None)
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
    "audit": _audit_parser,
    "report": _report_parser,
    "demo": _demo_parser,
}

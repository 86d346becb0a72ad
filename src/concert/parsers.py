"""What each command takes: parsers of arguments whose errors are one line.

The settings of `train` come from the dataclasses of a recipe: defaults, then its YAML, then flags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from jsonargparse import ArgumentParser

from concert.errors import ConcertError, closest, nearest

COMMANDS: Final = {
    "train": "train a recipe, or go on with an interrupted run",
    "certify": "certify the images of a data set into a log; resumes",
    "import": "make a run folder of a published or own checkpoint",
    "predict": "predict image files with the smoothed classifier",
    "explain": "a picture per image file: its maps, votes and certificate",
    "export": "deploy a trained network with a faster engine",
    "audit": "try to break the certificates of a log; resumes",
    "attack": "attacked images as a data set to certify; resumes",
    "report": "tables, figures and a page from certification logs",
    "compare": "train, certify, attack and report a set of recipes; resumes",
    "demo": "train, certify and compare on digits, in a few minutes",
}


CERTIFICATES: Final = (
    "auto, isotropic, isotropic-grid, banded, static, queried, queried-ball, frozen, algorithm2 or "
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
    text = re.sub(r"(?:a )?<class '([\w.]+)'>", r"\1", text)
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
        close = closest(path, names)
        hint = f": did you mean '{close}'?" if close else ""
        own = " A class of your own has its settings in objective.init_args."
        own = own if key[1] == "objective" else ""
        return f"unknown setting '{path}'{hint}{own} See `{parser.prog} --help`"
    return f"{text} (see `{parser.prog} --help`)"


def data_flags(parser: Parser, default: str) -> None:
    """Which data a command works on; `default` says which without these flags."""
    parser.add_argument("--data.name", type=str, default="", help=f"default: {default}")
    parser.add_argument("--data.path", type=Path | None, default=None, help="folder of the data")
    parser.add_argument(
        "--data.size", type=int | None, default=None, help="resize and crop to this"
    )


def sampling_flags(parser: Parser) -> None:
    """How draws are made, and whether the run's own code is trusted."""
    parser.add_argument("--trust", action="store_true", help="import the run's own classifier code")
    parser.add_class_arguments(SamplingFlags, None)

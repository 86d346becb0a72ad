"""The command-line tool: finds the command and turns errors into exit codes.

What the user got wrong is one line on standard error and exit code 2; an interrupted run exits with
130 and goes on when the same command is given again. A process that another one of ours has started
leaves with 0 when it stops early, because any other code has Lightning kill all of them at once.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from concert.errors import INTERRUPTED, ConcertError, TeamEndedError, nearest
from concert.parsers import COMMANDS
from concert.workers import is_worker


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    _quiet()
    warnings.filterwarnings("ignore", module="lightning_fabric|torch.*|jsonargparse.*")
    try:
        return _dispatch(argv)
    except ConcertError as error:
        if debug:
            raise
        if not (is_worker() and isinstance(error, TeamEndedError)):
            print(f"concert: error: {error}", file=sys.stderr)
        return 0 if is_worker() else 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        if debug:
            raise
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"concert: error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if is_worker():
            return 0
        print("concert: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


# Libraries that speak of their own affairs.
_CHATTY: Final = (
    "matplotlib",
    "urllib3",
    "httpx",
    "fsspec",
    "filelock",
    "PIL",
    "lightning_fabric",
    "huggingface_hub",
    "datasets",
)


def _quiet() -> None:
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


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
    command = import_module(f"concert.commands.{argv[0]}")
    _quiet()  # again: some set their own level when they are imported
    parser = command.parser()
    rest = argv[1:]
    if argv[0] == "train":
        rest = _config_flag(rest)
    options = parser.instantiate(parser.parse_args(rest))
    return int(command.run(options, argv))


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


# Flags of `concert train` without a value; that of --print_config follows a "=".
_SWITCHES: Final = ("--trust", "--print_config")


def _config_flag(argv: list[str]) -> list[str]:
    """`concert train CONFIG ...`: the first argument that is neither a flag nor a flag's value."""
    from concert.recipes.shipped import find_recipe, recipe_names

    if any(flag.split("=")[0] in ("-h", "--help", "--config") for flag in argv):
        return argv
    for position, argument in enumerate(argv):
        before = argv[position - 1] if position else ""
        is_value = before.startswith("--") and "=" not in before and before not in _SWITCHES
        if not argument.startswith("-") and not is_value:
            file = str(find_recipe(argument))
            return ["--config", file, *argv[:position], *argv[position + 1 :]]
    raise ConcertError(
        "concert train needs a recipe: a YAML file, or the name of one in configs/, such as "
        f"{recipe_names()[0]}"
    )

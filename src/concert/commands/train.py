"""`concert train CONFIG`: the settings come from a recipe: defaults, then its YAML, then flags."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from jsonargparse._actions import ActionConfigFile
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from concert.commands.loading import trust_flag
from concert.console import StopSignal, make_console
from concert.errors import INTERRUPTED
from concert.import_paths import import_from_here
from concert.memory import keep_large_blocks
from concert.parsers import COMMANDS, Parser
from concert.recipes.building import check_noise_settings
from concert.recipes.config import NoiseSettings, Recipe
from concert.runs import read_description
from concert.training.initial_weights import settle_classifier
from concert.training.loop import StepProgress, Watcher, train
from concert.training.run_claim import claim_folder
from concert.training.state import EpochMetrics

DEFAULT_NOISE: Final = asdict(NoiseSettings())


class RecipeParser(Parser):
    """Also tells which settings were asked for: `given` of its options, names such as noise.low."""

    def parse_args(self, args: Sequence[str] | None = None, **settings: Any) -> Any:  # type: ignore[override]
        options = super().parse_args(args, **settings)
        files = [Path(str(file)).read_text() for file in options.config or []]
        options.given = given_settings(sys.argv[1:] if args is None else args, files)
        return options


def given_settings(arguments: Sequence[str], files: Sequence[str]) -> set[str]:
    """The settings that flags, and of noise and classifier those that recipes (YAML), ask for.

    A recipe's noise settings are no request where a flag chooses another kind, nor where they are
    the defaults, which stand in the config.yaml of every run; nor are its settings of the
    classifier where a flag gives it an `init`.
    """
    given: set[str] = set()
    for argument, after in zip_longest(arguments, arguments[1:], fillvalue=""):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if name in ("noise", "classifier"):
            text = value if equals else after
            is_file = text.endswith((".yaml", ".yml", ".json"))
            given |= _names(name, Path(text).read_text() if is_file else text)
        else:
            given.add(".".join(name.split(".")[:2]))
    kind_by_flag = "noise.kind" in given
    for text in files:
        tree = yaml.safe_load(text) or {}
        if not kind_by_flag:
            noise = tree.get("noise") or {}
            changed = {name for name, value in noise.items() if value != DEFAULT_NOISE.get(name)}
            given |= {f"noise.{name}" for name in changed}
        if tree.get("init") is not None:
            given |= _names("classifier", tree.get("classifier"))
    return given


def _names(group: str, settings: Any) -> set[str]:
    tree = yaml.safe_load(settings) if isinstance(settings, str) else settings
    return {f"{group}.{name}" for name in tree} if isinstance(tree, Mapping) else set()


def _of_group(given: set[str], group: str) -> set[str]:
    """The names of one group without its prefix."""
    return {name.removeprefix(f"{group}.") for name in given if name.startswith(f"{group}.")}


def parser() -> Parser:
    """The command's arguments."""
    made = RecipeParser(prog="concert train", description=COMMANDS["train"])
    made.usage = "concert train CONFIG [--out DIR] [--data.path DIR] [--SETTING VALUE ...]"
    made.add_argument(
        "--config", action=ActionConfigFile, help="recipe (YAML), also the first argument"
    )
    made.add_argument(
        "--out", type=Path | None, default=None, help="run folder (default runs/DATA/RECIPE)"
    )
    made.add_argument(
        "--trust", action="store_true", help="import the classifier code that the run of init names"
    )
    made.add_class_arguments(Recipe, None)
    return made


def recipe_of(options: Any) -> Recipe:
    """The recipe that the command's options say, with the classifier of its `init`, if any."""
    recipe = Recipe(**{entry.name: getattr(options, entry.name) for entry in fields(Recipe)})
    return settle_classifier(recipe, _of_group(options.given, "classifier"), options.trust)


def run(options: Any, argv: list[str]) -> int:
    """`concert train CONFIG`"""
    recipe = recipe_of(options)
    import_from_here()
    name = Path(str(options.config[0])).stem if options.config else recipe.objective.name
    out = options.out or Path("runs") / recipe.data.name / name
    if not (out / "config.yaml").is_file():
        # Not for a run that is under way: it was begun with these settings.
        check_noise_settings(recipe.noise.kind, _of_group(options.given, "noise"))
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
    description, _ = read_description(out)
    console.print(f"next: concert certify {shlex.quote(str(out))}{trust_flag(description)}")
    return 0


class TrainingDisplay(Watcher):
    """A line per epoch, and on a terminal a progress bar."""

    def __init__(self, console: Console, stop: StopSignal) -> None:
        self.console, self.stop = console, stop
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps, {task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, epoch=0, epochs=0, speed=0.0)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def start(self, facts: dict[str, Any]) -> None:
        costs = facts["multiply_adds"]
        cost = f"classifier {costs['classifier'] / 1e6:.2f} M multiply-adds an image"
        if "generator" in costs:
            share = 100 * costs["generator"] / costs["classifier"]
            cost += f", generator {costs['generator'] / 1e6:.3f} M ({share:.1f} %)"
        self.console.print(
            f"{facts['images']:,} images, {facts['steps']} steps an epoch on {facts['device']}; "
            f"{cost}"
        )
        if facts["epoch"]:
            self.console.print(f"going on after epoch {facts['epoch']}")

    def step(self, progress: StepProgress) -> None:
        self.bar.update(
            self.task,
            completed=progress.step,
            total=progress.steps,
            epoch=progress.epoch + 1,
            epochs=progress.epochs,
            speed=progress.metrics.images_per_second,
        )

    def epoch(self, metrics: EpochMetrics) -> None:
        self.console.print(
            f"epoch {metrics.epoch + 1}: loss {metrics.loss:.4f} "
            f"(classification {metrics.classification:.4f}, robustness {metrics.robustness:.4f}, "
            f"penalty {metrics.penalty:.4f}), soft accuracy {metrics.soft_accuracy:.4f}, "
            f"sigma {metrics.sigma_min:.3f}/{metrics.sigma_mean:.3f}/{metrics.sigma_max:.3f}, "
            f"{metrics.images_per_second:.0f} images/s"
        )

    def should_stop(self) -> bool:
        return self.stop.asked


def train_with_display(recipe: Recipe, out: Path, console: Console) -> bool:
    """Train with progress on the console; False if it was interrupted."""
    keep_large_blocks()
    with StopSignal() as stop, TrainingDisplay(console, stop) as display:
        return train(recipe, out, display)

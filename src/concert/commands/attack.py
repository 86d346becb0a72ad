"""`concert attack RUN`: attacked images, as a data set that `concert certify` takes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from concert.attacks.cadv import check_hints
from concert.attacks.run import AttackProgress, StepProgress, attack_data
from concert.attacks.settings import AttackSettings, method_arguments
from concert.colorization import build_colorizer
from concert.colorization.published import RELEASES
from concert.commands.loading import load_run, trust_flag
from concert.console import LiveRow, StopSignal, clock, make_console
from concert.data import load_images
from concert.import_paths import import_from_here
from concert.memory import keep_large_blocks
from concert.parsers import COMMANDS, Parser, data_flags, sampling_flags
from concert.runs import data_of, read_description

# Arguments of the attacks' functions as flags. Without them the preset and the defaults hold.
ARGUMENTS: Final[dict[str, tuple[Any, str]]] = {
    "against": (str, "base (cadv's default), smoothed (frozen sigma map) or deployed"),
    "steps": (int, "gradient steps"),
    "draws": (int, "noisy copies per gradient"),
    "lr": (float, "cadv, shadow: learning rate"),
    "epsilon": (float, "pgd: radius of the ball"),
    "norm": (str, "pgd: l2 or linf"),
    "step_size": (float, "pgd: default 2 * epsilon / steps"),
    "fresh": (bool, "pgd: new draws at every step"),
    "lambda_tv": (float, "shadow: weight of the total variation"),
    "lambda_c": (float, "shadow: weight of the mean colour"),
    "lambda_s": (float, "shadow: weight of the dissimilarity of channels"),
    "channels": (int, "shadow: 1 (all channels alike) or 3"),
    "sigma": (float, "shadow: isotropic noise of the attacker's own"),
    "clusters": (int, "cadv: clusters of colours"),
    "chosen": (int, "cadv: clusters that get hints"),
    "choice": (str, "cadv: clusters of lowest or highest mean entropy"),
    "space": (str, "cadv: clusters in ab or lab"),
    "restarts": (int, "cadv: starts of the clustering, of which the best counts"),
    "hints": (int, "cadv: pixels whose colour is given at first"),
    "precision": (str, "of the gradients: 32-true or bf16-mixed"),
    "success_draws": (int, "draws that decide whether the attack succeeded"),
}


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert attack", description=COMMANDS["attack"])
    made.add_argument("run", type=Path, help="run or model folder")
    made.add_argument("--method", type=str, required=True, help="cadv, pgd or shadow")
    made.add_argument(
        "--preset", type=str, default="reference", help="reference (as published) or fast"
    )
    made.add_argument(
        "--targets", type=str, default="none", help="none, random, a class, or for shadow spoof"
    )
    data_flags(made, "the training data")
    made.add_argument("--split", type=str, default="test", help="train or test")
    made.add_argument(
        "--subset", type=str, default="first:100", help="all, first:N, every:K or random:N:SEED"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of all that is drawn")
    for name, (kind, text) in ARGUMENTS.items():
        made.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    made.add_argument(
        "--colorizer",
        type=str | None,
        default=None,
        help="cadv: compact, siggraph17, a weights file or an import path",
    )
    made.add_argument(
        "--colorizer_args",
        type=dict[str, Any] | None,
        default=None,
        help="mask_center of a file of siggraph17: 0.5 for the weights that the released cAdv uses "
        "(pytorch.pth), 0 for those that are downloaded; or your module's own arguments",
    )
    made.add_argument("--images_per_batch", type=int, default=0, help="images at a time; 0 chooses")
    made.add_argument("--out", type=Path | None, default=None, help="default RUN/attack-METHOD")
    sampling_flags(made)
    return made


def settings_of(options: Any) -> AttackSettings:
    """The attack that the flags ask for; ConcertError where there is none."""
    given = {name: getattr(options, name) for name in ARGUMENTS}
    given = {name: value for name, value in given.items() if value is not None}
    if options.colorizer is not None or options.colorizer_args is not None:
        given["colorizer"] = options.colorizer or "compact"
    arguments = method_arguments(options.method, options.preset, given)
    if options.trust:
        import_from_here()
    if "colorizer" in arguments:
        name = arguments["colorizer"] or "compact"
        if name in RELEASES:  # before it is downloaded
            check_hints(RELEASES[name].network)
        arguments["colorizer"] = build_colorizer(name, options.colorizer_args, options.trust)
    return AttackSettings(
        options.method,
        arguments,
        options.targets,
        options.split,
        options.subset,
        options.seed,
        options.images_per_batch,
    )


def run(options: Any, argv: list[str]) -> int:
    """`concert attack RUN`"""
    settings = settings_of(options)
    description, _ = read_description(options.run)
    data = data_of(options.run, description.data, options.data)
    out = options.out or options.run / f"attack-{options.method}"
    smoothed, console = load_run(options), make_console()
    if "colorizer" in settings.arguments:
        settings.arguments["colorizer"].to(smoothed.sampler(description.shape).device)
    keep_large_blocks()
    images = load_images(data.name, options.split, data.path, data.size)
    command = f"concert {shlex.join(argv)}"
    with StopSignal() as stop, AttackDisplay(console, stop) as display:
        summary = attack_data(
            smoothed,
            images,
            settings,
            out,
            display,
            command,
            display.step,
            description.classifier,
        )
    console.print(
        f"{summary['images']} images, {summary['clean_correct']} right before the attack; it "
        f"succeeded on {summary['succeeded']} ({summary['succeeded_8bit']} after rounding to 8 "
        f"bits), {summary['succeeded_of_clean_correct']} of them right before"
    )
    console.print("l2 quartiles: " + ", ".join(f"{q:.2f}" for q in summary["l2_quartiles"]))
    console.print(f"attack: {out}")
    split = "" if options.split == "test" else f" --split {options.split}"
    name = "" if data.name == description.data else f" --data.name {shlex.quote(data.name)}"
    flags = f"{name}{trust_flag(description)}"
    console.print(
        f"next: concert certify {shlex.quote(str(options.run))}{flags} --data.path "
        f"{shlex.quote(str(out))}{split} --log {shlex.quote(str(out / 'certify.tsv'))}"
    )
    return 0


class AttackDisplay(LiveRow):
    """The live table of an attack: done, succeeded, mean norm, time left."""

    title = "attacking (figures of this part of the run)"

    def __init__(self, console: Console, stop: StopSignal) -> None:
        super().__init__(console, stop)
        self.images = self.succeeded = 0
        self.norms = self.seconds = 0.0
        self.row: list[tuple[str, str]] = []

    def step(self, progress: StepProgress) -> None:
        """Show how far the batch under way is, and let a stop take hold."""
        row = self.row or [("done", f"{progress.done}/{progress.total}")]
        # Half of the steps of four images counts as two images.
        share = progress.images * progress.step / progress.steps
        left = self._time_left(
            progress.total - progress.done - share, self.images + share, progress.seconds
        )
        self.show([*row, ("step", f"{progress.step}/{progress.steps}"), left], finished=False)

    def __call__(self, progress: AttackProgress) -> None:
        self.images += len(progress.result.success)
        self.succeeded += int(progress.result.success.sum())
        self.norms += float(progress.result.l2.sum())
        self.seconds += progress.seconds
        self.row = [
            ("done", f"{progress.done}/{progress.total}"),
            ("succeeded", f"{self.succeeded}"),
            ("mean l2", f"{self.norms / self.images:.2f}"),
            ("seconds per image", f"{self.seconds / self.images:.2f}"),
        ]
        left = self._time_left(progress.total - progress.done, self.images)
        self.show([*self.row, left], progress.done == progress.total)

    def _time_left(self, todo: float, images: float, seconds: float = 0.0) -> tuple[str, str]:
        """For `todo` images, if all batches so far and `seconds` made `images` of them."""
        return "time left", clock(todo * (self.seconds + seconds) / images)

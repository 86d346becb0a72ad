"""`concert certify RUN`: the images of a data set into a log."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from concert.certificates import Guarantee
from concert.certification.stopping import staging_loss
from concert.commands.loading import load_run
from concert.commands.untrained import untrained_hint
from concert.console import LiveRow, StopSignal, clock, make_console
from concert.data import ImageSet, load_images
from concert.evaluation.certify import CertifyProgress, CertifySettings, certify_data, check_run
from concert.evaluation.collapse import ENOUGH, collapsed
from concert.evaluation.metrics import (
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    percentage,
)
from concert.evaluation.rendering import rounded_down, rounded_up
from concert.memory import keep_large_blocks
from concert.parsers import CERTIFICATES, COMMANDS, Parser, data_flags, sampling_flags
from concert.recipes.config import DataSettings
from concert.records.reading import LoadedLog, read_log
from concert.runs import data_of, read_description
from concert.smoothing import SmoothedClassifier
from concert.team import Team, launch, team_fabric


def parser() -> Parser:
    """The command's arguments."""
    made = Parser(prog="concert certify", description=COMMANDS["certify"])
    made.add_argument("run", type=Path, help="run or model folder")
    data_flags(made, "the training data")
    made.add_argument("--split", type=str, default="test", help="train or test")
    made.add_argument(
        "--subset", type=str, default="all", help="all, first:N, every:K or random:N:SEED"
    )
    made.add_argument("--n0", type=int, default=100, help="selection draws per image")
    made.add_argument("--n", type=int, default=100_000, help="certifying draws per image")
    made.add_argument("--alpha", type=float, default=0.001, help="error probability per image")
    made.add_argument("--seed", type=int, default=0, help="seed of the noise")
    made.add_argument("--certificate", type=str, default="auto", help=CERTIFICATES)
    made.add_argument(
        "--stopping", type=str, default="full", help="full, relative:EPS or grid:R,R,..."
    )
    made.add_argument(
        "--n_select", type=int, default=2000, help="generator passes for the queried ellipsoid"
    )
    made.add_argument("--log", type=Path | None, default=None, help="default RUN/certify-nN.tsv")
    made.add_argument(
        "--devices", type=int, default=1, help="processes on this machine, which share the images"
    )
    made.add_argument(
        "--num_nodes", "--num-nodes", type=int, default=1, help="machines, each with that many"
    )
    sampling_flags(made)
    return made


def run(options: Any, argv: list[str]) -> int:
    """`concert certify RUN`"""
    description, _ = read_description(options.run)
    data = data_of(options.run, description.data, options.data)
    names = (entry.name for entry in fields(CertifySettings))
    settings = CertifySettings(**{name: getattr(options, name) for name in names})
    log_path = options.log or options.run / f"certify-n{settings.n}.tsv"
    fabric = team_fabric(options.accelerator, options.devices, options.num_nodes)
    smoothed = load_run(options, device=None if fabric is None else fabric.device)
    images = load_images(data.name, settings.split, data.path, data.size)
    # Checked by one process, before there are others to make the same complaint.
    check_run(smoothed, description, images, settings)
    with launch(fabric) as team:
        console = make_console(quiet=team.rank > 0)
        command = f"concert {shlex.join(argv)}"
        stages = settings.rule.stages(settings.n, smoothed.sampler(description.shape).batch_size)
        if len(stages.sizes) > 1:
            loss = staging_loss(stages, settings.alpha)
            console.print(
                f"looking early costs an image that needs all draws at most {loss.unanimous:.2%} "
                f"of its radius where all votes agree, {loss.ninety:.2%} where 90 % do"
            )
        certify_with_display(
            smoothed, options.run, images, settings, log_path, console, command, team, data
        )
        if team.rank == 0:
            log = read_log(log_path)
            console.print(summary(log))
            if len(stages.sizes) > 1:
                used = log.frame["n_used"].mean() / settings.n
                console.print(f"draws used: {used:.1%} of n={settings.n} an image")
        console.print(f"log: {log_path}")
        console.print(f"next: concert report {shlex.quote(str(log_path))}")
    return 0


def summary(log: LoadedLog) -> str:
    """What a log says, in three lines: figures, certificate, guarantee."""
    frame, info = log.frame, log.run["info"]
    none = info["guarantee"] == Guarantee.NONE.value
    right, accuracy = "answered" if none else "certified", certified_accuracy(frame, [0.0])[0]
    return (
        f"{len(frame)} images of {info['data']}: {rounded_down(percentage(accuracy), 1)} % {right} "
        f"correctly, average certified radius {rounded_down(average_certified_radius(frame))}, "
        f"abstained {rounded_up(percentage(abstention_rate(frame)), 1)} %\n"
        f"certificate {log.run['identity']['certificate']}, guarantee {info['guarantee']}\n"
        f"{info['guarantee_sentence']}"
    )


class CertificationDisplay(LiveRow):
    """The live table of a certification: done, accuracy at 0, mean radius, draws/s, time left.

    `advice`: what to say if the first images, of which some got no class, were no use.
    """

    title = "certifying (figures of this part of the run)"

    def __init__(
        self, console: Console, stop: StopSignal, advice: Callable[[int, int], str] | None
    ) -> None:
        super().__init__(console, stop)
        self.advice = advice
        self.answers: list[int] = []
        self.labels: list[int] = []
        self.images = self.correct = self.abstained = self.draws = 0
        self.radii = self.seconds = 0.0

    def __call__(self, progress: CertifyProgress) -> None:
        certification = progress.certification
        right = certification.label == progress.true_label
        self.images += 1
        self.correct += right
        self.abstained += certification.label < 0
        self.radii += certification.radius * right
        self.draws += certification.n_used
        self.seconds += progress.seconds
        self.answers.append(certification.label)
        self.labels.append(progress.true_label)
        last = progress.done == progress.total
        judged = self.images == ENOUGH or (last and self.images < ENOUGH)
        if judged and self.advice is not None and collapsed(self.answers, self.labels):
            self.console.print(self.advice(self.images, self.abstained))
        self.show(self._row(progress), last)

    def _row(self, progress: CertifyProgress) -> list[tuple[str, str]]:
        left = (progress.total - progress.done) * self.seconds / self.images
        return [
            ("done", f"{progress.done}/{progress.total}"),
            ("accuracy at 0", rounded_down(self.correct / self.images)),
            ("mean radius", rounded_down(self.radii / self.images)),
            ("abstained", f"{self.abstained}"),
            ("draws/s", f"{self.draws / max(self.seconds, 1e-9):,.0f}"),
            ("time left", clock(left)),
        ]


def certify_with_display(
    smoothed: SmoothedClassifier,
    run: Path,
    images: ImageSet,
    settings: CertifySettings,
    log_path: Path,
    console: Console,
    command: str = "",
    team: Team | None = None,
    data: DataSettings | None = None,
) -> None:
    """Certify with a live table on the console; `data` says where the images are."""

    def advice(first: int, abstained: int) -> str:
        return untrained_hint(first, abstained, run, read_description(run)[0], data)

    keep_large_blocks()
    # Answers to attacked images are the attack's doing.
    judge = advice if images.attack is None else None
    with StopSignal() as stop, CertificationDisplay(console, stop, judge) as display:
        certify_data(smoothed, run, images, settings, log_path, display, command, team)

"""The steps of a comparison: what commands it takes, which of them are done, how long is left."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from concert.comparison.plan import Comparison, PlannedRun, attack_folder
from concert.comparison.products import (
    PREDICTION,
    VARIANCE,
    is_whole,
    read_notes,
    share_attacked,
    share_certified,
    share_trained,
)
from concert.evaluation.paper_appendix import WITH_MAPS


@dataclass
class Step:
    """One command of one run, or of an attack on it. `after` must be done first.

    began, seconds: of this part; seconds is None until the step has ended. done, done_at_start: the
    share of it that is done, by now and when this part began. output_at_start: bytes of its output
    that are of earlier parts. code: its exit code.
    """

    run: PlannedRun
    kind: str
    arguments: list[str]
    after: Step | None = None
    attack: str = ""
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    seconds: float | None = None
    done: float = 0.0
    done_at_start: float = 0.0
    output_at_start: int = 0
    code: int | None = None

    @property
    def name(self) -> str:
        return f"{self.run.name} {self.key}"

    @property
    def key(self) -> str:
        """What tells it from the other steps of its run."""
        return f"{self.kind}-{self.attack}" if self.attack else self.kind

    @property
    def folder(self) -> Path:
        """Where its product is."""
        return attack_folder(self.run, self.attack) if self.attack else self.run.folder

    @property
    def output(self) -> Path:
        return self.run.folder / f"{self.key}.log"

    @property
    def waits(self) -> bool:
        return self.process is None and self.code is None

    def done_before(self) -> bool:
        """Whether an earlier comparison did the very same, and what it made is still there."""
        noted = read_notes(self.run.folder).get(self.key) == self.arguments
        return noted and is_whole(self.folder, self.kind, self.run.folder)

    def fraction(self) -> float:
        """How much of the step is done, from what it has written."""
        if self.kind == "train":
            return share_trained(self.folder, self.run.recipe.training.epochs)
        shares = {"certify": share_certified, "attack": share_attacked}
        return shares[self.kind](self.folder) if self.kind in shares else 0.0


@dataclass
class Progress:
    """Where a comparison is: for a display, called now and then."""

    steps: list[Step]
    jobs: int

    def running(self) -> list[Step]:
        return [step for step in self.steps if step.process is not None and step.code is None]

    def seconds_left(self) -> tuple[float, bool]:
        """Estimated from the same steps of other runs; and whether that is all, or some step has
        begun for no run and is left out.
        """
        totals: dict[str, list[float]] = {}
        left, everything = 0.0, True
        for step in self.steps:
            if step.seconds is not None:
                # A step that went on from what an earlier process had done did a part of it only.
                whole = step.seconds / max(1.0 - step.done_at_start, 0.01)
                totals.setdefault(step.key, []).append(whole)
        for step in self.running():
            if step.done > step.done_at_start:
                pace = (time.monotonic() - step.began) / (step.done - step.done_at_start)
                totals.setdefault(step.key, []).append(pace)
                left += pace * (1 - step.done)
            else:
                everything = False
        for step in self.steps:
            if step.waits and step.key in totals:
                left += sum(totals[step.key]) / len(totals[step.key])
            everything = everything and not (step.waits and step.key not in totals)
        return left / self.jobs, everything


def steps_of(comparison: Comparison) -> list[Step]:
    """Training, certification and further measurements of every run, and then the attacks."""
    steps: list[Step] = []
    for run in comparison.runs:
        trained = Step(run, "train", ["-m", "concert", *run.train])
        certify = ["-m", "concert", *run.certify]
        steps += [trained, Step(run, "certify", certify, after=trained)]
        trust = ["--trust", "true"] if run.trust else []
        if run.recipe.noise.kind in WITH_MAPS:
            tool = ["-m", "concert.evaluation.prediction_time", str(run.folder), *trust]
            tool += ["--out", str(run.folder / PREDICTION)]
            steps.append(Step(run, "prediction", tool, after=trained))
        if run.gradient_variance:
            tool = ["-m", "concert.evaluation.gradient_variance", str(run.folder)]
            path = run.recipe.data.path
            tool += [] if path is None else ["--data.path", str(path)]
            tool += [*trust, "--out", str(run.folder / VARIANCE)]
            steps.append(Step(run, "variance", tool, after=trained))
    trainings = {step.run.name: step for step in steps if step.kind == "train"}
    for plan in comparison.attacks:
        for member in plan.members:
            attack, certify = (["-m", "concert", *each] for each in (member.attack, member.certify))
            trained = trainings[member.run.name]
            attacked = Step(member.run, "attack", attack, after=trained, attack=plan.name)
            certified = Step(member.run, "certify", certify, after=attacked, attack=plan.name)
            steps += [attacked, certified]
    return steps

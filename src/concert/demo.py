"""The demonstration: Cohen's baseline and Concert trained, certified and compared on digits."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from concert.colorization import load_colorizer
from concert.commands.certify import certify_with_display
from concert.commands.train import train_with_display
from concert.data import load_images
from concert.errors import INTERRUPTED
from concert.evaluation.certify import CertifySettings
from concert.evaluation.explain.entropy_figure import entropy_figure
from concert.evaluation.explain.figure import rendered
from concert.evaluation.explain.gallery import gallery
from concert.evaluation.page.page import PageExtras
from concert.evaluation.report import write_report
from concert.recipes.config import (
    DataSettings,
    NoiseSettings,
    ObjectiveSettings,
    Recipe,
    TrainingSettings,
)
from concert.records.reading import read_log
from concert.runs import load


def demo_recipes() -> dict[str, Recipe]:
    """The two recipes that are compared, both with sigma 0.25 as the radius' unit."""
    training = TrainingSettings(batch_size=64, lr=0.02, seed=1)
    return {
        "cohen": Recipe(
            DataSettings("digits"),
            noise=NoiseSettings(kind="isotropic", sigma=0.25),
            objective=ObjectiveSettings("gaussian", m=1),
            training=replace(training, epochs=40, milestones=[20, 32]),
        ),
        "concert": Recipe(
            DataSettings("digits"),
            noise=NoiseSettings(kind="queried", low=0.25, high=0.5, omega=0.6),
            objective=ObjectiveSettings("concert", m=4, start_epoch=16),
            training=replace(training, epochs=24, milestones=[12, 20], generator_lr_scale=10.0),
        ),
    }


def run_demo(out: Path, quick: bool, console: Console) -> int:
    """Train and certify both recipes under `out`, then print and write the comparison."""
    began = time.monotonic()
    settings = CertifySettings(subset="first:200", n=2_000)
    if quick:
        settings = replace(settings, subset="first:20", n=500)
    images = load_images("digits", settings.split)
    command = f"concert demo{' --quick' * quick} --out {out}"
    logs = []
    for name, recipe in demo_recipes().items():
        run = out / name
        if quick:
            recipe = shortened(recipe)
        console.rule(f"{name}: training on digits")
        if not train_with_display(recipe, run, console):
            console.print(f"stopped; `{command}` goes on from here")
            return INTERRUPTED
        console.rule(f"{name}: certifying held-out images")
        log_path = run / "certify.tsv"
        certify_with_display(load(run), run, images, settings, log_path, console, command)
        logs.append(read_log(log_path))
    console.rule("explaining")
    (out / "photographs.png").write_bytes(explained_photographs())
    console.print(f"{out / 'photographs.png'}: two photographs and how ambiguous their colours are")
    count = 1 if quick else 4
    extras = PageExtras(images, gallery(logs, images, count), command)
    files = write_report(logs, out / "report", extras=extras)
    console.rule("comparison")
    console.print((out / "report" / "table.txt").read_text(encoding="utf-8"))
    console.print(f"report: {out / 'report'} ({', '.join(file.name for file in files)})")
    console.print(
        f"\n{time.monotonic() - began:.0f} s. Radii are capped by the number of draws; more draws, "
        f"larger radii:\n  concert certify {out}/concert --subset first:50 --n 10000\n"
        "Real images:\n  concert train mnist/concert-0.25-cpu\n"
        "Your own images, in folders by class under DIR/train and DIR/test:\n"
        "  concert train mnist/concert-0.25-cpu --data.name mine --data.path DIR"
    )
    console.print(f"\nOpen in a browser: {out / 'report' / 'report.html'}")
    return 0


def explained_photographs() -> bytes:
    """A PNG of scikit-learn's two photographs with their entropy maps, by the compact colorizer."""
    # Imported here because it takes seconds.
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    photographs = [torch.tensor(image / 255.0).float().movedim(-1, 0) for image in samples.images]
    figure = entropy_figure(photographs, ["a temple in China", "a flower"], load_colorizer())
    return rendered(figure, "png", dpi=110)


def shortened(recipe: Recipe) -> Recipe:
    """A smoke test's version: two epochs of a few hundred images, everything else the same."""
    return replace(
        recipe,
        data=replace(recipe.data, subset="first:320"),
        objective=replace(
            recipe.objective, start_epoch=1 if recipe.objective.name == "concert" else None
        ),
        training=replace(recipe.training, epochs=2, milestones=[]),
    )

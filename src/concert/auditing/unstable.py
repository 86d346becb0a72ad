"""Tuning a generator against its own frozen certificate: what noise shaped by the image may hide.

    python -m concert.auditing.unstable RUN OUT [--subset first:32] [--data.path DIR] [...]

The classifier stays as trained, and the sigma maps of the clean images are held near where they
were, so that the frozen certificates change little. The generator learns maps for points *inside*
the certified regions that bring down the certified class, while the points move to where these maps
harm most. OUT is a run folder like any other: certify and audit it. The frozen certificate hardly
tells a generator that was tuned so from one that was not, and that is the point.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from concert.auditing.parts import Part, lengths, project, spread
from concert.auditing.search import starting_units
from concert.data import load_images, subset_indices
from concert.errors import ConcertError
from concert.files import write_atomically
from concert.memory import channels_last, keep_large_blocks
from concert.noise import GeneratedNoise
from concert.runs import GivenData, data_of, load, read_description, save_model
from concert.sampling.soft_votes import soft_margins
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, keyed_generator
from concert.tool import run_tool

# Points keep this distance from the boundary, in units of the region: the regions certified after
# the tuning are not exactly those before it.
INSIDE: Final = 0.9
POINT_STEP: Final = 0.1


@dataclass(frozen=True)
class Tuning:
    """How the generator is tuned.

    steps: of Adam with learning rate lr. draws: noisy copies of each point per step. anchor: weight
    of the mean squared change of the log-maps of clean images. n: draws that certify the images
    first. seed: of all.
    """

    steps: int = 400
    lr: float = 3e-3
    draws: int = 16
    anchor: float = 100.0
    n: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1 or not self.lr > 0 or not self.anchor >= 0:
            raise ConcertError(
                "steps and draws must be at least 1, lr positive and anchor not negative, got "
                f"steps={self.steps}, draws={self.draws}, lr={self.lr}, anchor={self.anchor}"
            )


def tune(
    smoothed: SmoothedClassifier, images: Tensor, labels: Tensor, tuning: Tuning
) -> dict[str, float]:
    """Tune the generator of `smoothed` in place on images (B, C, H, W); returns what became of it.

    Only images that are certified correctly count. Raises ConcertError where there are none, and
    for noise that is not shaped by the clean image.
    """
    if not isinstance(smoothed.noise, GeneratedNoise):
        raise ConcertError(
            f"only generated noise has a frozen certificate to tune against, not "
            f"{smoothed.noise.kind}"
        )
    # Draws that no certification with a small seed makes: what is tuned here must not be chosen by
    # the noise that certifies it later.
    fresh = keyed_generator(tuning.seed, Domain.ATTACK).initial_seed() % 2**63
    certified = smoothed.certify(images, n=tuning.n, certificate="frozen", seed=fresh)
    kept = [
        number
        for number, one in enumerate(certified)
        if one.radius > 0 and one.label == int(labels[number])
    ]
    if not kept:
        raise ConcertError("no image of the subset is certified correctly: choose a larger subset")
    x, y = images[kept], labels[kept]
    axes = torch.stack([_axes(certified[number].axes) for number in kept]).to(x) * INSIDE
    generator = smoothed.noise.eval().generator
    classifier = channels_last(smoothed.classifier.eval().requires_grad_(False))
    with torch.no_grad():
        anchor_maps = noise_maps(smoothed.noise, x).log()
    units = torch.stack(
        [starting_units(2, (*x.shape[1:],), tuning.seed, number)[1] for number in kept]
    )
    optimizer = torch.optim.Adam(generator.parameters(), lr=tuning.lr)
    for step in range(tuning.steps):
        noise = keyed_generator(tuning.seed, Domain.ATTACK, step)
        points = (x + axes * units).requires_grad_()
        margins = _margins(classifier, smoothed.noise, points, y, tuning.draws, noise)
        change = (noise_maps(smoothed.noise, x).log() - anchor_maps).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(tuning.anchor * change - margins.mean())
        optimizer.step()
        assert points.grad is not None
        # The loss falls where the margin grows.
        gradient = -axes * points.grad
        size = POINT_STEP / lengths(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
        with torch.no_grad():
            units = torch.stack(
                [
                    project(u[None], Part("ellipsoid", a), image, boxed=True)[0]
                    for u, a, image in zip(units + spread(size) * gradient, axes, x, strict=True)
                ]
            )
    return {
        "images": float(len(kept)),
        "margin": float(margins.detach().mean()),
        "change": float(change.detach().sqrt()),
        "fooled": float((margins > 0).double().mean()),
    }


def noise_maps(noise: GeneratedNoise, images: Tensor) -> Tensor:
    """The sigma maps (B, C, H, W) that the noise model makes of images, with their gradients."""
    maps = noise.prepare(images)
    assert maps is not None
    return maps


def _axes(axes: Tensor | None) -> Tensor:
    assert axes is not None
    return axes


def _margins(
    classifier: nn.Module,
    noise: GeneratedNoise,
    points: Tensor,
    labels: Tensor,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Best other class's soft share minus the label's at points (B, C, H, W), as deployed: (B,)."""
    copies, _ = noise.copies(points, draws, generator)
    shares = classifier(copies).softmax(dim=1).unflatten(0, (len(points), draws)).mean(dim=1)
    margins, _ = soft_margins(shares, labels)
    return margins


def main(
    run: Path,
    out: Path,
    data: GivenData | None = None,
    subset: str = "first:32",
    split: str = "test",
    tuning: Tuning = Tuning(),
) -> str:
    """Tune the generator of a run into the run folder `out`; what became of it, as JSON."""
    keep_large_blocks()
    if (out / "model").exists() or (out / "config.json").exists():
        raise ConcertError(f"{out} holds a model already: choose another folder")
    description, _ = read_description(run)
    own = data_of(run, description.data, data)
    chosen = load_images(own.name, split, own.path, own.size)
    indices: Sequence[int] = subset_indices(len(chosen), subset)
    smoothed = load(run)
    report = tune(smoothed, chosen.images(indices), chosen.labels[indices], tuning)
    save_model(out / "model", description, smoothed.classifier, smoothed.noise)
    source = {"run": str(run), "data": own.name, "split": split, "subset": subset}
    text = json.dumps(source | {"tuning": asdict(tuning)} | report, indent=2)
    write_atomically(out / "tuning.json", text + "\n")
    return text


if __name__ == "__main__":
    run_tool(main)

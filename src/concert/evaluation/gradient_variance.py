"""The variance of the gradient of the classification loss in its two forms (Eq. 12).

    python -m concert.evaluation.gradient_variance RUN [--data.path DIR] [--trust true] [--out FILE]

The paper moves the logarithm inside the mean over noisy copies because the gradient of
-log(mean f_y) has a large variance. Both forms are estimated on the same images and the same noise,
many times with fresh noise; what varies is the noise alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.data import load_images, subset_indices
from concert.errors import ConcertError
from concert.import_paths import import_from_here
from concert.noise import NoiseModel
from concert.objectives.base import log_soft_votes
from concert.runs import GivenData, data_of, load, read_description
from concert.streams import Domain, keyed_generator
from concert.tool import as_json, run_tool

FORMS: Final = ("mean_of_log", "log_of_mean")


@dataclass(frozen=True)
class GradientVariance:
    """Of one network's gradient, for one form of the loss and m copies of each image.

    variance: sum over parameters of the variance over repetitions. squared_mean: squared norm of
    the mean gradient, without the part that the variance adds to it. relative: their quotient.
    """

    network: str
    form: str
    m: int
    variance: float
    squared_mean: float
    relative: float


def classification_loss(logits: Tensor, labels: Tensor, form: str) -> Tensor:
    """The loss of logits (B, m, K) and labels (B,): -mean log f_y, or -log mean f_y."""
    log_scores = F.log_softmax(logits, dim=2)
    scores = log_scores.mean(dim=1) if form == "mean_of_log" else log_soft_votes(log_scores)
    return F.nll_loss(scores, labels)


def gradient_variance(
    classifier: nn.Module,
    noise: NoiseModel,
    images: Tensor,
    labels: Tensor,
    copies: Sequence[int] = (1, 4, 16),
    repetitions: int = 50,
    seed: int = 0,
) -> list[GradientVariance]:
    """Both forms' variances for the classifier's parameters and the generator's, if there are any.

    The networks are in evaluation mode: batch norm would make an image's gradient depend on others.
    """
    if repetitions < 2:
        raise ConcertError(f"repetitions must be at least 2, got {repetitions}")
    networks = {
        name: [parameter for parameter in module.parameters() if parameter.requires_grad]
        for name, module in (("classifier", classifier), ("generator", noise))
    }
    networks = {name: parameters for name, parameters in networks.items() if parameters}
    results = []
    for m in copies:
        moments: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for name, form, gradient in _gradients(
            classifier, noise, images, labels, networks, m, repetitions, seed
        ):
            first, second = moments.get((name, form), (torch.zeros_like(gradient),) * 2)
            moments[name, form] = (first + gradient, second + gradient**2)
        for (name, form), (first, second) in moments.items():
            mean = first / repetitions
            each = (second / repetitions - mean**2) * repetitions / (repetitions - 1)
            variance = float(each.sum())
            squared_mean = max(0.0, float((mean**2).sum()) - variance / repetitions)
            relative = variance / squared_mean if squared_mean else float("inf")
            results.append(GradientVariance(name, form, m, variance, squared_mean, relative))
    return results


def _gradients(
    classifier: nn.Module,
    noise: NoiseModel,
    images: Tensor,
    labels: Tensor,
    networks: dict[str, list[nn.Parameter]],
    m: int,
    repetitions: int,
    seed: int,
) -> Iterator[tuple[str, str, Tensor]]:
    """(network, form, flat gradient in float64) of every repetition."""
    for repetition in range(repetitions):
        draws = keyed_generator(seed, Domain.TRAIN, m, repetition, device=images.device)
        noisy, _ = noise.copies(images, m, draws)
        logits = classifier(noisy).float().unflatten(0, (len(images), m))
        for form in FORMS:
            loss = classification_loss(logits, labels, form)
            for name, parameters in networks.items():
                parts = torch.autograd.grad(loss, parameters, retain_graph=True)
                yield name, form, torch.cat([part.flatten().double() for part in parts])


def main(
    run: Path,
    data: GivenData | None = None,
    images: int = 32,
    repetitions: int = 50,
    trust: bool = False,
    out: Path | None = None,
) -> str:
    """The variances for the first training images of a run as JSON, also written to `out`.

    `data`: where the images are now, if not where they were. `trust`: import the run's own
    classifier code. Raises ConcertError for a run that cannot be loaded.
    """
    description, weights = read_description(run)
    own = data_of(run, description.data, data)
    if trust:
        import_from_here()
    smoothed = load(run, trust)
    loaded = load_images(own.name, "train", own.path, own.size)
    chosen = subset_indices(len(loaded), f"first:{images}")
    noise = smoothed.noise.deployed(differentiable=True).requires_grad_(True)
    classifier = smoothed.classifier.requires_grad_(True)
    found = gradient_variance(
        classifier, noise, loaded.images(chosen), loaded.labels[chosen], repetitions=repetitions
    )
    record = {
        "weights": weights,
        "data": own.name,
        "images": len(chosen),
        "repetitions": repetitions,
        "variances": [asdict(each) for each in found],
    }
    return as_json(record, out)


if __name__ == "__main__":
    run_tool(main)

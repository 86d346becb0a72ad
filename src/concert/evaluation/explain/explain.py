"""Everything there is to show about the certificate of one image.

from concert.evaluation.explain.explain import explain
from concert.evaluation.explain.figure import explanation_figure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from concert.certification.procedure import Procedure
from concert.colorization import entropy_map
from concert.errors import ConcertError
from concert.evaluation.correlation import sigma_maps
from concert.evaluation.words import sentence_of
from concert.records.record import ABSTAIN, Certification
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream

MAP_DRAWS: Final = 256


@dataclass(frozen=True)
class Explanation:
    """One image's certificate with what it rests on.

    image, noisy: the image and a noisy copy of it, (C, H, W). entropy: its entropy map in [0, 1],
    (H, W). sigma: its sigma map, mean over channels, and for queried noise over 256 queries,
    (H, W). noise: the kind of noise. true_class: the name of the true class, "" if unknown.
    colorizer_name: of the colorizer that the entropy map is from, "" if unknown.
    """

    image: Tensor
    noisy: Tensor
    entropy: Tensor
    sigma: Tensor
    noise: str
    certification: Certification
    class_names: tuple[str, ...]
    alpha: float
    true_class: str = ""
    colorizer_name: str = ""

    @property
    def answer(self) -> str:
        """The name of the predicted class, or "abstains"."""
        label = self.certification.label
        return "abstains" if label == ABSTAIN else self.class_names[label]

    @property
    def sentence(self) -> str:
        """What is certified, for whom and how surely."""
        candidate = self.certification.candidate
        named = self.class_names[candidate] if 0 <= candidate < len(self.class_names) else ""
        return sentence_of(self.certification, self.answer, self.alpha, named)


def explain(
    smoothed: SmoothedClassifier,
    image: Tensor,
    class_names: Sequence[str],
    colorizer: nn.Module,
    procedure: Procedure | None = None,
    index: int = 0,
    true_class: str = "",
) -> Explanation:
    """Certify an image (C, H, W) in [0, 1], grey or RGB, and collect what explains the result.

    `procedure` defaults to 10,000 certifying draws at alpha = 0.001; `index` is the image's number
    in its data set, which addresses its noise. `colorizer` as for `entropy_map`. Raises
    ConcertError as `SmoothedClassifier.certify` does, and for images that are no pictures.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ConcertError(
            f"explain shows grey or RGB images (C, H, W), got shape {tuple(image.shape)}"
        )
    if len(class_names) != smoothed.num_classes:
        raise ConcertError(
            f"the model has {smoothed.num_classes} classes, got {len(class_names)} names"
        )
    procedure = procedure or Procedure(n=10_000)
    (timed,) = smoothed.certify_each(image[None], procedure, [index])
    sigma = sigma_maps(smoothed, image[None], MAP_DRAWS, procedure.seed)[0]
    return Explanation(
        image=image.cpu(),
        noisy=noisy_copy(smoothed, image, procedure.seed, index),
        entropy=entropy_map(image[None].cpu(), colorizer)[0, 0],
        sigma=sigma.mean(dim=0).cpu(),
        noise=smoothed.noise.kind,
        certification=timed.certification,
        class_names=tuple(class_names),
        alpha=procedure.alpha,
        true_class=true_class,
    )


@torch.no_grad()
def noisy_copy(smoothed: SmoothedClassifier, image: Tensor, seed: int, index: int = 0) -> Tensor:
    """A noisy copy (C, H, W) of an image as predictions are made with; not clipped."""
    sampler = smoothed.sampler(image.shape)
    noise, stream = sampler.noise.deployed(), Stream(seed, Domain.PREDICT, index)
    x = image.to(sampler.device)[None]
    normals = noise.draws == "normals"
    dtype = x.dtype if normals else torch.int64
    draws = [torch.empty(x.shape, dtype=dtype, device=x.device) for _ in range(noise.lanes)]
    for lane, out in enumerate(draws):
        (stream.fill if normals else stream.fill_bits)(0, lane, out)
    noisy: Tensor = noise(x, tuple(draws), noise.prepare(x))[0]
    return noisy[0].cpu()

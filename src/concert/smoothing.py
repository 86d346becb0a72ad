"""The smoothed classifier: prediction and certification (the paper's Algorithm 2, Cohen et al.
2019).

What certifies one image is in `concert.certification.certifying`; here are the model, and many
images.
"""

from __future__ import annotations

import itertools
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from concert import bounds
from concert.certification.certifying import certification
from concert.certification.procedure import Procedure
from concert.checks import check_images, check_indices, check_prediction
from concert.engines import EngineChoice
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.records.record import ABSTAIN, Certification
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.soft_votes import SoftSettings, soft_log_votes
from concert.sampling.votes import Request, Votes
from concert.sampling.work import Case, answer
from concert.streams import Domain, Stream, fresh_seed

_BUILDING: Final = threading.Lock()


@dataclass(frozen=True)
class Timed:
    """A certification and the seconds it took."""

    certification: Certification
    seconds: float


class SmoothedClassifier(nn.Module):
    """A base classifier under a noise model, predicting the class most noisy copies are put in.

    `classifier`: any module from images (B, C, H, W) in [0, 1] plus noise to logits (B, K);
    normalisation is a layer inside it. It is used in evaluation mode. `shape` fixes the images'
    (C, H, W); without it any shape that the classifier takes will do. The hot loop works on copies
    of classifier and noise, which are made anew when either has changed. `engine` runs the
    classifier for predictions and certificates alike; the default is torch. After changing anything
    else than tensors, call `refresh`.

    Called as a module it is the soft smoothed classifier, which attacks can differentiate: `soft`
    says with how many draws.
    """

    def __init__(
        self,
        classifier: nn.Module,
        noise: NoiseModel,
        num_classes: int,
        shape: Sequence[int] | None = None,
        sampling: SamplingSettings | None = None,
        engine: EngineChoice | None = None,
        soft: SoftSettings | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConcertError(f"num_classes must be at least 2, got {num_classes}")
        if not isinstance(classifier, nn.Module):
            raise ConcertError(
                f"the classifier must be a torch.nn.Module, got {type(classifier).__name__}: put a "
                "function into the forward method of one"
            )
        if not isinstance(noise, NoiseModel):
            raise ConcertError(
                f"the noise must be a noise model such as IsotropicNoise(0.25), got {noise!r}"
            )
        if shape is not None and (isinstance(shape, int) or len(shape) != 3):
            raise ConcertError(f"shape is (channels, height, width), got {shape}")
        self.classifier, self.noise = classifier, noise
        self.num_classes = num_classes
        self.shape = None if shape is None else tuple(shape)
        self.sampling = sampling or SamplingSettings()
        self.engine = engine or EngineChoice()
        self.soft = soft or SoftSettings()
        self._sampler: Sampler | None = None
        self._built_from: tuple[object, ...] = ()

    def sampler(self, shape: Sequence[int]) -> Sampler:
        """The hot loop for images of `shape`, built at first use from the weights as they are."""
        signature = self._signature(shape)
        # Folding batch norm patches torch.nn.Module for a moment, for all threads.
        with _BUILDING:
            if self._sampler is None or self._built_from != signature:
                self.refresh()
                tensors = self.classifier.parameters()
                device = next((tensor.device for tensor in tensors), torch.device("cpu"))
                channels, height, width = shape
                self._sampler = Sampler(
                    self.classifier,
                    self.noise,
                    self.num_classes,
                    (channels, height, width),
                    device,
                    self.sampling,
                    self.engine,
                )
                self._built_from = signature
            return self._sampler

    def _signature(self, shape: Sequence[int]) -> tuple[object, ...]:
        """Changes with every tensor that the hot loop's private copies were made from.

        By content: writing through `tensor.data` leaves no other trace.
        """
        tensors = [
            (tensor.device, tensor.dtype, checksum(tensor))
            for module in (self.classifier, self.noise)
            for tensor in (*module.parameters(), *module.buffers())
        ]
        noise = (id(self.noise), str(self.noise.settings()))
        settings = self.sampling, self.engine
        return tuple(shape), id(self.classifier), noise, settings, tuple(tensors)

    def __getstate__(self) -> dict[str, Any]:
        # The hot loop's threads can be neither copied nor pickled; it is built again when needed.
        return {**self.__dict__, "_sampler": None}

    def refresh(self) -> None:
        """Forget the private copies; the worker threads end with the last job that uses them."""
        self._sampler = None

    def forward(self, images: Tensor) -> Tensor:
        """Log of the mean softmax over noisy copies, (B, K), differentiable in the images.

        The sigma map is recomputed and differentiated too. Softmax stands in for votes, so this
        is no prediction: `predict` counts votes and may abstain. Values are not checked, because
        attacks may leave [0, 1] on their way. Needs evaluation mode.
        """
        if self.training or self.classifier.training:
            raise ConcertError(
                "the smoothed classifier is used in evaluation mode: call its eval() first"
            )
        return soft_log_votes(self.classifier, self.noise, images, self.soft)

    def predict(
        self,
        images: Tensor,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
    ) -> Tensor:
        """Class labels (B,) int64, -1 where the smoothed classifier abstains.

        An answer is wrong about the most probable class with probability at most `alpha`. `seed`
        None draws fresh noise from the operating system, so that it cannot be foreseen.
        """
        check_prediction(n, alpha)
        labels = [decide(votes, alpha) for votes in self.prediction_votes(images, n, seed, indices)]
        return torch.tensor(labels, dtype=torch.int64)

    def prediction_votes(
        self, images: Tensor, n: int, seed: int | None, indices: Sequence[int] | None = None
    ) -> list[Votes]:
        """The votes that `predict` decides by, one record per image."""
        images = self.noise.accept(check_images(images, self.shape))
        seed = fresh_seed() if seed is None else seed
        numbers = check_indices(indices, len(images))
        sampler = self.sampler(images.shape[1:])
        cases = (
            Case(image, answer(Request(Stream(seed, Domain.PREDICT, number), n, deployed=True)))
            for image, number in zip(images, numbers, strict=True)
        )
        return [votes for votes, _ in sampler.drive(cases, len(images) * n)]

    def certify(
        self,
        images: Tensor,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        certificate: str = "auto",
        stopping: str = "full",
        n_select: int = 2000,
    ) -> list[Certification]:
        """One certification per image; see `Certification` for what each says.

        `alpha` is the probability, per image, that the statement is wrong. `indices` are the
        images' numbers in their data set and address their noise; they default to 0, 1, ...
        `stopping` is "full" (all n draws), "relative:EPS" or "grid:R,R,...", as
        `concert.certification.stopping` says.
        `certificate` "queried" adds the ellipsoid; its map comes from `n_select` generator passes.

        It abstains where no bound exceeds 1/2, as Cohen et al. 2019. A bound above 1/2 whose
        certificate reaches no radius ("algorithm2" in its wide boxes) is a prediction with radius
        0: the class at the image itself is still certain up to alpha.
        """
        procedure = Procedure(n0, n, alpha, seed, certificate, stopping, n_select)
        return [timed.certification for timed in self.certify_each(images, procedure, indices)]

    def certify_each(
        self,
        images: Iterable[Tensor],
        procedure: Procedure,
        indices: Sequence[int] | None = None,
    ) -> Iterator[Timed]:
        """As `certify`, each image as soon as it and those before it are done, with its seconds.

        `images`: a batch (B, C, H, W), checked before any draw is made, or images (C, H, W) one
        after the other, which are taken when there is room for them; those need `indices`. Several
        images are under way at once, so their seconds are shares: `concert.sampling.work.Work`.
        """
        procedure.check(self.noise)
        if isinstance(images, Tensor):
            images = self.noise.accept(check_images(images, self.shape))
            indices = check_indices(indices, len(images))
        elif indices is None:
            raise ConcertError("images given one after the other need their indices")
        yield from self._certify_each(iter(images), procedure, list(indices))

    def _certify_each(
        self, images: Iterator[Tensor], procedure: Procedure, indices: Sequence[int]
    ) -> Iterator[Timed]:
        first = next(images, None)
        if first is None:
            if indices:
                raise ConcertError(f"{len(indices)} indices, and no image")
            return
        sampler = self.sampler(check_images(first, self.shape).shape[1:])

        def cases() -> Iterator[Case[Certification]]:
            for image, index in zip(itertools.chain([first], images), indices, strict=True):
                (checked,) = self.noise.accept(check_images(image, sampler.shape))
                yield Case(checked, certification(sampler, index, procedure))

        for record, seconds in sampler.drive(cases(), len(indices) * procedure.n):
            yield Timed(record, seconds)


def checksum(tensor: Tensor) -> int:
    """Of a tensor's values."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return zlib.crc32(values.numpy().data)


def decide(votes: Votes, alpha: float) -> int:
    """The most voted class, or -1 unless it leads the second significantly (`Predict`)."""
    second, top = (int(k) for k in votes.counts.argsort(kind="stable")[-2:])
    p_value = bounds.binomial_p_value(int(votes.counts[top]), int(votes.counts[second]))
    return top if p_value <= alpha else ABSTAIN

"""Denoised smoothing (Salman et al., NeurIPS 2020): a denoiser before a classifier that stays."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from concert.classifiers import Denoised
from concert.errors import ConcertError
from concert.noise import NoiseModel
from concert.objectives.base import LossTerms, Objective


class DenoiseObjective(Objective):
    """mse * L_MSE + agreement * L_Stab, on `m` noisy copies per image.

    L_MSE: mean squared distance of the denoised copies to the image. L_Stab, the stability
    objective: cross-entropy of the classifier on denoised copies with the class that it gives to
    the image itself; no labels are used. As published, one of the two, or L_MSE first and then
    L_Stab from there (`--init`).
    """

    def __init__(self, m: int = 1, mse: float = 1.0, agreement: float = 0.0) -> None:
        if m < 1:
            raise ConcertError(f"m must be at least 1, got {m}")
        if mse < 0 or agreement < 0 or not mse + agreement > 0:
            raise ConcertError(
                "mse and agreement must not be negative, nor both 0, got "
                f"mse={mse} and agreement={agreement}"
            )
        self.m, self.mse, self.agreement = m, mse, agreement

    def __call__(
        self,
        classifier: nn.Module,
        noise: NoiseModel,
        images: Tensor,
        labels: Tensor,
        entropy_maps: Tensor | None,
        epoch: int,
        generator: torch.Generator,
    ) -> LossTerms:
        network = cast(Denoised, classifier)
        noisy, sigma = noise.copies(images, self.m, generator)
        denoised, logits = network.denoise_and_classify(noisy)
        if denoised.shape != noisy.shape:
            raise ConcertError(
                f"the denoiser turns images of shape {tuple(noisy.shape[1:])} into "
                f"{tuple(denoised.shape[1:])}: it must keep their shape"
            )
        distance = self.mse * F.mse_loss(denoised, images.repeat_interleave(self.m, dim=0))
        agreement = distance.new_zeros(())
        if self.agreement > 0:
            with torch.no_grad():
                own = network.classifier(images).argmax(dim=1)
            own = own.repeat_interleave(self.m)
            agreement = self.agreement * F.cross_entropy(logits, own)
        soft_votes = logits.detach().softmax(dim=1).view(len(images), self.m, -1).mean(dim=1)
        return LossTerms(
            total=distance + agreement,
            classification=agreement.detach(),
            robustness=distance.new_zeros(()),
            penalty=distance.detach(),
            soft_correct=(soft_votes.argmax(dim=1) == labels).sum(),
            sigma=sigma.detach(),
        )

"""The private copy of a classifier that the hot loop runs."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from concert.errors import ConcertError
from concert.memory import channels_last

log = logging.getLogger(__name__)


def check_classifier(classifier: nn.Module, probe: Tensor, num_classes: int) -> None:
    """Refuse a classifier that does not map the probe (2, C, H, W) to logits (2, num_classes).

    The classifier is in evaluation mode.
    """
    shape = tuple(probe.shape[1:])
    try:
        with torch.inference_mode():
            logits = classifier(probe)
    except RuntimeError as error:
        raise ConcertError(
            f"the classifier does not take images of shape {shape} (channels, height, width): "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConcertError(
            f"the classifier's outputs for images of shape {shape} are {found}, but num_classes is "
            f"{num_classes}"
        )


def inference_copy(classifier: nn.Module, probe: Tensor, num_classes: int) -> nn.Module:
    """A private copy in evaluation mode, batch norm folded, channels-last.

    Folding is kept only if the copy agrees with the original on a probe batch (B, C, H, W) to
    within 1e-4 of the logits' scale; a model that cannot be traced is used unfolded. Raises
    ConcertError if the classifier does not fit the probe or the number of classes.
    """
    plain = channels_last(copy.deepcopy(classifier).eval().requires_grad_(False))
    check_classifier(plain, probe, num_classes)
    with torch.inference_mode():
        wanted = plain(probe)
        try:
            folded = channels_last(fuse(plain))
            got = folded(probe)
        except Exception as error:
            log.debug("batch norm not folded: %s", error)
            return plain
    scale = max(1.0, float(wanted.abs().max()))
    if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=0, atol=1e-4 * scale):
        log.debug("batch norm not folded: the folded copy differs")
        return plain
    return folded

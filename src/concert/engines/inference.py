"""The private copy of a classifier that the hot loop runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from concert.engines.rewriting import rewritten
from concert.engines.tracing import GATE
from concert.errors import ConcertError
from concert.memory import channels_last

log = logging.getLogger(__name__)
# A class whose logit is further below the largest has no vote, whatever its logit is.
FAR: Final = 1e3
# Of float32 logits, relative to the two largest of a row; measured: up to 3e-6.
ROUNDING: Final = 2e-5


def check_classifier(classifier: nn.Module, probe: Tensor, num_classes: int) -> None:
    """Refuse a classifier that does not map the probe (B, C, H, W) to logits (B, num_classes).

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
    if not isinstance(logits, Tensor) or logits.shape != (len(probe), num_classes):
        found = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConcertError(
            f"the classifier's outputs for images of shape {shape} are {found}, but num_classes is "
            f"{num_classes}"
        )


def dtype_of(classifier: nn.Module) -> torch.dtype:
    """The precision of a classifier's weights; noise is drawn and added in float32, then cast."""
    floats = (p.dtype for p in classifier.parameters() if p.is_floating_point())
    return next(floats, torch.float32)


def deciding(logits: Tensor) -> Tensor:
    """Logits (B, K) in which all that are too far below a row's largest are the same.

    Classes ruled out by minus infinity, or by minus a billion, would else hide all differences.
    """
    top = logits.amax(dim=1, keepdim=True)
    return torch.where(top.isfinite(), torch.maximum(logits, top - FAR), logits)


def rounding(logits: Tensor) -> float:
    """The largest difference of logits (B, K) that is mere rounding."""
    largest = logits.double().topk(min(2, logits.shape[1]), dim=1).values
    finite = largest[largest.isfinite()].abs()
    return ROUNDING * max(1.0, float(finite.max()) if len(finite) else 0.0)


def check_rows_alone(network: Callable[[Tensor], Tensor], probe: Tensor, what: str) -> None:
    """Refuse a network whose output for an image depends on the rest of its batch, or on chance.

    Votes of one batch would not be independent draws then, and no bound on them would hold. The
    usual culprit is batch norm without running statistics. Half of the rows of a batch (B, C, H,
    W), chosen at random, are kept while the others change, and then the others.
    """
    places = torch.randperm(len(probe), generator=torch.Generator().manual_seed(0))
    half = (places < len(probe) // 2).to(probe.device)
    with torch.inference_mode():
        wanted = deciding(network(probe).double().flatten(1))
        atol = rounding(wanted)
        for kept in (half, ~half):
            # By half, so that neither mean nor variance of the batch stays.
            changed = torch.where(kept[:, None, None, None], probe, 0.5 * probe)
            found = deciding(network(changed).double().flatten(1))
            if not torch.allclose(found[kept], wanted[kept], rtol=0, atol=atol, equal_nan=True):
                raise ConcertError(
                    f"the {what}'s output for an image depends on the other images of its batch, "
                    "or on chance, so draws would not be independent: is there batch norm without "
                    "running statistics?"
                )


def twin(module: nn.Module) -> nn.Module:
    """A copy of a module that shares its tensors and nothing else.

    What a forward pass leaves in a module must not be seen by another thread's pass.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def private_copy(classifier: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights have no gradients; ConcertError if there is none."""
    try:
        # A scripted module's copy would else be a step of a graph.
        with torch.no_grad():
            copied = copy.deepcopy(classifier).eval()
    except RuntimeError as error:
        raise ConcertError(
            "the classifier cannot be copied, because it keeps what a forward pass computed, as "
            "torch.nn.utils.weight_norm does: use that of torch.nn.utils.parametrizations "
            f"({str(error).splitlines()[0]})"
        ) from error
    except TypeError as error:
        raise ConcertError(
            f"the classifier cannot be copied ({error}): it holds something that is neither a "
            "module nor plain data; make that where it is used"
        ) from error
    # One by one, as scripted modules want it.
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


def inference_copy(
    classifier: nn.Module, probe: Tensor, num_classes: int, tolerance: float
) -> nn.Module:
    """A private copy in evaluation mode, batch norm folded, channels-last; on a processor in
    operations that are faster there (`concert.engines.rewriting`).

    This is kept only if the copy's logits agree with the original's on a noisy probe batch
    (B, C, H, W) to within `tolerance`, a part of the vote margin; a model that cannot be traced is
    used as it is. Raises ConcertError if the classifier does not fit the probe or num_classes.
    """
    plain = channels_last(private_copy(classifier))
    check_classifier(plain, probe, num_classes)
    with torch.inference_mode():
        wanted = plain(probe)
        try:
            with GATE.tracing():
                folded = fuse(plain)
            if probe.device.type == "cpu":
                folded = rewritten(folded)
            folded = channels_last(folded)
            got = folded(probe)
        except Exception as error:
            log.debug("batch norm not folded: %s", error)
            return plain
    if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=0, atol=tolerance):
        log.debug("batch norm not folded: the folded copy differs")
        return plain
    return folded

"""cAdv: adversarial colours.

Bhattad, Chong, Liang, Li and Forsyth (ICLR 2020), "Unrestricted Adversarial Examples via Semantic
Manipulation"; Section 2 and Eq. 3 of the paper. The lightness of an image stays, and its colours
become those that a colorization network gives it from hints, which the attack optimises. The whole
image is coloured anew, so that the perturbation is large before the first step.

Hints and mask are in the network's units divided by their range: ab / 110, and mask in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from concert.attacks.base import Against, AttackResult, OnStep, Precision, Victim, check_at_least
from concert.attacks.hints import starting_hints
from concert.colorization import color_entropy, decode_ab, lab_to_rgb, load_colorizer, rgb_to_lab
from concert.colorization.lab import AB_LIMIT
from concert.errors import ConcertError, nearest
from concert.smoothing import SmoothedClassifier

# The published strength, and one that a processor can afford.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "reference": {"steps": 500, "draws": 32},
    "fast": {"steps": 100, "draws": 16},
}
# It stops where the goal leads by more than the first and the lead changes by less than the second.
LEAD: Final = 0.05
SETTLED: Final = 1e-3


class Colorizer(Protocol):
    """What cAdv needs of a colorization network.

    Called with lightness (B, 1, H, W) in [0, 100], hints (B, 2, H, W) in [-110, 110] and mask
    (B, 1, H, W) in [0, 1], it returns the logits of a colour distribution, (B, Q, h, w). One that
    also has a method `colors` with the same arguments, returning ab (B, 2, H, W), is asked that
    for the colours; else they are the mean of the distribution over the 529 ab bins.
    """

    def __call__(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor: ...


def predicted_ab(colorizer: Colorizer, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
    """The ab colours (B, 2, H, W) that a colorizer gives, differentiable in hints and mask."""
    colors = getattr(colorizer, "colors", None)
    if colors is not None:
        given: Tensor = colors(lightness, hints, mask)
        return given
    ab = decode_ab(colorizer(lightness, hints, mask).softmax(dim=1))
    height, width = lightness.shape[-2:]
    # Cells of 4 x 4 pixels, the last ones reaching over the border.
    full = functional.interpolate(ab, scale_factor=4, mode="bilinear", align_corners=False)
    return full[..., :height, :width]


def recolored(colorizer: Colorizer, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] of given lightness; hints in [-1, 1], mask in [0, 1]."""
    ab = predicted_ab(colorizer, lightness, AB_LIMIT * hints.clamp(-1, 1), mask.clamp(0, 1))
    return lab_to_rgb(torch.cat([lightness, ab], dim=1)).clamp(0.0, 1.0)


@torch.inference_mode(False)
def cadv(
    smoothed: SmoothedClassifier,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    colorizer: Colorizer | None = None,
    steps: int = 500,
    lr: float = 1e-4,
    clusters: int = 8,
    chosen: int = 4,
    choice: Literal["lowest", "highest"] = "lowest",
    space: Literal["ab", "lab"] = "ab",
    restarts: int = 10,
    hints: int = 50,
    draws: int = 32,
    against: Against = "base",
    precision: Precision = "32-true",
    success_draws: int = 200,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    on_step: OnStep = lambda step, steps: None,
) -> AttackResult:
    """Attack colour images (B, 3, H, W) in [0, 1] with labels (B,), towards `targets` if given.

    Adam at rate `lr` on all hints and the whole mask, by the cross-entropy of the target (minus
    that of the label); of a smoothed victim by that of the mean softmax over its draws, the loss of
    Salman et al. (NeurIPS 2019). The mask starts at `hints` random pixels inside the `chosen` of
    `clusters` colour clusters of mean entropy `choice` ("lowest" as in the released code, "highest"
    as the papers say). An image is left alone once its goal leads all others by 0.05 and its lead
    changes by less than 0.001 a step. The result's `start` is what the first hints make of the
    images. colorizer: default the shipped compact one. draws: of noise, for a smoothed victim.
    precision: of the gradients. success_draws: fresh ones that judge the result. To attack the
    class predicted, as the released code does, give it as label.

    Source: Bhattad, Chong, Liang, Li and Forsyth, "Unrestricted Adversarial Examples via Semantic
    Manipulation" (ICLR 2020) and its released code; Eq. 3 of the Concert paper.

    Raises ConcertError for images without colours and impossible settings.
    """
    victim = Victim(
        smoothed, images, labels, targets, against, draws, seed, indices, precision=precision
    )
    check(
        victim.clean.shape[1:],
        colorizer=colorizer,
        steps=steps,
        lr=lr,
        clusters=clusters,
        chosen=chosen,
        choice=choice,
        space=space,
        restarts=restarts,
        hints=hints,
        success_draws=success_draws,
    )
    network = load_colorizer().to(victim.clean.device) if colorizer is None else colorizer
    lab = rgb_to_lab(victim.clean)
    lightness = lab[:, :1]
    with torch.no_grad():
        zeros = torch.zeros_like(lightness)
        entropies = color_entropy(network(lightness, zeros.expand(-1, 2, -1, -1), zeros))
    first = starting_hints(
        lab, entropies, victim.generators(), clusters, chosen, choice, space, hints, seed, restarts
    )
    colors, mask = (each.requires_grad_() for each in first)
    optimizer = torch.optim.Adam([colors, mask], lr=lr)
    lanes = victim.lanes(0)
    start = result = victim.clean.clone()
    lead_before = torch.zeros(len(result), dtype=torch.float64, device=result.device)
    taken = torch.zeros_like(victim.labels)
    active = torch.arange(len(result), device=result.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            points = recolored(network, lightness[active], colors[active], mask[active])
        found_now = victim.log_probability(points, lanes, active)
        result[active] = points.detach()
        if step == 0:
            start = result.clone()
        done, lead = finished(
            found_now.shares, victim.goal[active], targets is not None, lead_before[active]
        )
        lead_before[active] = lead
        if step == steps or bool(done.all()):
            break
        optimizer.zero_grad()
        goal = (victim.sign * found_now.gradient * points)[~done].sum()
        # The colorizer may be the user's own, whose weights get no gradient from here.
        torch.autograd.backward([-goal], inputs=[colors, mask])
        for tensor in (colors, mask):
            if tensor.grad is not None:
                tensor.grad.nan_to_num_(0.0, 0.0, 0.0)
        # This also moves finished images, by momentum; they are not looked at again.
        optimizer.step()
        active = active[~done]
        taken[active] += 1
        on_step(step + 1, steps)
    return victim.result(result, taken, success_draws, start=victim.realized(start))


def finished(
    shares: Tensor, goal: Tensor, targeted: bool, lead_before: Tensor
) -> tuple[Tensor, Tensor]:
    """Which images (B,) the attack leaves alone, and by how much their first class leads.

    shares (B, K): soft votes. goal (B,): the target, to be first, or the label, not to be.
    lead_before (B,): the lead one step earlier.
    """
    top = shares.topk(2, dim=1)
    lead = top.values[:, 0] - top.values[:, 1]
    reached = (top.indices[:, 0] == goal) == targeted
    settled = (lead - lead_before).abs() < SETTLED
    return reached & (lead > LEAD) & settled, lead


def check(
    shape: Sequence[int],
    *,
    colorizer: Colorizer | None,
    steps: int,
    lr: float,
    clusters: int,
    chosen: int,
    choice: str,
    space: str,
    restarts: int,
    hints: int,
    success_draws: int,
    **others: Any,
) -> None:
    """Refuse settings of `cadv` that cannot be, for images of a shape (C, H, W); `others` can."""
    counts = {"clusters": clusters, "chosen": chosen, "restarts": restarts}
    check_at_least(1, steps=steps, success_draws=success_draws, **counts)
    check_at_least(0, lr=lr, hints=hints)
    for name, given, valid in (
        ("choice", choice, ("lowest", "highest")),
        ("space", space, ("ab", "lab")),
    ):
        if given not in valid:
            raise ConcertError(nearest(f"choice for {name}", str(given), valid))
    if shape[0] != 3:
        raise ConcertError(
            f"cadv changes colours, and images of shape {tuple(shape)} have none: use shadow or pgd"
        )
    check_hints(colorizer)


def check_hints(colorizer: object) -> None:
    """Refuse a colorizer, or a class of such, that takes no hints."""
    if not getattr(colorizer, "takes_hints", True):
        raise ConcertError("this colorizer takes no hints, which cadv changes: use another one")

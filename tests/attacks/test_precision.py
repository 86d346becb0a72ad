"""Gradients in bfloat16 where autocast allows: nearly the same attack, judged in full precision."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from networks import Brightness, Patches, labels_of, random_images, smooth
from torch import Tensor

from concert.attacks import cadv, pgd, shadow
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, IsotropicNoise


class Noted(Patches):
    """Notes whether it runs with a gradient, and whether autocast is on."""

    # Of the class: an attack looks at a copy of the network.
    seen: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return super().forward(images)


@pytest.mark.parametrize("attack", [shadow, pgd, cadv])
@pytest.mark.parametrize("against", ["base", "deployed"])
def test_gradients_are_mixed_and_judgements_are_not(attack: Any, against: str) -> None:
    network = Noted()
    smoothed = smooth(network, IsotropicNoise(0.25))
    images = random_images(2)
    settings = {"against": against, "steps": 2, "draws": 4, "success_draws": 8}
    if attack is pgd:
        settings["epsilon"] = 1.0
    network.seen.clear()
    attack(smoothed, images, torch.tensor([0, 1]), precision="bf16-mixed", **settings)
    assert (True, True) in network.seen
    assert (True, False) not in network.seen
    assert (False, True) not in network.seen
    network.seen.clear()
    attack(smoothed, images, torch.tensor([0, 1]), **settings)
    assert not any(mixed for _, mixed in network.seen)


def test_the_attack_is_nearly_the_same() -> None:
    """bfloat16 has eight bits: a gradient is off by about half a percent of its length."""
    smoothed = smooth(Patches(), GeneratedNoise(Brightness()))
    images = random_images(3)
    labels = labels_of(smoothed, images)
    found = [
        shadow(smoothed, images, labels, steps=20, draws=8, precision=precision)
        for precision in ("32-true", "bf16-mixed")
    ]
    full, mixed = (each.images - images for each in found)
    assert not torch.equal(full, mixed)
    assert float((full - mixed).norm() / full.norm()) < 0.02


def test_an_unknown_precision_is_refused() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    with pytest.raises(ConcertError, match="unknown precision 'bf16'"):
        shadow(smoothed, random_images(1), torch.tensor([0]), precision="bf16")  # type: ignore[arg-type]

"""Spoofing: which target is kept, when it counts as a success, and what is passed on."""

from __future__ import annotations

import sys
from inspect import get_annotations, signature

import pytest
import torch
from networks import CLASSES, SHAPE, Brightness, Patches, random_images, smooth
from torch import Tensor

from concert.attacks import shadow, spoofing_shadow
from concert.attacks.spoofing import ShadowSettings, spoofed, target_classes
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise

FAST = {"steps": 12, "draws": 16, "success_draws": 64}


def test_the_spoofed_target_has_the_largest_radius() -> None:
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    image, label = random_images(1), torch.tensor([2])
    strong = {**FAST, "steps": 40, "lambda_tv": 0.05}
    best = spoofing_shadow(smoothed, image, label, indices=[3], **strong)
    radii = {}
    for target in target_classes(CLASSES, 2):
        each = shadow(smoothed, image, label, torch.tensor([target]), indices=[3], **strong)
        (found,) = smoothed.certify(each.images, n0=100, n=2000, seed=8)
        radii[target] = found.radius if found.label == target else 0.0
        if target == int(best.targets):
            assert torch.equal(each.images, best.images)
        else:
            assert not torch.equal(each.images, best.images)
    assert set(radii) == {0, 1, 3}
    assert radii[int(best.targets)] > 0
    # 200 draws cannot tell radii apart that are nearly the same.
    assert radii[int(best.targets)] > max(radii.values()) - 0.1


def test_a_spoof_succeeds_with_any_class_but_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that answers 1 or 3, and never the class aimed at."""

    class Two(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            bright = 40.0 * (images.flatten(1).mean(dim=1) - 0.5)
            low = torch.full_like(bright, -100.0)
            return torch.stack([low - bright, bright, low, -bright], dim=1)

    smoothed = smooth(Two(), IsotropicNoise(0.1))
    image = torch.full((1, *SHAPE), 0.6)
    strong = {**FAST, "steps": 30, "lambda_c": 0.0}
    aimed = shadow(smoothed, image, torch.tensor([1]), torch.tensor([0]), **strong)
    assert smoothed.predict(aimed.images, n=200, seed=1).tolist() == [3], "darker, for class 0"
    assert not aimed.success
    module = sys.modules["concert.attacks.spoofing"]
    monkeypatch.setattr(module, "target_classes", lambda count, label: [0])
    best = spoofing_shadow(smoothed, image, torch.tensor([1]), **strong)
    assert torch.equal(best.images, aimed.images)
    assert best.targets.tolist() == [0]
    assert best.success.tolist() == best.success_8bit.tolist() == [True]
    assert best.l2.tolist() == pytest.approx([float((best.images - image).norm())], rel=1e-5)
    still = spoofing_shadow(smoothed, image, torch.tensor([1]), **{**strong, "lr": 0.0, "seed": 3})
    assert still.success.tolist() == [smoothed.predict(still.images, n=200, seed=1).item() != 1]


def test_spoofing_passes_on_all_other_settings() -> None:
    own = {"smoothed", "images", "labels", "targets", "success_draws", "seed", "indices", "on_step"}
    assert set(get_annotations(ShadowSettings)) == set(signature(shadow).parameters) - own


def test_the_steps_of_spoofs_are_counted_where_images_have_different_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules["concert.attacks.spoofing"]
    monkeypatch.setattr(module, "target_classes", lambda count, label: [3, 2][: 1 + label])
    smoothed = smooth(Patches(), IsotropicNoise(0.25))
    seen: list[tuple[int, int]] = []
    short = {**FAST, "steps": 2}
    labels = torch.tensor([1, 0, 1])
    spoofing_shadow(
        smoothed, random_images(3), labels, on_step=lambda *step: seen.append(step), **short
    )
    assert seen == [(step, 10) for step in range(1, 11)], "five targets of two steps"


def test_targets_tried_are_all_others_or_ten() -> None:
    assert target_classes(10, 3) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert target_classes(1000, 300) == [0, 100, 200, 400, 500, 600, 700, 800, 900]
    assert len(target_classes(1000, 301)) == 10
    assert len(target_classes(19, 1)) == 10
    assert max(len(target_classes(count, 1)) for count in range(2, 120)) == 10


class OneLevel(torch.nn.Module):
    """A generator of one level a image, the same for all, in a wide box."""

    one_level = True
    low, high = 0.2, 0.3

    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images, 0.25)


class Always(torch.nn.Module):
    """Class 2, whatever the image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :CLASSES] * 0.0 + torch.tensor([0.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("noise", "certificate", "known"),
    [
        (IsotropicNoise(0.25), "isotropic", None),
        (GeneratedNoise(Brightness()), "frozen", None),
        # Frozen noise would have a radius here.
        (GeneratedNoise(OneLevel()), "algorithm2", 0.0),
        (QueriedNoise(Brightness(), 0.6, 0.2, 0.4), "queried-ball", None),
    ],
    ids=["isotropic", "generated", "one level", "queried"],
)
def test_the_spoofed_radius_is_that_of_the_default_certificate(
    noise: NoiseModel, certificate: str, known: float | None
) -> None:
    """All draws vote alike, so that certifying draws of any number of their own say the same."""
    smoothed, image = smooth(Always(), noise), random_images(1)
    (found,) = smoothed.certify(image, n0=100, n=200, seed=3, certificate=certificate)
    label, target = torch.tensor([1]), torch.tensor([0])
    still = shadow(smoothed, image, label, target, **{**FAST, "steps": 1, "lr": 0.0})
    radius, votes = spoofed(smoothed, still, 1, 200, seed=0, index=0)
    # Maps of queried noise differ a little between draws.
    assert radius == pytest.approx(found.radius, rel=0.02)
    assert (radius == 0.0) == (known == 0.0)
    assert votes == 0, "of the target"
    assert spoofed(smoothed, still, 2, 200, seed=0, index=0)[0] == 0.0, "class 2 is right"


def test_what_does_not_fit_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("an attack has begun")

    monkeypatch.setattr(sys.modules["concert.attacks.spoofing"], "shadow", never)
    smoothed, images = smooth(Patches(), IsotropicNoise(0.25)), random_images(2)
    for given, labels, indices, said in (
        (images[:0], [], None, "no image"),
        (images, [1], None, "one class"),
        (images, [1, 2], [1], "2"),
        (images, [1, 2], [1, 2, 3], "2"),
    ):
        with pytest.raises(ConcertError, match=said):
            spoofing_shadow(smoothed, given, torch.tensor(labels), indices=indices, **FAST)

"""cAdv: its colours, its stop rule, and what it finds."""

from __future__ import annotations

import pytest
import torch
from networks import CLASSES, Brightness, Patches, Red, labels_of, random_images, smooth
from torch import Tensor, nn
from torch.nn import functional

from concert.attacks import cadv
from concert.attacks.base import Victim
from concert.attacks.cadv import finished, predicted_ab, recolored
from concert.attacks.hints import starting_hints
from concert.colorization import Siggraph17, color_entropy, decode_ab, load_colorizer, rgb_to_lab
from concert.colorization.lab import AB_BINS, ab_grid
from concert.errors import ConcertError
from concert.noise import GeneratedNoise, IsotropicNoise, QueriedNoise

SHAPE = (3, 16, 16)


class Faithful(nn.Module):
    """A colorizer that gives every pixel its hint, as far as the mask believes it.

    Its distribution is flat in the left half and one colour in the right half.
    """

    takes_hints = True

    def forward(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        batch, _, height, width = lightness.shape
        logits = torch.zeros(batch, AB_BINS, -(-height // 4), -(-width // 4))
        logits[:, 0, :, logits.shape[-1] // 2 :] = 50.0
        return logits

    def colors(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        return hints * mask


class Blocks(nn.Module):
    """A colorizer without `colors`: in each cell the mean hint, as two bins of ab."""

    def forward(self, lightness: Tensor, hints: Tensor, mask: Tensor) -> Tensor:
        ab = functional.avg_pool2d(hints * mask, 4, ceil_mode=True)
        grid = ab_grid(ab)
        distance = (ab[:, None] - grid[None, :, :, None, None]).square().sum(dim=2)
        return -distance / 200.0


def images_of(count: int, seed: int = 0) -> Tensor:
    """Smooth colours, in the middle of the gamut."""
    coarse = random_images(count, seed, (3, 4, 4))
    return 0.3 + 0.4 * functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear")


def patches() -> Patches:
    return Patches(shape=SHAPE)


def test_a_faithful_colorizer_gives_the_image_back() -> None:
    images = images_of(2)
    lab = rgb_to_lab(images)
    again = recolored(Faithful(), lab[:, :1], lab[:, 1:] / 110, torch.ones_like(lab[:, :1]))
    assert torch.allclose(again, images, atol=1e-4)


def test_colours_are_the_mean_of_the_distribution_enlarged() -> None:
    lightness, hints = torch.full((1, 1, 10, 13), 50.0), torch.full((1, 2, 10, 13), 20.0)
    ab = predicted_ab(Blocks(), lightness, hints, torch.ones_like(lightness))
    assert ab.shape == (1, 2, 10, 13)
    assert torch.allclose(ab, torch.full_like(ab, 20.0), atol=0.5)
    colorizer = load_colorizer()
    sizes = torch.full((2, 1, 32, 32), 60.0), torch.zeros(2, 2, 32, 32), torch.zeros(2, 1, 32, 32)
    asked = predicted_ab(colorizer, *sizes)
    cells = decode_ab(colorizer(*sizes).softmax(dim=1))
    assert torch.allclose(asked.mean(dim=(2, 3)), cells.mean(dim=(2, 3)), atol=0.5)


@pytest.mark.parametrize("colorizer", [Faithful(), Blocks()], ids=["colors", "distribution"])
def test_the_image_has_gradients_in_hints_and_mask(colorizer: nn.Module) -> None:
    """Of the pipeline from hints to sRGB, against finite differences."""
    lab = rgb_to_lab(images_of(1))[..., :4, :4].double()
    hints = (lab[:, 1:] / 110).clone().requires_grad_()
    mask = torch.full_like(lab[:, :1], 0.5).requires_grad_()

    def pictures(hints: Tensor, mask: Tensor) -> Tensor:
        return recolored(colorizer, lab[:, :1], hints, mask)

    assert torch.autograd.gradcheck(pictures, (hints, mask), atol=1e-4)


def test_the_lightness_stays_and_the_colours_change() -> None:
    smoothed = smooth(Red(), IsotropicNoise(0.1), 2, shape=SHAPE)
    image = images_of(1)
    label = smoothed.classifier(image).argmax(dim=1)
    result = cadv(smoothed, image, label, colorizer=Faithful(), steps=60, lr=0.02, hints=200)
    assert result.success.tolist() == result.success_8bit.tolist() == [True]
    before, after = rgb_to_lab(image), rgb_to_lab(result.images)
    inside = ((result.images > 0.01) & (result.images < 0.99)).all(dim=1)[0]
    assert int(inside.sum()) > 30
    assert torch.allclose(after[0, 0, inside], before[0, 0, inside], atol=0.05)
    assert float((after - before)[:, 1:].abs().mean()) > 1
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


@pytest.mark.parametrize("against", ["base", "smoothed", "deployed"])
@pytest.mark.parametrize("targeted", [True, False])
def test_steps_are_adams_on_the_cross_entropy(targeted: bool, against: str) -> None:
    """Written out: hints and mask, colours, image, cross-entropy of the mean softmax."""
    network = patches()
    smoothed, images = smooth(network, IsotropicNoise(0.1), shape=SHAPE), images_of(2)
    labels = network(images).argmax(dim=1)
    goal = (labels + 1) % CLASSES if targeted else labels
    settings = {"steps": 3, "lr": 0.02, "draws": 5, "against": against, "indices": [4, 9]}
    result = cadv(smoothed, images, labels, goal if targeted else None, **settings)

    colorizer, lab = load_colorizer(), rgb_to_lab(images)
    lightness, zeros = lab[:, :1], torch.zeros_like(lab[:, :1])
    entropies = color_entropy(colorizer(lightness, torch.zeros_like(lab[:, 1:]), zeros))
    victim = Victim(smoothed, images, labels, None, against, 5, 0, [4, 9])
    (normals,) = victim.lanes(0)
    # A deployed classifier multiplies its normals by sigma, a frozen one adds offsets.
    offsets = normals * (0.1 if against == "deployed" else 1.0)
    first = starting_hints(
        lab, entropies, victim.generators(), 8, 4, "lowest", "ab", 50, 0, restarts=10
    )
    hints, mask = (each.requires_grad_() for each in first)
    optimizer = torch.optim.Adam([hints, mask], lr=0.02)
    # Of more than one, because the first has the size of the rate whatever the gradient's.
    for _ in range(3):
        optimizer.zero_grad()
        points = recolored(colorizer, lightness, hints, mask)[:, None] + offsets
        shares = network(points.flatten(0, 1)).softmax(dim=1).unflatten(0, offsets.shape[:2])
        loss = functional.nll_loss(shares.mean(dim=1).log(), goal, reduction="sum")
        (loss if targeted else -loss).backward()
        optimizer.step()
    stepped = recolored(colorizer, lightness, hints, mask)
    assert result.steps.tolist() == [3, 3]
    assert torch.allclose(result.images, stepped, atol=1e-5)
    assert float((result.images - result.start).abs().max()) > 1e-3


@pytest.mark.parametrize("against", ["base", "smoothed", "deployed"])
def test_it_reaches_targets_and_leaves_labels_with_the_shipped_colorizer(against: str) -> None:
    smoothed = smooth(patches(), QueriedNoise(Brightness(), 0.6, 0.2, 0.4), shape=SHAPE)
    images = images_of(2)
    labels = smoothed.classifier(images).argmax(dim=1) if against == "base" else None
    labels = labels_of(smoothed, images) if labels is None else labels
    common = {"steps": 30, "lr": 0.02, "draws": 16, "against": against}
    left = cadv(smoothed, images, labels, **common)
    assert left.success.all()
    assert bool(left.images.isfinite().all())
    targets = (labels + 1) % 4
    aimed = cadv(smoothed, images, labels, targets, **common)
    assert aimed.targets.tolist() == targets.tolist()
    assert int(aimed.steps.max()) >= int(left.steps.max())
    rows = torch.arange(2)
    with torch.no_grad():
        before, after, other = (
            smoothed.classifier(each).log_softmax(dim=1)[rows, targets]
            for each in (aimed.start, aimed.images, left.images)
        )
    assert (after > before + 0.1).all(), "the steps raise the target"
    assert (after > other).all(), "more than leaving the label does"


@pytest.mark.parametrize("size", [(32, 32), (28, 30)])
def test_it_goes_through_siggraph17_of_both_conventions(size: tuple[int, int]) -> None:
    """With random weights, also where the network replicates borders and crops its output."""
    shape = (3, *size)
    smoothed = smooth(Patches(shape=shape), IsotropicNoise(0.2), shape=shape)
    images = functional.interpolate(images_of(1), size=size, mode="bilinear")
    torch.manual_seed(0)
    colorizer = Siggraph17().eval().requires_grad_(False)
    starts = []
    for center in (0.0, 0.5):
        colorizer.mask_center = center
        result = cadv(smoothed, images, torch.tensor([0]), colorizer=colorizer, steps=2, lr=0.02)
        assert result.images.shape == (1, *shape)
        assert bool(result.images.isfinite().all())
        assert int(result.steps) in (1, 2)
        assert float((result.images - result.start).abs().max()) > 1e-4, "it has moved"
        before, after = rgb_to_lab(images), rgb_to_lab(result.images)
        assert torch.allclose(after[:, 0], before[:, 0], atol=0.05), "the lightness stays"
        starts.append(result.start)
    assert float((starts[0] - starts[1]).abs().max()) > 1e-4, "the network sees the mask's centre"


def test_it_begins_at_the_recoloured_image() -> None:
    """What one step of no length returns is where any number of steps begin."""
    smoothed = smooth(patches(), IsotropicNoise(0.2), shape=SHAPE)
    images, common = images_of(2), {"labels": torch.tensor([0, 1]), "success_draws": 16}
    still = cadv(smoothed, images, steps=1, lr=0.0, **common)
    moved = cadv(smoothed, images, steps=5, lr=0.02, **common)
    assert torch.equal(still.start, still.images)
    assert torch.equal(still.start, moved.start)
    assert not torch.equal(moved.start, moved.images)
    assert float((moved.start - images).abs().max()) > 0.01


def test_an_image_is_left_alone_once_its_goal_leads_and_has_settled() -> None:
    """A saturated classifier is settled at once; one that cannot be left takes all steps."""

    class Certain(nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def forward(self, images: Tensor) -> Tensor:
            logits = images.flatten(1)[:, :2] * 1e-3
            return logits + 50.0 * functional.one_hot(torch.tensor([self.label]), 2)

    steps = {}
    for answer in (0, 1):
        smoothed = smooth(Certain(answer), IsotropicNoise(0.1), 2, shape=SHAPE)
        result = cadv(smoothed, images_of(2), torch.tensor([0, 0]), colorizer=Faithful(), steps=6)
        steps[answer] = result.steps.tolist()
    # The lead is compared with that of the step before, so one step is always taken.
    assert steps == {0: [6, 6], 1: [1, 1]}


def test_an_image_is_left_alone_by_its_lead_and_its_change() -> None:
    """Leads 0.04, 0.06 and 0.06 of class 1, of which the last has just grown by 0.02."""
    shares = torch.tensor([[0.48, 0.52], [0.47, 0.53], [0.47, 0.53]], dtype=torch.float64)
    before = torch.tensor([0.04, 0.06, 0.04], dtype=torch.float64)
    for goal, targeted, expected in (
        (1, True, [False, True, False]),
        (0, False, [False, True, False]),
        (0, True, [False] * 3),
        (1, False, [False] * 3),
    ):
        done, lead = finished(shares, torch.full((3,), goal), targeted, before)
        assert done.tolist() == expected
        assert lead.tolist() == pytest.approx([0.04, 0.06, 0.06])


@pytest.mark.parametrize(
    "changed",
    [{}, {"clusters": 5}, {"chosen": 2}, {"choice": "highest"}, {"space": "lab"}, {"hints": 7}],
    ids=str,
)
def test_the_settings_of_the_first_hints_are_those_given(changed: dict[str, object]) -> None:
    given = {"clusters": 8, "chosen": 4, "choice": "lowest", "space": "ab", "hints": 50}
    smoothed, images = smooth(patches(), IsotropicNoise(0.1), shape=SHAPE), images_of(2)
    labels, common = torch.tensor([0, 1]), {"steps": 1, "lr": 0.0, "indices": [4, 9]}
    result = cadv(smoothed, images, labels, **common, **changed)

    colorizer, lab = load_colorizer(), rgb_to_lab(images)
    zeros = torch.zeros_like(lab[:, :1])
    entropies = color_entropy(colorizer(lab[:, :1], torch.zeros_like(lab[:, 1:]), zeros))
    victim = Victim(smoothed, images, labels, None, "base", 1, 0, [4, 9])
    used = {**given, **changed}
    first = starting_hints(lab, entropies, victim.generators(), **used, seed=0, restarts=10)
    assert torch.allclose(result.start, recolored(colorizer, lab[:, :1], *first), atol=1e-5)
    usual = cadv(smoothed, images, labels, **common)
    assert torch.equal(usual.start, result.start) == (not changed)


def test_a_batch_is_its_images_and_a_seed_is_a_result() -> None:
    smoothed = smooth(patches(), GeneratedNoise(Brightness()), shape=SHAPE)
    images = images_of(2)
    labels = labels_of(smoothed, images)
    settings = {"steps": 8, "lr": 0.01, "draws": 16, "against": "deployed"}
    together = cadv(smoothed, images, labels, indices=[4, 9], **settings)
    again = cadv(smoothed, images, labels, indices=[4, 9], **settings)
    assert torch.equal(together.images, again.images)
    for row, index in enumerate([4, 9]):
        one = slice(row, row + 1)
        alone = cadv(smoothed, images[one], labels[one], indices=[index], **settings)
        assert torch.allclose(alone.images[0], together.images[row], atol=2e-3)
        assert int(alone.steps) == int(together.steps[row])


def test_black_white_and_grey_images_give_no_nan() -> None:
    smoothed = smooth(patches(), IsotropicNoise(0.1), shape=SHAPE)
    images = torch.stack([torch.full(SHAPE, value) for value in (0.0, 0.5, 1.0)])
    result = cadv(smoothed, images, labels_of(smoothed, images), steps=4, lr=0.05)
    assert bool(result.images.isfinite().all())
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1


def test_mistakes_are_named() -> None:
    class Blind(Faithful):
        takes_hints = False

    smoothed = smooth(patches(), IsotropicNoise(0.1), shape=SHAPE)
    for settings, message in (
        ({"choice": "low"}, "unknown choice for choice 'low'"),
        ({"space": "rgb"}, "unknown choice for space"),
        ({"clusters": 0}, "clusters must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"colorizer": Blind()}, "takes no hints"),
    ):
        with pytest.raises(ConcertError, match=message):
            cadv(smoothed, images_of(1), torch.tensor([0]), **settings)
    grey = smooth(Patches(shape=(1, 8, 8)), IsotropicNoise(0.1), shape=(1, 8, 8))
    with pytest.raises(ConcertError, match="have none"):
        cadv(grey, random_images(1, shape=(1, 8, 8)), torch.tensor([0]))

"""The search: gradients of the soft margin, starting points, and walking inside a part."""

from __future__ import annotations

import pytest
import torch
from counterexamples import HIGH, LOW, Ball, Plane, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from concert.auditing.parts import Part, project, realize
from concert.auditing.search import NEAR, starting_units
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.sampling.soft_votes import SoftVotes, soft_margins

SHAPE = (1, 1, 2)
NOISES = [
    IsotropicNoise(0.3),
    StaticNoise(torch.tensor([[[0.2, 0.4]]])),
    GeneratedNoise(Plane()),
    QueriedNoise(Plane(), 0.7, LOW, HIGH),
]


def soft_votes(noise: NoiseModel, batch_size: int = 1024) -> SoftVotes:
    smoothed = smooth(Ball(0.6), noise, SHAPE, batch_size)
    return SoftVotes(smoothed.classifier, smoothed.sampler(SHAPE), seed=0, index=7)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.kind)
def test_gradients_see_all_that_the_deployed_classifier_does(noise: NoiseModel) -> None:
    """Central differences of the shares at the same draws, sigma maps recomputed each time."""
    votes, step = soft_votes(noise), 1e-3
    points = torch.tensor([[0.1, 0.2], [0.25, 0.15], [0.4, 0.0]]).view(3, *SHAPE)
    normals = votes.normals(1, 512)
    rivals = torch.ones(3, dtype=torch.int64)
    gradient = votes.gradient(points, rivals, 0, normals)
    for pixel in range(2):
        shift = torch.zeros(SHAPE)
        shift[0, 0, pixel] = step
        ahead, behind = (votes.shares(points + sign * shift, normals) for sign in (1, -1))
        slope = ((ahead - behind)[:, 1] - (ahead - behind)[:, 0]) / (2 * step)
        assert torch.allclose(gradient[:, 0, 0, pixel].double(), slope, rtol=0.01, atol=0.01)


def test_the_generator_is_part_of_the_gradient() -> None:
    # At the generator's edge most of the slope is the noise's growth.
    point = torch.tensor([[[[0.28, 0.0]]]])
    slopes = []
    for noise in (GeneratedNoise(Plane()), StaticNoise(Plane()(point)[0])):
        votes = soft_votes(noise)
        normals = votes.normals(1, 1024)
        slopes.append(float(votes.gradient(point, torch.tensor([1]), 0, normals)[0, 0, 0, 0]))
    assert slopes[0] > 2 * slopes[1] > 0


def test_the_batch_size_bounds_memory_and_changes_nothing() -> None:
    points = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    rivals = torch.ones(5, dtype=torch.int64)
    results, largest = [], []
    for batch_size in (16, 48, 1024):
        votes = soft_votes(QueriedNoise(Plane(), 0.7, LOW, HIGH), batch_size)
        seen: list[int] = []
        votes.classifier.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(len(inputs[0]))
        )
        normals = votes.normals(2, 40)
        results.append((votes.shares(points, normals), votes.gradient(points, rivals, 0, normals)))
        largest.append(max(seen))
    assert largest == [16, 40, 200]
    for shares, gradient in results[1:]:
        assert torch.allclose(shares, results[0][0], atol=1e-6)
        assert torch.allclose(gradient, results[0][1], atol=1e-5)


def test_steps_have_draws_of_their_own() -> None:
    votes = soft_votes(QueriedNoise(Plane(), 0.7, LOW, HIGH))
    draws = [lane for step in range(3) for lane in votes.normals(step, 24)]
    assert all(lane.shape == (24, *SHAPE) for lane in draws)
    numbers = torch.cat([lane.flatten() for lane in draws])
    assert len(numbers.unique()) == len(numbers)


class Undecided(nn.Module):
    """A generator whose map is not a number for half of the queries."""

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, :1, :1, :1].expand_as(images)
        return torch.where(first > 0, 0.3, torch.nan)


def test_draws_that_are_not_a_number_vote_for_no_class() -> None:
    votes = soft_votes(QueriedNoise(Undecided(), 0.7, LOW, HIGH))
    points = torch.zeros(1, *SHAPE)
    normals = votes.normals(0, 4096)
    total = float(votes.shares(points, normals).sum())
    assert abs(total - 0.5) < 5 * 0.5 / 4096**0.5
    assert bool(votes.gradient(points, torch.tensor([1]), 0, normals).isfinite().all())


def test_the_soft_margin_is_that_of_the_best_other_class() -> None:
    shares = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]], dtype=torch.float64)
    margins, rivals = soft_margins(shares, 0)
    assert rivals.tolist() == [2, 1]
    assert margins.tolist() == pytest.approx([-0.2, 0.6])


def test_starts_are_near_on_the_boundary_in_opposite_pairs_and_inside() -> None:
    starts = starting_units(8, (1, 4, 4), seed=0, index=0)
    norms = starts.flatten(1).norm(dim=1)
    assert float(norms[0]) == pytest.approx(NEAR)
    assert norms[[1, 2, 4, 5, 7]].tolist() == pytest.approx([1.0] * 5)
    assert torch.equal(starts[1], -starts[2])
    assert torch.equal(starts[4], -starts[5])
    assert float(norms[[3, 6]].min()) > 0
    assert float(norms[[3, 6]].max()) < 1
    assert not torch.equal(starts, starting_units(8, (1, 4, 4), seed=0, index=1))


@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-7, 1e-3, 0.1, 1.0, 30.0]),
    boxed=st.booleans(),
    corner=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_projections_and_rounded_images_stay_inside(
    seed: int, size: float, boxed: bool, corner: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 3)
    axes = size * (0.2 + torch.rand(shape, generator=generator, dtype=torch.float64))
    image = torch.full(shape, corner)
    units = 2.0 * torch.randn(6, *shape, generator=generator)
    units[0] *= 1e-3
    part = Part("ellipsoid", axes)
    inside = project(units, part, image, boxed)
    assert float(inside.flatten(1).norm(dim=1).max()) < 1
    if not boxed:
        assert torch.equal(inside[0], units[0]), "a point inside stays"
    perturbed = realize(inside, part, image, boxed)
    assert perturbed.dtype == torch.float32
    assert float(part.norms(perturbed.double() - image.double()).max()) < 1
    if boxed:
        assert 0 <= float(perturbed.min()) <= float(perturbed.max()) <= 1

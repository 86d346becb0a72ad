"""Noise models: what they draw, what their certificates rest on, and attempts to break those."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from concert.certificates import Guarantee
from concert.errors import ConcertError
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise

LOW, HIGH, QUERY = 0.25, 0.45, 0.5


class Map(nn.Module):
    """A generator made of a function; remembers what it has seen."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.function(images)


def constant(sigma: float) -> Map:
    return Map(lambda images: torch.full_like(images, sigma))


def wavy(images: Tensor) -> Tensor:
    """Somewhere in [0.25, 0.45], different at every pixel."""
    return 0.35 + 0.1 * torch.sin(7.0 * images + torch.arange(images.shape[-1]))


def queried(generator: nn.Module, low: float = LOW, high: float = HIGH) -> QueriedNoise:
    return QueriedNoise(generator, QUERY, low, high)


def some_images(count: int = 2, channels: int = 3, size: int = 4) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


STATIC_MAP = torch.tensor([[[0.1, 0.2], [0.4, 0.8]]])


# -------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("through_copies", [False, True])
@pytest.mark.parametrize(
    ("noise", "sigma"),
    [
        (IsotropicNoise(0.5), torch.full((1, 2, 2), 0.5)),
        (StaticNoise(STATIC_MAP), STATIC_MAP),
        (
            GeneratedNoise(Map(lambda images: 0.1 + images / 2)),
            torch.tensor([[[0.1, 0.2], [0.4, 0.6]]]),
        ),
        (queried(constant(0.25)), torch.full((1, 2, 2), 0.25)),
        (queried(constant(0.45)), torch.full((1, 2, 2), 0.45)),
        (QueriedNoise(constant(0.3), 4.0, 0.3, 0.3), torch.full((1, 2, 2), 0.3)),
    ],
    ids=lambda value: value.kind if isinstance(value, NoiseModel) else "",
)
def test_mean_and_standard_deviation(
    noise: NoiseModel, sigma: Tensor, through_copies: bool
) -> None:
    count = 100_000
    image = torch.tensor([[[0.0, 0.2], [0.6, 1.0]]])
    generator = torch.Generator().manual_seed(3)
    if through_copies:
        noisy, used = noise.copies(image[None], count, generator, share_query=False)
    else:
        normals = tuple(
            torch.randn(count, 1, 2, 2, generator=generator) for _ in range(noise.lanes)
        )
        noisy, used = noise(image[None], normals, noise.prepare(image[None]))
    assert noisy.shape == (count, 1, 2, 2)
    assert torch.allclose(used.expand_as(noisy), sigma.expand_as(noisy))
    noisy, sigma = noisy.double(), sigma.double()
    # Five standard errors: passed by chance once in 200,000 comparisons.
    assert bool(((noisy.mean(0) - image).abs() < 5 * sigma / math.sqrt(count)).all())
    assert bool(((noisy.std(0) - sigma).abs() < 5 * sigma / math.sqrt(2 * count)).all())
    correlation = torch.corrcoef(noisy.flatten(1).T).fill_diagonal_(0.0)
    assert float(correlation.abs().max()) < 5 / math.sqrt(count)


def test_noise_is_not_clipped() -> None:
    noisy, _ = IsotropicNoise(1.0)(torch.ones(1, 1, 1, 1), (torch.full((1, 1, 1, 1), 5.0),))
    assert float(noisy) == 6.0


@settings(max_examples=100, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.01, 1.99), st.floats(2.0, 5.0), *[st.floats(-8.0, 8.0)] * 2)
def test_a_queried_copy_is_the_precision_weighted_mean_of_two_queries(
    x: float, tau: float, q: float, xi: float, eps: float
) -> None:
    def tensor(value: float) -> Tensor:
        return torch.full((1, 1, 1, 1), value, dtype=torch.float64)

    noise = QueriedNoise(Map(lambda images: torch.full_like(images, tau)), q, 0.05, 1.9)
    z, used = noise(tensor(x), (tensor(xi), tensor(eps)))
    m1, tau = x + q * xi, float(used)
    # The second query that z implies: x + s * eps with the second normal and no other.
    s = (tau**-2 - q**-2) ** -0.5
    m2 = (float(z) / tau**2 - m1 / q**2) * s**2
    assert (m2 - x) / s == pytest.approx(eps, abs=2e-5)  # tau is float32


# (first query, second query, weight of each, standard deviation of the combination)
@pytest.mark.parametrize(
    ("q", "s", "weight_1", "weight_2", "tau"),
    [
        (0.6, 0.275, 0.17360114777618363, 0.8263988522238164, 0.24999282629592817),
        (0.6, 0.9, 0.6923076923076923, 0.3076923076923077, 0.4992301766027062),
        (1.0, 0.5, 0.2, 0.8, 0.4472135954999579),
        (1.0, 1.0, 0.5, 0.5, 0.7071067811865476),
    ],
)
def test_combination_against_reference_values(
    q: float, s: float, weight_1: float, weight_2: float, tau: float
) -> None:
    noise = QueriedNoise(constant(tau), q, tau, tau)
    x, xi, eps = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (0.3, 1.7, -0.9))
    z, _ = noise(x, (xi, eps))
    assert float(z) == pytest.approx(
        weight_1 * (0.3 + q * 1.7) + weight_2 * (0.3 + s * -0.9), abs=1e-7
    )


EFFECTIVE = json.loads((Path(__file__).parents[1] / "data_files" / "composed.json").read_text())[
    "composed_effective_box"
]


@pytest.mark.parametrize("row", EFFECTIVE)
def test_the_box_of_the_implied_second_query_against_reference_values(
    row: dict[str, float],
) -> None:
    """Maps in [a_eff, wb_eff] of the noise as deployed are a second query's in [a, wb]."""
    q = row["s1"]
    zero, one = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.0, 1.0))
    for tau, expected in ((row["a_eff"], row["a"]), (row["wb_eff"], row["wb"])):
        noise = QueriedNoise(constant(tau), q, row["a_eff"], row["wb_eff"])
        z, used = noise(zero, (zero, one))
        # With m1 = x = 0, z is the second query times its share of the precision.
        assert float(z) / (1 - (float(used) / q) ** 2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tau", [0.25, 0.4])
def test_the_implied_second_query_is_normal_and_independent_of_the_first(tau: float) -> None:
    count = 100_000
    generator = torch.Generator().manual_seed(4)
    xi, eps = (
        torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    image = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    z, _ = queried(constant(tau))(image, (xi, eps))
    m1 = image + QUERY * xi
    s = (tau**-2 - QUERY**-2) ** -0.5
    second = ((z / tau**2 - m1 / QUERY**2) * s**2 - image).flatten() / s
    first = xi.flatten()
    bound = 5 / math.sqrt(count)
    assert abs(float(second.mean())) < bound
    assert abs(float(second.std()) - 1) < bound / math.sqrt(2)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < bound
    assert abs(float(torch.corrcoef(torch.stack([first**2, second**2]))[0, 1])) < bound


# ---------------------------------------------------------------- what the generator sees


def test_the_generator_of_queried_noise_sees_the_query_only() -> None:
    generator = Map(wavy)
    images = some_images()
    xi, eps = torch.randn(2, *images.shape, generator=torch.Generator().manual_seed(5))
    _, tau = queried(generator)(images, (xi, eps))
    assert len(generator.seen) == 1
    assert torch.allclose(generator.seen[0], images + QUERY * xi)
    assert torch.allclose(tau, wavy(images + QUERY * xi).clamp(LOW, HIGH))


def test_images_with_the_same_query_get_the_same_map() -> None:
    noise = queried(Map(wavy))
    generator = torch.Generator().manual_seed(6)
    x, delta, xi, eps = torch.randn(4, 1, 3, 4, 4, generator=generator, dtype=torch.float64)
    z, tau = noise(x, (xi, eps))
    shifted_z, shifted_tau = noise(x + delta, (xi - delta / QUERY, eps))
    assert torch.allclose(tau, shifted_tau)
    # And z moves by what the second query moves, weighted by its share of the precision.
    assert torch.allclose(shifted_z - z, (1 - (tau / QUERY) ** 2) * delta)


def test_nothing_of_queried_noise_is_computed_from_the_clean_image() -> None:
    generator = Map(wavy)
    assert queried(generator).prepare(some_images()) is None
    assert IsotropicNoise(0.5).prepare(some_images()) is None
    assert generator.seen == []


def test_the_generator_of_generated_noise_sees_the_image_once_and_no_noise() -> None:
    generator = Map(wavy)
    noise = GeneratedNoise(generator)
    images = some_images()
    sigma = noise.prepare(images)
    assert sigma is not None
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    noisy, used = noise(images, (eps,), sigma)
    assert len(generator.seen) == 1
    assert torch.equal(generator.seen[0], images)
    assert torch.equal(used, wavy(images))
    assert torch.allclose(noisy, images + wavy(images) * eps)
    assert torch.equal(noise(images, (eps,))[0], noisy)


@pytest.mark.parametrize("output", [-1e9, 0.0, 0.1, 0.3, 0.9, 1e9, math.inf, -math.inf])
@pytest.mark.parametrize(("low", "high"), [(0.25, 0.45), (0.1, 0.3), (0.3, 0.3), (0.2, 0.49999999)])
def test_a_misbehaving_generator_cannot_leave_the_box(
    output: float, low: float, high: float
) -> None:
    noise = queried(constant(output), low, high)
    images = some_images()
    xi, eps = torch.randn(2, *images.shape, generator=torch.Generator().manual_seed(8))
    noisy, tau = noise(images, (xi, eps))
    for value in (float(tau.min()), float(tau.max())):
        assert np.float32(low) <= value <= np.float32(high)
    assert bool(noisy.isfinite().all())
    for share in (True, False):
        noisy, tau = noise.copies(images, 3, torch.Generator().manual_seed(9), share)
        assert np.float32(low) <= float(tau.min()) <= float(tau.max()) <= np.float32(high)
        assert bool(noisy.isfinite().all())


@pytest.mark.parametrize(("dtype", "low"), [(torch.bfloat16, 0.7), (torch.float16, 0.1)])
def test_a_generator_of_low_precision_cannot_go_below_the_box(
    dtype: torch.dtype, low: float
) -> None:
    generator = Map(lambda images: torch.zeros_like(images, dtype=dtype))
    noise = QueriedNoise(generator, 1.0, low, 0.95)
    images = some_images()
    _, tau = noise(images, (torch.zeros_like(images), torch.zeros_like(images)))
    claimed = noise.region(float(ndtr(1.0)), tau[0].float(), images[0].numel()).radius
    assert claimed <= float(tau.min()) * (1 + 1e-12)


# --------------------------------------------------------------------------- training copies


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(
    ("noise", "share", "maps"),
    [
        (IsotropicNoise(1e-4), True, 2),
        (StaticNoise(torch.full((3, 4, 4), 1e-4)), True, 2),
        (GeneratedNoise(constant(1e-4)), True, 2),
        (QueriedNoise(constant(1e-4), 0.5, 1e-4, 0.1), True, 2),
        (QueriedNoise(constant(1e-4), 0.5, 1e-4, 0.1), False, None),
    ],
    ids=["isotropic", "static", "generated", "queried", "queried-unshared"],
)
def test_shapes_of_training_copies(
    noise: NoiseModel, share: bool, maps: int | None, m: int
) -> None:
    images = some_images()
    noisy, sigma = noise.copies(images, m, torch.Generator().manual_seed(0), share)
    assert noisy.shape == (2 * m, 3, 4, 4)
    assert sigma.shape == (maps or 2 * m, 3, 4, 4)
    # Copies of an image are adjacent, and different.
    assert torch.allclose(noisy, images.repeat_interleave(m, dim=0), atol=1e-3)
    assert len(torch.unique(noisy.flatten(1), dim=0)) == 2 * m


@pytest.mark.parametrize("share", [True, False])
def test_copies_repeat_with_the_generator_and_leave_the_global_one_alone(share: bool) -> None:
    state = torch.random.get_rng_state()
    noise, images = queried(Map(wavy)), some_images()
    first, second, other = (
        noise.copies(images, 2, torch.Generator().manual_seed(seed), share)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_copies_that_share_a_query_are_normal_around_its_conditional_mean() -> None:
    generator, m = Map(wavy), 50_000
    images = some_images(2, 1, 2)
    noisy, tau = queried(generator).copies(images, m, torch.Generator().manual_seed(2))
    (query,) = generator.seen
    assert query.shape == images.shape
    assert torch.allclose(tau, wavy(query))
    ratio = (tau / QUERY) ** 2
    mean = (1 - ratio) * images + ratio * query
    deviation = tau * (1 - ratio).sqrt()
    groups = noisy.unflatten(0, (2, m)).double()
    assert bool(((groups.mean(1) - mean).abs() < 5 * deviation / math.sqrt(m)).all())
    assert bool(((groups.std(1) - deviation).abs() < 5 * deviation / math.sqrt(2 * m)).all())


def test_copies_with_queries_of_their_own() -> None:
    generator = Map(wavy)
    images = some_images()
    noisy, tau = queried(generator).copies(images, 3, torch.Generator().manual_seed(2), False)
    (query,) = generator.seen
    assert query.shape == noisy.shape == tau.shape
    assert torch.allclose(tau, wavy(query))
    assert len(torch.unique(query.flatten(1), dim=0)) == 6


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["generated", "queried"])
def test_gradients_reach_the_generator(kind: str, share: bool) -> None:
    network = CoarseGenerator(3, LOW, HIGH)
    noise: NoiseModel = GeneratedNoise(network) if kind == "generated" else queried(network)
    noisy, sigma = noise.copies(some_images(), 2, torch.Generator().manual_seed(0), share)
    for output in (noisy.square().sum(), sigma.sum()):
        gradients = torch.autograd.grad(output, list(network.parameters()), retain_graph=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_gradient_of_the_combination() -> None:
    generator = torch.Generator().manual_seed(1)
    images, xi, eps = torch.randn(3, 2, 1, 2, 2, generator=generator, dtype=torch.float64)
    tau = 0.25 + 0.2 * torch.rand(2, 1, 2, 2, generator=generator, dtype=torch.float64)
    noise = queried(constant(0.3))
    assert torch.autograd.gradcheck(
        noise.combine,
        tuple(tensor.requires_grad_() for tensor in (images, xi, eps, tau)),
    )


# ---------------------------------------------------------------- settings and certificates


@pytest.mark.parametrize("sigma", [0.0, -0.5, math.nan, math.inf])
def test_an_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ConcertError, match="sigma must be a positive number"):
        IsotropicNoise(sigma)
    with pytest.raises(ConcertError, match="query_sigma must be a positive number"):
        QueriedNoise(constant(0.3), sigma, 0.25, 0.45)
    with pytest.raises(ConcertError, match="low must be a positive number"):
        QueriedNoise(constant(0.3), 0.5, sigma, 0.45)
    with pytest.raises(ConcertError, match="positive, finite entries"):
        StaticNoise(torch.tensor([[[0.5, sigma]]]))


def test_a_static_map_without_channels_is_refused() -> None:
    with pytest.raises(ConcertError, match=r"\(C, H, W\).*got shape \(4, 4\)"):
        StaticNoise(torch.ones(4, 4))


@pytest.mark.parametrize(
    ("query", "low", "high"), [(0.5, 0.25, 0.5), (0.5, 0.25, 0.6), (0.5, 0.4, 0.3)]
)
def test_a_query_with_too_little_noise_is_refused(query: float, low: float, high: float) -> None:
    with pytest.raises(ConcertError, match="low <= high < query_sigma") as caught:
        QueriedNoise(constant(0.3), query, low, high)
    assert "\n" not in str(caught.value)


def test_kinds_certificates_and_guarantees() -> None:
    models: list[NoiseModel] = [
        IsotropicNoise(0.5),
        StaticNoise(STATIC_MAP),
        GeneratedNoise(constant(0.3)),
        queried(constant(0.3)),
    ]
    stated = [(m.kind, m.certificate, m.guarantee, m.lanes) for m in models]
    assert stated == [
        ("isotropic", "isotropic", Guarantee.DEPLOYED, 1),
        ("static", "static", Guarantee.DEPLOYED, 1),
        ("generated", "frozen", Guarantee.FROZEN, 1),
        ("queried", "queried", Guarantee.DEPLOYED, 2),
    ]
    for model in models:
        region = model.region(0.9, torch.full((1, 2, 2), 0.3), 4)
        assert region.certificate in model.certificates
        assert region.guarantee == model.guarantee
        assert model.settings()["kind"] == model.kind
    assert models[3].settings() == {
        "kind": "queried",
        "query_sigma": QUERY,
        "low": LOW,
        "high": HIGH,
    }


@pytest.mark.parametrize("sigma", [0.1, 0.12, 0.25, 0.3, 0.5, 0.7, 1.0, 1 / 3])
def test_the_radius_rests_on_no_more_noise_than_is_added(sigma: float) -> None:
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    p_lower, rhat = 0.93, float(ndtri(0.93)) * (1 + 1e-15)
    shortest = QueriedNoise(constant(0.0), 2.0, sigma, 1.5)
    for noise, used, claimed in [
        (isotropic := IsotropicNoise(sigma), float(isotropic(zero, (one,))[0]), sigma),
        (static := StaticNoise(one[0].double() * sigma), float(static(zero, (one,))[0]), math.inf),
        (shortest, float(shortest(zero, (zero, one))[1]), sigma),
    ]:
        assert abs(used - sigma) < 1e-7
        radius = noise.region(p_lower, torch.full((1, 1, 1), used), 1).radius
        # The settings are real numbers and the noise is float32: the smaller of both.
        assert radius <= min(used, claimed) * rhat
        assert radius == pytest.approx(sigma * rhat, rel=1e-6)


def test_what_each_model_claims() -> None:
    sigma_map = torch.full((1, 2, 2), 0.3)
    floor = torch.tensor([[[0.3, 0.28], [0.4, 0.26]]])
    for model in (
        IsotropicNoise(0.5),
        StaticNoise(STATIC_MAP),
        GeneratedNoise(constant(0.3)),
        queried(constant(0.3)),
    ):
        assert model.certificates[0] == model.certificate
        assert model.needs_floor(model.certificate) == (model.kind == "queried")
        name = "queried-ball" if model.kind == "queried" else model.certificate
        (claim,) = model.claims(name, sigma_map)
        assert claim.alpha_share == 1.0
        assert claim.floor is None
        got, wanted = claim.region(0.9), model.region(0.9, sigma_map, 4)
        assert (got.radius, got.certificate, got.dim) == (wanted.radius, wanted.certificate, 4)
    model = queried(constant(0.3))
    assert model.certificates == ("queried", "queried-ball")
    assert model.needs_floor("queried")
    ball, ellipsoid = model.claims("queried", sigma_map, floor)
    assert ball.alpha_share + ellipsoid.alpha_share <= 1.0
    assert ball.floor is None
    assert ellipsoid.floor is floor
    assert ball.region(0.9).radius == model.region(0.9, sigma_map, 4).radius
    region = ellipsoid.region(0.9)
    assert region.axes is not None
    assert torch.allclose(region.axes, floor.double() * float(ndtri(0.9)), rtol=2e-6)
    assert region.radius == pytest.approx(0.26 * float(ndtri(0.9)), rel=2e-6)


def test_the_map_of_a_draw_is_the_one_its_copy_used() -> None:
    images = some_images()
    xi, eps = torch.randn(2, *images.shape, generator=torch.Generator().manual_seed(8))
    noise = queried(Map(wavy))
    assert torch.equal(noise.sigma_map_of(images, xi), noise(images, (xi, eps))[1])


def test_the_queried_radius_uses_the_box_and_not_the_map() -> None:
    noise = queried(constant(0.4))
    small = noise.region(0.9, torch.full((1, 2, 2), 0.4), 4)
    assert small.radius == pytest.approx(LOW * float(ndtri(0.9)), rel=1e-6)
    assert small.dim == 4


def test_the_static_region_uses_the_map_of_the_model() -> None:
    region = StaticNoise(STATIC_MAP).region(0.9, torch.full((1, 2, 2), 9.0), 4)
    assert region.axes is not None
    assert torch.allclose(region.axes, STATIC_MAP.double() * float(ndtri(0.9)), rtol=1e-12)


def test_a_static_map_of_another_shape_never_gives_a_wrong_dimension() -> None:
    images = some_images()
    noise = StaticNoise(torch.full((3, 1, 1), 0.25))
    try:
        sigma = noise.prepare(images)
    except ConcertError:
        return
    assert sigma is not None
    assert noise.region(0.9, sigma[0], images[0].numel()).dim == images[0].numel()


def test_a_static_map_of_the_wrong_size_is_one_line() -> None:
    with pytest.raises(ConcertError, match=r"sigma map.*\(3, 5, 5\)"):
        StaticNoise(torch.full((3, 5, 5), 0.25)).prepare(some_images())


# -------------------------------------------------------------- attempts to break certificates
#
# In one or two dimensions the worst classifier for a given shift can be found numerically. Given
# the query m1, the noisy copies of x and x + delta are normal with the same spread, so a classifier
# can tell them apart by one number u, standard normal at x and shifted by some D at x + delta. The
# worst class A is the set of cells of an (m1, u) grid with the smallest likelihood ratio whose
# probability at x is p; what is left of it at x + delta is the least that any classifier can keep.


def given_query(noise: QueriedNoise, x: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and spread of z given each query (nodes, d), and tau; z is affine in eps."""
    images = x.expand(len(nodes), 1, 1, -1)
    xi = (nodes[:, None, None] - images) / noise.query_sigma
    (centre, tau), (upper, _), (lower, _) = (
        noise(images, (xi, torch.full_like(xi, eps))) for eps in (0.0, 1.0, -2.0)
    )
    spread = upper - centre
    assert torch.allclose(lower, centre - 2 * spread)
    return centre[:, 0, 0], spread[:, 0, 0], tau[:, 0, 0]


def query_weights(x: Tensor, noise: QueriedNoise, nodes: Tensor) -> Tensor:
    density = torch.exp(-0.5 * ((nodes - x) / noise.query_sigma).square().sum(dim=1))
    return density / density.sum()


def worst_share(p0: Tensor, p1: Tensor, p: float) -> float:
    """The least mass under p1 of a set of cells with mass p under p0 (Neyman and Pearson)."""
    p0, p1 = p0.flatten(), p1.flatten()
    order = torch.argsort(p1 / p0.clamp(min=1e-300))
    mass = p0[order].cumsum(0)
    full = int(torch.searchsorted(mass, torch.tensor(p, dtype=torch.float64)))
    before = float(mass[full - 1]) if full else 0.0
    part = (p - before) / float(p0[order[full]])
    return float(p1[order[:full]].sum()) + part * float(p1[order[full]])


def attack(
    noise: QueriedNoise, x: Tensor, delta: Tensor, p: float, floor: Tensor | None = None
) -> float:
    """The least share that class A keeps at x + delta; with a floor, A lies where tau is above."""
    low, high = torch.minimum(x, x + delta), torch.maximum(x, x + delta)
    count, cells = (401, 401) if len(x) == 1 else (61, 121)
    axes = [
        torch.linspace(float(a) - 6 * QUERY, float(b) + 6 * QUERY, count, dtype=torch.float64)
        for a, b in zip(low, high, strict=True)
    ]
    nodes = torch.cartesian_prod(*axes).reshape(-1, len(x))
    centre, spread, tau = given_query(noise, x, nodes)
    shifted, shifted_spread, shifted_tau = given_query(noise, x + delta, nodes)
    assert torch.allclose(tau, shifted_tau)
    assert torch.allclose(spread, shifted_spread)
    distance = ((shifted - centre) / spread).norm(dim=1)
    edges = torch.linspace(-7.0, 7.0 + float(distance.max()), cells, dtype=torch.float64)[None]
    p0 = query_weights(x, noise, nodes)[:, None] * torch.special.ndtr(edges).diff()
    p1 = query_weights(x + delta, noise, nodes)[:, None]
    p1 = p1 * torch.special.ndtr(edges - distance[:, None]).diff(dim=1)
    if floor is not None:
        above = (tau >= floor).all(dim=1)
        p0, p1 = p0[above], p1[above]
    return worst_share(p0, p1, p)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_step(generator: np.random.Generator) -> Callable[[Tensor], Tensor]:
    breaks = torch.from_numpy(np.sort(generator.uniform(-1.5, 2.5, generator.integers(1, 12))))
    values = torch.from_numpy(generator.choice([LOW, HIGH, 0.3], len(breaks) + 1))
    return lambda images: values[torch.bucketize(images.sum(-1, keepdim=True), breaks)] + 0 * images


def random_smooth(generator: np.random.Generator) -> Callable[[Tensor], Tensor]:
    slopes, shifts = generator.uniform(-30, 30, (3, 2)), generator.uniform(-3, 3, 3)

    def function(images: Tensor) -> Tensor:
        last = images.flip(-1)  # each pixel's noise depends on the other pixel as well
        waves = [
            torch.sin(a * images + b * last + c) for (a, b), c in zip(slopes, shifts, strict=True)
        ]
        return LOW + (HIGH - LOW) * torch.sigmoid(6.0 * sum(waves))  # type: ignore[arg-type]

    return function


@pytest.mark.parametrize("seed", range(12))
def test_no_classifier_breaks_the_queried_ball(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise = queried(Map((random_step, random_smooth)[seed % 2](generator)))
    dim = 1 if seed < 8 else 2
    x = torch.from_numpy(generator.uniform(0, 1, dim))
    for p in (0.6, 0.9, 0.99):
        for size in (0.05, 0.4, 0.98, 1.5):
            direction = torch.from_numpy(generator.normal(size=dim))
            length = LOW * float(ndtri(p)) * size
            kept = attack(noise, x, length * direction / direction.norm(), p)
            assert kept >= float(ndtr(ndtri(p) - length / LOW)) - 1e-3
            if length < noise.region(p, torch.full((1, 1, dim), HIGH), dim).radius:
                assert kept > 0.5 - 1e-3


@pytest.mark.parametrize("p", [0.6, 0.9, 0.99])
@pytest.mark.parametrize("delta", [vector(0.1), vector(-0.3), vector(0.2, -0.1)])
@pytest.mark.parametrize("sigma", [LOW, HIGH])
def test_the_attack_reaches_cohens_bound_for_a_constant_map(
    p: float, delta: Tensor, sigma: float
) -> None:
    expected = float(ndtr(ndtri(p) - float(delta.norm()) / sigma))
    kept = attack(queried(constant(sigma)), torch.full_like(delta, 0.5), delta, p)
    assert kept == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_no_classifier_breaks_the_queried_ellipsoid(seed: int) -> None:
    """Class A counts only where tau >= floor, and keeps Phi(Phi^-1(p) - ||delta / floor||)."""
    generator = np.random.default_rng(100 + seed)
    dim = 1 + seed % 2
    noise = queried(Map((random_step, random_smooth)[seed // 2 % 2](generator)))
    x = torch.from_numpy(generator.uniform(0, 1, dim))
    nodes = x + QUERY * torch.from_numpy(generator.normal(size=(2000, dim)))
    _, _, tau = given_query(noise, x, nodes)
    for level in (0.02, 0.3):
        floor = tau.quantile(level, dim=0)
        often = float((tau >= floor).all(dim=1).double().mean()) - 0.05
        for p in (0.51, 0.7, 0.9):
            if p > often:
                continue
            direction = torch.from_numpy(generator.normal(size=dim))
            length = float(ndtri(p)) * generator.uniform(0.1, 1.5)
            delta = length * floor * direction / direction.norm()
            kept = attack(noise, x, delta, p, floor)
            assert kept >= float(ndtr(ndtri(p) - length)) - 1e-3


def test_the_ellipsoid_needs_the_floor_to_be_counted() -> None:
    """Without the condition on tau, the same axes are broken: the attack is a strong one."""
    noise = queried(Map(lambda m1: torch.where(m1 > 0.9, LOW, HIGH).to(m1.dtype)))
    x, delta, p = vector(0.5), vector(0.35), 0.75
    promised = float(ndtr(ndtri(p) - 0.35 / HIGH))
    assert attack(noise, x, delta, p) < promised - 0.01
    assert attack(noise, x, delta, p, vector(HIGH - 1e-6)) >= promised - 1e-3


def test_the_attack_breaks_noise_that_is_shaped_by_the_clean_image() -> None:
    low, high, p = 0.25, 0.5, 0.9
    noise = GeneratedNoise(Map(lambda x: low + (high - low) * torch.sigmoid(80 * (x - 0.06))))
    edges = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    rows = []
    for x in (0.0, 0.1):
        sigma = noise.prepare(torch.full((1, 1, 1, 1), x, dtype=torch.float64))
        assert sigma is not None
        rows.append(torch.special.ndtr((edges - x) / float(sigma)).diff())
    assert worst_share(rows[0], rows[1], p) < float(ndtr(ndtri(p) - 0.1 / low)) - 0.1


def test_the_frozen_radius_does_not_hold_for_the_deployed_classifier() -> None:
    """f = A iff |z| <= 0.25: claimed radius 0.1170, but the decision flips at 0.08."""
    noise = GeneratedNoise(Map(lambda x: 0.25 + 0.25 * torch.sigmoid(80 * (x - 0.06))))

    def sigma_at(x: float) -> float:
        sigma = noise.prepare(torch.full((1, 1, 1, 1), x, dtype=torch.float64))
        assert sigma is not None
        return float(sigma)

    def probability(x: float, sigma: float) -> float:
        return float(ndtr((0.25 - x) / sigma) - ndtr((-0.25 - x) / sigma))

    p = probability(0.0, sigma_at(0.0))
    assert p == pytest.approx(0.6787554066629466, abs=1e-9)
    region = noise.region(p, torch.full((1, 1, 1), sigma_at(0.0), dtype=torch.float64), 1)
    assert region.radius == pytest.approx(0.11700264031184084, abs=1e-9)
    assert region.guarantee is Guarantee.FROZEN
    assert region.radius > 0.11
    for x, deployed in [(0.08, 0.40914308694508017), (0.11, 0.3774798138827775)]:
        assert probability(x, sigma_at(x)) == pytest.approx(deployed, abs=1e-9)
        # What the certificate does promise: the class with the sigma map of the first image.
        assert probability(x, sigma_at(0.0)) > 0.5

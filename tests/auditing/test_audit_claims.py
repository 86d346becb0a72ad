"""Regions rebuilt from a log are those that certification gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counterexamples import HalfSpace
from torch import Tensor, nn

from concert.auditing.claims import claimed_region
from concert.errors import ConcertError
from concert.generator import build_generator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.records.record import COLUMNS, Certification, format_row, parse_cells
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

SHAPE = (1, 8, 8)
INDEX, SEED = 6, 2


def generator(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    network = build_generator(name, 1, 0.25, 0.45, arguments).eval()
    head = network.head
    # Freshly built maps hardly vary.
    nn.init.normal_(head.weight, std=0.3)
    return network


def static_map() -> Tensor:
    return 0.2 + 0.3 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


def noises() -> dict[str, tuple[NoiseModel, str]]:
    coarse = generator("coarse", pool=2)
    return {
        "isotropic": (IsotropicNoise(0.25), "auto"),
        "static": (StaticNoise(static_map()), "auto"),
        "frozen": (GeneratedNoise(coarse), "auto"),
        "queried ball": (QueriedNoise(coarse, 0.5, 0.25, 0.45), "auto"),
        "queried": (QueriedNoise(coarse, 0.5, 0.25, 0.45), "queried"),
        "queried codebook": (
            QueriedNoise(generator("codebook", codes=3, pool=2), 0.5, 0.25, 0.45),
            "queried",
        ),
    }


def certified(
    noise: NoiseModel, certificate: str, stopping: str = "full"
) -> tuple[SmoothedClassifier, Tensor, Certification, dict[str, Any], dict[str, Any]]:
    """A certification, with its row as it is read back from a log and the log's identity."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(4))
    classifier = HalfSpace(weight, float((weight * image).sum()) - 0.6 * float(weight.norm()))
    smoothed = SmoothedClassifier(
        classifier, noise, 2, SHAPE, SamplingSettings(batch_size=128, workers=1)
    )
    settings: dict[str, Any] = {"n0": 50, "n": 2000, "alpha": 0.01, "seed": SEED, "n_select": 300}
    (claim,) = smoothed.certify(
        image, indices=[INDEX], certificate=certificate, stopping=stopping, **settings
    )
    row = parse_cells(COLUMNS, format_row(claim, 0, 1.0).split("\t"))
    return smoothed, image, claim, row, settings | {"noise_source": "philox4x64-ziggurat"}


@pytest.mark.parametrize("stopping", ["full", "relative:0.1"])
@pytest.mark.parametrize("name", list(noises()))
def test_the_region_is_the_one_certified(name: str, stopping: str) -> None:
    noise, certificate = noises()[name]
    smoothed, image, claim, row, identity = certified(noise, certificate, stopping)
    assert claim.radius > 0
    region = claimed_region(smoothed, image, row, identity)
    assert (region.certificate, region.guarantee) == (claim.certificate, claim.guarantee)
    assert region.radius == claim.radius
    assert region.dim == 64
    if claim.axes is None:
        assert region.axes is None
    else:
        assert region.axes is not None
        assert torch.allclose(region.axes, claim.axes, rtol=1e-11, atol=0)
        assert float(claim.axes.max() / claim.axes.min()) > 1.05, "the ellipsoid is one"
    assert region.proxy_volume == pytest.approx(claim.proxy_volume, rel=1e-12)
    assert region.log_volume == pytest.approx(claim.log_volume, rel=1e-12)


def test_both_queried_cases_have_an_ellipsoid() -> None:
    """What makes the comparison above say something."""
    for name in ("queried", "queried codebook"):
        _, _, claim, _, _ = certified(*noises()[name])
        assert claim.axes is not None
        assert claim.proxy_volume > claim.radius


def test_another_map_than_the_one_certified_is_refused() -> None:
    smoothed, image, _, row, identity = certified(*noises()["frozen"])
    with pytest.raises(ConcertError, match="sigma map is not the one certified"):
        claimed_region(smoothed, image.flip(2), row, identity)


def test_other_noise_than_the_logs_is_refused() -> None:
    smoothed, image, _, row, identity = certified(*noises()["frozen"])
    other = SmoothedClassifier(smoothed.classifier, IsotropicNoise(0.3), 2, SHAPE)
    with pytest.raises(ConcertError, match="isotropic noise offers isotropic"):
        claimed_region(other, image, row, identity)


def test_draws_of_another_device_cannot_be_repeated() -> None:
    smoothed, image, _, row, identity = certified(*noises()["queried"])
    with pytest.raises(ConcertError, match="--accelerator"):
        claimed_region(smoothed, image, row, identity | {"noise_source": "torch-cuda"})

"""The paper's Algorithm 2 as a certificate: only by name, and with the guarantee that it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy import stats
from scipy.special import ndtri
from torch import Tensor, nn

from concert.certificates import Guarantee, algorithm2
from concert.certificates.input_dependent import input_dependent_radius
from concert.cli import main
from concert.errors import ConcertError
from concert.generator import CoarseGenerator, build_generator
from concert.noise import GeneratedNoise, IsotropicNoise, QueriedNoise
from concert.recipes.building import Description, build_base
from concert.records.reading import read_log
from concert.records.record import ABSTAIN, Certification
from concert.runs import save_model
from concert.sampling.sampler import SamplingSettings
from concert.smoothing import SmoothedClassifier

SHAPE = (1, 2, 2)
SMALL = SamplingSettings(batch_size=64, workers=1)


class Map(nn.Module):
    """A generator made of a function, with a box."""

    def __init__(self, function: Callable[[Tensor], Tensor], low: float, high: float) -> None:
        super().__init__()
        self.function, self.low, self.high = function, low, high

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class Level(Map):
    """A generator of one level per image."""

    one_level = True


class Bright(nn.Module):
    """Class 0 where the mean of all values exceeds a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1).mean(dim=1) - self.threshold
        return torch.stack([score, torch.zeros_like(score)], dim=1) * 1000.0


def slope(low: float, high: float) -> Callable[[Tensor], Tensor]:
    """Different at every pixel: low at the first, high at the last."""

    def function(images: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, images[0].numel()).reshape(images.shape[1:])
        return (low + (high - low) * ramp).clamp(low, high).expand_as(images)

    return function


def certify(
    generator: nn.Module, certificate: str, n: int = 2000, stopping: str = "full"
) -> Certification:
    model = SmoothedClassifier(Bright(0.5), GeneratedNoise(generator), 2, sampling=SMALL)
    image = torch.full(SHAPE, 0.9)
    return model.certify(image, n=n, certificate=certificate, stopping=stopping)[0]


# ------------------------------------------------------------------------ the radius


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.475), (0.5, 0.95), (1.0, 1.425)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_it_certifies_nothing_in_the_papers_boxes(
    low: float, high: float, shape: tuple[int, int, int]
) -> None:
    for sigma in (low, (low + high) / 2, high):
        region = algorithm2(0.99993, torch.full(shape, sigma).double(), low, high, Guarantee.NONE)
        assert region.radius == 0.0
        assert region.certificate == "algorithm2"


def test_it_certifies_something_in_a_narrow_box_of_few_dimensions() -> None:
    sigma_map = torch.tensor([0.25, 0.2505, 0.251]).reshape(1, 1, 3).double()
    region = algorithm2(0.99, sigma_map, 0.25, 0.2525, Guarantee.NONE)
    cohen = 0.25 * float(ndtri(0.99))
    assert 0.95 * cohen < region.radius < cohen
    assert region.radius == input_dependent_radius(0.99, 0.25, 0.25, 0.2525, 3)
    assert algorithm2(0.5, sigma_map, 0.25, 0.2525, Guarantee.NONE).radius == 0.0
    wider = algorithm2(0.99, sigma_map, 0.2, 0.3, Guarantee.NONE)
    assert wider.radius < region.radius


def test_a_map_outside_its_box_is_refused() -> None:
    with pytest.raises(ValueError, match="not in the box"):
        algorithm2(0.9, torch.full(SHAPE, 0.3), 0.25, 0.29, Guarantee.NONE)


# --------------------------------------------------------------------- as a certificate


def test_it_is_offered_beside_the_default_and_guarantees_nothing_for_maps() -> None:
    noise = GeneratedNoise(Map(slope(0.25, 0.26), 0.25, 0.26))
    assert noise.certificates == ("frozen", "algorithm2")
    assert noise.guarantee_of("auto") is noise.guarantee_of("frozen") is Guarantee.FROZEN
    assert noise.guarantee_of("algorithm2") is Guarantee.NONE
    assert "guarantees nothing" in noise.sentence_of("algorithm2")
    assert certify(noise.generator, "auto").certificate == "frozen"
    for other in (IsotropicNoise(0.5), QueriedNoise(CoarseGenerator(1, 0.2, 0.3), 0.5, 0.2, 0.3)):
        model = SmoothedClassifier(Bright(0.5), other, 2, sampling=SMALL)
        with pytest.raises(ConcertError, match="algorithm2"):
            model.certify(torch.full(SHAPE, 0.9), n=100, certificate="algorithm2")


@pytest.mark.parametrize("stopping", ["full", "relative:0.1", "grid:0,0.1,0.2"])
def test_a_certification_by_name(stopping: str) -> None:
    record = certify(Map(slope(0.25, 0.2525), 0.25, 0.2525), "algorithm2", stopping=stopping)
    assert (record.certificate, record.guarantee) == ("algorithm2", Guarantee.NONE)
    assert (record.label, record.reason, record.axes) == (0, "", None)
    expected = input_dependent_radius(record.p_lower, 0.25, 0.25, 0.2525, 4)
    assert record.radius == pytest.approx(expected, rel=1e-6)
    assert record.radius > 0.5
    assert record.proxy_volume == record.radius


@pytest.mark.parametrize("stopping", ["full", "relative:0.1", "grid:0,0.1"])
def test_a_radius_of_0_is_not_an_abstention(stopping: str) -> None:
    """As in Cohen's Certify: the class at the image is certain where p_lower > 1/2."""
    generator = Map(slope(0.25, 0.26), 0.01, 25.0)
    record = certify(generator, "algorithm2", stopping=stopping)
    assert record.p_lower > 0.9
    assert (record.label, record.radius, record.reason) == (0, 0.0, "")
    assert record.guarantee is Guarantee.NONE
    model = SmoothedClassifier(Bright(0.9), GeneratedNoise(generator), 2, sampling=SMALL)
    (undecided,) = model.certify(
        torch.full(SHAPE, 0.9), n=200, certificate="algorithm2", stopping=stopping
    )
    assert (undecided.label, undecided.radius) == (ABSTAIN, 0.0)
    assert "p_lower" in undecided.reason


def test_a_generator_without_a_box_is_refused_before_any_draw() -> None:
    class Bare(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("drawn")

    model = SmoothedClassifier(Bright(0.5), GeneratedNoise(Bare()), 2, sampling=SMALL)
    with pytest.raises(ConcertError, match="'low' and 'high'") as caught:
        model.certify(torch.full(SHAPE, 0.9), n=100, certificate="algorithm2")
    assert "\n" not in str(caught.value)


def test_a_generator_that_leaves_its_box_is_refused() -> None:
    with pytest.raises(ConcertError, match=r"\[0.25, 0.3\], outside its box \[0.25, 0.29\]"):
        certify(Map(slope(0.25, 0.3), 0.25, 0.29), "algorithm2", n=100)


@pytest.mark.parametrize("name", ["coarse", "paper", "bounded"])
def test_the_projects_generators_stay_in_their_boxes(name: str) -> None:
    torch.manual_seed(0)
    # Ends that float32 does not hold, and a box narrower than one float.
    for low, high in ((0.1, 0.7), (0.25, 0.25 + 1e-10)):
        generator = build_generator(name, 1, low, high).eval()
        noise = GeneratedNoise(generator)
        with torch.no_grad():
            sigma = noise.prepare(torch.rand(1, 1, 16, 16))
        assert sigma is not None
        assert noise.guarantee_of("algorithm2") is Guarantee.NONE
        (claim,) = noise.claims("algorithm2", sigma[0])
        assert claim.region(0.9).dim == 256


# ------------------------------------------------------------- one level for the image


def test_one_level_per_image_holds_for_the_deployed_classifier() -> None:
    noise = GeneratedNoise(Level(lambda x: 0.25 + x.mean(dim=(1, 2, 3), keepdim=True), 0.25, 0.26))
    assert noise.guarantee_of("algorithm2") is Guarantee.DEPLOYED
    assert noise.guarantee_of("frozen") is Guarantee.FROZEN
    images = torch.tensor([0.0, 0.004, 0.9]).reshape(3, 1, 1, 1).expand(3, *SHAPE)
    sigma = noise.prepare(images)
    assert sigma is not None
    assert sigma.shape == images.shape
    assert sigma[:, 0, 0, 0].tolist() == pytest.approx([0.25, 0.254, 0.26])
    assert noise.certificates == ("algorithm2", "frozen")
    record = certify(noise.generator, "auto")
    assert record.certificate == "algorithm2"
    assert record.guarantee is Guarantee.DEPLOYED
    assert record.radius > 0.3


def test_a_generator_cannot_break_its_word() -> None:
    """A map from a class that promises one level is reduced to one, inside the box."""
    noise = GeneratedNoise(Level(slope(0.1, 9.0), 0.25, 0.26))
    images = torch.rand(2, *SHAPE)
    sigma = noise.prepare(images)
    assert sigma is not None
    assert sigma.unique().tolist() == [0.25]
    noisy, used = noise(images, (torch.ones_like(images),))
    assert torch.equal(used, sigma)
    assert torch.allclose(noisy, images + 0.25)
    # The word is the class's: an attribute of an instance does not promise anything.
    lookalike = Map(slope(0.25, 0.26), 0.25, 0.26)
    lookalike.one_level = True  # type: ignore[assignment]
    assert GeneratedNoise(lookalike).guarantee_of("algorithm2") is Guarantee.NONE


def test_the_deployed_radius_holds_against_the_worst_classifier() -> None:
    """Monte-Carlo: the least favourable ball keeps more than half inside, not beyond."""
    dim, low, high, p = 4, 0.25, 0.3, 0.95
    radius = algorithm2(p, torch.full(SHAPE, low).double(), low, high, Guarantee.DEPLOYED).radius
    assert radius > 0
    gap = high**2 - low**2
    for size, holds in ((0.98, True), (1.02, False)):
        r = size * radius
        size_squared = low**2 * stats.ncx2.ppf(p, dim, (low * r / gap) ** 2)
        draw = torch.Generator().manual_seed(0)
        moved = high * torch.randn(400_000, dim, generator=draw, dtype=torch.float64)
        moved[:, 0] += r + low**2 * r / gap
        share = float((moved.square().sum(dim=1) <= size_squared).double().mean())
        assert (share > 0.5) is holds


# ------------------------------------------------------------------------ the command


def test_certify_by_name_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = (1, 28, 28)
    noise_settings = {
        "kind": "generated",
        "low": 0.25,
        "high": 0.475,
        "generator": "coarse",
        "generator_args": {},
    }
    classifier = {"name": "lenet", "init_args": {"image_size": 28}, "mean": None, "std": None}
    names = tuple(str(digit) for digit in range(10))
    description = Description(classifier, noise_settings, 10, shape, names, "digits")
    torch.manual_seed(0)
    base = build_base(description, trust=False)
    with torch.no_grad():
        list(base.parameters())[-1][3] = 100.0  # always the class 3
    noise = GeneratedNoise(CoarseGenerator(1, 0.25, 0.475))
    save_model(tmp_path / "run" / "model", description, base, noise)
    log_path = tmp_path / "algorithm2.tsv"
    arguments = ["--subset", "first:2", "--n", "100", "--n0", "10", "--log", str(log_path)]
    run = str(tmp_path / "run")
    assert main(["certify", run, *arguments, "--certificate", "algorithm2"]) == 0
    assert "guarantees nothing" in " ".join(capsys.readouterr().out.split())
    rows = read_log(log_path).frame
    assert rows["guarantee"].map(str).tolist() == ["none", "none"]
    assert rows["certificate"].tolist() == ["algorithm2", "algorithm2"]
    assert rows["radius"].tolist() == [0.0, 0.0]
    assert rows["predict"].tolist() == [3, 3]
    written = json.loads(log_path.with_suffix(".json").read_text())
    assert written["info"]["guarantee"] == "none"
    assert written["identity"]["certificate"] == "algorithm2"

"""Images under way together: certificates as of one after the other, in order, and no waste."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from test_sampling import CLASSES, SHAPE, Function, convolutional, image, noise_models, queried
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from concert.certification.certifying import certification
from concert.certification.procedure import Procedure
from concert.certification.selection import map_dips
from concert.errors import ConcertError
from concert.generator import CodebookGenerator
from concert.generator.box import gate
from concert.noise import GridNoise, IsotropicNoise, NoiseModel, QueriedNoise
from concert.records.record import Certification
from concert.sampling import mixing
from concert.sampling.counting import Count, Segment
from concert.sampling.sampler import LARGE_JOB, Sampler, SamplingSettings
from concert.sampling.settling import made_up, mixing_is_exact
from concert.sampling.votes import Request, Votes
from concert.sampling.work import Case, Steps, answer
from concert.smoothing import SmoothedClassifier
from concert.streams import Domain, Stream

MANY = LARGE_JOB * 1000
IMAGES = torch.stack([image(number) for number in range(6)])


def codebook() -> QueriedNoise:
    torch.manual_seed(3)
    generator = CodebookGenerator(3, 0.25, 0.5, codes=4, pool=2)
    return QueriedNoise(generator, 0.6, 0.25, 0.5)


def models() -> dict[str, NoiseModel]:
    return {**noise_models(), "codebook": codebook(), "grid": GridNoise(0.5)}


def smoothed(noise: NoiseModel, workers: int = 2) -> SmoothedClassifier:
    settings = SamplingSettings(batch_size=64, workers=workers)
    return SmoothedClassifier(convolutional(), noise, CLASSES, SHAPE, settings)


def made(noise: NoiseModel, batch_size: int = 64, workers: int = 2) -> Sampler:
    settings = SamplingSettings(batch_size=batch_size, workers=workers)
    return Sampler(convolutional(), noise, CLASSES, SHAPE, torch.device("cpu"), settings)


def one_by_one(model: SmoothedClassifier, points: Tensor, **options: Any) -> list[Certification]:
    """Every image alone, its batches holding nothing else."""
    assert not model.sampler(SHAPE).mixed
    procedure = Procedure(**options)
    found = []
    for index, point in enumerate(points):
        sampler = model.sampler(SHAPE)
        (accepted,) = model.noise.accept(point[None])
        found.append(sampler.run(accepted, certification(sampler, index, procedure)))
    return found


GRID = "grid:0,0.2,0.4,0.6"
CASES = [
    *((kind, "auto", GRID) for kind in ("isotropic", "static", "generated", "codebook", "grid")),
    ("isotropic", "auto", "full"),
    ("queried", "queried", GRID),
    ("queried", "queried", "relative:0.1"),
    ("queried", "queried-ball", "full"),
]


@pytest.mark.parametrize(("kind", "certificate", "stopping"), CASES)
def test_certificates_are_those_of_images_alone(kind: str, certificate: str, stopping: str) -> None:
    noise = models()[kind]
    points = (IMAGES * 255).round() / 255 if kind == "grid" else IMAGES
    options: dict[str, Any] = {"n": 1100, "n0": 40, "n_select": 100, "seed": 4}
    alone = one_by_one(
        smoothed(noise, 1), points, certificate=certificate, stopping=stopping, **options
    )
    together = smoothed(noise)
    together.sampler(SHAPE).settle(MANY)
    assert together.sampler(SHAPE).mixed
    records = together.certify(points, certificate=certificate, stopping=stopping, **options)
    assert records == alone
    for record, single in zip(records, alone, strict=True):
        assert (record.axes is None) == (single.axes is None)
        assert record.axes is None or torch.equal(record.axes, single.axes)
    assert len({record.votes for record in records}) == len(records)


def test_predictions_are_those_of_images_alone() -> None:
    for noise in (IsotropicNoise(0.5), codebook()):
        alone = smoothed(noise, 1)
        wanted = [alone.prediction_votes(IMAGES[[k]], 100, 1, [k])[0].counts for k in range(6)]
        together = smoothed(noise)
        together.sampler(SHAPE).settle(MANY)
        found = together.prediction_votes(IMAGES, 100, 1)
        assert [votes.counts.tolist() for votes in found] == [counts.tolist() for counts in wanted]


def test_batches_are_full_and_hold_several_images() -> None:
    rows: list[list[int]] = []
    with closing(made(IsotropicNoise(0.5))) as sampler:
        sampler.settle(MANY)
        count = sampler.batches.count

        def recorded(segments: list[Segment], crew: Any) -> Any:
            rows.append([segment.valid for segment in segments])
            return count(segments, crew)

        sampler.batches.count = recorded  # type: ignore[method-assign, assignment]
        cases = (
            Case(image(k), answer(Request(Stream(0, Domain.PREDICT, k), 48))) for k in range(40)
        )
        votes = [votes for votes, _ in sampler.drive(cases, MANY)]
    assert all(found.n == 48 for found in votes)
    assert sum(map(sum, rows)) == 40 * 48
    # 48 draws leave a quarter of a batch of 64; together they fill all but the last ones.
    assert len(rows) <= 40 * 48 // 64 + sampler.workers
    assert max(map(len, rows)) > 1


@pytest.mark.parametrize("mixed", [False, True])
def test_images_are_taken_when_there_is_room_and_results_come_in_order(mixed: bool) -> None:
    taken, given = 0, 0

    def cases() -> Iterator[Case[int]]:
        nonlocal taken
        for number in range(100):
            taken += 1
            # Some stop much earlier than those before them.
            yield Case(image(number), steps(number, 2000 if number % 10 == 0 else 10))

    def steps(number: int, n: int) -> Steps[int]:
        yield Request(Stream(0, Domain.PREDICT, number), n)
        return number

    with closing(made(IsotropicNoise(0.5))) as sampler:
        if mixed:
            sampler.settle(MANY)
        limit = 2 * sampler.workers * (4 if mixed else 1)
        seconds = []
        for number, spent in sampler.drive(cases(), draws=0):
            assert number == given
            given += 1
            assert taken <= given + limit
            seconds.append(spent)
    assert given == 100
    # Time follows the draws.
    assert np.mean(seconds[::10]) > 5 * np.mean([s for k, s in enumerate(seconds) if k % 10])


def test_an_error_comes_after_the_images_before_it() -> None:
    def steps(number: int) -> Steps[int]:
        yield Request(Stream(0, Domain.PREDICT, number), 100 if number == 5 else 3000)
        if number == 5:
            raise ConcertError("the fifth")
        return number

    with closing(made(IsotropicNoise(0.5))) as sampler:
        results = sampler.drive((Case(image(k), steps(k)) for k in range(50)), MANY)
        assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ConcertError, match="the fifth"):
            next(results)
        # The sampler can be used again.
        assert sampler.sample(image(), [Request(Stream(0, Domain.PREDICT, 0), 10)])[0].n == 10


class Fragile(nn.Module):
    """A classifier or generator that cannot do bright images: it raises, or gives no numbers."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.raises = raises

    def forward(self, images: Tensor) -> Tensor:
        bright = images.flatten(1).mean(1) > 50
        if self.raises:
            if bool(bright.any()):
                raise ConcertError("too bright")
            return images.flatten(1)[:, :CLASSES]
        sigma = torch.where(bright, math.nan, 0.3)[:, None, None, None].expand(images.shape)
        return gate(sigma, 0.25, 0.5)


@pytest.mark.parametrize("raises", [True, False])
def test_an_image_that_fails_in_a_batch_takes_no_other_with_it(raises: bool) -> None:
    def steps(number: int) -> Steps[int]:
        yield Request(Stream(0, Domain.PREDICT, number), 150)
        return number

    if raises:
        settings = SamplingSettings(batch_size=64, workers=2)
        noise: NoiseModel = IsotropicNoise(0.5)
        device = torch.device("cpu")
        sampler = Sampler(Fragile(True), noise, CLASSES, SHAPE, device, settings)
    else:
        sampler = made(QueriedNoise(Fragile(False), 0.6, 0.25, 0.5))
    points = [image(number) + (100.0 if number == 5 else 0.0) for number in range(50)]
    with closing(sampler):
        cases = (Case(point, steps(number)) for number, point in enumerate(points))
        results = sampler.drive(cases, MANY)
        assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        assert sampler.mixed
        with pytest.raises(ConcertError, match="too bright" if raises else "damaged"):
            next(results)


class Placed(nn.Module):
    """Its last bits depend on the place in the batch, as those of some kernels do."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1)[:, :CLASSES]
        return score + 1e-6 * torch.arange(len(images))[:, None]


class Accompanied(nn.Module):
    """Its last bits depend on the others in the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :CLASSES] + 1e-6 * images.mean()


@pytest.mark.parametrize("network", [Placed(), Accompanied()])
def test_batches_are_mixed_only_where_that_changes_no_bit(network: nn.Module) -> None:
    settings = SamplingSettings(batch_size=64, workers=2)
    with closing(
        Sampler(network, queried(), CLASSES, SHAPE, torch.device("cpu"), settings)
    ) as sampler:
        sampler.settle(MANY)
        assert not sampler.mixed
        requests = [Request(Stream(0, Domain.PREDICT, k), 100) for k in range(5)]
        (wanted,) = ([sampler.sample(image(), [request])[0] for request in requests],)
        cases = (Case(image(), answer(request)) for request in requests)
        found = [votes for votes, _ in sampler.drive(cases, MANY)]
    assert [v.counts.tolist() for v in found] == [v.counts.tolist() for v in wanted]


def test_a_generator_whose_bits_depend_on_the_place_is_found_too() -> None:
    def placed(images: Tensor) -> Tensor:
        places = torch.arange(len(images)).reshape(-1, 1, 1, 1)
        return (0.3 + 1e-6 * places + 0.1 * images.sigmoid()).expand_as(images)

    noise = QueriedNoise(Function(placed), 0.6, 0.25, 0.5)
    with closing(made(noise)) as sampler:
        assert not mixing_is_exact(sampler.batches, sampler.crew)


@pytest.mark.parametrize("noise", [queried(), codebook()], ids=["coarse", "codebook"])
def test_dips_are_the_same_whether_maps_are_kept_or_made_again(
    noise: QueriedNoise, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    fill = Stream.fill

    def recorded(stream: Stream, block: int, lane: int, out: Tensor) -> None:
        passes.append(block)
        fill(stream, block, lane, out)

    monkeypatch.setattr(Stream, "fill", recorded)
    found = []
    for room in (mixing.KEPT, 300 * math.prod(SHAPE) * 4 - 1):
        monkeypatch.setattr(mixing, "KEPT", room)
        with closing(made(noise)) as sampler:
            stream = Stream(1, Domain.SELECT, 0)
            passes.clear()
            found.append((*sampler.run(image(), map_dips(sampler.noise, stream, 300)), len(passes)))
    (mean, dips, once), (mean_again, dips_again, twice) = found
    assert torch.equal(mean, mean_again)
    assert torch.equal(dips, dips_again)
    assert twice == 2 * once


class Waiting(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: values, and sizes that depend on them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        waits = ("_local_scalar_dense", "nonzero", "bincount", "is_nonzero", "equal", "masked_sel")
        if any(name.startswith(f"aten::{word}") for word in waits):
            raise AssertionError(f"the host would wait: {name}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["isotropic", "static", "generated", "queried", "codebook"])
@pytest.mark.parametrize("classify", [True, False])
def test_no_batch_makes_the_host_wait(kind: str, classify: bool) -> None:
    with closing(made(models()[kind])) as sampler:
        batches, crew = sampler.batches, sampler.crew
        segments, counts = [], []
        for number in (0, 1):
            segment = made_up(batches, number, classify)
            request = Request(
                segment.request.stream,
                40,
                mean_map=True,
                floor=torch.full(SHAPE, 0.3),
                classify=classify,
                reference=torch.full(SHAPE, 0.4),
            )
            segments.append(Segment(segment.subject, request, 0, 32, keep_maps=True))
            counts.append(Count(request, CLASSES, SHAPE, torch.device("cpu"), 0))
        with Waiting():
            parts = batches.count(segments, crew)
            for count, segment, part in zip(counts, segments, parts, strict=True):
                count.add(segment, part)
        assert [count.votes().counts.sum() for count in counts] == [32 * classify] * 2
        with pytest.raises(AssertionError, match="would wait"), Waiting():
            bool(torch.ones(1) > 0)


def test_a_check_that_was_not_waited_for_is_made_at_the_end() -> None:
    noise = queried()
    noise.generator.head.weight.data.fill_(math.nan)
    sampler = made(IsotropicNoise(0.5))
    sampler.close()
    # The probe of a generator already meets it, so only the batches are given the damaged noise.
    with closing(made(queried())) as sampler:
        sampler.batches.noise = noise.eval()
        with pytest.raises(ConcertError, match="damaged"):
            sampler.sample(image(), [Request(Stream(0, Domain.PREDICT, 0), 200)])


def test_a_request_starts_at_a_batch() -> None:
    with closing(made(IsotropicNoise(0.5))) as sampler, pytest.raises(ValueError, match="of 64"):
        sampler.sample(image(), [Request(Stream(0, Domain.PREDICT, 0), 200, start=32)])


def votes_equal(some: Votes, other: Votes) -> bool:
    return some.counts.tolist() == other.counts.tolist()


def test_both_sides_of_a_mixed_batch_keep_their_floors() -> None:
    with closing(made(queried())) as sampler:
        steps = map_dips(sampler.noise, Stream(0, Domain.SELECT, 0), 64)
        mean, dips = sampler.run(image(), steps)
        floors = [mean * (1 - dips.median()), mean * (1 - dips.max()), None]
        requests = [
            Request(Stream(0, Domain.CERTIFY, k), 80, floor=floor) for k, floor in enumerate(floors)
        ]
        wanted = [sampler.sample(image(k), [request])[0] for k, request in enumerate(requests)]
        sampler.settle(MANY)
        cases = (Case(image(k), answer(request)) for k, request in enumerate(requests))
        found = [votes for votes, _ in sampler.drive(cases, MANY)]
    assert all(map(votes_equal, found, wanted))
    joints = [None if votes.joint is None else votes.joint.tolist() for votes in found]
    assert joints == [None if votes.joint is None else votes.joint.tolist() for votes in wanted]
    assert joints[2] is None
    assert joints[0] is not None
    assert 0 < sum(joints[0]) < 80

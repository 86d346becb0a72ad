"""The hot loop: counts equal a plain loop's, and nothing but the address decides a vote."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from concert.certification.selection import map_dips
from concert.engines.inference import inference_copy
from concert.errors import ConcertError
from concert.generator import CoarseGenerator
from concert.noise import GeneratedNoise, IsotropicNoise, NoiseModel, QueriedNoise, StaticNoise
from concert.sampling.sampler import Sampler, SamplingSettings
from concert.sampling.votes import Request, Votes, ballots, count
from concert.streams import DRAWS_PER_BLOCK, Domain, Stream

SHAPE = (3, 8, 8)
CLASSES = 4
STREAM = Stream(5, Domain.CERTIFY, 3)


class Function(nn.Module):
    """A classifier or generator made of a function, which copies of the module share."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class SharedConvolution(nn.Module):
    """One convolution before two different batch norms: folding either into it is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = random_batch_norm(3), random_batch_norm(3)

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.first(self.convolution(images)).relu()
        out: Tensor = self.second(self.convolution(hidden)).mean(dim=(2, 3))
        return out


class Branching(nn.Module):
    """What it does depends on its input's values, so it cannot be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.network(images)
        return out if float(images.sum()) > -1e9 else -out


def random_batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for tensor in (norm.weight, norm.running_var):
            assert tensor is not None
            tensor.copy_(0.5 + torch.rand(channels, generator=generator))
        for tensor in (norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.copy_(torch.randn(channels, generator=generator))
    return norm


def linear(shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def convolutional() -> nn.Sequential:
    """Conv, batch norm and dropout; untrained, so the logits are centred to make votes differ."""
    torch.manual_seed(12)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        random_batch_norm(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 6, 3, stride=2),
        random_batch_norm(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        head := nn.Linear(24, CLASSES),
    )
    noisy = image(99)[None] + torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        head.bias -= network.eval()(noisy).mean(dim=0)
        for parameter in head.parameters():
            parameter *= 10.0
    return network


def queried() -> QueriedNoise:
    torch.manual_seed(13)
    generator = CoarseGenerator(3, 0.25, 0.5, pool=2)
    nn.init.normal_(generator.head.weight, std=0.5)
    return QueriedNoise(generator, 0.6, 0.25, 0.5)


def noise_models() -> dict[str, NoiseModel]:
    noise = queried()
    static_map = 0.2 + torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    return {
        "isotropic": IsotropicNoise(0.5),
        "static": StaticNoise(static_map),
        "generated": GeneratedNoise(noise.generator),
        "queried": noise,
    }


def image(number: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(number))


def sampler(
    classifier: nn.Module,
    noise: NoiseModel | None = None,
    batch_size: int = 32,
    workers: int = 1,
    classes: int = CLASSES,
    margin: float = 1e-4,
) -> Sampler:
    return Sampler(
        classifier,
        noise or IsotropicNoise(0.5),
        classes,
        SHAPE,
        torch.device("cpu"),
        SamplingSettings(batch_size, margin, workers),
    )


def votes_of(made: Sampler, x: Tensor, n: int, stream: Stream = STREAM, mean: bool = True) -> Votes:
    with closing(made):
        return made.sample(x, [Request(stream, n, mean)])[0]


def plain_votes(
    classifier: nn.Module, noise: NoiseModel, x: Tensor, n: int, floor: Tensor | None = None
) -> Votes:
    """One draw after the other, each of its lanes filled anew."""
    joint = np.zeros(CLASSES, dtype=np.int64)
    classifier = copy.deepcopy(classifier).eval()
    channels, height, width = x.shape
    counts, total = np.zeros(CLASSES, dtype=np.int64), torch.zeros(x.shape, dtype=torch.float64)
    with torch.no_grad():
        for draw in range(n):
            normals = []
            for lane in range(noise.lanes):
                block = torch.empty(DRAWS_PER_BLOCK, height, width, channels)
                STREAM.fill(draw // DRAWS_PER_BLOCK, lane, block)
                normals.append(block[draw % DRAWS_PER_BLOCK].permute(2, 0, 1)[None])
            noisy, sigma = noise(x[None], tuple(normals), noise.prepare(x[None]))
            total += sigma.expand_as(noisy)[0]
            logits = classifier(noisy)[0].tolist()
            first, second = sorted(logits, reverse=True)[:2]
            if first - second >= 1e-4:
                counts[logits.index(first)] += 1
                if floor is not None and bool((sigma >= floor).all()):
                    joint[logits.index(first)] += 1
    return Votes(counts, n, (total / n).float(), joint)


@pytest.mark.parametrize("kind", ["isotropic", "static", "generated", "queried"])
@pytest.mark.parametrize("n", [1, 90])
def test_counts_and_mean_map_equal_those_of_a_plain_loop(kind: str, n: int) -> None:
    noise, classifier, x = noise_models()[kind], convolutional(), image()
    expected = plain_votes(classifier, noise, x, n)
    votes = votes_of(sampler(classifier, noise, workers=2), x, n)
    assert votes.counts.tolist() == expected.counts.tolist()
    assert votes.n == n
    assert n == 1 or np.count_nonzero(votes.counts) > 1
    assert votes.sigma_map is not None
    assert expected.sigma_map is not None
    assert votes.sigma_map.dtype == torch.float32
    assert torch.allclose(votes.sigma_map, expected.sigma_map, rtol=1e-5)


def test_joint_votes_equal_those_of_a_plain_loop() -> None:
    noise, classifier, x = queried(), convolutional(), image()
    with closing(sampler(classifier, noise, workers=2)) as made:
        mean, dips = made.run(x, map_dips(made.noise, STREAM, 90))
        floor = mean * (1 - dips.median())
        (votes,) = made.sample(x, [Request(STREAM, 90, floor=floor)])
        (all_votes,) = made.sample(x, [Request(STREAM, 90, floor=torch.full(SHAPE, 0.25))])
        (no_votes,) = made.sample(x, [Request(STREAM, 90, floor=torch.full(SHAPE, 0.51))])
        (unasked,) = made.sample(x, [Request(STREAM, 90)])
    expected = plain_votes(classifier, noise, x, 90, floor)
    assert expected.joint is not None
    for got in (votes, all_votes, no_votes, unasked):
        assert got.counts.tolist() == expected.counts.tolist()
    assert votes.joint is not None
    assert votes.joint.tolist() == expected.joint.tolist()
    assert 20 < votes.joint.sum() < 70
    assert all_votes.joint is not None
    assert all_votes.joint.tolist() == expected.counts.tolist()
    assert no_votes.joint is not None
    assert no_votes.joint.tolist() == [0] * CLASSES
    assert unasked.joint is None


@pytest.mark.parametrize("n", [1, 33, 100])
def test_dips_are_the_largest_relative_distances_below_the_mean_map(n: int) -> None:
    noise, x = queried(), image()
    channels, height, width = SHAPE
    maps = []
    with torch.no_grad():
        for draw in range(n):
            block = torch.empty(DRAWS_PER_BLOCK, height, width, channels)
            STREAM.fill(draw // DRAWS_PER_BLOCK, 0, block)
            xi = block[draw % DRAWS_PER_BLOCK].permute(2, 0, 1)[None]
            maps.append(noise.generator(x[None] + 0.6 * xi)[0])
    expected = torch.stack(maps)
    with closing(sampler(linear(), noise, workers=2)) as made:
        mean, dips = made.run(x, map_dips(made.noise, STREAM, n))
    assert torch.allclose(mean, expected.mean(dim=0), rtol=1e-5)
    assert torch.allclose(dips, (1 - expected / mean).flatten(1).amax(dim=1), atol=1e-5)
    assert dips.shape == (n,)
    # So the map stays above the mean map lowered by the dip, and touches it.
    ratio = (expected / ((1 - dips.reshape(-1, 1, 1, 1)) * mean)).flatten(1).amin(dim=1)
    assert torch.allclose(ratio, torch.ones(n), atol=1e-5)


def test_the_mean_map_of_queried_noise_is_not_the_map_of_the_image() -> None:
    noise, x = queried(), image()
    with torch.no_grad():
        tau = noise.generator(x[None])[0]
    votes = votes_of(sampler(linear(), noise), x, 64)
    assert votes.sigma_map is not None
    assert float((votes.sigma_map - tau).abs().max()) > 1e-3
    assert 0.25 < float(votes.sigma_map.min()) < float(votes.sigma_map.max()) < 0.5


def test_votes_do_not_depend_on_company_order_workers_or_rebuilding() -> None:
    noise, classifier = queried(), convolutional()
    tasks = [
        (image(number), Request(Stream(5, Domain.CERTIFY, number), 100, mean_map=True))
        for number in range(4)
    ]
    expected = [
        votes_of(sampler(classifier, noise), x, 100, request.stream) for x, request in tasks
    ]
    assert len({votes.counts.tobytes() for votes in expected}) > 1

    def check(votes: Votes, number: int) -> None:
        assert votes.counts.tolist() == expected[number].counts.tolist()
        assert votes.sigma_map is not None
        assert expected[number].sigma_map is not None
        assert torch.equal(votes.sigma_map, expected[number].sigma_map)

    for workers in (1, 2, 3):
        with closing(sampler(classifier, noise, workers=workers)) as made:
            for number in (3, 2, 1, 0, 0, 2):
                x, request = tasks[number]
                check(made.sample(x, [request])[0], number)
            # Other requests of the same call, before and after.
            x, request = tasks[1]
            other = Request(Stream(5, Domain.SELECT, 1), 70)
            for position, votes in enumerate(made.sample(x, [other, request, other])):
                if position == 1:
                    check(votes, 1)
                else:
                    assert votes.counts.sum() <= 70
                    assert votes.sigma_map is None


@pytest.mark.parametrize("batch_size", [16, 48, 64, 512])
def test_the_batch_size_does_not_change_the_noise(batch_size: int) -> None:
    x, noise = image(), IsotropicNoise(0.5)
    expected = votes_of(sampler(linear(), noise, 16), x, 1000).counts
    votes = votes_of(sampler(linear(), noise, batch_size), x, 1000)
    assert votes.counts.tolist() == expected.tolist()


def test_more_draws_continue_the_fewer() -> None:
    with closing(sampler(linear())) as made:
        counts = [made.sample(image(), [Request(STREAM, n)])[0].counts for n in range(95, 131)]
    steps = np.diff(np.array(counts), axis=0)
    assert bool((steps >= 0).all())
    assert bool((steps.sum(axis=1) <= 1).all())
    assert steps.sum() > 30


def test_a_request_can_continue_another() -> None:
    with closing(sampler(convolutional(), queried())) as made:
        whole, first, second, third = made.sample(
            image(),
            [
                Request(STREAM, 150, True),
                Request(STREAM, 32, True),
                Request(STREAM, 96, True, start=32),
                Request(STREAM, 150, True, start=96),
            ],
        )
    parts = [first, second, third]
    assert [votes.n for votes in parts] == [32, 64, 54]
    assert sum(votes.counts for votes in parts).tolist() == whole.counts.tolist()
    assert whole.sigma_map is not None
    total = sum(votes.n * votes.sigma_map for votes in parts)  # type: ignore[operator]
    assert torch.allclose(total / 150, whole.sigma_map)


def test_streams_give_different_votes() -> None:
    streams = [
        Stream(s, d, i) for s in (0, 1) for d in (Domain.SELECT, Domain.CERTIFY) for i in (0, 1)
    ]
    with closing(sampler(linear())) as made:
        votes = [made.sample(image(), [Request(s, 500)])[0].counts.tobytes() for s in streams]
    assert len(set(votes)) == len(streams)


@pytest.mark.parametrize("n", [1, 32, 33, 1000])
def test_every_pass_holds_one_full_batch_whatever_n(n: int) -> None:
    shapes: list[tuple[int, ...]] = []

    def function(images: Tensor) -> Tensor:
        if float(images.sum()) > 1e9:  # keeps it from being traced
            raise AssertionError
        shapes.append(tuple(images.shape))
        return images.flatten(1)[:, :CLASSES]

    made = sampler(Function(function), workers=2)
    shapes.clear()  # the probes
    votes_of(made, image(), n)
    assert shapes == [(32, *SHAPE)] * math.ceil(n / 32)


def test_the_maps_of_clean_images_are_computed_once() -> None:
    seen: list[Tensor] = []

    def function(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.full_like(images, 0.3)

    x = image()
    votes_of(sampler(linear(), GeneratedNoise(Function(function))), x, 200)
    # The other calls are of a probe, which checks that rows do not depend on each other.
    assert [torch.equal(images, x[None]) for images in seen].count(True) == 1
    assert torch.equal(seen[-1], x[None])


def test_draws_follow_the_binomial_law_of_a_linear_classifier() -> None:
    # Two classes with a gap of w.z + b: the first wins with probability Phi((w.x + b)/(sigma |w|)).
    weight = torch.randn(math.prod(SHAPE), generator=torch.Generator().manual_seed(1))
    x, sigma, n = image(), 0.5, 20_000
    for wanted in (0.02, 0.5, 0.9):
        quantile = float(torch.special.ndtri(torch.tensor(wanted)))
        bias = quantile * sigma * float(weight.norm()) - float(weight @ x.flatten())

        def function(images: Tensor, bias: float = bias) -> Tensor:
            score = images.flatten(1) @ weight + bias
            return torch.stack([score, torch.zeros_like(score)], dim=1)

        votes = votes_of(sampler(Function(function), classes=2, batch_size=256), x, n)
        error = 5 * math.sqrt(wanted * (1 - wanted) / n)
        assert abs(votes.counts[0] / n - wanted) < error
        assert votes.counts.sum() > 0.999 * n


# ------------------------------------------------------------------------------- undecided


def count_votes(logits: Tensor, margin: float) -> Tensor:
    """As the hot loop counts a batch."""
    return count(ballots(logits, margin), logits.shape[1])


def test_near_ties_and_damaged_logits_do_not_vote() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [
            [1.0, 0.0, 0.0],
            [0.0, 0.0, 2e-4],
            [0.0, 5e-5, 0.0],
            [3.0, 3.0, 3.0],
            [nan, 0.0, 9.0],
            [0.0, nan, nan],
            [inf, 0.0, 0.0],
            [-inf, 5.0, 0.0],
            [0.0, 7.0, 1.0],
        ]
    )
    assert count_votes(logits, 1e-4).tolist() == [1, 2, 1, 5]
    assert count_votes(logits.double(), 1e-4).tolist() == [1, 2, 1, 5]
    assert count_votes(logits[[0, 8]].half(), 1e-4).tolist() == [1, 1, 0, 0]
    assert count_votes(logits[:1], 1.0).tolist() == [1, 0, 0, 0]
    assert count_votes(logits[:1], 1.001).tolist() == [0, 0, 0, 1]


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 20), st.integers(2, 5)),
        elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, -3.0, 1e30, math.inf, math.nan]),
    ),
    st.sampled_from([1e-4, 0.25, 0.6]),
)
def test_count_votes_equals_a_plain_loop(logits: np.ndarray, margin: float) -> None:
    classes = logits.shape[1]
    expected = [0] * (classes + 1)
    for row in logits:
        first, second = sorted(row, reverse=True)[:2] if np.isfinite(row).all() else (0.0, 0.0)
        expected[int(row.argmax()) if first - second >= margin else classes] += 1
    assert count_votes(torch.from_numpy(logits), margin).tolist() == expected


def test_a_wide_margin_leaves_draws_undecided() -> None:
    x = image()
    counts = [
        votes_of(sampler(linear(), margin=margin), x, 500).counts for margin in (0.0, 0.2, 100.0)
    ]
    assert counts[0].sum() == 500
    assert 0 < counts[1].sum() < 500
    assert bool((counts[1] <= counts[0]).all())
    assert counts[2].sum() == 0


@pytest.mark.parametrize("damaged", ["everywhere", "one pixel"])
def test_a_generator_that_fails_never_gets_a_vote(damaged: str) -> None:
    def function(images: Tensor) -> Tensor:
        sigma = torch.full_like(images, 0.3)
        sigma[:, 0, 0, 0 if damaged == "one pixel" else slice(None)] = math.nan
        return sigma

    votes = votes_of(
        sampler(linear(), QueriedNoise(Function(function), 0.6, 0.25, 0.5)), image(), 50
    )
    assert votes.counts.tolist() == [0] * CLASSES


# ---------------------------------------------------------------------- the private copy


def test_batch_norm_is_folded_and_changes_nothing() -> None:
    classifier = convolutional()
    probe = torch.rand(2, *SHAPE)
    folded = inference_copy(classifier, probe, classifier(probe).shape[1], 1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training
    images = torch.rand(50, *SHAPE) + torch.randn(50, *SHAPE)
    with torch.no_grad():
        expected = copy.deepcopy(classifier).eval()(images)
        assert torch.allclose(folded(images), expected, rtol=1e-4, atol=1e-4)
        assert float(expected.std(dim=0).min()) > 1e-2
    made = sampler(classifier)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.network.network.modules())
    unfolded = votes_of(sampler(Branching(classifier)), image(), 300)
    assert votes_of(made, image(), 300).counts.tolist() == unfolded.counts.tolist()


@pytest.mark.parametrize(
    "classifier", [Branching(convolutional()), SharedConvolution()], ids=["untraceable", "shared"]
)
def test_a_classifier_that_cannot_be_folded_is_used_as_it_is(classifier: nn.Module) -> None:
    probe = torch.rand(2, *SHAPE)
    plain = inference_copy(classifier, probe, classifier(probe).shape[1], 1e-4)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules()) == 2
    with torch.no_grad():
        assert torch.allclose(plain(probe), copy.deepcopy(classifier).eval()(probe), atol=1e-5)


def test_the_classifier_and_noise_given_are_left_alone() -> None:
    classifier, noise = convolutional().train(), queried().train()
    before = copy.deepcopy(classifier.state_dict())
    made = sampler(classifier, noise)
    first = made.sample(image(), [Request(STREAM, 100, True)])[0]
    assert classifier.training
    assert noise.training
    assert all(parameter.requires_grad for parameter in noise.parameters())
    after = classifier.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # And later changes do not reach the sampler.
    with torch.no_grad():
        for parameter in [*classifier.parameters(), *noise.parameters()]:
            parameter.fill_(0.1)
    second = votes_of(made, image(), 100)
    assert second.counts.tolist() == first.counts.tolist()
    assert first.sigma_map is not None
    assert second.sigma_map is not None
    assert torch.equal(second.sigma_map, first.sigma_map)


def test_the_modes_of_submodules_are_left_alone() -> None:
    classifier = convolutional().train()
    classifier[1].eval()
    made = sampler(classifier)
    made.close()
    modes = [module.training for module in classifier.children()]
    assert modes == [position != 1 for position in range(len(modes))]


def test_sampling_leaves_global_state_alone() -> None:
    classifier, noise, x = convolutional(), queried(), image()
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    votes_of(sampler(classifier, noise, workers=2), x, 100)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_an_error_of_a_worker_is_the_callers() -> None:
    def function(images: Tensor) -> Tensor:
        if len(images) > 2 or float(images.sum()) > 1e9:
            raise ArithmeticError("in a worker")
        return images.flatten(1)[:, :CLASSES]

    with pytest.raises(ArithmeticError, match="in a worker"):
        votes_of(sampler(Function(function)), image(), 500)


# ------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("classes", [3, 5])
def test_a_wrong_number_of_classes_is_one_line(classes: int) -> None:
    with pytest.raises(ConcertError, match=rf"\(4,\).*num_classes is {classes}") as caught:
        sampler(convolutional(), classes=classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [-16, 1, 17, 100])
def test_a_batch_is_a_multiple_of_a_block(batch_size: int) -> None:
    with pytest.raises(ConcertError, match="multiple of 16"):
        SamplingSettings(batch_size=batch_size)


@pytest.mark.parametrize("margin", [-1e-9, math.nan])
def test_a_negative_margin_is_refused(margin: float) -> None:
    with pytest.raises(ConcertError, match="must not be negative"):
        SamplingSettings(vote_margin=margin)


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ConcertError, match="workers"):
        SamplingSettings(workers=-1)


def test_a_classifier_that_does_not_give_logits_is_one_line() -> None:
    def function(images: Tensor) -> Tensor:
        return (images.flatten(1)[:, :CLASSES], images)  # type: ignore[return-value]

    with pytest.raises(ConcertError, match="outputs"):
        sampler(Function(function))


def test_a_classifier_of_other_images_is_one_line() -> None:
    with pytest.raises(ConcertError, match=r"\(3, 8, 8\)"):
        sampler(linear((1, 28, 28)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_noise_is_float32_whatever_the_classifiers_precision(dtype: torch.dtype) -> None:
    expected = votes_of(sampler(linear()), image(), 100).counts
    votes = votes_of(sampler(linear().to(dtype)), image(), 100)
    assert abs(votes.counts - expected).sum() <= 10


def test_batch_sizes_follow_the_size_of_images() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    chosen = SamplingSettings()
    assert SamplingSettings(batch_size=48).resolved_batch_size((3, 224, 224), cuda) == 48
    for device in (cpu, cuda):
        sizes = [
            chosen.resolved_batch_size(shape, device)
            for shape in [(1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 224, 224)]
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert all(size > 0 and size % DRAWS_PER_BLOCK == 0 for size in sizes)

"""The number of workers comes from a warm-up that changes no vote and is made once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from test_sampling import CLASSES, SHAPE, convolutional, image
from torch import Tensor

from concert.engines import Engine
from concert.noise import IsotropicNoise
from concert.sampling import sampler as sampler_module
from concert.sampling.crew import candidates, fastest, remember, remembered
from concert.sampling.sampler import LARGE_JOB, Sampler, SamplingSettings
from concert.sampling.votes import Request
from concert.streams import Domain, Stream

SMALL, LARGE = 32 * LARGE_JOB - 1, 32 * LARGE_JOB


@pytest.fixture
def two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A processor on which torch may use two threads, and an empty cache folder."""
    monkeypatch.setenv("CONCERT_CACHE", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield tmp_path / "workers"
    finally:
        torch.set_num_threads(before)


def made(count: int = 0) -> Sampler:
    settings = SamplingSettings(batch_size=32, workers=count)
    device = torch.device("cpu")
    return Sampler(convolutional(), IsotropicNoise(0.5), CLASSES, SHAPE, device, settings)


def votes(sampler: Sampler) -> list[int]:
    (found,) = sampler.sample(image(), [Request(Stream(0, Domain.PREDICT, 0), 500)])
    return list(found.counts.tolist())


def test_candidates_use_all_threads() -> None:
    assert candidates(1) == [(1, 1)]
    assert candidates(2) == [(2, 1), (1, 2)]
    assert candidates(6) == [(6, 1), (3, 2), (1, 6)]


def test_the_fastest_is_found_and_must_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def work(seconds: float) -> Callable[[], int]:
        def spend() -> int:
            nonlocal clock
            clock += seconds
            return 10

        return spend

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    assert fastest([work(0.02), work(0.005), work(0.01)]) == 1
    assert fastest([work(0.0200), work(0.0199)]) == 0


@pytest.mark.parametrize("choice", [0, 1])
def test_a_large_job_is_warmed_up_for_once(
    choice: int, two_threads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def chosen(works: list[Callable[[], int]]) -> int:
        asked.append([work() for work in works])
        return choice

    monkeypatch.setattr("concert.sampling.settling.fastest", chosen)
    with closing(made()) as sampler:
        wanted = votes(sampler)
        sampler.settle(SMALL)
        assert not asked
        assert not two_threads.exists()
        sampler.settle(LARGE)
        sampler.settle(LARGE)
        # A round is a batch of 32 draws for every worker.
        assert asked == [[64, 32]]
        assert (sampler.crew.count, sampler.crew.threads) == [(2, 1), (1, 2)][choice]
        assert votes(sampler) == wanted
        assert sampler.thread_identity() == {}
    assert len(list(two_threads.iterdir())) == 1
    with closing(made()) as again:
        again.settle(LARGE)
        assert again.workers == 2 - choice
        assert votes(again) == wanted
    assert len(asked) == 1
    with closing(made(1)) as told:
        told.settle(LARGE)
        assert (told.crew.count, told.crew.threads) == (1, 2)
    assert len(asked) == 1


class Threaded(Engine):
    """Logits whose last bits depend on the number of threads."""

    def __init__(self, threads: int) -> None:
        self.name, self.threads = "threaded", threads

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :CLASSES] * (1.0 + 1e-6 * self.threads)


def test_threads_that_change_bits_are_not_chosen_and_are_named(
    two_threads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concert.sampling.settling.fastest", lambda works: len(works) - 1)
    monkeypatch.setattr(sampler_module, "build_engine", lambda *arguments: Threaded(arguments[-1]))
    monkeypatch.setattr(sampler_module.EngineChoice, "exported", property(lambda choice: True))
    monkeypatch.setattr(sampler_module.EngineChoice, "__post_init__", lambda choice: None)
    with closing(made()) as sampler:
        sampler.settle(LARGE)
        assert (sampler.crew.count, sampler.crew.threads) == (2, 1)
        assert sampler.thread_identity() == {}
    with closing(made(1)) as told:
        assert told.thread_identity() == {"threads": 2}


def test_a_damaged_memory_is_none(two_threads: Path) -> None:
    subject = {"engine": "e"}
    assert remembered(subject) is None
    remember(subject, 3)
    assert remembered(subject) == 3
    assert remembered({"engine": "f"}) is None
    (file,) = two_threads.iterdir()
    for content in ("", "{}", "[]", '{"workers": "x"}'):
        file.write_text(content)
        assert remembered(subject) is None

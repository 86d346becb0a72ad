"""Noise streams: the fixed numbers of an address, and that addresses do not share any."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from concert.errors import ConcertError
from concert.streams import (
    DRAWS_PER_BLOCK,
    Domain,
    Stream,
    fresh_seed,
    keyed_generator,
    source_name,
)

LARGEST = 2**63 - 1

# (seed, domain, index, block, lane) -> its first numbers. A contract: a log can be continued and
# a certificate repeated only as long as no release ever changes these.
GOLDEN = {
    (0, 2, 0, 0, 0): (2.4439878463745117, 0.46205928921699524, 0.8771948218345642),
    (0, 2, 0, 0, 1): (-1.2313283681869507, -0.6550253033638, -0.08542555570602417),
    (0, 2, 0, 1, 0): (1.0366902351379395, -1.0479120016098022, -1.299790859222412),
    (0, 2, 1, 0, 0): (-0.6975551247596741, -0.37086021900177, -0.27033907175064087),
    (7, 1, 3, 2, 1): (-0.35486510396003723, 0.5929431319236755, -1.259007453918457),
    (LARGEST, 6, 149999, 6249, 1): (0.4581579566001892, 1.1099351644515991, -1.4939547777175903),
}


def normals(
    size: int, seed: int = 0, domain: int = 2, index: int = 0, block: int = 0, lane: int = 0
) -> torch.Tensor:
    out = torch.empty(size)
    Stream(seed, Domain(domain), index).fill(block, lane, out)
    return out


def philox_4x64(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds of Philox 4x64 (Salmon, Moraes, Dror and Shaw, SC 2011)."""
    mask = 2**64 - 1
    for _ in range(10):
        first = 0xD2E7470EE14C6C93 * counter[0]
        second = 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 64) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def ziggurat_layers() -> list[float]:
    """Right ends of the 256 layers of equal area under exp(-x^2/2): the base, then upwards in x.

    The base strip is widened so that a uniform point of it falls beyond the start of the tail as
    often as it should (Marsaglia and Tsang 2000).
    """
    start, area = 3.6541528853610088, 0.00492867323399
    ends = [start]
    while len(ends) < 255:
        height = math.exp(-0.5 * ends[-1] ** 2) + area / ends[-1]
        ends.append(math.sqrt(-2.0 * math.log(height)))
    return [area / math.exp(-0.5 * start**2), *reversed(ends)]


def test_philox_written_out_agrees_with_its_published_answers() -> None:
    zeros, ones = [0] * 4, [2**64 - 1] * 4
    assert philox_4x64(zeros, zeros[:2])[:2] == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC]
    assert philox_4x64(ones, ones[:2])[:2] == [0x87B092C3013FE90B, 0x438C3C67BE8D0224]


@pytest.mark.parametrize("address", GOLDEN)
def test_golden_numbers(address: tuple[int, ...]) -> None:
    seed, domain, index, block, lane = address
    assert normals(3, seed, domain, index, block, lane).tolist() == list(GOLDEN[address])


@pytest.mark.parametrize("address", GOLDEN)
def test_golden_numbers_follow_from_philox_and_the_ziggurat_by_hand(
    address: tuple[int, ...],
) -> None:
    seed, domain, index, block, lane = address
    words = []
    for step in (1, 2):  # NumPy increments the counter before each block of four words
        for word in philox_4x64([step, lane, block, index], [seed, domain]):
            words += [word & 0xFFFFFFFF, word >> 32]
    # None of these first points is one of the 1.2 % that the ziggurat may reject.
    layers = ziggurat_layers()
    expected = []
    for word in words[:3]:
        layer, magnitude = word & 0xFF, word >> 9 & 0x7FFFFF
        x = magnitude * layers[layer] / 2**23
        expected.append(-x if word >> 8 & 1 else x)
    assert GOLDEN[address] == pytest.approx(expected, rel=3e-7)


@pytest.mark.parametrize("address", GOLDEN)
def test_a_block_is_numpy_philox_at_its_key_and_counter(address: tuple[int, ...]) -> None:
    seed, domain, index, block, lane = address
    philox = np.random.Philox(
        key=seed + (domain << 64), counter=(lane << 64) + (block << 128) + (index << 192)
    )
    expected = np.random.Generator(philox).standard_normal(500, dtype=np.float32)
    assert np.array_equal(normals(500, seed, domain, index, block, lane).numpy(), expected)


def test_domains_have_their_numbers_for_good() -> None:
    assert {domain.name: int(domain) for domain in Domain} == {
        "SELECT": 1,
        "CERTIFY": 2,
        "PREDICT": 3,
        "TRAIN": 4,
        "ATTACK": 5,
        "AUDIT": 6,
    }
    assert DRAWS_PER_BLOCK == 16


ADDRESSES = list(itertools.product((0, 1, LARGEST), (1, 2, 3), (0, 1, 2), (0, 1, 2), (0, 1)))


def test_no_two_addresses_share_numbers_even_shifted() -> None:
    runs: set[bytes] = set()
    for seed, domain, index, block, lane in ADDRESSES:
        numbers = normals(300, seed, domain, index, block, lane).numpy()
        # Windows of three: an overlapping counter would repeat a block's later numbers elsewhere.
        windows = np.lib.stride_tricks.sliding_window_view(numbers, 3)
        runs |= {window.tobytes() for window in windows}
    assert len(runs) == len(ADDRESSES) * 298


def test_addresses_are_uncorrelated() -> None:
    size = 2048
    rows = torch.stack([normals(size, s, d, i, b, lane) for s, d, i, b, lane in ADDRESSES]).double()
    for power in (1, 2):
        correlation = torch.corrcoef(rows**power).fill_diagonal_(0.0)
        # 13,041 pairs: six standard errors are passed by chance once in 40,000 runs.
        assert float(correlation.abs().max()) < 6.0 / math.sqrt(size)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, LARGEST),
    st.sampled_from(list(Domain)),
    st.integers(0, LARGEST),
    st.integers(0, 2**40),
    st.integers(0, 1),
    st.integers(1, 400),
)
def test_a_shorter_output_gets_the_beginning(
    seed: int, domain: Domain, index: int, block: int, lane: int, size: int
) -> None:
    whole = normals(400, seed, domain, index, block, lane)
    assert torch.equal(normals(size, seed, domain, index, block, lane), whole[:size])
    assert bool(whole.isfinite().all())


def test_the_shape_of_the_output_does_not_matter_and_all_of_it_is_overwritten() -> None:
    out = torch.full((4, 5, 6), torch.nan)
    Stream(3, Domain.TRAIN, 2).fill(1, 0, out)
    assert torch.equal(out.flatten(), normals(120, 3, 4, 2, 1))


def test_filling_from_threads_gives_the_same_numbers() -> None:
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda block: normals(5000, block=block), range(16)))
    assert all(torch.equal(numbers, normals(5000, block=b)) for b, numbers in enumerate(blocks))


def test_moments_and_tails_are_those_of_the_normal_distribution() -> None:
    numbers = torch.cat([normals(250_000, seed=5, block=block) for block in range(16)]).numpy()
    count = len(numbers)
    x = numbers.astype(np.float64)
    assert abs(x.mean()) < 5 / math.sqrt(count)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs(stats.skew(x)) < 5 * math.sqrt(6 / count)
    assert abs(stats.kurtosis(x)) < 5 * math.sqrt(24 / count)
    for bound in (1.0, 2.0, 3.0, 4.0, 4.8):
        expected = count * 2 * stats.norm.sf(bound)
        assert abs((abs(x) > bound).sum() - expected) < 5 * math.sqrt(expected)
    assert stats.kstest(x[:200_000], "norm").pvalue > 1e-4


def test_neighbours_within_a_block_are_uncorrelated() -> None:
    x = normals(1_000_000, seed=9).double()
    for lag in (1, 2, 3, 4, 8, 784):
        correlation = float((x[:-lag] * x[lag:]).mean())
        assert abs(correlation) < 5 / math.sqrt(len(x) - lag)


def test_bits_are_the_words_of_the_same_generator() -> None:
    out = torch.empty(3, 4, dtype=torch.int64)
    Stream(7, Domain.SELECT, 3).fill_bits(2, 1, out)
    expected: list[int] = []
    for step in (1, 2, 3):
        expected += philox_4x64([step, 1, 2, 3], [7, 1])
    assert [word % 2**64 for word in out.flatten().tolist()] == expected
    shorter = torch.empty(5, dtype=torch.int64)
    Stream(7, Domain.SELECT, 3).fill_bits(2, 1, shorter)
    assert torch.equal(shorter, out.flatten()[:5])


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (2**63, 0), (0, 2**63)])
def test_an_impossible_address_is_refused_in_one_line(seed: int, index: int) -> None:
    with pytest.raises(ConcertError, match=r"2\^63") as caught:
        Stream(seed, Domain.CERTIFY, index)
    assert "\n" not in str(caught.value)


def test_keyed_generators_of_different_addresses_differ() -> None:
    addresses = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 23), (12, 3), (123,), (-1,), (2**70,)]
    first = {tuple(torch.randn(4, generator=keyed_generator(*a)).tolist()) for a in addresses}
    assert len(first) == len(addresses)


def test_a_keyed_generator_repeats_and_takes_any_kind_of_integer() -> None:
    generators = [
        keyed_generator(Domain.TRAIN, np.int64(7), torch.tensor(3)),  # type: ignore[arg-type]
        keyed_generator(4, 7, 3),
    ]
    first, second = (torch.randn(100, generator=generator) for generator in generators)
    assert torch.equal(first, second)


def test_fresh_seeds_differ_and_are_valid() -> None:
    seeds = {fresh_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed <= LARGEST for seed in seeds)
    assert max(seeds) > 2**56


def test_the_source_is_named_after_the_device() -> None:
    assert source_name(torch.device("cpu")) == "philox4x64-ziggurat"
    assert source_name(torch.device("cuda", 1)) == "torch-cuda"
    assert source_name(torch.device("cpu"), "bits") == "philox4x64-bits"
    assert source_name(torch.device("cuda"), "bits") == "torch-cuda-bits"

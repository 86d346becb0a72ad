"""A traced network in faster operations gives the logits that it gave."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from concert.classifiers import LeNet, build_classifier
from concert.engines.inference import twin
from concert.engines.rewriting import (
    half_max,
    is_rewritten,
    missing_channels,
    rewritten,
    with_zeros,
)
from concert.errors import ConcertError


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3), (28, 28)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_torchs_to_the_bit(size: tuple[int, int], layout: torch.memory_format) -> None:
    images = torch.randn(3, 5, *size).contiguous(memory_format=layout)
    images[0, 0, 0, 0], images[1, 1, 0, 1], images[2, 2, 1, 1] = math.nan, math.inf, -math.inf
    wanted = functional.max_pool2d(images, 2)
    got = half_max(images)
    assert got.shape == wanted.shape
    assert torch.equal(got.nan_to_num(7.0), wanted.nan_to_num(7.0))


class Pooling(nn.Module):
    """A convolution and a pooling, as a module or as a function."""

    def __init__(self, pool: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 16, 3))
        self.pool = pool

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.inner(images))
        return pooled.flatten(1)


HALVES: dict[str, Callable[[Tensor], Any] | nn.Module] = {
    "module": nn.MaxPool2d(2),
    "module of pairs": nn.MaxPool2d((2, 2), (2, 2), (0, 0)),
    "function": lambda x: functional.max_pool2d(x, 2),
    "function with a stride": lambda x: functional.max_pool2d(x, kernel_size=(2, 2), stride=2),
    "torch's function": lambda x: torch.max_pool2d(x, 2),
}
OTHERS: dict[str, Callable[[Tensor], Any] | nn.Module] = {
    "padding": nn.MaxPool2d(2, padding=1),
    "overlapping": nn.MaxPool2d(2, stride=1),
    "three": nn.MaxPool2d(3),
    "ceiling": nn.MaxPool2d(2, ceil_mode=True),
    "dilated": lambda x: functional.max_pool2d(x, 2, dilation=2),
    "sides": lambda x: functional.max_pool2d(x, (2, 1)),
    "indices": lambda x: functional.max_pool2d(x, 2, return_indices=True)[0],
    "mean": nn.AvgPool2d(2),
}


@pytest.mark.parametrize("name", [*HALVES, *OTHERS])
def test_only_pooling_of_halves_is_rewritten(name: str) -> None:
    network = Pooling((HALVES | OTHERS)[name]).eval()
    images = torch.randn(4, 3, 9, 11)
    wanted = network(images)
    got = rewritten(fx.symbolic_trace(copy.deepcopy(network)))
    assert torch.equal(got(images), wanted)
    assert is_rewritten(got) == (name in HALVES)


@pytest.mark.parametrize(
    ("channels", "missing"), [(16, 0), (20, 0), (30, 2), (50, 14), (12, 4), (11, 0), (64, 0)]
)
def test_channels_of_zeros_are_few(channels: int, missing: int) -> None:
    assert missing_channels(nn.Conv2d(3, channels, 3)) == missing
    assert missing_channels(nn.Conv2d(channels, channels, 3, groups=channels)) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_channels_of_zeros_change_no_other_channel(bias: bool, mode: str) -> None:
    plain = nn.Conv2d(3, 50, 3, stride=2, padding=1, bias=bias, padding_mode=mode).double()
    wide = with_zeros(plain, 14)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    got = wide(images)
    assert torch.allclose(got[:, :50], plain(images), rtol=0, atol=1e-12)
    assert not got[:, 50:].any()


def test_lenet_is_rewritten_and_resnets_have_nothing_to_rewrite() -> None:
    lenet = LeNet().eval().double()
    images = torch.rand(5, 1, 28, 28, dtype=torch.float64)
    wanted = lenet(images)
    got = rewritten(fx.symbolic_trace(copy.deepcopy(lenet)))
    assert is_rewritten(got)
    assert torch.allclose(got(images), wanted, rtol=0, atol=1e-12)
    assert torch.equal(twin(got)(images), got(images))
    assert not is_rewritten(
        rewritten(fx.symbolic_trace(build_classifier("resnet20", 10, 3).eval()))
    )


def test_a_network_that_is_not_traced_is_left_alone() -> None:
    lenet = LeNet()
    assert rewritten(lenet) is lenet
    assert not is_rewritten(lenet)


def test_a_traced_lenet_still_refuses_other_sizes() -> None:
    traced = fx.symbolic_trace(LeNet().eval())
    with pytest.raises(ConcertError, match="this LeNet takes 28x28 images, not 32x32"):
        traced(torch.rand(1, 1, 32, 32))

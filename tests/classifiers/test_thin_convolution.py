"""The convolution with a fast image gradient is nn.Conv2d in every value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from concert.classifiers import LeNet
from concert.classifiers.thin_convolution import ThinConv2d


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_and_gradients(channels: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    thin, plain = ThinConv2d(channels, 6, 5), nn.Conv2d(channels, 6, 5)
    plain.load_state_dict(thin.state_dict())
    networks = [n.to(memory_format=layout) for n in (thin, plain)]  # type: ignore[call-overload]
    found = []
    for network in networks:
        images = torch.rand(4, channels, 12, 9, generator=torch.Generator().manual_seed(1))
        images.requires_grad_()
        features = network(images)
        features.square().sum().backward()
        gradients = images.grad, network.weight.grad, network.bias.grad
        found.append((features.detach(), *gradients))
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-4)


def test_gradients_by_differences() -> None:
    torch.manual_seed(0)
    layer = ThinConv2d(1, 3, 3).double()
    images = torch.rand(2, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        values = dict(zip(names, weights, strict=True))
        features: torch.Tensor = torch.func.functional_call(layer, values, (x,))
        return features

    assert torch.autograd.gradcheck(forward, (images, *layer.parameters()))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    network = LeNet()
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    network.requires_grad_(False)
    (gradient,) = torch.autograd.grad(network(images).sum(), images)
    assert float(gradient.abs().max()) > 0
    assert all(weight.grad is None for weight in network.parameters())

"""The networks: published parameter counts and checkpoint keys, shapes, memory formats."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from concert.classifiers import CLASSIFIERS, CifarResNet, LeNet, Normalize, ResNet50
from concert.errors import ConcertError


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def calibrated(module: nn.Module, images: torch.Tensor) -> nn.Module:
    """In eval mode, with batch-norm statistics of `images`: random ones would overflow."""
    with torch.no_grad():
        for _ in range(3):
            module.train()(images)
    return module.eval()


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (LeNet(), 431_080),
        (CifarResNet(20), 272_474),
        (CifarResNet(110), 1_730_714),
        (ResNet50(), 25_557_032),
    ],
)
def test_published_parameter_counts(module: nn.Module, count: int) -> None:
    assert parameters(module) == count


def test_cifar_resnet_has_the_keys_of_published_checkpoints() -> None:
    state = CifarResNet(110).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{n}" for n in norm}
    for stage in (1, 2, 3):
        for block in range(18):
            for part in (1, 2):
                expected.add(f"layer{stage}.{block}.conv{part}.weight")
                expected |= {f"layer{stage}.{block}.bn{part}.{n}" for n in norm}
    for stage in (2, 3):
        expected.add(f"layer{stage}.0.downsample.0.weight")
        expected |= {f"layer{stage}.0.downsample.1.{n}" for n in norm}
    assert set(state) == expected
    assert state["layer3.0.downsample.0.weight"].shape == (64, 32, 1, 1)
    assert state["fc.weight"].shape == (10, 64)


def test_resnet50_has_the_keys_of_torchvision() -> None:
    state = ResNet50().state_dict()
    assert len(state) == 320
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer2.3.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.num_batches_tracked": (),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    blocks = {key.rsplit(".", 2)[0] for key in state if ".conv" in key}
    assert blocks == {
        f"layer{stage}.{block}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)
    }
    assert sum("downsample.0" in key for key in state) == 4


def test_resnet50_strides_in_the_3x3_convolutions() -> None:
    network = ResNet50()
    for stage, stride in ((network.layer1, 1), (network.layer2, 2), (network.layer4, 2)):
        assert stage[0].conv1.stride == (1, 1)
        assert stage[0].conv2.stride == (stride, stride)
        assert stage[0].downsample[0].stride == (stride, stride)
        assert stage[1].conv2.stride == (1, 1)


def test_convolutions_start_he_normal_with_fan_out() -> None:
    torch.manual_seed(0)
    weight = CifarResNet(20).layer3[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("lenet", (1, 28, 28), {}),
        ("lenet", (3, 32, 32), {"image_size": 32}),
        ("lenet", (1, 20, 20), {"image_size": 20}),
        ("resnet20", (3, 32, 32), {}),
        ("resnet20", (1, 28, 28), {}),
        ("resnet50", (3, 64, 64), {}),
        ("resnet50", (1, 50, 70), {}),
    ],
)
def test_logits_of_any_images_in_any_memory_format(
    name: str, shape: tuple[int, int, int], options: dict[str, int]
) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, *shape)
    network = CLASSIFIERS[name](num_classes=7, in_channels=shape[0], **options)
    network = calibrated(network, images)
    with torch.no_grad():
        logits = network(images)
        network.to(memory_format=torch.channels_last)
        again = network(images.to(memory_format=torch.channels_last))
    assert logits.shape == (3, 7)
    assert bool(torch.isfinite(logits).all())
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-4)
    assert logits.std(dim=0).max() > 1e-3


def test_lenet_pools_before_relu_to_the_same_bits() -> None:
    torch.manual_seed(0)
    network, images = LeNet(), torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        features = F.max_pool2d(F.relu(network.conv1(images)), 2)
        features = F.max_pool2d(F.relu(network.conv2(features)), 2)
        expected = network.fc2(F.relu(network.fc1(features.flatten(1))))
        assert torch.equal(network(images), expected)


def test_basic_block_is_the_residual_of_its_parts() -> None:
    torch.manual_seed(0)
    block = CifarResNet(20).layer2[0].eval()
    features = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        body = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(features)))))
        assert torch.equal(block(features), F.relu(body + block.downsample(features)))


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    side = {"lenet": 28, "resnet50": 64}.get(name, 32)
    channels = 1 if name == "lenet" else 3
    network = CLASSIFIERS[name](num_classes=5, in_channels=channels).train()
    F.cross_entropy(network(torch.rand(2, channels, side, side)), torch.tensor([0, 1])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_normalize() -> None:
    layer = Normalize((0.5, 0.25, 0.0), (0.5, 2.0, 1.0))
    images = torch.rand(2, 3, 4, 5)
    out = layer(images)
    for channel, (mean, std) in enumerate([(0.5, 0.5), (0.25, 2.0), (0.0, 1.0)]):
        torch.testing.assert_close(out[:, channel], (images[:, channel] - mean) / std)
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []
    last = images.to(memory_format=torch.channels_last)
    assert layer(last).is_contiguous(memory_format=torch.channels_last)


def test_mistakes_are_one_line() -> None:
    for mistake, message in [
        (lambda: LeNet(image_size=15), "at least 16x16"),
        (lambda: LeNet()(torch.zeros(1, 1, 32, 32)), "takes 28x28 images, not 32x32"),
        (lambda: CifarResNet(18), "depth 6n \\+ 2"),
        (lambda: Normalize((0.5,), (0.5, 0.5)), "1 means but 2 stds"),
        (lambda: Normalize((0.5,), (0.0,)), "positive stds"),
        (lambda: Normalize((float("nan"),), (1.0,)), "finite means"),
    ]:
        with pytest.raises(ConcertError, match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)

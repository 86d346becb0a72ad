"""From a name, or the import path of anyone's class, to a classifier with its normalisation.

And to a denoiser before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from concert.classifiers.cifar_resnet import CifarResNet
from concert.classifiers.denoised import DnCNN
from concert.classifiers.lenet import LeNet
from concert.classifiers.normalize import Normalize
from concert.classifiers.resnet50 import ResNet50
from concert.errors import ConcertError, nearest
from concert.import_paths import construct, import_module_class

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "resnet20": partial(CifarResNet, 20),
    "resnet110": partial(CifarResNet, 110),
    "resnet50": ResNet50,
}

DENOISERS: dict[str, Callable[..., nn.Module]] = {"dncnn": DnCNN}


def build_classifier(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    init_args: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> nn.Module:
    """A classifier from (B, `in_channels`, H, W) images in [0, 1] to (B, `num_classes`) logits.

    `name` is one of `CLASSIFIERS`, or the import path of an `nn.Module` class ("package.Class"),
    which is called with `init_args` only; a path outside `concert` runs code that is not ours and
    is imported only with `trust`. With `mean` and `std` (one number per channel) the result is
    Sequential(Normalize, network), whose keys start with "1."; without them the bare network.
    Raises ConcertError for whatever does not exist or does not fit.
    """
    if (mean is None) != (std is None):
        raise ConcertError("normalisation needs both mean and std: give the other one, or neither")
    if mean is not None and len(mean) != in_channels:
        raise ConcertError(
            f"{len(mean)} normalisation means for images of {in_channels} channels: "
            "give one mean and std per channel"
        )
    arguments = dict(init_args or {})
    if "." in name:
        network = construct(
            "classifier", name, import_module_class("classifier", name, trust), arguments
        )
    elif name in CLASSIFIERS:
        arguments = {"num_classes": num_classes, "in_channels": in_channels, **arguments}
        network = construct("classifier", name, CLASSIFIERS[name], arguments)
    else:
        raise ConcertError(nearest("classifier", name, CLASSIFIERS))
    if mean is None or std is None:
        return network
    return nn.Sequential(Normalize(mean, std), network)


def build_denoiser(
    name: str, in_channels: int, init_args: Mapping[str, Any] | None = None, trust: bool = False
) -> nn.Module:
    """A denoiser of (B, `in_channels`, H, W) images, by name as in `build_classifier`."""
    arguments = dict(init_args or {})
    if "." in name:
        return construct("denoiser", name, import_module_class("denoiser", name, trust), arguments)
    if name not in DENOISERS:
        raise ConcertError(nearest("denoiser", name, DENOISERS))
    return construct("denoiser", name, DENOISERS[name], {"in_channels": in_channels, **arguments})

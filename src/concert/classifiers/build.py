"""From a name, or the import path of anyone's class, to a classifier with its normalisation.

And to a denoiser before it.
"""

from __future__ import annotations

import importlib
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
        network = _construct(name, _import_class(name, trust), arguments)
    elif name in CLASSIFIERS:
        arguments = {"num_classes": num_classes, "in_channels": in_channels, **arguments}
        network = _construct(name, CLASSIFIERS[name], arguments)
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
        return _construct(name, _import_class(name, trust), arguments)
    if name not in DENOISERS:
        raise ConcertError(nearest("denoiser", name, DENOISERS))
    return _construct(name, DENOISERS[name], {"in_channels": in_channels, **arguments})


def _import_class(path: str, trust: bool) -> Callable[..., nn.Module]:
    """The `nn.Module` class at an import path."""
    if not path.startswith("concert.") and not trust:
        raise ConcertError(
            f"'{path}' is code from outside concert: if you trust it, say so with --trust "
            "(trust=True in Python)"
        )
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    # Importing runs the module, which may fail in any way.
    except Exception as error:
        raise ConcertError(
            f"cannot import '{module_name}' ({_one_line(error)}): check the path and that it is "
            "installed or in PYTHONPATH"
        ) from error
    if not hasattr(module, class_name):
        classes = [n for n, value in vars(module).items() if _is_module_class(value)]
        raise ConcertError(f"in {module_name}: {nearest('classifier', class_name, classes)}")
    found = getattr(module, class_name)
    if not _is_module_class(found):
        raise ConcertError(f"'{path}' is not a torch.nn.Module class: name one that is")
    constructor: Callable[..., nn.Module] = found
    return constructor


def _construct(
    name: str, constructor: Callable[..., nn.Module], arguments: Mapping[str, Any]
) -> nn.Module:
    try:
        return constructor(**arguments)
    except ConcertError:
        raise
    # A class of the user may fail in any way.
    except Exception as error:
        raise ConcertError(
            f"cannot construct '{name}' with arguments {dict(arguments)}: {_one_line(error)}"
        ) from error


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

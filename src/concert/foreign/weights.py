"""The tensors of other projects' checkpoints: from their names and values to a network of ours.

Keys of Cohen et al. 2019, SmoothAdv and consistency begin with "1.", because the normalisation is
part of the model, and with "1.module." where the network ran on several devices. The normalisation
owns no tensors, so which one it was is not in the file: Cohen's subtracts mean and divides by std,
SmoothAdv's subtracts only the mean in most models, MACER has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from torch import Tensor, nn

from concert.data.known import Known
from concert.errors import ConcertError

Tensors = Mapping[str, Tensor]
Normalization = Literal["standard", "center", "none"]

# What wraps a network's own keys: Sequential(normalisation, network) and DataParallel.
WRAPPERS: Final = ("module.", "1.")
BATCH_COUNTER: Final = "num_batches_tracked"


def unwrapped(tensors: Tensors) -> tuple[dict[str, Tensor], bool]:
    """Tensors under the network's own keys, and whether a normalisation stood before it."""
    normalized = False
    while True:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), None)
        if wrapper is None:
            return dict(tensors), normalized
        normalized |= wrapper == "1."
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def named_as_in(network: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    """The tensors with or without their wrappers, whichever the network's own names are."""
    own = {name for name in network.state_dict() if not name.endswith(BATCH_COUNTER)}
    return dict(tensors) if own <= tensors.keys() else unwrapped(tensors)[0]


def check_fit(network: nn.Module, tensors: Tensors) -> None:
    """Refuse tensors whose names and shapes are not the network's own.

    Counters of batch norm, which checkpoints of old versions of torch lack, may be missing. Looks
    at no value, so the network may be on the meta device.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            if name.endswith(BATCH_COUNTER):
                continue
            raise ConcertError(_mismatch(f"the checkpoint has no '{name}'"))
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
            raise ConcertError(_mismatch(f"the checkpoint's '{name}' has shape {shapes}"))
    left = [name for name in tensors if name not in wanted]
    if left:
        raise ConcertError(_mismatch(f"the checkpoint's '{left[0]}' is not in the classifier"))


def fill(network: nn.Module, tensors: Tensors) -> None:
    """Load tensors into a network that they fit as in `check_fit`.

    Counters that are missing stay at 0. Floating point values of any precision are taken as the
    network's own. ConcertError for values that are not finite there, and for negative variances.
    """
    check_fit(network, tensors)
    wanted = network.state_dict()
    taken = {name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()}
    for name, tensor in taken.items():
        if not bool(tensor.isfinite().all()):
            raise ConcertError(
                f"the checkpoint's '{name}' has values that are not finite: it "
                "is damaged, or its training failed"
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ConcertError(
                f"the checkpoint's '{name}' has negative variances: it is damaged; give another one"
            )
    network.load_state_dict({**wanted, **taken})


def mean_and_std(
    choice: Normalization | None,
    normalized: bool,
    known: Known | None,
    data: str,
) -> tuple[list[float], list[float]] | None:
    """The normalisation in front of an imported network: (mean, std) per channel, or None.

    `choice` is the user's: "standard" (mean and std, Cohen), "center" (mean only, most models of
    SmoothAdv) or "none". Without one: none for a checkpoint whose model had no normalisation; one
    that had it is refused, because the file does not say which, and the wrong one costs all
    accuracy, unless the data set is known to be used without. `known`: what is known of it.
    """
    usual = None if known is None else known.mean_std
    if choice is None and normalized and (known is None or usual is not None):
        which = (
            f"--mean and --std ({data} has no usual ones) or --normalization none"
            if usual is None
            else "--normalization standard (mean and std: Cohen), center (mean only: most models "
            "of SmoothAdv) or none"
        )
        raise ConcertError(
            f"the checkpoint's model had a normalisation, and the file does not say which: give "
            f"{which}"
        )
    if choice is None or choice == "none":
        return None
    if usual is None:
        raise ConcertError(
            f"{data} has no usual mean and std: give --mean and --std, or --normalization none"
        )
    mean, std = usual
    return list(mean), list(std) if choice == "standard" else [1.0] * len(mean)


def _mismatch(what: str) -> str:
    return (
        f"{what}: the checkpoint is of another architecture; give the right one by "
        "--classifier.name and --classifier.init_args"
    )
